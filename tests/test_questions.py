"""HellaSwag's questions: reading, checking, fetching. Run: python -m pytest tests/test_questions.py"""

import http.server
import json
import os
import re
import threading

import datasets
import pytest
from hellaswag_examples import make_examples

import questions
from core import data
from core.common import UserError

GOOD = {'ctx': 'A man', 'endings': ['a', 'b', 'c', 'd'], 'label': 2}
LINE = json.dumps(GOOD)


def write(path, examples):
    path.write_text(''.join(json.dumps(e) + '\n' for e in examples), encoding='utf-8')
    return str(path)


# ---- reading


def test_labels_may_be_numbers_or_strings_and_limit_takes_the_first(tmp_path):
    path = write(tmp_path / 'x.jsonl', [GOOD, GOOD | {'label': '3', 'ind': 7}, GOOD])
    assert [e['label'] for e in questions.load_examples(path)] == [2, 3, 2]
    assert [e.get('ind') for e in questions.load_examples(path, limit=2)] == [None, 7]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    write(tmp_path / 'x.jsonl', [GOOD])
    assert questions.load_examples('~/x.jsonl')[0]['label'] == 2


@pytest.mark.parametrize('line, message', [
    ('{"ctx": "A man"', 'line 2: not JSON'),
    ('[' * 100_000, 'line 2: brackets nested too deep'),
    ('{"a":' * 100_000, 'line 2: brackets nested too deep'),
    (json.dumps(GOOD | {'label': []})[:-2] + '[' * 400 + ']' * 400 + ']}',
     "line 2: 'label' must be 0, 1, 2 or 3"),
    ('[1, 2]', "line 2: an example needs the fields 'ctx', 'endings' and 'label'"),
    (json.dumps({'ctx': 'a', 'endings': GOOD['endings']}), "line 2: an example needs .* 'label'"),
    (json.dumps(GOOD | {'endings': ['a', 'b', 'c']}), "line 2: 'endings' must be four texts"),
    (json.dumps(GOOD | {'endings': ['a', 'b', 'c', 'd', 'e']}), "line 2: 'endings' must be four texts"),
    (json.dumps(GOOD | {'endings': ['a', 'b', 'c', ' ']}), "line 2: 'endings' must be four texts"),
    (json.dumps(GOOD | {'endings': ['a', 'b', 'c', ['d']]}), "line 2: 'endings' must be four texts"),
    (json.dumps(GOOD | {'ctx': None}), "line 2: 'ctx' must be a text"),
    (json.dumps(GOOD | {'ctx_b': 3}), "line 2: 'ctx_b' must be a text where it is given"),
    (json.dumps(GOOD | {'label': 4}), "line 2: 'label' must be 0, 1, 2 or 3, not '4'"),
    (json.dumps(GOOD | {'label': True}), "line 2: 'label' must be 0, 1, 2 or 3"),
    (json.dumps(GOOD | {'label': 1.0}), "line 2: 'label' must be 0, 1, 2 or 3"),
    (json.dumps(GOOD | {'label': ''}), "line 2: 'label' must be .*, not '' .the test split"),
])
def test_a_bad_line_is_named_by_its_number(tmp_path, line, message):
    (tmp_path / 'x.jsonl').write_text(LINE + '\n' + line + '\n')
    with pytest.raises(UserError, match=r'x\.jsonl.*' + message) as error:
        questions.load_examples(str(tmp_path / 'x.jsonl'))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize('content', [
    b'\xef\xbb\xbf' + LINE.encode() + b'\n' + LINE.encode(),  # as Windows' editors save
    LINE.encode() + b'\r\n\xef\xbb\xbf' + LINE.encode() + b'\r\n',  # two such files joined
    b'\xef\xbb\xbf\n' + LINE.encode() + b'\n\n' + LINE.encode() + b'\n',
])
def test_a_byte_order_mark_is_no_part_of_an_example(tmp_path, content):
    (tmp_path / 'x.jsonl').write_bytes(content)
    assert [e['label'] for e in questions.load_examples(str(tmp_path / 'x.jsonl'))] == [2, 2]


@pytest.mark.parametrize('content, message', [
    (b'', 'holds no examples'), (b'\n\n', 'holds no examples'), (b'\xef\xbb\xbf', 'holds no examples'),
    (LINE.encode('utf-16'), 'not text in UTF-8'), (b'\x1f\x8b\x08\x00', 'not text in UTF-8'),
    (b'\n<!DOCTYPE html>\n<html><body>gone</body></html>', 'a web page'), (b'\xef\xbb\xbf<html>',
                                                                           'a web page'),
])
def test_a_file_that_holds_no_examples_is_told_apart(tmp_path, content, message):
    (tmp_path / 'x.jsonl').write_bytes(content)
    with pytest.raises(UserError, match=message):
        questions.load_examples(str(tmp_path / 'x.jsonl'))


def test_the_fingerprint_is_of_what_is_scored_wherever_it_lies(tmp_path):
    examples = make_examples(3, seed=2)
    first = questions.fingerprint(questions.load_examples(write(tmp_path / 'a.jsonl', examples)))
    for example in examples:
        example |= {'label': int(example['label']), 'split': 'val', 'ind': 99}  # nothing that scoring reads
    again = questions.fingerprint(questions.load_examples(write(tmp_path / 'b.jsonl', examples)))
    assert again == first and len(first) == 64
    for name in ('ctx', 'activity_label', 'ctx_a', 'ctx_b'):
        assert questions.fingerprint([examples[0], examples[1] | {name: 'other'}, examples[2]]) != first
    other = {'label': (examples[1]['label'] + 1) % 4}
    assert questions.fingerprint([examples[0], examples[1] | other, examples[2]]) != first
    assert questions.fingerprint([examples[1], examples[0], examples[2]]) != first
    assert questions.fingerprint(examples[:2]) != first
    swapped = examples[0] | {'endings': examples[0]['endings'][::-1]}
    assert questions.fingerprint([swapped, *examples[1:]]) != first


def test_questions_about_another_text_than_the_data_are_pointed_out(tmp_path, capsys, monkeypatch):
    metas = {'demo': {'source': 'docstrings'}, 'copy': {'source': 'docstrings'}, 'mine': {'source': 'mine'}}
    for name, meta in metas.items():
        (tmp_path / name).mkdir()
        data.write_meta(str(tmp_path / name), {'tokenizer': 'bytes', 'vocab_size': 257, 'eot': 256} | meta)
    demo = write(tmp_path / 'demo' / 'hellaswag.jsonl', [GOOD])
    elsewhere = write(tmp_path / 'hellaswag.jsonl', [GOOD])
    questions.warn_of_other_text(demo, str(tmp_path / 'mine'))
    said = capsys.readouterr().err
    assert re.match(r'warning: .*demo/hellaswag.jsonl asks about .*demo, not about '
                    r'.*mine.*--hellaswag_data=FILE', said)
    assert said.count('\n') == 1
    questions.warn_of_other_text(demo, str(tmp_path / 'demo'))
    questions.warn_of_other_text(demo, str(tmp_path / 'demo') + '/.')
    questions.warn_of_other_text(demo, str(tmp_path / 'copy'))  # the same data, moved
    (tmp_path / 'foreign').mkdir()
    (tmp_path / 'foreign' / 'meta.json').write_text('{"made by": "others"}')
    foreign = write(tmp_path / 'foreign' / 'hellaswag.jsonl', [GOOD])
    for general in (elsewhere, foreign, '', 'https://example.org/set.jsonl'):
        questions.warn_of_other_text(general, str(tmp_path / 'mine'))
    monkeypatch.setenv('RANK', '1')
    questions.warn_of_other_text(demo, str(tmp_path / 'mine'))
    assert capsys.readouterr().err == ''


# ---- text


@pytest.mark.parametrize('raw, cleaned', [
    ('  blanks around\n', 'blanks around'),
    ('[header] How to swim [title] Get wet. [step] Go in.', ' How to swim. Get wet. Go in.'),
    ('[title] Get wet.', ' Get wet.'),
    ('Dry off. [substeps] Use a  towel.   Slowly.', 'Dry off. Use a towel.  Slowly.'),
    ('Use a towel. [substeps]', 'Use a towel. '),
])
def test_text_is_cleaned_up_as_the_harness_does(raw, cleaned):
    assert questions.clean(raw) == cleaned


def test_lm_eval_context_has_the_activity_and_a_capitalized_ctx_b():
    example = {'activity_label': 'Fencing', 'ctx_a': 'Two people meet.', 'ctx_b': 'the Man in RED',
               'ctx': 'raw',
               'label': 0, 'endings': ['waits .', ' bows', 'x', 'y']}
    context = 'Fencing: Two people meet. The man in red'
    assert questions.texts(example, 'lm_eval') == (context, ['waits .', 'bows', 'x', 'y'])
    assert questions.texts(example, 'nanogpt') == ('raw', ['waits .', ' bows', 'x', 'y'])
    bare = {k: example[k] for k in ('ctx', 'endings', 'label')}
    assert questions.texts(bare, 'lm_eval')[0] == 'raw'


# ---- fetching


@pytest.fixture
def server(monkeypatch, tmp_path):
    """(address, the answers (status, promised length or None, content) that it gives in turn, waits in
    seconds)"""
    answers = []
    waits = []

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
    monkeypatch.setattr('urllib3.util.retry.time.sleep', waits.append)
    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}/some/set.jsonl?raw=1', answers, waits
        httpd.shutdown()


def test_a_url_is_fetched_once_with_retries(server, tmp_path):
    url, answers, waits = server
    content = (LINE + '\n').encode() * 3
    busy = (503, None, b'busy')
    answers += [busy, busy, (200, 10_000, content), (200, None, content)]  # the third breaks off
    assert len(questions.load_examples(url)) == 3
    assert len(waits) >= 1 and waits == sorted(waits) and not answers
    assert len(questions.load_examples(url, limit=2)) == 2  # nothing is left to answer with
    assert [p.name.split('_')[1] for p in (tmp_path / 'data').iterdir()] == ['set.jsonl']


@pytest.mark.parametrize('answers, message', [
    ([(404, None, b'no')], 'status 404'),
    ([(500, None, b'no')] * 5, 'status 500'),
    ([(200, 1000, b'half')] * 3, 'breaks off'),
    ([(200, None, b'<html>This page was taken down</html>')], 'web page'),
    ([(200, None, b'{"ctx": 1}\n')], 'line 1'),
])
def test_what_a_url_gives_is_checked_before_it_is_stored(server, tmp_path, answers, message):
    server[1].extend(answers)
    with pytest.raises(UserError, match=message):
        questions.load_examples(server[0])
    assert not server[1] and list((tmp_path / 'data').iterdir()) == []


def test_two_machines_that_share_a_disk_may_fetch_the_same_file_at_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, 'getpid', lambda: 7)  # as containers have it

    def write_line(temporary):
        write(tmp_path / temporary, [GOOD])

    def write_slowly(temporary):
        write_line(temporary)
        questions.fetch_once('data/x.jsonl', write_line)  # the other machine is done before

    questions.fetch_once('data/x.jsonl', write_slowly)
    assert os.listdir('data') == ['x.jsonl']


def test_the_official_set_is_cached_as_jsonl_and_a_wrong_count_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []
    examples = make_examples(5, seed=1)

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(examples)

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    for _ in range(2):
        loaded = questions.load_examples('')
        assert [(e['ctx'], e['endings'], str(e['label'])) for e in loaded] == \
            [(e['ctx'], e['endings'], e['label']) for e in examples]
    assert asked == [(('Rowan/hellaswag',), {'split': 'validation'})]
    assert capsys.readouterr().err.count('has 5 examples, the official validation set 10042') == 2
    assert len(questions.load_examples('', limit=2)) == 2 and capsys.readouterr().err == ''
