"""
The commands of a study's runs, and the slots of this machine that they go to. study.py says when.

A slot is a core (cpu), a GPU (0), or several of them (0+1), which torchrun then starts ranks on. A run gets exactly its
slot: one thread, or its GPUs. It is an ordinary command, the first line of console.txt in its folder.

Whatever ends the launcher ends its runs: a signal is passed on, so that they save; and if the launcher is killed, its
watchdog tells them, and kills what is still there 45 seconds later.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter

from common import UserError, atomic_write, locked
from grid import HERE, Run, Study, as_flag, final_loss, finished_folder, last_step, out_folder, saved_steps, shared_steps

POLL_SECONDS = 0.5
# Its own process: it outlives a launcher that is killed, and then stops the runs that are left, within a minute.
WATCHDOG = """
import os, signal, sys, time
left = set()
for line in sys.stdin:
    (left.add if line[0] == '+' else left.discard)(int(line[1:]))

def tell(kill, number):
    for pid in list(left):
        try:
            kill(pid, number)
        except ProcessLookupError:
            left.discard(pid)

tell(os.kill, signal.SIGTERM)
end = time.monotonic() + 45
while left and time.monotonic() < end:
    time.sleep(0.2)
    tell(os.kill, 0)
tell(os.killpg, signal.SIGKILL)
"""


def parse_slots(text: str) -> list[str]:
    """--slots as a list. Without it: each GPU, else each core. Raises UserError for slots that overlap or differ."""
    if not text:
        import torch  # here, since it takes seconds and nothing else needs it

        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        return [str(i) for i in range(torch.cuda.device_count())] or ['cpu'] * cores
    slots = text.split(',')
    for slot in slots:
        if not re.fullmatch(r'cpu(\+cpu)*|\d+(\+\d+)*', slot):
            raise UserError(f"--slots={text}: {slot!r} is no slot; one is cpu, a GPU's number, or several joined by +")
    if len({(slot.count('+'), slot.startswith('cpu')) for slot in slots}) > 1:
        raise UserError(f'--slots={text}: slots must be alike, since runs on other hardware end in other bits')
    devices = [device for device in '+'.join(slots).split('+') if device != 'cpu']
    if len(set(devices)) < len(devices):
        raise UserError(f'--slots={text}: a GPU stands there twice')
    return slots


def slot_environment(slot: str) -> dict:
    """What a run in a slot sees of the machine: a thread a core, or its GPUs alone."""
    if slot.startswith('cpu'):
        return {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    devices = slot.split('+')
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible:  # a scheduler's choice, within which our numbers count
        names = visible.split(',')
        if max(int(device) for device in devices) >= len(names):
            raise UserError(f'slot {slot}: CUDA_VISIBLE_DEVICES names only {len(names)} GPUs ({visible})')
        devices = [names[int(device)] for device in devices]
    return {'CUDA_VISIBLE_DEVICES': ','.join(devices)}


def command_of(study: Study, run: Run, slot: str, branch_from: str, separate: bool) -> list[str]:
    """The command of a run, as one types it."""
    ranks = slot.count('+') + 1
    words = ['python']
    if ranks > 1:  # --standalone: a port of its own, whatever else runs on this machine
        words = ['torchrun', '--standalone', f'--nproc_per_node={ranks}']
    words += [os.path.normpath(os.path.join(HERE, 'train.py')), *run.argv]
    if not slot.startswith('cpu') and run.config.device == 'auto':
        words.append('--device=cuda')  # where there is none that is an error, not a slow run
    words += [as_flag('out_dir', out_folder(study, run)), as_flag('run_name', run.folder), '--resume=auto']
    save_at = sorted(step for step in run.save_at if step < run.total)
    if save_at and not separate:
        words.append(as_flag('checkpoint_steps', save_at))
    if branch_from:
        words.append(as_flag('branch_from', branch_from))
    return words


def best_prefix(study: Study, run: Run, everything: list[Run]) -> str:
    """The folder of the run whose checkpoints spare this one most steps, '' if none does."""
    best, folder = 0, ''
    for other in everything:
        if other is run or run.parent is None:
            continue
        steps = shared_steps(run, other)
        fitting = [step for step in saved_steps(out_folder(study, other)) if best < step <= steps]
        if fitting:
            best, folder = max(fitting), out_folder(study, other)
    return folder


class Launcher:
    """Runs commands in slots, at most one in each, and stops them all when it is told to, or dies."""

    def __init__(self, study: Study, slots: list[str], separate: bool):
        self.study, self.slots, self.separate = study, slots, separate
        self.environments = [slot_environment(slot) for slot in slots]
        self.waiting = []  # runs
        self.active = {}  # number of the slot: (run, process)
        self.tries = Counter()
        self.said = set()  # folders that were said to be in use
        self.failed = study.failed
        self.failed.clear()  # an earlier launcher's, perhaps for a reason that is gone
        self.signals = 0
        self.passed_on = 0
        self.watchdog = subprocess.Popen([sys.executable, '-c', WATCHDOG], stdin=subprocess.PIPE, start_new_session=True,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.handlers = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self.count_signal)

    def count_signal(self, number, frame):
        self.signals += 1

    def close(self):
        """Stop what still runs, wait until it has saved, and let the watchdog go."""
        for _, process in self.active.values():
            process.terminate()
        for _, process in self.active.values():
            process.wait()
        self.watchdog.stdin.close()
        self.watchdog.wait()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def execute(self, runs: list[Run], everything: list[Run]):
        """Run `runs`, the longest first; prefixes may come from any of `everything`."""
        self.waiting = sorted(runs, key=lambda run: -run.total)
        bar = Bar(self.study, runs, self.separate)
        while self.active or (self.waiting and not self.signals):
            self.reap()
            self.pass_on_signals()
            for number in range(len(self.slots)):
                run = None
                if number not in self.active and not self.signals:
                    run = next((run for run in self.waiting if self.is_ready(run)), None)
                if run:
                    self.waiting.remove(run)
                    self.start(run, number, everything)
            bar.show(len(self.active))
            time.sleep(POLL_SECONDS)
        bar.end()

    def pass_on_signals(self):
        """The first signal lets the runs finish their step and save, a second one ends them."""
        if self.passed_on < self.signals:
            self.passed_on = self.signals
            for _, process in self.active.values():
                if self.signals == 1:
                    process.terminate()
                else:
                    process.kill()

    def is_ready(self, run: Run) -> bool:
        """Whether what a run starts from is there, and nobody else is in its folder."""
        unfinished = [other for other, _ in self.active.values()] + self.waiting
        if run.source in unfinished:
            return False
        waits_for_prefix = run.parent in unfinished and not self.separate
        if waits_for_prefix and run.shared not in saved_steps(out_folder(self.study, run.parent)):
            return False
        if not os.path.isdir(out_folder(self.study, run)):
            return True
        try:
            with locked(out_folder(self.study, run)):
                return True
        except UserError as error:  # what a killed launcher has left; its watchdog stops that within a minute
            if run.folder not in self.said:
                print(f'{run.folder} waits: {error}', flush=True)
            self.said.add(run.folder)
            return False

    def start(self, run: Run, number: int, everything: list[Run]):
        """Start a run in a slot; its console goes to a file, the command first."""
        slot, environment = self.slots[number], self.environments[number]
        folder = out_folder(self.study, run)
        os.makedirs(folder, exist_ok=True)
        branch_from = ''
        if not self.separate and not saved_steps(folder):
            branch_from = best_prefix(self.study, run, everything)
        command = command_of(self.study, run, slot, branch_from, self.separate)
        as_typed = ' '.join([f'{name}={value}' for name, value in environment.items()] + [shlex.join(command)])
        with open(os.path.join(folder, 'console.txt'), 'ab') as console:
            console.write(f'$ {as_typed}\n'.encode())
            console.flush()
            process = start_process(command, environment, console)
        self.tell_watchdog('+', process)
        self.active[number] = (run, process)
        self.tries[run.folder] += 1
        prefix = f', from {branch_from}' if branch_from else ''
        print(f'start  {run.folder} on {slot}{prefix}', flush=True)
        self.write_state()

    def reap(self):
        """Note which runs have ended. One that isn't finished is tried once more."""
        for number, (run, process) in list(self.active.items()):
            if process.poll() is None:
                continue
            del self.active[number]
            self.tell_watchdog('-', process)
            if finished_folder(self.study, run, elsewhere=False):
                print(f'done   {run.folder}: val_loss {final_loss(self.study, run):.4f}', flush=True)
            elif not self.signals:
                why = last_words(out_folder(self.study, run)) or f'exit code {process.returncode}'
                if self.tries[run.folder] < 2:
                    self.waiting.insert(0, run)
                    print(f'failed {run.folder}, once more: {why}', flush=True)
                else:
                    self.failed[run.folder] = why
                    print(f'failed {run.folder}: {why}', flush=True)
            self.write_state()

    def tell_watchdog(self, sign: str, process: subprocess.Popen):
        self.watchdog.stdin.write(f'{sign}{process.pid}\n'.encode())
        self.watchdog.stdin.flush()

    def write_state(self):
        running = {run.folder: self.slots[number] for number, (run, _) in self.active.items()}
        with atomic_write(os.path.join(self.study.out, 'study.json')) as f:
            json.dump({'pid': os.getpid(), 'running': running, 'failed': self.failed}, f, indent=1)


def start_process(command: list[str], environment: dict, console) -> subprocess.Popen:
    """Start a command, by this interpreter and in a session of its own: Ctrl-C at the terminal reaches the launcher
    alone, which passes it on once."""
    program = [sys.executable]
    if command[0] == 'torchrun':
        program += ['-m', 'torch.distributed.run']
    return subprocess.Popen([*program, *command[1:]], stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                            env=os.environ | environment, start_new_session=True)


def last_words(folder: str) -> str:
    """The last line of a run's console that isn't its command."""
    with open(os.path.join(folder, 'console.txt'), encoding='utf-8', errors='replace') as f:
        lines = [line.strip() for line in f.readlines()[-20:] if line.strip()]
    return lines[-1][:300] if lines and not lines[-1].startswith('$ ') else ''


class Bar:
    """One line over all runs, in FLOPs: on a terminal always the same one, elsewhere one every five minutes."""

    def __init__(self, study: Study, runs: list[Run], separate: bool):
        self.study, self.runs = study, runs
        self.shared = {run.folder: 0 if separate else run.flops(run.shared) for run in runs}
        self.total = sum(run.flops() for run in runs) - sum(self.shared.values())
        self.began, self.done_at_begin = time.monotonic(), self.done()
        self.shown = self.began

    def done(self) -> int:
        """FLOPs that the runs have trained themselves."""
        done = 0
        for run in self.runs:
            done += max(0, run.flops(last_step(out_folder(self.study, run))) - self.shared[run.folder])
        return done

    def show(self, n_active: int):
        on_terminal = sys.stderr.isatty()
        now = time.monotonic()
        if now - self.shown < (1 if on_terminal else 300):
            return
        self.shown = now
        done = self.done()
        rate = (done - self.done_at_begin) / (now - self.began)
        minutes = (self.total - done) / rate / 60 if rate else 0
        line = (f'{done / self.total:6.1%} of {self.total:.3g} FLOPs | {n_active} running | {rate / 1e9:.1f} GFLOP/s | '
                f'eta {int(minutes // 60)}h{int(minutes % 60):02d}m')
        print(line, end='   \r' if on_terminal else '\n', file=sys.stderr, flush=True)

    def end(self):
        if sys.stderr.isatty():
            print(file=sys.stderr)
