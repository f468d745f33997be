"""
Two models on the same HellaSwag questions: lines per example, and what they say about the difference.

    python hellaswag.py out/a --per_example=a.jsonl    # train.py writes hellaswag.jsonl at each scoring
    python compare.py a.jsonl out/b/hellaswag.jsonl    # two scorings of the same questions

A line is a JSON object: style, ind and label of the example, pred and pred_norm (the endings that acc and
acc_norm take), losses (nats, of the four endings) and losses_norm, bits and margin (bits per byte; see
hellaswag.py).

What is hard for one model is hard for the other, so the mean of the differences, question by question, has a
smaller standard error than the difference of the means: of two short runs of the demo .27 times the size for
bits, .38 times for accuracy.
"""

import json
import math
import os

from core.common import UserError, atomic_write

KEYS = {'style', 'ind', 'label', 'pred', 'pred_norm', 'losses', 'losses_norm', 'bits', 'margin'}

def write_per_example(path: str, lines: list[dict]):
    """Write the lines, or write them anew. Raises UserError if that fails; what was there before stays."""
    with atomic_write(path) as f:  # a run may be killed while it writes: then the last scoring stays
        f.writelines(json.dumps(line) + '\n' for line in lines)

def read_per_example(path: str, style: str = 'nanogpt') -> list[dict]:
    """The lines of one style that write_per_example wrote. Raises UserError, naming the line, for others."""
    lines = []
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            for number, text in enumerate(f, 1):
                line = parse_line(text)
                if line is None:
                    raise UserError(f'{path}, line {number}: not a line of HellaSwag scores per example')
                # A file may hold several styles; an example counts once.
                if line['style'] == style:
                    lines.append(line)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    if not lines:
        raise UserError(f'{path}: holds no scores in {style} style')
    return lines

def parse_line(text: str) -> dict | None:
    """The line, None if it isn't one. Further keys do no harm."""
    try:
        line = json.loads(text)
    # Brackets nested too deeply end in a RecursionError.
    except (ValueError, RecursionError):
        return None
    if type(line) is not dict or not line.keys() >= KEYS:
        return None
    # Not isinstance: true is an int to Python. JSON as Python reads it has NaN, which would spread.
    measured = (line['bits'], line['margin'])
    is_line = all(type(value) in (int, float) and math.isfinite(value) for value in measured)
    return line if is_line else None

def by_seed(mine: list, theirs: list) -> list[tuple[int, dict]]:
    """(seed, run minus opponent) of each seed that both sides (verdict.runs.Run) have scored question by
    question, on the same questions."""
    opponents = {run.seed: run for run in theirs}
    found = []
    for run in mine:
        sides = [opponents[run.seed], run] if run.seed in opponents else []
        paths = [os.path.join(side.path, 'hellaswag.jsonl') for side in sides]
        if paths and all(os.path.exists(path) for path in paths):
            first, second = (read_per_example(path) for path in paths)
            if examples_of(first) == examples_of(second):
                found.append((run.seed, compare_lines(first, second)))
    return found

def examples_of(lines: list[dict]) -> list[tuple]:
    """Which examples some lines score, in their order."""
    return [(line['style'], line['ind'], line['label']) for line in lines]

def compare_lines(first: list[dict], second: list[dict], who: str = 'the two scorings') -> dict:
    """The second model less the first over the same n examples in the same order: acc, acc_norm, bits, margin
    with NAME_stderr, None for a single example; of acc and acc_norm also NAME_only_first, the examples that
    the first model alone got right, NAME_only_second, and NAME_p by McNemar's exact test.

    Raises UserError, beginning with `who`, if they aren't of the same examples.
    """
    from verdict import stats  # here, since it loads scipy and train.py only writes lines

    if examples_of(first) != examples_of(second):
        raise UserError(f'{who} are not of the same examples in the same order: score both on the same file '
                        'with the same limit')
    found = {'n': len(first)}
    for name in ('acc', 'acc_norm', 'bits', 'margin'):
        theirs, mine = column(first, name), column(second, name)
        estimate = stats.paired(mine, theirs)
        # Plain floats, which json can write; a single example has no finite error.
        found[name] = float(estimate.value)
        found[f'{name}_stderr'] = float(estimate.se) if math.isfinite(estimate.se) else None
        # What is measured, not counted, has no exact test.
        if name.startswith('acc'):
            only_first, only_second, p = stats.mcnemar(theirs, mine)
            found |= {f'{name}_only_first': only_first, f'{name}_only_second': only_second, f'{name}_p': p}
    return found

def column(lines: list[dict], name: str) -> list:
    """A measure of each example."""
    pred = {'acc': 'pred', 'acc_norm': 'pred_norm'}.get(name)
    return [line[pred] == line['label'] if pred else line[name] for line in lines]

def in_words(d: dict) -> str:
    """The difference as one line prints it."""
    if d['n'] == 1:
        return 'one example says nothing about a difference'
    parts = []
    for name in ('bits', 'acc_norm', 'acc', 'margin'):
        p = f' (p {d[f"{name}_p"]:.2g})' if f'{name}_p' in d else ''
        parts.append(f'{name} {d[name]:+.4f} +- {d[f"{name}_stderr"]:.4f}{p}')
    return f'{", ".join(parts)}, n {d["n"]}'
