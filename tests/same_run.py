"""What the tests of whole runs compare: their records but for the clock, and their last checkpoints bit by
bit."""

import json
from pathlib import Path

import torch

from run import checkpoint

TIMING = ('seconds', 'eval_seconds', 'checkpoint_seconds', 'tok_per_sec')

def metrics(out_dir, timing=False):
    lines = [json.loads(line) for line in Path(out_dir, 'metrics.jsonl').read_text().splitlines()]
    return lines if timing else [{k: v for k, v in line.items() if k not in TIMING} for line in lines]

def assert_same_run(a, b):
    """Same checkpoints at the end, bit for bit, and the same metrics but for the clock."""
    newest = [checkpoint.latest(str(d)) for d in (a, b)]
    assert Path(newest[0][0]).name == Path(newest[1][0]).name
    one, other = (state for _, state in newest)
    assert (
        one['model'].keys() == other['model'].keys() and one['optimizer'].keys() == other['optimizer'].keys()
    )
    for name, tensor in one['model'].items():
        assert torch.equal(tensor, other['model'][name]), name
    for name, moments in one['optimizer'].items():
        assert moments.keys() == other['optimizer'][name].keys()
        assert all(torch.equal(moments[k], other['optimizer'][name][k]) for k in moments), name
    assert metrics(a) == metrics(b)
