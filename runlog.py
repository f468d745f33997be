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
from common import atomic_write
from config import TrainConfig, config_to_dict
from device import device_name
from metrics import MetricsWriter, Tracker, describe_start, new_run_info, read_metrics, read_run_json, write_run_json


def identify_run(config: TrainConfig, runtime, run_data, questions: dict | None, step: int, prefix_dir: str):
    """(what run.json will say, the tracker that the config names or None) of a run that starts at `step`, perhaps on the
    steps of the run in `prefix_dir`. Raises UserError for a tracker that can't start. Nothing on all ranks but the first.
    """
    if runtime.rank != 0:
        return {}, None
    device_count = torch.cuda.device_count() if runtime.device.type == 'cuda' else 1
    start = describe_start(step, device_name(runtime.device), device_count, runtime.world_size, torch.version.cuda)
    branch_from, init_from = None, None
    if prefix_dir:
        before = read_run_json(prefix_dir)
        branch_from = {'path': prefix_dir, 'step': step, 'run_id': before.get('run_id')}
        init_from = before.get('init_from')
    info = new_run_info(read_run_json(config.out_dir), start, data=run_data.fingerprint, hellaswag_data=questions,
                        init_from=init_from, branch_from=branch_from)
    if not config.tracker:
        return info, None
    group = re.sub(r'_seed\d+$', '', config.run_name)  # runs that differ in nothing but the seed
    tracker = Tracker(config.tracker, config.tracker_project, config.out_dir, config.run_name, group, info['run_id'],
                      config_to_dict(config))
    return info, tracker


class RunLog:
    """metrics.jsonl, run.json, the console and, where asked for, a tracker. On all ranks but the first it does nothing."""

    def __init__(self, config: TrainConfig, phases: list, rank: int, state, prefix_dir: str, info: dict, tracker,
                 peak_flops: float | None = None):
        """`peak_flops`: FLOP/s of all ranks' devices at best, where it is known."""
        self.config, self.phases = config, phases
        self.total = schedule.total_steps(phases)
        self.path = os.path.join(config.out_dir, 'metrics.jsonl')
        self.window = (state.clock['seconds'], state.step)  # at the last line of training loss
        self.last_val_loss = (None, None)  # its step, the loss
        self.writer = None
        self.tracker = tracker
        self.peak_flops = peak_flops
        if rank != 0:
            return
        logs_step = state.step % config.log_interval == 0 or state.step == self.total
        prefix = os.path.join(prefix_dir, 'metrics.jsonl') if prefix_dir else ''
        self.writer = MetricsWriter(self.path, state.step, logs_step=logs_step, prefix=prefix)
        write_run_json(config.out_dir, info)
        with atomic_write(os.path.join(config.out_dir, 'config.json')) as f:
            json.dump(config_to_dict(config), f, indent=1)

    def say_start(self, state, runtime):
        """The first line: what is trained, how the work of a step is shared out."""
        if self.writer is None:
            return
        n_parameters = sum(p.numel() for p in state.model.parameters())
        resumed = f', resumed at step {state.step}' if state.step else ''
        print(f'{self.config.out_dir}: {n_parameters:,} parameters in {state.model.depth} layers, {self.total} steps of '
              f'{self.config.total_batch_size:,} tokens = {runtime.world_size} ranks x {runtime.grad_accum_steps} '
              f'micro-steps x {self.config.batch_size} sequences on {runtime.device}{resumed}', flush=True)

    def record(self, kind: str, state, phase: schedule.Phase, **values):
        """One line of metrics.jsonl about the state."""
        if 'val_loss' in values:
            self.last_val_loss = (state.step, values['val_loss'])
        if self.writer is None:
            return
        clock = {name: round(seconds, 3) for name, seconds in state.clock.items()}
        record = {'kind': kind, 'step': state.step, 'tokens': state.step * self.config.total_batch_size,
                  'flops': schedule.compute(self.config, self.phases, 'flops', state.step),
                  'flops_paper': schedule.compute(self.config, self.phases, 'paper', state.step), **clock,
                  'stage': phase.stage, 'phase': phase.phase, 'depth': state.model.depth, **values}
        self.writer.write(record)
        if kind == 'eval':
            scores = [f'{k} {values[k]:.4f}' for k in ('val_loss', 'hellaswag_acc', 'hellaswag_acc_norm') if k in values]
            print(f'step {state.step:05d}/{self.total} eval | {" | ".join(scores)}', flush=True)
        if self.tracker:
            self.tracker.send(record)

    def val_loss_at(self, step: int) -> float | None:
        """The validation loss that was just recorded at `step`, None if the last one is older."""
        last_step, loss = self.last_val_loss
        return loss if last_step == step else None

    def enter_phase(self, state, phase: schedule.Phase, old_depth: int, values: dict):
        """A phase begins, or goes on after a resume."""
        self.window = (state.clock['seconds'], state.step)
        if self.writer is None or state.step != phase.start:
            return
        self.record('phase', state, phase, **values)
        if old_depth < phase.depth:
            layers = ', then '.join(growth.describe(grown.layers) for grown in phase.growths)
            print(f'step {state.step:05d}/{self.total} growth | depth {old_depth} -> {phase.depth}: {layers} | val_loss '
                  f'{values["val_loss_before"]:.4f} -> {values["val_loss_after"]:.4f}', flush=True)

    def progress(self, state, phase: schedule.Phase, loss: float, lr: float, norm: float):
        """A line of training loss, here and on the console, with the speed since the last one."""
        since, from_step = self.window
        self.window = (state.clock['seconds'], state.step)
        if self.writer is None:
            return
        seconds = state.clock['seconds'] - since
        rate = (state.step - from_step) * self.config.total_batch_size / seconds
        # The steps to come may be deeper, and frozen layers cost less: speed and what is left are reckoned in FLOPs.
        spent = schedule.compute(self.config, self.phases, 'flops', state.step)
        flops_per_second = (spent - schedule.compute(self.config, self.phases, 'flops', from_step)) / seconds
        speed = {'tok_per_sec': round(rate)}
        mfu = ''
        if self.peak_flops:
            speed['mfu'] = round(flops_per_second / self.peak_flops, 4)
            mfu = f'mfu {speed["mfu"]:.1%} | '
        self.record('train', state, phase, loss=loss, lr=lr, grad_norm=norm, **speed)
        eta = (schedule.compute(self.config, self.phases, 'flops') - spent) / flops_per_second
        where = f'stage {phase.stage}/{self.config.n_stages} {phase.phase.replace("phase", "phase ")} ' \
                f'depth {phase.depth} frozen {phase.n_frozen}'
        print(f'step {state.step:05d}/{self.total} ({100 * state.step // self.total}%) | {where} | loss {loss:.4f} | '
              f'lr {lr:.2e} | norm {norm:.2f} | {rate / 1000:.1f}k tok/s | {mfu}'
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
    records, _ = read_metrics(path)
    losses = []  # (step, loss) in order; at a growth the loss before it, then the one after it
    for record in records:
        for name in ('val_loss', 'val_loss_before', 'val_loss_after'):
            if record.get(name) is not None:
                losses.append((record['step'], record[name]))
    starts = []
    for record in records:
        if record['kind'] == 'phase' and (not starts or group_of(record) != group_of(starts[-1])):
            starts.append(record)
    print('  stage  depth   steps    tokens  minutes     FLOPs  loss in  loss out')
    for start, end in zip(starts, [*starts[1:], records[-1]]):
        before = [loss for step, loss in losses if step <= start['step']]
        until_end = [loss for step, loss in losses if step <= end['step']]
        first = start.get('val_loss_after', before[-1] if before else math.nan)
        last = end.get('val_loss_before', until_end[-1] if until_end else math.nan)
        name = 'continual' if start['phase'] == 'continual' else start['stage']
        print(f'{name:>7} {start["depth"]:>6} {end["step"] - start["step"]:>7} {end["tokens"] - start["tokens"]:>9.3g} '
              f'{(end["seconds"] - start["seconds"]) / 60:>8.1f} {end["flops"] - start["flops"]:>9.3g} '
              f'{first:>8.4f} {last:>9.4f}', flush=True)


def group_of(record: dict) -> tuple:
    """Phases 1 and 2 of a stage are one row of the summary, the continual phase is one of its own."""
    return record['stage'], record['phase'] == 'continual'
