"""Runs of train.py, killed with SIGKILL again and again, end as if nothing had happened.

    python dev/long_kill.py [kills=40] [seed=1]

Each run goes on with --resume=auto after each kill until it is finished; then its final weights, optimizer
and metrics (but for the clock) must be those of a run that nobody killed, bit for bit. A third of the kills
come by the clock, the others in the middle of something: a checkpoint half written, before and after a
rename, between model and optimizer of a growth, after an evaluation that isn't recorded yet, with a
half-written line of metrics, on the very first step. No checkpoint may look damaged to a resumed run. A
killed process is a fork of this one, so that torch is imported once: 40 kills take a minute.
"""

import io
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'  # a fork is safe where no threads are
ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import torch
from conftest import make_tiny
from same_run import assert_same_run

import train
from core import common
from run.log import RunLog

FLAGS = [[], ['--dropout=0.1', '--shuffle=True', '--grow_init=interleave', '--grow_optimizer=copy',
              '--keep_checkpoints=1'],
         ['--optimizer=muon', '--lr_schedule=wsd', '--checkpoint_interval=1', '--keep_checkpoints=2']]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def before(real, *args, **kwargs):
    die()

def after(real, *args, **kwargs):
    real(*args, **kwargs)
    die()

def half_saved(real, path, state):
    """What a kill in the middle of a write leaves."""
    whole = io.BytesIO()
    torch.save(state, whole)
    with open(path + '.tmp', 'wb') as f:
        f.write(whole.getvalue()[:len(whole.getvalue()) // 2])
    die()

def half_written(real, log, *arguments, **values):
    log.file.write(b'{"kind": "train", "st')
    die()

PLACES = {  # what is under way: (owner, name of the function, how it dies)
    'the first step': (train.schedule.Plan, 'row', before),
    'a save': (train.checkpoint, 'save_checkpoint', half_saved),
    'a growth': (train.GPT, 'grow', after), 'an evaluation': (train, 'estimate_loss', after),
    'the clock': None,
    'a line of metrics': (RunLog, 'record', half_written),
    'before a rename': (os, 'replace', before),
    'after a rename': (os, 'replace', after), 'before a growth': (train, 'enter_phase', before),
    'a scoring': (train.hellaswag, 'evaluate', before), 'clearing away': (train.checkpoint, 'prune', before),
    "a phase's first step": (train, 'check_gradients', after),
    'a step after a save': (train.checkpoint.CheckpointWriter, 'check', before)}

def attempt(flags: list[str], place: str, call: int, log: Path) -> int:
    """Fork a process that trains, and dies at the `call`-th call of `place` (or after so many seconds, for
    'the clock').

    Returns its exit code, -9 if it was killed.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for fd, name in ((1, 'out'), (2, 'err')):
                os.dup2(os.open(f'{log}.{name}', os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
            if PLACES.get(place):
                owner, name, how = PLACES[place]
                real, calls = getattr(owner, name), []

                def patched(*args, **kwargs):
                    calls.append(1)
                    return (how if len(calls) > call else lambda f, *a, **k: f(*a, **k))(real, *args,
                                                                                         **kwargs)

                setattr(owner, name, patched)
            sys.argv = ['train.py', *flags, '--resume=auto']
            common.run_main(train.main)
            code = 0
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    if place == 'the clock':
        time.sleep(call)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def main(kills: int, seed: int, folder: Path):
    random.seed(seed)
    tiny = make_tiny(folder)
    straight = {}  # number of the flags: the run that nobody kills
    seconds = 0
    done, runs, places = 0, 0, dict.fromkeys(PLACES, 0)
    # each once, in this order; later at random
    plan = [(place, int(place != 'the first step')) for place in PLACES]
    while done < kills:
        out, log = folder / f'killed_{runs}', folder / f'log_{runs}'
        number = runs % len(FLAGS)
        if number not in straight:
            straight[number] = folder / f'straight_{number}'
            began = time.time()
            flags = [*tiny, *FLAGS[number], f'--out_dir={straight[number]}']
            assert attempt(flags, '', 0, folder / 'straight') == 0
            seconds = max(seconds, time.time() - began)
        flags = [*tiny, *FLAGS[number], f'--out_dir={out}']
        code = -9
        while code == -9:
            place, call = plan.pop(0) if done < kills else ('', 0)
            code = attempt(flags, place, random.uniform(0, seconds) if place == 'the clock' else call, log)
            assert code in (0, -9), (code, Path(f'{log}.err').read_text())
            if code == -9:
                done += 1
                places[place] += 1
            if not plan:
                plan = [(place, random.randrange(4)) for place in [*PLACES, *5 * ['the clock']]]
                random.shuffle(plan)
        assert_same_run(straight[number], out)
        names = [sorted(p.name for p in d.iterdir()) for d in (straight[number], out)]
        assert names[0] == names[1], names  # every stage's weights too, and nothing left over
        for a in straight[number].glob('stage_*.pt'):
            one, other = (torch.load(p, weights_only=True)['model'] for p in (a, out / a.name))
            assert all(torch.equal(one[k], other[k]) for k in one), a.name
        assert 'damaged' not in (err := Path(f'{log}.err').read_text()) and 'not a whole' not in err, err
        runs += 1
    print(f'{done} kills in {runs} runs, all ended bit for bit as if nobody had killed them: ' +
          ', '.join(f'{n} in {place}' for place, n in places.items()))

if __name__ == '__main__':
    arguments = [int(a) for a in sys.argv[1:]] + [40, 1][len(sys.argv) - 1:]
    with tempfile.TemporaryDirectory() as name:
        main(*arguments, Path(name))
