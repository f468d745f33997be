"""
Runs as data: what each was, how its loss fell, and which runs are the same experiment.

    runs = read_runs(['out/baseline_seed1', 'out/grown'])       run directories
    runs = read_runs(['out/cpu_growth', 'results/cpu_growth'])  folders of runs, and records.jsonl in them
    groups, notes = make_groups(runs)                           runs that differ in the seed alone
    groups, notes = make_groups(runs, {path: Place('Gong', '', 4_000)})     a study names its arms

A run directory holds config.json, metrics.jsonl and run.json. A line of records.jsonl holds the same of one
run: {"run": its directory, seen from the file, "config": ..., "info": ..., "metrics": [...]}. Whether two
runs are the same experiment is seen from their plans, not from how these were written down: 1,000 growth and
1,000 continual steps of one depth are 2,000 steps.
"""

import functools
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
TUNED = ('learning_rate', 'muon_learning_rate', 'min_lr', 'warmup_steps')
# How long each stage lasts. What that comes to stands in the plan, in whatever way it was written.
LENGTH = ('n_stages', 'stage_depths', 'growth_steps', 'stage_steps', 'stage_fractions', 'continual_steps',
          'baseline_steps', 'ledger', 'match', 'phase1_fraction')
# What may differ between a run and its baseline: growth, shape and data, which are looked at by themselves.
GROWTH = ('phase1_embeddings', 'grow_init', 'grow_map', 'grow_optimizer', 'rewarm_steps', 'rewarm',
          'stage_lr_scale', 'lr_depth_power', 'init_from', 'init_depth', 'n_layer', 'n_head', 'n_embd',
          'vocab_size', 'block_size')
# What doesn't tell experiments apart. Of the data the content counts, not the place.
NOT_IDENTITY = ('seed', 'branch_from', 'checkpoint_steps', 'data_dir')
TRAINING = [name for name, field in FIELDS.items()
            if not field.metadata['free'] and name not in NOT_IDENTITY]
# How a loss is measured: runs that differ here are not pooled, and it is said.
MEASURED = ('dtype', 'data', 'val_tokens')
MATCHED = 0.01  # budgets that differ by less are equal: steps are whole

class Place(NamedTuple):
    """Where a run stands in its study. The budget is what the study calls it, in full-depth steps."""

    arm: str
    scale: str
    budget: int

@dataclass(eq=False)
class Run:
    """What is known of one run."""

    path: str
    config: TrainConfig  # resolved: without `match`
    plan: schedule.Plan
    records: list[dict]  # all of metrics.jsonl
    info: dict  # run.json; {} for a run without one

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def step(self) -> int:
        return self.records[-1]['step'] if self.records else 0

    @functools.cached_property
    def evals(self) -> list[dict]:
        """Its validation losses, in order, as far as they are measured like the last one."""
        found = [record for record in self.records if record['kind'] == 'eval' and 'val_loss' in record]
        return [record for record in found if self.val_tokens(record) == self.val_tokens(found[-1])]

    @functools.cached_property
    def ended(self) -> str:
        """'done' if its last step is evaluated, or how it ended before: 'diverged', 'stopped', or
        'unfinished' where nobody has said."""
        if self.evals and self.evals[-1]['step'] == self.plan.total_steps:
            return 'done'
        said = self.info.get('ended')
        return said if said in ('diverged', 'stopped') else 'unfinished'

    def val_tokens(self, record: dict) -> int:
        """Tokens that a validation loss was measured on: whole sequences."""
        asked = record.get('val_tokens', self.config.val_tokens)
        # Less than one sequence would round to 0.
        return asked // self.config.block_size * self.config.block_size or asked

    @property
    def questions(self) -> str:
        """On which HellaSwag questions its last evaluation scored it, as text; '' if it didn't."""
        if not self.evals or 'hellaswag_n' not in self.evals[-1]:
            return ''
        said = self.info.get('hellaswag_data') or {}
        content = said.get('sha256', self.config.hellaswag_data)
        return f'{content}, {self.evals[-1]["hellaswag_n"]} of them'

    def curve(self) -> dict[str, np.ndarray]:
        """Its validation losses after step 0: {'loss', or a counter: an array, one value an evaluation}."""
        # At step 0 no compute is spent: such a point is no part of what compute buys.
        kept = [record for record in self.evals if record['step'] > 0]
        curve = {}
        for name in (*COUNTERS, 'val_loss'):
            curve[name] = np.array([record[name] for record in kept], float)
        curve['loss'] = curve.pop('val_loss')
        return curve

def loss_at(curve: dict, axis: str, at: float) -> float:
    """Loss after so much compute, or so many tokens, linear in their logarithm; nan before the first
    evaluation and after the last."""
    end = curve[axis][-1]
    # A budget is met up to whole steps: the end is the end a little beyond, too.
    if end < at <= end * (1 + MATCHED):
        at = end
    return float(np.interp(math.log(at), np.log(curve[axis]), curve['loss'], math.nan, math.nan))

def read_runs(paths: list[str]) -> list[Run]:
    """The runs in some directories, each once, and those in folders of runs and in records.jsonl.

    What holds no run is passed over with a warning, and so is a run whose files can't be read. Raises
    UserError where nothing is found.
    """
    runs, passed_over = {}, []
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f'{path}: no such run directory')
        readers = list(readers_of(path))
        if not readers:
            # compare.py out/* meets figures and notes, too.
            passed_over.append(f'{path}: no run in it (it has no config.json)')
        for read in readers:
            try:
                run = read()
            except UserError as error:
                passed_over.append(str(error))
            else:
                # One run may be given twice, through a link, or as a directory and as a record.
                runs.setdefault(os.path.realpath(run.path), run)
    if not runs:
        raise UserError('; '.join(passed_over))
    for why in passed_over:
        print(f'warning: passed over: {why}', file=sys.stderr)
    return list(runs.values())

def readers_of(path: str):
    """What reads each run of a run directory, of a records.jsonl, or of a folder that holds either."""
    if os.path.isfile(os.path.join(path, 'config.json')):
        yield functools.partial(read_run, path)
    elif os.path.basename(path) == 'records.jsonl':
        with open(path, encoding='utf-8', errors='replace') as f:
            for number, line in enumerate(f, 1):
                yield functools.partial(read_record, path, number, line)
    elif os.path.isdir(path):
        for name in sorted(os.listdir(path)):
            yield from readers_of(os.path.join(path, name))

def read_run(path: str) -> Run:
    """Raises UserError for a config.json, run.json or line of metrics.jsonl that isn't one; a truncated last
    line is let pass."""
    config = schedule.resolve(load_run_config(path))
    records, _ = read_metrics(os.path.join(path, 'metrics.jsonl'))
    return Run(path, config, schedule.plan(config), records, read_run_json(path))

def read_record(path: str, number: int, line: str) -> Run:
    """The run in a line of a records.jsonl. Raises UserError for a line that holds none."""
    try:
        record = json.loads(line)
        folder, config, info, records = (record[key] for key in ('run', 'config', 'info', 'metrics'))
        is_record = all({'kind', *COUNTERS} <= set(one) for one in records)
    except (ValueError, KeyError, TypeError, RecursionError):
        is_record = False
    if not is_record:
        raise UserError(f'{path}, line {number}: not a record of a run (an object with run, config, info and '
                        'metrics)')
    config = schedule.resolve(config_from_dict(config, f'{path}, line {number}'))
    folder = os.path.normpath(os.path.join(os.path.dirname(path), folder))
    return Run(folder, config, schedule.plan(config), records, info or {})

@dataclass(eq=False)
class Group:
    """Runs that differ in nothing but the seed: those that are done, and those that aren't."""

    name: str
    arm: str
    scale: str
    budget: float  # what a study calls it; elsewhere the FLOPs of a run
    runs: list[Run]  # by seed
    mixed: str = ''  # in what other runs of its place differ, which are therefore not pooled

    def __post_init__(self):
        self.done = [run for run in self.runs if run.ended == 'done']
        self.seeds = tuple(run.seed for run in self.done)  # those that are done
        self.curves = [run.curve() for run in self.done]
        self.data = data_identity(self.runs[0])  # what must agree for losses to compare

    @property
    def config(self) -> TrainConfig:
        return self.runs[0].config

    @property
    def place(self) -> Place:
        return Place(self.arm, self.scale, self.budget)

    @property
    def lost(self) -> list[Run]:
        """The runs that aren't done: a mean of the others would leave them out."""
        return [run for run in self.runs if run.ended != 'done']

    def diverges(self, seeds=None) -> bool:
        return any(run.ended == 'diverged' and (seeds is None or run.seed in seeds) for run in self.runs)

    @property
    def depths(self) -> list[int]:
        """The depths that a run goes through, a checkpoint's first, though no phase has it."""
        depths = [self.config.init_depth] if self.config.init_depth else []
        depths += [phase.depth for phase in self.runs[0].plan.phases]
        return [depth for depth, _ in itertools.groupby(depths)]

    @property
    def grows(self) -> bool:
        return len(self.depths) > 1

    def losses(self, seeds=None, axis: str = '', at: float = 0.0) -> dict[int, float]:
        """{seed: its final loss, or with `axis` that after so much compute}, of the seeds that are done, or
        of some."""
        found = {}
        for seed, curve in zip(self.seeds, self.curves):
            if seeds is None or seed in seeds:
                found[seed] = loss_at(curve, axis, at) if axis else float(curve['loss'][-1])
        return found

    def finals(self, seeds=None) -> np.ndarray:
        """Final loss of each seed that is done, or of some."""
        return np.array(list(self.losses(seeds).values()))

    def end(self, axis: str) -> float:
        """Compute of the whole run, the mean over the seeds: on the clock they differ. Of runs that aren't
        done by their plan."""
        if not self.done:
            return float(self.runs[0].plan.flops()) if axis == 'flops' else math.nan
        return float(np.mean([curve[axis][-1] for curve in self.curves]))

    @property
    def other_sets(self) -> list[str]:
        return [entry.partition(':')[0] for entry in self.config.val_dirs]

    def scores(self, name: str) -> list[float]:
        """A number of the last evaluation, for each seed that is done; [] unless all have it, and HellaSwag's
        on the same questions."""
        values = [run.evals[-1].get(name) for run in self.done]
        is_alike = len({run.questions for run in self.done}) == 1 or not name.startswith('hellaswag')
        return values if is_alike and None not in values else []

    def last(self) -> dict:
        """The last numbers: means and sd over the seeds that are done, and the standard error of one scoring;
        None where there is none."""
        found = {'seeds': len(self.done)}
        for name in ('tokens', *AXES):
            found[name], _ = mean_and_sd([curve[name][-1] for curve in self.curves])
        found['val_loss'], found['val_loss_sd'] = mean_and_sd(self.finals())
        for name in self.other_sets:
            losses = self.scores(f'val_loss_{name}')
            found[f'val_loss_{name}'], found[f'val_loss_{name}_sd'] = mean_and_sd(losses)
        found['hellaswag_n'], _ = mean_and_sd(self.scores('hellaswag_n'))
        for name in ('bits', 'acc_norm', 'margin'):
            found[name], found[f'{name}_sd'] = mean_and_sd(self.scores(f'hellaswag_{name}'))
            # Of one scoring, not of the mean: all seeds have the same questions.
            found[f'{name}_se'], _ = mean_and_sd(self.scores(f'hellaswag_{name}_stderr'))
        p = found['acc_norm']
        if p is not None and found['acc_norm_se'] is None:
            found['acc_norm_se'] = math.sqrt(p * (1 - p) / found['hellaswag_n'])
        return found

    def mean(self) -> dict[str, np.ndarray]:
        """The mean over the seeds that are done, as a curve, where all of them were evaluated."""
        steps = functools.reduce(np.intersect1d, [curve['step'] for curve in self.curves])
        mean = {}
        for name in (*COUNTERS, 'loss'):
            seeds = [curve[name][np.isin(curve['step'], steps)] for curve in self.curves]
            mean[name] = np.mean(seeds, axis=0)
        return mean

    def trained_otherwise(self, other: 'Group', tuned: tuple = ()) -> list[str]:
        """Settings that differ from another group's and are neither tuned nor what growing is about."""
        passed_over = {*LENGTH, *GROWTH, *TUNED, *tuned}
        return [name for name in TRAINING if name not in passed_over
                and getattr(self.config, name) != getattr(other.config, name)]

def mean_and_sd(values) -> tuple[float | None, float | None]:
    """Mean and sample deviation; None where there are too few values."""
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None

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
        passed_over = ('init_from',) if places else ()
        gathered.setdefault((place, identity(run, passed_over)), []).append(run)
    groups = []
    for (place, _), same in gathered.items():
        kept = one_per_seed(same, notes)
        if place:
            groups.append(Group(place_text(*place), *place, kept))
        else:
            name = name_of(kept)
            groups.append(Group(name, name, '', 0.0, kept))
    if not places:
        set_budgets(groups)
    tell_apart(groups, notes, bool(places))
    for run in itertools.chain(*(group.runs for group in groups)):
        others = sum('val_loss' in record for record in run.records if record['kind'] == 'eval')
        others -= len(run.evals)
        if others:
            notes.append(f'{run.path}: {others} evaluations with other val_tokens than the last one are left '
                         'out')
    return groups, notes

def place_text(arm: str, scale: str, budget: int) -> str:
    """An arm with its scale and budget: 'Gong, w64 at 4,000'."""
    return f'{arm}, {scale} at {budget:,}' if scale else f'{arm} at {budget:,}'

def one_per_seed(runs: list[Run], notes: list[str]) -> list[Run]:
    """One run per seed, the finished one if there is one: a repetition tells nothing about the spread."""
    by_seed = {}
    for run in sorted(runs, key=lambda run: run.ended != 'done'):
        first = by_seed.setdefault(run.seed, run)
        if first is not run:
            notes.append(f'{run.path} repeats seed {run.seed} of {first.path} and is left out')
    return [by_seed[seed] for seed in sorted(by_seed)]

def name_of(runs: list[Run]) -> str:
    """What a group is called outside of a study: as its first run, without the seed if there are several."""
    name = runs[0].config.run_name or os.path.basename(os.path.normpath(runs[0].path))
    return re.sub(r'_seed\d+$', '', name) if len(runs) > 1 else name

def set_budgets(groups: list[Group]):
    """Give each group its FLOPs as its budget, the same to those that differ by whole steps alone."""
    for group in groups:
        group.budget = group.end('flops')
    ascending = sorted(groups, key=lambda group: group.budget)
    for before, group in itertools.pairwise(ascending):
        step = group.budget / group.runs[0].plan.total_steps
        if group.budget - before.budget <= max(MATCHED * before.budget, step):
            group.budget = before.budget

def tell_apart(groups: list[Group], notes: list[str], in_study: bool):
    """Say what keeps groups from being one: those of one place in a study, and elsewhere those that are
    equal but for how they were measured."""
    alike = {}
    for group in groups:
        key = group.place if in_study else identity(group.runs[0], MEASURED)
        alike.setdefault(key, []).append(group)
    for first, *others in alike.values():
        for group in others:
            names = ', '.join(differing(group.runs[0], first.runs[0]))
            notes.append(f'{first.name} (seed {seeds_of(first)}) and {group.name} (seed '
                         f'{seeds_of(group)}) differ in {names}: they are not pooled')
            if in_study:
                group.mixed = first.mixed = names
    counts = Counter(group.name for group in groups)
    for group in groups:
        if counts[group.name] > 1 and not in_study:
            group.name = group.arm = group.runs[0].path

def seeds_of(group: Group) -> str:
    return ', '.join(str(run.seed) for run in group.runs)

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
    last = run.evals[-1] if run.evals else {}
    return {
        'data': data_content(run),
        'vocab_size': run.config.vocab_size,
        'block_size': run.config.block_size,
        # It stands in each line, since a resumed run may have been told another one.
        'val_tokens': run.val_tokens(last),
    }

def merged_plan(run: Run) -> tuple:
    """(depth, frozen, what of the embeddings trains, stop) of each stretch of a run. Phases that follow each
    other and differ in name only are one."""
    stops = {}
    for phase in run.plan.phases:
        kind = (phase.depth, phase.frozen, phase.embeddings)
        stops[kind] = phase.stop
    return tuple((*kind, stop) for kind, stop in stops.items())

def facts(run: Run) -> dict:
    """All that the seeds of one experiment share."""
    # All but what is known not to matter: a setting that is new tells runs apart until somebody lists it.
    settings = {name: getattr(run.config, name) for name in TRAINING if name not in LENGTH}
    # dtype may change on resume, but not between seeds: what 'auto' was, where run.json says it.
    measured = {'dtype': run.info.get('dtype', run.config.dtype), 'plan': merged_plan(run)}
    return settings | data_identity(run) | measured

def identity(run: Run, passed_over: tuple = ()) -> tuple:
    """Equal for two runs of the same experiment, whatever their seeds and the facts that are passed over."""
    return tuple((name, value) for name, value in facts(run).items() if name not in passed_over)

def differing(run: Run, other: Run) -> list[str]:
    """In what two runs differ besides the seed, with the values where they tell a reader something."""
    theirs = facts(other)
    told = []
    for name, value in facts(run).items():
        if value != theirs[name]:
            # Hashes and plans tell nobody anything.
            told.append(name if name in ('data', 'plan') else f'{name} ({theirs[name]}, {value})')
    return told
