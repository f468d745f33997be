"""Optimizers over growth: moments, rates of new layers. Run: python -m pytest tests/core/test_optim.py"""

import dataclasses

import pytest
import torch

from config import TrainConfig
from core.optim import (
    Muon,
    grow_optimizers,
    load_optimizer_state,
    make_optimizers,
    optimizer_state,
    orthogonalize,
    set_learning_rate,
)
from growth import OPERATORS, layout, layout_of
from model import GPT, GPTConfig

SHAPE = GPTConfig(block_size=8, vocab_size=32, n_layer=6, n_head=2, n_embd=8)
CONFIG = TrainConfig(n_layer=6, n_head=2, n_embd=8, block_size=8, vocab_size=32)

LAYOUTS = {name: layout(name, 3, 6) for name in OPERATORS}
LAYOUTS['map, fresh below'] = layout_of((-1, -1, 0, 1, 1, 2))
LAYOUTS['map, in another order'] = layout_of((2, -1, 0, 2, 1, 0))

def trained(config, depth):
    """A model of some layers after two updates, with its optimizers."""
    model = GPT(SHAPE, depth, torch.Generator().manual_seed(1))
    optimizers = make_optimizers(model, config)
    update(model, optimizers)
    update(model, optimizers)
    return model, optimizers

def update(model, optimizers):
    tokens = torch.arange(16).view(2, 8)
    model(tokens, tokens + 1).backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

def copied(state):
    """Optimizer state as it is now."""
    copy = {}
    for name, values in state.items():
        copy[name] = {key: value.clone() for key, value in values.items()}
    return copy

def assert_same_state(state, expected):
    assert state.keys() == expected.keys()
    for name, values in expected.items():
        assert state[name].keys() == values.keys()
        for key, value in values.items():
            assert torch.equal(state[name][key], value), (name, key)

@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
@pytest.mark.parametrize('policy', ['keep', 'copy', 'reset'])
@pytest.mark.parametrize('name', LAYOUTS)
def test_weights_and_moments_of_old_and_new_layers_are_exactly_those_of_the_layout(name, policy, optimizer):
    config = dataclasses.replace(CONFIG, grow_optimizer=policy, optimizer=optimizer)
    model, optimizers = trained(config, 3)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    moments = copied(optimizer_state(model, optimizers))
    new_blocks = model.grow(LAYOUTS[name], 'random', torch.Generator().manual_seed(2))
    optimizers = grow_optimizers(model, config, optimizers, new_blocks)

    grown_weights = model.state_dict()
    expected = {}
    if policy != 'reset':
        expected = {key: value for key, value in moments.items() if '.h.' not in key}
    for place, (source, is_new) in enumerate(LAYOUTS[name]):
        if source is None:
            continue
        for key, value in weights.items():
            if f'.h.{source}.' not in key:
                continue
            here = key.replace(f'.h.{source}.', f'.h.{place}.')
            assert torch.equal(grown_weights[here], value), here
            has_moments = policy == 'copy' or (policy == 'keep' and not is_new)
            if has_moments:
                expected[here] = moments[key]
    assert_same_state(optimizer_state(model, optimizers), expected)

def test_copied_moments_are_the_new_layers_own():
    config = dataclasses.replace(CONFIG, grow_optimizer='copy')
    model, optimizers = trained(config, 3)
    optimizers = grow_optimizers(model, config, optimizers, model.grow(layout('stack', model.depth, 6)))
    before = copied(optimizer_state(model, optimizers))
    model.freeze((0, 1, 2), 'input_frozen')
    update(model, optimizers)
    after = optimizer_state(model, optimizers)
    key = 'transformer.h.{}.attn.c_attn.weight'
    for i in range(3):
        assert torch.equal(after[key.format(i)]['exp_avg'], before[key.format(i)]['exp_avg'])
        assert not torch.equal(after[key.format(i + 3)]['exp_avg'], before[key.format(i + 3)]['exp_avg'])

def test_two_growths_at_one_step_copy_moments_through_both():
    config = dataclasses.replace(CONFIG, grow_optimizer='copy')
    model, optimizers = trained(config, 1)
    moments = copied(optimizer_state(model, optimizers))
    new_blocks = model.grow(layout('stack', 1, 2)) + model.grow(layout('stack', 2, 4))
    state = optimizer_state(model, grow_optimizers(model, config, optimizers, new_blocks))
    for i in range(4):
        for name in ('attn.c_attn.weight', 'ln_1.bias'):
            expected = moments[f'transformer.h.0.{name}']
            assert torch.equal(state[f'transformer.h.{i}.{name}']['exp_avg'], expected['exp_avg'])

@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
def test_growing_from_no_layer_begins_with_the_moments_of_the_rest(optimizer):
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    model, optimizers = trained(config, 0)
    assert len(optimizers) == 1  # nothing for Muon yet
    moments = copied(optimizer_state(model, optimizers))
    optimizers = grow_optimizers(model, config, optimizers, model.grow(layout('random', model.depth, 2)))
    assert len(optimizers) == (2 if optimizer == 'muon' else 1)
    assert_same_state(optimizer_state(model, optimizers), moments)
    covered = [p for o in optimizers for group in o.param_groups for p in group['params']]
    assert len(covered) == len(set(covered)) == len(list(model.parameters()))

def rates(model, optimizers):
    """Parameter name -> (learning rate, weight decay)."""
    name_of = {p: name for name, p in model.named_parameters()}
    found = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group['params']:
                assert name_of[p] not in found
                found[name_of[p]] = group['lr'], group['weight_decay']
    return found

@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
@pytest.mark.parametrize('rewarm', ['all', 'new'])
def test_only_with_rewarm_new_do_new_layers_have_a_rate_of_their_own(rewarm, optimizer):
    config = dataclasses.replace(
        CONFIG, rewarm=rewarm, optimizer=optimizer, learning_rate=1e-3, muon_learning_rate=2e-2
    )
    model, optimizers = trained(config, 2)
    new_blocks = model.grow(layout('interleave', 2, 4))  # 1 and 3
    optimizers = grow_optimizers(model, config, optimizers, new_blocks)
    set_learning_rate(optimizers, 5e-4, 0.25)
    found = rates(model, optimizers)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        by_muon = optimizer == 'muon' and '.h.' in name and parameter.dim() == 2
        is_new = rewarm == 'new' and ('.h.1.' in name or '.h.3.' in name)
        expected = (1e-2 if by_muon else 5e-4) * (0.25 if is_new else 1.0)
        assert found[name] == (pytest.approx(expected), 0.1 if parameter.dim() == 2 else 0.0), name

@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
def test_groups_by_newness_do_not_change_an_update(optimizer):
    """The same numbers with the parameters in one group or in two, and after saving and loading by name."""
    results = []
    for rewarm in ('all', 'new', 'new, saved'):
        config = dataclasses.replace(CONFIG, rewarm=rewarm[:3], optimizer=optimizer)
        model, optimizers = trained(config, 2)
        new_blocks = model.grow(layout('stack', model.depth, 4), 'random', torch.Generator().manual_seed(3))
        optimizers = grow_optimizers(model, config, optimizers, new_blocks)
        update(model, optimizers)
        if rewarm == 'new, saved':
            saved = optimizer_state(model, optimizers)
            optimizers = make_optimizers(model, config, [block for block, _ in new_blocks])
            load_optimizer_state(model, optimizers, saved)
        update(model, optimizers)
        results.append((model.state_dict(), optimizer_state(model, optimizers)))
    for weights, state in results[1:]:
        assert_same_state(state, results[0][1])
        for name, weight in results[0][0].items():
            assert torch.equal(weights[name], weight), name

def test_the_newest_layers_alone_are_new_after_a_second_growth():
    config = dataclasses.replace(CONFIG, rewarm='new')
    model, optimizers = trained(config, 1)
    optimizers = grow_optimizers(model, config, optimizers, model.grow(layout('random', model.depth, 2)))
    optimizers = grow_optimizers(model, config, optimizers, model.grow(layout('random', model.depth, 3)))
    set_learning_rate(optimizers, 1e-3, 0.5)
    found = rates(model, optimizers)
    halved = {name for name, (lr, _) in found.items() if lr == pytest.approx(5e-4)}
    assert halved == {name for name in found if '.h.2.' in name}

def in_float32(monkeypatch):
    """torch.optim.Muon multiplies in bfloat16 everywhere: for a comparison both do in float32."""
    monkeypatch.setattr(torch.Tensor, 'bfloat16', torch.Tensor.float)

def test_muon_equals_that_of_torch_where_nothing_is_split(monkeypatch):
    in_float32(monkeypatch)
    shapes = [(24, 8), (8, 8), (32, 8), (8, 32), (8, 8), (24, 8), (1, 8)]
    generator = torch.Generator().manual_seed(1)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    # Two groups, whose matrices of one shape are multiplied together all the same, each at its own rate.
    optimizer = Muon([{'params': ours[:3]}, {'params': ours[3:], 'lr': 0.005}], 0.02, 0.1)
    reference = torch.optim.Muon(
        [{'params': theirs[:3]}, {'params': theirs[3:], 'lr': 0.005}], lr=0.02, weight_decay=0.1
    )
    for step in range(20):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn(p.shape, generator=generator)
            if step in (3, 4) and p.shape == (8, 8):
                p.grad = None  # frozen for two steps
            q.grad = None if p.grad is None else p.grad.clone()
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs):
        assert torch.allclose(p, q, rtol=0, atol=1e-6)
        assert optimizer.state[p].keys() == reference.state[q].keys()
        momentum = optimizer.state[p]['momentum_buffer']
        assert torch.allclose(momentum, reference.state[q]['momentum_buffer'], rtol=0, atol=1e-6)

def test_muon_takes_queries_keys_and_values_apart(monkeypatch):
    """A step on c_attn equals one of torch's Muon on each of its three matrices."""
    in_float32(monkeypatch)
    config = dataclasses.replace(CONFIG, optimizer='muon', muon_learning_rate=0.02)
    model, _ = trained(config, 2)
    _, muon = make_optimizers(model, config)
    tokens = torch.arange(16).view(2, 8)
    model(tokens, tokens + 1).backward()
    expected = {}
    for name, p in model.transformer.h.named_parameters():
        if p.dim() != 2:
            continue
        n_parts = 3 if 'c_attn' in name else 1
        parts = []
        for part, grad in zip(p.detach().chunk(n_parts), p.grad.chunk(n_parts)):
            part = torch.nn.Parameter(part.clone())
            part.grad = grad.clone()
            torch.optim.Muon([part], lr=0.02, weight_decay=config.weight_decay).step()
            parts.append(part)
        expected[name] = torch.cat(parts)
    muon.step()
    for name, p in model.transformer.h.named_parameters():
        if name in expected:
            assert torch.allclose(p, expected[name], rtol=0, atol=1e-6), name

def test_orthogonalized_matrices_have_singular_values_near_one():
    matrices = torch.randn(5, 16, 48, generator=torch.Generator().manual_seed(1))
    for batch in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalize(batch))
        assert values.min() > 0.6 and values.max() < 1.3
    # A batch is nothing but its matrices.
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    assert torch.allclose(orthogonalize(matrices), alone, atol=1e-6)
    assert not orthogonalize(torch.zeros(2, 4, 4)).any()  # and nothing is divided by zero
