"""Tiny runs and shards are what an earlier commit made of the same command lines, bit for bit. Run:
python -m pytest tests/whole/test_same_bits.py

What that commit made lies in same_bits/ (Muon's by a later one, the first with a Muon of our own). It came
from a checkout of it, by

    python tests/whole/test_same_bits.py CHECKOUT

which is only right to do again when the results are meant to change. Bits hold on one kind of machine: with
another processor or another PyTorch the same values are compared to a tolerance."""

import hashlib
import json
import math
import os
import platform
import shutil
import struct
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / 'same_bits'

TIMING = ('seconds', 'eval_seconds', 'checkpoint_seconds', 'tok_per_sec')
COMMON = (
    '--data_dir=data', '--hellaswag_data=data/hellaswag.jsonl', '--vocab_size=64', '--n_layer=4',
    '--n_head=2', '--n_embd=8', '--block_size=16', '--total_batch_size=128', '--growth_steps=18',
    '--continual_steps=6', '--learning_rate=1e-2', '--val_tokens=320', '--eval_interval=4',
    '--hellaswag_interval=8', '--log_interval=1', '--checkpoint_interval=4', '--keep_checkpoints=100',
    '--dtype=float32', '--device=cpu',
)
# name: its ranks, and its own flags
RUNS = {
    # 4 micro-steps a step, 3 stages, the first half of the second and third with the old layers frozen
    'freezing': (1, ('--batch_size=2', '--n_stages=3', '--grad_clip=1', '--shuffle=True')),
    'stack': (1, ('--batch_size=8', '--n_stages=2', '--stage_depths=2,4', '--grow_init=stack',
                  '--grow_optimizer=copy', '--phase1_fraction=0', '--lr_schedule=wsd',
                  '--decay_fraction=.25', '--warmup_steps=3')),
    'muon': (2, ('--batch_size=2', '--n_stages=3', '--optimizer=muon')),
}
STOPPED_AT = 8  # the step of the kept checkpoint to resume from: in the first phase with frozen layers

def machine() -> dict:
    """What the bits depend on beside the code."""
    vendor = platform.processor()
    if os.path.exists('/proc/cpuinfo'):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        vendor = next((line.partition(':')[2].strip() for line in lines if line.startswith('vendor_id')), '')
    # The BLAS library picks its kernels by the vendor too.
    return {'cpu_capability': torch.backends.cpu.get_cpu_capability(), 'cpu_vendor': vendor,
            'torch': torch.__version__}

def numbers(n: int, below: int, seed: int) -> list[int]:
    """Numbers that look random and are the same in every version of every library."""
    found, state = [], seed
    for _ in range(n):
        state = (1103515245 * state + 12345) % 2**31
        found.append((state >> 16) % below)
    return found

def write_data(folder: Path):
    """Shards as llm.c lays them out, of a pattern with some noise in it, and questions about bytes."""
    folder.mkdir()
    for name, n, seed in (('tiny_train_000001', 3000, 1), ('tiny_val_000000', 600, 2)):
        noise = numbers(n, 64, seed)
        tokens = [noise[i] if i % 7 == 0 else (i * i) % 11 for i in range(n)]
        header = struct.pack('<3i', 20240520, 1, n).ljust(1024, b'\0')
        (folder / f'{name}.bin').write_bytes(header + struct.pack(f'<{n}H', *tokens))
    (folder / 'meta.json').write_text(json.dumps({'tokenizer': 'bytes', 'vocab_size': 64, 'eot': 63}))
    with open(folder / 'hellaswag.jsonl', 'w') as f:
        for i in range(8):
            endings = ['!"#', '$%', '()*+', '123'][i % 4:] + ['!"#', '$%', '()*+', '123'][:i % 4]
            f.write(json.dumps({'ind': i, 'ctx': '# 12', 'label': -i % 4, 'endings': endings}) + '\n')

def write_sources(folder: Path):
    """The same documents as a.jsonl and as b.parquet."""
    words = ['the', 'of', 'Growing', 'layers', ',', '.', '', '\n\n', "don't", 'naïve', '模型', '🙂',
             '<|endoftext|>']
    texts = []
    for i in range(120):
        texts.append(' '.join(words[n] for n in numbers(10 + 3 * i, len(words), i)))
    with open(folder / 'a.jsonl', 'w', encoding='utf-8') as f:
        for i, text in enumerate(texts):
            f.write(json.dumps({'text': text}, ensure_ascii=i % 2 == 0) + '\n')
    pq.write_table(pa.table({'text': texts}), folder / 'b.parquet', row_group_size=50)

def execute(root: Path, folder: Path, ranks: int, script: str, *flags):
    from processes import run_ranks  # here, since this file may be run by itself

    codes, out, said = run_ranks(ranks, root / script, *flags, cwd=folder)
    assert not any(codes), out + said

def train(root: Path, folder: Path, name: str) -> Path:
    """The run directory of a run, made in `folder` by the train.py of `root`."""
    write_data(folder / 'data')
    ranks, flags = RUNS[name]
    execute(root, folder, ranks, 'train.py', *COMMON, *flags, '--out_dir=run')
    return folder / 'run'

def shard_hashes(root: Path, folder: Path) -> dict:
    """'a.jsonl gpt2 NAME.bin': sha256, for each source, tokenizer and shard."""
    write_sources(folder)
    found = {}
    for source in ('a.jsonl', 'b.parquet'):
        for tokenizer in ('gpt2', 'bytes'):
            out = folder / f'{source}_{tokenizer}'
            execute(root, folder, 1, 'prepare_fineweb.py', f'--source={source}', f'--out={out.name}',
                    f'--tokenizer={tokenizer}', '--shard_tokens=20000')
            for path in sorted(out.glob('*.bin')):
                found[f'{source} {tokenizer} {path.name}'] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found

def records(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl but for the clock."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]

def last_checkpoint(run: Path) -> Path:
    return max(run.glob('ckpt_*.pt'))

def assert_same_config(run: Path, kept: Path):
    """Settings that came later are not asked for."""
    before, now = (json.loads((folder / 'config.json').read_text()) for folder in (kept, run))
    for key, value in before.items():
        # Paths may be made absolute; a resumed run says that it was.
        if key not in ('out_dir', 'data_dir', 'hellaswag_data', 'resume'):
            assert now[key] == value, key

def assert_same_value(value, before, tolerance: float, where):
    if type(before) is not float or not tolerance:
        assert value == before, where
    else:
        assert math.isclose(value, before, rel_tol=tolerance, abs_tol=tolerance), where

def assert_same_records(now: list[dict], before: list[dict], tolerance: float):
    """The same lines; a line may have fields that came later."""
    assert [line['kind'] for line in now] == [line['kind'] for line in before]
    for line, old in zip(now, before):
        for key, value in old.items():
            # The scorer has its losses from the head's loss by now, which takes the logarithm elsewhere.
            its_tolerance = max(tolerance, 1e-6) if key.startswith('hellaswag_') else tolerance
            assert_same_value(line[key], value, its_tolerance, (line['kind'], line['step'], key))

def assert_same_tensors(now: dict, before: dict, tolerance: float):
    """Of weights {name: tensor}, or of an optimizer's state {name: {what: tensor}}."""
    assert now.keys() == before.keys()
    for name, value in before.items():
        if isinstance(value, dict):
            assert_same_tensors(now[name], value, tolerance)
        else:
            torch.testing.assert_close(now[name], value, rtol=tolerance, atol=tolerance)

def assert_same_run(run: Path, kept: Path, tolerance: float):
    assert_same_config(run, kept)
    assert_same_records(records(run / 'metrics.jsonl'), records(kept / 'metrics.jsonl'), tolerance)
    now, before = (torch.load(path, weights_only=True) for path in (last_checkpoint(run), kept / 'last.pt'))
    assert now['step'] == before['step'] == 24
    for part in ('model', 'optimizer'):
        assert_same_tensors(now[part], before[part], tolerance)

@pytest.fixture
def tolerance():
    """0 on a machine like the one that made same_bits/."""
    return 0 if json.loads((KEPT / 'machine.json').read_text()) == machine() else 1e-4

@pytest.mark.slow
@pytest.mark.parametrize('name', RUNS)
def test_a_run_is_what_it_was(tmp_path, tolerance, name):
    assert_same_run(train(ROOT, tmp_path, name), KEPT / name, tolerance)

@pytest.mark.slow
def test_a_run_that_an_earlier_commit_began_ends_in_the_same_bits(tmp_path, tolerance):
    kept, run = KEPT / 'freezing', tmp_path / 'run'
    write_data(tmp_path / 'data')
    run.mkdir()
    shutil.copy(kept / 'config.json', run)
    shutil.copy(kept / f'ckpt_{STOPPED_AT:06d}.pt', run)
    lines = (kept / 'metrics.jsonl').read_text().splitlines(keepends=True)
    # It had gone on past its last checkpoint when it was killed.
    begun = [line for line in lines if json.loads(line)['step'] <= STOPPED_AT + 1]
    (run / 'metrics.jsonl').write_text(''.join(begun))
    execute(ROOT, tmp_path, 1, 'train.py', '--resume=run')
    assert_same_run(run, kept, tolerance)

@pytest.mark.slow
def test_shards_have_the_same_bytes(tmp_path):
    assert shard_hashes(ROOT, tmp_path) == json.loads((KEPT / 'shards.json').read_text())

def keep(checkout: Path, scratch: Path):
    """Write same_bits/ with the scripts of a checkout."""
    sys.path.insert(0, str(ROOT / 'tests'))
    import conftest

    conftest.pytest_configure()  # where tiktoken finds GPT-2's tokens
    for name in RUNS:
        (scratch / name).mkdir()
        run = train(checkout, scratch / name, name)
        kept = KEPT / name
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / 'config.json', kept)
        shutil.copy(run / 'metrics.jsonl', kept)
        shutil.copy(last_checkpoint(run), kept / 'last.pt')
    shutil.copy(scratch / 'freezing' / 'run' / f'ckpt_{STOPPED_AT:06d}.pt', KEPT / 'freezing')
    (scratch / 'shards').mkdir()
    hashes = shard_hashes(checkout, scratch / 'shards')
    (KEPT / 'shards.json').write_text(json.dumps(hashes, indent=1) + '\n')
    (KEPT / 'machine.json').write_text(json.dumps(machine(), indent=1) + '\n')

if __name__ == '__main__':
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        keep(Path(sys.argv[1]).resolve(), Path(scratch))
