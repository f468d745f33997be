"""The machine: devices, number formats, ranks, compiling, and the memory settings of the platform."""

import contextlib
import ctypes
import os
import platform
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from common import UserError

LARGE = 2**20  # numbers in an activation, from which on glibc's fragmentation is worth a word
GLIBC_TUNABLES = 'glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0'


def pick_device(name: str) -> torch.device:
    """The torch device called `name`; 'auto': cuda, else mps, else cpu. Raises UserError if it isn't there."""
    if name == 'auto':
        name = 'cpu'
        if torch.cuda.is_available():
            name = 'cuda'
        elif torch.backends.mps.is_available():
            name = 'mps'
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f'device {name!r} is not there ({str(error).splitlines()[0]})') from None
    return torch.device(name)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16: CUDA from compute capability 8 on, CPUs with AVX512-BF16 or AMX."""
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == 'cpu' and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, dtype: str):
    """A context for every forward pass: autocast to bfloat16, or nothing for float32. Never float16.

    'auto' is bfloat16 where the hardware multiplies it.
    """
    if dtype == 'auto':
        dtype = 'bfloat16' if has_bfloat16(device) else 'float32'
    if dtype == 'bfloat16':
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the CPU's allocator, which raises a plain RuntimeError, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


# ---------------------------------------------------------------------------------------------------------------------
# memory on the CPU


def keep_freed_memory():
    """Have glibc keep what is freed: by default large blocks go back to the kernel, which clears them page by page when
    the next step asks again. That is a quarter of a step of GPT-2 124M on the CPU. Elsewhere than on glibc this does
    nothing."""
    if sys.platform == 'linux' and hasattr(ctypes.CDLL(None), 'mallopt'):
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # /usr/include/malloc.h
        ctypes.CDLL(None).mallopt(M_MMAP_MAX, 0)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, -1)


def lacks_glibc_tunables(config) -> bool:
    """Whether training `config`, a TrainConfig, on the CPU would take less memory with GLIBC_TUNABLES in the environment.

    Before 2.38 glibc cuts the aligned memory that torch asks for out of a larger piece and can't use it for the same
    size again until the fragments around it are joined to it: GPT-2 124M then takes a quarter more. glibc reads the
    setting when a program starts, so that only the user can give it. Small objects would only get slower.
    """
    libc, version = platform.libc_ver()
    old = libc == 'glibc' and [int(number) for number in version.split('.')] < [2, 38]
    large = config.batch_size * config.block_size * config.n_embd >= LARGE
    return old and large and 'GLIBC_TUNABLES' not in os.environ


# ---------------------------------------------------------------------------------------------------------------------
# ranks


def read_ranks() -> tuple[int, int, int]:
    """(rank, number of ranks, rank on this machine) from the environment that torchrun sets, (0, 1, 0) without it.

    Raises UserError where the environment contradicts itself.
    """
    names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
    numbers = []
    for name, default in zip(names, '010'):
        text = os.environ.get(name, default)
        numbers.append(int(text) if text.isdecimal() else -1)
    rank, world_size, local_rank = numbers
    missing = []
    if world_size > 1:
        missing = [name for name in (*names, 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing or not 0 <= local_rank <= rank < world_size:
        said = ', '.join(f'{name}={os.environ.get(name, "")}' for name in names)
        if missing:
            said += f', and no {missing[0]}'
        raise UserError(f'the environment says {said}: start several ranks with torchrun, or one without any of these')
    return rank, world_size, local_rank


def init_distributed(device: torch.device, rank: int, world_size: int):
    """init_process_group, such that it also works after a restart by torchrun --max-restarts.

    torchrun lends the ranks its own store, in which a restarted rank finds the addresses of dead ones (pytorch#135712,
    still so in torch 2.13) and hangs. So each attempt has names of its own there; over several nodes, which don't count
    restarts alike, the ranks need a store of their own, which torchrun gives them if asked. Raises UserError if it
    wasn't.
    """
    timeout = timedelta(minutes=20)  # no eval or save takes as long: what hangs for longer is an error, and may restart
    store = next(dist.rendezvous('env://', rank, world_size, timeout=timeout))[0]
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
        several_nodes = os.environ['LOCAL_WORLD_SIZE'] != os.environ['WORLD_SIZE']
        if os.environ['TORCHELASTIC_MAX_RESTARTS'] != '0' and several_nodes:
            raise UserError('torchrun --max-restarts over several nodes works only with '
                            'TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of every torchrun')
        store = dist.PrefixStore(os.environ['TORCHELASTIC_RESTART_COUNT'], store)
    backend = 'nccl' if device.type == 'cuda' else 'gloo'
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


# ---------------------------------------------------------------------------------------------------------------------
# compiling


def compile_blocks(model):
    """torch.compile for training, block by block, for the blocks of a GPT that aren't compiled yet.

    All blocks share the same few graphs, so growth compiles next to nothing and never meets dynamo's recompile limit.
    """
    for block in model.transformer.h:
        if block._compiled_call_impl is None:
            block.compile()
