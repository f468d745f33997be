"""
Run directories as data: what each run was, how its loss fell, and which runs are the same experiment.

    runs = read_runs(['out/baseline_seed1', 'out/grown'])             one Run a directory; out/* works
    groups, notes = make_groups(runs)                                 seeds gathered
    groups, notes = make_groups(runs, arms={path: 'Li, 8 stages'})    arms named by who made the runs

Everything is read from config.json, metrics.jsonl and, where a run has one, run.json. A group is the
finished runs that differ in nothing but the seed, or one unfinished run. An arm is the groups that differ in
their budget only, or in a setting that one tunes (TUNED). Whether two runs are the same experiment is seen
from their plans, not from how these were written down: 1,000 growth and 1,000 continual steps of one depth
are 2,000 steps.
"""

import dataclasses
import glob
import json
import math
import os
import re
import sys

import numpy as np

import schedule
from config import FIELDS, TrainConfig, config_from_dict, load_run_config
from core.common import UserError
from run.log import read_metrics, read_run_json
from verdict import old_stats as stats

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
# What isn't of training: see trained_otherwise.
OF_NO_TRAINING = (*NOT_IDENTITY, *LENGTH, *GROWTH, *SHAPE, *DATA)
MATCHED = 0.01  # budgets that differ by less are equal: steps are whole


# eq=False: arrays compared with == give no single answer.
@dataclasses.dataclass(eq=False)
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
        """Loss where `axis` stands at x, linear in log x; the first or last value outside. nan without a
        point."""
        xs, losses = self.points(axis)
        if len(xs) == 0:
            return np.full(np.shape(x), np.nan)
        return np.interp(np.log(x), np.log(xs), losses)


@dataclasses.dataclass(eq=False)
class Run:
    """What one run directory holds."""

    path: str
    config: TrainConfig  # resolved: without `match`
    plan: schedule.Plan
    records: list[dict]  # all of metrics.jsonl
    truncated: bool  # the last line is incomplete: somebody is writing it, or was
    info: dict  # run.json; {} for a run from before there was one
    written: float  # when metrics.jsonl was last written to, seconds since 1970; 0 without one

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
        evals = [r for r in self.records if r['kind'] == 'eval' and 'val_loss' in r]
        return bool(evals) and evals[-1]['step'] == self.total_steps

    @property
    def growth_steps(self) -> list[int]:
        """The steps before which layers are added; the first layers of all are not."""
        return [phase.start for phase in self.phases if phase.growths]

    def loss_after_growth(self, step: int) -> float | None:
        """Validation loss of the model that has just grown before an update, where train.py measured it."""
        for record in self.records:
            if record['kind'] == 'phase' and record['step'] == step:
                return record.get('val_loss_after')
        return None

    def where(self, axis: str, steps) -> np.ndarray:
        """Where some steps lie on an axis, by all lines of the log."""
        # Not by the ends alone: a step of a later phase costs more, and the log has a line at each phase's
        # start.
        known = [0.0] + [record['step'] for record in self.records]
        values = [0.0] + [record[axis] for record in self.records]
        return np.interp(steps, known, values)

    def val_tokens_of(self, record: dict) -> int:
        """Tokens that a validation loss was measured on: whole sequences. Older lines don't say; config.json
        does."""
        asked = record.get('val_tokens', self.config.val_tokens)
        # Less than one sequence would round to 0.
        return asked // self.config.block_size * self.config.block_size or asked

    def evals(self) -> tuple[list[dict], int]:
        """(its validation losses, in order, as far as they are measured like the last one; how many are
        not)."""
        evals = [r for r in self.records if r['kind'] == 'eval' and 'val_loss' in r]
        if not evals:
            return [], 0
        last = self.val_tokens_of(evals[-1])
        alike = [r for r in evals if self.val_tokens_of(r) == last]
        return alike, len(evals) - len(alike)

    def scores(self) -> tuple[list[dict], int]:
        """(its HellaSwag scores as far as they are scored like the last one; how many are not)."""
        scores = [r for r in self.records if r['kind'] == 'eval' and 'hellaswag_acc_norm' in r]
        if not scores:
            return [], 0
        # Other questions, or another style, give the same model another score.
        alike = [r for r in scores if scored_on(r) == scored_on(scores[-1])]
        return alike, len(scores) - len(alike)


def scored_on(record: dict) -> tuple:
    """What tells two HellaSwag scorings apart, as far as a line of metrics.jsonl says it."""
    return record['hellaswag_n'], record.get('hellaswag_data'), record.get('hellaswag_style')


@dataclasses.dataclass(eq=False)
class Group:
    """Finished runs that differ in nothing but the seed, or one unfinished run."""

    name: str
    arm: str
    runs: list[Run]
    curves: list[Curve]  # one per run
    flags: list[str]  # why it isn't judged; empty if it can be
    start_loss: float | None  # at step 0, of an untrained model or a checkpoint, where that was measured
    data: dict  # what must agree for losses to compare; see data_identity
    sunk: dict  # axis: compute that made the checkpoint it starts from, if that is counted here; else {}
    rivals: list['Group'] = dataclasses.field(default_factory=list, repr=False)  # tried of its arm and budget
    is_best: bool = True  # of the rivals
    biased: bool = False  # chosen among several by the same seeds that it's judged with
    left_out: tuple = ()  # seeds that chose this group, and are therefore not judged

    @property
    def config(self) -> TrainConfig:
        return self.runs[0].config

    @property
    def tried(self) -> int:
        return max(1, len(self.rivals))

    @property
    def budget(self) -> float:
        """FLOPs of the whole run, sunk ones included; of an unfinished one by its plan."""
        if self.runs[0].finished:
            return self.end('flops')
        run = self.runs[0]
        return run.plan.flops() + self.sunk.get('flops', 0)

    @property
    def seeds(self) -> list[int]:
        return [run.config.seed for run in self.runs]

    @property
    def judged_runs(self) -> list[Run]:
        """The runs that count: not those of the seeds that chose this group."""
        return [run for run in self.runs if run.config.seed not in self.left_out]

    @property
    def judged(self) -> list[Curve]:
        """The curves of the runs that count."""
        return [curve for run, curve in zip(self.runs, self.curves) if run.config.seed not in self.left_out]

    @property
    def mean(self) -> Curve:
        """The mean over the seeds that count."""
        return mean_curve(self.judged)

    @property
    def finals(self) -> np.ndarray:
        """Final loss of each seed that counts."""
        return np.array([curve.loss[-1] for curve in self.judged])

    def final_estimate(self, sigma: float | None = None) -> stats.Estimate:
        """The mean final loss with its 95% interval over the seeds."""
        return stats.contrast(self.finals.mean(), [stats.part(1.0, self.finals)], sigma)

    def end(self, axis: str) -> float:
        """Compute of the whole run, the mean over the seeds: on the clock they differ."""
        ends = [float(getattr(curve, axis)[-1]) for curve in self.judged]
        return sum(ends) / len(ends) + self.sunk.get(axis, 0)

    def start(self, axis: str) -> float:
        """Where the last seed has its first evaluation."""
        firsts = [curve.points(axis)[0][0] for curve in self.judged]
        return float(max(firsts)) + self.sunk.get(axis, 0)

    def trained_otherwise(self, other: 'Group') -> list[str]:
        """Settings that differ from another group's and aren't what growing is about."""
        names = []
        for name, field in FIELDS.items():
            if field.metadata['free'] or name in OF_NO_TRAINING:
                continue
            if getattr(self.config, name) != getattr(other.config, name):
                names.append(name)
        return names

    def known_sunk(self) -> dict:
        """What the checkpoint that this group starts from has cost, by axis, the mean over the seeds, where
        each run.json knows it; else {}."""
        made = [run.info.get('init_from') for run in self.runs]
        is_known = all(type(one) is dict and one.get('flops') for one in made)
        if self.config.init_from == 'scratch' or not is_known:
            return {}
        known = {}
        for axis in AXES:
            costs = [one.get(axis) for one in made]
            # A cost that nobody knows must not count as 0.
            known[axis] = math.nan if None in costs else sum(costs) / len(costs)
        return known

    def losses_at(self, axis: str, x) -> np.ndarray:
        """Loss of each seed that counts at compute x: (n,), or (X, n) for X places."""
        # The curves begin at the checkpoint, without the compute that made it.
        x = np.asarray(x, float) - self.sunk.get(axis, 0)
        return np.stack([curve.at(axis, x) for curve in self.judged], axis=-1)


# ------------------------------------------------------------------------------------------------------------
# reading


def read_runs(paths: list[str]) -> list[Run]:
    """The runs in some directories, each once. What is there but holds no run is passed over with a warning.

    A pattern (out/*) that the shell left as it is, is expanded here. Raises UserError where nothing is found.
    """
    runs = {}
    for path in expand(paths):
        if not os.path.exists(path):
            raise UserError(f'{path}: no such run directory')
        if not os.path.isfile(os.path.join(path, 'config.json')):
            # compare.py out/* meets figures and notes, too.
            reason = 'not a run directory (it has no config.json)'
            print(f'warning: {path} is passed over: {reason}', file=sys.stderr)
            continue
        # One directory may be given twice, or through a link.
        runs.setdefault(os.path.realpath(path), path)
    if not runs:
        raise UserError('none of these is a run directory: ' + ' '.join(paths))
    return [read_run(path) for path in runs.values()]


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


def read_run(path: str) -> Run:
    """Raises UserError for a config.json, run.json or line of metrics.jsonl that isn't one; a truncated last
    line is let pass."""
    config = schedule.resolve(load_run_config(path))
    metrics = os.path.join(path, 'metrics.jsonl')
    records, truncated = read_metrics(metrics)
    info = read_run_json(path)
    written = os.path.getmtime(metrics) if records else 0.0
    return Run(path, config, schedule.plan(config), records, truncated, info, written)


def run_of_record(record: dict, path: str) -> Run:
    """The run that a line of a study's records.jsonl holds (grid/records.py), as one in the folder `path`."""
    config = schedule.resolve(config_from_dict(record['config'], path))
    return Run(path, config, schedule.plan(config), record['metrics'], False, record['info'], 0.0)


def make_curve(run: Run) -> Curve:
    """The validation losses of a run after step 0."""
    # At step 0 nothing has been trained, and no compute spent: such a point is no part of what compute buys.
    evals, _ = run.evals()
    kept = [record for record in evals if record['step'] > 0]
    columns = []
    for name in (*COUNTERS, 'val_loss'):
        columns.append(np.array([record[name] for record in kept], float))
    return Curve(*columns)


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
    # Beyond what all seeds cover, np.interp would repeat a seed's first or last value.
    steps = steps[(steps >= first) & (steps <= last)]
    columns = [steps]
    for name in ('tokens', *AXES):
        seeds = [np.interp(steps, curve.step, getattr(curve, name)) for curve in curves]
        columns.append(np.mean(seeds, axis=0))
    losses = [curve.at('step', steps) for curve in curves]
    return Curve(*columns, np.mean(losses, axis=0))


# ------------------------------------------------------------------------------------------------------------
# which runs are the same experiment


class Contents:
    """The data of some runs, by content as far as it's known.

    Runs from before run.json say only what the folder was called: such a name stands for the content that
    other runs have under it, if that is only one.
    """

    def __init__(self, runs: list[Run]):
        self.known = {}
        for run in runs:
            for what in ('data', 'hellaswag_data'):
                content = fingerprint(run, what)
                if content:
                    self.known.setdefault(place(run, what), set()).add(content)

    def of(self, run: Run, what: str) -> str:
        """Content of a run's 'data' or 'hellaswag_data', or its place where nothing better is known."""
        content = fingerprint(run, what)
        if content:
            return content
        known = self.known.get(place(run, what), set())
        # With two contents under one name, nobody knows which of them this run had.
        return next(iter(known)) if len(known) == 1 else place(run, what)


def place(run: Run, what: str) -> str:
    """Where some data is said to lie."""
    # Of the folder the name alone: it lies elsewhere on each machine.
    if what == 'data':
        return os.path.basename(os.path.normpath(run.config.data_dir))
    return run.config.hellaswag_data


def fingerprint(run: Run, what: str) -> str:
    """What run.json says of the content of some data, as text; '' if nothing."""
    said = run.info.get(what)
    if type(said) is not dict:
        return ''
    # Not the folder's path, nor the time: hashes and counts, whatever the depth.
    facts = {}
    for key, value in sorted(flatten(said).items()):
        if 'sha256' in key or key.endswith('tokens') or key.endswith('examples'):
            facts[key] = value
    return json.dumps(facts) if facts else ''


def flatten(values: dict, prefix: str = '') -> dict:
    """{'a': {'b': 1}} as {'a.b': 1}."""
    flat = {}
    for key, value in values.items():
        if type(value) is dict:
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[prefix + key] = value
    return flat


def data_identity(run: Run, contents: Contents) -> dict:
    """What must agree for two validation losses to be comparable."""
    # The count stands in each line, since a resumed run may have been told another one.
    evals, _ = run.evals()
    return {
        'data_dir': contents.of(run, 'data'),
        'vocab_size': run.config.vocab_size,
        'block_size': run.config.block_size,
        'val_tokens': run.val_tokens_of(evals[-1] if evals else {}),
    }


def merged_plan(run: Run) -> list[tuple]:
    """(depth, frozen, what of the embeddings trains, start, stop) of each stretch of a run. Phases that
    follow each other and differ in name only are one."""
    merged = []
    for phase in run.phases:
        kind = (phase.depth, phase.frozen, phase.embeddings)
        if merged and merged[-1][:3] == kind:
            merged[-1] = (*kind, merged[-1][3], phase.stop)
        else:
            merged.append((*kind, phase.start, phase.stop))
    return merged


def same_settings(run: Run, contents: Contents) -> dict:
    """All that the seeds of one experiment share, but for the plan."""
    # All but what is known not to matter: a setting that is new tells runs apart until somebody lists it.
    settings = {}
    for name, field in FIELDS.items():
        if not field.metadata['free'] and name not in (*NOT_IDENTITY, *LENGTH):
            settings[name] = getattr(run.config, name)
    settings |= data_identity(run, contents)
    settings['hellaswag_data'] = contents.of(run, 'hellaswag_data')
    settings['hellaswag_limit'] = run.config.hellaswag_limit
    # These may change on resume, but not between seeds. dtype: what 'auto' was, where run.json says it.
    settings['dtype'] = run.info.get('dtype', run.config.dtype)
    return settings


def identity(run: Run, contents: Contents, overlooked: set) -> tuple:
    """Equal for two runs of the same experiment, whatever their seeds and the settings `overlooked`."""
    settings = same_settings(run, contents)
    kept = [(name, value) for name, value in settings.items() if name not in overlooked]
    return (*kept, *merged_plan(run))


def arm_identity(run: Run, contents: Contents, tuned: tuple) -> tuple:
    """What two runs share that differ in the budget, or in what was tuned; of the plan which layers train,
    not how long."""
    settings = same_settings(run, contents)
    kept = [(name, value) for name, value in settings.items() if name not in tuned]
    return (*kept, *(stretch[:3] for stretch in merged_plan(run)))


def same_shares(run: Run, other: Run) -> bool:
    """Whether each stretch of two plans takes the same share of its run, up to whole steps."""
    # Two budgets split by the same fractions round to other whole steps.
    tolerance = max(MATCHED, 1 / run.total_steps + 1 / other.total_steps)
    for mine, theirs in zip(merged_plan(run), merged_plan(other)):
        if abs(mine[4] / run.total_steps - theirs[4] / other.total_steps) > tolerance:
            return False
    return True


# ------------------------------------------------------------------------------------------------------------
# groups


def make_groups(
    runs: list[Run], arms: dict | None = None, tuned: tuple = TUNED
) -> tuple[list[Group], list[str]]:
    """(runs gathered by experiment, in the order they came; notes). An unfinished run is a group of its own.

    `arms` names the arm of each run's path; without it runs are of one arm if only their budget, or a
    setting among `tuned`, differs.
    """
    notes = []
    contents = Contents(runs)
    gathered = {}
    # In a study each seed of an arm may start from a checkpoint of its own seed. Elsewhere other checkpoints
    # are other experiments.
    overlooked = {'init_from'} if arms else set()
    for run in runs:
        arm = arms[run.path] if arms else ''
        alone = '' if run.finished else run.path  # the mean of half a run and a whole one is nobody's loss
        gathered.setdefault((arm, identity(run, contents, overlooked), alone), []).append(run)
    groups = []
    for (arm, _, _), same in gathered.items():
        groups.append(make_group(without_repeats(same, notes), arm, contents))
    if arms:
        name_by_budget(groups)
    else:
        make_names_unique(groups)
        find_arms(groups, contents, tuned)
    for group in groups:
        notes += mixed_measures(group)
    choose_best(groups)
    return groups, notes


def find_arms(groups: list[Group], contents: Contents, tuned: tuple):
    """Gather the groups that are one arm, and name each arm after what its groups' names begin with."""
    # Shares are compared, not hashed: they are equal up to rounding only.
    by_identity = {}
    for group in groups:
        run = group.runs[0]
        arms = by_identity.setdefault(arm_identity(run, contents, tuned), [])
        for arm in arms:
            if same_shares(run, arm[0].runs[0]):
                arm.append(group)
                break
        else:
            arms.append([group])
    # No two arms may be called alike; the names of groups are unique already.
    taken = {group.name for group in groups}
    for arms in by_identity.values():
        for arm in arms:
            name = arm_name([group.name for group in arm])
            if name in taken:
                name = arm[0].name
            taken.add(name)
            for group in arm:
                group.arm = name


def arm_name(names: list[str]) -> str:
    """What some names begin with ('grown' of grown_500 and grown_1000), the first of them if that is too
    little."""
    if len(names) == 1:
        return names[0]
    # grown_500 and grown_550 share 'grown_5': the digit belongs to the budgets.
    start = os.path.commonprefix(names).rstrip('0123456789_-. ')
    # A shared folder is no name, and one or two letters are too few for one.
    is_path = os.sep in start
    return names[0] if is_path or len(start) < 3 else start


def without_repeats(runs: list[Run], notes: list[str]) -> list[Run]:
    """One run per seed: a repetition tells nothing about the spread."""
    by_seed = {}
    for run in runs:
        first = by_seed.setdefault(run.config.seed, run)
        if first is not run:
            notes.append(
                f'{run.path} repeats seed {run.config.seed} of {first.path} and is left out: a repetition '
                'tells nothing about the spread'
            )
    return list(by_seed.values())


def make_group(runs: list[Run], name: str, contents: Contents) -> Group:
    """A group of runs of one experiment, called as its arm or, for `name` '', as its first run."""
    first = runs[0]
    if not name:
        name = first.config.run_name or os.path.basename(os.path.normpath(first.path))
        if len(runs) > 1:
            # The first run's seed is wrong for the others.
            name = re.sub(r'_seed\d+$', '', name)
    flags = []
    if not first.finished:
        torn = ', last line truncated' if first.truncated else ''
        flags.append(f'unfinished: step {first.step} of {first.total_steps}{torn}')
    # What a checkpoint began with tells whether there was anything to save.
    starts = []
    for run in runs:
        starts += [record['val_loss'] for record in run.evals()[0] if record['step'] == 0]
    start_loss = float(np.mean(starts)) if starts else None
    curves = [make_curve(run) for run in runs]
    return Group(name, name, runs, curves, flags, start_loss, data_identity(first, contents), {})


def name_by_budget(groups: list[Group]):
    """Add the budget to the name of each group whose arm has several."""
    for group in groups:
        if any(other.arm == group.arm and not is_budget(other, group) for other in groups):
            group.name = f'{group.arm} at {group.budget:.2g}'


def make_names_unique(groups: list[Group]):
    names = [group.name for group in groups]
    for group in groups:
        if names.count(group.name) > 1:
            group.name = group.runs[0].path


def mixed_measures(group: Group) -> list[str]:
    """Notes on runs whose evaluations were not all measured alike: those measured otherwise than the last
    are left out."""
    notes = []
    for run in group.runs:
        for what, (_, others) in (('val_tokens', run.evals()), ('HellaSwag data', run.scores())):
            if others:
                notes.append(
                    f'{run.path}: {others} evaluations with other {what} than the last one are left out'
                )
    return notes


def choose_best(groups: list[Group]):
    """Among the finished groups of one arm and budget the one with the least final loss is judged.

    The choice is made on the seeds that all of them have. If the best has two seeds or more besides, only
    those are judged, and the choice can't flatter it; else it's the best of many on the seeds that chose it,
    and biased.
    """
    for rivals in find_rivals(groups):
        if len(rivals) == 1:
            continue
        # A seed that only one of them has may be a lucky one.
        shared = set(rivals[0].seeds)
        for rival in rivals[1:]:
            shared &= set(rival.seeds)

        def mean_final(group, seeds=shared):
            finals = [
                c.loss[-1]
                for run, c in zip(group.runs, group.curves)
                if not seeds or run.config.seed in seeds
            ]
            return np.mean(finals)

        best = min(rivals, key=mean_final)
        fresh = set(best.seeds) - shared
        for rival in rivals:
            rival.rivals = rivals
            rival.is_best = rival is best
        # One fresh seed alone would show no spread to judge by.
        best.biased = not shared or len(fresh) < 2
        best.left_out = () if best.biased else tuple(sorted(shared))


def find_rivals(groups: list[Group]) -> list[list[Group]]:
    """The finished groups that share arm and budget, together."""
    found = []
    for group in groups:
        if group.flags:
            continue
        # Budgets are equal up to rounding only, so they can't be the keys of a dict.
        for rivals in found:
            if rivals[0].arm == group.arm and is_budget(group, rivals[0]):
                rivals.append(group)
                break
        else:
            found.append([group])
    return found


def is_budget(group: Group, other: Group) -> bool:
    """Whether two groups cost the same, up to the whole steps that a budget is rounded to."""
    step = other.budget / other.runs[0].total_steps
    return abs(group.budget - other.budget) <= max(MATCHED * other.budget, step)
