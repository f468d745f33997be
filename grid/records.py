"""
The records of finished runs: results/STUDY/records.jsonl, a line a run, without weights.

    {"run": "full_depth/b1000_s1", "config": {...}, "info": {...}, "metrics": [{...}, ...]}

run       its folder within the study's
config    what config.json says
info      what run.json says
metrics   the lines of metrics.jsonl

study.py --collect writes them; from them alone a report is made again, and what they hold isn't run again. A
path in them says where something lay within the study or the repository, and of any other place the name. """

import functools
import json
import os
import shlex

from config import FIELDS
from core.common import UserError, atomic_write, read_json
from grid.study_file import HERE
from run.log import read_metrics, read_run_json

KEYS = {'run': str, 'config': dict, 'info': dict, 'metrics': list}

def read_records(path: str) -> dict[str, dict]:
    """The records in a file by the name of their run, {} if there is no such file.

    Raises UserError, naming the line, for one that is no record. """
    if not os.path.exists(path):
        return {}
    status = os.stat(path)
    return read_once(path, status.st_mtime_ns, status.st_size)

@functools.lru_cache(maxsize=8)  # planning asks for them again and again
def read_once(path: str, changed: int, size: int) -> dict[str, dict]:
    records = {}
    with open(path, encoding='utf-8') as f:
        for number, line in enumerate(f, 1):
            try:
                record = json.loads(line)
                is_record = all(type(record[key]) is kind for key, kind in KEYS.items())
            except (ValueError, KeyError, TypeError, RecursionError):
                is_record = False
            if not is_record:
                raise UserError(f'{path}, line {number}: not the record of a run; remove the line, and '
                                'collect that run again')
            records[record['run']] = record
    return records

def write_records(path: str, records: dict[str, dict]):
    # Whole or not at all; git shows the lines that came.
    with atomic_write(path) as f:
        for record in records.values():
            f.write(json.dumps(record) + '\n')

def make_record(study: str, out: str, run: str, run_dir: str) -> dict:
    """The record of a run directory of the study called `study`, whose runs lie in `out`. Raises UserError
    for one that can't be read."""
    config = read_json(os.path.join(run_dir, 'config.json'), 'a readable config')
    for name, value in config.items():
        if name in FIELDS and FIELDS[name].metadata['path']:
            config[name] = portable(study, out, value)
    info = read_run_json(run_dir)
    metrics, _ = read_metrics(os.path.join(run_dir, 'metrics.jsonl'))  # the last line may be truncated
    for start in (info, *info.get('starts', [])):
        if 'command' in start:
            start['command'] = portable_command(study, out, start['command'])
    for name in ('init_from', 'branch_from'):
        if info.get(name):
            info[name]['path'] = portable(study, out, info[name]['path'])
    return {'run': run, 'config': config, 'info': info, 'metrics': metrics}

def portable(study: str, out: str, path: str) -> str:
    """A path as it reads on every machine: within out/STUDY, within the repository, or its name alone."""
    if not path or '://' in path:
        return path
    for root, name in ((out, f'out/{study}'), (HERE, '')):
        inside = os.path.relpath(os.path.abspath(path), os.path.abspath(root))
        if inside.partition(os.sep)[0] != '..':
            return os.path.normpath(os.path.join(name, inside))
    return os.path.basename(os.path.normpath(path))

def portable_command(study: str, out: str, command: str) -> str:
    """A command of train.py whose paths read on every machine."""
    words = []
    for word in shlex.split(command):
        name, equals, value = word.partition('=')
        field = FIELDS.get(name.lstrip('-'))
        if not word.startswith('-'):
            word = portable(study, out, word)
        elif equals and field and field.metadata['path']:
            word = f'{name}={portable(study, out, value)}'
        words.append(word)
    return shlex.join(words)
