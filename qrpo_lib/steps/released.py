"""Reference completions with rewards that somebody has published, in place of sampling and scoring.

The authors' are on the hub as OWNER/qrpo-paper-POLICY-(nosft|sft)-DATASET-REWARD-temp1-ref50-offline-REWARD, in the
splits of the dataset itself. A row has (their `generate_ref_completions_with_vllm.py` and
`compute_rewards_for_completions.py`):

| column | holds |
|---|---|
| `ref_completions` | a conversation: the prompt, and as the answer a JSON list of all completions, stripped |
| `ref_rewards` | the reward of each |
| `ref_completions_reward_tokens` | what the reward model read of each: token ids of prompt and completion, cut |

Rows are found by their prompts. What cannot be what the profile describes is refused in one sentence: a prompt that is
missing, too few completions or rewards, another tokenizer. The folder is that of reference sampling; `released.json`
says where it is from and what was left out.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qrpo_lib.models import chat_template, hub
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import files, progress
from qrpo_lib.steps import shared_references, shifts
from qrpo_lib.tasks import hub_task
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

RECORD = "released.json"
_COLUMNS = ("ref_completions", "ref_rewards", "ref_completions_reward_tokens")
_AT_ONCE = 256  # rows
_TOKENIZED_ANEW = 64  # rows of a split whose tokens are compared


def source(profile: Profile) -> tuple[str, str | None] | None:
    """Dataset and commit of the released completions of the profile's reference policy; None where it samples."""
    released = profile.reference_sampling.released
    return released.of(shifts.is_tuned_first(profile.training.setting)) if released else None


def sources(profile: Profile) -> list[tuple[str, str | None]]:
    """Every dataset of released completions that the profile's settings import, with its commit."""
    released = profile.reference_sampling.released
    settings = profile.experiment.settings or [profile.training.setting]
    settings = [*settings, *(setting for study in profile.experiment.scaling for setting in study.settings)]
    found = [released.of(tuned) for tuned in sorted(map(shifts.is_tuned_first, settings))] if released else []
    return [one for one in dict.fromkeys(found) if one]


def parameters(profile: Profile) -> dict[str, Any]:
    """What of the settings determines the imported completions."""
    settings = profile.reference_sampling
    return {
        "released": hub.identity(*source(profile)),
        "completions": settings.completions,
        "ref_rewards": settings.ref_rewards,
        "references": settings.references,
        "max_new_tokens": settings.max_new_tokens,
    }


def make(profile: Profile, policy: Path, completions: Path) -> None:
    """Write the file of reference completions, in the columns of `reference_sampling.load`, some prompts at a time.

    `policy` is a folder with the policy's tokenizer. Raises `hub.HubError` for released data that do not fit.
    """
    import pyarrow as pa
    from pyarrow import parquet
    from transformers import AutoTokenizer

    name, revision = source(profile)
    task, tokenizer = profile.task, AutoTokenizer.from_pretrained(policy)
    counts: dict[str, Counter] = {}
    with contextlib.ExitStack() as stack:
        writer = None
        for role, split in (("train", task.train_split), ("test", task.test_split)):
            wanted = [
                one for one in tasks.of(task).prompts(profile.seed) if (one.split == "train") == (role == "train")
            ]
            rows = hub.dataset(name, revision, split)
            missing = [column for column in _COLUMNS if column not in rows.column_names]
            if missing:
                raise hub.HubError(f"{name} has no column {' and '.join(missing)}: it holds no released references.")
            _check_tokenizer(profile, rows, f"{name}, {split}")
            counts[role] = Counter({"rows": len(rows), "unusable_answers": 0})
            for frame in _matched(profile, rows, wanted, tokenizer, counts[role], f"reading {name}, {split}"):
                if writer is None:
                    schema = pa.Schema.from_pandas(frame, preserve_index=False).remove_metadata()
                    writer = stack.enter_context(parquet.ParquetWriter(completions, schema))
                writer.write_table(pa.Table.from_pandas(frame, schema=writer.schema, preserve_index=False))
            _check_all_found(wanted, counts[role], f"{name}, {split}")
    if profile.reference_sampling.references == "shared":
        shared_references.rewrite(completions)
    record = {"dataset": name, "revision": revision, **{role: dict(found) for role, found in counts.items()}}
    files.write_atomically(completions.parent / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _matched(profile: Profile, rows, prompts, tokenizer, found: Counter, what: str) -> Iterator[pd.DataFrame]:
    """Completions of the rows whose prompts are among `prompts`, which are taken in order; some rows at a time."""
    import pandas as pd

    waiting = defaultdict(list)
    for prompt in reversed(prompts):
        waiting[prompt.text].append(prompt)
    answers = rows.select_columns(list(_COLUMNS[:2]))
    with progress.bar(what) as report:
        for start in range(0, len(answers), _AT_ONCE):
            report(start, len(answers), "rows")
            some, frames = answers[start : start + _AT_ONCE], []
            for conversation, rewards in zip(some["ref_completions"], some["ref_rewards"], strict=True):
                text = conversation[0]["content"]
                if not waiting[text]:
                    found["of_no_prompt"] += 1
                    continue
                found["prompts"] += 1
                prompt, written = waiting[text].pop(), conversation[1]["content"]
                frames.append(_of_prompt(profile, prompt, written, rewards, tokenizer, found))
            if frames:
                yield pd.concat(frames, ignore_index=True)


def _of_prompt(profile: Profile, prompt, answers: str, rewards: list[float], tokenizer, found: Counter) -> pd.DataFrame:
    import pandas as pd

    settings = profile.reference_sampling
    texts = json.loads(answers)
    if len(texts) != len(rewards) or len(texts) < settings.sampled:
        raise hub.HubError(
            f"The released references of prompt {prompt.id} are {len(texts)} completions and {len(rewards)} rewards; "
            f"the profile needs {settings.sampled} of each (reference_sampling.completions and ref_rewards)."
        )
    made = []
    prompt_ids = chat_template.prompt_ids(tokenizer, prompt.text)
    for index, (text, reward) in enumerate(zip(texts[: settings.sampled], rewards, strict=False)):
        role = "candidate" if index < settings.completions else "reference"
        try:
            ids = _ids(tokenizer, prompt.text, text, whole=role == "candidate")
        except chat_template.UnusableAnswer:
            found["unusable_answers"] += 1
            role, ids = "unusable", []
        made.append((index, role, ids, text, "length" if len(ids) > settings.max_new_tokens else "stop", reward))
    columns = ["sample_index", "role", "token_ids", "text", "finish_reason", "reward"]
    frame = pd.DataFrame(made, columns=columns).astype({"reward": np.float32})
    of_prompt = {"prompt_id": prompt.id, "split": prompt.split, "prompt": prompt.text}
    return frame.assign(**of_prompt, prompt_ids=[prompt_ids] * len(frame), logp=np.nan)


def _ids(tokenizer, prompt: str, text: str, whole: bool) -> list[int]:
    """A completion's tokens; of what is only counted the text is tokenised by itself, which is far faster."""
    if whole:
        return chat_template.completion_ids(tokenizer, prompt, text)
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _check_tokenizer(profile: Profile, rows: Any, where: str) -> None:
    """Raise HubError unless the rewards were computed on what the task's tokenizer makes of the same conversations."""
    counting, limit = hub_task.tokenizer(profile.task), profile.task.max_tokens
    for row in rows.select(range(min(_TOKENIZED_ANEW, len(rows)))).select_columns(list(_COLUMNS)):
        prompt, text = row["ref_completions"][0], json.loads(row["ref_completions"][1]["content"])[0]
        written = chat_template.applied(
            counting, [prompt, {"role": "assistant", "content": text}], tokenize=True, return_dict=False
        )
        if list(row["ref_completions_reward_tokens"][0]) != list(written)[:limit]:
            raise hub.HubError(
                f"The rewards in {where} were computed on other tokens than {profile.task.tokenizer}, the task's "
                "tokenizer, makes of the same conversation: they are another reward model's."
            )


def _check_all_found(prompts: list, found: Counter, where: str) -> None:
    missing = len(prompts) - found["prompts"]
    if missing:
        raise hub.HubError(
            f"Of the task's {len(prompts)} prompts, {missing} are not among the {found['rows']} rows of {where}: they "
            "are of another dataset, another commit of it, or filtered in another way."
        )
