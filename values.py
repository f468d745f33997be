"""
One value of a setting: from a flag's text, or from Python, to the type of the setting, and back to text.

    parse(int, '1e3') -> 1000.0          what the text means
    convert(int, 1000.0) -> 1000         as one of the type; ValueError where it is none
    text_of((2, 4)) -> '2,4'             as one would type it

A kind is a type as annotations have it: int, float, bool, str, tuple[int, ...], tuple[tuple[int, ...], ...],
and unions such as int | str.
"""

import ast
import math
import types
import typing

LARGEST_INT = 2**63 - 1  # what numpy and torch count with


def is_tuple(kind) -> bool:
    return typing.get_origin(kind) is tuple


def kinds_of(kind) -> tuple:
    """The types that a kind joins by |, or the kind alone."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def parse(kind, text: str):
    """The value of type `kind` that a flag's text means. Raises ValueError if it means none.

    A text is taken as typed. A whole number may be written as 1e3, a tuple as 2,4,6 or (2, 4, 6).
    """
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError(text)
        return text.lower() == 'true'
    if kind is int or kind is float:
        return parse_number(text)
    if is_tuple(kind):
        return parse_tuple(typing.get_args(kind)[0], text)
    # One of several types: a comma makes a tuple, and whatever is nothing else is a text.
    kinds = sorted(kinds_of(kind), key=lambda one: one is str)
    kinds.sort(key=lambda one: is_tuple(one) != (',' in text))
    for one in kinds:
        try:
            return convert(one, parse(one, text))
        except ValueError:
            continue
    raise ValueError(text)


def parse_number(text: str):
    """An int or a float. Raises ValueError for other texts, 'nan' among them."""
    # int first: a float is exact for whole numbers only up to 2**53.
    try:
        return int(text)
    except ValueError:
        number = float(text)  # 1e3 is a whole number too: convert() sees to it
    if math.isnan(number):
        raise ValueError(text)
    return number


def parse_tuple(item_kind, text: str) -> tuple:
    """The tuple that a text like 2,4,6 means, with or without brackets."""
    text = text.strip()
    if is_tuple(item_kind):  # brackets in brackets: Python knows how to read them
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError(text) from None
    # As Python prints a tuple or a list, which is what one copies from a message.
    if text[:1] + text[-1:] in ('()', '[]'):
        text = text[1:-1]
    parts = [part.strip().strip('\'"') for part in text.split(',')]
    if not parts[-1]:  # nothing at all, or a comma behind the last one
        parts.pop()
    return tuple(parse(item_kind, part) for part in parts)


def convert(kind, value):
    """`value` as one of type `kind`: 1 is a float too, 1e3 a whole number, a list a tuple, one item a tuple
    of one.

    Raises ValueError where it is none. Nothing else is converted: a text isn't a number, 1 isn't True.
    """
    if isinstance(kind, types.UnionType):
        for one in kinds_of(kind):
            # Else 4 would become (4,) where a setting is a number or a tuple.
            if is_tuple(one) == (type(value) in (list, tuple)):
                try:
                    return convert(one, value)
                except ValueError:
                    continue
        raise ValueError(value)
    if is_tuple(kind):
        item_kind = typing.get_args(kind)[0]
        items = value if type(value) in (list, tuple) else (value,)
        if is_tuple(item_kind) and items and type(items[0]) is int:
            items = (items,)  # one row of what takes several
        return tuple(convert(item_kind, item) for item in items)
    # type() and not isinstance(): to Python True is an int, but nobody means 1 layer by it.
    if kind is float and type(value) is int:
        # float() of a huge int would fail; as infinity it is refused later, by name.
        value = float(value) if abs(value) <= LARGEST_INT else math.inf
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not kind or (kind is float and math.isnan(value)):
        raise ValueError(value)
    return value


def leaves(value) -> list:
    """What stands in a value that may be a tuple, or a tuple of tuples."""
    if type(value) is not tuple:
        return [value]
    found = []
    for item in value:
        found += leaves(item)
    return found


def name_of_type(kind, tuple_word='a tuple') -> str:
    """'int', 'a tuple of int', 'a tuple of tuples of int'."""
    if is_tuple(kind):
        return f'{tuple_word} of {name_of_type(typing.get_args(kind)[0], "tuples")}'
    return kind.__name__


def text_of(value) -> str:
    """A value as one would type it in a flag."""
    if type(value) is tuple:
        parts = [f'({text_of(item)})' if type(item) is tuple else text_of(item) for item in value]
        return ','.join(parts)
    return str(value)
