"""
What a run says about itself: metrics.jsonl, run.json, trackers. The one place that writes and reads them.

metrics.jsonl has one JSON object a line. All have kind ('train', 'eval', 'phase'), step, tokens, flops,
flops_paper, seconds of training, eval_seconds, checkpoint_seconds, stage, phase and depth. 'train' adds loss,
lr, grad_norm, tok_per_sec and, where the device's peak is known, mfu; 'eval' val_loss, val_tokens and
hellaswag_*; 'phase' n_frozen and, at a growth, the validation loss before and after it.

run.json says where the numbers come from: run_id, the data's fingerprint, what init_from and branch_from
were, and for each start of the run the command, code, versions and machine. The newest start's values stand
at the top level too.
"""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import shlex
import socket
import subprocess
import sys
import uuid

from core.common import UserError, atomic_write, read_json

COUNTERS = ('step', 'tokens', 'flops', 'flops_paper', 'seconds')


class MetricsWriter:
    """Appends to a run's metrics.jsonl. Rank 0 has one."""

    def __init__(self, path: str, step: int, logs_step: bool = True, prefix: str = ''):
        """Open the file of a run that goes on from `step`, less the lines that it will write again.

        `logs_step`: whether its training loss at `step` is due. `prefix`: the metrics.jsonl of the run that
        trained the steps so far, if it was another one.
        """
        source = prefix or path
        kept = lines_before(source, step, logs_step) if os.path.exists(source) else []
        # Replaced as a whole: a kill at this point loses no line.
        with atomic_write(path) as f:
            f.writelines(kept)
        # Without a buffer, so that a killed run leaves every line it wrote.
        self.file = open(path, 'ab', buffering=0)

    def write(self, record: dict):
        """Append one record, at once. Raises UserError if the disk is full."""
        text = (json.dumps(record) + '\n').encode()
        try:
            while text:  # a disk that gets full takes a part, then refuses
                text = text[self.file.write(text):]
        except OSError as error:
            raise UserError(f'{self.file.name} could not be written ({error.strerror}); the last checkpoint '
                            'is untouched: make room, then go on with --resume') from None

    def close(self):
        self.file.close()


def lines_before(path: str, step: int, logs_step: bool = True) -> list[str]:
    """The lines of metrics.jsonl that a run resumed at `step` won't write again: its evals and growth at
    `step` are still to come, its training line at `step` (if one is due there: `logs_step`) is not. Raises
    UserError for a line, other than a truncated last one, that is no record."""
    kept = []
    with open(path, encoding='utf-8', errors='replace') as f:
        lines = f.readlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            keep = record['step'] < step
            if record['step'] == step and record['kind'] == 'train':
                keep = logs_step
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines):
                break  # a kill in the middle of a write
            raise UserError(f'{path}, line {number}: not a line of metrics; move the file away to go on '
                            'without it') from None
        # Appending to a line without its line break would make one line of two records.
        if keep and line.endswith('\n'):
            kept.append(line)
    return kept


def has_last_eval(run_dir: str, total_steps: int) -> bool:
    """Whether a run's metrics.jsonl ends with the evaluation of its last step."""
    path = os.path.join(run_dir, 'metrics.jsonl')
    if not os.path.exists(path):
        return False
    with open(path, 'rb') as f:
        # What follows the last line break is not a whole line.
        last_line = f.read().rpartition(b'\n')[0].rpartition(b'\n')[2]
    record = parse_record(last_line)
    return record is not None and record['kind'] == 'eval' and record['step'] == total_steps


def read_metrics(path: str) -> tuple[list[dict], bool]:
    """(the records of a metrics.jsonl, whether a truncated line follows them). A file that isn't there yet
    has none.

    Raises UserError, naming file and line, for a line that is no record, and for steps or costs that run
    backwards.
    """
    if not os.path.exists(path):
        return [], False
    with open(path, 'rb') as f:
        lines = f.read().split(b'\n')
    if not lines[-1]:
        lines.pop()
        whole = len(lines)
    else:
        whole = len(lines) - 1  # no line break after the last one: cut off in the middle of a write, perhaps
    records = []
    for number, line in enumerate(lines, 1):
        where = f'{path}, line {number}'
        record = parse_record(line)
        if record is None:
            if number > whole:
                return records, True  # the run may still be writing it
            raise UserError(f'{where}: not a line of metrics (an object with kind and finite '
                            f'{", ".join(COUNTERS)}); repair or remove the line, or leave the run out')
        for k in COUNTERS:
            if records and record[k] < records[-1][k]:
                raise UserError(f'{where}: {k} goes back from {records[-1][k]} to {record[k]}; two runs in '
                                'one file?')
        # A step has at most a training line, an evaluation and a growth: its evaluation is among the last
        # three.
        evaluated = [r['step'] for r in records[-3:] if r['kind'] == 'eval']
        if record['kind'] == 'eval' and record['step'] in evaluated:
            raise UserError(f'{where}: step {record["step"]} is evaluated twice; two runs in one file?')
        records.append(record)
    return records, False


def parse_record(line: bytes) -> dict | None:
    """The record in a line of metrics.jsonl; None if it is none, or a number in it makes no sense."""
    try:
        record = json.loads(line)
        is_record = record['kind'] in ('train', 'eval', 'phase') and type(record['step']) is int
        numbers = [record[k] for k in COUNTERS]
        numbers += [record[k] for k in ('val_loss', 'hellaswag_acc_norm', 'hellaswag_n') if k in record]
        # json.loads() accepts NaN and Infinity, and True counts as an int: none is a measurement.
        is_record &= all(type(v) in (int, float) and math.isfinite(v) and v >= 0 for v in numbers)
        if record['kind'] == 'phase':
            is_record &= type(record['phase']) is str and type(record['depth']) is int
        if 'hellaswag_acc_norm' in record:
            is_record &= record['hellaswag_acc_norm'] <= 1 and record['hellaswag_n'] >= 1
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return record if is_record else None


# ------------------------------------------------------------------------------------------------------------
# run.json


def git_state(folder: str) -> tuple[str | None, bool | None]:
    """(commit, whether files differ from it) of the checkout that `folder` is in; (None, None) outside of
    one."""
    answers = []
    # Untracked files don't count: results and notes beside the code don't change it.
    for arguments in (['rev-parse', 'HEAD'], ['status', '--porcelain', '--untracked-files=no']):
        try:
            command = ['git', '-C', folder, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or a file system that hangs
            return None, None
        if done.returncode != 0:
            return None, None
        answers.append(done.stdout.strip())
    commit, changes = answers
    return commit, bool(changes)


def describe_start(step: int, device_name: str, device_count: int, world_size: int, cuda: str | None,
                   cpu_capability: str | None) -> dict:
    """Who starts this run here and now, at which step, with which code, on which machine. `cpu_capability`:
    the vector instructions that torch adds with, which decide a run's last bits on the CPU; None on a GPU."""
    commit, dirty = git_state(os.path.dirname(os.path.abspath(__file__)))
    versions = {'python': platform.python_version(), 'cuda': cuda}
    for package in ('torch', 'numpy'):
        versions[package] = importlib.metadata.version(package)
    return {
        'time': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'step': step,
        'command': shlex.join(sys.argv),
        'git_commit': commit,
        'git_dirty': dirty,
        'versions': versions,
        'host': socket.gethostname(),
        'device': device_name,
        'device_count': device_count,
        'cpu_capability': cpu_capability,
        'world_size': world_size,
    }


def new_run_info(before: dict, start: dict, **facts) -> dict:
    """The contents of run.json after one more start. `before`: what it said, {} for a new run; `facts`: data,
    init_from, ..., which stay as they were first written where they are None now."""
    # The id outlives a resume, so that a tracker continues the same curve.
    info = {'run_id': before.get('run_id') or uuid.uuid4().hex[:8]}
    info |= {name: value for name, value in start.items() if name not in ('time', 'step')}
    for name, value in facts.items():
        info[name] = before.get(name) if value is None else value
    info['starts'] = [*before.get('starts', []), start]
    return info


def write_run_json(run_dir: str, info: dict):
    with atomic_write(os.path.join(run_dir, 'run.json')) as f:
        json.dump(info, f, indent=1)


def read_run_json(run_dir: str) -> dict:
    """What run.json says; {} for a run that has none. Raises UserError if it can't be read."""
    path = os.path.join(run_dir, 'run.json')
    if not os.path.exists(path):
        return {}
    info = read_json(path, 'a readable run.json')
    if type(info) is not dict:
        raise UserError(f'{path}: not a readable run.json')
    return info


# ------------------------------------------------------------------------------------------------------------
# trackers


class Tracker:
    """Weights & Biases, TensorBoard or trackio, imported only when named.

    Every record is sent once, over kills and resumes: the place of the last one that was sent is kept in the
    run directory, and what a resumed run repeats is left out.
    """

    def __init__(self, kind, project: str, run_dir: str, name: str, group: str, run_id: str, settings: dict):
        """Start one. Raises UserError, saying why, if it isn't installed or can't be started."""
        self.path = os.path.join(run_dir, 'tracker.json')
        self.sent = []  # the step of the last record that was sent, and its place within the step
        if os.path.exists(self.path):
            self.sent = read_json(self.path, 'a tracker.json')['sent']
        start = getattr(self, f'start_{kind}')
        try:
            self.log_values, self.close = start(project, run_dir, name, group, run_id, settings)
        except ImportError:
            raise UserError(f'tracker is {kind!r}, which is not installed: pip install {kind}') from None
        except Exception as error:  # no login, a name it refuses, no network: whatever its client raises
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f'the tracker {kind} could not be started ({reason[0]}): mend that, or leave '
                            '--tracker out') from None

    def start_wandb(self, project, run_dir, name, group, run_id, settings):
        import wandb

        if not hasattr(wandb, 'init'):  # a folder called wandb, which Python takes for a package
            raise ImportError
        run = wandb.init(project=project, name=name, group=group, id=run_id, resume='allow', dir=run_dir,
                         config=settings)
        return lambda values, step: run.log(values, step=step), run.finish

    def start_tensorboard(self, project, run_dir, name, group, run_id, settings):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(os.path.join(run_dir, 'tensorboard'))

        def log_values(values, step):
            for key, value in values.items():
                if type(value) in (int, float):
                    writer.add_scalar(key, value, step)
            writer.flush()  # what is in memory when a kill comes would never be sent

        return log_values, writer.close

    def start_trackio(self, project, run_dir, name, group, run_id, settings):
        import trackio

        # trackio knows a run by its name: with the id in it a second run of the same name is another one.
        run = trackio.init(project=project, name=f'{name}-{run_id}', group=group, config=settings,
                           resume='allow')
        return lambda values, step: run.log(values, step=step), trackio.finish

    def send(self, record: dict):
        """One record of metrics.jsonl, unless it was sent before."""
        kind = record['kind']
        order = ('train', 'eval', 'phase').index(kind)  # in which records of one step are written
        place = [record['step'], order]
        if self.sent and place <= self.sent:
            return
        values = {f'{kind}/{name}': value for name, value in record.items() if name != 'kind'}
        self.log_values(values, record['step'])
        # Only after sending: a kill in between repeats one record, but loses none.
        self.sent = place
        with atomic_write(self.path) as f:
            json.dump({'sent': place}, f)
