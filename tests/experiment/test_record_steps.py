"""Which results a record holds: those of today's steps of an arm, whichever cells turn out to be the best."""

import made_runs
import pytest

from qrpo_lib.experiment import grid, record_steps
from qrpo_lib.experiment.record_steps import RECORDED, Known
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import folders, keys
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import reference_evaluation


@pytest.fixture
def profile(tmp_path, runs_folder):
    (tmp_path / "made.toml").write_text(made_runs.PROFILE)
    return profiles.load(str(tmp_path / "made.toml"), "chat")


def test_steps_of_the_arm_are_known_and_no_others(profile):
    known, run = Known([profile]), grid.grid(profile)[0]
    step, report = run.step(profile), run.report(profile, 4)
    assert known.folders() == {}
    missing = known.missing()
    assert step.folder_name in missing
    assert report.folder_name not in missing  # which checkpoints are reported depends on results
    made_runs.make(profile, [run], lambda run: 0.1)
    folders.complete(keys.Step("training", {"of": "another profile"}), lambda folder: None)
    folders.complete(keys.Step("notebook-x", {}), lambda folder: None)
    found = known.folders()
    kinds = [name.rpartition("-")[0] for name in found]
    assert kinds == sorted(kinds, key=RECORDED.index)
    assert set(kinds) == set(RECORDED) - {"iterative"}
    assert kinds.count("training") == 1
    assert set(missing) - set(known.missing()) == {name for name in found if name in missing}
    for one in (step, report, run.training(profile)):
        assert known.step_of(found[one.folder_name]).key == one.key
        assert known.run_of(found[one.folder_name]) == run
    shared = reference_evaluation.step(run.settings(profile), run.seed, "selection")
    assert known.run_of(found[shared.folder_name]) is None  # of many runs


def test_a_result_by_other_code_or_settings_is_not_todays(profile):
    run = grid.grid(profile)[0]
    made_runs.make(profile, [run], lambda run: 0.1)
    known = Known([profile])
    record = known.folders()[run.report(profile, 4).folder_name]
    assert known.step_of(record | {"key": "0" * 12}) is None
    assert known.step_of(record | {"inputs": {"training": "0" * 12}}) is None
    assert known.step_of(record | {"parameters": record["parameters"] | {"checkpoint": 2}}) is None


def test_an_arm_whose_lengths_are_counted_in_texts_has_no_record(profile, monkeypatch):
    monkeypatch.setattr(record_steps.answer_lengths, "are_papers", lambda profile: True)
    with pytest.raises(InputError, match="a record holds no texts"):
        Known([profile])
