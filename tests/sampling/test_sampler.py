import copy
import json
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from qrpo_lib.sampling import growing_cache, transformers_engine, vllm_engine
from qrpo_lib.sampling import sampler as sampling

VOCABULARY, EOS = 7, 0
N = 10_000  # completions for a chi-square test


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
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,  # of width 32: vLLM takes nothing smaller on a CPU
        initializer_range=0.15,  # far from uniform, so that a wrong distribution shows
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    made = LlamaForCausalLM(config).eval()
    # What must not act: a model's own sampling defaults.
    made.generation_config.do_sample = True
    made.generation_config.top_k, made.generation_config.repetition_penalty = 1, 5.0
    return made


PROMPT = (1, 2, 3)
# Temperature and top-p of the reference completions, of the evaluations, and a flatter one that top-p cuts.
VARIANTS = [(1.0, 1.0), (0.7, 0.9), (1.5, 0.97)]


def sample(model, prompts=(PROMPT, (4,), (5, 6)), **changes):
    settings = {"completions": 50, "max_new_tokens": 6, "seed": 0, "batch_size": 64} | changes
    return sampling.sample(model, Letters(), [list(prompt) for prompt in prompts], **settings)


def log_probs(model, prompt, completion):
    with torch.no_grad():
        logits = model(torch.tensor([list(prompt) + list(completion)])).logits[0].double()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]


def next_token(model, prompt, temperature=1.0, top_p=1.0, top_k=VOCABULARY, repetition_penalty=1.0):
    """Probabilities of the next token, by enumeration."""
    with torch.no_grad():
        logits = model(torch.tensor([list(prompt)])).logits[0, -1].double().numpy()
    seen = sorted(set(prompt))
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / repetition_penalty, logits[seen] * repetition_penalty)
    probabilities = np.exp(logits / temperature)
    order = np.argsort(-probabilities)
    probabilities[order[top_k:]] = 0
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= top_p]] = 0
    return probabilities / probabilities.sum()


def two_tokens(model, **settings):
    """Probability of every completion of PROMPT by at most two tokens."""
    found = {}
    for first, p in enumerate(next_token(model, PROMPT, **settings)):
        if first == EOS:
            found[(first,)] = p
        elif p > 0:
            second = next_token(model, (*PROMPT, first), **settings)
            found |= {(first, token): p * q for token, q in enumerate(second)}
    return found


def pvalue(completions, probabilities):
    """Chi-square test that these completions follow the probabilities; 0 if one is impossible."""
    counts = dict.fromkeys(probabilities, 0)
    for ids in completions:
        if probabilities.get(tuple(ids), 0) == 0:
            return 0.0
        counts[tuple(ids)] += 1
    expected = np.array(list(probabilities.values())) * len(completions)
    observed = np.array(list(counts.values()))
    often = expected >= 5
    observed = np.append(observed[often], observed[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    possible = expected > 0
    return stats.chisquare(observed[possible], expected[possible] * observed.sum() / expected.sum()).pvalue


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The model on disk, with those defaults."""
    path = tmp_path_factory.mktemp("policy")
    model.save_pretrained(path)
    assert json.loads((path / "generation_config.json").read_text())["top_k"] == 1
    return path


@pytest.fixture(scope="module")
def vllm(folder):
    """One vLLM engine for all tests."""
    if not vllm_engine.vllm_python():
        pytest.skip("vLLM is not installed: make .venv-vllm/.installed")
    with sampling.Sampler(folder, Letters(), backend="vllm", max_model_len=32) as sampler:
        yield sampler


@pytest.fixture(params=["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def sampler(request, folder):
    if request.param == "vllm":
        yield request.getfixturevalue("vllm")
    else:
        with sampling.Sampler(folder, Letters()) as made:
            yield made


def test_outcomes_of_every_backend(sampler):
    found = sampler.sample([list(PROMPT), [4], [5, 6]], completions=50, max_new_tokens=6, seed=0)
    assert [(c.prompt_index, c.sample_index) for c in found] == [(i, j) for i in range(3) for j in range(50)]
    for completion in found:
        ids = completion.token_ids
        assert EOS not in ids[:-1]
        assert completion.finish_reason == ("stop" if ids[-1] == EOS else "length")
        assert len(ids) == 6 or ids[-1] == EOS
        assert completion.text == Letters().decode(ids, True)
    assert {c.finish_reason for c in found} == {"stop", "length"}


def test_log_probability_is_that_of_a_plain_forward_pass_without_padding(sampler, model):
    prompts = [list(PROMPT), [4], [5, 6]]
    settings = {"completions": 20, "max_new_tokens": 6, "seed": 0, "temperature": 0.7, "top_p": 0.9}
    for completion in sampler.sample(prompts, **settings):
        expected = log_probs(model, prompts[completion.prompt_index], completion.token_ids).sum()
        assert completion.logp == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize(("temperature", "top_p"), VARIANTS)
def test_completions_follow_the_models_distribution(sampler, model, temperature, top_p):
    # a prompt beside it of another length: padding must not act
    found = sampler.sample(
        [[4], list(PROMPT)],
        completions=N,
        max_new_tokens=2,
        seed=1,
        temperature=temperature,
        top_p=top_p,
        batch_size=2 * N,
    )[N:]
    expected = two_tokens(model, temperature=temperature, top_p=top_p)
    assert pvalue([c.token_ids for c in found], expected) > 1e-3


@pytest.mark.parametrize("default", [{"top_k": 5}, {"repetition_penalty": 1.2}, {"temperature": 0.9}, {"top_p": 0.95}])
def test_that_test_would_notice_a_default_that_crept_in(model, default):
    distorted = two_tokens(model, **default)
    generator = np.random.default_rng(0)
    drawn = generator.choice(len(distorted), N, p=np.array(list(distorted.values())))
    sequences = list(distorted)
    completions = [sequences[i] for i in drawn]
    assert pvalue(completions, distorted) > 1e-3
    assert pvalue(completions, two_tokens(model)) < 1e-6


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (transformers_engine, "_COMPACT_AT", 0.0),
        (transformers_engine, "_COMPACT_AT", 2.0),
        (growing_cache, "_BLOCK", 1),
    ],
)
def test_when_rows_are_dropped_and_the_cache_grows_changes_nothing(model, monkeypatch, module, name, value):
    settings = {"completions": 200, "max_new_tokens": 40, "batch_size": 1000}
    plain = sample(model, **settings)
    assert len({len(one.token_ids) for one in plain}) > 20, "rows must end at different times"
    monkeypatch.setattr(module, name, value)
    changed = sample(model, **settings)
    assert [one.token_ids for one in changed] == [one.token_ids for one in plain]
    np.testing.assert_allclose([one.logp for one in changed], [one.logp for one in plain], atol=1e-4)


def test_grouped_queries_and_bfloat16_are_sampled_too(model):
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig.from_dict(model.config.to_dict() | {"num_key_value_heads": 1})).eval()
    for policy, tolerance in ((made, 1e-3), (copy.deepcopy(made).bfloat16(), 0.3)):
        for completion in sample(policy, max_new_tokens=40):
            prompt = [PROMPT, (4,), (5, 6)][completion.prompt_index]
            expected = log_probs(policy, prompt, completion.token_ids).sum()
            assert completion.logp == pytest.approx(float(expected), abs=tolerance)


def test_a_seed_gives_its_completions_whatever_came_before(sampler):
    settings = {"completions": 20, "max_new_tokens": 6}
    first = sampler.sample([list(PROMPT)], seed=3, **settings)
    assert sampler.sample([[4], list(PROMPT)], seed=4, **settings)[20:] != first
    assert sampler.sample([list(PROMPT)], seed=3, **settings) == first


def test_no_prompts_give_no_completions(sampler):
    assert sampler.sample([], completions=2, max_new_tokens=2, seed=0) == []


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


def test_vllm_needs_a_saved_policy(model, monkeypatch):
    monkeypatch.setattr(vllm_engine, "vllm_python", lambda: sys.executable)
    with pytest.raises(ValueError, match="pass its folder"):
        sample(model, backend="vllm")


@pytest.mark.slow
def test_vllm_refuses_what_is_longer_than_it_was_started_for(vllm):
    with pytest.raises(ValueError, match="may need 33 tokens"):
        vllm.sample([[1, 2, 3]], completions=1, max_new_tokens=30, seed=0)
