"""
How much faster is the packed scorer than the four-padded-rows loop, and how far from what the FLOP count
allows?

    PYTHONPATH=.:tests python dev/bench_hellaswag.py [--n=120] [--turns=6] [--device=cpu]

GPT-2 124M's shape with random weights, GPT-2's vocabulary, HellaSwag-shaped examples of mixed length. The
ways take turns in one process, a share of the examples each time, so that a busy machine slows all of them
alike (a very busy one makes two threads wait for each other: then OMP_NUM_THREADS=1 says more). The limit is
the ratio of the floating-point operations that the loop does to those that are needed: the speed-up at equal
FLOP/s; larger matrices and less time outside of them can go beyond it. bfloat16 is measured where the
hardware multiplies it, against the float32 loop.
"""

import argparse
import resource
import time

import conftest
import numpy as np
import torch
import torch.nn.functional as F
from hellaswag_examples import make_examples

import hellaswag
from core import data
from core.device import autocast, pick_device
from model import GPT, GPTConfig


@torch.no_grad()
def four_padded_rows(model, examples: list[dict], device) -> np.ndarray:
    """The usual loop: one example a time, four rows padded to the longest, all logits, cross-entropy ->
    summed losses."""
    enc, sums = data.get_tokenizer('gpt2'), np.zeros((len(examples), 4))
    for i, example in enumerate(examples):
        context = enc.encode_ordinary(example['ctx'])
        rows = [context + enc.encode_ordinary(' ' + ending) for ending in example['endings']]
        tokens = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows], device=device)
        logits = model.logits(tokens)
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(),
                                 reduction='none').view(4, -1)
        for j, row in enumerate(rows):
            sums[i, j] = losses[j, len(context) - 1:len(row) - 1].double().sum().item()
    return sums


def flops(config: GPTConfig, tokens: int, looks: int, heads: int) -> float:
    """Multiply-adds x 2 of a forward pass: `looks` are (query, key) pairs, `heads` the positions with
    logits."""
    C = config.n_embd
    return config.n_layer * (24 * C * C * tokens + 4 * C * looks) + 2 * C * config.vocab_size * heads


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--n', type=int, default=120, help='examples')
    parser.add_argument('--turns', type=int, default=6)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    conftest.pytest_configure()
    device = pick_device(args.device)
    config = GPTConfig()
    model = GPT(config, generator=torch.Generator().manual_seed(0)).to(device).eval()
    examples = [e | {'label': int(e['label'])} for e in make_examples(args.n, seed=11)]
    encoded = hellaswag.encode(examples, 'gpt2', 'nanogpt', config.block_size)

    enc = data.get_tokenizer('gpt2')
    lengths = np.array([[len(enc.encode_ordinary(e['ctx'] + ' ' + ending)) for ending in e['endings']]
                        for e in examples])
    widest = lengths.max(1)
    rows = [row for e in encoded for row in e.rows]
    loop = flops(config, 4 * widest.sum(), (2 * widest * (widest + 1)).sum(), 4 * widest.sum())
    needed = flops(config, sum(len(row.tokens) for row in rows),
                   sum((row.positions + 1).sum() for row in rows),
                   sum(len(np.unique(row.at)) for row in rows))
    print(f'{args.n} examples, context and ending have {lengths.min()} to {lengths.max()} tokens, '
          f'{lengths.mean():.0f} on average; {torch.get_num_threads()} threads')
    print(f'the loop does {loop / args.n / 1e9:.1f} GFLOP an example, {needed / args.n / 1e9:.1f} are '
          f'needed: the limit is {loop / needed:.2f}x')

    native = type(autocast(device, 'auto')) is torch.autocast
    ways = ['loop float32', 'packed float32'] + ['packed bfloat16'] * native
    seconds, sums = {way: [] for way in ways}, {way: np.empty((args.n, 4)) for way in ways}
    for turn in range(args.turns):
        for way in ways:
            start = np.array([time.perf_counter(), time.process_time()])
            with autocast(device, way.split()[1]):
                sums[way][turn::args.turns] = (four_padded_rows(model, examples[turn::args.turns], device)
                                               if way == ways[0] else
                                               hellaswag.summed_losses(model, encoded[turn::args.turns]))
            seconds[way].append([time.perf_counter(), time.process_time()] - start)
        print(f'turn {turn + 1}: ' + ', '.join(f'{way} {t[-1][0]:.1f} s' for way, t in seconds.items()),
              flush=True)

    tokens = np.array([e.norms for e in encoded])
    for way in ways[1:]:
        gain, gain_cpu = sum(seconds[ways[0]]) / sum(seconds[way])
        gap = np.abs(sums[way] - sums[ways[0]])
        other = (sums[way].argmin(1) != sums[ways[0]].argmin(1)).sum()
        print(f'{way}: {gain:.2f}x the float32 loop ({gain_cpu:.2f}x in processor time), '
              f'{gain * needed / loop:.0%} of the limit; losses differ by {gap.max():.1e}, per token by '
              f'{(gap / tokens).max():.1e}, predictions in {other}')
    if not native:
        print('bfloat16 was not measured: this hardware does not multiply it')
    print(f'peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB')


if __name__ == '__main__':
    main()
