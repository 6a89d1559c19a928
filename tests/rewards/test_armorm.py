"""ArmoRM at a small size, against its formula in NumPy and with the parameter names of the published checkpoint."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from qrpo_lib.rewards import armorm
from qrpo_lib.rewards.models import ChatReward

WIDTH, HIDDEN, OBJECTIVES = 16, 8, 19
# The published pattern needs a vocabulary of 128 k; a small one stands in for it.
PATTERN = (4, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=30, pad_token_id=0, initializer_range=0.5, gating_hidden_dim=HIDDEN, **sizes)
    model = armorm.ArmoRM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    path = tmp_path_factory.mktemp("armorm")
    model.save_pretrained(path)
    words = ["<pad>", "<unk>", "<begin>", "user", "<eot>", "<start>", "assistant", "<end>", "<break>", *"abcdefgh"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = (
        "<begin>{% for m in messages %} <start> {{ m['role'] }} <end> <break> {{ m['content'] }} <eot>{% endfor %}"
    )
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def small_pattern(monkeypatch):
    monkeypatch.setattr(armorm, "ANSWER_BEGINS", PATTERN)


@pytest.fixture
def reward(folder):
    return ChatReward(folder, kind="armorm", batch_size=2)


def formula(folder, ids):
    """score = w(h_g) . T^T (A h_e), in float64."""
    state = {name: value.double().numpy() for name, value in load_file(folder / "model.safetensors").items()}
    model = armorm.ArmoRM.from_pretrained(folder).model
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0].double().numpy()
    ends = max(i for i in range(len(ids)) if tuple(ids[i : i + 5]) == PATTERN)
    gate = hidden[ends]
    for layer in range(4):
        gate = state[f"gating.layers.{layer}.weight"] @ gate + state[f"gating.layers.{layer}.bias"]
        gate = np.maximum(gate, 0) if layer < 3 else gate / 10
    weights = np.exp(gate) / np.exp(gate).sum() * state["gating.logit_scale"]
    return weights @ state["reward_transform_matrix"].T @ state["regression_layer.weight"] @ hidden[-1]


PROMPTS, COMPLETIONS = ["a b", "c", "d e f g", "h"], ["c d e", "a", "b", "a b c d e f g h"]


def test_scores_are_the_formula(folder, reward):
    scores = reward.score(PROMPTS, COMPLETIONS)
    expected = [formula(folder, reward._chat_ids(*pair)) for pair in zip(PROMPTS, COMPLETIONS, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(scores) > 0.01


def test_the_request_sets_the_weights_of_its_last_turn(folder, reward):
    # the pattern also ends an earlier turn: the last one counts
    ids = reward._tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)],
        tokenize=True,
        return_dict=False,
    )
    assert sum(tuple(ids[i : i + 5]) == PATTERN for i in range(len(ids))) == 2
    with torch.no_grad():
        score = reward._model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    assert float(score) == pytest.approx(formula(folder, ids), rel=1e-4)


def test_parameters_are_those_of_the_published_checkpoint(folder):
    state = load_file(folder / "model.safetensors")
    shapes = {name: tuple(value.shape) for name, value in state.items() if not name.startswith("model.")}
    layers = {f"gating.layers.{i}.weight": (HIDDEN, WIDTH if i == 0 else HIDDEN) for i in range(3)}
    layers |= {f"gating.layers.{i}.bias": (HIDDEN,) for i in range(3)}
    assert shapes == layers | {
        "gating.layers.3.weight": (OBJECTIVES, HIDDEN),
        "gating.layers.3.bias": (OBJECTIVES,),
        "gating.logit_scale": (1,),
        "regression_layer.weight": (OBJECTIVES, WIDTH),
        "reward_transform_matrix": (OBJECTIVES, OBJECTIVES),
    }


def test_a_request_that_fills_what_is_looked_at_has_no_score(folder):
    reward = ChatReward(folder, kind="armorm", max_tokens=12)
    long, short = reward.score(["a b c d e f g h", "a"], ["b", "b"])
    assert np.isnan(long)
    assert np.isfinite(short)


def test_bfloat16_is_close(folder, reward):
    coarse = ChatReward(folder, kind="armorm", dtype="bfloat16").score(PROMPTS, COMPLETIONS)
    exact = reward.score(PROMPTS, COMPLETIONS)
    assert coarse.dtype == np.float32
    assert (coarse != exact).any()
    np.testing.assert_allclose(coarse, exact, atol=0.2 * np.abs(exact).max())
