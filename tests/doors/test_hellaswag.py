"""HellaSwag in both styles, against one-by-one references and the harness. Run: python -m pytest
tests/doors/test_hellaswag.py"""

import functools
import http.server
import json
import math
import re
import sys
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hellaswag_examples import GOLDEN, known_gpt, make_examples
from processes import run_python, run_ranks

import hellaswag
from core import data
from core.common import UserError
from model import GPT, GPTConfig
from run import checkpoint
from verdict import paired

ROOT = Path(__file__).parents[2]
GOOD = {'ctx': 'A man', 'endings': ['a', 'b', 'c', 'd'], 'label': 2}
FEW_WORDS = ['dog', 'cat', 'a b c d e f', 'incomprehensibilities of']
# as many characters, not as many bytes
FOREIGN = {'ctx': 'Über', 'endings': ['naïve', 'ééééé', '日本語です', 'plain'], 'label': 1}

def examples_of(n, seed):
    return [hellaswag.parse_example(json.dumps(e), 'here') for e in make_examples(n, seed)]

def write(path, examples):
    path.write_text(''.join(json.dumps(e) + '\n' for e in examples), encoding='utf-8')
    return str(path)

# ---- examples

def test_labels_may_be_numbers_or_strings_and_limit_takes_the_first(tmp_path, monkeypatch):
    path = write(tmp_path / 'x.jsonl', [GOOD, GOOD | {'label': '3', 'ind': 7}, GOOD])
    assert [e['label'] for e in hellaswag.load_examples(path)] == [2, 3, 2]
    monkeypatch.setenv('HOME', str(tmp_path))
    assert [e.get('ind') for e in hellaswag.load_examples('~/x.jsonl', limit=2)] == [None, 7]

@pytest.mark.parametrize('line', [
    '{"ctx": "A man"', '[' * 100_000, '[1, 2]', json.dumps({'ctx': 'a', 'endings': GOOD['endings']}),
    *[json.dumps(GOOD | wrong) for wrong in (
        {'endings': ['a', 'b', 'c']}, {'endings': ['a', 'b', 'c', 'd', 'e']}, {'endings': ['a', 'b', 'c',
                                                                                           ' ']},
        {'endings': ['a', 'b', 'c', ['d']]}, {'endings': 'abcd'}, {'ctx': None}, {'ctx': ''}, {'ctx_b': 3},
        {'label': 4}, {'label': -1}, {'label': True}, {'label': 1.0}, {'label': ''}, {'label': []})],
    '<html>This page was taken down</html>'])
def test_a_line_that_is_no_example_is_named_by_its_number(tmp_path, line):
    (tmp_path / 'x.jsonl').write_text(json.dumps(GOOD) + '\n' + line + '\n')
    with pytest.raises(UserError, match=r'x\.jsonl, line 2: an example is') as error:
        hellaswag.load_examples(str(tmp_path / 'x.jsonl'))
    assert len(str(error.value)) < 400

@pytest.mark.parametrize('content', [
    b'\xef\xbb\xbf%s\n%s', b'%s\r\n\xef\xbb\xbf%s\r\n', b'\xef\xbb\xbf\n%s\n\n%s\n'])
def test_a_byte_order_mark_is_no_part_of_an_example(tmp_path, content):
    line = json.dumps(GOOD).encode()
    (tmp_path / 'x.jsonl').write_bytes(content % (line, line))
    assert [e['label'] for e in hellaswag.load_examples(str(tmp_path / 'x.jsonl'))] == [2, 2]

@pytest.mark.parametrize('content', [b'', b'\n\n', b'\xef\xbb\xbf', json.dumps(GOOD).encode('utf-16'),
                                     b'\x1f\x8b\x08\x00'])
def test_a_file_without_examples_is_named(tmp_path, content):
    (tmp_path / 'x.jsonl').write_bytes(content)
    with pytest.raises(UserError, match=r'x\.jsonl(: holds no examples|, line 1)'):
        hellaswag.load_examples(str(tmp_path / 'x.jsonl'))

def test_the_fingerprint_is_of_what_is_scored_wherever_it_lies(tmp_path):
    examples = examples_of(3, seed=2)
    first = hellaswag.fingerprint(examples)
    unread = [example | {'split': 'val', 'ind': 99} for example in examples]  # nothing that scoring reads
    again = hellaswag.load_examples(write(tmp_path / 'b.jsonl', unread))
    assert hellaswag.fingerprint(again) == first and len(first) == 64
    changes = [{name: 'other'} for name in ('ctx', 'activity_label', 'ctx_a', 'ctx_b')]
    changes += [{'label': (examples[1]['label'] + 1) % 4}, {'endings': examples[1]['endings'][::-1]}]
    for change in changes:
        assert hellaswag.fingerprint([examples[0], examples[1] | change, examples[2]]) != first
    assert hellaswag.fingerprint([examples[1], examples[0], examples[2]]) != first
    assert hellaswag.fingerprint(examples[:2]) != first

def test_a_url_is_read_like_a_file(tmp_path, monkeypatch):
    write(tmp_path / 'set.jsonl', [GOOD] * 3)
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{httpd.server_port}'
        assert len(hellaswag.load_examples(f'{address}/set.jsonl', limit=2)) == 2
        with pytest.raises(UserError, match=r'gone\.jsonl could not be fetched .*--data=FILE'):
            hellaswag.load_examples(f'{address}/gone.jsonl')
        httpd.shutdown()

# ---- text

@pytest.mark.parametrize('raw, cleaned', [
    ('  blanks around\n', 'blanks around'),
    ('[header] How to swim [title] Get wet. [step] Go in.', ' How to swim. Get wet. Go in.'),
    ('[title] Get wet.', ' Get wet.'),
    ('Dry off. [substeps] Use a  towel.   Slowly.', 'Dry off. Use a towel.  Slowly.'),
    ('Use a towel. [substeps]', 'Use a towel. '),
])
def test_text_is_cleaned_up_as_the_harness_does(raw, cleaned):
    assert hellaswag.clean(raw) == cleaned

def test_lm_eval_context_has_the_activity_and_a_capitalized_ctx_b():
    example = {'activity_label': 'Fencing', 'ctx_a': 'Two people meet.', 'ctx_b': 'the Man in RED',
               'ctx': 'raw', 'label': 0, 'endings': ['waits .', ' bows', 'x', 'y']}
    context = 'Fencing: Two people meet. The man in red'
    assert hellaswag.texts(example, 'lm_eval') == (context, ['waits .', 'bows', 'x', 'y'])
    assert hellaswag.texts(example, 'nanogpt') == ('raw', ['waits .', ' bows', 'x', 'y'])
    bare = {k: example[k] for k in ('ctx', 'endings', 'label')}
    assert hellaswag.texts(bare, 'lm_eval')[0] == 'raw'

# ---- losses

def text_of(example, style):
    """Context and endings, written down again from the two conventions' descriptions."""
    if style == 'nanogpt':
        return example['ctx'], example['endings']
    def clean(s):
        return re.sub(r'\[[^\]]*\]', '', s.strip().replace(' [title]', '. ')).replace('  ', ' ')
    ctx_b = example['ctx_b'][:1].upper() + example['ctx_b'][1:].lower()
    return clean(f"{example['activity_label']}: {example['ctx_a']} {ctx_b}"), [clean(e)
                                                                               for e in example['endings']]

@torch.no_grad()
def one_by_one(model, example, style, tokenizer) -> np.ndarray:
    """The four summed losses by four padded rows, all logits, cross-entropy; rows that are too long lose
    their beginning."""
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
    losses = (
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction='none').view(4, -1).double()
    )
    return np.array([losses[j, len(row) - 1 - n:len(row) - 1].sum()
                     for j, (row, n) in enumerate(zip(rows, scored))])

@pytest.mark.parametrize('style', hellaswag.STYLES)
@pytest.mark.parametrize('n, tokenizer, config', [
    (12, 'bytes', GPTConfig(1024, 320, 2, 1, 16)),
    (12, 'bytes', GPTConfig(400, 320, 2, 2, 16)),  # most contexts are cut, by as much as each ending needs
    (3, 'gpt2', GPTConfig(256, 50257, 2, 2, 16)),
])
def test_packed_losses_equal_one_by_one(style, n, tokenizer, config):
    model, examples = known_gpt(config), examples_of(n, seed=5)
    encoded = hellaswag.encode(examples, tokenizer, style, config.block_size)
    sums = hellaswag.summed_losses(model, encoded)
    reference = np.array([one_by_one(model, e, style, tokenizer) for e in examples])
    tokens = np.array([np.bincount(e.row.columns) for e in encoded])
    assert np.abs(sums - reference).max() < 1e-6 * reference.max()
    assert np.abs((sums - reference) / tokens).max() < 1e-5
    assert (sums.argmin(1) == reference.argmin(1)).all()
    assert config.block_size != 400 or sum(e.is_cut for e in encoded) > n / 3

def test_any_batch_size_gives_the_same_predictions():
    model, examples = known_gpt(GPTConfig(1024, 320, 2, 2, 16)), examples_of(6, seed=6)
    encoded = hellaswag.encode(examples, 'bytes', 'nanogpt', 1024)
    one, many = (hellaswag.summed_losses(model, encoded, tokens_per_batch=n) for n in (1, 20_000))
    assert np.abs(one - many).max() < 1e-6 * one.max()
    assert hellaswag.summary(encoded, one)[0] == pytest.approx(hellaswag.summary(encoded, many)[0], rel=1e-5)

def test_a_row_holds_every_shared_token_once_and_predicts_with_no_other():
    row = hellaswag.pack([([1, 2, 3, 4], 2), ([1, 2, 3, 5], 2), ([1, 2, 9], 1), ([1, 2, 6, 7, 8], 3)])
    assert row.tokens.tolist() == [1, 2, 3, 6, 7] and row.positions.tolist() == [0, 1, 2, 2, 3]
    assert row.ends.tolist() == [5, 5, 3, 5, 5]
    predicted = sorted(zip(row.columns.tolist(), row.at.tolist(), row.targets.tolist()))
    assert predicted == [(0, 1, 3), (0, 2, 4), (1, 1, 3), (1, 2, 5), (2, 1, 9), (3, 1, 6), (3, 3, 7),
                         (3, 4, 8)]
    # Contexts that were cut at other places have roots of their own.
    row = hellaswag.pack([([1, 2, 3], 1), ([2, 1, 3], 1), ([1, 2, 2], 1)])
    assert row.tokens.tolist() == [1, 2, 2, 1] and row.positions.tolist() == [0, 1, 0, 1]
    assert row.ends.tolist() == [2, 2, 4, 4]

@pytest.mark.parametrize('style, tokenizer, endings, norms, sums, pred, pred_norm', [
    ('nanogpt', 'gpt2', FEW_WORDS, [1, 1, 6, 4], [6, 5, 12, 9], 1, 2),
    ('lm_eval', 'gpt2', FEW_WORDS, [3, 3, 11, 24], [6, 5, 12, 9], 1, 3),
    # By bytes the third ending would win, at 15; by characters all count alike and the second has least.
    ('lm_eval', 'bytes', FOREIGN['endings'], [5, 5, 5, 5], [6, 5, 7.5, 8], 1, 1)])
def test_normalization_is_by_tokens_in_one_style_and_by_characters_in_the_other(
        style, tokenizer, endings, norms, sums, pred, pred_norm):
    example = {'ctx': 'The', 'endings': endings, 'label': 3}
    encoded = hellaswag.encode([example], tokenizer, style, 64)
    result, [line] = hellaswag.summary(encoded, np.array([sums], float))
    assert line['losses_norm'] == pytest.approx(np.divide(sums, norms)) and line['losses'] == sums
    assert (line['pred'], line['pred_norm']) == (pred, pred_norm)
    assert (result['acc'], result['acc_norm'], result['n']) == (0, pred_norm == 3, 1)

def test_standard_errors_are_those_of_a_sample_mean():
    encoded = hellaswag.encode([GOOD] * 40, 'bytes', 'nanogpt', 1024)
    result, lines = hellaswag.summary(encoded, np.random.RandomState(1).rand(40, 4))
    for name, pred in (('acc', 'pred'), ('acc_norm', 'pred_norm')):
        hits = np.array([line[pred] == line['label'] for line in lines], dtype=float)
        assert 0 < hits.mean() < 1 and result[name] == pytest.approx(hits.mean())
        assert result[name + '_stderr'] == pytest.approx(hits.std(ddof=1) / math.sqrt(40))

@pytest.mark.parametrize('style', hellaswag.STYLES)
def test_the_first_of_equal_endings_wins(style):
    model = known_gpt(GPTConfig(64, 320, 2, 2, 16))
    example = {'ctx': 'A man', 'endings': ['sits.', 'sits.', 'sits.', 'sits.'], 'label': 0}
    encoded = hellaswag.encode([example], 'bytes', style, 64)
    sums = hellaswag.summed_losses(model, encoded)
    assert len(set(sums[0])) == 1
    scores, [line] = hellaswag.summary(encoded, sums)
    assert (line['pred'], line['pred_norm'], line['margin']) == (0, 0, 0)
    assert (scores['acc'], scores['acc_norm']) == (1, 1)
    _, [line] = hellaswag.summary(encoded, np.array([[3.0, 2.0, 2.0, 2.0]]))  # of some that are equal
    assert (line['pred'], line['pred_norm']) == (1, 1)

@pytest.mark.parametrize('style', hellaswag.STYLES)
@pytest.mark.parametrize('tokenizer, vocab_size', [('bytes', 320), ('gpt2', 50257)])
def test_bits_and_margin_equal_a_computation_one_by_one_in_bytes_of_the_scored_text(style, tokenizer,
                                                                                    vocab_size):
    model = known_gpt(GPTConfig(1024, vocab_size, 2, 2, 16))
    foreign = FOREIGN | {'activity_label': 'x', 'ctx_a': 'Über', 'ctx_b': ''}
    examples = [*examples_of(2, seed=3), foreign]
    bits, margin = [], []
    for example in examples:
        context, endings = text_of(example, style)
        n_blanks = len(context) - len(context.rstrip()) if style == 'lm_eval' else 0  # scored with the ending
        per_byte = []
        for loss, ending in zip(one_by_one(model, example, style, tokenizer), endings):
            per_byte.append(loss / math.log(2) / (n_blanks + len((' ' + ending).encode('utf-8'))))
        true = per_byte.pop(example['label'])
        bits.append(true)
        margin.append(min(per_byte) - true)

    scores, lines = hellaswag.summary(*score(model, examples, style, tokenizer))
    for name, values in (('bits', bits), ('margin', margin)):
        assert [line[name] for line in lines] == pytest.approx(values, rel=1e-6, abs=1e-6)
        assert scores[name] == pytest.approx(np.mean(values), abs=1e-6)
        assert scores[name + '_stderr'] == pytest.approx(np.std(values, ddof=1) / math.sqrt(3), abs=1e-6)
    # not 6 each
    assert hellaswag.encode([FOREIGN], tokenizer, style, 64)[0].n_bytes.tolist() == [7, 11, 16, 6]

def score(model, examples, style, tokenizer):
    encoded = hellaswag.encode(examples, tokenizer, style, model.config.block_size)
    return encoded, hellaswag.summed_losses(model, encoded)

def test_what_was_cut_is_counted_for_each_style_by_itself():
    example = {'activity_label': 'A rather long activity', 'ctx_a': 'Some one', 'ctx_b': 'sits',
               'ctx': 'One sits', 'endings': ['a', 'b', 'c', 'd'], 'label': 0}
    for style, n_cut in zip(hellaswag.STYLES, (0, 1)):
        encoded = hellaswag.encode([example], 'bytes', style, 16)
        assert hellaswag.summary(encoded, np.ones((1, 4)))[0]['n_cut'] == n_cut
    # one cut context is enough, whichever ending it stands before
    longer = example | {'endings': ['a' * 9, 'b', 'c', 'd']}
    encoded = hellaswag.encode([example, longer], 'bytes', 'nanogpt', 16)
    assert [one.is_cut for one in encoded] == [False, True]

def test_an_ending_that_the_clean_up_leaves_empty_is_json_all_the_same():
    example = {'ctx': 'A man', 'endings': ['[step]', 'b', 'c', 'd'], 'label': 0}
    encoded = hellaswag.encode([example], 'bytes', 'lm_eval', 64)
    scores, [line] = hellaswag.summary(encoded, np.array([[1.0, 2.0, 2.0, 2.0]]))
    assert (
        line['losses_norm'][0] is None
        and line['pred_norm'] == 1
        and line['bits'] == pytest.approx(1 / math.log(2))
    )
    json.dumps([scores, line], allow_nan=False)

def test_evaluate_writes_the_lines_of_the_last_scoring(tmp_path):
    model = known_gpt(GPTConfig(1024, 320, 1, 1, 8))
    encoded = hellaswag.encode(examples_of(5, seed=1), 'bytes', 'nanogpt', 1024)
    path = str(tmp_path / 'hellaswag.jsonl')
    for _ in range(2):
        scores = hellaswag.evaluate(model, encoded, per_example=path)
    assert hellaswag.evaluate(model, encoded) == scores
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert len(lines) == scores['n'] == 5
    assert scores['bits'] == pytest.approx(np.mean([line['bits'] for line in lines]))
    hellaswag.evaluate(model, encoded, rank=1, per_example=str(tmp_path / 'other'))  # rank 0 alone writes
    assert [p.name for p in tmp_path.iterdir()] == ['hellaswag.jsonl']

def test_lm_eval_style_gives_the_harness_own_values():
    """The values are lm-eval 0.4.13's own, by dev/golden_hellaswag.py."""
    golden = [json.loads(line) for line in GOLDEN.read_text(encoding='utf-8').splitlines()]
    model = known_gpt()
    encoded = hellaswag.encode(hellaswag.load_examples(str(GOLDEN)), 'gpt2', 'lm_eval',
                               model.config.block_size)
    sums = hellaswag.summed_losses(model, encoded)
    assert len(golden) == 20 and any(e.is_cut for e in encoded)
    assert -sums == pytest.approx(np.array([g['log_likelihoods'] for g in golden]), rel=2e-6)
    for g, line in zip(golden, hellaswag.summary(encoded, sums)[1]):
        assert (line['pred'] == line['label'], line['pred_norm'] == line['label']) == (g['acc'] == 1,
                                                                                       g['acc_norm'] == 1)

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
    row = hellaswag.encode([example], 'gpt2', 'lm_eval', 64)[0].row
    assert row.tokens.tolist() == [50256] and sorted(row.targets.tolist()) == [257, 269, 275, 288]

def test_scoring_is_in_eval_mode_and_leaves_the_model_as_it_was_and_able_to_train():
    model = GPT(GPTConfig(512, 320, 2, 2, 16, dropout=0.5), generator=torch.Generator().manual_seed(0))
    encoded = hellaswag.encode(examples_of(4, seed=1)[:2], 'bytes', 'nanogpt', 512)
    without_dropout = hellaswag.summed_losses(model.eval(), encoded)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    assert np.array_equal(hellaswag.summed_losses(model, encoded), without_dropout)
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    x = torch.zeros(1, 8, dtype=torch.int64)
    model(x, x).backward()
    assert all(p.grad is not None for p in model.parameters())
    hellaswag.summed_losses(model.eval(), encoded)
    assert not model.training  # and in eval mode, where it was so

@pytest.mark.parametrize('place', [0, 12])  # every loss, and one of many: the end of the one long ending
def test_losses_that_are_not_finite_are_an_error(place):
    model = known_gpt(GPTConfig(1024, 320, 1, 1, 8))
    model.transformer.wpe.weight.data[place] = math.nan
    short = {'ctx': 'abc', 'endings': ['b', 'c', 'd', 'e'], 'label': 0}
    examples = [short, short | {'endings': ['b', 'c', 'd', 'e' * 10]}, short]
    with pytest.raises(UserError, match='not finite'):
        hellaswag.evaluate(model, hellaswag.encode(examples, 'bytes', 'nanogpt', 1024))

# ---- the model, and the command line

def save_checkpoint(path, tokenizer='bytes', vocab_size=320, block_size=1024, scale=1.0):
    from config import TrainConfig, config_to_dict
    config = GPTConfig(block_size, vocab_size, 2, 2, 16)
    settings = config_to_dict(TrainConfig()) | {k: getattr(config, k) for k in GPTConfig.__dataclass_fields__}
    model = known_gpt(config)
    model.transformer.wte.weight.data *= scale
    checkpoint.save_checkpoint(str(path), {'config': settings, 'tokenizer': tokenizer, 'depth': 2,
                                           'step': 5, 'optimizer': {},
                                'model': model.state_dict(), 'totals': {}})
    return model

SCRIPT = str(ROOT / 'hellaswag.py')

@pytest.mark.slow
def test_two_ranks_write_what_one_writes(tmp_path):
    model = save_checkpoint(tmp_path / 'ckpt_000005.pt')
    examples = make_examples(9, seed=4)
    write(tmp_path / 'x.jsonl', examples)
    args = ['.', '--data=x.jsonl', '--style=both', '--device=cpu', '--dtype=float32', '--json']
    one = run_python(SCRIPT, *args, '--per_example=one.jsonl', cwd=tmp_path)
    codes, out, said = run_ranks(2, SCRIPT, *args, '--per_example=two.jsonl', cwd=tmp_path)
    assert one.returncode == 0 and codes == [0, 0], one.stderr + said
    assert one.stdout == out
    assert (tmp_path / 'one.jsonl').read_text() == (tmp_path / 'two.jsonl').read_text()

    nanogpt, lm_eval, last = one.stdout.splitlines()
    scores, lines = json.loads(last), [json.loads(line)
                                       for line in (tmp_path / 'one.jsonl').read_text().splitlines()]
    assert scores['lm_eval']['n'] == 9 and len(lines) == 18
    assert re.fullmatch(r'hellaswag nanogpt: (\w+ -?\d\.\d{4} \+- 0\.\d{4}, ){4}n 9', nanogpt)
    assert lm_eval.startswith('hellaswag lm_eval: acc ')
    first = next(line for line in lines if line['style'] == 'lm_eval')
    assert first['losses'] == pytest.approx(one_by_one(model, examples[0], 'lm_eval', 'bytes'), rel=1e-6)
    assert first.keys() == paired.KEYS

def run_main(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['hellaswag.py', *args])
    hellaswag.main()

def test_two_models_are_compared_on_the_same_examples(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    first = save_checkpoint(tmp_path / 'a.pt')
    second = save_checkpoint(tmp_path / 'b.pt', scale=0.9)
    path = write(tmp_path / 'x.jsonl', make_examples(5, seed=4))
    run_main(monkeypatch, 'a.pt', 'b.pt', f'--data={path}', '--style=both', '--device=cpu',
             '--dtype=float32', '--json')
    *printed, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    examples = hellaswag.load_examples(path)
    for style in hellaswag.STYLES:
        a = hellaswag.summary(*score(first, examples, style, 'bytes'))
        b = hellaswag.summary(*score(second, examples, style, 'bytes'))
        assert result[style]['scores'] == [a[0], b[0]]
        difference = result[style]['difference']
        gaps = [y['bits'] - x['bits'] for x, y in zip(a[1], b[1])]
        assert (
            difference['bits'] == pytest.approx(b[0]['bits'] - a[0]['bits']) == pytest.approx(np.mean(gaps))
        )
        assert difference['bits_stderr'] == pytest.approx(np.std(gaps, ddof=1) / math.sqrt(5))
        assert difference['acc'] == pytest.approx(b[0]['acc'] - a[0]['acc'])
    assert [line.split(':')[0] for line in printed] == \
        ['a.pt', 'b.pt', 'the second less the first, nanogpt', 'a.pt', 'b.pt',
         'the second less the first, lm_eval']
    assert f"bits {result['nanogpt']['difference']['bits']:+.4f} +- " in printed[2]

@pytest.mark.slow
def test_a_folder_with_a_bpe_of_its_own_scores_as_the_harness_has_it(tmp_path, monkeypatch, capsys):
    """By transformers' tokenizer and model, one text at a time, as lm-evaluation-harness does it."""
    import transformers
    from llamas import make_folder

    theirs = make_folder(tmp_path / 'model', 'smollm2', max_position_embeddings=384)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'model')
    examples = examples_of(20, seed=5)
    write(tmp_path / 'x.jsonl', examples)
    run_main(monkeypatch, str(tmp_path / 'model'), f'--data={tmp_path}/x.jsonl', '--style=lm_eval',
             f'--per_example={tmp_path}/lines.jsonl', '--device=cpu', '--dtype=float32')
    assert ' cut to 384 tokens' in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / 'lines.jsonl').read_text().splitlines()]
    for example, line in zip(examples, lines, strict=True):
        context = f'{example["activity_label"]}: {example["ctx_a"]} {example["ctx_b"].capitalize()}'
        context = hellaswag.clean(context)
        sums, means = [], []
        for ending in map(hellaswag.clean, example['endings']):
            whole = tokenizer.encode(f'{context} {ending}', add_special_tokens=False)
            n = len(tokenizer.encode(context.rstrip(), add_special_tokens=False))
            cut = max(0, len(whole) - 385)  # the model has 384 places, and the last token is no input
            whole, n = whole[cut:], n - cut
            with torch.no_grad():
                logits = theirs(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
            sums.append(-sum(logits[i - 1, whole[i]].item() for i in range(n, len(whole))))
            means.append(sums[-1] / len(ending))
        assert line['losses'] == pytest.approx(sums, rel=1e-5)
        assert line['losses_norm'] == pytest.approx(means, rel=1e-5)
        assert (line['pred'], line['pred_norm']) == (np.argmin(sums), np.argmin(means))
