"""
A judge.Report as text: what compare.py prints, and the parts of a study's page.

    text(report), markdown(report), latex(report)      all of it
    answer(report), counts(report) -> str              the declared questions, answered and counted
    sentences(report) -> list[str]                     one a comparison that has more to say than a row
    verdict_tables(report), run_tables(report), detail_tables(report) -> list[Table]
    trends(report, sizes, held_out) -> list[Trend]     how the cost goes with size and with tokens a parameter
    rows(report), as_csv(rows)                         all numbers, unrounded

Tables are tabulate's, as text, as Markdown and as LaTeX; their cells are finished text.
"""

import itertools
import math
import os
import re
import textwrap
from dataclasses import dataclass

import numpy as np

from config import FIELDS, TrainConfig
from core.common import table
from verdict import judge, paired, stats
from verdict.judge import Comparison, Report
from verdict.runs import AXES, Group, Run, mean_and_sd
from verdict.stats import Interval

WIDEST = 28  # characters of a column of words on a terminal
CATCH_UP_ROWS = 6  # of each run
FEW = 3  # findings of a kind that one sentence names with their numbers
# Settings that say nothing about training: places, names, what is logged and kept.
NOT_SHOWN = ('out_dir', 'run_name', 'seed', 'resume', 'match', 'branch_from', 'tracker', 'tracker_project',
             'data_dir', 'hellaswag_data', 'log_interval', 'checkpoint_interval', 'keep_checkpoints',
             'checkpoint_steps')
SCORES = {'bits': 'bits a byte', 'acc_norm': 'acc_norm', 'margin': 'margin'}  # bits agrees with the loss best
WORDS = {'saves': 'saves compute', 'costs': 'costs compute', 'same': 'the same', 'open': 'open'}
HEADS = {'saves': 'Saves compute', 'costs': 'Costs compute', 'same': 'Makes no difference', 'open': 'Open',
         '': 'No answer'}


@dataclass
class Table:
    """A header and lines of equal length under a title. `align`: 'l' or 'r' for each column."""

    title: str
    header: list[str]
    lines: list[list[str]]
    align: str
    note: str = ''

    def text(self) -> str:
        """For a terminal: columns of words are wrapped, numbers never are."""
        lines = []
        for line in self.lines:
            lines.append([wrapped(cell) if side == 'l' else cell for cell, side in zip(line, self.align)])
        parts = [self.title, table(self.header, lines, self.align), textwrap.fill(self.note, 100)]
        return '\n'.join(part for part in parts if part)

    def markdown(self) -> str:
        """As code hosts render it."""
        lines = [[escaped(cell) for cell in line] for line in self.lines]
        header = [escaped(cell) for cell in self.header]
        parts = [f'**{escaped(self.title)}**', table(header, lines, self.align, 'pipe'), escaped(self.note)]
        return '\n\n'.join(part for part in parts if part)

    def latex(self) -> str:
        """A table environment with booktabs' rules."""
        inside = table(self.header, self.lines, self.align, 'latex_booktabs').replace('±', r'$\pm$')
        note = [rf'\par\footnotesize {in_latex(self.note)}'] if self.note else []
        caption = rf'\caption{{{in_latex(self.title)}}}'
        return '\n'.join([r'\begin{table}', r'\centering', caption, inside, *note, r'\end{table}'])


def wrapped(cell: str) -> str:
    # tabulate breaks lines where a cell has them.
    return '\n'.join(textwrap.wrap(cell, WIDEST, break_on_hyphens=False))


def escaped(cell: str) -> str:
    """A cell or a sentence for Markdown, on one line."""
    # The backslash comes first, or it would escape the ones that the others bring.
    for mark in ('\\', '|', '*', '_', '<', '`', '$', '~'):
        cell = cell.replace(mark, '\\' + mark)
    return ' '.join(cell.split())


def in_latex(sentence: str) -> str:
    """A title or a note of ours."""
    return re.sub(r'([&%$#_{}])', r'\\\1', sentence).replace('±', r'$\pm$')


# ------------------------------------------------------------------------------------------------------------
# numbers as text


def number(value: float | None, form: str) -> str:
    """A number in a format; '-' for None and nan."""
    return '-' if value is None or math.isnan(value) else format(value, form)


def interval(found: Interval | None, form: str) -> str:
    """1.18 [1.07, 1.28]; the value alone where it has no interval, '-' for None."""
    if found is None or math.isnan(found.value):
        return '-'
    text = format(found.value, form)
    return text if math.isnan(found.low) else f'{text} [{found.low:{form}}, {found.high:{form}}]'


def with_error(value: float | None, error: float | None) -> str:
    return number(value, '.4f') + (f' ± {error:.4f}' if error is not None else '')


def p_value(p: float | None) -> str:
    if p is None or math.isnan(p):
        return '-'
    return '<.0001' if p < 1e-4 else f'{p:.2g}'


def duration(seconds: float | None) -> str:
    """A time with the unit that suits it."""
    for size, unit in ((3600, 'h'), (60, 'min')):
        if seconds is not None and seconds >= 2 * size:
            return f'{seconds / size:.1f} {unit}'
    return '-' if seconds is None else f'{seconds:.0f} s'


def setting(value) -> str:
    """The value of a setting as text: a tuple without its brackets."""
    return '/'.join(setting(item) for item in value) if type(value) in (tuple, list) else str(value)


def place_text(arm: str, scale: str, budget: int) -> str:
    """An arm with its scale and budget, as in a study's group.name."""
    return f'{", ".join(part for part in (arm, scale) if part)} at {budget:,}'


def shown(one: Comparison) -> tuple[Interval | None, Interval | None]:
    """(cost, loss difference) as far as they stand: not of the seeds that survived."""
    return (None, None) if 'diverged' in one.why else (one.cost, one.difference)


def place_of(one: Comparison) -> str:
    return one.group.name if one.group else place_text(one.arm, one.scale, one.budget)


def describe(run: Run) -> str:
    """The schedule in a few words: depths, and what differs from random layers, freezing, constant AdamW."""
    config: TrainConfig = run.config
    # A checkpoint's depth is the first step of the staircase, though no phase of this plan has it.
    depths = [config.init_depth] if config.init_depth else []
    depths += [phase.depth for phase in run.phases]
    steps = [str(depth) for depth, _ in itertools.groupby(depths)]
    if len(steps) > 8:  # the first two and the last are enough to recognize a plan
        steps = [*steps[:2], '..', steps[-1]]
    words = ['-'.join(steps)]
    if len(steps) == 1:
        words[0] += ' layers'
    else:
        if not any(phase.frozen for phase in run.phases):
            words.append('unfrozen')
        if config.grow_map:
            words.append('by map')
        elif config.grow_init != 'random':
            words.append(setting(config.grow_init))
    words += [word for word, usual in ((config.lr_schedule, 'constant'), (config.optimizer, 'adamw'))
              if word != usual]
    return ' '.join(words)


# ------------------------------------------------------------------------------------------------------------
# all of it


def text(report: Report, full: bool = False) -> str:
    """For a terminal: the runs, what to know before believing a verdict, then the verdicts."""
    parts = [some.text() for some in run_tables(report)]
    parts += [f'note: {note}' for note in report.notes]
    shown = verdict_tables(report) + (detail_tables(report) if full else [])
    parts += [some.text() for some in shown]
    return '\n\n'.join([*parts, '\n'.join([*sentences(report), counts(report), answer(report)])])


def markdown(report: Report) -> str:
    parts = [escaped(answer(report)), escaped(counts(report)), bullets(report.notes)]
    parts += [some.markdown() for some in verdict_tables(report)]
    parts.append(bullets(sentences(report)))
    parts += [some.markdown() for some in run_tables(report) + detail_tables(report)]
    return '\n\n'.join(part for part in parts if part) + '\n'


def latex(report: Report, more: list[Table] = ()) -> str:
    # The reminder is a LaTeX comment, so that a paper can \input the file as it is.
    shown = [*verdict_tables(report), *more, *run_tables(report), *detail_tables(report)]
    return '% needs \\usepackage{booktabs}\n' + '\n\n'.join(some.latex() for some in shown) + '\n'


def bullets(lines: list[str]) -> str:
    return '\n'.join(f'- {escaped(line)}' for line in lines)


# ------------------------------------------------------------------------------------------------------------
# sentences


def answer(report: Report) -> str:
    """What the declared questions came to, in one sentence a verdict."""
    by_word = {}
    for one in report.declared:
        by_word.setdefault(one.word, []).append(one)
    parts = []
    for word, what in HEADS.items():
        found = by_word.get(word, [])
        names = [place_of(one) + (in_brackets(one) if len(found) <= FEW else '') for one in found]
        if len(found) > 2 * FEW:
            names = [f'{len(found)} of {len(report.declared)}']
        if found:
            parts.append(f'{what}: {"; ".join(names)}.')
    return ' '.join(parts) or 'Nothing is judged.'


def in_brackets(one: Comparison) -> str:
    """What stands behind a word: the cost, or the difference where there is no cost, or why there is
    neither."""
    cost, difference = shown(one)
    if cost:
        return f" ({interval(cost, '.2f')} of {one.opponent}'s compute for the same loss)"
    if difference:
        return f' ({interval(difference, "+.4f")} nats beside {one.opponent})'
    return f' ({one.why})' if one.why else ''


def counts(report: Report) -> str:
    """How many comparisons were declared, how many looks were taken, and what is exploration."""
    n, rest = len(report.declared), len(report.comparisons) - len(report.declared)
    told = [f'{n} question{"s" if n != 1 else ""} declared']
    if report.looks > 1:
        taken = max(one.looks for one in report.declared)
        told.append(f'looks taken: {taken} of at most {report.looks}, and each p is multiplied by '
                    f'{report.looks}')
    if n > 1:
        told.append("p corrected over them by Holm's method")
    if rest:
        told.append(f'the other {rest} comparison{"s are" if rest > 1 else " is"} exploration, with '
                    'uncorrected p and no verdict')
    return '; '.join(told) + '.'


def sentences(report: Report, limited: bool = False) -> list[str]:
    """One sentence a comparison: its verdict, or why it has none, and what limits it; `limited`: only of
    those of which a row of a table leaves something out."""
    found = []
    for one in report.comparisons:
        if limited and not (one.why or one.caution or (one.word == 'open' and one.needs)):
            continue
        words = WORDS.get(one.word) or (f'no verdict: {one.why}' if one.why else 'exploration')
        parts = [f'{place_of(one)}: {words}{in_brackets(one) if any(shown(one)) else ""}']
        if one.why and one.word:
            parts.append(f'the next look waits: {one.why}')
        elif one.word == 'open' and one.needs:
            parts.append(f'asks for seed {", ".join(map(str, one.needs))}')
        if one.caution:
            parts.append(one.caution)
        for name in one.disagree:
            parts.append(f'{name} is better where the loss is worse')
        found.append('; '.join(parts))
    return found


# ------------------------------------------------------------------------------------------------------------
# the verdicts


def verdict_tables(report: Report) -> list[Table]:
    """The declared questions, what is exploration, and other validation sets."""
    found = []
    declared = report.declared
    rest = [one for one in report.comparisons if not one.declared]
    for title, some, p in (('Declared questions', declared, 'corrected p'), ('Exploration', rest, 'p')):
        if some:
            found.append(comparison_table(title, some, p))
    return found + [some for some in (other_losses_table(report),) if some]


def comparison_table(title: str, comparisons: list[Comparison], p: str) -> Table:
    is_judged = p != 'p'
    beside = any(one.to_full_depth for one in comparisons)
    lines = []
    for one in comparisons:
        words = (one.word or 'no answer') if is_judged else None
        cost, difference = shown(one)
        line = [place_of(one), one.opponent or '-', words, interval(cost, '.2f'),
                interval(difference, '+.4f'), p_value(one.corrected if is_judged else one.p)]
        if beside:
            full = one.to_full_depth
            line.append(interval(full.difference, '+.4f') if full else '')
        lines.append([cell for cell in line if cell is not None])
    header = ['run', 'opponent', *(['verdict'] if is_judged else []), 'compute for the same loss',
              'loss difference', p, *(['beside full depth'] if beside else [])]
    note = ("Compute for the same loss: the run's over the opponent's. Loss difference: nats per token at "
            'equal compute, run minus opponent, [95%].')
    if beside:
        note += ' The opponent is the best arm that does not grow; beside full depth: the difference to that.'
    return Table(title, header, lines, 'l' * (2 + is_judged) + 'r' * (3 + beside), note)


def other_losses_table(report: Report) -> Table | None:
    """Losses on the other validation sets (val_dirs), run minus opponent; None without any."""
    lines = []
    for one in report.comparisons:
        for name, difference in other_differences(one).items():
            mean, sd = mean_and_sd(other_losses(one.group, name))
            lines.append([place_of(one), name, with_error(mean, sd), interval(difference, '+.4f')])
    if not lines:
        return None
    header = ['run', 'set', 'loss ± sd', 'loss difference']
    return Table('Loss on other validation sets', header, lines, 'llrr')


def other_losses(group: Group, name: str) -> list[float]:
    """Loss on another validation set at the end of each seed that is done; [] unless all have it."""
    losses = []
    for run in group.done:
        evals, _ = run.evals()
        losses.append(evals[-1].get(f'val_loss_{name}'))
    return [] if None in losses else losses


def other_differences(one: Comparison) -> dict[str, Interval]:
    """{name of another validation set: its loss, run minus opponent}."""
    if one.difference is None:
        return {}
    found = {}
    for name in [entry.partition(':')[0] for entry in one.group.config.val_dirs]:
        mine, theirs = other_losses(one.group, name), other_losses(one.against, name)
        if mine and theirs:
            is_pairs = one.how == 'pairs' and len(mine) == len(theirs)
            found[name] = (stats.paired if is_pairs else stats.welch)(mine, theirs)
    return found


# ------------------------------------------------------------------------------------------------------------
# the runs


def run_tables(report: Report) -> list[Table]:
    """Which runs there are: costs and losses, scores, what isn't done."""
    return [some for some in (runs_table(report), scores_table(report), lost_table(report)) if some]


def label(group: Group, report: Report) -> str:
    return group.name + (' (baseline)' if report.is_baseline(group) else '')


def runs_table(report: Report) -> Table:
    """One row a group, with its final loss."""
    lines = []
    for group in report.groups:
        last = group.last()
        seeds = f'{len(group.done)} of {len(group.runs)}' if group.lost else str(len(group.runs))
        costs = [number(last[name], '.3g') for name in ('tokens', 'flops', 'flops_paper')]
        lines.append([label(group, report), describe(group.runs[0]), seeds, *costs,
                      duration(last['seconds']), with_error(last['val_loss'], last['val_loss_sd'])])
    header = ['run', 'schedule', 'seeds', 'tokens', 'FLOPs', '(paper)', 'time', 'val loss ± sd']
    note = ("Losses in nats per token, ± sd over the seeds; (paper): FLOPs by the paper's ledger; time: of "
            'training alone.')
    return Table('Runs', header, lines, 'llrrrrrr', note)


def scores_table(report: Report) -> Table | None:
    """HellaSwag of the groups that are scored at their end, those that disagree with the loss marked."""
    disagree = {}
    for one in report.comparisons:
        disagree.setdefault(id(one.group), set()).update(one.disagree)
    lines = []
    for group in report.groups:
        last = group.last()
        if last['hellaswag_n'] is None:
            continue
        cells = [label(group, report), f'{last["hellaswag_n"]:.0f}']
        for name in SCORES:
            mark = ' !' if f'hellaswag_{name}' in disagree.get(id(group), ()) else ''
            cells.append(with_error(last[name], last[f'{name}_se']) + mark)
        lines.append(cells)
    if not lines:
        return None
    note = '± the standard error of one scoring. Fewer bits are better: they are of the true ending.'
    if any(disagree.values()):
        note += ' !: better than the opponent although the loss is worse, or the other way round.'
    return Table('HellaSwag', ['run', 'questions', *SCORES.values()], lines, 'lrrrr', note)


def lost_table(report: Report) -> Table | None:
    """The runs that aren't done: diverged, stopped, under way."""
    lines = []
    for run in [run for group in report.groups for run in group.lost]:
        share = run.flops(run.step) / run.flops()
        lines.append([run.path, run.ended, f'{run.step:,} of {run.total_steps:,}', f'{share:.0%}'])
    return Table('Not done', ['run', 'ended', 'step', 'of its FLOPs'], lines, 'llrr') if lines else None


# ------------------------------------------------------------------------------------------------------------
# details


def detail_tables(report: Report) -> list[Table]:
    """What belongs into an appendix: costs by every ledger, catching up, scores in pairs, settings."""
    found = [ledgers_table(report), catch_up_table(report), pairs_table(report), *settings_tables(report)]
    return [some for some in found if some]


def ledgers_table(report: Report) -> Table | None:
    """Compute for the same loss by every ledger and the clock."""
    lines = [[place_of(one), *(interval(one.costs.get(axis), '.2f') for axis in AXES)]
             for one in report.comparisons if one.costs]
    if not lines:
        return None
    header = ['run', 'FLOPs', "FLOPs by the paper's ledger", 'time']
    return Table('Compute for the same loss, by ledger', header, lines, 'lrrr')


def asked_about(report: Report) -> list[Comparison]:
    """A comparison of each growing arm that a question asks about, at each of its budgets."""
    arms = {one.arm for one in report.declared}
    return [one for one in report.comparisons if one.arm in arms]


def gaps(one: Comparison, report: Report) -> list[judge.CatchUp]:
    """judge.catch_up() as long as neither side's learning rate decays: later it says when they decay."""
    if one.difference is None:
        return []
    end = min(steady_steps(one.group), steady_steps(one.against))
    return [point for point in judge.catch_up(one, report.sigma) if point.step <= end]


def steady_steps(group: Group) -> float:
    """The first step at which a run's learning rate decays."""
    config = group.config
    if config.lr_schedule == 'constant':
        return math.inf
    return (1 - config.decay_fraction) * group.runs[0].total_steps if config.lr_schedule == 'wsd' else 0


def catch_up_table(report: Report) -> Table | None:
    """The gap to the opponent since the last growth, at a few evaluations of each run."""
    lines = []
    for one in asked_about(report):
        points = gaps(one, report)
        # The gap changes fast at first and slowly later: by equal ratios of what came since.
        chosen = np.unique(np.geomspace(1, max(1, len(points)), CATCH_UP_ROWS).round().astype(int))
        for place in chosen[:len(points)]:
            point = points[place - 1]
            lines.append([place_of(one) if place == 1 else '', f'{point.tokens:.3g}',
                          interval(point.at_tokens, '+.4f'), f'{point.updates:,}',
                          interval(point.at_updates, '+.4f')])
    if not lines:
        return None
    header = ['run', 'tokens', 'gap at equal tokens', 'updates', 'gap at equal updates']
    note = ('Tokens since the last growth; updates at full depth with nothing frozen. Gap: run minus '
            'opponent, nats per token [95%], after as many tokens in all, or as many updates, as long as '
            "neither side's learning rate decays.")
    return Table('Catching up after the last growth', header, lines, 'lrrrr', note)


def pairs_table(report: Report) -> Table | None:
    """HellaSwag question by question, run minus opponent, for each seed that both have."""
    lines = []
    # A study's page comes out of its records alone, which hold no questions: it has no such table.
    for one in report.comparisons:
        mine = one.group.done if one.group else []
        theirs = one.against.done if one.against else []
        for seed, pair in paired.by_seed(mine, theirs):
            only = f'{pair.acc_norm_only_second}:{pair.acc_norm_only_first}'  # the run is the second
            lines.append([f'{place_of(one)}, seed {seed}', f'{pair.n:,}',
                          f'{pair.bits:+.4f} ± {number(pair.bits_stderr, ".4f")}', f'{pair.acc_norm:+.4f}',
                          only, p_value(pair.acc_norm_p)])
    if not lines:
        return None
    note = ("p: McNemar's exact test of acc_norm. Two models are compared here, not two schedules: the noise "
            "of the seeds isn't in it.")
    header = ['run', 'questions', 'bits ± se', 'acc_norm', 'only one right', 'p']
    return Table('HellaSwag question by question, run minus opponent', header, lines, 'lrrrrr', note)


def setting_of(config: TrainConfig, name: str) -> str:
    """A setting as text; of a path the last two parts, since the rest is this machine's."""
    value = setting(getattr(config, name))
    return '/'.join(value.split(os.sep)[-2:]) if FIELDS[name].metadata['path'] else value


def settings_tables(report: Report) -> list[Table]:
    """(what differs between the runs, what all share): their settings, code, versions and machine."""
    by_fact = {}  # fact: value: names of the groups that have it
    for group in report.groups:
        for run in group.runs:
            values = {name: setting_of(run.config, name) for name in FIELDS if name not in NOT_SHOWN}
            for name, value in (values | judge.provenance(run)).items():
                owners = by_fact.setdefault(name, {}).setdefault(value, [])
                if group.name not in owners:
                    owners.append(group.name)
    differing, shared = [], []
    for name, values in by_fact.items():
        if len(values) == 1:
            shared.append([name, *values])
            continue
        for k, (value, owners) in enumerate(values.items()):
            # An empty cell would read as a missing value.
            differing.append([name if k == 0 else '', value or "''", '; '.join(owners)])
    found = []
    if differing:
        found.append(Table('What differs', ['setting', 'value', 'runs'], differing, 'lll'))
    return [*found, Table('What all runs share', ['setting', 'value'], shared, 'll')]


# ------------------------------------------------------------------------------------------------------------
# the trend over sizes


@dataclass(frozen=True)
class Cell:
    """An arm's cost at one scale and budget, as predicted by its trend and as measured."""

    scale: str
    budget: float  # tokens a parameter
    size: int  # parameters
    predicted: Interval
    measured: Interval | None
    is_held_out: bool


@dataclass(frozen=True)
class Trend:
    """log cost = a + b log N + c log (tokens a parameter) of an arm."""

    arm: str
    terms: tuple  # a, b, c as Interval
    cells: list[Cell]


def trends(report: Report, sizes: dict[str, int], held_out: tuple, coming: list[tuple]) -> list[Trend]:
    """The trend of each arm whose costs are known at enough cells, fitted where nothing is held out.

    `sizes`: parameters of each scale; `coming`: (arm, scale, budget) of what is predicted before it runs. """
    found = []
    for arm in dict.fromkeys(one.arm for one in report.comparisons):
        costs = {(one.scale, one.budget): one.cost for one in report.comparisons
                 if one.arm == arm and shown(one)[0]}
        fitted = {cell: cost for cell, cost in costs.items()
                  if cell[0] not in held_out and 0 < cost.low <= cost.high < math.inf}
        x = design(fitted, sizes)
        if len(fitted) < 4 or np.linalg.matrix_rank(x) < 3:
            continue  # three numbers from three cells would have no interval
        ends = np.log([[cost.value, cost.low, cost.high] for cost in fitted.values()])
        fit = stats.weighted_fit(x, ends[:, 0], (ends[:, 2] - ends[:, 1]) / 2)
        asked = dict.fromkeys([*costs, *(cell[1:] for cell in coming if cell[0] == arm)])
        cells = []
        for scale, budget in asked:
            guess = fit.predict(design([(scale, budget)], sizes)[0])
            predicted = Interval(*(math.exp(end) for end in (guess.value, guess.low, guess.high)))
            cells.append(Cell(scale, budget, sizes[scale], predicted, costs.get((scale, budget)),
                              scale in held_out))
        found.append(Trend(arm, tuple(fit.term(k) for k in range(3)), cells))
    return found


def design(cells, sizes: dict[str, int]) -> np.ndarray:
    lines = [[1.0, math.log(sizes[scale]), math.log(budget)] for scale, budget in cells]
    return np.array(lines).reshape(-1, 3)


def trend_tables(found: list[Trend]) -> list[Table]:
    """The slopes, and what they predict beside what was measured."""
    if not found:
        return []
    slopes, cells = [], []
    for trend in found:
        slopes.append([trend.arm, *(interval(term, '+.3f') for term in trend.terms)])
        for cell in trend.cells:
            what = 'held out' if cell.is_held_out else 'fitted'
            cells.append([trend.arm, cell.scale, f'{cell.budget:g}', what,
                          interval(cell.predicted, '.2f'), interval(cell.measured, '.2f')])
    note = ('log cost = a + b log N + c log (tokens a parameter), natural logarithms, N parameters without '
            'embeddings; least squares weighted by the intervals. b below 0: growing pays more in larger '
            'models; c above 0: less in longer training.')
    first = Table('Trend of the compute for the same loss', ['arm', 'a', 'b', 'c'], slopes, 'lrrr', note)
    header = ['arm', 'scale', 'tokens a parameter', '', 'predicted', 'measured']
    return [first, Table('Predicted and measured compute for the same loss', header, cells, 'llrlrr')]


# ------------------------------------------------------------------------------------------------------------
# for other programs


def rows(report: Report, found: list[Trend] = ()) -> list[dict]:
    """All numbers, unrounded, one row a comparison, one for each group that has none, and one a trend."""
    made = judge.rows(report)
    for row, one in zip(made, report.comparisons):
        for name, difference in other_differences(one).items():
            row |= judge.numbers(f'val_loss_{name}:difference', difference)
    by_place = {(row['arm'], row['scale'], row['budget']): row for row in made}
    for trend in found:
        for cell in trend.cells:
            place = (trend.arm, cell.scale, cell.budget)
            if place not in by_place:
                by_place[place] = {'run': trend.arm, 'arm': trend.arm, 'scale': cell.scale,
                                   'budget': cell.budget}
                made.append(by_place[place])
            by_place[place] |= judge.numbers('predicted', cell.predicted)
        slopes = {}
        for name, term in zip('abc', trend.terms):
            slopes |= judge.numbers(f'trend:{name}', term)
        made.append({'run': f'{trend.arm}: trend', 'arm': trend.arm, **slopes})
    return made


def as_csv(some_rows: list[dict]) -> str:
    import pandas  # here: half a second that the tables alone don't need

    cells = [{key: in_cell(value) for key, value in row.items()} for row in some_rows]
    # As they are: a column with gaps would turn its whole numbers into others.
    return pandas.DataFrame(cells, dtype=object).to_csv(index=False, lineterminator='\n')


def in_cell(value):
    """Text that a spreadsheet doesn't take for a formula, on one line."""
    if type(value) is not str:
        return value
    value = ' '.join(value.split())
    return f"'{value}" if value.startswith(('=', '+', '-', '@')) else value
