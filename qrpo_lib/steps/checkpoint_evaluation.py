"""Step 4, evaluation: what the checkpoints of a training answer to held-out prompts.

    step          every checkpoint's answers to the selection prompts, from which checkpoints are chosen
    report_step   one checkpoint's answers to the reporting prompts, for those that are reported alone

Each folder holds `evaluation.parquet`: one row for each answer (`qrpo_lib.steps.evaluation`). Step 0, the policy before
training, is in a folder of its own (`qrpo_lib.steps.reference_evaluation`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qrpo_lib.profiles.settings import Algorithm, Profile
from qrpo_lib.runs import folders, keys
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import evaluation, fitting, reference_evaluation
from qrpo_lib.tasks import registry as tasks


def step(
    profile: Profile, algorithm: Algorithm, seed: int, known_inputs: tuple[keys.Step, keys.Step] | None = None
) -> keys.Step:
    """What determines the answers of all checkpoints of a training to the selection prompts.

    Parameters
    ----------
    profile: its settings.
    algorithm, seed: of the training.
    known_inputs: the training, and the evaluation of the reference policy, where many steps that share them are made.
    """
    return _step("evaluation", profile, algorithm, seed, None, known_inputs)


def report_step(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int) -> keys.Step:
    """What determines one checkpoint's answers to the reporting prompts.

    Parameters
    ----------
    profile: its settings.
    algorithm, seed: of the training.
    checkpoint: after how many steps of the training, at least 1; the policy before it is `reference_evaluation`'s.
    """
    return _step("report", profile, algorithm, seed, checkpoint)


def run(profile: Profile, algorithm: Algorithm, seed: int) -> Path:
    """The folder of the answers to the selection prompts, made if it is not there; processes share the work."""
    return folders.make(step(profile, algorithm, seed))


def report(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int) -> Path:
    """The folder of a checkpoint's answers to the reporting prompts, made if it is not there.

    Parameters
    ----------
    profile, algorithm, seed, checkpoint: as in `report_step`.

    Raises
    ------
    InputError
        The training no longer holds the policy of that checkpoint.
    """
    return folders.make(report_step(profile, algorithm, seed, checkpoint))


def policy(training: Path, checkpoint: int) -> Path:
    """The folder of the policy after so many steps of the training in this folder. Raises InputError if it is gone."""
    return _policies(training, [checkpoint])[checkpoint]


def _step(
    name: str,
    profile: Profile,
    algorithm: Algorithm,
    seed: int,
    checkpoint: int | None,
    known_inputs: tuple[keys.Step, keys.Step] | None = None,
) -> keys.Step:
    split = _split(checkpoint)
    training, before = known_inputs or (
        fitting.step(profile, algorithm, seed),
        reference_evaluation.step(profile, seed, split),
    )
    # Those of the training tell people, and programs that read records, whose answers these are.
    told = training.parameters | ({} if checkpoint is None else {"checkpoint": checkpoint})
    arguments = (profile, algorithm, seed, checkpoint)
    return keys.Step(
        name,
        told | evaluation.parameters(profile, split),
        inputs=(training, before, *tasks.of(profile.task).inputs()),
        code=evaluation.code(profile),
        make=partial(_make, *arguments),
        seed=seed,
        shared=partial(_share, *arguments),
    )


def _share(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int | None) -> None:
    evaluation.share(_this(profile, algorithm, seed, checkpoint), _asked(profile, algorithm, seed, checkpoint))


def _make(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int | None, folder: Path) -> None:
    this = _this(profile, algorithm, seed, checkpoint)
    made = evaluation.recorded(this, _asked(profile, algorithm, seed, checkpoint))
    made.to_parquet(folder / evaluation.EVALUATION)


def _this(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int | None) -> keys.Step:
    if checkpoint is None:
        return step(profile, algorithm, seed)
    return report_step(profile, algorithm, seed, checkpoint)


def _split(checkpoint: int | None) -> str:
    return "selection" if checkpoint is None else "reporting"


def _asked(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int | None) -> evaluation.Asked:
    training = fitting.step(profile, algorithm, seed).folder
    steps = fitting.reached(profile, fitting.last_step(training)) if checkpoint is None else [checkpoint]
    before = reference_evaluation.step(profile, seed, _split(checkpoint)).folder
    known = evaluation.load(before, ["prompt_id", "text", "reward"])
    return evaluation.Asked(profile, seed, _split(checkpoint), _policies(training, steps), known)


def _policies(training: Path, steps: list[int]) -> dict[int, Path]:
    there = fitting.checkpoints(training)
    gone = [step for step in steps if step not in there]
    if gone:
        raise InputError(
            f"{training} has no policy after {', '.join(map(str, gone))} steps any more, since it had been evaluated: "
            f"remove the folder (`qrpo clean --run {training.name}`) and run the same command again to train it anew, "
            'with evaluation.kept = "all" in the profile if such checkpoints are to stay.'
        )
    return {step: there[step] for step in steps}
