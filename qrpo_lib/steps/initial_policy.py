"""Step 1, the initial policy: pretrained and instruction-tuned here, converted from a wheel, or from the model hub."""

from __future__ import annotations

from pathlib import Path

from qrpo_lib.models import chat_template, hub
from qrpo_lib.profiles.settings import HubPolicy, Profile, SmolLM2Policy, TinyPolicy
from qrpo_lib.runs import folders, progress
from qrpo_lib.tasks import expressions, topics
from qrpo_lib.training import conversations

_END = "<|end|>"
_SPECIAL_TOKENS = [_END, "<|user|>", "<|assistant|>"]
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_CONTEXT = 512


def step(profile: Profile) -> folders.Step:
    """What determines the initial policy."""
    policy = profile.policy
    parameters = {"policy": policy.model_dump()}
    if isinstance(policy, HubPolicy):
        # How its completions are sampled in evaluation is no part of the model.
        model = {"model": hub.identity(policy.model, policy.revision), "pad_token": policy.pad_token}
        return folders.Step("initial_policy", {"policy": {"source": policy.source} | model}, code=(_from_hub,))
    if isinstance(policy, TinyPolicy):
        parameters |= {"seed": profile.seed, "threads": profile.reference_sampling.threads}
        return folders.Step("initial_policy", parameters, code=(_train_tiny,))
    return folders.Step("initial_policy", parameters, code=("wheels:convert_smollm2",))


def run(profile: Profile) -> Path:
    """The folder of the policy, made if it is not there: weights, tokenizer, and `history.csv` of its training."""
    return folders.complete(step(profile), lambda folder: _make(profile, folder), seed=profile.seed)


def _make(profile: Profile, folder: Path) -> None:
    if isinstance(profile.policy, SmolLM2Policy):
        from qrpo_lib.models import wheels

        wheels.convert_smollm2(folder)
    elif isinstance(profile.policy, HubPolicy):
        _from_hub(profile.policy, folder)
    else:
        _train_tiny(profile.policy, profile.seed, profile.reference_sampling.threads, folder)


def _from_hub(settings: HubPolicy, folder: Path) -> None:
    """The model as it is, with its tokenizer's padding token set."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = hub.model(settings.model, settings.revision)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if settings.pad_token not in tokenizer.get_vocab():
        raise hub.HubError(f"The tokenizer of {settings.model} has no token {settings.pad_token!r}: check pad_token.")
    if tokenizer.chat_template is None:
        raise hub.HubError(f"The tokenizer of {settings.model} has no chat template: use an instruction-tuned model.")
    tokenizer.pad_token = settings.pad_token
    config = AutoConfig.from_pretrained(source)
    embedded = config.get_text_config().vocab_size
    if tokenizer.pad_token_id >= embedded:
        raise hub.HubError(
            f"The token {settings.pad_token!r} of {settings.model} has the id {tokenizer.pad_token_id}, but the model "
            f"embeds the ids below {embedded} alone: choose another pad_token, or resize the model's embeddings."
        )
    # Before the model is built: its own padding token, which this one replaces, may be no embedded one.
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype="auto")
    # Completions end where the assistant's turn does, whatever else ends documents.
    tokenizer = conversations.ending_turns(tokenizer, model.generation_config)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train_tiny(settings: TinyPolicy, seed: int, threads: int, folder: Path) -> None:
    import pandas as pd
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from qrpo_lib.training import trainer

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    # One policy for both tasks, as in the paper. A batch has sequences of similar length; batches come in random order.
    texts = topics.documents(settings.pretraining_documents, seed)
    texts += expressions.documents(settings.code_documents, seed)
    conversations = topics.conversations(settings.instruction_examples, seed + 1)
    conversations += expressions.conversations(settings.code_examples, seed + 1)
    tokenizer = _tokenizer(settings.vocabulary_size, [*texts, *(text for pair in conversations for text in pair)])
    model = LlamaForCausalLM(
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
            fitted = trainer.fine_tune(
                model,
                tokenizer,
                sequences,
                learning_rate=learning_rate,
                batch_size=settings.batch_size,
                seed=seed,
                progress=report,
            )
        histories.append(pd.DataFrame(fitted.history).assign(stage=stage))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pd.concat(histories).to_csv(folder / "history.csv", index=False)


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
