"""
Checkpoints: the one place that knows their format.

A checkpoint is a dict of plain types and tensors, read with weights_only=True, so that nothing in it can run:

    format      1
    config      the TrainConfig, as a dict
    tokenizer   its name, as core/data.py has it, for scoring and sampling
    depth       blocks that exist
    step        updates done
    model       the model's state dict, raw names
    optimizer   parameter name -> its moments ({} in the stage_NN.pt of a finished stage)
    totals      seconds spent so far: {'seconds': ..., 'eval_seconds': ..., 'checkpoint_seconds': ...}

ckpt_NNNNNN.pt is the state after NNNNNN updates; stage_NN.pt holds the weights at the end of stage NN.

load_model() also reads Hugging Face's folders, and published weights from the Hub by name.
"""

import errno
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import torch

from core import common, data
from core.common import UserError, atomic_write, say
from model import GPT, GPTConfig
from run.hugging_face import download, hugging_face_config, is_hub_name, read_hugging_face
from run.log import read_run_json

FORMAT = 1
KEYS = {'format': int, 'config': dict, 'tokenizer': str, 'depth': int, 'step': int, 'model': dict,
        'optimizer': dict, 'totals': dict}
# Rows of the embedding beyond the tokenizer's: 128 times 8 ranks, as Megatron rounds up.
LARGEST_PADDING = 1024

def save_checkpoint(path: str, state: dict):
    """Write `state` to a temporary name, flush it to the disk, rename: whenever a kill comes, `path` is whole
    or not there.

    Raises UserError if the disk is full or not writable; what was there before stays.
    """
    # A missing key would otherwise show only at the resume, where the file is refused.
    assert state.keys() | {'format'} == KEYS.keys()
    with atomic_write(path, 'wb') as f:
        torch.save({'format': FORMAT, **state}, f)

class CheckpointWriter:
    """Writes the checkpoints of a run on `device`. From a GPU by a thread: training stops for the copy to
    host memory, not for the disk.

    On the CPU save() itself writes: a copy would hold 12 bytes a parameter, a third of what a run at full
    depth needs. The thread writes one checkpoint at a time: the next save waits for the one before. What goes
    wrong in it is raised in the run, once, by the next call of any method. As a context the writer leaves
    when the thread is done, whatever happened.
    """

    def __init__(self, device: torch.device):
        self.in_host_memory = device.type == 'cpu'
        self.thread = ThreadPoolExecutor(1)  # the process doesn't end before the file is written
        self.writing = None  # the Future of the last save
        self.held = None  # the copy of save_nowhere()

    def save(self, files: dict, run_dir: str, keep_last: int, keep_steps: tuple = ()):
        """Write the states in `files` (path -> state) in this order, copied if need be, and prune run_dir."""
        def write(files):
            for path, state in files.items():
                save_checkpoint(path, state)
            # After the writing: a save that fails must leave the old checkpoints.
            prune(run_dir, max(state['step'] for state in files.values()), keep_last, keep_steps)

        self.start(write, files)

    def save_nowhere(self, state: dict):
        """Whatever save() takes of memory and time, but for the disk. A copy is there until wait(): a disk
        may take so long."""
        def write(state):
            with open(os.devnull, 'wb') as f:
                torch.save(state, f)

        self.held = self.start(write, state)

    def start(self, write, states: dict) -> dict:
        """Call write(states), on the CPU now, since the next step changes them. Returns what is written."""
        self.wait()
        if self.in_host_memory:
            write(states)
            return states
        copied = copy_to_host(states)
        self.writing = self.thread.submit(write, copied)
        return copied

    def check(self):
        """Raise what went wrong in the thread, if something did."""
        if self.writing is not None and self.writing.done():
            self.wait()

    def wait(self):
        """Wait until what was to be saved is on the disk."""
        writing = self.writing
        self.writing = self.held = None  # so that an error isn't raised again on the way out
        if writing is not None:
            writing.result()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.thread.shutdown()  # waits
        if error is None:  # an error of the thread would hide the run's own
            self.wait()

def copy_to_host(state: dict) -> dict:
    """A copy of nested dicts whose tensors are copied to host memory, from a GPU with one wait for all.

    Each tensor is copied once: a stage's weights are also in the checkpoint of the same step.
    """
    copies = {}

    def copy(value):
        if isinstance(value, dict):
            return {name: copy(inner) for name, inner in value.items()}
        if not isinstance(value, torch.Tensor):
            return value
        key = (value.data_ptr(), value.shape, value.dtype)
        if key not in copies:
            # Into pinned memory, else each copy would wait for the GPU. The allocator keeps it for the next.
            host = torch.empty_like(value, device='cpu', pin_memory=value.is_cuda)
            copies[key] = host.copy_(value.detach(), non_blocking=value.is_cuda)
        return copies[key]

    copied = copy(state)
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
    return copied

def read_checkpoint(path: str) -> dict:
    """The checkpoint in a file, on the CPU. Raises UserError if it isn't one, is torn, or has a flipped bit;
    OSError if the system can't read it, which says nothing about the checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch writes a CRC-32 for each tensor, but doesn't look at it when it reads.
            is_damaged = archive.testzip() is not None
            # It never compresses, and maps what another program has compressed as it stands there.
            if is_damaged or any(member.compress_type for member in archive.infolist()):
                raise zipfile.BadZipFile
        state = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except Exception as error:  # a damaged file can fail anywhere in zipfile, pickle or torch
        # EINVAL comes of a damaged file, too: a place before its beginning.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            error.filename = path
            raise
        raise UserError(f'{path}: damaged, or not a checkpoint ({type(error).__name__})') from None
    is_ours = type(state) is dict and state.keys() == KEYS.keys() and state['format'] == FORMAT
    # The right keys say nothing about the values, on which all readers rely.
    is_ours = is_ours and all(isinstance(state[name], kind) for name, kind in KEYS.items())
    # a layer has more than one tensor
    if not is_ours or not 0 <= state['depth'] <= len(state['model']) or state['step'] < 0:
        raise UserError(f'{path}: not a checkpoint of this project, or of another version')
    return state

def numbered(run_dir: str) -> list[tuple[int, str]]:
    """(step, path) of each ckpt_NNNNNN.pt in a run directory, by step. Files with other names aren't ours."""
    return common.numbered(run_dir, 'ckpt_', '.pt')

def latest(run_dir: str, at_most: int | None = None) -> tuple[str, dict] | None:
    """(path, state) of the newest valid ckpt_NNNNNN.pt in a run directory, None if there is none at all.

    With `at_most` only the checkpoints up to that step count. A damaged one is skipped with a warning. Raises
    UserError if there are some and all are damaged.
    """
    paths = [path for step, path in numbered(run_dir) if at_most is None or step <= at_most]
    # The newest first; older ones, gigabytes each, are read only if it is damaged.
    for path in reversed(paths):
        try:
            return path, read_checkpoint(path)
        except UserError as error:
            print(f'warning: {error}; trying the one before it', file=sys.stderr)
    if paths:
        raise UserError(f'{run_dir}: none of its {len(paths)} checkpoints can be read')
    return None

def prune(run_dir: str, step: int, n: int, keep: tuple = ()):
    """Of the checkpoints up to `step`, just saved, remove all but the n >= 1 newest and those of the steps in
    `keep`, and what killed saves have left over.

    Those after it were skipped as damaged when the run went on from one before: the run writes them again.
    """
    # The run's only writer calls this between its saves, so a .tmp file is what a kill left.
    for prefix in ('ckpt_', 'stage_'):
        for _, path in common.numbered(run_dir, prefix, '.pt.tmp'):
            os.remove(path)
    paths = [path for number, path in numbered(run_dir) if number <= step and number not in keep]
    for path in paths[:-n]:
        os.remove(path)

def gpt_config(config: dict, weights=()) -> GPTConfig:
    """The model's part of a run's settings, and what only the names of its weights say."""
    # A run from before there was another arch has no more than GPT-2's settings.
    shape = {name: config[name] for name in GPTConfig.__dataclass_fields__ if name in config}
    if type(shape.get('rope_theta')) is list:  # as JSON has it
        shape['rope_theta'] = tuple(shape['rope_theta'])
    if shape.get('arch') == 'llama':
        shape['qkv_bias'] = any(name.endswith('.attn.c_attn.bias') for name in weights)
        shape['qk_norm'] = any(name.endswith('.attn.q_norm.weight') for name in weights)
    return GPTConfig(**shape)

def build_model(state: dict, where: str) -> GPT:
    """The model that a checkpoint's state holds. Raises UserError, naming `where`, if its weights aren't of
    its shape."""
    try:
        shape = gpt_config(state['config'], state['model'])
        # What shows in no weight's shape.
        if shape.n_head < 1 or (shape.arch == 'gpt2' and shape.n_embd % shape.n_head):
            raise ValueError(shape.n_head)
        with torch.device('meta'):  # nothing is drawn that the weights replace
            model = GPT(shape, state['depth'])
        # Weights that a file was mapped for are copied, others are the model's from here on.
        is_mapped = 'totals' in state
        if is_mapped:
            model.to_empty(device='cpu')
        model.load_state_dict(state['model'], assign=not is_mapped)
    except (RuntimeError, KeyError, TypeError, ValueError):
        raise UserError(f"{where}: its weights don't fit the shape that its config gives") from None
    return model

def load_model(path: str, device='cpu') -> tuple[GPT, dict]:
    """(model in eval mode on `device`, info) from a checkpoint file, a run directory (its newest valid
    checkpoint), a Hugging Face folder (GPT-2, Llama, Qwen2, Qwen3), or such a model's name on the Hub.

    info is the checkpoint without its tensors, and 'path'; from Hugging Face it has config (the model's
    part), tokenizer, depth, step and path. Says on standard error which checkpoint of a run it is. Raises
    UserError if there is none, it is damaged, or it is another model.
    """
    path = os.path.expanduser(path)
    if is_hub_name(path):  # gpt2 also where a folder here is called so: that one is ./gpt2
        state = read_hugging_face(download(path))
    elif hugging_face_config(path) is not None:
        state = read_hugging_face(path)
    elif os.path.isdir(path):
        found = latest(path)
        if found is None:
            raise UserError(f'{path}: holds no checkpoint (ckpt_*.pt)')
        path, state = found
    else:
        state = read_checkpoint(path)
    model = build_model(state, path)
    if 'totals' in state:  # a checkpoint of ours
        say(f'{path}: step {state["step"]:,}, {how_it_ended(path)}', sys.stderr)
    # The model has the tensors now; info would keep a second copy in memory.
    info = {k: v for k, v in state.items() if k not in ('model', 'optimizer')} | {'path': path}
    return model.to(device).eval(), info

def how_it_ended(path: str) -> str:
    """What became of the run that a checkpoint lies in, in words."""
    run_json = read_run_json(os.path.dirname(path))
    # A start takes `ended` out of run.json, so that a killed run has none either.
    if 'ended' not in run_json:
        return 'of a run that has not ended, or is elsewhere'
    return f'of a run that ended at step {run_json["ended_step"]:,} ({run_json["ended"]})'

def check_vocabulary(tokenizer: str, vocab_size: int, beside: str = ''):
    """Raise UserError unless a model's vocabulary is the tokenizer's, give or take what it was rounded up
    by. `beside`: the model's path, for a tokenizer.json that lies there."""
    # The rows beyond the tokenizer's tokens are padding, which makes the matmul of lm_head faster.
    n = data.get_tokenizer(tokenizer, beside).n_vocab
    if not n <= vocab_size < n + LARGEST_PADDING:
        raise UserError(f'the model has a vocabulary of {vocab_size}, the tokenizer {tokenizer!r} one of '
                        f'{n}: they do not belong together')
