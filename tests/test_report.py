"""Verdicts as tables, sentences and numbers. Run: python -m pytest tests/test_report.py

tests/golden_report.md, .tex and .json are what compare.py writes of the runs that `golden_runs` makes. Where
a change of them is wanted, the failing test says where the new file lies; read it, then copy it over.
"""

import json
import math
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from fake_runs import power_law, shifted, write_run, write_seeds
from same_report import assert_same_report

from verdict import old_compare as compare
from verdict import report as reports
from verdict import words
from verdict.old_judge import Ratio, judge_runs
from verdict.old_runs import read_runs

GOLDEN = Path(__file__).parent


def report_on(folder, *names, **options):
    paths = [folder / name for name in names] or sorted(folder.iterdir())
    return judge_runs(read_runs([str(path) for path in paths]), **options)


def info(**changes):
    return {'git_commit': 'a' * 40, 'git_dirty': False, 'versions': {'python': '3.11.4', 'torch': '2.13.0',
                                                                     'cuda': None},
            'device': 'NVIDIA H100', 'device_count': 8, 'world_size': 8, 'command': 'train.py', **changes}


def write_questions(path, rights, bits):
    """A hellaswag.jsonl: which questions are right, and the bits of each."""
    lines = []
    for k, (is_right, value) in enumerate(zip(rights, bits)):
        pred = 0 if is_right else 1
        lines.append(json.dumps({'style': 'nanogpt', 'ind': k, 'label': 0, 'pred': pred, 'pred_norm': pred,
                                 'losses': [1.0] * 4,
                                 'losses_norm': [1.0] * 4, 'bits': value, 'margin': 0.1}) + '\n')
    (path / 'hellaswag.jsonl').write_text(''.join(lines))


# ---- golden files


def golden_runs(folder):
    """A ladder of two baselines, a run at each budget with three seeds, a sweep, a single seed, one under
    way."""
    for steps in (500, 1000):
        def decayed(step, steps=steps):
            return power_law(step) + 0.3 * (1 - step / steps)

        common = {'growth_steps': steps, 'lr_schedule': 'wsd', 'acc_norm': 0.3}
        write_seeds(folder, f'full_{steps}', (1, 2, 3), decayed, info=info(), **common)
        write_seeds(folder, f'grown_{steps}', (1, 2, 3), lambda step: decayed(step) + 0.01, n_stages=4,
                    info=info(git_commit='b' * 40, git_dirty=True), **common)
    for rate, shift in ((1e-3, 0.02), (2e-3, 0.01)):
        write_run(folder / f'stack_{rate}', lambda step, shift=shift: decayed(step) + shift, n_stages=2,
                  grow_init='stack',
                  learning_rate=rate, seed=1, **common)
    write_run(folder / '_odd|name$', decayed, n_stages=3, until=500, **common)
    rng = np.random.default_rng(0)
    for k, name in enumerate(('full_1000_seed1', 'grown_1000_seed1')):
        write_questions(folder / name, rng.random(200) < 0.3, rng.normal(1.0 + 0.02 * k, 0.1, 200))


@pytest.fixture(scope='module')
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    golden_runs(folder)
    # Directories and the age of a file are no part of what is compared.
    report = report_on(folder)
    for run in read_runs([str(folder / '_odd|name$')]):
        assert run.written > 0
    return report, str(folder)


def without_places(text, folder):
    for place in (folder, folder.replace('_', r'\_')):  # Markdown and LaTeX escape
        text = text.replace(place + '/', '')
    # every setting that there is: it would change with each new one
    text = text.split('What all runs share')[0]
    return re.sub(r'[\d.]+ (s|min|h) ago', 'AGE ago', text)


@pytest.mark.parametrize('name', ['md', 'tex', 'json'])
def test_the_output_is_the_golden_one(golden, tmp_path, name):
    report, folder = golden
    if name == 'json':
        text = json.dumps(compare.as_json(report), indent=1) + '\n'
    else:
        text = {'md': compare.as_markdown, 'tex': compare.as_latex}[name](report)
    text = without_places(text, folder)
    new = tmp_path / f'golden_report.{name}'
    new.write_text(text)
    print(f'the new one: {new}')
    assert_same_report(text, (GOLDEN / f'golden_report.{name}').read_text())


@pytest.mark.skipif(not shutil.which('pdflatex'), reason='no pdflatex here')
def test_the_latex_compiles(golden, tmp_path):
    document = ['\\documentclass{article}', '\\usepackage{booktabs}', '\\begin{document}',
                compare.as_latex(golden[0]),
                '\\end{document}']
    (tmp_path / 'x.tex').write_text('\n'.join(document))
    done = subprocess.run(['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'x.tex'], cwd=tmp_path)
    assert done.returncode == 0


def test_every_brace_and_environment_of_the_latex_is_closed(golden):
    text = compare.as_latex(golden[0])
    depth = 0
    for mark in re.findall(r'(?<!\\)[{}]', text):
        depth += 1 if mark == '{' else -1
        assert depth >= 0
    assert depth == 0
    for environment in ('table', 'tabular'):
        assert text.count(f'\\begin{{{environment}}}') == text.count(f'\\end{{{environment}}}') > 5
    # In each table every row has as many cells as the header has columns.
    for columns, body in re.findall(r'\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}', text, re.S):
        for row in re.findall(r'^(.*) \\\\$', body, re.M):
            assert len(re.findall(r'(?<!\\)&', row)) == len(columns) - 1


def test_every_table_fits_100_columns(golden):
    for table in reports.tables(golden[0]):
        assert max(len(line) for line in table.text().splitlines()) <= 100, table.title


def test_the_json_has_no_nan_and_the_numbers_of_the_rows(golden):
    text = json.dumps(compare.as_json(golden[0]), allow_nan=False)
    found = json.loads(text)
    assert [row['run'] for row in found['runs']] == [group.name for group in golden[0].groups]
    assert found['ladders'][0]['rungs'][0]['run'] == 'full_500'
    assert {row['run'] for row in found['catch_up']} == {'grown_500', 'grown_1000', 'stack_0.002'}


# ---- sentences


def test_two_seeds_and_one_seed_are_told_what_they_are_worth(tmp_path):
    write_seeds(tmp_path, 'base', (1, 2))
    write_seeds(tmp_path, 'grown', (1, 2), n_stages=4)
    write_run(tmp_path / 'single', n_stages=3)
    sentences = words.verdicts(report_on(tmp_path))
    assert 'not clear (two seeds a side: only a huge difference can show)' in sentences[0]
    assert sentences[1].endswith('no verdict: it takes two seeds or more a side (or --sigma)')
    assert [s for s in sentences if s.startswith('2 seeds a side see differences from')]


def test_what_could_be_seen_is_said_beside_each_baseline(tmp_path):
    """A noisy family's deviation is none of a quiet one's business."""
    for optimizer, sd in (('adamw', 0.03), ('muon', 0.001)):
        for name, stages in (('full', 1), ('grown', 4)):
            write_seeds(tmp_path, f'{name}_{optimizer}', (1, 2, 3), sd=sd, optimizer=optimizer,
                        n_stages=stages)
    report = report_on(tmp_path, baselines=[str(tmp_path / f'full_{o}_seed1') for o in ('adamw', 'muon')])
    for baseline in ('full_adamw', 'full_muon'):
        sides = [group.finals for group in report.groups if group.name.endswith(baseline[5:])]
        sd = np.sqrt(np.mean([finals.var(ddof=1) for finals in sides]))
        said = [text for text in words.verdicts(report) if text.startswith(f'beside {baseline}: ')]
        assert len(said) == 1 and f'the sd between seeds is {sd:.4f}' in said[0]


def test_clear_or_not_clear_is_always_said(tmp_path):
    write_seeds(tmp_path, 'base', (1, 2, 3))
    write_seeds(tmp_path, 'same', (1, 2, 3), n_stages=4)
    write_seeds(tmp_path, 'worse', (1, 2, 3), shifted(power_law, 0.1), n_stages=3)
    same, worse, *_ = words.verdicts(report_on(tmp_path))
    assert same.endswith(': not clear')
    assert worse.endswith(': clear')


def test_bounds_are_said_on_every_axis(tmp_path):
    """By the paper's ledger and the clock, too: a number beyond the first evaluation is no value."""
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', lambda step: power_law(0.02 * step), n_stages=4)
    [sentence] = words.verdicts(report_on(tmp_path))
    assert 'costs at least 20.00x the baseline' in sentence
    assert "at least 20.00x by the paper's ledger, at least 20.00x in seconds" in sentence


def test_a_run_that_begins_below_the_baseline_is_told_so(tmp_path):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', lambda step: 2.0, init_from='gpt2', init_depth=12, n_layer=16)
    [sentence, *_] = words.verdicts(report_on(tmp_path))
    assert sentence.startswith("grown: begins at 2.0000, below the baseline's final loss: it has no cost to "
                               'compare')
    assert 'x the baseline' not in sentence


@pytest.mark.parametrize('value, text', [
    (Ratio(1.18, '', 1.07, 1.28), '1.18 [1.07, 1.28]'), (Ratio(1.18), '1.18'), (Ratio(), '-'),
    (Ratio(1.18, 'at least'), 'at least 1.18'), (Ratio(1.0, 'at most', 0.9, 1.1, low_open=True),
                                                 'at most 1.00 [<0.90, 1.10]'),
    (Ratio(1.0, 'at most', 1.0, 1.0, True, True), 'at most 1.00')])
def test_a_ratio_says_what_is_open(value, text):
    assert words.ratio(value) == text
    assert math.isnan(value.value) or value.inverse().inverse().value == pytest.approx(value.value)


# ---- what to know before believing it


def caveats_on(folder, *names, **options):
    return '\n'.join(words.caveats(report_on(folder, *names, **options)))


def test_code_versions_and_machines_that_differ_are_named(tmp_path):
    write_run(tmp_path / 'base', info=info(cpu_capability='AVX2'))
    write_run(tmp_path / 'a', n_stages=2, info=info(git_commit='b' * 40, git_dirty=True,
                                                    cpu_capability='AVX512'))
    write_run(tmp_path / 'b', n_stages=3, info=info(versions={'python': '3.11.4', 'torch': '2.12.1'},
                                                    world_size=2))
    write_run(tmp_path / 'old', n_stages=4)
    text = caveats_on(tmp_path)
    assert 'the runs differ in code: bbbbbbbbbb + changes (a); aaaaaaaaaa (b, base)' in text
    assert 'the runs differ in torch: 2.13.0 (a, base); 2.12.1 (b)' in text
    assert 'the runs differ in world_size: 8 (a, base); 2 (b)' in text
    assert 'the runs differ in cpu_capability: AVX512 (a); AVX2 (base)' in text
    assert f'{tmp_path}/old: no run.json, so code, versions and machine are unknown' in text
    assert 'differ in python' not in text
    assert 'differ in' not in caveats_on(tmp_path, 'base', 'old')


@pytest.mark.parametrize('setting, told', [
    ({'weight_decay': 0.2}, 'weight_decay 0.2, not 0.1'), ({'decay_fraction': 0.3},
                                                           'decay_fraction 0.3, not 0.1'),
    ({'muon_learning_rate': 0.03}, 'muon_learning_rate 0.03, not 0.02'), ({'optimizer': 'muon'},
                                                                          'optimizer muon, not adamw'),
    ({'learning_rate': 1e-3}, 'learning_rate 0.001, not 0.0006'), ({'shuffle': True},
                                                                   'shuffle True, not False')])
def test_a_run_that_is_trained_otherwise_than_its_baseline_is_told_so(tmp_path, setting, told):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', n_stages=4, **setting)
    assert f'grown is trained otherwise, whatever it grows: {told}' in caveats_on(tmp_path)


def test_what_equal_flops_leave_out_is_said_where_optimizers_differ(tmp_path):
    for name, n_stages in (('base', 1), ('one', 2)):
        write_run(tmp_path / name, n_stages=n_stages, optimizer='muon')
    told = "the ledgers leave out Muon's own matmuls"
    assert told not in caveats_on(tmp_path)
    write_run(tmp_path / 'two', n_stages=2)
    assert caveats_on(tmp_path).count(told) == 1


def test_growing_itself_is_not_trained_otherwise(tmp_path):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', n_stages=4, grow_init='stack', rewarm_steps=10, phase1_fraction=0.2)
    assert caveats_on(tmp_path) == ''


def test_the_best_of_many_is_said_to_be_flattered_by_the_seed_that_chose_it(tmp_path):
    write_run(tmp_path / 'base')
    for rate, shift in ((1e-3, 0.02), (2e-3, 0.0), (4e-3, 0.05)):
        write_run(tmp_path / f'lr{rate}', shifted(power_law, shift), learning_rate=rate, n_stages=4)
    report = report_on(tmp_path)
    assert any('lr0.002 is the best of 3 that were tried, judged with the seeds that chose it' in note
               for note in words.caveats(report))
    table = reports.tried_table(report)
    assert [row[1] for row in table.rows] == ['learning_rate 0.002', 'learning_rate 0.001',
                                              'learning_rate 0.004']
    assert table.rows[0][-1] == 'best of 3'
    # With two seeds that chose nothing it is free of that.
    for seed in (5, 6):
        write_run(tmp_path / f'lr0.002_seed{seed}', learning_rate=2e-3, n_stages=4, seed=seed)
    text = caveats_on(tmp_path)
    assert 'flattered' not in text
    assert 'the seeds that chose it (1337) are not judged' in text


def test_seeds_that_end_alike_to_the_last_digit_are_suspected(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / f'base_seed{seed}', seed=seed)
    assert 'are these copies of one run?' in caveats_on(tmp_path)


def test_two_rungs_far_apart_are_said_to_flatter(tmp_path):
    for steps in (250, 1000):
        write_run(tmp_path / f'base{steps}', growth_steps=steps, lr_schedule='cosine')
    write_run(tmp_path / 'grown', growth_steps=500, n_stages=4, lr_schedule='cosine')
    assert 'has two rungs a factor 4.0 apart' in caveats_on(tmp_path)


def test_a_ladder_that_does_not_fit_says_so(tmp_path):
    for steps in (250, 500, 1000, 2000):
        kink = 0.1 if steps == 500 else 0.0
        write_seeds(tmp_path, f'base{steps}', (1, 2, 3), shifted(power_law, kink), growth_steps=steps,
                    lr_schedule='cosine')
    table = reports.ladder_table(report_on(tmp_path))
    assert 'more than the seeds scatter (lack of fit' in table.note
    assert [row[-1] for row in table.rows] == ['1.00'] * 4


def test_a_checkpoint_whose_cost_nobody_knows_is_said_to_be_free(tmp_path):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', init_from='gpt2', init_depth=12, n_layer=16)
    assert 'grown starts from gpt2; the compute that made it is not counted' in caveats_on(tmp_path)


# ---- tables


def test_a_run_under_way_says_how_far_and_how_long(tmp_path):
    """Half of the steps, at .25 s each: 125 s trained. Late steps cost more FLOPs, and so more of the time
    that is left."""
    write_run(tmp_path / 'run', n_stages=2, until=500)
    [run] = read_runs([str(tmp_path / 'run')])
    done, seconds, left = reports.progress(run)
    assert seconds == 125
    assert 0.2 < done < 0.5
    # one phase so far: the speed is that of the average
    assert left == pytest.approx((1 - done) / done * 125, rel=0.02)
    [row] = reports.progress_table(report_on(tmp_path)).rows
    assert row[:2] == ['run', '500 of 1000']
    assert re.fullmatch(r'\d+ s ago', row[-1])
    run.written = time.time() - 7300
    assert words.duration(time.time() - run.written) == '2.0 h'


def test_a_run_that_has_only_started_has_no_speed(tmp_path):
    write_run(tmp_path / 'run', until=0, every=1000)
    (tmp_path / 'run' / 'metrics.jsonl').unlink()
    [row] = reports.progress_table(report_on(tmp_path)).rows
    assert row[1:] == ['0 of 1000', '0%', '0 s', '-', '-']


def test_the_settings_of_all_runs_are_the_differing_and_the_shared_ones(tmp_path):
    write_run(tmp_path / 'a', learning_rate=1e-3, info=info())
    write_run(tmp_path / 'b', n_stages=4, info=info(world_size=2))
    differing, shared = reports.settings_tables(report_on(tmp_path))
    assert [row[0] for row in differing.rows if row[0]] == ['n_stages', 'learning_rate', 'world_size']
    assert ['', '0.0006', 'b'] in differing.rows
    names = [row[0] for row in shared.rows]
    assert 'weight_decay' in names and 'torch' in names and 'out_dir' not in names
    assert not set(names) & {'n_stages', 'learning_rate', 'world_size'}


def test_paired_scores_are_run_minus_baseline_on_the_same_questions(tmp_path):
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', n_stages=4)
    write_questions(tmp_path / 'base', [1, 1, 0, 0, 0], [1.0, 2.0, 3.0, 4.0, 5.0])
    write_questions(tmp_path / 'grown', [1, 0, 1, 1, 0], [0.9, 1.8, 2.9, 3.8, 4.9])
    report = report_on(tmp_path)
    [(name, pair)] = reports.question_pairs(report)
    assert name == 'grown, seed 1337'
    assert pair.bits == pytest.approx(-0.14)
    [row] = reports.pairs_table(report).rows
    assert row[4:6] == ['+0.2000', '2:1']
    # Other questions say nothing about these two.
    write_questions(tmp_path / 'grown', [1, 0, 1], [0.9, 1.8, 2.9])
    assert reports.pairs_table(report_on(tmp_path)) is None


def test_scores_have_the_errors_that_the_scorer_logged(tmp_path):
    path = write_run(tmp_path / 'base', acc_norm=0.3)
    text = (path / 'metrics.jsonl').read_text()
    more = (
        '"hellaswag_acc_norm": 0.3, "hellaswag_bits": 1.5, "hellaswag_bits_stderr": 0.02, '
        '"hellaswag_margin": 0.25, "hellaswag_margin_stderr": 0.01'
    )
    (path / 'metrics.jsonl').write_text(text.replace('"hellaswag_acc_norm": 0.3', more))
    [row] = reports.scores_table(report_on(tmp_path)).rows
    assert row[2:5] == ['0.3000 ± 0.0229', '1.5000 ± 0.0200', '0.2500 ± 0.0100']


def test_a_multiplier_by_budget_is_a_table_only_where_an_arm_has_several(golden, tmp_path):
    rows = reports.multiplier_table(golden[0]).rows
    assert [row[0] for row in rows] == ['grown', '', 'stack']
    judgments = sorted(golden[0].judgments, key=lambda one: (one.group.arm != 'grown', one.group.budget))
    for row, judgment in zip(rows, judgments):
        cost = judgment.by_axis['flops'].cost
        assert cost.value != pytest.approx(1 / cost.value, rel=0.02)
        assert f'{1 / cost.value:.2f}' in row[2]
    write_run(tmp_path / 'base')
    write_run(tmp_path / 'grown', n_stages=4)
    write_run(tmp_path / 'other', n_stages=4, growth_steps=500, grow_init='stack')
    assert reports.multiplier_table(report_on(tmp_path)) is None
