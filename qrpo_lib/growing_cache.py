"""A cache of keys and values that has room for tokens to come: transformers' own copies itself for each of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_BLOCK = 16  # tokens that there is room for after growing, which copies


def make_growing(cache: Cache) -> None:
    """Plain layers of the cache become `GrowingLayer`; others, such as those of a sliding window, stay as they are."""
    cache.layers = [GrowingLayer(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers]


class GrowingLayer(DynamicLayer):
    """A filled `DynamicLayer` that takes further tokens in place: `keys` and `values` are views of what is stored."""

    def __init__(self, filled: DynamicLayer):
        super().__init__()
        self.lazy_initialization(filled.keys, filled.values)
        self._store(filled.keys, filled.values)

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._stored_keys.shape[-2]:
            room = (0, 0, 0, end - start + _BLOCK)
            self._store(F.pad(self.keys, room), F.pad(self.values, room))
        self._stored_keys[..., start:end, :] = key_states
        self._stored_values[..., start:end, :] = value_states
        self.keys, self.values = self._stored_keys[..., :end, :], self._stored_values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._store(self.keys[indices], self.values[indices])

    def _store(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = self._stored_keys, self._stored_values = keys, values
