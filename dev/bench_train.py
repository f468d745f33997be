"""
What train.py takes beside the steps themselves. Run by hand, on an idle machine, after prepare_demo.py:

    python dev/bench_train.py first|ranks|compile|evaluation|memory ... [--turns=3] [--big]

first       seconds from the command to the first step of the demo, imports included, beside a script with
            nothing but torch
ranks       tokens/s of two ranks with one thread each beside one process with two, the demo's baseline
            (--big: GPT-2 124M)
compile     seconds of torch.compile in a run of 8 stages beside one at full depth, each with an empty cache;
            graphs; recompiles
evaluation  the share of evaluations and checkpoints in a run of GPT-2 124M at the default intervals, from
            measured parts
memory      peak resident memory of a run of GPT-2 124M in float32, of 12 layers and of 2, 4 sequences
            of 1,024 tokens a step, a checkpoint written, beside the step at full depth as nanoGPT has it

What is compared takes turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import conftest
import numpy as np
from hellaswag_examples import make_examples

from config import TrainConfig
from core import data

PYTHON, TORCHRUN = [sys.executable], [sys.executable, '-m', 'torch.distributed.run', '--standalone',
                                      '--nproc_per_node=2']
QUIET = ['--eval_interval=0', '--hellaswag_interval=0', '--checkpoint_interval=0', '--log_interval=1']
GPT2 = ['--device=cpu', '--batch_size=1', '--vocab_size=50304', '--warmup_steps=0']

def environment(launcher) -> dict:
    """Two cores in either case."""
    return {**os.environ, 'OMP_NUM_THREADS': '2' if launcher == PYTHON else '1'}

def metrics(launcher, flags, out_dir) -> list[dict]:
    """The lines of metrics.jsonl of a run to its end."""
    subprocess.run([*launcher, 'train.py', *flags, f'--out_dir={out_dir}'], env=environment(launcher),
                   cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL)
    with open(f'{out_dir}/metrics.jsonl') as f:
        return [json.loads(line) for line in f]

# the least that a script with DDP and AdamW can take: what torch itself needs to its first step
BARE = '''
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group('gloo')
model = DistributedDataParallel(torch.nn.Linear(4, 4))
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(4)).sum().backward()
optimizer.step()
print('step 00001/', flush=True)
dist.destroy_process_group()
'''

def first(folder, turns, big):
    Path(folder, 'bare.py').write_text(BARE)
    ways = {'nothing but torch, torchrun': (TORCHRUN, [f'{folder}/bare.py'])}
    for name in ('baseline', 'incremental_8stage'):
        script = ['train.py', f'configs/{name}.py', 'configs/cpu.py', '--log_interval=1']
        ways |= {f'{name}, python': (PYTHON, script), f'{name}, torchrun': (TORCHRUN, script)}
    seconds = {way: [] for way in ways}
    for turn in range(turns):
        for way, (launcher, script) in ways.items():
            args = [*launcher, *script, f'--out_dir={folder}/{way}_{turn}']
            began = time.perf_counter()
            with subprocess.Popen(args, env=environment(launcher), cwd=ROOT, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL,
                                  text=True) as process:
                next(line for line in process.stdout if line.startswith('step 00001/'))
                seconds[way].append(time.perf_counter() - began)
                process.terminate()
    for way, found in seconds.items():
        print(f'{way}: {statistics.median(found):.1f} s to the first step ({spread(found)})')

def ranks(folder, turns, big):
    demo = ['configs/baseline.py', 'configs/cpu.py', *QUIET, '--baseline_steps=150', '--growth_steps=100']
    gpt2 = ['configs/baseline.py', '--data_dir=data/demo', *GPT2, *QUIET, '--total_batch_size=8192',
            '--growth_steps=3',
            '--continual_steps=1', '--val_tokens=1024']
    rates = {'two ranks': [], 'one process': []}
    for turn in range(turns):
        for way, found in rates.items():
            lines = metrics(TORCHRUN if way == 'two ranks' else PYTHON, gpt2 if big else demo,
                            f'{folder}/{way}_{turn}')
            found.append(statistics.median([m['tok_per_sec'] for m in lines if m['kind'] == 'train'][2:]))
    for way, found in rates.items():
        print(f'{way}: {statistics.median(found):.0f} tok/s ({spread(found)})')
    print(f'two ranks / one process: {statistics.median(a / b for a, b in zip(*rates.values())):.2f}')

COMPILED = '''
import json, sys, torch, train
from torch._dynamo.utils import calculate_time_spent, counters
train.main()
times = calculate_time_spent()
print(json.dumps({'seconds': times['entire_frame_compile'] + times['entire_backward_compile'],
                  'graphs': counters['stats']['unique_graphs'],
                  'breaks': sum(counters['graph_break'].values())}))
'''

def compile(folder, turns, big):
    narrow = ['--data_dir=data/demo', *GPT2, *QUIET, '--n_embd=256', '--n_head=4', '--block_size=256',
              '--total_batch_size=512',
              '--val_tokens=256', '--compile=True', '--dtype=float32', '--continual_steps=2']
    plans = {'baseline': ['--growth_steps=2'], 'incremental_8stage': ['--growth_steps=32']}
    found = {name: [] for name in plans}
    for turn in range(turns):
        for name, steps in plans.items():
            flags = [f'configs/{name}.py', *narrow, *steps, f'--out_dir={folder}/compile_{name}_{turn}']
            environment = {**os.environ, 'TORCHINDUCTOR_CACHE_DIR': f'{folder}/cache_{name}_{turn}',
                           'OMP_NUM_THREADS': '2'}
            done = subprocess.run([sys.executable, '-c', COMPILED, *flags], env=environment, cwd=ROOT,
                                  check=True,
                                  capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, many in found.items():
        seconds = [one['seconds'] for one in many]
        print(f'{name}: {statistics.median(seconds):.1f} s of compiling ({spread(seconds)}), '
              f'{many[0]["graphs"]} graphs, {many[0]["breaks"]} graph breaks')
    ratios = [b['seconds'] / a['seconds'] for a, b in zip(*found.values())]
    print(f'8 stages / full depth: {statistics.median(ratios):.2f} ({spread(ratios)})')

def write_random_shards(folder):
    for name, n in (('train_000001', 20_000), ('val_000000', 20_000)):
        data.write_shard(f'{folder}/{name}.bin', np.random.default_rng(n).integers(0, 50257, n, np.uint16))
    Path(folder, 'meta.json').write_text(json.dumps({'tokenizer': 'gpt2', 'vocab_size': 50257, 'eot': 50256}))

def evaluation(folder, turns, big):
    conftest.pytest_configure()  # GPT-2's BPE files
    write_random_shards(folder)
    examples, val_tokens = make_examples(60, 0), 8192
    Path(folder, 'hellaswag.jsonl').write_text(''.join(json.dumps(e) + '\n' for e in examples))
    default = TrainConfig()
    lines = metrics(PYTHON, ['configs/baseline.py', *GPT2, '--total_batch_size=4096', '--growth_steps=2',
                             '--continual_steps=1',
                             f'--data_dir={folder}', f'--hellaswag_data={folder}/hellaswag.jsonl',
                             '--eval_interval=1',
                             f'--val_tokens={val_tokens}', '--hellaswag_interval=100', '--log_interval=1',
                             '--checkpoint_interval=1'], f'{folder}/evaluation')
    trained = [m for m in lines if m['kind'] == 'train']
    rate = 4096 / (trained[-1]['seconds'] - trained[-2]['seconds'])
    at = [0.0, *(m['eval_seconds'] for m in lines if m['kind'] == 'eval')]
    one, both = at[2] - at[1], at[3] - at[2]  # the last step scores HellaSwag too
    save = trained[-1]['checkpoint_seconds'] - trained[-2]['checkpoint_seconds']
    step = default.total_batch_size / rate
    shares = {'validation': one * default.val_tokens / val_tokens / (default.eval_interval * step),
              'HellaSwag': (both - one) * 10_042 / len(examples) / (default.hellaswag_interval * step),
              'checkpoints': save / (default.checkpoint_interval * step)}
    print(f'training {rate:.0f} tok/s, validation {val_tokens / one:.0f} tok/s, HellaSwag '
          f'{len(examples) / (both - one):.1f} examples/s, a checkpoint {save:.1f} s')
    print(f'of the time of training: {", ".join(f"{k} {v:.2%}" for k, v in shares.items())}; together '
          f'{sum(shares.values()):.2%}')

# The step as it is usually written: all logits at once, and autograd keeps what it keeps.
PLAIN = '''
import math
import torch
import torch.nn.functional as F
import core.loss
from model import GPT, GPTConfig

core.loss.LARGE = math.inf
model = GPT(GPTConfig(1024, 50304, 12, 12, 768))
optimizer = torch.optim.AdamW(model.parameters())
for p in model.parameters():
    p.grad = torch.zeros_like(p)
optimizer.step()  # so that the step below has moments from the beginning, as all but the first
optimizer.zero_grad(set_to_none=True)
tokens = torch.arange(4096).view(4, 1024)
F.cross_entropy(model.logits(tokens).flatten(0, 1), tokens.flatten()).backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
'''

def memory(folder, turns, big):
    def peak(arguments, tunables) -> int:
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL,
                                   env=environment(PYTHON) | tunables)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, arguments
        return 1024 * usage.ru_maxrss

    write_random_shards(folder)
    run = ['train.py', 'configs/baseline.py', f'--data_dir={folder}', *GPT2, *QUIET, '--batch_size=4',
           '--total_batch_size=4096', '--dtype=float32', '--growth_steps=1', '--continual_steps=0',
           '--val_tokens=4096']
    plain = peak(['-c', PLAIN], {})
    print(f'as nanoGPT has it: {plain / 1e9:.2f} GB', flush=True)
    for depth in (2, 12):
        found = peak([*run, f'--n_layer={depth}', f'--out_dir={folder}/memory_{depth}'],
                     {'GLIBC_TUNABLES': 'glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0'})
        print(f'{depth} layers: {found / 1e9:.2f} GB, {found / plain:.2f}x', flush=True)

def spread(values) -> str:
    return ' '.join(f'{v:.2f}' if v < 100 else f'{v:.0f}' for v in values)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', nargs='+', choices=('first', 'ranks', 'compile', 'evaluation', 'memory'))
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--big', action='store_true')
    own = parser.parse_args()
    if not ((ROOT / 'data/demo').is_dir() or set(own.what) <= {'evaluation', 'memory'}):
        parser.error('data/demo is not there: python prepare_demo.py first')
    for what in own.what:
        with tempfile.TemporaryDirectory() as folder:
            globals()[what](folder, own.turns, own.big)
