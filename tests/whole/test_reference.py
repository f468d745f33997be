"""
Whole runs of train.py beside a plain re-implementation. Run: python -m pytest tests/whole/test_reference.py

The re-implementation shares no line with the project: its blocks are torch's TransformerEncoderLayer,
AdamW and the learning rates are written out, numpy reads the shards, a step is one batch instead of some
micro-batches, and all of it is float64. train.py is known here by its command line and by the files that
a run writes, so that its inside may change freely. Both must agree, to 1e-4, on each step's loss,
learning rate and gradient norm, on the validation losses and HellaSwag scores, and on the weights at the
end of each stage and of the run.

A fake clock moves only when the optimizer steps, an evaluation begins or a state is taken to be saved:
the logged seconds are exact numbers, on however busy a machine.
"""

import copy
import dataclasses
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

import train

VOCAB, WIDTH, HEADS, BLOCK = 320, 16, 2, 32  # vocab_size, n_embd, n_head, block_size
SEQUENCES = 8  # a step takes 8 sequences of 32 tokens: two micro-batches of 4
VAL_SEQUENCES = 18  # the last batch of a validation holds 2 instead of 4
STEPS, FINAL_DEPTH = 24, 4
LEARNING_RATE, MIN_LR = 1e-2, 1e-3
QUESTIONS_SEED = 29  # one with which no choice is so close that rounding decides

SETTINGS = {
    # the model
    'vocab_size': VOCAB,
    'n_layer': FINAL_DEPTH,
    'n_head': HEADS,
    'n_embd': WIDTH,
    'block_size': BLOCK,
    # the plan: 2, 3, 4 layers from steps 0, 6, 12 on, at first new ones train alone; 6 steps at the end
    'n_stages': 3,
    'stage_steps': '6,6,6',
    'continual_steps': 6,
    'learning_rate': LEARNING_RATE,
    'min_lr': MIN_LR,
    'total_batch_size': SEQUENCES * BLOCK,
    'batch_size': 4,
    # what is logged and saved
    'eval_interval': 4,
    'val_tokens': VAL_SEQUENCES * BLOCK,
    'hellaswag_interval': 8,
    'checkpoint_interval': 5,
    'keep_checkpoints': 100,
    'dtype': 'float32',
    'device': 'cpu',
}

# What the fake clock counts seconds for: a sum of one kind can't be mistaken for a sum of another. Updates
# take these by turns, so that the mean speed since the last line is another one than since the start.
UPDATE_SECONDS = (0.5, 0.25, 1.0, 0.75, 0.5)
SAVE_SECONDS, EVAL_SECONDS = 100.0, 10_000.0

@dataclass
class Recipe:
    """The settings in which the runs differ, under train.py's names."""

    phase1_embeddings: str
    grow_init: str
    grow_optimizer: str
    lr_schedule: str
    seed: int = 1337
    shuffle: bool = False
    warmup_steps: int = 0
    rewarm_steps: int = 0
    decay_fraction: float = 0.1
    grad_clip: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    optimizer: str = 'adamw'
    muon_learning_rate: float = 0.02
    log_interval: int = 1
    # one value, or one for each stage
    phase1_fraction: float | tuple = 0.5
    stage_lr_scale: float | tuple = 1.0
    lr_depth_power: float = 0.0
    rewarm: str = 'all'
    grow_map: tuple = ()

RECIPES = {
    'cosine': Recipe(
        'input_frozen', 'random', 'keep', 'cosine',
        seed=7,
        shuffle=True,
        warmup_steps=3,
        rewarm_steps=2,
        grad_clip=0.7,
        beta1=0.8,
        beta2=0.97,
        weight_decay=0.3,
    ),
    'wsd': Recipe(
        'train', 'interleave', 'reset', 'wsd',
        warmup_steps=2,
        decay_fraction=0.4,
        log_interval=3,
    ),
    'muon': Recipe(
        'frozen', 'stack', 'copy', 'constant',
        shuffle=True,
        warmup_steps=4,
        weight_decay=0.2,
        optimizer='muon',
        muon_learning_rate=4e-3,
    ),
    'map': Recipe(
        'input_frozen', 'random', 'copy', 'wsd',
        decay_fraction=0.25,
        rewarm_steps=4,
        rewarm='new',
        phase1_fraction=(0.0, 0.5, 0.2),
        stage_lr_scale=(1.5, 0.5, 0.8),
        lr_depth_power=0.25,
        grow_map=((-1, 0, 1), (0, 1, 1, 2)),
    ),
}

# The layers after growing from 2 to 3 and from 3 to 4, from the bottom: (old layer or None, is it new?).
GROWTHS = {
    'random': (((0, False), (1, False), (None, True)),
               ((0, False), (1, False), (2, False), (None, True))),
    'interleave': (((0, False), (0, True), (1, False)),
                   ((0, False), (0, True), (1, False), (2, False))),
    'stack': (((0, False), (1, False), (0, True)),
              ((0, False), (1, False), (2, False), (0, True))),
    'map': (((None, True), (0, False), (1, False)),
            ((0, False), (1, False), (1, True), (2, False))),
}

# ----------------------------------------------------------------------------------------------------------
# the data

def write_shard(path: Path, text: str):
    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.uint16)
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, len(tokens)
    path.write_bytes(header.tobytes() + tokens.tobytes())

def write_meta(folder: Path):
    meta = {'tokenizer': 'bytes', 'vocab_size': 257, 'eot': 256}
    (folder / 'meta.json').write_text(json.dumps(meta))

def write_data(folder: Path):
    """Two shards for training and one for validation, of words in no period, and questions about them."""
    text = 'the quick brown fox jumps over a lazy dog while slow red hens sit under an old oak tree'
    words = text.split()
    rng = np.random.RandomState(0)
    write_shard(folder / 'words_train_000001.bin', ' '.join(rng.choice(words, 500)))
    write_shard(folder / 'words_train_000002.bin', ' '.join(rng.choice(words, 300)))
    # Validation is of fewer words: what is computed on the wrong split has clearly another loss.
    write_shard(folder / 'words_val_000000.bin', ' '.join(rng.choice(words[3:], 300)))
    write_meta(folder)

    rng = np.random.RandomState(QUESTIONS_SEED)
    lines = []
    for number in range(30):
        # Endings of one to three words, some with letters of two bytes: the sum, the mean per token and the
        # mean per character of an ending's losses choose differently, and so do the two styles of scoring.
        endings = []
        while len(endings) < 4:
            ending = ' '.join(rng.choice(['fox', 'dog', 'hens', 'öäü', 'tree'], rng.randint(1, 4)))
            if ending not in endings:
                endings.append(ending)
        question = {'ind': number, 'ctx': 'the ' + rng.choice(words), 'endings': endings,
                    'activity_label': 'Hens', 'ctx_a': 'An oak.', 'ctx_b': 'the fox',
                    'label': int(rng.randint(4))}
        lines.append(json.dumps(question) + '\n')
    (folder / 'questions.jsonl').write_text(''.join(lines))

def read_sequences(folder: Path, split: str) -> np.ndarray:
    """All sequences of a split, int64 (n, BLOCK + 1): they overlap by one token and never cross shards."""
    sequences = []
    for path in sorted(folder.glob(f'words_{split}_*.bin')):
        tokens = np.fromfile(path, np.uint16, offset=1024)
        # The last target needs a token of its own, hence one less than fit.
        for first in range(0, len(tokens) - BLOCK, BLOCK):
            sequences.append(tokens[first : first + BLOCK + 1])
    return np.array(sequences, np.int64)

def batch_of_step(sequences: np.ndarray, recipe: Recipe, step: int) -> torch.Tensor:
    """The sequences of a step, (SEQUENCES, BLOCK + 1): in file order, or in an order drawn for each epoch."""
    steps_per_epoch = len(sequences) // SEQUENCES
    epoch = step // steps_per_epoch
    first = step % steps_per_epoch * SEQUENCES
    order = np.arange(len(sequences))
    if recipe.shuffle:
        order = np.random.RandomState([recipe.seed, epoch]).permutation(len(sequences))
    return torch.from_numpy(sequences[order[first : first + SEQUENCES]])

# ----------------------------------------------------------------------------------------------------------
# the model

# torch's name of a part -> nanoGPT's
NAMES = {'norm1': 'ln_1', 'self_attn.in_proj_': 'attn.c_attn.', 'self_attn.out_proj': 'attn.c_proj',
         'norm2': 'ln_2', 'linear1': 'mlp.c_fc', 'linear2': 'mlp.c_proj'}

def gelu(x):
    return F.gelu(x, approximate='tanh')

def make_layer(generator: torch.Generator) -> torch.nn.Module:
    """A GPT-2 block: normal with std 0.02, residual projections smaller by the final depth, biases zero."""
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation=gelu,
                                             batch_first=True, norm_first=True)
    residual_std = 0.02 / math.sqrt(2 * FINAL_DEPTH)
    with torch.no_grad():
        layer.self_attn.in_proj_weight.normal_(0, 0.02, generator=generator)
        layer.self_attn.out_proj.weight.normal_(0, residual_std, generator=generator)
        layer.linear1.weight.normal_(0, 0.02, generator=generator)
        layer.linear2.weight.normal_(0, residual_std, generator=generator)
        layer.linear1.bias.zero_()
        layer.linear2.bias.zero_()
    # Rounding in float32 can then be the run's alone, which says how near the two must come.
    return layer.double()

class ReferenceGPT(torch.nn.Module):
    def __init__(self, depth: int, generator: torch.Generator):
        super().__init__()
        # Drawn in float32, whose stream of random numbers is another than float64's.
        wte = torch.empty(VOCAB, WIDTH).normal_(0, 0.02, generator=generator)
        wpe = torch.empty(BLOCK, WIDTH).normal_(0, 0.02, generator=generator)
        self.wte = torch.nn.Parameter(wte.double())
        self.wpe = torch.nn.Parameter(wpe.double())
        self.layers = torch.nn.ModuleList(make_layer(generator) for _ in range(depth))
        self.norm = torch.nn.LayerNorm(WIDTH).double()
        self.new_layers = ()  # those of the last growth
        self.freeze((), 'train')

    def forward(self, tokens):  # (B, T) -> logits (B, T, VOCAB)
        T = tokens.shape[1]
        x = self.wte[tokens] + self.wpe[:T]
        if self.embeddings != 'train':
            x = x.detach()  # what the tied embedding learns in this phase comes from the head
        causal = torch.nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
        for layer in self.layers:
            x = layer(x, src_mask=causal, is_causal=True)
        return self.norm(x) @ self.wte.T

    def loss(self, sequences):  # (B, T + 1) -> mean cross-entropy
        logits = self(sequences[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten())

    def freeze(self, layers: tuple, embeddings: str):
        self.requires_grad_(True)
        for i in layers:
            self.layers[i].requires_grad_(False)
        self.wpe.requires_grad_(embeddings == 'train')
        self.wte.requires_grad_(embeddings != 'frozen')
        self.embeddings = embeddings

    def weights(self) -> dict:
        """A copy of the weights as they are now, under nanoGPT's names."""
        copies = {'transformer.wte.weight': self.wte, 'transformer.wpe.weight': self.wpe,
                  'transformer.ln_f.weight': self.norm.weight, 'transformer.ln_f.bias': self.norm.bias}
        for i, layer in enumerate(self.layers):
            for name, weight in layer.named_parameters():
                for theirs, nanogpts in NAMES.items():
                    name = name.replace(theirs, nanogpts)
                copies[f'transformer.h.{i}.{name}'] = weight
        return {name: weight.detach().clone() for name, weight in copies.items()}

# ----------------------------------------------------------------------------------------------------------
# learning rates and optimizers

def learning_rate(recipe: Recipe, step: int) -> float:
    """Of update number `step`, from 0. The depth grows before updates 6 and 12."""
    if step < recipe.warmup_steps:
        return LEARNING_RATE * (step + 1) / recipe.warmup_steps
    share = 1.0  # of the way from MIN_LR up to LEARNING_RATE
    if recipe.lr_schedule == 'cosine':
        progress = (step - recipe.warmup_steps) / (STEPS - recipe.warmup_steps)
        share = (1 + math.cos(math.pi * progress)) / 2
    if recipe.lr_schedule == 'wsd':
        decay_steps = recipe.decay_fraction * STEPS
        share = min(1.0, (STEPS - step) / decay_steps)
    rate = MIN_LR + share * (LEARNING_RATE - MIN_LR)
    if recipe.rewarm == 'all':
        rate *= rewarming(recipe, step)
    stage = step // 6
    depth = min(2 + stage, FINAL_DEPTH)
    rate *= (depth / FINAL_DEPTH) ** -recipe.lr_depth_power
    if stage < 3 and isinstance(recipe.stage_lr_scale, tuple):
        rate *= recipe.stage_lr_scale[stage]
    return rate

def rewarming(recipe: Recipe, step: int) -> float:
    for growth in (6, 12):
        if growth <= step < growth + recipe.rewarm_steps:
            return (step - growth + 1) / recipe.rewarm_steps
    return 1.0

class AdamW:
    """The update of Loshchilov and Hutter (2019) for one parameter, which keeps its own count of updates."""

    def __init__(self, parameter, recipe: Recipe):
        self.beta1, self.beta2 = recipe.beta1, recipe.beta2
        self.weight_decay = recipe.weight_decay if parameter.dim() == 2 else 0.0  # none for biases and norms
        self.updates = 0
        self.mean = torch.zeros_like(parameter)
        self.square = torch.zeros_like(parameter)

    def update(self, parameter, gradient, lr: float):
        self.updates += 1
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * gradient
        self.square = self.beta2 * self.square + (1 - self.beta2) * gradient**2
        mean = self.mean / (1 - self.beta1**self.updates)
        square = self.square / (1 - self.beta2**self.updates)
        parameter *= 1 - lr * self.weight_decay
        parameter -= lr * mean / (square.sqrt() + 1e-8)

class Muon:
    """torch's own, for one matrix at a time: c_attn is three, of the queries, the keys and the values."""

    def __init__(self, recipe: Recipe):
        self.weight_decay = recipe.weight_decay
        self.lr_scale = recipe.muon_learning_rate / LEARNING_RATE
        self.momenta = [None] * 3

    def update(self, parameter, gradient, lr: float):
        n_matrices = 3 if len(parameter) == 3 * parameter.shape[1] else 1
        matrices = list(parameter.detach().chunk(n_matrices))  # views, through which the parameter moves
        # A new optimizer for each update, so that the momentum is all that it remembers.
        optimizer = torch.optim.Muon(matrices, lr=lr * self.lr_scale, weight_decay=self.weight_decay)
        for matrix, its_gradient, momentum in zip(matrices, gradient.chunk(n_matrices), self.momenta):
            matrix.grad = its_gradient
            if momentum is not None:
                optimizer.state[matrix]['momentum_buffer'] = momentum
        optimizer.step()
        self.momenta = [optimizer.state[matrix]['momentum_buffer'] for matrix in matrices]

def update(recipe: Recipe, model: ReferenceGPT, states: dict, step: int) -> float:
    """Move every parameter that trains; returns the norm of all gradients before they are clipped."""
    lr = learning_rate(recipe, step)
    just_grown = set()
    if recipe.rewarm == 'new':
        just_grown = set(torch.nn.ModuleList(model.new_layers).parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in trained))
    scale = 1.0
    if recipe.grad_clip:
        scale = min(1.0, recipe.grad_clip / norm)
    matrices = set()  # what Muon takes: those of the blocks
    if recipe.optimizer == 'muon':
        matrices = {p for p in model.layers.parameters() if p.dim() == 2}
    with torch.no_grad():
        for p in trained:
            if p not in states:
                states[p] = Muon(recipe) if p in matrices else AdamW(p, recipe)
            own_lr = lr * rewarming(recipe, step) if p in just_grown else lr
            states[p].update(p, p.grad * scale, own_lr)
    model.zero_grad()  # to None: what is frozen next must not move by what is left
    return norm

# ----------------------------------------------------------------------------------------------------------
# the run

def grow(recipe: Recipe, model: ReferenceGPT, states: dict, stage: int) -> tuple:
    """Put the new layers of a stage where they belong. Returns the places of the old ones."""
    generator = torch.Generator().manual_seed(recipe.seed * 1000 + stage)
    old_layers = list(model.layers)
    layers, old_places, model.new_layers = [], (), ()
    if recipe.grow_optimizer == 'reset':  # AdamW's count of updates begins anew too
        states.clear()
    growths = GROWTHS['map'] if recipe.grow_map else GROWTHS[recipe.grow_init]
    for place, (source, is_new) in enumerate(growths[stage - 2]):
        if not is_new:  # the same parameters, so that their states go on
            layers.append(old_layers[source])
            old_places += (place,)
            continue
        layer = make_layer(generator)
        layers.append(layer)
        model.new_layers += (layer,)
        if source is None:
            continue
        layer.load_state_dict(old_layers[source].state_dict())
        for old, new in zip(old_layers[source].parameters(), layer.parameters()):
            if recipe.grow_optimizer == 'copy' and old in states:
                states[new] = copy.deepcopy(states[old])
    model.layers = torch.nn.ModuleList(layers)
    return old_places

@dataclass
class Score:
    acc: float
    acc_norm: float
    bits: list  # of each question's true ending, per byte
    margins: list  # of each question: bits per byte of the best wrong ending less the true one's
    lead: float  # the least by which a choice was better than the next one

def score(model: ReferenceGPT, questions: list) -> Score:
    """HellaSwag one ending at a time: raw texts, encoded apart; acc_norm by the mean loss of a token."""
    n_right, n_right_norm = 0, 0
    bits, margins, leads = [], [], []
    for question in questions:
        context = list(question['ctx'].encode())
        sums, means = [], []
        for text in question['endings']:
            ending = list((' ' + text).encode())
            logits = model(torch.tensor([context + ending]))
            logits = logits[0, len(context) - 1 : -1]  # the token before each of the ending's
            losses = F.cross_entropy(logits, torch.tensor(ending), reduction='none')
            sums.append(losses.sum().item())
            means.append(losses.mean().item())
        for losses in (sums, means):
            best, second = sorted(losses)[:2]
            leads.append(second - best)
        n_right += sums.index(min(sums)) == question['label']
        n_right_norm += means.index(min(means)) == question['label']
        # A token is a byte here, and so the mean loss of a token is that of a byte.
        true = means.pop(question['label'])
        bits.append(true / math.log(2))
        margins.append((min(means) - true) / math.log(2))
    return Score(n_right / len(questions), n_right_norm / len(questions), bits, margins, min(leads))

@dataclass
class Story:
    """What a run should have logged and saved."""

    losses: list
    rates: list
    norms: list
    val_losses: dict  # step -> loss
    growths: dict  # step -> validation loss (before, after) the layers were added
    scores: dict  # step -> Score
    weights: dict  # step -> name -> tensor

def reference_run(recipe: Recipe, folder: Path) -> Story:
    train_sequences = read_sequences(folder, 'train')
    val_sequences = torch.from_numpy(read_sequences(folder, 'val')[:VAL_SEQUENCES])
    questions = [json.loads(line) for line in (folder / 'questions.jsonl').read_text().splitlines()]
    model = ReferenceGPT(2, torch.Generator().manual_seed(recipe.seed * 1000 + 1))
    states = {}  # parameter -> its AdamW or Muon
    phase1_end = 0
    story = Story([], [], [], {}, {}, {}, {})

    def val_loss():
        with torch.no_grad():
            return model.loss(val_sequences).item()

    for step in range(STEPS):
        # Stages of 2, 3 and 4 layers begin at 0, 6 and 12; from the second on new layers first train alone.
        if step in (6, 12):
            before = val_loss()
            old_places = grow(recipe, model, states, stage=1 + step // 6)
            story.growths[step] = before, val_loss()
            model.freeze(old_places, recipe.phase1_embeddings)
            fraction = recipe.phase1_fraction
            if isinstance(fraction, tuple):
                fraction = fraction[step // 6]
            phase1_end = step + int(6 * fraction)
        if step == phase1_end:
            model.freeze((), 'train')
        # All sequences at once: the mean over equal micro-batches is the mean over the step.
        loss = model.loss(batch_of_step(train_sequences, recipe, step))
        loss.backward()
        story.losses.append(loss.item())
        story.rates.append(learning_rate(recipe, step))
        story.norms.append(update(recipe, model, states, step))
        done = step + 1
        if done % 4 == 0:
            story.val_losses[done] = val_loss()
        if done % 8 == 0:
            with torch.no_grad():
                story.scores[done] = score(model, questions)
        if done % 6 == 0:
            story.weights[done] = model.weights()
    return story

# ----------------------------------------------------------------------------------------------------------
# train.py beside it

def keep_precision(tensor):
    """Stands in for Tensor.bfloat16, with which torch's Muon begins.

    That rounding turns a difference in the last digit of a gradient into one in the third digit of an update.
    Nothing else in a run of dtype float32 casts to bfloat16.
    """
    return tensor

def run_train(settings: dict) -> list:
    """train.py with these flags, in this process. Returns the lines of its metrics.jsonl."""
    argv = ['train.py']
    for name, value in settings.items():
        argv.append(f'--{name}={value}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', argv)
        train.main()
    text = Path(settings['out_dir'], 'metrics.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]

class Clock:
    """Stands in for time.perf_counter."""

    def __init__(self):
        self.now = 0.0
        self.updates = []  # seconds of each

    def read(self) -> float:
        self.now += 1e-7  # readings differ, as everywhere, by too little to be seen in a log
        return self.now

    def run_train(self, settings: dict) -> list:
        """run_train, whose updates, evaluations and saves take their seconds by this clock."""
        real_state_dict, real_eval = torch.nn.Module.state_dict, torch.nn.Module.eval

        def begin_save(module, *args, **kwargs):
            if hasattr(module, 'transformer'):  # a whole model's; a growing one takes single blocks'
                self.now += SAVE_SECONDS
            return real_state_dict(module, *args, **kwargs)

        def begin_evaluation(module):
            self.now += EVAL_SECONDS
            return real_eval(module)

        def after_update(optimizer, args, kwargs):
            if isinstance(optimizer, torch.optim.AdamW):  # one in each run, whether Muon is beside it or not
                seconds = UPDATE_SECONDS[len(self.updates) % len(UPDATE_SECONDS)]
                self.updates.append(seconds)
                self.now += seconds

        hook = register_optimizer_step_post_hook(after_update)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, 'perf_counter', self.read)
            patch.setattr(torch.nn.Module, 'state_dict', begin_save)
            patch.setattr(torch.nn.Module, 'eval', begin_evaluation)
            patch.setattr(torch.Tensor, 'bfloat16', keep_precision)
            lines = run_train(settings)
        hook.remove()
        return lines

@dataclass
class Pair:
    recipe: Recipe
    story: Story  # what should be there
    out_dir: Path  # what is there
    lines: list  # its metrics.jsonl
    updates: list  # seconds of each update by the fake clock

    def lines_of(self, kind: str) -> list:
        return [line for line in self.lines if line['kind'] == kind]

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('words')
    write_data(folder)
    return folder

@pytest.fixture(scope='module', params=RECIPES)
def pair(request, folder, tmp_path_factory):
    recipe = RECIPES[request.param]
    out_dir = tmp_path_factory.mktemp('runs') / request.param
    clock = Clock()
    lines = clock.run_train(SETTINGS | dataclasses.asdict(recipe) | {
        'data_dir': folder, 'hellaswag_data': folder / 'questions.jsonl', 'out_dir': out_dir})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, 'bfloat16', keep_precision)
        story = reference_run(recipe, folder)
    return Pair(recipe, story, out_dir, lines, clock.updates[-STEPS:])  # those before are the dry run's

def near(value: float):
    return pytest.approx(value, rel=1e-4, abs=1e-4)

def test_losses_rates_and_norms_are_those_of_the_plain_run(pair):
    lines = pair.lines_of('train')
    interval = pair.recipe.log_interval
    assert [line['step'] for line in lines] == list(range(interval, STEPS + 1, interval))
    for line in lines:
        update_number = line['step'] - 1
        assert line['loss'] == near(pair.story.losses[update_number]), line
        assert line['lr'] == pytest.approx(pair.story.rates[update_number], rel=1e-9), line
        assert line['grad_norm'] == near(pair.story.norms[update_number]), line

def test_some_updates_of_the_plain_run_are_clipped_and_some_are_not(pair):
    if pair.recipe.grad_clip:
        assert min(pair.story.norms) < pair.recipe.grad_clip < max(pair.story.norms)

@pytest.mark.parametrize('step, name', [(6, 'stage_01.pt'), (12, 'stage_02.pt'), (18, 'stage_03.pt'),
                                        (24, 'ckpt_000024.pt')])
def test_weights_are_those_of_the_plain_run(pair, step, name):
    saved = torch.load(pair.out_dir / name, weights_only=True)['model']
    expected = pair.story.weights[step]
    assert saved.keys() == expected.keys()
    for weight_name, weight in expected.items():
        ours = saved[weight_name].double()
        if weight_name.endswith('c_attn.bias'):
            # The same number added to all keys changes no attention: the gradient of the keys' bias is
            # rounding noise, and AdamW makes steps of it.
            ours[WIDTH : 2 * WIDTH] = weight[WIDTH : 2 * WIDTH]
        difference = (ours - weight).abs().max().item()
        assert difference < 1e-4, weight_name

def test_validation_losses_are_those_of_the_plain_run(pair):
    losses = {}
    for line in pair.lines_of('eval'):
        losses[line['step']] = line['val_loss']
        assert line['val_tokens'] == VAL_SEQUENCES * BLOCK
    assert losses == {step: near(loss) for step, loss in pair.story.val_losses.items()}

def test_losses_before_and_after_growth_are_those_of_the_plain_run(pair):
    losses = {}
    for line in pair.lines_of('phase'):
        if 'val_loss_after' in line:
            losses[line['step']] = line['val_loss_before'], line['val_loss_after']
    assert losses.keys() == pair.story.growths.keys()
    for step, (before, after) in pair.story.growths.items():
        assert losses[step] == (near(before), near(after))

def test_scores_are_those_of_the_plain_run(pair):
    lines = {line['step']: line for line in pair.lines_of('eval') if 'hellaswag_acc' in line}
    assert lines.keys() == pair.story.scores.keys()
    for step, expected in pair.story.scores.items():
        assert expected.lead > 1e-4, 'a choice that rounding decides: take another QUESTIONS_SEED'
        assert expected.acc != expected.acc_norm, 'a mistake of one for the other could not be seen'
        line = lines[step]
        assert line['hellaswag_n'] == 30
        assert line['hellaswag_acc'] == near(expected.acc)
        assert line['hellaswag_acc_norm'] == near(expected.acc_norm)
        for name, values in (('bits', expected.bits), ('margin', expected.margins)):
            assert line[f'hellaswag_{name}'] == near(np.mean(values))
            assert line[f'hellaswag_{name}_stderr'] == near(np.std(values, ddof=1) / math.sqrt(30))

def test_the_last_scores_are_written_question_by_question(pair):
    text = (pair.out_dir / 'hellaswag.jsonl').read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    expected = pair.story.scores[STEPS]
    assert [line['ind'] for line in lines] == list(range(30))
    assert [line['bits'] for line in lines] == [near(bits) for bits in expected.bits]
    assert [line['margin'] for line in lines] == [near(margin) for margin in expected.margins]

def test_updates_evaluations_and_saves_are_counted_apart(pair):
    for line in pair.lines:
        assert line['seconds'] == near(sum(pair.updates[: line['step']]))
        assert math.remainder(line['eval_seconds'], EVAL_SECONDS) == near(0)
        assert math.remainder(line['checkpoint_seconds'], SAVE_SECONDS) == near(0)
    # At 5, 10, 15, 20, 24 for a checkpoint, at 6, 12, 18 for one and for the stage's weights, perhaps apart.
    n_saves = pair.lines[-1]['checkpoint_seconds'] / SAVE_SECONDS
    assert 8 - 1e-4 < n_saves < 11 + 1e-4
    # Six validation losses and three scores, and what else a run may evaluate.
    assert pair.lines[-1]['eval_seconds'] >= 9 * EVAL_SECONDS

def test_tokens_per_second_are_those_since_the_line_before(pair):
    since = 0
    for line in pair.lines:
        if line['kind'] == 'train':
            seconds = sum(pair.updates[since : line['step']])
            tokens = (line['step'] - since) * SEQUENCES * BLOCK
            assert line['tok_per_sec'] == pytest.approx(tokens / seconds, rel=2e-3)
        if line['kind'] != 'eval':  # a phase begins anew
            since = line['step']

def test_the_recipes_cover_every_mode_of_freezing_optimizer_state_and_schedule():
    recipes = RECIPES.values()
    assert {recipe.phase1_embeddings for recipe in recipes} == {'train', 'input_frozen', 'frozen'}
    assert {recipe.grow_optimizer for recipe in recipes} == {'keep', 'copy', 'reset'}
    assert {recipe.lr_schedule for recipe in recipes} == {'constant', 'cosine', 'wsd'}
    assert {recipe.optimizer for recipe in recipes} == {'adamw', 'muon'}
    assert {recipe.rewarm for recipe in recipes if recipe.rewarm_steps} == {'all', 'new'}

# ----------------------------------------------------------------------------------------------------------
# what the plain run leaves out

def test_bfloat16_rounds_a_run_and_leaves_it_the_same_run(folder, tmp_path):
    recipe = RECIPES['cosine']
    lines = run_train(SETTINGS | dataclasses.asdict(recipe) | {
        'data_dir': folder, 'out_dir': tmp_path / 'run', 'dtype': 'bfloat16', 'hellaswag_interval': 0})
    losses = np.array([line['loss'] for line in lines if line['kind'] == 'train'])
    difference = np.abs(losses - reference_run(recipe, folder).losses)
    # In float32 the largest difference is 3e-7: a run that rounds nothing would show here.
    assert 1e-4 < difference.max() < 1e-2

def lines_at_rest(folder: Path, out_dir: Path, **settings) -> list:
    """The log of four steps that change no weight and that all see the same sequences."""
    rest = {'n_layer': 2, 'n_stages': 1, 'stage_steps': 4, 'continual_steps': 0, 'learning_rate': 0,
            'min_lr': 0, 'total_batch_size': 64 * BLOCK, 'batch_size': 64, 'hellaswag_interval': 0,
            'eval_interval': 1, 'log_interval': 1}
    return run_train(SETTINGS | rest | {'data_dir': folder, 'out_dir': out_dir} | settings)

def losses_at_rest(folder: Path, out_dir: Path, **settings) -> list:
    return [line['loss'] for line in lines_at_rest(folder, out_dir, **settings) if line['kind'] == 'train']

def test_each_step_has_its_own_dropout_and_the_same_one_each_time(folder, tmp_path):
    assert len(read_sequences(folder, 'train')) < 2 * 64  # one step is an epoch
    assert len(set(losses_at_rest(folder, tmp_path / 'without'))) == 1
    losses = losses_at_rest(folder, tmp_path / 'with', dropout=0.2)
    assert len(set(losses)) == 4
    assert losses_at_rest(folder, tmp_path / 'again', dropout=0.2) == losses

def test_evaluations_know_no_dropout(folder, tmp_path):
    val_losses = set()
    for dropout in (0, 0.2):
        for line in lines_at_rest(folder, tmp_path / str(dropout), dropout=dropout):
            if line['kind'] == 'eval':
                val_losses.add(line['val_loss'])
    assert len(val_losses) == 1

def test_dropout_depends_on_the_seed(folder, tmp_path):
    losses_at_rest(folder, tmp_path / 'source')
    # One source for both, and a new layer that adds nothing: nothing but the dropout can differ.
    settings = {'init_from': tmp_path / 'source', 'init_depth': 2, 'n_layer': 3, 'grow_init': 'zero'}
    losses = {}
    for seed in (1, 2):
        settings['seed'] = seed
        losses[seed] = losses_at_rest(folder, tmp_path / f'plain{seed}', **settings)
        losses[seed, 'dropout'] = losses_at_rest(folder, tmp_path / f'{seed}', dropout=0.2, **settings)
    assert losses[1] == losses[2]
    assert not set(losses[1, 'dropout']) & set(losses[2, 'dropout'])

def test_each_micro_batch_has_its_own_dropout(tmp_path):
    text = 'the quick brown fox jumps over. ' * 70  # BLOCK letters: all sequences are the same
    assert len(text) == 70 * BLOCK
    write_shard(tmp_path / 'same_train_000001.bin', text)
    write_shard(tmp_path / 'same_val_000000.bin', text)
    write_meta(tmp_path)
    losses = []
    for n_micro_batches in (1, 2):
        settings = {'total_batch_size': n_micro_batches * 4 * BLOCK, 'batch_size': 4, 'dropout': 0.2}
        losses.append(losses_at_rest(tmp_path, tmp_path / str(n_micro_batches), **settings))
    # If the second micro-batch had the first one's dropout, the mean of both would be the same.
    difference = np.abs(np.array(losses[0]) - losses[1])
    assert difference.max() > 1e-4

def stopped_run(folder: Path, out_dir: Path, spoil_hook) -> int:
    """Run train.py until it stops by itself, with a hook that spoils what comes after the third update.

    `spoil_hook(is_after_third)` registers the hook and returns its handle. Returns the exit code.
    """
    updates = [0]  # of the parameter that had the most, after each update of any optimizer

    def after_update(optimizer, args, kwargs):
        updates.append(max(state['step'].item() for state in optimizer.state.values()))

    # A dry run before step 0 does two updates at most, so that the third one is the run's.
    hooks = [spoil_hook(lambda: updates[-1] == 3), register_optimizer_step_post_hook(after_update)]
    try:
        with pytest.raises(SystemExit) as stop:
            run_train(SETTINGS | {'data_dir': folder, 'out_dir': out_dir, 'checkpoint_interval': 1,
                                  'hellaswag_interval': 0, 'log_interval': 1})
    finally:
        for hook in hooks:
            hook.remove()
    return stop.value.code

def check_stopped_after_third_update(out_dir: Path, said: str):
    assert 'step 3: loss' in said
    saved = torch.load(out_dir / 'ckpt_000003.pt', weights_only=True)['model']
    assert all(weight.isfinite().all() for weight in saved.values())
    assert not (out_dir / 'ckpt_000004.pt').exists()

@pytest.mark.filterwarnings('ignore:Full backward hook')
@pytest.mark.parametrize('bad', [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_stops_a_run_though_the_loss_is(folder, tmp_path, capsys, bad):
    def spoil_hook(is_after_third):
        def spoil(module, grad_input, grad_output):
            if isinstance(module, torch.nn.LayerNorm) and is_after_third():
                return tuple(gradient * bad for gradient in grad_input)
            return None

        return torch.nn.modules.module.register_module_full_backward_hook(spoil)

    assert stopped_run(folder, tmp_path / 'run', spoil_hook) == 1
    check_stopped_after_third_update(tmp_path / 'run', capsys.readouterr().err)

@pytest.mark.parametrize('bad', [math.inf, math.nan])
def test_a_loss_that_is_not_finite_stops_a_run_though_the_gradient_is(folder, tmp_path, capsys, bad):
    def spoil_hook(is_after_third):
        def spoil(module, args, loss):
            is_whole_model = hasattr(module, 'transformer') and module.training
            return loss + bad if is_whole_model and is_after_third() else None  # a constant has no gradient

        return torch.nn.modules.module.register_module_forward_hook(spoil)

    assert stopped_run(folder, tmp_path / 'run', spoil_hook) == 1
    check_stopped_after_third_update(tmp_path / 'run', capsys.readouterr().err)
