"""
One table, three ways: on the terminal (100 columns), as Markdown, as LaTeX.

    table = Table('Runs', ['run', 'seeds', 'val loss'], [['base', '3', '3.2810 ± 0.0013']], left=1)
    print(table.text())
    print(table.markdown())
    print(table.latex())        needs \\usepackage{booktabs}

Cells are finished text: whoever makes the table knows the units and how many digits mean something. The
first `left` columns are words and may be wrapped, the others are numbers and never are.
"""

import dataclasses
import textwrap

WIDTH = 100  # columns of a terminal that everybody has
GAP = '  '
NARROW = 24  # columns of words are squeezed to this, and only if that isn't enough
NARROWEST = 8  # to this

# What LaTeX reads as a command. The backslash comes first, since the others bring their own.
LATEX = {
    '\\': r'\textbackslash ',
    '&': r'\&',
    '%': r'\%',
    '$': r'\$',
    '#': r'\#',
    '_': r'\_',
    '{': r'\{',
    '}': r'\}',
    '~': r'\textasciitilde ',
    '^': r'\textasciicircum ',
    '±': r'$\pm$',
    '×': r'$\times$',
    '<': r'$<$',
    '>': r'$>$',
    '≤': r'$\leq$',
    '≥': r'$\geq$',
    '−': r'$-$',
    '…': r'\dots ',
}


@dataclasses.dataclass
class Table:
    """A header and rows of equal length under a title. `note` is a line or more below it, '' for none."""

    title: str
    header: list[str]
    rows: list[list[str]]
    left: int = 1  # columns of words, from the left
    note: str = ''

    def text(self, width: int = WIDTH) -> str:
        """For a terminal of `width` columns. Words are wrapped to fit; numbers that don't fit make it
        wider."""
        widths = self._widths(width)
        # The title has no rule of its own: many tables follow each other.
        lines = [self.title] if self.title else []
        lines += self._lines(self.header, widths)
        lines.append('-' * (sum(widths) + len(GAP) * (len(widths) - 1)))
        for row in self.rows:
            lines += self._lines(row, widths)
        for paragraph in self.note.splitlines():
            lines += textwrap.wrap(paragraph, width)
        return '\n'.join(lines)

    def _widths(self, width: int) -> list[int]:
        """Natural widths; if they don't fit, columns of words give way, the last one first."""
        widths = []
        for cells in zip(self.header, *self.rows):
            widths.append(max(len(cell) for cell in cells))
        # Names are worth more than descriptions, and stand first.
        excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
        for least in (NARROW, NARROWEST):
            for i in reversed(range(self.left)):
                given = min(excess, widths[i] - least)
                if given > 0:
                    widths[i] -= given
                    excess -= given
        return widths

    def _lines(self, row: list[str], widths: list[int]) -> list[str]:
        wrapped = []
        for i, cell in enumerate(row):
            # A path has no blanks to break at: it's cut where the column ends.
            parts = textwrap.wrap(cell, widths[i], break_on_hyphens=False) if i < self.left else [cell]
            # textwrap gives no line for an empty cell, but each cell needs one.
            wrapped.append(parts or [''])
        lines = []
        for k in range(max(len(parts) for parts in wrapped)):
            cells = []
            for i, parts in enumerate(wrapped):
                cell = parts[k] if k < len(parts) else ''
                cells.append(cell.ljust(widths[i]) if i < self.left else cell.rjust(widths[i]))
            # Trailing blanks would wrap on a terminal that is a little too narrow.
            lines.append(GAP.join(cells).rstrip())
        return lines

    def markdown(self) -> str:
        """A pipe table, as code hosts render it."""
        marks = [':---' if i < self.left else '---:' for i in range(len(self.header))]
        # Bold, not a heading, which would need to know its level on the page.
        lines = [f'**{escaped(self.title)}**', ''] if self.title else []
        for row in [self.header, marks, *self.rows]:
            lines.append('| ' + ' | '.join(escaped(cell) for cell in row) + ' |')
        if self.note:
            lines += ['', *(escaped(line) for line in self.note.splitlines())]
        return '\n'.join(lines)

    def latex(self) -> str:
        """A table environment with booktabs' rules."""
        columns = 'l' * self.left + 'r' * (len(self.header) - self.left)
        lines = [
            r'\begin{table}',
            r'\centering',
            rf'\caption{{{_latex_cell(self.title)}}}',
            rf'\begin{{tabular}}{{{columns}}}',
            r'\toprule',
            _latex_row(self.header),
            r'\midrule',
        ]
        lines += [_latex_row(row) for row in self.rows]
        lines += [r'\bottomrule', r'\end{tabular}']
        if self.note:
            lines += [r'\par\footnotesize ' + _latex_cell(' '.join(self.note.splitlines()))]
        return '\n'.join([*lines, r'\end{table}'])


def escaped(cell: str) -> str:
    """A cell or a sentence for Markdown."""
    # A name may hold what Markdown reads as emphasis, a column's end or HTML.
    # The backslash comes first, or it would escape the ones that the others bring.
    for mark in ('\\', '|', '*', '_', '<', '`', '$', '~'):
        cell = cell.replace(mark, '\\' + mark)
    return cell


def _latex_cell(cell: str) -> str:
    return ''.join(LATEX.get(character, character) for character in cell)


def _latex_row(row: list[str]) -> str:
    return ' & '.join(_latex_cell(cell) for cell in row) + r' \\'
