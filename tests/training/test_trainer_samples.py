"""What `fit_policy` is trained on: transformations, single completions, one side of a pair, weights, online samples."""

import numpy as np
import pytest
import torch
from small_llama import EOS, assert_same_history, column, fit, llama, made_up_rows, plain_log_prob, weights

from qrpo_lib.objective import losses, transforms

SCALED = {"name": "scaled-normal", "mu": 0.3, "sigma": 0.5}
TRANSFORMS = ["identity", "log", "square", "sqrt", "normal", SCALED]


def numpy_targets(rows, transform, partition, beta):
    """Calibrated targets of (chosen, rejected), (rows, 2), from the formulas, in NumPy."""
    f = transforms.get(transform)
    ref = np.array([row["ref_rewards"] for row in rows])
    rewards = np.array([[row["chosen_reward"], row["rejected_reward"]] for row in rows])
    quantile = (ref[:, None] <= rewards[:, :, None]).mean(-1)
    n = ref.shape[1]
    if f.name in ("log", "normal", "scaled-normal"):
        quantile = np.clip(quantile, 1 / n, 1 if f.name == "log" else (n - 1) / n)
    if partition == "exact":
        log_partition = transforms.log_partition(f, beta)  # by quadrature
    elif partition == "finite":
        log_partition = transforms.finite_log_partition(f, beta, n)
    else:
        log_partition = f(np.ones(1))[0] / beta + np.log(beta / f.slope)
    return f(quantile) - beta * log_partition


def pointwise(rows):
    """Each pair as its two completions."""
    return [
        {
            "prompt_ids": row["prompt_ids"],
            "completion_ids": row[f"{side}_ids"],
            "reward": row[f"{side}_reward"],
            "ref_rewards": row["ref_rewards"],
        }
        for row in rows
        for side in ("chosen", "rejected")
    ]


@pytest.mark.parametrize("partition", losses.PARTITIONS)
@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_every_transformation_and_partition_trains(transform, partition, tokenizer):
    """At the start the log-ratio is 0, so the loss is the mean squared target, or absolute, of the completions."""
    rows = made_up_rows(8)
    if partition == "asymptotic" and transforms.get(transform).limit is None:
        pytest.skip("unbounded above: no asymptotic form")
    loss = {"beta": 1.0, "transform": transform, "partition": partition}
    targets = numpy_targets(rows, transform, partition, 1.0)
    history = fit(llama(), tokenizer, rows, loss=loss, checkpoints=1).history
    assert history[0]["loss"] == pytest.approx((targets**2).mean(), rel=1e-5)
    assert history[0]["chosen_target"] == pytest.approx(targets[:, 0].mean(), rel=1e-5, abs=1e-6)
    assert history[0]["share_above_threshold"] == pytest.approx((targets > 0).mean())


@pytest.mark.parametrize("completions", losses.COMPLETIONS)
def test_both_completions_of_a_pair_or_one(completions, tokenizer):
    rows = made_up_rows(8)
    targets = np.abs(numpy_targets(rows, "identity", "exact", 0.5))
    expected = {"both": targets, "chosen": targets[:, 0], "rejected": targets[:, 1]}[completions].mean()
    loss = {"beta": 0.5, "error": "absolute", "completions": completions}
    history = fit(llama(), tokenizer, rows, loss=loss, checkpoints=1).history
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert "rejected_log_ratio" in history[0]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_one_side_of_pairs_is_those_completions_alone(side, tokenizer):
    rows, models = made_up_rows(8), (llama(), llama())
    fit(models[0], tokenizer, rows, loss={"beta": 0.5, "completions": side}, epochs=3)
    alone = pointwise(rows)[(0 if side == "chosen" else 1) :: 2]
    fit(models[1], tokenizer, alone, loss={"beta": 0.5}, epochs=3)
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=2e-4)


def test_single_completions_train_as_the_pairs_they_make(tokenizer):
    rows, models = made_up_rows(8), (llama(), llama())
    pairs = fit(models[0], tokenizer, rows, rows, epochs=3).history
    both = pointwise(rows)
    single = fit(models[1], tokenizer, both, both, epochs=3, batch_size=16, micro_batch_size=4).history
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=2e-4)
    for name in ("loss", "share_above_threshold"):
        np.testing.assert_allclose(column(single, name), column(pairs, name), rtol=1e-4)
    for name in ("log_ratio", "quantile", "target"):
        halves = [column(pairs, f"{side}_{name}", "validation") for side in ("chosen", "rejected")]
        np.testing.assert_allclose(column(single, name, "validation"), np.mean(halves, 0), rtol=1e-3, atol=1e-5)
    assert "implicit_reward_accuracy" not in single[0]


@pytest.mark.parametrize("algorithm", ["dpo", "rebel", "simpo"])
def test_only_qrpo_takes_single_completions(algorithm, tokenizer):
    with pytest.raises(ValueError, match=f"{algorithm} needs pairs, chosen_ids and rejected_ids"):
        fit(llama(), tokenizer, pointwise(made_up_rows(2)), algorithm=algorithm, loss={"beta": 0.1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": float("nan")}, "reward is not finite"),
        ({"reward": None}, "reward is missing"),
        ({"ref_rewards": [0.1]}, "1 reference rewards, but 3 are asked for"),
        ({"completion_ids": []}, "completion_ids is empty"),
        ({"prompt_ids": [2] * 32}, r"the prompt fills the context \(32 of 32 tokens\)"),
        ({"weight": 0.0}, "weight must be a positive number, got 0.0"),
    ],
)
def test_a_single_completion_that_cannot_be_used_is_named(changes, message, tokenizer):
    rows = pointwise(made_up_rows(4))
    rows[5] |= changes
    with pytest.raises(ValueError, match=f"^train row 5: .*{message}"):
        fit(llama(), tokenizer, rows)


def test_normal_transformation_needs_two_references_before_training(tokenizer):
    with pytest.raises(ValueError, match=r"^train row 0: .*at least 2 reference rewards"):
        fit(llama(), tokenizer, made_up_rows(4), num_ref_rewards=1, loss={"beta": 1.0, "transform": SCALED})


def test_a_weight_counts_as_many_rows(tokenizer):
    rows, models = made_up_rows(6), (llama(), llama())
    weighted = [row | {"weight": float(1 + i % 3)} for i, row in enumerate(rows)]
    repeated = [row for i, row in enumerate(rows) for _ in range(1 + i % 3)]
    one = fit(models[0], tokenizer, weighted, weighted, epochs=3, batch_size=6, micro_batch_size=2).history
    other = fit(models[1], tokenizer, repeated, repeated, epochs=3, batch_size=12, micro_batch_size=4).history
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=2e-4)
    assert_same_history(one, other)


# --- online samples ---------------------------------------------------------------------------------------------------


def test_online_samples_train_as_the_same_rows_given(tokenizer):
    """The first step, where the callback hands out the rows that it is asked for: the same loss and gradient."""
    rows, asked, models = made_up_rows(20), [], (llama(), llama())

    def online(step, model, wanted):
        assert not model.training
        asked.append((step, len(wanted)))
        return [rows[one["number"]] for one in wanted]

    numbers = [{"number": i} for i in range(20)]
    drawn = fit(models[0], tokenizer, numbers, rows[:4], online=online, micro_batch_size=4).history
    assert asked == [(0, 8), (1, 8), (2, 4)]
    assert column(drawn, "chosen_log_ratio", "validation")[0] == 0
    first = [rows[i] for i in np.random.default_rng(0).permutation(20)[:8]]
    given = fit(models[1], tokenizer, first, checkpoints=1).history[0]
    for name in ("loss", "grad_norm", "chosen_log_ratio"):
        assert drawn[1][name] == pytest.approx(given[name], rel=1e-4, abs=1e-5)


def test_online_samples_come_from_the_policy_as_it_is(tokenizer):
    """Its log-ratio to the reference, measured by the callback, is the one that training logs."""
    rows, measured = made_up_rows(24), []
    reference = llama().eval()

    def online(step, model, wanted):
        ratios = [
            plain_log_prob(model, row["prompt_ids"], row["chosen_ids"])
            - plain_log_prob(reference, row["prompt_ids"], row["chosen_ids"])
            for row in wanted
        ]
        measured.append(float(torch.stack(ratios).mean()))
        return wanted

    history = fit(llama(), tokenizer, rows, online=online).history
    assert measured == pytest.approx(column(history, "chosen_log_ratio"), rel=1e-3, abs=1e-4)
    assert abs(measured[-1]) > 1e-2


def test_online_training_resumes(tokenizer, tmp_path):
    rows = made_up_rows(48)

    def online(step, model, wanted):
        generator = np.random.default_rng(step)
        return [row | {"chosen_ids": [*generator.integers(2, 9, 3).tolist(), EOS]} for row in wanted]

    def killed(step, model):
        if step == 4:
            raise KeyboardInterrupt

    models = llama(), llama()
    settings = {"online": online, "checkpoints": 3}
    whole = fit(models[0], tokenizer, rows, **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(llama(), tokenizer, rows, folder=tmp_path, on_checkpoint=killed, **settings)
    resumed = fit(models[1], tokenizer, rows, folder=tmp_path, **settings)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert resumed.history == whole.history


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (lambda rows: rows[:-1], "a sample for each of the 8 rows, not 7"),
        (lambda rows: [row | {"chosen_ids": []} for row in rows], "step 0, online row 0: chosen_ids is empty"),
    ],
)
def test_unusable_online_samples(drawn, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        fit(llama(), tokenizer, made_up_rows(8), online=lambda step, model, rows: drawn(rows))
