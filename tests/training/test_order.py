"""The order of rows in `QRPOTrainer`: that of the suite's own trainings, whole or resumed in any epoch."""

import itertools

import numpy as np
import pytest

from qrpo_lib.training import batching
from qrpo_lib.training.order import RandomBatches

LENGTHS = [int(length) for length in np.random.default_rng(0).integers(1, 50, size=24)]


@pytest.mark.parametrize("seed", [0, 7])
def test_epochs_one_after_the_other_are_the_suites_training_order(seed):
    epochs = [list(RandomBatches(LENGTHS, 8, seed, lambda now=now: float(now))) for now in range(3)]
    assert list(itertools.chain(*epochs)) == batching.training_order(LENGTHS, 8, 3, seed).tolist()
    assert epochs[0] != epochs[1]


def test_every_row_comes_once_in_batches_sorted_by_length():
    order = list(RandomBatches(LENGTHS, 10, 3, lambda: 0.0))
    assert sorted(order) == list(range(len(LENGTHS)))
    for batch in (order[:10], order[10:20], order[20:]):
        lengths = [LENGTHS[row] for row in batch]
        assert lengths in (sorted(lengths), sorted(lengths, reverse=True))
    assert len(RandomBatches(LENGTHS, 10, 3, lambda: 0.0)) == len(LENGTHS)


def test_rows_that_fill_the_last_batch_come_last():
    plain, filled = (RandomBatches(LENGTHS, 8, 3, lambda: 1.0, filler=count) for count in (0, 3))
    assert list(filled) == [*plain, 24, 25, 26]
    assert len(filled) == 27


def test_an_epoch_is_counted_although_its_shares_do_not_add_up_to_it():
    """The Trainer counts an epoch as a sum of shares: three thirds are less than 1 in floating point, None is 0."""
    second = list(RandomBatches(LENGTHS, 8, 0, lambda: 1.0))
    assert list(RandomBatches(LENGTHS, 8, 0, lambda: 1 - 1e-9)) == second
    assert list(RandomBatches(LENGTHS, 8, 0, lambda: 1.7)) == second
    assert list(RandomBatches(LENGTHS, 8, 0, lambda: None)) == list(RandomBatches(LENGTHS, 8, 0, lambda: 0.0)) != second
