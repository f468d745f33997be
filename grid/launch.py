"""
Commands of runs, and the slots of this machine that they go to. study.py says which and when.

A slot is a core (cpu), a GPU (0), or several of them (0+1), on which torchrun starts as many ranks. A run
sees its slot and no more of the machine: one thread, or its GPUs. It is an ordinary command, the first line
of its console.txt.

Whatever ends the launcher ends its runs. A signal is passed on, so that they save; a second one ends them at
once, ranks too. If the launcher is killed, the kernel sends its runs a SIGTERM (on Linux; elsewhere they go
on, and the next launcher waits for them). """

import contextlib
import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter

from core.common import UserError, atomic_write, locked, usable_cores
from grid.plan import (
    Run,
    argv_of,
    out_folder,
    outcome_of,
    saved_prefix,
    saved_steps,
    spared_flops,
)
from grid.study_file import HERE, Study, as_flag
from run.log import last_record

POLL_SECONDS = 0.5
LOG_SECONDS = 300  # between the lines of progress where there is no terminal
TRIES = 2
PR_SET_PDEATHSIG = 1  # of prctl(): the signal that a process gets when its parent dies

# ------------------------------------------------------------------------------------------------------------
# slots and commands

def parse_slots(text: str) -> list[str]:
    """--slots as a list. Without it: each GPU, else each core. Raises UserError for slots that overlap or
    differ."""
    if not text:
        return slots_of_machine()
    slots = text.split(',')
    for slot in slots:
        if not re.fullmatch(r'cpu(\+cpu)*|\d+(\+\d+)*', slot):
            raise UserError(f"--slots={text}: {slot!r} is no slot; one is cpu, a GPU's number, or several "
                            'joined by +')
    # A run may go on in another slot than the one that it began in, or its prefix come from one.
    kinds = {(slot.startswith('cpu'), slot.count('+')) for slot in slots}
    if len(kinds) > 1:
        raise UserError(f'--slots={text}: slots must be alike; runs on other hardware end in other bits')
    # 0,0 are two runs that share a GPU; ranks of one run, or of two that overlap in part, can't.
    numbers = gpus_of(set(slots))
    if len(set(numbers)) < len(numbers):
        raise UserError(f'--slots={text}: a GPU stands there twice')
    return slots

def slots_of_machine() -> list[str]:
    """A slot for each GPU; where there is none, for each core that this process may use."""
    # Numbers count within CUDA_VISIBLE_DEVICES, as in slot_environment.
    return [str(number) for number in range(count_gpus())] or ['cpu'] * usable_cores()

def gpus_of(slots) -> list[int]:
    """The numbers of the GPUs in some slots."""
    return [int(device) for device in '+'.join(slots).split('+') if device != 'cpu']

def check_gpus(slots: list[str]):
    """Raise UserError for a slot on a GPU that this machine doesn't have: each run in it would fail."""
    wanted = gpus_of(slots)
    if wanted and max(wanted) >= count_gpus():
        raise UserError(f'slot {max(wanted)}: this machine has {count_gpus()} GPUs, numbered from 0')

def count_gpus() -> int:
    import torch  # here, since it takes seconds to load and no other part of a study needs it

    return torch.cuda.device_count()

def slot_environment(slot: str) -> dict:
    """What a run in a slot sees of the machine: a thread a core, or its GPUs alone."""
    if slot.startswith('cpu'):
        # More threads than cores slow each other down, and their number changes the order of sums.
        return {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    devices = slot.split('+')
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible:
        names = visible.split(',')  # a scheduler's choice, within which our numbers count
        if max(int(device) for device in devices) >= len(names):
            raise UserError(f'slot {slot}: CUDA_VISIBLE_DEVICES names only {len(names)} GPUs ({visible})')
        devices = [names[int(device)] for device in devices]
    return {'CUDA_VISIBLE_DEVICES': ','.join(devices)}

def command_of(study: Study, run: Run, slot: str, branch_from: str = '', separate: bool = False) -> list[str]:
    """The command of a run, as one types it."""
    words = ['python']
    ranks = slot.count('+') + 1
    if ranks > 1:  # --standalone takes a free port, whatever else runs on this machine
        words = ['torchrun', '--standalone', f'--nproc_per_node={ranks}']
    words += [os.path.normpath(os.path.join(HERE, 'train.py')), *argv_of(study, run)]
    if not slot.startswith('cpu') and run.config.device == 'auto':
        words.append('--device=cuda')  # where there is none that is an error, not a slow run
    words.append(as_flag('out_dir', out_folder(study, run)))
    # As train.py would name it: trackers group runs that differ in the seed alone.
    words.append(as_flag('run_name', re.sub(r'_s(\d+)$', r'_seed\1', run.folder)))
    words.append('--resume=auto')  # so that the same command starts it and goes on with it
    save_at = sorted(step for step in run.save_at if step < run.total)
    if save_at and not separate:
        words.append(as_flag('checkpoint_steps', save_at))
    if branch_from:
        words.append(as_flag('branch_from', branch_from))
    return words

def start_process(command: list[str], environment: dict, console) -> subprocess.Popen:
    """Start a command, by this interpreter and in a session of its own: Ctrl-C at the terminal reaches the
    launcher alone, which passes it on once."""
    program = [sys.executable]  # 'python' may be another one here
    if command[0] == 'torchrun':
        program += ['-m', 'torch.distributed.run']
    libc = ctypes.CDLL(None) if sys.platform == 'linux' else None

    def die_with_launcher():
        if libc:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    # Without a standard input, which would be the launcher's terminal.
    return subprocess.Popen([*program, *command[1:]], stdin=subprocess.DEVNULL, stdout=console,
                            stderr=subprocess.STDOUT, env=os.environ | environment, start_new_session=True,
                            preexec_fn=die_with_launcher)

def kill_tree(pid: int):
    """End a process and all that it has started: torchrun's ranks have sessions of their own."""
    listed = subprocess.run(['ps', '-A', '-o', 'pid=,ppid='], capture_output=True, text=True).stdout
    children = {}
    for line in listed.splitlines():
        child, parent = line.split()
        children.setdefault(int(parent), []).append(int(child))
    doomed = [pid]
    for one in doomed:  # which grows meanwhile
        doomed += children.get(one, [])
    for one in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)

# ------------------------------------------------------------------------------------------------------------
# the launcher

class Launcher:
    """Runs commands in slots, at most one in each, and stops them all when it is told to, or dies."""

    def __init__(self, study: Study, slots: list[str], separate: bool, minutes: float = 0.0):
        self.study, self.slots, self.separate = study, slots, separate
        self.environments = [slot_environment(slot) for slot in slots]
        self.waiting = []  # runs
        self.active = {}  # number of the slot: (run, process)
        self.tries = Counter()  # by the run's folder, as all that follows
        self.failed_on = {}  # numbers of the slots on which it failed without a step done
        self.said_to_wait = set()
        self.failed = study.failed
        self.failed.clear()  # an earlier launcher's, perhaps for a reason that is gone
        self.clock = Clock(minutes, len(slots))
        self.signals = 0
        self.passed_on = 0
        self.handlers = {}
        # They only count, since they come anywhere; execute() acts on them.
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self.count_signal)

    def count_signal(self, number, frame):
        self.signals += 1

    def close(self):
        """Stop what still runs, and wait until it has saved."""
        for _, process in self.active.values():
            process.terminate()
        for _, process in self.active.values():
            process.wait()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def execute(self, runs: list[Run]):
        """Run `runs`, the longest first. Returns early on a signal, and when the time is up."""
        self.waiting = sorted(runs, key=lambda run: -run.total)
        # The longest run of a prefix trains it, and others wait for it.
        progress = Progress(self.study, runs, self.separate)
        while self.active or (self.waiting and not self.signals):
            self.reap()
            self.pass_on_signals()
            for number in self.usable_slots():
                if number not in self.active and not self.signals:
                    self.fill_slot(number)
            if self.clock.minutes and not self.active:
                break  # nothing that waits would end in time
            if self.clock.is_over and not self.signals:
                self.signals = 1  # a run took longer than was foreseen: it saves
            progress.show(len(self.active))
            # Runs take minutes to days; asking twice a second costs nothing.
            time.sleep(POLL_SECONDS)
        progress.end()

    def usable_slots(self) -> list[int]:
        """The numbers of the slots but those given up: on which two runs have failed without a step done
        that failed nowhere else. The last one is never given up."""
        blamed = Counter()
        for slots in self.failed_on.values():
            if len(slots) == 1:  # of a run that fails everywhere no slot is to blame
                blamed.update(slots)
        usable = [number for number in range(len(self.slots)) if blamed[number] < 2]
        return usable or [min(range(len(self.slots)), key=lambda number: blamed[number])]

    def fill_slot(self, number: int):
        """Start the first run that can start there."""
        waiting = self.waiting
        if not self.clock.is_measured:  # how long a run takes is learned from the shortest
            waiting = list(reversed(waiting))
        for run in waiting:
            is_retry = number in self.failed_on.get(run.folder, ())
            others = [other for other in self.usable_slots() if other != number]
            if is_retry and others:  # another slot may do better
                continue
            if self.is_ready(run) and self.clock.has_time_for(run, self.left_of(run)):
                self.waiting.remove(run)
                self.start(run, number)
                return

    def left_of(self, run: Run) -> int:
        """FLOPs that a run has still to train."""
        return run.flops() - run.flops(min(run.total, last_step(out_folder(self.study, run))))

    def is_ready(self, run: Run) -> bool:
        """Whether what a run starts from is there, and nobody else is in its folder."""
        unfinished = [other for other, _ in self.active.values()] + self.waiting
        if run.source and run.source.folder in {other.folder for other in unfinished}:
            return False  # it starts from that one's end
        # The parent may go on: its checkpoint is enough. If it has failed, the run trains the prefix itself.
        needs_prefix = run.parent in unfinished and not self.separate
        if needs_prefix and run.shared not in saved_steps(out_folder(self.study, run.parent)):
            return False
        folder = out_folder(self.study, run)
        if not os.path.isdir(folder):
            return True
        try:
            with locked(folder):
                return True
        except UserError as error:  # what a killed launcher has left is still saving
            if run.folder not in self.said_to_wait:
                print(f'{run.folder} waits: {error}', flush=True)
            self.said_to_wait.add(run.folder)
            return False

    def start(self, run: Run, number: int):
        """Start a run in a slot; its console goes to a file, the command first."""
        folder = out_folder(self.study, run)
        os.makedirs(folder, exist_ok=True)
        branch_from = ''
        # A run that has failed may have done so for what it began from: then it trains everything itself.
        if not self.separate and not saved_steps(folder) and not self.tries[run.folder]:
            branch_from, _ = saved_prefix(self.study, run)
        command = command_of(self.study, run, self.slots[number], branch_from, self.separate)
        environment = self.environments[number]
        # As one would type it, environment first: to run it again by hand is to copy a line.
        as_typed = [f'{name}={value}' for name, value in environment.items()] + [shlex.join(command)]
        # Appended to: what an earlier try said is often what one wants to know.
        with open(os.path.join(folder, 'console.txt'), 'ab') as console:
            console.write(f'$ {" ".join(as_typed)}\n'.encode())
            console.flush()
            process = start_process(command, environment, console)
        self.active[number] = (run, process)
        self.tries[run.folder] += 1
        self.clock.begin(run, last_step(folder))
        prefix = f', from {branch_from}' if branch_from else ''
        print(f'start  {run.folder} on {self.slots[number]}{prefix}', flush=True)
        self.write_state()

    def reap(self):
        """Note which runs have ended. One that isn't over is tried once more, on another slot."""
        for number, (run, process) in list(self.active.items()):
            if process.poll() is None:
                continue
            del self.active[number]
            # What counts is what is there: a run that was told to stop ends with exit code 0, too.
            outcome = outcome_of(self.study, run, elsewhere=False)
            if outcome and outcome.diverged:
                print(f'diverged {run.folder}: {last_words(outcome.folder)}', flush=True)
            elif outcome:
                self.clock.end(run)
                print(f'done   {run.folder}: val_loss {outcome.loss:.4f}', flush=True)
            elif not self.signals:
                self.note_failure(run, process, number)
            if outcome:
                self.note_success(number)
            self.write_state()

    def note_success(self, number: int):
        """A slot on which a run came to its end is sound."""
        for slots in self.failed_on.values():
            slots.discard(number)

    def note_failure(self, run: Run, process: subprocess.Popen, number: int):
        folder = out_folder(self.study, run)
        why = last_words(folder) or f'exit code {process.returncode}'
        before = self.usable_slots()
        if last_step(folder) == 0:
            self.failed_on.setdefault(run.folder, set()).add(number)
        if self.tries[run.folder] < TRIES:
            self.waiting.insert(0, run)  # from its last checkpoint, before others begin
            print(f'failed {run.folder}, once more: {why}', flush=True)
        else:
            self.failed[run.folder] = why
            print(f'failed {run.folder}: {why}', flush=True)
        if number in before and number not in self.usable_slots():
            print(f'slot {self.slots[number]} gets no more runs: two have failed there before their first '
                  'step', flush=True)

    def pass_on_signals(self):
        """The first signal lets the runs finish their step and save, a second one ends them."""
        if self.passed_on == self.signals:
            return
        self.passed_on = self.signals
        for _, process in self.active.values():
            if self.signals == 1:
                process.terminate()
            else:
                kill_tree(process.pid)

    def write_state(self):
        """For --status and --report, which other processes ask for."""
        # Whole or not there at all: others read it while it is written.
        running = {run.folder: self.slots[number] for number, (run, _) in self.active.items()}
        with atomic_write(os.path.join(self.study.out, 'study.json')) as f:
            json.dump({'pid': os.getpid(), 'running': running, 'failed': self.failed}, f, indent=1)

class Clock:
    """What --minutes leaves time for: a run takes the FLOPs that it has left by the rate of a run of its
    scale that has ended since this launcher began."""

    def __init__(self, minutes: float, n_slots: int):
        self.minutes, self.n_slots = minutes, n_slots
        self.stop = time.monotonic() + 60 * minutes
        self.begun = {}  # a run's folder: when, at which step
        self.rates = {}  # scale: FLOPs a second, its start and its evaluations included

    @property
    def is_measured(self) -> bool:
        return not self.minutes or bool(self.rates)

    @property
    def is_over(self) -> bool:
        return self.minutes > 0 and time.monotonic() > self.stop

    def begin(self, run: Run, step: int):
        """A run starts, or goes on from a step."""
        self.begun[run.folder] = (time.monotonic(), step)

    def end(self, run: Run):
        """A run has come to its end: how fast it was."""
        began, step = self.begun[run.folder]
        self.rates[run.scale] = (run.flops() - run.flops(step)) / (time.monotonic() - began)

    def has_time_for(self, run: Run, flops: int) -> bool:
        """Whether a run would end before the time is up; before one has ended nobody knows."""
        if not self.minutes:
            return True
        if not self.rates:
            # One in each slot, as they will run later; the others wait for what these take.
            return len(self.begun) < self.n_slots and not self.is_over
        rate = self.rates.get(run.scale) or min(self.rates.values())
        return time.monotonic() + flops / rate < self.stop

def last_step(folder: str) -> int:
    """The step of the last whole line of a run's metrics.jsonl, 0 if there is none."""
    record = last_record(folder)
    return record['step'] if record else 0

def last_words(folder: str) -> str:
    """What a run said last: the last line that begins with error:, else the last one; '' if there is none."""
    # A run that is killed in the middle of a character leaves half of it.
    with open(os.path.join(folder, 'console.txt'), encoding='utf-8', errors='replace') as f:
        lines = [line.strip() for line in f]
    words = ''
    for line in reversed(lines):
        if line.startswith('$ '):  # the command: what is above it an earlier try has said
            break
        if line.startswith('error:'):  # torchrun says much after it
            words = line
            break
        words = words or line
    return words[:300]

class Progress:
    """One line over all runs, in FLOPs: on a terminal always the same one, elsewhere one every five
    minutes."""

    def __init__(self, study: Study, runs: list[Run], separate: bool):
        self.study, self.runs = study, runs
        self.prefixes = [0] * len(runs) if separate else spared_flops(study, runs)
        self.total = sum(run.flops() for run in runs) - sum(self.prefixes)
        self.began = time.monotonic()
        self.done_at_begin = self.done()
        self.shown = self.began

    def done(self) -> int:
        """FLOPs that the runs have trained themselves."""
        done = 0
        for run, prefix in zip(self.runs, self.prefixes):
            step = last_step(out_folder(self.study, run))
            done += max(0, run.flops(step) - prefix)  # its log begins with the prefix
        return done

    def show(self, n_active: int):
        on_terminal = sys.stderr.isatty()
        now = time.monotonic()
        if now - self.shown < (1 if on_terminal else LOG_SECONDS):
            return
        self.shown = now
        done = self.done()
        # Since this launcher began: what was there before took another time.
        rate = (done - self.done_at_begin) / (now - self.began)
        minutes = (self.total - done) / rate / 60 if rate else 0
        line = (f'{done / self.total:6.1%} of {self.total:.3g} FLOPs | {n_active} running | '
                f'{rate / 1e9:.1f} GFLOP/s | eta {int(minutes // 60)}h{int(minutes % 60):02d}m')
        print(line, end='   \r' if on_terminal else '\n', file=sys.stderr, flush=True)

    def end(self):
        if sys.stderr.isatty():
            print(file=sys.stderr)
