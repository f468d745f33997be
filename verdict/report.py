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

from config import FIELDS
from core.common import table
from verdict import paired, stats
from verdict.judge import Comparison, Report, provenance
from verdict.runs import AXES, COUNTERS, TRAINING, Group, Run, mean_and_sd, place_text
from verdict.stats import Interval

MACHINE = ('code', 'torch', 'device', 'dtype')  # said even where all runs share it
WIDEST = 28  # characters of a column of words on a terminal
FEW = 3  # findings of a kind that one sentence names with their numbers
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
        note = textwrap.fill(self.note, 100)
        return joined([self.title, table(self.header, lines, self.align), note], '\n')

    def markdown(self) -> str:
        """As code hosts render it."""
        header, *lines = [list(map(escaped, line)) for line in (self.header, *self.lines)]
        return joined([f'**{escaped(self.title)}**', table(header, lines, self.align, 'pipe'),
                       escaped(self.note)])

    def latex(self) -> str:
        """A table environment with booktabs' rules."""
        inside = table(self.header, self.lines, self.align, 'latex_booktabs').replace('±', r'$\pm$')
        note = rf'\par\footnotesize {in_latex(self.note)}' if self.note else ''
        caption = rf'\caption{{{in_latex(self.title)}}}'
        return joined([r'\begin{table}', r'\centering', caption, inside, note, r'\end{table}'], '\n')


def joined(parts: list[str], between: str = '\n\n') -> str:
    """What there is of some parts, as one text."""
    return between.join(part for part in parts if part)


def wrapped(cell: str) -> str:
    # tabulate breaks lines where a cell has them.
    return '\n'.join(textwrap.wrap(cell, WIDEST, break_on_hyphens=False))


def escaped(cell: str) -> str:
    """A cell or a sentence for Markdown, on one line."""
    return ' '.join(re.sub(r'([\\|*_<`$~])', r'\\\1', cell).split())


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
    return '<.0001' if p is not None and p < 1e-4 else number(p, '.2g')


def shown(one: Comparison) -> tuple[Interval | None, Interval | None]:
    """(cost, loss difference) as far as they stand: not of the seeds that survived."""
    return (None, None) if 'diverged' in one.why else (one.cost, one.difference)


def place_of(one: Comparison) -> str:
    return one.group.name if one.group else place_text(one.arm, one.scale, one.budget)


def describe(run: Run) -> str:
    """The depths that a run goes through: 2-3-5-6."""
    # A checkpoint's depth is the first step of the staircase, though no phase of this plan has it.
    depths = [run.config.init_depth] if run.config.init_depth else []
    depths += [phase.depth for phase in run.plan.phases]
    return '-'.join(str(depth) for depth, _ in itertools.groupby(depths))


# ------------------------------------------------------------------------------------------------------------
# all of it


def text(report: Report, full: bool = False) -> str:
    """For a terminal: the runs, what to know before believing a verdict, then the verdicts."""
    parts = [some.text() for some in run_tables(report)]
    parts += [f'note: {note}' for note in report.notes]
    shown = verdict_tables(report)
    if full:
        shown += with_lines(pairs_table(report)) + detail_tables(report)
    parts += [some.text() for some in shown]
    return '\n\n'.join([*parts, '\n'.join([*sentences(report), counts(report), answer(report)])])


def markdown(report: Report) -> str:
    parts = [escaped(answer(report)), escaped(counts(report)), bullets(report.notes)]
    parts += [some.markdown() for some in verdict_tables(report)]
    parts.append(bullets(sentences(report, limited=True)))
    more = run_tables(report) + with_lines(pairs_table(report)) + detail_tables(report)
    parts += [some.markdown() for some in more]
    return joined(parts) + '\n'


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
    parts = []
    for word, what in HEADS.items():
        found = [one for one in report.declared if one.word == word]
        names = [place_of(one) for one in found]
        if len(found) <= FEW:
            names = [place_of(one) + in_brackets(one) for one in found]
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


def sentences(report: Report, limited: bool = False) -> list[str]:
    """One sentence a comparison: its verdict, or why it has none, and what limits it; `limited`: only of
    those of which a row of a table leaves something out."""
    found = []
    for one in report.comparisons:
        asks = one.word == 'open' and one.needs
        if limited and not (one.why or one.caution or asks):
            continue
        words = WORDS.get(one.word) or (f'no verdict: {one.why}' if one.why else 'exploration')
        parts = [f'{place_of(one)}: {words}']
        if any(shown(one)) and not limited:  # which the row of the table has
            parts[0] += in_brackets(one)
        if one.why and one.word:
            parts.append(f'the next look waits: {one.why}')
        elif asks:
            parts.append(f'asks for seed {", ".join(map(str, one.needs))}')
        if one.caution:
            parts.append(one.caution)
        parts += [f'{name} is better where the loss is worse' for name in one.disagree]
        found.append('; '.join(parts))
    return found


# ------------------------------------------------------------------------------------------------------------
# the verdicts


def verdict_tables(report: Report) -> list[Table]:
    """The declared questions, and what is exploration."""
    rest = [one for one in report.comparisons if not one.declared]
    return with_lines(comparison_table('Declared questions', report.declared),
                      comparison_table('Exploration', rest))


def with_lines(*tables: Table) -> list[Table]:
    return [some for some in tables if some.lines]


def comparison_table(title: str, comparisons: list[Comparison]) -> Table:
    is_judged = any(one.declared for one in comparisons)
    beside = any(one.to_full_depth for one in comparisons)
    others = all_sets([one.group for one in comparisons])
    lines = []
    for one in comparisons:
        cost, difference = shown(one)
        line = [place_of(one), one.opponent or '-']
        if is_judged:
            line.append(one.word or 'no answer')
        line += [interval(cost, '.2f'), interval(difference, '+.4f')]
        line.append(p_value(one.corrected if is_judged else one.p))
        if beside:
            line.append(interval(one.to_full_depth.difference, '+.4f') if one.to_full_depth else '')
        differences = other_differences(one)
        line += [interval(differences.get(name), '+.4f') for name in others]
        lines.append(line)
    header = ['run', 'opponent', *['verdict'] * is_judged, 'compute for the same loss', 'loss difference',
              'corrected p' if is_judged else 'p', *['beside full depth'] * beside]
    header += [f'difference on {name}' for name in others]
    note = ''
    if is_judged:
        note = ("Compute for the same loss: the run's over the opponent's. Loss difference: nats per token "
                'at equal compute, run minus opponent, [95%].')
    if beside:
        note += ' The opponent is the best arm that does not grow; beside full depth: the difference to that.'
    words = 2 + is_judged
    return Table(title, header, lines, 'l' * words + 'r' * (len(header) - words), note)


def all_sets(groups: list[Group | None]) -> list[str]:
    """The names of the other validation sets (val_dirs) of some groups, each once."""
    entries = itertools.chain(*(group.config.val_dirs for group in groups if group))
    return list(dict.fromkeys(entry.partition(':')[0] for entry in entries))


def other_losses(group: Group, name: str) -> list[float]:
    """Loss on another validation set at the end of each seed that is done; [] unless all have it."""
    losses = [run.evals[-1].get(f'val_loss_{name}') for run in group.done]
    return [] if None in losses else losses


def other_differences(one: Comparison) -> dict[str, Interval]:
    """{name of another validation set: its loss, run minus opponent}."""
    found = {}
    for name in all_sets([one.group]) if one.difference else []:
        mine, theirs = other_losses(one.group, name), other_losses(one.against, name)
        if mine and theirs:
            is_pairs = one.how == 'pairs' and len(mine) == len(theirs)
            found[name] = (stats.paired if is_pairs else stats.welch)(mine, theirs)
    return found


# ------------------------------------------------------------------------------------------------------------
# the runs


def run_tables(report: Report) -> list[Table]:
    """Which runs there are: costs and losses, and scores."""
    return with_lines(runs_table(report), scores_table(report))


def label(group: Group, report: Report) -> str:
    return group.name + (' (baseline)' if report.is_baseline(group) else '')


def runs_table(report: Report) -> Table:
    """One row a group, with its final loss, and those on other validation sets."""
    others = all_sets(report.groups)
    lines = []
    for group in report.groups:
        last = group.last()
        seeds = str(len(group.runs))
        if group.lost:
            how = ', '.join(f'{run.seed} {run.ended}' for run in group.lost)
            seeds = f'{len(group.done)} of {seeds}: {how}'
        line = [label(group, report), describe(group.runs[0]), seeds]
        line += [number(last[name], '.3g') for name in ('tokens', 'flops', 'flops_paper')]
        minutes = last['seconds'] / 60 if group.done else None
        line += [number(minutes, '.3g'), with_error(last['val_loss'], last['val_loss_sd'])]
        line += [with_error(*mean_and_sd(other_losses(group, name))) for name in others]
        lines.append(line)
    header = ['run', 'depths', 'seeds', 'tokens', 'FLOPs', '(paper)', 'minutes', 'val loss ± sd', *others]
    note = ("Losses in nats per token, ± sd over the seeds; (paper): FLOPs by the paper's ledger; "
            'minutes: of training alone.')
    return Table('Runs', header, lines, 'llrrrrrr' + 'r' * len(others), note)


def scores_table(report: Report) -> Table:
    """HellaSwag of the groups that are scored at their end, those that disagree with the loss marked."""
    marked = set()
    for one in report.comparisons:
        marked |= {(one.group, name) for name in one.disagree}
    lines = []
    for group in report.groups:
        last = group.last()
        if last['hellaswag_n'] is None:
            continue
        cells = [label(group, report), f'{last["hellaswag_n"]:.0f}']
        for name in SCORES:
            mark = ' !' if (group, f'hellaswag_{name}') in marked else ''
            cells.append(with_error(last[name], last[f'{name}_se']) + mark)
        lines.append(cells)
    note = '± the standard error of one scoring. Fewer bits are better: they are of the true ending.'
    if marked:
        note += ' !: better than the opponent although the loss is worse, or the other way round.'
    return Table('HellaSwag', ['run', 'questions', *SCORES.values()], lines, 'lrrrr', note)


# ------------------------------------------------------------------------------------------------------------
# details


def detail_tables(report: Report) -> list[Table]:
    """What belongs into an appendix: in what the runs differ."""
    return with_lines(settings_table(report))


def pairs_table(report: Report) -> Table:
    """HellaSwag question by question, run minus opponent, for each seed that both have. Not on a study's
    page, which comes out of its records alone: these hold no questions."""
    lines = []
    for one in report.comparisons:
        mine = one.group.done if one.group else []
        theirs = one.against.done if one.against else []
        for seed, pair in paired.by_seed(mine, theirs):
            only = f'{pair["acc_norm_only_second"]}:{pair["acc_norm_only_first"]}'  # the run is the second
            bits = f'{pair["bits"]:+.4f} ± {number(pair["bits_stderr"], ".4f")}'
            lines.append([f'{place_of(one)}, seed {seed}', f'{pair["n"]:,}', bits,
                          f'{pair["acc_norm"]:+.4f}', only, p_value(pair['acc_norm_p'])])
    note = ("p: McNemar's exact test of acc_norm. Two models are compared here, not two schedules: the noise "
            "of the seeds isn't in it.")
    header = ['run', 'questions', 'bits ± se', 'acc_norm', 'only one right', 'p']
    return Table('HellaSwag question by question, run minus opponent', header, lines, 'lrrrrr', note)


def settings_of(run: Run) -> dict[str, str]:
    """{setting, code, version or part of the machine: its value as text}."""
    found = {}
    for name in TRAINING:
        value = getattr(run.config, name)
        text = '/'.join(map(str, value)) if type(value) is tuple else str(value)
        # Of a path the last two parts, since the rest is this machine's.
        found[name] = '/'.join(text.split(os.sep)[-2:]) if FIELDS[name].metadata['path'] else text
    return found | {'dtype': run.info.get('dtype', run.config.dtype)} | provenance(run)


def settings_table(report: Report) -> Table:
    """In what settings, code, versions and machine the runs differ."""
    by_fact = {}  # fact: value: names of the groups that have it
    for group in report.groups:
        for run in group.runs:
            for name, value in settings_of(run).items():
                by_fact.setdefault(name, {}).setdefault(value, {})[group.name] = None
    lines = []
    for name, values in by_fact.items():
        for value, owners in values.items() if len(values) > 1 else ():
            # An empty cell would read as a missing value.
            lines.append([name, value or "''", '; '.join(owners)])
    alike = [f'{name} {next(iter(by_fact[name]))}' for name in MACHINE if len(by_fact.get(name, ())) == 1]
    note = f'All runs: {", ".join(alike)}.' if alike else ''
    return Table('What differs', ['setting', 'value', 'runs'], lines, 'lll', note)


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
        of_arm = [one for one in report.comparisons if one.arm == arm and shown(one)[0]]
        costs = {(one.scale, one.budget): one.cost for one in of_arm}
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
    title = 'Predicted and measured compute for the same loss'
    return with_lines(first, Table(title, header, cells, 'llrlrr'))


# ------------------------------------------------------------------------------------------------------------
# for other programs


def curve_rows(report: Report) -> list[dict]:
    """Every evaluation of every run, one row each, with the run's place beside it."""
    made = []
    for group in report.groups:
        for run in group.runs:
            where = {'run': run.path, 'arm': group.arm, 'scale': group.scale, 'budget': group.budget,
                     'seed': run.seed}
            for record in run.evals:
                numbers = {name: record[name] for name in (*COUNTERS, 'val_loss')}
                scores = {name: value for name, value in record.items() if name.startswith('hellaswag_')}
                made.append(where | numbers | scores)
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
            place = (trend.arm, cell.scale, cell.budget)
            if place not in by_place:
                by_place[place] = {'run': trend.arm, 'arm': trend.arm, 'scale': cell.scale,
                                   'budget': cell.budget}
                made.append(by_place[place])
            by_place[place] |= numbers('predicted', cell.predicted)
        slopes = {}
        for name, term in zip('abc', trend.terms):
            slopes |= numbers(f'trend:{name}', term)
        made.append({'run': f'{trend.arm}: trend', 'arm': trend.arm, **slopes})
    return list(map(without_nan, made))


def group_row(place: Comparison | Group, group: Group | None, report: Report) -> dict:
    row = {'run': group.name if group else place.arm, 'arm': place.arm, 'scale': place.scale,
           'budget': place.budget}
    if group:
        row |= {'directories': ' '.join(run.path for run in group.runs),
                'baseline': int(report.is_baseline(group)),
                'ended': ' '.join(run.ended for run in group.runs), **group.last()}
    return row


def comparison_row(one: Comparison) -> dict:
    row = {'judged_by': one.opponent, 'declared': int(one.declared), 'looks': one.looks, 'verdict': one.word,
           'why': one.why, 'how': one.how, 'at': one.at, 'p': one.p, 'corrected': one.corrected,
           'caution': one.caution, 'disagree': ' '.join(one.disagree)}
    row |= numbers('difference', one.difference)
    for axis in AXES:
        row |= numbers(f'{axis}:cost', one.costs.get(axis))
    row |= numbers('to_full_depth', one.to_full_depth.difference if one.to_full_depth else None)
    for name, difference in other_differences(one).items():
        row |= numbers(f'val_loss_{name}:difference', difference)
    return row


def numbers(name: str, found: Interval | None) -> dict:
    found = found or Interval(math.nan, math.nan, math.nan)
    return {name: found.value, f'{name}_low': found.low, f'{name}_high': found.high}


def without_nan(row: dict) -> dict:
    """None for what is no number, since JSON has none; numpy's numbers as Python's."""
    found = {}
    for key, value in row.items():
        if isinstance(value, float):  # numpy's float64 is one, too
            value = float(value) if math.isfinite(value) else None
        found[key] = value
    return found


def as_csv(some_rows: list[dict]) -> str:
    import pandas  # here: half a second that the tables alone don't need

    cells = [dict(zip(row, map(in_cell, row.values()))) for row in some_rows]
    # As they are: a column with gaps would turn its whole numbers into others.
    return pandas.DataFrame(cells, dtype=object).to_csv(index=False, lineterminator='\n')


def in_cell(value):
    """Text that a spreadsheet doesn't take for a formula, on one line."""
    if type(value) is not str:
        return value
    value = ' '.join(value.split())
    return f"'{value}" if value.startswith(('=', '+', '-', '@')) else value
