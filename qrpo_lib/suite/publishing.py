"""Publishing: what complete notebooks made goes to the project's `figures/`, with a manifest of who made what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qrpo_lib.runs import files, folders, records
from qrpo_lib.runs.paths import project_root

MANIFEST = "manifest.json"
# Inside a notebook's run folder, what it made to be published.
FIGURES = "figures"
_ENTRY = ("made_by", "inputs", "sha256")


def publish(job_id: str, folder: Path) -> None:
    """Copy what a complete job made to `figures/` and enter it in the manifest; what it no longer makes goes.

    `folder` is the job's run folder; only files that its record names are published.

    Raises
    ------
    CorruptedRunError
        The run folder is not what its record says.
    UnreadableFileError
        The manifest is not what was written.
    """
    record = records.check(folder)
    figures = project_root() / "figures"
    of_figures = (name for name in record["outputs"] if name.startswith(f"{FIGURES}/"))
    paths = {name.removeprefix(f"{FIGURES}/"): folder / name for name in sorted(of_figures)}
    with folders.lock(MANIFEST):  # two profiles may be reproduced at once
        manifest = read_manifest(figures)
        for name in _superseded(manifest, job_id, set(paths)):
            if _is_as_published(figures / name, manifest[name]):
                (figures / name).unlink()
            del manifest[name]
        for name, path in paths.items():
            entry = {"made_by": job_id, "inputs": record["key"], "sha256": files.file_sha256(path)}
            target = figures / name
            if manifest.get(name) != entry or not target.exists() or files.file_sha256(target) != entry["sha256"]:
                files.write_atomically(target, path.read_bytes())
                manifest[name] = entry
        content = (json.dumps(dict(sorted(manifest.items())), indent=1) + "\n").encode()
        path = figures / MANIFEST
        if not path.exists() or path.read_bytes() != content:
            files.write_atomically(path, content)


def read_manifest(figures: Path) -> dict[str, dict[str, str]]:
    """Of each published file, by its path below `figures`: the job that made it, its key, the file's SHA-256.

    Raises UnreadableFileError if the manifest is not what was written.
    """
    path = figures / MANIFEST
    if not path.exists():
        return {}
    remedy = (
        f"Restore it (`git checkout -- {path.parent.name}/{path.name}`), or remove it: `qrpo reproduce` then makes a "
        "new one."
    )
    manifest = files.read_json(path, remedy)
    for name, entry in manifest.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise files.unreadable(path, f"it names a file outside its folder, {name!r}", remedy)
        if not isinstance(entry, dict) or not all(isinstance(entry.get(field), str) for field in _ENTRY):
            raise files.unreadable(path, f"its entry for {name!r} is not {', '.join(_ENTRY)}", remedy)
    return manifest


def _is_as_published(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a file is what was published, and not what somebody has put in its place."""
    return path.is_file() and not path.is_symlink() and files.file_sha256(path) == entry["sha256"]


def _superseded(manifest: dict[str, Any], job_id: str, names: set[str]) -> list[str]:
    """Files that this job made before and makes no more. Other profiles' jobs of this id write to other folders."""
    written_to = {name.split("/")[0] for name in names}
    return [
        name
        for name, entry in manifest.items()
        if entry["made_by"] == job_id and name not in names and name.split("/")[0] in written_to
    ]
