"""Which steps' results a committed record holds, and by which key each of them is known today.

    known = record_steps.Known(profiles_of_arms)
    known.folders()                  # names of the run folders of these steps that are there
    known.step_of(original)          # today's step of that record; None if code or settings are other ones
    known.step_of(original, settings_keys)    # None only if settings are

All that statistics are computed from: rewards, lengths and log-probabilities of answers and reference completions, and
what was measured in training. Policies and their tokenizers are not among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from qrpo_lib.experiment import grid
from qrpo_lib.experiment.grid import Run, Steps
from qrpo_lib.profiles import reward_traits
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import keys, paths, pipeline, records
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import answer_lengths, evaluation, reference_evaluation, reference_sampling, rounds
from qrpo_lib.steps import log_ratios as log_ratio_step

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

# Kinds of steps, in the order in which they are made.
RECORDED = (
    "reference_sampling",
    "reference_evaluation",
    "training",
    "evaluation",
    "report",
    "log_ratios",
    "iterative",
)


class Known:
    """The recorded steps of some arms of a profile (of one world, say), whichever cells turn out to be the best."""

    def __init__(self, arms: Sequence[Profile]):
        self._fixed: dict[str, keys.Step] = {}
        self._by_settings: dict[str, keys.Step] = {}
        self._runs: dict[str, tuple[Profile, Run]] = {}  # by the folder of their training
        self._with_texts: set[str] = set()
        self._planned: set[str] = set()
        for profile in arms:
            self._add(profile)

    def folders(self) -> dict[str, dict[str, Any]]:
        """The records of these steps' folders that are there, by name, in the order in which steps are made."""
        there = [(folder.name, record) for folder, record in records.read_all() if record["name"] in RECORDED]
        recorded = {name: record for name, record in there if self.step_of(record)}
        return dict(sorted(recorded.items(), key=lambda item: (RECORDED.index(item[1]["name"]), item[0])))

    def missing(self) -> list[str]:
        """Names of the folders that are not there, though any outcome of the experiment has them."""
        return sorted(name for name in self._planned if not (paths.runs_folder() / name).is_dir())

    def has_texts(self, name: str) -> bool:
        """Whether a notebook reads the texts of these completions, as for the part of them that is code."""
        return name in self._with_texts

    def run_of(self, record: dict[str, Any]) -> Run | None:
        """The run of the grid that a step belongs to; None for one that many runs share."""
        training = record["key"] if record["name"] == "training" else record.get("inputs", {}).get("training")
        return self._runs[f"training-{training}"][1] if f"training-{training}" in self._runs else None

    def step_of(self, record: dict[str, Any], settings_keys: Mapping[str, str] | None = None) -> keys.Step | None:
        """The step that has this record's name and key by today's code and settings, if there is one.

        With `settings_keys`, of the steps by their names then (`keys.Step.settings_key`), code may have been another.
        """
        name = f"{record['name']}-{record['key']}"
        if record["name"] not in pipeline.OF_CHECKPOINTS:
            return self._fixed_step(name, settings_keys)
        training = self._fixed_step(f"training-{record.get('inputs', {}).get('training')}", settings_keys)
        if training is None or training.folder_name not in self._runs:
            return None
        profile, run = self._runs[training.folder_name]
        checkpoint, split = record["parameters"]["checkpoint"], record["parameters"]["split"]
        if record["name"] == "report":
            step = run.report(profile, checkpoint)
        else:
            step = log_ratio_step.step(run.settings(profile), run.algorithm, run.seed, checkpoint, split)
        same = step.folder_name == name if settings_keys is None else step.settings_key == settings_keys.get(name)
        return step if same else None

    def _fixed_step(self, name: str, settings_keys: Mapping[str, str] | None) -> keys.Step | None:
        if settings_keys is None:
            return self._fixed.get(name)
        return self._by_settings.get(settings_keys.get(name, ""))

    def _add(self, profile: Profile) -> None:
        if answer_lengths.are_papers(profile):
            raise InputError(
                f"{profile.label}: lengths are counted in texts, by another tokenizer, and a record holds no texts."
            )
        steps, shared = Steps(profile), {}
        for run in runs(profile):
            training = steps[run].inputs[0]
            self._runs.setdefault(training.folder_name, (profile, run))
            shared.setdefault((run.setting, run.seed), run)
            self._keep(steps[run])
        planned = [*grid.grid(profile), *grid.scaling(profile), *grid.transformations(profile)]
        every = keys.with_inputs(*(steps[run] for run in planned))
        self._planned |= {step.folder_name for step in every if step.name in RECORDED}
        for run in shared.values():
            # The policy before fine-tuning is shown beside the fine-tuned one.
            for setting in {run.setting, run.setting.removeprefix("sft-")}:
                settings = dataclasses.replace(run, setting=setting).settings(profile)
                self._keep(*(reference_evaluation.step(settings, run.seed, split) for split in evaluation.HELD_OUT))
            if hasattr(profile.task, "extraction"):
                self._with_texts.add(reference_sampling.step(run.settings(profile)).folder_name)
        self._keep(reference_sampling.step(profile))
        if profile.experiment.rounds is not None:
            plans = rounds.plans(profile.experiment.rounds)
            self._keep(
                *(rounds.step(profile, plan, s, plan.rounds) for plan in plans for s in profile.experiment.seeds)
            )

    def _keep(self, *steps: keys.Step) -> None:
        for step in keys.with_inputs(*steps):
            if step.name in RECORDED:
                self._fixed.setdefault(step.folder_name, step)
                self._by_settings.setdefault(step.settings_key, step)


def runs(profile: Profile) -> list[Run]:
    """Every run whose results some notebook of the arm may read."""
    experiment = profile.experiment
    wanted = [*grid.possible(profile), *grid.figure_6(profile), *grid.threshold_runs(profile)]
    wanted += [grid.own_run(profile, algorithm, experiment.seeds[0]) for algorithm in experiment.algorithms]
    wanted += grid.of_beta(profile) if reward_traits.has_stated_properties(profile) else []
    return list(dict.fromkeys(wanted))
