"""What is said of an error: the first one, with its class; a full disk by its name."""

import errno
import os
import tempfile
import types
from pathlib import Path

import pytest

from qrpo_lib.runs import failures, paths
from qrpo_lib.runs.errors import InputError


def raised(make):
    try:
        make()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def handled(first, last, how="context"):
    def make():
        try:
            raise first
        except Exception:
            if how == "none":
                raise last from None
            raise last  # noqa: B904

    return raised(make)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("beta is\nnegative"), "ValueError: beta is negative"),
        (StopIteration(), "StopIteration (without a message)"),
        (InputError("Set QRPO_DATA."), "Set QRPO_DATA."),
        (handled(KeyError("loss"), RuntimeError("cannot log")), "KeyError: 'loss' (and then RuntimeError: cannot log)"),
        (handled(KeyError("loss"), InputError("There is no loss."), "none"), "There is no loss."),
    ],
)
def test_the_first_error_is_told_with_its_class(error, said):
    assert failures.sentence(error) == said


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        handled(FULL, StopIteration()),
        handled(FULL, ValueError("None of these runs is complete: train them first.")),
    ],
)
def test_a_full_disk_is_called_so_whatever_came_of_it(error):
    said = failures.sentence(error)
    assert said.startswith("The disk is full")
    assert "make room" in said


def test_an_error_of_its_own_words_on_a_full_disk(tmp_path, monkeypatch):
    error = RuntimeError("PytorchStreamWriter failed writing file data/3")
    assert "full" not in failures.sentence(error, tmp_path)
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([*real[:4], 0, *real[5:]])  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    said = failures.sentence(error, tmp_path / "not" / "there")
    assert said.startswith("RuntimeError: PytorchStreamWriter")
    assert f"The disk that holds {tmp_path} is full" in said


@pytest.mark.parametrize(
    ("blocks", "files_left", "all_files", "full"),
    [
        (2**20 // 512 - 1, 100, 1000, True),
        (2**20 // 512, 100, 1000, False),
        (2**20, 7, 1000, True),
        (2**20, 8, 1000, False),
        (2**20, 0, 0, False),  # a file system that does not count files
    ],
)
def test_a_disk_is_full_where_nothing_of_the_suite_can_be_written(
    tmp_path, monkeypatch, blocks, files_left, all_files, full
):
    """Less than a MiB in blocks of 512 bytes, or fewer than 8 files."""
    real = os.statvfs(tmp_path)
    state = types.SimpleNamespace(f_bavail=blocks, f_frsize=512, f_favail=files_left, f_files=all_files)
    monkeypatch.setattr(os, "statvfs", lambda path: state)
    assert bool(failures.full_disk(tmp_path)) == full
    monkeypatch.setattr(os, "statvfs", lambda path: state if path == tmp_path else real)
    assert bool(failures.full_disk(tmp_path.parent, tmp_path / "not" / "there")) == full


def test_of_a_chain_the_first_and_the_last_are_told():
    middle = handled(handled(KeyError("a"), ValueError("b")), RuntimeError("c"))
    assert failures.sentence(middle) == "KeyError: 'a' (and then RuntimeError: c)"
    assert failures.sentence(handled(KeyError("a"), RuntimeError("c"), "none")) == "RuntimeError: c"


def test_a_chain_that_bites_its_tail_ends():
    first, second = ValueError("a"), KeyError("b")
    first.__cause__, second.__cause__ = second, first
    assert failures.sentence(first) == "KeyError: 'b' (and then ValueError: a)"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_number_whatever_its_words(number):
    assert failures.sentence(OSError(number, "kein Platz")).startswith("The disk is full")
    assert "full" not in failures.sentence(OSError(errno.ENOENT, "kein Platz"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "its process was killed (SIGKILL)"),
        (-200, "its process was killed (signal 200)"),
        (0, "its process ended with exit code 0"),
        (3, "its process ended with exit code 3"),
        (None, "its process ended with exit code None"),
    ],
)
def test_how_a_silent_process_ended(code, said):
    assert failures.exit_text(code) == said


def test_files_are_written_to_runs_figures_and_the_temporary_folder(runs_folder):
    assert failures.disks() == (runs_folder, paths.project_root() / "figures", Path(tempfile.gettempdir()))
