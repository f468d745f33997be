"""
HellaSwag: four endings to a context, one of them true; the model picks the one that it finds likeliest.

    python hellaswag.py MODEL [--style=nanogpt|lm_eval|both] [--data=FILE|URL] [--limit=N] [--json]
    python hellaswag.py out/baseline out/incremental_8stage   # two on the same examples, and their difference
    torchrun --standalone --nproc_per_node=8 hellaswag.py out/incremental_8stage --style=both --json

MODEL is a checkpoint, a run directory, a Hugging Face folder (GPT-2, Llama, Qwen2, Qwen3), or gpt2,
gpt2-medium, gpt2-large, gpt2-xl. Without --data the examples are the official validation set's, 10,042, from
the Hugging Face Hub. A file of your own has one JSON object a line: 'ctx' (the context), 'endings' (four),
'label' (the true one's number, 0 to 3), and optionally 'ind', 'activity_label', 'ctx_a' and 'ctx_b'.

Two conventions are in use, and their numbers differ. GPT-2 124M scores, on the official validation set:

    style       acc      acc_norm   text
    nanogpt     0.2859   0.2955     raw ctx and " " + ending, encoded apart; acc_norm: mean loss per token
    lm_eval     0.2892   0.3114     lm-evaluation-harness: "activity: " before, WikiHow's brackets cleaned
                                    away, context and ending encoded together; acc_norm: loss per character

acc takes the ending of least summed loss. Its standard error is about 0.0046: runs that differ by less
don't differ. Two measures are smoother. Both are in bits per UTF-8 byte of the text whose tokens are
scored, which is " " + ending:

    bits        the true ending's loss, mean over the examples; lower is better
    margin      the best wrong ending's loss less the true one's, mean over the examples; higher is better

An example is one row, not four padded ones: the context once and its endings as branches after it (see
pack), which is half the tokens.
"""

import hashlib
import itertools
import json
import math
import os
import re
from dataclasses import dataclass
from typing import NamedTuple

from core.common import Parser, UserError, run_main

STYLES = ('nanogpt', 'lm_eval')

def parse_args():
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add('models', nargs='+', metavar='model', help='one model, or two to compare')
    add('--style', choices=(*STYLES, 'both'), default='nanogpt', help='which convention; default nanogpt')
    add('--data', default='', metavar='FILE|URL', help='JSONL to score on; default: the official set')
    add('--limit', type=int, default=0, metavar='N', help='only the first N examples; default: all')
    add('--device', default='auto', help='cuda, mps, cpu, ...; default: the first of these that is there')
    add('--dtype', choices=('auto', 'float32', 'bfloat16'), default='auto',
        help='autocast to bfloat16, or stay with float32; default: bfloat16 where the hardware has it')
    add('--json', action='store_true', help='end with one line of JSON: the numbers of each style')
    add('--per_example', default='', metavar='FILE', type=os.path.expanduser,
        help='a JSON line an example (verdict/paired.py)')
    args = parser.parse_args()

    if len(args.models) > 2:
        raise UserError(f'{len(args.models)} models: name one, or two to compare')
    if args.limit < 0:
        raise UserError(f'--limit={args.limit}: a number of examples, or 0 for all')
    if args.per_example and len(args.models) > 1:
        raise UserError('--per_example takes the lines of one model: name one')
    if os.path.exists(args.per_example):
        raise UserError(f'--per_example={args.per_example} exists already: remove it or name another')
    folder = os.path.dirname(args.per_example) or '.'
    if not os.path.isdir(folder):
        raise UserError(f'--per_example={args.per_example}: there is no folder {folder}')
    return args

if __name__ == '__main__':  # --help and a wrong flag are answered before torch takes its seconds to load
    run_main(parse_args)

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from core import data
from core.device import autocast, init_distributed, pick_device, read_ranks, to_device
from run import checkpoint
from verdict import paired

MEASURES = ('acc', 'acc_norm', 'bits', 'margin')
OPTIONAL = ('activity_label', 'ctx_a', 'ctx_b')  # texts that lm_eval reads

def load_examples(source: str, limit: int = 0) -> list[dict]:
    """The first `limit` (0: all) examples of a JSONL file, a URL, or, for '', of the official validation set.

    Every rank calls this: `datasets` fetches what isn't a file once, into its cache. Raises UserError for
    what can't be fetched, and for a line that is no example.
    """
    name = source or 'Rowan/hellaswag'
    if source and not re.match('https?://', source, re.IGNORECASE):
        # What isn't UTF-8 (UTF-16, a .gz) is no example in its first line.
        with open(os.path.expanduser(source), encoding='utf-8', errors='replace') as f:
            lines = f.readlines()
    else:
        import datasets  # here, since it takes a second

        try:
            if source:
                lines = datasets.load_dataset('text', data_files=source, split='train')['text']
            else:
                lines = map(json.dumps, datasets.load_dataset(name, split='validation'))
        except Exception as error:  # whatever datasets, the Hub's client, the network or the disk raise
            raise UserError(f'{name} could not be fetched ({type(error).__name__}); without network, name a '
                            'JSONL file: --data=FILE here, --hellaswag_data=FILE in training') from None
    examples = []
    for number, line in enumerate(lines, 1):
        line = line.lstrip('\ufeff').strip()  # joined files have byte order marks in the middle, too
        if line:
            examples.append(parse_example(line, f'{name}, line {number}'))
        if limit and len(examples) == limit:
            break
    if not examples:
        raise UserError(f'{name}: holds no examples')
    return examples

def parse_example(line: str, where: str) -> dict:
    """One line's example, its label as an int. Raises UserError, beginning with `where`, for others."""
    try:
        example = json.loads(line)
    except (ValueError, RecursionError):  # the last: brackets nested ten thousand deep
        example = None
    example = example if type(example) is dict else {}
    endings = example.get('endings')
    needed = [example.get('ctx'), *(endings if type(endings) is list else [])]
    optional = [example.get(name, '') for name in OPTIONAL]
    label = example.get('label')
    is_text = all(type(text) is str for text in needed + optional) and all(map(str.strip, needed))
    # The label not by ==, for which True and 1.0 are 1.
    if not is_text or len(needed) != 5 or type(label) not in (int, str) or str(label) not in tuple('0123'):
        raise UserError(f"{where}: an example is a JSON object with the texts 'ctx' and 'endings' (four of "
                        f"them) and 'label', 0, 1, 2 or 3 (which the test split lacks), not {line[:60]}")
    return example | {'label': int(label)}

def fingerprint(examples: list[dict]) -> str:
    """sha256 of what is scored: the same questions have the same one, wherever they were read."""
    digest = hashlib.sha256()
    for example in examples:
        # Labels are ints by now; fields that nothing reads, as the source's own numbers, don't count.
        scored = [example[name] for name in ('ctx', 'endings', 'label')]
        scored += [example.get(name, '') for name in OPTIONAL]
        digest.update(json.dumps(scored).encode() + b'\n')
    return digest.hexdigest()

def clean(text: str) -> str:
    """lm-evaluation-harness's clean-up of WikiHow's brackets, step by step: what it leaves is left here
    too."""
    text = text.strip().replace(' [title]', '. ')
    return re.sub(r'\[.*?\]', '', text).replace('  ', ' ')

def texts(example: dict, style: str) -> tuple[str, list[str]]:
    """(context, endings) as the style reads them. Optional fields, missing or empty, leave the plain ctx."""
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
    # The harness moves blanks at the end of the context to the ending.
    n = len(enc.encode_ordinary(context.rstrip()))
    joint = enc.encode_ordinary(context + ' ' + ending)
    # A context that the clean-up left empty: end-of-text stands for it, as in the harness.
    before = joint[:n] or [enc.eot_token]
    return before, joint[n:]

@dataclass
class Encoded:
    """One example in one style. What belongs to an ending is an array of 4."""

    ind: int  # the example's own number, or its place in the file
    label: int
    style: str
    norms: np.ndarray  # acc_norm divides by these: tokens or characters
    n_bytes: np.ndarray  # bits and margin divide by these: bytes of the scored tokens
    is_cut: bool  # whether a context lost tokens on its left
    row: 'Row'

def encode(
    examples: list[dict], tokenizer: str, style: str, block_size: int, beside: str = ''
) -> list[Encoded]:
    """Examples as rows of tokens, in 'nanogpt' or 'lm_eval' style.

    tokenizer and `beside` are get_tokenizer's. Context and ending longer than block_size + 1 tokens lose
    their beginning, as in the harness. Raises UserError if that would cut into an ending.
    """
    enc = data.get_tokenizer(tokenizer, beside)
    longest = block_size + 1  # the last token is predicted, not read
    encoded = []
    for number, example in enumerate(examples):
        branches, norms, n_bytes = [], [], []
        is_cut = False
        context, endings = texts(example, style)
        for ending in endings:
            before, scored = tokenize(context, ending, style, enc)
            if len(scored) > block_size:
                raise UserError(f'HellaSwag example {number + 1}: an ending of {len(scored)} tokens does not '
                                f"fit into the model's block_size of {block_size}")
            sequence = before + scored
            branches.append((sequence[-longest:], len(scored)))
            norms.append(len(scored) if style == 'nanogpt' else len(ending))
            n_bytes.append(len(enc.decode_bytes(scored)))
            is_cut = is_cut or len(sequence) > longest
        ind = example.get('ind', number)
        encoded.append(Encoded(ind, example['label'], style, np.array(norms), np.array(n_bytes), is_cut,
                               pack(branches)))
    return encoded

class Row(NamedTuple):
    """The tokens of an example as a tree, as pack() draws it: int32 arrays, which take a tenth of lists."""

    # of each node
    tokens: np.ndarray
    positions: np.ndarray  # distance from the root
    ends: np.ndarray  # the nodes below node i are i + 1 to ends[i] - 1
    # of each prediction
    at: np.ndarray  # the node that makes it
    targets: np.ndarray  # the token that should come
    columns: np.ndarray  # the ending that it belongs to, 0 to 3

def pack(branches: list[tuple[list[int], int]]) -> Row:
    """Branches (tokens of context and ending, how many of the last are scored) as one row.

    What two branches begin with is there once. "A man" with "sits up", "sits down now" and "waves back":

        node      0         1              2          3
                  A ------- man ----+----- sits ----- down
                                    |
                                    +----- waves
        node                               4
        position  0         1              2          3

    Node 1 predicts "sits" for two endings and "waves" for the third, node 2 "up" and "down", node 3 "now",
    node 4 "back". The last token of an ending is predicted and never read: "up", "now" and "back" are no
    nodes. A node attends to itself and to those that it is below. Branches that begin with other tokens, as
    contexts that are cut may, have roots of their own.
    """
    tokens, positions, ends, at, targets, columns = [], [], [], [], [], []
    nodes = {}  # (the node before, token): node
    # Sorted by their tokens, branches that begin alike are neighbors: the nodes below a node follow it
    # without a gap.
    for column in sorted(range(len(branches)), key=lambda column: branches[column][0]):
        sequence, n_scored = branches[column]
        path = []
        node = None
        for position, token in enumerate(sequence[:-1]):
            node = nodes.setdefault((node, token), len(tokens))
            if node == len(tokens):  # a new one
                tokens.append(token)
                positions.append(position)
                ends.append(0)
            path.append(node)
        for node in path:
            ends[node] = len(tokens)  # so far: the last branch that passes here says it
        at += path[-n_scored:]
        targets += sequence[-n_scored:]
        columns += [column] * n_scored
    lists = (tokens, positions, ends, at, targets, columns)
    return Row(*(np.array(values, np.int32) for values in lists))

def make_batches(model, encoded: list[Encoded], tokens_per_batch=0) -> list[list[int]]:
    """The numbers of all examples, in batches of about so many tokens, 0: what suits the device."""
    if not tokens_per_batch:
        tokens_per_batch = 32768
        if model.transformer.wte.weight.device.type == 'cpu':  # what its cache holds: 512 at GPT-2's width
            tokens_per_batch = max(512, 512 * 768 // model.config.n_embd)
    # The longest first: if memory doesn't suffice, it shows at once.
    left = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].row.tokens))
    batches = []
    while left:
        n = max(1, tokens_per_batch // len(encoded[left[0]].row.tokens))
        batches.append(left[:n])
        left = left[n:]
    return batches

@torch.no_grad()
def summed_losses(
    model, encoded: list[Encoded], rank=0, world_size=1, tokens_per_batch=0, progress=False
) -> np.ndarray:
    """Summed loss in nats of every ending, float64 (examples, 4), the same on every rank.

    Each rank scores its share of the batches, then all exchange their sums: every rank must call this. The
    model runs uncompiled, in eval mode, under the caller's autocast, and is left in the mode it was in.
    Raises UserError, on all ranks, for a loss that isn't finite.
    """
    device = model.transformer.wte.weight.device
    sums = np.zeros((len(encoded), 4))
    was_training = model.training
    model.eval()
    batches = make_batches(model, encoded, tokens_per_batch)[rank::world_size]
    losses = []
    for batch in tqdm(batches, unit='batch', disable=rank != 0 or not progress):
        losses.append(batch_losses(model, [encoded[i].row for i in batch], device))
    if losses:
        losses = torch.cat(losses).cpu().numpy()  # a GPU is waited for once, not after each batch
    start = 0
    for i in itertools.chain(*batches):
        columns = encoded[i].row.columns
        # Not sums[i][columns] += ..., since a column occurs once for each of its tokens.
        np.add.at(sums[i], columns, losses[start:start + len(columns)])
        start += len(columns)
    model.train(was_training)
    if world_size > 1:
        shared = torch.from_numpy(sums).to(device)
        dist.all_reduce(shared)  # each sum is one rank's and zero elsewhere, so the result is exact
        sums = shared.cpu().numpy()
    if not np.isfinite(sums).all():
        raise UserError('HellaSwag: the model gives losses that are not finite')
    return sums

def batch_losses(model, rows: list[Row], device) -> torch.Tensor:
    """The loss in nats of every prediction of some rows, one after the other, float32, on the device."""
    longest = max(len(row.tokens) for row in rows)
    B = len(rows)
    T = math.ceil(longest / 8) * 8  # attention kernels like multiples of 8
    tokens = np.zeros((B, T), dtype=np.int64)
    positions = np.zeros((B, T), dtype=np.int64)
    ends = np.tile(np.arange(1, T + 1), (B, 1))  # padding comes after the tree and attends only to itself
    for b, row in enumerate(rows):
        n = len(row.tokens)
        tokens[b, :n] = row.tokens
        positions[b, :n] = row.positions
        ends[b, :n] = row.ends
    at = np.concatenate([b * T + row.at for b, row in enumerate(rows)]).astype(np.int64)
    targets = np.concatenate([row.targets for row in rows]).astype(np.int64)
    tokens, positions, ends, at, targets = to_device((tokens, positions, ends, at, targets), device)
    # Node i attends to node j if it is node j or below it: j <= i < ends[j].
    j = torch.arange(T, device=device)
    i = j[:, None]
    mask = (j <= i) & (i < ends[:, None, :])  # (B, T, T)
    x = model.hidden(tokens, positions, mask[:, None])  # (B, T, C)
    return model.token_losses(x.flatten(0, 1)[at], targets)

def summary(encoded: list[Encoded], sums: np.ndarray) -> tuple[dict, list[dict]]:
    """(the scores, one line per example as paired.write_per_example takes them) from the summed losses.

    The scores are the MEASURES, each with its _stderr, and n and n_cut: how many examples, and how many
    were cut. The first of equals wins, as in the harness; an ending that the clean-up left empty has an
    infinite normalized loss, null in its line.
    """
    n = len(encoded)
    norms = np.array([example.norms for example in encoded])
    normed = np.divide(sums, norms, out=np.full(sums.shape, np.inf), where=norms > 0)
    pred = sums.argmin(1)  # argmin takes the first of equals
    pred_norm = normed.argmin(1)
    label = np.array([example.label for example in encoded])
    true = (np.arange(n), label)
    per_byte = sums / math.log(2) / [example.n_bytes for example in encoded]
    bits = per_byte[true]
    per_byte[true] = np.inf  # leaves the wrong ones
    margin = per_byte.min(1) - bits

    scores = {}
    per_example = (pred == label, pred_norm == label, bits, margin)
    for name, values in zip(MEASURES, per_example):
        deviation = values.std(ddof=1 if n > 1 else 0)
        scores[name] = float(values.mean())
        scores[f'{name}_stderr'] = float(deviation / math.sqrt(n))
    scores['n'] = n
    scores['n_cut'] = sum(example.is_cut for example in encoded)

    lines = []
    for i, example in enumerate(encoded):
        # JSON has no infinity.
        losses_norm = [loss if math.isfinite(loss) else None for loss in normed[i].tolist()]
        lines.append({'style': example.style, 'ind': example.ind, 'label': example.label,
                      'pred': int(pred[i]), 'pred_norm': int(pred_norm[i]), 'losses': sums[i].tolist(),
                      'losses_norm': losses_norm, 'bits': float(bits[i]), 'margin': float(margin[i])})
    return scores, lines

def evaluate(model, encoded: list[Encoded], rank=0, world_size=1, per_example='') -> dict:
    """summary()'s scores, the same on every rank.

    model is the raw GPT. Every rank must call this. `per_example` names a file that rank 0 then writes, or
    writes anew, with a line per example. Raises UserError, on all ranks, if a loss isn't finite.
    """
    scores, lines = summary(encoded, summed_losses(model, encoded, rank, world_size))
    if per_example and rank == 0:
        paired.write_per_example(per_example, lines)
    return scores

def main():
    args = parse_args()
    rank, world_size, local_rank = read_ranks()
    device = pick_device(args.device, local_rank, world_size)
    if world_size > 1:
        init_distributed(device, rank, world_size)

    loaded = [checkpoint.load_model(path) for path in args.models]
    examples = load_examples(args.data, args.limit)
    styles = STYLES if args.style == 'both' else [args.style]
    encoded = []  # of each model and style: all mistakes come to light, of the second model too
    for model, info in loaded:
        checkpoint.check_vocabulary(info['tokenizer'], model.config.vocab_size, info['path'])
        size = model.config.block_size
        encoded.append([encode(examples, info['tokenizer'], style, size, info['path']) for style in styles])
    results = []  # of each model and style: summary()'s
    with autocast(device, args.dtype):
        for (model, _), by_style in zip(loaded, encoded):
            model.to(device)
            found = []
            for questions in by_style:
                sums = summed_losses(model, questions, rank, world_size, progress=True)
                found.append(summary(questions, sums))
            results.append(found)
            model.to('cpu')  # makes room for the second
    if world_size > 1:
        dist.destroy_process_group()
    if rank == 0:
        report(args, styles, [model.config.block_size for model, _ in loaded], results)

def report(args, styles, block_sizes, results):
    """Print the scores, style by style, and of two models the difference; write what the flags ask for."""
    all_lines = []
    for_json = {}
    for index, style in enumerate(styles):
        scores = []
        lines = []
        for path, block_size, found in zip(args.models, block_sizes, results):
            scores.append(found[index][0])
            lines.append(found[index][1])
            who = f'{path}: ' if len(results) > 1 else ''
            print(f'{who}hellaswag {style}: {in_words(scores[-1], block_size)}')
        all_lines += lines[0]
        for_json[style] = scores[0]
        if len(results) > 1:
            difference = paired.compare_lines(*lines)
            print(f'the second less the first, {style}: {paired.in_words(difference)}')
            for_json[style] = {'scores': scores, 'difference': difference}
    if args.per_example:
        paired.write_per_example(args.per_example, all_lines)
    if args.json:
        print(json.dumps(for_json))

def in_words(scores: dict, block_size: int) -> str:
    """Scores as one line prints them."""
    parts = [f'{name} {scores[name]:.4f} +- {scores[name + "_stderr"]:.4f}' for name in MEASURES]
    parts.append(f'n {scores["n"]}')
    if scores['n_cut']:
        parts.append(f'{scores["n_cut"]} cut to {block_size} tokens')
    return ', '.join(parts)

if __name__ == '__main__':
    run_main(main)
