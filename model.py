"""
GPT-2 with layer-stage hooks: grow() adds blocks, freeze() says what trains.

The model is GPT-2 exactly: learned positions, pre-norm blocks with biases, LayerNorm epsilon 1e-5, tanh GELU, head tied to
the token embedding. Parameters have nanoGPT's names (transformer.h.0.attn.c_attn.weight, ...). A block that has not grown
yet does not exist. At GPT-2's vocabulary of 50,257 and 12 layers the model has 124,439,808 parameters.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import UserError
from growth import layout, problem_with

LARGE = 2**20  # numbers in an activation; below, the time that Python takes to save memory is worth more than 4 MB


def compute_dtype(x) -> torch.dtype:
    """The dtype in which x is multiplied here: autocast's where that is on, else its own."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


@dataclass(frozen=True)
class GPTConfig:
    """Shape of the model. n_layer is the final depth, by which residual projections are scaled at initialisation."""

    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0


def gelu(x):
    return F.gelu(x, approximate='tanh')


def recompute_linear(function, linear: nn.Linear, x):
    """linear(function(x)), whose backward computes function(x) again instead of keeping it, where it is large.

    For GELU and the norms that is a third of what a block would keep. torch.utils.checkpoint does the same, but costs a small
    model twice as much time. Compiled blocks choose by themselves what to compute again.
    """
    y = function(x)
    if torch.compiler.is_compiling() or y.numel() < LARGE:
        return linear(y)
    y = y.to(compute_dtype(y))
    x, address, dtype = x.detach(), y.data_ptr(), y.dtype

    def pack(kept):  # what autograd would keep: y, the weights
        return kept.shape if kept.data_ptr() == address else kept

    def unpack(kept):
        return kept if isinstance(kept, torch.Tensor) else function(x).to(dtype).view(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return linear(y)


class SelfAttention(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values of all heads at once
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, norm, mask=None):
        B, T, C = x.shape
        qkv = recompute_linear(norm, self.c_attn, x)
        q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in qkv.split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None,  # (B, n_head, T, C / n_head)
                                           dropout_p=self.dropout if self.training else 0.0)
        return F.dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)), self.dropout, self.training)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x, norm):
        return F.dropout(recompute_linear(gelu, self.c_proj, recompute_linear(norm, self.c_fc, x)), self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x, mask=None):  # x (B, T, C); mask (B, 1, T, T), True where attention may look; None: causal
        x = x + self.attn(x, self.ln_1, mask)
        return x + self.mlp(x, self.ln_2)


class FusedLinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of F.linear(x, weight), a chunk of rows at a time, with the gradients computed on the spot.

    So the logits of all rows never exist, forward or backward, and no product is done twice. (torch's own
    F.linear_cross_entropy with options works alike, but stays in float32 under autocast.)
    """

    CHUNK = 2**25  # logits at a time: 128 MB in float32, 667 rows of GPT-2's vocabulary; in bfloat16 64 MB beside them

    @staticmethod
    def forward(ctx, x, weight, targets, train: bool):  # x (N, C), weight (V, C), targets (N,)
        dtype = compute_dtype(x)
        w = weight.to(dtype)
        ctx.dx = torch.empty_like(x) if train and ctx.needs_input_grad[0] else None
        ctx.dw = torch.zeros_like(weight) if train and ctx.needs_input_grad[1] else None
        chunks = math.ceil(len(x) * len(weight) / FusedLinearCrossEntropy.CHUNK)
        rows = math.ceil(len(x) / chunks)
        # all chunks share one memory for what the matrix products give and take, and one for what needs float32
        products = torch.empty(rows, len(weight), dtype=dtype, device=x.device)
        logits = products if dtype == torch.float32 else torch.empty_like(products, dtype=torch.float32)
        dw = torch.empty_like(w) if ctx.dw is not None and dtype != weight.dtype else None
        losses = []
        for i in range(0, len(x), rows):
            x_chunk, y = x[i : i + rows].to(dtype), targets[i : i + rows, None]
            product, p = products[: len(y)], logits[: len(y)]
            torch.mm(x_chunk, w.t(), out=product)
            p.copy_(product)  # the logits in float32; in this memory they become the softmax and then the gradient
            top, target = p.amax(1, keepdim=True), p.gather(1, y)
            z = p.sub_(top).exp_().sum(1, keepdim=True)
            losses.append(z.log() + top - target)
            if ctx.dx is None and ctx.dw is None:
                continue
            p.mul_(1 / (len(x) * z)).scatter_add_(1, y, torch.full_like(z, -1 / len(x)))  # d loss / d logits
            product.copy_(p)
            if ctx.dx is not None:
                ctx.dx[i : i + rows] = product @ w
            if dw is not None:
                ctx.dw += torch.mm(product.t(), x_chunk, out=dw)
            elif ctx.dw is not None:
                torch.addmm(ctx.dw, product.t(), x_chunk, out=ctx.dw)  # addmm_ is not in torch's flop counter
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx, grad):
        dx, dw = ctx.dx, ctx.dw
        del ctx.dx, ctx.dw
        return None if dx is None else dx.mul_(grad), None if dw is None else dw.mul_(grad), None, None


class GPT(nn.Module):
    """A GPT-2 of `depth` blocks (default: all n_layer), initialised from `generator` (default: torch's global one)."""

    def __init__(self, config: GPTConfig, depth: int | None = None, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict({
            'wte': nn.Embedding(config.vocab_size, config.n_embd),
            'wpe': nn.Embedding(config.block_size, config.n_embd),
            'h': nn.ModuleList(),
            'ln_f': nn.LayerNorm(config.n_embd),
        })
        for embedding in (self.transformer.wte, self.transformer.wpe):
            nn.init.normal_(embedding.weight, std=0.02, generator=generator)
        self.grow(config.n_layer if depth is None else depth, 'random', generator)
        self.freeze((), 'train')

    @property
    def depth(self) -> int:
        return len(self.transformer.h)

    def grow(self, depth: int, init: str, generator: torch.Generator | None = None, layers=None) -> list:
        """Add blocks until there are `depth`: where each goes and what it copies is growth.layout's to say, or `layers`'.

        Existing blocks stay the same objects with the same weights. New ones are drawn on the CPU from `generator`, so that
        the same seed gives the same layers on every rank, device and resume. `freeze` must be called afterwards.
        Returns the new blocks from the bottom up, each as (block, the old block that it copies or None).
        Raises UserError, naming the operator, if the layout is no growth of this model to `depth`.
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
        """A block as GPT-2 initialises it: normal with std 0.02, residual projections by 1/sqrt(2 n_layer) less."""
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
        """Set requires_grad on every parameter: `blocks` (indices, or n for the n lowest) don't train, the others do.

        embeddings: 'train' trains both embeddings (and so the tied head); 'input_frozen' cuts the graph behind the
        embeddings: the token embedding moves through the head alone, positions don't; 'frozen' trains neither. The
        final norm always trains.
        """
        blocks = range(blocks) if isinstance(blocks, int) else blocks
        self.requires_grad_(True)
        for i in blocks:
            self.transformer.h[i].requires_grad_(False)
        self.transformer.wte.requires_grad_(embeddings != 'frozen')
        self.transformer.wpe.requires_grad_(embeddings == 'train')
        self.cut_input = embeddings != 'train'

    def hidden(self, idx, positions=None, mask=None):
        """idx (B, T) -> (B, T, C) behind the final norm. In training mode blocks run compiled where they are."""
        assert idx.shape[1] <= self.config.block_size or positions is not None, 'sequence longer than block_size'
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
        """idx, targets (B, T) int64 -> mean cross-entropy in nats, without ever holding the logits of all B * T rows."""
        x = self.hidden(idx).flatten(0, 1)
        return FusedLinearCrossEntropy.apply(x, self.transformer.wte.weight, targets.flatten(), torch.is_grad_enabled())

    def logits(self, idx, at=None, positions=None, mask=None):
        """idx (B, T) -> logits: (B, T, vocab_size), or (N, vocab_size) at the N places `at` = (rows (N,), columns (N,)).

        positions (T,) or (B, T): where each token stands, default 0 to T-1. mask (B, 1, T, T) or (1, 1, T, T): True where
        a token may look; default: at itself and all before it.
        """
        x = self.hidden(idx, positions, mask)
        return F.linear(x if at is None else x[at], self.transformer.wte.weight)
