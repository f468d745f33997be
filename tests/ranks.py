"""Several ranks of a script on this machine, without torchrun: half as long."""

import os
import socket
import subprocess
import sys

ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.getcwd()}


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def start_ranks(ranks, script, *args):
    """The processes of the ranks, in the environment that torchrun gives."""
    env = {**ENV, 'WORLD_SIZE': str(ranks), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    if ranks == 1:
        env = ENV
    return [subprocess.Popen([sys.executable, script, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env={**env, 'RANK': str(rank), 'LOCAL_RANK': str(rank)})
            for rank in range(ranks)]


def run_ranks(ranks, script, *args):
    """The exit codes of the ranks, and what they said on stderr."""
    processes = start_ranks(ranks, script, *args)
    said = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], ''.join(said)
