import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from qrpo_lib.runs import products
from qrpo_lib.training import log_probs

VOCABULARY = 300  # more than one part of 128
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2),
    "window": MistralConfig(**SIZES, sliding_window=4),
}
PACKED = ("llama", "mistral", "qwen2", "qwen3")
# Two completions of one prompt, apart from each other; prompts of which one begins the other; a prompt of one token.
SEQUENCES = [([3, 4, 5, 3], [6, 7, 1]), ([2], [9, 1]), ([3, 4, 5, 3], [8]), ([3, 4], [5, 3, 6, 7, 290]), ([2], [200])]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setitem(log_probs._TILE, "cpu", 128)


def model_of(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa").eval()
    for parameter in model.parameters():  # far from uniform, so that a wrong log-probability shows
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def plain_log_prob(model, prompt, completion):
    """The sum over completion tokens from the logits of one sequence, without padding, in float64."""
    logits = model(torch.tensor([prompt + completion])).logits[0, :-1].double().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(completion))


def padded(sequences):
    """Right-padded `input_ids` and `completion_mask` of (prompt, completion) pairs; one column more than needed."""
    width = 1 + max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids, mask = torch.ones(2, len(sequences), width, dtype=torch.long)
    mask[:] = 0
    for i, (prompt, completion) in enumerate(sequences):
        total = len(prompt) + len(completion)
        ids[i, :total] = torch.tensor(prompt + completion)
        mask[i, len(prompt) : total] = 1
    return ids, mask


def values_and_gradients(model, sequences, weights):
    logps, lengths = log_probs.completion_log_probs(model, *padded(sequences))
    assert lengths.tolist() == [len(completion) for _, completion in sequences]
    assert logps.dtype == torch.float32
    return logps, torch.autograd.grad((weights * logps).sum(), model.parameters())


def tokens_through(model, sequences):
    """Tokens that the model embeds, in each call."""
    seen = []
    layer = model.get_input_embeddings()
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output[..., 0].numel()))
    log_probs.completion_log_probs(model, *padded(sequences))
    handle.remove()
    return seen


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_those_of_plain_forward_passes(name):
    """Of one sequence at a time: neither packing nor shared prompts nor padding nor the head changes anything."""
    model = model_of(name)
    weights = torch.tensor([1.0, -0.5, 2.0, 0.25, -1.0])
    expected = torch.stack([plain_log_prob(model, *sequence) for sequence in SEQUENCES])
    expected_gradients = torch.autograd.grad((weights * expected).sum(), model.parameters())
    logps, gradients = values_and_gradients(model, SEQUENCES, weights)
    torch.testing.assert_close(logps, expected.float(), rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_that_are_shared_pass_through_the_model_once_and_padding_never(name):
    """Where the model is known to allow it; the last token of a sequence predicts nothing."""
    packed = (4 + 2) + (1 + 1) + 0 + (2 + 4) + 0
    whole = padded(SEQUENCES)[0].numel()
    assert tokens_through(model_of(name), SEQUENCES) == [packed if name in PACKED else whole]


def test_a_sliding_window_that_no_sequence_reaches_does_not_prevent_packing():
    short = [([2], [3]), ([2], [4])]
    assert tokens_through(model_of("window"), short) == [1]


def test_tokens_between_those_that_count_are_context():
    """A mask with a gap, as of a conversation with several turns."""
    model = model_of("llama")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    mask = torch.tensor([[0, 0, 1, 1, 0, 0, 1]])
    expected = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0][mask[0, 1:].bool()].sum()
    logps, lengths = log_probs.completion_log_probs(model, ids, mask)
    assert lengths.tolist() == [3]
    torch.testing.assert_close(logps[0], expected)


def test_every_split_of_a_batch_gives_the_same_gradient():
    """A prompt that is shared in the whole batch but not within a part of it, in every grouping."""
    model = model_of("llama")
    weights = torch.tensor([1.0, -0.5, 2.0, 0.25, -1.0])
    _, whole = values_and_gradients(model, SEQUENCES, weights)
    for split in ([[0, 1], [2, 3, 4]], [[0, 2], [1, 4], [3]], [[4, 3, 2, 1, 0]], [[0], [1], [2], [3], [4]]):
        parts = [values_and_gradients(model, [SEQUENCES[i] for i in part], weights[part])[1] for part in split]
        for one, *several in zip(whole, *parts, strict=True):
            torch.testing.assert_close(sum(several), one, rtol=1e-4, atol=2e-5)


def test_gradient_checkpointing_changes_nothing():
    """The layers run again during backward, when the call that packed the sequences is over."""
    model = model_of("llama").train()
    weights = torch.ones(5)
    plain = values_and_gradients(model, SEQUENCES, weights)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again = values_and_gradients(model, SEQUENCES, weights)
    torch.testing.assert_close(again, plain)


def test_the_model_is_left_as_it_was():
    model = model_of("llama")
    ids, padding = torch.tensor([[1, 1, 3, 4, 5], [2, 3, 4, 5, 6]]), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    before = model(ids, attention_mask=padding).logits
    values_and_gradients(model, SEQUENCES, torch.ones(5))
    assert torch.equal(model(ids, attention_mask=padding).logits, before)
    assert "forward" not in vars(model.get_output_embeddings())


def test_bfloat16_is_within_its_rounding_of_float32():
    """Of each token's log-probability and of the gradient as a whole, as for a plain forward pass under autocast."""
    model = model_of("llama")
    weights = torch.ones(len(SEQUENCES))
    exact, gradients = values_and_gradients(model, SEQUENCES, weights)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, rounded_gradients = values_and_gradients(model, SEQUENCES, weights)
        plain = torch.stack([plain_log_prob(model, *sequence) for sequence in SEQUENCES])
    plain_gradients = torch.autograd.grad(plain.sum(), model.parameters())
    assert not torch.equal(rounded, exact)

    def distance(one, other):
        one, other = (torch.cat([part.detach().double().flatten() for part in parts]) for parts in (one, other))
        return float((one - other).norm() / other.norm())

    assert distance([rounded], [exact]) < 2 * distance([plain], [exact]) + 1e-3
    assert distance(rounded_gradients, gradients) < 1.5 * distance(plain_gradients, gradients)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize(("plain", "similar"), [(0, 0.0), (0, 1.0), (64, 0.0), (64, 0.75)])
def test_attention_is_the_same_however_it_is_computed(monkeypatch, name, plain, similar):
    """By products or by the fused kernel, in one group or many, by either library; gradients too."""
    model, weights = model_of(name), torch.tensor([1.0, -0.5, 2.0, 0.25, -1.0])
    expected, gradients = values_and_gradients(model, SEQUENCES, weights)
    monkeypatch.setattr(log_probs, "_PLAIN", plain)
    monkeypatch.setitem(log_probs._SIMILAR, "cpu", similar)
    monkeypatch.setattr(products, "chosen", lambda: "onednn")
    with products.fast():
        values, others = values_and_gradients(model, SEQUENCES, weights)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-4)


def test_the_fused_kernel_never_calls_the_other_library(monkeypatch):
    """Forwards and backwards: each of its small products would cost a call."""
    seen = []
    real = log_probs.sdpa_attention_forward

    def watched(module, query, *args, **kwargs):
        seen.append(products.switched())
        output, weights = real(module, query, *args, **kwargs)
        if output.requires_grad:
            output.register_hook(lambda gradient: seen.append(products.switched()))
        return output, weights

    monkeypatch.setattr(log_probs, "sdpa_attention_forward", watched)
    monkeypatch.setattr(log_probs, "_PLAIN", 0)
    monkeypatch.setattr(products, "chosen", lambda: "onednn")
    model = model_of("llama")
    with products.fast():
        values_and_gradients(model, SEQUENCES, torch.ones(5))
        with torch.no_grad():
            model(torch.tensor([[2, 3, 4]]))
    assert len(seen) > 6
    assert not any(seen)


# --- the head -------------------------------------------------------------------------------------------------------


def head_inputs(tokens, vocabulary, dtype=torch.float64, bias=True):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype, requires_grad=True)

    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return draw(tokens, 6), draw(vocabulary, 6), draw(vocabulary) if bias else None, targets


@pytest.mark.parametrize("bias", [True, False])
def test_head_passes_gradcheck(bias):
    assert torch.autograd.gradcheck(log_probs._TokenLogProbs.apply, head_inputs(2, 130, bias=bias))


@pytest.mark.parametrize("targets", [[0, 127, 128], [149, 149, 0]])
def test_head_at_the_edges_of_its_parts(targets):
    hidden, weight, bias, _ = head_inputs(3, 150)
    targets = torch.tensor(targets)
    expected = (hidden @ weight.T + bias).log_softmax(-1)[range(3), targets]
    torch.testing.assert_close(log_probs._TokenLogProbs.apply(hidden, weight, bias, targets), expected)


def test_head_with_logits_that_overflow_a_plain_exponential():
    hidden, weight, _, targets = head_inputs(3, 150, torch.float32, bias=False)
    values = log_probs._TokenLogProbs.apply(hidden * 300, weight, None, targets)
    expected = (300 * hidden.double() @ weight.double().T).log_softmax(-1)[range(3), targets]
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-3)
    assert all(torch.isfinite(part).all() for part in torch.autograd.grad(values.sum(), [hidden, weight]))


def test_head_is_applied_to_completion_tokens_only_in_float32(monkeypatch):
    scored = []
    plain = log_probs._logits
    monkeypatch.setattr(log_probs, "_logits", lambda *args: scored.append(plain(*args)) or scored[-1])
    with torch.autocast("cpu", torch.bfloat16):
        log_probs.completion_log_probs(model_of("llama"), *padded(SEQUENCES))
    assert [tuple(logits.shape) for logits in scored] == [(12, 128), (12, 128), (12, 44)]
    assert {logits.dtype for logits in scored} == {torch.float32}


@pytest.mark.parametrize("budget", [0, 30 * 4 * 1200, 2**28])
def test_memory_does_not_grow_with_sequence_length_times_vocabulary(monkeypatch, budget):
    """What the backward pass keeps, tiles within their budget included, and the largest tensor of any operation."""
    monkeypatch.setitem(log_probs._TILE, "cpu", 4096)
    monkeypatch.setitem(log_probs._KEPT, "cpu", budget)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            tensors = [value for value in torch.utils._pytree.tree_leaves(result) if isinstance(value, torch.Tensor)]
            self.elements = max([self.elements, *(tensor.numel() for tensor in tensors)])
            return result

    for tokens, vocabulary in ((30, 500), (30, 4000), (60, 4000)):
        hidden, weight, _, targets = head_inputs(tokens, vocabulary, torch.float32, bias=False)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            values = log_probs._TokenLogProbs.apply(hidden, weight, None, targets, True)
        assert sum(kept) == tokens * 6 + vocabulary * 6 + 2 * tokens
        tiles = sum(tile.nbytes for tile in values.grad_fn.tiles)
        assert tiles <= budget
        assert tiles == 4 * tokens * vocabulary or tiles > budget - 4 * max(4096, 128 * tokens)
        with Largest() as largest:
            torch.autograd.grad(values.sum(), [hidden, weight])
        assert largest.elements <= max(vocabulary * 6, tokens * 136)
        assert not values.grad_fn.tiles


def test_kept_tiles_give_the_same_gradient_to_the_last_bit_also_a_second_time(monkeypatch):
    hidden, weight, bias, targets = head_inputs(7, 300, torch.float32, bias=True)
    gradients = []
    for budget in (0, 4 * 7 * 128, 2**28):
        monkeypatch.setitem(log_probs._KEPT, "cpu", budget)
        values = log_probs._TokenLogProbs.apply(hidden, weight, bias, targets, True)
        for _ in range(2):
            gradients.append(torch.autograd.grad(values.sin().sum(), [hidden, weight, bias], retain_graph=True))
    for others in gradients[1:]:
        assert all(torch.equal(one, other) for one, other in zip(gradients[0], others, strict=True))


def test_packing_of_many_sequences_is_undone_by_unpacking():
    generator = np.random.default_rng(0)
    sequences = [([2 + i % 4] * (1 + i % 4), generator.integers(2, 50, 1 + i % 7).tolist()) for i in range(40)]
    ids, mask = padded(sequences)
    arguments, predicting = log_probs._packed(ids, mask[:, 1:].bool(), log_probs._SIMILAR["cpu"])
    packing, packed = arguments["packing"], arguments["input_ids"][0]
    restored, positions = packed[packing.unpack], arguments["position_ids"][0, packing.unpack]
    wholes = sorted((prompt + completion for prompt, completion in sequences), key=len, reverse=True)
    assert len(packing.groups) > 2
    begin = 0
    for size, width in packing.groups:
        for whole in wholes[:size]:
            assert width * log_probs._SIMILAR["cpu"] <= len(whole) - 1 <= width
            assert restored[begin : begin + len(whole) - 1].tolist() == whole[:-1]
            assert positions[begin : begin + len(whole) - 1].tolist() == [*range(len(whole) - 1)]
            begin += width
        wholes = wholes[size:]
    assert not wholes
    assert begin == len(packing.unpack)
    # a completion's own tokens are taken from its own sequence, a shared prompt's from any that has it
    assert torch.equal(restored[packing.pack], packed)
    assert len(predicting) == sum(len(completion) for _, completion in sequences)
