"""
The runs that a study asks for: arms x scales x budgets x seeds, those that tune the arms, and who trains
whose first steps.

Nothing here writes a file or starts a process; study.py and launch.py do. Every run at a budget has the same
compute, by the flops ledger and within half a step, and a learning rate that decays towards its own end. Runs
that train their first steps alike form a tree: the longest run trains the prefix, the others branch off it.
What is finished, which value an arm keeps and whose next seeds are asked for is seen from the run directories
and records alone, so that a study can be stopped at any time. """

import dataclasses
import itertools
import math
import os
import statistics
from dataclasses import dataclass, field

import schedule
from config import FIELDS, TrainConfig, check, config_from_dict, config_to_dict, load_config
from core.common import UserError, numbered, read_json
from grid.records import make_record, read_records
from grid.study_file import Study, arm_argv, as_flag, folder_of, read_study, refuse
from run.log import last_record, read_run_json

# A run that differs here may train the same prefix, but would have logged it otherwise.
LOGGING = ('eval_interval', 'eval_after_growth', 'val_tokens', 'log_interval', 'hellaswag_interval',
           'hellaswag_data', 'hellaswag_limit')
# How a loss and a score are measured: the same in all runs of a study, though a resume may change it.
MEASURED = ('val_tokens', 'hellaswag_limit', 'dtype')
# What a budget says of a run. Nothing that these don't change is said in its command.
LENGTH = ('growth_steps', 'stage_steps', 'continual_steps', 'baseline_steps', 'match', 'ledger')

@dataclass(eq=False)  # a run is itself; two of the same settings are two
class Run:
    """One command of train.py."""

    arm: str
    scale: str  # '' in a study of one size
    budget: int  # full-depth steps, or tokens a parameter
    seed: int
    tuned: dict  # the tuned settings and their values
    folder: str  # within the study's folder
    config: TrainConfig
    parameters: int  # of full depth at this scale, without the embeddings: what tokens are counted by
    source: 'Run | None' = None  # the run whose end it starts from
    parent: 'Run | None' = None  # the run that trains its first `shared` steps
    shared: int = 0
    save_at: set = field(default_factory=set)  # steps at which others branch off
    kin: list = field(default_factory=list)  # (other run, steps that both train alike)
    is_tuning: bool = False

    @property
    def place(self) -> tuple:
        return self.arm, self.scale, self.budget

    @property
    def total(self) -> int:
        return schedule.plan(self.config).total_steps

    def flops(self, steps: int | None = None) -> int:
        """FLOPs of the first `steps` steps, by default of all."""
        return schedule.plan(self.config).flops(steps)

@dataclass
class Tuning:
    """What an arm's tuning at one cell has come to."""

    runs: list
    best: dict | None = None  # the values that it keeps; None: not known yet, or nothing to tune
    edge: str = ''  # what to say of a best value at the edge of what was tried
    decided: bool = True

    def __str__(self):
        if self.best is None:
            return f'{len(self.runs)} runs, none is the best yet'
        values = [f'{name} {value}' for name, value in self.best.items()]
        edge = f' ({self.edge})' if self.edge else ''
        n_values = len({tuple(run.tuned.items()) for run in self.runs})
        return f'{", ".join(values)}, the best of {n_values}{edge}'

@dataclass
class Outcome:
    """How a run that is over ended."""

    folder: str  # its directory, or what that is called in results/
    loss: float  # validation loss at its end; infinity if it diverged
    is_here: bool  # in a directory, with its weights; else a record

    @property
    def diverged(self) -> bool:
        return self.loss == math.inf

def load_study(path: str, out: str = '') -> Study:
    """Read a study file and check that each arm has a plan at each of its cells. Raises UserError with all
    problems found."""
    problems = []
    study = read_study(path, out, problems)
    # A plan that can't be is found now, not when its turn comes on the third day.
    for arm in study.arms if set(study.baseline) <= set(study.arms) else ():
        # An arm is tuned at its cells even if it is left out there.
        tuned_cells = study.tuned_cells(arm)
        cells = [(scale, budget) for scale, budget in study.cells if study.seeds_at(arm, budget, scale)]
        for scale, budget in dict.fromkeys(cells + tuned_cells):
            try:
                for tuned in points_of(study, arm, scale):
                    run = make_run(study, (arm, scale, budget), study.seeds[0], tuned, folder='')
                    schedule.plan(run.config)
            except UserError as error:
                problems.append(f'{path}: arm {arm!r}: {error}')
                break  # mostly it's the same at the other budgets
    refuse(list(dict.fromkeys(problems)))
    study.failed = last_state(study)['failed']
    return study

# ------------------------------------------------------------------------------------------------------------
# the runs

def make_run(study: Study, place: tuple, seed: int, tuned: dict, folder: str,
             source: Run | None = None) -> Run:
    """The run of an arm that has its budget's compute, within half a step of full depth.

    Growth takes the same share of every budget: stage_fractions as they are, growth_steps and stage_steps as
    their share of the config's baseline_steps. Raises UserError for what is wrong with the arm. """
    arm, scale, budget = place
    values = config_to_dict(arm_config(study, arm, scale)) | tuned | {'seed': seed}
    if source:
        values['init_from'] = os.path.join(study.out, source.folder)
    config = config_from_dict(values, 'a value to try')
    parameters, steps, step_flops = budget_of(study, scale, budget)
    config = with_budget(config, steps, steps * step_flops)
    refuse(check(config))  # the steps are new
    return Run(arm, scale, budget, seed, tuned, folder, config, parameters, source)

def arm_config(study: Study, arm: str, scale: str) -> TrainConfig:
    """What the text of an arm says at a scale, before seed, tuning and budget."""
    known = study.__dict__.setdefault('configs', {})
    if (arm, scale) not in known:
        known[arm, scale] = load_config(arm_argv(study, arm, scale), __doc__, say=None)
    return known[arm, scale]

def budget_of(study: Study, scale: str, budget: int) -> tuple[int, int, int]:
    """(parameters of full depth but the embeddings, full-depth steps of a budget, FLOPs of such a step)."""
    # Arms may be of another depth: a budget is the same FLOPs for all, steps of the first baseline.
    config = arm_config(study, study.baseline[0], scale)
    phase = dataclasses.replace(schedule.full_depth(config), embeddings='frozen')
    parameters = schedule.trained_parameters(config, phase)
    steps = budget
    if study.is_ladder:
        steps = max(1, round(budget * parameters / config.total_batch_size))
    return parameters, steps, schedule.step_cost(config, 'flops')

def with_budget(config: TrainConfig, steps: int, flops: int) -> TrainConfig:
    """A config stretched to a budget: `flops` in all, its growth over the same share of the run."""
    share = steps / max(1, config.baseline_steps)  # a config's growth_steps are meant for its baseline_steps
    config = dataclasses.replace(config, match='', ledger='flops', baseline_steps=steps)
    if config.n_stages == 1 and config.init_depth in (0, config.n_layer):
        # Nothing grows. One phase of one name, so that runs of several budgets share a prefix.
        config = dataclasses.replace(config, growth_steps=0, stage_steps=())
    elif not config.stage_fractions:
        growth_steps = round(config.growth_steps * share)
        stage_steps = tuple(max(1, round(steps * share)) for steps in config.stage_steps)
        config = dataclasses.replace(config, growth_steps=growth_steps, stage_steps=stage_steps)
    return schedule.fit(config, flops)

def argv_of(study: Study, run: Run) -> list[str]:
    """The configs and flags that make a run's config, as one types them."""
    argv = arm_argv(study, run.arm, run.scale)
    if run.source:
        argv = [as_flag('init_from', run.config.init_from) if word.startswith('--init_from=@') else word
                for word in argv]
    base = arm_config(study, run.arm, run.scale)
    argv += [as_flag(name, value) for name, value in run.tuned.items()]
    argv.append(as_flag('seed', run.seed))
    for name in LENGTH:
        if getattr(run.config, name) != getattr(base, name):
            argv.append(as_flag(name, getattr(run.config, name)))
    return argv

def plan_runs(study: Study, guess: bool = False) -> tuple[dict, list[Run]]:
    """({(arm, scale, budget): Tuning}, the runs of the grid), as far as what is finished decides them.

    With `guess` an arm whose tuning isn't finished takes its first values, so that the grid is whole.
    """
    tunings = {}
    runs = {}  # (arm, scale, budget, seed): run
    order = sources_first(study)
    for arm in order:
        for scale, budget in cells_to_tune(study, arm):
            place = (arm, scale, budget)
            source = tunings.get((study.source_of(arm), scale, budget))
            tunings[place] = tuning_of(study, place, source, guess)
        for scale, budget in study.cells:
            add_runs(study, (arm, scale, budget), study.seeds_at(arm, budget, scale), tunings, runs)
    # Over all that is there: in the order of the arms, since a seed may start from a source's.
    more = seeds_asked_for(study, list(runs.values()))
    for place in sorted(more, key=lambda place: order.index(place[0])):
        add_runs(study, place, sorted(more[place]), tunings, runs)
    arms, cells = list(study.arms), study.cells
    every = study.seeds + study.more_seeds
    grid = sorted(runs.values(), key=lambda run: (arms.index(run.arm), cells.index(run.place[1:]),
                                                  every.index(run.seed)))
    # Over the whole grid, also where a part is run: a run saves where the rest will branch off.
    share_prefixes(grid + all_tuning_runs(tunings))
    return tunings, grid

def sources_first(study: Study) -> list[str]:
    """The arms, each after the one that it starts from."""
    order = []
    left = list(study.arms)
    while left:
        arm = left.pop(0)
        if study.source_of(arm) in left:
            left.append(arm)
        else:
            order.append(arm)
    return order

def add_runs(study: Study, place: tuple, seeds, tunings: dict, runs: dict):
    """The runs of an arm at a cell, unless the tuning that says what they are isn't finished."""
    arm, scale, budget = place
    cell = study.tuned_like(arm, scale, budget)
    tuning = tunings.get((arm, *cell)) if cell else None
    if tuning and not tuning.decided:
        return
    for seed in seeds:
        start = runs.get((study.source_of(arm), scale, budget, seed))
        if study.source_of(arm) and start is None:
            continue  # its source isn't tuned yet
        folder = f'{folder_of(arm)}/{cell_name(study, scale, budget)}_s{seed}'
        tuned = tuning.best if tuning else {}
        runs[(*place, seed)] = make_run(study, place, seed, tuned, folder, start)

def cell_name(study: Study, scale: str, budget: int) -> str:
    return f'{folder_of(scale)}_p{budget}' if study.is_ladder else f'b{budget}'

def seeds_asked_for(study: Study, runs: list[Run]) -> dict:
    """{(arm, scale, budget): seeds} that follow the first ones: those that are there, and those that an open
    question asks for, of the arm and of its opponent."""
    found = {}
    if not study.more_seeds:
        return found
    there = {}
    for run in runs:
        there.setdefault(run.place, run)
    everything = list(runs)
    for place, first in there.items():
        for seed in study.more_seeds:
            folder = f'{first.folder.rpartition("_s")[0]}_s{seed}'
            begun = os.path.exists(os.path.join(study.out, folder, 'config.json'))
            if begun or folder in read_records(study.records_path):
                found.setdefault(place, set()).add(seed)
                source = first.source and dataclasses.replace(
                    first.source, folder=f'{first.source.folder.rpartition("_s")[0]}_s{seed}')
                everything.append(make_run(study, place, seed, first.tuned, folder, source))
    for comparison in judge(study, everything).declared:
        for arm in (comparison.arm, comparison.opponent):
            if arm and not comparison.settled:
                asked = set(comparison.needs) & set(study.more_seeds)
                found.setdefault((arm, comparison.scale, comparison.budget), set()).update(asked)
    # What starts from another arm's end needs that one's seed, too.
    for (arm, scale, budget), seeds in list(found.items()):
        while arm := study.source_of(arm):
            found.setdefault((arm, scale, budget), set()).update(seeds)
    return found

def judge(study: Study, runs: list[Run]):
    """What verdict.judge says of the runs that are over (a verdict.judge.Report)."""
    from verdict import judge  # here, since statistics take a moment to load
    from verdict import runs as verdict_runs

    found, places = [], {}
    for run in runs:
        outcome = outcome_of(study, run)
        if outcome:
            record = record_of(study, run, outcome)
            path = os.path.join(study.out, run.folder)
            plan = schedule.plan(run.config)
            found.append(verdict_runs.Run(path, run.config, plan, record['metrics'], record['info']))
            places[path] = verdict_runs.Place(*run.place)
    questions = None
    if study.questions or study.looks:
        questions = [judge.Question(arm, budget, scale, study.looks)
                     for arm, scale, budget in study.questions or at_largest_budget(study)]
    arms = {place.arm for place in places.values()}
    baselines = [arm for arm in study.baseline if arm in arms]
    if not baselines:
        return judge.Report([], [], [], [])
    tuned = set()
    for arm, scale in itertools.product(study.arms, study.scales):
        tuned |= study.values_to_try(arm, scale).keys()
    return judge.judge_runs(found, baselines, places, questions, study.margin, tuned=tuple(tuned))

def at_largest_budget(study: Study) -> list[tuple]:
    """(arm, scale, budget) of every arm that is no baseline, at the last scale and budget at which it is
    run."""
    places = []
    for arm in study.arms:
        cells = [(scale, budget) for scale, budget in study.cells if study.seeds_at(arm, budget, scale)]
        if arm not in study.baseline:
            places.append((arm, *cells[-1]))
    return places

# ------------------------------------------------------------------------------------------------------------
# tuning

def all_tuning_runs(tunings: dict) -> list[Run]:
    return list(itertools.chain(*(tuning.runs for tuning in tunings.values())))

def cells_to_tune(study: Study, arm: str) -> list[tuple[str, int]]:
    """Where an arm is tuned, or one that starts from its end is."""
    cells = list(study.tuned_cells(arm))
    for other in study.arms:
        if study.source_of(other) == arm:
            cells += cells_to_tune(study, other)
    return list(dict.fromkeys(cells))

def tuning_of(study: Study, place: tuple, source: Tuning | None, guess: bool) -> Tuning:
    """The runs that tune an arm at a cell, of each combination of values one a seed, and which it keeps if
    all have ended.

    `source`: the tuning of the arm that this one starts from the end of; the runs of what that one keeps are
    what these start from. """
    arm, scale, _ = place
    if source and not source.decided:
        return Tuning([], decided=False)
    points = points_of(study, arm, scale)
    runs = []
    for point in points:
        runs += tuning_runs(study, place, point, source)
    # Of several settings it isn't clear where to go on.
    extensions = study.tune_extend if len(points[0]) == 1 else 0
    # From the run directories alone: the rounds of an earlier launcher are gone through again.
    while True:
        losses = {}  # number of the point: the losses of its seeds
        for run in runs:
            outcome = outcome_of(study, run)
            losses.setdefault(points.index(run.tuned), []).append(outcome and outcome.loss)
        open_points = [number for number, some in losses.items() if None in some]
        if open_points or all(math.inf in some for some in losses.values()):
            return Tuning(runs, best=points[0] if guess else None, decided=guess)
        best = points[kept_point(points, list(losses.values()))]
        edge = edge_of(best, points)
        if not edge or not extensions:
            return Tuning(runs, best, edge)
        extensions -= 1
        try:
            point = next_value(best, points)
            runs += tuning_runs(study, place, point, source)
            points.append(point)
        except UserError:  # no such value can be: the edge is the settings', not the grid's
            return Tuning(runs, best, edge)

def points_of(study: Study, arm: str, scale: str) -> list[dict]:
    """The combinations of values that an arm's tuning tries; one of nothing for an arm that isn't tuned."""
    tune = study.values_to_try(arm, scale)
    return [dict(zip(tune, values)) for values in itertools.product(*tune.values())]

def tuning_runs(study: Study, place: tuple, tuned: dict, source: Tuning | None) -> list[Run]:
    """The runs that try some values at a cell, one a seed of tuning."""
    arm, scale, budget = place
    runs = []
    for seed in study.tune_seeds:
        name = f'tune_{cell_name(study, scale, budget)}_s{seed}'
        for setting, value in tuned.items():
            name += f'_{setting}={value}'
        name = name.replace(os.sep, '_')  # a value may be a path
        start = None
        if source:
            start = next(run for run in source.runs if run.seed == seed and run.tuned == source.best)
        runs.append(make_run(study, place, seed, tuned, f'{folder_of(arm)}/{name}', start))
        runs[-1].is_tuning = True
    return runs

def kept_point(points: list[dict], losses: list[list[float]]) -> int:
    """The number of the values that an arm keeps: the best by the mean over its seeds, and of those that a
    seed's deviation can't tell from it the lowest.

    A rate next to a cliff is often the best by a hair. The deviation is the median over the values that were
    tried: one of them may lie on the cliff. With one seed it isn't known, and the best is kept. """
    means = [statistics.mean(some) for some in losses]
    deviations = [statistics.stdev(some) for some in losses if len(some) > 1 and math.inf not in some]
    within = min(means) + (statistics.median(deviations) if deviations else 0)

    def rank(number):
        values = points[number].values()
        numbers = tuple(value for value in values if type(value) in (int, float))
        return numbers, means[number]  # a text has no order

    return min((number for number in range(len(points)) if means[number] <= within), key=rank)

def edge_of(best: dict, points: list[dict]) -> str:
    """Which tuned numbers of the best values are the largest or smallest tried; '' if none is."""
    said = []
    for name, value in best.items():
        tried = {point[name] for point in points}
        # A single value has no edge, and a text no order.
        is_number = type(value) in (int, float)
        if len(tried) == 1 or not is_number:
            continue
        if value == max(tried):
            said.append(f'{name}: best at the largest value tried')
        elif value == min(tried):
            said.append(f'{name}: best at the smallest value tried')
    return '; '.join(said)

def next_value(best: dict, points: list[dict]) -> dict:
    """The value beyond the edge at which the best one lies, as far from it as its neighbor, as a ratio."""
    (name, value), = best.items()
    others = {point[name] for point in points} - {value}
    neighbor = min(others, key=lambda other: abs(other - value))
    further = value * value / neighbor if value and neighbor else 2 * value - neighbor
    if type(value) is int:  # of steps, say
        return {name: round(further)}
    return {name: float(f'{further:.3g}')}  # .02, not .020000000000000004

# ------------------------------------------------------------------------------------------------------------
# shared prefixes

def share_prefixes(runs: list[Run]):
    """Give each run the longer one that trains most of its first steps alike.

    "Alike for the first s steps" makes a tree of the runs, so that it is the same compute that is saved
    whichever run of several trains a prefix. The longest one does, since the others can begin while it goes
    on. """
    alike = {}
    for run in runs:
        c = run.config
        # What differs here shares nothing, so that most pairs are never looked at.
        key = (c.seed, c.optimizer, c.learning_rate, c.n_embd, c.n_layer, c.init_from,
               *(getattr(c, name) for name in LOGGING))
        alike.setdefault(key, []).append(run)
    for some in alike.values():
        longest_first = sorted(some, key=lambda run: -run.total)  # of equal ones in the order of the file
        for i, run in enumerate(longest_first):
            for other in longest_first[:i]:
                share(run, other)
            if run.parent:  # both save there, since a part of the grid may be run first
                run.parent.save_at.add(run.shared)
                run.save_at.add(run.shared)

def share(run: Run, other: Run):
    """Note the first steps that a run can take from a longer one: each keeps a step, and so an end, of its
    own."""
    shared = schedule.shared_prefix(run.config, other.config)
    shared = min(shared, run.total - 1, other.total - 1)
    if shared < 1:
        return
    run.kin.append((other, shared))
    other.kin.append((run, shared))
    if shared > run.shared:
        run.parent = other
        run.shared = shared

def saved_prefix(study: Study, run: Run) -> tuple[str, int]:
    """The folder of the run whose checkpoints spare this one most steps, and how many; ('', 0) if none
    does."""
    best = 0
    best_folder = ''
    # Not only the planned parent: if that failed, or was run elsewhere, another may have got as far.
    for other, steps in run.kin:
        fitting = [step for step in saved_steps(out_folder(study, other)) if best < step <= steps]
        if fitting:
            best = max(fitting)
            best_folder = out_folder(study, other)
    return best_folder, best

def spared_flops(study: Study, runs: list[Run]) -> list[int]:
    """What each of some runs needn't train itself: the FLOPs of a prefix that another of them trains, or that
    is there."""
    spared = []
    asked = set(runs)
    for run in runs:
        steps = run.shared
        if run.parent not in asked:
            _, steps = saved_prefix(study, run)
        spared.append(run.flops(steps))
    return spared

# ------------------------------------------------------------------------------------------------------------
# what is there

def out_folder(study: Study, run: Run) -> str:
    """The run directory of a run."""
    return os.path.join(study.out, run.folder)

def outcome_of(study: Study, run: Run, elsewhere: bool = True) -> Outcome | None:
    """How a run has ended, here or (with `elsewhere`) on another machine; None if it is still to be run.

    Raises UserError if what is there was made with other settings. A run whose files can't be read is noted
    in study.damaged, and counts as not run. """
    folder = out_folder(study, run)
    if os.path.isfile(os.path.join(folder, 'config.json')):
        loss = loss_here(study, run, folder)
        if loss is not None:
            return Outcome(folder, loss, True)
    record = read_records(study.records_path).get(run.folder) if elsewhere else None
    if record is None:
        return None
    check_same_settings(run, record['config'], f'{study.records_path}: {run.folder}',
                        'rename the study, or remove that line')
    loss = end_of(run, record['metrics'][-1] if record['metrics'] else None, record['info'])
    return None if loss is None else Outcome(os.path.join(study.results, run.folder), loss, False)

def loss_here(study: Study, run: Run, folder: str) -> float | None:
    """The loss at the end of the run in a run directory, None if it has none, or can't be read."""
    try:
        saved = read_json(os.path.join(folder, 'config.json'), 'a readable config')
        info = read_run_json(folder)
        config_from_dict(saved, folder)
    except UserError as error:
        study.damaged[run.folder] = str(error)
        return None
    # Also of an unfinished run, before anything is started.
    check_same_settings(run, saved, folder, 'move it away, or give this study another --out')
    return end_of(run, last_record(folder), info)

def end_of(run: Run, last: dict | None, info: dict) -> float | None:
    """The loss of a run's last evaluation, infinity if it diverged, None if it isn't over."""
    if last and last['kind'] == 'eval' and last['step'] == run.total:
        return last['val_loss']
    return math.inf if info.get('ended') == 'diverged' else None

def check_same_settings(run: Run, saved: dict, where: str, what_to_do: str):
    """Raise UserError if a run was made with settings that lead elsewhere than `run`'s, or measure
    otherwise."""
    there = config_from_dict(saved, where)
    for name, setting in FIELDS.items():
        # Where the source lies differs between machines.
        if (setting.metadata['free'] and name not in MEASURED) or (name == 'init_from' and run.source):
            continue
        was, now = getattr(there, name), getattr(run.config, name)
        if was != now:
            raise UserError(f'{where} was made with other settings ({name}: was {was!r}, now {now!r}): '
                            f'{what_to_do}')

def record_of(study: Study, run: Run, outcome: Outcome) -> dict:
    """The record of a run that is over: what --collect would make of it, or has made."""
    if outcome.is_here:
        return make_record(study.name, study.out, run.folder, outcome.folder)
    return read_records(study.records_path)[run.folder]

def saved_steps(folder: str) -> list[int]:
    """The steps whose checkpoints a run directory holds."""
    return [step for step, _ in numbered(folder, 'ckpt_', '.pt')]

def last_state(study: Study) -> dict:
    """What the last launcher wrote: its process, the folders and slots of the runs under way, and why others
    failed."""
    # Of no use to a launcher, which looks into the run directories.
    state = {'pid': 0, 'running': {}, 'failed': {}}
    path = os.path.join(study.out, 'study.json')
    if os.path.exists(path):
        try:
            state |= read_json(path, "a launcher's state")
        except UserError as error:
            study.damaged['study.json'] = str(error)
    return state
