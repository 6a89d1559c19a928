"""Settings of data and rewards of one's own: `task.name = "dataset"` or `"pointwise"`, `reward.kind = "python"`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, model_validator

from qrpo_lib.profiles.base import Commit, Settings

IS_INFRASTRUCTURE = True  # its values are parameters of the steps

# Tasks whose data are the user's: their results stand beside none of the paper's.
OWN_TASKS = ("dataset", "pointwise")


class PythonReward(Settings):
    """A reward of one's own (`qrpo_lib.rewards.python_function`).

    function: "FILE.py:FUNCTION", relative to the profile, or "MODULE:FUNCTION".
    """

    kind: Literal["python"]
    function: Annotated[str, Field(pattern=r"^.+:[A-Za-z_][A-Za-z_0-9]*$")]


class Source(Settings):
    """A dataset that rows are taken from.

    dataset: a file relative to the profile (.jsonl, .json, .csv, .parquet), a folder ("./NAME", or what
        `Dataset.save_to_disk` wrote), or OWNER/NAME of the hub.
    revision: of a dataset of the hub, a full commit hash; without one nothing is downloaded.
    train_split, test_split: by name; without a test_split a part of the train rows is held out.
    test_dataset: for data in a file, another file, whose rows are held out as those of a test_split.
    weight: how much of the train rows of a mixture comes from here, relative to the other weights; no row comes twice.
    """

    dataset: str
    revision: Commit | None = None
    train_split: str = "train"
    test_split: str | None = None
    test_dataset: str | None = None
    weight: PositiveFloat = 1.0


# A tuple, so that settings can be hashed; TOML has lists.
_Sources = Annotated[
    tuple[Source, ...], BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)
]


class OwnDataSettings(Settings):
    """What `dataset` and `pointwise` have in common; rows are in TRL's forms (`qrpo_lib.training.preference_rows`).

    label: how tables name the data (default: the dataset's name).
    dataset, revision, train_split, test_split, test_dataset: as of a `Source`; or several `sources`, a mixture.
    references: "given" trains with the rows' own `reference_rewards`, "sampled" with those of completions sampled from
        the policy. Default: given where the first row of each file has them.
    held_out: of the prompts that have no split by name, the share that selects and reports, in halves; prompts that
        occur in several rows are all in one split.
    """

    label: str | None = None
    dataset: str | None = None
    revision: Commit | None = None
    train_split: str = "train"
    test_split: str | None = None
    test_dataset: str | None = None
    sources: _Sources = ()
    references: Literal["given", "sampled"] | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @model_validator(mode="after")
    def _one_or_several(self):
        if (self.dataset is None) == (not self.sources):
            raise ValueError("say where the rows are: either dataset, or [[task.sources]] for a mixture")
        if len({(one.dataset, one.revision, one.train_split) for one in self.sources}) < len(self.sources):
            raise ValueError("sources names the same rows twice: weight says how much of a source counts")
        return self

    @property
    def all_sources(self) -> list[Source]:
        """The sources, one or several."""
        if self.sources:
            return list(self.sources)
        names = ("dataset", "revision", "train_split", "test_split", "test_dataset")
        return [Source(**{name: getattr(self, name) for name in names})]

    @property
    def shown(self) -> str:
        """How tables name the data."""
        return self.label or " + ".join(source.dataset.rstrip("/").rpartition("/")[2] for source in self.all_sources)


class PairsSettings(OwnDataSettings):
    """Preference pairs: `prompt, chosen, rejected`.

    A `chosen_reward` and a `rejected_reward` that they come with must be the profile's; without them they are scored.
    """

    completions: ClassVar[Literal["pairs"]] = "pairs"
    name: Literal["dataset"]


class PointwiseSettings(OwnDataSettings):
    """Single completions, no pairs: `prompt, completion`, for QRPO alone.

    A `reward` that they come with must be the profile's; without one they are scored.
    """

    completions: ClassVar[Literal["single"]] = "single"
    name: Literal["pointwise"]
