"""
Does everything hold on this GPU, and is it as fast as it should be? Under ten minutes on one card, no data
needed:

    python dev/gpu_check.py           on the GPU, GPT-2 124M at 32 x 1024 tokens
    python dev/gpu_check.py tiny      every check at toy size on the CPU; speed is measured, not judged

One line a check, then 'N passed, N failed'; the exit code is 1 if one failed. What must hold on any CUDA card
is judged on any; milliseconds and tokens/s are judged on an H100 or H200, whose chip they are of, and told
elsewhere. Needs torch 2.11 or newer.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import re
import statistics
import sys
import tempfile
import traceback
import types
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

import bench
import core.loss
import hellaswag
import schedule
import train
from config import TrainConfig
from core import data
from core.device import autocast, compile_blocks, peak_flops, pick_device
from core.loss import FusedLinearCrossEntropy
from core.optim import make_optimizers
from growth import layout
from model import GPT, GPTConfig
from run import checkpoint

TEXT = 'the quick brown fox jumps over the lazy dog and the slow red hen sits under the old oak tree. '

@dataclass(frozen=True)
class Setup:
    """How large, and what is judged."""

    device: torch.device
    shape: GPTConfig
    batch_size: int
    dtype: str
    turns: int  # of what is timed against each other
    items: int  # of HellaSwag
    is_tiny: bool
    is_hopper: bool  # an H100 or H200: milliseconds and tokens/s are judged

    @property
    def tokens(self) -> int:
        """Tokens of a micro-step."""
        return self.batch_size * self.shape.block_size

    def amp(self):
        return autocast(self.device, self.dtype)

    def batch(self, seed: int = 0):
        """(inputs, targets), random, each (batch_size, block_size)."""
        generator = torch.Generator().manual_seed(seed)
        size = (self.batch_size, self.shape.block_size + 1)
        tokens = torch.randint(self.shape.vocab_size, size, generator=generator).to(self.device)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def gpt(self, depth: int | None = None, device=None) -> GPT:
        model = GPT(self.shape, depth, torch.Generator().manual_seed(0))
        return model.to(device or self.device).train()

def main():
    setup = make_setup('tiny' in sys.argv[1:])
    name = 'CPU, tiny' if setup.is_tiny else torch.cuda.get_device_name(setup.device)
    print(f'{name}; torch {torch.__version__}, numpy {np.__version__}')
    passed = []
    for check in CHECKS:
        what = check.__name__.replace('_', ' ')
        try:
            found = list(check(setup))
        except Exception as error:  # one that breaks must not hide the others
            traceback.print_exc()
            found = [(False, f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}')]
        for is_right, text in found:
            print(f'{"ok  " if is_right else "FAIL"} {what}: {text}', flush=True)
            passed.append(is_right)
        if setup.device.type == 'cuda':
            torch.cuda.empty_cache()
    print(f'{sum(passed)} passed, {len(passed) - sum(passed)} failed')
    sys.exit(not all(passed))

def make_setup(is_tiny: bool) -> Setup:
    if is_tiny:
        shape = GPTConfig(block_size=64, vocab_size=577, n_layer=4, n_head=2, n_embd=32)
        return Setup(torch.device('cpu'), shape, 2, 'float32', 2, 40, True, False)
    device = pick_device('cuda')
    name = torch.cuda.get_device_name(device)
    is_hopper = 'H100' in name or 'H200' in name
    return Setup(device, GPTConfig(vocab_size=50304), 32, 'bfloat16', 5, 10_000, False, is_hopper)

# ------------------------------------------------------------------------------------------------------------
# right: the device's numbers are the CPU's

def model_as_on_the_CPU(setup: Setup):
    """Loss and gradients in float32, without TF32, of a frozen and grown model."""
    shape = GPTConfig(block_size=64, vocab_size=577, n_layer=4, n_head=2, n_embd=64)
    x = torch.randint(577, (3, 64), generator=torch.Generator().manual_seed(1))
    found = []
    for device in (torch.device('cpu'), setup.device):
        model = GPT(shape, 2, torch.Generator().manual_seed(0)).to(device).train()
        model.grow(layout('random', 2, 4), 'random', torch.Generator().manual_seed(1))
        model.freeze(2, 'input_frozen')
        loss = model(x.to(device), x.to(device))
        loss.backward()
        found.append([loss.detach().cpu(), *(p.grad.cpu() for p in model.parameters() if p.grad is not None)])
    error = furthest(found[1], found[0])
    yield error < 1e-3, f'loss and gradients differ by {error:.1e} (under 1e-3)'

def run_as_on_the_CPU(setup: Setup):
    """The losses of a small run that grows, freezes and evaluates; stopped before a growth and resumed, it
    ends as it would have."""
    with small_data() as flags:
        runs = []
        for device in ('cpu', str(setup.device)):
            out_dir = f'{flags.folder}/run_{len(runs)}'
            command = [*flags.flags, f'--device={device}', f'--out_dir={out_dir}']
            run_training(command)
            runs.append(losses(out_dir))
        for step, path in checkpoint.numbered(out_dir):
            if step > 5:  # the second stage begins at 6
                os.remove(path)
        run_training([*command, '--resume'])
        runs.append(losses(out_dir))
    for name, found in zip(('', 'resumed: '), runs[1:]):
        error = max(abs(a - b) for a, b in zip(runs[0], found))
        is_right = len(found) > 20 and error < 1e-3
        yield is_right, f'{name}{len(found)} losses differ by {error:.1e} (under 1e-3)'

def HellaSwag_as_on_the_CPU(setup: Setup):
    """The summed losses of every ending."""
    examples = questions(30, 256)
    found = []
    for device in (torch.device('cpu'), setup.device):
        model = GPT(GPTConfig(256, 320, 2, 2, 64), None, torch.Generator().manual_seed(0)).to(device).eval()
        found.append(hellaswag.summed_losses(model, examples))
    error = np.abs(found[1] - found[0]).max() / np.abs(found[0]).max()
    yield error < 1e-3, f'summed losses differ by {error:.1e} (under 1e-3)'

def bfloat16_trains_as_float32(setup: Setup):
    """200 steps of a small model, and the same with plain cross-entropy under autocast: that rounds alike, so
    it shows how far rounding alone leads."""
    x = text_tokens(64 * 33).view(64, 33).to(setup.device)
    exact = small_curve(setup, x, 'float32', is_plain=False)
    apart = {}
    for is_plain in (False, True):
        apart[is_plain] = small_curve(setup, x, 'bfloat16', is_plain) - exact
    # Two runs that round differently part ways, step by step by chance. What is wrong shows in the mean.
    mean = abs(float(apart[False].mean()))
    worst = float(apart[False].abs().max())
    worst_of_plain = float(apart[True].abs().max())
    yield (
        mean < 0.005 and worst < 0.1,  # False for nan
        f'losses differ by {mean:.4f} in the mean (under .005), by {worst:.4f} at most (under .1; plain '
        f'cross-entropy by {worst_of_plain:.4f}), from {exact[0]:.2f} to {exact[-1]:.2f}',
    )

def small_curve(setup: Setup, x, dtype: str, is_plain: bool) -> torch.Tensor:
    """The losses of 200 steps of a small model on x (64, 33); of 4 at toy size, where CPUs are slow."""
    model = GPT(GPTConfig(32, 320, 2, 2, 64), None, torch.Generator().manual_seed(0))
    model = model.to(setup.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    curve = []
    for step in range(4 if setup.is_tiny else 200):
        rows = x[step % 8 * 8 : step % 8 * 8 + 8]
        inputs, targets = rows[:, :-1], rows[:, 1:]
        with autocast(setup.device, dtype):
            loss = plain_loss(model, inputs, targets) if is_plain else model(inputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        curve.append(loss.item())
    return torch.tensor(curve)

# ------------------------------------------------------------------------------------------------------------
# the head

def head_alone(setup: Setup):
    """Ours against plain cross-entropy, compiled too: error, and milliseconds and memory of forward and
    backward."""
    shape = setup.shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(setup.tokens, shape.n_embd, generator=generator).to(setup.device)
    table = (torch.randn(shape.vocab_size, shape.n_embd, generator=generator) * 0.02).to(setup.device)
    y = torch.randint(shape.vocab_size, (setup.tokens,), generator=generator).to(setup.device)

    def ours(x, w):
        return FusedLinearCrossEntropy.apply(x, w, y, True)

    @torch.compile
    def plain(x, w):
        return F.cross_entropy(F.linear(x, w), y)

    def step(loss_of):
        x = hidden.clone().requires_grad_()
        w = table.clone().requires_grad_()
        with setup.amp():
            loss = loss_of(x, w)
        loss.backward()
        return [loss.detach(), x.grad, w.grad]

    error = furthest(step(ours), step(plain))
    yield error < 1e-2, f'error to plain {error:.1e} (under 1e-2)'
    mine, theirs = in_turns(setup, lambda: step(ours), lambda: step(plain))
    is_right = setup.is_tiny or mine < 1.1 * theirs
    if setup.is_hopper:
        is_right = is_right and mine < 0.028
    yield (
        is_right,
        f'{1000 * mine:.1f} ms, plain compiled {1000 * theirs:.1f} ms (at most 1.1x; on an H100 or H200 '
        'under 28 ms)',
    )
    if setup.device.type == 'cuda':
        peaks = [peak_of(setup, lambda loss_of=loss_of: step(loss_of)) / 1e9 for loss_of in (ours, plain)]
        is_right = peaks[0] < peaks[1] / 2
        yield is_right, f'{peaks[0]:.2f} GB, plain compiled {peaks[1]:.2f} GB (under half)'

def head_kernel(setup: Setup):
    """The code that inductor makes for the GPU: one kernel, two loads and one store of a logit."""
    if setup.device.type != 'cuda':
        yield True, 'a matter of CUDA'
        return
    from torch._inductor.utils import run_and_get_code

    # Of as many rows as in training: for a few, inductor splits each row among several kernels.
    dtype = torch.float32 if setup.dtype == 'float32' else torch.bfloat16
    x = torch.zeros(setup.tokens, 1, dtype=dtype, device=setup.device)
    w = torch.zeros(setup.shape.vocab_size, 1, dtype=dtype, device=setup.device)
    n_rows = core.loss.rows_of_a_chunk(len(x), len(w), x.device, True, True)
    stride = math.ceil(len(w) / 64) * 64  # as loss_by_chunks has it
    logits = torch.zeros(n_rows, stride, dtype=dtype, device=setup.device)[:, : len(w)]
    y = torch.zeros(n_rows, 1, dtype=torch.int64, device=setup.device)
    compiled = torch.compile(core.loss.chunk_loss, fullgraph=True, dynamic=False)
    _, codes = run_and_get_code(compiled, logits, y, n_rows)
    code = codes[0]
    kernels = code.count('async_compile.triton(')
    moved = len(re.findall(rf'tl\.(?:load|store)\([^\n]*{stride}\*', code))
    yield kernels == 1 and moved == 3, f'{kernels} kernel, {moved} loads and stores a logit (1 and 3)'

# ------------------------------------------------------------------------------------------------------------
# a whole step

def full_depth_step(setup: Setup):
    """A micro-step as train.py does it against the whole model compiled as nanoGPT does."""
    x, y = setup.batch()
    ours = setup.gpt(1 if setup.is_tiny else None)
    compile_blocks(ours)
    plain = setup.gpt(ours.depth)
    whole = torch.compile(plain_loss)

    def step(model, loss_of):
        with setup.amp():
            loss = loss_of(x, y)
        loss.backward()
        model.zero_grad(set_to_none=True)

    def my_step():
        step(ours, ours)

    def their_step():
        step(plain, lambda x, y: whole(plain, x, y))

    mine, theirs = in_turns(setup, my_step, their_step)
    rates = [setup.tokens / seconds for seconds in (mine, theirs)]
    ratio = theirs / mine
    yield (
        setup.is_tiny or ratio >= 0.95,
        f"{rates[0]:,.0f} tokens/s, {ratio:.3f}x those of nanoGPT's way (.95x or more)",
    )
    if setup.device.type == 'cuda':
        peaks = [peak_of(setup, function) / 1e9 for function in (my_step, their_step)]
        is_right = peaks[0] < peaks[1]
        yield is_right, f'{peaks[0]:.2f} GB above the weights, their way {peaks[1]:.2f} GB (less)'
    config = run_config(setup)
    flops = (
        sum(schedule.token_flops(config, schedule.full_depth(config))) * ours.depth / setup.shape.n_layer
    )
    peak = peak_flops(setup.device, setup.dtype)
    mfu = f', MFU {flops * rates[0] / peak:.1%}' if peak else ''
    is_right = not setup.is_hopper or 380e3 <= rates[0] <= 560e3
    yield is_right, f'{rates[0]:,.0f} tokens/s{mfu} (on an H100 or H200 380k to 560k)'

def gradients_as_eager_over_growth(setup: Setup):
    """Loss and gradients of compiled blocks and head against eager ones, while the model grows and
    freezes."""
    n = setup.shape.n_layer
    x, y = setup.batch()
    model = setup.gpt(n // 4 or 1)
    worst = 0.0
    for depth, frozen, embeddings in (
        (n // 4, 0, 'train'),
        (n // 2, n // 4, 'input_frozen'),
        (n // 2, 0, 'train'),
        (n, n // 2, 'frozen'),
        (n, 0, 'train'),
    ):
        if depth > model.depth:
            layers = layout('random', model.depth, depth)
            model.grow(layers, 'random', torch.Generator().manual_seed(depth))
        model.freeze(frozen, embeddings)
        found = []
        for compiled in (False, True):
            model.is_compiled = False
            for block in model.transformer.h:
                block._compiled_call_impl = None
            if compiled:
                compile_blocks(model)
            with setup.amp():
                loss = model(x, y)
            loss.backward()
            found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
            model.zero_grad(set_to_none=True)
        worst = max(worst, furthest(found[1], found[0]))
    yield worst < 2e-2, f'differ by {worst:.1e} (under 2e-2)'

def cost_by_depth(setup: Setup):
    """A micro-step's time relative to full depth beside the ledger's ratio."""
    n = setup.shape.n_layer
    config = run_config(setup)
    x, y = setup.batch()
    seconds = {}
    flops = {}
    for depth, frozen in ((n // 6 or 1, 0), (n // 2, n // 2 - 1), (n // 2, 0), (n, 0)):
        model = setup.gpt(depth)
        embeddings = 'input_frozen' if frozen else 'train'
        model.freeze(frozen, embeddings)
        compile_blocks(model)

        def step(model=model):
            with setup.amp():
                loss = model(x, y)
            loss.backward()
            model.zero_grad(set_to_none=True)

        seconds[depth, frozen], _ = in_turns(setup, step, step)
        phase = schedule.Phase(1, 'phase1', 0, 1, depth, tuple(range(frozen)), embeddings)
        flops[depth, frozen] = sum(schedule.token_flops(config, phase))
    for (depth, frozen), taken in seconds.items():
        measured = taken / seconds[n, 0]
        predicted = flops[depth, frozen] / flops[n, 0]
        is_right = setup.is_tiny or abs(measured - predicted) < 0.06
        text = (
            f'depth {depth}, {frozen} frozen: {measured:.1%} of full depth, the ledger says {predicted:.1%}'
        )
        yield is_right, text + ' (within 6 points)'

def whole_run(setup: Setup):
    """Eight stages at full size by train.py: its graphs, and its memory after the dry run."""
    shape = setup.shape
    torch._dynamo.reset()
    counters.clear()
    peaks = []
    real = train.dry_run

    def watched(*args):
        real(*args)
        peaks.append((bench.peak_memory(setup.device), counters['stats']['unique_graphs']))
        if setup.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats()

    if setup.device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()  # else the checks before count as the dry run's
    with tempfile.TemporaryDirectory() as folder:
        tokens = np.random.default_rng(0).integers(0, 257, 4 * setup.tokens + 1, np.uint16)
        write_data(folder, tokens, tokens[: setup.tokens + 1])
        flags = [
            f'--{name}={getattr(shape, name)}'
            for name in ('n_layer', 'n_head', 'n_embd', 'block_size', 'vocab_size')
        ]
        train.dry_run = watched
        try:
            run_training(
                [
                    *flags,
                    '--n_stages=4',
                    '--growth_steps=8',
                    '--continual_steps=2',
                    f'--data_dir={folder}',
                    f'--total_batch_size={2 * setup.tokens}',
                    f'--batch_size={setup.batch_size}',
                    f'--val_tokens={setup.tokens}',
                    '--hellaswag_interval=0',
                    '--checkpoint_interval=4',
                    f'--dtype={setup.dtype}',
                    f'--device={setup.device}',
                    '--compile=True',
                    '--log_interval=1',
                    f'--out_dir={folder}/run',
                ]
            )
        finally:
            train.dry_run = real
    ((dry_peak, dry_graphs),) = peaks
    peak, graphs = bench.peak_memory(setup.device), counters['stats']['unique_graphs']
    breaks = sum(counters['graph_break'].values())
    is_right = graphs <= 10 and not breaks and graphs == dry_graphs
    yield (
        is_right,
        f'{graphs} graphs, {dry_graphs} of them before step 0, {breaks} breaks (at most 10, all, none)',
    )
    apart = abs(peak - dry_peak) / 1e9
    yield apart < 0.3, f"peak {peak / 1e9:.2f} GB, the dry run's {dry_peak / 1e9:.2f} GB (within .3)"

def fused_AdamW(setup: Setup):
    """An optimizer step at full depth."""
    model = setup.gpt()
    optimizers = make_optimizers(model, run_config(setup))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)

    def step():
        for optimizer in optimizers:
            optimizer.step()

    taken, _ = in_turns(setup, step, step)
    yield not setup.is_hopper or taken < 0.004, f'{1000 * taken:.2f} ms (on an H100 or H200 under 4 ms)'

def Muon(setup: Setup):
    """The same by Muon, which orthogonalizes the blocks' matrices, and AdamW beside it."""
    model = setup.gpt()
    optimizers = make_optimizers(model, dataclasses.replace(run_config(setup), optimizer='muon'))
    for p in model.parameters():
        p.grad = torch.randn_like(p)

    def step():
        for optimizer in optimizers:
            optimizer.step()

    taken, _ = in_turns(setup, step, step)
    yield not setup.is_hopper or taken < 0.015, f'{1000 * taken:.2f} ms (on an H100 or H200 under 15 ms)'

def attention_backend(setup: Setup):
    """Whose attention a compiled micro-step runs, forward and backward."""
    x, y = setup.batch()
    model = setup.gpt(1)
    compile_blocks(model)
    for _ in range(2):  # the first compiles
        with torch.profiler.profile() as profile:
            with setup.amp():
                loss = model(x, y)
            loss.backward()
    names = {event.key for event in profile.key_averages()}
    found = sorted(name.removeprefix('aten::') for name in names if '_scaled_dot_product_' in name)
    is_cuda = setup.device.type == 'cuda'
    is_right = all('cudnn' in name for name in found) if setup.is_hopper else len(found) > 0
    what = "cuDNN's on an H100 or H200" if is_cuda else "the CPU's"
    yield len(found) > 0 and is_right, f'{", ".join(found)} ({what})'

def share_of_evaluation(setup: Setup):
    """What validation and HellaSwag take of a run at full depth and the default intervals, with one device
    for all of it."""
    config = TrainConfig()
    x, y = setup.batch()
    model = setup.gpt()
    compile_blocks(model)

    def step():
        with setup.amp():
            loss = model(x, y)
        loss.backward()
        model.zero_grad(set_to_none=True)

    micro_step, _ = in_turns(setup, step, step)
    n_sequences = 41 if setup.is_tiny else config.val_tokens // setup.shape.block_size
    tokens = np.random.default_rng(0).integers(0, 257, n_sequences * setup.shape.block_size + 1, np.uint16)
    examples = questions(setup.items, setup.shape.block_size)
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder, tokens[: setup.tokens + 1], tokens)
        val = data.Split(folder, 'val', setup.shape.block_size, setup.shape.vocab_size)
        # what estimate_loss asks of a job: this device alone
        job = types.SimpleNamespace(config=run_config(setup), rank=0, world_size=1, device=setup.device,
                                    amp=setup.amp())

        def validate():
            train.estimate_loss(job, model, val, n_sequences)

        def score():
            with setup.amp():
                hellaswag.evaluate(model, examples)

        seconds = []
        for function in (validate, score):
            function()
            began = bench.now(setup.device)
            function()
            seconds.append(bench.now(setup.device) - began)
    model.train()
    step_seconds = micro_step * config.total_batch_size / setup.tokens
    validation = seconds[0] / (config.eval_interval * step_seconds)
    scoring = seconds[1] / (config.hellaswag_interval * step_seconds)
    is_right = not setup.is_hopper or validation + scoring < 0.02
    yield (
        is_right,
        f'validation {seconds[0]:.2f} s, {validation:.2%}, HellaSwag {seconds[1]:.2f} s, {scoring:.2%} '
        '(on an H100 or H200 together under 2%)',
    )

def DDP_of_one_rank(setup: Setup):
    """What DDP itself costs: a micro-step whose gradients meet those of no other rank."""
    x, y = setup.batch()
    bare = setup.gpt()
    compile_blocks(bare)
    wrapped = setup.gpt()
    compile_blocks(wrapped)
    backend = 'nccl' if setup.device.type == 'cuda' else 'gloo'
    bound = setup.device if setup.device.type == 'cuda' else None
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, device_id=bound)

    def step(model):
        with setup.amp():
            loss = model(x, y)
        loss.backward()
        model.zero_grad(set_to_none=True)

    before = counters['stats']['unique_graphs']
    ddp = DistributedDataParallel(wrapped, gradient_as_bucket_view=True)
    alone, together = in_turns(setup, lambda: step(bare), lambda: step(ddp))
    new_graphs = counters['stats']['unique_graphs'] - before
    dist.destroy_process_group()
    ratio = together / alone
    is_right = new_graphs <= 5 and (setup.is_tiny or ratio < 1.06)
    yield is_right, f'{ratio:.3f}x the time without, {new_graphs} graphs for both (under 1.06x, at most 5)'

def HellaSwag_speed(setup: Setup):
    """Synthetic items of the real ones' lengths."""
    examples = questions(setup.items, setup.shape.block_size)
    model = setup.gpt().eval()
    bench.now(setup.device)
    began = bench.now(setup.device)
    with setup.amp():
        scores = hellaswag.evaluate(model, examples)
    taken = bench.now(setup.device) - began
    is_right = scores['n'] == setup.items and (not setup.is_hopper or taken < 8)
    yield is_right, f'{setup.items:,} items in {taken:.1f} s (on an H100 or H200 10,000 under 8 s)'

def memory_settings(setup: Setup):
    """Segments that grow, unless the user has said otherwise."""
    if setup.device.type != 'cuda':
        yield True, 'a matter of CUDA'
        return
    kept = torch.zeros(2**24, device=setup.device)
    kinds = {segment['is_expandable'] for segment in torch.cuda.memory_snapshot()}
    asked = os.environ.get('PYTORCH_ALLOC_CONF') == 'expandable_segments:True'
    yield not asked or kinds == {True}, f'expandable segments: {kinds}, {len(kept)} numbers allocated'

CHECKS = (
    model_as_on_the_CPU,
    run_as_on_the_CPU,
    HellaSwag_as_on_the_CPU,
    bfloat16_trains_as_float32,
    memory_settings,
    head_kernel,
    head_alone,
    full_depth_step,
    cost_by_depth,
    gradients_as_eager_over_growth,
    DDP_of_one_rank,
    fused_AdamW,
    Muon,
    attention_backend,
    HellaSwag_speed,
    share_of_evaluation,
    whole_run,
)

# ------------------------------------------------------------------------------------------------------------
# what the checks share

def furthest(found: list, right: list) -> float:
    """The largest relative error among tensors, by their norms; infinite where one isn't finite."""
    if len(found) != len(right):
        raise ValueError(f'{len(found)} gradients, not {len(right)}')
    worst = 0.0
    for a, b in zip(found, right):
        error = float((a - b).norm() / b.norm())
        worst = max(worst, error if math.isfinite(error) else math.inf)  # max() overlooks nan
    return worst

def in_turns(setup: Setup, one, other) -> tuple[float, float]:
    """Median seconds of each, measured in turns after two of each that don't count."""
    seconds = ([], [])
    for turn in range(setup.turns + 2):
        for function, found in zip((one, other), seconds):
            began = bench.now(setup.device)
            for _ in range(1 if setup.is_tiny else 4):
                function()
            taken = (bench.now(setup.device) - began) / (1 if setup.is_tiny else 4)
            if turn >= 2:
                found.append(taken)
    return statistics.median(seconds[0]), statistics.median(seconds[1])

def peak_of(setup: Setup, function) -> int:
    """Peak of the GPU's memory in bytes while function() runs, above what is allocated before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    return bench.peak_memory(setup.device) - before

def plain_loss(model: GPT, x, y):
    """The loss as it is usually written: all logits at once."""
    return F.cross_entropy(model.logits(x).flatten(0, 1), y.flatten())

def run_config(setup: Setup) -> TrainConfig:
    """A config of the setup's shape, for the ledger and the optimizers."""
    shape = {
        name: getattr(setup.shape, name)
        for name in ('n_layer', 'n_head', 'n_embd', 'block_size', 'vocab_size')
    }
    return TrainConfig(**shape, total_batch_size=setup.tokens, batch_size=setup.batch_size)

def questions(n: int, block_size: int) -> list:
    """n encoded examples: as many bytes as HellaSwag's have tokens."""
    examples = []
    rng = np.random.default_rng(0)
    for ind in range(n):
        text = ''.join(rng.choice(list('abcdefghij '), 170))
        length = int(rng.integers(30, 100))
        endings = [text[start : start + int(rng.integers(8, 40))] for start in (100, 110, 120, 130)]
        examples.append({'ind': ind, 'ctx': text[:length], 'endings': endings, 'label': ind % 4})
    return hellaswag.encode(examples, 'bytes', 'nanogpt', block_size)

def text_tokens(n: int) -> torch.Tensor:
    """The bytes of a text that a small model can learn."""
    text = TEXT * math.ceil(n / len(TEXT))
    return torch.tensor(list(text.encode()[:n]))

@dataclass
class SmallData:
    """A folder with a small data set, and the flags of a run on it."""

    folder: str
    flags: list

def write_data(folder: str, train_tokens, val_tokens):
    """A data folder of bytes."""
    data.write_shard(f'{folder}/x_train_000001.bin', train_tokens)
    data.write_shard(f'{folder}/x_val_000000.bin', val_tokens)
    Path(folder, 'meta.json').write_text(json.dumps({'tokenizer': 'bytes', 'vocab_size': 257, 'eot': 256}))

@contextlib.contextmanager
def small_data():
    with tempfile.TemporaryDirectory() as folder:
        tokens = text_tokens(5000).numpy().astype(np.uint16)
        write_data(folder, tokens[:4000], tokens[4000:])
        settings = {
            'data_dir': folder,
            'vocab_size': 320,
            'n_layer': 4,
            'n_head': 2,
            'n_embd': 32,
            'block_size': 32,
            'total_batch_size': 256,
            'batch_size': 4,
            'n_stages': 3,
            'growth_steps': 18,
            'continual_steps': 6,
            'val_tokens': 640,
            'eval_interval': 6,
            'hellaswag_interval': 0,
            'log_interval': 1,
            'checkpoint_interval': 5,
            'learning_rate': 1e-3,
            'dtype': 'float32',
            'compile': False,
            'keep_checkpoints': 9,
        }
        yield SmallData(folder, [f'--{name}={value}' for name, value in settings.items()])

def run_training(flags: list):
    """train.py in this process, its console out of the way. TF32 off, as the numbers are compared with the
    CPU's."""
    argv = sys.argv
    sys.argv = ['train.py', *flags]
    real = train.prepare

    def prepare(argv):
        job = real(argv)
        torch.backends.cuda.matmul.allow_tf32 = False
        return job

    train.prepare = prepare
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train.main()
    finally:
        train.prepare = real
        sys.argv = argv

def losses(out_dir: str) -> list[float]:
    """Every training and validation loss of a run, in order."""
    found = []
    with open(f'{out_dir}/metrics.jsonl', encoding='utf-8') as f:
        for record in map(json.loads, f):
            found += [record[name] for name in ('loss', 'val_loss') if name in record]
    return found

if __name__ == '__main__':
    main()
