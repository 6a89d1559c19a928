"""The paper's chat datasets, Magpie-Air and UltraFeedback: filtered, split, with their own pairs (App. L.3).

Beside `prompt_id, split, prompt` the prepared rows (`qrpo_lib.tasks.hub_task`) have `chosen` and `rejected`.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from qrpo_lib.profiles.settings import ChatDataTask
from qrpo_lib.rewards import kinds
from qrpo_lib.runs import keys, progress
from qrpo_lib.tasks.hub_task import HubTask, Preparation, lengths, prepare

_AT_ONCE = 1000


class ChatData(HubTask):
    """A preference dataset as a task; the reward is what the profile names."""

    def data(self) -> keys.Step:
        """What determines the prepared dataset."""
        make = partial(prepare, self.settings, _PREPARATION)
        return keys.Step(
            "chat_data", self.data_parameters(), code=("preference_data:_PREPARATION",), make=make, alone=True
        )

    def parameters(self) -> dict[str, Any]:
        """The reward; the rows are an input."""
        return {"name": self.settings.name, "reward": kinds.parameters(self.settings.reward)}

    def reward(self) -> Any:
        """The profile's reward model."""
        return kinds.of(self.settings.reward)

    def reward_code(self) -> tuple[Any, ...]:
        """That of the kind in use."""
        return kinds.code(self.settings.reward)

    def check_available(self) -> None:
        """Dataset, tokenizer and reward model."""
        super().check_available()
        kinds.check_available(self.settings.reward)


def _usable(
    rows: Any, role: str, settings: ChatDataTask, tokenizer: Any, report: progress.Report
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The single-turn pairs that are not too long."""
    kept, dropped = [], Counter({"not_one_request_and_answer": 0, "too_long": 0})
    for start in range(0, len(rows), _AT_ONCE):
        report(start, len(rows), "rows")
        batch = rows[start : start + _AT_ONCE]
        single = [i for i in range(len(batch["chosen"])) if _is_single_turn(batch["chosen"][i], batch["rejected"][i])]
        dropped["not_one_request_and_answer"] += len(batch["chosen"]) - len(single)
        of_sides = [lengths(tokenizer, [batch[side][i] for i in single]) for side in ("chosen", "rejected")]
        for i, *of_both in zip(single, *of_sides, strict=True):
            if max(of_both) > settings.max_tokens:
                dropped["too_long"] += 1
                continue
            (request, chosen), (_, rejected) = batch["chosen"][i], batch["rejected"][i]
            texts = {"prompt": request["content"], "chosen": chosen["content"], "rejected": rejected["content"]}
            kept.append({"prompt_id": f"{role}-{start + i:06d}", **texts})
    return kept, dict(dropped)


def _is_single_turn(chosen: list[dict], rejected: list[dict]) -> bool:
    roles = [[message["role"] for message in conversation] for conversation in (chosen, rejected)]
    return roles == [["user", "assistant"]] * 2 and chosen[0]["content"] == rejected[0]["content"]


_PREPARATION = Preparation(_usable, read=("chosen", "rejected"), kept=("chosen", "rejected"))
