"""
GPT-2, or a Llama, with layer-stage hooks: grow() adds blocks, freeze() says what trains.

    arch     positions  norm       MLP        attention                               head
    gpt2     learned    LayerNorm  tanh GELU  biases everywhere                       tied to the embedding
    llama    rotary     RMSNorm    SwiGLU     n_kv_head keys and values, no biases    tied or not

Both are the published models exactly; Qwen2 is a Llama with biases on queries, keys and values, Qwen3 one
with a norm on each head's queries and keys. Parameters have nanoGPT's names (transformer.h.0.attn.c_attn...),
also a Llama's: c_attn holds queries, keys and values, c_fc gate and up. A block that has not grown yet does
not exist. At GPT-2's vocabulary of 50,257 and 12 layers GPT-2 has 124,439,808 parameters.
"""

import contextlib
import functools
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.loss import FusedLinearCrossEntropy, compiled, loss_by_chunks, recompute_linear

@dataclass(frozen=True)
class GPTConfig:
    """Shape of the model. n_layer is the final depth, which scales residual projections at initialisation."""

    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    arch: str = 'gpt2'  # or 'llama', which has what follows beside them
    n_kv_head: int = 0
    head_dim: int = 0
    n_ff: int = 0  # width of gate and up
    rope_theta: float | tuple = 10_000.0  # the base; five numbers with Llama 3.1's scaling
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    # what only a checkpoint can bring
    qkv_bias: bool = False
    qk_norm: bool = False

@functools.lru_cache
def frequencies(config: GPTConfig, device: torch.device):
    """How many radians a token each pair of a head's numbers turns, float32 (head_dim / 2,).

    The i-th turns by theta^(-2 i / head_dim) (Su et al. 2021); in Llama 3.1 those that turn less than `low`
    times in the `original` context by `factor` less, those above `high` not, and in between it blends.
    """
    theta, *scaling = config.rope_theta if isinstance(config.rope_theta, tuple) else (config.rope_theta,)
    turning = 1.0 / theta ** (torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim)
    if scaling:
        factor, low, high, original = scaling
        turns = original * turning / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)
        turning = turning * (share + (1 - share) / factor)
    return turning

class SelfAttention(nn.Module):
    """Causal attention. A Llama's n_head / n_kv_head heads of queries share one of keys and values."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        is_llama = config.arch == 'llama'
        self.dropout = config.dropout
        self.head_dim = config.head_dim if is_llama else config.n_embd // config.n_head
        n = config.n_head * self.head_dim
        n_kv = config.n_kv_head * self.head_dim if is_llama else n
        self.c_attn = nn.Linear(config.n_embd, n + 2 * n_kv, bias=config.qkv_bias or not is_llama)
        self.c_attn.rows = (n, n_kv, n_kv)  # queries, keys, values, for who takes them apart, as Muon does
        self.c_proj = nn.Linear(n, config.n_embd, bias=not is_llama)
        self.q_norm = nn.RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x, norm, mask=None, rotary=None):
        B, T, _ = x.shape
        q, k, v = recompute_linear(norm, self.c_attn, x).split(self.c_attn.rows, dim=2)
        q, k, v = (part.view(B, T, -1, self.head_dim) for part in (q, k, v))
        if self.q_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, n_head or n_kv_head, T, head_dim)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        dropout = self.dropout if self.training else 0.0  # the function does not know the module's mode
        causal, shared = mask is None, q.size(1) != k.size(1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout,
                                           enable_gqa=shared)
        y = y.transpose(1, 2).flatten(2)  # the heads side by side again
        return F.dropout(self.c_proj(y), self.dropout, self.training)

def rotate(x, rotary):
    """Turn each pair (i, i + head_dim / 2) of the numbers of x (B, heads, T, head_dim) by its angle."""
    cos, sin = rotary  # (1, T, head_dim / 2) or (B, 1, T, head_dim / 2), float32
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)

def gelu(x):
    return F.gelu(x, approximate='tanh')

def swiglu(x):
    gate, up = x.chunk(2, dim=-1)  # (B, T, n_ff) each
    return F.silu(gate) * up

class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        is_llama = config.arch == 'llama'
        self.dropout = config.dropout
        self.activation = swiglu if is_llama else gelu
        width = config.n_ff if is_llama else 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, 2 * width if is_llama else width, bias=not is_llama)
        if is_llama:
            self.c_fc.rows = (width, width)  # gate, up
        self.c_proj = nn.Linear(width, config.n_embd, bias=not is_llama)

    def forward(self, x, norm):
        y = recompute_linear(norm, self.c_fc, x)
        y = recompute_linear(self.activation, self.c_proj, y)
        return F.dropout(y, self.dropout, self.training)

class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = new_norm(config)
        self.attn = SelfAttention(config)
        self.ln_2 = new_norm(config)
        self.mlp = MLP(config)

    def forward(self, x, added=None, mask=None, rotary=None):
        """x (B, T, C) and what the block below adds to it (B, T, C) -> the same two of this block.

        So compiled code adds it in the kernel of the next norm. mask (B, 1, T, T): True where attention may
        look; None: causal. rotary: a Llama's cosines and sines.
        """
        if added is not None:  # nothing is below the first block
            x = x + added
        x = x + self.attn(x, self.ln_1, mask, rotary)
        return x, self.mlp(x, self.ln_2)

def new_norm(config: GPTConfig) -> nn.Module:
    if config.arch == 'llama':
        return nn.RMSNorm(config.n_embd, config.norm_eps)
    return nn.LayerNorm(config.n_embd)

def embed(idx, positions, wte, wpe=None):
    """idx (B, T), positions (T,) or (B, T) -> (B, T, C). A Llama has no weights wpe for positions."""
    x = F.embedding(idx, wte)
    return x if wpe is None else x + F.embedding(positions, wpe)

def final_norm(x, added, norm):
    return norm(x + added)

def cudnn_attention_first():
    """A context in which attention is cuDNN's, the fastest on an H100, where torch has it for the dtype."""
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    return sdpa_kernel([*order, SDPBackend.MATH], set_priority=True)

class GPT(nn.Module):
    """A model of `depth` blocks (default: n_layer), initialised from `generator` (default: torch's own)."""

    def __init__(self, config: GPTConfig, depth: int | None = None, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.is_compiled = False  # device.compile_blocks sets it
        self.transformer = nn.ModuleDict()
        self.transformer['wte'] = nn.Embedding(config.vocab_size, config.n_embd)
        if config.arch == 'gpt2':
            self.transformer['wpe'] = nn.Embedding(config.block_size, config.n_embd)
        self.transformer['h'] = nn.ModuleList()
        self.transformer['ln_f'] = new_norm(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02, generator=generator)
        n_blocks = config.n_layer if depth is None else depth
        self.grow([(None, True)] * n_blocks, 'random', generator)
        self.freeze((), 'train')

    @property
    def depth(self) -> int:
        return len(self.transformer.h)

    @property
    def embeddings(self) -> list:
        return [self.transformer[name] for name in ('wte', 'wpe') if name in self.transformer]

    @property
    def head_weight(self):
        """(vocab_size, C): the token embedding's, or the head's own."""
        return self.transformer.wte.weight if self.config.tie_embeddings else self.lm_head.weight

    def grow(self, layers, fresh: str = 'random', generator: torch.Generator | None = None) -> list:
        """Become the model that the layout `layers` says, (source, is_new) from the bottom up: see growth.py.

        Existing blocks stay the same objects with the same weights. New ones are drawn on the CPU from
        `generator`, so that the same seed gives the same layers on every rank, device and resume; with
        `fresh` 'zero' those without a source add nothing to the residual stream. The layout is one that
        growth.problem_with finds right; `freeze` must be called afterwards. Returns the new blocks from the
        bottom up, each as (block, the old block that it copies or None).
        """
        old = list(self.transformer.h)
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
            elif fresh == 'zero':
                nn.init.zeros_(block.attn.c_proj.weight)
                nn.init.zeros_(block.mlp.c_proj.weight)
            block.to(self.transformer.wte.weight.device)
            blocks.append(block)
            new_blocks.append((block, copied))
        self.transformer.h = nn.ModuleList(blocks).train(self.training)
        return new_blocks

    def new_block(self, generator: torch.Generator | None) -> Block:
        """A block as GPT-2 initialises it: std 0.02, residual projections by 1/sqrt(2 n_layer) less."""
        # A model on 'meta' holds no numbers yet: whoever built it there brings them.
        with torch.device('meta' if self.transformer.wte.weight.is_meta else 'cpu'):
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

        embeddings: 'train' trains embeddings and head; 'input_frozen' cuts the graph after the embeddings:
        the head trains, which moves the token embedding where both are one, positions don't; 'frozen' trains
        neither. The final norm always trains.
        """
        blocks = range(blocks) if isinstance(blocks, int) else blocks
        self.requires_grad_(True)
        for i in blocks:
            self.transformer.h[i].requires_grad_(False)
        for embedding in self.embeddings:
            embedding.weight.requires_grad_(embeddings == 'train')
        self.head_weight.requires_grad_(embeddings != 'frozen')
        self.cut_input = embeddings != 'train'

    def hidden(self, idx, positions=None, mask=None):
        """idx (B, T) -> (B, T, C) after the final norm. Blocks run compiled in training mode alone."""
        if positions is None:
            assert idx.shape[1] <= self.config.block_size, 'sequence longer than block_size'
            positions = torch.arange(idx.shape[1], device=idx.device)
        weights = [embedding.weight for embedding in self.embeddings]
        if self.cut_input:  # from here up to the first layer that trains, autograd keeps nothing
            weights = [weight.detach() for weight in weights]
        first, last = embed, final_norm
        if self.is_compiled and self.training:
            first, last = compiled(embed), compiled(final_norm)
        x = first(idx, positions, *weights)
        rotary = None
        if self.config.arch == 'llama':
            # (1, T, head_dim / 2) or (B, 1, T, head_dim / 2): the same for all heads
            angles = (positions.unsqueeze(-1) * frequencies(self.config, idx.device)).unsqueeze(-3)
            rotary = angles.cos(), angles.sin()
        x = F.dropout(x, self.config.dropout, self.training)
        added = None
        with cudnn_attention_first() if self.training else contextlib.nullcontext():
            for block in self.transformer.h:
                run = block if self.training else block.forward  # block.forward: never the compiled one
                x, added = run(x, added, mask, rotary)
        if added is None:  # no block has grown yet
            return self.transformer.ln_f(x)
        return last(x, added, self.transformer.ln_f)

    def forward(self, idx, targets):
        """idx, targets (B, T) int64 -> mean cross-entropy in nats, without the logits of all B * T rows."""
        x = self.hidden(idx).flatten(0, 1)
        targets = targets.flatten()
        if not torch.is_grad_enabled():
            return self.token_losses(x, targets).mean()
        is_compiled = self.is_compiled and self.training
        return FusedLinearCrossEntropy.apply(x, self.head_weight, targets, is_compiled)

    @torch.no_grad()
    def token_losses(self, x, targets):
        """x (N, C) of hidden(), targets (N,) int64 -> cross-entropy (N,) in nats, without a gradient."""
        # Evaluation of the compiled model compiles just this, and only where it pays.
        is_compiled = self.is_compiled and x.device.type == 'cuda'
        return loss_by_chunks(x, self.head_weight, targets, None, None, is_compiled)

    def logits(self, idx, at=None, positions=None, mask=None):
        """idx (B, T) -> logits: (B, T, vocab_size), or (N, vocab_size) at the N places `at` = (rows (N,),
        columns (N,)).

        positions (T,) or (B, T): where each token stands, default 0 to T-1. mask (B, 1, T, T) or (1, 1, T,
        T): True where a token may look; default: at itself and all before it.
        """
        x = self.hidden(idx, positions, mask)
        if at is not None:
            x = x[at]
        return F.linear(x, self.head_weight)
