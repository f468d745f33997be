"""Run directories as data, and which of them are one experiment. Run: python -m
pytest tests/verdict/test_runs.py"""

import json

import numpy as np
import pytest
from fake_runs import RATES, power_law, shifted, write_run

from core.common import UserError
from verdict.runs import Place, loss_at, make_groups, read_run, read_runs

def groups_in(folder, **options):
    groups, _ = make_groups(read_runs([str(path) for path in sorted(folder.iterdir())]), **options)
    return groups

def change_evals(path, change):
    """Rewrite the eval lines of a run."""
    lines = []
    for line in (path / 'metrics.jsonl').read_text().splitlines():
        record = json.loads(line)
        if record['kind'] == 'eval':
            change(record)
        lines.append(json.dumps(record) + '\n')
    (path / 'metrics.jsonl').write_text(''.join(lines))

# ---- reading

def test_a_last_line_that_is_cut_off_does_not_count(tmp_path):
    path = write_run(tmp_path / 'base')
    whole = read_run(str(path))
    text = (path / 'metrics.jsonl').read_bytes()
    (path / 'metrics.jsonl').write_bytes(text[:-2])
    assert len(whole.records) == len(read_run(str(path)).records) + 1

@pytest.mark.parametrize('name, text, said', [
    ('run.json', '{"git_commit": ', 'base/run.json: not a readable run.json'),
    ('run.json', '[1]', 'base/run.json: not a readable run.json'),
    ('config.json', '', 'base/config.json: not a readable config'),
    ('metrics.jsonl', '{"kind": 1}\n{}\n', 'base/metrics.jsonl, line 1: not a line of metrics')])
def test_a_damaged_run_is_named_and_the_others_go_on(tmp_path, capsys, name, text, said):
    write_run(tmp_path / 'grown', n_stages=4)
    (write_run(tmp_path / 'base') / name).write_text(text)
    [run] = read_runs([str(tmp_path / 'base'), str(tmp_path / 'grown')])
    assert run.config.run_name == 'grown'
    assert said in capsys.readouterr().err
    # Alone it is an error.
    with pytest.raises(UserError, match=said):
        read_runs([str(tmp_path / 'base')])

def test_a_growth_that_this_checkout_lacks_is_named_and_the_others_go_on(tmp_path, capsys):
    path = write_run(tmp_path / 'mine', n_stages=4)
    text = (path / 'config.json').read_text()
    (path / 'config.json').write_text(text.replace('"grow_init": "random"', '"grow_init": "of_my_own"'))
    write_run(tmp_path / 'base')
    assert len(read_runs([str(tmp_path)])) == 1
    assert 'of_my_own' in capsys.readouterr().err

def as_record(path, folder):
    """A run directory as a line of records.jsonl."""
    metrics = [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
    info = json.loads((path / 'run.json').read_text())
    config = json.loads((path / 'config.json').read_text())
    return json.dumps({'run': folder, 'config': config, 'info': info, 'metrics': metrics}) + '\n'

def test_records_are_read_as_run_directories_are(tmp_path, capsys):
    lines = []
    for seed, folder in enumerate(('a/s1', 'b/s1')):
        path = write_run(tmp_path / 'out' / folder, shifted(power_law, seed / 100), seed=seed, info={'x': 1})
        lines.append(as_record(path, folder))
    (tmp_path / 'results').mkdir()
    # A torn line is named, and the others go on.
    (tmp_path / 'results' / 'records.jsonl').write_text(lines[0] + '{"run": "c/s1", "conf\n' + lines[1])
    there = read_runs([str(tmp_path / 'out')])
    for given in ('results', 'results/records.jsonl'):
        here = read_runs([str(tmp_path / given)])
        assert 'records.jsonl, line 2: not a record of a run' in capsys.readouterr().err
        assert [run.path for run in here] == [f'{tmp_path}/results/a/s1', f'{tmp_path}/results/b/s1']
        for mine, theirs in zip(here, there):
            assert (mine.config, mine.records, mine.info) == (theirs.config, theirs.records, theirs.info)
            assert mine.ended == 'done'

def test_a_folder_of_runs_is_all_of_them_and_each_counts_once(tmp_path):
    for name in ('a/s1', 'a/s2', 'b/s1'):
        write_run(tmp_path / name)
    paths = [str(tmp_path), str(tmp_path / 'a'), str(tmp_path / 'b' / 's1')]
    assert len(read_runs(paths)) == 3

# ---- how a run ended

@pytest.mark.parametrize('until, info, ended', [
    (None, {}, 'done'), (None, {'ended': 'done'}, 'done'), (500, {'ended': 'diverged'}, 'diverged'),
    (500, {'ended': 'stopped'}, 'stopped'), (500, {}, 'unfinished'), (500, {'ended': 'done'}, 'unfinished')])
def test_how_a_run_ended_is_its_own_record_and_its_last_evaluation(tmp_path, until, info, ended):
    assert read_run(str(write_run(tmp_path / 'base', until=until, info=info))).ended == ended

def test_seeds_that_are_not_done_belong_to_the_group_and_not_to_its_mean(tmp_path):
    write_run(tmp_path / 'a', seed=1)
    write_run(tmp_path / 'b', seed=2, until=500, info={'ended': 'diverged'})
    write_run(tmp_path / 'c', seed=3, until=900, tail=b'{"kind": "train", "step": 920, "tok')
    [group] = groups_in(tmp_path)
    assert group.seeds == (1,)
    assert [(run.seed, run.ended) for run in group.lost] == [(2, 'diverged'), (3, 'unfinished')]
    assert len(group.finals()) == 1
    assert group.mean()['step'][-1] == 1000

# ---- curves

def test_a_mean_over_seeds_is_taken_where_all_of_them_were_evaluated(tmp_path):
    for seed, every in ((1, 30), (2, 70)):
        write_run(tmp_path / f's{seed}', shifted(power_law, seed), every=every, seed=seed,
                  eval_interval=every, rates={'seconds': 0.2 * seed})
    [group] = groups_in(tmp_path)
    mean = group.mean()
    assert list(mean['step']) == [210, 420, 630, 840, 1000]
    np.testing.assert_allclose(mean['loss'], [1.5 + power_law(step) for step in mean['step']])
    np.testing.assert_allclose(mean['flops'], mean['step'] * RATES['flops'])
    assert mean['seconds'][-1] == pytest.approx(300) == group.end('seconds')

def test_losses_are_interpolated_in_the_logarithm_of_the_compute_up_to_one_percent_beyond_the_end(tmp_path):
    """Since budgets are met by whole steps. Nothing is made up before the first evaluation and after that."""
    curve = read_run(str(write_run(tmp_path / 'base', lambda step: float(step), every=500))).curve()
    assert list(curve['step']) == [500, 1000]  # not 0, where no compute is spent
    for axis in ('flops', 'tokens'):
        assert loss_at(curve, axis, np.sqrt(500 * 1000) * RATES[axis]) == pytest.approx(750)
        end = 1000 * RATES[axis]
        assert loss_at(curve, axis, end) == loss_at(curve, axis, 1.0099 * end) == 1000
        assert np.isnan(loss_at(curve, axis, 1.011 * end)) and np.isnan(loss_at(curve, axis, 1.0))

# Whole sequences are what is measured: 4,100 tokens are 4 sequences of 1,024, as 4,096 are.
@pytest.mark.parametrize('tokens, first', [(2048, 500), (4100, 50)])
def test_evaluations_on_other_validation_tokens_than_the_last_are_left_out(tmp_path, tokens, first):
    path = write_run(tmp_path / 'base', val_tokens=4096)
    change_evals(path, lambda record: record.update(val_tokens=tokens if record['step'] < 500 else 4096))
    [group], notes = make_groups(read_runs([str(path)]))
    assert group.mean()['step'][0] == first
    n = 10 * (first == 500)  # of the steps 0, 50, ...
    said = f'{path}: {n} evaluations with other val_tokens than the last one are left out'
    assert notes == ([said] if n else [])

# ---- experiments

def test_seeds_stand_in_their_order_in_whatever_order_runs_come(tmp_path):
    for seed in (10, 2, 1):
        write_run(tmp_path / f'base_seed{seed}', shifted(power_law, seed), seed=seed)
    paths = [str(tmp_path / f'base_seed{seed}') for seed in (10, 1, 2)]
    [group], _ = make_groups(read_runs(paths))
    assert (group.name, group.seeds) == ('base', (1, 2, 10))
    assert list(np.diff(group.finals())) == pytest.approx([1, 8])

@pytest.mark.parametrize('setting', [
    {'weight_decay': 0.2}, {'beta2': 0.99}, {'decay_fraction': 0.3}, {'muon_learning_rate': 0.03},
    {'dtype': 'bfloat16'},
    {'grad_clip': 1.0}, {'dropout': 0.1}, {'shuffle': True}, {'total_batch_size': 262144},
    {'grow_init': 'stack'},
    {'phase1_fraction': 0.25}, {'n_head': 6}, {'vocab_size': 50257}, {'val_tokens': 2097152},
    {'learning_rate': 1e-3},
    {'growth_steps': 1001}, {'rewarm_steps': 10}])
def test_a_run_that_differs_in_one_setting_is_no_further_seed(tmp_path, setting):
    common = {'n_stages': 4, 'dtype': 'float32'}
    write_run(tmp_path / 'a', seed=1, **common)
    write_run(tmp_path / 'b', seed=2, **(common | setting))
    assert len(groups_in(tmp_path)) == 2

@pytest.mark.parametrize('setting', [
    {'eval_interval': 10}, {'batch_size': 1}, {'run_name': 'x'}, {'out_dir': 'y'}, {'log_interval': 7},
    {'device': 'cpu'}, {'hellaswag_limit': 100},
    {'data_dir': '/elsewhere/edu_fineweb10B/'}, {'growth_steps': 400, 'continual_steps': 600}])
def test_what_does_not_change_the_training_does_not_tell_runs_apart(tmp_path, setting):
    write_run(tmp_path / 'a', seed=1)
    write_run(tmp_path / 'b', seed=2, **setting)
    assert len(groups_in(tmp_path)) == 1

def test_data_counts_by_content_not_by_place(tmp_path):
    def info(content):
        return {'data': {'dir': f'/somewhere/{content}', 'train': {'tokens': 10, 'sha256': content}}}

    write_run(tmp_path / 'a', seed=1, data_dir='data/one', info=info('x'))
    write_run(tmp_path / 'b', seed=2, data_dir='moved/two', info=info('x') | {'host': 'another'})
    assert len(groups_in(tmp_path)) == 1
    write_run(tmp_path / 'c', seed=3, data_dir='data/one', info=info('y'))
    assert [group.seeds for group in groups_in(tmp_path)] == [(1, 2), (3,)]

def test_scores_on_other_questions_have_no_mean_losses_do(tmp_path):
    def info(content):
        return {'hellaswag_data': {'n': 1000, 'sha256': content}}

    write_run(tmp_path / 'a', seed=1, acc_norm=0.3, info=info('x'))
    write_run(tmp_path / 'b', seed=2, acc_norm=0.4, hellaswag_data='/moved/questions.jsonl', info=info('x'))
    [group] = groups_in(tmp_path)
    assert group.last()['acc_norm'] == pytest.approx(0.35)
    assert group.last()['acc_norm_sd'] == pytest.approx(0.1 / np.sqrt(2))
    write_run(tmp_path / 'c', seed=3, acc_norm=0.5, info=info('y'))
    [group] = groups_in(tmp_path)
    assert len(group.finals()) == 3
    assert group.last()['acc_norm'] is None

def test_what_auto_was_tells_number_formats_apart(tmp_path):
    write_run(tmp_path / 'a', seed=1, info={'dtype': 'float32'})
    write_run(tmp_path / 'b', seed=2, info={'dtype': 'bfloat16'})
    write_run(tmp_path / 'c', seed=3, dtype='bfloat16')
    assert [group.seeds for group in groups_in(tmp_path)] == [(1,), (2, 3)]

def test_a_repeated_seed_is_left_out_and_that_is_said(tmp_path):
    write_run(tmp_path / 'a', until=500)
    write_run(tmp_path / 'b')
    [group], notes = make_groups(read_runs([str(tmp_path / 'a'), str(tmp_path / 'b')]))
    assert [run.ended for run in group.runs] == ['done']  # it counts, whichever came first
    assert notes == [f'{tmp_path}/a repeats seed 1337 of {tmp_path}/b and is left out']

def test_what_keeps_seeds_from_being_one_group_is_said(tmp_path):
    for seed, dtype in ((1, 'float32'), (2, 'bfloat16'), (3, 'bfloat16')):
        write_run(tmp_path / f'base_seed{seed}', seed=seed, info={'dtype': dtype})
    _, notes = make_groups(read_runs([str(tmp_path)]))
    assert notes == ['base_seed1 (seed 1) and base (seed 2, 3) differ in dtype (float32, bfloat16): they '
                     'are not pooled']

# ---- arms and budgets

def test_a_study_names_its_arms_and_budgets(tmp_path):
    paths = {}
    for arm, budget, seed in (('one', 500, 1), ('one', 500, 2), ('one', 1000, 1), ('two', 500, 1)):
        # Another setting at another budget, and a checkpoint of its own for each seed, is still the arm.
        path = write_run(tmp_path / f'{arm}{budget}_{seed}', seed=seed, growth_steps=budget,
                         learning_rate=1 / budget, init_from=f'out/{seed}', init_depth=12)
        paths[str(path)] = Place(arm, 'w64', budget)
    groups, _ = make_groups(read_runs(list(paths)), paths)
    assert [(group.name, group.arm, group.scale, group.budget, group.seeds) for group in groups] == [
        ('one, w64 at 500', 'one', 'w64', 500, (1, 2)), ('one, w64 at 1,000', 'one', 'w64', 1000, (1,)),
        ('two, w64 at 500', 'two', 'w64', 500, (1,))]

def test_elsewhere_runs_of_equal_compute_up_to_whole_steps_have_one_budget(tmp_path):
    for steps in (500, 1000, 1004, 1100):
        write_run(tmp_path / f'b{steps}', growth_steps=steps)
    assert len({group.budget for group in groups_in(tmp_path)}) == 3

def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    write_run(tmp_path / 'a', run_name='same')
    write_run(tmp_path / 'b', run_name='same', weight_decay=0.3)
    assert [group.name for group in groups_in(tmp_path)] == [f'{tmp_path}/a', f'{tmp_path}/b']
