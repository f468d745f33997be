"""
Does growing pay? Runs side by side, judged at equal compute.

    python compare.py out/*                                   tables, and one verdict per run
    python compare.py out/* --baseline=out/baseline_cosine --figure=compare.png --csv=compare.csv
    python compare.py out/* --markdown > report.md            or --latex, --json, --csv; each also takes =FILE
    python compare.py out/* --sigma=0.0013                    the deviation between seeds is known
    python compare.py a/hellaswag.jsonl b/hellaswag.jsonl     two scorings of the same questions

Everything is read from the run directories: config.json, metrics.jsonl, run.json, hellaswag.jsonl. Runs that
differ in nothing but the seed are one row. An unfinished run, or one on other data than the baseline's, is
shown and flagged, but neither averaged with others nor judged.

The baseline is the run of one stage from scratch; at several budgets it is a ladder, and every run is judged
by the one of its own budget. --baseline=RUN names one where there are several; given again, each run is
judged by the one that starts and is trained like it. Of runs that differ in a tuned setting (--tuned, the
learning rates by default) the best is judged.

What is said of each run, and when to believe it (judge.py has the details):

  difference   at equal compute, in nats, with its 95% interval (Welch's t over the seeds). "clear" if its p
               is below .05 after Holm's correction over the runs of the call. One seed: no verdict
  cost         compute of the run over the compute at which the baseline has the same loss; its inverse is
               the compute multiplier

At GPT-2 124M seeds deviate by .0013 nats: 2 seeds a side see a saving of 3.7% or more, 3: 2.0%, 5: 1.3%, 10:
.8%.

For other scripts: judge.judge_runs makes a Report; report.tables, words.verdicts and words.caveats say what
is in it, rows(report) and as_json(report) here are its numbers as plain types, figure.draw_report
draws it.
"""

import argparse
import csv
import dataclasses
import io
import json
import math
import os
import sys

from config import FIELDS
from core.common import Parser, UserError, atomic_write
from verdict import figure, paired
from verdict import old_stats as stats
from verdict.old_judge import Comparison, Ratio, Report, catch_up, judge_runs
from verdict.old_runs import AXES, TUNED, read_runs
from verdict.report import (
    detail_tables,
    final,
    question_pairs,
    run_tables,
    settings_tables,
    tables,
    verdict_tables,
)
from verdict.tables import escaped
from verdict.words import caveats, describe, verdicts

FORMATS = ('markdown', 'latex', 'json', 'csv')


def main():
    args = parse_arguments()
    # Two scorings need no run directory: any two models on the same questions.
    if all(path.endswith('.jsonl') for path in args.runs):
        compare_scorings(args.runs)
        return
    # A baseline that is also among the runs is read once.
    report = judge_runs(
        read_runs(args.runs + args.baseline), args.baseline or None, tuned=args.tuned, sigma=args.sigma
    )
    # All text is made before any file is written: a mistake leaves no half of them.
    texts = {}
    wanted = {name: getattr(args, name) for name in FORMATS if getattr(args, name)}
    if 'markdown' in wanted:
        texts['markdown'] = as_markdown(report)
    if 'latex' in wanted:
        texts['latex'] = as_latex(report)
    if 'json' in wanted:
        texts['json'] = json.dumps(as_json(report), indent=1) + '\n'
    if 'csv' in wanted:
        texts['csv'] = as_csv(rows(report))
    if '-' in wanted.values():
        # Instead of the tables, so that it can be piped into another program.
        name = next(name for name, path in wanted.items() if path == '-')
        sys.stdout.write(texts[name])
    else:
        print_report(report, args.full)
    for name, path in wanted.items():
        if path != '-':
            with atomic_write(path) as f:
                f.write(texts[name])
    # Last: whatever drawing may meet, the numbers are there by then.
    if args.figure:
        figure.draw_report(args.figure, report, [panel for panel in args.panels.split(',') if panel])


def compare_scorings(paths: list[str]):
    """Print the difference of two hellaswag.jsonl. Raises UserError for another number of files."""
    if len(paths) != 2:
        raise UserError(f'{len(paths)} files: two scorings are compared, A/hellaswag.jsonl B/hellaswag.jsonl')
    lines = [paired.read_per_example(path) for path in paths]
    # The difference is second minus first, so the baseline's file comes first.
    difference = paired.compare_lines(*lines, who=' and '.join(paths))
    print(f'{paths[1]} less {paths[0]}: {paired.in_words(difference)}')


def parse_arguments() -> argparse.Namespace:
    """Raises UserError for options that can't be, before anything is read."""
    parser = Parser(description=__doc__)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='run directories, or two hellaswag.jsonl')
    parser.add_argument(
        '--baseline',
        metavar='RUN',
        action='append',
        default=[],
        help='the run to judge by (default: the one of one stage from scratch); may be given again',
    )
    parser.add_argument(
        '--tuned',
        metavar='SETTINGS',
        default=','.join(TUNED),
        help='settings of which the best value counts, joined by commas (default: %(default)s)',
    )
    parser.add_argument(
        '--sigma', metavar='X', type=float, help='the known deviation of the loss between seeds, in nats'
    )
    figure_help = 'draw into FILE (.png, .pdf or .svg)'
    # The shell leaves the ~ of --figure=~/x.png as it is.
    parser.add_argument('--figure', metavar='FILE', type=os.path.expanduser, help=figure_help)
    parser.add_argument(
        '--panels',
        metavar='PANELS',
        default='',
        help=f'panels of the figure, joined by commas: {", ".join(figure.PANELS)}',
    )
    parser.add_argument('--full', action='store_true', help='print the catch-up and all settings, too')
    for name in FORMATS:
        file_help = f'write {name} into FILE, or alone: instead of the tables'
        parser.add_argument(f'--{name}', metavar='FILE', type=os.path.expanduser, help=file_help)
    # '--csv' alone means standard output, and must not swallow the run after it.
    bare = [f'--{name}' for name in FORMATS]
    args = parser.parse_args([f'{arg}=-' if arg in bare else arg for arg in sys.argv[1:]])
    # What can't be is refused before a second's work is done.
    args.tuned = tuple(name for name in args.tuned.split(',') if name)
    for name in args.tuned:
        if name not in FIELDS:
            raise UserError(f'--tuned={name}: no setting is called so')
    # Written as "not between", the test refuses nan as well, which float() accepts.
    if args.sigma is not None and not 0 < args.sigma < math.inf:
        raise UserError(f'--sigma={args.sigma}: must be a positive number of nats')
    # Two formats in one stream are neither.
    if sum(getattr(args, name) == '-' for name in FORMATS) > 1:
        raise UserError(
            'only one of ' + ', '.join(f'--{name}' for name in FORMATS) + ' can go to the standard output; '
            'give the others a file: --csv=FILE'
        )
    figure.check_panels(args.figure, args.panels)
    # Standard output, '-', passes as a name in the current folder.
    for path in [args.figure] + [getattr(args, name) for name in FORMATS]:
        if path and not os.path.isdir(os.path.dirname(path) or '.'):
            raise UserError(f'{path}: there is no folder {os.path.dirname(path)}')
    return args


def print_report(report: Report, full: bool):
    """For the terminal: the tables of runs, what to know before believing a verdict, then the verdicts."""
    print('\n\n'.join(table.text() for table in run_tables(report)))
    # One line each, however long, so that they can be searched.
    for group in report.groups:
        for flag in group.flags:
            print(f'flagged: {group.name}: {flag}')
    for note in caveats(report):
        print(f'\nnote: {note}')
    # Without --full one table of settings: what differs or, if nothing does, what all share.
    for table in verdict_tables(report) + (detail_tables(report) if full else settings_tables(report)[:1]):
        print('\n' + table.text())
    if report.judgments:
        print()
    for sentence in verdicts(report):
        print(sentence)


# ------------------------------------------------------------------------------------------------------------
# for files


def as_markdown(report: Report) -> str:
    """Every table, with what to know before the verdicts, and one sentence a run."""
    # What to know stands before the verdicts, as on the terminal: nobody reads what comes after a number.
    parts = [table.markdown() for table in run_tables(report)]
    notes = [f'- {escaped(note)}' for note in caveats(report)]
    if notes:
        parts.append('\n'.join(notes))
    parts += [table.markdown() for table in verdict_tables(report)]
    sentences = [f'- {escaped(sentence)}' for sentence in verdicts(report)]
    if sentences:
        parts.append('\n'.join(sentences))
    parts += [table.markdown() for table in detail_tables(report)]
    return '\n\n'.join(parts) + '\n'


def as_latex(report: Report) -> str:
    """Every table as a table environment. The document needs booktabs."""
    # The reminder is a LaTeX comment, so that a paper can \input the file as it is.
    return '% needs \\usepackage{booktabs}\n' + '\n\n'.join(table.latex() for table in tables(report)) + '\n'


def rows(report: Report) -> list[dict]:
    """All numbers, unrounded, one row a group; None where there is none."""
    by_group = {id(judgment.group): judgment for judgment in report.judgments}  # names may repeat in a study
    found = []
    for group in report.groups:
        judgment = by_group.get(id(group))
        row = {
            'run': group.name,
            'directories': ' '.join(run.path for run in group.runs),
            'arm': group.arm,
            'budget': group.budget,
            # 0 or 1: a CSV would say True or False in Python's spelling.
            'baseline': int(report.is_baseline(group)),
            'flags': '; '.join(group.flags),
            'schedule': describe(group.config),
            'seeds': len(group.runs),
            'tried': group.tried,
            'best': int(group.is_best),
            **final(group),
        }
        # Baselines, flagged groups and those that lost to a rival have no judgment, but a row.
        row |= {
            'judged_by': judgment.rung.name if judgment else None,
            'p': judgment.p if judgment else None,
            'verdict': judgment.verdict if judgment else None,
            'sees': judgment.sees if judgment else None,
        }
        # Every row has every column: a CSV needs it, and None says that there is no such number.
        for axis in AXES:
            comparison = judgment.by_axis.get(axis) if judgment else None
            row |= {f'{axis}:{key}': value for key, value in comparison_row(comparison).items()}
        found.append({key: without_nan(value) for key, value in row.items()})
    return found


def comparison_row(found: Comparison | None) -> dict:
    """The numbers of a comparison under the names of the CSV's columns."""
    if found is None:
        # A stand-in without numbers, so that the columns are named in one place.
        found = Comparison(
            *[math.nan] * 5, stats.NOTHING, math.nan, math.nan, Ratio(), False, False, math.nan
        )
    # An end that lies beyond the data is no number, though its bound is printed in the tables.
    cost = found.cost
    # In the inverse low and high change places, and so do the open ends.
    multiplier = cost.inverse()
    return {
        'at': found.at,
        'loss': found.loss,
        'baseline_loss': found.baseline_loss,
        'difference': found.difference.value,
        'error': found.difference.se,
        'df': found.difference.df,
        'difference_low': found.difference.low,
        'difference_high': found.difference.high,
        'p': found.difference.p,
        'baseline_needs': found.baseline_needs,
        # Two savings: this one at the run's final loss, the next at the baseline's.
        'saving': 1 - found.end / found.baseline_needs,
        'needs': found.needs,
        'saving_at_baseline_loss': 1 - found.needs / found.baseline_end,
        'cost': cost.value,
        'bound': cost.bound,
        'cost_low': math.nan if cost.low_open else cost.low,
        'cost_high': math.nan if cost.high_open else cost.high,
        'multiplier': multiplier.value,
        'multiplier_low': math.nan if multiplier.low_open else multiplier.low,
        'multiplier_high': math.nan if multiplier.high_open else multiplier.high,
    }


def without_nan(value):
    """None for nan, since JSON has none; numpy's numbers as Python's."""
    if isinstance(value, float):  # numpy's float64 is one, too
        return None if math.isnan(value) else float(value)
    return value


def as_json(report: Report) -> dict:
    """The rows, the ladders, the catch-up, the paired scores and the notes, as plain types."""
    ladders = []
    for ladder in report.ladders:
        law = ladder.reference('flops').law
        # A ladder of too few rungs has no fit; its rungs are written all the same.
        fit = {'E': law.E, 'A': law.A, 'alpha': law.alpha} if law else None
        rungs = [
            {'run': rung.name, 'flops': rung.budget, 'loss': float(rung.finals.mean())}
            for rung in ladder.rungs
        ]
        ladders.append({'arm': ladder.arm, 'rungs': rungs, 'fit': fit})
    scored = [{'run': name, **dataclasses.asdict(pair)} for name, pair in question_pairs(report)]
    return {
        'runs': rows(report),
        'ladders': ladders,
        'catch_up': catch_up_rows(report),
        'hellaswag': scored,
        'notes': caveats(report),
        'verdicts': verdicts(report),
    }


def catch_up_rows(report: Report) -> list[dict]:
    """Every evaluation since the last growth, one row each."""
    found = []
    for judgment in report.judgments:
        for point in catch_up(judgment, report.sigma):
            row = {
                'run': judgment.group.name,
                'arm': judgment.group.arm,
                'budget': judgment.group.budget,
                'step': point.step,
                'tokens_since_growth': point.tokens,
                'full_depth_updates': point.updates,
            }
            for name, estimate in (('at_tokens', point.at_tokens), ('at_updates', point.at_updates)):
                # None where the baseline wasn't trained that long: the columns stay, without numbers.
                estimate = estimate or stats.NOTHING
                row |= {
                    f'gap_{name}': estimate.value,
                    f'gap_{name}_low': estimate.low,
                    f'gap_{name}_high': estimate.high,
                }
            found.append({key: without_nan(value) for key, value in row.items()})
    return found


def as_csv(some_rows: list[dict]) -> str:
    """Rows of equal keys under a header."""
    # All keys are in the first row: see rows().
    text = io.StringIO()
    # The csv module would end lines with \r\n.
    writer = csv.DictWriter(text, some_rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(some_rows)
    return text.getvalue()
