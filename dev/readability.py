"""
How the code reads, in figures. Nothing needs to be installed:

    python dev/readability.py [FILE ...]        default: every *.py but tests, configs and studies

For each file: code lines, tokens a code line (nanoGPT, nanochat and build-nanogpt: 8.5 to 8.9), comments per
100 code lines, comprehensions within comprehensions. Below: the same over all files, functions over 60 lines,
lines over 110 characters. A code line carries at least one token that is neither layout, comment nor
docstring.
"""

import ast
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

LONGEST_FUNCTION = 60
WIDEST_LINE = 110
LAYOUT = (
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

@dataclass
class Figures:
    """What is counted in one file, or in all of them together."""

    code_lines: int = 0
    tokens: int = 0
    comments: int = 0
    nested: list = field(
        default_factory=list
    )  # 'file:line' of each comprehension within another, or with two `for`
    long_functions: list = field(default_factory=list)  # 'file:name lines'
    wide_lines: list = field(default_factory=list)  # 'file:line'

    def add(self, other: 'Figures'):
        self.code_lines += other.code_lines
        self.tokens += other.tokens
        self.comments += other.comments
        self.nested += other.nested
        self.long_functions += other.long_functions
        self.wide_lines += other.wide_lines

    def summary(self) -> str:
        lines = max(1, self.code_lines)
        comments = 100 * self.comments / lines
        return (
            f'{self.code_lines:>5} code lines  {self.tokens / lines:>4.1f} tokens a line  '
            f'{comments:>3.0f} comments per 100  {len(self.nested):>2} nested comprehensions'
        )

def main():
    paths = sys.argv[1:] or sorted(
        str(path) for folder in ('.', 'core', 'run', 'verdict', 'grid') for path in Path(folder).glob('*.py')
    )
    total = Figures()
    for path in paths:
        figures = measure(path)
        print(f'{path:<24} {figures.summary()}')
        total.add(figures)
    print(f'{"all":<24} {total.summary()}')
    for what, where in (
        (f'functions over {LONGEST_FUNCTION} lines', total.long_functions),
        (f'lines over {WIDEST_LINE} characters', total.wide_lines),
        ('nested comprehensions', total.nested),
    ):
        print(f'{what}: {len(where)}', *where[:12])

def measure(path: str) -> Figures:
    """The figures of one file."""
    source = Path(path).read_text(encoding='utf-8')
    tree = ast.parse(source)
    figures = Figures()
    count_tokens(path, docstring_lines(tree), figures)
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS) and is_nested(node):
            figures.nested.append(f'{path}:{node.lineno}')
        if isinstance(node, DEFINITIONS):
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                figures.long_functions.append(f'{path}:{node.name} {length}')
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > WIDEST_LINE:
            figures.wide_lines.append(f'{path}:{number}')
    return figures

def docstring_lines(tree: ast.Module) -> set[int]:
    """The numbers of all lines that belong to docstrings."""
    lines = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, *DEFINITIONS)):
            continue
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, docstring.end_lineno + 1))
    return lines

def count_tokens(path: str, docstrings: set[int], figures: Figures):
    """Fill in code_lines, tokens and comments. A string over several lines is one token on several code
    lines."""
    code_lines = set()
    with open(path, 'rb') as f:
        for token in tokenize.tokenize(f.readline):
            if token.type == tokenize.COMMENT:
                figures.comments += 1
            elif token.type not in LAYOUT and token.start[0] not in docstrings:
                figures.tokens += 1
                code_lines.update(range(token.start[0], token.end[0] + 1))
    figures.code_lines = len(code_lines)

def is_nested(node) -> bool:
    """Whether a comprehension has two `for`, or another comprehension inside."""
    if len(node.generators) > 1:
        return True
    return any(isinstance(inner, COMPREHENSIONS) for inner in ast.walk(node) if inner is not node)

if __name__ == '__main__':
    main()
