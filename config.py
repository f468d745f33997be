"""
Settings: one frozen dataclass, one strict loader.

    python train.py CONFIG [CONFIG ...] [--key=value ...]

A config is a Python file of plain assignments; `baseline` and `configs/baseline` mean configs/baseline.py.
Configs are applied from left to right, then the flags. Every public name must be a field of TrainConfig and
of its type; whatever is wrong is reported in one message, all of it at once. A run that is resumed takes from
its config.json what the command line doesn't say.
"""

import ast
import contextlib
import dataclasses
import difflib
import hashlib
import itertools
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
from growth import OPERATORS

GROUPS = {'run': 'The run', 'data': 'Data', 'model': 'Model', 'growth': 'What grows when', 'batch': 'Batch',
          'optimizer': 'Optimizer', 'schedule': 'Learning rate over the run', 'evaluation': 'Evaluation',
          'logs': 'Logs and checkpoints', 'machine': 'The machine'}


def setting(group, default, help, choices=(), free=False, path=False, at_least=None, at_most=None,
            below=None):
    """A field of TrainConfig.

    `group`: a key of GROUPS. `choices`: the only texts allowed. `free`: may be changed on resume, since it
    doesn't change the trajectory. `path`: a file or folder, in which ~ is the home directory. The bounds hold
    for a number, and for each one of a tuple.
    """
    metadata = {'group': group, 'help': help, 'choices': tuple(choices), 'free': free, 'path': path}
    metadata |= {'at_least': at_least, 'at_most': at_most, 'below': below}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. The defaults are GPT-2 124M on FineWeb-Edu with the paper's hyperparameters."""

    out_dir: str = setting(
        'run', '', 'the run directory; default: out/, the names of the configs, and the flags that change '
        'the run, joined by _', free=True, path=True)
    run_name: str = setting('run', '', 'name in logs and figures; default: the last part of out_dir',
                            free=True)
    seed: int = setting('run', 1337, 'seeds weights, new layers, data order and dropout', at_least=0,
                        below=2**32)
    resume: str = setting(
        'run', '', 'a run directory to resume from its newest valid checkpoint, with the settings of its '
        "config.json where the command line has no others; 'yes' (or just --resume): the one that is "
        "out_dir; 'auto': the same, or start if there is no checkpoint", free=True, path=True)
    branch_from: str = setting(
        'run', '', 'begin from a checkpoint of another run whose first steps are the same: a run directory '
        '(its newest checkpoint that fits), or a checkpoint file', free=True, path=True)
    data_dir: str = setting(
        'data', 'data/edu_fineweb10B', 'folder of token shards, .bin or .npy, with train or val as a word of '
        'their names; it may move while its content stays', free=True, path=True)
    shuffle: bool = setting('data', False, 'visit the sequences of an epoch in a seeded random order, not in '
                            'file order')
    arch: str = setting('model', 'gpt2', "'gpt2', or 'llama': RMSNorm, rotary, SwiGLU, grouped queries",
                        choices=('gpt2', 'llama'))
    n_layer: int = setting('model', 12, 'final depth: transformer blocks once everything has grown',
                           at_least=1)
    n_head: int = setting('model', 12, 'attention heads per block', at_least=1)
    n_embd: int = setting('model', 768, 'width of the residual stream', at_least=1)
    n_kv_head: int = setting('model', 0, 'llama: heads of keys and values; 0: n_head', at_least=0)
    head_dim: int = setting('model', 0, 'llama: width of a head; 0: n_embd / n_head', at_least=0)
    n_ff: int = setting('model', 0, 'llama: width of gate and up; 0: 8/3 n_embd, up to a multiple of 64',
                        at_least=0)
    rope_theta: float | tuple[float, ...] = setting(
        'model', 10_000.0, "llama: base of the rotary positions; with Llama 3.1's scaling five: base, "
        'factor, low_freq_factor, high_freq_factor, original context', at_least=0)
    norm_eps: float = setting('model', 1e-5, "llama: added to a norm's mean square", at_least=0)
    tie_embeddings: bool = setting('model', True, 'llama: the head has the weights of the token embedding')
    block_size: int = setting('model', 1024, 'context length in tokens', at_least=1)
    vocab_size: int = setting(
        'model', 50304, "rows of the token embedding; not set, or 0: from the data's meta.json, rounded up "
        'to 64', at_least=0)
    dropout: float = setting('model', 0.0, 'dropout probability', at_least=0, below=1)
    init_from: str = setting(
        'model', 'scratch', "'scratch', or what to grow from: a checkpoint or run directory of ours, "
        "'gpt2'..., or a Hugging Face folder (GPT-2, Llama, Qwen2, Qwen3)", path=True)
    init_depth: int = setting('model', 0, 'layers that init_from has; 0: as many as its files say',
                              at_least=0)
    n_stages: int = setting('growth', 1, 'stages; 1 trains the full depth from the start', at_least=1)
    stage_depths: tuple[int, ...] = setting(
        'growth', (), 'depth of each stage; default ceil(n_layer * k / n_stages) for stage k')
    growth_steps: int = setting(
        'growth', 10_000, 'steps of all stages together, split as evenly as whole steps allow', at_least=0)
    stage_steps: tuple[int, ...] = setting(
        'growth', (), 'steps of each stage, instead of an even split of growth_steps', at_least=1)
    stage_fractions: tuple[float, ...] = setting(
        'growth', (), "each stage's share of the whole run (growth_steps + continual_steps), instead of "
        'stage_steps; what they leave is continual', at_least=0, at_most=1)
    phase1_fraction: float | tuple[float, ...] = setting(
        'growth', 0.5, 'share of a stage, from the second growth on, that trains only the new layers; 0: '
        'never freeze; one value, or one for each stage', at_least=0, at_most=1)
    phase1_embeddings: str = setting(
        'growth', 'input_frozen', "what trains beside the new layers in phase 1; 'train': both embeddings, "
        "head and final norm, 'input_frozen': head and final norm, 'frozen': the final norm",
        choices=('train', 'input_frozen', 'frozen'))
    continual_steps: int | str = setting(
        'growth', 10_000, "steps of all layers after the last stage, or 'equal_compute': as many as bring "
        'the total to the compute of baseline_steps at full depth', choices=('equal_compute',), at_least=0)
    baseline_steps: int = setting('growth', 10_000, "full-depth steps whose compute 'equal_compute' aims at",
                                  at_least=0)
    ledger: str = setting(
        'growth', 'flops', "the ledger that counts for 'equal_compute' and match; neither counts the "
        'optimizer', choices=('flops', 'paper'))
    match: str = setting(
        'growth', '', "run directory, or configs joined by + (this run's overlays are added where they have "
        "none), whose total compute this run's steps are set to", path=True)
    grow_init: str | tuple[str, ...] = setting(
        'growth', 'random', 'how new layers start, one value or one for each stage: ' + '; '.join(
            f'{name}: {operator.__doc__.splitlines()[0]}' for name, operator in OPERATORS.items()),
        choices=OPERATORS)
    grow_map: tuple[tuple[int, ...], ...] = setting(
        'growth', (), 'the layers after each growth from the bottom, by number of the old layer, -1 for a '
        "fresh one ('random' or 'zero', as grow_init says): ((0, 1, 2, 0, 1, 2),) is stack; () leaves a "
        'growth to grow_init')
    grow_optimizer: str = setting(
        'growth', 'keep', "optimizer moments at growth; 'keep': old layers keep theirs, new ones start "
        "fresh, 'copy': a copied layer copies its source's too, 'reset': all start fresh",
        choices=('keep', 'copy', 'reset'))
    total_batch_size: int = setting('batch', 524_288, 'tokens per step, over all ranks and micro-steps',
                                    at_least=1)
    batch_size: int = setting('batch', 32, 'sequences per micro-step and rank', free=True, at_least=1)
    optimizer: str = setting(
        'optimizer', 'adamw', "'adamw', or 'muon' for the matrices of the blocks with AdamW for the rest",
        choices=('adamw', 'muon'))
    learning_rate: float = setting('optimizer', 6e-4, 'peak learning rate', at_least=0)
    min_lr: float = setting('schedule', 0.0, 'learning rate at the end of cosine or wsd', at_least=0)
    lr_schedule: str = setting(
        'schedule', 'constant', "'constant', 'cosine', or 'wsd' (warm-up, stable, linear decay), over the "
        'whole run', choices=('constant', 'cosine', 'wsd'))
    warmup_steps: int = setting('schedule', 0, 'steps of linear warm-up from 0, in every schedule',
                                at_least=0)
    rewarm_steps: int = setting('schedule', 0, 'steps of linear warm-up after each growth', at_least=0)
    rewarm: str = setting(
        'schedule', 'all', "what rewarm_steps warm up: 'all', or 'new': only the layers that have just grown",
        choices=('all', 'new'))
    lr_depth_power: float = setting(
        'schedule', 0.0, 'learning rate times (depth / n_layer)^-p; No Train No Gain: p = 0.25', at_least=0)
    stage_lr_scale: float | tuple[float, ...] = setting(
        'schedule', 1.0, 'learning rate times this while a stage lasts, up to continual training; one value, '
        'or one for each stage', at_least=0)
    decay_fraction: float = setting('schedule', 0.1, 'wsd: share of all steps, at the end, that decays',
                                    at_least=0, at_most=1)
    weight_decay: float = setting('optimizer', 0.1, 'AdamW weight decay, on matrices only', at_least=0)
    beta1: float = setting('optimizer', 0.9, 'AdamW beta1', at_least=0, below=1)
    beta2: float = setting('optimizer', 0.95, 'AdamW beta2', at_least=0, below=1)
    muon_learning_rate: float = setting(
        'optimizer', 0.02, 'muon: peak learning rate of the matrices of the blocks', at_least=0)
    grad_clip: float = setting('optimizer', 0.0, 'clip the gradient norm to this; 0: never', at_least=0)
    eval_interval: int = setting(
        'evaluation', 250, 'steps between evaluations of the validation loss; 0: only at the end', free=True,
        at_least=0)
    eval_after_growth: tuple[int, ...] = setting(
        'evaluation', (), 'evaluate also so many steps after each growth, such as 10,30,100', free=True,
        at_least=0)
    val_tokens: int = setting(
        'evaluation', 4_194_304, 'tokens of the validation set, always the same first ones', free=True,
        at_least=1)
    val_dirs: tuple[str, ...] = setting(
        'evaluation', (), 'further validation sets, as name:folder,name:folder; each evaluation measures '
        'val_loss_NAME on their val shards too, on at most val_tokens tokens', free=True)
    hellaswag_interval: int = setting('evaluation', 250, 'steps between HellaSwag scorings; 0: never',
                                      free=True, at_least=0)
    hellaswag_data: str = setting(
        'evaluation', 'auto', 'JSONL file or URL of HellaSwag-shaped examples; empty: the official '
        "validation set from the Hub; 'auto': hellaswag.jsonl in data_dir if there is one, else the official "
        "set for FineWeb in GPT-2's tokens, and no scoring for other data", free=True, path=True)
    hellaswag_limit: int = setting('evaluation', 0, 'score only the first N examples; 0: all', free=True,
                                   at_least=0)
    log_interval: int = setting('logs', 10, 'steps between lines of training loss', free=True, at_least=1)
    checkpoint_interval: int = setting(
        'logs', 250, 'steps between checkpoints; 0: only at the end of a stage and of the run', free=True,
        at_least=0)
    checkpoint_steps: tuple[int, ...] = setting(
        'logs', (), 'further steps to save a checkpoint at; these are kept for good', free=True, at_least=1)
    keep_checkpoints: int = setting(
        'logs', 2, 'newest checkpoints to keep (each finished stage is kept beside them)', free=True,
        at_least=1)
    tracker: str = setting(
        'logs', '', "send every record to 'wandb', 'tensorboard' or 'trackio' as well (pip install it first)",
        choices=('', 'wandb', 'tensorboard', 'trackio'), free=True)
    tracker_project: str = setting('logs', 'incremental', "the tracker's project", free=True)
    device: str = setting('machine', 'auto', "'auto' (cuda, else mps, else cpu) or a torch device", free=True)
    dtype: str = setting(
        'machine', 'auto', "autocast to 'bfloat16' or stay with 'float32'; 'auto': bfloat16 where the "
        'hardware has it', choices=('auto', 'float32', 'bfloat16'), free=True)
    compile: bool | str = setting(
        'machine', 'auto', "compile the blocks with torch.compile: True, False or 'auto' (on cuda only)",
        choices=('auto',), free=True)


FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}
LARGEST_INT = 2**63 - 1  # what numpy and torch count with
HERE = os.path.dirname(os.path.abspath(__file__))

# What nanoGPT's users type and we don't have, and the settings that do the same here.
OTHER_NAMES = {
    'max_iters': 'growth_steps continual_steps', 'max_steps': 'growth_steps continual_steps',
    'lr_decay_iters': 'growth_steps continual_steps', 'epochs': 'growth_steps continual_steps',
    'warmup_iters': 'warmup_steps', 'decay_lr': 'lr_schedule', 'lr': 'learning_rate',
    'gradient_accumulation_steps': 'total_batch_size', 'device_batch_size': 'batch_size',
    'dataset': 'data_dir', 'eval_iters': 'val_tokens', 'always_save_checkpoint': 'checkpoint_interval',
    'wandb_log': 'tracker', 'wandb_project': 'tracker_project', 'wandb_run_name': 'run_name',
    'depth': 'n_layer', 'n_ctx': 'block_size', 'max_grad_norm': 'grad_clip', 'freeze': 'phase1_fraction',
    'meta_vocab_size': 'vocab_size',
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

    def get(self, name: str):
        """The setting that rules, or its default."""
        return self.flags.get(name, self.configs.get(name, FIELDS[name].default))


def load_config(argv: list[str], usage: str, say=say) -> TrainConfig:
    """The config of a command line: config files from left to right, then --key=value (or --key value) flags.

    With --resume, --resume=auto or --resume=RUN_DIR, where that run has a checkpoint, its config.json comes
    first: what no config and no flag says is as it was. And the settings of 'What grows when', which make a
    run's length, change by flags only; those in a config yield to the saved ones, so that a forgotten flag
    makes no other run.

    What should be known (a config that overrules another, a saved setting that rules) goes to `say`, line by
    line; None: nowhere. `usage` is the script's docstring, printed above the list of settings for --help
    (which exits with code 0). Raises UserError with every problem found: file or flag, name, what is wrong,
    nearest field.
    """
    # First, so that help also works beside a setting that is wrong.
    if '--help' in argv or '-h' in argv:
        print(usage.strip(), '\n\nSettings, in a config or as --name=value:\n\n' + describe())
        sys.exit(0)
    given = read_command_line(argv)
    out_dir, resume = run_directory(given)
    saved, configs = {}, given.configs
    # 'auto' without a checkpoint is a start, for which a config.json that a killed start left says nothing.
    if resume == 'yes' or (resume and numbered(out_dir, 'ckpt_', '.pt')):
        saved = saved_settings(out_dir)
        configs = without_growth(given, saved, out_dir) if saved else configs
    values = {'vocab_size': 0} | saved | configs | given.flags | {'out_dir': out_dir, 'resume': resume}
    if not values.get('run_name'):
        values['run_name'] = os.path.basename(os.path.abspath(out_dir))
    # From here on every setting has the value that goes into config.json, so that it alone says what was run.
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
            path = find_config(arg)
            given.paths.append(path)
            read_config(path, given)
    return given


def read_flag(arg: str, rest: list[str], given: Given):
    """One flag: --key=value, --key value (taken from the front of `rest`), --shuffle, --resume."""
    name, equals, text = arg.lstrip('-').partition('=')
    name = name.replace('-', '_')
    follows = rest[0] if rest else '--'
    if not equals and name == 'resume':  # mostly alone, and a config may follow
        text = rest.pop(0) if follows in ('yes', 'auto') or os.path.isdir(follows) else 'yes'
    elif not equals and name in FIELDS and KINDS[name].leaf is bool:  # a bare --shuffle means true
        text = rest.pop(0) if follows.lower() in ('true', 'false', *KINDS[name].words) else 'true'
    elif not equals and not follows.startswith('--') and (name in FIELDS or not os.path.exists(follows)):
        text = rest.pop(0)  # of a misspelled flag, too: else its value would be a missing config
    elif not equals and name in FIELDS:
        given.problems.append(f'{arg}: a flag needs a value: --{name}=...')
        return
    value = text
    if name in FIELDS:
        with contextlib.suppress(ValueError):  # of another type: assign() says which one is wanted
            value = parse(KINDS[name], text)
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
    """The public names that a config file assigns, run in an empty namespace; notes what it changes of
    earlier ones."""
    settings = {}
    for name, value in read_file(path, given.problems).items():
        assign(path, name, value, settings, given.problems)
    changes = {}  # earlier config -> what this one changes of it
    for name, value in settings.items():
        if name in given.configs and given.configs[name] != value:
            change = f'{name} {text_of(given.configs[name])} -> {text_of(value)}'
            changes.setdefault(given.origins[name], []).append(change)
            # Steps of one model's size are none of another's: 20,000 on a laptop were meant for a GPU.
            of_overlay = given.origins[name] == given.origins.get('n_embd') and 'n_embd' not in settings
            if of_overlay and name in ('growth_steps', 'continual_steps', 'baseline_steps'):
                given.problems.append(f'{path}: its {name} is not meant for the model of '
                                      f'{given.origins[name]}: name that config last')
    given.configs |= settings
    given.origins |= dict.fromkeys(settings, path)
    for origin, lines in changes.items():
        given.notes.append(f'{os.path.basename(path)}: {", ".join(lines)} ({os.path.basename(origin)})')


def read_file(path: str, problems: list[str]) -> dict:
    """The public names that a Python file assigns."""
    if not os.path.isfile(path):
        hint = ''
        if os.path.exists(os.path.join(path, 'config.json')):
            hint = f'; it is a run directory: --resume={path} resumes it'
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


class Kind(typing.NamedTuple):
    """What a setting may be: a value of type `leaf`, one of `words`, or tuples of them."""

    leaf: type
    depths: tuple  # 0: a value alone, 1: a tuple of them, 2: a tuple of tuples
    words: tuple


def kind_of(annotation, choices: tuple) -> Kind:
    """The kind that an annotation and the choices of a setting describe."""
    leaf, depths = None, []
    for option in typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,):
        depth = 0
        while typing.get_origin(option) is tuple:
            option, depth = typing.get_args(option)[0], depth + 1
        depths.append(depth)
        if leaf is None or option is not str:  # int | str: a number, or one of the choices
            leaf = option
    return Kind(leaf, tuple(sorted(set(depths))), choices)


TYPES = typing.get_type_hints(TrainConfig)
KINDS = {name: kind_of(TYPES[name], f.metadata['choices']) for name, f in FIELDS.items()}


def parse(kind: Kind, text: str):
    """The value that a flag's text means. Raises ValueError if it means none.

    A text is taken as typed. A whole number may be written as 1e3, a tuple as 2,4,6 or (2, 4, 6).
    """
    if text in kind.words:
        return text
    if 2 in kind.depths:  # brackets in brackets: Python knows how to read them
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError(text) from None
    if kind.depths == (1,) or (1 in kind.depths and ',' in text):
        text = text.strip()
        # As Python prints a tuple or a list, which is what one copies from a message.
        if text[:1] + text[-1:] in ('()', '[]'):
            text = text[1:-1]
        parts = [part.strip().strip('\'"') for part in text.split(',')]
        if not parts[-1]:  # nothing at all, or a comma behind the last one
            parts.pop()
        return tuple(parse_leaf(kind.leaf, part) for part in parts)
    return parse_leaf(kind.leaf, text)


def parse_leaf(leaf: type, text: str):
    """One value. Raises ValueError for a text that is none, 'nan' among them."""
    if leaf is str:
        return text
    if leaf is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError(text)
        return text.lower() == 'true'
    try:
        return int(text)  # first: a float is exact for whole numbers only up to 2**53
    except ValueError:
        return float(text)  # 1e3 is a whole number too: convert() sees to it


def convert(kind: Kind, value):
    """`value` as one of a kind: 1 is a float too, 1e3 a whole number, a list a tuple, one item a tuple of
    one, a dict of val_dirs 'name:folder' for each.

    Raises ValueError where it is none. Nothing else is converted: a text isn't a number, 1 isn't True.
    """
    if type(value) is dict and kind == KINDS['val_dirs']:
        value = [f'{name}:{folder}' for name, folder in value.items()]
    if type(value) not in (list, tuple):
        if type(value) is str and value in kind.words:
            return value
        one = convert_leaf(kind.leaf, value)
        return one if 0 in kind.depths else (one,) if 1 in kind.depths else ((one,),)
    if kind.depths == (0,):
        raise ValueError(value)
    if 1 in kind.depths:
        return tuple(convert_leaf(kind.leaf, item) for item in value)
    rows = (value,) if value and type(value[0]) is int else value  # one row of what takes several
    if any(type(row) not in (list, tuple) for row in rows):
        raise ValueError(value)
    converted = []
    for row in rows:
        converted.append(tuple(convert_leaf(kind.leaf, item) for item in row))
    return tuple(converted)


def convert_leaf(leaf: type, value):
    """One value as one of type `leaf`. Raises ValueError where it is none."""
    # type() and not isinstance(): to Python True is an int, but nobody means 1 layer by it.
    if leaf is float and type(value) is int:
        # float() of a huge int would fail; as infinity it is refused later, by name.
        value = float(value) if abs(value) <= LARGEST_INT else math.inf
    if leaf is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not leaf or (leaf is float and math.isnan(value)):
        raise ValueError(value)
    return value


def leaves(value) -> list:
    """What stands in a value that may be a tuple, or a tuple of tuples."""
    if type(value) is not tuple:
        return [value]
    found = []
    for item in value:
        found += leaves(item)
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
    metadata = FIELDS[name].metadata
    wrong = f'{where}: {name} must be {wanted(name)}, not {value!r}'
    try:
        value = convert(KINDS[name], value)
    except ValueError:
        problems.append(wrong)
        return
    texts = {leaf for leaf in leaves(value) if type(leaf) is str}
    if metadata['choices'] and not texts <= set(metadata['choices']):
        problems.append(wrong)
        return
    # One that is too large or small is kept all the same, so that check() sees it and stays silent.
    outside = out_of_bounds(name, value)
    if outside:
        problems.append(f'{where}: {outside}')
    if metadata['path']:
        value = '+'.join(os.path.expanduser(part) for part in value.split('+'))  # match= joins configs by +
    values[name] = value


def suggestion(name: str) -> str:
    """'; did you mean ...?' for a name that is no setting: what it is called here, or the nearest field."""
    # A near name only where it is very near: a wrong suggestion is worse than none.
    near = difflib.get_close_matches(name.lower(), [*OTHER_NAMES, *FIELDS], 1, 0.8)
    if not near:
        return ''
    found = OTHER_NAMES.get(near[0], near[0]).split()
    return '; did you mean ' + ' or '.join(f"'{each}'" for each in found) + '?'


def out_of_bounds(name: str, value) -> str:
    """What is wrong with the size of a setting, '' if nothing is."""
    bounds = FIELDS[name].metadata
    every = f'every one of {name}' if type(value) is tuple else name
    for number in leaves(value):
        if type(number) not in (int, float):
            continue
        # Infinity passes every lower bound, and many settings have no upper one.
        if not math.isfinite(number):
            return f'{every} must be a finite number'
        if bounds['at_least'] is not None and number < bounds['at_least']:
            return f'{every} must be at least {bounds["at_least"]}, not {value}'
        if bounds['at_most'] is not None and number > bounds['at_most']:
            return f'{every} must be at most {bounds["at_most"]}, not {value}'
        if bounds['below'] is not None and number >= bounds['below']:
            return f'{every} must be below {bounds["below"]}, not {value}'
        if type(number) is int and abs(number) > LARGEST_INT:
            return f'{every} must be below 2**63, not {value}'
    return ''


def wanted(name: str) -> str:
    """What a setting may be, for a message: 'int', "'adamw' or 'muon'", 'a tuple of int'."""
    leaf, depths, words = KINDS[name]
    parts = [repr(word) for word in words]
    if not words or leaf is not str:
        outer = ('', 'a tuple of ', 'a tuple of tuples of ')
        parts = [outer[depth] + leaf.__name__ for depth in depths] + parts
    elif 1 in depths:
        parts.append('a tuple of them')
    return ' or '.join(parts)


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
    problems += check_llama(c)
    micro_batch = c.batch_size * c.block_size
    if c.total_batch_size % micro_batch:
        problems.append(f'total_batch_size {c.total_batch_size} is not a multiple of batch_size x block_size '
                        f'= {c.batch_size} x {c.block_size} = {micro_batch}')
    if c.optimizer == 'muon' and c.learning_rate == 0 and c.muon_learning_rate > 0:
        problems.append('learning_rate 0 would stop Muon too, whose rate follows its schedule as '
                        'muon_learning_rate / learning_rate: make it small instead')
    if c.min_lr > c.learning_rate:
        problems.append(f'min_lr {c.min_lr} is above learning_rate {c.learning_rate}')
    names = {entry.partition(':')[0] for entry in c.val_dirs if re.fullmatch(r'\w+:.+', entry)}
    if len(names) < len(c.val_dirs):
        problems.append('val_dirs must be name:folder,name:folder, each name once, not '
                        f'{text_of(c.val_dirs)}')
    return problems


def check_llama(c: TrainConfig) -> list[str]:
    """What only a Llama has, and what it hasn't."""
    names = ('n_kv_head', 'head_dim', 'n_ff', 'rope_theta', 'norm_eps', 'tie_embeddings')
    if c.arch == 'gpt2':
        changed = [name for name in names if getattr(c, name) != FIELDS[name].default]
        return [f'{name} is a setting of arch llama, and arch is gpt2' for name in changed]
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
    nouns = {'stage_depths': 'depths', 'stage_steps': 'entries', 'stage_fractions': 'entries',
             'phase1_fraction': 'values', 'grow_init': 'values', 'stage_lr_scale': 'values'}
    for name, noun in nouns.items():
        values = getattr(c, name)
        is_unset = values == FIELDS[name].default
        if type(values) is tuple and not is_unset and len(values) != c.n_stages:
            problems.append(f'{name} has {len(values)} {noun}, n_stages is {c.n_stages}')
    if c.init_from == 'scratch' and c.init_depth:
        problems.append('init_from and init_depth go together: init_depth is the number of layers of the '
                        f'model to grow from (init_from is {c.init_from!r}, init_depth {c.init_depth})')
    if c.init_depth > c.n_layer:
        problems.append(f'init_depth {c.init_depth} is above n_layer {c.n_layer}')
    elif not depths and c.n_stages > max(1, c.n_layer - c.init_depth):
        problems.append(f'{c.n_stages} stages need at least as many layers to grow; n_layer is {c.n_layer}, '
                        f'init_depth {c.init_depth}')
    if depths and depths[0] < c.init_depth:
        problems.append(f'stage_depths starts below init_depth {c.init_depth}: {depths}')
    if depths and depths[-1] != c.n_layer:
        problems.append(f'stage_depths must end with n_layer {c.n_layer}: {depths}')
    if any(below >= above for below, above in itertools.pairwise((-1, *depths))):  # 0: a model without layers
        problems.append(f'stage_depths must grow: {depths}')
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
    resume = given.get('resume')
    out_dir = given.get('out_dir') or default_out_dir(given)
    if resume in ('', 'yes', 'auto'):
        return out_dir, resume
    # A run directory: it is out_dir, and its config.json holds all the rest.
    run_dir = os.path.normpath(resume)
    if not os.path.isdir(run_dir):
        given.problems.append(f"resume must be 'yes', 'auto' or a run directory, not {resume!r}")
    elif 'out_dir' in given.flags and os.path.normpath(out_dir) != run_dir:
        given.problems.append(f'--resume={resume} and --out_dir={out_dir} are two run directories')
    elif not os.path.exists(os.path.join(run_dir, 'config.json')):
        given.problems.append(f'--resume={resume}: holds no config.json, so its settings must be named: the '
                              f'configs and flags that it was started with, --out_dir={resume} and --resume')
    return run_dir, 'yes'


def default_out_dir(given: Given) -> str:
    """out/ and the names of the configs, and name=value of each flag that changes the run: no two runs share
    it."""
    parts = [os.path.splitext(os.path.basename(path))[0] for path in given.paths] or ['run']
    flags = [name for name in FIELDS if name in given.flags and name != 'seed']
    if 'seed' in given.flags:
        flags.append('seed')  # behind the others, where seeds of the same run differ
    for name in flags:
        value = given.flags[name]
        without = given.configs.get(name, FIELDS[name].default)
        # Other data may move under a run that exists, but a start with it is another run.
        changes_run = not FIELDS[name].metadata['free'] or name == 'data_dir'
        if value == without or not changes_run:
            continue
        # Without slashes and blanks: a folder, not a path, that needs no quotes in a shell.
        text = re.sub(r'[^\w.,=+-]+', '-', text_of(value)).strip('-')
        parts.append(f'{name}{text}' if name == 'seed' else f'{name}={text}')
    stem = '_'.join(parts)
    if len(stem) > 150:  # file systems end a name at 255 bytes
        stem = f'{stem[:130]}_{hashlib.sha1(stem.encode()).hexdigest()[:12]}'
    return os.path.join('out', stem)


def saved_settings(out_dir: str) -> dict:
    """The settings of a run that is resumed, from its config.json; {} if only its checkpoints were copied."""
    if not os.path.exists(os.path.join(out_dir, 'config.json')):
        return {}
    config = load_run_config(out_dir)
    saved = {name: getattr(config, name) for name in FIELDS}
    if os.path.basename(os.path.abspath(config.out_dir)) == config.run_name:
        saved['run_name'] = ''  # the default, which follows a folder that was renamed
    if config.hellaswag_data == os.path.join(config.data_dir, 'hellaswag.jsonl'):
        saved['hellaswag_data'] = 'auto'  # it follows data that moved
    return saved


def without_growth(given: Given, saved: dict, out_dir: str) -> dict:
    """The configs' settings but for 'What grows when'; a note says where the saved ones rule otherwise."""
    # A config that sets another length than a flag did at the start is not a wish: the flag is forgotten,
    # perhaps.
    configs, kept = {}, []
    for name, value in given.configs.items():
        if FIELDS[name].metadata['group'] != 'growth':
            configs[name] = value
        elif name not in given.flags and value != saved[name]:
            kept.append(f'{name} {text_of(saved[name])} (not {text_of(value)} as in {given.origins[name]})')
    if kept and not given.configs.get('match'):  # which stands for the saved ones
        given.notes.append(f'{out_dir} is resumed with {", ".join(kept)}, as it was started; a flag would '
                           'change it')
    return configs


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
    path = os.path.join(config.data_dir, 'meta.json')
    meta = read_json(path, 'a meta.json') if os.path.exists(path) else {}
    if type(meta) is not dict:
        raise UserError(f'{path}: not a meta.json')
    if config.vocab_size == 0:
        size = meta.get('vocab_size', 50257)  # shards that others publish without a meta.json are GPT-2's
        if type(size) is not int or size < 1:
            raise UserError(f"{path} doesn't say a vocab_size: make the data again, or set vocab_size")
        # Matrices whose sides are multiples of 64 multiply faster.
        config = dataclasses.replace(config, vocab_size=-(-size // 64) * 64)
    # Without the folder there is nothing to decide by, and opening the data reports that.
    if config.hellaswag_data != 'auto' or not os.path.isdir(config.data_dir):
        return config
    questions = os.path.join(config.data_dir, 'hellaswag.jsonl')
    if os.path.exists(questions):
        return dataclasses.replace(config, hellaswag_data=questions)
    # The official questions are too long for models of bytes, and say little about models of one's own text.
    options = meta.get('options')
    is_own = type(options) is dict and options.get('source')
    if meta.get('tokenizer', 'gpt2') == 'gpt2' and not is_own:
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
    return {name: as_lists(value) for name, value in dataclasses.asdict(config).items()}


def as_lists(value):
    """Tuples as lists, also those in tuples: what JSON has."""
    return [as_lists(item) for item in value] if type(value) is tuple else value


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
