"""What every script needs: user errors, the wrapper of main(), files written atomically, locks."""

import argparse
import contextlib
import errno
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sys
import time

import filelock

RESTART_PATIENCE = 120  # seconds; an NFS server keeps a dead node's lock for 90
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers
SIGPIPE = 13

class UserError(Exception):
    """A mistake of the user's. Its text says what is wrong and what to do; run_main() prints it and exits
    with code 2."""

class Parser(argparse.ArgumentParser):
    """argparse's, whose help keeps the lines of a docstring, and whose error() raises UserError."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str):
        raise UserError(f'{message} (python {self.prog} --help says what there is)')

def run_main(main):
    """Run a script's main(). A UserError, and a path that the system refuses, becomes one message on standard
    error and exit code 2. Ctrl-C ends the process as the signal itself would, so that a loop in a shell ends
    with it. A reader that has gone (`| head`) ends it quietly, and a terminal that lacks a character gets a
    ? for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a notebook or a test puts in its place
            stream.reconfigure(errors='replace')
    try:
        try:
            main()
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be caught
        return
    except KeyboardInterrupt:
        die_of(signal.SIGINT)
    except BrokenPipeError:
        if has_reader():
            raise
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + SIGPIPE)  # what a shell reports of a process that SIGPIPE ended
    except UserError as error:
        text = str(error)
    except OSError as error:
        # Without a path it isn't about something that the user named.
        if error.filename is None:
            raise
        text = f'{error.filename}: {error.strerror}'
    # Mostly all ranks make the same mistake: the first one says it, and torchrun ends the others meanwhile.
    if os.environ.get('LOCAL_RANK', '0') != '0':
        time.sleep(10)
    print(f'error: {text}', file=sys.stderr)
    sys.exit(2)

def has_reader() -> bool:
    """Whether somebody still reads what is printed."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return False
    return True

def die_of(signum: int):
    """End this process by a signal, as if nobody had caught it: a shell's loop looks at that."""
    # A process that a signal ends does not flush by itself.
    sys.stdout.flush()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)

@contextlib.contextmanager
def atomic_write(path: str, mode: str = 'w'):
    """A file to write to that takes the name `path` once it is whole and on the disk: whenever a kill comes,
    what is called `path` is the old file or the new one. Raises UserError if it can't be written."""
    temporary = path + '.tmp'
    try:
        with open(temporary, mode, encoding=None if 'b' in mode else 'utf-8') as f:
            yield f
            f.flush()
            os.fsync(f.fileno())  # else a power cut can leave the new name on an empty file
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save wraps a failed write in a RuntimeError
        with contextlib.suppress(OSError):
            os.remove(temporary)
        reason = error if isinstance(error, OSError) else error.__context__ or error
        raise UserError(f'{path} could not be saved ({reason}); what was saved before is untouched') from None

def read_json(path: str, what: str):
    """The object in a JSON file, as a dict. Raises UserError, saying that `path` is not `what` ('a readable
    config'), if it isn't there or holds something else."""
    try:
        with open(path, encoding='utf-8') as f:
            value = json.load(f)
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets nested ten thousand deep
        raise UserError(f'{path}: not {what} ({type(error).__name__})') from None
    if type(value) is not dict:
        raise UserError(f'{path}: not {what}')
    return value

def say(text: str, file=None):
    """Print a line, once however many ranks run the script."""
    if os.environ.get('RANK', '0') == '0':
        print(text, file=file, flush=True)

def table(header: list, lines: list, align: str = '', style: str = 'simple') -> str:
    """A table as text. `align`: 'l' or 'r' for each column; `style`: a table format of tabulate's, such as
    'github' or 'latex_booktabs'."""
    from tabulate import tabulate  # here: most commands print none

    sides = [{'l': 'left', 'r': 'right'}[letter] for letter in align or 'l' * len(header)]
    return tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=sides)

def numbered(folder: str, prefix: str, suffix: str) -> list[tuple[int, str]]:
    """(number, path) of the files in a folder that are called prefix, digits, suffix, in the order of their
    numbers.

    As text 999999 would come after 1000000. None if there is no such folder.
    """
    found = []
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        match = re.fullmatch(f'{re.escape(prefix)}([0-9]+){re.escape(suffix)}', name)
        path = os.path.join(folder, name)
        if match and os.path.isfile(path):
            found.append((int(match[1]), path))
    return sorted(found)

@contextlib.contextmanager
def locked(folder: str):
    """Hold `folder` for this process until the block ends or the process dies, however it dies.

    A folder that this made, and in which nothing was written, goes again. On a file system without locks one
    line says so, and the block runs. Raises UserError, naming host and process, where another process holds
    the folder.
    """
    is_new = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    owner = pathlib.Path(folder, '.lock_owner')  # beside the lock, which old versions of filelock empty
    # A start that torchrun or Slurm repeats waits, since on another node the one before may still hold it.
    counts = [os.environ.get(f'{name}_RESTART_COUNT', '0') for name in ('TORCHELASTIC', 'SLURM')]
    lock = filelock.FileLock(os.path.join(folder, '.lock'))
    try:
        lock.acquire(timeout=0 if counts == ['0', '0'] else RESTART_PATIENCE)
    except filelock.Timeout:
        who = 'another process'
        with contextlib.suppress(OSError):  # it may not have written it yet
            who = owner.read_text('utf-8', 'replace')
        raise UserError(f'{folder} is in use by {who}: wait for it to end, or stop it first') from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        say(f'{folder} lies on a file system without locks: nothing keeps a second process out of it')
    try:
        owner.write_text(f'process {os.getpid()} on {socket.gethostname()}', 'utf-8')
        yield
    finally:
        owner.unlink(missing_ok=True)
        # Before the release: after it another process may begin to write here.
        if is_new and set(os.listdir(folder)) <= {'.lock'}:
            shutil.rmtree(folder)
        lock.release()

def usable_cores(root: str = '/') -> int:
    """The cores that this process may use: those that the system gives it, and no more than its container's
    share of CPU time (cgroup v2 or v1), rounded down, but one at least: more threads would wait for each
    other whenever the share is used up. `root`: where the kernel's files are."""
    if hasattr(os, 'sched_getaffinity'):  # not on a Mac
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    folder = pathlib.Path(root, 'sys/fs/cgroup')
    names = ('cpu.max', 'cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us')
    words = ' '.join((folder / name).read_text() for name in names if (folder / name).exists()).split()
    if len(words) == 2 and words[0] not in ('max', '-1'):
        quota, period = words  # microseconds
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)
