"""What every script needs and nothing else: user errors, the wrapper of main(), files written atomically, locks."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time

import filelock


class UserError(Exception):
    """A mistake of the user's. Its text says what is wrong and what to do; run_main() prints it and exits with code 2."""


def run_main(main):
    """Run a script's main(). A UserError, and a path that the system refuses (not there, read-only, a file where a
    folder should be), becomes one message on standard error and exit code 2, with no traceback. Ctrl-C ends the process
    as the signal itself would, so that a loop in a shell ends with it."""
    try:
        main()
        return
    except KeyboardInterrupt:
        die_of(signal.SIGINT)
    except UserError as error:
        text = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        text = f'{error.filename}: {error.strerror}'
    # Mostly all ranks make the same mistake: the first one says it, and torchrun ends the others meanwhile.
    if os.environ.get('LOCAL_RANK', '0') != '0':
        time.sleep(2)
    print(f'error: {text}', file=sys.stderr)
    sys.exit(2)


def die_of(signum: int):
    """End this process by a signal, as if nobody had caught it: a shell's loop looks at that."""
    sys.stdout.flush()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


@contextlib.contextmanager
def atomic_write(path: str, mode: str = 'w'):
    """A file to write to that takes the name `path` once it is whole and on the disk: whenever a kill comes, what is
    called `path` is the old file or the new one. Raises UserError if it can't be written."""
    temporary = path + '.tmp'
    try:
        with open(temporary, mode, encoding=None if 'b' in mode else 'utf-8') as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save wraps a failed write in a RuntimeError
        with contextlib.suppress(OSError):
            os.remove(temporary)
        reason = error if isinstance(error, OSError) else error.__context__ or error
        raise UserError(f'{path} could not be saved ({reason}); what was saved before is untouched') from None


def read_json(path: str, what: str):
    """The object in a JSON file. Raises UserError, saying that `path` is not `what` ('a readable config'), if it isn't
    there or isn't JSON."""
    try:
        with open(path, encoding='utf-8') as f:
            return json.load(f)
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets nested ten thousand deep
        raise UserError(f'{path}: not {what} ({type(error).__name__})') from None


@contextlib.contextmanager
def locked(folder: str):
    """Hold `folder` for this process until the block ends or the process dies, however it dies.

    The kernel owns the lock, so a file that a dead process left is no obstacle. A folder that this made, and in which
    nothing was written, goes again. Raises UserError, naming host and process, where another process holds it.
    """
    is_new = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    owner = os.path.join(folder, '.lock_owner')  # not the lock itself, which filelock truncates when it asks
    lock = filelock.FileLock(os.path.join(folder, '.lock'))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        try:
            with open(owner, encoding='utf-8') as f:
                who = f.read()
        except OSError:
            who = 'another process'
        raise UserError(f'{folder} is in use by {who}: wait for it to end, or stop it first') from None
    try:
        with open(owner, 'w', encoding='utf-8') as f:
            f.write(f'process {os.getpid()} on {socket.gethostname()}')
        yield
    finally:
        if is_new and set(os.listdir(folder)) <= {'.lock', '.lock_owner'}:
            shutil.rmtree(folder)
        lock.release()
