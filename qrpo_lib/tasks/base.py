"""What every task offers: prompts in their splits, completions of its own if it has any, and a reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from qrpo_lib.runs import keys

Split = Literal["train", "selection", "reporting"]
SPLITS: tuple[Split, ...] = ("train", "selection", "reporting")


@dataclass(frozen=True)
class Prompt:
    """A single-turn request."""

    id: str
    split: Split
    text: str


@dataclass(frozen=True)
class Demonstration:
    """What a task's dataset has for a prompt: a good completion, and a worse one where the data are pairs."""

    prompt_id: str
    chosen: str
    rejected: str | None = None


class Task(ABC):
    """One task as a profile sets it; `settings` are the profile's."""

    def __init__(self, settings: Any):
        self.settings = settings

    @abstractmethod
    def prompts(self, seed: int) -> list[Prompt]:
        """All prompts. Models are trained on "train", chosen on "selection" and reported on "reporting"."""

    @abstractmethod
    def reward(self) -> Any:
        """An object with `score(prompts, completions)` (`qrpo_lib.rewards.base.Reward`)."""

    def demonstrations(self, seed: int) -> list[Demonstration]:
        """The dataset's own completions, for the offline settings and for fine-tuning on the chosen ones.

        Raises ValueError for a task that has none.
        """
        raise ValueError(
            f"The task {self.settings.name} has no completions of its own: choose a setting that needs none."
        )

    def inputs(self) -> tuple[keys.Step, ...]:
        """The steps that the prompts come from: none for those that the suite carries or generates."""
        return ()

    def parameters(self) -> dict[str, Any]:
        """What of the settings determines prompts and rewards, beside `inputs`: part of the key of each step."""
        return self.settings.model_dump()

    def prompt_parameters(self) -> dict[str, Any]:
        """Those of the parameters that determine prompts and demonstrations, whatever the reward."""
        return self.settings.model_dump()

    def reward_code(self) -> tuple[Any, ...]:
        """The entry points of the reward's code (`qrpo_lib.runs.code_version`)."""
        return (self.reward,)

    def check_available(self) -> None:
        """Raise `hub.HubError` if something of the hub is neither here nor named with its commit. Asks no server."""
        return


def in_splits(texts: list[str], settings: Any) -> list[Prompt]:
    """Generated requests as prompts: so many for each split as the settings say, in the order of SPLITS."""
    sizes = (settings.train_prompts, settings.selection_prompts, settings.reporting_prompts)
    splits = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
    return [Prompt(f"t{i:05d}", split, text) for i, (split, text) in enumerate(zip(splits, texts, strict=True))]


def generated_prompts(settings: Any) -> int:
    """How many prompts a generated task has in all."""
    return settings.train_prompts + settings.selection_prompts + settings.reporting_prompts
