"""
prepare_fineweb.py against one core's tiktoken loop and against a Pool.imap script. By hand, on an idle
machine:

    python dev/bench_prepare.py                          # three interleaved rounds; about four minutes
    python dev/bench_prepare.py --mb=30 --rounds=15      # on a machine that others use: look at the best
    python dev/bench_prepare.py --mb=400 --rounds=1 --only=ours      # peak memory on a larger source

The source is parquet with FineWeb-Edu's columns and its mean document length (4.8 kB), of paragraphs drawn at
random from the demo corpus. The loop has the documents in memory. The two scripts read the file and write
shards; they are timed from their first line (all imported) to their exit, and the ratio with start-up
included is printed beside. """

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

SHARD_TOKENS = 5_000_000
IMAP = """
import multiprocessing as mp, os, sys
import numpy as np, pyarrow.parquet as pq, tiktoken
enc = tiktoken.get_encoding('gpt2')
def tokenize(text):
    tokens = [enc.eot_token]
    tokens.extend(enc.encode_ordinary(text))
    tokens = np.array(tokens)
    assert (0 <= tokens).all() and (tokens < 2**16).all()
    return tokens.astype(np.uint16)
if __name__ == '__main__':
    print('started', flush=True)
    source, out, shard_tokens, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    batches = pq.ParquetFile(source).iter_batches(1024, columns=['text'])
    texts = (text for batch in batches for text in batch[0].to_pylist())
    shard, buffer, fill = 0, np.empty(shard_tokens, np.uint16), 0
    with mp.Pool(processes) as pool:
        for tokens in pool.imap(tokenize, texts, chunksize=16):
            while fill + len(tokens) >= shard_tokens:
                n = shard_tokens - fill
                buffer[fill:] = tokens[:n]
                np.save(f'{out}/shard_{shard:06d}', buffer)
                shard, fill, tokens = shard + 1, 0, tokens[n:]
            buffer[fill : fill + len(tokens)] = tokens
            fill += len(tokens)
        np.save(f'{out}/shard_{shard:06d}', buffer[:fill])
"""

@dataclass
class Timings:
    """What the rounds of one command took, in seconds, and its peak of memory in bytes."""

    work: list[float] = field(default_factory=list)  # from its first line of output to its end
    whole: list[float] = field(default_factory=list)  # start-up included
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--mb', type=int, default=150, help='megabytes of text')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--only', default='', choices=('', 'loop', 'ours', 'imap', 'imap_all'))
    args = parser.parse_args()
    import conftest

    from core.common import usable_cores

    conftest.pytest_configure()  # GPT-2's vocabulary, without a download
    cores = usable_cores()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'source.parquet')
        script = Path(folder, 'imap.py')
        script.write_text(IMAP)
        # in a process of its own, so that the corpus doesn't count as memory of ours
        subprocess.run([sys.executable, __file__, 'source', source, str(args.mb * 1_000_000)], check=True)
        imap = [sys.executable, script, source, folder, str(SHARD_TOKENS)]
        commands = {
            'loop': [sys.executable, __file__, 'loop', source],
            'ours': [sys.executable, ROOT / 'prepare_fineweb.py', '--source', source,
                     f'--shard_tokens={SHARD_TOKENS}'],
            'imap': [*imap, str(max(1, cores // 2))],
            'imap_all': [*imap, str(cores)],
        }
        timings = {name: Timings() for name in commands if args.only in ('', name)}
        # in turns, so that a slow minute of the machine hits all of them
        for i in range(args.rounds):
            for name, found in timings.items():
                out = [f'--out={folder}/ours{i}'] if name == 'ours' else []
                measure(name, [*commands[name], *out], found)
    for name, found in timings.items():
        print(
            f'{name + "_seconds:":18}{listed(found.work, 1)}   CPU, start-up included: '
            f'{listed(found.cpu, 1)}   '
            f'peak memory of all processes: {found.peak / 1e6:.0f} MB'
        )
    if not args.only:
        print(f'cores:            {cores}')
        report('loop', 'one core', timings)
        report('imap', f'Pool.imap with its default, {max(1, cores // 2)} processes', timings)
        report('imap_all', f'Pool.imap with {cores} processes', timings)

def listed(values: list[float], digits: int) -> str:
    return ' '.join(f'{value:.{digits}f}' for value in values)

def measure(name: str, command: list, found: Timings):
    """Run a command once, and add what it took."""
    before, start = os.times(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process.stdout.readline()
    started = time.perf_counter()
    found.peak = max(found.peak, watch(process))
    stop, after = time.perf_counter(), os.times()
    if process.returncode:
        raise SystemExit(f'{name} ended with exit code {process.returncode}')
    found.work.append(stop - started)
    found.whole.append(stop - start)
    user = after.children_user - before.children_user
    found.cpu.append(user + after.children_system - before.children_system)

def report(name: str, text: str, timings: dict[str, Timings]):
    """Print how many times as long another way takes as ours, round by round."""
    other = timings[name]
    ours = timings['ours']
    ratios = [a / b for a, b in zip(other.work, ours.work)]
    # the loop has no start-up that counts: its documents are in memory already
    theirs = other.work if name == 'loop' else other.whole
    with_start_up = [a / b for a, b in zip(theirs, ours.whole)]
    print(
        f'ours_over_{name + ":":9} {statistics.median(ratios):.2f} x {text} (rounds: {listed(ratios, 2)}; of '
        'the '
        f'best: {min(other.work) / min(ours.work):.2f}; with start-up {statistics.median(with_start_up):.2f})'
    )

def watch(process) -> int:
    """Wait for a process; the peak of the memory that it and its children hold (bytes; pages that forks share
    count once)."""
    peak = 0
    while process.poll() is None:
        pids, held = [process.pid], 0
        for pid in pids:
            try:
                pids += [int(p) for p in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
                rollup = Path(f'/proc/{pid}/smaps_rollup').read_text()
                held += 1024 * int(re.search(r'(?m)^Pss: +(\d+)', rollup)[1])
            except (OSError, TypeError):  # it has just ended
                continue
        peak = max(peak, held)
        time.sleep(0.25)
    return peak

def make_source(path: Path, size: int):
    """Parquet of at least `size` bytes of text, with FineWeb-Edu's columns and row groups of 1000."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import prepare_demo

    pool = []
    for package in prepare_demo.PACKAGES:
        for file in prepare_demo.source_files(package):
            for document in prepare_demo.read_documents(file):
                pool += document.split('\n')
    draw = random.Random(1)
    writer = None
    done = 0
    n = 0
    while done < size:
        texts = []
        for _ in range(1000):
            text = ''
            length = draw.lognormvariate(8.1, 0.85)  # as FineWeb-Edu's
            while len(text) < length:
                text += draw.choice(pool) + '\n'
            texts.append(text)
        done += sum(map(len, texts))
        ids = [f'<urn:uuid:{draw.getrandbits(128):032x}>' for _ in texts]
        table = pa.table(
            {
                'text': texts,
                'id': ids,
                'dump': ['CC-MAIN-2024-10'] * 1000,
                'url': [f'https://{i}' for i in ids],
                'file_path': ['s3://'] * 1000,
                'language': ['en'] * 1000,
                'language_score': [0.95] * 1000,
                'token_count': [len(text) // 5 for text in texts],
                'score': [3.1] * 1000,
                'int_score': [3] * 1000,
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        n += 1000
    writer.close()
    print(
        f'source:           {n} documents, {done / 1e6:.0f} MB of text, mean {done / n:.0f} bytes', flush=True
    )

def loop(source: str):
    """One core's plain loop over the documents in memory, from the first line to the exit."""
    import pyarrow.parquet as pq
    import tiktoken

    texts = pq.read_table(source, columns=['text'])['text'].to_pylist()
    enc = tiktoken.get_encoding('gpt2')
    print('started', flush=True)
    for text in texts:
        enc.encode_ordinary(text)
    os._exit(0)  # tidying up isn't tokenizing

if __name__ == '__main__':
    if sys.argv[1:2] == ['loop']:
        loop(sys.argv[2])
    elif sys.argv[1:2] == ['source']:
        make_source(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
