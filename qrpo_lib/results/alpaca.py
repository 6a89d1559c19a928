"""AlpacaEval 2: the reported models' answers in its output format, and its judgement where it can be had.

With a table `[alpaca_eval]` in the profile it is AlpacaEval as the paper runs it (App. L.10): its 805 instructions,
answered by the selected checkpoints with the profile's engine, compared with GPT-4 Turbo's answers by the annotator
that the profile names. Without, the answers are those of the evaluation, compared with the initial policy's.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.experiment import jobs
from qrpo_lib.experiment.grid import Run
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.results.best_models import BestModels
from qrpo_lib.steps import alpaca_answers, evaluation
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "initial"
_KEY = "OPENAI_API_KEY"
_DEFAULT_ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"  # the package's own
# Columns of AlpacaEval's leaderboard, as Table 3 names them.
_METRICS = {
    "length_controlled_winrate": "alpaca_lc",
    "lc_standard_error": "alpaca_lc_error",
    "win_rate": "alpaca_wr",
    "standard_error": "alpaca_wr_error",
}

Outputs = dict[str, list[dict[str, str]]]


def outputs(profile: Profile, best: BestModels) -> Outputs:
    """Answers to AlpacaEval's instructions of each method's reported model, and of the policies before training.

    The instructions are AlpacaEval's where the profile has a table for it, else the reporting prompts (first seed).
    Raises InputError where AlpacaEval's cannot be had, or a selected checkpoint was not kept.
    """
    return _to_its_instructions(profile, best) if profile.alpaca_eval else _to_reporting_prompts(profile, best)


def _to_its_instructions(profile: Profile, best: BestModels) -> Outputs:
    alpaca_answers.baseline(profile)  # before any work
    wanted = {method: jobs.alpaca_answers(*_model(profile, best, method)) for method in best.methods}
    jobs.make(profile, *wanted.values())
    answers = {method: alpaca_answers.load(task.step.folder) for method, task in wanted.items()}
    return {method: [entry | {"generator": method} for entry in entries] for method, entries in answers.items()}


def _model(profile: Profile, best: BestModels, method: str) -> tuple[Profile, str | None, int, int]:
    """The reported model of a method as `steps.alpaca_answers.run` takes it: profile, algorithm, seed, checkpoint."""
    seed = profile.experiment.seeds[0]
    if method in ("initial", "sft"):
        setting = "sft-off-policy-random" if method == "sft" else "off-policy-random"
        return profile.with_training(setting=setting, pairs_per_prompt=1), None, seed, 0
    chosen = best.chosen(method)
    extras = {}
    if method == "qrpo":
        own = profile.training.qrpo
        extras = {name: getattr(own, name) for name in ("num_ref_rewards", "transform", "partition")}
    run = Run(method, chosen["setting"], float(chosen["beta"]), float(chosen["learning_rate"]), seed, **extras)
    return run.settings(profile), method, seed, int(chosen["step"])


def _to_reporting_prompts(profile: Profile, best: BestModels) -> Outputs:
    prompts = {prompt.id: prompt.text for prompt in tasks.of(profile.task).prompts(profile.seed)}
    seed = profile.experiment.seeds[0]
    answers = {}
    for method in best.methods:
        rows = best.rows(method)
        rows = rows[(rows["split"] == "reporting") & (rows["seed"] == seed) & (rows["repeat"] == 0)]
        texts = rows.sort_values("prompt_id")
        instructions = [prompts[name] for name in texts["prompt_id"]]
        answers[method] = evaluation.alpaca_eval_outputs(instructions, texts["text"].tolist(), method)
    return answers


def save(answers: Outputs, folder: Path) -> list[Path]:
    """Write `METHOD.json` for each method, as `alpaca_eval --model_outputs` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for method, entries in answers.items():
        paths.append(folder / f"{method}.json")
        paths[-1].write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def missing() -> str | None:
    """What AlpacaEval needs and is not here, in one sentence; None if it can run."""
    if not importlib.util.find_spec("alpaca_eval"):
        return "the package alpaca_eval is not installed (pip install alpaca_eval, in an environment of its own)."
    if not os.environ.get(_KEY):
        return f"the environment variable {_KEY} is not set; the annotator is a paid service."
    return None


def told(profile: Profile, annotator: str | None = None) -> str:
    """What is compared with what by whom, in one sentence."""
    settings = profile.alpaca_eval
    judge = annotator or (settings.annotator if settings else _DEFAULT_ANNOTATOR)
    if settings:
        compared = f"{settings.instructions} instructions of {settings.dataset}, against {settings.baseline}"
    else:
        compared = "the reporting prompts, against the initial policy: not AlpacaEval's own instructions and baseline"
    return f"Answers to {compared}, judged by {judge}."


def evaluate(answers: Outputs, profile: Profile, annotator: str | None = None) -> pd.DataFrame:
    """AlpacaEval's leaderboard, a row for each method in column `method`, with the metrics of Table 3 beside its own.

    annotator: as the package names it; the profile's by default.
    """
    import alpaca_eval
    import pandas as pd

    settings = profile.alpaca_eval
    reference = alpaca_answers.baseline(profile) if settings else answers[REFERENCE]
    boards = []
    for method, entries in answers.items():
        if settings or method != REFERENCE:
            board, _ = alpaca_eval.evaluate(
                model_outputs=entries,
                reference_outputs=reference,
                annotators_config=annotator or (settings.annotator if settings else _DEFAULT_ANNOTATOR),
                name=method,
                is_return_instead_of_print=True,
            )
            boards.append(board.loc[[method]])
    board = pd.concat(boards).rename_axis("method").reset_index()
    return board.assign(**{ours: board[theirs] for theirs, ours in _METRICS.items() if theirs in board})
