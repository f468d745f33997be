"""Texts as tokens, by threads, in order. Run: python -m pytest tests/test_documents.py"""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import documents
import sources
from core import data
from core.common import UserError
from documents import Chunk

EOT = '<|endoftext|>'


def plain(texts, name='gpt2'):
    """The reference: each document by itself."""
    enc = data.get_tokenizer(name)
    return [[enc.eot_token, *enc.encode_ordinary(text)] for text in texts]


@pytest.mark.parametrize('ahead', [1, 2, 9])
def test_the_reader_is_never_further_ahead_than_it_may(ahead):
    read, at_most = [], 0
    items = (read.append(i) or i for i in range(50))
    with ThreadPoolExecutor(2) as pool:
        for done, (item, result) in enumerate(documents.in_order(pool, lambda i: -i, items, ahead)):
            assert item == done and result == -done
            at_most = max(at_most, len(read) - done)
    assert at_most == ahead and len(read) == 50


@pytest.mark.parametrize('texts', [['a', '', 'b c', ''], [EOT], ['x', f'a{EOT}b', EOT[:-1], 'y'], ['', '']])
def test_a_chunk_is_cut_into_its_documents(texts):
    enc = data.get_tokenizer('gpt2')
    chunk = Chunk(3, 'a.jsonl', 7, texts, [0.1 * i for i in range(len(texts))])
    found = list(documents.split_documents(chunk, documents.encode(enc, chunk), enc.eot_token))
    assert [document.tokens.tolist() for document in found] == plain(texts)
    assert [(document.source, document.number) for document in found] == [(3, 7 + i)
                                                                          for i in range(len(texts))]
    assert [document.progress for document in found] == chunk.progress


def test_only_the_first_piece_of_a_text_file_begins_a_document():
    enc = data.get_tokenizer('bytes')
    pieces = [Chunk(0, 'a.txt', i, [text], [1.0]) for i, text in enumerate(['one', ' two'])]
    assert [documents.encode(enc, piece).tolist() for piece in pieces] == [[256, *b'one'], [*b' two']]
    assert documents.encode(enc, Chunk(0, 'a.jsonl', 1, [' two'], [1.0])).tolist() == [256, *b' two']


def test_a_position_at_the_end_of_a_document_is_the_next_one():
    document = documents.Document(np.arange(5), 2, 9, 0.5)
    assert [document.position(at) for at in (0, 4, 5)] == [[2, 9, 0], [2, 9, 4], [2, 10, 0]]


@pytest.mark.parametrize('text, length', [
    ('many short words', 5), ('a ' + 'x' * 99 + ' b', 99), ('1' * 50 + 'a' * 49, 50), ('.' * 30 + 'abc', 30),
    ('', 0),
    ('a' + '\n' * 70 + 'b', 70), ('漢' * 20 + ' _', 20)])
def test_the_longest_word_is_found(text, length):
    assert documents.longest_word(Chunk(0, 'a', 5, ['short', text, ''], [])) == ((6, length) if length > 5
                                                                                 else (5, 5))


def test_chunks_say_how_much_of_all_files_is_read(tmp_path):
    for i in range(3):
        lines = [json.dumps({'text': 'x' * 10}) for _ in range((i + 1) * 4)]
        (tmp_path / f'{i}.jsonl').write_text('\n'.join(lines) + '\n')
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    sizes = [len((tmp_path / f'{i}.jsonl').read_bytes()) for i in range(3)]
    whole = [share for chunk in documents.read_chunks(paths, sizes, 0, 0) for share in chunk.progress]
    assert whole == pytest.approx([(i + 1) / 24 for i in range(24)])
    later = [share for chunk in documents.read_chunks(paths[1:], sizes, 1, 3) for share in chunk.progress]
    assert later == pytest.approx(whole[4 + 3 :])


def test_an_error_does_not_wait_for_a_thread_that_is_busy(monkeypatch):
    may_end = threading.Event()
    ended = []

    def encode(enc, chunk):
        ended.append(may_end.wait(5))  # a long word
        return np.array([256], np.uint16)

    def chunks():
        yield Chunk(0, 'a.jsonl', 0, ['x'], [1.0])
        raise UserError('the file ends in the middle')

    monkeypatch.setattr(documents, 'encode', encode)
    with pytest.raises(UserError, match='ends in the middle'):
        list(documents.tokenize(chunks(), data.get_tokenizer('bytes'), 1))
    assert not ended
    may_end.set()


def test_what_takes_long_without_a_long_word_is_not_named(monkeypatch, capsys):
    monkeypatch.setattr(documents, 'PATIENCE', 0.001)
    monkeypatch.setattr(documents, 'LONG_WORD', 100)
    for text, said in (('short words ' * 99, ''), ('y' * 100, 'a.jsonl, document 4: tiktoken takes long over '
                                                              'a word of 100')):
        release = threading.Timer(0.2, lambda: None)
        with ThreadPoolExecutor(1) as pool:
            release.start()
            future = pool.submit(release.join)
            documents.wait_for(Chunk(0, 'a.jsonl', 4, [text], [1.0]), future)
        assert said in capsys.readouterr().err if said else capsys.readouterr().err == ''


def test_chunks_are_of_the_size_that_keeps_memory_small(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('\n'.join(json.dumps({'text': 'word ' * 400}) for _ in range(500)))
    sizes = [sum(map(len, chunk.texts)) for chunk in documents.read_chunks([str(path)], [path.stat().st_size],
                                                                           0, 0)]
    assert all(sources.CHUNK <= size < sources.CHUNK + 2000 for size in sizes[:-1]) and len(sizes) == 10
