"""
HellaSwag: four endings to a context, one of them true; the model picks the one it finds likeliest.

    python hellaswag.py CHECKPOINT|RUN_DIR|HF_FOLDER|gpt2 [--style=nanogpt|lm_eval|both] [--data=FILE|URL] [--limit=N]
    torchrun --standalone --nproc_per_node=8 hellaswag.py out/incremental_8stage --style=both --json

An example is one JSON object a line: 'ctx' (the context), 'endings' (four), 'label' (the true one's number, 0 to 3), and
optionally 'ind', 'activity_label', 'ctx_a', 'ctx_b'. Without --data it is the official validation set, 10,042 examples.

Two conventions are in use, and their numbers differ. GPT-2 124M scores, on the official validation set:

    style       acc      acc_norm   text
    nanogpt     0.2859   0.2955     raw ctx and " " + ending, encoded apart; acc_norm: mean loss per token
    lm_eval     0.2892   0.3114     lm-evaluation-harness: "activity: " before, WikiHow's brackets cleaned away, context
                                    and ending encoded together; acc_norm: loss per character of the ending

acc takes the ending of least summed loss. The standard error is about 0.0046: runs that differ by less don't differ.

Speed: an example is one row, not four padded ones: the context once and its endings as branches behind it, each seeing only
itself and the context (a tree mask, positions restarting at each branch). Rows are batched by tokens, sorted by length, and
the 50,257 logits are computed only where a token of an ending is predicted. dev/bench_hellaswag.py measures the gain.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tqdm import tqdm

import checkpoint
import data
from common import UserError, run_main
from device import autocast, pick_device, read_ranks

N_OFFICIAL = 10_042
STYLES = ('nanogpt', 'lm_eval')


# ---- data

def load_examples(source: str, limit: int = 0) -> list[dict]:
    """The first `limit` (0: all) examples of a JSONL file, a URL, or, for '', of the official validation set.

    The latter two are fetched once, into data/. On several ranks the first of each machine fetches; all must call this.
    Raises UserError for what can't be fetched or read, naming the line of a bad example.
    """
    if source == '':
        path = os.path.join('data', 'hellaswag_val.jsonl')
        fetch_once(path, write_official)
    elif re.match('https?://', source):
        name = re.sub('[^A-Za-z0-9.]+', '_', source.split('?')[0].rstrip('/').split('/')[-1])
        path = os.path.join('data', f'{hashlib.sha256(source.encode()).hexdigest()[:8]}_{name}')
        fetch_once(path, lambda temporary: download(source, temporary))
    else:
        path = source
    examples = read_examples(path, path, limit)
    if source == '' and limit == 0 and len(examples) != N_OFFICIAL:
        print(f'warning: {path} has {len(examples)} examples, the official validation set {N_OFFICIAL}', file=sys.stderr)
    return examples


def read_examples(path: str, name: str, limit: int = 0) -> list[dict]:
    """The examples of a JSONL file, labels as ints. Raises UserError, saying `name` and the line, for what isn't one."""
    examples = []
    try:
        with open(path, encoding='utf-8') as f:
            for number, line in enumerate(f, 1):
                if not examples and line.lstrip('\ufeff \t\r\n').startswith('<'):
                    raise UserError(f'{name}: a web page (HTML), not examples; the address may be gone: name another')
                if line.strip():
                    examples.append(parse_example(line, f'{name}, line {number}'))
                if limit and len(examples) == limit:
                    break
    except OSError as error:
        raise UserError(f'{name}: cannot be read ({error.strerror or error})') from None
    except UnicodeDecodeError:
        raise UserError(f'{name}: not text in UTF-8; a JSON object a line is expected') from None
    if not examples:
        raise UserError(f'{name}: holds no examples')
    return examples


def parse_example(line: str, where: str) -> dict:
    """One line's example with its label as an int. Raises UserError, beginning with `where`, if a field is wrong."""
    try:
        example = json.loads(line)
    except ValueError as error:
        raise UserError(f'{where}: not JSON ({error})') from None
    if type(example) is not dict or not {'ctx', 'endings', 'label'} <= example.keys():
        raise UserError(f"{where}: an example needs the fields 'ctx', 'endings' and 'label'")
    endings, label = example['endings'], example['label']
    if type(endings) is not list or len(endings) != 4 or not all(type(e) is str and e.strip() for e in endings):
        raise UserError(f"{where}: 'endings' must be four texts")
    texts = [example.get(k, '') for k in ('activity_label', 'ctx_a', 'ctx_b')]
    if type(example['ctx']) is not str or not example['ctx'].strip() or not all(type(text) is str for text in texts):
        raise UserError(f"{where}: 'ctx' must be a text, and so must 'activity_label', 'ctx_a' and 'ctx_b' where they are")
    if str(label) not in ('0', '1', '2', '3'):
        hint = ' (the test split has no labels: take the validation split)' if label == '' else ''
        raise UserError(f"{where}: 'label' must be 0, 1, 2 or 3, not {label!r}{hint}")
    return example | {'label': int(label)}


def fetch_once(path: str, write):
    """Unless `path` is there, the machine's first rank calls write(temporary name), checks and renames; the others wait."""
    try:
        if not os.path.exists(path) and int(os.environ.get('LOCAL_RANK', 0)) == 0:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f'{path}.{os.getpid()}.tmp'
            try:
                write(temporary)
                read_examples(temporary, path)
                os.replace(temporary, path)
            finally:
                if os.path.exists(temporary):
                    os.remove(temporary)
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
    if not os.path.exists(path):
        raise UserError(f'{path} could not be fetched: the first rank of this machine says why')


def write_official(path: str):
    """Rowan/hellaswag's validation split from the Hub as JSONL."""
    import datasets  # here, since it takes a second and train.py only needs it once

    try:
        split = datasets.load_dataset('Rowan/hellaswag', split='validation')
    except Exception as error:  # whatever datasets, the Hub's client, the network or the disk raise
        raise UserError(f'HellaSwag could not be fetched from the Hub ({type(error).__name__}); without network, name a '
                        'JSONL file: --data=FILE here, --hellaswag_data=FILE in training') from None
    with open(path, 'w', encoding='utf-8') as f:
        f.writelines(json.dumps(example, ensure_ascii=False) + '\n' for example in split)


def download(url: str, path: str, attempts: int = 5):
    """Fetch a URL into a file. Tries again, waiting 1, 2, 4, ... seconds, unless the server says that it's no use."""
    import requests

    for attempt in range(attempts):
        try:
            with requests.get(url, stream=True, timeout=30) as response:
                if response.status_code == 200:
                    with open(path, 'wb') as f:
                        f.writelines(response.iter_content(1 << 20))
                    return
                problem = f'status {response.status_code}'
                if response.status_code < 500 and response.status_code not in (408, 429):
                    break
        except requests.RequestException as error:
            problem = type(error).__name__
        if attempt + 1 < attempts:
            time.sleep(2 ** attempt)
    raise UserError(f'{url} could not be downloaded ({problem})')


# ---- text to tokens

def clean(text: str) -> str:
    """lm-evaluation-harness's clean-up of WikiHow's brackets, step by step: what it leaves over is left over here."""
    text = text.strip().replace(' [title]', '. ')
    return re.sub(r'\[.*?\]', '', text).replace('  ', ' ')


def texts(example: dict, style: str) -> tuple[str, list[str]]:
    """(context, endings) as the style reads them. Optional fields that are missing or empty leave the plain ctx."""
    if style == 'nanogpt':
        return example['ctx'], example['endings']
    context = example['ctx']
    if 'ctx_a' in example and 'ctx_b' in example:
        context = example['ctx_a'] + ' ' + example['ctx_b'].capitalize()
    if example.get('activity_label'):
        context = example['activity_label'] + ': ' + context
    return clean(context), [clean(ending) for ending in example['endings']]


def tokenize(context: str, ending: str, style: str, enc) -> tuple[list[int], list[int]]:
    """Tokens of the context and of " " + ending."""
    if style == 'nanogpt':
        return enc.encode_ordinary(context), enc.encode_ordinary(' ' + ending)
    stripped = context.rstrip()  # the harness moves blanks at the end of the context to the ending
    n = len(enc.encode_ordinary(stripped))
    joint = enc.encode_ordinary(context + ' ' + ending)
    return joint[:n] or [enc.eot_token], joint[n:]  # a context that the clean-up left empty: end-of-text stands for it


class Row(NamedTuple):
    """Branches of one example that begin with the same token, as a tree whose nodes are tokens in depth-first order."""

    tokens: np.ndarray     # (n,) of each node
    positions: np.ndarray  # (n,) its distance from the root
    ends: np.ndarray       # (n,) the nodes below node i are i + 1 to ends[i] - 1
    at: np.ndarray         # (m,) nodes that predict
    targets: np.ndarray    # (m,) the tokens that they predict
    columns: np.ndarray    # (m,) the ending that each of those belongs to; 4 to 7 are the second style's


class Encoded(NamedTuple):
    ind: int
    label: int
    norms: np.ndarray      # (4 per style,) tokens or characters of each ending
    n_cut: int             # branches that lost tokens on the left
    rows: list             # of Row


def encode(examples: list[dict], tokenizer_name: str, style: str, block_size: int) -> list[Encoded]:
    """Examples as rows of tokens, in 'nanogpt' or 'lm_eval' style, or 'both' (which share what text they can).

    A branch longer than block_size + 1 tokens loses its beginning, as in the harness. Raises UserError if that would cut
    into an ending.
    """
    enc = data.get_tokenizer(tokenizer_name)
    encoded = []
    for number, example in enumerate(examples):
        branches, norms, n_cut = [], [], 0
        for each in STYLES if style == 'both' else (style,):
            context, endings = texts(example, each)
            for ending in endings:
                before, scored = tokenize(context, ending, each, enc)
                if len(scored) > block_size:
                    raise UserError(f'HellaSwag example {number + 1}: an ending of {len(scored)} tokens does not fit into '
                                    f"the model's block_size of {block_size}")
                n_cut += len(before) + len(scored) > block_size + 1
                branches.append(((before + scored)[-(block_size + 1):], len(scored)))
                norms.append(len(scored) if each == 'nanogpt' else len(ending))
        encoded.append(Encoded(example.get('ind', number), example['label'], np.array(norms), n_cut, pack(branches)))
    return encoded


def pack(branches: list[tuple[list[int], int]]) -> list[Row]:
    """Branches (tokens, how many of the last are scored) as few rows: what two branches begin with is there once."""
    rows, previous = [], []
    for column in sorted(range(len(branches)), key=lambda i: branches[i][0]):  # sorted: equal beginnings are neighbours
        sequence, n_scored = branches[column]
        inputs = sequence[:-1]
        shared = next((i for i, (a, b) in enumerate(zip(previous, inputs)) if a != b), min(len(previous), len(inputs)))
        if shared == 0:
            tokens, positions, ends, at, targets, columns, path = [], [], [], [], [], [], []
            rows.append((tokens, positions, ends, at, targets, columns))
        path = path[:shared] + list(range(len(tokens), len(tokens) + len(inputs) - shared))  # nodes from root to leaf
        tokens += inputs[shared:]
        positions += range(shared, len(inputs))
        ends += [0] * (len(inputs) - shared)
        for node in path:
            ends[node] = len(tokens)
        at += path[-n_scored:]
        targets += sequence[-n_scored:]
        columns += [column] * n_scored
        previous = inputs
    return [Row(*(np.array(x, dtype=np.int32) for x in row)) for row in rows]


# ---- scores

def make_batches(model, encoded: list[Encoded], tokens_per_batch=0) -> list[list[tuple[int, Row]]]:
    """All rows, each with the number of its example, in batches of about so many tokens (0: what suits the device)."""
    if not tokens_per_batch:  # on a CPU, what its cache holds: 512 at GPT-2's width
        on_cpu = model.transformer.wte.weight.device.type == 'cpu'
        tokens_per_batch = max(512, 512 * 768 // model.config.n_embd) if on_cpu else 32768
    rows = sorted(((i, row) for i, e in enumerate(encoded) for row in e.rows), key=lambda x: -len(x[1].tokens))
    batches, count = [], 0
    while count < len(rows):  # the longest first: if memory doesn't suffice, it shows at once
        n = max(1, tokens_per_batch // len(rows[count][1].tokens))
        batches.append(rows[count:count + n])
        count += n
    return batches


@torch.no_grad()
def summed_losses(model, encoded: list[Encoded], rank=0, world_size=1, tokens_per_batch=0, progress=False) -> np.ndarray:
    """Summed loss in nats of every ending, float64 (examples, endings), the same on every rank.

    Each rank scores its share of the batches, then all exchange their sums: every rank must call this. The model runs
    uncompiled, in eval mode, under the caller's autocast, and is left in the mode it was in.
    """
    device = model.transformer.wte.weight.device
    batches = make_batches(model, encoded, tokens_per_batch)
    sums = np.zeros((len(encoded), len(encoded[0].norms)))
    was_training = model.training
    model.eval()
    for batch in tqdm(batches[rank::world_size], unit='batch', disable=rank != 0 or not progress):
        losses = batch_losses(model, [row for _, row in batch], device)
        examples = np.concatenate([np.full(len(row.at), i) for i, row in batch])
        np.add.at(sums, (examples, np.concatenate([row.columns for _, row in batch])), losses)
    model.train(was_training)
    if world_size > 1:
        shared = torch.from_numpy(sums).to(device)
        dist.all_reduce(shared)  # each sum is one rank's and zero elsewhere, so the result is exact
        sums = shared.cpu().numpy()
    if not np.isfinite(sums).all():
        raise UserError('HellaSwag: the model gives losses that are not finite')
    return sums


def batch_losses(model, rows: list[Row], device) -> np.ndarray:
    """The loss in nats of every scored token of some rows, one after the other, float32."""
    B, T = len(rows), -(-max(len(row.tokens) for row in rows) // 8) * 8  # attention kernels like multiples of 8
    tokens, positions = np.zeros((2, B, T), dtype=np.int64)
    ends = np.tile(np.arange(1, T + 1), (B, 1))  # padding stands behind the tree and sees only itself
    for b, row in enumerate(rows):
        n = len(row.tokens)
        tokens[b, :n], positions[b, :n], ends[b, :n] = row.tokens, row.positions, row.ends
    nodes, which = np.unique(np.concatenate([b * T + row.at for b, row in enumerate(rows)]), return_inverse=True)
    targets = np.concatenate([row.targets for row in rows])

    tokens, positions, ends, nodes, which, targets = (torch.from_numpy(x).to(device, torch.int64, non_blocking=True)
                                                      for x in (tokens, positions, ends, nodes, which, targets))
    i = torch.arange(T, device=device)
    mask = (i <= i[:, None]) & (i[:, None] < ends[:, None, :])  # (B, T, T): node i sees node j if it is at or below j
    x = model.hidden(tokens, positions, mask[:, None]).flatten(0, 1)[nodes]  # (head positions, C)
    losses = torch.empty(len(targets), device=device)
    for first in range(0, len(nodes), 2048):  # the logits of so many at a time: 1 GB
        log_p = F.linear(x[first:first + 2048], model.transformer.wte.weight).float().log_softmax(1)
        here = ((which >= first) & (which < first + 2048)).nonzero().squeeze(1)
        losses[here] = -log_p[which[here] - first, targets[here]]
    return losses.cpu().numpy()


def summary(encoded: list[Encoded], sums: np.ndarray, style_index: int = 0) -> tuple[dict, list[dict]]:
    """(acc, acc_norm, their standard errors, n and how many examples were cut; the same example by example).

    style_index 1 is the second style of 'both'. The first of equals wins, as in the harness; an ending that the clean-up
    left empty has an infinite normalised loss.
    """
    columns = slice(4 * style_index, 4 * style_index + 4)
    sums, norms = sums[:, columns], np.array([e.norms[columns] for e in encoded])
    label = np.array([e.label for e in encoded])
    normed = np.divide(sums, norms, out=np.full(sums.shape, np.inf), where=norms > 0)
    pred, pred_norm, n = sums.argmin(1), normed.argmin(1), len(encoded)
    acc, acc_norm = float((pred == label).mean()), float((pred_norm == label).mean())
    result = {'acc': acc, 'acc_norm': acc_norm, 'acc_stderr': (acc * (1 - acc) / max(1, n - 1)) ** 0.5,
              'acc_norm_stderr': (acc_norm * (1 - acc_norm) / max(1, n - 1)) ** 0.5, 'n': n,
              'n_cut': sum(e.n_cut > 0 for e in encoded)}
    lines = [{'ind': e.ind, 'label': e.label, 'pred': int(pred[i]), 'pred_norm': int(pred_norm[i]),
              'losses': sums[i].tolist(), 'losses_norm': normed[i].tolist()} for i, e in enumerate(encoded)]
    return result, lines


def evaluate(model, encoded: list[Encoded], rank=0, world_size=1, tokens_per_batch=0, progress=False) -> dict:
    """acc, acc_norm, acc_stderr, acc_norm_stderr, n, n_cut of examples encoded in one style, the same on every rank.

    model is the raw GPT. Every rank must call this. Raises UserError, on all ranks, if a loss isn't finite.
    """
    return summary(encoded, summed_losses(model, encoded, rank, world_size, tokens_per_batch, progress))[0]


def check_vocabulary(tokenizer_name: str, vocab_size: int):
    """Raise UserError unless a model's vocabulary is the tokenizer's, give or take what it was rounded up by."""
    n = data.get_tokenizer(tokenizer_name).n_vocab
    if not n <= vocab_size < n + 128:
        raise UserError(f'the model has a vocabulary of {vocab_size}, the tokenizer {tokenizer_name!r} one of {n}: '
                        'they do not belong together')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('model', help="a checkpoint, a run directory, a Hugging Face GPT-2 folder, or 'gpt2', 'gpt2-medium', ...")
    add('--style', choices=(*STYLES, 'both'), default='nanogpt', help='which convention; default nanogpt')
    add('--data', default='', metavar='FILE|URL', help='JSONL to score on; default: the official validation set')
    add('--limit', type=int, default=0, metavar='N', help='only the first N examples; default: all')
    add('--device', default='auto', help='cuda, mps, cpu, ...; default: the first of these that is there')
    add('--dtype', choices=('auto', 'float32', 'bfloat16'), default='auto',
        help='autocast to bfloat16, or stay with float32; default: bfloat16 where the hardware has it')
    add('--json', action='store_true', help='end with one line of JSON: the numbers of each style')
    add('--per_example', default='', metavar='FILE', help='write predictions and losses, a JSON line per example')
    args = parser.parse_args()

    rank, world_size, local_rank = read_ranks()
    if args.limit < 0:
        raise UserError(f'--limit={args.limit}: a number of examples, or 0 for all')
    if args.per_example and os.path.exists(args.per_example):
        raise UserError(f'--per_example={args.per_example} exists already: remove it or name another')
    if not os.path.isdir(os.path.dirname(args.per_example) or '.'):
        raise UserError(f'--per_example={args.per_example}: there is no folder {os.path.dirname(args.per_example)}')
    device = pick_device(args.device)
    if world_size > 1:
        if device.type == 'cuda' and device.index is None:
            device = pick_device(f'cuda:{local_rank}')
            torch.cuda.set_device(device)
        dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')

    model, info = checkpoint.load_model(args.model, device)
    examples = load_examples(args.data, args.limit)
    check_vocabulary(info['tokenizer'], model.config.vocab_size)
    encoded = encode(examples, info['tokenizer'], args.style, model.config.block_size)
    with autocast(device, args.dtype):
        sums = summed_losses(model, encoded, rank, world_size, progress=True)

    if rank == 0:
        styles = STYLES if args.style == 'both' else (args.style,)
        scored = {style: summary(encoded, sums, i) for i, style in enumerate(styles)}
        if args.per_example:
            with open(args.per_example + '.tmp', 'w', encoding='utf-8') as f:
                f.writelines(json.dumps({'style': style} | line) + '\n' for style in styles for line in scored[style][1])
            os.replace(args.per_example + '.tmp', args.per_example)
        for style, (r, _) in scored.items():
            cut = f", {r['n_cut']} cut to {model.config.block_size} tokens" if r['n_cut'] else ''
            print(f"hellaswag {style}: acc {r['acc']:.4f} +- {r['acc_stderr']:.4f}, "
                  f"acc_norm {r['acc_norm']:.4f} +- {r['acc_norm_stderr']:.4f}, n {r['n']}{cut}")
        if args.json:
            print(json.dumps({style: r for style, (r, _) in scored.items()}))
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == '__main__':
    run_main(main)
