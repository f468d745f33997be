"""
Verdicts: each run against the best that doesn't grow, at equal compute, with intervals that hold.

    report = judge_runs(read_runs(paths))                  baselines: what has one stage, from scratch
    report = judge_runs(runs, baselines=[path, other])     or what is named
    report = judge_runs(runs, ['full depth', '6 layers'], {path: Place('Gong', '', 4_000), ...},
                        [Question('Gong', 4_000, looks=((1, 2, 3), (1, 2, 3, 4, 5)))])         a study

Report.comparisons are the findings, Report.groups what they rest on, Report.notes what to know before.

  opponent     of the baselines trained alike, on the same data and of the same width the one with the least
               loss at that budget
  difference   loss of the run minus the opponent's, both at the end of their own decay: Welch's t over the
               seeds; in pairs by seed where the runs of a seed start from one checkpoint
  cost         compute of the run over the compute at which the opponent has its loss: the curve through
               the ends of its runs at three budgets, read at the ends of the difference's interval. It
               leaves out the noise of the other budgets. None with one budget
  word         of a declared question: saves or costs (p below .05, corrected by Holm over the declared
               questions, times the planned looks), same (the cost's interval lies within the margin of 1),
               open. '' and why where it can't be answered. All else is exploration and has no word

No loss is read in the middle of a decay, and a seed that diverged or stopped leaves no mean of the others.
"""

import math
import os
from dataclasses import dataclass, field, replace

import numpy as np

from core.common import UserError
from verdict import stats
from verdict.runs import (
    AXES,
    COUNTERS,
    MATCHED,
    TUNED,
    Group,
    Run,
    facts,
    make_groups,
    questions_of,
)
from verdict.stats import Estimate, Interval

MARGIN = 0.1  # of the cost around 1, within which it is the same
EXPONENTS = (0.0, 0.5, 1.0)  # how a ladder of two rungs may bend; not measured, so the interval holds all
BEYOND = 1.1  # how far outside of the opponent's budgets a cost counts as extrapolated
FLAT = 1e-9  # an exponent below this is 0
UNSAFE = 2.0  # seeds of one side over the other's, from which on Welch's t isn't to be trusted
WIDTH = ('n_embd', 'n_head')
# Scores, and whether a better model has more.
SCORES = {'hellaswag_bits': False, 'hellaswag_acc_norm': True, 'hellaswag_margin': True}


@dataclass(frozen=True)
class Question:
    """What a study was made to answer: does this arm save compute at this budget?"""

    arm: str
    budget: float
    scale: str = ''
    looks: tuple = ()  # the seeds of each planned look, each with those before; (): one look at all there are


@dataclass(frozen=True)
class Comparison:
    """An arm against its opponent at one budget."""

    arm: str
    scale: str
    budget: float  # what the study calls it; elsewhere FLOPs
    group: Group | None  # None: no run of it is there
    opponent: str = ''  # name of the arm, '' for none
    against: Group | None = None
    seeds: tuple = ()  # of the arm, as far as they are compared
    opponent_seeds: tuple = ()
    at: float = math.nan  # FLOPs at which the two are compared
    difference: Estimate | None = None  # nats; None where there is none to speak of
    how: str = ''  # 'pairs' | 'Welch'
    p: float = math.nan  # uncorrected
    corrected: float | None = None  # None: exploration
    cost: Interval | None = None  # in FLOPs
    costs: dict = field(default_factory=dict)  # the same by every ledger and the clock, as far as known
    declared: bool = False
    looks: int = 0  # looks taken so far
    planned: int = 1  # looks planned
    word: str = ''  # 'saves' | 'costs' | 'same' | 'open' | ''
    why: str = ''  # why there is no word for a declared question
    needs: tuple = ()  # seeds that the next look waits for, on both sides; () when it's settled
    caution: str = ''
    disagree: tuple = ()  # scores that are better where the loss is worse
    to_full_depth: 'Comparison | None' = None  # where the opponent is another baseline than full depth

    @property
    def settled(self) -> bool:
        return self.word in ('saves', 'costs', 'same')


@dataclass
class Report:
    """What was found about some runs."""

    groups: list[Group]  # as they came
    baselines: list[Group]
    comparisons: list[Comparison]
    notes: list[str]  # what to know before believing any of it
    margin: float
    sigma: float | None

    @property
    def declared(self) -> list[Comparison]:
        return [one for one in self.comparisons if one.declared]

    @property
    def looks(self) -> int:
        """Looks planned at most."""
        return max((one.planned for one in self.declared), default=0)

    def is_baseline(self, group: Group) -> bool:
        return any(group is baseline for baseline in self.baselines)


def judge_runs(
    runs: list[Run],
    baselines: list[str] | None = None,
    places: dict | None = None,
    questions: list[Question] | None = None,
    margin: float = MARGIN,
    sigma: float | None = None,
    tuned: tuple = (),
) -> Report:
    """Judge every run that isn't a baseline.

    `baselines`: paths of runs, or with `places` ({path: Place}) names of arms; None: what has one stage and
    starts from scratch. `questions`: the declared ones; None: every arm at the largest budget. `margin`: what
    counts as the same cost. `sigma`: the deviation between seeds, if it's known. `tuned`: settings of which
    each arm has its own best, besides the learning rates. Raises UserError where a baseline is none of the
    runs.
    """
    groups, notes = make_groups(runs, places)
    chosen = find_baselines(groups, baselines, bool(places))
    if not chosen:
        notes.append('nothing is judged: none of these is a run of one stage from scratch; name one with '
                     '--baseline=RUN')
    report = judge_groups(groups, chosen, questions, margin, sigma, tuned)
    report.notes = notes + caveats(report, tuned)
    return report


def judge_groups(groups, baselines, questions=None, margin=MARGIN, sigma=None, tuned=()) -> Report:
    """Judge groups as judge_runs() does, which says what the arguments are."""
    report = Report(groups, baselines, [], [], margin, sigma)
    if not baselines:
        return report
    if questions is None:
        questions = at_largest_budget(report)
    asked = {(question.arm, question.scale, question.budget): question for question in questions}
    for group in groups:
        question = asked.get((group.arm, group.scale, group.budget))
        if question or not is_reference(group, baselines):
            report.comparisons.append(compare(group, question, baselines, sigma, tuned))
    there = {(group.arm, group.scale, group.budget) for group in groups}
    for place, question in asked.items():
        if place not in there:
            needs = question.looks[0] if question.looks else ()
            report.comparisons.append(Comparison(question.arm, question.scale, question.budget, None,
                                                 declared=True, why='no run of it is there', needs=needs))
    report.comparisons = with_words(report, len(asked))
    return report


def at_largest_budget(report: Report) -> list[Question]:
    """Every arm that isn't a baseline, where most compute was spent."""
    arms = [group for group in report.groups if not report.is_baseline(group)]
    if not arms:
        return []
    largest = max(arms, key=lambda group: group.end('flops'))
    place = (largest.scale, largest.budget)
    return [Question(arm.arm, arm.budget, arm.scale) for arm in arms if (arm.scale, arm.budget) == place]


# ------------------------------------------------------------------------------------------------------------
# the opponent


def find_baselines(groups: list[Group], names: list[str] | None, by_arm: bool) -> list[Group]:
    """The groups to judge by, in the order in which they are named; by default those that don't grow, the
    deepest first."""
    if not names:
        still = [group for group in groups if not group.grows and group.config.init_from == 'scratch']
        return sorted(still, key=lambda group: -group.config.n_layer)
    found = []
    for name in names:
        if by_arm:
            named = [group for group in groups if group.arm == name]
        else:
            named = [group for group in groups
                     if any(os.path.realpath(name) == os.path.realpath(run.path) for run in group.runs)]
        if not named:
            what = 'no run of that arm is there' if by_arm else 'none of the runs, or a repetition'
            raise UserError(f'--baseline={name}: {what}')
        found += [group for group in named if group not in found]
    if not by_arm:
        # A baseline that is named by its run is a ladder, with its like at other budgets.
        budgets = {group.budget for group in found}
        found += [group for group in groups
                  if group.budget not in budgets and any(is_rung(group, one) for one in found)]
    return found


def is_rung(group: Group, other: Group) -> bool:
    """Whether two groups that don't grow are the same but for their budget and what is tuned."""
    is_size = group.scale == other.scale and group.config.n_layer == other.config.n_layer
    return is_size and not group.grows and not any(unlike(group, other, ()))


def unlike(group: Group, other: Group, tuned: tuple) -> tuple:
    """How far a baseline is from being a fair opponent; the least is the most alike."""
    return (
        sum(value != other.data[key] for key, value in group.data.items()),
        (group.config.init_from == 'scratch') != (other.config.init_from == 'scratch'),
        sum(getattr(group.config, name) != getattr(other.config, name) for name in WIDTH),
        len(group.trained_otherwise(other, tuned)),
    )


def alike(group: Group, baselines: list[Group], tuned: tuple = ()) -> list[Group]:
    """The baselines that are as fair opponents as there are, at all budgets; not the group's own arm."""
    others = [baseline for baseline in baselines
              if baseline.arm != group.arm and baseline.scale == group.scale]
    how_far = [unlike(group, baseline, tuned) for baseline in others]
    return [baseline for baseline, far in zip(others, how_far) if far == min(how_far)]


def is_reference(group: Group, baselines: list[Group]) -> bool:
    """Whether a group is what others are seen beside: of baselines that are trained alike the one named
    first. The others are judged, too."""
    if not any(group is baseline for baseline in baselines):
        return False
    names = [baseline.arm for baseline in baselines]
    rivals = [rival for rival in alike(group, baselines) if rival.budget == group.budget]
    if not rivals or any(unlike(group, rivals[0], ())):
        return True
    return all(names.index(group.arm) < names.index(rival.arm) for rival in rivals)


def at_budget(group: Group, fair: list[Group]) -> list[Group]:
    """Of fair opponents those that can be read at the group's budget."""
    same = [baseline for baseline in fair if baseline.budget == group.budget]
    if same or group.config.lr_schedule != 'constant':
        return same
    # At a constant rate each point of a run is the end of a shorter one: there is no decay to be in.
    constant = [baseline for baseline in fair if baseline.config.lr_schedule == 'constant']
    longer = [baseline for baseline in constant if baseline.budget > group.budget]
    if longer:
        return [min(longer, key=lambda baseline: baseline.budget)]
    return [max(constant, key=lambda baseline: baseline.budget)] if constant else []


def best_of(groups: list[Group], seeds: tuple | None) -> Group:
    """The least mean loss, over the seeds of the first look where there are several; one that diverged is no
    opponent if there is another."""

    def order(group):
        finals = group.finals(seeds)
        return group.diverges(seeds), finals.mean() if len(finals) else math.inf

    return min(groups, key=order)


# ------------------------------------------------------------------------------------------------------------
# one comparison


def compare(group: Group, question: Question | None, baselines: list[Group], sigma, tuned) -> Comparison:
    """A group against its opponent, before anything is corrected."""
    looks = question.looks if question else ()
    found = Comparison(group.arm, group.scale, group.budget, group, declared=bool(question),
                       planned=max(1, len(looks)), needs=looks[0] if looks else ())
    rivals = at_budget(group, alike(group, baselines, tuned))
    if not rivals:
        return replace(found, why='no baseline ends at this budget')
    against = best_of(rivals, looks[0] if looks else None)
    found = measure(replace(found, opponent=against.arm, against=against), looks, rivals, baselines, sigma)
    if found.difference and found.difference.value > 0:
        # To be worse than the best of several is easier than to be worse than one of them.
        found = replace(found, p=min(1.0, found.p * len(rivals)))
    full = [rival for rival in rivals if rival.config.n_layer == group.config.n_layer] or rivals
    if full[0] is not against:
        beside = replace(found, opponent=full[0].arm, against=full[0], declared=False)
        found = replace(found, to_full_depth=measure(beside, looks, full[:1], baselines, sigma))
    return found


def measure(found: Comparison, looks: tuple, rivals: list, baselines: list, sigma) -> Comparison:
    """Difference, p and costs of an arm against its opponent; why, where there can be no verdict."""
    group, against = found.group, found.against
    wrong = not_comparable(group, against)
    if wrong:
        return replace(found, why=wrong, looks=0, needs=())
    taken = 0  # looks
    while taken < len(looks) and set(looks[taken]) <= set(group.seeds) & set(against.seeds):
        taken += 1
    coming = looks[taken] if taken < len(looks) else ()
    why = missing_seeds(found, rivals, coming, bool(looks), taken)
    measured = difference_of(found, looks[taken - 1] if taken else None, sigma)
    found = replace(found, looks=taken if looks else int(not why), why=why, needs=coming, **measured)
    if found.difference is None:
        return replace(found, looks=0, why=why or 'one of the two has no evaluation at that compute')
    if math.isnan(found.p):
        found = replace(found, looks=0, why=why or 'one seed a side has no spread: it takes two, or --sigma')
    rungs = ladder_of(against, baselines)
    costs = {axis: cost_for_same_loss(found, rungs, axis) for axis in AXES}
    costs = {axis: cost for axis, cost in costs.items() if cost}
    return replace(found, cost=costs.get('flops'), costs=costs, disagree=disagreeing(found))


def not_comparable(group: Group, against: Group) -> str:
    """Why two groups can't be compared at all; '' if they can."""
    for one in (group, against):
        if one.mixed:
            return f'{one.name}: its seeds differ in {one.mixed} and are not pooled'
    differ = [key for key, value in group.data.items() if value != against.data[key]]
    told = [key if key == 'data' else f'{key} {group.data[key]}, not {against.data[key]}' for key in differ]
    return f'not measured on what {against.name} is: {", ".join(told)}' if told else ''


def missing_seeds(found: Comparison, rivals: list[Group], coming: tuple, looks: bool, taken: int) -> str:
    """Why there is no verdict yet, or can't be one: which seeds aren't done; '' if all are.

    `coming`: the seeds of the next look; without looks all seeds that there are count.
    """
    def lost(one):
        return [(one, run) for run in one.lost if not looks or run.seed in coming]

    sides = (found.group, found.against)
    missing = lost(found.group) + lost(found.against)
    told = []
    if taken:
        # The verdict of a look stands, until a further one can't be taken at all.
        missing = [(one, run) for one, run in missing if run.ended == 'diverged']
    else:
        # A rival that is under way may become the opponent, one that diverged is none.
        for rival in rivals:
            if rival is not found.against:
                missing += [(one, run) for one, run in lost(rival) if run.ended != 'diverged']
        absent = [(one, sorted(set(coming) - {run.seed for run in one.runs})) for one in sides]
        told = [f'{one.name}: seed {", ".join(map(str, seeds))} is not there'
                for one, seeds in absent if seeds]
    for one, run in missing:
        step = run.info.get('ended_step', run.step)
        told.append(f'{one.name}: seed {run.seed} {run.ended} at step {step:,} of {run.total_steps:,}')
    return '; '.join(told)


def difference_of(found: Comparison, seeds: tuple | None, sigma: float | None) -> dict:
    """The difference at equal compute and what it rests on, as fields of a Comparison."""
    group, against = found.group, found.against
    # Whole steps may leave two ends of one budget some permille apart.
    at = group.end('flops')
    if group.budget != against.budget:
        at = min(at, against.end('flops'))
    mine, theirs = final_losses(group, at, seeds), final_losses(against, at, seeds)
    if not mine or not theirs:
        return {'at': at}
    pairs = [seed for seed in mine if seed in theirs]
    if len(pairs) > 1 and sigma is None and all(same_start(group, against, seed) for seed in pairs):
        mine, theirs = {seed: mine[seed] for seed in pairs}, {seed: theirs[seed] for seed in pairs}
        difference, how = stats.paired(list(mine.values()), list(theirs.values())), 'pairs'
    else:
        difference, how = stats.welch(list(mine.values()), list(theirs.values()), sigma), 'Welch'
    sizes = sorted((len(mine), len(theirs)))
    caution = ''
    if how == 'Welch' and sigma is None and 1 < sizes[0] <= sizes[1] / UNSAFE:
        caution = f'{sizes[0]} seeds against {sizes[1]}: unsafe where one side scatters more'
    return {'at': at, 'seeds': tuple(mine), 'opponent_seeds': tuple(theirs), 'difference': difference,
            'how': how, 'p': float(difference.p), 'caution': caution}


def final_losses(group: Group, at: float, seeds: tuple | None) -> dict:
    """{seed: loss at the end}; of a run that goes on beyond `at`, at a constant rate, its loss there."""
    losses = group.finals(seeds)
    if at < group.end('flops') * (1 - MATCHED):
        losses = group.losses_at('flops', at, seeds)
    kept = [group.seeds[i] for i in group.of(seeds)]
    return {seed: float(loss) for seed, loss in zip(kept, losses) if not math.isnan(loss)}


def same_start(group: Group, against: Group, seed: int) -> bool:
    """Whether the two runs of a seed start from the same checkpoint."""
    starts = []
    for one in (group, against):
        run = one.runs[[run.seed for run in one.runs].index(seed)]
        made = run.info.get('init_from') or {}
        known = [made[key] for key in ('sha256', 'path') if made.get(key)]
        starts.append(known[0] if known else run.config.init_from)
    return starts[0] == starts[1] != 'scratch'


def disagreeing(found: Comparison) -> tuple:
    """The scores by which the side with the lower loss is the worse one, where it is known which that is."""
    if found.p >= stats.SIGNIFICANT:
        return ()
    names = []
    for name, more_is_better in SCORES.items():
        mine, theirs = found.group.score(name), found.against.score(name)
        if mine is None or theirs is None or mine == theirs:
            continue
        is_better = (mine > theirs) == more_is_better
        if is_better != (found.difference.value < 0):
            names.append(name)
    return tuple(names)


# ------------------------------------------------------------------------------------------------------------
# what it costs


def cost_for_same_loss(found: Comparison, rungs: list[Group], axis: str) -> Interval | None:
    """Compute of the run over the compute at which its opponent, decayed, has its loss, by one ledger or the
    clock. `rungs`: the opponent at each budget. None with one, or where their loss doesn't fall."""
    if len(rungs) < 2 or found.group.budget != found.against.budget:
        return None
    end = found.group.end(axis)
    compute = np.array([rung.end(axis) for rung in rungs])
    if not (np.all(np.isfinite(compute)) and np.all(np.diff(compute, prepend=0) > 0) and end > 0):
        return None
    level = found.against.finals(found.opponent_seeds).mean()
    losses = [level if rung is found.against else rung.finals().mean() for rung in rungs]
    # The budget's own rung and its neighbors: three are a curve.
    own = [rung is found.against for rung in rungs].index(True)
    first = max(0, min(own - 1, len(rungs) - 3))
    near = slice(first, first + 3)
    if np.any(np.diff(losses[near]) >= 0):
        return None
    difference = found.difference
    ends = level + np.array([difference.value, difference.low, difference.high])
    needs = compute_at(ends, compute[near], np.array(losses[near]))  # (exponents, 3)
    with np.errstate(divide='ignore'):
        costs = end / needs
    middle = costs[len(costs) // 2]
    return Interval(float(middle[0]), float(costs[:, 1].min()), float(costs[:, 2].max()))


def ladder_of(against: Group, baselines: list[Group]) -> list[Group]:
    """The opponent at each budget at which it is finished, ascending, with the best of what is tuned. At its
    own budget it's the opponent itself."""
    by_budget = {}
    for baseline in baselines:
        if baseline.done and not baseline.lost and is_rung(baseline, against):
            by_budget.setdefault(baseline.budget, []).append(baseline)
    rungs = {budget: best_of(rivals, None) for budget, rivals in by_budget.items()}
    rungs[against.budget] = against
    return [rungs[budget] for budget in sorted(rungs)]


def compute_at(loss: np.ndarray, compute: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Compute at which a baseline has some losses, by the curve L = E + A C^-k through two or three rungs.

    loss (n,), compute and falling losses (2,) or (3,) -> (1, n), or with two rungs (3, n): one row for each
    of EXPONENTS. inf for a loss below E. Written as L = L1 - B (1 - c^-k)/k with c = C/C1, it holds for a
    straight line in log C (k = 0) and for one that bends the other way (k < 0).
    """
    logs = np.log(compute / compute[0])
    exponents = EXPONENTS
    if len(compute) == 3:
        from scipy.optimize import brentq  # here: a quarter of a second that most calls don't need

        share = (losses[0] - losses[1]) / (losses[0] - losses[2])
        bounds = (-10.0, 10.0)
        off = [bend(logs[1], k) / bend(logs[2], k) - share for k in bounds]
        if off[0] * off[1] < 0:
            exponents = (brentq(lambda k: bend(logs[1], k) / bend(logs[2], k) - share, *bounds),)
        else:
            exponents = (bounds[int(abs(off[1]) < abs(off[0]))],)
    found = []
    for k in exponents:
        slope = (losses[0] - losses[-1]) / bend(logs[-1], k)
        bent = (losses[0] - loss) / slope
        with np.errstate(divide='ignore'):
            # What is left of c^-k: at 0 the loss is E, which no compute reaches.
            log_c = bent if abs(k) < FLAT else -np.log1p(np.maximum(-1.0, -k * bent)) / k
        found.append(compute[0] * np.exp(log_c))
    return np.array(found)


def bend(log_c: float, k: float) -> float:
    """(1 - c^-k) / k, which is log c for k = 0."""
    return log_c if abs(k) < FLAT else -math.expm1(-k * log_c) / k


# ------------------------------------------------------------------------------------------------------------
# the words, and what to know before


def with_words(report: Report, tests: int) -> list[Comparison]:
    """The comparisons, those of declared questions with their corrected p and their word.

    `tests`: questions that were declared. One that can't be answered counts, as one of p = 1.
    """
    p = [one.p * one.planned if one.declared and one.looks else math.nan for one in report.comparisons]
    corrected = stats.holm(np.minimum(1, p), tests) if p else []
    found = []
    for one, level in zip(report.comparisons, corrected):
        if one.declared:
            one = with_word(one, float(level), report.margin)
        found.append(one)
    return found


def with_word(found: Comparison, corrected: float, margin: float) -> Comparison:
    """A declared comparison with its word, or with why it has none, and the seeds that it still asks for."""
    if math.isnan(corrected):
        has_diverged = 'diverged' in found.why
        return replace(found, needs=() if has_diverged else found.needs)
    word = 'open'
    if corrected < stats.SIGNIFICANT:
        word = 'saves' if found.difference.value < 0 else 'costs'
    elif found.cost and found.cost.low >= 1 - margin and found.cost.high <= 1 + margin:
        word = 'same'
    if word != 'open':
        return replace(found, corrected=corrected, word=word, why='', needs=())
    if found.why:  # the next look can't be taken
        return replace(found, corrected=corrected, needs=())
    return replace(found, corrected=corrected, word=word)


def caveats(report: Report, tuned: tuple) -> list[str]:
    """What limits the verdicts, one line each: training, starts, seeds, machines."""
    notes = []
    for one in report.comparisons:
        if not one.against or one.difference is None:
            continue
        names = one.group.trained_otherwise(one.against, tuned)
        mine, theirs = one.group.config, one.against.config
        names += [name for name in WIDTH if getattr(mine, name) != getattr(theirs, name)]
        told = [f'{name} {getattr(mine, name)}, not {getattr(theirs, name)}' for name in names]
        if told:
            notes.append(f'{one.group.name} differs from {one.against.name} in more than growth: '
                         + ', '.join(told))
    for group in report.groups:
        notes += about_group(group)
    notes += best_of_many(report)
    notes += beyond_the_ladder(report)
    return notes + other_machines(report.groups)


def beyond_the_ladder(report: Report) -> list[str]:
    """Costs that no budget of the opponent encloses: its curve is drawn out beyond its runs."""
    names = []
    for one in report.comparisons:
        if one.cost is None:
            continue
        ends = [rung.end('flops') for rung in ladder_of(one.against, report.baselines)]
        cost = one.group.end('flops') / np.array([min(ends), max(ends)])  # at its lowest and highest rung
        if one.cost.value > BEYOND * cost[0] or one.cost.value * BEYOND < cost[1]:
            names.append(one.group.name)
    if not names:
        return []
    return [f'{shortened(names)}: the same loss lies beyond the budgets at which the opponent was trained: '
            'the cost is extrapolated']


def about_group(group: Group) -> list[str]:
    notes = []
    if group.start_cost:
        cost = 'an unknown number of' if math.isnan(group.start_cost) else f'{group.start_cost:.3g}'
        notes.append(f'{group.name}: starts from a checkpoint; the {cost} FLOPs behind it are not counted')
    if group.lost and group.done:
        how = ', '.join(f'seed {run.seed} {run.ended}' for run in group.lost)
        notes.append(f'{group.name}: {how}; its mean is of the other {len(group.done)} of {len(group.runs)}')
    finals = group.finals()
    if len(finals) > 1 and len(set(finals)) == 1:
        notes.append(f'{group.name}: all seeds end at exactly {finals[0]:.4f}; are these copies of one run?')
    return notes


def best_of_many(report: Report) -> list[str]:
    """Groups that differ in a tuned setting alone: the best of them was chosen on the seeds that judge it."""
    by_rest = {}
    for group in report.groups:
        run = group.runs[0]
        rest = tuple((name, value) for name, value in facts(run).items() if name not in TUNED)
        by_rest.setdefault((group.scale, rest), []).append(group)
    return [f'{"; ".join(group.name for group in many)}: differ in a tuned setting alone, and the best of '
            f'{len(many)} is exploration' for many in by_rest.values() if len(many) > 1]


def other_machines(groups: list[Group]) -> list[str]:
    """In what machine, code and questions the runs differ, with the names of those that do."""
    by_fact = {}
    for group in groups:
        for run in group.runs:
            for fact, value in provenance(run).items():
                names = by_fact.setdefault(fact, {}).setdefault(value, [])
                if group.name not in names:
                    names.append(group.name)
    notes = []
    for fact, values in by_fact.items():
        if len(values) > 1:
            told = [f'{value} ({shortened(names)})' for value, names in values.items()]
            notes.append(f'the runs differ in {fact}: {"; ".join(told)}')
    return notes


def provenance(run: Run) -> dict[str, str]:
    """Code, versions, machine and questions of a run, as far as run.json says them."""
    found = {}
    commit = run.info.get('git_commit')
    if commit:
        found['code'] = str(commit)[:10] + (' + changes' if run.info.get('git_dirty') else '')
    versions = run.info.get('versions')
    if type(versions) is dict:
        found |= {name: str(version) for name, version in versions.items() if version is not None}
    for name in ('device', 'cpu_capability', 'device_count', 'world_size'):
        if run.info.get(name) is not None:
            found[name] = str(run.info[name])
    if run.last_score:
        found['HellaSwag questions'] = questions_of(run)
    return found


def shortened(names: list[str]) -> str:
    """The first three names, and how many there are besides."""
    rest = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return '; '.join(names[:3]) + rest


# ------------------------------------------------------------------------------------------------------------
# catching up: when has a growth mixed, and what is left of its lead?


@dataclass(frozen=True)
class CatchUp:
    """A grown run beside its opponent, some time after its last growth. Estimates are run minus opponent;
    None where the opponent wasn't trained that long."""

    step: int  # of the run
    tokens: int  # since the last growth
    updates: int  # at full depth with nothing frozen
    at_tokens: Estimate | None  # both after the same number of tokens in all
    at_updates: Estimate | None  # the opponent after as many updates as the run has had at full depth


def catch_up(found: Comparison, sigma: float | None = None) -> list[CatchUp]:
    """The gap to the opponent at every evaluation since the last growth; [] for a run that doesn't grow."""
    if not found.against or found.difference is None or not found.group.done[0].growth_steps:
        return []
    group = found.group
    first = group.done[0]
    growth = first.growth_steps[-1]
    began = float(first.where('tokens', growth))
    points = []
    for step, losses in evaluations_after(group, growth, found.seeds):
        tokens = float(first.where('tokens', step))
        updates = full_depth_updates(first.phases, step)
        gaps = [gap(found, losses, axis, at, sigma) for axis, at in (('tokens', tokens), ('step', updates))]
        points.append(CatchUp(step, round(tokens - began), updates, *gaps))
    return points


def evaluations_after(group: Group, growth: int, seeds: tuple) -> list[tuple[int, np.ndarray]]:
    """(step, loss of each seed) of the evaluations after a growth; of the grown model itself too where all
    seeds have it."""
    found = []
    grown = [group.done[i].loss_after_growth(growth) for i in group.of(seeds)]
    if None not in grown:
        found.append((growth, np.array(grown)))
    for step in group.mean.step:
        if step > growth:
            found.append((int(step), group.losses_at('step', step, seeds)))
    return found


def full_depth_updates(phases: list, step: int) -> int:
    """How many of the first `step` updates trained every layer of the final model."""
    updates = 0
    for phase in phases:
        if phase.depth == phases[-1].depth and not phase.frozen:
            updates += max(0, min(step, phase.stop) - phase.start)
    return updates


def gap(found: Comparison, losses: np.ndarray, axis: str, at: float, sigma: float | None) -> Estimate | None:
    """Losses of a run's seeds minus its opponent's at some place on its curve; None beyond its curve."""
    theirs = found.against.losses_at(axis, at, found.opponent_seeds) if at > 0 else np.array(math.nan)
    if np.isnan(theirs).any():
        return None
    return stats.paired(losses, theirs) if found.how == 'pairs' else stats.welch(losses, theirs, sigma)


# ------------------------------------------------------------------------------------------------------------
# for other programs


def rows(report: Report) -> list[dict]:
    """All numbers, unrounded, one row a comparison and one for each group that has none; None where there is
    none."""
    found = [row_of(one.group, one, report) for one in report.comparisons]
    compared = [one.group for one in report.comparisons]
    found += [row_of(group, None, report) for group in report.groups
              if not any(group is one for one in compared)]
    return found


def row_of(group: Group | None, one: Comparison | None, report: Report) -> dict:
    place = one or group
    row = {'run': group.name if group else place.arm, 'arm': place.arm, 'scale': place.scale,
           'budget': place.budget}
    if group:
        row |= {'directories': ' '.join(run.path for run in group.runs),
                'baseline': int(report.is_baseline(group)),
                'ended': ' '.join(run.ended for run in group.runs), **group.last()}
    if one:
        row |= {'judged_by': one.opponent, 'declared': int(one.declared), 'looks': one.looks,
                'verdict': one.word, 'why': one.why, 'how': one.how, 'at': one.at, 'p': one.p,
                'corrected': one.corrected, 'caution': one.caution, 'disagree': ' '.join(one.disagree),
                **numbers('difference', one.difference)}
        for axis in AXES:
            row |= numbers(f'{axis}:cost', one.costs.get(axis))
        beside = one.to_full_depth
        row |= numbers('to_full_depth', beside.difference if beside else None)
    return {key: without_nan(value) for key, value in row.items()}


def numbers(name: str, interval: Interval | None) -> dict:
    interval = interval or Interval(math.nan, math.nan, math.nan)
    return {name: interval.value, f'{name}_low': interval.low, f'{name}_high': interval.high}


def without_nan(value):
    """None for what is no number, since JSON has none; numpy's numbers as Python's."""
    if isinstance(value, float):  # numpy's float64 is one, too
        return float(value) if math.isfinite(value) else None
    return value


def curve_rows(report: Report) -> list[dict]:
    """Every evaluation of every run, one row each, with the run's place beside it."""
    found = []
    for group in report.groups:
        for run in group.runs:
            where = {'run': run.path, 'arm': group.arm, 'scale': group.scale, 'budget': group.budget,
                     'seed': run.seed}
            for record in run.evals()[0]:
                scores = {key: value for key, value in record.items() if key.startswith('hellaswag_')}
                found.append({**where, **{key: record[key] for key in COUNTERS},
                              'val_loss': record['val_loss'], **scores})
    return found
