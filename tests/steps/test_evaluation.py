"""What answers are asked for and recorded with, apart from the steps that do so (`test_checkpoint_evaluation`)."""

import json
from pathlib import Path

from qrpo_lib.models import chat_template
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.sampling import sampler
from qrpo_lib.steps import evaluation
from qrpo_lib.tasks import problems

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml")


def test_alpaca_evals_format():
    outputs = evaluation.alpaca_eval_outputs(["Say hi."], ["Hi."], "qrpo")
    assert json.loads(json.dumps(outputs)) == [{"instruction": "Say hi.", "output": "Hi.", "generator": "qrpo"}]


class Sampled:
    """In place of a sampler: to each prompt the solution of its problem, then an answer that cannot pass."""

    def __init__(self, answers, *_, **__):
        self._answers = answers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def sample(self, prompts, *, completions, **_):
        assert completions == 2
        texts = [(self._answers[tuple(ids)], "```python\nnothing = 0\n```") for ids in prompts]
        return [
            sampler.Completion(number, index, [5] * (index + 1), text, "stop", -1.0)
            for number, both in enumerate(texts)
            for index, text in enumerate(both)
        ]


def test_human_eval_rewards_are_the_shares_of_tests_that_answers_pass(monkeypatch):
    """With three of the suite's own problems in HumanEval's place, whose solutions pass and nothing else does."""
    some = problems.own()[:3]
    monkeypatch.setattr(problems, "human_eval", lambda: some)
    monkeypatch.setattr(chat_template, "prompt_ids", lambda tokenizer, text: [ord(letter) for letter in text])
    answers = {tuple(map(ord, problem.prompt)): problems.answer(problem) for problem in some}
    monkeypatch.setattr(sampler, "Sampler", lambda *arguments: Sampled(answers, *arguments))
    profile = PROFILE.model_copy(
        update={"evaluation": PROFILE.evaluation.model_copy(update={"repeats": 1, "reporting_repeats": 2})}
    )
    rows = evaluation.human_eval_rewards(profile, "policy", None, seed=0)
    assert list(rows["prompt_id"]) == [problem.id for problem in some for _ in range(2)]
    assert list(rows["reward"]) == [1, 0] * 3
    assert list(rows["length"]) == [1, 2] * 3
    assert set(rows["step"]) == {0}
