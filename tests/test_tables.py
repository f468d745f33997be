"""Tables as text, Markdown and LaTeX. Run: python -m pytest tests/test_tables.py"""

from verdict.tables import Table

ROWS = [['base', 'a schedule in words', '3', '3.2810 ± 0.0013'], ['grown', 'another', '12', '3.2']]


def table(**changes):
    header = ['run', 'schedule', 'seeds', 'val loss']
    return Table(**{'title': 'Runs', 'header': header, 'rows': ROWS, 'left': 2, **changes})


def test_words_stand_left_and_numbers_right():
    assert table(note='± sd').text().splitlines() == [
        'Runs',
        'run    schedule             seeds         val loss',
        '--------------------------------------------------',
        'base   a schedule in words      3  3.2810 ± 0.0013',
        'grown  another                 12              3.2',
        '± sd']


def test_long_words_are_wrapped_into_the_width_and_nothing_is_lost():
    path = '/a/very/long/path/' + 'x' * 150
    text = table(rows=[[path, 'in plain words ' * 8, '3', '1.0']]).text()
    assert max(len(line) for line in text.splitlines()) <= 100
    body = text.splitlines()[3:]
    width = len(body[0].split('  ')[0])
    assert ''.join(line[:width].strip() for line in body) == path
    assert text.count('plain') == 8


def test_numbers_are_never_cut():
    text = Table('', ['n'] * 12, [['123456789'] * 12], left=0).text()
    assert text.splitlines()[2].split() == ['123456789'] * 12


def test_markdown_has_a_line_a_row_whatever_the_names_hold():
    text = table(rows=[['_x|y*', '<b>', '1', '2']], note='one\ntwo').markdown().splitlines()
    assert text[0] == '**Runs**'
    assert text[2:5] == ['| run | schedule | seeds | val loss |', '| :--- | :--- | ---: | ---: |',
                         r'| \_x\|y\* | \<b> | 1 | 2 |']
    assert text[5:] == ['', 'one', 'two']


def test_latex_escapes_what_it_would_read_as_a_command():
    text = table(rows=[['a_b$%&#{}~^\\', '±', '1', '2']]).latex()
    assert r'a\_b\$\%\&\#\{\}\textasciitilde \textasciicircum \textbackslash  & $\pm$ & 1 & 2 \\' in text
    assert r'\begin{tabular}{llrr}' in text
    assert text.count(r'\toprule') == text.count(r'\midrule') == text.count(r'\bottomrule') == 1
