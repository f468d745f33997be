"""The embedded corpus, built once for real. Run: python -m pytest tests/doors/test_prepare_demo.py"""

import json
import os
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
    """The real corpus, made by the command line."""
    out = tmp_path_factory.mktemp('corpus') / 'demo'
    done = subprocess.run([sys.executable, SCRIPT, f'--out={out}'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
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
    """A corpus of one package, for what doesn't depend on the text: made in a second."""
    monkeypatch.setattr(prepare_demo, 'PACKAGES', ('datasets',))
    monkeypatch.setattr(prepare_demo, 'SHARD_TOKENS', 60_000)
    monkeypatch.setattr(prepare_demo, 'installed_versions', lambda: {'datasets': '1.0'})
    out = tmp_path / 'demo'
    prepare_demo.build(str(out))
    return out


def letters(text):
    return re.sub('[^a-z0-9]', '', text.lower())


def content(folder):
    """What is in a folder, without the lock's hidden files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != '.'}


def test_it_is_ten_megabytes_of_english_with_five_percent_held_out(corpus, documents):
    meta = json.loads((corpus / 'meta.json').read_text())
    assert meta['tokens']['train'] > 9_000_000
    share = meta['documents']['val'] / sum(meta['documents'].values())
    assert share == pytest.approx(0.05, abs=1e-4)
    words = Counter(' '.join(documents['train']).lower().split())
    assert [word for word, _ in words.most_common(5)] == ['the', 'to', 'a', 'is', 'of']
    assert all(meta['bytes'][package] > 150_000 for package in ('python', 'torch', 'numpy', 'pandas',
                                                                'datasets'))


def test_meta_json_tells_what_the_shards_hold(corpus, documents):
    meta = data.read_meta(str(corpus))
    assert (meta['tokenizer'], meta['vocab_size'], meta['eot']) == ('bytes', 257, 256)
    for split, texts in documents.items():
        assert meta['documents'][split] == len(texts)
        assert meta['tokens'][split] == sum(map(len, texts)) + len(texts)
    assert sum(meta['bytes'].values()) == sum(map(len, documents['train'])) + sum(map(len, documents['val']))
    assert set(meta['files']) | {'meta.json'} == set(content(corpus))
    assert data.Split(str(corpus), 'val', 128, 257).n_tokens == meta['tokens']['val']


def test_the_tokens_are_the_bytes_of_the_text(documents):
    tokenizer = data.get_tokenizer('bytes')
    for text in documents['val'][:50]:
        assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text
        assert tokenizer.encode_ordinary(text) == list(map(ord, text))


def test_no_held_out_document_shares_32_letters_in_a_row_with_a_training_document(documents):
    def windows(text):
        return (text[i : i + 32] for i in range(len(text) - 31))

    # paragraph by paragraph, as sets of strings: an independent way, without hashes
    held_out = {w for text in documents['val'] for line in text.split('\n') for w in windows(letters(line))}
    assert len(held_out) > 200_000
    shared = sum(w in held_out for text in documents['train'] for line in text.split('\n')
                 for w in windows(letters(line)))
    assert shared == 0


def test_no_context_or_ending_of_the_multiple_choice_set_stands_in_the_training_text(documents, examples):
    train, val = '\n'.join(documents['train']), '\n'.join(documents['val'])
    for e in examples[::7]:  # a substring search each
        whole = e['ctx'] + ' ' + e['endings'][e['label']]
        assert whole in val
        assert not any(part in train for part in (whole[:56], whole[-56:], whole))


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
    both = f'In this recipe {first[-20:]} {second[:20]} too, or so it is said there.'
    documents = [('a', f'{first}\n{second}'), ('b', both)]
    assert prepare_demo.deduplicate(documents) == documents
    # The same text in one paragraph is a copy.
    documents = [('a', f'{first} {second}'), ('b', both)]
    assert prepare_demo.deduplicate(documents) == documents[:1]


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
    assert len(examples) == 3_400
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
    for e in prepare_demo.multiple_choice(numbered)[::50]:
        homes = [{i for i, line in cuts if f'{e["ctx"]} {ending}' in line} for ending in e['endings']]
        # only the right one continues it
        assert [bool(home) for home in homes] == [i == e['label'] for i in range(4)]


KNOWN_VERSIONS = {'python': '3.11.7', 'torch': '2.13.0', 'numpy': '2.3.5', 'pandas': '2.3.3',
                  'datasets': '4.8.5',
                  'tiktoken': '0.12.0'}
KNOWN_FILES = {  # the first 16 digits of their SHA-256
    'demo_train_000001.bin': '2a12e4c1d42af951',
    'demo_train_000002.bin': '7c7b526fe538c94f',
    'demo_train_000003.bin': '55e3e3a7703a33a0',
    'demo_val_000000.bin': '51b684c927a3181a',
    'hellaswag.jsonl': '7a18d5beac93860b',
}


def test_the_corpus_is_the_known_one_to_the_bit(corpus):
    meta = json.loads((corpus / 'meta.json').read_text())
    meta['versions'].pop('prepare_demo.py')
    if meta['versions'] != KNOWN_VERSIONS:
        pytest.skip('made from other versions than the known corpus')
    assert {name: digest[:16] for name, digest in meta['files'].items()} == KNOWN_FILES


def test_typed_twice_it_checks_and_writes_nothing(corpus):
    before = {path.name: path.stat().st_mtime_ns for path in corpus.iterdir()}
    done = subprocess.run([sys.executable, SCRIPT, f'--out={corpus}'], capture_output=True, text=True)
    assert done.returncode == 0 and 'done already' in done.stdout and done.stdout.count('\n') == 1
    assert before == {path.name: path.stat().st_mtime_ns for path in corpus.iterdir()}


def test_the_order_of_files_on_disk_and_the_hash_seed_change_nothing(small, tmp_path, monkeypatch):
    walk = os.walk
    monkeypatch.setattr(os, 'walk', lambda root: reversed([(a, b, c[::-1]) for a, b, c in walk(root)
                                                           if not {'__pycache__',
                                                                   'tests'} & set(Path(a).parts)]))
    prepare_demo.build(str(tmp_path / 'again'))
    assert content(tmp_path / 'again') == content(small)
    command = ("import sys, prepare_demo as p; p.PACKAGES, p.SHARD_TOKENS = ('datasets',), 60_000; "
               "p.installed_versions = lambda: {'datasets': '1.0'}; p.build(sys.argv[1])")
    subprocess.run([sys.executable, '-c', command, tmp_path / 'hash'], check=True, cwd=SCRIPT.parent,
                   env={**os.environ, 'PYTHONHASHSEED': '7'})
    assert content(tmp_path / 'hash') == content(small)


def test_another_version_or_a_damaged_file_is_named_and_the_corpus_made_again(small, monkeypatch, capsys):
    good = content(small)
    assert sum('train' in name for name in good) > 2
    (small / 'demo_train_000001.bin').write_bytes(b'torn')
    (small / 'hellaswag.jsonl').unlink()
    (small / 'new.tmp').mkdir()  # what a killed run leaves
    prepare_demo.build(str(small))
    text = capsys.readouterr().out
    assert 'demo_train_000001.bin is missing or damaged' in text and 'hellaswag.jsonl is missing' in text
    assert content(small) == good
    monkeypatch.setattr(prepare_demo, 'installed_versions', lambda: {'datasets': '2.0'})
    # fewer shards: none of the old ones may stay
    monkeypatch.setattr(prepare_demo, 'SHARD_TOKENS', 1_000_000)
    prepare_demo.build(str(small))
    assert 'datasets was 1.0, is 2.0' in capsys.readouterr().out
    assert sorted(content(small)) == ['demo_train_000001.bin', 'demo_val_000000.bin', 'hellaswag.jsonl',
                                      'meta.json']


@pytest.mark.parametrize('spoil', [{'versions': None}, {'files': []}, {'tokens': 5}])
def test_a_damaged_meta_json_means_that_the_corpus_is_made_again(small, capsys, spoil):
    good = content(small)
    meta = json.loads((small / 'meta.json').read_text())
    (small / 'meta.json').write_text(json.dumps({**meta, **spoil}))
    prepare_demo.build(str(small))
    assert 'making it again, since datasets was absent' in capsys.readouterr().out and content(small) == good


def test_a_second_process_in_the_folder_is_refused(small):
    good = content(small)
    (small / 'hellaswag.jsonl').unlink()
    with common.locked(str(small)), pytest.raises(UserError, match=rf'demo is in use by .*{os.getpid()}'):
        prepare_demo.build(str(small))
    assert not (small / 'hellaswag.jsonl').exists()
    prepare_demo.build(str(small))
    assert content(small) == good


def test_another_data_set_and_a_missing_package_are_refused_and_nothing_is_written(tmp_path, monkeypatch):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'fineweb_train_000001.bin').write_bytes(b'x')
    with pytest.raises(UserError, match='holds fineweb_train_000001'):
        prepare_demo.build(str(tmp_path / 'a'))
    monkeypatch.setattr(prepare_demo, 'PACKAGES', ('python', 'no_such_package'))
    with pytest.raises(UserError, match=r'not installed: no_such_package; pip install -r requirements\.txt'):
        prepare_demo.build(str(tmp_path / 'd'))
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['a', 'fineweb_train_000001.bin']


def test_ctrl_c_ends_it_by_the_signal_and_without_a_traceback(tmp_path):
    with subprocess.Popen([sys.executable, SCRIPT, f'--out={tmp_path}/demo'], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith('python ')  # the first package is read
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == -signal.SIGINT and 'Traceback' not in said


def test_none_of_the_packages_is_imported_to_read_it():
    packages = ('torch', 'pandas', 'datasets', 'tiktoken')
    command = ('import sys, prepare_demo as p; [p.source_files(x) for x in p.PACKAGES]; '
               f'p.installed_versions(); print([x for x in {packages} if x in sys.modules])')
    done = subprocess.run([sys.executable, '-c', command], capture_output=True, text=True, cwd=SCRIPT.parent)
    assert done.stdout.strip() == '[]', done.stderr
