"""
The paper's idea as pure arithmetic: which layers exist and train at which step, at what learning rate, at
what cost. No torch is needed to print the plan of a run:

    python schedule.py CONFIG [CONFIG ...] [--key=value ...] [--tflops=X] [--json] [--figure=plan.png]

--tflops=X (matrix products per second that your machine keeps up, in 1e12) adds the hours. --json prints one
JSON object instead. --figure draws depth over the steps, frozen layers hatched, and what a step costs. At
GPT-2 124M with the head's input path frozen, growing in 8 stages costs .585 of full depth for the same tokens
by the `flops` ledger and .469 by the paper's.

Two ledgers count the compute, both in FLOPs:
  paper   a layer costs c per token forward and the same backward, only layers that train go backward,
          embeddings and head cost nothing (Li, Fung, Huang 2024). c is a layer's forward pass as the other
          ledger counts it.
  flops   every matrix product of the passes that are really done, from the shapes: forward; backward, the
          product for the weight's gradient where the weight trains, and the one for the input's gradient
          where something below still trains. Attention counts as full T x T products (the convention of PaLM
          and nanoGPT). The head is included.
Neither counts the optimizer, as is usual. Muon has matmuls of its own: 9.5% of the FLOPs of the demo's
full-depth step of 2,048 tokens, .4% of GPT-2 124M's of 524,288. Its plan says how many.
"""

import dataclasses
import functools
import itertools
import json
import math
import os
from dataclasses import dataclass

from config import FIELDS, TrainConfig, config_from_dict, load_config
from core.common import Parser, UserError, read_json, run_main, say
from growth import describe, layout, layout_of, problem_with

LEDGERS = ('flops', 'paper')
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


@functools.lru_cache(maxsize=64)  # a study asks for the same plans again and again
def plan(config: TrainConfig) -> list[Phase]:
    """The phases of a run, in order; their steps follow each other without a gap.

    Raises UserError for a plan that can't be: no steps at all or none left for 'equal_compute', a layout that
    is no growth, stages in which nothing grows, an end below n_layer.
    """
    assert not config.match, 'resolve() comes first'
    # 'equal_compute' aims at the compute of a baseline that is at full depth throughout.
    budget = None
    if config.continual_steps == 'equal_compute':
        budget = config.baseline_steps * step_cost(config, config.ledger)
    steps_of_stages, continual = stages_and_continual(config, budget)
    phases = phases_of(config, steps_of_stages, continual)
    check_plan(config, steps_of_stages, phases)
    return phases


def check_plan(config: TrainConfig, steps_of_stages: tuple, phases: list[Phase]):
    """Raise UserError if the phases are not what the settings seem to mean."""
    if not phases:
        what = 'growth_steps and continual_steps are both 0'
        if config.continual_steps == 'equal_compute':
            what = f"baseline_steps, whose compute 'equal_compute' aims at, is {config.baseline_steps}"
        raise UserError(f'there is nothing to do: {what}')
    depth = phases[-1].depth
    if depth < config.n_layer:
        raise UserError(f'the run would end with {depth} of {config.n_layer} layers, since stage '
                        f'{config.n_stages} has no steps: give it some, or leave some to continual training')
    if config.n_stages > 1 and not any(p.growths for p in phases):
        raise UserError(f'nothing grows, although n_stages is {config.n_stages}: all steps are at {depth} '
                        'layers. Give the earlier stages steps and fewer layers, or set n_stages=1')
    # A value that a user wrote for one stage must not vanish with that stage's steps.
    for name, neutral in (('stage_lr_scale', 1.0), ('phase1_fraction', 0.0)):
        values = getattr(config, name)
        for stage, steps in enumerate(steps_of_stages, 1):
            value = of_stage(values, stage)
            if type(values) is tuple and steps == 0 and value != neutral:
                raise UserError(f'{name} of stage {stage} is {value}, but that stage has no steps: give it '
                                f'its share of stage_fractions, or {name} {neutral}')
    check_length(config, total_steps(phases))


def check_length(config: TrainConfig, total: int):
    """Raise UserError if match or equal_compute made a run of `total` steps that no one can have meant."""
    # Steps differ by factors of thousands from one size of model to another, by few between schedules.
    own = sum(config.stage_steps) or config.growth_steps
    own += config.baseline_steps if config.continual_steps == 'equal_compute' else config.continual_steps
    if own and total > 100 * own:
        raise UserError(f'the plan has {total:,} steps, {total / own:,.0f} times the {own:,} of the settings:'
                        ' does what is to be matched lack an overlay that this run has? If it is meant, set '
                        'continual_steps to a number')


def stages_and_continual(config: TrainConfig, budget: int | None) -> tuple[tuple, int]:
    """(steps of each stage, continual steps); with a budget in FLOPs, as many as bring the whole run to it.

    Raises UserError if the stages alone cost more than the budget.
    """
    # Shares scale with the run; stages with steps of their own leave the rest to continual training.
    if config.stage_fractions:
        if budget is None:
            return shares(config, config.growth_steps + config.continual_steps)
        return shares(config, total_for(config, budget))
    steps = stage_steps(config)
    if budget is None:
        return steps, config.continual_steps
    full = step_cost(config, config.ledger)
    spent = compute(config, phases_of(config, steps, 0), config.ledger)
    if spent > budget:
        raise UserError(f'the stages alone cost as much as {spent / full:.0f} full-depth steps, more than '
                        f'the {budget / full:.0f} that are to be matched (baseline_steps, or match): lower '
                        'growth_steps')
    return steps, round((budget - spent) / full)


def total_for(config: TrainConfig, budget: int) -> int:
    """The steps of a run split by stage_fractions whose compute is nearest to a budget in FLOPs.

    Raises UserError if no number of steps has any cost: no layer throughout, by the paper's ledger.
    """
    def cost(total):
        return compute(config, phases_of(config, *shares(config, total)), config.ledger)

    # Long enough that rounding to whole steps hardly changes the cost of a step.
    trial = 10_000
    if cost(trial) == 0:
        raise UserError(f'no number of steps costs anything by the {config.ledger} ledger: give stages with '
                        'layers some steps')
    total = round(budget / (cost(trial) / trial))
    # That is off by what rounding the stages to whole steps did to the trial's.
    while cost(total) < budget:
        total += 1
    while total > 1 and cost(total) > budget:
        total -= 1
    return min((total, total + 1), key=lambda steps: abs(cost(steps) - budget))


def phases_of(config: TrainConfig, steps_of_stages: tuple, continual: int) -> list[Phase]:
    """The phases of a run with so many steps in each stage and after the last one.

    A stage without steps grows all the same, at the step at which the next one does; its layers, which never
    trained, count as new there. From scratch a run begins with the layers of its first stage that has steps.
    """
    phases = []
    step = 0
    can_grow = config.init_from != 'scratch'  # there is a model before the stage
    has_trained = [True] * config.init_depth  # for each layer that exists
    growths, new = (), ()  # growths since the last step; the layers that the latest ones added
    for stage, depth in enumerate(stage_depths(config), 1):
        steps = steps_of_stages[stage - 1]
        if not can_grow:
            has_trained = [False] * depth
        elif depth > len(has_trained):
            growth = growth_of_stage(config, stage, len(has_trained), depth)
            growths += (growth,)
            has_trained = [not is_new and has_trained[source] for source, is_new in growth.layers]
            new = tuple(i for i in range(depth) if not has_trained[i])
        if steps == 0:
            continue
        # Phase 1 trains what has just grown, while what was there before stays as it is.
        frozen = ()
        if growths:
            frozen = tuple(i for i in range(depth) if has_trained[i])
        phase1 = 0
        if frozen:
            phase1 = int(steps * of_stage(config.phase1_fraction, stage))
        middle, stop = step + phase1, step + steps
        if phase1:
            embeddings = config.phase1_embeddings
            phases.append(Phase(stage, 'phase1', step, middle, depth, frozen, embeddings, growths, new))
            growths = ()
        if middle < stop:
            phases.append(Phase(stage, 'phase2', middle, stop, depth, (), 'train', growths, new))
        step = stop
        can_grow, has_trained, growths = True, [True] * depth, ()
    if continual:
        stage, depth, stop = config.n_stages, config.n_layer, step + continual
        phases.append(Phase(stage, 'continual', step, stop, depth, (), 'train', growths, new))
    return phases


def growth_of_stage(config: TrainConfig, stage: int, old_depth: int, depth: int) -> Growth:
    """How a stage grows. Raises UserError, naming the operator or grow_map, if what it says is no growth to
    `depth`.
    """
    init = of_stage(config.grow_init, stage)
    grow_map = map_of_stage(config, stage)
    if grow_map:
        name, where = 'grow_map', f'grow_map {grow_map} of stage {stage}'
        layers = layout_of(grow_map)
        if init not in ('random', 'zero'):
            raise UserError(f"{where} says which layer comes from which: grow_init beside it is 'random' or "
                            f"'zero' (how the layers -1 start), not {init!r}")
    else:
        name, where = init, f'grow_init {init!r} of stage {stage}'
        layers = layout(init, old_depth, depth)
    problem = problem_with(layers, old_depth, depth)
    if problem:
        raise UserError(f'{where} {problem}')
    # What other names for the same growth have in common, so that shared prefixes can compare it.
    fresh = ''
    if any(source is None for source, _ in layers):
        fresh = 'zero' if init == 'zero' else 'random'
    return Growth(stage, old_depth, depth, tuple(layers), fresh, name)


def map_of_stage(config: TrainConfig, stage: int) -> tuple:
    """The entry of grow_map for a stage that grows, () if it leaves the stage to grow_init.

    grow_map has one entry for each growth, or one for each stage. Raises UserError if it has another number
    of them.
    """
    if not config.grow_map:
        return ()
    depths = stage_depths(config)
    growing = []
    for k, depth in enumerate(depths, 1):
        # From scratch the first stage's layers don't grow, they are there.
        before = depths[k - 2] if k > 1 else config.init_depth
        if depth > before and (k > 1 or config.init_from != 'scratch'):
            growing.append(k)
    if len(config.grow_map) == len(growing):
        return config.grow_map[growing.index(stage)]
    if len(config.grow_map) != config.n_stages:
        raise UserError(f'grow_map has {len(config.grow_map)} entries, and the run {len(growing)} growths in '
                        f'{config.n_stages} stages: give it one entry for each growth')
    return config.grow_map[stage - 1]


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


def stage_steps(config: TrainConfig) -> tuple:
    """Steps of each stage; without stage_steps an even split of growth_steps that adds up to it exactly."""
    if config.stage_steps:
        return config.stage_steps
    # Positions are rounded, not lengths, so that the lengths add up.
    cuts = [config.growth_steps * k // config.n_stages for k in range(config.n_stages + 1)]
    return tuple(b - a for a, b in itertools.pairwise(cuts))


def shares(config: TrainConfig, total: int) -> tuple[tuple, int]:
    """(steps of each stage, continual steps) of a run of `total` steps split by stage_fractions."""
    # The sums are rounded, not the shares: so the stages end where they should, and all adds up.
    cuts = [0]
    for fraction in itertools.accumulate(config.stage_fractions):
        cuts.append(round(total * fraction))
    return tuple(b - a for a, b in itertools.pairwise(cuts)), total - cuts[-1]


def total_steps(phases: list[Phase]) -> int:
    return phases[-1].stop


def phase_at(phases: list[Phase], step: int) -> Phase:
    """The phase that update number `step` (from 0) belongs to; the last one for the step after the end."""
    return next((p for p in phases if step < p.stop), phases[-1])


# ----------------------------------------------------------------------------------------------------------
# learning rates


def get_lr(config: TrainConfig, phases: list[Phase], step: int) -> float:
    """Learning rate of update number `step` (from 0): the schedule over the whole run, times the factors of
    growth.

    constant; cosine from the end of the warm-up to min_lr; wsd: constant, then over the last decay_fraction
    of all steps linear to min_lr. All of it times the stage's stage_lr_scale (1 in continual training), times
    (depth / n_layer)^-lr_depth_power (No Train No Gain, arXiv 2307.06440; depth 0 counts as 1) and, with
    rewarm 'all', times rewarming().
    """
    total, low, high = total_steps(phases), config.min_lr, config.learning_rate
    if step < config.warmup_steps:
        # From 1 on: a rate of 0 would waste the first step.
        lr = high * (step + 1) / config.warmup_steps
    elif config.lr_schedule == 'cosine':
        progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        lr = low + (high - low) * (1 + math.cos(math.pi * progress)) / 2
    elif config.lr_schedule == 'wsd':
        lr = low + (high - low) * min(1.0, (total - step) / max(1, config.decay_fraction * total))
    else:
        lr = high
    phase = phase_at(phases, step)
    if phase.phase != 'continual':  # which comes after the last stage
        lr *= of_stage(config.stage_lr_scale, phase.stage)
    if config.lr_depth_power:
        lr *= (max(1, phase.depth) / config.n_layer) ** -config.lr_depth_power
    if config.rewarm == 'all':
        lr *= rewarming(config, phases, step)
    return lr


def get_new_scale(config: TrainConfig, phases: list[Phase], step: int) -> float:
    """The share of get_lr() that the latest layers get: below 1 only where `rewarm` is 'new' and they warm
    up.
    """
    return rewarming(config, phases, step) if config.rewarm == 'new' else 1.0


def rewarming(config: TrainConfig, phases: list[Phase], step: int) -> float:
    """The linear warm-up of rewarm_steps that begins with each growth, at step 0 too, as a factor of 1 or
    less.
    """
    # A run's first layers are no growth: the schedule's own warm-up is for them.
    growths = [p.start for p in phases if p.growths and p.start <= step]
    if not growths or not config.rewarm_steps:
        return 1.0
    return min(1.0, (step - growths[-1] + 1) / config.rewarm_steps)


# ----------------------------------------------------------------------------------------------------------
# the ledgers


def layer_matrices(config: TrainConfig) -> list[tuple[int, int]]:
    """(rows, columns) of each weight matrix of a layer; queries, keys and values apart, as Muon takes them.
    """
    C = config.n_embd
    # Queries, keys, values and their projection; the two of the MLP: 12 C^2 weights.
    return 4 * [(C, C)] + [(4 * C, C), (C, 4 * C)]


def layer_weights(config: TrainConfig) -> int:
    """The weights in a layer's matrices."""
    return sum(rows * columns for rows, columns in layer_matrices(config))


def layer_flops(config: TrainConfig) -> tuple[int, int]:
    """FLOPs per token of a layer's forward pass: (products with weights; attention's two products)."""
    C, T = config.n_embd, config.block_size
    # One multiply and one add for each.
    weights = 2 * layer_weights(config)
    # Each query with T keys, and T weights with the values.
    attention = 2 * 2 * T * C
    return weights, attention


def head_flops(config: TrainConfig) -> int:
    """FLOPs per token of the head's forward pass."""
    return 2 * config.n_embd * config.vocab_size


def token_flops(config: TrainConfig, phase: Phase) -> tuple[int, int]:
    """FLOPs per token of a phase's (forward, backward) pass, by the `flops` ledger."""
    weights, attention = layer_flops(config)
    head = head_flops(config)
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


def token_flops_paper(config: TrainConfig, phase: Phase) -> int:
    """FLOPs per token of a phase by the paper's ledger: forward through all layers, backward through those
    that train.
    """
    passes = phase.depth + (phase.depth - phase.n_frozen)  # forward, backward
    return passes * sum(layer_flops(config))


def compute(config: TrainConfig, phases: list[Phase], ledger: str, step: int | None = None) -> int:
    """FLOPs of the first `step` steps (default: all), by the ledger 'flops' or 'paper'."""
    total = 0
    for phase in phases:
        stop = phase.stop if step is None else min(step, phase.stop)
        if stop <= phase.start:
            continue
        per_token = token_flops_paper(config, phase) if ledger == 'paper' else sum(token_flops(config, phase))
        total += per_token * (stop - phase.start) * config.total_batch_size
    return total


def optimizer_flops(config: TrainConfig, phases: list[Phase]) -> int:
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


def full_depth(config: TrainConfig, steps: int) -> Phase:
    return Phase(1, 'continual', 0, steps, config.n_layer, (), 'train')


def step_cost(config: TrainConfig, ledger: str) -> int:
    """FLOPs of one step at full depth with everything training."""
    return compute(config, [full_depth(config, 1)], ledger)


def trained_parameters(config: TrainConfig, phase: Phase) -> int:
    """Parameters that move in a phase. The tied head, the token embedding's matrix, counts wherever it
    trains.
    """
    C = config.n_embd
    # A layer has 13 C in biases and two norms.
    layer = layer_weights(config) + 13 * C
    parameters = 2 * C + (phase.depth - phase.n_frozen) * layer  # final norm, layers
    if phase.embeddings != 'frozen':
        parameters += config.vocab_size * C
    if phase.embeddings == 'train':
        parameters += config.block_size * C
    return parameters


# ----------------------------------------------------------------------------------------------------------
# match: the same compute as another run; and what a model to grow from has cost


def resolve(config: TrainConfig, matched: tuple = ()) -> TrainConfig:
    """The config with `match` replaced by the steps that it means, so that the plan depends on the config
    alone.

    The run's own stages stay as they are and continual_steps fills up to the other's compute; a run of one
    stage (a baseline) gets as many steps in all. `matched`: what was followed to get here. Raises UserError
    if the other can't be read, costs less than the stages, matches this one in turn, or makes a plan that no
    one can have meant.
    """
    if not config.match:
        return config
    target = tuple(os.path.realpath(part) for part in config.match.split('+'))
    if target in matched:  # configs may match each other in a circle
        raise UserError(f'match={config.match}: it matches itself in the end, so that no compute is said')
    path = os.path.join(config.match, 'config.json')
    if os.path.isfile(path):
        other = load_run_config(config.match)
    else:
        other = resolve(load_config(config.match.split('+'), __doc__, say=None), (*matched, target))
    budget = compute(other, plan(other), config.ledger)
    resolved = with_compute(dataclasses.replace(config, match=''), budget)
    check_length(config, total_steps(plan(resolved)))
    return resolved


def with_compute(config: TrainConfig, budget: int) -> TrainConfig:
    """The config with the continual_steps (without stages: the steps in all) that bring a run to a budget in
    FLOPs.

    By the config's ledger, within half a step. Raises UserError if the stages alone cost more.
    """
    if config.n_stages == 1 and config.init_from == 'scratch':
        # A baseline: its one stage is only the first part of its steps.
        total = max(1, round(budget / step_cost(config, config.ledger)))
        first = min(config.growth_steps, total)
        return dataclasses.replace(config, growth_steps=first, stage_steps=(), continual_steps=total - first)
    steps, continual = stages_and_continual(config, budget)
    if config.stage_fractions:  # they split the whole run
        return dataclasses.replace(config, growth_steps=0, continual_steps=sum(steps) + continual)
    return dataclasses.replace(config, continual_steps=continual)


def load_run_config(run_dir: str) -> TrainConfig:
    """The config that a run was made with. Raises UserError if its config.json is missing or damaged."""
    path = os.path.join(run_dir, 'config.json')
    return config_from_dict(read_json(path, 'a readable config'), path)


def sunk_cost(info: dict) -> dict:
    """What a model to grow from has cost until then, for run.json: path, step, flops, flops_paper, seconds.

    `info`: what checkpoint.load_model() says of it. A checkpoint that was itself grown from another one
    counts that one's cost too, which its run.json knows. Costs are None where they aren't known: weights from
    Hugging Face, and what was grown from them.
    """
    cost = {'path': info['path'], 'step': info['step'], 'flops': None, 'flops_paper': None, 'seconds': None}
    if 'totals' not in info:  # not a checkpoint of ours
        return cost
    config = resolve(config_from_dict(info['config'], info['path']))
    # Of a run that branched from another one this counts the shared prefix too, as its clock does.
    own = {'seconds': info['totals'].get('seconds', 0.0)}
    for name, ledger in (('flops', 'flops'), ('flops_paper', 'paper')):
        own[name] = compute(config, plan(config), ledger, info['step'])
    if config.init_from == 'scratch':
        return cost | own
    run_json = os.path.join(os.path.dirname(info['path']), 'run.json')
    earlier = None
    if os.path.exists(run_json):
        earlier = read_json(run_json, 'a readable run.json').get('init_from')
    if type(earlier) is not dict or earlier.get('flops') is None:
        return cost
    return cost | {name: value + earlier[name] for name, value in own.items()}


def question_epochs(config: TrainConfig, phases: list[Phase], n_tokens: int) -> str:
    """A question to the user if a run sees its `n_tokens` of training data more than 1,000 times, else ''."""
    steps = total_steps(phases)
    epochs = steps * config.total_batch_size / n_tokens
    if epochs <= 1000:
        return ''
    return (f'the plan of {steps:,} steps sees the {n_tokens:,} tokens of {config.data_dir} {epochs:,.0f} '
            'times: is that meant?')


# ----------------------------------------------------------------------------------------------------------
# shared prefixes: the first steps that two runs train alike

# Settings that act through the learning rate alone: it is compared step by step.
SHAPE_RATES = ('min_lr', 'lr_schedule', 'warmup_steps', 'rewarm_steps', 'rewarm', 'decay_fraction',
               'lr_depth_power', 'stage_lr_scale')
# Settings that act only through the plan, the learning rate or the growths, which are compared step by step.
COMPARED_BY_STEP = {
    'n_stages', 'stage_depths', 'growth_steps', 'stage_steps', 'stage_fractions', 'phase1_fraction',
    'phase1_embeddings', 'continual_steps', 'baseline_steps', 'ledger', 'match', 'grow_init', 'grow_map',
    'grow_optimizer', *SHAPE_RATES,
}
# Settings that may change on resume and yet change the order of a sum, or the rounding of a product.
CHANGE_BITS = {'batch_size', 'dtype', 'compile'}


def shared_prefix(a: TrainConfig, b: TrainConfig) -> int:
    """The number of first steps that two configs train alike: on the same hardware, and on as many ranks, the
    state after so many steps is the same bit for bit. Both configs come from resolve()."""
    return prefix_difference(a, b)[0]


def prefix_difference(a: TrainConfig, b: TrainConfig) -> tuple[int, str]:
    """(shared_prefix(a, b), the first difference in words: what, a's and b's value; '' if there is none)."""
    for name, field in FIELDS.items():
        matters = name in CHANGE_BITS or not (field.metadata['free'] or name in COMPARED_BY_STEP)
        # Without Muon it acts on nothing.
        if name == 'muon_learning_rate':
            matters = 'muon' in (a.optimizer, b.optimizer)
        if matters and getattr(a, name) != getattr(b, name):
            return 0, f'{name}: {getattr(a, name)!r} and {getattr(b, name)!r}'
    phases_a, phases_b = plan(a), plan(b)
    # Each pair of phases begins at the same step, since all before them are alike.
    for p, q in zip(phases_a, phases_b):
        if without_growths(p) != without_growths(q):
            return p.start, f'step {p.start}: {phase_text(p)} and {phase_text(q)}'
        if p.growths != q.growths or grown_state(a, p) != grown_state(b, q):
            return p.start, f'growth at step {p.start}: {growth_text(a, p)} and {growth_text(b, q)}'
        stop = min(p.stop, q.stop)
        step = first_other_lr(a, b, p.start, stop)
        if step < stop:
            rates = [lr_text(c, plan(c), step) for c in (a, b)]
            return step, f'learning rate of step {step}: {" and ".join(rates)}'
        if p.stop != q.stop:
            return stop, f'{phase_text(p)}: until step {p.stop} and until step {q.stop}'
    if len(phases_a) != len(phases_b):
        return stop, f'the end: step {total_steps(phases_a)} and step {total_steps(phases_b)}'
    return stop, ''


def without_growths(phase: Phase) -> Phase:
    """A phase apart from how it came about and how long it is."""
    return dataclasses.replace(phase, stop=0, growths=(), new=())


def grown_state(config: TrainConfig, phase: Phase) -> str:
    """What the growths of a phase do to the optimizer state; '' where they do nothing to it."""
    if not phase.growths or phase.start == 0:
        return ''  # there is no state yet
    if config.grow_optimizer != 'copy':
        return config.grow_optimizer
    for growth in phase.growths:
        for source, is_new in growth.layers:
            if is_new and source is not None:
                return 'copy'
    return 'keep'  # nothing is copied


def phase_text(phase: Phase) -> str:
    """A phase in words, without its steps."""
    frozen = f', {phase.n_frozen} frozen' if phase.frozen else ''
    embeddings = '' if phase.embeddings == 'train' else f', embeddings {phase.embeddings}'
    return f'stage {phase.stage} {phase.phase} of {phase.depth} layers{frozen}{embeddings}'


def growth_text(config: TrainConfig, phase: Phase) -> str:
    """How a phase grows, in words."""
    names = [growth.name for growth in phase.growths]
    return f'{", ".join(names)}, optimizer state {config.grow_optimizer}'


def lr_text(config: TrainConfig, phases: list[Phase], step: int) -> str:
    """The learning rate of a step, exactly."""
    scale = get_new_scale(config, phases, step)
    new = '' if scale == 1 else f' ({scale:.3g} of it for new layers)'
    return f'{get_lr(config, phases, step)!r}{new}'


def first_other_lr(a: TrainConfig, b: TrainConfig, start: int, stop: int) -> int:
    """The first step in [start, stop) whose learning rates differ, else stop. Earlier phases are alike."""
    phases_a, phases_b = plan(a), plan(b)
    # learning_rate itself is the same by now: prefix_difference() has compared it.
    if all(getattr(a, name) == getattr(b, name) for name in SHAPE_RATES):
        totals = total_steps(phases_a), total_steps(phases_b)
        if totals[0] == totals[1]:
            return stop
        # Only the totals differ: before the shorter run's decay they can't show, so there is no need to look.
        start = max(start, min(stop, decay_start(a, min(totals))))
    for step in range(start, stop):
        rates_a = get_lr(a, phases_a, step), get_new_scale(a, phases_a, step)
        rates_b = get_lr(b, phases_b, step), get_new_scale(b, phases_b, step)
        if rates_a != rates_b:
            return step
    return stop


def decay_start(config: TrainConfig, total: int) -> int:
    """A step before which the learning rate of a run of `total` steps doesn't depend on `total`."""
    if config.lr_schedule == 'cosine':
        return config.warmup_steps
    if config.lr_schedule == 'wsd':
        return int(total - config.decay_fraction * total)
    return total


# ----------------------------------------------------------------------------------------------------------
# the printed plan


def costs(config: TrainConfig, phases: list[Phase]) -> dict:
    """What some phases take: tokens, and FLOPs by both ledgers."""
    tokens = sum(phase.steps for phase in phases) * config.total_batch_size
    flops, paper = (compute(config, phases, ledger) for ledger in LEDGERS)
    return {'tokens': tokens, 'flops': flops, 'flops_paper': paper}


def full_depth_steps(config: TrainConfig, phases: list[Phase]) -> dict:
    """Steps at full depth, all training, that cost as much as some phases do, by each ledger."""
    return {ledger: compute(config, phases, ledger) / step_cost(config, ledger) for ledger in LEDGERS}


def as_json(config: TrainConfig, phases: list[Phase]) -> dict:
    """The plan as plain types: `phases` and `growths`, one dict each, and `totals`."""
    rows, growths = [], []
    for phase in phases:
        names = ('stage', 'phase', 'start', 'stop', 'depth', 'n_frozen')
        row = {name: getattr(phase, name) for name in names}
        row['trained_parameters'] = trained_parameters(config, phase)
        rows.append(row | costs(config, [phase]))
        for growth in phase.growths:
            row = {name: getattr(growth, name) for name in ('stage', 'old_depth', 'depth')}
            layers = describe(growth.layers)
            growths.append(row | {'step': phase.start, 'operator': growth.name, 'layers': layers})
    equal = {ledger: round(steps, 1) for ledger, steps in full_depth_steps(config, phases).items()}
    weights = 4 * trained_parameters(config, full_depth(config, 1))  # bytes, in float32
    state = 2 * weights  # AdamW's two moments
    if config.optimizer == 'muon':
        state -= 4 * config.n_layer * layer_weights(config)  # for the blocks' matrices Muon has one
    memory = {'weights': weights, 'gradients': weights, 'optimizer': state}
    totals = {'steps': total_steps(phases), **costs(config, phases)}
    totals |= {'flops_optimizer': optimizer_flops(config, phases), 'equal_compute_steps': equal}
    totals['bytes'] = memory
    return {'phases': rows, 'growths': growths, 'totals': totals}


def print_plan(config: TrainConfig, phases: list[Phase], tflops: float):
    """The plan as a table, then the budgets of equal compute, memory, and where the layers come from."""
    print_phases(config, phases, tflops)
    baseline = {ledger: config.baseline_steps * step_cost(config, ledger) for ledger in LEDGERS}
    total = {ledger: compute(config, phases, ledger) for ledger in LEDGERS}
    equal = full_depth_steps(config, phases)
    stages = full_depth_steps(config, [p for p in phases if p.phase != 'continual'])
    left = {ledger: config.baseline_steps - steps for ledger, steps in stages.items()}
    print(f"\nbaseline: {config.baseline_steps} steps at full depth, {baseline['flops']:.4g} FLOPs "
          f"({baseline['paper']:.4g} by the paper's ledger)")
    print(f"this plan: {total['flops']:.4g} FLOPs ({total['paper']:.4g} by the paper's ledger)")
    by_optimizer = optimizer_flops(config, phases)
    if by_optimizer:
        print(f"Muon's own matmuls, in neither ledger: {by_optimizer:.4g} FLOPs a rank, "
              f"{by_optimizer / total['flops']:.1%} of this plan's")
    print(f"equal compute: {equal['flops']:.1f} steps at full depth "
          f"({equal['paper']:.1f} by the paper's ledger)")
    print(f"to reach the baseline's compute the stages leave {left['flops']:.1f} continual steps "
          f"({left['paper']:.1f} by the paper's ledger)")
    memory = as_json(config, phases)['totals']['bytes']
    sizes = []
    for name, size in memory.items():
        sizes.append(f'{name} {size / 1e9:.2f} GB' if size >= 1e7 else f'{name} {size / 1e6:.2f} MB')
    print(f'memory at full depth, before activations: {", ".join(sizes)}')
    print_growths(config, phases)


def print_phases(config: TrainConfig, phases: list[Phase], tflops: float):
    """A row for each phase and one for all of them; hours where the machine's `tflops` are given."""
    hours = f'{"hours":>8}' if tflops else ''
    print(f'{"stage":>5} {"phase":<9} {"steps":>7} {"until":>7} {"depth":>5} {"frozen":>6} {"trained":>12} '
          f'{"tokens":>9} {"FLOPs":>9} {"of baseline":>11}{hours}')
    for phase in phases:
        first = f'{phase.stage:>5} {phase.phase:<9} {phase.steps:>7} {phase.stop:>7} {phase.depth:>5}'
        trained = f'{trained_parameters(config, phase):,}'
        print(f'{first} {phase.n_frozen:>6} {trained:>12} {cost_columns(config, [phase], tflops)}')
    steps = total_steps(phases)
    print(f'{"":>5} {"total":<9} {steps:>7} {steps:>7} {"":>25} {cost_columns(config, phases, tflops)}')


def cost_columns(config: TrainConfig, phases: list[Phase], tflops: float) -> str:
    """Tokens, FLOPs, the share of the baseline's FLOPs, and hours at `tflops`."""
    cost = costs(config, phases)
    baseline = config.baseline_steps * step_cost(config, 'flops')
    share = f'{cost["flops"] / baseline:.1%}' if baseline else '-'
    columns = f'{cost["tokens"]:>9.3g} {cost["flops"]:>9.3g} {share:>11}'
    # 3.6e15 is 1e12 FLOPs a second times the 3,600 seconds of an hour.
    if tflops:
        columns += f'{cost["flops"] / tflops / 3.6e15:>8.2f}'
    return columns


def print_growths(config: TrainConfig, phases: list[Phase]):
    """Which layers each stage keeps, copies and adds. Nothing for a plan without growth."""
    growths = as_json(config, phases)['growths']
    if not growths:
        return
    print("\nlayers from the bottom up: 0 is the old layer 0, +0' a copy of it, +new a fresh one")
    if config.init_from == 'scratch':
        print(f'stage 1, step 0: {phases[0].depth} fresh layers')
    else:
        print(f'init_from, step 0: {config.init_depth} layers')
    for growth in growths:
        where = f'stage {growth["stage"]}, step {growth["step"]}'
        depths = f'{growth["old_depth"]} -> {growth["depth"]}'
        print(f'{where}: {depths} by {growth["operator"]}: {growth["layers"]}')


def main():
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--tflops', type=float, default=0.0)
    parser.add_argument('--figure', default='', type=os.path.expanduser)
    # The rest, --help included, is for load_config(), which knows every setting.
    own, rest = parser.parse_known_args()
    if not 0 <= own.tflops < math.inf:
        raise UserError(f'--tflops={own.tflops}: must be a positive number')
    config = resolve(load_config(rest, __doc__, say=None if own.json else say))
    phases = plan(config)
    if own.json:
        print(json.dumps(as_json(config, phases)))
    else:
        print_plan(config, phases, own.tflops)
    if own.figure:
        from verdict.figure import (
            draw_plan,  # a floor above, and matplotlib with it: for this one option only
        )

        flops = [compute(config, [phase], 'flops') for phase in phases]
        draw_plan(own.figure, phases, flops, config.run_name)
        if not own.json:
            print(f'\n{own.figure} written')


if __name__ == '__main__':
    run_main(main)
