"""
Runs as data: what each was, how its loss fell, and which runs are the same experiment.

    runs = read_runs(['out/baseline_seed1', 'out/grown'])       run directories; out/* works
    runs = read_runs(['out/cpu_growth', 'results/cpu_growth'])  folders of runs, and records.jsonl in them
    groups, notes = make_groups(runs)                           runs that differ in the seed alone
    groups, notes = make_groups(runs, {path: Place('Gong', '', 4_000)})     a study names its arms

A run directory holds config.json, metrics.jsonl and run.json. A line of records.jsonl holds the same of one
run: {"run": its directory, seen from the file, "config": ..., "info": ..., "metrics": [...]}. Whether two
runs are the same experiment is seen from their plans, not from how these were written down: 1,000 growth and
1,000 continual steps of one depth are 2,000 steps.
"""

import functools
import glob
import itertools
import json
import math
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import schedule
from config import FIELDS, TrainConfig, config_from_dict, load_run_config
from core.common import UserError
from run.log import read_metrics, read_run_json

AXES = ('flops', 'flops_paper', 'seconds')
COUNTERS = ('step', 'tokens', *AXES)
SHAPE = ('n_layer', 'n_head', 'n_embd')
DATA = ('vocab_size', 'block_size')
TUNED = ('learning_rate', 'muon_learning_rate', 'min_lr', 'warmup_steps')
# How long each stage lasts. What that comes to stands in the plan, in whatever way it was written.
LENGTH = ('n_stages', 'stage_depths', 'growth_steps', 'stage_steps', 'stage_fractions', 'continual_steps',
          'baseline_steps', 'ledger', 'match', 'phase1_fraction')
# The rest of what growing is about. All other settings should agree between a run and its baseline.
GROWTH = ('phase1_embeddings', 'grow_init', 'grow_map', 'grow_optimizer', 'rewarm_steps', 'rewarm',
          'stage_lr_scale', 'lr_depth_power', 'init_from', 'init_depth')
# What doesn't tell experiments apart. Of the data the content counts, not the place.
NOT_IDENTITY = ('seed', 'branch_from', 'checkpoint_steps', 'data_dir')
OF_TRAINING = [name for name, field in FIELDS.items()
               if not field.metadata['free']
               and name not in (*NOT_IDENTITY, *LENGTH, *GROWTH, *SHAPE, *DATA, *TUNED)]
# How a loss is measured: runs that differ here are not pooled, and it is said.
MEASURED = ('dtype', 'data', 'val_tokens')
MATCHED = 0.01  # budgets that differ by less are equal: steps are whole


class Place(NamedTuple):
    """Where a run stands in its study. The budget is what the study calls it, in full-depth steps."""

    arm: str
    scale: str
    budget: int


# eq=False: arrays compared with == give no single answer.
@dataclass(eq=False)
class Curve:
    """Evaluations of one run, or their mean over runs, as arrays of one length; step 0 is not among them."""

    step: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    flops_paper: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray

    def __len__(self):
        return len(self.step)

    def points(self, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """(compute, loss) where there is compute."""
        # By the paper's ledger a model of depth 0 costs nothing, and nothing has no logarithm.
        x = getattr(self, axis)
        return x[x > 0], self.loss[x > 0]

    def at(self, axis: str, x):
        """Loss where `axis` stands at x, linear in log x; nan before the first evaluation and after the
        last."""
        xs, losses = self.points(axis)
        if len(xs) == 0:
            return np.full(np.shape(x), np.nan)
        # A budget is met up to whole steps: the end is the end a little beyond, too.
        x = np.where((x > xs[-1]) & (x <= xs[-1] * (1 + MATCHED)), xs[-1], x)
        return np.interp(np.log(x), np.log(xs), losses, left=np.nan, right=np.nan)


@dataclass(eq=False)
class Run:
    """What is known of one run."""

    path: str
    config: TrainConfig  # resolved: without `match`
    plan: schedule.Plan
    records: list[dict]  # all of metrics.jsonl
    truncated: bool  # the last line is incomplete: somebody is writing it, or was
    info: dict  # run.json; {} for a run without one
    written: float  # when metrics.jsonl was last written to, seconds since 1970; 0 if that isn't known

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def phases(self) -> tuple:
        return self.plan.phases

    @property
    def total_steps(self) -> int:
        return self.plan.total_steps

    @property
    def step(self) -> int:
        return self.records[-1]['step'] if self.records else 0

    @property
    def finished(self) -> bool:
        """Whether its last step is evaluated."""
        evals = [r for r in self.records if r['kind'] == 'eval' and 'val_loss' in r]
        return bool(evals) and evals[-1]['step'] == self.total_steps

    @functools.cached_property
    def ended(self) -> str:
        """'done', or how it ended before: 'diverged', 'stopped', or 'unfinished' where nobody has said."""
        if self.finished:
            return 'done'
        said = self.info.get('ended')
        return said if said in ('diverged', 'stopped') else 'unfinished'

    @property
    def growth_steps(self) -> list[int]:
        """The steps before which layers are added; the first layers of all are not."""
        return [phase.start for phase in self.phases if phase.growths]

    def flops(self, step: int | None = None) -> float:
        """FLOPs of the first steps, by default of all, by its plan."""
        return self.plan.flops(step)

    def loss_after_growth(self, step: int) -> float | None:
        """Validation loss of the model that has just grown before an update, where train.py measured it."""
        for record in self.records:
            if record['kind'] == 'phase' and record['step'] == step:
                return record.get('val_loss_after')
        return None

    def where(self, axis: str, steps) -> np.ndarray:
        """Where some steps lie on an axis, by all lines of the log."""
        # Not by the ends alone: a step of a later phase costs more.
        known = [0.0] + [record['step'] for record in self.records]
        values = [0.0] + [record[axis] for record in self.records]
        return np.interp(steps, known, values)

    def val_tokens_of(self, record: dict) -> int:
        """Tokens that a validation loss was measured on: whole sequences."""
        asked = record.get('val_tokens', self.config.val_tokens)
        # Less than one sequence would round to 0.
        return asked // self.config.block_size * self.config.block_size or asked

    def evals(self) -> tuple[list[dict], int]:
        """(its validation losses, in order, as far as they are measured like the last one; how many are
        not)."""
        evals = [r for r in self.records if r['kind'] == 'eval' and 'val_loss' in r]
        alike = [r for r in evals if self.val_tokens_of(r) == self.val_tokens_of(evals[-1])]
        return alike, len(evals) - len(alike)

    @property
    def last_score(self) -> dict:
        """The evaluation with its HellaSwag score at the last step; {} without one."""
        scored = [r for r in self.records[-3:] if r['step'] == self.step and 'hellaswag_acc_norm' in r]
        return scored[-1] if scored else {}

    def curve(self) -> Curve:
        """Its validation losses after step 0."""
        # At step 0 no compute is spent: such a point is no part of what compute buys.
        evals, _ = self.evals()
        kept = [record for record in evals if record['step'] > 0]
        columns = [np.array([record[name] for record in kept], float) for name in (*COUNTERS, 'val_loss')]
        return Curve(*columns)


def questions_of(run: Run) -> str:
    """On which questions a run was scored at its end, as text; '' if it wasn't."""
    if not run.last_score:
        return ''
    said = run.info.get('hellaswag_data')
    content = said.get('sha256') if type(said) is dict else None
    return f'{content or run.config.hellaswag_data}, {run.last_score["hellaswag_n"]} of them'


# ------------------------------------------------------------------------------------------------------------
# reading


def read_runs(paths: list[str]) -> list[Run]:
    """The runs in some directories, each once, and those in folders of runs and in records.jsonl.

    A pattern (out/*) that the shell left as it is, is expanded here. What holds no run is passed over with a
    warning, and so is a run whose files can't be read. Raises UserError where nothing is found.
    """
    runs, passed_over = {}, []
    for path in expand(paths):
        if not os.path.exists(path):
            raise UserError(f'{path}: no such run directory')
        damaged = len(passed_over)
        found = list(runs_in(path, passed_over))
        if not found and len(passed_over) == damaged:
            # compare.py out/* meets figures and notes, too.
            print(f'warning: {path} is passed over: no run in it (it has no config.json)', file=sys.stderr)
        for run in found:
            # One run may be given twice, through a link, or as a directory and as a record.
            runs.setdefault(os.path.realpath(run.path), run)
    if not runs:
        nothing = 'none of these is a run directory: ' + ' '.join(paths)
        raise UserError('; '.join(passed_over) or nothing)
    for why in passed_over:
        print(f'warning: passed over: {why}', file=sys.stderr)
    return list(runs.values())


def expand(paths: list[str]) -> list[str]:
    """Patterns replaced by what they match, sorted. On Windows no shell does it. Raises UserError for no
    match."""
    expanded = []
    for path in paths:
        path = os.path.expanduser(path)
        if os.path.exists(path) or not glob.has_magic(path):  # a folder may be called run[1]
            expanded.append(path)
            continue
        matches = sorted(glob.glob(path))
        if not matches:
            raise UserError(f'{path}: nothing there matches')
        expanded += matches
    return expanded


def runs_in(path: str, passed_over: list[str]):
    """The runs of a run directory, of a records.jsonl, or of a folder that holds either. What can't be read
    is added to `passed_over`, and the others go on."""
    try:
        if os.path.isfile(os.path.join(path, 'config.json')):
            yield read_run(path)
            return
    except UserError as error:
        passed_over.append(str(error))
        return
    if os.path.basename(path) == 'records.jsonl':
        with open(path, encoding='utf-8', errors='replace') as f:
            for number, line in enumerate(f, 1):
                try:
                    yield read_record(path, line)
                except UserError as error:
                    passed_over.append(f'{path}, line {number}: {error}')
    elif os.path.isdir(path):
        for name in sorted(os.listdir(path)):
            inside = os.path.join(path, name)
            if os.path.isdir(inside) or name == 'records.jsonl':
                yield from runs_in(inside, passed_over)


def read_run(path: str) -> Run:
    """Raises UserError for a config.json, run.json or line of metrics.jsonl that isn't one; a truncated last
    line is let pass."""
    config = schedule.resolve(load_run_config(path))
    metrics = os.path.join(path, 'metrics.jsonl')
    records, truncated = read_metrics(metrics)
    info = read_run_json(path)
    written = os.path.getmtime(metrics) if records else 0.0
    return Run(path, config, schedule.plan(config), records, truncated, info, written)


def read_record(path: str, line: str) -> Run:
    """The run in a line of a records.jsonl. Raises UserError for a line that holds none."""
    try:
        record = json.loads(line)
        folder, config, info, records = (record[key] for key in ('run', 'config', 'info', 'metrics'))
        shown = all(name in r for r in records for name in ('kind', *COUNTERS))
    except (ValueError, KeyError, TypeError, RecursionError):
        shown = False
    if not shown:
        raise UserError('not a record of a run (an object with run, config, info and metrics)')
    config = schedule.resolve(config_from_dict(config, f'{path}, {folder}'))
    folder = os.path.normpath(os.path.join(os.path.dirname(path), folder))
    return Run(folder, config, schedule.plan(config), records, False, info or {}, 0.0)


# ------------------------------------------------------------------------------------------------------------
# groups


@dataclass(eq=False)
class Group:
    """Runs that differ in nothing but the seed: those that are done, and those that aren't."""

    name: str
    arm: str
    scale: str
    budget: float  # what a study calls it; elsewhere the FLOPs of a run
    runs: list[Run]  # by seed
    data: dict  # what must agree for losses to compare: see data_identity
    mixed: str = ''  # in what other runs of its place differ, which are therefore not pooled

    def __post_init__(self):
        self.done = [run for run in self.runs if run.ended == 'done']
        self.seeds = tuple(run.seed for run in self.done)  # those that are done
        self.curves = [run.curve() for run in self.done]

    @property
    def config(self) -> TrainConfig:
        return self.runs[0].config

    @property
    def lost(self) -> list[Run]:
        """The runs that aren't done: a mean of the others would leave them out."""
        return [run for run in self.runs if run.ended != 'done']

    def diverges(self, seeds=None) -> bool:
        return any(run.ended == 'diverged' and (seeds is None or run.seed in seeds) for run in self.runs)

    @property
    def grows(self) -> bool:
        return len({phase.depth for phase in self.runs[0].phases} | ({self.config.init_depth} - {0})) > 1

    def of(self, seeds) -> list[int]:
        """Places of some seeds among the runs that are done; None: of all."""
        return [i for i, seed in enumerate(self.seeds) if seeds is None or seed in seeds]

    def finals(self, seeds=None) -> np.ndarray:
        """Final loss of each seed that is done, or of some."""
        return np.array([self.curves[i].loss[-1] for i in self.of(seeds)])

    def losses_at(self, axis: str, x: float, seeds=None) -> np.ndarray:
        """Loss of each seed at compute x: the final one at its end."""
        return np.array([float(self.curves[i].at(axis, x)) for i in self.of(seeds)])

    def end(self, axis: str) -> float:
        """Compute of the whole run, the mean over the seeds: on the clock they differ. Of runs that aren't
        done by their plan."""
        if not self.done:
            return float(self.runs[0].flops()) if axis == 'flops' else math.nan
        return float(np.mean([getattr(curve, axis)[-1] for curve in self.curves]))

    def score(self, name: str) -> float | None:
        """Mean of a score at the end, over the seeds that are done; None unless all have it, on the same
        questions."""
        return mean_and_sd(self.scores(name))[0]

    def scores(self, name: str) -> list[float]:
        """A score at the end of each seed that is done; [] unless all have it, on the same questions."""
        values = [run.last_score.get(name) for run in self.done]
        is_alike = len({questions_of(run) for run in self.done}) == 1
        return values if is_alike and None not in values else []

    def last(self) -> dict:
        """The last numbers: means and sd over the seeds that are done, and the standard error of one scoring;
        None where there is none."""
        found = {'seeds': len(self.done)}
        for name in ('tokens', *AXES):
            found[name], _ = mean_and_sd([getattr(curve, name)[-1] for curve in self.curves])
        found['val_loss'], found['val_loss_sd'] = mean_and_sd(self.finals())
        found['hellaswag_n'] = self.score('hellaswag_n')
        for name in ('bits', 'acc_norm', 'margin'):
            found[name], found[f'{name}_sd'] = mean_and_sd(self.scores(f'hellaswag_{name}'))
            # Of one scoring, not of the mean: all seeds have the same questions.
            found[f'{name}_se'] = self.score(f'hellaswag_{name}_stderr')
        if found['acc_norm'] is not None and found['acc_norm_se'] is None:
            p = found['acc_norm']
            found['acc_norm_se'] = math.sqrt(p * (1 - p) / found['hellaswag_n'])
        return found

    @property
    def mean(self) -> Curve:
        """The mean over the seeds that are done."""
        return mean_curve(self.curves)

    @property
    def start_cost(self) -> float:
        """FLOPs that made the checkpoint that it starts from; 0 from scratch, nan if nobody knows."""
        if self.config.init_from == 'scratch':
            return 0.0
        made = [(run.info.get('init_from') or {}).get('flops') for run in self.runs]
        return math.nan if None in made else sum(made) / len(made)

    def trained_otherwise(self, other: 'Group', tuned: tuple = ()) -> list[str]:
        """Settings that differ from another group's and are neither tuned nor what growing is about."""
        return [name for name in OF_TRAINING
                if name not in tuned and getattr(self.config, name) != getattr(other.config, name)]


def mean_and_sd(values) -> tuple[float | None, float | None]:
    """Mean and sample deviation; None where there are too few values."""
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def mean_curve(curves: list[Curve]) -> Curve:
    """The mean over seeds, at every step at which one of them was evaluated, between the latest beginning
    and the earliest end. A seed that was evaluated elsewhere is interpolated: its loss in the logarithm of
    the steps, its clock in the steps."""
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return Curve(*[np.array([])] * 6)
    first = max(curve.step[0] for curve in curves)
    last = min(curve.step[-1] for curve in curves)
    steps = np.unique(np.concatenate([curve.step for curve in curves]))
    steps = steps[(steps >= first) & (steps <= last)]
    columns = [steps]
    for name in ('tokens', *AXES):
        seeds = [np.interp(steps, curve.step, getattr(curve, name)) for curve in curves]
        columns.append(np.mean(seeds, axis=0))
    losses = [curve.at('step', steps) for curve in curves]
    return Curve(*columns, np.mean(losses, axis=0))


def make_groups(runs: list[Run], places: dict | None = None) -> tuple[list[Group], list[str]]:
    """(the runs gathered by experiment, in the order they came; notes).

    `places`: {path: Place} of the runs of a study. Without it each group is an arm of its own, and its
    budget is the FLOPs of its runs.
    """
    notes = []
    gathered = {}
    for run in runs:
        place = places[run.path] if places else None
        # In a study each seed of an arm may start from a checkpoint of its own seed.
        gathered.setdefault((place, identity(run, bool(places))), []).append(run)
    groups = []
    for (place, _), same in gathered.items():
        kept = one_per_seed(same, notes)
        if place:
            where = [place.scale] if place.scale else []
            name = f'{", ".join([place.arm, *where])} at {place.budget:,}'
            groups.append(Group(name, *place, kept, data_identity(kept[0])))
        else:
            name = name_of(kept)
            group = Group(name, name, '', 0.0, kept, data_identity(kept[0]))
            group.budget = group.end('flops')
            groups.append(group)
    if not places:
        align_budgets(groups)
    tell_apart(groups, notes, bool(places))
    for run in itertools.chain(*(group.runs for group in groups)):
        others = run.evals()[1]
        if others:
            notes.append(f'{run.path}: {others} evaluations with other val_tokens than the last one are left '
                         'out')
    return groups, notes


def one_per_seed(runs: list[Run], notes: list[str]) -> list[Run]:
    """One run per seed, the finished one if there is one: a repetition tells nothing about the spread."""
    by_seed = {}
    for run in sorted(runs, key=lambda run: run.ended != 'done'):
        first = by_seed.setdefault(run.seed, run)
        if first is not run:
            notes.append(f'{run.path} repeats seed {run.seed} of {first.path} and is left out: a repetition '
                         'tells nothing about the spread')
    return [by_seed[seed] for seed in sorted(by_seed)]


def name_of(runs: list[Run]) -> str:
    """What a group is called outside of a study: as its first run, without the seed if there are several."""
    name = runs[0].config.run_name or os.path.basename(os.path.normpath(runs[0].path))
    return re.sub(r'_seed\d+$', '', name) if len(runs) > 1 else name


def align_budgets(groups: list[Group]):
    """Make budgets equal that are so up to the whole steps that they are rounded to."""
    ascending = sorted(groups, key=lambda group: group.budget)
    for before, group in itertools.pairwise(ascending):
        step = group.budget / group.runs[0].total_steps
        if group.budget - before.budget <= max(MATCHED * before.budget, step):
            group.budget = before.budget


def tell_apart(groups: list[Group], notes: list[str], in_study: bool):
    """Say what keeps groups from being one: those of one place in a study, and elsewhere those that are
    equal but for how they were measured."""
    alike = {}
    for group in groups:
        key = (group.arm, group.scale, group.budget)
        if not in_study:
            key = tuple(item for item in identity(group.runs[0], False) if item[0] not in MEASURED)
        alike.setdefault(key, []).append(group)
    for first, *others in alike.values():
        for group in others:
            names = differing(group.runs[0], first.runs[0])
            notes.append(f'{first.name} (seed {listed(first.runs)}) and {group.name} (seed '
                         f'{listed(group.runs)}) differ in {", ".join(names)}: they are not pooled')
            if in_study:
                group.mixed = first.mixed = ', '.join(names)
    counts = Counter(group.name for group in groups)
    for group in groups:
        if counts[group.name] > 1 and not in_study:
            group.name = group.arm = group.runs[0].path


def listed(runs: list[Run]) -> str:
    return ', '.join(str(run.seed) for run in runs)


# ------------------------------------------------------------------------------------------------------------
# which runs are the same experiment


def data_content(run: Run) -> str:
    """What run.json says of the content of its data, as text; else the folder's name."""
    said = run.info.get('data')
    if type(said) is not dict:
        # The name alone: the folder lies elsewhere on each machine.
        return os.path.basename(os.path.normpath(run.config.data_dir))
    # However it is cut into shards.
    splits = [(name, said[name]) for name in sorted(said) if type(said[name]) is dict]
    return str([(name, split.get('tokens'), split.get('sha256')) for name, split in splits])


def data_identity(run: Run) -> dict:
    """What must agree for two validation losses to be comparable."""
    # The count stands in each line, since a resumed run may have been told another one.
    evals, _ = run.evals()
    return {
        'data': data_content(run),
        'vocab_size': run.config.vocab_size,
        'block_size': run.config.block_size,
        'val_tokens': run.val_tokens_of(evals[-1] if evals else {}),
    }


def merged_plan(run: Run) -> tuple:
    """(depth, frozen, what of the embeddings trains, start, stop) of each stretch of a run. Phases that
    follow each other and differ in name only are one."""
    merged = []
    for phase in run.phases:
        kind = (phase.depth, phase.frozen, phase.embeddings)
        if merged and merged[-1][:3] == kind:
            merged[-1] = (*kind, merged[-1][3], phase.stop)
        else:
            merged.append((*kind, phase.start, phase.stop))
    return tuple(merged)


def facts(run: Run) -> dict:
    """All that the seeds of one experiment share."""
    # All but what is known not to matter: a setting that is new tells runs apart until somebody lists it.
    settings = {}
    for name, field in FIELDS.items():
        if not field.metadata['free'] and name not in (*NOT_IDENTITY, *LENGTH):
            settings[name] = getattr(run.config, name)
    # dtype may change on resume, but not between seeds: what 'auto' was, where run.json says it.
    measured = {'dtype': run.info.get('dtype', run.config.dtype), 'plan': merged_plan(run)}
    return settings | data_identity(run) | measured


def identity(run: Run, any_start: bool) -> tuple:
    """Equal for two runs of the same experiment, whatever their seeds; with `any_start` wherever they
    start."""
    return tuple((name, value) for name, value in facts(run).items() if name != 'init_from' or not any_start)


def differing(run: Run, other: Run) -> list[str]:
    """In what two runs differ besides the seed, with the values where they tell a reader something."""
    theirs = facts(other)
    told = []
    for name, value in facts(run).items():
        if value != theirs[name]:
            # Hashes and plans tell nobody anything.
            told.append(name if name in ('data', 'plan') else f'{name} ({theirs[name]}, {value})')
    return told
