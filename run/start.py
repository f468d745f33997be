"""Where a run begins: at step 0, at its own newest checkpoint, or at another run's whose first steps are the
same; and the dry run before it."""

import dataclasses
import gc
import os
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

import schedule
from config import FIELDS, TrainConfig, config_from_dict, config_to_dict, load_run_config, text_of
from core import data, device
from core.common import UserError, numbered, say
from core.optim import load_optimizer_state, make_optimizers, optimizer_state
from model import GPT
from run import checkpoint
from run.log import read_run_json

@dataclass(frozen=True)
class Job:
    """What stays the same throughout a run: what is asked for, and where this process runs."""

    config: TrainConfig
    plan: schedule.Plan
    rank: int
    world_size: int
    device: torch.device
    store: dist.Store | None  # where several ranks have met
    amp: object  # the context of every forward pass: autocast, or nothing
    compiled: bool
    sequences_per_step: int  # of all ranks
    grad_accum_steps: int  # micro-steps of this rank
    train: data.Split
    val_sets: dict  # name of the loss in metrics.jsonl -> (split, how many of its first sequences)
    tokenizer: str
    fingerprint: dict  # token counts and checksums of both splits
    lock: object  # held while the run is in out_dir
    writer: checkpoint.CheckpointWriter
    examples: list = dataclasses.field(default_factory=list)  # HellaSwag's, as tokens
    questions: dict | None = None  # what tells these examples from others

@dataclass
class State:
    """The state of a run, beside its config: after `step` updates."""

    step: int
    model: GPT
    optimizers: list
    clock: dict  # seconds of training, and of what stops it: 'seconds', 'eval_seconds', 'checkpoint_seconds'
    init_from: dict | None = None  # at step 0: what the weights have cost until now

def open_data(config, sequences_per_step: int) -> tuple:
    """(training split, validation sets, tokenizer). A validation set is (split, how many of its first
    sequences are evaluated), by the name that its loss has in metrics.jsonl."""
    train_split = data.Split(config.data_dir, 'train', config.block_size, config.vocab_size)
    meta = data.read_meta(config.data_dir)
    if meta['vocab_size'] > config.vocab_size:
        raise UserError(f'vocab_size {config.vocab_size} is less than the {meta["vocab_size"]} of '
                        f'{config.data_dir}')
    if train_split.n_sequences < sequences_per_step:
        raise UserError(f'{config.data_dir} holds {train_split.n_sequences} training sequences, one step '
                        f'takes {sequences_per_step}')
    val = data.Split(config.data_dir, 'val', config.block_size, config.vocab_size)
    val_sequences = config.val_tokens // config.block_size
    if not 1 <= val_sequences <= val.n_sequences:
        raise UserError(f'val_tokens {config.val_tokens} asks for {val_sequences} sequences of '
                        f'{config.block_size} tokens; {config.data_dir} holds {val.n_sequences}')
    val_sets = {'val_loss': (val, val_sequences)}
    for entry in config.val_dirs:
        name, folder = entry.split(':', 1)
        folder = os.path.expanduser(folder)
        other = data.Split(folder, 'val', config.block_size, config.vocab_size)
        tokenizer = data.read_meta(folder)['tokenizer']
        if tokenizer != meta['tokenizer']:
            raise UserError(f'val_dirs {folder}: in tokens of {tokenizer!r}, and {config.data_dir} in tokens '
                            f'of {meta["tokenizer"]!r}')
        val_sets[f'val_loss_{name}'] = other, min(val_sequences, other.n_sequences)
    return train_split, val_sets, meta['tokenizer']

def find_start(job: Job) -> tuple[dict | None, str]:
    """(the checkpoint to go on from or None to start at step 0, the run directory that it comes from if it's
    another's). All ranks are joined, and agree on it.

    Raises UserError where out_dir, `resume`, `branch_from` and the data don't fit together.
    """
    config = job.config
    saved, prefix_dir = find_checkpoint(config)
    if job.world_size > 1:
        device.init_distributed(job.device, job.rank, job.world_size, job.store)
        # Another out_dir on another node would else come to light at the first resume, days later.
        steps = [None] * job.world_size
        dist.all_gather_object(steps, saved['step'] if saved else None)
        if len(set(steps)) > 1:
            raise UserError(f'the ranks see different checkpoints in {config.out_dir} (steps {steps}): '
                            'out_dir must be on a file system that all nodes share')
    if saved:
        check_same_data(job, saved, prefix_dir or config.out_dir)
        if not prefix_dir:
            check_same_run(job, saved)
    return saved, prefix_dir

def find_checkpoint(config: TrainConfig) -> tuple[dict | None, str]:
    """find_start(), as far as the files say it."""
    out_dir = config.out_dir
    found = checkpoint.latest(out_dir) if config.resume else None
    if found:
        return found[1], ''
    if config.resume == 'yes':
        raise UserError(f'{out_dir} holds no checkpoint to resume from; --resume=auto would start anew')
    # As little of a run as a checkpoint that was copied there.
    found = numbered(out_dir, 'ckpt_', '.pt') or numbered(out_dir, 'stage_', '.pt')
    for name in ('config.json', 'metrics.jsonl'):
        found = found or os.path.exists(os.path.join(out_dir, name))
    if found and not config.resume:
        raise UserError(f'{out_dir} already holds a run: go on with --resume, or choose another --out_dir')
    # Only without a checkpoint of its own: a branch that is resumed is past the step where it began.
    return find_prefix(config) if config.branch_from else (None, '')

def find_prefix(config: TrainConfig) -> tuple[dict, str]:
    """(the checkpoint that branch_from means, its run directory). Raises UserError if this run wouldn't get
    there."""
    path = config.branch_from
    # A branch has a step of its own at least, and so an end of its own.
    last = schedule.plan(config).total_steps - 1
    if os.path.isdir(path):
        run_dir = path
        shared = schedule.shared_prefix(schedule.resolve(load_run_config(path)), config)
        # The newest one that both runs would have: it spares the most steps.
        found = checkpoint.latest(path, min(shared, last)) or checkpoint.latest(path)
        if found is None:
            raise UserError(f'branch_from {path}: holds no checkpoint')
        path, saved = found
    else:
        run_dir = os.path.dirname(path) or '.'  # for a file in the current folder
        saved = checkpoint.read_checkpoint(path)
    # A run may have been made longer since it saved this: the checkpoint knows the settings that led to it.
    there = schedule.resolve(config_from_dict(saved['config'], path))
    shared, difference = schedule.prefix_difference(there, config)
    problem = ''
    if saved['step'] > min(shared, last):
        problem = (f'is at step {saved["step"]} of {last + 1}, and the two runs share only their first '
                   f'{shared} steps; what differs, there and here: {difference}')
    elif not saved['optimizer']:
        problem = 'holds no optimizer state, without which the run would not be the same'
    elif not os.path.isfile(os.path.join(run_dir, 'metrics.jsonl')):
        problem = 'there is no metrics.jsonl beside it, with which that of this run begins'
    if problem:
        raise UserError(f'branch_from {path}: {problem}')
    return saved, run_dir

def check_same_run(job: Job, saved: dict):
    """Refuse to go on from a checkpoint whose settings would have led elsewhere; says the old and the new
    values.

    Settings marked free (intervals, device, micro-batch, ...) may change, and so may the run's length as long
    as the steps until now are the same.
    """
    config = job.config
    old = schedule.resolve(config_from_dict(saved['config'], config.out_dir))
    changed = []
    for name, field in FIELDS.items():
        if not field.metadata['free'] and getattr(old, name) != getattr(config, name):
            changed.append(name)
    length = {'continual_steps', 'baseline_steps', 'ledger'}
    if changed and set(changed) <= length:
        same = dataclasses.replace(old, **{name: getattr(config, name) for name in length})
        changed = changed if schedule.shared_prefix(old, same) < saved['step'] else []
    lines = [f'{name}: was {getattr(old, name)!r}, now {getattr(config, name)!r}' for name in changed]
    # The growth that begins at this very step is still to come: the phase before it tells the depth.
    planned = job.plan.phase_at(max(0, saved['step'] - 1)).depth
    if not changed and saved['depth'] != planned:  # of a version that planned otherwise
        lines.append(f'depth: was {saved["depth"]}, now {planned}')
    if lines:
        heading = f"{config.out_dir} was made with other settings, which can't change on resume:"
        raise UserError('\n  '.join([heading, *lines]))

def check_same_data(job: Job, saved: dict, run_dir: str):
    """Refuse to go on from a checkpoint of `run_dir` that saw another data set: the steps so far would be
    other steps.

    data_dir may have moved: what counts is what run.json says of the data.
    """
    before, fingerprint = read_run_json(run_dir).get('data'), job.fingerprint
    if not before:  # run.json wasn't copied with the checkpoint
        before = saved['totals']
        fingerprint = {f'{split}_tokens': fingerprint[split]['tokens'] for split in ('train', 'val')}
    # Checksums too, since other tokens can come in files of the same size.
    for name, value in fingerprint.items():
        if before.get(name) != value:
            raise UserError(f'{job.config.data_dir}: {name} was {before.get(name)} when the checkpoint was '
                            f'saved, now {value}')

# ------------------------------------------------------------------------------------------------------------
# the first state

def stage_generator(config: TrainConfig, stage: int) -> torch.Generator:
    """The source of the weights that stage `stage` initialises: the same on every rank and after every
    resume."""
    return torch.Generator().manual_seed(config.seed * 1000 + stage)  # the CPU's, whatever the device

def initial_state(job: Job, source: tuple | None) -> State:
    """Step 0: a model of the first depth, from scratch or from init_from (`source`: load_source()'s)."""
    config = job.config
    if source is None:
        shape = checkpoint.gpt_config(config_to_dict(config))
        source = GPT(shape, job.plan.phases[0].depth, stage_generator(config, 1)), None
    model, cost = source
    model.to(job.device)
    clock = {'seconds': 0.0, 'eval_seconds': 0.0, 'checkpoint_seconds': 0.0}
    return State(0, model, make_optimizers(model, config), clock, cost)

def restore_state(job: Job, saved: dict) -> State:
    """The state that a checkpoint holds."""
    model = checkpoint.build_model(saved, job.config.out_dir).to(job.device)
    # The growth that begins at this very step is still to come.
    phase = job.plan.phase_at(max(0, saved['step'] - 1))
    optimizers = make_optimizers(model, job.config, [model.transformer.h[i] for i in phase.new])
    load_optimizer_state(model, optimizers, saved['optimizer'])
    clock = {name: saved['totals'][name] for name in ('seconds', 'eval_seconds', 'checkpoint_seconds')}
    return State(saved['step'], model, optimizers, clock)

def load_source(job: Job) -> tuple[GPT, dict]:
    """(the model of init_from, what its weights have cost until now, for run.json).

    Raises UserError if its shape isn't the config's, or its tokenizer not the data's.
    """
    config = job.config
    model, info = checkpoint.load_model(config.init_from)
    theirs = model.config
    names = ['arch']
    if theirs.arch == config.arch:
        names += ['n_head', 'n_embd', 'vocab_size']
        # Rotary positions have no weights: a shorter context is one to train at.
        if theirs.arch == 'gpt2' or config.block_size > theirs.block_size:
            names.append('block_size')
        if theirs.arch == 'llama':
            names += ['n_kv_head', 'head_dim', 'n_ff', 'rope_theta', 'norm_eps', 'tie_embeddings']
    values = [('depth', model.depth, 'the config', config.init_depth)]
    values += [(name, getattr(theirs, name), 'the config', getattr(config, name)) for name in names]
    # Of one vocabulary size or not: tokens of another tokenizer are other words than it has learned.
    values.append(('tokenizer', info['tokenizer'], f'the data in {config.data_dir}', job.tokenizer))
    wrong = []
    for name, its, who, ours in values:
        if its != ours:
            wrong.append(f'{name} is {text_of(its)}, {who} says {text_of(ours)}')
    # All differences in one message, so that one correction is enough.
    if wrong:
        raise UserError(f"init_from {config.init_from}: its {'; its '.join(wrong)}")
    own = {name: getattr(config, name) for name in ('block_size', 'n_layer', 'dropout')}
    model.config = dataclasses.replace(theirs, **own)
    return model.train(), sunk_cost(info)

def sunk_cost(info: dict) -> dict:
    """What a model to grow from has cost until then, for run.json: path, step, flops, flops_paper, seconds.

    `info`: what checkpoint.load_model() says of it. A checkpoint that was itself grown from another one
    counts that one's cost too, which its run.json knows. Costs are None where they aren't known: weights from
    Hugging Face, and what was grown from them.
    """
    cost = {'path': info['path'], 'step': info['step'], 'flops': None, 'flops_paper': None, 'seconds': None}
    if 'totals' not in info:  # not a checkpoint of ours
        return cost
    config = schedule.resolve(config_from_dict(info['config'], info['path']))
    plan = schedule.plan(config)
    # Of a run that branched from another one this counts the shared prefix too, as its clock does.
    own = {'seconds': info['totals'].get('seconds', 0.0), 'flops': plan.flops(info['step']),
           'flops_paper': plan.flops(info['step'], 'paper')}
    if config.init_from == 'scratch':
        return cost | own
    earlier = read_run_json(os.path.dirname(info['path'])).get('init_from')
    if type(earlier) is not dict or earlier.get('flops') is None:
        return cost
    return cost | {name: value + earlier[name] for name, value in own.items()}

# ------------------------------------------------------------------------------------------------------------
# the dry run

def dry_run(job: Job, try_evaluations):
    """Two steps, a checkpoint and a batch of each evaluation of a throw-away model at full depth, so that
    running out of memory, a compiler that is missing, and whatever breaks an evaluation show now and not at
    the last stage. `try_evaluations` is train.py's.

    Afterwards nothing of it is left, but for compiled code: all that the plan needs, so that no step of the
    run counts compiling as training. Raises UserError if memory does not suffice, or torch.compile does not
    work here.
    """
    began = time.perf_counter()
    config = job.config
    say(f'dry run: {"compiles, and " if job.compiled else ""}takes two steps at full depth ...')
    try:
        try_full_depth(job, try_evaluations)
    except (RuntimeError, MemoryError, OSError) as error:
        reason = device.compile_failure(error)
        if device.is_out_of_memory(error):
            problem = (f'out of memory at full depth ({config.n_layer} layers) with batch_size '
                       f'{config.batch_size}: lower --batch_size, which changes nothing but speed')
        elif reason and job.compiled:
            problem = (f'torch.compile does not work here ({reason}): install a C++ compiler, and on a GPU '
                       'triton, or go on without it: --compile=False')
        else:
            raise
        raise UserError(problem) from None
    gc.collect()  # compiled modules and DDP lie in reference cycles
    if job.device.type == 'cuda':
        torch.cuda.empty_cache()
    say(f'dry run: {time.perf_counter() - began:.1f} s')

def try_full_depth(job: Job, try_evaluations):
    """What dry_run does, as the run does it. Its peak of memory is the run's: no phase needs more."""
    config = job.config
    model = GPT(checkpoint.gpt_config(config_to_dict(config))).to(job.device).train()
    optimizers = make_optimizers(model, config)
    # Any tokens will do: neither memory nor time depends on which they are.
    tokens = torch.arange(config.batch_size * config.block_size, device=job.device) % config.vocab_size
    tokens = tokens.view(config.batch_size, config.block_size)
    if job.compiled:
        compile_graphs(job, model, tokens)
    model.freeze((), 'train')
    wrapped = device.wrap_distributed(model, job.world_size)
    # The second micro-step adds to gradients that exist; a third would do the same.
    accumulated = min(2, job.grad_accum_steps)
    for _ in range(2):  # the second has optimizer state from the beginning
        with torch.autocast(job.device.type, enabled=False):
            for micro_step in range(accumulated):
                if job.world_size > 1:
                    wrapped.require_backward_grad_sync = micro_step == accumulated - 1
                with job.amp:
                    loss = wrapped(tokens, tokens)
                (loss / accumulated).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if job.rank == 0:  # from a GPU a copy lies in memory while the next step is under way
            state = {'model': model.state_dict(), 'optimizer': optimizer_state(model, optimizers)}
            job.writer.save_nowhere(state)
        # Each growth leaves gaps in the memory that the C library manages: about as much as a twentieth of it
        # all.
        reserve = [p.detach().clone() for p in model.parameters() if job.device.type == 'cpu']
    del reserve
    # As rank 0 of 1: every rank tries a batch, and none waits for the others.
    try_evaluations(dataclasses.replace(job, rank=0, world_size=1), model)
    # What went wrong in the writer's thread is raised here, before step 0.
    job.writer.wait()

def compile_graphs(job: Job, model: GPT, tokens: torch.Tensor):
    """Compile whatever the plan's phases need, by a micro-step of each way to freeze.

    A block has a graph for each combination of "it trains" and "something below it trains", the first block
    of its own, the others whatever their place.
    """
    device.compile_blocks(model)
    for frozen, embeddings in dict.fromkeys((phase.frozen, phase.embeddings) for phase in job.plan.phases):
        # The layers that come later are there too, and train, as those of the last phase.
        model.freeze(frozen, embeddings)
        # The same contexts as in a step: under others the run would compile once more.
        with torch.autocast(job.device.type, enabled=False):
            with job.amp:
                loss = model(tokens, tokens)
            loss.backward()
        model.zero_grad(set_to_none=True)
