"""
A study's report: report.md, report.csv and its figures from its finished runs. study.py --report writes it.

The numbers are judge.py's, the words report.py's, the drawing figure.py's. Here they become one page that
reads well on a code host: the question, its answer, the pictures, what to know, the tables, the commands.
Nothing on it depends on where the runs lie, or when it is made: from results/ it comes out the same. """

import itertools
import os
import re
import shlex

from core.common import UserError, atomic_write
from grid.launch import command_of
from grid.plan import Run, budget_of, judge, outcome_of, plan_runs
from grid.study_file import Study
from verdict import figure, report
from verdict.judge import Report
from verdict.report import Table, bullets, escaped
from verdict.runs import place_text

ALT_TEXTS = {'report': 'what each arm needs for the same loss',
             'report_losses': 'loss against compute, by arm',
             'report_catch_up': 'gap to the opponent since the last growth',
             'report_trend': 'cost against size, predicted and measured'}

def write_report(study: Study):
    """Write the report into the study's folder; into results/ if all that is finished is there.

    Raises UserError if no run of the grid is over. """
    tunings, grid = plan_runs(study)  # with what is finished here or elsewhere
    outcomes = {run: outcome_of(study, run) for run in grid}
    finished = [run for run in grid if outcomes[run]]
    if not finished:
        raise UserError(f'{study.out}: no run of the grid is finished yet, so there is nothing to report')
    judged = judge(study, finished)
    # What is held out is predicted once all the others are over, so that no prediction is half of one.
    all_over = all(outcomes[run] or run.scale in study.held_out for run in grid)
    may_predict = all_over and not untuned(study, tunings, grid)
    trends = trends_of(study, judged) if may_predict else []
    # A report in results/ must not rest on runs that only this machine has.
    is_here = any(outcomes[run].is_here for run in finished)
    target = study.out if is_here else study.results
    csv = report.as_csv(report.rows(judged, trends))
    drawn = figure.draw(os.path.join(target, 'report.png'), judged, trends)
    names = [os.path.basename(path) for path in drawn]
    page = page_parts(study, judged, trends, may_predict, names)
    page += basis_parts(study, judged, tunings, grid, finished)
    texts = {os.path.join(target, 'report.csv'): csv,
             os.path.join(target, 'report.md'): '\n\n'.join(part for part in page if part) + '\n'}
    for path, text in texts.items():
        with atomic_write(path) as f:
            # One name wherever the runs lie, so that the page is the same from there and from results/.
            for root in (study.out, escaped(study.out)):
                text = text.replace(root + os.sep, f'out/{study.name}/')
            f.write(text)
    print(f'the report is {os.path.join(target, "report.md")}, with report.csv and {len(drawn)} figures')

def untuned(study: Study, tunings: dict, grid: list[Run]) -> list[tuple]:
    """The places, but for what is held out, that have no runs yet since their tuning isn't finished."""
    known = {run.place for run in grid}
    found = []
    for arm, (scale, budget) in itertools.product(study.arms, study.cells):
        place = (arm, scale, budget)
        if place in known or scale in study.held_out or not study.seeds_at(arm, budget, scale):
            continue
        cell = study.tuned_like(arm, scale, budget)
        tuned_runs = tunings[(arm, *cell)].runs if cell else []
        # Where all values diverge the tuning is over, and there will be no runs.
        if not tuned_runs or any(outcome_of(study, run) is None for run in tuned_runs):
            found.append(place)
    return found

def trends_of(study: Study, judged: Report) -> list[report.Trend]:
    """How costs go with size, in a study of several scales."""
    if not study.is_ladder:
        return []
    sizes = {scale: budget_of(study, scale, study.budgets[0])[0] for scale in study.scales}
    coming = []
    for arm, (scale, budget) in itertools.product(study.arms, study.cells):
        if scale in study.held_out and study.seeds_at(arm, budget, scale):
            coming.append((arm, scale, budget))
    return report.trends(judged, sizes, study.held_out, coming)

def page_parts(study: Study, judged: Report, trends: list, may_predict: bool, drawn: list) -> list[str]:
    """The question, its answer, the pictures, what to know first, and what was found."""
    # A study's comment begins with its question.
    question, mark, rest = study.about.partition('?')
    title = question + mark if mark else study.name
    parts = [f'# {title}', f'**{escaped(report.answer(judged))}**', (rest if mark else study.about).strip(),
             escaped(report.counts(judged))]
    parts += [f'![{ALT_TEXTS[os.path.splitext(name)[0]]}]({name})' for name in drawn]
    if study.held_out and may_predict:
        parts += ['## Prediction', '' if trends else 'No arm has a cost at four cells: nothing is predicted.']
        parts += [table.markdown() for table in report.trend_tables(trends)]
    # The limits come before the numbers: nobody reads them after.
    limits = report.sentences(judged)
    if judged.notes or limits:
        parts += ['## What to know first', bullets([*limits, *judged.notes])]
    parts.append('## What was found')
    parts += [table.markdown() for table in report.verdict_tables(judged)]
    if not study.held_out:
        parts += [table.markdown() for table in report.trend_tables(trends)]
    return parts

def basis_parts(study: Study, judged: Report, tunings: dict, grid: list[Run], finished: list) -> list[str]:
    """What the page rests on: the runs, the arms, their tuning, settings, commands."""
    tables = report.run_tables(judged) + [arms_table(study), tuning_table(study, tunings)]
    return ['## What it rests on', count_text(study, tunings, grid, finished), sharing_text(judged),
            *(table.markdown() for table in tables if table),
            '## Commands', f'All of it is `python study.py {study.path}`. The first run of each arm:',
            first_commands(study, grid)]

def count_text(study: Study, tunings: dict, grid: list[Run], finished: list[Run]) -> str:
    """How much of the grid is there, what is missing, and why some of it failed."""
    n_asked = 0
    for arm, (scale, budget) in itertools.product(study.arms, study.cells):
        n_asked += len(study.seeds_at(arm, budget, scale))
    n_asked = max(n_asked, len(grid))  # open questions ask for more seeds
    what = 'tokens a parameter of full depth' if study.is_ladder else 'full-depth steps'
    sentences = [f'{len(finished)} of {n_asked} runs are finished.',
                 f'A budget is the compute of so many {what}.']
    missing = {}
    for run in grid:
        if run not in finished:
            missing.setdefault(place_text(*run.place), []).append(str(run.seed))
    sentences += [f'Missing: {place}, seed {", ".join(seeds)}.' for place, seeds in missing.items()]
    by_cell = {}
    for arm, scale, budget in untuned(study, tunings, grid):
        by_cell.setdefault(f'{scale} at {budget:,}'.strip(), []).append(arm)
    for cell, arms in by_cell.items():
        names = 'all' if len(arms) == len(study.arms) else '; '.join(arms)
        sentences.append(f'Not tuned yet, {cell}: {names}.')
    sentences += [f'{folder} failed: {why}.' for folder, why in study.failed.items()]
    return escaped(' '.join(sentences))

def sharing_text(judged: Report) -> str:
    """What shared prefixes have spared by the ledger; '' if no run branched off another."""
    whole = spared = 0.0
    for run in itertools.chain(*(group.runs for group in judged.groups)):
        # The log of a branch counts the prefix, too, as if the run had trained it itself.
        branch = run.info.get('branch_from') or {'step': 0}
        whole += run.plan.flops(run.step)
        spared += run.plan.flops(branch['step'])
    share = spared / whole if whole else 0
    return f'Shared prefixes spared {share:.1%} of the FLOPs of separate runs.' if spared else ''

def arms_table(study: Study) -> Table:
    rows = []
    for arm, text in study.arms.items():
        kind = 'baseline' if arm in study.baseline else ''
        rows.append({'arm': arm, 'configs and flags': text, '': kind})
    for scale, text in study.scales.items():
        if scale:
            kind = 'held out' if scale in study.held_out else 'scale'
            rows.append({'arm': scale, 'configs and flags': text, '': kind})
    settings = ', '.join(f'{name}={value}' for name, value in study.settings.items())
    note = f'All with {", ".join(study.overlays) or "no overlay"}; {settings}.'
    return Table('What the arms are', rows, 'lll', note)

def tuning_table(study: Study, tunings: dict) -> Table | None:
    """Every value that was tried, with its loss; None if nothing was."""
    rows = []
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
            rows.append({'arm': place_text(*run.place), 'values': values, 'seed': str(run.seed),
                         'val loss': loss, '': kept})
    if not rows:
        return None
    note = 'The seeds of tuning judge nothing.'
    return Table('What was tried', rows, 'llrrl', note)

def first_commands(study: Study, grid: list[Run]) -> str:
    """One command of each arm; the other runs differ in size, steps and seed."""
    commands = {}
    for run in grid:
        if run.arm not in commands:
            # A line break in a name would end the command.
            command = re.sub(r'\s+', ' ', shlex.join(command_of(study, run, 'cpu', separate=True)))
            commands[run.arm] = command
    return '```\n' + '\n'.join(commands.values()) + '\n```'
