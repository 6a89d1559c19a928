"""The site: pages of `docs/`, every verdict, figure and table, and the executed notebooks, to be read from disk.

site.build("tiny", Path("report"))     # or `qrpo report`: then open report/index.html

Pages are Markdown that MkDocs with the Material theme turns into HTML; formulas are MathML. Nothing is loaded from a
network, and the search works without a server. A report that is what it would be again is left as it is (`inputs`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qrpo_lib.paper import claims
from qrpo_lib.runs import paths
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import notebooks, own_folder
from qrpo_lib.suite.site import gallery, inputs, ledger, notebook_pages
from qrpo_lib.suite.site.pages import Pages

_MAKER = "qrpo report"
_ASSETS = Path(__file__).parent / "assets"
_TITLE = "QRPO, replicated"
# The order of the navigation: a group, and the pages that it has if they are there. What is not listed comes last.
_GROUPS = {
    "Start": ["index.md", "method.md", "notebooks.md"],
    "Results": ["ledger.md", "figures.md", "results.md", "protocol.md", "miniature.md"],
    "Use it": ["your-own.md", "choosing.md", "profiles.md", "models.md", "cluster.md"],
    "How it works": ["walk.md", "trainer.md", "sandbox.md", "runs.md", "decisions.md", "CONTRIBUTING.md"],
}
_NOT_PAGES = {"claims.md"}  # the ledger shows more of it
_EXTENSIONS = ["admonition", "attr_list", "md_in_html"]
_EXTENSIONS += ["pymdownx.details", "pymdownx.highlight", "pymdownx.superfences"]


def build(profile_name: str, folder: Path) -> Path:
    """Write the site into `folder`, in place of an earlier one unless nothing has changed. Returns its first page.

    It holds what is published under the project's `figures/`, of all profiles, and the notebooks of `profile_name`:
    executed ones with their outputs, and of others what they say; of other profiles those that are executed. The
    folder is a new one, an empty one, or one that was written by this; what else was put there since stays.

    Raises
    ------
    InputError
        There are neither figures nor executed notebooks, or `folder` holds what was not written by this.
    """
    own_folder.check(folder, _MAKER)
    root, jobs = paths.project_root(), notebooks.jobs(profile_name)
    made_from = inputs.digest(profile_name, jobs)  # before anything is read: what changes meanwhile is seen next time
    if inputs.are_same(own_folder.noted(folder, _MAKER), made_from, root):
        return folder / "index.html"
    judged = claims.of_ledger(claims.recorded(root / "figures"))
    executed = [job for job in jobs if notebook_pages.is_executed(job)]
    if not executed and not judged:
        raise InputError(f"There is nothing to show of {profile_name!r} yet: run `qrpo reproduce` first.")
    with own_folder.filling(folder, _MAKER) as new, tempfile.TemporaryDirectory() as written:
        others = notebook_pages.of_other_profiles(profile_name, root)
        named = [(job, notebook_pages.page_name(job, name)) for name, group in others.items() for job in group]
        named += [(job, notebook_pages.page_name(job)) for job in jobs]
        pages = Pages(root, Path(written) / "docs", {job.source: name for job, name in named})
        _write_own_pages(pages, judged, {(job.step.key, job.id): name for job, name in named})
        notebook_groups = notebook_pages.write(pages, jobs, others)
        pages.write_linked_sources()
        _render(pages, notebook_groups, new)
    own_folder.note(folder, _MAKER, {"digest": made_from, "linked": pages.linked})
    return folder / "index.html"


def _write_own_pages(pages: Pages, judged: list[claims.Judgement], made_by: dict[tuple[str, str], str]) -> None:
    """What is written by hand, with counts and failures filled in, and the pages of verdicts and figures."""
    all_claims = pages.root / "docs" / "claims.md"  # the site's ledger stands in its place
    texts = [*sorted((pages.root / "docs").glob("*.md")), pages.root / "CONTRIBUTING.md"]
    for path in (path for path in texts if path.is_file() and path.name not in _NOT_PAGES):
        text = ledger.filled_in(path.read_text(encoding="utf-8"), judged)
        if all_claims.is_file():
            text = ledger.with_links(text, judged, Path(os.path.relpath(all_claims, path.parent)).as_posix())
        pages.write_file(path, path.name, text)
    if not pages.has("index.md"):
        pages.write("index.md", ledger.first_page(_TITLE, judged))
    pages.write("ledger.md", ledger.page(judged, [gallery.evidence(one, pages) for one in judged]))
    pages.write("figures.md", gallery.page(pages, made_by))


def _render(pages: Pages, notebook_groups: dict[str, list[str]], target: Path) -> None:
    """Have MkDocs write the HTML of all pages into `target`."""
    import yaml
    from mkdocs.commands import build as mkdocs
    from mkdocs.config import load_config

    for path in _ASSETS.iterdir():
        shutil.copyfile(path, pages.folder / path.name)
    settings = pages.folder.parent / "mkdocs.yml"
    settings.write_text(yaml.safe_dump(_settings(_navigation(pages, notebook_groups)), sort_keys=False))
    with _quiet():
        mkdocs.build(load_config(str(settings), site_dir=str(target)))
    for path in [*target.glob("sitemap.xml*"), target / "404.html"]:  # for servers, and with a server's paths
        path.unlink()


def _navigation(pages: Pages, notebook_groups: dict[str, list[str]]) -> list[dict[str, Any]]:
    groups = {title: [name for name in names if pages.has(name)] for title, names in _GROUPS.items()}
    listed = {name for names in groups.values() for name in names}
    groups["How it works"] += sorted(path.name for path in pages.folder.glob("*.md") if path.name not in listed)
    navigation: list[dict[str, Any]] = [{title: names} for title, names in groups.items() if names]
    navigation.insert(2, {"Notebooks": [{title: names} for title, names in notebook_groups.items()]})
    return navigation


def _settings(navigation: list[dict[str, Any]]) -> dict[str, Any]:
    """What mkdocs.yml would say."""
    scheme: dict[str, Any] = {"primary": "custom", "accent": "custom"}
    light = {"media": "(prefers-color-scheme: light)", "scheme": "default", **scheme}
    dark = {"media": "(prefers-color-scheme: dark)", "scheme": "slate", **scheme}
    light["toggle"] = {"icon": "material/weather-night", "name": "Dark"}  # what a click would bring
    dark["toggle"] = {"icon": "material/weather-sunny", "name": "Light"}
    features = ["navigation.tabs", "navigation.top", "navigation.footer", "content.code.copy", "toc.follow"]
    theme: dict[str, Any] = {"name": "material", "font": False, "palette": [light, dark], "features": features}
    theme["icon"] = {"logo": "material/chart-bell-curve-cumulative"}
    return {
        "site_name": _TITLE,
        "docs_dir": "docs",
        "use_directory_urls": False,  # links that work from disk
        "theme": theme,
        "plugins": ["search", "offline"],
        "markdown_extensions": [*_EXTENSIONS, {"toc": {"permalink": False, "toc_depth": 3}}],
        # In place of a script that the plugin for search without a server would load from a network.
        "extra": {"generator": False, "homepage": "index.html", "polyfills": ["iframe-worker.js"]},
        "extra_css": ["site.css"],
        "extra_javascript": ["site.js"],
        "nav": navigation,
        "validation": {"nav": {"omitted_files": "ignore"}},
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MkDocs and its theme without their news, and with the same dates in every build."""
    wanted = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true", "SOURCE_DATE_EPOCH": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
