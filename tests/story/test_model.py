"""GPT-2, growing and freezing. Run: python -m pytest tests/story/test_model.py"""

import functools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

import core.loss
from core.device import autocast, compile_blocks
from core.loss import FusedLinearCrossEntropy, loss_by_chunks, recompute_linear
from growth import OPERATORS, layout
from model import GPT, GPTConfig, gelu

SMALL = GPTConfig(block_size=32, vocab_size=300, n_layer=6, n_head=4, n_embd=32)
LLAMA = GPTConfig(block_size=32, vocab_size=300, n_layer=4, n_head=4, n_embd=32, arch='llama', n_kv_head=2,
                  head_dim=8, n_ff=64, tie_embeddings=False)
ON_TOP = layout('random', 2, 4)

def seeded(seed):
    return torch.Generator().manual_seed(seed)

def tokens(config, rows=2, seed=0):
    return torch.randint(config.vocab_size, (rows, config.block_size), generator=seeded(seed))

def test_gpt2_124m_has_its_known_number_of_parameters():
    assert sum(p.numel() for p in GPT(GPTConfig()).parameters()) == 124_439_808

@pytest.mark.parametrize('depth', [1, 5, 12])
def test_logits_equal_transformers_gpt2(depth):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPTConfig(block_size=64, vocab_size=500, n_layer=12, n_head=4, n_embd=64)
    model = GPT(config, depth, seeded(1)).eval()
    shape = GPT2Config(vocab_size=500, n_positions=64, n_embd=64, n_layer=depth, n_head=4)
    reference = GPT2LMHeadModel(shape).eval()
    linear = ('c_attn.weight', 'c_proj.weight', 'c_fc.weight')  # Hugging Face keeps these transposed
    with torch.no_grad():
        for p in model.parameters():  # also biases and norms, so that each takes part
            p.add_(torch.randn(p.shape, generator=seeded(p.numel())) * 0.1)
    state = {k: v.t() if k.endswith(linear) else v for k, v in model.state_dict().items()}
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {'lm_head.weight'}
    reference.tie_weights()
    x = tokens(config)
    with torch.no_grad():
        assert torch.allclose(model.logits(x), reference(x).logits, atol=1e-4)

def test_initialisation_is_gpt2s_scaled_by_the_final_depth():
    config = GPTConfig(block_size=8, vocab_size=64, n_layer=12, n_head=4, n_embd=256)
    model = GPT(config, 2, seeded(0))
    for name, p in model.named_parameters():
        if name.endswith('.bias') or 'ln_' in name:
            assert {*p.tolist()} == {float(name.endswith('weight'))}
        else:
            std = 0.02 / 24**0.5 if name.endswith('c_proj.weight') else 0.02
            assert p.std().item() == pytest.approx(std, rel=0.05)

@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-5), ('bfloat16', 2e-2)])
@pytest.mark.parametrize('embeddings', ['train', 'input_frozen', 'frozen'])
def test_loss_and_its_gradients_equal_cross_entropy_of_the_logits(embeddings, dtype, tolerance, monkeypatch):
    # 1200 rows in seven chunks, the last one not full
    monkeypatch.setattr(FusedLinearCrossEntropy, 'CHUNK', 175 * 1000)
    amp = autocast(torch.device('cpu'), dtype)
    config = GPTConfig(block_size=600, vocab_size=1000, n_layer=2, n_head=2, n_embd=32)
    model = GPT(config, generator=seeded(0))
    model.freeze(1, embeddings)
    x, y = tokens(config), tokens(config, seed=1)
    with amp:
        loss = model(x, y)
    assert loss.dtype == torch.float32
    (loss / 4).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    reference = F.cross_entropy(model.logits(x).flatten(0, 1), y.flatten())
    (reference / 4).backward()
    assert loss.item() == pytest.approx(reference.item(), abs=tolerance)
    for name, p in model.named_parameters():
        assert (p.grad is None) == (gradients[name] is None), name
        if p.grad is not None:
            assert (p.grad - gradients[name]).norm() <= tolerance * p.grad.norm(), name
    with torch.no_grad(), amp:
        assert model.eval()(x, y).item() == pytest.approx(loss.item(), abs=1e-6)

def test_the_model_copied_out_needs_growth_and_the_loss_alone(tmp_path):
    root = Path(core.loss.__file__).parent.parent
    (tmp_path / 'core').mkdir()
    for name in ('model.py', 'growth.py', 'core/loss.py'):
        shutil.copy(root / name, tmp_path / name)
    script = ('import torch, growth, model; gpt = model.GPT(model.GPTConfig(8, 16, 2, 1, 4), 1);'
              'gpt.grow(growth.layout("stack", 1, 2)); x = torch.arange(16).view(2, 8); gpt(x, x).backward();'
              'print(gpt.depth, all(p.grad is not None for p in gpt.parameters()))')
    ran = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True,
                         env=os.environ | {'PYTHONPATH': str(tmp_path)})
    assert ran.stdout == '2 True\n', ran.stderr

def test_logits_at_places_and_under_a_mask_equal_the_plain_ones():
    model = GPT(SMALL, generator=seeded(0)).eval()
    x = tokens(SMALL)
    full = model.logits(x)
    at = (torch.tensor([0, 1, 1]), torch.tensor([5, 0, 31]))
    assert torch.allclose(model.logits(x, at=at), full[at], atol=1e-6)
    causal = torch.ones(32, 32, dtype=torch.bool).tril()[None, None]
    positions = torch.arange(32).expand(2, 32)
    assert torch.allclose(model.logits(x, mask=causal, positions=positions), full, atol=1e-5)
    alone = model.logits(x[:, 5:])
    # The same tokens after five others that they don't see, at the positions that they have alone.
    mask = torch.ones(32, 32, dtype=torch.bool).tril()
    mask[5:, :5] = False
    positions = torch.arange(32) - 5
    hidden = model.logits(x, mask=mask[None, None], positions=positions.clamp(min=0).expand(2, 32))
    assert torch.allclose(hidden[:, 5:], alone, atol=1e-5)

@pytest.mark.parametrize('init', OPERATORS)
def test_growing_keeps_old_layers_and_copies_what_layout_says(init):
    model = GPT(SMALL, 3, seeded(0)).eval()
    old = list(model.transformer.h)
    before = [{k: v.clone() for k, v in block.state_dict().items()} for block in old]
    model.grow(layout(init, 3, 5), 'random', seeded(1))
    assert model.depth == 5
    for (source, is_new), block in zip(layout(init, 3, 5), model.transformer.h):
        assert (block in old) != is_new
        if source is not None:
            assert all(torch.equal(before[source][k], v) for k, v in block.state_dict().items())
        if is_new:  # a copy shares no memory with its source
            memory = {p.data_ptr() for each in old for p in each.parameters()}
            assert not memory & {p.data_ptr() for p in block.parameters()}
    assert not any(m.training for m in model.modules())  # new layers come in the model's mode

def test_growing_on_top_leaves_existing_layers_outputs_bit_identical():
    model = GPT(SMALL, 2, seeded(0)).eval()
    x = tokens(SMALL)
    with torch.no_grad():
        before = model.logits(x)
        model.grow(ON_TOP, 'random', seeded(1))
        outputs = model.transformer.wte(x) + model.transformer.wpe(torch.arange(32))
        added = None
        for block in model.transformer.h[:2]:
            outputs, added = block(outputs, added)
        logits = F.linear(model.transformer.ln_f(outputs + added), model.head_weight)
    assert torch.equal(before, logits) and not torch.equal(before, model.logits(x))

@pytest.mark.parametrize('config', [SMALL, LLAMA])
def test_zero_keeps_the_function(config):
    model = GPT(config, 2, seeded(0)).eval()
    x = tokens(config)
    before = model.logits(x)
    model.grow(layout('zero', 2, 4), 'zero', seeded(1))
    assert torch.equal(model.logits(x), before)

def test_the_same_seed_gives_the_same_new_layers_whatever_was_drawn_before():
    grown = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = GPT(SMALL, 2, seeded(0))
        torch.randn(noise)
        model.grow(ON_TOP, 'random', seeded(5))
        grown.append(model.state_dict())
    assert all(torch.equal(grown[0][k], grown[1][k]) for k in grown[0])
    other = GPT(SMALL, 2, seeded(0))
    other.grow(ON_TOP, 'random', seeded(6))
    name = 'transformer.h.3.mlp.c_fc.weight'
    assert not torch.equal(other.state_dict()[name], grown[0][name])

@pytest.mark.parametrize('embeddings', ['train', 'input_frozen', 'frozen'])
@pytest.mark.parametrize('frozen', [0, 2, (0, 2), ()])
@pytest.mark.parametrize('config', [SMALL, LLAMA])
def test_freeze_sets_every_parameter_every_time(config, frozen, embeddings):
    model = GPT(config, 4)
    model.freeze(3, 'frozen')
    model.freeze(frozen, embeddings)
    blocks = range(frozen) if isinstance(frozen, int) else frozen
    head = embeddings != 'frozen'
    expected = {'wte': head, 'wpe': embeddings == 'train', 'ln_f': True, 'weight': head}
    if config.arch == 'llama':  # whose head is a matrix of its own: lm_head.weight
        expected['wte'] = embeddings == 'train'
    for name, p in model.named_parameters():
        trains = int(name.split('.')[2]) not in blocks if '.h.' in name else expected[name.split('.')[1]]
        assert p.requires_grad == trains, name

def saved_bytes(model, x):
    """Bytes of activations that autograd keeps for backward, weights left out."""
    weights, kept = {p.data_ptr() for p in model.parameters()}, {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in weights:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = model(x, x)
    return sum(kept.values()), loss

@pytest.mark.parametrize('embeddings', ['input_frozen', 'frozen'])
def test_a_frozen_prefix_has_no_gradient_and_saves_no_activations(embeddings):
    x = tokens(SMALL)
    alone = GPT(SMALL, 1, seeded(0))
    alone.freeze((), 'train')
    alone.freeze(0, embeddings)
    deep = GPT(SMALL, 6, seeded(0))
    deep.freeze(5, embeddings)
    saved, loss = saved_bytes(deep, x)
    assert saved == saved_bytes(alone, x)[0]  # one layer trains: as much as a model of one layer keeps
    deep.freeze(5, 'train')
    assert saved_bytes(deep, x)[0] > 2 * saved
    deep.freeze(5, embeddings)
    loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in deep.parameters())

@pytest.mark.parametrize('embeddings', ['train', 'input_frozen', 'frozen'])
def test_frozen_is_bit_identical_after_steps_with_weight_decay_and_the_rest_moves(embeddings):
    model = GPT(SMALL, 4, seeded(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5, fused=True)
    x = tokens(SMALL)

    def steps(n):
        for _ in range(n):
            model(x, x).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    model.freeze((), 'train')
    steps(2)  # moments exist, so that AdamW would move a parameter with a gradient of zeros
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.freeze((0, 2), embeddings)
    steps(5)
    for name, p in model.named_parameters():
        assert torch.equal(before[name], p) == (not p.requires_grad), name

def test_dropout_is_on_in_training_only(monkeypatch):
    """At the four places where GPT-2 has it: the embeddings, attention's weights and output, the MLP's."""
    model = GPT(GPTConfig(32, 300, 1, 4, 32, dropout=0.5), generator=seeded(0))
    x = tokens(SMALL)
    assert model(x, x).item() != model(x, x).item()
    shares = []
    dropout, attention = F.dropout, F.scaled_dot_product_attention

    def seen(x, p, training):
        shares.append(p * training)
        return dropout(x, p, training)

    def seen_attention(*tensors, dropout_p, **options):
        shares.append(dropout_p)
        return attention(*tensors, dropout_p=dropout_p, **options)

    monkeypatch.setattr(F, 'dropout', seen)
    monkeypatch.setattr(F, 'scaled_dot_product_attention', seen_attention)
    model(x, x)
    assert shares == [0.5] * 4
    model.eval()
    assert model(x, x).item() == model(x, x).item()
    assert shares[4:] == [0.0] * 8

# ------------------------------------------------------------------------------------------------------------
# compiled: what CUDA does by default

NEEDS_COMPILER = pytest.mark.skipif(
    not (shutil.which('c++') or shutil.which('g++')), reason='torch.compile on the CPU needs a C++ compiler'
)

@pytest.fixture
def without_inductor(monkeypatch):
    """Graphs are what they are, whatever makes code of them: that takes a minute for a model on the CPU."""
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))

@pytest.fixture
def graphs():
    """Counts what dynamo makes, from nothing: graphs() -> how many so far."""
    from torch._dynamo.utils import counters

    core.loss.compiled.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters['stats']['unique_graphs']
    assert not counters['graph_break'] and not counters['unimplemented']
    core.loss.compiled.cache_clear()
    torch._dynamo.reset()

def loss_and_gradients(model, batches, loss_of):
    """[loss, gradient, gradient, ...] of a step of several micro-batches, as train.py adds them up."""
    model.zero_grad()
    total = 0.0
    for x, y in batches:
        loss = loss_of(x, y)
        (loss / len(batches)).backward()
        total += loss.detach()
    return [total, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

def plain_loss(model):
    return lambda x, y: F.cross_entropy(model.logits(x).flatten(0, 1), y.flatten())

def test_a_run_that_grows_compiles_nine_graphs_whose_gradients_are_plain(without_inductor, graphs):
    """Also with accumulation. Each is made in the first step of the phase that first needs it: three for
    blocks, by what trains in them and below, two for the first block, two for the embeddings, the final
    norm's and the head's. Embeddings that train while layers are frozen need two more."""
    torch.manual_seed(0)
    config = GPTConfig(block_size=32, vocab_size=321, n_layer=5, n_head=2, n_embd=16)
    batches = [(tokens(config, seed=i), tokens(config, seed=i + 2)) for i in range(2)]
    counted = {}
    for embeddings in ('input_frozen', 'frozen', 'train'):
        model = GPT(config, 2, seeded(0)).train()
        counted[embeddings] = []
        previous = 2
        for depth in (2, 3, 5):
            if depth > model.depth:
                model.grow(layout('random', model.depth, depth), 'random', seeded(depth))
            for frozen in ([previous] if depth > previous else []) + [0]:
                model.freeze(frozen, embeddings if frozen else 'train')
                model.is_compiled = False
                for block in model.transformer.h:
                    block._compiled_call_impl = None
                plain = loss_and_gradients(model, batches, plain_loss(model))
                before = graphs()
                compile_blocks(model)
                ours = loss_and_gradients(model, batches, model)
                counted[embeddings].append(graphs() - before)
                assert len(ours) == len(plain)
                for a, b in zip(ours, plain):
                    assert (a - b).norm() <= 5e-6 * b.norm()
            previous = depth
    assert counted == {'input_frozen': [5, 4, 0, 0, 0], 'frozen': [0] * 5, 'train': [0, 2, 0, 0, 0]}

@NEEDS_COMPILER
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_compiled_head_is_as_near_to_float64_as_plain_cross_entropy(graphs, monkeypatch, dtype):
    """Rows that fill the last chunk in part, a vocabulary that is no multiple of 64; one graph."""
    monkeypatch.setattr(FusedLinearCrossEntropy, 'CHUNK', 30 * 1003)
    torch.manual_seed(0)
    hidden, table, y = torch.randn(100, 48), torch.randn(1003, 48), torch.randint(1003, (100,))
    amp = autocast(torch.device('cpu'), dtype)

    def run(loss_of, kind):
        x = hidden.to(kind, copy=True).requires_grad_()
        w = table.to(kind, copy=True).requires_grad_()
        loss = loss_of(x, w)
        (loss / 3).backward()
        return [loss.detach().double(), x.grad.double(), w.grad.double()]

    def ours(x, w):
        with amp:
            return FusedLinearCrossEntropy.apply(x, w, y, True)

    def plain(x, w):
        with amp:
            logits = F.linear(x, w)
        return F.cross_entropy(logits.float(), y)

    exact = run(lambda x, w: F.cross_entropy(F.linear(x, w), y), torch.float64)
    for mine, theirs, right in zip(run(ours, torch.float32), run(plain, torch.float32), exact):
        assert (mine - right).norm() <= max(1.02 * (theirs - right).norm(), 1e-6 * right.norm())
    assert graphs() == 1

@pytest.mark.parametrize('is_compiled', [False, True])
def test_losses_of_tokens_are_cross_entropys_by_one_graph(without_inductor, graphs, monkeypatch, is_compiled):
    monkeypatch.setattr(FusedLinearCrossEntropy, 'CUDA_EVAL_CHUNK', 30 * 321)
    torch.manual_seed(0)
    weight = torch.randn(321, 48)
    for n in (1, 30, 77, 90):
        x, y = torch.randn(n, 48), torch.randint(321, (n,))
        found = loss_by_chunks(x, weight, y, None, None, is_compiled)
        torch.testing.assert_close(found, F.cross_entropy(x @ weight.t(), y, reduction='none'))
    assert graphs() == is_compiled

def test_on_cuda_the_chunks_of_gpt2s_head_fill_the_multiprocessors():
    rows = core.loss.rows_of_a_chunk(32 * 1024, 50304, torch.device('cuda'), True, True)
    assert 125 <= math.ceil(rows / 128) * math.ceil(768 / 256) <= 132

def test_attention_asks_cudnn_first_in_training_alone():
    model = GPT(SMALL, 1)
    before = torch._C._get_sdp_priority_order()
    asked = []
    norm = model.transformer.h[0].ln_1
    norm.register_forward_pre_hook(lambda *_: asked.append(torch._C._get_sdp_priority_order()))
    for mode in (True, False):
        model.train(mode).hidden(tokens(SMALL))
    assert asked[0][0] == int(SDPBackend.CUDNN_ATTENTION) and asked[1] == before
    assert torch._C._get_sdp_priority_order() == before

@NEEDS_COMPILER
def test_the_compiled_head_reads_and_writes_the_logits_in_place(graphs):
    """One kernel; of the logits' size it has but the logits, which come in and whose gradient goes out, in
    rows as far apart as the matmul left them. (On a GPU it reads them twice: docs/BENCH.md has the code that
    inductor makes.)"""
    from torch._inductor.utils import run_and_get_code

    logits = torch.randn(40, 640, dtype=torch.bfloat16)[:, :577]
    kernel = core.loss.compiled(core.loss.chunk_loss)
    _, (code,) = run_and_get_code(kernel, logits, torch.randint(577, (40, 1)), 40)
    assert code.count('async_compile.cpp_pybinding(') == 1
    made = re.findall(r'empty_strided_cpu\(\((.*?)\)', code)
    assert made and all(math.prod(int(n) for n in shape.split(',') if n.strip()) == 40 for shape in made)
    arguments = re.search(r'cpp_pybinding\(\[(.*?)\]', code)[1]
    assert arguments.count('BFloat16*') <= 2  # in and out, the same memory
    assert 'x1 + 640L*x0' in code and '577L*x0' not in code

def test_what_would_not_be_compiled_is_an_error_and_ddp_splits_nothing(monkeypatch):
    model = GPT(SMALL, 1)
    monkeypatch.setattr(torch._dynamo.config, 'fail_on_recompile_limit_hit', False)
    monkeypatch.setattr(torch._dynamo.config, 'optimize_ddp', True)
    compile_blocks(model)
    assert torch._dynamo.config.fail_on_recompile_limit_hit and not torch._dynamo.config.optimize_ddp

def test_a_llama_frozen_and_thawed_is_what_it_is_uncompiled(without_inductor, graphs):
    """Its input always carries a gradient, so that nothing but its own weights tells the graphs apart. Heads
    share keys, and the head is untied."""
    model, plain = GPT(LLAMA, 2, seeded(0)).train(), GPT(LLAMA, 2, seeded(0)).train()
    batches = [(tokens(LLAMA), tokens(LLAMA, seed=1))] * 2
    compile_blocks(model)
    counted = []
    for frozen in ((), (1,), (), (1,), ()):
        model.freeze(frozen, 'train')
        plain.freeze(frozen, 'train')
        found = loss_and_gradients(model, batches, model)
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        for a, b in zip(found, loss_and_gradients(plain, batches, plain_loss(plain)), strict=True):
            assert (a - b).norm() <= 5e-6 * b.norm()
        counted.append(graphs())
    # The head's, the embeddings', the final norm's, the first block's, a block that trains, one that doesn't.
    assert counted == [5, 6, 6, 6, 6]

def test_evaluation_compiles_nothing(without_inductor, graphs):
    model = GPT(SMALL, 2)
    compile_blocks(model)
    with torch.no_grad():
        model.eval()(tokens(SMALL), tokens(SMALL))
        model.logits(tokens(SMALL))
    assert graphs() == 0

@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', ['gelu', 'norm'])
def test_recompute_linear(monkeypatch, name, dtype):
    """The plain way's result and gradients, bit for bit, from a backward that computes y again where y is
    large."""

    def run(of, limit):
        monkeypatch.setattr('core.loss.LARGE', limit)
        torch.manual_seed(0)
        linear, norm, x = torch.nn.Linear(96, 32), torch.nn.LayerNorm(96), torch.randn(2, 5, 96)
        x.requires_grad_()
        calls = []

        def function(x):
            calls.append(torch.is_grad_enabled())
            return gelu(x) if name == 'gelu' else norm(x)

        with autocast(torch.device('cpu'), dtype):
            kind = torch.bfloat16 if (dtype, name) == ('bfloat16', 'gelu') else torch.float32
            y = of(function, linear, (x * 1.5).to(kind))
        y.square().mean().backward()
        leaves = (x, linear.weight, linear.bias, *norm.parameters())
        return calls, [y, *(p.grad for p in leaves if p.grad is not None)]

    _, plain = run(lambda function, linear, x: linear(function(x)), 0)
    for limit, expected in ((2 * 5 * 96, [True, False]), (2 * 5 * 96 + 1, [True])):
        calls, ours = run(recompute_linear, limit)
        assert calls == expected and len(ours) == len(plain)
        assert all(torch.equal(a, b) for a, b in zip(ours, plain))

def test_a_block_keeps_neither_gelu_nor_norms(monkeypatch):
    x, per_block = tokens(SMALL), []
    for limit in (2**60, 0):
        monkeypatch.setattr('core.loss.LARGE', limit)
        four, five = (saved_bytes(GPT(SMALL, depth, seeded(0)), x)[0] for depth in (4, 5))
        per_block.append(five - four)
    stream = x.numel() * SMALL.n_embd * 4  # bytes of the residual stream
    assert per_block[0] - per_block[1] == (4 + 1 + 1) * stream  # GELU is four times as wide
