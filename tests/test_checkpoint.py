"""Checkpoints: whole or not there. Run: python -m pytest tests/test_checkpoint.py"""

import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import zipfile

import pytest
import torch

import checkpoint
from common import UserError
from config import TrainConfig, config_to_dict
from model import GPT

CONFIG = TrainConfig(n_layer=4, n_head=2, n_embd=16, block_size=8, vocab_size=64, total_batch_size=64, batch_size=1)


def state(step=3, depth=2):
    model = GPT(checkpoint.gpt_config(config_to_dict(CONFIG)), depth)
    return {'config': config_to_dict(CONFIG), 'tokenizer': 'bytes', 'depth': depth, 'step': step, 'model': model.state_dict(),
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
        assert info['step'] == 3 and info['tokenizer'] == 'bytes' and info['path'] == path and 'model' not in info
        assert all(torch.equal(v, checkpoint.read_checkpoint(path)['model'][k]) for k, v in model.state_dict().items())


def test_the_newest_valid_one_is_taken_and_the_damaged_are_told(tmp_path, capsys):
    for step in (1, 2, 3, 4):
        saved(tmp_path, step)
    newest = tmp_path / 'ckpt_000004.pt'
    newest.write_bytes(newest.read_bytes()[:-100])  # truncated
    with zipfile.ZipFile(tmp_path / 'ckpt_000003.pt') as archive:  # one bit of one weight
        member = max(archive.infolist(), key=lambda m: m.file_size)
    raw = bytearray((tmp_path / 'ckpt_000003.pt').read_bytes())
    raw[member.header_offset + 200 + member.file_size // 2] ^= 1
    (tmp_path / 'ckpt_000003.pt').write_bytes(raw)
    (tmp_path / 'ckpt_000009.pt.tmp').write_bytes(b'left over from a kill')
    path, found = checkpoint.latest(str(tmp_path))
    assert path.endswith('ckpt_000002.pt') and found['step'] == 2
    warnings = capsys.readouterr().err
    assert 'ckpt_000004.pt' in warnings and 'ckpt_000003.pt' in warnings and 'damaged' in warnings


@pytest.mark.parametrize('at', range(0, 100, 5))
def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path, at):
    path = saved(tmp_path)
    whole = checkpoint.read_checkpoint(path)
    raw = bytearray(open(path, 'rb').read())
    raw[len(raw) * at // 100] ^= 0x10
    open(path, 'wb').write(raw)
    try:
        read = checkpoint.read_checkpoint(path)
    except UserError:
        return
    assert read['step'] == whole['step'] and all(torch.equal(v, whole['model'][k]) for k, v in read['model'].items())


def test_a_run_whose_checkpoints_are_all_damaged_is_an_error(tmp_path):
    (tmp_path / 'ckpt_000001.pt').write_bytes(b'')
    with pytest.raises(UserError, match='none of its 1 checkpoints can be read'):
        checkpoint.latest(str(tmp_path))
    assert checkpoint.latest(str(tmp_path / 'nothing')) is None


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


@pytest.mark.parametrize('change', [{'format': 2}, {'extra': 1}])
def test_another_format_is_refused(tmp_path, change):
    torch.save({**state(), 'format': 1, **change}, tmp_path / 'x.pt')
    with pytest.raises(UserError, match='not a checkpoint of this project, or of another version'):
        checkpoint.read_checkpoint(str(tmp_path / 'x.pt'))


def test_weights_of_another_shape_are_refused(tmp_path):
    torch.save({**state(), 'format': 1, 'depth': 3}, tmp_path / 'x.pt')
    with pytest.raises(UserError, match="its weights don't fit"):
        checkpoint.load_model(str(tmp_path / 'x.pt'))


def test_keep_last_keeps_the_newest_and_every_stage(tmp_path):
    for step in (2, 10, 300, 4000):
        saved(tmp_path, step)
    checkpoint.save_checkpoint(str(tmp_path / 'stage_01.pt'), state())
    checkpoint.prune(str(tmp_path), 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['ckpt_000300.pt', 'ckpt_004000.pt', 'stage_01.pt']


def test_no_space_left_keeps_what_was_there(tmp_path):
    """A file-size limit stands in for a full disk: the write fails in the middle."""
    path = saved(tmp_path)
    before = open(path, 'rb').read()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
        with pytest.raises(UserError, match=r'ckpt_000003.pt could not be saved .* what was saved before is untouched'):
            checkpoint.save_checkpoint(path, state(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    assert open(path, 'rb').read() == before and os.listdir(tmp_path) == ['ckpt_000003.pt']


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    saved(tmp_path, 1)
    code = ('import sys; sys.path.insert(0, "."); sys.path.insert(0, "tests"); import checkpoint, test_checkpoint as t\n'
            'print("ready", flush=True)\nwhile True: checkpoint.save_checkpoint(sys.argv[1] + "/ckpt_000002.pt", t.state(2))')
    for wait in range(6):
        process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        try:
            process.wait(0.003 + 0.011 * wait)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        for path in tmp_path.glob('ckpt_*.pt'):
            checkpoint.read_checkpoint(str(path))


# ---------------------------------------------------------------------------------------------------------------------
# the thread that writes


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
    writer = checkpoint.CheckpointWriter()
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
    writer = checkpoint.CheckpointWriter()
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
    writer = checkpoint.CheckpointWriter()
    for call in (writer.wait, writer.check, lambda: writer.save({}, str(tmp_path), 1), lambda: writer.__exit__(None, None, None)):
        writer.save({'x.pt': state()}, str(tmp_path), 2)
        writer.thread.join()
        with pytest.raises(UserError, match='could not be saved'):
            call()
        writer.check()


def test_an_error_of_the_run_is_not_hidden_by_one_of_the_thread(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, 'save_checkpoint', lambda path, content: 1 / 0)
    with pytest.raises(KeyError), checkpoint.CheckpointWriter() as writer:
        writer.save({'x.pt': state()}, str(tmp_path), 2)
        raise KeyError
    assert not writer.thread.is_alive()


def test_weights_that_two_files_share_are_copied_once():
    content = state()
    copies = {}
    stage, whole = (checkpoint.copy_to_host(dict(content), copies) for _ in range(2))
    for name, tensor in content['model'].items():
        assert stage['model'][name] is whole['model'][name] is not tensor
        assert torch.equal(stage['model'][name], tensor)
    assert stage['config'] == content['config'] and stage['config'] is not content['config']
