"""Pages of notebooks: prose, outputs, and the code behind a click."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.profiles import files as profile_files
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import notebooks
from qrpo_lib.suite.site import gallery
from qrpo_lib.suite.site.pages import Pages, fenced, picture

if TYPE_CHECKING:
    import nbformat

    from qrpo_lib.suite.notebooks import Job

_GROUPS = {"theory": "Theory", "experiments": "Experiments", "results": "Results"}
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours of a terminal
_DATA = re.compile(r"The numbers under this figure: (?:<a [^>]*>)?([\w.-]+)\.csv")
_NOT_EXECUTED = '!!! note "Not executed here"\n    What follows are its texts and its code, without results.\n'


def is_executed(job: Job) -> bool:
    return (job.step.folder / notebooks.EXECUTED).is_file()


def page_name(job: Job, profile: str = "") -> str:
    """The place of a notebook's page on the site. profile: of notebooks that are not the site's own profile's."""
    return f"notebooks/{f'{profile}/' if profile else ''}{re.sub(r'[^a-z0-9]+', '-', job.id.lower()).strip('-')}.md"


def of_other_profiles(profile_name: str, root: Path) -> dict[str, list[Job]]:
    """Executed notebooks of the suite's other profiles that have published figures, by profile.

    What the site's own profile executes too (theory) is not among them.
    """
    own = {job.step.folder for job in notebooks.jobs(profile_name)}
    found = {}
    for name in profile_files.names():
        if name == profile_name or not (root / "figures" / name).is_dir():
            continue
        try:
            jobs = notebooks.jobs(name)
        except InputError:  # it needs what is not here: nothing of it was executed
            continue
        if executed := [job for job in jobs if job.step.folder not in own and is_executed(job)]:
            found[name] = executed
    return found


def write(pages: Pages, jobs: list[Job], others: dict[str, list[Job]]) -> dict[str, list[str]]:
    """Write the page of each notebook's execution. Returns their names by the notebooks' folder, or other profile."""
    groups: dict[str, list[str]] = {}
    for job in jobs:
        folder = job.path.split("/")[0]
        groups.setdefault(_GROUPS.get(folder, folder), []).append(_write(pages, job, ""))
    for profile, of_profile in others.items():
        groups[f"Profile {profile}"] = [_write(pages, job, profile) for job in of_profile]
    return groups


def _write(pages: Pages, job: Job, profile: str) -> str:
    """The page of one execution; returns its name."""
    import nbformat  # here: a report that is up to date needs none

    executed, name = is_executed(job), page_name(job, profile)
    path = job.step.folder / notebooks.EXECUTED if executed else job.source
    pages.write_file(job.source, name, _page(pages, job, name, nbformat.read(path, as_version=4), executed))
    return name


def _page(pages: Pages, job: Job, page: str, notebook: nbformat.NotebookNode, executed: bool) -> str:
    """A notebook as Markdown. Its title in the navigation is the job's: several jobs share a notebook."""
    name = job.path.split("/")[-1].replace("_", " ").capitalize()
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
            said = _alternatives(cell.outputs, heading)
            outputs = [_output(pages, page, output, f"{number}-{i}", said[i]) for i, output in enumerate(cell.outputs)]
            if any(outputs):
                parts += [_folded("Code", code), *outputs]
                code = ""
    parts.append(_folded("Code", code))
    return "\n\n".join(part for part in parts if part) + "\n"


def _folded(title: str, source: str) -> str:
    if not source:
        return ""
    indented = "\n".join(f"    {line}" for line in fenced(source, "python").splitlines())
    return f'??? abstract "{title}"\n\n{indented}'


def _alternatives(outputs: list[nbformat.NotebookNode], heading: str) -> list[str]:
    """Of each output what a picture in it shows, in words: its caption, by the file that is named below it."""
    said = [f"Figure of the section: {heading}" for _ in outputs]
    for i, output in enumerate(outputs[1:]):
        named = _DATA.search(output.get("data", {}).get("text/html", ""))
        if named and gallery.caption(named[1])[1]:
            said[i] = ". ".join(gallery.caption(named[1]))
    return said


def _output(pages: Pages, page: str, output: nbformat.NotebookNode, place: str, said: str) -> str:
    """One output of a cell, in the richest form that a page can show.

    Parameters
    ----------
    pages, page: the site, and the page that the output is on.
    output: as the notebook has it.
    place: of the output on its page, for the name of a picture's file.
    said: what a picture shows, in words.
    """
    if output.output_type == "stream":
        return _verbatim(output.text)
    if output.output_type == "error":
        return _verbatim(f"{output.ename}: {output.evalue}")
    data = output.data
    if "image/png" in data:
        return _picture(pages, page, data["image/png"], place, said)
    if "text/html" in data:
        html = re.sub(r"\n\s*\n", "\n", data["text/html"])  # an empty line would end the block
        return f'<div class="output" tabindex="0">\n{html}\n</div>'
    if "text/markdown" in data:
        return data["text/markdown"]
    if any(kind.startswith("application/vnd.jupyter.widget") for kind in data):
        return ""  # it needs a kernel
    return _verbatim(data.get("text/plain", ""))


def _picture(pages: Pages, page: str, encoded: str, place: str, said: str) -> str:
    """A picture of an output, as a file beside the page."""
    import base64

    name = Path(page).with_suffix("") / f"{place}.png"
    target = pages.folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(encoded))
    return picture(name.relative_to(Path(page).parent).as_posix(), said)


def _verbatim(text: str) -> str:
    """What a cell printed: sentences as often as tables, so its long lines are wrapped (site.css)."""
    text = _ESCAPES.sub("", text).strip("\n")
    return fenced(text, "{.text .printed}") if text.strip() else ""
