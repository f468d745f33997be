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
import dataclasses
import math
import os
import signal
import sys
import time

import schedule
from config import config_to_dict, load_config
from core.common import UserError, die_of, locked, run_main, say

if __name__ == '__main__':  # --help and a wrong flag are answered before torch takes its seconds to load
    run_main(lambda: load_config(sys.argv[1:], __doc__, say=None))

import numpy as np
import torch
import torch.distributed as dist

import hellaswag
from core import data
from core.device import (
    TORCHRUN_DIED,
    autocast,
    compile_blocks,
    keep_freed_memory,
    leave_distributed,
    meet_ranks,
    pick_device,
    read_ranks,
    to_device,
    wrap_distributed,
)
from core.optim import grow_optimizers, optimizer_state, set_learning_rate
from model import GPT
from run import checkpoint
from run.log import RunLog, has_last_eval
from run.start import (
    Job,
    State,
    dry_run,
    find_start,
    initial_state,
    load_source,
    open_data,
    restore_state,
    stage_generator,
)

def main():
    job = prepare(sys.argv[1:])
    with job.lock, job.writer:
        saved, prefix_dir = find_start(job)
        total = job.plan.total_steps
        if saved and saved['step'] == total and has_last_eval(job.config.out_dir, total):
            say(f'{job.config.out_dir}: finished, {total} steps')
            leave_distributed(job.world_size)
            return
        job = load_questions(job)
        log = RunLog(job, saved['step'] if saved else 0, prefix_dir)
        source = None
        if not saved and job.config.init_from != 'scratch':
            source = load_source(job)  # what is wrong with it shows before the dry run's minutes
        dry_run(job, try_evaluations)  # before the run's own model takes memory
        state = restore_state(job, saved) if saved else initial_state(job, source)
        del saved  # its tensors lie in memory beside the model's
        log.open(state)
        stopped_by = train(job, state, log)
        job.writer.wait()  # the last checkpoint is whole before the run says that it ended
        log.close(state, 'stopped' if stopped_by else 'done')
    leave_distributed(job.world_size)
    if stopped_by == signal.SIGINT and job.world_size == 1:  # torchrun ends its ranks itself
        die_of(signal.SIGINT)

def prepare(argv: list[str]) -> Job:
    """What a command line asks for. Raises UserError for whatever is wrong with the settings or the data."""
    config = schedule.resolve(load_config(argv, __doc__))
    plan = schedule.plan(config)
    rank, world_size, local_rank = read_ranks()
    device = pick_device(config.device, local_rank, world_size)
    sequences_per_step = config.total_batch_size // config.block_size
    grad_accum_steps, rest = divmod(sequences_per_step, config.batch_size * world_size)
    if rest:
        raise UserError(f'total_batch_size {config.total_batch_size} is not a multiple of ranks x batch_size '
                        f'x block_size = {world_size} x {config.batch_size} x {config.block_size}')
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True  # for what stays float32 under autocast
    elif device.type == 'cpu':
        keep_freed_memory()
    train_split, val_sets, tokenizer = open_data(config, sequences_per_step)
    epochs = plan.total_steps * config.total_batch_size / train_split.n_tokens
    if epochs > 1000 and rank == 0:
        print(f'warning: the plan of {plan.total_steps:,} steps sees the {train_split.n_tokens:,} tokens of '
              f'{config.data_dir} {epochs:,.0f} times: is that meant?', file=sys.stderr)
    return Job(
        config=config, plan=plan, rank=rank, world_size=world_size, device=device,
        store=meet_ranks(rank, world_size),  # only now, so that no folder is made if one rank refuses
        amp=autocast(device, config.dtype),
        compiled=device.type == 'cuda' if config.compile == 'auto' else config.compile,
        sequences_per_step=sequences_per_step,
        grad_accum_steps=grad_accum_steps,
        train=train_split, val_sets=val_sets, tokenizer=tokenizer,
        fingerprint=data.fingerprint(config.data_dir),
        lock=locked(config.out_dir) if rank == 0 else contextlib.nullcontext(),
        writer=checkpoint.CheckpointWriter(device),
    )

def load_questions(job: Job) -> Job:
    """The job with HellaSwag's examples as tokens; without any where the run never scores."""
    config = job.config
    if not config.hellaswag_interval:
        return job
    found = hellaswag.load_examples(config.hellaswag_data, config.hellaswag_limit)
    examples = hellaswag.encode(found, job.tokenizer, 'nanogpt', config.block_size, config.data_dir)
    questions = {'n': len(found), 'sha256': hellaswag.fingerprint(found)}
    return dataclasses.replace(job, examples=examples, questions=questions)

# ------------------------------------------------------------------------------------------------------------
# the loop

def train(job: Job, state: State, log: RunLog) -> int:
    """Train from state.step to the end of the plan. Returns the signal that stopped it before, or 0.

    A checkpoint at step s is what update s left; its eval, and the growth that may come next, belong to what
    follows, so that a run resumed at s does them again.
    """
    signals = catch_signals()
    model, total = state.model, job.plan.total_steps
    if job.compiled:
        compile_blocks(model)  # by the first evaluation, since all are to compute alike
    batches = micro_batches(job, state.step)
    batch = next(batches, None)  # one ahead of the step that trains on it
    phase = None
    while True:
        evaluate(job, state, log)  # the model before it grows
        if state.step == total:
            return 0
        row = job.plan.row(state.step)
        is_new_phase = row.phase is not phase
        if is_new_phase:
            phase = row.phase
            wrapped = None  # DDP's old buckets are gone before it makes new ones
            wrapped = enter_phase(job, state, log, phase)
        began = time.perf_counter()
        # Forward and backward, grad_accum_steps times. The outer autocast, though off, keeps the weights that
        # the inner one has cast until the step ends.
        model.train()
        loss_sum = torch.zeros((), device=job.device)  # there, so that adding to it doesn't wait for the GPU
        with torch.autocast(job.device.type, enabled=False):
            for micro_step in range(job.grad_accum_steps):
                if job.world_size > 1:  # gradients meet in the last micro-step only
                    wrapped.require_backward_grad_sync = micro_step == job.grad_accum_steps - 1
                seed_dropout(job, state.step, job.rank * job.grad_accum_steps + micro_step)
                with job.amp:
                    loss = wrapped(*batch)
                (loss / job.grad_accum_steps).backward()  # so that the gradients add up to a mean
                loss_sum += loss.detach()
                batch = next(batches, None)  # read and sent while the device still computes

        # one update
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        loss, grad_norm, stopping = mean_over_ranks(job, loss_sum, norm, signals)  # waits for the device
        if is_new_phase:  # freeze() has just changed what trains
            check_gradients(model)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            stop_not_finite(job, state, log, f'loss {loss}, gradient norm {grad_norm}')
        if job.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), job.config.grad_clip, norm)
        set_learning_rate(state.optimizers, row.lr, row.new_scale)
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # zeros would move a layer that is frozen next
        state.step += 1
        state.clock['seconds'] += time.perf_counter() - began  # evals and saves have clocks of their own

        if state.step % job.config.log_interval == 0 or state.step == total:
            log.progress(state, phase, loss, row.lr, grad_norm)
        save_if_due(job, state, phase, stopping)
        if stopping:
            return max(signals, default=signal.SIGTERM)  # the signal may have reached another rank only

def enter_phase(job: Job, state: State, log: RunLog, phase: schedule.Phase):
    """Grow and freeze as the phase says. Returns the model wrapped to train, in each phase anew, since DDP
    fixes its hooks when it wraps: over exactly the parameters that train."""
    model, config = state.model, job.config
    values = {'n_frozen': phase.n_frozen}
    old_depth = model.depth
    if phase.depth > old_depth:
        before = log.last_losses.get(state.step) or val_losses(job, state, log)  # no eval was due here
        began = time.perf_counter()
        new_blocks = []
        for growth in phase.growths:
            generator = stage_generator(config, growth.stage)
            new_blocks += model.grow(growth.layers, growth.fresh, generator)
        state.optimizers = grow_optimizers(model, config, state.optimizers, new_blocks)
        state.clock['seconds'] += time.perf_counter() - began
        after = val_losses(job, state, log)
        values |= {f'{name}_before': loss for name, loss in before.items()}
        values |= {f'{name}_after': loss for name, loss in after.items()}
    began = time.perf_counter()
    model.freeze(phase.frozen, phase.embeddings)
    if job.compiled:
        compile_blocks(model)
    wrapped = wrap_distributed(model, job.world_size)
    state.clock['seconds'] += time.perf_counter() - began
    log.enter_phase(state, phase, old_depth, values)
    return wrapped

def micro_batches(job: Job, step: int):
    """This rank's micro-batches (inputs, targets), each int64 (batch_size, block_size) on the device, from
    `step` on."""
    config = job.config
    for s in range(step, job.plan.total_steps):
        for micro_step in range(job.grad_accum_steps):
            first = (job.rank * job.grad_accum_steps + micro_step) * config.batch_size
            rows = range(first, first + config.batch_size)  # of the step's sequences; no two ranks share one
            arrays = job.train.get_batch(s, job.sequences_per_step, rows, config.shuffle, config.seed)
            yield to_device(arrays, job.device)

def seed_dropout(job: Job, step: int, micro_batch: int):
    """Dropout's masks are a function of the step and the micro-batch, whichever rank computes it."""
    if job.config.dropout:
        torch.manual_seed(((job.config.seed * 1_000_003 + step) * 100_003 + micro_batch) % 2**64)

def mean_over_ranks(job: Job, loss_sum: torch.Tensor, norm: torch.Tensor, signals: list) -> tuple:
    """(mean loss of the step over all micro-batches and ranks, gradient norm, how many ranks were told to
    stop), by one all-reduce and one wait for the device. The norm is the same on all ranks already."""
    mean = loss_sum / (job.grad_accum_steps * job.world_size)
    stats = torch.stack([mean, torch.tensor(float(len(signals)), device=job.device)])
    if job.world_size > 1:
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

def stop_not_finite(job: Job, state: State, log: RunLog, what: str):
    """Stop with exit code 1, before the optimizer has seen the gradient. All ranks get here together."""
    job.writer.wait()  # a save under way may be the last good one
    if job.rank == 0:
        found = checkpoint.latest(job.config.out_dir)
        last = f'The last good checkpoint is {found[0]}' if found else 'There is no checkpoint yet'
        print(f'error: step {state.step}: {what}: stopped before the update. {last}', file=sys.stderr)
    log.close(state, 'diverged')
    if dist.is_initialized():
        dist.barrier()  # torchrun kills rank 0, and its message, once another rank has exited
        dist.destroy_process_group()
    sys.exit(1)

# ------------------------------------------------------------------------------------------------------------
# evaluation and checkpoints

def evaluate(job: Job, state: State, log: RunLog):
    """Validation losses and HellaSwag where they are due, all ranks together, of the uncompiled blocks.

    Not of an untrained model: its loss is the logarithm of vocab_size, its score chance.
    """
    config, step = job.config, state.step
    if step == 0 and config.init_from == 'scratch':
        return
    values = {}
    is_last = step == job.plan.total_steps
    if is_last:
        say('the last evaluation ...')
    if is_last or is_eval_step(job, step):
        values |= val_losses(job, state, log)
        values['val_tokens'] = job.val_sets['val_loss'][1] * config.block_size
    if job.examples and (is_last or step % config.hellaswag_interval == 0):
        began = time.perf_counter()
        with job.amp:
            scores = hellaswag.evaluate(state.model, job.examples, job.rank, job.world_size,
                                        per_example=os.path.join(config.out_dir, 'hellaswag.jsonl'))
        for name in ('acc', 'acc_norm', 'bits', 'bits_stderr', 'margin', 'margin_stderr', 'n'):
            values[f'hellaswag_{name}'] = scores[name]
        values['hellaswag_data'] = job.questions['sha256'][:12]  # other questions are another curve
        state.clock['eval_seconds'] += time.perf_counter() - began
    if values:
        log.record('eval', state, job.plan.phase_at(max(0, step - 1)), **values)

def is_eval_step(job: Job, step: int) -> bool:
    """Whether the validation loss is due: at every eval_interval, and eval_after_growth steps after each
    growth."""
    config = job.config
    if config.eval_interval and step % config.eval_interval == 0:
        return True
    growths = [phase.start for phase in job.plan.phases if phase.growths]
    return any(step - start in config.eval_after_growth for start in growths)

def val_losses(job: Job, state: State, log: RunLog) -> dict[str, float]:
    """The loss of the model as it is on each validation set; the clock counts it as evaluation. Ends the run
    if one isn't finite."""
    began = time.perf_counter()
    losses = {}
    for name, (split, n_sequences) in job.val_sets.items():
        losses[name] = estimate_loss(job, state.model, split, n_sequences)
        if not math.isfinite(losses[name]):
            stop_not_finite(job, state, log, f'{name} {losses[name]}')
    state.clock['eval_seconds'] += time.perf_counter() - began
    return losses

@torch.no_grad()
def estimate_loss(job: Job, model: GPT, split: data.Split, n_sequences: int) -> float:
    """Mean loss in nats per token over the first n_sequences of a split, shared out over the ranks."""
    model.eval()
    sums = []
    size = job.config.batch_size
    for first in range(job.rank * size, n_sequences, job.world_size * size):
        sequences = split.read(np.arange(first, min(first + size, n_sequences)))
        x, y = to_device((sequences[:, :-1], sequences[:, 1:]), job.device)
        with job.amp:
            sums.append(model(x, y).float() * len(sequences))
    total = torch.tensor(sum(torch.stack(sums).tolist()) if sums else 0.0, dtype=torch.float64)
    if job.world_size > 1:
        total = total.to(job.device)
        dist.all_reduce(total)
    return total.item() / n_sequences

def try_evaluations(job: Job, model: GPT):
    """A batch of each evaluation, for the dry run."""
    for split, n_sequences in job.val_sets.values():
        estimate_loss(job, model, split, min(job.config.batch_size, n_sequences))
    if job.examples:
        with job.amp:
            # The batch with the longest questions needs the most memory.
            longest = hellaswag.make_batches(model, job.examples)[0]
            hellaswag.evaluate(model, [job.examples[i] for i in longest])

def save_if_due(job: Job, state: State, phase: schedule.Phase, stopping: float):
    """stage_NN.pt at the end of a stage, ckpt_NNNNNN.pt at every checkpoint_interval, at the end and before a
    stop."""
    config, step = job.config, state.step
    job.writer.check()  # a full disk stops the run at the next step, not at the next save
    names = []
    stage_ends = [p.stop for p in job.plan.phases if p.stage == phase.stage and p.phase != 'continual']
    stage_done = step in stage_ends[-1:]  # none where all its steps are continual
    if stage_done:  # before the checkpoint, after which a run that is killed here would go on
        names.append(f'stage_{phase.stage:02d}.pt')
    on_interval = config.checkpoint_interval and step % config.checkpoint_interval == 0
    on_interval |= step in config.checkpoint_steps
    if stopping or stage_done or on_interval or step == job.plan.total_steps:
        names.append(f'ckpt_{step:06d}.pt')
    if names:
        save_checkpoint(job, state, names)

def save_checkpoint(job: Job, state: State, names: list):
    """Have the state written under these names; a stage_NN.pt holds weights alone."""
    began = time.perf_counter()
    if job.rank == 0:  # all ranks hold the same state
        tokens = {f'{split}_tokens': job.fingerprint[split]['tokens'] for split in ('train', 'val')}
        totals = state.clock | tokens
        weights = {'config': config_to_dict(job.config), 'tokenizer': job.tokenizer, 'step': state.step,
                   'depth': state.model.depth, 'model': state.model.state_dict(), 'optimizer': {},
                   'totals': totals}
        whole = weights | {'optimizer': optimizer_state(state.model, state.optimizers)}
        files = {}
        for name in names:
            files[os.path.join(job.config.out_dir, name)] = whole if name.startswith('ckpt_') else weights
        job.writer.save(files, job.config.out_dir, job.config.keep_checkpoints, job.config.checkpoint_steps)
    state.clock['checkpoint_seconds'] += time.perf_counter() - began

def catch_signals() -> list:
    """A list that SIGTERM, Ctrl-C and torchrun's death fill; all ranks then agree on the step after which
    they stop. A second one ends the process at once."""
    received = []
    numbers = [number for number in (signal.SIGTERM, signal.SIGINT, TORCHRUN_DIED) if number]

    def on_signal(signum, frame):
        received.append(signum)  # only noted: the step under way is finished and saved first
        for number in numbers:
            if number != signum or signum != TORCHRUN_DIED:  # of which there may be several
                signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, on_signal)
    return received

if __name__ == '__main__':
    run_main(main)
