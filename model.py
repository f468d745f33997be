"""
GPT-2 with layer-stage hooks: grow() adds blocks, freeze() says what trains.

The model is GPT-2 exactly: learned positions, pre-norm blocks with biases, LayerNorm epsilon 1e-5, tanh GELU,
head tied to the token embedding. Parameters have nanoGPT's names (transformer.h.0.attn.c_attn.weight, ...). A
block that has not grown yet does not exist. At GPT-2's vocabulary of 50,257 and 12 layers the model has
124,439,808 parameters.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from core.common import UserError
from growth import layout, problem_with

# Numbers in an activation. Below, the time that Python takes to save memory is worth more than 4 MB.
LARGE = 2**20


def compute_dtype(x) -> torch.dtype:
    """The dtype in which x is multiplied here: autocast's where that is on, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@dataclass(frozen=True)
class GPTConfig:
    """Shape of the model. n_layer is the final depth, by which residual projections are scaled at
    initialisation."""

    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0


def gelu(x):
    return F.gelu(x, approximate='tanh')


def recompute_linear(function, linear: nn.Linear, x):
    """linear(function(x)), whose backward computes function(x) again where it is large, instead of keeping
    it.

    That is activation checkpointing of GELU and the norms alone, a third of what a block would keep.
    torch.utils.checkpoint does the same, but costs a small model twice as much time. Compiled blocks choose
    by themselves what to compute again.
    """
    y = function(x)
    if torch.compiler.is_compiling() or y.numel() < LARGE:
        return linear(y)
    y = y.to(compute_dtype(y))
    x = x.detach()
    y_address = y.data_ptr()
    y_dtype = y.dtype

    # Autograd wants to keep y, for the weight's gradient, and the weight. Of y it gets the shape alone.
    def pack(saved):
        return saved.shape if saved.data_ptr() == y_address else saved

    def unpack(packed):
        if isinstance(packed, torch.Tensor):
            return packed
        return function(x).to(y_dtype).view(packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return linear(y)


class SelfAttention(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys, values of all heads
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, norm, mask=None):
        B, T, C = x.shape
        heads = (B, T, self.n_head, C // self.n_head)
        q, k, v = recompute_linear(norm, self.c_attn, x).split(C, dim=2)
        q = q.view(heads).transpose(1, 2)  # (B, n_head, T, C / n_head)
        k = k.view(heads).transpose(1, 2)
        v = v.view(heads).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0  # the function does not know the module's mode
        causal = mask is None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)
        y = y.transpose(1, 2).reshape(B, T, C)  # the heads side by side again
        return F.dropout(self.c_proj(y), self.dropout, self.training)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x, norm):
        y = recompute_linear(norm, self.c_fc, x)  # (B, T, 4 C)
        y = recompute_linear(gelu, self.c_proj, y)
        return F.dropout(y, self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x, mask=None):
        """x (B, T, C) -> (B, T, C). mask (B, 1, T, T): True where attention may look; None: causal."""
        x = x + self.attn(x, self.ln_1, mask)
        return x + self.mlp(x, self.ln_2)


# ------------------------------------------------------------------------------------------------------------
# the head's loss


class FusedLinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of F.linear(x, weight) in nats, a chunk of rows at a time, with its gradients.

    So the logits of all rows never exist, forward or backward, and no matmul is done twice. What happens
    between the matmuls is memory traffic: on a GPU it would cost more than they do, so with `is_compiled` it
    is one kernel. (torch's own F.linear_cross_entropy works alike, but stays in float32 under autocast, or
    sums in bfloat16.)
    """

    # Logits at a time: in float32 128 MB, 667 rows of GPT-2's vocabulary, with 64 MB beside them under
    # bfloat16. A GPU wants larger matmuls: 2^28 bfloat16 logits are 512 MB.
    CHUNK = 2**25
    CUDA_CHUNK = 2**28

    @staticmethod
    def forward(ctx, x, weight, targets, train: bool, is_compiled: bool):
        """x (N, C), weight (V, C), targets (N,) int64 -> scalar. train: gradients will be asked for."""
        ctx.dx = None
        ctx.dw = None
        if train and ctx.needs_input_grad[0]:
            ctx.dx = torch.empty_like(x)
        if train and ctx.needs_input_grad[1]:
            ctx.dw = torch.zeros_like(weight)
        has_gradient = ctx.dx is not None or ctx.dw is not None
        N = len(x)
        w = weight.to(compute_dtype(x))
        chunk = ChunkMemory.of(x, w, is_compiled)
        losses = []
        for first in range(0, N, chunk.rows):
            rows = slice(first, first + chunk.rows)
            x_chunk = x[rows].to(w.dtype)
            y = targets[rows, None]
            n = len(y)
            missing = chunk.rows - n
            if is_compiled and missing:
                # All of one size, or there would be a second graph. Rows of zeros add nothing to dw.
                x_chunk = F.pad(x_chunk, (0, 0, 0, missing))
                y = F.pad(y, (0, 0, 0, missing))
            logits = chunk.logits[: len(y)]
            torch.mm(x_chunk, w.t(), out=logits)
            if is_compiled:
                loss = compiled_chunk_loss()(logits, y, 1 / N)
            else:
                loss = eager_chunk_loss(logits, chunk.float32[: len(y)], y, N, has_gradient)
            losses.append(loss[:n])
            gradient = logits  # the same memory, by now
            if ctx.dx is not None:
                dx = gradient @ w
                ctx.dx[rows] = dx[:n]
            if ctx.dw is not None:
                add_matmul(ctx.dw, gradient.t(), x_chunk)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx, grad):
        dx = ctx.dx
        dw = ctx.dw
        del ctx.dx, ctx.dw  # what is returned is accumulated in place where nobody else holds it
        if dx is not None:
            dx.mul_(grad)
        if dw is not None:
            dw.mul_(grad)
        return dx, dw, None, None, None


@dataclass
class ChunkMemory:
    """What all chunks of a loss share: their size, and the memory of the logits and then their gradient."""

    rows: int  # of x, at most
    logits: torch.Tensor  # (rows, V), what the matmuls give and take
    float32: torch.Tensor  # (rows, V), the same memory where the matmuls are in float32; eager only

    @classmethod
    def of(cls, x, w, is_compiled: bool):
        """For x (N, C) and w (V, C), both as FusedLinearCrossEntropy multiplies them."""
        N = len(x)
        V = len(w)
        largest = FusedLinearCrossEntropy.CHUNK
        if is_compiled and x.device.type == 'cuda':
            largest = FusedLinearCrossEntropy.CUDA_CHUNK
        n_chunks = math.ceil(N * V / largest)
        rows = math.ceil(N / n_chunks)
        if is_compiled:
            # Tensor cores want rows that begin at multiples of 128 bytes. 50,257 columns don't give them.
            aligned = math.ceil(V / 64) * 64
            logits = torch.empty(rows, aligned, dtype=w.dtype, device=x.device)
            logits = logits[:, :V]
            return cls(rows, logits, logits)
        logits = torch.empty(rows, V, dtype=w.dtype, device=x.device)
        if w.dtype == torch.float32:
            return cls(rows, logits, logits)
        return cls(rows, logits, torch.empty_like(logits, dtype=torch.float32))


def eager_chunk_loss(logits, float32, y, n_rows: int, has_gradient: bool):
    """Cross-entropy (rows, 1) of logits (rows, V) and targets y (rows, 1). Over the logits goes the gradient
    of the mean over `n_rows`, where it is wanted. `float32` (rows, V) is memory for the steps between."""
    float32.copy_(logits)
    top = float32.amax(1, keepdim=True)
    target = float32.gather(1, y)
    # In place from here on: what were the logits becomes the softmax, and then the gradient.
    total = float32.sub_(top).exp_().sum(1, keepdim=True)
    if has_gradient:
        float32.mul_(1 / (n_rows * total))
        float32.scatter_add_(1, y, torch.full_like(total, -1 / n_rows))
        logits.copy_(float32)
    return total.log() + top - target


def chunk_loss(logits, y, scale: float):
    """The same for torch.compile, with a gradient times `scale`. On a GPU it becomes one kernel that reads
    each logit twice and writes it once, 6 bytes in bfloat16; eager it would cost 1.7 times as much as the
    above."""
    x = logits.float()
    # Just these steps are what inductor knows as an online softmax: maximum and sum in one pass.
    top = x.amax(1, keepdim=True)
    exponentials = (x - top).exp()
    log_total = exponentials.sum(1, keepdim=True).log()
    # A gather or scatter would end the kernel. A comparison in every column costs nothing: memory is the
    # limit.
    is_target = torch.arange(logits.shape[1], device=logits.device) == y
    target = torch.where(is_target, x, 0.0).sum(1, keepdim=True)
    # exponentials / total would be the same; but then inductor keeps them in memory, 4 bytes a logit.
    softmax = (x - top - log_total).exp()
    gradient = (softmax - is_target.float()) * scale
    logits.copy_(gradient)
    return log_total + top - target


@functools.cache
def compiled_chunk_loss():
    """chunk_loss, compiled at its first call."""
    return torch.compile(chunk_loss, fullgraph=True, dynamic=False)


def add_matmul(total, a, b):
    """total += a @ b, where total is float32 and a and b may be bfloat16."""
    if a.dtype == total.dtype:
        torch.addmm(total, a, b, out=total)  # addmm_ is not in torch's flop counter
    elif adds_in_float32(a.device, a.dtype):
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


@functools.cache
def adds_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a matmul of `dtype` can add to a float32 tensor by itself: on CUDA, if this torch can do it."""
    if device.type != 'cuda':
        return False
    a = torch.zeros(16, 16, dtype=dtype, device=device)
    total = torch.zeros(16, 16, device=device)
    try:  # builds differ, and none says what it can do
        torch.addmm(total, a, a, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return True


# ------------------------------------------------------------------------------------------------------------
# the model


class GPT(nn.Module):
    """A GPT-2 of `depth` blocks (default: n_layer), initialised from `generator` (default: torch's own)."""

    def __init__(self, config: GPTConfig, depth: int | None = None, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.compiled_loss = False  # device.compile_blocks sets it
        self.transformer = nn.ModuleDict()
        self.transformer['wte'] = nn.Embedding(config.vocab_size, config.n_embd)
        self.transformer['wpe'] = nn.Embedding(config.block_size, config.n_embd)
        self.transformer['h'] = nn.ModuleList()
        self.transformer['ln_f'] = nn.LayerNorm(config.n_embd)
        for embedding in (self.transformer.wte, self.transformer.wpe):
            nn.init.normal_(embedding.weight, std=0.02, generator=generator)
        self.grow(config.n_layer if depth is None else depth, 'random', generator)
        self.freeze((), 'train')

    @property
    def depth(self) -> int:
        return len(self.transformer.h)

    def grow(self, depth: int, init: str, generator: torch.Generator | None = None, layers=None) -> list:
        """Add blocks until there are `depth`, where growth.layout(init, ...) says, or the layout `layers`.

        Existing blocks stay the same objects with the same weights. New ones are drawn on the CPU from
        `generator`, so that the same seed gives the same layers on every rank, device and resume. `freeze`
        must be called afterwards. Returns the new blocks from the bottom up, each as (block, the old block
        that it copies or None). Raises UserError, naming the operator, if the layout is no growth of this
        model to `depth`.
        """
        old = list(self.transformer.h)
        if layers is None:
            layers = layout(init, len(old), depth)
        problem = problem_with(layers, len(old), depth)
        if problem:
            raise UserError(f'the growth operator {init!r} {problem}')
        blocks, new_blocks = [], []
        for source, is_new in layers:
            if not is_new:
                blocks.append(old[source])
                continue
            block = self.new_block(generator)
            copied = None
            if source is not None:
                copied = old[source]
                block.load_state_dict(copied.state_dict())
            elif init == 'zero':  # the block adds nothing to the residual stream
                nn.init.zeros_(block.attn.c_proj.weight)
                nn.init.zeros_(block.mlp.c_proj.weight)
            block.to(self.transformer.wte.weight.device)
            blocks.append(block)
            new_blocks.append((block, copied))
        self.transformer.h = nn.ModuleList(blocks).train(self.training)
        return new_blocks

    def new_block(self, generator: torch.Generator | None) -> Block:
        """A block as GPT-2 initialises it: normal with std 0.02, residual projections by 1/sqrt(2 n_layer)
        less."""
        with torch.device('cpu'):
            block = Block(self.config)
        for name, p in block.named_parameters():
            if name.endswith('c_proj.weight'):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.config.n_layer), generator=generator)
            elif p.dim() == 2:
                nn.init.normal_(p, std=0.02, generator=generator)
            elif name.endswith('.bias'):
                nn.init.zeros_(p)
        return block

    def freeze(self, blocks, embeddings: str):
        """Set requires_grad on every parameter: `blocks` (indices, or n for the n lowest) don't train.

        embeddings: 'train' trains both embeddings (and so the tied head); 'input_frozen' cuts the graph after
        the embeddings: the token embedding moves through the head alone, positions don't; 'frozen' trains
        neither. The final norm always trains.
        """
        blocks = range(blocks) if isinstance(blocks, int) else blocks
        self.requires_grad_(True)
        for i in blocks:
            self.transformer.h[i].requires_grad_(False)
        self.transformer.wte.requires_grad_(embeddings != 'frozen')
        self.transformer.wpe.requires_grad_(embeddings == 'train')
        self.cut_input = embeddings != 'train'

    def hidden(self, idx, positions=None, mask=None):
        """idx (B, T) -> (B, T, C) after the final norm. In training mode blocks run compiled where they
        are."""
        assert idx.shape[1] <= self.config.block_size or positions is not None, (
            'sequence longer than block_size'
        )
        if positions is None:
            positions = torch.arange(idx.shape[1], device=idx.device)
        x = self.transformer.wte(idx) + self.transformer.wpe(positions)
        if self.cut_input:
            x = x.detach()  # from here up to the first layer that trains, autograd keeps nothing
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.transformer.h:
            x = block(x) if self.training else block.forward(x, mask)  # block.forward: never the compiled one
        return self.transformer.ln_f(x)

    def forward(self, idx, targets):
        """idx, targets (B, T) int64 -> mean cross-entropy in nats, without the logits of all B * T rows."""
        x = self.hidden(idx).flatten(0, 1)
        weight = self.transformer.wte.weight
        train = torch.is_grad_enabled()
        is_compiled = self.compiled_loss and self.training  # evaluation compiles nothing
        return FusedLinearCrossEntropy.apply(x, weight, targets.flatten(), train, is_compiled)

    def logits(self, idx, at=None, positions=None, mask=None):
        """idx (B, T) -> logits: (B, T, vocab_size), or (N, vocab_size) at the N places `at` = (rows (N,),
        columns (N,)).

        positions (T,) or (B, T): where each token stands, default 0 to T-1. mask (B, 1, T, T) or (1, 1, T,
        T): True where a token may look; default: at itself and all before it.
        """
        x = self.hidden(idx, positions, mask)
        if at is not None:
            x = x[at]
        return F.linear(x, self.transformer.wte.weight)
