"""
Breaks the code on purpose, one place at a time, and tells which breaks the tests don't see.

    python dev/mutants.py                         all breaks
    python dev/mutants.py train.py rate --jobs=2  those with all of these texts in them, two at a time
    python dev/mutants.py --list                  only print them

A break replaces one piece of text, which must stand in its file exactly once, in a copy of the project in
a temporary folder, and the tests that should see it run there until the first one fails. A test that
never failed may be one that can't: whoever adds a test adds the break for which it is made.

The exit code is 1 if a break goes unseen that isn't explained or fewer than 95% are seen, and 2 if a
break doesn't fit the code any more or tests fail without one.
"""

import argparse
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = ('.git', '.venv', 'out', 'data', 'results', '__pycache__', '.pytest_cache', '.ruff_cache')
LEAST_SEEN = 0.95
TIMEOUT = 600  # seconds: a test that hangs has seen the break, if it doesn't hang without one


@dataclass(frozen=True)
class Break:
    file: str
    what: str  # what is wrong then
    old: str
    new: str
    tests: str  # arguments for pytest: files, file::test, -k NAME
    unseen_because: str = ''  # why no test can see it, if so


BREAKS = []


def breaks(file: str, tests: str, *entries: tuple):
    """Entries: (what, old, new), then other tests than `tests` if need be, then why it must go unseen."""
    for what, old, new, *rest in entries:
        BREAKS.append(Break(file, what, old, new, rest[0] if rest and rest[0] else tests, *rest[1:]))


# ----------------------------------------------------------------------------------------------------------
# running them


def run_tests(folder: Path, tests: str) -> int:
    """pytest's exit code: 0 all passed, 1 some failed, others: they could not run."""
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', *shlex.split(tests)]
    # One thread each, and no bytecode: two versions of a file within a second would look the same to Python.
    environment = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONDONTWRITEBYTECODE': '1'}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return 1
    return done.returncode


def with_break(folder: Path, broken: Break) -> int:
    """run_tests with the break in place."""
    path = folder / broken.file
    text = path.read_text(encoding='utf-8')
    path.write_text(text.replace(broken.old, broken.new), encoding='utf-8')
    try:
        return run_tests(folder, broken.tests)
    finally:
        path.write_text(text, encoding='utf-8')


def in_parallel(jobs: int, work, items: list):
    """Call work(folder, item) for each item, in `jobs` threads that have a copy of the project each.

    Yields (item, result, seconds) in the order in which they get done.
    """
    waiting, done = queue.Queue(), queue.Queue()
    for item in items:
        waiting.put(item)

    def worker(folder: Path):
        while True:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            result = work(folder, item)
            done.put((item, result, time.perf_counter() - began))

    with tempfile.TemporaryDirectory() as temporary:
        for number in range(min(jobs, len(items))):
            folder = Path(temporary, str(number))
            shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
            threading.Thread(target=worker, args=(folder,), daemon=True).start()
        for _ in items:
            yield done.get()


def is_meant(broken: Break, texts: list) -> bool:
    return all(text in f'{broken.file}: {broken.what}' for text in texts)


def misfits(chosen: list) -> list:
    """What is wrong with the breaks themselves, a line each."""
    problems = []
    for broken in chosen:
        count = (ROOT / broken.file).read_text(encoding='utf-8').count(broken.old)
        if count != 1:
            problems.append(f'{broken.file}: {broken.what}: the text to break stands there {count} times')
    return problems


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument('texts', nargs='*', help='only breaks with all of these in their file or description')
    parser.add_argument('--jobs', type=int, default=1, help='how many at a time; default 1')
    parser.add_argument('--list', action='store_true', help='print them, run nothing')
    args = parser.parse_args()
    chosen = [broken for broken in BREAKS if is_meant(broken, args.texts)]
    problems = misfits(chosen)
    if args.list:
        for broken in chosen:
            print(f'{broken.file}: {broken.what} ({broken.tests})')

    # Tests that fail anyway would seem to see everything.
    selections = sorted({broken.tests for broken in chosen})
    if not problems and not args.list:
        for tests, code, seconds in in_parallel(args.jobs, run_tests, selections):
            print(f'whole    {tests} ({seconds:.0f} s)', flush=True)
            if code != 0:
                problems.append(f'{tests}: pytest ends with {code} although nothing is broken')
    if problems or args.list:
        print('\n'.join(problems))
        return 2 if problems else 0

    unseen = []
    for broken, code, seconds in in_parallel(args.jobs, with_break, chosen):
        verdict = {0: 'UNSEEN', 1: 'seen'}.get(code, f'BROKE {code}')
        print(f'{verdict:<8} {broken.file}: {broken.what} ({broken.tests}, {seconds:.0f} s)', flush=True)
        if code != 1:
            unseen.append(broken)
    n_seen = len(chosen) - len(unseen)
    print(f'{n_seen} of {len(chosen)} breaks seen')
    for broken in unseen:
        print(f'  not: {broken.file}: {broken.what}: {broken.unseen_because or "no explanation"}')
    explained = all(broken.unseen_because for broken in unseen)
    return 0 if explained and n_seen >= LEAST_SEEN * len(chosen) else 1


if __name__ == '__main__':
    sys.exit(main())
