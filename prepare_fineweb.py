"""
FineWeb-Edu, or your own files, to token shards: on all cores, in bounded memory, resumable, exact.

    python prepare_fineweb.py                                      # sample-10BT from the Hub to data/edu_fineweb10B
    python prepare_fineweb.py --max_tokens=1_000_000_000           # only its first 1B tokens
    python prepare_fineweb.py --source texts --out=data/mine       # your own files: a folder, files or 'x/*.parquet'
    python prepare_fineweb.py --source book.txt --val_tokens=20_000 --out=data/book      # a small corpus
    python prepare_fineweb.py --pretokenized                       # shards that are ready on the Hub: no tokenizing

sample-10BT is 14 parquet files of 2 GB, downloaded one ahead and deleted once their tokens are in shards; its 10B
tokens become 100 shards of 200 MB. Every document is the end-of-text token followed by encode_ordinary(text), and the
shards in their order are the documents in theirs: a document goes on in the next shard where one is full. The bytes
don't depend on the number of workers.

The first shard is for validation. A corpus that isn't much larger than a shard takes --val_tokens=N instead: documents
that hold about N tokens, spread evenly over the source, become the validation shard, and the others train. Where the
source is a few text files, pieces of them count as documents.

Killed at any moment, the same command goes on after the last finished shard (meta.json says where in the source that
is) and ends in the same bytes. A folder made with other options is refused, and so is one that another process is in.

Threads do the tokenizing, not processes: tiktoken works outside the GIL, so nothing is pickled, nothing is started
anew, and the memory is that of one process. dev/bench_prepare.py measures it.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import os
import re
import shutil
import sys
from dataclasses import dataclass, field

import numpy as np

import sources
from common import UserError, locked, run_main
from data import get_tokenizer, read_meta, shard_layout, split_of, write_meta, write_shard

FINEWEB = 'HuggingFaceFW/fineweb-edu'
PRETOKENIZED = 'kjj0/finewebedu10B-gpt2'
EOT = '<|endoftext|>'
# what decides the bytes
OPTIONS = ('sample', 'source', 'pretokenized', 'tokenizer', 'shard_tokens', 'max_tokens', 'val_tokens')
BYTES_PER_TOKEN = {'gpt2': 4.2, 'bytes': 1}  # of English, for estimates
FEW_FILES = 32  # text files up to here are held out in pieces, more of them whole
PATIENCE = 10  # seconds that tiktoken may take over some documents before the longest word is named
LONG_WORD = 10_000  # characters from which on a word takes seconds: tiktoken's time grows with their square


def main():
    args = parse_arguments()
    try:
        prepare(args)
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on after the last finished shard', file=sys.stderr, flush=True)
        raise  # run_main ends the process by the signal, at once: tiktoken's threads may have minutes to go


def parse_arguments():
    """The command line. Raises UserError for options that don't go together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--sample', default='10BT', choices=('10BT', '100BT', '350BT'),
        help="which sample of the Hub's FineWeb-Edu; default: 10BT")
    add('--source', nargs='+', action='extend', default=[], metavar='PATH',
        help="local files instead, folders of them, or patterns: .parquet (column text), .jsonl, .ndjson or .json "
        '(key text), .txt or .md (a file is a document), all but .parquet also .gz or .zst; in sorted order')
    add('--pretokenized', nargs='?', const=PRETOKENIZED, default='', metavar='DATASET',
        help='ready shards of this layout from this dataset on the Hub instead; without a name: ' + PRETOKENIZED)
    add('--out', default='', metavar='DIR', help='folder of the shards; default: data/edu_fineweb10B, by the sample')
    add('--tokenizer', default='gpt2', choices=('gpt2', 'bytes'), help='default: gpt2')
    add('--shard_tokens', type=int, default=100_000_000, metavar='N',
        help='tokens per shard, 2 bytes each; default: 100M')
    add('--val_tokens', type=int, default=0, metavar='N', help='hold out documents of about N tokens for validation, '
        'evenly over the source; default 0: the first shard')
    add('--max_tokens', type=int, default=0, metavar='N', help='stop after N tokens in all, validation included '
        '(with --pretokenized: whole shards, at least two); default 0: the whole source')
    add('--workers', type=int, default=count_cores(), metavar='N', help='threads that tokenize; default: all cores')
    add('--keep', action='store_true',
        help="keep the Hub's parquet files in DIR/hub; default: each is deleted once done")
    args = parser.parse_args()
    check_arguments(args)
    args.out = os.path.expanduser(args.out or f'data/edu_fineweb{args.sample[:-1]}')
    args.source = [os.path.expanduser(pattern) for pattern in args.source]
    return args


def count_cores() -> int:
    """The cores that this process may use, where the system says which."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_arguments(args):
    """Raises UserError for options that don't go together."""
    if args.source and args.pretokenized:
        raise UserError('--source and --pretokenized exclude each other')
    if args.source and not args.out:
        raise UserError('--source needs --out, the folder to make')
    as_it_is = (args.tokenizer, args.shard_tokens, args.val_tokens) == ('gpt2', 100_000_000, 0)
    if args.pretokenized and not as_it_is:
        raise UserError('--pretokenized takes the shards as they are: leave out --tokenizer, --shard_tokens and '
                        '--val_tokens')
    if not 2 <= args.shard_tokens < 2**31:
        raise UserError(f'--shard_tokens must be from 2 to {2**31 - 1}, not {args.shard_tokens}')
    if args.max_tokens < 0 or args.workers < 1:
        raise UserError('--max_tokens must be at least 0 and --workers at least 1')
    if not 0 <= args.val_tokens <= args.shard_tokens:
        raise UserError(f'--val_tokens must be from 0 to --shard_tokens={args.shard_tokens}, not {args.val_tokens}')
    if args.max_tokens and not args.pretokenized and args.max_tokens <= for_validation(args):
        what = f'is all for validation (--val_tokens={args.val_tokens}): choose fewer'
        if not args.val_tokens:
            what = (f'fit in the first shard of {args.shard_tokens}, which is for validation: choose a smaller '
                    '--shard_tokens, or --val_tokens=N')
        raise UserError(f'--max_tokens={args.max_tokens} {what}, so that there is something to train on')


def for_validation(args) -> int:
    """Tokens that validation takes."""
    return args.val_tokens or args.shard_tokens


def prepare(args):
    """Make the folder of args.out, or go on with it. Raises UserError for whatever stands in the way."""
    meta, _ = read_folder(args)
    if meta is None:
        meta = new_meta(args)  # before there is a folder: most mistakes show here
    elif meta['complete']:
        print(f'{args.out} is complete already: {summary(args, meta)}')
        return
    with locked(args.out):
        # Read it again: until the lock was ours, another process may have worked here.
        found, damaged = read_folder(args)
        if found and found['complete']:
            print(f'{args.out} is complete already: {summary(args, found)}')
            return
        if damaged:
            print(f'{damaged} is missing or damaged: going on from there')
        meta = go_on(args, found) if found else meta
        save(args, meta)
        print(needs(args, meta), flush=True)
        if args.pretokenized:
            fetch_shards(args, meta)
        else:
            make_shards(args, meta)
        if not args.keep:
            shutil.rmtree(os.path.join(args.out, 'hub'), ignore_errors=True)
    print(f'{args.out}: {summary(args, meta)}')


# what is done, what is to do


def read_folder(args) -> tuple[dict | None, str]:
    """(meta.json as found in the folder, cut back to its valid shards; the name of the first one that isn't, or '').

    (None, '') if there is nothing yet that other options couldn't replace. Raises UserError if the folder was made
    with other options or from other files, or holds shards of someone else's.
    """
    there = []
    if os.path.exists(args.out):
        if not os.path.isdir(args.out):
            raise UserError(f'{args.out} is a file: choose another --out')
        there = [name for name in os.listdir(args.out) if name.endswith(('.bin', '.npy'))]
    meta = read_meta(args.out)
    has_meta = os.path.exists(os.path.join(args.out, 'meta.json'))
    if not is_ours(meta) and (there or has_meta):
        raise UserError(f"{args.out} holds data that this script didn't make: choose another --out")
    if not there:
        return None, ''
    for name in OPTIONS:
        old = meta['options'].get(name, 0)  # older folders don't know --val_tokens
        new = getattr(args, name)
        if old != new:
            raise UserError(f'{args.out} was made with --{name}={old}, not {new}: go on with the same options, or '
                            'choose another --out')
    damaged = cut_back(args, meta)
    if args.source and meta['complete']:
        check_unchanged(args, meta)
    return meta, damaged


def is_ours(meta: dict) -> bool:
    """Whether a meta.json is one that this script wrote."""
    types = {'options': dict, 'complete': bool, 'sources': list, 'shards': list, 'revision': str}
    for name, kind in types.items():
        if type(meta.get(name)) is not kind:
            return False
    for entry in meta['sources']:
        if type(entry) is not dict or type(entry.get('file')) is not str or type(entry.get('bytes')) is not int:
            return False
    # of the shards read_meta has checked the names
    return all(type(shard.get('tokens')) is int for shard in meta['shards'])


def cut_back(args, meta: dict) -> str:
    """Take the first shard that is missing or damaged, and those after it, out of meta.json; its name, or ''."""
    shards = meta['shards']
    for i, shard in enumerate(shards):
        n_tokens = shard['tokens']
        # The held-out shard is written before meta.json: stopped in between, it holds more than is needed.
        at_least = bool(args.val_tokens) and i == 0
        if not is_shard(os.path.join(args.out, shard['file']), n_tokens, at_least and not meta['complete']):
            del shards[i:]
            if args.val_tokens and len(shards) == 1:
                del shards[:]  # without a training shard nothing says what is held out until where
            meta['complete'] = False
            return shard['file']
    return ''


def is_shard(path: str, n_tokens: int, or_more: bool = False) -> bool:
    """Whether the file is a whole shard of n_tokens, or more."""
    try:
        found = shard_layout(path)[1]
    except (UserError, FileNotFoundError):
        return False
    return found == n_tokens or (or_more and found > n_tokens)


def check_unchanged(args, meta: dict):
    """Raises UserError if a source of a complete folder has changed, or has come since; those that are gone may be."""
    known = {entry['file']: entry for entry in meta['sources']}
    try:
        files = local_files(args.source)
    except UserError:  # all are gone
        return
    for entry in files:
        if entry['file'] not in known:
            raise UserError(f'{args.out} is complete without {entry["file"]}: choose another --out')
        if entry != known[entry['file']]:
            raise UserError(f'{entry["file"]} has changed since {args.out} was begun: choose another --out')


def go_on(args, meta: dict) -> dict:
    """The meta.json of a folder that isn't complete, with the sources as they are now.

    Raises UserError if one that is in the finished shards has changed; later ones may.
    """
    if not args.source:
        return meta
    files = local_files(args.source)
    source, document, offset = next_position(meta)
    used = source + (document + offset > 0)
    for i in range(used):
        if files[i : i + 1] != meta['sources'][i : i + 1]:
            raise UserError(f'{meta["sources"][i]["file"]} has changed since {args.out} was begun, or is gone: '
                            'choose another --out')
    return {**meta, 'sources': files}


def next_position(meta: dict) -> list:
    """Where in the sources the next shard begins: [file, document, token of the document's]."""
    return meta['shards'][-1]['next'] if meta['shards'] else [0, 0, 0]


def new_meta(args) -> dict:
    """The meta.json of a folder to begin. Raises UserError if the source isn't there, or leaves nothing to train on."""
    enc = get_tokenizer(args.tokenizer)
    revision = ''
    if args.source:
        files = local_files(args.source)
        check_size(args, files)
    else:
        files, revision = hub_files(args)
    options = {name: getattr(args, name) for name in OPTIONS}
    return {'tokenizer': args.tokenizer, 'vocab_size': enc.n_vocab, 'eot': enc.eot_token, 'complete': False,
            'options': options, 'sources': files, 'revision': revision, 'shards': [],
            'piece': piece_size(args, files)}


def local_files(patterns: list[str]) -> list[dict]:
    """Name and size of each file of --source. Raises UserError if there is none, or one is no source."""
    files = []
    for path in sources.find(patterns):
        sources.text_bytes(path)  # raises for a parquet file that can't be read
        files.append({'file': path, 'bytes': os.path.getsize(path)})
    return files


def check_size(args, files: list[dict]):
    """Raises UserError if the source can't hold more tokens than validation takes: before hours of work, not after."""
    limit = for_validation(args)
    most = 0
    for entry in files:
        most += sources.most_tokens(entry['file'], limit - most)
        if most > limit:
            return
    raise too_small(args, f'at most {most:,}' if most else '0')


def too_small(args, n_tokens: str) -> UserError:
    """What to say, and to do, about a source that is used up by validation."""
    if args.val_tokens:
        return UserError(f'the source holds {n_tokens} tokens, and --val_tokens={args.val_tokens} leaves nothing to '
                         'train on: choose fewer')
    return UserError(f'the source holds {n_tokens} tokens, and the first {args.shard_tokens:,} are for validation: '
                     'choose a smaller --shard_tokens, so that there is something to train on, or hold out documents '
                     'from all over the source with --val_tokens=N')


def piece_size(args, files: list[dict]) -> int:
    """Characters of a text file that are held out, or not, together: about a 16th of --val_tokens where the files are
    few, else whole files or large parts of them."""
    if not args.val_tokens or len(files) > FEW_FILES:
        return sources.CHUNK
    wanted = int(args.val_tokens * BYTES_PER_TOKEN[args.tokenizer] / 16)
    return max(1, min(sources.CHUNK, wanted))


def save(args, meta: dict):
    """Write meta.json with totals by split. A shard counts as finished once it is in there."""
    for key in ('tokens', 'documents'):
        meta[key] = {'train': 0, 'val': 0}
        for shard in meta['shards']:
            meta[key][split_of(shard['file'])] += shard[key]
    with full_disk_named(meta):
        write_meta(args.out, meta)


@contextlib.contextmanager
def full_disk_named(meta: dict):
    """Adds to the error of a failed write what stays, and what to do."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{error}; {len(meta["shards"])} finished shards are kept: make room, then run the same '
                        'command again') from None


def needs(args, meta: dict) -> str:
    """The first line: what there is to do, what it needs on the disk (an estimate) and what the disk has."""
    files = meta['sources']
    size = sum(entry['bytes'] for entry in files)
    passing = 0  # bytes on the disk that are deleted in the end
    if args.source:
        where = describe_files(files)
        tokens = sum(sources.text_bytes(entry['file']) for entry in files) / BYTES_PER_TOKEN[args.tokenizer]
    elif args.pretokenized:
        where = f'{len(files)} shards of {args.pretokenized}'
        tokens = size / 2
    else:
        where = f'{len(files)} files of {FINEWEB} sample-{args.sample}'
        gpt2_tokens = float(args.sample[:-2]) * 1e9
        tokens = gpt2_tokens * (1 if args.tokenizer == 'gpt2' else 4.7)
        if args.keep:
            passing = size * min(1, (args.max_tokens or tokens) / tokens)
        else:
            passing = 3 * max(entry['bytes'] for entry in files)  # in hand, just done, one ahead
    done = sum(shard['tokens'] for shard in meta['shards'])
    need = 2 * max(0, min(tokens, args.max_tokens or tokens) - done) + passing
    free = shutil.disk_usage(args.out).free
    text = f'{where}, {size / 1e9:.2f} GB'
    if done:
        text += f'; {len(meta["shards"])} shards are done'
    text += f'; needs about {need / 1e9:.2f} GB of disk, {args.out} has {free / 1e9:.2f} GB free'
    if need > free:
        text += ': NOT ENOUGH, it will stop when the disk is full'
    if args.source and tokens < for_validation(args):
        text += f'; PERHAPS TOO SMALL: about {tokens:,.0f} tokens, the first {for_validation(args):,} for validation'
    return text


def describe_files(files: list[dict]) -> str:
    """'5 files (3 .jsonl.gz, 2 .md; 1 is empty)': a folder may hold what nobody meant."""
    kinds = collections.Counter()
    for entry in files:
        stem, ending = os.path.splitext(entry['file'])
        if ending.lower() in sources.COMPRESSIONS:
            ending = os.path.splitext(stem)[1] + ending
        kinds[ending] += 1
    listed = ', '.join(f'{n} {ending}' for ending, n in kinds.items())
    n_empty = sum(entry['bytes'] == 0 for entry in files)
    if n_empty:
        listed += f'; {n_empty} of them without a byte'
    return f'{len(files)} files ({listed})'


def summary(args, meta: dict) -> str:
    """The last line: shards, documents, tokens, and which shard is not full."""
    shards = meta['shards']
    tokens = sum(meta['tokens'].values())
    text = (f'{len(shards)} shards, {sum(meta["documents"].values()):,} documents, {tokens:,} tokens '
            f'({meta["tokens"]["val"]:,} of them for validation)')
    last = shards[-1]
    if not args.pretokenized and last['tokens'] < args.shard_tokens:
        text += f'; the last shard, {last["file"]}, is partial: {last["tokens"]:,} of {args.shard_tokens:,} tokens'
    return text


def progress_bar(done: int, expected: int | None):
    """The progress bar, in tokens."""
    from tqdm import tqdm

    return tqdm(total=expected, initial=done, unit='tok', unit_scale=True, dynamic_ncols=True, smoothing=0.1,
                mininterval=0.5 if sys.stderr.isatty() else 30)


# tokenizing


@dataclass
class Chunk:
    """Documents that follow each other in one file, to be tokenized in one call; or one piece of a text file."""

    source: int  # number of the file
    path: str
    document: int  # number of the first document, or of the piece
    texts: list[str] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)  # share of the whole source that is read after each text

    @property
    def begins(self) -> bool:
        """Whether documents begin here: a text file is one document, though it is read in numbered pieces."""
        return self.document == 0 or sources.file_format(self.path)[0] != 'text'


@dataclass
class Document:
    """The tokens of one document (of one piece of a text file), end-of-text first."""

    tokens: np.ndarray
    source: int
    number: int
    progress: float
    offset: int = 0  # of the first token that isn't in a finished shard yet

    def position(self, at: int) -> list:
        """Where its token number `at` is, or the document after it: [file, document, token of the document's]."""
        if at == len(self.tokens):
            return [self.source, self.number + 1, 0]
        return [self.source, self.number, at]


def make_shards(args, meta: dict):
    """Tokenize the sources after the last finished shard into further ones; meta.json is brought up with each."""
    enc = get_tokenizer(args.tokenizer)
    writer = ShardWriter(args, meta)
    source, document, offset = next_position(meta)
    paths = [entry['file'] for entry in meta['sources'][source:]]
    if not args.source:
        paths = sources.one_ahead(lambda entry: download(args, meta, entry), meta['sources'][source:])
    pool = concurrent.futures.ThreadPoolExecutor(args.workers)
    try:
        with progress_bar(writer.total, None) as bar:
            work = read_chunks(meta, paths, source, document, bool(args.val_tokens))
            for chunk, tokens in in_order(pool, lambda chunk: encode(enc, chunk), work, 32 * args.workers):
                for found in split_documents(chunk, tokens, enc.eot_token):
                    found.offset, offset = offset, 0  # the first tokens of the first one are in a finished shard
                    writer.add(found)
                bar.update(writer.total - bar.n)
                bar.total = int(min(writer.limit, max(bar.n, bar.n / max(chunk.progress[-1], 1e-9))))
                if writer.total >= writer.limit:
                    break
    finally:
        # without waiting: a thread may be busy with a long word while an error waits to be said
        pool.shutdown(wait=False, cancel_futures=True)
    writer.close()


def read_chunks(meta: dict, paths, first: int, document: int, exact: bool):
    """The texts of the files, which are those from number `first` on, in groups of CHUNK characters or somewhat more.

    It begins with the number `document` of the first file's. exact: see sources.read.
    """
    sizes = [entry['bytes'] for entry in meta['sources']]
    whole = max(1, sum(sizes))
    for source, path in enumerate(paths, first):
        before = sum(sizes[:source])
        is_text = sources.file_format(path)[0] == 'text'
        chunk = Chunk(source, path, document)
        size = 0
        for text, share in sources.read(path, document, exact, meta.get('piece', sources.CHUNK)):
            chunk.texts.append(text)
            chunk.progress.append((before + share * sizes[source]) / whole)
            size += len(text)
            if size >= sources.CHUNK or is_text:
                yield chunk
                chunk = Chunk(source, path, chunk.document + len(chunk.texts))
                size = 0
        if chunk.texts:
            yield chunk
        document = 0


def in_order(pool, function, items, ahead: int):
    """(item, function(item)) in the items' order, computed by the pool; never more than `ahead` items are in hand."""
    pending = collections.deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        if len(pending) == ahead:
            yield wait_for(*pending.popleft())
    while pending:
        yield wait_for(*pending.popleft())


def wait_for(chunk: Chunk, future) -> tuple:
    """(chunk, its tokens) once they are there. Names the document with the longest word if that takes long."""
    done, _ = concurrent.futures.wait([future], PATIENCE)
    if not done:
        document, length = longest_word(chunk)
        if length >= LONG_WORD:
            print(f'\n{chunk.path}, document {document}: tiktoken takes long over a word of {length:,} characters '
                  '(minutes from 1,000,000 on); Ctrl-C stops', file=sys.stderr, flush=True)
    return chunk, future.result()


def longest_word(chunk: Chunk) -> tuple[int, int]:
    """(number of a chunk's document, length) of the longest run of letters, digits, spaces or other characters."""
    found = (chunk.document, 0)
    for number, text in enumerate(chunk.texts, chunk.document):
        for word in re.finditer(r'[^\W\d_]+|\d+|\s+|[^\w\s]+|_+', text):
            length = word.end() - word.start()
            if length > found[1]:
                found = (number, length)
    return found


def encode(enc, chunk: Chunk) -> np.ndarray:
    """A chunk's tokens, uint16: end-of-text, then encode_ordinary(text), for each document."""
    text = EOT.join(chunk.texts)
    n_marks = len(chunk.texts) - 1
    if chunk.begins:
        text = EOT + text
        n_marks += 1
    if text.count(EOT) == n_marks:  # else a document holds it, as ordinary text
        with contextlib.suppress(BaseException):  # whatever it is, going one by one finds the document
            return enc.encode_to_numpy(text, allowed_special='all').astype(np.uint16)
    tokens = []
    for number, text in enumerate(chunk.texts, chunk.document):
        if chunk.begins:
            tokens.append(enc.eot_token)
        try:
            tokens += enc.encode_ordinary(text)
        except BaseException as error:  # tiktoken's panics are no Exception; a million line breaks are one cause
            raise UserError(f'{chunk.path}, document {number}: tiktoken fails on it ({error})') from None
    return np.array(tokens, np.uint16)


def split_documents(chunk: Chunk, tokens: np.ndarray, eot: int):
    """The documents of a chunk's tokens."""
    starts = [0]
    if chunk.begins:
        starts = np.flatnonzero(tokens == eot).tolist()
    ends = [*starts[1:], len(tokens)]
    for i, (start, end) in enumerate(zip(starts, ends)):
        yield Document(tokens[start:end], chunk.source, chunk.document + i, chunk.progress[i])


# shards


class ShardWriter:
    """Takes the documents in order, writes a shard whenever one is full, and brings meta.json up with each.

    With --val_tokens two streams fill side by side: the training shards, and the held-out documents, which are written
    anew with each training shard. Each shard's entry says how many tokens were held out by then, so that a later run
    begins where this one stood.
    """

    def __init__(self, args, meta: dict):
        self.args = args
        self.meta = meta
        self.limit = args.max_tokens or float('inf')
        self.buffer = np.empty(args.shard_tokens, np.uint16)
        self.fill = 0  # tokens in the buffer
        self.held_out = []  # arrays of tokens
        self.n_held_out = 0
        shards = meta['shards']
        if args.val_tokens and shards:
            path = os.path.join(args.out, shards[0]['file'])
            self.n_held_out = shards[-1]['held_out']
            offset, _ = shard_layout(path)
            self.held_out.append(np.fromfile(path, np.uint16, self.n_held_out, offset=offset))
            shards = shards[1:]
        self.n_finished = sum(shard['tokens'] for shard in shards)

    @property
    def total(self) -> int:
        """Tokens taken so far, those of finished shards included."""
        return self.n_finished + self.fill + self.n_held_out

    def add(self, document: Document):
        """Take a document, up to --max_tokens in all."""
        tokens = document.tokens
        at = document.offset
        # a document of which a part is in a training shard isn't held out
        if self.args.val_tokens and at == 0 and self.is_held_out(document):
            tokens = tokens[: min(len(tokens), self.limit - self.total)]
            self.held_out.append(tokens)
            self.n_held_out += len(tokens)
            return
        while at < len(tokens) and self.total < self.limit:
            n = min(len(self.buffer) - self.fill, self.limit - self.total, len(tokens) - at)
            self.buffer[self.fill : self.fill + n] = tokens[at : at + n]
            self.fill += n
            at += n
            if self.fill == len(self.buffer):
                self.finish(document.position(at))

    def is_held_out(self, document: Document) -> bool:
        """Whether it goes to validation: if the share of --val_tokens that is due by its end is nearer with it than
        without it. A document larger than --val_tokens counts as that large, so that some document is taken."""
        n = len(document.tokens)
        progress = max(document.progress, (self.total + n) / self.limit)
        due = self.args.val_tokens * min(1.0, progress)
        return self.n_held_out + min(n, self.args.val_tokens) / 2 < due

    def finish(self, position: list):
        """Write the buffer as the next shard; `position` is where in the sources the one after it begins."""
        shards = self.meta['shards']
        if self.args.val_tokens:
            self.write_held_out()
        entry = self.write(len(shards), self.buffer[: self.fill])
        entry['next'] = position
        if self.args.val_tokens:
            entry['held_out'] = self.n_held_out
        shards.append(entry)
        self.n_finished += self.fill
        self.fill = 0
        save(self.args, self.meta)
        if not self.args.source and not self.args.keep:
            delete_used(self.args, self.meta, position)

    def write_held_out(self):
        """Write the validation shard of --val_tokens as far as it is known."""
        tokens = np.concatenate([np.empty(0, np.uint16), *self.held_out])
        self.held_out = [tokens]
        self.meta['shards'][:1] = [self.write(0, tokens)]

    def write(self, number: int, tokens: np.ndarray) -> dict:
        """Write one shard; its entry in meta.json. Number 0 is for validation."""
        prefix = 'shard' if self.args.source else 'edufineweb'
        split = 'train' if number else 'val'
        name = f'{prefix}_{split}_{number:06d}.bin'
        with full_disk_named(self.meta):
            write_shard(os.path.join(self.args.out, name), tokens)
        n_documents = int(np.count_nonzero(tokens == self.meta['eot']))
        return {'file': name, 'tokens': len(tokens), 'documents': n_documents}

    def close(self):
        """Write what is left, and say in meta.json that all is there. Raises UserError if there's nothing to train on."""
        shards = self.meta['shards']
        if self.args.val_tokens:
            nothing = self.n_finished + self.fill == 0
        else:
            nothing = len(shards) + bool(self.fill) < 2
        if nothing:
            n_tokens = f'{self.total:,}'
            # Take back the validation shard, so that the advice can be followed in this folder.
            for shard in shards:
                os.remove(os.path.join(self.args.out, shard['file']))
            shards.clear()
            save(self.args, self.meta)
            raise too_small(self.args, n_tokens)
        if self.fill:
            self.finish([len(self.meta['sources']), 0, 0])
        elif self.args.val_tokens:
            self.write_held_out()  # what came after the last full shard
        self.meta['complete'] = True
        save(self.args, self.meta)


# the Hub


def repo_of(args) -> str:
    """The data set on the Hub that the command line means."""
    return args.pretokenized or FINEWEB


def hub_files(args) -> tuple[list[dict], str]:
    """Name and size of each file to fetch, validation first, and the commit that they are of."""
    if not args.pretokenized:
        return sources.list_hub(FINEWEB, f'sample/{args.sample}', ('.parquet',))
    files, revision = sources.list_hub(args.pretokenized, None, ('.bin', '.npy'))
    check_names(args.pretokenized, files)
    files.sort(key=lambda entry: split_of(entry['file']) == 'train')
    return files, revision


def check_names(repo: str, files: list[dict]):
    """Raises UserError unless ready shards have names of their own, some for training and some for validation."""
    paths = {}
    splits = set()
    for entry in files:
        path = entry['file']
        name = os.path.basename(path)
        if name in paths:
            raise UserError(f'{repo}: {paths[name]} and {path} would get the same name in one folder; fetch the files '
                            'yourself and give each a name of its own')
        paths[name] = path
        splits.add(split_of(path))
    if len(splits) < 2:
        raise UserError(f'{repo} on the Hub holds only {splits.pop()} shards, and a run needs train and val')


def download(args, meta: dict, entry: dict) -> str:
    """Fetch one of the Hub's files to DIR/hub; its path."""
    return sources.download(repo_of(args), meta['revision'], entry['file'], os.path.join(args.out, 'hub'))


def delete_used(args, meta: dict, position: list):
    """Delete the Hub's files whose documents are all in finished shards."""
    for entry in meta['sources'][: position[0]]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(args.out, 'hub', entry['file']))


def fetch_shards(args, meta: dict):
    """Fetch ready shards, each checked before it gets its name in DIR."""
    done = sum(shard['tokens'] for shard in meta['shards'])
    expected = args.max_tokens or sum(entry['bytes'] for entry in meta['sources']) // 2
    left = meta['sources'][len(meta['shards']) :]
    with progress_bar(done, expected) as bar:
        for entry in left:
            # one shard alone would be validation without training
            if args.max_tokens and done >= args.max_tokens and len(meta['shards']) > 1:
                break
            path = download(args, meta, entry)
            name = os.path.basename(entry['file'])
            try:
                tokens = read_checked(path, meta['vocab_size'])
            except UserError:
                os.remove(path)
                raise
            os.replace(path, os.path.join(args.out, name))
            n_documents = int(np.count_nonzero(tokens == meta['eot']))
            meta['shards'].append({'file': name, 'tokens': len(tokens), 'documents': n_documents})
            save(args, meta)
            done += len(tokens)
            bar.update(len(tokens))
    meta['complete'] = True
    save(args, meta)


def read_checked(path: str, vocab_size: int) -> np.ndarray:
    """A shard's tokens, uint16. Raises UserError if it is no shard, or of a larger vocabulary."""
    offset, _ = shard_layout(path)
    tokens = np.fromfile(path, np.uint16, offset=offset)
    if tokens.max(initial=0) >= vocab_size:
        raise UserError(f'{path}: token {tokens.max()} in a vocabulary of {vocab_size}')
    return tokens


if __name__ == '__main__':
    run_main(main)
