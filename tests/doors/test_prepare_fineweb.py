"""Token shards from documents. Run: python -m pytest tests/doors/test_prepare_fineweb.py"""

import argparse
import functools
import gzip
import hashlib
import http.server
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from conftest import save_bpe

import prepare_fineweb
from core import common, data
from core.common import UserError

ROOT = Path(__file__).parents[2]
EOT = '<|endoftext|>'
HARD = ['', EOT, EOT[:-1], 'a' + EOT + EOT + 'b', '\0', 'nul\0in\0side', '🙂🏳️‍🌈 ünï 漢字', ' ', '\n\n\n',
        'tail  \n ',
        "I'll we've'd 12345 !!!", '\r\n\t\x1c\x85\u2028\u3000x', 'x' * 3000, '2021-01-01', '\ufeffbom', '']
ZSTD = pa.Codec('zstd')

@functools.cache
def texts(n=400):
    """Documents of 0 to 2000 characters, hard ones among them, one of them longer than several shards."""
    draw = random.Random(0)
    words = ['the', 'of', 'Growing', 'layers', ',', '.', '', '\n', '\n\n', '1e-4', "don't", "I'm", 'naïve',
             '模型', '🙂', '__init__', '"quoted"', '(x)']
    found = [' '.join(draw.choices(words, k=draw.randrange(300))) for _ in range(n)]
    found[7] = ' '.join(draw.choices(words, k=8000))
    for i, text in enumerate(HARD):
        found.insert(5 + 11 * i, text)
    return found

def reference(documents, name='gpt2'):
    """End-of-text and encode_ordinary of each document, one by one."""
    enc = data.get_tokenizer(name)
    return [token for text in documents for token in (enc.eot_token, *enc.encode_ordinary(text))]

def as_lines(documents):
    """JSON lines with other keys of mixed types, half of them ASCII; no line end after the last."""
    return '\n'.join(json.dumps({'id': [i, 'x'][i % 2], 'text': t}, ensure_ascii=i % 2 == 0)
                     for i, t in enumerate(documents)).encode()

def write_parquet(path, documents, rows=50, text=None):
    n = len(documents)
    columns = {'text': documents if text is None else text, 'id': list(range(n)), 'score': [3.5] * n}
    pq.write_table(pa.table(columns), path, row_group_size=rows)

KINDS = {
    'a.parquet': lambda path, t: write_parquet(path, t),
    'b.parquet': lambda path, t: write_parquet(path, t, 10**6, pa.array(t).dictionary_encode()),
    'a.jsonl': lambda path, t: path.write_bytes(as_lines(t)),
    'a.ndjson.gz': lambda path, t: path.write_bytes(gzip.compress(as_lines(t[:200]) + b'\n\n') +
                                                    gzip.compress(as_lines(t[200:]))),
    'a.jsonl.zst': lambda path, t: path.write_bytes(bytes(ZSTD.compress(as_lines(t[:200]) + b'\r\n')) +
                                                    bytes(ZSTD.compress(as_lines(t[200:])))),
    'a.json': lambda path, t: path.write_text('\ufeff' + json.dumps([{'text': x} for x in t], indent=1)),
    'b.json': lambda path, t: path.write_bytes(b'\xef\xbb\xbf' + as_lines(t)),
    'a[1]*.jsonl': lambda path, t: path.write_bytes(as_lines(t)),
}

@pytest.fixture
def source(tmp_path):
    """Two files that hold texts() in order; the pattern that finds them."""
    (tmp_path / 'source').mkdir()
    write_parquet(tmp_path / 'source' / 'a.parquet', texts()[:150])
    (tmp_path / 'source' / 'c.jsonl').write_bytes(as_lines(texts()[150:]))
    return f'{tmp_path}/source/[abc].*'

def prepare(*flags):
    """Run main() in this process, without its handler of Ctrl-C."""
    argv, handler = sys.argv, signal.getsignal(signal.SIGINT)
    sys.argv = ['prepare_fineweb.py', *map(str, flags)]
    try:
        prepare_fineweb.main()
    finally:
        sys.argv = argv
        signal.signal(signal.SIGINT, handler)

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
    return {p.name: p.read_bytes() for p in Path(out).iterdir() if p.is_file() and p.name[0] != '.'}

# exactness

@pytest.mark.parametrize('name', KINDS)
def test_the_shards_are_end_of_text_and_encode_ordinary_of_every_document_in_order(tmp_path, name):
    KINDS[name](tmp_path / name, texts())
    prepare(f'--source={tmp_path}/{name}', f'--out={tmp_path}/out', '--shard_tokens=5000')
    shards, wanted = shards_of(tmp_path / 'out'), reference(texts())
    assert tokens_of(tmp_path / 'out') == wanted
    assert {len(shard) for shard in shards[:-1]} == {5000} and len(shards) == -(-len(wanted) // 5000)
    names = sorted(p.name for p in (tmp_path / 'out').glob('*.bin'))
    assert names == [f'shard_train_{i:06d}.bin' for i in range(1, len(shards))] + ['shard_val_000000.bin']

def test_a_lone_surrogate_is_encoded_as_encode_ordinary_does(tmp_path):
    documents = ['a\ud800b', 'ordinary ' * 50]
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'text': text}) for text in documents))
    prepare(f'--source={tmp_path}/a.jsonl', f'--out={tmp_path}/out', '--shard_tokens=10')
    assert tokens_of(tmp_path / 'out') == reference(documents)

@pytest.mark.parametrize('batch, workers', [(1, 1), (300, 7)])
def test_the_bytes_do_not_depend_on_workers_or_batches(tmp_path, source, monkeypatch, batch, workers):
    monkeypatch.setattr(prepare_fineweb, 'BATCH', batch)
    prepare(f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=5000', f'--workers={workers}')
    assert tokens_of(tmp_path / 'out') == reference(texts())

def test_a_text_file_is_one_document_and_keeps_its_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_fineweb, 'PIECE', 500)
    documents = ['\r\n'.join(texts()), '', '\n'.join(texts()), 'no_white_space' * 300]
    for i, text in enumerate(documents):
        (tmp_path / f'{i}.txt').write_text(text, encoding='utf-8', newline='')
    (tmp_path / '2.txt').unlink()
    (tmp_path / '2.MD.zst').write_bytes(bytes(ZSTD.compress(documents[2].encode())))
    prepare(f'--source={tmp_path}/?.*', f'--out={tmp_path}/out', '--shard_tokens=7000')
    assert tokens_of(tmp_path / 'out') == reference(documents)

def test_a_text_is_cut_only_where_its_tokens_stay_the_same(tmp_path):
    enc, draw, cuts = data.get_tokenizer('gpt2'), random.Random(1), 0
    args = argparse.Namespace(tokenizer='gpt2')
    alphabet = [' ', '\n', '\t', '\r\n', '\x1c', '\x85', '\u3000', '\u2028', '\xa0', "'s", "'", 'a', 'Word',
                '7', '!', '漢', '🙂', '\0', EOT, 'x' * 60]
    for _ in range(100):
        text = ''.join(draw.choices(alphabet, k=draw.randrange(400)))
        (tmp_path / 'a.txt').write_text(text, encoding='utf-8', newline='')
        with open(tmp_path / 'a.txt', 'rb') as f:
            pieces = [piece for piece, _ in prepare_fineweb.read_text(f, args, 20)]
        assert ''.join(pieces) == text
        assert [t for piece in pieces for t in enc.encode_ordinary(piece)] == enc.encode_ordinary(text)
        cuts += len(pieces) - 1
    assert cuts > 500

@pytest.mark.parametrize('limit', [3001, 6000, 7777])
def test_max_tokens_is_exact_and_meta_json_says_what_is_there(tmp_path, source, limit, capsys):
    prepare(f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=3000', f'--max_tokens={limit}')
    shards = shards_of(tmp_path / 'out')
    assert tokens_of(tmp_path / 'out') == reference(texts())[:limit]
    meta = data.read_meta(str(tmp_path / 'out'))
    assert (meta['tokenizer'], meta['vocab_size'], meta['eot']) == ('gpt2', 50257, 50256) and meta['complete']
    assert [shard['tokens'] for shard in meta['shards']] == [len(shard) for shard in shards]
    assert [shard['documents'] for shard in meta['shards']] == [shard.count(50256) for shard in shards]
    assert meta['tokens'] == {'val': 3000, 'train': limit - 3000}
    assert f'{len(shards)} shards' in capsys.readouterr().out
    assert data.Split(str(tmp_path / 'out'), 'val', 100,
                      50257).read(np.arange(1))[0].tolist() == shards[0][:101]

def test_a_position_is_that_of_the_token_after_the_shard(tmp_path):
    documents = ['x' * 9, 'y' * 9, 'z' * 19, '', 'w' * 8] * 4  # with end-of-text 10, 10, 20, 1 and 9 tokens
    (tmp_path / 'a.jsonl').write_bytes(as_lines(documents[:10]))
    (tmp_path / 'b.jsonl').write_bytes(as_lines(documents[10:]))
    prepare(f'--source={tmp_path}/*.jsonl', f'--out={tmp_path}/out', '--shard_tokens=10', '--tokenizer=bytes')
    found = [shard['next'] for shard in data.read_meta(str(tmp_path / 'out'))['shards'][:-1]]
    one_round = [[0, 1, 0], [0, 2, 0], [0, 2, 10], [0, 3, 0], [0, 5, 0]]  # at its first token: that document
    again = [[0, n + 5, at] for _, n, at in one_round]
    assert found == (one_round + again + [[1, n, at] for _, n, at in one_round + again])[:-1]

@pytest.mark.parametrize('largest, dtype', [(2**16 - 1, 'uint16'), (2**16, 'uint32')])
def test_a_tokenizer_json_goes_into_the_folder_which_then_needs_no_other(tmp_path, largest, dtype):
    save_bpe(tmp_path / 'bpe')
    path = tmp_path / 'bpe/tokenizer.json'
    content = json.loads(path.read_text())
    content['model']['vocab']['zz'] = largest
    content['model']['merges'].append(['z', 'z'])
    path.write_text(json.dumps(content))
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    documents = [*texts(60), 'fuzzy', 'x.\n\ny ' * 40]
    (tmp_path / 'a.jsonl').write_bytes(as_lines(documents))
    (tmp_path / 'b.txt').write_text(documents[-1])
    end = theirs.token_to_id('<|endoftext|>')
    wanted = [token for text in [*documents, documents[-1]]
              for token in (end, *theirs.encode(text, add_special_tokens=False).ids)]
    flags = ['--source', tmp_path / 'a.jsonl', tmp_path / 'b.txt', f'--out={tmp_path}/out',
             '--shard_tokens=9000', f'--tokenizer={tmp_path}/bpe']
    prepare(*flags)
    shutil.rmtree(tmp_path / 'bpe')
    (tmp_path / 'out/shard_train_000001.bin').unlink()
    prepare(*flags)
    paths = sorted((tmp_path / 'out').glob('*_train_*.bin'))
    found = [np.fromfile(path, dtype, offset=1024) for path in paths]
    found.insert(0, np.fromfile(tmp_path / 'out/shard_val_000000.bin', dtype, offset=1024))
    assert np.concatenate(found).tolist() == wanted and len(found) > 2
    assert max(wanted) == largest
    meta = data.read_meta(str(tmp_path / 'out'))
    sha256 = hashlib.sha256((tmp_path / 'out/tokenizer.json').read_bytes()).hexdigest()
    assert meta['tokenizer'] == f'sha256:{sha256}' and meta['options']['tokenizer'] == f'{tmp_path}/bpe'
    assert (meta['vocab_size'], meta['eot']) == (largest + 1, end) and meta['complete']

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

@pytest.fixture(scope='module')
def articles():
    """2000 documents of 0 to 399 bytes, each of them another one."""
    draw = random.Random(4)
    return [f'{i} ' + 'x' * draw.randrange(395) for i in range(2000)]

@pytest.mark.parametrize('kind', ['jsonl', 'parquet', 'jsonl.zst', 'json'])
def test_documents_are_held_out_whole_and_evenly_over_the_source(tmp_path, articles, kind):
    for i, part in enumerate((articles[:300], articles[300:1900], articles[1900:])):
        KINDS[f'a.{kind}'](tmp_path / f'{i}.{kind}', part)
    prepare(f'--source={tmp_path}/?.*', f'--out={tmp_path}/out', '--val_tokens=20_000', '--tokenizer=bytes')
    val, train = (documents_in(tmp_path / 'out', split) for split in ('val', 'train'))
    wanted = [(256, *text.encode()) for text in articles]
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

@pytest.mark.parametrize('n_files, n', [(1, 60_000), (60, 9000)])
def test_of_few_text_files_pieces_are_held_out_and_of_many_whole_ones(tmp_path, n_files, n):
    words = [str(i) for i in range(60_000)]  # every word says where it stands
    for i in range(n_files):
        (tmp_path / f'{i:02d}.txt').write_text(' '.join(words[i::n_files]))
    prepare(f'--source={tmp_path}/*.txt', f'--out={tmp_path}/out', '--tokenizer=bytes', f'--val_tokens={n}')
    val, train = (np.fromfile(path, np.uint16, offset=1024).tolist()
                  for path in sorted((tmp_path / 'out').glob('*.bin'))[::-1])
    found = bytes(32 if token == 256 else token for token in val).decode().split()
    files = {int(word) % n_files for word in found}
    if n_files > 1:
        assert len(found) == 1000 * len(files) and 1 <= len(files) <= 3
    else:
        jumps = np.count_nonzero(np.diff(np.array(found, int)) != 1)
        assert len(val) == pytest.approx(n, rel=0.1) and 6 <= jumps <= 40
    whole = [token for i in range(n_files) for token in (256, *' '.join(words[i::n_files]).encode())]
    assert sorted(val + train) == sorted(whole)

@pytest.mark.parametrize('tokenizer, piece', [('bytes', 50), ('gpt2', 210)])  # 4.2 bytes a token
def test_a_piece_that_is_held_out_is_about_a_16th_of_val_tokens(tmp_path, tokenizer, piece):
    (tmp_path / 'a.txt').write_text('some text ' * 1000)
    flags = [f'--source={tmp_path}/a.txt', f'--out={tmp_path}/out', f'--tokenizer={tokenizer}']
    prepare(*flags, '--val_tokens=1600')
    assert data.read_meta(str(tmp_path / 'out'))['piece'] == piece

@pytest.mark.parametrize('flags, n', [('--val_tokens=600', 0), ('--shard_tokens=100_000_000', 506)])
def test_a_corpus_that_leaves_nothing_to_train_on_gets_advice_that_can_be_followed(tmp_path, flags, n):
    (tmp_path / 'a.jsonl').write_text(json.dumps({'text': 'word ' * 101}))
    common = [f'--source={tmp_path}/a.jsonl', f'--out={tmp_path}/out', '--tokenizer=bytes']
    with pytest.raises(UserError, match=f'506 tokens, {n} for validation.* choose a smaller --shard'):
        prepare(*common, flags)
    with pytest.raises(UserError, match='is not complete'):
        data.Split(str(tmp_path / 'out'), 'val', 8, 50257)
    prepare(*common, '--shard_tokens=505')
    assert [len(shard) for shard in shards_of(tmp_path / 'out')] == [505, 1]

# sources

def test_a_folder_is_one_corpus_without_what_is_hidden_of_another_kind_or_made_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'sub').mkdir()
    (tmp_path / '.git').mkdir()
    for name, text in (('a.txt', 'some text'), ('sub/B.MD', '# more'), ('c.csv', 'x'), ('.git/d.txt', 'no')):
        (tmp_path / name).write_text(text)
    flags = ['--source', '~', 'a.txt', '--out=~/sub/out', '--shard_tokens=5', '--tokenizer=bytes']
    prepare(*flags)
    found = tokens_of(tmp_path / 'sub/out')
    assert found == reference(['some text', '# more', 'some text'], 'bytes')
    (tmp_path / 'sub/out/shard_train_000002.bin').unlink()
    prepare(*flags)
    assert tokens_of(tmp_path / 'sub/out') == found

def corrupt(path):
    raw = bytearray(path.read_bytes())
    raw[200:260] = bytes(60)
    path.write_bytes(raw)

@pytest.mark.parametrize('name, make, message', [
    ('a.parquet', lambda p: pq.write_table(pa.table({'body': ['x']}), p),
     r"document 0, can't be read .*text"),
    ('a.parquet', lambda p: write_parquet(p, ['x', 'y'], text=['x', None]),
     "document 1, .*'text' is None, not a string"),
    ('a.parquet', lambda p: p.write_bytes(b'PAR1 not really PAR1'), "can't be read"),
    ('a.parquet', lambda p: (write_parquet(p, texts()), corrupt(p)), "can't be read"),
    ('a.parquet', lambda p: pq.write_table(pa.table({'text': pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack('2i', 0, 2)), pa.py_buffer(b'\xff\xfe')])}), p),
        'utf-8'),
    ('a.jsonl', lambda p: p.write_text('{"text": "x"}\n\n{"text": '),
     "document 1, can't be read .JSONDecodeError"),
    ('a.jsonl', lambda p: p.write_text('{"text": "x"}\n{"text": {"a": 1}}'), "document 1, .* not a string"),
    ('a.jsonl', lambda p: p.write_text('[' * 100_000), 'RecursionError'),
    ('a.jsonl', lambda p: p.write_bytes(b'{"text": "\xff"}'), 'utf-8'),
    ('a.json', lambda p: p.write_text('[{"text": "x"}'), 'JSONDecodeError'),
    ('a.txt', lambda p: p.write_bytes(b'abc\xff'), 'utf-8'),
    ('a.txt.gz', lambda p: p.write_bytes(b'plain'), "can't be read"),
    ('a.jsonl.gz', lambda p: p.write_bytes(gzip.compress(as_lines(['x'] * 99))[:-9]), "can't be read"),
    ('a.txt.zst', lambda p: p.write_bytes(bytes(ZSTD.compress(b'text ' * 99))[:-4]), "can't be read"),
    ('a.csv', lambda p: p.write_text('text'), 'not a source: .parquet, or .jsonl'),
    ('a.parquet.gz', lambda p: p.write_text('text'), 'not a source'),
])
def test_a_bad_source_is_named(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        prepare(f'--source={tmp_path}/{name}', f'--out={tmp_path}/out', '--shard_tokens=100')
    assert '\n' not in str(error.value) and name in str(error.value)
    assert not list(tmp_path.glob('out/*.bin'))

@pytest.mark.parametrize('flags, message', [
    (['--source=a.txt', '--out=x', '--tokenizer=none/such'], "no tokenizer is called 'none/such'"),
    (['--val_tokens=9', '--shard_tokens=8'], '--val_tokens must be from 0 to 8'),
    (['--max_tokens=100', '--val_tokens=100'], 'leaves none to train on'),
])
def test_options_that_cannot_be_are_refused_before_anything_is_made(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    (tmp_path / 'a.txt').write_text('text')
    with pytest.raises(UserError, match=message):
        prepare(*flags)
    assert os.listdir(tmp_path) == ['a.txt']

# a folder that is begun already

@pytest.mark.parametrize('kind, flags', [('parquet', []), ('jsonl', ['--val_tokens=20_000']), ('txt', []),
                                         ('txt', ['--val_tokens=20_000'])])
def test_resumed_after_any_shard_it_ends_in_the_same_bytes(tmp_path, monkeypatch, kind, flags):
    monkeypatch.setattr(prepare_fineweb, 'PIECE', 1000)
    for i, documents in enumerate((texts(150), texts(150)[::-1])):
        path = tmp_path / f'{i}.{kind}'
        path.write_text('\n'.join(documents)) if kind == 'txt' else KINDS[f'a.{kind}'](path, documents)
    flags = [f'--source={tmp_path}/?.{kind}', '--tokenizer=bytes', '--shard_tokens=30011', *flags]
    prepare(*flags, f'--out={tmp_path}/whole')
    whole, meta = files_of(tmp_path / 'whole'), data.read_meta(str(tmp_path / 'whole'))
    assert len(meta['shards']) > 8
    for n in range(0, len(meta['shards']), 3):
        out = tmp_path / f'out{n}'
        out.mkdir()
        for shard in meta['shards'][: n + 1]:  # one more than meta.json knows of, and a truncated one
            (out / shard['file']).write_bytes(whole[shard['file']])
        (out / f'shard_train_{n + 1:06d}.bin.tmp').write_bytes(b'half')
        data.write_meta(str(out), {**meta, 'complete': False, 'shards': meta['shards'][:n]})
        prepare(*flags, f'--out={out}')
        assert {k: v for k, v in files_of(out).items() if not k.endswith('.tmp')} == whole

def test_what_is_held_out_and_the_limit_are_counted_on_after_any_shard(tmp_path):
    (tmp_path / 'a.jsonl').write_bytes(as_lines([f'{i} ' + 'x' * (i % 40) for i in range(400)]))
    flags = [f'--source={tmp_path}/a.jsonl', '--tokenizer=bytes', '--shard_tokens=300', '--val_tokens=300',
             '--max_tokens=6000']
    prepare(*flags, f'--out={tmp_path}/whole')
    whole, meta = files_of(tmp_path / 'whole'), data.read_meta(str(tmp_path / 'whole'))
    assert sum(meta['tokens'].values()) == 6000 and len(meta['shards']) > 15
    shares = [shard['progress'] for shard in meta['shards'][1:]]
    assert shares == sorted(set(shares)) and shares[0] < 0.1 and shares[-1] > 0.5
    for n in range(2, len(meta['shards']), 5):
        out = tmp_path / f'out{n}'
        out.mkdir()
        for shard in meta['shards'][:n]:
            (out / shard['file']).write_bytes(whole[shard['file']])
        data.write_meta(str(out), {**meta, 'complete': False, 'shards': meta['shards'][:n]})
        prepare(*flags, f'--out={out}')
        assert files_of(out) == whole

@pytest.mark.slow
@pytest.mark.parametrize('flags', [[], ['--val_tokens=50_000']])
def test_killed_at_random_moments_it_ends_in_the_same_bytes_and_repeats_no_shard(tmp_path, flags):
    for i in range(10, 14):
        write_parquet(tmp_path / f'{i}.parquet', texts(), rows=37)
    flags = [sys.executable, ROOT / 'prepare_fineweb.py', f'--source={tmp_path}/*.parquet',
             '--tokenizer=bytes', '--shard_tokens=100_000', *flags]

    def start(out):
        return subprocess.Popen([*flags, f'--out={out}'], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)

    with start(tmp_path / 'whole') as process:
        assert process.wait() == 0
    whole = files_of(tmp_path / 'whole')
    draw, out, finished, code = random.Random(5), tmp_path / 'out', {}, None
    kills = 0
    while code != 0:
        with start(out) as process:
            # After so many more shards, not so many seconds: machines differ.
            target = len(finished) + draw.randint(0, 3) if kills < 3 else len(whole) + 1
            while process.poll() is None and len(list(out.glob('*.bin'))) < target:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            code = process.wait()
            kills += 1
        assert code in (0, -signal.SIGKILL)
        for name, stamp in finished.items():
            assert (out / name).stat().st_mtime_ns == stamp  # written once
        shards = data.read_meta(str(out)).get('shards', [])
        finished = {s['file']: (out / s['file']).stat().st_mtime_ns for s in shards if '_train_' in s['file']}
        for name in finished:
            assert (out / name).read_bytes() == whole[name]
    assert files_of(out) == whole and kills == 4

def test_a_missing_or_truncated_shard_is_made_again(tmp_path, source, capsys):
    for flags in ([], ['--val_tokens=70_000']):
        out = tmp_path / f'out{len(flags)}'
        flags = [f'--source={source}', f'--out={out}', '--shard_tokens=80_000', '--tokenizer=bytes', *flags]
        prepare(*flags)
        whole = files_of(out)
        for name in ('shard_val_000000.bin', 'shard_train_000001.bin', 'shard_train_000003.bin'):
            if name == 'shard_train_000001.bin':
                (out / name).unlink()
            else:
                (out / name).write_bytes(whole[name][:-10])
            prepare(*flags)
            assert f'{name} is missing or damaged' in capsys.readouterr().out and files_of(out) == whole

def test_no_shard_of_a_source_that_was_longer_stays(tmp_path):
    for i in range(4):
        (tmp_path / f'{i}.jsonl').write_bytes(as_lines(['x' * 99]))
    flags = [f'--source={tmp_path}/*.jsonl', f'--out={tmp_path}/out', '--shard_tokens=50',
             '--tokenizer=bytes']
    prepare(*flags)
    assert len(shards_of(tmp_path / 'out')) == 8
    (tmp_path / 'out' / 'shard_train_000003.bin').unlink()
    (tmp_path / '3.jsonl').write_bytes(as_lines(['y']))  # none of it is in the shards 0 to 2
    prepare(*flags)
    assert tokens_of(tmp_path / 'out') == reference(['x' * 99] * 3 + ['y'], 'bytes')

def test_a_file_that_is_bad_in_the_middle_keeps_what_is_finished_and_can_be_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_fineweb, 'BATCH', 1000)
    (tmp_path / 'a.jsonl').write_bytes(as_lines(texts()))
    (tmp_path / 'b.jsonl').write_bytes(b'abc\xff')
    (tmp_path / 'c.jsonl').write_bytes(as_lines(['after it']))
    flags = [f'--source={tmp_path}/*.jsonl', f'--out={tmp_path}/out', '--shard_tokens=5000', '--workers=1']
    with pytest.raises(UserError, match=r'b\.jsonl'):
        prepare(*flags)
    assert len(shards_of(tmp_path / 'out')) > 5 and not data.read_meta(str(tmp_path / 'out'))['complete']
    (tmp_path / 'b.jsonl').write_bytes(as_lines(['mended']))
    (tmp_path / 'a.jsonl').rename(tmp_path / '0.jsonl')
    with pytest.raises(UserError, match=r'a\.jsonl has changed since'):
        prepare(*flags)
    (tmp_path / '0.jsonl').rename(tmp_path / 'a.jsonl')
    prepare(*flags)
    assert tokens_of(tmp_path / 'out') == reference([*texts(), 'mended', 'after it'])

def test_a_finished_folder_is_left_alone_and_other_options_or_sources_are_refused(tmp_path, source, capsys):
    flags = {'source': source, 'out': tmp_path / 'out', 'shard_tokens': 8000}

    def again(**changes):
        prepare(*[f'--{name}={value}' for name, value in {**flags, **changes}.items()])

    again()
    before = files_of(tmp_path / 'out')
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').glob('*.*')}
    again()
    assert 'complete already' in capsys.readouterr().out
    for name, value in {'shard_tokens': 5000, 'max_tokens': 9000, 'tokenizer': 'bytes', 'val_tokens': 7,
                        'source': 'other/*.parquet', 'sample': '100BT'}.items():
        with pytest.raises(UserError, match=f'was made with --{name}='):
            again(**{name: value})
    folder = tmp_path / 'source'
    (folder / 'b.txt').write_text('came later')
    with pytest.raises(UserError, match=r'b\.txt has changed since'):
        again()
    (folder / 'b.txt').unlink()
    (folder / 'c.jsonl').write_bytes(as_lines(['changed']))
    with pytest.raises(UserError, match=r'c\.jsonl has changed since'):
        again()
    assert files_of(tmp_path / 'out') == before
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').glob('*.*')}

@pytest.mark.parametrize('name, text', [
    ('shard_val_000000.bin', 'x'), ('edufineweb_train_000001.npy', 'x'),
    ('meta.json', '{"tokenizer": "bytes", "vocab_size": 257, "eot": 256}'), ('meta.json', '{"tokenizer"'),
    ('meta.json', '{"tokenizer": "bytes", "vocab_size": 257, "eot": 256, "shards": 3}'),
    ('meta.json', '{"tokenizer": "gpt2", "vocab_size": 50257, "eot": 50256, "sources": [], "shards": [], '
                  '"complete": false, "revision": "", "options": {"pretokenized": "x/y"}}')])
def test_data_of_someone_elses_is_never_overwritten(tmp_path, source, name, text):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / name).write_text(text)
    before = files_of(tmp_path / 'out')
    with pytest.raises(UserError, match=r"didn't make|not a meta\.json"):
        prepare(f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=4000')
    assert files_of(tmp_path / 'out') == before

def test_a_second_process_in_the_folder_is_refused(tmp_path, source):
    flags = [f'--source={source}', f'--out={tmp_path}/out', '--shard_tokens=8000', '--tokenizer=bytes']
    with common.locked(str(tmp_path / 'out')), pytest.raises(UserError, match='is in use by'):
        prepare(*flags)
    assert not list(tmp_path.glob('out/*.bin'))

def test_a_full_disk_is_said_and_the_run_continues_once_there_is_room(tmp_path):
    write_parquet(tmp_path / 'a.parquet', texts())
    flags = [f'--source={tmp_path}/a.parquet', '--tokenizer=bytes', '--shard_tokens=50_000']
    prepare(*flags, f'--out={tmp_path}/whole')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, hard))
    try:
        with pytest.raises(UserError, match=r'val_000000.bin could not be saved .*File too large'):
            prepare(*flags, f'--out={tmp_path}/out')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(files_of(tmp_path / 'out')) == ['meta.json']  # what was half written is gone
    prepare(*flags, f'--out={tmp_path}/out')
    assert files_of(tmp_path / 'out') == files_of(tmp_path / 'whole')

def test_what_tiktoken_cannot_do_is_named_by_document(tmp_path, capfd):
    (tmp_path / 'a.jsonl').write_bytes(as_lines(['fine', '\n' * 2_000_000 + 'x']))
    with pytest.raises(UserError, match=r'a\.jsonl, document 1: the tokenizer fails'):
        prepare(f'--source={tmp_path}/a.jsonl', f'--out={tmp_path}/out', '--shard_tokens=1000')

def test_importing_does_nothing_and_needs_nothing_heavy():
    code = 'import sys, prepare_fineweb; '
    code += "print([m for m in ('torch', 'datasets', 'pyarrow', 'tiktoken') if m in sys.modules])"
    found = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == '[]\n'

# the Hub: its own client, against a server of ours

COMMIT = 'a' * 40

@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server that answers as the Hub does for data sets, over tmp_path/hub/USER/NAME."""
    root = tmp_path / 'hub'

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_POST(self):  # paths-info
            body = self.rfile.read(int(self.headers['Content-Length'])).decode()
            wanted = json.loads(body)['paths'] if body[0] == '{' else urllib.parse.parse_qs(body)['paths']
            base = root.joinpath(*self.path.split('/')[3:5])
            found = [entry for entry in self.entries(base) if entry['path'] in wanted]
            self.answer(json.dumps(found).encode())

        def do_GET(self):
            parts = urllib.parse.unquote(self.path.split('?')[0]).strip('/').split('/')
            if parts[0] == 'api':
                files = self.entries(root.joinpath(*parts[2:4]))
                info = {'id': '/'.join(parts[2:4]), 'sha': COMMIT, 'siblings': files}
                return self.answer(json.dumps(files if 'tree' in parts else info).encode())
            assert parts[3] == 'resolve', self.path
            raw = root.joinpath(*parts[1:3], *parts[5:]).read_bytes()
            if server.gone == parts[-1]:
                return self.send_error(404)
            headers = {'X-Repo-Commit': COMMIT, 'ETag': f'"{len(raw)}{parts[-1]}"'}
            first, last = map(int, re.match(r'bytes=(\d+)-(\d+)', self.headers['Range']).groups())
            last = min(last, len(raw) - 1)
            headers['Content-Range'] = f'bytes {first}-{last}/{len(raw)}'
            self.answer(raw[first : last + 1], headers, 206)

        def entries(self, base):
            return [{'type': 'file', 'oid': 'b' * 40, 'size': path.stat().st_size,
                     'rfilename': str(path.relative_to(base)), 'path': str(path.relative_to(base))}
                    for path in sorted(base.rglob('*')) if path.is_file()]

        def answer(self, body, headers=(), status=200):
            self.send_response(status)
            for name, value in {'Content-Type': 'application/json', 'Content-Length': str(len(body)),
                                **dict(headers)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != 'HEAD':
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.gone, server.root = None, root
    address = f'http://127.0.0.1:{server.server_address[1]}'
    template = address + '/{repo_id}/resolve/{revision}/{filename}'
    for name, value in (('ENDPOINT', address), ('HUGGINGFACE_CO_URL_TEMPLATE', template),
                        ('HF_HUB_OFFLINE', False)):
        monkeypatch.setattr(f'huggingface_hub.constants.{name}', value)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    huggingface_hub.HfFileSystem.clear_instance_cache()

def test_the_sample_is_streamed_and_continued_after_a_broken_download(tmp_path, monkeypatch, hub):
    monkeypatch.setattr(prepare_fineweb, 'BATCH', 20_000)
    for name in ('sample/10BT', 'sample/100BT', 'data'):
        (hub.root / 'HuggingFaceFW/fineweb-edu' / name).mkdir(parents=True)
        for i in range(3):
            path = hub.root / f'HuggingFaceFW/fineweb-edu/{name}/{i:03d}_00000.parquet'
            write_parquet(path, texts()[i::3] if name == 'sample/10BT' else ['wrong'])
    flags = [f'--out={tmp_path}/out', '--shard_tokens=8000', '--workers=1']
    hub.gone = '002_00000.parquet'
    with pytest.raises(UserError, match=r"002_00000\.parquet, document 0, can't be read .*--source"):
        prepare(*flags)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').glob('*.bin')}
    hub.gone = None
    prepare(*flags)
    assert tokens_of(tmp_path / 'out') == reference([text for i in range(3) for text in texts()[i::3]])
    assert finished == {path: path.stat().st_mtime_ns for path in finished} and len(finished) > 1
    assert (tmp_path / 'out/edufineweb_train_000001.bin').exists()
    assert data.read_meta(str(tmp_path / 'out'))['revision'] == COMMIT
