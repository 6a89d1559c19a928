"""Settings of the studies beyond the paper: QRPO beside its relatives, each method with the values it is trained with.

    [[arms.chat.experiment.relatives]]
    study = "estimated_z"
    setting = "off-policy-random"
    methods = [
        { name = "qrpo", betas = [0.1, 0.3], num_ref_rewards = [3, 50] },
        { name = "raw-reward", betas = [0.28, 0.83], num_ref_rewards = [3, 50] },
    ]

A study is one notebook, `results/beyond_STUDY`.
"""

# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from qrpo_lib.profiles.base import Settings

IS_INFRASTRUCTURE = True  # its values are parameters of the steps

MethodName = Literal[
    "qrpo", "dpo", "raw-reward", "dro", "a-star-po", "best-of-n", "qrpo-by-length", "rpo", "ipo", "kto",
    "online-qrpo", "grpo", "rloo",
]  # fmt: skip
METHODS: tuple[str, ...] = get_args(MethodName)
ONLINE = ("online-qrpo", "grpo", "rloo")
StudyName = Literal["partitions", "estimated_z", "relatives", "online", "best_of_n"]
_Partition = Literal["exact", "finite", "discrete"]
_Data = Literal["online", "off-policy", "half", "thirds"]
# Beside beta and learning rate: what each method must be told, and what else it can be.
_NEEDED = {
    "qrpo": {"num_ref_rewards"},
    "raw-reward": {"num_ref_rewards"},
    "a-star-po": {"num_ref_rewards", "value_factor"},
    "best-of-n": {"num_ref_rewards", "best_of"},
    "qrpo-by-length": {"num_ref_rewards"},
    "kto": {"num_ref_rewards"},
    "online-qrpo": {"completions"},
    "grpo": {"completions"},
    "rloo": {"completions"},
}
_POSSIBLE = {
    "qrpo": {"partition"},
    "raw-reward": {"corrected"},
    "online-qrpo": {"num_ref_rewards", "data", "references"},
}


class _Values(Settings):
    """What a method takes beside beta, learning rate and references; None where it has no such setting.

    partition: QRPO's; "discrete" counts Z on each prompt's own references (App. E).
    corrected: whether log Z-hat of the raw reward is jackknifed.
    value_factor: A*-PO's beta_1 over its beta_2.
    best_of: N, which gives beta = 1/(N - 1).
    completions: of each prompt, that an online method trains on.
    data: of online QRPO: how many of them are online: all, none, half, or a third beside a third each offline and
        off-policy.
    references: whose rewards its quantiles are of: "fixed", the reference policy's, or "renewed", those of the other
        completions that the current policy has written for the prompt.
    """

    partition: _Partition | None = None
    corrected: bool | None = None
    value_factor: PositiveFloat | None = None
    best_of: Annotated[int, Field(ge=2)] | None = None
    completions: Annotated[int, Field(ge=2)] | None = None
    data: _Data | None = None
    references: Literal["fixed", "renewed"] | None = None


class Method(_Values):
    """One method with the values that a model is trained with."""

    name: MethodName
    beta: PositiveFloat
    learning_rate: PositiveFloat
    num_ref_rewards: PositiveInt | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What of it is set, as JSON values."""
        return self.model_dump(exclude_none=True)


class Methods(_Values):
    """A method of a study with all values that it is trained with, every combination of them.

    label: how tables and figures name it.
    """

    name: MethodName
    label: str
    betas: list[PositiveFloat] = Field(min_length=1)
    num_ref_rewards: list[PositiveInt] = []
    learning_rate: PositiveFloat | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self):
        given = {name for name in (*_Values.model_fields, "num_ref_rewards") if getattr(self, name) not in (None, [])}
        needed = set(_NEEDED.get(self.name, ()))
        if self.name == "online-qrpo" and self.references != "renewed":
            needed.add("num_ref_rewards")
        missing, unknown = sorted(needed - given), sorted(given - needed - _POSSIBLE.get(self.name, set()))
        if missing:
            raise ValueError(f"the method {self.name} needs {', '.join(missing)}")
        if unknown:
            raise ValueError(f"the method {self.name} has no {', '.join(unknown)}")
        if self.best_of and any(abs(beta * (self.best_of - 1) - 1) > 1e-9 for beta in self.betas):
            raise ValueError(f"best of {self.best_of} is beta = 1/{self.best_of - 1}, not {self.betas}")
        if self.data in ("half", "thirds") and self.completions % (2 if self.data == "half" else 3):
            raise ValueError(f"{self.completions} completions of a prompt cannot be divided: data is {self.data!r}")
        if self.references == "renewed" and self.data not in (None, "online"):
            raise ValueError("references can be renewed by the current policy's completions alone: data must be online")
        return self

    def models(self, learning_rate: float) -> list[Method]:
        """Each combination of its values, at this learning rate if it has none of its own."""
        values = {name: getattr(self, name) for name in _Values.model_fields}
        values |= {"name": self.name, "learning_rate": self.learning_rate or learning_rate}
        each = product(self.betas, self.num_ref_rewards or [None])
        return [Method(beta=beta, num_ref_rewards=n, **values) for beta, n in each]


class Study(Settings):
    """Methods that are trained on the same samples and compared in one notebook.

    setting: where the samples come from, and whether the policy is first fine-tuned.
    learning_rate: of methods that have none of their own (default: QRPO's).
    """

    study: StudyName
    setting: str
    methods: list[Methods] = Field(min_length=1)
    learning_rate: PositiveFloat | None = None

    @model_validator(mode="after")
    def _labels_differ(self):
        labels = [method.label for method in self.methods]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two methods have the same label; they are {', '.join(labels)}")
        return self

    @property
    def most_references(self) -> int:
        """The largest number of reference rewards of a prompt that a method uses."""
        return max((n for method in self.methods for n in method.num_ref_rewards), default=0)

    @property
    def most_completions(self) -> int:
        """The most completions of a prompt that were sampled beforehand that a method trains on."""
        shares = {"off-policy": 1, "half": 2, "thirds": 3}
        return max(
            (method.completions // shares[method.data] for method in self.methods if method.data in shares), default=0
        )


def wrong_studies(studies: Sequence[Study], settings: Sequence[str], references: int, candidates: int) -> str:
    """What of the studies cannot be, in words; empty if nothing.

    Parameters
    ----------
    studies: of one arm.
    settings: the names that there are.
    references, candidates: how many reference rewards and candidates of a prompt are sampled.
    """
    names = [study.study for study in studies]
    if len(set(names)) < len(names):
        return f"experiment.relatives has a study twice; they are {', '.join(names)}"
    for study in studies:
        said = f"experiment.relatives, {study.study}"
        if study.setting not in settings:
            return f"{said}: there is no setting {study.setting!r}; there are {', '.join(settings)}"
        if study.most_references > references:
            return f"{said} uses {study.most_references} reference rewards, but only {references} are sampled"
        if study.most_completions > candidates:
            return (
                f"{said} trains on {study.most_completions} candidates of a prompt, but only {candidates} are sampled"
            )
    return ""
