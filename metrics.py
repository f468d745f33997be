"""metrics.jsonl: the one place that writes and reads it.

One JSON object a line. All have kind ('train', 'eval', 'phase'), step, tokens, flops, flops_paper, seconds of training,
eval_seconds, checkpoint_seconds, stage, phase and depth. 'train' adds loss, lr, grad_norm and tok_per_sec, 'eval' val_loss
and hellaswag_*, 'phase' n_frozen.
"""

import json
import math
import os

from common import UserError, atomic_write

COUNTERS = ('step', 'tokens', 'flops', 'flops_paper', 'seconds')


class MetricsWriter:
    """Appends to a run's metrics.jsonl. Rank 0 has one."""

    def __init__(self, path: str, step: int, logs_step: bool = True, prefix: str = ''):
        """Open the file of a run that goes on from `step`, less the lines that it will write again.

        `logs_step`: whether its training loss at `step` is due. `prefix`: the metrics.jsonl of the run that trained the
        steps so far, if it was another one.
        """
        source = prefix or path
        kept = lines_before(source, step, logs_step) if os.path.exists(source) else []
        with atomic_write(path) as f:
            f.writelines(kept)
        self.file = open(path, 'ab', buffering=0)

    def write(self, record: dict):
        """Append one record, at once. Raises UserError if the disk is full."""
        text = (json.dumps(record) + '\n').encode()
        try:
            while text:  # a disk that gets full takes a part, then refuses
                text = text[self.file.write(text):]
        except OSError as error:
            raise UserError(f'{self.file.name} could not be written ({error.strerror}); the last checkpoint is untouched: '
                            'make room, then go on with --resume') from None

    def close(self):
        self.file.close()


def lines_before(path: str, step: int, logs_step: bool = True) -> list[str]:
    """The lines of metrics.jsonl that a run resumed at `step` won't write again: its evals and growth at `step` are still
    to come, its training line at `step` (if one is due there: `logs_step`) is not. Raises UserError for a line, other
    than a truncated last one, that is no record."""
    kept = []
    with open(path, encoding='utf-8', errors='replace') as f:
        lines = f.readlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            keep = record['step'] < step or (record['step'] == step and record['kind'] == 'train' and logs_step)
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines):
                break  # a kill in the middle of a write
            raise UserError(f'{path}, line {number}: not a line of metrics; move the file away to go on without it') from None
        if keep and line.endswith('\n'):
            kept.append(line)
    return kept


def has_last_eval(path: str, total_steps: int) -> bool:
    """Whether a run's metrics.jsonl ends with the evaluation of its last step."""
    if not os.path.exists(path):
        return False
    with open(path, 'rb') as f:
        lines = f.read().splitlines()
    return bool(lines) and lines[-1].startswith(b'{"kind": "eval", "step": %d,' % total_steps) and lines[-1].endswith(b'}')


def read_metrics(path: str) -> tuple[list[dict], bool]:
    """(the records of a metrics.jsonl, whether a truncated line follows them). A file that isn't there yet has none.

    Raises UserError, naming file and line, for a line that is no record, and for steps or costs that run backwards.
    """
    if not os.path.exists(path):
        return [], False
    with open(path, 'rb') as f:
        lines = f.read().split(b'\n')
    if not lines[-1]:
        lines.pop()
        whole = len(lines)
    else:
        whole = len(lines) - 1  # no line break after the last one: cut off in the middle of a write, perhaps
    records = []
    for number, line in enumerate(lines, 1):
        where = f'{path}, line {number}'
        record = parse_record(line)
        if record is None:
            if number > whole:
                return records, True
            raise UserError(f'{where}: not a line of metrics (an object with kind and finite {", ".join(COUNTERS)}); '
                            'repair or remove the line, or leave the run out')
        for k in COUNTERS:
            if records and record[k] < records[-1][k]:
                raise UserError(f'{where}: {k} goes back from {records[-1][k]} to {record[k]}; two runs in one file?')
        if record['kind'] == 'eval' and any(r['kind'] == 'eval' and r['step'] == record['step'] for r in records[-3:]):
            raise UserError(f'{where}: step {record["step"]} is evaluated twice; two runs in one file?')
        records.append(record)
    return records, False


def parse_record(line: bytes) -> dict | None:
    """The record in a line of metrics.jsonl; None if it is none, or a number in it makes no sense."""
    try:
        record = json.loads(line)
        is_record = record['kind'] in ('train', 'eval', 'phase') and type(record['step']) is int
        numbers = [record[k] for k in COUNTERS]
        numbers += [record[k] for k in ('val_loss', 'hellaswag_acc_norm', 'hellaswag_n') if k in record]
        is_record &= all(type(v) in (int, float) and math.isfinite(v) and v >= 0 for v in numbers)
        if record['kind'] == 'phase':
            is_record &= type(record['phase']) is str and type(record['depth']) is int
        if 'hellaswag_acc_norm' in record:
            is_record &= record['hellaswag_acc_norm'] <= 1 and record['hellaswag_n'] >= 1
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return record if is_record else None
