"""
Train a GPT that grows layer by layer (Li, Fung, Huang, arXiv 2411.18700), or at full depth from the start.

    python train.py configs/incremental_8stage.py configs/cpu.py                       one process
    torchrun --standalone --nproc_per_node=8 train.py configs/incremental_8stage.py    8 GPUs
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 \\
        train.py configs/incremental_8stage.py --resume=auto                           on each of 2 nodes

Configs are applied from left to right, then --key=value flags. Into out_dir come config.json, run.json,
metrics.jsonl, hellaswag.jsonl, ckpt_NNNNNN.pt and stage_NN.pt; --resume goes on from the newest checkpoint,
--resume=auto also starts if there is none.

The state of a run is (config, step, weights, optimizer state). All else (the phase, the learning rate, the
tokens of a step, new layers, dropout) is computed from the config and the step, so that a resumed run is the
same run.
"""

import contextlib
import math
import os
import signal
import sys
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

import hellaswag
import schedule
from config import TrainConfig, config_to_dict, load_config
from core import data
from core.common import UserError, die_of, locked, run_main
from core.device import (
    GLIBC_TUNABLES,
    autocast,
    compile_blocks,
    init_distributed,
    keep_freed_memory,
    lacks_glibc_tunables,
    leave_distributed,
    pick_device,
    read_ranks,
    to_device,
    wrap_distributed,
)
from core.optim import (
    grow_optimizers,
    load_optimizer_state,
    make_optimizers,
    optimizer_state,
    set_learning_rate,
)
from model import GPT
from run import checkpoint, start
from run.dry_run import dry_run
from run.evaluate import estimate_loss
from run.log import has_last_eval
from run.runlog import RunLog, identify_run


@dataclass(frozen=True)
class Runtime:
    """Where this process runs, and its share of a step: the same sequences however many ranks there are."""

    rank: int
    world_size: int
    device: torch.device
    amp: object  # the context of every forward pass: autocast, or nothing
    compiled: bool
    sequences_per_step: int  # of all ranks
    grad_accum_steps: int  # micro-steps of this rank
    writer: checkpoint.CheckpointWriter


@dataclass(frozen=True)
class RunData:
    """The tokens that a run trains and is evaluated on."""

    train: data.Split
    val: data.Split
    val_sequences: int  # the first so many are the validation set
    tokenizer: str
    fingerprint: dict  # token counts and checksums of both splits


@dataclass
class State:
    """The state of a run, beside its config: after `step` updates."""

    step: int
    model: GPT
    optimizers: list
    clock: dict  # seconds of training, and of what stops it: 'seconds', 'eval_seconds', 'checkpoint_seconds'


def main():
    config = schedule.resolve(load_config(sys.argv[1:], __doc__))  # from here on `match` is a number of steps
    phases = schedule.plan(config)
    total = schedule.total_steps(phases)

    # Whatever is wrong with the settings, the data or out_dir comes to light here, before ranks join and
    # steps are done.
    runtime = make_runtime(config)
    run_data = open_data(config, runtime)
    question = schedule.question_epochs(config, phases, run_data.train.n_tokens)
    if question and runtime.rank == 0:
        print(f'warning: {question}', file=sys.stderr)
    with locked(config.out_dir) if runtime.rank == 0 else contextlib.nullcontext(), runtime.writer:
        saved, prefix_dir = start.find_checkpoint(config)
        if runtime.world_size > 1:
            init_distributed(runtime.device, runtime.rank, runtime.world_size)
            start.check_shared_out_dir(config.out_dir, runtime.rank, runtime.world_size, saved)
        if saved:
            start.check_same_data(config, saved, prefix_dir or config.out_dir, run_data.fingerprint)
        if saved and not prefix_dir:
            start.check_same_run(config, saved, total)
            start.prepare_out_dir(config, saved, runtime.rank)
        if saved and saved['step'] == total and has_last_eval(config.out_dir, total):
            if runtime.rank == 0:
                print(f'{config.out_dir}: finished, {total} steps')
            leave_distributed(runtime.world_size)
            return
        examples, questions = load_questions(config, run_data)
        step = saved['step'] if saved else 0
        info, tracker = identify_run(config, runtime, run_data, questions, step, prefix_dir)
        dry_run(config, runtime, run_data, examples)  # before the run's own model takes memory

        if saved:
            state = restore_state(config, phases, saved, runtime)
        else:
            state, info['init_from'] = initial_state(config, phases, runtime)
        del saved  # its tensors lie in memory beside the model's
        log = RunLog(config, phases, runtime, state, prefix_dir, info, tracker)
        log.say_start(state, runtime)
        stopped_by = train(config, phases, runtime, run_data, examples, state, log)
        runtime.writer.wait()  # the last checkpoint is whole before the run says that it ended
        log.close(state, stopped_by)
    leave_distributed(runtime.world_size)
    if stopped_by == signal.SIGINT and runtime.world_size == 1:  # torchrun ends its ranks itself
        die_of(signal.SIGINT)


def train(config, phases, runtime: Runtime, run_data: RunData, examples: list, state: State, log) -> int:
    """Train from state.step to the end of the plan. Returns the signal that stopped it before, or 0.

    A checkpoint at step s is what update s left; its eval, and the growth that may come next, belong to what
    follows, so that a run resumed at s does them again.
    """
    total = schedule.total_steps(phases)
    signals = catch_signals()
    model, device = state.model, runtime.device
    if runtime.compiled:
        compile_blocks(model)  # by the first evaluation, since all are to compute alike
    batches = micro_batches(config, runtime, run_data.train, state.step, total)
    batch = next(batches, None)  # one ahead of the step that trains on it
    phase = None
    while True:
        evaluate(config, phases, runtime, run_data, examples, state, log)  # the model before it grows
        if state.step == total:
            return 0
        new_phase = phase is None or state.step == phase.stop
        if new_phase:
            phase = schedule.phase_at(phases, state.step)
            wrapped = None  # DDP's old buckets are gone before it makes new ones
            wrapped = enter_phase(config, phase, runtime, run_data, state, log)
        began = time.perf_counter()
        # Forward and backward, grad_accum_steps times. The outer autocast, though off, keeps the weights that
        # the inner one has cast until the step ends.
        model.train()
        lr = schedule.get_lr(config, phases, state.step)
        loss_sum = torch.zeros((), device=device)  # there, so that adding to it doesn't wait for the GPU
        with torch.autocast(device.type, enabled=False):
            for micro_step in range(runtime.grad_accum_steps):
                if runtime.world_size > 1:  # gradients meet in the last micro-step only
                    wrapped.require_backward_grad_sync = micro_step == runtime.grad_accum_steps - 1
                if config.dropout:
                    seed_dropout(config, state.step, runtime.rank * runtime.grad_accum_steps + micro_step)
                with runtime.amp:
                    loss = wrapped(*batch)
                (loss / runtime.grad_accum_steps).backward()  # so that the gradients add up to a mean
                loss_sum += loss.detach()
                batch = next(batches, None)  # read and sent while the device still computes

        # one update
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        loss, grad_norm, stopping = mean_over_ranks(runtime, loss_sum, norm, signals)  # waits for the device
        if new_phase:  # freeze() has just changed what trains
            check_gradients(model)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            stop_not_finite(config, state.step, loss, grad_norm, runtime)
        if config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.grad_clip, norm)
        set_learning_rate(state.optimizers, lr, schedule.get_new_scale(config, phases, state.step))
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # zeros would move a layer that is frozen next
        state.step += 1
        state.clock['seconds'] += time.perf_counter() - began  # evals and saves have clocks of their own

        if state.step % config.log_interval == 0 or state.step == total:
            log.progress(state, phase, loss, lr, grad_norm)
        save_if_due(config, phases, phase, runtime, run_data, state, stopping)
        if stopping:
            return max(signals, default=signal.SIGTERM)  # the signal may have reached another rank only


# ------------------------------------------------------------------------------------------------------------
# before the first step


def make_runtime(config: TrainConfig) -> Runtime:
    """The device and the ranks that torchrun gave. Raises UserError if they can't share the batch."""
    rank, world_size, local_rank = read_ranks()
    device = pick_device(config.device, local_rank, world_size)
    sequences_per_step = config.total_batch_size // config.block_size
    if sequences_per_step % (config.batch_size * world_size):
        raise UserError(f'total_batch_size {config.total_batch_size} is not a multiple of ranks x batch_size '
                        f'x block_size = {world_size} x {config.batch_size} x {config.block_size}')
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True  # for what stays float32 under autocast
    elif device.type == 'cpu':
        keep_freed_memory()
        if rank == 0 and lacks_glibc_tunables(config):
            print(f'this run takes less memory with GLIBC_TUNABLES={GLIBC_TUNABLES} in its environment')
    compiled = device.type == 'cuda' if config.compile == 'auto' else config.compile
    grad_accum_steps = sequences_per_step // (config.batch_size * world_size)
    return Runtime(rank, world_size, device, autocast(device, config.dtype), compiled, sequences_per_step,
                   grad_accum_steps, checkpoint.CheckpointWriter(device))


def open_data(config: TrainConfig, runtime: Runtime) -> RunData:
    """The splits of data_dir. Raises UserError for whatever is wrong with them."""
    train = data.Split(config.data_dir, 'train', config.block_size, config.vocab_size)
    val = data.Split(config.data_dir, 'val', config.block_size, config.vocab_size)
    meta = data.read_meta(config.data_dir)
    val_sequences = config.val_tokens // config.block_size
    if meta['vocab_size'] > config.vocab_size:
        raise UserError(f'vocab_size {config.vocab_size} is less than the {meta["vocab_size"]} of '
                        f'{config.data_dir}')
    if train.n_sequences < runtime.sequences_per_step:
        raise UserError(f'{config.data_dir} holds {train.n_sequences} training sequences, one step takes '
                        f'{runtime.sequences_per_step}')
    if not 1 <= val_sequences <= val.n_sequences:
        raise UserError(f'val_tokens {config.val_tokens} asks for {val_sequences} sequences of '
                        f'{config.block_size} tokens; {config.data_dir} holds {val.n_sequences}')
    return RunData(train, val, val_sequences, meta['tokenizer'], data.fingerprint(config.data_dir))


def load_questions(config: TrainConfig, run_data: RunData) -> tuple[list, dict | None]:
    """(HellaSwag's examples as tokens, what tells them from others); none where the run never scores."""
    if not config.hellaswag_interval:
        return [], None
    hellaswag.warn_of_other_text(config.hellaswag_data, config.data_dir)
    examples = hellaswag.load_examples(config.hellaswag_data, config.hellaswag_limit)
    questions = {'n': len(examples), 'sha256': hellaswag.fingerprint(examples)}
    return hellaswag.encode(examples, run_data.tokenizer, 'nanogpt', config.block_size), questions


def initial_state(config: TrainConfig, phases: list, runtime: Runtime) -> tuple[State, dict | None]:
    """(step 0: a model of the first depth, from scratch or from init_from; what the weights have cost until
    now)."""
    shape = checkpoint.gpt_config(config_to_dict(config))
    depth = phases[0].depth if config.init_from == 'scratch' else config.init_depth
    model = GPT(shape, depth, stage_generator(config, 1)).to(runtime.device)
    cost = None
    if config.init_from != 'scratch':
        cost = start.load_initial_weights(model, config)
    clock = {'seconds': 0.0, 'eval_seconds': 0.0, 'checkpoint_seconds': 0.0}
    return State(0, model, make_optimizers(model, config), clock), cost


def restore_state(config: TrainConfig, phases: list, saved: dict, runtime: Runtime) -> State:
    """The state that a checkpoint holds."""
    model = checkpoint.build_model(saved, config.out_dir).to(runtime.device)
    # The growth that begins at this very step is still to come.
    phase = schedule.phase_at(phases, max(0, saved['step'] - 1))
    optimizers = make_optimizers(model, config, [model.transformer.h[i] for i in phase.new])
    load_optimizer_state(model, optimizers, saved['optimizer'])
    clock = {name: saved['totals'][name] for name in ('seconds', 'eval_seconds', 'checkpoint_seconds')}
    return State(saved['step'], model, optimizers, clock)


def stage_generator(config: TrainConfig, stage: int) -> torch.Generator:
    """The source of the weights that stage `stage` initialises: the same on every rank and after every
    resume."""
    return torch.Generator().manual_seed(config.seed * 1000 + stage)  # the CPU's, whatever the device


# ------------------------------------------------------------------------------------------------------------
# the parts of the loop


def enter_phase(config, phase: schedule.Phase, runtime: Runtime, run_data: RunData, state: State, log):
    """Grow and freeze as the phase says. Returns the model wrapped to train: DDP over exactly the parameters
    that train.

    DDP fixes its hooks when it wraps, so it wraps anew in each phase.
    """
    model = state.model
    values = {'n_frozen': phase.n_frozen}
    old_depth = model.depth
    if phase.depth > old_depth:
        values['val_loss_before'] = log.val_loss_at(state.step)
        if values['val_loss_before'] is None:  # no eval was due at this step
            values['val_loss_before'] = timed_loss(config, runtime, run_data, state)
        began = time.perf_counter()
        new_blocks = []
        for growth in phase.growths:
            generator = stage_generator(config, growth.stage)
            new_blocks += model.grow(growth.layers, growth.fresh, generator)
        state.optimizers = grow_optimizers(model, config, state.optimizers, new_blocks)
        state.clock['seconds'] += time.perf_counter() - began
        values['val_loss_after'] = timed_loss(config, runtime, run_data, state)
    began = time.perf_counter()
    model.freeze(phase.frozen, phase.embeddings)
    if runtime.compiled:
        compile_blocks(model)
    wrapped = wrap_distributed(model, runtime.world_size)
    state.clock['seconds'] += time.perf_counter() - began
    log.enter_phase(state, phase, old_depth, values)
    return wrapped


def micro_batches(config: TrainConfig, runtime: Runtime, train_split: data.Split, step: int, total: int):
    """This rank's micro-batches (inputs, targets), each int64 (batch_size, block_size) on the device, from
    `step` on."""
    for s in range(step, total):
        for micro_step in range(runtime.grad_accum_steps):
            first = (runtime.rank * runtime.grad_accum_steps + micro_step) * config.batch_size
            rows = range(first, first + config.batch_size)  # of the step's sequences; no two ranks share one
            arrays = train_split.get_batch(s, runtime.sequences_per_step, rows, config.shuffle, config.seed)
            yield to_device(arrays, runtime.device)


def seed_dropout(config: TrainConfig, step: int, micro_batch: int):
    """Dropout's masks are a function of the step and the micro-batch, whichever rank computes it."""
    torch.manual_seed(((config.seed * 1_000_003 + step) * 100_003 + micro_batch) % 2**64)


def mean_over_ranks(runtime: Runtime, loss_sum: torch.Tensor, norm: torch.Tensor, signals: list) -> tuple:
    """(mean loss of the step over all micro-batches and ranks, gradient norm, how many ranks were told to
    stop).

    One all-reduce and one wait for the device; the gradients, and so their norm, are the same on all ranks
    already.
    """
    mean = loss_sum / (runtime.grad_accum_steps * runtime.world_size)
    stats = torch.stack([mean, torch.tensor(float(len(signals)), device=runtime.device)])
    if runtime.world_size > 1:
        dist.all_reduce(stats)  # a sum, of losses that are divided by world_size already
    loss, stopping, grad_norm = torch.cat([stats, norm.float().reshape(1)]).tolist()
    return loss, grad_norm, stopping


def check_gradients(model: GPT):
    """On a phase's first step: exactly what should train has a gradient. Frozen by accident, or not, is
    silent otherwise."""
    wrong = []
    for name, p in model.named_parameters():
        if p.requires_grad and p.grad is None:
            wrong.append(f'{name} should train')
        elif p.grad is not None and not p.requires_grad:
            wrong.append(f'{name} should not train')
    assert not wrong, f'wrong set of gradients: {"; ".join(wrong)}'


def stop_not_finite(config: TrainConfig, step: int, loss: float, norm: float, runtime: Runtime):
    """Stop with exit code 1, before the optimizer has seen the gradient. All ranks get here together."""
    runtime.writer.wait()  # a save under way may be the last good one
    if runtime.rank == 0:
        found = checkpoint.latest(config.out_dir)
        last = f'The last good checkpoint is {found[0]}' if found else 'There is no checkpoint yet'
        print(f'error: step {step}: loss {loss}, gradient norm {norm}: stopped before the update. {last}',
              file=sys.stderr)
    if dist.is_initialized():
        dist.barrier()  # torchrun kills rank 0, and its message, once another rank has exited
        dist.destroy_process_group()
    sys.exit(1)


def evaluate(config, phases: list, runtime: Runtime, run_data: RunData, examples: list, state: State, log):
    """Validation loss and HellaSwag where they are due, all ranks together, of the uncompiled model.

    Not of an untrained model: its loss is the logarithm of vocab_size, its score chance.
    """
    step = state.step
    if step == 0 and config.init_from == 'scratch':
        return
    values = {}
    is_last = step == schedule.total_steps(phases)
    if is_last or is_eval_step(config, phases, step):
        values['val_loss'] = timed_loss(config, runtime, run_data, state)
        values['val_tokens'] = run_data.val_sequences * config.block_size
    if examples and (is_last or step % config.hellaswag_interval == 0):
        began = time.perf_counter()
        with runtime.amp:
            scores = hellaswag.evaluate(state.model, examples, runtime.rank, runtime.world_size,
                                        per_example=os.path.join(config.out_dir, 'hellaswag.jsonl'))
        for name in ('acc', 'acc_norm', 'bits', 'bits_stderr', 'margin', 'margin_stderr', 'n'):
            values[f'hellaswag_{name}'] = scores[name]
        state.clock['eval_seconds'] += time.perf_counter() - began
    if values:
        log.record('eval', state, schedule.phase_at(phases, max(0, step - 1)), **values)


def is_eval_step(config: TrainConfig, phases: list, step: int) -> bool:
    """Whether the validation loss is due: at every eval_interval, and eval_after_growth steps after each
    growth."""
    if config.eval_interval and step % config.eval_interval == 0:
        return True
    return any(step - phase.start in config.eval_after_growth for phase in phases if phase.growths)


def timed_loss(config: TrainConfig, runtime: Runtime, run_data: RunData, state: State) -> float:
    """The validation loss of the model as it is; the clock counts it as evaluation."""
    began = time.perf_counter()
    loss = estimate_loss(state.model, run_data.val, run_data.val_sequences, config.batch_size, runtime.rank,
                         runtime.world_size, runtime.amp)
    state.clock['eval_seconds'] += time.perf_counter() - began
    return loss


def save_if_due(config, phases, phase: schedule.Phase, runtime: Runtime, run_data: RunData, state: State,
                stopping: float):
    """stage_NN.pt at the end of a stage, ckpt_NNNNNN.pt at every checkpoint_interval, at the end and before a
    stop."""
    runtime.writer.check()  # a full disk stops the run at the next step, not at the next save
    names = []
    stage_ends = [p.stop for p in phases if p.stage == phase.stage and p.phase != 'continual']
    stage_done = bool(stage_ends) and state.step == stage_ends[-1]  # none where all its steps are continual
    if stage_done:  # before the checkpoint, after which a run that is killed here would go on
        names.append(f'stage_{phase.stage:02d}.pt')
    on_interval = config.checkpoint_interval and state.step % config.checkpoint_interval == 0
    on_interval |= state.step in config.checkpoint_steps
    if stopping or stage_done or on_interval or state.step == schedule.total_steps(phases):
        names.append(f'ckpt_{state.step:06d}.pt')
    if names:
        save_checkpoint(config, runtime, run_data, state, names)


def save_checkpoint(config: TrainConfig, runtime: Runtime, run_data: RunData, state: State, names: list):
    """Have the state written under these names; a stage_NN.pt holds weights alone."""
    began = time.perf_counter()
    if runtime.rank == 0:  # all ranks hold the same state
        totals = {**state.clock, 'train_tokens': run_data.train.n_tokens, 'val_tokens': run_data.val.n_tokens}
        weights = {'config': config_to_dict(config), 'tokenizer': run_data.tokenizer, 'step': state.step,
                   'depth': state.model.depth, 'model': state.model.state_dict(), 'optimizer': {},
                   'totals': totals}
        whole = weights | {'optimizer': optimizer_state(state.model, state.optimizers)}
        files = {}
        for name in names:
            files[os.path.join(config.out_dir, name)] = whole if name.startswith('ckpt_') else weights
        runtime.writer.save(files, config.out_dir, config.keep_checkpoints, config.checkpoint_steps)
    state.clock['checkpoint_seconds'] += time.perf_counter() - began


def catch_signals() -> list:
    """A list that SIGTERM and Ctrl-C fill; all ranks then agree on the step after which they stop. A second
    one ends the process at once."""
    received = []

    def on_signal(signum, frame):
        if received:
            die_of(signum)
        received.append(signum)  # only noted: the step under way is finished and saved first

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, on_signal)
    return received


if __name__ == '__main__':
    run_main(main)
