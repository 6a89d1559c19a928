"""The grid: which models an arm of a profile trains.

    runs = grid.grid(profile)                    # algorithm x setting x beta x learning rate x seed
    outcome = train.train(profile, runs)         # those that are not there yet
    evaluations = read.evaluations(profile, runs)

Runs that differ in the loss alone share everything before it: initial policy, completions, pairs, and the evaluation of
the reference policy. Only then is the grid known whose best cells get further seeds (`more_seeds`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

from qrpo_lib.profiles.settings import Profile, ScaledNormal, Transform
from qrpo_lib.runs import keys
from qrpo_lib.steps import checkpoint_evaluation, fitting, reference_evaluation

# Columns of a run that change from run to run.
COLUMNS = ("algorithm", "setting", "beta", "learning_rate", "num_ref_rewards", "transform", "partition", "seed")
# What failed twice in this process, and its first error: told where its results are asked for.
FAILED: dict[Run, str] = {}


@dataclass(frozen=True)
class Run:
    """One trained model. The last three are QRPO's; None for the other algorithms."""

    algorithm: str
    setting: str
    beta: float
    learning_rate: float
    seed: int
    num_ref_rewards: int | None = None
    transform: Transform | None = None
    partition: str | None = None

    @property
    def name(self) -> str:
        """For people, and unique in a sweep."""
        extras = (
            [f"n {self.num_ref_rewards}", transform_label(self.transform), self.partition]
            if self.algorithm == "qrpo"
            else []
        )
        parts = [self.algorithm, self.setting, f"beta {self.beta:g}", f"lr {self.learning_rate:g}", *extras]
        return ", ".join([*parts, f"seed {self.seed}"])

    def settings(self, profile: Profile) -> Profile:
        """The profile with this run's values."""
        values = {"setting": self.setting}
        names = ("beta", "learning_rate", "num_ref_rewards", "transform", "partition")
        values |= {f"{self.algorithm}.{name}": getattr(self, name) for name in names if getattr(self, name) is not None}
        return profile.with_training(**values)

    def training(self, profile: Profile) -> keys.Step:
        """The step that trains this model."""
        return fitting.step(self.settings(profile), self.algorithm, self.seed)

    def step(self, profile: Profile) -> keys.Step:
        """The step that evaluates this model's checkpoints, by which they are chosen: with it the run is complete."""
        return checkpoint_evaluation.step(self.settings(profile), self.algorithm, self.seed)

    def report(self, profile: Profile, checkpoint: int) -> keys.Step:
        """The step that evaluates the model after so many steps on the reporting prompts."""
        if checkpoint == 0:
            return reference_evaluation.step(self.settings(profile), self.seed, "reporting")
        return checkpoint_evaluation.report_step(self.settings(profile), self.algorithm, self.seed, checkpoint)


class Steps(dict[Run, keys.Step]):
    """The step by which each run of a profile is complete (`Run.step`), made when it is first asked for.

    Runs of one setting and seed differ in the loss alone: what they rest on is made once.
    """

    def __init__(self, profile: Profile):
        super().__init__()
        self._profile, self._inputs = profile, {}

    def __missing__(self, run: Run) -> keys.Step:
        profile, shared = run.settings(self._profile), (run.setting, run.seed)
        if shared not in self._inputs:
            before = reference_evaluation.step(profile, run.seed, "selection")
            self._inputs[shared] = fitting.inputs(profile), before
        inputs, before = self._inputs[shared]
        training = fitting.step(profile, run.algorithm, run.seed, inputs)
        self[run] = checkpoint_evaluation.step(profile, run.algorithm, run.seed, (training, before))
        return self[run]


def transform_label(transform: Transform) -> str:
    """How a transformation is named in tables and figures."""
    if isinstance(transform, ScaledNormal):
        return f"{transform.name}({transform.mu:g}, {transform.sigma:g})"
    return transform


def grid(profile: Profile) -> list[Run]:
    """Every algorithm in every setting with each of its betas and learning rates and each of the grid's seeds."""
    experiment = profile.experiment
    seeds = experiment.seeds[: experiment.grid_seeds]
    runs = []
    for algorithm in experiment.algorithms:
        cells = product(
            experiment.settings or [profile.training.setting],
            experiment.betas.get(algorithm) or [getattr(profile.training, algorithm).beta],
            experiment.learning_rates.get(algorithm) or [getattr(profile.training, algorithm).learning_rate],
        )
        runs += [_run(profile, algorithm, *cell, seed) for cell in cells for seed in seeds]
    return runs


def scaling(profile: Profile) -> list[Run]:
    """Figure 3's runs: QRPO by setting, beta, learning rate, number of reference rewards and partition function."""
    runs = []
    for study in profile.experiment.scaling:
        rates = study.learning_rates or [profile.training.qrpo.learning_rate]
        cells = product(study.settings, study.betas, rates, study.num_ref_rewards, study.partitions)
        for setting, beta, rate, n, partition in cells:
            values = {"num_ref_rewards": n, "partition": partition}
            runs += [_run(profile, "qrpo", setting, beta, rate, seed, **values) for seed in profile.experiment.seeds]
    return list(dict.fromkeys(runs))


def transformations(profile: Profile) -> list[Run]:
    """QRPO with every transformation and beta of the study, with the grid's seeds."""
    study = profile.experiment.transformations
    if study is None:
        return []
    rate = profile.training.qrpo.learning_rate
    seeds = profile.experiment.seeds[: profile.experiment.grid_seeds]
    return [
        _run(profile, "qrpo", study.setting, beta, rate, seed, transform=transform)
        for transform, beta, seed in product(study.transforms, study.betas, seeds)
    ]


def identity_of_grid(profile: Profile) -> list[Run]:
    """The grid's runs that are those of the study of transformations with the identity, but for beta and rate."""
    study = profile.experiment.transformations
    setting = study.setting if study else None
    return [run for run in grid(profile) if run.algorithm == "qrpo" and run.setting == setting and _is_of_paper(run)]


def of_beta(profile: Profile) -> list[Run]:
    """QRPO's runs that differ in beta alone: off-policy random pairs, the grid's betas, the first seed."""
    betas = profile.experiment.betas.get("qrpo") or [profile.training.qrpo.beta]
    rate, seed = profile.training.qrpo.learning_rate, profile.experiment.seeds[0]
    return [_run(profile, "qrpo", "off-policy-random", beta, rate, seed) for beta in betas]


def own_run(profile: Profile, algorithm: str, seed: int) -> Run:
    """The model that the profile's own values of `training` describe."""
    values = getattr(profile.training, algorithm)
    return _run(profile, algorithm, profile.training.setting, values.beta, values.learning_rate, seed)


def figure_6(profile: Profile, betas: list[float] | None = None) -> list[Run]:
    """Figure 6's runs: offline, all seeds, at these betas or the scaling studies' largest and smallest.

    Of the scaling studies those with the most reference rewards, with or without fine-tuning first as they have it;
    empty if none is offline.
    """
    offline = [run for run in scaling(profile) if run.setting.endswith("offline") and run.partition == "exact"]
    if not offline:
        return []
    most = max(run.num_ref_rewards for run in offline)
    known = [run.beta for run in offline]
    rate = max(run.learning_rate for run in offline)
    return [
        _run(profile, "qrpo", offline[0].setting, beta, rate, seed, num_ref_rewards=most)
        for beta in betas or (max(known), min(known))
        for seed in profile.experiment.seeds
    ]


def threshold_runs(profile: Profile) -> list[Run]:
    """What the threshold of App. A is tested on: QRPO in every setting and at every beta, of the scaling studies with
    the most references and of the grid. Empty where no study trains offline."""
    studied = [run for run in scaling(profile) if _is_of_paper(run)]
    if not any(run.setting.endswith("offline") for run in studied):
        return []
    most = max(run.num_ref_rewards for run in studied)
    of_grid = [run for run in grid(profile) if run.algorithm == "qrpo" and _is_of_paper(run)]
    return list(dict.fromkeys([run for run in studied if run.num_ref_rewards == most] + of_grid))


def _is_of_paper(run: Run) -> bool:
    # The quantile itself, with the partition function of the paper.
    return run.partition == "exact" and transform_label(run.transform) == "identity"


def with_seed(run: Run, seed: int) -> Run:
    """The same run with another training seed."""
    return replace(run, seed=seed)


def more_seeds(profile: Profile, best: Iterable[Run]) -> list[Run]:
    """These runs with all the profile's seeds."""
    return [with_seed(run, seed) for run in dict.fromkeys(best) for seed in profile.experiment.seeds]


def possible(profile: Profile) -> list[Run]:
    """Every run that the experiment could consist of, whichever cells are the best."""
    seeded = more_seeds(profile, [*grid(profile), *transformations(profile)])
    return list(dict.fromkeys([*seeded, *scaling(profile)]))


def planned(profile: Profile) -> dict[str, int]:
    """How many models each part of the experiment trains, each counted once, those of the further seeds included."""
    experiment = profile.experiment
    parts = {"grid": set(grid(profile))}
    more = len(experiment.seeds) - len(experiment.seeds[: experiment.grid_seeds])
    cells = {(run.algorithm, run.setting) for run in parts["grid"]}
    counts = {"grid": len(parts["grid"]), "further seeds of the best cells": more * len(cells)}
    known = set(parts["grid"])
    for name, runs in (("scaling", scaling(profile)), ("transformations", transformations(profile))):
        counts[name] = len(set(runs) - known)
        known |= set(runs)
    if experiment.transformations:
        counts["further seeds of the best transformations"] = more * len(experiment.transformations.transforms)
    return counts


def most_reports(profile: Profile) -> tuple[int, int]:
    """How many answers to the reporting prompts the results read at most, and of how many the log-ratios.

    Of the grid each algorithm and setting at its best checkpoint, and each algorithm's reported model, with log-ratios,
    at its last one; of the studies each cell; of each the policy before training. Further seeds of best cells aside, as
    in the rest of a plan.
    """
    of_grid = grid(profile)
    seeds = len({run.seed for run in of_grid})
    algorithms = len({run.algorithm for run in of_grid}) if profile.experiment.shows == "all" else 0
    cells = len({(run.algorithm, run.setting) for run in of_grid}) if algorithms else 1  # DPO's, the scale of effects
    studied = scaling(profile)
    study = profile.experiment.transformations
    transformed = len(study.transforms) * seeds if study else 0
    every = [*of_grid, *studied, *transformations(profile)]
    starts = {run.report(profile, 0).key for run in every}
    number = seeds * (cells + algorithms) + len(studied) + transformed + len(starts)
    return number, seeds * max(algorithms, 1)


def _run(profile: Profile, algorithm: str, setting: str, beta: float, rate: float, seed: int, **changes) -> Run:
    extras = {}
    if algorithm == "qrpo":
        defaults = profile.training.qrpo
        names = ("num_ref_rewards", "transform", "partition")
        extras = {name: getattr(defaults, name) for name in names} | changes
    return Run(algorithm, setting, beta, rate, seed, **extras)
