"""Which layer comes from which. Run: python -m pytest tests/story/test_growth.py"""

import re
from pathlib import Path

import pytest
from processes import run_python

import growth
import schedule
from config import TrainConfig, load_config
from core.common import UserError
from growth import OPERATORS, describe, layout, layout_of, problem_with

ROOT = Path(__file__).parents[2]

# Each operator for growths that divide evenly and for some that don't: (old, new, layers from the bottom up).
EXPECTED = {
    'random': [(3, 6, '0 1 2 +new +new +new'), (2, 3, '0 1 +new'), (1, 3, '0 +new +new')],
    'zero': [(3, 6, '0 1 2 +new +new +new'), (2, 3, '0 1 +new'), (1, 3, '0 +new +new')],
    'copy_last': [(3, 6, "0 1 2 +2' +2' +2'"), (2, 3, "0 1 +1'"), (1, 3, "0 +0' +0'")],
    'stack': [(3, 6, "0 1 2 +0' +1' +2'"), (3, 8, "0 1 2 +0' +1' +2' +0' +1'"), (1, 4, "0 +0' +0' +0'")],
    'interleave': [(3, 6, "0 +0' 1 +1' 2 +2'"), (2, 3, "0 +0' 1"), (2, 6, "0 +0' +0' 1 +1' +1'")],
    'middle': [(3, 6, "0 1 2 +0' +1' +2'"), (3, 4, "0 1 +1' 2"), (4, 6, "0 1 2 +1' +2' 3"),
               (9, 12, "0 1 2 3 4 5 +3' +4' +5' 6 7 8"), (2, 6, "0 1 +0' +1' +0' +1'")],
    'middle_layer': [(3, 6, "0 1 +1' +1' +1' 2"), (3, 4, "0 1 +1' 2"), (4, 6, "0 1 +1' +1' 2 3"),
                     (6, 9, "0 1 2 +2' +2' +2' 3 4 5"), (1, 3, "0 +0' +0'"), (2, 3, "0 +0' 1")],
}

@pytest.mark.parametrize('init', EXPECTED)
def test_layouts_are_the_papers(init):
    for old, new, expected in EXPECTED[init]:
        assert describe(layout(init, old, new)) == expected

@pytest.mark.parametrize('init', OPERATORS)
def test_old_layers_stay_all_of_them_in_order_for_any_depths(init):
    assert layout(init, 0, 3) == [(None, True)] * 3
    for old in range(1, 9):
        for new in range(old + 1, 17):
            layers = layout(init, old, new)
            assert problem_with(layers, old, new) == ''
            assert [source for source, is_new in layers if not is_new] == list(range(old))

@pytest.mark.parametrize('init', EXPECTED)  # a user's own needs no source
def test_a_shipped_operator_says_where_it_comes_from(init):
    first_line = OPERATORS[init].__doc__.splitlines()[0]
    assert any(year in first_line for year in ('20', 'arXiv'))

@pytest.mark.parametrize('grow_map, expected', [
    ((0, 1, 2, 0, 1, 2), "0 1 2 +0' +1' +2'"), ((-1, -1, 0), '+new +new 0'), ((1, 0, -1, 1), "1 0 +new +1'"),
])
def test_the_first_place_of_an_old_layer_is_the_layer_itself_and_further_ones_are_copies(grow_map, expected):
    assert describe(layout_of(grow_map)) == expected

# What is wrong with a layout from 3 to 5 layers: the sources of its old layers and of its new ones.
WRONG = {
    'too short': ([0, 1, 2], [0], 'makes 4 layers out of 3, not 5'),
    'too long': ([0, 1, 2], [None] * 3, 'makes 6 layers out of 3, not 5'),
    'source above': ([0, 1, 2], [3, None], 'takes layer 3, and there are only the layers 0 to 2'),
    'source below': ([0, 1, 2], [-2, None], 'takes layer -2, and there are only the layers 0 to 2'),
    'layer lost': ([0, 2], [0, 2, None], 'keeps layer 1 0 times, not once'),
    'layer twice': ([0, 1, 2, 1], [None], 'keeps layer 1 2 times, not once'),
    'kept from nowhere': ([0, 1, 2, None], [None], 'keeps a layer that has no source'),
}

@pytest.mark.parametrize('kind', WRONG)
def test_a_wrong_operator_is_named_by_the_plan(monkeypatch, kind):
    old, new, words = WRONG[kind]
    layers = [(source, False) for source in old] + [(source, True) for source in new]
    monkeypatch.setitem(OPERATORS, kind, lambda old, new: layers)
    config = TrainConfig(n_layer=5, n_stages=2, stage_depths=(3, 5), growth_steps=10, grow_init=kind)
    with pytest.raises(UserError) as error:
        schedule.plan(config)
    assert str(error.value) == f"grow_init {kind!r} of stage 2 {words}"

README = (ROOT / 'README.md').read_text(encoding='utf-8')

def test_the_readmes_own_operator_is_one_function_in_growth_and_passes_what_is_asked_of_all(tiny, tmp_path):
    """A copy of growth.py with it, in front of the repository on the path, is all that the scripts need."""
    operator = re.search(r'```python\n(def (\w+)\(old, new\):.*?)```', README, re.DOTALL)
    code, name = operator[1], operator[2]
    assert len(code.splitlines()) <= 10
    source = (ROOT / 'growth.py').read_text(encoding='utf-8') + f'\n\n{code}\nOPERATORS[{name!r}] = {name}\n'
    (tmp_path / 'growth.py').write_text(source)
    flags = [*tiny, '--n_layer=6', '--n_stages=2', '--stage_depths=4,6', f'--grow_init={name}',
             f'--out_dir={tmp_path}/run', '--hellaswag_interval=0', '--checkpoint_interval=0']
    code = (f'import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n'
            f'import schedule, train; sys.argv = ["schedule.py", *{flags!r}]; schedule.main()\n'
            f'sys.argv[0] = "train.py"; train.main()\n'
            'sys.argv = ["train.py", "--help"]; train.main()')
    done = run_python('-c', code)
    assert done.returncode == 0, done.stderr
    assert f"stage 2, step 9: 4 -> 6 by {name}: 0 1 2 3 +3' +2'" in done.stdout
    assert 'step 00024/24 eval' in done.stdout
    assert f'{name}: the list of layers again, from the top down' in ' '.join(done.stdout.split())
    # The tests of operators in general, with this one among them.
    general = ('import sys, pytest; '
               f'sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; '
               'sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", '
               '"for_any_depths or names_every_operator or shipped", '
               f'{str(ROOT / "tests" / "story" / "test_growth.py")!r}]))')
    done = run_python('-c', general)
    assert done.returncode == 0 and 'failed' not in done.stdout, done.stdout

def test_the_pictures_in_the_docs_are_what_the_operators_do():
    docs = (ROOT / 'docs' / 'operators.md').read_text(encoding='utf-8')
    rows = [line for line in docs.splitlines() if line.startswith('| `')]
    for name in EXPECTED:
        row = next(line for line in rows if line.startswith(f'| `{name}` |'))
        assert f'`{describe(layout(name, 3, 6))}`' in row

def test_help_names_every_operator_and_its_source(capsys):
    with pytest.raises(SystemExit):
        load_config(['--help'], '')
    printed = ' '.join(capsys.readouterr().out.split())
    for name, operator in growth.OPERATORS.items():
        assert f'{name}: {" ".join(operator.__doc__.splitlines()[0].split())}' in printed
