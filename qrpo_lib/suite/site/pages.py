"""Markdown pages of the site: where they lie, what their links lead to, formulas as MathML."""

from __future__ import annotations

import json
import posixpath
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from qrpo_lib.suite.site import inputs

_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+(?:\n[^$\n]+)*?)\$", re.DOTALL)
# Code between as many backticks at its end as at its start; one or two of them stay within a paragraph.
_FENCED = r"(?<!`)(?P<fence>`{3,})(?!`).*?(?<!`)(?P=fence)(?!`)"
FENCED = re.compile(_FENCED, re.DOTALL)  # blocks of code that are not indented
_MARKED = _FENCED + r"|(?<!`)(?P<tick>``?)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=tick)(?!`)"
_MARKED_CODE = re.compile(_MARKED, re.DOTALL)
_CODE = re.compile(rf"{_MARKED}|(?:(?<=\n\n)|\A)(?:    [^\n]*\n)+", re.DOTALL)  # what is indented too
_PICTURE = re.compile(r"(?P<shown>!\[[^\]]*\]\((?P<place>[^()\s]+\.png)\))(?:\{(?P<attributes>[^{}]*)\})?")
_LINK = re.compile(r"\]\((?P<target>[^()\s:#]+)(?P<anchor>#[^()\s]*)?\)")
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".sh": "bash", ".css": "css"}
_SOURCES = "source"
_CSS_DPI = 100  # pixels of a page for an inch of a figure
_SIGNS = re.compile(r"[$&<>\"{}()*_`\[\]\\|~]")  # that Markdown, formulas or HTML would read otherwise
_NAMESPACE = "http://www.w3.org/1998/Math/MathML"
_FUNCTIONS = ("log", "exp", "min", "max", "sup", "inf", "lim")
# Pages that the site has in another form.
_INSTEAD = {"docs/claims.md": "ledger.md", "README.md": "index.md", "figures": "figures.md"}


class Pages:
    """The pages of one site, as Markdown in `folder`, from a project in `root`.

    notebooks: the page of each notebook's file, of those that have one.
    linked: what the pages lead to in the project, by its path there, as it was before it was read (`inputs.state`).
    """

    def __init__(self, root: Path, folder: Path, notebooks: Mapping[Path, str]) -> None:
        self.root, self.folder = root.resolve(), folder
        self._notebooks = {path.resolve(): name for path, name in notebooks.items()}
        self._sources: dict[str, Path] = {}  # pages of source files that other pages link to
        self.linked: dict[str, inputs.State] = {}
        folder.mkdir(parents=True)

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def write(self, name: str, text: str) -> None:
        """A page of Markdown whose links are those of the site already."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(with_mathml(self._with_sizes(text, target.parent)), encoding="utf-8")

    def write_file(self, path: Path, name: str, text: str) -> None:
        """The page `name` from the text of a project's file, whose relative links lead from where that file lies."""
        self.write(name, self.with_links(text, path.parent, name))

    def with_links(self, text: str, base: Path, name: str) -> str:
        """Markdown whose relative links are made to lead to pages of this site; those that cannot are plain text."""

        def replaced(match: re.Match) -> str:
            page = self.page_of((base / match["target"]).resolve())
            if page is None:
                return match[0]
            return f"]({posixpath.relpath(page, posixpath.dirname(name) or '.')}{match['anchor'] or ''})"

        # What is indented alone may be a list's paragraph.
        return outside(_MARKED_CODE, text, lambda piece: _LINK.sub(replaced, piece))

    def _with_sizes(self, text: str, folder: Path) -> str:
        """Markdown whose pictures have the size that they were drawn in: letters are as large in all of them.

        A browser that knows it keeps the place, and a link to what is further down leads there.
        """
        from PIL import Image

        def sized(match: re.Match) -> str:
            if not (folder / match["place"]).is_file():  # on the web, or attached to a notebook's cell
                return match[0]
            with Image.open(folder / match["place"]) as opened:
                inches = [pixels / opened.info.get("dpi", (_CSS_DPI,))[0] for pixels in opened.size]
            width, height = (round(_CSS_DPI * length) for length in inches)
            return f"{match['shown']}{{{match['attributes'] or ''} width={width} height={height} }}"

        return outside(_CODE, text, lambda piece: _PICTURE.sub(sized, piece))

    def copy_figure(self, path: Path) -> str:
        """Put a file of `figures/` on the site. Returns its place there."""
        return self._copy(path, path.relative_to(self.root).as_posix())

    def _copy(self, path: Path, name: str) -> str:
        target = self.folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        return name

    def write_linked_sources(self) -> None:
        """A page for each file and folder of code that a page links to."""
        written: set[str] = set()
        while left := sorted(self._sources.keys() - written):  # a notebook links to further ones
            for name in left:
                path, header = self._sources[name], "---\nsearch:\n  exclude: true\n---\n\n"
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".ipynb":
                    text = with_mathml(self.with_links(_notebook(path), path.parent, name))
                else:
                    text = f"# {path.relative_to(self.root).as_posix()}\n\n"
                    text += _listing(path) if path.is_dir() else _source(path)
                target.write_text(header + text, encoding="utf-8")
                written.add(name)

    def page_of(self, path: Path) -> str | None:
        """The place on the site of a project's file, which is put there if need be."""
        if not path.is_relative_to(self.root):
            return None
        self._note(path)
        if not path.exists():
            return None
        place = path.relative_to(self.root).as_posix()
        if place in _INSTEAD:
            return _INSTEAD[place]
        if path in self._notebooks:
            return self._notebooks[path]
        if path.suffix == ".md" and (path.parent == self.root / "docs" or place == "CONTRIBUTING.md"):
            return path.name
        if path.is_file() and place.startswith("figures/"):
            return self.copy_figure(path)
        if path.is_file() and not _is_text(path):
            return self._copy(path, f"{_SOURCES}/{place}")
        return self.source_of(path)

    def _note(self, path: Path) -> None:
        name = path.relative_to(self.root).as_posix()
        if name not in self.linked:
            self.linked[name] = inputs.state(path)

    def source_of(self, path: Path) -> str | None:
        """The place of the page that shows a file or folder of the project as it stands; None if it is not there."""
        self._note(path)
        if not path.exists():
            return None
        name = f"{_SOURCES}/{path.relative_to(self.root).as_posix()}.md"
        self._sources[name] = path
        return name


def with_mathml(markdown: str) -> str:
    """Markdown with its TeX formulas as MathML, which browsers show without help. Code stays as it is."""

    def formula(match: re.Match) -> str:
        if match["block"] is not None:
            return _mathml(match["block"].strip(), "block")
        return f"<span>{_mathml(match['inline'].strip(), 'inline')}</span>"  # <math> first in a line is a block

    return outside(_CODE, markdown, lambda piece: _FORMULA.sub(formula, piece))


def picture(place: str, said: str, attributes: str = "") -> str:
    """A picture that leads to itself: in full size it can be read on a phone.

    said: what it shows, in words; all their signs are kept, as numbers where Markdown would read them otherwise.
    """
    words = _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", said)
    return f"[![{words}]({place}){attributes}]({place})"


def fenced(text: str, language: str) -> str:
    """A block of code. Its fence is longer than any run of backticks inside, which would end it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def outside(code: re.Pattern, markdown: str, change: Callable[[str], str]) -> str:
    """Markdown with a change to all of it but its code."""
    pieces, end = [], 0
    for found in code.finditer(markdown):
        pieces += [change(markdown[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*pieces, change(markdown[end:])])


def _mathml(formula: str, display: str) -> str:
    """A TeX formula as MathML, with the thin spaces around names of functions that TeX sets."""
    from latex2mathml.converter import convert

    ElementTree.register_namespace("", _NAMESPACE)
    tree = ElementTree.fromstring(convert(formula, display=display))
    for row in tree.iter():
        if row.tag.removeprefix(f"{{{_NAMESPACE}}}") not in ("math", "mrow", "mstyle", "mtd"):
            continue  # elsewhere a child's place says what it is, such as an index
        for i, part in reversed(list(enumerate(row))):
            if (part.text or "") not in _FUNCTIONS:
                continue
            for place in (i + 1, i):
                beside = row[place if place > i else i - 1] if 0 < place < len(row) else None
                if beside is not None and not beside.tag.endswith(("mo", "mspace")):
                    row.insert(place, ElementTree.Element(f"{{{_NAMESPACE}}}mspace", width="0.167em"))
    made = ElementTree.tostring(tree, encoding="unicode", short_empty_elements=False)  # HTML has no empty tags
    return re.sub(r"[*_`\[\]\\|~]", lambda sign: f"&#{ord(sign[0])};", made)  # which Markdown would read otherwise


def _is_text(path: Path) -> bool:
    """Whether a page can show a file as text; a picture is shown by itself, even one that is written as text."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return path.suffix != ".svg"


def _source(path: Path) -> str:
    return fenced(path.read_text(encoding="utf-8"), _LANGUAGES.get(path.suffix, "text")) + "\n"


def _notebook(path: Path) -> str:
    """What a notebook that is no step of the profile says, with its code."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    parts = [text if kind == "markdown" else fenced(text, "python") for kind, text in cells if text.strip()]
    return "\n\n".join(parts) + "\n"


def _listing(folder: Path) -> str:
    """The files of a folder, with the first line of what modules say of themselves."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        said = re.match(r'"""(.*?)(?:"""|\n)', path.read_text(encoding="utf-8")) if path.suffix == ".py" else None
        lines.append(f"- `{path.name}{'/' if path.is_dir() else ''}`" + (f": {said[1]}" if said else ""))
    return "\n".join(lines) + "\n"
