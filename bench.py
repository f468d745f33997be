"""
What each phase of a plan really costs on this machine, beside what the ledger predicts.

    python bench.py configs/incremental_8stage.py [more configs] [--key=value ...] [--repeats=3]
                                                  [--phases=LIST] [--plain] [--json]

For each distinct (depth, frozen layers, embeddings) of the plan, and for full depth: seconds of a
micro-step's forward and backward and of an optimizer step, tokens/s, peak memory, the share of the matmul
speed measured beside it, MFU where the GPU's peak is known, and the cost of a step relative to full depth,
predicted (flops ledger) and measured. Then the whole plan beside its baseline, in hours. --phases=0,3
measures just these rows, --phases=none none, and full depth. --plain adds the full-depth step as it is
usually written (all logits at once, nothing computed again, AdamW not fused but on CUDA; compiled as a whole
where the blocks are compiled), in float32 and, where the hardware has it, under bfloat16 autocast, with the
same memory settings as ours; on the CPU a further line says what these settings bring.

Each measurement has a process of its own, so that neither memory nor compiled code is left from another one;
they take turns and medians are reported, relative to full depth as it was measured before and after, so that
a machine whose speed drifts doesn't favor one. The machine should be otherwise idle.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import core.loss
import schedule
from config import TrainConfig, config_to_dict, load_config
from core.common import Parser, UserError, run_main
from core.device import (
    autocast,
    compile_blocks,
    compile_failure,
    has_bfloat16,
    is_out_of_memory,
    keep_freed_memory,
    peak_flops,
    pick_device,
)
from core.optim import make_optimizers
from model import GPT
from run import checkpoint


@dataclass(frozen=True)
class Job:
    """One thing to measure: a step of `phase`, ours or as scripts usually have it."""

    name: str  # the row's name: 'full', '0', '1', ...
    phase: schedule.Phase
    dtype: str  # as config.dtype
    is_plain: bool = False
    has_memory_settings: bool = True  # those of train.py for the CPU


@dataclass(frozen=True)
class Measured:
    """Seconds of a micro-step's forward and backward and of the optimizer's step, and the peak of memory in
    bytes."""

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
    jobs = [Job(name, phase, config.dtype) for name, phase in rows.items()]
    if own.plain:
        jobs += comparisons(rows['full'], config, device)
    measured, matmul_speeds = measure_in_turns(config, jobs, own.repeats)
    found = summarize(plan, jobs, measured, max(matmul_speeds), device)
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
    parser.add_argument('--plain', action='store_true')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--phases', default='')
    return parser.parse_known_args()


# ------------------------------------------------------------------------------------------------------------
# what to measure


def choose_rows(config: TrainConfig, phases: tuple, wanted: str) -> dict[str, schedule.Phase]:
    """Name -> phase: 'full' for full depth, then the plan's distinct phases, '0', '1', ... in order of time.

    wanted: '' for all, 'none', or numbers of rows, '0,3'. Raises UserError if there are no such rows.
    """
    full = dataclasses.replace(schedule.full_depth(config, 1), phase='full')
    kinds = {kind_of(full): full}  # the plan's own phases of that kind are this row
    numbered = []
    for phase in phases:
        # A step costs the same in all phases of one kind: one measurement stands for them.
        if kind_of(phase) not in kinds:
            kinds[kind_of(phase)] = phase
            numbered.append(phase)
    rows = {'full': full}
    for number in row_numbers(wanted, len(numbered)):
        rows[str(number)] = numbered[number]
    return rows


def row_numbers(wanted: str, n: int) -> list[int]:
    """The numbers that --phases asks for, of n. Raises UserError if it is no list of these."""
    if wanted == 'none':
        return []
    if not wanted:
        return list(range(n))
    # What is no number counts as one too many; so does -1, which Python would take from the end.
    numbers = [int(text) if text.isdecimal() else n for text in wanted.split(',')]
    if max(numbers) >= n:
        which = (
            f'numbers from 0 to {n - 1}, like 0,{n - 1}, or none'
            if n
            else 'only none: the plan is full depth'
        )
        raise UserError(f'--phases={wanted}: {which}')
    return numbers


def kind_of(phase: schedule.Phase) -> tuple:
    """What decides a phase's cost."""
    embeddings = phase.embeddings if phase.frozen else 'train'  # they count in phase 1 alone
    return phase.depth, phase.frozen, embeddings


def comparisons(full: schedule.Phase, config: TrainConfig, device: torch.device) -> list[Job]:
    """What --plain adds."""
    dtypes = ['float32']
    if has_bfloat16(device):
        dtypes.append('bfloat16')
    jobs = [Job(f'plain {dtype}', full, dtype, is_plain=True) for dtype in dtypes]
    if device.type == 'cpu':  # else part of what ours gains over scripts that lack them would go unexplained
        jobs.append(Job('no memory settings', full, config.dtype, has_memory_settings=False))
    return jobs


# ------------------------------------------------------------------------------------------------------------
# measuring


def measure_in_turns(config: TrainConfig, jobs: list[Job], repeats: int) -> tuple[list, list]:
    """([(number of the job, Measured)] in order of time, [FLOP/s of a matmul, once a repeat])."""
    # Full depth, job 0, again before every fourth of the others: all are judged by it.
    order = []
    for i in range(1, len(jobs)):
        if i % 4 == 1:
            order.append(0)
        order.append(i)
    # Full depth alone: no other job has put it into the order.
    order = order or [0]
    measured = []
    speeds = []
    # All jobs once, then all again: a slow minute doesn't hit every repeat of one job.
    for repeat in range(repeats):
        for place, i in enumerate(order, 1):
            found = in_own_process(measure, config, jobs[i])
            measured.append((i, found))
            # A line for each: who stops a long measurement keeps what it has found.
            print(
                f'repeat {repeat + 1}/{repeats}, {place}/{len(order)}: row {jobs[i].name}, '
                f'{found.forward + found.backward:.4f} s a micro-step, {found.optimizer:.4f} s the '
                f'optimizer, {found.memory / 1e9:.2f} GB',
                file=sys.stderr,
                flush=True,
            )
        # The fastest of these counts as the limit, so one a repeat is enough.
        speeds.append(in_own_process(matmul_speed, config))
    return measured, speeds


def in_own_process(function, config: TrainConfig, *args):
    """function(config, *args) in a fresh process. Raises UserError if the process is killed, as one without
    memory is."""
    tunables = os.environ.get('GLIBC_TUNABLES')
    if args and not args[0].has_memory_settings:
        os.environ.pop('GLIBC_TUNABLES', None)  # a process reads it when it starts
    context = multiprocessing.get_context('spawn')  # a fork would inherit this process's memory
    try:
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            return pool.submit(call, function, config, *args).result()
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            f'a measurement was killed, perhaps for want of memory: lower --batch_size, now '
            f'{config.batch_size}'
        ) from None
    finally:
        # The jobs that follow start with it again.
        if tunables is not None:
            os.environ['GLIBC_TUNABLES'] = tunables


def call(function, config: TrainConfig, *args):
    """function(config, *args), with what can go wrong on a user's machine as a UserError; not every other
    error can be sent between processes."""
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


def measure(config: TrainConfig, job: Job) -> Measured:
    """What a step of the job takes, on a model of its own.

    A step here has at most two micro-steps, and the last is timed: where there are many, most add to
    gradients that exist. Two steps warm up, the mean of the next two counts; on CUDA three and ten.
    """
    device = pick_device(config.device)
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True
    # These last as long as the process, which is this job's own.
    elif device.type == 'cpu' and job.has_memory_settings:
        keep_freed_memory()
    model = GPT(checkpoint.gpt_config(config_to_dict(config)), job.phase.depth).to(device)
    model.freeze(job.phase.frozen, job.phase.embeddings)
    # The two sides differ in these two lines and in nothing else.
    loss_of = prepare_plain(model, config) if job.is_plain else prepare(model, config)
    optimizers = plain_optimizers(model) if job.is_plain else make_optimizers(model, config)
    tokens = torch.randint(config.vocab_size, (config.batch_size, config.block_size + 1)).to(device)
    x = tokens[:, :-1].contiguous()  # as train.py's batches are
    y = tokens[:, 1:].contiguous()
    amp = autocast(device, job.dtype)
    n_warm, n_timed = (3, 10) if device.type == 'cuda' else (2, 2)
    timed = []
    for _ in range(n_warm + n_timed):
        with torch.autocast(
            device.type, enabled=False
        ):  # as in train.py, for the weights that autocast has cast
            for _ in range(min(2, grad_accum_steps(config))):
                times = [now(device)]
                with amp:
                    loss = loss_of(x, y)
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


def is_compiled(config: TrainConfig, model: GPT) -> bool:
    if config.compile == 'auto':
        return model.transformer.wte.weight.device.type == 'cuda'
    return config.compile


def prepare(model: GPT, config: TrainConfig):
    """The loss as train.py computes it: a function of x and y."""
    if is_compiled(config, model):
        compile_blocks(model)
    return model


def prepare_plain(model: GPT, config: TrainConfig):
    """The loss as it is usually written: the logits of every position at once, and autograd keeps what it
    keeps."""
    core.loss.LARGE = math.inf  # no activation is so large that it is computed again

    def loss_of(x, y):
        return F.cross_entropy(model.logits(x).flatten(0, 1), y.flatten())

    # As a whole, as scripts usually do it; ours compiles block by block.
    return torch.compile(loss_of) if is_compiled(config, model) else loss_of


def plain_optimizers(model: GPT) -> list:
    """AdamW as nanoGPT has it: fused on CUDA only."""
    on_gpu = model.transformer.wte.weight.device.type == 'cuda'
    return [torch.optim.AdamW(model.parameters(), fused=on_gpu)]


def now(device: torch.device) -> float:
    """The time once the device has done what it was given."""
    if device.type == 'cuda':
        # Calls only queue their kernels: without waiting, the clock would show the queueing.
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()
    return time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """Peak of the device's memory in bytes; on the CPU, of the whole process, 0 where the system doesn't
    tell."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == 'linux':
        with open('/proc/self/status', encoding='ascii') as f:
            for line in f:
                # The high-water mark of this process's resident memory, in kB.
                if line.startswith('VmHWM'):
                    return int(line.split()[1]) * 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024  # bytes there, kilobytes elsewhere


def matmul_speed(config: TrainConfig) -> float:
    """FLOP/s of the MLP's matmul on a micro-batch, in the dtype that training multiplies in: the speed
    limit."""
    device = pick_device(config.device)
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True
    # What autocast makes of a product of float32 is what training multiplies in.
    with autocast(device, config.dtype):
        dtype = (torch.ones(1, 1, device=device) @ torch.ones(1, 1, device=device)).dtype
    rows = config.batch_size * config.block_size
    width = config.n_embd
    a = torch.randn(rows, width, device=device, dtype=dtype)
    b = torch.randn(width, 4 * width, device=device, dtype=dtype)
    # rows * width * 4 width multiply-adds, two FLOPs each.
    flops = 8 * rows * width**2
    # Many between two looks at the clock, each of which waits for the device: 20 ms of a GPU at least.
    repeats = max(1, int((2e13 if device.type == 'cuda' else 2e10) / flops))
    times = []
    for _ in range(10):
        began = now(device)
        for _ in range(repeats):
            a @ b
        times.append((now(device) - began) / repeats)
    return flops / min(times)  # the least disturbed: this is the limit that others are held against


# ------------------------------------------------------------------------------------------------------------
# reporting


def relative_costs(costs: list[tuple[int, float]]) -> list[float]:
    """(number of the job, cost) in order of time -> each job's cost relative to job 0's, the median of its
    repeats.

    What counts is what job 0 would have cost at that place, interpolated between its costs before and after,
    so that drifts cancel.
    """
    places = [place for place, (i, _) in enumerate(costs) if i == 0]
    full = [cost for i, cost in costs if i == 0]
    ratios = {}
    for place, (i, cost) in enumerate(costs):
        # After the last full-depth measurement, np.interp holds its cost.
        ratios.setdefault(i, []).append(cost / float(np.interp(place, places, full)))
    return [statistics.median(ratios[i]) for i in sorted(ratios)]


def summarize(plan: schedule.Plan, jobs: list[Job], measured: list, matmul: float, device) -> dict:
    """Everything that was found, as plain types: 'phases' (one dict a row), 'plan', and with --plain
    'plain'."""
    config = plan.config
    n = grad_accum_steps(config)
    relative = relative_costs([(i, one.step(n)) for i, one in measured])
    peak = peak_flops(device, config.dtype)
    found = {
        'device': str(device),
        'matmul_flops_per_second': matmul,
        'peak_flops_per_second': peak,
        'phases': [],
    }
    full_flops = sum(schedule.token_flops(config, jobs[0].phase))
    by_kind = {}
    for i, job in enumerate(jobs):
        of_job = [one for number, one in measured if number == i]
        row = medians(of_job)
        # A step's seconds are the median of steps, not the sum of medians: drifts move the parts together.
        row['tok_per_sec'] = config.total_batch_size / statistics.median([one.step(n) for one in of_job])
        row['measured'] = relative[i]
        if job.is_plain or not job.has_memory_settings:  # not of the plan: no prediction
            found.setdefault('plain', {})[job.name.removeprefix('plain ')] = row
            continue
        flops = sum(schedule.token_flops(config, job.phase))  # of a token
        # Of forward and backward alone: the FLOPs of the optimizer are not in the ledger.
        per_second = flops * config.batch_size * config.block_size / (row['forward'] + row['backward'])
        row['of_matmul'] = per_second / matmul
        row['mfu'] = per_second / peak if peak else None
        row['predicted'] = flops / full_flops
        name = int(job.name) if job.name.isdecimal() else job.name
        embeddings = job.phase.embeddings if job.phase.frozen else 'train'
        place = {
            'row': name,
            'depth': job.phase.depth,
            'n_frozen': job.phase.n_frozen,
            'embeddings': embeddings,
        }
        found['phases'].append({**place, **row})
        by_kind[kind_of(job.phase)] = relative[i]
    found['plan'] = whole_plan(plan, by_kind, found['phases'][0]['tok_per_sec'])
    return found


def medians(many: list[Measured]) -> dict:
    """Field -> median over the repeats."""
    row = {}
    for field in dataclasses.fields(Measured):
        row[field.name] = statistics.median([getattr(one, field.name) for one in many])
    return row


def whole_plan(plan: schedule.Plan, by_kind: dict, tok_per_sec: float) -> dict:
    """Hours of the plan on this device and its cost relative to as many steps at full depth, measured and
    predicted."""
    config, n_steps = plan.config, plan.total_steps
    # The plan's own mix of phases, each weighed by its steps, in units of a full-depth step.
    hours = n_steps * config.total_batch_size / tok_per_sec / 3600
    predicted = plan.flops() / schedule.step_cost(config, 'flops') / n_steps
    # nan with a phase that --phases left out; main drops the plan then.
    measured = sum(phase.steps * by_kind.get(kind_of(phase), math.nan) for phase in plan.phases) / n_steps
    return {
        'steps': n_steps,
        'full_depth_hours': hours,
        'cost': {'measured': measured, 'predicted': predicted},
        'hours': {'measured': measured * hours, 'predicted': predicted * hours},
    }


def print_summary(config: TrainConfig, found: dict):
    tokens = config.batch_size * config.block_size
    speed = found['matmul_flops_per_second'] / 1e9
    print(
        f'{found["device"]}: {speed:,.0f} GFLOP/s in matmuls; micro-steps of {tokens} tokens, '
        f'{grad_accum_steps(config)} to a step'
    )
    print_rows(found['phases'])
    if 'plan' in found:
        plan = found['plan']
        hours = plan['hours']
        cost = plan['cost']
        print(
            f'the whole plan, {plan["steps"]} steps on this one device: {hours["measured"]:.2f} h measured, '
            f'{hours["predicted"]:.2f} h predicted; the same steps at full depth '
            f'{plan["full_depth_hours"]:.2f} h: {cost["measured"]:.1%} measured, {cost["predicted"]:.1%} '
            'predicted'
        )
    full = found['phases'][0]
    for name, plain in found.get('plain', {}).items():
        speed = plain['measured']
        # Peak memory is 0 where the system doesn't tell.
        memory = full['memory'] / plain['memory'] if plain['memory'] else math.nan
        if name == 'no memory settings':
            print(
                f"of that, the C library's memory settings: ours has {speed:.2f}x the tokens/s that it has "
                f'without them, {memory:.2f}x the memory; both sides above have them'
            )
            continue
        print(
            f'full depth written the plain way in {name}: forward {plain["forward"]:.4f} s, backward '
            f'{plain["backward"]:.4f} s, optimizer {plain["optimizer"]:.4f} s, '
            f'{plain["tok_per_sec"]:.0f} tok/s, peak {plain["memory"] / 1e9:.2f} GB: ours has {speed:.2f}x '
            f'its tokens/s, {memory:.2f}x its memory'
        )


def print_rows(rows: list[dict]):
    """The table. A column MFU only where the peak is known."""
    with_mfu = rows[0]['mfu'] is not None
    mfu = f' {"MFU":>6}' if with_mfu else ''
    print(
        f'{"row":>4} {"depth":>5} {"frozen":>6} {"embeddings":>12} {"forward s":>10} {"backward s":>10} '
        f'{"optim. s":>9} {"tok/s":>9} {"peak GB":>8} {"of matmul":>9}{mfu} {"predicted":>9} {"measured":>9}'
    )
    for row in rows:
        mfu = f' {row["mfu"]:>6.1%}' if with_mfu else ''
        print(
            f'{row["row"]:>4} {row["depth"]:>5} {row["n_frozen"]:>6} {row["embeddings"]:>12} '
            f'{row["forward"]:>10.4f} {row["backward"]:>10.4f} {row["optimizer"]:>9.4f} '
            f'{row["tok_per_sec"]:>9.0f} {row["memory"] / 1e9:>8.2f} {row["of_matmul"]:>9.1%}{mfu} '
            f'{row["predicted"]:>9.1%} {row["measured"]:>9.1%}'
        )


if __name__ == '__main__':
    run_main(main)
