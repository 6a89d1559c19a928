"""Step 3, training: one policy fitted with one algorithm and seed, evaluated online at the start and at checkpoints.

The folder holds the final policy (`policy/`), `history.csv` (losses and metrics, one row for each step and split) and
`evaluation.csv` (online rewards, one row for each checkpoint and completion).
"""

from __future__ import annotations

import json
from pathlib import Path

from qrpo_lib import evaluation, initial_policy, preferences, progress, reference_sampling, runs
from qrpo_lib.profiles import Algorithm, Profile

_REPORTED_PRECISION = "%.9g"


def step(profile: Profile, algorithm: Algorithm, seed: int) -> runs.Step:
    """What determines the trained policy: of the losses' settings, only this algorithm's."""
    settings = profile.training.model_dump()
    loss = settings[algorithm]
    shared = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    parameters = {
        "algorithm": algorithm,
        "seed": seed,
        "loss": loss,
        "training": shared,
        "evaluation": profile.evaluation.model_dump(),
    }
    inputs = (initial_policy.step(profile), reference_sampling.step(profile))
    code = ("policy_training", "topics") if profile.task.name == "topics" else ("policy_training", "rewards")
    return runs.Step("training", parameters, inputs=inputs, code=code)


def run(profile: Profile, algorithm: Algorithm, seed: int) -> Path:
    """The folder of the trained policy, made if it is not there."""
    completions = reference_sampling.run(profile)
    policy = initial_policy.run(profile)
    return runs.complete(
        step(profile, algorithm, seed),
        lambda folder: _make(profile, algorithm, seed, policy, completions, folder),
        seed=seed,
    )


def load(folder: Path):
    """The history and the online evaluation, as two data frames."""
    import pandas as pd

    return pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "evaluation.csv")


def pairs(profile: Profile, completions: Path) -> tuple[list[dict], list[dict]]:
    """Training pairs, from the train prompts, and validation pairs, from the selection prompts."""
    frame = reference_sampling.load(completions)
    setting, seed = profile.training.setting, profile.seed
    built = []
    for split in ("train", "selection"):
        of_split = frame[frame["split"] == split]
        references = of_split[of_split["role"] == "reference"].groupby("prompt_id")["reward"].apply(list).to_dict()
        candidates = of_split[of_split["role"] == "candidate"]
        built.append(preferences.build_pairs(candidates, references, setting=setting, seed=seed))
    return built[0], built[1]


def _make(profile: Profile, algorithm: Algorithm, seed: int, policy: Path, completions: Path, folder: Path) -> None:
    import pandas as pd
    import torch
    from transformers import AutoTokenizer

    from qrpo_lib import training

    settings = profile.training
    torch.set_num_threads(settings.threads)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    train, validation = pairs(profile, completions)
    loss = getattr(settings, algorithm).model_dump()
    learning_rate, num_ref_rewards = loss.pop("learning_rate"), loss.pop("num_ref_rewards", None)
    evaluations = []

    def evaluate(step: int, model) -> None:
        # The same seed at every checkpoint: the difference between two of them has less noise.
        online = evaluation.online_rewards(profile, model, tokenizer, seed=seed)
        evaluations.append(online.assign(step=step))

    with progress.bar(f"training {algorithm}, seed {seed}") as report:
        fitted = training.fit_policy(
            policy,
            tokenizer,
            train,
            validation,
            algorithm=algorithm,
            loss=loss,
            learning_rate=learning_rate,
            batch_size=settings.batch_size,
            micro_batch_size=settings.micro_batch_size,
            epochs=settings.epochs,
            checkpoints=settings.checkpoints,
            seed=seed,
            precision=settings.precision,
            num_ref_rewards=num_ref_rewards,
            on_checkpoint=evaluate,
            progress=report,
        )
    fitted.model.to(torch.bfloat16 if settings.precision == "bfloat16" else torch.float32)
    fitted.model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    history, online = pd.DataFrame(fitted.history), pd.concat(evaluations, ignore_index=True)
    history.to_csv(folder / "history.csv", index=False, float_format=_REPORTED_PRECISION)
    online.to_csv(folder / "evaluation.csv", index=False, float_format=_REPORTED_PRECISION)
    counts = {"train_pairs": len(train), "validation_pairs": len(validation)}
    runs.write_atomically(folder / "pairs.json", json.dumps(counts).encode())
