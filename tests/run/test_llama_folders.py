"""Llama, Qwen2 and Qwen3 in and out. Run: python -m pytest tests/run/test_llama_folders.py"""

import json
import sys

import pytest
import torch
from llamas import KINDS, make_folder
from processes import run_python

from core.common import UserError
from export_hf import export
from growth import layout
from model import GPT
from run import checkpoint

IDX = torch.randint(320, (2, 40), generator=torch.Generator().manual_seed(3))

def logits_of(model):
    with torch.no_grad():
        return model.logits(IDX) if isinstance(model, GPT) else model(IDX).logits

def from_folder(folder):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

@pytest.mark.parametrize('kind', KINDS)
def test_logits_equal_transformers_before_and_after_a_round_trip_and_growing_with_zero(tmp_path, kind):
    theirs = make_folder(tmp_path / 'in', kind)
    model, info = checkpoint.load_model(str(tmp_path / 'in'))
    expected = logits_of(theirs)
    assert expected.abs().max() > 0.5
    assert torch.allclose(logits_of(model), expected, atol=1e-5)
    export(model, info, str(tmp_path / 'out'))
    again = from_folder(tmp_path / 'out')
    assert type(again) is type(theirs) and torch.allclose(logits_of(again), expected, atol=1e-5)

    grow_map = ((0, False), (None, True), (1, False), (2, False), (None, True))
    model.grow(list(grow_map), 'zero')
    assert torch.allclose(logits_of(model), expected, atol=1e-5)
    export(model, info, str(tmp_path / 'grown'))
    grown = from_folder(tmp_path / 'grown')
    assert grown.config.num_hidden_layers == 5
    assert torch.allclose(logits_of(grown), expected, atol=1e-5)

@pytest.mark.parametrize('kind', KINDS)
def test_copies_of_layers_compute_what_transformers_computes_with_them(tmp_path, kind):
    make_folder(tmp_path / 'in', kind)
    model, info = checkpoint.load_model(str(tmp_path / 'in'))
    model.grow(layout('interleave', 3, 5), 'random')
    export(model, info, str(tmp_path / 'out'))
    assert torch.allclose(logits_of(from_folder(tmp_path / 'out')), logits_of(model), atol=1e-5)

def test_several_files_in_bfloat16_are_read_and_written(tmp_path):
    make_folder(tmp_path / 'in', 'qwen2', torch.bfloat16, '20KB')
    assert len(list((tmp_path / 'in').glob('*.safetensors'))) > 1
    model, info = checkpoint.load_model(str(tmp_path / 'in'))
    assert model.transformer.wte.weight.dtype == torch.float32
    assert torch.allclose(logits_of(model), logits_of(from_folder(tmp_path / 'in')), atol=1e-5)
    export(model, info, str(tmp_path / 'out'), 'bfloat16')
    for name, weight in make_weights(tmp_path / 'out').items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, make_weights(tmp_path / 'in')[name]), name

def make_weights(folder):
    from safetensors.torch import load_file

    weights = {}
    for path in folder.glob('*.safetensors'):
        weights |= load_file(path)
    return weights

# The memory that loading a model took at most beyond what it had at first, and the model's own, in bytes.
MEASURE = """
import sys, threading
import safetensors, tokenizers
from run import checkpoint

def anonymous():  # not the pages of mapped files, which the kernel takes back at will
    for line in open('/proc/self/status'):
        if line.startswith('RssAnon'):
            return 1024 * int(line.split()[1])

def watch():
    while not done.wait(0.001):
        most[0] = max(most[0], anonymous())

most, done, before = [0], threading.Event(), anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
model, _ = checkpoint.load_model(sys.argv[1])
done.set()
watcher.join()
print(most[0] - before, 4 * sum(p.numel() for p in model.parameters()))
"""

@pytest.mark.skipif(sys.platform != 'linux', reason='Linux tells what memory a process has')
def test_a_checkpoint_in_bfloat16_loads_in_little_more_memory_than_the_model_takes(tmp_path):
    """SmolLM2 135M took 652 MB for its 538; a second copy in float32 would make it 1,076."""
    make_folder(tmp_path / 'in', 'smollm2', torch.bfloat16, hidden_size=384, intermediate_size=1536,
                num_hidden_layers=4)
    done = run_python('-c', MEASURE, str(tmp_path / 'in'))
    peak, size = map(int, done.stdout.split())
    assert size > 35e6 and peak < 1.5 * size, done.stderr

def test_the_tokenizer_and_its_generation_config_are_carried_along(tmp_path):
    import transformers

    make_folder(tmp_path / 'in', 'llama')
    (tmp_path / 'in' / 'chat_template.jinja').write_text('{{ messages }}')
    model, info = checkpoint.load_model(str(tmp_path / 'in'))
    export(model, info, str(tmp_path / 'out'))
    for name in ('generation_config.json', 'chat_template.jinja', 'tokenizer_config.json'):
        assert (tmp_path / 'out' / name).read_text() == (tmp_path / 'in' / name).read_text()
    text = 'The fox, the dog.'
    both = [transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ('in', 'out')]
    ids = [each(text).input_ids for each in both]
    assert ids[0] == ids[1]

@pytest.mark.parametrize('changes, message', [
    ({'model_type': 'mistral'}, "model_type 'mistral', and only 'gpt2' or 'llama' or 'qwen2' or 'qwen3'"),
    ({'sliding_window': 4096}, 'sliding_window 4096'),
    ({'attention_bias': True}, 'attention_bias True'),
    ({'mlp_bias': True}, 'mlp_bias True'),
    ({'hidden_act': 'gelu'}, "hidden_act 'gelu'"),
    ({'layer_types': ['full_attention', 'sliding_attention']}, "layer_types 'sliding_attention'"),
    ({'rope_parameters': {'rope_type': 'yarn'}}, "rope_type 'yarn'"),
    ({'rope_parameters': {'rope_type': 'llama3'}}, "lacks one of rope_type llama3's"),
    ({'rope_theta': None, 'rope_parameters': None}, "lacks one of rope_type default's rope_theta"),
    ({'num_key_value_heads': 3}, 'n_head 4, which is no multiple of n_kv_head 3'),
    ({'num_hidden_layers': 2}, 'has no place in the model of its config.json'),
    ({'num_hidden_layers': 4}, "KeyError('model.layers.3."),
    ({'intermediate_size': 100}, "its weights don't fit the shape"),
    ({'hidden_size': 'wide'}, "hidden_size 'wide', where a number from 1 on is wanted"),
    ({'tie_word_embeddings': True}, 'lm_head.weight differs'),
])
def test_what_is_computed_otherwise_is_refused_by_the_fields_name(tmp_path, changes, message):
    make_folder(tmp_path, 'llama')
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as error:
        checkpoint.load_model(str(tmp_path))
    assert message in str(error.value) and '\n' not in str(error.value)

def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    make_folder(tmp_path, 'llama')
    (tmp_path / 'tokenizer.json').unlink()
    with pytest.raises(UserError, match=r'holds no tokenizer\.json'):
        checkpoint.load_model(str(tmp_path))
