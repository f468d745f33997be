"""Records of finished runs: what is kept, no machine's paths. Run: python -m pytest tests/grid"""

import json
import os
import shlex
from pathlib import Path

import pytest
from fake_runs import write_run

from core.common import UserError
from grid.plan import load_study
from grid.records import make_record, portable, portable_command, read_records, write_records

ROOT = Path(__file__).parents[2]

@pytest.fixture
def study(tmp_path):
    (tmp_path / 'mine.py').write_text("arms = {'full': 'baseline'}\nbaseline = 'full'\nbudgets = (10,)\n"
                                      'seeds = (1,)\n')
    return load_study(str(tmp_path / 'mine.py'), out=f'{tmp_path}/aüs/my runs/')

def test_a_record_holds_the_run_whole_and_no_path_of_the_machine(study, tmp_path):
    run_dir = Path(study.out, 'full', 'b10_s1')
    typed = [f'{ROOT}/train.py', f'{ROOT}/configs/baseline.py', f'--out_dir={run_dir}/', '--seed=1']
    info = {'command': shlex.join(typed),
            'starts': [{'command': shlex.join(['train.py', f'--init_from={study.out}old one/b10_s1'])}],
            'branch_from': {'path': str(run_dir), 'step': 3}, 'init_from': None, 'run_id': 'x'}
    write_run(run_dir, info=info, out_dir=f'{run_dir}/', init_from='scratch', seed=1,
              data_dir='/somewhere/fineweb', hellaswag_data=f'{tmp_path}/questions.jsonl')
    record = make_record(study.name, study.out, 'full/b10_s1', str(run_dir))
    assert str(tmp_path) not in json.dumps(record, ensure_ascii=False)
    assert str(ROOT) not in json.dumps(record)
    assert record['config'] == json.loads((run_dir / 'config.json').read_text()) | {
        'out_dir': 'out/mine/full/b10_s1', 'data_dir': 'fineweb', 'hellaswag_data': 'questions.jsonl'}
    assert record['info']['command'] == ('train.py configs/baseline.py --out_dir=out/mine/full/b10_s1 '
                                         '--seed=1')
    assert record['info']['starts'][0]['command'] == "train.py '--init_from=out/mine/old one/b10_s1'"
    assert record['info']['branch_from'] == {'path': 'out/mine/full/b10_s1', 'step': 3}
    assert record['metrics'] == [json.loads(line) for line in open(run_dir / 'metrics.jsonl')]

def test_a_path_is_told_from_a_text_and_an_address(study):
    for text in ('', 'scratch', 'gpt2', 'https://host/a/b.jsonl'):
        assert portable(study.name, study.out, text) == text
    assert portable(study.name, study.out, os.path.join(ROOT, 'data/demo')) == 'data/demo'
    # A folder beside it whose name begins alike is another one.
    assert portable(study.name, study.out, f'{study.out.rstrip("/")}2/run') == 'run'
    command = "train.py --shuffle --tracker_project=/a/b '--eval_after_growth=(100,300)' --resume=auto"
    assert portable_command(study.name, study.out, command) == command

def test_records_are_read_as_written_and_a_line_that_is_none_is_named(tmp_path):
    path = str(tmp_path / 'records.jsonl')
    assert read_records(path) == {}
    records = {name: {'run': name, 'config': {'seed': 1}, 'info': {}, 'metrics': [{'step': 0.1}]}
               for name in ('a/b', 'c/d')}
    write_records(path, records)
    assert read_records(path) == records
    whole = Path(path).read_text()
    for line in ('<<<<<<< HEAD', '{"run": "x"}', '[]', '{"run": 1, "config": {}, "info": {}, "metrics": []}'):
        Path(path).write_text(whole + line + '\n')
        with pytest.raises(UserError, match=r'records.jsonl, line 3: not the record of a run'):
            read_records(path)

def test_no_record_in_results_names_a_place_of_a_machine():
    for path in ROOT.glob('results/*/records.jsonl'):
        for record in read_records(str(path)).values():
            config = record['config']
            assert config['out_dir'] == f'out/{path.parent.name}/{record["run"]}'
            assert not os.path.isabs(config['data_dir']) and not os.path.isabs(config['init_from'])
            assert '=/' not in record['info'].get('command', '')
