"""A small Llama, rows and plain log-probabilities that several test modules share."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qrpo_lib.training import causal_lm, fine_tuning, plain_loop, reference_logps, samples, trainer
from qrpo_lib.training.configuration import Objective, Optimization, Output

VOCABULARY, EOS = 24, 1
QRPO = {"algorithm": "qrpo", "loss": {"beta": 0.1}}
DPO = {"algorithm": "dpo", "loss": {"beta": 0.1}}


def made_up_tokenizer():
    """Words t0 ... t23; the padding token is the end of sequence, which must change nothing."""
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t1", pad_token="t1")


CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def tokenizer_of_words():
    """w0, w2, w3, ... split at spaces, with a chat template; its end of sequence is that of `llama`."""
    ids = {f"w{i}": i for i in range(VOCABULARY) if i != EOS} | {"</s>": EOS}
    backend = Tokenizer(models.WordLevel(ids, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>", chat_template=CHAT)


def own_trainer(folder, rows, tokenizer=None, model=None, changes=None, **arguments):
    """A `QRPOTrainer` of the small Llama."""
    from qrpo_lib import QRPOConfig, QRPOTrainer

    settings = {"output_dir": str(folder), "beta": 0.1, "report_to": "none", "disable_tqdm": True}
    config = QRPOConfig(**(settings | {"save_strategy": "no"} | (changes or {})))
    model, tokenizer = llama() if model is None else model, tokenizer or made_up_tokenizer()
    return QRPOTrainer(model, config, rows, processing_class=tokenizer, **arguments)


def llama(vocabulary=VOCABULARY, seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": None, "eos_token_id": EOS, "pad_token_id": None, "max_position_embeddings": 32}
    defaults = {"vocab_size": vocabulary, "tie_word_embeddings": True} | sizes | tokens
    model = LlamaForCausalLM(LlamaConfig(**(defaults | settings)))
    for parameter in model.parameters():  # far from uniform, so that a wrong log-probability shows
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def made_up_rows(count, seed=0):
    """Random prompts and completions, of which one in four is cut off without its end of sequence."""
    generator = np.random.default_rng(seed)

    def tokens(low, high):
        return generator.integers(2, VOCABULARY, generator.integers(low, high)).tolist()

    def completion():
        return [*tokens(0, 12), EOS] if generator.random() < 0.75 else tokens(1, 12)

    return [
        {
            "prompt_ids": tokens(1, 10),
            "chosen_ids": completion(),
            "rejected_ids": completion(),
            "chosen_reward": float(generator.normal() + 0.5),
            "rejected_reward": float(generator.normal() - 0.5),
            "ref_rewards": generator.normal(size=3).tolist(),
        }
        for _ in range(count)
    ]


def plain_log_prob(model, prompt, completion):
    """The sum over completion tokens from the logits of one sequence, without padding, in float64."""
    logits = model(torch.tensor([prompt + completion])).logits[0, :-1].double().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(completion))


def plain_dpo(model, reference, rows):
    """DPO's mean loss on pairs at beta = 0.1, and the norm of its gradient: autograd on plain log-probabilities."""
    margins = []
    for row in rows:
        sides = []
        for side in ("chosen_ids", "rejected_ids"):
            with torch.no_grad():
                ref = plain_log_prob(reference, row["prompt_ids"], row[side])
            sides.append(plain_log_prob(model, row["prompt_ids"], row[side]) - ref)
        margins.append(sides[0] - sides[1])
    loss = torch.stack([torch.log1p(torch.exp(-DPO["loss"]["beta"] * margin)) for margin in margins]).mean()
    gradients = torch.autograd.grad(loss, model.parameters())
    return loss.item(), float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def _split(given):
    """Keyword arguments as the objects that they belong to, and those of the call itself."""
    taken = {}
    for kind in (Objective, Optimization, Output):
        names = kind.__dataclass_fields__.keys() & given.keys()
        taken[kind] = kind(**{name: given.pop(name) for name in names}) if names or kind is Output else None
    return taken, given


def fit(model, tokenizer, rows, validation=(), **changes):
    settings = {"learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 8, "checkpoints": 2}
    of, call = _split(settings | QRPO | changes)
    chosen = {"objective": of[Objective], "settings": of[Optimization], "output": of[Output]}
    return trainer.fit_policy(model, tokenizer, rows, validation, **chosen, **call)


def fine_tune(model, tokenizer, sequences, **settings):
    of, call = _split(settings)
    return fine_tuning.fine_tune(model, tokenizer, sequences, of[Optimization], output=of[Output], **call)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def column(history, name, split="train"):
    return [row[name] for row in history if row["split"] == split]


def assert_same_history(one, other):
    assert [(row["step"], row["split"]) for row in one] == [(row["step"], row["split"]) for row in other]
    for mine, theirs in zip(one, other, strict=True):
        names = mine.keys() - {"split", "implicit_reward_accuracy"}  # rounding decides ties
        assert [mine[name] for name in names] == pytest.approx([theirs[name] for name in names], rel=2e-4, abs=2e-5)


def with_reference(rows, tokenizer):
    """The rows with their log-probabilities under the model that training starts at."""
    logps = reference_logps.log_probs(llama(), tokenizer, rows, micro_batch_size=8)
    return [row | {name: float(values[i]) for name, values in logps.items()} for i, row in enumerate(rows)]


def plainly_trained(rows, tokenizer, loss, settings):
    """Weights and history after the plain loop on `loss(rows, log pi, log pi_ref, lengths)`, a mean over a batch."""
    model = plain_loop.prepared(llama())
    collate, of_steps = samples.Collator(causal_lm.pad_token_id(tokenizer)), plain_loop.batches(rows, settings)

    def loss_of_step(step):
        batch = of_steps[step]
        logps, lengths = plain_loop.log_probs(model, collate(batch), 2)
        ref = torch.tensor([[row["ref_chosen_logps"], row["ref_rejected_logps"]] for row in batch])
        return loss(batch, logps, ref, lengths), {}

    history = plain_loop.fit(model, len(of_steps), loss_of_step, settings)
    return weights(model), history
