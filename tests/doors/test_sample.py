"""Text from a checkpoint. Run: python -m pytest tests/doors/test_sample.py"""

import json
import math
import shutil
import sys
import types

import pytest
import torch
from conftest import save_bpe

import sample
from config import TrainConfig, config_to_dict
from core.common import UserError
from model import GPT, GPTConfig
from run import checkpoint
from sample import generate

SHAPE = {'n_layer': 2, 'n_head': 2, 'n_embd': 16, 'block_size': 16, 'vocab_size': 320}

@pytest.fixture(scope='module')
def model():
    model = GPT(GPTConfig(**SHAPE), generator=torch.Generator().manual_seed(0)).eval()
    torch.nn.init.normal_(model.transformer.wte.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return model

@pytest.fixture(scope='module')
def run_dir(model, tmp_path_factory):
    path = tmp_path_factory.mktemp('run')
    save(path / 'ckpt_000005.pt', model, 'bytes')
    return path

def save(path, model, tokenizer):
    settings = config_to_dict(TrainConfig(**SHAPE, growth_steps=5, total_batch_size=16, batch_size=1))
    checkpoint.save_checkpoint(str(path), {
        'config': settings, 'tokenizer': tokenizer, 'depth': model.depth, 'step': 5,
        'model': model.state_dict(),
        'optimizer': {}, 'totals': {}})

@pytest.fixture
def say(monkeypatch, capsys):
    """sample.py on some arguments, in this process -> its standard output."""
    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['sample.py', *map(str, args), '--device=cpu'])
        sample.main()
        return capsys.readouterr().out
    return call

def all_logits(model, context):
    """Logits behind the last token, by the plain way: all positions, no generator around."""
    with torch.no_grad():
        return model.logits(torch.tensor([context]))[0, -1]

def test_padding_rows_are_never_drawn_however_likely(model):
    model = GPT(model.config).eval()
    with torch.no_grad():
        model.transformer.ln_f.bias.copy_(torch.ones(16))
        model.transformer.wte.weight[257:] = 5.0  # each padding row beats every real one by far
    assert all_logits(model, [256]).argmax() >= 257
    for temperature, top_k in ((0, 0), (1.0, 0), (5.0, 3)):
        assert max(generate(model, [256], 40, 257, temperature, top_k, 0)) < 257

def test_temperature_0_takes_the_likeliest_token_of_the_cropped_context(model):
    tokens = list(b'A prompt that is longer than the sixteen tokens of context.')
    assert len(tokens) > 2 * SHAPE['block_size']
    for token in generate(model, tokens, 30, 257, 0, 0, 0):
        assert token == all_logits(model, tokens[-16:])[:257].argmax()
        tokens.append(token)
    short = [256]
    for token in generate(model, short, 5, 257, 0, 0, 0):
        assert token == all_logits(model, short)[:257].argmax()
        short.append(token)

def test_tokens_are_drawn_with_the_probabilities_of_the_temperature(model):
    logits = all_logits(model, [65])
    wanted = (logits[:257] / 1.5).softmax(0)
    # The model that has these logits already, since 3,000 forward passes take seconds.
    known = types.SimpleNamespace(transformer=model.transformer, config=model.config,
                                  logits=lambda *arguments: logits[None].clone())
    n = 3000
    drawn = torch.tensor([next(generate(known, [65], 1, 257, 1.5, 0, seed)) for seed in range(n)])
    counts = torch.bincount(drawn, minlength=257)
    likely = wanted * n >= 8
    chi2 = ((counts - wanted * n)**2 / (wanted * n))[likely].sum()
    freedom = int(likely.sum())
    assert freedom > 20 and chi2 < freedom + 5 * math.sqrt(2 * freedom)

def test_top_k_draws_from_the_k_likeliest_alone_and_from_each(model):
    likeliest = all_logits(model, [65])[:257].topk(4).indices.tolist()

    def drawn(temperature, top_k, seeds):
        return {next(generate(model, [65], 1, 257, temperature, top_k, seed)) for seed in seeds}

    assert drawn(3.0, 4, range(200)) == set(likeliest)
    assert drawn(3.0, 1, range(20)) == {likeliest[0]}
    assert drawn(1.0, 10_000, [3]) == drawn(1.0, 0, [3])
    assert drawn(1e-44, 0, range(5)) == {likeliest[0]}  # no overflow

def test_the_same_seed_gives_the_same_text_and_n_does_not_change_a_sample(run_dir, say):
    args = (run_dir, '--prompt=Once ü', '--tokens=30', '--temperature=1.5')
    first, second = say(*args, '--seed=3'), say(*args, '--seed=4')
    assert first.startswith('Once ü') and len(first) > 10
    assert say(*args, '--seed=3') == first != second
    both = say(*args, '--seed=3', '--n=2')
    assert both == first[:-1] + '\n---\n' + second
    assert say(run_dir / 'ckpt_000005.pt', *args[1:], '--seed=3') == first

def test_the_text_is_the_decoded_tokens_and_ends_at_end_of_text(run_dir, say, monkeypatch):
    def fake(model, tokens, n, *rest):
        prompts.append(tokens)
        yield from [*'naïve €'.encode(), 0xff, ord('!'), 256, *b'not shown']

    prompts = []
    monkeypatch.setattr(sample, 'generate', fake)
    assert say(run_dir) == 'naïve €\ufffd!\n'  # characters of several tokens whole, a broken one marked
    assert say(run_dir, '--prompt=ab') == 'abnaïve €\ufffd!\n'
    assert prompts == [[256], list(b'ab')]  # without a prompt a document begins

def test_a_vocabulary_of_fewer_rows_than_the_tokenizer_has_tokens_is_one_line(tmp_path, model, monkeypatch):
    """A prompt's tokens would lie beyond the embedding."""
    save(tmp_path / 'a.pt', model, 'gpt2')
    monkeypatch.setattr(sys, 'argv', ['sample.py', str(tmp_path / 'a.pt'), '--prompt=the man',
                                      '--device=cpu'])
    with pytest.raises(UserError, match="vocabulary of 320, the tokenizer 'gpt2' one of 50257"):
        sample.main()

def test_a_model_without_layers_speaks_too(tmp_path, say):
    save(tmp_path / 'a.pt', GPT(GPTConfig(**SHAPE), 0), 'bytes')
    assert say(tmp_path / 'a.pt', '--prompt=ab', '--tokens=20').startswith('ab')

def test_a_run_on_tokens_of_a_tokenizer_json_is_scored_without_its_data(tmp_path, monkeypatch, say):
    import hellaswag
    import prepare_fineweb
    import train

    save_bpe(tmp_path / 'bpe')
    (tmp_path / 'a.txt').write_text('the quick brown fox jumps over the lazy dog and naps. ' * 200)
    question = {'ctx': 'the quick', 'endings': ['brown fox', 'dog', 'lazy', 'jumps over'], 'label': 0}
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/hellaswag.jsonl').write_text(json.dumps(question))

    def run(main, *args):
        monkeypatch.setattr(sys, 'argv', ['x', *map(str, args)])
        main()

    run(prepare_fineweb.main, '--source', tmp_path / 'a.txt', f'--out={tmp_path}/data', '--shard_tokens=400',
        f'--tokenizer={tmp_path}/bpe')
    flags = ['--vocab_size=0', '--n_layer=1', '--n_head=2', '--n_embd=16', '--block_size=16',
             '--batch_size=2', '--total_batch_size=32', '--growth_steps=2', '--continual_steps=0',
             '--val_tokens=64', '--device=cpu']
    run(train.main, *flags, f'--data_dir={tmp_path}/data', f'--out_dir={tmp_path}/run')
    shutil.rmtree(tmp_path / 'bpe')
    shutil.copy(tmp_path / 'data/hellaswag.jsonl', tmp_path)
    shutil.rmtree(tmp_path / 'data')
    assert say(tmp_path / 'run', '--prompt=the quick', '--tokens=3').count('\nthe quick') == 1
    run(hellaswag.main, tmp_path / 'run', f'--data={tmp_path}/hellaswag.jsonl', '--device=cpu')
