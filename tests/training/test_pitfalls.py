"""The implementation pitfalls of App. L.12: each test fails on the behaviour that it names.

Beside these: the log-probability of training against a plain forward pass (test_log_probs), dropout (test_trainer),
rows that cannot be used (test_samples).
"""

import json
import os
import sys

import numpy as np
import pytest
import torch
import two_processes
from small_llama import DPO, EOS, QRPO, assert_same_history, fine_tune, fit, llama, made_up_rows, plain_log_prob
from torch.optim.optimizer import register_optimizer_step_pre_hook

from qrpo_lib.models import tiny
from qrpo_lib.sampling import engines, sampler
from qrpo_lib.training import fine_tuning, policy_trainer, reference_logps

REBEL, SIMPO = ({"algorithm": name, "loss": {"beta": 0.5}} for name in ("rebel", "simpo"))


@pytest.fixture
def trained_on(monkeypatch):
    """What the model is trained on: (sequence, completion) of every sequence, as token ids, without the padding."""
    seen = []
    plain = policy_trainer.completion_log_probs

    def spy(model, input_ids, mask):
        for ids, of_completion in zip(input_ids.tolist(), mask.tolist(), strict=True):
            last = max(i for i, inside in enumerate(of_completion) if inside)
            completion = [token for token, inside in zip(ids, of_completion, strict=True) if inside]
            seen.append((ids[: last + 1], completion))
        return plain(model, input_ids, mask)

    for module in (policy_trainer, fine_tuning):
        monkeypatch.setattr(module, "completion_log_probs", spy)
    return seen


# --- the end-of-sequence token ----------------------------------------------------------------------------------------


def test_token_ids_are_trained_on_as_sampled(tokenizer, trained_on):
    """Nothing is appended, cut, masked or re-tokenised, although pad = eos and some completions lack it."""
    rows = made_up_rows(12)
    assert sum(row["chosen_ids"][-1] != EOS for row in rows) > 1, "some completions must be truncated"
    rows[0]["chosen_ids"] = [EOS]
    fit(llama(), tokenizer, rows, batch_size=4, micro_batch_size=4)
    expected = [(row["prompt_ids"] + row[side], row[side]) for row in rows for side in ("chosen_ids", "rejected_ids")]
    assert sorted(trained_on) == sorted(expected)


def test_a_template_that_ends_in_the_end_of_sequence_is_trained_with_one(trained_on):
    tokenizer = tiny._tokenizer(64, ["The red fox runs softly.", "Tell me a story."])
    ids = tiny._conversation_ids(tokenizer, "Tell me a story.", "The red fox runs.")
    end = tokenizer.eos_token_id
    assert (tokenizer.pad_token_id, ids[-1]) == (end, end)
    sequences = [ids, ids[:4]]  # the second one is padded
    fine_tune(llama(len(tokenizer), eos_token_id=end), tokenizer, sequences, learning_rate=1e-3, batch_size=2)
    assert sorted(sequence for sequence, _ in trained_on) == sorted(sequences)
    # every token but the first, the end of the user's turn and that of the answer included
    (of_conversation,) = [completion for sequence, completion in trained_on if sequence == ids]
    assert of_conversation[-len(ids) + 1 :] == ids[1:]
    assert of_conversation.count(end) == 2


def test_the_end_of_sequence_counts_once_in_the_log_probability(tokenizer):
    """SimPO divides by the length, so a second one, or none, would show twice."""
    row = made_up_rows(1)[0] | {"chosen_ids": [5, 6, EOS], "rejected_ids": [7, EOS]}
    model = llama()
    with torch.no_grad():
        chosen, rejected = (
            float(plain_log_prob(model, row["prompt_ids"], row[f"{s}_ids"])) for s in ("chosen", "rejected")
        )
    margin = 0.5 * (chosen / 3 - rejected / 2 - 0.5)
    history = fit(model, tokenizer, [row], batch_size=1, micro_batch_size=1, checkpoints=1, **SIMPO).history
    assert history[0]["loss"] == pytest.approx(np.log1p(np.exp(-margin)), rel=1e-5)


@pytest.mark.parametrize("algorithm", [QRPO, DPO, REBEL, SIMPO], ids=lambda value: value["algorithm"])
def test_truncated_and_empty_completions_train_and_do_not_vanish(algorithm, tokenizer):
    rows = made_up_rows(8)
    for row in rows[:4]:
        row["chosen_ids"], row["rejected_ids"] = [EOS], [5] * 11  # an empty answer; one cut off
    history = fit(llama(), tokenizer, rows, **algorithm).history
    assert all(np.isfinite([value for name, value in row.items() if name != "split"]).all() for row in history)
    others = fit(llama(), tokenizer, rows[4:], **algorithm).history
    assert history[0]["grad_norm"] != pytest.approx(others[0]["grad_norm"], rel=1e-3)


# --- one gradient for every split of a batch --------------------------------------------------------------------------


def steps_of(rows, micro_batch_size, settings):
    """The gradients, history of a training at batch size 128, and how large the gradients are."""
    gradients = []

    def keep(optimizer, *_):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients.append(torch.cat([p.grad.flatten().clone() for p in parameters]))

    handle = register_optimizer_step_pre_hook(keep)
    try:
        from small_llama import made_up_tokenizer

        sizes = {"batch_size": 128, "micro_batch_size": micro_batch_size, "checkpoints": 1, "learning_rate": 1e-4}
        history = fit(llama(), made_up_tokenizer(), rows, rows[:9], **sizes, **settings).history
    finally:
        handle.remove()
    return gradients, history


def assert_same_steps(one, other):
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert (mine - theirs).norm() <= 2e-5 * theirs.norm()
    assert_same_history(one[1], other[1])


@pytest.fixture(scope="module")
def uneven_rows():
    """One full batch of 128, one of 45, completions of 1 to 12 tokens: micro-batches differ in tokens and in rows."""
    return made_up_rows(173)


@pytest.mark.parametrize("algorithm", [QRPO, DPO, REBEL, SIMPO], ids=lambda value: value["algorithm"])
def test_gradient_loss_and_norm_do_not_depend_on_the_split(algorithm, uneven_rows):
    whole = steps_of(uneven_rows, 128, algorithm)
    assert len(whole[0]) == 2
    for micro_batch_size in (32, 4):
        assert_same_steps(steps_of(uneven_rows, micro_batch_size, algorithm), whole)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", [64, 8])
def test_two_processes_make_the_steps_of_one(micro_batch_size, uneven_rows, tmp_path):
    """128 as 2 x 64 and as 2 x 8 micro-batches of 8; 45 rows divide among neither."""
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES.format(module=__file__, result=str(tmp_path), size=micro_batch_size))
    two_processes.run(script, PYTHONPATH=os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    history = json.loads((tmp_path / "history.json").read_text())
    assert_same_steps((torch.load(tmp_path / "gradients.pt"), history), steps_of(uneven_rows, 128, DPO))


TWO_PROCESSES = """
import importlib.util, json, os, pathlib, torch
spec = importlib.util.spec_from_file_location("pitfalls", {module!r})
pitfalls = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pitfalls)
gradients, history = pitfalls.steps_of(pitfalls.made_up_rows(173), {size}, pitfalls.DPO)
if os.environ["RANK"] == "0":
    folder = pathlib.Path({result!r})
    (folder / "history.json").write_text(json.dumps(history))
    torch.save(gradients, folder / "gradients.pt")
"""


@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_fine_tuning_weighs_every_token_of_the_batch_alike(micro_batch_size, tokenizer):
    """The mean of micro-batch means would weigh tokens of short sequences more."""
    sequences = [row["prompt_ids"] + row["chosen_ids"] for row in made_up_rows(8)]
    model = llama()
    with torch.no_grad():
        total = -sum(float(plain_log_prob(model, ids[:1], ids[1:])) for ids in sequences)
    sizes = {"batch_size": 8, "micro_batch_size": micro_batch_size, "checkpoints": 1}
    history = fine_tune(model, tokenizer, sequences, learning_rate=1e-3, **sizes).history
    assert history[0]["loss"] == pytest.approx(total / sum(len(ids) - 1 for ids in sequences), rel=1e-5)


# --- the same log-probability everywhere ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", engines.BACKENDS)
def test_log_probabilities_of_sampling_and_training_agree(backend, tokenizer, tmp_path):
    """bfloat16 rounding is 2^-8 relative in the logits; an end-of-sequence token more or less is a nat or so."""
    try:
        engines.resolve(backend)
    except ValueError as reason:
        pytest.skip(str(reason))
    model = llama(hidden_size=64, num_attention_heads=2).eval()  # vLLM on a CPU wants heads of at least 32
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompts = [row["prompt_ids"] for row in made_up_rows(8)]
    drawn = sampler.sample(
        tmp_path, tokenizer, prompts, completions=4, max_new_tokens=12, seed=0, backend=backend, batch_size=32
    )
    assert {one.finish_reason for one in drawn} == {"stop", "length"}
    rows = [{"prompt_ids": prompts[one.prompt_index], "completion_ids": one.token_ids} for one in drawn]
    logps = reference_logps.log_probs(model, tokenizer, rows, micro_batch_size=8)["ref_logps"]
    np.testing.assert_allclose([one.logp for one in drawn], logps, rtol=2**-7, atol=2**-4)


def test_dropout_is_off_in_both_trainers(tokenizer):
    rows = made_up_rows(8)
    sequences = [row["prompt_ids"] + row["chosen_ids"] for row in rows]
    fits = []
    for rate in (0.0, 0.5):
        tuned = fine_tune(llama(attention_dropout=rate), tokenizer, sequences, learning_rate=1e-3, batch_size=4)
        fits.append((fit(llama(attention_dropout=rate), tokenizer, rows).history, tuned.history))
    assert fits[0] == fits[1]
