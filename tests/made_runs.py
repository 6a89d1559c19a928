"""Complete run folders with made-up results of a known law, so that what is computed from them can be compared."""

import numpy as np
import pandas as pd

from qrpo_lib.experiment import grid
from qrpo_lib.runs import folders
from qrpo_lib.steps import (
    evaluation,
    fitting,
    initial_policy,
    log_ratios,
    reference_evaluation,
    reference_policy,
    reference_sampling,
    shifts,
)
from qrpo_lib.tasks import base

PROFILE = """
extends = "tiny"
name = "made"

[arms.chat.task]
train_prompts = 8
selection_prompts = 15
reporting_prompts = 40

[reference_sampling]
ref_rewards = 50

[experiment]
algorithms = ["dpo", "simpo", "rebel", "qrpo"]
seeds = [0, 1, 2]
grid_seeds = 1

[experiment.betas]
dpo = [0.1, 0.3]
simpo = [2.0]
rebel = [0.3]
qrpo = [0.1, 0.3]

[arms.chat.experiment]
settings = ["off-policy-best", "off-policy-random", "sft-off-policy-best", "sft-off-policy-random"]
scaling = [{ settings = ["off-policy-random", "offline"], num_ref_rewards = [1, 50], betas = [0.01, 0.3] }]

[arms.chat.experiment.transformations]
setting = "off-policy-best"
transforms = ["identity", "log"]
betas = [0.1, 0.3]
"""
STEPS = (0, 2, 4)


def make(profile, wanted, effect, slope=lambda run: 0.0):
    """A folder for each run and for what it starts from.

    effect(run): how much higher the mean reward is at the last step than at step 0; it grows linearly with the step.
    slope(run): how the log-ratio goes with the standardised length.
    """
    steps, shared = grid.Steps(profile), set()
    for run in dict.fromkeys(wanted):
        settings = run.settings(profile)
        if (run.setting, run.seed) not in shared:
            for step, content in _shared(settings, run.seed):
                folders.complete(step, content)
            shared.add((run.setting, run.seed))

        answers = pd.concat(
            [_evaluation(settings, run.seed, step, effect(run) * step / STEPS[-1], slope(run)) for step in STEPS[1:]]
        )
        training = steps[run].inputs[0]
        folders.complete(training, lambda folder, run=run: _write_history(run, effect(run), folder))
        folders.complete(steps[run], _writing(answers[answers["split"] == "selection"]))
        for step in STEPS[1:]:
            rows = answers[(answers["step"] == step) & (answers["split"] == "reporting")]
            folders.complete(run.report(profile, step), _writing(rows))
            made = log_ratios.step(settings, run.algorithm, run.seed, step, "reporting")
            folders.complete(made, lambda folder, rows=rows: _write_log_ratios(rows, folder))


def everything(profile):
    """All runs that there could be."""
    return grid.possible(profile)


def _shared(profile, seed):
    higher = 0.1 if shifts.is_tuned_first(profile.training.setting) else 0.0

    def write_references(folder):
        _references(profile).to_parquet(folder / reference_sampling.COMPLETIONS)

    # What SFT adds is seen on the reporting prompts alone: step 0 is not the best of a run that learns less than that.
    start = {
        "selection": _evaluation(profile, seed, 0, 0.0, 0.0),
        "reporting": _evaluation(profile, seed, 0, higher, 0.0),
    }
    return [
        (initial_policy.step(profile), _nothing),
        (reference_policy.step(profile), _nothing),
        (reference_sampling.step(profile), write_references),
        *(
            (reference_evaluation.step(profile, seed, split), _writing(rows[rows["split"] == split]))
            for split, rows in start.items()
        ),
    ]


def _writing(answers):
    """What writes these answers into a folder."""
    return lambda folder: answers.reset_index(drop=True).to_parquet(folder / evaluation.EVALUATION)


def _write_history(run, effect, folder):
    _history(run, effect).to_csv(folder / fitting.HISTORY, index=False)


def _write_log_ratios(answers, folder):
    columns = answers[["prompt_id", "repeat", "logp"]].assign(ref_logp=-20.0)
    columns.to_parquet(folder / log_ratios.LOG_RATIOS)


def _nothing(folder):
    (folder / "made").write_text("made")


def as_prompt(split, name):
    """A prompt of the made-up task."""
    return base.Prompt(name, split, f"request {name}")


def held_out(profile):
    """(split, id) of the made-up prompts."""
    task = profile.task
    return [("selection", f"s{i:03d}") for i in range(task.selection_prompts)] + [
        ("reporting", f"r{i:03d}") for i in range(task.reporting_prompts)
    ]


def _level(prompt):
    return 1.0 + 0.5 * np.sin(sum(map(ord, prompt)))


def _references(profile):
    generator = np.random.default_rng(1)
    rows = []
    for split, prompt in held_out(profile):
        for index in range(10):
            rows.append({"prompt_id": prompt, "split": split, "sample_index": index, "text": "an answer"})
            rows[-1]["reward"] = _level(prompt) + generator.normal(0, 0.2)
            rows[-1]["token_ids"] = [1] * int(generator.integers(10, 31))
    return pd.DataFrame(rows)


def _evaluation(profile, seed, step, effect, slope):
    generator = np.random.default_rng([seed, step, int(1e6 * abs(effect))])
    asked = {"selection": 3, "reporting": 6}
    rows = [{"prompt_id": p, "split": s, "repeat": r} for s, p in held_out(profile) for r in range(asked[s])]
    frame = pd.DataFrame(rows).assign(step=step, finish_reason="stop")
    frame["length"] = generator.integers(10, 31, size=len(frame))
    frame["reward"] = frame["prompt_id"].map(_level) + effect + generator.normal(0, 0.2, size=len(frame))
    frame["logp"] = -20.0 + slope * (frame["length"] - 20) / 6 + generator.normal(size=len(frame))
    frame["text"] = "answer " + frame["repeat"].astype(str)
    return frame.assign(token_ids=[[1]] * len(frame))[[*evaluation.RECORDED, "token_ids"]]


def _history(run, effect):
    rows, pairwise = [], {} if run.algorithm == "qrpo" else {"implicit_reward_accuracy": 0.75}
    for step in STEPS:
        values = {"chosen_log_ratio": effect * step, "rejected_log_ratio": -step, "loss": 1.0}
        rows.append(
            {"step": step, "split": "validation"}
            | values
            | pairwise
            | {"chosen_quantile": 0.9, "rejected_quantile": 0.4}
        )
    return pd.DataFrame(rows)
