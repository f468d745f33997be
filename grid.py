"""
A study file, and the runs that it asks for: arms x budgets x seeds, the runs that tune them, and who trains whose prefix.

study.py does something with them; nothing here writes a file or starts a process. A study is a file of plain
assignments (STUDY_NAMES lists them), read as strictly as a config.

Every run at a budget has the same compute, by the flops ledger and within half a step, and a schedule of its own that
decays at its own end. Runs that train their first steps alike form a tree: the longest trains the prefix, the others
branch off it.
"""

import dataclasses
import difflib
import glob
import itertools
import math
import os
import re
import shlex
from dataclasses import dataclass, field

import schedule
from common import UserError, read_json
from config import FIELDS, TrainConfig, load_config, read_file
from metrics import has_last_eval, read_metrics

HERE = os.path.relpath(os.path.dirname(os.path.abspath(__file__)))
STUDY_NAMES = {
    'arms': 'a dict, name: configs joined by +, then flags',
    'baseline': 'the arm that the others are judged by, or a tuple of arms',
    'overlays': 'configs that every arm gets after its own',
    'settings': 'a dict of settings for all arms; the flags of an arm win',
    'budgets': 'full-depth steps of the first baseline, whose FLOPs each run gets',
    'seeds': 'the seeds of every arm at every budget',
    'tune': 'a dict, setting: values to try; or arm: such a dict of its own',
    'tune_extend': 'by how many values a grid may go on, at its last ratio, while the best is at an edge',
}
# What the study itself gives to every run.
OWN_SETTINGS = ('seed', 'out_dir', 'run_name', 'resume', 'match', 'ledger', 'continual_steps', 'branch_from',
                'checkpoint_steps')
# A run that differs here may train the same prefix, but would have logged it otherwise.
LOGGING = ('eval_interval', 'val_tokens', 'hellaswag_interval', 'hellaswag_data', 'hellaswag_limit', 'log_interval',
           'eval_after_growth')
DIVERGED = 'stopped before the update'  # train.py's words for a loss that isn't finite


@dataclass
class Study:
    """A study file, and where its runs go."""

    path: str
    arms: dict  # name: configs and flags, as written
    baseline: tuple
    budgets: tuple
    seeds: tuple
    overlays: tuple
    settings: dict
    tune: dict  # arm: {setting: values}
    tune_extend: int
    out: str
    failed: dict = field(default_factory=dict)  # a run's folder: why it failed, as the last launcher saw it

    @property
    def name(self) -> str:
        return os.path.splitext(os.path.basename(self.path))[0]

    @property
    def results(self) -> str:
        """The folder with the records of runs that were finished elsewhere."""
        return os.path.normpath(os.path.join(HERE, 'results', self.name))

    @property
    def tune_seed(self) -> int:
        """A seed of its own: the seeds that are judged haven't chosen anything."""
        return 0 if 0 not in self.seeds else max(self.seeds) + 1


@dataclass(eq=False)
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
        return schedule.total_steps(schedule.plan(self.config))

    def flops(self, steps: int | None = None) -> int:
        return schedule.compute(self.config, schedule.plan(self.config), 'flops', steps)


@dataclass
class Tuning:
    """What an arm's tuning has come to."""

    runs: list
    best: Run | None = None  # None: not known yet, or nothing to tune
    edge: str = ''  # what to say of a best value at the edge of what was tried
    decided: bool = True

    def __str__(self):
        tried = len(self.runs)
        if not self.best:
            return f'{tried} runs, none is the best yet'
        values = ', '.join(f'{name} {value}' for name, value in self.best.tuned.items())
        return f'{values}, the best of {tried}' + (f' ({self.edge})' if self.edge else '')


# ---------------------------------------------------------------------------------------------------------------------
# the study file


def load_study(path: str, out: str = '') -> Study:
    """Read a study file. Raises UserError with all problems found: which name, what is wrong, the nearest name."""
    problems = []
    values = read_file(path, problems)
    for name in values:
        if name not in STUDY_NAMES:
            problems.append(f"{path}: a study has no '{name}'" + did_you_mean(name, STUDY_NAMES))
    for name in ('arms', 'settings', 'tune'):
        if not isinstance(values.setdefault(name, {}), dict):
            problems.append(f'{path}: {name} must be {STUDY_NAMES[name]}')
    for name, kind in (('baseline', str), ('overlays', str), ('budgets', int), ('seeds', int)):
        value = values.get(name, ())
        items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if any(type(item) is not kind or items.count(item) > 1 for item in items):
            problems.append(f'{path}: {name} must be a tuple of different values of type {kind.__name__}, not {value!r}')
        elif not items and name != 'overlays':
            problems.append(f'{path}: {name} is missing: {STUDY_NAMES[name]}')
        elif kind is int and min(items) < (name == 'budgets'):
            problems.append(f'{path}: {name} must be positive, not {value!r}')
        values[name] = items
    if type(values.setdefault('tune_extend', 0)) is not int:
        problems.append(f'{path}: tune_extend must be an int, not {values["tune_extend"]!r}')
    refuse(problems)
    values['budgets'] = tuple(sorted(values['budgets']))
    study = Study(path=path, out='', **values)
    study.out = out or os.path.join('out', study.name)
    refuse(check_names(study))
    # A dict of an arm's own stands for that arm alone, the rest of `tune` for all others.
    common = {name: tried for name, tried in study.tune.items() if not isinstance(tried, dict)}
    study.tune = {arm: study.tune.get(arm, common) for arm in study.arms}
    refuse(check_sources(study))
    refuse(check_plans(study))
    study.failed = last_state(study)['failed']
    return study


def refuse(problems: list[str]):
    if problems:
        raise UserError('\n  '.join(['the study is wrong:'] * (len(problems) > 1) + problems))


def did_you_mean(name, names) -> str:
    near = difflib.get_close_matches(str(name), list(names), 1, 0.5)
    return f"; did you mean '{near[0]}'?" if near else f'; there are {", ".join(names)}'


def check_names(study: Study) -> list[str]:
    """What is wrong with the names in a study: arms and their folders, settings, what is tuned."""
    problems = []
    folders = {}
    for arm, text in study.arms.items():
        if type(arm) is not str or type(text) is not str or not text.split():
            problems.append(f'arm {arm!r} must be a name, with configs and flags as a text, not {text!r}')
        elif folders.setdefault(folder_of(arm), arm) != arm:
            problems.append(f'arms {folders[folder_of(arm)]!r} and {arm!r} would share the folder {folder_of(arm)}')
    for name in study.baseline:
        if name not in study.arms:
            problems.append(f'baseline {name!r} is no arm' + did_you_mean(name, folders.values()))
    tuned = {}
    for name, value in study.tune.items():
        if isinstance(value, dict):
            tuned.update(value)
            if name not in study.arms:
                problems.append(f'tune: {name!r} is no arm' + did_you_mean(name, folders.values()))
        else:
            tuned[name] = value
    for name in (*study.settings, *tuned):
        if name not in FIELDS:
            problems.append(f'no setting is called {name!r}' + did_you_mean(name, FIELDS))
        elif name in OWN_SETTINGS:
            problems.append(f'{name} is what the study itself gives to every run')
    for name, tried in tuned.items():
        if not isinstance(tried, (tuple, list)) or not tried:
            problems.append(f'tune: {name} must have a tuple of values to try, not {tried!r}')
    return [f'{study.path}: {problem}' for problem in problems]


def check_sources(study: Study) -> list[str]:
    """What is wrong with the arms that start from another's end."""
    problems = []
    for arm in study.arms:
        chain = [arm]
        while (source := source_arm(study, chain[-1])) in study.arms and source not in chain:
            chain.append(source)
        if source in study.arms:
            problems.append(f'{study.path}: arm {arm!r} starts from its own end: {" from ".join(chain)}')
        elif source is not None:
            problems.append(f'{study.path}: arm {chain[-1]!r} starts from the end of {source!r}, which is no arm' +
                            did_you_mean(source, study.arms))
    return problems


def check_plans(study: Study) -> list[str]:
    """What is wrong with the arms' configs and flags, and with the plans that the budgets make of them."""
    problems = []
    for arm, text in study.arms.items():
        flags = [word.lstrip('-').partition('=')[0] for word in shlex.split(text)[1:]]
        owned = [f'{name} is what the study itself gives to every run' for name in flags if name in OWN_SETTINGS]
        try:
            refuse(owned)
            tuned = {name: tried[0] for name, tried in study.tune[arm].items()}
            for budget in study.budgets:
                schedule.plan(make_run(study, arm, budget, study.seeds[0], tuned, '').config)
        except UserError as error:
            problems.append(f'{study.path}: arm {arm!r}: {error}')
    return problems


# ---------------------------------------------------------------------------------------------------------------------
# from arms to runs


def folder_of(arm: str) -> str:
    """An arm's folder: its name in lower case, _ for what is neither letter nor digit."""
    return ''.join(c if c.isalnum() else '_' for c in arm.lower())


def source_arm(study: Study, arm: str) -> str | None:
    """The arm whose end this one starts from (--init_from='@ARM'), None if it doesn't."""
    for word in shlex.split(study.arms[arm]):
        if word.startswith('--init_from=@'):
            return word.partition('@')[2]
    return None


def find_config(name: str) -> str:
    """A config's path: a file as named, or configs/NAME.py. Raises UserError if there is none."""
    path = name if name.endswith('.py') else os.path.normpath(os.path.join(HERE, 'configs', f'{name}.py'))
    if not os.path.isfile(path):
        known = [os.path.basename(p)[:-3] for p in sorted(glob.glob(os.path.join(HERE, 'configs', '*.py')))]
        raise UserError(f'there is no config {path}' + did_you_mean(name, known))
    return path


def as_flag(name: str, value) -> str:
    """--name=value, such that the loader reads the same value."""
    if isinstance(value, (tuple, list)):
        value = repr(tuple(value)).replace(' ', '')
    return f'--{name}={value}'


def arm_argv(study: Study, arm: str, tuned: dict, source: Run | None) -> list[str]:
    """An arm's configs, the overlays, then settings, the arm's own flags and its tuned values, the later ones winning."""
    configs, *flags = shlex.split(study.arms[arm])
    argv = [find_config(name) for name in (*configs.split('+'), *study.overlays)]
    argv += [as_flag(name, value) for name, value in study.settings.items()]
    for flag in flags:
        if source and flag.startswith('--init_from=@'):
            flag = as_flag('init_from', os.path.join(study.out, source.folder))
        argv.append(flag)
    return argv + [as_flag(name, value) for name, value in tuned.items()]


def make_run(study: Study, arm: str, budget: int, seed: int, tuned: dict, folder: str, source: Run | None = None) -> Run:
    """The run of an arm that has the compute of `budget` full-depth steps of the first baseline, within half a step.

    Growth takes the same share of every budget: stage_fractions as they are, growth_steps and stage_steps as their
    share of the config's baseline_steps.
    """
    baseline = load_config(arm_argv(study, study.baseline[0], {}, None), __doc__, say=None)
    argv = arm_argv(study, arm, tuned, source)
    config = dataclasses.replace(load_config(argv, __doc__, say=None), match='', ledger='flops')
    share = budget / max(1, config.baseline_steps)
    config = dataclasses.replace(config, baseline_steps=budget)
    if config.n_stages == 1 and config.init_depth in (0, config.n_layer):  # nothing grows
        config = dataclasses.replace(config, growth_steps=0, stage_steps=())
    elif not config.stage_fractions:
        stage_steps = tuple(max(1, round(steps * share)) for steps in config.stage_steps)
        config = dataclasses.replace(config, growth_steps=round(config.growth_steps * share), stage_steps=stage_steps)
    config = schedule.with_compute(config, budget * schedule.step_cost(baseline, 'flops'))
    argv += [as_flag(name, getattr(config, name)) for name in ('growth_steps', 'continual_steps', 'baseline_steps')]
    # The few that a config may have set, and that would be in the way.
    as_loaded = load_config([*argv, f'--seed={seed}'], __doc__, say=None)
    for name in ('stage_steps', 'match', 'ledger'):
        if getattr(as_loaded, name) != getattr(config, name):
            argv.append(as_flag(name, getattr(config, name)))
    argv.append(f'--seed={seed}')
    return Run(arm, budget, seed, tuned, folder, argv, load_config(argv, __doc__, say=None), source)


def plan_runs(study: Study, guess: bool = False) -> tuple[dict, list[Run]]:
    """(Tuning of each arm, the runs of the grid), as far as what is finished decides it.

    With `guess` an arm whose tuning isn't finished takes its first values, so that the grid is whole.
    """
    tunings = {}
    runs = {}
    pending = list(study.arms)
    while pending:
        arm = pending.pop(0)
        source = source_arm(study, arm)
        if source in pending:  # it comes first
            pending.append(arm)
            continue
        tuning = tuning_of(study, arm, tunings.get(source), guess)
        tunings[arm] = tuning
        if not tuning.decided:
            continue
        tuned = tuning.best.tuned if tuning.best else {}
        for budget, seed in itertools.product(study.budgets, study.seeds):
            folder = f'{folder_of(arm)}/b{budget}_s{seed}'
            runs[arm, budget, seed] = make_run(study, arm, budget, seed, tuned, folder, runs.get((source, budget, seed)))
    grid = list(runs.values())
    share_prefixes(grid + all_tuning_runs(tunings))
    return tunings, grid


def all_tuning_runs(tunings: dict) -> list[Run]:
    return list(itertools.chain.from_iterable(tuning.runs for tuning in tunings.values()))


def tuning_of(study: Study, arm: str, source: Tuning | None, guess: bool) -> Tuning:
    """The runs that tune an arm, one for each combination of values, and which is best if all have ended."""
    tune = study.tune[arm]
    feeds_a_tuned_arm = any(source_arm(study, other) == arm and study.tune[other] for other in study.arms)
    if source and not source.decided:
        return Tuning([], decided=False)
    if not tune and not feeds_a_tuned_arm:
        return Tuning([])
    runs = []
    points = [dict(zip(tune, values)) for values in itertools.product(*tune.values())]
    extensions = study.tune_extend if len(tune) == 1 else 0
    while True:
        for tuned in points:
            words = ['tune', f'b{study.budgets[0]}', f's{study.tune_seed}', *(f'{k}={v}' for k, v in tuned.items())]
            folder = f'{folder_of(arm)}/{"_".join(words).replace(os.sep, "_")}'
            runs.append(make_run(study, arm, study.budgets[0], study.tune_seed, tuned, folder, source and source.best))
        losses = [final_loss(study, run) for run in runs]
        if None in losses or min(losses) == math.inf:
            return Tuning(runs, best=runs[0] if guess else None, decided=guess)
        best = runs[losses.index(min(losses))]
        edge = edge_of(best, runs)
        if not edge or not extensions:
            return Tuning(runs, best, edge)
        extensions -= 1
        points = [next_value(best, runs)]


def final_loss(study: Study, run: Run) -> float | None:
    """The last validation loss of a finished run, infinity for one that diverged, None for one that isn't finished."""
    folder = finished_folder(study, run)
    if folder is None:
        return math.inf if DIVERGED in study.failed.get(run.folder, '') else None
    records, _ = read_metrics(os.path.join(folder, 'metrics.jsonl'))
    return records[-1]['val_loss']


def edge_of(best: Run, runs: list[Run]) -> str:
    """Which tuned numbers of the best run are the largest or smallest tried, '' if none is."""
    said = []
    for name, value in best.tuned.items():
        tried = {run.tuned[name] for run in runs}
        if len(tried) > 1 and all(type(v) in (int, float) for v in tried):
            if value == max(tried):
                said.append(f'{name}: best at the largest value tried')
            elif value == min(tried):
                said.append(f'{name}: best at the smallest value tried')
    return '; '.join(said)


def next_value(best: Run, runs: list[Run]) -> dict:
    """The value beyond the edge at which the best one lies, as far from it as its neighbor, as a ratio."""
    (name, value), = best.tuned.items()
    others = sorted({run.tuned[name] for run in runs} - {value}, key=lambda other: abs(other - value))
    further = value * value / others[0] if value and others[0] else 2 * value - others[0]
    return {name: type(value)(f'{further:.3g}') if type(value) is float else round(further)}


def share_prefixes(runs: list[Run]):
    """Give each run the one before it, by length, that trains most of its first steps alike.

    "Alike for the first s steps" makes a tree, so that the order decides who trains a prefix, not how much is saved.
    """
    longest_first = sorted(runs, key=lambda run: -run.total)
    for i, run in enumerate(longest_first):
        for other in longest_first[:i]:
            steps = shared_steps(run, other)
            if steps > run.shared:
                run.parent, run.shared = other, steps
        if run.parent:  # both save there, since a part of the grid may be run first
            run.parent.save_at.add(run.shared)
            run.save_at.add(run.shared)


def shared_steps(a: Run, b: Run) -> int:
    """The first steps that one of two runs can take from the other: it keeps a step, and so an end, of its own."""
    if any(getattr(a.config, name, None) != getattr(b.config, name, None) for name in LOGGING):
        return 0
    return min(schedule.shared_prefix(a.config, b.config), a.total - 1, b.total - 1)


# ---------------------------------------------------------------------------------------------------------------------
# what is there


def out_folder(study: Study, run: Run) -> str:
    return os.path.join(study.out, run.folder)


def finished_folder(study: Study, run: Run, elsewhere: bool = True) -> str | None:
    """Where a finished run's records are: the study's folder, else the results of other machines; None if nowhere.

    Raises UserError if what is there was made with other settings.
    """
    for root in (study.out, study.results)[: 1 + elsewhere]:
        folder = os.path.join(root, run.folder)
        if os.path.isfile(os.path.join(folder, 'config.json')):
            check_settings(run, folder)
            if has_last_eval(os.path.join(folder, 'metrics.jsonl'), run.total):
                return folder
    return None


def check_settings(run: Run, folder: str):
    """Raise UserError if the run in `folder` was made with settings that lead elsewhere than `run`."""
    there = schedule.load_run_config(folder)
    for name, setting in FIELDS.items():
        if setting.metadata['free'] or (name == 'init_from' and run.source):
            continue
        was, now = getattr(there, name), getattr(run.config, name)
        if was != now:
            raise UserError(f'{folder} was made with other settings ({name}: was {was!r}, now {now!r}): '
                            'move it away, or give this study another --out')


def saved_steps(folder: str) -> list[int]:
    """The steps whose checkpoints a run's folder holds."""
    names = [os.path.basename(path) for path in glob.glob(os.path.join(glob.escape(folder), 'ckpt_*.pt'))]
    return [int(name[5:-3]) for name in names if name[5:-3].isdigit()]


def last_step(folder: str) -> int:
    """The step of the last whole line of a run's metrics.jsonl, 0 if there is none."""
    try:
        with open(os.path.join(folder, 'metrics.jsonl'), 'rb') as f:
            f.seek(max(0, os.path.getsize(f.name) - 4096))
            steps = re.findall(rb'"step": (\d+).*\n', f.read())
        return int(steps[-1]) if steps else 0
    except FileNotFoundError:
        return 0


def last_state(study: Study) -> dict:
    """What the last launcher wrote: its process, the folders of the runs that it had running, and why others failed."""
    path = os.path.join(study.out, 'study.json')
    state = {'pid': 0, 'running': {}, 'failed': {}}
    return state | read_json(path, "a launcher's state") if os.path.exists(path) else state
