"""What trainings in the plain loop share; that they step on their formulas: `test_relative_training`."""

from pathlib import Path

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.relatives import Method
from qrpo_lib.steps import fitting, regression_training

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml").with_training(setting="off-policy-best")
METHOD = Method(name="raw-reward", beta=0.3, learning_rate=2e-4, num_ref_rewards=4)


def test_values_of_the_papers_algorithms_are_none_of_a_relatives(runs_folder):
    """So that a sweep over them trains no relative anew."""
    step = regression_training.step(PROFILE, METHOD, 0)
    assert step.inputs == fitting.inputs(PROFILE)
    same = PROFILE.with_training(**{"qrpo.beta": 0.7, "dpo.beta": 0.7, "simpo.gamma_ratio": 0.1})
    assert regression_training.step(same, METHOD, 0).key == step.key
    assert set(regression_training.shared_settings(PROFILE)) == set(PROFILE.training.model_dump()) - {
        "qrpo",
        "dpo",
        "rebel",
        "simpo",
    }
    others = [
        regression_training.step(PROFILE.with_training(epochs=2), METHOD, 0),
        regression_training.step(PROFILE, METHOD.model_copy(update={"beta": 0.1}), 0),
        regression_training.step(PROFILE, METHOD, 1),
    ]
    assert len({one.key for one in (step, *others)}) == 4
