"""
Does growing pay? Runs side by side, judged at equal compute.

    python compare.py out/*                                        tables and one verdict per run
    python compare.py out/* --baseline=out/baseline_cosine --figure=compare.png --csv=compare.csv

Everything is read from the run directories: config.json and metrics.jsonl. Runs that differ in nothing but the seed are one
row: mean ± standard deviation. An unfinished run, or one on other data than the baseline's, is shown and flagged, but
neither averaged with others nor judged. HellaSwag's ± is the standard error of one scoring, sqrt(p (1 - p) / n).

The baseline is the run of one stage from scratch; --baseline=RUN names one where there are several. Against it, on each of
three axes (FLOPs, FLOPs by the paper's ledger, seconds of training):

  same compute   both losses where the shorter of the two ends
  same loss      the compute at which the baseline first had the run's final loss, against all that the run spent; and where
                 it never had it, the compute at which the run first had the baseline's final loss, against all of the
                 baseline's. "costs 1.31x the baseline for the same loss" is that ratio, a saving is one minus it

Between two evaluations the loss is interpolated linearly in the logarithm of the compute (linearly in the compute where the
first of the two is at 0); beyond the last one nothing is guessed. A point in the middle of a learning rate that is yet to
decay is no fair baseline (No Train No Gain, 2023): where a number depends on one, a note says so and in which direction.
Seconds compare only between runs on the same, otherwise idle machine.
"""

import argparse
import csv
import dataclasses
import itertools
import math
import os
import re
import statistics
import sys

import schedule
from common import UserError, run_main
from config import FIELDS, TrainConfig
from metrics import COUNTERS, read_metrics

AXES = {'flops': 'FLOPs', 'flops_paper': "paper's", 'seconds': 'seconds'}
SHAPE = ('n_layer', 'n_head', 'n_embd')
TRAINING = ('shuffle', 'total_batch_size', 'dropout', 'optimizer', 'learning_rate', 'min_lr', 'lr_schedule', 'warmup_steps',
            'weight_decay', 'beta1', 'beta2', 'grad_clip')  # what a fair comparison of growth holds fixed, or owns up to
MATCHED = 0.01  # budgets that differ by less are equal: steps are whole


@dataclasses.dataclass
class Run:
    """What one run directory holds."""

    path: str
    config: TrainConfig
    total: int  # steps of its plan
    curve: list  # its eval lines that have a val_loss
    scores: list  # its eval lines that have a hellaswag_acc_norm
    phases: list  # its phase lines
    step: int  # of its last line
    torn: bool  # the last line is incomplete: somebody is writing it, or was

    @property
    def finished(self) -> bool:
        return bool(self.curve) and self.curve[-1]['step'] == self.total


@dataclasses.dataclass
class Group:
    """Finished runs that differ in nothing but the seed, or one unfinished run."""

    name: str
    runs: list
    curve: list  # evaluations at the steps that all runs have, each value the mean over the runs
    flags: list  # why it isn't judged

    @property
    def config(self) -> TrainConfig:
        return self.runs[0].config


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='run directories')
    parser.add_argument('--baseline', metavar='RUN', help='the run to judge by (default: the one of one stage from scratch)')
    parser.add_argument('--figure', metavar='FILE', help='draw the curves into FILE (.png, .pdf or .svg; needs matplotlib)')
    parser.add_argument('--csv', metavar='FILE', help='write all numbers into FILE, one row per run')
    args = parser.parse_args()
    if args.figure and os.path.splitext(args.figure)[1] not in ('.png', '.pdf', '.svg'):
        raise UserError(f'--figure={args.figure}: the name must end in .png, .pdf or .svg')
    for path in filter(None, (args.figure, args.csv)):
        if not os.path.isdir(os.path.dirname(path) or '.'):
            raise UserError(f'{path}: there is no folder {os.path.dirname(path)}')

    notes = []
    groups = make_groups(read_runs(args.runs + [args.baseline] * bool(args.baseline)), notes)
    baseline = find_baseline(groups, args.baseline, notes)
    flag_other_data(groups, baseline, notes)
    comparisons = {g.name: {axis: compare(g, baseline, axis) for axis in AXES}
                   for g in groups if baseline and g is not baseline and not g.flags}
    print_runs(groups, baseline)
    if comparisons:
        print_comparisons(groups, baseline, comparisons)
        notes += cautions(groups, baseline, comparisons)
    for note in notes:
        print(f'\nnote: {note}')
    if args.csv:
        write_csv(args.csv, groups, baseline, comparisons)
    if args.figure:
        draw(args.figure, groups, baseline)


# ---------------------------------------------------------------------------------------------------------------------
# from directories to groups


def read_runs(paths: list[str]) -> list[Run]:
    """The runs in some directories, each once. What is there but holds no run is passed over with a warning."""
    runs = {}
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f'{path}: no such run directory')
        if not os.path.isfile(os.path.join(path, 'config.json')):
            print(f'warning: {path} is passed over: not a run directory (it has no config.json)', file=sys.stderr)
        elif os.path.realpath(path) not in runs:
            runs[os.path.realpath(path)] = read_run(path)
    if not runs:
        raise UserError('none of these is a run directory: ' + ' '.join(paths))
    return list(runs.values())


def read_run(path: str) -> Run:
    """Raises UserError for a config.json or a line of metrics.jsonl that isn't one; a torn last line is let pass."""
    config = schedule.resolve(schedule.load_run_config(path))
    records, torn = read_metrics(os.path.join(path, 'metrics.jsonl'))
    evals = [r for r in records if r['kind'] == 'eval']
    return Run(path, config, schedule.total_steps(schedule.plan(config)), [r for r in evals if 'val_loss' in r],
               [r for r in evals if 'hellaswag_acc_norm' in r], [r for r in records if r['kind'] == 'phase'],
               records[-1]['step'] if records else 0, torn)


def data_identity(config: TrainConfig) -> dict:
    """What must agree for two validation losses to be comparable. Of the data's folder the name alone: machines differ."""
    return {'data_dir': os.path.basename(os.path.normpath(config.data_dir)), 'vocab_size': config.vocab_size,
            'block_size': config.block_size, 'val_tokens': config.val_tokens}


def identity(config: TrainConfig) -> tuple:
    """All that two runs must share to be the same experiment, whatever their seeds."""
    settings = {name: getattr(config, name) for name, field in FIELDS.items()
                if name != 'seed' and not field.metadata['free']}
    return tuple((settings | data_identity(config) | {k: getattr(config, k) for k in ('hellaswag_data', 'hellaswag_limit')}
                  ).items())


def make_groups(runs: list[Run], notes: list[str]) -> list[Group]:
    """Runs gathered by identity, in the order they came; an unfinished run is a group of its own."""
    gathered = {}
    for r in runs:
        gathered.setdefault((identity(r.config), '' if r.finished else r.path), []).append(r)
    groups = []
    for same in gathered.values():
        by_seed = {}
        for r in same:
            if by_seed.setdefault(r.config.seed, r) is not r:
                notes.append(f'{r.path} repeats seed {r.config.seed} of {by_seed[r.config.seed].path} and is left out: a '
                             'repetition tells nothing about the spread')
        same = list(by_seed.values())
        name = same[0].config.run_name or os.path.basename(os.path.normpath(same[0].path))
        if len(same) > 1:
            name = re.sub(r'_seed\d+$', '', name)
        flags = []
        if not same[0].finished:
            flags.append(f'unfinished: step {same[0].step} of {same[0].total}' + ', last line torn' * same[0].torn)
        groups.append(Group(name, same, mean_curve([r.curve for r in same]), flags))
    names = [g.name for g in groups]
    for g in groups:
        if names.count(g.name) > 1:
            g.name = g.runs[0].path
    return groups


def mean_curve(curves: list[list[dict]]) -> list[dict]:
    """Evaluations at the steps that all curves have, each value the mean over the curves."""
    by_step = [{e['step']: e for e in curve} for curve in curves]
    steps = sorted(set.intersection(*map(set, by_step)))
    return [{k: statistics.fmean(at[s][k] for at in by_step) for k in (*COUNTERS, 'val_loss')} for s in steps]


def find_baseline(groups: list[Group], path: str | None, notes: list[str]) -> Group | None:
    """The finished group to judge by, None (and a note) if there is none. Raises UserError if several could be meant."""
    if path:
        chosen = [g for g in groups if any(os.path.realpath(r.path) == os.path.realpath(path) for r in g.runs)]
        if not chosen:
            raise UserError(f'--baseline={path}: not a run directory, or a run that is left out as a repetition')
    else:
        chosen = [g for g in groups if g.config.n_stages == 1 and g.config.init_from == 'scratch']
    meant = {identity(g.config) for g in chosen}
    if len(meant) > 1:
        raise UserError('several different runs could be the baseline; name one with --baseline=RUN: '
                        + ', '.join(g.runs[0].path for g in chosen))
    same = [g for g in groups if identity(g.config) in meant]
    finished = [g for g in same if not g.flags]
    if not finished:
        notes.append(f'nothing is judged: the baseline {same[0].name} is not finished' if same else
                     'nothing is judged: none of these is a run of one stage from scratch; name one with --baseline=RUN')
    return finished[0] if finished else None


def flag_other_data(groups: list[Group], baseline: Group | None, notes: list[str]):
    """Flag what can't be judged by the baseline (without one: by the first run), and say what compares with a caution."""
    first = (baseline or groups[0]).config
    for g in groups:
        other = [f'{k} {v}, not {data_identity(first)[k]}' for k, v in data_identity(g.config).items()
                 if v != data_identity(first)[k]]
        if other:
            g.flags.append('other data: ' + ', '.join(other))
        for what, fields in (('ends as another model', SHAPE), ('is trained otherwise, whatever it grows', TRAINING)):
            differ = [f'{k} {getattr(g.config, k)}, not {getattr(first, k)}' for k in fields
                      if getattr(g.config, k) != getattr(first, k)]
            if differ and not other:
                notes.append(f'{g.name} {what}: ' + ', '.join(differ))
        if g.config.init_from != 'scratch':
            notes.append(f'{g.name} starts from {g.config.init_from}; the compute that made it is not counted')
    alike = [r.config for g in groups if not g.flags for r in g.runs]
    for fields, what in ((('device', 'dtype', 'compile', 'batch_size'), 'seconds'),
                         (('hellaswag_data', 'hellaswag_limit'), 'HellaSwag scores')):
        differ = [k for k in fields if len({getattr(c, k) for c in alike}) > 1]
        if differ:
            notes.append(f'the runs differ in {" and ".join(differ)}: their {what} may not compare')


# ---------------------------------------------------------------------------------------------------------------------
# equal compute


def loss_at(curve: list[dict], axis: str, x: float) -> float | None:
    """Loss of a curve where `axis` stands at x, interpolated; None before its first evaluation and after its last."""
    for e in curve:
        if e[axis] == x:
            return e['val_loss']
    for a, b in itertools.pairwise(curve):
        if a[axis] < x < b[axis]:
            share = math.log(x / a[axis]) / math.log(b[axis] / a[axis]) if a[axis] > 0 else x / b[axis]
            return a['val_loss'] + share * (b['val_loss'] - a['val_loss'])
    return None


def reached(curve: list[dict], axis: str, loss: float) -> tuple[float | None, bool]:
    """(where on `axis` a curve first is at `loss` or below, interpolated, None if never; whether it is so from its first
    evaluation on, so that the place is only an upper bound)."""
    if curve[0]['val_loss'] <= loss:
        return curve[0][axis], True
    for a, b in itertools.pairwise(curve):
        if b['val_loss'] <= loss:
            share = (a['val_loss'] - loss) / (a['val_loss'] - b['val_loss'])
            return (a[axis] * (b[axis] / a[axis])**share if a[axis] > 0 else share * b[axis]), False
    return None, False


def compare(group: Group, baseline: Group, axis: str) -> dict:
    """A group against the baseline on one axis. Keys (None: there is no such number):

    at, loss, baseline_loss, difference   same compute: where the shorter ends, both mean losses, run minus baseline
    error                                 standard error of the difference, from the seeds (two of each at least)
    baseline_needs, saving                same loss, the run's final: the baseline's compute, 1 - run's / baseline's
    needs, saving_at_baseline_loss        same loss, the baseline's final: the run's compute, 1 - run's / baseline's
    cost, bound                           run's compute over baseline's for the same loss, and '', 'at most' or 'at least'
    """
    end, baseline_end = group.curve[-1], baseline.curve[-1]
    at = min(end[axis], baseline_end[axis])
    loss, baseline_loss = loss_at(group.curve, axis, at), loss_at(baseline.curve, axis, at)
    difference = None if loss is None or baseline_loss is None else loss - baseline_loss
    error = None
    if difference is not None and len(group.runs) > 1 and len(baseline.runs) > 1:
        # Every seed at its own evaluations' compute; on the clock a seed may have ended a little earlier than the mean.
        spreads = [[loss_at(r.curve, axis, min(at, r.curve[-1][axis])) for r in g.runs] for g in (group, baseline)]
        if all(value is not None for values in spreads for value in values):
            error = math.sqrt(sum(statistics.variance(values) / len(values) for values in spreads))
    baseline_needs, baseline_bound = reached(baseline.curve, axis, end['val_loss'])
    needs, run_bound = reached(group.curve, axis, baseline_end['val_loss'])
    cost, bound = None, ''
    if baseline_needs:  # neither None nor 0
        cost, bound = end[axis] / baseline_needs, 'at least' if baseline_bound else ''
    elif baseline_needs is None and baseline_end[axis]:
        cost, bound = needs / baseline_end[axis], 'at most' if run_bound else ''
    return {'at': at, 'loss': loss, 'baseline_loss': baseline_loss, 'difference': difference, 'error': error,
            'baseline_needs': baseline_needs, 'saving': 1 - end[axis] / baseline_needs if baseline_needs else None,
            'needs': needs, 'saving_at_baseline_loss': 1 - needs / baseline_end[axis] if needs is not None else None,
            'cost': cost, 'bound': bound}


def cautions(groups: list[Group], baseline: Group, comparisons: dict) -> list[str]:
    """Where a verdict rests on a point in the middle of a learning rate that had yet to decay, and what that does to it."""
    early_baseline, early_runs = [], []
    for g in groups:
        c = comparisons.get(g.name, {}).get('flops')
        if not c:
            continue
        used = [c['at']] + [c['baseline_needs']] * (c['baseline_needs'] is not None)
        if baseline.config.lr_schedule != 'constant' and min(used) < (1 - MATCHED) * baseline.curve[-1]['flops']:
            early_baseline.append(g.name)
        used = [c['at']] + [c['needs']] * (c['baseline_needs'] is None)
        if g.config.lr_schedule != 'constant' and min(used) < (1 - MATCHED) * g.curve[-1]['flops']:
            early_runs.append(g.name)
    notes = []
    if early_baseline:
        notes.append(f"the baseline's learning rate ({baseline.config.lr_schedule}) decays towards its own end, and the "
                     f'numbers of {", ".join(early_baseline)} rest on a point before it, where a baseline that is scheduled '
                     'to end there has a lower loss: they flatter the run. A fair baseline is trained with match=RUN')
    if early_runs:
        notes.append(f'{", ".join(early_runs)}: the learning rate decays, and some numbers rest on a point before its end, '
                     'where a run that is scheduled to end there has a lower loss: they flatter the baseline')
    return notes


# ---------------------------------------------------------------------------------------------------------------------
# what is printed and written


def describe(config: TrainConfig) -> str:
    """The schedule in a few words: depths, and what differs from random layers, freezing, constant AdamW."""
    depths = (config.init_depth,) * bool(config.init_depth) + schedule.stage_depths(config)
    depths = [str(d) for d, _ in itertools.groupby(depths)]
    words = ['-'.join(depths if len(depths) <= 8 else [*depths[:2], '..', depths[-1]]) + ' layers' * (len(depths) == 1)]
    if len(depths) > 1:
        frozen = any(p.frozen for p in schedule.plan(config))
        words += [] if frozen else ['unfrozen']
        words += [config.phase1_embeddings] if frozen and config.phase1_embeddings != 'input_frozen' else []
        words += [config.grow_init] if config.grow_init != 'random' else []
        words += [f'moments {config.grow_optimizer}'] if config.grow_optimizer != 'keep' else []
    words += [config.lr_schedule] if config.lr_schedule != 'constant' else []
    words += [config.optimizer] if config.optimizer != 'adamw' else []
    return ' '.join(words)


def final(group: Group) -> dict:
    """The last numbers of a group: means over its runs, sd of the loss and of acc_norm over the seeds (None for one)."""
    numbers = {k: group.curve[-1][k] if group.curve else None for k in ('tokens', *AXES, 'val_loss')}
    last = [r.curve[-1]['val_loss'] for r in group.runs if r.curve]
    numbers['val_loss_sd'] = statistics.stdev(last) if len(last) > 1 else None
    scores = [r.scores[-1] for r in group.runs if r.scores and r.scores[-1]['step'] == r.curve[-1]['step']]
    if len(scores) < len(group.runs):  # the others aren't scored at the end
        return numbers | dict.fromkeys(('acc_norm', 'acc_norm_se', 'acc_norm_sd', 'hellaswag_n'))
    p, n = statistics.fmean(s['hellaswag_acc_norm'] for s in scores), min(s['hellaswag_n'] for s in scores)
    return numbers | {'acc_norm': p, 'acc_norm_se': math.sqrt(p * (1 - p) / n), 'hellaswag_n': n, 'acc_norm_sd':
                      statistics.stdev(s['hellaswag_acc_norm'] for s in scores) if len(scores) > 1 else None}


def text(value: float | None, form: str, none: str = '-') -> str:
    return none if value is None else format(value, form)


def print_table(header: list[str], rows: list[list[str]], left: int):
    """Rows under a header; the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        print('  '.join(cells).rstrip())


def print_runs(groups: list[Group], baseline: Group | None):
    """The first table: one row per group."""
    rows = []
    for g in groups:
        f = final(g)
        loss = text(f['val_loss'], '.4f') + (f' ± {f["val_loss_sd"]:.4f}' if f['val_loss_sd'] is not None else '')
        acc = text(f['acc_norm'], '.4f') + (f' ± {f["acc_norm_se"]:.4f}' if f['acc_norm'] is not None else '')
        acc += f' (seeds ± {f["acc_norm_sd"]:.4f})' if f['acc_norm_sd'] is not None else ''
        rows.append([g.name + ' (baseline)' * (g is baseline), describe(g.config), str(len(g.runs)),
                     *(text(f[k], '.0f' if k == 'seconds' else '.3e') for k in ('tokens', *AXES)), loss, acc])
    print_table(['run', 'schedule', 'seeds', 'tokens', *AXES.values(), 'val loss', 'HellaSwag acc_norm'], rows, 2)
    for g in groups:
        for flag in g.flags:
            print(f'flagged: {g.name}: {flag}')


def print_comparisons(groups: list[Group], baseline: Group, comparisons: dict):
    """The second table: three rows per judged group; and one verdict each."""
    rows = []
    for name, by_axis in comparisons.items():
        for axis, c in by_axis.items():
            form = '.1f' if axis == 'seconds' else '.3e'
            never = 'not reached'
            rows.append([name if axis == 'flops' else '', AXES[axis], text(c['at'], form), text(c['loss'], '.4f'),
                         text(c['baseline_loss'], '.4f'),
                         text(c['difference'], '+.4f') + (f' ± {c["error"]:.4f}' if c['error'] is not None else ''),
                         text(c['baseline_needs'], form, never), text(c['saving'], '+.1%'),
                         text(c['needs'], form, never), text(c['saving_at_baseline_loss'], '+.1%')])
    print(f'\nagainst {baseline.name}, in three parts: at equal compute, where the shorter of the two ends\n'
          '| for the loss that the run ends with | for the loss that the baseline ends with (a saving below 0: it costs more)')
    print_table(['run', 'axis', 'compute', 'loss', "baseline's", 'difference', '| baseline needs', 'saving', '| run needs',
                 'saving'], rows, 2)
    print()
    for g in groups:
        if g.name in comparisons:
            print(verdict(g, baseline, comparisons[g.name]))
        elif g is not baseline:
            print(f'{g.name}: not judged ({"; ".join(g.flags)})')


def verdict(group: Group, baseline: Group, by_axis: dict) -> str:
    """One line: what the run costs for the same loss, and whether the seeds can tell."""
    c = by_axis['flops']
    if c['cost'] is None:
        return f'{group.name}: ends no better than the baseline started'
    costs = [f'{text(by_axis[axis]["cost"], ".2f")}x {how}' for axis, how in (('flops_paper', "by the paper's ledger"),
                                                                            ('seconds', 'in seconds'))]
    line = f'{group.name}: costs {c["bound"] + " " if c["bound"] else ""}{c["cost"]:.2f}x the baseline for the same loss'
    line += f' ({", ".join(costs)})'
    if c['baseline_needs'] is None:
        line += f'; its own final loss {group.curve[-1]["val_loss"]:.4f} not reached by the baseline'
    elif c['needs'] is None:
        line += f"; the baseline's final loss {baseline.curve[-1]['val_loss']:.4f} not reached"
    if c['error'] is None:
        return line + '; too few seeds to know the noise'
    clear = abs(c['difference']) > 2 * c['error']
    return line + f'; at equal compute {c["difference"]:+.4f} ± {c["error"]:.4f}' + (
        '' if clear else ', no difference beyond the noise of the seeds')


def write_csv(path: str, groups: list[Group], baseline: Group | None, comparisons: dict):
    """All numbers, unrounded, one row per group."""
    rows = []
    for g in groups:
        row = {'run': g.name, 'directories': ' '.join(r.path for r in g.runs), 'baseline': int(g is baseline),
               'flags': '; '.join(g.flags), 'schedule': describe(g.config), 'seeds': len(g.runs), **final(g)}
        for axis in AXES:
            keys = compare(baseline, baseline, axis) if baseline else {}
            found = comparisons.get(g.name, {}).get(axis, {})
            row |= {f'{axis}:{k}': found.get(k) for k in keys}
        rows.append(row)
    with open(path + '.tmp', 'w', newline='', encoding='utf-8') as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(path + '.tmp', path)


# ---------------------------------------------------------------------------------------------------------------------
# the figure


# Okabe and Ito's colours without the yellow, which paper swallows; line styles and markers say the same in black and white.
# The first group, the baseline if there is one, is black, solid, round, and no other is: 6 x 4 x 7 repeats after 84.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
LINES = ('--', '-.', (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = 's^DvPX*'
BOUNDARY = {'marker': '|', 'markersize': 13, 'markeredgewidth': 1.6}
SHADOW = {'linewidth': 8, 'alpha': 0.25, 'solid_capstyle': 'butt'}


def draw(path: str, groups: list[Group], baseline: Group | None):
    """The 2 x 2 figure. Groups on other data than the baseline's and groups without an evaluation are not in it."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('--figure needs matplotlib (pip install matplotlib); the table above does not') from None
    shown = [g for g in groups if g.curve and not any(flag.startswith('other data') for flag in g.flags)]
    shown.sort(key=lambda g: g is not baseline)  # the baseline first: black and solid
    if not shown:
        raise UserError('--figure: none of these runs has an evaluation yet')
    small = {'loc': 'right', 'fontsize': 8, 'color': '0.4'}
    shade = min(0.15, 0.4 / len(shown))  # of a band; many of them lie on each other
    longest = max(g.curve[-1]['seconds'] for g in shown)
    clock, unit = ('hours', 3600) if longest >= 3600 else ('minutes', 60)
    panels = [('tokens', 1, 'tokens', 'val_loss'), ('flops', 1, 'training FLOPs', 'val_loss'),
              ('seconds', unit, f'{clock} of training', 'val_loss'), ('flops', 1, 'training FLOPs', 'hellaswag_acc_norm')]
    with matplotlib.rc_context({'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True,
                                'grid.alpha': 0.3, 'grid.linewidth': 0.5, 'svg.fonttype': 'none', 'pdf.fonttype': 42}):
        figure = Figure(figsize=(10, 7.4), layout='constrained')
        axes = list(figure.subplots(2, 2).flat)
        for ax, (x, scale, label, y) in zip(axes, panels):
            draw_curve(ax, shown[0], x, scale, y, {'color': 'black', 'linestyle': '-', 'marker': 'o', 'zorder': 5}, shade)
            for i, g in enumerate(shown[1:]):
                draw_curve(ax, g, x, scale, y, {'color': COLOURS[i % len(COLOURS)], 'linestyle': LINES[i % len(LINES)],
                                                'marker': MARKERS[i % len(MARKERS)], 'zorder': 4}, shade)
            ax.set_xlabel(label)
            ax.set_xlim(left=0)
            ax.set_ylabel('validation loss (nats per token)' if y == 'val_loss' else 'HellaSwag acc_norm')
            if y == 'val_loss':
                ax.set_ylim(*loss_limits(shown, x))
            elif any(r.scores for g in shown for r in g.runs):
                ax.axhline(0.25, color='0.5', linewidth=0.8, linestyle=(0, (1, 3)))
                ax.annotate('chance', (1, 0.25), xycoords=('axes fraction', 'data'), xytext=(0, 2), ha='right',
                            textcoords='offset points', fontsize=8, color='0.4')
                ax.set_title('band: ± 1 standard error of one scoring', **small)
            else:
                ax.annotate('not scored', (0.5, 0.5), xycoords='axes fraction', ha='center', color='0.4')
        handles, labels = axes[0].get_legend_handles_labels()
        if any(len(g.runs[0].phases) > 1 for g in shown):
            handles += axes[0].plot([], [], color='0.35', linestyle='', **BOUNDARY)
            handles += axes[0].plot([], [], color='0.35', **SHADOW)
            labels += ['growth: a stage begins', 'phase 1: earlier layers frozen']
        if any(len(g.runs) > 1 for g in shown):
            axes[0].set_title('band: ± 1 standard deviation over the seeds', **small)
        figure.legend(handles, labels, loc='outside upper center', ncols=2 if max(map(len, labels)) <= 70 else 1,
                      frameon=False, handlelength=3.5)
        temporary = path + '.tmp'
        figure.savefig(temporary, format=os.path.splitext(path)[1][1:], dpi=200)
    os.replace(temporary, path)


def draw_curve(ax, group: Group, x: str, scale: float, y: str, style: dict, shade: float):
    """One group in one panel: the mean over the seeds, its band, where stages begin, and phase 1 as a broad shadow.

    The band is the standard deviation over the seeds; HellaSwag's, the standard error of one scoring.
    """
    curves = [r.curve if y == 'val_loss' else r.scores for r in group.runs]
    by_step = [{e['step']: e for e in curve} for curve in curves]
    steps = sorted(set.intersection(*map(set, by_step)))
    if not steps:
        return

    xs = [statistics.fmean(at[s][x] for at in by_step) / scale for s in steps]
    ys = [statistics.fmean(at[s][y] for at in by_step) for s in steps]
    if y == 'val_loss':
        band = [statistics.stdev(at[s][y] for at in by_step) if len(by_step) > 1 else 0.0 for s in steps]
    else:
        band = [math.sqrt(p * (1 - p) / by_step[0][s]['hellaswag_n']) for p, s in zip(ys, steps)]
    label = f'{group.name}: {describe(group.config)}' + (f' ({len(group.runs)} seeds)' if len(group.runs) > 1 else '')
    label += ' (unfinished)' if group.flags else ''
    if any(band):
        ax.fill_between(xs, [v - b for v, b in zip(ys, band)], [v + b for v, b in zip(ys, band)], color=style['color'],
                        alpha=shade, linewidth=0)
    ax.plot(xs, ys, label=label, linewidth=1.5, markersize=4.5, markevery=max(1, len(xs) // 10), markerfacecolor='white',
            markeredgewidth=1.1, **style)

    def height(step):  # of the drawn line, straight between two evaluations
        for (a, ya), (b, yb) in itertools.pairwise(zip(steps, ys)):
            if a <= step <= b:
                return ya + (yb - ya) * (step - a) / (b - a)
        return None

    # Where a phase begins on this axis: from the phase lines that all seeds have, the clock again as a mean.
    begins = [{p['step']: p for p in r.phases} for r in group.runs]
    phases = [(s, statistics.fmean(b[s][x] for b in begins) / scale, begins[0][s]['phase'], begins[0][s]['depth'])
              for s in sorted(set.intersection(*map(set, begins)))]
    end = (steps[-1], xs[-1], '', 0)
    for (start, x_start, phase, depth), (stop, x_stop, _, _), before in zip(phases, phases[1:] + [end], [None, *phases]):
        if before and depth > before[3] and height(start) is not None:
            ax.plot([x_start], [height(start)], color=style['color'], zorder=6, **BOUNDARY)
        if phase == 'phase1':
            inside = [(x_start, height(start)), *((a, b) for a, b, s in zip(xs, ys, steps) if start < s < stop),
                      (x_stop, height(stop))]
            inside = [point for point in inside if point[1] is not None]
            ax.plot(*zip(*inside), color=style['color'], zorder=2, **SHADOW)


def loss_limits(groups: list[Group], x: str) -> tuple[float, float]:
    """The part of the loss that is worth ink: what the curves do after the first tenth of the axis x, and their ends."""
    start = max(g.curve[-1][x] for g in groups) / 10
    kept = [e['val_loss'] for g in groups for e in g.curve if e[x] >= start or e is g.curve[-1]]
    margin = 0.03 * (max(kept) - min(kept)) or 0.05
    return min(kept) - margin, max(kept) + margin


if __name__ == '__main__':
    run_main(main)
