"""dev/gpu_check.py at toy size, so that it runs where there is a GPU. Run: python -m pytest
tests/whole/test_gpu_check.py"""

import re
import sys

import gpu_check
import pytest
import torch

def lines_of(monkeypatch, capsys) -> tuple[list[str], int]:
    """(what it prints, its exit code)."""
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', 'tiny'])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    return capsys.readouterr().out.splitlines(), int(ended.value.code)

@pytest.mark.slow
def test_every_check_passes_at_toy_size(monkeypatch, capsys):
    # What is compiled is for the GPU; here it would take minutes and show nothing.
    monkeypatch.setattr(torch, 'compile', lambda function, **_: function)
    torch._dynamo.reset()
    lines, code = lines_of(monkeypatch, capsys)
    assert code == 0, lines
    passed = re.fullmatch(r'(\d+) passed, 0 failed', lines[-1])
    assert int(passed[1]) == len(lines) - 2  # one line a check, between the machine and the count
    for check in gpu_check.CHECKS:
        assert any(line.startswith(f'ok   {check.__name__.replace("_", " ")}: ') for line in lines), check
    torch._dynamo.reset()

def test_a_check_that_fails_or_breaks_is_counted_and_hides_no_other(monkeypatch, capsys):
    def wrong(setup):
        yield False, 'too slow'

    def broken(setup):
        yield True, 'lost'
        raise ValueError('of no use\nat all')

    def right(setup):
        yield True, 'fine'

    monkeypatch.setattr(gpu_check, 'CHECKS', (wrong, broken, right))
    lines, code = lines_of(monkeypatch, capsys)
    assert code == 1
    assert lines[1:] == [
        'FAIL wrong: too slow',
        'FAIL broken: ValueError: of no use',
        'ok   right: fine',
        '1 passed, 2 failed',
    ]
