"""
Settings: one frozen dataclass, one strict loader.

    python train.py CONFIG [CONFIG ...] [--key=value ...]

A config is a Python file of plain assignments; `baseline` and `configs/baseline` mean configs/baseline.py.
Configs are applied from left to right, then the flags. Every public name must be a field of TrainConfig and
of its type; whatever is wrong is reported in one message. A run that is resumed takes from its config.json
what the command line doesn't say.
"""

import ast
import contextlib
import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import sys
import textwrap
import types
import typing
from dataclasses import dataclass, field

from core.common import UserError, numbered, read_json, say
from core.data import read_meta
from growth import OPERATORS

GROUPS = {'run': 'The run', 'data': 'Data', 'model': 'Model', 'growth': 'What grows when', 'batch': 'Batch',
          'optimizer': 'Optimizer', 'schedule': 'Learning rate over the run', 'evaluation': 'Evaluation',
          'logs': 'Logs and checkpoints', 'machine': 'The machine'}

FREE_GROUPS = ('run', 'data', 'evaluation', 'logs', 'machine')

def setting(group, default, help, choices=(), free=None, path=False, at_least=0, at_most=math.inf,
            below=2**63):
    """A field of TrainConfig.

    `group`: a key of GROUPS. `choices`: the only texts allowed. `free`: may be changed on resume, since it
    doesn't change the trajectory. `path`: a file or folder, in which ~ is the home directory. The bounds hold
    for a number, and for each one of a tuple; 2^63 is what numpy and torch count up to.
    """
    free = group in FREE_GROUPS if free is None else free
    metadata = {'group': group, 'help': help, 'choices': tuple(choices), 'free': free, 'path': path}
    metadata |= {'at least': at_least, 'at most': at_most, 'below': below}
    return dataclasses.field(default=default, metadata=metadata)

@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. The defaults are GPT-2 124M on FineWeb-Edu with the paper's hyperparameters."""

    out_dir: str = setting('run', '', 'the run directory; default: out/, the names of the configs and the '
                           'flags that change the run, joined by _', path=True)
    run_name: str = setting('run', '', 'name in logs and figures; default: the last part of out_dir')
    seed: int = setting('run', 1337, 'seeds weights, new layers, data order and dropout', free=False,
                        below=2**32)
    resume: str = setting('run', '', 'a run directory to resume, or just --resume for the one that is '
                          "out_dir; 'auto': the same, or start if there is no checkpoint", path=True)
    branch_from: str = setting('run', '', 'begin from a checkpoint of another run whose first steps are the '
                               'same: a run directory or a checkpoint file', path=True)
    data_dir: str = setting('data', 'data/edu_fineweb10B', 'folder of token shards, .bin or .npy, with train '
                            'or val as a word of their names', path=True)
    shuffle: bool = setting('data', False, 'visit the sequences of an epoch in a random order', free=False)
    arch: str = setting('model', 'gpt2', "'gpt2', or 'llama': RMSNorm, rotary, SwiGLU, grouped queries",
                        choices=('gpt2', 'llama'))
    n_layer: int = setting('model', 12, 'final depth: blocks once everything has grown', at_least=1)
    n_head: int = setting('model', 12, 'attention heads per block', at_least=1)
    n_embd: int = setting('model', 768, 'width of the residual stream', at_least=1)
    n_kv_head: int = setting('model', 0, 'llama: heads of keys and values; 0: n_head')
    head_dim: int = setting('model', 0, 'llama: width of a head; 0: n_embd / n_head')
    n_ff: int = setting('model', 0, 'llama: width of gate and up; 0: 8/3 n_embd, up to a multiple of 64')
    rope_theta: float | tuple[float, ...] = setting(
        'model', 10_000.0, "llama: base of the rotary positions; with Llama 3.1's scaling five: base, "
        'factor, low_freq_factor, high_freq_factor, original context')
    norm_eps: float = setting('model', 1e-5, "llama: added to a norm's mean square")
    tie_embeddings: bool = setting('model', True, 'llama: the head has the weights of the token embedding')
    block_size: int = setting('model', 1024, 'context length in tokens', at_least=1)
    vocab_size: int = setting('model', 50304, "rows of the token embedding; not set, or 0: from the data's "
                              'meta.json, rounded up to 64')
    dropout: float = setting('model', 0.0, 'dropout probability', below=1)
    init_from: str = setting('model', 'scratch', "'scratch', or what to grow from: a checkpoint or run, "
                             "'gpt2'..., a Hugging Face folder (GPT-2, Llama, Qwen2, Qwen3)", path=True)
    init_depth: int = setting('model', 0, 'layers that init_from has; 0: as many as its files say')
    n_stages: int = setting('growth', 1, 'stages; 1 trains the full depth from the start', at_least=1)
    stage_depths: tuple[int, ...] = setting('growth', (), 'depth of each stage; default '
                                            'ceil(n_layer * k / n_stages) for stage k')
    growth_steps: int = setting('growth', 10_000, 'steps of all stages together, split evenly')
    stage_steps: tuple[int, ...] = setting('growth', (), 'steps of each stage, instead of growth_steps',
                                           at_least=1)
    stage_fractions: tuple[float, ...] = setting(
        'growth', (), "each stage's share of growth_steps + continual_steps; what they leave is continual",
        at_most=1)
    phase1_fraction: float | tuple[float, ...] = setting(
        'growth', 0.5, 'share of a stage that grows in which only new layers train; one value, or one for '
        'each', at_most=1)
    phase1_embeddings: str = setting(
        'growth', 'input_frozen', "what else trains then: 'train': both embeddings, head, final norm, "
        "'input_frozen': head, final norm, 'frozen': final norm", choices=('train', 'input_frozen', 'frozen'))
    continual_steps: int | str = setting(
        'growth', 10_000, "steps of all layers after the last stage, or 'equal_compute': as many as bring "
        'the total to the compute of baseline_steps at full depth', choices=('equal_compute',))
    baseline_steps: int = setting('growth', 10_000, "full-depth steps whose compute 'equal_compute' aims at")
    ledger: str = setting('growth', 'flops', "the ledger that counts for 'equal_compute' and match",
                          choices=('flops', 'paper'))
    match: str = setting('growth', '', 'run directory, or configs joined by + (with the overlays of this '
                         "run), whose total compute this run's steps are set to", path=True)
    grow_init: str | tuple[str, ...] = setting(
        'growth', 'random', 'how new layers start, one value or one for each stage: ' + '; '.join(
            f'{name}: {operator.__doc__.splitlines()[0]}' for name, operator in OPERATORS.items()),
        choices=OPERATORS)
    grow_map: tuple[tuple[int, ...], ...] = setting(
        'growth', (), 'the layers after each growth from the bottom, by number of the old layer, -1 for a '
        'fresh one: ((0, 1, 2, 0, 1, 2),) is stack; () leaves a growth to grow_init', at_least=-1)
    grow_optimizer: str = setting(
        'growth', 'keep', "optimizer state at growth; 'keep': old layers keep theirs, 'copy': copies copy it "
        "too, 'reset': all start fresh", choices=('keep', 'copy', 'reset'))
    total_batch_size: int = setting('batch', 524_288, 'tokens per step, over all ranks', at_least=1)
    batch_size: int = setting('batch', 32, 'sequences per micro-step and rank', free=True, at_least=1)
    optimizer: str = setting('optimizer', 'adamw', "'adamw', or 'muon' for the matrices of the blocks with "
                             'AdamW for the rest', choices=('adamw', 'muon'))
    learning_rate: float = setting('optimizer', 6e-4, 'peak learning rate')
    min_lr: float = setting('schedule', 0.0, 'learning rate at the end of cosine or wsd')
    lr_schedule: str = setting('schedule', 'constant', "'constant', 'cosine', or 'wsd' (warm-up, stable, "
                               'linear decay), over the whole run', choices=('constant', 'cosine', 'wsd'))
    warmup_steps: int = setting('schedule', 0, 'steps of linear warm-up from 0, in every schedule')
    rewarm_steps: int = setting('schedule', 0, 'steps of linear warm-up after each growth')
    rewarm: str = setting('schedule', 'all', "what rewarm_steps warm up: 'all', or 'new': only the layers "
                          'that have just grown', choices=('all', 'new'))
    lr_depth_power: float = setting('schedule', 0.0, 'learning rate times (depth / n_layer)^-p; No Train No '
                                    'Gain: p = 0.25')
    stage_lr_scale: float | tuple[float, ...] = setting(
        'schedule', 1.0, 'learning rate times this before continual training; one value, or one for each '
        'stage')
    decay_fraction: float = setting('schedule', 0.1, 'wsd: share of all steps, at the end, that decays',
                                    at_most=1)
    weight_decay: float = setting('optimizer', 0.1, 'AdamW weight decay, on matrices only')
    beta1: float = setting('optimizer', 0.9, 'AdamW beta1', below=1)
    beta2: float = setting('optimizer', 0.95, 'AdamW beta2', below=1)
    muon_learning_rate: float = setting('optimizer', 0.02, "muon: peak learning rate of the blocks' matrices")
    grad_clip: float = setting('optimizer', 0.0, 'clip the gradient norm to this; 0: never')
    eval_interval: int = setting('evaluation', 250, 'steps between validation losses; 0: only at the end')
    eval_after_growth: tuple[int, ...] = setting(
        'evaluation', (), 'evaluate also so many steps after each growth, such as 10,30,100')
    val_tokens: int = setting('evaluation', 4_194_304, 'tokens of the validation set, always its first ones',
                              at_least=1)
    val_dirs: tuple[str, ...] = setting(
        'evaluation', (), 'further validation sets, as name:folder,name:folder, for val_loss_NAME')
    hellaswag_interval: int = setting('evaluation', 250, 'steps between HellaSwag scorings; 0: never')
    hellaswag_data: str = setting(
        'evaluation', 'auto', "JSONL file or URL; empty: the official set; 'auto': hellaswag.jsonl in "
        "data_dir, else the official set for FineWeb in GPT-2's tokens, none for other data", path=True)
    hellaswag_limit: int = setting('evaluation', 0, 'score only the first N examples; 0: all')
    log_interval: int = setting('logs', 10, 'steps between lines of training loss', at_least=1)
    checkpoint_interval: int = setting('logs', 250, 'steps between checkpoints; 0: only at the end of a '
                                       'stage and of the run')
    checkpoint_steps: tuple[int, ...] = setting(
        'logs', (), 'further steps to save a checkpoint at; these are kept for good', at_least=1)
    keep_checkpoints: int = setting('logs', 2, 'newest checkpoints to keep, beside each finished stage',
                                    at_least=1)
    tracker: str = setting('logs', '', "send every record to 'wandb', 'tensorboard' or 'trackio' as well "
                           '(pip install it first)', choices=('', 'wandb', 'tensorboard', 'trackio'))
    tracker_project: str = setting('logs', 'incremental', "the tracker's project")
    device: str = setting('machine', 'auto', "'auto' (cuda, else mps, else cpu) or a torch device")
    dtype: str = setting('machine', 'auto', "autocast to 'bfloat16' or stay with 'float32'; 'auto': bfloat16 "
                         'where the hardware has it', choices=('auto', 'float32', 'bfloat16'))
    compile: bool | str = setting('machine', 'auto', "compile the blocks with torch.compile: True, False or "
                                  "'auto' (on cuda only)", choices=('auto',))

FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}
HERE = os.path.dirname(os.path.abspath(__file__))

# What nanoGPT's users type for settings of ours.
OTHER_NAMES = {
    'growth_steps or continual_steps': 'max_iters max_steps lr_decay_iters epochs', 'n_layer': 'depth',
    'warmup_steps': 'warmup_iters', 'lr_schedule': 'decay_lr', 'learning_rate': 'lr',
    'total_batch_size': 'gradient_accumulation_steps', 'batch_size': 'device_batch_size',
    'data_dir': 'dataset', 'val_tokens': 'eval_iters', 'checkpoint_interval': 'always_save_checkpoint',
    'tracker': 'wandb_log', 'tracker_project': 'wandb_project', 'run_name': 'wandb_run_name',
    'block_size': 'n_ctx', 'vocab_size': 'meta_vocab_size', 'grad_clip': 'max_grad_norm',
    'phase1_fraction': 'freeze',
}

# ------------------------------------------------------------------------------------------------------------
# a command line

@dataclass
class Given:
    """What a command line says: settings by name, and everything that is wrong with them."""

    configs: dict = field(default_factory=dict)
    origins: dict = field(default_factory=dict)  # setting -> the last config that has it
    flags: dict = field(default_factory=dict)
    paths: list = field(default_factory=list)  # of the configs
    notes: list = field(default_factory=list)  # lines to say
    problems: list = field(default_factory=list)

def load_config(argv: list[str], usage: str, say=say) -> TrainConfig:
    """The config of a command line: config files from left to right, then --key=value (or --key value) flags.

    Of a run that is resumed its config.json comes first, and the settings of 'What grows when', which make a
    run's length, then change by flags only: a forgotten flag makes no other run. A config that overrules
    another is said to `say`, line by line; None: to nobody. `usage` is printed above the settings for --help,
    which exits with code 0. Raises UserError with every problem: file or flag, name, what is wrong.
    """
    # First, so that help also works beside a setting that is wrong.
    if '--help' in argv or '-h' in argv:
        print(usage.strip(), '\n\nSettings, in a config or as --name=value:\n\n' + describe())
        sys.exit(0)
    given = read_command_line(argv)
    out_dir, resume = run_directory(given)
    # 'auto' without a checkpoint is a start, for which a config.json that a killed start left says nothing.
    is_resumed = resume == 'yes' or (resume and numbered(out_dir, 'ckpt_', '.pt'))
    values = {'vocab_size': 0, 'run_name': ''}
    values |= resumed_settings(given, out_dir) if is_resumed else given.configs
    values |= given.flags | {'out_dir': out_dir, 'resume': resume}
    # From here on every setting has the value that goes into config.json, so that it alone says what was run.
    values['run_name'] = values['run_name'] or os.path.basename(os.path.abspath(out_dir))
    values['match'] = match_at_this_scale(values.get('match', ''), given)
    config = TrainConfig(**values)
    raise_problems('the settings are wrong:', given.problems + check(config))
    config = fill_in_from_data(fill_in_shape(config), given.notes)
    for note in given.notes if say else ():
        say(note)
    return config

def raise_problems(title: str, problems: list[str]):
    """Raise one UserError for all problems, if there are any: a line for each, under a title if several."""
    if len(problems) > 1:
        problems = [title, *problems]
    if problems:
        raise UserError('\n  '.join(problems))

def read_command_line(argv: list[str]) -> Given:
    """The configs' and flags' settings. What is wrong with them is collected in `problems`."""
    given = Given()
    rest = list(argv)
    while rest:
        arg = rest.pop(0).removeprefix('--config=')
        if arg == '--config' and rest:
            arg = rest.pop(0)
        if arg.startswith('-') and len(arg) > 1:
            read_flag(arg, rest, given)  # which may take its value from `rest`, too
        else:
            read_config(find_config(arg), given)
    return given

def read_flag(arg: str, rest: list[str], given: Given):
    """One flag: --key=value, --key value (taken from the front of `rest`), or alone: --shuffle, --resume."""
    name, equals, text = arg.lstrip('-').partition('=')
    name = name.replace('-', '_')
    follows = rest[0] if rest else '--'
    if not equals and name in ALONE:  # mostly alone, and a config may follow
        is_value = follows.lower() in ('true', 'false', 'yes', 'auto') or os.path.isdir(follows)
        text = rest.pop(0) if is_value else ALONE[name]
    elif not equals and not follows.startswith('--') and (name in FIELDS or not os.path.exists(follows)):
        text = rest.pop(0)  # of a misspelled flag, too: else its value would be a missing config
    elif not equals and name in FIELDS:
        given.problems.append(f'{arg}: a flag needs a value: --{name}=...')
        return
    value = parse(name, text) if name in FIELDS else text
    assign(f'--{name}' if name in FIELDS else arg, name, value, given.flags, given.problems)

def find_config(text: str) -> str:
    """The file that a word of a command line means: as it is, or a config of this project by its name."""
    path = os.path.expanduser(text)
    for folder in ('', HERE, os.path.join(HERE, 'configs')):
        for name in (path, path + '.py'):
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
    return path

def read_config(path: str, given: Given):
    """The settings of a config file; notes what it changes of earlier ones."""
    given.paths.append(path)
    settings = {}
    for name, value in read_file(path, given.problems).items():
        assign(path, name, value, settings, given.problems)
    changes = {}  # earlier config -> what this one changes of it
    for name, value in settings.items():
        if given.configs.get(name, value) == value:
            continue
        origin = given.origins[name]
        changes.setdefault(origin, []).append(f'{name} {text_of(given.configs[name])} -> {text_of(value)}')
        # Steps of one model's size are none of another's: 20,000 on a laptop were meant for a GPU.
        of_overlay = origin == given.origins.get('n_embd') and 'n_embd' not in settings
        if of_overlay and name in ('growth_steps', 'continual_steps', 'baseline_steps'):
            given.problems.append(f'{path}: its {name} is not meant for the model of {origin}: name that '
                                  'config last')
    given.configs |= settings
    given.origins |= dict.fromkeys(settings, path)
    for origin, lines in changes.items():
        given.notes.append(f'{os.path.basename(path)}: {", ".join(lines)} ({os.path.basename(origin)})')

def read_file(path: str, problems: list[str]) -> dict:
    """The public names that a Python file assigns."""
    if not os.path.isfile(path):
        ours = [name[:-3] for name in os.listdir(os.path.join(HERE, 'configs')) if name.endswith('.py')]
        near = difflib.get_close_matches(os.path.splitext(os.path.basename(path))[0], ours, 1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        if os.path.isdir(path):
            hint = f'; --resume={path} resumes a run'
        problems.append(f'{path}: no such config file{hint}')
        return {}
    # Empty, so that a config means the same whatever was read before it.
    namespace = {}
    try:  # whatever the user's file does wrong is the user's to read, with the line it happened in
        with open(path, encoding='utf-8-sig') as f:  # Windows' editors put a mark before the text
            exec(compile(f.read(), path, 'exec'), namespace)
    except (Exception, SystemExit) as error:
        line = getattr(error, 'lineno', None) or getattr(error.__traceback__.tb_next, 'tb_lineno', '?')
        problems.append(f'{path}, line {line}: {type(error).__name__}: {error}')
    return {name: value for name, value in namespace.items() if not name.startswith('_')}

# ------------------------------------------------------------------------------------------------------------
# one value

def kind_of(setting: dataclasses.Field) -> tuple[type, set]:
    """(type of a value, how many tuples deep it may lie: 0 alone, 1 in a tuple, 2 in a tuple of tuples)."""
    is_union = isinstance(setting.type, types.UnionType)
    options = typing.get_args(setting.type) if is_union else (setting.type,)
    leaf = options[0]  # of int | str: str is for the choices
    while typing.get_origin(leaf) is tuple:
        leaf = typing.get_args(leaf)[0]
    return leaf, {str(option).count('tuple') for option in options}

KINDS = {name: kind_of(each) for name, each in FIELDS.items()}
# What a flag without a value means.
ALONE = {name: 'true' for name, (leaf, _) in KINDS.items() if leaf is bool} | {'resume': 'yes'}

def parse(name: str, text: str):
    """The value that a flag's text means, or the text itself, for convert() to judge.

    A text is taken as typed. A whole number may be written as 1e3, a tuple as 2,4,6 or (2, 4, 6).
    """
    leaf, depths = KINDS[name]
    if text in FIELDS[name].metadata['choices'] or (leaf is str and depths == {0}):
        return text
    if leaf is bool:
        return {'true': True, 'false': False}.get(text.lower(), text)
    if depths != {0}:
        with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError):
            return ast.literal_eval(text.strip() or '()')
        return tuple(text.split(',')) if leaf is str and ',' in text else text
    for number in (int, float):  # int first: a float is exact for whole numbers only up to 2^53
        with contextlib.suppress(ValueError):
            return number(text)
    return text

def convert(name: str, value):
    """The value of a setting: lists as tuples, one item as a tuple of one, 1 as a float, 1e3 as a whole
    number.

    Raises ValueError where it is none. Nothing else is converted: a text isn't a number, 1 isn't True.
    """
    depths = KINDS[name][1]
    value = convert_leaves(name, value)
    found = {depth for depth, _ in leaves(value)}
    if found and not found <= depths:
        value, found = (value,), {depth + 1 for depth in found}
    if not found <= depths or (depths == {0} and not found):
        raise ValueError(value)
    return value

def convert_leaves(name: str, value):
    """A value with each of its leaves converted. Raises ValueError where one is none."""
    if type(value) in (list, tuple):
        return tuple(convert_leaves(name, item) for item in value)
    leaf = KINDS[name][0]
    # type() and not isinstance(): to Python True is an int, but nobody means 1 layer by it.
    if type(value) is str and FIELDS[name].metadata['choices']:
        leaf = str if value in FIELDS[name].metadata['choices'] else None
    if leaf is float and type(value) is int:
        # float() of a huge int would fail; as infinity it is refused later, by name.
        value = float(value) if abs(value) < 2**63 else math.inf
    if leaf is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not leaf or value != value:  # nan
        raise ValueError(value)
    return value

def leaves(value, depth: int = 0) -> list:
    """(depth, what stands there) of each place in a value that may be a tuple, or a tuple of tuples."""
    if type(value) is not tuple:
        return [(depth, value)]
    found = []
    for item in value:
        found += leaves(item, depth + 1)
    return found

def text_of(value) -> str:
    """A value as one would type it in a flag."""
    if type(value) is tuple:
        return ','.join(f'({text_of(item)})' if type(item) is tuple else text_of(item) for item in value)
    return str(value)

def assign(where: str, name: str, value, values: dict, problems: list[str]):
    """Put one checked value into `values`, or say in `problems` why not. `where`: the file or flag that has
    it."""
    if name not in FIELDS:
        problems.append(f"{where}: no setting is called '{name}'{suggestion(name)}")
        return
    if name == 'val_dirs' and type(value) is dict:
        value = [f'{key}:{folder}' for key, folder in value.items()]
    try:
        value = convert(name, value)
    except ValueError:
        problems.append(f'{where}: {name} must be {wanted(name)}, not {value!r}')
        return
    # One that is too large or small is kept all the same, so that check() sees it and stays silent.
    outside = out_of_bounds(name, value)
    if outside:
        problems.append(f'{where}: {outside}')
    if FIELDS[name].metadata['path']:
        value = '+'.join(os.path.expanduser(part) for part in value.split('+'))  # match= joins configs by +
    values[name] = value

def suggestion(name: str) -> str:
    """'; did you mean ...?' for a name that is no setting: what it is called here, or the nearest field."""
    ours = {name: name for name in FIELDS}
    for setting, theirs in OTHER_NAMES.items():
        ours |= dict.fromkeys(theirs.split(), setting)
    # A near name only where it is very near: a wrong suggestion is worse than none.
    near = difflib.get_close_matches(name.lower(), ours, 1, 0.8)
    return f'; did you mean {ours[near[0]]!r}?' if near else ''

def out_of_bounds(name: str, value) -> str:
    """What is wrong with the size of a setting, '' if nothing is."""
    bounds = FIELDS[name].metadata
    every = f'every one of {name}' if type(value) is tuple else name
    for _, number in leaves(value):
        if type(number) not in (int, float):
            continue
        wrong = {'at least': number < bounds['at least'], 'at most': number > bounds['at most'],
                 'below': number >= bounds['below']}
        if not math.isfinite(number):
            return f'{every} must be a finite number'
        for word, is_wrong in wrong.items():
            if is_wrong:
                return f'{every} must be {word} {bounds[word]}, not {value}'
    return ''

def wanted(name: str) -> str:
    """What a setting may be, for a message: 'int', "'adamw' or 'muon'", 'a tuple of int'."""
    leaf, depths = KINDS[name]
    words = [repr(word) for word in FIELDS[name].metadata['choices']]
    if words and leaf is str:
        return ' or '.join([*words, 'a tuple of them'] if 1 in depths else words)
    outer = ('', 'a tuple of ', 'a tuple of tuples of ')
    return ' or '.join([outer[depth] + leaf.__name__ for depth in sorted(depths)] + words)

# ------------------------------------------------------------------------------------------------------------
# settings that don't fit together

def check(config: TrainConfig) -> list[str]:
    """Combinations that can't be, each as one line. What needs the number of ranks is checked by train.py."""
    for name in FIELDS:
        if out_of_bounds(name, getattr(config, name)):
            return []  # assign() has said so, and the rest would divide by what is wrong
    return check_shape(config) + check_stages(config)

def check_shape(c: TrainConfig) -> list[str]:
    """Width, batch, learning rate and validation sets."""
    problems = []
    # Each head takes an equal part of the width; micro-batches and ranks an equal part of the step.
    if c.n_embd % c.n_head and not c.head_dim:
        problems.append(f'n_embd {c.n_embd} is not divisible by n_head {c.n_head}')
    names = ('n_kv_head', 'head_dim', 'n_ff', 'rope_theta', 'norm_eps', 'tie_embeddings')
    for name in names if c.arch == 'gpt2' else ():
        if getattr(c, name) != FIELDS[name].default:
            problems.append(f'{name} is a setting of arch llama, and arch is gpt2')
    if c.arch == 'llama':
        problems += check_llama(c)
    micro_batch = c.batch_size * c.block_size
    if c.total_batch_size % micro_batch:
        problems.append(f'total_batch_size {c.total_batch_size} is not a multiple of batch_size x block_size '
                        f'= {c.batch_size} x {c.block_size} = {micro_batch}')
    if c.optimizer == 'muon' and c.learning_rate == 0 and c.muon_learning_rate > 0:
        problems.append("learning_rate 0 would stop Muon too, which follows AdamW's: make it small instead")
    if c.min_lr > c.learning_rate:
        problems.append(f'min_lr {c.min_lr} is above learning_rate {c.learning_rate}')
    names = {entry.partition(':')[0] for entry in c.val_dirs if re.fullmatch(r'\w+:.+', entry)}
    if len(names) < len(c.val_dirs):
        problems.append('val_dirs must be name:folder,name:folder, each name once, not '
                        f'{text_of(c.val_dirs)}')
    return problems

def check_llama(c: TrainConfig) -> list[str]:
    """Heads that can't share or turn, and what a Llama hasn't."""
    problems = []
    if c.n_kv_head and c.n_head % c.n_kv_head:
        problems.append(f'n_head {c.n_head} is not divisible by n_kv_head {c.n_kv_head}')
    if (c.head_dim or c.n_embd // c.n_head) % 2:
        problems.append('the width of a head must be even: rotary positions turn pairs')
    if type(c.rope_theta) is tuple and len(c.rope_theta) != 5:
        problems.append(f'rope_theta must be one number or five, not {text_of(c.rope_theta)}')
    if c.dropout:
        problems.append('arch llama has no dropout')
    return problems

def check_stages(c: TrainConfig) -> list[str]:
    """Depths and steps of the stages."""
    problems = []
    depths = c.stage_depths
    per_stage = ('stage_depths', 'stage_steps', 'stage_fractions', 'phase1_fraction', 'grow_init',
                 'stage_lr_scale')
    for name in per_stage:
        values = getattr(c, name)
        is_unset = values == FIELDS[name].default
        if type(values) is tuple and not is_unset and len(values) != c.n_stages:
            problems.append(f'{name} has {len(values)} entries, n_stages is {c.n_stages}')
    if c.init_from == 'scratch' and c.init_depth:
        problems.append(f"init_depth {c.init_depth} is of the model to grow from, and init_from is 'scratch'")
    if c.init_depth > c.n_layer:
        problems.append(f'init_depth {c.init_depth} is above n_layer {c.n_layer}')
    elif not depths and c.n_stages > max(1, c.n_layer - c.init_depth):
        problems.append(f'{c.n_stages} stages need at least as many layers to grow; n_layer is {c.n_layer}, '
                        f'init_depth {c.init_depth}')
    # From one before init_depth, which the first stage may have; 0: a model without layers.
    grows = all(below < above for below, above in itertools.pairwise((c.init_depth - 1, *depths)))
    if depths and not (grows and depths[-1] == c.n_layer):
        problems.append(f'stage_depths must grow, from init_depth {c.init_depth} or more to n_layer '
                        f'{c.n_layer}: {depths}')
    if sum(c.stage_fractions) > 1 + 1e-9:  # .1 + .2 + .7 is a little more than 1 in floating point
        problems.append(f'stage_fractions must be shares of 1: {c.stage_fractions}')
    if c.stage_fractions and c.stage_steps:
        problems.append('stage_fractions and stage_steps exclude each other')
    # A stage without a step adds layers that never train by themselves: only stage_fractions may mean that.
    is_split = not (c.stage_steps or c.stage_fractions)
    has_no_stage = c.growth_steps == 0 and c.n_stages == 1
    if is_split and c.growth_steps < c.n_stages and not has_no_stage:
        problems.append(f'growth_steps {c.growth_steps} is less than one step for each of {c.n_stages} '
                        'stages')
    return problems

# ------------------------------------------------------------------------------------------------------------
# which run

def run_directory(given: Given) -> tuple[str, str]:
    """(out_dir, '' or 'yes' or 'auto') of a command line, in which --resume may name the run directory."""
    values = given.configs | given.flags
    resume = values.get('resume', '')
    out_dir = values.get('out_dir') or default_out_dir(given)
    if resume in ('', 'yes', 'auto'):
        return out_dir, resume
    # A run directory: it is out_dir, and its config.json holds all the rest.
    run_dir = os.path.normpath(resume)
    if not os.path.exists(os.path.join(run_dir, 'config.json')):
        given.problems.append(f'--resume={resume}: no run directory with a config.json (without one: the '
                              'configs and flags that it was started with, --out_dir and --resume)')
    elif 'out_dir' in given.flags and os.path.normpath(out_dir) != run_dir:
        given.problems.append(f'--resume={resume} and --out_dir={out_dir} are two run directories')
    return run_dir, 'yes'

def default_out_dir(given: Given) -> str:
    """out/ and the names of the configs, and name=value of each flag that changes the run: no two runs share
    it."""
    parts = [os.path.splitext(os.path.basename(path))[0] for path in given.paths] or ['run']
    # The seed behind the others, where seeds of the same run differ.
    for name in sorted(FIELDS, key=lambda name: name == 'seed'):
        without = given.configs.get(name, FIELDS[name].default)
        value = given.flags.get(name, without)
        # Other data may move under a run that exists, but a start with it is another run.
        changes_run = not FIELDS[name].metadata['free'] or name == 'data_dir'
        if value != without and changes_run:
            # Without slashes and blanks: a folder, not a path, that needs no quotes in a shell.
            text = re.sub(r'[^\w.,=+-]+', '-', text_of(value)).strip('-')
            parts.append(f'{name}{text}' if name == 'seed' else f'{name}={text}')
    stem = '_'.join(parts)
    if len(stem) > 150:  # file systems end a name at 255 bytes
        stem = f'{stem[:130]}_{hashlib.sha1(stem.encode()).hexdigest()[:12]}'
    return os.path.join('out', stem)

def resumed_settings(given: Given, out_dir: str) -> dict:
    """The settings of a run that is resumed: its config.json's, and what the configs say beside 'What grows
    when'; a note says where the saved ones rule otherwise."""
    if not os.path.exists(os.path.join(out_dir, 'config.json')):  # only its checkpoints were copied
        return given.configs
    config = load_run_config(out_dir)
    values = dict(vars(config))
    if os.path.basename(os.path.abspath(config.out_dir)) == config.run_name:
        values['run_name'] = ''  # the default, which follows a folder that was renamed
    if config.hellaswag_data == os.path.join(config.data_dir, 'hellaswag.jsonl'):
        values['hellaswag_data'] = 'auto'  # it follows data that moved
    kept = []
    for name, value in given.configs.items():
        if FIELDS[name].metadata['group'] != 'growth':
            values[name] = value
        elif name not in given.flags and value != values[name]:
            kept.append(f'{name} {text_of(values[name])} (not {text_of(value)} as in {given.origins[name]})')
    if kept and not given.configs.get('match'):  # which stands for the saved ones
        given.notes.append(f'{out_dir} is resumed with {", ".join(kept)}, as it was started; a flag would '
                           'change it')
    return values

def match_at_this_scale(match: str, given: Given) -> str:
    """`match`, where it names configs: with this run's overlays if it has none, and with the flags for shape
    and batch. Otherwise a run on a laptop would be matched to GPT-2 124M."""
    # A run directory has its own shape, and can't be scaled.
    if not match or os.path.exists(os.path.join(match, 'config.json')):
        return match
    parts = match.split('+')
    if len(parts) == 1:
        parts += given.paths[1:]  # the first config says what grows, those after it are overlays
    shape = ('arch', 'n_head', 'n_embd', 'n_kv_head', 'head_dim', 'n_ff')
    for name in (*shape, 'block_size', 'vocab_size', 'total_batch_size', 'batch_size'):
        if name in given.flags:
            parts.append(f'--{name}={given.flags[name]}')
    return '+'.join(parts)

def fill_in_shape(config: TrainConfig) -> TrainConfig:
    """The config with the widths of a Llama that are 0."""
    if config.arch == 'gpt2':
        return config
    n_kv_head = config.n_kv_head or config.n_head
    head_dim = config.head_dim or config.n_embd // config.n_head
    n_ff = config.n_ff or -(-8 * config.n_embd // (3 * 64)) * 64
    return dataclasses.replace(config, n_kv_head=n_kv_head, head_dim=head_dim, n_ff=n_ff)

def fill_in_from_data(config: TrainConfig, notes: list[str]) -> TrainConfig:
    """The config with what the data decides: vocab_size where it is 0, hellaswag_data where it is 'auto'."""
    meta = read_meta(config.data_dir)
    # Matrices whose sides are multiples of 64 multiply faster.
    vocab_size = config.vocab_size or -(-meta['vocab_size'] // 64) * 64
    config = dataclasses.replace(config, vocab_size=vocab_size)
    # Without the folder there is nothing to decide by, and opening the data reports that.
    if config.hellaswag_data != 'auto' or not os.path.isdir(config.data_dir):
        return config
    questions = os.path.join(config.data_dir, 'hellaswag.jsonl')
    if os.path.exists(questions):
        return dataclasses.replace(config, hellaswag_data=questions)
    # The official questions are too long for models of bytes, and say little about models of one's own text.
    if meta['tokenizer'] == 'gpt2' and not meta.get('options', {}).get('source'):
        return dataclasses.replace(config, hellaswag_data='')
    if config.hellaswag_interval:
        notes.append(f'{config.data_dir} has no hellaswag.jsonl and is not FineWeb in GPT-2 tokens: the run '
                     'is not scored (--hellaswag_data= scores it on the official questions)')
    return dataclasses.replace(config, hellaswag_data='', hellaswag_interval=0)

# ------------------------------------------------------------------------------------------------------------
# out and in again

def describe() -> str:
    """Every setting with its default and its help, in groups, as wide as the terminal."""
    # Narrower than 40 columns nothing would be readable; in a pipe it is 80.
    width = max(40, shutil.get_terminal_size().columns)
    lines = []
    for group, title in GROUPS.items():
        lines += ['', title]
        for name, each in FIELDS.items():
            if each.metadata['group'] == group:
                lines.append(f'  --{name}={text_of(each.default)}')
                lines += textwrap.wrap(each.metadata['help'], width, initial_indent=' ' * 8,
                                       subsequent_indent=' ' * 8)
    return '\n'.join(lines).lstrip('\n')

def config_to_dict(config: TrainConfig) -> dict:
    """The config as plain types, for config.json and checkpoints."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # tuples as lists

def config_from_dict(values: dict, where: str) -> TrainConfig:
    """The config that config_to_dict wrote; what an older one lacks has its default, with which it was made.

    Raises UserError, naming `where`, for anything that is not one.
    """
    problems, checked = [], {}
    if type(values) is not dict:
        raise UserError(f'{where}: not a saved config')
    # By assign(), so that a saved config is checked as strictly as a typed one.
    for name, value in values.items():
        assign(where, str(name), value, checked, problems)
    config = TrainConfig(**checked)
    raise_problems('the saved settings are wrong:', problems + check(config))
    return config

def load_run_config(run_dir: str) -> TrainConfig:
    """The config that a run was made with. Raises UserError if its config.json is missing or damaged."""
    path = os.path.join(run_dir, 'config.json')
    return config_from_dict(read_json(path, 'a readable config'), path)
