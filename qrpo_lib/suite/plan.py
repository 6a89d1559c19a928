"""`qrpo plan`: what a profile would run, before anything is submitted: stages, jobs, tokens, hours, disk. Read-only.

Numbers of steps, jobs and completions are exact, but for reports: which checkpoints are reported is known in the end,
so that the most that can be is planned. Tokens and hours rest on the assumptions that are printed below the table, with
where each is from, and can be changed on the command line; they are estimates until a run has been measured. Prompts
and parameters are counted where data and models are at hand; what is unknown is said (`qrpo_lib.suite.plan_sizes`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import get_args

from rich.console import Group
from rich.table import Table
from rich.text import Text

from qrpo_lib.cluster.task import ScheduledTask, in_order
from qrpo_lib.experiment import grid, relatives
from qrpo_lib.experiment import jobs as pipeline
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.settings import HubPolicy, Profile
from qrpo_lib.runs import paths, records
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import notebooks, plan_memory, plan_sizes
from qrpo_lib.suite.plan_sizes import Sizes

_BYTES_A_TOKEN = 8  # of a completions file: ids, text and log-probability, compressed
_BYTES_A_PARAMETER = {"bfloat16": 2, "float32": 4}
_BYTES_TO_RESUME = 12  # a parameter: weights and Adam's two moments in float32
_REPORTS = "reports"
_SUMMED = ("steps", "done", "jobs", "tokens", "hours", "disk")  # over all stages
# Operations a parameter and token: the forward pass, the backward pass, and the forward pass again where activations
# are not kept (gradient checkpointing).
_FORWARD, _BACKWARD, _AGAIN = 2, 4, 2
# The authors' notes beside their script that samples reference completions
# (reproducibility-scripts/neurips-2025-chat/4-generate-ref-completions/generate_submit.py): on one GH200 about 6,000
# tokens a second, and 1,024 prompts with 50 completions each in an hour.
_AUTHORS_TOKENS_A_SECOND = 6000
_AUTHORS_COMPLETION_TOKENS = round(_AUTHORS_TOKENS_A_SECOND * 3600 / (1024 * 50))
_SOURCES = {
    "completion_tokens": "what the authors note, 1,024 prompts x 50 completions in an hour, or half of the most that "
    "can be sampled where that is less",
    "prompt_tokens": "a guess",
    "tflops": "a guess, 30 % of a GH200's 989 in dense bfloat16",
    "tokens_a_second": "the authors' note on vLLM on one GH200; other engines are slower",
}


@dataclass(frozen=True)
class Assumptions:
    """What the estimates rest on.

    completion_tokens, prompt_tokens: means; None takes what the authors note, or half of the most that can be sampled
        where that is less.
    tflops: sustained by one device, 10^12 operations a second.
    tokens_a_second: sampled by one device.
    """

    completion_tokens: float | None = None
    prompt_tokens: float = 200
    tflops: float = 300
    tokens_a_second: float = _AUTHORS_TOKENS_A_SECOND

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < math.inf:
                option = f"--{field.name.replace('_', '-')}"
                raise InputError(f"{option} must be a number above 0, not {value:g}.")

    def seconds(self, operations: float) -> float:
        """How long one device takes for so many operations."""
        return operations / (self.tflops * 1e12)


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


@dataclass(frozen=True)
class Cost:
    """Of one step: tokens, seconds of one device, bytes that stay, and how they come about."""

    tokens: float
    seconds: float
    bytes: float
    told: str


def tasks_of_arm(profile: Profile) -> list[ScheduledTask]:
    """Every step that the arm is known to need, each after what it needs; the best cells' further seeds come later."""
    before = [pipeline.policy(profile), pipeline.sampling(profile)]
    if profile.experiment.shows == "relatives":
        tasks = in_order([*before, *relatives.tasks(profile, relatives.every(profile))]).values()
        return list({task.name: task for task in tasks}.values())
    known = [*grid.grid(profile), *grid.scaling(profile), *grid.transformations(profile), *grid.figure_6(profile)]
    experiment = profile.experiment
    known.append(grid.own_run(profile, experiment.algorithms[-1], experiment.seeds[0]))
    models = pipeline.evaluations(profile, dict.fromkeys(known))
    return list(in_order([*before, *models]).values())


def needed(profile_name: str, jobs: Iterable[notebooks.Job]) -> list[ScheduledTask]:
    """The tasks whose folders these notebooks read, of those notebooks that are not complete."""
    read = {step.folder_name for job in jobs if not notebooks.is_complete(job) for step in job.inputs}
    arms = [profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)]
    return [task for profile in arms for task in tasks_of_arm(profile) if task.name in read]


def stages(profile_name: str, assumptions: Assumptions) -> list[Stage]:
    """What the profile would run. A step that several arms share is counted in the first of them."""
    planned, seen = [], set()
    for arm in profiles.arms(profile_name):
        profile = profiles.load(profile_name, arm)
        plan_memory.check(profile, plan_memory.of_arm(profile))
        of_arm = [task for task in tasks_of_arm(profile) if task.name not in seen]
        seen |= {task.name for task in of_arm}
        sizes = plan_sizes.of_arm(profile)
        kinds = dict.fromkeys([*get_args(profiles.Kind), *(task.kind for task in of_arm)])
        for kind in kinds:
            of_kind = [task for task in of_arm if task.kind == kind]
            if of_kind:
                planned.append(_stage(profile, kind, of_kind, assumptions, sizes))
        if profile.experiment.shows == "relatives":  # whose answers to the reporting prompts are among its tasks
            continue
        planned += [stage for stage in [_reports(profile, of_arm, assumptions, sizes)] if stage.steps]
    return planned


def _stage(profile: Profile, kind: str, of_kind: list[ScheduledTask], assumed: Assumptions, sizes: Sizes) -> Stage:
    is_open = [not task.step.folder.is_dir() for task in of_kind]
    resources = profile.dispatch.of_kind(kind)
    costs = [_cost(profile, task, assumed, sizes) for task in of_kind]
    of_open = [cost for cost, still in zip(costs, is_open, strict=True) if still]
    return Stage(
        arm=profile.arm,
        kind=kind,
        steps=len(of_kind),
        done=len(of_kind) - len(of_open),
        jobs=len(of_open) * resources.workers,
        nodes=resources.nodes,
        tokens=sum(cost.tokens for cost in of_open),
        hours=sum(cost.seconds for cost in of_open) / 3600,
        disk=sum(cost.bytes for cost in of_open) / 1e9,
        arithmetic="; or ".join(dict.fromkeys(cost.told for cost in costs)),
        notes=tuple(sizes.notes),
    )


def _reports(profile: Profile, of_arm: list[ScheduledTask], assumed: Assumptions, sizes: Sizes) -> Stage:
    """The answers to the reporting prompts, of the checkpoints that are reported, and their log-probabilities."""
    number, with_log_ratios = grid.most_reports(profile)
    trained = {task.name for task in of_arm if task.kind == "training"}
    trainings = [record["inputs"].get("training") for _, record in records.read_all() if record["name"] == "report"]
    done = min(number, sum(f"training-{key}" in trained for key in trainings))
    answers = _answering(profile, assumed, sizes, "reporting", 1)
    prompts, repeats = plan_sizes.of_split(profile, sizes, "reporting"), profile.evaluation.of_split("reporting")
    read = prompts * repeats * (_completion_tokens(profile, assumed) + assumed.prompt_tokens)
    passes = assumed.seconds(_FORWARD * 2 * sizes.policy.number * read)
    left, resources = number - done, profile.dispatch.of_kind("evaluation")
    share = left / number if number else 0
    log_ratios = f"{_FORWARD} x 2 x {_short(sizes.policy.number)} x {_short(read)} tokens for log-probabilities"
    return Stage(
        arm=profile.arm,
        kind=_REPORTS,
        steps=number,
        done=done,
        jobs=left * resources.workers,
        nodes=resources.nodes,
        tokens=left * answers.tokens,
        hours=(left * answers.seconds + share * with_log_ratios * passes) / 3600,
        disk=left * answers.bytes / 1e9,
        arithmetic=f"at most, {answers.told}; of {with_log_ratios} also {log_ratios}",
        notes=tuple(sizes.notes),
    )


# --- one step of each kind --------------------------------------------------------------------------------------------


def _cost(profile: Profile, task: ScheduledTask, assumed: Assumptions, sizes: Sizes) -> Cost:
    if task.kind == "evaluation":
        alone = task.step.name in ("reference_evaluation", "relative_evaluation")
        checkpoints = 1 if alone else _checkpoints(profile, sizes)
        split = task.step.parameters.get("split", "selection")
        return _answering(profile, assumed, sizes, split, checkpoints)
    if "released" in task.step.parameters:
        return _imported(profile, assumed, sizes)
    if task.kind == "training":
        apart = any(source.name == "reference_log_probs" for source in task.step.inputs)
        return _training(profile, assumed, sizes, reference=not apart)
    estimate = _ESTIMATES.get(task.kind)
    return estimate(profile, assumed, sizes) if estimate else Cost(0, 0, 0, "not estimated")


def _policy(profile: Profile, assumed: Assumptions, sizes: Sizes) -> Cost:
    size = _BYTES_A_PARAMETER["bfloat16" if isinstance(profile.policy, HubPolicy) else "float32"]
    parameters = sizes.policy.number
    return Cost(0, 0, parameters * size, f"{_short(parameters)} parameters x {size} bytes")


def _sft(profile: Profile, assumed: Assumptions, sizes: Sizes) -> Cost:
    settings, length = profile.sft, assumed.prompt_tokens + _completion_tokens(profile, assumed)
    rows = _seen(sizes.train.number, settings.batch_size, settings.last_batch)
    tokens = rows * settings.epochs * length
    factor = _FORWARD + _BACKWARD + _again(profile)
    seconds, told = _passes(sizes, tokens, factor, assumed)
    told = f"{rows:,} x {settings.epochs} epochs x {length:.0f} tokens; {told}"
    return Cost(tokens, seconds, _policy_bytes(profile, sizes), told)


def _sampling(profile: Profile, assumed: Assumptions, sizes: Sizes) -> Cost:
    prompts, each = sizes.train.number + sizes.held_out.number, profile.reference_sampling.sampled
    return _sampled(profile, assumed, sizes, prompts * each, f"{prompts:,} prompts x {each}")


def _sampled(profile: Profile, assumed: Assumptions, sizes: Sizes, completions: float, told: str) -> Cost:
    """So many completions, with rewards, by one device with the profile's engine."""
    length = _completion_tokens(profile, assumed)
    tokens, read = completions * length, completions * (length + assumed.prompt_tokens)
    seconds, told = tokens / assumed.tokens_a_second, f"{told} x {length:.0f} tokens at {assumed.tokens_a_second:.0f}/s"
    if sizes.reward_model.number:
        seconds += assumed.seconds(_FORWARD * sizes.reward_model.number * read)
        told += f", then {_FORWARD} x {_short(sizes.reward_model.number)} x {_short(read)} tokens scored"
    return Cost(tokens, seconds, tokens * _BYTES_A_TOKEN, told)


def _imported(profile: Profile, assumed: Assumptions, sizes: Sizes) -> Cost:
    """Of reference completions that somebody has published: nothing is sampled or scored."""
    prompts = sizes.train.number + sizes.held_out.number
    each, length = profile.reference_sampling.sampled, _completion_tokens(profile, assumed)
    told = f"imported: {prompts:,} prompts x {each} completions that were published, with their rewards"
    return Cost(0, 0, prompts * each * length * _BYTES_A_TOKEN, told)


def _scoring(profile: Profile, assumed: Assumptions, sizes: Sizes) -> Cost:
    pairs = sizes.train.number + sizes.held_out.number
    read = 2 * pairs * (_completion_tokens(profile, assumed) + assumed.prompt_tokens)
    seconds = assumed.seconds(_FORWARD * sizes.reward_model.number * read)
    return Cost(read, seconds, read * _BYTES_A_TOKEN, f"2 x {pairs:,} completions of the dataset scored")


def _answering(profile: Profile, assumed: Assumptions, sizes: Sizes, split: str, policies: int) -> Cost:
    """Answers of so many policies to the prompts of a split."""
    prompts, repeats = plan_sizes.of_split(profile, sizes, split), profile.evaluation.of_split(split)
    told = f"{policies} x {prompts:,} prompts x {repeats}"
    return _sampled(profile, assumed, sizes, policies * prompts * repeats, told)


def _training(profile: Profile, assumed: Assumptions, sizes: Sizes, reference: bool) -> Cost:
    """The fit alone, with the reference's log-probabilities if no step before has them.

    Of its policies those stay that the profile keeps; checkpoints are evaluated in a stage of their own.
    """
    settings, length = profile.training, assumed.prompt_tokens + _completion_tokens(profile, assumed)
    pairs = _seen(sizes.train.number * settings.pairs_per_prompt, settings.batch_size, settings.last_batch)
    tokens = pairs * settings.epochs * 2 * length
    factor = _FORWARD + _BACKWARD + _again(profile) + (_FORWARD if reference else 0)
    seconds, told = _passes(sizes, tokens, factor, assumed)
    checkpoints = _checkpoints(profile, sizes)
    kept = min(2, checkpoints) if profile.evaluation.kept == "best" else checkpoints
    told = f"{pairs:,} pairs x 2 x {length:.0f} tokens; {told}; {kept} of {checkpoints} policies kept"
    return Cost(tokens, seconds, kept * _policy_bytes(profile, sizes), told)


def _reference_log_probs(profile: Profile, assumed: Assumptions, sizes: Sizes) -> Cost:
    """Once for all trainings on the same pairs."""
    pairs = int(sizes.train.number * profile.training.pairs_per_prompt)
    tokens = pairs * 2 * (assumed.prompt_tokens + _completion_tokens(profile, assumed))
    seconds, told = _passes(sizes, tokens, _FORWARD, assumed)
    return Cost(tokens, seconds, pairs * _BYTES_A_TOKEN, f"{pairs:,} pairs; {told}")


_ESTIMATES = {
    "policy": _policy,
    "sft": _sft,
    "sampling": _sampling,
    "scoring": _scoring,
    "reference_log_probs": _reference_log_probs,
}


def _again(profile: Profile) -> int:
    """Operations of the forward pass that gradient checkpointing repeats."""
    return _AGAIN if profile.training.gradient_checkpointing else 0


def _checkpoints(profile: Profile, sizes: Sizes) -> int:
    """How many checkpoints of a training are evaluated, step 0 aside."""
    settings = profile.training
    if settings.checkpoint_every is None:
        return settings.checkpoints
    pairs = _seen(sizes.train.number * settings.pairs_per_prompt, settings.batch_size, settings.last_batch)
    return math.ceil(math.ceil(pairs * settings.epochs / settings.batch_size) / settings.checkpoint_every)


def _seen(rows: float, batch_size: int, last_batch: str) -> int:
    """Rows that an epoch trains on."""
    return int(rows // batch_size * batch_size if last_batch == "drop" else rows)


def _passes(sizes: Sizes, tokens: float, factor: int, assumed: Assumptions) -> tuple[float, str]:
    parameters = sizes.policy.number
    operations = factor * parameters * tokens
    return assumed.seconds(operations), f"{factor} x {_short(parameters)} x {_short(tokens)} operations"


def _policy_bytes(profile: Profile, sizes: Sizes) -> float:
    return sizes.policy.number * _BYTES_A_PARAMETER[profile.training.precision]


def _completion_tokens(profile: Profile, assumed: Assumptions) -> float:
    most = profile.reference_sampling.max_new_tokens
    return assumed.completion_tokens or min(_AUTHORS_COMPLETION_TOKENS, most / 2)


def resuming_disk(profile_name: str, planned: list[Stage]) -> tuple[int, float]:
    """Trainings that run at once, and the GB of what they have on disk until they are evaluated.

    Each has one checkpoint to resume from, for a moment the one that takes its place, and the policies of all.
    """
    at_once = profiles.load(profile_name).dispatch.simultaneous
    still = {stage.arm: stage.steps - stage.done for stage in planned if stage.kind == "training"}
    of_arms = []
    for arm, number in still.items():
        profile = profiles.load(profile_name, arm)
        sizes = plan_sizes.of_arm(profile)
        policies = _checkpoints(profile, sizes) * _policy_bytes(profile, sizes)
        of_arms += [(2 * _BYTES_TO_RESUME * sizes.policy.number + policies) / 1e9] * number
    largest = sorted(of_arms, reverse=True)[:at_once]
    return len(largest), sum(largest)


# --- for people -------------------------------------------------------------------------------------------------------


def render(profile_name: str, planned: list[Stage], assumed: Assumptions) -> Group:
    """The table, its sums, how each estimate comes about, and what it assumes."""
    settings = profiles.load(profile_name).dispatch
    device = "GPU" if any(resources.gpus_per_node for resources in settings.resources.values()) else "device"
    columns = ("arm", "stage", "steps", "done", "jobs", "nodes a job", "tokens", f"{device}-hours", "disk (GB)")
    table = Table(*columns, box=None, pad_edge=False)
    for stage in planned:
        sizes = (_short(stage.tokens), f"{stage.hours:,.1f}", f"{stage.disk:,.1f}")
        cells = (stage.steps, stage.done, stage.jobs, stage.nodes, *sizes)
        table.add_row(stage.arm, stage.kind, *map(str, cells))
    total = {name: sum(getattr(stage, name) for stage in planned) for name in _SUMMED}
    steps, done, jobs, tokens, hours, disk = total.values()
    table.add_row(
        "all", "", str(steps), str(done), str(jobs), "", _short(tokens), f"{hours:,.1f}", f"{disk:,.1f}", style="bold"
    )
    lines = ["", "One step of each stage, unless it is done:"]
    lines += [f"  {stage.arm}, {stage.kind}: {stage.arithmetic}" for stage in planned]
    notes = dict.fromkeys(note for stage in planned if stage.done < stage.steps for note in stage.notes)
    lines += ["", "Of the sizes:", *(f"  {note}." for note in notes)] if notes else []
    memory = _memory(profile_name)
    lines += ["", "Memory in training:", *memory] if memory else []
    at_once, while_running = resuming_disk(profile_name, planned)
    if at_once:
        lines += [
            "",
            f"While trainings run, up to {at_once} at once: {while_running:,.0f} GB of checkpoints to resume from "
            f"(2 x {_BYTES_TO_RESUME} bytes a parameter), removed at the end of each, and of policies that are not yet "
            "evaluated.",
        ]
    lines += ["", "Assumed, not measured (`qrpo plan --help`):", *(f"  {line}." for line in _told(assumed))]
    parent = next(path for path in (paths.runs_folder(), *paths.runs_folder().parents) if path.exists())
    free = shutil.disk_usage(parent).free / 1e9
    lines += [f"Where: {settings.where}; results in {paths.runs_folder()}, where {free:,.0f} GB are free."]
    needed = disk + while_running
    if needed > free:
        lines += [f"TOO LITTLE: {needed:,.0f} GB are needed there; set QRPO_RUNS to a larger file system."]
    return Group(table, Text("\n".join(lines)))


def _told(assumed: Assumptions) -> list[str]:
    """Each assumption with where it is from, unless it was given."""
    default, lines = Assumptions(), []
    for field in fields(assumed):
        value = getattr(assumed, field.name)
        shown = f"at most {_AUTHORS_COMPLETION_TOKENS}" if value is None else f"{value:g}"
        source = _SOURCES[field.name] if value == getattr(default, field.name) else "given"
        lines.append(f"{field.name.replace('_', ' ')} {shown}: {source}")
    return lines


def _memory(profile_name: str) -> list[str]:
    """What a GPU must hold in the trainings of each arm, beside what it can."""
    arms = [profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)]
    limit = arms[0].dispatch.gpu_memory_gb
    beside = "" if limit is None else f" of {limit:g}"
    lines = []
    for arm in arms:
        needs = plan_memory.of_arm(arm)
        lines += [f"  {arm.arm}: {need.told()}{beside}" for need in needs]
        if not needs and arm.dispatch.of_kind("training").gpus_per_node:
            why = "no local copy whose config.json tells its layers"
            lines.append(f"  {arm.arm}: UNKNOWN for {getattr(arm.policy, 'model', arm.policy.source)} ({why})")
    return lines


def _short(number: float) -> str:
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:g}"
