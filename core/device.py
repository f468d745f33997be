"""The machine: devices, number formats, peak speed, memory settings, ranks, compiling."""

import atexit
import contextlib
import ctypes
import errno
import gc
import glob
import os
import platform
import re
import signal
import sys
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from core.common import UserError, usable_cores

# No evaluation or save takes as long: what hangs for longer is an error, and may restart.
TIMEOUT = timedelta(minutes=20)
PR_SET_PDEATHSIG = 1  # /usr/include/linux/prctl.h
# What tells a rank that its torchrun died. A signal of its own, since the kernel sends it once for each
# thread that torchrun had, and a second SIGTERM would end the rank before it has saved. None but on Linux.
TORCHRUN_DIED = getattr(signal, 'SIGRTMIN', None) if sys.platform == 'linux' else None

def pick_device(name: str, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """The torch device called `name`; 'auto': cuda, else mps, else cpu. Where several ranks share a machine's
    GPUs, each takes the one of its local rank.

    A GPU is made the current one before anything is allocated: a rank that touches another one's GPU first
    leaves half a gigabyte there. Raises UserError if the device isn't there, or if all ranks are told to use
    the same GPU.
    """
    if name == 'auto':
        name = 'cpu'
        if has_cuda():
            name = 'cuda'
        elif torch.backends.mps.is_available():
            name = 'mps'
    try:
        device = torch.device(name)
        if device.type == 'cuda':
            device = own_gpu(device, local_rank, world_size)
            use_expandable_segments()
            if not torch.cuda.is_available():
                torch.cuda.init()  # says why
            torch.cuda.set_device(device)
        # Only an allocation shows that the device works: a name alone proves nothing.
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition('\n')[0]
        raise UserError(f'device {name!r} is not there ({reason})') from None
    if device.type == 'cpu' and 'OMP_NUM_THREADS' not in os.environ:
        # torch counts the cores, and doesn't see that a container has only a share of their time.
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    return device

def own_gpu(device: torch.device, local_rank: int, world_size: int) -> torch.device:
    """The GPU of this rank. Raises UserError if there are too few, or `device` names one for several
    ranks."""
    if device.index is None:
        device = torch.device('cuda', local_rank)
    elif world_size > 1:
        raise UserError(f'--device={device} is one GPU, but there are {world_size} ranks, each of which takes'
                        ' its own: say --device=cuda, and choose among the GPUs with CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    # Where there is no GPU at all, or not this one, pick_device() fails next, with torch's own reason.
    if world_size > 1 and 0 < count <= local_rank:
        raise UserError(f'rank {local_rank} of this machine has no GPU: there are {count}. Start torchrun '
                        f'with --nproc_per_node={count}')
    return device

def has_cuda() -> bool:
    """Whether torch can use a GPU here. Raises UserError where there is one that it can't use: torch itself
    would warn, with the reason, and go on on the CPU, a hundred times slower."""
    if torch.cuda.is_available():
        return True
    is_hidden = os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1')  # by the user, who wants the CPU
    # In a container /dev has only what was passed to it.
    if glob.glob('/dev/nvidia[0-9]*') and not is_hidden:
        raise UserError(f'this machine has a GPU that torch {torch.__version__} can not use: update the '
                        'NVIDIA driver, install a torch built for its CUDA, or say --device=cpu')
    return False

def use_expandable_segments():
    """Have CUDA's allocator grow its segments instead of adding new ones: each growth of the model changes
    all sizes, and what is free between old segments could not be used. A setting of the user's own stays."""
    if not {'PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF'} & os.environ.keys():
        os.environ['PYTORCH_ALLOC_CONF'] = 'expandable_segments:True'  # read at the first allocation

def device_name(device: torch.device) -> str:
    """What the hardware is called: 'NVIDIA H100 80GB HBM3', or the processor's name."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as f:
            for line in f:
                if line.startswith('model name'):
                    return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()

def to_device(arrays, device) -> list:
    """numpy arrays -> tensors on the device; to CUDA from pinned memory, without waiting."""
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
    # From memory that isn't pinned the copy would make the CPU wait.
    if device.type == 'cuda':
        return [t.pin_memory().to(device, non_blocking=True) for t in tensors]
    return [t.to(device) for t in tensors]

def uses_bfloat16(device: torch.device, dtype: str) -> bool:
    """Whether the config's `dtype` is bfloat16 on this device. 'auto' is where the hardware multiplies it:
    CUDA from compute capability 8 on, CPUs with AVX512-BF16 or AMX."""
    if dtype != 'auto':
        return dtype == 'bfloat16'
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == 'cpu' and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )

def autocast(device: torch.device, dtype: str):
    """A context for every forward pass: autocast to bfloat16, or nothing for float32. Never float16."""
    if uses_bfloat16(device, dtype):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()

def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, the CPU's allocator (which raises a plain RuntimeError), Python or the system ran out
    of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # Allocators raise plain errors for it, which only their text tells from others.
    texts = ("can't allocate memory", 'bad_alloc', 'CUDA out of memory', "can't start new thread",
             'could not create a memory')
    return any(text in str(error) for text in texts)

# ------------------------------------------------------------------------------------------------------------
# how fast the hardware could be

# Dense bfloat16 TFLOP/s with float32 sums, by the makers' data sheets (those that count 2:4 sparsity halved).
# The first entry whose words all stand in a GPU's name counts.
PEAK_TFLOPS = (
    ('GB300', 2500), ('B300', 2250), ('GB200', 2500), ('B200', 2250), ('GH200', 989), ('H200 NVL', 835),
    ('H200', 989), ('H100 PCIe', 756), ('H100 HBM2e', 756), ('H100 NVL', 835), ('H100', 989),
    ('H800 PCIe', 756), ('H800', 989), ('H20', 148), ('A100', 312), ('A800', 312), ('A30', 165),
    ('A40', 149.7), ('A10G', 70), ('A10', 125), ('L40S', 362), ('L40', 181), ('L4', 121),
    ('RTX 6000 Ada', 364.2), ('RTX A6000', 154.8), ('RTX 5090 D', None), ('RTX 5090', 209.5),
    ('RTX 4090 D', 147), ('RTX 4090', 165), ('RTX 3090 Ti', 80), ('RTX 3090', 71),
)
SLOWER = {'laptop', 'mobile', 'max', 'mig', 'grid'}  # less power, or a part of the chip: another peak

def peak_flops(device: torch.device, dtype: str) -> float | None:
    """FLOP/s that the GPU could do at best in matmuls of the config's `dtype`; None on other devices, and
    where the GPU is not in the table: no figure is better than one against the wrong peak.

    float32 counts as TF32, in which train.py multiplies it on CUDA: half of bfloat16 on every GPU of the
    table.
    """
    if device.type != 'cuda':
        return None
    peak = peak_of(torch.cuda.get_device_name(device))
    return peak if peak is None or uses_bfloat16(device, dtype) else peak / 2

def peak_of(gpu: str) -> float | None:
    """FLOP/s in bfloat16 of the GPU that torch calls so; None if it isn't known."""
    # Whole words, so that L4 isn't found in the name of an L40S.
    words = set(re.findall(r'[a-z0-9]+', gpu.lower()))
    if words & SLOWER:
        return None
    for name, tflops in PEAK_TFLOPS:
        if set(name.lower().split()) <= words:
            return None if tflops is None else tflops * 1e12
    return None

# ------------------------------------------------------------------------------------------------------------
# memory on the CPU

def keep_freed_memory():
    """Have glibc keep what is freed: by default large blocks go back to the kernel, which clears them page by
    page when the next step asks again. That is a quarter of a step of GPT-2 124M on the CPU. Elsewhere than
    on glibc this does nothing."""
    if sys.platform == 'linux' and hasattr(ctypes.CDLL(None), 'mallopt'):
        # Large blocks then come from the heap (no mmap), and the heap never shrinks (no trim).
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # /usr/include/malloc.h
        ctypes.CDLL(None).mallopt(M_MMAP_MAX, 0)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, -1)

# ------------------------------------------------------------------------------------------------------------
# ranks

def read_ranks() -> tuple[int, int, int]:
    """(rank, number of ranks, rank on this machine) from the environment that torchrun sets, (0, 1, 0)
    without it.

    Raises UserError where the environment contradicts itself.
    """
    names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
    numbers = []
    for name, default in zip(names, '010'):
        text = os.environ.get(name, default)
        numbers.append(int(text) if text.isdecimal() else -1)  # -1 fails the check below
    rank, world_size, local_rank = numbers
    is_lacking = world_size > 1 and not os.environ.keys() >= set(names)
    if is_lacking or not 0 <= local_rank <= rank < world_size:
        said = ', '.join(f'{name}={os.environ.get(name, "")}' for name in names)
        raise UserError(f'the environment says {said}: start several ranks with torchrun, or one without any '
                        'of these')
    return rank, world_size, local_rank

def meet_ranks(rank: int, world_size: int) -> dist.Store | None:
    """The store in which the ranks find each other, when every one of them has come here; None for one rank.

    torchrun lends the ranks its own store, in which a restarted rank finds the addresses of dead ones
    (pytorch#135712, still so in torch 2.13) and hangs. So each attempt has names of its own there; over
    several nodes, which don't count restarts alike, the ranks need a store of their own, which torchrun gives
    them if asked. Raises UserError if it wasn't.
    """
    if world_size == 1:
        return None
    end_with_torchrun()
    store = next(dist.rendezvous('env://', rank, world_size, timeout=TIMEOUT))[0]
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
        several_nodes = os.environ['LOCAL_WORLD_SIZE'] != os.environ['WORLD_SIZE']
        if os.environ['TORCHELASTIC_MAX_RESTARTS'] != '0' and several_nodes:
            raise UserError('torchrun --max-restarts over several nodes works only with '
                            'TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of every torchrun')
        store = dist.PrefixStore(os.environ['TORCHELASTIC_RESTART_COUNT'], store)
    store.set(f'rank {rank} is here', '')
    store.wait([f'rank {other} is here' for other in range(world_size)])
    return store

def end_with_torchrun():
    """Have this rank told to stop if torchrun dies, by SIGKILL or a second Ctrl-C: it has a session of its
    own, and would train on, or hang. Linux alone can do that."""
    if 'TORCHELASTIC_RUN_ID' in os.environ and TORCHRUN_DIED:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(TORCHRUN_DIED))

def init_distributed(device: torch.device, rank: int, world_size: int, store: dist.Store | None = None):
    """init_process_group, also after a restart by torchrun --max-restarts. `store`: meet_ranks(), where the
    ranks have met already."""
    on_gpu = device.type == 'cuda'
    dist.init_process_group(
        'nccl' if on_gpu else 'gloo',
        store=store or meet_ranks(rank, world_size),
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
        device_id=device if on_gpu else None,  # else NCCL guesses the GPU from the rank
    )

def wrap_distributed(model, world_size: int):
    """The model, or where there are several ranks DDP around it, over exactly the parameters that train
    now."""
    if world_size == 1:
        return model
    gc.collect()  # what an earlier DDP has left
    # Gradients that are views of DDP's buckets take no memory of their own.
    return DistributedDataParallel(model, gradient_as_bucket_view=True)

def leave_distributed(world_size: int):
    """End the ranks together."""
    if world_size == 1:
        return
    dist.barrier()
    dist.destroy_process_group()
    # DDP leaves gloo's threads running (torch 2.13), and now and then Python's teardown under them aborts the
    # process after a run that is complete: a failure to torchrun, a restart with --max-restarts. So end
    # without teardown.
    sys.stdout.flush()
    atexit.register(os._exit, 0)

# ------------------------------------------------------------------------------------------------------------
# compiling

def compile_blocks(model):
    """torch.compile for training: the blocks of a GPT that aren't compiled yet, its embeddings, its final
    norm and the loss of its head.

    All blocks but the first share the same few graphs, one for each combination of "its weights train" and
    "something below trains" that occurs: three for the paper's schedule, four at most. The first, to which
    nothing below adds, has two, or four. So growth compiles nothing new, and dynamo's recompile limit is
    never met; meeting it is an error, where dynamo by default would go on without compiling.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.recompile_limit = 16  # twice the blocks' eight
    # Else DDP splits what is compiled under it at its buckets of 25 MB, and a block of GPT-2 124M has 28 MB.
    torch._dynamo.config.optimize_ddp = False
    # Else a block that is frozen or thawed may go on with the graph from before: a module whose dictionaries
    # are the same counts as unchanged, and requires_grad is in none of them.
    torch._dynamo.config.use_recursive_dict_tags_for_guards = False
    model.is_compiled = True
    for block in model.transformer.h:
        if block._compiled_call_impl is None:
            # A graph break is an error, not a slower block. Sizes never change: they are constants.
            block.compile(fullgraph=True, dynamic=False)

def compile_failure(error: BaseException) -> str | None:
    """Why torch.compile failed, in one line; None if `error` has nothing to do with it."""
    kinds = {kind.__module__.split('.')[0:2][-1] for kind in type(error).__mro__}
    if not kinds & {'_dynamo', '_inductor', 'triton'}:
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(':') if lines else type(error).__name__
