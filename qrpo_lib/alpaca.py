"""AlpacaEval 2: the reported models' answers in its output format, and its judgement where it can be had."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib import evaluation, tasks
from qrpo_lib.profiles import Profile
from qrpo_lib.results import BestModels

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "initial"
_KEY = "OPENAI_API_KEY"


def outputs(profile: Profile, best: BestModels) -> dict[str, list[dict[str, str]]]:
    """Of each method's reported model, and of the initial policy, an answer to every reporting prompt (first seed)."""
    prompts = {one.id: one.text for one in tasks.of(profile.task).prompts(profile.seed)}
    seed = profile.experiment.seeds[0]
    found = {}
    for method in best.methods:
        rows = best.rows(method)
        rows = rows[(rows["split"] == "reporting") & (rows["seed"] == seed) & (rows["repeat"] == 0)]
        texts = rows.sort_values("prompt_id")
        instructions = [prompts[name] for name in texts["prompt_id"]]
        found[method] = evaluation.alpaca_eval_outputs(instructions, texts["text"].tolist(), method)
    return found


def save(found: dict[str, list[dict[str, str]]], folder: Path) -> list[Path]:
    """Write `METHOD.json` for each method, as `alpaca_eval --model_outputs` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for method, entries in found.items():
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


def evaluate(found: dict[str, list[dict[str, str]]], annotator: str) -> pd.DataFrame:
    """AlpacaEval's leaderboard of the methods against the initial policy's answers."""
    import alpaca_eval
    import pandas as pd

    boards = []
    for method, entries in found.items():
        if method != REFERENCE:
            board, _ = alpaca_eval.evaluate(
                model_outputs=entries,
                reference_outputs=found[REFERENCE],
                annotators_config=annotator,
                name=method,
                is_return_instead_of_print=True,
            )
            boards.append(board.loc[[method]])
    return pd.concat(boards)
