"""The records in results/: reports and the numbers of docs/results.md come out of them again. Run: python -m
pytest tests/whole/test_results.py"""

import csv
import functools
import re
import shutil
from pathlib import Path

import pytest
from same_report import assert_same_report

import schedule
from config import config_from_dict
from grid import page, plan
from grid.records import read_records

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent.name for path in ROOT.glob('results/*/report.md'))
# What arms may differ in: how they grow, how deep they are, how long they go on, and what was tuned.
GROWTH = {'n_layer', 'n_stages', 'init_from', 'init_depth', 'stage_depths', 'growth_steps', 'stage_steps',
          'stage_fractions', 'phase1_fraction', 'phase1_embeddings', 'continual_steps', 'baseline_steps',
          'grow_init', 'grow_map', 'grow_optimizer', 'rewarm_steps', 'rewarm', 'lr_depth_power',
          'stage_lr_scale'}
TUNED = {'learning_rate', 'muon_learning_rate'}
NUMBER = r'-?\d+(\.\d+)?(e[+-]\d+)?'

@pytest.fixture(params=STUDIES)
def study(request, monkeypatch, tmp_path):
    """A study of the repository, with a copy of its records."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(ROOT / 'results' / request.param, tmp_path / 'results')
    study = plan.load_study(f'studies/{request.param}.py', out=str(tmp_path / 'out'))
    study.results = str(tmp_path / 'results')
    return study

def differing(a, b) -> set:
    """The settings that two runs' training differs by."""
    return {name for name, setting in plan.FIELDS.items()
            if not setting.metadata['free'] and getattr(a, name) != getattr(b, name)}

def test_a_report_comes_out_of_the_records_again(study):
    page.write_report(study)
    for name in ('report.md', 'report.csv'):
        committed = ROOT / 'results' / study.name / name
        assert_same_report(Path(study.results, name).read_text(), committed.read_text())

def test_every_run_has_its_budgets_compute_and_is_trained_as_its_baseline_but_for_growth(study):
    _, runs = plan.plan_runs(study)
    full_steps, baselines = {}, {}
    for run in runs:
        if run.arm == study.baseline[0]:
            full_steps[run.scale] = schedule.step_cost(run.config, 'flops')
        if run.arm in study.baseline:
            baselines[run.config.optimizer, run.scale, run.budget, run.seed] = run
    finished = [run for run in runs if plan.outcome_of(study, run)]
    assert finished
    for run in finished:
        record = read_records(study.records_path)[run.folder]
        last = record['metrics'][-1]
        folder = run.folder
        full_step, steps = full_steps[run.scale], run.budget
        if study.is_ladder:
            steps = round(run.budget * run.parameters / run.config.total_batch_size)
        assert abs(last['flops'] - steps * full_step) <= full_step / 2, folder
        trained = config_from_dict(record['config'], folder)
        baseline = baselines[trained.optimizer, run.scale, run.budget, run.seed].config
        assert differing(trained, baseline) <= GROWTH | TUNED, (folder, differing(trained, baseline))

def test_cpu_rates_trains_what_cpu_growth_trains_but_for_the_learning_rate(monkeypatch, tmp_path):
    """Each of its arms is named after an arm of cpu_growth and what the tuned rate is multiplied by."""
    monkeypatch.chdir(ROOT)
    _, tuned_runs = plan.plan_runs(plan.load_study('studies/cpu_growth.py', out=str(tmp_path / 'growth')))
    tuned = {(run.arm, run.budget, run.seed): run.config for run in tuned_runs}
    factors = {'eighth': 1 / 8, 'quarter': 1 / 4, 'half': 1 / 2, 'twice': 2, 'four times': 4,
               'eight times': 8, 'sixteen times': 16}
    _, runs = plan.plan_runs(plan.load_study('studies/cpu_rates.py', out=str(tmp_path / 'rates')))
    for run in runs:
        arm, factor = run.arm.rsplit(', ', 1)
        config = tuned[arm, run.budget, run.seed]
        rate = 'muon_learning_rate' if config.optimizer == 'muon' else 'learning_rate'
        assert getattr(run.config, rate) == getattr(config, rate) * factors[factor], run.arm
        assert differing(run.config, config) == {rate}, run.arm

def test_cpu_confirm_trains_what_cpu_growth_trains_but_for_the_seed(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    _, found = plan.plan_runs(plan.load_study('studies/cpu_growth.py', out=str(tmp_path / 'growth')))
    configs = {(run.arm, run.budget): run.config for run in found}
    seeds = {run.seed for run in found}
    _, runs = plan.plan_runs(plan.load_study('studies/cpu_confirm.py', out=str(tmp_path / 'confirm')))
    for run in runs:
        assert differing(run.config, configs[run.arm, run.budget]) <= {'seed'}, run.arm
        assert run.seed not in seeds

def claims() -> str:
    """What docs/results.md says, and the README at its top."""
    return (ROOT / 'README.md').read_text().partition('\n![')[0] + (ROOT / 'docs' / 'results.md').read_text()

@functools.cache
def reported_rows() -> list[list[float]]:
    """The numbers of each row of each study's report.csv."""
    rows = []
    for name in STUDIES:
        with open(ROOT / 'results' / name / 'report.csv') as f:
            for row in csv.reader(f):
                rows.append([float(cell) for cell in row if re.fullmatch(NUMBER, cell)])
    return rows

def computed(monkeypatch) -> list[float]:
    """What docs/results.md says beyond the reports: full depth's seeds at 4,000, costs without its third one,
    how often the corpus was read, and where the plateau is."""
    monkeypatch.chdir(ROOT)
    study = plan.load_study('studies/cpu_growth.py')
    _, grid = plan.plan_runs(study)
    far = next(run for run in grid if (run.arm, run.budget, run.seed) == ('full depth', 4_000, 3))
    judged = plan.judge(study, [run for run in grid if run is not far])
    found = [one.cost.value for one in judged.comparisons if one.budget == 4_000]
    corpus = judged.groups[0].runs[0].info['data']['train']['tokens']
    for group in judged.groups:
        found.append(group.last()['tokens'] / corpus)
        if (group.arm, group.budget) == ('full depth', 4_000):
            found += list(group.finals())
    return [*found, plan.outcome_of(study, far).loss, corpus / 1e6, 2.5, 2.7]

def is_among(number: str, values: list[float]) -> bool:
    """Is the number one of these, to its own decimals?"""
    decimals = len(number.partition('.')[2])
    return any(f'{value:.{decimals}f}' == f'{float(number):.{decimals}f}' for value in values)

def test_every_number_of_the_results_is_in_a_report_or_computed_here(monkeypatch):
    known = [value for row in reported_rows() for value in row] + computed(monkeypatch)
    numbers = re.findall(r'(?<![\w.,])-?\d*\.\d+(?![\w%])', claims())
    assert len(numbers) > 100
    assert not [number for number in numbers if not is_among(number, known)]

def test_a_value_and_its_interval_stand_in_one_row_of_a_report():
    number = r'([-+]?\d*\.\d+)'
    found = re.findall(rf'{number}\s\[{number},\s{number}\]', claims())
    assert len(found) > 30
    for together in found:
        assert any(all(is_among(number, row) for number in together) for row in reported_rows()), together

def test_each_cost_in_the_table_is_its_arms_at_its_budget():
    with open(ROOT / 'results' / 'cpu_growth' / 'report.csv') as f:
        rows = {(row['arm'], row['budget']): row for row in csv.DictReader(f)}
    row_of_four = r'^\| ([^|]+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$'
    lines = re.findall(row_of_four, claims(), re.MULTILINE)
    lines = [line for line in lines if re.match(r'[\d.]+ \[', line[1])]
    assert len(lines) == 12
    for arm, *cells in lines:
        for budget, cell in zip(('1000', '4000', '16000'), cells):
            row = rows.get((arm, budget))
            values = [f'{float(row[f"flops:cost{end}"]):.2f}' for end in ('', '_low', '_high')] if row else []
            expected = f'{values[0]} [{values[1]}, {values[2]}]' if values else ''
            assert cell.strip() == expected, (arm, budget)

@pytest.mark.parametrize('arm', ['Bu, random, tau .8', 'Gong, 3 6 12, Muon'])
def test_one_comparison_has_one_cost(arm):
    """Of two studies that compare an arm at one budget only the one that has a ladder has a cost."""
    costs = []
    for name in STUDIES:
        with open(ROOT / 'results' / name / 'report.csv') as f:
            costs += [row['flops:cost'] for row in csv.DictReader(f)
                      if (row['arm'], row['budget']) == (arm, '1000') and row['flops:cost']]
    assert len(costs) == 1
