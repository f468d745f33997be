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
from core.common import UserError, read_json, say

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
FIELDS = {
    'gpt2': (
        ('activation_function', ('gelu_new', 'gelu_pytorch_tanh')),
        ('layer_norm_epsilon', (1e-5,)),
        ('tie_word_embeddings', (True,)),
        ('add_cross_attention', (False,)),
        ('scale_attn_weights', (True,)),
        ('scale_attn_by_inverse_layer_idx', (False,)),
    ),
    'llama': (
        ('hidden_act', ('silu',)),
        ('mlp_bias', (False,)),
        ('attention_bias', (False,)),
        ('use_sliding_window', (False,)),
        ('pretraining_tp', (1,)),
        ('no_rope_layers', (None,)),
    ),
}
# Our names of the sizes and theirs.
SIZES = {
    'gpt2': {'block_size': 'n_positions', 'vocab_size': 'vocab_size', 'n_layer': 'n_layer',
             'n_head': 'n_head', 'n_embd': 'n_embd'},
    'llama': {'block_size': 'max_position_embeddings', 'vocab_size': 'vocab_size',
              'n_layer': 'num_hidden_layers', 'n_head': 'num_attention_heads', 'n_embd': 'hidden_size',
              'n_ff': 'intermediate_size'},
}
LLAMA3_ROPE = ('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')

def hugging_face_config(folder: str) -> dict | None:
    """What its config.json says, if it is Hugging Face's; None if it isn't there, or is a run's. Raises
    UserError for an unreadable one."""
    path = os.path.join(folder, 'config.json')
    config = read_json(path, 'a readable config') if os.path.isfile(path) else {}
    return config if 'model_type' in config else None

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
        raise UserError(f'{repo} could not be fetched from the Hub ({type(error).__name__}): name a folder '
                        f'that holds a copy (./{name} if it lies here), or run `hf auth login` if it asks '
                        'for a login') from None

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
    theirs = hugging_face_config(folder) or {'model_type': None}
    kind = theirs['model_type']
    allow(folder, theirs, 'model_type', MODEL_TYPES)
    arch = 'gpt2' if kind == 'gpt2' else 'llama'
    config = {'arch': arch, 'dropout': 0.0}
    for ours, name in SIZES[arch].items():
        config[ours] = number(folder, theirs, name, least=0 if ours == 'n_layer' else 1)
    for name, allowed in FIELDS[arch]:
        allow(folder, theirs, name, allowed)
    whole, part = 'n_embd', 'n_head'
    if arch == 'gpt2':
        allow(folder, theirs, 'n_inner', (None, 4 * config['n_embd']))
    else:
        config |= read_llama(folder, theirs, config)
        whole, part = 'n_head', 'n_kv_head'
    if config[whole] % config[part]:
        raise UserError(f'{folder}: its config.json has {whole} {config[whole]}, which is no multiple of '
                        f'{part} {config[part]}')
    return config

def allow(folder: str, theirs: dict, name: str, allowed: tuple):
    """Raise UserError unless a field has a value that this project computes. A missing one is the first."""
    value = theirs.get(name, allowed[0])
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

def read_llama(folder: str, theirs: dict, config: dict) -> dict:
    """What a Llama has beyond the sizes in `config`."""
    kind = theirs['model_type']
    if kind == 'llama':  # Qwen2 and Qwen3 have it written down, and use_sliding_window off
        allow(folder, theirs, 'sliding_window', (None,))
    for layer in theirs.get('layer_types') or ():
        allow(folder, {'layer_types': layer}, 'layer_types', ('full_attention',))
    head_dim = 128 if kind == 'qwen3' else config['n_embd'] // config['n_head']
    return {
        'qkv_bias': kind == 'qwen2',
        'qk_norm': kind == 'qwen3',
        'n_kv_head': number(folder, theirs, 'num_key_value_heads', config['n_head']),
        'head_dim': number(folder, theirs, 'head_dim', head_dim),
        'norm_eps': theirs.get('rms_norm_eps', 1e-6),
        'tie_embeddings': theirs.get('tie_word_embeddings', False),
        'rope_theta': read_rope(folder, theirs),
    }

def read_rope(folder: str, theirs: dict):
    """rope_theta as our settings have it: transformers 5 has it in rope_parameters, 4 beside rope_scaling."""
    rope = theirs.get('rope_parameters') or theirs.get('rope_scaling') or {}
    rope = {'rope_theta': theirs.get('rope_theta', 10_000.0)} | rope
    kind = rope.get('rope_type', rope.get('type', 'default'))
    allow(folder, {'rope_type': kind}, 'rope_type', ('default', 'llama3'))
    names = ('rope_theta', *LLAMA3_ROPE) if kind == 'llama3' else ('rope_theta',)
    numbers = [rope.get(name) for name in names]
    if not all(type(value) in (int, float) for value in numbers):
        raise UserError(f"{folder}: its config.json lacks one of rope_type {kind}'s {', '.join(names)}")
    theta, *scaling = map(float, numbers)
    return (theta, *scaling) if scaling else theta

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

    arch = config['arch']
    prefix = 'transformer.' if arch == 'gpt2' else 'model.'
    with torch.device('meta'):  # for the names of its weights alone
        shapes = GPT(GPTConfig(**config)).state_dict()
    files = ['model.safetensors']
    index = os.path.join(folder, 'model.safetensors.index.json')
    try:
        if os.path.exists(index):
            # The index names a file for every tensor, so each file comes up many times.
            files = sorted(set(read_json(index, 'an index of weights')['weight_map'].values()))
        stored = {}  # their name -> the file that holds it, and its name there
        for file in files:
            opened = safe_open(os.path.join(folder, file), 'pt')
            for name in opened.keys():  # noqa: SIM118 (no dict)
                is_whole = name.startswith((prefix, 'lm_head.'))  # else it was saved without its head
                stored[name if is_whole else prefix + name] = (opened, name)
        weights = {}
        for ours in shapes:
            parts = []
            for name in their_names(ours, arch):
                if name not in stored and ours == 'transformer.wte.weight':
                    name = 'lm_head.weight'  # of two tied weights a file may keep either one
                opened, stored_name = stored.pop(name)
                parts.append(transposed(ours, opened.get_tensor(stored_name), arch))
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]
            weights[ours] = whole.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        head = stored.pop('lm_head.weight', None)
        if head:  # of tied weights a file may keep both
            opened, stored_name = head
            if not torch.equal(opened.get_tensor(stored_name).float(), weights['transformer.wte.weight']):
                raise UserError(f'{folder}: its config.json has tie_word_embeddings, but lm_head.weight '
                                'differs from the token embedding, and would be dropped')
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in safetensors
        raise UserError(f'{folder}: its safetensors are not a whole model: {error!r}') from None
    # Old folders keep the causal mask and the rotary frequencies among the weights.
    no_weights = ('.attn.bias', '.attn.masked_bias', '.rotary_emb.inv_freq')
    others = [name for name in stored if not name.endswith(no_weights)]
    if others:
        raise UserError(f'{folder}: its weight {others[0]} has no place in the model of its config.json')
    return weights

# ------------------------------------------------------------------------------------------------------------
# the tokenizer

# sha256 of what a tokenizer does, as known_name() has it
KNOWN = {
    '2bd5c9f28841d7310cb0490b4cceacf79e7c1b2d435aa3ec583c315650933d6c': 'gpt2',
    'ad713cf414223ec94f6dc73b978fb527807281fe57761e6ba41e18e10fad26ae': 'bytes',
}

def read_tokenizer(folder: str, config: dict) -> str:
    """The folder's tokenizer, as core/data.py names it: 'gpt2', 'bytes', or 'sha256:...'.

    A GPT-2 without tokenizer files is taken for OpenAI's, or for one of bytes by its vocabulary's size, with
    a warning. Raises UserError for another model without, and for files that are no tokenizer.
    """
    import tokenizers  # here, since little else needs it

    path, *parts = (os.path.join(folder, name) for name in ('tokenizer.json', 'vocab.json', 'merges.txt'))
    has_parts = all(map(os.path.exists, parts))
    name = ''
    try:
        if os.path.exists(path):
            return known_name(tokenizers.Tokenizer.from_file(path)) or data.read_tokenizer(folder)[1]
        if has_parts:
            name = known_name(tokenizers.ByteLevelBPETokenizer(*parts)._tokenizer)
    except Exception as error:  # a damaged file can fail anywhere in tokenizers
        raise UserError(f'{folder}: its tokenizer files cannot be read ({error})') from None
    if name:
        return name
    if has_parts or config['arch'] != 'gpt2':
        raise UserError(f'{folder}: holds no tokenizer.json: copy the one of its tokenizer there')
    guess = 'bytes' if config['vocab_size'] == 257 else 'gpt2'
    say(f'warning: {folder} has no tokenizer files: taken to be {guess!r}, unproven', sys.stderr)
    return guess

def known_name(parsed) -> str:
    """'gpt2' or 'bytes', if a tokenizer is one of these; else ''. Many have 50,257 tokens of their own."""
    content = json.loads(parsed.to_str())
    splitter = content['pre_tokenizer'] or {}
    vocab = dict(content['model']['vocab'])  # some kinds have a list of pairs
    merges = [' '.join(merge) for merge in content['model'].get('merges', ())]
    # Tokens that were added for special purposes don't matter.
    facts = [content['normalizer'], splitter.get('type'), splitter.get('add_prefix_space'),
             sorted(vocab.items()), merges]
    return KNOWN.get(hashlib.sha256(json.dumps(facts).encode()).hexdigest(), '')
