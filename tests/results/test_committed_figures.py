"""The committed figures of the default profile, drawn again from the numbers beside them: the same, byte for byte."""

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from qrpo_lib.experiment import record
from qrpo_lib.experiment.record_steps import Known
from qrpo_lib.paper import claim_views, claims, style
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import best_models, figures, length_bias, verdicts
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


@pytest.mark.parametrize("profile", ["tiny", "tiny-full", "tiny-beyond", "tiny-full-beyond", "smol"])
def test_a_profile_s_committed_ledger_is_what_the_committed_verdicts_give(profile):
    """Those of several worlds, which stand beside a world's, included."""
    judged = claims.of_profile(claims.of_ledger(claims.recorded(FIGURES_FOLDER)), profile)
    text = claim_views.to_markdown(judged, rules=True)
    assert text.strip() == (FIGURES_FOLDER / profile / "claims.md").read_text().strip()


def test_the_committed_manifest_lists_the_committed_files():
    manifest = json.loads((FIGURES_FOLDER / "manifest.json").read_text())
    there = {path.relative_to(FIGURES_FOLDER).as_posix() for path in FIGURES_FOLDER.rglob("*") if path.is_file()}
    # Of records `qrpo record` keeps the checksums itself.
    others = {name for name in there if name.startswith("benchmarks/") or name.split("/")[1:2] == ["record"]}
    assert there - {"manifest.json"} == {*manifest, *others}
    for name, entry in manifest.items():
        assert files.file_sha256(FIGURES_FOLDER / name) == entry["sha256"], name


@pytest.mark.slow
def test_a_world_s_verdict_and_table_are_what_its_committed_record_gives(tmp_path, monkeypatch):
    """One arm of a world from its record alone: no policy is there, and nothing is trained."""
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path / "runs"))
    world = profiles.load("tiny-full", "chat-annotated-world-0")
    committed = FIGURES_FOLDER / world.figures
    known = Known([world])
    record.restore(known, FIGURES_FOLDER / "tiny-full" / "record" / "world-0", "the record")
    assert known.missing() == []

    best = best_models.best_models(world)
    points = best_models.length_points(world, best)
    table = best_models.length_table(points)
    judged = claims.Ledger.of_arm(tmp_path, world)
    judged.judge("blind-preferences-keep-the-robustness", **verdicts.blind_preferences(best, points, table))
    style.save_table("length-bias", table, style.frame_markdown(table, 3), tmp_path)

    pd.testing.assert_frame_equal(
        length_bias.shown(points).reset_index(drop=True), pd.read_csv(committed / "figure-4.csv"), rtol=1e-11
    )
    names = ("length-bias.csv", "length-bias.md", "claims/blind-preferences-keep-the-robustness.json")
    for name in names:
        assert (tmp_path / name).read_text() == (committed / name).read_text(), name
