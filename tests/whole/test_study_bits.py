"""A study's runs to the bit: shared prefixes, kills, records. Tiny models are trained in this process. Run:
python -m pytest tests/whole/test_study_bits.py"""

import json
import os
import random
import re
import shlex
import shutil
import sys
import typing
from pathlib import Path

import pytest
import torch

import study
import train
from core.common import UserError
from grid import launch, study_file
from run import checkpoint

HERE = Path(__file__).parents[2]
TIMING = ('seconds', 'eval_seconds', 'checkpoint_seconds', 'tok_per_sec')

class Killed(BaseException):
    pass

class InProcess:
    """Stands in for a process: train.py's main(), here and at once."""

    commands: typing.ClassVar[list] = []

    def __init__(self, command, environment, console):
        InProcess.commands.append(command)
        self.pid, self.returncode = 2**22 + len(InProcess.commands), 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', command[1:])
            patch.setattr(sys, 'stdout', open(os.devnull, 'w'))
            try:
                train.main()
            except Killed:
                self.returncode = -9
            except UserError as error:
                console.write(f'error: {error}\n'.encode())
                self.returncode = 2

    def poll(self):
        return self.returncode

@pytest.fixture
def in_process(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(launch, 'start_process', InProcess)
    monkeypatch.setattr(launch, 'POLL_SECONDS', 0.0)
    InProcess.commands = []

@pytest.fixture
def overlay(tiny, tmp_path):
    """A config that makes any schedule tiny: 3 layers, 64 tokens a step."""
    lines = {flag[2:].partition('=')[0]: flag.partition('=')[2] for flag in tiny}
    for name in ('n_stages', 'continual_steps', 'keep_checkpoints'):
        del lines[name]
    lines |= {'n_layer': 3, 'total_batch_size': 64, 'growth_steps': 12, 'baseline_steps': 24,
              'eval_interval': 5,
              'hellaswag_interval': 100, 'hellaswag_limit': 2, 'log_interval': 3, 'checkpoint_interval': 7}
    path = tmp_path / 'tiny.py'
    values = {}
    for name, value in lines.items():
        values[name] = value if name in ('data_dir', 'hellaswag_data', 'dtype', 'device') else float(value)
        if isinstance(values[name], float) and values[name].is_integer():
            values[name] = int(values[name])
    path.write_text('\n'.join(f'{name} = {value!r}' for name, value in values.items()) + '\n')
    return path

def write_study(path: Path, **names) -> str:
    path.write_text('\n'.join(f'{name} = {value!r}' for name, value in names.items()) + '\n')
    return str(path)

def run_study(*argv):
    """study.py in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['study.py', *map(str, argv)])
        try:
            study.main()
        except SystemExit as stop:
            return stop.code
    return 0

def metrics(folder) -> list[dict]:
    lines = [json.loads(line) for line in Path(folder, 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]

def assert_same_run(a: Path, b: Path):
    """The same weights and optimizer state at the end, bit for bit, and the same metrics but for the
    clock."""
    one, other = (checkpoint.latest(str(folder))[1] for folder in (a, b))
    assert one['step'] == other['step']
    assert (
        one['model'].keys() == other['model'].keys() and one['optimizer'].keys() == other['optimizer'].keys()
    )
    for name, tensor in one['model'].items():
        assert torch.equal(tensor, other['model'][name]), (a, name)
    for name, values in one['optimizer'].items():
        assert all(torch.equal(values[k], other['optimizer'][name][k]) for k in values), (a, name)
    assert metrics(a) == metrics(b), a

WSD = {'lr_schedule': 'wsd', 'decay_fraction': 0.25, 'warmup_steps': 2}
SHARING = {
    'arms': {'full': 'baseline', 'Li': 'incremental_4stage --n_stages=2',
             'never frozen': 'nofreeze_8stage --n_stages=2',
          'tau .4': 'bu_1to12_wsd --stage_depths=1,3 --stage_fractions=0.4,0 --grow_optimizer=copy',
          'tau .6': 'bu_1to12_wsd --stage_depths=1,3 --stage_fractions=0.6,0 --rewarm_steps=3'},
    'baseline': 'full', 'settings': WSD, 'budgets': (4, 8, 16), 'seeds': (1,)}

# ------------------------------------------------------------------------------------------------------------
# shared prefixes

def test_shared_runs_killed_at_random_and_resumed_end_in_the_bits_of_separate_ones(in_process, monkeypatch,
                                                                                   overlay, tmp_path):
    path = write_study(tmp_path / 'grid.py', **SHARING, overlays=(str(overlay),))
    assert run_study(path, f'--out={tmp_path}/separate', '--slots=cpu', '--separate') == 0
    generator = random.Random(3)
    save = train.save_if_due

    def save_or_die(*args):
        if generator.random() < 0.06:
            raise Killed
        save(*args)

    monkeypatch.setattr(train, 'save_if_due', save_or_die)
    InProcess.commands = []
    while run_study(path, f'--out={tmp_path}/shared', '--slots=cpu,cpu'):
        assert len(InProcess.commands) < 100
    branched = [command for command in InProcess.commands if '--branch_from' in ' '.join(command)]
    assert len(branched) > 6 and len(InProcess.commands) > 18  # both happened: prefixes taken over, and kills
    folders = sorted(p.parent.relative_to(tmp_path / 'separate')
                     for p in tmp_path.glob('separate/*/*/metrics.jsonl'))
    assert len(folders) == 15
    for folder in folders:
        assert_same_run(tmp_path / 'separate' / folder, tmp_path / 'shared' / folder)

def test_two_slots_of_real_processes_end_in_the_same_bits_too(overlay, monkeypatch, tmp_path):
    torch.set_num_threads(1)
    monkeypatch.chdir(HERE)
    names = SHARING | {'arms': {'full': 'baseline'}, 'budgets': (6, 12)}
    path = write_study(tmp_path / 'grid.py', **names, overlays=(str(overlay),))
    assert run_study(path, f'--out={tmp_path}/shared', '--slots=cpu,cpu') == 0
    monkeypatch.setattr(launch, 'start_process', InProcess)
    assert run_study(path, f'--out={tmp_path}/separate', '--slots=cpu', '--separate') == 0
    for budget in (6, 12):
        assert_same_run(tmp_path / f'separate/full/b{budget}_s1', tmp_path / f'shared/full/b{budget}_s1')
    assert '--branch_from=' in (tmp_path / 'shared/full/b6_s1/console.txt').read_text()

def test_the_saving_that_is_said_is_what_is_trained(in_process, capsys, overlay, tmp_path):
    names = SHARING | {'arms': {'full': 'baseline'}, 'budgets': (6, 12, 24), 'seeds': (1,)}
    path = write_study(tmp_path / 'grid.py', **names, overlays=(str(overlay),))
    assert run_study(path, f'--out={tmp_path}/out', '--slots=cpu') == 0
    # 6, 12 and 24 steps that decay over their last quarter: the updates before the first lower rate are 5 and
    # 10.
    assert f'shared prefixes spare {15 / 42:.1%}' in capsys.readouterr().out
    starts = {}
    for command in InProcess.commands:
        flags = dict(word[2:].partition('=')[::2] for word in command if word.startswith('--'))
        folder = Path(flags['out_dir'])
        starts[folder.name] = 0
        if 'branch_from' in flags:
            total = int(folder.name[1:].split('_')[0])
            saved = [int(p.stem[5:]) for p in Path(flags['branch_from']).glob('ckpt_*.pt')]
            starts[folder.name] = max(step for step in saved if step < total)
    assert starts['b24_s1'] == 0 and starts['b12_s1'] == 10 and starts['b6_s1'] == 5

def test_no_saving_is_said_where_nobody_trains_the_prefix(in_process, capsys, overlay, tmp_path):
    names = SHARING | {'arms': {'full': 'baseline'}, 'budgets': (6, 12, 24)}
    path = write_study(tmp_path / 'grid.py', **names, overlays=(str(overlay),))
    out = f'--out={tmp_path}/out'
    assert run_study(path, out, '--budgets=12', '--dry_run') == 0
    assert 'shared prefixes spare 0.0%' in capsys.readouterr().out
    assert run_study(path, out, '--slots=cpu', '--budgets=24') == 0
    assert 'shared prefixes spare 0.0%' in capsys.readouterr().out
    # Now the longest run's checkpoint is there, and a shorter one begins at it.
    assert run_study(path, out, '--slots=cpu', '--budgets=12') == 0
    assert f'shared prefixes spare {10 / 12:.1%}' in capsys.readouterr().out

def test_a_branch_is_refused_with_the_difference_named(in_process, tiny, overlay, tmp_path,
                                                             monkeypatch):
    def train_run(*flags):
        monkeypatch.setattr(sys, 'argv', ['train.py', 'configs/baseline.py', str(overlay),
                                          '--growth_steps=0', *flags])
        train.main()

    base = ['--continual_steps=14', *(f'--{k}={v}' for k, v in WSD.items())]
    train_run(*base, f'--out_dir={tmp_path}/a', '--checkpoint_steps=9,3', '--keep_checkpoints=1')
    assert sorted(p.name for p in (tmp_path / 'a').glob('ckpt*')) == ['ckpt_000003.pt', 'ckpt_000009.pt',
                                                                      'ckpt_000014.pt']
    for flag, what in (('--seed=2', 'seed 1337 and 2'), ('--weight_decay=0.5', 'weight_decay 0.1 and 0.5'),
                       ('--batch_size=1', 'batch_size 2 and 1')):
        with pytest.raises(UserError, match=f'share only their first 0 steps; .*{what}'):
            train_run(*base, flag, f'--out_dir={tmp_path}/b', f'--branch_from={tmp_path}/a')
    with pytest.raises(UserError, match=r'at step 14 of 14.*first 10 steps.*decay_fraction .* and 0.3'):
        train_run(*base, '--decay_fraction=0.3', f'--out_dir={tmp_path}/b',
                  f'--branch_from={tmp_path}/a/ckpt_000014.pt')
    with pytest.raises(UserError, match='no optimizer state'):
        shutil.copy(tmp_path / 'a' / 'ckpt_000003.pt', tmp_path / 'weights.pt')
        state = torch.load(tmp_path / 'weights.pt', weights_only=True) | {'optimizer': {}}
        torch.save(state, tmp_path / 'weights.pt')
        train_run(*base, f'--out_dir={tmp_path}/b', f'--branch_from={tmp_path}/weights.pt')
    # Other text of the same size: what counts is what the run that trained the prefix says of its data.
    data_dir = next(flag.partition('=')[2] for flag in tiny if flag.startswith('--data_dir='))
    shutil.copytree(data_dir, tmp_path / 'other')
    shard = tmp_path / 'other' / 'tiny_train_000001.bin'
    shard.write_bytes(shard.read_bytes()[:-2] + b'a\0')
    with pytest.raises(UserError, match=r'train was .* when the checkpoint was saved'):
        train_run(*base, '--decay_fraction=0.3', f'--out_dir={tmp_path}/b', f'--branch_from={tmp_path}/a',
                  f'--data_dir={tmp_path}/other')
    assert not (tmp_path / 'b' / 'metrics.jsonl').exists()
    # From a file, and from a run directory whose newest checkpoint that fits isn't the newest.
    train_run(*base, '--decay_fraction=0.3', f'--out_dir={tmp_path}/alone')
    train_run(*base, '--decay_fraction=0.3', f'--out_dir={tmp_path}/c',
              f'--branch_from={tmp_path}/a/ckpt_000003.pt')
    train_run(*base, '--decay_fraction=0.3', f'--out_dir={tmp_path}/d', f'--branch_from={tmp_path}/a')
    assert_same_run(tmp_path / 'c', tmp_path / 'alone')
    assert_same_run(tmp_path / 'd', tmp_path / 'alone')
    # The clock counts the prefix, as the run that trained it did.
    lines = [(tmp_path / name / 'metrics.jsonl').read_text().splitlines() for name in ('a', 'd')]
    prefix = [line for line in lines[0] if json.loads(line)['step'] < 9]
    assert lines[1][:len(prefix)] == prefix
    assert json.loads(lines[1][-1])['seconds'] > json.loads(prefix[-1])['seconds'] > 0

def test_printed_commands_run_in_order_end_in_the_same_bits(in_process, monkeypatch, capsys, overlay,
                                                            tmp_path):
    monkeypatch.chdir(HERE)
    arms = {name: SHARING['arms'][name] for name in ('full', 'tau .4', 'tau .6')}
    path = write_study(tmp_path / 'grid.py', **SHARING | {'budgets': (6, 12), 'arms': arms},
                       overlays=(str(overlay),),
                       tune={'tau .4': {'learning_rate': (0.01, 0.02)}}, tune_seeds=(0,), tune_at=(6,))
    assert run_study(path, f'--out={tmp_path}/launched', '--slots=cpu') == 0
    capsys.readouterr()
    for _ in ('the tuning', 'the grid'):
        run_study(path, f'--out={tmp_path}/printed', '--slots=cpu', '--print')
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == '# level 1' and len(lines) > 2
        for line in lines:
            if not line.startswith('#'):
                words = shlex.split(line)
                assert words[:3] == ['CUDA_VISIBLE_DEVICES=', 'OMP_NUM_THREADS=1', 'python']
                assert InProcess(words[2:], {}, None).returncode == 0
        capsys.readouterr()
    folders = sorted(p.parent.relative_to(tmp_path / 'launched')
                     for p in tmp_path.glob('launched/*/*/metrics.jsonl'))
    assert len(folders) == 8
    for folder in folders:
        assert_same_run(tmp_path / 'launched' / folder, tmp_path / 'printed' / folder)

def test_an_arm_starts_from_anothers_end_at_its_budget_and_seed(in_process, overlay, tmp_path):
    path = write_study(tmp_path / 'grid.py', arms={
        'grown': "baseline --n_stages=1 --n_layer=4 --init_from='@shallow one' --init_depth=3 "
                 '--grow_init=zero',
        'shallow one': 'baseline'}, baseline='shallow one', overlays=(str(overlay),), budgets=(4, 8),
        seeds=(3,),
        tune={'grown': {'learning_rate': (0.01, 0.02)}}, tune_seeds=(0,), tune_at=(4,))
    assert run_study(path, f'--out={tmp_path}/out', '--slots=cpu') == 0
    for budget, seed in ((4, 3), (8, 3)):
        config = json.loads((tmp_path / f'out/grown/b{budget}_s{seed}/config.json').read_text())
        assert config['init_from'] == f'{tmp_path}/out/shallow_one/b{budget}_s{seed}'
    tuned = sorted(p.name for p in (tmp_path / 'out' / 'grown').glob('tune*'))
    assert tuned == ['tune_b4_s0_learning_rate=0.01', 'tune_b4_s0_learning_rate=0.02']
    assert json.loads((tmp_path / 'out/grown' / tuned[0] / 'config.json').read_text())['init_from'].endswith(
        'tune_b4_s0'
    )

def test_the_report_is_the_same_from_the_runs_and_from_their_records_elsewhere(in_process, monkeypatch,
                                                                               capsys, overlay,
                                                                               tmp_path):
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(study_file, 'RESULTS', str(tmp_path / 'all results'))
    path = write_study(tmp_path / 'grid.py', **SHARING | {'budgets': (6, 12), 'seeds': (1, 2), 'tune': {
        'full': {'learning_rate': (0.01, 0.02)}},
        'arms': {'full': 'baseline', 'Li': 'incremental_4stage --n_stages=2'}},
        overlays=(str(overlay),))
    Path(path).write_text('# Does it pay?\n' + Path(path).read_text())
    assert run_study(path, f'--out={tmp_path}/out', '--slots=cpu') == 0
    said = capsys.readouterr().out
    names = ('report.md', 'report.csv')
    first = [(tmp_path / 'out' / name).read_text() for name in names]
    assert run_study(path, f'--out={tmp_path}/out', '--collect') == 0
    shutil.rmtree(tmp_path / 'out')
    assert run_study(path, f'--out={tmp_path}/out', '--report') == 0
    assert [(tmp_path / 'all results' / 'grid' / name).read_text() for name in names] == first
    results = tmp_path / 'all results' / 'grid'
    records = results / 'records.jsonl'
    assert f'{tmp_path}/out' not in records.read_text()
    assert (results / 'report.png').stat().st_size > 10_000 and not (tmp_path / 'out').exists()
    page = first[0]
    assert page.startswith('# Does it pay?\n\n**')
    for part in ('8 of 8 runs are finished', '| Li at 12 ', '**Declared questions**', 'learning\\_rate 0.01',
                 'val loss ± sd', '| kept', 'python train.py configs/baseline.py'):
        assert part in page, part
    assert str(tmp_path / 'out') not in page and 'is trained otherwise' not in page
    # What was said before the grid was trained is what its logs say after it.
    planned = re.findall(r'^8 runs, .* spare (\d+\.\d%)', said, re.MULTILINE)
    assert f'spared {planned[0]} of the FLOPs of separate runs' in page
    lines = records.read_text().splitlines(keepends=True)
    lines = [line for line in lines if '"run": "li/b12_s2"' not in line]
    records.write_text(''.join(lines))
    assert run_study(path, f'--out={tmp_path}/out', '--report') == 0
    assert '7 of 8 runs are finished' in (results / 'report.md').read_text()
    assert 'Missing: Li at 12, seed 2.' in (results / 'report.md').read_text()
    assert '![' in page
    # Before the baseline has a run there is nothing to draw, which is no error.
    records.write_text(''.join(line for line in lines if '"run": "full/b' not in line))
    (results / 'report.png').unlink()
    assert run_study(path, f'--out={tmp_path}/out', '--report') == 0
    page = (results / 'report.md').read_text()
    assert '3 of 8 runs' in page and '![' not in page and not (results / 'report.png').exists()

def test_a_run_whose_prefix_is_damaged_trains_everything_itself(in_process, overlay, tmp_path, capsys):
    names = SHARING | {'arms': {'full': 'baseline'}, 'budgets': (6, 12)}
    path = write_study(tmp_path / 'grid.py', **names, overlays=(str(overlay),))
    assert run_study(path, f'--out={tmp_path}/out', '--slots=cpu', '--budgets=12') == 0
    for saved in tmp_path.glob('out/full/b12_s1/ckpt_*.pt'):
        saved.write_bytes(saved.read_bytes()[:1000])
    assert run_study(path, f'--out={tmp_path}/out', '--slots=cpu') == 0
    said = capsys.readouterr().out
    assert 'failed full/b6_s1, once more: error:' in said and 'checkpoints can be read' in said
    assert len(metrics(tmp_path / 'out/full/b6_s1')) > 3

def test_a_full_disk_stops_the_runs_and_the_launcher(in_process, monkeypatch, overlay, tmp_path, capsys):
    def full(*args, **kwargs):
        raise UserError('study.json could not be saved (No space left on device)')

    ended = []
    monkeypatch.setattr(launch, 'atomic_write', full)
    monkeypatch.setattr(InProcess, '__init__', lambda self, *_: setattr(self, 'pid', 2**22))
    monkeypatch.setattr(InProcess, 'terminate', lambda self: ended.append('told'), raising=False)
    monkeypatch.setattr(InProcess, 'wait', lambda self: ended.append('waited'), raising=False)
    path = write_study(tmp_path / 'grid.py', **SHARING, overlays=(str(overlay),))
    with pytest.raises(UserError, match='No space left'):
        run_study(path, f'--out={tmp_path}/out', '--slots=cpu')
    assert ended == ['told', 'waited']
