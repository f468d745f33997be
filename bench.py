"""
What each phase of a plan really costs on this machine, beside what the ledger predicts.

    python bench.py configs/incremental_8stage.py [more configs] [--key=value ...]
                    [--repeats=3] [--phases=LIST] [--json]

For each distinct (depth, frozen layers, embeddings) of the plan, and for full depth: seconds of a
micro-step's forward and backward and of an optimizer step, tokens/s, peak memory, MFU where the GPU's peak is
known, and the cost of a step relative to full depth, predicted (flops ledger) and measured. Then the whole
plan beside its baseline, in hours. --phases=0,3 measures just these rows, --phases=none full depth alone.

Each measurement has a process of its own. They take turns and medians are reported, relative to full depth as
it was measured before and after, so that a machine whose speed drifts doesn't favor one.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import math
import multiprocessing
import statistics
import sys
import time
from typing import NamedTuple

import numpy as np
import torch

import schedule
from config import TrainConfig, config_to_dict, load_config
from core.common import Parser, UserError, run_main, table
from core.device import (
    autocast,
    compile_blocks,
    compile_failure,
    is_out_of_memory,
    keep_freed_memory,
    peak_flops,
    pick_device,
)
from core.optim import make_optimizers
from model import GPT
from run import checkpoint

class Measured(NamedTuple):
    """Seconds of a micro-step's forward and backward and of the optimizer's step; peak of memory in bytes."""

    forward: float
    backward: float
    optimizer: float
    memory: int

    def step(self, grad_accum_steps: int) -> float:
        """Seconds of one step of total_batch_size tokens on this one device."""
        return grad_accum_steps * (self.forward + self.backward) + self.optimizer

def main():
    own, rest = parse_args()
    config = schedule.resolve(load_config(rest, __doc__))
    plan = schedule.plan(config)
    device = pick_device(config.device)
    if own.repeats < 1:
        raise UserError(f'--repeats={own.repeats}: at least 1')

    # What can be wrong is wrong before the first measurement: a whole plan takes half an hour on a CPU.
    rows = choose_rows(config, plan.phases, own.phases)
    measured = measure_in_turns(config, rows, own.repeats)
    found = summarize(plan, rows, measured, device)
    if own.phases:
        del found['plan']  # of rows that were left out nothing is known
    if own.json:
        print(json.dumps(found))
    else:
        print_summary(config, found)

def parse_args():
    """(bench.py's own flags, the rest: configs and settings)."""
    # --help is load_config's to answer, with the settings; an abbreviation could be one of them.
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--phases', default='')
    return parser.parse_known_args()

# ------------------------------------------------------------------------------------------------------------
# what to measure

def choose_rows(config: TrainConfig, phases: tuple, wanted: str) -> dict[str, schedule.Phase]:
    """Name -> phase: 'full' for full depth, then the plan's distinct phases, '0', '1', ... in order of time.

    wanted: '' for all, 'none', or names of rows, '0,3'. Raises UserError if there are no such rows.
    """
    full = dataclasses.replace(schedule.full_depth(config), phase='full')
    kinds = {kind_of(full)}  # the plan's own phases of that kind are this row
    numbered = {}
    for phase in phases:
        # A step costs the same in all phases of one kind: one measurement stands for them.
        if kind_of(phase) not in kinds:
            kinds.add(kind_of(phase))
            numbered[str(len(numbered))] = phase
    names = wanted.split(',') if wanted else list(numbered)
    rows = {'full': full}
    for name in names:
        if name in numbered:
            rows[name] = numbered[name]
        elif wanted != 'none':
            raise UserError(f'--phases={wanted}: there are {", ".join(["none", *numbered])}')
    return rows

def kind_of(phase: schedule.Phase) -> tuple:
    """What decides a phase's cost."""
    embeddings = phase.embeddings if phase.frozen else 'train'  # they count in phase 1 alone
    return phase.depth, phase.frozen, embeddings

# ------------------------------------------------------------------------------------------------------------
# measuring

def measure_in_turns(config: TrainConfig, rows: dict, repeats: int) -> list[tuple[str, Measured]]:
    """(name of the row, Measured) in order of time."""
    # Full depth again before every fourth of the others: all are judged by it.
    order = []
    for i, name in enumerate(name for name in rows if name != 'full'):
        if i % 4 == 0:
            order.append('full')
        order.append(name)
    order = order or ['full']
    measured = []
    # All rows once, then all again: a slow minute doesn't hit every repeat of one row.
    for repeat in range(repeats):
        for place, name in enumerate(order, 1):
            found = in_own_process(measure, config, rows[name])
            measured.append((name, found))
            # A line for each: who stops a long measurement keeps what it has found.
            print(f'repeat {repeat + 1}/{repeats}, {place}/{len(order)}: row {name}, '
                  f'{found.forward + found.backward:.4f} s a micro-step, {found.optimizer:.4f} s the '
                  f'optimizer, {found.memory / 1e9:.2f} GB', file=sys.stderr, flush=True)
    return measured

def in_own_process(function, config: TrainConfig, *args):
    """function(config, *args) in a fresh process. Raises UserError if it is killed, as for want of memory."""
    context = multiprocessing.get_context('spawn')  # a fork would inherit this process's memory
    try:
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            return pool.submit(call, function, config, *args).result()
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError('a measurement was killed, perhaps for want of memory: lower --batch_size, now '
                        f'{config.batch_size}') from None

def call(function, config: TrainConfig, *args):
    """function(config, *args), with what can go wrong on a user's machine as a UserError."""
    try:
        return function(config, *args)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise UserError(f'out of memory: lower --batch_size, now {config.batch_size}') from None
        # torch.compile needs a compiler, which not every machine has.
        reason = compile_failure(error)
        if reason:
            raise UserError(f'torch.compile does not work here ({reason}): say --compile=False') from None
        raise

def measure(config: TrainConfig, phase: schedule.Phase) -> Measured:
    """What a step of a phase takes: at most two micro-steps, of which the last is timed, since of many most
    add to gradients that exist. Two steps warm up, the mean of the next two counts; on CUDA three and ten."""
    device = pick_device(config.device)
    # These last as long as the process, which is this measurement's own.
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True
    elif device.type == 'cpu':
        keep_freed_memory()
    model = GPT(checkpoint.gpt_config(config_to_dict(config)), phase.depth).to(device)
    model.freeze(phase.frozen, phase.embeddings)
    if config.compile is True or (config.compile == 'auto' and device.type == 'cuda'):
        compile_blocks(model)
    optimizers = make_optimizers(model, config)
    tokens = torch.randint(config.vocab_size, (config.batch_size, config.block_size + 1)).to(device)
    x = tokens[:, :-1].contiguous()  # as train.py's batches are
    y = tokens[:, 1:].contiguous()
    amp = autocast(device, config.dtype)
    n_warm, n_timed = (3, 10) if device.type == 'cuda' else (2, 2)
    timed = []
    for _ in range(n_warm + n_timed):
        # As in train.py, for the weights that autocast has cast.
        with torch.autocast(device.type, enabled=False):
            for _ in range(min(2, grad_accum_steps(config))):
                times = [now(device)]
                with amp:
                    loss = model(x, y)
                times.append(now(device))
                loss.backward()
        times.append(now(device))
        # Nobody clips here or exchanges gradients: train.py's step does so only where it is told to.
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        times.append(now(device))
        timed.append([b - a for a, b in itertools.pairwise(times)])  # forward, backward, optimizer
    forward, backward, step = np.mean(timed[n_warm:], axis=0).tolist()
    return Measured(forward, backward, step, peak_memory(device))

def grad_accum_steps(config: TrainConfig) -> int:
    """Micro-steps of a step on one device."""
    return config.total_batch_size // (config.batch_size * config.block_size)

def now(device: torch.device) -> float:
    """The time once the device has done what it was given."""
    if device.type == 'cuda':
        # Calls only queue their kernels: without waiting, the clock would show the queueing.
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()
    return time.perf_counter()

def peak_memory(device: torch.device) -> int:
    """Peak of the device's memory in bytes; on the CPU, of the whole process; 0 if it is neither CUDA nor
    Linux."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == 'linux':
        with open('/proc/self/status', encoding='ascii') as f:
            for line in f:
                # The high-water mark of this process's resident memory, in kB.
                if line.startswith('VmHWM'):
                    return int(line.split()[1]) * 1024
    return 0

# ------------------------------------------------------------------------------------------------------------
# reporting

def relative_costs(costs: list[tuple[str, float]]) -> dict[str, float]:
    """(row, cost) in order of time -> each row's cost relative to what full depth's would have been at that
    place, interpolated between its costs before and after; the median of its repeats."""
    places = [place for place, (name, _) in enumerate(costs) if name == 'full']
    full = [cost for name, cost in costs if name == 'full']
    ratios = {}
    for place, (name, cost) in enumerate(costs):
        # After the last full-depth measurement, np.interp holds its cost.
        ratios.setdefault(name, []).append(cost / float(np.interp(place, places, full)))
    return {name: statistics.median(some) for name, some in ratios.items()}

def summarize(plan: schedule.Plan, rows: dict, measured: list, device) -> dict:
    """Everything that was found, as plain types: 'phases' (one dict a row), and 'plan'."""
    config = plan.config
    n = grad_accum_steps(config)
    relative = relative_costs([(name, one.step(n)) for name, one in measured])
    peak = peak_flops(device, config.dtype)
    full_flops = sum(schedule.token_flops(config, rows['full']))
    found = []
    for name, phase in rows.items():
        of_row = [one for other, one in measured if other == name]
        row = {'row': int(name) if name.isdecimal() else name, 'depth': phase.depth,
               'n_frozen': phase.n_frozen, 'embeddings': phase.embeddings if phase.frozen else 'train'}
        for field, values in zip(Measured._fields, zip(*of_row)):
            row[field] = statistics.median(values)
        # A step's seconds are the median of steps, not the sum of medians: drifts move the parts together.
        row['tok_per_sec'] = config.total_batch_size / statistics.median([one.step(n) for one in of_row])
        flops = sum(schedule.token_flops(config, phase))  # of a token
        # Of forward and backward alone: the FLOPs of the optimizer are not in the ledger.
        per_second = flops * config.batch_size * config.block_size / (row['forward'] + row['backward'])
        row['mfu'] = per_second / peak if peak else None
        row['predicted'] = flops / full_flops
        row['measured'] = relative[name]
        found.append(row)
    by_kind = {kind_of(phase): relative[name] for name, phase in rows.items()}
    return {'device': str(device), 'peak_flops_per_second': peak, 'phases': found,
            'plan': whole_plan(plan, by_kind, found[0]['tok_per_sec'])}

def whole_plan(plan: schedule.Plan, by_kind: dict, tok_per_sec: float) -> dict:
    """Hours of the plan on this device and its cost relative to as many steps at full depth, measured and
    predicted."""
    config = plan.config
    n_steps = plan.total_steps
    hours = n_steps * config.total_batch_size / tok_per_sec / 3600
    predicted = plan.flops() / schedule.step_cost(config, 'flops') / n_steps
    # Each phase weighed by its steps; nan with one that --phases left out, where main drops the plan.
    measured = sum(phase.steps * by_kind.get(kind_of(phase), math.nan) for phase in plan.phases) / n_steps
    return {'steps': n_steps, 'full_depth_hours': hours,
            'cost': {'measured': measured, 'predicted': predicted},
            'hours': {'measured': measured * hours, 'predicted': predicted * hours}}

def print_summary(config: TrainConfig, found: dict):
    tokens = config.batch_size * config.block_size
    print(f'{found["device"]}: micro-steps of {tokens} tokens, {grad_accum_steps(config)} to a step')
    header = ['row', 'depth', 'frozen', 'embeddings', 'forward s', 'backward s', 'optim. s', 'tok/s',
              'peak GB', 'MFU', 'predicted', 'measured']
    lines = []
    for row in found['phases']:
        seconds = [f'{row[name]:.4f}' for name in ('forward', 'backward', 'optimizer')]
        mfu = f'{row["mfu"]:.1%}' if row['mfu'] else '-'  # no CPU's peak is known
        lines.append([row['row'], row['depth'], row['n_frozen'], row['embeddings'], *seconds,
                      f'{row["tok_per_sec"]:.0f}', f'{row["memory"] / 1e9:.2f}', mfu,
                      f'{row["predicted"]:.1%}', f'{row["measured"]:.1%}'])
    print(table(header, lines, 'rrrlrrrrrrrr'))
    if 'plan' in found:
        plan = found['plan']
        hours = plan['hours']
        cost = plan['cost']
        print(f'the whole plan, {plan["steps"]} steps on this one device: {hours["measured"]:.2f} h '
              f'measured, {hours["predicted"]:.2f} h predicted; the same steps at full depth '
              f'{plan["full_depth_hours"]:.2f} h: {cost["measured"]:.1%} measured, {cost["predicted"]:.1%} '
              'predicted')

if __name__ == '__main__':
    run_main(main)
