import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from qrpo_lib.objective import transforms
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import rounds as iterative_results
from qrpo_lib.steps import pairs
from qrpo_lib.steps import rounds as iterative
from qrpo_lib.theory import tabular

SMALLEST = __file__.rpartition("/tests/")[0] + "/tests/data/smallest.toml"


@pytest.mark.parametrize("name", ["identity", "log", "square", "sqrt", "normal"])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_partition_function_of_a_round_is_that_of_its_reference(name, number):
    """By quadrature: E of exp(f / b) under the quantile's law after number - 1 rounds, exp((number - 1) f / b) / Z."""
    f, b = transforms.get(name), 6.0
    log_law = -f.log_partition(b / (number - 1)) if number > 1 else 0.0
    expected = transforms.log_partition(lambda t: number * f(t) + b * log_law, b)
    assert transforms.of_round(f, number).log_partition(b) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    np.testing.assert_array_equal(transforms.of_round(f, number)(np.array([0.2, 0.7])), f(np.array([0.2, 0.7])))


def test_rounds_are_numbered_from_one():
    with pytest.raises(ValueError, match="numbered from 1"):
        transforms.of_round("identity", 0)


def test_rounds_with_a_fixed_reward_end_at_the_optimum_of_one_stage():
    log_ref, rewards = tabular.random_prompt(60, 0)
    fixed = tabular.rounds(transforms.get("log"), log_ref, rewards, 0.3, 3, False)
    one = tabular.rounds(transforms.get("log"), log_ref, rewards, 0.3, 1, False)
    assert tabular.kl(fixed, one) < 1e-12


def test_best_and_worst_keeps_ties():
    row = pairs.best_and_worst([1], [[2], [3, 4], [5]], np.array([0.5, 2.0, -1.0], dtype=np.float32), (0.0, 1.0))
    assert (row["chosen_ids"], row["rejected_ids"]) == ([3, 4], [5])
    assert (row["chosen_reward"], row["rejected_reward"], row["ref_rewards"]) == (2.0, -1.0, [0.0, 1.0])
    tied = pairs.best_and_worst([1], [[2], [3]], [1.0, 1.0], [0.0])
    assert tied["chosen_ids"] == tied["rejected_ids"] == [2]


@pytest.mark.parametrize(("rounds", "reward"), [(0, "fixed"), (2, "new")])
def test_a_plan_is_checked(rounds, reward):
    with pytest.raises(ValueError, match="a plan has at least 1 round"):
        iterative.Plan(rounds, reward)


def test_only_the_exact_partition_is_known_for_later_rounds():
    profile = profiles.load(SMALLEST).with_training(**{"qrpo.partition": "finite"})
    with pytest.raises(ValueError, match='need partition = "exact"'):
        iterative.run(profile, iterative.Plan(2), seed=0)


@pytest.mark.slow
def test_rounds_sample_from_the_last_policy_and_refer_to_it(runs_folder, monkeypatch):
    """Four plans on the smallest profile: what is drawn anew, how much, against which reference."""
    profile = profiles.load(SMALLEST)
    drawn = []
    plain = iterative.sampler.sample

    def spy(policy, tokenizer, prompts, *, completions, **settings):
        drawn.append((policy, len(prompts), completions))
        return plain(policy, tokenizer, prompts, completions=completions, **settings)

    first, *_ = iterative.run(profile, iterative.Plan(), seed=0)
    monkeypatch.setattr(iterative.sampler, "sample", spy)
    fixed = iterative.run(profile, iterative.Plan(2, "fixed"), seed=0)
    candidates, references = profile.reference_sampling.completions, profile.reference_sampling.ref_rewards
    evaluated = (12, profile.evaluation.repeats)
    assert [one[1:] for one in drawn] == [evaluated, (16, candidates), evaluated]
    assert drawn[1][0] == fixed[0] / "policy"
    del drawn[:]
    renewed = iterative.run(profile, iterative.Plan(2, "renewed"), seed=0)
    assert [one[1:] for one in drawn] == [evaluated, (16, candidates), (16, references), evaluated]

    frames = [pd.read_parquet(folder / "completions.parquet") for folder in (first, *fixed, *renewed)]
    assert [frame["prompt_id"].nunique() for frame in frames] == [32, 16, 16, 16, 16]
    assert not set(frames[1]["prompt_id"]) & set(frames[2]["prompt_id"])
    by_role = [frame.set_index(["prompt_id", "sample_index"])["reward"] for frame in (frames[0], frames[2], frames[4])]
    roles = frames[2].set_index(["prompt_id", "sample_index"])["role"]
    original, of_fixed, of_renewed = (rewards.loc[roles.index] for rewards in by_role)
    assert (original[roles == "reference"] == of_fixed[roles == "reference"]).all()
    assert (original[roles == "reference"] != of_renewed[roles == "reference"]).any()
    assert (original[roles == "candidate"] != of_fixed[roles == "candidate"]).any()
    for folder in fixed:  # the log-ratio of round 2 starts at its own reference
        history = pd.read_csv(folder / "history.csv")
        assert abs(history["chosen_log_ratio"].iloc[0]) < 1e-4
        assert not (folder / ".trainer").exists()
    del drawn[:]
    online = iterative.run(profile, iterative.Plan(online=True), seed=0)
    assert [one[1:] for one in drawn] == [(8, candidates)] * 4 + [evaluated]
    assert all(isinstance(one[0], torch.nn.Module) for one in drawn)
    evaluation = iterative.load(online[0])
    assert len(evaluation) == 12
    assert np.isfinite(evaluation[["reward", "log_ratio"]]).all(axis=None)
    weights = [AutoModelForCausalLM.from_pretrained(path / "policy").state_dict() for path in (first, *online)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_estimate_of_the_kl_is_unbiased(tmp_path):
    """Completions drawn from a known policy, against the KL as a sum; every plan's mean by prompt."""
    log_initial, rewards = tabular.random_prompt(30, 0)
    log_policy = tabular.optimal_policy(log_initial, rewards, 2.0)
    drawn = np.random.default_rng(0).choice(30, 200_000, p=np.exp(log_policy))
    columns = {"prompt_id": "p", "reward": rewards[drawn], "length": 1, "log_ratio": (log_policy - log_initial)[drawn]}
    pd.DataFrame(columns).to_parquet(tmp_path / "evaluation.parquet")
    prompts = iterative_results.by_prompt({(iterative.Plan(), 0): [tmp_path]})
    assert prompts["kl"].item() == pytest.approx(tabular.kl(log_policy, log_initial), rel=0.02)
    assert prompts["reward"].item() == pytest.approx(float(np.exp(log_policy) @ rewards), abs=0.01)


def of_plans(seed_effects, seeds=4, prompts=40):
    """Prompt means of two plans: the first better by a number of each seed, with little noise of prompts."""
    generator = np.random.default_rng(0)
    rows = []
    for plan, effects in ((iterative.Plan(2), seed_effects), (iterative.Plan(), [0.0] * seeds)):
        for seed, effect in enumerate(effects):
            rewards = 1.0 + effect + generator.normal(0, 0.01, prompts)
            frame = pd.DataFrame(
                {"prompt_id": [f"p{i}" for i in range(prompts)], "reward": rewards, "kl": 0.1 * rewards}
            )
            rows.append(frame.assign(length=5, plan=plan.label, round=plan.rounds, last=plan.rounds, seed=seed))
    return pd.concat(rows, ignore_index=True)


def test_differences_of_plans_vary_with_the_seeds():
    """Seeds that disagree by 2 say little of a mean difference of 0.1, however many prompts agree within a seed."""
    plans = iterative.Plan(2), iterative.Plan()
    agreeing = iterative_results.difference(of_plans([0.1, 0.1, 0.1, 0.1]), *plans, "reward")
    assert agreeing.low > 0.08
    disagreeing = iterative_results.difference(of_plans([1.1, -0.9, 1.1, -0.9]), *plans, "reward")
    assert disagreeing.mean == pytest.approx(0.1, abs=0.01)
    assert disagreeing.low < 0 < disagreeing.high
    assert (disagreeing.n, disagreeing.seeds) == (40, 4)


def test_the_table_of_plans_has_intervals_over_seeds():
    prompts = of_plans([1.1, -0.9, 1.1, -0.9])
    first = iterative_results.table(prompts).iloc[0]
    assert first["reward"].high - first["reward"].low > 0.5
    assert iterative_results.last_mean(prompts, iterative.Plan(2), "kl") == pytest.approx(0.11, abs=0.01)
