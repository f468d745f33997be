"""
What all figures share, and the one of a plan. matplotlib is imported only when something is drawn.

    draw_plan('plan.png', plan, title)      a plan of schedule.py: staircase, frozen layers, cost
"""

import contextlib
import os
import re
import warnings

import numpy as np

from core.common import UserError

FORMATS = ('.png', '.pdf', '.svg')
GRAY = '0.4'
OTHER_SCRIPTS = ('CJK', 'Noto Sans', 'WenQuanYi', 'IPAGothic', 'Droid Sans Fallback', 'PingFang', 'YaHei')
STYLE = {
    'font.size': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.3,
    'grid.linewidth': 0.5,
    'hatch.linewidth': 0.6,
    'svg.fonttype': 'none',  # text stays text, for search and for editing
    # TrueType: some publishers refuse matplotlib's default, Type 3.
    'pdf.fonttype': 42,
}

def check_name(path: str):
    """Raises UserError for a file that matplotlib can't write."""
    if os.path.splitext(path)[1] not in FORMATS:
        raise UserError(f'--figure={path}: the name must end in {", ".join(FORMATS[:-1])} or {FORMATS[-1]}')

@contextlib.contextmanager
def new_figure(path: str, width: float, height: float):
    """A figure that is saved as `path`, whole or not at all, once the block has drawn it.

    Raises UserError without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('--figure needs matplotlib (pip install matplotlib); the tables do not') from None
    with matplotlib.rc_context(STYLE | {'font.family': fonts()}), warnings.catch_warnings():
        # Without a font that has it a character is an empty box: the figure is drawn all the same.
        warnings.filterwarnings('ignore', 'Glyph .* missing')
        # Figure itself, not pyplot: no window, and no global list of figures to close.
        figure = Figure(figsize=(width, height), layout='constrained')
        yield figure
        # A drawing that fails halfway leaves the figure from before in place.
        temporary = path + '.tmp'
        figure.savefig(temporary, format=os.path.splitext(path)[1][1:], dpi=200)
    os.replace(temporary, path)

def fonts() -> list[str]:
    """The usual font, then what is installed for other scripts: names may be in Chinese, say."""
    from matplotlib import font_manager

    pattern = '|'.join(OTHER_SCRIPTS)
    there = {font.name for font in font_manager.fontManager.ttflist if re.search(pattern, font.name)}
    return ['DejaVu Sans', *sorted(there)]

def remark(axes, text: str, loc: str = 'right'):
    """A remark above a panel."""
    axes.set_title(text, loc=loc, fontsize=8, color=GRAY)

def readable(axes):
    """Ticks of the x axis as 2.5M or 10B instead of 2500000 or 1e10."""
    from matplotlib.ticker import FuncFormatter

    def text(value, position):
        for size, letter in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
            if abs(value) >= size:
                return f'{value / size:g}{letter}'
        return f'{value:g}'

    axes.xaxis.set_major_formatter(FuncFormatter(text))

def draw_plan(path: str, plan, title: str = ''):
    """A schedule.Plan: depth over the steps as a staircase with frozen layers hatched, and under it what a
    step costs, relative to the highest cost. Raises UserError for a file name that is no figure's."""
    check_name(path)
    phases = plan.phases
    edges = np.array([phases[0].start] + [phase.stop for phase in phases], float)
    costs = np.array(plan.step_costs['flops'], float)
    with new_figure(path, 8, 4.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        depths = [phase.depth for phase in phases]
        above.stairs(depths, edges, color='black', fill=True, alpha=0.12)
        above.stairs(depths, edges, color='black', linewidth=1.4, baseline=None)
        for phase in phases:
            if phase.frozen:  # hatched, from below
                above.fill_between([phase.start, phase.stop], len(phase.frozen), hatch='////',
                                   facecolor='none', edgecolor='black', linewidth=0, alpha=0.7)
        above.set_ylim(0, max(depths) * 1.12)
        above.set_ylabel('layers')
        # A title may hold a $, which matplotlib would read as mathematics.
        above.set_title(title, loc='left', fontsize=10, parse_math=False)
        if any(phase.frozen for phase in phases):
            remark(above, 'hatched: frozen layers')
        below.stairs(costs / costs.max(), edges, color='black', fill=True, alpha=0.15)
        below.stairs(costs / costs.max(), edges, color='black')
        below.set_ylim(0, 1.25)
        below.set_xlim(edges[0], edges[-1])
        below.set_ylabel('FLOPs a step')
        below.set_xlabel('step')
        readable(below)
        share = plan.flops() / (costs.max() * (edges[-1] - edges[0]))
        remark(below, f'{plan.flops():.3g} FLOPs in all, {share:.1%} of as many steps at the highest cost')
