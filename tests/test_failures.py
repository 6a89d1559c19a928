"""What is said of an error: the first one, with its class; a full disk by its name."""

import errno
import os

import pytest

from qrpo_lib import failures
from qrpo_lib.errors import InputError


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


def test_how_a_silent_process_ended():
    assert failures.exit_text(-9) == "its process was killed (SIGKILL)"
    assert failures.exit_text(3) == "its process ended with exit code 3"
