"""The models of a study of QRPO beside its relatives: listing them, making missing ones, reading their answers.

models = relatives.models(profile, "estimated_z")
relatives.make(profile, models)
answers = relatives.answers(profile, models[0])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qrpo_lib.cluster.task import ScheduledTask
from qrpo_lib.experiment import jobs, train
from qrpo_lib.profiles.relatives import Method, Study
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import account, keys
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import reference_evaluation, relative_evaluation, relative_training

if TYPE_CHECKING:
    import pandas as pd

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

SPLITS = ("selection", "reporting")


@dataclass(frozen=True)
class Model:
    """One trained model of a study.

    label: the method's, with all that is not a number; models of one label differ in beta, references and seed.
    """

    label: str
    setting: str
    method: Method
    seed: int

    @property
    def name(self) -> str:
        """For people, and unique in a study."""
        n = self.method.num_ref_rewards
        of_references = f", n {n}" if n else ""
        return f"{self.label}, beta {self.method.beta:g}{of_references}, seed {self.seed}"

    def settings(self, profile: Profile) -> Profile:
        """The profile with the setting that this model's samples come from."""
        return profile.with_training(setting=self.setting)

    def training(self, profile: Profile) -> keys.Step:
        """The step that trains it."""
        return relative_training.step(self.settings(profile), self.method, self.seed)

    def answered(self, profile: Profile, split: str) -> keys.Step:
        """The step of its answers to the prompts of a split."""
        return relative_evaluation.step(self.settings(profile), self.method, self.seed, split)


def study(profile: Profile, name: str) -> Study:
    """A study of the profile, by its name. Raises InputError for one that the profile does not have."""
    studies = {known.study: known for known in profile.experiment.relatives}
    if name not in studies:
        there = f"it has {', '.join(studies)}" if studies else "it has none"
        raise InputError(f"The arm {profile.label!r} has no study {name!r} of relatives; {there}.")
    return studies[name]


def models(profile: Profile, name: str) -> list[Model]:
    """Every model of a study: each method with each of its values and each of the profile's seeds."""
    chosen = study(profile, name)
    rate = chosen.learning_rate or profile.training.qrpo.learning_rate
    return [
        Model(methods.label, chosen.setting, method, seed)
        for methods in chosen.methods
        for method in methods.models(rate)
        for seed in profile.experiment.seeds
    ]


def every(profile: Profile) -> list[Model]:
    """The models of all studies; one that two studies share is listed twice, with the same steps."""
    return [model for listed in profile.experiment.relatives for model in models(profile, listed.study)]


def before_training(profile: Profile, name: str, split: str) -> keys.Step:
    """The step of the reference policy's answers to the prompts of a split."""
    return reference_evaluation.step(profile.with_training(setting=study(profile, name).setting), 0, split)


def tasks(profile: Profile, wanted: Iterable[Model]) -> list[ScheduledTask]:
    """The tasks that make these models' answers to both splits, and all that they need."""
    return [jobs.relative(model.settings(profile), model.method, model.seed, s) for model in wanted for s in SPLITS]


def make(profile: Profile, wanted: Sequence[Model], what: str = "relatives") -> None:
    """Train and evaluate the models that are not there yet, on all cores or where the profile says.

    Raises
    ------
    InputError
        One could not be made, though it was tried again; the sentence says which and why. The others are there.
    """
    every_task = tasks(profile, wanted)
    train.make_all(profile, every_task, what)
    account.rests_on(keys.there(*(task.step for task in every_task)))


def answers(profile: Profile, model: Model, split: str = "reporting") -> pd.DataFrame:
    """What a model answers to the prompts of a split, without the texts: `relative_evaluation`'s rows."""
    columns = ["prompt_id", "repeat", "length", "reward"]
    columns += ["policy_logp", "ref_logp"] if split == "reporting" else []
    return relative_evaluation.load(model.answered(profile, split).folder, columns)


def answers_before(profile: Profile, name: str) -> pd.DataFrame:
    """What the policy before training answers to the reporting prompts."""
    columns = ["prompt_id", "repeat", "length", "reward"]
    return reference_evaluation.load(before_training(profile, name, "reporting").folder, columns)
