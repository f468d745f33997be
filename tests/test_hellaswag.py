"""HellaSwag in both styles, against one-by-one references and the harness. Run: python -m pytest tests/test_hellaswag.py"""

import http.server
import json
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hellaswag_examples import make_examples

import checkpoint
import data
import hellaswag
from common import UserError
from model import GPT, GPTConfig

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / 'tests' / 'hellaswag_golden.jsonl'


def known_gpt(config=None) -> GPT:
    """A small GPT whose weights are numpy's, so the same everywhere, and wide enough to tell endings apart."""
    model = GPT(config or GPTConfig(block_size=128, vocab_size=50257, n_layer=2, n_head=2, n_embd=16))
    rng = np.random.RandomState(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(rng.standard_normal(p.shape) * 0.4 + ('ln_' in name and name.endswith('weight'))))
    return model.eval()


def examples_of(n, seed):
    return [hellaswag.parse_example(json.dumps(e), 'here') for e in make_examples(n, seed)]


def write(path, examples):
    path.write_text(''.join(json.dumps(e) + '\n' for e in examples), encoding='utf-8')
    return str(path)


def text_of(example, style):
    """Context and endings, written down again from the two conventions' descriptions."""
    if style == 'nanogpt':
        return example['ctx'], example['endings']
    def clean(s):
        return re.sub(r'\[[^\]]*\]', '', s.strip().replace(' [title]', '. ')).replace('  ', ' ')
    ctx_b = example['ctx_b'][:1].upper() + example['ctx_b'][1:].lower()
    return clean(f"{example['activity_label']}: {example['ctx_a']} {ctx_b}"), [clean(e) for e in example['endings']]


@torch.no_grad()
def one_by_one(model, example, style, tokenizer) -> np.ndarray:
    """The four summed losses by four padded rows, all logits, cross-entropy; rows that are too long lose their beginning."""
    enc, T = data.get_tokenizer(tokenizer), model.config.block_size
    context, endings = text_of(example, style)
    rows, scored = [], []
    for ending in endings:
        if style == 'nanogpt':
            before, after = enc.encode_ordinary(context), enc.encode_ordinary(' ' + ending)
        else:
            whole, before = enc.encode_ordinary(f'{context} {ending}'), enc.encode_ordinary(context.rstrip())
            after = whole[len(before):]
        rows.append((before + after)[-(T + 1):])
        scored.append(len(after))
    tokens = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    logits = model.logits(tokens[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction='none').view(4, -1).double()
    return np.array([losses[j, len(row) - 1 - n:len(row) - 1].sum() for j, (row, n) in enumerate(zip(rows, scored))])


@pytest.mark.parametrize('style', hellaswag.STYLES)
@pytest.mark.parametrize('n, tokenizer, config', [
    (500, 'bytes', GPTConfig(1024, 320, 2, 1, 16)),
    (16, 'gpt2', GPTConfig(256, 50257, 2, 2, 16)),
    (16, 'gpt2', GPTConfig(96, 50257, 2, 2, 16)),  # most contexts are cut, by as much as each ending needs
])
def test_packed_losses_equal_one_by_one(style, n, tokenizer, config):
    model, examples = known_gpt(config), examples_of(n, seed=5)
    encoded = hellaswag.encode(examples, tokenizer, style, config.block_size)
    sums = hellaswag.summed_losses(model, encoded)
    reference = np.array([one_by_one(model, e, style, tokenizer) for e in examples])
    tokens = np.array([[sum((row.columns == j).sum() for row in e.rows) for j in range(4)] for e in encoded])
    assert np.abs(sums - reference).max() < 1e-6 * reference.max()
    assert np.abs((sums - reference) / tokens).max() < 1e-5
    assert (sums.argmin(1) == reference.argmin(1)).all()
    assert config.block_size != 96 or sum(e.n_cut > 0 for e in encoded) > n / 3


def test_any_batch_size_gives_the_same_predictions():
    model, examples = known_gpt(GPTConfig(1024, 320, 2, 2, 16)), examples_of(60, seed=6)
    encoded = hellaswag.encode(examples, 'bytes', 'nanogpt', 1024)
    one, many = (hellaswag.summed_losses(model, encoded, tokens_per_batch=n) for n in (1, 20_000))
    assert np.abs(one - many).max() < 1e-6 * one.max()
    assert hellaswag.summary(encoded, one)[0] == hellaswag.summary(encoded, many)[0]


def test_both_styles_in_one_go_equal_each_alone_and_share_equal_text():
    model, examples = known_gpt(GPTConfig(1024, 320, 2, 2, 16)), examples_of(20, seed=7)
    examples += [{'ctx': 'A man sits.', 'endings': ['He stands.', 'He runs.', 'So what?', 'No.'], 'label': 1}]
    both = hellaswag.encode(examples, 'bytes', 'both', 1024)
    sums = hellaswag.summed_losses(model, both)
    for i, style in enumerate(hellaswag.STYLES):
        alone = hellaswag.encode(examples, 'bytes', style, 1024)
        assert np.abs(hellaswag.summed_losses(model, alone) - sums[:, 4 * i:4 * i + 4]).max() < 1e-6 * sums.max()
        assert hellaswag.summary(alone, sums[:, 4 * i:4 * i + 4])[0] == hellaswag.summary(both, sums, i)[0]
    alone = hellaswag.encode(examples[-1:], 'bytes', 'nanogpt', 1024)
    assert len(both[-1].rows) == 1 and (both[-1].rows[0].tokens == alone[0].rows[0].tokens).all()


def test_a_row_holds_every_shared_token_once_and_predicts_with_no_other():
    [row] = hellaswag.pack([([1, 2, 3, 4], 2), ([1, 2, 3, 5], 2), ([1, 2, 9], 1), ([1, 2, 6, 7, 8], 3)])
    assert row.tokens.tolist() == [1, 2, 3, 6, 7] and row.positions.tolist() == [0, 1, 2, 2, 3]
    assert row.ends.tolist() == [5, 5, 3, 5, 5]
    predicted = sorted(zip(row.columns.tolist(), row.at.tolist(), row.targets.tolist()))
    assert predicted == [(0, 1, 3), (0, 2, 4), (1, 1, 3), (1, 2, 5), (2, 1, 9), (3, 1, 6), (3, 3, 7), (3, 4, 8)]


def counting_gpt(position_scale: float) -> GPT:
    """Attention to all that may be seen alike, identities for everything else: losses follow from counting tokens."""
    model, C = GPT(GPTConfig(block_size=64, vocab_size=257, n_layer=1, n_head=1, n_embd=257)), 257
    block = model.transformer.h[0]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.transformer.wte.weight.copy_(torch.eye(C))
        model.transformer.wpe.weight.copy_(position_scale * torch.eye(C)[60:124])  # position p pushes byte 60 + p
        block.attn.c_attn.weight[2 * C:].copy_(torch.eye(C))
        block.attn.c_proj.weight.copy_(torch.eye(C))
    block.ln_1, block.ln_2, model.transformer.ln_f = (torch.nn.Identity() for _ in range(3))
    return model.eval()


def counted_loss(context: bytes, ending: bytes, position_scale: float) -> float:
    text, total = context + ending, 0.0
    for t in range(len(context) - 1, len(text) - 1):  # text[t] predicts text[t + 1]
        logits = [0.0] * 257
        logits[text[t]] += 1
        logits[60 + t] += position_scale
        for s in range(t + 1):
            logits[text[s]] += 1 / (t + 1)
            logits[60 + s] += position_scale / (t + 1)
        total += math.log(sum(map(math.exp, logits))) - logits[text[t + 1]]
    return total


@pytest.mark.parametrize('position_scale', [0.0, 3.0])
def test_losses_that_are_known_in_closed_form(position_scale):
    endings = ['aaa', 'b c', 'xyz is longer', 'EFG']
    example = {'ctx': 'aab', 'endings': endings, 'label': 0}
    encoded = hellaswag.encode([example], 'bytes', 'nanogpt', 64)
    [sums] = hellaswag.summed_losses(counting_gpt(position_scale), encoded)
    expected = [counted_loss(b'aab', b' ' + e.encode(), position_scale) for e in endings]
    assert sums == pytest.approx(expected, rel=1e-6)
    assert encoded[0].norms.tolist() == [4, 4, 14, 4]


def test_normalisation_is_by_tokens_in_one_style_and_by_characters_in_the_other():
    endings, sums = ['dog', 'cat', 'a b c d e f', 'incomprehensibilities of'], np.array([[6.0, 5.0, 12.0, 9.0]])
    for style, norms, pred_norm in (('nanogpt', [1, 1, 6, 4], 2), ('lm_eval', [3, 3, 11, 24], 3)):
        example = {'ctx': 'The', 'endings': endings, 'label': 3}
        encoded = hellaswag.encode([example], 'gpt2', style, 64)
        result, [line] = hellaswag.summary(encoded, sums)
        assert line['losses_norm'] == pytest.approx(sums[0] / norms) and line['losses'] == sums[0].tolist()
        assert (line['pred'], line['pred_norm']) == (1, pred_norm)
        assert (result['acc'], result['acc_norm'], result['n']) == (0, pred_norm == 3, 1)


def test_standard_errors_are_those_of_a_sample_mean():
    encoded = hellaswag.encode(examples_of(40, seed=8), 'bytes', 'nanogpt', 1024)
    sums = np.random.RandomState(1).rand(40, 4)
    result, lines = hellaswag.summary(encoded, sums)
    for name, pred in (('acc', 'pred'), ('acc_norm', 'pred_norm')):
        hits = np.array([line[pred] == line['label'] for line in lines], dtype=float)
        assert result[name] == pytest.approx(hits.mean())
        assert result[name + '_stderr'] == pytest.approx(hits.std(ddof=1) / math.sqrt(40))


@pytest.mark.parametrize('raw, cleaned', [
    ('  blanks around\n', 'blanks around'),
    ('[header] How to swim [title] Get wet. [step] Go in.', ' How to swim. Get wet. Go in.'),
    ('[title] Get wet.', ' Get wet.'),
    ('Dry off. [substeps] Use a  towel.   Slowly.', 'Dry off. Use a towel.  Slowly.'),
    ('Use a towel. [substeps]', 'Use a towel. '),
])
def test_text_is_cleaned_up_as_the_harness_does(raw, cleaned):
    assert hellaswag.clean(raw) == cleaned


def test_lm_eval_context_has_the_activity_and_a_capitalised_ctx_b():
    example = {'activity_label': 'Fencing', 'ctx_a': 'Two people meet.', 'ctx_b': 'the Man in RED', 'ctx': 'raw', 'label': 0,
               'endings': ['waits .', ' bows', 'x', 'y']}
    assert hellaswag.texts(example, 'lm_eval') == ('Fencing: Two people meet. The man in red', ['waits .', 'bows', 'x', 'y'])
    assert hellaswag.texts(example, 'nanogpt') == ('raw', ['waits .', ' bows', 'x', 'y'])
    bare = {k: example[k] for k in ('ctx', 'endings', 'label')}
    assert hellaswag.texts(bare, 'lm_eval')[0] == 'raw'


def test_lm_eval_style_gives_the_harness_own_values():
    """The values are lm-eval 0.4.13's own, by dev/golden_hellaswag.py."""
    golden = [json.loads(line) for line in GOLDEN.read_text(encoding='utf-8').splitlines()]
    model = known_gpt()
    encoded = hellaswag.encode(hellaswag.load_examples(str(GOLDEN)), 'gpt2', 'lm_eval', model.config.block_size)
    sums = hellaswag.summed_losses(model, encoded)
    assert len(golden) == 20 and any(e.n_cut for e in encoded)
    assert -sums == pytest.approx(np.array([g['log_likelihoods'] for g in golden]), rel=2e-6)
    for g, line in zip(golden, hellaswag.summary(encoded, sums)[1]):
        assert (line['pred'] == line['label'], line['pred_norm'] == line['label']) == (g['acc'] == 1, g['acc_norm'] == 1)


def test_ending_encoded_apart_is_the_harness_split_for_ordinary_text():
    enc = data.get_tokenizer('gpt2')
    for example in examples_of(100, seed=9):
        context = example['ctx'].rstrip()
        for ending in map(str.strip, example['endings']):
            apart = hellaswag.tokenize(context, ending, 'nanogpt', enc)
            assert apart == hellaswag.tokenize(context, ending, 'lm_eval', enc)
            assert apart[0] + apart[1] == enc.encode_ordinary(f'{context} {ending}')


@pytest.mark.parametrize('context, ending, apart, joint', [
    # a blank at the end of the context: encoded as it stands, or moved to the ending by the harness
    ('A man ', 'sits', ([32, 582, 220], [10718]), ([32, 582], [220, 10718])),
    # two of them are a token of their own
    ('A man  ', 'sits', ([32, 582, 220, 220], [10718]), ([32, 582], [220, 220, 10718])),
])
def test_styles_differ_where_joint_encoding_differs(context, ending, apart, joint):
    enc = data.get_tokenizer('gpt2')
    assert hellaswag.tokenize(context, ending, 'nanogpt', enc) == apart
    assert hellaswag.tokenize(context, ending, 'lm_eval', enc) == joint


def test_a_context_that_clean_up_leaves_empty_is_end_of_text():
    example = {'ctx': '[header]', 'endings': ['a', 'b', 'c', 'd'], 'label': 0}
    [row] = hellaswag.encode([example], 'gpt2', 'lm_eval', 64)[0].rows
    assert row.tokens.tolist() == [50256] and sorted(row.targets.tolist()) == [257, 269, 275, 288]


def test_scoring_leaves_the_model_as_it_was_and_able_to_train():
    model = GPT(GPTConfig(512, 320, 2, 2, 16, dropout=0.5)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    encoded = hellaswag.encode(examples_of(4, seed=1)[:2], 'bytes', 'nanogpt', 512)
    assert hellaswag.evaluate(model, encoded) == hellaswag.evaluate(model, encoded)  # no dropout in it
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    x = torch.zeros(1, 8, dtype=torch.int64)
    model(x, x).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_losses_that_are_not_finite_are_an_error():
    model = known_gpt(GPTConfig(1024, 320, 1, 1, 8))
    model.transformer.ln_f.weight.data[0] = math.nan
    with pytest.raises(UserError, match='not finite'):
        hellaswag.evaluate(model, hellaswag.encode(examples_of(1, seed=1), 'bytes', 'nanogpt', 1024))


def test_an_ending_longer_than_the_block_is_an_error():
    with pytest.raises(UserError, match=r'example 1: an ending of 9 tokens .* block_size of 8'):
        hellaswag.encode([{'ctx': 'a', 'endings': ['12345678', 'b', 'c', 'd'], 'label': 0}], 'bytes', 'nanogpt', 8)


# ---- reading and fetching

GOOD = {'ctx': 'A man', 'endings': ['a', 'b', 'c', 'd'], 'label': 2}


def test_labels_may_be_numbers_or_strings_and_limit_takes_the_first(tmp_path):
    path = write(tmp_path / 'x.jsonl', [GOOD, GOOD | {'label': '3', 'ind': 7}, GOOD])
    assert [e['label'] for e in hellaswag.load_examples(path)] == [2, 3, 2]
    assert [e.get('ind') for e in hellaswag.load_examples(path, limit=2)] == [None, 7]


@pytest.mark.parametrize('line, message', [
    ('{"ctx": "A man"', 'line 2: not JSON'),
    ('[1, 2]', "line 2: an example needs the fields 'ctx', 'endings' and 'label'"),
    (json.dumps({'ctx': 'a', 'endings': GOOD['endings']}), "line 2: an example needs .* 'label'"),
    (json.dumps(GOOD | {'endings': ['a', 'b', 'c']}), "line 2: 'endings' must be four texts"),
    (json.dumps(GOOD | {'endings': ['a', 'b', 'c', ' ']}), "line 2: 'endings' must be four texts"),
    (json.dumps(GOOD | {'ctx': None}), "line 2: 'ctx' must be a text"),
    (json.dumps(GOOD | {'ctx_b': 3}), "line 2: 'ctx' must be a text, and so must .*'ctx_b'"),
    (json.dumps(GOOD | {'label': 4}), "line 2: 'label' must be 0, 1, 2 or 3, not 4"),
    (json.dumps(GOOD | {'label': True}), "line 2: 'label' must be 0, 1, 2 or 3, not True"),
    (json.dumps(GOOD | {'label': ''}), "not ''.*test split"),
])
def test_a_bad_line_is_named_by_its_number(tmp_path, line, message):
    (tmp_path / 'x.jsonl').write_text(json.dumps(GOOD) + '\n' + line + '\n')
    with pytest.raises(UserError, match=r'x\.jsonl.*' + message):
        hellaswag.load_examples(str(tmp_path / 'x.jsonl'))


@pytest.mark.parametrize('content, message', [
    (b'', 'holds no examples'), (b'\n\n', 'holds no examples'), (b'\xff\xfe{', 'not text in UTF-8'),
    (b'\n<!DOCTYPE html>\n<html><body>gone</body></html>', 'a web page'),
])
def test_a_file_that_holds_no_examples_is_told_apart(tmp_path, content, message):
    (tmp_path / 'x.jsonl').write_bytes(content)
    with pytest.raises(UserError, match=message):
        hellaswag.load_examples(str(tmp_path / 'x.jsonl'))


@pytest.fixture
def server(monkeypatch, tmp_path):
    """(address, the answers (status, promised length or None, content) that it gives one after the other, waits)"""
    answers, waits = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, length, content = answers.pop(0)
            self.send_response(status)
            self.send_header('Content-Length', str(length or len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hellaswag.time, 'sleep', waits.append)
    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}/some/set.jsonl?raw=1', answers, waits
        httpd.shutdown()


def test_a_url_is_fetched_once_with_retries(server, tmp_path):
    url, answers, waits = server
    content = (json.dumps(GOOD) + '\n').encode() * 3
    answers += [(503, None, b'busy'), (200, 10_000, content), (200, None, content)]  # the second breaks off
    assert len(hellaswag.load_examples(url)) == 3
    assert waits == [1, 2] and not answers
    assert len(hellaswag.load_examples(url, limit=2)) == 2  # nothing is left to answer with
    assert [p.name.split('_')[1] for p in (tmp_path / 'data').iterdir()] == ['set.jsonl']


@pytest.mark.parametrize('answers, message, n_waits', [
    ([(404, None, b'no')], 'status 404', 0),
    ([(500, None, b'no')] * 5, 'status 500', 4),
    ([(200, None, b'<html>This page was taken down</html>')], 'web page', 0),
    ([(200, None, b'{"ctx": 1}\n')], 'line 1', 0),
])
def test_what_a_url_gives_is_checked_before_it_is_stored(server, tmp_path, answers, message, n_waits):
    server[1].extend(answers)
    with pytest.raises(UserError, match=message):
        hellaswag.load_examples(server[0])
    assert len(server[2]) == n_waits and list((tmp_path / 'data').iterdir()) == []


def test_the_official_set_is_cached_as_jsonl_and_a_wrong_count_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    asked, examples = [], make_examples(5, seed=1)

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(examples)

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    for _ in range(2):
        loaded = hellaswag.load_examples('')
        assert [(e['ctx'], e['endings'], str(e['label'])) for e in loaded] == \
            [(e['ctx'], e['endings'], e['label']) for e in examples]
    assert asked == [(('Rowan/hellaswag',), {'split': 'validation'})]
    assert capsys.readouterr().err.count('has 5 examples, the official validation set 10042') == 2
    assert len(hellaswag.load_examples('', limit=2)) == 2 and capsys.readouterr().err == ''


# ---- the model, and the command line

def save_checkpoint(path, tokenizer='bytes', vocab_size=320, block_size=1024):
    from config import TrainConfig, config_to_dict
    config = GPTConfig(block_size, vocab_size, 2, 2, 16)
    settings = config_to_dict(TrainConfig()) | {k: getattr(config, k) for k in GPTConfig.__dataclass_fields__}
    model = known_gpt(config)
    checkpoint.save_checkpoint(str(path), {'config': settings, 'tokenizer': tokenizer, 'depth': 2, 'step': 5, 'optimizer': {},
                                'model': model.state_dict(), 'totals': {}})
    return model


def command(args, cwd, launcher=(sys.executable,), **env):
    return subprocess.run([*launcher, str(ROOT / 'hellaswag.py'), *args], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'HF_DATASETS_OFFLINE': '1'} | env)


@pytest.mark.slow
def test_two_ranks_write_what_one_writes(tmp_path):
    model = save_checkpoint(tmp_path / 'ckpt_000005.pt')
    examples = make_examples(30, seed=4)
    write(tmp_path / 'x.jsonl', examples)
    args = ['.', '--data=x.jsonl', '--style=both', '--device=cpu', '--dtype=float32', '--json']
    one = command([*args, '--per_example=one.jsonl'], tmp_path)
    torchrun = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    two = command([*args, '--per_example=two.jsonl'], tmp_path, torchrun)
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    assert one.stdout == two.stdout
    assert (tmp_path / 'one.jsonl').read_text() == (tmp_path / 'two.jsonl').read_text()

    nanogpt, lm_eval, last = one.stdout.splitlines()
    scores, lines = json.loads(last), [json.loads(line) for line in (tmp_path / 'one.jsonl').read_text().splitlines()]
    assert scores['lm_eval']['n'] == 30 and len(lines) == 60
    assert re.fullmatch(r'hellaswag nanogpt: acc 0\.\d{4} \+- 0\.\d{4}, acc_norm 0\.\d{4} \+- 0\.\d{4}, n 30', nanogpt)
    assert lm_eval.startswith('hellaswag lm_eval: acc ')
    first = next(line for line in lines if line['style'] == 'lm_eval')
    assert first['losses'] == pytest.approx(one_by_one(model, examples[0], 'lm_eval', 'bytes'), rel=1e-6)
    assert first.keys() == {'style', 'ind', 'label', 'pred', 'pred_norm', 'losses', 'losses_norm'}


@pytest.mark.slow
@pytest.mark.parametrize('args, message', [
    (['ckpt_000005.pt'], r'could not be fetched from the Hub .*--data=FILE'),
    (['gpt2', '--data=x.jsonl'], r'openai-community/gpt2 could not be fetched from the Hub'),
])
def test_without_network_there_is_one_clear_line(tmp_path, args, message):
    save_checkpoint(tmp_path / 'ckpt_000005.pt')
    write(tmp_path / 'x.jsonl', [GOOD])
    before = set(tmp_path.rglob('*'))
    done = command(args, tmp_path, HF_HOME=str(tmp_path / 'home'), HF_HUB_OFFLINE='1')
    assert done.returncode == 2 and done.stdout == '' and done.stderr.count('\n') == 1, done.stderr
    assert re.match('error: .*' + message, done.stderr)
    assert {p for p in tmp_path.rglob('*') if tmp_path / 'home' not in (p, *p.parents)} - before <= {tmp_path / 'data'}


def run_main(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['hellaswag.py', *args])
    hellaswag.main()


def test_mistakes_on_the_command_line_are_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / 'ckpt_000005.pt')
    save_checkpoint(tmp_path / 'other.pt', tokenizer='gpt2')
    write(tmp_path / 'x.jsonl', [GOOD])
    (tmp_path / 'there.jsonl').write_text('mine')
    (tmp_path / 'empty').mkdir()
    for args, message in [
        (['nowhere.pt', '--data=x.jsonl'], r'nowhere\.pt: cannot be read'),
        (['empty', '--data=x.jsonl'], 'empty: holds no checkpoint'),
        (['x.jsonl', '--data=x.jsonl'], r'x\.jsonl: not a whole checkpoint'),
        (['ckpt_000005.pt', '--data=nowhere.jsonl'], r'nowhere\.jsonl: cannot be read'),
        (['other.pt', '--data=x.jsonl'], "vocabulary of 320, the tokenizer 'gpt2' one of 50257"),
        (['ckpt_000005.pt', '--data=x.jsonl', '--limit=-1'], '--limit=-1'),
        (['ckpt_000005.pt', '--data=x.jsonl', '--per_example=there.jsonl'], r'there\.jsonl exists already'),
        (['ckpt_000005.pt', '--data=x.jsonl', '--device=nope'], 'nope'),
    ]:
        with pytest.raises(UserError, match=message):
            run_main(monkeypatch, *args)
    assert (tmp_path / 'there.jsonl').read_text() == 'mine'
    assert not list(tmp_path.glob('*.tmp'))


# ---- Hugging Face folders

def hugging_face():
    """transformers' GPT-2, small, with weights of which none is zero or one."""
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(0)
    config = GPT2Config(n_embd=48, n_layer=3, n_head=4, n_positions=64, vocab_size=300, initializer_range=0.3,
                        bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    for p in model.parameters():
        p.data += 0.05 * torch.randn(p.shape)  # biases and norms too
    return model


@pytest.mark.parametrize('part, options', [
    (lambda m: m, {}), (lambda m: m.transformer, {}), (lambda m: m, {'max_shard_size': '100KB'}),
], ids=['with the head', 'without the head and the prefix', 'sharded'])
def test_a_hugging_face_folder_gives_transformers_logits(tmp_path, part, options):
    theirs = hugging_face()
    part(theirs).save_pretrained(tmp_path, **options)
    ours, info = checkpoint.load_model(str(tmp_path))
    idx = torch.randint(0, 300, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(idx), theirs(idx).logits, rtol=1e-4, atol=1e-4)
    assert (info['tokenizer'], info['depth'], info['step'], info['path']) == ('gpt2', 3, 0, str(tmp_path))
    assert info['config'] == {'block_size': 64, 'vocab_size': 300, 'n_layer': 3, 'n_head': 4, 'n_embd': 48, 'dropout': 0.0}


def test_masks_that_old_folders_store_as_weights_are_ignored(tmp_path):
    from safetensors.torch import load_file, save_file
    hugging_face().transformer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / 'model.safetensors')
    masks = {f'h.{i}.attn.{name}': torch.ones(1, 1, 64, 64) for i in range(3) for name in ('bias', 'masked_bias')}
    save_file({k: v.clone() for k, v in (weights | masks).items()}, tmp_path / 'model.safetensors')
    ours, _ = checkpoint.load_model(str(tmp_path))
    assert torch.equal(ours.transformer.h[1].attn.c_attn.weight, weights['h.1.attn.c_attn.weight'].T)


@pytest.mark.parametrize('changes, message', [
    ({'activation_function': 'relu'}, "activation_function 'relu', not 'gelu_new'"),
    ({'n_inner': 100}, 'n_inner 100'),
    ({'model_type': 'llama'}, "model_type 'llama', not 'gpt2'"),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings False'),
    ({'n_positions': 32}, "weights don't fit the shape"),
    ({'n_layer': 4}, "weights don't fit the shape"),
    ({'n_embd': None}, 'not a whole GPT-2'),
])
def test_a_folder_that_is_not_gpt2_is_refused(tmp_path, changes, message):
    hugging_face().save_pretrained(tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text()) | changes
    (tmp_path / 'config.json').write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(UserError, match=message):
        checkpoint.load_model(str(tmp_path))


def test_a_torn_or_missing_weights_file_is_named(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    whole = (tmp_path / 'model.safetensors').read_bytes()
    (tmp_path / 'model.safetensors').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match='not a whole GPT-2'):
        checkpoint.load_model(str(tmp_path))
    (tmp_path / 'model.safetensors').unlink()
    with pytest.raises(UserError, match=r'not a whole GPT-2.*model\.safetensors'):
        checkpoint.load_model(str(tmp_path))


def test_gpt2_comes_from_the_hub_by_its_name(monkeypatch, tmp_path):
    import huggingface_hub
    hugging_face().save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda repo, **_: asked.append(repo) or str(tmp_path))
    for name in ('gpt2', 'gpt2-xl', 'openai-community/gpt2-medium'):
        assert checkpoint.load_model(name)[1]['depth'] == 3
    assert asked == ['openai-community/gpt2', 'openai-community/gpt2-xl', 'openai-community/gpt2-medium']
