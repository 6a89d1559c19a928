"""The order of rows in `QRPOTrainer`, as a sampler of torch: that of the suite's own training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch.utils.data import Sampler

from qrpo_lib.training import batching


class RandomBatches(Sampler[int]):
    """Random batches, the rows of each sorted by length: epoch e has the e-th part of `batching.training_order`.

    lengths: tokens of each row; batch_size: rows a step, over all processes; the same seed gives the same order.
    filler: how many rows come after these, which end each epoch.
    epoch: says how many epochs are over when an iteration begins, also in a training that was resumed (`set_epoch` does
        not reach a sampler that Accelerate has wrapped several times).
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], float | None], filler: int = 0
    ):
        self._lengths, self._batch_size, self._seed, self._epoch = list(lengths), batch_size, seed, epoch
        self._filler = filler

    def __len__(self) -> int:
        return len(self._lengths) + self._filler

    def __iter__(self) -> Iterator[int]:
        epoch = int((self._epoch() or 0) + 1e-6)  # a sum of shares of an epoch
        rows = batching.epoch_order(self._lengths, self._batch_size, epoch, self._seed).tolist()
        return iter([*rows, *range(len(rows), len(self))])
