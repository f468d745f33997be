"""The memory of a process that trains stays flat. Run by hand: python dev/long_memory.py [steps=10000]

Trains the tests' tiny model, evaluating and saving every 50 steps, and asks glibc as it goes how many bytes
are in use: those of Python's objects (PYTHONMALLOC=malloc), of tensors and of C++ alike. Resident memory
can't tell in minutes, as an allocator that keeps what was freed grows in leaps of its own. Over the second
half of the run memory must grow by less than 10 bytes a step, less than a number that each step leaves in a
list. test_train.py has a short one.
"""

import ctypes
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import numpy as np
from conftest import make_tiny

import train

class Mallinfo2(ctypes.Structure):
    names = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'
    _fields_ = tuple((name, ctypes.c_size_t) for name in names.split())

def growth_per_step(steps: int, folder: Path, leak: str = 'pass') -> tuple[float, np.ndarray]:
    """Bytes per step by which memory grows over the second half of a run of `steps` steps, and twenty samples
    of (step, bytes in use). `leak` is a statement that every micro-step runs as well. Needs glibc 2.33 or
    later."""
    flags = [*make_tiny(folder), f'--out_dir={folder}/run', '--total_batch_size=64', '--growth_steps=90',
             f'--continual_steps={steps - 90}', '--eval_interval=50', '--hellaswag_interval=50',
             '--checkpoint_interval=50',
             '--keep_checkpoints=2', f'--log_interval={steps // 20}', '--shuffle=True']
    done = subprocess.run([sys.executable, '-c',
                           f'import long_memory; long_memory.train_watched({leak!r})', *flags],
                          stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent,
                          env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONMALLOC': 'malloc'})
    samples = np.array([line.split()[1:] for line in done.stdout.splitlines() if line.startswith('in-use')],
                       dtype=np.int64)
    half = samples[len(samples) // 2:]
    return np.polyfit(half[:, 0], half[:, 1], 1)[0], samples

def train_watched(leak: str):
    """train.py, printing the bytes in use in place of the lines of progress."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo2
    libc.malloc.restype = ctypes.c_void_p
    to_device, names = train.to_device, {'leak': [], 'libc': libc}

    def to_device_and_leak(*arguments):
        exec(leak, names)
        return to_device(*arguments)

    def print_memory(log, state, *rest):
        gc.collect()
        info = libc.mallinfo2()
        print('in-use', state.step, info.uordblks + info.hblkhd, flush=True)

    train.to_device, train.RunLog.progress = to_device_and_leak, print_memory
    train.main()

if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as name:
        growth, found = growth_per_step(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, Path(name))
    print('\n'.join(f'step {step:6d}  {held / 1e6:.4f} MB in use' for step, held in found))
    print(f'{growth:.1f} bytes a step over the second half')
    sys.exit(growth > 10)
