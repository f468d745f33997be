"""Documents from files of all kinds, and files from the Hub. Run: python -m pytest tests/test_sources.py"""

import gzip
import json
import os
import random
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sources
from core.common import UserError

TEXTS = ['', 'one', '\n', 'two\nlines', 'ünï 漢字 🙂', '\u2028', '"quoted", [in] {brackets}', 'x' * 3000,
         '\ufeffbom', 'last\\']


def read(path, skip=0, **options):
    return [text for text, _ in sources.read(str(path), skip, **options)]


def zstd(raw):
    return bytes(pa.Codec('zstd').compress(raw))


def written(path, text, compression=''):
    """A file of a text, compressed or not; its path."""
    pack = {'': bytes, '.gz': gzip.compress, '.zst': zstd}[compression]
    path = Path(f'{path}{compression}')
    path.write_bytes(pack(text.encode()))
    return path


# what each kind of file holds

OBJECTS = [{'id': i, 'text': text, 'more': {'text': 'not this one', 'n': [1, 2.5, None]}}
           for i, text in enumerate(TEXTS)]
LINES = '\n'.join(json.dumps(o, ensure_ascii=o['id'] % 2 == 0) for o in OBJECTS)
JSON = {
    'array': json.dumps(OBJECTS), 'indented array': json.dumps(OBJECTS, indent=2, ensure_ascii=False),
    'array with a mark': '\ufeff' + json.dumps(OBJECTS), 'array with space around': '\r\n '
    + json.dumps(OBJECTS) + '\n\n',
    'lines': LINES, 'lines with an end': LINES + '\n', 'lines with a mark': '\ufeff' + LINES,
    'indented objects': '\n'.join(json.dumps(o, indent=1) for o in OBJECTS),
}


@pytest.mark.parametrize('compression', ['', '.gz', '.zst'])
@pytest.mark.parametrize('ending', ['jsonl', 'ndjson', 'JSONL'])
def test_json_lines(tmp_path, ending, compression):
    assert read(written(tmp_path / f'a.{ending}', LINES, compression)) == TEXTS


@pytest.mark.parametrize('chunk', [1, 7, 300, 100_000])
@pytest.mark.parametrize('form', JSON)
def test_json_as_an_array_or_as_one_object_after_the_other(tmp_path, monkeypatch, form, chunk):
    monkeypatch.setattr(sources, 'CHUNK', chunk)
    path = written(tmp_path / 'a.json', JSON[form])
    for skip in (0, 3, len(TEXTS), 99):
        assert read(path, skip) == TEXTS[skip:]


@pytest.mark.parametrize('text', ['[]', ' [ ] ', '', '\n', '[\n]\n'])
def test_json_without_objects_holds_no_document(tmp_path, text):
    assert read(written(tmp_path / 'a.json', text)) == []


def test_compressed_json(tmp_path):
    for compression in ('.gz', '.zst'):
        assert read(written(tmp_path / 'a.json', JSON['array'], compression)) == TEXTS


@pytest.mark.parametrize('name', ['a.txt', 'a.md', 'a.MD', 'a.md.gz', 'a.txt.zst'])
def test_a_text_file_is_one_document(tmp_path, name):
    stem, _, ending = name.partition('.')
    kind, dot, compression = ending.partition('.')
    path = written(tmp_path / f'{stem}.{kind}', '# ünï\r\n\r\ntext ', dot + compression)
    assert read(path) == ['# ünï\r\n\r\ntext ']


STRINGS = {
    'string': pa.string(), 'large_string': pa.large_string(), 'string_view': pa.string_view(),
    'dictionary': pa.dictionary(pa.int32(), pa.string()),
    'dictionary of large': pa.dictionary(pa.int8(), pa.large_string()),
}


@pytest.mark.parametrize('kind', STRINGS)
def test_a_column_of_any_string_type(tmp_path, kind):
    texts = TEXTS * 3
    array = pa.array(texts)
    column = (
        array.dictionary_encode().cast(STRINGS[kind])
        if kind.startswith('dict')
        else array.cast(STRINGS[kind])
    )
    pq.write_table(pa.table({'id': range(len(texts)), 'text': column}), tmp_path / 'a.parquet',
                   row_group_size=7)
    assert (
        pq.ParquetFile(tmp_path / 'a.parquet').schema_arrow.field('text').type == STRINGS[kind]
        or 'of large' in kind
    )
    for skip in (0, 6, 7, 8, 29, 30):
        assert read(tmp_path / 'a.parquet', skip) == texts[skip:]


def test_a_column_of_an_extension_that_is_stored_as_strings(tmp_path):
    column = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"a"', '{}']))
    pq.write_table(pa.table({'text': column}), tmp_path / 'a.parquet')
    assert read(tmp_path / 'a.parquet') == ['"a"', '{}']


@pytest.mark.parametrize('name', ['a.parquet', 'a.jsonl', 'a.json', 'a.ndjson', 'a.jsonl.gz', 'a.json.zst'])
def test_a_file_without_a_byte_holds_no_document(tmp_path, name):
    (tmp_path / name).touch()
    assert read(tmp_path / name) == [] and sources.text_bytes(str(tmp_path / name)) == 0


@pytest.mark.parametrize('name', ['a.txt', 'a.md', 'a.txt.gz', 'a.md.zst'])
def test_a_text_file_without_a_byte_is_an_empty_document(tmp_path, name):
    (tmp_path / name).touch()
    assert list(sources.read(str(tmp_path / name), 0)) == [('', 1.0)]
    assert read(tmp_path / name, 1) == []


def test_zeros_after_a_gzip_file_are_padding_and_other_bytes_are_not(tmp_path):
    one, two = LINES[:LINES.index('\n') + 1], LINES[LINES.index('\n') + 1:]
    packed = gzip.compress(one.encode()) + bytes(512) + gzip.compress(two.encode()) + bytes(10_000)
    (tmp_path / 'a.jsonl.gz').write_bytes(packed)
    assert read(tmp_path / 'a.jsonl.gz') == TEXTS
    assert read(tmp_path / 'a.jsonl.gz', exact=True) == TEXTS
    (tmp_path / 'a.jsonl.gz').write_bytes(packed + b'tail')
    with pytest.raises(UserError, match=r"a\.jsonl\.gz can't be read"):
        read(tmp_path / 'a.jsonl.gz')


def test_a_row_group_of_any_size_is_read_a_little_at_a_time(tmp_path):
    path = str(tmp_path / 'a.parquet')
    table = pa.table({'text': [os.urandom(2500).hex() for _ in range(8000)]})
    pq.write_table(table, path, row_group_size=1_000_000)  # 40 MB in one row group
    del table
    pa.default_memory_pool().release_unused()
    before, held = pa.total_allocated_bytes(), 0
    for i, _ in enumerate(sources.read(path, 0)):
        if i % 50 == 0:
            held = max(held, pa.total_allocated_bytes() - before)
    assert i == 7999 and held < 15_000_000


# what isn't a source

DEEP = '[' * 100_000
MISTAKES = [
    ('a.jsonl', '{"text": ' + DEEP, 'a.jsonl, line 1: not a JSON object with a text .RecursionError'),
    ('a.jsonl', '{"text": "x"}\n' + DEEP + ']' * 100_000, 'line 2: .*RecursionError'),
    ('a.ndjson', '{"a": ' * 100_000 + '1' + '}' * 100_000, 'line 1: .*RecursionError'),
    ('a.json', DEEP, 'a.json, document 0: .*nested too deep'),
    ('a.json', '[{"text": "x"}, {"text": "y", "z": ' + DEEP + ']' * 100_000 + '}]',
     'document 1: .*nested too deep'),
    ('a.json', '[{"text": "x"}', 'document 1: the array has no end; the file is truncated'),
    ('a.json', '[{"text": "x"}, {"text": "y',
     'document 1: not a JSON object with a text .JSONDecodeError: Unterminated'),
    ('a.json', '{"text": "x"}\n{"text"', 'document 1: .*JSONDecodeError'),
    ('a.json', '[{"text": "x"}] []', 'there is more after the end of the array'),
    ('a.json', '[{"text": "x"}, tru]', 'document 1: .*Expecting value'),
    ('a.json', '{"data": [{"text": "x"}]}', "document 0: .*no key 'text', only data"),
    ('a.json', '[["text"]]', 'document 0: not a JSON object with a text, but list'),
    ('a.json', '["x", "y"]', 'document 0: not a JSON object with a text, but str'),
    ('a.json', '[{"text": 7}]', 'text is 7, not a string'),
    ('a.json', '7', 'but int'), ('a.json', 'null', 'but NoneType'), ('a.json', '<html>', 'Expecting value'),
]


@pytest.mark.parametrize('name, text, message', MISTAKES)
def test_what_is_no_document_is_named_by_file_and_place(tmp_path, name, text, message):
    path = written(tmp_path / name, text)
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value) and len(str(error.value)) < 400


def test_a_mistake_early_in_a_large_json_file_is_found_without_reading_all_of_it(tmp_path):
    path = written(tmp_path / 'a.json', '[{"text" "x"},' + ' ' * 20_000_000 + ']')
    with open(path, 'rb') as raw:
        stream = sources.Stream(str(path), sources.uncompressed(raw, ''), raw, 1, 1)
        with pytest.raises(UserError, match="Expecting ':' delimiter"):
            list(sources.read_json(stream))
        assert raw.tell() < 1_000_000


@pytest.mark.parametrize('cut', [20, 200])
def test_a_truncated_gzip_file_is_named(tmp_path, cut):
    path = written(tmp_path / 'a.jsonl', LINES * 9, '.gz')
    path.write_bytes(path.read_bytes()[:-cut])
    for exact in (False, True):
        with pytest.raises(UserError, match=r"a\.jsonl\.gz can't be read: .*ended"):
            read(path, exact=exact)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(['a']), pa.array(['b'])], names=['text', 'text'])
    pq.write_table(table, tmp_path / 'a.parquet')
    with pytest.raises(UserError, match=r"a\.parquet has 2 columns called 'text'"):
        read(tmp_path / 'a.parquet')


@pytest.mark.parametrize('column, said', [
    (pa.array([b'x']), 'binary'), (pa.array([['x']]), 'list'), (pa.array([{'text': 'x'}]), 'struct'),
    (pa.array([1.5]), 'double'), (pa.array([None]), 'null')])
def test_a_column_of_anything_else_is_refused(tmp_path, column, said):
    pq.write_table(pa.table({'text': column}), tmp_path / 'a.parquet')
    with pytest.raises(UserError, match=f"the column 'text' holds {said}.*, not strings"):
        read(tmp_path / 'a.parquet')


# finding


def test_folders_files_and_patterns_are_found_in_order_and_once(tmp_path, monkeypatch):
    names = ['b.txt', 'a/2.jsonl', 'a/1.md', 'a/deep/0.parquet', 'a/.hidden.txt', 'a/.cache/x.txt',
             'a/readme', 'a/x.py',
             'c.json.gz']
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert sources.find(['a']) == ['a/1.md', 'a/2.jsonl', 'a/deep/0.parquet']
    assert sources.find(['b.txt', 'a', 'a/*.md']) == ['b.txt', 'a/1.md', 'a/2.jsonl', 'a/deep/0.parquet']
    assert sources.find(['*']) == ['b.txt', 'c.json.gz']  # a pattern with files means the files
    assert sources.find(['?']) == ['a/1.md', 'a/2.jsonl', 'a/deep/0.parquet']  # and with none the folders
    with pytest.raises(UserError, match=r'a/x\.py: not a source: \.parquet, \.jsonl'):
        sources.find(['a/x.py'])
    os.mkdir('empty')
    for nothing in ('empty', 'none', 'none/*.txt'):
        assert sources.find([nothing]) == []
    assert sources.find(['a', 'b.txt'], 'a/deep') == ['a/1.md', 'a/2.jsonl', 'b.txt']
    assert sources.find(['a'], f'{tmp_path}/a/dee') == ['a/1.md', 'a/2.jsonl', 'a/deep/0.parquet']


def test_the_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    written(tmp_path / 'a.txt', 'x')
    assert sources.find(['~/*.txt']) == sources.find(['~']) == [str(tmp_path / 'a.txt')]


# how far it is


@pytest.mark.parametrize('name', ['a.parquet', 'a.jsonl', 'a.json', 'a.txt', 'a.jsonl.gz', 'a.json.zst',
                                  'a.md.gz'])
def test_the_share_that_is_read_grows_evenly_to_the_whole(tmp_path, name):
    texts = ['é' * 50 + ' word' * 10] * 1000
    lines = '\n'.join(json.dumps({'text': text}) for text in texts) + '\n'
    kind, _, compression = name.removeprefix('a.').partition('.')
    if kind == 'parquet':
        pq.write_table(pa.table({'text': texts}), tmp_path / name)
    else:
        content = {'jsonl': lines, 'json': lines, 'txt': ''.join(texts), 'md': ''.join(texts)}[kind]
        written(tmp_path / f'a.{kind}', content, compression and f'.{compression}')
    shares = [share for _, share in sources.read(str(tmp_path / name), 0, exact=True, piece=100)]
    assert len(shares) > 450 and shares[-1] == pytest.approx(1, abs=1e-3)
    for i, share in enumerate(shares, 1):
        assert share == pytest.approx(i / len(shares), abs=0.01)


def test_the_most_tokens_is_never_less_than_there_are(tmp_path):
    path = str(written(tmp_path / 'a.jsonl', LINES))
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    assert sources.most_tokens(path, 10**9) == n_bytes + len(TEXTS)
    assert 100 < sources.most_tokens(path, 100) < 4000  # counting stops there


# the Hub


def test_no_more_than_one_file_is_fetched_ahead():
    started = []
    may_go_on = threading.Semaphore(0)

    def fetch(item):
        started.append(item)
        may_go_on.release()
        return f'path of {item}'

    paths = sources.one_ahead(fetch, list(range(6)))
    for i in range(6):
        assert next(paths) == f'path of {i}'
        while len(started) < min(6, i + 2):  # the one ahead is on its way
            assert may_go_on.acquire(timeout=30)
        assert started == list(range(min(6, i + 2)))
        # given every chance to fetch more, the thread waits until this file is done with
        assert not any(may_go_on.acquire(timeout=0.02) and len(started) > i + 2 for _ in range(2))
    assert next(paths, None) is None


def test_what_goes_wrong_while_fetching_is_raised_where_the_file_is_waited_for():
    def fetch(item):
        if item == 1:
            raise UserError('gone')
        return item

    paths = sources.one_ahead(fetch, [0, 1, 2])
    assert next(paths) == 0
    with pytest.raises(UserError, match='gone'):
        next(paths)


def test_pieces_of_a_text_are_of_the_size_that_was_asked_for(tmp_path):
    draw = random.Random(3)
    text = ' '.join('x' * draw.randrange(1, 9) for _ in range(5000))
    pieces = read(written(tmp_path / 'a.txt', text), piece=200)
    assert ''.join(pieces) == text and len(pieces) > 50
    assert all(200 <= len(piece) <= 600 for piece in pieces[:-1])
