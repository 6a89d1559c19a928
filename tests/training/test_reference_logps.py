import io

import numpy as np
import pytest
import torch
from small_llama import assert_same_history, column, fit, llama, made_up_rows, weights

from qrpo_lib.training import reference_logps


@pytest.fixture
def computed(monkeypatch):
    """How many times log-probabilities were computed and not read."""
    calls = []
    plain = reference_logps.compute
    monkeypatch.setattr(reference_logps, "compute", lambda *arguments: calls.append(1) or plain(*arguments))
    return calls


def log_probs(tokenizer, folder, seed=0, rows=None, **changes):
    settings = {"micro_batch_size": 4, "cache": folder} | changes
    return reference_logps.log_probs(llama(seed=seed), tokenizer, rows or made_up_rows(6), **settings)


def test_log_probabilities_are_computed_once(tokenizer, tmp_path, computed):
    plain = log_probs(tokenizer, None)
    first, second = log_probs(tokenizer, tmp_path), log_probs(tokenizer, tmp_path)
    assert len(computed) == 2
    for name, values in plain.items():
        assert np.array_equal(values, first[name])
        assert np.array_equal(values, second[name])


def test_what_does_not_determine_them_does_not_matter(tokenizer, tmp_path, computed):
    log_probs(tokenizer, tmp_path)
    others = [row | {"chosen_reward": 9.0, "ref_rewards": [1.0]} for row in made_up_rows(6)]
    log_probs(tokenizer, tmp_path, rows=others)
    assert len(computed) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"rows": made_up_rows(5)},
        {"rows": [row | {"prompt_ids": [5, *row["prompt_ids"]]} for row in made_up_rows(6)]},
        {"precision": "bfloat16"},
    ],
    ids=["weights", "rows", "tokens", "precision"],
)
def test_another_content_is_another_file(changes, tokenizer, tmp_path, computed):
    log_probs(tokenizer, tmp_path)
    log_probs(tokenizer, tmp_path, **changes)
    assert len(computed) == 2
    assert len(list(tmp_path.glob("*.npy"))) == 2


@pytest.mark.parametrize("damage", ["cut off", "one bit of a value", "of before checksums"])
def test_a_damaged_file_is_made_again(tokenizer, tmp_path, computed, damage):
    plain = log_probs(tokenizer, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    content = bytearray(path.read_bytes())
    if damage == "one bit of a value":
        content[130] ^= 1  # behind the 128 bytes of NumPy's header: a number that is as plausible as the right one
        assert np.isfinite(np.load(io.BytesIO(content))).all()
    path.write_bytes(content[: {"cut off": -5, "one bit of a value": None, "of before checksums": -72}[damage]])
    again = log_probs(tokenizer, tmp_path)
    assert len(computed) == 2
    assert all(np.array_equal(plain[name], again[name]) for name in plain)


def test_rows_of_one_prompt_share_a_micro_batch_and_its_prompt(tokenizer, monkeypatch):
    rows = [row | {"prompt_ids": [3 + i % 4] * (2 + i % 3)} for i, row in enumerate(made_up_rows(48))]
    sizes, plain = [], reference_logps.completion_log_probs

    def counting(model, ids, mask):
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "forward", _recording(type(model).forward, sizes))
            return plain(model, ids, mask)

    monkeypatch.setattr(reference_logps, "completion_log_probs", counting)
    together = log_probs(tokenizer, None, rows=rows)
    one_by_one = log_probs(tokenizer, None, rows=rows, micro_batch_size=1)
    tokens = [sum(sizes[:12]), sum(sizes[12:])]
    prompts = sum(len(row["prompt_ids"]) for row in rows)
    distinct = {tuple(row["prompt_ids"]) for row in rows}  # each with four rows, so one micro-batch
    assert tokens[1] - tokens[0] == prompts - sum(map(len, distinct))
    for name, values in together.items():
        np.testing.assert_allclose(values, one_by_one[name], atol=1e-5)


def _recording(forward, sizes):
    def recorded(self, input_ids=None, **others):
        sizes.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **others)

    return recorded


@pytest.mark.parametrize("algorithm", ["qrpo", "dpo", "rebel"])
def test_a_live_reference_trains_as_a_computed_and_a_cached_one(algorithm, tokenizer, tmp_path):
    rows, fits = made_up_rows(24), []
    changes = {"algorithm": algorithm, "loss": {"beta": 0.5}}
    for reference in ({}, {"reference_cache": tmp_path}, {"reference_cache": tmp_path}, {"reference": "live"}):
        model = llama()
        history = fit(model, tokenizer, rows, rows[:8], **changes, **reference).history
        fits.append((history, weights(model)))
    assert fits[0][0] == fits[1][0] == fits[2][0]
    assert abs(column(fits[0][0], "chosen_log_ratio")[-1]) > 1e-3, "the policy must have left the reference"
    assert_same_history(fits[3][0], fits[0][0])
    torch.testing.assert_close(fits[3][1], fits[0][1], rtol=0, atol=2e-4)


def test_unknown_reference(tokenizer):
    with pytest.raises(ValueError, match="unknown reference 'frozen': use one of computed, live"):
        fit(llama(), tokenizer, made_up_rows(8), reference="frozen")
