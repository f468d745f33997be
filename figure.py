"""
Everything that draws. matplotlib is imported in no other file, and here only when something is drawn.

    draw_report('x.png', report)                          one hero panel: loss against compute, and the depth under it
    draw_report('x.png', report, ['tokens', 'accuracy'])  other panels, named in PANELS
    draw_study('report.png', report)                      loss by budget, multiplier by budget, catch-up
    draw_plan('plan.png', phases, flops, title)           a plan of schedule.py: staircase, frozen layers, cost

`report` is a judge.Report, `phases` a plan of schedule.py and `flops` what each of them costs. This file imports neither:
it draws what it's given, so that schedule.py, below judge.py, can call it.

Black, solid and round is the baseline. Other groups differ in color, line style and marker, so that a print in black and
white and a color-blind reader tell them apart; each is named at its own end.
"""

import contextlib
import itertools
import math
import os

import numpy as np

from common import UserError

FORMATS = ('.png', '.pdf', '.svg')
# Okabe and Ito's colors without the yellow, which paper swallows. 6 x 4 x 7 repeats after 84 groups.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
LINES = ('--', '-.', (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = 's^DvPX*'
GROWTH_MARK = {'marker': '|', 'markersize': 12, 'markeredgewidth': 1.6, 'linestyle': '', 'zorder': 6}
FROZEN_SHADOW = {'linewidth': 7, 'alpha': 0.22, 'solid_capstyle': 'butt', 'zorder': 2}
STYLE = {'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True, 'grid.alpha': 0.3,
         'grid.linewidth': 0.5, 'svg.fonttype': 'none', 'pdf.fonttype': 42, 'hatch.linewidth': 0.6}
GRAY = '0.4'
AXIS_LABELS = {'tokens': 'tokens', 'flops': 'training FLOPs', 'flops_paper': "training FLOPs, paper's ledger"}
# What can be drawn, and what it says. The first is the default.
PANELS = {'hero': 'loss against FLOPs, with the depth under it',
          'tokens': 'loss against tokens', 'flops': 'loss against FLOPs', 'paper': "loss against FLOPs, paper's ledger",
          'seconds': 'loss against training time', 'accuracy': 'HellaSwag acc_norm against FLOPs',
          'bits': 'HellaSwag bits per byte against FLOPs', 'budget': 'final loss against budget, per arm',
          'multiplier': 'compute multiplier against budget', 'catch_up': 'gap to the baseline since the last growth'}
DEPTHS_SHOWN = 8  # staircases under the hero panel; more would hide each other
LABELS_AT_ENDS = 24  # names that find room beside a panel


def check_panels(path: str | None, panels: str):
    """Raises UserError for a file that matplotlib can't write, or a panel that doesn't exist."""
    if path and os.path.splitext(path)[1] not in FORMATS:
        raise UserError(f'--figure={path}: the name must end in {", ".join(FORMATS[:-1])} or {FORMATS[-1]}')
    for panel in panels.split(','):
        if panel and panel not in PANELS:
            raise UserError(f'--panels={panel}: no panel is called so; there are {", ".join(PANELS)}')
    if panels and not path:
        raise UserError('--panels needs --figure=FILE')


@contextlib.contextmanager
def new_figure(path: str, width: float, height: float):
    """A figure that is saved as `path`, whole or not at all, once the block has drawn it. Raises UserError without
    matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('--figure needs matplotlib (pip install matplotlib); the tables do not') from None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout='constrained')
        yield figure
        temporary = path + '.tmp'
        figure.savefig(temporary, format=os.path.splitext(path)[1][1:], dpi=200)
    os.replace(temporary, path)


# ---------------------------------------------------------------------------------------------------------------------
# whole figures


def draw_report(path: str, report, panels: list[str] | None = None):
    """The panels that are asked for, by default the hero. A panel that has nothing to show is left out.

    Groups on other data than the baseline's and groups without an evaluation are not in it. Raises UserError if nothing
    is left to draw.
    """
    groups = shown_groups(report)
    panels = panels or ['hero']
    drawable = [panel for panel in panels if has_content(panel, groups, report)]
    if not drawable:
        missing = 'none of these runs has an evaluation yet' if not groups else 'these runs have nothing for it'
        raise UserError(f'--figure: {", ".join(panels)}: {missing}')
    if drawable == ['hero']:
        # Names take room on the right: more of them need a taller panel.
        with new_figure(path, 8.5, max(5.6, 3.4 + 0.2 * len(groups))) as figure:
            draw_hero(figure, report, groups)
        return
    columns = min(2, len(drawable))
    lines = -(-len(drawable) // columns)
    with new_figure(path, 5.6 * columns, 4.2 * lines) as figure:
        grid = figure.add_gridspec(lines, columns)
        for k, panel in enumerate(drawable):
            cell = figure.add_subfigure(grid[k // columns, k % columns])
            draw_panel(cell, panel, report, groups)


def draw_study(path: str, report):
    """A study: final loss against budget, multiplier against budget, catch-up; what has nothing to show is left out."""
    draw_report(path, report, ['budget', 'multiplier', 'catch_up'])


def draw_plan(path: str, phases: list, flops: list[float], title: str = ''):
    """A plan as a staircase of depth over the steps, frozen layers hatched, and under it what a step costs.

    `phases` are schedule.Phase, `flops` the FLOPs of each. Costs are relative to a step at the last phase, which trains
    all layers. Raises UserError for a file name that is no figure's.
    """
    check_panels(path, '')
    with new_figure(path, 8, 4.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        edges = np.array([phases[0].start] + [phase.stop for phase in phases], float)
        stretches = [(phase.depth, len(phase.frozen)) for phase in phases]
        draw_staircase(above, edges, stretches, 'black', hatched=True, filled=True)
        above.set_ylabel('layers')
        above.set_ylim(0, max(phase.depth for phase in phases) * 1.12)
        if title:
            above.set_title(title, loc='left', fontsize=10, parse_math=False)
        costs = [cost / (phase.stop - phase.start) for cost, phase in zip(flops, phases)]
        relative = np.array(costs) / max(costs)
        below.stairs(relative, edges, color='black', fill=True, alpha=0.15)
        below.stairs(relative, edges, color='black')
        below.set_ylim(0, 1.15)
        below.set_xlim(edges[0], edges[-1])
        below.set_ylabel('FLOPs a step')
        below.set_xlabel('step')
        readable(below, 'x')
        share = sum(flops) / (max(costs) * (edges[-1] - edges[0]))
        below.annotate(f'{sum(flops):.3g} FLOPs in all, {share:.1%} of as many steps at full cost', (0.01, 0.9),
                       xycoords='axes fraction', va='top', fontsize=8, color=GRAY)
        add_frozen_key(above, any(frozen for _, frozen in stretches))


def shown_groups(report) -> list:
    """What belongs into a figure, the baselines first."""
    groups = []
    for group in report.groups:
        other_data = any(flag.startswith('other data') for flag in group.flags)
        if len(group.mean) and not other_data and not group.sunk and group.is_best:
            groups.append(group)
    return sorted(groups, key=lambda group: not report.is_baseline(group))


def has_content(panel: str, groups: list, report) -> bool:
    """Whether a panel would show anything."""
    if panel in ('accuracy', 'bits'):
        return any(len(score_points(group, panel, 'flops')[0]) for group in groups)
    if panel == 'multiplier':
        return any(not math.isnan(judgment.by_axis['flops'].cost.value) for judgment in report.judgments)
    if panel == 'catch_up':
        return any(judgment.catch_up(report.sigma) for judgment in report.judgments)
    if panel == 'budget':
        return bool(report.arm_ladders())
    return bool(groups)


def draw_panel(figure, panel: str, report, groups: list):
    """One named panel into a (sub)figure."""
    if panel == 'hero':
        draw_hero(figure, report, groups)
        return
    axes = figure.subplots()
    if panel == 'budget':
        draw_budgets(axes, report)
    elif panel == 'multiplier':
        draw_multipliers(axes, report)
    elif panel == 'catch_up':
        draw_catch_up(axes, report)
    elif panel in ('accuracy', 'bits'):
        draw_scores(axes, groups, report, panel)
    else:
        axis = {'paper': 'flops_paper'}.get(panel, panel)
        draw_losses(axes, groups, report, axis)


# ---------------------------------------------------------------------------------------------------------------------
# how a group looks


def styles(groups: list, report) -> list[dict]:
    """Color, line and marker of each group. Baselines are black, and no other is."""
    found = []
    for k, is_baseline in enumerate([report.is_baseline(group) for group in groups]):
        if is_baseline:
            found.append({'color': 'black', 'linestyle': '-', 'marker': 'o', 'zorder': 5})
            continue
        k -= sum(style['color'] == 'black' for style in found)
        found.append({'color': COLORS[k % len(COLORS)], 'linestyle': LINES[k % len(LINES)],
                      'marker': MARKERS[k % len(MARKERS)], 'zorder': 4})
    return found


def marked(n: int) -> list[int]:
    """Which of n points carry a marker: about ten, the last always."""
    every = max(1, n // 10)
    return sorted({*range(0, n, every), n - 1})


def caption(group) -> str:
    """A group's name, with what a reader must know to read its curve."""
    seeds = f' ({len(group.judged)} seeds)' if len(group.judged) > 1 else ''
    unfinished = ' (unfinished)' if group.flags else ''
    return group.name + seeds + unfinished


def label_ends(axes, ends: list[tuple], fontsize: float = 8):
    """Name curves at their ends, in the margin on the right; a thin line leads to each. `ends`: (x, y, text, color).

    Names are moved apart where they would lie on each other. Needs the limits of the axes to be final.
    """
    low, high = axes.get_ylim()
    height = axes.get_figure(root=True).get_figheight() * axes.get_position().height * 72
    step = 1.25 * fontsize / height  # of a line of text, as a share of the panel
    ends = sorted(ends, key=lambda end: end[1])
    places = [min(1.0, max(0.0, (y - low) / (high - low))) for _, y, _, _ in ends]
    places = spread_out(places, step)
    for (x, y, text, color), place in zip(ends, places):
        axes.annotate(text, (x, y), xytext=(1.02, place), textcoords='axes fraction', va='center', ha='left',
                      fontsize=fontsize, color=color, annotation_clip=False, parse_math=False,
                      arrowprops={'arrowstyle': '-', 'color': color, 'linewidth': 0.5, 'alpha': 0.6, 'shrinkA': 1,
                                  'shrinkB': 3})


def spread_out(places: list[float], step: float) -> list[float]:
    """Ascending places moved as little as it takes for neighbors to be `step` apart, around where they want to be."""
    blocks = []  # (center, number of labels): labels that touch move as one
    for place in places:
        blocks.append([place, 1])
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < step * (blocks[-1][1] + blocks[-2][1]) / 2:
            center, n = blocks.pop()
            other, m = blocks.pop()
            blocks.append([(center * n + other * m) / (n + m), n + m])
    found = []
    for center, n in blocks:
        found += [center + step * (i - (n - 1) / 2) for i in range(n)]
    return found


def readable(axes, which: str, unit: str = ''):
    """Ticks as 2.5M or 10B instead of 2500000 or 1e10."""
    from matplotlib.ticker import FuncFormatter

    def text(value, position):
        for size, letter in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
            if abs(value) >= size:
                return f'{value / size:g}{letter}{unit}'
        return f'{value:g}{unit}'

    axis = axes.xaxis if which == 'x' else axes.yaxis
    axis.set_major_formatter(FuncFormatter(text))


def label_compute(axes, axis: str, longest: float):
    """The x axis of a panel, with a unit in which its ticks are short. `longest`: where it ends."""
    from matplotlib.ticker import FuncFormatter

    if axis == 'seconds':
        unit, size = ('hours', 3600) if longest >= 7200 else ('minutes', 60) if longest >= 120 else ('seconds', 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f'{value / size:g}'))
        axes.set_xlabel(f'{unit} of training')
    elif axis == 'tokens':
        readable(axes, 'x')
        axes.set_xlabel('tokens')
    else:
        power = math.floor(math.log10(longest)) if longest > 0 else 0
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f'{value / 10**power:g}'))
        axes.set_xlabel(f'{AXIS_LABELS[axis]} / $10^{{{power}}}$')


# ---------------------------------------------------------------------------------------------------------------------
# loss against compute


def draw_hero(figure, report, groups: list):
    """Loss against FLOPs with named curves and one arrow; under it, on the same axis, the depth of each."""
    grown = [group for group in groups if len({phase.depth for phase in group.runs[0].phases}) > 1][:DEPTHS_SHOWN]
    if grown:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        draw_depths(below, groups, grown, report)
    else:
        above = figure.subplots()
    draw_losses(above, groups, report, 'flops', with_legend=False)
    if grown:
        below.set_xlabel(above.get_xlabel())
        above.set_xlabel('')
        above.tick_params(labelbottom=False)
    draw_arrow(above, report)
    figure.canvas.draw()  # the layout settles, and with it how tall a line of text is
    ends = []
    for group, style in zip(groups, styles(groups, report)):
        ends.append((group.mean.flops[-1], group.mean.loss[-1], caption(group), style['color']))
    label_ends(above, ends, 8 if len(ends) <= LABELS_AT_ENDS else 6)


def draw_losses(axes, groups: list, report, axis: str, with_legend: bool = True):
    """Loss of all groups against one axis, with bands over the seeds, growth marks and frozen stretches."""
    shade = min(0.15, 0.4 / len(groups))  # many bands lie on each other
    handles = []
    for group, style in zip(groups, styles(groups, report)):
        curve = group.mean
        x = getattr(curve, axis)
        handles.append(draw_curve(axes, x, curve.loss, style))
        if len(group.judged) > 1:
            band = group.losses_at(axis, x).std(axis=-1, ddof=1)
            axes.fill_between(x, curve.loss - band, curve.loss + band, color=style['color'], alpha=shade, linewidth=0)
        draw_growth(axes, group, axis, x, curve.loss, style['color'])
    longest = max(getattr(group.mean, axis)[-1] for group in groups)
    axes.set_xlim(0, longest * 1.01)
    axes.set_ylim(*loss_limits(groups, axis))
    axes.set_ylabel('validation loss (nats per token)')
    label_compute(axes, axis, longest)
    if any(len(group.judged) > 1 for group in groups):
        axes.set_title('band: ± 1 sd over the seeds', loc='right', fontsize=8, color=GRAY)
    if with_legend:
        add_legend(axes, handles, [caption(group) for group in groups])


def draw_curve(axes, x, y, style: dict):
    """One line with its markers, the last point always among them."""
    line, = axes.plot(x, y, linewidth=1.5, markersize=4.5, markevery=marked(len(x)), markerfacecolor='white',
                      markeredgewidth=1.1, **style)
    return line


def draw_growth(axes, group, axis: str, x, y, color: str):
    """A mark where a stage begins, and a broad shadow along the curve where layers are frozen."""
    for start, stop, _, n_frozen, grows in stretches_of(group, axis):
        # On the curve as it's drawn: straight between evaluations, by this axis's own values.
        if grows and x[0] <= start <= x[-1]:
            axes.plot([start], [np.interp(start, x, y)], color=color, **GROWTH_MARK)
        if n_frozen:
            low, high = max(start, x[0]), min(stop, x[-1])
            if low < high:
                inside = np.array([low, *x[(x > low) & (x < high)], high])
                axes.plot(inside, np.interp(inside, x, y), color=color, **FROZEN_SHADOW)


def stretches_of(group, axis: str) -> list[tuple]:
    """(start, stop, depth, frozen layers, whether it begins with a growth) of each phase on an axis, the mean over the
    seeds, as far as the runs have come."""
    phases = group.runs[0].phases
    found = []
    reached = min(run.step for run in group.judged_runs)
    for phase in phases:
        if phase.start >= reached:
            break
        edges = [run.where(axis, [phase.start, min(phase.stop, reached)]) for run in group.judged_runs]
        start, stop = np.mean(edges, axis=0)
        found.append((start, stop, phase.depth, len(phase.frozen), bool(phase.growths)))
    return found


def loss_limits(groups: list, axis: str) -> tuple[float, float]:
    """The part of the loss that is worth ink: what the curves do after the first tenth of the axis, and their ends."""
    start = max(getattr(group.mean, axis)[-1] for group in groups) / 10
    kept = []
    for group in groups:
        late = group.mean.loss[getattr(group.mean, axis) >= start]
        kept += [*late, group.mean.loss[-1]]
    margin = 0.03 * (max(kept) - min(kept)) or 0.05
    return min(kept) - margin, max(kept) + margin


def draw_arrow(axes, report):
    """From the baseline to the run that saves most, at one loss: what that loss costs the one and the other."""
    judgments = [j for j in report.judgments if not math.isnan(j.by_axis['flops'].cost.value)]
    if not judgments:
        return
    best = min(judgments, key=lambda judgment: judgment.by_axis['flops'].cost.value)
    on_flops = best.by_axis['flops']
    cost = on_flops.cost
    if not math.isnan(on_flops.baseline_needs):
        loss = best.group.finals.mean()
        start, stop = on_flops.baseline_needs, on_flops.end
    else:
        loss = best.ladder.rungs[-1].finals.mean()
        start, stop = on_flops.baseline_end, on_flops.needs
    # Less compute shows as an arrow to the left.
    change = 1 - cost.value
    bound = {'': '', 'at most': 'at least ', 'at least': 'up to '}[cost.bound]
    if change < 0:
        bound = {'': '', 'at most': 'up to ', 'at least': 'at least '}[cost.bound]
    text = f'same loss, {bound}{abs(change):.0%} {"less" if change >= 0 else "more"} compute'
    if best.verdict != 'clear':
        text += ' (not clear)' if best.verdict else ' (one seed)'
    axes.annotate('', (stop, loss), xytext=(start, loss), arrowprops={'arrowstyle': '->', 'linewidth': 1.4}, zorder=7)
    is_at_edge = (start + stop) / 2 > 0.8 * axes.get_xlim()[1]
    axes.annotate(text, ((start + stop) / 2, loss), xytext=(0, -5), textcoords='offset points', va='top', fontsize=9,
                  ha='right' if is_at_edge else 'center', zorder=8,
                  bbox={'facecolor': 'white', 'alpha': 0.8, 'linewidth': 0, 'pad': 1})


def add_legend(axes, handles: list, names: list[str]):
    """A legend that takes names as they are: matplotlib drops those that begin with _, and reads $ as mathematics."""
    legend = axes.legend(handles, ['x'] * len(names), fontsize=7 if len(names) > 8 else 8, frameon=False,
                         handlelength=3, ncols=2 if len(names) > 10 else 1, loc='upper right')
    for text, name in zip(legend.get_texts(), names):
        text.set_parse_math(False)
        text.set_text(name)


# ---------------------------------------------------------------------------------------------------------------------
# depth


def draw_depths(axes, groups: list, grown: list, report):
    """The depth of each growing group over its FLOPs; frozen layers hatched."""
    deepest = 1
    for group, style in zip(groups, styles(groups, report)):
        stretches = stretches_of(group, 'flops')
        if not stretches or not any(group is one for one in grown):
            continue
        edges = np.array([stretches[0][0]] + [stop for _, stop, *_ in stretches])
        depths = [(depth, n_frozen) for _, _, depth, n_frozen, _ in stretches]
        draw_staircase(axes, edges, depths, style['color'], hatched=len(grown) <= 2, filled=len(grown) == 1)
        deepest = max(deepest, *(depth for depth, _ in depths))
    axes.set_ylim(0, deepest * 1.15)
    axes.set_ylabel('layers')
    if len(grown) <= 2:
        has_frozen = any(phase.frozen for group in grown for phase in group.runs[0].phases)
        add_frozen_key(axes, has_frozen)


def draw_staircase(axes, edges, depths: list[tuple], color: str, hatched: bool, filled: bool):
    """Depth between edges; of (depth, frozen layers) the frozen ones are hatched, from below."""
    values = [depth for depth, _ in depths]
    if filled:
        axes.stairs(values, edges, color=color, fill=True, alpha=0.12)
    axes.stairs(values, edges, color=color, linewidth=1.4, baseline=None)
    if not hatched:
        return
    for (low, high), (_, n_frozen) in zip(itertools.pairwise(edges), depths):
        if n_frozen:
            axes.fill_between([low, high], [n_frozen] * 2, hatch='////', facecolor='none', edgecolor=color, linewidth=0,
                              alpha=0.7)


def add_frozen_key(axes, has_frozen: bool):
    """Says what the hatching means, where there is some."""
    if has_frozen:
        axes.set_title('hatched: frozen layers', loc='right', fontsize=8, color=GRAY)


# ---------------------------------------------------------------------------------------------------------------------
# scores, budgets, catch-up


def score_points(group, panel: str, axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(compute, mean score, standard error of one scoring) where all seeds were scored."""
    name = {'accuracy': 'hellaswag_acc_norm', 'bits': 'hellaswag_bits'}[panel]
    by_step = []
    for run in group.judged_runs:
        scores, _ = run.scores()
        by_step.append({record['step']: record for record in scores if name in record})
    shared = set(by_step[0])
    for records in by_step[1:]:
        shared &= set(records)
    x, y, errors = [], [], []
    for step in sorted(shared):
        records = [scores[step] for scores in by_step]
        mean = float(np.mean([record[name] for record in records]))
        error = records[0].get(f'{name}_stderr')
        if error is None and panel == 'accuracy':
            error = math.sqrt(mean * (1 - mean) / records[0]['hellaswag_n'])
        x.append(np.mean([record[axis] for record in records]))
        y.append(mean)
        errors.append(error or 0.0)
    return np.array(x), np.array(y), np.array(errors)


def draw_scores(axes, groups: list, report, panel: str):
    """HellaSwag against FLOPs, with the standard error of one scoring as a band."""
    handles = []
    names = []
    longest = 0.0
    shade = min(0.15, 0.4 / len(groups))
    for group, style in zip(groups, styles(groups, report)):
        x, y, errors = score_points(group, panel, 'flops')
        if not len(x):
            continue
        handles.append(draw_curve(axes, x, y, style))
        names.append(caption(group))
        axes.fill_between(x, y - errors, y + errors, color=style['color'], alpha=shade, linewidth=0)
        draw_growth(axes, group, 'flops', x, y, style['color'])
        longest = max(longest, x[-1])
    axes.set_xlim(0, longest * 1.01)
    label_compute(axes, 'flops', longest)
    axes.set_title('band: ± 1 standard error of one scoring', loc='right', fontsize=8, color=GRAY)
    if panel == 'accuracy':
        axes.set_ylabel('HellaSwag acc_norm')
        axes.axhline(0.25, color='0.5', linewidth=0.8, linestyle=(0, (1, 3)))
        axes.annotate('chance', (1, 0.25), xycoords=('axes fraction', 'data'), xytext=(0, 2), ha='right',
                      textcoords='offset points', fontsize=8, color=GRAY)
    else:
        axes.set_ylabel('HellaSwag, bits per byte of the true ending')
    add_legend(axes, handles, names)


def arm_styles(report) -> dict[str, dict]:
    """A style for each arm of a report, the baselines black."""
    ladders = report.arm_ladders()
    firsts = [ladder.rungs[0] for ladder in ladders]
    return {ladder.arm: style for ladder, style in zip(ladders, styles(firsts, report))}


def draw_budgets(axes, report):
    """Final loss of each arm at each of its budgets, 95% intervals over the seeds, and the curve through them."""
    import stats

    handles = []
    names = []
    for ladder in report.arm_ladders():
        style = arm_styles(report)[ladder.arm]
        x = np.array([rung.budget for rung in ladder.rungs])
        means = np.array([rung.finals.mean() for rung in ladder.rungs])
        half = []
        for rung, mean in zip(ladder.rungs, means):
            estimate = stats.contrast(mean, [stats.part(1.0, rung.finals)], report.sigma)
            half.append(0.0 if math.isnan(estimate.high) else estimate.high - mean)
        points = axes.errorbar(x, means, yerr=half, capsize=3, linewidth=1.1, markersize=5, markerfacecolor='white',
                               **style | {'linestyle': ''})
        if len(x) > 1:
            reference = ladder.reference('flops')
            places = np.geomspace(x[0], x[-1], 100)
            fit, _ = reference.at(places)
            axes.plot(places, fit, color=style['color'], linestyle=style['linestyle'], linewidth=1.1, zorder=3)
        handles.append(points)
        names.append(ladder.arm)
    log_compute(axes)
    axes.set_xlabel('training FLOPs')
    axes.set_ylabel('final validation loss (nats per token)')
    axes.set_title('bars: 95% over the seeds', loc='right', fontsize=8, color=GRAY)
    add_legend(axes, handles, names)


def draw_multipliers(axes, report):
    """Compute multiplier of each arm against its budget, with 95% intervals; a bound is an arrowhead."""
    handles = []
    names = []
    looks = arm_styles(report)
    for arm in dict.fromkeys(judgment.group.arm for judgment in report.judgments):
        style = looks[arm]
        mine = [judgment for judgment in report.judgments if judgment.group.arm == arm]
        mine = [judgment for judgment in mine if not math.isnan(judgment.by_axis['flops'].cost.value)]
        mine.sort(key=lambda judgment: judgment.group.budget)
        if not mine:
            continue
        x = [judgment.group.budget for judgment in mine]
        found = [judgment.by_axis['flops'].cost.inverse() for judgment in mine]
        y = [multiplier.value for multiplier in found]
        below = [0.0 if math.isnan(m.low) else max(0.0, m.value - m.low) for m in found]
        above = [0.0 if math.isnan(m.high) else max(0.0, m.high - m.value) for m in found]
        handles.append(axes.errorbar(x, y, yerr=[below, above], capsize=3, linewidth=1.1, markersize=5,
                                     markerfacecolor='white', **style))
        names.append(arm)
        for place, multiplier in zip(x, found):
            if multiplier.bound:
                up = multiplier.bound == 'at least'
                axes.annotate('', (place, multiplier.value), xytext=(0, 18 if up else -18), textcoords='offset points',
                              arrowprops={'arrowstyle': '<-', 'color': style['color']})
    axes.axhline(1, color='black', linewidth=1)
    log_compute(axes)
    axes.set_xlabel('training FLOPs')
    axes.set_ylabel('compute multiplier (above 1: growing saves)')
    axes.set_title('bars: 95% over the seeds; arrows: bounds', loc='right', fontsize=8, color=GRAY)
    add_legend(axes, handles, names)


def draw_catch_up(axes, report):
    """The gap to the baseline at equal tokens since the last growth; dotted, at equal updates of the full depth."""
    handles = []
    names = []
    looks = arm_styles(report)
    for judgment in report.judgments:
        points = [point for point in judgment.catch_up(report.sigma) if point.at_tokens and point.tokens > 0]
        if not points:
            continue
        color = looks[judgment.group.arm]['color']
        x = [point.tokens for point in points]
        y = np.array([point.at_tokens.value for point in points])
        low = np.array([point.at_tokens.low for point in points])
        high = np.array([point.at_tokens.high for point in points])
        style = looks[judgment.group.arm]
        handles.append(draw_curve(axes, x, y, style))
        names.append(caption(judgment.group))
        axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
        updates = [point for point in points if point.at_updates]
        axes.plot([point.tokens for point in updates], [point.at_updates.value for point in updates], color=color,
                  linestyle=':', linewidth=1)
    axes.axhline(0, color='black', linewidth=1)
    axes.set_xscale('log')
    axes.set_xlabel('tokens since the last growth')
    axes.set_ylabel('loss minus the baseline\'s (nats)')
    axes.set_title('band: 95%; dotted: at equal full-depth updates', loc='right', fontsize=8, color=GRAY)
    readable(axes, 'x')
    add_legend(axes, handles, names)


def log_compute(axes):
    """A logarithmic x axis that has a few ticks however short it is."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator

    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(math.inf, math.inf)))
    axes.xaxis.set_minor_formatter('')
