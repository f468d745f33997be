"""
Documents as tokens: the texts of sources.py, tokenized by threads, in the order of the source.

    chunks = documents.read_chunks(paths, sizes, 0, 0)
    for document in documents.tokenize(chunks, data.get_tokenizer('gpt2'), workers=8): ...

A document's tokens are end-of-text, then encode_ordinary(text). Threads do it, not processes: tiktoken works
outside the GIL, so nothing is pickled, nothing is started anew, and the memory is that of one process.
"""

import collections
import concurrent.futures
import contextlib
import re
import sys
from dataclasses import dataclass, field

import numpy as np

import sources
from core.common import UserError

EOT = '<|endoftext|>'
AHEAD = 32  # chunks for each thread that may be read and not used yet: what bounds the memory
PATIENCE = 10  # seconds that tiktoken may take over a chunk before its longest word is named
LONG_WORD = 10_000  # characters from which on a word takes seconds: tiktoken's time grows with their square


@dataclass
class Chunk:
    """Documents that follow each other in one file, to be tokenized in one call; or one piece of a text
    file."""

    source: int  # number of the file
    path: str
    document: int  # number of the first document, or of the piece
    texts: list[str] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)  # share of all sources that is read after each text

    @property
    def begins(self) -> bool:
        """Whether documents begin here: a text file is one document, though it is read in numbered pieces."""
        return self.document == 0 or sources.file_format(self.path)[0] != 'text'


@dataclass
class Document:
    """The tokens of one document (of one piece of a text file), end-of-text first."""

    tokens: np.ndarray
    source: int  # number of the file
    number: int  # of the document in the file
    progress: float  # share of all sources that is read after it

    def position(self, at: int) -> list:
        """Where its token number `at` is, or the document after it: [file, document, token of the
        document's]."""
        if at == len(self.tokens):
            return [self.source, self.number + 1, 0]
        return [self.source, self.number, at]


def tokenize(chunks, enc, workers: int):
    """The documents of the chunks, in order. Close it when some are left, so that the threads end.

    Raises UserError, naming the file and the document, for what can't be read or tokenized.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        for chunk, tokens in in_order(pool, lambda chunk: encode(enc, chunk), chunks, AHEAD * workers):
            yield from split_documents(chunk, tokens, enc.eot_token)
    finally:
        # without waiting: a thread may be busy with a long word while an error waits to be said
        pool.shutdown(wait=False, cancel_futures=True)


def read_chunks(paths, sizes: list[int], first: int, document: int, exact: bool = False, piece: int = 0):
    """The texts of files in groups of CHUNK characters or somewhat more, so that the GIL changes hands
    rarely.

    paths: of the files from number `first` on; sizes: of all files, in bytes. The first file's documents
    begin with number `document`. exact, piece: see sources.read.
    """
    whole = max(1, sum(sizes))
    for source, path in enumerate(paths, first):
        before = sum(sizes[:source])
        is_text = sources.file_format(path)[0] == 'text'
        chunk = Chunk(source, path, document)
        size = 0
        for text, share in sources.read(path, document, exact, piece):
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
    """(item, function(item)) in the items' order, computed by the pool; never more than `ahead` items are in
    hand."""
    pending = collections.deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        if len(pending) == ahead:
            yield wait_for(*pending.popleft())
    while pending:
        yield wait_for(*pending.popleft())


def wait_for(chunk: Chunk, future) -> tuple:
    """(chunk, its tokens) once they are there. Names the document with the longest word if that takes
    long."""
    done, _ = concurrent.futures.wait([future], PATIENCE)
    if not done:
        document, length = longest_word(chunk)
        if length >= LONG_WORD:
            print(f'\n{chunk.path}, document {document}: tiktoken takes long over a word of {length:,} '
                  'characters (minutes from 1,000,000 on); Ctrl-C stops', file=sys.stderr, flush=True)
    return chunk, future.result()


def longest_word(chunk: Chunk) -> tuple[int, int]:
    """(number of a chunk's document, length) of the longest run of letters, digits, spaces or other
    characters."""
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
        except BaseException as error:  # its panics are no Exception; a million line breaks are one cause
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
