"""Token shards from documents. Run: python -m pytest tests/test_prepare_fineweb.py"""

import functools
import gzip
import http.server
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import documents
import prepare_fineweb
import sources
from core import common, data
from core.common import UserError

ROOT = Path(__file__).parent.parent
EOT = '<|endoftext|>'
HARD = ['', EOT, EOT[:-1], '<|endoftext|', '|>', 'a' + EOT + EOT + 'b', '\0', 'nul\0in\0side',
        '🙂🏳️‍🌈 ünï 漢字', ' ',
        '\n\n\n', 'tail  \n ', "I'll we've'd 12345 !!!", '\r\n\t\x1c\x85\u3000x',
        'x' * 3000, '\ufeffbom', '']


@functools.cache
def texts(n=400):
    """Documents of 0 to 2000 characters, hard ones among them, one of them longer than several shards."""
    draw = random.Random(0)
    words = ['the', 'of', 'Growing', 'layers', ',', '.', '', '\n', '\n\n', '1e-4', "don't", "I'm",
             'naïve', '模型', '🙂',
             '__init__', '"quoted"', '(x)']
    found = [' '.join(draw.choices(words, k=draw.randrange(300))) for _ in range(n)]
    found[7] = ' '.join(draw.choices(words, k=8000))
    for i, text in enumerate(HARD):
        found.insert(5 + 11 * i, text)
    return found + HARD


def reference(documents, name='gpt2'):
    """End-of-text and encode_ordinary of each document, one by one."""
    enc = data.get_tokenizer(name)
    return [token for text in documents for token in (enc.eot_token, *enc.encode_ordinary(text))]


def write_parquet(path, documents, rows=50, **changes):
    """A file with FineWeb-Edu's columns."""
    n = len(documents)
    columns = {'text': documents, 'id': [f'<urn:uuid:{i}>' for i in range(n)],
               'dump': ['CC-MAIN-2024-10'] * n,
               'url': ['https://example.org'] * n, 'file_path': ['s3://x'] * n, 'language': ['en'] * n,
               'language_score': [0.9] * n, 'token_count': [1] * n, 'score': [3.5] * n, 'int_score': [4] * n,
               **changes}
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path, row_group_size=rows)


@pytest.fixture
def source(tmp_path):
    """Three parquet files, one of them empty, that hold texts() in order; the pattern that finds them."""
    folder = tmp_path / 'source'
    folder.mkdir()
    write_parquet(folder / 'a.parquet', texts()[:150])
    write_parquet(folder / 'b.parquet', [], text=pa.array([], pa.string()))
    write_parquet(folder / 'c.parquet', texts()[150:], rows=1_000_000)
    return f'{folder}/*.parquet'


def prepare(monkeypatch, *flags):
    """Run main() in this process."""
    monkeypatch.setattr(sys, 'argv', ['prepare_fineweb.py', *map(str, flags)])
    prepare_fineweb.main()


def script(*flags, **env):
    """Run the script in a process of its own."""
    return subprocess.run([sys.executable, ROOT / 'prepare_fineweb.py', *map(str, flags)],
                          capture_output=True, text=True,
                          env={**os.environ, **env}, cwd=ROOT)


def shards_of(out):
    """The tokens of each shard, read without data.py, in the order of their numbers."""
    found = []
    for path in sorted(Path(out).glob('*.bin'), key=lambda p: int(p.stem.rsplit('_', 1)[1])):
        raw = path.read_bytes()
        assert struct.unpack('<3i', raw[:12]) == (20240520, 1, len(raw) // 2 - 512)
        found.append(np.frombuffer(raw[1024:], '<u2').tolist())
    return found


def tokens_of(out):
    return [token for shard in shards_of(out) for token in shard]


def files_of(out):
    """What is in a folder, without the lock's hidden files."""
    return {path.name: path.read_bytes() for path in Path(out).iterdir() if path.is_file()
            and path.name[0] != '.'}


def names_of(out):
    return sorted(name for name in os.listdir(out) if name[0] != '.')


def one_line_error(process):
    assert process.returncode == 2, process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'Traceback' not in process.stderr
    return lines[0]


# exactness


@pytest.mark.parametrize('shard_tokens', [997, 3000, 20_000])
def test_the_shards_are_end_of_text_and_encode_ordinary_of_every_document_in_order(tmp_path, source,
                                                                                   monkeypatch, shard_tokens):
    prepare(monkeypatch, f'--source={source}', f'--out={tmp_path}/out', f'--shard_tokens={shard_tokens}')
    shards, wanted = shards_of(tmp_path / 'out'), reference(texts())
    assert tokens_of(tmp_path / 'out') == wanted
    assert {len(s) for s in shards[:-1]} == {shard_tokens} and 0 < len(shards[-1]) <= shard_tokens
    assert len(shards) == -(-len(wanted) // shard_tokens)
    names = sorted(p.name for p in (tmp_path / 'out').glob('*.bin'))
    assert names == [f'shard_train_{i:06d}.bin' for i in range(1, len(shards))] + ['shard_val_000000.bin']


@pytest.mark.parametrize('chunk', [1, 300, 10**9])
def test_the_bytes_do_not_depend_on_workers_or_chunks(tmp_path, source, monkeypatch, chunk):
    monkeypatch.setattr(sources, 'CHUNK', chunk)
    for workers in (1, 2, 7):
        out = tmp_path / f'out{workers}'
        prepare(monkeypatch, f'--source={source}', f'--out={out}', '--shard_tokens=5000',
                f'--workers={workers}')
        assert tokens_of(out) == reference(texts())


def test_the_bytes_tokenizer_is_as_exact(tmp_path, source, monkeypatch):
    prepare(monkeypatch, f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=50000',
            '--tokenizer=bytes')
    assert tokens_of(tmp_path / 'out') == reference(texts(), 'bytes')
    meta = data.read_meta(str(tmp_path / 'out'))
    assert (meta['tokenizer'], meta['vocab_size'], meta['eot']) == ('bytes', 257, 256)


@pytest.mark.parametrize('compress', ['', '.gz', '.zst'])
def test_json_lines_compressed_or_not_give_the_same_tokens(tmp_path, monkeypatch, compress):
    lines = [json.dumps({'id': i, 'text': t}, ensure_ascii=i % 2 == 0) for i, t in enumerate(texts())]
    # a blank line; none at the end
    parts = [('\n'.join(lines[:200]) + '\n\n').encode(), '\n'.join(lines[200:]).encode()]
    packed = {'': b''.join, '.gz': lambda p: b''.join(map(gzip.compress, p)),
              # two members
              '.zst': lambda p: b''.join(bytes(pa.Codec('zstd').compress(x)) for x in p)}[compress](parts)
    (tmp_path / f'a.jsonl{compress}').write_bytes(packed)
    prepare(monkeypatch, f'--source={tmp_path}/a.jsonl{compress}', f'--out={tmp_path}/out',
            '--shard_tokens=5000')
    assert tokens_of(tmp_path / 'out') == reference(texts())


def test_a_lone_surrogate_is_encoded_as_encode_ordinary_does(tmp_path, monkeypatch):
    documents = ['a\ud800b', 'ordinary ' * 50]
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'text': t}) for t in documents))
    prepare(monkeypatch, f'--source={tmp_path}/a.jsonl', f'--out={tmp_path}/out', '--shard_tokens=10')
    assert tokens_of(tmp_path / 'out') == reference(documents)


def test_a_text_file_is_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'CHUNK', 500)
    documents = ['\r\n'.join(texts()), '', '\n'.join(texts()), 'no_white_space' * 300]
    for i, text in enumerate(documents):
        (tmp_path / f'{i}.txt').write_text(text, encoding='utf-8', newline='')
    (tmp_path / '1.txt').rename(tmp_path / '1.txt.gz')
    (tmp_path / '1.txt.gz').write_bytes(gzip.compress(b''))
    prepare(monkeypatch, f'--source={tmp_path}/*.txt*', f'--out={tmp_path}/out', '--shard_tokens=7000')
    assert tokens_of(tmp_path / 'out') == reference(documents)


def test_a_text_is_cut_only_where_its_tokens_stay_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'CHUNK', 40)
    enc, draw, cuts = data.get_tokenizer('gpt2'), random.Random(1), 0
    alphabet = [' ', '\n', '\t', '\r\n', '\x1c', '\x85', '\u3000', '\u2028', '\xa0', "'s", "'", 'a',
                'Word', '7', '!', '漢',
                '🙂', '\0', EOT, 'x' * 60]
    for i in range(300):
        text = ''.join(draw.choices(alphabet, k=draw.randrange(400)))
        (tmp_path / 'a.txt').write_text(text, encoding='utf-8', newline='')
        pieces = [piece for piece, _ in sources.read(str(tmp_path / 'a.txt'), 0)]
        assert ''.join(pieces) == text
        assert [t for piece in pieces for t in enc.encode_ordinary(piece)] == enc.encode_ordinary(text), (
            i,
            text,
        )
        cuts += len(pieces) - 1
    assert cuts > 1000


@pytest.mark.parametrize('limit', [3001, 6000, 7777])
def test_max_tokens_is_exact(tmp_path, source, monkeypatch, limit):
    prepare(monkeypatch, f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=3000',
            f'--max_tokens={limit}')
    assert tokens_of(tmp_path / 'out') == reference(texts())[:limit]
    assert data.read_meta(str(tmp_path / 'out'))['complete']


def test_what_is_made_is_what_train_reads(tmp_path, source, monkeypatch):
    prepare(monkeypatch, f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000')
    wanted = reference(texts())
    for split, tokens in (('val', wanted[:4000]), ('train', wanted[4000:8000])):
        found = data.Split(str(tmp_path / 'out'), split, 100, 50257)
        assert found.read(np.arange(39)).tolist() == [tokens[i : i + 101] for i in range(0, 3900, 100)]


def test_meta_json_says_what_is_there(tmp_path, source, monkeypatch, capsys):
    prepare(monkeypatch, f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000')
    meta, wanted, n = data.read_meta(str(tmp_path / 'out')), reference(texts()), len(texts())
    assert (meta['tokenizer'], meta['vocab_size'], meta['eot'], meta['complete']) == ('gpt2', 50257, 50256,
                                                                                      True)
    assert meta['sources'] == [{'file': str(p), 'bytes': p.stat().st_size}
                               for p in sorted((tmp_path / 'source').iterdir())]
    assert [s['tokens'] for s in meta['shards']] == [len(s) for s in shards_of(tmp_path / 'out')]
    assert [s['documents'] for s in meta['shards']] == [s.count(50256) for s in shards_of(tmp_path / 'out')]
    assert meta['tokens'] == {'val': 4000, 'train': len(wanted) - 4000}
    assert sum(meta['documents'].values()) == n
    first, last = capsys.readouterr().out.splitlines()
    assert 'needs about' in first and 'GB free' in first and '3 files' in first
    assert f'{len(meta["shards"])} shards, {n:,} documents, {len(wanted):,} tokens' in last
    assert (
        f'shard_train_{len(meta["shards"]) - 1:06d}.bin, is partial: {len(wanted) % 4000:,} of 4,000' in last
    )


# where documents begin and end


def test_a_position_is_that_of_the_token_after_the_shard(tmp_path, monkeypatch):
    documents = ['x' * 9, 'y' * 9, 'z' * 19, '', 'w' * 8] * 4  # with end-of-text 10, 10, 20, 1 and 9 tokens
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'text': t}) for t in documents[:10]))
    (tmp_path / 'b.jsonl').write_text('\n'.join(json.dumps({'text': t}) for t in documents[10:]))
    prepare(monkeypatch, f'--source={tmp_path}/*.jsonl', f'--out={tmp_path}/out', '--shard_tokens=10',
            '--tokenizer=bytes')
    meta = data.read_meta(str(tmp_path / 'out'))
    found = [shard['next'] for shard in meta['shards'][:-1]]
    # at a document's first token: that document
    one_round = [[0, 1, 0], [0, 2, 0], [0, 2, 10], [0, 3, 0], [0, 5, 0]]
    again = [[0, n + 5, at] for _, n, at in one_round]
    second = [[1, n, at] for _, n, at in one_round + again]
    assert found == (one_round + again + second)[:-1]
    assert meta['shards'][-1]['next'] in ([1, 10, 0], [2, 0, 0])


# held out by documents


def documents_in(out, split, eot=256):
    """The documents of a split, each as a tuple of its tokens."""
    found = []
    for path in sorted(Path(out).glob(f'*_{split}_*.bin')):
        for token in np.fromfile(path, np.uint16, offset=1024).tolist():
            if token == eot:
                found.append([])
            found[-1].append(token)
    return [tuple(document) for document in found]


def tuples(documents, name='bytes'):
    enc = data.get_tokenizer(name)
    return [(enc.eot_token, *enc.encode_ordinary(text)) for text in documents]


@pytest.fixture(scope='module')
def articles():
    """2000 documents of 0 to 399 bytes, each of them another one."""
    draw = random.Random(4)
    return [f'{i} ' + 'x' * draw.randrange(395) for i in range(2000)]


def write_articles(folder, articles, kind):
    folder.mkdir()
    parts = articles[:300], articles[300:1900], articles[1900:]  # files of different sizes
    for i, part in enumerate(parts):
        lines = '\n'.join(json.dumps({'text': text}) for text in part)
        if kind == 'parquet':
            write_parquet(folder / f'{i}.parquet', part)
        elif kind == 'jsonl.gz':
            (folder / f'{i}.jsonl.gz').write_bytes(gzip.compress(lines.encode()))
        elif kind == 'json':
            (folder / f'{i}.json').write_text(f'[{",".join(lines.splitlines())}]')
        else:
            (folder / f'{i}.{kind}').write_text(lines)
    return f'--source={folder}'


@pytest.mark.parametrize('kind', ['jsonl', 'parquet', 'jsonl.gz', 'json'])
def test_documents_are_held_out_whole_and_evenly_over_the_source(tmp_path, articles, monkeypatch, kind):
    source = write_articles(tmp_path / 'source', articles, kind)
    prepare(monkeypatch, source, f'--out={tmp_path}/out', '--val_tokens=20_000', '--tokenizer=bytes')
    val, train = (documents_in(tmp_path / 'out', split) for split in ('val', 'train'))
    wanted = tuples(articles)
    place = {document: i for i, document in enumerate(wanted)}
    assert sorted([*val, *train], key=place.get) == wanted  # every document, once
    for split in (val, train):
        assert split == sorted(split, key=place.get)  # in the order of the source
    assert sum(map(len, val)) == pytest.approx(20_000, abs=400)
    tenths = np.histogram([place[document] for document in val], bins=10, range=(0, 2000))[0]
    assert min(tenths) >= 6 and max(tenths) <= 18, tenths
    # neither the long ones nor the short ones
    assert sum(map(len, val)) / len(val) == pytest.approx(200, rel=0.2)
    meta = data.read_meta(str(tmp_path / 'out'))
    assert meta['complete'] and meta['tokens'] == {'val': sum(map(len, val)), 'train': sum(map(len, train))}
    assert meta['documents'] == {'val': len(val), 'train': len(train)}


def test_what_is_held_out_does_not_depend_on_workers_or_chunks(tmp_path, articles, monkeypatch):
    source = write_articles(tmp_path / 'source', articles, 'jsonl.gz')
    found = []
    for i, (chunk, workers) in enumerate([(1, 1), (5000, 7), (10**9, 2)]):
        monkeypatch.setattr(sources, 'CHUNK', chunk)
        out = tmp_path / f'out{i}'
        prepare(monkeypatch, source, f'--out={out}', '--val_tokens=9000', '--shard_tokens=20000',
                f'--workers={workers}')
        found.append({name: raw for name, raw in files_of(out).items() if name != 'meta.json'})
    assert found[0] == found[1] == found[2] and len(found[0]) > 3


@pytest.mark.parametrize('limit', [0, 200_000])
def test_with_held_out_documents_too_it_goes_on_after_any_shard(tmp_path, articles, monkeypatch, limit):
    monkeypatch.setattr(sources, 'CHUNK', 1000)
    source = write_articles(tmp_path / 'source', articles, 'jsonl')
    flags = [source, '--tokenizer=bytes', '--shard_tokens=40961', '--val_tokens=20_000',
             f'--max_tokens={limit}']
    prepare(monkeypatch, *flags, f'--out={tmp_path}/whole')
    whole, meta = files_of(tmp_path / 'whole'), data.read_meta(str(tmp_path / 'whole'))
    assert sum(meta['tokens'].values()) == (limit or sum(len(t) + 1 for t in articles))
    assert meta['tokens']['val'] == pytest.approx(20_000, abs=400)
    assert len(meta['shards']) > 4
    # What a kill leaves: meta.json as after the training shard number n, the held-out shard as after number n
    # + ahead.
    states, save = [], prepare_fineweb.save

    def remember(args, meta):
        save(args, meta)
        states.append(files_of(args.out))

    with monkeypatch.context() as patch:
        patch.setattr(prepare_fineweb, 'save', remember)
        prepare(monkeypatch, *flags, f'--out={tmp_path}/watched')
    assert files_of(tmp_path / 'watched') == whole and len(states) > 5
    written, write = [], data.write_shard
    monkeypatch.setattr(prepare_fineweb, 'write_shard', lambda path, tokens: (written.append(Path(path).name),
                                                                              write(path, tokens)))
    for n, state in enumerate(states):
        finished = {shard['file'] for shard in json.loads(state['meta.json'])['shards'][1:]}
        for ahead in (0, 1):
            later = states[min(n + ahead, len(states) - 1)]
            out = tmp_path / f'out{n}_{ahead}'
            out.mkdir()
            for name, raw in {**later, 'meta.json': state['meta.json'],
                              'shard_train_000009.bin.tmp': b'half'}.items():
                (out / name).write_bytes(raw)
            written.clear()
            prepare(monkeypatch, *flags, f'--out={out}')
            assert {k: v for k, v in files_of(out).items() if not k.endswith('.tmp')} == whole, (n, ahead)
            assert not finished & set(written)  # no training shard is made twice


def test_the_documents_after_a_full_shard_may_be_held_out_and_stay_so(tmp_path, monkeypatch):
    texts = ['x' * 99, 'aa', 'bb']  # the first one fills a shard, and the others are all held out
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'text': text}) for text in texts))
    flags = [f'--source={tmp_path}/a.jsonl', '--tokenizer=bytes', '--shard_tokens=100', '--val_tokens=90']
    prepare(monkeypatch, *flags, f'--out={tmp_path}/whole')
    whole = files_of(tmp_path / 'whole')
    assert documents_in(tmp_path / 'whole', 'val') == tuples(texts[1:])
    assert documents_in(tmp_path / 'whole', 'train') == tuples(texts[:1])
    write, written = data.write_shard, []

    def write_and_stop(path, tokens):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_fineweb, 'write_shard', write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(monkeypatch, *flags, f'--out={tmp_path}/out')
    assert not data.read_meta(str(tmp_path / 'out'))['complete']
    prepare(monkeypatch, *flags, f'--out={tmp_path}/out')
    assert files_of(tmp_path / 'out') == whole


def test_a_missing_held_out_shard_is_made_again(tmp_path, articles, monkeypatch):
    source = write_articles(tmp_path / 'source', articles, 'jsonl')
    flags = [source, f'--out={tmp_path}/out', '--tokenizer=bytes', '--shard_tokens=100000',
             '--val_tokens=20_000']
    prepare(monkeypatch, *flags)
    whole = files_of(tmp_path / 'out')
    for name in ('shard_val_000000.bin', 'shard_train_000001.bin', 'shard_train_000003.bin'):
        (tmp_path / 'out' / name).unlink()
        prepare(monkeypatch, *flags)
        assert files_of(tmp_path / 'out') == whole


@pytest.mark.parametrize('tokenizer, n', [('bytes', 60_000), ('gpt2', 20_000)])
def test_of_a_single_text_file_pieces_are_held_out_and_no_token_is_lost(tmp_path, monkeypatch, tokenizer, n):
    text = ' '.join(str(i) for i in range(200_000))  # every word says where it stands
    (tmp_path / 'book.txt').write_text(text)
    flags = [f'--source={tmp_path}/book.txt', f'--tokenizer={tokenizer}', f'--val_tokens={n}']
    prepare(monkeypatch, *flags, f'--out={tmp_path}/out')
    tokens = {split: np.fromfile(path, np.uint16, offset=1024).tolist() for split in ('val', 'train')
              for path in (tmp_path / 'out').glob(f'*_{split}_*')}
    enc = data.get_tokenizer(tokenizer)
    words = enc.decode(tokens['val']).split()
    assert len(tokens['val']) == pytest.approx(n, rel=0.1)
    jumps = [i for i in range(1, len(words)) if int(words[i]) != int(words[i - 1]) + 1]
    assert 6 <= len(jumps) <= 40  # pieces of a page or more, not sentences
    tenths = np.histogram([int(word) for word in words], bins=10, range=(0, 200_000))[0]
    assert min(tenths) > len(words) / 25
    assert sorted(tokens['val'] + tokens['train']) == sorted([enc.eot_token, *enc.encode_ordinary(text)])
    assert sorted(map(int, words + enc.decode(tokens['train'][1:]).split())) == list(range(200_000))


def test_of_many_text_files_whole_ones_are_held_out(tmp_path, monkeypatch):
    documents = [f'{i} ' + 'word ' * 300 for i in range(60)]
    for i, text in enumerate(documents):
        (tmp_path / f'{i:02d}.md').write_text(text)
    prepare(monkeypatch, f'--source={tmp_path}', f'--out={tmp_path}/out', '--tokenizer=bytes',
            '--val_tokens=9000')
    val, train = (documents_in(tmp_path / 'out', split) for split in ('val', 'train'))
    assert sorted(val + train) == sorted(tuples(documents)) and 5 <= len(val) <= 7


@pytest.mark.parametrize('sizes, n', [([1000] * 3, 100), ([10, 10, 5000], 50), ([5000, 10, 10], 50),
                                      ([1, 1], 1),
                                      ([900, 100], 999)])
def test_however_few_the_documents_some_are_held_out_and_some_train(tmp_path, monkeypatch, sizes, n):
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'text': 'x' * (size - 1)}) for size in sizes))
    prepare(monkeypatch, f'--source={tmp_path}/a.jsonl', f'--out={tmp_path}/out', '--tokenizer=bytes',
            f'--val_tokens={n}')
    tokens = data.read_meta(str(tmp_path / 'out'))['tokens']
    assert tokens['val'] > 0 and tokens['train'] > 0 and sum(tokens.values()) == sum(sizes)


def test_one_document_alone_cannot_be_shared_out(tmp_path, monkeypatch):
    (tmp_path / 'a.jsonl').write_text(json.dumps({'text': 'x' * 999}))
    with pytest.raises(UserError, match=r'all in its first document.* smaller --shard_tokens'):
        prepare(monkeypatch, f'--source={tmp_path}/a.jsonl', f'--out={tmp_path}/out',
                '--tokenizer=bytes', '--val_tokens=99')
    assert not list((tmp_path / 'out').glob('*.bin'))


# a corpus no larger than a shard


@pytest.mark.parametrize('kind', ['jsonl', 'parquet', 'jsonl.gz', 'txt'])
def test_a_corpus_smaller_than_a_shard_is_told_before_the_work(tmp_path, articles, monkeypatch, kind):
    source = write_articles(tmp_path / 'source', articles, kind)
    monkeypatch.setattr(documents, 'encode', None)  # there is no work before it is said
    for flag in ('--shard_tokens=1_000_000', '--shard_tokens=100_000_000'):
        with pytest.raises(UserError, match=r'at most .* smaller --shard_tokens, .* or hold out documents '
                                            r'.*--val_tokens=N'):
            prepare(monkeypatch, source, f'--out={tmp_path}/out', flag)
        assert not (tmp_path / 'out').exists()
    with pytest.raises(UserError, match='--val_tokens=1000000 leaves nothing to train on'):
        prepare(monkeypatch, source, f'--out={tmp_path}/out', '--val_tokens=1_000_000')
    assert not (tmp_path / 'out').exists()


def test_a_corpus_that_may_be_too_small_is_said_to_be_before_the_work(tmp_path, articles, monkeypatch,
                                                                      capsys):
    source = write_articles(tmp_path / 'source', ['word ' * 80] * 2000, 'jsonl')
    with pytest.raises(UserError, match=r'the source holds .* tokens'):
        prepare(monkeypatch, source, f'--out={tmp_path}/out', '--shard_tokens=300_000')
    assert 'PERHAPS TOO SMALL' in capsys.readouterr().out


@pytest.mark.parametrize('more', [0, 1])
def test_a_source_of_exactly_one_shard_gets_advice_that_can_be_followed(tmp_path, monkeypatch, more):
    (tmp_path / 'a.jsonl').write_text(json.dumps({'text': 'word ' * 100 + 'é' * more}))
    n = len(reference(['word ' * 100 + 'é' * more]))
    flags = [f'--source={tmp_path}/a.jsonl', f'--out={tmp_path}/out']
    with pytest.raises(UserError, match=f'holds {n} tokens.* choose a smaller --shard_tokens'):
        prepare(monkeypatch, *flags, f'--shard_tokens={n}')
    assert names_of(tmp_path / 'out') == ['meta.json']
    with pytest.raises(UserError, match='is not complete; finish it with'):
        data.Split(str(tmp_path / 'out'), 'val', 8, 50257)
    prepare(monkeypatch, *flags, f'--shard_tokens={n - 1}')
    assert [len(shard) for shard in shards_of(tmp_path / 'out')] == [n - 1, 1]


# sources of every kind


def test_a_folder_with_a_file_of_every_kind_and_empty_ones_is_one_corpus(tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'corpus'
    folder.mkdir()
    write_parquet(folder / 'a.parquet', ['one', 'two'], text=pa.array(['one', 'two']).dictionary_encode())
    (folder / 'b.jsonl').write_text('{"text": "three"}\n')
    (folder / 'c.ndjson').write_text('{"text": "four"}')
    (folder / 'd.json').write_text('[{"text": "five"}, {"text": "six"}]')
    (folder / 'e.json.gz').write_bytes(gzip.compress(b'{"text": "seven"}\n{"text": "eight"}') + bytes(99))
    (folder / 'f.md').write_text('# nine')
    (folder / 'g.txt').touch()
    for name in ('h.jsonl', 'i.parquet', 'j.json'):
        (folder / name).touch()
    (folder / 'picture.png').write_bytes(b'not text')
    prepare(monkeypatch, f'--source={folder}', f'--out={tmp_path}/out', '--shard_tokens=10',
            '--tokenizer=bytes')
    wanted = ['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', '# nine', '']
    assert tokens_of(tmp_path / 'out') == reference(wanted, 'bytes')
    first = capsys.readouterr().out.splitlines()[0]
    assert (
        '10 files (2 .parquet, 2 .jsonl, 1 .ndjson, 2 .json, 1 .json.gz, 1 .md, 1 .txt; 4 of them without a '
        'byte)'
        in first
    )


def test_the_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.txt').write_text('some text')
    prepare(monkeypatch, '--source=~/*.txt', '--out=~/out', '--shard_tokens=5', '--tokenizer=bytes')
    assert tokens_of(tmp_path / 'out') == reference(['some text'],
                                                    'bytes') and names_of(tmp_path) == ['a.txt', 'out']


def test_shards_that_are_made_inside_the_source_folder_are_no_source(tmp_path, monkeypatch, capsys):
    for i in range(3):
        (tmp_path / f'{i}.jsonl').write_text(json.dumps({'text': f'text {i}'}))
    monkeypatch.chdir(tmp_path)
    flags = ['--source=.', '--out=shards', '--shard_tokens=5', '--tokenizer=bytes']
    prepare(monkeypatch, *flags)
    whole = files_of('shards')
    (tmp_path / 'shards' / 'shard_train_000002.bin').unlink()
    for said in ('is missing or damaged', 'complete already'):
        prepare(monkeypatch, *flags)
        assert said in capsys.readouterr().out and files_of('shards') == whole
    (tmp_path / 'shards' / 'a').mkdir()
    with pytest.raises(UserError, match='no file matches shards/a'):
        prepare(monkeypatch, '--source=shards/a', '--out=new')


@pytest.mark.parametrize('patterns', [['a.jsonl', 'none.jsonl'], ['empty', 'a.jsonl']])
def test_of_several_patterns_each_must_match_something(tmp_path, monkeypatch, patterns):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.jsonl').write_text('{"text": "a few words"}')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=r'no file matches (none\.jsonl|empty)'):
        prepare(monkeypatch, '--source', *patterns, '--out=out', '--shard_tokens=5')


# two at once, and one that is stopped


def test_a_second_process_in_the_folder_is_refused_by_host_and_number(tmp_path, source):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000', '--tokenizer=bytes']
    with common.locked(str(tmp_path / 'out')):
        found = script(*flags)
    assert re.search(rf'out is in use by .*{os.getpid()} on {socket.gethostname()}', one_line_error(found))
    assert not list((tmp_path / 'out').glob('*.bin'))


def test_the_lock_is_held_while_shards_are_made_and_a_dead_process_holds_none(tmp_path, source, monkeypatch):
    out = tmp_path / 'out'
    write, refused = data.write_shard, []

    def write_and_look(path, tokens):
        with pytest.raises(UserError, match='in use'), common.locked(str(out)):
            pass
        refused.append(path)
        write(path, tokens)

    monkeypatch.setattr(prepare_fineweb, 'write_shard', write_and_look)
    out.mkdir()
    (out / '.lock').touch()  # what a killed process leaves
    (out / '.lock_owner').write_text('process 1 on elsewhere')
    prepare(monkeypatch, f'--source={source}', f'--out={out}', '--shard_tokens=4000')
    assert len(refused) > 3 and tokens_of(out) == reference(texts())


LONG = """
import documents, prepare_fineweb
documents.PATIENCE = 0.1
prepare_fineweb.run_main(prepare_fineweb.main)
"""


@pytest.mark.parametrize('kind', ['jsonl', 'txt'])
def test_a_long_word_is_named_and_the_first_ctrl_c_is_heard(tmp_path, kind):
    word = 'ab' * 1_000_000  # many minutes of tiktoken's time
    lines = ['{"text": "fine"}', json.dumps({'text': f'some words, then {word}'})]
    path = tmp_path / f'a.{kind}'
    path.write_text('\n'.join(lines) if kind == 'jsonl' else f'some words, then {word}')
    command = [sys.executable, '-c', LONG, f'--source={path}', f'--out={tmp_path}/out', '--shard_tokens=1000']
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          cwd=ROOT) as process:
        said = ''
        for line in process.stderr:
            said += line
            if 'takes long' in line:
                break
        assert (
            f'{path}, document {1 if kind == "jsonl" else 0}' in said
            and 'a word of 2,000,000 characters' in said
        ), said
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT  # of the signal itself: a loop in a shell ends, too
    assert 'stopped; the same command goes on' in rest and 'Traceback' not in rest


def test_stopped_by_ctrl_c_it_goes_on_to_the_same_bytes(tmp_path, articles, monkeypatch):
    source = write_articles(tmp_path / 'source', articles, 'jsonl')
    flags = [source, '--tokenizer=bytes', '--shard_tokens=30_000']
    prepare(monkeypatch, *flags, f'--out={tmp_path}/whole')
    write, written = data.write_shard, []

    def write_and_stop(path, tokens):
        write(path, tokens)
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_fineweb, 'write_shard', write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(monkeypatch, *flags, f'--out={tmp_path}/out')
    assert len(list((tmp_path / 'out').glob('*.bin'))) == 3
    with pytest.raises(UserError, match='is not complete; finish it with'):
        data.Split(str(tmp_path / 'out'), 'train', 8, 257)
    prepare(monkeypatch, *flags, f'--out={tmp_path}/out')
    assert files_of(tmp_path / 'out') == files_of(tmp_path / 'whole')


# resuming


@pytest.mark.parametrize('kind', ['parquet', 'jsonl', 'txt'])
def test_resumed_behind_any_shard_it_ends_in_the_same_bytes(tmp_path, source, monkeypatch, kind):
    monkeypatch.setattr(sources, 'CHUNK', 1000)
    if kind == 'jsonl':
        source = tmp_path / 'a.jsonl'
        source.write_text('\n\n'.join(json.dumps({'text': t}) for t in texts()))
    if kind == 'txt':
        (tmp_path / 'a.txt').write_text('\n'.join(texts()), encoding='utf-8', newline='')
        (tmp_path / 'b.txt').write_text('\n'.join(texts()[::-1]), encoding='utf-8', newline='')
        source = tmp_path / '[ab].txt'
    flags = [f'--source={source}', '--tokenizer=bytes', '--shard_tokens=40961']
    prepare(monkeypatch, *flags, f'--out={tmp_path}/whole')
    whole, meta = files_of(tmp_path / 'whole'), data.read_meta(str(tmp_path / 'whole'))
    for n in range(len(meta['shards'])):
        out = tmp_path / f'out{n}'
        out.mkdir()
        for shard in meta['shards'][: n + 1]:  # one more than meta.json knows of, and a torn one
            (out / shard['file']).write_bytes(whole[shard['file']])
        (out / f'shard_train_{n + 1:06d}.bin.tmp').write_bytes(b'torn')
        data.write_meta(str(out), {**meta, 'complete': False, 'shards': meta['shards'][:n]})
        prepare(monkeypatch, *flags, f'--out={out}')
        assert {k: v for k, v in files_of(out).items() if not k.endswith('.tmp')} == whole


def test_killed_at_twenty_random_moments_it_ends_in_the_same_bytes_and_repeats_no_shard(tmp_path):
    for i in range(10, 22):
        write_parquet(tmp_path / f'{i}.parquet', texts(), rows=37)
    flags = [sys.executable, ROOT / 'prepare_fineweb.py', f'--source={tmp_path}/*.parquet',
             '--tokenizer=bytes',
             '--shard_tokens=100000']

    def start(out):
        """A run that has printed its first line: what follows is work."""
        process = subprocess.Popen([*flags, f'--out={out}'], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        assert process.stdout.readline()
        return process

    with start(tmp_path / 'whole') as process:
        assert process.wait() == 0
    whole = files_of(tmp_path / 'whole')
    assert len(whole) > 20
    draw, kills, out_number, hits = random.Random(5), 0, 0, set()
    while kills < 20:
        out, finished = tmp_path / f'out{out_number}', {}
        while True:
            with start(out) as process:
                # After so many more shards, not so many seconds: machines differ.
                target = len(finished) + draw.randint(0, 6) if kills < 20 else len(whole) + 1
                while process.poll() is None and len(list(out.glob('*.bin'))) < target:
                    time.sleep(0.001)
                process.send_signal(signal.SIGKILL)
                code = process.wait()
            assert code in (0, -signal.SIGKILL)
            for name, stamp in finished.items():
                assert (out / name).stat().st_mtime_ns == stamp  # written once
            meta = data.read_meta(str(out))
            finished = {s['file']: (out / s['file']).stat().st_mtime_ns for s in meta['shards']}
            for name in finished:
                assert (out / name).read_bytes() == whole[name]
            hits.add(len(finished))
            if code == 0:
                break
            kills += 1
        assert files_of(out) == whole
        out_number += 1
    assert len(hits) > 5  # the moments were spread over the run


def test_a_missing_or_torn_shard_is_made_again(tmp_path, source, monkeypatch, capsys):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000']
    prepare(monkeypatch, *flags)
    whole = files_of(tmp_path / 'out')
    for spoil in (lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-10])):
        spoil(tmp_path / 'out' / 'shard_train_000002.bin')
        prepare(monkeypatch, *flags)
        assert 'shard_train_000002.bin is missing or damaged' in capsys.readouterr().out
        assert files_of(tmp_path / 'out') == whole


def test_no_shard_of_a_source_that_was_longer_stays(tmp_path, monkeypatch):
    for i in range(4):
        (tmp_path / f'{i}.jsonl').write_text(json.dumps({'text': 'x' * 99}))
    flags = [f'--source={tmp_path}/*.jsonl', f'--out={tmp_path}/out', '--shard_tokens=50',
             '--tokenizer=bytes']
    prepare(monkeypatch, *flags)
    assert len(shards_of(tmp_path / 'out')) == 8
    (tmp_path / 'out' / 'shard_train_000003.bin').unlink()
    (tmp_path / '3.jsonl').write_text(json.dumps({'text': 'y'}))  # none of it is in the shards 0 to 2
    prepare(monkeypatch, *flags)
    assert tokens_of(tmp_path / 'out') == reference(['x' * 99] * 3 + ['y'], 'bytes')
    assert len(shards_of(tmp_path / 'out')) == 7


def test_with_no_shard_made_yet_the_options_can_be_changed(tmp_path, source, monkeypatch):
    with pytest.raises(UserError, match='choose a smaller --shard_tokens'):
        prepare(monkeypatch, f'--source={source}', f'--out={tmp_path}/out')
    prepare(monkeypatch, f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000')
    assert tokens_of(tmp_path / 'out') == reference(texts())


def test_a_finished_folder_is_left_alone(tmp_path, source, monkeypatch, capsys):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000']
    prepare(monkeypatch, *flags)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').iterdir()}
    capsys.readouterr()
    prepare(monkeypatch, *flags)
    assert 'complete already' in capsys.readouterr().out
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').iterdir()}  # the lock's files too


@pytest.mark.parametrize('name, value', [('shard_tokens', 5000), ('max_tokens', 9000), ('tokenizer', 'bytes'),
                                         ('source', 'other/*.parquet'), ('sample', '100BT')])
def test_other_options_in_the_same_folder_are_refused_by_name(tmp_path, source, monkeypatch, name, value):
    flags = {'source': source, 'out': tmp_path / 'out', 'shard_tokens': 4000}
    prepare(monkeypatch, *[f'--{k}={v}' for k, v in flags.items()])
    before = files_of(tmp_path / 'out')
    with pytest.raises(UserError, match=f'was made with --{name}='):
        prepare(monkeypatch, *[f'--{k}={v}' for k, v in {**flags, name: value}.items()])
    assert files_of(tmp_path / 'out') == before


def test_a_changed_source_file_is_refused_by_name(tmp_path, source, monkeypatch):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000']
    prepare(monkeypatch, *flags)
    write_parquet(tmp_path / 'source' / 'c.parquet', ['other'])
    with pytest.raises(UserError, match=r'c\.parquet has changed since'):
        prepare(monkeypatch, *flags)


def test_a_finished_folder_whose_sources_are_gone_is_complete(tmp_path, source, monkeypatch, capsys):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000']
    prepare(monkeypatch, *flags)
    for name in ('a.parquet', 'b.parquet', 'c.parquet'):
        (tmp_path / 'source' / name).unlink()
        capsys.readouterr()
        prepare(monkeypatch, *flags)
        assert 'complete already' in capsys.readouterr().out
    (tmp_path / 'out' / 'shard_train_000002.bin').unlink()  # now they are needed
    with pytest.raises(UserError, match='no file matches'):
        prepare(monkeypatch, *flags)


def test_a_source_that_is_needed_and_gone_is_named(tmp_path, source, monkeypatch):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000']
    prepare(monkeypatch, *flags)
    (tmp_path / 'out' / 'shard_train_000002.bin').unlink()
    (tmp_path / 'source' / 'a.parquet').unlink()
    with pytest.raises(UserError, match=r'a\.parquet has changed since .*, or is gone'):
        prepare(monkeypatch, *flags)


@pytest.mark.parametrize('spoil', [{'shards': 3}, {'shards': [{'file': 'x'}]}, {'sources': None},
                                   {'options': []},
                                   {'complete': 1}, {'shards': [{'file': 'x_val_0.bin', 'tokens': 5}]}])
def test_a_damaged_meta_json_is_one_clear_line(tmp_path, source, monkeypatch, spoil):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000']
    prepare(monkeypatch, *flags)
    path = tmp_path / 'out' / 'meta.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoil}))
    with pytest.raises(UserError, match=r"not a meta\.json|this script didn't make"):
        prepare(monkeypatch, *flags)


def test_a_source_file_that_came_later_is_refused_by_name(tmp_path, source, monkeypatch):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000']
    prepare(monkeypatch, *flags)
    write_parquet(tmp_path / 'source' / 'd.parquet', ['other'])
    with pytest.raises(UserError, match=r'complete without .*d\.parquet'):
        prepare(monkeypatch, *flags)


@pytest.mark.parametrize('name', ['shard_val_000000.bin', 'edufineweb_train_000001.npy', 'meta.json'])
def test_data_of_someone_elses_is_never_overwritten(tmp_path, source, monkeypatch, name):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / name).write_text('{"tokenizer": "bytes", "vocab_size": 257, "eot": 256}')
    before = files_of(tmp_path / 'out')
    with pytest.raises(UserError, match="didn't make"):
        prepare(monkeypatch, f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000')
    assert files_of(tmp_path / 'out') == before


def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_room(tmp_path, source, monkeypatch):
    (tmp_path / 'big').mkdir()
    write_parquet(tmp_path / 'big' / 'a.parquet', texts() * 3)
    flags = [f'--source={tmp_path}/big/a.parquet', '--tokenizer=bytes', '--shard_tokens=100000']
    prepare(monkeypatch, *flags, f'--out={tmp_path}/whole')
    run = [sys.executable, ROOT / 'prepare_fineweb.py', *flags, f'--out={tmp_path}/out']
    for limit, finished in ((150_000, 0), (201_024, None)):  # no shard fits; every shard fits to the byte
        set_limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
        found = subprocess.run(run, capture_output=True, text=True, preexec_fn=set_limit)
        if finished is not None:
            assert 'shard_val_000000.bin could not be saved ([Errno 27] File too large' in one_line_error(
                found
            )
            assert '; 0 finished shards are kept: make room' in one_line_error(found)
            assert names_of(tmp_path / 'out') == ['meta.json']  # what was half written is gone
    assert found.returncode == 0 and files_of(tmp_path / 'out') == files_of(tmp_path / 'whole')


def test_a_disk_that_fills_up_later_keeps_what_is_finished(tmp_path, source, monkeypatch):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000']
    written = []

    def sync_three(number):
        name = os.readlink(f'/proc/self/fd/{number}')
        if name.endswith('.bin.tmp'):
            if len(written) == 3:
                raise OSError(28, 'No space left on device')
            written.append(name.removesuffix('.tmp'))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', sync_three)
        with pytest.raises(UserError, match=r'shard_train_000003\.bin .*No space left.*; 3 finished shards'):
            prepare(monkeypatch, *flags)
    stamps = {path: os.stat(path).st_mtime_ns for path in written}
    assert names_of(tmp_path / 'out') == ['meta.json', *sorted(map(os.path.basename, written))]
    prepare(monkeypatch, *flags)
    assert tokens_of(tmp_path / 'out') == reference(texts())
    assert stamps == {path: os.stat(path).st_mtime_ns for path in written}


# mistakes


def corrupt(path):
    raw = bytearray(path.read_bytes())
    raw[200:260] = os.urandom(60)
    path.write_bytes(raw)


@pytest.mark.parametrize('name, make, message', [
    ('a.parquet', lambda p: write_parquet(p, ['x'], text=None, body=['x']),
     "has no column 'text', only id, dump"),
    ('a.parquet', lambda p: write_parquet(p, ['x'], text=[3]), "column 'text' holds int64"),
    ('a.parquet', lambda p: write_parquet(p, ['x', 'y'], text=['x', None]), 'text of document 1 is null'),
    ('a.parquet', lambda p: p.write_bytes(b''), 'holds 0 tokens'),
    ('a.parquet', lambda p: p.write_bytes(b'PAR1 not really PAR1'), "can't be read as parquet"),
    ('a.parquet', lambda p: (write_parquet(p, texts()), p.write_bytes(p.read_bytes()[:-100])),
     "can't be read as parquet"),
    ('a.parquet', lambda p: (write_parquet(p, texts()), corrupt(p)), "can't be read"),
    ('a.parquet', lambda p: pq.write_table(pa.table({'text': pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack('2i', 0, 2)), pa.py_buffer(b'\xff\xfe')])}), p),
        "can't be read.*utf-8"),
    ('a.jsonl', lambda p: p.write_text('{"text": "x"}\n\n{"text": '),
     'line 3: not a JSON object with a text .JSONDecodeError'),
    ('a.jsonl', lambda p: p.write_text('{"body": "x"}'),
     'line 1: .*with a text; it has no key .text., only body'),
    ('a.jsonl', lambda p: p.write_text('["x"]'), 'line 1: not a JSON object with a text, but list'),
    ('a.jsonl', lambda p: p.write_text('{"text": null}'), 'line 1: text is None, not a string'),
    ('a.jsonl', lambda p: p.write_bytes(b'{"text": "\xff"}'), 'line 1: .*utf-8'),
    ('a.txt', lambda p: p.write_bytes(b'abc\xff'), "can't be read.*utf-8"),
    ('a.txt.gz', lambda p: p.write_bytes(b'plain'), "can't be read"),
    ('a.jsonl.zst', lambda p: p.write_bytes(bytes(pa.Codec('zstd').compress(b'{"text": "x"}\n' * 99))[:-4]),
     "can't be read"),
    ('a.jsonl', lambda p: p.write_text(''), 'holds 0 tokens'),
    ('a.txt', lambda p: p.write_text('short'),
     'the first 100 are for validation: choose a smaller --shard_tokens'),
    ('a.csv', lambda p: p.write_text('text'), 'not a source: .parquet, .jsonl, .ndjson, .json, .txt, .md'),
])
def test_a_bad_source_is_named(tmp_path, monkeypatch, name, make, message):
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        prepare(monkeypatch, f'--source={tmp_path}/{name}', f'--out={tmp_path}/out', '--shard_tokens=100')
    assert '\n' not in str(error.value)
    assert name in str(error.value) or 'shard_tokens' in str(error.value)
    assert not list(tmp_path.glob('out/*.bin'))


def test_a_file_that_is_bad_in_the_middle_keeps_what_is_finished_and_can_be_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'CHUNK', 1000)
    (tmp_path / 'a.txt').write_text('word ' * 60_000)
    (tmp_path / 'b.txt').write_bytes(b'abc\xff')
    flags = [f'--source={tmp_path}/*.txt', f'--out={tmp_path}/out', '--shard_tokens=1000', '--workers=1']
    with pytest.raises(UserError, match=r'b\.txt'):
        prepare(monkeypatch, *flags)
    assert len(shards_of(tmp_path / 'out')) > 5 and not data.read_meta(str(tmp_path / 'out'))['complete']
    (tmp_path / 'b.txt').write_text('mended')
    prepare(monkeypatch, *flags)
    assert tokens_of(tmp_path / 'out') == reference(['word ' * 60_000, 'mended'])


@pytest.mark.parametrize('flags, message', [
    (['--source=none/*.parquet', '--out=x'], r'no file matches none/\*\.parquet'),
    (['--source=a.parquet'], '--source needs --out'),
    (['--source=a', '--pretokenized', '--out=x'], 'exclude each other'),
    (['--pretokenized', '--tokenizer=bytes'], 'leave out --tokenizer'),
    (['--shard_tokens=1'], '--shard_tokens must be'), (['--shard_tokens=3_000_000_000'],
                                                       '--shard_tokens must be'),
    (['--workers=0'], '--workers at least 1'), (['--max_tokens=-1'], '--max_tokens must be'),
    (['--max_tokens=100'], 'fit in the first shard'), (['--max_tokens=100', '--val_tokens=100'],
                                                       'is all for validation'),
    (['--val_tokens=-1'], '--val_tokens must be'), (['--val_tokens=9', '--shard_tokens=8'],
                                                    '--val_tokens must be'),
    (['--pretokenized', '--val_tokens=9'], 'leave out .*--val_tokens'),
])
def test_options_that_cannot_be_are_refused_before_anything_is_made(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare(monkeypatch, *flags)
    assert os.listdir(tmp_path) == []


def test_what_tiktoken_cannot_do_is_named_by_document(tmp_path, monkeypatch, capfd):
    (tmp_path / 'a.jsonl').write_text('{"text": "fine"}\n' + json.dumps({'text': '\n' * 2_000_000 + 'x'}))
    with pytest.raises(UserError, match=r'a\.jsonl, document 1: tiktoken fails'):
        prepare(monkeypatch, f'--source={tmp_path}/a.jsonl', f'--out={tmp_path}/out', '--shard_tokens=1000')
    capfd.readouterr()


def test_mistakes_end_in_one_line_and_exit_code_2(tmp_path):
    assert 'no file matches' in one_line_error(script('--source=none', f'--out={tmp_path}/out'))
    assert os.listdir(tmp_path) == []


def test_without_network_the_message_says_what_to_do(tmp_path):
    for flags in ([], ['--pretokenized']):
        found = script(f'--out={tmp_path}/out', *flags, HF_ENDPOINT='http://127.0.0.1:9')
        assert 'could not be fetched from the Hub' in (line := one_line_error(found)) and '--source' in line
        assert not (tmp_path / 'out').exists()


def test_without_bpe_file_and_network_the_message_names_the_cache(tmp_path, source):
    found = script(f'--source={source}', f'--out={tmp_path}/out', TIKTOKEN_CACHE_DIR=str(tmp_path / 'empty'),
                   HTTPS_PROXY='http://127.0.0.1:9')
    assert 'TIKTOKEN_CACHE_DIR' in one_line_error(found)


def test_importing_does_nothing_and_needs_no_torch(tmp_path):
    code = 'import sys, prepare_fineweb; '
    code += "print([m for m in ('torch', 'huggingface_hub', 'tiktoken') if m in sys.modules])"
    found = subprocess.run([sys.executable, '-c', code], cwd=tmp_path,
                           env={**os.environ, 'PYTHONPATH': str(ROOT)},
                           capture_output=True, text=True)
    assert found.stdout == '[]\n' and os.listdir(tmp_path) == []


# the Hub: its own client, against a server of ours

COMMIT = 'a' * 40


@pytest.fixture
def hub(tmp_path):
    """A server that answers as the Hub does for data sets, over tmp_path/hub/USER/NAME; .log holds what was
    downloaded."""
    root = tmp_path / 'hub'

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            parts = self.path.split('?')[0].replace('%2F', '/').strip('/').split('/')
            if parts[:2] == ['api', 'datasets'] and parts[4:] in ([], ['revision', COMMIT]):
                return self.answer(json.dumps({'id': '/'.join(parts[2:4]), 'sha': COMMIT, 'private': False,
                                               'downloads': 0,
                                               'likes': 0, 'tags': []}).encode())
            if parts[:2] == ['api', 'datasets'] and parts[4] == 'tree':
                base = root.joinpath(*parts[2:4])
                return self.answer(json.dumps([
                    {'type': 'directory' if p.is_dir() else 'file', 'oid': 'b' * 40, 'size': p.stat().st_size,
                     'path': str(p.relative_to(base))}
                     for p in sorted(base.joinpath(*parts[6:]).rglob('*'))]).encode())
            if parts[0] == 'datasets' and parts[3] == 'resolve' and parts[4] == COMMIT:
                raw = root.joinpath(*parts[1:3], *parts[5:]).read_bytes()
                if server.gone == parts[-1]:
                    return self.send_error(404)
                if self.command == 'GET':
                    server.log.append(parts[-1])
                return self.answer(raw, {'X-Repo-Commit': COMMIT, 'ETag': f'"{len(raw)}{parts[-1]}"'})
            self.send_error(404)

        def answer(self, body, headers=()):
            self.send_response(200)
            for name, value in {'Content-Type': 'application/json', 'Content-Length': str(len(body)),
                                **dict(headers)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == 'GET':
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.log, server.gone, server.root = [], None, root
    server.env = {'HF_ENDPOINT': f'http://127.0.0.1:{server.server_address[1]}',
                  'HF_HOME': str(tmp_path / 'home'),
                  'HF_HUB_DISABLE_TELEMETRY': '1', 'HF_HUB_OFFLINE': '0'}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def sample(hub):
    """sample/10BT of FineWeb-Edu, in four files; the other samples and data beside it."""
    for name in ('sample/10BT', 'sample/100BT', 'data'):
        (hub.root / 'HuggingFaceFW/fineweb-edu' / name).mkdir(parents=True)
        for i in range(4):
            write_parquet(hub.root / f'HuggingFaceFW/fineweb-edu/{name}/{i:03d}_00000.parquet',
                          texts()[i::4] if name == 'sample/10BT' else ['wrong'])
    return [text for i in range(4) for text in texts()[i::4]]


@pytest.mark.parametrize('keep', [False, True])
def test_the_sample_is_fetched_file_by_file_and_kept_or_not(tmp_path, hub, sample, keep):
    found = script(f'--out={tmp_path}/out', '--shard_tokens=4000', *['--keep'] * keep, **hub.env)
    assert found.returncode == 0, found.stderr
    assert '4 files of HuggingFaceFW/fineweb-edu sample-10BT' in found.stdout
    assert tokens_of(tmp_path / 'out') == reference(sample)
    assert (tmp_path / 'out/edufineweb_val_000000.bin').exists() and (
        tmp_path / 'out/edufineweb_train_000001.bin'
    ).exists()
    assert hub.log == [f'{i:03d}_00000.parquet' for i in range(4)]
    kept = [p.name for p in (tmp_path / 'out').rglob('*.parquet')]
    assert sorted(kept) == (hub.log if keep else [])
    assert (tmp_path / 'out/hub').exists() == keep
    assert not list((tmp_path / 'home').rglob('*.parquet')) and not list((tmp_path / 'home').rglob('*.arrow'))


def test_a_few_of_the_hubs_files_lie_on_the_disk_at_a_time(tmp_path, hub, sample, monkeypatch):
    fetched, lying = [], []
    folder = tmp_path / 'out' / 'hub'

    def fetch(repo, revision, name, local):
        fetched.append(name)
        (Path(local) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(local) / name).write_bytes((hub.root / repo / name).read_bytes())
        return str(Path(local) / name)

    write = data.write_shard

    def write_and_look(path, tokens):
        lying.append({p.name for p in folder.rglob('*.parquet')})
        write(path, tokens)

    names = [f'sample/10BT/{i:03d}_00000.parquet' for i in range(4)]
    monkeypatch.setattr(sources, 'list_hub', lambda *args: ([{'file': name, 'bytes': 9} for name in names],
                                                            COMMIT))
    monkeypatch.setattr(sources, 'download', fetch)
    monkeypatch.setattr(prepare_fineweb, 'write_shard', write_and_look)
    monkeypatch.setattr(sources, 'CHUNK', 200)  # so that 32 chunks are less than a file
    prepare(monkeypatch, f'--out={tmp_path}/out', '--shard_tokens=2000', '--workers=1')
    assert tokens_of(tmp_path / 'out') == reference(sample) and fetched == names
    assert max(map(len, lying)) <= 3 and len(lying) > 10
    assert lying[-1] == {'003_00000.parquet'}  # the others went as soon as they were in shards


def test_a_broken_download_is_said_and_the_run_goes_on_from_there(tmp_path, hub, sample):
    # listed, but not to be had
    flags, hub.gone = [f'--out={tmp_path}/out', '--shard_tokens=4000'], '002_00000.parquet'
    found = script(*flags, **hub.env)
    assert '002_00000.parquet could not be fetched from the Hub' in one_line_error(found)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').glob('*.bin')}
    hub.gone = None
    hub.log.clear()
    assert script(*flags, **hub.env).returncode == 0
    assert tokens_of(tmp_path / 'out') == reference(sample)
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    assert '000_00000.parquet' not in hub.log and '001_00000.parquet' not in hub.log


@pytest.fixture
def ready(hub):
    """Ready shards on the Hub; their tokens, validation first."""
    folder = hub.root / 'kjj0/finewebedu10B-gpt2'
    folder.mkdir(parents=True)
    shards = []
    for i, split in enumerate(['val', 'train', 'train', 'train']):
        shards.append([50256, *range(i * 100, i * 100 + 999)])
        data.write_shard(str(folder / f'finewebedu_{split}_{i:06d}.bin'),
                         np.array(shards[-1], dtype=np.uint16))
    (folder / 'README.md').write_text('not a shard')
    return shards


def test_ready_shards_are_fetched_as_they_are(tmp_path, hub, ready):
    found = script('--pretokenized', f'--out={tmp_path}/out', **hub.env)
    assert found.returncode == 0, found.stderr
    assert shards_of(tmp_path / 'out') == ready
    assert hub.log == ['finewebedu_val_000000.bin'] + [f'finewebedu_train_{i:06d}.bin' for i in (1, 2, 3)]
    meta = data.read_meta(str(tmp_path / 'out'))
    assert meta['complete'] and meta['tokens'] == {'val': 1000, 'train': 3000} and meta['tokenizer'] == 'gpt2'
    assert names_of(tmp_path / 'out') == sorted([*hub.log, 'meta.json'])
    assert '4 shards, 4 documents, 4,000 tokens' in found.stdout


@pytest.mark.parametrize('names, message', [
    (['a/x_train_1.bin', 'b/x_train_1.bin', 'x_val_0.bin'],
     r'a/x_train_1\.bin and b/x_train_1\.bin would get the same name'),
    (['x_train_1.bin', 'x_train_2.bin'], 'holds only train shards'), (['val/x_val_1.bin'],
                                                                      'holds only val shards'),
    (['train/0.bin', 'val/1.bin'], r'train/0\.bin: .*neither'),
    (['x_train_val_1.bin', 'x_val_0.bin'], r'x_train_val_1\.bin: .*both'),
])
def test_ready_shards_whose_names_cannot_be_are_refused_by_name(tmp_path, monkeypatch, names, message):
    files = [{'file': name, 'bytes': 1042} for name in sorted(names)]
    monkeypatch.setattr(sources, 'list_hub', lambda *args: (files, COMMIT))
    with pytest.raises(UserError, match=message):
        prepare(monkeypatch, '--pretokenized', f'--out={tmp_path}/out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('limit, n', [(500, 2), (1001, 2), (2001, 3)])
def test_max_tokens_takes_as_many_ready_shards_as_reach_it(tmp_path, hub, ready, limit, n):
    assert script('--pretokenized', f'--out={tmp_path}/out', f'--max_tokens={limit}',
                  **hub.env).returncode == 0
    assert shards_of(tmp_path / 'out') == ready[:n]


@pytest.mark.parametrize('spoil, message', [
    (lambda p: p.write_bytes(p.read_bytes()[:-2]), 'truncated or damaged'),
    (lambda p: p.write_bytes(b'<html>'), 'not a token shard'),
    (lambda p: data.write_shard(str(p), np.array([1, 60000], dtype=np.uint16)),
     'token 60000 in a vocabulary of 50257'),
])
def test_a_bad_ready_shard_gets_no_name_and_a_second_run_fetches_only_what_is_missing(tmp_path, hub, ready,
                                                                                      spoil, message):
    path = hub.root / 'kjj0/finewebedu10B-gpt2/finewebedu_train_000002.bin'
    good = path.read_bytes()
    spoil(path)
    found = script('--pretokenized', f'--out={tmp_path}/out', **hub.env)
    assert message in one_line_error(found) and path.name in one_line_error(found)
    assert shards_of(tmp_path / 'out') == ready[:2] and not data.read_meta(str(tmp_path / 'out'))['complete']
    path.write_bytes(good)
    hub.log.clear()
    assert script('--pretokenized', f'--out={tmp_path}/out', **hub.env).returncode == 0
    assert shards_of(tmp_path / 'out') == ready
    assert hub.log == ['finewebedu_train_000002.bin', 'finewebedu_train_000003.bin']
