"""What a user can get wrong, over all scripts. Run: python -m pytest tests/doors/test_mistakes.py

Each mistake: exit code 2, one message on standard error that names the thing, no traceback, no file changed.
The scripts run in this process, as `python SCRIPT ARGS` would run them, since starting 80 of them with torch
would take minutes; those at the end of the file are started for real.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

REPO = Path(__file__).parents[2]
EXAMPLE = {'ind': 0, 'ctx': 'the quick brown', 'label': 0, 'endings': ['fox', 'hen', 'dog', 'oak']}

def script(monkeypatch, name: str, args: str):
    """Run a script as __main__ with an argument string; its exit code."""
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *args.split()])
    try:
        runpy.run_path(str(REPO / f'{name}.py'), run_name='__main__')
    except SystemExit as stop:
        return stop.code or 0
    return 0

def snapshot(folder: Path) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
            for p in sorted(folder.rglob('*')) if p.name != '.lock'}  # a folder that was there may be locked

def make_configs():
    """Configs with mistakes."""
    Path('typo.py').write_text('n_layers = 3\nlearning_rat = 1\nn_head = "two"\n')
    Path('syntax.py').write_text('n_layer = = 3\n')
    Path('raises.py').write_text('n_layer = 3\nn_head = 1 // 0\n')
    Path('latin.py').write_bytes('# caf\u00e9\nn_layer = 3\n'.encode('latin-1'))

def make_data():
    """Data: each folder is good but for one file."""
    def spoiled(name, file, content):
        shutil.copytree('data', name)
        Path(name, file).write_bytes(content)

    shard = Path('data/tiny_train_000001.bin').read_bytes()
    header = np.frombuffer(shard[:1024], np.int32).copy()
    spoiled('data_torn', 'tiny_train_000001.bin', shard[:-1])
    spoiled('data_magic', 'tiny_train_000001.bin', b'<html>not found</html>' + bytes(3000))
    spoiled('data_empty', 'tiny_val_000000.bin', b'')
    header[1] = 7
    spoiled('data_version', 'tiny_train_000001.bin', header.tobytes() + shard[1024:])
    header[1:3] = 1, 2**31 - 1
    spoiled('data_huge', 'tiny_train_000001.bin', header.tobytes() + shard[1024:])
    header[2] = -2**31
    spoiled('data_negative', 'tiny_train_000001.bin', header.tobytes() + shard[1024:])
    spoiled('data_npy', 'x_train_2.npy', b'\x93NUMPY\x01\x00garbage')
    spoiled('data_meta', 'meta.json', b'{"tokenizer": ')
    spoiled('data_meta_list', 'meta.json', b'[1, 2]')
    spoiled('data_deep', 'meta.json', b'[' * 100_000)
    shutil.copytree('data', 'data_no_val', ignore=shutil.ignore_patterns('*val*'))
    os.mkdir('data_nothing')

def make_runs():
    """Damaged checkpoints, and copies of the run with one thing wrong."""
    whole = next(iter(sorted(Path('run').glob('ckpt_*.pt'), reverse=True))).read_bytes()
    Path('torn.pt').write_bytes(whole[:-50])
    Path('text.pt').write_text('not a checkpoint')
    state = torch.load(sorted(Path('run').glob('ckpt_*.pt'))[-1], weights_only=True)
    torch.save({'model': state['model']}, 'foreign.pt')
    torch.save(state | {'depth': 10**9}, 'deep.pt')
    torch.save(state | {'depth': 2}, 'shallow.pt')
    torch.save(state | {'config': {'n_layer': 'many'}}, 'config.pt')
    torch.save(state | {'tokenizer': 'klingon'}, 'klingon.pt')
    for name in ('run_torn', 'run_metrics', 'run_config', 'run_config_list', 'run_deep', 'run_unfinished'):
        shutil.copytree('run', name)
    for path in Path('run_torn').glob('ckpt_*.pt'):
        path.write_bytes(path.read_bytes()[:-50])
    lines = Path('run/metrics.jsonl').read_text().splitlines()
    Path('run_metrics/metrics.jsonl').write_text('\n'.join([*lines[:5], '\0\0\0', *lines[5:]]) + '\n')
    Path('run_config/config.json').write_bytes(b'{"n_layer": 4')
    Path('run_config_list/config.json').write_bytes(b'5')
    Path('run_deep/config.json').write_bytes(b'[' * 100_000)
    for path in sorted(Path('run_unfinished').glob('ckpt_*.pt'))[1:]:
        path.unlink()
    os.mkdir('run_empty')
    config = json.loads(Path('run/config.json').read_text())
    for name, n_stages, decay in (('run_baseline_1', 1, 0.1), ('run_baseline_2', 1, 0.2)):
        os.mkdir(name)
        Path(name, 'config.json').write_text(json.dumps(config | {'n_stages': n_stages,
                                                                  'weight_decay': decay}))
        shutil.copy('run/metrics.jsonl', name)

def make_inputs():
    """What HellaSwag and prepare_fineweb read."""
    Path('html.jsonl').write_text('<html>404</html>')
    Path('empty.jsonl').write_text('')
    Path('label.jsonl').write_text(json.dumps(EXAMPLE | {'label': ''}) + '\n')
    Path('endings.jsonl').write_text(json.dumps(EXAMPLE | {'endings': ['a', 'b']}) + '\n')
    Path('long.jsonl').write_text(json.dumps(EXAMPLE | {'endings': ['x' * 60] * 4}) + '\n')
    Path('texts.jsonl').write_text('{"text": "a"}\n{"txt": "b"}\n')
    Path('broken.parquet').write_bytes(b'PAR1 but no more')
    Path('one.txt').write_text('a short text\n')
    Path('file').write_text('not a folder\n')

@pytest.fixture(scope='module')
def work(tiny, tmp_path_factory):
    """A folder with data, a config, a finished run, and all kinds of damaged ones."""
    folder = tmp_path_factory.mktemp('work')
    settings = dict(flag[2:].split('=', 1) for flag in tiny) | {
        'data_dir': 'data', 'hellaswag_data': 'data/hellaswag.jsonl', 'growth_steps': '6',
        'continual_steps': '2'}
    text = '\n'.join(f'{k} = {v if re.fullmatch("[0-9.e-]+", v) else repr(v)}'
                     for k, v in settings.items()) + '\n'
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(next(f for f in tiny if f.startswith('--data_dir=')).split('=', 1)[1], 'data')
        Path('base.py').write_text(text)
        assert script(patch, 'train', 'base.py --out_dir=run') == 0
        assert script(patch, 'export_hf', 'run hf') == 0

        make_configs()
        make_data()
        make_runs()
        make_inputs()
    return folder

GOOD = 'base.py --out_dir=new'
MISTAKES = [
    # settings
    ('train', 'typo.py base.py',
     r"typo.py: no setting is called 'n_layers'; did you mean 'n_layer'\?\n.*'learning_rat'; did you "
                                 r"mean 'learning_rate'\?\n.*n_head must be int, not 'two'"),
    ('train', 'nowhere.py', r'nowhere.py: no such config file'),
    ('train', 'gong_3_6_21', r"gong_3_6_21: no such config file; did you mean 'gong_3_6_12'\?"),
    ('train', 'data', r'data: no such config file'),
    ('train', 'syntax.py', r'syntax.py, line 1: SyntaxError'),
    ('train', 'raises.py', r'raises.py, line 2: ZeroDivisionError'),
    ('train', 'latin.py', r'latin.py.*utf-8'),
    ('train', f'{GOOD} --n_layer', r'--n_layer: a flag needs a value'),
    ('train', f'{GOOD} --n_layer=4.5', r'--n_layer: n_layer must be int, not 4.5'),
    ('train', f'{GOOD} --n_layer=0', r'n_layer must be at least 1, not 0'),
    ('train', f'{GOOD} --n_embd=17', r'n_embd 17 is not divisible by n_head 2'),
    ('train', f'{GOOD} --dropout=1', r'dropout must be below 1'),
    ('train', f'{GOOD} --learning_rate=nan', r'learning_rate must be float, not nan'),
    ('train', f'{GOOD} --learning_rate=1e999', r'learning_rate must be a finite number'),
    ('train', f'{GOOD} --learning_rate=-1', r'learning_rate must be at least 0'),
    ('train', f'{GOOD} --lr_schedule=linear',
     r"lr_schedule must be 'constant' or 'cosine' or 'wsd', not 'linear'"),
    ('train', f'{GOOD} --grow_init=clone', r"grow_init must be 'random'.*not 'clone'"),
    ('train', f'{GOOD} --n_stages=9', r'9 stages need at least as many layers to grow; n_layer is 4'),
    ('train', f'{GOOD} --stage_depths=1,2', r'stage_depths has 2 entries, n_stages is 3'),
    ('train', f'{GOOD} --stage_depths=3,2,4', r'stage_depths must grow, .*: \(3, 2, 4\)'),
    ('train', f'{GOOD} --stage_steps=1,2', r'stage_steps has 2 entries'),
    ('train', f'{GOOD} --growth_steps=2', r'growth_steps 2 is less than one step for each of 3 stages'),
    ('train', f'{GOOD} --n_stages=1 --growth_steps=0 --continual_steps=0', r'there is nothing to do'),
    ('train', f'{GOOD} --continual_steps=equal_compute --baseline_steps=1', r'lower growth_steps'),
    ('train', f'{GOOD} --batch_size=3',
     r'total_batch_size 256 is not a multiple of batch_size x block_size = 3 x 32'),
    ('train', f'{GOOD} --total_batch_size=1e3', r'total_batch_size 1000 is not a multiple of'),
    ('train', f'{GOOD} --total_batch_size=1e-3', r'total_batch_size must be int, not 0.001'),
    ('train', f'{GOOD} --seed=-1', r'seed must be at least 0'),
    ('train', f'{GOOD} --device=gpu', r"device 'gpu' is not there"),
    ('train', f'{GOOD} --dtype=float16', r"dtype must be .*not 'float16'"),
    ('train', f'{GOOD} --tracker=wandb', r'wandb could not be started .*pip install wandb\)'),
    ('train', f'{GOOD} --tracker=mlflow',
     r"tracker must be '' or 'wandb' or 'tensorboard' or 'trackio', not 'mlflow'"),
    ('train', f'{GOOD} --wandb_project=mine',
     r"no setting is called 'wandb_project'; did you mean 'tracker_project'"),
    ('train', f'{GOOD} --val_dirs=old', r'val_dirs must be name:folder,name:folder'),
    ('train', f'{GOOD} --val_dirs=old:nowhere', r'data_dir nowhere does not exist'),
    ('train', f'{GOOD} --warmup_steps=30', r'warmup_steps 30 is too long for a run of 8 steps'),
    ('train', f'{GOOD} --lr_schedule=wsd --decay_fraction=0.5 --warmup_steps=6',
     r'warmup_steps 6 is too long for a run of 8 steps, of which the last 4 decay'),
    ('train', f'{GOOD} --n_stages=2 --stage_depths=4,4', r'stage_depths must grow'),
    ('train', f'{GOOD} --grow_map=((0,0),)', r'stage 2 makes 2 layers out of 2, not 3; --grow_map='),
    ('train', 'configs/cpu configs/baseline --out_dir=new', r'cpu.py: name that config last'),
    ('train', f'{GOOD} --n_embd=1000000000 --n_head=1', r'out of memory at full depth \(4 layers\)'),
    ('train', f'{GOOD} --vocab_size=200', r'vocab_size 200 is less than the 257 of data'),
    ('train', f'{GOOD} --val_tokens=100000', r'val_tokens 100000 asks for 3125 sequences'),
    ('train', f'{GOOD} --total_batch_size=8192', r'data holds 124 training sequences, one step takes 256'),
    ('train', f'{GOOD} --match=nowhere', r'nowhere: no such config file'),
    ('train', f'{GOOD} --match=run_config', r'run_config/config.json: not a readable config'),
    # data
    ('train', f'{GOOD} --data_dir=nowhere', r'data_dir nowhere does not exist'),
    ('train', f'{GOOD} --data_dir=nowhere --vocab_size=0', r'data_dir nowhere does not exist'),
    ('train', f'{GOOD} --data_dir=data_nothing', r'data_dir data_nothing has no train shards'),
    ('train', f'{GOOD} --data_dir=data_no_val', r'data_dir data_no_val has no val shards'),
    ('train', f'{GOOD} --data_dir=data_torn',
     r'data_torn/tiny_train_000001.bin: 9023 bytes, but its header promises 4000'),
    ('train', f'{GOOD} --data_dir=data_magic', r'data_magic/tiny_train_000001.bin: not a token shard'),
    ('train', f'{GOOD} --data_dir=data_empty', r'data_empty/tiny_val_000000.bin: not a token shard'),
    ('train', f'{GOOD} --data_dir=data_version',
     r'data_version/tiny_train_000001.bin: not a token shard \(magic number 20240520, version 7'),
    ('train', f'{GOOD} --data_dir=data_huge',
     r'data_huge/tiny_train_000001.bin: 9024 bytes, but its header promises 2147483647'),
    ('train', f'{GOOD} --data_dir=data_negative', r'data_negative/tiny_train_000001.bin'),
    ('train', f'{GOOD} --data_dir=data_npy', r'data_npy/x_train_2.npy: not a .npy file'),
    ('train', f'{GOOD} --data_dir=data_meta', r'data_meta/meta.json: not a meta.json'),
    ('train', f'{GOOD} --data_dir=data_meta_list', r'data_meta_list/meta.json: not a meta.json'),
    ('train', f'{GOOD} --data_dir=data_deep', r'data_deep/meta.json: not a meta.json'),
    ('train', f'{GOOD} --data_dir=data_meta --vocab_size=0', r'data_meta/meta.json'),
    ('train', f'{GOOD} --data_dir=data_deep --vocab_size=0', r'data_deep/meta.json'),
    ('train', f'{GOOD} --block_size=4096 --total_batch_size=8192', r'fewer than one sequence of block_size'),
    ('train', f'{GOOD} --hellaswag_data=nowhere.jsonl', r'nowhere.jsonl: No such file'),
    ('train', f'{GOOD} --hellaswag_data=html.jsonl', r'html.jsonl, line 1: an example is a JSON object'),
    # the run directory and checkpoints
    ('train', 'base.py --out_dir=run', r'run already holds a run: go on with --resume'),
    ('train', f'{GOOD} --resume', r'new holds no checkpoint to resume from'),
    ('train', f'{GOOD} --resume=maybe', r'--resume=maybe: no run directory with a config.json'),
    ('train', 'run --resume', r'run: no such config file; --resume=run resumes a run'),
    ('train', '--resume=run_config', r'run_config/config.json: not a readable config'),
    ('train', '--resume=run_empty', r'--resume=run_empty: no run directory with a config.json'),
    ('train', '--resume=run --out_dir=new', r'--resume=run and --out_dir=new are two run directories'),
    ('train', '--resume=run_unfinished --growth_steps=9', r'growth_steps: was 6, now 9'),
    ('train', '--resume=run_torn', r'run_torn: none of its 5 checkpoints can be read'),
    ('train', 'base.py --out_dir=run --resume --n_embd=32 --seed=7',
     r'run was made with other settings.*\n  seed: was 1337, now 7\n  n_embd: was 16, now 32'),
    ('train', 'base.py --out_dir=run_unfinished --resume --growth_steps=9', r'growth_steps: was 6, now 9'),
    ('train', 'base.py --out_dir=run_torn --resume=auto', r'run_torn: none of its 5 checkpoints can be read'),
    ('train', 'base.py --out_dir=run_metrics --resume --continual_steps=3',
     r'run_metrics/metrics.jsonl, line 6: not a line of'),
    ('train', 'base.py --out_dir=file/x', r'file/x: Not a directory'),
    ('train', 'base.py --out_dir=file', r'file: File exists'),
    ('train', 'base.py --out_dir=/proc/nowhere', r'/proc/nowhere: '),
    ('train', f'{GOOD} --init_depth=2', r'init_depth 2 is of the model to grow from'),
    ('train', f'{GOOD} --init_from=run', r'3 stages need at least as many layers to grow.*init_depth 4'),
    ('train', f'{GOOD} --init_from=nowhere', r'init_from nowhere: .*: set init_depth'),
    ('train', f'{GOOD} --n_stages=1 --init_from=nowhere --init_depth=2', r'nowhere: No such file'),
    ('train', f'{GOOD} --n_stages=1 --init_from=run --init_depth=3',
     r'init_from run: its depth is 4, the config says 3'),
    ('train', f'{GOOD} --n_stages=1 --init_from=run --n_head=4', r'its n_head is 2, the config says 4'),
    ('train', f'{GOOD} --n_stages=1 --arch=llama --init_from=hf',
     r'init_from hf: its arch is gpt2, the config says llama'),
    ('train', f'{GOOD} --arch=llama --n_kv_head=3', r'n_head 2 is not divisible by n_kv_head 3'),
    ('train', f'{GOOD} --n_stages=1 --init_from=run_empty --init_depth=2', r'run_empty: holds no checkpoint'),
    ('train', f'{GOOD} --n_stages=1 --init_from=klingon.pt --init_depth=4',
     r'klingon.pt: its tokenizer is klingon, the data in data says bytes'),
    # the environment
    ('train', GOOD, r'the environment says RANK=, WORLD_SIZE=two', {'WORLD_SIZE': 'two'}),
    ('train', GOOD, r'RANK=, WORLD_SIZE=2, .*: start several ranks with torchrun', {'WORLD_SIZE': '2'}),
    ('train', GOOD, r'the environment says RANK=3, WORLD_SIZE=2', {'WORLD_SIZE': '2', 'RANK': '3',
                                                                   'LOCAL_RANK': '0'}),
    ('train', GOOD, r'the environment says RANK=0, WORLD_SIZE=0', {'WORLD_SIZE': '0', 'RANK': '0',
                                                                   'LOCAL_RANK': '0'}),
    ('train', GOOD, r'MASTER_ADDR=, MASTER_PORT=1: start', {'WORLD_SIZE': '2', 'RANK': '0', 'LOCAL_RANK': '0',
                                        'MASTER_PORT': '1'}),
    ('train', f'{GOOD} --batch_size=4', r'not a multiple of ranks x batch_size x block_size = 3 x 4 x 32',
     {'WORLD_SIZE': '3', 'RANK': '0', 'LOCAL_RANK': '0', 'MASTER_PORT': '1', 'MASTER_ADDR': 'localhost'}),
    ('hellaswag', 'run --data=data/hellaswag.jsonl', r'the environment says RANK=, WORLD_SIZE=two',
     {'WORLD_SIZE': 'two'}),
    # schedule.py and bench.py
    ('schedule', 'nowhere.py', r'nowhere.py: no such config file'),
    ('schedule', 'base.py --tflops=-1', r'--tflops=-1'),
    ('schedule', 'base.py --tflops=fast', r"--tflops: invalid float value: 'fast'"),
    ('schedule', 'base.py --mfu=1.5', r'--mfu=1.5: must be a positive number, for --mfu at most 1'),
    ('schedule', 'base.py --mfu=0.4 --gpu=abacus', r'--gpu=abacus: its peak is not known'),
    ('schedule', 'base.py --price=2', r'--price needs --mfu or --tflops'),
    ('schedule', 'base.py --jsn', r"--jsn: no setting is called 'jsn'"),
    ('bench', 'base.py --repeats=0', r'--repeats=0'),
    ('bench', 'base.py --phases=0,99', r'--phases=0,99: there are none, 0, 1, 2, 3'),
    ('bench', 'base.py --device=gpu', r"device 'gpu' is not there"),
    ('bench', 'base.py --n_head=0', r'n_head must be at least 1'),
    # hellaswag.py
    ('hellaswag', '', r'arguments are required: model'),
    ('hellaswag', 'nowhere', r'nowhere'),
    ('hellaswag', 'run --style=harness', r"argument --style: invalid choice: 'harness'"),
    ('hellaswag', 'run --limit=-1', r'--limit=-1'),
    ('hellaswag', 'run --data=empty.jsonl', r'empty.jsonl: holds no examples'),
    ('hellaswag', 'run --data=html.jsonl', r'html.jsonl, line 1: an example is a JSON object'),
    ('hellaswag', 'run --data=label.jsonl', r'label.jsonl, line 1: an example is a JSON object'),
    ('hellaswag', 'run --data=endings.jsonl', r'endings.jsonl, line 1: an example is a JSON object'),
    ('hellaswag', 'run --data=long.jsonl', r'example 1: an ending of 61 tokens does not fit .* 32'),
    ('hellaswag', 'run --data=data', r'data: Is a directory'),
    ('hellaswag', 'run --data=data/hellaswag.jsonl --device=gpu', r"device 'gpu' is not there"),
    ('hellaswag', 'run --data=data/hellaswag.jsonl --per_example=base.py',
     r'--per_example=base.py exists already'),
    ('hellaswag', 'run --data=data/hellaswag.jsonl --per_example=nowhere/x.jsonl', r'nowhere/x.jsonl'),
    ('hellaswag', 'run run --data=data/hellaswag.jsonl --per_example=x.jsonl', r'the lines of one model'),
    ('hellaswag', 'run run run', r'3 models: name one, or two'),
    ('hellaswag', 'klingon.pt --data=data/hellaswag.jsonl', r"no tokenizer is called 'klingon'"),
    ('hellaswag', 'run_config_list', r'run_config_list/config.json: not a readable config'),
    # sample.py and export_hf.py
    ('sample', 'nowhere.pt', r'nowhere.pt: No such file'),
    ('sample', 'torn.pt', r'torn.pt: damaged, or not a checkpoint'),
    ('sample', 'text.pt', r'text.pt: damaged, or not a checkpoint'),
    ('sample', 'foreign.pt', r'foreign.pt: not a checkpoint of this project'),
    ('sample', 'deep.pt', r'deep.pt: not a checkpoint of this project'),
    ('sample', 'shallow.pt', r"shallow.pt: its weights don't fit"),
    ('sample', 'config.pt', r"config.pt: its weights don't fit"),
    ('sample', 'run_torn', r'run_torn: none of its 5 checkpoints can be read'),
    ('sample', 'run --tokens=0', r'--tokens must be at least 1'),
    ('sample', 'run --temperature=-1', r'--temperature must be at least 0'),
    ('sample', 'run --temperature=nan', r'--temperature must be at least 0'),
    ('sample', 'run --top_k=-1', r'--top_k must be at least 0'),
    ('sample', 'run --seed=4294967296', r'--seed must be below'),
    ('sample', 'run a --prompt=b', r"two prompts: 'a' and"),
    ('export_hf', 'run', r'arguments are required: folder'),
    ('export_hf', 'run data', r'data is there already'),
    ('export_hf', 'run_empty new', r'run_empty: holds no checkpoint'),
    ('export_hf', 'run file/new', r'file/new could not be written'),
    ('export_hf', 'run_deep/nothing.pt new', r'run_deep/nothing.pt: No such file'),
    # compare.py
    ('compare', '', r'arguments are required: RUN'),
    ('compare', 'nowhere', r'nowhere: no such run directory'),
    ('compare', 'data run_empty', r'data: no run in it'),
    ('compare', 'run_config', r'run_config/config.json: not a readable config'),
    ('compare', 'run_config_list', r'run_config_list/config.json: not a readable config'),
    ('compare', 'run_deep', r'run_deep/config.json: not a readable config'),
    ('compare', 'run_metrics', r'run_metrics/metrics.jsonl, line 6'),
    ('compare', 'run --figure=x.txt', r'--figure=x.txt: the name must end in'),
    ('compare', 'run --csv=nowhere/x.csv', r'nowhere/x.csv: there is no folder nowhere'),
    ('compare', 'run --baseline=nowhere', r'nowhere'),
    ('compare', 'run --sigma=0', r'--sigma=0.0: must be a positive number'),
    ('compare', 'run --margin=nan', r'--margin=nan'),
    ('compare', 'run --json --csv', r'only one of'),
    ('compare', 'data/hellaswag.jsonl', r'1 files: two scorings are compared'),
    # study.py
    ('study', '', r'arguments are required: STUDY'),
    ('study', 'nowhere.py', r'nowhere.py: no such study file'),
    ('study', 'base.py', r"base.py: .*'data_dir'"),
    # prepare_fineweb.py and prepare_demo.py
    ('prepare_fineweb', '--sample=5BT', r"argument --sample: invalid choice: '5BT'"),
    ('prepare_fineweb', '--source one.txt', r'--source needs --out'),
    ('prepare_fineweb', '--source nowhere/*.txt --out=new', r'--source: no file matches nowhere/\*.txt'),
    ('prepare_fineweb', '--source base.py --out=new', r'base.py: not a source'),
    ('prepare_fineweb', '--source one.txt --out=new --shard_tokens=1', r'--shard_tokens must be from 2'),
    ('prepare_fineweb', '--source one.txt --out=new --workers=0', r'--workers must be from 1'),
    ('prepare_fineweb', '--source one.txt --out=new --max_tokens=10',
     r'--max_tokens=10: 100000000 tokens are for validation'),
    ('prepare_fineweb', '--source one.txt --out=data --tokenizer=bytes',
     r"data holds data that this script didn't make"),
    ('prepare_fineweb', '--source one.txt --out=file --tokenizer=bytes', r'file'),
    ('prepare_fineweb', '--source broken.parquet --out=new', r'broken.parquet'),
    ('prepare_demo', '--out=data', r"data/meta.json is another data set's; choose another --out"),
    ('prepare_demo', '--out=file', r'file: Not a directory'),
    ('prepare_demo', '--out=data_no_val --x', r'unrecognized arguments: --x'),
    ('prepare_demo', '--out=data_meta', r'data_meta/meta.json: not a meta.json'),
]

@pytest.mark.parametrize('name, args, message, env', [(*m, {})[:4] for m in MISTAKES],
                         ids=[f'{m[0]} {m[1]}' for m in MISTAKES])
def test_a_mistake_is_one_message_and_changes_nothing(work, monkeypatch, capsys, name, args, message, env):
    monkeypatch.chdir(work)
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setitem(sys.modules, 'wandb', None)  # it may be installed here or not
    before = snapshot(work)
    code = script(monkeypatch, name, args)
    err = capsys.readouterr().err
    # A warning, and which checkpoint is read, may stand before the mistake.
    err = re.sub(r'^(warning: .*|\S+\.pt: step \d+, of a run .*)\n?', '', err, flags=re.M)
    assert code == 2, err
    assert re.search(message, err) and 'Traceback' not in err and err.count('error: ') == 1, err
    assert err.startswith('error: '), err
    if 'broken.parquet' in args:  # found while it is read: the folder says that it isn't complete
        assert json.loads(Path('new', 'meta.json').read_text())['complete'] is False
        shutil.rmtree('new')
    assert snapshot(work) == before

@pytest.mark.parametrize('name, args', [
    ('train', '~/nowhere.py'), ('train', f'{GOOD} --data_dir=~/nowhere'),
    ('train', f'{GOOD} --data_dir ~/nowhere'),
    ('train', f'{GOOD} --hellaswag_data=~/nowhere.jsonl'), ('train', f'{GOOD} --init_from=~/nowhere.pt '
                                                                     '--n_stages=1 --init_depth=2'),
    ('train', f'{GOOD} --match=~/nowhere.py'), ('train', f'{GOOD} --match=base.py+~/nowhere.py'),
    ('train', f'{GOOD} --branch_from=~/nowhere.pt'), ('train', 'base.py --out_dir=~/nowhere --resume'),
    ('train', 'base.py --out_dir=~/run'), ('train', '--resume=~/run_deep'),
    ('schedule', '~/nowhere.py'), ('schedule', 'base.py --figure=~/nowhere/x.png'), ('bench', '~/nowhere.py'),
    ('hellaswag', '~/nowhere.pt'), ('hellaswag', 'run --data=~/nowhere.jsonl'),
    ('hellaswag', 'run --data=data/hellaswag.jsonl --per_example=~/nowhere/x.jsonl'),
    ('sample', '~/nowhere.pt'), ('export_hf', '~/nowhere.pt new'), ('export_hf', 'run ~/data'),
    ('compare', '~/nowhere'), ('compare', 'run --baseline=~/nowhere'), ('compare',
                                                                        'run --figure=~/nowhere/x.png'),
    ('compare', 'run --csv=~/nowhere/x'), ('compare', 'run --json=~/nowhere/x'), ('compare',
                                                                                  'run --latex=~/nowhere/x'),
    ('compare', 'run --markdown=~/nowhere/x'),
    ('prepare_fineweb', '--source ~/nowhere/*.txt --out=new --tokenizer=bytes'),
    ('prepare_fineweb', '--source one.txt --out=~/file --tokenizer=bytes'), ('prepare_demo', '--out=~/file'),
    ('study', '~/nowhere.py'),
])
def test_a_tilde_is_the_home_directory_in_every_path(work, monkeypatch, capsys, name, args):
    """The shell doesn't see to it behind a =, in quotes or in a config."""
    monkeypatch.chdir(work)
    monkeypatch.setenv('HOME', str(work))
    assert script(monkeypatch, name, args) == 2
    err = capsys.readouterr().err
    assert '~' not in err and str(work) in err
    assert not (work / '~').exists()

def test_the_table_is_long_enough_and_covers_every_script():
    assert len(MISTAKES) >= 60
    assert {m[0] for m in MISTAKES} == {p.stem for p in REPO.glob('*.py') if '__main__' in p.read_text()}

NO_NETWORK = {'HF_ENDPOINT': 'http://127.0.0.1:9', 'HTTPS_PROXY': 'http://127.0.0.1:9',
              'HF_HUB_DOWNLOAD_TIMEOUT': '1'}

@pytest.mark.parametrize('name, args, message, env', [
    ('train', 'base.py --out_dir=run', r'run already holds a run', {}),
    ('train', f'{GOOD} --hellaswag_data= --hellaswag_interval=1',
     r'Rowan/hellaswag could not be fetched',
     {'HF_HUB_OFFLINE': '1'}),
    ('sample', 'nobody/nothing', r'nobody/nothing could not be fetched from the Hub', NO_NETWORK),
    ('prepare_fineweb', '--out=new', r"HuggingFaceFW/fineweb-edu on the Hub can't be read .*--source",
     NO_NETWORK),
    ('prepare_fineweb', '--source one.txt --out=new',
     r"GPT-2's vocabulary could not be downloaded.* TIKTOKEN_CACHE_DIR",
     NO_NETWORK | {'TIKTOKEN_CACHE_DIR': '/nonexistent/cache'}),
])
def test_a_mistake_of_a_process_of_its_own(work, tmp_path, name, args, message, env):
    before = snapshot(work)
    done = subprocess.run([sys.executable, str(REPO / f'{name}.py'), *args.split()], cwd=work,
                          capture_output=True, text=True,
                          env={**os.environ, 'HF_HOME': str(tmp_path), 'OMP_NUM_THREADS': '1', **env},
                          timeout=120)
    assert done.returncode == 2, done.stderr
    assert re.match(rf'error: {message}', done.stderr) and done.stderr.count('\n') == 1, done.stderr
    assert snapshot(work) == before
