"""
A Report of judge.judge_runs in words: tables, one sentence a run, what to know before believing it, rows for a CSV.
Nothing is printed here. compare.py prints it, study.py puts it on a page.

    tables(report, full=True) -> list[Table]       all of them; each has .text(), .markdown() and .latex()
    budget_tables(report) -> list[Table]           per budget: difference, interval, p and verdict of each run
    multiplier_table(report) -> Table | None       compute multiplier by budget, one row an arm
    catch_up_table(report) -> Table | None         gap to the baseline since the last growth
    settings_tables(report) -> list[Table]         what differs between the runs; what they share
    verdicts(report), caveats(report) -> list[str]
    rows(report) -> list[dict], as_json(report) -> dict
"""

import dataclasses
import itertools
import math
import os
import time

import numpy as np

import paired
import schedule
import stats
from config import FIELDS, TrainConfig
from judge import FIT_FROM, CatchUp, Comparison, Judgment, Ladder, Ratio, Report, catch_up, gone_from
from runs import AXES, SHAPE, TUNED, Group, Run, is_budget
from tables import Table

AXIS_NAMES = {'flops': 'FLOPs', 'flops_paper': 'FLOPs (paper)', 'seconds': 'training time'}
# Settings that say nothing about training: places, names, what is logged and kept.
NOT_SHOWN = ('out_dir', 'run_name', 'seed', 'resume', 'match', 'branch_from', 'wandb_project', 'tracker', 'data_dir',
             'log_interval', 'checkpoint_interval', 'keep_checkpoints', 'checkpoint_steps')
CATCH_UP_ROWS = 6  # of each run


# ---------------------------------------------------------------------------------------------------------------------
# numbers and names as text


def number(value: float, form: str, missing: str = '-') -> str:
    """A number in a format; `missing` for None and nan."""
    return missing if value is None or math.isnan(value) else format(value, form)


def signed(estimate: stats.Estimate) -> str:
    """+0.0123 [+0.0050, +0.0196]: a difference and its interval, where there is one."""
    text = number(estimate.value, '+.4f')
    return text if math.isnan(estimate.low) else f'{text} [{estimate.low:+.4f}, {estimate.high:+.4f}]'


def ratio(value: Ratio) -> str:
    """1.18 [1.07, 1.28]; >1.28 and <1.07 where the interval goes on beyond the data."""
    if math.isnan(value.value):
        return '-'
    text = f'{value.bound} {value.value:.2f}'.strip()
    if math.isnan(value.low):
        return text
    low = '<' if value.low_open else ''
    high = '>' if value.high_open else ''
    return f'{text} [{low}{value.low:.2f}, {high}{value.high:.2f}]'


def duration(seconds: float) -> str:
    """A time with the unit that suits it."""
    if seconds is None or math.isnan(seconds):
        return '-'
    if seconds < 120:
        return f'{seconds:.0f} s'
    if seconds < 7200:
        return f'{seconds / 60:.1f} min'
    return f'{seconds / 3600:.1f} h'


def p_value(p: float) -> str:
    if p is None or math.isnan(p):
        return '-'
    return '<.0001' if p < 1e-4 else f'{p:.2g}'


def setting(value) -> str:
    """The value of a setting as text: a tuple without its brackets."""
    if type(value) in (tuple, list):
        return '/'.join(setting(item) for item in value)
    return str(value)


def describe(config: TrainConfig) -> str:
    """The schedule in a few words: depths, and what differs from random layers, freezing, constant AdamW."""
    phases = schedule.plan(config)
    depths = [config.init_depth] if config.init_depth else []
    depths += [phase.depth for phase in phases]
    steps = [str(depth) for depth, _ in itertools.groupby(depths)]
    if len(steps) > 8:
        steps = [*steps[:2], '..', steps[-1]]
    words = ['-'.join(steps)]
    if len(steps) == 1:
        words[0] += ' layers'
    else:
        words += describe_growth(config, any(phase.frozen for phase in phases))
    if config.lr_schedule != 'constant':
        words.append(config.lr_schedule)
    if config.optimizer != 'adamw':
        words.append(config.optimizer)
    return ' '.join(words)


def describe_growth(config: TrainConfig, freezes: bool) -> list[str]:
    words = []
    if not freezes:
        words.append('unfrozen')
    elif config.phase1_embeddings != 'input_frozen':
        words.append(config.phase1_embeddings)
    if getattr(config, 'grow_map', ()):
        words.append('by map')
    elif config.grow_init != 'random':
        words.append(setting(config.grow_init))
    if config.grow_optimizer != 'keep':
        words.append(f'moments {config.grow_optimizer}')
    return words


def label(group: Group, report: Report) -> str:
    """A group's name, and its part in the comparison."""
    if report.is_baseline(group):
        return group.name + ' (baseline)'
    return group.name


# ---------------------------------------------------------------------------------------------------------------------
# the runs


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
        lines.append([label(group, report), describe(group.config), str(len(group.runs)), number(last['tokens'], '.3g'),
                      number(last['flops'], '.3g'), number(last['flops_paper'], '.3g'), duration(last['seconds']), loss])
    header = ['run', 'schedule', 'seeds', 'tokens', 'FLOPs', '(paper)', 'time', 'val loss ± sd']
    note = 'Losses in nats per token, ± sd over the seeds; (paper): FLOPs by the paper\'s ledger; time: of training alone.'
    return Table('Runs', header, lines, left=2, note=note)


def final(group: Group) -> dict:
    """The last numbers of a group: means over its seeds, sd over the seeds; None where there is none."""
    reached = [curve for curve in group.curves if len(curve)]
    last = {}
    for name in ('tokens', *AXES):
        values = [getattr(curve, name)[-1] for curve in reached]
        last[name] = float(np.mean(values)) + group.sunk.get(name, 0) if values else None
    losses = [curve.loss[-1] for curve in reached]
    last['val_loss'] = float(np.mean(losses)) if losses else None
    last['val_loss_sd'] = float(np.std(losses, ddof=1)) if len(losses) > 1 else None
    return last | final_scores(group)


def final_scores(group: Group) -> dict:
    """HellaSwag at the end: mean over the seeds, standard error of one scoring, sd over the seeds. None unless all seeds
    are scored at the end."""
    names = {'hellaswag_acc_norm': 'acc_norm', 'hellaswag_bits': 'bits', 'hellaswag_margin': 'margin'}
    found = {'hellaswag_n': None}
    for short in names.values():
        found |= {short: None, f'{short}_se': None, f'{short}_sd': None}
    records = []
    for run in group.runs:
        scores, _ = run.scores()
        if scores and scores[-1]['step'] == run.step:
            records.append(scores[-1])
    if not records or len(records) < len(group.runs):
        return found
    found['hellaswag_n'] = min(record['hellaswag_n'] for record in records)
    for name, short in names.items():
        if all(name in record for record in records):
            values = [record[name] for record in records]
            found[short] = float(np.mean(values))
            found[f'{short}_sd'] = float(np.std(values, ddof=1)) if len(values) > 1 else None
            errors = [record.get(f'{name}_stderr') for record in records]
            if None not in errors:
                found[f'{short}_se'] = float(np.mean(errors))
    p = found['acc_norm']
    if found['acc_norm_se'] is None:
        found['acc_norm_se'] = math.sqrt(p * (1 - p) / found['hellaswag_n'])
    return found


def scores_table(report: Report) -> Table | None:
    """HellaSwag of the groups that are scored at their end."""
    lines = []
    for group in report.groups:
        last = final_scores(group)
        if last['acc_norm'] is None:
            continue
        cells = [label(group, report), str(last['hellaswag_n'])]
        for name in ('acc_norm', 'bits', 'margin'):
            cell = number(last[name], '.4f')
            if last[f'{name}_se'] is not None:
                cell += f' ± {last[f"{name}_se"]:.4f}'
            cells.append(cell)
        cells.append(number(last['acc_norm_sd'], '.4f'))
        lines.append(cells)
    if not lines:
        return None
    header = ['run', 'questions', 'acc_norm ± se', 'bits/byte ± se', 'margin ± se', 'acc_norm sd']
    note = '± se: standard error of one scoring; sd: over the seeds. bits: of the true ending, less is better.'
    return Table('HellaSwag', header, lines, note=note)


def tried_table(report: Report) -> Table | None:
    """Each arm and budget of which several tuned settings were tried."""
    lines = []
    for best in report.groups:
        if best.tried < 2 or not best.is_best or best.sunk:
            continue
        rivals = [group for group in report.groups if group.rivals is best.rivals and not group.sunk]
        differing = [name for name in FIELDS if name not in NOT_SHOWN and differs(name, rivals)]
        for group in sorted(rivals, key=lambda rival: final(rival)['val_loss']):
            values = [f'{name} {setting(getattr(group.config, name))}' for name in differing]
            choice = f'best of {best.tried}' if group is best else ''
            lines.append([best.arm, ', '.join(values), str(len(group.runs)), f'{final(group)["val_loss"]:.4f}', choice])
    if not lines:
        return None
    return Table('Tried settings', ['arm', 'settings', 'seeds', 'val loss, nats', ''], lines, left=2)


def differs(name: str, groups: list[Group]) -> bool:
    return any(getattr(group.config, name) != getattr(groups[0].config, name) for group in groups)


def progress_table(report: Report) -> Table | None:
    """How far the unfinished runs are, and how long they will take."""
    lines = []
    for group in report.groups:
        run = group.runs[0]
        if run.finished or group.sunk:
            continue
        done, seconds, left = progress(run)
        idle = duration(max(0.0, time.time() - run.written)) + ' ago' if run.written else '-'
        lines.append([group.name, f'{run.step} of {run.total_steps}', f'{done:.0%}', duration(seconds), duration(left), idle])
    if not lines:
        return None
    header = ['unfinished', 'step', 'of its FLOPs', 'trained', 'left', 'last line']
    return Table('Under way', header, lines, note='left: training time at the speed of its latest lines.')


def progress(run: Run) -> tuple[float, float, float]:
    """(share of its FLOPs that a run has done, seconds trained, seconds left at its latest speed; nan if unknown)."""
    total = schedule.compute(run.config, run.phases, 'flops')
    if not run.records:
        return 0.0, 0.0, math.nan
    last = run.records[-1]
    done = schedule.compute(run.config, run.phases, 'flops', run.step)
    # Late steps are deeper than early ones: FLOPs a second, and of late ones only.
    before = run.records[max(0, len(run.records) - 20)]
    seconds = last['seconds'] - before['seconds']
    recent = done - schedule.compute(run.config, run.phases, 'flops', before['step'])
    left = (total - done) * seconds / recent if recent > 0 and seconds > 0 else math.nan
    return done / total, last['seconds'], left


# ---------------------------------------------------------------------------------------------------------------------
# the verdicts


def verdict_tables(report: Report) -> list[Table]:
    """Each run against its baseline: per budget, on every axis, and the ladder behind it."""
    found = [ladder_table(report), *budget_tables(report), costs_by_axis_table(report), multiplier_table(report),
             pairs_table(report)]
    return [table for table in found if table]


def by_budget(report: Report) -> list[list[Judgment]]:
    """Judgments whose runs cost the same, from the cheapest up."""
    found = []
    for judgment in sorted(report.judgments, key=lambda judgment: judgment.group.budget):
        if found and is_budget(judgment.group, found[-1][0].group):
            found[-1].append(judgment)
        else:
            found.append([judgment])
    return found


def budget_tables(report: Report) -> list[Table]:
    """At equal compute: the loss of each run and its baseline, difference, interval, p and verdict; a table a budget."""
    budgets = by_budget(report)
    if not report.study and len(budgets) > 1:
        budgets = [report.judgments]  # one table reads better than many of one row
    found = []
    for judgments in budgets:
        lines = []
        for judgment in judgments:
            on_flops = judgment.by_axis['flops']
            lines.append([judgment.group.name, number(on_flops.at, '.3e'), number(on_flops.loss, '.4f'),
                          number(on_flops.baseline_loss, '.4f'), signed(on_flops.difference), p_value(judgment.p),
                          judgment.verdict or 'no verdict'])
        header = ['run', 'FLOPs', 'loss', "baseline's", 'difference [95%]', 'p', 'verdict']
        title = f'At {judgments[0].group.budget:.3e} FLOPs' if report.study else 'At equal compute'
        test = 'z' if report.sigma else "Welch's t"
        note = f'Losses in nats per token. p: {test}, corrected (Holm) for {tests(report)} runs; clear: below .05.'
        found.append(Table(title, header, lines, note=note))
    return found


def tests(report: Report) -> int:
    """Size of the family that Holm corrects for."""
    return sum(1 for judgment in report.judgments if not math.isnan(judgment.p))


def costs_by_axis_table(report: Report) -> Table | None:
    """What each run costs for the same loss, by every ledger and the clock."""
    if not report.judgments:
        return None
    lines = []
    for judgment in report.judgments:
        cells = [judgment.group.name, ratio(judgment.by_axis['flops'].cost.inverse())]
        for axis in AXES:
            comparison = judgment.by_axis.get(axis)
            cells.append(ratio(comparison.cost) if comparison else '-')
        lines.append(cells)
    header = ['run', 'multiplier', 'cost in FLOPs', '(paper)', 'in time']
    note = "cost: the run's compute over the baseline's for the same loss; multiplier: 1 / cost in FLOPs."
    return Table('For the same loss [95%]', header, lines, note=note)


def ladder_table(report: Report) -> Table | None:
    """The baselines of several budgets, and the curve through them."""
    lines = []
    notes = []
    for ladder in report.ladders:
        if len(ladder.rungs) < 2:
            continue
        law = ladder.reference('flops').law
        for k, rung in enumerate(ladder.rungs):
            sd = np.std(rung.finals, ddof=1) if len(rung.finals) > 1 else math.nan
            off = f'{law.residuals[k]:+.4f}' if law else '-'
            lines.append([rung.name, str(rung.runs[0].total_steps), f'{rung.budget:.3e}', str(len(rung.finals)),
                          f'{rung.finals.mean():.4f}', number(sd, '.4f'), off, '1.00'])
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
    if len(reference.rungs) < FIT_FROM:
        return text + ', through its three rungs.'
    p = law.lack_of_fit(np.array([part.variance for part in reference.finals]))
    text += f', off by {np.sqrt(np.mean(law.residuals**2)):.4f} nats (rms)'
    if math.isnan(p):
        return text + '; too few seeds to say whether that is noise.'
    if p < stats.SIGNIFICANT:
        return text + f': more than the seeds scatter (lack of fit, p {p_value(p)}); read multipliers with care.'
    return text + f', no more than the seeds scatter (lack of fit, p {p_value(p)}).'


def multiplier_table(report: Report) -> Table | None:
    """Compute multiplier against budget: does a saving last? One row an arm; None for a single budget."""
    budgets = by_budget(report)
    if len(budgets) < 2:
        return None
    arms = list(dict.fromkeys(judgment.group.arm for judgment in report.judgments))
    lines = []
    for arm in arms:
        cells = [arm]
        for judgments in budgets:
            mine = [judgment for judgment in judgments if judgment.group.arm == arm]
            cells.append(ratio(mine[0].by_axis['flops'].cost.inverse()) if mine else '')
        lines.append(cells)
    header = ['arm', *(f'{judgments[0].group.budget:.2e}' for judgments in budgets)]
    return Table('Compute multiplier [95%] by budget in FLOPs', header, lines)


def verdicts(report: Report) -> list[str]:
    """One sentence for each judged run; what the seeds could have seen; why the others aren't judged."""
    sentences = [verdict(judgment) for judgment in report.judgments]
    for judgment in report.judgments:
        sentences += catch_up_sentences(judgment, report.sigma)
    sentences += seen(report)
    judged = [judgment.group for judgment in report.judgments]
    for group in report.groups:
        if report.ladders and group.flags and not any(group is one for one in judged):
            sentences.append(f'{group.name}: not judged ({"; ".join(group.flags)})')
    return sentences


def verdict(judgment: Judgment) -> str:
    """What a run costs for the same loss, and whether the seeds can tell."""
    on_flops = judgment.by_axis['flops']
    name = judgment.group.name
    cost = on_flops.cost
    if math.isnan(cost.value):
        line = f'{name}: {no_cost(judgment)}'
    else:
        bound = f'{cost.bound} ' if cost.bound else ''
        line = f'{name}: costs {bound}{cost.value:.2f}x the baseline for the same loss'
        line += in_brackets(cost, judgment)
        if math.isnan(on_flops.baseline_needs):
            line += f'; its own final loss {judgment.group.finals.mean():.4f} not reached by the baseline'
        elif math.isnan(on_flops.needs):
            line += "; the baseline's final loss not reached"
    return line + '; ' + noise(judgment)


def no_cost(judgment: Judgment) -> str:
    start = judgment.group.start_loss
    if start is not None and not judgment.group.sunk and start <= judgment.rung.finals.mean():
        return f"begins at {start:.4f}, below the baseline's final loss: it has no cost to compare"
    return 'ends no better than the baseline started'


def in_brackets(cost: Ratio, judgment: Judgment) -> str:
    """(95%: 1.05 to 1.31; 1.40x by the paper's ledger, at least 1.20x in seconds): what stands behind a cost."""
    told = []
    if not math.isnan(cost.low):
        low = 'below ' if cost.low_open else ''
        high = 'above ' if cost.high_open else ''
        told.append(f'95%: {low}{cost.low:.2f} to {high}{cost.high:.2f}')
    others = []
    for axis, how in (('flops_paper', "by the paper's ledger"), ('seconds', 'in seconds')):
        comparison = judgment.by_axis.get(axis)
        if comparison and not math.isnan(comparison.cost.value):
            bound = f'{comparison.cost.bound} ' if comparison.cost.bound else ''
            others.append(f'{bound}{comparison.cost.value:.2f}x {how}')
    if others:
        told.append(', '.join(others))
    return f' ({"; ".join(told)})' if told else ''


def noise(judgment: Judgment) -> str:
    """The difference at equal compute, and whether it is one."""
    difference = judgment.by_axis['flops'].difference
    if math.isnan(difference.value):
        return 'no difference: one of the two has no evaluation at that compute'
    text = f'at equal compute {difference.value:+.4f} nats'
    if not judgment.verdict:
        return text + '; no verdict: it takes two seeds or more a side (or --sigma)'
    text += f' (95%: {difference.low:+.4f} to {difference.high:+.4f}), p {p_value(judgment.p)}: {judgment.verdict}'
    few = min(len(judgment.group.finals), len(judgment.rung.finals))
    if few == 2 and math.isfinite(difference.df):
        text += ' (two seeds a side: only a huge difference can show)'
    return text


def seen(report: Report) -> list[str]:
    """What differences the seeds of this call could have seen, for each number of seeds a side."""
    sizes = {}
    for judgment in report.judgments:
        if judgment.verdict:
            size = (len(judgment.group.finals), len(judgment.rung.finals))
            sizes.setdefault(size, []).append(judgment)
    sentences = []
    for (n, n_baseline), judgments in sizes.items():
        sd = report.sigma or pooled_sd(judgments)
        smallest, often = stats.detectable(sd, n, n_baseline, tests(report), report.sigma is not None)
        slopes = [-judgment.by_axis['flops'].slope for judgment in judgments]
        slopes = [slope for slope in slopes if slope > 0]
        side = f'{n} seeds a side' if n == n_baseline else f'{n} seeds against {n_baseline}'
        text = f'{side.replace("1 seeds", "1 seed")} see differences from {smallest:.4f}'
        if slopes:
            text += f' (a saving of {1 - math.exp(-smallest / np.mean(slopes)):.1%})'
        text += f' on, and four times in five from {often:.4f}; the sd between seeds is {sd:.4f}'
        if tests(report) > 1:
            text += f', {tests(report)} runs are judged'
        sentences.append(text)
    return sentences


def pooled_sd(judgments: list[Judgment]) -> float:
    """The deviation between seeds, over all groups that some judgments rest on."""
    groups = {}
    for judgment in judgments:
        for group in (judgment.group, judgment.rung):
            groups[id(group)] = group.finals
    squares = sum(np.sum((finals - finals.mean())**2) for finals in groups.values())
    freedom = sum(len(finals) - 1 for finals in groups.values())
    return math.sqrt(squares / freedom) if freedom else 0.0


# ---------------------------------------------------------------------------------------------------------------------
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
    header = ['run', 'tokens since growth', 'gap at equal tokens', 'full-depth updates', 'gap at equal updates']
    note = 'gap: loss of the run minus the baseline\'s, in nats [95%]. At equal tokens it says when the growth has mixed; ' \
           'at equal full-depth updates, when the head start is gone.'
    return Table('Catching up after the last growth', header, lines, note=note)


def spread(points: list[CatchUp], n: int) -> list[CatchUp]:
    """At most n of some points: the first, the last, and between them by equal ratios of what came since."""
    if len(points) <= n:
        return points
    places = np.unique(np.round(np.geomspace(1, len(points), n)).astype(int)) - 1
    return [points[place] for place in places]


def catch_up_sentences(judgment: Judgment, sigma: float | None) -> list[str]:
    """When a growth has mixed, and when its head start is gone, as far as the noise is known."""
    points = catch_up(judgment, sigma)
    name = judgment.group.name
    sentences = []
    mixed = gone_from([point.at_tokens for point in points], 1)
    if mixed is not None:
        sentences.append(f'{name}: mixed {points[mixed].tokens:.3g} tokens after its last growth: from there on not '
                         'clearly behind the baseline at equal tokens')
    ahead = gone_from([point.at_updates for point in points], -1)
    if ahead is not None:
        sentences.append(f'{name}: its head start is gone after {points[ahead].updates} updates at full depth')
    return sentences


# ---- HellaSwag, question by question


def question_pairs(report: Report) -> list[tuple[str, paired.Difference]]:
    """(name, run minus baseline) on the same questions, one pair a seed: the seeds that both have, else the first of each.
    Pairs that weren't scored on the same questions are left out."""
    pairs = []
    for judgment in report.judgments:
        mine = question_files(judgment.group)
        theirs = question_files(judgment.rung)
        matched = [(theirs[seed], mine[seed], f', seed {seed}') for seed in mine if seed in theirs]
        if not matched and mine and theirs:
            matched = [(next(iter(theirs.values())), next(iter(mine.values())), '')]
        for baseline, run, which in matched:
            lines = [paired.read_per_example(path) for path in (baseline, run)]
            questions = [[(line['ind'], line['label']) for line in scored] for scored in lines]
            if questions[0] == questions[1]:
                pairs.append((judgment.group.name + which, paired.compare_lines(*lines)))
    return pairs


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
        cells += [f'{pair.acc_norm:+.4f}', f'{pair.acc_norm_only_second}:{pair.acc_norm_only_first}',
                  p_value(pair.acc_norm_p)]
        lines.append(cells)
    if not lines:
        return None
    header = ['run', 'questions', 'bits/byte ± se', 'margin ± se', 'acc_norm', 'only one right', 'p']
    note = "Run minus baseline on the same questions; p: McNemar's exact test of acc_norm. Two models are compared here, not " \
           "two schedules: the noise of the seeds isn't in it."
    return Table('HellaSwag, question by question', header, lines, note=note)


# ---- settings


def facts(run: Run) -> dict[str, str]:
    """What a run was: its settings, and what run.json says of code, versions and machine."""
    found = {}
    for name in FIELDS:
        if name not in NOT_SHOWN:
            found[name] = setting(getattr(run.config, name))
    return found | provenance(run)


def provenance(run: Run) -> dict[str, str]:
    """Code, versions and machine of a run, from run.json; {} for a run from before there was one."""
    found = {}
    commit = run.info.get('git_commit')
    if commit:
        found['code'] = str(commit)[:10] + (' + changes' if run.info.get('git_dirty') else '')
    versions = run.info.get('versions')
    if type(versions) is dict:
        found |= {name: str(version) for name, version in versions.items() if version is not None}
    for name in ('device', 'device_count', 'world_size'):
        if run.info.get(name) is not None:
            found[name] = str(run.info[name])
    return found


def settings_tables(report: Report) -> list[Table]:
    """(what differs between the runs, what all share): together everything that is known of them."""
    by_fact = {}
    count = 0
    for group in report.groups:
        if group.sunk:
            continue
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
            differing.append([name if k == 0 else '', value or "''", ', '.join(owners)])
    found = []
    if differing:
        found.append(Table('What differs', ['setting', 'value', 'runs'], differing, left=3))
    if count > 1:
        found.append(Table('What all runs share', ['setting', 'value'], shared, left=2))
    else:
        found.append(Table('Settings', ['setting', 'value'], shared, left=2))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# what to know before believing a verdict


def caveats(report: Report) -> list[str]:
    """Everything that limits what the verdicts mean, most of it one line a run."""
    notes = list(report.notes)
    for judgment in report.judgments:
        notes += unlike(judgment)
    for group in report.groups:
        notes += unlike_itself(group)
    notes += other_machines(report)
    notes += early_readings(report)
    return notes


def unlike(judgment: Judgment) -> list[str]:
    """In what a run differs from its baseline besides how it grows."""
    group, rung = judgment.group, judgment.rung
    notes = []
    shape = [name for name in SHAPE if getattr(group.config, name) != getattr(rung.config, name)]
    other = group.trained_otherwise(rung)
    if group.tried > 1 and rung.tried > 1:
        other = [name for name in other if name not in TUNED]  # each side has its own best
    for what, names in (('ends as another model', shape), ('is trained otherwise, whatever it grows', other)):
        differ = [f'{name} {setting(getattr(group.config, name))}, not {setting(getattr(rung.config, name))}'
                  for name in names]
        if differ:
            notes.append(f'{group.name} {what}: ' + ', '.join(differ))
    return notes


def unlike_itself(group: Group) -> list[str]:
    """What a group's numbers leave out, or can't be free of."""
    notes = []
    if group.config.init_from != 'scratch' and not group.sunk and not group.known_sunk():
        notes.append(f'{group.name} starts from {group.config.init_from}; the compute that made it is not counted')
    if group.sunk:
        notes.append(f'{group.name} counts the {group.sunk["flops"]:.3e} FLOPs that made {group.config.init_from}')
    if group.is_best and group.biased and group.tried > 1:
        notes.append(f'{group.name} is the best of {group.tried} that were tried, judged with the seeds that chose it: its '
                     'loss is flattered. Two further seeds of it would be free of that')
    if group.is_best and group.left_out:
        seeds = ', '.join(str(seed) for seed in group.left_out)
        notes.append(f'{group.name} is the best of {group.tried} that were tried; the seeds that chose it ({seeds}) are not '
                     'judged')
    finals = [curve.loss[-1] for curve in group.curves if len(curve)]
    if len(finals) > 1 and len(set(finals)) == 1 and not group.sunk:
        notes.append(f'{group.name}: all seeds end at exactly {finals[0]:.4f}; are these copies of one run?')
    return notes


def other_machines(report: Report) -> list[str]:
    """In what machine and code the runs differ, and what that does to the comparison."""
    notes = []
    runs = {}
    for group in report.groups:
        if not group.flags and not group.sunk:
            for run in group.runs:
                runs[run.path] = (group.name, run)
    clocks = ('device', 'dtype', 'compile', 'batch_size')
    for names, what in ((clocks, 'seconds'), (('hellaswag_data', 'hellaswag_limit'), 'HellaSwag scores')):
        differ = []
        for name in names:
            if len({getattr(run.config, name) for _, run in runs.values()}) > 1:
                differ.append(name)
        if differ:
            notes.append(f'the runs differ in {" and ".join(differ)}: their {what} may not compare')
    by_fact = {}
    for name, run in runs.values():
        for fact, value in provenance(run).items():
            owners = by_fact.setdefault(fact, {}).setdefault(value, [])
            if name not in owners:
                owners.append(name)
    for fact, values in by_fact.items():
        if len(values) > 1:
            told = [f'{value} ({shortened(owners)})' for value, owners in values.items()]
            notes.append(f'the runs differ in {fact}: {"; ".join(told)}')
    silent = [path for path, (_, run) in runs.items() if not run.info]
    if by_fact and silent:
        notes.append(f'{shortened(silent)}: no run.json, so code, versions and machine are unknown')
    return notes


def shortened(names: list[str]) -> str:
    """The first three names, and how many there are besides."""
    rest = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(names[:3]) + rest


def early_readings(report: Report) -> list[str]:
    """Where a verdict rests on a point at which a learning rate had yet to decay, and what that does to it."""
    of_baseline = []
    of_run = []
    for judgment in report.judgments:
        on_flops = judgment.by_axis['flops']
        if on_flops.reads_baseline_middle:
            of_baseline.append(judgment.group.name)
        if on_flops.reads_run_middle:
            of_run.append(judgment.group.name)
    notes = []
    if of_baseline:
        schedules = sorted({ladder.rungs[0].config.lr_schedule for ladder in report.ladders})
        notes.append(f"the baseline's learning rate ({', '.join(schedules)}) decays towards its own end, and the numbers of "
                     f'{", ".join(of_baseline)} rest on a point before it, where a baseline that is scheduled to end there '
                     'has a lower loss: they flatter the run. A fair baseline is trained with match=RUN')
    if of_run:
        notes.append(f'{", ".join(of_run)}: the learning rate decays, and some numbers rest on a point before its end, '
                     'where a run that is scheduled to end there has a lower loss: they flatter the baseline')
    for judgment in report.judgments:
        rungs = judgment.ladder.reference('flops').rungs
        if len(rungs) == 2 and rungs[1].budget > 2.1 * rungs[0].budget:
            notes.append(f'{judgment.ladder.arm} has two rungs a factor {rungs[1].budget / rungs[0].budget:.1f} apart: the '
                         'straight line between them overrates the runs there by some percent. A third rung mends it')
            break
    return notes


# ---------------------------------------------------------------------------------------------------------------------
# numbers for other programs


def rows(report: Report) -> list[dict]:
    """All numbers, unrounded, one row a group; None where there is none."""
    by_group = {id(judgment.group): judgment for judgment in report.judgments}
    found = []
    for group in report.groups:
        judgment = by_group.get(id(group))
        row = {'run': group.name, 'directories': ' '.join(run.path for run in group.runs), 'arm': group.arm,
               'budget': group.budget, 'baseline': int(report.is_baseline(group)), 'flags': '; '.join(group.flags),
               'schedule': describe(group.config), 'seeds': len(group.runs), 'tried': group.tried,
               'best': int(group.is_best), **final(group)}
        row |= {'judged_by': judgment.rung.name if judgment else None, 'p': judgment.p if judgment else None,
                'verdict': judgment.verdict if judgment else None, 'sees': judgment.sees if judgment else None}
        for axis in AXES:
            comparison = judgment.by_axis.get(axis) if judgment else None
            row |= {f'{axis}:{key}': value for key, value in comparison_row(comparison).items()}
        found.append({key: without_nan(value) for key, value in row.items()})
    return found


def comparison_row(found: Comparison | None) -> dict:
    """The numbers of a comparison under the names of the CSV's columns."""
    if found is None:
        found = Comparison(*[math.nan] * 5, stats.NOTHING, math.nan, math.nan, Ratio(), False, False, math.nan)
    cost = found.cost
    multiplier = cost.inverse()
    return {'at': found.at, 'loss': found.loss, 'baseline_loss': found.baseline_loss, 'difference': found.difference.value,
            'error': found.difference.se, 'df': found.difference.df, 'difference_low': found.difference.low,
            'difference_high': found.difference.high, 'p': found.difference.p, 'baseline_needs': found.baseline_needs,
            'saving': 1 - found.end / found.baseline_needs, 'needs': found.needs,
            'saving_at_baseline_loss': 1 - found.needs / found.baseline_end, 'cost': cost.value, 'bound': cost.bound,
            'cost_low': math.nan if cost.low_open else cost.low, 'cost_high': math.nan if cost.high_open else cost.high,
            'multiplier': multiplier.value, 'multiplier_low': math.nan if multiplier.low_open else multiplier.low,
            'multiplier_high': math.nan if multiplier.high_open else multiplier.high}


def without_nan(value):
    """None for nan, since JSON has none; numpy's numbers as Python's."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    return value


def as_json(report: Report) -> dict:
    """The rows, the ladders, the catch-up, the paired scores and the notes, as plain types."""
    ladders = []
    for ladder in report.ladders:
        law = ladder.reference('flops').law
        fit = {'E': law.E, 'A': law.A, 'alpha': law.alpha} if law else None
        rungs = [{'run': rung.name, 'flops': rung.budget, 'loss': float(rung.finals.mean())} for rung in ladder.rungs]
        ladders.append({'arm': ladder.arm, 'rungs': rungs, 'fit': fit})
    scored = [{'run': name, **dataclasses.asdict(pair)} for name, pair in question_pairs(report)]
    return {'runs': rows(report), 'ladders': ladders, 'catch_up': catch_up_rows(report), 'hellaswag': scored,
            'notes': caveats(report), 'verdicts': verdicts(report)}


def catch_up_rows(report: Report) -> list[dict]:
    """Every evaluation since the last growth, one row each."""
    found = []
    for judgment in report.judgments:
        for point in catch_up(judgment, report.sigma):
            row = {'run': judgment.group.name, 'arm': judgment.group.arm, 'budget': judgment.group.budget,
                   'step': point.step, 'tokens_since_growth': point.tokens, 'full_depth_updates': point.updates}
            for name, estimate in (('at_tokens', point.at_tokens), ('at_updates', point.at_updates)):
                estimate = estimate or stats.NOTHING
                row |= {f'gap_{name}': estimate.value, f'gap_{name}_low': estimate.low, f'gap_{name}_high': estimate.high}
            found.append({key: without_nan(value) for key, value in row.items()})
    return found


def tables(report: Report, full: bool = True) -> list[Table]:
    """All tables of a report; without `full` not the catch-up and the settings."""
    return run_tables(report) + verdict_tables(report) + (detail_tables(report) if full else [])
