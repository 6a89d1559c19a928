"""Which rows a run sees where the last partial batch of an epoch is dropped, and at which steps it is evaluated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrpo_lib.paper import published
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.training import batching, callbacks

ORDERS = (batching.training_order, batching.length_grouped_order)


@pytest.mark.parametrize("order", ORDERS)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_each_epoch_sees_whole_batches_of_different_rows(order, rows, size, epochs, seed):
    lengths = np.random.default_rng(seed).integers(1, 50, rows)
    if rows < size:
        with pytest.raises(ValueError, match=f"{rows} rows fill no batch of {size}"):
            order(lengths, size, epochs, seed, "drop")
        return
    found = order(lengths, size, epochs, seed, "drop")
    kept = rows // size * size
    assert len(found) == epochs * kept
    assert np.bincount(found, minlength=rows).max() <= epochs
    if order is batching.training_order:
        assert all(len(set(found[i * kept : (i + 1) * kept])) == kept for i in range(epochs))


@pytest.mark.parametrize("order", ORDERS)
def test_nothing_is_dropped_where_nothing_is_left_over(order):
    lengths = np.random.default_rng(0).integers(1, 50, 32)
    assert order(lengths, 8, 2, 0, "drop").tolist() == order(lengths, 8, 2, 0).tolist()


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_epochs_one_after_the_other_are_the_order_of_training(batches, size, epochs, seed):
    lengths = np.random.default_rng(seed).integers(1, 50, batches * size)
    of_epochs = [batching.epoch_order(lengths, size, epoch, seed) for epoch in range(epochs)]
    assert np.concatenate(of_epochs).tolist() == batching.training_order(lengths, size, epochs, seed).tolist()


def test_what_is_dropped_differs_from_epoch_to_epoch():
    seen = batching.training_order([1] * 11, 4, 2, 0, "drop").reshape(2, 8)
    assert set(seen[0]) != set(seen[1])


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="unknown last_batch 'dropped'"):
        batching.training_order([1, 2], 1, 1, 0, "dropped")


# Rows after the paper's filter (App. L.3, L.7), and the steps that its tables show (App. M).
PAPER = {
    "llama-magpieair": (97_812, {160, 320, 480, 640, 764}),
    "mistral-magpieair": (97_812, {160, 320, 480, 640, 764}),
    "llama-ultrafeedback": (61_024, {100, 200, 300, 400, 476}),
    "mistral-ultrafeedback": (61_024, {100, 200, 300, 400, 476}),
    "llama-leetcode": (25_630, {40, 80, 120, 160, 200}),
}


@pytest.mark.parametrize("arm", PAPER)
def test_the_papers_scale_has_the_papers_steps_and_checkpoints(arm):
    rows, checkpoints = PAPER[arm]
    settings = profiles.load("gh200", arm).training
    order = batching.training_order(np.ones(rows), settings.batch_size, settings.epochs, 0, settings.last_batch)
    steps = -(-len(order) // settings.batch_size)
    assert callbacks.checkpoint_steps(steps, settings.checkpoints, settings.checkpoint_every) == checkpoints
    shown = published.table("appendix_m")
    of_arm = shown[(shown["arm"] == arm) & (shown["method"] != "sft")]
    assert set(of_arm["step"]) <= checkpoints | {0}


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_the_last_step_is_always_a_checkpoint(steps, every):
    found = callbacks.checkpoint_steps(steps, 5, every)
    assert max(found) == steps
    assert found == {step for step in range(1, steps + 1) if step % every == 0 or step == steps}
