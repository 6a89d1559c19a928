"""What `qrpo plan` counts with: prompts of a dataset and parameters of a model, counted where they are at hand.

Nothing is downloaded, converted or written. What is neither at hand nor the paper's own is unknown; then the paper's
number is taken and the size says so.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from qrpo_lib.models import hub
from qrpo_lib.profiles.settings import ChatDataTask, HubPolicy, LeetCodeTask, Profile, RewardModel, TinyPolicy
from qrpo_lib.steps import initial_policy
from qrpo_lib.tasks import hub_task
from qrpo_lib.tasks import registry as tasks

# Parameters of the models that the suite or its own profiles name.
_PARAMETERS = {
    "allenai/Llama-3.1-Tulu-3-8B-SFT": 8.03e9,
    "mistralai/Mistral-7B-Instruct-v0.2": 7.24e9,
    "RLHFlow/ArmoRM-Llama3-8B-v0.1": 7.5e9,
    "smollm2": 134.5e6,
}
# Prompts after the paper's filter, train and held out (App. L.2).
_PROMPTS = {
    "Magpie-Align/Magpie-Air-DPO-100K-v0.1": (97_812, 1_992),
    "HuggingFaceH4/ultrafeedback_binarized": (61_024, 1_995),
    "newfacade/LeetCodeDataset": (2_563, 223),
}
_PAPERS_DATASETS = dict(zip(("magpieair", "ultrafeedback", "leetcode"), _PROMPTS, strict=True))
_PAPERS_POLICY, _PAPERS_REWARD_MODEL = 8e9, 7.5e9


@dataclass(frozen=True)
class Size:
    """A number, and a sentence on where it is from if it is not exact (else "")."""

    number: float
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """Of one arm: prompts, parameters of the policy and of the reward model (0 without one)."""

    train: Size
    held_out: Size
    policy: Size
    reward_model: Size

    @property
    def notes(self) -> list[str]:
        """What is not exact, each said once."""
        every = (self.train, self.held_out, self.policy, self.reward_model)
        return list(dict.fromkeys(size.note for size in every if size.note))


def of_arm(profile: Profile) -> Sizes:
    """All sizes of an arm. Raises HubError for a local copy that cannot be read, or whose splits are others."""
    return Sizes(*prompts(profile), policy(profile), reward_model(profile))


def prompts(profile: Profile) -> tuple[Size, Size]:
    """Train and held-out prompts: of the prepared data, of the local copy's rows before the filter, or the paper's."""
    task = profile.task
    if not isinstance(task, ChatDataTask | LeetCodeTask):
        splits = [prompt.split for prompt in tasks.of(task).prompts(profile.seed)]
        return Size(splits.count("train")), Size(len(splits) - splits.count("train"))
    (prepared,) = tasks.of(task).inputs()
    if prepared.folder.is_dir():
        counts = json.loads((prepared.folder / hub_task.COUNTS).read_text(encoding="utf-8"))
        return Size(counts["train"]["remain"]), Size(counts["test"]["remain"])
    folder = hub.local_copy(task.dataset)
    train, held_out = _PROMPTS.get(task.dataset) or _PROMPTS[_PAPERS_DATASETS[task.name]]
    if folder:
        rows = [hub.rows(folder, split) for split in (task.train_split, task.test_split)]
        if None not in rows:
            note = f"{task.dataset}: all rows of its local copy, of which the task's filters may leave fewer"
            return Size(rows[0], note), Size(rows[1], note)
        why = "its local copy's rows cannot be counted without converting it"
    else:
        why = "no local copy"
    if task.dataset in _PROMPTS:
        return Size(train), Size(held_out)
    note = (
        f"UNKNOWN: how many prompts {task.dataset} has ({why}); assumed as many as the paper's {task.name}, "
        f"{train:,} and {held_out:,}"
    )
    return Size(train, note), Size(held_out, note)


def of_split(profile: Profile, sizes: Sizes, split: str) -> int:
    """Prompts of "selection" or "reporting": counted, or the half of a dataset's test set, of which the paper's is."""
    if isinstance(profile.task, ChatDataTask | LeetCodeTask):
        selection = math.ceil(sizes.held_out.number / 2)  # as scikit-learn splits it
        return selection if split == "selection" else int(sizes.held_out.number) - selection
    return sum(prompt.split == split for prompt in tasks.of(profile.task).prompts(profile.seed))


def policy(profile: Profile) -> Size:
    """Parameters of the policy: by arithmetic, of the run folder or the local copy, or of a model that is known."""
    settings = profile.policy
    if isinstance(settings, TinyPolicy):
        width = settings.hidden_size  # of a Llama with an inner width of 3 and a tied head
        layers = settings.layers * ((4 + 3 * 3) * width**2 + 2 * width)
        return Size(settings.vocabulary_size * width + layers + width)
    if not isinstance(settings, HubPolicy):
        return Size(_PARAMETERS["smollm2"])
    converted = initial_policy.step(profile).folder
    return _model(settings.model, converted if converted.is_dir() else None, _PAPERS_POLICY)


def reward_model(profile: Profile) -> Size:
    """Parameters of the reward model; 0 for a reward without one, and for MiniLM, which is small."""
    reward = getattr(profile.task, "reward", None)
    return _model(reward.model, None, _PAPERS_REWARD_MODEL) if isinstance(reward, RewardModel) else Size(0)


def _model(name: str, folder: Path | None, papers: float) -> Size:
    folder = folder or hub.local_copy(name)
    parameters = _parameters(folder) if folder else None
    if parameters is not None:
        return Size(parameters)
    if name in _PARAMETERS:
        return Size(_PARAMETERS[name])
    why = "no readable config.json or weights in its local copy" if folder else "no local copy"
    return Size(papers, f"UNKNOWN: how many parameters {name} has ({why}); assumed {papers / 1e9:g} G, as the paper's")


def _parameters(folder: Path) -> int | None:
    """Parameters of the model in a folder, by its weights' headers or else its configuration; None if neither tells."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
        if files:
            return sum(_in_header(path) for path in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        pass  # a download that is not whole; its configuration may be there
    return _of_configuration(folder) if (folder / "config.json").is_file() else None


def _in_header(path: Path) -> int:
    """Numbers in a safetensors file, whose header alone is read. Raises SafetensorError for another file."""
    with safe_open(path, "numpy") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - it is no dictionary


def _of_configuration(folder: Path) -> int | None:
    """Parameters of the model that config.json describes, built without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config).num_parameters()
    except Exception:  # of an architecture or a file that transformers cannot read, whatever it raises
        return None
