"""The optimizers of a model that grows: AdamW and Muon, their state over growth, to and from a checkpoint.

Frozen parameters are covered too: they have no gradient, so nothing moves them, and their state waits for them.
"""

import torch


def make_optimizers(model, config) -> list[torch.optim.Optimizer]:
    """AdamW over all parameters of a GPT, decay on matrices only; or Muon for the blocks' matrices beside it.

    `config`: a TrainConfig. A group's lr_scale is its peak learning rate relative to config.learning_rate.
    """
    muon = []
    if config.optimizer == 'muon':
        muon = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    by_muon = set(muon)
    others = [p for p in model.parameters() if p not in by_muon]
    groups = [{'params': [p for p in others if p.dim() >= 2], 'weight_decay': config.weight_decay},
              {'params': [p for p in others if p.dim() < 2], 'weight_decay': 0.0}]
    betas = (config.beta1, config.beta2)
    optimizers = [torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=1e-8, fused=True)]
    if muon:
        optimizers.append(torch.optim.Muon(muon, lr=config.muon_learning_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['lr_scale'] = group['lr'] / config.learning_rate if config.learning_rate else 0.0
    return optimizers


def set_learning_rate(optimizers: list, lr: float):
    """Give every group its share of the learning rate `lr` of a step."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['lr'] = lr * group['lr_scale']


def grow_optimizers(model, config, optimizers: list, new_blocks: list) -> list[torch.optim.Optimizer]:
    """Optimizers that cover a GPT that has just grown, given those from before and what model.grow() returned.

    config.grow_optimizer says what happens to the moments: 'keep': old layers keep theirs, new ones start fresh;
    'copy': a layer that copies another one's weights copies its moments too; 'reset': all start fresh.
    """
    new_optimizers = make_optimizers(model, config)
    if config.grow_optimizer == 'reset':
        return new_optimizers
    state = merged_state(optimizers)
    if config.grow_optimizer == 'copy':
        for block, source in new_blocks:
            if source is None:
                continue
            for p, source_p in zip(block.parameters(), source.parameters()):
                if source_p in state:
                    state[p] = {name: value.clone() for name, value in state[source_p].items()}
    for optimizer in new_optimizers:
        for group in optimizer.param_groups:
            for p in group['params']:
                if p in state:
                    optimizer.state[p] = state[p]
    return new_optimizers


def optimizer_state(model, optimizers: list) -> dict:
    """Parameter name -> its optimizer state, for the checkpoint."""
    state = merged_state(optimizers)
    return {name: dict(state[p]) for name, p in model.named_parameters() if p in state}


def load_optimizer_state(model, optimizers: list, saved: dict):
    """Give the optimizers the state that optimizer_state saved."""
    name_of = {p: name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group['params']:
                if name_of[p] in saved:
                    values = saved[name_of[p]]
                    optimizer.state[p] = {k: v.to(p.device, copy=True) for k, v in values.items()}


def merged_state(optimizers: list) -> dict:
    """Parameter -> its state, over all optimizers."""
    merged = {}
    for optimizer in optimizers:
        merged.update(optimizer.state)
    return merged
