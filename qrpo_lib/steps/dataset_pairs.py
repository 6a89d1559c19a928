"""The dataset's own pairs with their rewards, for the offline settings; the same for every policy.

The folder holds `pairs.parquet`, with columns `prompt_id, split, prompt, side, text, reward`, two rows a pair.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.models import chat_template
from qrpo_lib.profiles import reward_traits
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders, keys
from qrpo_lib.steps import scoring
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

PAIRS = "pairs.parquet"


def step(profile: Profile) -> keys.Step:
    """What determines the scored pairs."""
    task = tasks.of(profile.task)
    parameters = {"task": task.parameters(), "seed": profile.seed}
    code = (task.prompts, task.demonstrations, *task.reward_code())
    made = _make_with_given if reward_traits.is_own_data(profile) else _make
    make, shared = partial(made, profile), partial(_score, profile)
    return keys.Step("dataset_pairs", parameters, task.inputs(), code, make=make, shared=shared, seed=profile.seed)


def run(profile: Profile) -> Path:
    """The folder of the scored pairs, made if it is not there; processes that call this at once share the work."""
    return folders.make(step(profile))


def load(folder: Path) -> pd.DataFrame:
    """The scored pairs."""
    import pandas as pd

    return pd.read_parquet(folder / PAIRS)


def with_token_ids(frame: pd.DataFrame, tokenizer) -> pd.DataFrame:
    """The pairs with `prompt_ids` and `token_ids` by a policy's tokenizer; pairs that it cannot encode are left out."""
    import pandas as pd

    rows, unusable = [], set()
    for row in frame.to_dict("records"):
        try:
            ids = chat_template.completion_ids(tokenizer, row["prompt"], row["text"])
        except chat_template.UnusableAnswer:
            unusable.add(row["prompt_id"])
            continue
        rows.append(row | {"prompt_ids": chat_template.prompt_ids(tokenizer, row["prompt"]), "token_ids": ids})
    usable = [row for row in rows if row["prompt_id"] not in unusable]
    return pd.DataFrame(usable, columns=[*frame.columns, "prompt_ids", "token_ids"])


def _score(profile: Profile) -> None:
    scoring.score(step(profile), profile, scoring.Texts.of(_texts(profile)))


def _make(profile: Profile, folder: Path) -> None:
    frame = _texts(profile)
    frame.assign(reward=scoring.rewards(step(profile), len(frame))).to_parquet(folder / PAIRS)


def _make_with_given(profile: Profile, folder: Path) -> None:
    """As `_make`, with the rewards that the rows came with in place of the computed ones."""
    _make(profile, folder)
    given, frame = tasks.of(profile.task).given_pair_rewards(), load(folder)
    places = zip(frame["prompt_id"], frame["side"], frame["reward"], strict=True)
    rewards = [given.get((prompt_id, side), float(reward)) for prompt_id, side, reward in places]
    frame.assign(reward=rewards).to_parquet(folder / PAIRS)


def _texts(profile: Profile) -> pd.DataFrame:
    import pandas as pd

    prompts = {item.id: item for item in tasks.of(profile.task).prompts(profile.seed)}
    rows = [
        {"prompt_id": item.prompt_id, "side": side, "text": text}
        for item in tasks.of(profile.task).demonstrations(profile.seed)
        for side, text in (("chosen", item.chosen), ("rejected", item.rejected))
        if text is not None  # single completions have no rejected one
        if prompts[item.prompt_id].split != "reporting"  # of which nothing is fitted or chosen
    ]
    frame = pd.DataFrame(rows)
    frame.insert(1, "split", [prompts[name].split for name in frame["prompt_id"]])
    frame.insert(2, "prompt", [prompts[name].text for name in frame["prompt_id"]])
    return frame
