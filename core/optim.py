"""The optimizers of a model that grows: AdamW and Muon, their state over growth, to and from a checkpoint.

Frozen parameters are covered too: they have no gradient, so nothing moves them, and their state waits.
"""

import math
from collections import defaultdict

import torch

# The quintic whose iteration takes all singular values near 1 (Keller Jordan's Muon, 2024; torch.optim.Muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5

class Muon(torch.optim.Optimizer):
    """Muon: momentum, whose matrices are orthogonalized before they move the weights.

    The update of torch.optim.Muon, and the same state under the same name (momentum_buffer). What differs: a
    parameter that holds several matrices on top of each other (a group's 'rows': how many rows each has) is
    orthogonalized matrix by matrix, as the field does with queries, keys and values; and all matrices of one
    shape are multiplied together in batched matmuls, since one by one they are too small to fill a device.
    """

    def __init__(self, groups: list, lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(groups, {'lr': lr, 'weight_decay': weight_decay, 'momentum': momentum, 'rows': None})

    @torch.no_grad()
    def step(self):
        by_shape = defaultdict(list)  # shape -> [(matrix, its update, its learning rate)]
        for group in self.param_groups:
            lr, momentum = group['lr'], group['momentum']
            for p in group['params']:
                if p.grad is None:
                    continue  # frozen
                state = self.state[p]
                if not state:
                    state['momentum_buffer'] = torch.zeros_like(p.grad)
                average = state['momentum_buffer'].lerp_(p.grad, 1 - momentum)
                update = p.grad.lerp(average, momentum)  # Nesterov's
                p.mul_(1 - lr * group['weight_decay'])
                rows = group['rows'] or [len(p)]
                for matrix, its_update in zip(p.split(rows), update.split(rows)):
                    by_shape[matrix.shape].append((matrix, its_update, lr))
        for (n_rows, n_columns), same_shape in by_shape.items():
            updates = orthogonalize(torch.stack([update for _, update, _ in same_shape]))
            # A tall matrix moves more, so that an output changes as much by it as by a square one.
            scale = math.sqrt(max(1, n_rows / n_columns))
            for (matrix, _, lr), update in zip(same_shape, updates):
                matrix.add_(update, alpha=-lr * scale)

def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """For matrices (n, rows, columns) nearly orthogonal ones: singular values .7 to 1.2.

    In bfloat16 on CUDA; in the matrices' own dtype elsewhere, since many CPUs only imitate bfloat16.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    is_tall = x.size(1) > x.size(2)
    if is_tall:
        x = x.mT  # the smaller of the two possible Gram matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value is above 1 now
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x

def make_optimizers(model, config, new_blocks=()) -> list[torch.optim.Optimizer]:
    """AdamW over all parameters of a GPT, decay on matrices only; or Muon for the blocks' matrices beside it.

    `config`: a TrainConfig. A group's lr_scale is its peak learning rate relative to config.learning_rate.
    `new_blocks`: the blocks that have just grown; with config.rewarm 'new' their parameters are in groups of
    their own, whose is_new is True.
    """
    rows_of = {}  # each matrix of Muon's -> the rows of the matrices that it holds, None if it is one
    if config.optimizer == 'muon':
        # Muon is made for matrices between layers; AdamW keeps the embeddings and lm_head.
        for module in model.transformer.h.modules():
            if isinstance(module, torch.nn.Linear):
                # Queries, keys and values: measured to be better orthogonalized apart (docs/BENCH.md).
                rows_of[module.weight] = getattr(module, 'rows', None)
    just_grown = set()
    if config.rewarm == 'new':
        for block in new_blocks:
            just_grown.update(block.parameters())

    by_kind = {}
    for p in model.parameters():
        is_vector = p.dim() < 2
        kind = (p in just_grown, is_vector, p in rows_of, rows_of.get(p))
        by_kind.setdefault(kind, []).append(p)
    adamw_groups, muon_groups = [], []
    # What has just grown comes last, and of Muon's what holds several matrices.
    for kind in sorted(by_kind, key=lambda kind: (*kind[:3], kind[3] is not None)):
        is_new, is_vector, is_muons, rows = kind
        group = {'params': by_kind[kind], 'is_new': is_new}
        if is_muons:
            muon_groups.append({**group, 'rows': rows})
        else:  # biases and norms don't decay
            adamw_groups.append({**group, 'weight_decay': 0.0 if is_vector else config.weight_decay})

    betas = (config.beta1, config.beta2)
    # fused: one pass over memory for an update that is bound by memory.
    adamw = torch.optim.AdamW(adamw_groups, lr=config.learning_rate, betas=betas, eps=1e-8, fused=True)
    optimizers = [adamw]
    if muon_groups:  # at depth 0 there is none
        optimizers.append(Muon(muon_groups, config.muon_learning_rate, config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            # With a peak of 0 the step's learning rate is 0 too (config.check refuses that beside Muon).
            group['lr_scale'] = group['lr'] / config.learning_rate if config.learning_rate else 0.0
    return optimizers

def set_learning_rate(optimizers: list, lr: float, new_scale: float = 1.0):
    """Give every group its share of a step's learning rate, new blocks only `new_scale` of theirs."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['lr'] = lr * group['lr_scale']
            if group['is_new']:
                group['lr'] *= new_scale

def grow_optimizers(model, config, optimizers: list, new_blocks: list) -> list[torch.optim.Optimizer]:
    """Optimizers for a GPT that has just grown, given those from before and what model.grow() returned.

    `new_blocks`: of several growths at one step all of it, in their order. config.grow_optimizer says what
    happens to the moments: 'keep': old layers keep theirs, new ones start fresh; 'copy': a layer that copies
    another one's weights copies its moments too; 'reset': all start fresh.
    """
    new_optimizers = make_optimizers(model, config, [block for block, _ in new_blocks])
    if config.grow_optimizer == 'reset':
        return new_optimizers
    state = merged_state(optimizers)
    if config.grow_optimizer == 'copy':
        # In the order of the growths, so that a copy of a copy finds what it copies.
        for block, source in new_blocks:
            if source is None:
                continue
            for p, source_p in zip(block.parameters(), source.parameters()):
                if source_p in state:
                    # A clone, or both layers would update the same tensors.
                    state[p] = {name: value.clone() for name, value in state[source_p].items()}
    # By parameter, not by position: growth has changed what the groups contain.
    for optimizer in new_optimizers:
        for group in optimizer.param_groups:
            for p in group['params']:
                if p in state:
                    optimizer.state[p] = state[p]
    return new_optimizers

def optimizer_state(model, optimizers: list) -> dict:
    """Parameter name -> its optimizer state, for the checkpoint."""
    # By name, since a parameter's position changes when layers are inserted below it.
    state = merged_state(optimizers)
    return {name: dict(state[p]) for name, p in model.named_parameters() if p in state}

def load_optimizer_state(model, optimizers: list, saved: dict):
    """Give the optimizers the state that optimizer_state saved."""
    name_of = {p: name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group['params']:
                # A parameter that never trained has no state.
                if name_of[p] in saved:
                    values = saved[name_of[p]]
                    optimizer.state[p] = {k: v.to(p.device, copy=True) for k, v in values.items()}

def merged_state(optimizers: list) -> dict:
    """Parameter -> its state, over all optimizers."""
    merged = {}
    for optimizer in optimizers:
        merged.update(optimizer.state)
    return merged
