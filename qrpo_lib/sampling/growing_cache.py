"""A key-value cache with room for further tokens; transformers' own copies itself for each of them."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_BLOCK = 16  # tokens that there is room for after growing, which copies


def make_growing(cache: Cache) -> None:
    """Filled plain layers of the cache become `GrowingLayer`; others, such as those of a sliding window, stay."""
    cache.layers = [
        GrowingLayer(layer) if type(layer) is DynamicLayer and layer.is_initialized else layer for layer in cache.layers
    ]


class GrowingLayer(DynamicLayer):
    """A filled `DynamicLayer` that takes further tokens in place: `keys` and `values` are views of what is stored."""

    def __init__(self, filled: DynamicLayer):
        super().__init__()
        self.lazy_initialization(filled.keys, filled.values)
        self._store(filled.keys, filled.values, filled.get_seq_length())

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        # Methods of the base class put other keys in place of the view.
        if self.keys is not self._view or end > self._stored_keys.shape[-2]:
            self._store(_with_room(self.keys, end + _BLOCK), _with_room(self.values, end + _BLOCK), start)
        self._stored_keys[..., start:end, :] = key_states
        self._stored_values[..., start:end, :] = value_states
        self._store(self._stored_keys, self._stored_values, end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.keys is self._view:  # with the room that there is
            self._store(self._stored_keys[indices], self._stored_values[indices], self.get_seq_length())
        else:
            super().batch_select_indices(indices)

    def _store(self, keys: Tensor, values: Tensor, length: int) -> None:
        self._stored_keys, self._stored_values = keys, values
        self.keys, self.values = keys[..., :length, :], values[..., :length, :]
        self._view = self.keys


def _with_room(states: Tensor, tokens: int) -> Tensor:
    """A copy of (..., tokens, size) with so many tokens, of which further ones hold anything."""
    store = states.new_empty((*states.shape[:-2], tokens, states.shape[-1]))
    store[..., : states.shape[-2], :] = states
    return store
