"""The shard format, Split and the tokenizers. Run: python -m pytest tests/core/test_data.py"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from conftest import save_bpe

from core import data
from core.common import UserError

ROOT = Path(__file__).parents[2]

def bin_shard(path, tokens, magic=20240520, version=1, n=None):
    """A .bin shard as llm.c's writer lays it out, written without data.py."""
    header = struct.pack('<3i', magic, version, len(tokens) if n is None else n).ljust(1024, b'\0')
    Path(path).write_bytes(header + struct.pack(f'<{len(tokens)}H', *tokens))

def folder_of(tmp_path, lengths, vocab=1000):
    """Train shards of these lengths, random tokens, and the tokens of each."""
    draw = np.random.default_rng(0)
    shards = [draw.integers(0, vocab, n).tolist() for n in lengths]
    for i, tokens in enumerate(shards):
        bin_shard(tmp_path / f'x_train_{i:06d}.bin', tokens)
    return shards

def sequences_of(shards, block_size):
    """The reference: every sequence, by slicing lists."""
    return [tokens[i : i + block_size + 1] for tokens in shards
            for i in range(0, len(tokens) - block_size, block_size)]

# the format

@pytest.mark.parametrize('dtype, header, letter', [('uint16', (20240520, 1), 'H'),
                                                   ('uint32', (20240801, 7), 'I')])
def test_a_shard_is_laid_out_as_llm_c_reads_it(tmp_path, dtype, header, letter):
    path = str(tmp_path / 'a.bin')
    tokens = [5, 0, np.iinfo(dtype).max]
    data.write_shard(path, np.array([9, *tokens, 9], dtype)[1:-1])
    raw = Path(path).read_bytes()
    assert struct.unpack('<256i', raw[:1024]) == (*header, 3) + (0,) * 253
    assert list(struct.unpack(f'<3{letter}', raw[1024:])) == tokens
    assert data.shard_layout(path) == (1024, 3, np.dtype(dtype))
    assert os.listdir(tmp_path) == ['a.bin']  # no temporary file stays

@pytest.mark.parametrize('spoil, message', [
    (lambda p: bin_shard(p, [1, 2], magic=20240801),
     'not a token shard .magic number 20240801'),
    (lambda p: bin_shard(p, [1, 2], magic=20240801, version=7), 'promises 2 tokens = 1032 bytes'),
    (lambda p: bin_shard(p, [1, 2], version=7), 'not a token shard .* version 7'),
    (lambda p: bin_shard(p, [1, 2], n=1), 'promises 1 tokens'),
    (lambda p: bin_shard(p, [1, 2], n=-1), 'not a token shard .* -1 tokens'),
    (lambda p: p.write_bytes(struct.pack('<3i', 20240520, 1, 2)), 'promises 2 tokens'),
    (lambda p: p.write_bytes(p.read_bytes()[:-1]), 'promises 50 tokens'),
    (lambda p: p.write_bytes(b'<html>404: Not Found</html>'), 'not a token shard'),
])
def test_a_bad_bin_shard_is_refused_by_name(tmp_path, spoil, message):
    folder_of(tmp_path, [50, 50])
    spoil(tmp_path / 'x_train_000001.bin')
    with pytest.raises(UserError, match=f'x_train_000001.bin.*{message}'):
        data.Split(str(tmp_path), 'train', 4, 1000)

@pytest.mark.parametrize('spoil, message', [
    (lambda p: p.write_bytes(b'nothing'), 'not a .npy file'),
    (lambda p: p.write_bytes(b''), 'not a .npy file'),
    (lambda p: np.save(p, np.zeros(9, np.int64)), 'int64'),
    (lambda p: np.save(p, np.zeros((3, 3), np.uint16)), 'shape .3, 3.'),
    (lambda p: p.write_bytes(p.read_bytes()[:-2]), 'a truncated one'),
    (lambda p: p.write_bytes(p.read_bytes() + b'x'), 'promises 40 tokens'),
])
def test_a_bad_npy_shard_is_refused_by_name(tmp_path, spoil, message):
    path = tmp_path / 'x_train_000000.npy'
    np.save(path, np.arange(40, dtype=np.uint16))
    spoil(path)
    with pytest.raises(UserError, match=f'x_train_000000.npy.*{message}'):
        data.Split(str(tmp_path), 'train', 4, 1000)

def test_npy_shards_of_build_nanogpt_are_read(tmp_path):
    tokens = list(range(100, 141))
    for name, dtype in (('edufineweb_train_000001.npy', 'uint16'), ('edufineweb_val_000000.npy', 'uint32')):
        np.save(tmp_path / name, np.array(tokens, dtype))
    for split in ('train', 'val'):
        found = data.Split(str(tmp_path), split, 8, 50257)
        assert found.read(np.arange(found.n_sequences)).tolist() == sequences_of([tokens], 8)

def test_shards_without_meta_json_are_gpt2s(tmp_path):
    folder_of(tmp_path, [50])
    assert data.read_meta(str(tmp_path)) == {'tokenizer': 'gpt2', 'vocab_size': 50257, 'eot': 50256}

@pytest.mark.parametrize('text', [
    '', '{', '[]', '[' * 100_000, '{"tokenizer": "gpt2"}',
    '{"tokenizer": "gpt2", "vocab_size": "x", "eot": 1}',
    '{"tokenizer": "gpt2", "vocab_size": true, "eot": 1}',
    '{"tokenizer": null, "vocab_size": 9, "eot": 1}',
    '{"tokenizer": "gpt2", "vocab_size": 9, "eot": 1, "shards": 3}',
    '{"tokenizer": "gpt2", "vocab_size": 9, "eot": 1, "shards": [{"tokens": 5}]}',
    '{"tokenizer": "gpt2", "vocab_size": 9, "eot": 1, "complete": false, "options": 3}'])
def test_a_bad_meta_json_is_refused_by_name(tmp_path, text):
    folder_of(tmp_path, [50])
    (tmp_path / 'meta.json').write_text(text)
    with pytest.raises(UserError, match=r'meta\.json: not a meta\.json'):
        data.Split(str(tmp_path), 'train', 8, 1000)

def test_more_tokens_than_a_header_can_count_are_refused_when_written_and_when_read(tmp_path, monkeypatch):
    folder_of(tmp_path, [50])
    bin_shard(tmp_path / 'x_train_000001.bin', [1, 2], n=2**31 - 2**32)  # what 2^31 becomes as int32
    with pytest.raises(UserError, match=r'x_train_000001\.bin: not a token shard .* -2147483648 tokens, '
                                        r'.* and up to 2147483647 tokens are expected'):
        data.Split(str(tmp_path), 'train', 8, 1000)
    monkeypatch.setattr(data, 'MAX_SHARD_TOKENS', 3)
    with pytest.raises(UserError, match=r'a\.bin: 4 tokens, and a \.bin shard holds at most 3'):
        data.write_shard(str(tmp_path / 'a.bin'), np.arange(4, dtype=np.uint16))
    assert not (tmp_path / 'a.bin').exists()

# which files

@pytest.mark.parametrize('name, split', [
    ('x_train_000001.bin', 'train'), ('train.bin', 'train'), ('a-val-1.npy', 'val'),
    ('pretrain_val_000000.bin', 'val'),
    ('medieval_train_1.bin', 'train'), ('interval.train.3.bin', 'train'), ('my-trainer-val.npy', 'val'),
    ('values_train-7.bin', 'train'), ('2024.val.bin', 'val')])
def test_a_shard_belongs_to_the_split_that_is_a_word_of_its_name(tmp_path, name, split):
    tokens = np.arange(9, dtype=np.uint16)
    if name.endswith('.npy'):
        np.save(tmp_path / name, tokens)
    else:
        bin_shard(tmp_path / name, tokens.tolist())
    other = {'train': 'val', 'val': 'train'}[split]
    assert data.split_of(name) == data.split_of(f'some_{other}/{name}') == split  # folders don't count
    assert data.Split(str(tmp_path), split, 8, 1000).n_tokens == 9
    with pytest.raises(UserError, match=f'has no {other} shards'):
        data.Split(str(tmp_path), other, 8, 1000)

@pytest.mark.parametrize('name, has', [('val-of-train.npy', 'both'), ('validation_0.bin', 'neither'),
                                       ('trainval_0.bin', 'neither')])
def test_a_shard_of_both_splits_or_of_neither_is_refused_by_name(tmp_path, name, has):
    folder_of(tmp_path, [50])
    bin_shard(tmp_path / 'x_val_000000.bin', [1] * 50)
    (tmp_path / name).write_bytes(b'')
    for split in ('train', 'val'):
        with pytest.raises(UserError, match=f'{re.escape(name)}: .*has {has}: rename it'):
            data.Split(str(tmp_path), split, 8, 1000)

def test_hidden_files_and_files_of_other_kinds_are_no_shards(tmp_path):
    folder_of(tmp_path, [50])
    for name in ('._x_train_000000.bin', '.lock', 'x_train_000001.bin.tmp', 'train.txt',
                 'x_train_000002.bin.part'):
        (tmp_path / name).write_bytes(b'Mac OS X')
    assert data.Split(str(tmp_path), 'train', 8, 1000).n_tokens == 50

META = {'tokenizer': 'bytes', 'vocab_size': 257, 'eot': 256, 'complete': False,
        'options': {'sample': '10BT', 'source': ['my texts/*.txt'], 'shard_tokens': 20,
                    'max_tokens': 0}}

@pytest.mark.parametrize('value', [False, 0, None, 'no'])
def test_a_folder_that_is_not_complete_is_refused(tmp_path, value):
    folder_of(tmp_path, [50])
    data.write_meta(str(tmp_path), {**META, 'complete': value})
    with pytest.raises(UserError, match=r'is not complete by its meta\.json; give the command'):
        data.Split(str(tmp_path), 'train', 8, 1000)
    data.write_meta(str(tmp_path), {**META, 'complete': True})
    assert data.Split(str(tmp_path), 'train', 8, 1000).n_tokens == 50

def test_a_shard_that_meta_json_lists_and_that_is_not_there_is_named(tmp_path):
    folder_of(tmp_path, [50, 50])
    shards = [{'file': f'x_train_{i:06d}.bin', 'tokens': 50} for i in range(3)]
    data.write_meta(str(tmp_path), {**META, 'complete': True, 'shards': shards})
    with pytest.raises(UserError, match=r'not complete by its meta\.json: x_train_000002\.bin is missing'):
        data.Split(str(tmp_path), 'train', 8, 1000)

def test_a_fingerprint_tells_data_apart_and_stays_when_it_moves(tmp_path):
    one = tmp_path / 'one'
    one.mkdir()
    folder_of(one, [300, 400_000, 400_000])
    bin_shard(one / 'x_val_000000.bin', range(1000))
    found = data.fingerprint(str(one))
    assert found['train']['tokens'] == 800_300 and found['val']['tokens'] == 1000
    assert all(re.fullmatch('[0-9a-f]{64}', found[split]['sha256']) for split in ('train', 'val'))
    assert json.loads(json.dumps(found)) == found
    shutil.copytree(one, tmp_path / 'two')
    assert data.fingerprint(f'{tmp_path}/two/') == found

    def changed(shard, token):
        path = tmp_path / 'two' / f'x_train_{shard:06d}.bin'
        raw = bytearray(path.read_bytes())
        raw[1024 + 2 * token] ^= 1
        path.write_bytes(raw)
        now = data.fingerprint(str(tmp_path / 'two'))
        raw[1024 + 2 * token] ^= 1
        path.write_bytes(raw)
        return now != found

    # the first megabyte of a split, over its shards, and no more
    assert changed(0, 0) and changed(1, 0) and changed(2, 2**19 - 400_300 - 1)
    assert not changed(2, 2**19 - 400_300)
    bin_shard(tmp_path / 'two' / 'x_train_000003.bin', [1])
    assert data.fingerprint(str(tmp_path / 'two'))['train']['tokens'] == 800_301

def test_a_fingerprint_is_the_same_for_bin_and_npy(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    for split in ('train', 'val'):
        bin_shard(tmp_path / 'a' / f'{split}_0.bin', range(700))
        np.save(tmp_path / 'b' / f'{split}_0.npy', np.arange(700, dtype=np.uint16))
    assert data.fingerprint(str(tmp_path / 'a')) == data.fingerprint(str(tmp_path / 'b'))

# reading

def test_sequences_overlap_by_one_and_never_cross_shards(tmp_path):
    shards = folder_of(tmp_path, [41, 40, 8, 9, 3, 100])
    split, wanted = data.Split(str(tmp_path), 'train', 8, 1000), sequences_of(shards, 8)
    assert split.n_sequences == len(wanted) == 5 + 4 + 0 + 1 + 0 + 12
    assert split.n_tokens == 201
    for indices in (np.arange(22), np.array([21, 0, 5, 4, 9, 10, 11, 3, 3]), np.array([8, 9, 10])):
        assert split.read(indices).tolist() == [wanted[i] for i in indices]

def test_inputs_and_targets_are_shifted_by_one(tmp_path):
    wanted = sequences_of(folder_of(tmp_path, [100, 100]), 8)
    split = data.Split(str(tmp_path), 'train', 8, 1000)
    x, y = split.get_batch(2, 4, range(1, 4), False, 1)
    assert x.dtype == y.dtype == np.int64 and x.shape == y.shape == (3, 8)
    assert x.tolist() == [s[:-1] for s in wanted[9:12]] and y.tolist() == [s[1:] for s in wanted[9:12]]

@pytest.mark.parametrize('shuffle', [False, True])
def test_step_to_tokens_is_the_same_on_any_number_of_ranks_and_micro_steps(tmp_path, shuffle):
    folder_of(tmp_path, [500, 300, 777])
    split = data.Split(str(tmp_path), 'train', 8, 1000)
    for step in (0, 3, 11, 12, 30):  # 12 steps are an epoch
        whole = split.get_batch(step, 16, range(16), shuffle, 7)
        for ranks in (2, 4, 8):
            for rows in (16 // ranks, 1):  # one micro-step a rank, or one row at a time
                parts = [split.get_batch(step, 16, range(i, i + rows), shuffle, 7)
                         for i in range(0, 16, rows)]
                for k in (0, 1):
                    assert np.array_equal(np.concatenate([p[k] for p in parts]), whole[k])

def test_a_shuffled_epoch_visits_every_sequence_exactly_once(tmp_path):
    for i in range(4):  # each token says which sequence it belongs to
        bin_shard(tmp_path / f'train_{i}.bin', [i * 60 + k // 8 for k in range(60 * 8)] + [0])
    split = data.Split(str(tmp_path), 'train', 8, 1000)
    orders = {}
    for seed in (1, 2, -1):
        for epoch in (0, 1):
            steps = range(epoch * 24, epoch * 24 + 24)
            orders[seed, epoch] = [int(row[0]) for step in steps
                                   for row in split.get_batch(step, 10, range(10), True, seed)[0]]
    assert all(sorted(order) == list(range(240)) for order in orders.values())
    # every seed and epoch has an order of its own
    assert len({tuple(order) for order in orders.values()}) == 6
    assert orders[1, 0] != list(range(240))

def test_an_epoch_of_more_than_65536_sequences_has_each_of_them_once(tmp_path):
    tokens = np.arange(70_001) % 65_521
    bin_shard(tmp_path / 'train_0.bin', tokens.tolist())
    rows = range(69_000, 70_000)
    x, y = data.Split(str(tmp_path), 'train', 1, 65_536).get_batch(1, 70_000, rows, True, 1)
    order = data.permutation(70_000, 1, 1)
    assert sorted(order.tolist()) == list(range(70_000))
    assert np.array_equal(x[:, 0], tokens[order[rows]]) and np.array_equal(y[:, 0], tokens[order[rows] + 1])

def test_the_shuffled_order_never_changes():
    """Runs are resumed with other versions of numpy: this is what RandomState gave when this test was
    written."""
    assert data.permutation(10, 1337, 0).tolist() == [3, 4, 5, 9, 7, 1, 6, 0, 8, 2]

def test_what_falls_off_an_epoch_is_less_than_one_step(tmp_path):
    folder_of(tmp_path, [8 * 25 + 1])
    split = data.Split(str(tmp_path), 'train', 8, 1000)
    seen = [split.get_batch(step, 10, range(10), False, 1)[0] for step in range(4)]
    # 2 whole steps of 10 among 25
    assert np.array_equal(seen[0], seen[2]) and np.array_equal(seen[1], seen[3])
    assert not np.array_equal(seen[0], seen[1])

def test_tokens_above_65535_are_read_from_shards_of_both_kinds(tmp_path):
    tokens = [0, 65535, 65536, 151_642, 2**31 - 1, 7, 8, 9, 10, 11]
    data.write_shard(str(tmp_path / 'a_train_1.bin'), np.array([1, 2, 65535], np.uint16))
    data.write_shard(str(tmp_path / 'a_train_2.bin'), np.array(tokens, np.uint32))
    split = data.Split(str(tmp_path), 'train', 2, 2**31)
    assert split.read(np.arange(split.n_sequences)).tolist() == sequences_of([[1, 2, 65535], tokens], 2)
    assert [data.token_dtype(n) for n in (2**16, 2**16 + 1)] == [np.uint16, np.uint32]

@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_memory_stays_flat_over_an_epoch(tmp_path):
    for i in range(20):  # 40 MB in all
        data.write_shard(str(tmp_path / f'train_{i}.bin'), np.zeros(1_000_001, dtype=np.uint16))
    script = f'''
import re
from core import data
def resident(): return int(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1000
split = data.Split({str(tmp_path)!r}, 'train', 1000, 50257)
held = [split.get_batch(step, 100, range(100), True, 1)[0].sum() * 0 + resident() for step in range(200)]
print(max(held) - held[0])
'''
    grown = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout
    assert float(grown) < 8  # MB

def test_a_token_outside_the_vocabulary_is_refused_by_name(tmp_path):
    folder_of(tmp_path, [80])
    bin_shard(tmp_path / 'x_train_000001.bin', [1] * 30 + [50257] + [1] * 30)
    split = data.Split(str(tmp_path), 'train', 8, 50257)
    with pytest.raises(UserError, match=r'x_train_000001\.bin: token 50257 in a vocabulary of 50257'):
        split.read(np.arange(split.n_sequences))
    found = data.Split(str(tmp_path), 'train', 8, 50258)
    assert found.read(np.arange(found.n_sequences)).max() == 50257

def test_a_shard_that_shrinks_under_a_run_is_named(tmp_path):
    folder_of(tmp_path, [80])
    split = data.Split(str(tmp_path), 'train', 8, 1000)
    path = tmp_path / 'x_train_000000.bin'
    path.write_bytes(path.read_bytes()[:1100])
    with pytest.raises(UserError, match=r'x_train_000000\.bin has become shorter'):
        split.read(np.arange(split.n_sequences))

@pytest.mark.parametrize('flags, shuffle, seed', [((), None, 1337),
                                                  (('--seed=7', '--shuffle=False'), False, 7)])
def test_a_run_reads_its_data_in_the_order_of_its_seed(tmp_path, tiny, monkeypatch, flags, shuffle, seed):
    import train
    from config import TrainConfig

    calls = []
    get_batch = data.Split.get_batch

    def spy(self, step, sequences_per_step, rows, shuffle, seed):
        calls.append((step, shuffle, seed))
        return get_batch(self, step, sequences_per_step, rows, shuffle, seed)

    monkeypatch.setattr(data.Split, 'get_batch', spy)
    short = ['--n_stages=1', '--growth_steps=2', '--continual_steps=0', '--hellaswag_interval=0']
    monkeypatch.setattr(sys, 'argv', ['train.py', *tiny, *short, *flags, f'--out_dir={tmp_path}/run'])
    train.main()
    shuffle = TrainConfig().shuffle if shuffle is None else shuffle
    assert {step for step, _, _ in calls} == {0, 1} and {call[1:] for call in calls} == {(shuffle, seed)}

@pytest.mark.parametrize('lengths, split, message', [
    (None, 'train', 'does not exist'), ([50], 'val', 'has no val shards'), ([0], 'train', 'hold 0 tokens'),
    ([8, 8], 'train', 'hold 16 tokens, fewer than one sequence of block_size . 1 = 9'),
])
def test_a_folder_without_data_is_refused(tmp_path, lengths, split, message):
    folder = tmp_path / 'none' if lengths is None else tmp_path
    folder_of(tmp_path, lengths or [])
    with pytest.raises(UserError, match=message):
        data.Split(str(folder), split, 8, 1000)

# tokenizers

def test_gpt2_encodes_the_known_ids():
    assert data.get_tokenizer('gpt2').encode_ordinary('Hello, world') == [15496, 11, 995]
    assert data.get_tokenizer('gpt2').eot_token == 50256 and data.get_tokenizer('gpt2').n_vocab == 50257

def test_bytes_are_their_own_tokens():
    enc, text = data.get_tokenizer('bytes'), 'a\0 é\n\n🙂<|endoftext|>'
    assert enc.encode_ordinary(text) == list(text.encode())
    assert enc.decode(list(text.encode())) == text
    assert enc.eot_token == 256 and enc.n_vocab == 257

def test_an_unknown_tokenizer_is_refused():
    with pytest.raises(UserError, match="no tokenizer is called 'gpt3': 'gpt2', 'bytes', or"):
        data.get_tokenizer('gpt3')

TEXT = 'the quick fox, naïve 漢字 🙂\n\tspells <|endoftext|> and </s>'

@pytest.mark.parametrize('byte_level', [True, False])
def test_a_tokenizer_json_beside_the_data_is_read_by_the_names_of_tiktoken(tmp_path, byte_level):
    theirs = save_bpe(tmp_path, byte_level=byte_level)
    # as Llama's: a token at the beginning, which is none of a document's
    theirs.post_processor = tokenizers.processors.BertProcessing(('[x]', 300), ('[y]', 301))
    theirs.save(str(tmp_path / 'tokenizer.json'))
    content, name = data.read_tokenizer(str(tmp_path))
    (tmp_path / 'ckpt_000001.pt').touch()
    enc = data.get_tokenizer(name, str(tmp_path / 'ckpt_000001.pt'))
    assert content == (tmp_path / 'tokenizer.json').read_bytes()
    tokens = enc.encode_ordinary(TEXT)
    assert enc.decode_bytes(tokens) == TEXT.encode()
    assert enc.eot_token == theirs.token_to_id('<|endoftext|>' if byte_level else '</s>') not in tokens
    assert enc.n_vocab == theirs.get_vocab_size()
    assert enc.encode_ordinary('') == [] != theirs.encode('').ids
    assert b''.join(map(enc.decode_single_token_bytes, tokens)) == TEXT.encode()
    assert len(enc.encode_ordinary('the quick brown')) < 8

def test_another_tokenizer_json_is_refused(tmp_path):
    save_bpe(tmp_path)
    name = data.read_tokenizer(str(tmp_path))[1]
    save_bpe(tmp_path, n_added=1)
    with pytest.raises(UserError, match=f'its tokenizer.json is sha256:.* made with {name}'):
        data.get_tokenizer(name, str(tmp_path))
    without_end = (tmp_path / 'tokenizer.json').read_bytes().replace(b'endof', b'x')
    for content, message in ((b'{}', 'not a tokenizer.json'), (without_end, 'no token for the end')):
        with pytest.raises(UserError, match=message):
            data.Tokenizer(content)

def test_without_bpe_file_and_network_the_message_names_the_cache(tmp_path):
    script = "from core import common, data; common.run_main(lambda: data.get_tokenizer('gpt2'))"
    env = {**os.environ, 'TIKTOKEN_CACHE_DIR': str(tmp_path), 'HTTPS_PROXY': 'http://127.0.0.1:9'}
    found = subprocess.run([sys.executable, '-c', script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert found.returncode == 2 and found.stderr.startswith('error: ') and found.stderr.count('\n') == 1
    # what the folder must hold is what the tests' own holds
    files = os.listdir(os.environ['TIKTOKEN_CACHE_DIR'])
    assert len(files) == 2 and all(name in found.stderr for name in ['TIKTOKEN_CACHE_DIR', *files])

def test_reading_needs_neither_torch_nor_tiktoken():
    script = "import sys; from core import data; "
    script += "print([m for m in ('torch', 'tiktoken', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True,
                          text=True).stdout == '[]\n'
