""" The runs that a study asks for: arms x budgets x seeds, those that tune the arms, and who trains whose
first steps.

Nothing here writes a file or starts a process; study.py and launch.py do. Every run at a budget has the same
compute, by the flops ledger and within half a step, and a learning rate that decays towards its own end. Runs
that train their first steps alike form a tree: the longest run trains the prefix, the others branch off it.
What is finished is seen from the run directories alone, so that a study can be stopped at any time. """

import dataclasses
import itertools
import math
import os
import re
from dataclasses import dataclass, field

import schedule
from config import FIELDS, TrainConfig, config_from_dict, load_config, load_run_config
from core.common import UserError, numbered, read_json
from grid.records import read_records
from grid.study_file import Study, arm_argv, as_flag, folder_of, read_study, refuse
from run.log import has_last_eval, read_metrics

# A run that differs here may train the same prefix, but would have logged it otherwise.
LOGGING = ('eval_interval', 'eval_after_growth', 'val_tokens', 'log_interval', 'hellaswag_interval',
           'hellaswag_data', 'hellaswag_limit')
DIVERGED = 'stopped before the update'  # train.py's words for a loss that isn't finite


@dataclass(eq=False)  # a run is itself; two of the same settings are two
class Run:
    """One command of train.py."""

    arm: str
    budget: int
    seed: int
    tuned: dict  # the tuned settings and their values
    folder: str  # within the study's folder
    argv: list  # the configs and flags that make the config
    config: TrainConfig
    source: 'Run | None' = None  # the run whose end it starts from
    parent: 'Run | None' = None  # the run that trains its first `shared` steps
    shared: int = 0
    save_at: set = field(default_factory=set)  # steps at which others branch off

    @property
    def total(self) -> int:
        return schedule.plan(self.config).total_steps

    def flops(self, steps: int | None = None) -> int:
        """FLOPs of the first `steps` steps, by default of all."""
        return schedule.plan(self.config).flops(steps)


@dataclass
class Tuning:
    """What an arm's tuning has come to."""

    runs: list
    best: Run | None = None  # None: not known yet, or nothing to tune
    edge: str = ''  # what to say of a best value at the edge of what was tried
    decided: bool = True

    def __str__(self):
        if not self.best:
            return f'{len(self.runs)} runs, none is the best yet'
        values = [f'{name} {value}' for name, value in self.best.tuned.items()]
        edge = f' ({self.edge})' if self.edge else ''
        return f'{", ".join(values)}, the best of {len(self.runs)}{edge}'


def load_study(path: str, out: str = '') -> Study:
    """Read a study file and check that each arm has a plan at each budget. Raises UserError with all problems
    found."""
    study = read_study(path, out)
    problems = []
    # A plan that can't be is found now, not when its turn comes on the third day.
    for arm in study.arms:
        # An arm is tuned at the first budget even if it is left out there.
        budgets = [budget for budget in study.budgets if study.seeds_at(arm, budget)]
        if study.tune[arm]:
            budgets.append(study.budgets[0])
        for tuned, budget in itertools.product(tuned_points(study, arm), budgets):
            try:
                run = make_run(study, arm, budget, study.seeds[0], tuned, folder='')
                schedule.plan(run.config)
            except UserError as error:
                problems.append(f'{path}: arm {arm!r}: {error}')
                break  # mostly it's the same at the other values and budgets
    refuse(problems)
    study.failed = last_state(study)['failed']
    return study


# ------------------------------------------------------------------------------------------------------------
# the runs


def make_run(study: Study, arm: str, budget: int, seed: int, tuned: dict, folder: str,
             source: Run | None = None) -> Run:
    """The run of an arm that has the compute of `budget` full-depth steps of the first baseline, within half
    a step.

    Growth takes the same share of every budget: stage_fractions as they are, growth_steps and stage_steps as
    their share of the config's baseline_steps. Raises UserError for what is wrong with the arm. """
    # Arms may be of another depth: a budget is the same FLOPs for all, steps of the baseline.
    baseline_argv = arm_argv(study, study.baseline[0], tuned={})
    full_step = schedule.step_cost(load_config(baseline_argv, __doc__, say=None), 'flops')
    init_from = os.path.join(study.out, source.folder) if source else ''
    argv = [*arm_argv(study, arm, tuned, init_from), f'--seed={seed}']
    config = load_config(argv, __doc__, say=None)
    wanted = with_budget(config, budget, budget * full_step)
    # Only what the arm's own settings don't say already stands in the command.
    for name in ('growth_steps', 'stage_steps', 'continual_steps', 'baseline_steps', 'match', 'ledger'):
        if getattr(wanted, name) != getattr(config, name):
            argv.append(as_flag(name, getattr(wanted, name)))
    config = load_config(argv, __doc__, say=None)  # checks the steps, which are new
    return Run(arm, budget, seed, tuned, folder, argv, config, source)


def with_budget(config: TrainConfig, budget: int, flops: int) -> TrainConfig:
    """A config stretched to a budget: `flops` in all, its growth over the same share of the run."""
    share = budget / max(1, config.baseline_steps)  # a config's growth_steps are meant for its baseline_steps
    config = dataclasses.replace(config, match='', ledger='flops', baseline_steps=budget)
    if config.n_stages == 1 and config.init_depth in (0, config.n_layer):
        # Nothing grows. One phase of one name, so that runs of several budgets share a prefix.
        config = dataclasses.replace(config, growth_steps=0, stage_steps=())
    elif not config.stage_fractions:
        growth_steps = round(config.growth_steps * share)
        stage_steps = [max(1, round(steps * share)) for steps in config.stage_steps]
        stage_steps = tuple(stage_steps)
        config = dataclasses.replace(config, growth_steps=growth_steps, stage_steps=stage_steps)
    return schedule.fit(config, flops)


def plan_runs(study: Study, guess: bool = False) -> tuple[dict, list[Run]]:
    """(Tuning of each arm, the runs of the grid), as far as what is finished decides it.

    With `guess` an arm whose tuning isn't finished takes its first values, so that the grid is whole.
    """
    tunings = {}
    runs = {}  # (arm, budget, seed): run
    pending = list(study.arms)
    while pending:
        arm = pending.pop(0)
        source = study.source_of(arm)
        if source in pending:  # it comes first
            pending.append(arm)
            continue
        tuning = tuning_of(study, arm, tunings.get(source), guess)
        tunings[arm] = tuning
        if not tuning.decided:  # what its runs would be isn't known
            continue
        tuned = tuning.best.tuned if tuning.best else {}
        for budget in study.budgets:
            for seed in study.seeds_at(arm, budget):
                folder = f'{folder_of(arm)}/b{budget}_s{seed}'
                start = runs.get((source, budget, seed))
                runs[arm, budget, seed] = make_run(study, arm, budget, seed, tuned, folder, start)
    grid = list(runs.values())
    # Over the whole grid, also where a part is run: a run saves where the rest will branch off.
    share_prefixes(grid + all_tuning_runs(tunings))
    return tunings, grid


# ------------------------------------------------------------------------------------------------------------
# tuning


def all_tuning_runs(tunings: dict) -> list[Run]:
    runs = []
    for tuning in tunings.values():
        runs += tuning.runs
    return runs


def tuning_of(study: Study, arm: str, source: Tuning | None, guess: bool) -> Tuning:
    """The runs that tune an arm, one for each combination of values, and which is best if all have ended.

    `source`: the tuning of the arm that this one starts from the end of; its best run is what the runs start
    from. """
    tune = study.tune[arm]
    if source and not source.decided:
        return Tuning([], decided=False)
    # An arm that isn't tuned has such a run all the same, of its one setting, if a tuned arm starts from it.
    followers = [other for other in study.arms if study.source_of(other) == arm]
    if not tune and not any(study.tune[other] for other in followers):
        return Tuning([])
    runs = [tuning_run(study, arm, tuned, source) for tuned in tuned_points(study, arm)]
    # Of several settings it isn't clear where to go on.
    extensions = study.tune_extend if len(tune) == 1 else 0
    # From the run directories alone: the rounds of an earlier launcher are gone through again.
    while True:
        losses = [final_loss(study, run) for run in runs]
        if None in losses or min(losses) == math.inf:
            return Tuning(runs, best=runs[0] if guess else None, decided=guess)
        best = runs[losses.index(min(losses))]  # of equal ones the first
        edge = edge_of(best, runs)
        if not edge or not extensions:
            return Tuning(runs, best, edge)
        extensions -= 1
        try:
            runs.append(tuning_run(study, arm, next_value(best, runs), source))
        except UserError:  # no such value can be: the edge is the settings', not the grid's
            return Tuning(runs, best, edge)


def tuned_points(study: Study, arm: str) -> list[dict]:
    """The combinations of values that an arm's tuning tries; one of nothing for an arm that isn't tuned."""
    tune = study.tune[arm]
    points = []
    for values in itertools.product(*tune.values()):
        points.append(dict(zip(tune, values)))
    return points


def tuning_run(study: Study, arm: str, tuned: dict, source: Tuning | None) -> Run:
    """The run that tries some values, at the first budget."""
    budget = study.budgets[0]
    name = f'tune_b{budget}_s{study.tune_seed}'
    for setting, value in tuned.items():
        name += f'_{setting}={value}'
    name = name.replace(os.sep, '_')  # a value may be a path
    start = source.best if source else None
    return make_run(study, arm, budget, study.tune_seed, tuned, f'{folder_of(arm)}/{name}', start)


def final_loss(study: Study, run: Run) -> float | None:
    """The last validation loss of a finished run, infinity for one that diverged, None for one that isn't
    finished."""
    folder = finished_folder(study, run)
    if folder == out_folder(study, run):
        records, _ = read_metrics(os.path.join(folder, 'metrics.jsonl'))
        return records[-1]['val_loss']
    if folder:
        return read_records(study.records_path)[run.folder]['metrics'][-1]['val_loss']
    why = study.failed.get(run.folder, '')
    return math.inf if DIVERGED in why else None


def edge_of(best: Run, runs: list[Run]) -> str:
    """Which tuned numbers of the best run are the largest or smallest tried; '' if none is."""
    said = []
    for name, value in best.tuned.items():
        tried = {run.tuned[name] for run in runs}
        # A single value has no edge, and a text no order.
        is_number = type(value) in (int, float)
        if len(tried) == 1 or not is_number:
            continue
        if value == max(tried):
            said.append(f'{name}: best at the largest value tried')
        elif value == min(tried):
            said.append(f'{name}: best at the smallest value tried')
    return '; '.join(said)


def next_value(best: Run, runs: list[Run]) -> dict:
    """The value beyond the edge at which the best one lies, as far from it as its neighbor, as a ratio."""
    (name, value), = best.tuned.items()
    others = {run.tuned[name] for run in runs} - {value}
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
    longest_first = sorted(runs, key=lambda run: -run.total)  # of equal ones in the order of the file
    for i, run in enumerate(longest_first):
        for other in longest_first[:i]:
            steps = shared_steps(run, other)
            if steps > run.shared:
                run.parent = other
                run.shared = steps
        if run.parent:  # both save there, since a part of the grid may be run first
            run.parent.save_at.add(run.shared)
            run.save_at.add(run.shared)


def shared_steps(a: Run, b: Run) -> int:
    """The first steps that one of two runs can take from the other: it keeps a step, and so an end, of its
    own."""
    for name in LOGGING:
        if getattr(a.config, name) != getattr(b.config, name):
            return 0
    shared = schedule.shared_prefix(a.config, b.config)
    return min(shared, a.total - 1, b.total - 1)


def saved_prefix(study: Study, run: Run, everything: list[Run]) -> tuple[str, int]:
    """The folder of the run whose checkpoints spare this one most steps, and how many; ('', 0) if none
    does."""
    best = 0
    best_folder = ''
    if run.parent is None and not run.save_at:
        return best_folder, best  # it shares nothing with anyone
    # Not only the planned parent: if that failed, or was run elsewhere, another may have got as far.
    for other in everything:
        folder = out_folder(study, other)
        if other is run or not os.path.isdir(folder):
            continue
        steps = shared_steps(run, other)
        fitting = [step for step in saved_steps(folder) if best < step <= steps]
        if fitting:
            best = max(fitting)
            best_folder = folder
    return best_folder, best


def spared_flops(study: Study, runs: list[Run], everything: list[Run]) -> list[int]:
    """What each of some runs needn't train itself: the FLOPs of a prefix that another of them trains, or that
    is there."""
    spared = []
    for run in runs:
        steps = run.shared
        if run.parent not in runs:
            _, steps = saved_prefix(study, run, everything)
        spared.append(run.flops(steps))
    return spared


# ------------------------------------------------------------------------------------------------------------
# what is there


def out_folder(study: Study, run: Run) -> str:
    """The run directory of a run."""
    return os.path.join(study.out, run.folder)


def finished_folder(study: Study, run: Run, elsewhere: bool = True) -> str | None:
    """Where a finished run is: its directory, else its place in the results of other machines; None if
    nowhere.

    Raises UserError if what is there was made with other settings.
    """
    folder = out_folder(study, run)
    if os.path.isfile(os.path.join(folder, 'config.json')):
        # Also of an unfinished run, before anything is started.
        check_same_settings(run, folder, load_run_config(folder))
        if has_last_eval(folder, run.total):
            return folder
    record = read_records(study.records_path).get(run.folder) if elsewhere else None
    if record is None:
        return None
    folder = os.path.join(study.results, run.folder)
    check_same_settings(run, folder, config_from_dict(record['config'], folder))
    last = record['metrics'][-1]
    return folder if last['kind'] == 'eval' and last['step'] == run.total else None


def check_same_settings(run: Run, folder: str, there: TrainConfig):
    """Raise UserError if the run in `folder` was made with settings that lead elsewhere than `run`."""
    for name, setting in FIELDS.items():
        # Where the source lies differs between machines.
        if setting.metadata['free'] or (name == 'init_from' and run.source):
            continue
        was, now = getattr(there, name), getattr(run.config, name)
        if was != now:
            raise UserError(f'{folder} was made with other settings ({name}: was {was!r}, now {now!r}): '
                            'move it away, or give this study another --out')


def saved_steps(folder: str) -> list[int]:
    """The steps whose checkpoints a run directory holds."""
    return [step for step, _ in numbered(folder, 'ckpt_', '.pt')]


def last_step(folder: str) -> int:
    """The step of the last whole line of a run's metrics.jsonl, 0 if there is none."""
    path = os.path.join(folder, 'metrics.jsonl')
    if not os.path.exists(path):
        return 0
    with open(path, 'rb') as f:
        f.seek(max(0, os.path.getsize(path) - 4096))  # some lines; this is asked of every run, every second
        steps = re.findall(rb'"step": (\d+).*\n', f.read())
    return int(steps[-1]) if steps else 0


def last_state(study: Study) -> dict:
    """What the last launcher wrote: its process, the folders and slots of the runs under way, and why others
    failed."""
    # Of no use to a launcher, which looks into the run directories.
    state = {'pid': 0, 'running': {}, 'failed': {}}
    path = os.path.join(study.out, 'study.json')
    if os.path.exists(path):
        state |= read_json(path, "a launcher's state")
    return state
