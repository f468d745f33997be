"""
Two corpora that anyone with Debian's package manager can make again: English documentation, and C code.

    python dev/make_docs_corpus.py docs data/docs.jsonl     # two minutes; docs/corpus.md has the packages
    python dev/make_docs_corpus.py code data/code.jsonl     # a minute: C files of the kernel's source
    python prepare_fineweb.py --source data/docs.jsonl --tokenizer=bytes --shard_tokens=2_000_000 \\
        --out=data/docs_bytes

It downloads the packages (apt-get download, in the versions of docs/corpus.md, checked by SHA-256), installs
nothing. A paragraph that stands several times in the documentation counts once. Documents are
pages, long ones cut at paragraphs; they are ordered by the hash of their names. The first ones hold exactly
VAL_TOKENS byte tokens, so that the first shard, which is for validation, is whole documents.
"""

import fnmatch
import gzip
import hashlib
import html.parser
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from core.common import Parser, UserError, atomic_write, run_main

TABLE = ROOT / 'docs' / 'corpus.md'  # the packages: version and SHA-256
# package: which of its files, as patterns in which * crosses folders
DOCS = {
    'anarchism': ['*/html/*.html'],
    'apache2-doc': ['*/manual/en/*.html'],
    'dict-foldoc': ['*.dict.dz'],
    'dict-gcide': ['*.dict.dz'],
    'git-doc': ['*.html', '*/RelNotes/*.txt'],
    'linux-doc-6.1': ['*/html/*.html', '*/Documentation/*.txt.gz'],
    'manpages': ['*/man/man?/*.gz'],
    'manpages-dev': ['*/man/man?/*.gz'],
    'perl-doc': ['*.pod', '*/man/man?/*.gz'],
    'postgresql-doc-15': ['*/html/*.html'],
    'python3.11-doc': ['*/html/*.html'],
    'sqlite3-doc': ['*.html'],
    'vim-runtime': ['*/doc/*.txt'],
}
# indexes and lists of names, translations
LEFT_OUT = re.compile(r'/(genindex|contents|search|maintainers|bookindex|keyword_index|toc)\b|/translations/')
CODE = {'linux-source-6.1': ['*.c']}
CODE_SHARE = 4  # of the kernel's files one in so many, about
VAL_TOKENS = 2_000_000
LONGEST = 50_000  # characters of a document, about
SHORTEST = 200  # what is left of a page without its repeated paragraphs may be a stump

def main():
    parser = Parser(description=__doc__)
    parser.add_argument('corpus', choices=('docs', 'code'))
    parser.add_argument('out', metavar='FILE.jsonl')
    parser.add_argument('--debs', default=str(ROOT / 'data' / 'debs'), metavar='DIR',
                        help='folder of the downloaded packages; default: data/debs')
    args = parser.parse_args()
    is_docs = args.corpus == 'docs'
    packages = DOCS if is_docs else CODE
    os.makedirs(args.debs, exist_ok=True)
    os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)  # not only after minutes of work
    pages = {}
    for package, patterns in packages.items():
        with open_package(download(package, args.debs)) as tar:
            found = dict(read_pages(tar, patterns, 1 if is_docs else CODE_SHARE))
        size = sum(map(len, found.values())) / 1e6
        print(f'{package}: {len(found)} files, {size:.1f}M characters', flush=True)
        for name, text in found.items():
            pages[f'{package}/{name}'] = text
    texts = arrange(pages, once=is_docs)
    with atomic_write(args.out) as file:
        for text in texts:
            file.write(json.dumps({'text': text}) + '\n')
    print(f'{args.out}: {len(texts)} documents, {sum(n_tokens(text) for text in texts):,} byte tokens')

# packages

def download(package: str, folder: str) -> str:
    """Path of the package's .deb, in the version of TABLE. Raises UserError if it can't be had, or is another
    file than the one that TABLE means."""
    row = re.search(rf'^\| {re.escape(package)} \| (\S+) \| (\w+) \|', TABLE.read_text(), re.M)
    version, sha256 = row.groups()
    # as apt-get names it
    stem = f'{package}_{version.replace(":", "%3a")}_'
    if not list(Path(folder).glob(stem + '*.deb')):
        command = ['apt-get', 'download', f'{package}={version}']
        if subprocess.run(command, cwd=folder).returncode:
            raise UserError(f'{" ".join(command)} failed: run apt-get update; a version that is gone is in '
                            f"Debian's snapshots, or put another one in {TABLE}: the shards then differ")
    path = next(Path(folder).glob(stem + '*.deb'))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise UserError(f'{path}: SHA-256 {found}, and {TABLE} says {sha256}: delete it and try again')
    return str(path)

def open_package(path: str) -> tarfile.TarFile:
    """The files in a .deb, as a tar archive."""
    data = subprocess.run(['dpkg-deb', '--fsys-tarfile', path], stdout=subprocess.PIPE, check=True).stdout
    return tarfile.open(fileobj=io.BytesIO(data))

def read_pages(tar: tarfile.TarFile, patterns: list[str], share: int = 1):
    """(name, text) of the files of a tar archive, and of a tar archive in it, that match a pattern: one in
    `share`, chosen by the hash of the name."""
    for member in tar:
        name = member.name.removeprefix('./')
        if name.endswith('.tar.xz'):
            with tarfile.open(fileobj=tar.extractfile(member), mode='r|xz') as inner:
                yield from read_pages(inner, patterns, share)
        matches = any(fnmatch.fnmatchcase('/' + name, pattern) for pattern in patterns)
        if member.isfile() and matches and not LEFT_OUT.search(name) and hashed(name) % share == 0:
            yield name, page_text(name, tar.extractfile(member).read())

def hashed(text: str) -> int:
    """A number of 64 bits that is the same everywhere."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)

# text

def page_text(name: str, data: bytes) -> str:
    """A file's text: HTML and manual pages without their markup, all else as it is."""
    if name.endswith(('.gz', '.dz')):
        data = gzip.decompress(data)
        name = name[:-3]
    text = data.decode('utf-8', 'replace')
    if name.endswith('.html'):
        return html_text(text)
    if '/man/' in name:
        return man_text(text)
    return text

BLOCKS = re.compile('address|article|blockquote|body|caption|dd|div|dl|dt|figure|footer|h[1-6]|header|hr|'
                    'li|main|nav|ol|p|pre|section|table|tr|ul')
HIDDEN = {'script', 'style', 'title'}

class HTMLText(html.parser.HTMLParser):
    """Collects a page's text: a paragraph for each block, line breaks kept in preformatted text."""

    def __init__(self):
        super().__init__()
        self.parts = []
        self.hidden = 0
        self.preformatted = 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in HIDDEN
        self.preformatted += tag == 'pre'
        if BLOCKS.fullmatch(tag):
            self.parts.append('\n\n')
        elif tag == 'br':
            self.parts.append('\n')
        elif tag in ('td', 'th'):
            self.parts.append(' ')

    def handle_endtag(self, tag):
        self.hidden -= tag in HIDDEN
        self.preformatted -= tag == 'pre'
        if BLOCKS.fullmatch(tag):
            self.parts.append('\n\n')

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data if self.preformatted > 0 else re.sub(r'\s+', ' ', data))

def html_text(page: str) -> str:
    """The text of an HTML page, paragraphs with an empty line between them."""
    parser = HTMLText()
    parser.feed(page)
    parser.close()
    # Sphinx marks headings with a sign that links to them
    text = ''.join(parser.parts).replace('\xa0', ' ').replace('¶', '')
    return re.sub(r' *\n *\n\s*\n|(?<=\n\n) +', '\n\n', text)

# what isn't here is left out
MAN_SIGNS = {'-': '-', 'e': '\\', ' ': ' ', '(aq': "'", '(dq': '"', '(co': '(c)', '(lq': '"', '(rq': '"',
             '(bu': '*', '(em': '--', '(en': '-', '(ha': '^', '(ti': '~', '(rs': '\\'}

def man_text(page: str) -> str:
    """The text of a manual page in roff: its macros' words, without fonts and definitions."""
    page = re.sub(r'^\.(de|ig) .*?^\.\.$', '', page, flags=re.M | re.S)
    lines = []
    for line in page.splitlines():
        macro = re.match(r"[.'] *(\w*)[ \t]*(.*)", line)
        if macro:
            name, words = macro.groups()
            if name in ('SH', 'SS', 'PP', 'P', 'LP', 'TP', 'IP', 'HP', 'Sp', 'sp'):
                lines.append('')
            if name not in ('SH', 'SS', 'IP', 'B', 'I', 'BR', 'RB', 'BI', 'IB', 'IR', 'RI', 'SM', 'SB'):
                continue
            line = words.replace('"', '') if name in ('SH', 'SS', 'B', 'I') else words
        lines.append(line)
    text = re.sub(r'\\".*|\\f(\[\w*\]|\(\w\w|\w)|\\s[-+]?\d', '', '\n'.join(lines))
    return re.sub(r'\\(\(..|.)', lambda sign: MAN_SIGNS.get(sign[1], ''), text)

# documents

def arrange(pages: dict[str, str], once: bool, val_tokens: int = VAL_TOKENS) -> list[str]:
    """The documents of the corpus, in its order: first those that are held out.

    once: a paragraph that came already, in whatever case and punctuation, is left out.
    """
    documents = {}
    seen = set()
    # By name, so that the pages with the first "See also" aren't all in the validation set.
    for name in sorted(pages):
        paragraphs = []
        for paragraph in re.split(r'\n\s*\n', pages[name]):
            key = hashed(' '.join(re.findall(r'\w+', paragraph.lower())))
            if not (once and key in seen):
                paragraphs.append(paragraph.strip('\n'))
            seen.add(key)
        for number, text in enumerate(cut(paragraphs)):
            if len(text) >= SHORTEST:
                documents[f'{name} {number}'] = text
    texts = [documents[name] for name in sorted(documents, key=hashed)]
    return hold_out(texts, val_tokens)

def cut(paragraphs: list[str], longest: int = LONGEST) -> list[str]:
    """Paragraphs joined to documents of about `longest` characters at most: a dictionary is one file."""
    found = ['']
    for paragraph in paragraphs:
        if len(found[-1]) + len(paragraph) > longest and found[-1]:
            found.append('')
        found[-1] += paragraph + '\n\n'
    return [text.rstrip() + '\n' for text in found]

def n_tokens(text: str) -> int:
    """Tokens of a document: its bytes and end-of-text."""
    return len(text.encode()) + 1

def hold_out(texts: list[str], wanted: int) -> list[str]:
    """The texts with the first ones cut to `wanted` tokens in all: what the last of them has beyond is left
    out, so that the shard ends where a document does."""
    total = 0
    for i, text in enumerate(texts):
        room = wanted - total - 1
        total += n_tokens(text)
        if total >= wanted:
            held_out = text.encode()[:room].decode(errors='ignore')
            # a character of several bytes may have stood at the end
            held_out += '\n' * (room - len(held_out.encode()))
            return [*texts[:i], held_out, *texts[i + 1 :]]
    raise UserError(f'the corpus holds {total} tokens, and {wanted} are for validation')

if __name__ == '__main__':
    run_main(main)
