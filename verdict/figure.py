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

import itertools
import math
import os
import statistics
from operator import attrgetter

from core.plot import GRAY, check_name, new_figure, remark
from verdict.judge import Comparison, Report, catch_up
from verdict.report import shown
from verdict.runs import Group

LESS, MORE, NEITHER = '#0072B2', '#D55E00', '0.45'
SERIES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00')  # beside a black baseline
FEW_RUNS = 6  # that draw_curves can tell apart
WIDTH = 9.0  # inches: what a page on a code host shows without shrinking the text below 8 points
# Ticks of an axis of costs, the most wanted first.
RATIOS = (1, 0.5, 2, 0.7, 1.5, 0.3, 3, 0.8, 1.2, 0.9, 1.1, 0.2, 5, 0.1, 10, 0.05, 20)
TICK_GAP = 0.12  # of an axis, between two of them
LONGEST_NAME = 36
REACH = 2.0  # of the costs' axis beyond all values, for the ends of intervals
OPTIMIZERS = {'adamw': 'AdamW', 'muon': 'Muon'}


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
        draw_forest(path, report)
        drawn.append(path)
    if report.comparisons:
        draw_losses(f'{stem}_losses{form}', report)
        drawn.append(f'{stem}_losses{form}')
    gaps = gaps_of(report)
    if gaps:
        draw_catch_up(f'{stem}_catch_up{form}', gaps)
        drawn.append(f'{stem}_catch_up{form}')
    if trends:
        draw_trend(f'{stem}_trend{form}', trends)
        drawn.append(f'{stem}_trend{form}')
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


# ------------------------------------------------------------------------------------------------------------
# the forest plot


def draw_forest(path: str, report: Report):
    """A row an arm, a column a budget; a block of rows a scale, or a kind of arms. x: compute for the same
    loss on a logarithmic axis; with one budget there is none, and x is the difference in loss, on an axis of
    its own for each kind. A bar is the 95% interval; filled: settled."""
    blocks = blocks_of(report)
    budgets = sorted({one.budget for one in report.comparisons if one.group})
    has_costs = any(one.cost for one in report.comparisons)
    names = [shorten(one.arm) for one in report.comparisons]
    width = max(WIDTH, 0.4 + 0.075 * max(map(len, names)) + 2.2 * len(budgets))
    # A row an arm, and room for the title of the block.
    heights = [len(set(map(attrgetter('arm'), some))) + 0.8 for some in blocks.values()]
    with new_figure(path, width, 0.9 + 0.45 * len(blocks) + 0.24 * sum(heights)) as figure:
        grid = figure.subplots(len(blocks), len(budgets), squeeze=False, sharey='row', height_ratios=heights)
        for line, (title, some) in zip(grid, blocks.items()):
            arms = list(dict.fromkeys(map(attrgetter('arm'), some)))
            # Differences of one kind of arms may be ten times those of another.
            limits = limits_of(report.comparisons if has_costs else some, has_costs)
            for axes, budget in zip(line, budgets):
                inside = [one for one in some if one.budget == budget]
                draw_column(axes, inside, arms, limits, has_costs)
                axes.tick_params(labelbottom=line[0] is grid[-1, 0] or not has_costs)
                if line[0] is grid[0, 0]:
                    there = [one.group for one in report.comparisons if one.group and one.budget == budget]
                    axes.set_title(budget_text(there[0]), fontsize=9)
            line[0].set_yticks([0.9, *range(0, -len(arms), -1)], [title, *map(shorten, arms)])
            labels = line[0].get_yticklabels()
            labels[0].set_weight('bold')
            for tick in labels:
                tick.set_parse_math(False)
        what = 'compute for the same loss, where the best arm that does not grow needs 1'
        if not has_costs:
            what = 'loss at equal compute minus that of the best arm that does not grow, nats per token'
        words = 'bar: 95% interval over seeds;  filled: settled question;  hollow: open, or exploration'
        figure.supxlabel(f'{what}\n{words}', fontsize=8.5)


def blocks_of(report: Report) -> dict[str, list]:
    """{title: comparisons} by scale, or of one scale by kind: arms that are compared with the same opponents.
    A kind is named after what sets it apart."""
    there = [one for one in report.comparisons if one.group]
    scales = {one.scale for one in there}
    configs = [one.group.config for one in there]
    has_optimizers = len({config.optimizer for config in configs}) > 1
    has_starts = len({config.init_from == 'scratch' for config in configs}) > 1
    blocks = {}
    for one, config in zip(there, configs):
        words = []
        if has_optimizers:
            words.append(OPTIMIZERS.get(config.optimizer, config.optimizer))
        if has_starts:
            words.append('from scratch' if config.init_from == 'scratch' else 'from a checkpoint')
        title = one.scale if len(scales) > 1 else ', '.join(words)
        blocks.setdefault(title, []).append(one)
    return blocks


def draw_column(axes, comparisons: list, arms: list[str], limits: tuple, has_costs: bool):
    """The comparisons of some arms at one budget."""
    axes.axvline(1 if has_costs else 0, color='black', linewidth=1)
    for one in comparisons:
        draw_row(axes, one, -arms.index(one.arm), *limits, has_costs)
    if has_costs:
        axes.set_xscale('log')
        use_ratios(axes.xaxis, *limits)
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


def use_ratios(axis, low: float, high: float):
    """Ticks at round ratios, those that would overprint left out: matplotlib's own do so below a decade."""
    from matplotlib.ticker import NullLocator

    span = math.log(high / low)
    kept = []
    for ratio in RATIOS:
        is_far = all(abs(math.log(ratio / other)) >= TICK_GAP * span for other in kept)
        if low <= ratio <= high and is_far:
            kept.append(ratio)
    axis.set_ticks(kept, [f'{ratio:g}' for ratio in kept])
    axis.set_minor_locator(NullLocator())


def use_powers(panels: list):
    """A logarithmic x axis for panels that share it, with ticks at 1, 3, 10, ... as 3M or 3e13, of which no
    two overprint."""
    from matplotlib.ticker import NullLocator

    panels[0].set_xscale('log')
    low, high = panels[0].get_xlim()
    span = math.log(high / low)
    kept = {}
    for lead in (1, 3, 2, 5):
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high))):
            tick = lead * 10.0**power
            if low <= tick <= high and all(abs(math.log(tick / other)) >= 0.2 * span for other in kept):
                size, letter = (1e6, 'M') if tick >= 1e6 else (1e3, 'k') if tick >= 1e3 else (1, '')
                kept[tick] = f'{tick / size:g}{letter}' if tick < 1e9 else f'{lead}e{power}'
    for axes in panels:
        axes.set_xticks(list(kept), list(kept.values()))
        axes.xaxis.set_minor_locator(NullLocator())
    panels[0].set_xlim(low, high)


def draw_row(axes, one: Comparison, y: float, low: float, high: float, has_costs: bool):
    """One comparison: its value, its interval, and an arrowhead where that goes on."""
    cost, difference = shown(one)
    found = cost if has_costs else difference
    if found is None or math.isnan(found.value):
        why = 'a seed diverged' if 'diverged' in one.why else 'no cost' if difference else 'no answer'
        axes.annotate(why, (0.02, y), xycoords=('axes fraction', 'data'), va='center', fontsize=7.5,
                      color=GRAY)
        return
    middle = 1 if has_costs else 0
    color = LESS if found.high < middle else MORE if found.low > middle else NEITHER
    if not math.isnan(found.low):
        ends = max(found.low, low), min(found.high, high)
        axes.plot(ends, [y, y], color=color, linewidth=2.2, solid_capstyle='butt')
        for end, is_cut, mark in ((low, found.low < low, '<'), (high, found.high > high, '>')):
            if is_cut:
                axes.plot(end, y, mark, color=color, markersize=5, clip_on=False)
    if low <= found.value <= high:
        axes.plot(found.value, y, 'o', color=color, markerfacecolor=color if one.settled else 'white',
                  markersize=6.5, markeredgewidth=1.5)
        return
    is_right = found.value > high
    axes.annotate(f'{found.value:.2g} ' + ('→' if is_right else '←'), (0.99 if is_right else 0.01, y),
                  xycoords=('axes fraction', 'data'), ha='right' if is_right else 'left', va='bottom',
                  fontsize=8, color=color)


# ------------------------------------------------------------------------------------------------------------
# small multiples


def panels_for(figure, names: list[str], share_y: bool = True):
    """(axes, name) of small panels, at most five a line, their names above them."""
    columns = min(5, max(2, math.ceil(math.sqrt(1.2 * len(names)))), len(names))
    lines = -(-len(names) // columns)
    grid = figure.subplots(lines, columns, sharex=True, sharey=share_y, squeeze=False)
    for axes in grid.flat[len(names):]:
        axes.set_visible(False)
        # The panel above has the ticks of its column then.
    for k, axes in enumerate(grid.flat[:len(names)]):
        axes.set_title(shorten(names[k]), fontsize=8, loc='left', parse_math=False)
        axes.tick_params(labelsize=7, labelbottom=k + columns >= len(names))
    return list(zip(grid.flat, names))


def size_for(n: int) -> tuple[float, float]:
    columns = min(5, max(2, math.ceil(math.sqrt(1.2 * n))), n)
    return max(WIDTH, 1.8 * columns), 0.7 + (1.9 if columns > 3 else 2.3) * -(-n // columns)


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
    with new_figure(path, *size_for(len(panels_of))) as figure:
        panels = panels_for(figure, list(panels_of), is_shared)
        ends = []
        for axes, name in panels:
            ends = ends if is_shared else []
            for one in panels_of[name]:
                if one.against and one.against.done:
                    ends.append(draw_fall(axes, one.against, '0.6', 2))
                is_less = one.difference is not None and one.difference.value < 0
                ends.append(draw_fall(axes, one.group, LESS if is_less else MORE, 3))
            height = max(ends) - min(ends) or 0.1
            above = (0.6 if has_costs else 8) * height
            axes.set_ylim(min(ends) - 0.1 * (height + above), max(ends) + above)
        use_powers([axes for axes, _ in panels])
        figure.supxlabel('training FLOPs\npoint: end of a run, blue below and orange above its opponent '
                         '(grey);  line: on its way there', fontsize=8.5)
        figure.supylabel('validation loss, nats per token', fontsize=8.5)


def draw_fall(axes, group: Group, color: str, front: int) -> float:
    """How the loss of a group fell, with a point at its end, which is returned."""
    curve = group.mean()
    axes.plot(curve.flops, curve.loss, color=color, linewidth=0.9, alpha=0.7, zorder=front)
    axes.plot(curve.flops[-1], curve.loss[-1], 'o', color=color, markersize=4.5, zorder=front + 2)
    return curve.loss[-1]


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
    with new_figure(path, *size_for(len(gaps))) as figure:
        panels = panels_for(figure, list(gaps))
        reach = 0.0
        for axes, arm in panels:
            axes.axhline(0, color='black', linewidth=1)
            for (one, points), color in zip(gaps[arm], SERIES):
                x = [tokens for tokens, _ in points]
                found = [gap for _, gap in points]
                where = f'{one.scale}, ' * bool(one.scale) + budget_text(one.group)
                axes.plot(x, [gap.value for gap in found], color=color, linewidth=1.4, marker='.',
                          label=where)
                axes.fill_between(x, [gap.low for gap in found], [gap.high for gap in found], color=color,
                                  alpha=0.15, linewidth=0)
                reach = max(reach, *(1.4 * abs(gap.value) for gap in found))
            axes.legend(fontsize=7, frameon=False, loc='lower left')
        panels[0][0].set_ylim(-(reach or 0.01), reach or 0.01)
        use_powers([axes for axes, _ in panels])
        figure.supxlabel('tokens since the last growth, until a learning rate decays  (band: 95%)',
                         fontsize=8.5)
        figure.supylabel("loss minus the opponent's", fontsize=8.5)


# ------------------------------------------------------------------------------------------------------------
# the trend over sizes


def draw_trend(path: str, trends: list):
    """Compute for the same loss against size, a color a number of tokens a parameter: lines and crosses with
    bars what the trend says, points what was measured, hollow where that was held out."""
    from matplotlib.ticker import NullLocator

    every = list(itertools.chain(*(trend.cells for trend in trends)))
    values = []
    for cell in every:
        values += [one.value for one in (cell.predicted, cell.measured) if one and 0 < one.value < math.inf]
    low, high = min([0.9, *values]) / 1.5, max([1.1, *values]) * 1.5
    sizes = sorted({cell.size for cell in every})
    budgets = sorted({cell.budget for cell in every})
    with new_figure(path, *size_for(len(trends))) as figure:
        panels = panels_for(figure, [trend.arm for trend in trends])
        for (axes, _), trend in zip(panels, trends):
            axes.axhline(1, color='black', linewidth=1)
            for k, (budget, color) in enumerate(zip(budgets, SERIES)):
                cells = [cell for cell in trend.cells if cell.budget == budget]
                cells.sort(key=lambda cell: cell.size)
                x, y = [cell.size for cell in cells], [cell.predicted.value for cell in cells]
                axes.plot(x, y, color=color, linewidth=1, label=f'{budget:g} tokens a parameter')
                for cell in cells:
                    draw_cell(axes, cell, color, 4 - 3 * k / len(budgets))
            axes.set_xscale('log')
            axes.set_yscale('log')
            axes.set_ylim(low, high)
            use_ratios(axes.yaxis, low, high)
            axes.set_xticks(sizes, [f'{size / 1e6:.2g}M' for size in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
        panels[0][0].legend(fontsize=7, frameon=False)
        figure.supxlabel('parameters without embeddings\npoint: measured;  hollow: held out;  cross and '
                         'capped bar: predicted for what was held out, 95%', fontsize=8.5)
        figure.supylabel('compute for the same loss,\nbelow 1: growing saves', fontsize=8.5)


def draw_cell(axes, cell, color: str, width: float):
    """One cell; bars of several budgets at one size have several widths, since none may hide another."""
    if cell.is_held_out:
        ends = [cell.predicted.low, cell.predicted.high]
        axes.plot([cell.size] * 2, ends, color=color, linewidth=width / 3, marker='_',
                  markersize=6 + 2 * width)
        axes.plot(cell.size, cell.predicted.value, 'x', color=color)
    if cell.measured:
        ends = [cell.measured.low, cell.measured.high]
        axes.plot([cell.size] * 2, ends, color=color, linewidth=width, alpha=0.4)
        axes.plot(cell.size, cell.measured.value, 'o', color=color, markersize=4 + width / 2,
                  markerfacecolor='none' if cell.is_held_out else color)


# ------------------------------------------------------------------------------------------------------------
# a few runs


def draw_curves(path: str, report: Report):
    """Loss against compute in percent of the baseline's, and behind the curves the depth of what grows as a
    pale staircase."""
    groups = [group for group in report.groups if group.done]
    by = [group for group in groups if report.is_baseline(group)] or groups
    whole = max(group.mean().flops[-1] for group in by)
    with new_figure(path, WIDTH, 4.4) as figure:
        behind = figure.subplots()
        axes = behind.twinx()  # drawn after the staircase
        colors = iter(SERIES)
        for group in groups:
            color = 'black' if report.is_baseline(group) else next(colors)
            curve = group.mean()
            x = 100 * curve.flops / whole
            name = f'{shorten(group.name)}, ends at {curve.loss[-1]:.3f}'
            axes.plot(x, curve.loss, color=color, linewidth=1.8, label=name)
            axes.plot(x[-1], curve.loss[-1], 'o', color=color, markersize=5, clip_on=False)
            if group.grows:
                draw_depth(behind, group, whole, color)
        deepest = max(group.config.n_layer for group in groups)
        behind.set_ylim(0, 1.6 * deepest)  # the legend's room
        depths = {deepest}
        for group in groups:
            depths |= {phase.depth for phase in group.runs[0].plan.phases if group.grows}
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
        legend = axes.legend(loc='upper right', frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        remark(axes, ending(report), 'left')


def draw_depth(axes, group: Group, whole: float, color: str):
    """A pale staircase of a group's depth over its compute."""
    run = group.runs[0]
    end = 100 * group.end('flops') / whole
    edges = [0.0] + [end * run.plan.flops(phase.stop) / run.plan.flops() for phase in run.plan.phases]
    depths = [phase.depth for phase in run.plan.phases]
    axes.stairs(depths, edges, color=color, fill=True, alpha=0.1)


def ending(report: Report) -> str:
    """What the first comparison came to, in words."""
    for one in report.comparisons:
        if one.difference is None:
            continue
        word = 'below' if one.difference.value < 0 else 'above'
        told = f'{shorten(one.arm)} ends {abs(one.difference.value):.3f} nats {word} {shorten(one.opponent)}'
        seeds = min(len(one.seeds), len(one.opponent_seeds))
        return f'{told} (one seed: the way, not a result)' if seeds == 1 else told
    return ''
