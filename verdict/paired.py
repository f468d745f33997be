"""
Two models on the same HellaSwag questions: lines per example, and what they say about the difference.

    python hellaswag.py out/a --per_example=a.jsonl    # train.py writes hellaswag.jsonl at each scoring
    python compare.py a.jsonl out/b/hellaswag.jsonl    # two scorings of the same questions

A line is a JSON object: style, ind and label of the example, pred and pred_norm (the endings that acc and
acc_norm take), losses (nats, of the four endings) and losses_norm, bits and margin (bits per byte; see
hellaswag.py).

Two scores differ by chance as far as their standard errors say. On the same questions most of that chance is
shared: what is hard for one model is hard for the other. So the mean of the differences, question by
question, has a smaller standard error than the difference of the means: of two short runs of the demo (186
steps at full depth, 255 growing; 3,400 questions) .27 times the size for bits, .38 times for accuracy.
"""

import json
import math
import os
from dataclasses import dataclass

from core.common import UserError, atomic_write

KEYS = {'style', 'ind', 'label', 'pred', 'pred_norm', 'losses', 'losses_norm', 'bits', 'margin'}


def write_per_example(path: str, lines: list[dict]):
    """Write the lines, or write them anew. Raises UserError if that fails; what was there before stays."""
    with atomic_write(path) as f:  # a run may be killed while it writes: then the last scoring stays
        for line in lines:
            f.write(json.dumps(line) + '\n')


def read_per_example(path: str, style: str = 'nanogpt') -> list[dict]:
    """The lines of one style that write_per_example wrote. Raises UserError, naming the line, for others."""
    lines = []
    try:
        with open(path, encoding='utf-8') as f:
            for number, text in enumerate(f, 1):
                line = parse_line(text)
                if line is None:
                    raise UserError(f'{path}, line {number}: not a line of HellaSwag scores per example')
                # A file may hold several styles; an example counts once.
                if line['style'] == style:
                    lines.append(line)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None
    except UnicodeDecodeError:
        raise UserError(f'{path}: not text in UTF-8') from None
    if not lines:
        raise UserError(f'{path}: holds no scores in {style} style')
    return lines


def parse_line(text: str) -> dict | None:
    """The line, None if it isn't one."""
    try:
        line = json.loads(text)
    # Brackets nested too deeply end in a RecursionError.
    except (ValueError, RecursionError):
        return None
    # Further keys do no harm.
    if type(line) is not dict or not line.keys() >= KEYS:
        return None
    for name in ('bits', 'margin'):
        # Not isinstance: true is an int to Python. JSON as Python reads it has NaN, which would spread.
        if type(line[name]) not in (int, float) or not math.isfinite(line[name]):
            return None
    return line


@dataclass(frozen=True)
class Difference:
    """The second model less the first over n examples, with standard errors, None for a single example.

    only_first counts the examples that the first model alone got right; p is McNemar's exact test's.
    """

    n: int
    acc: float
    acc_stderr: float | None
    acc_only_first: int
    acc_only_second: int
    acc_p: float
    acc_norm: float
    acc_norm_stderr: float | None
    acc_norm_only_first: int
    acc_norm_only_second: int
    acc_norm_p: float
    bits: float
    bits_stderr: float | None
    margin: float
    margin_stderr: float | None


def by_seed(mine: list, theirs: list) -> list[tuple[int, Difference]]:
    """(seed, run minus opponent) of each seed that both sides (verdict.runs.Run) have scored question by
    question, on the same questions."""
    files = [{run.seed: os.path.join(run.path, 'hellaswag.jsonl') for run in runs} for runs in (theirs, mine)]
    found = []
    for seed in files[1]:
        paths = [of_side.get(seed, '') for of_side in files]
        if all(os.path.exists(path) for path in paths):
            lines = [read_per_example(path) for path in paths]
            if not different_examples(*lines):
                found.append((seed, compare_lines(*lines)))
    return found


def different_examples(first: list[dict], second: list[dict]) -> str:
    """In what two scorings aren't of the same examples in the same order; '' if they are."""
    # By place, not by number: a file whose examples have no numbers, or the same ones, is compared as well.
    differs = []
    if len(first) != len(second):
        differs.append(f'{len(first)} and {len(second)} lines')
    for name in ('style', 'ind', 'label'):
        # zip stops at the shorter of the two; their lengths are compared above.
        if any(a[name] != b[name] for a, b in zip(first, second)):
            differs.append(f'{name} differs')
    return ', '.join(differs)


def compare_lines(first: list[dict], second: list[dict], who: str = 'the two scorings') -> Difference:
    """The difference of two scorings of the same examples in the same order.

    Raises UserError, beginning with `who`, if they aren't of the same examples.
    """
    from verdict import stats  # here, since it loads scipy and train.py only writes lines

    differs = different_examples(first, second)
    if differs:
        raise UserError(f'{who} are not of the same examples ({differs}): score both on the same file with '
                        'the same limit')
    values = {'n': len(first)}

    # The second first, so that a difference above 0 means that the second model has more.
    def put(name, first_values, second_values):
        estimate = stats.paired(second_values, first_values)
        # Plain floats, which json can write; a single example has no finite error.
        values[name] = float(estimate.value)
        values[f'{name}_stderr'] = float(estimate.se) if math.isfinite(estimate.se) else None

    for name, pred in (('acc', 'pred'), ('acc_norm', 'pred_norm')):
        first_right = [line[pred] == line['label'] for line in first]
        second_right = [line[pred] == line['label'] for line in second]
        put(name, first_right, second_right)
        # Questions that both get right, or both get wrong, say nothing about which model is better.
        only_first, only_second, p = stats.mcnemar(first_right, second_right)
        values |= {f'{name}_only_first': only_first, f'{name}_only_second': only_second, f'{name}_p': p}
    # These are measured, not counted, so they have no exact test.
    for name in ('bits', 'margin'):
        put(name, [line[name] for line in first], [line[name] for line in second])
    return Difference(**values)


def in_words(d: Difference) -> str:
    """The difference as one line prints it."""
    # The standard errors are None then.
    if d.n == 1:
        return 'one example says nothing about a difference'
    return (
        f'bits {d.bits:+.4f} +- {d.bits_stderr:.4f}, '
        f'acc_norm {d.acc_norm:+.4f} +- {d.acc_norm_stderr:.4f} (p {d.acc_norm_p:.2g}), '
        f'acc {d.acc:+.4f} +- {d.acc_stderr:.4f} (p {d.acc_p:.2g}), '
        f'margin {d.margin:+.4f} +- {d.margin_stderr:.4f}, n {d.n}')
