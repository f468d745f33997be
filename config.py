"""
Settings: one frozen dataclass, one strict loader.

    python train.py CONFIG [CONFIG ...] [--key=value ...]

A config is a Python file of plain assignments. Configs are applied from left to right, then the flags. Every
public name must be a field of TrainConfig and of its type; whatever is wrong is reported in one message, all
of it at once. A run that is resumed takes from its config.json what the command line doesn't say.
"""

import ast
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

LARGEST_INT = 2**63 - 1  # what numpy and torch count with


def setting(default, help, choices=(), free=False, path=False, at_least=None, at_most=None, below=None):
    """A field of TrainConfig.

    `choices`: the only texts allowed. `free`: may be changed on resume, since it doesn't change the
    trajectory. `path`: a file or folder, in which ~ is the home directory. The bounds hold for a number, and
    for each one of a tuple.
    """
    metadata = {'help': help, 'choices': tuple(choices), 'free': free, 'path': path}
    metadata |= {'at_least': at_least, 'at_most': at_most, 'below': below}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. The defaults are GPT-2 124M on FineWeb-Edu with the paper's hyperparameters."""

    # the run
    out_dir: str = setting(
        '', 'the run directory; default: out/, the names of the configs, and the flags that change the run, '
            'joined by _',
        free=True, path=True)
    run_name: str = setting('', 'name in logs and figures; default: the last part of out_dir', free=True)
    seed: int = setting(1337, 'seeds weights, new layers, data order and dropout', at_least=0, below=2**32)
    resume: str = setting(
        '', 'a run directory to resume from its newest valid checkpoint, with the settings of its '
            "config.json where the command line has no others; 'yes' (or just --resume): the one that is "
            "out_dir; 'auto': the same, or start if there is no checkpoint", free=True, path=True)
    branch_from: str = setting(
        '', 'begin from a checkpoint of another run whose first steps are the same: a run directory (its '
            'newest checkpoint that fits), or a checkpoint file', free=True, path=True)
    # data
    data_dir: str = setting(
        'data/edu_fineweb10B',
        'folder of token shards, .bin or .npy, with train or val as a word of their names; it may '
        'move while its content stays', free=True, path=True)
    shuffle: bool = setting(False, 'visit the sequences of an epoch in a seeded random order, not in file '
                                   'order')
    # model
    n_layer: int = setting(12, 'final depth: transformer blocks once everything has grown', at_least=1)
    n_head: int = setting(12, 'attention heads per block', at_least=1)
    n_embd: int = setting(768, 'width of the residual stream', at_least=1)
    block_size: int = setting(1024, 'context length in tokens', at_least=1)
    vocab_size: int = setting(
        50304, "rows of the token embedding; 0: from the data's meta.json, rounded up to 64", at_least=0)
    dropout: float = setting(0.0, 'dropout probability', at_least=0, below=1)
    init_from: str = setting(
        'scratch', "'scratch', or what to grow from: a checkpoint or run directory of ours, 'gpt2'..., or a "
                   'Hugging Face GPT-2 folder', path=True)
    init_depth: int = setting(0, 'layers that init_from has (0 for scratch)', at_least=0)
    # what grows when
    n_stages: int = setting(1, 'stages; 1 trains the full depth from the start', at_least=1)
    stage_depths: tuple[int, ...] = setting(
        (), 'depth of each stage; default ceil(n_layer * k / n_stages) for stage k')
    growth_steps: int = setting(
        10_000, 'steps of all stages together, split as evenly as whole steps allow', at_least=0)
    stage_steps: tuple[int, ...] = setting(
        (), 'steps of each stage, instead of an even split of growth_steps', at_least=1)
    stage_fractions: tuple[float, ...] = setting(
        (), "each stage's share of the whole run (growth_steps + continual_steps), instead of stage_steps; "
            'what they leave is continual', at_least=0, at_most=1)
    phase1_fraction: float | tuple[float, ...] = setting(
        0.5, 'share of a stage, from the second growth on, that trains only the new layers; 0: never freeze; '
             'one value, or one for each stage', at_least=0, at_most=1)
    phase1_embeddings: str = setting(
        'input_frozen',
        "what trains beside the new layers in phase 1; 'train': both embeddings, head and final norm, "
        "'input_frozen': head and final norm, 'frozen': the final norm", choices=('train', 'input_frozen',
                                                                                  'frozen'))
    continual_steps: int | str = setting(
        10_000, "steps of all layers after the last stage, or 'equal_compute': as many as bring the total to "
                'the compute of baseline_steps at full depth', choices=('equal_compute',), at_least=0)
    baseline_steps: int = setting(10_000, "full-depth steps whose compute 'equal_compute' aims at",
                                  at_least=0)
    ledger: str = setting(
        'flops', "the ledger that counts for 'equal_compute' and match; neither counts the optimizer",
        choices=('flops', 'paper'))
    match: str = setting(
        '', "run directory, or configs joined by + (this run's overlays are added where they have none), "
            "whose total compute this run's steps are set to", path=True)
    grow_init: str | tuple[str, ...] = setting(
        'random', 'how new layers start, one value or one for each stage: ' + '; '.join(
            f'{name}: {operator.__doc__.splitlines()[0]}' for name, operator in OPERATORS.items()),
            choices=OPERATORS)
    grow_map: tuple[tuple[int, ...], ...] = setting(
        (), 'the layers after each growth from the bottom, by number of the old layer, -1 for a fresh one '
            "('random' or 'zero', as grow_init says): ((0, 1, 2, 0, 1, 2),) is stack; () leaves a growth to "
            'grow_init')
    grow_optimizer: str = setting(
        'keep', "optimizer moments at growth; 'keep': old layers keep theirs, new ones start fresh, 'copy': "
                "a copied layer copies its source's too, 'reset': all start fresh", choices=('keep', 'copy',
                                                                                             'reset'))
    # batch
    total_batch_size: int = setting(524_288, 'tokens per step, over all ranks and micro-steps', at_least=1)
    batch_size: int = setting(32, 'sequences per micro-step and rank', free=True, at_least=1)
    # optimizer
    optimizer: str = setting(
        'adamw', "'adamw', or 'muon' for the matrices of the blocks with AdamW for the rest",
        choices=('adamw', 'muon'))
    learning_rate: float = setting(6e-4, 'peak learning rate', at_least=0)
    min_lr: float = setting(0.0, 'learning rate at the end of cosine or wsd', at_least=0)
    lr_schedule: str = setting(
        'constant', "'constant', 'cosine', or 'wsd' (warm-up, stable, linear decay), over the whole run",
        choices=('constant', 'cosine', 'wsd'))
    warmup_steps: int = setting(0, 'steps of linear warm-up from 0, in every schedule', at_least=0)
    rewarm_steps: int = setting(0, 'steps of linear warm-up after each growth', at_least=0)
    rewarm: str = setting(
        'all', "what rewarm_steps warm up: 'all', or 'new': only the layers that have just grown",
        choices=('all', 'new'))
    lr_depth_power: float = setting(
        0.0, 'learning rate times (depth / n_layer)^-p; No Train No Gain: p = 0.25', at_least=0)
    stage_lr_scale: float | tuple[float, ...] = setting(
        1.0, 'learning rate times this while a stage lasts, up to continual training; one value, or one for '
             'each stage',
        at_least=0)
    decay_fraction: float = setting(0.1, 'wsd: share of all steps, at the end, that decays', at_least=0,
                                    at_most=1)
    weight_decay: float = setting(0.1, 'AdamW weight decay, on matrices only', at_least=0)
    beta1: float = setting(0.9, 'AdamW beta1', at_least=0, below=1)
    beta2: float = setting(0.95, 'AdamW beta2', at_least=0, below=1)
    muon_learning_rate: float = setting(0.02, 'muon: peak learning rate of the matrices of the blocks',
                                        at_least=0)
    grad_clip: float = setting(0.0, 'clip the gradient norm to this; 0: never', at_least=0)
    # evaluation
    eval_interval: int = setting(
        250, 'steps between evaluations of the validation loss; 0: only at the end', free=True, at_least=0)
    eval_after_growth: tuple[int, ...] = setting(
        (), 'evaluate also so many steps after each growth, such as 10,30,100', free=True, at_least=0)
    val_tokens: int = setting(
        4_194_304, 'tokens of the validation set, always the same first ones', free=True, at_least=1)
    hellaswag_interval: int = setting(250, 'steps between HellaSwag scorings; 0: never', free=True,
                                      at_least=0)
    hellaswag_data: str = setting(
        'auto', 'JSONL file or URL of HellaSwag-shaped examples; empty: the official validation set from the '
                "Hub; 'auto': hellaswag.jsonl in data_dir if there is one, else the official set for GPT-2's "
                'tokens, and no scoring for others', free=True, path=True)
    hellaswag_limit: int = setting(0, 'score only the first N examples; 0: all', free=True, at_least=0)
    # logs and checkpoints
    log_interval: int = setting(10, 'steps between lines of training loss', free=True, at_least=1)
    checkpoint_interval: int = setting(
        250, 'steps between checkpoints; 0: only at the end of a stage and of the run', free=True, at_least=0)
    checkpoint_steps: tuple[int, ...] = setting(
        (), 'further steps to save a checkpoint at; these are kept for good', free=True, at_least=1)
    keep_checkpoints: int = setting(
        2, 'newest checkpoints to keep (each finished stage is kept beside them)', free=True, at_least=1)
    tracker: str = setting(
        '', "send every record to 'wandb', 'tensorboard' or 'trackio' as well (pip install it first)",
        choices=('', 'wandb', 'tensorboard', 'trackio'), free=True)
    tracker_project: str = setting('incremental', "the tracker's project", free=True)
    # the machine
    device: str = setting('auto', "'auto' (cuda, else mps, else cpu) or a torch device", free=True)
    dtype: str = setting(
        'auto', "autocast to 'bfloat16' or stay with 'float32'; 'auto': bfloat16 where the hardware has it",
        choices=('auto', 'float32', 'bfloat16'), free=True)
    compile: bool | str = setting(
        'auto', "compile the blocks with torch.compile: True, False or 'auto' (on cuda only)",
        choices=('auto',),
        free=True)


FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}
TYPES = typing.get_type_hints(TrainConfig)

# The first setting of each group, in the order of the fields.
GROUPS = {'out_dir': 'The run', 'data_dir': 'Data', 'n_layer': 'Model', 'n_stages': 'What grows when',
          'total_batch_size': 'Batch', 'optimizer': 'Optimizer', 'eval_interval': 'Evaluation',
          'log_interval': 'Logs and checkpoints', 'device': 'The machine'}

# What users of nanoGPT, nanochat and Hugging Face type, after the settings that do the same here.
OTHER_NAMES = {
    'out_dir': 'output_dir save_dir',
    'run_name': 'model_tag run name wandb_run_name',
    'data_dir': 'dataset data data_path dataset_dir',
    'seed': 'data_seed random_seed',
    'resume': 'resume_from_checkpoint resume_from resume_from_step',
    'init_from init_depth': 'pretrained model_name_or_path',
    'resume init_from': 'checkpoint ckpt ckpt_path',
    'n_layer': 'depth layers num_layers num_hidden_layers',
    'n_head': 'heads num_heads num_attention_heads head_dim',
    'n_embd': 'hidden_size d_model dim model_dim width aspect_ratio embed_dim',
    'block_size':
        'n_ctx n_positions max_position_embeddings max_seq_len max_seq_length seq_len sequence_length '
        'seq_length context_length context_size',
    'vocab_size': 'meta_vocab_size',
    'dropout': 'attn_pdrop resid_pdrop embd_pdrop hidden_dropout_prob',
    'growth_steps continual_steps':
        'max_iters max_steps num_iterations num_steps n_steps train_steps total_steps steps iterations '
        'epochs num_epochs num_train_epochs lr_decay_iters max_tokens',
    'continual_steps baseline_steps match': 'target_flops',
    'n_stages': 'stages num_stages',
    'stage_depths': 'depths',
    'stage_fractions': 'tau',
    'phase1_fraction': 'freeze freeze_layers freeze_fraction frozen unfreeze',
    'phase1_embeddings': 'freeze_embeddings',
    'grow_init': 'operator growth_operator',
    'grow_init init_from': 'init',
    'total_batch_size': 'gradient_accumulation_steps grad_accum_steps grad_accum global_batch_size',
    'batch_size': 'device_batch_size micro_batch_size bs per_device_train_batch_size train_batch_size',
    'optimizer': 'optim',
    'learning_rate': 'lr max_lr peak_lr embedding_lr unembedding_lr scalar_lr',
    'muon_learning_rate': 'matrix_lr muon_lr',
    'min_lr': 'min_learning_rate final_lr_frac',
    'lr_schedule': 'decay_lr lr_scheduler_type lr_scheduler scheduler schedule',
    'warmup_steps': 'warmup warmup_iters warmup_ratio num_warmup_steps',
    'decay_fraction': 'warmdown_ratio cooldown_frac decay_steps',
    'weight_decay': 'wd',
    'beta1': 'adam_beta1',
    'beta2': 'adam_beta2',
    'beta1 beta2': 'betas',
    'grad_clip': 'max_grad_norm clip clip_grad grad_clip_norm gradient_clip_val',
    'val_tokens': 'eval_iters eval_tokens val_max_steps',
    'eval_interval': 'eval_steps eval_every val_loss_every val_interval val_every evaluation_strategy',
    'hellaswag_interval': 'core_metric_every hellaswag_every',
    'log_interval': 'logging_steps log_every',
    'checkpoint_interval': 'save_steps save_every save_interval checkpoint_every always_save_checkpoint',
    'keep_checkpoints': 'save_total_limit',
    'tracker': 'wandb_log wandb report_to tensorboard',
    'tracker_project': 'project',
    'device': 'use_cpu no_cuda device_type accelerator',
    'dtype': 'bf16 fp16 amp mixed_precision precision torch_dtype',
    'compile': 'torch_compile',
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
    values = given.configs | given.flags
    # 'auto' without a checkpoint is a start, for which a config.json that a killed start left says nothing.
    if resume == 'yes' or (resume and numbered(out_dir, 'ckpt_', '.pt')):
        values = settings_of_resumed_run(out_dir, given)
    values |= {'out_dir': out_dir, 'resume': resume}
    if not values.get('run_name'):
        values['run_name'] = os.path.basename(os.path.abspath(out_dir))
    # From here on every setting has the value that goes into config.json, so that it alone says what was run.
    values['match'] = match_at_this_scale(values.get('match', ''), given)
    config = TrainConfig(**values)
    # All problems in one error, so that one round of corrections is enough.
    problems = given.problems + check(config)
    if problems:
        raise_problems('the settings are wrong:', problems)
    config = fill_in_from_data(config, given.notes)
    for note in given.notes if say else ():
        say(note)
    return config


def raise_problems(title: str, problems: list[str]):
    """Raise one UserError: a line for each problem, under a title where there are several."""
    if len(problems) > 1:
        problems = [title, *problems]
    raise UserError('\n  '.join(problems))


def read_command_line(argv: list[str]) -> Given:
    """The configs' and flags' settings. What is wrong with them is collected in `problems`."""
    given = Given()
    rest = list(argv)
    while rest:
        arg = rest.pop(0)  # a flag may take the next one, too
        if arg.startswith('-') and len(arg) > 1:
            read_flag(arg, rest, given)
        else:
            path = os.path.expanduser(arg)
            given.paths.append(path)
            read_config(path, given)
    return given


def read_flag(arg: str, rest: list[str], given: Given):
    """One flag: --key=value, --key value (taken from the front of `rest`), --shuffle, --resume."""
    name, equals, text = arg.lstrip('-').partition('=')
    name = name.replace('-', '_')
    where = f'--{name}'
    # A misspelled flag takes its value along, else that would be reported as a missing config.
    if name not in TYPES:
        if not equals and rest and not rest[0].startswith('-') and not os.path.exists(rest[0]):
            rest.pop(0)  # its value, which is no config
        assign(arg, name, text, given.flags, given.problems)
        return
    if not equals:
        text = value_of_flag(name, rest)
    if text is None:
        given.problems.append(f'{arg}: a flag needs a value: --{name}=...')
        return
    try:
        value = parse(TYPES[name], text)
    except ValueError:
        value = text  # of another type: assign() says which one is wanted
    assign(where, name, value, given.flags, given.problems)


def value_of_flag(name: str, rest: list[str]) -> str | None:
    """The text of a flag without =, from the front of `rest` or what it means alone; None if it means
    nothing."""
    follows = rest[0] if rest else None
    if name == 'resume':  # mostly alone, and a config may follow
        return rest.pop(0) if follows in ('yes', 'auto') or (follows and os.path.isdir(follows)) else 'yes'
    # A bare --shuffle means true, and what follows it may be a config.
    if bool in kinds_of(TYPES[name]):
        is_value = follows is not None and follows.lower() in ('true', 'false',
                                                               *FIELDS[name].metadata['choices'])
        return rest.pop(0) if is_value else 'true'
    if follows is None or follows.startswith('--'):
        return None
    return rest.pop(0)


def read_config(path: str, given: Given):
    """The public names that a config file assigns, run in an empty namespace; notes what it changes of
    earlier ones."""
    changes = {}  # earlier config -> what this one changes of it
    for name, value in read_file(path, given.problems).items():
        settings = {}
        assign(path, name, value, settings, given.problems)
        for name, value in settings.items():  # the one, or the two that an older name stands for
            if name in given.configs and given.configs[name] != value:
                change = f'{name} {text_of(given.configs[name])} -> {text_of(value)}'
                changes.setdefault(given.origins[name], []).append(change)
            given.configs[name] = value
            given.origins[name] = path
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


def assign(where: str, name: str, value, values: dict, problems: list[str]):
    """Put one checked value into `values`, or say in `problems` why not. `where`: the file or flag that has
    it."""
    if name == 'wandb_project' and type(value) is str:  # what it was called when there was one tracker
        if value:
            values |= {'tracker': 'wandb', 'tracker_project': value}
        return
    if name not in FIELDS:
        problems.append(f"{where}: no setting is called '{name}'{suggestion(name)}")
        return
    metadata = FIELDS[name].metadata
    try:
        value = convert(TYPES[name], value)
    except ValueError:
        problems.append(f'{where}: {name} must be {wanted(name)}, not {value!r}')
        return
    texts = {leaf for leaf in leaves(value) if type(leaf) is str}
    if metadata['choices'] and not texts <= set(metadata['choices']):
        problems.append(f'{where}: {name} must be {wanted(name)}, not {value!r}')
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
    ours = {}
    for settings, names in OTHER_NAMES.items():
        ours |= dict.fromkeys(names.split(), settings.split())
    name = name.lower()
    # A near name only where it is very near: a wrong suggestion is worse than none.
    found = ours.get(name) or difflib.get_close_matches(name, FIELDS, 1, 0.7)
    if not found:  # a slip in one of the others' names
        near = difflib.get_close_matches(name, ours, 1, 0.85)
        found = ours[near[0]] if near else ()
    names = ' or '.join(f"'{each}'" for each in found)
    return f'; did you mean {names}?' if found else ''


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
    choices = [repr(choice) for choice in FIELDS[name].metadata['choices']]
    parts = []
    for one in kinds_of(TYPES[name]):
        if one is str and choices:
            parts += choices
        elif is_tuple(one) and choices:
            parts.append('a tuple of them')
        else:
            parts.append(name_of_type(one))
    return ' or '.join(parts)


# ------------------------------------------------------------------------------------------------------------
# settings that don't fit together


def check(config: TrainConfig) -> list[str]:
    """Combinations that can't be, each as one line. What needs the number of ranks is checked by train.py."""
    for name in FIELDS:
        if out_of_bounds(name, getattr(config, name)):
            return []  # assign() has said so, and the rest would divide by what is wrong
    return check_shape(config) + check_stages(config) + check_start(config)


def check_shape(c: TrainConfig) -> list[str]:
    """Width, batch and learning rate."""
    problems = []
    # Each head takes an equal part of the width; micro-batches and ranks an equal part of the step.
    if c.n_embd % c.n_head:
        problems.append(f'n_embd {c.n_embd} is not divisible by n_head {c.n_head}')
    micro_batch = c.batch_size * c.block_size
    if c.total_batch_size % micro_batch:
        problems.append(f'total_batch_size {c.total_batch_size} is not a multiple of batch_size x block_size '
                        f'= {c.batch_size} x {c.block_size} = {micro_batch}')
    if c.optimizer == 'muon' and c.learning_rate == 0 and c.muon_learning_rate > 0:
        problems.append('learning_rate 0 would stop Muon too, whose rate follows its schedule as '
                        'muon_learning_rate / learning_rate: make it small instead')
    if c.min_lr > c.learning_rate:
        problems.append(f'min_lr {c.min_lr} is above learning_rate {c.learning_rate}')
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
    if not depths and c.n_stages > c.n_layer:
        problems.append(f'{c.n_stages} stages need at least as many layers; n_layer is {c.n_layer}')
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


def check_start(c: TrainConfig) -> list[str]:
    """What the run begins from."""
    # A zero-layer model to grow from must be meant: by stage_depths that begin with 0.
    has_layers = c.init_depth > 0 or c.stage_depths[:1] == (0,)
    fits = c.init_depth == 0 if c.init_from == 'scratch' else has_layers
    if not fits:
        return ['init_from and init_depth go together: init_depth is the number of layers of the model to '
                f'grow from (init_from is {c.init_from!r}, init_depth {c.init_depth})']
    problems = []
    if c.stage_depths and c.stage_depths[0] < c.init_depth:
        problems.append(f'stage_depths starts below init_depth {c.init_depth}: {c.stage_depths}')
    if c.init_depth > c.n_layer:
        problems.append(f'init_depth {c.init_depth} is above n_layer {c.n_layer}')
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


def settings_of_resumed_run(out_dir: str, given: Given) -> dict:
    """The settings of a run that is resumed: its config.json's, over them the configs', over them the flags.

    The settings of 'What grows when' stay as saved unless a flag says otherwise; notes say where a config
    does.
    """
    path = os.path.join(out_dir, 'config.json')
    if not os.path.exists(path):  # only its checkpoints were copied
        return given.configs | given.flags
    saved = config_to_dict(config_from_dict(read_json(path, 'a readable config'), path))
    if os.path.basename(os.path.abspath(saved['out_dir'])) == saved['run_name']:
        saved['run_name'] = ''  # the default, which follows a folder that was renamed
    if saved['hellaswag_data'] == os.path.join(saved['data_dir'], 'hellaswag.jsonl'):
        saved['hellaswag_data'] = 'auto'  # it follows data that moved
    values = {name: convert(TYPES[name], value) for name, value in saved.items()} | given.flags
    # A config that sets another length than a flag did at the start is not a wish: the flag is forgotten,
    # perhaps.
    kept = []
    for name, value in given.configs.items():
        if name in given.flags:
            continue
        if not changes_length(name):
            values[name] = value
        elif value != values[name]:
            kept.append(f'{name} {text_of(values[name])} (not {text_of(value)} as in {given.origins[name]})')
    if kept and not given.configs.get('match'):  # which stands for the saved ones
        given.notes.append(f'{out_dir} is resumed with {", ".join(kept)}, as it was started; a flag would '
                           'change it')
    return values


def changes_length(name: str) -> bool:
    """Whether a setting is one of 'What grows when'."""
    # GROUPS knows only the first setting of each group: those that follow belong to it too.
    group = ''
    for field_name in FIELDS:
        group = GROUPS.get(field_name, group)
        if field_name == name:
            break
    return group == 'What grows when'


def match_at_this_scale(match: str, given: Given) -> str:
    """`match`, where it names configs: with this run's overlays if it has none, and with the flags for shape
    and batch.

    Otherwise a run on a laptop would be matched to GPT-2 124M.
    """
    # A run directory has its own shape, and can't be scaled.
    if not match or os.path.exists(os.path.join(match, 'config.json')):
        return match
    parts = match.split('+')
    if len(parts) == 1:
        parts += given.paths[1:]  # the first config says what grows, those after it are overlays
    for name in ('n_head', 'n_embd', 'block_size', 'vocab_size', 'total_batch_size', 'batch_size'):
        if name in given.flags:
            parts.append(f'--{name}={given.flags[name]}')
    return '+'.join(parts)


def fill_in_from_data(config: TrainConfig, notes: list[str]) -> TrainConfig:
    """The config with what the data decides: vocab_size where it is 0, hellaswag_data where it is 'auto'."""
    if config.vocab_size == 0:
        config = dataclasses.replace(config, vocab_size=vocab_from_meta(config.data_dir))
    # Without the folder there is nothing to decide by, and opening the data reports that.
    if config.hellaswag_data != 'auto' or not os.path.isdir(config.data_dir):
        return config
    questions = os.path.join(config.data_dir, 'hellaswag.jsonl')
    if os.path.exists(questions):
        return dataclasses.replace(config, hellaswag_data=questions)
    meta_path = os.path.join(config.data_dir, 'meta.json')
    meta = read_json(meta_path, 'a meta.json') if os.path.exists(meta_path) else {}
    # The official questions are too long for models of bytes, and say nothing about models as small.
    if type(meta) is dict and meta.get('tokenizer', 'gpt2') != 'gpt2':
        if config.hellaswag_interval:
            notes.append(f'{config.data_dir} has no hellaswag.jsonl and is not in GPT-2 tokens: the run is '
                         'not scored')
        return dataclasses.replace(config, hellaswag_data='', hellaswag_interval=0)
    return dataclasses.replace(config, hellaswag_data='')


def vocab_from_meta(data_dir: str) -> int:
    """The vocabulary size that the data's meta.json names, rounded up to a multiple of 64."""
    path = os.path.join(data_dir, 'meta.json')
    missing = f"vocab_size is 0, and {path} doesn't say one: make the data first, or set vocab_size"
    if not os.path.exists(path):
        raise UserError(missing)
    meta = read_json(path, 'a readable meta.json')
    if type(meta) is not dict or type(meta.get('vocab_size')) is not int or meta['vocab_size'] < 1:
        raise UserError(missing)
    return -(-meta['vocab_size'] // 64) * 64  # matrices whose sides are multiples of 64 multiply faster


# ------------------------------------------------------------------------------------------------------------
# out and in again


def describe() -> str:
    """Every setting with its default and its help, in groups, as wide as the terminal."""
    # Narrower than 40 columns nothing would be readable; in a pipe it is 80.
    width = max(40, shutil.get_terminal_size().columns)
    lines = []
    for name, setting_field in FIELDS.items():
        if name in GROUPS:
            lines += ['', GROUPS[name]]
        lines.append(f'  --{name}={text_of(setting_field.default)}')
        lines += textwrap.wrap(setting_field.metadata['help'], width, initial_indent=' ' * 8,
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
    problems += check(config)
    if problems:
        raise_problems('the saved settings are wrong:', problems)
    return config


# ------------------------------------------------------------------------------------------------------------
# one value: from a flag's text, or from Python, to the type of the setting, and back to text
#
#     parse(int, '1e3') -> 1000.0          what the text means
#     convert(int, 1000.0) -> 1000         as one of the type; ValueError where it is none
#     text_of((2, 4)) -> '2,4'             as one would type it
#
# A kind is a type as annotations have it: int, float, bool, str, tuple[int, ...], tuple[tuple[int, ...],
# ...], and unions such as int | str.


def is_tuple(kind) -> bool:
    return typing.get_origin(kind) is tuple


def kinds_of(kind) -> tuple:
    """The types that a kind joins by |, or the kind alone."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def parse(kind, text: str):
    """The value of type `kind` that a flag's text means. Raises ValueError if it means none.

    A text is taken as typed. A whole number may be written as 1e3, a tuple as 2,4,6 or (2, 4, 6).
    """
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError(text)
        return text.lower() == 'true'
    if kind is int or kind is float:
        return parse_number(text)
    if is_tuple(kind):
        return parse_tuple(typing.get_args(kind)[0], text)
    # One of several types: a comma makes a tuple, and whatever is nothing else is a text.
    kinds = sorted(kinds_of(kind), key=lambda one: one is str)
    kinds.sort(key=lambda one: is_tuple(one) != (',' in text))
    for one in kinds:
        try:
            return convert(one, parse(one, text))
        except ValueError:
            continue
    raise ValueError(text)


def parse_number(text: str):
    """An int or a float. Raises ValueError for other texts, 'nan' among them."""
    # int first: a float is exact for whole numbers only up to 2**53.
    try:
        return int(text)
    except ValueError:
        number = float(text)  # 1e3 is a whole number too: convert() sees to it
    if math.isnan(number):
        raise ValueError(text)
    return number


def parse_tuple(item_kind, text: str) -> tuple:
    """The tuple that a text like 2,4,6 means, with or without brackets."""
    text = text.strip()
    if is_tuple(item_kind):  # brackets in brackets: Python knows how to read them
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError(text) from None
    # As Python prints a tuple or a list, which is what one copies from a message.
    if text[:1] + text[-1:] in ('()', '[]'):
        text = text[1:-1]
    parts = [part.strip().strip('\'"') for part in text.split(',')]
    if not parts[-1]:  # nothing at all, or a comma behind the last one
        parts.pop()
    return tuple(parse(item_kind, part) for part in parts)


def convert(kind, value):
    """`value` as one of type `kind`: 1 is a float too, 1e3 a whole number, a list a tuple, one item a tuple
    of one.

    Raises ValueError where it is none. Nothing else is converted: a text isn't a number, 1 isn't True.
    """
    if isinstance(kind, types.UnionType):
        for one in kinds_of(kind):
            # Else 4 would become (4,) where a setting is a number or a tuple.
            if is_tuple(one) == (type(value) in (list, tuple)):
                try:
                    return convert(one, value)
                except ValueError:
                    continue
        raise ValueError(value)
    if is_tuple(kind):
        item_kind = typing.get_args(kind)[0]
        items = value if type(value) in (list, tuple) else (value,)
        if is_tuple(item_kind) and items and type(items[0]) is int:
            items = (items,)  # one row of what takes several
        return tuple(convert(item_kind, item) for item in items)
    # type() and not isinstance(): to Python True is an int, but nobody means 1 layer by it.
    if kind is float and type(value) is int:
        # float() of a huge int would fail; as infinity it is refused later, by name.
        value = float(value) if abs(value) <= LARGEST_INT else math.inf
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not kind or (kind is float and math.isnan(value)):
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


def name_of_type(kind, tuple_word='a tuple') -> str:
    """'int', 'a tuple of int', 'a tuple of tuples of int'."""
    if is_tuple(kind):
        return f'{tuple_word} of {name_of_type(typing.get_args(kind)[0], "tuples")}'
    return kind.__name__


def text_of(value) -> str:
    """A value as one would type it in a flag."""
    if type(value) is tuple:
        parts = [f'({text_of(item)})' if type(item) is tuple else text_of(item) for item in value]
        return ','.join(parts)
    return str(value)
