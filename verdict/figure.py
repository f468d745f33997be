"""
The figures of a judge.Report, each for one question. matplotlib is imported only when something is drawn.

    draw(path, report)                    what there is to see: draw_curves for a few runs, else the others
    draw_curves(path, report)             loss against compute, the depth behind it
    draw_forest(path, report)             what each arm needs for the same loss: a row an arm
    draw_losses(path, report)             loss against compute, a panel an arm, its opponent in grey
    draw_catch_up(path, gaps)             arms that a question asks about, since their last growth
    draw_trend(path, report, trends)      cost against size, predicted beside measured

A color means one thing: blue less than the opponent, orange more, grey neither or the opponent itself. A
position is a value; a single seed has no interval, and none is drawn.
"""

import contextlib
import itertools
import math
import os
import statistics

from core.plot import GRAY, check_name, new_figure, remark
from verdict.judge import Comparison, Report, catch_up
from verdict.report import shown
from verdict.runs import Group

LESS, MORE, NEITHER = '#0072B2', '#D55E00', '0.45'
SERIES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00')  # beside a black baseline
FEW_RUNS = 6  # that draw_curves can tell apart
WIDTH = 9.0  # inches: what a page on a code host shows without shrinking the text below 8 points
LEADS = (1, 2, 5, 3, 7, 1.5)  # of the ticks of a logarithmic axis, the most wanted first
TICK_GAP = 0.2  # of an axis, between two of them
LONGEST_NAME = 36
REACH = 2.0  # of the costs' axis beyond all values, for the ends of intervals

def draw(path: str, report: Report, trends: list = ()) -> list[str]:
    """Draw what there is to see into `path` and, for further figures, beside it; returns their paths, [] for
    runs without an evaluation.

    Raises UserError for a file that matplotlib can't write. """
    check_name(path)
    stem, form = os.path.splitext(path)
    if not any(group.done for group in report.groups):
        return []
    if is_few_runs(report):
        draw_curves(path, report)
        return [path]
    drawn = []
    if any(one.difference for one in report.comparisons):
        drawn.append(path)
        draw_forest(path, report)
    if any(one.group and one.group.done for one in report.comparisons):
        drawn.append(f'{stem}_losses{form}')
        draw_losses(drawn[-1], report)
    gaps = gaps_of(report)
    if gaps:
        drawn.append(f'{stem}_catch_up{form}')
        draw_catch_up(drawn[-1], gaps)
    if trends:
        drawn.append(f'{stem}_trend{form}')
        draw_trend(drawn[-1], trends)
    return drawn

def is_few_runs(report: Report) -> bool:
    """Whether these are a few runs side by side, rather than a study."""
    is_study = any(type(group.budget) is int for group in report.groups)
    return not is_study and len(report.groups) <= FEW_RUNS

def shorten(name: str) -> str:
    """A name without its middle, where it is too long: names differ at their ends as often as at their
    beginnings."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f'{name[:half]}…{name[-half + 1:]}'

def budget_text(group: Group) -> str:
    if group.scale:
        return f'{group.budget:g} tokens a parameter'
    if type(group.budget) is int:  # a study's
        return f'{group.budget:,} full-depth steps'
    return f'{group.budget:.2g} FLOPs'

def draw_forest(path: str, report: Report):
    """A row an arm, a column a budget; a block of rows a scale, or a kind of arms. x: compute for the same
    loss on a logarithmic axis; with one budget there is none, and x is the difference in loss, on an axis of
    its own for each kind. A bar is the 95% interval; filled: settled."""
    blocks, arms_of = {}, {}
    for one in report.comparisons:
        if one.group:
            title = block_of(one.group)
            blocks.setdefault(title, []).append(one)
            if one.arm not in arms_of.setdefault(title, []):
                arms_of[title].append(one.arm)
    columns = {one.budget: one.group for one in report.comparisons if one.group}
    has_costs = any(one.cost for one in report.comparisons)
    longest = max(len(shorten(one.arm)) for one in report.comparisons)
    width = max(WIDTH, 0.4 + 0.075 * longest + 2.2 * len(columns))
    # A row an arm, and room for the title of the block.
    heights = [len(arms) + 0.8 for arms in arms_of.values()]
    with new_figure(path, width, 0.9 + 0.45 * len(blocks) + 0.24 * sum(heights)) as figure:
        grid = figure.subplots(len(blocks), len(columns), squeeze=False, sharey='row', height_ratios=heights)
        for line, (title, some) in zip(grid, blocks.items()):
            # Differences of one kind of arms may be ten times those of another.
            limits = limits_of(report.comparisons if has_costs else some, has_costs)
            for axes, budget in zip(line, sorted(columns)):
                inside = [one for one in some if one.budget == budget]
                draw_column(axes, inside, arms_of[title], limits, has_costs)
                axes.tick_params(labelbottom=line[0] is grid[-1, 0] or not has_costs)
                if line[0] is grid[0, 0]:
                    axes.set_title(budget_text(columns[budget]), fontsize=9)
            names = [title, *map(shorten, arms_of[title])]
            line[0].set_yticks([0.9, *range(0, 1 - len(names), -1)], names, parse_math=False)
            line[0].get_yticklabels()[0].set_weight('bold')
        what = 'compute for the same loss, where the best arm that does not grow needs 1'
        if not has_costs:
            what = 'loss at equal compute minus that of the best arm that does not grow, nats per token'
        words = 'bar: 95% interval over seeds;  filled: settled question;  hollow: open, or exploration'
        figure.supxlabel(f'{what}\n{words}', fontsize=8.5)

def block_of(group: Group) -> str:
    """What a group is drawn under: its scale, or what opponents it has."""
    start = '' if group.config.init_from == 'scratch' else ', from a checkpoint'
    return group.scale or group.config.optimizer + start

def draw_column(axes, comparisons: list, arms: list[str], limits: tuple, has_costs: bool):
    """The comparisons of some arms at one budget."""
    axes.axvline(1 if has_costs else 0, color='black', linewidth=1)
    for one in comparisons:
        draw_row(axes, one, -arms.index(one.arm), *limits, has_costs)
    if has_costs:
        axes.set_xscale('log')
        use_ticks(axes.xaxis, *limits)
    axes.set_xlim(*limits)
    axes.set_ylim(-len(arms) + 0.4, 1.2)
    axes.grid(axis='y', visible=False)
    axes.tick_params(axis='y', length=0)
    axes.spines['left'].set_visible(False)

def limits_of(comparisons: list, has_costs: bool) -> tuple[float, float]:
    """The part of the axis that is worth ink: all values, and intervals as far as they don't press these
    together."""
    found = [one.cost if has_costs else one.difference for one in comparisons]
    values, ends = [], []
    for one in found:
        if one:
            values.append(one.value)
            ends += [end for end in (one.value, one.low, one.high) if math.isfinite(end)]
    if not has_costs:
        sizes = [abs(value) for value in values] or [1.0]
        # One arm far away must not press the others together.
        most = min(2 * max(sizes), 5 * statistics.median(sizes))
        # Arms that all end at one loss have an axis, too.
        size = 1.05 * min(max(map(abs, ends), default=1.0), most) or 0.1
        return -size, size
    values = [value for value in values if 0 < value < math.inf]
    low, high = min([*values, 0.9]), max([*values, 1.1])
    # How far beyond the values an interval is shown.
    return max(low / REACH, min([*ends, low])) / 1.05, min(high * REACH, max([*ends, high])) * 1.05

def use_ticks(axis, low: float, high: float):
    """Ticks of a logarithmic axis at round numbers, those that would overprint left out: matplotlib's own do
    so below a decade, and have no labels there."""
    from matplotlib.ticker import NullLocator

    kept = []
    for lead in LEADS:
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
            tick = lead * 10.0**power
            is_far = all(abs(math.log(tick / other)) >= TICK_GAP * math.log(high / low) for other in kept)
            if low <= tick <= high and is_far:
                kept.append(tick)
    axis.set_ticks(kept, [f'{tick:g}'.replace('e+', 'e') for tick in kept])
    axis.set_minor_locator(NullLocator())

def draw_row(axes, one: Comparison, y: float, low: float, high: float, has_costs: bool):
    """One comparison: its value and its interval, as far as the axis goes."""
    cost, difference = shown(one)
    found = cost if has_costs else difference
    beside = {'xycoords': ('axes fraction', 'data'), 'fontsize': 8}
    if found is None or math.isnan(found.value):
        why = 'a seed diverged' if 'diverged' in one.why else 'no cost' if difference else 'no answer'
        axes.annotate(why, (0.02, y), va='center', color=GRAY, **beside)
        return
    middle = 1 if has_costs else 0
    color = LESS if found.high < middle else MORE if found.low > middle else NEITHER
    if not math.isnan(found.low):
        axes.plot([found.low, found.high], [y, y], color=color, linewidth=2.2, solid_capstyle='butt')
    axes.plot(found.value, y, 'o', color=color, markerfacecolor=color if one.settled else 'white',
              markersize=6.5, markeredgewidth=1.5)
    # What lies beyond the axis is told at its edge.
    if found.value > high:
        axes.annotate(f'{found.value:.2g} →', (0.99, y), ha='right', va='bottom', color=color, **beside)
    elif found.value < low:
        axes.annotate(f'← {found.value:.2g}', (0.01, y), ha='left', va='bottom', color=color, **beside)

@contextlib.contextmanager
def small_panels(path: str, names: list[str], x_label: str, y_label: str, share_y: bool = True):
    """A figure of small panels, their names above them, for the block to draw into, on one logarithmic x
    axis."""
    n = len(names)
    columns = min(5, n, max(2, math.ceil(math.sqrt(1.2 * n))))
    lines = math.ceil(n / columns)
    with new_figure(path, WIDTH, 0.7 + (1.9 if columns > 3 else 2.3) * lines) as figure:
        grid = figure.subplots(lines, columns, sharex=True, sharey=share_y, squeeze=False)
        for axes in grid.flat[n:]:
            axes.set_visible(False)
        for k, (axes, name) in enumerate(zip(grid.flat, names)):
            axes.set_title(shorten(name), fontsize=8, loc='left', parse_math=False)
            # Above a place that is empty, too.
            axes.tick_params(labelsize=7, labelbottom=k + columns >= n)
        yield grid.flat[:n]
        grid[0, 0].set_xscale('log')
        use_ticks(grid[0, 0].xaxis, *grid[0, 0].get_xlim())
        figure.supxlabel(x_label, fontsize=8.5)
        figure.supylabel(y_label, fontsize=8.5)

def draw_losses(path: str, report: Report):
    """Loss against compute, a panel an arm and scale: how each of its runs fell, and where it ended, beside
    its opponent's in grey."""
    panels_of = {}
    for one in report.comparisons:
        if one.group and one.group.done:
            name = f'{one.arm}, {one.scale}' if one.scale else one.arm
            panels_of.setdefault(name, []).append(one)
    has_costs = any(one.cost for one in report.comparisons)
    # With one budget there are kinds of arms that are far from each other, and so are sizes.
    is_shared = has_costs and not any(one.scale for one in report.comparisons)
    x_label = ('training FLOPs\npoint: end of a run, blue below and orange above its opponent (grey);  '
               'line: on its way there')
    y_label = 'validation loss, nats per token'
    with small_panels(path, list(panels_of), x_label, y_label, is_shared) as panels:
        ends = []
        for axes, comparisons in zip(panels, panels_of.values()):
            ends = ends if is_shared else []
            for one in comparisons:
                if one.against and one.against.done:
                    ends.append(draw_fall(axes, one.against, '0.6', 2))
                is_less = one.difference is not None and one.difference.value < 0
                ends.append(draw_fall(axes, one.group, LESS if is_less else MORE, 3))
            height = max(ends) - min(ends) or 0.1
            above = (0.6 if has_costs else 8) * height
            axes.set_ylim(min(ends) - 0.1 * (height + above), max(ends) + above)

def draw_fall(axes, group: Group, color: str, front: int) -> float:
    """How the loss of a group fell, with a point at its end, which is returned."""
    curve = group.mean()
    flops, loss = curve['flops'], curve['loss']
    axes.plot(flops, loss, color=color, linewidth=0.9, alpha=0.7, zorder=front)
    axes.plot(flops[-1], loss[-1], 'o', color=color, markersize=4.5, zorder=front + 2)
    return loss[-1]

def gaps_of(report: Report) -> dict[str, list]:
    """{arm: [(comparison, its gaps since the last growth)]} of the arms that a question asks about."""
    asked = {one.arm for one in report.declared}
    found = {}
    for one in report.comparisons:
        points = catch_up(one) if one.arm in asked else []
        if len(points) > 1:
            found.setdefault(one.arm, []).append((one, points))
    return found

def draw_catch_up(path: str, gaps: dict[str, list]):
    """The gap to the opponent after as many tokens in all, against the tokens since the last growth."""
    x_label = 'million tokens since the last growth, until a learning rate decays  (band: 95%)'
    with small_panels(path, list(gaps), x_label, "loss minus the opponent's") as panels:
        reach = 0.0
        for axes, curves in zip(panels, gaps.values()):
            axes.axhline(0, color='black', linewidth=1)
            for (one, points), color in zip(curves, SERIES):
                x = [tokens / 1e6 for tokens, _ in points]
                found = [gap for _, gap in points]
                axes.plot(x, [gap.value for gap in found], color=color, linewidth=1.4, marker='.',
                          label=f'{one.scale}, ' * bool(one.scale) + budget_text(one.group))
                axes.fill_between(x, [gap.low for gap in found], [gap.high for gap in found], color=color,
                                  alpha=0.15, linewidth=0)
                reach = max(reach, *(1.4 * abs(gap.value) for gap in found))
            axes.legend(fontsize=7, frameon=False, loc='lower left')
        panels[0].set_ylim(-(reach or 0.01), reach or 0.01)

def draw_trend(path: str, trends: list):
    """Compute for the same loss against size, a color a number of tokens a parameter: lines and crosses with
    bars what the trend says, points what was measured, hollow where that was held out."""
    every = list(itertools.chain(*(trend.cells for trend in trends)))
    values = []
    for cell in every:
        values += [one.value for one in (cell.predicted, cell.measured) if one and 0 < one.value < math.inf]
    low, high = min([0.9, *values]) / 1.5, max([1.1, *values]) * 1.5
    budgets = sorted({cell.budget for cell in every})
    x_label = ('million parameters without embeddings\npoint: measured;  hollow: held out;  cross and bar: '
               'predicted for what was held out, 95%')
    y_label = 'compute for the same loss,\nbelow 1: growing saves'
    with small_panels(path, [trend.arm for trend in trends], x_label, y_label) as panels:
        for axes, trend in zip(panels, trends):
            axes.axhline(1, color='black', linewidth=1)
            for k, (budget, color) in enumerate(zip(budgets, SERIES)):
                cells = [cell for cell in trend.cells if cell.budget == budget]
                cells.sort(key=lambda cell: cell.size)
                x, y = [cell.size / 1e6 for cell in cells], [cell.predicted.value for cell in cells]
                axes.plot(x, y, color=color, linewidth=1, label=f'{budget:g} tokens a parameter')
                for cell in cells:
                    draw_cell(axes, cell, color, 4 - 3 * k / len(budgets))
            axes.set_yscale('log')
            axes.set_ylim(low, high)
            use_ticks(axes.yaxis, low, high)
        panels[0].legend(fontsize=7, frameon=False)

def draw_cell(axes, cell, color: str, width: float):
    """One cell; bars of several budgets at one size have several widths, since none may hide another."""
    size = cell.size / 1e6
    if cell.is_held_out:
        axes.plot([size, size], [cell.predicted.low, cell.predicted.high], color=color, linewidth=width / 3)
        axes.plot(size, cell.predicted.value, 'x', color=color)
    if cell.measured:
        ends = [cell.measured.low, cell.measured.high]
        axes.plot([size, size], ends, color=color, linewidth=width, alpha=0.4)
        axes.plot(size, cell.measured.value, 'o', color=color, markersize=4 + width / 2,
                  markerfacecolor='none' if cell.is_held_out else color)

def draw_curves(path: str, report: Report):
    """Loss against compute in percent of the baseline's, and behind the curves the depth of what grows as a
    pale staircase."""
    groups = [group for group in report.groups if group.done]
    by = [group for group in groups if group in report.baselines] or groups
    percent = max(group.end('flops') for group in by) / 100
    with new_figure(path, WIDTH, 4.4) as figure:
        behind = figure.subplots()
        axes = behind.twinx()  # drawn after the staircase
        colors = iter(SERIES)
        depths = {max(group.config.n_layer for group in groups)}
        for group in groups:
            color = 'black' if group in report.baselines else next(colors)
            curve = group.mean()
            x, loss = curve['flops'] / percent, curve['loss']
            axes.plot(x, loss, color=color, linewidth=1.8,
                      label=f'{shorten(group.name)}, ends at {loss[-1]:.3f}')
            axes.plot(x[-1], loss[-1], 'o', color=color, markersize=5, clip_on=False)
            if group.grows:
                plan = group.runs[0].plan
                # On the clock of its mean, which may end half a step from its plan.
                edges = [x[-1] * plan.flops(phase.stop) / plan.flops() for phase in plan.phases]
                steps = [phase.depth for phase in plan.phases]
                behind.stairs(steps, [0.0, *edges], color=color, fill=True, alpha=0.1)
                depths |= set(steps)
        behind.set_ylim(0, 1.6 * max(depths))  # the legend's room
        behind.set_yticks(sorted(depths))
        behind.set_ylabel('layers (pale staircase)', color=GRAY)
        behind.grid(visible=False)
        behind.yaxis.set_label_position('right')
        behind.yaxis.tick_right()
        axes.yaxis.set_label_position('left')
        axes.yaxis.tick_left()
        axes.set_ylabel('validation loss, nats per token')
        axes.set_xlim(0, 101)
        behind.set_xlabel('training compute, % of what the baseline took')
        for text in axes.legend(loc='upper right', frameon=False).get_texts():
            text.set_parse_math(False)
        remark(axes, ending(report), 'left')

def ending(report: Report) -> str:
    """What the first comparison came to, in words."""
    for one in report.comparisons:
        if one.difference:
            word = 'below' if one.difference.value < 0 else 'above'
            told = f'{abs(one.difference.value):.3f} nats {word} {shorten(one.opponent)}'
            is_single = min(len(one.seeds), len(one.opponent_seeds)) == 1
            return f'{shorten(one.arm)} ends {told}' + is_single * ' (one seed: the way, not a result)'
    return ''
