"""The records in results/: reports and the README's numbers come out of them again. Run: python -m pytest
tests/test_results.py"""

import csv
import re
import shutil
from pathlib import Path

import pytest
from same_report import assert_same_report

import schedule
from config import config_from_dict
from grid import page, plan
from grid.records import read_records

ROOT = Path(__file__).parent.parent
STUDIES = sorted(path.parent.name for path in ROOT.glob('results/*/report.md'))
# What arms may differ in: how they grow, how deep they are, how long they go on, and what was tuned.
GROWTH = {'n_layer', 'n_stages', 'init_from', 'init_depth', 'stage_depths', 'growth_steps', 'stage_steps',
          'stage_fractions', 'phase1_fraction', 'phase1_embeddings', 'continual_steps', 'baseline_steps',
          'grow_init', 'grow_map', 'grow_optimizer', 'rewarm_steps', 'rewarm', 'lr_depth_power',
          'stage_lr_scale'}
TUNED = {'learning_rate', 'muon_learning_rate'}


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
    full_step = schedule.step_cost(next(run for run in runs if run.arm == study.baseline[0]).config, 'flops')
    baselines = {}
    for run in runs:
        if run.arm in study.baseline:
            baselines[run.config.optimizer, run.budget, run.seed] = run
    finished = [run for run in runs if plan.outcome_of(study, run)]
    assert finished
    for run in finished:
        record = read_records(study.records_path)[run.folder]
        last = record['metrics'][-1]
        folder = run.folder
        assert abs(last['flops'] - run.budget * full_step) <= full_step / 2, folder
        trained = config_from_dict(record['config'], folder)
        baseline = baselines[trained.optimizer, run.budget, run.seed].config
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


def readme_on_results() -> str:
    """What the README says of results, at its top and in their section; 0.77x reads as 0.77."""
    readme = (ROOT / 'README.md').read_text()
    section = readme.partition('\n![')[0] + re.search(r'\n## Results\n(.*?)\n## ', readme, re.DOTALL)[1]
    return re.sub(r'(?<=\d)x\b', '', section)


def reported_rows() -> list[list[float]]:
    """The numbers of each row of each study's report.csv."""
    rows = []
    for name in STUDIES:
        with open(ROOT / 'results' / name / 'report.csv') as f:
            for row in csv.reader(f):
                rows.append([float(cell) for cell in row if re.fullmatch(r'-?\d+(\.\d+)?(e[+-]\d+)?', cell)])
    return rows


def is_among(number: str, values: list[float]) -> bool:
    """Is the number one of these, to its own decimals?"""
    decimals = len(number.partition('.')[2])
    return any(f'{value:.{decimals}f}' == f'{float(number):.{decimals}f}' for value in values)


def test_every_number_in_the_readmes_results_and_at_its_top_is_in_a_report():
    known = [value for row in reported_rows() for value in row]
    numbers = re.findall(r'(?<![\w.,])-?\d*\.\d+(?![\w%])', readme_on_results())
    assert not [number for number in numbers if not is_among(number, known)]


def test_a_value_and_its_interval_in_the_readme_stand_in_one_row_of_a_report():
    number = r'([-+]?\d*\.\d+)'
    text = readme_on_results()
    found = re.findall(rf'{number}\s[^[\].;|]*\[(?:{number}|below 1),\s{number}\]', text)
    found += re.findall(rf'{number}[^.;]*?\((?:95%:\s)?{number}\sto\s{number}', text)
    assert len(found) > 40
    rows = reported_rows()
    for together in found:
        numbers = [number for number in together if number]
        assert any(all(is_among(number, row) for number in numbers) for row in rows), together


@pytest.mark.parametrize('name, part, shown', [('cpu_growth', 0, ('difference', 'cost')),
                                               ('cpu_pretrained', 1, ('difference',))])
def test_each_row_of_the_readmes_tables_is_one_run_of_the_report(name, part, shown):
    """Its arm's, of one budget: loss, difference, cost and their intervals stand there together."""
    readme = (ROOT / 'README.md').read_text()
    section = re.search(r'\n## Results\n(.*?)\n## ', readme, re.DOTALL)[1]
    parts = section.split('\n### Growing a trained model\n')
    with open(ROOT / 'results' / name / 'report.csv') as f:
        # A twin that counts the first training has the same losses.
        runs = [run for run in csv.DictReader(f) if not run['arm'].endswith(' + first training')]
    lines = re.findall(r'^\| ([^|]+) \|(.* \d.*)\|$', parts[part], re.MULTILINE)
    assert len(lines) == len(runs)
    for arm, rest in lines:
        numbers = re.findall(r'-?\d+\.\d+', rest)
        same_arm = [run for run in runs if run['arm'] == arm.strip('* ')]
        [run] = [run for run in same_arm if f'{float(run["val_loss"]):.4f}' == numbers[0]]
        names = ('val_loss_sd', *(f'flops:{what}{end}' for what in shown for end in ('', '_low', '_high')))
        values = [float(run[name]) for name in names if run[name]]
        for number, value in zip(numbers[1:], values, strict=True):
            decimals = len(number.partition('.')[2])
            assert number == f'{value:.{decimals}f}', (arm, number, value)
        assert run['verdict'] in rest
