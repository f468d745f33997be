"""
Checkpoints: the one place that knows their format.

A checkpoint is a dict of plain types and tensors, read with weights_only=True, so that nothing in it can run:

    format      1
    config      the TrainConfig, as a dict
    tokenizer   its name, for scoring and sampling
    depth       blocks that exist
    step        updates done
    model       the model's state dict, raw names
    optimizer   parameter name -> its moments ({} in the stage_NN.pt of a finished stage)
    totals      seconds spent so far: {'seconds': ..., 'eval_seconds': ..., 'checkpoint_seconds': ...}

ckpt_NNNNNN.pt is the state after NNNNNN updates; stage_NN.pt holds the weights at the end of stage NN.

load_model() also reads Hugging Face's GPT-2 folders, and GPT-2's published weights from the Hub by name.
"""

import functools
import os
import sys
import threading
import zipfile

import torch

from core import common, data
from core.common import UserError, atomic_write
from model import GPT, GPTConfig
from run.hugging_face import HUB_NAMES, HUB_OWNER, download_gpt2, hugging_face_config, read_hugging_face

FORMAT = 1
KEYS = {'format', 'config', 'tokenizer', 'depth', 'step', 'model', 'optimizer', 'totals'}
# Rows of the embedding beyond the tokenizer's: 128 times 8 ranks, as Megatron rounds up.
LARGEST_PADDING = 1024


def save_checkpoint(path: str, state: dict):
    """Write `state` to a temporary name, flush it to the disk, rename: whenever a kill comes, `path` is whole
    or not there.

    Raises UserError if the disk is full or not writable; what was there before stays.
    """
    # A missing key would otherwise show only at the resume, where the file is refused.
    assert state.keys() | {'format'} == KEYS
    with atomic_write(path, 'wb') as f:
        torch.save({'format': FORMAT, **state}, f)


class CheckpointWriter:
    """Writes the checkpoints of a run on `device`. From a GPU by a thread: training stops for the copy to
    host memory, not for the disk.

    On the CPU save() itself writes: a copy would hold 12 bytes a parameter, a third of what a run at full
    depth needs. The thread writes one checkpoint at a time: the next save waits for the one before. What goes
    wrong in it is raised in the run, by the next call of any method. As a context the writer leaves when the
    thread is done, whatever happened.
    """

    def __init__(self, device: torch.device):
        self.in_host_memory = device.type == 'cpu'
        self.thread = None
        self.error = None  # what the thread raised, until the run asks for it
        self.held = None  # the copy of save_nowhere()

    def save(self, files: dict, run_dir: str, keep_last: int, keep_steps: tuple = ()):
        """Write the states in `files` (path -> state) in this order, copied if need be, and prune run_dir."""
        self.wait()
        if not self.in_host_memory:
            files = copy_to_host(files)

        def write():
            for path, state in files.items():
                save_checkpoint(path, state)
            # After the writing: a save that fails must leave the old checkpoints.
            prune(run_dir, keep_last, keep_steps)

        self.start(write)

    def save_nowhere(self, state: dict):
        """Whatever save() takes of memory and time, but for the disk. A copy is there until wait(): a disk
        may take so long."""
        self.wait()
        if not self.in_host_memory:
            state = copy_to_host(state)
            self.held = state

        def write():
            with open(os.devnull, 'wb') as f:
                torch.save(state, f)

        self.start(write)

    def start(self, write):
        if self.in_host_memory:
            write()  # now: the next step changes what is written
            return

        def run():
            try:
                write()
            except BaseException as error:  # the thread's end would say nothing to the run
                self.error = error

        # Not a daemon thread: the process doesn't end before the file is written.
        self.thread = threading.Thread(target=run, name='checkpoint')
        self.thread.start()

    def check(self):
        """Raise what went wrong in the thread, if something did."""
        # Cleared, so that the same error isn't raised again on the way out.
        error = self.error
        self.error = None
        if error is not None:
            raise error

    def wait(self):
        """Wait until what was to be saved is on the disk."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.held = None
        self.check()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None:
            self.wait()
        elif self.thread is not None:
            self.thread.join()  # an error of its own would hide the first one


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
    """The checkpoint in a file, on the CPU. Raises UserError if it isn't one, is torn, or has a flipped
    bit."""
    # Before torch reads it: mapped tensors are read only when used, and their checksums never.
    check_archive(path)
    try:
        try:
            state = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        except (OSError, RuntimeError) as error:
            if 'mmap' not in str(error):
                raise
            # some file systems don't map files
            state = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None
    except Exception as error:  # a damaged file can fail anywhere in pickle or torch
        raise UserError(f'{path}: not a whole checkpoint ({type(error).__name__})') from None
    if type(state) is not dict or state.keys() != KEYS or state['format'] != FORMAT:
        raise UserError(f'{path}: not a checkpoint of this project, or of another version')
    # The right keys say nothing about the values, on which all readers rely.
    kinds = {'config': dict, 'tokenizer': str, 'depth': int, 'step': int, 'model': dict, 'optimizer': dict,
             'totals': dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(state[name], kind)]
    # a layer has more than one tensor
    if wrong or not 0 <= state['depth'] <= len(state['model']) or state['step'] < 0:
        raise UserError(f'{path}: damaged, or not made by this project ({(wrong or ["depth or step"])[0]} '
                        'makes no sense)')
    return state


def check_archive(path: str):
    """Raise UserError unless a file is a zip archive as torch writes it, with the right checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type for member in archive.infolist()):
                raise UserError(f'{path}: not a checkpoint (compressed, as torch never writes one)')
            # torch writes a CRC-32 for each tensor, but doesn't look at it when it reads
            damaged = archive.testzip()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None
    except UserError:  # raised above; the next clause would replace its text
        raise
    except Exception as error:  # a damaged file can fail anywhere in zipfile
        raise UserError(f'{path}: not a whole checkpoint ({type(error).__name__})') from None
    if damaged is not None:
        raise UserError(f'{path}: damaged (checksum of {damaged} is wrong)')


def numbered(run_dir: str) -> list[tuple[int, str]]:
    """(step, path) of each ckpt_NNNNNN.pt in a run directory, by step. Files with other names aren't ours."""
    return common.numbered(run_dir, 'ckpt_', '.pt')


def latest(run_dir: str, at_most: int | None = None) -> tuple[str, dict] | None:
    """(path, state) of the newest valid ckpt_NNNNNN.pt in a run directory, None if there is none at all.

    With `at_most` only the checkpoints up to that step count. A damaged one is skipped with a warning. Raises
    UserError if there are some and all are damaged.
    """
    paths = []
    for step, path in numbered(run_dir):
        if at_most is None or step <= at_most:
            paths.append(path)
    # The newest first; older ones, gigabytes each, are read only if it is damaged.
    for path in reversed(paths):
        try:
            return path, read_checkpoint(path)
        except UserError as error:
            print(f'warning: {error}; trying the one before it', file=sys.stderr)
    if paths:
        raise UserError(f'{run_dir}: none of its {len(paths)} checkpoints can be read')
    return None


def set_aside_later(run_dir: str, step: int):
    """Rename the checkpoints after `step`, from which a run goes on: they are damaged, or of another try.

    Else keep_checkpoints would count them, and the next resume might prefer them. Nothing is deleted.
    """
    for number, path in numbered(run_dir):
        if number > step:
            set_aside(path)


def set_aside(path: str):
    """Give a file a name that nothing looks for, and say so."""
    target = f'{path}.set_aside'
    # A step can be set aside more than once, by one try after another.
    while os.path.exists(target):
        target += '_'
    os.replace(path, target)
    print(f'warning: {path} is now called {os.path.basename(target)}', file=sys.stderr)


def prune(run_dir: str, n: int, keep: tuple = ()):
    """Remove all but the n newest checkpoints and those of the steps in `keep`, and what killed saves have
    left over.

    A damaged one takes no slot, so that the n newest can be resumed from; it is set aside.
    """
    # The run's only writer calls this between its saves, so a .tmp file is what a kill left.
    for prefix in ('ckpt_', 'stage_'):
        for _, path in common.numbered(run_dir, prefix, '.pt.tmp'):
            os.remove(path)
    n_whole = 0
    for step, path in reversed(numbered(run_dir)):
        if step in keep:
            continue
        # Those older than the n newest go unread: nobody resumes from them.
        if n_whole == n:
            os.remove(path)
        elif is_whole(path, os.stat(path).st_size, os.stat(path).st_mtime_ns):
            n_whole += 1
        else:
            set_aside(path)


@functools.lru_cache(maxsize=64)
def is_whole(path: str, size: int, mtime_ns: int) -> bool:
    """Whether a checkpoint's checksums are right: read once, as long as its size and time stay the same."""
    try:
        check_archive(path)
    except UserError:
        return False
    return True


def gpt_config(config: dict) -> GPTConfig:
    """The model's part of a run's settings."""
    return GPTConfig(**{k: config[k] for k in GPTConfig.__dataclass_fields__})


def build_model(state: dict, where: str) -> GPT:
    """The model that a checkpoint's state holds. Raises UserError, naming `where`, if its weights aren't of
    its shape."""
    try:
        shape = gpt_config(state['config'])
        if shape.n_head < 1 or shape.n_embd % shape.n_head:  # which shows in no weight's shape
            raise ValueError(shape.n_head)
        model = GPT(shape, state['depth'])
        model.load_state_dict(state['model'])
    except (RuntimeError, KeyError, TypeError, ValueError):
        raise UserError(f"{where}: its weights don't fit the shape that its config gives") from None
    return model


def load_model(path: str, device='cpu') -> tuple[GPT, dict]:
    """(model in eval mode on `device`, info) from a checkpoint file, a run directory (its newest valid
    checkpoint), a Hugging Face GPT-2 folder, or 'gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl' from the Hub.

    info is the checkpoint without its tensors, and 'path'; from Hugging Face it has config (the model's
    part), tokenizer, depth, step and path. Raises UserError if there is none, it is damaged, or it isn't
    GPT-2.
    """
    name = path.removeprefix(HUB_OWNER)
    path = os.path.expanduser(path)
    if name in HUB_NAMES:  # also where a folder here is called so: that one is ./gpt2
        state = read_hugging_face(download_gpt2(name), 'gpt2')
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
    # The model has the tensors now; info would keep a second copy in memory.
    info = {k: v for k, v in state.items() if k not in ('model', 'optimizer')} | {'path': path}
    return model.to(device).eval(), info


def check_vocabulary(tokenizer: str, vocab_size: int, beside: str = ''):
    """Raise UserError unless a model's vocabulary is the tokenizer's, give or take what it was rounded up
    by. `beside`: the model's path, for a tokenizer.json that lies there."""
    # The rows beyond the tokenizer's tokens are padding, which makes the matmul of lm_head faster.
    n = data.get_tokenizer(tokenizer, beside).n_vocab
    if not n <= vocab_size < n + LARGEST_PADDING:
        raise UserError(f'the model has a vocabulary of {vocab_size}, the tokenizer {tokenizer!r} one of '
                        f'{n}: they do not belong together')
