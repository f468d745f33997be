"""
prepare_fineweb.py against one core's tiktoken loop and against a Pool.imap script. Run by hand, on an idle machine:

    python dev/bench_prepare.py                    # throughput, three interleaved rounds; about four minutes
    python dev/bench_prepare.py --mb=30 --rounds=15 # on a machine that others use: look at the ratio of the best
    python dev/bench_prepare.py --mb=400 --rounds=1 --only=ours         # peak memory on a larger source

The source is parquet with FineWeb-Edu's columns and its mean document length (4.8 kB), of paragraphs drawn at random from
the demo corpus. The loop has the documents in memory. The two scripts read the file and write shards; they are timed from
their first line (all imported) to their exit, and the ratio with start-up included is printed beside.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

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
    texts = (t for batch in pq.ParquetFile(source).iter_batches(1024, columns=['text']) for t in batch[0].to_pylist())
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--mb', type=int, default=150, help='megabytes of text')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--only', default='', choices=('', 'loop', 'ours', 'imap', 'imap_all'))
    args = parser.parse_args()
    import conftest

    conftest.pytest_configure()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, 'source.parquet'), Path(folder, 'imap.py')
        if os.fork() == 0:  # so that the corpus doesn't count as memory of ours
            make_source(source, args.mb * 1_000_000)
            os._exit(0)
        os.wait()
        script.write_text(IMAP)
        shard = '5000000'
        commands = {
            'loop': [sys.executable, __file__, 'loop', source],
            'ours': [sys.executable, ROOT / 'prepare_fineweb.py', '--source', source, f'--shard_tokens={shard}'],
            'imap': [sys.executable, script, source, folder, shard, str(max(1, cores // 2))],
            'imap_all': [sys.executable, script, source, folder, shard, str(cores)],
        }
        work = {name: [] for name in commands if args.only in ('', name)}
        whole, cpu, peak = {name: [] for name in work}, {name: [] for name in work}, dict.fromkeys(work, 0)
        for i in range(args.rounds):
            for name in work:
                command = [*commands[name], f'--out={folder}/ours{i}'] if name == 'ours' else commands[name]
                before, start = os.times(), time.perf_counter()
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                process.stdout.readline()
                started = time.perf_counter()
                peak[name] = max(peak[name], watch(process))
                stop, after = time.perf_counter(), os.times()
                assert process.returncode == 0, name
                work[name].append(stop - started)
                whole[name].append(stop - start)
                cpu[name].append(after.children_user + after.children_system - before.children_user - before.children_system)
        for name in work:
            print(f'{name + "_seconds:":18}' + ' '.join(f'{s:.1f}' for s in work[name]) + '   CPU, start-up included: '
                  + ' '.join(f'{s:.1f}' for s in cpu[name]) + f'   peak memory of all processes: {peak[name] / 1e6:.0f} MB')
        if not args.only:
            print(f'cores:            {cores}')
            for name, text in (('loop', 'one core'), ('imap', f'Pool.imap with its default, {max(1, cores // 2)} processes'),
                               ('imap_all', f'Pool.imap with {cores} processes')):
                ratios = [a / b for a, b in zip(work[name], work['ours'])]
                start_up = [a / b for a, b in zip(work[name] if name == 'loop' else whole[name], whole['ours'])]
                print(f'ours_over_{name + ":":9} {statistics.median(ratios):.2f} x {text} (rounds: '
                      f'{" ".join(f"{r:.2f}" for r in ratios)}; of the best: {min(work[name]) / min(work["ours"]):.2f}; '
                      f'with start-up {statistics.median(start_up):.2f})')


def watch(process) -> int:
    """Wait for a process; the peak of the memory that it and its children hold (bytes; pages shared by forks count once)."""
    peak = 0
    while process.poll() is None:
        pids, held = [process.pid], 0
        for pid in pids:
            try:
                pids += [int(p) for p in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
                rollup = Path(f'/proc/{pid}/smaps_rollup').read_text()
                held += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith('Pss:')) * 1024
            except (OSError, StopIteration):
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
            pool += [p for document in prepare_demo.read_documents(file) for p in document.split('\n')]
    draw, writer, done, n = random.Random(1), None, 0, 0
    while done < size:
        texts = []
        for _ in range(1000):
            text, length = '', draw.lognormvariate(8.1, 0.85)
            while len(text) < length:
                text += draw.choice(pool) + '\n'
            texts.append(text)
        done += sum(map(len, texts))
        ids = [f'<urn:uuid:{draw.getrandbits(128):032x}>' for _ in texts]
        table = pa.table({'text': texts, 'id': ids, 'dump': ['CC-MAIN-2024-10'] * 1000, 'url': [f'https://{i}' for i in ids],
                          'file_path': ['s3://'] * 1000, 'language': ['en'] * 1000, 'language_score': [0.95] * 1000,
                          'token_count': [len(t) // 5 for t in texts], 'score': [3.1] * 1000, 'int_score': [3] * 1000})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        n += 1000
    writer.close()
    print(f'source:           {n} documents, {done / 1e6:.0f} MB of text, mean {done / n:.0f} bytes', flush=True)


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
    else:
        main()
