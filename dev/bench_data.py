"""
How fast get_batch reads, in order and shuffled. Run by hand: python dev/bench_data.py

100 shards of 2M tokens (400 MB in all) in a temporary folder, so the files come from the page cache. GPT-2's block_size.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import data

with tempfile.TemporaryDirectory() as folder:
    for i in range(100):
        data.write_shard(f'{folder}/train_{i:06d}.bin', np.random.default_rng(i).integers(0, 50257, 2_000_000, np.uint16))
    split = data.Split(folder, 'train', 1024, 50257)
    rates = {False: [], True: []}
    for step in range(12):  # interleaved
        for shuffle in rates:
            start = time.perf_counter()
            x, y = split.get_batch(step * 16, 512, range(512), shuffle, 1)
            rates[shuffle].append(x.size / (time.perf_counter() - start) / 1e6)
    for shuffle, found in rates.items():
        found = sorted(found)
        print(f'{"shuffled" if shuffle else "in order"}: median {found[len(found) // 2]:.0f}M tokens/s, '
              f'best {found[-1]:.0f}M (512 sequences of 1024 a step)')
