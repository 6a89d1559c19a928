import importlib.util

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from qrpo_lib import sampling

VOCABULARY, EOS = 7, 0


class Letters:
    """A tokenizer of single letters: its end-of-sequence token is also what pads."""

    eos_token_id = pad_token_id = EOS

    def decode(self, ids, skip_special_tokens):
        return "".join(" abcdef"[i] for i in ids if i != EOS or not skip_special_tokens)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.8,  # far from uniform, so that a wrong distribution shows
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    made = LlamaForCausalLM(config).eval()
    # What must not act: a model's own sampling defaults.
    made.generation_config.top_k, made.generation_config.repetition_penalty = 1, 5.0
    return made


def sample(model, prompts=((1, 2, 3), (4,), (5, 6)), **changes):
    settings = {"completions": 50, "max_new_tokens": 6, "seed": 0, "batch_size": 64} | changes
    return sampling.sample(model, Letters(), [list(prompt) for prompt in prompts], **settings)


def log_probs(model, prompt, completion):
    with torch.no_grad():
        logits = model(torch.tensor([list(prompt) + list(completion)])).logits[0].double()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]


def test_order_end_and_text(model):
    found = sample(model)
    assert [(c.prompt_index, c.sample_index) for c in found] == [(i, j) for i in range(3) for j in range(50)]
    for completion in found:
        ids = completion.token_ids
        assert EOS not in ids[:-1]
        assert completion.finish_reason == ("stop" if ids[-1] == EOS else "length")
        assert len(ids) == 6 or ids[-1] == EOS
        assert completion.text == Letters().decode(ids, True)
    assert {c.finish_reason for c in found} == {"stop", "length"}


def test_log_probability_is_that_of_a_plain_forward_pass_without_padding(model):
    prompts = ((1, 2, 3), (4,), (5, 6))
    for completion in sample(model, prompts, temperature=0.7, top_p=0.9):
        expected = log_probs(model, prompts[completion.prompt_index], completion.token_ids).sum()
        assert completion.logp == pytest.approx(float(expected), abs=1e-4)


def test_first_two_tokens_follow_the_models_distribution(model):
    prompt, n = (1, 2, 3), 20_000
    found = sample(model, [(4,), prompt], completions=n, max_new_tokens=2, batch_size=2 * n)[n:]
    sequences = {(EOS,): 0} | {(a, b): 0 for a in range(1, VOCABULARY) for b in range(VOCABULARY)}
    for completion in found:
        sequences[tuple(completion.token_ids)] += 1
    expected = np.array([float(log_probs(model, prompt, list(ids)).sum().exp()) for ids in sequences]) * n
    assert expected.sum() == pytest.approx(n, rel=1e-5)
    counts = np.array(list(sequences.values()))
    often = expected >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_temperature_and_top_p(model):
    prompt, n, top_p, temperature = (1, 2, 3), 20_000, 0.97, 1.5
    found = sample(model, [prompt], completions=n, max_new_tokens=1, top_p=top_p, temperature=temperature, batch_size=n)
    counts = np.bincount([c.token_ids[0] for c in found], minlength=VOCABULARY)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double().numpy() / temperature
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-probabilities)
    kept = order[: np.searchsorted(np.cumsum(probabilities[order]), top_p) + 1]
    assert set(np.flatnonzero(counts)) == set(kept)
    expected = probabilities[kept] / probabilities[kept].sum() * n
    assert stats.chisquare(counts[kept], expected).pvalue > 1e-3


def test_seeded(model):
    assert sample(model) == sample(model)
    assert sample(model) != sample(model, seed=1)


def test_unusable_settings_are_refused(model):
    for changes, message in [
        ({"prompts": [()]}, "empty"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"completions": 0}, "at least 1"),
        ({"backend": "magic"}, "no sampling backend 'magic'"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample(model, **changes)


def test_auto_is_vllm_where_it_is_installed():
    expected = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    assert sampling.resolve_backend("auto") == expected


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed")
def test_vllm_gives_the_models_own_distribution(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"top_k": 1, "do_sample": true, "repetition_penalty": 5.0}')
    prompt, n = [1, 2, 3], 4000
    settings = {"completions": n, "max_new_tokens": 2, "seed": 0, "backend": "vllm"}
    found = sampling.sample(tmp_path, Letters(), [prompt], **settings)
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy() * n
    counts = np.bincount([c.token_ids[0] for c in found], minlength=VOCABULARY)
    often = expected >= 5
    observed, wanted = (
        np.append(counts[often], counts[~often].sum()),
        np.append(expected[often], expected[~often].sum()),
    )
    assert stats.chisquare(observed, wanted).pvalue > 1e-3
    for completion in found[:20]:
        assert completion.logp == pytest.approx(float(log_probs(model, prompt, completion.token_ids).sum()), abs=1e-3)
