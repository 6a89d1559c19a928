import numpy as np
import pandas as pd
import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import reference_completions as reference_results
from qrpo_lib.steps import reference_sampling, shared_references
from qrpo_lib.tasks import registry as tasks


def reference_completions(shift, n=4, prompts=2000):
    generator = np.random.default_rng(0)
    rows = []
    for prompt in range(prompts):
        rewards = generator.normal(prompt, 1 + prompt % 3, size=n + 1)
        rewards[0] += shift
        for index, reward in enumerate(rewards):
            role = "candidate" if index == 0 else "reference"
            rows.append({"prompt_id": prompt, "sample_index": index, "role": role, "reward": reward})
    return pd.DataFrame(rows)


def test_quantiles_of_reference_completions_are_uniform_and_others_are_not():
    shares, test = reference_results.uniformity(reference_completions(0.0))
    assert (test.prompts, test.n, len(shares)) == (2000, 4, 5)
    assert shares["share"].sum() == pytest.approx(1)
    assert test.p_value > 1e-3
    assert reference_results.uniformity(reference_completions(0.5))[1].p_value < 1e-6


def as_file(frame, folder):
    """A step's folder with these completions, whose texts are of as many tokens as their sample's number."""
    tokens = [list(range(index)) for index in frame["sample_index"]]
    texts = {"prompt": "p", "text": "t", "finish_reason": "length", "split": "train"}
    frame.assign(token_ids=tokens, **texts).to_parquet(folder / reference_sampling.COMPLETIONS)
    return folder


def test_a_candidate_that_is_a_reference_too_is_compared_with_the_others(tmp_path):
    """With `references = "shared"` it has a second row, and would never be below all of its references."""
    frame = reference_completions(0.0)
    shared = as_file(frame, tmp_path)
    shared_references.rewrite(shared / reference_sampling.COMPLETIONS)
    loaded = reference_results.load(shared, profiles.load("tiny", "chat"))
    assert len(loaded) == len(frame) + 2000
    shares, test = reference_results.uniformity(loaded)
    expected, of_apart = reference_results.uniformity(frame)
    pd.testing.assert_frame_equal(shares, expected)
    assert test == of_apart


def test_tokens_are_counted_and_not_kept(tmp_path):
    """Nor are texts where no code is judged: of millions of completions they are tens of gigabytes."""
    frame = reference_completions(0.0, prompts=30)
    loaded = reference_results.load(as_file(frame, tmp_path), profiles.load("tiny", "chat"))
    assert loaded["length"].tolist() == frame["sample_index"].tolist()
    assert not {"token_ids", "text", "prompt", "prompt_ids"} & set(loaded)
    summary = reference_results.summary(loaded)
    assert summary.loc["train", ["length", "truncated"]].tolist() == [(1 + 2 + 3 + 4) / 4, 1]  # one is empty
    assert {"prompt", "text"} <= set(reference_results.load(tmp_path, profiles.load("tiny", "code")))


def test_where_the_rules_for_code_differ_is_counted_by_split():
    profile = profiles.load("tiny", "code")
    prompts = [prompt for prompt in tasks.of(profile.task).prompts(profile.seed) if prompt.split == "train"][:2]
    forms = [f"```{language}\ndef f(a, b):\n    return 0\n```" for language in ("python", "py")]
    rows = [{"split": "train", "prompt": prompt.text, "text": text} for prompt in prompts for text in forms]
    counted = reference_results.extraction_differences(pd.DataFrame(rows), profile)
    assert counted.to_dict("records") == [{"split": "train", "completions": 4, "differ": 2}]
    assert reference_results.extraction_differences(pd.DataFrame(rows), profiles.load("tiny", "chat")) is None
