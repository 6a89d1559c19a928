"""Log-probabilities of answers: of which, each one computed once; their values: `test_checkpoint_evaluation`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import fitting, log_ratios

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml")


@pytest.mark.parametrize(("split", "answers"), [("selection", "evaluation"), ("reporting", "report")])
def test_they_are_of_the_answers_to_that_split(split, answers, runs_folder):
    step = log_ratios.step(PROFILE, "qrpo", 1, 4, split)
    assert [source.name for source in step.inputs] == [answers, "training", "initial_policy"]
    assert step.inputs[1].key == fitting.step(PROFILE, "qrpo", 1).key
    others = [log_ratios.step(PROFILE, "qrpo", 1, 2, split), log_ratios.step(PROFILE, "qrpo", 0, 4, split)]
    others.append(log_ratios.step(PROFILE.with_training(micro_batch_size=4), "qrpo", 1, 4, split))
    assert len({one.key for one in (step, *others)}) == 4


def test_the_same_answer_twice_is_computed_once(monkeypatch):
    from qrpo_lib.models import chat_template
    from qrpo_lib.tasks import registry
    from qrpo_lib.training import reference_logps

    asked = []

    def log_probs(policy, tokenizer, rows, **computing):
        asked.extend(rows)
        return {"ref_logps": np.array([-sum(row["prompt_ids"] + row["completion_ids"]) for row in rows], np.float32)}

    prompts = [SimpleNamespace(id=name, text=name) for name in ("a", "b", "unasked")]
    monkeypatch.setattr(registry, "of", lambda task: SimpleNamespace(prompts=lambda seed: prompts))
    monkeypatch.setattr(chat_template, "prompt_ids", lambda tokenizer, text: [{"a": 10, "b": 20}[text]])
    monkeypatch.setattr(log_ratios.evaluation, "tokenizer", lambda profile: None)
    monkeypatch.setattr(reference_logps, "log_probs", log_probs)
    answers = pd.DataFrame({"prompt_id": ["b", "a", "a", "b"], "token_ids": [[1], [1, 2], [1], [1]]})
    found = log_ratios._log_probs(PROFILE, Path("policy"), answers)
    assert found.tolist() == [-21.0, -13.0, -11.0, -21.0]
    assert found.dtype == np.float64
    assert len(asked) == 3
