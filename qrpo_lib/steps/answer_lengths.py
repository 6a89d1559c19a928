"""Lengths of answers as a profile counts them: in tokens of the answer, or as the authors count them.

Theirs are tokens of prompt and completion together, by the reward model's tokenizer, cut. Their online evaluation
records them (`run_online_eval.py`, `reward_tokens_len`), and the limit of 1,000 tokens, the length-controlled reward
and Figure 4 use them. A profile asks for them with `task.lengths = "paper"`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from qrpo_lib.profiles.settings import Profile
from qrpo_lib.tasks import hub_task
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 4096


def are_papers(profile: Profile) -> bool:
    """Whether the profile counts lengths as the authors; answers must then be read with their texts."""
    return getattr(profile.task, "lengths", "completion") == "paper"


def counted(profile: Profile, completions: pd.DataFrame) -> pd.DataFrame:
    """The completions, columns `prompt_id, text, length`, with their `length` counted as the profile says."""
    if not are_papers(profile):
        return completions
    prompts = {one.id: one.text for one in tasks.of(profile.task).prompts(profile.seed)}
    pairs = list(zip(completions["prompt_id"], completions["text"], strict=True))
    different = list(dict.fromkeys(pairs))  # step 0 is the same for every run
    tokenizer, lengths = _tokenizer(profile.task), []
    for start in range(0, len(different), _AT_ONCE):
        conversations = [
            [{"role": "user", "content": prompts[name]}, {"role": "assistant", "content": text.strip()}]
            for name, text in different[start : start + _AT_ONCE]
        ]
        lengths += [min(one, profile.task.max_tokens) for one in hub_task.lengths(tokenizer, conversations)]
    of = dict(zip(different, lengths, strict=True))
    return completions.assign(length=[of[pair] for pair in pairs])


@cache
def _tokenizer(task: Any) -> Any:
    return hub_task.tokenizer(task)
