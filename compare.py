"""
Does growing pay? Runs side by side, judged at equal compute.

    python compare.py out/*                                   tables, and the answer in a sentence
    python compare.py out/cpu_growth                          a study's runs, as its page judges them
    python compare.py out/* --baseline=out/baseline_cosine --figure=compare.png --csv=compare.csv
    python compare.py out/* --markdown > report.md            or --latex, --json, --csv; each also takes =FILE
    python compare.py out/* --curves=curves.csv               every evaluation of every run, as one table
    python compare.py a/hellaswag.jsonl b/hellaswag.jsonl     two scorings of the same questions

Runs are run directories, folders of them, or a records.jsonl. Runs that differ in nothing but the seed are
one arm. Every arm is judged by the best baseline of its budget that is trained alike, on the same data and of
the same width. Baselines are the runs of one stage from scratch, or what --baseline=RUN names (again for
more). For a study's runs the study file says which they are, and which questions were declared.

Of each arm is said its loss difference at equal compute, its compute for the same loss (where the baseline
has two budgets or more), and on a declared question (by default on every arm at the largest budget) the
verdict: saves, costs, same or open. verdict/judge.py says how they are found.

A row of --csv is a comparison, with all its numbers. In a script

    rows = pandas.read_csv('curves.csv')
    rows.pivot_table('val_loss', 'flops', 'arm').plot(logx=True)

or verdict.judge.judge_runs(read_runs(paths)).
"""

import argparse
import json
import os
import sys

from core.common import Parser, UserError, atomic_write, read_json, run_main
from core.plot import check_name
from grid import plan
from grid.study_file import HERE
from verdict import figure, paired, report
from verdict.judge import MARGIN, Report, judge_runs
from verdict.runs import read_runs

FORMATS = ('markdown', 'latex', 'json', 'csv')

def main():
    args = parse_arguments()
    # Two scorings need no run directory: any two models on the same questions.
    if all(path.endswith('.jsonl') and os.path.basename(path) != 'records.jsonl' for path in args.runs):
        compare_scorings(args.runs)
        return
    judged = judge(args)
    # All text is made before any file is written: a mistake leaves no half of them.
    makers = {'markdown': report.markdown, 'latex': report.latex, 'json': as_json,
              'csv': lambda judged: report.as_csv(report.rows(judged))}
    texts = {name: makers[name](judged) for name in FORMATS if getattr(args, name)}
    if args.curves:
        texts['curves'] = report.as_csv(report.curve_rows(judged))
    standard = [name for name in texts if getattr(args, name) == '-']
    if standard:
        # Instead of the tables, so that it can be piped into another program.
        sys.stdout.write(texts[standard[0]])
    else:
        print(report.text(judged, args.full))
    for name, text in texts.items():
        if name not in standard:
            with atomic_write(getattr(args, name)) as f:
                f.write(text)
    # Last: whatever drawing may meet, the numbers are there by then.
    if args.figure:
        drawn = figure.draw(args.figure, judged)
        if not drawn:
            raise UserError('--figure: none of these runs has an evaluation yet')
        print(f'drawn: {", ".join(drawn)}', file=sys.stderr)

def judge(args: argparse.Namespace) -> Report:
    """The runs judged: a study's by its study file, others by what they are."""
    study, folders = study_of(args.runs)
    if study and not args.baseline:
        _, grid = plan.plan_runs(study)
        judged = plan.judge(study, [run for run in grid if not folders or run.folder in folders])
        if judged.groups:
            return judged
    # A baseline that is also among the runs is read once.
    return judge_runs(read_runs(args.runs + args.baseline), args.baseline or None, margin=args.margin,
                      sigma=args.sigma)

def study_of(paths: list[str]) -> tuple:
    """(the study whose runs some paths are, which of its runs' folders; [] for all); (None, []) if they are
    none's, or several's."""
    roots, folders, is_whole = set(), [], False
    for path in map(os.path.abspath, paths):
        if os.path.isfile(os.path.join(path, 'config.json')):
            # The folder of a run in a study: STUDY/ARM/RUN.
            root = os.path.dirname(os.path.dirname(path))
            folders.append(os.path.relpath(path, root))
        else:
            root = os.path.dirname(path) if os.path.isfile(path) else path
            is_whole = True
        roots.add(os.path.relpath(root))
    root = roots.pop()
    file = study_file_of(root) if os.path.isdir(root) else ''
    if roots or not file:
        return None, []
    return plan.load_study(file, root), [] if is_whole else folders

def study_file_of(root: str) -> str:
    """The study file whose runs a folder holds, '' if it is no study's."""
    launched = os.path.join(root, 'study.json')
    told = read_json(launched, "a launcher's state").get('study', '') if os.path.isfile(launched) else ''
    shipped = os.path.join(HERE, 'studies', f'{os.path.basename(os.path.abspath(root))}.py')
    return next((path for path in (told, shipped) if os.path.isfile(path)), '')

def compare_scorings(paths: list[str]):
    """Print the difference of two hellaswag.jsonl. Raises UserError for another number of files."""
    if len(paths) != 2:
        raise UserError(f'{len(paths)} files: two scorings are compared, A/hellaswag.jsonl B/hellaswag.jsonl')
    lines = [paired.read_per_example(path) for path in paths]
    # The difference is second minus first, so the baseline's file comes first.
    difference = paired.compare_lines(*lines, who=' and '.join(paths))
    print(f'{paths[1]} less {paths[0]}: {paired.in_words(difference)}')

def as_json(judged: Report) -> str:
    """The rows, the sentences and the notes, as plain types."""
    found = {'comparisons': report.rows(judged), 'notes': judged.notes,
             'verdicts': [report.answer(judged), *report.sentences(judged)]}
    return json.dumps(found, indent=1) + '\n'

def parse_arguments() -> argparse.Namespace:
    """Raises UserError for options that can't be, before anything is read."""
    parser = Parser(description=__doc__)
    parser.add_argument('runs', nargs='+', metavar='RUN', type=os.path.expanduser,
                        help='run directories, or two hellaswag.jsonl')
    parser.add_argument('--baseline', metavar='RUN', type=os.path.expanduser, action='append', default=[],
                        help='a run to judge by (default: those of one stage from scratch); again for more')
    parser.add_argument('--margin', metavar='X', type=float, default=MARGIN,
                        help='costs within 1 +- X are the same (default: %(default)s)')
    parser.add_argument('--sigma', metavar='X', type=float,
                        help='the known deviation of the loss between seeds, in nats; then one will do')
    # The shell leaves the ~ of --figure=~/x.png as it is.
    parser.add_argument('--figure', metavar='FILE', type=os.path.expanduser,
                        help='draw into FILE (.png, .pdf or .svg)')
    parser.add_argument('--curves', metavar='FILE', type=os.path.expanduser,
                        help='write every evaluation of every run into FILE, as CSV')
    parser.add_argument('--full', action='store_true', help='print scores in pairs, too')
    for name in FORMATS:
        file_help = f'write {name} into FILE, or alone: instead of the tables'
        parser.add_argument(f'--{name}', metavar='FILE', type=os.path.expanduser, help=file_help)
    # '--csv' alone means standard output, and must not swallow the run after it.
    bare = [f'--{name}' for name in FORMATS]
    args = parser.parse_args([f'{arg}=-' if arg in bare else arg for arg in sys.argv[1:]])
    for name in ('margin', 'sigma'):
        value = getattr(args, name)
        # Written as "not between", the test refuses nan as well, which float() accepts.
        if value is not None and not 0 < value < float('inf'):
            raise UserError(f'--{name}={value}: must be a positive number')
    if args.figure:
        check_name(args.figure)
    # Two formats in one stream are neither.
    if sum(getattr(args, name) == '-' for name in FORMATS) > 1:
        raise UserError(f'only one of {", ".join(bare)} can go to the standard output; give the others a '
                        'file: --csv=FILE')
    # Standard output, '-', passes as a name in the current folder.
    for path in [args.figure, args.curves] + [getattr(args, name) for name in FORMATS]:
        if path and not os.path.isdir(os.path.dirname(path) or '.'):
            raise UserError(f'{path}: there is no folder {os.path.dirname(path)}')
    return args

if __name__ == '__main__':
    run_main(main)
