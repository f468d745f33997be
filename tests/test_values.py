"""One value of a setting; settings by name are in test_config.py. Run: python -m pytest
tests/test_values.py"""

import pytest

from config import convert, kinds_of, leaves, name_of_type, parse, text_of

KINDS = {
    int: (4, 1_000), float: (0.5, 1e-3), bool: (True, False), str: ('2025_01_31', ''),
    tuple[int, ...]: ((), (6,), (2, 4)), float | tuple[float, ...]: (0.5, (0.5,), (0.5, 0.0)),
    str | tuple[str, ...]: ('stack', ('stack', 'zero')), int | str: (7, 'equal_compute'),
    bool | str: (True, 'auto'),
}


@pytest.mark.parametrize('kind', KINDS)
def test_what_a_value_is_as_text_means_the_value_again(kind):
    for value in KINDS[kind]:
        text = text_of(value)
        if type(value) is tuple and len(value) == 1:
            text += ','  # one value, or a tuple of one: only the comma tells
        again = convert(kind, parse(kind, text))
        assert again == value and type(again) is type(value)


def test_tuples_of_tuples_as_text():
    kind = tuple[tuple[int, ...], ...]
    for value in (((0, 1, 0, 1), (0, -1)), ((0, 1),)):
        assert convert(kind, parse(kind, text_of(value))) == value
    assert convert(kind, [[0, 1], [2]]) == ((0, 1), (2,))
    for text in ('(0, (1,)', '0, x', '__import__("os")', '((0, 1.5),)'):
        with pytest.raises(ValueError):
            convert(kind, parse(kind, text))


@pytest.mark.parametrize('kind, value', [
    (int, True), (int, 1.5), (int, '1'), (int, None), (int, float('inf')), (float, '1'), (float, True),
    (float, None),
    (float, float('nan')), (bool, 1), (bool, 'True'), (str, 1), (str, None), (tuple[int, ...], '2'),
    (tuple[int, ...], (2, '4')), (tuple[int, ...], {2, 4}), (int | str, 1.5), (int | str, None),
    (int | str, (1,)),
    (float | tuple[float, ...], ('a',)), (bool | str, 1),
])
def test_a_value_of_another_type_is_none_of_this_one(kind, value):
    with pytest.raises(ValueError):
        convert(kind, value)


def test_a_number_takes_the_type_that_is_wanted():
    assert (convert(int, 1e3), type(convert(int, 1e3))) == (1000, int)
    assert (convert(float, 3), type(convert(float, 3))) == (3.0, float)
    assert convert(float, 10**400) == float('inf')  # too large to be one: its bounds refuse it
    assert convert(float | tuple[float, ...], [1, 0]) == (1.0, 0.0)


def test_types_are_named_as_one_would():
    assert name_of_type(tuple[int, ...]) == 'a tuple of int'
    assert name_of_type(tuple[tuple[int, ...], ...]) == 'a tuple of tuples of int'
    assert kinds_of(int | str) == (int, str) and kinds_of(int) == (int,)
    assert leaves(((1, 'a'), 2.5)) == [1, 'a', 2.5] and leaves('a') == ['a'] and leaves(()) == []
