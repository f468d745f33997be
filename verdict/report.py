"""
A judge.Report as text: what compare.py prints, and the parts of a study's page.

    text(report), markdown(report), latex(report)      all of it
    answer(report), counts(report) -> str              the declared questions, answered and counted
    sentences(report) -> list[str]                     one a comparison that has more to say than a row
    verdict_tables(report), run_tables(report) -> list[Table]
    trends(report, sizes, held_out) -> list[Trend]     how the cost goes with size and with tokens a parameter
    rows(report), as_csv(rows)                         all numbers, unrounded

Tables are tabulate's, as text, as Markdown and as LaTeX; their cells are finished text.
"""

import itertools
import math
import re
import textwrap
from dataclasses import dataclass

import numpy as np

from core.common import table
from verdict import paired, stats
from verdict.judge import Comparison, Report
from verdict.runs import AXES, COUNTERS, Group
from verdict.stats import Interval

WIDEST = 28  # characters of a column of words on a terminal
FEW = 3  # findings of a kind that one sentence names with their numbers
SCORES = {'bits': 'bits a byte', 'acc_norm': 'acc_norm', 'margin': 'margin'}  # bits agrees with the loss best
WORDS = {'saves': 'Saves compute', 'costs': 'Costs compute', 'same': 'Makes no difference', 'open': 'Open',
         '': 'No answer'}

@dataclass
class Table:
    """Rows of equal keys, which are the header, under a title. `align`: 'l' or 'r' for the first columns, the
    others are right-aligned."""

    title: str
    rows: list[dict[str, str]]
    align: str
    note: str = ''

    def draw(self, style: str, to_cell=str) -> str:
        header, *lines = [self.rows[0], *(row.values() for row in self.rows)]
        cells = [list(map(to_cell, line)) for line in lines]
        return table(list(map(to_cell, header)), cells, self.align.ljust(len(header), 'r'), style)

    def text(self) -> str:
        """For a terminal."""
        return joined([self.title, self.draw('simple', wrapped), textwrap.fill(self.note, 100)], '\n')

    def markdown(self) -> str:
        """As code hosts render it."""
        return joined([f'**{escaped(self.title)}**', self.draw('pipe', escaped), escaped(self.note)])

    def latex(self) -> str:
        """A table environment with booktabs' rules."""
        note = rf'\par\footnotesize {in_latex(self.note)}' if self.note else ''
        caption = rf'\caption{{{in_latex(self.title)}}}'
        return joined([r'\begin{table}', r'\centering', caption, self.draw('latex_booktabs'), note,
                       r'\end{table}'], '\n').replace('±', r'$\pm$')

def joined(parts: list[str], between: str = '\n\n') -> str:
    """What there is of some parts, as one text."""
    return between.join(part for part in parts if part)

def with_rows(*tables: Table) -> list[Table]:
    return [some for some in tables if some.rows]

def wrapped(cell: str) -> str:
    # tabulate breaks lines where a cell has them.
    return '\n'.join(textwrap.wrap(cell, WIDEST, break_on_hyphens=False))

def escaped(cell: str) -> str:
    """A cell or a sentence for Markdown, on one line."""
    return ' '.join(re.sub(r'([\\|*_<`$~])', r'\\\1', cell).split())

def in_latex(sentence: str) -> str:
    """A title or a note of ours."""
    return re.sub(r'([&%$#_{}])', r'\\\1', sentence)

def number(value: float | None, form: str) -> str:
    """A number in a format; '-' for None and nan."""
    return '-' if value is None or math.isnan(value) else format(value, form)

def interval(found: Interval | None, form: str) -> str:
    """1.18 [1.07, 1.28]; the value alone where it has no interval, '-' for None."""
    text = number(found and found.value, form)
    if text == '-' or math.isnan(found.low):
        return text
    return f'{text} [{found.low:{form}}, {found.high:{form}}]'

def with_error(value: float | None, error: float | None) -> str:
    return number(value, '.4f') + (f' ± {error:.4f}' if error is not None else '')

def p_value(p: float | None) -> str:
    return '<.0001' if p is not None and p < 1e-4 else number(p, '.2g')

def shown(one: Comparison) -> tuple[Interval | None, Interval | None]:
    """(cost, loss difference) as far as they stand: not of the seeds that survived."""
    return (None, None) if 'diverged' in one.why else (one.cost, one.difference)

def text(report: Report, full: bool = False) -> str:
    """For a terminal: the runs, what to know before believing a verdict, then the verdicts."""
    parts = [some.text() for some in run_tables(report)]
    parts += [f'note: {note}' for note in report.notes]
    parts += [some.text() for some in verdict_tables(report)]
    if full:
        parts += [some.text() for some in with_rows(pairs_table(report))]
    return '\n\n'.join([*parts, '\n'.join([*sentences(report), counts(report), answer(report)])])

def markdown(report: Report) -> str:
    parts = [escaped(answer(report)), escaped(counts(report)), bullets(report.notes)]
    parts += [some.markdown() for some in verdict_tables(report)]
    parts.append(bullets(sentences(report)))
    more = run_tables(report) + with_rows(pairs_table(report))
    return joined([*parts, *(some.markdown() for some in more)]) + '\n'

def latex(report: Report) -> str:
    # The reminder is a LaTeX comment, so that a paper can \input the file as it is.
    shown = verdict_tables(report) + run_tables(report)
    return '% needs \\usepackage{booktabs}\n' + '\n\n'.join(some.latex() for some in shown) + '\n'

def bullets(lines: list[str]) -> str:
    return '\n'.join(f'- {escaped(line)}' for line in lines)

def answer(report: Report) -> str:
    """What the declared questions came to, in one sentence a verdict."""
    parts = []
    for word, what in WORDS.items():
        found = [one for one in report.declared if one.word == word]
        names = [one.name for one in found]
        if len(found) <= FEW:
            names = [one.name + in_brackets(one) for one in found]
        elif len(found) > 2 * FEW:
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
    planned = max((one.planned for one in report.declared), default=0)
    if planned > 1:
        taken = max(one.looks for one in report.declared)
        told.append(f'looks taken: {taken} of at most {planned}, and each p is multiplied by {planned}')
    if n > 1:
        told.append("p corrected over them by Holm's method")
    if rest:
        told.append(f'the other {rest} comparison{"s are" if rest > 1 else " is"} exploration, with '
                    'uncorrected p and no verdict')
    return '; '.join(told) + '.'

def sentences(report: Report) -> list[str]:
    """What limits a comparison, or why it has no verdict: one sentence for each that has more to say than its
    row of a table."""
    found = []
    for one in report.comparisons:
        asks = one.word == 'open' and one.needs
        if not (one.why or one.caution or asks):
            continue
        parts = [WORDS[one.word].lower() if one.word else 'exploration']
        if one.why:
            parts = [f'{parts[0]}; the next look waits: {one.why}' if one.word else f'no verdict: {one.why}']
        elif asks:
            parts.append(f'asks for seed {", ".join(map(str, one.needs))}')
        if one.caution:
            parts.append(one.caution)
        found.append(f'{one.name}: {"; ".join(parts)}')
    return found

def verdict_tables(report: Report) -> list[Table]:
    """The declared questions, and what is exploration."""
    rest = [one for one in report.comparisons if not one.declared]
    return with_rows(comparison_table('Declared questions', report.declared),
                     comparison_table('Exploration', rest))

def comparison_table(title: str, comparisons: list[Comparison]) -> Table:
    is_judged = any(one.declared for one in comparisons)
    is_beside = any(one.to_full_depth for one in comparisons)
    rows = []
    for one in comparisons:
        cost, difference = shown(one)
        row = {'run': one.name, 'opponent': one.opponent or '-'}
        if is_judged:
            row['verdict'] = one.word or 'no answer'
        row['compute for the same loss'] = interval(cost, '.2f')
        row['loss difference'] = interval(difference, '+.4f')
        row['corrected p' if is_judged else 'p'] = p_value(one.corrected if is_judged else one.p)
        if is_beside:
            full_depth = one.to_full_depth
            row['beside full depth'] = interval(full_depth.difference, '+.4f') if full_depth else ''
        rows.append(row)
    note = ''
    if is_judged:
        note = ("Compute for the same loss: the run's over the opponent's. Loss difference: nats per token "
                'at equal compute, run minus opponent, [95%].')
    if is_beside:
        note += ' The opponent is the best arm that does not grow; beside full depth: the difference to that.'
    return Table(title, rows, 'lll' if is_judged else 'll', note)

def run_tables(report: Report) -> list[Table]:
    """Which runs there are: costs and losses, and scores."""
    return with_rows(runs_table(report), scores_table(report))

def label(group: Group, report: Report) -> str:
    return group.name + ' (baseline)' * (group in report.baselines)

def runs_table(report: Report) -> Table:
    """One row a group, with its final loss, and those on other validation sets."""
    others = list(dict.fromkeys(itertools.chain(*(group.other_sets for group in report.groups))))
    rows = []
    for group in report.groups:
        last = group.last()
        seeds = str(len(group.runs))
        if group.lost:
            how = ', '.join(f'{run.seed} {run.ended}' for run in group.lost)
            seeds = f'{len(group.done)} of {seeds}: {how}'
        row = {'run': label(group, report), 'depths': '-'.join(map(str, group.depths)), 'seeds': seeds}
        for name, column in (('tokens', 'tokens'), ('flops', 'FLOPs'), ('flops_paper', '(paper)')):
            row[column] = number(last[name], '.3g')
        row['minutes'] = number(last['seconds'] / 60 if group.done else None, '.3g')
        row['val loss ± sd'] = with_error(last['val_loss'], last['val_loss_sd'])
        for name in others:
            row[name] = with_error(last.get(f'val_loss_{name}'), last.get(f'val_loss_{name}_sd'))
        rows.append(row)
    note = ("Losses in nats per token, ± sd over the seeds; (paper): FLOPs by the paper's ledger; "
            'minutes: of training alone.')
    return Table('Runs', rows, 'll', note)

def scores_table(report: Report) -> Table:
    """HellaSwag of the groups that are scored at their end, those that disagree with the loss marked."""
    marked = set()
    for one in report.comparisons:
        marked |= {(one.group, name) for name in one.disagree}
    rows = []
    for group in report.groups:
        last = group.last()
        if last['hellaswag_n'] is None:
            continue
        row = {'run': label(group, report), 'questions': f'{last["hellaswag_n"]:.0f}'}
        for name, column in SCORES.items():
            mark = ' !' if (group, f'hellaswag_{name}') in marked else ''
            row[column] = with_error(last[name], last[f'{name}_se']) + mark
        rows.append(row)
    note = '± the standard error of one scoring. Fewer bits are better: they are of the true ending.'
    if marked:
        note += ' !: better than the opponent although the loss is worse, or the other way round.'
    return Table('HellaSwag', rows, 'l', note)

def pairs_table(report: Report) -> Table:
    """HellaSwag question by question, run minus opponent, for each seed that both have. Not on a study's
    page, which comes out of its records alone: these hold no questions."""
    rows = []
    for one in report.comparisons:
        mine = one.group.done if one.group else []
        theirs = one.against.done if one.against else []
        for seed, pair in paired.by_seed(mine, theirs):
            rows.append({'run': f'{one.name}, seed {seed}', 'questions': f'{pair["n"]:,}',
                         'bits ± se': f'{pair["bits"]:+.4f} ± {number(pair["bits_stderr"], ".4f")}',
                         'acc_norm': f'{pair["acc_norm"]:+.4f}',
                         # The run is the second.
                         'only one right': f'{pair["acc_norm_only_second"]}:{pair["acc_norm_only_first"]}',
                         'p': p_value(pair['acc_norm_p'])})
    note = ("p: McNemar's exact test of acc_norm. Two models are compared here, not two schedules: the noise "
            "of the seeds isn't in it.")
    return Table('HellaSwag question by question, run minus opponent', rows, 'l', note)

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
        of_arm = [one for one in report.comparisons if one.arm == arm and shown(one)[0]]
        costs = {(one.scale, one.budget): one.cost for one in of_arm}
        fitted = {cell: cost for cell, cost in costs.items()
                  if cell[0] not in held_out and 0 < cost.low <= cost.high < math.inf}
        x = design(fitted, sizes)
        if len(fitted) < 4 or np.linalg.matrix_rank(x) < 3:
            continue  # three numbers from three cells would have no interval
        ends = np.log([[cost.value, cost.low, cost.high] for cost in fitted.values()])
        fit = stats.weighted_fit(x, ends[:, 0], (ends[:, 2] - ends[:, 1]) / 2)
        cells = []
        for scale, budget in dict.fromkeys([*costs, *(cell[1:] for cell in coming if cell[0] == arm)]):
            guess = fit.predict(design([(scale, budget)], sizes)[0])
            predicted = Interval(*np.exp([guess.value, guess.low, guess.high]))
            cells.append(Cell(scale, budget, sizes[scale], predicted, costs.get((scale, budget)),
                              scale in held_out))
        found.append(Trend(arm, tuple(fit.term(k) for k in range(3)), cells))
    return found

def design(cells, sizes: dict[str, int]) -> np.ndarray:
    lines = [[1.0, math.log(sizes[scale]), math.log(budget)] for scale, budget in cells]
    return np.array(lines).reshape(-1, 3)

def trend_tables(found: list[Trend]) -> list[Table]:
    """The slopes, and what they predict beside what was measured."""
    slopes, cells = [], []
    for trend in found:
        slopes.append({'arm': trend.arm} | {name: interval(term, '+.3f')
                                            for name, term in zip('abc', trend.terms)})
        for cell in trend.cells:
            cells.append({'arm': trend.arm, 'scale': cell.scale, 'tokens a parameter': f'{cell.budget:g}',
                          '': 'held out' if cell.is_held_out else 'fitted',
                          'predicted': interval(cell.predicted, '.2f'),
                          'measured': interval(cell.measured, '.2f')})
    note = ('log cost = a + b log N + c log (tokens a parameter), natural logarithms, N parameters without '
            'embeddings; least squares weighted by the intervals. b below 0: growing pays more in larger '
            'models; c above 0: less in longer training.')
    return with_rows(Table('Trend of the compute for the same loss', slopes, 'l', note),
                     Table('Predicted and measured compute for the same loss', cells, 'llrl'))

def curve_rows(report: Report) -> list[dict]:
    """Every evaluation of every run, one row each, with the run's place beside it."""
    made = []
    for group in report.groups:
        for run in group.runs:
            for record in run.evals:
                row = {'run': run.path, **group.place._asdict(), 'seed': run.seed}
                row |= {name: record[name] for name in (*COUNTERS, 'val_loss')}
                made.append(row | {name: record[name] for name in record if name.startswith('hellaswag_')})
    return made

def rows(report: Report, found: list[Trend] = ()) -> list[dict]:
    """All numbers, unrounded, one row a comparison, one for each group that has none, and one a trend; None
    where there is none."""
    made = []
    for one in report.comparisons:
        made.append(group_row(one, one.group, report) | comparison_row(one))
    compared = [one.group for one in report.comparisons]
    made += [group_row(group, group, report) for group in report.groups if group not in compared]
    by_place = {(row['arm'], row['scale'], row['budget']): row for row in made}
    for trend in found:
        for cell in trend.cells:
            place = {'arm': trend.arm, 'scale': cell.scale, 'budget': cell.budget}
            key = tuple(place.values())
            if key not in by_place:
                by_place[key] = {'run': trend.arm, **place}
                made.append(by_place[key])
            by_place[key] |= numbers('predicted', cell.predicted)
        made.append({'run': f'{trend.arm}: trend', 'arm': trend.arm})
        for name, term in zip('abc', trend.terms):
            made[-1] |= numbers(f'trend:{name}', term)
    return list(map(without_nan, made))

def group_row(place: Comparison | Group, group: Group | None, report: Report) -> dict:
    row = {'run': group.name if group else place.arm, 'arm': place.arm, 'scale': place.scale,
           'budget': place.budget}
    if group:
        row |= {'directories': ' '.join(run.path for run in group.runs),
                'baseline': int(group in report.baselines),
                'ended': ' '.join(run.ended for run in group.runs), **group.last()}
    return row

def comparison_row(one: Comparison) -> dict:
    row = {'judged_by': one.opponent, 'declared': int(one.declared), 'looks': one.looks, 'verdict': one.word,
           'why': one.why, 'how': one.how, 'at': one.at, 'p': one.p, 'corrected': one.corrected,
           'caution': one.caution, 'disagree': ' '.join(one.disagree)}
    row |= numbers('difference', one.difference)
    for axis in AXES:
        row |= numbers(f'{axis}:cost', one.costs.get(axis))
    row |= numbers('to_full_depth', one.to_full_depth and one.to_full_depth.difference)
    return row

def numbers(name: str, found: Interval | None) -> dict:
    found = found or Interval(math.nan, math.nan, math.nan)
    return {name: found.value, f'{name}_low': found.low, f'{name}_high': found.high}

def without_nan(row: dict) -> dict:
    """None for what is no number, since JSON has none."""
    finite = {}
    for key, value in row.items():
        finite[key] = None if isinstance(value, float) and not math.isfinite(value) else value
    return finite

def as_csv(some_rows: list[dict]) -> str:
    import pandas  # here: half a second that the tables alone don't need

    cells = [dict(zip(row, map(in_cell, row.values()))) for row in some_rows]
    # As they are: a column with gaps would turn its whole numbers into others.
    return pandas.DataFrame(cells, dtype=object).to_csv(index=False, lineterminator='\n')

def in_cell(value):
    """Text that a spreadsheet doesn't take for a formula, on one line; a number as it is."""
    if type(value) is not str:
        return value
    value = ' '.join(value.split())
    return f"'{value}" if value.startswith(('=', '+', '-', '@')) else value
