"""User errors, atomic files, locks, cores. Run: python -m pytest tests/core/test_common.py"""

import errno
import fcntl
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from core import common
from core.common import UserError

def run(code: str, *args) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, timeout=60)

# ----------------------------------------------------------------------------------------------------------
# scripts

@pytest.mark.parametrize('error, code, said', [
    ("common.UserError('no such thing: name another')", 2, 'error: no such thing: name another\n'),
    ("FileNotFoundError(2, 'No such file', 'missing')", 2, 'error: missing: No such file\n'),
    ('KeyboardInterrupt', -signal.SIGINT, ''),
])
def test_a_users_error_is_one_line_and_ctrl_c_ends_a_script_as_the_signal_does(error, code, said):
    began = time.monotonic()
    done = run(f'from core import common\ndef main():\n    raise {error}\ncommon.run_main(main)')
    assert (done.returncode, done.stderr) == (code, said)
    assert time.monotonic() - began < 9  # only the ranks after the first one wait

@pytest.mark.parametrize('error', ["KeyError('a socket')", "OSError('a socket')",
                                   "BrokenPipeError(32, 'a socket')"])
def test_an_error_of_the_programs_own_keeps_its_traceback(error):
    done = run(f'from core import common\ndef main():\n    raise {error}\ncommon.run_main(main)')
    assert done.returncode == 1
    assert 'Traceback' in done.stderr and 'a socket' in done.stderr

def test_what_was_printed_is_there_however_a_script_ends():
    for end in ('common.die_of(signal.SIGTERM)', "common.say('the last'), os._exit(0)"):
        done = run(f"import os, signal\nfrom core import common\nprint('said')\n{end}")
        assert done.stdout.startswith('said\n') and ('last' in done.stdout) == ('last' in end), done

def test_a_notebooks_streams_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    common.run_main(lambda: print('fine'))
    assert sys.stdout.getvalue() == 'fine\n'

PRINT = r"""from core import common; import sys
def main():
    for i in range(int(sys.argv[1])):
        print('\u2192 line', i)
    sys.exit(0)
common.run_main(main)
"""

@pytest.mark.parametrize('n', [3, 100_000])  # the pipe's end shows at exit, or in the middle of the work
def test_a_reader_that_has_gone_ends_a_script_without_a_word(n):
    writer = subprocess.Popen([sys.executable, '-c', PRINT, str(n)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    writer.stdout.close()
    assert writer.stderr.read() == b''
    assert writer.wait() == 128 + signal.SIGPIPE

ASCII_LOCALE = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}

@pytest.mark.parametrize('env', [{'PYTHONIOENCODING': 'cp1252'}, ASCII_LOCALE])
def test_a_terminal_without_the_character_gets_a_question_mark(env):
    code = PRINT.replace('sys.exit(0)', "raise common.UserError('\\u2192 error')")
    done = subprocess.run([sys.executable, '-c', code, '2'], capture_output=True, env={**os.environ, **env})
    assert b'? line 1' in done.stdout and done.stderr.startswith(b'error: ? error')

# ----------------------------------------------------------------------------------------------------------
# files

@pytest.mark.parametrize('mode, content', [('w', 'späte Änderung'), ('wb', b'\x00\xff' * 9)])
def test_a_file_takes_its_name_when_all_of_it_is_on_the_disk(tmp_path, monkeypatch, mode, content):
    path = tmp_path / 'file'
    path.write_text('old')
    size = len(content if mode == 'wb' else content.encode())
    synced = []
    real_fsync = os.fsync

    def fsync(number):
        # What is synced must be all that was written, and its name must not be taken yet.
        synced.append((os.fstat(number).st_size, path.read_text()))
        real_fsync(number)

    monkeypatch.setattr(os, 'fsync', fsync)
    with common.atomic_write(str(path), mode) as f:
        f.write(content)
        assert path.read_text() == 'old'
    assert synced == [(size, 'old')]
    assert path.read_bytes() == (content if mode == 'wb' else content.encode())
    assert os.listdir(tmp_path) == ['file']

def test_a_text_file_is_utf_8_whatever_the_locale(tmp_path):
    code = "from core import common\nwith common.atomic_write('x') as f:\n    f.write('sp\\u00e4t')"
    env = {**os.environ, **ASCII_LOCALE, 'PYTHONPATH': os.getcwd()}
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / 'x').read_bytes() == 'spät'.encode()

@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), RuntimeError('archive too long')])
def test_a_file_that_can_not_be_written_leaves_the_old_one(tmp_path, error):
    path = tmp_path / 'file'
    path.write_text('old')
    reason = error.args[-1]
    refused = pytest.raises(UserError, match=f"file could not be saved .*{reason}")
    with refused, common.atomic_write(str(path)) as f:
        f.write('new')
        raise error
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']

@pytest.mark.parametrize('text', [None, '', '{"a": ', '[' * 100_000, b'\xff\xfe\xfa'])
def test_what_is_no_json_is_refused_by_name(tmp_path, text):
    path = tmp_path / 'x.json'
    if isinstance(text, str):
        path.write_text(text)
    elif text is not None:
        path.write_bytes(text)
    with pytest.raises(UserError, match=r'x.json: not a readable config \('):
        common.read_json(str(path), 'a readable config')

# ----------------------------------------------------------------------------------------------------------
# locks

HOLD = """from core import common; import sys, time
with common.locked(sys.argv[1]):
    print('held', flush=True)
    time.sleep(60)
"""

def test_a_folder_belongs_to_one_process_until_it_dies(tmp_path):
    folder = str(tmp_path / 'run')
    holder = subprocess.Popen([sys.executable, '-c', HOLD, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == 'held\n'
        owner = f'process {holder.pid} on {socket.gethostname()}'
        for _ in range(2):  # a refused start must not take the name of the owner away
            with pytest.raises(UserError, match=f'run is in use by {owner}'), common.locked(folder):
                pass
    finally:
        holder.kill()  # as hard as it goes: nothing of its own may be needed to free the folder
        holder.wait()
    with common.locked(folder), open(os.path.join(folder, '.lock_owner'), encoding='utf-8') as f:
        assert f.read() == f'process {os.getpid()} on {socket.gethostname()}'

def test_the_same_process_can_not_take_a_folder_twice_and_has_it_until_the_block_ends(tmp_path):
    folder = str(tmp_path / 'run')
    with pytest.raises(KeyError), common.locked(folder):
        (tmp_path / 'run/.lock_owner').unlink()  # as if it had not written it yet
        for _ in range(2):  # the refused one has released nothing
            with pytest.raises(UserError, match='in use by another process'), common.locked(folder):
                pass
        raise KeyError
    with common.locked(folder):
        pass

@pytest.mark.parametrize('variable', ['TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'])
def test_a_repeated_start_waits_for_the_one_before(tmp_path, monkeypatch, variable):
    code = HOLD.replace('time.sleep(60)', 'sys.stdin.read()')
    holder = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == 'held\n'
    monkeypatch.setenv(variable, '0')
    began = time.monotonic()
    with pytest.raises(UserError, match='in use by'), common.locked(str(tmp_path)):
        pass
    assert time.monotonic() - began < 1
    monkeypatch.setenv(variable, '1')
    threading.Timer(0.3, holder.stdin.close).start()  # now it ends
    with common.locked(str(tmp_path)):
        assert holder.wait(10) == 0

@pytest.mark.parametrize('number', [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line_and_the_work_goes_on(tmp_path, monkeypatch, capsys, number):
    def flock(*args):
        raise OSError(number, 'no locks here')

    monkeypatch.setattr(fcntl, 'flock', flock)
    for _ in range(2):
        with common.locked(str(tmp_path / 'run')):
            (tmp_path / 'run' / 'x').write_text('')
        captured = capsys.readouterr()
        assert captured.out.count('\n') == 1 and 'without locks' in captured.out
        assert captured.err == ''

def test_another_error_of_the_lock_is_no_reason_to_go_on(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with pytest.raises(OSError, match='Input/output'), common.locked(str(tmp_path)):
        pass

# ----------------------------------------------------------------------------------------------------------
# names with numbers

def test_numbered_files_come_in_the_order_of_their_numbers(tmp_path):
    for name in ('ckpt_1000000.pt', 'ckpt_999999.pt', 'ckpt_000007.pt', 'ckpt_best.pt', 'ckpt_5.pt.tmp',
                 'x_ckpt_8.pt',
                 'ckpt_-9.pt', 'ckpt_1e9.pt', 'ckpt_\u0663.pt', 'ckpt_.pt', 'CKPT_10.pt'):
        (tmp_path / name).write_text('')
    (tmp_path / 'ckpt_12.pt').mkdir()
    found = common.numbered(str(tmp_path), 'ckpt_', '.pt')
    assert [number for number, _ in found] == [7, 999_999, 1_000_000]
    assert found[0][1] == str(tmp_path / 'ckpt_000007.pt')
    assert common.numbered(str(tmp_path / 'nowhere'), 'ckpt_', '.pt') == []

def test_a_line_is_said_by_the_first_rank_only(monkeypatch, capsys):
    for rank in ('0', '1', '7'):
        monkeypatch.setenv('RANK', rank)
        common.say(f'from rank {rank}')
    assert capsys.readouterr().out == 'from rank 0\n'

def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    with common.locked(str(tmp_path / 'new')):
        assert (tmp_path / 'new').is_dir()
    assert not (tmp_path / 'new').exists()
    with common.locked(str(tmp_path / 'new')):
        (tmp_path / 'new' / 'metrics.jsonl').write_text('')
    assert (tmp_path / 'new' / 'metrics.jsonl').exists()
    (tmp_path / 'old').mkdir()
    with common.locked(str(tmp_path / 'old')):
        pass
    assert (tmp_path / 'old').is_dir()

def test_a_table_keeps_what_its_cells_say_and_takes_the_sides_that_are_given():
    lines = [['007', '1e3'], ['a longer name', '-']]
    assert common.table(['run', 'n'], lines, 'lr') == (
        'run              n\n'
        '-------------  ---\n'
        '007            1e3\n'
        'a longer name    -')
    assert common.table(['run', 'n'], lines, style='github').splitlines()[2:] == [
        '| 007           | 1e3 |', '| a longer name | -   |']

# ----------------------------------------------------------------------------------------------------------
# cores

def kernel_files(root, files: dict) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)

V1 = {'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n'}

@pytest.mark.parametrize('files, cores', [
    ({}, 8),
    ({'sys/fs/cgroup/cpu.max': 'max 100000\n'}, 8),
    ({'sys/fs/cgroup/cpu.max': '350000 100000\n'}, 3),
    ({'sys/fs/cgroup/cpu.max': '50000 100000\n'}, 1),
    ({'sys/fs/cgroup/cpu.max': '6400000 100000\n'}, 8),
    (V1, 8),
    (V1 | {'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '250000\n'}, 2),
    (V1 | {'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n'}, 8)])
def test_a_container_has_no_more_cores_than_its_share_of_their_time(monkeypatch, tmp_path, files, cores):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8 - pid)), raising=False)
    assert common.usable_cores(kernel_files(tmp_path, files)) == cores

def test_without_a_share_the_cores_are_those_that_the_system_gives(monkeypatch, tmp_path):
    monkeypatch.setattr(os, 'cpu_count', lambda: 6)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {1, 5, pid}, raising=False)
    assert common.usable_cores(str(tmp_path)) == 3
    monkeypatch.delattr(os, 'sched_getaffinity')
    assert common.usable_cores(str(tmp_path)) == 6
    monkeypatch.setattr(os, 'cpu_count', lambda: None)  # what it says where it doesn't know
    assert common.usable_cores(str(tmp_path)) == 1
