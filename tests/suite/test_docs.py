"""README and docs: what they link to, name and tell people to type is there."""

import ast
import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from qrpo_lib.runs.code_version import own_package
from qrpo_lib.suite import cli

ROOT = Path(__file__).parents[2]
README, WALK = ROOT / "README.md", ROOT / "docs" / "walk.md"
PAGES = [README, ROOT / "runs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?<![\w./-])(?:qrpo_lib|notebooks|tests|benchmarks|docs|figures)/[\w./-]+")
DOTTED = re.compile(r"(?<![\w./-])qrpo_lib(?:\.\w+)+(?!\w)")
# `make` and `qrpo` with what follows, up to the end of inline code, of a shell command or of the line.
COMMAND = re.compile(r"(?<![\w/-])(?:\.venv/bin/)?(?P<command>(?:make|qrpo)(?= |`)[^`&\n]*)")
MADE_BY_COMMANDS = {"figures/my-profile/", "figures/tiny-full/record/world-2", "figures/tiny-full/record/world-2/"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def text_of(page):
    return page.read_text(encoding="utf-8")


def links(page):
    found = [(match["text"], match["target"]) for match in LINK.finditer(FENCED.sub("", text_of(page)))]
    return [(text, target) for text, target in found if "://" not in target]


def anchors(page):
    """The names that a heading's anchor has on a Git host: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page):
    """What people are told to type: in inline code, in indented lines and in tables; without placeholders."""
    lines = FENCED.sub("", text_of(page)).splitlines()
    shown = [line for line in lines if line.startswith("    ")]
    shown += [f"{code}`" for line in lines if not line.startswith("    ") for code in re.findall(r"`([^`]+)`", line)]
    found = [match["command"] for line in shown for match in COMMAND.finditer(line)]
    return [shlex.split(command, comments=True) for command in found]


@every_page
def test_every_relative_link_leads_somewhere(page):
    broken = []
    for _, target in links(page):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
        assert linked.is_relative_to(ROOT), f"{target} is outside the project"
    assert not broken


@every_page
def test_every_path_and_module_that_is_named_exists(page):
    named = {path.rstrip(".") for path in PATH.findall(text_of(page))} - MADE_BY_COMMANDS
    lost = [path for path in named if not (ROOT / path).exists() and not list(ROOT.glob(f"{path}.ipynb"))]
    modules = {name.replace(".", "/") for name in DOTTED.findall(text_of(page))}
    lost += [name for name in modules if not (ROOT / name).is_dir() and not (ROOT / f"{name}.py").is_file()]
    assert not lost


@every_page
def test_every_command_that_is_shown_exists(page):
    targets = set(re.findall(r"^([\w./-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for program, *arguments in commands(page):
        if program == "make":
            assert {name for name in arguments if "=" not in name} <= targets, arguments
        elif arguments:
            cli._parser(arguments).parse_args(arguments)  # SystemExit, if there is no such command or option


def test_the_readme_is_short_and_shows_the_four_pictures():
    assert len(README.read_bytes()) <= 8_192
    pictures = [target for _, target in links(README) if target.endswith(".png")]
    assert [Path(target).stem for target in pictures] == ["figure-1", "figure-1", "figure-5", "exactness"]
    assert text_of(README).index(pictures[-1]) < text_of(README).index("\n## ")


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_a_release_note_is_the_newest_section_of_the_changelog():
    told = subprocess.run(
        ["make", "--silent", "release-note"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    sections = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")
    assert told.strip() == f"## {sections[1]}".strip()


def test_the_readme_maps_every_sub_package():
    packages = {path.parent.name for path in own_package().root.glob("*/__init__.py")}
    mapped = re.findall(r"^\| \[\w+\]\(qrpo_lib/(\w+)\) \| .+ \|$", text_of(README), re.MULTILINE)
    assert sorted(mapped) == sorted(packages)


def test_the_walk_has_at_most_a_dozen_stops_each_with_a_link_to_a_function():
    _, *stops = re.split(r"^## ", text_of(WALK), flags=re.MULTILINE)
    assert [int(stop.split(".")[0]) for stop in stops] == list(range(1, len(stops) + 1))
    assert len(stops) <= 12
    for stop in stops:
        assert re.search(r"\[`[\w.]+`\]\(\.\./qrpo_lib/\S+\.py\)", stop), stop


def definitions(path):
    """Names of functions and classes at the top of a module, and of methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return found


@every_page
def test_functions_are_in_the_files_that_their_links_name(page):
    of_code = [(text.strip("`"), target) for text, target in links(page) if re.fullmatch(r"`[\w.]+`", text)]
    of_modules = [(name, page.parent / target) for name, target in of_code if target.endswith(".py")]
    assert [(name, path.name) for name, path in of_modules if name not in definitions(path)] == []
    assert of_modules or page != WALK


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_of_the_runs_folder_git_keeps_the_readme_alone(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    for name in ("README.md", "training-0123456789ab/record.json", "training-0123456789ab/README.md", ".cache/x/y"):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    status = subprocess.run([*git, "status", "--porcelain", "-uall"], capture_output=True, text=True, check=True)
    assert status.stdout.splitlines() == ["?? .gitignore", "?? runs/README.md"]
