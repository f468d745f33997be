"""
Token shards and tokenizers: the one place that knows the shard format. No torch: tokens come as numpy arrays.

A shard is the .bin file of llm.c and modded-nanogpt: 256 int32 of header (magic 20240520, version 1, number
of tokens), then the tokens as uint16; with a vocabulary above 65,536, magic 20240801, version 7 and uint32.
build-nanogpt's .npy shards (a plain array of either) are read too. A data directory holds such shards, each
with 'train' or 'val' as a word of its name (edufineweb_train_000001.bin), and a meta.json that names the
tokenizer, its vocabulary size and the end-of-text token; without one the tokens are GPT-2's.

A tokenizer is 'gpt2', 'bytes', or 'sha256:...' of a Hugging Face tokenizer.json, which lies beside what is in
its tokens: in the data directory, the run directory, the model's folder.

Which tokens a step sees is a pure function of the step: Split.get_batch. There is no loader state to save.
"""

import functools
import hashlib
import json
import os
import re

import numpy as np

from core.common import UserError, atomic_write, read_json

# (magic number, version) of llm.c's formats for GPT-2 and for Llama 3
FORMATS = {np.dtype(np.uint16): (20240520, 1), np.dtype(np.uint32): (20240801, 7)}
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
MAX_SHARD_TOKENS = 2**31 - 1  # the header counts in int32
SPLITS = ('train', 'val')
# what tiktoken calls GPT-2's vocab.bpe and encoder.json: the SHA-1 of their addresses
TIKTOKEN_FILES = ('6d1cbeee0f20b3d9449abfede4726ed8212e3aee', '6c7ea1a7e38e3a7f062df639a5b80947f075ffe6')
OWN_TOKENIZERS = ('gpt2', 'bytes')
TOKENIZERS = "'gpt2', 'bytes', or a folder, or a repository on the Hub, with a tokenizer.json"
# what may lie beside shards and checkpoints, for export_hf.py
TOKENIZER_FILES = ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json',
                   'generation_config.json', 'chat_template.jinja')
# as Qwen, SmolLM2 and GPT-2, Llama 3, Llama 2, Gemma call it
END_OF_TEXT = ('<|endoftext|>', '<|end_of_text|>', '</s>', '<eos>')
GPT2_META = {'tokenizer': 'gpt2', 'vocab_size': 50257, 'eot': 50256}

# the format of a shard

def write_shard(path: str, tokens: np.ndarray):
    """Write uint16 or uint32 tokens as one .bin shard, atomically: no half-written shard has a shard's name.

    Raises UserError if it can't be written or has more tokens than the header can count.
    """
    assert tokens.dtype in FORMATS and tokens.ndim == 1
    if len(tokens) > MAX_SHARD_TOKENS:
        raise UserError(f'{path}: {len(tokens)} tokens, and a .bin shard holds at most {MAX_SHARD_TOKENS}')
    header = np.zeros(HEADER_INTS, dtype=np.int32)
    header[:3] = *FORMATS[tokens.dtype], len(tokens)
    with atomic_write(path, 'wb') as f:
        f.write(header.tobytes())
        f.write(tokens.data)  # not tobytes(), which would copy a shard of 200 MB

def token_dtype(vocab_size: int) -> np.dtype:
    """What the tokens of a vocabulary are stored as."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)

def shard_layout(path: str) -> tuple[int, int, np.dtype]:
    """(byte offset of the first token, number of tokens, their type) of a shard, from its header alone.

    Raises UserError, naming the file, if it is no shard or its size doesn't match its header.
    """
    offset, n_tokens, dtype = npy_layout(path) if path.endswith('.npy') else bin_layout(path)
    # A download that broke off, or a web page instead of a file, has another size than it says.
    size = os.path.getsize(path)
    expected = offset + dtype.itemsize * n_tokens
    if size != expected:
        raise UserError(f'{path}: {size} bytes, but its header promises {n_tokens} tokens = {expected} '
                        'bytes; the file is truncated or damaged: make or fetch it again')
    return offset, n_tokens, dtype

def bin_layout(path: str) -> tuple[int, int, np.dtype]:
    """shard_layout, but for the size, of llm.c's formats. Raises UserError for any other file."""
    with open(path, 'rb') as f:
        start = f.read(12).ljust(12, b'\0')  # a file too short for a header has no magic number either
    magic, version, n_tokens = np.frombuffer(start, np.int32).tolist()
    for dtype, known in FORMATS.items():
        # a negative count is what 2^31 or more becomes as int32
        if (magic, version) == known and n_tokens >= 0:
            return HEADER_BYTES, n_tokens, dtype
    raise UserError(f'{path}: not a token shard (magic number {magic}, version {version}, {n_tokens} tokens, '
                    f'where {list(FORMATS.values())} and up to {MAX_SHARD_TOKENS} tokens are expected)')

def npy_layout(path: str) -> tuple[int, int, np.dtype]:
    """shard_layout, but for the size, of a .npy file. Raises UserError unless it holds one row of tokens."""
    try:
        tokens = np.lib.format.open_memmap(path, mode='r')
    except ValueError as error:
        raise UserError(f'{path}: not a .npy file, or a truncated one ({error})') from None
    if tokens.dtype not in FORMATS or tokens.ndim != 1:
        what = f'{tokens.dtype} of shape {tokens.shape}'
        raise UserError(f'{path}: holds {what}, not a row of uint16 or uint32 tokens')
    return tokens.offset, len(tokens), tokens.dtype

# the data directory

def split_of(name: str) -> str:
    """'train' or 'val', whichever is a word of a shard's name, between _, - or .: pretrain_val_1.bin is
    validation data. Raises UserError if the name has neither word or both."""
    # of the file's own name: a folder called train says nothing
    words = re.split('[_.-]', os.path.basename(name))
    found = [split for split in SPLITS if split in words]
    if len(found) != 1:
        has = 'both' if found else 'neither'
        raise UserError(f"{name}: the name of a shard has 'train' or 'val' as a word (between _, - or .), "
                        f'and this one has {has}: rename it, or move it out of the data')
    return found[0]

def shard_paths(data_dir: str, split: str) -> list[str]:
    """The shards of a split, by name. Raises UserError if there is none, or a name is unclear."""
    if not os.path.isdir(data_dir):
        raise UserError(f'data_dir {data_dir} does not exist: make it with prepare_fineweb.py or '
                        'prepare_demo.py')
    paths = []
    for name in sorted(os.listdir(data_dir)):
        # what begins with a dot is hidden: macOS lays ._x.bin beside x.bin on foreign disks
        if name.endswith(('.bin', '.npy')) and not name.startswith('.'):
            path = os.path.join(data_dir, name)
            if split_of(path) == split:
                paths.append(path)
    if not paths:
        raise UserError(f"data_dir {data_dir} has no {split} shards (.bin or .npy files with the word "
                        f"'{split}' in their name)")
    return paths

def read_meta(data_dir: str) -> dict:
    """What meta.json says; GPT-2's tokenizer where there is none. Raises UserError for an unreadable one."""
    path = os.path.join(data_dir, 'meta.json')
    if not os.path.exists(path):
        return dict(GPT2_META)
    what = 'a meta.json with tokenizer, vocab_size and eot; make the data again'
    meta = read_json(path, what)
    types = {'tokenizer': str, 'vocab_size': int, 'eot': int, 'shards': list, 'options': dict}
    found = {'shards': [], 'options': {}, **meta}
    # not isinstance: true is an int to Python
    is_valid = all(type(found.get(name)) is kind for name, kind in types.items())
    if not is_valid or not all(type(shard) is dict and 'file' in shard for shard in found['shards']):
        raise UserError(f'{path}: not {what}')
    return meta

def write_meta(data_dir: str, meta: dict):
    """Write meta.json, as a shard is written."""
    with atomic_write(os.path.join(data_dir, 'meta.json')) as f:
        json.dump(meta, f, indent=1)

def check_complete(data_dir: str):
    """Raises UserError if meta.json says that there is more data to come than is there."""
    meta = read_meta(data_dir)
    names = [shard['file'] for shard in meta.get('shards', [])]
    missing = [name for name in names if not os.path.exists(os.path.join(data_dir, name))]
    # No 'complete' at all: others' data, or the demo's, whose meta.json is written last.
    if missing or meta.get('complete', True) is not True:
        what = f': {missing[0]} is missing' if missing else ''
        raise UserError(f'{data_dir} is not complete by its meta.json{what}; give the command that makes it '
                        'again, with the options in meta.json, and it continues')

def fingerprint(data_dir: str) -> dict:
    """What tells one data set from another wherever it lies, for run.json: of each split the number of tokens
    and of shards, and the SHA-256 of its first megabyte of tokens. Reads 2 MB and the shards' headers."""
    found = {}
    for split in SPLITS:
        # Over the shards' borders and without their headers: cut otherwise, data has the same digest.
        digest = hashlib.sha256()
        wanted = 2**20  # bytes still to read
        n_tokens = 0
        paths = shard_paths(data_dir, split)
        for path in paths:
            offset, n, _ = shard_layout(path)
            n_tokens += n
            if wanted:
                with open(path, 'rb') as f:
                    f.seek(offset)
                    start = f.read(wanted)
                digest.update(start)
                wanted -= len(start)
        found[split] = {'tokens': n_tokens, 'shards': len(paths), 'sha256': digest.hexdigest()}
    return found

# which tokens a step sees

class Split:
    """The 'train' or 'val' shards of a data directory, as sequences of block_size + 1 tokens.

    Sequences follow each other overlapping by one token (the last target of one is the first input of the
    next) and never cross shards. Nothing is kept open or mapped. Raises UserError for a missing or incomplete
    folder, no shards, a bad shard, or fewer tokens than one sequence.
    """

    def __init__(self, data_dir: str, split: str, block_size: int, vocab_size: int):
        self.block_size = block_size
        self.vocab_size = vocab_size
        check_complete(data_dir)
        self.paths = shard_paths(data_dir, split)
        self.layouts = []  # of each shard: offset, number of tokens, type
        self.n_tokens = 0
        self.starts = [0]  # the number of each shard's first sequence, and the end
        for path in self.paths:
            layout = shard_layout(path)
            self.layouts.append(layout)
            self.n_tokens += layout[1]
            # one more token than inputs, for the last target; what is left at a shard's end is never read
            n_sequences = max(0, (layout[1] - 1) // block_size)
            self.starts.append(self.starts[-1] + n_sequences)
        self.starts = np.array(self.starts)
        self.n_sequences = int(self.starts[-1])
        if self.n_sequences == 0:
            raise UserError(f'data_dir {data_dir}: the {split} shards hold {self.n_tokens} tokens, '
                            f'fewer than one sequence of block_size + 1 = {block_size + 1}')

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Sequences by number -> int64 (len(indices), block_size + 1). Neighbors are read in one go.

        Raises UserError, naming the shard, for a token outside the vocabulary.
        """
        size = self.block_size
        out = np.empty((len(indices), size + 1), dtype=np.int64)
        shards = np.searchsorted(self.starts, indices, side='right') - 1
        # a run of neighbors ends where the number jumps or the shard changes
        jumps = (np.diff(indices) != 1) | (np.diff(shards) != 0)
        ends = [*(np.flatnonzero(jumps) + 1).tolist(), len(indices)]
        first = 0
        for last in ends:
            n = last - first
            shard = int(shards[first])
            start = size * int(indices[first] - self.starts[shard])
            tokens = self.read_tokens(shard, start, n * size + 1)
            # (n, block_size) without the last token of each sequence, which is the first one of the next
            out[first:last, :-1] = tokens[:-1].reshape(n, size)
            out[first:last, -1] = tokens[size::size]
            first = last
        # an index outside the embedding table is an assert on a GPU, far from here
        if out.max(initial=0) >= self.vocab_size:
            row = int(out.max(axis=1).argmax())
            path = self.paths[shards[row]]
            raise UserError(f'{path}: token {out[row].max()} in a vocabulary of {self.vocab_size}; this '
                            'shard belongs to another tokenizer, or is damaged')
        return out

    def read_tokens(self, shard: int, start: int, n: int) -> np.ndarray:
        """n tokens of a shard from its token number `start` on. Raises UserError if it has become shorter."""
        offset, _, dtype = self.layouts[shard]
        tokens = np.fromfile(self.paths[shard], dtype, n, offset=offset + dtype.itemsize * start)
        if len(tokens) < n:
            raise UserError(f'{self.paths[shard]} has become shorter since this run began')
        return tokens

    def get_batch(self, step: int, sequences_per_step: int, rows: range, shuffle: bool,
                  seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, each int64 (len(rows), block_size): sequences `rows` of the step's
        sequences_per_step.

        A pure function of its arguments; ranks and micro-steps take different rows of the same step. An epoch
        is n_sequences // sequences_per_step steps, in file order or in a seeded order of its own.
        """
        epoch, step = divmod(step, self.n_sequences // sequences_per_step)
        first = step * sequences_per_step
        indices = np.arange(first + rows.start, first + rows.stop)
        # the permutation is of the whole epoch, so that every sequence comes once in it
        if shuffle:
            indices = permutation(self.n_sequences, seed, epoch)[indices]
        sequences = self.read(indices)
        return sequences[:, :-1], sequences[:, 1:]

@functools.lru_cache(maxsize=1)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Order of an epoch's n sequences. RandomState, not Generator: numpy promises never to change its
    stream."""
    # 32 bits of the seed, of either sign; 4 bytes a sequence, which is 40 MB for 10B tokens of 1024
    random = np.random.RandomState([seed & 0xFFFFFFFF, epoch])
    return random.permutation(n).astype(np.uint32)

# tokenizers

@functools.cache
def get_tokenizer(name: str, beside: str = ''):
    """The tokenizer that a meta.json or a checkpoint names: a tiktoken.Encoding for 'gpt2' and 'bytes' (256
    bytes and end-of-text), else the tokenizer.json in the folder, or beside the file, `beside`.

    Raises UserError for another name, if the file isn't the one that was named, or if GPT-2's vocabulary is
    neither cached nor to be downloaded.
    """
    import tiktoken  # here, since training needs no tokenizer

    if name == 'bytes':
        # every byte is a token of its own, cut one by one, so that there is nothing to merge
        ranks = {bytes([i]): i for i in range(256)}
        return tiktoken.Encoding('bytes', pat_str=r'[\s\S]', mergeable_ranks=ranks,
                                 special_tokens={'<|endoftext|>': 256})
    if name.startswith('sha256:'):
        folder = beside if os.path.isdir(beside) else os.path.dirname(beside) or '.'
        content, found = read_tokenizer(folder)
        if found != name:
            raise UserError(f'{folder}: its tokenizer.json is {found}, and what lies beside it was made with '
                            f'{name}')
        return Tokenizer(content)
    if name != 'gpt2':
        raise UserError(f"no tokenizer is called {name!r}: {TOKENIZERS}")
    try:
        return tiktoken.get_encoding('gpt2')
    except OSError as error:  # requests' errors are OSErrors
        raise UserError(f"GPT-2's vocabulary could not be downloaded ({type(error).__name__}); on a machine "
                        'without network, set TIKTOKEN_CACHE_DIR to a folder that holds the two files that '
                        f'tiktoken makes elsewhere, {" and ".join(TIKTOKEN_FILES)}') from None

def read_tokenizer(source: str) -> tuple[bytes, str]:
    """(content, 'sha256:...') of the tokenizer.json in a folder or a repository on the Hub. Raises UserError
    if there is none."""
    folder = os.path.expanduser(source)
    path = os.path.join(folder, 'tokenizer.json')
    if not os.path.isdir(folder):
        import huggingface_hub

        try:
            path = huggingface_hub.hf_hub_download(source, 'tokenizer.json')
        except Exception as error:  # of the Hub's client, the network or the disk
            what = type(error).__name__
            raise UserError(f'no tokenizer is called {source!r} ({what}): {TOKENIZERS}') from None
    with open(path, 'rb') as f:
        content = f.read()
    return content, f'sha256:{hashlib.sha256(content).hexdigest()}'

class Tokenizer:
    """A Hugging Face tokenizer.json, by the names that tiktoken.Encoding has. Raises UserError if it is none,
    or has no token for the end of a text."""

    def __init__(self, content: bytes):
        import tokenizers

        try:
            self.tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except ValueError as error:
            raise UserError(f'not a tokenizer.json that the tokenizers library reads ({error})') from None
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.tokenizer.encode_special_tokens = True  # a text that spells <|endoftext|> holds these characters
        vocabulary = self.tokenizer.get_vocab()
        self.n_vocab = 1 + max(vocabulary.values())
        names = [name for name in END_OF_TEXT if name in vocabulary]
        if not names:
            raise UserError(f'tokenizer.json has no token for the end of a text, {", ".join(END_OF_TEXT)}')
        self.eot_token = vocabulary[names[0]]
        # Byte-level BPE (GPT-2, Llama 3, Qwen) writes a byte as a letter, SentencePiece (Llama 2) as <0x0A>.
        self.is_byte_level = b'"ByteLevel"' in content

    def encode_ordinary(self, text: str) -> list[int]:
        """Tokens of a text, none of them special."""
        return self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode_single_token_bytes(self, token: int) -> bytes:
        """What a token stands for; a special one is spelled as it is."""
        text = self.tokenizer.id_to_token(token) or ''  # numbers may be left out
        if self.is_byte_level:
            letters = byte_letters()
            return bytes(map(letters.index, text)) if set(text) <= set(letters) else text.encode()
        if re.fullmatch('<0x[0-9A-F]{2}>', text):
            return bytes.fromhex(text[3:5])
        return text.replace('\u2581', ' ').encode()

    def decode_bytes(self, tokens: list[int]) -> bytes:
        """What some tokens stand for."""
        return b''.join(map(self.decode_single_token_bytes, tokens))

@functools.cache
def byte_letters() -> list[str]:
    """The letter that a byte-level vocabulary writes for each byte: its own if that is printable, else the
    next one from 256 on."""
    printable = [b for b in range(256) if chr(b).isprintable() and b not in (0x20, 0xa0, 0xad)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]
