"""
A study's report: report.md, report.csv and report.png from its finished runs. study.py --report writes it.

The words and numbers are report.py's, the verdicts judge.py's, the drawing figure.py's; here they become one page that
reads well on a code host: what to know first, what was found, what it rests on, how to repeat it.
"""

import os
import shlex

import figure
import report
import words
from common import UserError, atomic_write
from compare import as_csv, rows
from grid import Run, Study, all_tuning_runs, final_loss, finished_folder, plan_runs
from judge import judge_runs
from launch import command_of
from runs import read_runs
from tables import Table, escaped


def write_report(study: Study):
    """report.md, report.csv and report.png from the finished runs, into the study's folder; into results/ if all of them
    are there. Nothing in it depends on where the runs lie. Raises UserError if none is finished."""
    tunings, grid = plan_runs(study)
    finished = {}  # folder: run
    for run in grid:
        folder = finished_folder(study, run)
        if folder:
            finished[folder] = run
    if not finished:
        raise UserError(f'{study.out}: no run of the grid is finished yet, so there is nothing to report')
    arms = {folder: run.arm for folder, run in finished.items()}
    baselines = [arm for arm in study.baseline if arm in arms.values()]
    judged = judge_runs(read_runs(list(finished)), baselines or None, arms)
    for group in judged.groups:
        group.name = f'{group.arm}, budget {finished[group.runs[0].path].budget:,}'
    texts = {'report.csv': as_csv(rows(judged)), 'report.md': report_page(study, judged, tunings, grid, finished)}
    target = study.out
    if all(folder.startswith(study.results) for folder in finished):
        target = study.results
    for name, text in texts.items():
        for root in (study.out, study.results):
            text = text.replace(root + os.sep, f'out/{study.name}/')
        with atomic_write(os.path.join(target, name)) as f:
            f.write(text)
    figure.draw_study(os.path.join(target, 'report.png'), judged)
    print(f'the report is {os.path.join(target, "report.md")}, with report.csv and report.png')


def report_page(study: Study, judged, tunings: dict, grid: list[Run], finished: dict) -> str:
    """What was found, then what it rests on."""
    with open(study.path, encoding='utf-8') as f:
        intro = f.readline()
    missing = [run for run in grid if run not in finished.values()]
    parts = [f'# {study.name}', intro[1:].strip() if intro.startswith('#') else '']
    asked = len(study.arms) * len(study.budgets) * len(study.seeds)
    parts.append(f'{len(study.arms)} arms, {len(study.budgets)} budgets, {len(study.seeds)} seeds: {len(finished)} of '
                 f'{asked} runs are finished. A budget is the compute of so many full-depth steps.' +
                 missing_text(study, missing))
    parts.append('![final loss and compute multiplier against budget](report.png)')
    tuned = {name for tune in study.tune.values() for name in tune}
    notes = words.caveats(judged, tuple(tuned))
    if notes:
        parts += ['## What to know first', bullets(notes)]
    parts.append('## What was found')
    tables = [report.multiplier_table(judged), *report.budget_tables(judged)]
    parts += [table.markdown() for table in tables if table]
    parts.append(bullets(words.verdicts(judged)))
    tables = [*report.run_tables(judged), report.catch_up_table(judged)]
    parts += [table.markdown() for table in tables if table]
    parts += ['## What it rests on', arms_table(study).markdown()]
    if all_tuning_runs(tunings):
        parts.append(tuning_table(study, tunings).markdown())
    parts += [table.markdown() for table in report.settings_tables(judged)]
    parts += ['## Commands', f'All of it is `python study.py {study.path}`. The first run of each arm:']
    firsts = {}
    for run in grid:
        firsts.setdefault(run.arm, shlex.join(command_of(study, run, 'cpu', '', separate=True)))
    parts.append('```\n' + '\n'.join(firsts.values()) + '\n```')
    return '\n\n'.join(part for part in parts if part) + '\n'


def missing_text(study: Study, missing: list[Run]) -> str:
    """Which runs aren't there, by arm and budget, and why some failed."""
    by_cell = {}
    for run in missing:
        by_cell.setdefault(f'{run.arm} at {run.budget}', []).append(str(run.seed))
    if not by_cell:
        return ''
    cells = [f'{cell} (seed {", ".join(seeds)})' for cell, seeds in by_cell.items()]
    failed = [f'{folder} failed: {why}.' for folder, why in study.failed.items()]
    return ' ' + ' '.join([f'Missing: {"; ".join(cells)}.', *failed])


def bullets(sentences: list[str]) -> str:
    return '\n'.join(f'- {escaped(sentence)}' for sentence in sentences)


def tuning_table(study: Study, tunings: dict) -> Table:
    """Every value that was tried, with its loss."""
    lines = []
    for arm, tuning in tunings.items():
        for run in tuning.runs:
            values = ', '.join(f'{name} {value}' for name, value in run.tuned.items())
            loss = final_loss(study, run)
            kept = ('kept' + (f'; {tuning.edge}' if tuning.edge else '')) if run is tuning.best else ''
            lines.append([arm, values, 'not finished' if loss is None else f'{loss:.4f}', kept])
    note = f'At {study.budgets[0]} steps with seed {study.tune_seed}, which is judged nowhere else.'
    return Table('What was tried', ['arm', 'values', 'val loss', ''], lines, left=4, note=note)


def arms_table(study: Study) -> Table:
    lines = [[arm, text, '' if arm not in study.baseline else 'baseline'] for arm, text in study.arms.items()]
    settings = ', '.join(f'{name}={value}' for name, value in study.settings.items())
    note = f'All with {", ".join(study.overlays) or "no overlay"}; {settings}.'
    return Table('What the arms are', ['arm', 'configs and flags', ''], lines, left=3, note=note)
