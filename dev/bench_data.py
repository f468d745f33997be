"""
How fast get_batch reads, in order and shuffled. Run by hand: python dev/bench_data.py

100 shards of 2M tokens (400 MB in all) in a temporary folder, so the files come from the page cache. GPT-2's
block_size.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from core import data

with tempfile.TemporaryDirectory() as folder:
    for i in range(100):
        tokens = np.random.default_rng(i).integers(0, 50257, 2_000_000, np.uint16)
        data.write_shard(f'{folder}/x_train_{i:06d}.bin', tokens)
    split = data.Split(folder, 'train', 1024, 50257)
    rates = {False: [], True: []}
    # in turns, so that a slow minute of the machine hits both
    for step in range(12):
        for shuffle in rates:
            start = time.perf_counter()
            x, y = split.get_batch(step * 16, 512, range(512), shuffle, 1)
            seconds = time.perf_counter() - start
            rates[shuffle].append(x.size / seconds / 1e6)
    for shuffle, found in rates.items():
        found.sort()
        name = 'shuffled' if shuffle else 'in order'
        median = found[len(found) // 2]
        print(f'{name}: median {median:.0f}M tokens/s, best {found[-1]:.0f}M (512 sequences of 1024 a step)')
