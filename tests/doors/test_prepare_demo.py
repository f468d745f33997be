"""The embedded corpus, of four of its six packages. Run: python -m pytest tests/doors/test_prepare_demo.py"""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import prepare_demo
from core import common, data
from core.common import UserError
from prepare_demo import FUNCTION_WORDS

SCRIPT = Path(prepare_demo.__file__)

@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    """The real corpus without torch and pandas, which take longest."""
    out = tmp_path_factory.mktemp('corpus') / 'demo'
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(prepare_demo, 'PACKAGES', ('python', 'numpy', 'datasets', 'tiktoken'))
        monkeypatch.setattr(prepare_demo, 'SHARD_TOKENS', 1_500_000)
        monkeypatch.setattr(sys, 'argv', ['prepare_demo.py', f'--out={out}'])
        prepare_demo.main()
    return out

@pytest.fixture(scope='module')
def documents(corpus):
    """{split: texts}, read back from the shards."""
    found = {}
    for split in ('train', 'val'):
        tokens = np.concatenate([np.fromfile(path, np.uint16, offset=data.shard_layout(str(path))[0])
                                 for path in sorted(corpus.glob(f'*{split}*.bin'))])
        assert tokens[0] == 256
        text = ''.join(map(chr, tokens))
        found[split] = text.split(chr(256))[1:]
    return found

@pytest.fixture(scope='module')
def examples(corpus):
    return [json.loads(line) for line in (corpus / 'hellaswag.jsonl').read_text().splitlines()]

@pytest.fixture
def small(tmp_path, monkeypatch):
    """A corpus of a made-up package, for what doesn't depend on the text."""
    draw = random.Random(1)
    content = ''
    for i in range(1200):
        words = [draw.choices(sorted(FUNCTION_WORDS), k=12),
                 [''.join(draw.choices('bcdfghjk', k=6)) for _ in range(12)]]
        content += f'"""{" ".join(words[i % 2] + words[1 - i % 2])}."""\n'
    for name in ('b.py', 'a/b.py', 'a/c.py', 'tests/d.py'):
        path = tmp_path / 'made_up' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content[: len(content) // 2] if name == 'a/b.py' else content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(prepare_demo, 'PACKAGES', ('made_up',))
    monkeypatch.setattr(prepare_demo, 'SHARD_TOKENS', 60_000)
    monkeypatch.setattr(prepare_demo, 'installed_versions', lambda: {'made_up': '1.0'})
    out = tmp_path / 'demo'
    prepare_demo.build(str(out))
    return out

def letters(text):
    return re.sub('[^a-z0-9]', '', text.lower())

def content(folder):
    """What is in a folder, without the lock's hidden files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != '.'}

def test_meta_json_tells_what_the_shards_hold_and_five_percent_are_held_out(corpus, documents):
    meta = data.read_meta(str(corpus))
    assert (meta['tokenizer'], meta['vocab_size'], meta['eot']) == ('bytes', 257, 256)
    assert documents.keys() == {'train', 'val'}
    for split, texts in documents.items():
        assert meta['documents'][split] == len(texts)
        assert meta['tokens'][split] == sum(map(len, texts)) + len(texts)
    assert sum(meta['bytes'].values()) == sum(map(len, documents['train'])) + sum(map(len, documents['val']))
    assert set(meta['files']) | {'meta.json'} == set(content(corpus))
    assert data.Split(str(corpus), 'val', 128, 257).n_tokens == meta['tokens']['val']
    share = meta['documents']['val'] / sum(meta['documents'].values())
    assert share == pytest.approx(0.05, abs=1e-4)

def test_no_held_out_document_shares_32_letters_in_a_row_with_a_training_document(documents):
    def windows(text):
        return (text[i : i + 32] for i in range(len(text) - 31))

    # paragraph by paragraph, as sets of strings: an independent way, without hashes
    held_out = {w for text in documents['val'] for line in text.split('\n') for w in windows(letters(line))}
    assert len(held_out) > 50_000
    shared = sum(w in held_out for text in documents['train'] for line in text.split('\n')
                 for w in windows(letters(line)))
    assert shared == 0

def test_deduplicate_drops_what_an_earlier_document_has_whatever_its_case_and_spacing():
    copied = 'Return the number of samples that the loader has seen so far.'
    documents = [('a', f'{copied}\nA first paragraph that nobody else in this test has.'),
                 ('b', 'RETURN the `number` of samples,\tthat the loader has seen in this epoch.'),
                 ('b', f'Something of its own comes first here, then a copy.\n{copied}'),
                 ('c', 'Too short to tell.'),
                 ('c', 'The same words, and the same words, and the same words, and the same words.')]
    assert prepare_demo.deduplicate(documents) == [
        documents[0], ('b', 'Something of its own comes first here, then a copy.'), documents[4]]

def test_deduplicate_looks_within_paragraphs():
    """What two paragraphs share with one only across their border is no copy: an ending and a beginning."""
    first = 'Every layer of the smaller model is kept and the wider one'
    second = 'learns from where it stood without losing a single step of it'
    both = ('b', f'In this recipe {first[-20:]} {second[:20]} too, or so it is said there.')
    for between, n_kept in (('\n', 2), (' ', 1)):
        documents = [('a', f'{first}{between}{second}'), both]
        assert prepare_demo.deduplicate(documents) == documents[:n_kept]

def test_code_tables_and_messages_go_and_prose_stays(tmp_path):
    source = tmp_path / 'module.py'
    source.write_text('''
# A comment of two lines that tells
# why this is done.
def f(x, axis=None):
    """Return the mean of x over one axis.

    Parameters
    ----------
    x : array_like
        The values whose mean is wanted, of any shape.

    >>> f([1, 2, 3], axis=0)
    2.0

    ====  ====
    1     2
    ====  ====
    """
    raise ValueError('a message that is no docstring')
''')
    assert sorted(prepare_demo.read_documents(source)) == [
        'A comment of two lines that tells why this is done.',
        'Return the mean of x over one axis.\nx : array_like\nThe values whose mean is wanted, of any shape.']

def test_examples_have_hellaswags_shape_and_fit_the_demo_models_context(examples):
    assert 700 < len(examples) < 3_400
    for i, e in enumerate(examples):
        assert e['ind'] == i and len(set(e['endings'])) == 4 and e['label'] in range(4)
        assert all(30 <= len(e['ctx']) <= 90 and 5 <= len(ending) <= 10 for ending in e['endings'])
    counts = Counter(e['label'] for e in examples)
    assert max(counts.values()) - min(counts.values()) <= 1

def test_an_ending_alone_tells_nothing_since_each_is_right_once_and_wrong_three_times(examples):
    right = Counter(e['endings'][e['label']] for e in examples)
    every = Counter(ending for e in examples for ending in e['endings'])
    assert all(every[ending] == 4 * n for ending, n in right.items()) and set(every) == set(right)

def test_wrong_endings_followed_the_other_kind_of_word_and_both_kinds_are_as_many(examples):
    kinds = Counter()
    for e in examples:
        after_function = e['ctx'].split()[-1] in FUNCTION_WORDS
        kinds[after_function] += 1
        for i, ending in enumerate(e['endings']):
            starts_with_function = ending.split()[0] in FUNCTION_WORDS
            assert starts_with_function == (after_function if i != e['label'] else not after_function)
    assert kinds[True] == kinds[False]

def test_wrong_endings_come_from_other_documents(documents):
    numbered = [('x', text) for text in documents['val']]
    cuts = [(i, line) for i, (_, text) in enumerate(numbered) for line in text.split('\n')]
    for e in prepare_demo.multiple_choice(numbered)[::20]:
        homes = [{i for i, line in cuts if f'{e["ctx"]} {ending}' in line} for ending in e['endings']]
        # only the right one continues it
        assert [bool(home) for home in homes] == [i == e['label'] for i in range(4)]

KNOWN_VERSIONS = {'python': '3.11.7', 'numpy': '2.3.5', 'datasets': '4.8.5', 'tiktoken': '0.12.0'}
KNOWN_FILES = {  # the first 16 digits of their SHA-256
    'demo_train_000001.bin': 'c3e392b08406d1ce',
    'demo_train_000002.bin': '9672f1b79250f27b',
    'demo_val_000000.bin': '6538d0d3fbf2890b',
    'hellaswag.jsonl': '8982a817f1343595',
}

def test_the_corpus_is_the_known_one_to_the_bit(corpus):
    """Made of all packages, it was the one that the results in results/ rest on when this was written."""
    meta = json.loads((corpus / 'meta.json').read_text())
    meta['versions'].pop('prepare_demo.py')
    if meta['versions'] != KNOWN_VERSIONS:
        pytest.skip('made from other versions than the known corpus')
    assert {name: digest[:16] for name, digest in meta['files'].items()} == KNOWN_FILES

def test_typed_twice_it_checks_and_writes_nothing(small, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in small.iterdir()}
    capsys.readouterr()
    prepare_demo.build(str(small))
    said = capsys.readouterr().out
    assert 'done already' in said and said.count('\n') == 1
    assert before == {path.name: path.stat().st_mtime_ns for path in small.iterdir()}

def test_the_order_of_files_on_disk_and_the_hash_seed_change_nothing(small, tmp_path, monkeypatch):
    walk = os.walk
    monkeypatch.setattr(os, 'walk', lambda root: reversed([(a, b, c[::-1]) for a, b, c in walk(root)
                                                           if not {'__pycache__',
                                                                   'tests'} & set(Path(a).parts)]))
    prepare_demo.build(str(tmp_path / 'again'))
    assert content(tmp_path / 'again') == content(small)
    command = ("import sys, prepare_demo as p; p.PACKAGES, p.SHARD_TOKENS = ('made_up',), 60_000; "
               "p.installed_versions = lambda: {'made_up': '1.0'}; sys.path.append(sys.argv[2]); "
               "p.build(sys.argv[1])")
    subprocess.run([sys.executable, '-c', command, tmp_path / 'hash', tmp_path], check=True,
                   cwd=SCRIPT.parent, env={**os.environ, 'PYTHONHASHSEED': '7'})
    assert content(tmp_path / 'hash') == content(small)

def spoil_meta(folder):
    meta = json.loads((folder / 'meta.json').read_text())
    (folder / 'meta.json').write_text(json.dumps({**meta, 'versions': None, 'files': []}))

@pytest.mark.parametrize('spoil', [
    lambda folder: (folder / 'demo_train_000001.bin').write_bytes(b'torn'),
    lambda folder: (folder / 'hellaswag.jsonl').unlink(),
    lambda folder: (folder / 'demo_train_000099.bin').write_bytes(b'of a longer corpus'),
    spoil_meta])
def test_a_damaged_corpus_is_made_again(small, capsys, spoil):
    good = content(small)
    assert sum('train' in name for name in good) > 2
    spoil(small)
    prepare_demo.build(str(small))
    assert 'making it again' in capsys.readouterr().out and content(small) == good

def test_made_again_from_another_version_it_leaves_nothing_of_the_old_and_is_incomplete_until_then(
        small, monkeypatch):
    monkeypatch.setattr(prepare_demo, 'installed_versions', lambda: {'made_up': '2.0'})
    monkeypatch.setattr(prepare_demo, 'SHARD_TOKENS', 1_000_000)

    def stop(*args):
        raise KeyboardInterrupt

    with common.locked(str(small)), pytest.raises(UserError, match='demo is in use by'):
        prepare_demo.build(str(small))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_demo, 'atomic_write', stop)  # after the shards
        prepare_demo.build(str(small))
    with pytest.raises(UserError, match='is not complete'):
        data.Split(str(small), 'train', 8, 257)
    prepare_demo.build(str(small))
    assert sorted(content(small)) == ['demo_train_000001.bin', 'demo_val_000000.bin', 'hellaswag.jsonl',
                                      'meta.json']
    assert data.Split(str(small), 'train', 8, 257).n_tokens > 60_000

def test_another_data_set_and_a_missing_package_are_refused_and_nothing_is_written(tmp_path, monkeypatch):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'fineweb_train_000001.bin').write_bytes(b'x')
    with pytest.raises(UserError, match='holds fineweb_train_000001'):
        prepare_demo.build(str(tmp_path / 'a'))
    monkeypatch.setattr(prepare_demo, 'PACKAGES', ('python', 'no_such_package'))
    with pytest.raises(UserError, match=r'not installed: no_such_package; pip install -r requirements\.txt'):
        prepare_demo.build(str(tmp_path / 'd'))
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['a', 'fineweb_train_000001.bin']

def test_a_bar_shows_that_it_works_and_ctrl_c_ends_it_by_the_signal_and_without_a_traceback(tmp_path):
    with subprocess.Popen([sys.executable, SCRIPT, f'--out={tmp_path}/demo'], stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL, text=True) as process:
        said = process.stderr.read(8)  # of the bar
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    assert process.returncode == -signal.SIGINT and 'Traceback' not in said and 'python: ' in said
