"""
Token shards and tokenizers: the one place that knows the shard format. No torch: tokens come as numpy arrays.

A shard is the .bin file of llm.c and modded-nanogpt: 256 int32 of header (magic 20240520, version 1, number of tokens),
then the tokens as uint16. build-nanogpt's .npy shards (a plain uint16 array) are read too. A data directory holds
*train*.bin and *val*.bin (or .npy) shards, and a meta.json that names the tokenizer, its vocabulary size, the end-of-text
token, the source and the counts; shards that others publish without a meta.json are taken as GPT-2 tokens.

Which tokens a step sees is a pure function of the step: Split.get_batch. There is no loader state to save.
"""

import functools
import glob
import json
import os

import numpy as np

from common import UserError

MAGIC, VERSION, HEADER_INTS = 20240520, 1, 256
HEADER_BYTES = 4 * HEADER_INTS
GPT2_META = {'tokenizer': 'gpt2', 'vocab_size': 50257, 'eot': 50256}


def write_shard(path: str, tokens: np.ndarray):
    """Write uint16 tokens as one shard: to a temporary name, flushed, then renamed, so that no torn shard looks whole."""
    assert tokens.dtype == np.uint16 and tokens.ndim == 1
    header = np.zeros(HEADER_INTS, dtype=np.int32)
    header[:3] = MAGIC, VERSION, len(tokens)
    with open(path + '.tmp', 'wb') as f:
        f.write(header.tobytes())
        f.write(tokens.data)  # not tobytes(): a shard is 200 MB
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + '.tmp', path)


def shard_layout(path: str) -> tuple[int, int]:
    """(byte offset of the first token, number of tokens) of a shard, from its header alone.

    Raises UserError, naming the file, if it is no shard or its size doesn't match its header.
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as f:
        if path.endswith('.npy'):
            try:
                version = np.lib.format.read_magic(f)
                read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = read_header[version](f)
            except (ValueError, KeyError, EOFError) as error:
                raise UserError(f'{path}: not a .npy file ({error})') from None
            if dtype != np.uint16 or len(shape) != 1:
                raise UserError(f'{path}: holds {dtype} of shape {shape}, not a row of uint16 tokens')
            offset, n = f.tell(), shape[0]
        else:
            header = np.frombuffer(f.read(HEADER_BYTES).ljust(12, b'\0')[:12], dtype=np.int32)
            if header[0] != MAGIC:
                raise UserError(f'{path}: not a token shard (magic number {header[0]}, expected {MAGIC})')
            if header[1] != VERSION:
                raise UserError(f'{path}: token shard of version {header[1]}, expected {VERSION}')
            offset, n = HEADER_BYTES, int(header[2])
    if size != offset + 2 * n:
        raise UserError(f'{path}: {size} bytes, but its header promises {n} tokens = {offset + 2 * n} bytes; '
                        'the file is torn: make or fetch it again')
    return offset, n


def read_meta(data_dir: str) -> dict:
    """What meta.json says; GPT-2's tokenizer where there is none. Raises UserError if it is there and unreadable."""
    path = os.path.join(data_dir, 'meta.json')
    if not os.path.exists(path):
        return dict(GPT2_META)
    try:
        with open(path, encoding='utf-8') as f:
            meta = json.load(f)
        assert type(meta['tokenizer']) is str and type(meta['vocab_size']) is int and type(meta['eot']) is int
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise UserError(f'{path}: not a meta.json with tokenizer, vocab_size and eot; make the data again') from None
    return meta


def write_meta(data_dir: str, meta: dict):
    """Write meta.json, through a temporary name as a shard is."""
    path = os.path.join(data_dir, 'meta.json')
    with open(path + '.tmp', 'w', encoding='utf-8') as f:
        json.dump(meta, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + '.tmp', path)


class Split:
    """The 'train' or 'val' shards of a data directory, as sequences of block_size + 1 tokens.

    Sequences follow each other overlapping by one token (the last target of one is the first input of the next) and
    never cross shards. Nothing is kept open or mapped: a read opens the shards that it needs and no other.
    Raises UserError for a missing folder, no shards, a bad shard, or fewer tokens than one sequence.
    """

    def __init__(self, data_dir: str, split: str, block_size: int, vocab_size: int):
        self.block_size, self.vocab_size = block_size, vocab_size
        if not os.path.isdir(data_dir):
            raise UserError(f'data_dir {data_dir} does not exist: make it with prepare_fineweb.py or prepare_demo.py')
        pattern = os.path.join(glob.escape(data_dir), f'*{split}*.')
        self.paths = sorted(glob.glob(pattern + 'bin') + glob.glob(pattern + 'npy'))
        if not self.paths:
            raise UserError(f'data_dir {data_dir} has no {split} shards (*{split}*.bin or *{split}*.npy)')
        layouts = [shard_layout(path) for path in self.paths]
        self.offsets = [offset for offset, _ in layouts]
        self.n_tokens = sum(n for _, n in layouts)
        counts = [max(0, (n - 1) // block_size) for _, n in layouts]
        self.starts = np.concatenate([[0], np.cumsum(counts)])  # first sequence of each shard, and the end
        self.n_sequences = int(self.starts[-1])
        if self.n_sequences == 0:
            raise UserError(f'data_dir {data_dir}: the {split} shards hold {self.n_tokens} tokens, '
                            f'fewer than one sequence of block_size + 1 = {block_size + 1}')

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Sequences by number -> int64 (len(indices), block_size + 1). Neighbours are read in one go."""
        size = self.block_size
        out = np.empty((len(indices), size + 1), dtype=np.int64)
        shards = np.searchsorted(self.starts, indices, side='right') - 1
        breaks = np.flatnonzero((np.diff(indices) != 1) | (np.diff(shards) != 0)) + 1
        for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(indices)]):
            shard, n = int(shards[first]), last - first
            tokens = np.empty(n * size + 1, dtype=np.uint16)
            with open(self.paths[shard], 'rb', buffering=0) as f:
                f.seek(self.offsets[shard] + 2 * size * int(indices[first] - self.starts[shard]))
                if f.readinto(tokens) < tokens.nbytes:
                    raise UserError(f'{self.paths[shard]} has become shorter since this run began')
            out[first:last, :-1] = tokens[:-1].reshape(n, size)
            out[first:last, -1] = tokens[size::size]
        if out.max(initial=0) >= self.vocab_size:
            row = int(out.max(axis=1).argmax())
            raise UserError(f'{self.paths[shards[row]]}: token {out[row].max()} in a vocabulary of {self.vocab_size}; '
                            'this shard belongs to another tokenizer, or is damaged')
        return out

    def get_batch(self, step: int, sequences_per_step: int, rows: range, shuffle: bool, seed: int):
        """Inputs and targets, each int64 (len(rows), block_size): sequences `rows` of the `sequences_per_step` of this step.

        A pure function of its arguments; ranks and micro-steps take different rows of the same step. An epoch is
        n_sequences // sequences_per_step steps, in file order or in a seeded order of its own.
        """
        epoch, step = divmod(step, self.n_sequences // sequences_per_step)
        indices = np.arange(step * sequences_per_step + rows.start, step * sequences_per_step + rows.stop)
        if shuffle:
            indices = permutation(self.n_sequences, seed, epoch)[indices]
        sequences = self.read(indices)
        return sequences[:, :-1], sequences[:, 1:]


@functools.lru_cache(maxsize=1)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Order of an epoch's n sequences. RandomState, not Generator: numpy promises never to change its stream."""
    return np.random.RandomState([seed & 0xFFFFFFFF, epoch]).permutation(n).astype(np.uint32)


@functools.cache
def get_tokenizer(name: str):
    """The tiktoken.Encoding called 'gpt2' or 'bytes' (256 bytes and end-of-text: no download).

    Raises UserError for another name, or if GPT-2's vocabulary is neither cached nor to be downloaded.
    """
    import tiktoken  # here, since training needs no tokenizer

    if name == 'bytes':
        return tiktoken.Encoding('bytes', pat_str=r'[\s\S]', mergeable_ranks={bytes([i]): i for i in range(256)},
                                 special_tokens={'<|endoftext|>': 256})
    if name != 'gpt2':
        raise UserError(f"no tokenizer is called {name!r}: 'gpt2' or 'bytes'")
    try:
        return tiktoken.get_encoding('gpt2')
    except OSError as error:  # requests' errors are OSErrors
        raise UserError("GPT-2's vocabulary could not be downloaded; on a machine without network, copy tiktoken's cache "
                        f'from one that has it and set TIKTOKEN_CACHE_DIR to it ({type(error).__name__})') from None
