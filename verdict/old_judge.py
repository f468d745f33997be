"""
Verdicts: each run against the baseline of its own budget, with intervals that hold.

    report = judge_runs(read_runs(paths))          the baseline: one stage, from scratch
    report = judge_runs(runs, baselines=[path])    or what is named; of several, the one trained alike
    report = judge_runs(runs, ['full depth'], arms={path: 'full depth', other: 'Li, 8 stages'})    a study
    report = judge_runs(runs, sigma=0.0013)        the deviation between seeds is known: z instead of t

No text is made here but notes; compare.py prints a Report, figure.py draws it. Report.groups are the
experiments, Report.judgments the comparisons, Report.ladders the baselines, Report.notes what to know before
believing any of it.

  difference   loss of the run minus the baseline's at equal compute: Welch's t over the seeds
  cost         compute of the run over the compute at which the baseline has its loss; its inverse is the
               compute multiplier
  ladder       the baseline at several budgets, each with its own decay: what full depth reaches (ladder.py)
  clear        the difference's p, corrected by Holm over all runs judged in this call, is below .05

Every axis (FLOPs, FLOPs by the paper's ledger, seconds of training) is judged alike. Beyond what was measured
nothing is guessed: there are bounds. A single baseline is read in its middle, which flatters the run if its
learning rate had yet to decay there; the Comparison says so.
"""

import dataclasses
import itertools
import math
import os

import numpy as np

from core.common import UserError
from verdict import old_stats as stats
from verdict.ladder import Ladder, Reference, grid_of, own_places
from verdict.old_runs import AXES, MATCHED, TUNED, Group, Run, is_budget, make_groups

TINY = 1e-6  # nats: losses that differ by less are equal


@dataclasses.dataclass
class Ratio:
    """A cost. `bound` '' for a value, 'at least' or 'at most' for a bound; nan for none.

    low and high are the 95% interval over the seeds, nan without one. Open: the interval goes on beyond that
    number, which is where the data ends.
    """

    value: float = math.nan
    bound: str = ''
    low: float = math.nan
    high: float = math.nan
    low_open: bool = False
    high_open: bool = False

    def inverse(self) -> 'Ratio':
        """The compute multiplier of a cost, or the other way round."""
        bound = {'': '', 'at least': 'at most', 'at most': 'at least'}[self.bound]
        return Ratio(1 / self.value, bound, 1 / self.high, 1 / self.low, self.high_open, self.low_open)


@dataclasses.dataclass
class Comparison:
    """A group against its baseline on one axis. nan: there is no such number."""

    end: float  # compute of the run
    baseline_end: float  # compute of the baseline, of its highest rung if there are several
    at: float  # compute at which both losses are read
    loss: float
    baseline_loss: float
    difference: stats.Estimate  # loss - baseline_loss
    baseline_needs: float  # compute at which the baseline first has the run's final loss
    needs: float  # compute at which the run first has the final loss of the baseline (of its highest rung)
    cost: Ratio
    reads_baseline_middle: bool  # where the baseline's learning rate had yet to decay
    reads_run_middle: bool
    slope: float  # d loss / d log compute of the baseline there: what a difference is worth in compute


@dataclasses.dataclass
class Judgment:
    """A group and all that is said about it."""

    group: Group
    ladder: Ladder
    rung: Group  # the ladder's group of the same budget, else the nearest
    by_axis: dict[str, Comparison]
    p: float = math.nan  # of the difference in FLOPs, corrected by Holm
    sees: float = math.nan  # the smallest difference that would have been clear

    @property
    def verdict(self) -> str:
        """'clear', 'not clear', or '' where the seeds can't tell."""
        if math.isnan(self.p):
            return ''
        return 'clear' if self.p < stats.SIGNIFICANT else 'not clear'

    @property
    def has_cost(self) -> bool:
        """Whether there is a loss that both sides reach."""
        return 'flops' in self.by_axis and not math.isnan(self.by_axis['flops'].cost.value)

    def catch_up(self, sigma: float | None = None) -> list['CatchUp']:
        """The gap to the baseline at every evaluation since the last growth; see catch_up()."""
        return catch_up(self, sigma)


@dataclasses.dataclass
class Report:
    """What was found about some runs."""

    groups: list[Group]  # as they came
    ladders: list[Ladder]
    judgments: list[Judgment]
    notes: list[str]
    sigma: float | None
    study: bool  # arms were named by whoever made the runs

    def is_baseline(self, group: Group) -> bool:
        rungs = itertools.chain(*(ladder.rungs for ladder in self.ladders))
        return any(group is rung for rung in rungs)

    def arm_ladders(self) -> list[Ladder]:
        """Every arm that counts as a ladder of its budgets, the baselines first."""
        ladders = {ladder.arm: ladder for ladder in self.ladders}
        for judgment in self.judgments:
            ladder = ladders.setdefault(judgment.group.arm, Ladder(judgment.group.arm, []))
            ladder.rungs.append(judgment.group)
        for ladder in ladders.values():
            ladder.rungs.sort(key=lambda rung: rung.budget)
        return list(ladders.values())


# ------------------------------------------------------------------------------------------------------------
# one group against its baseline


def compare(group: Group, ladder: Ladder, axis: str, sigma: float | None = None) -> Comparison | None:
    """A group against a ladder on one axis; None where an axis doesn't count for one of them (no clock is
    known)."""
    ends = [group.end(axis)] + [rung.end(axis) for rung in ladder.rungs]
    if not all(math.isfinite(end) and end > 0 for end in ends):
        return None
    reference = ladder.reference(axis)
    equal = equal_compute(group, ladder, reference, sigma)
    found = find_cost(group, reference, sigma)
    in_baseline, in_run = middles(group, reference, found, equal)
    return Comparison(
        end=group.end(axis),
        baseline_end=reference.high,
        at=equal.at,
        loss=equal.loss,
        baseline_loss=equal.baseline_loss,
        difference=equal.difference,
        baseline_needs=found.baseline_needs,
        needs=found.needs,
        cost=found.cost,
        reads_baseline_middle=ladder.decays and in_baseline,
        reads_run_middle=in_run,
        slope=reference.slope(equal.at),
    )


@dataclasses.dataclass
class EqualCompute:
    """Two losses at one compute; see Comparison."""

    at: float
    loss: float
    baseline_loss: float
    difference: stats.Estimate
    is_own_rung: bool  # both are read at their ends


def equal_compute(
    group: Group, ladder: Ladder, reference: Reference, sigma: float | None = None
) -> EqualCompute:
    """Both losses where the group ends, by the baseline of the same budget if there is one; or, where the
    baseline ends earlier, there."""
    axis = reference.axis
    rung = own_rung(group, ladder, axis)
    if rung:
        # The fair case: both have decayed to their ends. Whole steps may leave the budgets some permille
        # apart.
        at = group.end(axis)
        run_losses = group.finals
        baseline_loss = float(rung.finals.mean())
        parts = [stats.part(1.0, rung.finals)]
    else:
        at = min(group.end(axis), reference.high)
        run_losses = np.array([math.nan])
        if at >= group.start(axis):
            run_losses = group.losses_at(axis, at)
        baseline_loss, parts = read_baseline(ladder, reference, axis, at)
    against = [stats.Part(-part.weight, part.variance, part.n) for part in parts]
    loss = float(run_losses.mean())
    difference = stats.contrast(loss - baseline_loss, [stats.part(1.0, run_losses), *against], sigma)
    return EqualCompute(at, loss, baseline_loss, difference, bool(rung))


def own_rung(group: Group, ladder: Ladder, axis: str) -> Group | None:
    """The rung that ends where the group ends on an axis."""
    rung = ladder.nearest(group)
    if axis == 'flops':
        return rung if is_budget(group, rung) else None
    # Runs of equal FLOPs differ on the other axes: there they are equal only where they happen to be.
    return rung if abs(group.end(axis) / rung.end(axis) - 1) <= MATCHED else None


def read_baseline(
    ladder: Ladder, reference: Reference, axis: str, at: float
) -> tuple[float, list[stats.Part]]:
    """(the baseline's loss at a compute, the samples behind it); nan before its first evaluation."""
    if at < reference.low and len(reference.rungs) > 1:
        # No decayed rung is that cheap: the middle of the first one is what there is.
        reference = Reference([ladder.rungs[0]], axis)
    if at < reference.low:
        return math.nan, []
    value, parts = reference.at(at)
    return float(value), parts


def middles(group: Group, reference: Reference, found: 'Found', equal: EqualCompute) -> tuple[bool, bool]:
    """Whether the numbers rest on the middle of the baseline, and on the middle of a run whose rate
    decays."""
    from_baseline = [] if equal.is_own_rung else [equal.at]
    from_run = [] if equal.is_own_rung else [equal.at]
    # A bound outside of a ladder says no more than what holds in any case: there is nothing to own up to.
    is_ladder_bound = found.cost.bound and len(reference.rungs) > 1
    if not math.isnan(found.baseline_needs) and not is_ladder_bound:
        from_baseline.append(found.baseline_needs)
    elif found.cost.bound == '' and not math.isnan(found.needs):
        from_run.append(found.needs)
    # Between two rungs nothing is read in the middle of a run, below the lowest one it is.
    first_end = reference.high if len(reference.rungs) == 1 else reference.low
    in_baseline = any(x < (1 - MATCHED) * first_end for x in from_baseline)
    in_run = any(x < (1 - MATCHED) * group.end(reference.axis) for x in from_run)
    return in_baseline, in_run and group.config.lr_schedule != 'constant'


@dataclasses.dataclass
class Found:
    """What the search for equal losses found; see Comparison."""

    cost: Ratio
    baseline_needs: float = math.nan
    needs: float = math.nan


def find_cost(group: Group, reference: Reference, sigma: float | None) -> Found:
    """What a group costs against a baseline for the same loss.

    Costs are laid out on one scale, from dear to cheap. First the baseline is read at less and less of a
    saving: at which compute x does it have the run's final loss? The cost is end / x. Behind the baseline's
    own end the run is read instead: at which compute y does it have the baseline's final loss? The cost is y
    / high. Along the scale the gap (baseline minus run) falls, the cost is where it crosses 0, and its
    interval is where the gap's own interval holds 0.
    """
    axis = reference.axis
    end = group.end(axis)
    # The dear side: the baseline's loss at x, less the run's final one.
    x = reference.places()
    losses, parts = reference.at(x)
    parts = [*parts, stats.part(-1.0, group.finals)]
    dear = stats.contrast(losses - group.finals.mean(), parts, sigma)
    # The cheap side: the baseline's final loss, less the run's own at y.
    y = grid_of(group.start(axis), end, own_places(group, axis))
    own = group.losses_at(axis, y)
    top, parts = reference.at(reference.high)
    parts = [*parts, stats.part(-1.0, own)]
    cheap = stats.contrast(top - own.mean(axis=-1), parts, sigma)

    first, is_first = crossing(np.log(x), -dear.value)
    if is_first and len(reference.rungs) > 1:
        first = below_the_ladder(group, reference)
    baseline_needs = math.exp(first)
    first_own, is_first_own = crossing(np.log(y), cheap.value)
    needs = math.exp(first_own)
    found = Found(Ratio(), baseline_needs, needs)
    if starts_below(group, reference):
        return found  # no cost: a ratio to nothing
    if not math.isnan(baseline_needs):
        found.cost = Ratio(end / baseline_needs, 'at least' if is_first else '')
    else:
        # Beyond decayed rungs, the run's own middle says what it can't cost more than.
        is_bound = is_first_own or is_only_bound(group, reference)
        found.cost = Ratio(needs / reference.high, 'at most' if is_bound else '')

    # One scale of both sides, for the interval: it may reach over from the one to the other.
    costs = np.concatenate([end / x, y[::-1] / reference.high])
    low = np.concatenate([dear.low, cheap.low[::-1]])
    high = np.concatenate([dear.high, cheap.high[::-1]])
    if not np.isnan(low).any():
        add_interval(found.cost, costs, low, high)
        if found.cost.low < end / reference.high and is_only_bound(group, reference):
            found.cost.low_open = True
    return found


def below_the_ladder(group: Group, reference: Reference) -> float:
    """Log compute at which the lowest rung has a run's final loss. It had yet to decay there, so that a
    baseline that decays to that loss needs no more: a bound, and a better one than where the rung ends."""
    lowest = Reference([reference.rungs[0]], reference.axis)
    x = lowest.places()
    losses, _ = lowest.at(x)
    place, _ = crossing(np.log(x), group.finals.mean() - losses)
    return place


def is_only_bound(group: Group, reference: Reference) -> bool:
    """Whether the middle of a run says only what it can't cost more than: its rate had yet to decay there,
    and the baseline it's held against is a ladder of decayed runs."""
    return len(reference.rungs) > 1 and group.config.lr_schedule != 'constant'


def starts_below(group: Group, reference: Reference) -> bool:
    """Whether there is no cost to speak of: one side has the other's final loss before it takes a step."""
    # A checkpoint whose compute is counted doesn't start for nothing.
    run_starts = group.start_loss is not None and not group.sunk and group.start_loss <= reference.means[-1]
    baseline_start = reference.rungs[0].start_loss
    return run_starts or (baseline_start is not None and baseline_start <= group.finals.mean())


def crossing(positions: np.ndarray, rising: np.ndarray) -> tuple[float, bool]:
    """(where a rising series first is at 0 or above, linear in between, nan if never; whether it begins
    there, so that the place is only a bound)."""
    above = np.flatnonzero(rising >= -TINY)
    if len(above) == 0:
        return math.nan, False
    i = int(above[0])
    if i == 0:
        return float(positions[0]), True  # it may have crossed anywhere before
    before, after = rising[i - 1], rising[i]
    share = min(1.0, before / (before - after))
    step = positions[i] - positions[i - 1]
    return float(positions[i - 1] + share * step), False


def add_interval(cost: Ratio, costs: np.ndarray, low: np.ndarray, high: np.ndarray):
    """The costs at which the gap's interval [low, high] holds 0; `costs` fall, and so does the gap."""
    # First crossings from either end: where noise makes a curve cross twice, the interval holds both.
    logs = np.log(costs)
    dearest, cost.high_open = crossing(logs, -low)
    cheapest, cost.low_open = crossing(logs[::-1], high[::-1])
    if math.isnan(dearest):  # even the cheapest end isn't excluded
        dearest, cost.high_open = logs[-1], True
    if math.isnan(cheapest):
        cheapest, cost.low_open = logs[0], True
    cost.low = math.exp(cheapest)
    cost.high = math.exp(dearest)


# ------------------------------------------------------------------------------------------------------------
# all runs of one call


def judge_runs(
    runs: list[Run],
    baselines: list[str] | None = None,
    arms: dict | None = None,
    tuned: tuple = TUNED,
    sigma: float | None = None,
) -> Report:
    """Judge every finished run that isn't a baseline.

    `baselines`: paths of runs, or with `arms` ({path: name of its arm}) names of arms; None: what has one
    stage and starts from scratch. `tuned`: settings whose best value is looked for. `sigma`: the deviation
    between seeds, if it's known. Raises UserError where the baseline is none of the runs, or where several
    different ones could be meant.
    """
    groups, notes = make_groups(runs, arms, tuned)
    ladders = find_ladders(groups, baselines, bool(arms), notes)
    flag_other_data(groups, ladders)  # before anything is compared: losses on other data don't compare
    groups = with_sunk_cost(groups)
    report = Report(groups, ladders, [], notes, sigma, bool(arms))
    baseline_arms = {ladder.arm for ladder in ladders}
    for group in groups:
        # The baseline's own rungs, and what was tried beside them, are what others are judged by.
        if not ladders or group.flags or not group.is_best or group.arm in baseline_arms:
            continue
        ladder = most_alike(group, ladders)
        by_axis = {}
        for axis in AXES:
            comparison = compare(group, ladder, axis, sigma)
            if comparison:
                by_axis[axis] = comparison
        report.judgments.append(Judgment(group, ladder, ladder.nearest(group), by_axis))
    correct(report)
    return report


def correct(report: Report):
    """Holm's correction over all judgments, and the smallest difference that each could have called clear."""
    differences = [judgment.by_axis['flops'].difference for judgment in report.judgments]
    if not differences:
        return
    corrected = stats.holm([difference.p for difference in differences])
    # A single seed is no test, and costs the others nothing.
    tests = max(1, int(np.sum(~np.isnan(corrected))))
    for judgment, difference, p in zip(report.judgments, differences, corrected):
        judgment.p = float(p)
        judgment.sees = stats.critical(difference.df, tests) * difference.se


def find_ladders(
    groups: list[Group], baselines: list[str] | None, by_arm: bool, notes: list[str]
) -> list[Ladder]:
    """The baselines to judge by, one ladder per arm; none, and a note, if there is none that is finished."""
    if baselines:
        chosen = [named_baseline(groups, name, by_arm) for name in baselines]
    else:
        chosen = [group for group in groups if is_full_depth(group)]
    arms = list(dict.fromkeys(group.arm for group in chosen))
    if len(arms) > 1 and not baselines:
        firsts = {}
        for group in chosen:
            firsts.setdefault(group.arm, group.runs[0].path)
        raise UserError(
            'several different runs could be the baseline; name one with --baseline=RUN: '
            + ', '.join(firsts.values())
        )
    ladders = []
    for arm in arms:
        rungs = [group for group in groups if group.arm == arm and not group.flags and group.is_best]
        if rungs:
            ladders.append(Ladder(arm, sorted(rungs, key=lambda rung: rung.budget)))
        else:
            notes.append(f'nothing is judged: the baseline {arm} is not finished')
    if not arms:
        notes.append(
            'nothing is judged: none of these is a run of one stage from scratch; '
            'name one with --baseline=RUN'
        )
    return ladders


def is_full_depth(group: Group) -> bool:
    """Whether nothing grows: one stage, from scratch."""
    return group.config.n_stages == 1 and group.config.init_from == 'scratch'


def named_baseline(groups: list[Group], name: str, by_arm: bool) -> Group:
    """The group that a user calls the baseline. Named by its run, it is also the one that counts of its
    budget."""
    if by_arm:
        named = [group for group in groups if group.arm == name]
        if not named:
            raise UserError(f'baseline {name!r}: there is no run of that arm')
        return named[0]
    wanted = os.path.realpath(name)
    for group in groups:
        if wanted in [os.path.realpath(run.path) for run in group.runs]:
            # Who names a run means this one, not a better one that was tried beside it.
            for rival in groups:
                if rival.arm == group.arm and not rival.flags and is_budget(rival, group):
                    rival.is_best = rival is group
            group.biased = False
            group.left_out = ()
            return group
    raise UserError(f'--baseline={name}: not a run directory, or a run that is left out as a repetition')


def most_alike(group: Group, ladders: list[Ladder]) -> Ladder:
    """Of several baselines the one that starts as the group does, from scratch or from a checkpoint, and is
    trained like it: its optimizer, its learning rate schedule."""

    def unlike(ladder):
        first = ladder.rungs[0]
        return starts_for_nothing(group) != starts_for_nothing(first), len(group.trained_otherwise(first))

    return min(ladders, key=unlike)


def starts_for_nothing(group: Group) -> bool:
    """Whether it starts from a checkpoint, and what that has cost isn't counted."""
    return group.config.init_from != 'scratch' and not group.sunk


def flag_other_data(groups: list[Group], ladders: list[Ladder]):
    """Flag what can't be judged by its baseline (without one: by the first run), since the losses don't
    compare."""
    for group in groups:
        first = most_alike(group, ladders).nearest(group) if ladders else groups[0]
        other = []
        for key, value in group.data.items():
            if value != first.data[key]:
                # Two contents under one name: hashes tell nobody anything.
                told = 'other content' if str(value).startswith('{') else f'{value}, not {first.data[key]}'
                other.append(f'{key} {told}')
        if other:
            group.flags.append('other data: ' + ', '.join(other))


def with_sunk_cost(groups: list[Group]) -> list[Group]:
    """The groups, and behind each that grows a checkpoint whose cost is known a twin that counts this
    cost."""
    both = []
    for group in groups:
        both.append(group)
        sunk = group.known_sunk()
        if sunk:
            name = f'{group.name} + first training'
            arm = f'{group.arm} + first training'
            both.append(dataclasses.replace(group, name=name, arm=arm, sunk=sunk))
    return both


# ------------------------------------------------------------------------------------------------------------
# catching up: when has a growth mixed, and when is its head start gone?


@dataclasses.dataclass
class CatchUp:
    """A grown run beside its baseline, some time after its last growth. Estimates are run minus baseline;
    None where the baseline wasn't trained that long."""

    step: int  # of the run
    tokens: int  # since the last growth
    updates: int  # at full depth with nothing frozen
    at_tokens: stats.Estimate | None  # both after the same number of tokens in all
    at_updates: stats.Estimate | None  # the baseline after as many updates as the run has had at full depth


def catch_up(judgment: Judgment, sigma: float | None = None) -> list[CatchUp]:
    """The gap to the baseline at every evaluation since the last growth; empty for a run that doesn't grow.

    The baseline is the cheapest rung with at least the run's tokens, else the longest. Seeds that were
    evaluated at other steps are interpolated.
    """
    group = judgment.group
    first = group.runs[0]
    growths = first.growth_steps
    if not growths or group.sunk:  # a twin that counts the first training has the same losses
        return []
    began = float(first.where('tokens', growths[-1]))
    # A baseline of equal compute has fewer tokens than a run that was shallow for a while: a longer rung
    # goes on.
    rungs = judgment.ladder.rungs
    enough = [rung for rung in rungs if rung.end('tokens') >= group.end('tokens')]
    rung = enough[0] if enough else rungs[-1]
    points = []
    for step, losses in evaluations_after(group, growths[-1]):
        tokens = float(first.where('tokens', step))
        updates = full_depth_updates(first.phases, step)
        by_tokens = gap(losses, rung, 'tokens', tokens, sigma)
        by_updates = gap(losses, rung, 'step', updates, sigma)
        points.append(CatchUp(step, round(tokens - began), updates, by_tokens, by_updates))
    return points


def evaluations_after(group: Group, growth: int) -> list[tuple[int, np.ndarray]]:
    """(step, loss of each seed) of the evaluations after a growth; of the grown model itself too where all
    seeds have it."""
    found = []
    grown = [run.loss_after_growth(growth) for run in group.judged_runs]
    if None not in grown:
        found.append((growth, np.array(grown)))
    curves = group.judged
    last = min(curve.step[-1] for curve in curves)
    steps = np.unique(np.concatenate([curve.step for curve in curves]))
    for step in steps[(steps > growth) & (steps <= last)]:
        losses = np.array([float(curve.at('step', step)) for curve in curves])
        found.append((int(step), losses))
    return found


def full_depth_updates(phases: list, step: int) -> int:
    """How many of the first `step` updates trained every layer of the final model."""
    updates = 0
    for phase in phases:
        if phase.depth == phases[-1].depth and not phase.frozen:
            updates += max(0, min(step, phase.stop) - phase.start)
    return updates


def gap(losses: np.ndarray, rung: Group, axis: str, at: float, sigma: float | None) -> stats.Estimate | None:
    """Losses of a run's seeds minus a baseline's at some place on its curve."""
    if not rung.start(axis) <= at <= rung.end(axis):
        return None
    return stats.welch(losses, rung.losses_at(axis, at), sigma)


def gone_from(estimates: list[stats.Estimate | None], sign: int) -> int | None:
    """The first of some gaps from which on none is clearly of the given sign (1: the run is behind, -1: it's
    ahead). None if there is none, or where no noise is known."""
    known = [i for i, estimate in enumerate(estimates) if estimate is not None]
    found = None
    for i in reversed(known):
        estimate = estimates[i]
        is_clear = estimate.p < stats.SIGNIFICANT and sign * estimate.value > 0
        if is_clear or math.isnan(estimate.p):
            break
        found = i
    return found
