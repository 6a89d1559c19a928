"""The page of all published figures and tables: each with what it shows, its notebook, and the data under it."""

from __future__ import annotations

import fnmatch
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qrpo_lib.paper.claims import Judgement
from qrpo_lib.runs.code_version import package_file
from qrpo_lib.suite import publishing
from qrpo_lib.suite.site.pages import Pages, picture

PAGE = "figures.html"
_SHOWN = (".png", ".md")  # where there are both, the picture
_SKIPPED = {"claims"}  # verdicts, which the ledger shows
_FIRST = ("theory", "enumerated", "tiny", "tiny-beyond", "smol")  # then other profiles, benchmarks last
_LAST = ("benchmarks",)
_NOT_ARMS = ("record",)  # data that figures are made from
_LONGEST_TABLE = 12  # rows of one that is open
_HEADER = """# Figures and tables

By profile and arm. Below each are its files and the notebook that made it: as it was executed here, or else its source.
Benchmarks are made by scripts.
"""
_OF_NOTEBOOK = "notebook "  # how evidence starts that is a whole notebook
_POOLED = "worlds-estimates"  # what a pooled verdict rests on: the claim's own figure is there once for each world
_NAMES = {"theory": "Theory", "enumerated": "All completions enumerated", "benchmarks": "Benchmarks"}


@functools.cache
def _captions() -> dict[str, dict[str, str]]:
    return tomllib.loads(package_file("suite/site/captions.toml").read_text(encoding="utf-8"))


def caption(stem: str) -> tuple[str, str]:
    """The title of a figure or table by its file's name, and a sentence on what it shows; '' where there is none."""
    names = [name for name in _captions() if name == stem] or [
        name for name in _captions() if fnmatch.fnmatchcase(stem, name)
    ]
    found = _captions()[names[0]] if names else {"title": stem.replace("-", " ").capitalize(), "text": ""}
    return found["title"], found["text"]


def page(pages: Pages, notebooks: Mapping[tuple[str, str], str]) -> str:
    """Figures as pictures and tables as tables, by profile and arm; each with links to its files and its notebook.

    notebooks: the page of each notebook's execution, by its key and its id.
    """
    parts = [_HEADER]
    root = pages.root / "figures"
    manifest = publishing.read_manifest(root)
    first: dict[bytes, str] = {}  # of each picture and table the place where it is shown
    folders = {path.parent for path in root.rglob("*") if path.suffix in _SHOWN}
    for folder in sorted(folders, key=lambda folder: place(folder.relative_to(root).parts)):
        below = folder.relative_to(root).parts
        if not below or {*below} & {*_SKIPPED, *_NOT_ARMS}:
            continue
        parts.append(f"## {_NAMES.get(below[0], ', '.join(below))}")
        for stem, files in sorted(_by_stem(folder).items(), key=lambda item: _order(item[0])):
            shown = next((files[suffix] for suffix in _SHOWN if suffix in files), None)
            if shown is None or stem in _SKIPPED:
                continue
            made = manifest.get(shown.relative_to(root).as_posix())
            maker = _maker(pages, made, notebooks) if made else ""
            anchor = _anchor("/".join(below), stem)
            before = first.setdefault(shown.read_bytes(), anchor)
            seen = _shown(pages, shown) if before == anchor else f"[The same as above](#{before})."
            parts += [_heading(stem, anchor), seen, _links(pages, files, maker)]
    return "\n\n".join(part for part in parts if part) + "\n"


class Evidence(NamedTuple):
    """What a verdict rests on.

    address: where on the site it is; '' where the site has nothing of that name.
    name: of the figure, table or notebook.
    """

    address: str
    name: str


def evidence(one: Judgement, pages: Pages) -> Evidence:
    """The figure, table or notebook that a verdict rests on."""
    arm = one.profile.replace(", ", "/")
    for stem in (one.evidence, _POOLED):
        if any((pages.root / "figures" / arm / f"{stem}{suffix}").is_file() for suffix in _SHOWN):
            return Evidence(f"{PAGE}#{_anchor(arm, stem)}", stem)
    if one.evidence.startswith(_OF_NOTEBOOK):
        found = sorted((pages.root / "notebooks").glob(f"*/{one.evidence.removeprefix(_OF_NOTEBOOK)}.ipynb"))
        page = pages.page_of(found[0]) if found else None
        if page is not None:  # a card is HTML, in which MkDocs changes no links
            return Evidence(page.removesuffix(".md") + ".html", one.evidence)
    return Evidence("", one.evidence)


def _by_stem(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of a folder by their name without suffix, and by their suffix."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        found.setdefault(path.stem, {})[path.suffix] = path
    return found


def _order(stem: str) -> tuple[bool, str]:
    """The paper's figures and tables first."""
    return not stem.startswith(("figure-", "table-")), stem


def place(parts: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """What profiles are sorted by, of a profile's name and its arm: what needs no model, the default one, others."""
    ranked = [*_FIRST, None, *_LAST]
    return ranked.index(parts[0] if parts and parts[0] in ranked else None), parts


def _anchor(folder: str, stem: str) -> str:
    return f"{folder}/{stem}".replace("/", "-")


def _heading(stem: str, anchor: str) -> str:
    title, text = caption(stem)
    return f"### {title} {{ #{anchor} }}\n\n{text}".rstrip()


def _shown(pages: Pages, path: Path) -> str:
    """A figure or a table as the page shows it; a picture leads to itself."""
    if path.suffix == ".md":
        return _table(path.read_text(encoding="utf-8"))
    return picture(pages.copy_figure(path), ". ".join(caption(path.stem)), "{ loading=lazy }")


def _links(pages: Pages, files: Mapping[str, Path], maker: str) -> str:
    """What is below a figure or table: its files, and a link to its maker where there is one."""
    links = [f"[{suffix[1:]}]({pages.copy_figure(path)})" for suffix, path in files.items() if suffix != ".md"]
    return ", ".join([*links, *([maker] if maker else [])])


def _maker(pages: Pages, made: Mapping[str, str], notebooks: Mapping[tuple[str, str], str]) -> str:
    """A link to the notebook of an entry of the manifest; '' if the project has it no more."""
    executed = notebooks.get((made["inputs"], made["made_by"]))
    if executed:
        return f"[notebook]({executed})"
    # Not the page that the notebook may have: that shows another execution, with other results.
    source = pages.source_of(pages.root / "notebooks" / f"{made['made_by'].partition('[')[0]}.ipynb")
    return f"[source of the notebook]({source})" if source else ""


def _table(text: str) -> str:
    """A table as it is, or behind a click where it is long."""
    lines = [line for line in text.strip().splitlines() if not line.startswith("# ")]
    rows = sum(line.startswith("|") for line in lines) - 2
    if rows <= _LONGEST_TABLE:
        return "\n".join(lines)
    return "\n".join([f'??? table "{rows} rows"', "", *(f"    {line}" for line in lines)])
