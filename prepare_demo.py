"""
The embedded corpus: real English with nothing to download, for cpu.py, demo.sh and the tests.

    python prepare_demo.py [--out=data/demo]

Writes token shards (one token a byte), meta.json and hellaswag.jsonl, a 4-way multiple-choice set in
HellaSwag's shape. With the pinned packages and Python 3.11.7: 9,566,071 training and 504,420 validation
tokens, 3,400 examples, in 25 s.

The text is what the programmers of Python's standard library and of the packages that requirements.txt pins
wrote about their code: docstrings and blocks of comments, each of which is a document, cut into paragraphs,
of which prose stays and code, tables and signatures go. Nothing is imported. The result is the same for the
same versions of them and of Python: meta.json holds these, and the checksums.

Much of such text is copied from function to function, so a paragraph is dropped if any 32 letters and digits
in a row of it stand in an earlier document. So the 5% of documents that are held out for validation, picked
by a hash of their text, have no such passage in common with the training documents.

An example of the multiple-choice set is the start of a held-out sentence, and its next word or two among
three wrong endings that are the right ones of other documents. Where the context ends with a function word
(the, of, is, ...) and goes on with a content word, the wrong endings come from places where it was the other
way round, and conversely: grammar tells them apart, which a small model learns in minutes; what real
HellaSwag asks takes far longer. Each ending is right once and wrong three times, so an ending alone tells
nothing: chance is 25%, and only the context helps.
"""

import ast
import collections
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import signal
import sys
import sysconfig
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

if __name__ == '__main__':  # Ctrl-C ends it at once, while it imports too: what is whole stays
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import numpy as np
from tqdm import tqdm

from core.common import Parser, UserError, atomic_write, locked, run_main
from core.data import read_meta, write_meta, write_shard

# the standard library, and packages that requirements.txt pins; a paragraph in two of them stays in the first
PACKAGES = ('python', 'torch', 'numpy', 'pandas', 'datasets', 'tiktoken')
SKIPPED = {'test', 'tests', '__pycache__', 'site-packages'}
# parts of the standard library that Linux distributions package apart, so that a machine may lack them
OPTIONAL = {'idlelib', 'turtledemo', 'turtle', 'tkinter', 'lib2to3', 'distutils', 'ensurepip', 'venv'}
SOURCE = 'English docstrings and comments of installed Python packages'

PROSE = 0.85  # share of letters and spaces in a paragraph of prose, at least
WINDOW = 32  # letters and digits in a row that no two documents share; a power of two
HELD_OUT = 0.05
SHARD_TOKENS = 4_000_000
EOT = 256  # the end-of-text token of the tokenizer 'bytes'

EXAMPLES = 3_400
SEED = 1337
# in bytes, from the start of a sentence: contexts and endings together fit in the block_size of 128 of cpu.py
CONTEXT_BYTES = range(30, 91)
ENDING_BYTES = range(5, 11)
FUNCTION_WORDS = frozenset(re.findall('[a-z]+', """
    a an the this that these those each every any all some no its their his her your our my it they you we
    he she i which who what when where how if then else and or but nor so as than because while whether
    since though although unless until of to in on at by for from with without into onto over under between
    through during before after about against within is are was were be been being am do does did has have
    had can could will would shall should may might must not also only there here both either neither such
    same other more most just very too yet even still again already"""))

@dataclass
class Cut:
    """A place in a held-out document where an example could be made."""

    document: int
    package: str
    context: str
    ending: str

def main():
    parser = Parser(description=__doc__)
    parser.add_argument('--out', default='data/demo', help='folder to write to (default: %(default)s)')
    args = parser.parse_args()
    build(os.path.expanduser(args.out))

def build(out: str):
    """Make the corpus in `out`, unless it is there, whole and from the same versions; print which.

    Raises UserError if a package is missing, `out` holds something else, or another process is making it.
    """
    versions = installed_versions()
    old = read_old(out)
    if old and old.get('versions') == versions and old.get('files') == checksums(out):
        print(f'{out}: done already, checked: {summary(old)}')
        return
    if old:
        print(f'{out}: making it again, since it is from other versions, or damaged')
    # a second process would write to the same names
    with locked(out):
        make(out, versions)

def make(out: str, versions: dict[str, str]):
    """Read the documents, hold some out, and write all files."""
    began = time.time()
    documents = []
    for package in PACKAGES:
        found = []
        for path in tqdm(source_files(package), desc=package, unit=' files', mininterval=1, leave=False):
            for text in read_documents(path):
                found.append((package, text))
        n_bytes = sum(len(text) for _, text in found)
        print(f'{package} {versions[package]}: {len(found):,} documents, {n_bytes / 1e6:.1f} MB', flush=True)
        documents += found
    # over all packages at once: they copy from each other, too
    documents = deduplicate(documents)
    # The hash of its text gives a document its place in the order, and the first ones are held out: no
    # generator, and the same whatever else there is.
    documents.sort(key=lambda document: hashlib.sha256(document[1].encode()).digest())
    n_val = round(HELD_OUT * len(documents))
    held_out = documents[:n_val]
    val = tokenize(held_out)
    train = tokenize(documents[n_val:])
    examples = multiple_choice(held_out)

    n_bytes = dict.fromkeys(PACKAGES, 0)
    for package, text in documents:
        n_bytes[package] += len(text)
    meta = {'tokenizer': 'bytes', 'vocab_size': 257, 'eot': EOT, 'source': SOURCE, 'versions': versions,
            'bytes': n_bytes, 'documents': {'train': len(documents) - n_val, 'val': n_val},
            'tokens': {'train': len(train), 'val': len(val)}, 'examples': len(examples)}
    write(out, train, val, examples, meta)
    print(f'{out}: done in {time.time() - began:.0f} s: {summary(meta)}')

def write(out: str, train: np.ndarray, val: np.ndarray, examples: list[dict], meta: dict):
    """Write the corpus; stopped before its end, the folder says that it isn't complete."""
    write_meta(out, {**meta, 'complete': False})
    for name in files_of(out):  # there may be more than will be written
        os.remove(os.path.join(out, name))
    write_shard(os.path.join(out, 'demo_val_000000.bin'), val)
    for i, start in enumerate(range(0, len(train), SHARD_TOKENS), 1):
        write_shard(os.path.join(out, f'demo_train_{i:06d}.bin'), train[start : start + SHARD_TOKENS])
    # bytes: the same line ends on every system
    with atomic_write(os.path.join(out, 'hellaswag.jsonl'), 'wb') as f:
        for example in examples:
            f.write(json.dumps(example).encode('ascii') + b'\n')
    write_meta(out, {**meta, 'files': checksums(out)})

def files_of(out: str) -> list[str]:
    """The names of the corpus's files in a folder, but for meta.json."""
    return sorted(name for name in os.listdir(out) if name.startswith('demo_') or name == 'hellaswag.jsonl')

def checksums(out: str) -> dict[str, str]:
    """File -> SHA-256."""
    return {name: hashlib.sha256(Path(out, name).read_bytes()).hexdigest() for name in files_of(out)}

def installed_versions() -> dict[str, str]:
    """Version of each source and of this script. Raises UserError, naming what isn't installed."""
    packages = PACKAGES[1:]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'not installed: {", ".join(missing)}; pip install -r requirements.txt')
    versions = {'python': platform.python_version()}
    for name in packages:
        versions[name] = importlib.metadata.version(name).partition('+')[0]  # 2.13.0+cpu: 2.13.0
    versions['prepare_demo.py'] = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return versions

def read_old(out: str) -> dict | None:
    """meta.json of the corpus in `out`, None if there is none. Raises UserError if `out` holds something
    else."""
    path = os.path.join(out, 'meta.json')
    if os.path.exists(path):
        meta = read_meta(out)
        if meta.get('source') != SOURCE:
            raise UserError(f"{path} is another data set's; choose another --out")
        return meta
    for name in sorted(os.listdir(out)) if os.path.exists(out) else ():
        if name.endswith(('.bin', '.npy')) and not name.startswith('demo_'):
            raise UserError(f'{out} holds {name}, a shard of another data set; choose another --out')
    return None

def summary(meta: dict) -> str:
    tokens = meta['tokens']
    return (f'{tokens["train"]:,} training and {tokens["val"]:,} validation tokens (bytes) of '
            f'{sum(meta["documents"].values()):,} documents, {meta["examples"]:,} multiple-choice examples')

# from packages to documents

def source_files(package: str) -> list[Path]:
    """The Python files of a package, its tests left out, in the same order everywhere."""
    if package == 'python':
        root = Path(sysconfig.get_paths()['stdlib'])
        modules = sys.stdlib_module_names - OPTIONAL
    else:
        root = Path(importlib.util.find_spec(package).submodule_search_locations[0])
        modules = None  # all of them
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED]
        for name in names:
            path = Path(folder, name).relative_to(root)
            module = path.parts[0].removesuffix('.py')
            if name.endswith('.py') and (modules is None or module in modules):
                files.append(path)
    # by name with /: file systems list in any order, and Windows sorts \ elsewhere
    files.sort(key=Path.as_posix)
    return [root / path for path in files]

def read_documents(path: Path) -> list[str]:
    """The docstrings (strings of several lines that stand elsewhere too) and blocks of comments of one file
    that hold prose: its paragraphs, each on one line."""
    source = path.read_text(encoding='utf-8-sig', errors='replace')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # old escapes in strings
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except SyntaxError:  # written for a later Python
            return []
    # an expression that is nothing but a string is a docstring, or used as one
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = []
    for node in nodes:
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and (id(node) in bare or '\n' in node.value):
            texts.append(node.value)
    # comments that stand on lines of their own
    for block in re.findall(r'(?m)(?:^[ \t]*#.*\n)+', source):
        texts.append(re.sub(r'(?m)^[ \t]*# ?', '', block))
    documents = []
    for text in texts:
        prose = [paragraph for paragraph in paragraphs(text) if is_prose(paragraph)]
        if prose:
            documents.append('\n'.join(prose))
    return documents

def paragraphs(text: str) -> list[str]:
    """Cut where a line is empty, changes its indentation or starts an item; whitespace becomes single
    spaces."""
    found = []
    indent = None  # of the paragraph's next line; None: a new one begins
    for line in inspect.cleandoc(text).splitlines():
        words = line.split()
        if not words:
            indent = None
            continue
        here = len(line) - len(line.lstrip())
        is_item = words[0][0] in '-*:@+|.>'
        if is_item or here != indent:
            found.append([])
        found[-1] += words
        indent = here + 2 if is_item else here
    return [' '.join(words) for words in found]

def is_prose(paragraph: str) -> bool:
    """Printable ASCII, mostly letters and spaces, words of a normal length, no template, no doctest."""
    if not paragraph.isascii() or not paragraph.isprintable():
        return False
    letters = sum(len(run) for run in re.findall('[A-Za-z ]+', paragraph))
    if letters < PROSE * len(paragraph):
        return False
    if 12 * paragraph.count(' ') < len(paragraph):  # words of more than 11 letters on average
        return False
    return not re.search(r'[{}]|%\(|>>>', paragraph)

def deduplicate(documents: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(package, text) without paragraphs that share 32 letters and digits in a row with an earlier document,
    or have fewer than 32."""
    owners = []  # of each paragraph: its document
    lines = []  # its text
    keys = []  # its letters and digits
    for i, (_, text) in enumerate(documents):
        for line in text.split('\n'):
            # what differs in markup, line breaks or case alone is the same text
            key = re.sub('[^a-z0-9]', '', line.lower())
            if len(key) >= WINDOW:
                owners.append(i)
                lines.append(line)
                keys.append(key)
    copied = copied_lines(owners, keys)
    kept = collections.defaultdict(list)
    for i, line in enumerate(lines):
        if i not in copied:
            kept[owners[i]].append(line)
    return [(documents[i][0], '\n'.join(found)) for i, found in kept.items()]

def copied_lines(owners: list[int], keys: list[str]) -> set[int]:
    """The numbers of the paragraphs that hold WINDOW characters in a row of an earlier document's."""
    hashes = window_hashes(''.join(keys))
    # The paragraph of each character; a window that goes from one paragraph into the next isn't one.
    line_of = np.repeat(np.arange(len(keys)), [len(key) for key in keys])
    is_inside = line_of[: len(hashes)] == line_of[WINDOW - 1 :]
    hashes = hashes[is_inside]
    line_of = line_of[: len(is_inside)][is_inside]
    owner_of = np.array(owners)[line_of]
    copied = set()
    # Equal hashes are in the same one of 16 parts, which take a second or two together.
    part_of = hashes >> np.uint64(60)
    for part in tqdm(range(16), desc='removing what is copied', leave=False):
        places = np.flatnonzero(part_of == part)
        # For each window, the first place where its characters stand: another document's means a copy.
        _, first, which = np.unique(hashes[places], return_index=True, return_inverse=True)
        is_copy = owner_of[places[first]][which] != owner_of[places]
        copied.update(line_of[places[is_copy]].tolist())
    return copied

def window_hashes(text: str) -> np.ndarray:
    """Polynomial hashes, modulo 2**64, of the WINDOW characters from each one on: uint64 (len(text) - WINDOW
    + 1,)."""
    hashes = np.frombuffer(text.encode(), np.uint8).astype(np.uint64)
    width = 1
    factor = 0x9E3779B97F4A7C15
    while width < WINDOW:  # two neighbors of one width make one of twice the width
        hashes = hashes[:-width] * np.uint64(factor) + hashes[width:]
        width = 2 * width
        factor = factor * factor % 2**64
    return hashes

def tokenize(documents: list[tuple[str, str]]) -> np.ndarray:
    """Each document's bytes as uint16, the end-of-text token before it."""
    text = ''.join('\0' + text for _, text in documents)  # printable ASCII: no document holds a zero byte
    tokens = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.uint16)
    tokens[tokens == 0] = EOT
    return tokens

# the multiple-choice set

def multiple_choice(documents: list[tuple[str, str]]) -> list[dict]:
    """Examples in HellaSwag's shape from held-out documents: at most one of each kind per document."""
    after_content = []  # cuts between a content word and a function word
    after_function = []  # the other way round
    for i, (package, text) in enumerate(documents):
        found = find_cuts(text)
        if False in found:
            after_content.append(Cut(i, package, *found[False]))
        if True in found:
            after_function.append(Cut(i, package, *found[True]))
    # as many of each kind, from all over the documents
    n = min(EXAMPLES // 2, len(after_content), len(after_function))
    after_content = spread(after_content, n)
    after_function = spread(after_function, n)

    # each place is right equally often
    random = np.random.RandomState(SEED)
    labels = random.permutation(np.arange(2 * n) % 4)
    examples = []
    for rights, others in ((after_content, after_function), (after_function, after_content)):
        for right, wrongs in zip(rights, wrong_endings(rights, others)):
            endings = [wrong.ending for wrong in wrongs]
            random.shuffle(endings)
            number = len(examples)
            label = int(labels[number])
            endings.insert(label, right.ending)
            examples.append({'ind': number, 'activity_label': right.package, 'ctx': right.context,
                             'endings': endings, 'label': label})
    return examples

def find_cuts(text: str) -> dict[bool, tuple[str, str]]:
    """Whether a function word stands before a cut -> (context, ending) at the first such place."""
    found = {}
    for sentence in re.findall(r'[^.!?:\n]+', text):
        words = sentence.split()
        # shorter contexts say too little
        for n in range(4, len(words)):
            before = words[n - 1] in FUNCTION_WORDS
            after = words[n] in FUNCTION_WORDS
            if before == after or before in found:
                continue
            is_plain = all(word.isalpha() and word.islower() for word in words[n - 1 : n + 1])
            context = ' '.join(words[:n])
            ending = ending_of(words[n:])
            if is_plain and ending and len(context) in CONTEXT_BYTES:
                found[before] = (context, ending)
    return found

def ending_of(words: list[str]) -> str:
    """The first words, as few as make an ending's length; '' if none do."""
    text = ''
    for word in words:
        text = f'{text} {word}' if text else word
        if len(text) in ENDING_BYTES:
            return text
        if len(text) > ENDING_BYTES[-1]:
            break
    return ''

def spread(cuts: list[Cut], n: int) -> list[Cut]:
    """n of the cuts, at even distances."""
    places = np.linspace(0, len(cuts) - 1, n).astype(int)
    return [cuts[place] for place in places]

def wrong_endings(rights: list[Cut], others: list[Cut]) -> list[list[Cut]]:
    """For each cut three of the others, each of those three times in all, and none of the cut's own
    document."""
    n = len(rights)
    # Equal endings stand side by side in this order, so that a third of the list apart they differ.
    others = sorted(others, key=lambda cut: cut.ending)
    # Shift the others against the cuts until no cut meets its own document.
    for start in range(n):
        trios = []
        for k in range(n):
            places = (k + start, k + start + n // 3, k + start + 2 * n // 3)
            trios.append([others[place % n] for place in places])
        if not any(shares_document(right, trio) for right, trio in zip(rights, trios)):
            return trios
    raise AssertionError('every way to pair the cuts gives one an ending of its own document')

def shares_document(right: Cut, wrongs: list[Cut]) -> bool:
    """Whether a wrong ending comes from the document of the right one."""
    return any(wrong.document == right.document for wrong in wrongs)

if __name__ == '__main__':
    run_main(main)
