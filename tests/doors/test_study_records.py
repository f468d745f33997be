"""What study.py makes of records: what is left to run, taken over, held out, drawn. Nothing is trained or
started. Run: python -m pytest tests/doors/test_study_records.py"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fake_study import TWO_ARMS, finish, left, make_study, record_of

import study as door
from core.common import UserError
from core.data import fingerprint, write_shard
from grid.plan import plan_runs
from grid.records import read_records, write_records

ROOT = Path(__file__).parents[2]
NO_BUDGETS = {name: value for name, value in TWO_ARMS.items() if name != 'budgets'}
SCALES = {'w48': '--n_embd=48 --n_head=3', 'w64': '--n_embd=64', 'w96': '--n_embd=96'}

@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)

def part_of(study, **part):
    everything = {'only': '', 'scales': '', 'budgets': '', 'seeds': ''}
    return door.part_of(study, argparse.Namespace(**everything | part))

def test_a_source_of_which_only_the_record_is_left_is_trained_once_it_is_needed(tmp_path):
    arms = {'full': 'baseline', 'on': "baseline --init_from='@full' --init_depth=12"}
    study = make_study(tmp_path, **TWO_ARMS | {'arms': arms, 'budgets': (100,), 'seeds': (1,)})
    both = ['full/b100_s1', 'on/b100_s1']
    finish(study, lambda run: 1.0, [run for run in left(study) if run.arm == 'full'])
    assert [run.folder for run in door.left_of_grid(study, plan_runs(study)[1], part_of(study))] == both
    # With both recorded nothing is needed, unless a part is named.
    finish(study, lambda run: 1.0)
    assert door.left_of_grid(study, plan_runs(study)[1], part_of(study)) == []
    some = door.left_of_grid(study, plan_runs(study)[1], part_of(study, only='on'))
    assert [run.folder for run in some] == both

def test_what_is_held_out_waits_until_its_prediction_is_kept(tmp_path, capsys):
    study = make_study(tmp_path, **NO_BUDGETS | {'scales': SCALES, 'per_parameter': (1, 2), 'seeds': (1, 2),
                                                 'held_out': ('w96',)})
    _, grid = plan_runs(study)
    known = [run for run in grid if run.scale != 'w96']

    def loss(run):
        return 3 * run.flops() ** -0.02 + run.seed / 1000

    # A page of a part of the grid is no prediction yet, however often it is written.
    finish(study, loss, [run for run in known if run.scale == 'w48'])
    for _ in range(2):
        assert not door.may_run_held_out(study, grid)
        assert 'what it is predicted from comes first' in capsys.readouterr().out
    finish(study, loss, known)
    assert not door.may_run_held_out(study, grid)
    assert 'the prediction for w96 is written: keep it' in capsys.readouterr().out
    assert door.may_run_held_out(study, grid)

def test_the_curves_of_runs_under_way_are_drawn(tmp_path):
    study = make_study(tmp_path, **TWO_ARMS)
    _, grid = plan_runs(study)
    door.draw_curves(study, grid)
    assert not os.path.exists(os.path.join(study.out, 'curves.png'))
    for run in grid[:3]:
        folder = Path(study.out, run.folder)
        folder.mkdir(parents=True)
        lines = record_of(run, 1.0)['metrics']
        (folder / 'metrics.jsonl').write_text(json.dumps(lines[0]) + '\n' + json.dumps(lines[1])[:40])
    door.draw_curves(study, grid)
    assert os.path.getsize(os.path.join(study.out, 'curves.png')) > 10_000

def test_watching_says_again_and_again_what_is_done_by_now(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path, **TWO_ARMS)
    said = []

    def sleep(seconds):
        said.append(capsys.readouterr().out)
        finish(study, lambda run: 1.0)
        if len(said) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(door.time, 'sleep', sleep)
    with pytest.raises(KeyboardInterrupt):
        door.watch(study, argparse.Namespace(part=part_of(study)))
    assert '8 waiting' in said[0] and 'the report is' not in said[0]
    assert '8 done' in said[1] and 'the report is' in said[1]

def test_records_of_other_data_are_found_out_before_anything_is_trained(tmp_path):
    folder = tmp_path / 'data'
    folder.mkdir()
    for split in ('train', 'val'):
        write_shard(str(folder / f'x_{split}_000000.bin'), np.arange(1000, dtype=np.uint16))
    study = make_study(tmp_path, **TWO_ARMS | {'settings': TWO_ARMS['settings'] | {'data_dir': str(folder)}})
    finish(study, lambda run: 1.0)
    records = dict(read_records(study.records_path))
    here = fingerprint(str(folder))
    other = here | {'val': here['val'] | {'sha256': 'x'}}
    for data, is_right in ((None, True), (here, True), (other, False)):
        records['li/b200_s2']['info']['data'] = data
        write_records(study.records_path, records)
        if is_right:
            door.check_data(study)
            continue
        with pytest.raises(UserError, match=f'li/b200_s2 was trained on other data than {folder} holds'):
            door.check_data(study)

@pytest.mark.parametrize('typed', ['Li, 8 stages,b', '"Li, 8 stages",b', "b,'Li, 8 stages'"])
def test_a_name_that_holds_commas_is_one_name(tmp_path, typed):
    arms = {'Li, 8 stages': 'incremental_8stage', 'Li': 'incremental_4stage', 'b': 'baseline'}
    study = make_study(tmp_path, **TWO_ARMS | {'arms': arms, 'baseline': 'b'})
    runs = door.selected(plan_runs(study)[1], part_of(study, only=typed))
    assert {run.arm for run in runs} == {'Li, 8 stages', 'b'}

def test_a_number_of_another_process_is_no_launcher():
    assert not door.is_launcher(os.getpid()) and not door.is_launcher(0)
