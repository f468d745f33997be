"""
Documents from files, in order and in bounded memory: parquet, JSON lines, JSON and plain text; and files from
the Hub.

    for text, share in sources.read('texts/a.jsonl.gz', 0): ...

| name | a document is |
|---|---|
| .parquet | a row's column 'text', of whatever type of string |
| .jsonl, .ndjson | the key 'text' of a line's object |
| .json | the key 'text' of an object: in one array, or one object after the other |
| .txt, .md | the file; it comes in pieces |

All but parquet also as .gz or .zst. A file of no bytes holds no document; as .txt or .md, one empty document.
"""

import contextlib
import functools
import glob
import gzip
import io
import json
import os
import queue
import re
import threading
import zlib
from dataclasses import dataclass

from core.common import UserError

CHUNK = 100_000  # bytes or characters read at a time
FORMATS = {'.parquet': 'parquet', '.jsonl': 'lines', '.ndjson': 'lines', '.json': 'json', '.txt': 'text',
           '.md': 'text'}
COMPRESSIONS = {'.gz': 'gzip', '.zst': 'zstd'}
DECODER = json.JSONDecoder()
GAP = re.compile(r'[\s,]*')  # what stands between two objects


# files


def file_format(path: str) -> tuple[str, str]:
    """('parquet', 'lines', 'json' or 'text'; compression or ''), by the name; ('', '') for any other name."""
    # DATA.TXT is from another system, and text all the same
    stem, ending = os.path.splitext(path.lower())
    compression = COMPRESSIONS.get(ending, '')
    if compression:
        ending = os.path.splitext(stem)[1]
    kind = FORMATS.get(ending, '')
    if not kind or (compression and kind == 'parquet'):
        return '', ''
    return kind, compression


def find(patterns: list[str], but_not_in: str = '') -> list[str]:
    """The files that names, folders and glob patterns stand for: in their order, each pattern's sorted, none
    twice, and none in the folder `but_not_in`.

    Raises UserError for a file that is no source.
    """
    paths = []
    for pattern in patterns:
        paths += matches(pattern)
    if but_not_in:
        inside = os.path.join(os.path.abspath(but_not_in), '')
        paths = [path for path in paths if not os.path.abspath(path).startswith(inside)]
    for path in paths:
        if not file_format(path)[0]:
            endings = ', '.join(FORMATS)
            raise UserError(f'{path}: not a source: {endings}, all but the first also with .gz or .zst')
    return list(dict.fromkeys(paths))


def matches(pattern: str) -> list[str]:
    """The files that one pattern stands for, sorted. A pattern that matches files and folders means the
    files."""
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [pattern]  # a name is meant as it is, though it may hold a * or [
    found = [pattern] if os.path.isdir(pattern) else glob.glob(pattern, recursive=True)
    files = [path for path in found if os.path.isfile(path)]
    if not files:
        for folder in found:
            files += files_below(folder)
    return sorted(files)


def files_below(folder: str) -> list[str]:
    """The sources in a folder and in those inside it; what is hidden, or of another kind, is left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        # .git, .cache, .ipynb_checkpoints: nobody means their texts
        folders[:] = [name for name in folders if not name.startswith('.')]
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith('.') and file_format(path)[0]:
                found.append(path)
    return found


def text_bytes(path: str) -> int:
    """About how many bytes of text a file holds, quickly. Raises UserError for a bad parquet file."""
    kind, compression = file_format(path)
    size = os.path.getsize(path)
    # text compresses to about a third
    if kind != 'parquet':
        return 3 * size if compression else size
    if size == 0:
        return 0
    with open_parquet(path) as file:
        # by leaves, of which a column of lists or structs can have several
        column = file.schema.names.index('text')
        return sum(file.metadata.row_group(i).column(column).total_uncompressed_size
                   for i in range(file.num_row_groups))


def most_tokens(path: str, limit: int) -> int:
    """A number of tokens that a file can't exceed, counted no further than `limit`: no token is shorter than
    a byte, and each document has one more."""
    total = 0
    for text, _ in read(path, 0):
        total += len(text.encode('utf-8', 'surrogatepass')) + 1
        if total > limit:
            break
    return total


# reading


@dataclass
class Stream:
    """A text file's bytes, uncompressed, and how far they are read."""

    path: str
    file: io.BufferedReader  # of the uncompressed bytes
    raw: io.BufferedReader  # of the file
    size: int  # of the file
    plain_size: int  # of the uncompressed bytes, 0 where it isn't known

    def share(self, consumed: int) -> float:
        """Share of the file that is read, after `consumed` uncompressed bytes: exact, but for compressed
        files without a known size."""
        if self.plain_size:
            return consumed / self.plain_size
        return self.raw.tell() / max(1, self.size)


def read(path: str, skip: int, exact: bool = False, piece: int = 0):
    """(text, share of the file read) of each document after the first `skip` ones; of each piece of a text
    file.

    exact: the share of a compressed file, too, is exact, for which it is decompressed once before.
    piece: characters in a piece of a text file, at least; default CHUNK.
    Raises UserError, naming the file, for whatever can't be read.
    """
    import pyarrow as pa

    kind, compression = file_format(path)
    size = os.path.getsize(path)
    # before any library sees it: most call a file without a byte damaged
    if size == 0:
        if kind == 'text' and skip == 0:
            yield '', 1.0
        return
    try:
        if kind == 'parquet':
            yield from read_parquet(path, skip)
            return
        plain_size = size
        if compression:
            plain_size = uncompressed_size(path) if exact else 0
        readers = {'lines': read_lines, 'json': read_json,
                   'text': functools.partial(read_text, piece=piece or CHUNK)}
        with open(path, 'rb') as raw:
            stream = Stream(path, uncompressed(raw, compression), raw, size, plain_size)
            for i, (text, consumed) in enumerate(readers[kind](stream)):
                # skipping is reading without tokenizing: there is no index, but it is quick
                if i >= skip:
                    yield text, stream.share(consumed)
    # UnicodeDecodeError and JSONDecodeError are ValueErrors; a truncated .gz is an EOFError
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        reason = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{path} can't be read: {reason[0]}") from None


def uncompressed(raw, compression: str) -> io.BufferedReader:
    """A file's bytes, uncompressed."""
    import pyarrow as pa

    if compression == 'gzip':
        # Python's, since Arrow's takes the zeros that tapes and object stores add at the end for damage
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), CHUNK)
    if compression:
        return io.BufferedReader(pa.CompressedInputStream(raw, compression), CHUNK)
    return io.BufferedReader(raw, CHUNK)


def uncompressed_size(path: str) -> int:
    """Bytes of a compressed file once uncompressed, by uncompressing it."""
    # No format says it reliably: gzip does modulo 2**32, and of its last member alone.
    with open(path, 'rb') as raw:
        file = uncompressed(raw, file_format(path)[1])
        size = 0
        while block := file.read(10 * CHUNK):
            size += len(block)
    return size


def read_parquet(path: str, skip: int):
    """See read(). Decodes about CHUNK bytes at a time, whatever the size of the row groups."""
    with open_parquet(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        n_rows = sum(sizes)
        # whole row groups are skipped unread
        group = 0
        at = 0
        while group < len(sizes) and at + sizes[group] <= skip:
            at += sizes[group]
            group += 1
        # so many rows at a time as hold about CHUNK bytes, by the mean length
        rows = max(1, min(1024, CHUNK * n_rows // max(1, text_bytes(path))))
        groups = range(group, len(sizes))
        for batch in file.iter_batches(rows, groups, ['text'], use_threads=False):
            for value in batch.column(0):
                at += 1
                if at > skip:
                    # one by one: a dictionary may hold a few long texts for many rows
                    text = value.as_py()
                    if text is None:
                        raise UserError(f'{path}: the text of document {at - 1} is null')
                    yield text, at / n_rows


def open_parquet(path: str):
    """The open file. Raises UserError if it is no parquet file, or hasn't just one column 'text' of
    strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # as a stream: not a whole row group at once
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} can't be read as parquet: {str(error).splitlines()[0]}") from None
    names = file.schema_arrow.names
    if 'text' not in names:
        raise UserError(f"{path} has no column 'text', only {', '.join(names)}")
    n_columns = names.count('text')
    if n_columns > 1:
        raise UserError(f"{path} has {n_columns} columns called 'text': leave one of them this name")
    column = file.schema_arrow.field('text').type
    if not is_string(column):
        raise UserError(f"{path}: the column 'text' holds {column}, not strings")
    return file


def is_string(kind) -> bool:
    """Whether an Arrow type holds strings: of 32 or 64 bits, views, dictionaries of them, extensions stored
    as them."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_string(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return is_string(kind.storage_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def text_of(record, where: str) -> str:
    """The text of a JSON object. Raises UserError if it is no object, or has no text."""
    if type(record) is not dict:
        raise UserError(f'{where}: not a JSON object with a text, but {type(record).__name__}')
    if 'text' not in record:
        raise UserError(f"{where}: not a JSON object with a text; it has no key 'text'"
                        + (f', only {", ".join(list(record)[:9])}' if record else ''))
    if type(record['text']) is not str:
        raise UserError(f'{where}: text is {record["text"]!r:.100}, not a string')
    return record['text']


def read_lines(stream: Stream):
    """(text, bytes consumed) of each line that isn't blank."""
    consumed = 0
    # bytes, not text: json finds the encoding, and a line ends with \n alone, not with U+2028
    for number, line in enumerate(stream.file, 1):
        consumed += len(line)
        if not line.strip():
            continue
        where = f'{stream.path}, line {number}'
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # the last: brackets nested ten thousand deep
            reason = f'{type(error).__name__}: {error}'
            raise UserError(f'{where}: not a JSON object with a text ({reason})') from None
        yield text_of(record, where), consumed


def read_json(stream: Stream):
    """(text, bytes consumed) of each object of a JSON file: of its one array, or one after the other, as in
    JSON lines.

    Holds little more than one object at a time.
    """
    file = io.TextIOWrapper(stream.file, encoding='utf-8-sig', newline='')
    text = file.read(CHUNK)
    consumed = 0
    # the first character that isn't white space tells an array
    while text.isspace():
        consumed += len(text)
        text = file.read(CHUNK)
    is_array = text.lstrip().startswith('[')
    at = text.index('[') + 1 if is_array else 0
    consumed += at
    number = 0
    while True:
        where = f'{stream.path}, document {number}'
        start = GAP.match(text, at).end()
        consumed += len(text[at:start].encode())
        # the block is used up
        if start == len(text):
            text, at = file.read(CHUNK), 0
            if text:
                continue
            if is_array:
                raise UserError(f'{where}: the array has no end; the file is truncated')
            return
        if is_array and text[start] == ']':
            rest = text[start + 1 :] + file.read(CHUNK)
            if rest.strip():
                raise UserError(f'{where}: there is more after the end of the array')
            return
        record, text, start, at = decode_object(file, text, start, where)
        consumed += len(text[start:at].encode())
        number += 1
        yield text_of(record, where), consumed


def decode_object(file, text: str, start: int, where: str) -> tuple:
    """(value, text, start, end) of the JSON value that begins at text[start]; reads on until the value is
    whole.

    Raises UserError for what is no JSON, or deeper than Python's own limit.
    """
    while True:
        try:
            record, end = DECODER.raw_decode(text, start)
            return record, text, start, end
        except RecursionError:
            raise UserError(f'{where}: not a JSON object with a text (nested too deep)') from None
        except json.JSONDecodeError as error:
            reason = error
        # A value that goes on in the next block has its error at the end of this one, or is an unterminated
        # string.
        goes_on = reason.pos > len(text) - 16 or reason.msg.startswith('Unterminated string')
        more = file.read(max(CHUNK, len(text) - start)) if goes_on else ''
        if not more:
            raise UserError(f'{where}: not a JSON object with a text (JSONDecodeError: {reason.msg})')
        text, start = text[start:] + more, 0


def read_text(stream: Stream, piece: int):
    """(text, bytes consumed) of a file's pieces of `piece` to 2 * piece characters, or more where there is no
    place.

    They are cut where the tokens don't change: where white space begins. No token of GPT-2's crosses from
    other characters to white space, and what is left of such a place doesn't depend on what is right of it.
    """
    # newline='': the document's own line ends stay
    file = io.TextIOWrapper(stream.file, encoding='utf-8', newline='')
    text = ''
    consumed = 0
    while block := file.read(2 * piece):
        first = max(piece, len(text))  # of the places to cut at; there is none in what was read before
        text += block
        # the last such place; Python and tiktoken disagree about rarer white space than these four
        cut = len(text) - 1
        while cut >= first and not (text[cut] in ' \n\r\t' and not text[cut - 1].isspace()):
            cut -= 1
        if cut >= first:
            consumed += len(text[:cut].encode())
            yield text[:cut], consumed
            text = text[cut:]
    consumed += len(text.encode())
    yield text, consumed


# the Hub


@contextlib.contextmanager
def hub_errors(what: str):
    """Turns the Hub's errors into a UserError."""
    import httpx

    try:
        yield
    except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        reason = f'{type(error).__name__}: {str(error).splitlines()[0]}'
        raise UserError(f'{what} could not be fetched from the Hub ({reason}). Run the same command again '
                        'once the network is there (with HF_TOKEN set if the Hub limits you), or fetch the '
                        'files elsewhere and name them with --source') from None


def list_hub(repo: str, folder: str | None, endings: tuple) -> tuple[list[dict], str]:
    """Name and size of each file of a data set on the Hub with one of these endings, sorted; the commit they
    are of."""
    from huggingface_hub import HfApi

    with hub_errors(repo):
        api = HfApi()
        revision = api.dataset_info(repo).sha
        tree = list(api.list_repo_tree(repo, folder, recursive=True, revision=revision, repo_type='dataset'))
    files = []
    for entry in tree:
        if entry.path.endswith(endings):
            files.append({'file': entry.path, 'bytes': entry.size})
    if not files:
        raise UserError(f'{repo} on the Hub holds no {" or ".join(endings)} files')
    files.sort(key=lambda entry: entry['file'])
    return files, revision


def download(repo: str, revision: str, name: str, folder: str) -> str:
    """Fetch one of the Hub's files to a folder, going on with what is there of it; its path."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours is in tokens, and there is one line for it
    with hub_errors(f'{repo}/{name}'):
        return hf_hub_download(repo, name, repo_type='dataset', revision=revision, local_dir=folder)


def one_ahead(fetch, items: list):
    """fetch(item) of each item in turn; the next one is fetched while one is in use, and none before that."""
    # two files may be fetched: the one in use and the next; each one that is done with allows another
    fetched = queue.Queue()
    wanted = threading.Semaphore(2)

    def work():
        for item in items:
            wanted.acquire()
            try:
                fetched.put((fetch(item), None))
            except BaseException as error:  # whatever it is, it is raised where the file is waited for
                fetched.put((None, error))
                return

    threading.Thread(target=work, daemon=True).start()  # daemon: no download holds up the exit
    for _ in items:
        path, error = fetched.get()
        if error:
            raise error
        yield path
        wanted.release()
