"""Order of training: which rows share a batch, which a micro-batch. Lengths in, indices out; the seed decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_POOL = 50  # batches whose sequences are sorted by length together in fine-tuning


def training_order(lengths: Sequence[int], batch_size: int, epochs: int, seed: int) -> np.ndarray:
    """Random batches; inside a batch the rows are sorted by length, so that micro-batches need little padding."""
    return _sorted_in_blocks(_epoch_permutations(len(lengths), epochs, seed), lengths, batch_size)


def length_grouped_order(lengths: Sequence[int], batch_size: int, epochs: int, seed: int) -> np.ndarray:
    """Batches of similar lengths, cut from random pools of `_POOL` batches, in random order; a short one comes last."""
    order = _sorted_in_blocks(_epoch_permutations(len(lengths), epochs, seed), lengths, _POOL * batch_size)
    whole = len(order) // batch_size
    batches = order[: whole * batch_size].reshape(whole, batch_size)
    return np.concatenate([np.random.default_rng(seed).permutation(batches).ravel(), order[whole * batch_size :]])


def by_length(lengths: Sequence[int], size: int) -> Iterator[np.ndarray]:
    """Indices of all rows in micro-batches of similar length, longest first: too little memory shows at once."""
    order = _sorted_in_blocks(np.arange(len(lengths)), lengths, max(len(lengths), 1))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _epoch_permutations(rows: int, epochs: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.permutation(rows) for _ in range(epochs)])


def _sorted_in_blocks(order: np.ndarray, lengths: Sequence[int], size: int) -> np.ndarray:
    """The order with each block of `size` sorted by length, longest first."""
    lengths = np.asarray(lengths)
    blocks = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([block[np.argsort(-lengths[block], kind="stable")] for block in blocks])
