"""Markdown of the site: what its pages make of pictures, of files that are no text, of code and of words."""

import base64
import html
import re
import shutil
from pathlib import Path

import markdown
import nbformat
import pytest
from PIL import Image

from qrpo_lib.runs import paths
from qrpo_lib.suite import site
from qrpo_lib.suite.site import gallery, notebook_pages
from qrpo_lib.suite.site.pages import Pages, picture, with_mathml

FIGURES = paths.PACKAGE.parent / "figures"


@pytest.fixture
def pages(tmp_path):
    """The pages of a project with a page and a folder of code."""
    for name in ("docs", "code"):
        (tmp_path / "project" / name).mkdir(parents=True)
    return Pages(tmp_path / "project", tmp_path / "site", {})


def test_a_picture_beside_a_page_is_copied_and_shown_in_its_size(pages):
    Image.new("RGB", (30, 20)).save(pages.root / "docs" / "p.png", dpi=(100, 100))
    (pages.root / "docs" / "p.svg").write_text("<svg/>")
    pages.write_file(pages.root / "docs" / "walk.md", "walk.md", "![p](p.png) ![p](p.svg)\n")
    pages.write_linked_sources()
    text = (pages.folder / "walk.md").read_text()
    assert text == "![p](source/docs/p.png){ width=30 height=20 } ![p](source/docs/p.svg)\n"
    for name in ("p.png", "p.svg"):
        copied = pages.folder / "source" / "docs" / name
        assert copied.read_bytes() == (pages.root / "docs" / name).read_bytes()


@pytest.mark.parametrize("place", ["gone.png", "attachment:p.png", "https://example.org/p.png"])
def test_a_picture_that_is_no_file_here_is_left_alone(pages, place):
    pages.write_file(pages.root / "docs" / "walk.md", "walk.md", f"![p]({place})\n")
    assert (pages.folder / "walk.md").read_text() == f"![p]({place})\n"


def test_a_linked_file_that_is_no_text_is_copied(pages):
    (pages.root / "code" / "weights.bin").write_bytes(b"\xff\xfe\x00\x80")
    pages.write_file(pages.root / "docs" / "walk.md", "walk.md", "[weights](../code/weights.bin)\n")
    pages.write_linked_sources()
    assert (pages.folder / "walk.md").read_text() == "[weights](source/code/weights.bin)\n"
    assert (pages.folder / "source" / "code" / "weights.bin").read_bytes() == b"\xff\xfe\x00\x80"


def rendered(text):
    return markdown.markdown(text, extensions=site._EXTENSIONS)


@pytest.mark.parametrize("backticks", ["```", "````", "`````python"])
def test_a_line_of_backticks_ends_no_block_of_code(pages, backticks):
    """In a linked file, a linked notebook, the code of a cell, and what a cell printed."""
    code = f'text = """\n{backticks}\nmore\n{backticks}\n"""\nlast = 1'
    v4 = nbformat.v4
    (pages.root / "code" / "loss.py").write_text(code)
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(code)]), pages.root / "code" / "look.ipynb")
    pages.write_file(pages.root / "docs" / "walk.md", "walk.md", "[a](../code/loss.py) [b](../code/look.ipynb)\n")
    pages.write_linked_sources()
    written = [(pages.folder / "source" / "code" / f"{name}.md").read_text() for name in ("loss.py", "look.ipynb")]
    for text in [*written, notebook_pages._folded("Code", code), notebook_pages._verbatim(code)]:
        (block,) = re.findall("<pre.*?</pre>", rendered(text), re.DOTALL)
        assert html.unescape(re.sub("<[^>]*>", "", block)).strip() == code


def test_a_picture_is_described_in_the_words_of_its_caption(pages):
    """On the page of figures and on that of a notebook, for every committed figure."""
    drawn = pages.root / "figures" / "drawn.png"
    drawn.parent.mkdir()
    Image.new("RGB", (1, 1)).save(drawn)
    encoded = base64.b64encode(drawn.read_bytes()).decode()
    stems = sorted({path.stem for path in FIGURES.rglob("*.png")})
    captions = {stem: ". ".join(gallery.caption(stem)) for stem in stems}
    assert all(any(sign in said for said in captions.values()) for sign in "%'")
    for stem, said in captions.items():
        shown = gallery._shown(pages, Path(shutil.copyfile(drawn, drawn.with_stem(stem))))
        below = nbformat.v4.new_output("display_data", {"text/html": f"The numbers under this figure: {stem}.csv"})
        above = nbformat.v4.new_output("display_data", {"image/png": encoded})
        (words, _) = notebook_pages._alternatives([above, below], "A heading")
        in_notebook = notebook_pages._output(pages, "notebooks/a.md", above, "0-0", words)
        for text in (shown, in_notebook):
            (alternative,) = re.findall('alt="([^"]*)"', rendered(with_mathml(text)))
            assert html.unescape(alternative) == said


def test_words_for_a_picture_keep_signs_that_markdown_reads():
    said = '`a` [b](c) $d$ and $e$, *f* __g__ <i> & "h" {i} \\* ± 95 % k/l'
    (alternative,) = re.findall('alt="([^"]*)"', rendered(with_mathml(picture("p.png", said))))
    assert html.unescape(alternative) == said
