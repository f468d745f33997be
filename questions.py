"""
HellaSwag's questions: read, checked, and fetched once. hellaswag.py scores them.

A question, or example, is one JSON object a line: 'ctx' (the context), 'endings' (four), 'label' (the true
one's number, 0 to 3), and optionally 'ind', 'activity_label', 'ctx_a', 'ctx_b'. The official validation set
has 10,042. Its first home, a GitHub repository, is gone; it comes from the Hugging Face Hub.
"""

import hashlib
import json
import os
import re
import sys
import uuid

import torch.distributed as dist

from core import data
from core.common import UserError

N_OFFICIAL = 10_042
LABELS = ('0', '1', '2', '3')
STYLES = ('nanogpt', 'lm_eval')  # two ways to read an example as text, and to normalize (see hellaswag.py)


def load_examples(source: str, limit: int = 0) -> list[dict]:
    """The first `limit` (0: all) examples of a JSONL file, a URL, or, for '', of the official validation set.

    The latter two are fetched once, into data/. On several ranks the first of each machine fetches; all
    must call this. Raises UserError for what can't be fetched or read, naming the line of a bad example.
    """
    if source == '':
        path = os.path.join('data', 'hellaswag_val.jsonl')
        fetch_once(path, write_official)
    elif re.match('https?://', source, re.IGNORECASE):
        address = source.split('?')[0].rstrip('/')
        name = re.sub('[^A-Za-z0-9.]+', '_', address.split('/')[-1])
        digest = hashlib.sha256(source.encode()).hexdigest()  # addresses may end alike
        path = os.path.join('data', f'{digest[:8]}_{name}')
        fetch_once(path, lambda temporary: download(source, temporary))
    else:
        path = os.path.expanduser(source)
    examples = read_examples(path, path, limit)
    if source == '' and limit == 0 and len(examples) != N_OFFICIAL:
        print(f'warning: {path} has {len(examples)} examples, the official validation set {N_OFFICIAL}',
              file=sys.stderr)
    return examples


def read_examples(path: str, name: str, limit: int = 0) -> list[dict]:
    """The examples of a JSONL file, labels as ints. Raises UserError, naming `name` and the line, for
    others."""
    examples = []
    try:
        with open(path, encoding='utf-8') as f:
            for number, line in enumerate(f, 1):
                line = line.lstrip('\ufeff').strip()  # joined files have byte order marks in the middle, too
                if not examples and line.startswith('<'):
                    raise UserError(f'{name}: a web page (HTML), not examples; the address may be gone: '
                                    'name another')
                if line:
                    examples.append(parse_example(line, f'{name}, line {number}'))
                if limit and len(examples) == limit:
                    break
    except OSError as error:  # also of a folder
        raise UserError(f'{name}: cannot be read ({error.strerror or error})') from None
    except UnicodeDecodeError:
        raise UserError(f'{name}: not text in UTF-8; a JSON object a line is expected') from None
    if not examples:
        raise UserError(f'{name}: holds no examples')
    return examples


def parse_example(line: str, where: str) -> dict:
    """One line's example, its label as an int. Raises UserError, beginning with `where`, if a field is
    wrong."""
    try:
        example = json.loads(line)
    except ValueError as error:
        raise UserError(f'{where}: not JSON ({error})') from None
    except RecursionError:
        raise UserError(f'{where}: brackets nested too deep for an example') from None
    if type(example) is not dict or not {'ctx', 'endings', 'label'} <= example.keys():
        raise UserError(f"{where}: an example needs the fields 'ctx', 'endings' and 'label'")

    endings = example['endings']
    if type(endings) is not list or len(endings) != 4 or not all(is_text(ending) for ending in endings):
        raise UserError(f"{where}: 'endings' must be four texts")
    if not is_text(example['ctx']):
        raise UserError(f"{where}: 'ctx' must be a text")
    for name in ('activity_label', 'ctx_a', 'ctx_b'):
        if type(example.get(name, '')) is not str:  # may be missing or empty
            raise UserError(f'{where}: {name!r} must be a text where it is given')

    label = example['label']
    if type(label) not in (int, str):
        raise UserError(f"{where}: 'label' must be 0, 1, 2 or 3")
    if str(label) not in LABELS:
        hint = ' (the test split has no labels: take the validation split)' if label == '' else ''
        raise UserError(f"{where}: 'label' must be 0, 1, 2 or 3, not {str(label)[:40]!r}{hint}")
    return example | {'label': int(label)}


def is_text(value) -> bool:
    return type(value) is str and value.strip() != ''


def fingerprint(examples: list[dict]) -> str:
    """sha256 of what is scored: the same questions have the same one, wherever they were read."""
    digest = hashlib.sha256()
    for example in examples:
        # Labels are ints by now; fields that nothing reads, as the source's own numbers, don't count.
        scored = [example['ctx'], example['endings'], example['label']]
        scored += [example.get(name, '') for name in ('activity_label', 'ctx_a', 'ctx_b')]
        digest.update(json.dumps(scored).encode() + b'\n')
    return digest.hexdigest()


def warn_of_other_text(source: str, data_dir: str):
    """Say so, on the first rank, where a file's questions were made from another data set than data_dir's.

    A file beside a meta.json was made with those shards (prepare_demo.py does so): its questions are about
    that text, and tell little about a model that is trained on other text.
    """
    folder = os.path.dirname(os.path.expanduser(source)) or '.'
    has_meta = os.path.exists(os.path.join(folder, 'meta.json'))
    if not source or not has_meta or os.environ.get('RANK', '0') != '0':
        return
    try:
        theirs = data.read_meta(folder)
    except UserError:
        return  # somebody else's meta.json, which says nothing about shards
    if theirs != data.read_meta(data_dir):
        print(f'warning: hellaswag_data {source} asks about the text in {folder}, not about data_dir '
              f'{data_dir}: name other questions with --hellaswag_data=FILE, or score nothing with '
              '--hellaswag_interval=0', file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------
# text, as two conventions read it


def clean(text: str) -> str:
    """lm-evaluation-harness's clean-up of WikiHow's brackets, step by step: what it leaves is left here
    too."""
    text = text.strip().replace(' [title]', '. ')
    return re.sub(r'\[.*?\]', '', text).replace('  ', ' ')


def texts(example: dict, style: str) -> tuple[str, list[str]]:
    """(context, endings) as the style reads them. Optional fields, missing or empty, leave the plain ctx."""
    if style == 'nanogpt':
        return example['ctx'], example['endings']
    context = example['ctx']
    if 'ctx_a' in example and 'ctx_b' in example:
        context = example['ctx_a'] + ' ' + example['ctx_b'].capitalize()
    if example.get('activity_label'):
        context = example['activity_label'] + ': ' + context
    return clean(context), [clean(ending) for ending in example['endings']]


# ------------------------------------------------------------------------------------------------------------
# fetching


def fetch_once(path: str, write):
    """Unless `path` is there, the first rank of each machine calls write(temporary name), checks what came,
    and renames it; the other ranks wait."""
    try:
        if not os.path.exists(path) and int(os.environ.get('LOCAL_RANK', 0)) == 0:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f'{path}.{uuid.uuid4().hex}.tmp'  # machines that share a disk may fetch at once
            try:
                write(temporary)
                read_examples(temporary, path)
                os.replace(temporary, path)
            finally:
                if os.path.exists(temporary):
                    os.remove(temporary)
    finally:  # also after an error: the others would wait for a rank that is gone
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
    if not os.path.exists(path):
        raise UserError(f'{path} could not be fetched: the first rank of this machine says why')


def write_official(path: str):
    """Rowan/hellaswag's validation split from the Hub as JSONL."""
    import datasets  # here, since it takes a second and train.py only needs it once

    try:
        split = datasets.load_dataset('Rowan/hellaswag', split='validation')
    except Exception as error:  # whatever datasets, the Hub's client, the network or the disk raise
        raise UserError(
            f'HellaSwag could not be fetched from the Hub ({type(error).__name__}); without network, name a '
            'JSONL file: --data=FILE here, --hellaswag_data=FILE in training') from None
    with open(path, 'w', encoding='utf-8') as f:
        for example in split:
            f.write(json.dumps(example, ensure_ascii=False) + '\n')


def download(url: str, path: str):
    """Fetch a URL into a file. urllib3 tries again, waiting longer each time, unless the server says no."""
    import requests
    import urllib3

    retry = urllib3.Retry(
        total=4,
        backoff_factor=1,  # seconds: 0, 2, 4, 8, or what the server asks for
        status_forcelist=(408, 429, 500, 502, 503, 504),
        raise_on_status=False,
    )
    session = requests.Session()
    for scheme in ('http://', 'https://'):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    for attempts_left in (2, 1, 0):  # Retry doesn't see an answer that breaks off in the middle
        try:
            response = session.get(url, timeout=30)
            break
        except requests.exceptions.ChunkedEncodingError:
            if not attempts_left:
                raise UserError(f'{url} could not be downloaded (the connection breaks off)') from None
        except requests.RequestException as error:
            raise UserError(f'{url} could not be downloaded ({type(error).__name__})') from None
    # It goes through memory: the official set is 12 MB.
    if response.status_code != 200:
        raise UserError(f'{url} could not be downloaded (status {response.status_code})')
    with open(path, 'wb') as f:
        f.write(response.content)
