"""
A judge.Report as text: what compare.py prints, and the parts of a study's page.

    text(report), markdown(report), latex(report)      all of it
    sentences(report) -> list[str]                     one sentence a comparison

What follows below the line is the report of the judge of before, until the page is made of the new one.

A judge.Report as tables. Nothing is printed here: compare.py prints them, study.py puts them on a page.

    tables(report, full=True) -> list[Table]       all of them; each has .text(), .markdown() and .latex()
    run_tables(report), verdict_tables(report), detail_tables(report)      its three parts
    budget_tables(report) -> list[Table]           per budget: difference, interval, p and verdict of each run
    multiplier_table(report) -> Table | None       compute multiplier by budget, one row an arm
    catch_up_table(report) -> Table | None         gap to the baseline since the last growth
    settings_tables(report) -> list[Table]         what differs between the runs; what they share

The sentences that go with them are in words.py, the numbers for other programs in compare.py.
"""

import math
import os
import time

import numpy as np

from config import FIELDS
from verdict import old_stats as stats
from verdict import paired
from verdict.ladder import FIT_FROM, Ladder
from verdict.old_judge import CatchUp, Judgment, Report, catch_up
from verdict.old_runs import AXES, Group, Run, is_budget
from verdict.tables import Table, escaped
from verdict.words import describe, duration, number, p_value, provenance, ratio, setting, signed, tests

# ----------------------------------------------------------------------------------------------------------
# the report on a verdict.judge.Report


def text(report, full: bool = False) -> str:
    """For a terminal."""
    parts = [table.text() for table in comparison_tables(report)]
    parts += [f'note: {note}' for note in report.notes]
    return '\n\n'.join([*parts, '\n'.join(sentences(report))])


def markdown(report) -> str:
    parts = [table.markdown() for table in comparison_tables(report)]
    for lines in (report.notes, sentences(report)):
        parts.append('\n'.join(f'- {escaped(line)}' for line in lines))
    return '\n\n'.join(part for part in parts if part) + '\n'


def latex(report) -> str:
    tables = [table.latex() for table in comparison_tables(report)]
    return '% needs \\usepackage{booktabs}\n' + '\n\n'.join(tables) + '\n'


def comparison_tables(report) -> list[Table]:
    """The runs, and the comparisons."""
    runs = []
    for group in report.groups:
        last = group.last()
        name = group.name + (' (baseline)' if report.is_baseline(group) else '')
        done = f'{len(group.done)} of {len(group.runs)}' if group.lost else str(len(group.runs))
        loss = number(last['val_loss'], '.4f')
        if last['val_loss_sd'] is not None:
            loss += f' ± {last["val_loss_sd"]:.4f}'
        scores = [number(last[name], '.4f') for name in ('bits', 'acc_norm')]
        costs = [number(last['flops'], '.3g'), duration(last['seconds'])]
        runs.append([name, describe(group.config), done, *costs, loss, *scores])
    header = ['run', 'schedule', 'seeds', 'FLOPs', 'time', 'val loss ± sd', 'bits', 'acc_norm']
    found = [Table('Runs', header, runs, left=2, note='Losses in nats per token, ± sd over the seeds.')]
    lines = []
    for one in report.comparisons:
        p = one.p if one.corrected is None else one.corrected
        lines.append([where(one), one.opponent, one.word or '-', interval(one.cost, '.2f'),
                      interval(one.difference, '+.4f'), p_value(p), one.how])
    if lines:
        note = f'p: corrected for {len(report.declared)} declared questions, of the others uncorrected.'
        header = ['run', 'opponent', 'verdict', 'cost', 'difference', 'p', 'by']
        found.append(Table('At equal compute', header, lines, left=3, note=note))
    return found


def where(one) -> str:
    """An arm with its scale and budget."""
    return one.group.name if one.group else f'{one.arm} at {one.budget:,}'


def interval(one, form: str) -> str:
    """1.18 [1.07, 1.28], '-' without one."""
    if one is None:
        return '-'
    text = format(one.value, form)
    return text if math.isnan(one.low) else f'{text} [{one.low:{form}}, {one.high:{form}}]'


def sentences(report) -> list[str]:
    """One sentence a comparison: the verdict, or why there is none, and what it rests on."""
    found = []
    for one in report.comparisons:
        verdict = one.word or (f'no verdict ({one.why})' if one.why else 'exploration')
        parts = [f'{where(one)}: {verdict}']
        if one.cost:
            parts.append(f"{interval(one.cost, '.2f')} of {one.opponent}'s compute for the same loss")
        if one.difference:
            parts.append(f'{interval(one.difference, "+.4f")} nats beside {one.opponent}')
        if one.caution:
            parts.append(one.caution)
        if one.disagree:
            parts.append(f'{", ".join(one.disagree)} says otherwise')
        found.append('; '.join(parts))
    return found


# ----------------------------------------------------------------------------------------------------------
# of before

# Settings that say nothing about training: places, names, what is logged and kept.
NOT_SHOWN = ('out_dir', 'run_name', 'seed', 'resume', 'match', 'branch_from', 'tracker', 'tracker_project',
             'data_dir', 'log_interval', 'checkpoint_interval', 'keep_checkpoints', 'checkpoint_steps')
CATCH_UP_ROWS = 6  # of each run


def tables(report: Report, full: bool = True) -> list[Table]:
    """All tables of a report; without `full` not the catch-up and the settings."""
    return run_tables(report) + verdict_tables(report) + (detail_tables(report) if full else [])


def label(group: Group, report: Report) -> str:
    """A group's name, and its part in the comparison."""
    if report.is_baseline(group):
        return group.name + ' (baseline)'
    return group.name


def run_tables(report: Report) -> list[Table]:
    """Which runs there are: costs and losses, scores, settings that were tried, runs under way."""
    found = [costs_table(report), scores_table(report), tried_table(report), progress_table(report)]
    return [table for table in found if table]


def costs_table(report: Report) -> Table:
    """One row a group, with its final loss."""
    lines = []
    for group in report.groups:
        last = final(group)
        loss = number(last['val_loss'], '.4f')
        if last['val_loss_sd'] is not None:
            loss += f' ± {last["val_loss_sd"]:.4f}'
        costs = [number(last[name], '.3g') for name in ('tokens', 'flops', 'flops_paper')]
        words = [label(group, report), describe(group.config), str(len(group.runs))]
        lines.append([*words, *costs, duration(last['seconds']), loss])
    header = ['run', 'schedule', 'seeds', 'tokens', 'FLOPs', '(paper)', 'time', 'val loss ± sd']
    note = (
        "Losses in nats per token, ± sd over the seeds; (paper): FLOPs by the paper's ledger; time: of "
        'training alone.'
    )
    return Table('Runs', header, lines, left=2, note=note)


def final(group: Group) -> dict:
    """The last numbers of a group: means over its seeds, sd over the seeds; None where there is none."""
    # All seeds, also those that are not judged because they chose: the row says what was run.
    reached = [curve for curve in group.curves if len(curve)]
    last = {}
    for name in ('tokens', *AXES):
        ends = [getattr(curve, name)[-1] for curve in reached]
        last[name], _ = mean_and_sd(ends)
        if ends:
            # A twin counts the compute that made its checkpoint; its losses are those of its original.
            last[name] += group.sunk.get(name, 0)
    losses = [curve.loss[-1] for curve in reached]
    last['val_loss'], last['val_loss_sd'] = mean_and_sd(losses)
    return last | final_scores(group)


def mean_and_sd(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and sample deviation; None where there are too few values."""
    if not values:
        return None, None
    # One value has no sample deviation: its denominator would be 0.
    if len(values) == 1:
        return float(values[0]), None
    return float(np.mean(values)), float(np.std(values, ddof=1))


def final_scores(group: Group) -> dict:
    """HellaSwag at the end: mean over the seeds, standard error of one scoring, sd over the seeds. None
    unless all seeds are scored at the end."""
    # The log's names and ours. Older runs have the first only.
    names = {'hellaswag_acc_norm': 'acc_norm', 'hellaswag_bits': 'bits', 'hellaswag_margin': 'margin'}
    found = {'hellaswag_n': None}
    for short in names.values():
        found |= {short: None, f'{short}_se': None, f'{short}_sd': None}
    # A score from the middle of one seed is no final score: all of them, or none.
    records = []
    for run in group.runs:
        scores, _ = run.scores()
        if scores and scores[-1]['step'] == run.step:
            records.append(scores[-1])
    if not records or len(records) < len(group.runs):
        return found
    found['hellaswag_n'] = min(record['hellaswag_n'] for record in records)
    for name, short in names.items():
        # A mean over some of the seeds would not compare with the acc_norm beside it.
        if all(name in record for record in records):
            values = [record[name] for record in records]
            found[short], found[f'{short}_sd'] = mean_and_sd(values)
            errors = [record.get(f'{name}_stderr') for record in records]
            # Of one scoring, not of the mean: the questions are the same for all seeds, and so is their
            # noise.
            if None not in errors:
                found[f'{short}_se'] = float(np.mean(errors))
    p = found['acc_norm']
    if found['acc_norm_se'] is None:  # a run from before the errors were logged
        found['acc_norm_se'] = math.sqrt(p * (1 - p) / found['hellaswag_n'])
    return found


def scores_table(report: Report) -> Table | None:
    """HellaSwag of the groups that are scored at their end."""
    scored = [(group, final_scores(group)) for group in report.groups]
    scored = [(group, last) for group, last in scored if last['acc_norm'] is not None]
    if not scored:
        return None
    columns = {'acc_norm': 'acc_norm ± se', 'bits': 'bits/byte ± se', 'margin': 'margin ± se'}
    for name in ('bits', 'margin'):
        if all(last[name] is None for _, last in scored):
            del columns[name]  # runs from before these were logged
    lines = []
    for group, last in scored:
        cells = [label(group, report), str(last['hellaswag_n'])]
        for name in columns:
            cell = number(last[name], '.4f')
            if last[f'{name}_se'] is not None:
                cell += f' ± {last[f"{name}_se"]:.4f}'
            cells.append(cell)
        lines.append([*cells, number(last['acc_norm_sd'], '.4f')])
    note = (
        '± se: standard error of one scoring; sd: over the seeds. bits: of the true ending, less is better.'
    )
    return Table('HellaSwag', ['run', 'questions', *columns.values(), 'acc_norm sd'], lines, note=note)


def tried_table(report: Report) -> Table | None:
    """Each arm and budget of which several tuned settings were tried."""
    lines = []
    for best in report.groups:
        if best.tried < 2 or not best.is_best or best.sunk:
            continue
        # The list of rivals is one object for all of them; a twin with sunk costs holds it, too.
        rivals = [group for group in report.groups if group.rivals is best.rivals and not group.sunk]
        # What was tuned is seen from the runs: --tuned may name more than was.
        differing = [name for name in FIELDS if name not in NOT_SHOWN and differs(name, rivals)]
        # By the loss over all seeds; the best was chosen on the shared ones and may not come first.
        for group in sorted(rivals, key=lambda rival: final(rival)['val_loss']):
            values = [f'{name} {setting(getattr(group.config, name))}' for name in differing]
            choice = f'best of {best.tried}' if group is best else ''
            loss = f'{final(group)["val_loss"]:.4f}'
            lines.append([best.arm, ', '.join(values), str(len(group.runs)), loss, choice])
    if not lines:
        return None
    return Table('Tried settings', ['arm', 'settings', 'seeds', 'val loss, nats', ''], lines, left=2)


def differs(name: str, groups: list[Group]) -> bool:
    return any(getattr(group.config, name) != getattr(groups[0].config, name) for group in groups)


def progress_table(report: Report) -> Table | None:
    """How far the unfinished runs are, and how long they will take."""
    lines = []
    for group in report.groups:
        # An unfinished run is a group of its own, so the first run is the only one.
        run = group.runs[0]
        if run.finished or group.sunk:
            continue
        done, seconds, left = progress(run)
        # A last line that is hours old says that nobody is at work any more.
        idle = '-'
        if run.written:
            idle = duration(max(0.0, time.time() - run.written)) + ' ago'
        steps = f'{run.step} of {run.total_steps}'
        lines.append([group.name, steps, f'{done:.0%}', duration(seconds), duration(left), idle])
    if not lines:
        return None
    header = ['unfinished', 'step', 'of its FLOPs', 'trained', 'left', 'last line']
    return Table('Under way', header, lines, note='left: training time at the speed of its latest lines.')


def progress(run: Run) -> tuple[float, float, float]:
    """(share of its FLOPs that a run has done, seconds trained, seconds left at its latest speed; nan if
    unknown)."""
    # In FLOPs, not steps: half of the steps of a growing run are far less than half of the work.
    total = run.plan.flops()
    if not run.records:
        return 0.0, 0.0, math.nan
    last = run.records[-1]
    done = run.plan.flops(run.step)
    # Late steps are deeper than early ones: FLOPs a second, and of late ones only.
    before = run.records[max(0, len(run.records) - 20)]
    seconds = last['seconds'] - before['seconds']
    recent = done - run.plan.flops(before['step'])
    # With a single line, or lines of one step, there is no speed to go by.
    left = (total - done) * seconds / recent if recent > 0 and seconds > 0 else math.nan
    return done / total, last['seconds'], left


# ----------------------------------------------------------------------------------------------------------
# the verdicts


def verdict_tables(report: Report) -> list[Table]:
    """Each run against its baseline: per budget, on every axis, and the ladder behind it."""
    found = [
        ladder_table(report),
        *budget_tables(report),
        costs_by_axis_table(report),
        multiplier_table(report),
        pairs_table(report),
    ]
    return [table for table in found if table]


def by_budget(report: Report) -> list[list[Judgment]]:
    """Judgments whose runs cost the same, from the cheapest up."""
    # Sorted, equal budgets stand beside each other, each within a permille or so of the next.
    found = []
    for judgment in sorted(report.judgments, key=lambda judgment: judgment.group.budget):
        if found and is_budget(judgment.group, found[-1][0].group):
            found[-1].append(judgment)
        else:
            found.append([judgment])
    return found


def budget_tables(report: Report) -> list[Table]:
    """At equal compute: the loss of each run and its baseline, their difference, p and verdict.

    Of a study one table a budget; else one table, which reads better than many of one row.
    """
    # A reader of one table must know what its p is.
    test = 'z' if report.sigma else "Welch's t"
    n = tests(report)
    note = 'Losses in nats per token.'
    if n:
        note += f' p: {test}, corrected (Holm) for {n} run{"s" if n > 1 else ""}; clear: below .05.'
    header = ['run', 'FLOPs', 'loss', "baseline's", 'difference [95%]', 'p', 'verdict']
    found = []
    for judgments in by_budget(report) if report.study else [report.judgments]:
        if not judgments:
            continue
        title = 'At equal compute'
        if report.study:
            rung = judgments[0].rung
            steps = rung.runs[0].total_steps
            title = f'At {judgments[0].group.budget:.3g} FLOPs, {steps:,} steps of {rung.arm}'
        lines = [verdict_row(judgment, report) for judgment in judgments]
        found.append(Table(title, header, lines, note=note))
    return found


def verdict_row(judgment: Judgment, report: Report) -> list[str]:
    on_flops = judgment.by_axis['flops']
    name = judgment.group.arm if report.study else judgment.group.name  # the title has the budget
    losses = [number(on_flops.loss, '.4f'), number(on_flops.baseline_loss, '.4f')]
    numbers = [number(on_flops.at, '.3g'), *losses]
    verdict = judgment.verdict or 'no verdict'
    return [name, *numbers, signed(on_flops.difference), p_value(judgment.p), verdict]


def costs_by_axis_table(report: Report) -> Table | None:
    """What each run costs for the same loss, by every ledger and the clock."""
    if not report.judgments:
        return None
    lines = []
    for judgment in report.judgments:
        cells = [judgment.group.name, ratio(judgment.by_axis['flops'].cost.inverse())]
        for axis in AXES:
            comparison = judgment.by_axis.get(axis)
            # One interval a row is enough for 100 columns; the CSV has those of all axes.
            cells.append(ratio(comparison.cost, with_interval=False) if comparison else '-')
        lines.append(cells)
    header = ['run', 'multiplier [95%]', 'cost in FLOPs', '(paper)', 'in time']
    note = "cost: the run's compute over the baseline's for the same loss; multiplier: 1 / cost in FLOPs."
    return Table('For the same loss', header, lines, note=note)


def ladder_table(report: Report) -> Table | None:
    """The baselines of several budgets, and the curve through them."""
    lines = []
    notes = []
    for ladder in report.ladders:
        # A single baseline is no ladder: its numbers are in the table of runs.
        if len(ladder.rungs) < 2:
            continue
        # A rung far off the curve says that the curve is not to be trusted there.
        law = ladder.reference('flops').law
        for k, rung in enumerate(ladder.rungs):
            _, sd = mean_and_sd(list(rung.finals))
            off = f'{law.residuals[k]:+.4f}' if law else '-'
            size = [str(rung.runs[0].total_steps), f'{rung.budget:.3g}', str(len(rung.finals))]
            # A rung is the baseline of its own budget: its multiplier is 1, whatever the curve says there.
            lines.append([rung.name, *size, f'{rung.finals.mean():.4f}', number(sd, '.4f'), off, '1.00'])
        notes.append(ladder_note(ladder))
    if not lines:
        return None
    header = ['baseline', 'steps', 'FLOPs', 'seeds', 'loss', 'sd', 'off the curve', 'multiplier']
    return Table('The ladder', header, lines, note='\n'.join(notes))


def ladder_note(ladder: Ladder) -> str:
    """How the ladder is read between its rungs, and how well the curve fits."""
    reference = ladder.reference('flops')
    law = reference.law
    if len(reference.rungs) == 1:
        return f'{ladder.arm}: constant learning rate, read along its longest run.'
    if not law:
        return f'{ladder.arm}: read on straight lines in log compute between its rungs.'
    text = f'{ladder.arm}: loss = {law.E:.4g} + {law.A:.4g} FLOPs^-{law.alpha:.3g}'
    if len(reference.rungs) < FIT_FROM:  # three points say nothing about how well three parameters fit
        return text + ', through its three rungs.'
    p = law.lack_of_fit(np.array([part.variance for part in reference.finals]))
    text += f', off by {np.sqrt(np.mean(law.residuals**2)):.4f} nats (rms)'
    if math.isnan(p):
        return text + '; too few seeds to say whether that is noise.'
    if p < stats.SIGNIFICANT:
        text += f': more than the seeds scatter (lack of fit, p {p_value(p)})'
        return text + '; read multipliers with care.'
    return text + f', no more than the seeds scatter (lack of fit, p {p_value(p)}).'


def multiplier_table(report: Report) -> Table | None:
    """Compute multiplier against budget: does a saving last? None unless an arm has several budgets."""
    by_arm = {}
    # Sorted before they are gathered: each arm's rows run from the cheapest budget up.
    for judgment in sorted(report.judgments, key=lambda judgment: judgment.group.budget):
        by_arm.setdefault(judgment.group.arm, []).append(judgment)
    lines = []
    for arm, judgments in by_arm.items():
        for k, judgment in enumerate(judgments):
            multiplier = ratio(judgment.by_axis['flops'].cost.inverse())
            verdict = judgment.verdict or 'no verdict'
            # An arm is named in its first row only, which shows where the next one begins.
            lines.append([arm if k == 0 else '', f'{judgment.group.budget:.3g}', multiplier, verdict])
    if len(lines) == len(by_arm):  # one budget an arm: nothing to see against
        return None
    header = ['arm', 'FLOPs', 'multiplier [95%]', 'verdict']
    return Table('Does it last? Compute multiplier by budget', header, lines)


# ----------------------------------------------------------------------------------------------------------
# details


def detail_tables(report: Report) -> list[Table]:
    """What belongs into an appendix: the catch-up after growth, and all settings."""
    catch_up_rows = catch_up_table(report)
    return ([catch_up_rows] if catch_up_rows else []) + settings_tables(report)


def catch_up_table(report: Report) -> Table | None:
    """The gap to the baseline since the last growth, at a few evaluations of each run."""
    lines = []
    for judgment in report.judgments:
        points = catch_up(judgment, report.sigma)
        for k, point in enumerate(spread(points, CATCH_UP_ROWS)):
            at_tokens = signed(point.at_tokens) if point.at_tokens else '-'
            at_updates = signed(point.at_updates) if point.at_updates else '-'
            name = judgment.group.name if k == 0 else ''
            lines.append([name, f'{point.tokens:.3g}', at_tokens, str(point.updates), at_updates])
    if not lines:
        return None
    header = ['run', 'tokens', 'gap at equal tokens', 'updates', 'gap at equal updates']
    note = (
        'tokens: since the last growth; updates: of the full depth, nothing frozen; gap: the loss of the run '
        "minus the baseline's, in nats [95%]. At equal tokens it says when the growth has mixed, at equal "
        'updates when the head start is gone.'
    )
    return Table('Catching up after the last growth', header, lines, note=note)


def spread(points: list[CatchUp], n: int) -> list[CatchUp]:
    """At most n of some points: the first, the last, and between them by equal ratios of what came since."""
    if len(points) <= n:
        return points
    # The gap changes fast at first and slowly later.
    places = np.round(np.geomspace(1, len(points), n)).astype(int)
    return [points[place - 1] for place in np.unique(places)]


def question_pairs(report: Report) -> list[tuple[str, paired.Difference]]:
    """(name, run minus baseline) on the same questions, one pair a seed: the seeds that both have, else the
    first of each. Pairs that weren't scored on the same questions are left out."""
    pairs = []
    for judgment in report.judgments:
        mine = question_files(judgment.group)
        theirs = question_files(judgment.rung)
        # One seed's data order and noise on both sides, where there is such a pair.
        matched = [(theirs[seed], mine[seed], f', seed {seed}') for seed in mine if seed in theirs]
        # Any pair will do then: what is compared are two models, not two schedules.
        if not matched and mine and theirs:
            first_of_mine = next(iter(mine.values()))
            matched = [(next(iter(theirs.values())), first_of_mine, '')]
        for baseline, run, which in matched:
            lines = [paired.read_per_example(path) for path in (baseline, run)]
            # compare_lines raises for other questions, and would end the whole report over one pair.
            if questions_of(lines[0]) == questions_of(lines[1]):
                pairs.append((judgment.group.name + which, paired.compare_lines(*lines)))
    return pairs


def questions_of(lines: list[dict]) -> list[tuple]:
    """Which questions a scoring is of, in order."""
    return [(line['ind'], line['label']) for line in lines]


def question_files(group: Group) -> dict[int, str]:
    """The hellaswag.jsonl of each seed that has one."""
    files = {}
    for run in group.runs:
        path = os.path.join(run.path, 'hellaswag.jsonl')
        if os.path.exists(path):
            files[run.config.seed] = path
    return files


def pairs_table(report: Report) -> Table | None:
    """Paired differences on HellaSwag, run minus baseline."""
    lines = []
    for name, pair in question_pairs(report):
        cells = [name, str(pair.n)]
        for value, error in ((pair.bits, pair.bits_stderr), (pair.margin, pair.margin_stderr)):
            cells.append(f'{value:+.4f} ± {number(error, ".4f")}')
        # McNemar's test counts only the questions that one side alone gets right.
        only = f'{pair.acc_norm_only_second}:{pair.acc_norm_only_first}'  # the run is the second
        lines.append([*cells, f'{pair.acc_norm:+.4f}', only, p_value(pair.acc_norm_p)])
    if not lines:
        return None
    header = ['run', 'questions', 'bits/byte ± se', 'margin ± se', 'acc_norm', 'only one right', 'p']
    note = (
        "Run minus baseline on the same questions; p: McNemar's exact test of acc_norm. Two models are "
        "compared here, not two schedules: the noise of the seeds isn't in it."
    )
    return Table('HellaSwag, question by question', header, lines, note=note)


def facts(run: Run) -> dict[str, str]:
    """What a run was: its settings, and what run.json says of code, versions and machine."""
    found = {}
    for name in FIELDS:
        if name not in NOT_SHOWN:
            found[name] = setting(getattr(run.config, name))
    return found | provenance(run)


def settings_tables(report: Report) -> list[Table]:
    """(what differs between the runs, what all share): together everything that is known of them."""
    by_fact = {}  # fact: value: names of the groups that have it
    count = 0
    for group in report.groups:
        if group.sunk:
            continue  # a twin: the same runs again
        # Every run, not every group: machine and versions may differ between seeds.
        for run in group.runs:
            count += 1
            for name, value in facts(run).items():
                owners = by_fact.setdefault(name, {}).setdefault(value, [])
                if group.name not in owners:
                    owners.append(group.name)
    differing = []
    shared = []
    for name, values in by_fact.items():
        if len(values) == 1:
            shared.append([name, next(iter(values))])
            continue
        for k, (value, owners) in enumerate(values.items()):
            # An empty cell would read as a missing value.
            differing.append([name if k == 0 else '', value or "''", ', '.join(owners)])
    found = []
    if differing:
        found.append(Table('What differs', ['setting', 'value', 'runs'], differing, left=3))
    title = 'What all runs share' if count > 1 else 'Settings'
    found.append(Table(title, ['setting', 'value'], shared, left=2))
    return found
