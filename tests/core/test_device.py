"""Devices, ranks, peaks. No GPU is needed. Run: python -m pytest tests/core/test_device.py"""

import errno
import os
import types
from datetime import timedelta

import pytest
import torch

import schedule
from config import TrainConfig
from core import device
from core.common import UserError
from run.log import RunLog, read_metrics

CUDA = torch.device('cuda', 0)

class FakeCuda:
    """Stands in for torch.cuda on a machine with `count` GPUs; writes down what is called."""

    def __init__(self, monkeypatch, count=8, name='NVIDIA H100 80GB HBM3', capability=(9, 0)):
        self.calls = []
        self.count = count
        real_empty = torch.empty

        def empty(*shape, device=None, **kwargs):
            self.calls.append(('empty', str(device)))
            return real_empty(*shape, **kwargs)

        monkeypatch.setattr(torch.cuda, 'is_available', self.is_available)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
        monkeypatch.setattr(torch.cuda, 'set_device', lambda d: self.calls.append(('set', str(d))))
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda d: name)
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda d: capability)
        monkeypatch.setattr(torch, 'empty', empty)
        for variable in ('PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF', 'CUDA_VISIBLE_DEVICES'):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(device.glob, 'glob', lambda pattern: [])

    def is_available(self):
        return self.count > 0

# ------------------------------------------------------------------------------------------------------------
# which device

def test_a_device_that_is_not_there_is_the_users_mistake():
    assert device.pick_device('auto').type in ('cuda', 'mps', 'cpu')
    for name in ('nowhere', 'cuda:x', ''):
        with pytest.raises(UserError, match=f"device '{name}' is not there"):
            device.pick_device(name)

def test_on_the_cpu_torch_takes_no_more_threads_than_there_are_cores_to_use(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0}, raising=False)
    for omp, threads in (('2', 2), (None, 1)):
        torch.set_num_threads(2)
        if omp:
            monkeypatch.setenv('OMP_NUM_THREADS', omp)  # what the user says
        else:
            monkeypatch.delenv('OMP_NUM_THREADS')
        device.pick_device('cpu')
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_cuda_without_a_gpu_is_the_users_mistake():
    with pytest.raises(UserError, match="device 'cuda' is not there"):
        device.pick_device('cuda')

@pytest.mark.parametrize('name, ranks, gpu', [
    ('auto', (3, 16), 3), ('cuda', (3, 16), 3), ('cuda:5', (0, 1), 5), ('auto', (0, 1), 0)])
def test_each_rank_takes_its_own_gpu_before_it_allocates_anything(monkeypatch, name, ranks, gpu):
    cuda = FakeCuda(monkeypatch)
    assert device.pick_device(name, *ranks) == torch.device('cuda', gpu)
    assert cuda.calls == [('set', f'cuda:{gpu}'), ('empty', f'cuda:{gpu}')]

def test_one_gpu_for_several_ranks_is_refused(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    with pytest.raises(UserError, match='--device=cuda:3 is one GPU, but there are 2 ranks'):
        device.pick_device('cuda:3', local_rank=0, world_size=2)
    assert not cuda.calls

def test_more_ranks_than_gpus_is_refused_with_the_number_to_use(monkeypatch):
    FakeCuda(monkeypatch, count=2)
    with pytest.raises(UserError, match='--nproc_per_node=2'):
        device.pick_device('auto', local_rank=2, world_size=4)

def test_a_gpu_that_torch_can_not_use_is_an_error_with_a_remedy_unless_the_user_hid_it(monkeypatch):
    FakeCuda(monkeypatch, count=0)
    monkeypatch.setattr(device.glob, 'glob', lambda pattern: ['/dev/nvidia0'])
    with pytest.raises(UserError, match=r'update the NVIDIA driver, .*--device=cpu'):
        device.pick_device('auto')
    assert device.pick_device('cpu').type == 'cpu'
    for hidden in ('', '-1'):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
        assert device.pick_device('auto').type in ('mps', 'cpu')

def test_no_gpu_means_the_cpu_without_a_word(monkeypatch, capsys):
    FakeCuda(monkeypatch, count=0)
    assert device.pick_device('auto').type in ('mps', 'cpu')
    assert capsys.readouterr().err == ''

def test_expandable_segments_unless_the_user_set_the_allocator(monkeypatch):
    FakeCuda(monkeypatch)
    device.pick_device('cuda')
    assert os.environ['PYTORCH_ALLOC_CONF'] == 'expandable_segments:True'
    for name in ('PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF'):
        monkeypatch.delenv('PYTORCH_ALLOC_CONF', raising=False)
        monkeypatch.setenv(name, 'max_split_size_mb:64')
        device.pick_device('cuda')
        assert os.environ.get('PYTORCH_ALLOC_CONF') in (None, 'max_split_size_mb:64')
        monkeypatch.delenv(name)

@pytest.mark.parametrize('kind, backend, bound', [('cuda', 'nccl', CUDA), ('cpu', 'gloo', None)])
def test_a_process_group_knows_its_gpu_and_where_its_ranks_have_met(monkeypatch, kind, backend, bound):
    seen = {}
    monkeypatch.setattr(
        device.dist, 'init_process_group', lambda name, **kwargs: seen.update(kwargs, backend=name)
    )
    store = torch.distributed.HashStore()
    device.init_distributed(torch.device(kind, 0) if kind == 'cuda' else torch.device(kind), 1, 2, store)
    assert seen['backend'] == backend and seen['device_id'] == bound and seen['store'] is store
    assert (seen['rank'], seen['world_size']) == (1, 2)

def test_ranks_have_met_when_all_of_them_are_there(monkeypatch):
    store = torch.distributed.HashStore()
    store.set_timeout(timedelta(seconds=0.2))
    monkeypatch.delenv('TORCHELASTIC_USE_AGENT_STORE', raising=False)
    monkeypatch.setattr(device.dist, 'rendezvous', lambda *args, **kwargs: iter([(store, 0, 3)]))
    for rank in (0, 1):
        with pytest.raises(torch.distributed.DistStoreError):
            device.meet_ranks(rank, 3)
    assert device.meet_ranks(2, 3) is store is device.meet_ranks(0, 3)
    assert device.meet_ranks(0, 1) is None

@pytest.mark.parametrize('n_local, max_restarts', [('2', '3'), ('1', '0'), ('1', '3')])
def test_restarts_over_several_nodes_need_a_store_of_the_ranks_own(monkeypatch, n_local, max_restarts):
    store = torch.distributed.HashStore()
    monkeypatch.setattr(device.dist, 'rendezvous', lambda *args, **kwargs: iter([(store, 0, 2)]))
    for name, value in {'TORCHELASTIC_USE_AGENT_STORE': 'True', 'TORCHELASTIC_MAX_RESTARTS': max_restarts,
                        'TORCHELASTIC_RESTART_COUNT': '1', 'LOCAL_WORLD_SIZE': n_local,
                        'WORLD_SIZE': '2'}.items():
        monkeypatch.setenv(name, value)
    for rank in (0, 1):  # the names of the attempt before say nothing
        store.set(f'0/rank {rank} is here', '')
    store.set('1/rank 1 is here', '')
    if (n_local, max_restarts) == ('1', '3'):
        with pytest.raises(UserError, match='TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1'):
            device.meet_ranks(0, 2)
    else:
        device.meet_ranks(0, 2).get('rank 0 is here')
        assert store.check(['1/rank 0 is here'])

@pytest.mark.parametrize('error, expected', [
    (torch.OutOfMemoryError(), True), (MemoryError(), True), (OSError(errno.ENOMEM, 'x'), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
    (OSError(errno.ENOENT, 'x'), False), (RuntimeError('shapes differ'), False)])
def test_what_is_out_of_memory(error, expected):
    assert device.is_out_of_memory(error) is expected

# ------------------------------------------------------------------------------------------------------------
# peaks

@pytest.mark.parametrize('name, tflops', [
    ('NVIDIA A100-SXM4-80GB', 312), ('NVIDIA A100-PCIE-40GB', 312), ('NVIDIA H100 80GB HBM3', 989),
    ('NVIDIA H100 PCIe', 756), ('NVIDIA H200', 989), ('NVIDIA GH200 480GB', 989), ('NVIDIA B200', 2250),
    ('NVIDIA GeForce RTX 4090', 165), ('NVIDIA GeForce RTX 3090', 71), ('NVIDIA L40S', 362),
    ('NVIDIA L4', 121), ('NVIDIA A10G', 70), ('NVIDIA A10', 125)])
def test_peaks_of_known_gpus(monkeypatch, name, tflops):
    FakeCuda(monkeypatch, name=name)
    assert device.peak_flops(CUDA, 'bfloat16') == device.peak_flops(CUDA, 'auto') == tflops * 1e12
    assert device.peak_flops(CUDA, 'float32') == tflops * 1e12 / 2  # TF32
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda d: (7, 5))
    assert device.peak_flops(CUDA, 'auto') == tflops * 1e12 / 2
    assert device.peak_flops(torch.device('cpu'), 'bfloat16') is None

@pytest.mark.parametrize('name', [
    'NVIDIA GeForce RTX 4090 Laptop GPU', 'NVIDIA A100-SXM4-80GB MIG 1g.10gb', 'GRID A100-10C',
    'NVIDIA A1000', 'NVIDIA H1000', 'NVIDIA GeForce RTX 4060', 'NVIDIA GeForce RTX 5090 D', ''])
def test_no_peak_of_a_gpu_that_is_not_in_the_table(monkeypatch, name):
    FakeCuda(monkeypatch, name=name)
    assert device.peak_flops(CUDA, 'bfloat16') is None and device.peak_flops(CUDA, 'float32') is None

@pytest.mark.parametrize('has_avx512, has_amx', [(True, False), (False, True), (False, False)])
def test_autocast_is_bfloat16_only_where_asked_for_or_native(monkeypatch, has_avx512, has_amx):
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: has_avx512)
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: has_amx)
    native = torch.bfloat16 if has_avx512 or has_amx else torch.float32
    for dtype, expected in (('auto', native), ('bfloat16', torch.bfloat16), ('float32', torch.float32)):
        with device.autocast(torch.device('cpu'), dtype):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected

# ------------------------------------------------------------------------------------------------------------
# MFU, as a run says it

@pytest.mark.parametrize('gpu, world_size, seconds, depth, frozen, mfu', [
    # GPT-2 124M, forward and backward: three times 12 x (14,155,776 + 3,145,728) + 77,266,944 FLOPs a token
    ('NVIDIA H100 80GB HBM3', 1, 1.165, 12, 0, 0.3889),
    ('NVIDIA H100 80GB HBM3', 8, 1.165 / 8, 12, 0, 0.3889),
    ('NVIDIA A100-SXM4-80GB', 1, 1.165, 12, 0, 1.2328),
    # three layers and the head forward; head twice and one layer, less the gradient of its input, backward
    ('NVIDIA H100 80GB HBM3', 1, 0.5, 3, 2, 0.3375),
    ('NVIDIA GeForce RTX 4060', 1, 1.165, 12, 0, None)])
def test_mfu_of_known_shapes(monkeypatch, tmp_path, capsys, gpu, world_size, seconds, depth, frozen, mfu):
    FakeCuda(monkeypatch, name=gpu)
    config = TrainConfig(out_dir=str(tmp_path), run_name='x')
    kind = 'phase1' if frozen else 'continual'
    embeddings = 'input_frozen' if frozen else 'train'
    phase = schedule.Phase(1, kind, 0, 100, depth, tuple(range(frozen)), embeddings)
    plan = schedule.Plan(config, (phase,))
    job = types.SimpleNamespace(config=config, plan=plan, rank=0, world_size=world_size, device=CUDA,
                                tokenizer='', amp=None, fingerprint={}, questions=None, grad_accum_steps=1,
                                val_sets={})
    model = types.SimpleNamespace(depth=depth, parameters=list)
    state = types.SimpleNamespace(step=0, clock={'seconds': 0.0}, model=model, init_from=None)
    log = RunLog(job, 0, '')
    log.open(state)
    capsys.readouterr()  # which names the folder
    state.step = 1
    state.clock['seconds'] = seconds
    log.progress(state, phase, 3.0, 1e-3, 1.0)
    (line,) = read_metrics(str(tmp_path / 'metrics.jsonl'))[0]
    said = capsys.readouterr().out
    assert line.get('mfu') == (pytest.approx(mfu, abs=1e-4) if mfu else None)
    assert f'| mfu {mfu:.1%} | ' in said if mfu else 'mfu' not in said
