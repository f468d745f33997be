"""The memory of a process that trains stays flat. Run by hand: python tests/long_memory.py [steps=100000]

Trains the tests' tiny model, evaluating and saving every 50 steps, and reads the process's resident memory from /proc as it
goes. The slope over the last two thirds must be below 50 bytes a step, which a list that grows, a graph that is kept or a
mapped shard exceeds at once; 12,000 steps took 0.01 MB in all. test_train.py has a short one.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from conftest import make_tiny


def resident_memory(steps: int, folder: Path) -> np.ndarray:
    """(step, bytes) of about a hundred moments of a run of `steps` steps."""
    every = max(1, steps // 100)
    flags = [*make_tiny(folder), f'--out_dir={folder}/run', '--growth_steps=90', f'--continual_steps={steps - 90}',
             '--eval_interval=50', '--hellaswag_interval=50', '--checkpoint_interval=50', '--keep_checkpoints=2',
             f'--log_interval={every}', '--shuffle=True']
    train = subprocess.Popen([sys.executable, Path(__file__).parent.parent / 'train.py', *flags], stdout=subprocess.PIPE,
                             text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    samples = []
    for line in train.stdout:
        if '| loss' in line:
            pages = int(Path(f'/proc/{train.pid}/statm').read_text().split()[1])
            samples.append((int(line.split()[1].split('/')[0]), pages * os.sysconf('SC_PAGE_SIZE')))
    assert train.wait() == 0
    return np.array(samples)


def slope(samples: np.ndarray) -> float:
    """Bytes per step by which memory grows: the median of four straight lines, each through a quarter of the last two thirds.

    A leak grows in all of them; what an allocator takes once, late, in one.
    """
    quarters = np.array_split(samples[len(samples) // 3:], 4)
    return float(np.median([np.polyfit(quarter[:, 0], quarter[:, 1], 1)[0] for quarter in quarters]))


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as name:
        found = resident_memory(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, Path(name))
    print(f'{found[-1, 0]} steps: {found[len(found) // 3, 1] / 1e6:.2f} MB at a third, {found[-1, 1] / 1e6:.2f} MB at the end, '
          f'{slope(found):.1f} bytes a step')
    sys.exit(slope(found) > 50)
