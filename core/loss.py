"""
The loss of a language model's head, and linear layers, in less memory than autograd would take.

    FusedLinearCrossEntropy.apply(x, weight, targets, ...)    F.cross_entropy(F.linear(x, weight), targets)
    recompute_linear(function, linear, x)                     linear(function(x))

Each gives the result and the gradients of what stands beside it.
"""

import functools
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

# Numbers in an activation. Below, the time that Python takes to save memory is worth more than 4 MB.
LARGE = 2**20

def compute_dtype(x) -> torch.dtype:
    """The dtype in which x is multiplied here: autocast's where that is on, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype

@functools.cache
def compiled(function):
    """`function`, compiled at its first call: one for all models. Sizes are constants."""
    return torch.compile(function, fullgraph=True, dynamic=False)

# ------------------------------------------------------------------------------------------------------------
# linear layers

def recompute_linear(function, linear: nn.Linear, x):
    """linear(function(x)), whose backward computes function(x) again where it is large.

        the plain way    x (kept) -> y (kept)           -> linear
        here             x (kept) -> y (computed again) -> linear

    That is activation checkpointing of GELU and the norms alone, a third of what a block would keep.
    torch.utils.checkpoint does the same, but costs a small model twice as much time. Compiled blocks choose
    by themselves what to compute again.
    """
    y = function(x)
    if torch.compiler.is_compiling() or y.numel() < LARGE:
        return linear(y)
    y = y.to(compute_dtype(y))  # as autocast would, so that y itself is what linear wants to keep
    x = x.detach()
    y_address = y.data_ptr()
    y_dtype = y.dtype

    # Called with each tensor that linear wants to keep: y, of which the shape is enough, and the weight.
    def pack(tensor):
        return tensor.shape if tensor.data_ptr() == y_address else tensor

    def unpack(packed):
        return packed if isinstance(packed, torch.Tensor) else function(x).to(y_dtype).view(packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return linear(y)

# ------------------------------------------------------------------------------------------------------------
# the head

class FusedLinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of F.linear(x, weight) in nats, a chunk of rows at a time, with its gradients.

    So the logits of all rows never exist, forward or backward, and no matmul is done twice. (torch's own
    F.linear_cross_entropy works alike, but stays in float32 under autocast, or sums in bfloat16.)
    """

    # Logits at a time: in float32 128 MB, 667 rows of GPT-2's vocabulary. A GPU wants larger matmuls, which
    # fill its multiprocessors: 32 x 1024 rows become 6 chunks of 5,462, and the gradient of one's x has
    # 43 x 3 tiles of 128 x 256 for the 132 of an H100. With 2^28 logits it had 111.
    CHUNK = 2**25
    CUDA_CHUNK = 288 * 2**20  # 576 MB in bfloat16
    # Without gradients matmuls of a quarter of that are large enough, and less is padded.
    CUDA_EVAL_CHUNK = 2**26

    @staticmethod
    def forward(ctx, x, weight, targets, is_compiled: bool):
        """x (N, C), weight (V, C), targets (N,) int64 -> scalar."""
        ctx.dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        ctx.dw = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        return loss_by_chunks(x, weight, targets, ctx.dx, ctx.dw, is_compiled).mean()

    @staticmethod
    def backward(ctx, grad):
        gradients = ctx.dx, ctx.dw
        del ctx.dx, ctx.dw  # what is returned is accumulated in place where nobody else holds it
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(grad)
        return *gradients, None, None

def loss_by_chunks(x, weight, targets, dx, dw, is_compiled: bool):
    """Cross-entropy (N,) in nats of x (N, C) and weight (V, C). The gradient of its mean goes into dx (N, C)
    and is added to dw (V, C), each where it isn't None.

    What happens between the matmuls is memory traffic: on a GPU it would cost more than they do, so with
    `is_compiled` it is one kernel.
    """
    N = len(x)
    dtype = compute_dtype(x)
    x = x.to(dtype)
    w = weight.to(dtype)
    has_gradient = dx is not None or dw is not None
    n_rows = rows_of_a_chunk(N, len(w), x.device, is_compiled, has_gradient)
    if is_compiled:
        # All chunks of one size, or there would be a second graph. Rows of zeros add nothing to dw.
        missing = -N % n_rows
        x = F.pad(x, (0, 0, 0, missing))
        targets = F.pad(targets, (0, missing))
    loss_of_chunk = compiled(chunk_loss) if is_compiled else eager_chunk_loss
    n_to_mean = N if has_gradient else None
    # Tensor cores want rows that begin at multiples of 128 bytes. 50,257 columns don't give them.
    columns = math.ceil(len(w) / 64) * 64 if is_compiled else len(w)
    memory = torch.empty(n_rows, columns, dtype=dtype, device=x.device)[:, : len(w)]  # for every chunk
    losses = []
    for first in range(0, len(x), n_rows):
        x_chunk = x[first : first + n_rows]
        y = targets[first : first + n_rows, None]
        logits = memory[: len(y)]
        torch.mm(x_chunk, w.t(), out=logits)
        losses.append(loss_of_chunk(logits, y, n_to_mean))
        gradient = logits  # the same memory, by now
        if dx is not None:
            dx_chunk = dx[first : first + n_rows]
            dx_chunk.copy_((gradient @ w)[: len(dx_chunk)])
        if dw is not None:
            add_matmul(dw, gradient.t(), x_chunk)
    return torch.cat(losses).flatten()[:N]

def rows_of_a_chunk(N: int, V: int, device: torch.device, is_compiled: bool, has_gradient: bool) -> int:
    """Rows of x in a chunk: N shared out evenly, which in training never changes; in compiled evaluation,
    whose batches differ, as many for every N."""
    head = FusedLinearCrossEntropy
    if is_compiled and not has_gradient:
        return max(1, head.CUDA_EVAL_CHUNK // V)
    largest = head.CUDA_CHUNK if is_compiled and device.type == 'cuda' else head.CHUNK
    return math.ceil(N / math.ceil(N * V / largest))

def eager_chunk_loss(logits, y, n_to_mean: int | None):
    """Cross-entropy (rows, 1) of logits (rows, V) and targets y (rows, 1). Over the logits goes the gradient
    of the mean over `n_to_mean` rows, unless that is None."""
    x = logits.float()  # of float32 logits the same memory, else a copy
    top = x.amax(1, keepdim=True)
    target = x.gather(1, y)
    # In place from here on: what were the logits becomes the softmax, and then the gradient.
    total = x.sub_(top).exp_().sum(1, keepdim=True)
    if n_to_mean is not None:
        x.mul_(1 / (n_to_mean * total))
        x.scatter_add_(1, y, torch.full_like(total, -1 / n_to_mean))
        logits.copy_(x)
    return total.log() + top - target

def chunk_loss(logits, y, n_to_mean: int | None):
    """The same for torch.compile. On a GPU it becomes one kernel that reads each logit twice and writes it
    once, 6 bytes in bfloat16; eager it would cost 1.7 times as much as the above."""
    x = logits.float()
    # Just these steps are what inductor knows as an online softmax: maximum and sum in one pass.
    top = x.amax(1, keepdim=True)
    exponentials = (x - top).exp()
    log_total = exponentials.sum(1, keepdim=True).log()
    # A gather or scatter would end the kernel. A comparison in every column costs nothing: memory is the
    # limit.
    is_target = torch.arange(logits.shape[1], device=logits.device) == y
    target = torch.where(is_target, x, 0.0).sum(1, keepdim=True)
    if n_to_mean is not None:
        # exponentials / total would be the same; but then inductor keeps them in memory, 4 bytes a logit.
        softmax = (x - top - log_total).exp()
        gradient = (softmax - is_target.float()) * (1 / n_to_mean)
        logits.copy_(gradient)
    return log_total + top - target

def add_matmul(total, a, b):
    """total += a @ b, where total is float32 and a and b may be bfloat16."""
    if a.dtype == total.dtype:
        torch.addmm(total, a, b, out=total)  # which, unlike addmm_, is in torch's flop counter
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
