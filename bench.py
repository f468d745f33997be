"""
What each phase of a plan really costs on this machine, beside what the ledger predicts.

    python bench.py configs/incremental_8stage.py [more configs] [--key=value ...] [--repeats=3] [--phases=LIST] [--plain]
                                                  [--json]

For each distinct (depth, frozen layers, embeddings) of the plan, and for full depth: seconds of a micro-step's forward and
backward and of an optimizer step, tokens/s, peak memory, the share of the matrix-product speed measured beside it, and the
cost of a step relative to full depth, predicted (flops ledger) and measured. Then the whole plan beside its baseline, in
hours. --phases=0,3 measures just these rows, --phases=none none, and full depth. --plain adds the full-depth step as it is
usually written (all logits at once, nothing computed again, AdamW not fused), in float32 and, where the hardware has it,
under bfloat16 autocast. Each measurement has a process of its own, so that neither memory nor compiled code is left from
another one; they take turns and medians are reported, relative to full depth as it was measured before and after, so that a
machine whose speed drifts doesn't favour one. The machine should be otherwise idle.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import model as model_module
import schedule
from common import UserError, run_main
from config import TrainConfig, load_config
from device import (
    GLIBC_TUNABLES,
    autocast,
    compile_blocks,
    has_bfloat16,
    is_out_of_memory,
    keep_freed_memory,
    lacks_glibc_tunables,
    pick_device,
)
from model import GPT, GPTConfig
from optim import make_optimizers


def main():
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--plain', action='store_true')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--phases', default='')
    own, rest = parser.parse_known_args()
    config = schedule.resolve(load_config(rest, __doc__))
    phases = schedule.plan(config)
    device = pick_device(config.device)

    full = dataclasses.replace(schedule.full_depth(config, 1), phase='full')
    kinds = {kind_of(full): full} | {kind_of(p): p for p in reversed(phases) if kind_of(p) != kind_of(full)}
    rows = [full, *sorted((p for k, p in kinds.items() if k != kind_of(full)), key=lambda p: p.start)]
    if own.phases:
        try:
            rows = [full] + [rows[1:][int(i)] for i in own.phases.split(',') if own.phases != 'none']
        except (ValueError, IndexError):
            raise UserError(f'--phases={own.phases}: a list of numbers from 0 to {len(rows) - 2}, like 0,3') from None
    if own.repeats < 1:
        raise UserError(f'--repeats={own.repeats}: at least 1')

    jobs = [(phase, False, config.dtype) for phase in rows]
    if own.plain:
        jobs += [(full, True, dtype) for dtype in ('float32', 'bfloat16') if dtype == 'float32' or has_bfloat16(device)]
    # full depth, job 0, again before every fourth of the others: all are judged by it
    order = [j for i in range(1, len(jobs)) for j in ([0, i] if i % 4 == 1 else [i])] or [0]
    measured, peaks = [], []  # (number of the job, what measure() gave) in the order of time
    starts_again = device.type == 'cpu' and lacks_glibc_tunables(config)
    for repeat in range(own.repeats):
        for place, i in enumerate(order, 1):
            print(f'repeat {repeat + 1}/{own.repeats}, {place}/{len(order)}', end='\r', file=sys.stderr, flush=True)
            if starts_again:  # as train.py would
                os.environ['GLIBC_TUNABLES'] = '' if jobs[i][1] else GLIBC_TUNABLES
            measured.append((i, in_own_process(measure, config, *jobs[i])))
        peaks.append(in_own_process(matmul_speed, config))
    print(file=sys.stderr)
    dtypes = [dtype for _, _, dtype in jobs[len(rows):]]
    report(config, phases, rows, dtypes, measured, max(peaks), device, own.json, bool(own.phases))


def in_own_process(function, config, *args):
    """function(config, *args) in a fresh process. Raises UserError if the process is killed, as one without memory is."""
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(function, config, *args).result()
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(f'a measurement was killed, perhaps for want of memory: lower --batch_size, now '
                            f'{config.batch_size}') from None
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
            if not is_out_of_memory(error):
                raise
            raise UserError(f'out of memory: lower --batch_size, now {config.batch_size}') from None


def kind_of(phase: schedule.Phase) -> tuple:
    return phase.depth, phase.frozen, phase.embeddings if phase.frozen else 'train'


def measure(config: TrainConfig, phase: schedule.Phase, plain: bool, dtype: str) -> dict:
    """Seconds of one micro-step's forward and backward and of the optimizer's step, and the peak memory in bytes of all:
    weights, gradients, moments, activations.

    Two steps warm up, the mean of two counts. A step here has at most two micro-steps, and the last is timed: where there
    are many, most add to gradients that exist. plain: full depth as scripts usually have it.
    """
    device = pick_device(config.device)
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True
    elif device.type == 'cpu' and not plain:
        keep_freed_memory()
    model = GPT(GPTConfig(**{k: getattr(config, k) for k in GPTConfig.__dataclass_fields__}), phase.depth).to(device)
    model.freeze(phase.frozen, phase.embeddings)
    if plain:
        model_module.LARGE = math.inf  # keep all that autograd keeps
    if config.compile is True or (config.compile == 'auto' and device.type == 'cuda'):
        compile_blocks(model)
    amp = autocast(device, dtype)
    optimizers = [torch.optim.AdamW(model.parameters(), fused=False)] if plain else make_optimizers(model, config)
    x = torch.randint(config.vocab_size, (config.batch_size, config.block_size + 1)).to(device)
    micro_steps = min(2, config.total_batch_size // (config.batch_size * config.block_size))
    timed = []
    for _ in range(4):
        with torch.autocast(device.type, enabled=False):  # as train.py does, for the weights that autocast has cast
            for _ in range(micro_steps):
                times = [now(device)]
                with amp:
                    loss = plain_loss(model, x) if plain else model(x[:, :-1], x[:, 1:])
                times.append(now(device))
                loss.backward()
        times.append(now(device))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        times.append(now(device))
        timed.append([b - a for a, b in itertools.pairwise(times)])
    forward, backward, step = (statistics.mean(t) for t in zip(*timed[2:]))
    return {'forward': forward, 'backward': backward, 'optimizer': step, 'memory': peak_memory(device)}


def plain_loss(model: GPT, x):
    """The loss as it is usually written: the logits of every position at once. x (B, T + 1)"""
    return F.cross_entropy(model.logits(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def now(device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()
    return time.perf_counter()


def peak_memory(device) -> int:
    """Peak of the device's memory in bytes; on the CPU, of the whole process."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == 'linux':
        with open('/proc/self/status', encoding='ascii') as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith('VmHWM'))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def matmul_speed(config: TrainConfig) -> float:
    """FLOP/s of the MLP's matrix product on a micro-batch, in the dtype that training multiplies in: the speed limit."""
    device = pick_device(config.device)
    with autocast(device, config.dtype):
        dtype = (torch.ones(1, 1, device=device) @ torch.ones(1, 1, device=device)).dtype
    rows, width = config.batch_size * config.block_size, config.n_embd
    a, b = (torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, width), (width, 4 * width)))
    repeats, times = max(1, int(2e10 / (8 * rows * width**2))), []
    for _ in range(10):
        began = now(device)
        for _ in range(repeats):
            a @ b
        times.append((now(device) - began) / repeats)
    return 8 * rows * width**2 / min(times)


def relative_costs(costs: list[tuple[int, float]]) -> list[float]:
    """(number of the job, cost) in the order of time -> each job's cost relative to job 0's, the median of its repeats.

    What counts is what job 0 would have cost at that place, interpolated between its costs before and after, so that drifts
    cancel.
    """
    places, full = zip(*((k, cost) for k, (i, cost) in enumerate(costs) if i == 0))
    ratios = [[] for _ in {i for i, _ in costs}]
    for k, (i, cost) in enumerate(costs):
        ratios[i].append(cost / float(np.interp(k, places, full)))
    return [statistics.median(many) for many in ratios]


def report(config, phases, rows, plain, measured, peak, device, as_json, partial):
    tokens = config.batch_size * config.block_size
    micro_steps = config.total_batch_size // tokens

    def cost(times):  # seconds of one step of total_batch_size tokens on one device
        return micro_steps * (times['forward'] + times['backward']) + times['optimizer']

    relative = relative_costs([(i, cost(times)) for i, times in measured])
    median = [{k: statistics.median(times[k] for j, times in measured if j == i) for k in measured[0][1]}
              for i in range(len(relative))]
    table, full_flops = [], sum(schedule.token_flops(config, rows[0]))
    for number, (phase, times, ratio) in enumerate(zip(rows, median, relative), -1):
        flops = sum(schedule.token_flops(config, phase))
        table.append({'row': 'full' if number < 0 else number, 'depth': phase.depth, 'n_frozen': phase.n_frozen,
                      'embeddings': phase.embeddings if phase.frozen else 'train', **times,
                      'tok_per_sec': config.total_batch_size / cost(times),
                      'of_peak': flops * tokens / (times['forward'] + times['backward']) / peak,
                      'predicted': flops / full_flops, 'measured': ratio})
    summary = {'device': str(device), 'matmul_flops_per_second': peak, 'phases': table}
    if not partial:
        by_kind = {kind_of(p): row['measured'] for p, row in zip(rows, table)}
        plan_steps = sum(p.steps * by_kind[kind_of(p)] for p in phases)  # in full-depth steps
        predicted = schedule.compute(config, phases, 'flops') / schedule.step_cost(config, 'flops')
        hour = cost(median[0]) / 3600
        summary |= {'plan_hours': {'measured': plan_steps * hour, 'predicted': predicted * hour},
                    'same_steps_at_full_depth_hours': schedule.total_steps(phases) * hour,
                    'plan_cost': {'measured': plan_steps / schedule.total_steps(phases),
                                  'predicted': predicted / schedule.total_steps(phases)}}
    for name, times, ratio in zip(plain, median[len(rows):], relative[len(rows):]):
        summary.setdefault('plain', {})[name] = {**times, 'tok_per_sec': config.total_batch_size / cost(times),
                                                 'measured': ratio}
    if as_json:
        print(json.dumps(summary))
        return
    print(f'{device}: {peak / 1e9:,.0f} GFLOP/s in matrix products; micro-steps of {tokens} tokens, {micro_steps} to a step')
    print(f'{"row":>4} {"depth":>5} {"frozen":>6} {"embeddings":>12} {"forward s":>10} {"backward s":>10} {"optim. s":>9} '
          f'{"tok/s":>9} {"peak GB":>8} {"of peak":>8} {"predicted":>9} {"measured":>9}')
    for r in table:
        print(f'{r["row"]:>4} {r["depth"]:>5} {r["n_frozen"]:>6} {r["embeddings"]:>12} {r["forward"]:>10.4f} '
              f'{r["backward"]:>10.4f} {r["optimizer"]:>9.4f} {r["tok_per_sec"]:>9.0f} {r["memory"] / 1e9:>8.2f} '
              f'{r["of_peak"]:>8.1%} {r["predicted"]:>9.1%} {r["measured"]:>9.1%}')
    if not partial:
        hours, share = summary['plan_hours'], summary['plan_cost']
        print(f'the whole plan, {schedule.total_steps(phases)} steps on this one device: {hours["measured"]:.2f} h measured, '
              f'{hours["predicted"]:.2f} h predicted; the same steps at full depth '
              f'{summary["same_steps_at_full_depth_hours"]:.2f} h: {share["measured"]:.1%} measured, '
              f'{share["predicted"]:.1%} predicted')
    for name, plain in summary.get('plain', {}).items():
        print(f'full depth written the plain way in {name}: forward {plain["forward"]:.4f} s, backward '
              f'{plain["backward"]:.4f} s, optimizer {plain["optimizer"]:.4f} s, {plain["tok_per_sec"]:.0f} tok/s, peak '
              f'{plain["memory"] / 1e9:.2f} GB: ours has {plain["measured"]:.2f}x its tokens/s, '
              f'{table[0]["memory"] / plain["memory"]:.2f}x its memory')


if __name__ == '__main__':
    run_main(main)
