"""
Checkpoints: the one place that knows their format.

A checkpoint is a dict of plain types and tensors (read with weights_only=True, so that nothing in a file can run):

    format      1
    config      the TrainConfig, as a dict
    tokenizer   its name, for scoring and sampling
    depth       blocks that exist
    step        updates done
    model       the model's state dict, raw names
    optimizer   parameter name -> its moments ({} in the stage_NN.pt of a finished stage)
    totals      seconds spent so far: {'seconds': ..., 'eval_seconds': ..., 'checkpoint_seconds': ...}

ckpt_NNNNNN.pt is the state after NNNNNN updates; stage_NN.pt holds the weights at the end of stage NN.

load_model() also reads Hugging Face's GPT-2 folders, and GPT-2's published weights from the Hub by name.
"""

import dataclasses
import glob
import json
import os
import re
import sys
import zipfile

import torch

from common import UserError, atomic_write
from model import GPT, GPTConfig

FORMAT = 1
KEYS = {'format', 'config', 'tokenizer', 'depth', 'step', 'model', 'optimizer', 'totals'}
HUB_NAMES = ('gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl')


def save_checkpoint(path: str, state: dict):
    """Write `state` to a temporary name, flush it to the disk, rename: whenever a kill comes, `path` is whole or not there.

    Raises UserError if the disk is full or not writable; what was there before stays.
    """
    assert state.keys() | {'format'} == KEYS
    with atomic_write(path, 'wb') as f:
        torch.save({'format': FORMAT, **state}, f)


def read_checkpoint(path: str) -> dict:
    """The checkpoint in a file, on the CPU. Raises UserError if it isn't one, is torn, or has a flipped bit."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type for member in archive.infolist()):
                raise UserError(f'{path}: not a checkpoint (compressed, as torch never writes one)')
            damaged = archive.testzip()  # torch writes a CRC-32 for each tensor, but doesn't look at it when it reads
        if damaged is not None:
            raise UserError(f'{path}: damaged (checksum of {damaged} is wrong)')
        state = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in zipfile, pickle or torch
        raise UserError(f'{path}: not a whole checkpoint ({type(error).__name__})') from None
    if type(state) is not dict or state.keys() != KEYS or state['format'] != FORMAT:
        raise UserError(f'{path}: not a checkpoint of this project, or of another version')
    kinds = {'config': dict, 'tokenizer': str, 'depth': int, 'step': int, 'model': dict, 'optimizer': dict, 'totals': dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(state[name], kind)]
    if wrong or not 0 < state['depth'] <= len(state['model']) or state['step'] < 0:  # a layer has more than one tensor
        raise UserError(f'{path}: damaged, or not made by this project ({(wrong or ["depth or step"])[0]} makes no sense)')
    return state


def numbered(run_dir: str) -> list[tuple[int, str]]:
    """(step, path) of the ckpt_NNNNNN.pt in a run directory, by step."""
    found = []
    for name in os.listdir(run_dir) if os.path.isdir(run_dir) else ():
        match = re.fullmatch(r'ckpt_(\d+)\.pt', name)
        if match:
            found.append((int(match[1]), os.path.join(run_dir, name)))
    return sorted(found)


def latest(run_dir: str, at_most: int | None = None) -> tuple[str, dict] | None:
    """(path, state) of the newest valid ckpt_*.pt in a run directory, None if there is none at all.

    With `at_most` only the checkpoints up to that step count. A damaged one is skipped with a warning. Raises UserError
    if there are some and all are damaged.
    """
    paths = [path for step, path in reversed(numbered(run_dir)) if at_most is None or step <= at_most]
    for path in paths:
        try:
            return path, read_checkpoint(path)
        except UserError as error:
            print(f'warning: {error}; trying the one before it', file=sys.stderr)
    if paths:
        raise UserError(f'{run_dir}: none of its {len(paths)} checkpoints can be read')
    return None


def prune(run_dir: str, n: int, keep: tuple = ()):
    """Remove all but the n newest ckpt_*.pt and those of the steps in `keep`, and what killed saves have left over."""
    for path in glob.glob(os.path.join(glob.escape(run_dir), '*.pt.tmp')):
        os.remove(path)
    passing = [path for step, path in numbered(run_dir) if step not in keep]
    for path in passing[:-n]:
        os.remove(path)


def gpt_config(config: dict) -> GPTConfig:
    """The model's part of a run's settings."""
    return GPTConfig(**{k: config[k] for k in GPTConfig.__dataclass_fields__})


def build_model(state: dict, where: str) -> GPT:
    """The model that a checkpoint's state holds. Raises UserError, naming `where`, if its weights aren't of its shape."""
    try:
        model = GPT(gpt_config(state['config']), state['depth'])
        model.load_state_dict(state['model'])
    except (RuntimeError, KeyError, TypeError, ValueError, AssertionError):
        raise UserError(f"{where}: its weights don't fit the shape that its config gives") from None
    return model


def load_model(path: str, device='cpu') -> tuple[GPT, dict]:
    """(model in eval mode on `device`, info) from a checkpoint file, a run directory (its newest valid checkpoint), a
    Hugging Face GPT-2 folder, or 'gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl' from the Hub.

    info is the checkpoint without its tensors, and 'path'; from Hugging Face it has config (the model's part), tokenizer,
    depth, step and path. Raises UserError if there is none, it is damaged, or it isn't GPT-2.
    """
    if path.removeprefix('openai-community/') in HUB_NAMES and not os.path.exists(path):
        state = read_hugging_face(download_gpt2(path.removeprefix('openai-community/')))
    elif hugging_face_config(path) is not None:
        state = read_hugging_face(path)
    elif os.path.isdir(path):
        found = latest(path)
        if found is None:
            raise UserError(f'{path}: holds no checkpoint (ckpt_*.pt)')
        path, state = found
    else:
        state = read_checkpoint(path)
    model = build_model(state, path)
    info = {k: v for k, v in state.items() if k not in ('model', 'optimizer')} | {'path': path}
    return model.to(device).eval(), info


def hugging_face_config(folder: str) -> dict | None:
    """What its config.json says, if it is Hugging Face's; None if it isn't there, or is a run's."""
    try:
        with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
            config = json.load(f)
        return config if type(config) is dict and 'model_type' in config else None
    except (OSError, ValueError, RecursionError):
        return None


def download_gpt2(name: str) -> str:
    """The folder with the published weights of 'gpt2', ... in the Hub's cache, fetched if they aren't there yet."""
    import huggingface_hub  # here, since nothing else needs it

    repo = f'openai-community/{name}'
    try:
        return huggingface_hub.snapshot_download(repo, allow_patterns=['config.json', 'model.safetensors'])
    except Exception as error:  # whatever the Hub's client, the network or the disk raise
        raise UserError(f'{repo} could not be fetched from the Hub ({type(error).__name__}); on a machine without network, '
                        'name a folder that holds a copy of its config.json and model.safetensors') from None


def read_hugging_face(folder: str) -> dict:
    """config, tokenizer, depth, step and model of a Hugging Face folder. Raises UserError if it isn't GPT-2 exactly."""
    from safetensors.torch import load_file

    theirs = hugging_face_config(folder) or {}
    gpt2 = {'model_type': ('gpt2',), 'activation_function': ('gelu_new', 'gelu_pytorch_tanh'), 'layer_norm_epsilon': (1e-5,),
            'n_inner': (None, 4 * theirs.get('n_embd', 0)), 'tie_word_embeddings': (True,), 'add_cross_attention': (False,),
            'scale_attn_weights': (True,), 'scale_attn_by_inverse_layer_idx': (False,)}
    for name, allowed in gpt2.items():
        if theirs.get(name, allowed[0]) not in allowed:
            raise UserError(f'{folder}: not GPT-2: its config.json has {name} {theirs[name]!r}, not {allowed[0]!r}')
    try:
        config = GPTConfig(*(theirs[name] for name in ('n_positions', 'vocab_size', 'n_layer', 'n_head', 'n_embd')))
        files, index = {'model.safetensors'}, os.path.join(folder, 'model.safetensors.index.json')
        if os.path.exists(index):
            with open(index, encoding='utf-8') as f:
                files = set(json.load(f)['weight_map'].values())
        tensors = {name: t for file in sorted(files) for name, t in load_file(os.path.join(folder, file)).items()}
    except Exception as error:  # a damaged file can fail anywhere in json and safetensors
        raise UserError(f'{folder}: not a whole GPT-2, config.json and model.safetensors: {error!r}') from None

    state = {}
    for name, tensor in tensors.items():
        name = name.removeprefix('transformer.')
        if name == 'lm_head.weight' or name.endswith(('.attn.bias', '.attn.masked_bias')):
            continue  # the head is tied; the other two are masks, not weights
        if name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight')):
            tensor = tensor.T  # theirs are (in, out)
        state['transformer.' + name] = tensor.float()
    tokenizer = 'bytes' if config.vocab_size == 257 else 'gpt2'  # what export_hf.py makes of a run on bytes
    return {'config': dataclasses.asdict(config), 'tokenizer': tokenizer, 'depth': config.n_layer, 'step': 0, 'model': state}
