"""
A checkpoint as a Hugging Face GPT-2 folder.

    python export_hf.py out/incremental_8stage out/incremental_8stage_hf

Then, in transformers:

    model = AutoModelForCausalLM.from_pretrained('out/incremental_8stage_hf')
    tokenizer = AutoTokenizer.from_pretrained('out/incremental_8stage_hf')

Writes config.json, model.safetensors (float32) and the tokenizer's vocab.json, merges.txt, tokenizer_config.json. The
logits are the checkpoint's; the rows that pad the vocabulary to a multiple of 64 are dropped (50,304 to 50,257). A
checkpoint from the middle of growth gives a model of the layers that it has. Where GPT-2's vocabulary is not at hand,
the folder has no tokenizer files: transformers' own 'gpt2' is the same one.
"""

import argparse
import itertools
import json
import os
import shutil
import sys

from safetensors import SafetensorError
from safetensors.torch import save_file

import checkpoint
import data
from common import UserError, run_main


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='checkpoint or run directory')
    parser.add_argument('folder', help='folder to make; it must not be there yet')
    args = parser.parse_args()
    if os.path.lexists(args.folder):
        raise UserError(f'{args.folder} is there already: name a new folder, or remove it first')
    model, info = checkpoint.load_model(args.checkpoint)
    try:
        enc = data.get_tokenizer(info['tokenizer'])
    except UserError as error:
        enc = None
        print(f'warning: no tokenizer files in {args.folder}: {error}', file=sys.stderr)
    export(model, info['tokenizer'], enc, args.folder)
    print(f'{args.folder}: {model.depth} layers, step {info["step"]}, {"with" if enc else "without"} tokenizer files')


def export(model, tokenizer: str, enc, folder: str):
    """Write the folder under a temporary name, then rename. enc: the tiktoken.Encoding, or None to leave it out.

    Without enc, padding is dropped for 'gpt2' alone, whose vocabulary size is known.
    """
    c, rows = model.config, model.config.vocab_size
    n_vocab = enc.n_vocab if enc else data.GPT2_META['vocab_size'] if tokenizer == 'gpt2' else rows
    if n_vocab > rows:
        raise UserError(f'the checkpoint has {rows} rows of token embedding, fewer than the {n_vocab} of its tokenizer')
    config = {
        'architectures': ['GPT2LMHeadModel'], 'model_type': 'gpt2', 'vocab_size': n_vocab, 'n_positions': c.block_size,
        'n_ctx': c.block_size, 'n_embd': c.n_embd, 'n_layer': model.depth, 'n_head': c.n_head, 'n_inner': None,
        'activation_function': 'gelu_new', 'layer_norm_epsilon': 1e-5, 'initializer_range': 0.02,  # gelu_new: by tanh
        'embd_pdrop': c.dropout, 'attn_pdrop': c.dropout, 'resid_pdrop': c.dropout, 'tie_word_embeddings': True,
        'torch_dtype': 'float32'}
    if enc or tokenizer == 'gpt2':
        config |= dict.fromkeys(('bos_token_id', 'eos_token_id'), enc.eot_token if enc else data.GPT2_META['eot'])
    weights = model.state_dict()
    weights['transformer.wte.weight'] = weights['transformer.wte.weight'][:n_vocab]
    for name in weights:
        if name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight')):
            weights[name] = weights[name].T  # GPT-2's "Conv1D" keeps its matrices as (in, out)

    folder = os.path.normpath(folder)
    temporary = folder + '.tmp'
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    try:
        os.makedirs(temporary)
        save_file({name: w.contiguous() for name, w in weights.items()}, os.path.join(temporary, 'model.safetensors'),
                  {'format': 'pt'})
        write_json(config, os.path.join(temporary, 'config.json'))
        shutil.copymode(os.path.join(temporary, 'config.json'), os.path.join(temporary, 'model.safetensors'))  # it had 600
        if enc:
            write_tokenizer(enc, c.block_size, temporary)
        os.rename(temporary, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f'{folder} could not be written ({error})') from None


def write_json(values: dict, path: str):
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(values, f, ensure_ascii=False, indent=1)


def write_tokenizer(enc, block_size: int, folder: str):
    """vocab.json, merges.txt and tokenizer_config.json of a byte-level BPE ('bytes' is one without merges)."""
    ids = {token: enc.encode_single_token(token) for token in enc.token_byte_values()}
    letters = byte_letters()

    def spelled(token: bytes) -> str:
        return ''.join(letters[b] for b in token)

    merges = [split(token, ids) for token in sorted(ids, key=ids.get) if len(token) > 1]
    end = enc.decode([enc.eot_token])
    write_json({spelled(token): i for token, i in sorted(ids.items(), key=lambda x: x[1])} | {end: enc.eot_token},
               os.path.join(folder, 'vocab.json'))
    with open(os.path.join(folder, 'merges.txt'), 'w', encoding='utf-8') as f:
        f.writelines(['#version: 0.2\n'] + [f'{spelled(a)} {spelled(b)}\n' for a, b in merges])
    write_json({'tokenizer_class': 'GPT2Tokenizer', 'model_max_length': block_size, 'add_prefix_space': False,
                'bos_token': end, 'eos_token': end, 'unk_token': end}, os.path.join(folder, 'tokenizer_config.json'))


def byte_letters() -> list[str]:
    """The printable character that GPT-2's files write for each byte: itself where it is one, else 256 and up in order."""
    printable = [b for b in range(256) if chr(b).isprintable() and b not in (0x20, 0xa0, 0xad)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


def split(token: bytes, ids: dict) -> tuple[bytes, bytes]:
    """The two parts whose merge makes `token`: what is left of its bytes after all merges of lower rank."""
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranks = [ids.get(a + b, len(ids)) for a, b in itertools.pairwise(parts)]
        i = ranks.index(min(ranks))
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


if __name__ == '__main__':
    run_main(main)
