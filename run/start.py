"""Where a run begins: at step 0, at its own newest checkpoint, or at another run's whose first steps are the
same."""

import os
import time

import torch.distributed as dist

import schedule
from config import FIELDS, TrainConfig, config_from_dict
from core import data
from core.common import UserError, atomic_write, numbered
from run import checkpoint
from run.log import read_run_json


def find_checkpoint(config: TrainConfig) -> tuple[dict | None, str]:
    """(the checkpoint to go on from or None to start at step 0, the run directory that it comes from if it's
    another's).

    Raises UserError where out_dir, `resume` and `branch_from` don't fit together.
    """
    found = None
    if config.resume:
        found = checkpoint.latest(config.out_dir)
    elif holds_run(config.out_dir):
        raise UserError(f'{config.out_dir} already holds a run: go on with --resume, or choose another '
                        '--out_dir')
    if found:
        return found[1], ''
    if config.resume == 'yes':
        raise UserError(f'{config.out_dir} holds no checkpoint to resume from; --resume=auto would start '
                        'from step 0')
    # Only without a checkpoint of its own: a branch that is resumed is past the step where it began.
    if config.branch_from:
        return find_prefix(config)
    return None, ''


def holds_run(out_dir: str) -> bool:
    """Whether a folder holds a run, or as little of one as a checkpoint that was copied there."""
    for name in ('config.json', 'metrics.jsonl'):
        if os.path.exists(os.path.join(out_dir, name)):
            return True
    return bool(checkpoint.numbered(out_dir) or numbered(out_dir, 'stage_', '.pt'))


def find_prefix(config: TrainConfig) -> tuple[dict, str]:
    """(the checkpoint that branch_from means, its run directory). Raises UserError if this run wouldn't get
    there."""
    path = config.branch_from
    run_dir = os.path.dirname(path) or '.'  # for a file in the current folder
    # A branch has a step of its own at least, and so an end of its own.
    last = schedule.total_steps(schedule.plan(config)) - 1
    if os.path.isdir(path):
        run_dir = path
        shared, difference = schedule.prefix_difference(schedule.load_run_config(path), config)
        # The newest one that both runs would have: it spares the most steps.
        found = checkpoint.latest(path, min(shared, last))
        if found is None:
            raise UserError(f'branch_from {path}: the two runs share only their first {shared} steps, and it '
                            f'holds no checkpoint of these; what differs, there and here: {difference}')
        path, saved = found
    else:
        saved = checkpoint.read_checkpoint(path)
    # A run may have been made longer since it saved this: the checkpoint knows the settings that led to it.
    there = schedule.resolve(config_from_dict(saved['config'], path))
    shared, difference = schedule.prefix_difference(there, config)
    if saved['step'] > min(shared, last):
        raise UserError(f'branch_from {path}: is at step {saved["step"]} of {last + 1}, and the two runs '
                        f'share only their first {shared} steps; what differs, there and here: {difference}')
    if not saved['optimizer']:
        raise UserError(f'branch_from {path}: holds no optimizer state, without which the run would not be '
                        'the same')
    if not os.path.isfile(os.path.join(run_dir, 'metrics.jsonl')):
        raise UserError(f'branch_from {path}: there is no metrics.jsonl beside it, with which that of this '
                        'run begins')
    return saved, run_dir


def check_shared_out_dir(out_dir: str, rank: int, world_size: int, saved: dict | None):
    """Raise UserError unless all ranks see the out_dir that rank 0 sees: another one on another node would
    come to light at the first resume, days later. No rank writes before all have looked."""
    mark = [None]
    if rank == 0:
        # Random, so that a mark left by an earlier start can't pass for this one's.
        mark = [os.urandom(8).hex()]
        with atomic_write(os.path.join(out_dir, '.lock_mark')) as f:
            f.write(mark[0])
    # The file is written by now, so that every rank that receives the mark can look for it.
    dist.broadcast_object_list(mark)
    is_shared = [None] * world_size
    # Every rank gets every answer, so that all raise together and none is left waiting.
    dist.all_gather_object(is_shared, sees_mark(out_dir, mark[0]))
    if not all(is_shared):
        raise UserError(f'rank {is_shared.index(False)} does not see the {out_dir} that rank 0 sees: out_dir '
                        'must be on a file system that all nodes share')
    # Even in a shared folder a node may have an old listing, and then an older checkpoint.
    steps = [None] * world_size
    dist.all_gather_object(steps, saved['step'] if saved else 0)
    if len(set(steps)) > 1:
        raise UserError(f'the ranks see different checkpoints in {out_dir} (steps {sorted(set(steps))}): '
                        'out_dir must be on a file system that all nodes share')


def sees_mark(out_dir: str, mark: str, patience: float = 30.0) -> bool:
    """Whether the mark that rank 0 left is here, at the latest after `patience` seconds: NFS shows a new file
    late."""
    deadline = time.monotonic() + patience
    path = os.path.join(out_dir, '.lock_mark')
    while True:
        if os.path.exists(path):
            # It may still be the mark of an earlier start.
            with open(path, encoding='utf-8') as f:
                if f.read() == mark:
                    return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)


def check_same_run(config: TrainConfig, saved: dict, total: int):
    """Refuse to go on from a checkpoint whose settings would have led elsewhere; says the old and the new
    values.

    Settings marked free (intervals, device, micro-batch, ...) may change. Under a constant learning rate a
    run may also be made longer or shorter: the steps so far are the same.
    """
    old = schedule.resolve(config_from_dict(saved['config'], config.out_dir))
    changed = []
    for name, field in FIELDS.items():
        if not field.metadata['free'] and getattr(old, name) != getattr(config, name):
            changed.append(name)
    # stage_fractions split the whole run, so that another length would move its growths.
    if config.lr_schedule == 'constant' and not config.stage_fractions and saved['step'] <= total:
        changed = [name for name in changed if name not in ('continual_steps', 'baseline_steps', 'ledger')]
    lines = [f'{name}: was {getattr(old, name)!r}, now {getattr(config, name)!r}' for name in changed]
    # The growth that begins at this very step is still to come: the phase before it tells the depth.
    planned = schedule.phase_at(schedule.plan(config), max(0, saved['step'] - 1)).depth
    if not changed and saved['depth'] != planned:
        lines.append(f'its checkpoint of step {saved["step"]} has {saved["depth"]} layers, the plan says '
                     f'{planned}')
    if lines:
        heading = f"{config.out_dir} was made with other settings, which can't change on resume:"
        raise UserError('\n  '.join([heading, *lines]))


def describe_changes(config: TrainConfig, saved: dict) -> list[str]:
    """What a resumed run does otherwise than before, though it may: its length, and how it is measured."""
    old = schedule.resolve(config_from_dict(saved['config'], config.out_dir))
    lines = []
    old_length = schedule.total_steps(schedule.plan(old))
    new_length = schedule.total_steps(schedule.plan(config))
    if old_length != new_length:
        lines.append(f'the run now has {new_length:,} steps, it had {old_length:,}')
    # These don't touch the training, but the curve of evaluations has a break there.
    for name in ('val_tokens', 'hellaswag_data', 'hellaswag_limit'):
        was, now = getattr(old, name), getattr(config, name)
        if was != now:
            lines.append(f'{name} is now {now!r}, it was {was!r}: evaluations before and after do not '
                         'compare')
    return lines


def prepare_out_dir(config: TrainConfig, saved: dict, rank: int):
    """Say what the resumed run does otherwise, and put out of its way what was saved after `saved`."""
    # One rank renames: a second one would no longer find the files.
    if rank != 0:
        return
    for line in describe_changes(config, saved):
        print(line)
    checkpoint.set_aside_later(config.out_dir, saved['step'])


def check_same_data(config: TrainConfig, saved: dict, run_dir: str, fingerprint: dict):
    """Refuse to go on from a checkpoint of `run_dir` that saw another data set: the steps so far would be
    other steps.

    data_dir may have moved: what counts is what run.json says of the data.
    """
    before = read_run_json(run_dir).get('data')
    if not before:  # a run from before there was a run.json
        before = saved['totals']
        fingerprint = {f'{split}_tokens': fingerprint[split]['tokens'] for split in ('train', 'val')}
    # Checksums too, since other tokens can come in files of the same size.
    for name, value in fingerprint.items():
        if before.get(name) != value:
            raise UserError(f'{config.data_dir}: {name} was {before.get(name)} when the checkpoint was '
                            f'saved, now {value}')


def load_initial_weights(model, config: TrainConfig):
    """Put the weights of init_from into the model, and return what they have cost until now, for run.json.

    Raises UserError if its shape isn't the config's, or its tokenizer not the data's.
    """
    source, info = checkpoint.load_model(config.init_from)
    shapes = [('depth', source.depth, config.init_depth)]
    for name in ('n_head', 'n_embd', 'block_size', 'vocab_size'):
        shapes.append((name, getattr(source.config, name), getattr(config, name)))
    # All differences in one message, so that one correction is enough.
    wrong = [f'{name} is {theirs}, the config says {ours}' for name, theirs, ours in shapes if theirs != ours]
    if wrong:
        raise UserError(f"init_from {config.init_from}: its {'; its '.join(wrong)}")
    # Of one vocabulary size or not: tokens of another tokenizer are other words than it has learned.
    tokenizer = data.read_meta(config.data_dir)['tokenizer']
    if info['tokenizer'] != tokenizer:
        raise UserError(f"init_from {config.init_from}: its tokenizer is {info['tokenizer']!r}, and the data "
                        f'in {config.data_dir} are in tokens of {tokenizer!r}')
    model.load_state_dict(source.state_dict())
    return schedule.sunk_cost(info)
