"""Checkpoints: whole or not there. Run: python -m pytest tests/run/test_checkpoint.py"""

import contextlib
import errno
import json
import os
import pickle
import resource
import runpy
import shutil
import signal
import sys
import threading
import time
import zipfile
from concurrent import futures

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from config import TrainConfig, config_to_dict
from core.common import UserError
from model import GPT
from run import checkpoint

CONFIG = TrainConfig(n_layer=4, n_head=2, n_embd=16, block_size=8, vocab_size=64, total_batch_size=64,
                     batch_size=1)

def state(step=3, depth=2):
    model = GPT(checkpoint.gpt_config(config_to_dict(CONFIG)), depth)
    return {'config': config_to_dict(CONFIG), 'tokenizer': 'bytes', 'depth': depth, 'step': step,
            'model': model.state_dict(),
            'optimizer': {'transformer.ln_f.weight': {'exp_avg': torch.ones(16)}}, 'totals': {'seconds': 1.0}}

def saved(folder, step=3):
    path = str(folder / f'ckpt_{step:06d}.pt')
    checkpoint.save_checkpoint(path, state(step))
    return path

def test_load_gives_the_model_of_that_depth_and_what_is_known_of_it(tmp_path):
    path = saved(tmp_path)
    for where in (path, str(tmp_path)):
        model, info = checkpoint.load_model(where)
        assert model.depth == 2 and not model.training
        assert (info['step'], info['tokenizer'], info['path']) == (3, 'bytes', path) and 'model' not in info
        assert all(torch.equal(v, checkpoint.read_checkpoint(path)['model'][k])
                   for k, v in model.state_dict().items())

def test_the_newest_valid_one_is_taken_and_the_damaged_are_told(tmp_path, capsys):
    for step in (1, 2, 3, 4):
        saved(tmp_path, step)
    damage(tmp_path / 'ckpt_000004.pt', 'cut off')
    damage(tmp_path / 'ckpt_000003.pt', 'one bit')
    (tmp_path / 'ckpt_000009.pt.tmp').write_bytes(b'left over from a kill')
    path, found = checkpoint.latest(str(tmp_path))
    assert path.endswith('ckpt_000002.pt') and found['step'] == 2
    warnings = capsys.readouterr().err
    assert 'ckpt_000004.pt: damaged' in warnings and 'ckpt_000003.pt: damaged' in warnings
    assert checkpoint.latest(str(tmp_path / 'nothing')) is None
    with pytest.raises(UserError, match='none of its 2 checkpoints can be read'):
        for step in (1, 2):
            os.remove(tmp_path / f'ckpt_00000{step}.pt')
        checkpoint.latest(str(tmp_path))

def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path):
    path = saved(tmp_path)
    whole = checkpoint.read_checkpoint(path)
    content = open(path, 'rb').read()
    n_noticed = 0
    for at in range(0, 100, 5):
        raw = bytearray(content)
        raw[len(raw) * at // 100] ^= 0x10
        other = tmp_path / 'flipped.pt'
        other.write_bytes(raw)
        try:
            read = checkpoint.read_checkpoint(str(other))
        except UserError:
            n_noticed += 1
            continue
        assert read['step'] == whole['step']
        assert all(torch.equal(v, whole['model'][k]) for k, v in read['model'].items())
    assert n_noticed > 5

def test_a_checkpoint_that_the_system_can_not_read_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    """Else a resume would go back to the one before, and set this one aside."""
    for step in (1, 2):
        saved(tmp_path, step)
    real_open = open

    def refuse(path, *args, **kwargs):
        if str(path).endswith('ckpt_000002.pt'):
            raise OSError(errno.EIO, 'Input/output error')
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(zipfile.io, 'open', refuse)
    with pytest.raises(OSError, match=r'Input/output error: .*ckpt_000002.pt'):
        checkpoint.latest(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pt'):
        checkpoint.load_model(str(tmp_path / 'nowhere.pt'))

def test_a_checkpoint_that_another_program_has_compressed_is_refused(tmp_path):
    with (zipfile.ZipFile(saved(tmp_path)) as archive,
          zipfile.ZipFile(tmp_path / 'packed.pt', 'w', zipfile.ZIP_DEFLATED) as packed):
        for member in archive.infolist():
            packed.writestr(member.filename, archive.read(member))
    with pytest.raises(UserError, match=r'packed\.pt: damaged'):  # torch would map what isn't there
        checkpoint.read_checkpoint(str(tmp_path / 'packed.pt'))

class Evil:
    def __reduce__(self):
        return os.system, ('touch was_executed',)

def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**state(), 'format': 1, 'totals': Evil()}, 'ckpt_000001.pt')
    with open('plain.pt', 'wb') as f:
        pickle.dump(Evil(), f)
    for path in ('ckpt_000001.pt', 'plain.pt'):
        with pytest.raises(UserError, match=path):
            checkpoint.read_checkpoint(path)
    assert not os.path.exists('was_executed')

@pytest.mark.parametrize('change', [{'format': 2}, {'extra': 1}, {'step': -1}, {'depth': -1}, {'totals': 0}])
def test_another_format_is_refused(tmp_path, change):
    torch.save({**state(), 'format': 1, **change}, tmp_path / 'x.pt')
    with pytest.raises(UserError, match='not a checkpoint of this project, or of another version'):
        checkpoint.read_checkpoint(str(tmp_path / 'x.pt'))

@pytest.mark.parametrize('change', [{'n_head': 3}, {'n_head': 0}, {'n_head': '2'}, {'n_embd': 17},
                                    {'n_embd': None}, {'vocab_size': 63}, {'block_size': 2.5}])
def test_a_config_that_no_model_can_have_is_refused(tmp_path, change):
    torch.save({**state(), 'format': 1, 'config': config_to_dict(CONFIG) | change}, tmp_path / 'x.pt')
    with pytest.raises(UserError, match="its weights don't fit"):
        checkpoint.load_model(str(tmp_path / 'x.pt'))

def test_no_space_left_keeps_what_was_there(tmp_path):
    """A file-size limit stands in for a full disk: the write fails in the middle."""
    path = saved(tmp_path)
    before = open(path, 'rb').read()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
        with pytest.raises(UserError, match=r'ckpt_000003.pt could not be saved .* what was saved before is '
                                            r'untouched'):
            checkpoint.save_checkpoint(path, state(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    assert open(path, 'rb').read() == before and os.listdir(tmp_path) == ['ckpt_000003.pt']

def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    saved(tmp_path, 1)
    new = state(2)
    for wait in range(6):
        reading, writing = os.pipe()
        child = os.fork()  # this process with its torch: importing it again would take the time of the rest
        if child == 0:
            try:
                os.write(writing, b'.')
                while True:
                    checkpoint.save_checkpoint(str(tmp_path / 'ckpt_000002.pt'), new)
            finally:
                os._exit(1)
        os.read(reading, 1)
        time.sleep(0.003 + 0.011 * wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        for path in tmp_path.glob('ckpt_*.pt'):
            checkpoint.read_checkpoint(str(path))

# ------------------------------------------------------------------------------------------------------------
# the thread that writes

GPU = torch.device('cuda')  # whose checkpoints a thread writes; the tensors may lie anywhere

def slow_saves(monkeypatch):
    """Let save_checkpoint wait until the returned event is set; what it saves is the real thing."""
    go_on = threading.Event()
    real = checkpoint.save_checkpoint

    def save(path, content):
        assert go_on.wait(30)
        real(path, content)

    monkeypatch.setattr(checkpoint, 'save_checkpoint', save)
    return go_on

def test_what_the_thread_writes_is_the_state_when_it_was_saved(monkeypatch, tmp_path):
    go_on = slow_saves(monkeypatch)
    content = state(3)
    before = {name: t.clone() for name, t in content['model'].items()}
    writer = checkpoint.CheckpointWriter(GPU)
    writer.save({str(tmp_path / 'ckpt_000003.pt'): content}, str(tmp_path), 2)
    for tensor in content['model'].values():
        tensor.add_(1)  # the next update
    assert not os.listdir(tmp_path)  # nothing is written yet, and the run goes on
    go_on.set()
    writer.wait()
    read = checkpoint.read_checkpoint(str(tmp_path / 'ckpt_000003.pt'))
    assert all(torch.equal(read['model'][name], tensor) for name, tensor in before.items())

def test_a_save_waits_for_the_one_before_and_prunes_after_it(monkeypatch, tmp_path):
    go_on = slow_saves(monkeypatch)
    writer = checkpoint.CheckpointWriter(GPU)
    paths = [str(tmp_path / f'ckpt_00000{step}.pt') for step in (1, 2, 3)]
    with writer:
        writer.save({paths[0]: state(1)}, str(tmp_path), 2)
        threading.Timer(0.1, go_on.set).start()
        for step in (2, 3):
            writer.save({paths[step - 1]: state(step)}, str(tmp_path), 2)
            assert os.path.exists(paths[step - 2])
    assert sorted(os.listdir(tmp_path)) == ['ckpt_000002.pt', 'ckpt_000003.pt']

def test_what_goes_wrong_in_the_thread_is_raised_once_by_the_next_call(monkeypatch, tmp_path):
    def refuse(path, content):
        raise UserError(f'{path} could not be saved')

    monkeypatch.setattr(checkpoint, 'save_checkpoint', refuse)
    writer = checkpoint.CheckpointWriter(GPU)
    for call in (writer.wait, writer.check, lambda: writer.save({}, str(tmp_path), 1),
                 lambda: writer.__exit__(None, None, None)):
        writer.save({'x.pt': state()}, str(tmp_path), 2)
        futures.wait([writer.writing])
        with pytest.raises(UserError, match='could not be saved'):
            call()
        writer.check()

def test_an_error_of_the_run_is_not_hidden_by_one_of_the_thread(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, 'save_checkpoint', lambda path, content: 1 / 0)
    with pytest.raises(KeyError), checkpoint.CheckpointWriter(GPU) as writer:
        writer.save({'x.pt': state()}, str(tmp_path), 2)
        raise KeyError
    assert writer.writing.done()

class Operators(TorchDispatchMode):
    """The names of torch's operators, as they are called."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.name())
        return operator(*args, **(kwargs or {}))

@pytest.mark.parametrize('device, n_copies', [('cpu', 0), ('cuda', 1)])
def test_on_the_cpu_a_checkpoint_is_written_at_once_and_without_a_copy(tmp_path, device, n_copies):
    content = state(depth=0) | {'model': {'x': torch.ones(10)}, 'optimizer': {}}
    path = tmp_path / 'ckpt_000003.pt'
    for save in (lambda writer: writer.save({str(path): content}, str(tmp_path), 2),
                 lambda writer: writer.save_nowhere(content)):
        writer = checkpoint.CheckpointWriter(torch.device(device))
        # Only this thread's operators are seen: those of the copy.
        with Operators() as operators:
            save(writer)
        assert operators.names.count('aten::copy_') == n_copies
        assert not set(operators.names) - {'aten::empty_like', 'aten::copy_', 'aten::detach'}
        assert (writer.writing is None) == (device == 'cpu')
        assert device == 'cuda' or path.exists()
        writer.wait()
    assert torch.equal(checkpoint.read_checkpoint(str(path))['model']['x'], torch.ones(10))

def test_weights_that_two_files_share_are_copied_once():
    content = state()
    stage, whole = checkpoint.copy_to_host({'stage': content, 'ckpt': dict(content)}).values()
    for name, tensor in content['model'].items():
        assert stage['model'][name] is whole['model'][name] is not tensor
        assert torch.equal(stage['model'][name], tensor)
    assert stage['config'] == content['config'] and stage['config'] is not content['config']

# ----------------------------------------------------------------------------------------------------------
# which checkpoint, and which are kept

def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())

def damage(path, how: str):
    """Cut a file off, or flip one bit in the middle of its largest tensor."""
    raw = bytearray(path.read_bytes())
    if how == 'cut off':
        raw = raw[:-100]
    else:
        with zipfile.ZipFile(path) as archive:
            member = max(archive.infolist(), key=lambda m: m.file_size)
        raw[member.header_offset + 200 + member.file_size // 2] ^= 1
    path.write_bytes(raw)

def test_the_millionth_step_comes_after_the_one_before_it(tmp_path):
    for step in (999_999, 1_000_000, 1_000_001):
        saved(tmp_path, step)
    assert checkpoint.latest(str(tmp_path))[1]['step'] == 1_000_001
    assert checkpoint.latest(str(tmp_path), at_most=1_000_000)[1]['step'] == 1_000_000
    checkpoint.prune(str(tmp_path), 1_000_001, 2)
    assert names(tmp_path) == ['ckpt_1000000.pt', 'ckpt_1000001.pt']

def test_files_with_other_names_are_no_checkpoints_and_are_left_alone(tmp_path):
    others = ['ckpt_best.pt', 'ckpt_old_000009.pt', 'ckpt_000009.pt.bak', 'my_ckpt_000009.pt',
              'notes.pt.tmp', 'ckpt_best.pt.tmp', 'stage_01.pt']
    for name in others:
        (tmp_path / name).write_bytes(b'mine')
    assert checkpoint.latest(str(tmp_path)) is None
    for step in (1, 2, 3):
        saved(tmp_path, step)
    (tmp_path / 'ckpt_000004.pt.tmp').write_bytes(b'what a kill has left')
    (tmp_path / 'stage_01.pt.tmp').write_bytes(b'what a kill has left')
    checkpoint.prune(str(tmp_path), 3, 1)
    assert names(tmp_path) == sorted([*others, 'ckpt_000003.pt'])

def test_steps_that_are_kept_for_good_and_those_to_come_take_no_slot(tmp_path):
    for step in range(1, 9):
        saved(tmp_path, step)
    checkpoint.prune(str(tmp_path), 7, 2, keep=(2, 7, 99))
    assert [step for step, _ in checkpoint.numbered(str(tmp_path))] == [2, 5, 6, 7, 8]

@pytest.mark.parametrize('run_json, words', [
    (None, 'of a run that has not ended, or is elsewhere'),
    ({'run_id': 'x'}, 'of a run that has not ended, or is elsewhere'),
    ({'ended': 'stopped', 'ended_step': 1200}, 'of a run that ended at step 1,200 (stopped)')])
def test_a_model_that_is_loaded_says_of_which_checkpoint_and_what_became_of_its_run(tmp_path, monkeypatch,
                                                                                  capsys, run_json, words):
    saved(tmp_path)
    if run_json:
        (tmp_path / 'run.json').write_text(json.dumps(run_json))
    monkeypatch.chdir(tmp_path)
    checkpoint.load_model('ckpt_000003.pt')
    said = capsys.readouterr()
    assert said.err == f'ckpt_000003.pt: step 3, {words}\n' and said.out == ''

N_BYTES = 257  # tokens of the bytes tokenizer

@pytest.mark.parametrize('vocab_size, fits', [(N_BYTES - 1, False), (N_BYTES, True), (N_BYTES + 1023, True),
                                              (N_BYTES + 1024, False)])
def test_a_vocabulary_is_the_tokenizers_and_at_most_some_padding(vocab_size, fits):
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match='do not belong together'):
        checkpoint.check_vocabulary('bytes', vocab_size)

def train(monkeypatch, *argv):
    monkeypatch.setattr(sys, 'argv', ['train.py', *argv])
    runpy.run_path('train.py')['main']()

def test_a_run_resumed_behind_a_damaged_checkpoint_keeps_its_last_good_one(tiny, tmp_path, monkeypatch,
                                                                           capsys):
    out = tmp_path / 'run'
    train(monkeypatch, *tiny, f'--out_dir={out}', '--growth_steps=6', '--continual_steps=3',
          '--hellaswag_interval=0')
    assert [step for step, _ in checkpoint.numbered(str(out))] == [2, 3, 4, 6, 9]
    for step in (6, 9):
        damage(out / f'ckpt_{step:06d}.pt', 'one bit')
    seen = []
    real = checkpoint.prune

    def prune(run_dir, *args):
        seen.append(checkpoint.latest(run_dir)[1]['step'])  # a kill may come at any time
        real(run_dir, *args)
        seen.append(checkpoint.latest(run_dir)[1]['step'])

    monkeypatch.setattr(checkpoint, 'prune', prune)
    train(monkeypatch, f'--resume={out}', '--keep_checkpoints=1')
    assert seen == [6, 6, 9, 9]
    assert [p for p in names(out) if p.startswith('ckpt')] == ['ckpt_000009.pt']

def test_a_folder_with_a_copied_checkpoint_alone_is_a_run(tiny, tmp_path, monkeypatch):
    flags = ['--growth_steps=6', '--continual_steps=3', '--hellaswag_interval=0']
    train(monkeypatch, *tiny, f'--out_dir={tmp_path}/run', *flags)
    for name in ('ckpt_000004.pt', 'stage_01.pt'):
        copy = tmp_path / f'copy of {name}'
        copy.mkdir()
        shutil.copy(tmp_path / 'run' / name, copy)
        with pytest.raises(UserError, match='already holds a run'):
            train(monkeypatch, *tiny, f'--out_dir={copy}', *flags)
        assert (copy / name).read_bytes() == (tmp_path / 'run' / name).read_bytes()
    copy = tmp_path / 'copy of ckpt_000004.pt'
    train(monkeypatch, *tiny, f'--out_dir={copy}', *flags, '--resume=auto')
    states = [checkpoint.latest(str(folder))[1]['model'] for folder in (copy, tmp_path / 'run')]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
