import copy
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from qrpo_lib.runs.code_version import package_file
from qrpo_lib.sampling import engines, growing_cache, transformers_engine, vllm_engine, vllm_worker
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


@pytest.mark.parametrize("top_p", [1.0, 0.65])
def test_a_draw_inverts_the_distribution_function(top_p):
    probabilities = np.array([0, 1, 0, 3, 2, 0, 4, 0]) / 10  # tokens that must never come, at both ends too
    uniform = torch.cat([(torch.arange(10, dtype=torch.float64) + 0.5) / 10, torch.tensor([0, 1 - 2**-53]).double()])
    logits = torch.tensor(probabilities).log().float().expand(len(uniform), -1)
    drawn = transformers_engine._draw(logits, 1.0, top_p, uniform).tolist()
    if top_p == 1:
        assert drawn[:10] == [1, 3, 3, 3, 4, 4, 6, 6, 6, 6]
        assert drawn[10:] == [1, 6]
    else:  # 4/10 and 3/10 hold 0.7 together, in the order of their probabilities: 4/7 of 10 draws are token 6
        assert drawn[:10] == [6] * 6 + [3] * 4
        assert drawn[10:] == [6, 3]


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


def test_logits_that_are_not_numbers_are_refused():
    with pytest.raises(RuntimeError, match="logits are not finite"):
        transformers_engine._draw(torch.tensor([[0.0, math.nan]]), 1.0, 1.0, torch.zeros(1, dtype=torch.float64))


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


def test_grouped_queries_and_bfloat16_are_sampled_too(model):
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig.from_dict(model.config.to_dict() | {"num_key_value_heads": 1})).eval()
    for policy, tolerance in ((made, 1e-3), (copy.deepcopy(made).bfloat16(), 0.3)):
        for completion in sample(policy, max_new_tokens=40):
            prompt = [PROMPT, (4,), (5, 6)][completion.prompt_index]
            expected = log_probs(policy, prompt, completion.token_ids).sum()
            assert completion.logp == pytest.approx(float(expected), abs=tolerance)


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


@pytest.fixture
def no_vllm(monkeypatch, tmp_path):
    """Neither here nor in the project is there a vLLM."""
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed in this environment")
    monkeypatch.delenv("QRPO_VLLM_PYTHON", raising=False)
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    return tmp_path


def test_vllm_is_found_where_it_is_installed(no_vllm, monkeypatch):
    assert engines.resolve("auto") == "transformers"
    with pytest.raises(ValueError, match=r"vllm, which is not installed.*QRPO_VLLM_PYTHON"):
        engines.resolve("vllm")
    local = no_vllm / ".venv-vllm" / "bin" / "python"
    local.parent.mkdir(parents=True)
    local.touch()
    assert vllm_engine.vllm_python() == str(local)
    assert engines.resolve("auto") == "vllm"
    monkeypatch.setenv("QRPO_VLLM_PYTHON", sys.executable)
    assert vllm_engine.vllm_python() == sys.executable
    monkeypatch.setenv("QRPO_VLLM_PYTHON", "/nowhere/python")
    with pytest.raises(ValueError, match=r"QRPO_VLLM_PYTHON is /nowhere/python"):
        engines.resolve("auto")


def test_vllm_needs_a_saved_policy(model, monkeypatch):
    monkeypatch.setattr(vllm_engine, "vllm_python", lambda: sys.executable)
    with pytest.raises(ValueError, match="pass its folder"):
        sample(model, backend="vllm")


def test_an_engine_that_fails_says_why(no_vllm, monkeypatch, folder):
    monkeypatch.setenv("QRPO_VLLM_PYTHON", sys.executable)  # a Python without vLLM
    with pytest.raises(RuntimeError, match=r"exit code 1(.|\n)*No module named 'vllm'"):
        sample(folder, backend="vllm")


def test_on_a_gpu_every_request_has_a_seed_of_its_own():
    """vLLM's model runner there ignores the process's seed, and adds a sample's number to its request's."""
    seeds = vllm_worker._request_seeds(0, 2000, is_cpu=False)
    assert seeds == vllm_worker._request_seeds(0, 3000, is_cpu=False)[:2000]
    drawn_with = {seed + sample for seed in seeds for sample in range(50)}
    assert len(drawn_with) == 2000 * 50
    assert drawn_with.isdisjoint(vllm_worker._request_seeds(1, 2000, is_cpu=False))
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert vllm_worker._request_seeds(0, 3, is_cpu=True) == [None] * 3  # vLLM refuses them there


@pytest.mark.slow
def test_vllm_refuses_what_is_longer_than_it_was_started_for(vllm):
    with pytest.raises(ValueError, match="may need 33 tokens"):
        vllm.sample([[1, 2, 3]], completions=1, max_new_tokens=30, seed=0)


def test_an_engine_does_not_outlive_the_process_that_started_it(tmp_path):
    (tmp_path / "vllm").mkdir()
    stub = "import time\n\nclass LLM:\n    def __init__(self, **settings):\n        time.sleep(600)\n"
    (tmp_path / "vllm" / "__init__.py").write_text(stub)
    (tmp_path / "vllm" / "platforms.py").write_text(
        "class current_platform:\n    is_cpu = staticmethod(lambda: True)\n"
    )
    (tmp_path / "engine.json").write_text('{"policy": "", "dtype": "float32", "max_model_len": 8}')
    worker = [sys.executable, "-P", str(package_file("vllm_worker.py")), str(tmp_path)]
    starts = f"import os, subprocess; p = subprocess.Popen([*{worker!r}, str(os.getpid())], stdin=subprocess.PIPE)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{starts}; print(p.pid, flush=True); p.wait()"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    engine = Path("/proc") / parent.stdout.readline().strip()
    assert engine.exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 600
    while engine.exists() and "zombie" not in (engine / "status").read_text():
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.1)
