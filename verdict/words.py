"""
Verdicts in words: numbers and schedules as text, one sentence a run, and what to know before believing it.

    verdicts(report) -> list[str]      one sentence for each judged run, and what the seeds could have seen
    caveats(report) -> list[str]       everything that limits what the verdicts mean
    describe(config) -> str            a schedule in a few words: '3-6-9-12 stack cosine'

`report` is a judge.Report. Nothing is printed here.
"""

import itertools
import math

import numpy as np

import schedule
from config import TrainConfig
from verdict import old_stats as stats
from verdict.old_judge import Judgment, Ratio, Report, catch_up, gone_from
from verdict.old_runs import SHAPE, TUNED, Group, Run, fingerprint


def number(value: float, form: str, missing: str = '-') -> str:
    """A number in a format; `missing` for None and nan."""
    return missing if value is None or math.isnan(value) else format(value, form)


def signed(estimate: stats.Estimate) -> str:
    """+0.0123 [+0.0050, +0.0196]: a difference and its interval, where there is one."""
    text = number(estimate.value, '+.4f')
    return text if math.isnan(estimate.low) else f'{text} [{estimate.low:+.4f}, {estimate.high:+.4f}]'


def ratio(value: Ratio, with_interval: bool = True) -> str:
    """1.18 [1.07, 1.28]; >1.28 and <1.07 where the interval goes on beyond the data."""
    if math.isnan(value.value):
        return '-'
    text = f'{value.bound} {value.value:.2f}'.strip()
    # With both ends beyond the data nothing is known but the bound.
    is_open = value.low_open and value.high_open
    if math.isnan(value.low) or is_open or not with_interval:
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
    phases = schedule.plan(config).phases
    # A checkpoint's depth is the first step of the staircase, though no phase of this plan has it.
    depths = [config.init_depth] if config.init_depth else []
    depths += [phase.depth for phase in phases]
    # Phases of one depth are one step of the staircase.
    steps = [str(depth) for depth, _ in itertools.groupby(depths)]
    # A table has 100 columns: the first two depths and the last are enough to recognize a plan.
    if len(steps) > 8:
        steps = [*steps[:2], '..', steps[-1]]
    words = ['-'.join(steps)]
    # With one depth nothing grows, so how it would grow is not worth a word.
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
    # What the embeddings do in phase 1 matters only where layers are frozen.
    elif config.phase1_embeddings != 'input_frozen':
        words.append(config.phase1_embeddings)
    if getattr(config, 'grow_map', ()):
        words.append('by map')
    elif config.grow_init != 'random':
        words.append(setting(config.grow_init))
    if config.grow_optimizer != 'keep':
        words.append(f'moments {config.grow_optimizer}')
    return words


def shortened(names: list[str]) -> str:
    """The first three names, and how many there are besides."""
    rest = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(names[:3]) + rest


# ----------------------------------------------------------------------------------------------------------
# one sentence a run


def verdicts(report: Report) -> list[str]:
    """One sentence for each judged run; what the seeds could have seen; why the others aren't judged."""
    sentences = [verdict(judgment) for judgment in report.judgments]
    for judgment in report.judgments:
        sentences += catch_up_sentences(judgment, report.sigma)
    sentences += seen(report)
    # What isn't judged says why, where there is something to be judged by.
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
    # nan: there is no loss that both sides reach.
    if math.isnan(cost.value):
        line = f'{name}: {no_cost(judgment)}'
    else:
        bound = f'{cost.bound} ' if cost.bound else ''
        line = f'{name}: costs {bound}{cost.value:.2f}x the baseline for the same loss'
        line += in_brackets(cost, judgment)
        # On a ladder both would speak of its highest rung, which may be far from this run's budget.
        if len(judgment.ladder.rungs) == 1:
            if math.isnan(on_flops.baseline_needs):
                line += f'; its own final loss {judgment.group.finals.mean():.4f} not reached by the baseline'
            elif math.isnan(on_flops.needs):
                line += "; the baseline's final loss not reached"
    return line + '; ' + noise(judgment)


def in_brackets(cost: Ratio, judgment: Judgment) -> str:
    """(95%: 1.05 to 1.31; 1.40x by the paper's ledger, at least 1.20x in seconds): what stands behind a
    cost."""
    # The interval first: the other ledgers are beside the point where the seeds can't tell.
    told = []
    if not math.isnan(cost.low) and not (cost.low_open and cost.high_open):
        low = 'below ' if cost.low_open else ''
        high = 'above ' if cost.high_open else ''
        told.append(f'95%: {low}{cost.low:.2f} to {high}{cost.high:.2f}')
    others = []
    for axis, how in (('flops_paper', "by the paper's ledger"), ('seconds', 'in seconds')):
        # The clock may be unknown, and then there is no comparison on it.
        comparison = judgment.by_axis.get(axis)
        if comparison and not math.isnan(comparison.cost.value):
            bound = f'{comparison.cost.bound} ' if comparison.cost.bound else ''
            others.append(f'{bound}{comparison.cost.value:.2f}x {how}')
    if others:
        told.append(', '.join(others))
    return f' ({"; ".join(told)})' if told else ''


def no_cost(judgment: Judgment) -> str:
    start = judgment.group.start_loss
    # With its first training counted (sunk), a checkpoint doesn't start for nothing.
    if start is not None and not judgment.group.sunk and start <= judgment.rung.finals.mean():
        return f"begins at {start:.4f}, below the baseline's final loss: it has no cost to compare"
    return 'ends no better than the baseline started'


def noise(judgment: Judgment) -> str:
    """The difference at equal compute, and whether it is one."""
    difference = judgment.by_axis['flops'].difference
    if math.isnan(difference.value):
        return 'no difference: one of the two has no evaluation at that compute'
    text = f'at equal compute {difference.value:+.4f} nats'
    # A side of one seed gives no estimate of the noise: the difference stands alone.
    if not judgment.verdict:
        return text + '; no verdict: it takes two seeds or more a side (or --sigma)'
    text += f' (95%: {difference.low:+.4f} to {difference.high:+.4f})'
    text += f', p {p_value(judgment.p)}: {judgment.verdict}'
    # With 2 degrees of freedom t has to be 4.3: three seeds see half of that.
    few = min(len(judgment.group.finals), len(judgment.rung.finals))
    if few == 2 and math.isfinite(difference.df):
        text += ' (two seeds a side: only a huge difference can show)'
    return text


def seen(report: Report) -> list[str]:
    """What differences the seeds of this call could have seen: beside each baseline, since budgets and
    optimizers differ in noise, and for each number of seeds a side."""
    sizes = {}  # (name of the baseline, seeds of the run, of the baseline): judgments
    for judgment in report.judgments:
        # Without a verdict the seeds were too few to see any difference.
        if judgment.verdict:
            size = (judgment.rung.name, len(judgment.group.finals), len(judgment.rung.finals))
            sizes.setdefault(size, []).append(judgment)
    baselines = {name for name, *_ in sizes}
    sentences = []
    for (name, n, n_baseline), judgments in sizes.items():
        # A known deviation is better than an estimate from a few seeds.
        sd = report.sigma or pooled_sd(judgments)
        smallest, often = stats.detectable(sd, n, n_baseline, tests(report), report.sigma is not None)
        # A difference in loss is worth as much compute as the baseline takes to make it good.
        slopes = [-judgment.by_axis['flops'].slope for judgment in judgments]
        # Where the baseline's loss doesn't fall, no amount of compute makes up for a difference.
        slopes = [slope for slope in slopes if slope > 0]
        side = f'{n} seeds a side' if n == n_baseline else f'{n} seeds against {n_baseline}'
        beside = f'beside {name}: ' if len(baselines) > 1 else ''
        text = f'{beside}{side.replace("1 seeds", "1 seed")} see differences from {smallest:.4f}'
        if slopes:
            text += f' (a saving of {1 - math.exp(-smallest / np.mean(slopes)):.1%})'
        text += f' on, and four times in five from {often:.4f}; the sd between seeds is {sd:.4f}'
        if tests(report) > 1:
            text += f', {tests(report)} runs are judged'
        sentences.append(text)
    return sentences


def pooled_sd(judgments: list[Judgment]) -> float:
    """The deviation between seeds, over all groups that some judgments rest on."""
    groups = {}  # a baseline counts once, however many are judged by it
    for judgment in judgments:
        for group in (judgment.group, judgment.rung):
            groups[id(group)] = group.finals
    # About each group's own mean: groups differ in loss, but are taken to be equally noisy.
    squares = sum(np.sum((finals - finals.mean()) ** 2) for finals in groups.values())
    freedom = sum(len(finals) - 1 for finals in groups.values())
    return math.sqrt(squares / freedom) if freedom else 0.0


def tests(report: Report) -> int:
    """Size of the family that Holm corrects for."""
    # A judgment without a p is no test, and costs the others nothing.
    return sum(1 for judgment in report.judgments if not math.isnan(judgment.p))


def catch_up_sentences(judgment: Judgment, sigma: float | None) -> list[str]:
    """When a growth has mixed, and when its head start is gone, as far as the noise is known."""
    # "Not clearly" depends on the seeds: with few of them a gap is gone sooner.
    points = catch_up(judgment, sigma)
    name = judgment.group.name
    sentences = []
    # At equal tokens the question is whether it is behind (1), at equal updates whether it is ahead (-1).
    mixed = gone_from([point.at_tokens for point in points], 1)
    if mixed is not None:
        sentences.append(
            f'{name}: from {points[mixed].tokens:.3g} tokens after its last growth on it is not clearly '
            'behind the baseline at equal tokens'
        )
    ahead = gone_from([point.at_updates for point in points], -1)
    if ahead is not None:
        sentences.append(
            f'{name}: its head start is gone after {points[ahead].updates} updates at full depth'
        )
    return sentences


# ----------------------------------------------------------------------------------------------------------
# what to know before believing a verdict


def caveats(report: Report, tuned: tuple = ()) -> list[str]:
    """Everything that limits what the verdicts mean, most of it one line a run. `tuned`: settings of which
    each arm has its own best value, which is no difference to own up to."""
    notes = list(report.notes)
    for judgment in report.judgments:
        notes += unlike(judgment, tuned)
    for group in report.groups:
        notes += unlike_itself(group)
    notes += other_optimizers(report)
    notes += other_machines(report)
    notes += early_readings(report)
    return notes


def unlike(judgment: Judgment, tuned: tuple) -> list[str]:
    """In what a run differs from its baseline besides how it grows."""
    group, rung = judgment.group, judgment.rung
    notes = []
    # Two kinds of unlike: another model at the end is another question; another training, no fair answer.
    shape = [name for name in SHAPE if getattr(group.config, name) != getattr(rung.config, name)]
    other = group.trained_otherwise(rung)
    if group.tried > 1 and rung.tried > 1:
        tuned = (*tuned, *TUNED)  # each side has its own best
    other = [name for name in other if name not in tuned]
    for what, names in (('ends as another model', shape), ('is trained otherwise, whatever it grows', other)):
        differ = [
            f'{name} {setting(getattr(group.config, name))}, not {setting(getattr(rung.config, name))}'
            for name in names
        ]
        if differ:
            notes.append(f'{group.name} {what}: ' + ', '.join(differ))
    return notes


def unlike_itself(group: Group) -> list[str]:
    """What a group's numbers leave out, or can't be free of."""
    notes = []
    # Where the cost is known, a twin of this group counts it, and has the note below.
    if group.config.init_from != 'scratch' and not group.sunk and not group.known_sunk():
        notes.append(
            f'{group.name} starts from {group.config.init_from}; the compute that made it is not counted'
        )
    if group.sunk:
        made = group.config.init_from
        if len(group.runs) > 1:
            made += ', and as many for each other seed'
        notes.append(f'{group.name} counts the {group.sunk["flops"]:.3e} FLOPs that made {made}')
    # The least of many noisy losses is less than it should be: by about one sd for four of them.
    if group.is_best and group.biased and group.tried > 1:
        notes.append(
            f'{group.name} is the best of {group.tried} that were tried, judged with the seeds that chose '
            'it: its loss is flattered. Two further seeds of it would be free of that'
        )
    if group.is_best and group.left_out:
        seeds = ', '.join(str(seed) for seed in group.left_out)
        notes.append(
            f'{group.name} is the best of {group.tried} that were tried; the seeds that chose it ({seeds}) '
            'are not judged'
        )
    # Seeds that agree to the last digit never happen: a directory was copied, or the seed reached nothing.
    finals = [curve.loss[-1] for curve in group.curves if len(curve)]
    if len(finals) > 1 and len(set(finals)) == 1 and not group.sunk:
        notes.append(f'{group.name}: all seeds end at exactly {finals[0]:.4f}; are these copies of one run?')
    return notes


def other_optimizers(report: Report) -> list[str]:
    """What equal FLOPs leave out where the runs have different optimizers."""
    if len({group.config.optimizer for group in report.groups}) == 1:
        return []
    return ["the ledgers leave out Muon's own matmuls: at equal FLOPs a run under Muon has done more than "
            'one under AdamW, by the share that python schedule.py CONFIG prints']


def other_machines(report: Report) -> list[str]:
    """In what machine and code the runs differ, and what that does to the comparison."""
    notes = []
    runs = {}
    for group in report.groups:
        # Flagged groups are not judged, and a twin with sunk costs has the runs of its original.
        if not group.flags and not group.sunk:
            for run in group.runs:
                runs[run.path] = (group.name, run)
    # What changes the clock, and nothing else that is compared.
    differ = []
    for name in ('device', 'dtype', 'compile', 'batch_size'):
        if len({getattr(run.config, name) for _, run in runs.values()}) > 1:
            differ.append(name)
    if differ:
        notes.append(f'the runs differ in {" and ".join(differ)}: their seconds may not compare')
    differ = []
    for name, value_of in (('hellaswag_data', questions_of), ('hellaswag_limit', limit_of)):
        if len({value_of(run) for _, run in runs.values()}) > 1:
            differ.append(name)
    if differ:
        notes.append(f'the runs differ in {" and ".join(differ)}: their HellaSwag scores may not compare')
    # Whatever run.json says of code, versions and machine.
    by_fact = {}
    for name, run in runs.values():
        for fact, value in provenance(run).items():
            owners = by_fact.setdefault(fact, {}).setdefault(value, [])
            # The seeds of one group share its name, which is listed once.
            if name not in owners:
                owners.append(name)
    for fact, values in by_fact.items():
        if len(values) > 1:
            told = [f'{value} ({shortened(owners)})' for value, owners in values.items()]
            notes.append(f'the runs differ in {fact}: {"; ".join(told)}')
    # Where no run has one, nothing is said: they are all from before there was any.
    silent = [path for path, (_, run) in runs.items() if not run.info]
    if by_fact and silent:
        notes.append(f'{shortened(silent)}: no run.json, so code, versions and machine are unknown')
    return notes


def questions_of(run: Run) -> str:
    """The questions that a run is scored on: their hash where run.json has one, else where they came from."""
    return fingerprint(run, 'hellaswag_data') or run.config.hellaswag_data


def limit_of(run: Run) -> int:
    return run.config.hellaswag_limit


def early_readings(report: Report) -> list[str]:
    """Where a verdict rests on a point at which a learning rate had yet to decay, and what that does to
    it."""
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
        notes.append(
            f"the baseline's learning rate ({', '.join(schedules)}) decays towards its own end, and the "
            f'numbers of {", ".join(of_baseline)} rest on a point before it, where a baseline that is '
            'scheduled to end there has a lower loss: they flatter the run. A fair baseline is trained with '
            'match=RUN'
        )
    if of_run:
        notes.append(
            f'{", ".join(of_run)}: the learning rate decays, and some numbers rest on a point before its '
            'end, where a run that is scheduled to end there has a lower loss: they flatter the baseline'
        )
    return notes + ladder_limits(report)


def ladder_limits(report: Report) -> list[str]:
    """What a further rung of the baseline would make better."""
    notes = []
    above = []
    for judgment in report.judgments:
        # 'at most' on a ladder: the run's final loss is below all that the ladder reaches.
        if len(judgment.ladder.rungs) > 1 and judgment.by_axis['flops'].cost.bound == 'at most':
            above.append(judgment.group.name)
    if above:
        notes.append(
            f'{shortened(above)}: better than the highest rung of the ladder; a baseline of a larger budget '
            'would turn the bound on the cost into a value'
        )
    for ladder in report.ladders:
        rungs = ladder.reference('flops').rungs
        # A power law is convex in log compute, so the straight line between two rungs lies above it.
        if len(rungs) == 2 and rungs[1].budget > 2.1 * rungs[0].budget:
            notes.append(
                f'{ladder.arm} has two rungs a factor {rungs[1].budget / rungs[0].budget:.1f} apart: the '
                'straight line between them overrates the runs there (a factor 4 by up to 7% where losses '
                'fall with an exponent of .3, by up to 22% at .84). A third rung mends it'
            )
    return notes


def provenance(run: Run) -> dict[str, str]:
    """Code, versions and machine of a run, from run.json; {} for a run from before there was one."""
    # Anything may be missing: outside of a checkout there is no commit, on a CPU no CUDA.
    found = {}
    commit = run.info.get('git_commit')
    if commit:
        found['code'] = str(commit)[:10] + (' + changes' if run.info.get('git_dirty') else '')
    versions = run.info.get('versions')
    if type(versions) is dict:
        found |= {name: str(version) for name, version in versions.items() if version is not None}
    for name in ('device', 'device_count', 'cpu_capability', 'world_size'):
        if run.info.get(name) is not None:
            found[name] = str(run.info[name])
    return found
