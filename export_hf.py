"""
A checkpoint as a Hugging Face folder.

    python export_hf.py out/incremental_8stage out/incremental_8stage_hf
    python export_hf.py out/llama_pro out/llama_pro_hf --dtype=bfloat16
    hf upload USER/NAME out/llama_pro_hf                     puts it on the Hub

Then, in transformers:

    model = AutoModelForCausalLM.from_pretrained('out/incremental_8stage_hf')
    tokenizer = AutoTokenizer.from_pretrained('out/incremental_8stage_hf')

A GPT-2 is a GPT2LMHeadModel, a Llama a LlamaForCausalLM, or what it was grown from: Qwen2 or Qwen3. Writes
config.json, safetensors, the tokenizer's files, and a model card, README.md: the plan, the command, the last
scores. The logits are the checkpoint's; the rows that pad the vocabulary to a multiple of 64 are dropped
where the tokenizer is GPT-2's or bytes (50,304 to 50,257). A checkpoint from the middle of growth gives a
model of the layers that it has. GPT-2's tokenizer files come from the Hub's cache or the Hub, if at hand.
"""

import contextlib
import io
import os
import shutil
import sys

import torch
from safetensors import SafetensorError

import schedule
from config import config_from_dict
from core import data
from core.common import Parser, UserError, run_main
from run import checkpoint
from run.hugging_face import HUB_OWNER, LLAMA3_ROPE, their_names, transposed
from run.log import read_metrics, read_run_json, write_json

GPT2_FILES = ('tokenizer.json', 'tokenizer_config.json', 'vocab.json', 'merges.txt')

def main():
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint or run directory')
    parser.add_argument('folder', help='folder to make; it must not be there yet')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the weights')
    args = parser.parse_args()
    folder = os.path.expanduser(args.folder)
    if os.path.lexists(folder):
        raise UserError(f'{folder} is there already: name a new folder, or remove it first')
    model, info = checkpoint.load_model(args.checkpoint)
    export(model, info, folder, args.dtype)
    print(f'{folder}: {model.depth} layers, step {info["step"]}')

def export(model, info: dict, folder: str, dtype: str = 'float32'):
    """Write the folder under a temporary name, then rename; `info` is load_model()'s."""
    from huggingface_hub import save_torch_state_dict  # here, since nothing else needs it

    config, card = config_json(model, info, dtype), model_card(model, info)
    folder = os.path.normpath(folder)
    temporary = folder + '.tmp'
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    try:
        os.makedirs(temporary)
        weights = weights_of(model, config['vocab_size'], getattr(torch, dtype))
        save_torch_state_dict(weights, temporary, metadata={'format': 'pt'})
        write_json(os.path.join(temporary, 'config.json'), config)
        for name in os.listdir(temporary):  # safetensors are made readable for their owner alone
            shutil.copymode(os.path.join(temporary, 'config.json'), os.path.join(temporary, name))
        write_tokenizer(info, model.config.block_size, temporary)
        with open(os.path.join(temporary, 'README.md'), 'w', encoding='utf-8') as f:
            f.write(card)  # the Hub shows a repository's README.md as its model card
        os.rename(temporary, folder)
    except (OSError, SafetensorError, UserError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f'{folder} could not be written ({error})') from None

def weights_of(model, n_vocab: int, dtype: torch.dtype) -> dict:
    """The weights by Hugging Face's names."""
    arch = model.config.arch
    modules = dict(model.named_modules())
    weights = {}
    for name, weight in model.state_dict().items():
        if name in ('transformer.wte.weight', 'lm_head.weight'):
            weight = weight[:n_vocab]  # so that no padding can be generated
        weight = transposed(name, weight, arch)
        names = their_names(name, arch)
        parts = [weight]
        if len(names) > 1:
            parts = weight.split(modules[name.rpartition('.')[0]].rows)
        for their_name, part in zip(names, parts):
            # A copy: safetensors refuses a view.
            weights[their_name] = part.to(dtype, copy=True).contiguous()
    return weights

def config_json(model, info: dict, dtype: str) -> dict:
    """What config.json says. Raises UserError if the model has fewer rows of token embedding than the
    tokenizer has tokens."""
    c = model.config
    if info['tokenizer'] == 'gpt2':  # known where its files aren't at hand
        n_tokens, eot = data.GPT2_META['vocab_size'], data.GPT2_META['eot']
    else:
        enc = data.get_tokenizer(info['tokenizer'], info['path'])
        n_tokens, eot = enc.n_vocab, enc.eot_token
    if info['tokenizer'] not in data.OWN_TOKENIZERS:
        # Many models of the Hub have more rows than tokens, which transformers would miss.
        n_tokens = max(n_tokens, c.vocab_size)
    if n_tokens > c.vocab_size:
        raise UserError(f'the checkpoint has {c.vocab_size} rows of token embedding, fewer than the '
                        f'{n_tokens} tokens of its tokenizer')
    config = {
        'vocab_size': n_tokens,
        'tie_word_embeddings': c.tie_embeddings,
        'initializer_range': 0.02,
        'bos_token_id': eot,
        'eos_token_id': eot,
        'torch_dtype': dtype,  # "dtype" since transformers 5, which reads this too
    }
    if c.arch == 'gpt2':
        return config | {
            'architectures': ['GPT2LMHeadModel'],
            'model_type': 'gpt2',
            'n_positions': c.block_size,
            'n_embd': c.n_embd,
            'n_layer': model.depth,
            'n_head': c.n_head,
            'activation_function': 'gelu_new',  # by tanh, as GPT-2 computes it
            'layer_norm_epsilon': 1e-5,
            'embd_pdrop': c.dropout,
            'attn_pdrop': c.dropout,
            'resid_pdrop': c.dropout,
        }
    kind = 'Qwen2' if c.qkv_bias else 'Qwen3' if c.qk_norm else 'Llama'
    theta, *scaling = c.rope_theta if type(c.rope_theta) is tuple else (c.rope_theta,)
    rope = {'rope_type': 'llama3'} | dict(zip(LLAMA3_ROPE, scaling))
    if scaling:
        rope[LLAMA3_ROPE[-1]] = int(scaling[-1])  # of tokens
    return config | {
        'architectures': [f'{kind}ForCausalLM'],
        'model_type': kind.lower(),
        'max_position_embeddings': c.block_size,
        'hidden_size': c.n_embd,
        'intermediate_size': c.n_ff,
        'num_hidden_layers': model.depth,
        'num_attention_heads': c.n_head,
        'num_key_value_heads': c.n_kv_head,
        'head_dim': c.head_dim,
        'hidden_act': 'silu',
        'rms_norm_eps': c.norm_eps,
        'rope_theta': theta,  # and rope_scaling: rope_parameters since transformers 5, which reads these too
        'rope_scaling': rope if scaling else None,
        'attention_bias': False,
        'attention_dropout': 0.0,
    }

def write_tokenizer(info: dict, block_size: int, folder: str):
    """The tokenizer's files; a warning where GPT-2's aren't at hand."""
    name, path = info['tokenizer'], info['path']
    if name not in data.OWN_TOKENIZERS:
        beside = path if os.path.isdir(path) else os.path.dirname(path)
        for file in data.TOKENIZER_FILES:
            if os.path.exists(os.path.join(beside, file)):
                shutil.copyfile(os.path.join(beside, file), os.path.join(folder, file))
    elif name == 'gpt2':
        import huggingface_hub

        try:
            for file in GPT2_FILES:
                path = huggingface_hub.hf_hub_download(HUB_OWNER + name, file)
                shutil.copyfile(path, os.path.join(folder, file))
        except Exception as error:  # whatever the Hub's client and the network raise
            print("warning: no tokenizer files: GPT-2's could not be fetched from the Hub "
                  f'({type(error).__name__})', file=sys.stderr)
    else:  # 'bytes': a byte-level BPE without merges
        vocab = {letter: b for b, letter in enumerate(data.byte_letters())}
        end = '<|endoftext|>'
        write_json(os.path.join(folder, 'vocab.json'), vocab | {end: 256})
        with open(os.path.join(folder, 'merges.txt'), 'w', encoding='utf-8') as f:
            f.write('#version: 0.2\n')
        settings = {'tokenizer_class': 'GPT2Tokenizer', 'model_max_length': block_size,
                    'add_prefix_space': False, 'bos_token': end, 'eos_token': end, 'unk_token': end}
        write_json(os.path.join(folder, 'tokenizer_config.json'), settings)

def model_card(model, info: dict) -> str:
    """README.md in Markdown: the shape, and of a run of ours the plan as schedule.py prints it, the commands
    and the last scores."""
    shape, settings = model.config, info['config']
    name = settings.get('run_name') or os.path.basename(os.path.normpath(info['path']))
    n_parameters = sum(p.numel() for p in model.parameters())
    lines = [
        # The Hub reads what stands between the dashes as YAML.
        '---', 'library_name: transformers', 'pipeline_tag: text-generation', 'tags: [layer-growth]', '---',
        f'# {name}', '',
        f'arch {shape.arch}, {model.depth} layers, width {shape.n_embd}, {shape.n_head} heads, '
        f'{shape.block_size} tokens of context, {n_parameters:,} parameters, tokenizer {info["tokenizer"]}.',
    ]
    if 'seed' in settings:  # a Hugging Face folder's config is the model's part alone
        plan = io.StringIO()
        with contextlib.redirect_stdout(plan):
            config = schedule.resolve(config_from_dict(settings, info['path']))
            schedule.print_plan(schedule.plan(config), 0)
        run_dir = os.path.dirname(info['path'])
        commands = [start['command'] for start in read_run_json(run_dir).get('starts', ())]
        records, _ = read_metrics(os.path.join(run_dir, 'metrics.jsonl'))
        scores = {}
        for record in records:
            for key, value in record.items():
                is_score = key.startswith(('val_loss', 'hellaswag_')) and type(value) is float
                if record['kind'] == 'eval' and record['step'] <= info['step'] and is_score:
                    scores[key] = f'{key} {value:.4f} (step {record["step"]:,})'
        lines += ['', f'After step {info["step"]:,} of this plan:', '', '```', plan.getvalue(), '```']
        if commands:
            lines += ['', 'Made by', '', '```', *dict.fromkeys(commands), '```']
        if scores:
            lines += ['', 'Scores: ' + ', '.join(scores.values())]
    return '\n'.join(lines) + '\n'

if __name__ == '__main__':
    run_main(main)
