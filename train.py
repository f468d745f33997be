"""
Train a GPT that grows layer by layer (Li, Fung, Huang, arXiv 2411.18700), or at full depth from the start.

    python train.py configs/incremental_8stage.py configs/cpu.py                               one process
    torchrun --standalone --nproc_per_node=8 train.py configs/incremental_8stage.py            8 GPUs
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 \\
        train.py configs/incremental_8stage.py --resume=auto                                   on each of 2 nodes

Configs are applied from left to right, then --key=value flags. Into out_dir come config.json, metrics.jsonl, ckpt_NNNNNN.pt
and stage_NN.pt; --resume goes on from the newest checkpoint, --resume=auto also starts if there is none.

The state of a run is (config, step, weights, optimizer moments). All else (the phase, the learning rate, the tokens of a
step, new layers, dropout) is computed from the config and the step, so that a resumed run is the same run.
"""

import atexit
import importlib.util
import json
import math
import os
import signal
import sys
import time
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import checkpoint
import config as configuration
import data
import hellaswag
import schedule
from config import TrainConfig, UserError
from growth import layout
from model import (
    GPT,
    JOIN_SLIVERS,
    autocast,
    compile_blocks,
    keep_freed_memory,
    make_optimizers,
    pick_device,
    wants_slivers_joined,
)


def main():
    config = schedule.resolve(configuration.load(sys.argv[1:], __doc__))
    phases = schedule.plan(config)
    total = schedule.total_steps(phases)

    # -----------------------------------------------------------------------------------------------------------------
    # the ranks, and the work of one step: per_step sequences in micro-batches, the same ones however many ranks there are
    rank, world, local_rank = configuration.ranks()
    device = pick_device(config.device)
    if world > 1 and device.type == 'cuda':
        device = pick_device(f'cuda:{local_rank}')
        torch.cuda.set_device(device)
    per_step = config.total_batch_size // config.block_size
    if per_step % (config.batch_size * world):
        raise UserError(f'total_batch_size {config.total_batch_size} is not a multiple of ranks x batch_size x block_size = '
                        f'{world} x {config.batch_size} x {config.block_size}')
    micro_steps = per_step // (config.batch_size * world)
    if device.type == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True  # for what stays float32 under autocast
    elif device.type == 'cpu':
        keep_freed_memory()
        if wants_slivers_joined(config) and sys.orig_argv[-len(sys.argv):] == sys.argv:  # not where another program runs this
            os.environ['GLIBC_TUNABLES'] = JOIN_SLIVERS  # glibc reads this when a program starts: start again
            os.execv(sys.executable, sys.orig_argv)
    amp = autocast(device, config.dtype)
    compiled = device.type == 'cuda' if config.compile == 'auto' else config.compile

    # -----------------------------------------------------------------------------------------------------------------
    # data: whatever is wrong with it comes to light here, not at step 250
    train = data.Split(config.data_dir, 'train', config.block_size, config.vocab_size)
    val = data.Split(config.data_dir, 'val', config.block_size, config.vocab_size)
    meta = data.read_meta(config.data_dir)
    val_sequences = config.val_tokens // config.block_size
    if config.wandb_project and importlib.util.find_spec('wandb') is None:
        raise UserError(f'wandb_project is {config.wandb_project!r}, but wandb is not installed: pip install wandb')
    if meta['vocab_size'] > config.vocab_size:
        raise UserError(f"vocab_size {config.vocab_size} is less than the {meta['vocab_size']} of {config.data_dir}")
    if train.n_sequences < per_step:
        raise UserError(f'{config.data_dir} holds {train.n_sequences} training sequences, one step takes {per_step}')
    if not 1 <= val_sequences <= val.n_sequences:
        raise UserError(f'val_tokens {config.val_tokens} asks for {val_sequences} sequences of {config.block_size} tokens; '
                        f'{config.data_dir} holds {val.n_sequences}')

    # -----------------------------------------------------------------------------------------------------------------
    # what out_dir holds, and where this run begins
    state = find_state(config)
    step = state['step'] if state else 0
    if world > 1:
        join_ranks(device, rank, world)
        steps = [None] * world
        dist.all_gather_object(steps, step)  # also: no rank writes before all have looked
        if len(set(steps)) > 1:
            raise UserError(f'the ranks see different checkpoints in {config.out_dir} (steps {sorted(set(steps))}): '
                            'out_dir must be on a file system that all nodes share')
    data_tokens = {'train_tokens': train.n_tokens, 'val_tokens': val.n_tokens}
    if state:
        check_same_run(config, state, data_tokens, total)
    if step == total and finished(config, total):
        if rank == 0:
            print(f'{config.out_dir}: finished, {total} steps')
        if world > 1:
            dist.destroy_process_group()
        return
    examples = []
    if config.hellaswag_interval:
        examples = hellaswag.encode(hellaswag.load_examples(config.hellaswag_data, config.hellaswag_limit),
                                    meta['tokenizer'], 'nanogpt', config.block_size)
    clock = {'seconds': 0.0, 'eval_seconds': 0.0, 'checkpoint_seconds': 0.0}  # training, and what stops it, apart
    clock.update({k: v for k, v in state['totals'].items() if k in clock} if state else {})
    rehearse(config, device, amp, compiled, val, examples)

    if state:
        model = checkpoint.build(state, config.out_dir).to(device)
    else:
        shape = checkpoint.gpt_config(configuration.as_dict(config))
        model = GPT(shape, config.init_depth or phases[0].depth, generator(config, 1)).to(device)
        if config.init_from != 'scratch':
            load_initial_weights(model, config)
    optimizers = make_optimizers(model, config)
    if state:
        load_moments(model, optimizers, state['optimizer'])
        del state

    log = None
    if rank == 0:
        os.makedirs(config.out_dir, exist_ok=True)
        log = Log(config, step, total)
        with configuration.replacing(os.path.join(config.out_dir, 'config.json')) as f:
            json.dump(configuration.as_dict(config), f, indent=1)
        print(f'{config.out_dir}: {sum(p.numel() for p in model.parameters()):,} parameters in {model.depth} layers, {total} '
              f'steps of {config.total_batch_size:,} tokens = {world} ranks x {micro_steps} micro-steps x {config.batch_size} '
              f'sequences on {device}' + (f', resumed at step {step}' if step else ''), flush=True)

    stop = []  # filled by the first signal; all ranks then agree on the step after which they stop
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, frame: stop.append(number))

    def record(kind: str, phase: schedule.Phase, **values):
        """One line of metrics.jsonl about the state after `step` updates."""
        if log:
            log.write({'kind': kind, 'step': step, 'tokens': step * config.total_batch_size,
                       'flops': schedule.compute(config, phases, 'flops', step),
                       'flops_paper': schedule.compute(config, phases, 'paper', step),
                       **{k: round(v, 3) for k, v in clock.items()},
                       'stage': phase.stage, 'phase': phase.phase, 'depth': model.depth, **values})

    def save(name: str, moments: bool):
        began = time.perf_counter()
        if rank == 0:
            checkpoint.save(os.path.join(config.out_dir, name), {
                'config': configuration.as_dict(config), 'tokenizer': meta['tokenizer'], 'depth': model.depth, 'step': step,
                'model': model.state_dict(), 'optimizer': moments_by_name(model, optimizers) if moments else {},
                'totals': {**clock, **data_tokens}})
            checkpoint.keep_last(config.out_dir, config.keep_checkpoints)
        clock['checkpoint_seconds'] += time.perf_counter() - began

    def evaluate():
        """Validation loss and HellaSwag of the model as it is, all ranks together, uncompiled.

        Not of an untrained model: its loss is the logarithm of vocab_size, its score chance.
        """
        if step == 0 and config.init_from == 'scratch':
            return
        began = time.perf_counter()
        values = {}
        if step == total or (config.eval_interval and step % config.eval_interval == 0):
            values['val_loss'] = validation_loss(model, val, val_sequences, config.batch_size, rank, world, amp)
        if examples and (step == total or step % config.hellaswag_interval == 0):
            with amp:
                scores = hellaswag.evaluate(model, examples, rank, world)
            values |= {f'hellaswag_{k}': scores[k] for k in ('acc', 'acc_norm', 'n')}
        clock['eval_seconds'] += time.perf_counter() - began
        if values:
            record('eval', schedule.phase_at(phases, max(0, step - 1)), **values)

    # -----------------------------------------------------------------------------------------------------------------
    # the loop. Step s is the state after s updates. A checkpoint at s is what update s left; its eval, and the growth that
    # may come next, belong to what follows, so that a run resumed at s does them again.
    batches = batch_stream(config, train, step, total, per_step, micro_steps, rank, device)
    batch = next(batches, None)
    stage_ends = {p.stage: p.stop for p in phases if p.phase != 'continual'}
    phase, window = None, (0.0, 0)  # (training seconds, step) at the last log line
    while True:
        evaluate()
        if step == total:
            break
        began = time.perf_counter()
        if phase is None or step == phase.stop:
            phase = schedule.phase_at(phases, step)
            if phase.depth > model.depth:
                optimizers = grow(config, model, optimizers, phase)
            model.freeze(phase.frozen, phase.embeddings)
            wrapped = wrap(model, compiled, world)
            if step == phase.start:
                record('phase', phase, n_frozen=phase.n_frozen)
            first_step, window = True, (clock['seconds'], step)

        # one update
        model.train()
        lr = schedule.lr_at(config, phases, step)
        loss_sum = torch.zeros((), device=device)
        with torch.autocast(device.type, enabled=False):  # autocast keeps the weights it has cast until the outermost ends
            for micro_step in range(micro_steps):
                if world > 1:  # gradients meet in the last micro-step only
                    wrapped.require_backward_grad_sync = micro_step == micro_steps - 1
                if config.dropout:
                    seed_dropout(config, step, rank * micro_steps + micro_step)
                with amp:
                    loss = wrapped(*batch)
                (loss / micro_steps).backward()
                loss_sum += loss.detach()
                batch = next(batches, None)  # read and sent while the device still computes
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        stats = torch.stack([loss_sum / (micro_steps * world), torch.tensor(float(len(stop)), device=device)])
        if world > 1:
            dist.all_reduce(stats)
        loss, stopping = stats.tolist()
        if first_step:
            check_gradients(model)
            first_step = False
        if not (math.isfinite(loss) and math.isfinite(norm)):
            not_finite(config, step, loss, float(norm), rank)
        if config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.grad_clip, norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group['lr'] = lr * group['lr_scale']
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        clock['seconds'] += time.perf_counter() - began

        if step % config.log_interval == 0 or step == total:
            seconds, steps = clock['seconds'] - window[0], step - window[1]
            record('train', phase, loss=loss, lr=lr, grad_norm=float(norm),
                   tok_per_sec=round(steps * config.total_batch_size / seconds))
            if log:
                spent = schedule.compute(config, phases, 'flops', step)
                rate = (spent - schedule.compute(config, phases, 'flops', window[1])) / seconds
                log.progress(phase, step, loss, lr, float(norm), steps * config.total_batch_size / seconds,
                             (schedule.compute(config, phases, 'flops') - spent) / rate)
            window = (clock['seconds'], step)
        stage_done = step == stage_ends.get(phase.stage)
        if stage_done:  # before the checkpoint, behind which a run that is killed here would go on
            save(f'stage_{phase.stage:02d}.pt', moments=False)
        if stopping or stage_done or step == total or (config.checkpoint_interval and step % config.checkpoint_interval == 0):
            save(f'ckpt_{step:06d}.pt', moments=True)
        if stopping:
            if rank == 0:
                print(f'stopped by a signal; saved at step {step}, go on with --resume', flush=True)
            break

    if log:
        log.close()
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
        # DDP leaves gloo's threads running (torch 2.13), and now and then Python's teardown under them aborts the process
        # after a run that is complete: a failure to torchrun, a restart with --max-restarts. So end without teardown.
        sys.stdout.flush()
        atexit.register(os._exit, 0)


# ---------------------------------------------------------------------------------------------------------------------
# before the first step


def join_ranks(device, rank: int, world: int):
    """init_process_group, such that it also works after a restart by torchrun --max-restarts.

    torchrun lends the ranks its own store, in which a restarted rank finds the addresses of dead ones (pytorch#135712, still
    so in torch 2.13) and hangs. So each attempt has names of its own there; over several nodes, that don't count restarts
    alike, the ranks need a store of their own, which torchrun gives them if asked. Raises UserError if it wasn't.
    """
    timeout = timedelta(minutes=20)  # no eval or save takes as long: what hangs for longer is an error, and may restart
    store = next(dist.rendezvous('env://', rank, world, timeout=timeout))[0]
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
        if os.environ['TORCHELASTIC_MAX_RESTARTS'] != '0' and os.environ['LOCAL_WORLD_SIZE'] != os.environ['WORLD_SIZE']:
            raise UserError('torchrun --max-restarts over several nodes works only with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 '
                            'in the environment of every torchrun')
        store = dist.PrefixStore(os.environ['TORCHELASTIC_RESTART_COUNT'], store)
    dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', store=store, rank=rank, world_size=world,
                            timeout=timeout)


def find_state(config: TrainConfig) -> dict | None:
    """The checkpoint to go on from, None to start. Raises UserError where out_dir and `resume` don't fit together."""
    holds_run = any(os.path.exists(os.path.join(config.out_dir, name)) for name in ('config.json', 'metrics.jsonl'))
    if not config.resume:
        if holds_run:
            raise UserError(f'{config.out_dir} already holds a run: go on with --resume, or choose another --out_dir')
        return None
    found = checkpoint.newest(config.out_dir)
    if found is None and config.resume == 'yes':
        raise UserError(f'{config.out_dir} holds no checkpoint to resume from; --resume=auto would start from step 0')
    return found[1] if found else None


def finished(config: TrainConfig, total: int) -> bool:
    """Whether the run in out_dir has its last evaluation."""
    path = os.path.join(config.out_dir, 'metrics.jsonl')
    if not os.path.exists(path):
        return False
    with open(path, 'rb') as f:
        lines = f.read().splitlines()
    return bool(lines) and lines[-1].startswith(b'{"kind": "eval", "step": %d,' % total) and lines[-1].endswith(b'}')


def check_same_run(config: TrainConfig, state: dict, data_tokens: dict, total: int):
    """Refuse to go on from a checkpoint whose settings would have led elsewhere; says the old and the new values.

    Settings marked free (intervals, device, micro-batch, ...) may change. Under a constant learning rate a run may also be
    made longer or shorter: the steps so far are the same.
    """
    old = schedule.resolve(configuration.from_dict(state['config'], config.out_dir))
    changed = [name for name, field in configuration.FIELDS.items()
               if not field.metadata['free'] and getattr(old, name) != getattr(config, name)]
    if config.lr_schedule == 'constant' and not config.stage_fractions and state['step'] <= total:
        changed = [name for name in changed if name not in ('continual_steps', 'baseline_steps', 'ledger')]
    if state['depth'] != schedule.phase_at(schedule.plan(config), max(0, state['step'] - 1)).depth and not changed:
        changed = ['depth']
    lines = [f'{name}: was {getattr(old, name, None)!r}, now {getattr(config, name, None)!r}' for name in changed]
    lines += [f'{name} in data_dir: was {state["totals"][name]}, now {n}' for name, n in data_tokens.items()
              if state['totals'].get(name) != n]
    if lines:
        raise UserError('\n  '.join([f"{config.out_dir} was made with other settings, which can't change on resume:", *lines]))


def rehearse(config: TrainConfig, device, amp, compiled: bool, val: data.Split, examples: list):
    """One micro-step, update and batch of each evaluation of a throw-away model at full depth with everything training, the
    most that any phase needs, so that running out of memory, and whatever breaks an evaluation, happens now and not at the
    last stage. Raises UserError if memory does not suffice."""
    try:
        model = GPT(checkpoint.gpt_config(configuration.as_dict(config))).to(device)
        wrap(model, compiled, 1)
        tokens = torch.zeros(config.batch_size, config.block_size, dtype=torch.int64, device=device)
        with amp:
            loss = model(tokens, tokens)
        loss.backward()
        optimizers = make_optimizers(model, config)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        validation_loss(model, val, min(config.batch_size, val.n_sequences), config.batch_size, 0, 1, amp)
        if examples:
            with amp:
                longest = hellaswag.make_batches(model, examples)[0]
                hellaswag.evaluate(model, [examples[i] for i, _ in longest])
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(f'out of memory at full depth ({config.n_layer} layers) with batch_size {config.batch_size}: '
                        'lower --batch_size, which changes nothing but speed') from None
    finally:
        model = loss = optimizer = optimizers = None
        if device.type == 'cuda':
            torch.cuda.empty_cache()


def load_initial_weights(model: GPT, config: TrainConfig):
    """Put the weights of init_from into the model. Raises UserError if its shape isn't the config's."""
    source, _ = checkpoint.load(config.init_from)
    wrong = [f'{name} is {theirs}, the config says {ours}' for name, theirs, ours in
             [('depth', source.depth, config.init_depth)] +
             [(k, getattr(source.config, k), getattr(config, k)) for k in ('n_head', 'n_embd', 'block_size', 'vocab_size')]
             if theirs != ours]
    if wrong:
        raise UserError(f"init_from {config.init_from}: its {'; its '.join(wrong)}")
    model.load_state_dict(source.state_dict())


def generator(config: TrainConfig, stage: int) -> torch.Generator:
    """The source of the weights that stage `stage` initialises: the same on every rank and after every resume."""
    return torch.Generator().manual_seed(config.seed * 1000 + stage)


# ---------------------------------------------------------------------------------------------------------------------
# phases: growing, wrapping, the optimizers


def grow(config: TrainConfig, model: GPT, optimizers: list, phase: schedule.Phase) -> list:
    """Grow the model to the phase's depth and return optimizers that cover it, moments carried over by grow_optimizer."""
    sources = [source for source, is_new in layout(config.grow_init, model.depth, phase.depth) if is_new]
    before = [dict(block.named_parameters()) for block in model.transformer.h]
    old_blocks = set(model.transformer.h)
    model.grow(phase.depth, config.grow_init, generator(config, phase.stage))
    old_state = {p: s for optimizer in optimizers for p, s in optimizer.state.items()}
    new_optimizers = make_optimizers(model, config)
    if config.grow_optimizer == 'reset':
        return new_optimizers
    if config.grow_optimizer == 'copy':
        new_blocks = [block for block in model.transformer.h if block not in old_blocks]
        for source, block in zip(sources, new_blocks):
            for name, p in block.named_parameters():
                moments = old_state.get(before[source][name]) if source is not None else None
                if moments:
                    old_state[p] = {k: v.clone() for k, v in moments.items()}
    for optimizer in new_optimizers:
        covered = {p for group in optimizer.param_groups for p in group['params']}
        optimizer.state.update({p: s for p, s in old_state.items() if p in covered})
    return new_optimizers


def wrap(model: GPT, compiled: bool, world: int):
    """The model as this phase trains it: blocks compiled one by one, and DDP over exactly the parameters that train.

    DDP fixes its hooks when it wraps, so it wraps anew in each phase.
    """
    if compiled:
        compile_blocks(model)
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if world > 1 else model


def moments_by_name(model: GPT, optimizers: list) -> dict:
    """Parameter name -> its optimizer state, for the checkpoint."""
    state = {p: s for optimizer in optimizers for p, s in optimizer.state.items()}
    return {name: dict(state[p]) for name, p in model.named_parameters() if p in state}


def load_moments(model: GPT, optimizers: list, moments: dict):
    """Give the optimizers the state that moments_by_name saved."""
    for optimizer in optimizers:
        covered = {p for group in optimizer.param_groups for p in group['params']}
        for name, p in model.named_parameters():
            if p in covered and name in moments:
                optimizer.state[p] = {k: v.to(p.device, copy=True) for k, v in moments[name].items()}


# ---------------------------------------------------------------------------------------------------------------------
# within a step


def batch_stream(config: TrainConfig, train: data.Split, step: int, total: int, per_step: int, micro_steps: int, rank: int,
                 device):
    """This rank's micro-batches (inputs, targets), each int64 (batch_size, block_size) on the device, from `step` on."""
    for s in range(step, total):
        for micro_step in range(micro_steps):
            first = (rank * micro_steps + micro_step) * config.batch_size
            arrays = train.batch_at(s, per_step, range(first, first + config.batch_size), config.shuffle, config.seed)
            yield to_device(arrays, device)


def to_device(arrays, device) -> list:
    """numpy arrays -> tensors on the device; to CUDA from pinned memory, without waiting."""
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
    return [t.pin_memory().to(device, non_blocking=True) for t in tensors] if device.type == 'cuda' else \
        [t.to(device) for t in tensors]


def seed_dropout(config: TrainConfig, step: int, micro_batch: int):
    """Dropout's masks are a function of the step and the micro-batch, whichever rank computes it."""
    torch.manual_seed((config.seed * 1_000_003 + step) * 100_003 + micro_batch)


@torch.no_grad()
def validation_loss(model: GPT, val: data.Split, n_sequences: int, batch_size: int, rank: int, world: int, amp) -> float:
    """Mean loss in nats per token over the first n_sequences of the val split, shared out over the ranks."""
    model.eval()
    device = model.transformer.wte.weight.device
    sums = []
    for first in range(rank * batch_size, n_sequences, world * batch_size):
        sequences = val.read(np.arange(first, min(first + batch_size, n_sequences)))
        x, y = to_device((sequences[:, :-1], sequences[:, 1:]), device)
        with amp:
            sums.append(model(x, y).float() * len(sequences))
    total = torch.tensor(sum(torch.stack(sums).tolist()) if sums else 0.0, dtype=torch.float64)
    if world > 1:
        total = total.to(device)
        dist.all_reduce(total)
    return total.item() / n_sequences


def check_gradients(model: GPT):
    """On a phase's first step: exactly what should train has a gradient. Frozen by accident, or not, is silent otherwise."""
    wrong = [f'{name} should {"" if p.requires_grad else "not "}train' for name, p in model.named_parameters()
             if p.requires_grad != (p.grad is not None)]
    assert not wrong, f'wrong set of gradients: {"; ".join(wrong)}'


def not_finite(config: TrainConfig, step: int, loss: float, norm: float, rank: int):
    """Stop with exit code 1, before the optimizer has seen the gradient. All ranks get here together."""
    if rank == 0:
        found = checkpoint.newest(config.out_dir)
        print(f'error: step {step}: loss {loss}, gradient norm {norm}: stopped before the update. ' +
              (f'The last good checkpoint is {found[0]}' if found else 'There is no checkpoint yet'), file=sys.stderr)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    sys.exit(1)


# ---------------------------------------------------------------------------------------------------------------------
# the log


class Log:
    """metrics.jsonl, the console and, where asked for, wandb. Rank 0 has one."""

    def __init__(self, config: TrainConfig, step: int, total: int):
        self.total, self.n_stages = total, config.n_stages
        path = os.path.join(config.out_dir, 'metrics.jsonl')
        kept = cut_metrics(path, step) if os.path.exists(path) else []
        with configuration.replacing(path) as f:
            f.writelines(kept)
        self.file = open(path, 'ab', buffering=0)
        self.wandb = None
        if config.wandb_project:
            import wandb

            self.wandb = wandb.init(project=config.wandb_project, name=config.run_name, id=config.run_name, resume='allow',
                                    config=configuration.as_dict(config))

    def write(self, line: dict):
        text = (json.dumps(line) + '\n').encode()
        try:
            while text:  # a disk that gets full takes a part, then refuses
                text = text[self.file.write(text):]
        except OSError as error:
            raise UserError(f'{self.file.name} could not be written ({error.strerror}); the last checkpoint is untouched: make '
                            'room, then go on with --resume') from None
        if line['kind'] == 'eval':
            scores = [f'{k} {line[k]:.4f}' for k in ('val_loss', 'hellaswag_acc', 'hellaswag_acc_norm') if k in line]
            print(f'step {line["step"]:05d}/{self.total} eval | {" | ".join(scores)}', flush=True)
        if self.wandb:
            self.wandb.log({f'{line["kind"]}/{k}': v for k, v in line.items() if k != 'kind'}, step=line['step'])

    def progress(self, phase: schedule.Phase, step: int, loss: float, lr: float, norm: float, rate: float, eta: float):
        where = f'stage {phase.stage}/{self.n_stages} {phase.phase.replace("phase", "phase ")} depth {phase.depth} ' \
                f'frozen {phase.n_frozen}'
        print(f'step {step:05d}/{self.total} ({100 * step // self.total}%) | {where} | loss {loss:.4f} | lr {lr:.2e} | '
              f'norm {norm:.2f} | {rate / 1000:.1f}k tok/s | eta {int(eta // 3600)}h{int(eta % 3600 // 60):02d}m', flush=True)

    def close(self):
        self.file.close()
        if self.wandb:
            self.wandb.finish()


def cut_metrics(path: str, step: int) -> list[str]:
    """The lines of metrics.jsonl that a run resumed at `step` won't write again: its evals and growth at `step` are still to
    come, its training line at `step` is not. Raises UserError for a line, other than a torn last one, that is no record."""
    kept = []
    with open(path, encoding='utf-8', errors='replace') as f:
        lines = f.readlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            keep = record['step'] <= step if record['kind'] == 'train' else record['step'] < step
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines):
                break  # a kill in the middle of a write
            raise UserError(f'{path}, line {number}: not a line of metrics; move the file away to go on without it') from None
        if keep and line.endswith('\n'):
            kept.append(line)
    return kept


if __name__ == '__main__':
    configuration.run(main)
