"""Slots, clock and children of the launcher, without a run. Run: python -m pytest tests/grid"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_study import TWO_ARMS, make_study

from core.common import locked
from grid.launch import Clock, Launcher, Progress, kill_tree, parse_slots, start_process
from grid.plan import plan_runs
from run.log import COUNTERS

ROOT = Path(__file__).parents[2]

@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """Of three slots, with its eight runs."""
    monkeypatch.chdir(ROOT)
    study = make_study(tmp_path, **TWO_ARMS)
    launcher = Launcher(study, ['cpu', 'cpu', 'cpu'], separate=False)
    launcher.runs = plan_runs(study)[1]
    for run in launcher.runs:
        Path(study.out, run.folder).mkdir(parents=True)
        Path(study.out, run.folder, 'console.txt').write_text('$ python train.py\nno GPU\n')
    yield launcher
    launcher.close()

def fail(launcher, run, number):
    launcher.tries[run.folder] += 1
    launcher.note_failure(run, subprocess.Popen(['true']), number)

def test_a_slot_on_which_two_runs_fail_that_fail_nowhere_else_is_given_up(launcher, capsys):
    first, second, third = launcher.runs[:3]
    fail(launcher, first, 0)
    assert launcher.usable_slots() == [0, 1, 2]
    fail(launcher, second, 0)
    assert launcher.usable_slots() == [1, 2]
    assert 'slot cpu gets no more runs: two have failed there' in capsys.readouterr().out
    # Both fail elsewhere, too: they are to blame, and not the slot.
    fail(launcher, first, 1)
    fail(launcher, second, 2)
    assert launcher.usable_slots() == [0, 1, 2] and set(launcher.failed) == {first.folder, second.folder}
    # A run that came to its end there shows that a slot is sound.
    fail(launcher, third, 0)
    launcher.note_success(0)
    fail(launcher, launcher.runs[3], 0)
    assert launcher.usable_slots() == [0, 1, 2]

def test_the_last_slot_is_never_given_up_and_a_run_that_got_somewhere_blames_none(launcher):
    for number in range(3):
        for run in launcher.runs[2 * number:2 * number + 2]:
            fail(launcher, run, number)
    assert len(launcher.usable_slots()) == 1
    launcher.failed_on.clear()
    for run in launcher.runs[:2]:
        line = {'kind': 'train'} | dict.fromkeys(COUNTERS, 20)
        Path(launcher.study.out, run.folder, 'metrics.jsonl').write_text(json.dumps(line) + '\n')
        fail(launcher, run, 0)
    assert launcher.usable_slots() == [0, 1, 2]

def test_a_retry_goes_to_another_slot(launcher, monkeypatch):
    started = []
    launcher.start = lambda run, number: started.append((run.folder, number))
    run = launcher.runs[0]
    fail(launcher, run, 0)
    assert launcher.waiting == [run]
    launcher.fill_slot(0)
    assert started == []
    launcher.fill_slot(1)
    assert started == [(run.folder, 1)]

def test_the_clock_lets_begin_what_ends_in_time_and_one_run_a_slot_before_it_knows(launcher, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    clock = Clock(minutes=10, n_slots=2)
    short, long = launcher.runs[0], launcher.runs[2]
    assert long.flops() == pytest.approx(2 * short.flops(), rel=0.01)
    for run in launcher.runs[:2]:
        assert clock.has_time_for(run, run.flops())
        clock.begin(run, 0)
    assert not clock.has_time_for(long, long.flops())  # what one takes isn't known yet
    now[0] += 200
    clock.end(short)
    # 400 seconds are left: the long one takes as many, half of it is half as long.
    assert not clock.has_time_for(long, long.flops() * 1.01) and clock.has_time_for(long, long.flops() * 0.98)
    now[0] += 399
    assert not clock.is_over and not clock.has_time_for(short, short.flops())
    now[0] += 2
    assert clock.is_over
    assert Clock(0, 2).has_time_for(long, long.flops()) and not Clock(0, 2).is_over

def test_a_gpu_may_have_two_runs_but_a_run_no_part_of_anothers():
    assert parse_slots('0,0') == ['0', '0'] and parse_slots('0+1,0+1') == ['0+1', '0+1']

def alive(pid: int) -> bool:
    state = Path(f'/proc/{pid}/stat')
    return state.exists() and state.read_text().rpartition(')')[2].split()[0] != 'Z'

RANKS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(500)'], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(500)
"""

def test_ranks_in_sessions_of_their_own_end_with_their_run(tmp_path):
    run = subprocess.Popen([sys.executable, '-c', RANKS], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert all(map(alive, pids))
    kill_tree(run.pid)
    run.wait(timeout=30)
    end = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < end
        time.sleep(0.05)

@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel of Linux tells the children')
def test_a_run_hears_of_its_launchers_death(tmp_path):
    said = tmp_path / 'said.txt'
    (tmp_path / 'run.py').write_text(
        'import signal, sys, time\n'
        f'def told(*_): open({str(said)!r}, "a").write("told\\n"); sys.exit()\n'
        'signal.signal(signal.SIGTERM, told)\n'
        f'open({str(said)!r}, "a").write("here\\n")\ntime.sleep(500)\n')
    (tmp_path / 'launcher.py').write_text(
        f'import sys, time\nsys.path.insert(0, {str(ROOT)!r})\nfrom grid.launch import start_process\n'
        f'start_process(["python", {str(tmp_path / "run.py")!r}], {{}}, open("/dev/null", "w"))\n'
        'time.sleep(500)\n')
    launcher = subprocess.Popen([sys.executable, tmp_path / 'launcher.py'])
    for what in ('here\n', 'here\ntold\n'):
        end = time.monotonic() + 120
        while not said.exists() or said.read_text() != what:
            assert time.monotonic() < end
            time.sleep(0.05)
        os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait(timeout=30)

def test_a_command_is_started_by_this_interpreter_in_a_session_of_its_own(tmp_path):
    console = open(tmp_path / 'console.txt', 'wb')
    (tmp_path / 'train.py').write_text('import os, sys\nprint(sys.executable, os.getsid(0) == os.getpid())\n')
    process = start_process(['python', str(tmp_path / 'train.py')], {'A': 'b'}, console)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / 'console.txt').read_text() == f'{sys.executable} True\n'

def test_a_run_waits_while_another_process_is_in_its_folder(launcher, capsys):
    run = launcher.runs[0]
    with locked(os.path.join(launcher.study.out, run.folder)):
        assert not launcher.is_ready(run) and not launcher.is_ready(run)
    assert launcher.is_ready(run)
    assert capsys.readouterr().out.count(f'{run.folder} waits: ') == 1

def test_half_a_minute_is_over_after_half_a_minute_and_none_never():
    for minutes, ago, is_over in ((0.5, 31, True), (0.5, 29, False), (0, 31, False)):
        clock = Clock(minutes, 1)
        clock.stop -= ago
        assert clock.is_over == is_over, (minutes, ago)

def test_the_line_of_progress_says_share_rate_and_what_is_left(launcher, monkeypatch, capsys):
    progress = Progress(launcher.study, launcher.runs, separate=True)
    monkeypatch.setattr(progress, 'done', lambda: progress.total / 4)
    progress.began -= 1800
    progress.shown -= 1800
    progress.show(2)
    said = capsys.readouterr().err
    rate = f'{progress.total / 4 / 1800 / 1e9:.1f} GFLOP/s'
    assert said == f' 25.0% of {progress.total:.3g} FLOPs | 2 running | {rate} | eta 1h30m\n'
