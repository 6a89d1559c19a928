"""The command line as a user meets it: what it imports, how it writes, what it refuses."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from qrpo_lib.runs import folders, keys, paths
from qrpo_lib.suite import cli, notebooks, publishing, site

# What takes long to import and has no part in listing things.
HEAVY = {"pandas", "matplotlib", "seaborn", "scipy", "sklearn", "pyarrow", "jsonschema", "nbformat", "nbclient", "trl"}
HEAVY |= {"nbconvert", "papermill", "IPython", "torch", "transformers", "datasets", "accelerate", "submitit", "tqdm"}
# Commands, each in one argument, one after the other: where each ends stands on its output, on that of errors a JSON
# list of what was imported by then.
IN_TURN = """
import json, sys
from qrpo_lib.suite import cli
modules = []
for command in sys.argv[1:]:
    try:
        code = cli.main(command.split())
    except SystemExit as ended:
        code = ended.code or 0
    print(f"ended: {command}: {code}", flush=True)
    modules.append(sorted(sys.modules))
print(json.dumps(modules), file=sys.stderr)
"""


def run(*arguments, program=("-m", "qrpo_lib.suite.cli"), **settings):
    environment = os.environ | settings.pop("environment", {})
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, capture_output=True, env=environment, timeout=900, **settings)


def imported(*commands):
    """The modules that are imported after each of the commands in one process."""
    ended = run(*commands, program=("-c", IN_TURN))
    assert ended.returncode == 0, ended.stderr.decode()
    for command in commands:
        assert f"ended: {command}: 0\n" in ended.stdout.decode()
    return [set(modules) for modules in json.loads(ended.stderr)]


def test_help_imports_no_library(runs_folder):
    for modules in imported("--help", "status --help", "clean --help", "runs --help"):
        assert not {name.split(".")[0] for name in modules} & (HEAVY | {"numpy", "pydantic", "rich"})
        expected = {f"qrpo_lib.{name}" for name in ("suite", "suite.cli", "runs", "runs.terminal")}
        assert {name for name in modules if name.startswith("qrpo_lib.")} == expected


def test_commands_that_list_import_nothing_heavy(runs_folder):
    folders.complete(keys.Step("work", {}), lambda folder: None)
    of_runs, *others = imported("runs", "status", "status --profile tiny-beyond", "clean --dry-run")
    loaded = [{name.split(".")[0] for name in modules} for modules in (of_runs, *others)]
    assert not loaded[0] & {"numpy", "pydantic"}
    for modules in loaded:
        assert not modules & HEAVY


def test_a_second_reproduction_imports_nothing_heavy_and_starts_no_process(tmp_path, runs_folder, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    (job,) = notebooks.select(notebooks.jobs("tiny"), ["theory/noise"])
    folders.complete(job.step, lambda folder: (folder / notebooks.EXECUTED).write_text("{}"))
    (modules,) = imported("reproduce --only theory/noise")
    assert (tmp_path / "figures" / publishing.MANIFEST).exists()  # it was looked at, and published
    assert not {name.split(".")[0] for name in modules} & (HEAVY | {"nbformat", "jsonschema", "jupyter_client"})
    assert not list((runs_folder / ".status").glob("*"))


def test_a_second_report_imports_neither_mkdocs_nor_anything_heavy(tmp_path, runs_folder, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    shutil.copytree(paths.PACKAGE.parent / "figures" / "theory", tmp_path / "figures" / "theory")
    monkeypatch.setattr(site, "_render", lambda pages, groups, new: (new / "index.html").write_text("made"))
    page = site.build("tiny", tmp_path / "report")
    before = page.stat().st_mtime_ns
    (modules,) = imported(f"report --output {page.parent}")
    assert page.stat().st_mtime_ns == before
    assert not {name.split(".")[0] for name in modules} & (HEAVY | {"mkdocs", "material", "markdown", "yaml", "PIL"})


def test_a_library_that_there_is_not_is_refused_before_work(tmp_path, runs_folder, monkeypatch, capsys):
    """Notebooks of theory, which multiply nothing, would run first."""
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    monkeypatch.setenv("QRPO_PRODUCTS", "mkl")
    said = "QRPO_PRODUCTS is 'mkl': set it to torch or onednn, or unset it to have it measured."
    assert cli.main(["reproduce", "--only", "theory/noise"]) == 2
    assert capsys.readouterr().out == f"qrpo: {said}\n"
    assert not runs_folder.exists()
    assert cli.main(["status"]) == 1
    assert f"`qrpo reproduce` would stop here: {said}" in capsys.readouterr().out


def test_every_command_is_described_by_help():
    output = run("--help").stdout.decode()
    for name in ("reproduce", "status", "runs", "plan", "download", "report", "claims", "init", "clean"):
        assert f"\n    {name} " in output or f"\n    {name}\n" in output
    assert "--tokens-a-second" in run("plan", "--help").stdout.decode()
    assert "sub-folders" in run("clean", "--help").stdout.decode()


def test_text_is_no_markup(tmp_path, runs_folder, monkeypatch, capsys):
    root = tmp_path / "[bold]a[/bold] [x] :smile:"
    monkeypatch.setenv("QRPO_RUNS", str(root / "runs"))
    folders.complete(keys.Step("work", {}), lambda folder: None)
    assert cli.main(["status"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"0 of {len(notebooks.jobs('tiny'))} notebooks are complete. Run folders are in {root / 'runs'}."
    assert cli.main(["runs"]) == 0
    assert f"in {root / 'runs'}." in capsys.readouterr().out
    assert cli.main(["clean", "--run", NAME]) == 2
    assert f"There is no run folder '{NAME}' in {root / 'runs'}" in capsys.readouterr().out
    assert cli.main(["status", "--profile", str(root / "[x].toml")]) == 2
    assert "[x].toml" in capsys.readouterr().out


NAME = "training-0123456789ab"


def test_an_encoding_without_the_characters_is_no_traceback(tmp_path):
    folder = tmp_path / "β"
    environment = {"PYTHONIOENCODING": "ascii", "QRPO_RUNS": str(folder)}
    ended = run("runs", environment=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\\u03b2" in ended.stdout
    codes = {"status": 0, "runs": 0, "plan": 0, "--help": 0, "clean --dry-run": 0, "reproduce --only β": 2}
    ended = run(*codes, program=("-c", IN_TURN), environment=environment)
    assert b"Traceback" not in ended.stderr
    for command, code in codes.items():
        assert f"ended: {command}: {code}\n".encode("ascii", "backslashreplace") in ended.stdout, ended.stderr.decode()
    assert b"There is no notebook" in ended.stdout


def test_a_path_that_is_no_text_is_shown_too(tmp_path):
    ended = run("runs", environment={"QRPO_RUNS": os.fsdecode(os.fsencode(tmp_path) + b"/\xff")})
    assert ended.returncode == 0, ended.stderr.decode()
    assert b"\\udcff" in ended.stdout


def test_a_closed_pipe_is_no_traceback(runs_folder):
    for number in range(50):  # more than a pipe holds
        parameters = {"notebook": "work", "parameters": {"n": number, "text": "x" * 4000}}
        folders.complete(keys.Step("notebook-work", parameters), lambda folder: None)
    command = f"{sys.executable} -m qrpo_lib.suite.cli runs --json | head -1"
    ended = subprocess.run(command, shell=True, capture_output=True, timeout=900)
    assert ended.stdout == b"[\n"
    assert ended.stderr == b""


@pytest.mark.parametrize("cores", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_cores_that_is_none_is_refused(cores, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", f"--cores={cores}"])
    assert ended.value.code == 2
    assert "give 1 or more" in capsys.readouterr().err


def test_init_makes_the_folder_that_was_meant(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["init", "~/my copy"]) == 0
    assert (tmp_path / "my copy" / "notebooks").is_dir()
    assert f"cd '{tmp_path}/my copy' && qrpo reproduce" in capsys.readouterr().out
    with pytest.raises(SystemExit):  # not this folder, as Python's empty path is
        cli.main(["init", ""])
    assert "it has no name" in capsys.readouterr().err


def test_status_shows_what_reproduce_would_refuse(runs_folder, monkeypatch, capsys):
    source = keys.Step("work", {})
    folders.complete(source, lambda folder: (folder / "x").write_text("x"))
    job = notebooks.Job("theory/noise", "theory/noise", inputs=(source,))
    monkeypatch.setattr(notebooks, "jobs", lambda profile: [job])
    rests_on = json.dumps([source.folder_name])
    folders.complete(job.step, lambda folder: (folder / notebooks.RESTS_ON).write_text(rests_on))
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out.startswith("complete  theory/noise")
    (source.folder / "x").write_text("y")
    assert cli.main(["reproduce"]) == 2
    refused = capsys.readouterr().out.removeprefix("qrpo: ").strip()
    assert cli.main(["status"]) == 1
    assert f"`qrpo reproduce` would stop here: {refused}" in capsys.readouterr().out


def test_only_can_be_given_twice(monkeypatch):
    given = {}
    monkeypatch.setattr(notebooks, "select", lambda jobs, only: given.update(only=only) or [])
    assert cli.main(["reproduce", "--only", "noise", "--only", "tables", "scaling"]) == 0
    assert given["only"] == ["noise", "tables", "scaling"]


def test_closed_standard_streams_are_no_traceback(runs_folder):
    folders.complete(keys.Step("work", {}), lambda folder: None)
    for redirection in ("<&-", ">&-", "<&- >&-"):
        command = f"{sys.executable} -m qrpo_lib.suite.cli clean --all {redirection}"
        ended = subprocess.run(command, shell=True, capture_output=True, timeout=900)
        assert b"Traceback" not in ended.stderr
        assert ended.returncode == 2
    assert list(runs_folder.glob("work-*"))
