import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from qrpo_lib import claim_views, claims, cli, own_folder, plots, report, runs, suite

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDE = " ".join(["a_very_long_word_without_any_break" * 6] * 2)


class _Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def links(page):
    parser = _Links()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of a project with two notebooks, of which one was executed."""
    root = tmp_path_factory.mktemp("project")
    patch = pytest.MonkeyPatch()
    patch.setenv("QRPO_ROOT", str(root))
    patch.delenv("QRPO_RUNS", raising=False)
    (root / "notebooks" / "theory").mkdir(parents=True)
    v4 = nbformat.v4
    for name in ("first", "second"):
        nbformat.write(v4.new_notebook(), root / "notebooks" / "theory" / f"{name}.ipynb")
    jobs = [suite.Job(f"theory/{name}[arm, 1]", f"theory/{name}") for name in ("first", "second")]
    patch.setattr(suite, "jobs", lambda profile: jobs)
    cells = [
        v4.new_markdown_cell(
            "# A title\n\nInline $\\beta \\log Z$ and `code $x$`, and\n\n$$\\int_0^1 e^{t/\\beta} dt$$"
        ),
        v4.new_code_cell(
            "frame", outputs=[v4.new_output("execute_result", {"text/html": table(), "text/plain": "frame"})]
        ),
        v4.new_code_cell("print(1)", outputs=[v4.new_output("stream", text=WIDE)]),
    ]

    def make(folder):
        nbformat.write(v4.new_notebook(cells=cells), folder / suite.EXECUTED)
        figure, axis = plt.subplots()
        axis.plot([0, 1])
        plots.save(figure, "figure-1", pd.DataFrame({"x": [1]}), folder / "figures" / "tiny" / "chat")
        plots.save_table(
            "table-2", pd.DataFrame({"x": [1]}), "| x |\n|---|\n| 1 |", folder / "figures" / "tiny" / "chat"
        )
        plt.close(figure)
        ledger = claims.Ledger(folder / "figures" / "tiny" / "chat", "tiny, chat")
        ledger.judge("z-is-the-mgf", 0.0, WIDE)
        ledger.judge("kl-linear", 1.0, "<i>of order 2</i>")
        ledger.judge("kl-derived", {"deviation_of_the_order": 0.0, "deviation_of_the_constant": 0.0})

    runs.complete(jobs[0].step, make)
    page = report.build("tiny", root / "report")
    yield page
    patch.undo()


def table():
    return pd.DataFrame([[WIDE] * 12], columns=[f"column {i}" for i in range(12)]).to_html()


def test_every_link_leads_somewhere_on_disk(site):
    pages = sorted(site.parent.glob("*.html"))
    assert [page.name for page in pages] == ["index.html", "theory-first-arm-1.html"]
    for page in pages:
        for link in links(page):
            if link.startswith("#") and page == site:
                assert f'id="{link[1:]}"' in site.read_text(encoding="utf-8"), link
            if not link.startswith(("data:", "#")):
                assert not re.match(r"\w+:", link), f"{page.name} loads {link} from elsewhere"
                assert (page.parent / unquote(link)).is_file(), link


def test_what_failed_and_what_was_not_run_are_said(site):
    text = site.read_text(encoding="utf-8")
    assert "2 verdicts on claims of the paper: 1 supported, 1 contradicted; 1 on our own questions" in text
    for verdict in ("supported", "contradicted"):
        assert claim_views.badge(verdict) in text
    assert "theory/second[arm, 1]: not executed yet" in text
    assert claims.get("kl-linear").rule in text
    assert "<i>of order 2</i>" not in text
    assert "&lt;i&gt;of order 2&lt;/i&gt;" in text


def test_formulas_become_mathml_and_code_does_not():
    made = report.with_mathml("Let $n + 1$ be, see `a $b$ c`.\n\n```\n$x$\n```\n$$\\frac{1}{2}$$ and $5")
    assert made.count("<math") == 2
    assert 'display="block"' in made
    assert "`a $b$ c`" in made
    assert "```\n$x$\n```" in made
    assert made.endswith("and $5")


def test_a_report_is_written_over_a_report_and_over_nothing_else(site, tmp_path):
    before = {path: path.read_bytes() for path in site.parent.rglob("*") if path.is_file()}
    again = report.build("tiny", site.parent)
    assert again == site
    assert {path: path.read_bytes() for path in site.parent.rglob("*") if path.is_file()} == before
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
    monkeypatch.setattr(report, "_ledger_html", lambda ledger: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.build("tiny", tmp_path / "new")
    assert not (tmp_path / "new").exists()
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


def test_without_executed_notebooks_there_is_no_report(tmp_path, runs_folder, capsys):
    assert cli.main(["report", "--output", str(tmp_path / "out")]) == 2
    assert "run `qrpo reproduce` first" in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser_images_load_and_pages_fit_a_phone(site):
    """Each page in a frame as wide as a phone: no sideways scrolling of the page, every image decoded."""
    names = sorted(page.name for page in site.parent.glob("*.html"))
    frames = "".join(f'<iframe src="{name}" width="390" height="800"></iframe>' for name in names)
    script = """
    addEventListener("load", () => {
      const found = [...document.querySelectorAll("iframe")].map(frame => {
        const page = frame.contentDocument;
        return {name: frame.getAttribute("src"), width: page.documentElement.scrollWidth,
                images: [...page.images].map(image => image.naturalWidth),
                math: page.querySelectorAll("math").length};
      });
      document.body.innerHTML = "<pre id=found>" + JSON.stringify(found) + "</pre>";
    });"""
    wrapper = site.parent / "phone-test.htm"
    wrapper.write_text(f"<!doctype html><body>{frames}<script>{script}</script></body>", encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--window-size=1200,900", "--virtual-time-budget=20000", "--dump-dom", wrapper.as_uri()]
    output = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    wrapper.unlink()
    found = json.loads(re.search(r"<pre id=\"found\">(.*?)</pre>", output, re.DOTALL)[1])
    assert [page["name"] for page in found] == names
    for page in found:
        assert page["width"] <= 390, page
        assert all(width > 0 for width in page["images"]), page
    assert sum(len(page["images"]) for page in found) >= 1
    assert max(page["math"] for page in found) == 2


def test_the_package_holds_the_style():
    assert (Path(report.__file__).parent / "data" / "report.css").is_file()
