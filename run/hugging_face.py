"""
Hugging Face's models: their folders and the Hub's weights, as a state that checkpoint.py makes a model of.

    GPT2LMHeadModel, LlamaForCausalLM (SmolLM2 is one), Qwen2ForCausalLM, Qwen3ForCausalLM
    a folder of save_pretrained(FOLDER)      config.json, model.safetensors (one or several), tokenizer files
    from the Hub: gpt2 ... or OWNER/NAME     fetched once, into the Hub's own cache

What would load and yet be computed otherwise is refused, by the name of the field of config.json that says
so. export_hf.py writes such folders by the same names.
"""

import hashlib
import itertools
import json
import os
import re
import sys

import torch

from core import data
from core.common import UserError, read_json

HUB_NAMES = ('gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl')
HUB_OWNER = 'openai-community/'
MODEL_TYPES = ('gpt2', 'llama', 'qwen2', 'qwen3')

# Our names of a Llama's weights and theirs; several of theirs on top of each other are one of ours.
LLAMA_NAMES = (
    ('transformer.wte', ('model.embed_tokens',)),
    ('transformer.ln_f', ('model.norm',)),
    ('transformer.h.', ('model.layers.',)),
    ('.ln_1', ('.input_layernorm',)),
    ('.ln_2', ('.post_attention_layernorm',)),
    ('.attn.c_attn', ('.self_attn.q_proj', '.self_attn.k_proj', '.self_attn.v_proj')),
    ('.attn.c_proj', ('.self_attn.o_proj',)),
    ('.attn.', ('.self_attn.',)),  # norms of queries and keys
    ('.mlp.c_fc', ('.mlp.gate_proj', '.mlp.up_proj')),
    ('.mlp.c_proj', ('.mlp.down_proj',)),
)

# What changes the computation but no weight's shape: field, the values that we compute, of which a missing
# entry means the first.
GPT2_FIELDS = (
    ('activation_function', ('gelu_new', 'gelu_pytorch_tanh')),
    ('layer_norm_epsilon', (1e-5,)),
    ('tie_word_embeddings', (True,)),
    ('add_cross_attention', (False,)),
    ('scale_attn_weights', (True,)),
    ('scale_attn_by_inverse_layer_idx', (False,)),
)
LLAMA_FIELDS = (
    ('hidden_act', ('silu',)),
    ('mlp_bias', (False,)),
    ('attention_bias', (False,)),
    ('use_sliding_window', (False,)),
    ('pretraining_tp', (1,)),
    ('no_rope_layers', (None,)),
)


def hugging_face_config(folder: str) -> dict | None:
    """What its config.json says, if it is Hugging Face's; None if it isn't there, or is a run's.

    Raises UserError for an unreadable one beside Hugging Face's weights.
    """
    path = os.path.join(folder, 'config.json')
    if not os.path.isfile(path):
        return None
    try:
        config = read_json(path, 'a readable config')
    except UserError:
        if os.path.exists(os.path.join(folder, 'model.safetensors')):
            raise
        return None  # a run directory's, whose checkpoints don't need it
    return config if type(config) is dict and 'model_type' in config else None


def is_hub_name(path: str) -> bool:
    """Whether a path that isn't there names a model of the Hub: gpt2, or OWNER/NAME where no folder here is
    called OWNER."""
    if path.removeprefix(HUB_OWNER) in HUB_NAMES:
        return True
    if os.path.exists(path) or os.path.isdir(path.partition('/')[0]):
        return False
    return bool(re.fullmatch(r'[\w.-]+/[\w.-]+', path))


def download(name: str) -> str:
    """The folder of a model of the Hub in its cache, fetched if it isn't there yet."""
    import huggingface_hub  # here, since nothing else needs it

    repo = HUB_OWNER + name if name in HUB_NAMES else name
    try:
        patterns = ['*.json', '*.safetensors', 'merges.txt', 'chat_template.jinja']
        return huggingface_hub.snapshot_download(repo, allow_patterns=patterns)
    except Exception as error:  # whatever the Hub's client, the network or the disk raise
        hint = 'name a folder that holds a copy of it, or, if it asks for a login, run `hf auth login` first'
        if os.path.exists(name):
            hint = f'to read the folder of that name here, write ./{name}'
        problem = f'{repo} is no path here, and could not be fetched from the Hub ({type(error).__name__})'
        raise UserError(f'{problem}; {hint}') from None


def read_hugging_face(folder: str) -> dict:
    """config (a GPTConfig's fields), tokenizer, depth, step and model of a folder, in float32.

    Raises UserError, saying what differs, if it isn't one of these models exactly.
    """
    config = read_shape(folder)
    tokenizer = read_tokenizer(folder, config)
    return {'config': config, 'tokenizer': tokenizer, 'depth': config['n_layer'], 'step': 0,
            'model': read_weights(folder, config)}


# ------------------------------------------------------------------------------------------------------------
# the shape


def read_shape(folder: str) -> dict:
    """The fields of a GPTConfig, by config.json. Raises UserError, by the name of its field, for what is
    another model."""
    theirs = hugging_face_config(folder) or {}
    kind = theirs.get('model_type')
    allow(folder, theirs, 'model_type', MODEL_TYPES, must_be_there=True)
    config = read_gpt2(folder, theirs) if kind == 'gpt2' else read_llama(folder, theirs)
    if config['n_embd'] % config['n_head'] and kind == 'gpt2':
        raise UserError(f'{folder}: its config.json has n_embd {config["n_embd"]}, which is no multiple of '
                        f'n_head {config["n_head"]}')
    return config


def allow(folder: str, theirs: dict, name: str, allowed: tuple, must_be_there: bool = False):
    """Raise UserError unless a field has a value that this project computes. A missing one is the first."""
    value = theirs.get(name, None if must_be_there else allowed[0])
    if value not in allowed:
        known = ' or '.join(repr(one) for one in allowed)
        raise UserError(f'{folder}: its config.json has {name} {value!r}, and only {known} is known here')


def number(folder: str, theirs: dict, name: str, default=None, least: int = 1) -> int:
    """A whole number of config.json; None and a missing one are the default."""
    value = theirs.get(name)
    value = default if value is None else value
    if type(value) is not int or value < least:
        raise UserError(f'{folder}: its config.json has {name} {value!r}, where a number from {least} on is '
                        'wanted')
    return value


def read_gpt2(folder: str, theirs: dict) -> dict:
    config = {'arch': 'gpt2', 'dropout': 0.0}
    for ours, name in (('block_size', 'n_positions'), ('vocab_size', 'vocab_size'), ('n_head', 'n_head'),
                       ('n_embd', 'n_embd')):
        config[ours] = number(folder, theirs, name)
    config['n_layer'] = number(folder, theirs, 'n_layer', least=0)
    for name, allowed in (*GPT2_FIELDS, ('n_inner', (None, 4 * config['n_embd']))):
        allow(folder, theirs, name, allowed)
    return config


def read_llama(folder: str, theirs: dict) -> dict:
    kind = theirs['model_type']
    for name, allowed in LLAMA_FIELDS:
        allow(folder, theirs, name, allowed)
    if kind == 'llama':
        allow(folder, theirs, 'sliding_window', (None,))
    others = set(theirs.get('layer_types') or ()) - {'full_attention'}
    if others:
        raise UserError(f'{folder}: its config.json has layer_types with {min(others)!r}, and only '
                        "'full_attention' is known here")
    config = {'arch': 'llama', 'dropout': 0.0, 'qkv_bias': kind == 'qwen2', 'qk_norm': kind == 'qwen3'}
    for ours, name in (('block_size', 'max_position_embeddings'), ('vocab_size', 'vocab_size'),
                       ('n_head', 'num_attention_heads'), ('n_embd', 'hidden_size'),
                       ('n_ff', 'intermediate_size')):
        config[ours] = number(folder, theirs, name)
    config['n_layer'] = number(folder, theirs, 'num_hidden_layers', least=0)
    config['n_kv_head'] = number(folder, theirs, 'num_key_value_heads', config['n_head'])
    head_dim = 128 if kind == 'qwen3' else config['n_embd'] // config['n_head']
    config['head_dim'] = number(folder, theirs, 'head_dim', head_dim)
    if config['n_head'] % config['n_kv_head']:
        raise UserError(f'{folder}: its config.json has num_attention_heads {config["n_head"]}, which is no '
                        f'multiple of num_key_value_heads {config["n_kv_head"]}')
    config['norm_eps'] = theirs.get('rms_norm_eps', 1e-6)
    config['tie_embeddings'] = theirs.get('tie_word_embeddings', False)
    config['rope_theta'] = read_rope(folder, theirs)
    return config


def read_rope(folder: str, theirs: dict):
    """rope_theta as our settings have it: transformers 5 has it in rope_parameters, 4 beside rope_scaling."""
    rope = theirs.get('rope_parameters') or theirs.get('rope_scaling') or {}
    kind = {'rope_type': rope.get('rope_type', rope.get('type', 'default'))}
    allow(folder, kind, 'rope_type', ('default', 'llama3'))
    theta = rope.get('rope_theta', theirs.get('rope_theta', 10_000.0))
    if kind['rope_type'] == 'default':
        return float(theta)
    names = ('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')
    numbers = [theta, *(rope.get(name) for name in names)]
    if not all(type(value) in (int, float) for value in numbers):
        raise UserError(f"{folder}: its config.json lacks one of rope_type llama3's {', '.join(names)}")
    return tuple(float(value) for value in numbers)


# ------------------------------------------------------------------------------------------------------------
# the weights


def their_names(name: str, arch: str) -> list[str]:
    """Their names of one of our weights."""
    if arch == 'gpt2':
        return [name]
    names = [name]
    for ours, theirs in LLAMA_NAMES:
        if ours in name:
            pairs = itertools.product(names, theirs)
            names = [one.replace(ours, new) for one, new in pairs]
    return names


def transposed(name: str, tensor, arch: str):
    """A weight of theirs as ours, or of ours as theirs: GPT-2's linear layers ("Conv1D") are stored as (in,
    out)."""
    if arch == 'gpt2' and name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight')):
        return tensor.T
    return tensor


def read_weights(folder: str, config: dict) -> dict:
    """Our state dict, float32, one weight at a time: beside it no second copy is in memory.

    Raises UserError for a file that is missing or damaged, and for weights that a model of this shape hasn't.
    """
    from safetensors import safe_open

    from model import GPT, GPTConfig

    with torch.device('meta'):  # for the names of its weights alone
        shapes = GPT(GPTConfig(**config)).state_dict()
    files = ['model.safetensors']
    index = os.path.join(folder, 'model.safetensors.index.json')
    try:
        if os.path.exists(index):
            # The index names a file for every tensor, so each file comes up many times.
            files = sorted(set(read_json(index, 'an index of weights')['weight_map'].values()))
        stored = {}  # their name -> a function that reads it
        for file in files:
            opened = safe_open(os.path.join(folder, file), 'pt')
            for name in opened.keys():  # noqa: SIM118 (no dict)
                prefix = 'transformer.' if config['arch'] == 'gpt2' else 'model.'
                is_whole = name.startswith((prefix, 'lm_head.'))  # else it was saved without its head
                stored[name if is_whole else prefix + name] = (opened, name)
        weights = {}
        for ours in shapes:
            parts = []
            for name in their_names(ours, config['arch']):
                if name not in stored and name == embedding_name(config['arch']):
                    name = 'lm_head.weight'  # of two tied weights a file may keep either one
                opened, stored_name = stored.pop(name)
                parts.append(transposed(ours, opened.get_tensor(stored_name), config['arch']))
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]
            weights[ours] = whole.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        check_left_over(folder, stored, weights)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f'{folder}: its safetensors lack {error}') from None
    except Exception as error:  # a damaged file can fail anywhere in safetensors
        problem = f'{folder}: not a whole model, config.json and model.safetensors: {error!r}'
        raise UserError(problem) from None
    return weights


def embedding_name(arch: str) -> str:
    return their_names('transformer.wte.weight', arch)[0]


def check_left_over(folder: str, stored: dict, weights: dict):
    """Raise UserError for a weight that the model would not use, but for one that is another's copy or no
    weight."""
    for name, (opened, stored_name) in stored.items():
        # Old folders keep the causal mask and the rotary frequencies among the weights.
        if name.endswith(('.attn.bias', '.attn.masked_bias', '.rotary_emb.inv_freq')):
            continue
        if name == 'lm_head.weight':  # of tied weights a file may keep both
            if torch.equal(opened.get_tensor(stored_name).float(), weights['transformer.wte.weight']):
                continue
            raise UserError(f'{folder}: its config.json has tie_word_embeddings, but lm_head.weight differs '
                            'from the token embedding, and would be dropped')
        raise UserError(f'{folder}: its weight {name} has no place in the model of its config.json')


# ------------------------------------------------------------------------------------------------------------
# the tokenizer

# name: tokens, sha256 of the tokens in the order of their numbers and of the merges, a line each
KNOWN = {
    'gpt2': (50257, 'e35a33a0b2250c932ffdafc4c3a3552aef0cc7af7a11e9ebfddf1d2a6517371f',
             '04e3597d7996f292ca9b8b7285ca4d58a6ae171ac47d73fc7140ceb0c7a6bbc0'),
    'bytes': (257, 'd9d076ac90efd4193540ec4a764547e374e3d3a6324b60e60ad723a600a1ec9a',
              'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'),
}


def read_tokenizer(folder: str, config: dict) -> str:
    """The folder's tokenizer, as core/data.py names it: 'gpt2', 'bytes', or 'sha256:...'.

    A GPT-2 without tokenizer files is taken for OpenAI's, or for one of bytes by its vocabulary's size, with
    a warning. Raises UserError for another model without, and for files that are no tokenizer.
    """
    import tokenizers  # here, since little else needs it

    path, *parts = (os.path.join(folder, name) for name in ('tokenizer.json', 'vocab.json', 'merges.txt'))
    try:
        if os.path.exists(path):
            return known_name(tokenizers.Tokenizer.from_file(path)) or data.read_tokenizer(folder)[1]
        if all(map(os.path.exists, parts)):
            name = known_name(tokenizers.ByteLevelBPETokenizer(*parts)._tokenizer)
            if name:
                return name
            raise UserError(f'{folder}: holds no tokenizer.json: let transformers save its tokenizer again')
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in tokenizers
        raise UserError(f'{folder}: its tokenizer files cannot be read ({error})') from None
    if config['arch'] != 'gpt2':
        raise UserError(f'{folder}: holds no tokenizer.json: copy the one of its tokenizer there')
    guess = 'bytes' if config['vocab_size'] == 257 else 'gpt2'
    if os.environ.get('RANK', '0') == '0':
        print(f'warning: {folder} has no tokenizer files (tokenizer.json, or vocab.json and merges.txt): '
              f'taken to be {guess!r}, unproven', file=sys.stderr)
    return guess


def known_name(parsed) -> str:
    """'gpt2' or 'bytes', if a tokenizer is one of these; else ''. Many have 50,257 tokens of their own."""
    content = json.loads(parsed.to_str())
    splitter = content.get('pre_tokenizer') or {}
    if content.get('normalizer') or splitter.get('type') != 'ByteLevel' or splitter.get('add_prefix_space'):
        return ''
    vocab = parsed.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.get)
    merges = content['model'].get('merges', ())
    merges = [merge if type(merge) is str else ' '.join(merge) for merge in merges]
    for name, (n, *digests) in KNOWN.items():
        # Further tokens, added for special purposes, don't matter.
        if [hash_lines(tokens[:n]), hash_lines(merges)] == digests:
            return name
    return ''


def hash_lines(lines: list[str]) -> str:
    return hashlib.sha256('\n'.join(lines).encode(errors='replace')).hexdigest()
