import torch
from transformers import LlamaConfig, LlamaForCausalLM

from qrpo_lib import log_probs

VOCABULARY = 24


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **sizes))
    for parameter in model.parameters():  # far from uniform, so that a wrong log-probability shows
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def plain_log_prob(model, prompt, completion):
    """The sum over completion tokens from the logits of one sequence, without padding, in float64."""
    logits = model(torch.tensor([prompt + completion])).logits[0, :-1].double().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(completion))


def batch(*sequences):
    """Right-padded `input_ids` and `completion_mask` of (prompt, completion) pairs; one column more than needed."""
    width = 1 + max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids, mask = torch.ones(2, len(sequences), width, dtype=torch.long)
    mask[:] = 0
    for i, (prompt, completion) in enumerate(sequences):
        total = len(prompt) + len(completion)
        ids[i, :total] = torch.tensor(prompt + completion)
        mask[i, len(prompt) : total] = 1
    return ids, mask


def test_values_and_gradients_are_those_of_a_plain_forward_pass():
    model = llama()
    sequences = [([3, 4, 5], [6, 7, 1]), ([2], [9, 1]), ([3, 4, 5], [8]), ([1, 1, 2], [1])]
    expected = torch.stack([plain_log_prob(model, *sequence) for sequence in sequences])
    weights = torch.tensor([1.0, -0.5, 2.0, 0.25])
    expected_gradients = torch.autograd.grad((weights * expected).sum(), model.parameters())
    logps, lengths = log_probs.completion_log_probs(model, *batch(*sequences))
    assert lengths.tolist() == [3, 2, 1, 1]
    torch.testing.assert_close(logps, expected.float(), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad((weights * logps).sum(), model.parameters())
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_head_is_applied_to_completion_tokens_only_in_float32(monkeypatch):
    scored = []
    plain = log_probs.F.cross_entropy
    monkeypatch.setattr(
        log_probs.F, "cross_entropy", lambda x, *a, **k: scored.append((len(x), x.dtype)) or plain(x, *a, **k)
    )
    with torch.autocast("cpu", torch.bfloat16):
        log_probs.completion_log_probs(llama(), *batch(([3, 4, 5], [6, 7, 1]), ([2], [9, 1])))
    assert scored == [(5, torch.float32)]
