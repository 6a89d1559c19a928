"""The guard: models that are right pass, and what would be silently wrong is refused with the difference named."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from small_llama import llama, made_up_rows, made_up_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from qrpo_lib import QRPOConfig, QRPOTrainer
from qrpo_lib.training import guard


def test_a_plain_model_passes_and_is_as_it_was():
    model = llama(attention_dropout=0.2).train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    guard.check(model)
    assert model.training
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    guard.check(llama().double())


def test_logits_changed_after_the_head(monkeypatch):
    """As caps and scales do that stand where nobody looks for them."""
    model = llama()
    forward = type(model).forward

    def capped(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if output.logits.dim() == 3:
            output.logits = 2 * torch.tanh(output.logits / 2)
        return output

    monkeypatch.setattr(type(model), "forward", capped)
    with pytest.raises(guard.UnsupportedModelError, match="differ from those of its own logits"):
        guard.check(model)


def test_a_head_that_is_more_than_linear():
    class Head(torch.nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) + 0.1 * hidden.sum(-1, keepdim=True) * torch.arange(self.out_features)

    model = llama(tie_word_embeddings=False)
    head = Head(16, 24, bias=False)
    head.load_state_dict(model.lm_head.state_dict())
    model.lm_head = head
    with pytest.raises(guard.UnsupportedModelError, match="plain linear layer"):
        guard.check(model)


def test_a_bidirectional_model():
    model = llama(attn_implementation="eager")
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    import transformers.models.llama.modeling_llama as module

    original = module.create_causal_mask
    module.create_causal_mask = lambda *args, **kwargs: None
    try:
        with pytest.raises(guard.UnsupportedModelError, match=r"not causal|in a batch"):
            guard.check(model)
    finally:
        module.create_causal_mask = original


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"output_router_logits": True, "router_aux_loss_coef": 0.01}, "auxiliary loss"),
    ],
)
def test_what_the_configuration_says(settings, said):
    model = llama()
    for name, value in settings.items():
        setattr(model.config, name, value)
    with pytest.raises(guard.UnsupportedModelError, match=said):
        guard.check(model)


def test_rotary_positions_that_depend_on_the_batch():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = llama(rope_parameters=rope)
    guard.check(model, longest=32)
    with pytest.raises(guard.UnsupportedModelError, match="set max_length to 32"):
        guard.check(model, longest=33)


def test_the_trainer_refuses_before_training(tmp_path):
    model = llama()
    model.config.output_router_logits, model.config.router_aux_loss_coef = True, 0.01
    with pytest.raises(guard.UnsupportedModelError, match="auxiliary loss"):
        QRPOTrainer(model, QRPOConfig(str(tmp_path)), made_up_rows(8), processing_class=made_up_tokenizer())


def models_page():
    path = Path(__file__).parents[2] / "benchmarks" / "models.py"
    spec = importlib.util.spec_from_file_location("models_page", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_causal_type_is_right_or_refused_as_the_page_says():
    """Right means right: what the guard lets pass is compared once more, on other sequences, in another batch."""
    from qrpo_lib.training.log_probs import completion_log_probs

    page = models_page()
    lines = [line.split(" | ") for line in page.PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    said = {cells[0].removeprefix("| "): cells[1] for cells in lines}
    assert set(said) == set(page.types())
    for model_type, training in said.items():
        if training == "not tried":
            continue
        row = page.tried(model_type)
        assert row.training == training, row
        if training == "right":
            model = page._tiny(model_type)
            ids = torch.randint(4, 70, (3, 14), generator=torch.Generator().manual_seed(5))
            mask = torch.zeros_like(ids)
            for i, end in enumerate((14, 9, 12)):
                mask[i, 3:end] = 1
            with torch.no_grad():
                ours, _ = completion_log_probs(model, ids, mask)
                for i, end in enumerate((14, 9, 12)):
                    logits = model(input_ids=ids[i : i + 1, :end], use_cache=False).logits[0, :-1].double()
                    plain = logits.log_softmax(-1).gather(1, ids[i, 1:end, None])[2:].sum().item()
                    assert ours[i].item() == pytest.approx(plain, abs=5e-3), model_type


@pytest.mark.parametrize("model_type", ["qwen2", "gpt2"])
def test_types_of_both_kinds_of_pass_are_right(model_type):
    """Packed and padded."""
    config = AutoConfig.for_model(model_type, vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    small = {"n_embd": 16, "n_layer": 2, "n_head": 2, "intermediate_size": 24, "num_key_value_heads": 2}
    for name, value in small.items():
        if hasattr(config, name):
            setattr(config, name, value)
    guard.check(AutoModelForCausalLM.from_config(config))
