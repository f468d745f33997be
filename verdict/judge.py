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

import itertools
import math
import os
from dataclasses import dataclass, field

import numpy as np

from config import TrainConfig
from core.common import UserError
from verdict import stats
from verdict.runs import AXES, MATCHED, Group, Place, Run, make_groups, place_text
from verdict.stats import Estimate, Interval

MARGIN = 0.1  # of the cost around 1, within which it is the same
EXPONENTS = (0.0, 0.5, 1.0)  # how a ladder of two rungs may bend; not measured, so the interval holds all
BEYOND = 1.1  # how far outside of the opponent's budgets a cost counts as extrapolated
FLAT = 1e-9  # an exponent below this is 0
STEEPEST = 10.0  # exponent
UNSAFE = 2.0  # seeds of one side over the other's, from which on Welch's t isn't to be trusted
WIDTH = ('n_embd', 'n_head')
MACHINE = ('code', 'torch', 'device', 'dtype')  # said even where all runs share it
# Scores, and whether a better model has more.
SCORES = {'hellaswag_bits': False, 'hellaswag_acc_norm': True, 'hellaswag_margin': True}

@dataclass(frozen=True)
class Question:
    """What a study was made to answer: does this arm save compute at this budget?"""

    arm: str
    budget: float
    scale: str = ''
    looks: tuple = ()  # the seeds of each planned look, each with those before; (): one look at all there are

    @property
    def place(self) -> Place:
        return Place(self.arm, self.scale, self.budget)

@dataclass
class Comparison:
    """An arm against its opponent at one budget."""

    arm: str
    scale: str
    budget: float  # what the study calls it; elsewhere FLOPs
    group: Group | None  # None: no run of it is there
    name: str  # of the group
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

    @property
    def declared(self) -> list[Comparison]:
        return [one for one in self.comparisons if one.declared]

def judge_runs(runs: list[Run], baselines: list[str] | None = None, places: dict | None = None,
               questions: list[Question] | None = None, margin: float = MARGIN, sigma: float | None = None,
               tuned: tuple = ()) -> Report:
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
    report = Report(groups, baselines, [], [])
    if not baselines:
        return report
    if questions is None:
        questions = at_largest_budget(report)
    asked = {question.place: question for question in questions}
    for group in groups:
        question = asked.get(group.place)
        if question or not is_reference(group, baselines):
            report.comparisons.append(compare(group, question, baselines, sigma, tuned))
    there = {group.place for group in groups}
    for question in questions:
        if question.place not in there:
            first_look = question.looks[0] if question.looks else ()
            name = place_text(*question.place)
            report.comparisons.append(Comparison(*question.place, None, name, declared=True, needs=first_look,
                                                 why='no run of it is there'))
    put_words(report, len(asked), margin)
    return report

def at_largest_budget(report: Report) -> list[Question]:
    """Every arm that isn't a baseline, where most compute was spent."""
    arms = [group for group in report.groups if group not in report.baselines]
    largest = max(arms, key=lambda group: group.end('flops'), default=None)
    return [Question(arm.arm, arm.budget, arm.scale) for arm in arms
            if (arm.scale, arm.budget) == (largest.scale, largest.budget)]

def find_baselines(groups: list[Group], names: list[str] | None, by_arm: bool) -> list[Group]:
    """The groups to judge by, in the order in which they are named; by default those that don't grow, the
    deepest first."""
    if not names:
        still = [group for group in groups if not group.grows and group.config.init_from == 'scratch']
        return sorted(still, key=lambda group: -group.config.n_layer)
    called = {}  # {what it is named by: groups}
    for group in groups:
        for run in group.runs:
            called.setdefault(group.arm if by_arm else os.path.realpath(run.path), []).append(group)
    found = []
    for name in names:
        named = called.get(name if by_arm else os.path.realpath(name))
        if not named:
            raise UserError(f'--baseline={name}: none of the runs, or a repetition')
        found += [group for group in dict.fromkeys(named) if group not in found]
    if not by_arm:
        # A baseline that is named by its run is a ladder, with its like at other budgets.
        budgets = {group.budget for group in found}
        for group in groups:
            if group.budget not in budgets and any(is_rung(group, one) for one in found):
                found.append(group)
    return found

def is_rung(group: Group, other: Group) -> bool:
    """Whether two groups that don't grow are the same but for their budget and what is tuned."""
    is_size = group.scale == other.scale and group.config.n_layer == other.config.n_layer
    return is_size and not group.grows and not any(unlike(group, other))

def unlike(group: Group, other: Group, tuned: tuple = ()) -> tuple:
    """How far a baseline is from being a fair opponent; the least is the most alike."""
    return (
        sum(value != other.data[key] for key, value in group.data.items()),
        (group.config.init_from == 'scratch') != (other.config.init_from == 'scratch'),
        sum(getattr(group.config, name) != getattr(other.config, name) for name in WIDTH),
        len(group.trained_otherwise(other, tuned)),
    )

def is_reference(group: Group, baselines: list[Group]) -> bool:
    """Whether a group is what others are seen beside: of baselines that are trained alike the one named
    first. The others are judged, too."""
    earlier = itertools.takewhile(lambda baseline: baseline.arm != group.arm, baselines)
    rivals = [one for one in earlier if (one.scale, one.budget) == (group.scale, group.budget)]
    return group in baselines and all(any(unlike(group, rival)) for rival in rivals)

def find_rivals(group: Group, baselines: list[Group], tuned: tuple) -> list[Group]:
    """The baselines that are as fair opponents as there are, as far as they can be read at the group's
    budget."""
    others = [baseline for baseline in baselines
              if baseline.arm != group.arm and baseline.scale == group.scale]
    distances = [unlike(group, baseline, tuned) for baseline in others]
    fair = [baseline for baseline, distance in zip(others, distances) if distance == min(distances)]
    same = [baseline for baseline in fair if baseline.budget == group.budget]
    if same or group.config.lr_schedule != 'constant':
        return same
    # At a constant rate each point of a run is the end of a shorter one: there is no decay to be in.
    constant = [baseline for baseline in fair if baseline.config.lr_schedule == 'constant']
    constant.sort(key=lambda baseline: baseline.budget)
    longer = [baseline for baseline in constant if baseline.budget > group.budget]
    return longer[:1] or constant[-1:]

def best_of(groups: list[Group], seeds: tuple | None) -> Group:
    """The least mean loss, over the seeds of the first look where there are several; one that diverged is no
    opponent if there is another."""

    def order(group):
        finals = group.finals(seeds)
        return group.diverges(seeds), finals.mean() if len(finals) else math.inf

    return min(groups, key=order)

def compare(group: Group, question: Question | None, baselines: list[Group], sigma, tuned) -> Comparison:
    """A group against its opponent, before anything is corrected."""
    looks = question.looks if question else ()
    found = Comparison(*group.place, group, group.name, declared=bool(question), planned=max(1, len(looks)),
                       needs=looks[0] if looks else ())
    rivals = find_rivals(group, baselines, tuned)
    if not rivals:
        found.why = 'no baseline ends at this budget'
        return found
    found.against = best_of(rivals, looks[0] if looks else None)
    measure(found, looks, rivals, baselines, sigma)
    if found.difference and found.difference.value > 0:
        # To be worse than the best of several is easier than to be worse than one of them.
        found.p = min(1.0, found.p * len(rivals))
    as_deep = [rival for rival in rivals if rival.config.n_layer == group.config.n_layer]
    full_depth = (as_deep or rivals)[0]
    if full_depth is not found.against:
        found.to_full_depth = Comparison(*group.place, group, group.name, against=full_depth)
        measure(found.to_full_depth, looks, [full_depth], baselines, sigma)
    return found

def measure(found: Comparison, looks: tuple, rivals: list, baselines: list, sigma):
    """Fill in the difference, p and costs of an arm against its opponent; why, where there can be no
    verdict."""
    group, against = found.group, found.against
    found.opponent = against.arm
    found.why = not_comparable(group, against)
    if found.why:
        found.needs = ()
        return
    taken = 0  # looks
    there = set(group.seeds) & set(against.seeds)
    while taken < len(looks) and there.issuperset(looks[taken]):
        taken += 1
    found.needs = looks[taken] if taken < len(looks) else ()
    found.why = missing_seeds(found, rivals, bool(looks), taken)
    found.looks = taken if looks else int(not found.why)
    find_difference(found, looks[taken - 1] if taken else None, sigma)
    if math.isnan(found.p):
        found.looks = 0
        what = 'one seed a side has no spread: it takes two, or --sigma'
        found.why = found.why or (what if found.difference else 'one of the two has no evaluation there')
    if found.difference:
        rungs = ladder_of(against, baselines)
        for axis in AXES:
            cost = cost_for_same_loss(found, rungs, axis)
            if cost:
                found.costs[axis] = cost
        found.cost = found.costs.get('flops')
        found.caution = '; '.join(cautions(found, rungs, sigma))
        found.disagree = disagreeing(found)

def not_comparable(group: Group, against: Group) -> str:
    """Why two groups can't be compared at all; '' if they can."""
    for one in (group, against):
        if one.mixed:
            return f'{one.name}: its seeds differ in {one.mixed} and are not pooled'
    told = []
    for key, value in group.data.items():
        if value != against.data[key]:
            told.append(key if key == 'data' else f'{key} {value}, not {against.data[key]}')
    return f'not measured on what {against.name} is: {", ".join(told)}' if told else ''

def missing_seeds(found: Comparison, rivals: list[Group], has_looks: bool, taken: int) -> str:
    """Why there is no verdict yet, or can't be one: which seeds aren't done, of the next look or, without
    looks, of all that there are; '' if none is missing."""
    told = []
    others = [rival for rival in rivals if rival is not found.against]
    for one in (found.group, found.against, *others):
        is_side = one not in others
        absent = set(found.needs) - {run.seed for run in one.runs}
        if absent and is_side and not taken:
            told.append(f'{one.name}: seed {", ".join(map(str, sorted(absent)))} is not there')
        for run in one.lost:
            # The verdict of a look stands until a further one can't be taken at all. A rival that is under
            # way may become the opponent, one that diverged is none.
            counts = is_side if run.ended == 'diverged' else not taken
            if counts and (not has_looks or run.seed in found.needs):
                step = run.info.get('ended_step', run.step)
                told.append(f'{one.name}: seed {run.seed} {run.ended} at step {step:,} of '
                            f'{run.plan.total_steps:,}')
    return '; '.join(told)

def find_difference(found: Comparison, seeds: tuple | None, sigma: float | None):
    """Fill in the difference at equal compute and what it rests on."""
    group, against = found.group, found.against
    # Whole steps may leave two ends of one budget some permille apart.
    found.at = group.end('flops')
    if group.budget != against.budget:
        found.at = min(found.at, against.end('flops'))
    mine = losses_at(group, found.at, seeds)
    theirs = losses_at(against, found.at, seeds)
    if not mine or not theirs:
        return
    pairs = [seed for seed in mine if seed in theirs]
    if len(pairs) > 1 and sigma is None and all(same_start(group, against, seed) for seed in pairs):
        mine = {seed: mine[seed] for seed in pairs}
        theirs = {seed: theirs[seed] for seed in pairs}
        found.how = 'pairs'
        found.difference = stats.paired(list(mine.values()), list(theirs.values()))
    else:
        found.how = 'Welch'
        found.difference = stats.welch(list(mine.values()), list(theirs.values()), sigma)
    found.seeds, found.opponent_seeds = tuple(mine), tuple(theirs)
    found.p = float(found.difference.p)

def losses_at(group: Group, at: float, seeds: tuple | None) -> dict:
    """{seed: loss at the end}; of a run that goes on beyond `at`, at a constant rate, its loss there."""
    is_longer = at < group.end('flops') * (1 - MATCHED)
    losses = group.losses(seeds, 'flops' if is_longer else '', at)
    return {seed: loss for seed, loss in losses.items() if not math.isnan(loss)}

def same_start(group: Group, against: Group, seed: int) -> bool:
    """Whether the two runs of a seed start from the same checkpoint."""
    starts = []
    for run in (*group.runs, *against.runs):
        if run.seed == seed:
            made = run.info.get('init_from') or {}
            starts.append(made.get('sha256') or made.get('path') or run.config.init_from)
    return starts[0] == starts[1] != 'scratch'

def cautions(found: Comparison, rungs: list[Group], sigma: float | None) -> list[str]:
    """What to think of before relying on a difference and its cost."""
    told = []
    few, many = sorted((len(found.seeds), len(found.opponent_seeds)))
    if found.how == 'Welch' and sigma is None and 1 < few <= many / UNSAFE:
        told.append(f'{few} seeds against {many}: unsafe where one side scatters more')
    if found.cost:
        ends = [rung.end('flops') for rung in rungs]
        at_least, at_most = found.group.end('flops') / max(ends), found.group.end('flops') / min(ends)
        if found.cost.value > BEYOND * at_most or found.cost.value * BEYOND < at_least:
            told.append("the cost is extrapolated beyond the opponent's budgets")
    return told

def disagreeing(found: Comparison) -> tuple:
    """The scores by which the side with the lower loss is the worse one, where it is known which that is."""
    if found.p >= stats.SIGNIFICANT:
        return ()
    names = []
    for name, more_is_better in SCORES.items():
        mine, theirs = found.group.scores(name), found.against.scores(name)
        more = np.mean(mine) - np.mean(theirs) if mine and theirs else 0
        is_better = (more > 0) == more_is_better
        if more and is_better != (found.difference.value < 0):
            names.append(name)
    return tuple(names)

def cost_for_same_loss(found: Comparison, rungs: list[Group], axis: str) -> Interval | None:
    """Compute of the run over the compute at which its opponent, decayed, has its loss, by one ledger or the
    clock. `rungs`: the opponent at each budget. None with one, or where their loss doesn't fall."""
    if len(rungs) < 2 or found.group.budget != found.against.budget:
        return None
    # The budget's own rung and its neighbors: three are a curve.
    own = rungs.index(found.against)
    first = max(0, min(own - 1, len(rungs) - 3))
    near = rungs[first:first + 3]
    end = found.group.end(axis)
    compute = np.array([rung.end(axis) for rung in near])
    level = found.against.finals(found.opponent_seeds).mean()
    losses = np.array([level if rung is found.against else rung.finals().mean() for rung in near])
    is_ladder = np.all(np.diff(compute, prepend=0) > 0) and np.all(np.diff(losses) < 0)  # False with a nan
    if not is_ladder or not end > 0:
        return None
    difference = found.difference
    ends = level + np.array([difference.value, difference.low, difference.high])
    needs = compute_at(ends, compute, losses)  # (exponents, 3)
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
    by_budget[against.budget] = [against]
    return [best_of(by_budget[budget], None) for budget in sorted(by_budget)]

def compute_at(loss: np.ndarray, compute: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Compute at which a baseline has some losses, by the curve L = E + A C^-k through two or three rungs.

    loss (n,), compute and falling losses (2,) or (3,) -> (1, n), or with two rungs (3, n): one row for each
    of EXPONENTS. inf for a loss below E. Written as L = L1 - B (1 - c^-k)/k with c = C/C1, it holds for a
    straight line in log C (k = 0) and for one that bends the other way (k < 0).
    """
    logs = np.log(compute / compute[0])
    exponents = EXPONENTS if len(compute) == 2 else [exponent_of(logs, losses)]
    found = []
    for k in exponents:
        slope = (losses[0] - losses[-1]) / bend(logs[-1], k)
        bent = (losses[0] - loss) / slope
        with np.errstate(divide='ignore'):
            # What is left of c^-k: at 0 the loss is E, which no compute reaches.
            log_c = bent if abs(k) < FLAT else -np.log1p(np.maximum(-1.0, -k * bent)) / k
        found.append(compute[0] * np.exp(log_c))
    return np.array(found)

def exponent_of(logs: np.ndarray, losses: np.ndarray) -> float:
    """The exponent of the curve through three rungs; the nearest one where none fits."""
    from scipy.optimize import brentq  # here: a quarter of a second that most calls don't need

    share = (losses[0] - losses[1]) / (losses[0] - losses[2])

    def off(k):
        return bend(logs[1], k) / bend(logs[2], k) - share

    if off(-STEEPEST) * off(STEEPEST) < 0:
        return brentq(off, -STEEPEST, STEEPEST)
    return min(-STEEPEST, STEEPEST, key=lambda k: abs(off(k)))

def bend(log_c: float, k: float) -> float:
    """(1 - c^-k) / k, which is log c for k = 0."""
    return log_c if abs(k) < FLAT else -math.expm1(-k * log_c) / k

def catch_up(found: Comparison) -> list[tuple[float, Estimate]]:
    """(tokens since the last growth, loss minus the opponent's after as many tokens in all) at each
    evaluation, as long as neither side's learning rate decays: later the gap says when they decay. [] for an
    arm that doesn't grow."""
    if found.difference is None or not found.group.grows:
        return []
    run = found.group.done[0]
    growth = max((phase.start for phase in run.plan.phases if phase.growths), default=0)
    growth *= run.config.total_batch_size
    end = min(steady_tokens(found.group.config, run.plan.total_steps),
              steady_tokens(found.against.config, found.against.done[0].plan.total_steps))
    difference = stats.paired if found.how == 'pairs' else stats.welch
    points = []
    for tokens in found.group.mean()['tokens']:
        if growth < tokens <= end:
            mine = [*found.group.losses(found.seeds, 'tokens', tokens).values()]
            theirs = [*found.against.losses(found.opponent_seeds, 'tokens', tokens).values()]
            if np.isfinite([*mine, *theirs]).all():
                points.append((tokens - growth, difference(mine, theirs)))
    return points

def steady_tokens(config: TrainConfig, steps: int) -> float:
    """After how many tokens a learning rate begins to decay."""
    shares = {'constant': math.inf, 'wsd': 1 - config.decay_fraction}
    return shares.get(config.lr_schedule, 0) * steps * config.total_batch_size

def put_words(report: Report, tests: int, margin: float):
    """Give declared comparisons their corrected p and their word.

    `tests`: questions that were declared. One that can't be answered counts, as one of p = 1.
    """
    p = [min(1, one.p * one.planned) if one.looks else math.nan for one in report.declared]
    for one, corrected in zip(report.declared, stats.holm(p, tests)):
        put_word(one, float(corrected), margin)

def put_word(found: Comparison, corrected: float, margin: float):
    """Give a declared comparison its word, or leave it with why it has none and the seeds it asks for."""
    if math.isnan(corrected):
        if 'diverged' in found.why:
            found.needs = ()
        return
    found.corrected = corrected
    found.word = 'open'
    if corrected < stats.SIGNIFICANT:
        found.word = 'saves' if found.difference.value < 0 else 'costs'
    elif found.cost and found.cost.low >= 1 - margin and found.cost.high <= 1 + margin:
        found.word = 'same'
    if found.settled:
        found.why = ''
    elif found.why:  # the next look can't be taken
        found.word = ''
    if found.settled or found.why:
        found.needs = ()

def caveats(report: Report, tuned: tuple) -> list[str]:
    """What limits the verdicts, one line each: training, starts, machines."""
    notes = []
    for one in report.comparisons:
        if not one.difference:
            continue
        mine, theirs = one.group.config, one.against.config
        told = []
        for name in (*one.group.trained_otherwise(one.against, tuned), *WIDTH):
            if getattr(mine, name) != getattr(theirs, name):
                told.append(f'{name} {getattr(mine, name)}, not {getattr(theirs, name)}')
        if told:
            notes.append(f'{one.name} differs from {one.against.name} in more than growth: {", ".join(told)}')
    by_fact = {}  # fact: its values among the runs
    for group in report.groups:
        if group.config.init_from != 'scratch':
            made = [run.info.get('init_from') or {} for run in group.runs]
            cost = np.mean([start.get('flops') or math.nan for start in made])
            told = 'unknown' if math.isnan(cost) else f'{cost:.3g}'
            notes.append(f'{group.name}: starts from a checkpoint, whose {told} FLOPs are not counted')
        for run in group.runs:
            for fact, value in provenance(run).items():
                by_fact.setdefault(fact, {})[value] = None
    differ = [f'{fact} ({", ".join(values)})' for fact, values in by_fact.items() if len(values) > 1]
    if differ:
        notes.append(f'the runs differ in {", ".join(differ)}')
    alike = [f'{fact} {next(iter(by_fact[fact]))}' for fact in MACHINE if len(by_fact.get(fact, ())) == 1]
    if alike:
        notes.append(f'all runs: {", ".join(alike)}')
    return notes

def provenance(run: Run) -> dict[str, str]:
    """Code, versions, machine, number format and questions of a run, as far as run.json says them."""
    found = {}
    commit = run.info.get('git_commit')
    if commit:
        found['code'] = commit[:10] + (' + changes' if run.info.get('git_dirty') else '')
    found |= run.info.get('versions') or {}
    for name in ('device', 'cpu_capability', 'device_count', 'world_size', 'dtype'):
        found[name] = run.info.get(name)
    found['HellaSwag questions'] = run.questions or None
    return {name: str(value) for name, value in found.items() if value is not None}
