"""Run directories as data, and which of them are one experiment. Run: python -m pytest tests/test_runs.py"""

import json

import numpy as np
import pytest
from fake_runs import RATES, power_law, shifted, write_run, write_seeds

from core.common import UserError
from verdict.old_runs import arm_name, make_groups, mean_curve, read_run, read_runs


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


def test_a_last_line_without_its_line_break_counts_if_it_is_whole(tmp_path):
    path = write_run(tmp_path / 'base')
    text = (path / 'metrics.jsonl').read_bytes()
    (path / 'metrics.jsonl').write_bytes(text[:-1])
    whole = read_run(str(path))
    (path / 'metrics.jsonl').write_bytes(text[:-2])
    truncated = read_run(str(path))
    assert not whole.truncated
    assert truncated.truncated
    assert len(whole.records) == len(truncated.records) + 1


def test_patterns_are_expanded_where_no_shell_did(tmp_path, capsys):
    for name in ('b', 'a', 'other'):
        write_run(tmp_path / name)
    (tmp_path / 'a file').write_text('')
    runs = read_runs([str(tmp_path / '[ab]'), str(tmp_path / '*')])
    assert [run.config.run_name for run in runs] == ['a', 'b', 'other']
    assert 'a file is passed over' in capsys.readouterr().err
    with pytest.raises(UserError, match='nothing there matches'):
        read_runs([str(tmp_path / 'x*')])
    # A folder whose name looks like a pattern is that folder.
    write_run(tmp_path / 'run[1]')
    assert len(read_runs([str(tmp_path / 'run[1]')])) == 1


def test_a_damaged_run_json_is_named(tmp_path):
    path = write_run(tmp_path / 'base')
    for text in ('{"git_commit": ', '[1]'):
        (path / 'run.json').write_text(text)
        with pytest.raises(UserError, match=r'base/run.json: not a readable run.json'):
            read_run(str(path))


# ---- curves


def test_seeds_that_were_evaluated_at_other_steps_are_interpolated_then_averaged(tmp_path):
    """Between two evaluations the loss is straight in log steps; these curves are, so that the mean is exact
    everywhere."""
    def straight(height):
        return lambda step: height - 0.2 * np.log(max(step, 1))

    write_run(tmp_path / 's1', straight(5.0), every=30, seed=1, eval_interval=30)
    write_run(tmp_path / 's2', straight(6.0), every=70, seed=2, eval_interval=70)
    [group] = groups_in(tmp_path)
    mean = group.mean
    expected = {*range(90, 1000, 30), *range(70, 1000, 70), 1000}
    assert set(mean.step) == expected  # from the later first evaluation on; all of both
    np.testing.assert_allclose(mean.loss, 5.5 - 0.2 * np.log(mean.step), rtol=1e-9)
    np.testing.assert_allclose(mean.flops, mean.step * RATES['flops'])


def test_an_evaluation_at_step_0_changes_nothing_but_the_start(tmp_path):
    write_run(tmp_path / 'with', power_law)
    write_run(tmp_path / 'without', power_law)
    lines = (tmp_path / 'without' / 'metrics.jsonl').read_text().splitlines(keepends=True)
    kept = [line for line in lines if not ('"eval"' in line and '"step": 0,' in line)]
    assert len(kept) == len(lines) - 1
    (tmp_path / 'without' / 'metrics.jsonl').write_text(''.join(kept))
    [first], [second] = [make_groups(read_runs([str(tmp_path / name)]))[0] for name in ('with', 'without')]
    np.testing.assert_array_equal(first.mean.loss, second.mean.loss)
    assert first.mean.step[0] == 50
    assert first.start_loss == power_law(0)
    assert second.start_loss is None


def test_losses_are_interpolated_in_the_logarithm_of_the_compute(tmp_path):
    [group] = make_groups(read_runs([str(write_run(tmp_path / 'base', lambda step: float(step),
                                                   every=500))]))[0]
    between = np.sqrt(500 * 1000) * RATES['flops']
    assert group.losses_at('flops', between) == pytest.approx([750])
    assert group.losses_at('flops', np.array([1.0, 1e20])).tolist() == [[500], [1000]]


def test_a_mean_over_the_clock_is_the_mean_of_the_clocks(tmp_path):
    for seed, seconds in ((1, 0.2), (2, 0.4)):
        write_run(tmp_path / f's{seed}', seed=seed, rates={'seconds': seconds})
    [group] = groups_in(tmp_path)
    assert group.end('seconds') == pytest.approx(300)
    assert mean_curve(group.curves).seconds[-1] == pytest.approx(300)


def test_evaluations_on_other_validation_tokens_than_the_last_are_left_out_and_that_is_said(tmp_path):
    path = write_run(tmp_path / 'base', val_tokens=4096)
    change_evals(path, lambda record: record.update(val_tokens=2048 if record['step'] < 500 else 4096))
    [group], notes = make_groups(read_runs([str(path)]))
    assert group.mean.step[0] == 500
    assert any('10 evaluations with other val_tokens' in note for note in notes)
    # Whole sequences are what is measured: 4,100 tokens are 4 sequences of 1,024, as 4,096 are.
    change_evals(path, lambda record: record.update(val_tokens=4100 if record['step'] < 500 else 4096))
    [group], notes = make_groups(read_runs([str(path)]))
    assert group.mean.step[0] == 50
    assert not notes


def test_scores_on_fewer_questions_than_the_last_are_left_out(tmp_path):
    path = write_run(tmp_path / 'base', acc_norm=0.3)
    change_evals(path, lambda record: record.update(hellaswag_n=100 if record['step'] < 500 else 400))
    scores, others = read_run(str(path)).scores()
    assert others == 10
    assert {record['hellaswag_n'] for record in scores} == {400}


# ---- experiments


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    write_seeds(tmp_path, 'base', (1, 2, 7))
    [group] = groups_in(tmp_path)
    assert group.name == 'base'
    assert group.seeds == [1, 2, 7]


@pytest.mark.parametrize('setting', [
    {'weight_decay': 0.2}, {'beta2': 0.99}, {'decay_fraction': 0.3}, {'muon_learning_rate': 0.03},
    {'dtype': 'bfloat16'},
    {'grad_clip': 1.0}, {'dropout': 0.1}, {'shuffle': True}, {'total_batch_size': 262144},
    {'grow_init': 'stack'},
    {'phase1_fraction': 0.25}, {'n_head': 6}, {'vocab_size': 50257}, {'val_tokens': 2097152},
    {'learning_rate': 1e-3},
    {'hellaswag_limit': 100}, {'growth_steps': 1001}, {'rewarm_steps': 10}])
def test_a_run_that_differs_in_one_setting_is_no_further_seed(tmp_path, setting):
    common = {'n_stages': 4, 'dtype': 'float32'}
    write_run(tmp_path / 'a', seed=1, **common)
    write_run(tmp_path / 'b', seed=2, **(common | setting))
    assert len(groups_in(tmp_path)) == 2


@pytest.mark.parametrize('setting', [
    {'eval_interval': 10}, {'batch_size': 16}, {'run_name': 'x'}, {'out_dir': 'y'}, {'log_interval': 7},
    {'device': 'cpu'},
    {'data_dir': '/elsewhere/edu_fineweb10B/'}, {'growth_steps': 400, 'continual_steps': 600}])
def test_what_does_not_change_the_training_does_not_tell_runs_apart(tmp_path, setting):
    write_run(tmp_path / 'a', seed=1)
    write_run(tmp_path / 'b', seed=2, **setting)
    assert len(groups_in(tmp_path)) == 1


def test_data_counts_by_content_not_by_place(tmp_path):
    def info(content):
        return {'data': {'dir': f'/somewhere/{content}', 'train': {'tokens': 10, 'sha256_1mb': content}}}

    write_run(tmp_path / 'a', seed=1, data_dir='data/one', info=info('x'))
    write_run(tmp_path / 'b', seed=2, data_dir='moved/two', info=info('x') | {'host': 'another'})
    assert len(groups_in(tmp_path)) == 1
    write_run(tmp_path / 'c', seed=3, data_dir='data/one', info=info('y'))
    assert [group.seeds for group in groups_in(tmp_path)] == [[1, 2], [3]]


def test_questions_count_by_content_not_by_place(tmp_path):
    def info(content):
        return {'hellaswag_data': {'n': 1000, 'sha256': content}}

    write_run(tmp_path / 'a', seed=1, hellaswag_data='data/demo/hellaswag.jsonl', info=info('x'))
    write_run(tmp_path / 'b', seed=2, hellaswag_data='/moved/questions.jsonl', info=info('x'))
    assert len(groups_in(tmp_path)) == 1
    write_run(tmp_path / 'c', seed=3, hellaswag_data='data/demo/hellaswag.jsonl', info=info('y'))
    assert [group.seeds for group in groups_in(tmp_path)] == [[1, 2], [3]]


def test_what_auto_was_tells_number_formats_apart(tmp_path):
    write_run(tmp_path / 'a', seed=1, info={'dtype': 'float32'})
    write_run(tmp_path / 'b', seed=2, info={'dtype': 'bfloat16'})
    write_run(tmp_path / 'c', seed=3, dtype='bfloat16')
    assert [group.seeds for group in groups_in(tmp_path)] == [[1], [2, 3]]


def test_a_run_from_before_run_json_has_the_content_that_its_folder_s_name_has_elsewhere(tmp_path):
    write_run(tmp_path / 'a', seed=1, data_dir='data/one', info={'data': {'train': {'sha256': 'x'}}})
    write_run(tmp_path / 'b', seed=2, data_dir='/other/one')
    assert len(groups_in(tmp_path)) == 1


def test_a_repeated_seed_is_left_out_and_that_is_said(tmp_path):
    write_run(tmp_path / 'a', n_stages=4)
    write_run(tmp_path / 'b', n_stages=4)
    [group], notes = make_groups(read_runs([str(tmp_path / 'a'), str(tmp_path / 'b')]))
    assert len(group.runs) == 1
    assert notes == [f'{tmp_path}/b repeats seed 1337 of {tmp_path}/a and is left out: a repetition tells '
                     'nothing about the spread']


def test_an_unfinished_run_is_a_group_of_its_own(tmp_path):
    write_run(tmp_path / 'a', seed=1)
    write_run(tmp_path / 'b', seed=2, until=500)
    write_run(tmp_path / 'c', seed=3, until=900, tail=b'{"kind": "train", "step": 920, "tok')
    first, second, third = groups_in(tmp_path)
    assert first.flags == []
    assert second.flags == ['unfinished: step 500 of 1000']
    assert third.flags == ['unfinished: step 900 of 1000, last line truncated']


# ---- arms, and the best of several


def test_the_best_of_several_learning_rates_counts(tmp_path):
    for rate, shift in ((1e-3, 0.02), (2e-3, 0.0), (4e-3, 0.05)):
        write_run(tmp_path / f'lr{rate}', shifted(power_law, shift), learning_rate=rate)
    groups = groups_in(tmp_path)
    assert [group.is_best for group in groups] == [False, True, False]
    assert groups[1].tried == 3
    assert groups[1].biased  # it's judged with the seed that chose it
    assert {group.arm for group in groups} == {'lr0.001'}
    # Another setting is no matter of tuning, unless somebody says so.
    write_run(tmp_path / 'wd', learning_rate=1e-3, weight_decay=0.3)
    assert len({group.arm for group in groups_in(tmp_path)}) == 2
    assert len({group.arm for group in groups_in(tmp_path, tuned=('learning_rate', 'weight_decay'))}) == 1


def test_seeds_that_chose_are_not_judged_where_there_are_two_others(tmp_path):
    write_run(tmp_path / 'low_seed9', shifted(power_law, 0.02), learning_rate=1e-3, seed=9)
    for seed, shift in ((9, 0.0), (1, 0.01), (2, 0.03)):
        write_run(tmp_path / f'high_seed{seed}', shifted(power_law, shift), learning_rate=2e-3, seed=seed)
    best, other = groups_in(tmp_path)
    assert best.is_best
    assert not other.is_best
    assert not best.biased
    assert best.left_out == (9,)
    # Group order is the order of files; the finals are those of seeds 1 and 2.
    assert sorted(best.finals) == pytest.approx([power_law(1000) + 0.01, power_law(1000) + 0.03])


def test_the_choice_is_made_on_the_seeds_that_all_have(tmp_path):
    """The rate that is worse on seed 9 doesn't win by a lucky seed of its own."""
    for seed, shift in ((9, 0.01), (8, -0.5)):
        write_run(tmp_path / f'lucky_seed{seed}', shifted(power_law, shift), learning_rate=1e-3, seed=seed)
    write_run(tmp_path / 'steady_seed9', power_law, learning_rate=2e-3, seed=9)
    groups = {group.runs[0].config.learning_rate: group for group in groups_in(tmp_path)}
    assert groups[2e-3].is_best
    assert not groups[1e-3].is_best


def test_budgets_of_one_schedule_are_one_arm_and_not_rivals(tmp_path):
    for steps in (500, 1000, 1004):
        write_run(tmp_path / f'b{steps}', growth_steps=steps, lr_schedule='cosine')
        write_run(tmp_path / f'g{steps}', growth_steps=steps, n_stages=4, lr_schedule='cosine')
    groups = {group.name: group for group in groups_in(tmp_path)}
    assert groups['b500'].arm == groups['b1000'].arm != groups['g500'].arm == groups['g1000'].arm
    assert groups['b500'].tried == 1
    assert groups['b1000'].tried == 2  # 0.4% more steps are the same budget


@pytest.mark.parametrize('names, name', [
    (['grown_500', 'grown_1000'], 'grown'), (['stack_0.001', 'stack_0.002'], 'stack'),
    (['base_b2', 'base_b16'], 'base_b'),
    (['one'], 'one'), (['lr1', 'lr2'], 'lr1'), (['a', 'b'], 'a'), (['out/a/run', 'out/b/run'], 'out/a/run')])
def test_an_arm_is_called_by_what_its_groups_have_in_common(names, name):
    assert arm_name(names) == name


def test_two_arms_are_not_called_alike(tmp_path):
    for steps in (500, 1000):
        write_run(tmp_path / f'run_a{steps}', growth_steps=steps)
        write_run(tmp_path / f'run_b{steps}', growth_steps=steps, n_stages=4)
        write_run(tmp_path / f'run_{steps}', growth_steps=steps, n_stages=2)
    write_run(tmp_path / 'run', n_stages=3)
    groups = groups_in(tmp_path)
    arms = {}
    for group in groups:
        arms.setdefault(group.arm, []).append(group.config.n_stages)
    assert sorted(arms.values()) == [[1, 1], [2, 2], [3], [4, 4]]


def test_arms_that_are_named_are_taken_as_named(tmp_path):
    first = write_run(tmp_path / 'a', n_stages=4)
    second = write_run(tmp_path / 'b', n_stages=4, weight_decay=0.3)
    groups = groups_in(tmp_path, arms={str(first): 'one', str(second): 'two'})
    assert [(group.name, group.arm, group.tried) for group in groups] == [('one', 'one', 1),
                                                                          ('two', 'two', 1)]
