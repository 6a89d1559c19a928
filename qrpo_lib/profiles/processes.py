"""Whether the processes that train together, as the profile's resources have them, can share its batches and GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qrpo_lib.profiles.settings import SFT, Dispatch, Training

IS_INFRASTRUCTURE = True  # changes no result

TRAIN_TOGETHER = ("sft", "reference_log_probs", "training")  # kinds of jobs


def wrong_groups(dispatch: Dispatch, fits: dict[str, SFT | Training | None]) -> str:
    """What is wrong with the jobs that train, in words; empty if nothing is.

    Found before anything runs: a job would find it after the hours of sampling that come before it.

    Parameters
    ----------
    dispatch: where jobs run, and what each kind gets.
    fits: what "sft" and "training" are to do, as far as the profile has them.
    """
    for kind in TRAIN_TOGETHER if dispatch.where != "here" else ():
        resources = dispatch.of_kind(kind)
        tasks, gpus = resources.tasks_per_node, resources.gpus_per_node
        if gpus and tasks != gpus:
            return (
                f"dispatch.resources.{kind} has tasks_per_node {tasks} and gpus_per_node {gpus}: processes that train "
                "have one GPU each, so give both the same value"
            )
    for kind, fit in fits.items():
        if fit is None:
            continue
        resources = dispatch.of_kind(kind)
        nodes = resources.nodes if dispatch.where == "slurm" else 1
        processes = 1 if dispatch.where == "here" else nodes * resources.tasks_per_node
        if fit.batch_size % (fit.micro_batch_size * processes):
            among = f" x {processes} processes (dispatch.resources.{kind})" if processes > 1 else ""
            given = f"{kind}.batch_size {fit.batch_size}"
            return f"{given} is not a multiple of micro_batch_size {fit.micro_batch_size}{among}"
    return ""
