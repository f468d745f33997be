"""Which layer comes from which. Run: python -m pytest tests/test_growth.py"""

import pytest

from growth import OPERATORS, layout


def sources(init, old, new):
    """Layers from the bottom up, numbered from 1 as papers do; a new one in brackets."""
    return [f'[{"" if s is None else s + 1}]' if is_new else str(s + 1) for s, is_new in layout(init, old, new)]


@pytest.mark.parametrize('init, old, new, expected', [
    ('random', 2, 4, '1 2 [] []'),
    ('zero', 2, 3, '1 2 []'),
    ('copy_last', 2, 4, '1 2 [2] [2]'),
    ('stack', 3, 6, '1 2 3 [1] [2] [3]'),
    ('stack', 3, 8, '1 2 3 [1] [2] [3] [1] [2]'),
    ('stack', 1, 4, '1 [1] [1] [1]'),
    ('interleave', 3, 6, '1 [1] 2 [2] 3 [3]'),
    ('interleave', 2, 3, '1 [1] 2'),
    ('interleave', 2, 6, '1 [1] [1] 2 [2] [2]'),
    ('middle', 3, 6, '1 2 3 [1] [2] [3]'),
    ('middle', 3, 4, '1 2 [2] 3'),
    ('middle', 9, 12, '1 2 3 4 5 6 [4] [5] [6] 7 8 9'),
    ('random', 0, 2, '[] []'),
    ('stack', 0, 2, '[] []'),
])
def test_layouts_are_the_papers(init, old, new, expected):
    assert sources(init, old, new) == expected.split()


@pytest.mark.parametrize('init', OPERATORS)
def test_old_layers_stay_all_of_them_in_order(init):
    for old in range(1, 9):
        for new in range(old + 1, 17):
            rows = layout(init, old, new)
            assert len(rows) == new
            assert [s for s, is_new in rows if not is_new] == list(range(old))
