"""Models and datasets of the Hugging Face hub, each at one commit; local copies where there are any.

A local copy of OWNER/NAME lies in `$QRPO_DATA/OWNER/NAME`, as `hf download OWNER/NAME --local-dir …` leaves it, or
`datasets.Dataset.save_to_disk`; a name that is the absolute path of a folder is that folder. A local copy is taken as
it is: it should be of the commit that the profile names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib import content
from qrpo_lib.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

_TOKENIZER_FILES = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "config.json"]


class HubError(InputError):
    """A model or dataset is neither at hand nor to be had; the message says what to download and where to."""


def local_copy(name: str) -> Path | None:
    """The folder of a local copy, if there is one."""
    folders = [Path(name)] if Path(name).is_absolute() else []
    if os.environ.get("QRPO_DATA"):
        folders.append(Path(os.environ["QRPO_DATA"]) / name)
    return next((folder for folder in folders if folder.is_dir()), None)


def model(name: str, revision: str | None, *, tokenizer_only: bool = False) -> Path:
    """The folder of a model, downloaded if there is no local copy. Raises HubError."""
    folder = local_copy(name)
    if folder:
        return folder
    from huggingface_hub import snapshot_download

    check_revision(name, revision, "model")
    try:
        patterns = _TOKENIZER_FILES if tokenizer_only else None
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise _unavailable(name, revision, "model", error) from None


def dataset(name: str, revision: str | None, split: str) -> Dataset:
    """One split of a dataset, downloaded if there is no local copy. Raises HubError."""
    from datasets import load_dataset, load_from_disk

    folder = local_copy(name)
    if not folder:
        check_revision(name, revision, "dataset")
    try:
        if folder and (folder / "dataset_dict.json").exists():
            return load_from_disk(str(folder))[split]
        if folder:
            return load_dataset(str(folder), split=split)
        return load_dataset(name, revision=revision, split=split)
    except (OSError, ValueError, KeyError) as error:
        if folder:
            raise HubError(f"The local copy {folder} of {name} has no readable split {split!r}: {error}") from None
        raise _unavailable(name, revision, "dataset", error) from None


def identity(name: str, revision: str | None, *, tokenizer_only: bool = False) -> dict[str, str | None]:
    """What stands for a model or dataset in the key of a step: the content of a local copy, else name and commit.

    Two local copies with the same files are the same, wherever they lie; other content under the same path is another.
    """
    folder = local_copy(name)
    if not folder:
        return {"name": name, "revision": revision}
    patterns = _TOKENIZER_FILES if tokenizer_only else ["*"]
    return {"content": content.folder_sha256(folder, patterns)}


def check(name: str, revision: str | None, kind: str) -> None:
    """Raise HubError for what could only be downloaded and names no commit. Imports nothing and asks no server."""
    if not local_copy(name):
        check_revision(name, revision, kind)


def check_revision(name: str, revision: str | None, kind: str) -> None:
    """Raise HubError without a commit: a name alone is something else tomorrow."""
    if not revision:
        address = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise HubError(
            f"The profile names no revision of the {kind} {name}: set it to a commit, which "
            f"`git ls-remote {address} main` shows, or put a copy into {_target(name)}."
        )


def _unavailable(name: str, revision: str, kind: str, error: Exception) -> HubError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return HubError(
        f"The {kind} {name} could not be downloaded ({reason}). Where the hub can be reached, run "
        f"`hf download --repo-type {kind} --revision {revision} {name} --local-dir COPY/{name}`, "
        f"then put it into {_target(name)}."
    )


def _target(name: str) -> str:
    return f"{os.environ['QRPO_DATA']}/{name}" if os.environ.get("QRPO_DATA") else f"$QRPO_DATA/{name} (set QRPO_DATA)"
