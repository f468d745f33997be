"""A Llama from a stranger's folder, by the commands of docs/operators.md, to a folder for transformers.

Run: python -m pytest tests/whole/test_stranger.py"""

import json
import time
from pathlib import Path

import pytest
import torch
from hellaswag_examples import make_examples
from llamas import make_folder
from processes import ENV, Python, run_python

ROOT = Path(__file__).parents[2]
CONFIG = """
arch = 'llama'
n_layer, n_head, n_kv_head, n_embd, n_ff = 4, 4, 4, 32, 96
vocab_size, block_size, norm_eps = 320, 384, 1e-6
batch_size, total_batch_size = 1, 384
init_from = 'model'
init_depth = 3
grow_map = ((0, 1, -1, 2),)
grow_init = 'zero'
n_stages, growth_steps, continual_steps = 1, 50, 0
phase1_fraction = 1.0
phase1_embeddings = 'frozen'
learning_rate = 2e-3
eval_interval, checkpoint_interval, log_interval, val_tokens = 25, 10, 1, 1536
hellaswag_interval = 0
device = 'cpu'
"""

def run(folder, script, *args) -> str:
    done = run_python(str(ROOT / f'{script}.py'), *map(str, args), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

def run_stopped(folder, *args):
    """train.py, and a SIGTERM once it has saved a checkpoint."""
    process = Python([ROOT / 'train.py', *args], ENV, folder)
    while not list((folder / 'pro').glob('ckpt_*.pt')) and process.process.is_alive():
        time.sleep(0.02)
    process.process.terminate()
    done = process.finish()
    assert '--resume' in done.stdout + done.stderr, done.stderr

@pytest.mark.slow
def test_a_strangers_llama_is_grown_stopped_resumed_scored_exported_and_speaks(tmp_path):
    import transformers

    theirs = make_folder(tmp_path / 'model', 'smollm2', max_position_embeddings=384)
    (tmp_path / 'mine').mkdir()
    for i in range(40):
        text = f'Page {i}. ' + 'A man sits up and waves at the dog. The quick brown fox jumps. ' * 40
        (tmp_path / f'mine/{i}.txt').write_text(text)
    questions = ''.join(json.dumps(example) + '\n' for example in make_examples(8, seed=2))
    (tmp_path / 'questions.jsonl').write_text(questions)
    (tmp_path / 'pro.py').write_text(CONFIG)

    run(tmp_path, 'prepare_fineweb', '--source=mine', '--val_tokens=3000', '--tokenizer=model', '--out=data')
    run_stopped(tmp_path, 'pro.py', '--data_dir=data', '--val_dirs=old:data', '--out_dir=pro')
    kept = [json.loads(line) for line in (tmp_path / 'pro/metrics.jsonl').read_text().splitlines()]
    assert kept[-1].get('step', 0) < 50, 'it was to be stopped'
    run(tmp_path, 'train', '--resume=pro')
    lines = [json.loads(line) for line in (tmp_path / 'pro/metrics.jsonl').read_text().splitlines()]
    losses = [line['val_loss'] for line in lines if 'val_loss' in line]
    assert losses[-1] < losses[0] - 0.05  # the new block learns
    score = ['--style=lm_eval', '--data=questions.jsonl', '--json', '--device=cpu', '--dtype=float32']
    scores = json.loads(run(tmp_path, 'hellaswag', 'pro', *score).splitlines()[-1])
    run(tmp_path, 'export_hf', 'pro', 'pro_hf', '--dtype=float32')
    again = json.loads(run(tmp_path, 'hellaswag', 'pro_hf', *score).splitlines()[-1])
    assert again['lm_eval']['bits'] == pytest.approx(scores['lm_eval']['bits'], rel=1e-5)
    said = run(tmp_path, 'sample', 'pro_hf', '--prompt=The quick', '--tokens=5', '--device=cpu')
    assert 'The quick' in said

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'pro_hf')
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'pro_hf')
    assert model.config.num_hidden_layers == 4
    old = theirs.state_dict()
    new = model.state_dict()
    for ours, layer in ((0, 0), (1, 1), (3, 2)):  # the old blocks are as they were
        name = 'mlp.down_proj.weight'
        assert torch.equal(new[f'model.layers.{ours}.{name}'], old[f'model.layers.{layer}.{name}'])
    tokens = tokenizer('The quick', return_tensors='pt').input_ids
    assert model.generate(tokens, max_new_tokens=3, do_sample=False).shape[1] == tokens.shape[1] + 3
