"""
A study file: a grid of runs as a Python file of plain assignments, read as strictly as a config.

    arms = {'full depth': 'baseline', 'Li, 8 stages': 'incremental_8stage', 'short': 'baseline --n_layer=6'}
    baseline = 'full depth'               or a tuple: each arm is judged by the one most alike
    overlays = ('cpu',)
    settings = {'lr_schedule': 'wsd', 'decay_fraction': 0.2}
    budgets = (1_000, 4_000)
    seeds = (1, 2, 3)
    only = {4_000: {'arms': ('full depth', 'Li, 8 stages'), 'seeds': (1, 2)}}
    tune = {'learning_rate': (5e-3, 1e-2), 'short': {'learning_rate': (1e-2, 2e-2)}}
    tune_extend = 2

STUDY_NAMES says what each name means. A name that begins with _ is the file's own. In an arm
--init_from='@full depth' starts from the end of that arm's run of the same budget and seed. All problems of a
file are said at once: which name, what is wrong, the nearest name that there is. """

import difflib
import glob
import os
import shlex
from dataclasses import dataclass, field

from config import FIELDS, read_file
from core.common import UserError

HERE = os.path.relpath(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STUDY_NAMES = {
    'arms': 'a dict, name: configs joined by +, then flags',
    'baseline': 'the arm that the others are judged by, or a tuple: by the one that is most alike',
    'overlays': 'configs that every arm gets after its own',
    'settings': 'a dict of settings for all arms; the flags of an arm win',
    'budgets': 'full-depth steps of the first baseline, whose FLOPs each run gets',
    'seeds': 'the seeds of every arm at every budget',
    'only': "a dict, budget: {'arms': a tuple, 'seeds': a tuple}, where not all arms or seeds are run",
    'tune': 'a dict, setting: values to try; or arm: such a dict of its own',
    'tune_extend': 'by how many values a grid may go on, at its last ratio, while the best is at an edge',
}
# What the study itself gives to every run.
OWN_SETTINGS = ('seed', 'out_dir', 'run_name', 'resume', 'match', 'ledger', 'continual_steps', 'branch_from',
                'checkpoint_steps')


@dataclass
class Study:
    """What a study file says, and where its runs go."""

    path: str
    arms: dict  # name: configs and flags, as written
    baseline: tuple
    budgets: tuple  # ascending
    seeds: tuple
    only: dict  # budget: {'arms': names, 'seeds': numbers}
    overlays: tuple
    settings: dict
    tune: dict  # arm: {setting: values to try}
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
    def records_path(self) -> str:
        """The file with those records."""
        return os.path.join(self.results, 'records.jsonl')

    @property
    def tune_seed(self) -> int:
        """A seed of its own: the seeds that are judged haven't chosen anything."""
        return 0 if 0 not in self.seeds else max(self.seeds) + 1

    def seeds_at(self, arm: str, budget: int) -> tuple:
        """The seeds with which an arm is run at a budget, none if `only` leaves it out there."""
        only = self.only.get(budget, {})
        if arm not in only.get('arms', self.arms):
            return ()
        return tuple(only.get('seeds', self.seeds))

    def source_of(self, arm: str) -> str | None:
        """The arm whose end this one starts from (--init_from='@ARM'), None if it doesn't."""
        for word in shlex.split(self.arms[arm]):
            if word.startswith('--init_from=@'):
                return word.partition('@')[2]
        return None


def read_study(path: str, out: str = '') -> Study:
    """Read a study file. `out`: the folder of its runs, by default out/NAME. Raises UserError with all
    problems.

    Whether the arms' configs, flags and plans are right is plan.load_study's to say.
    """
    if not os.path.isfile(path):
        paths = sorted(glob.glob(os.path.join(HERE, 'studies', '*.py')))
        known = [os.path.normpath(path) for path in paths]
        raise UserError(f'{path}: no such study file' + did_you_mean(path, known))
    problems = []
    values = read_file(path, problems)  # in an empty namespace, as a config
    # A name that nobody asks for is a typo: it would be a default, silently.
    for name in values:
        if name not in STUDY_NAMES:
            problems.append(f"{path}: a study has no '{name}'" + did_you_mean(name, STUDY_NAMES))
    for name in ('arms', 'settings', 'tune', 'only'):
        values.setdefault(name, {})
        if not isinstance(values[name], dict):
            problems.append(f'{path}: {name} must be {STUDY_NAMES[name]}')
    for name, kind in (('baseline', str), ('overlays', str), ('budgets', int), ('seeds', int)):
        values[name], problem = read_items(name, values.get(name, ()), kind)
        if problem:
            problems.append(f'{path}: {problem}')
    values.setdefault('tune_extend', 0)
    if type(values['tune_extend']) is not int:
        problems.append(f'{path}: tune_extend must be an int, not {values["tune_extend"]!r}')
    refuse(problems)  # what follows takes the types for granted
    study = Study(path=path, out='', **values)
    study.out = out or os.path.join('out', study.name)
    study.budgets = tuple(sorted(study.budgets))  # the first one is where arms are tuned
    problems = check_arms(study) + check_settings(study) + check_only(study)
    refuse([f'{path}: {problem}' for problem in problems])
    # An arm's own dict stands for that arm alone, the rest of `tune` for all the others.
    common = {name: tried for name, tried in study.tune.items() if not isinstance(tried, dict)}
    study.tune = {arm: study.tune.get(arm, common) for arm in study.arms}
    return study


def read_items(name: str, value, kind: type) -> tuple[tuple, str]:
    """(a value of a study file as a tuple, what is wrong with it or ''). One item may stand without a
    tuple."""
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    # True is an int to isinstance, and no seed.
    if any(type(item) is not kind for item in items) or len(set(items)) < len(items):
        return (), f'{name} must be a tuple of different values of type {kind.__name__}, not {value!r}'
    if not items and name != 'overlays':
        return (), f'{name} is missing: {STUDY_NAMES[name]}'
    least = 1 if name == 'budgets' else 0  # a seed may be 0
    if kind is int and min(items) < least:
        return (), f'{name} must be positive, not {value!r}'
    return items, ''


def refuse(problems: list[str]):
    """Raise UserError, with all problems in one message, if there are any."""
    if len(problems) > 1:
        problems = ['the study is wrong:', *problems]
    if problems:
        raise UserError('\n  '.join(problems))


def did_you_mean(name, names) -> str:
    """The end of a sentence about a name that isn't there: the nearest one, or all that there are."""
    known = [str(other) for other in names]  # budgets and seeds are numbers
    near = difflib.get_close_matches(str(name), known, 1, 0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f'; there are {", ".join(known)}'


def check_arms(study: Study) -> list[str]:
    """What is wrong with the arms as far as names go: texts, folders, the baseline, where they start from."""
    problems = []
    folders = {}
    for arm, text in study.arms.items():
        if type(arm) is not str or type(text) is not str or not text.split():
            # Without a text there is no source to follow: such an arm is left out of what comes below.
            problems.append(f'arm {arm!r} must be a name, with configs and flags as a text, not {text!r}')
            continue
        other = folders.setdefault(folder_of(arm), arm)
        if other != arm:
            problems.append(f'arms {other!r} and {arm!r} would share the folder {folder_of(arm)}')
    arms = list(folders.values())
    for name in study.baseline:
        if name not in arms:
            problems.append(f'baseline {name!r} is no arm' + did_you_mean(name, arms))
    # Each arm's chain of sources must end at one that starts from scratch or from a file.
    for arm in arms:
        chain = [arm]
        source = study.source_of(arm)
        while source in arms and source not in chain:
            chain.append(source)
            source = study.source_of(source)
        if source in chain:
            problems.append(f'arm {arm!r} starts from its own end')
        elif source is not None:
            problems.append(f'arm {chain[-1]!r} starts from the end of {source!r}, which is no arm' +
                            did_you_mean(source, arms))
    return problems


def check_settings(study: Study) -> list[str]:
    """What is wrong with the names in `settings` and `tune`, and with the values to try."""
    problems = []
    tuned = {}  # all settings that some arm tunes
    for name, tried in study.tune.items():
        if not isinstance(tried, dict):  # for all arms
            tuned[name] = tried
            continue
        tuned |= tried
        if name not in study.arms:
            problems.append(f'tune: {name!r} is no arm' + did_you_mean(name, study.arms))
    for name in (*study.settings, *tuned):
        if name not in FIELDS:
            problems.append(f'no setting is called {name!r}' + did_you_mean(name, FIELDS))
        elif name in OWN_SETTINGS:
            problems.append(f'{name} is what the study itself gives to every run')
    for name, tried in tuned.items():
        if not isinstance(tried, (tuple, list)) or not tried:
            problems.append(f'tune: {name} must have a tuple of values to try, not {tried!r}')
    return problems


def check_only(study: Study) -> list[str]:
    """What is wrong with the parts of the grid that `only` names."""
    problems = []
    for budget, part in study.only.items():
        wrong = check_part(study, budget, part)
        if not wrong:  # seeds_at takes the types for granted
            if not any(study.seeds_at(arm, budget) for arm in study.baseline):
                wrong.append('there is no baseline to judge by')
            for arm in study.arms:
                source = study.source_of(arm)
                if source and study.seeds_at(arm, budget) and not study.seeds_at(source, budget):
                    wrong.append(f'{arm!r} starts from the end of {source!r}, which is left out')
        problems += [f'only, budget {budget!r}: {problem}' for problem in wrong]
    if not problems:
        for arm in study.arms:
            if not any(study.seeds_at(arm, budget) for budget in study.budgets):
                problems.append(f'only leaves {arm!r} out at every budget')
    return problems


def check_part(study: Study, budget, part) -> list[str]:
    """What is wrong with one part of `only` by itself: its budget, its form, its names."""
    known = {'arms': tuple(study.arms), 'seeds': study.seeds}
    if budget not in study.budgets:
        return ['the study has no such budget' + did_you_mean(budget, study.budgets)]
    if not isinstance(part, dict) or not part or set(part) - set(known):
        return [f"it must have a dict of 'arms' and 'seeds', or one of them, not {part!r}"]
    problems = []
    for name, items in part.items():
        if not isinstance(items, (tuple, list)) or not items:
            problems.append(f'{name} must be a tuple, not {items!r}')
            continue
        for item in items:
            if item not in known[name]:
                problems.append(f'{item!r} is none of the {name}' + did_you_mean(item, known[name]))
            elif items.count(item) > 1:
                problems.append(f'{name} has {item!r} twice')
    return problems


def folder_of(arm: str) -> str:
    """An arm's folder: its name in lower case, _ for what is neither letter nor digit."""
    return ''.join(c if c.isalnum() else '_' for c in arm.lower())


# ------------------------------------------------------------------------------------------------------------
# from an arm to the arguments of train.py


def find_config(name: str) -> str:
    """A config's path: a file as named, or configs/NAME.py. Raises UserError if there is none."""
    path = name
    if not name.endswith('.py'):  # of the repository, wherever the study is started
        path = os.path.normpath(os.path.join(HERE, 'configs', f'{name}.py'))
    if not os.path.isfile(path):
        paths = sorted(glob.glob(os.path.join(HERE, 'configs', '*.py')))
        known = [os.path.splitext(os.path.basename(path))[0] for path in paths]
        raise UserError(f'there is no config {path}' + did_you_mean(name, known))
    return path


def as_flag(name: str, value) -> str:
    """--name=value, such that the loader reads the same value."""
    if isinstance(value, (tuple, list)):  # the loader takes it as Python, the shell without spaces
        value = repr(tuple(value)).replace(' ', '')
    return f'--{name}={value}'


def arm_argv(study: Study, arm: str, tuned: dict, init_from: str = '') -> list[str]:
    """An arm's configs and the overlays; then settings, the arm's own flags, and its tuned values, the later
    ones winning. `init_from` is what stands for @ARM. Raises UserError for a config that isn't there."""
    configs, *flags = shlex.split(study.arms[arm])
    argv = [find_config(name) for name in (*configs.split('+'), *study.overlays)]
    for name, value in study.settings.items():
        argv.append(as_flag(name, value))
    for flag in flags:
        name = flag.lstrip('-').partition('=')[0]
        if name in OWN_SETTINGS:  # it would win over the study's, or be silently overruled
            raise UserError(f'{name} is what the study itself gives to every run')
        if flag.startswith('--init_from=@') and init_from:
            flag = as_flag('init_from', init_from)
        argv.append(flag)
    for name, value in tuned.items():
        argv.append(as_flag(name, value))
    return argv
