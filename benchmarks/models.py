"""Every causal language model of transformers as a tiny random one: right here, or refused. Writes docs/models.md.

    python benchmarks/models.py              # all types, and docs/models.md
    python benchmarks/models.py llama phi3   # some types, printed

"Right" are log-probabilities that agree with a plain forward pass (`qrpo_lib.training.guard`), with dropout rates above
0 in the configuration; sampling is right where the recorded log-probabilities are those of a plain forward pass.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from qrpo_lib.sampling.transformers_engine import TransformersEngine
from qrpo_lib.training import causal_lm, guard

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
_MOST_PARAMETERS = 5_000_000
_VOCABULARY = 96
# What is small in a configuration, by the names that configurations have for it.
_SMALL: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff", "n_inner"), 48),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"), 16
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_key_value_heads", "num_kv_heads"), 4),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_channels"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout"), 0.1),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Row:
    """What became of a type.

    training: "right", "refused", "not built", or "not tried" where a run ended before it; sampling: "right", "fails"
    or "-".
    """

    model_type: str
    training: str
    sampling: str
    why: str = ""


def tried(model_type: str) -> Row:
    """The row of a type."""
    warnings.simplefilter("ignore")
    try:
        model = _tiny(model_type)
    except Exception as error:  # whatever a configuration of made-up sizes leads to
        return Row(model_type, "not built", "-", _short(error))
    try:
        causal_lm.without_dropout(causal_lm.trainable(model))
        guard.check(model)
    except ValueError as error:
        return Row(model_type, "refused", "-", _short(error))
    return Row(model_type, "right", *_sampling(model))


def types() -> list[str]:
    """All causal types of this version of transformers."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _tiny(model_type: str) -> Any:
    default = AutoConfig.for_model(model_type)
    text = default.get_text_config(decoder=True)
    sizes = {name: value for name, value in _SMALL.items() if getattr(text, name, None) is not None}
    config = type(text)(**sizes)
    if type(text) is not type(default):
        whole = default.to_dict()
        names = [name for name, value in vars(default).items() if value is text]
        config = type(default)(**(whole | {name: config.to_dict() for name in names}))
    with torch.device("meta"):
        parameters = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
    if parameters > _MOST_PARAMETERS:
        raise ValueError(f"{parameters:,} parameters even so")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # far from uniform, so that a wrong log-probability shows
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def _sampling(model: Any) -> tuple[str, str]:
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    try:
        drawn = TransformersEngine(model, 2, None).sample(
            prompts, completions=2, max_new_tokens=6, temperature=1.0, top_p=1.0, seed=0, batch_size=4, report=None
        )
        worst = 0.0
        for prompt, some in zip(prompts, drawn, strict=True):
            for ids, _, logp in some:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, :-1].double()
                places = torch.arange(len(prompt) - 1, len(prompt) + len(ids) - 1)
                plain = logits.log_softmax(-1)[places, torch.tensor(ids)].sum().item()
                worst = max(worst, abs(plain - logp))
    except Exception as error:  # the sampler knows no such cache, or such arguments
        return "fails", _short(error)
    return ("right", "") if worst < 5e-3 else ("fails", f"log-probabilities differ by {worst:.2g} nats")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 110 else f"{text[:107]}...").replace("|", "/")


def page(rows: list[Row]) -> str:
    """The page of all rows."""
    counts = {kind: sum(row.training == kind for row in rows) for kind in ("right", "refused", "not built")}
    sampled = sum(row.sampling == "right" for row in rows)
    left = sum(row.training == "not tried" for row in rows)
    untried = f", {left} not tried" if left else ""
    lines = [
        "# Models",
        "",
        "Before `QRPOTrainer` begins, a few short sequences are tried: this package's log-probabilities against a",
        "plain forward pass, a sequence alone against the same in a batch, the beginning of a sequence against the",
        "whole ([guard.py](../qrpo_lib/training/guard.py)). A model that fails is refused in a sentence.",
        "",
        f"Below, every causal type of transformers {transformers.__version__} as a tiny random model, as",
        f"`python benchmarks/models.py` found it: {counts['right']} right, {counts['refused']} refused,",
        f"{counts['not built']} not built small by the sizes that the script knows{untried}. Sampling with",
        f"transformers is right for {sampled}; what fails there can be sampled with vLLM where it has the type.",
        "",
        "| type | training | sampling | why |",
        "|---|---|---|---|",
        *(f"| {row.model_type} | {row.training} | {row.sampling} | {row.why} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def main(chosen: list[str]) -> None:
    """Print the rows of some types, or write the page of all."""
    rows = []
    for model_type in chosen or types():
        rows.append(tried(model_type))
        print(rows[-1], flush=True)
    if not chosen:
        PAGE.write_text(page(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
