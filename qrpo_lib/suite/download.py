"""Downloads of a profile's models and datasets as a step of its own: by revision, into $QRPO_DATA, checked by hash.

    QRPO_DATA=/scratch/me/data qrpo download --profile gh200

Jobs then read the local copies and need neither network nor token (`qrpo_lib.models.hub`). What the hub says a file's
hash is, the file on disk must have; `SHA256SUMS` beside the files lets `qrpo download` and `sha256sum -c` check again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrpo_lib.models import hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.files import is_file_of_rows
from qrpo_lib.profiles.settings import ChatDataTask, DatasetTask, HubPolicy, LeetCodeTask, PointwiseTask
from qrpo_lib.runs import files
from qrpo_lib.steps import released

SUMS = "SHA256SUMS"
_LINE = re.compile(r"[0-9a-f]{64}  \S.*")
_NOTES = ".cache"  # of huggingface_hub, in the folder it downloads to


@dataclass(frozen=True)
class HubSource:
    """A model or a dataset at one commit."""

    kind: str
    name: str
    revision: str | None

    @property
    def folder(self) -> Path:
        """Where its copy lies, or will. Raises HubError without $QRPO_DATA."""
        if not os.environ.get("QRPO_DATA"):
            raise hub.HubError("Set QRPO_DATA to the folder that downloads go to; jobs read them from there.")
        return Path(os.environ["QRPO_DATA"]) / self.name


def sources(profile_name: str) -> list[HubSource]:
    """Everything of the hub that a profile uses, each once."""
    wanted = []
    for arm in profiles.arms(profile_name):
        profile = profiles.load(profile_name, arm)
        if isinstance(profile.policy, HubPolicy):
            wanted.append(HubSource("model", profile.policy.model, profile.policy.revision))
        if isinstance(profile.task, ChatDataTask | LeetCodeTask):
            wanted.append(HubSource("dataset", profile.task.dataset, profile.task.revision))
            wanted.append(HubSource("model", profile.task.tokenizer, profile.task.tokenizer_revision))
        if isinstance(profile.task, DatasetTask | PointwiseTask):
            sources = [one for one in profile.task.all_sources if not is_file_of_rows(one.dataset)]
            wanted += [HubSource("dataset", one.dataset, one.revision) for one in sources]
        if hasattr(getattr(profile.task, "reward", None), "model"):
            wanted.append(HubSource("model", profile.task.reward.model, profile.task.reward.revision))
        wanted += [HubSource("dataset", *source) for source in released.sources(profile)]
        if profile.alpaca_eval:
            wanted.append(HubSource("dataset", profile.alpaca_eval.dataset, profile.alpaca_eval.revision))
    # A tokenizer is usually the policy's own, then named without a revision a second time.
    named = {(source.kind, source.name) for source in wanted if source.revision}
    return [source for source in dict.fromkeys(wanted) if source.revision or (source.kind, source.name) not in named]


def fetch(source: HubSource, api: Any = None, tell: Callable[[str], None] = print) -> None:
    """Download what is not there yet, and check every file.

    Raises
    ------
    HubError
        No revision is named, the folder holds a copy that was not downloaded by this, the hub cannot be reached, or a
        file differs from what the hub or `SHA256SUMS` says.
    """
    folder = source.folder
    if Path(source.name).is_absolute() and folder.is_dir():
        tell(f"a folder of your own: {source.name}")
        return
    if (folder / SUMS).exists():
        check(source)
        tell(f"there and whole: {source.name}")
        return
    hub.check_revision(source.name, source.revision, source.kind)
    _check_free(folder)
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    tell(f"downloading {source.kind} {source.name} at {source.revision}")
    try:
        described = api.repo_info(
            source.name, repo_type=source.kind, revision=source.revision, files_metadata=True
        ).siblings
        api.snapshot_download(source.name, repo_type=source.kind, revision=source.revision, local_dir=folder)
    except (OSError, ValueError) as error:
        raise hub.HubError(f"{source.kind} {source.name} could not be downloaded: {error}") from None
    for entry in described:
        differs = _differs(folder / entry.rfilename, entry)
        if differs:
            raise hub.HubError(f"{folder / entry.rfilename} {differs}: remove it and run the same command again.")
    sums = "".join(f"{files.file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder))
    files.write_atomically(folder / SUMS, sums.encode())  # last: it says that all is there


def _check_free(folder: Path) -> None:
    """Refuse to download over files of somebody else's; the downloader's notes show a download that was interrupted."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _NOTES).is_dir():
        raise hub.HubError(
            f"{folder} holds files that `qrpo download` did not put there; jobs read them as they are. To download "
            "instead, move them away and run the same command again."
        )


def check(source: HubSource) -> None:
    """Raise HubError if a file is not what `SHA256SUMS` says, or `SHA256SUMS` not what was written."""
    sums = source.folder / SUMS
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise hub.HubError(f"{sums} cannot be read ({error}): remove it and download again.") from None
    if not lines or not all(_LINE.fullmatch(line) for line in lines):
        raise hub.HubError(f"{sums} was damaged: remove it and download again; files that are whole stay.")
    for line in lines:
        expected, _, name = line.partition("  ")
        path = source.folder / name
        if not path.is_file() or files.file_sha256(path) != expected:
            raise hub.HubError(
                f"{path} is missing or was changed: remove {source.folder / SUMS} and that file, then download again."
            )


def _differs(path: Path, described: Any) -> str:
    """How a file differs from its description by the hub; empty if it does not."""
    if not path.is_file():
        return "is missing"
    if described.size is not None and path.stat().st_size != described.size:
        return f"has {path.stat().st_size} bytes instead of {described.size}"
    if described.lfs is not None:
        return "" if files.file_sha256(path) == described.lfs.sha256 else "has another SHA-256 than the hub says"
    if described.blob_id:
        content = path.read_bytes()
        git_hash = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return "" if git_hash == described.blob_id else "has another hash than the hub says"
    return ""


def _files(folder: Path) -> Iterator[Path]:
    """The files of the copy, without the downloader's own notes."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _NOTES not in path.relative_to(folder).parts and path.name != SUMS:
            yield path
