"""
Everything that draws. matplotlib is imported in no other file, and here only when something is drawn.

    draw_report('x.png', report)                  one hero panel: loss against compute, the depth under it
    draw_report('x.png', report, ['tokens'])      other panels, named in PANELS
    draw_report('x.png', report, study_panels(report))    a study: loss and multiplier by budget, catch-up

`report` is a judge.Report.

The baseline is black, solid and round; a second one black and dashed. Other runs differ in color, line style
and marker, so that a print in black and white and a color-blind reader tell them apart.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from core.common import UserError
from core.plot import GRAY, check_name, draw_staircase, new_figure, readable, remark

# What can be drawn. The first is the default, and stands alone: among others it is the same as flops.
PANELS = {
    'hero': 'loss against FLOPs with the depth under it',
    'flops': 'loss against FLOPs',
    'paper': "loss against FLOPs by the paper's ledger",
    'tokens': 'loss against tokens',
    'seconds': 'loss against training time',
    'depth': 'layers against FLOPs',
    'accuracy': 'HellaSwag acc_norm against FLOPs',
    'bits': 'HellaSwag bits per byte against FLOPs',
    'budget': 'final loss against budget, one curve an arm',
    'multiplier': 'compute multiplier against budget',
    'catch_up': 'gap to the baseline at equal tokens since the last growth',
    'head_start': 'gap to the baseline at equal updates of the full depth',
}
# Okabe and Ito's colors without the yellow, which paper swallows. 6 x 4 x 7 repeats after 84 runs.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
LINES = ('--', '-.', (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = 's^DvPX*'
BASELINES = (('-', 'o'), ('--', 's'), (':', 'D'))  # line and marker of the first, second, third one
LONGEST_NAME = 34  # characters beside a curve or in a legend
STAIRCASES = 8  # under the hero panel; more would hide each other


@dataclass
class Look:
    """How a run or an arm looks in every panel."""

    color: str
    line: object  # matplotlib's line style
    marker: str
    front: int  # zorder


def check_panels(path: str | None, panels: str):
    """Raises UserError for a file that matplotlib can't write, or a panel that doesn't exist."""
    if path:
        check_name(path)
    for panel in panels.split(','):
        if panel and panel not in PANELS:
            raise UserError(f'--panels={panel}: no panel is called so; there are {", ".join(PANELS)}')
    if panels and not path:
        raise UserError('--panels needs --figure=FILE')


# ------------------------------------------------------------------------------------------------------------
# whole figures


def draw_report(path: str, report, panels: list[str] | None = None):
    """The panels that are asked for, by default the hero. A panel that has nothing to show is left out.

    Runs on other data than the baseline's and runs without an evaluation are not in it. Raises UserError if
    nothing is left to draw.
    """
    groups = shown_groups(report)
    panels = panels or ['hero']
    drawable = [panel for panel in panels if has_content(panel, groups, report)]
    if not groups:
        raise UserError('--figure: none of these runs has an evaluation yet')
    if not drawable:
        raise UserError(f'--panels={",".join(panels)}: these runs have nothing to show there')
    if drawable == ['hero']:
        # Names stand on the right, one above the other: more of them need a taller panel.
        with new_figure(path, 8.5, max(5.6, 3.2 + 0.28 * len(groups))) as figure:
            draw_hero(figure, report, groups)
        return
    columns = min(2, len(drawable))
    lines = -(-len(drawable) // columns)
    with new_figure(path, 5.6 * columns, 4.0 * lines + 0.5) as figure:
        handles = {}
        for k, panel in enumerate(drawable):
            axes = figure.add_subplot(lines, columns, k + 1)
            handles |= draw_panel(axes, panel, report, groups)
        add_legend(figure, handles)


def study_panels(report) -> list[str]:
    """The panels of a study's figure that have something to show: none before a baseline is finished, say."""
    groups = shown_groups(report)
    panels = ('budget', 'multiplier', 'catch_up', 'head_start')
    return [panel for panel in panels if has_content(panel, groups, report)]


def shown_groups(report) -> list:
    """What belongs into a figure, the baselines first."""
    # Losses on other data would set the scale for all, and mean nothing beside them.
    groups = []
    for group in report.groups:
        is_other_data = any(flag.startswith('other data') for flag in group.flags)
        if len(group.mean) and group.is_best and not is_other_data and not group.sunk:
            groups.append(group)
    # The sort is stable: apart from the baselines the order stays.
    return sorted(groups, key=lambda group: not report.is_baseline(group))


def has_content(panel: str, groups: list, report) -> bool:
    """Whether a panel would show anything."""
    if panel in ('accuracy', 'bits'):
        return any(len(score_points(group, panel)[0]) for group in groups)
    if panel == 'multiplier':
        return any(judgment.has_cost for judgment in report.judgments)
    if panel in ('catch_up', 'head_start'):
        return any(len(gap_points(judgment, panel, report)[0]) for judgment in report.judgments)
    if panel == 'budget':
        return bool(report.arm_ladders())
    if panel == 'depth':
        return any(group.runs[0].growth_steps for group in groups)
    # All other panels show losses, and every shown group has some.
    return bool(groups)


def draw_panel(axes, panel: str, report, groups: list) -> dict:
    """One named panel. Returns what its legend holds: (line, text) by run or arm."""
    if panel in ('accuracy', 'bits'):
        return draw_scores(axes, groups, report, panel)
    if panel in ('catch_up', 'head_start'):
        return draw_gaps(axes, report, panel)
    if panel == 'budget':
        return draw_budgets(axes, report)
    if panel == 'multiplier':
        return draw_multipliers(axes, report)
    if panel == 'depth':
        draw_depths(axes, groups, report, *unit_of('flops', groups))
        return {}
    axis = {'hero': 'flops', 'paper': 'flops_paper'}.get(panel, panel)
    return draw_losses(axes, groups, report, axis)


# ------------------------------------------------------------------------------------------------------------
# how things look


def look_of(groups: list, report) -> list[Look]:
    """The look of each group. Baselines are black, and nothing else is."""
    # Six colors, four lines and seven markers turn at different speeds: 84 groups before one look returns.
    looks = []
    baselines = []  # names of arms: a baseline of several budgets looks the same at each
    k = 0
    for group in groups:
        if report.is_baseline(group):
            if group.arm not in baselines:
                baselines.append(group.arm)
            line, marker = BASELINES[baselines.index(group.arm) % len(BASELINES)]
            looks.append(Look('black', line, marker, 5))
            continue
        color = COLORS[k % len(COLORS)]
        looks.append(Look(color, LINES[k % len(LINES)], MARKERS[k % len(MARKERS)], 4))
        k += 1
    return looks


def arm_looks(report) -> dict[str, Look]:
    """The look of each arm."""
    ladders = report.arm_ladders()
    looks = look_of([ladder.rungs[0] for ladder in ladders], report)
    return {ladder.arm: look for ladder, look in zip(ladders, looks)}


def draw_line(axes, x, y, look: Look):
    """A curve with about ten markers, the last point always among them."""
    # Where a run ends is what is compared: a marker there, whatever the spacing.
    every = max(1, len(x) // 10)
    marked = sorted({*range(0, len(x), every), len(x) - 1})
    (line,) = axes.plot(
        x, y, color=look.color, linestyle=look.line, marker=look.marker, zorder=look.front, markevery=marked,
        linewidth=1.5, markersize=4.5, markeredgewidth=1.1, markerfacecolor='white',
    )
    return line


def draw_band(axes, x, low, high, look: Look, n_bands: int):
    """The area between two curves, fainter where many lie on each other."""
    axes.fill_between(x, low, high, color=look.color, alpha=min(0.15, 0.4 / n_bands), linewidth=0)


def caption(group) -> str:
    """A group's name, with what a reader must know to read its curve."""
    name = shorten(group.name)
    if len(group.judged) > 1:
        name += f' ({len(group.judged)} seeds)'
    if group.flags:
        name += ' (unfinished)'
    return name


def shorten(name: str) -> str:
    """A name without its middle, where it is too long."""
    if len(name) <= LONGEST_NAME:
        return name
    half = LONGEST_NAME // 2  # names differ at their ends as often as at their beginnings
    return f'{name[:half]}…{name[-half + 1:]}'


def add_legend(figure, handles: dict):
    """One legend over all panels. `handles`: (line, text) of each run or arm."""
    if not handles:
        return
    lines = [line for line, _ in handles.values()]
    texts = [text for _, text in handles.values()]
    columns = 3 if max(len(text) for text in texts) <= 30 else 2
    # Stand-ins of the same length first: matplotlib drops labels that begin with _, and reads $ as
    # mathematics.
    legend = figure.legend(
        lines, ['x' * len(text) for text in texts], loc='outside upper center', frameon=False, fontsize=8,
        ncols=min(columns, len(lines)), handlelength=3.5,
    )
    for shown, text in zip(legend.get_texts(), texts):
        shown.set_parse_math(False)
        shown.set_text(text)


def label_ends(axes, ends: list[tuple], fontsize: float):
    """Name curves at their ends, in the margin on the right; a thin line leads to each.

    `ends` are (x, y, text, color). Names that would lie on each other are moved apart. The limits of the
    axes, and the layout, must be final.
    """
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.get_figure().get_figheight() * 72  # points
    ends = sorted(ends, key=lambda end: end[1])
    wanted = np.array([y for _, y, _, _ in ends])
    # A run that ends outside of the limits is named at the edge.
    places = np.clip((wanted - low) / (high - low), 0, 1)
    # A line of text takes 1.3 times its font size; places are shares of the panel's height.
    places = spread_out(list(places), 1.3 * fontsize / height)
    for (x, y, text, color), place in zip(ends, places):
        # relpos: the thin line meets the left end of the name, not its middle.
        leader = {'arrowstyle': '-', 'color': color, 'linewidth': 0.5, 'alpha': 0.6}
        leader |= {'relpos': (0, 0.5), 'shrinkB': 3}
        axes.annotate(
            text, (x, y), xytext=(1.03, place), textcoords='axes fraction', va='center', ha='left',
            color=color, fontsize=fontsize, annotation_clip=False, parse_math=False, arrowprops=leader,
        )


def spread_out(places: list[float], step: float) -> list[float]:
    """Ascending places in [0, 1], moved apart to be `step` from each other, around where they want to be."""
    # As boxes that push each other: a block sits at the mean of what its members want.
    blocks = []  # [center, number of places]: places that touch move as one
    for center in places:
        n = 1
        while blocks:
            other, m = blocks[-1]
            if center - other >= step * (n + m) / 2:
                break
            blocks.pop()
            center = (center * n + other * m) / (n + m)
            n += m
        blocks.append([center, n])
    found = []
    for center, n in blocks:
        found += [center + step * (i - (n - 1) / 2) for i in range(n)]
    # Back into the panel, the lowest ones first; with more than it holds, the last ones stand above it.
    for i, place in enumerate(found):
        found[i] = max(place, i * step)
    highest = 1.0
    for i in reversed(range(len(found))):
        found[i] = max(min(found[i], highest), i * step)
        highest -= step
    return found


def unit_of(axis: str, groups: list) -> tuple[float, str]:
    """(what to divide an axis by, its label), so that ticks are short round numbers."""
    longest = max(float(getattr(group.mean, axis)[-1]) for group in groups)
    if axis == 'seconds':
        for size, name in ((3600, 'hours'), (60, 'minutes'), (1, 'seconds')):
            # From two of a unit on: 1.5 hours read better as 90 minutes.
            if longest >= 2 * size or size == 1:
                return size, f'{name} of training'
    if axis == 'tokens':
        return 1, 'tokens'
    power = math.floor(math.log10(longest)) if longest > 0 else 0
    ledger = " by the paper's ledger" if axis == 'flops_paper' else ''
    return 10.0**power, f'training FLOPs{ledger} / $10^{{{power}}}$'


def make_logarithmic(axes):
    """A logarithmic x axis that has a few ticks however short it is. To be called when all is drawn."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    # By default ticks at 2 and 5 lose their labels on an axis of more than one decade.
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.dataLim.intervalx
    if 0 < low <= high < 2 * low:  # a single budget, say: its runs differ by less than a step
        axes.set_xlim(low / 2, high * 2)


# ------------------------------------------------------------------------------------------------------------
# loss against compute


def draw_hero(figure, report, groups: list):
    """Loss against FLOPs with named curves and one arrow; under it, on the same axis, the depth of each."""
    size, label = unit_of('flops', groups)
    if any(group.runs[0].growth_steps for group in groups):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        draw_losses(above, groups, report, 'flops')
        draw_depths(below, groups, report, size, label)
        # The panels share their x axis, so the lower one alone is labeled.
        above.set_xlabel('')
        above.tick_params(labelbottom=False)
        remark(above, 'tick: a stage begins; shaded: earlier layers are frozen', loc='left')
    else:
        above = figure.subplots()
        draw_losses(above, groups, report, 'flops')
    draw_arrow(above, report, size)
    ends = []
    for group, look in zip(groups, look_of(groups, report)):
        mean = group.mean
        ends.append((mean.flops[-1] / size, mean.loss[-1], caption(group), look.color))
    # Names are placed last: where they fit depends on the limits and on the layout.
    figure.canvas.draw()  # settles the layout, and with it how tall a line of text is
    label_ends(above, ends, fontsize=8)


def draw_losses(axes, groups: list, report, axis: str) -> dict:
    """Loss of all groups against one axis, with bands over the seeds, growth marks and frozen stretches."""
    size, label = unit_of(axis, groups)
    handles = {}
    for group, look in zip(groups, look_of(groups, report)):
        curve = group.mean
        x = getattr(curve, axis)
        handles[group.name] = draw_line(axes, x / size, curve.loss, look), caption(group)
        if len(group.judged) > 1:
            sd = group.losses_at(axis, x).std(axis=-1, ddof=1)
            draw_band(axes, x / size, curve.loss - sd, curve.loss + sd, look, len(groups))
        draw_growth(axes, group, axis, x, curve.loss, look.color, size)
    if any(len(group.judged) > 1 for group in groups):
        remark(axes, 'band: ± 1 sd over the seeds')
    longest = max(getattr(group.mean, axis)[-1] for group in groups)
    axes.set_xlim(0, 1.01 * longest / size)
    axes.set_ylim(*loss_limits(groups, axis))
    axes.set_xlabel(label)
    axes.set_ylabel('validation loss (nats per token)')
    # The other axes are divided by a unit, and their ticks are short already.
    if axis == 'tokens':
        readable(axes)
    return handles


def draw_growth(axes, group, axis: str, x, y, color: str, size: float):
    """A tick where a stage begins, and a broad shadow along the curve where layers are frozen.

    Both lie on the curve as it is drawn: straight between evaluations, by this axis's own values.
    """
    for start, stop, _, n_frozen, is_growth in stretches_of(group, axis):
        # Before the first evaluation there is no curve to mark.
        if is_growth and x[0] <= start <= x[-1]:
            axes.plot(
                start / size, np.interp(start, x, y), color=color, marker='|', markersize=12,
                markeredgewidth=1.6, linestyle='', zorder=6,
            )
        low = max(start, x[0])
        high = min(stop, x[-1])
        if n_frozen and low < high:
            # A stretch begins and ends between evaluations: its own ends, and the curve's points inside.
            inside = np.array([low, *x[(x > low) & (x < high)], high])
            axes.plot(
                inside / size, np.interp(inside, x, y), color=color, linewidth=7, alpha=0.22, zorder=2,
                solid_capstyle='butt',
            )


def stretches_of(group, axis: str) -> list[tuple]:
    """(start, stop, depth, frozen layers, whether it begins with a growth) of each phase on an axis, the mean
    over the seeds, as far as the runs have come."""
    # Of a run under way, what has been, not what is planned.
    reached = min(run.step for run in group.judged_runs)
    found = []
    for phase in group.runs[0].phases:
        if phase.start >= reached:
            break
        edges = [run.where(axis, [phase.start, min(phase.stop, reached)]) for run in group.judged_runs]
        start, stop = np.mean(edges, axis=0)
        found.append((start, stop, phase.depth, len(phase.frozen), bool(phase.growths)))
    return found


def loss_limits(groups: list, axis: str) -> tuple[float, float]:
    """The part of the loss that is worth ink: what the curves do after the first seventh of the axis, and
    their ends, with room below for a line of text."""
    # The steep start would press all that matters into a line at the bottom.
    start = max(getattr(group.mean, axis)[-1] for group in groups) / 7
    kept = []
    for group in groups:
        late = group.mean.loss[getattr(group.mean, axis) >= start]
        kept += [*late, group.mean.loss[-1]]
    height = max(kept) - min(kept) or 1.0
    return min(kept) - 0.1 * height, max(kept) + 0.03 * height


def draw_arrow(axes, report, size: float):
    """From the baseline to the run that saves most, at one loss: what that loss costs the one and the
    other."""
    judgments = [judgment for judgment in report.judgments if judgment.has_cost]
    if not judgments:
        return
    best = min(judgments, key=lambda judgment: judgment.by_axis['flops'].cost.value)
    on_flops = best.by_axis['flops']
    if math.isnan(on_flops.baseline_needs):
        # The baseline never gets there: the arrow lies at the baseline's final loss.
        loss = best.ladder.rungs[-1].finals.mean()
        start, stop = on_flops.baseline_end / size, on_flops.needs / size
    else:
        loss = best.group.finals.mean()
        start, stop = on_flops.baseline_needs / size, on_flops.end / size
    arrow = {'arrowstyle': '->', 'linewidth': 1.4}
    axes.annotate('', (stop, loss), xytext=(start, loss), arrowprops=arrow, zorder=7)
    # Losses fall: to the left of the arrow, below the curves, is empty paper.
    place, away, align = min(start, stop), -4, 'right'
    if place < 0.4 * axes.get_xlim()[1]:  # too little of it
        place, away, align = (start + stop) / 2, 0, 'center'
    axes.annotate(
        arrow_text(best), (place, loss), xytext=(away, -4), textcoords='offset points', va='top', ha=align,
        zorder=8, bbox={'facecolor': 'white', 'alpha': 0.7, 'linewidth': 0, 'pad': 1},
    )


def arrow_text(judgment) -> str:
    """same loss, at least 11% less compute (not clear)."""
    cost = judgment.by_axis['flops'].cost
    change = 1 - cost.value
    # A cost of at most .9 is a saving of at least 10%.
    bound = ''
    if cost.bound:
        bound = 'at least ' if (cost.bound == 'at most') == (change >= 0) else 'at most '
    doubt = {'clear': '', 'not clear': ' (not clear)', '': ' (no verdict)'}[judgment.verdict]
    return f'same loss, {bound}{abs(change):.0%} {"less" if change >= 0 else "more"} compute{doubt}'


# ------------------------------------------------------------------------------------------------------------
# depth


def draw_depths(axes, groups: list, report, size: float, label: str):
    """The depth of the growing groups over their FLOPs. Of one or two the frozen layers are hatched."""
    grown = []
    for group, look in zip(groups, look_of(groups, report)):
        if group.runs[0].growth_steps and stretches_of(group, 'flops'):
            grown.append((stretches_of(group, 'flops'), look))
    grown = grown[:STAIRCASES]  # more would hide each other
    deepest = 1
    for stretches, look in grown:
        edges = np.array([stretches[0][0]] + [stretch[1] for stretch in stretches]) / size
        steps = [(depth, n_frozen) for _, _, depth, n_frozen, _ in stretches]
        draw_staircase(axes, edges, steps, look.color, is_hatched=len(grown) <= 2, is_filled=len(grown) == 1)
        deepest = max(deepest, *(depth for depth, _ in steps))
    axes.set_ylim(0, deepest * 1.15)
    axes.set_xlabel(label)
    axes.set_ylabel('layers')
    all_stretches = itertools.chain.from_iterable(stretches for stretches, _ in grown)
    if any(stretch[3] for stretch in all_stretches) and len(grown) <= 2:
        remark(axes, 'hatched: frozen layers')


# ------------------------------------------------------------------------------------------------------------
# scores


def score_points(group, panel: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(FLOPs, mean score, standard error of one scoring) where all seeds were scored."""
    name = {'accuracy': 'hellaswag_acc_norm', 'bits': 'hellaswag_bits'}[panel]
    # Scores are not interpolated: each is a scoring of its own, with an error of its own.
    by_step = []
    for run in group.judged_runs:
        scores, _ = run.scores()
        by_step.append({record['step']: record for record in scores if name in record})
    points = []
    for step in sorted(set.intersection(*(set(scores) for scores in by_step))):
        records = [scores[step] for scores in by_step]
        mean = float(np.mean([record[name] for record in records]))
        error = records[0].get(f'{name}_stderr')
        if error is None:  # a run from before the errors were logged
            error = math.sqrt(mean * (1 - mean) / records[0]['hellaswag_n']) if panel == 'accuracy' else 0.0
        points.append((np.mean([record['flops'] for record in records]), mean, error))
    return tuple(np.array(points).reshape(-1, 3).T)


def draw_scores(axes, groups: list, report, panel: str) -> dict:
    """HellaSwag against FLOPs, with the standard error of one scoring as a band."""
    size, label = unit_of('flops', groups)
    handles = {}
    for group, look in zip(groups, look_of(groups, report)):
        x, y, errors = score_points(group, panel)
        if len(x):
            handles[group.name] = draw_line(axes, x / size, y, look), caption(group)
            draw_band(axes, x / size, y - errors, y + errors, look, len(groups))
            draw_growth(axes, group, 'flops', x, y, look.color, size)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    remark(axes, 'band: ± 1 standard error of one scoring')
    if panel == 'accuracy':
        axes.set_ylabel('HellaSwag acc_norm')
        # Of four endings, guessing gets a quarter right.
        axes.axhline(0.25, color='0.5', linewidth=0.8, linestyle=(0, (1, 3)))
        axes.annotate(
            'chance', (1, 0.25), xycoords=('axes fraction', 'data'), xytext=(0, 2), ha='right', fontsize=8,
            textcoords='offset points', color=GRAY,
        )
    else:
        axes.set_ylabel('HellaSwag, bits per byte of the true ending')
    return handles


# ------------------------------------------------------------------------------------------------------------
# arms over budgets, and after growth


def side_by_side(report) -> dict[str, float]:
    """Arm: by what its budgets are multiplied on the axis, so that runs of one budget don't stand on each
    other: 3% from arm to arm, and 40% at most over all of them."""
    arms = list(arm_looks(report))
    step = min(1.03, 1.4 ** (1 / len(arms)))
    middle = (len(arms) - 1) / 2
    return {arm: step ** (number - middle) for number, arm in enumerate(arms)}


def draw_budgets(axes, report) -> dict:
    """Final loss of each arm at each budget, 95% intervals over the seeds, and the curve through them."""
    handles = {}
    looks = arm_looks(report)
    sideways = side_by_side(report)
    for ladder in report.arm_ladders():
        look = looks[ladder.arm]
        budgets = np.array([rung.budget for rung in ladder.rungs], float)
        means = np.array([rung.finals.mean() for rung in ladder.rungs])
        highs = np.array([rung.final_estimate(report.sigma).high for rung in ladder.rungs])
        halves = np.nan_to_num(highs - means)  # a single seed has no interval, and no bar
        aside = sideways[ladder.arm]
        axes.errorbar(
            budgets * aside, means, yerr=halves, color=look.color, marker=look.marker, zorder=look.front,
            linestyle='', capsize=3, linewidth=1.1, markersize=5, markerfacecolor='white',
        )
        # An empty line for the legend, in which errorbars look poor.
        handles[ladder.arm] = draw_line(axes, [math.nan], [math.nan], look), shorten(ladder.arm)
        # The curve that multipliers are read from, so that a reader sees how well it fits.
        if len(budgets) > 1:
            places = np.geomspace(budgets[0], budgets[-1], 100)
            losses, _ = ladder.reference('flops').at(places)
            axes.plot(places * aside, losses, color=look.color, linestyle=look.line, linewidth=1.1, zorder=3)
    make_logarithmic(axes)
    axes.set_xlabel('training FLOPs')
    axes.set_ylabel('final validation loss (nats per token)')
    remark(axes, 'bars: 95% over the seeds; arms side by side')
    return handles


def draw_multipliers(axes, report) -> dict:
    """Compute multiplier of each arm against its budget, with 95% intervals; a bound is an arrowhead."""
    handles = {}
    drawn = [1.0]
    sideways = side_by_side(report)
    for arm, look in arm_looks(report).items():
        judgments = [judgment for judgment in report.judgments if judgment.group.arm == arm]
        judgments = [judgment for judgment in judgments if judgment.has_cost]
        if not judgments:
            continue
        judgments.sort(key=lambda judgment: judgment.group.budget)
        budgets = np.array([judgment.group.budget for judgment in judgments]) * sideways[arm]
        found = [judgment.by_axis['flops'].cost.inverse() for judgment in judgments]
        values = np.array([multiplier.value for multiplier in found])
        drawn.extend(values)
        # No bar where there is no interval, or where it begins beyond the data.
        below = np.nan_to_num(values - [multiplier.low for multiplier in found])
        above = np.nan_to_num([multiplier.high for multiplier in found] - values)
        handles[arm] = draw_line(axes, [math.nan], [math.nan], look), shorten(arm)
        axes.errorbar(
            budgets, values, yerr=np.maximum(0, [below, above]), color=look.color, linestyle=look.line,
            marker=look.marker, zorder=look.front, capsize=3, linewidth=1.1, markersize=5,
            markerfacecolor='white',
        )
        for budget, multiplier in zip(budgets, found):
            if multiplier.bound:
                # The arrow points to where the true value may lie: up for 'at least'.
                away = 20 if multiplier.bound == 'at least' else -20
                axes.annotate(
                    '', (budget, multiplier.value), xytext=(0, away), textcoords='offset points',
                    arrowprops={'arrowstyle': '<-', 'color': look.color},
                )
    axes.axhline(1, color='black', linewidth=1)
    # One arm whose seeds disagree must not press the others into a line: its bar leaves the panel.
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, min(drawn) / 2), min(high, max(drawn) * 1.5))
    make_logarithmic(axes)
    axes.set_xlabel('training FLOPs')
    axes.set_ylabel('compute multiplier (above 1: growing saves)')
    remark(axes, 'bars: 95% over the seeds; arrows: bounds')
    return handles


def gap_points(judgment, panel: str, report) -> tuple[np.ndarray, list]:
    """(tokens since the last growth, or updates at full depth; the gap's estimates) where there is a gap."""
    x = []
    gaps = []
    for point in judgment.catch_up(report.sigma):
        since = point.tokens if panel == 'catch_up' else point.updates
        estimate = point.at_tokens if panel == 'catch_up' else point.at_updates
        # The axis is logarithmic: the evaluation right at the growth has no place on it.
        if since > 0 and estimate is not None:
            x.append(since)
            gaps.append(estimate)
    return np.array(x, float), gaps


def draw_gaps(axes, report, panel: str) -> dict:
    """The gap to the baseline since the last growth, with its 95% interval."""
    handles = {}
    looks = arm_looks(report)
    for judgment in report.judgments:
        x, gaps = gap_points(judgment, panel, report)
        if len(x) == 0:
            continue
        look = looks[judgment.group.arm]
        line = draw_line(axes, x, [gap.value for gap in gaps], look)
        draw_band(axes, x, [gap.low for gap in gaps], [gap.high for gap in gaps], look, 3)
        if report.study:  # all budgets of an arm look alike
            handles[judgment.group.arm] = line, shorten(judgment.group.arm)
        else:
            handles[judgment.group.name] = line, caption(judgment.group)
    axes.axhline(0, color='black', linewidth=1)
    make_logarithmic(axes)
    readable(axes)
    axes.set_ylabel("loss minus the baseline's (nats)")
    if panel == 'catch_up':
        axes.set_xlabel('tokens since the last growth')
        remark(axes, 'at equal tokens; band: 95%')
    else:
        axes.set_xlabel('updates at full depth')
        remark(axes, 'at equal full-depth updates; band: 95%')
    return handles
