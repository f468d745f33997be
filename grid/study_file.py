"""
A study file: a grid of runs as a Python file of plain assignments, read as strictly as a config.

    arms = {'full depth': 'baseline', '6 layers': 'baseline --n_layer=6', 'Li, 8 stages': 'nofreeze_8stage'}
    baseline = ('full depth', '6 layers')
    overlays = ('cpu',)
    settings = {'lr_schedule': 'wsd', 'decay_fraction': 0.2}
    budgets = (1_000, 4_000)
    seeds, more_seeds = (1, 2, 3), (4, 5, 6, 7, 8)
    questions = (('Li, 8 stages', 4_000),)
    tune = {'learning_rate': (5e-3, 1e-2), '6 layers': {'learning_rate': (1e-2, 2e-2)}}
    tune_extend = 2

A ladder of sizes has every arm at every scale, and budgets in tokens a parameter:

    scales = {'w64': '--n_embd=64 --n_head=4', 'w96': '--n_embd=96 --n_head=6'}
    per_parameter = (5, 20)
    held_out = ('w96',)
    only = {('w64', 20): {'arms': ('full depth',)}}

STUDY_NAMES says what each name means. A name that begins with _ is the file's own. In an arm
--init_from='@full depth' starts from the end of that arm's run of the same scale, budget and seed. All
problems of a file are said at once: which name, what is wrong, the nearest name that there is. """

import difflib
import glob
import itertools
import os
import shlex
from dataclasses import dataclass, field

from config import FIELDS, read_file
from core.common import UserError

HERE = os.path.relpath(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESULTS = os.path.join(HERE, 'results')
STUDY_NAMES = {
    'arms': 'a dict, name: configs joined by +, then flags',
    'baseline': "the arm that the others are judged by, or a tuple of arms that don't grow: by the best",
    'overlays': 'configs that every arm gets after its own',
    'settings': 'a dict of settings for all arms; the flags of an arm win',
    'budgets': 'full-depth steps of the first baseline, whose FLOPs each run gets',
    'scales': 'a dict, name: flags for a size of model, small to large; every arm is run at each',
    'per_parameter': "instead of budgets: tokens for each of full depth's parameters but the embeddings",
    'held_out': 'scales whose result is predicted from the others before they are run',
    'seeds': 'the seeds of every arm at every budget',
    'more_seeds': 'seeds that follow, in looks at 3, 5, 8 seeds in all, while a question is open',
    'questions': 'what the study is to answer, each (arm, budget), or (arm, scale, budget)',
    'margin': 'how far from 1 a cost may be to count as the same',
    'only': "a dict, budget, scale or (scale, budget): {'arms': a tuple, 'seeds': a tuple}, where not all "
            'arms or seeds are run',
    'tune': 'a dict, setting: values to try; or an arm or a scale: such a dict of its own',
    'tune_at': 'the budgets at which arms are tuned, or a dict, scale: its budgets; by default all but those '
               'of held_out',
    'tune_seeds': 'the seeds of tuning, which judge nothing',
    'tune_extend': 'by how many values a grid may go on, at its last ratio, while the best is at an edge',
}
# What the study itself gives to every run.
OWN_SETTINGS = ('seed', 'out_dir', 'run_name', 'resume', 'match', 'ledger', 'continual_steps', 'branch_from',
                'checkpoint_steps')
LOOKS = (3, 5, 8)  # seeds at which a study with more_seeds looks at its questions
LONGEST_NAME = 100  # bytes of a folder's name, which a file system ends at 255


@dataclass
class Study:
    """What a study file says, and where its runs go."""

    path: str
    about: str  # the comment at the top of the file
    arms: dict  # name: configs and flags, as written
    baseline: tuple
    overlays: tuple
    settings: dict
    scales: dict  # name: flags; {'': ''} for a study of one size
    budgets: tuple  # ascending: full-depth steps, or tokens a parameter
    is_ladder: bool  # it has scales
    held_out: tuple
    seeds: tuple
    more_seeds: tuple
    questions: tuple  # (arm, scale, budget) each; () for every arm at the largest budget
    margin: float
    only: dict
    tune: dict  # as written
    tune_at: dict  # scale: budgets
    tune_seeds: tuple
    tune_extend: int
    out: str
    results: str  # the folder with the records of runs that were finished elsewhere
    failed: dict = field(default_factory=dict)  # a run's folder: why it failed, as the last launcher saw it
    damaged: dict = field(default_factory=dict)  # a run's folder: which of its files can't be read

    @property
    def name(self) -> str:
        return os.path.splitext(os.path.basename(self.path))[0]

    @property
    def records_path(self) -> str:
        return os.path.join(self.results, 'records.jsonl')

    @property
    def cells(self) -> list[tuple[str, int]]:
        """(scale, budget) of each cell of the grid."""
        return list(itertools.product(self.scales, self.budgets))

    @property
    def looks(self) -> tuple:
        """The seeds of each planned look, with those before; () for a study of one look."""
        if not self.more_seeds:
            return ()
        every = self.seeds + self.more_seeds
        sizes = {len(self.seeds), *(n for n in LOOKS if len(self.seeds) < n < len(every)), len(every)}
        return tuple(every[:size] for size in sorted(sizes))

    def seeds_at(self, arm: str, budget: int, scale: str = '') -> tuple:
        """The first seeds of an arm at a budget, none if `only` leaves it out there."""
        seeds = self.seeds
        for key in (budget, scale, (scale, budget)):
            part = self.only.get(key, {})
            if arm not in part.get('arms', self.arms):
                return ()
            seeds = tuple(seed for seed in seeds if seed in part.get('seeds', seeds))
        return seeds

    def source_of(self, arm: str) -> str | None:
        """The arm whose end this one starts from (--init_from='@ARM'), None if it doesn't."""
        for flag in flags_of(self.arms[arm]):
            if flag.startswith('--init_from=@'):
                return flag.partition('@')[2]
        return None

    def values_to_try(self, arm: str, scale: str) -> dict:
        """{setting: values} of an arm's tuning: its own, else the scale's, else those for all."""
        common = {name: tried for name, tried in self.tune.items() if not isinstance(tried, dict)}
        return self.tune.get(arm, self.tune.get(scale, common))

    def tuned_cells(self, arm: str) -> list[tuple[str, int]]:
        """The cells at which an arm is tuned: where it is run, or all of them where it isn't."""
        cells = []
        for scale, budgets in self.tune_at.items():
            if self.values_to_try(arm, scale):
                cells += [(scale, budget) for budget in budgets]
        return [(scale, budget) for scale, budget in cells if self.seeds_at(arm, budget, scale)] or cells

    def tuned_like(self, arm: str, scale: str, budget: int) -> tuple[str, int] | None:
        """The cell whose tuning an arm takes at a cell: its own, else of its scale or the next smaller one
        that has any the one of the nearest budget; None for an arm that isn't tuned."""
        order = list(self.scales)
        cells = self.tuned_cells(arm)
        below = [cell for cell in cells if order.index(cell[0]) <= order.index(scale)] or cells
        if not below:
            return None
        nearest = max(order.index(cell[0]) for cell in below)
        there = [cell for cell in below if order.index(cell[0]) == nearest]
        return min(there, key=lambda cell: max(cell[1] / budget, budget / cell[1]))


def flags_of(text: str) -> list[str]:
    """The flags of an arm, each as --name=value: `--name value` is the same."""
    flags = []
    for word in shlex.split(text)[1:]:
        if word.startswith('--') or not flags or '=' in flags[-1]:
            flags.append(word)
        else:
            flags[-1] += f'={word}'
    return flags


# ------------------------------------------------------------------------------------------------------------
# reading


def read_study(path: str, out: str, problems: list[str]) -> Study:
    """Read a study file; what is wrong with it goes to `problems`. `out`: the folder of its runs, by default
    out/NAME. Raises UserError if it isn't there, or can't be read at all.

    Whether the arms' configs, flags and plans are right is grid.plan.load_study's to say.
    """
    if not os.path.isfile(path):
        paths = sorted(glob.glob(os.path.join(HERE, 'studies', '*.py')))
        known = [os.path.normpath(path) for path in paths]
        raise UserError(f'{path}: no such study file' + did_you_mean(path, known))
    wrong = []
    values = read_file(path, wrong)  # in an empty namespace, as a config
    refuse(wrong)
    # A name that nobody asks for is a typo: it would be a default, silently.
    for name in [name for name in values if name not in STUDY_NAMES]:
        wrong.append(f"a study has no '{name}'" + did_you_mean(name, STUDY_NAMES))
        del values[name]
    values = with_types(values, wrong)
    tune_at = values.pop('tune_at')
    name = os.path.splitext(os.path.basename(path))[0]
    study = Study(path=path, about=first_comment(path), out=out or os.path.join('out', name),
                  results=os.path.normpath(os.path.join(RESULTS, name)), tune_at={}, **values)
    if not study.tune_seeds:  # what is judged hasn't chosen anything
        taken = study.seeds + study.more_seeds
        study.tune_seeds = (*((0,) if 0 not in taken else ()), max(taken) + 1, max(taken) + 2)[:2]
    for scale in study.scales:
        at = tune_at.get(scale, ()) if isinstance(tune_at, dict) else tune_at
        if tune_at is None and scale not in study.held_out:
            at = study.budgets
        study.tune_at[scale] = tuple(at or ())
    for check in (check_arms, check_settings, check_scales, check_seeds, check_only, check_questions):
        wrong += check(study, tune_at) if check is check_settings else check(study)
    problems += [f'{path}: {problem}' for problem in wrong]
    return study


def with_types(values: dict, wrong: list[str]) -> dict:
    """Every name of a study with a value of its type; what is none is said, and its default stands in."""
    found = {}
    for name in ('arms', 'settings', 'tune', 'only', 'scales'):
        found[name] = values.get(name, {})
        if not isinstance(found[name], dict):
            wrong.append(f'{name} must be {STUDY_NAMES[name]}')
            found[name] = {}
    budgets = 'per_parameter' if 'scales' in values or 'per_parameter' in values else 'budgets'
    needed = ('baseline', budgets, 'seeds')
    kinds = {'baseline': str, 'overlays': str, 'held_out': str, budgets: int, 'seeds': int, 'more_seeds': int,
             'tune_seeds': int}
    for name, kind in kinds.items():
        found[name], problem = read_items(name, values.get(name, ()), kind, name in needed)
        if problem:
            wrong.append(problem)
    found['is_ladder'] = budgets == 'per_parameter'
    if found['is_ladder'] and 'budgets' in values:
        wrong.append('budgets and per_parameter are two ways to say the same: leave one out')
    if found['is_ladder'] and not found['scales']:
        wrong.append(f'scales is missing: {STUDY_NAMES["scales"]}')
    found['budgets'] = tuple(sorted(found.pop(budgets))) or (1,)
    found['scales'] = found['scales'] or {'': ''}
    found['seeds'] = found['seeds'] or (1,)
    found['margin'] = values.get('margin', 0.1)
    if type(found['margin']) not in (int, float) or not 0 < found['margin'] < 1:
        wrong.append(f'margin must be a number between 0 and 1, not {found["margin"]!r}')
    found['tune_extend'] = values.get('tune_extend', 0)
    if type(found['tune_extend']) is not int or not 0 <= found['tune_extend'] <= 20:
        wrong.append(f'tune_extend must be an int from 0 to 20, not {found["tune_extend"]!r}')
        found['tune_extend'] = 0
    found['questions'] = values.get('questions', ())
    found['tune_at'] = values.get('tune_at')
    return found


def read_items(name: str, value, kind: type, is_needed: bool) -> tuple[tuple, str]:
    """(a value of a study file as a tuple, what is wrong with it or ''). One item may stand without a
    tuple."""
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    # True is an int to isinstance, and no seed.
    if any(type(item) is not kind for item in items) or len(set(items)) < len(items):
        return (), f'{name} must be a tuple of different values of type {kind.__name__}, not {value!r}'
    if not items and is_needed:
        return (), f'{name} is missing: {STUDY_NAMES[name]}'
    is_seed = name.endswith('seeds')
    if kind is int and items and min(items) < (0 if is_seed else 1):
        return (), f'{name} must be positive, not {value!r}'
    if is_seed and items and max(items) >= 2**32:
        return (), f'{name} must be below 2**32, not {value!r}'
    return items, ''


def first_comment(path: str) -> str:
    """What a study file says of itself: the first paragraph of its comment at the top, '' without one."""
    said = []
    with open(path, encoding='utf-8-sig') as f:  # Windows' editors put a mark before the text
        for line in f:
            # A bare '#' ends the paragraph, as an empty line does.
            if not line.startswith('# '):
                break
            said.append(line[1:].strip())
    return ' '.join(said)


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
        return f'; did you mean {near[0]!r}?'
    # A name may hold commas of its own.
    return f'; there are {", ".join(repr(other) for other in names)}'


# ------------------------------------------------------------------------------------------------------------
# what can be wrong


def check_arms(study: Study) -> list[str]:
    """Texts, folders, the baseline, where arms start from. An arm without a text is left out of the rest."""
    problems = []
    folders = {}
    for arm, text in list(study.arms.items()):
        problem = problem_with_arm(arm, text)
        if problem:
            problems.append(problem)
            del study.arms[arm]
            continue
        other = folders.setdefault(folder_of(arm), arm)
        if other != arm:
            problems.append(f'arms {other!r} and {arm!r} would share the folder {folder_of(arm)}')
    arms = list(study.arms)
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


def problem_with_arm(arm, text) -> str:
    """What is wrong with an arm by itself, '' if nothing is."""
    if type(arm) is not str or type(text) is not str or not text.split():
        return f'arm {arm!r} must be a name, with configs and flags as a text, not {text!r}'
    try:
        shlex.split(text)
    except ValueError as error:  # a quote that isn't closed
        return f'arm {arm!r}: {error} in {text!r}'
    folder = folder_of(arm)
    if not folder.strip('_') or len(folder.encode()) > LONGEST_NAME:
        return (f'arm {arm!r}: its folder would be {folder!r}; a name needs a letter or a digit, and at most '
                f'{LONGEST_NAME} bytes')
    # One line of a table, and nothing that a spreadsheet takes for a formula.
    if arm.splitlines() != [arm] or '\t' in arm or arm[0] in '=+-@':
        return f"arm {arm!r}: a name is one line, and doesn't begin with = + - or @"
    return ''


def check_settings(study: Study, tune_at) -> list[str]:
    """The names in `settings` and `tune`, the values to try, and where they are tried."""
    problems = []
    tuned = {}  # all settings that some arm tunes
    for name, tried in study.tune.items():
        if not isinstance(tried, dict):  # for all arms
            tuned[name] = tried
            continue
        tuned |= tried
        if name not in study.arms and name not in study.scales:
            problems.append(f'tune: {name!r} is no arm' + did_you_mean(name, [*study.arms, *study.scales]))
    for name in (*study.settings, *tuned):
        if name not in FIELDS:
            problems.append(f'no setting is called {name!r}' + did_you_mean(name, FIELDS))
        elif name in OWN_SETTINGS:
            problems.append(f'{name} is what the study itself gives to every run')
    for values in (study.tune, *study.tune.values()):
        for name, tried in list(values.items()) if isinstance(values, dict) else ():
            if not isinstance(tried, (dict, tuple, list)) or tried in ((), []):
                problems.append(f'tune: {name} must have a tuple of values to try, not {tried!r}')
                del values[name]
    if tune_at is None:
        return problems
    for scale, budgets in (tune_at if isinstance(tune_at, dict) else {'': tune_at}).items():
        if isinstance(tune_at, dict) and scale not in study.scales:
            problems.append(f'tune_at: {scale!r} is no scale' + did_you_mean(scale, study.scales))
        for budget in budgets if isinstance(budgets, (tuple, list)) else (budgets,):
            if budget not in study.budgets:
                problems.append(f'tune_at: the study has no budget {budget!r}' +
                                did_you_mean(budget, study.budgets))
    return problems


def check_scales(study: Study) -> list[str]:
    """The names and flags of sizes, and what is held out."""
    problems = []
    folders = {}
    for scale, text in study.scales.items():
        if study.is_ladder and (type(scale) is not str or not folder_of(scale).strip('_')
                                or type(text) is not str or len(folder_of(scale)) > LONGEST_NAME):
            problems.append(f'scale {scale!r} must be a name, with flags as a text, not {text!r}')
            continue
        other = folders.setdefault(folder_of(scale), scale)
        if other != scale:
            problems.append(f'scales {other!r} and {scale!r} would share the name {folder_of(scale)}')
    for scale in study.held_out:
        if scale not in study.scales:
            problems.append(f'held_out: {scale!r} is no scale' + did_you_mean(scale, study.scales))
    if set(study.scales) <= set(study.held_out):
        problems.append('held_out: no scale is left to predict from')
    return problems


def check_seeds(study: Study) -> list[str]:
    """Seeds that judge twice, or judge what they have chosen."""
    problems = []
    for seed in study.more_seeds:
        if seed in study.seeds:
            problems.append(f'more_seeds: {seed} is one of the seeds already')
    for seed in study.tune_seeds:
        if seed in study.seeds + study.more_seeds:
            problems.append(f'tune_seeds: {seed} is one of the seeds that judge')
    return problems


def check_only(study: Study) -> list[str]:
    """The parts of the grid that `only` names."""
    problems = []
    for key, part in list(study.only.items()):
        wrong = check_part(study, key, part)
        if wrong:  # seeds_at takes the types for granted
            del study.only[key]
            problems += [f'only, {describe_key(study, key)}: {problem}' for problem in wrong]
    for scale, budget in study.cells:
        where = f'{scale}, {budget}' if study.is_ladder else f'budget {budget}'
        run = [arm for arm in study.arms if study.seeds_at(arm, budget, scale)]
        if run and not set(run) & set(study.baseline) and set(study.baseline) <= set(study.arms):
            problems.append(f'only, {where}: there is no baseline to judge by')
        for arm in run:
            source = study.source_of(arm)
            if source in study.arms and not study.seeds_at(source, budget, scale):
                problems.append(f'only, {where}: {arm!r} starts from the end of {source!r}, which is left '
                                'out')
    for arm in study.arms:
        if not any(study.seeds_at(arm, budget, scale) for scale, budget in study.cells):
            problems.append(f'only leaves {arm!r} out at every budget')
    return problems


def describe_key(study: Study, key) -> str:
    return f'scale {key!r}' if isinstance(key, str) else f'budget {key!r}'


def check_part(study: Study, key, part) -> list[str]:
    """One part of `only` by itself: its key, its form, its names."""
    known = {'arms': tuple(study.arms), 'seeds': study.seeds}
    keys = list(study.budgets)
    if study.is_ladder:
        keys += [*study.scales, *study.cells]
    if key not in keys:
        what = 'scale' if isinstance(key, str) else 'budget'
        return [f'the study has no such {what}' +
                did_you_mean(key, study.scales if what == 'scale' else study.budgets)]
    if not isinstance(part, dict) or not part or set(part) - set(known):
        return [f"it must have a dict of 'arms' and 'seeds', or one of them, not {part!r}"]
    problems = []
    for name, items in part.items():
        if not isinstance(items, (tuple, list)):
            problems.append(f'{name} must be a tuple, not {items!r}')
            continue
        for item in items:
            if item not in known[name]:
                problems.append(f'{item!r} is none of the {name}' + did_you_mean(item, known[name]))
            elif items.count(item) > 1:
                problems.append(f'{name} has {item!r} twice')
    return problems


def check_questions(study: Study) -> list[str]:
    """The declared questions; without their scale in a study of one size."""
    questions = study.questions
    form = '(arm, scale, budget)' if study.is_ladder else '(arm, budget)'
    if not isinstance(questions, (tuple, list)):
        questions = (questions,)
    elif questions and isinstance(questions[0], str):  # a single one
        questions = (tuple(questions),)
    problems, found = [], []
    for question in questions:
        if not isinstance(question, (tuple, list)) or len(question) != form.count(',') + 1:
            problems.append(f'questions: each must be {form}, not {question!r}')
            continue
        arm, *scale, budget = question
        scale = scale[0] if scale else ''
        if arm not in study.arms:
            problems.append(f'questions: {arm!r} is no arm' + did_you_mean(arm, study.arms))
        elif scale not in study.scales or budget not in study.budgets:
            problems.append(f'questions: {question!r} is nowhere in the grid')
        elif not study.seeds_at(arm, budget, scale):
            problems.append(f'questions: only leaves {question!r} out')
        else:
            found.append((arm, scale, budget))
    study.questions = tuple(found)
    return problems


def folder_of(name: str) -> str:
    """An arm's or scale's folder: its name in lower case, _ for what is neither letter nor digit."""
    return ''.join(c if c.isalnum() else '_' for c in name.lower())


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
    if isinstance(value, dict):  # as a config may write val_dirs
        value = tuple(f'{key}:{text}' for key, text in value.items())
    if isinstance(value, (tuple, list)):  # the loader takes it as Python, the shell without spaces
        value = repr(tuple(value)).replace(' ', '')
    return f'--{name}={value}'


def arm_argv(study: Study, arm: str, scale: str = '') -> list[str]:
    """An arm's configs and the overlays; then settings, the scale's flags and the arm's own, the later ones
    winning. Raises UserError for a config that isn't there, or a flag that is the study's to give."""
    configs = shlex.split(study.arms[arm])[0]
    argv = [find_config(name) for name in (*configs.split('+'), *study.overlays)]
    for name, value in study.settings.items():
        argv.append(as_flag(name, value))
    flags = flags_of(f'flags {study.scales[scale]}') + flags_of(study.arms[arm])
    for flag in flags:
        name = flag.lstrip('-').partition('=')[0].replace('-', '_')
        if name in OWN_SETTINGS:  # it would win over the study's, or be silently overruled
            raise UserError(f'{name} is what the study itself gives to every run')
    return argv + flags
