"""User errors, atomic files, locks. Run: python -m pytest tests/test_common.py"""

import os
import signal
import socket
import subprocess
import sys

import pytest

import common
from common import UserError


def run(code: str, *args) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, timeout=60)


# ----------------------------------------------------------------------------------------------------------
# scripts


def test_a_user_error_is_one_line_and_exit_code_2():
    done = run("import common\ndef main():\n    raise common.UserError('no such thing: name another')\n"
               'common.run_main(main)')
    assert done.returncode == 2
    assert done.stderr == 'error: no such thing: name another\n'


def test_a_path_that_the_system_refuses_is_one_line_and_exit_code_2(tmp_path):
    missing = str(tmp_path / 'missing')
    done = run('import common, sys\ncommon.run_main(lambda: open(sys.argv[1]))', missing)
    assert done.returncode == 2
    assert done.stderr == f'error: {missing}: No such file or directory\n'


def test_an_error_of_the_programs_own_keeps_its_traceback():
    for error in ('KeyError("x")', 'OSError("a socket")'):
        done = run(f'import common\ndef main():\n    raise {error}\ncommon.run_main(main)')
        assert done.returncode == 1
        assert 'Traceback' in done.stderr


def test_ctrl_c_ends_a_script_as_the_signal_does():
    done = run('import common, os, signal\ncommon.run_main(lambda: os.kill(os.getpid(), signal.SIGINT))')
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ''


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


def test_json_comes_back(tmp_path):
    (tmp_path / 'x.json').write_text('{"ä": [1, 2.5, null]}', encoding='utf-8')
    assert common.read_json(str(tmp_path / 'x.json'), 'anything') == {'ä': [1, 2.5, None]}


# ----------------------------------------------------------------------------------------------------------
# locks

HOLD = """import common, sys, time
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


def test_a_folder_is_free_after_the_block_also_after_an_error(tmp_path):
    folder = str(tmp_path / 'run')
    with pytest.raises(KeyError), common.locked(folder):
        raise KeyError
    with common.locked(folder):
        pass


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
