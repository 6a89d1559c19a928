"""Models and datasets of the Hugging Face hub, each at one commit; local copies where there are any.

A local copy of OWNER/NAME lies in `$QRPO_DATA/OWNER/NAME`, as `hf download OWNER/NAME --local-dir …` leaves it, or
`datasets.Dataset.save_to_disk`; a name that is the absolute path of a folder is that folder (in a profile also "./X",
relative to its file). A local copy is taken as it is: it should be of the commit that the profile names.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.runs import content, paths
from qrpo_lib.runs.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

_SAVED = "dataset_dict.json"  # of `DatasetDict.save_to_disk`
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
    from datasets.exceptions import DatasetsError

    folder = local_copy(name)
    if not folder:
        check_revision(name, revision, "dataset")
    cache = _datasets_cache()
    try:
        if folder and (folder / _SAVED).exists():
            return _of_saved(load_from_disk(str(folder)), folder, name, split)
        if folder:
            return load_dataset(str(folder), split=split, cache_dir=cache)
        return load_dataset(name, revision=revision, split=split, cache_dir=cache)
    except HubError:
        raise
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        if folder:
            raise _unreadable(name, folder, split, error, cache) from None
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


def rows(folder: Path, split: str) -> int | None:
    """How many rows a split of a local copy has, counted without converting anything; None if that cannot be.

    Parquet files say it themselves, of JSON lines the lines that are not blank are counted. Raises HubError.
    """
    from datasets import load_dataset_builder, load_from_disk
    from datasets.exceptions import DatasetsError

    cache = _temporary_cache()  # nothing is converted, but the cache's folder is made
    try:
        if (folder / _SAVED).exists():
            return len(_of_saved(load_from_disk(str(folder)), folder, folder.name, split))
        of_splits = load_dataset_builder(str(folder), cache_dir=cache).config.data_files
        if split not in of_splits:
            raise ValueError(f"it has {', '.join(sorted(map(str, of_splits)))}")
        counts = [_rows_of_file(Path(path)) for path in of_splits[split]]
    except HubError:
        raise
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise _unreadable(folder.name, folder, split, error, cache) from None
    return None if None in counts else sum(counts)


def _rows_of_file(path: Path) -> int | None:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_metadata(path).num_rows
    if path.suffix == ".jsonl":
        with open(path, "rb") as stream:
            return sum(bool(line.strip()) for line in stream)
    return None


def _of_saved(splits: Any, folder: Path, name: str, split: str) -> Dataset:
    if split not in splits:
        raise _unreadable(name, folder, split, ValueError(f"it has {', '.join(sorted(splits))}"), None)
    return splits[split]


def _datasets_cache() -> str | None:
    """Where `datasets` may put what it converts: its own cache (None), or one of ours where that cannot be written."""
    from datasets import config

    places = [Path(config.HF_DATASETS_CACHE), paths.cache_folder("datasets")]
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return None if place is places[0] else str(place)
        except OSError:  # a read-only home folder
            continue
    return _temporary_cache()


@cache
def _temporary_cache() -> str:
    folder = tempfile.mkdtemp(prefix="qrpo-datasets-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def check(name: str, revision: str | None, kind: str) -> None:
    """Raise HubError for what could only be downloaded and names no commit. Imports nothing and asks no server."""
    if not local_copy(name):
        check_revision(name, revision, kind)


def check_revision(name: str, revision: str | None, kind: str) -> None:
    """Raise HubError for a path without a folder, and without a commit: a name alone is something else tomorrow."""
    if Path(name).is_absolute():
        raise HubError(f"There is no folder {name}, which the profile names as its {kind}.")
    if not revision:
        address = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise HubError(
            f"The profile names no revision of the {kind} {name}: set it to a commit, which "
            f"`git ls-remote {address} main` shows, or put a copy into {_target(name)}."
        )


def _unreadable(name: str, folder: Path, split: str, error: Exception, cache_dir: str | None) -> HubError:
    """What is wrong with a local copy: without such a split, or not to be read or converted for another reason."""
    cause = error
    while cause.__cause__ or (cause.__context__ and not cause.__suppress_context__):
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(cause).split())
    reason = text.strip("'\"") if text else type(cause).__name__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        where = f" (converted in {cache_dir})" if cache_dir else ""
        return HubError(f"The local copy {folder} of {name} could not be read{where}: {reason.rstrip('.')}.")
    return HubError(f"The local copy {folder} of {name} has no readable split {split!r}: {reason.rstrip('.')}.")


def _unavailable(name: str, revision: str, kind: str, error: Exception) -> HubError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return HubError(
        f"The {kind} {name} could not be downloaded ({reason}). Where the hub can be reached, run "
        f"`hf download --repo-type {kind} --revision {revision} {name} --local-dir COPY/{name}`, "
        f"then put it into {_target(name)}."
    )


def _target(name: str) -> str:
    return f"{os.environ['QRPO_DATA']}/{name}" if os.environ.get("QRPO_DATA") else f"$QRPO_DATA/{name} (set QRPO_DATA)"
