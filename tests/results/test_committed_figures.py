"""The committed figures of the default profile, drawn again from the numbers beside them: the same, byte for byte."""

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from qrpo_lib.paper import style
from qrpo_lib.results import figures
from qrpo_lib.runs import files, paths
from qrpo_lib.suite import notebooks

FIGURES_FOLDER = paths.PACKAGE.parent / "figures"
FOLDER = FIGURES_FOLDER / "tiny" / "chat"
FIGURES = {
    "figure-3": figures.draw_scaling,
    "figure-6": figures.draw_log_ratios,
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_committed_figure_is_what_its_numbers_give(name, tmp_path):
    if not (FOLDER / f"{name}.csv").is_file():
        pytest.skip(f"figures/tiny/chat/{name} is not committed: run `qrpo reproduce` and commit figures/")
    rows = pd.read_csv(FOLDER / f"{name}.csv")
    figure = FIGURES[name](rows)
    made = style.save(figure, name, rows, tmp_path)
    plt.close(figure)
    # A PDF's coordinates can have digits that the numbers' 12 do not hold; pixels and the numbers themselves have not.
    for path in (path for path in made if path.suffix != ".pdf"):
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name


@pytest.mark.parametrize("profile", ["tiny", "smol"])
def test_the_committed_manifest_is_of_the_committed_code(profile):
    """A complete reproduction publishes the same keys, so it leaves the working tree as it was."""
    keys = {job.id: job.step.key for job in notebooks.jobs(profile)}
    manifest = json.loads((FIGURES_FOLDER / "manifest.json").read_text())
    shared = {job.id for job in notebooks.jobs(profile) if "profile" not in job.parameters}
    of_profile = {
        name: entry for name, entry in manifest.items() if name.startswith(f"{profile}/") or entry["made_by"] in shared
    }
    assert any(name.startswith(f"{profile}/") for name in of_profile)
    stale = {name for name, entry in of_profile.items() if keys.get(entry["made_by"]) != entry["inputs"]}
    assert not stale, f"run `make reproduce PROFILE={profile}` and commit figures/: {sorted(stale)[:3]}"


def test_the_committed_manifest_lists_the_committed_files():
    manifest = json.loads((FIGURES_FOLDER / "manifest.json").read_text())
    there = {path.relative_to(FIGURES_FOLDER).as_posix() for path in FIGURES_FOLDER.rglob("*") if path.is_file()}
    # Of records `qrpo record` keeps the checksums itself.
    others = {name for name in there if name.startswith("benchmarks/") or name.split("/")[1:2] == ["record"]}
    assert there - {"manifest.json"} == {*manifest, *others}
    for name, entry in manifest.items():
        assert files.file_sha256(FIGURES_FOLDER / name) == entry["sha256"], name
