"""Step 3, training: one policy fitted with one algorithm and seed, evaluated online at the start and at checkpoints.

The folder holds the final policy (`policy/`), `history.csv` (losses and metrics, one row for each step and split) and
`evaluation.parquet` (every completion of every checkpoint, see `RECORDED`) and `pairs.json` (how many pairs there
were, and what was left out and why).
"""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

from qrpo_lib.objective import algorithms
from qrpo_lib.profiles.settings import Algorithm, Profile
from qrpo_lib.runs import files, folders, progress
from qrpo_lib.steps import (
    dataset_pairs,
    evaluation,
    pointwise,
    reference_evaluation,
    reference_policy,
    reference_sampling,
    shifts,
)
from qrpo_lib.steps import pairs as preferences

PAIRS, HISTORY, EVALUATION = "pairs.json", "history.csv", reference_evaluation.EVALUATION
# Columns of the recorded completions: every statistic of the results is computed from these.
RECORDED = reference_evaluation.RECORDED
_REPORTED_PRECISION = "%.9g"
# The trainer's checkpoints as long as training goes on, and the name they get before they are removed.
_TRAINER, _FINISHED = ".trainer", ".finished"
_BUILT: dict[tuple, tuple[preferences.Pairs, preferences.Pairs]] = {}
_MOST_BUILT = 8


def step(profile: Profile, algorithm: Algorithm, seed: int) -> folders.Step:
    """What determines the trained policy: of the losses' settings, only this algorithm's."""
    settings = profile.training.model_dump()
    loss = settings[algorithm]
    shared = {key: value for key, value in settings.items() if key not in algorithms.ALGORITHMS}
    parameters = {
        "algorithm": algorithm,
        "seed": seed,
        "loss": loss,
        "training": shared,
        "evaluation": evaluation.parameters(profile),
    }
    inputs = (*_shared_steps(profile), reference_evaluation.step(profile, seed))
    code = (_make, *algorithms.code(algorithm), *evaluation.code(profile))
    return folders.Step("training", parameters, inputs=inputs, code=code)


def run(profile: Profile, algorithm: Algorithm, seed: int) -> Path:
    """The folder of the trained policy, made if it is not there."""
    this = step(profile, algorithm, seed)
    if this.is_complete():
        return this.folder
    prepare(profile)
    start = reference_evaluation.run(profile, seed)
    return folders.complete(
        this, lambda folder: _make(profile, algorithm, seed, start, folder), seed=seed, resumable=True
    )


def prepare(profile: Profile) -> None:
    """Make everything that training shares between algorithms, betas and seeds."""
    reference_policy.run(profile)
    reference_sampling.run(profile)
    if shifts.source(profile.training.setting) == "offline":
        dataset_pairs.run(profile)


def shared_key(profile: Profile) -> tuple[str, ...]:
    """Equal for profiles of which `prepare` makes the same."""
    return tuple(step.key for step in _shared_steps(profile))


def load_history(folder: Path):
    """Losses and metrics of training, one row for each step and split, as a data frame."""
    import pandas as pd

    return pd.read_csv(folder / HISTORY)


def load_evaluation(folder: Path, columns: list[str] | None = None):
    """The recorded completions of all checkpoints as a data frame, with these columns or all of `RECORDED`."""
    import pandas as pd

    return pd.read_parquet(folder / EVALUATION, columns=columns)


def _shared_steps(profile: Profile) -> tuple[folders.Step, ...]:
    steps = (reference_policy.step(profile), reference_sampling.step(profile))
    offline = shifts.source(profile.training.setting) == "offline"
    return (*steps, dataset_pairs.step(profile)) if offline else steps


def pairs(profile: Profile, policy: Path, completions: Path) -> tuple[preferences.Pairs, preferences.Pairs]:
    """Training pairs, from the train prompts, and validation pairs, from the selection prompts, in the setting.

    `policy` and `completions` are the folders of the reference policy and of its completions.
    """
    settings = profile.training
    frame = reference_sampling.load(completions)
    references = frame[frame["role"] == "reference"].groupby("prompt_id")["reward"].apply(list).to_dict()
    source = frame[frame["role"] == "candidate"]
    offline = shifts.source(settings.setting) == "offline"
    if offline:
        from transformers import AutoTokenizer

        source, tokenizer = (
            dataset_pairs.load(dataset_pairs.step(profile).folder),
            AutoTokenizer.from_pretrained(policy),
        )
    built = []
    for split in ("train", "selection"):
        of_split, unusable = source[source["split"] == split], {}
        if profile.task.completions == "single":
            built.append(pointwise.rows(profile, of_split, references, tokenizer))
            continue
        if offline:
            usable = dataset_pairs.with_token_ids(of_split, tokenizer)
            unusable = {"unusable_answers": (len(of_split) - len(usable)) // 2}
            of_split = usable
        rows, report = preferences.build_pairs(
            of_split,
            references,
            setting=settings.setting,
            seed=profile.seed,
            pairs_per_prompt=settings.pairs_per_prompt,
            ties=settings.ties,
            max_tokens=settings.max_tokens,
            num_ref_rewards=profile.reference_sampling.ref_rewards,
        )
        built.append(preferences.Pairs(rows, report | unusable))
    return built[0], built[1]


def _pairs_once(profile: Profile, policy: Path) -> tuple[preferences.Pairs, preferences.Pairs]:
    """The pairs, built once for the runs of one process that differ in the loss alone."""
    settings = profile.training.model_dump(exclude=set(algorithms.ALGORITHMS))
    key = (*shared_key(profile), json.dumps(settings), profile.seed, profile.reference_sampling.ref_rewards)
    if key not in _BUILT:
        while len(_BUILT) >= _MOST_BUILT:
            _BUILT.pop(next(iter(_BUILT)))
        _BUILT[key] = pairs(profile, policy, reference_sampling.step(profile).folder)
    return _BUILT[key]


def _make(profile: Profile, algorithm: Algorithm, seed: int, start: Path, folder: Path) -> None:
    import pandas as pd
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qrpo_lib.training import callbacks, trainer

    settings = profile.training
    torch.set_num_threads(settings.threads)
    policy = reference_policy.step(profile).folder
    tokenizer = AutoTokenizer.from_pretrained(policy)
    reference = AutoModelForCausalLM.from_pretrained(policy).eval()
    train, validation = _pairs_once(profile, policy)
    loss = getattr(settings, algorithm).model_dump()
    if profile.task.completions == "single":
        del loss["completions"]  # which of a pair
    learning_rate, num_ref_rewards = loss.pop("learning_rate"), loss.pop("num_ref_rewards", None)
    shutil.rmtree(folder / _FINISHED, ignore_errors=True)
    _drop_damaged(folder)

    def evaluate(step: int, model) -> None:
        # Kept at once: a killed training goes on from its last checkpoint and does not come back to earlier ones.
        path = folder / _piece(step)
        if step > 0 and files.read_sealed(path) is None:
            # The same seed at every checkpoint: the difference between two of them has less noise.
            online = evaluation.online_rewards(profile, model, tokenizer, seed=seed, reference=reference)
            if folders.is_main_process():  # processes that train together evaluate together
                files.write_sealed(path, online.assign(step=step).to_parquet())

    with progress.bar(f"training {algorithm}, seed {seed}") as report:
        fitted = trainer.fit_policy(
            policy,
            tokenizer,
            train.rows,
            validation.rows,
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
            reference_cache=folders.cache_folder("reference_log_probs"),
            output_dir=folder / _TRAINER,
            on_checkpoint=evaluate,
            progress=report,
        )
    if not folders.is_main_process():
        return
    fitted.save(folder / "policy", tokenizer, settings.precision)
    history = pd.DataFrame(fitted.history)
    parts = _evaluations(folder, callbacks.checkpoint_steps(int(history["step"].max()), settings.checkpoints))
    history.to_csv(folder / HISTORY, index=False, float_format=_REPORTED_PRECISION)
    online = pd.concat([reference_evaluation.load(start), *parts], ignore_index=True)
    online[list(RECORDED)].to_parquet(folder / EVALUATION)
    report = {"setting": settings.setting, "train": train.report, "validation": validation.report}
    folders.write_atomically(folder / PAIRS, (json.dumps(report, indent=2) + "\n").encode())
    # In this order: a run killed here must not find the trainer's last checkpoint without all the evaluations.
    (folder / _TRAINER).rename(folder / _FINISHED)
    shutil.rmtree(folder / _FINISHED)
    for path in folder.glob("evaluation-*.parquet"):
        path.unlink()


def _drop_damaged(folder: Path) -> None:
    """Remove evaluations that are not what was written, and the checkpoint behind them: training goes back for them."""
    if folders.is_main_process():
        damaged = [path for path in folder.glob("evaluation-*.parquet") if files.read_sealed(path) is None]
        for path in damaged:
            path.unlink()
        if damaged:
            shutil.rmtree(folder / _TRAINER, ignore_errors=True)
    if "WORLD_SIZE" in os.environ:  # processes that train together must find the same
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _evaluations(folder: Path, steps: set[int]):
    """The evaluations at these steps, as frames in their order. Raises UnreadableFileError if one is not there."""
    import pandas as pd

    frames = []
    for step in sorted(steps):
        path = folder / _piece(step)
        content = files.read_sealed(path)
        if content is None:
            shutil.rmtree(folder / _TRAINER, ignore_errors=True)
            raise files.unreadable(path, "it is missing or damaged", "Run the same command again: it is made anew.")
        frames.append(pd.read_parquet(io.BytesIO(content)))
    return frames


def _piece(step: int) -> str:
    """The name of the file with the evaluation at one checkpoint, until training ends."""
    return f"evaluation-{step:06d}.parquet"
