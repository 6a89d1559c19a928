"""Which rows share a batch and a micro-batch, and in which order: lengths in, indices out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

LAST_BATCHES = ("keep", "drop")
_POOL = 50  # batches whose sequences are sorted by length together in fine-tuning


def training_order(
    lengths: Sequence[int], batch_size: int, epochs: int, seed: int, last_batch: str = "keep"
) -> np.ndarray:
    """Random batches; inside a batch the rows are sorted by length, so that micro-batches need little padding.

    Parameters
    ----------
    lengths: of the rows' sequences, in tokens.
    batch_size: rows of a batch.
    epochs: how often each row comes.
    seed: of the order.
    last_batch: "keep" the short batch at the end, or "drop" what does not fill a batch, of each epoch.

    Raises
    ------
    ValueError
        No whole batch is left.
    """
    return _sorted_in_blocks(_epochs(len(lengths), batch_size, epochs, seed, last_batch), lengths, batch_size)


def epoch_order(lengths: Sequence[int], batch_size: int, epoch: int, seed: int) -> np.ndarray:
    """The rows of one epoch, from 0, in random batches as those of `training_order`; the last batch may be short.

    Where batches fill an epoch, the epochs one after the other are `training_order`.

    Parameters
    ----------
    lengths, batch_size, seed: as of `training_order`.
    epoch: its number, from 0.
    """
    generator = np.random.default_rng(seed)
    for _ in range(epoch):
        generator.permutation(len(lengths))
    return _sorted_in_blocks(generator.permutation(len(lengths)), lengths, batch_size)


def length_grouped_order(
    lengths: Sequence[int], batch_size: int, epochs: int, seed: int, last_batch: str = "keep"
) -> np.ndarray:
    """Batches of similar lengths, cut from random pools of `_POOL` batches, in random order; a short one comes last.

    Parameters
    ----------
    lengths, batch_size, epochs, seed, last_batch: as of `training_order`, whose errors this raises too.
    """
    epochs_in_order = _epochs(len(lengths), batch_size, epochs, seed, last_batch)
    order = _sorted_in_blocks(epochs_in_order, lengths, _POOL * batch_size)
    whole = len(order) // batch_size
    batches = order[: whole * batch_size].reshape(whole, batch_size)
    return np.concatenate([np.random.default_rng(seed).permutation(batches).ravel(), order[whole * batch_size :]])


def by_prompt(prompts: Sequence[Sequence[int]], lengths: Sequence[int], micro_batch_size: int) -> Iterator[np.ndarray]:
    """Indices of all rows in micro-batches: those of one prompt side by side, since they share its forward pass.

    Prompts go by their longest sequence, longest first, so that sequences of a micro-batch have similar lengths.
    """
    longest: dict[tuple[int, ...], int] = {}
    keys = [tuple(prompt) for prompt in prompts]
    for key, length in zip(keys, lengths, strict=True):
        longest[key] = max(length, longest.get(key, 0))
    order = np.array(sorted(range(len(keys)), key=lambda i: (-longest[keys[i]], keys[i], -lengths[i])), dtype=int)
    for start in range(0, len(order), micro_batch_size):
        yield order[start : start + micro_batch_size]


def _epochs(rows: int, batch_size: int, epochs: int, seed: int, last_batch: str) -> np.ndarray:
    """A permutation of the rows for each epoch, one after another, cut to whole batches with `last_batch="drop"`."""
    if last_batch not in LAST_BATCHES:
        raise ValueError(f"unknown last_batch {last_batch!r}: use one of {', '.join(LAST_BATCHES)}.")
    kept = rows if last_batch == "keep" else rows // batch_size * batch_size
    if not kept:
        raise ValueError(
            f"{rows} rows fill no batch of {batch_size}, and last_batch='drop' trains on whole ones alone."
        )
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.permutation(rows)[:kept] for _ in range(epochs)])


def _sorted_in_blocks(order: np.ndarray, lengths: Sequence[int], size: int) -> np.ndarray:
    """The order with each block of `size` sorted by length, longest first."""
    lengths = np.asarray(lengths)
    blocks = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([block[np.argsort(-lengths[block], kind="stable")] for block in blocks])
