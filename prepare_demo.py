"""
The embedded corpus: real English with nothing to download, for cpu.py, demo.sh and the tests.

    python prepare_demo.py [--out=data/demo]

Writes token shards (one token a byte), meta.json and hellaswag.jsonl, a 4-way multiple-choice set in HellaSwag's shape.
With the pinned packages and Python 3.11.7: 9,566,071 training and 504,420 validation tokens, 3,400 examples, in 25 s.

The text is what the programmers of Python's standard library and of the packages that requirements.txt pins wrote about
their code: docstrings and blocks of comments, cut into paragraphs, of which prose stays and code, tables and signatures
go. Files are read with ast and nothing is imported. The result is the same for the same versions of them and of Python
(meta.json holds the versions and the checksums): torch's Linux and macOS wheels hold the same text.

A document is one docstring or one block of comments. Much of such text is copied from function to function, so a
paragraph is dropped if any 32 letters and digits in a row of it (case, spacing and punctuation ignored) stand in an
earlier document. No two paragraphs of different documents then have such a passage in common, so the 5% of documents
that are held out for validation, picked by a hash of their text, share none with the training documents.

An example of the multiple-choice set is the start of a held-out sentence, and its next word or two among three wrong endings
that are the right ones of other documents. Where the context ends with a function word (the, of, is, ...) and goes on with a
content word, the wrong endings come from places where it was the other way round, and conversely: grammar tells them apart,
which a small model learns in minutes; what real HellaSwag asks takes far longer. Each ending is right once and wrong three
times, so an ending alone tells nothing: chance is 25%, and only the context helps.
"""

import argparse
import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
import time
import warnings
from pathlib import Path

import numpy as np

from common import UserError, run_main
from data import read_meta, write_shard

# the standard library, and packages that requirements.txt pins; a paragraph in two of them stays in the first
PACKAGES = ('python', 'torch', 'numpy', 'pandas', 'datasets', 'tiktoken')
SKIPPED = {'test', 'tests', '__pycache__', 'site-packages'}
# parts of the standard library that Linux distributions package apart, so that a machine may lack them
OPTIONAL = {'idlelib', 'turtledemo', 'turtle', 'tkinter', 'lib2to3', 'distutils', 'ensurepip', 'venv'}
PROSE = 0.85  # share of letters and spaces in a paragraph of prose, at least
WINDOW = 32  # letters and digits in a row that no two documents share; a power of two
HELD_OUT, SHARD_TOKENS, EXAMPLES, EOT, SEED = 0.05, 4_000_000, 3_400, 256, 1337
SOURCE = 'English docstrings and comments of installed Python packages'
# Contexts have 30 to 90 bytes from the start of a sentence, endings 5 to 10: together within the 128 of cpu.py.
FUNCTION_WORDS = frozenset(re.findall('[a-z]+', """
    a an the this that these those each every any all some no its their his her your our my it they you we he she i which who
    what when where how if then else and or but nor so as than because while whether since though although unless until
    of to in on at by for from with without into onto over under between through during before after about against within
    is are was were be been being am do does did has have had can could will would shall should may might must not also only
    there here both either neither such same other more most just very too yet even still again already"""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='data/demo', help='folder to write to (default: %(default)s)')
    build(parser.parse_args().out)


def build(out: str):
    """Make the corpus in `out`, unless it is there, whole and from the same versions; print which.

    Raises UserError if a package is missing or `out` holds something else.
    """
    began, versions, old = time.time(), installed_versions(), read_old(out)
    if old:
        reasons = [f'{name} was {old["versions"].get(name, "absent")}, is {version}'
                   for name, version in versions.items() if old['versions'].get(name) != version]
        reasons += [f'{name} is missing or damaged' for name, digest in old['files'].items()
                    if sha256_of(os.path.join(out, name)) != digest]
        if not reasons:
            print(f'{out}: done already, checked: {summary(old)}')
            return
        print(f'{out}: making it again, since {"; ".join(reasons)}')

    documents = []
    for package in PACKAGES:
        found = [(package, text) for path in source_files(package) for text in read_documents(path)]
        print(f'{package} {versions[package]}: {len(found):,} documents, {sum(len(d) for _, d in found) / 1e6:.1f} MB')
        documents += found
    documents = deduplicate(documents)
    # The hash of its text gives a document its place in the order, and the first ones are held out: no generator, and
    # the same whatever else there is.
    documents.sort(key=lambda document: hashlib.sha256(document[1].encode()).digest())
    n_val = round(HELD_OUT * len(documents))
    val, train = tokenize(documents[:n_val]), tokenize(documents[n_val:])
    examples = multiple_choice(documents[:n_val])

    new = os.path.join(out, 'new.tmp')  # all is written there before anything is replaced
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new)
    write_shard(os.path.join(new, 'demo_val_000000.bin'), val)
    for i, start in enumerate(range(0, len(train), SHARD_TOKENS), 1):
        write_shard(os.path.join(new, f'demo_train_{i:06d}.bin'), train[start : start + SHARD_TOKENS])
    with open(os.path.join(new, 'hellaswag.jsonl'), 'w', encoding='ascii', newline='\n') as f:
        f.writelines(json.dumps(example) + '\n' for example in examples)
    names = sorted(os.listdir(new))
    meta = {'tokenizer': 'bytes', 'vocab_size': 257, 'eot': EOT, 'source': SOURCE, 'versions': versions,
            'bytes': {p: sum(len(text) for package, text in documents if package == p) for p in PACKAGES},
            'documents': {'train': len(documents) - n_val, 'val': n_val},
            'tokens': {'train': len(train), 'val': len(val)}, 'examples': len(examples),
            'files': {name: sha256_of(os.path.join(new, name)) for name in names}}
    with open(os.path.join(new, 'meta.json'), 'w', encoding='ascii', newline='\n') as f:
        json.dump(meta, f, indent=1)
    for name in [*names, 'meta.json']:  # meta.json last: stopped before it, its checksums tell the next run
        os.replace(os.path.join(new, name), os.path.join(out, name))
    for name in os.listdir(out):  # a corpus of fewer shards replaced a longer one
        if name.startswith('demo_') and name not in names:
            os.remove(os.path.join(out, name))
    os.rmdir(new)
    print(f'{out}: done in {time.time() - began:.0f} s: {summary(meta)}')


def installed_versions() -> dict[str, str]:
    """Version of each source, of Python and of this script. Raises UserError, naming what isn't installed."""
    missing = [name for name in PACKAGES[1:] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'not installed: {", ".join(missing)}; pip install -r requirements.txt')
    versions = {name: importlib.metadata.version(name).partition('+')[0] for name in PACKAGES[1:]}  # 2.13.0+cpu: 2.13.0
    return {'python': platform.python_version(), **versions, 'prepare_demo.py': sha256_of(__file__)[:12]}


def read_old(out: str) -> dict | None:
    """meta.json of the corpus in `out`, None if there is none. Raises UserError if `out` holds something else."""
    path = os.path.join(out, 'meta.json')
    if os.path.exists(path):
        meta = read_meta(out)
        if meta.get('source') != SOURCE:
            raise UserError(f"{path} is another data set's; choose another --out")
        return meta
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f'{out} is a file; choose another --out')
    others = [name for name in sorted(os.listdir(out) if os.path.exists(out) else ())
              if name.endswith(('.bin', '.npy')) and not name.startswith('demo_')]
    if others:
        raise UserError(f'{out} holds {others[0]}, a shard of another data set; choose another --out')
    return None


def sha256_of(path: str) -> str:
    """SHA-256 of a file, '' if there is none."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if os.path.exists(path) else ''


def summary(meta: dict) -> str:
    return (f'{meta["tokens"]["train"]:,} training and {meta["tokens"]["val"]:,} validation tokens (bytes) of '
            f'{sum(meta["documents"].values()):,} documents, {meta["examples"]:,} multiple-choice examples')


def source_files(package: str) -> list[Path]:
    """The Python files of a package, its tests left out, in the same order everywhere."""
    if package == 'python':
        root, tops = Path(sysconfig.get_paths()['stdlib']), sys.stdlib_module_names - OPTIONAL
    else:
        root, tops = Path(importlib.util.find_spec(package).submodule_search_locations[0]), None
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED]
        files += [Path(folder, name).relative_to(root) for name in names if name.endswith('.py')]
    return [root / f for f in sorted(files, key=Path.as_posix) if not tops or f.parts[0].removesuffix('.py') in tops]


def read_documents(path: Path) -> list[str]:
    """The docstrings (strings of several lines that stand elsewhere too) and blocks of comments of one file that hold
    prose: its paragraphs, each on one line."""
    source = path.read_text(encoding='utf-8-sig', errors='replace')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # old escapes in strings
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except SyntaxError:  # written for a later Python
            return []
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
             and (id(node) in bare or '\n' in node.value)]
    texts += [re.sub(r'(?m)^[ \t]*# ?', '', block) for block in re.findall(r'(?m)(?:^[ \t]*#.*\n)+', source)]
    documents = ['\n'.join(filter(is_prose, paragraphs(text))) for text in texts]
    return [document for document in documents if document]


def paragraphs(text: str) -> list[str]:
    """Cut where a line is empty, changes its indentation or starts an item; whitespace becomes single spaces."""
    found, indent = [], None
    for line in inspect.cleandoc(text).splitlines():
        words = line.split()
        if not words:
            indent = None
            continue
        here, item = len(line) - len(line.lstrip()), words[0][0] in '-*:@+|.>'
        if item or here != indent:
            found.append([])
        found[-1] += words
        indent = here + 2 * item
    return [' '.join(words) for words in found]


def is_prose(paragraph: str) -> bool:
    """Printable ASCII, mostly letters and spaces, words of a normal length, no template, no doctest."""
    letters = sum(map(len, re.findall('[A-Za-z ]+', paragraph)))
    return (paragraph.isascii() and paragraph.isprintable() and letters >= PROSE * len(paragraph)
            and 12 * paragraph.count(' ') >= len(paragraph) and not re.search(r'[{}]|%\(|>>>', paragraph))


def deduplicate(documents: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(package, text) without the paragraphs that share 32 letters and digits in a row with an earlier document, and
    without those that have fewer than 32."""
    owners, lines, keys = [], [], []
    for i, (_, text) in enumerate(documents):
        for line in text.split('\n'):
            key = re.sub('[^a-z0-9]', '', line.lower())
            if len(key) >= WINDOW:
                owners.append(i), lines.append(line), keys.append(key)
    line_of = np.repeat(np.arange(len(keys)), [len(key) for key in keys])  # of each character
    # hashes[i]: polynomial hash, modulo 2**64, of the characters from i to i + width
    hashes, width, factor = np.frombuffer(''.join(keys).encode(), np.uint8).astype(np.uint64), 1, 0x9E3779B97F4A7C15
    while width < WINDOW:
        hashes = hashes[:-width] * np.uint64(factor) + hashes[width:]
        width, factor = 2 * width, factor * factor % 2**64
    inside = line_of[: len(hashes)] == line_of[WINDOW - 1 :]
    hashes, line_of = hashes[inside], line_of[: len(hashes)][inside]
    owner_of = np.array(owners)[line_of]
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    copied = set(line_of[owner_of[first][which] != owner_of].tolist())
    kept = {}
    for i, line in enumerate(lines):
        if i not in copied:
            kept.setdefault(owners[i], []).append(line)
    return [(documents[i][0], '\n'.join(lines)) for i, lines in kept.items()]


def tokenize(documents: list[tuple[str, str]]) -> np.ndarray:
    """Each document's bytes as uint16, the end-of-text token before it."""
    text = ''.join('\0' + text for _, text in documents)  # printable ASCII: no document holds a zero byte
    tokens = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.uint16)
    tokens[tokens == 0] = EOT
    return tokens


def multiple_choice(documents: list[tuple[str, str]]) -> list[dict]:
    """Examples in HellaSwag's shape, from (package, text) of held-out documents: at most one of each kind per document."""
    kinds = ([], [])  # cut between a content and a function word, and the other way round
    for i, (package, text) in enumerate(documents):
        found = set()
        for words in map(str.split, re.findall(r'[^.!?:\n]+', text)):
            for n in range(4, len(words)):
                before, after = words[n - 1] in FUNCTION_WORDS, words[n] in FUNCTION_WORDS
                plain = all(word.isalpha() and word.islower() for word in words[n - 1 : n + 1])
                ctx, ends = ' '.join(words[:n]), (' '.join(words[n:m]) for m in range(n + 1, len(words) + 1))
                ending = next((end for end in ends if 5 <= len(end) <= 10), None)
                if plain and before != after and before not in found and ending and 30 <= len(ctx) <= 90:
                    found.add(before)
                    kinds[before].append((i, package, ctx, ending))
    n, random = min(EXAMPLES // 2, *map(len, kinds)), np.random.RandomState(SEED)
    kinds = [[kind[k] for k in np.linspace(0, len(kind) - 1, n).astype(int)] for kind in kinds]  # as many of each
    labels = random.permutation(np.arange(2 * n) % 4)
    examples = []
    for rights, wrongs in (kinds, kinds[::-1]):
        wrongs = sorted(wrongs, key=lambda cut: cut[3])  # equal endings side by side: a third of the list apart they differ
        trios = next(trios for start in range(n)  # the first way in which no ending comes from the context's own document
                     for trios in [[[wrongs[(k + start + shift) % n] for shift in (0, n // 3, 2 * n // 3)] for k in range(n)]]
                     if all(wrong[0] != right[0] for right, trio in zip(rights, trios) for wrong in trio))
        for (_, package, ctx, ending), trio in zip(rights, trios):
            endings = [wrong[3] for wrong in trio]
            random.shuffle(endings)
            label = int(labels[len(examples)])
            endings.insert(label, ending)
            examples.append({'ind': len(examples), 'activity_label': package, 'ctx': ctx, 'endings': endings, 'label': label})
    return examples


if __name__ == '__main__':
    run_main(main)
