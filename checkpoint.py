"""
Checkpoints: the one place that knows their format.

A checkpoint is a dict of plain types and tensors (read with weights_only=True, so that nothing in a file can run):

    format      1
    config      the TrainConfig, as a dict
    tokenizer   its name, for scoring and sampling
    depth       blocks that exist
    step        updates done
    model       the model's state dict, raw names
    optimizer   parameter name -> its moments ({} in the stage_NN.pt of a finished stage)
    totals      seconds spent so far: {'seconds': ..., 'eval_seconds': ..., 'checkpoint_seconds': ...}

ckpt_NNNNNN.pt is the state after NNNNNN updates; stage_NN.pt holds the weights at the end of stage NN.
"""

import glob
import os
import sys
import zipfile

import torch

from config import UserError
from model import GPT, GPTConfig

FORMAT = 1
KEYS = {'format', 'config', 'tokenizer', 'depth', 'step', 'model', 'optimizer', 'totals'}


def save(path: str, state: dict):
    """Write `state` to a temporary name, flush it to the disk, rename: whenever a kill comes, `path` is whole or not there.

    Raises UserError if the disk is full or not writable; what was there before stays.
    """
    assert state.keys() | {'format'} == KEYS
    try:
        with open(path + '.tmp', 'wb') as f:
            torch.save({'format': FORMAT, **state}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(path + '.tmp', path)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write in a RuntimeError
        if os.path.exists(path + '.tmp'):
            os.remove(path + '.tmp')
        raise UserError(f'{path} could not be saved ({error}); what was saved before is untouched') from None


def read(path: str) -> dict:
    """The checkpoint in a file, on the CPU. Raises UserError if it isn't one, is torn, or has a flipped bit."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch writes a CRC-32 for each tensor, but doesn't look at it when it reads
        if damaged is not None:
            raise UserError(f'{path}: damaged (checksum of {damaged} is wrong)')
        state = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in zipfile, pickle or torch
        raise UserError(f'{path}: not a whole checkpoint ({type(error).__name__})') from None
    if type(state) is not dict or state.keys() != KEYS or state['format'] != FORMAT:
        raise UserError(f'{path}: not a checkpoint of this project, or of another version')
    return state


def newest(run_dir: str) -> tuple[str, dict] | None:
    """(path, state) of the newest valid ckpt_*.pt in a run directory, None if there is none at all.

    A damaged one is skipped with a warning. Raises UserError if there are some and all are damaged.
    """
    paths = sorted(glob.glob(os.path.join(glob.escape(run_dir), 'ckpt_*.pt')), reverse=True)
    for path in paths:
        try:
            return path, read(path)
        except UserError as error:
            print(f'warning: {error}; trying the one before it', file=sys.stderr)
    if paths:
        raise UserError(f'{run_dir}: none of its {len(paths)} checkpoints can be read')
    return None


def keep_last(run_dir: str, n: int):
    """Remove all but the n newest ckpt_*.pt."""
    for path in sorted(glob.glob(os.path.join(glob.escape(run_dir), 'ckpt_*.pt')))[:-n]:
        os.remove(path)


def gpt_config(config: dict) -> GPTConfig:
    """The model's part of a run's settings."""
    return GPTConfig(**{k: config[k] for k in GPTConfig.__dataclass_fields__})


def load(path: str, device='cpu') -> tuple[GPT, dict]:
    """(model in eval mode on `device`, info) from a checkpoint file or a run directory (its newest valid checkpoint).

    info is the checkpoint without its tensors, and 'path'. Raises UserError if there is none or it is damaged.
    """
    if os.path.isdir(path):
        found = newest(path)
        if found is None:
            raise UserError(f'{path}: holds no checkpoint (ckpt_*.pt)')
        path, state = found
    else:
        state = read(path)
    model = GPT(gpt_config(state['config']), state['depth'])
    try:
        model.load_state_dict(state['model'])
    except RuntimeError:
        raise UserError(f"{path}: its weights don't fit the shape that its config gives") from None
    info = {k: v for k, v in state.items() if k not in ('model', 'optimizer')} | {'path': path}
    return model.to(device).eval(), info
