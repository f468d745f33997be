"""Every script: --help is complete, importing it does nothing. Run: python -m pytest tests/test_scripts.py"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.stem for path in ROOT.glob('*.py'))
SCRIPTS = [name for name in MODULES if "__name__ == '__main__'" in (ROOT / f'{name}.py').read_text()]


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_names_every_option_and_changes_nothing(name, tmp_path):
    done = subprocess.run([sys.executable, ROOT / f'{name}.py', '--help'], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == '' and not list(tmp_path.iterdir())
    options = re.findall(r"add(?:_argument)?\('(--[a-z_]+)'", (ROOT / f'{name}.py').read_text())
    assert all(option in done.stdout for option in options)
    assert f'python {name}.py' in done.stdout  # how to type it


def test_importing_any_module_prints_nothing_writes_nothing_and_asks_no_network(tmp_path):
    code = f"""
import socket, sys
sys.path.insert(0, {str(ROOT)!r})
def refuse(*args, **kwargs): raise AssertionError('a network connection at import')
socket.socket.connect = refuse
for name in {MODULES!r}: __import__(name)
"""
    done = subprocess.run([sys.executable, '-B', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '') and not list(tmp_path.iterdir())


def test_nothing_imports_train():
    for name in MODULES:
        assert not re.search(r'^\s*(import train|from train)\b', (ROOT / f'{name}.py').read_text(), re.M), name


def test_the_readme_names_every_script_and_config():
    readme = (ROOT / 'README.md').read_text()
    assert all(f'`{name}.py`' in readme for name in MODULES)
    for path in (ROOT / 'configs').glob('*.py'):
        assert path.stem in readme or path.stem.replace('incremental', '') in readme, path.stem
