"""
FineWeb-Edu, or your own files, to token shards: on all cores, in bounded memory, resumable, exact.

    python prepare_fineweb.py                                 # sample-10BT to data/edu_fineweb10B
    python prepare_fineweb.py --max_tokens=1_000_000_000      # only its first 1B tokens
    python prepare_fineweb.py --source texts --out=data/mine  # your own: a folder, files, or 'x/*.parquet'
    python prepare_fineweb.py --source book.txt --val_tokens=20_000 --out=data/book        # a small corpus

| a file of --source | its documents |
|---|---|
| .parquet | the strings of the column 'text' |
| .jsonl, .ndjson, .json | the key 'text' of each line's object, or of each object of one array |
| .txt, .md | the file is one document, read in pieces |

All but .parquet also as .gz or .zst. sample-10BT is 27 GB of parquet, streamed from the Hub; its 10B tokens
become 100 shards of 200 MB. Every document is the end-of-text token followed by encode_ordinary(text); it
continues in the next shard where one is full.

The first shard is for validation. A corpus that isn't much larger than a shard takes --val_tokens=N instead:
documents that hold about N tokens, spread evenly over the source, become the validation shard, and the others
train. Where the source is a few text files, pieces of them count as documents.

Killed at any moment, the same command continues after the last finished shard (meta.json says where in the
source that is) and ends in the same bytes.

Shards that others have made need no preparing: train.py takes a folder of them, such as 10B tokens from
    hf download kjj0/finewebedu10B-gpt2 --repo-type=dataset --local-dir=data/edu_fineweb10B
"""

import functools
import glob
import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from core import data
from core.common import Parser, UserError, atomic_write, locked, run_main, usable_cores
from core.data import read_meta, shard_layout, split_of, write_meta, write_shard

FINEWEB = 'HuggingFaceFW/fineweb-edu'
# what decides the bytes
OPTIONS = ('sample', 'source', 'tokenizer', 'shard_tokens', 'max_tokens', 'val_tokens')
SOURCES = re.compile(r'\.(?:(parquet)|(jsonl|ndjson|json|txt|md)(\.gz|\.zst)?)$', re.IGNORECASE)
TEXTS = ('txt', 'md')
PIECE = 100_000  # characters of a text file that are read, and held out, together, at least
FEW_FILES = 32  # text files up to here are held out in pieces, more of them whole
ROWS = 64  # of a parquet file that are read together
BATCH = 200_000  # characters for each worker that are tokenized in one call: what bounds the memory

def main():
    args = parse_arguments()
    # Ctrl-C ends it at once, where a thread may wait for the network. A kill anywhere loses nothing.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with locked(args.out):
        meta = read_folder(args) or new_meta(args)
        done = ' is complete already' if meta['complete'] else ''
        if not meta['complete']:
            save(args, meta)  # a folder that is stopped says that it isn't complete
            make_shards(args, meta)
    print(f'{args.out}{done}: {len(meta["shards"])} shards, {sum(meta["documents"].values()):,} documents, '
          f'{sum(meta["tokens"].values()):,} tokens ({meta["tokens"]["val"]:,} of them for validation)')

def parse_arguments():
    """The command line. Raises UserError for options that don't go together."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add('--sample', default='10BT', choices=('10BT', '100BT', '350BT'),
        help="which sample of the Hub's FineWeb-Edu; default: 10BT")
    add('--source', nargs='+', action='extend', default=[], metavar='PATH',
        help='local files instead, folders of them, or patterns')
    add('--out', default='', metavar='DIR', help='default: data/edu_fineweb10B, by the sample')
    add('--tokenizer', default='gpt2', metavar='NAME',
        help='gpt2, bytes, or a folder or repository on the Hub with a tokenizer.json; default: gpt2')
    add('--shard_tokens', type=int, default=100_000_000, metavar='N', help='tokens per shard; default: 100M')
    add('--val_tokens', type=int, default=0, metavar='N',
        help='hold out documents of about N tokens, evenly over the source; default 0: the first shard')
    add('--max_tokens', type=int, default=0, metavar='N',
        help='stop after N tokens in all, validation included; default 0: the whole source')
    add('--workers', type=int, default=usable_cores(), metavar='N', help='threads; default: all cores')
    args = parser.parse_args()
    if args.source and not args.out:
        raise UserError('--source needs --out, the folder to make')
    # A header counts in int32, a sequence needs two tokens, and what is held out becomes one shard.
    limits = {'shard_tokens': (2, 2**31 - 1), 'val_tokens': (0, args.shard_tokens),
              'max_tokens': (0, 10**15), 'workers': (1, 10_000)}
    for name, (least, most) in limits.items():
        value = getattr(args, name)
        if not least <= value <= most:
            raise UserError(f'--{name} must be from {least} to {most}, not {value}')
    for_validation = args.val_tokens or args.shard_tokens
    if 0 < args.max_tokens <= for_validation:
        raise UserError(f'--max_tokens={args.max_tokens}: {for_validation} tokens are for validation, which '
                        'leaves none to train on: choose a smaller --shard_tokens, or --val_tokens=N')
    # a shell expands ~ only at the start of a word, not in --out=~/data
    args.out = os.path.expanduser(args.out or f'data/edu_fineweb{args.sample[:-1]}')
    args.source = [os.path.expanduser(pattern) for pattern in args.source]
    return args

# what is done, what is to do

def read_folder(args) -> dict | None:
    """meta.json as found in the folder, cut back to its valid shards; None if there are no shards yet.

    Raises UserError if the folder was made with other options or from other files, or holds shards of someone
    else's.
    """
    found = [name for name in os.listdir(args.out) if name.endswith(('meta.json', '.bin', '.npy'))]
    if not found:
        return None
    meta = read_meta(args.out)
    is_ours = {'options', 'sources', 'shards', 'complete', 'revision'} <= meta.keys()
    if not is_ours or meta['options'].get('pretokenized'):  # which earlier versions could fetch
        raise UserError(f"{args.out} holds data that this script didn't make: choose another --out")
    if found == ['meta.json']:
        return None  # it holds no work: other options may replace it
    for name in OPTIONS:
        old = meta['options'].get(name, 0)  # older folders don't know --val_tokens
        new = getattr(args, name)
        if old != new:
            raise UserError(f'{args.out} was made with --{name}={old}, not {new}: continue with the same '
                            'options, or choose another --out')
    for i, shard in enumerate(meta['shards']):
        try:
            n_tokens = shard_layout(os.path.join(args.out, shard['file']))[1]
        except (UserError, FileNotFoundError):
            n_tokens = -1
        # More than is needed is no damage: the held-out shard is written before meta.json.
        if n_tokens < shard['tokens']:
            print(f'{shard["file"]} is missing or damaged: continuing from there')
            # Without a training shard nothing says what is held out until where.
            del meta['shards'][0 if args.val_tokens and i == 1 else i :]
            meta['complete'] = False
            break
    if args.source:
        # Files that no finished shard was made from may have changed, or have come or gone.
        file, document, token = next_position(meta)
        n_used = None if meta['complete'] else file + (document + token > 0)
        before = meta['sources'][:n_used]
        meta['sources'] = find_files(args)
        now = meta['sources'][:n_used]
        for entry in [*before, *now]:
            if entry not in before or entry not in now:
                raise UserError(f'{entry["file"]} has changed since {args.out} was begun, or has come or '
                                'gone: choose another --out')
    return meta

def next_position(meta: dict) -> list:
    """Where in the sources the next shard begins: [file, document, token of the document's]."""
    return meta['shards'][-1]['next'] if meta['shards'] else [0, 0, 0]

def new_meta(args) -> dict:
    """The meta.json of a folder to begin. Raises UserError if the tokenizer or the source isn't there."""
    # the tokenizer first: without network it is what fails
    is_own = args.tokenizer in data.OWN_TOKENIZERS
    content, name = (b'', args.tokenizer) if is_own else data.read_tokenizer(args.tokenizer)
    enc = data.get_tokenizer(name) if is_own else data.Tokenizer(content)
    files, revision = (find_files(args), '') if args.source else hub_files(args)
    print(f'{len(files)} files, {sum(entry["bytes"] for entry in files) / 1e9:.2f} GB', flush=True)
    if not is_own:
        with atomic_write(os.path.join(args.out, 'tokenizer.json'), 'wb') as f:
            f.write(content)
        for file in data.TOKENIZER_FILES[1:]:  # which export_hf.py carries along
            if os.path.isfile(os.path.join(args.tokenizer, file)):
                shutil.copy(os.path.join(args.tokenizer, file), args.out)
    piece = PIECE
    # Of a few text files, pieces of about a 16th of --val_tokens are held out. Many files are held out whole:
    # a page of an article whose other pages train is no test.
    if args.val_tokens and len(files) <= FEW_FILES:
        bytes_per_token = 1 if args.tokenizer == 'bytes' else 4.2  # of English
        wanted = int(args.val_tokens * bytes_per_token / 16)
        piece = max(1, min(PIECE, wanted // 2))  # a piece has up to twice as many
    options = {name: getattr(args, name) for name in OPTIONS}
    return {'tokenizer': name, 'vocab_size': enc.n_vocab, 'eot': enc.eot_token, 'complete': False,
            'options': options, 'sources': files, 'revision': revision, 'shards': [], 'piece': piece}

def save(args, meta: dict):
    """Write meta.json with totals by split. A shard counts as finished once it is in there."""
    # summed up anew each time, so that the totals can't drift from the shards
    for key in ('tokens', 'documents'):
        meta[key] = {'train': 0, 'val': 0}
        for shard in meta['shards']:
            meta[key][split_of(shard['file'])] += shard[key]
    write_meta(args.out, meta)

# the source's files

def find_files(args) -> list[dict]:
    """Name and size of each file of --source, pattern by pattern, each pattern's sorted, none twice, and none
    in --out. In a folder, what is hidden or of another kind is left out. Raises UserError for a pattern
    without files, and for a file that is no source."""
    inside = os.path.join(os.path.abspath(args.out), '')
    paths = []
    for pattern in args.source:
        # a name is meant as it is, though it may hold a * or [
        matches = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
        found = [path for path in matches if os.path.isfile(path)]
        if not found:  # a pattern that matches files and folders means the files
            for folder in matches:
                below = glob.glob(os.path.join(glob.escape(folder), '**', '*'), recursive=True)
                found += [path for path in below if os.path.isfile(path) and SOURCES.search(path)]
        found = [path for path in found if not os.path.abspath(path).startswith(inside)]
        if not found:
            raise UserError(f'--source: no file matches {pattern}, or none in it is a source')
        paths += sorted(found)
    for path in paths:
        if not SOURCES.search(path):
            raise UserError(f'{path}: not a source: .parquet, or .jsonl, .ndjson, .json, .txt, .md, these '
                            'also with .gz or .zst')
    return [{'file': path, 'bytes': os.path.getsize(path)} for path in dict.fromkeys(paths)]

def hub_files(args) -> tuple[list[dict], str]:
    """Name and size of each file of the sample on the Hub, and the commit that they are of."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(FINEWEB, files_metadata=True)
    except Exception as error:  # of the client, the network or the disk
        raise cannot_read(f'{FINEWEB} on the Hub', error) from None
    files = []
    for entry in sorted(info.siblings, key=lambda entry: entry.rfilename):
        if entry.rfilename.startswith(f'sample/{args.sample}/'):
            files.append({'file': entry.rfilename, 'bytes': entry.size})
    return files, info.sha

def cannot_read(what: str, error: Exception) -> UserError:
    """The error that a library's becomes."""
    reason = f'{type(error).__name__}: {error}'.split('\n')[0]
    return UserError(f"{what} can't be read ({reason}). If it is the network's fault, run the same command "
                     'again (with HF_TOKEN set if the Hub limits you), or fetch the files elsewhere and name '
                     'them with --source')

# files to documents

class Document(NamedTuple):
    """A document, or one piece of a text file, which is one document."""

    file: int  # number of the source
    number: int  # in the file
    name: str
    begins: bool  # whether a document begins here
    text: str
    progress: float  # share of all sources that is read after it

def read_documents(args, meta: dict, first: int, skip: int):
    """Every Document from number `skip` of file `first` on. Raises UserError, naming it, for an unreadable
    one."""
    sizes = [entry['bytes'] for entry in meta['sources']]
    before = sum(sizes[:first])
    for file in range(first, len(sizes)):
        path = meta['sources'][file]['file']
        _, kind, compression = SOURCES.search(path.lower()).groups()
        number = 0
        try:
            if kind:
                found = read_lines_or_text(args, meta, path, kind, compression)
            else:
                found = read_parquet(args, meta, path)
            for text, share in found:
                if type(text) is not str:
                    raise TypeError(f"its 'text' is {text!r:.60}, not a string")
                # skipping is reading without tokenizing: there is no index, but it is quick
                if number >= skip:
                    progress = (before + share * sizes[file]) / max(1, sum(sizes))
                    name = f'{path}, document {number}'
                    begins = number == 0 or kind not in TEXTS
                    yield Document(file, number, name, begins, text, progress)
                number += 1
        except Exception as error:  # of Arrow, json, a decompressor, the disk or the network
            raise cannot_read(f'{path}, document {number},', error) from None
        before += sizes[file]
        skip = 0

def read_parquet(args, meta: dict, path: str):
    """(text, share of the file that is read) of each row of a file, which may be on the Hub."""
    import pyarrow.parquet

    opener = open
    if not args.source:
        from huggingface_hub import HfFileSystem

        opener = HfFileSystem().open
        path = f'datasets/{FINEWEB}@{meta["revision"]}/{path}'
    with opener(path, 'rb') as f:
        # With a buffer a column is read in pieces, however large the row groups are.
        table = pyarrow.parquet.ParquetFile(f, buffer_size=2**20)
        number = 0
        for batch in table.iter_batches(ROWS, columns=['text'], use_threads=False):
            for text in batch['text'].to_pylist():
                number += 1
                yield text, number / table.metadata.num_rows

def read_lines_or_text(args, meta: dict, path: str, kind: str, compression: str | None):
    """(text, share of the file that is read) of each document of another file, or of each piece of a text.
    The share of a compressed file is 0 unless --val_tokens needs it."""
    size = os.path.getsize(path)
    if compression:
        size = 0
        if args.val_tokens:  # a pass of its own: gzip knows its size modulo 2**32, and of its last member
            with opened(path, compression) as f:
                size = sum(map(len, iter(lambda: f.read(2**20), b'')))
    with opened(path, compression) as f:
        found = read_text(f, args, meta['piece']) if kind in TEXTS else read_json(f)
        consumed = 0
        for text, n_bytes in found:
            consumed += n_bytes
            yield text, min(1.0, consumed / size) if size else 0.0

def opened(path: str, compression: str | None):
    """A file of decompressed bytes."""
    if not compression:
        return open(path, 'rb')
    import pyarrow  # whose readers, unlike zstandard, end no truncated file without an error

    return io.BufferedReader(pyarrow.input_stream(path, {'.gz': 'gzip', '.zst': 'zstd'}[compression]))

def read_json(f):
    """('text' or None, bytes) of each line's object, or of each object of an array."""
    # Not Arrow's JSON reader, which makes dates of texts that look like dates.
    first = f.readline()
    lines = itertools.chain([first], f)
    if re.match(rb'(\xef\xbb\xbf)?\s*\[', first):
        whole = b''.join(lines)
        records = json.loads(whole)
        found = ((record, len(whole) / len(records)) for record in records)
    else:
        found = ((json.loads(line), len(line)) for line in lines if line.strip())
    for record, n_bytes in found:
        yield record.get('text') if type(record) is dict else None, n_bytes

def read_text(f, args, piece: int):
    """(text, bytes) of a file's pieces of `piece` to 2 * piece characters; longer without a place to cut."""
    # The white space before which a text can be cut without another token: no token of GPT-2's crosses from
    # other characters to white space, and what is left of such a place doesn't depend on what is right of it.
    # Those of Llama 3 and Qwen cross to line ends, but not to a blank. Python and tiktoken disagree about
    # rarer white space than these four.
    places = ' \n\r\t' if args.tokenizer in data.OWN_TOKENIZERS else ' '
    text = ''
    # newline='': the document's own line ends stay
    f = io.TextIOWrapper(f, encoding='utf-8', newline='')
    while block := f.read(2 * piece):
        first = max(piece, len(text))  # of the places to cut at; there is none in what was read before
        text += block
        cut = len(text) - 1  # the last such place
        while cut >= first and not (text[cut] in places and not text[cut - 1].isspace()):
            cut -= 1
        if cut >= first:
            yield text[:cut], len(text[:cut].encode())
            text = text[cut:]
    yield text, len(text.encode())

# documents to tokens

def make_shards(args, meta: dict):
    """Tokenize the sources after the last finished shard into further ones; meta.json is brought up with
    each."""
    from tqdm import tqdm

    enc = data.get_tokenizer(meta['tokenizer'], args.out)
    writer = ShardWriter(args, meta)
    file, number, at = next_position(meta)
    documents = read_documents(args, meta, file, number)
    # in a log file, a line every half minute is enough
    interval = 0.5 if sys.stderr.isatty() else 30
    with (tqdm(initial=writer.total, unit='tok', unit_scale=True, dynamic_ncols=True, smoothing=0.1, delay=1,
               mininterval=interval) as bar, ThreadPoolExecutor(args.workers) as pool):
        found = batches(documents, BATCH * args.workers)
        pending = pool.submit(next, found, None)
        while writer.total < writer.limit and (batch := pending.result()):
            pending = pool.submit(next, found, None)  # read while this one is tokenized
            # Not tiktoken's encode_ordinary_batch, whose new threads for each batch have cold caches.
            encoded = pool.map(functools.partial(encode, enc), batch)
            for document, tokens in zip(batch, encoded):
                writer.add(document, [enc.eot_token] * document.begins + tokens, at)
                at = 0  # only the first document may have tokens in a finished shard
            bar.update(writer.total - bar.n)
            # how many tokens there will be isn't known: as many as the share that is read lets expect
            if writer.progress:
                bar.total = int(min(writer.limit, writer.total / writer.progress))
    writer.close()

def batches(documents, size: int):
    """Lists of documents of `size` characters or somewhat more."""
    batch = []
    n = 0
    for document in documents:
        batch.append(document)
        n += len(document.text)
        if n >= size:
            yield batch
            batch = []
            n = 0
    yield batch

def encode(enc, document: Document) -> list[int]:
    """A document's tokens, without end-of-text. Raises UserError, naming it, for what tiktoken can't do."""
    try:
        return enc.encode_ordinary(document.text)
    except BaseException as error:  # its panics are no Exception; a million line breaks are one cause
        raise UserError(f'{document.name}: the tokenizer fails on it ({error})') from None

class ShardWriter:
    """Takes the documents in order, writes a shard whenever one is full, and brings meta.json up with each.

    With --val_tokens two streams fill side by side: the training shards, and the held-out documents, which
    are written anew with each training shard. Each shard's entry says how many tokens were held out by then,
    and of what share of the source, so that a later run begins where this one stood.
    """

    def __init__(self, args, meta: dict):
        self.args = args
        self.meta = meta
        self.limit = args.max_tokens or sys.maxsize
        self.buffer = np.empty(args.shard_tokens, data.token_dtype(meta['vocab_size']))
        self.fill = 0  # tokens in the buffer
        self.held_out = [self.buffer[:0]]
        self.n_held_out = 0
        self.progress = 0.0  # share of the source that is taken
        self.total = sum(shard['tokens'] for shard in meta['shards'])  # tokens that are taken
        # What is held out since the last training shard was finished will be read again, and held out again.
        if args.val_tokens and meta['shards']:
            first = meta['shards'][0]
            last = meta['shards'][-1]
            self.progress = last['progress']
            self.n_held_out = last['held_out']
            self.total += self.n_held_out - first['tokens']
            path = os.path.join(args.out, first['file'])
            self.held_out = [np.fromfile(path, self.buffer.dtype, self.n_held_out, offset=data.HEADER_BYTES)]

    def add(self, document: Document, tokens: list[int], at: int):
        """Take a document from its token number `at` on, up to --max_tokens in all."""
        left = np.array(tokens[at:], self.buffer.dtype)[: self.limit - self.total]
        # Validation gets the next document as soon as it has less than the share of --val_tokens that is due.
        # Its own length has no say, so that neither long nor short documents are preferred.
        due = self.args.val_tokens * max(self.progress, self.total / self.limit)
        self.progress = document.progress
        if self.n_held_out < due and at == 0:  # not if a part of it is in a training shard
            self.held_out.append(left)
            self.n_held_out += len(left)
            self.total += len(left)
            return
        while len(left):  # a long document can fill several shards
            part = left[: len(self.buffer) - self.fill]
            left = left[len(part) :]
            self.buffer[self.fill : self.fill + len(part)] = part
            self.fill += len(part)
            self.total += len(part)
            at += len(part)
            if self.fill == len(self.buffer):
                ends = at == len(tokens)
                self.finish([document.file, document.number + ends, 0 if ends else at])

    def finish(self, position: list):
        """Write the buffer as the next shard; `position` is where in the sources the one after it begins."""
        # Before the training shard and meta.json: stopped in between, more is held out than meta.json knows.
        self.write_held_out()
        entry = self.write(len(self.meta['shards']), self.buffer[: self.fill])
        entry['next'] = position
        if self.args.val_tokens:
            entry['held_out'] = self.n_held_out
            entry['progress'] = self.progress
        self.meta['shards'].append(entry)
        self.fill = 0
        save(self.args, self.meta)

    def write_held_out(self):
        """Write the validation shard of --val_tokens as far as it is known."""
        if self.args.val_tokens:
            self.held_out = [np.concatenate(self.held_out)]
            self.meta['shards'][:1] = [self.write(0, self.held_out[0])]

    def write(self, number: int, tokens: np.ndarray) -> dict:
        """Write one shard; its entry in meta.json. Number 0 is for validation."""
        prefix = 'shard' if self.args.source else 'edufineweb'
        name = f'{prefix}_{"train" if number else "val"}_{number:06d}.bin'
        write_shard(os.path.join(self.args.out, name), tokens)
        n_documents = int(np.count_nonzero(tokens == self.meta['eot']))  # those that begin in it
        return {'file': name, 'tokens': len(tokens), 'documents': n_documents}

    def close(self):
        """Write what is left, and say in meta.json that all is there. Raises UserError if there's nothing to
        train on, or nothing for validation."""
        n_val = self.n_held_out if self.args.val_tokens else min(self.total, self.args.shard_tokens)
        n_train = self.total - n_val
        if not n_train or not n_val:
            raise UserError(f'the source holds {self.total:,} tokens, {n_val:,} for validation, {n_train:,} '
                            'to train on: choose a smaller --shard_tokens (the first shard is for '
                            'validation), or hold out documents from all over the source with --val_tokens=N')
        if self.fill:
            self.finish([len(self.meta['sources']), 0, 0])  # the last shard is as long as it is
        else:
            self.write_held_out()  # what came after the last full shard
        # what a run before, of a source that was longer then, has left: train.py would read it
        names = {shard['file'] for shard in self.meta['shards']}
        for name in os.listdir(self.args.out):
            if re.fullmatch(r'(shard|edufineweb)_(train|val)_\d{6,}\.bin', name) and name not in names:
                os.remove(os.path.join(self.args.out, name))
        self.meta['complete'] = True
        save(self.args, self.meta)

if __name__ == '__main__':
    run_main(main)
