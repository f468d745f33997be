"""
Before step 0: two whole steps and an evaluation of a throw-away model, so that what would fail on the last
day of a run fails in its first minute, and everything is compiled before the clock counts.

`runtime` and `run_data` are train.py's: where this process runs, and what it trains on.
"""

import gc
import time

import torch

import hellaswag
import schedule
from config import TrainConfig, config_to_dict
from core.common import UserError
from core.device import compile_blocks, compile_failure, is_out_of_memory, wrap_distributed
from core.optim import make_optimizers, optimizer_state
from model import GPT
from run import checkpoint
from run.evaluate import estimate_loss


def dry_run(config: TrainConfig, runtime, run_data, examples: list):
    """Two steps, a checkpoint and a batch of each evaluation of a throw-away model at full depth, so that
    running out of memory, a compiler that is missing, and whatever breaks an evaluation show now and not at
    the last stage.

    Afterwards nothing of it is left, but for compiled code: all that the plan needs, so that no step of the
    run counts compiling as training. Raises UserError if memory does not suffice, or torch.compile does not
    work here.
    """
    began = time.perf_counter()
    if runtime.rank == 0:
        what = 'compiles, and ' if runtime.compiled else ''
        print(f'dry run: {what}takes two steps at full depth ...', flush=True)
    try:
        try_full_depth(config, runtime, run_data, examples)
    except (RuntimeError, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            raise UserError(f'out of memory at full depth ({config.n_layer} layers) with batch_size '
                            f'{config.batch_size}: lower --batch_size, which changes nothing but '
                            'speed') from None
        reason = compile_failure(error)
        if reason and runtime.compiled:
            raise UserError(f'torch.compile does not work here ({reason}): install a C++ compiler, and on a '
                            'GPU triton, or go on without it: --compile=False') from None
        raise
    gc.collect()  # compiled modules and DDP lie in reference cycles
    if runtime.device.type == 'cuda':
        torch.cuda.empty_cache()
    if runtime.rank == 0:
        print(f'dry run: {time.perf_counter() - began:.1f} s', flush=True)


def try_full_depth(config: TrainConfig, runtime, run_data, examples: list):
    """What dry_run does, as the run does it. Its peak of memory is the run's: no phase needs more."""
    device = runtime.device
    model = GPT(checkpoint.gpt_config(config_to_dict(config))).to(device).train()
    optimizers = make_optimizers(model, config)
    # Any tokens will do: neither memory nor time depends on which they are.
    tokens = torch.arange(config.batch_size * config.block_size, device=device) % config.vocab_size
    tokens = tokens.view(config.batch_size, config.block_size)
    if runtime.compiled:
        compile_graphs(model, tokens, runtime, schedule.plan(config))
    model.freeze((), 'train')
    wrapped = wrap_distributed(model, runtime.world_size)
    # The second micro-step adds to gradients that exist; a third would do the same.
    accumulated = min(2, runtime.grad_accum_steps)
    for _ in range(2):  # the second has optimizer state from the beginning
        with torch.autocast(device.type, enabled=False):
            for micro_step in range(accumulated):
                if runtime.world_size > 1:
                    wrapped.require_backward_grad_sync = micro_step == accumulated - 1
                with runtime.amp:
                    loss = wrapped(tokens, tokens)
                (loss / accumulated).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if runtime.rank == 0:  # from a GPU a copy lies in memory while the next step is under way
            state = {'model': model.state_dict(), 'optimizer': optimizer_state(model, optimizers)}
            runtime.writer.save_nowhere(state)
        # Each growth leaves gaps in the memory that the C library manages: about as much as a twentieth of it
        # all.
        reserve = [p.detach().clone() for p in model.parameters() if device.type == 'cpu']
    del reserve
    n_sequences = min(config.batch_size, run_data.val.n_sequences)
    # As rank 0 of 1: every rank tries a batch, and none waits for the others.
    estimate_loss(model, run_data.val, n_sequences, config.batch_size, 0, 1, runtime.amp)
    if examples:
        with runtime.amp:
            # The batch with the longest questions needs the most memory.
            longest = hellaswag.make_batches(model, examples)[0]
            hellaswag.evaluate(model, [examples[i] for i, _ in longest])
    # What went wrong in the writer's thread is raised here, before step 0.
    runtime.writer.wait()


def compile_graphs(model: GPT, tokens: torch.Tensor, runtime, phases: list):
    """Compile whatever the plan's phases need, each graph by a micro-step of the first phase that needs it.

    A block has a graph for each combination of "it trains" and "something below it trains", the first block
    of its own, the others whatever their place. The embeddings and the final norm need no phase beyond these.
    """
    compile_blocks(model)
    compiled = set()
    for phase in phases:
        needed = set()
        below_trains = phase.embeddings == 'train'
        for i in range(phase.depth):
            trains = i not in phase.frozen
            needed.add((i == 0, trains, below_trains))
            below_trains = below_trains or trains
        if needed <= compiled:
            continue
        # The layers above phase.depth are there too, and train, as those of the last phase.
        model.freeze(phase.frozen, phase.embeddings)
        # The same contexts as in a step: under others the run would compile once more.
        with torch.autocast(runtime.device.type, enabled=False):
            with runtime.amp:
                loss = model(tokens, tokens)
            loss.backward()
        model.zero_grad(set_to_none=True)
        compiled |= needed
