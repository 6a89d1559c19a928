"""A cache that grows in place holds what transformers' own one does."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from qrpo_lib.sampling import growing_cache


@pytest.mark.parametrize("block", [1, 2, 16])  # with and without room when a method of the base class acts
def test_a_growing_layer_holds_what_a_plain_one_does(monkeypatch, block):
    monkeypatch.setattr(growing_cache, "_BLOCK", block)
    plain, cache = DynamicLayer(), DynamicCache()
    states = torch.randn(3, 2, 4, 5)
    plain.update(states, -states)
    cache.layers = [DynamicLayer()]
    cache.layers[0].update(states, -states)
    growing_cache.make_growing(cache)
    (growing,) = cache.layers
    indices = torch.tensor([1, 0])
    steps = ["update", "update", "batch_select_indices", *["update"] * 4, "batch_repeat_interleave", "update"]
    steps += ["batch_select_indices", "reorder_cache", "batch_select_indices", "update", "update", "update"]
    for step in steps:
        new = torch.randn(len(plain.keys), 2, 1, 5)
        argument = {"update": (new, -new), "batch_repeat_interleave": (2,)}.get(step, (indices,))
        for layer in (plain, growing):
            getattr(layer, step)(*argument)
        assert torch.equal(growing.keys, plain.keys)
        assert torch.equal(growing.values, plain.values)


def test_the_cache_keeps_layers_that_it_does_not_know():
    sliding, plain = DynamicSlidingWindowLayer(sliding_window=4), DynamicLayer()
    states = torch.zeros(1, 1, 3, 2)
    for layer in (sliding, plain):
        layer.update(states, states)
    cache = DynamicCache()
    empty = DynamicLayer()
    cache.layers = [sliding, plain, empty]
    growing_cache.make_growing(cache)
    assert cache.layers[0] is sliding
    assert cache.layers[2] is empty
    assert isinstance(cache.layers[1], growing_cache.GrowingLayer)
