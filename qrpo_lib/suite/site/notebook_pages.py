"""Pages of notebooks: prose, outputs, and the code behind a click."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat

from qrpo_lib.suite import notebooks
from qrpo_lib.suite.site.pages import Pages

if TYPE_CHECKING:
    from qrpo_lib.suite.notebooks import Job

_GROUPS = {"theory": "Theory", "experiments": "Experiments", "results": "Results"}
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours of a terminal
_NOT_EXECUTED = '!!! note "Not executed here"\n    What follows are its texts and its code, without results.\n'


def is_executed(job: Job) -> bool:
    return (job.step.folder / notebooks.EXECUTED).is_file()


def page_name(job: Job) -> str:
    """The place of a notebook's page on the site."""
    return "notebooks/" + re.sub(r"[^a-z0-9]+", "-", job.id.lower()).strip("-") + ".md"


def write(pages: Pages, jobs: list[Job]) -> dict[str, list[str]]:
    """Write the page of each notebook's execution. Returns their names by the notebooks' folder."""
    groups: dict[str, list[str]] = {}
    for job in jobs:
        executed = is_executed(job)
        path = job.step.folder / notebooks.EXECUTED if executed else job.source
        text = _page(pages, job, nbformat.read(path, as_version=4), executed)
        pages.write_file(job.source, page_name(job), text)
        folder = job.path.split("/")[0]
        groups.setdefault(_GROUPS.get(folder, folder), []).append(page_name(job))
    return groups


def _page(pages: Pages, job: Job, notebook: nbformat.NotebookNode, executed: bool) -> str:
    """A notebook as Markdown. Its title in the navigation is the job's: several jobs share a notebook."""
    name = job.path.split("/")[-1].replace("_", " ")
    arm = re.search(r"\[(.*)\]", job.id)
    parts = [f"---\ntitle: {name}{f' ({arm[1]})' if arm else ''}\n---"]
    heading, code = job.id, ""
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts += [_folded("Code", code), cell.source]
            code = ""
            headings = re.findall(r"^#+ (.*)$", cell.source, re.MULTILINE)
            heading = headings[-1] if headings else heading
            if number == 0 and not executed:
                parts.append(_NOT_EXECUTED)
        elif cell.cell_type == "code" and cell.source.strip():
            code = f"{code}\n\n{cell.source}" if code else cell.source  # cells without outputs share a box
            outputs = [_output(pages, job, output, f"{number}-{i}", heading) for i, output in enumerate(cell.outputs)]
            if any(outputs):
                parts += [_folded("Code", code), *outputs]
                code = ""
    parts.append(_folded("Code", code))
    return "\n\n".join(part for part in parts if part) + "\n"


def _folded(title: str, source: str) -> str:
    if not source:
        return ""
    indented = "\n".join(f"    {line}" for line in f"```python\n{source}\n```".splitlines())
    return f'??? abstract "{title}"\n\n{indented}'


def _output(pages: Pages, job: Job, output: nbformat.NotebookNode, place: str, heading: str) -> str:
    """One output of a cell, in the richest form that a page can show."""
    if output.output_type == "stream":
        return _verbatim(output.text)
    if output.output_type == "error":
        return _verbatim(f"{output.ename}: {output.evalue}")
    data = output.data
    if "image/png" in data:
        return _picture(pages, job, data["image/png"], place, heading)
    if "text/html" in data:
        html = re.sub(r"\n\s*\n", "\n", data["text/html"])  # an empty line would end the block
        return f'<div class="output" tabindex="0">\n{html}\n</div>'
    if "text/markdown" in data:
        return data["text/markdown"]
    if any(kind.startswith("application/vnd.jupyter.widget") for kind in data):
        return ""  # it needs a kernel
    return _verbatim(data.get("text/plain", ""))


def _picture(pages: Pages, job: Job, encoded: str, place: str, heading: str) -> str:
    import base64

    name = Path(page_name(job)).with_suffix("") / f"{place}.png"
    target = pages.folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(encoded))
    said = re.sub(r"[^\w ,.()=-]", "", heading)
    return f"![Figure of the section: {said}]({name.relative_to('notebooks').as_posix()})"


def _verbatim(text: str) -> str:
    text = _ESCAPES.sub("", text).strip("\n")
    return f"````text\n{text}\n````" if text.strip() else ""
