"""
What a run says: metrics.jsonl, run.json, the console, trackers. The one place that writes and reads them.

metrics.jsonl has one JSON object a line. All have kind ('train', 'eval', 'phase'), step, tokens, flops,
flops_paper, seconds of training, eval_seconds, checkpoint_seconds, stage, phase and depth. 'train' adds loss,
lr, grad_norm, tok_per_sec and, where the device's peak is known, mfu; 'eval' val_loss, val_loss_NAME of each
of val_dirs, val_tokens, and hellaswag_* with hellaswag_data, which tells the questions from others; 'phase'
n_frozen and, at a growth, the validation losses before and after it.

run.json says where the numbers come from: run_id, the data's fingerprint, what init_from and branch_from
were, and for each start of the run the command, code, versions and machine. The newest start's values stand
at the top level too. git_diff is what differed from the commit: base64 of zlib of `git diff HEAD`. Once the
run is over, `ended` says how, 'done', 'stopped' (by a signal) or 'diverged' (a loss that isn't finite), and
`ended_step` at which step.
"""

import base64
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import uuid
import zlib

import growth
import schedule
from config import config_to_dict
from core.common import UserError, atomic_write, read_json, say, table
from core.data import TOKENIZER_FILES

COUNTERS = ('step', 'tokens', 'flops', 'flops_paper', 'seconds')
LARGEST_DIFF = 2**20  # bytes in run.json
MEASURED = ('loss', 'lr', 'grad_norm', 'tok_per_sec', 'mfu', 'depth')  # what a tracker gets, beside evals

class RunLog:
    """metrics.jsonl, run.json, the console and, where asked for, a tracker. On all ranks but the first it
    writes nothing.

    `job` and `state` are run/start.py's.
    """

    def __init__(self, job, step: int, prefix_dir: str):
        """Of a run that starts at `step`, perhaps on the steps of the run in `prefix_dir`. Writes nothing
        yet. Raises UserError for a tracker that can't start."""
        self.job, self.prefix_dir = job, prefix_dir
        self.path = os.path.join(job.config.out_dir, 'metrics.jsonl')
        self.last_losses = {}  # the validation losses of the last evaluation, by its step
        self.file = self.tracker = None
        from core.device import peak_flops  # here: compare.py reads logs without waiting for torch

        # What all ranks' devices could do at best, where it is known: a GPU of the table.
        self.peak_flops = (peak_flops(job.device, job.config.dtype) or 0.0) * job.world_size
        if job.rank == 0:
            self.info = identify_run(job, step, prefix_dir)
            if job.config.tracker:
                self.tracker = Tracker(job.config, self.info['run_id'])

    def open(self, state):
        """Open the files, of a run that goes on from `state`, less the lines that it will write again."""
        self.window = (state.clock['seconds'], state.step)  # at the last line of training loss
        if self.job.rank != 0:
            return
        config, total = self.job.config, self.job.plan.total_steps
        records, _ = read_metrics(os.path.join(self.prefix_dir or config.out_dir, 'metrics.jsonl'))
        # Its evals and growth at this step are still to come, its training line (if one is due) is not.
        is_due = state.step % config.log_interval == 0 or state.step == total
        first_lost = state.step + is_due
        kept = [r for r in records if r['step'] < (first_lost if r['kind'] == 'train' else state.step)]
        # Replaced as a whole: a kill at this point loses no line.
        with atomic_write(self.path) as f:
            f.writelines(json.dumps(record) + '\n' for record in kept)
        # Without a buffer, so that a killed run leaves every line it wrote.
        self.file = open(self.path, 'ab', buffering=0)
        # Only now: a start that fails in the dry run leaves no trace in run.json.
        if state.step == 0:
            self.info['init_from'] = state.init_from
        write_json(os.path.join(config.out_dir, 'run.json'), self.info)
        write_json(os.path.join(config.out_dir, 'config.json'), config_to_dict(config))
        if self.job.tokenizer.startswith('sha256:'):  # what scores and samples looks beside the checkpoint
            for name in TOKENIZER_FILES:
                if os.path.exists(os.path.join(config.data_dir, name)):
                    shutil.copy(os.path.join(config.data_dir, name), config.out_dir)
        if self.tracker:  # what it lacks: a branched run's first steps, a kill's last ones
            for record in kept:
                self.tracker.send(record)
        n_parameters = sum(p.numel() for p in state.model.parameters())
        resumed = f', resumed at step {state.step}' if state.step else ''
        say(f'{config.out_dir}: {n_parameters:,} parameters in {state.model.depth} layers, {total} steps of '
            f'{config.total_batch_size:,} tokens = {self.job.world_size} ranks x {self.job.grad_accum_steps} '
            f'micro-steps x {config.batch_size} sequences on {self.job.device}{resumed}')

    def record(self, kind: str, state, phase: schedule.Phase, **values):
        """One line of metrics.jsonl about the state, at once. Raises UserError if the disk is full."""
        # On all ranks: each must know whether the growth at this step needs an evaluation, which they share.
        if 'val_loss' in values:
            self.last_losses = {state.step: {name: values[name] for name in self.job.val_sets}}
        if self.file is None:
            return
        record = {'kind': kind, 'step': state.step, 'tokens': state.step * self.job.config.total_batch_size}
        record['flops'] = self.job.plan.flops(state.step)
        record['flops_paper'] = self.job.plan.flops(state.step, 'paper')
        for name, seconds in state.clock.items():
            record[name] = round(seconds, 3)
        record |= {'stage': phase.stage, 'phase': phase.phase, 'depth': state.model.depth, **values}
        text = (json.dumps(record) + '\n').encode()
        try:
            while text:  # a disk that gets full takes a part, then refuses
                text = text[self.file.write(text):]
        except OSError as error:
            raise UserError(f'{self.path} could not be written ({error.strerror}); the last checkpoint is '
                            'untouched: make room, then go on with --resume') from None
        if kind == 'eval':
            shown = [*self.job.val_sets, 'hellaswag_acc', 'hellaswag_acc_norm']
            scores = ' | '.join(f'{name} {values[name]:.4f}' for name in shown if name in values)
            say(f'step {state.step:05d}/{self.job.plan.total_steps} eval | {scores}')
        # After metrics.jsonl, which then has the record even if the tracker fails.
        if self.tracker:
            self.tracker.send(record)

    def enter_phase(self, state, phase: schedule.Phase, old_depth: int, values: dict):
        """A phase begins, or goes on after a resume."""
        # The speed on the next line should not mix two depths.
        self.window = (state.clock['seconds'], state.step)
        # After a resume within the phase its line is in the file already.
        if state.step != phase.start:
            return
        self.record('phase', state, phase, **values)
        if old_depth < phase.depth:
            layers = ', then '.join(growth.describe(grown.layers) for grown in phase.growths)
            losses = f'{values["val_loss_before"]:.4f} -> {values["val_loss_after"]:.4f}'
            say(f'step {state.step:05d}/{self.job.plan.total_steps} growth | depth {old_depth} -> '
                f'{phase.depth}: {layers} | val_loss {losses}')

    def progress(self, state, phase: schedule.Phase, loss: float, lr: float, norm: float):
        """A line of training loss, here and on the console, with the speed since the last one."""
        plan, config = self.job.plan, self.job.config
        since, from_step = self.window
        self.window = (state.clock['seconds'], state.step)
        seconds = state.clock['seconds'] - since
        rate = (state.step - from_step) * config.total_batch_size / seconds
        # The steps to come may be deeper, and frozen layers cost less: speed and what is left are reckoned in
        # FLOPs.
        spent = plan.flops(state.step)
        flops_per_second = (spent - plan.flops(from_step)) / seconds
        speed = {'tok_per_sec': round(rate)}
        mfu = ''
        if self.peak_flops:
            speed['mfu'] = round(flops_per_second / self.peak_flops, 4)
            mfu = f'mfu {speed["mfu"]:.1%} | '
        self.record('train', state, phase, loss=loss, lr=lr, grad_norm=norm, **speed)
        # The time for training alone: evaluations and checkpoints come on top.
        eta = (plan.flops() - spent) / flops_per_second
        total, name = plan.total_steps, phase.phase.replace('phase', 'phase ')
        say(f'step {state.step:05d}/{total} ({100 * state.step // total}%) | stage {phase.stage}/'
            f'{config.n_stages} {name} depth {phase.depth} frozen {phase.n_frozen} | loss {loss:.4f} | '
            f'lr {lr:.2e} | norm {norm:.2f} | {rate / 1000:.1f}k tok/s | {mfu}'
            f'eta {int(eta // 3600)}h{int(eta % 3600 // 60):02d}m')

    def close(self, state, ended: str):
        """The run is over: 'done', 'stopped' or 'diverged'. Says how to go on, or what each stage did."""
        if self.tracker:
            self.tracker.close()
        if self.file is None:
            return
        self.file.close()
        info = self.info | {'ended': ended, 'ended_step': state.step}
        write_json(os.path.join(self.job.config.out_dir, 'run.json'), info)
        if ended == 'stopped':
            say(f'stopped by a signal; saved at step {state.step}, go on with --resume')
        elif ended == 'done':
            say(summary(self.path))

def summary(path: str) -> str:
    """What each stage took and did, from the run's metrics.jsonl, as a table."""
    # From the file, which also knows the steps before a resume.
    records, _ = read_metrics(path)
    rows = []  # [the phase line at its start, loss in, the line at its end, loss out]
    loss = math.nan
    for record in records:
        before = record.get('val_loss_before', record.get('val_loss', loss))
        if rows:
            rows[-1][2:] = record, before
        loss = record.get('val_loss_after', before)
        if record['kind'] == 'phase' and (not rows or group_of(record) != group_of(rows[-1][0])):
            rows.append([record, loss, record, loss])
    lines = []
    for start, loss_in, end, loss_out in rows:
        name = 'continual' if start['phase'] == 'continual' else start['stage']
        steps, tokens, flops = (end[key] - start[key] for key in ('step', 'tokens', 'flops'))
        minutes = (end['seconds'] - start['seconds']) / 60
        lines.append([name, start['depth'], steps, f'{tokens:.3g}', f'{minutes:.1f}', f'{flops:.3g}',
                      f'{loss_in:.4f}', f'{loss_out:.4f}'])
    header = ['stage', 'depth', 'steps', 'tokens', 'minutes', 'FLOPs', 'loss in', 'loss out']
    return table(header, lines, 'r' * len(header))

def group_of(record: dict) -> tuple:
    """Phases 1 and 2 of a stage are one row of the summary, the continual phase is one of its own."""
    return record['stage'], record['phase'] == 'continual'

# ------------------------------------------------------------------------------------------------------------
# metrics.jsonl

def read_metrics(path: str) -> tuple[list[dict], bool]:
    """(the records of a metrics.jsonl, whether a truncated line follows them). A file that isn't there yet
    has none.

    Raises UserError, naming file and line, for a line that is no record, and for steps or costs that run
    backwards.
    """
    if not os.path.exists(path):
        return [], False
    with open(path, 'rb') as f:
        *lines, rest = f.read().split(b'\n')
    if parse_record(rest):  # whole, but for its line break
        lines.append(rest)
        rest = b''  # else it was cut off in the middle of a write, or is still written
    records = []
    for number, line in enumerate(lines, 1):
        record = parse_record(line)
        if record is None:
            raise UserError(f'{path}, line {number}: not a line of metrics (an object with kind and finite '
                            f'{", ".join(COUNTERS)}); repair or remove the line, or leave the run out')
        # A step has at most a training line, an evaluation and a growth: its evaluation is among the last
        # three.
        evaluated = [r['step'] for r in records[-3:] if r['kind'] == 'eval']
        wrong = [name for name in COUNTERS if records and record[name] < records[-1][name]]
        if record['kind'] == 'eval' and record['step'] in evaluated:
            wrong.append('eval')
        if wrong:
            raise UserError(f"{path}, line {number}: its {wrong[0]} can't follow the lines before it; two "
                            'runs in one file?')
        records.append(record)
    return records, bool(rest)

def last_record(run_dir: str) -> dict | None:
    """The last whole line of a run's metrics.jsonl; None if there is none. Reads the file's end alone."""
    path = os.path.join(run_dir, 'metrics.jsonl')
    if not os.path.exists(path):
        return None
    with open(path, 'rb') as f:
        f.seek(max(0, os.path.getsize(path) - 2**16))
        whole = f.read().rpartition(b'\n')[0]
    return parse_record(whole.rpartition(b'\n')[2])

def has_last_eval(run_dir: str, total_steps: int) -> bool:
    """Whether a run's metrics.jsonl ends with the evaluation of its last step."""
    record = last_record(run_dir)
    return record is not None and record['kind'] == 'eval' and record['step'] == total_steps

def parse_record(line: bytes) -> dict | None:
    """The record in a line of metrics.jsonl; None if it is none, or a number in it makes no sense."""
    try:
        record = json.loads(line)
        is_record = record['kind'] in ('train', 'eval', 'phase') and type(record['step']) is int
        numbers = [record[k] for k in COUNTERS]
        numbers += [record[k] for k in record if k.startswith('val_loss')]
        numbers += [record[k] for k in ('hellaswag_acc_norm', 'hellaswag_n') if k in record]
        # json.loads() accepts NaN and Infinity, and True counts as an int: none is a measurement.
        is_record &= all(type(v) in (int, float) and math.isfinite(v) and v >= 0 for v in numbers)
        if record['kind'] == 'phase':
            is_record &= type(record['phase']) is str and type(record['depth']) is int
        if 'hellaswag_acc_norm' in record:
            is_record &= record['hellaswag_acc_norm'] <= 1 and record['hellaswag_n'] >= 1
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return record if is_record else None

# ------------------------------------------------------------------------------------------------------------
# run.json

def identify_run(job, step: int, prefix_dir: str) -> dict:
    """What run.json will say of a run that starts here and now at `step`, perhaps on the steps of the run in
    `prefix_dir`."""
    import torch

    from core.device import device_name

    commit, dirty, diff = git_state(os.path.dirname(os.path.abspath(__file__)))
    versions = {'python': platform.python_version(), 'cuda': torch.version.cuda}
    for package in ('torch', 'numpy'):
        versions[package] = importlib.metadata.version(package)
    on_gpu, on_cpu = job.device.type == 'cuda', job.device.type == 'cpu'
    start = {
        'command': shlex.join(sys.argv),
        'git_commit': commit,
        'git_dirty': dirty,
        'git_diff': diff,
        'versions': versions,
        'host': socket.gethostname(),
        'device': device_name(job.device),
        'device_count': torch.cuda.device_count() if on_gpu else 1,
        # The vector instructions that torch adds with, which decide a run's last bits on the CPU.
        'cpu_capability': torch.backends.cpu.get_cpu_capability() if on_cpu else None,
        'world_size': job.world_size,
    }
    before = read_run_json(job.config.out_dir) if step and not prefix_dir else {}
    info = {'run_id': before.get('run_id') or uuid.uuid4().hex[:8]}  # a tracker continues the same curve
    info |= start | {'data': job.fingerprint}
    # What dtype 'auto' was on this machine: seeds in other number formats are no further seeds.
    info['dtype'] = 'bfloat16' if isinstance(job.amp, torch.autocast) else 'float32'
    info['hellaswag_data'] = job.questions or before.get('hellaswag_data')
    info['init_from'], info['branch_from'] = before.get('init_from'), before.get('branch_from')
    if prefix_dir:
        there = read_run_json(prefix_dir)
        # With the cost of the shared steps, which the other run has paid.
        info['branch_from'] = {'path': prefix_dir, 'step': step, 'flops': job.plan.flops(step),
                               'run_id': there.get('run_id')}
        info['init_from'] = there.get('init_from')
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
    info['starts'] = [*before.get('starts', []), {'time': now, 'step': step} | start]
    return info

def git_state(folder: str) -> tuple[str | None, bool | None, str | None]:
    """(commit, whether files differ from it, the difference) of the checkout that `folder` is in; (None,
    None, None) outside of one. A difference of over LARGEST_DIFF is None."""
    git = ['git', '-C', folder]
    quiet = {'stderr': subprocess.DEVNULL, 'timeout': 30}  # seconds, on a file system that hangs
    try:
        commit = subprocess.check_output([*git, 'rev-parse', 'HEAD'], text=True, **quiet)
        # Untracked files don't count: results and notes beside the code don't change it.
        diff = subprocess.check_output([*git, 'diff', 'HEAD', '--binary'], **quiet)
    except (OSError, subprocess.SubprocessError):  # no git here, or no checkout
        return None, None, None
    packed = base64.b64encode(zlib.compress(diff, 9)).decode()
    return commit.strip(), bool(diff), packed if diff and len(packed) <= LARGEST_DIFF else None

def write_json(path: str, values: dict):
    with atomic_write(path) as f:
        json.dump(values, f, indent=1)

def read_run_json(run_dir: str) -> dict:
    """What run.json says; {} for a run that has none. Raises UserError if it can't be read."""
    path = os.path.join(run_dir, 'run.json')
    return read_json(path, 'a readable run.json') if os.path.exists(path) else {}

# ------------------------------------------------------------------------------------------------------------
# trackers

class Tracker:
    """Weights & Biases, TensorBoard or trackio, imported only when named.

    Every record is sent once, over kills and resumes: the place of the last one that was sent is kept in the
    run directory, and what a resumed run repeats is left out. The x axis is the step, tokens or flops; in
    TensorBoard, which knows steps alone, each validation loss has a second and third curve.
    """

    def __init__(self, config, run_id: str):
        """Start one. Raises UserError, saying why, if it isn't installed or can't be started."""
        self.config, self.kind = config, config.tracker
        self.path = os.path.join(config.out_dir, 'tracker.json')
        self.sent = []  # the step of the last record that was sent, and its place within the step
        if os.path.exists(self.path):
            kept = read_json(self.path, 'a tracker.json; without it all lines are sent again')
            self.sent = kept.get('sent', [])
        # Runs that differ in nothing but the seed are a group.
        self.settings = {'project': config.tracker_project, 'config': config_to_dict(config),
                         'group': re.sub(r'_seed\d+$', '', config.run_name), 'resume': 'allow'}
        try:
            getattr(self, f'start_{self.kind}')(run_id)
        except Exception as error:  # not installed, no login, a name it refuses: whatever its client raises
            reason = str(error).partition('\n')[0] or type(error).__name__
            raise UserError(f'the tracker {self.kind} could not be started ({reason}): install it '
                            f'(pip install {self.kind}), mend that, or leave --tracker out') from None

    def start_wandb(self, run_id: str):
        import wandb

        run = wandb.init(name=self.config.run_name, id=run_id, dir=self.config.out_dir, **self.settings)
        for axis in ('tokens', 'flops'):
            run.define_metric(axis)
        run.define_metric('eval/*', step_metric='flops')
        self.log_values, self.close = run.log, run.finish

    def start_tensorboard(self, run_id: str):
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        writer = SummaryWriter(os.path.join(self.config.out_dir, 'tensorboard'))
        settings = {name: str(value) for name, value in self.settings['config'].items()}
        for part in hparams(settings, {'eval/val_loss': 0}):
            writer.file_writer.add_summary(part)
        say(f'to see it: tensorboard --logdir {os.path.dirname(self.config.out_dir) or "."}')

        def log_values(values, step):
            axes = {'_by_tokens': values.pop('tokens'), '_by_GFLOPs': values.pop('flops') / 1e9}
            for key, value in values.items():
                writer.add_scalar(key, value, step)
                for suffix, x in axes.items() if key.startswith('eval/val_loss') else ():
                    writer.add_scalar(key + suffix, value, int(x))
            writer.flush()  # what is in memory when a kill comes would never be sent

        self.log_values, self.close = log_values, writer.close

    def start_trackio(self, run_id: str):
        import trackio

        # trackio knows a run by its name: with the id in it a second run of the same name is another one.
        run = trackio.init(name=f'{self.config.run_name}-{run_id}', **self.settings)
        self.log_values, self.close = run.log, trackio.finish

    def send(self, record: dict):
        """One record of metrics.jsonl, less its bookkeeping, unless it was sent before."""
        kind = record['kind']
        place = [record['step'], ('train', 'eval', 'phase').index(kind)]  # as they are written within a step
        if place <= self.sent:
            return
        values = {'tokens': record['tokens'], 'flops': record['flops']}
        for name, value in record.items():
            is_measured = name.startswith(('val_loss', 'hellaswag_')) or name in MEASURED
            if is_measured and type(value) in (int, float):
                values[f'{kind}/{name}'] = value
        self.log_values(values, record['step'])
        # Only after sending: a kill in between repeats one record, but loses none.
        self.sent = place
        write_json(self.path, {'sent': place})
