"""The model card of a policy trained with `QRPOTrainer`, from known facts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from qrpo_lib.runs import files

_METHODS = {
    "qrpo": (
        "Quantile Reward Policy Optimization (QRPO)",
        "Matrenok, Moalla, Gulcehre: Quantile Reward Policy Optimization: Alignment with Pointwise Regression and "
        "Exact Partition Functions (2025)",
    ),
    "dpo": (
        "Direct Preference Optimization (DPO)",
        "Rafailov et al.: Direct Preference Optimization: Your Language Model is Secretly a Reward Model (2023)",
    ),
    "rebel": ("REBEL", "Gao et al.: REBEL: Reinforcement Learning via Regressing Relative Rewards (2024)"),
    "simpo": ("SimPO", "Meng et al.: SimPO: Simple Preference Optimization with a Reference-Free Reward (2024)"),
}
_LIBRARIES = ("qrpo-lib", "trl", "transformers", "torch", "peft")


@dataclass(frozen=True)
class Facts:
    """What a card says.

    base: name or folder of the model that training started from, None if it was only an object in memory.
    rows, pairs: how many rows of data, pairs or single completions.
    settings: of the run, by name; the first is `loss_type`.
    reference_rewards: how many each row has; None without.
    step, steps: how far training was when the card was written.
    """

    name: str
    base: str | None
    dataset: str | None
    tags: tuple[str, ...]
    rows: int
    pairs: bool
    adapter: bool
    settings: Mapping[str, Any]
    reference_rewards: int | None
    step: int
    steps: int


def write(folder: Path, facts: Facts) -> None:
    """Write `README.md`."""
    files.write_atomically(folder / "README.md", text(facts).encode())


def text(facts: Facts) -> str:
    """The card, in the hub's form: metadata, then Markdown."""
    method, source = _METHODS[facts.settings["loss_type"]]
    on_hub = facts.base if facts.base and not Path(facts.base).is_dir() else None
    shown = on_hub or (Path(facts.base).name if facts.base else "a model given in memory")
    head = ["---", f"library_name: {'peft' if facts.adapter else 'transformers'}", f"model_name: {facts.name}"]
    head += [f"base_model: {on_hub}"] if on_hub else []
    head += ["datasets:", f"- {facts.dataset}"] if facts.dataset else []
    head += ["tags:", *(f"- {tag}" for tag in dict.fromkeys(["generated_from_trainer", *facts.tags])), "---", ""]
    of = "preference pairs" if facts.pairs else "single completions with rewards"
    what = "A LoRA adapter of" if facts.adapter else "A fine-tuned version of"
    body = [
        f"# {facts.name}",
        "",
        f"{what} {shown}, trained with {method} on {facts.rows} {of}"
        + (f" of {facts.dataset}" if facts.dataset else "")
        + (f", each with {facts.reference_rewards} reference rewards" if facts.reference_rewards else "")
        + f". The card was written at step {facts.step} of {facts.steps}.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.settings.items()),
        "",
        "Nothing is said here about its quality: it was not evaluated when the card was written.",
        "",
        f"Method: {source}.",
        "",
        "Libraries: " + ", ".join(f"{name} {version}" for name in _LIBRARIES if (version := _version(name))) + ".",
        "",
    ]
    return "\n".join([*head, *body])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
