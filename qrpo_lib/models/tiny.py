"""The suite's own small Llama: pretrained on texts, then instruction-tuned on conversations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.models import chat_template
from qrpo_lib.profiles.settings import TinyPolicy
from qrpo_lib.runs import progress

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_END = "<|end|>"
_SPECIAL_TOKENS = [_END, "<|user|>", "<|assistant|>"]
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_CONTEXT = 512


def train(
    settings: TinyPolicy,
    texts: Sequence[str],
    conversations: Sequence[tuple[str, str]],
    *,
    seed: int,
    threads: int,
    folder: Path,
) -> None:
    """Train a policy from nothing and save it: model, tokenizer, and `history.csv` with the losses of both stages.

    Parameters
    ----------
    settings: sizes and learning rates.
    texts: what it is pretrained on.
    conversations: (request, answer) pairs that it is tuned on.
    seed: of the first weights and of the order of the batches, which hold sequences of similar length.
    threads: processor threads, on which the last digits depend.
    folder: where it is saved.
    """
    import pandas as pd
    import torch

    from qrpo_lib.training import fine_tuning
    from qrpo_lib.training.configuration import Optimization, Output

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = _tokenizer(settings.vocabulary_size, [*texts, *(text for pair in conversations for text in pair)])
    model = _untrained(settings, tokenizer)
    stages = {
        "pretraining": (
            [tokenizer(text + _END)["input_ids"] for text in texts],
            settings.pretraining_learning_rate,
        ),
        "instruction tuning": (
            [_conversation_ids(tokenizer, *conversation) for conversation in conversations],
            settings.instruction_learning_rate,
        ),
    }
    histories = []
    for stage, (sequences, learning_rate) in stages.items():
        with progress.bar(stage) as report:
            optimization = Optimization(learning_rate, settings.batch_size, seed=seed)
            output = Output(progress=report)
            fitted = fine_tuning.fine_tune(model, tokenizer, sequences, optimization, output=output)
        histories.append(pd.DataFrame(fitted.history).assign(stage=stage))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pd.concat(histories).to_csv(folder / "history.csv", index=False)


def _untrained(settings: TinyPolicy, tokenizer: Any) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=3 * settings.hidden_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=_CONTEXT,
            # The default, 0.02, is for large models: here attention would be flat for long, and copying learnt late.
            initializer_range=settings.hidden_size**-0.5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _tokenizer(vocabulary_size: int, texts: list[str]):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=_SPECIAL_TOKENS,
            show_progress=False,
        ),
    )
    # The padding token is the end-of-sequence token, as in the models that the paper trains on: a known trap that
    # every part of the suite has to handle.
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=_END, pad_token=_END)
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _conversation_ids(tokenizer, request: str, answer: str) -> list[int]:
    messages = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return chat_template.applied(tokenizer, messages, tokenize=True, return_dict=False)
