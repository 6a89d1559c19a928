"""`qrpo plan`: what a profile would run, before anything is submitted: stages, jobs, tokens, hours, disk. Read-only.

Numbers of steps, jobs and completions are exact. Tokens and hours rest on the assumptions that are printed below the
table and can be changed on the command line; they are estimates until a run has been measured.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from rich.console import Group
from rich.table import Table
from rich.text import Text

from qrpo_lib import dispatch, engines, pipeline, profiles, runs, suite, sweep, tasks
from qrpo_lib.dispatch import Task
from qrpo_lib.profiles import ChatDataTask, HubPolicy, LeetCodeTask, Profile, TinyPolicy

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.code_version`)

# Parameters of the models that are not made here.
_PARAMETERS = {
    "allenai/Llama-3.1-Tulu-3-8B-SFT": 8.03e9,
    "mistralai/Mistral-7B-Instruct-v0.2": 7.24e9,
    "smollm2": 134.5e6,
}
# Prompts after the paper's filter, train and held out (App. L.2).
_PROMPTS = {"magpieair": (97_812, 1_992), "ultrafeedback": (61_024, 1_995), "leetcode": (2_563, 223)}
_REWARD_MODEL_PARAMETERS = 7.5e9
_BYTES_A_TOKEN = 8  # of a completions file: ids, text and log-probability, compressed
_BYTES_A_PARAMETER = {"bfloat16": 2, "float32": 4}
_STAGES = ("policy", "sft", "sampling", "scoring", "evaluation", "training")


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


@dataclass(frozen=True)
class Stage:
    """Steps of one kind in one arm. `hours` and `tokens` are of what is still to do; `disk` in GB likewise."""

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


def tasks_of_arm(profile: Profile) -> list[Task]:
    """Every step that the arm is known to need, each after what it needs; the best cells' further seeds come later."""
    known = [*sweep.grid(profile), *sweep.scaling(profile), *sweep.transformations(profile), *sweep.figure_6(profile)]
    experiment = profile.experiment
    known.append(sweep.own_run(profile, experiment.algorithms[-1], experiment.seeds[0]))
    models = [pipeline.training(run.settings(profile), run.algorithm, run.seed) for run in dict.fromkeys(known)]
    return list(dispatch.in_order([pipeline.policy(profile), pipeline.sampling(profile), *models]).values())


def needed(profile_name: str, jobs: Iterable[suite.Job]) -> list[Task]:
    """The tasks whose folders these notebooks read, of those notebooks that are not complete."""
    read = {step.folder_name for job in jobs if not suite.is_complete(job) for step in job.inputs}
    arms = [profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)]
    return [task for profile in arms for task in tasks_of_arm(profile) if task.name in read]


def stages(profile_name: str, assumptions: Assumptions) -> list[Stage]:
    """What the profile would run. A step that several arms share is counted in the first of them."""
    found, seen = [], set()
    with anywhere(profile_name):
        for arm in profiles.arms(profile_name):
            profile = profiles.load(profile_name, arm)
            of_arm = [task for task in tasks_of_arm(profile) if task.name not in seen]
            seen |= {task.name for task in of_arm}
            for kind in _STAGES:
                of_kind = [task for task in of_arm if task.kind == kind]
                if of_kind:
                    found.append(_stage(profile, kind, of_kind, assumptions))
    return found


def _stage(profile: Profile, kind: str, of_kind: list[Task], assumed: Assumptions) -> Stage:
    there = {task.name for task in of_kind if task.step.folder.is_dir()}
    open_steps = len(of_kind) - len(there)
    resources = profile.dispatch.of_kind(kind)
    tokens, hours, disk, arithmetic = _ESTIMATES[kind](profile, assumed)
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
    )


# --- one step of each kind: tokens, device-hours, bytes, and how they come about --------------------------------------


def _of_policy(profile: Profile, assumed: Assumptions) -> tuple[float, float, float, str]:
    size = _BYTES_A_PARAMETER["bfloat16" if isinstance(profile.policy, HubPolicy) else "float32"]
    parameters = _parameters(profile)
    return 0, 0, parameters * size, f"{_short(parameters)} parameters x {size} bytes"


def _of_sft(profile: Profile, assumed: Assumptions) -> tuple[float, float, float, str]:
    train, _ = _prompts(profile)
    length = assumed.prompt_tokens + _completion_tokens(profile, assumed)
    tokens = train * profile.sft.epochs * length
    hours, told = _training_hours(profile, tokens, 8, assumed)
    return (
        tokens,
        hours,
        _policy_bytes(profile),
        f"{train:,} x {profile.sft.epochs} epochs x {length:.0f} tokens; {told}",
    )


def _of_sampling(profile: Profile, assumed: Assumptions) -> tuple[float, float, float, str]:
    train, held_out = _prompts(profile)
    settings = profile.reference_sampling
    each, length = settings.completions + settings.ref_rewards, _completion_tokens(profile, assumed)
    tokens = (train + held_out) * each * length
    hours = tokens / assumed.tokens_a_second / 3600
    told = f"{train + held_out:,} prompts x {each} x {length:.0f} tokens at {assumed.tokens_a_second:.0f}/s"
    if _has_reward_model(profile):
        read = (train + held_out) * each * (length + assumed.prompt_tokens)
        hours += 2 * _REWARD_MODEL_PARAMETERS * read / (assumed.tflops * 1e12) / 3600
        told += f", then 2 x {_short(_REWARD_MODEL_PARAMETERS)} x {_short(read)} tokens scored"
    return tokens, hours, tokens * _BYTES_A_TOKEN, told


def _of_scoring(profile: Profile, assumed: Assumptions) -> tuple[float, float, float, str]:
    train, held_out = _prompts(profile)
    read = 2 * (train + held_out) * (_completion_tokens(profile, assumed) + assumed.prompt_tokens)
    hours = 2 * _REWARD_MODEL_PARAMETERS * read / (assumed.tflops * 1e12) / 3600 if _has_reward_model(profile) else 0
    return read, hours, read * _BYTES_A_TOKEN, f"2 x {train + held_out:,} completions of the dataset scored"


def _of_evaluation(profile: Profile, assumed: Assumptions) -> tuple[float, float, float, str]:
    _, held_out = _prompts(profile)
    tokens = held_out * profile.evaluation.repeats * _completion_tokens(profile, assumed)
    told = f"{held_out:,} prompts x {profile.evaluation.repeats} x {_completion_tokens(profile, assumed):.0f} tokens"
    return tokens, tokens / assumed.tokens_a_second / 3600, tokens * _BYTES_A_TOKEN, told


def _of_training(profile: Profile, assumed: Assumptions) -> tuple[float, float, float, str]:
    train, held_out = _prompts(profile)
    settings, length = profile.training, _completion_tokens(profile, assumed)
    pairs = train * settings.pairs_per_prompt
    tokens = pairs * settings.epochs * 2 * (assumed.prompt_tokens + length)
    # Forward, backward and the forward again of gradient checkpointing, and the reference: 2 + 4 + 2 + 2.
    hours, told = _training_hours(profile, tokens, 10, assumed)
    written = settings.checkpoints * held_out * profile.evaluation.repeats * length
    hours += written / assumed.tokens_a_second / 3600
    told = (
        f"{pairs:,} pairs x 2 x {assumed.prompt_tokens + length:.0f} tokens; {told}; "
        f"{settings.checkpoints} evaluations "
        f"x {held_out:,} x {profile.evaluation.repeats} x {length:.0f} tokens"
    )
    return tokens + written, hours, _policy_bytes(profile), told


_ESTIMATES = {
    "policy": _of_policy,
    "sft": _of_sft,
    "sampling": _of_sampling,
    "scoring": _of_scoring,
    "evaluation": _of_evaluation,
    "training": _of_training,
}


def _training_hours(profile: Profile, tokens: float, factor: int, assumed: Assumptions) -> tuple[float, str]:
    parameters = _parameters(profile)
    hours = factor * parameters * tokens / (assumed.tflops * 1e12) / 3600
    return hours, f"{factor} x {_short(parameters)} x {_short(tokens)} operations"


def _policy_bytes(profile: Profile) -> float:
    return _parameters(profile) * _BYTES_A_PARAMETER[profile.training.precision]


def _completion_tokens(profile: Profile, assumed: Assumptions) -> float:
    return assumed.completion_tokens or profile.reference_sampling.max_new_tokens / 2


def _prompts(profile: Profile) -> tuple[int, int]:
    """Train and held-out prompts."""
    if isinstance(profile.task, ChatDataTask | LeetCodeTask):
        return _PROMPTS[profile.task.name]
    splits = [prompt.split for prompt in tasks.of(profile.task).prompts(profile.seed)]
    return splits.count("train"), len(splits) - splits.count("train")


def _parameters(profile: Profile) -> float:
    policy = profile.policy
    if isinstance(policy, TinyPolicy):
        width = policy.hidden_size  # of a Llama with an inner width of 3 and a tied head
        return policy.vocabulary_size * width + policy.layers * ((4 + 3 * 3) * width**2 + 2 * width) + width
    return _PARAMETERS.get(policy.model if isinstance(policy, HubPolicy) else "smollm2", 8e9)


def _has_reward_model(profile: Profile) -> bool:
    return isinstance(profile.task, ChatDataTask) and profile.task.reward.kind != "relevance"


@contextmanager
def anywhere(profile_name: str) -> Iterator[None]:
    """Context in which the keys of a profile that names vLLM can be computed without vLLM."""
    arms = [profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)]
    # Not for "auto", which stands for what there is on this machine.
    if engines.vllm_python() or all(profile.reference_sampling.backend != "vllm" for profile in arms):
        yield
        return
    os.environ["QRPO_VLLM_PYTHON"] = sys.executable
    try:
        yield
    finally:
        del os.environ["QRPO_VLLM_PYTHON"]


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
    lines += ["", f"Assumed, not measured (`qrpo plan --help`): {_told(assumed)}."]
    parent = next(path for path in (runs.runs_folder(), *runs.runs_folder().parents) if path.exists())
    lines += [f"Where: {settings.where}; results in {runs.runs_folder()}, where {_free(parent)} GB are free."]
    return Group(table, Text("\n".join(lines)))


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
