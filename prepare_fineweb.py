"""
FineWeb-Edu, or your own files, to token shards: on all cores, in bounded memory, resumable, exact.

    python prepare_fineweb.py                                 # sample-10BT to data/edu_fineweb10B
    python prepare_fineweb.py --max_tokens=1_000_000_000      # only its first 1B tokens
    python prepare_fineweb.py --source texts --out=data/mine  # your own: a folder, files, or 'x/*.parquet'
    python prepare_fineweb.py --source book.txt --val_tokens=20_000 --out=data/book        # a small corpus
    python prepare_fineweb.py --pretokenized                  # ready shards from the Hub: no tokenizing

sample-10BT is 14 parquet files of 2 GB, downloaded one ahead and deleted once their tokens are in shards; its
10B tokens become 100 shards of 200 MB. Every document is the end-of-text token followed by
encode_ordinary(text), and the shards in their order are the documents in theirs: a document goes on in the
next shard where one is full. The bytes don't depend on the number of workers.

The first shard is for validation. A corpus that isn't much larger than a shard takes --val_tokens=N instead:
documents that hold about N tokens, spread evenly over the source, become the validation shard, and the others
train. Where the source is a few text files, pieces of them count as documents.

Killed at any moment, the same command goes on after the last finished shard (meta.json says where in the
source that is) and ends in the same bytes. A folder made with other options is refused, and so is one that
another process is in.

sources.py reads the files, documents.py tokenizes them by threads. dev/bench_prepare.py measures it.
"""

import collections
import contextlib
import os
import re
import shutil
import sys

import numpy as np

import documents
import sources
from core.common import Parser, UserError, locked, run_main, usable_cores
from core.data import get_tokenizer, read_meta, shard_layout, split_of, write_meta, write_shard

FINEWEB = 'HuggingFaceFW/fineweb-edu'
PRETOKENIZED = 'kjj0/finewebedu10B-gpt2'
# what decides the bytes
OPTIONS = ('sample', 'source', 'pretokenized', 'tokenizer', 'shard_tokens', 'max_tokens', 'val_tokens')
BYTES_PER_TOKEN = {'gpt2': 4.2, 'bytes': 1}  # of English, for estimates
FEW_FILES = 32  # text files up to here are held out in pieces, more of them whole


def main():
    args = parse_arguments()
    try:
        prepare(args)
    except KeyboardInterrupt:
        text = '\nstopped; the same command goes on after the last finished shard'
        print(text, file=sys.stderr, flush=True)
        raise  # run_main ends the process by the signal, at once: tiktoken's threads may have minutes to go


def parse_arguments():
    """The command line. Raises UserError for options that don't go together."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add('--sample', default='10BT', choices=('10BT', '100BT', '350BT'),
        help="which sample of the Hub's FineWeb-Edu; default: 10BT")
    add('--source', nargs='+', action='extend', default=[], metavar='PATH',
        help='local files instead, folders of them, or patterns: .parquet (column text), .jsonl, .ndjson or '
        '.json (key text), .txt or .md (a file is a document), all but .parquet also .gz or .zst')
    add('--pretokenized', nargs='?', const=PRETOKENIZED, default='', metavar='DATASET',
        help=f'ready shards of this dataset on the Hub instead; without a name: {PRETOKENIZED}')
    add('--out', default='', metavar='DIR',
        help='folder of the shards; default: data/edu_fineweb10B, by the sample')
    add('--tokenizer', default='gpt2', choices=('gpt2', 'bytes'), help='default: gpt2')
    add('--shard_tokens', type=int, default=100_000_000, metavar='N',
        help='tokens per shard, 2 bytes each; default: 100M')
    add('--val_tokens', type=int, default=0, metavar='N',
        help='hold out documents of about N tokens for validation, evenly over the source; default 0: the '
             'first '
        'shard')
    add('--max_tokens', type=int, default=0, metavar='N',
        help='stop after N tokens in all, validation included (with --pretokenized: whole shards, at least '
             'two); '
        'default 0: the whole source')
    add('--workers', type=int, default=usable_cores(), metavar='N',
        help='threads that tokenize; default: all cores')
    add('--keep', action='store_true',
        help="keep the Hub's parquet files in DIR/hub; default: each is deleted once done")
    args = parser.parse_args()
    check_arguments(args)
    # a shell expands ~ only at the start of a word, not in --out=~/data
    args.out = os.path.expanduser(args.out or f'data/edu_fineweb{args.sample[:-1]}')
    args.source = [os.path.expanduser(pattern) for pattern in args.source]
    return args


def check_arguments(args):
    """Raises UserError for options that don't go together."""
    if args.source and args.pretokenized:
        raise UserError('--source and --pretokenized exclude each other')
    if args.source and not args.out:
        raise UserError('--source needs --out, the folder to make')
    as_it_is = (args.tokenizer, args.shard_tokens, args.val_tokens) == ('gpt2', 100_000_000, 0)
    if args.pretokenized and not as_it_is:
        raise UserError('--pretokenized takes the shards as they are: leave out --tokenizer, --shard_tokens '
                        'and --val_tokens')
    # a header counts in int32, and a sequence needs two tokens
    if not 2 <= args.shard_tokens < 2**31:
        raise UserError(f'--shard_tokens must be from 2 to {2**31 - 1}, not {args.shard_tokens}')
    if args.max_tokens < 0 or args.workers < 1:
        raise UserError('--max_tokens must be at least 0 and --workers at least 1')
    # what is held out becomes one shard, and lies in memory until then
    if not 0 <= args.val_tokens <= args.shard_tokens:
        raise UserError(f'--val_tokens must be from 0 to --shard_tokens={args.shard_tokens}, not '
                        f'{args.val_tokens}')
    if args.max_tokens and not args.pretokenized and args.max_tokens <= for_validation(args):
        what = f'is all for validation (--val_tokens={args.val_tokens}): choose fewer'
        if not args.val_tokens:
            what = (f'fit in the first shard of {args.shard_tokens}, which is for validation: choose a '
                    'smaller --shard_tokens, or --val_tokens=N')
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
            # the other one was making just this
            print(f'{args.out} is complete already: {summary(args, found)}')
            return
        if damaged:
            print(f'{damaged} is missing or damaged: going on from there')
        meta = go_on(args, found) if found else meta
        # before the first shard, so that a folder that is stopped says what it is, and that it isn't complete
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
    """(meta.json as found in the folder, cut back to its valid shards; the name of the first one that isn't,
    or '').

    (None, '') if there is nothing yet that other options couldn't replace. Raises UserError if the folder was
    made with other options or from other files, or holds shards of someone else's.
    """
    there = []
    if os.path.exists(args.out):
        if not os.path.isdir(args.out):
            raise UserError(f'{args.out} is a file: choose another --out')
        for name in os.listdir(args.out):
            if name.endswith(('.bin', '.npy')) and not name.startswith('.'):
                there.append(name)
    meta = read_meta(args.out)
    has_meta = os.path.exists(os.path.join(args.out, 'meta.json'))
    if not is_ours(meta) and (there or has_meta):
        raise UserError(f"{args.out} holds data that this script didn't make: choose another --out")
    if not there:
        return None, ''  # a meta.json alone holds no work: other options may replace it
    for name in OPTIONS:
        old = meta['options'].get(name, 0)  # older folders don't know --val_tokens
        new = getattr(args, name)
        if old != new:
            raise UserError(f'{args.out} was made with --{name}={old}, not {new}: go on with the same '
                            'options, or choose another --out')
    damaged = cut_back(args, meta)
    if args.source and meta['complete']:
        check_unchanged(args, meta)
    return meta, damaged


def is_ours(meta: dict) -> bool:
    """Whether a meta.json is one that this script wrote."""
    types = {'options': dict, 'complete': bool, 'sources': list, 'shards': list, 'revision': str}
    if not has_types(meta, types):
        return False
    for entry in meta['sources']:
        if not has_types(entry, {'file': str, 'bytes': int}):
            return False
    # someone may have edited it, or a disk may have: better one clear line than a KeyError in an hour
    of_shard = {'file': str, 'tokens': int, 'documents': int}
    for number, shard in enumerate(meta['shards']):
        if meta['options'].get('val_tokens') and number:
            of_shard = {**of_shard, 'next': list, 'held_out': int, 'progress': float}
        if not has_types(shard, of_shard):
            return False
    return True


def has_types(entry, types: dict) -> bool:
    """Whether a JSON value is an object with keys of these types."""
    return type(entry) is dict and all(type(entry.get(name)) is kind for name, kind in types.items())


def cut_back(args, meta: dict) -> str:
    """Take the first shard that is missing or damaged, and those after it, out of meta.json; its name, or
    ''."""
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
    """Raises UserError if a source of a complete folder has changed, or has come since; those that are gone
    may be."""
    known = {entry['file']: entry['bytes'] for entry in meta['sources']}
    for path in sources.find(args.source, args.out):
        if path not in known:
            raise UserError(f'{args.out} is complete without {path}: choose another --out')
        if os.path.getsize(path) != known[path]:
            raise UserError(f'{path} has changed since {args.out} was begun: choose another --out')


def go_on(args, meta: dict) -> dict:
    """The meta.json of a folder that isn't complete, with the sources as they are now.

    Raises UserError if one that is in the finished shards has changed; later ones may.
    """
    if not args.source:
        return meta
    files = local_files(args)
    source, document, offset = next_position(meta)
    # the files that are in shards already, the one in which the next shard begins among them
    used = source + (document + offset > 0)
    for i in range(used):
        if files[i : i + 1] != meta['sources'][i : i + 1]:
            name = meta['sources'][i]['file']
            raise UserError(f'{name} has changed since {args.out} was begun, or is gone: choose another '
                            '--out')
    return {**meta, 'sources': files}


def next_position(meta: dict) -> list:
    """Where in the sources the next shard begins: [file, document, token of the document's]."""
    if not meta['shards']:
        return [0, 0, 0]
    return meta['shards'][-1]['next']


def new_meta(args) -> dict:
    """The meta.json of a folder to begin. Raises UserError if the source isn't there, or leaves nothing to
    train on."""
    enc = get_tokenizer(args.tokenizer)  # first: without network it is what fails
    revision = ''
    if args.source:
        files = local_files(args)
        check_size(args, files)
    else:
        files, revision = hub_files(args)
    options = {name: getattr(args, name) for name in OPTIONS}
    return {'tokenizer': args.tokenizer, 'vocab_size': enc.n_vocab, 'eot': enc.eot_token, 'complete': False,
            'options': options, 'sources': files, 'revision': revision, 'shards': [],
            'piece': piece_size(args, files)}


def local_files(args) -> list[dict]:
    """Name and size of each file of --source. Raises UserError if there is none, or one is no source."""
    files = []
    for pattern in args.source:
        if not sources.find([pattern], args.out):
            raise UserError(f'--source: no file matches {pattern}, or none in it is a source')
    for path in sources.find(args.source, args.out):
        sources.text_bytes(path)  # raises for a parquet file that can't be read
        files.append({'file': path, 'bytes': os.path.getsize(path)})
    return files


def check_size(args, files: list[dict]):
    """Raises UserError if the source can't hold more tokens than validation takes: before hours of work, not
    after."""
    limit = for_validation(args)
    # Reading is quick beside tokenizing, and stops once there are bytes enough for more tokens.
    most = 0
    for entry in files:
        most += sources.most_tokens(entry['file'], limit - most)
        if most > limit:
            return
    raise too_small(args, f'at most {most:,}' if most else '0')


def too_small(args, n_tokens: str, n_held_out: int = 1) -> UserError:
    """What to say, and to do, about a source of which nothing is left for training, or nothing for
    validation."""
    text = f'the source holds {n_tokens} tokens, '
    if not n_held_out:
        text += ('all in its first document, so that --val_tokens finds none to hold out: leave it out, and '
                 'choose a smaller --shard_tokens; the first shard is for validation then')
    elif args.val_tokens:
        text += f'and --val_tokens={args.val_tokens} leaves nothing to train on: choose fewer'
    else:
        text += (f'and the first {args.shard_tokens:,} are for validation: choose a smaller '
                 '--shard_tokens, so that there is something to train on, or hold out documents from all '
                 'over the source with --val_tokens=N')
    return UserError(text)


def piece_size(args, files: list[dict]) -> int:
    """Characters, at least, of a text file that are held out, or not, together: so that they are about a 16th
    of --val_tokens where the files are few, else whole files or large parts of them."""
    # Many files are held out whole: a page of an article whose other pages train is no test.
    if not args.val_tokens or len(files) > FEW_FILES:
        return sources.CHUNK
    wanted = int(args.val_tokens * BYTES_PER_TOKEN[args.tokenizer] / 16)
    return max(1, min(sources.CHUNK, wanted // 2))  # a piece has up to twice as many


def save(args, meta: dict):
    """Write meta.json with totals by split. A shard counts as finished once it is in there."""
    # summed up anew each time, so that the totals can't drift from the shards
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
        n_shards = len(meta['shards'])
        raise UserError(f'{error}; {n_shards} finished shards are kept: make room, then run the same command '
                        'again') from None


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
        tokens = size / 2  # uint16
    else:
        where = f'{len(files)} files of {FINEWEB} sample-{args.sample}'
        gpt2_tokens = float(args.sample[:-2]) * 1e9
        tokens = gpt2_tokens * (1 if args.tokenizer == 'gpt2' else 4.7)
        if args.keep:
            passing = size * min(1, (args.max_tokens or tokens) / tokens)
        else:
            passing = 3 * max(entry['bytes'] for entry in files)  # in hand, just done, one ahead
    done = sum(shard['tokens'] for shard in meta['shards'])
    # 2 bytes for each token that isn't in a shard yet
    need = 2 * max(0, min(tokens, args.max_tokens or tokens) - done) + passing
    free = shutil.disk_usage(args.out).free
    text = f'{where}, {size / 1e9:.2f} GB'
    if done:
        text += f'; {len(meta["shards"])} shards are done'
    text += f'; needs about {need / 1e9:.2f} GB of disk, {args.out} has {free / 1e9:.2f} GB free'
    if need > free:
        text += ': NOT ENOUGH, it will stop when the disk is full'
    # An estimate, so no error: text that isn't English has more tokens a byte.
    val_tokens = for_validation(args)
    if args.source and tokens < val_tokens:
        text += f'; PERHAPS TOO SMALL: about {tokens:,.0f} tokens, and {val_tokens:,} are for validation'
    return text


def describe_files(files: list[dict]) -> str:
    """'5 files (3 .jsonl.gz, 2 .md; 1 is empty)': a folder may hold what nobody meant."""
    # by the ending, .gz and .zst with the one before it
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
        text += (f'; the last shard, {last["file"]}, is partial: {last["tokens"]:,} of {args.shard_tokens:,} '
                 'tokens')
    return text


def progress_bar(done: int, expected: int | None):
    """The progress bar, in tokens."""
    from tqdm import tqdm

    # in a log file, a line every half minute is enough
    return tqdm(total=expected, initial=done, unit='tok', unit_scale=True, dynamic_ncols=True, smoothing=0.1,
                mininterval=0.5 if sys.stderr.isatty() else 30)


def make_shards(args, meta: dict):
    """Tokenize the sources after the last finished shard into further ones; meta.json is brought up with
    each."""
    enc = get_tokenizer(args.tokenizer)
    writer = ShardWriter(args, meta)
    source, document, offset = next_position(meta)
    left = meta['sources'][source:]
    if args.source:
        paths = [entry['file'] for entry in left]
    else:
        # each path comes once its file is there
        paths = sources.one_ahead(lambda entry: download(args, meta, entry), left)
    sizes = [entry['bytes'] for entry in meta['sources']]
    exact = bool(args.val_tokens)  # what is held out depends on how far the source is read
    chunks = documents.read_chunks(paths, sizes, source, document, exact, meta.get('piece', 0))
    with progress_bar(writer.total, None) as bar, \
            contextlib.closing(documents.tokenize(chunks, enc, args.workers)) as found:
        for document in found:
            writer.add(document, offset)
            offset = 0  # only the first document may have tokens in a finished shard
            bar.update(writer.total - bar.n)
            # how many tokens there will be isn't known: as many as the share that is read lets expect
            bar.total = int(min(writer.limit, max(bar.n, bar.n / max(document.progress, 1e-9))))
            if writer.total >= writer.limit:
                break
    writer.close()


# shards


class ShardWriter:
    """Takes the documents in order, writes a shard whenever one is full, and brings meta.json up with each.

    With --val_tokens two streams fill side by side: the training shards, and the held-out documents, which
    are written anew with each training shard. Each shard's entry says how many tokens were held out by then,
    and of what share of the source, so that a later run begins where this one stood.
    """

    def __init__(self, args, meta: dict):
        self.args = args
        self.meta = meta
        self.limit = args.max_tokens or float('inf')
        self.buffer = np.empty(args.shard_tokens, np.uint16)
        self.fill = 0  # tokens in the buffer
        self.held_out = []  # arrays of tokens
        self.n_held_out = 0
        self.progress = 0.0  # share of the source that is taken
        shards = meta['shards']
        # What is held out since the last training shard was finished will be read again, and held out again.
        if args.val_tokens and shards:
            path = os.path.join(args.out, shards[0]['file'])
            self.n_held_out = shards[-1]['held_out']
            self.progress = shards[-1]['progress']
            offset, _ = shard_layout(path)
            self.held_out.append(np.fromfile(path, np.uint16, self.n_held_out, offset=offset))
            shards = shards[1:]
        self.n_finished = sum(shard['tokens'] for shard in shards)

    @property
    def total(self) -> int:
        """Tokens taken so far, those of finished shards included."""
        return self.n_finished + self.fill + self.n_held_out

    def add(self, document: documents.Document, at: int):
        """Take a document from its token number `at` on, up to --max_tokens in all."""
        tokens = document.tokens
        is_held_out = at == 0 and self.is_next_held_out()  # not if a part of it is in a training shard
        self.progress = document.progress
        if is_held_out:
            tokens = tokens[: min(len(tokens), self.limit - self.total)]
            self.held_out.append(tokens.copy())  # a view would keep all tokens of its chunk
            self.n_held_out += len(tokens)
            return
        # a long document can fill several shards
        while at < len(tokens) and self.total < self.limit:
            n = min(len(self.buffer) - self.fill, self.limit - self.total, len(tokens) - at)
            self.buffer[self.fill : self.fill + n] = tokens[at : at + n]
            self.fill += n
            at += n
            if self.fill == len(self.buffer):
                self.finish(document.position(at))

    def is_next_held_out(self) -> bool:
        """Whether the next document goes to validation: as soon as less is held out than the share of
        --val_tokens that is due by then. Its own length has no say, so that neither long nor short documents
        are preferred."""
        due = self.args.val_tokens * max(self.progress, self.total / self.limit)
        return self.n_held_out < due

    def finish(self, position: list):
        """Write the buffer as the next shard; `position` is where in the sources the one after it begins."""
        shards = self.meta['shards']
        # Before the training shard and meta.json: stopped in between, more is held out than meta.json knows
        # of.
        if self.args.val_tokens:
            self.write_held_out()
        entry = self.write(len(shards), self.buffer[: self.fill])
        entry['next'] = position
        if self.args.val_tokens:
            entry['held_out'] = self.n_held_out
            entry['progress'] = self.progress
        shards.append(entry)
        self.n_finished += self.fill
        self.fill = 0
        save(self.args, self.meta)
        if not self.args.source and not self.args.keep:
            delete_used(self.args, self.meta, position)

    def write_held_out(self):
        """Write the validation shard of --val_tokens as far as it is known."""
        # the empty array for when nothing is held out yet
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
        # those that begin in it
        n_documents = int(np.count_nonzero(tokens == self.meta['eot']))
        return {'file': name, 'tokens': len(tokens), 'documents': n_documents}

    def remove_left_over(self):
        """Delete what a run before, of a source that was longer then, has left: train.py would read it."""
        names = {shard['file'] for shard in self.meta['shards']}
        for name in os.listdir(self.args.out):
            if re.fullmatch(r'(shard|edufineweb)_(train|val)_\d{6,}\.bin', name) and name not in names:
                os.remove(os.path.join(self.args.out, name))

    def close(self):
        """Write what is left, and say in meta.json that all is there. Raises UserError if there's nothing to
        train on."""
        shards = self.meta['shards']
        if self.args.val_tokens:
            is_enough = self.n_finished + self.fill > 0 and self.n_held_out > 0
        else:
            is_enough = len(shards) + bool(self.fill) >= 2
        if not is_enough:
            error = too_small(self.args, f'{self.total:,}', self.n_held_out)
            # Take back the validation shard, so that the advice can be followed in this folder.
            for shard in shards:
                os.remove(os.path.join(self.args.out, shard['file']))
            shards.clear()
            save(self.args, self.meta)
            raise error
        # the last shard is as long as it is
        if self.fill:
            self.finish([len(self.meta['sources']), 0, 0])
        elif self.args.val_tokens:
            self.write_held_out()  # what came after the last full shard
        self.remove_left_over()
        self.meta['complete'] = True
        save(self.args, self.meta)


# the Hub


def repo_of(args) -> str:
    """The data set on the Hub that the command line means."""
    return args.pretokenized or FINEWEB


def hub_files(args) -> tuple[list[dict], str]:
    """Name and size of each file to fetch, validation first, and the commit that they are of."""
    if not args.pretokenized:
        # in the order of their names, as for everybody who prepares this sample
        return sources.list_hub(FINEWEB, f'sample/{args.sample}', ('.parquet',))
    files, revision = sources.list_hub(args.pretokenized, None, ('.bin', '.npy'))
    check_names(args.pretokenized, files)
    # so that a few of them (--max_tokens) have both splits
    files.sort(key=lambda entry: split_of(entry['file']) == 'train')
    return files, revision


def check_names(repo: str, files: list[dict]):
    """Raises UserError unless ready shards have names of their own, some for training and some for
    validation."""
    paths = {}
    splits = set()
    for entry in files:
        path = entry['file']
        name = os.path.basename(path)
        if name in paths:
            raise UserError(f'{repo}: {paths[name]} and {path} would get the same name in one folder; fetch '
                            'the files yourself and give each a name of its own')
        paths[name] = path
        splits.add(split_of(path))
    if len(splits) < 2:
        raise UserError(f'{repo} on the Hub holds only {splits.pop()} shards, and a run needs train and val')


def download(args, meta: dict, entry: dict) -> str:
    """Fetch one of the Hub's files to DIR/hub; its path."""
    return sources.download(repo_of(args), meta['revision'], entry['file'], os.path.join(args.out, 'hub'))


def delete_used(args, meta: dict, position: list):
    """Delete the Hub's files whose documents are all in finished shards."""
    # the file of the position itself is needed to go on
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
                os.remove(path)  # or the next try would take it for fetched
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
