"""
The text functions of dev/make_docs_corpus.py, on small archives made here.

    python -m pytest tests/whole/test_docs_corpus.py
"""

import gzip
import io
import lzma
import re
import tarfile

import pytest

from dev import make_docs_corpus as corpus

def make_tar(files: dict[str, bytes]) -> bytes:
    """A tar archive as a .deb holds it: names begin with ./"""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as tar:
        for name, content in files.items():
            member = tarfile.TarInfo('./' + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()

def read(files: dict[str, bytes], patterns: list[str], share: int = 1) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(make_tar(files))) as tar:
        return dict(corpus.read_pages(tar, patterns, share))

def test_html_loses_its_markup_and_keeps_its_paragraphs_and_code():
    page = '''<html><head><title>No</title><style>p {no: no}</style><script>no < 1</script></head><body>
        <h1>Grow<a href="#x">¶</a></h1><p>A <b>bold</b>
        step &amp; one&nbsp;more.</p><table><tr><td>a</td><td>b</td></tr></table>
        <pre>if x:\n    y</pre><p>End</p></body></html>'''
    paragraphs = [part.strip('\n') for part in re.split(r'\n\n+', corpus.html_text(page)) if part.strip()]
    assert paragraphs == ['Grow', 'A bold step & one more.', 'a b', 'if x:\n    y', 'End']

def test_man_page_loses_its_macros_and_keeps_their_words():
    page = ('.\\" a comment\n.de Vb\n.ft CW\nno\n..\n.if n .ds no no\n.TH GROW 1 2020 no\n.SH "THE NAME"\n'
            'grow \\- a \\fBdeep\\fR model\n.PP\nUse\n.B "\\-\\-depth"\n\\(aqall\\(aq.\n')
    assert re.sub(r'\n\n+', '\n\n', corpus.man_text(page)).strip() == (
        "THE NAME\ngrow - a deep model\n\nUse\n--depth\n'all'.")

def test_package_gives_the_files_that_match_uncompressed_and_of_an_archive_inside():
    inner = make_tar({'linux/a.c': b'int a;', 'linux/a.h': b'no'})
    files = {'usr/doc/html/x.html': b'<p>x</p>', 'usr/doc/html/genindex.html': b'no',
             'usr/doc/y.txt.gz': gzip.compress(b'y'), 'usr/man/man1/z.1.gz': gzip.compress(b'.SH Z\n'),
             'usr/doc/d.dict.dz': gzip.compress(b'd'), 'usr/src/l.tar.xz': lzma.compress(inner)}
    found = read(files, ['*/html/*.html', '*.txt.gz', '*/man/man?/*.gz', '*.dict.dz', '*.c'])
    assert {name: text.strip() for name, text in found.items()} == {
        'usr/doc/html/x.html': 'x', 'usr/doc/y.txt.gz': 'y', 'usr/man/man1/z.1.gz': 'Z',
        'usr/doc/d.dict.dz': 'd', 'linux/a.c': 'int a;'}

def test_share_takes_about_that_part_of_the_files_whatever_else_is_there():
    files = {f'{i}.c': b'' for i in range(400)}
    found = read(files, ['*.c'], share=4)
    assert 70 < len(found) < 130
    assert set(read(dict(list(files.items())[:200]), ['*.c'], share=4)) == {
        name for name in found if int(name[:-2]) < 200}

def make_pages(n: int) -> dict[str, str]:
    """n pages of 300 words of their own, with one paragraph that stands in all of them."""
    pages = {}
    for i in range(n):
        words = ' '.join(f'w{i}x{j}' for j in range(300))
        pages[f'{i:03}.html'] = f'Shared, in all.\n\n{words}'
    return pages

def test_paragraph_counts_once_whatever_its_case_and_markup():
    pages = make_pages(20)
    pages['999.rst'] = '*Shared* in ALL\n\n' + pages['007.html'].split('\n\n')[1].upper()
    once = corpus.arrange(pages, once=True, val_tokens=5000)
    assert len(once) == 20
    assert sum('shared' in text.lower() for text in once) <= 1
    assert len(corpus.arrange(pages, once=False, val_tokens=5000)) == 21

def test_order_and_held_out_documents_depend_on_the_names_alone():
    pages = make_pages(50)
    texts = corpus.arrange(pages, once=True, val_tokens=5000)
    assert corpus.arrange(dict(reversed(pages.items())), once=True, val_tokens=5000) == texts
    first = [int(text.split()[-1].split('x')[0][1:]) for text in texts]
    assert sorted(first) == list(range(50)) != first
    # the first documents are 5000 tokens exactly, and all but the last of them are whole
    sizes = [corpus.n_tokens(text) for text in texts]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    assert 5000 in ends
    whole = [page.split('\n\n')[1] for page in pages.values()]
    for i, text in enumerate(texts):
        assert (text.split('\n\n')[-1].strip() in whole) == (ends[i] != 5000)

@pytest.mark.parametrize('wanted', range(6, 12))
def test_held_out_size_is_exact_within_a_character_of_several_bytes(wanted):
    texts = corpus.hold_out(['abcd', 'ééé', 'rest'], wanted)
    assert sum(corpus.n_tokens(text) for text in texts[:2]) == wanted
    assert (texts[0], texts[2]) == ('abcd', 'rest')

def test_long_file_is_cut_at_paragraphs():
    paragraphs = [f'{i} ' * 20 for i in range(10)]
    found = corpus.cut(paragraphs, longest=100)
    assert ''.join(found).split() == ' '.join(paragraphs).split()
    assert len(found) == 5 and all(len(text) <= 102 for text in found)

def test_every_package_stands_in_the_table_with_version_and_checksum():
    rows = re.findall(r'^\| (\S+) \| \S+ \| [0-9a-f]{64} \|$', corpus.TABLE.read_text(), re.M)
    assert sorted(rows) == sorted({**corpus.DOCS, **corpus.CODE})
