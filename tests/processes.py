"""Scripts in processes of their own, each forked from one that has imported torch and what reports need:
importing these takes five seconds, which would be most of a tiny run. And several of them as ranks, without
torchrun."""

import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from threading import Thread, Timer

ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.getcwd()}
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['torch._dynamo', 'pandas', 'scipy.special', 'matplotlib.figure',
                              'matplotlib.backends.backend_agg'])

def be_python(args, env, cwd, stdout, stderr):
    """In the new process: what `python args` does."""
    import torch

    gc.freeze()  # as in conftest.py
    torch.set_num_threads(int(env['OMP_NUM_THREADS']))  # the fork's parent has read another one
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    sys.stdout = open(1, 'w', closefd=False)  # the old ones remember what stood there before
    sys.stderr = open(2, 'w', closefd=False, buffering=1)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [os.path.dirname(os.path.abspath(args[0])), env['PYTHONPATH']]
    if args[0] == '-c':
        sys.argv = ['-c', *args[2:]]
        exec(args[1], {'__name__': '__main__'})
    else:
        sys.argv = list(args)
        runpy.run_path(args[0], run_name='__main__')

class Python:
    """A process that runs a script, as subprocess.Popen shows one."""

    def __init__(self, args, env, cwd):
        self.args = [str(arg) for arg in args]
        stdout, child_stdout = FORKS.Pipe(duplex=False)
        stderr, child_stderr = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=be_python,
                                     args=(self.args, env, str(cwd), child_stdout, child_stderr))
        self.process.start()
        self._limit = Timer(240, self.process.kill)  # a script that hangs fails its test, no more
        self._limit.daemon = True
        self._limit.start()
        child_stdout.close()
        child_stderr.close()
        self.pid = self.process.pid
        self.stdout = os.fdopen(os.dup(stdout.fileno()), encoding='utf-8')
        self._stderr = os.fdopen(os.dup(stderr.fileno()), encoding='utf-8')
        self._said = ''
        self._reader = Thread(target=self._read)  # or a full pipe would stop the process
        self._reader.start()

    def _read(self):
        with self._stderr:
            self._said = self._stderr.read()

    def send_signal(self, signum):
        os.kill(self.pid, signum)

    def wait(self):
        """The exit code; -9 after SIGKILL."""
        self.process.join()
        self._limit.cancel()
        return self.process.exitcode

    def finish(self) -> subprocess.CompletedProcess:
        """Its exit code, the rest of its stdout, all of its stderr."""
        with self.stdout:
            out = self.stdout.read()
        self._reader.join()
        return subprocess.CompletedProcess(self.args, self.wait(), out, self._said)

def start_python(*args, cwd='.', **env):
    return Python(args, ENV | env, cwd)

def run_python(*args, cwd='.', **env):
    """What subprocess.run([sys.executable, *args], capture_output=True, text=True) gives."""
    return start_python(*args, cwd=cwd, **env).finish()

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def start_ranks(ranks, *args, cwd='.', **env):
    """The processes of the ranks, in the environment that torchrun gives."""
    env |= {'WORLD_SIZE': str(ranks), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    processes = []
    for rank in range(ranks):
        processes.append(start_python(*args, cwd=cwd, RANK=str(rank), LOCAL_RANK=str(rank), **env))
    return processes

def run_ranks(ranks, *args, cwd='.', **env):
    """The exit codes of the ranks, and what they said on stdout and stderr."""
    done = [process.finish() for process in start_ranks(ranks, *args, cwd=cwd, **env)]
    return ([one.returncode for one in done], ''.join(one.stdout for one in done),
            ''.join(one.stderr for one in done))
