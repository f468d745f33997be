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
        known = [os.path.normpath(path) for path in glob.glob(os.path.join(HERE, 'studies', '*.py'))]
        raise UserError(f'{path}: no such study file' + did_you_mean(path, sorted(known)))
    wrong = []
    values = read_file(path, wrong)  # in an empty namespace, as a config
    refuse(wrong)
    for name in values:  # one that nobody asks for is a typo: it would be a default, silently
        if name not in STUDY_NAMES:
            wrong.append(f'there is no {name!r} in a study' + did_you_mean(name, STUDY_NAMES))
    found = with_types(values, wrong)
    tune_at = values.get('tune_at')
    name = os.path.splitext(os.path.basename(path))[0]
    study = Study(path=path, about=first_comment(path), out=out or os.path.join('out', name),
                  results=os.path.normpath(os.path.join(RESULTS, name)), tune_at={}, **found)
    if not study.tune_seeds:  # what is judged hasn't chosen anything
        taken = study.seeds + study.more_seeds
        study.tune_seeds = (*((0,) if 0 not in taken else ()), max(taken) + 1, max(taken) + 2)[:2]
    for scale in study.scales:
        at = tune_at.get(scale, ()) if isinstance(tune_at, dict) else tune_at
        if tune_at is None and scale not in study.held_out:
            at = study.budgets
        study.tune_at[scale] = items_of(at or ())
    wrong += check_arms(study)
    wrong += check_values(study)
    wrong += check_only(study)
    wrong += check_questions(study)
    for where, one, known in names_asked_for(study, tune_at):
        if one not in known:
            wrong.append(f'{where}: there is no {one!r}' + did_you_mean(one, known))
    problems += [f'{path}: {problem}' for problem in wrong]
    return study

# What a value of each name is; of a type other than dict it is one of them, or a tuple.
KINDS = {'arms': dict, 'settings': dict, 'tune': dict, 'only': dict, 'scales': dict, 'baseline': str,
         'overlays': str, 'held_out': str, 'budgets': int, 'per_parameter': int, 'seeds': int,
         'more_seeds': int, 'tune_seeds': int}

def items_of(value) -> tuple:
    """A value of a study file as a tuple: one item may stand without."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)

def with_types(values: dict, wrong: list[str]) -> dict:
    """Every name of a study with a value of its type; what is none is said, and its default stands in."""
    found = {'questions': values.get('questions', ())}
    for name, kind in KINDS.items():
        value = values.get(name, {} if kind is dict else ())
        least, below = (0 if name.endswith('seeds') else 1), 2**32
        if kind is dict:
            is_right = isinstance(value, dict)
        else:
            value = items_of(value)
            # True is an int to isinstance, and no seed.
            is_right = all(type(item) is kind for item in value) and len(set(value)) == len(value)
            if kind is int and is_right:
                is_right = all(least <= item < below for item in value)
        if not is_right:
            form = 'a dict' if kind is dict else f'a tuple of different values of type {kind.__name__}'
            bounds = f' from {least} to 2**32 - 1' if kind is int else ''
            wrong.append(f'{name} must be {form}{bounds}, not {value!r}')
            value = {} if kind is dict else ()
        found[name] = value
    is_ladder = 'scales' in values or 'per_parameter' in values
    budgets = 'per_parameter' if is_ladder else 'budgets'
    if is_ladder and 'budgets' in values:
        wrong.append('budgets and per_parameter are two ways to say the same: leave one out')
    needed = ['arms', 'baseline', budgets, 'seeds', *(['scales'] if is_ladder else [])]
    wrong += [f'{name} is missing: {STUDY_NAMES[name]}' for name in needed if not values.get(name)]
    found['budgets'] = tuple(sorted(found[budgets])) or (1,)
    del found['per_parameter']
    found['is_ladder'] = is_ladder
    found['scales'] = found['scales'] or {'': ''}
    found['seeds'] = found['seeds'] or (1,)
    found['margin'] = values.get('margin', 0.1)
    if type(found['margin']) not in (int, float) or not 0 < found['margin'] < 1:
        wrong.append(f'margin must be a number between 0 and 1, not {found["margin"]!r}')
    found['tune_extend'] = values.get('tune_extend', 0)
    if type(found['tune_extend']) is not int or not 0 <= found['tune_extend'] <= 20:
        wrong.append(f'tune_extend must be an int from 0 to 20, not {found["tune_extend"]!r}')
        found['tune_extend'] = 0
    return found

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

def names_asked_for(study: Study, tune_at) -> list[tuple]:
    """(where a name stands, the name, what there is) of each name that means another one."""
    asked = [('baseline', arm, study.arms) for arm in study.baseline]
    asked += [(f'arm {arm!r}', study.source_of(arm), study.arms) for arm in study.arms
              if study.source_of(arm) is not None]
    asked += [('held_out', scale, study.scales) for scale in study.held_out]
    asked += [('settings', name, FIELDS) for name in study.settings]
    for name, tried in study.tune.items():
        is_part = isinstance(tried, dict)
        asked.append(('tune', name, [*study.arms, *study.scales] if is_part else FIELDS))
        asked += [('tune', setting, FIELDS) for setting in (tried if is_part else ())]
    for scale, budgets in tune_at.items() if isinstance(tune_at, dict) else ():
        asked.append(('tune_at', scale, study.scales))
        asked += [('tune_at', budget, study.budgets) for budget in items_of(budgets)]
    if tune_at is not None and not isinstance(tune_at, dict):
        asked += [('tune_at', budget, study.budgets) for budget in items_of(tune_at)]
    return asked

def check_arms(study: Study) -> list[str]:
    """Names, texts and folders of arms and scales, and where arms start from. An arm that is wrong by itself
    is left out of the rest."""
    problems = []
    for what, some in (('arm', study.arms), ('scale', study.scales if study.is_ladder else {})):
        folders = {}
        for name, text in list(some.items()):
            problem = problem_with(what, name, text)
            if problem:
                problems.append(f'{what} {name!r}: {problem}')
                del some[name]
                continue
            other = folders.setdefault(folder_of(name), name)
            if other != name:
                problems.append(f'{what}s {other!r} and {name!r} would share the name {folder_of(name)}')
    # Each arm's chain of sources must end at one that starts from scratch or from a file.
    for arm in study.arms:
        chain = [arm]
        source = study.source_of(arm)
        while source in study.arms and source not in chain:
            chain.append(source)
            source = study.source_of(source)
        if source in chain:
            problems.append(f'arm {arm!r} starts from its own end')
    return problems

def problem_with(what: str, name, text) -> str:
    """What is wrong with an arm or a scale by itself, '' if nothing is."""
    if type(name) is not str or type(text) is not str or (what == 'arm' and not text.split()):
        return f'must be a name, with configs and flags as a text, not {text!r}'
    try:
        shlex.split(text)
    except ValueError as error:  # a quote that isn't closed
        return f'{error} in {text!r}'
    folder = folder_of(name)
    if not folder.strip('_') or len(folder.encode()) > LONGEST_NAME:
        return (f'its folder would be {folder!r}; a name needs a letter or a digit, and at most '
                f'{LONGEST_NAME} bytes')
    # One line of a table, and nothing that a spreadsheet takes for a formula.
    if name.splitlines() != [name] or '\t' in name or name[0] in '=+-@':
        return "a name is one line, and doesn't begin with = + - or @"
    return ''

def check_values(study: Study) -> list[str]:
    """Settings that are the study's own, values to try, what is held out, and seeds that judge twice, or
    judge what they have chosen."""
    problems = []
    tuned = list(study.settings)
    for values in (study.tune, *study.tune.values()):
        for name, tried in list(values.items()) if isinstance(values, dict) else ():
            tuned.append(name)
            if not isinstance(tried, (dict, tuple, list)) or tried in ((), []):
                problems.append(f'tune: {name} must have a tuple of values to try, not {tried!r}')
                del values[name]
    problems += [f'{name} is what the study itself gives to every run' for name in tuned
                 if name in OWN_SETTINGS]
    if set(study.scales) <= set(study.held_out):
        problems.append('held_out: no scale is left to predict from')
    for name, others in (('more_seeds', study.seeds), ('tune_seeds', study.seeds + study.more_seeds)):
        for seed in set(getattr(study, name)) & set(others):
            problems.append(f'{name}: {seed} is one of the seeds that judge')
    return problems

def check_only(study: Study) -> list[str]:
    """The parts of the grid that `only` names."""
    problems = []
    keys = [*study.budgets, *([*study.scales, *study.cells] if study.is_ladder else [])]
    for key, part in list(study.only.items()):
        wrong = []
        if key not in keys:
            wrong = [f'there is no such scale or budget{did_you_mean(key, keys)}']
        elif not isinstance(part, dict) or not part or set(part) - {'arms', 'seeds'}:
            wrong = [f"it must have a dict of 'arms' and 'seeds', or one of them, not {part!r}"]
        else:
            for name, known in (('arms', tuple(study.arms)), ('seeds', study.seeds)):
                items = items_of(part.get(name, ()))
                wrong += [f'there is no {item!r}{did_you_mean(item, known)}' for item in items
                          if item not in known]
                if any(items.count(item) > 1 for item in items) or (name in part and part[name] != items):
                    wrong.append(f'{name} must be a tuple of different ones, not {part[name]!r}')
        if wrong:  # seeds_at takes the types for granted
            del study.only[key]
            problems += [f'only, {key!r}: {problem}' for problem in wrong]
    for scale, budget in study.cells:
        where = f'{scale}, {budget}' if study.is_ladder else f'{budget}'
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

def check_questions(study: Study) -> list[str]:
    """The declared questions; without their scale in a study of one size."""
    questions = study.questions
    form = '(arm, scale, budget)' if study.is_ladder else '(arm, budget)'
    if questions and (not isinstance(questions, (tuple, list)) or isinstance(questions[0], str)):
        questions = (questions,)  # a single one
    problems, found = [], []
    for question in questions:
        if not isinstance(question, (tuple, list)) or len(question) != form.count(',') + 1:
            problems.append(f'questions: each must be {form}, not {question!r}')
            continue
        arm, *scale, budget = question
        scale = scale[0] if scale else ''
        if arm not in list(study.arms) or (scale, budget) not in study.cells:
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
    """A config's path: a file as named, or configs/NAME.py of the repository, wherever the study is
    started."""
    return name if name.endswith('.py') else os.path.normpath(os.path.join(HERE, 'configs', f'{name}.py'))

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
