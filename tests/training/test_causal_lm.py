"""The model that is trained: what is switched off, rounded and put back."""

import math
from types import SimpleNamespace

import pytest
import torch
from small_llama import llama, made_up_tokenizer

from qrpo_lib.training import causal_lm


def test_weights_are_rounded_and_frequencies_of_positions_are_not():
    model = causal_lm.cast(llama(), torch.bfloat16)
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in model.buffers() if one.is_floating_point()} == {torch.float32}
    with pytest.raises(ValueError, match="must be float32"):
        causal_lm.trainable(model)
    plain = llama()
    assert causal_lm.trainable(plain) is plain


def test_a_saved_model_is_loaded_in_the_type_that_is_asked_for(tmp_path):
    llama().save_pretrained(tmp_path)
    assert causal_lm.trainable(tmp_path).dtype == torch.float32
    assert causal_lm.loaded(str(tmp_path), torch.bfloat16).dtype == torch.bfloat16
    model = llama()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="transforms its logits after the head"):
        causal_lm.loaded(model, torch.float32)


def test_no_dropout_is_left_anywhere():
    """Attention keeps its rate as a number."""
    model = llama(attention_dropout=0.5).train()
    assert any(vars(module).get("attention_dropout") for module in model.modules())
    ids = torch.arange(2, 12)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)
    assert causal_lm.without_dropout(model) is model
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_a_patched_model_is_plain_meanwhile_and_patched_again():
    model, patched = llama().train(), object()
    model.forward = patched
    with causal_lm.plain(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        assert model(torch.tensor([[2, 3]])).logits.shape == (1, 2, 24)
    assert model.training
    assert torch.is_grad_enabled()
    with pytest.raises(KeyboardInterrupt), causal_lm.plain(model):
        raise KeyboardInterrupt
    assert vars(model)["forward"] is patched
    assert "forward" not in vars(causal_lm.restored(model))
    assert not model.training


def test_padding_is_the_end_of_sequence_where_nothing_else_is_said():
    tokenizer = made_up_tokenizer()
    assert causal_lm.pad_token_id(tokenizer) == tokenizer.eos_token_id == 1
    tokenizer.pad_token = None
    assert causal_lm.pad_token_id(tokenizer) == 1
    tokenizer.pad_token = "t7"
    assert causal_lm.pad_token_id(tokenizer) == 7
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"set tokenizer\.pad_token"):
        causal_lm.pad_token_id(tokenizer)


def test_the_context_is_the_models():
    assert causal_lm.context(llama(max_position_embeddings=16)) == 16
    assert causal_lm.context(SimpleNamespace(config=object())) == math.inf  # such as those without positions
