"""
FineWeb-Edu, or your own files, to token shards: on all cores, in bounded memory, resumable, exact.

    python prepare_fineweb.py                                      # sample-10BT from the Hub to data/edu_fineweb10B
    python prepare_fineweb.py --max_tokens=1_000_000_000           # only its first 1B tokens
    python prepare_fineweb.py --source 'texts/*.parquet' --out=data/mine      # your own files
    python prepare_fineweb.py --pretokenized                       # shards that are ready on the Hub: no tokenizing

sample-10BT is 14 parquet files of 2 GB, downloaded one ahead and deleted once their tokens are in shards; its 10B tokens
become 100 shards of 200 MB. Every document is the end-of-text token followed by encode_ordinary(text), and the shards in
their order are the documents in theirs: a document goes on in the next shard where one is full. The first shard is for
validation. The bytes don't depend on the number of workers.

Killed at any moment, the same command goes on behind the last finished shard (meta.json says where in the source that
is) and ends in the same bytes. A folder made with other options is refused.

Threads do the tokenizing, not processes: tiktoken works outside the GIL, so nothing is pickled, nothing is started anew,
and the memory is that of one process. dev/bench_prepare.py measures it.
"""

import argparse
import collections
import contextlib
import glob
import io
import json
import os
import queue
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common import UserError, run_main
from data import get_tokenizer, read_meta, shard_layout, write_meta, write_shard

FINEWEB, PRETOKENIZED = 'HuggingFaceFW/fineweb-edu', 'kjj0/finewebedu10B-gpt2'
EOT = '<|endoftext|>'
CHUNK = 100_000  # characters tokenized in one call: the GIL changes hands rarely; 1M costs 8% more in malloc's arenas
OPTIONS = ('sample', 'source', 'pretokenized', 'tokenizer', 'shard_tokens', 'max_tokens')  # what decides the bytes


def main():
    args = arguments()
    meta = begin(args)
    if meta['complete']:
        print(f'{args.out} is complete already: {summary(args, meta)}')
        return
    print(needs(args, meta), flush=True)
    try:
        fetch_shards(args, meta) if args.pretokenized else make_shards(args, meta)
    except KeyboardInterrupt:
        raise UserError('stopped; the same command goes on behind the last finished shard') from None
    if not args.keep:
        shutil.rmtree(os.path.join(args.out, 'hub'), ignore_errors=True)
    print(f'{args.out}: {summary(args, meta)}')


def arguments():
    """The command line. Raises UserError for options that don't go together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    add = parser.add_argument
    add('--sample', default='10BT', choices=('10BT', '100BT', '350BT'), help="which sample of the Hub's FineWeb-Edu; "
        'default: 10BT')
    add('--source', nargs='+', action='extend', default=[], metavar='GLOB', help='local files instead: .parquet (column '
        'text), .jsonl (key text) or .txt (a file is a document), the last two also .gz or .zst; in sorted order')
    add('--pretokenized', nargs='?', const=PRETOKENIZED, default='', metavar='DATASET', help='ready shards of this layout '
        f'from this dataset on the Hub instead; without a name: {PRETOKENIZED}')
    add('--out', default='', metavar='DIR', help='folder of the shards; default: data/edu_fineweb10B, by the sample')
    add('--tokenizer', default='gpt2', choices=('gpt2', 'bytes'), help='default: gpt2')
    add('--shard_tokens', type=int, default=100_000_000, metavar='N', help='tokens per shard, 2 bytes each; default: 100M')
    add('--max_tokens', type=int, default=0, metavar='N', help='stop after N tokens in all, validation included ('
        'with --pretokenized: whole shards, at least two); default 0: the whole source')
    add('--workers', type=int, default=cores, metavar='N', help='threads that tokenize; default: all cores')
    add('--keep', action='store_true', help="keep the Hub's parquet files in DIR/hub; default: each is deleted once done")
    args = parser.parse_args()
    if args.source and args.pretokenized:
        raise UserError('--source and --pretokenized exclude each other')
    if args.source and not args.out:
        raise UserError('--source needs --out, the folder to make')
    if args.pretokenized and (args.tokenizer, args.shard_tokens) != ('gpt2', 100_000_000):
        raise UserError('--pretokenized takes the shards as they are: leave out --tokenizer and --shard_tokens')
    if not 2 <= args.shard_tokens < 2**31:
        raise UserError(f'--shard_tokens must be from 2 to {2**31 - 1}, not {args.shard_tokens}')
    if args.max_tokens < 0 or args.workers < 1:
        raise UserError('--max_tokens must be at least 0 and --workers at least 1')
    if args.max_tokens and not args.pretokenized and args.max_tokens <= args.shard_tokens:
        raise UserError(f'--max_tokens={args.max_tokens} fit in the first shard of {args.shard_tokens}, which is for '
                        'validation: choose a smaller --shard_tokens, so that there is something to train on')
    args.out = args.out or f'data/edu_fineweb{args.sample[:-1]}'
    return args


# what is done, what is to do


def begin(args) -> dict:
    """meta.json as found in the folder, cut back to its valid shards, or a new one, written before any shard is.

    Raises UserError if the folder was made with other options or from other files, or holds shards of someone else's.
    """
    options, meta = {name: getattr(args, name) for name in OPTIONS}, read_meta(args.out)
    there = [name for name in os.listdir(args.out) if name.endswith(('.bin', '.npy'))] if os.path.exists(args.out) else []
    if 'options' not in meta and (there or os.path.exists(os.path.join(args.out, 'meta.json'))):
        raise UserError(f"{args.out} holds data that this script didn't make: choose another --out")
    if there:
        for name, value in options.items():
            if (old := meta['options'][name]) != value:
                raise UserError(f'{args.out} was made with --{name}={old}, not {value}: go on with the same options, or '
                                'choose another --out')
        for i, shard in enumerate(meta['shards']):
            if not shard_is(os.path.join(args.out, shard['file']), shard['tokens']):
                print(f'{shard["file"]} is missing or torn: going on from there')
                del meta['shards'][i:]
                meta['complete'] = False
                break
        if args.source:
            meta['sources'] = unchanged(args, meta)
        return meta
    enc = get_tokenizer(args.tokenizer)
    sources, revision = (local_files(args.source), '') if args.source else hub_files(args)
    meta = {'tokenizer': args.tokenizer, 'vocab_size': enc.n_vocab, 'eot': enc.eot_token, 'complete': False,
            'options': options, 'sources': sources, 'revision': revision, 'shards': []}
    os.makedirs(args.out, exist_ok=True)
    save(args, meta)
    return meta


def unchanged(args, meta: dict) -> list[dict]:
    """The files of --source. Raises UserError if one that is in the finished shards has changed; later ones may."""
    files = local_files(args.source)
    source, document, offset = meta['shards'][-1]['next'] if meta['shards'] else (0, 0, 0)
    for i in range(source + (document + offset > 0)):
        if files[i : i + 1] != meta['sources'][i : i + 1]:
            raise UserError(f'{meta["sources"][i]["file"]} has changed since {args.out} was begun: choose another --out')
    if meta['complete'] and len(files) > len(meta['sources']):
        raise UserError(f'{args.out} is complete without {files[len(meta["sources"])]["file"]}: choose another --out')
    return files


def shard_is(path: str, n: int) -> bool:
    """Whether the file is a whole shard of n tokens."""
    try:
        return shard_layout(path)[1] == n
    except (UserError, FileNotFoundError):
        return False


def save(args, meta: dict):
    """Write meta.json with totals by split. A shard counts as finished once it is in there."""
    for key in ('tokens', 'documents'):
        meta[key] = {'train': 0, 'val': 0}
        for shard in meta['shards']:
            meta[key][split_of(shard['file'])] += shard[key]
    with full_disk_named(args, meta, 'meta.json'):
        write_meta(args.out, meta)


def split_of(name: str) -> str:
    return 'val' if 'val' in os.path.basename(name) else 'train'


@contextlib.contextmanager
def full_disk_named(args, meta: dict, name: str):
    """Turns a failed write into a UserError that says what stays."""
    path = os.path.join(args.out, name)
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(path + '.tmp')
        raise UserError(f'{path} could not be written ({error.strerror}); {len(meta["shards"])} finished shards are kept: '
                        'make room, then run the same command again') from None


def needs(args, meta: dict) -> str:
    """The first line: what there is to do, what it needs on the disk (an estimate) and what the disk has."""
    sources, size = meta['sources'], sum(f['bytes'] for f in meta['sources'])
    if args.source:
        where, passing = f'{len(sources)} files', 0
        tokens = sum(text_bytes(f['file']) for f in sources) / (4.2 if args.tokenizer == 'gpt2' else 1)
    elif args.pretokenized:
        where, passing, tokens = f'{len(sources)} shards of {args.pretokenized}', 0, size / 2
    else:
        where = f'{len(sources)} files of {FINEWEB} sample-{args.sample}'
        tokens = float(args.sample[:-2]) * 1e9 * (1 if args.tokenizer == 'gpt2' else 4.7)
        passing = size if args.keep else 3 * max(f['bytes'] for f in sources)  # in hand, just done, one ahead
        passing *= min(1, args.max_tokens / tokens) if args.max_tokens and args.keep else 1
    done = total(meta)
    need = 2 * max(0, min(tokens, args.max_tokens or tokens) - done) + passing
    free = shutil.disk_usage(args.out).free
    return (f'{where}, {size / 1e9:.2f} GB' + f'; {len(meta["shards"])} shards are done' * bool(done)
            + f'; needs about {need / 1e9:.2f} GB of disk, {args.out} has {free / 1e9:.2f} GB free'
            + ': NOT ENOUGH, it will stop when the disk is full' * (need > free))


def summary(args, meta: dict) -> str:
    """The last line: shards, documents, tokens, and which shard is not full."""
    shards, tokens = meta['shards'], sum(meta['tokens'].values())
    text = (f'{len(shards)} shards, {sum(meta["documents"].values()):,} documents, {tokens:,} tokens '
            f'({meta["tokens"]["val"]:,} of them for validation)')
    if not args.pretokenized and shards[-1]['tokens'] < args.shard_tokens:
        text += (f'; the last shard, {shards[-1]["file"]}, is partial: '
                 f'{shards[-1]["tokens"]:,} of {args.shard_tokens:,} tokens')
    return text


def total(meta: dict) -> int:
    return sum(shard['tokens'] for shard in meta['shards'])


def progress(done: int, expected: int | None):
    """The progress bar, in tokens."""
    from tqdm import tqdm

    return tqdm(total=expected, initial=done, unit='tok', unit_scale=True, dynamic_ncols=True, smoothing=0.1,
                mininterval=0.5 if sys.stderr.isatty() else 30)


# tokenizing


Chunk = collections.namedtuple('Chunk', 'source path document begins texts share')  # share of the file read so far


def make_shards(args, meta: dict):
    """Tokenize the sources behind the last finished shard into further ones; meta.json is brought up with each."""
    enc, sources, shards = get_tokenizer(args.tokenizer), meta['sources'], meta['shards']
    source, document, offset = shards[-1]['next'] if shards else (0, 0, 0)
    done, fill, buffer = total(meta), 0, np.empty(args.shard_tokens, np.uint16)
    limit = args.max_tokens or float('inf')
    sizes = np.array([f['bytes'] for f in sources])
    before = np.cumsum(sizes) - sizes  # bytes of the source before each file
    paths = [f['file'] for f in sources[source:]] if args.source else one_ahead(args, meta, sources[source:])
    with ThreadPoolExecutor(args.workers) as pool, progress(done, None) as bar:
        work = chunks(enumerate(paths, source), document)
        for chunk, tokens in in_order(pool, lambda chunk: encode(enc, chunk), work, 32 * args.workers):
            at, offset = offset, 0  # the first chunk's first tokens are in a finished shard
            while at < len(tokens) and done + fill < limit:
                n = min(args.shard_tokens - fill, limit - done - fill, len(tokens) - at)
                buffer[fill : fill + n] = tokens[at : at + n]
                fill, at = fill + n, at + n
                bar.update(n)
                if fill == args.shard_tokens:
                    finish(args, meta, buffer, place(chunk, tokens, at, meta['eot']))
                    done, fill = done + fill, 0
            read_bytes = before[chunk.source] + chunk.share * sizes[chunk.source]
            bar.total = int(min(limit, max(bar.n, bar.n * sizes.sum() / max(1, read_bytes))))
            if done + fill == limit:
                break
    if len(shards) + bool(fill) < 2:
        raise UserError(f'the source holds {done + fill:,} tokens, and the first {args.shard_tokens:,} are for validation: '
                        'choose a smaller --shard_tokens, so that there is something to train on')
    if fill:
        finish(args, meta, buffer[:fill], [len(sources), 0, 0])
    meta['complete'] = True
    save(args, meta)


def finish(args, meta: dict, tokens: np.ndarray, position: list):
    """Write the next shard; `position` is where in the sources the one behind it begins: file, document, token."""
    name = f'{"shard" if args.source else "edufineweb"}_{"train" if meta["shards"] else "val"}_{len(meta["shards"]):06d}.bin'
    with full_disk_named(args, meta, name):
        write_shard(os.path.join(args.out, name), tokens)
    meta['shards'].append({'file': name, 'tokens': len(tokens), 'documents': int(np.count_nonzero(tokens == meta['eot'])),
                           'next': position})
    save(args, meta)
    if not args.source and not args.keep:
        for f in meta['sources'][: position[0]]:
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(args.out, 'hub', f['file']))


def place(chunk: Chunk, tokens: np.ndarray, at: int, eot: int) -> list:
    """The position of the chunk's token number `at` as [file, document, token of the document's]."""
    if at == len(tokens):
        return [chunk.source, chunk.document + len(chunk.texts), 0]
    starts = np.flatnonzero(tokens == eot) if chunk.begins else np.zeros(1, int)
    n = int(np.searchsorted(starts, at, side='right')) - 1
    return [chunk.source, chunk.document + n, at - int(starts[n])]


def in_order(pool, function, items, ahead: int):
    """(item, function(item)) in the items' order, computed by the pool; never more than `ahead` items are in hand."""
    pending = collections.deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        if len(pending) == ahead:
            item, future = pending.popleft()
            yield item, future.result()
    for item, future in pending:
        yield item, future.result()


def encode(enc, chunk: Chunk) -> np.ndarray:
    """A chunk's tokens, uint16: end-of-text, then encode_ordinary(text), for each document."""
    text = EOT * chunk.begins + EOT.join(chunk.texts)
    if text.count(EOT) == len(chunk.texts) - (not chunk.begins):  # else a document holds it, as ordinary text
        with contextlib.suppress(BaseException):  # whatever it is, going one by one finds the document
            return enc.encode_to_numpy(text, allowed_special='all').astype(np.uint16)
    tokens = []
    for i, text in enumerate(chunk.texts):
        try:
            tokens += [enc.eot_token] * chunk.begins + enc.encode_ordinary(text)
        except BaseException as error:  # tiktoken's panics are no Exception; a million line breaks in a row are one cause
            raise UserError(f'{chunk.path}, document {chunk.document + i}: tiktoken fails on it ({error})') from None
    return np.array(tokens, np.uint16)


# reading


def chunks(paths, document: int):
    """The texts of the files, from `document` of the first one on, in groups of CHUNK characters or somewhat more."""
    for source, path in paths:
        texts, size, share = [], 0, 0
        for text, share in read(path, document):
            texts.append(text)
            size += len(text)
            if size >= CHUNK:
                yield Chunk(source, path, document, begins(path, document), texts, share)
                document, texts, size = document + len(texts), [], 0
        if texts:
            yield Chunk(source, path, document, begins(path, document), texts, share)
        document = 0


def begins(path: str, document: int) -> bool:
    """Whether a document begins here: a text file is one document, though it is read in numbered pieces."""
    return document == 0 or kind(path)[0] != '.txt'


def kind(path: str) -> tuple[str, str]:
    """('.parquet', '.jsonl' or '.txt', compression or ''). Raises UserError for any other name."""
    stem, ext = os.path.splitext(path)
    compression = {'.gz': 'gzip', '.zst': 'zstd'}.get(ext, '')
    ext = os.path.splitext(stem)[1] if compression else ext
    if ext not in ('.parquet', '.jsonl', '.txt') or (compression and ext == '.parquet'):
        raise UserError(f'{path}: not a source: .parquet, .jsonl or .txt, the last two also with .gz or .zst')
    return ext, compression


def read(path: str, skip: int):
    """(text, share of the file read) of each document behind the first `skip` ones; of each piece of a text file.

    Raises UserError, naming the file, for whatever can't be read.
    """
    import pyarrow as pa

    ext, compression = kind(path)
    try:
        if ext == '.parquet':
            yield from read_parquet(path, skip)
            return
        with open(path, 'rb') as raw:
            plain = pa.CompressedInputStream(raw, compression) if compression else raw
            lines_or_pieces = read_jsonl if ext == '.jsonl' else read_text
            for i, text in enumerate(lines_or_pieces(io.BufferedReader(plain, CHUNK), path)):
                if i >= skip:
                    yield text, raw.tell() / os.path.getsize(path)
    except (OSError, ValueError, pa.ArrowException) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise UserError(f'{path} can\'t be read: {str(error).splitlines()[0]}') from None


def read_parquet(path: str, skip: int):
    """See read(). Decodes about CHUNK bytes at a time, whatever the size of the row groups."""
    with parquet(path) as file:
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        n_rows, first = sum(groups), 0
        position = skip
        while first < len(groups) and position >= groups[first]:
            position -= groups[first]
            first += 1
        rows = max(1, min(1024, CHUNK * n_rows // max(1, text_bytes(path))))
        at = skip - position
        for batch in file.iter_batches(rows, range(first, len(groups)), ['text'], use_threads=False):
            for text in batch.column(0).to_pylist():
                at += 1
                if at > skip:
                    if text is None:
                        raise UserError(f'{path}: the text of document {at - 1} is null')
                    yield text, at / n_rows


def parquet(path: str):
    """The open file. Raises UserError if it is no parquet file or has no column of texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK)  # as a stream: not a whole row group at once
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} can't be read as parquet: {str(error).splitlines()[0]}") from None
    names = file.schema_arrow.names
    if 'text' not in names:
        raise UserError(f"{path} has no column 'text', only {', '.join(names)}")
    if not pa.types.is_string(t := file.schema_arrow.field('text').type) and not pa.types.is_large_string(t):
        raise UserError(f"{path}: the column 'text' holds {t}, not strings")
    return file


def read_jsonl(lines, path: str):
    """The text of each line that isn't blank."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                text = json.loads(line)['text']
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f'{path}, line {number}: not a JSON object with a text '
                                f'({type(error).__name__}: {error})') from None
            if type(text) is not str:
                raise UserError(f'{path}, line {number}: text is {text!r}, not a string')
            yield text


def read_text(binary, path: str):
    """The file in pieces of CHUNK characters or somewhat more, cut where the tokens don't change: where white space begins.

    No token of GPT-2's crosses from other characters to white space, and what is left of such a place doesn't depend on
    what is right of it. An empty file is one empty piece.
    """
    file = io.TextIOWrapper(binary, encoding='utf-8', newline='')
    text = ''
    while block := file.read(2 * CHUNK):
        first = max(CHUNK, len(text))  # of the places to cut at; there is none in what was read before
        text += block
        cut = len(text) - 1
        while cut >= first and not (text[cut] in ' \n\r\t' and not text[cut - 1].isspace()):
            cut -= 1
        if cut >= first:
            yield text[:cut]
            text = text[cut:]
    yield text


# files


def local_files(patterns: list[str]) -> list[dict]:
    """Name and size of each file of --source, sorted. Raises UserError for a pattern without a match, or no source."""
    paths = []
    for pattern in patterns:
        found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        found = sorted(path for path in found if os.path.isfile(path))
        if not found:
            raise UserError(f'--source: no file matches {pattern}')
        paths += found
    for path in paths:
        text_bytes(path)  # raises for what is no source
    return [{'file': path, 'bytes': os.path.getsize(path)} for path in dict.fromkeys(paths)]


def text_bytes(path: str) -> int:
    """About how many bytes of text a local file holds."""
    ext, compression = kind(path)
    if ext != '.parquet':
        return os.path.getsize(path) * (3 if compression else 1)
    with parquet(path) as file:
        column = file.schema.names.index('text')  # of the leaves, where a column of lists or structs can be several
        return sum(file.metadata.row_group(i).column(column).total_uncompressed_size for i in range(file.num_row_groups))


# the Hub


@contextlib.contextmanager
def hub_errors(what: str):
    """Turns the Hub's errors into a UserError."""
    import httpx

    try:
        yield
    except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        raise UserError(f'{what} could not be fetched from the Hub ({type(error).__name__}: {str(error).splitlines()[0]}). '
                        'Run the same command again once the network is there (with HF_TOKEN set if the Hub limits you), '
                        'or fetch the files elsewhere and name them with --source') from None


def hub_files(args) -> tuple[list[dict], str]:
    """Name and size of each file to fetch, validation first, and the commit that they are of."""
    from huggingface_hub import HfApi

    repo, folder = (args.pretokenized, None) if args.pretokenized else (FINEWEB, f'sample/{args.sample}')
    with hub_errors(repo):
        revision = HfApi().dataset_info(repo).sha
        tree = list(HfApi().list_repo_tree(repo, folder, recursive=True, revision=revision, repo_type='dataset'))
    wanted = ('.bin', '.npy') if args.pretokenized else '.parquet'
    files = [{'file': entry.path, 'bytes': entry.size} for entry in tree if entry.path.endswith(wanted)]
    if not files:
        raise UserError(f'{repo} on the Hub holds no {" or ".join(wanted) if args.pretokenized else wanted} files')
    return sorted(files, key=lambda f: (split_of(f['file']) == 'train', f['file'])), revision


def download(args, meta: dict, file: dict) -> str:
    """Fetch one of the Hub's files to DIR/hub, going on with what is there of it; its path."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    repo, folder = args.pretokenized or FINEWEB, os.path.join(args.out, 'hub')
    with hub_errors(f'{repo}/{file["file"]}'):
        return hf_hub_download(repo, file['file'], repo_type='dataset', revision=meta['revision'], local_dir=folder)


def one_ahead(args, meta: dict, files: list[dict]):
    """The path of each of the Hub's files in turn; the next one is fetched while one is in use."""
    fetched, wanted = queue.Queue(), threading.Semaphore(2)

    def work():
        for file in files:
            wanted.acquire()
            try:
                fetched.put((download(args, meta, file), None))
            except BaseException as error:  # whatever it is, it is raised where the file is waited for
                fetched.put((None, error))
                return

    threading.Thread(target=work, daemon=True).start()  # daemon: no download holds up the exit
    for _ in files:
        path, error = fetched.get()
        if error:
            raise error
        yield path
        wanted.release()


def fetch_shards(args, meta: dict):
    """Fetch ready shards, each checked before it gets its name in DIR."""
    left = meta['sources'][len(meta['shards']) :]
    with progress(total(meta), args.max_tokens or sum(f['bytes'] for f in meta['sources']) // 2) as bar:
        for file in left:
            if args.max_tokens and total(meta) >= args.max_tokens and len(meta['shards']) > 1:
                break
            path, name = download(args, meta, file), os.path.basename(file['file'])
            try:
                offset, n = shard_layout(path)
                tokens = np.fromfile(path, np.uint16, offset=offset)
                if tokens.max(initial=0) >= meta['vocab_size']:
                    raise UserError(f'{path}: token {tokens.max()} in a vocabulary of {meta["vocab_size"]}')
            except UserError:
                os.remove(path)
                raise
            os.replace(path, os.path.join(args.out, name))
            meta['shards'].append({'file': name, 'tokens': n, 'documents': int(np.count_nonzero(tokens == meta['eot']))})
            save(args, meta)
            bar.update(n)
    meta['complete'] = True
    save(args, meta)


if __name__ == '__main__':
    run_main(main)
