"""
A study's report: report.md, report.csv and report.png from its finished runs. study.py --report writes it.

The numbers are judge.py's, the words report.py's, the drawing figure.py's. Here they become one page that
reads well on a code host: what to know first, what was found, what it rests on, and the commands. Nothing on
it depends on where the runs lie, or when it is made: from the records in results/ it comes out the same. """

import itertools
import os
import shlex

from core.common import UserError, atomic_write
from grid.launch import command_of
from grid.plan import Run, outcome_of, plan_runs, record_of
from grid.study_file import Study
from verdict import figure, report, words
from verdict.old_compare import as_csv, rows
from verdict.old_judge import Report, judge_runs
from verdict.old_runs import run_of_record
from verdict.tables import Table, escaped


def write_report(study: Study):
    """Write the report into the study's folder; into results/ if all that is finished is there.

    Raises UserError if no run of the grid is finished.
    """
    tunings, grid = plan_runs(study)  # with what is finished here or elsewhere
    finished = {}  # folder: run
    for run in grid:
        outcome = outcome_of(study, run)
        if outcome and not outcome.diverged:
            finished[outcome.folder] = run
    if not finished:
        raise UserError(f'{study.out}: no run of the grid is finished yet, so there is nothing to report')
    judged = judge(study, finished)
    # All text is made before any file is written: a mistake leaves the old report whole.
    texts = {'report.csv': as_csv(rows(judged)),
             'report.md': '\n\n'.join(page_parts(study, judged, tunings, grid, finished)) + '\n'}
    target = study.out
    # A report in results/ must not rest on runs that only this machine has.
    if all(folder.startswith(study.results + os.sep) for folder in finished):
        target = study.results
    for name, text in texts.items():
        # One name for both places, so that the page is the same from either.
        for root in (study.out, study.results):
            text = text.replace(root + os.sep, f'out/{study.name}/')
        with atomic_write(os.path.join(target, name)) as f:
            f.write(text)
    panels = figure.study_panels(judged)
    if panels:
        figure.draw_report(os.path.join(target, 'report.png'), judged, panels)
    others = 'report.csv and report.png' if panels else 'report.csv'
    print(f'the report is {os.path.join(target, "report.md")}, with {others}')


def judge(study: Study, finished: dict) -> Report:
    """Every finished run, judged by the baseline of its budget that starts and is trained like it."""
    arms = {folder: run.arm for folder, run in finished.items()}
    # A baseline that has no run yet judges nobody; the others go on.
    baselines = [arm for arm in study.baseline if arm in arms.values()]
    runs = [run_of_record(record_of(study, run, outcome_of(study, run)), folder)
            for folder, run in finished.items()]
    judged = judge_runs(runs, baselines or None, arms)
    # An arm is a group at each budget: the name says which.
    for group in judged.groups:
        budget = finished[group.runs[0].path].budget
        group.name = f'{group.arm}, budget {budget:,}'
    return judged


def page_parts(study: Study, judged: Report, tunings: dict, grid: list[Run], finished: dict) -> list[str]:
    """The page from top to bottom; empty parts are left out."""
    tuned = set()
    for tune in study.tune.values():
        tuned |= tune.keys()
    # That tuned settings differ is no flaw: each arm has its own best.
    notes = words.caveats(judged, tuple(tuned))
    parts = [f'# {study.name}', study.about, count_text(study, grid, finished)]
    parts.append(sharing_text(judged))
    if figure.study_panels(judged):
        parts.append('![final loss and compute multiplier against budget](report.png)')
    if notes:
        # The limits come before the numbers: nobody reads them after.
        parts += ['## What to know first', bullets(notes)]
    parts.append('## What was found')
    parts += as_markdown([report.multiplier_table(judged), *report.budget_tables(judged)])
    parts.append(bullets(words.verdicts(judged)))
    parts += as_markdown([*report.run_tables(judged), report.catch_up_table(judged)])
    parts.append('## What it rests on')
    parts += as_markdown([arms_table(study), tuning_table(study, tunings), *report.settings_tables(judged)])
    parts += ['## Commands', f'All of it is `python study.py {study.path}`. The first run of each arm:']
    parts.append(first_commands(study, grid))
    return [part for part in parts if part]


def as_markdown(tables: list) -> list[str]:
    # A table with nothing to show is None.
    return [table.markdown() for table in tables if table]


def bullets(sentences: list[str]) -> str:
    return '\n'.join(f'- {escaped(sentence)}' for sentence in sentences)


def count_text(study: Study, grid: list[Run], finished: dict) -> str:
    """How much of the grid is there, what is missing, and why some of it failed."""
    n_asked = 0
    for arm, budget in itertools.product(study.arms, study.budgets):
        n_asked += len(study.seeds_at(arm, budget))
    asked = f'Arms: {len(study.arms)}, budgets: {len(study.budgets)}, seeds: {len(study.seeds)}'
    sentences = [f'{asked}; {len(finished)} of {n_asked} runs are finished.',
                 'A budget is the compute of so many full-depth steps.']
    for budget in study.budgets:
        missing = [run for run in grid if run.budget == budget and run not in finished.values()]
        there = [run for run in finished.values() if run.budget == budget]
        if missing and not there:
            sentences.append(f'Nothing is finished at {budget:,}.')
        elif missing:
            sentences.append(f'Missing at {budget:,}: {missing_text(missing)}.')
    known = {run.arm for run in grid}  # an arm whose tuning isn't finished has no runs there
    untuned = [arm for arm in study.arms if arm not in known]
    if untuned:
        sentences.append(f'Not tuned yet: {"; ".join(untuned)}.')
    sentences += [f'{folder} failed: {why}.' for folder, why in study.failed.items()]
    return ' '.join(sentences)


def missing_text(runs: list[Run]) -> str:
    """Runs of one budget: each arm with its seeds."""
    seeds = {}
    for run in runs:
        seeds.setdefault(run.arm, []).append(str(run.seed))
    return '; '.join(f'{arm} (seed {", ".join(numbers)})' for arm, numbers in seeds.items())


def sharing_text(judged: Report) -> str:
    """What shared prefixes have spared, by the ledger and on the clock; '' if no run branched off another."""
    whole = {'flops': 0.0, 'seconds': 0.0}
    spared = {'flops': 0.0, 'seconds': 0.0}
    for group in judged.groups:
        if group.sunk:  # the same runs again, with what made them counted
            continue
        for run in group.runs:
            # A run that didn't branch off has spared nothing.
            branch = run.info.get('branch_from') or {'step': 0}
            for axis in whole:
                whole[axis] += run.records[-1][axis]
                # The log of a branch counts the prefix, too, as if the run had trained it itself.
                spared[axis] += float(run.where(axis, branch['step']))
    if not spared['flops']:
        return ''
    share = {axis: spared[axis] / whole[axis] for axis in whole}
    return (f'Shared prefixes, trained once, spared {share["flops"]:.1%} of the FLOPs of separate runs, and '
            f'{share["seconds"]:.1%} of their training time.')


def arms_table(study: Study) -> Table:
    lines = []
    for arm, text in study.arms.items():
        lines.append([arm, text, 'baseline' if arm in study.baseline else ''])
    settings = ', '.join(f'{name}={value}' for name, value in study.settings.items())
    note = f'All with {", ".join(study.overlays) or "no overlay"}; {settings}.'
    return Table('What the arms are', ['arm', 'configs and flags', ''], lines, left=3, note=note)


def tuning_table(study: Study, tunings: dict) -> Table | None:
    """Every value that was tried, with its loss; None if nothing was."""
    lines = []
    # All of them, the bad ones too: how sharp the best value is, is part of the finding.
    for tuning in tunings.values():
        for run in tuning.runs:
            outcome = outcome_of(study, run)
            loss = 'not finished'
            if outcome:
                loss = 'diverged' if outcome.diverged else f'{outcome.loss:.4f}'
            values = ', '.join(f'{name} {value}' for name, value in run.tuned.items())
            kept = ''
            if run.tuned == tuning.best:
                # A best value at the edge of those tried may not be the best there is.
                kept = f'kept; {tuning.edge}' if tuning.edge else 'kept'
            lines.append([run.arm, values, loss, kept])
    if not lines:
        return None
    seeds = ' and '.join(str(seed) for seed in study.tune_seeds)
    note = f'At a budget of {study.budgets[0]:,} with seed {seeds}, which is judged nowhere.'
    return Table('What was tried', ['arm', 'values', 'val loss', ''], lines, left=4, note=note)


def first_commands(study: Study, grid: list[Run]) -> str:
    """One command of each arm; the other runs differ in steps and seed."""
    commands = {}
    for run in grid:
        if run.arm not in commands:
            commands[run.arm] = shlex.join(command_of(study, run, 'cpu', separate=True))
    return '```\n' + '\n'.join(commands.values()) + '\n```'
