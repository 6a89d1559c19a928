"""The authors' construction against the rows that it is made of."""

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import fitting, reference_sampling, shared_references
from qrpo_lib.steps.pairs import build_pairs

CANDIDATES, SAMPLED = 3, 7


def sampled(prompts=4, seed=0):
    """Completions of some prompts as they are sampled, with rewards of which no two are equal."""
    generator = np.random.default_rng(seed)
    rows = [
        {
            "prompt_id": f"p{i}",
            "split": "train",
            "prompt": f"prompt {i}",
            "prompt_ids": [i, 1],
            "sample_index": j,
            "role": "candidate" if j < CANDIDATES else "reference",
            "token_ids": [10 * i + j, 2],
            "text": f"answer {j}",
            "reward": float(generator.normal()),
        }
        for i in range(prompts)
        for j in range(SAMPLED)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def with_shared(tmp_path):
    def made(frame):
        path = tmp_path / reference_sampling.COMPLETIONS
        frame.to_parquet(path)
        shared_references.rewrite(path)
        assert [one.name for one in tmp_path.iterdir()] == [path.name]
        return pd.read_parquet(path)

    return made


def references(frame):
    return frame[frame["role"] == "reference"].groupby("prompt_id")["reward"].apply(list)


def test_the_references_are_all_completions_in_the_order_of_sampling(with_shared):
    frame = sampled()
    found = references(with_shared(frame))
    for prompt_id, of_prompt in frame.groupby("prompt_id"):
        assert found[prompt_id] == of_prompt.sort_values("sample_index")["reward"].tolist()


def test_a_candidate_counts_itself_in_its_quantile(with_shared):
    frame = with_shared(sampled())
    rows, report = build_pairs(
        frame[frame["role"] == "candidate"],
        references(frame),
        setting="off-policy-best",
        seed=0,
        num_ref_rewards=SAMPLED,
    )
    assert report["pairs"] == 4
    for row in rows:
        for side in ("chosen", "rejected"):
            assert row[f"{side}_reward"] in row["ref_rewards"]
            quantile = np.mean(np.array(row["ref_rewards"]) <= row[f"{side}_reward"])
            assert quantile >= 1 / SAMPLED  # never 0: a completion is at or below itself


def test_every_completion_is_there_once_with_its_text(with_shared):
    frame = sampled()
    once = shared_references.once(with_shared(frame))
    once = once.assign(**{name: once[name].map(list) for name in ("prompt_ids", "token_ids")})
    pd.testing.assert_frame_equal(once.reset_index(drop=True), frame)
    pd.testing.assert_frame_equal(shared_references.once(frame), frame)


@pytest.mark.parametrize("missing", [0, CANDIDATES])
def test_a_prompt_without_one_of_its_rewards_is_left_out_whole(with_shared, missing):
    frame = sampled()
    frame.loc[(frame["prompt_id"] == "p1") & (frame["sample_index"] == missing), "reward"] = np.nan
    frame = with_shared(frame)
    rows, report = build_pairs(
        frame[frame["role"] == "candidate"],
        references(frame),
        setting="off-policy-best",
        seed=0,
        num_ref_rewards=profile("shared", completions=CANDIDATES, ref_rewards=4).reference_sampling.num_references,
    )
    assert {row["prompt_id"] for row in rows} == {"p0", "p2", "p3"}
    assert report["too_few_reference_rewards"] == 1


def profile(references, **changes):
    settings = profiles.load("tiny", "chat")
    values = settings.reference_sampling.model_dump() | {"references": references} | changes
    return settings.model_copy(update={"reference_sampling": type(settings.reference_sampling)(**values)})


def test_the_construction_is_in_the_key_and_the_default_is_not():
    plain = profiles.load("tiny", "chat")
    assert reference_sampling.step(profile("apart")).key == reference_sampling.step(plain).key
    assert reference_sampling.step(profile("shared")).key != reference_sampling.step(plain).key
    assert fitting.step(profile("shared"), "qrpo", 0).key != fitting.step(plain, "qrpo", 0).key
    assert "references" not in plain.model_dump()["reference_sampling"]


def test_the_same_completions_are_sampled_and_only_their_roles_differ(tmp_path, monkeypatch):
    frame = sampled()
    monkeypatch.setattr(
        reference_sampling, "_merge", lambda profile, folder: frame.to_parquet(folder / reference_sampling.COMPLETIONS)
    )
    reference_sampling._merge_shared(profile("shared"), tmp_path)
    found = reference_sampling.load(tmp_path)
    assert len(found) == 4 * (SAMPLED + CANDIDATES)
    assert shared_references.once(found)["reward"].tolist() == frame["reward"].tolist()
    assert references(found).map(len).tolist() == [SAMPLED] * 4


def test_all_references_may_be_used(tmp_path):
    assert profile("shared").reference_sampling.num_references == 56
    assert profile("apart").reference_sampling.num_references == 50
    path = tmp_path / "mine.toml"
    shared = 'extends = "tiny"\nunset = ["arms.chat.experiment.rounds"]\n[reference_sampling]\nreferences = "shared"\n'
    all_of_them = "[training.qrpo]\nnum_ref_rewards = 56\n"
    path.write_text(shared + all_of_them)
    assert profiles.load(path, "chat").training.qrpo.num_ref_rewards == 56
    path.write_text('extends = "tiny"\n[reference_sampling]\nreferences = "shared"\n')
    with pytest.raises(profiles.ProfileError, match=r'experiment.rounds needs reference_sampling.references = "apart"'):
        profiles.load(path, "chat")
    path.write_text('extends = "tiny"\n' + all_of_them)
    with pytest.raises(profiles.ProfileError, match="num_ref_rewards is 56, but only 50 are sampled"):
        profiles.load(path, "chat")
