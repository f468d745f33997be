"""
What a run says: its lines in metrics.jsonl, on the console and to a tracker, and the summary at its end.

`state` is train.py's: step, model, optimizers and the clock, seconds by name.
"""

import json
import math
import os
import re

import torch

import growth
import schedule
from config import TrainConfig, config_to_dict
from core.common import atomic_write
from core.device import device_name, peak_flops
from run.log import (
    MetricsWriter,
    Tracker,
    describe_start,
    new_run_info,
    read_metrics,
    read_run_json,
    write_run_json,
)


def identify_run(config: TrainConfig, runtime, run_data, questions: dict | None, step: int, prefix_dir: str):
    """(what run.json will say, the tracker that the config names or None) of a run that starts at `step`,
    perhaps on the steps of the run in `prefix_dir`. Raises UserError for a tracker that can't start. Nothing
    on all ranks but the first.
    """
    if runtime.rank != 0:
        return {}, None
    device_count = torch.cuda.device_count() if runtime.device.type == 'cuda' else 1
    cpu_capability = torch.backends.cpu.get_cpu_capability() if runtime.device.type == 'cpu' else None
    start = describe_start(step, device_name(runtime.device), device_count, runtime.world_size,
                           torch.version.cuda, cpu_capability)
    branch_from, init_from = None, None
    if prefix_dir:
        before = read_run_json(prefix_dir)
        # The cost of the shared steps, which the other run has paid.
        flops = schedule.compute(config, schedule.plan(config), 'flops', step)
        branch_from = {'path': prefix_dir, 'step': step, 'flops': flops, 'run_id': before.get('run_id')}
        init_from = before.get('init_from')
    # What dtype 'auto' was on this machine: seeds in other number formats are no further seeds.
    dtype = 'bfloat16' if isinstance(runtime.amp, torch.autocast) else 'float32'
    info = new_run_info(read_run_json(config.out_dir), start, data=run_data.fingerprint, dtype=dtype,
                        hellaswag_data=questions, init_from=init_from, branch_from=branch_from)
    if not config.tracker:
        return info, None
    group = re.sub(r'_seed\d+$', '', config.run_name)  # runs that differ in nothing but the seed
    tracker = Tracker(config.tracker, config.tracker_project, config.out_dir, config.run_name, group,
                      info['run_id'], config_to_dict(config))
    return info, tracker


class RunLog:
    """metrics.jsonl, run.json, the console and, where asked for, a tracker. On all ranks but the first it
    does nothing."""

    def __init__(self, config, phases: list, runtime, state, prefix_dir: str, info: dict, tracker):
        """Open the log of a run that goes on from `state`, perhaps on the steps of the run in `prefix_dir`.

        `info` and `tracker`: what identify_run() gave.
        """
        self.config, self.phases = config, phases
        self.total = schedule.total_steps(phases)
        self.path = os.path.join(config.out_dir, 'metrics.jsonl')
        self.window = (state.clock['seconds'], state.step)  # at the last line of training loss
        self.last_val_loss = (None, None)  # its step, the loss
        self.writer = None
        self.tracker = tracker
        # What all ranks' devices could do at best, where it is known: a GPU of the table.
        self.peak_flops = (peak_flops(runtime.device, config.dtype) or 0.0) * runtime.world_size
        if runtime.rank != 0:
            return
        # The line of training loss at this step may have been written before the checkpoint was.
        logs_step = state.step % config.log_interval == 0 or state.step == self.total
        prefix = os.path.join(prefix_dir, 'metrics.jsonl') if prefix_dir else ''
        self.writer = MetricsWriter(self.path, state.step, logs_step=logs_step, prefix=prefix)
        # Only now: a start that fails in the dry run leaves no trace in run.json.
        write_run_json(config.out_dir, info)
        with atomic_write(os.path.join(config.out_dir, 'config.json')) as f:
            json.dump(config_to_dict(config), f, indent=1)

    def say_start(self, state, runtime):
        """The first line: what is trained, how the work of a step is shared out."""
        if self.writer is None:
            return
        n_parameters = sum(p.numel() for p in state.model.parameters())
        resumed = f', resumed at step {state.step}' if state.step else ''
        print(f'{self.config.out_dir}: {n_parameters:,} parameters in {state.model.depth} layers, '
              f'{self.total} steps of {self.config.total_batch_size:,} tokens = {runtime.world_size} ranks x '
              f'{runtime.grad_accum_steps} micro-steps x {self.config.batch_size} sequences on '
              f'{runtime.device}{resumed}', flush=True)

    def record(self, kind: str, state, phase: schedule.Phase, **values):
        """One line of metrics.jsonl about the state."""
        # On all ranks: each must know whether the growth at this step needs an evaluation, which they share.
        if 'val_loss' in values:
            self.last_val_loss = (state.step, values['val_loss'])
        if self.writer is None:
            return
        record = {'kind': kind, 'step': state.step, 'tokens': state.step * self.config.total_batch_size}
        record['flops'] = schedule.compute(self.config, self.phases, 'flops', state.step)
        record['flops_paper'] = schedule.compute(self.config, self.phases, 'paper', state.step)
        for name, seconds in state.clock.items():
            record[name] = round(seconds, 3)
        record |= {'stage': phase.stage, 'phase': phase.phase, 'depth': state.model.depth, **values}
        self.writer.write(record)
        if kind == 'eval':
            shown = [name for name in ('val_loss', 'hellaswag_acc', 'hellaswag_acc_norm') if name in values]
            scores = ' | '.join(f'{name} {values[name]:.4f}' for name in shown)
            print(f'step {state.step:05d}/{self.total} eval | {scores}', flush=True)
        # After metrics.jsonl, which then has the record even if the tracker fails.
        if self.tracker:
            self.tracker.send(record)

    def val_loss_at(self, step: int) -> float | None:
        """The validation loss that was just recorded at `step`, None if the last one is older."""
        last_step, loss = self.last_val_loss
        return loss if last_step == step else None

    def enter_phase(self, state, phase: schedule.Phase, old_depth: int, values: dict):
        """A phase begins, or goes on after a resume."""
        # The speed on the next line should not mix two depths.
        self.window = (state.clock['seconds'], state.step)
        # After a resume within the phase its line is in the file already.
        if self.writer is None or state.step != phase.start:
            return
        self.record('phase', state, phase, **values)
        if old_depth < phase.depth:
            layers = ', then '.join(growth.describe(grown.layers) for grown in phase.growths)
            losses = f'{values["val_loss_before"]:.4f} -> {values["val_loss_after"]:.4f}'
            print(f'step {state.step:05d}/{self.total} growth | depth {old_depth} -> {phase.depth}: '
                  f'{layers} | val_loss {losses}', flush=True)

    def progress(self, state, phase: schedule.Phase, loss: float, lr: float, norm: float):
        """A line of training loss, here and on the console, with the speed since the last one."""
        since, from_step = self.window
        self.window = (state.clock['seconds'], state.step)
        if self.writer is None:
            return
        seconds = state.clock['seconds'] - since
        rate = (state.step - from_step) * self.config.total_batch_size / seconds
        # The steps to come may be deeper, and frozen layers cost less: speed and what is left are reckoned in
        # FLOPs.
        spent = schedule.compute(self.config, self.phases, 'flops', state.step)
        flops_per_second = (spent - schedule.compute(self.config, self.phases, 'flops', from_step)) / seconds
        speed = {'tok_per_sec': round(rate)}
        mfu = ''
        if self.peak_flops:
            speed['mfu'] = round(flops_per_second / self.peak_flops, 4)
            mfu = f'mfu {speed["mfu"]:.1%} | '
        self.record('train', state, phase, loss=loss, lr=lr, grad_norm=norm, **speed)
        # The time for training alone: evaluations and checkpoints come on top.
        eta = (schedule.compute(self.config, self.phases, 'flops') - spent) / flops_per_second
        phase_name = phase.phase.replace('phase', 'phase ')
        print(f'step {state.step:05d}/{self.total} ({100 * state.step // self.total}%) | '
              f'stage {phase.stage}/{self.config.n_stages} {phase_name} depth {phase.depth} '
              f'frozen {phase.n_frozen} | loss {loss:.4f} | lr {lr:.2e} | norm {norm:.2f} | '
              f'{rate / 1000:.1f}k tok/s | {mfu}'
              f'eta {int(eta // 3600)}h{int(eta % 3600 // 60):02d}m', flush=True)

    def close(self, state, stopped_by: int):
        """The last words: how to go on, or what each stage did."""
        if self.tracker:
            self.tracker.close()
        if self.writer is None:
            return
        self.writer.close()
        if stopped_by:
            print(f'stopped by a signal; saved at step {state.step}, go on with --resume', flush=True)
        else:
            print_summary(self.path)


def print_summary(path: str):
    """What each stage took and did, from the run's metrics.jsonl."""
    # From the file, which also knows the steps before a resume.
    records, _ = read_metrics(path)
    losses = []  # (step, loss) in order; at a growth the loss before it, then the one after it
    starts = []  # the phase lines at which a row begins
    for record in records:
        for name in ('val_loss', 'val_loss_before', 'val_loss_after'):
            if record.get(name) is not None:
                losses.append((record['step'], record[name]))
        if record['kind'] == 'phase' and (not starts or group_of(record) != group_of(starts[-1])):
            starts.append(record)
    print('  stage  depth   steps    tokens  minutes     FLOPs  loss in  loss out')
    # A row ends where the next one begins, the last one at the run's last record.
    for start, end in zip(starts, [*starts[1:], records[-1]]):
        # Where a growth was evaluated its losses count, else the last one that is known by then.
        first = start.get('val_loss_after', last_known(losses, start['step']))
        last = end.get('val_loss_before', last_known(losses, end['step']))
        name = 'continual' if start['phase'] == 'continual' else start['stage']
        steps, tokens, flops = (end[key] - start[key] for key in ('step', 'tokens', 'flops'))
        minutes = (end['seconds'] - start['seconds']) / 60
        print(f'{name:>7} {start["depth"]:>6} {steps:>7} {tokens:>9.3g} {minutes:>8.1f} {flops:>9.3g} '
              f'{first:>8.4f} {last:>9.4f}', flush=True)


def last_known(losses: list[tuple], step: int) -> float:
    """The last loss up to `step`, nan where there is none yet."""
    known = [loss for at, loss in losses if at <= step]
    return known[-1] if known else math.nan


def group_of(record: dict) -> tuple:
    """Phases 1 and 2 of a stage are one row of the summary, the continual phase is one of its own."""
    return record['stage'], record['phase'] == 'continual'
