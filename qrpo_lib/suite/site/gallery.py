"""The page of all published figures and tables, with the data under them."""

from __future__ import annotations

from pathlib import Path

from qrpo_lib.suite.site.pages import Pages

_SKIPPED = {"claims"}  # verdicts, which the ledger shows
_FIRST = ("theory", "enumerated", "tiny", "smol")  # then other profiles, benchmarks last
_LAST = ("benchmarks",)


def page(pages: Pages) -> str:
    """Figures as pictures and tables as tables, by profile and arm; each with links to its files."""
    parts = ["# Figures and tables", "By profile and arm. Under each are its files: the picture and its numbers."]
    root = pages.root / "figures"
    folders = {path.parent for path in root.rglob("*") if path.suffix in (".png", ".md")}
    for folder in sorted(folders, key=lambda folder: _place(folder.relative_to(root).parts)):
        if folder.name in _SKIPPED or folder == root:
            continue
        parts.append(f"## {', '.join(folder.relative_to(root).parts)}")
        stems = dict.fromkeys(path.stem for path in sorted(folder.iterdir()) if path.suffix in (".png", ".md"))
        parts += [_item(pages, folder, stem) for stem in stems if stem not in _SKIPPED]
    return "\n\n".join(part for part in parts if part) + "\n"


def _place(parts: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    ranked = [*_FIRST, None, *_LAST]
    return ranked.index(parts[0] if parts and parts[0] in ranked else None), parts


def _item(pages: Pages, folder: Path, stem: str) -> str:
    files = {path.suffix: path for path in sorted(folder.iterdir()) if path.is_file() and path.stem == stem}
    title = stem.replace("-", " ").capitalize()
    links = ", ".join(f"[{suffix[1:]}]({pages.copy_figure(path)})" for suffix, path in files.items() if suffix != ".md")
    shown = ""
    if ".png" in files:
        shown = f"![{title}]({pages.copy_figure(files['.png'])}){{ loading=lazy }}"
    elif ".md" in files:
        shown = files[".md"].read_text(encoding="utf-8").strip()
        shown = "\n".join(line for line in shown.splitlines() if not line.startswith("# "))
    return f"### {title}\n\n{shown}\n\n{f'Files: {links}' if links else ''}".rstrip()
