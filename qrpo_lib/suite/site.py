"""The results site: executed notebooks, figures, tables and the claims ledger as static HTML that opens from disk.

site.build("tiny", Path("report"))     # or `qrpo report`: then open report/index.html

Nothing is loaded from a network: images are embedded or lie beside the pages, and formulas are MathML.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.paper import claims, claims_page
from qrpo_lib.runs.code_version import package_file
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import notebooks, own_folder
from qrpo_lib.suite.notebooks import Job

if TYPE_CHECKING:
    import nbformat

FIGURES = "figures"
_MAKER = "qrpo report"
_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+(?:\n[^$\n]+)*?)\$", re.DOTALL)
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_STYLE = package_file("report.css")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="stylesheet" href="report.css"></head>
<body><nav><a href="index.html">Overview</a><details><summary>all notebooks</summary>{links}</details></nav>
<h1>{title}</h1>
{body}
</body></html>
"""


def build(profile_name: str, folder: Path) -> Path:
    """Write the site of a profile into `folder`, in place of an earlier one. Returns the path of its first page.

    What has not been executed yet is listed as such. The folder is a new one, an empty one, or one that was written by
    this; what else was put there since stays.

    Raises
    ------
    InputError
        Nothing has been executed yet, or `folder` holds what was not written by this.
    """
    own_folder.check(folder, _MAKER)
    jobs = notebooks.jobs(profile_name)
    executed = [job for job in jobs if (job.step.folder / notebooks.EXECUTED).is_file()]
    if not executed:
        raise InputError(
            f"No notebook of the profile {profile_name!r} has been executed yet: run `qrpo reproduce` first."
        )
    with own_folder.filling(folder, _MAKER) as new:
        _write_site(new, f"QRPO, replicated: {Path(profile_name).stem}", jobs, executed)
    return folder / "index.html"


def _write_site(folder: Path, title: str, jobs: list[Job], executed: list[Job]) -> None:
    import nbformat

    shutil.copyfile(_STYLE, folder / _STYLE.name)
    made = [_copy_figures(job, folder) for job in executed]
    for job in executed:
        notebook = nbformat.read(job.step.folder / notebooks.EXECUTED, as_version=4)
        _write(folder / page_name(job), _title(job), _notebook_html(notebook), executed)
    ledger = claims.recorded(folder / FIGURES)
    with_figures = [(job, files) for job, files in zip(executed, made, strict=True) if files]
    parts = [
        _jumps_html([job for job, _ in with_figures]),
        _ledger_html(ledger),
        _contents_html(jobs, executed),
        *[_gallery_html(job, files) for job, files in with_figures],
    ]
    _write(folder / "index.html", title, "\n".join(parts), executed)


def page_name(job: Job) -> str:
    """The file of a notebook's page."""
    return re.sub(r"[^a-z0-9]+", "-", job.id.lower()).strip("-") + ".html"


def with_mathml(markdown: str) -> str:
    """Markdown with its TeX formulas as MathML, which browsers show without help. Code stays as it is."""
    from latex2mathml.converter import convert

    def formula(match: re.Match) -> str:
        block = match["block"] is not None
        return convert((match["block"] or match["inline"]).strip(), display="block" if block else "inline")

    pieces = _CODE.split(markdown)
    return "".join(piece if i % 2 else _FORMULA.sub(formula, piece) for i, piece in enumerate(pieces))


def _notebook_html(notebook: nbformat.NotebookNode) -> str:
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    colors = HtmlFormatter().get_style_defs(".highlight")
    return f"<style>{colors}</style>\n{_scrolling(body)}"


def _scrolling(body: str) -> str:
    """Tables in boxes of their own that scroll, so that a wide one does not widen the page."""
    return re.sub(r"<table.*?</table>", lambda found: f'<div class="scroll">{found[0]}</div>', body, flags=re.DOTALL)


def _copy_figures(job: Job, folder: Path) -> list[Path]:
    source = job.step.folder / FIGURES
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for path in files:
        target = folder / FIGURES / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return [path.relative_to(source) for path in files]


def _jumps_html(with_figures: list[Job]) -> str:
    """Links to the parts of the first page, which is long."""
    places = {"claims": "Claims", "notebooks": "Notebooks"} | {_anchor(job): _title(job) for job in with_figures}
    links = " ".join(f'<a href="#{place}">{title}</a>' for place, title in places.items())
    return f'<p class="jumps">{links}</p>'


def _anchor(job: Job) -> str:
    return "figures-" + page_name(job).removesuffix(".html")


def _ledger_html(ledger: list[claims.Judgement]) -> str:
    return f'<h2 id="claims">Claims</h2>{claims_page.table_html(ledger)}'


def _contents_html(jobs: list[Job], executed: list[Job]) -> str:
    items = []
    for job in jobs:
        title = _title(job)
        items.append(
            f'<li><a href="{page_name(job)}">{title}</a></li>'
            if job in executed
            else f"<li>{title}: not executed yet</li>"
        )
    return f'<h2 id="notebooks">Notebooks</h2><ul>{"".join(items)}</ul>'


def _gallery_html(job: Job, files: list[Path]) -> str:
    stems = dict.fromkeys(path.with_suffix("") for path in files if path.suffix in (".png", ".md"))
    items = []
    for stem in stems:
        links = [
            f'<a href="{FIGURES}/{path.as_posix()}">{path.suffix[1:]}</a>'
            for path in files
            if path.with_suffix("") == stem
        ]
        picture = stem.with_suffix(".png")
        shown = (
            f'<img src="{FIGURES}/{picture.as_posix()}" alt="{stem.name}" loading="eager">' if picture in files else ""
        )
        items.append(
            f"<figure>{shown}<figcaption>{html.escape(stem.as_posix())} ({', '.join(links)})</figcaption></figure>"
        )
    return f'<h2 id="{_anchor(job)}">{_title(job)}</h2><div class="gallery">{"".join(items)}</div>'


def _title(job: Job) -> str:
    return html.escape(job.id)


def _write(path: Path, title: str, body: str, executed: list[Job]) -> None:
    links = "".join(f'<a href="{page_name(job)}">{_title(job)}</a>' for job in executed)
    path.write_text(_PAGE.format(title=title, links=links, body=body), encoding="utf-8")
