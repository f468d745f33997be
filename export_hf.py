"""
A checkpoint as a Hugging Face folder.

    python export_hf.py out/incremental_8stage out/incremental_8stage_hf
    python export_hf.py out/llama_pro out/llama_pro_hf --dtype=bfloat16
    hf upload USER/NAME out/llama_pro_hf                     puts it on the Hub

Then, in transformers:

    model = AutoModelForCausalLM.from_pretrained('out/incremental_8stage_hf')
    tokenizer = AutoTokenizer.from_pretrained('out/incremental_8stage_hf')

A GPT-2 is a GPT2LMHeadModel, a Llama a LlamaForCausalLM, or what it was grown from: Qwen2 or Qwen3. Writes
config.json, safetensors (several of 5 GB where they are large), the tokenizer's files, and a model card,
README.md: the plan, the command, the last scores. The logits are the checkpoint's; the rows that pad the
vocabulary to a multiple of 64 are dropped where the tokenizer is GPT-2's or bytes (50,304 to 50,257). A
checkpoint from the middle of growth gives a model of the layers that it has.

GPT-2's tokenizer files are copied from the Hub's cache or the Hub; where neither has them, the folder has
none: transformers' own 'gpt2' is the same one.
"""

import contextlib
import io
import json
import os
import shutil
import sys

import torch
from safetensors import SafetensorError

import schedule
from config import config_from_dict
from core import data
from core.common import Parser, UserError, run_main
from run import checkpoint, log
from run.hugging_face import HUB_OWNER, their_names, transposed

KINDS = {'gpt2': 'GPT-2', 'llama': 'Llama'}
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
    has_tokenizer = export(model, info, folder, model_card(model, info), args.dtype)
    files = 'with' if has_tokenizer else 'without'
    print(f'{folder}: {model.depth} layers, step {info["step"]}, {files} tokenizer files')


def export(model, info: dict, folder: str, card: str, dtype: str = 'float32') -> bool:
    """Write the folder under a temporary name, then rename; `info` is load_model()'s. Returns whether it has
    tokenizer files."""
    from huggingface_hub import save_torch_state_dict  # here, since nothing else needs it

    config = config_json(model, info, dtype)
    folder = os.path.normpath(folder)
    temporary = folder + '.tmp'
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    try:
        os.makedirs(temporary)
        weights = weights_of(model, config['vocab_size'], getattr(torch, dtype))
        save_torch_state_dict(weights, temporary, metadata={'format': 'pt'})
        write_json(config, os.path.join(temporary, 'config.json'))
        for name in os.listdir(temporary):  # safetensors are made readable for their owner alone
            shutil.copymode(os.path.join(temporary, 'config.json'), os.path.join(temporary, name))
        has_tokenizer = write_tokenizer(info, model.config.block_size, temporary)
        with open(os.path.join(temporary, 'README.md'), 'w', encoding='utf-8') as f:
            f.write(card)  # the Hub shows a repository's README.md as its model card
        os.rename(temporary, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f'{folder} could not be written ({error})') from None
    return has_tokenizer


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
    n_tokens, eot = c.vocab_size, None
    if info['tokenizer'] == 'gpt2':  # known where its files aren't at hand
        n_tokens, eot = data.GPT2_META['vocab_size'], data.GPT2_META['eot']
    else:
        enc = data.get_tokenizer(info['tokenizer'], info['path'])
        eot = enc.eot_token
        # Many models of the Hub have more rows than tokens, which transformers would miss.
        n_tokens = max(enc.n_vocab, 0 if info['tokenizer'] == 'bytes' else c.vocab_size)
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
            'n_ctx': c.block_size,  # n_positions' old name, which some readers ask for
            'n_embd': c.n_embd,
            'n_layer': model.depth,
            'n_head': c.n_head,
            'n_inner': None,  # four times the width
            'activation_function': 'gelu_new',  # by tanh, as GPT-2 computes it
            'layer_norm_epsilon': 1e-5,
            'embd_pdrop': c.dropout,
            'attn_pdrop': c.dropout,
            'resid_pdrop': c.dropout,
        }
    kind = 'Qwen2' if c.qkv_bias else 'Qwen3' if c.qk_norm else 'Llama'
    theta, rope = rope_json(c.rope_theta)
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
        'rope_scaling': rope,
        'attention_bias': False,
        'attention_dropout': 0.0,
    }


def rope_json(rope_theta) -> tuple[float, dict | None]:
    """rope_theta and rope_scaling of config.json: the latter None, or Llama 3's by its four numbers."""
    theta, *scaling = rope_theta if type(rope_theta) is tuple else (rope_theta,)
    if not scaling:
        return theta, None
    names = ('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')
    rope = {'rope_type': 'llama3'} | dict(zip(names, scaling))
    rope[names[-1]] = int(rope[names[-1]])
    return theta, rope


def write_tokenizer(info: dict, block_size: int, folder: str) -> bool:
    """The tokenizer's files; False, with a warning, where GPT-2's aren't at hand."""
    name, path = info['tokenizer'], info['path']
    if name not in data.OWN_TOKENIZERS:
        beside = path if os.path.isdir(path) else os.path.dirname(path)
        for file in data.TOKENIZER_FILES:
            if os.path.exists(os.path.join(beside, file)):
                shutil.copyfile(os.path.join(beside, file), os.path.join(folder, file))
        return True
    if name == 'gpt2':
        import huggingface_hub

        try:
            for file in GPT2_FILES:
                path = huggingface_hub.hf_hub_download(HUB_OWNER + name, file)
                shutil.copyfile(path, os.path.join(folder, file))
        except Exception as error:  # whatever the Hub's client and the network raise
            print("warning: no tokenizer files: GPT-2's could not be fetched from the Hub "
                  f'({type(error).__name__})', file=sys.stderr)
            return False
        return True
    # 'bytes': a byte-level BPE without merges.
    vocab = {letter: b for b, letter in enumerate(data.byte_letters())}
    end = '<|endoftext|>'
    write_json(vocab | {end: 256}, os.path.join(folder, 'vocab.json'))
    with open(os.path.join(folder, 'merges.txt'), 'w', encoding='utf-8') as f:
        f.write('#version: 0.2\n')
    settings = {'tokenizer_class': 'GPT2Tokenizer', 'model_max_length': block_size, 'add_prefix_space': False,
                'bos_token': end, 'eos_token': end, 'unk_token': end}
    write_json(settings, os.path.join(folder, 'tokenizer_config.json'))
    return True


def write_json(values: dict, path: str):
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(values, f, ensure_ascii=False, indent=1)


def model_card(model, info: dict) -> str:
    """README.md in Markdown: the shape, and of a run of ours the plan as schedule.py prints it, the commands
    and the last evaluation."""
    name = info['config'].get('run_name') or os.path.basename(os.path.normpath(info['path']))
    shape = model.config
    n_parameters = sum(p.numel() for p in model.parameters())
    lines = [
        # The Hub reads what stands between the dashes as YAML.
        '---', 'library_name: transformers', 'pipeline_tag: text-generation', 'tags: [layer-growth]', '---',
        f'# {name}', '',
        f'A {KINDS[shape.arch]} of {model.depth} layers, width {shape.n_embd}, {shape.n_head} heads, '
        f'{shape.block_size} tokens of context and {n_parameters:,} parameters; tokenizer '
        f'{info["tokenizer"]}.',
    ]
    if 'seed' not in info['config']:  # a Hugging Face folder's config is the model's part alone
        return '\n'.join(lines) + '\n'
    config = schedule.resolve(config_from_dict(info['config'], info['path']))
    plan = io.StringIO()
    with contextlib.redirect_stdout(plan):
        schedule.print_plan(schedule.plan(config), 0)
    lines += ['', f'After step {info["step"]:,} of this plan:', '', '```', plan.getvalue().rstrip(), '```']
    run_dir = os.path.dirname(info['path'])
    run = log.read_run_json(run_dir)
    commands = [start['command'] for start in run.get('starts') or [run] if start.get('command')]
    if commands:
        lines += ['', 'Made by', '', '```', *dict.fromkeys(commands), '```']
    records, _ = log.read_metrics(os.path.join(run_dir, 'metrics.jsonl'))
    scores = {}
    for record in records:
        is_before = record['kind'] == 'eval' and record['step'] <= info['step']
        for key, value in record.items() if is_before else ():
            if key.startswith(('val_loss', 'hellaswag_')) and key != 'hellaswag_data':
                scores[key] = f'{key} {value:.4f} (step {record["step"]:,})'
    if scores:
        lines += ['', 'Scores: ' + ', '.join(scores.values())]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    run_main(main)
