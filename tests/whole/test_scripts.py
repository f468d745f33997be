"""The files as a whole: floors, imports, what every script has in common. Run: python -m pytest
tests/whole/test_scripts.py"""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ('core', 'run', 'verdict', 'grid')
FILES = sorted(ROOT.glob('*.py'))
for folder in FOLDERS:
    FILES += sorted((ROOT / folder).glob('[!_]*.py'))
MODULES = {'.'.join(path.relative_to(ROOT).with_suffix('').parts): path for path in FILES}
SCRIPTS = [name for name, path in MODULES.items() if "__name__ == '__main__'" in path.read_text()]

STORY = ('growth', 'config', 'schedule', 'model')
# From below upwards: a file imports from its own room and those before it.
ROOMS = ('core', 'story', 'run', 'verdict', 'grid', 'doors')
HEAVY = ('matplotlib', 'pandas', 'scipy', 'datasets', 'requests', 'transformers', 'tiktoken',
         'safetensors', 'pyarrow',
         'wandb', 'tensorboard', 'trackio', 'huggingface_hub')

def imports_of(path: Path) -> list[tuple[str, str]]:
    """(module, name taken from it or '') of every import in a file, those within functions too.

    `from core import data` imports core.data as a whole.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found += [(alias.name, '') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f'{node.module}.{alias.name}'
                found.append((whole, '') if whole in MODULES else (node.module, alias.name))
    return found

def room_of(module: str) -> int:
    if module.partition('.')[0] in FOLDERS:
        return ROOMS.index(module.partition('.')[0])
    return ROOMS.index('story' if module in STORY else 'doors')

def test_imports_point_downwards_only():
    for name, path in MODULES.items():
        for module, _ in imports_of(path):
            if module in MODULES:
                assert room_of(module) <= room_of(name), f'{name} imports {module}'

def test_nothing_imports_train():
    for path in (*FILES, *ROOT.glob('configs/*.py'), *ROOT.glob('studies/*.py')):
        assert 'train' not in [module for module, _ in imports_of(path)], path.name

def test_nobody_takes_another_modules_private_names():
    for path in (*FILES, *ROOT.glob('dev/*.py'), *ROOT.glob('tests/**/*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        ours = set()  # what our modules are called in this file
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                ours |= {alias.asname or alias.name for alias in node.names if alias.name in MODULES}
            elif isinstance(node, ast.ImportFrom) and node.module.split('.')[0] in (*FOLDERS, *MODULES):
                ours |= {alias.asname or alias.name for alias in node.names if node.module in FOLDERS}
                private = [alias.name for alias in node.names if is_private(alias.name)]
                assert not private, f'{path.name} imports {private} from {node.module}'
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
                assert not is_private(node.attr), f'{path.name}: {node.value.id}.{node.attr}'

def is_private(name: str) -> bool:
    return name.startswith('_') and not name.startswith('__')

def test_no_test_imports_another_test():
    for path in (ROOT / 'tests').rglob('*.py'):
        for module, _ in imports_of(path):
            assert not module.startswith('test_'), path.name

def test_matplotlib_is_in_two_files_alone():
    for path in (*FILES, *ROOT.glob('dev/*.py')):
        uses = [module for module, _ in imports_of(path) if module.split('.')[0] == 'matplotlib']
        assert not uses or path.name in ('figure.py', 'plot.py'), path.name

def test_train_loads_nothing_that_it_does_not_need():
    done = subprocess.run([sys.executable, '-X', 'importtime', ROOT / 'train.py', '--help'],
                          capture_output=True, text=True)
    loaded = set()
    for line in done.stderr.splitlines():
        name = line.rpartition('|')[2].strip()
        loaded |= {name, name.split('.')[0]}
    assert done.returncode == 0
    assert 'torch' not in loaded and 'schedule' in loaded  # --help and a wrong flag don't wait for it
    assert not loaded & set(HEAVY)
    for name in ('verdict.figure', 'verdict.stats', 'compare', 'study'):
        assert name not in loaded

def test_importing_any_module_prints_nothing_writes_nothing_and_asks_no_network(tmp_path):
    code = f"""
import socket, sys
sys.path.insert(0, {str(ROOT)!r})
def refuse(*args, **kwargs): raise AssertionError('a network connection at import')
socket.socket.connect = refuse
for name in {list(MODULES)!r}: __import__(name)
assert 'matplotlib' not in sys.modules
"""
    done = subprocess.run([sys.executable, '-B', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '') and not list(tmp_path.iterdir())

@pytest.mark.parametrize('name', SCRIPTS)
def test_help_names_every_option_and_changes_nothing(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', '--help'])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / f'{name}.py'), run_name='__main__')
    captured = capsys.readouterr()
    assert not stop.value.code and captured.err == '' and not list(tmp_path.iterdir())
    options = re.findall(r"add(?:_argument)?\('(--[a-z_]+)'", (ROOT / f'{name}.py').read_text())
    assert all(option in captured.out for option in options)
    assert f'python {name}.py' in captured.out  # how to type it

def test_every_text_file_is_opened_in_utf_8():
    """Elsewhere than on Linux, or under LC_ALL=C, open() would take another encoding."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'open':
                mode = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1],
                                                                               ast.Constant) else 'r'
                names = [keyword.arg for keyword in node.keywords]
                assert 'b' in mode or 'encoding' in names, f'{path.name}, line {node.lineno}'

def test_no_file_of_a_user_is_checked_by_an_assert():
    """python -O drops asserts: those that are left are about the code itself, and none of them is caught."""
    for path in FILES:
        if path.name == 'device.py':  # torch itself raises one where a device isn't there
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                assert 'AssertionError' not in ast.unparse(node.type), f'{path.name}, line {node.lineno}'

def test_the_readme_names_every_script_and_the_docs_every_config():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    missing = [path.name for path in ROOT.glob('*.py') if f'`{path.name}`' not in readme]
    assert not missing
    docs = (ROOT / 'docs' / 'operators.md').read_text(encoding='utf-8')
    for path in (ROOT / 'configs').glob('*.py'):
        assert path.stem in docs or path.stem.replace('incremental', '') in docs, path.stem
