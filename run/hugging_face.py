"""
Hugging Face's GPT-2: its folders and the Hub's weights, as a state that checkpoint.py makes a model of.

    from transformers: GPT2LMHeadModel.save_pretrained(FOLDER)      config.json, model.safetensors
    from the Hub: gpt2, gpt2-medium, gpt2-large, gpt2-xl            fetched once, into the Hub's own cache

A folder is read if it is GPT-2 exactly: this architecture, a head tied to the token embedding, GPT-2's
tokenizer (or the 'bytes' that export_hf.py writes). Whatever else would load is refused: it would be scored
as another model.
"""

import hashlib
import os
import sys

import torch

from core.common import UserError, read_json

HUB_NAMES = ('gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl')
HUB_OWNER = 'openai-community/'


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


def download_gpt2(name: str) -> str:
    """The folder with the weights of one of HUB_NAMES in the Hub's cache, fetched if they aren't there
    yet."""
    import huggingface_hub  # here, since nothing else needs it

    repo = HUB_OWNER + name
    try:
        return huggingface_hub.snapshot_download(repo, allow_patterns=['config.json', 'model.safetensors'])
    except Exception as error:  # whatever the Hub's client, the network or the disk raise
        hint = ('on a machine without network, name a folder that holds a copy of its config.json and '
                'model.safetensors')
        if os.path.exists(name):
            hint = f'to read the folder of that name here, write ./{name}'
        problem = f'{repo} could not be fetched from the Hub ({type(error).__name__})'
        raise UserError(f'{problem}; {hint}') from None


def read_hugging_face(folder: str, tokenizer: str = '') -> dict:
    """config (the model's part), tokenizer, depth, step and model of a folder; `tokenizer`, if it is known
    already.

    Raises UserError, saying what differs, if it isn't GPT-2 exactly.
    """
    config = read_shape(folder)
    tensors = read_safetensors(folder)
    untied = tensors.pop('lm_head.weight', None)
    if untied is not None:
        # Of two tied tensors a file may keep either one or both.
        embedding = tensors.setdefault('transformer.wte.weight', untied)
        if not torch.equal(untied, embedding):
            raise UserError(f'{folder}: not GPT-2: its head has weights of its own (lm_head.weight differs '
                            'from wte.weight), and would be dropped')
    weights = {}
    for name, tensor in tensors.items():
        if name.endswith(('.attn.bias', '.attn.masked_bias')):
            continue  # old folders keep the causal mask among the weights
        # Some folders are in half precision; the weights that train are float32.
        weights[name] = transposed(name, tensor).float()
    if not tokenizer:
        tokenizer = tokenizer_of(folder, config['vocab_size'])
    return {'config': config, 'tokenizer': tokenizer, 'depth': config['n_layer'], 'step': 0, 'model': weights}


def transposed(name: str, tensor):
    """A weight of theirs as ours, or of ours as theirs: their linear layers ("Conv1D") are stored as (in,
    out)."""
    if name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight')):
        return tensor.T
    return tensor


def read_shape(folder: str) -> dict:
    """The fields of a GPTConfig, by config.json. Raises UserError for another architecture than GPT-2."""
    theirs = hugging_face_config(folder) or {}
    config = {'dropout': 0.0}
    for ours, name in (
        ('block_size', 'n_positions'),
        ('vocab_size', 'vocab_size'),
        ('n_layer', 'n_layer'),
        ('n_head', 'n_head'),
        ('n_embd', 'n_embd'),
    ):
        value = theirs.get(name)
        least = 0 if name == 'n_layer' else 1
        if type(value) is not int or value < least:
            raise UserError(f'{folder}: not a whole GPT-2: its config.json has {name} {value!r}, where a '
                            f'number from {least} on is wanted')
        config[ours] = value
    if config['n_embd'] % config['n_head']:
        raise UserError(f'{folder}: not a whole GPT-2: its config.json has n_embd {config["n_embd"]}, which '
                        f'is no multiple of n_head {config["n_head"]}')
    # What changes the computation but no tensor's shape. A missing entry means the first value.
    for name, allowed in (
        ('model_type', ('gpt2',)),
        ('activation_function', ('gelu_new', 'gelu_pytorch_tanh')),
        ('layer_norm_epsilon', (1e-5,)),
        ('n_inner', (None, 4 * config['n_embd'])),
        ('tie_word_embeddings', (True,)),
        ('add_cross_attention', (False,)),
        ('scale_attn_weights', (True,)),
        ('scale_attn_by_inverse_layer_idx', (False,)),
    ):
        if theirs.get(name, allowed[0]) not in allowed:
            raise UserError(f'{folder}: not GPT-2: its config.json has {name} {theirs[name]!r}, not '
                            f'{allowed[0]!r}')
    return config


def read_safetensors(folder: str) -> dict:
    """All tensors of a folder, by the names of a model with its head, from one file or several with an index.

    Raises UserError for a file that is missing or damaged.
    """
    from safetensors.torch import load_file

    files = ['model.safetensors']
    index = os.path.join(folder, 'model.safetensors.index.json')
    tensors = {}
    try:
        if os.path.exists(index):
            # The index names a file for every tensor, so each file comes up many times.
            files = sorted(set(read_json(index, 'an index of weights')['weight_map'].values()))
        for file in files:
            for name, tensor in load_file(os.path.join(folder, file)).items():
                if not name.startswith(('transformer.', 'lm_head.')):
                    name = 'transformer.' + name  # saved without its head
                tensors[name] = tensor
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in safetensors
        problem = f'{folder}: not a whole GPT-2, config.json and model.safetensors: {error!r}'
        raise UserError(problem) from None
    return tensors


# ------------------------------------------------------------------------------------------------------------
# which tokenizer

# (number of tokens, sha256 of the tokens as vocab.json spells them, by number, a line each)
VOCABULARIES = {
    'gpt2': (50257, 'e35a33a0b2250c932ffdafc4c3a3552aef0cc7af7a11e9ebfddf1d2a6517371f'),
    'bytes': (257, 'd9d076ac90efd4193540ec4a764547e374e3d3a6324b60e60ad723a600a1ec9a'),
}
# sha256 of merges.txt without its first line
MERGES = {
    'gpt2': '04e3597d7996f292ca9b8b7285ca4d58a6ae171ac47d73fc7140ceb0c7a6bbc0',
    'bytes': hashlib.sha256(b'').hexdigest(),  # has none
}
# the files of other kinds of tokenizers: WordPiece and SentencePiece
OTHER_FILES = ('vocab.txt', 'spiece.model', 'sentencepiece.bpe.model', 'tokenizer.model')


def tokenizer_of(folder: str, vocab_size: int) -> str:
    """'gpt2' or 'bytes', by the content of a folder's tokenizer files.

    GPT-2s of other languages have tokens of their own, often exactly 50,257 too. Raises UserError if the
    files are another tokenizer's; where there are none, says so and goes by the size of the vocabulary.
    """
    readers = {'vocab.json': read_vocab, 'merges.txt': read_merges, 'tokenizer.json': read_tokenizer_json}
    known = set(VOCABULARIES)
    n_files = 0
    for file in (*OTHER_FILES, *readers):
        path = os.path.join(folder, file)
        if os.path.exists(path):
            n_files += 1
            # All files must agree: one that was replaced makes it another tokenizer.
            known &= readers[file](path) if file in readers else set()
            if not known:
                raise UserError(f"{path}: not GPT-2's tokenizer: this model would take our tokens for others")
    if n_files:
        return known.pop()
    guess = 'bytes' if vocab_size == VOCABULARIES['bytes'][0] else 'gpt2'
    if os.environ.get('RANK', '0') == '0':
        print(f'warning: {folder} has no tokenizer files (vocab.json, merges.txt or tokenizer.json): taken '
              f'to be {guess!r}, unproven', file=sys.stderr)
    return guess


def read_vocab(path: str) -> set[str]:
    """The tokenizers that vocab.json fits."""
    return fits_vocabulary(read_json(path, 'a vocabulary'))


def read_merges(path: str) -> set[str]:
    """The tokenizers that merges.txt fits."""
    with open(path, encoding='utf-8', errors='replace') as f:
        lines = f.read().split('\n')  # not splitlines, which also splits at characters that merges may hold
    if lines[0].startswith('#version'):
        del lines[0]
    return fits_merges([line for line in lines if line])


def read_tokenizer_json(path: str) -> set[str]:
    """The tokenizers that tokenizer.json, of the tokenizers library, fits: its steps, vocabulary and
    merges."""
    content = read_json(path, 'a tokenizer')
    try:
        model = content['model']
        vocab = dict(model['vocab'])
        for token in content.get('added_tokens') or ():
            vocab[token['content']] = token['id']  # end-of-text may be here alone
        merges = []
        for merge in model['merges']:
            if type(merge) is not str:  # ["a", "b"], as newer files have it
                merge = ' '.join(merge)
            merges.append(merge)
        splitter = content['pre_tokenizer']['type']
        normalizer = content.get('normalizer')
    except (KeyError, TypeError, ValueError, AttributeError):
        return set()  # of another kind, which has no merges, or numbers its tokens otherwise
    if normalizer is not None or splitter != 'ByteLevel':
        return set()
    return fits_vocabulary(vocab) & fits_merges(merges)


def fits_vocabulary(vocab) -> set[str]:
    """The tokenizers whose tokens have these numbers. Further ones, added for special purposes, don't
    matter."""
    if type(vocab) is not dict or not all(type(number) is int for number in vocab.values()):
        return set()
    # In the order of their numbers, in which VOCABULARIES has hashed them.
    tokens = sorted(vocab, key=vocab.get)
    names = set()
    for name, (n, sha256) in VOCABULARIES.items():
        numbers = [vocab[token] for token in tokens[:n]]
        if numbers == list(range(n)) and hash_lines(tokens[:n]) == sha256:
            names.add(name)
    return names


def fits_merges(merges: list[str]) -> set[str]:
    """The tokenizers that have these merges, in this order."""
    return {name for name, sha256 in MERGES.items() if hash_lines(merges) == sha256}


def hash_lines(lines: list[str]) -> str:
    text = '\n'.join(lines)
    return hashlib.sha256(text.encode(errors='replace')).hexdigest()
