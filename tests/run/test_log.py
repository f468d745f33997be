"""metrics.jsonl, run.json and the trackers. Run: python -m pytest tests/run/test_log.py"""

import base64
import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
import time
import types
import zlib

import pytest
import torch

import schedule
from config import TrainConfig
from core.common import UserError
from run import log
from run.log import RunLog, Tracker, git_state, read_metrics, read_run_json

def job_in(folder, **settings):
    """A run of 5 steps as RunLog knows it, in `folder`."""
    settings = {'growth_steps': 5, 'continual_steps': 0, 'log_interval': 1, 'run_name': 'run'} | settings
    config = TrainConfig(out_dir=str(folder), **settings)
    return types.SimpleNamespace(config=config, plan=schedule.plan(config), rank=0, world_size=2,
                                 device=torch.device('cpu'), amp=contextlib.nullcontext(), questions=None,
                                 tokenizer='gpt2',
                                 fingerprint={'train': {'tokens': 5}}, grad_accum_steps=1,
                                 val_sets={'val_loss': None})

def state_at(step):
    model = types.SimpleNamespace(depth=12, parameters=list)
    return types.SimpleNamespace(step=step, clock={'seconds': step * 0.5}, model=model, init_from=None)

def resume(folder, step, prefix_dir='', **settings):
    """The log of a run that starts at `step`."""
    opened = RunLog(job_in(folder, **settings), step, str(prefix_dir))
    opened.open(state_at(step))
    return opened

def record(kind, step, **values):
    counters = {'tokens': step * 10, 'flops': step * 100, 'flops_paper': step * 50, 'seconds': step * 0.5}
    return {'kind': kind, 'step': step, **counters, **values}

def write(path, records):
    path.write_text(''.join(json.dumps(r) + '\n' for r in records))

# ------------------------------------------------------------------------------------------------------------
# metrics.jsonl

def test_what_is_written_is_read(tmp_path):
    records = [record('train', 1, loss=2.0), record('eval', 1, val_loss=2.5),
               record('phase', 1, phase='phase1', depth=3)]
    path = tmp_path / 'metrics.jsonl'
    write(path, records)
    assert read_metrics(str(path)) == (records, False)
    path.write_text(path.read_text()[:-1])  # whole, but for its last line break
    assert read_metrics(str(path)) == (records, False)
    assert read_metrics(str(tmp_path / 'none.jsonl')) == ([], False)

def test_a_resumed_run_keeps_just_the_lines_that_it_will_not_write_again(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    records = [record('train', 1, loss=1), record('train', 2, loss=1), record('eval', 2, val_loss=1),
               record('phase', 2, phase='phase2', depth=2), record('train', 3, loss=1)]
    write(path, records)
    resume(tmp_path, 2)  # a checkpoint at step 2: its evaluation and the growth come again
    assert read_metrics(str(path))[0] == records[:2]

@pytest.mark.parametrize('rest', ['{"kind": "train", "st', '{"kind": "train", "step": 3, "tokens": 30',
                                  '\x00\x00'])
def test_a_truncated_last_line_is_let_pass_and_cut_on_resume(tmp_path, rest):
    path = tmp_path / 'metrics.jsonl'
    write(path, [record('train', 1, loss=1)])
    with open(path, 'a') as f:
        f.write(rest)
    assert read_metrics(str(path)) == ([record('train', 1, loss=1)], True)
    resume(tmp_path, 5)
    assert read_metrics(str(path)) == ([record('train', 1, loss=1)], False)

def test_a_run_has_its_last_evaluation_only_if_that_is_of_its_last_step_and_whole(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    assert not log.has_last_eval(str(tmp_path), 100)
    for records, finished in (([], False), ([record('eval', 40, val_loss=2)], False),
                              ([record('train', 100, loss=1)], False),
                              ([record('eval', 100, val_loss=1)], True)):
        write(path, records)
        assert log.has_last_eval(str(tmp_path), 100) == finished, records
    path.write_bytes(path.read_bytes()[:-5])
    assert not log.has_last_eval(str(tmp_path), 100)

# ------------------------------------------------------------------------------------------------------------
# run.json

def test_run_json_keeps_its_id_and_facts_over_starts(tmp_path):
    resume(tmp_path, 0)
    first = read_run_json(str(tmp_path))
    assert first['init_from'] is first['branch_from'] is None and len(first['starts']) == 1
    resume(tmp_path, 3)
    second = read_run_json(str(tmp_path))
    assert second['run_id'] == first['run_id'] and second['data'] == first['data']
    assert [start['step'] for start in second['starts']] == [0, 3]
    for name in ('command', 'git_commit', 'git_dirty', 'git_diff', 'versions', 'host', 'device',
                 'device_count', 'cpu_capability', 'world_size'):
        assert name in second and name in second['starts'][0]
    assert set(second['versions']) == {'python', 'torch', 'numpy', 'cuda'}

def test_a_branch_is_in_run_json_until_a_start_without_it(tmp_path):
    (tmp_path / 'a').mkdir()
    resume(tmp_path / 'a', 0)
    write(tmp_path / 'a' / 'metrics.jsonl', [record('train', 1, loss=1), record('train', 2, loss=1)])
    (tmp_path / 'b').mkdir()
    resume(tmp_path / 'b', 2, prefix_dir=tmp_path / 'a')
    branch = read_run_json(str(tmp_path / 'b'))['branch_from']
    assert (branch['path'], branch['step']) == (str(tmp_path / 'a'), 2)
    assert branch['run_id'] == read_run_json(str(tmp_path / 'a'))['run_id']
    assert [r['step'] for r in read_metrics(str(tmp_path / 'b' / 'metrics.jsonl'))[0]] == [1, 2]
    resume(tmp_path / 'b', 3)
    assert read_run_json(str(tmp_path / 'b'))['branch_from'] == branch
    resume(tmp_path / 'b', 0)
    assert read_run_json(str(tmp_path / 'b'))['branch_from'] is None

@pytest.mark.parametrize('ended', ['done', 'stopped', 'diverged'])
def test_how_a_run_ended_is_in_its_record_until_it_goes_on(tmp_path, capsys, ended):
    opened = resume(tmp_path, 0)
    opened.record('phase', state_at(0), opened.job.plan.phases[0], n_frozen=0)
    opened.close(state_at(4), ended)
    info = read_run_json(str(tmp_path))
    assert (info['ended'], info['ended_step']) == (ended, 4)
    assert ('--resume' in capsys.readouterr().out) == (ended == 'stopped')
    resume(tmp_path, 4)
    assert 'ended' not in read_run_json(str(tmp_path))

def test_git_state_inside_and_outside_of_a_checkout(tmp_path, monkeypatch):
    assert git_state(str(tmp_path)) == (None, None, None)
    env = dict(os.environ)
    for who in ('AUTHOR', 'COMMITTER'):
        env |= {f'GIT_{who}_NAME': 'a', f'GIT_{who}_EMAIL': 'a@b'}
    (tmp_path / 'f.py').write_text('1')
    for arguments in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'one']):
        subprocess.run(['git', *arguments], cwd=tmp_path, env=env, check=True)
    commit, dirty, diff = git_state(str(tmp_path))
    assert len(commit) == 40 and dirty is False and diff is None
    (tmp_path / 'data.bin').write_text('not tracked, as data and runs are')
    assert git_state(str(tmp_path)) == (commit, False, None)
    (tmp_path / 'f.py').write_text('2')
    again, dirty, diff = git_state(str(tmp_path))
    assert (again, dirty) == (commit, True)
    patch = zlib.decompress(base64.b64decode(diff))
    subprocess.run(['git', 'checkout', '-q', 'f.py'], cwd=tmp_path, check=True)
    subprocess.run(['git', 'apply'], input=patch, cwd=tmp_path, check=True)  # the code as it ran
    assert (tmp_path / 'f.py').read_text() == '2'
    (tmp_path / 'f.py').write_bytes(os.urandom(log.LARGEST_DIFF))
    assert git_state(str(tmp_path)) == (commit, True, None)
    monkeypatch.setenv('PATH', str(tmp_path))  # without git
    assert git_state(str(tmp_path)) == (None, None, None)

def test_a_damaged_run_json_is_named(tmp_path):
    assert read_run_json(str(tmp_path)) == {}
    for text in ('{"run_id": ', '[]'):
        (tmp_path / 'run.json').write_text(text)
        with pytest.raises(UserError, match=r'run\.json: not a readable run\.json'):
            read_run_json(str(tmp_path))

# ------------------------------------------------------------------------------------------------------------
# trackers, the real packages, offline

def wandb_history(folder) -> list[tuple]:
    """(step, val_loss) of every logged record in wandb's offline files, which are in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob('wandb/offline-run-*/*.wandb')):
        raw = path.read_bytes()
        place, text = 7, b''
        while place + 7 <= len(raw):
            if 32768 - place % 32768 < 7:  # no header fits into the rest of a block
                place += 32768 - place % 32768
                continue
            _, length, kind = struct.unpack('<IHB', raw[place:place + 7])
            # middle and last parts
            text = (text if kind in (3, 4) else b'') + raw[place + 7:place + 7 + length]
            place += 7 + length
            if kind not in (1, 4):
                continue
            message = wandb_internal_pb2.Record()
            message.ParseFromString(text)
            if message.WhichOneof('record_type') == 'history':
                names = {item.key or item.nested_key[0]: item.value_json for item in message.history.item}
                if 'eval/val_loss' in names:
                    found.append((int(names['_step']), float(names['eval/val_loss'])))
    return found

def tensorboard_history(folder) -> list[tuple]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / 'tensorboard')).Reload()
    return [(e.step, e.value) for e in events.Scalars('eval/val_loss')]

def trackio_history(folder) -> list[tuple]:
    found = []
    for path in folder.glob('trackio/*.db'):
        for step, text in sqlite3.connect(path).execute('SELECT step, metrics FROM metrics ORDER BY id'):
            values = json.loads(text)
            if 'eval/val_loss' in values:
                found.append((step, values['eval/val_loss']))
    return found

HISTORY = {'wandb': wandb_history, 'tensorboard': tensorboard_history, 'trackio': trackio_history}

@pytest.mark.slow
@pytest.mark.parametrize('kind', HISTORY)
def test_a_tracker_gets_every_evaluation_once_though_a_resumed_run_repeats_some(tmp_path, monkeypatch, kind):
    """The second one is the resumed run, which evaluates steps 2 and 3 again before it goes on."""
    monkeypatch.chdir(tmp_path)
    for name, value in (('WANDB_MODE', 'offline'), ('WANDB_SILENT', 'true'),
                        ('TRACKIO_DIR', str(tmp_path / 'trackio'))):
        monkeypatch.setenv(name, value)
    config = TrainConfig(tracker=kind, tracker_project='project', out_dir=str(tmp_path), run_name='run')
    for first, last in ((1, 4), (2, 6)):
        tracker = Tracker(config, 'abcd1234')
        for step in range(first, last):
            tracker.send(record('train', step, loss=1.0))
            tracker.send(record('eval', step, val_loss=step / 2, phase='phase1'))
        tracker.close()
        time.sleep(1.01 if kind == 'wandb' else 0)  # it names its folders by the second
    assert HISTORY[kind](tmp_path) == [(step, step / 2) for step in range(1, 6)]

def test_nothing_of_a_tracker_is_imported_unless_it_is_named():
    code = ('import sys, train\n'
            'print([name for name in ("wandb", "tensorboard", "trackio", "matplotlib", "pandas") if name in '
            'sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == '[]\n', done.stderr

def test_a_tracker_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError('no API key\nmore lines')

    config = TrainConfig(tracker='trackio', out_dir=str(tmp_path), run_name='run')
    monkeypatch.setattr(log.Tracker, 'start_trackio', refuse)
    message = r'the tracker trackio could not be started \(no API key\): .*pip install trackio'
    with pytest.raises(UserError, match=message) as error:
        Tracker(config, 'id')
    assert '\n' not in str(error.value)
    (tmp_path / 'tracker.json').write_text('[1]')
    with pytest.raises(UserError, match=r'tracker\.json: not a tracker\.json'):
        Tracker(config, 'id')
