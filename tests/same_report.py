"""What the tests of reports compare: text exactly, numbers up to what one kind of processor adds up otherwise
than another."""

import re

import pytest

# With a point or an exponent: a count, or a number within a name, is text.
NUMBER = re.compile(r'-?\d+\.\d+(?:e[-+]\d+)?|-?\d+e[-+]\d+')

def assert_same_report(text: str, expected: str):
    """The same text around the same numbers, to 1e-9 of each."""
    for line, expected_line in zip(text.splitlines(), expected.splitlines()):
        assert NUMBER.sub('#', line) == NUMBER.sub('#', expected_line)
        numbers, expected_numbers = ([float(number) for number in NUMBER.findall(part)]
                                     for part in (line, expected_line))
        assert numbers == pytest.approx(expected_numbers, rel=1e-9, abs=1e-15), line
    assert text.count('\n') == expected.count('\n')
