"""
The paper's idea as pure arithmetic: which layers exist and train at which step, at what learning rate, at
what cost. No torch is needed to print the plan of a run:

    python schedule.py CONFIG [CONFIG ...] [--key=value ...] [--figure=plan.png]
    python schedule.py CONFIG --tflops=400 --gpus=8 --price=2.5      hours and money, at 400 TFLOP/s a GPU
    python schedule.py CONFIG --gpu=H100 --mfu=0.4 --gpus=8          the same by the GPU's peak

--figure draws depth over the steps, frozen layers hatched, and what a step costs. At GPT-2 124M with the
head's input path frozen, growing in 8 stages costs .585 of full depth for the same tokens by the `flops`
ledger and .469 by the paper's.

plan(config) is made once: the phases of a run, and a row for each of its steps. Learning rates, FLOPs and the
steps that two runs share are looked up there and computed nowhere else.

Two ledgers count the compute, both in FLOPs; neither counts the optimizer, as is usual:
  paper   a layer costs c per token forward and the same backward, only layers that train go backward,
          embeddings and head cost nothing (Li, Fung, Huang 2024). c is a layer's forward pass as the other
          ledger counts it.
  flops   every matrix product of the passes that are really done, from the shapes: forward; backward, the
          product for the weight's gradient where the weight trains, and the one for the input's gradient
          where something below still trains. Attention counts as full T x T products (the convention of PaLM
          and nanoGPT). The head is included.
"""

import bisect
import dataclasses
import functools
import itertools
import math
import os
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from config import FIELDS, TrainConfig, check, config_from_dict, load_config, load_run_config, raise_problems
from core.common import Parser, UserError, numbered, read_json, run_main, table
from growth import describe, layout, layout_of, problem_with

LONGEST = 10**9  # steps
NEWTON_SCHULZ_STEPS = 5  # core/optim.py's, which would bring torch

@dataclass(frozen=True)
class Growth:
    """The layers that a stage adds, and where."""

    stage: int
    old_depth: int
    depth: int
    layers: tuple  # from the bottom up, each (source, is_new): a layout of growth.py
    fresh: str  # how layers without a source start, 'random' or 'zero'; '' if each has one
    # The operator, or 'grow_map'. Not compared: a map written out is the same growth as the operator.
    name: str = dataclasses.field(compare=False)

@dataclass(frozen=True)
class Phase:
    """Steps [start, stop) in which the same layers exist and the same parameters train."""

    stage: int  # from 1
    phase: str  # 'phase1': only new layers train; 'phase2': all do; 'continual': all do, after the last stage
    start: int
    stop: int
    depth: int
    frozen: tuple  # indices of the blocks that don't train
    embeddings: str  # 'train', 'input_frozen' or 'frozen'
    growths: tuple = ()  # what grows before its first step: one Growth, or more where stages have no steps
    new: tuple = ()  # indices of the blocks that the latest growth added, in this phase or before it

    @property
    def steps(self) -> int:
        return self.stop - self.start

    @property
    def n_frozen(self) -> int:
        return len(self.frozen)

class Row(NamedTuple):
    """What one step does, and what the steps before it have cost."""

    phase: Phase
    lr: float
    new_scale: float  # the share of lr that the latest layers get: below 1 while they alone warm up
    flops: int
    flops_paper: int

@dataclass(frozen=True, eq=False)
class Plan:
    """The phases of a run, and a row for each of its steps, kept as columns."""

    config: TrainConfig
    phases: tuple

    @property
    def total_steps(self) -> int:
        return self.phases[-1].stop

    def row(self, step: int) -> Row:
        """The row of update number `step`, from 0."""
        lr, new_scale = float(self.lr[step]), float(self.new_scale[step])
        return Row(self.phase_at(step), lr, new_scale, self.flops(step), self.flops(step, 'paper'))

    def phase_at(self, step: int) -> Phase:
        """The phase that update number `step` belongs to; the last one for the step after the end."""
        return next((phase for phase in self.phases if step < phase.stop), self.phases[-1])

    def flops(self, step: int | None = None, ledger: str = 'flops') -> int:
        """FLOPs of the first `step` steps (default: all), by the ledger 'flops' or 'paper'."""
        total = 0
        for phase, cost in zip(self.phases, self.step_costs[ledger]):
            stop = phase.stop if step is None else min(step, phase.stop)
            total += cost * max(0, stop - phase.start)
        return total

    @functools.cached_property
    def step_costs(self) -> dict[str, list[int]]:
        """FLOPs of a step of each phase, by ledger. Python's whole numbers: a run has more than 2^63."""
        costs = {}
        for ledger in ('flops', 'paper'):
            costs[ledger] = [step_flops(self.config, phase, ledger) for phase in self.phases]
        return costs

    @functools.cached_property
    def lr(self) -> np.ndarray:
        """The learning rate of each step, float64: the schedule's, times the stage's stage_lr_scale, times
        (depth / n_layer)^-lr_depth_power (No Train No Gain, arXiv 2307.06440; depth 0 counts as 1)."""
        c = self.config
        lr = lr_of_schedule(c, self.total_steps)
        for phase in self.phases:
            if phase.phase != 'continual':  # which comes after the last stage
                lr[phase.start:phase.stop] *= of_stage(c.stage_lr_scale, phase.stage)
            if c.lr_depth_power:
                lr[phase.start:phase.stop] *= (max(1, phase.depth) / c.n_layer) ** -c.lr_depth_power
        return lr * rewarming(c, self.phases) if c.rewarm == 'all' else lr

    @functools.cached_property
    def new_scale(self) -> np.ndarray:
        """The share of lr that the latest layers get, float64: below 1 where `rewarm` is 'new' and they warm
        up."""
        if self.config.rewarm == 'new':
            return rewarming(self.config, self.phases)
        return np.broadcast_to(1.0, self.total_steps)

@functools.lru_cache(maxsize=512)  # a study asks for the same plans again and again
def plan(config: TrainConfig) -> Plan:
    """The plan of a run; the steps of its phases follow each other without a gap.

    Raises UserError for a plan that can't be: no steps at all or none left for 'equal_compute', a layout that
    is no growth, stages in which nothing grows, an end below n_layer, a warm-up without an end.
    """
    assert not config.match, 'resolve() comes first'
    # 'equal_compute' aims at the compute of a baseline that is at full depth throughout.
    n = config.continual_steps
    if n == 'equal_compute':
        n = steps_for(config, config.baseline_steps * step_cost(config, config.ledger))
    elif config.stage_fractions:
        n += config.growth_steps
    made = Plan(config, make_phases(config, n))
    check_plan(made, split_steps(config, n)[0])
    return made

def check_plan(made: Plan, steps_of_stages: tuple):
    """Raise UserError if the phases are not what the settings seem to mean."""
    config, phases = made.config, made.phases
    if not phases:
        raise UserError('there is nothing to do: growth_steps and continual_steps are 0, or baseline_steps, '
                        "at whose compute 'equal_compute' aims")
    depth, n_growths = phases[-1].depth, sum(len(phase.growths) for phase in phases)
    if depth < config.n_layer:
        raise UserError(f'the run would end with {depth} of {config.n_layer} layers, since stage '
                        f'{config.n_stages} has no steps: give it some, or leave some to continual training')
    if config.n_stages > 1 and not n_growths:
        raise UserError(f'nothing grows, although n_stages is {config.n_stages}: all steps are at {depth} '
                        'layers. Give the earlier stages steps and fewer layers, or set n_stages=1')
    if config.grow_map and len(config.grow_map) != n_growths:
        raise UserError(f'grow_map has {len(config.grow_map)} entries, and the run {n_growths} growths: give '
                        'it one for each, or leave it: --grow_map=()')
    # A value that a user wrote for one stage must not vanish with that stage's steps.
    for name, neutral in (('stage_lr_scale', 1.0), ('phase1_fraction', 0.0)):
        values = getattr(config, name)
        for stage, steps in enumerate(steps_of_stages, 1):
            value = of_stage(values, stage)
            if type(values) is tuple and steps == 0 and value != neutral:
                raise UserError(f'{name} of stage {stage} is {value}, but that stage has no steps: give it '
                                f'its share of stage_fractions, or {name} {neutral}')
    # Else the rate jumps at its end, or never reaches its peak. Where all decays, the first tenth may.
    warmup, total = config.warmup_steps, made.total_steps
    decay = config.decay_fraction * total if config.lr_schedule == 'wsd' else 0
    if warmup > total or total - warmup < 0.9 * decay:
        raise UserError(f'warmup_steps {warmup} is too long for a run of {total} steps, of which the last '
                        f'{decay:.0f} decay')

def make_phases(config: TrainConfig, n: int) -> tuple:
    """The phases of a run of n continual steps; with stage_fractions, of n steps in all.

    A stage without steps grows all the same, at the step at which the next one does; its layers, which never
    trained, count as new there. From scratch a run begins with the layers of its first stage that has steps.
    """
    steps_of_stages, continual = split_steps(config, n)
    phases = []
    step, n_growths = 0, 0
    # For each layer that exists, whether it has trained; None before there is a model.
    has_trained = None if config.init_from == 'scratch' else [True] * config.init_depth
    growths, new = (), ()  # growths since the last step; the layers that the latest ones added
    for stage, (depth, steps) in enumerate(zip(stage_depths(config), steps_of_stages), 1):
        if has_trained is not None and depth > len(has_trained):
            grow_map = config.grow_map[n_growths] if n_growths < len(config.grow_map) else ()
            init = of_stage(config.grow_init, stage)
            growth = make_growth(stage, len(has_trained), depth, init, grow_map)
            growths += (growth,)
            n_growths += 1
            has_trained = [not is_new and has_trained[source] for source, is_new in growth.layers]
            new = tuple(i for i in range(depth) if not has_trained[i])
        if steps == 0:
            continue
        # Phase 1 trains what has just grown, while what was there before stays as it is.
        frozen = tuple(i for i in range(depth) if has_trained[i]) if growths else ()
        share = of_stage(config.phase1_fraction, stage) if frozen else 0.0
        middle, stop = step + int(steps * share + 1e-9), step + steps  # .29 of 100 steps is 28.999...
        if step < middle:
            embeddings = config.phase1_embeddings
            phases.append(Phase(stage, 'phase1', step, middle, depth, frozen, embeddings, growths, new))
            growths = ()
        if middle < stop:
            phases.append(Phase(stage, 'phase2', middle, stop, depth, (), 'train', growths, new))
        step = stop
        has_trained, growths = [True] * depth, ()
    if continual:
        stage, depth, stop = config.n_stages, config.n_layer, step + continual
        phases.append(Phase(stage, 'continual', step, stop, depth, (), 'train', growths, new))
    return tuple(phases)

@functools.lru_cache(maxsize=512)
def make_growth(stage: int, old_depth: int, depth: int, init: str, grow_map: tuple) -> Growth:
    """How a stage grows: as grow_map says, or by the operator `init`. Raises UserError, naming it, if that is
    no growth to `depth`."""
    name, hint = f'grow_init {init!r}', ''
    if grow_map:
        name, hint = f'grow_map {grow_map}', '; --grow_map=() leaves the growth to grow_init'
    if grow_map and init not in ('random', 'zero'):
        raise UserError(f"{name} of stage {stage} needs grow_init 'random' or 'zero' (how the layers -1 "
                        f'start) beside it, not {init!r}{hint}')
    layers = tuple(layout_of(grow_map) if grow_map else layout(init, old_depth, depth))
    problem = problem_with(layers, old_depth, depth)
    if problem:
        raise UserError(f'{name} of stage {stage} {problem}{hint}')
    # What other names for the same growth have in common, so that shared prefixes can compare it.
    fresh = ''
    if any(source is None for source, _ in layers):
        fresh = 'zero' if init == 'zero' else 'random'
    return Growth(stage, old_depth, depth, layers, fresh, 'grow_map' if grow_map else init)

def of_stage(value, stage: int):
    """The value for a stage (from 1) of a setting that has one for all, or one for each."""
    return value[stage - 1] if type(value) is tuple else value

def stage_depths(config: TrainConfig) -> tuple:
    """Depth of each stage; without stage_depths layers are spread as evenly as they go, early ones first."""
    if config.stage_depths:
        return config.stage_depths
    to_grow = config.n_layer - config.init_depth
    depths = []
    for k in range(1, config.n_stages + 1):
        depths.append(config.init_depth + -(-to_grow * k // config.n_stages))  # rounded up
    return tuple(depths)

def split_steps(config: TrainConfig, n: int) -> tuple[tuple, int]:
    """(steps of each stage, continual steps) of a run of n continual steps; with stage_fractions, of n steps
    in all."""
    if config.stage_steps:
        return config.stage_steps, n
    if config.stage_fractions:  # shares of the whole run, what they leave is continual
        ends = [round(n * share) for share in itertools.accumulate(config.stage_fractions)]
    else:  # an even split of growth_steps
        ends = [config.growth_steps * k // config.n_stages for k in range(1, config.n_stages + 1)]
    # Ends are rounded, not lengths, so that the lengths add up.
    steps = tuple(b - a for a, b in itertools.pairwise([0, *ends]))
    return steps, n - ends[-1] if config.stage_fractions else n

# ----------------------------------------------------------------------------------------------------------
# columns of the learning rate

def lr_of_schedule(config: TrainConfig, total: int) -> np.ndarray:
    """The learning rate of each of `total` steps by lr_schedule and warm-up alone."""
    steps = np.arange(total)
    low, high, warmup = config.min_lr, config.learning_rate, config.warmup_steps
    lr = np.full(total, float(high))
    if config.lr_schedule == 'cosine':
        progress = (steps - warmup) / max(1, total - warmup)
        # Python's cosine: numpy's has other last bits on other processors.
        cosine = np.array([math.cos(x) for x in (math.pi * progress).tolist()])
        lr = low + (high - low) * (1 + cosine) / 2
    elif config.lr_schedule == 'wsd':
        lr = low + (high - low) * np.minimum(1.0, (total - steps) / max(1, config.decay_fraction * total))
    if warmup:
        # From 1 on: a rate of 0 would waste the first step.
        lr[:warmup] = high * (steps[:warmup] + 1) / warmup
    return lr

def rewarming(config: TrainConfig, phases: tuple) -> np.ndarray:
    """For each step the linear warm-up of rewarm_steps that begins with each growth, at step 0 too, as a
    factor of 1 or less."""
    steps = np.arange(phases[-1].stop)
    factor = np.ones(len(steps))
    # A run's first layers are no growth: the schedule's own warm-up is for them.
    for phase in phases:
        if phase.growths and config.rewarm_steps:
            since = steps[phase.start:] - phase.start
            factor[phase.start:] = np.minimum(1.0, (since + 1) / config.rewarm_steps)
    return factor

# ----------------------------------------------------------------------------------------------------------
# the ledgers

def layer_matrices(config: TrainConfig) -> list[tuple[int, int]]:
    """(rows, columns) of each weight matrix of a layer; queries, keys and values apart, as Muon takes
    them."""
    C = config.n_embd
    # Queries, keys, values and their projection; the MLP's. Of GPT-2 12 C^2 weights.
    if config.arch == 'gpt2':
        return 4 * [(C, C)] + [(4 * C, C), (C, 4 * C)]
    n, n_kv, n_ff = config.n_head * config.head_dim, config.n_kv_head * config.head_dim, config.n_ff
    return [(n, C), (n_kv, C), (n_kv, C), (C, n), (n_ff, C), (n_ff, C), (C, n_ff)]

def layer_weights(config: TrainConfig) -> int:
    """The weights in a layer's matrices."""
    return sum(rows * columns for rows, columns in layer_matrices(config))

def layer_flops(config: TrainConfig) -> tuple[int, int]:
    """FLOPs per token of a layer's forward pass: (products with weights; attention's two products)."""
    all_heads = layer_matrices(config)[0][0]  # numbers in a token's queries
    # One multiply and one add for each weight; each query with T keys, and T weights with the values.
    return 2 * layer_weights(config), 2 * 2 * config.block_size * all_heads

def token_flops(config: TrainConfig, phase: Phase) -> tuple[int, int]:
    """FLOPs per token of a phase's (forward, backward) pass, by the `flops` ledger."""
    weights, attention = layer_flops(config)
    head = 2 * config.n_embd * config.vocab_size  # its forward pass
    forward = phase.depth * (weights + attention) + head
    # The graph reaches down to the first layer that trains; through all of them if the embeddings train.
    trained = [i for i in range(phase.depth) if i not in phase.frozen]
    lowest = 0 if phase.embeddings == 'train' else min(trained, default=phase.depth)
    # The gradient of lm_head's input is always needed, that of its weight only if the embedding trains.
    backward = head if phase.embeddings == 'frozen' else 2 * head
    for i in range(lowest, phase.depth):
        # It multiplies activations only, so both gradients are needed even in a frozen layer.
        backward += 2 * attention
        backward += weights if i in phase.frozen else 2 * weights
    return forward, backward

def step_flops(config: TrainConfig, phase: Phase, ledger: str) -> int:
    """FLOPs of one step of a phase."""
    per_token = sum(token_flops(config, phase))
    if ledger == 'paper':  # forward through all layers, backward through those that train
        per_token = (2 * phase.depth - phase.n_frozen) * sum(layer_flops(config))
    return per_token * config.total_batch_size

def optimizer_flops(config: TrainConfig, phases) -> int:
    """FLOPs of Muon's own matmuls in some phases, which are in neither ledger; each rank does them all. 0
    under AdamW, which has none.

    A Newton-Schulz iteration of a matrix n x m, n <= m, multiplies it by its transpose (n x n), that square
    by itself, and the sum of both by the matrix (core/optim.py).
    """
    if config.optimizer != 'muon':
        return 0
    per_layer = 0
    for shape in layer_matrices(config):
        n, m = sorted(shape)
        per_layer += NEWTON_SCHULZ_STEPS * (4 * n * n * m + 2 * n**3)
    return sum(phase.steps * (phase.depth - phase.n_frozen) * per_layer for phase in phases)

def full_depth(config: TrainConfig) -> Phase:
    """One step at full depth with everything training."""
    return Phase(1, 'continual', 0, 1, config.n_layer, (), 'train')

def step_cost(config: TrainConfig, ledger: str) -> int:
    """FLOPs of one step at full depth with everything training."""
    return step_flops(config, full_depth(config), ledger)

def trained_parameters(config: TrainConfig, phase: Phase) -> int:
    """Parameters that move in a phase. A tied head, the token embedding's matrix, counts wherever it trains.
    Qwen's biases and norms of queries and keys, which only a checkpoint shows, are left out."""
    C, embedding = config.n_embd, config.n_embd * config.vocab_size
    # The vectors: GPT-2's layer has 13 C in biases and two norms, the final norm a bias too.
    of_layer, of_end = (13 * C, 2 * C) if config.arch == 'gpt2' else (2 * C, C)
    parameters = of_end + (phase.depth - phase.n_frozen) * (layer_weights(config) + of_layer)
    if phase.embeddings != 'frozen':
        parameters += embedding
    if phase.embeddings == 'train':
        parameters += config.block_size * C if config.arch == 'gpt2' else 0
        parameters += 0 if config.tie_embeddings else embedding
    return parameters

# ----------------------------------------------------------------------------------------------------------
# budgets: as many steps as cost so much

def steps_for(config: TrainConfig, budget: int) -> int:
    """The continual steps (with stage_fractions, the steps in all) that bring a run nearest to a budget in
    FLOPs, by the config's ledger.

    Raises UserError if the stages alone cost more, or no number of steps costs as much.
    """
    def cost(n):
        return Plan(config, make_phases(config, n)).flops(ledger=config.ledger)

    full, stages = step_cost(config, config.ledger), cost(0)
    if stages > budget:
        raise UserError(f'the stages alone cost as much as {stages / full:.0f} full-depth steps, more than '
                        f'the {budget / full:.0f} that are to be matched (baseline_steps, or match): lower '
                        'growth_steps')
    if not config.stage_fractions:
        return round((budget - stages) / full)
    n = bisect.bisect_left(range(LONGEST), budget, key=cost)
    if n == LONGEST:
        raise UserError(f'no number of steps costs as much by the {config.ledger} ledger: give stages with '
                        'layers some steps')
    return min((max(0, n - 1), n), key=lambda steps: abs(cost(steps) - budget))

def fit(config: TrainConfig, budget: int) -> TrainConfig:
    """The config with the continual_steps (without stages: the steps in all) that bring a run to a budget in
    FLOPs.

    By the config's ledger, within half a step. Raises UserError as steps_for() does.
    """
    if config.n_stages == 1 and config.init_from == 'scratch':
        # A baseline: its one stage is only the first part of its steps.
        total = max(1, round(budget / step_cost(config, config.ledger)))
        first = min(config.growth_steps, total)
        return dataclasses.replace(config, growth_steps=first, stage_steps=(), continual_steps=total - first)
    steps = steps_for(config, budget)
    if config.stage_fractions:  # they split the whole run
        return dataclasses.replace(config, growth_steps=0, continual_steps=steps)
    return dataclasses.replace(config, continual_steps=steps)

def resolve(config: TrainConfig, matched: tuple = ()) -> TrainConfig:
    """The config with what other runs decide: `match` replaced by the steps that it means (see fit()),
    init_depth by the layers that init_from has. `matched`: what was followed to get here.

    Raises UserError if the other can't be read, costs less than the stages or matches this one in turn.
    """
    if config.init_from != 'scratch' and config.init_depth == 0:
        config = dataclasses.replace(config, init_depth=depth_of(config.init_from))
        raise_problems('the settings are wrong:', check(config))
    if not config.match:
        return config
    target = tuple(os.path.realpath(part) for part in config.match.split('+'))
    if target in matched:  # configs may match each other in a circle
        raise UserError(f'match={config.match}: it matches itself in the end, so that no compute is said')
    if os.path.isfile(os.path.join(config.match, 'config.json')):
        other = resolve(load_run_config(config.match))
    else:
        other = resolve(load_config(config.match.split('+'), __doc__, say=None), (*matched, target))
    return fit(dataclasses.replace(config, match=''), plan(other).flops(ledger=config.ledger))

HUB_DEPTHS = {'gpt2': 12, 'gpt2-medium': 24, 'gpt2-large': 36, 'gpt2-xl': 48}

def depth_of(init_from: str) -> int:
    """The layers of a model to grow from: of a checkpoint or run directory of ours by its plan, else as its
    config.json says. Raises UserError if neither says it."""
    if init_from in HUB_DEPTHS:
        return HUB_DEPTHS[init_from]
    folder, name = (init_from, '') if os.path.isdir(init_from) else os.path.split(init_from)
    path = os.path.join(folder, 'config.json')
    values = read_json(path, 'a readable config') if os.path.exists(path) else {}
    if 'model_type' in values:  # Hugging Face's
        name, depth = '', values.get('n_layer', values.get('num_hidden_layers'))
        if type(depth) is int:
            return depth
    elif numbered(folder, 'ckpt_', '.pt') and not name:
        name = os.path.basename(numbered(folder, 'ckpt_', '.pt')[-1][1])
    found = re.fullmatch(r'(ckpt|stage)_(\d+)\.pt', name)
    if not found or not values:
        raise UserError(f'init_from {init_from}: no file there says how many layers it has: set init_depth '
                        '(of a model of the Hub, too)')
    config = resolve(config_from_dict(values, path))
    if found[1] == 'stage':
        return stage_depths(config)[int(found[2]) - 1]
    return plan(config).phase_at(max(0, int(found[2]) - 1)).depth

# ----------------------------------------------------------------------------------------------------------
# shared prefixes: the first steps that two runs train alike

# Settings that may change on resume and yet change the order of a sum, or the rounding of a product.
CHANGE_BITS = {'batch_size', 'dtype', 'compile'}
IN_ROWS = ('growth', 'schedule')  # settings that act through the rows alone, which are compared

def shared_prefix(a: TrainConfig, b: TrainConfig) -> int:
    """The number of first steps that two configs of resolve() train alike: on the same hardware, and on as
    many ranks, the state after so many steps is the same bit for bit."""
    if any(FIELDS[name].metadata['group'] not in IN_ROWS for name in different(a, b)):
        return 0
    return first_other_row(plan(a), plan(b))

def different(a: TrainConfig, b: TrainConfig) -> list[str]:
    """The settings that act on training and differ."""
    names = []
    for name, field in FIELDS.items():
        acts = name in CHANGE_BITS or not field.metadata['free']
        if name == 'muon_learning_rate':
            acts = 'muon' in (a.optimizer, b.optimizer)
        if acts and getattr(a, name) != getattr(b, name):
            names.append(name)
    return names

def prefix_difference(a: TrainConfig, b: TrainConfig) -> tuple[int, str]:
    """(shared_prefix(a, b), what differs in words: each setting with a's and b's value)."""
    words = [f'{name} {getattr(a, name)!r} and {getattr(b, name)!r}' for name in different(a, b)]
    return shared_prefix(a, b), ', '.join(words)

def first_other_row(a: Plan, b: Plan) -> int:
    """The first step that two plans train otherwise, or that only one of them has; their end if there is
    none."""
    stop = min(a.total_steps, b.total_steps)
    # Each pair of phases begins at the same step, since all before them are alike.
    for p, q in zip(a.phases, b.phases):
        if what_trains(a.config, p) != what_trains(b.config, q):
            stop = min(stop, p.start)
        if stop <= p.start or p.stop != q.stop:
            stop = min(stop, p.stop, q.stop)
            break
    for one, other in ((a.lr, b.lr), (a.new_scale, b.new_scale)):
        differ = one[:stop] != other[:stop]
        if differ.any():
            stop = int(differ.argmax())
    return stop

def what_trains(config: TrainConfig, phase: Phase) -> tuple:
    """What a row says of a phase beside its learning rates, with the growth before its first step and what
    that does to the optimizer state."""
    layers = itertools.chain(*(growth.layers for growth in phase.growths))
    copied = [source for source, is_new in layers if is_new]
    state = config.grow_optimizer
    if state == 'copy' and copied.count(None) == len(copied):
        state = 'keep'  # nothing is copied
    if not phase.growths or phase.start == 0:
        state = ''  # there is none yet
    return phase.stage, phase.phase, phase.depth, phase.frozen, phase.embeddings, phase.growths, state

# ----------------------------------------------------------------------------------------------------------
# the printed plan

def memory(config: TrainConfig) -> dict[str, int]:
    """Bytes at full depth in float32: 'weights', 'gradients', 'optimizer'."""
    weights = 4 * trained_parameters(config, full_depth(config))
    state = 2 * weights  # AdamW's two moments
    if config.optimizer == 'muon':
        state -= 4 * config.n_layer * layer_weights(config)  # for the blocks' matrices Muon has one
    return {'weights': weights, 'gradients': weights, 'optimizer': state}

def print_plan(made: Plan, speed: float):
    """The plan as a table, then its compute, memory, and where the layers come from.

    `speed`: FLOP/s of all GPUs together, for the hours; 0 for none.
    """
    config = made.config
    print_phases(made, speed)
    flops, paper = made.flops(), made.flops(ledger='paper')
    equal, equal_paper = flops / step_cost(config, 'flops'), paper / step_cost(config, 'paper')
    print(f"\nthis plan: {flops:.4g} FLOPs ({paper:.4g} by the paper's ledger), as many as {equal:.1f} steps "
          f'at full depth ({equal_paper:.1f})')
    optimizer = optimizer_flops(config, made.phases)
    if optimizer:
        print(f"Muon's own matmuls, in neither ledger: {optimizer:.4g} FLOPs a rank, {optimizer / flops:.1%} "
              "of this plan's")
    sizes = []
    for name, size in memory(config).items():
        sizes.append(f'{name} {size / 1e9:.2f} GB' if size >= 1e7 else f'{name} {size / 1e6:.2f} MB')
    print(f'memory at full depth, before activations: {", ".join(sizes)}')
    if config.n_stages == 1 and config.init_from == 'scratch':
        return
    print("\nlayers from the bottom up: 0 is the old layer 0, +0' a copy of it, +new a fresh one")
    first, what = config.init_depth, 'layers of init_from'
    if config.init_from == 'scratch':
        first, what = made.phases[0].depth, 'fresh layers'
    print(f'step 0: {first} {what}')
    for phase in made.phases:
        for growth in phase.growths:
            print(f'stage {growth.stage}, step {phase.start}: {growth.old_depth} -> {growth.depth} by '
                  f'{growth.name}: {describe(growth.layers)}')

def print_phases(made: Plan, speed: float):
    """A row for each phase and one for all of them."""
    config = made.config
    baseline = config.baseline_steps * step_cost(config, 'flops')
    lines = []
    for phases in [(phase,) for phase in made.phases] + [made.phases]:
        first, last = phases[0], phases[-1]
        flops = Plan(config, phases).flops()
        line = [first.stage, first.phase, first.steps, first.stop, first.depth, first.n_frozen,
                f'{trained_parameters(config, first):,}']
        if phases is made.phases:
            line = ['', 'total', last.stop, last.stop, '', '', '']
        line.append(f'{(last.stop - first.start) * config.total_batch_size:.3g}')
        line += [f'{flops:.3g}', f'{flops / baseline:.1%}' if baseline else '-']
        if speed:
            line.append(f'{flops / speed / 3600:.2f}')
        lines.append(line)
    header = ['stage', 'phase', 'steps', 'until', 'depth', 'frozen', 'trained', 'tokens', 'FLOPs',
              'of baseline', 'hours'][:len(lines[0])]
    print(table(header, lines, 'rl' + 'r' * (len(header) - 2)))

def speed_of(own) -> float:
    """FLOP/s of all GPUs together by the flags, 0 if they don't say. Raises UserError for a GPU that isn't in
    the table."""
    if own.tflops or not own.mfu:
        return own.tflops * 1e12 * own.gpus
    from core.device import peak_of  # torch comes with it: for this one option only

    peak = peak_of(own.gpu)
    if peak is None:
        raise UserError(f'--gpu={own.gpu}: its peak is not known; give --tflops, what one GPU keeps up')
    return peak * own.mfu * own.gpus

def main():
    parser = Parser(add_help=False, allow_abbrev=False)
    for name, default in (('tflops', 0.0), ('mfu', 0.0), ('price', 0.0), ('gpus', 1)):
        parser.add_argument(f'--{name}', type=type(default), default=default)
    parser.add_argument('--gpu', default='H100')
    parser.add_argument('--figure', default='', type=os.path.expanduser)
    # The rest, --help included, is for load_config(), which knows every setting.
    own, rest = parser.parse_known_args()
    for name in ('tflops', 'mfu', 'price', 'gpus'):
        value = getattr(own, name)
        if not 0 <= value < math.inf or (name == 'mfu' and value > 1):
            raise UserError(f'--{name}={value}: must be a positive number, for --mfu at most 1')
    made = plan(resolve(load_config(rest, __doc__)))
    speed = speed_of(own)
    if own.price and not speed:
        raise UserError('--price needs --mfu or --tflops, from which the hours follow')
    print_plan(made, speed)
    if speed:
        hours = made.flops() / speed / 3600
        money = f', {hours * own.gpus * own.price:,.2f} at {own.price:g} an hour and GPU' if own.price else ''
        print(f'\n{hours:.2f} hours of training on {own.gpus} GPUs at {speed / own.gpus / 1e12:.4g} TFLOP/s '
              f'each{money}')
    if own.figure:
        from core.plot import draw_plan  # matplotlib comes with it

        draw_plan(own.figure, made, made.config.run_name)
        print(f'\n{own.figure} written')

if __name__ == '__main__':
    run_main(main)
