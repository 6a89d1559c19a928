"""`qrpo plan`: what a profile would run, before anything is submitted: stages, jobs, tokens, hours, disk. Read-only.

Numbers of steps, jobs and completions are exact. Tokens and hours rest on the assumptions that are printed below the
table and can be changed on the command line; they are estimates until a run has been measured. Prompts and parameters
are counted where data and models are at hand; what is unknown is said (`qrpo_lib.suite.plan_sizes`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, fields

from rich.console import Group
from rich.table import Table
from rich.text import Text

from qrpo_lib.cluster import dispatcher
from qrpo_lib.cluster.task import Task
from qrpo_lib.experiment import grid
from qrpo_lib.experiment import jobs as pipeline
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.settings import HubPolicy, Profile
from qrpo_lib.runs import folders
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import notebooks, plan_memory, plan_sizes
from qrpo_lib.suite.plan_sizes import Sizes

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

_BYTES_A_TOKEN = 8  # of a completions file: ids, text and log-probability, compressed
_BYTES_A_PARAMETER = {"bfloat16": 2, "float32": 4}
_STAGES = ("policy", "sft", "sampling", "scoring", "evaluation", "reference_log_probs", "training")


@dataclass(frozen=True)
class Assumptions:
    """What the estimates rest on.

    completion_tokens, prompt_tokens: means; None takes half of the most that can be sampled, and 200.
    tflops: sustained by one device in training, 10^12 operations a second.
    tokens_a_second: sampled by one device.
    """

    completion_tokens: float | None = None
    prompt_tokens: float = 200
    tflops: float = 300
    tokens_a_second: float = 2500

    def __post_init__(self):
        for of in fields(self):
            value = getattr(self, of.name)
            if value is not None and not 0 < value < math.inf:
                option = f"--{of.name.replace('_', '-')}"
                raise InputError(f"{option} must be a number above 0, not {value:g}.")


@dataclass(frozen=True)
class Stage:
    """Steps of one kind in one arm. `hours` and `tokens` are of what is still to do; `disk` in GB likewise.

    notes: what of the sizes behind the estimate is unknown or not exact (`plan_sizes`).
    """

    arm: str
    kind: str
    steps: int
    done: int
    jobs: int
    nodes: int
    tokens: float
    hours: float
    disk: float
    arithmetic: str
    notes: tuple[str, ...] = ()


def tasks_of_arm(profile: Profile) -> list[Task]:
    """Every step that the arm is known to need, each after what it needs; the best cells' further seeds come later."""
    known = [*grid.grid(profile), *grid.scaling(profile), *grid.transformations(profile), *grid.figure_6(profile)]
    experiment = profile.experiment
    known.append(grid.own_run(profile, experiment.algorithms[-1], experiment.seeds[0]))
    models = [pipeline.training(run.settings(profile), run.algorithm, run.seed) for run in dict.fromkeys(known)]
    return list(dispatcher.in_order([pipeline.policy(profile), pipeline.sampling(profile), *models]).values())


def needed(profile_name: str, jobs: Iterable[notebooks.Job]) -> list[Task]:
    """The tasks whose folders these notebooks read, of those notebooks that are not complete."""
    read = {step.folder_name for job in jobs if not notebooks.is_complete(job) for step in job.inputs}
    arms = [profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)]
    return [task for profile in arms for task in tasks_of_arm(profile) if task.name in read]


def stages(profile_name: str, assumptions: Assumptions) -> list[Stage]:
    """What the profile would run. A step that several arms share is counted in the first of them."""
    found, seen = [], set()
    for arm in profiles.arms(profile_name):
        profile = profiles.load(profile_name, arm)
        plan_memory.check(profile, plan_memory.of_arm(profile))
        of_arm = [task for task in tasks_of_arm(profile) if task.name not in seen]
        seen |= {task.name for task in of_arm}
        sizes = plan_sizes.of_arm(profile)
        for kind in _STAGES:
            of_kind = [task for task in of_arm if task.kind == kind]
            if of_kind:
                found.append(_stage(profile, kind, of_kind, assumptions, sizes))
    return found


def _stage(profile: Profile, kind: str, of_kind: list[Task], assumed: Assumptions, sizes: Sizes) -> Stage:
    there = {task.name for task in of_kind if task.step.folder.is_dir()}
    open_steps = len(of_kind) - len(there)
    resources = profile.dispatch.of_kind(kind)
    tokens, hours, disk, arithmetic = _ESTIMATES[kind](profile, assumed, sizes)
    return Stage(
        arm=profile.arm,
        kind=kind,
        steps=len(of_kind),
        done=len(there),
        jobs=open_steps * resources.workers,
        nodes=resources.nodes,
        tokens=open_steps * tokens,
        hours=open_steps * hours,
        disk=open_steps * disk / 1e9,
        arithmetic=arithmetic,
        notes=tuple(sizes.notes),
    )


# --- one step of each kind: tokens, device-hours, bytes, and how they come about --------------------------------------


def _of_policy(profile: Profile, assumed: Assumptions, sizes: Sizes) -> tuple[float, float, float, str]:
    size = _BYTES_A_PARAMETER["bfloat16" if isinstance(profile.policy, HubPolicy) else "float32"]
    parameters = sizes.policy.number
    return 0, 0, parameters * size, f"{_short(parameters)} parameters x {size} bytes"


def _of_sft(profile: Profile, assumed: Assumptions, sizes: Sizes) -> tuple[float, float, float, str]:
    train = sizes.train.number
    length = assumed.prompt_tokens + _completion_tokens(profile, assumed)
    tokens = train * profile.sft.epochs * length
    hours, told = _training_hours(sizes, tokens, 8 if profile.training.gradient_checkpointing else 6, assumed)
    return (
        tokens,
        hours,
        _policy_bytes(profile, sizes),
        f"{train:,} x {profile.sft.epochs} epochs x {length:.0f} tokens; {told}",
    )


def _of_sampling(profile: Profile, assumed: Assumptions, sizes: Sizes) -> tuple[float, float, float, str]:
    train, held_out = sizes.train.number, sizes.held_out.number
    settings = profile.reference_sampling
    each, length = settings.completions + settings.ref_rewards, _completion_tokens(profile, assumed)
    tokens = (train + held_out) * each * length
    hours = tokens / assumed.tokens_a_second / 3600
    told = f"{train + held_out:,} prompts x {each} x {length:.0f} tokens at {assumed.tokens_a_second:.0f}/s"
    if sizes.reward_model.number:
        read = (train + held_out) * each * (length + assumed.prompt_tokens)
        hours += 2 * sizes.reward_model.number * read / (assumed.tflops * 1e12) / 3600
        told += f", then 2 x {_short(sizes.reward_model.number)} x {_short(read)} tokens scored"
    return tokens, hours, tokens * _BYTES_A_TOKEN, told


def _of_scoring(profile: Profile, assumed: Assumptions, sizes: Sizes) -> tuple[float, float, float, str]:
    train, held_out = sizes.train.number, sizes.held_out.number
    read = 2 * (train + held_out) * (_completion_tokens(profile, assumed) + assumed.prompt_tokens)
    hours = 2 * sizes.reward_model.number * read / (assumed.tflops * 1e12) / 3600
    return read, hours, read * _BYTES_A_TOKEN, f"2 x {train + held_out:,} completions of the dataset scored"


def _of_evaluation(profile: Profile, assumed: Assumptions, sizes: Sizes) -> tuple[float, float, float, str]:
    held_out = sizes.held_out.number
    tokens = held_out * profile.evaluation.repeats * _completion_tokens(profile, assumed)
    told = f"{held_out:,} prompts x {profile.evaluation.repeats} x {_completion_tokens(profile, assumed):.0f} tokens"
    return tokens, tokens / assumed.tokens_a_second / 3600, tokens * _BYTES_A_TOKEN, told


def _of_training(profile: Profile, assumed: Assumptions, sizes: Sizes) -> tuple[float, float, float, str]:
    train, held_out = sizes.train.number, sizes.held_out.number
    settings, length = profile.training, _completion_tokens(profile, assumed)
    pairs = train * settings.pairs_per_prompt
    tokens = pairs * settings.epochs * 2 * (assumed.prompt_tokens + length)
    # Forward, backward, and with gradient checkpointing the forward again: 2 + 4 + 2.
    hours, told = _training_hours(sizes, tokens, 8 if settings.gradient_checkpointing else 6, assumed)
    written = settings.checkpoints * held_out * profile.evaluation.repeats * length
    hours += written / assumed.tokens_a_second / 3600
    told = (
        f"{pairs:,} pairs x 2 x {assumed.prompt_tokens + length:.0f} tokens; {told}; "
        f"{settings.checkpoints} evaluations "
        f"x {held_out:,} x {profile.evaluation.repeats} x {length:.0f} tokens"
    )
    return tokens + written, hours, _policy_bytes(profile, sizes), told


def _of_reference(profile: Profile, assumed: Assumptions, sizes: Sizes) -> tuple[float, float, float, str]:
    pairs = sizes.train.number * profile.training.pairs_per_prompt
    tokens = pairs * 2 * (assumed.prompt_tokens + _completion_tokens(profile, assumed))
    hours, told = _training_hours(sizes, tokens, 2, assumed)
    return tokens, hours, pairs * _BYTES_A_TOKEN, f"{pairs:,} pairs; {told}"


_ESTIMATES = {
    "policy": _of_policy,
    "sft": _of_sft,
    "sampling": _of_sampling,
    "scoring": _of_scoring,
    "evaluation": _of_evaluation,
    "reference_log_probs": _of_reference,
    "training": _of_training,
}


def _training_hours(sizes: Sizes, tokens: float, factor: int, assumed: Assumptions) -> tuple[float, str]:
    parameters = sizes.policy.number
    hours = factor * parameters * tokens / (assumed.tflops * 1e12) / 3600
    return hours, f"{factor} x {_short(parameters)} x {_short(tokens)} operations"


def _policy_bytes(profile: Profile, sizes: Sizes) -> float:
    return sizes.policy.number * _BYTES_A_PARAMETER[profile.training.precision]


def _completion_tokens(profile: Profile, assumed: Assumptions) -> float:
    return assumed.completion_tokens or profile.reference_sampling.max_new_tokens / 2


# --- for people -------------------------------------------------------------------------------------------------------


def render(profile_name: str, found: list[Stage], assumed: Assumptions) -> Group:
    """The table, its sums, how each estimate comes about, and what it assumes."""
    settings = profiles.load(profile_name).dispatch
    device = "GPU" if any(resources.gpus_per_node for resources in settings.resources.values()) else "device"
    columns = ("arm", "stage", "steps", "done", "jobs", "nodes a job", "tokens", f"{device}-hours", "disk (GB)")
    table = Table(*columns, box=None, pad_edge=False)
    for one in found:
        cells = (one.steps, one.done, one.jobs, one.nodes, _short(one.tokens), f"{one.hours:,.1f}", f"{one.disk:,.1f}")
        table.add_row(one.arm, one.kind, *map(str, cells))
    total = [sum(getattr(one, name) for one in found) for name in ("steps", "done", "jobs", "tokens", "hours", "disk")]
    steps, done, jobs, tokens, hours, disk = total
    table.add_row(
        "all", "", str(steps), str(done), str(jobs), "", _short(tokens), f"{hours:,.1f}", f"{disk:,.1f}", style="bold"
    )
    lines = ["", "One step of each stage, unless it is done:"]
    lines += [f"  {one.arm}, {one.kind}: {one.arithmetic}" for one in found]
    notes = dict.fromkeys(note for one in found if one.done < one.steps for note in one.notes)
    lines += ["", "Of the sizes:", *(f"  {note}." for note in notes)] if notes else []
    memory = _memory(profile_name)
    lines += ["", "Memory in training:", *memory] if memory else []
    lines += ["", f"Assumed, not measured (`qrpo plan --help`): {_told(assumed)}."]
    parent = next(path for path in (folders.runs_folder(), *folders.runs_folder().parents) if path.exists())
    lines += [f"Where: {settings.where}; results in {folders.runs_folder()}, where {_free(parent)} GB are free."]
    return Group(table, Text("\n".join(lines)))


def _memory(profile_name: str) -> list[str]:
    """What a GPU must hold in the trainings of each arm, beside what it can."""
    arms = [profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)]
    limit = arms[0].dispatch.gpu_memory_gb
    beside = "" if limit is None else f" of {limit:g}"
    return [f"  {arm.arm}: {one.told()}{beside}" for arm in arms for one in plan_memory.of_arm(arm)]


def _told(assumed: Assumptions) -> str:
    values = {field.name.replace("_", " "): getattr(assumed, field.name) for field in fields(assumed)}
    if assumed.completion_tokens is None:
        values["completion tokens"] = "half of the most that are sampled"
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in values.items())


def _free(path) -> str:
    return f"{shutil.disk_usage(path).free / 1e9:,.0f}"


def _short(number: float) -> str:
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:g}"
