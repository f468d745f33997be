"""metrics.jsonl, run.json and the trackers. Run: python -m pytest tests/test_metrics.py"""

import json
import os
import sqlite3
import struct
import subprocess
import sys

import pytest

from core.common import UserError
from run import log
from run.log import (
    MetricsWriter,
    Tracker,
    describe_start,
    git_state,
    new_run_info,
    read_metrics,
    read_run_json,
    write_run_json,
)


def record(kind, step, **values):
    counters = {'tokens': step * 10, 'flops': step * 100, 'flops_paper': step * 50, 'seconds': step * 0.5}
    return {'kind': kind, 'step': step, **counters, **values}


def write(path, records):
    writer = MetricsWriter(str(path), 0)
    for r in records:
        writer.write(r)
    writer.close()


# ------------------------------------------------------------------------------------------------------------
# metrics.jsonl


def test_what_is_written_is_read(tmp_path):
    records = [record('train', 1, loss=2.0), record('eval', 1, val_loss=2.5),
               record('phase', 1, phase='phase1', depth=3)]
    write(tmp_path / 'metrics.jsonl', records)
    assert read_metrics(str(tmp_path / 'metrics.jsonl')) == (records, False)
    assert read_metrics(str(tmp_path / 'none.jsonl')) == ([], False)


def test_a_resumed_run_keeps_just_the_lines_that_it_will_not_write_again(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    records = [record('train', 1, loss=1), record('train', 2, loss=1), record('eval', 2, val_loss=1),
               record('phase', 2, phase='phase2', depth=2), record('train', 3, loss=1)]
    write(path, records)
    MetricsWriter(str(path), 2).close()  # a checkpoint at step 2: its evaluation and the growth come again
    assert read_metrics(str(path))[0] == records[:2]


@pytest.mark.parametrize('rest', ['{"kind": "train", "st', '{"kind": "train", "step": 3, "tokens": 30',
                                  '\x00\x00'])
def test_a_truncated_last_line_is_let_pass_and_cut_on_resume(tmp_path, rest):
    path = tmp_path / 'metrics.jsonl'
    write(path, [record('train', 1, loss=1)])
    with open(path, 'a') as f:
        f.write(rest)
    assert read_metrics(str(path)) == ([record('train', 1, loss=1)], True)
    MetricsWriter(str(path), 5).close()
    assert read_metrics(str(path)) == ([record('train', 1, loss=1)], False)


@pytest.mark.parametrize('bad', [
    'no json', '[]', '{"kind": "train"}', json.dumps(record('train', 2) | {'flops': float('nan')}),
    json.dumps(record('train', 2) | {'flops': float('inf')}),
    json.dumps(record('eval', 2, val_loss=float('inf'))),
    json.dumps(record('train', 2) | {'step': '2'}), json.dumps(record('other', 2)), '[' * 100_000,
    json.dumps(record('eval', 2, val_loss=-1)), json.dumps(record('phase', 2, phase=1, depth=2)),
    json.dumps(record('eval', 2, hellaswag_acc_norm=1.5, hellaswag_n=4))])
def test_a_line_in_the_middle_that_is_no_record_is_named(tmp_path, bad):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(json.dumps(record('train', 1)) + '\n' + bad + '\n'
                    + json.dumps(record('train', 3)) + '\n')
    with pytest.raises(UserError, match=r'metrics\.jsonl, line 2: not a line of metrics'):
        read_metrics(str(path))


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


@pytest.mark.parametrize('second, message', [
    (record('train', 1), 'step goes back from 2 to 1'), (record('train', 3) | {'flops': 1},
                                                         'flops goes back from 200 to 1'),
    (record('eval', 2, val_loss=1), 'step 2 is evaluated twice')])
def test_two_runs_in_one_file_are_seen(tmp_path, second, message):
    write(tmp_path / 'metrics.jsonl', [record('eval', 2, val_loss=1), second])
    with pytest.raises(UserError, match=message):
        read_metrics(str(tmp_path / 'metrics.jsonl'))


# ------------------------------------------------------------------------------------------------------------
# run.json


def test_run_json_keeps_its_id_and_facts_over_starts(tmp_path):
    first = new_run_info({}, describe_start(0, 'cpu', 1, 2, None, 'AVX2'), data={'train': {'tokens': 5}},
                         init_from=None)
    write_run_json(str(tmp_path), first)
    assert first['init_from'] is None and len(first['starts']) == 1
    later = describe_start(7, 'gpu', 8, 8, '12.8', None)
    second = new_run_info(read_run_json(str(tmp_path)), later, data=None, init_from=None)
    assert second['run_id'] == first['run_id'] and second['data'] == first['data']
    assert (
        [s['step'] for s in second['starts']] == [0, 7]
        and second['device'] == 'gpu'
        and second['world_size'] == 8
    )
    for name in ('command', 'git_commit', 'git_dirty', 'versions', 'host', 'device', 'device_count',
                 'cpu_capability', 'world_size'):
        assert name in second and name in second['starts'][0]
    assert set(second['versions']) == {'python', 'torch', 'numpy', 'cuda'}


def test_git_state_inside_and_outside_of_a_checkout(tmp_path):
    assert git_state(str(tmp_path)) == (None, None)
    env = dict(os.environ)
    for who in ('AUTHOR', 'COMMITTER'):
        env |= {f'GIT_{who}_NAME': 'a', f'GIT_{who}_EMAIL': 'a@b'}
    (tmp_path / 'f.py').write_text('1')
    for arguments in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'one']):
        subprocess.run(['git', *arguments], cwd=tmp_path, env=env, check=True)
    commit, dirty = git_state(str(tmp_path))
    assert len(commit) == 40 and dirty is False
    (tmp_path / 'data.bin').write_text('not tracked, as data and runs are')
    assert git_state(str(tmp_path)) == (commit, False)
    (tmp_path / 'f.py').write_text('2')
    assert git_state(str(tmp_path)) == (commit, True)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert git_state('.') == (None, None)


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
def test_a_tracker_gets_every_evaluation_once_though_a_resumed_run_repeats_some(tmp_path, kind):
    """Two processes: the second is the resumed run, which evaluates steps 2 and 3 again before it goes on."""
    code = """
import json, sys
from run import log
kind, folder, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
settings = {'n_layer': 2, 'stage_depths': [1, 2]}
tracker = log.Tracker(kind, 'project', folder, 'run', 'group', 'abcd1234', settings)
for step in range(first, last):
    tracker.send({'kind': 'train', 'step': step, 'loss': 1.0})
    tracker.send({'kind': 'eval', 'step': step, 'val_loss': step / 2, 'phase': 'phase1'})
tracker.close()
"""
    env = os.environ | {'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true',
                        'TRACKIO_DIR': str(tmp_path / 'trackio'),
                        'PYTHONPATH': os.getcwd()}
    for first, last in ((1, 4), (2, 6)):
        done = subprocess.run([sys.executable, '-c', code, kind, str(tmp_path), str(first), str(last)],
                              env=env,
                              cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert HISTORY[kind](tmp_path) == [(step, step / 2) for step in range(1, 6)]


def test_nothing_of_a_tracker_is_imported_unless_it_is_named():
    code = ('import sys, train\n'
            'print([name for name in ("wandb", "tensorboard", "trackio", "matplotlib", "pandas") if name in '
            'sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == '[]\n', done.stderr


def test_a_tracker_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    arguments = ('project', str(tmp_path), 'run', 'group', 'id', {})
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(UserError, match=r"tracker is 'wandb', which is not installed: pip install wandb"):
        Tracker('wandb', *arguments)
    monkeypatch.delitem(sys.modules, 'wandb')
    (tmp_path / 'wandb').mkdir()  # a folder of that name is a package to Python
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    with pytest.raises(UserError, match='which is not installed'):
        Tracker('wandb', *arguments)

    def refuse(*arguments):
        raise RuntimeError('no API key\nmore lines')

    monkeypatch.setattr(log.Tracker, 'start_trackio', refuse)
    with pytest.raises(UserError,
                       match=r'the tracker trackio could not be started \(no API key\): mend that') as error:
        Tracker('trackio', *arguments)
    assert '\n' not in str(error.value)
