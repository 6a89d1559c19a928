"""The site: what its pages say, that everything they name is on disk, and what is left alone where it is written."""

import html.parser
import json
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from qrpo_lib.paper import claims, style
from qrpo_lib.runs import folders, paths
from qrpo_lib.suite import cli, notebooks, own_folder
from qrpo_lib.suite import site as report
from qrpo_lib.suite.site import gallery, ledger, pages

ROOT = paths.PACKAGE.parent
WIDE = " ".join(["a_very_long_word_without_any_break" * 6] * 2)


class _Page(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values.get("id")}
        self.links += [values[name] for name in ("href", "src") if values.get(name)]
        if tag in ("img", "script", "iframe", "link") and values.get("rel") != "canonical":
            self.loaded += [values[name] for name in ("href", "src") if values.get(name)]


def broken_links(folder):
    """Links of a site's pages that lead nowhere on disk, and what they load from elsewhere."""
    read = {path: _Page(path) for path in folder.rglob("*.html")}
    assert read
    broken = []
    for path, page in read.items():
        for link in page.links:
            file, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                broken += [(path.name, link)] if link in page.loaded and not link.startswith("data:") else []
                continue
            target = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if not target.is_file() or (anchor and target in read and unquote(anchor) not in read[target].ids):
                broken.append((path.name, link))
    return broken


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of a project with two notebooks, of which one was executed, and a page."""
    root = tmp_path_factory.mktemp("project").resolve()
    patch = pytest.MonkeyPatch()
    patch.setenv("QRPO_ROOT", str(root))
    patch.delenv("QRPO_RUNS", raising=False)
    for folder in ("notebooks/theory", "docs", "code/inner"):
        (root / folder).mkdir(parents=True)
    (root / "code" / "loss.py").write_text('"""The loss.\n\nMore."""\nx = "<b>&"\n')
    links = "[code](../code/loss.py) [folder](../code) [numbers](../figures/tiny/chat/figure-1.csv) [all](../figures)"
    links += " [another](../notebooks/theory/third.ipynb)"
    picture = "![A line](../figures/tiny/chat/figure-1.png) [notebook](../notebooks/theory/first.ipynb)"
    texts = {"index.md": f"# Start\n\n<!-- verdict counts -->\n\n<!-- failures -->\n\n{links}\n\n{picture}\n"}
    texts["walk.md"] = "# Walk\n\n[start](index.md#start) and `[no](../code)`\n\n```\n[no](../code)\n```\n"
    texts["walk.md"] += "\nA fence is ```` ```python ```` and [`code`](../code/loss.py).\n"
    texts["walk.md"] += "\n1. One\n\n    [two](../code)\n"
    for name, text in texts.items():
        (root / "docs" / name).write_text(text)
    v4 = nbformat.v4
    cells = [
        v4.new_markdown_cell(
            "# A title\n\nInline $\\beta \\log Z$ and `code $x$`, [the walk](../../docs/walk.md)\n\n"
            "$$\\int_0^1 e^t dt$$"
        ),
        v4.new_code_cell("import a"),
        v4.new_code_cell(
            "frame", outputs=[v4.new_output("execute_result", {"text/html": table(), "text/plain": "frame"})]
        ),
        v4.new_code_cell("print(1)", outputs=[v4.new_output("stream", text=f"\x1b[31m{WIDE}\x1b[0m")]),
        v4.new_code_cell("1 / 0", outputs=[v4.new_output("error", ename="Oh", evalue="<no>", traceback=[])]),
    ]
    third = [v4.new_markdown_cell("# Third\n\n$\\beta$, [code](../../code/inner)"), v4.new_code_cell("third = 3")]
    nbformat.write(v4.new_notebook(cells=third), root / "notebooks" / "theory" / "third.ipynb")
    for name in ("first", "second"):
        nbformat.write(v4.new_notebook(cells=cells), root / "notebooks" / "theory" / f"{name}.ipynb")
    jobs = [notebooks.Job(f"theory/{name}[arm, 1]", f"theory/{name}") for name in ("first", "second")]
    of_smol = [notebooks.Job(f"theory/first[{arm}]", "theory/first", {"arm": arm}) for arm in ("code", "unexecuted")]
    of_profile = {"tiny": jobs, "smol": [jobs[0], *of_smol]}
    patch.setattr(notebooks, "jobs", lambda profile: of_profile.get(profile, []))

    def make(folder):
        nbformat.write(v4.new_notebook(cells=cells), folder / notebooks.EXECUTED)

    for job in (jobs[0], of_smol[0]):
        folders.complete(job.step, make)
    (root / "figures" / "smol").mkdir(parents=True)
    chat = root / "figures" / "tiny" / "chat"
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    style.save(figure, "figure-1", pd.DataFrame({"x": [1]}), chat)
    style.save_table("table-2", pd.DataFrame({"x": [1]}), "| x |\n|---|\n| 1 |", chat)
    style.save_table("table-3", pd.DataFrame({"x": [1]}), "| x |\n|---|\n| 1 |", chat)
    plt.close(figure)
    judged = claims.Ledger(chat, "tiny, chat")
    judged.judge("z-is-the-mgf", 0.0, WIDE)
    judged.judge("kl-linear", 1.0, "<i>of order 2</i>")
    judged.judge("kl-derived", {"deviation_of_the_order": 0.0, "deviation_of_the_constant": 0.0}, evidence="table-2")
    made = {"made_by": jobs[0].id, "inputs": jobs[0].step.key, "sha256": "0"}
    (root / "figures" / "manifest.json").write_text(json.dumps({"tiny/chat/figure-1.png": made}))
    page = report.build("tiny", root / "report")
    yield page
    patch.undo()


def table():
    return pd.DataFrame([[WIDE] * 12], columns=[f"column {i}" for i in range(12)]).to_html()


def text_of(site, name="index.html"):
    return (site.parent / name).read_text(encoding="utf-8")


def test_every_link_leads_somewhere_on_disk(site):
    names = {path.relative_to(site.parent).as_posix() for path in site.parent.rglob("*.html")}
    written = {"index.html", "walk.html", "ledger.html", "figures.html"}
    executed = {f"notebooks/theory-{name}-arm-1.html" for name in ("first", "second")}
    executed |= {"notebooks/smol/theory-first-code.html"}
    sources = {"source/code.html", "source/code/loss.py.html", "source/code/inner.html"}
    assert names == written | executed | sources | {"source/notebooks/theory/third.ipynb.html"}
    assert broken_links(site.parent) == []
    assert not list(site.parent.glob("sitemap*"))


def test_links_to_the_project_lead_to_pages_of_the_site(site):
    start = text_of(site)
    for place in ("source/code/loss.py.html", "source/code.html", "figures/tiny/chat/figure-1.csv", "figures.html"):
        assert f'href="{place}"' in start, place
    assert 'href="notebooks/theory-first-arm-1.html"' in start
    assert "&lt;b&gt;&amp;" in text_of(site, "source/code/loss.py.html")
    assert "<code>loss.py</code>: The loss." in text_of(site, "source/code.html")
    walk = text_of(site, "walk.html")
    assert walk.count("[no](../code)") == 2  # code is left as it is
    assert walk.count('href="source/code/loss.py.html"') == walk.count('href="source/code.html"') == 1
    assert 'href="../walk.html"' in text_of(site, "notebooks/theory-first-arm-1.html")


def test_a_notebook_that_is_no_step_is_read_as_a_notebook(site):
    page = text_of(site, "source/notebooks/theory/third.ipynb.html")
    assert "<math" in page
    assert "cell_type" not in page
    assert 'href="../../code/inner.html"' in page


def test_what_failed_and_what_was_not_run_are_said(site):
    start, verdicts = text_of(site), text_of(site, "ledger.html")
    assert "2 verdicts on 2 claims of the paper: 1 supported, 1 contradicted; 1 on 1 questions of our own" in verdicts
    for verdict, count in {"supported": 1, "contradicted": 1, "undecided": 0, "not testable": 0}.items():
        assert f"<strong>{count}</strong> {verdict}</a>" in start
    assert claims.get("kl-linear").statement in html.unescape(start)
    assert claims.get("z-is-the-mgf").statement not in start
    assert "Not executed here" in text_of(site, "notebooks/theory-second-arm-1.html")
    assert "Not executed here" not in text_of(site, "notebooks/theory-first-arm-1.html")
    assert html.escape(claims.get("kl-linear").rule) in verdicts
    assert "<i>of order 2</i>" not in verdicts
    assert "&lt;i&gt;of order 2&lt;/i&gt;" in verdicts
    assert html.escape(claims.not_examined()[0].statement) in verdicts


def test_a_project_without_a_first_page_gets_one(site):
    judged = claims.recorded(paths.project_root() / "figures")
    text = ledger.first_page("A project", judged)
    assert text.startswith("# A project")
    assert "kl-linear-tiny-chat" in text
    assert ledger.failures([one for one in judged if one.id != "kl-linear"]) == "No claim of the paper is contradicted."


def test_a_notebook_shows_its_outputs_and_folds_its_code(site):
    page = text_of(site, "notebooks/theory-first-arm-1.html")
    assert page.count("<math") == 2
    assert '<span class="nb">print' in page
    assert re.search(r'class="[^"]*printed[^"]*highlight', page)  # its long lines are wrapped
    assert page.count("<summary>Code</summary>") == 3  # cells without outputs share a box with the next
    assert "\x1b" not in page
    assert "Oh: &lt;no&gt;" in page
    assert "<td>a_very_long" in page


def test_the_figures_page_has_pictures_tables_and_their_files(site):
    page = text_of(site, "figures.html")
    assert 'src="figures/tiny/chat/figure-1.png"' in page
    assert 'href="notebooks/theory-first-arm-1.html">notebook</a>' in page
    for words in gallery.caption("figure-1"):
        assert words in html.unescape(page), words
    for suffix in ("png", "pdf", "csv"):
        assert f'href="figures/tiny/chat/figure-1.{suffix}"' in page
        assert (site.parent / f"figures/tiny/chat/figure-1.{suffix}").is_file()
    assert re.search(r"<th>x</th>.*<td>1</td>", page, re.DOTALL)
    assert page.count("<td>1</td>") == 1  # table 3 is the same
    assert 'href="#tiny-chat-table-2">The same as above' in page


def test_pictures_keep_their_place_and_have_letters_of_one_size(site):
    """As wide as they were drawn, 100 pixels an inch (matplotlib's figures have 6.4 by 4.8 inches)."""
    for name in ("index.html", "figures.html"):
        (picture,) = re.findall("<img [^>]*>", text_of(site, name))
        assert 'width="640"' in picture
        assert 'height="480"' in picture


def test_every_section_of_an_examined_claim_says_what_it_is_about():
    for claim in claims.catalogue().values():
        assert claim.not_examined or claim.section in ledger._SUBJECTS, claim.section


def test_a_verdict_leads_to_its_evidence(site):
    assert f'href="{gallery.PAGE}#tiny-chat-table-2"' in text_of(site, "ledger.html")
    assert 'id="tiny-chat-table-2"' in text_of(site, "figures.html")


def test_ids_of_claims_lead_to_their_verdicts(site):
    judged = claims.recorded(site.parent.parent / "figures", "kl-linear")
    text = "`kl-linear`, [`kl-linear`](x.md) and `no-claim`"
    linked = ledger.with_links(text, judged, "claims.md")
    assert linked == "[`kl-linear`](claims.md#kl-linear-tiny-chat), [`kl-linear`](x.md) and `no-claim`"


def test_executed_notebooks_of_other_profiles_are_there_once(site):
    other = text_of(site, "notebooks/smol/theory-first-code.html")
    assert "Not executed here" not in other
    assert "Profile smol" in other
    assert not list(site.parent.rglob("*unexecuted*"))
    assert len(list(site.parent.rglob("*theory-first-arm-1.html"))) == 1


def test_every_committed_figure_and_table_has_a_caption_and_every_error_bar_a_name():
    committed = {path for path in (ROOT / "figures").rglob("*") if path.suffix in (".png", ".md")}
    for path in committed:
        title, text = gallery.caption(path.stem)
        assert text, f"{path.name}: say what it shows in site/captions.toml"
        assert title != path.stem.replace("-", " ").capitalize() or not path.stem.startswith("beyond")
    columns = {
        path: path.with_suffix(".csv").read_text().splitlines()[0].split(",")
        for path in committed
        if path.suffix == ".png"
    }
    with_bars = [
        path for path, names in columns.items() if {"error", "low", "gain_low"} & {*names} and "density" not in names
    ]
    assert len(with_bars) > 10
    for path in with_bars:
        assert re.search(
            r"standard error|95 % interval|simulated", " ".join(gallery.caption(path.stem)), re.IGNORECASE
        ), path


def test_a_name_with_a_star_stands_for_its_versions():
    assert gallery.caption("figure-3-lr-0.0002")[0] == "Figure 3 at one learning rate"
    assert "n references" in gallery.caption("figure-3-lr-0.0002-finite")[0]
    assert gallery.caption("figure-3-best") != gallery.caption("figure-3-lr-1")
    assert gallery.caption("somebodys-own") == ("Somebodys own", "")


def test_formulas_become_mathml_and_code_does_not():
    made = pages.with_mathml("Let $n + 1$ be, see `a $b$ c`.\n\n```\n$x$\n```\n$$\\frac{1}{2}$$ and $5")
    assert made.count("<math") == 2
    assert 'display="block"' in made
    assert "`a $b$ c`" in made
    assert "```\n$x$\n```" in made
    assert made.endswith("and $5")


def test_names_of_functions_stand_apart_and_indices_stay_two():
    made = pages.with_mathml(r"$\beta \log Z - \log(x) + \log_{10} y + x_{\max} + \frac{\log a}{b}$")
    assert made.count("<mspace") == 3  # before and after the first, in the fraction; none before a sign or a bracket
    tree = ElementTree.fromstring(made)
    for kind, children in {"msub": 2, "mfrac": 2}.items():
        found = [one for one in tree.iter() if one.tag.endswith(kind)]
        assert found
        assert {len(one) for one in found} == {children}
    assert "mspace" not in pages.with_mathml("$x + y$")
    assert not re.search(r"[*_`]", pages.with_mathml(r"$\pi^* / \pi^*, a\_b$"))  # Markdown would make words slanted


def test_a_report_is_written_over_a_report_and_over_nothing_else(site, tmp_path):
    before = {path: path.read_bytes() for path in site.parent.rglob("*") if path.is_file()}
    (site.parent.parent / "docs" / "walk.md").touch()  # else it would be left as it is
    times = site.stat().st_mtime_ns
    again = report.build("tiny", site.parent)
    assert again == site
    assert site.stat().st_mtime_ns > times
    after = {path: path.read_bytes() for path in site.parent.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert [path.name for path in after if after[path] != before[path]] == [own_folder.MARKER]
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds files that `qrpo report` did not write"):
        report.build("tiny", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_web_site_of_somebody_elses_is_left_alone(site, tmp_path, capsys):
    www = tmp_path / "www"
    www.mkdir()
    (www / "index.html").write_text("my page")
    (www / "CNAME").write_text("example.org")
    assert cli.main(["report", "--output", str(www)]) == 2
    assert "did not write" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in www.iterdir()} == {"index.html": "my page", "CNAME": "example.org"}
    assert [path.name for path in tmp_path.iterdir()] == ["www"]  # and nothing beside it, such as `.www.partial`
    (tmp_path / ".new.partial").mkdir()
    (tmp_path / ".new.partial" / "mine").touch()
    (tmp_path / "new").mkdir()
    assert report.build("tiny", tmp_path / "new").is_file()  # empty folders are filled
    assert (tmp_path / ".new.partial" / "mine").exists()


def test_what_was_put_into_a_report_stays(site, tmp_path):
    folder = tmp_path / "site"
    with own_folder.filling(folder, "qrpo report") as new:
        (new / "figures").mkdir()
        for name in ("old.html", "figures/old.png", "figures/edited.png"):
            (new / name).write_text("old")
    (folder / "CNAME").write_text("example.org")
    (folder / "figures" / "edited.png").write_text("mine now")
    report.build("tiny", folder)
    assert (folder / "CNAME").read_text() == "example.org"
    assert (folder / "figures" / "edited.png").read_text() == "mine now"
    assert not (folder / "old.html").exists()
    assert not (folder / "figures" / "old.png").exists()
    assert not list(folder.glob(".*partial"))


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_in_the_way_stops_the_report_before_anything_changes(site, tmp_path, linked):
    folder, outside = tmp_path / "site", tmp_path / "outside"
    with own_folder.filling(folder, "qrpo report") as new:
        (new / "old.html").write_text("old")
    outside.mkdir()
    if linked:
        (folder / "figures").symlink_to(outside)
    else:
        (folder / "index.html").write_text("mine")
    before = {path.name: path.is_file() and path.read_text() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"is a link|was not written by `qrpo report`"):
        report.build("tiny", folder)
    assert {path.name: path.is_file() and path.read_text() for path in folder.iterdir()} == before
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    "marker",
    ["", "[]", '{"made_by": "qrpo report", "files": {"../thesis.txt": "0"}}', '{"made_by": "other", "files": {}}'],
)
def test_a_marker_that_is_none_is_no_permission(site, tmp_path, marker):
    folder = tmp_path / "site"
    folder.mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    (folder / own_folder.MARKER).write_text(marker)
    with pytest.raises(ValueError, match="cannot be read"):
        report.build("tiny", folder)
    assert (tmp_path / "thesis.txt").exists()
    assert [path.name for path in folder.iterdir()] == [own_folder.MARKER]


def test_a_report_that_fails_leaves_what_was_there(site, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "page", lambda judged, addresses: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.build("tiny", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (site.parent.parent / "docs" / "walk.md").touch()  # else it would be left as it is
    before = {path: path.is_file() and path.read_bytes() for path in site.parent.rglob("*")}
    with pytest.raises(ZeroDivisionError):
        report.build("tiny", site.parent)
    assert {path: path.is_file() and path.read_bytes() for path in site.parent.rglob("*")} == before


@pytest.mark.parametrize("output", ["", "file", "/"])
def test_an_output_that_is_no_folder_to_fill_is_one_sentence(site, tmp_path, monkeypatch, capsys, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    assert cli.main(["report", "--output", output]) == 2
    assert "folder" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_any_result_there_is_no_report(tmp_path, runs_folder, capsys, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    monkeypatch.setattr(notebooks, "jobs", lambda profile: [])
    assert cli.main(["report", "--output", str(tmp_path / "out")]) == 2
    assert "run `qrpo reproduce` first" in " ".join(capsys.readouterr().out.split())


def test_the_package_holds_what_pages_load():
    assert {path.suffix for path in report._ASSETS.iterdir()} == {".css", ".js"}
    declared = (Path(report.__file__).parents[3] / "pyproject.toml").read_text()
    assert all(f'"*{suffix}"' in declared for suffix in (".css", ".js"))
