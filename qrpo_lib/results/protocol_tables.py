"""What a profile as a whole shows: the tables of App. L, its code prompts (Figures 9 to 11), Table 3 of all chat arms.

Each table is a data frame made of the profile's settings, one row for what the paper has one row for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from qrpo_lib.paper import style
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.reward_traits import has_lc_reward, prefers_length
from qrpo_lib.profiles.settings import HubPolicy, Profile
from qrpo_lib.steps import evaluation
from qrpo_lib.tasks import registry as tasks

_TRAINED_WITH = {"optimizer": "Adam", "schedule": "cosine, 10 % warm-up"}
_PAIRS = {
    "offline": "the dataset's own",
    "off-policy-best": "best and worst of {completions}",
    "off-policy-random": "random, ranked, {pairs} of {completions}",
}


def arms(profile_name: str) -> list[Profile]:
    """The profile's arms."""
    return [profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)]


def all_tables(every_arm: Sequence[Profile]) -> dict[str, pd.DataFrame]:
    """Every table of App. L, by the name that it is saved under."""
    return {
        "protocol-datasets": datasets(every_arm),
        "protocol-sampling": sampling(every_arm),
        "protocol-settings": settings(every_arm),
        "protocol-phases": phases(every_arm),
        "protocol-betas": betas(every_arm),
    }


def datasets(every_arm: Sequence[Profile]) -> pd.DataFrame:
    """Columns `arm, policy, dataset, task, filter, reward`."""
    rows = []
    for arm in every_arm:
        task = arm.task
        filters = [f"at most {task.max_tokens} tokens"] if hasattr(task, "max_tokens") else []
        filters += [f"at least {task.min_tests} test cases"] if hasattr(task, "min_tests") else []
        reward = getattr(getattr(task, "reward", None), "model", None) or getattr(task, "reward", None)
        code = task.completions == "solution"
        rows.append(
            {
                "arm": arm.arm,
                "policy": arm.policy.model if isinstance(arm.policy, HubPolicy) else arm.policy.source,
                "dataset": getattr(task, "dataset", task.name),
                "task": "coding" if code else "chat",
                "filter": ", ".join(filters) or "none",
                "reward": "share of tests passed" if code else getattr(reward, "kind", reward) or "the task's own",
            }
        )
    return pd.DataFrame(rows)


def sampling(every_arm: Sequence[Profile]) -> pd.DataFrame:
    """Columns `purpose, temperature, top_p, completions, max_new_tokens, engine`."""
    rows = []
    for arm in every_arm:
        shared = {"max_new_tokens": arm.reference_sampling.max_new_tokens, "engine": arm.reference_sampling.backend}
        rows.append(
            {"purpose": "reference completions", "temperature": 1.0, "top_p": 1.0}
            | {"completions": arm.reference_sampling.sampled}
            | shared
        )
        name = arm.policy.model if isinstance(arm.policy, HubPolicy) else arm.policy.source
        often = {"": arm.evaluation.repeats}
        if arm.evaluation.of_split("reporting") != arm.evaluation.repeats:
            often = {f", {split} prompts": arm.evaluation.of_split(split) for split in evaluation.HELD_OUT}
        for asked, completions in often.items():
            rows.append(
                {"purpose": f"evaluation ({name}{asked})"}
                | arm.evaluation_sampling
                | {"completions": completions}
                | shared
            )
    return pd.DataFrame(rows).drop_duplicates(ignore_index=True).sort_values("purpose", ignore_index=True)


def settings(every_arm: Sequence[Profile]) -> pd.DataFrame:
    """Columns `setting, fine_tuned_first, pairs, arms`."""
    rows: dict[tuple, list[str]] = {}
    for arm in every_arm:
        for setting in arm.experiment.settings or [arm.training.setting]:
            source = setting.removeprefix("sft-")
            pairs = arm.training.pairs_per_prompt
            told = _PAIRS[source].format(completions=arm.reference_sampling.completions, pairs=pairs)
            rows.setdefault((setting, "yes" if setting != source else "no", told), []).append(arm.arm)
    names = ["setting", "fine_tuned_first", "pairs", "arms"]
    return pd.DataFrame([(*key, ", ".join(members)) for key, members in rows.items()], columns=names)


def phases(every_arm: Sequence[Profile]) -> pd.DataFrame:
    """Columns `phase, epochs, learning_rates, batch_size, last_batch, optimizer, schedule, gradient_clipping, arms`."""
    rows: dict[tuple, list[str]] = {}
    names = ["phase", "epochs", "learning_rates", "batch_size", "last_batch", *_TRAINED_WITH, "gradient_clipping"]
    for arm in every_arm:
        of_arm = []
        settings_of_arm = arm.experiment.settings or [arm.training.setting]
        if arm.sft and any(name.startswith("sft-") for name in settings_of_arm):
            tuned = arm.sft
            of_arm.append(("SFT", tuned.epochs, f"{tuned.learning_rate:g}", tuned.batch_size, tuned.last_batch, "10"))
        rates = {
            rate
            for name in arm.experiment.algorithms
            for rate in arm.experiment.learning_rates.get(name) or [getattr(arm.training, name).learning_rate]
        }
        training = arm.training
        listed = ", ".join(f"{rate:g}" for rate in sorted(rates))
        of_arm.append(("RL", training.epochs, listed, training.batch_size, training.last_batch, "none"))
        for *first, clipping in of_arm:
            rows.setdefault((*first, *_TRAINED_WITH.values(), clipping), []).append(arm.arm)
    frame = pd.DataFrame([(*key, ", ".join(of_arms)) for key, of_arms in rows.items()], columns=[*names, "arms"])
    return frame.sort_values("phase", ascending=False, kind="stable", ignore_index=True)


def betas(every_arm: Sequence[Profile]) -> pd.DataFrame:
    """Columns `algorithm, betas, reference_rewards, arms`, the second last QRPO's."""
    rows: dict[tuple, list[str]] = {}
    for arm in every_arm:
        for name in arm.experiment.algorithms:
            values = arm.experiment.betas.get(name) or [getattr(arm.training, name).beta]
            references = str(arm.training.qrpo.num_ref_rewards) if name == "qrpo" else ""
            key = (style.ALGORITHMS[name].label, ", ".join(f"{value:g}" for value in values), references)
            rows.setdefault(key, []).append(arm.arm)
    names = ["algorithm", "betas", "reference_rewards", "arms"]
    frame = pd.DataFrame([(*key, ", ".join(members)) for key, members in rows.items()], columns=names)
    return frame.sort_values("algorithm", kind="stable", ignore_index=True)


def prompts(every_arm: Sequence[Profile]) -> dict[str, str]:
    """Of each code arm the first training prompt, as the policy gets it (Figures 9 to 11)."""
    code = [arm for arm in every_arm if arm.task.completions == "solution"]
    return {arm.arm: tasks.of(arm.task).prompts(arm.seed)[0].text for arm in code}


def save_prompts(texts: dict[str, str], folder: Path) -> list[Path]:
    """Write each arm's prompt to `ARM/figure-9.md` below `folder`."""
    paths = []
    for arm, text in texts.items():
        paths.append(folder / arm / "figure-9.md")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return paths


def table_3_rows(every_arm: Sequence[Profile], figures: Path) -> tuple[pd.DataFrame, list[str]]:
    """Rows of Table 3 of all chat arms, of what they have published below `figures`, and arms that have published none.

    AlpacaEval's columns are there where it was run.
    """
    parts, missing = [], []
    for arm in every_arm:
        if not has_lc_reward(arm) or prefers_length(arm):
            continue
        path = figures / arm.figures / "table-3.csv"
        if not path.is_file():
            missing.append(arm.arm)
            continue
        rows, judged = pd.read_csv(path), figures / arm.figures / "alpaca-eval.csv"
        if judged.is_file():
            board = pd.read_csv(judged)
            columns = [name for name in board if name == "method" or name.startswith("alpaca_")]
            rows = rows.merge(board[columns], on="method", how="left")
        parts.append(rows)
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()), missing
