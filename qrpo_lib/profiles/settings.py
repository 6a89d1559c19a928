"""Profiles: the settings of a whole pipeline, typed, read from one TOML file each, validated before anything runs.

profile = profiles.load("tiny")             # one of the suite's own, in qrpo_lib/profiles/; its first arm
profile = profiles.load("tiny", "chat")     # an arm: one policy on one task (the paper has five)
profile = profiles.load("my_profile.toml")  # your own, named "my-profile" after its file unless it says `name = "..."`

In the file, `[arms.NAME]` holds what an arm sets differently from the rest of the file, and

    extends = "tiny"                        # takes the rest from there, or from a file: its path relative to this one
    unset = ["sft", "training.max_tokens"]  # what this one does without of that; "arms.code" is the whole arm

    worlds = [0, 1, 2]                      # makes each arm in each world anew: "chat-world-0", "chat-world-1", ...

come before the first table. A world is a value of `seed`: an initial policy with prompts, pairs and reference
completions of its own. What a file says wins over all that it extends, arms included (`qrpo_lib.profiles.files`).
An `unset` inside a table has keys of that table.
"""

# ruff: noqa: RUF012 - pydantic copies defaults

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from qrpo_lib.objective.algorithms import ALGORITHMS, Algorithm
from qrpo_lib.profiles import errors_in_words, files
from qrpo_lib.profiles.base import Commit, Fraction, Name, Seed, added
from qrpo_lib.profiles.base import Settings as _Settings
from qrpo_lib.profiles.files import FOLDER as FOLDER
from qrpo_lib.profiles.files import ProfileError as ProfileError
from qrpo_lib.profiles.kinds import ChatDataTask as ChatDataTask
from qrpo_lib.profiles.kinds import DatasetTask as DatasetTask
from qrpo_lib.profiles.kinds import ExpressionsTask as ExpressionsTask
from qrpo_lib.profiles.kinds import HubPolicy as HubPolicy
from qrpo_lib.profiles.kinds import LeetCodeTask as LeetCodeTask
from qrpo_lib.profiles.kinds import PointwiseTask as PointwiseTask
from qrpo_lib.profiles.kinds import ProblemsTask as ProblemsTask
from qrpo_lib.profiles.kinds import Relevance as Relevance
from qrpo_lib.profiles.kinds import RewardModel as RewardModel
from qrpo_lib.profiles.kinds import Sandbox as Sandbox
from qrpo_lib.profiles.kinds import SketchesPolicy as SketchesPolicy
from qrpo_lib.profiles.kinds import SketchesTask as SketchesTask
from qrpo_lib.profiles.kinds import SmolLM2Policy as SmolLM2Policy
from qrpo_lib.profiles.kinds import Task as Task
from qrpo_lib.profiles.kinds import TinyPolicy as TinyPolicy
from qrpo_lib.profiles.kinds import TopicsTask as TopicsTask
from qrpo_lib.profiles.kinds import WrittenTask as WrittenTask
from qrpo_lib.profiles.own_data import PythonReward as PythonReward
from qrpo_lib.profiles.processes import wrong_groups
from qrpo_lib.profiles.relatives import Study, wrong_studies
from qrpo_lib.runs import secrets

IS_INFRASTRUCTURE = True  # its values are parameters of the steps

# In any spelling, such as the paper's: "QRPO", "SimPO".
_Spelled = Annotated[Algorithm, BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)]
Partition = Literal["exact", "asymptotic", "finite"]
Setting = Literal[
    "offline", "off-policy-best", "off-policy-random", "sft-offline", "sft-off-policy-best", "sft-off-policy-random"
]


class Sampling(_Settings):
    """How completions are sampled. `backend = "auto"` is vLLM where it is installed, else transformers."""

    backend: Literal["auto", "vllm", "transformers"]
    max_new_tokens: PositiveInt
    batch_size: PositiveInt
    threads: PositiveInt


class Released(_Settings):
    """Reference completions and rewards that somebody has published, in place of sampling (`qrpo_lib.steps.released`).

    initial, initial_revision: the dataset whose completions are the initial policy's, and its commit.
    sft, sft_revision: that of the fine-tuned policy, for settings that begin with `sft-`; without it they sample.
    """

    initial: str
    initial_revision: Commit | None = None
    sft: str | None = None
    sft_revision: Commit | None = None

    def of(self, tuned_first: bool) -> tuple[str, str | None] | None:
        """Dataset and commit for the fine-tuned or for the initial policy; None where there is none."""
        if tuned_first:
            return (self.sft, self.sft_revision) if self.sft else None
        return self.initial, self.initial_revision


class ReferenceSampling(Sampling):
    """Reference completions: temperature 1 and top-p 1 always (App. L.6).

    completions: candidates per prompt for the pairs (the paper: 6).
    ref_rewards: further completions per prompt, of which only the rewards are used.
    references: whose rewards estimate a quantile: "apart", those of the further completions alone, so that no
        completion counts itself; "shared", as the authors do, those of all that were sampled, in the order of sampling,
        the candidates first.
    released: takes the place of sampling.
    """

    completions: Annotated[int, Field(ge=2)]
    ref_rewards: PositiveInt
    references: Literal["apart", "shared"] = added("apart")
    released: Released | None = added(None)

    @property
    def sampled(self) -> int:
        """Completions per prompt in all."""
        return self.completions + self.ref_rewards

    @property
    def num_references(self) -> int:
        """How many reference rewards a prompt has."""
        return self.sampled if self.references == "shared" else self.ref_rewards


class ScaledNormal(_Settings):
    """f = mu + sigma Phi^-1, in units of the transformed reward."""

    name: Literal["scaled-normal"]
    mu: float
    sigma: PositiveFloat


_TransformName = Literal["identity", "log", "square", "sqrt", "normal"]
TRANSFORMS = (*get_args(_TransformName), "scaled-normal")
Transform = Annotated[
    Annotated[_TransformName, Tag("name")] | Annotated[ScaledNormal, Tag("scaled-normal")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "scaled-normal"),
]


class QRPO(_Settings):
    """`error` is the regression's; `completions` says which of a pair are trained on (`losses.qrpo_pair`)."""

    beta: PositiveFloat
    learning_rate: PositiveFloat
    num_ref_rewards: PositiveInt
    transform: Transform = "identity"
    partition: Partition = "exact"
    error: Literal["squared", "absolute"] = "squared"
    completions: Literal["both", "chosen", "rejected"] = "both"


class DPO(_Settings):
    beta: PositiveFloat
    learning_rate: PositiveFloat


class REBEL(_Settings):
    """beta has the unit of the reward."""

    beta: PositiveFloat
    learning_rate: PositiveFloat


class SimPO(_Settings):
    """gamma_ratio: the margin over beta."""

    beta: PositiveFloat
    learning_rate: PositiveFloat
    gamma_ratio: Annotated[float, Field(ge=0)] = 0.5


class SFT(_Settings):
    """Fine-tuning on the dataset's chosen completions, for the settings that begin with `sft-` (App. L.7, L.9).

    last_batch: as in `Training`.
    """

    learning_rate: PositiveFloat
    batch_size: PositiveInt
    micro_batch_size: PositiveInt
    epochs: PositiveInt
    last_batch: Literal["keep", "drop"] = added("keep")


class Training(_Settings):
    """Policy fitting; a pair is one sample of the batch.

    setting: where the pairs come from, and whether the policy is first fine-tuned (App. L.7; `qrpo_lib.steps.pairs`).
    pairs_per_prompt: how many disjoint random pairs off-policy-random makes (chat: 1, code: 10).
    ties: what becomes of pairs without preference; the paper keeps them.
    max_tokens: completions are cut so that a prompt with its completion has no more (None: never cut).
    last_batch: what becomes of the rows of each epoch that fill no batch: a smaller batch, or, as the paper, nothing.
    checkpoints: how many there are, equally spaced, the last at the end.
    checkpoint_every: instead, as the paper, one after so many steps each, and the last at the end.
    gradient_checkpointing: layers are computed again in the backward pass, of fine-tuning too: less memory, more work.
    """

    setting: Setting
    pairs_per_prompt: PositiveInt = 1
    ties: Literal["drop", "keep"] = "drop"
    max_tokens: PositiveInt | None = None
    batch_size: PositiveInt
    micro_batch_size: PositiveInt
    epochs: PositiveInt
    last_batch: Literal["keep", "drop"] = added("keep")
    checkpoints: PositiveInt
    checkpoint_every: PositiveInt | None = added(None)
    precision: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool = False
    threads: PositiveInt
    qrpo: QRPO
    dpo: DPO
    rebel: REBEL
    simpo: SimPO

    @model_validator(mode="after")
    def _whole_micro_batches(self):
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class Evaluation(_Settings):
    """Online evaluation: of every checkpoint on the selection prompts, of what is reported on the reporting prompts.

    repeats: completions a prompt (the paper: 3).
    reporting_repeats: of a reporting prompt (default: as many).
    temperature, top_p: of a policy that does not bring its own (`Profile.evaluation_sampling`).
    max_mean_length: checkpoints whose completions are longer than this many tokens on average are not selected.
    figure_4: completions that it shows: all of the reporting prompts, or as the paper's the first of each.
    kept: which checkpoints stay once they have been evaluated: the best of a cell of the grid, by all seeds that choose
        it, and the last, or all (`qrpo_lib.experiment.kept`).
    """

    max_mean_length: PositiveFloat | None = None
    figure_4: Literal["all", "paper"] = added("all")
    temperature: PositiveFloat | None = None
    top_p: Fraction | None = None
    repeats: PositiveInt
    reporting_repeats: PositiveInt | None = added(None)
    kept: Literal["best", "all"] = added("best")

    def of_split(self, split: str) -> int:
        """Completions of each prompt of a split."""
        return self.reporting_repeats or self.repeats if split == "reporting" else self.repeats


class AlpacaEval(_Settings):
    """AlpacaEval 2 (App. L.10): the reported models answer its instructions and are compared with the baseline.

    dataset, revision: where the instructions and the baseline's answers are from (`qrpo_lib.steps.alpaca_answers`).
    annotator: what judges, as the package `alpaca_eval` names it; a paid service.
    baseline: whose answers are compared with, as AlpacaEval's file names it: gpt-4-1106-preview, `gpt4_turbo` on its
        leaderboard.
    """

    dataset: str
    revision: Commit | None = None
    instructions: PositiveInt = 805
    annotator: str
    baseline: str = "gpt4_1106_preview"


class Scaling(_Settings):
    """QRPO with more and more reference rewards (Figure 3), with one partition function or with several.

    main_learning_rates: of each beta the rate that Figure 3 shows; without, it shows the best of each cell, which the
        paper shows in App. M.
    """

    settings: list[Setting] = Field(min_length=1)
    num_ref_rewards: list[PositiveInt] = Field(min_length=1)
    betas: list[PositiveFloat] = Field(min_length=1)
    learning_rates: list[PositiveFloat] = []
    main_learning_rates: list[PositiveFloat] = added([])
    partitions: list[Partition] = ["exact"]

    @model_validator(mode="after")
    def _main_rates_are_trained(self):
        main = self.main_learning_rates
        if main and len(main) != len(self.betas):
            raise ValueError(f"main_learning_rates has {len(main)} values for {len(self.betas)} betas: one for each")
        if not set(main) <= set(self.learning_rates or main):
            raise ValueError(f"main_learning_rates {main} are not all among learning_rates {self.learning_rates}")
        return self


class Transformations(_Settings):
    """QRPO with other transformations of the quantile: each with the same betas, of which the best is reported."""

    setting: Setting
    transforms: list[Transform] = Field(min_length=2)
    betas: list[PositiveFloat] = Field(min_length=1)


class Experiment(_Settings):
    """Which models are trained, in each of these arms (default: all of the file).

    The grid is every algorithm in every setting, with each of its betas and learning rates. What is not given has one
    value, that of `training`.

    scaling: studies that together are Figure 3, its versions and what goes beyond them.
    seeds: of everything that is reported.
    grid_seeds: how many of them, from the first on, the whole grid is trained with (default: all). The others go to the
        best beta and learning rate of each algorithm and setting alone.
    shows: which results an arm is for: all, the scaling study alone (its grid then gives DPO's gain, the scale of
        the smallest effects), or the studies of `relatives` alone, without a grid.
    relatives: studies of QRPO beside its relatives (`qrpo_lib.profiles.relatives`), each a notebook.
    rounds: how many iterative QRPO has (two seeds); without it there is none.
    report_to: trackers that are told of trained models (`qrpo_lib.experiment.tracking`); changes no result.
    """

    arms: list[str] | None = None
    shows: Literal["all", "scaling", "relatives"] = added("all")
    relatives: list[Study] = added([])
    rounds: Annotated[int, Field(ge=2)] | None = None
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = added([])
    algorithms: list[_Spelled] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    grid_seeds: PositiveInt | None = None
    settings: list[Setting] | None = None
    betas: dict[_Spelled, list[PositiveFloat]] = {}
    learning_rates: dict[_Spelled, list[PositiveFloat]] = {}
    scaling: list[Scaling] = []
    transformations: Transformations | None = None

    @model_validator(mode="after")
    def _grid_seeds_are_seeds(self):
        if self.grid_seeds is not None and self.grid_seeds > len(self.seeds):
            raise ValueError(f"grid_seeds is {self.grid_seeds}, but there are {len(self.seeds)} seeds")
        return self


class Resources(_Settings):
    """What one job of a kind gets.

    tasks_per_node: processes; on a cluster one for each GPU.
    minutes: the time limit of one job; it is requeued when it reaches that, and goes on from its last checkpoint.
    workers: how many jobs make one result together, where a step can be shared (sampling, scoring).
    environment: variables of the job, such as Accelerate's for DeepSpeed.
    sbatch: further options of sbatch, `{constraint = "gpu"}` for `--constraint=gpu`.
    """

    nodes: PositiveInt = 1
    tasks_per_node: PositiveInt = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    cpus_per_task: PositiveInt = 1
    memory_gb: PositiveFloat | None = None
    minutes: PositiveInt = 60
    workers: PositiveInt = 1
    environment: dict[str, str] = {}
    sbatch: dict[str, str | int | bool] = {}


Kind = Literal["policy", "sft", "sampling", "scoring", "reference_log_probs", "training", "evaluation", "iterative"]


class Dispatch(_Settings):
    """Where the steps of the pipeline are computed (`qrpo_lib.cluster.dispatch`); nothing here changes a result.

    where: "here", in the notebook's own process; "processes", in local processes; "slurm", in jobs of a cluster.
    simultaneous, array_size: jobs, or local processes, at once; the most of one array (SLURM's MaxArraySize).
    retries, pause_seconds: how often a lost job is submitted again by one command; how long before, doubled each time.
    timeouts, seconds_before_limit: how often a job may reach its time limit; how long before it is told to stop.
    gpu_memory_gb: what one GPU can hold, in GiB; `qrpo plan` refuses a profile whose trainings need more.
    setup: lines of shell before the job, such as `module load ...`.
    srun_arguments: such as `--environment=qrpo`, the container on a Cray.
    python: the interpreter, or the command that starts it in a container; None is the one that runs now.
    resources: by kind of step: `policy`, `sft`, `sampling`, `scoring`, `evaluation` (sample answers too),
        `reference_log_probs` (default: those of `training`, whose environment decides how weights are rounded),
        `training`, `iterative`.
    """

    where: Literal["here", "processes", "slurm"] = "here"
    simultaneous: PositiveInt = 64
    array_size: PositiveInt = 1000
    retries: Annotated[int, Field(ge=0)] = 2
    pause_seconds: Annotated[float, Field(ge=0)] = 30
    timeouts: Annotated[int, Field(ge=0)] = 20
    seconds_before_limit: PositiveInt = 120
    poll_seconds: PositiveFloat = 15
    gpu_memory_gb: PositiveFloat | None = None
    account: str | None = None
    partition: str | None = None
    setup: list[str] = []
    srun_arguments: list[str] = []
    python: str | None = None
    resources: dict[Kind, Resources] = {}

    @model_validator(mode="after")
    def _no_secrets(self):
        variables = [f"{name}={value}" for kind in self.resources.values() for name, value in kind.environment.items()]
        for line in [*self.setup, *self.srun_arguments, *variables]:
            if secrets.holds_secret(line):
                raise ValueError("a line holds a secret; set it in the environment instead, outside any file")
        return self

    def of_kind(self, kind: str) -> Resources:
        """The resources of a job of that kind."""
        if kind == "reference_log_probs" and kind not in self.resources:
            kind = "training"
        return self.resources.get(kind, Resources())


class Profile(_Settings):
    """All settings of the pipeline in one arm of a profile."""

    name: Name
    arm: Name
    seed: Seed
    policy: TinyPolicy | SketchesPolicy | SmolLM2Policy | HubPolicy = Field(discriminator="source")
    task: Task = Field(discriminator="name")
    reference_sampling: ReferenceSampling
    sft: SFT | None = None
    training: Training
    evaluation: Evaluation
    experiment: Experiment
    alpaca_eval: AlpacaEval | None = added(None)
    dispatch: Dispatch = Dispatch()

    @model_validator(mode="after")
    def _enough_ref_rewards(self):
        needed, there = self.training.qrpo.num_ref_rewards, self.reference_sampling.num_references
        if needed > there:
            raise ValueError(f"training.qrpo.num_ref_rewards is {needed}, but only {there} are sampled")
        most = max((n for study in self.experiment.scaling for n in study.num_ref_rewards), default=0)
        if most > there:
            raise ValueError(f"experiment.scaling.num_ref_rewards goes to {most}, but only {there} are sampled")
        return self

    @model_validator(mode="after")
    def _relatives_are_possible(self):
        sampling = self.reference_sampling
        wrong = wrong_studies(
            self.experiment.relatives, get_args(Setting), sampling.num_references, sampling.completions
        )
        if wrong or (self.experiment.shows == "relatives") != bool(self.experiment.relatives):
            raise ValueError(wrong or 'experiment.relatives and experiment.shows = "relatives" belong together')
        return self

    @model_validator(mode="after")
    def _setting_is_possible(self):
        setting, task = self.training.setting, self.task
        if setting.startswith("sft-") and not self.sft:
            raise ValueError(f"training.setting is {setting}, but there is no table [sft] that says how to fine-tune")
        if setting.startswith("sft-") and not task.completions:
            raise ValueError(f"training.setting is {setting}, but the task {task.name} has no completions to tune on")
        if task.completions == "single":
            others = sorted({*self.experiment.algorithms, *self.experiment.betas} - {"qrpo"})
            if others:
                raise ValueError(
                    f"the task pointwise has single completions, of which {', '.join(others)} cannot learn: they "
                    'compare two completions of a prompt; set experiment.algorithms = ["qrpo"]'
                )
            if {setting, *(self.experiment.settings or [])} != {"offline"}:
                raise ValueError('the task pointwise has its own completions: set training.setting = "offline"')
        if setting.endswith("offline") and task.completions not in ("pairs", "single"):
            raise ValueError(f"training.setting is {setting}, but the task {task.name} has no pairs of its own")
        pairs, sampled = self.training.pairs_per_prompt, self.reference_sampling.completions
        if pairs > 1 and not setting.endswith("off-policy-random"):
            raise ValueError(f"training.pairs_per_prompt is {pairs}, but {setting} makes one pair a prompt")
        if 2 * pairs > sampled:
            raise ValueError(f"training.pairs_per_prompt is {pairs}, but only {sampled} completions are sampled")
        return self

    @model_validator(mode="after")
    def _evaluation_is_said_once(self):
        of_policy = isinstance(self.policy, HubPolicy)
        for name in ("temperature", "top_p"):
            if (getattr(self.evaluation, name) is None) != of_policy:
                what = "is set, but the policy has its own" if of_policy else "is missing; the policy brings none"
                raise ValueError(f"evaluation.{name} {what}")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self):
        sampling = self.reference_sampling
        if self.experiment.rounds and (sampling.references == "shared" or sampling.released):
            raise ValueError('experiment.rounds needs reference_sampling.references = "apart", and sampled completions')
        if sampling.released and not hasattr(self.task, "tokenizer"):
            raise ValueError(
                f"reference_sampling.released is of a dataset of the hub, not of the task {self.task.name}"
            )
        if wrong := wrong_groups(self.dispatch, {"sft": self.sft, "training": self.training}):
            raise ValueError(wrong)
        return self

    @property
    def evaluation_sampling(self) -> dict[str, float]:
        """Temperature and top-p of evaluation completions: the policy's own, or the profile's."""
        source = self.policy if isinstance(self.policy, HubPolicy) else self.evaluation
        return {"temperature": source.temperature, "top_p": source.top_p}

    @property
    def label(self) -> str:
        """How claims and tables name this arm."""
        return f"{self.name}, {self.arm}"

    @property
    def figures(self) -> str:
        """Where the arm's figures go, below the folder of all figures."""
        return f"{self.name}/{self.arm}"

    def with_training(self, **values: Any) -> Profile:
        """This profile with some values of `training` replaced; dots reach deeper: `**{"qrpo.beta": 0.1}`.

        A value of None leaves the profile's own.
        """
        training = self.training.model_dump()
        for name, value in values.items():
            *path, last = name.split(".")
            table = training
            for key in path:
                table = table[algorithm(key)]
            if value is not None:
                table[last] = value
        # The other tables are as they were, and only looked at together with the new one.
        return _validated(dict(self) | {"training": training}, f"profile {self.name!r}, arm {self.arm!r}")


def algorithm(name: Any) -> str:
    """An algorithm as settings spell it, from any spelling: "QRPO", "SimPO". Raises ProfileError for another word."""
    spelled = name.lower() if isinstance(name, str) else name
    if spelled not in ALGORITHMS:
        raise ProfileError(f"There is no algorithm {name!r}; there are {', '.join(ALGORITHMS)}.")
    return spelled


def names() -> list[str]:
    """The suite's own profiles."""
    return files.names()


def arms(name_or_path: str | Path) -> list[str]:
    """The arms of a profile that its experiment runs, in the order of the files, world by world if it has any."""
    chain = files.layers(name_or_path)
    return files.of_worlds(chain, files.chosen_arms(chain))


def worlds(name_or_path: str | Path) -> tuple[int, ...]:
    """The worlds of a profile; empty for one without."""
    return files.worlds(files.layers(name_or_path))


def arms_of_worlds(name_or_path: str | Path) -> dict[str, dict[int, str]]:
    """Of each arm as the files name it, its name in each world; empty for a profile without worlds."""
    chain = files.layers(name_or_path)
    by_arm: dict[str, dict[int, str]] = {}
    for arm in arms(name_or_path) if files.worlds(chain) else ():
        base, world = files.arm_and_world(chain, arm)
        by_arm.setdefault(base, {})[world] = arm
    return by_arm


def load(name_or_path: str | Path, arm: str | None = None) -> Profile:
    """The profile of that name, or of that TOML file, in the arm of that name, or its first one.

    Raises
    ------
    ProfileError
        One sentence: no such profile or arm, a file that is not TOML, an unknown key, or a value that cannot be used.
    """
    chain = files.layers(name_or_path)
    name = files.name(chain)
    known = files.of_worlds(chain, files.known_arms(chain))
    arm = files.of_worlds(chain, files.chosen_arms(chain))[0] if arm is None else arm
    files.check_arm(arm, known, str(name_or_path))
    return _of_chain(chain, name, arm, f"profile {str(name_or_path)!r}, arm {arm!r}")


@cache
def _of_chain(chain: files.Chain, name: str, arm: str, where: str) -> Profile:
    base, world = files.arm_and_world(chain, arm)
    settings = files.settings(chain, base) | {"name": name, "arm": arm} | ({} if world is None else {"seed": world})
    return _validated(settings, where, chain)


def _validated(settings: dict[str, Any], where: str, chain: files.Chain | None = None) -> Profile:
    """The profile of these settings. ProfileError names the key, and the file that sets it if another one does."""
    try:
        return Profile.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key, reason = errors_in_words.key_and_reason(first, settings)
        if chain and first["type"] != "missing":
            layer = files.said_in(chain, files.arm_and_world(chain, settings["arm"])[0], key)
            where += f" (from {layer.shown})" if layer is not chain[-1] else ""
        named = f", {'.'.join(map(str, key))}" if key else ""
        raise ProfileError(f"In {where}{named}: {reason}.") from None
