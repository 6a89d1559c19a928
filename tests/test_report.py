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

from qrpo_lib import claim_views, claims, cli, plots, report, runs, suite

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
    again = report.build("tiny", site.parent)
    assert again == site
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="something else than a report"):
        report.build("tiny", tmp_path)
    assert (tmp_path / "thesis.txt").exists()


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
