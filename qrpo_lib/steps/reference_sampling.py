"""Step 2, reference sampling: completions of every prompt from the reference policy at temperature 1, with rewards.

The folder holds `completions.parquet`: the first `completions` samples of a prompt are candidates for pairs (`role`
"candidate"), the others give its reference rewards (`role` "reference"), alone or with the candidates
(`qrpo_lib.steps.shared_references`); and `seeds.json`: backend and seeds. What somebody has published can take the
place of sampling (`qrpo_lib.steps.released`).

Any number of processes may run the same sampling at once, on one machine or on several that share the run folders, and
divide its shards between them; a killed one loses at most its shard, and the result does not depend on who made what:

    python -m qrpo_lib.steps.reference_sampling --profile tiny --arm chat --setting off-policy-best
"""

from __future__ import annotations

import argparse
import io
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.models import chat_template
from qrpo_lib.profiles import reward_traits
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import files, folders, keys, progress, shards
from qrpo_lib.runs.errors import InputError
from qrpo_lib.sampling import engines
from qrpo_lib.sampling import sampler as sampling
from qrpo_lib.steps import initial_policy, reference_policy, released, scoring, shared_references, shifts
from qrpo_lib.tasks import registry as tasks
from qrpo_lib.tasks.base import Prompt

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COMPLETIONS = "completions.parquet"
SEEDS = "seeds.json"
# Prompts sampled between two saves: what a killed run loses at most.
_PROMPTS_IN_A_SHARD = 64


def step(profile: Profile) -> keys.Step:
    """What determines the reference completions."""
    settings = profile.reference_sampling
    task = tasks.of(profile.task)
    parameters = {"task": task.parameters(), "seed": profile.seed}
    if released.source(profile):
        return keys.Step(
            "reference_sampling",
            parameters | released.parameters(profile),
            inputs=(initial_policy.step(profile), *task.inputs()),
            code=(task.prompts,),
            make=partial(_import, profile),
        )
    backend = engines.meant(settings.backend)
    make = partial(_merge_shared if settings.references == "shared" else _merge, profile)
    share, left_out = partial(_share, profile), {"released"}
    if has_given_references(profile):
        candidates, count = _candidates_alone(profile), settings.ref_rewards
        make, share = partial(_merge_with_given, candidates, count), partial(_share_candidates, candidates, count)
        left_out.add("ref_rewards")
    parameters["sampling"] = settings.model_dump(exclude=left_out) | {"backend": backend}
    return keys.Step(
        "reference_sampling",
        parameters,
        inputs=(reference_policy.step(profile), *task.inputs()),
        code=(*engines.code(backend), task.prompts, *task.reward_code()),
        make=make,
        seed=profile.seed,
        shared=share,
    )


def run(profile: Profile) -> Path:
    """The folder of the reference completions, made if it is not there; processes that call this share the work."""
    return folders.make(step(profile))


def load(folder: Path, columns: list[str] | None = None, role: str | None = None) -> pd.DataFrame:
    """The reference completions as a data frame: these columns (default: all) of this role (default: both).

    Columns `prompt_id, split, prompt, prompt_ids, sample_index, role, token_ids, text, finish_reason, logp, reward`. At
    the paper's scale all of them are tens of gigabytes: what is not asked for is not kept in memory.
    """
    import pandas as pd

    return pd.read_parquet(folder / COMPLETIONS, columns=columns, filters=role and [("role", "==", role)])


def reference_rewards(folder: Path) -> dict[str, list[float]]:
    """Of each prompt the rewards of its reference completions, in the order of sampling."""
    frame = load(folder, ["prompt_id", "reward"], role="reference")
    return frame.groupby("prompt_id")["reward"].apply(list).to_dict()


def has_given_references(profile: Profile) -> bool:
    """Whether the user's data bring the reference rewards; never for a policy that is fine-tuned first."""
    task = tasks.of(profile.task)
    own = reward_traits.is_own_data(profile) and not shifts.is_tuned_first(profile.training.setting)
    return own and profile.reference_sampling.references == "apart" and task.has_references


def _candidates_alone(profile: Profile) -> Profile:
    """The profile with no references to be sampled; its step has the same key."""
    sampling = profile.reference_sampling.model_copy(update={"ref_rewards": 0})
    return profile.model_copy(update={"reference_sampling": sampling})


def _given_references(profile: Profile, count: int) -> dict[str, list[float]]:
    """Of each prompt. Raises InputError unless all have as many as the profile says."""
    offline = shifts.source(profile.training.setting) == "offline"
    given = tasks.of(profile.task).given_references(beside_scores=not offline)
    for prompt, rewards in given.items():
        if len(rewards) != count:
            raise InputError(
                f"The prompt {prompt} comes with {len(rewards)} reference_rewards, and the profile says "
                f"reference_sampling.ref_rewards = {count}: set it to the number in the data (and "
                "training.qrpo.num_ref_rewards to how many of them count)."
            )
    return given


def _share_candidates(profile: Profile, count: int) -> None:
    _given_references(profile, count)
    _share(profile)


def _merge_with_given(profile: Profile, count: int, folder: Path) -> None:
    """The sampled candidates, and for each prompt a row without text for each reward that the data came with."""
    import pandas as pd

    _merge(profile, folder)
    frame, given = load(folder), _given_references(profile, count)
    of_prompt = ["prompt_id", "split", "prompt", "prompt_ids"]
    rows = [
        row | {"sample_index": first + i, "role": "reference", "token_ids": [], "text": "", "reward": reward}
        for first, row in zip(*_prompts_of(frame, of_prompt), strict=True)
        for i, reward in enumerate(given[row["prompt_id"]])
    ]
    added = pd.DataFrame(rows).assign(finish_reason="", logp=float("nan"))
    both = pd.concat([frame.astype({"reward": "float64"}), added[frame.columns]], ignore_index=True)
    both.to_parquet(folder / COMPLETIONS)


def _prompts_of(frame: pd.DataFrame, columns: list[str]) -> tuple[list[int], list[dict]]:
    """Of each prompt how many completions were sampled, and its columns."""
    firsts = frame.drop_duplicates("prompt_id")
    counts = frame["prompt_id"].value_counts()
    return [int(counts[name]) for name in firsts["prompt_id"]], firsts[columns].to_dict("records")


def _share(profile: Profile) -> None:
    """This process's part of sampling and scoring, to the end of both."""
    import torch
    from transformers import AutoTokenizer

    settings, policy = profile.reference_sampling, reference_policy.step(profile).folder
    torch.set_num_threads(settings.threads)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    prompts = tasks.of(profile.task).prompts(profile.seed)
    ids = [chat_template.prompt_ids(tokenizer, prompt.text) for prompt in prompts]
    longest = max(map(len, ids)) + settings.max_new_tokens
    names = _names(len(prompts))
    with (
        sampling.Sampler(policy, tokenizer, backend=settings.backend, max_model_len=longest) as sampler,
        progress.bar("sampling reference completions") as report,
    ):

        def sample(number: int) -> bytes:
            of_shard = slice(number * _PROMPTS_IN_A_SHARD, (number + 1) * _PROMPTS_IN_A_SHARD)
            frame = _sample_shard(profile, sampler, prompts[of_shard], ids[of_shard], _seed(profile, number))
            buffer = io.BytesIO()
            frame.to_parquet(buffer)
            return buffer.getvalue()

        shards.make_all(step(profile), names, sample, report)
    scoring.score(step(profile), profile, _texts(profile, names))


def _sample_shard(profile: Profile, sampler: sampling.Sampler, prompts: list[Prompt], ids, seed: int):
    import pandas as pd

    settings = profile.reference_sampling
    sampled = sampler.sample(
        ids,
        completions=settings.completions + settings.ref_rewards,
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
        batch_size=settings.batch_size,
    )
    return pd.DataFrame(
        {
            "prompt_id": prompts[completion.prompt_index].id,
            "split": prompts[completion.prompt_index].split,
            "prompt": prompts[completion.prompt_index].text,
            "prompt_ids": ids[completion.prompt_index],
            "sample_index": completion.sample_index,
            "role": "candidate" if completion.sample_index < settings.completions else "reference",
            "token_ids": completion.token_ids,
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "logp": completion.logp,
        }
        for completion in sampled
    )


def _merge(profile: Profile, folder: Path) -> None:
    this = step(profile)
    names = _names(len(tasks.of(profile.task).prompts(profile.seed)))
    _write(this, names, scoring.rewards(this, len(_texts(profile, names))), folder / COMPLETIONS)
    record = {
        "backend": this.parameters["sampling"]["backend"],
        "prompts_in_a_shard": _PROMPTS_IN_A_SHARD,
        "seeds": [_seed(profile, number) for number in range(len(names))],
    }
    files.write_atomically(folder / SEEDS, (json.dumps(record) + "\n").encode())


def _merge_shared(profile: Profile, folder: Path) -> None:
    _merge(profile, folder)
    shared_references.rewrite(folder / COMPLETIONS)


def _import(profile: Profile, folder: Path) -> None:
    released.make(profile, initial_policy.step(profile).folder, folder / COMPLETIONS)


def _write(this: keys.Step, names: list[str], rewards: np.ndarray, path: Path) -> None:
    """All shards with their rewards in one file, one after the other: never all of them in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, start = None, 0
    for name in names:
        frame = _shard(this, name)
        frame = frame.assign(reward=rewards[start : start + len(frame)])
        start += len(frame)
        if writer is None:
            schema = pa.Schema.from_pandas(frame, preserve_index=False)
            writer = pq.ParquetWriter(path, schema)
        writer.write_table(pa.Table.from_pandas(frame, schema=writer.schema, preserve_index=False))
    writer.close()


def _texts(profile: Profile, names: list[str]) -> scoring.Texts:
    """What is scored, read shard by shard."""
    settings, this = profile.reference_sampling, step(profile)
    each = settings.completions + settings.ref_rewards
    in_a_shard = _PROMPTS_IN_A_SHARD * each
    rows = len(tasks.of(profile.task).prompts(profile.seed)) * each

    def read(start: int, stop: int) -> pd.DataFrame:
        import pandas as pd

        wanted = range(start // in_a_shard, -(-stop // in_a_shard))
        frame = pd.concat([_shard(this, names[i], ["prompt", "text"]) for i in wanted], ignore_index=True)
        return frame.iloc[start - wanted.start * in_a_shard :][: stop - start]

    return scoring.Texts(rows, read)


def _shard(this: keys.Step, name: str, columns: list[str] | None = None) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(io.BytesIO(shards.read(this, name)), columns=columns)


def _names(prompts: int) -> list[str]:
    return [f"completions-{number:04d}.parquet" for number in range(-(-prompts // _PROMPTS_IN_A_SHARD))]


def _seed(profile: Profile, shard: int) -> int:
    return profile.seed * 100_003 + shard


def main(arguments: list[str] | None = None) -> None:
    """One worker, as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m qrpo_lib.steps.reference_sampling", description=main.__doc__)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--arm")
    parser.add_argument("--setting", help="the distribution-shift setting (default: the profile's)")
    given = parser.parse_args(arguments)
    print(run(profiles.load(given.profile, given.arm).with_training(setting=given.setting)))


if __name__ == "__main__":
    main()
