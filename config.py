"""
Settings: one frozen dataclass, one strict loader.

    python train.py CONFIG [CONFIG ...] [--key=value ...]

A config is a Python file of plain assignments. Configs are applied from left to right, then the flags. Every public name
must be a field of TrainConfig and of its type; whatever is wrong is reported in one message, all of it at once.
"""

import ast
import dataclasses
import difflib
import itertools
import math
import os
import sys
import types
import typing
from dataclasses import dataclass

from common import UserError, read_json
from growth import OPERATORS


def setting(default, help, choices=(), free=False):
    """A field of TrainConfig. `free`: may be changed on resume, since it doesn't change the trajectory."""
    return dataclasses.field(default=default, metadata={'help': help, 'choices': choices, 'free': free})


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. The defaults are GPT-2 124M on FineWeb-Edu with the paper's hyperparameters."""

    # the run
    out_dir: str = setting('', 'the run directory; default out/ and the names of the configs joined by _', free=True)
    run_name: str = setting('', 'name in logs and figures; default: the last part of out_dir', free=True)
    seed: int = setting(1337, 'seeds weights, new layers, data order and dropout')
    resume: str = setting('', "'yes' (or just --resume): go on from the newest valid checkpoint in out_dir; "
                          "'auto': go on, or start if there is none", choices=('', 'yes', 'auto'), free=True)
    branch_from: str = setting('', 'another run (its newest checkpoint that fits), or a checkpoint of it, whose first steps '
                               'are the same as the first ones of this run: begin there', free=True)
    # data
    data_dir: str = setting('data/edu_fineweb10B', 'folder of token shards: *train*.bin and *val*.bin (or .npy)')
    shuffle: bool = setting(False, 'visit the sequences of an epoch in a seeded random order, not in file order')
    # model
    n_layer: int = setting(12, 'final depth: transformer blocks once everything has grown')
    n_head: int = setting(12, 'attention heads per block')
    n_embd: int = setting(768, 'width of the residual stream')
    block_size: int = setting(1024, 'context length in tokens')
    vocab_size: int = setting(50304, "rows of the token embedding; 0: from the data's meta.json, rounded up to 64")
    dropout: float = setting(0.0, 'dropout probability')
    init_from: str = setting('scratch', "'scratch', or what to grow from: a checkpoint or run directory of ours, "
                             "'gpt2'..., or a Hugging Face GPT-2 folder")
    init_depth: int = setting(0, 'layers that init_from has (0 for scratch)')
    # what grows when
    n_stages: int = setting(1, 'stages; 1 trains the full depth from the start')
    stage_depths: tuple[int, ...] = setting((), 'depth of each stage; default ceil(n_layer * k / n_stages) for stage k')
    growth_steps: int = setting(10_000, 'steps of all stages together, split as evenly as whole steps allow')
    stage_steps: tuple[int, ...] = setting((), 'steps of each stage, instead of an even split of growth_steps')
    stage_fractions: tuple[float, ...] = setting((), "each stage's share of the whole run (growth_steps + continual_steps), "
                                                 'instead of stage_steps; what they leave is continual')
    phase1_fraction: float | tuple[float, ...] = setting(
        0.5, 'share of a stage, from the second growth on, that trains only the new layers; 0: never freeze; one value, or one '
        'for each stage')
    phase1_embeddings: str = setting('input_frozen', "what trains beside the new layers in phase 1; 'train': both "
                                     "embeddings, head and final norm, 'input_frozen': head and final norm, "
                                     "'frozen': the final norm", choices=('train', 'input_frozen', 'frozen'))
    continual_steps: int | str = setting(10_000, "steps of all layers after the last stage, or 'equal_compute': as "
                                         'many as bring the total to the compute of baseline_steps at full depth',
                                         choices=('equal_compute',))
    baseline_steps: int = setting(10_000, "full-depth steps whose compute 'equal_compute' aims at")
    ledger: str = setting('flops', "the ledger that counts for 'equal_compute' and match", choices=('flops', 'paper'))
    match: str = setting('', "run directory or configs (joined by +) whose total compute this run's steps are set to")
    grow_init: str | tuple[str, ...] = setting(
        'random', 'how new layers start, one value or one for each stage: ' + '; '.join(
            f'{name}: {operator.__doc__.splitlines()[0]}' for name, operator in OPERATORS.items()), choices=OPERATORS)
    grow_map: tuple[tuple[int, ...], ...] = setting(
        (), "the layers after each growth from the bottom, by number of the old layer, -1 for a fresh one ('random' or 'zero', "
        'as grow_init says): ((0, 1, 2, 0, 1, 2),) is stack; () leaves a growth to grow_init')
    grow_optimizer: str = setting('keep', "optimizer moments at growth; 'keep': old layers keep theirs, new ones start "
                                  "fresh, 'copy': a copied layer copies its source's too, 'reset': all start fresh",
                                  choices=('keep', 'copy', 'reset'))
    # batch
    total_batch_size: int = setting(524_288, 'tokens per step, over all ranks and micro-steps')
    batch_size: int = setting(32, 'sequences per micro-step and rank', free=True)
    # optimizer
    optimizer: str = setting('adamw', "'adamw', or 'muon' for the matrices of the blocks with AdamW for the rest",
                             choices=('adamw', 'muon'))
    learning_rate: float = setting(6e-4, 'peak learning rate')
    min_lr: float = setting(0.0, 'learning rate at the end of cosine or wsd')
    lr_schedule: str = setting('constant', "'constant', 'cosine', or 'wsd' (warm-up, stable, linear decay), over the "
                               'whole run', choices=('constant', 'cosine', 'wsd'))
    warmup_steps: int = setting(0, 'steps of linear warm-up from 0, in every schedule')
    rewarm_steps: int = setting(0, 'steps of linear warm-up after each growth')
    rewarm: str = setting('all', "what rewarm_steps warm up: 'all', or 'new': only the layers that have just grown",
                          choices=('all', 'new'))
    lr_depth_power: float = setting(0.0, 'learning rate times (depth / n_layer)^-p; No Train No Gain: p = 0.25')
    stage_lr_scale: float | tuple[float, ...] = setting(
        1.0, 'learning rate times this while a stage lasts, up to continual training; one value, or one for each stage')
    decay_fraction: float = setting(0.1, 'wsd: share of all steps, at the end, that decays')
    weight_decay: float = setting(0.1, 'AdamW weight decay, on matrices only')
    beta1: float = setting(0.9, 'AdamW beta1')
    beta2: float = setting(0.95, 'AdamW beta2')
    muon_learning_rate: float = setting(0.02, 'muon: peak learning rate of the matrices of the blocks')
    grad_clip: float = setting(0.0, 'clip the gradient norm to this; 0: never')
    # evaluation
    eval_interval: int = setting(250, 'steps between evaluations of the validation loss; 0: only at the end', free=True)
    val_tokens: int = setting(4_194_304, 'tokens of the validation set, always the same first ones', free=True)
    hellaswag_interval: int = setting(250, 'steps between HellaSwag scorings; 0: never', free=True)
    hellaswag_data: str = setting('', 'JSONL file or URL of HellaSwag-shaped examples; empty: the official validation '
                                  'set from the Hub', free=True)
    hellaswag_limit: int = setting(0, 'score only the first N examples; 0: all', free=True)
    # logs and checkpoints
    log_interval: int = setting(10, 'steps between lines of training loss', free=True)
    checkpoint_interval: int = setting(250, 'steps between checkpoints; 0: only at the end of a stage and of the run',
                                       free=True)
    checkpoint_steps: tuple[int, ...] = setting((), 'further steps to save a checkpoint at; these are kept for good', free=True)
    keep_checkpoints: int = setting(2, 'newest checkpoints to keep (each finished stage is kept beside them)', free=True)
    eval_after_growth: tuple[int, ...] = setting((), 'further evaluations so many steps after each growth, such as 10,30,100,300',
                                                 free=True)
    tracker: str = setting('', "send every record to 'wandb', 'tensorboard' or 'trackio' as well (pip install it first)",
                           choices=('', 'wandb', 'tensorboard', 'trackio'), free=True)
    tracker_project: str = setting('incremental', "the tracker's project", free=True)
    # the machine
    device: str = setting('auto', "'auto' (cuda, else mps, else cpu) or a torch device", free=True)
    dtype: str = setting('auto', "autocast to 'bfloat16' or stay with 'float32'; 'auto': bfloat16 where the hardware "
                         'has it', choices=('auto', 'float32', 'bfloat16'), free=True)
    compile: bool | str = setting('auto', "compile the blocks with torch.compile: True, False or 'auto' (on cuda only)",
                                  choices=('auto',), free=True)


FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}
TYPES = typing.get_type_hints(TrainConfig)


def load_config(argv: list[str], usage: str) -> TrainConfig:
    """The config of a command line: config files from left to right, then --key=value flags.

    `usage` is the script's docstring, printed above the list of settings for --help (which exits with code 0).
    Raises UserError with every problem found: file or flag, name, what is wrong, nearest field.
    """
    if '--help' in argv or '-h' in argv:
        print(usage.strip(), '\n\nSettings, in a config or as --name=value:\n\n' + describe())
        sys.exit(0)
    problems, values, stems = [], {}, []
    for arg in argv:
        if arg.startswith('-'):
            name, equals, text = arg.lstrip('-').partition('=')
            if equals:
                value = parse(text)
            elif name == 'resume':
                value = 'yes'
            elif TYPES.get(name) is bool:
                value = True
            else:
                value = None
                problems += [] if name not in FIELDS else [f'{arg}: a flag needs a value: --{name}=...']
            assign(arg if name not in FIELDS else f'--{name}', name, value, values, problems)
        else:
            stems.append(os.path.splitext(os.path.basename(arg))[0])
            for name, value in read_file(arg, problems).items():
                assign(arg, name, value, values, problems)
    config = TrainConfig(**values)
    if not config.out_dir:
        seed = '' if config.seed == FIELDS['seed'].default else f'_seed{config.seed}'
        config = dataclasses.replace(config, out_dir=os.path.join('out', '_'.join(stems or ['run']) + seed))
    if not config.run_name:
        config = dataclasses.replace(config, run_name=os.path.basename(os.path.normpath(config.out_dir)))
    problems += check(config)
    if problems:
        raise UserError('\n  '.join(['the settings are wrong:'] * (len(problems) > 1) + problems))
    if config.vocab_size == 0:
        config = dataclasses.replace(config, vocab_size=vocab_from_meta(config.data_dir))
    return config


def read_file(path: str, problems: list[str]) -> dict:
    """The public names that a config file assigns, run in an empty namespace."""
    if not os.path.isfile(path):
        problems.append(f'{path}: no such config file')
        return {}
    namespace = {}
    try:  # whatever the user's file does wrong is the user's to read, with the line it happened in
        with open(path, encoding='utf-8') as f:
            exec(compile(f.read(), path, 'exec'), namespace)
    except Exception as error:
        line = getattr(error, 'lineno', None) or getattr(error.__traceback__.tb_next, 'tb_lineno', '?')
        problems.append(f'{path}, line {line}: {type(error).__name__}: {error}')
    return {k: v for k, v in namespace.items() if not k.startswith('_')}


def parse(text: str):
    """The value of a flag: a Python literal where it is one, else the text itself."""
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def assign(where: str, name: str, value, values: dict, problems: list[str]):
    """Put one checked value into `values`, or say in `problems` why not."""
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, 1, 0.5)
        problems.append(f"{where}: no setting is called '{name}'" + (f"; did you mean '{near[0]}'?" if near else ''))
        return
    if value is None:
        return
    choices = FIELDS[name].metadata['choices']
    kinds = kinds_of(TYPES[name])
    fitting = [fitted(value, kind, choices) for kind in kinds]
    fitting = [v for v in fitting if v is not None]
    if not fitting:
        wanted = ' or '.join(kind_text(kind, choices) for kind in kinds)
        problems.append(f'{where}: {name} must be {wanted}, not {value!r}')
        return
    values[name] = fitting[0]


def kinds_of(kind) -> tuple:
    """The types that a field takes, simple ones before tuples."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def fitted(value, kind, choices):
    """`value` as one of type `kind`, None if it is none: a list is a tuple, one item a tuple of one, 1 a 1.0."""
    if typing.get_origin(kind) is not tuple:
        if kind is float and type(value) is int:
            value = float(value)
        if kind is str and not choices and type(value) in (int, float):
            value = str(value)  # --run_name=7
        is_right = type(value) is kind and not (choices and kind is str and value not in choices)
        return value if is_right else None
    item_kind = typing.get_args(kind)[0]
    if typing.get_origin(item_kind) is tuple and type(value) in (list, tuple) and value and type(value[0]) is int:
        value = (value,)  # --grow_map=0,1,0,1 is one growth
    if type(value) is str and choices:
        value = value.split(',')  # --grow_init=stack,zero
    if type(value) not in (list, tuple):
        value = (value,)
    items = [fitted(item, item_kind, choices) for item in value]
    return None if None in items else tuple(items)


def kind_text(kind, choices) -> str:
    """What a field takes, for people."""
    if kind == tuple[tuple[int, ...], ...]:
        return 'a tuple of tuples of int'
    if typing.get_origin(kind) is tuple:
        return 'a tuple of them' if choices else f'a tuple of {typing.get_args(kind)[0].__name__}'
    if kind is str and choices:
        return ' or '.join(repr(choice) for choice in choices)
    return kind.__name__


def values_of(value) -> tuple:
    """The values of a setting that takes one, or one for each stage."""
    return value if type(value) is tuple else (value,)


def check(c: TrainConfig) -> list[str]:
    """Combinations that can't be, each as one line. What needs the number of ranks is checked by train.py."""
    at_least = {1: 'n_layer n_head n_embd block_size n_stages total_batch_size batch_size log_interval val_tokens '
                   'keep_checkpoints',
                0: 'vocab_size init_depth growth_steps baseline_steps warmup_steps rewarm_steps eval_interval '
                   'hellaswag_interval hellaswag_limit checkpoint_interval min_lr weight_decay grad_clip dropout '
                   'phase1_fraction decay_fraction learning_rate muon_learning_rate beta1 beta2 seed lr_depth_power '
                   'stage_lr_scale'}
    problems = []
    for bound, names in at_least.items():
        for name in names.split():
            if not all(value >= bound for value in values_of(getattr(c, name))):
                problems.append(f'{name} must be at least {bound}, not {getattr(c, name)}')
    problems += [f'{name} must be below 1, not {getattr(c, name)}' for name in ('dropout', 'beta1', 'beta2')
                 if getattr(c, name) >= 1]
    problems += [f'{name} must be at most 1, not {getattr(c, name)}' for name in ('phase1_fraction', 'decay_fraction')
                 if any(value > 1 for value in values_of(getattr(c, name)))]
    problems += [f'seed must be below 2**32, not {c.seed}'] if c.seed >= 2**32 else []
    for name in TYPES:
        if any(type(value) is float and math.isinf(value) for value in values_of(getattr(c, name))):
            problems.append(f'{name} must be a finite number')

    def need(ok: bool, text: str):
        if not ok:
            problems.append(text)

    if problems:  # the rest would divide by what is wrong
        return problems
    depths, scratch = c.stage_depths, c.init_from == 'scratch'
    need(c.n_embd % c.n_head == 0, f'n_embd {c.n_embd} is not divisible by n_head {c.n_head}')
    need(c.total_batch_size % (c.batch_size * c.block_size) == 0,
         f'total_batch_size {c.total_batch_size} is not a multiple of batch_size x block_size = '
         f'{c.batch_size} x {c.block_size} = {c.batch_size * c.block_size}')
    need(c.optimizer != 'muon' or c.learning_rate > 0 or c.muon_learning_rate == 0, 'learning_rate 0 would stop Muon too, '
         'whose rate follows its schedule as muon_learning_rate / learning_rate: make it small instead')
    need(c.min_lr <= c.learning_rate, f'min_lr {c.min_lr} is above learning_rate {c.learning_rate}')
    need(c.n_stages <= c.n_layer or depths, f'{c.n_stages} stages need at least as many layers; n_layer is {c.n_layer}')
    need(not depths or len(depths) == c.n_stages, f'stage_depths has {len(depths)} depths, n_stages is {c.n_stages}')
    need(not depths or depths[-1] == c.n_layer, f'stage_depths must end with n_layer {c.n_layer}: {depths}')
    need(all(a < b for a, b in itertools.pairwise((-1, *depths))), f'stage_depths must grow: {depths}')
    for name in ('phase1_fraction', 'grow_init', 'stage_lr_scale'):
        values = getattr(c, name)
        need(type(values) is not tuple or len(values) == c.n_stages,
             f'{name} has {len(values_of(values))} values, n_stages is {c.n_stages}')
    need(not c.stage_steps or len(c.stage_steps) == c.n_stages,
         f'stage_steps has {len(c.stage_steps)} entries, n_stages is {c.n_stages}')
    need(all(s >= 1 for s in c.stage_steps), f'every one of stage_steps must be at least 1: {c.stage_steps}')
    need(not c.stage_fractions or len(c.stage_fractions) == c.n_stages,
         f'stage_fractions has {len(c.stage_fractions)} entries, n_stages is {c.n_stages}')
    need(all(0 <= f <= 1 for f in c.stage_fractions) and sum(c.stage_fractions) <= 1 + 1e-9,
         f'stage_fractions must be shares of 1: {c.stage_fractions}')
    need(not (c.stage_fractions and c.stage_steps), 'stage_fractions and stage_steps exclude each other')
    need(bool(c.stage_steps or c.stage_fractions) or c.growth_steps >= c.n_stages or (c.growth_steps == 0 and c.n_stages == 1),
         f'growth_steps {c.growth_steps} is less than one step for each of {c.n_stages} stages')
    need(type(c.continual_steps) is str or c.continual_steps >= 0,
         f'continual_steps must be at least 0, not {c.continual_steps}')
    # A zero-layer model to grow from must be meant: by stage_depths that begin with 0.
    has_layers = c.init_depth > 0 or depths[:1] == (0,)
    need(c.init_depth == 0 if scratch else has_layers, 'init_from and init_depth go together: init_depth is the number of '
         f'layers of the model to grow from (init_from is {c.init_from!r}, init_depth {c.init_depth})')
    need(scratch or not depths or depths[0] >= c.init_depth,
         f'stage_depths starts below init_depth {c.init_depth}: {depths}')
    need(scratch or c.init_depth <= c.n_layer, f'init_depth {c.init_depth} is above n_layer {c.n_layer}')
    return problems


def vocab_from_meta(data_dir: str) -> int:
    """The vocabulary size that the data's meta.json names, rounded up to a multiple of 64."""
    path = os.path.join(data_dir, 'meta.json')
    missing = f"vocab_size is 0, and {path} doesn't say one: make the data first, or set vocab_size"
    if not os.path.exists(path):
        raise UserError(missing)
    meta = read_json(path, 'a readable meta.json')
    if type(meta) is not dict or type(meta.get('vocab_size')) is not int:
        raise UserError(missing)
    return -(-meta['vocab_size'] // 64) * 64


def describe() -> str:
    """Every setting with its default and its help, one a line."""
    return '\n'.join(f'  --{f.name}={f.default!r}\n        {f.metadata["help"]}' for f in FIELDS.values())


def config_to_dict(config: TrainConfig) -> dict:
    """The config as plain types, for config.json and checkpoints."""
    return {name: as_list(value) for name, value in dataclasses.asdict(config).items()}


def as_list(value):
    """Tuples as lists, which JSON has, inside each other too."""
    return [as_list(item) for item in value] if type(value) is tuple else value


def config_from_dict(values: dict, where: str) -> TrainConfig:
    """The config that config_to_dict wrote. Raises UserError, naming `where`, for anything that is not one."""
    problems, checked = [], {}
    if type(values) is not dict:
        raise UserError(f'{where}: not a saved config')
    for name, value in values.items():
        if name == 'wandb_project':  # of runs before there were other trackers
            if value:
                checked |= {'tracker': 'wandb', 'tracker_project': value}
            continue
        assign(where, str(name), value, checked, problems)
    config = TrainConfig(**checked)
    problems += check(config)
    if problems:
        raise UserError('\n  '.join(['the saved settings are wrong:'] * (len(problems) > 1) + problems))
    return config
