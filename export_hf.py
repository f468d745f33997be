"""
A checkpoint as a Hugging Face GPT-2 folder, and on the Hub.

    python export_hf.py out/incremental_8stage out/incremental_8stage_hf
    python export_hf.py out/incremental_8stage out/incremental_8stage_hf --push=USER/NAME

Then, in transformers:

    model = AutoModelForCausalLM.from_pretrained('out/incremental_8stage_hf')
    tokenizer = AutoTokenizer.from_pretrained('out/incremental_8stage_hf')

Writes config.json, model.safetensors (float32), the tokenizer's vocab.json, merges.txt and
tokenizer_config.json, and a model card, README.md: the schedule, what it cost by both ledgers, the scores,
the command. The logits are the checkpoint's; the rows that pad the vocabulary to a multiple of 64 are
dropped (50,304 to 50,257). A checkpoint from the middle of growth gives a model of the layers that it has.
Where GPT-2's vocabulary is not at hand, the folder has no tokenizer files: transformers' own 'gpt2' is the
same one.

--push uploads the folder into a new model repository of an account that is logged in (`hf auth login`, or
HF_TOKEN).
"""

import itertools
import json
import os
import re
import shutil
import sys

from safetensors import SafetensorError
from safetensors.torch import save_file

import schedule
from config import config_from_dict
from core import data
from core.common import Parser, UserError, run_main
from run import checkpoint, log
from run.hugging_face import transposed


def main():
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint or run directory')
    parser.add_argument('folder', help='folder to make; it must not be there yet')
    parser.add_argument('--push', default='', metavar='USER/NAME', help='upload it as this repository')
    args = parser.parse_args()
    folder = os.path.expanduser(args.folder)
    if os.path.lexists(folder):
        raise UserError(f'{folder} is there already: name a new folder, or remove it first')
    if args.push:
        check_repository(args.push)  # before the work, and before anything is written
    model, info = checkpoint.load_model(args.checkpoint)
    try:
        enc = data.get_tokenizer(info['tokenizer'], info['path'])
    except UserError as error:
        enc = None  # without network GPT-2's is often not at hand: the model is of use all the same
        print(f'warning: no tokenizer files in {folder}: {error}', file=sys.stderr)
    export(model, info['tokenizer'], enc, folder, model_card(model, info))
    files = 'with' if enc else 'without'
    print(f'{folder}: {model.depth} layers, step {info["step"]}, {files} tokenizer files')
    if args.push:
        print(push(folder, args.push))


def export(model, tokenizer: str, enc, folder: str, card: str):
    """Write the folder under a temporary name, then rename. enc: the tiktoken.Encoding, or None to leave it
    out.

    Without enc, padding is dropped for 'gpt2' alone, whose vocabulary size is known.
    """
    config = config_json(model, tokenizer, enc)
    n_vocab = config['vocab_size']
    weights = {}
    for name, weight in model.state_dict().items():
        if name == 'transformer.wte.weight':
            weight = weight[:n_vocab]  # also the tied head's, so that no padding can be generated
        # safetensors refuses a transposed view.
        weights[name] = transposed(name, weight).contiguous()

    folder = os.path.normpath(folder)
    temporary = folder + '.tmp'
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    try:
        os.makedirs(temporary)
        safetensors = os.path.join(temporary, 'model.safetensors')
        # transformers looks for the format in the file's metadata.
        save_file(weights, safetensors, {'format': 'pt'})
        write_json(config, os.path.join(temporary, 'config.json'))
        # save_file makes it readable for its owner alone.
        shutil.copymode(os.path.join(temporary, 'config.json'), safetensors)
        if enc:
            write_tokenizer(enc, model.config.block_size, temporary)
        with open(os.path.join(temporary, 'README.md'), 'w', encoding='utf-8') as f:
            f.write(card)  # the Hub shows a repository's README.md as its model card
        os.rename(temporary, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f'{folder} could not be written ({error})') from None


def config_json(model, tokenizer: str, enc) -> dict:
    """What config.json says. Raises UserError if the model has fewer rows of token embedding than the
    tokenizer has tokens."""
    c = model.config
    n_vocab = c.vocab_size
    eot = None
    if enc:
        n_vocab = enc.n_vocab
        eot = enc.eot_token
    elif tokenizer == 'gpt2':
        n_vocab = data.GPT2_META['vocab_size']
        eot = data.GPT2_META['eot']
    if n_vocab > c.vocab_size:
        raise UserError(f'the checkpoint has {c.vocab_size} rows of token embedding, fewer than the '
                        f'{n_vocab} tokens of its tokenizer')
    config = {
        'architectures': ['GPT2LMHeadModel'],
        'model_type': 'gpt2',
        'vocab_size': n_vocab,
        'n_positions': c.block_size,
        'n_ctx': c.block_size,  # n_positions' old name, which some readers ask for
        'n_embd': c.n_embd,
        'n_layer': model.depth,
        'n_head': c.n_head,
        'n_inner': None,  # four times the width
        'activation_function': 'gelu_new',  # by tanh, as GPT-2 computes it
        'layer_norm_epsilon': 1e-5,
        'initializer_range': 0.02,
        'embd_pdrop': c.dropout,
        'attn_pdrop': c.dropout,
        'resid_pdrop': c.dropout,
        'tie_word_embeddings': True,
        'torch_dtype': 'float32',  # "dtype" since transformers 5, which reads this too
    }
    if eot is not None:
        config |= {'bos_token_id': eot, 'eos_token_id': eot}
    return config


# ------------------------------------------------------------------------------------------------------------
# the tokenizer's files


def write_json(values: dict, path: str):
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(values, f, ensure_ascii=False, indent=1)


def write_tokenizer(enc, block_size: int, folder: str):
    """vocab.json, merges.txt, tokenizer_config.json of a byte-level BPE ('bytes' is one without merges); of a
    tokenizer.json the file itself."""
    if isinstance(enc, data.Tokenizer):
        with open(os.path.join(folder, 'tokenizer.json'), 'wb') as f:
            f.write(enc.content)
        return
    ids = {token: enc.encode_single_token(token) for token in enc.token_byte_values()}
    in_order = sorted(ids, key=ids.get)
    letters = data.byte_letters()

    def spelled(token: bytes) -> str:
        return ''.join(letters[b] for b in token)

    end = enc.decode([enc.eot_token])
    vocab = {spelled(token): ids[token] for token in in_order}
    vocab[end] = enc.eot_token  # spelled as it is: a special token is not made of bytes
    write_json(vocab, os.path.join(folder, 'vocab.json'))
    with open(os.path.join(folder, 'merges.txt'), 'w', encoding='utf-8') as f:
        f.write('#version: 0.2\n')
        for token in in_order:
            # A token of one byte comes from no merge.
            if len(token) > 1:
                left, right = split(token, ids)
                f.write(f'{spelled(left)} {spelled(right)}\n')
    settings = {
        'tokenizer_class': 'GPT2Tokenizer',
        'model_max_length': block_size,
        'add_prefix_space': False,
        # GPT-2 has one special token, which takes every role.
        'bos_token': end,
        'eos_token': end,
        'unk_token': end,
    }
    write_json(settings, os.path.join(folder, 'tokenizer_config.json'))


def split(token: bytes, ids: dict) -> tuple[bytes, bytes]:
    """The two parts whose merge makes `token`: what is left of its bytes after all merges of lower rank."""
    # tiktoken keeps the ranks of tokens, GPT-2's file the pairs: the pair comes out if all merges of lower
    # rank are done first.
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranks = [ids.get(a + b, len(ids)) for a, b in itertools.pairwise(parts)]
        i = ranks.index(min(ranks))
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


# ------------------------------------------------------------------------------------------------------------
# the model card


def model_card(model, info: dict) -> str:
    """README.md in Markdown, from the checkpoint and from what lies beside it: run.json and metrics.jsonl.

    What isn't there, as for a checkpoint that was copied elsewhere, is left out.
    """
    run_dir = os.path.dirname(info['path'])
    is_ours = 'seed' in info['config']  # a Hugging Face folder's config is the model's part alone
    name = info['config'].get('run_name') or os.path.basename(os.path.normpath(info['path']))
    n_parameters = sum(p.numel() for p in model.parameters())
    shape = model.config
    lines = [
        # The Hub reads what stands between the dashes as YAML.
        '---',
        'library_name: transformers',
        'pipeline_tag: text-generation',
        'tags: [gpt2, layer-growth]',
        '---',
        f'# {name}',
        '',
        f'A GPT-2 of {model.depth} layers, width {shape.n_embd}, {shape.n_head} heads, {shape.block_size} '
        f'tokens of context and {n_parameters:,} parameters; tokenizer `{info["tokenizer"]}`.',
    ]
    if is_ours:
        config = schedule.resolve(config_from_dict(info['config'], info['path']))
        run = log.read_run_json(run_dir)
        lines += schedule_lines(config, info['step'])
        lines += start_lines(config, run)
        lines += score_lines(run_dir, info['step'])
        lines += origin_lines(run)
    return '\n'.join(lines) + '\n'


def schedule_lines(config, step: int) -> list[str]:
    """What grew when, up to `step`, and what it cost."""
    plan = schedule.plan(config)
    lines = ['', '## Schedule', '']
    lines += [f'Step {step:,} of {plan.total_steps:,}, {config.total_batch_size:,} tokens each.', '']
    lines += ['| stage | phase | steps | layers | frozen |', '|---|---|---|---|---|']
    for phase in plan.phases:
        if phase.start < step:  # the others are still to come
            last = min(phase.stop, step)
            lines.append(f'| {phase.stage} | {phase.phase} | {phase.start:,} to {last:,} | {phase.depth} | '
                         f'{phase.n_frozen} |')
    lines += ['', '## Compute', '', f'{step * config.total_batch_size:,} tokens.', '']
    lines += ['| ledger | FLOPs | of full depth, same tokens |', '|---|---|---|']
    for ledger, what in (('flops', 'every matrix product'), ('paper', 'layers only (Li, Fung, Huang 2024)')):
        spent = plan.flops(step, ledger)
        # At step 0 nothing was spent, and the share is 0.
        share = spent / max(1, step * schedule.step_cost(config, ledger))
        lines.append(f'| {ledger}: {what} | {spent:.4g} | {share:.3f} |')
    return lines


def start_lines(config, run: dict) -> list[str]:
    """What the model was grown from, and what that had cost, which the table of compute leaves out."""
    if config.init_from == 'scratch':
        return []
    line = f'It began with the {config.init_depth} layers of `{config.init_from}`'
    cost = run.get('init_from') or {}
    if cost.get('flops') is None:
        return ['', line + ', whose cost is not known and not in this table.']
    spent = f'{cost["flops"]:.4g} FLOPs ({cost["flops_paper"]:.4g} by the paper)'
    return ['', f'{line}, which had cost {spent} before; they are not in this table.']


def score_lines(run_dir: str, step: int) -> list[str]:
    """The newest value up to `step` of what evaluations measured."""
    records, _ = log.read_metrics(os.path.join(run_dir, 'metrics.jsonl'))
    lines = []
    for name, what in (
        ('val_loss', 'validation loss, nats a token'),
        ('hellaswag_acc', 'HellaSwag accuracy'),
        ('hellaswag_acc_norm', 'HellaSwag accuracy, by mean loss per token'),
        ('hellaswag_bits', "HellaSwag, the true endings' bits per byte"),
        ('hellaswag_margin', 'HellaSwag, margin in bits per byte'),
    ):
        for record in reversed(records):
            # Later ones are of another checkpoint of the run.
            if record['kind'] == 'eval' and name in record and record['step'] <= step:
                lines.append(f'| {what} | {record[name]:.4f} | {record["step"]:,} |')
                break
    if lines:
        lines = ['', '## Scores', '', '| measure | value | at step |', '|---|---|---|', *lines]
    return lines


def origin_lines(run: dict) -> list[str]:
    """The command, the code and the machine, as run.json has them."""
    if not run:
        return []
    commands = []  # of the run's starts: the one that began it, and others that went on otherwise
    for start in run.get('starts') or [run]:
        if start.get('command') and start['command'] not in commands:
            commands.append(start['command'])
    lines = ['', '## How it was made', '']
    if commands:
        lines += ['```', *commands, '```', '']
    commit = run.get('git_commit')
    if commit:
        changed = ', with changes that are not committed' if run.get('git_dirty') else ''
        lines.append(f'* code: commit {commit}{changed}')
    versions = run.get('versions') or {}
    if versions:
        known = [f'{name} {version}' for name, version in versions.items() if version]  # no CUDA on a CPU
        lines.append(f'* versions: {", ".join(known)}')
    if run.get('device'):
        count = run.get('device_count') or 1
        ranks = run.get('world_size') or 1
        lines.append(f'* hardware: {count} x {run["device"]}, {ranks} ranks')
    return lines


# ------------------------------------------------------------------------------------------------------------
# the Hub


def check_repository(name: str):
    """Raise UserError unless an account is logged in and may put a model there, where none is yet."""
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', name, re.ASCII):
        raise UserError(f'--push={name}: a repository is called USER/NAME')
    from huggingface_hub import HfApi  # here, since only --push needs it

    api = HfApi()
    try:
        api.whoami()
        # A repository may be there already, as long as it is empty: an upload that failed leaves one.
        taken = api.file_exists(name, 'config.json')
    except Exception as error:  # whatever the Hub's client and the network raise
        raise UserError(f'--push={name}: the Hub refuses ({short(error)}); log in with `hf auth login`, or '
                        'set HF_TOKEN') from None
    if taken:
        raise UserError(f'--push={name}: there is a model already: name another repository')


def push(folder: str, name: str) -> str:
    """Upload the folder in one commit; its address. Raises UserError, saying how to go on, if the Hub
    refuses."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        # An upload that failed may have left the repository behind, still empty.
        url = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message='The model and its card')
    except Exception as error:  # whatever the Hub's client and the network raise
        raise UserError(f'{folder} is whole, but could not be uploaded to {name} ({short(error)}); try again '
                        f'with `hf upload {name} {folder}`') from None
    return str(url)


def short(error: Exception) -> str:
    """The first line of what the Hub's client says."""
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'


if __name__ == '__main__':
    run_main(main)
