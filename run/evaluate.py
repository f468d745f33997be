"""The validation loss: of the uncompiled blocks, on the same tokens every time, shared out over the ranks."""

import numpy as np
import torch
import torch.distributed as dist

from core.device import to_device


@torch.no_grad()
def estimate_loss(model, val, n_sequences: int, batch_size: int, rank: int, world_size: int, amp) -> float:
    """Mean loss in nats per token over the first n_sequences of the val split, shared out over the ranks."""
    model.eval()
    device = model.transformer.wte.weight.device
    sums = []
    for first in range(rank * batch_size, n_sequences, world_size * batch_size):
        sequences = val.read(np.arange(first, min(first + batch_size, n_sequences)))
        x, y = to_device((sequences[:, :-1], sequences[:, 1:]), device)
        with amp:
            sums.append(model(x, y).float() * len(sequences))
    total = torch.tensor(sum(torch.stack(sums).tolist()) if sums else 0.0, dtype=torch.float64)
    if world_size > 1:
        total = total.to(device)
        dist.all_reduce(total)
    return total.item() / n_sequences
