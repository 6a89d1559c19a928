import copy
import dataclasses
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from small_llama import (
    DPO,
    EOS,
    VOCABULARY,
    assert_same_history,
    column,
    fine_tune,
    fit,
    llama,
    made_up_rows,
    plain_dpo,
    plain_log_prob,
    weights,
)
from trl import DPOConfig, DPOTrainer

from qrpo_lib.objective import transforms
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import batching, reference_logps, samples

TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")


# --- log-probabilities ----------------------------------------------------------------------------------------------


def test_log_probabilities_are_those_of_a_plain_forward_pass(tokenizer):
    """Padding, batching, pad = eos: nothing changes; the end of sequence counts once, and only where it was sampled."""
    model, rows = llama().eval(), made_up_rows(9)
    reference = reference_logps.log_probs(model, tokenizer, rows, micro_batch_size=4)
    for side in ("chosen", "rejected"):
        with torch.no_grad():
            expected = [float(plain_log_prob(model, row["prompt_ids"], row[f"{side}_ids"])) for row in rows]
        np.testing.assert_allclose(reference[f"ref_{side}_logps"], expected, rtol=1e-5)


def test_a_model_that_transforms_its_logits_is_refused(tokenizer):
    model = llama()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="transforms its logits"):
        fit(model, tokenizer, made_up_rows(2))


def test_weights_of_low_precision_are_refused(tokenizer):
    with pytest.raises(ValueError, match="must be float32"):
        fit(llama().to(torch.bfloat16), tokenizer, made_up_rows(2))


# --- policy fitting -------------------------------------------------------------------------------------------------


class PlainDPOTrainer(DPOTrainer):
    """TRL's own loss, on rows that are tokenised already."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_dpo_is_trls(tokenizer, tmp_path):
    rows = made_up_rows(40)
    ours = llama()
    history = fit(ours, tokenizer, rows, **DPO).history
    order = batching.training_order([samples.length(row) for row in rows], 8, 1, seed=0)
    theirs = llama()
    trainer = PlainDPOTrainer(
        theirs,
        args=DPOConfig(
            output_dir=str(tmp_path), learning_rate=3e-3, per_device_train_batch_size=8, lr_scheduler_type="cosine",
            warmup_steps=0.1, max_grad_norm=0.0, bf16=False, gradient_checkpointing=False, use_cpu=True,
            precompute_ref_log_probs=True, train_sampling_strategy="sequential", logging_steps=1, save_strategy="no",
            disable_tqdm=True, num_train_epochs=1, beta=0.1, max_length=None, report_to="none",
        ),
        train_dataset=Dataset.from_list([{key: rows[i][key] for key in TOKENS} for i in order]),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == len(logged) == 5
    for ours_name, theirs_name in (("loss", "loss"), ("grad_norm", "grad_norm"), ("learning_rate", "learning_rate")):
        np.testing.assert_allclose(column(history, ours_name), [entry[theirs_name] for entry in logged], rtol=1e-5)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-5)


def test_gradient_norm_is_that_of_the_mean_loss(tokenizer):
    """Against autograd on plain log-probabilities and the DPO formula."""
    model, rows = llama(), made_up_rows(6)
    loss, norm = plain_dpo(model, copy.deepcopy(model), rows)
    history = fit(model, tokenizer, rows, micro_batch_size=2, **DPO).history
    assert history[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert [history[0]["loss"], loss] == pytest.approx([math.log(2)] * 2, rel=1e-6)


def test_dropout_is_off(tokenizer):
    """Attention keeps its rate as a plain number, which is easily missed."""
    rows = made_up_rows(16)
    runs = [fit(llama(attention_dropout=rate), tokenizer, rows).history for rate in (0.0, 0.5)]
    assert runs[0] == runs[1]


def test_training_starts_at_the_reference(tokenizer):
    rows = made_up_rows(12)
    history = fit(llama(), tokenizer, rows, rows).history
    start = history[0]
    assert (start["step"], start["split"]) == (0, "validation")
    assert start["chosen_log_ratio"] == start["rejected_log_ratio"] == 0
    assert start["implicit_reward_accuracy"] == 0.5
    assert history[1]["chosen_log_ratio"] == pytest.approx(0, abs=1e-5)


def test_reference_log_probabilities_may_come_with_the_rows(tokenizer):
    rows = made_up_rows(16)
    reference = reference_logps.log_probs(llama(), tokenizer, rows, micro_batch_size=8)
    given = [row | {name: float(values[i]) for name, values in reference.items()} for i, row in enumerate(rows)]
    assert fit(llama(), tokenizer, rows).history == fit(llama(), tokenizer, given).history
    shifted = [row | {"ref_chosen_logps": row["ref_chosen_logps"] - 1} for row in given]
    assert fit(llama(), tokenizer, shifted).history[0]["chosen_log_ratio"] == pytest.approx(1, abs=1e-5)


def test_same_seed_same_run(tokenizer):
    rows, runs = made_up_rows(24), []
    for seed in (0, 0, 1):
        model = llama()
        runs.append((fit(model, tokenizer, rows, seed=seed).history, weights(model)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_end_of_sequence_in_the_prompt_is_trained_with_pad_equal_to_eos(tokenizer):
    """`padding_idx` would keep it from being; the model's configuration names a padding token when it is loaded."""
    rows = made_up_rows(16)
    for row in rows:
        row["prompt_ids"] = [EOS, *row["prompt_ids"]]
    model = llama(pad_token_id=EOS, tie_word_embeddings=False)
    before = model.get_input_embeddings().weight[EOS].clone()
    fit(model, tokenizer, rows)
    assert (model.get_input_embeddings().weight[EOS] - before).abs().max() > 1e-4


def test_checkpoints_are_equally_spaced_and_see_the_plain_model(tokenizer, tmp_path):
    rows, seen = made_up_rows(80), {}

    def on_checkpoint(step, model):
        assert not model.training
        copied = copy.deepcopy(model)  # a patched forward method would leave the copy with the original's weights
        for parameter in copied.parameters():
            parameter.data.zero_()
        ids = torch.tensor([[3, 4, 5]])
        assert torch.equal(copied(ids).logits, torch.zeros(1, 3, VOCABULARY))
        seen[step] = model(ids).logits

    model, _ = fit(model := llama(), tokenizer, rows, checkpoints=5, on_checkpoint=on_checkpoint)
    assert list(seen) == [0, 2, 4, 6, 8, 10]
    assert not torch.equal(seen[0], seen[10])
    assert "forward" not in vars(model)
    assert torch.equal(model(torch.tensor([[3, 4, 5]])).logits, seen[10])
    model.save_pretrained(tmp_path)
    from_path = fit(tmp_path, tokenizer, rows, learning_rate=0.0)
    assert torch.equal(weights(from_path.model), weights(model))


class Killed(Exception):
    pass


def test_killed_training_continues_and_ends_the_same(tokenizer, tmp_path):
    rows, model = made_up_rows(80), llama()
    whole = fit(model, tokenizer, rows, rows[:8], checkpoints=5)

    def kill(step, model):
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        fit(llama(), tokenizer, rows, rows[:8], checkpoints=5, folder=tmp_path, on_checkpoint=kill)
    assert (tmp_path / "checkpoint-4" / "trainer_state.json").exists()
    (tmp_path / "checkpoint-6").mkdir()  # killed while it was being written
    steps = []
    again = {"folder": tmp_path, "on_checkpoint": lambda step, model: steps.append(step)}
    resumed = fit(llama(), tokenizer, rows, rows[:8], checkpoints=5, **again)
    assert steps == [6, 8, 10]
    assert torch.equal(weights(resumed.model), weights(model))
    assert resumed.history == whole.history
    assert list(map(list, resumed.history)) == list(map(list, whole.history)), "columns in another order"
    finished = fit(llama(), tokenizer, rows, rows[:8], checkpoints=5, **again)
    assert torch.equal(weights(finished.model), weights(model))
    assert finished.history == whole.history


@pytest.mark.parametrize("damage", ["a bit of the weights", "a file is missing", "no seal"])
def test_a_damaged_checkpoint_is_not_resumed_from(tokenizer, tmp_path, damage):
    rows = made_up_rows(80)
    whole = fit(llama(), tokenizer, rows, rows[:8], checkpoints=5)

    def kill(step, model):
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        fit(llama(), tokenizer, rows, rows[:8], checkpoints=5, folder=tmp_path, on_checkpoint=kill)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    weights_file = checkpoint / "model.safetensors"
    if damage == "a bit of the weights":
        content = bytearray(weights_file.read_bytes())
        content[-3] ^= 1
        weights_file.write_bytes(content)
    elif damage == "a file is missing":
        next(checkpoint.glob("rng_state*")).unlink()
    else:
        (checkpoint / "sums.sealed").unlink()
    steps = []
    again = {"folder": tmp_path, "on_checkpoint": lambda step, model: steps.append(step)}
    resumed = fit(llama(), tokenizer, rows, rows[:8], checkpoints=5, **again)
    assert steps == [0, 2, 4, 6, 8, 10]
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.history == whole.history


def test_progress_counts_steps(tokenizer):
    seen = []
    fit(llama(), tokenizer, made_up_rows(24), progress=lambda done, total, text: seen.append((done, total, text[:5])))
    assert seen == [(1, 3, "loss "), (2, 3, "loss "), (3, 3, "loss ")]


def test_training_is_silent(tokenizer, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(llama(), tokenizer, made_up_rows(16))
        fine_tune(llama(), tokenizer, [[2, 3, 4]] * 8, learning_rate=1e-3, batch_size=4)
    assert capfd.readouterr().out == ""


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(tokenizer):
    """A learning rate of 1e-6 moves nearly all of them, and hardly one so far that its bfloat16 would be another.

    With Adam no weight moves further than about the sum of the learning rates. The forward pass differs from float32's
    by bfloat16's rounding (8 bits, so well below 10 % in a gradient's norm), and float32 is itself again afterwards.
    """
    rows, before = made_up_rows(32), weights(llama())
    plain = fit(llama(), tokenizer, rows, learning_rate=1e-6).history
    model = llama()
    rounded = fit(model, tokenizer, rows, precision="bfloat16", learning_rate=1e-6).history
    after = weights(model)
    assert after.dtype == torch.float32
    moved = (after - before).abs()
    assert moved.max() < 1.5 * sum(column(rounded, "learning_rate"))
    assert (moved > 0).float().mean() > 0.5
    assert (after.bfloat16() != before.bfloat16()).float().mean() < 0.05
    norms = np.array([column(history, "grad_norm") for history in (plain, rounded)])
    differences = np.abs(norms[1] / norms[0] - 1)
    assert 1e-5 < differences.max() < 0.1
    assert fit(llama(), tokenizer, rows, learning_rate=1e-6).history == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size 12 is not a multiple of micro_batch_size 8"),
        ({"micro_batch_size": 0}, "micro_batch_size must be an integer of at least 1, got 0"),
        ({"checkpoints": 2.5}, "checkpoints must be an integer of at least 1, got 2.5"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"algorithm": "ppo"}, "unknown algorithm 'ppo'"),
        ({"num_ref_rewards": 4}, "train row 0: it has 3 reference rewards, but 4 are asked for"),
    ],
)
def test_unusable_settings(changes, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        fit(llama(), tokenizer, made_up_rows(8), **changes)


def test_unusable_validation_row_is_named(tokenizer):
    rows = made_up_rows(8)
    rows[3]["chosen_reward"] = math.nan
    with pytest.raises(ValueError, match=r"^validation row 3: chosen_reward is not finite"):
        fit(llama(), tokenizer, made_up_rows(8), rows)


def test_qrpo_reaches_the_closed_form(tokenizer):
    """All 85 completions of at most three tokens, against pi* = pi_ref exp(R_q / beta) / Z with the Z of that sum."""
    vocabulary, beta, prompt = 5, 0.5, [2, 3]
    words = [token for token in range(vocabulary) if token != EOS]
    completions = [[*w, EOS] for length in range(3) for w in itertools.product(words, repeat=length)]
    completions += [list(w) for w in itertools.product(words, repeat=3)]
    model = llama(vocabulary, hidden_size=32, intermediate_size=64)
    model.get_output_embeddings().weight.data *= 0.3  # less peaked, so that every completion matters

    def log_probs():
        with torch.no_grad():
            return torch.stack([plain_log_prob(model, prompt, completion) for completion in completions])

    ref = log_probs()
    assert float(ref.exp().sum()) == pytest.approx(1, abs=1e-5)
    generator = np.random.default_rng(0)
    rewards = generator.normal(size=len(completions))
    ref_rewards = rewards[generator.choice(len(rewards), 40, p=ref.exp() / ref.exp().sum())]
    quantile = torch.tensor((ref_rewards <= rewards[:, None]).mean(1))
    log_partition = float(torch.logsumexp(ref + quantile / beta, 0))
    optimal = ref + quantile / beta - log_partition
    # the closed form is for continuous rewards: here the sum over all completions takes its place
    identity = dataclasses.replace(transforms.get("identity"), closed_form=lambda x: np.full_like(x, log_partition))
    rows = [
        {
            "prompt_ids": prompt,
            "chosen_ids": completions[i],
            "rejected_ids": completions[i - 1],
            "chosen_reward": rewards[i],
            "rejected_reward": rewards[i - 1],
            "ref_rewards": ref_rewards,
        }
        for i in range(len(completions))
    ]
    sizes = {"batch_size": len(rows), "micro_batch_size": len(rows), "epochs": 200, "checkpoints": 1}
    fit(model, tokenizer, rows, loss={"beta": beta, "transform": identity}, learning_rate=5e-3, **sizes)
    assert _divergence(ref, optimal) > 0.1  # there was a way to go
    assert _divergence(log_probs(), optimal) < 1e-3


def _divergence(one, other):
    return float((one.exp() * (one - other)).sum())


# --- fine-tuning ----------------------------------------------------------------------------------------------------


def sequences(count, seed=0):
    return [row["prompt_ids"] + row["chosen_ids"] for row in made_up_rows(count, seed)]


def test_fine_tuning_loss_is_the_mean_over_all_tokens_of_the_batch(tokenizer):
    model, data = llama(), sequences(8)
    with torch.no_grad():
        total = -sum(float(plain_log_prob(model, ids[:1], ids[1:])) for ids in data)
    history = fine_tune(model, tokenizer, data, learning_rate=1e-3, batch_size=8, micro_batch_size=2).history
    assert history[0]["loss"] == pytest.approx(total / sum(len(ids) - 1 for ids in data), rel=1e-5)


def test_fine_tuning_does_not_depend_on_the_split_of_a_batch(tokenizer):
    runs = []
    for micro_batch_size in (8, 2):
        model = llama()
        sizes = {"batch_size": 8, "micro_batch_size": micro_batch_size}
        history = fine_tune(model, tokenizer, sequences(20), learning_rate=1e-3, epochs=2, **sizes).history
        runs.append((history, weights(model)))
    assert len(runs[0][0]) == 5
    assert_same_history(runs[0][0], runs[1][0])
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=0, atol=1e-4)


def test_fine_tuning_learns_to_count_and_to_stop(tokenizer):
    """pad = eos: were the end of sequence masked as padding, the model would never stop."""
    model = llama(hidden_size=32)
    data = [[start, *range(start + 1, 12), EOS] for start in range(2, 10)] * 40
    fine_tune(model, tokenizer, data, learning_rate=1e-2, batch_size=16)
    generated = model.generate(torch.tensor([[5, 6]]), max_new_tokens=20, do_sample=False)
    assert generated[0].tolist() == [*range(5, 12), EOS]


@pytest.mark.parametrize(
    ("data", "message"),
    [([], "is empty"), ([[2, 3], [4]], "sequence 1 has 1 tokens"), ([[2] * 33], "sequence 0 has 33 tokens")],
)
def test_unusable_sequences(data, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        fine_tune(llama(), tokenizer, data, learning_rate=1e-3, batch_size=4)


# --- order ----------------------------------------------------------------------------------------------------------


def test_training_order_sees_every_row_once_an_epoch():
    """After any batch no row has been seen twice more than another, though a batch may span two epochs."""
    lengths = np.random.default_rng(0).integers(1, 50, 37)
    order = batching.training_order(lengths, 8, 3, seed=0)
    assert np.bincount(order).tolist() == [3] * 37
    for end in range(8, len(order), 8):
        seen = np.bincount(order[:end], minlength=37)
        assert seen.min() == end // 37
        assert seen.max() == -(-end // 37)
    for start in range(0, len(order), 8):
        assert (np.diff(lengths[order[start : start + 8]]) <= 0).all()


def test_training_order_is_random_in_each_epoch_and_given_by_its_seed():
    """Who shares a batch changes from epoch to epoch and from seed to seed, and does not depend on the lengths."""
    lengths = np.random.default_rng(0).integers(1, 50, 400)

    def batches(seed, lengths=lengths):
        return [frozenset(batch.tolist()) for batch in batching.training_order(lengths, 8, 2, seed).reshape(-1, 8)]

    once = batches(0)
    assert all(len(batch) == 8 for batch in once)
    assert len(set(once)) == 100  # 50 an epoch
    assert batches(0) == once
    assert not set(batches(1)) & set(once)
    assert batches(0, lengths[::-1].copy()) == once
    consecutive = [frozenset(range(start, start + 8)) for start in range(0, 400, 8)]
    assert not set(consecutive) & set(once)
    means = np.array([lengths[list(batch)].mean() for batch in once])
    # Means of 8 lengths drawn without regard to length: their spread is that of a length over sqrt(8).
    assert means.std() == pytest.approx(lengths.std() / np.sqrt(8), rel=0.25)


def test_rows_of_one_prompt_are_side_by_side_longest_first():
    prompts, lengths = [[1], [2], [1], [3, 1], [2], [1]], [5, 9, 7, 8, 2, 6]
    assert np.concatenate(list(batching.by_prompt(prompts, lengths, 4))).tolist() == [1, 4, 3, 2, 5, 0]
    assert [len(batch) for batch in batching.by_prompt(prompts, lengths, 4)] == [4, 2]


def test_length_grouped_batches_have_little_padding():
    lengths = np.random.default_rng(0).geometric(1 / 40, 4000)
    order = batching.length_grouped_order(lengths, 16, 1, seed=0)
    assert sorted(order) == list(range(4000))
    batches = lengths[order].reshape(-1, 16)
    assert batches.sum() / (16 * batches.max(1).sum()) > 0.9
    assert np.abs(np.corrcoef(np.arange(250), batches.mean(1))[0, 1]) < 0.2


def test_killed_fine_tuning_continues_and_ends_the_same(tokenizer, tmp_path):
    settings = {"learning_rate": 1e-3, "batch_size": 4, "checkpoints": 5}
    models = llama(), llama()
    whole = fine_tune(models[0], tokenizer, sequences(40), **settings).history
    steps = []

    def kill(step, model):
        steps.append(step)
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        fine_tune(llama(), tokenizer, sequences(40), folder=tmp_path, on_checkpoint=kill, **settings)
    assert steps == [0, 2, 4, 6]
    resumed = fine_tune(models[1], tokenizer, sequences(40), folder=tmp_path, **settings).history
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert resumed == whole


# --- trackers ---------------------------------------------------------------------------------------------------------


def test_tensorboard_gets_the_metrics(tokenizer, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = made_up_rows(16)
    history = fit(llama(), tokenizer, rows, rows[:4], report_to="tensorboard", folder=tmp_path).history
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    events = accumulator.EventAccumulator(str(path)).Reload()
    for split, prefix in (("train", "train/"), ("validation", "eval/")):
        for name in ("loss", "chosen_log_ratio", "rejected_quantile", "share_above_threshold"):
            logged = [event.value for event in events.Scalars(prefix + name)]
            assert logged == pytest.approx(column(history, name, split), rel=1e-5, abs=1e-7)


def test_a_tracker_needs_a_folder(tokenizer):
    with pytest.raises(ValueError, match="report_to='tensorboard' needs a folder"):
        fit(llama(), tokenizer, made_up_rows(8), report_to="tensorboard")


class Interrupt(Exception):
    pass


def test_a_half_trained_model_object_is_no_reference(tokenizer, tmp_path):
    def interrupt(step, steps, text):
        raise Interrupt

    rows, model = made_up_rows(16), llama()
    with pytest.raises(Interrupt):
        fit(model, tokenizer, rows, progress=interrupt)
    assert "forward" not in vars(model)  # as it was before the trainer took it
    with pytest.raises(InputError, match="half-trained"):
        fit(model, tokenizer, rows)


@pytest.mark.slow
def test_another_beta_in_the_folder_of_a_run_is_refused(tokenizer, tmp_path):
    rows, other = made_up_rows(16), {"algorithm": "qrpo", "loss": {"beta": 0.2}}
    first = fit(llama(), tokenizer, rows, folder=tmp_path).history
    with pytest.raises(InputError, match=r"beta 0\.1, not 0\.2"):
        fit(llama(), tokenizer, rows, folder=tmp_path, **other)
    with pytest.raises(InputError, match="other weights"):
        fit(llama(seed=1), tokenizer, rows, folder=tmp_path)
    assert fit(llama(), tokenizer, rows, folder=tmp_path).history == first
