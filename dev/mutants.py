"""
Breaks the code on purpose, one place at a time, and tells which breaks the tests don't see.

    python dev/mutants.py                         all breaks
    python dev/mutants.py train.py rate --jobs=2  those with all of these texts in them, two at a time
    python dev/mutants.py --list                  only print them

A break replaces one piece of text, which must stand in its file exactly once, in a copy of the project in
a temporary folder, and the tests that should see it run there until the first one fails. A test that
never failed may be one that can't: whoever adds a test adds the break for which it is made.

The exit code is 1 if a break goes unseen that isn't explained or fewer than 95% are seen, and 2 if a
break doesn't fit the code any more or tests fail without one.
"""

import argparse
import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = ('.git', '.venv', 'out', 'data', 'results', '__pycache__', '.pytest_cache', '.ruff_cache')
LEAST_SEEN = 0.95
TIMEOUT = 600  # seconds
OUTPUT = 'output.txt'  # in each copy of the project: what pytest says
# By pytest's exit code. A test that hangs has seen the break, since it doesn't hang without one.
VERDICTS = {0: 'UNSEEN', 1: 'seen', -signal.SIGALRM: 'seen'}


@dataclass(frozen=True)
class Break:
    file: str
    what: str  # what is wrong then
    old: str
    new: str
    test_file: str
    chosen: str  # which of its tests: what pytest's -k takes; '': all
    unseen_because: str = ''  # why no test can see it, if so


BREAKS = []


def breaks(file: str, tests: str, *entries: tuple):
    """Entries are (what, old, new, tests, why it goes unseen), of which the last two may be left out.

    tests: a file in tests/ and, after a blank, what pytest's -k takes to choose from it. An entry's own may
    leave out the file.
    """
    usual_file, _, usual_choice = tests.partition(' ')
    for what, old, new, *rest in entries:
        own, because = (*rest, '', '')[:2]
        test_file, chosen = usual_file, own or usual_choice
        if own.startswith('test_'):
            test_file, _, chosen = own.partition(' ')
        BREAKS.append(Break(file, what, old, new, f'tests/{test_file}', chosen, because))


# ----------------------------------------------------------------------------------------------------------
# the breaks, file by file

COSINE = 'test_reference.py cosine'
WSD = 'test_reference.py wsd'
MUON = 'test_reference.py muon'
MAP = 'test_reference.py map'
DROPOUT = 'test_reference.py dropout'

breaks(
    'train.py', WSD,
    ("the learning rate is the next step's", 'lr = schedule.get_lr(config, phases, state.step)',
     'lr = schedule.get_lr(config, phases, state.step + 1)'),
    ('no optimizer gets the learning rate',
     'set_learning_rate(state.optimizers, lr, schedule.get_new_scale(config, phases, state.step))', 'pass'),
    ('gradients are not clipped', 'if config.grad_clip:', 'if False:', COSINE),
    ('a norm that is not finite passes', 'if not (math.isfinite(loss) and math.isfinite(grad_norm)):',
     'if not math.isfinite(loss):', 'finite'),
    ('a loss that is not finite passes', 'if not (math.isfinite(loss) and math.isfinite(grad_norm)):',
     'if not math.isfinite(grad_norm):', 'finite'),
    ('the gradient is the sum over micro-batches', '(loss / runtime.grad_accum_steps).backward()',
     'loss.backward()'),
    ("the logged loss is the last micro-batch's", 'loss_sum += loss.detach()',
     'loss_sum = runtime.grad_accum_steps * loss.detach()'),
    ('gradients are left for the next step', 'optimizer.zero_grad(set_to_none=True)', 'pass'),
    ('shuffle is ignored', 'rows, config.shuffle, config.seed)', 'rows, False, config.seed)', COSINE),
    ('the seed of the data is ignored', 'rows, config.shuffle, config.seed)', 'rows, config.shuffle, 1337)',
     COSINE),
    ('each micro-batch is the first one',
     'first = (runtime.rank * runtime.grad_accum_steps + micro_step) * config.batch_size',
     'first = runtime.rank * runtime.grad_accum_steps * config.batch_size'),
    ("every stage's new layers are the same", 'manual_seed(config.seed * 1000 + stage)',
     'manual_seed(config.seed * 1000 + 1)', COSINE),
    ('the seed of the weights is ignored', 'manual_seed(config.seed * 1000 + stage)',
     'manual_seed(1337 * 1000 + stage)', COSINE),
    ('dropout is the same in each step', '(config.seed * 1_000_003 + step)', '(config.seed * 1_000_003)',
     DROPOUT),
    ('dropout is the same with each seed', '(config.seed * 1_000_003 + step)', '(1_000_003 + step)',
     DROPOUT),
    ('dropout is the same in each micro-batch', ' * 100_003 + micro_batch', ' * 100_003', DROPOUT),
    ('nothing is autocast', 'with runtime.amp:\n                    loss = wrapped(*batch)',
     'if True:\n                    loss = wrapped(*batch)', 'bfloat16'),
    ('nothing freezes', 'model.freeze(phase.frozen, phase.embeddings)\n',
     'model.freeze((), phase.embeddings)\n'),
    ('embeddings never freeze', 'model.freeze(phase.frozen, phase.embeddings)\n',
     "model.freeze(phase.frozen, 'train')\n", COSINE),
    ('a wrong set of gradients passes', 'check_gradients(model)\n        if not', 'pass\n        if not',
     'test_train.py wrong_set'),
    ('gradients meet in the first micro-step',
     'wrapped.require_backward_grad_sync = micro_step == runtime.grad_accum_steps - 1',
     'wrapped.require_backward_grad_sync = micro_step == 0', 'test_ranks.py 4_ranks and flags0'),
    ("the logged loss is one rank's", 'dist.all_reduce(stats)', 'stats *= runtime.world_size',
     'test_ranks.py 4_ranks and flags0'),
    ("val_loss is the training split's", 'estimate_loss(state.model, run_data.val,',
     'estimate_loss(state.model, run_data.train,'),
    ('dropout stays off after an evaluation', 'model.train()\n        lr', 'lr', DROPOUT),
    ('HellaSwag is scored in the other style', "run_data.tokenizer, 'nanogpt',",
     "run_data.tokenizer, 'lm_eval',"),
    ('acc_norm is acc', "values[f'hellaswag_{name}'] = scores[name]",
     "values[f'hellaswag_{name}'] = scores[name.removesuffix('_norm')]"),
    ('evaluation is counted as training',
     "runtime.world_size, runtime.amp)\n    state.clock['eval_seconds'] += time",
     "runtime.world_size, runtime.amp)\n    state.clock['seconds'] += time"),
    ('saving is counted as training', "state.clock['checkpoint_seconds'] += time",
     "state.clock['seconds'] += time"),
    ('the same questions are scored with the training',
     "state.clock['eval_seconds'] += time.perf_counter() - began\n    if values",
     "state.clock['seconds'] += time.perf_counter() - began\n    if values"),
    ("growth is evaluated on the training's clock", 'began = time.perf_counter()\n        new_blocks',
     'new_blocks', 'wsd'),
    ('the loss before growth is the one after it',
     "values['val_loss_after'] = timed_loss(config, runtime, run_data, state)",
     "values['val_loss_after'] = values['val_loss_before']"),
    ('the margin is not logged', "'bits_stderr', 'margin', 'margin_stderr'", "'bits_stderr'"),
    ('two processes train in one folder', 'with locked(config.out_dir) if runtime.rank == 0 else',
     'with contextlib.nullcontext() if runtime.rank == 0 else', 'test_train.py lock or in_use'),
    ('a second Ctrl-C waits, too', 'if received:\n            die_of(signum)',
     'if False:\n            die_of(signum)', 'test_train.py second'),
    ('a resumed run begins with empty optimizers',
     "load_optimizer_state(model, optimizers, saved['optimizer'])", 'pass',
     'test_train.py stopping_anywhere and flags0'),
    ('a resumed run begins with no seconds', "clock = {name: saved['totals'][name] for",
     'clock = {name: 0.0 for', 'test_train.py stopping_anywhere'),
    ('no dry run', 'dry_run(config, runtime, run_data, examples)', 'pass',
     'test_train.py fails_at_full_depth'),
    ('a signal ends a run without saving', 'if stopping or stage_done or on_interval',
     'if stage_done or on_interval', 'test_train.py sigterm'),
)

breaks(
    'resume.py', 'test_train.py',
    ('settings may change on resume', 'if lines:\n        heading', 'if False:\n        heading',
     'refused_with_both'),
    ('a run is overwritten', 'elif holds_run(config.out_dir):', 'elif False:', 'never_overwritten'),
    ('a folder with a copied checkpoint alone is free', 'return bool(checkpoint.numbered(out_dir) or',
     'return bool(', 'test_checkpoint.py copied'),
    ('a branch may begin where the runs differ', "if saved['step'] > min(shared, last):", 'if False:',
     'test_study.py branch_is_refused'),
    ('other data may be gone on with', 'if before.get(name) != value:', 'if False:', 'other_data'),
    ('a change of the length is not said', 'if old_length != new_length:', 'if False:',
     'resume or longer or changes'),
    ('a change of the measure is not said', 'if was != now:', 'if False:', 'resume'),
)

breaks(
    'checkpoint.py', 'test_checkpoint.py',
    ('a damaged checkpoint takes a slot',
     'elif is_whole(path, os.stat(path).st_size, os.stat(path).st_mtime_ns):', 'elif True:', 'damaged'),
    ('later checkpoints stay in the way', 'if number > step:', 'if False:', 'aside or later'),
    ('a pickle may run code', 'weights_only=True, mmap', 'weights_only=False, mmap', 'run_code'),
    ('a flipped bit passes', 'damaged = archive.testzip()', 'damaged = None', 'damaged_are_told'),
    ('the oldest are kept', 'for step, path in reversed(numbered(run_dir)):\n        if step in keep',
     'for step, path in numbered(run_dir):\n        if step in keep', 'keep'),
    ('what was asked to be kept goes', 'if step in keep:', 'if False:', 'kept_for_good'),
    ('what was whole once is whole for good', 'os.stat(path).st_size, os.stat(path).st_mtime_ns', '0, 0',
     'takes_no_slot'),
    ('a damaged one is deleted', 'os.replace(path, target)', 'os.remove(path)', 'takes_no_slot'),
    ('one that is set aside is overwritten', 'while os.path.exists(target):', 'while False:', 'set_aside'),
    ('a file system without mmap ends a run', "if 'mmap' not in str(error):", 'if True:', 'maps_no_files'),
    ('heads that share nothing pass', 'if shape.n_head < 1 or shape.n_embd % shape.n_head:', 'if False:',
     'no_model_can_have'),
    ('another format passes', "or state['format'] != FORMAT", '', 'another_format'),
    ('a loaded model drops out', 'return model.to(device).eval(), info', 'return model.to(device), info',
     'known_of_it'),
    ('any vocabulary goes with any tokenizer', 'if not n <= vocab_size < n + LARGEST_PADDING:', 'if False:',
     'test_hellaswag.py mistakes_on_the_command_line'),
)

breaks(
    'metrics.py', 'test_metrics.py',
    ('a run is finished 60 steps early', "record['kind'] == 'eval' and record['step'] == total_steps",
     "record['kind'] == 'eval'", 'last_evaluation'),
    ('a record that is not finite passes', 'math.isfinite(v) and v >= 0', 'v >= 0'),
    ('steps may go back', 'if records and record[k] < records[-1][k]:', 'if False:'),
    ('an evaluation may be there twice', "if record['kind'] == 'eval' and record['step'] in evaluated:",
     'if False:', 'two_runs'),
    ('each start is another run', "before.get('run_id') or uuid", 'uuid'),
    ('a tracker is sent what it has', 'if self.sent and place <= self.sent:', 'if False:'),
    ('a resumed run repeats lines', "keep = record['step'] < step\n", "keep = record['step'] <= step\n",
     'resumed_run'),
)

breaks(
    'runlog.py', WSD,
    ('tokens per second are twice as many', "{'tok_per_sec': round(rate)}",
     "{'tok_per_sec': round(2 * rate)}"),
    ('speed is measured from the start on',
     "self.window = (state.clock['seconds'], state.step)\n        if self.writer is None:",
     'if self.writer is None:'),
    ('tokens are steps', "'tokens': state.step * self.config.total_batch_size", "'tokens': state.step",
     'test_train.py records_them'),
    ('FLOPs are of the whole run',
     "record['flops'] = schedule.compute(self.config, self.phases, 'flops', state.step)",
     "record['flops'] = schedule.compute(self.config, self.phases, 'flops')", 'test_train.py records_them'),
    ('the summary reads the loss in after the growth before it', "start.get('val_loss_after',",
     "start.get('val_loss_before',", 'test_train.py summary'),
)

breaks(
    'optim.py', COSINE,
    ('new layers warm up with the others', "if config.rewarm == 'new':", 'if False:', MAP),
    ('all layers warm up with the new ones', "group['lr'] *= new_scale", 'pass', MAP),
    ('weight decay on vectors', "'weight_decay': 0.0, 'is_new'",
     "'weight_decay': config.weight_decay, 'is_new'"),
    ('no weight decay on matrices', "'weight_decay': config.weight_decay, 'is_new'",
     "'weight_decay': 0.0, 'is_new'"),
    ('beta1 is fixed', '(config.beta1, config.beta2)', '(0.9, config.beta2)'),
    ('beta2 is fixed', '(config.beta1, config.beta2)', '(config.beta1, 0.95)'),
    ('epsilon is 1e-4', 'eps=1e-8', 'eps=1e-4', WSD),
    ("Muon takes AdamW's learning rate", 'lr, decay = config.muon_learning_rate, config.weight_decay',
     'lr, decay = config.learning_rate, config.weight_decay', MUON),
    ('Muon has no weight decay', 'lr, decay = config.muon_learning_rate, config.weight_decay',
     'lr, decay = config.muon_learning_rate, 0.0', MUON),
    ('Muon takes the embeddings too', 'p in model.transformer.h.parameters() if p.dim() == 2',
     'p in model.parameters() if p.dim() == 2', MUON),
    ("Muon's share of the learning rate is lost", "group['lr'] = lr * group['lr_scale']",
     "group['lr'] = lr", MUON),
    ('moments are kept where they should be reset', "if config.grow_optimizer == 'reset':", 'if False:',
     WSD),
    ('moments are reset where they should be kept', "if config.grow_optimizer == 'reset':", 'if True:'),
    ('copies of layers have no moments', "if config.grow_optimizer == 'copy':", 'if False:', MUON),
    ('new layers are resumed as old ones', 'if (p in just_grown) != is_new:', 'if is_new:',
     'test_recipes.py the_optimizers_get'),
    ("layers share their copies' moments", '{name: value.clone() for name, value in',
     '{name: value for name, value in', MUON),
)

breaks(
    'model.py', 'test_model.py',
    ('GELU is the exact one', "approximate='tanh'", "approximate='none'", 'transformers'),
    ('a token sees those after it', 'is_causal=causal', 'is_causal=False', 'transformers'),
    ('no final norm', 'return self.transformer.ln_f(x)', 'return x', 'transformers'),
    ('positions count from 1', 'torch.arange(idx.shape[1], device',
     'torch.arange(1, 1 + idx.shape[1], device', 'transformers'),
    ('residual projections are scaled by the depth so far', 'math.sqrt(2 * self.config.n_layer)',
     'math.sqrt(2 * max(1, self.depth))', COSINE),
    ('residual projections are not scaled', 'std=0.02 / math.sqrt(2 * self.config.n_layer)', 'std=0.02',
     'initialisation'),
    ('new layers are drawn from the global generator', 'nn.init.normal_(p, std=0.02, generator=generator)',
     'nn.init.normal_(p, std=0.02)', 'same_seed'),
    ('zero is random', "elif init == 'zero':", 'elif False:', 'test_recipes.py 12_layers_become_18'),
    ('a wrong layout is built', 'problem = problem_with(layers, len(old), depth)', "problem = ''",
     'test_growth.py wrong_operator'),
    ('a copy copies nothing', 'block.load_state_dict(copied.state_dict())', 'pass', 'layout_says'),
    ('zero is not zero', 'nn.init.zeros_(block.attn.c_proj.weight)', 'pass', 'zero'),
    ('new layers train while the model is evaluated', 'nn.ModuleList(blocks).train(self.training)',
     'nn.ModuleList(blocks)', 'models_mode'),
    ('what was frozen stays frozen', 'self.requires_grad_(True)\n', 'pass\n', 'every_time'),
    ('positions train where the input is frozen', "wpe.requires_grad_(embeddings == 'train')",
     "wpe.requires_grad_(embeddings != 'frozen')", 'every_time'),
    ('a frozen prefix keeps its graph', "self.cut_input = embeddings != 'train'",
     "self.cut_input = embeddings == 'frozen'", 'prefix'),
    ('attention drops out in evaluation', 'self.dropout if self.training else 0.0', 'self.dropout',
     'dropout'),
    ('what is recomputed is kept all the same',
     'return saved.shape if saved.data_ptr() == y_address else saved', 'return saved', 'recompute_linear'),
    ('the loss is not that of the target', 'return total.log() + top - target', 'return total.log() + top',
     'cross_entropy_of'),
    ('the gradient forgets the target', 'float32.scatter_add_(1, y, torch.full_like(total, -1 / n_rows))',
     'pass', 'cross_entropy_of'),
    ('the gradient is not that of the outer loss', 'dw.mul_(grad)', 'pass', COSINE),
    ('masks are ignored', 'block.forward(x, mask)', 'block.forward(x)', 'mask_hides'),
)

breaks(
    'schedule.py', 'test_schedule.py',
    ('warm-up begins at 0', 'high * (step + 1) / config.warmup_steps', 'high * step / config.warmup_steps',
     'closed_form'),
    ('cosine ends at 0', 'low + (high - low) * (1 + math.cos', '(high - low) * (1 + math.cos',
     'closed_form'),
    ('cosine begins with the warm-up', 'progress = (step - config.warmup_steps)', 'progress = step',
     'closed_form'),
    ('wsd decays over a tenth of the run', 'max(1, config.decay_fraction * total)', 'max(1, 0.1 * total)',
     'closed_form'),
    ('a layer needs no product for its input', 'backward += weights if i in phase.frozen else 2 * weights',
     'backward += weights', 'torchs_counter'),
    ('attention goes backward for half', 'backward += 2 * attention', 'backward += attention',
     'torchs_counter'),
    ('a frozen head costs as much', "head if phase.embeddings == 'frozen' else 2 * head", '2 * head',
     'torchs_counter'),
    ('the graph reaches down to the bottom', "lowest = 0 if phase.embeddings == 'train' else",
     'lowest = 0 if True else', 'torchs_counter'),
    ('the head is not counted', 'forward = phase.depth * (weights + attention) + head',
     'forward = phase.depth * (weights + attention)', 'torchs_counter'),
    ("frozen layers cost backward by the paper's ledger", 'phase.depth + (phase.depth - phase.n_frozen)',
     '2 * phase.depth', 'papers_closed_forms'),
    ("match counts by the paper's ledger", 'compute(other, plan(other), config.ledger)',
     "compute(other, plan(other), 'paper')", 'match'),
    ('early stages get fewer layers', '-(-to_grow * k // config.n_stages)',
     'to_grow * k // config.n_stages', 'eight_stages'),
    ('equal compute rounds up', 'return steps, round((budget - spent) / full)',
     'return steps, 2 + round((budget - spent) / full)', 'one_step_of_the_target'),
    ('trained parameters leave out biases', '12 * C * C + 13 * C', '12 * C * C', 'json_plan'),
    ('rates follow no stage', 'lr *= of_stage(config.stage_lr_scale, phase.stage)', 'pass', MAP),
    ('rates grow with depth', '** -config.lr_depth_power', '** config.lr_depth_power', MAP),
    ("continual training has its stage's rate", "if phase.phase != 'continual':", 'if True:', MAP),
    ('each stage freezes for as long', 'of_stage(config.phase1_fraction, stage)',
     'of_stage(config.phase1_fraction, 2)', MAP),
    ('runs share a step too many', "return step, f'learning rate of step {step}: ",
     "return step + 1, f'learning rate of step {step}: ", 'shared_prefix'),
    ('runs with other operators share all', 'if p.growths != q.growths or', 'if', 'shared_prefix'),
    ('hours are days', 'tflops / 3.6e15', 'tflops / 86.4e15', 'hours'),
    ('no layer has an infinite rate', 'max(1, phase.depth) / config.n_layer',
     'phase.depth / config.n_layer', 'no_layer'),
    ('rewarming skips a growth at step 0', 'if p.growths and p.start <= step]',
     'if p.growths and 0 < p.start <= step]', 'rewarming'),
    ('rewarming begins a step late', '(step - growths[-1] + 1)', '(step - growths[-1])', 'closed_form'),
    ('with rewarm new all layers warm up', "if config.rewarm == 'all':", 'if True:', 'closed_form'),
    ('layers of a stage without steps count as old', 'not is_new and has_trained[source]', 'not is_new',
     'without_steps'),
    ('a run may end below n_layer', 'if depth < config.n_layer:', 'if False:', 'no_one_means'),
    ('stages in which nothing grows pass', 'if config.n_stages > 1 and not any', 'if False and not any',
     'no_one_means'),
    ('a value of a stage without steps vanishes', 'steps == 0 and value != neutral', 'False',
     'no_one_means'),
    ('a plan 100 times too long passes', 'if own and total > 100 * own:', 'if False:', '100_times'),
    ('a wrong layout passes the plan', 'problem = problem_with(layers, old_depth, depth)', "problem = ''",
     'wrong_map'),
    ('a map beside an operator passes', "if init not in ('random', 'zero'):", 'if False:',
     'beside_an_operator'),
    ('fresh layers of a map are never zero', "fresh = 'zero' if init == 'zero' else 'random'",
     "fresh = 'random'", 'beside_zero'),
    ('a config may match itself', 'if target in matched:', 'if False:', 'matches_itself'),
    ('what a checkpoint has cost is its whole run', "compute(config, plan(config), ledger, info['step'])",
     'compute(config, plan(config), ledger)', 'test_recipes.py has_cost'),
    ('what came before a grown source is free', 'value + earlier[name]', 'value',
     'test_recipes.py itself_grown'),
    ('1,000 epochs are never questioned', 'if epochs <= 1000:', 'if True:', '1000_epochs'),
)

breaks(
    'common.py', 'test_common.py',
    ('what is written atomically never reaches the disk', 'os.fsync(f.fileno())', 'pass'),
    ('it reaches the disk but for the end', 'f.flush()', 'pass'),
    ('it is not written aside', "temporary = path + '.tmp'", 'temporary = path'),
    ('a failed write leaves a part', 'os.remove(temporary)', 'pass'),
    ('a mistake ends with code 1', 'sys.exit(2)', 'sys.exit(1)'),
    ('Ctrl-C is an ordinary exit', 'die_of(signal.SIGINT)', 'sys.exit(1)'),
    ("errors of the system's that name no file are hidden", 'if error.filename is None:', 'if False:'),
    ('files are ordered as text', 'return sorted(found)', 'return sorted(found, key=lambda pair: pair[1])',
     'test_checkpoint.py number or text or million'),
    ('any name with a number counts', 're.fullmatch(f', 're.match(f', 'test_checkpoint.py name'),
    ('a second process may come in', 'lock.acquire(timeout=timeout)', 'pass'),
    ('a second process waits', 'lock.acquire(timeout=timeout)', 'lock.acquire(timeout=3600)'),
    ('a repeated start gives up at once', "patience = 0 if restarts == ('0', '0') else RESTART_PATIENCE",
     'patience = 0', 'repeated_start'),
    ('a file system without locks ends a run',
     'if isinstance(error, OSError) and error.errno not in NO_LOCKS:', 'if True:', 'without_locks'),
    ('any error of a lock is passed over', 'if isinstance(error, OSError) and error.errno not in NO_LOCKS:',
     'if False:', 'no_reason'),
    ("a file's existence is a lock", "warnings.simplefilter('error', UserWarning)",
     "warnings.simplefilter('ignore', UserWarning)", 'without_locks'),
    ('the owner stays behind', 'os.remove(owner)', 'pass', 'dead_process'),
    ('any broken pipe is silent', 'if not is_closed(sys.stdout):', 'if False:', 'broken_pipe'),
    ('a character that a terminal lacks is a traceback', "stream.reconfigure(errors='replace')", 'pass',
     'question_mark'),
    ('every rank says it', "if os.environ.get('RANK', '0') == '0':", 'if True:', 'first_rank'),
)

breaks(
    'hellaswag.py', 'test_hellaswag.py',
    ('lm_eval normalizes by bytes', 'else len(ending))', 'else len(ending.encode()))',
     'characters_not_bytes'),
    ('nanogpt normalizes by characters', "len(scored) if each == 'nanogpt' else len(ending)", 'len(ending)',
     'normalization'),
    ('the last of equal endings wins', 'pred = sums.argmin(1)', 'pred = 3 - sums[:, ::-1].argmin(1)',
     'equal_endings'),
    ('the last of equal normalized endings wins', 'pred_norm = normed.argmin(1)',
     'pred_norm = 3 - normed[:, ::-1].argmin(1)', 'equal_endings'),
    ('scoring is in training mode', 'model.eval()\n    for batch', 'for batch', 'eval_mode'),
    ('scoring leaves a model in training mode', 'model.train(was_training)', 'model.train()', 'eval_mode'),
    ('bits are nats', 'per_byte = sums / math.log(2) / n_bytes', 'per_byte = sums / n_bytes', 'bits'),
    ('bits are per token', 'n_bytes.append(len(enc.decode_bytes(scored)))', 'n_bytes.append(len(scored))',
     'bits'),
    ('the margin is against the worst ending', 'margin = per_byte.min(1) - bits',
     'margin = np.where(np.isinf(per_byte), 0, per_byte).max(1) - bits', 'margin'),
    ('branches see each other', '& (i < to_device(ends)[:, None, :])', '', 'one_by_one and gpt2'),
    ('positions count on over branches', 'row.positions.append(position)',
     'row.positions.append(len(row.tokens) - 1)', 'packed_losses'),
    ('long contexts lose their end', 'sequence[-longest:]', 'sequence[:longest]', 'packed_losses'),
    ('standard errors are of a population', 'ddof=1 if n > 1 else 0', 'ddof=0', 'standard_errors'),
    ('blanks stay with the context', 'len(enc.encode_ordinary(context.rstrip()))',
     'len(enc.encode_ordinary(context))', 'lm_eval_style'),
    ('an empty context predicts nothing', 'joint[:n] or [enc.eot_token]', 'joint[:n] or [0]',
     'clean_up_leaves_empty'),
    ('ranks keep their shares', 'dist.all_reduce(shared)', 'pass', 'two_ranks'),
)

breaks(
    'questions.py', 'test_questions.py',
    ('ctx_b keeps its small letter', "example['ctx_b'].capitalize()", "example['ctx_b']", 'capitalized'),
    ('a title is no sentence', "replace(' [title]', '. ')", "replace(' [title]', '')", 'cleaned_up'),
    ('the limit is one more', 'if limit and len(examples) == limit:', 'if limit and len(examples) > limit:',
     'limit'),
    ('the fingerprint leaves out labels', "[example['ctx'], example['endings'], example['label']]",
     "[example['ctx'], example['endings']]", 'fingerprint'),
    ('a fifth ending passes', 'len(endings) != 4', 'len(endings) < 4', 'bad_line'),
    ('what was fetched is not looked at', 'read_examples(temporary, path)\n', 'pass\n',
     'before_it_is_stored'),
    ('what is fetched has one name on all machines', "f'{path}.{uuid.uuid4().hex}.tmp'", "f'{path}.tmp'",
     'share_a_disk'),
)

breaks(
    'paired.py', 'test_paired.py',
    ('the difference is the first less the second', 'stats.paired(second_values, first_values)',
     'stats.paired(first_values, second_values)'),
    ('other examples are compared all the same', 'if differs:', 'if False:'),
    ('styles are mixed', "if line['style'] == style:", 'if True:'),
)

breaks(
    'hugging_face.py', 'test_hugging_face.py',
    ('a head of its own is dropped', 'if not torch.equal(untied, embedding):', 'if False:', 'head'),
    ("a tokenizer of as many tokens is GPT-2's",
     'if numbers == list(range(n)) and hash_lines(tokens[:n]) == sha256:', 'if numbers == list(range(n)):',
     'another_tokenizer'),
    ('merges count for nothing', 'if hash_lines(merges) == sha256}', '}', 'another_tokenizer'),
    ('what tokenizer.json does first counts for nothing',
     "if normalizer is not None or splitter != 'ByteLevel':", 'if False:', 'another_tokenizer'),
    ('a file of another kind is overlooked', 'for file in (*OTHER_FILES, *readers):',
     'for file in readers:', 'another_tokenizer'),
    ('one file that fits is enough', 'known &= readers[file](path)', 'known |= readers[file](path)',
     'files_of_two'),
    ('numbers written as text are taken', 'if type(value) is not int or value < least:',
     'if value is None:', 'not_gpt2'),
    ('matrices are not transposed', 'return tensor.T', 'return tensor', 'transformers_logits'),
    ('a missing tokenizer is not said', "if os.environ.get('RANK', '0') == '0':", 'if False:',
     'missing_tokenizer'),
)

breaks(
    'export_hf.py', 'test_export_hf.py',
    ('padding is exported', 'weight = weight[:n_vocab]', 'weight = weight', 'same_logits and bytes'),
    ('the card counts the whole plan', 'spent = schedule.compute(config, phases, ledger, step)',
     'spent = schedule.compute(config, phases, ledger)', 'card_tells'),
    ('the card has a later score', "and record['step'] <= step", '', 'card_tells'),
    ('a model of others is overwritten', 'if taken:', 'if False:', 'refused_before'),
    ('nobody asks for the login', 'api.whoami()', 'pass', 'without_a_login'),
)

breaks(
    'sample.py', 'test_sample.py',
    ('padding is drawn', 'logits[0, :n_vocab]', 'logits[0]', 'padding'),
    ('the context keeps its beginning', 'tokens[-model.config.block_size:]',
     'tokens[:model.config.block_size]', 'cropped'),
    ('temperature counts for nothing', '(logits - logits.max()) / temperature)', '(logits - logits.max()))',
     'probabilities'),
    ('top_k takes one less', 'logits.topk(min(top_k, n_vocab)).values[-1]',
     'logits.topk(min(top_k, n_vocab)).values[-2]', 'top_k'),
    ('another vocabulary is spoken',
     "checkpoint.check_vocabulary(info['tokenizer'], model.config.vocab_size)", 'pass', 'fewer_rows'),
    ('all samples have one seed', 'seed = args.seed + i', 'seed = args.seed', 'same_seed'),
)

breaks(
    'stats.py', 'test_stats.py',
    ('variances are of a population', 'values.var(axis=-1, ddof=1)', 'values.var(axis=-1, ddof=0)',
     'equals_scipy'),
    ("degrees of freedom are Student's", '(one.n - 1)\n    se', 'one.n\n    se', 'equals_scipy'),
    ('p is one-sided', 'p = 2 * special.stdtr(df, -t)', 'p = special.stdtr(df, -t)', 'equals_scipy'),
    ('intervals are of 90%', '(1 + LEVEL) / 2', 'LEVEL', 'equals_scipy'),
    ("Holm is Bonferroni's", 'np.maximum(1, tests - np.arange(p.shape[-1]))', 'tests', 'holm'),
    ('corrected p values may fall', 'np.maximum.accumulate(scaled, axis=-1)', 'scaled', 'holm'),
    ('what is no test counts', 'np.sum(~np.isnan(p), axis=-1, keepdims=True)', 'p.shape[-1]', 'holm'),
    ('McNemar is one-sided', 'only_a + only_b).pvalue', "only_a + only_b, alternative='less').pvalue",
     'mcnemar'),
    ('what could be seen knows no correction', '1 - SIGNIFICANT / tests / 2', '1 - SIGNIFICANT / 2',
     'could_be_seen'),
    ('rungs of more seeds weigh as others', 'root = np.sqrt(self.n)', 'root = np.ones_like(self.n)',
     'weights'),
    ('a law that rises passes', 'if not A > 0:', 'if False:', 'do_not_fall'),
)

breaks(
    'tables.py', 'test_tables.py',
    ('numbers stand left', 'cell.rjust(widths[i])', 'cell.ljust(widths[i])'),
    ('Markdown reads names', "cell = cell.replace(mark, '\\\\' + mark)", 'pass'),
    ('LaTeX reads underscores as a command', "    '_': r'\\_',\n", ''),
    ('words are cut', 'parts = textwrap.wrap(cell, widths[i], break_on_hyphens=False)',
     'parts = [cell[:widths[i]]]'),
)

breaks(
    'growth.py', 'test_growth.py',
    ('a copy takes the place of the layer', '(source, source in seen)', '(source, source not in seen)'),
    ('stack begins with the second layer', 'i % old for i in range(new))',
     'i if i < old else (i + 1) % old for i in range(new))'),
    ('interleave doubles the upper layers first', 'i * old // new for i in range(new))',
     '(i * old + new - 1) // new for i in range(new))'),
    ('middle copies from below the middle', 'first = (old - count) // 2', 'first = 0'),
    ('a layout of too few layers passes', 'if len(layers) != new:', 'if len(layers) > new:'),
    ('a layer may be there twice', 'if kept.count(i) != 1:', 'if kept.count(i) < 1:'),
    ('the middle layer is the upper one', 'center = (old - 1) // 2', 'center = old // 2'),
    ('a layer that is not there may be copied', 'not 0 <= source < old', 'not 0 <= source'),
    ('a layer may be kept from nowhere', 'if len(kept) != old:', 'if False:'),
    ('from no layer an operator copies', 'if old == 0:', 'if False:'),
)

breaks(
    'data.py', 'test_data.py',
    ('targets are the inputs', 'return sequences[:, :-1], sequences[:, 1:]',
     'return sequences[:, :-1], sequences[:, :-1]', 'shifted'),
    ('every epoch has the same order', '[seed & 0xFFFFFFFF, epoch]', '[seed & 0xFFFFFFFF, 0]', 'shuffled'),
    ('the order ignores the seed', '[seed & 0xFFFFFFFF, epoch]', '[1337, epoch]',
     'shuffled or order_of_its_seed'),
    ('a sequence crosses two shards', 'max(0, (n_tokens - 1) // block_size)',
     'max(0, n_tokens // block_size)', 'cross_shards'),
    ('the second epoch goes on in the first order',
     'epoch, step = divmod(step, self.n_sequences // sequences_per_step)',
     'epoch, step = 0, step % (self.n_sequences // sequences_per_step)', 'exactly_once'),
    ('the last sequence of a shard has a wrong target', 'out[first:last, -1] = tokens[size::size]',
     'out[first:last, -1] = tokens[size - 1::size][:n]', 'cross_shards'),
    ('one token too many passes', '>= self.vocab_size:', '> self.vocab_size:', 'outside_the_vocabulary'),
    ('a shard may be longer than its header says', 'if size != expected:', 'if size < expected:',
     'bin_shard'),
    ('any magic number will do', 'if magic != MAGIC:', 'if False:', 'bin_shard'),
    ('any version will do', 'if version != VERSION:', 'if False:', 'bin_shard'),
    ('a shard of signed tokens passes', 'if dtype != np.uint16 or len(shape) != 1:', 'if len(shape) != 1:',
     'npy_shard'),
    ('any part of a name counts as a word', "words = re.split('[_.-]', os.path.basename(name))",
     'words = name', 'word or both_splits'),
    ('a name with both words is for training', 'if len(found) != 1:', 'if not found:',
     'word or both_splits'),
    ('a part of the data passes for all of it', "if meta.get('complete', True) is not True:", 'if False:',
     'complete'),
    ('a missing shard is not missed', "if not os.path.exists(os.path.join(data_dir, shard['file'])):",
     'if False:', 'is_not_there'),
    ('a short read is a truncated file', 'left = left[n_read:]', 'break', 'less_than_was_asked'),
    ('the fingerprint knows one split', "found[split] = {'tokens': n_tokens",
     "found['train'] = {'tokens': n_tokens", 'fingerprint'),
)

breaks(
    'device.py', 'test_device.py',
    ('all ranks take the first GPU', "return torch.device('cuda', local_rank)",
     "return torch.device('cuda', 0)", 'each_rank'),
    ('a GPU is chosen after the first allocation',
     '            torch.cuda.set_device(device)\n', '            torch.empty(1, device=device)\n'
     '            torch.cuda.set_device(device)\n', 'each_rank'),
    ('an old driver means the CPU', 'if is_hidden or not (reasons or gpus):', 'if True:', 'old_driver'),
    ("the allocator's settings are not the user's", 'if not any(name in os.environ for name in names):',
     'if True:', 'expandable'),
    ('ranks train apart', 'return DistributedDataParallel(model, gradient_as_bucket_view=True)',
     'return model', 'test_ranks.py 4_ranks and flags0'),
    ('bfloat16 wherever nothing is said',
     "'bfloat16' if has_bfloat16(device) else 'float32'\n    if dtype == 'bfloat16':",
     "'bfloat16'\n    if dtype == 'bfloat16':", 'autocast'),
)

breaks(
    'runs.py', 'test_runs.py',
    ('losses are interpolated in the compute itself', 'np.interp(np.log(x), np.log(xs), losses)',
     'np.interp(x, xs, losses)', 'logarithm'),
    ('weight decay is no part of an experiment',
     "if not field.metadata['free'] and name not in (*NOT_IDENTITY, *LENGTH):",
     "if not field.metadata['free'] and name not in (*NOT_IDENTITY, *LENGTH, 'weight_decay'):",
     'one_setting'),
    ('runs of other number formats are seeds',
     "settings['dtype'] = run.info.get('dtype', run.config.dtype)", "settings['dtype'] = ''",
     'one_setting'),
    ('a repeated seed counts', 'if first is not run:', 'if False:', 'repeated_seed'),
    ('an unfinished run is a seed', "alone = '' if run.finished else run.path", "alone = ''", 'unfinished'),
    ('an untrained model is a part of the curve',
     "kept = [record for record in evals if record['step'] > 0]", 'kept = evals', 'step_0'),
    ('data counts by its place', 'if content:\n            return content',
     'if False:\n            return content', 'content'),
    ('the steps of the first seed count', 'np.unique(np.concatenate([curve.step for curve in curves]))',
     'curves[0].step', 'other_steps'),
    ('the first learning rate counts', 'best = min(rivals, key=mean_final)', 'best = rivals[0]',
     'best_of_several'),
    ('seeds that chose are judged', 'best.left_out = () if best.biased else tuple(sorted(shared))',
     'best.left_out = ()', 'seeds_that_chose'),
    ('losses on other tokens are one curve', 'if self.val_tokens_of(r) == last]', ']',
     'other_validation_tokens'),
)

breaks(
    'judge.py', 'test_judge.py',
    ('clear means p below .2', 'if self.p < stats.SIGNIFICANT else', 'if self.p < 0.2 else'),
    ('p values are not corrected', 'corrected = stats.holm([difference.p for difference in differences])',
     'corrected = np.array([difference.p for difference in differences])'),
    ('a cost is its inverse', 'Ratio(end / baseline_needs, ', 'Ratio(baseline_needs / end, '),
    ("the difference is the baseline's less the run's", 'stats.contrast(loss - baseline_loss,',
     'stats.contrast(baseline_loss - loss,'),
    ('what lies before the first evaluation is guessed',
     "Ratio(end / baseline_needs, 'at least' if is_first else '')", 'Ratio(end / baseline_needs)'),
    ('what lies beyond the baseline is guessed', "'at most' if is_bound else ''", "''"),
    ('runs on other data are judged', 'if value != first.data[key]:', 'if False:',
     'test_compare.py other_data'),
    ('updates with frozen layers count as full', 'if phase.depth == phases[-1].depth and not phase.frozen:',
     'if phase.depth == phases[-1].depth:'),
    ('several baselines are guessed among', 'if len(arms) > 1 and not baselines:', 'if False:'),
    ('a run is judged by the baseline that is trained otherwise', 'return min(ladders, key=lambda',
     'return max(ladders, key=lambda'),
)

breaks(
    'ladder.py', 'test_judge.py',
    ('every run is judged by the longest baseline', 'abs(math.log(rung.budget / group.budget))',
     '-rung.budget'),
    ('a curve between rungs is a straight line in compute', 'np.interp(np.log(x), logs, unit)',
     'np.interp(x, self.compute, unit)', 'straight_lines or two_rungs or between'),
)

breaks(
    'words.py', 'test_compare.py',
    ('a bound is said as a value', "bound = f'{cost.bound} ' if cost.bound else ''\n        line",
     "bound = ''\n        line"),
    ('no word of a difference that the seeds cannot tell',
     "return text + '; no verdict: it takes two seeds or more a side (or --sigma)'", 'return text'),
)

breaks(
    'values.py', 'test_values.py',
    ('numbers are read in texts', 'if kind is str:\n        return text',
     'if kind is str:\n        return '
     "str(ast.literal_eval(text)) if text.replace('_', '').isdigit() else text"),
    ('1 is True', 'if type(value) is not kind or', 'if not isinstance(value, (kind, int)) or'),
    ('half a layer is none', 'type(value) is float and value.is_integer()', 'type(value) is float'),
    ('1e3 is no whole number', 'value = int(value)', 'pass'),
    ('what is not a number is one', 'or (kind is float and math.isnan(value))', ''),
    ('a comma makes no tuple', "is_tuple(one) != (',' in text)", 'is_tuple(one)'),
    ('a number stays a text where it may be one', 'key=lambda one: one is str)',
     'key=lambda one: one is not str)'),
    ('a row of numbers is no map', 'items = (items,)', 'pass', 'test_config.py means_what'),
)

breaks(
    'config.py', 'test_config.py',
    ('flags come before configs', 'values = given.configs | given.flags',
     'values = given.flags | given.configs', 'left_to_right'),
    ('what has no setting passes', 'if name not in FIELDS:\n        problems.append',
     'if name not in FIELDS:\n        [].append', 'all_mistakes'),
    ('bounds are not looked at', "number < bounds['at_least']", 'False', 'impossible'),
    ('a later config changes settings unseen', 'for origin, lines in changes.items():',
     'for origin, lines in ():', 'said or overlay or changes'),
    ('the seed is no part of the name', "if 'seed' in given.flags:", 'if False:', 'out_dir'),
    ('flags are no part of the name', 'if value == without or not changes_run:', "if name != 'seed':",
     'out_dir'),
    ('a resumed run follows its configs', 'if not changes_length(name):', 'if True:', 'forgotten'),
    ('match takes another scale', 'parts += given.paths[1:]', 'pass', 'match'),
    ('a home directory is a folder called ~', 'os.path.expanduser(part)', 'part', 'tilde'),
    ('a start takes what a killed one left', "or (resume and numbered(out_dir, 'ckpt_', '.pt'))",
     'or resume', 'without_a_checkpoint'),
    ('a forgotten flag is not said', "if kept and not given.configs.get('match'):", 'if False:',
     'forgotten'),
    ('other data is the same run', "or name == 'data_dir'", '', 'names_the_configs'),
    ("own data is scored by the demo's questions", 'replace(config, hellaswag_data=questions)',
     "replace(config, hellaswag_data='data/demo/hellaswag.jsonl')", 'questions'),
    ('bytes are scored by the official questions', 'hellaswag_interval=0)', 'hellaswag_interval=250)',
     'questions'),
    ('help has one width', 'shutil.get_terminal_size().columns', '80', 'help'),
    ('an old tracker is forgotten', "values |= {'tracker': 'wandb', 'tracker_project': value}", 'pass',
     'of_before'),
    ('any name is suggested', 'get_close_matches(name, FIELDS, 1, 0.7)',
     'get_close_matches(name, FIELDS, 1, 0.1)', 'no_suggestion'),
    ('the vocabulary is not rounded up', "return -(-meta['vocab_size'] // 64) * 64",
     "return meta['vocab_size']", 'vocab_size_0'),
)

breaks(
    'grid.py', 'test_study.py',
    ('a budget is half the compute', 'wanted = with_budget(config, budget, budget * full_step)',
     'wanted = with_budget(config, budget, budget * full_step // 2)', 'budgets_compute'),
    ('growth takes the same steps of each budget', 'growth_steps = round(config.growth_steps * share)',
     'growth_steps = config.growth_steps', 'same_share'),
)

breaks(
    'launch.py', 'test_study.py',
    ('slots may overlap', 'if len(set(devices)) < len(devices):', 'if False:', 'overlap'),
    ('all runs see all GPUs', "return {'CUDA_VISIBLE_DEVICES': ','.join(devices)}",
     "return {'CUDA_VISIBLE_DEVICES': '0,1,2,3'}", 'slots_gpu'),
    ('a failed run is tried for ever', 'if self.tries[run.folder] < TRIES:',
     'if self.tries[run.folder] < 9:', 'tried_once_more'),
)

breaks(
    'sample.py', 'test_sample.py',
    ('padding may be drawn', 'logits = logits[0, :n_vocab]', 'logits = logits[0]', 'padding'),
    ('the temperature multiplies', '/ temperature).softmax(0)', '* temperature).softmax(0)', 'temperature'),
    ('top_k is one more', 'logits.topk(min(top_k, n_vocab))', 'logits.topk(min(top_k + 1, n_vocab))',
     'top_k'),
    ("the context begins, not ends, the model's window", 'tokens[-model.config.block_size:]',
     'tokens[:model.config.block_size]', 'cropped'),
    ('all samples are the first', 'seed = args.seed + i', 'seed = args.seed', 'same_seed'),
)

breaks(
    'export_hf.py', 'test_export_hf.py',
    ('matrices lie as ours', 'transposed(name, weight)', 'weight', 'same_logits'),
    ('GELU is the exact one', "'activation_function': 'gelu_new'", "'activation_function': 'gelu'",
     'same_logits'),
    ('layers that have not grown are counted', "'n_layer': model.depth", "'n_layer': c.n_layer", 'grown'),
    ('padding is exported', 'weight = weight[:n_vocab]', 'pass', 'reads_it_back or tied'),
)

breaks(
    'hugging_face.py', 'test_hugging_face.py',
    ('any architecture passes', 'if theirs.get(name, allowed[0]) not in allowed:', 'if False:', 'not_gpt2'),
)

breaks(
    'documents.py', 'test_prepare_fineweb.py',
    ('documents have no end-of-text', 'text = EOT + text\n        n_marks += 1', 'pass',
     'every_document_in_order'),
    ('a text that spells end-of-text becomes one', 'if text.count(EOT) == n_marks:', 'if True:',
     'every_document_in_order'),
    ('all of the source is read ahead', 'if len(pending) == ahead:', 'if False:',
     'test_documents.py further_ahead'),
)

breaks(
    'sources.py', 'test_sources.py',
    ('hidden files are sources', "if not name.startswith('.') and file_format(path)[0]:",
     'if file_format(path)[0]:', 'in_order_and_once'),
    ('a file may be there twice', 'return list(dict.fromkeys(paths))', 'return paths', 'in_order_and_once'),
    ('the home folder is a folder called ~', 'pattern = os.path.expanduser(pattern)', 'pass', 'home'),
)

breaks(
    'prepare_fineweb.py', 'test_prepare_fineweb.py',
    ("a resumed run begins at a document's first token", 'writer.add(document, offset)',
     'writer.add(document, 0)', 'resumed_behind'),
    ('too many tokens are taken', 'while at < len(tokens) and self.total < self.limit:',
     'while at < len(tokens):', 'max_tokens_is_exact'),
    ('held-out documents are the first ones',
     'due = self.args.val_tokens * max(self.progress, self.total / self.limit)',
     'due = self.args.val_tokens', 'evenly'),
    ('used files of the Hub stay', 'if not self.args.source and not self.args.keep:', 'if False:',
     'few_of_the_hubs'),
    ('a part is said to be complete', "'complete': False", "'complete': True", 'stopped_by'),
)

breaks(
    'evaluate.py', WSD,
    ('a part of a batch weighs as a whole one', '.float() * len(sequences))', '.float() * batch_size)'),
    ('the loss is computed with dropout', 'model.eval()\n', 'pass\n', DROPOUT),
)

breaks(
    'study_file.py', 'test_study.py',
    ('the seeds that are judged tune, too', 'return 0 if 0 not in self.seeds else max(self.seeds) + 1',
     'return self.seeds[0]', 'best_value or records'),
    ('a misspelled name passes', 'if name not in STUDY_NAMES:', 'if False:', 'mistake'),
)

breaks(
    'bench.py', 'test_bench.py',
    ('the plain way is ours',
     'loss_of = prepare_plain(model, config) if job.is_plain else prepare(model, config)',
     'loss_of = prepare(model, config)', 'plain_way'),
    ('the plain way has our optimizer',
     'plain_optimizers(model) if job.is_plain else make_optimizers(model, config)',
     'make_optimizers(model, config)', 'plain_way'),
    ('the warm-up is counted', 'np.mean(timed[n_warm:], axis=0)', 'np.mean(timed, axis=0)', 'warm_up'),
    ("what is predicted is the paper's ledger",
     "predicted = schedule.compute(config, phases, 'flops') / schedule.step_cost(config, 'flops') / n_steps",
     "predicted = schedule.compute(config, phases, 'paper') / schedule.step_cost(config, 'paper') / n_steps",
     'ledgers_ratio'),
    ('the plain loss is another one', 'F.cross_entropy(model.logits(x).flatten(0, 1), y.flatten())',
     'F.cross_entropy(model.logits(x).flatten(0, 1), x.flatten())', 'plain_loss'),
)

breaks(
    'dry_run.py', 'test_dry_run.py',
    ('what is compiled first in a later phase is counted as training',
     'compile_graphs(model, tokens, runtime, schedule.plan(config))', 'compile_blocks(model)',
     'new_kind_of_block or before_step_0'),
    ('a missing compiler is a traceback', 'if reason and runtime.compiled:', 'if False:',
     'missing_compiler'),
    ('out of memory is a traceback', 'if is_out_of_memory(error):', 'if False:',
     'test_train.py out_of_memory'),
    ('no evaluation is tried', '    estimate_loss(model, run_data.val, n_sequences,',
     '    (lambda *args: 0)(model, run_data.val, n_sequences,', 'test_train.py fails_at_full_depth'),
)

breaks(
    'figure.py', 'test_figure.py',
    ("the band is a population's deviation", 'std(axis=-1, ddof=1)', 'std(axis=-1)', 'band'),
    ('the last point has no marker', 'marked = sorted({*range(0, len(x), every), len(x) - 1})',
     'marked = sorted({*range(0, len(x), every)})', 'last_point'),
    ('runs on other data are drawn',
     'if len(group.mean) and group.is_best and not is_other_data and not group.sunk:',
     'if len(group.mean) and group.is_best and not group.sunk:', 'other_data'),
)

breaks(
    'report.py', 'test_report.py',
    ("losses deviate as a population's", 'np.std(values, ddof=1)', 'np.std(values)', 'golden'),
    ('a multiplier is a cost', "multiplier = ratio(judgment.by_axis['flops'].cost.inverse())",
     "multiplier = ratio(judgment.by_axis['flops'].cost)", 'multiplier'),
    ('the baseline less the run', 'for path in (baseline, run)]', 'for path in (run, baseline)]', 'paired'),
)

breaks(
    'prepare_demo.py', 'test_prepare_demo.py',
    ('case and spacing tell texts apart', "re.sub('[^a-z0-9]', '', line.lower())", 'line', 'deduplicate'),
    ('windows go from one paragraph into the next',
     'is_inside = line_of[: len(hashes)] == line_of[WINDOW - 1 :]',
     'is_inside = line_of[: len(hashes)] >= 0', 'deduplicate or shares_32'),
    ('the right ending is always the first', 'label = int(labels[number])', 'label = 0',
     'examples or ending_alone or known'),
)

breaks(
    'data.py', 'test_data.py',
    ('hidden files are shards', " and not name.startswith('.'):\n            path = os.path.join(data_dir",
     ':\n            path = os.path.join(data_dir', 'hidden'),
    ('a fingerprint of the first shard alone', 'wanted -= len(start)', 'wanted = 0', 'fingerprint'),
    ('a fingerprint with the header', 'f.seek(offset)\n                    start', 'start', 'fingerprint'),
)

breaks(
    'sources.py', 'test_sources.py',
    ('two columns of one name pass', 'if n_columns > 1:', 'if False:', 'two_columns'),
    ('dictionaries are no strings', 'if pa.types.is_dictionary(kind):', 'if False:', 'string_type'),
    ('zeros after gzip are damage', "if compression == 'gzip':", 'if False:', 'padding'),
    ('deep brackets are a traceback', 'except (ValueError, RecursionError) as error:',
     'except ValueError as error:', 'no_document'),
    ('an array without its end passes', 'if is_array:\n                raise',
     'if False:\n                raise', 'no_document'),
    ('a value that goes on is an error', 'goes_on = reason.pos > len(text) - 16 or', 'goes_on = False and',
     'as_an_array'),
    ('a bad value is read on to the end', 'goes_on = reason.pos > len(text) - 16 or', 'goes_on = True or',
     'without_reading_all'),
    ('an empty file is damaged', 'if size == 0:\n        if kind', 'if False:\n        if kind',
     'without_a_byte'),
    ('all of the Hub is fetched ahead', 'wanted.acquire()', 'pass', 'fetched_ahead'),
    ('two of the Hub are fetched ahead', 'threading.Semaphore(2)', 'threading.Semaphore(3)',
     'fetched_ahead'),
    ('a text is cut within white space', 'and not text[cut - 1].isspace())', ')',
     'test_prepare_fineweb.py tokens_stay_the_same'),
    ('a row group is skipped too many', 'while group < len(sizes) and at + sizes[group] <= skip:',
     'while group < len(sizes) and at + sizes[group] <= skip + 1:', 'string_type'),
)

breaks(
    'documents.py', 'test_documents.py',
    ('the reader is one further ahead', 'if len(pending) == ahead:', 'if len(pending) > ahead:',
     'further_ahead'),
    ('end-of-text in a text is a mark', 'if text.count(EOT) == n_marks:', 'if True:', 'cut_into'),
    ('every piece begins a document',
     "return self.document == 0 or sources.file_format(self.path)[0] != 'text'", 'return True',
     'first_piece'),
    ('errors wait for the threads', 'pool.shutdown(wait=False, cancel_futures=True)', 'pool.shutdown()',
     'does_not_wait_for_a_thread'),
    ("a document's end is no new document", 'if at == len(self.tokens):', 'if False:', 'position'),
)

breaks(
    'prepare_fineweb.py', 'test_prepare_fineweb.py',
    ('two processes at once', 'with locked(args.out):', 'if True:', 'lock'),
    ('long documents are preferred', 'return self.n_held_out < due',
     'return self.n_held_out < due + 1000 * (self.total % 2)', 'evenly'),
    ('held-out documents after the last shard are lost', 'self.write_held_out()  # what came',
     'pass  # what came', 'after_a_full_shard'),
    ('how many were held out is not kept', "self.n_held_out = shards[-1]['held_out']",
     "self.n_held_out = shards[0]['tokens']", 'missing_held_out'),
    ('how far the source was is not kept', "self.progress = shards[-1]['progress']", 'self.progress = 0.0',
     'after_a_full_shard'),
    ('a held-out shard that is ahead is damaged',
     'return found == n_tokens or (or_more and found > n_tokens)', 'return found == n_tokens',
     'goes_on_after_any_shard'),
    ('every document loses its first tokens', 'offset = 0  # only', 'pass  # only', 'resumed_behind'),
    ("the Hub's file in use is deleted", "for entry in meta['sources'][: position[0]]:",
     "for entry in meta['sources'][: position[0] + 1]:", 'few_of_the_hubs'),
    ('a corpus that is too small is tokenized first', 'check_size(args, files)', 'pass', 'before_the_work'),
    ('the only shard stays', "os.remove(os.path.join(self.args.out, shard['file']))", 'pass',
     'exactly_one_shard'),
    ('sources that are gone are asked for', "if args.source and meta['complete']:",
     'if args.source:\n        local_files(args)\n    if False:', 'are_gone'),
    ('ready shards of one name', 'if name in paths:', 'if False:', 'names_cannot_be'),
    ('shards of a longer source stay', 'self.remove_left_over()', 'pass', 'was_longer'),
    ('a shard of someone else is overwritten', 'if not is_ours(meta) and (there or has_meta):', 'if False:',
     'someone_elses'),
)

breaks(
    'values.py', 'test_config.py',
    ('numbers are read in texts', 'if kind is str:\n        return text',
     'if kind is str:\n        return text.replace("_", "")', 'flag_means'),
    ('1 is True', 'if type(value) is not kind or', 'if not isinstance(value, (kind, int)) or',
     'can_not_be_refused or all_mistakes or another_type'),
)

# ----------------------------------------------------------------------------------------------------------
# running them


def run_tests(test_file: str, chosen: str) -> int:
    """pytest's exit code, in this process and folder: 0 all passed, 1 some failed, else it couldn't run."""
    import pytest

    return int(pytest.main(['-x', '-q', '-p', 'no:cacheprovider', test_file, '-k', chosen]))


@dataclass(frozen=True)
class Result:
    item: object
    code: int
    seconds: float
    folder: Path

    def last_words(self) -> str:
        """The end of what pytest said, until another item is run in the same folder."""
        return '\n'.join((self.folder / OUTPUT).read_text(encoding='utf-8').splitlines()[-12:])


def run_in_fork(folder: Path, test_file: str, chosen: str) -> int:
    """Start run_tests in a fork of this process, which has imported what takes long. Returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        signal.alarm(TIMEOUT)  # whose signal nobody handles, and so ends the fork
        os.chdir(folder)
        output = os.open(OUTPUT, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(output, number)
        code = run_tests(test_file, chosen)
    finally:
        os._exit(code)


def in_parallel(jobs: int, items: list):
    """Run the tests of each item, `jobs` at a time, in copies of the project.

    An item is a Break, which is in place then, or a list of Breaks of one test file, of which none is: all
    tests that they choose are run. Yields a Result each, in the order in which they get done.
    """
    with tempfile.TemporaryDirectory() as temporary:
        free = []
        for number in range(min(jobs, len(items))):
            folder = Path(temporary, str(number))
            shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
            free.append(folder)
        waiting = list(items)
        running = {}
        while waiting or running:
            while waiting and free:
                item = waiting.pop(0)
                folder = free.pop()
                whole = ''
                if isinstance(item, Break):
                    whole = (folder / item.file).read_text(encoding='utf-8')
                    (folder / item.file).write_text(whole.replace(item.old, item.new), encoding='utf-8')
                    pid = run_in_fork(folder, item.test_file, item.chosen)
                else:
                    pid = run_in_fork(folder, item[0].test_file, choices_of(item))
                running[pid] = item, folder, whole, time.perf_counter()
            pid, status = os.wait()
            item, folder, whole, began = running.pop(pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what a test that hung has left
            if isinstance(item, Break):
                (folder / item.file).write_text(whole, encoding='utf-8')
            free.append(folder)
            yield Result(item, os.waitstatus_to_exitcode(status), time.perf_counter() - began, folder)


def choices_of(same_file: list) -> str:
    """What pytest's -k takes to choose all that some breaks choose from one test file."""
    choices = {broken.chosen for broken in same_file}
    if '' in choices:
        return ''
    return ' or '.join(f'({choice})' for choice in sorted(choices))


def is_meant(broken: Break, texts: list) -> bool:
    return all(text in f'{broken.file}: {broken.what}' for text in texts)


def misfits(chosen: list) -> list:
    """What is wrong with the breaks themselves, a line each."""
    problems = []
    for broken in chosen:
        count = (ROOT / broken.file).read_text(encoding='utf-8').count(broken.old)
        if count != 1:
            problems.append(f'{broken.file}: {broken.what}: the text to break stands there {count} times')
    return problems


def main() -> int:
    args = parse_args()
    chosen = [broken for broken in BREAKS if is_meant(broken, args.texts)]
    problems = misfits(chosen)
    if args.list:
        for broken in chosen:
            print(f'{broken.file}: {broken.what} ({broken.test_file} -k {broken.chosen!r})')
    elif not problems:
        prepare_to_fork()
        problems = failures_without_breaks(chosen, args.jobs)
    if problems or args.list:
        print('\n'.join(problems))
        return 2 if problems else 0

    unseen = []
    for result in in_parallel(args.jobs, chosen):
        broken = result.item
        verdict = VERDICTS.get(result.code, f'BROKE {result.code}')
        where = f'{broken.test_file}, {result.seconds:.0f} s'
        print(f'{verdict:<8} {broken.file}: {broken.what} ({where})', flush=True)
        if verdict != 'seen':
            unseen.append(broken)
    n_seen = len(chosen) - len(unseen)
    print(f'{n_seen} of {len(chosen)} breaks seen')
    for broken in unseen:
        print(f'  not: {broken.file}: {broken.what}: {broken.unseen_because or "no explanation"}')
    explained = all(broken.unseen_because for broken in unseen)
    return 0 if explained and n_seen >= LEAST_SEEN * len(chosen) else 1


def parse_args() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument('texts', nargs='*', help='only breaks with all of these in their file or description')
    parser.add_argument('--jobs', type=int, default=1, help='how many at a time; default 1')
    parser.add_argument('--list', action='store_true', help='print them, run nothing')
    return parser.parse_args()


def prepare_to_fork():
    """Settings and imports that all forks share."""
    os.environ['OMP_NUM_THREADS'] = '1'
    # No bytecode: two versions of a file within a second would look the same to Python.
    os.environ['PYTHONDONTWRITEBYTECODE'] = '1'
    sys.dont_write_bytecode = True
    for name in ('torch', 'scipy.stats', 'pytest'):  # a second or more each; nothing of the project itself
        importlib.import_module(name)


def failures_without_breaks(chosen: list, jobs: int) -> list:
    """The test files that fail with nothing broken, a line each: they would seem to see everything."""
    by_test_file = {}
    for broken in chosen:
        by_test_file.setdefault(broken.test_file, []).append(broken)
    problems = []
    for result in in_parallel(jobs, list(by_test_file.values())):
        test_file = result.item[0].test_file
        print(f'whole    {test_file} ({result.seconds:.0f} s)', flush=True)
        if result.code != 0:
            problems.append(f'{test_file}: pytest ends with {result.code} although nothing is broken:\n'
                            f'{result.last_words()}')
    return problems


if __name__ == '__main__':
    sys.exit(main())
