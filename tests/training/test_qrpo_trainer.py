"""`QRPOTrainer`: the same numbers as the suite's own training and as TRL's, and what a run may and may not be."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_llama import EOS, VOCABULARY, column, fit, llama, made_up_rows, made_up_tokenizer, plain_log_prob, weights

from qrpo_lib import QRPOConfig, QRPOTrainer, losses
from qrpo_lib.objective import transforms
from qrpo_lib.runs.errors import InputError

# The schedule of `fit_policy` (App. L.8), rows in the order given.
AS_THE_SUITE = {
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1,
    "logging_steps": 1,
    "train_sampling_strategy": "sequential",
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "optim": "adamw_torch_fused",
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "report_to": "none",
}


@pytest.fixture(scope="module", autouse=True)
def _little_for_the_garbage_collector():
    """Each training ends with a full collection, which else walks through all that was ever imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def config(folder, **changes):
    return QRPOConfig(str(folder), **(AS_THE_SUITE | {"beta": 0.1} | changes))


def trainer(folder, rows, model=None, changes=None, **arguments):
    model = llama() if model is None else model
    return QRPOTrainer(
        model, config(folder, **(changes or {})), rows, processing_class=made_up_tokenizer(), **arguments
    )


def pointwise(rows):
    return [
        {
            "prompt_ids": row["prompt_ids"],
            "completion_ids": row["chosen_ids"],
            "reward": row["chosen_reward"],
            "ref_rewards": row["ref_rewards"],
        }
        for row in rows
    ]


def as_texts(rows):
    """The rows in TRL's standard form: words, without the end of sequence, which TRL adds."""

    def text(ids):
        return "".join(f"w{i} " for i in ids if i != EOS)

    return [
        {
            "prompt": text(row["prompt_ids"]),
            "chosen": text(row["chosen_ids"]),
            "rejected": text(row["rejected_ids"]),
            "chosen_reward": row["chosen_reward"],
            "rejected_reward": row["rejected_reward"],
            "reference_rewards": row["ref_rewards"],
        }
        for row in rows
    ]


@pytest.fixture
def words():
    """The tokenizer of `as_texts`: words split at spaces, none of which the end of sequence is a part of."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {f"w{i}": i for i in range(VOCABULARY)} | {"</s>": EOS}
    del ids["w1"]
    backend = Tokenizer(models.WordLevel(ids, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


@pytest.mark.parametrize(
    ("loss_type", "loss"),
    [
        ("qrpo", {"beta": 0.1}),
        ("qrpo", {"beta": 0.3, "transform": "log", "partition": "finite", "error": "absolute"}),
        pytest.param("dpo", {"beta": 0.1}, marks=pytest.mark.slow),
        pytest.param("rebel", {"beta": 0.5}, marks=pytest.mark.slow),
        pytest.param("simpo", {"beta": 2.0, "gamma_ratio": 0.3}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_losses_and_weights_are_those_of_the_suite(loss_type, loss, tokenizer, tmp_path):
    rows, models = made_up_rows(24), (llama(), llama())
    # the order in which the suite's own training takes the rows
    from qrpo_lib.training import batching, samples

    order = batching.training_order([samples.length(row) for row in rows], 8, 1, 0)
    history = fit(models[0], tokenizer, rows, algorithm=loss_type, loss=loss, checkpoints=1).history
    ours = trainer(tmp_path, [rows[i] for i in order], models[1], {"loss_type": loss_type, **loss})
    ours.train()
    logged = [entry for entry in ours.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in logged] == pytest.approx(column(history, "loss"), rel=2e-6)
    assert [entry["chosen_log_ratio"] for entry in logged] == pytest.approx(
        column(history, "chosen_log_ratio"), rel=1e-4, abs=1e-5
    )
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=2e-5)


def test_pointwise_losses_are_those_of_the_suite(tokenizer, tmp_path):
    from qrpo_lib.training import batching, samples

    rows, models = pointwise(made_up_rows(24)), (llama(), llama())
    order = batching.training_order([samples.length(row) for row in rows], 8, 1, 0)
    history = fit(models[0], tokenizer, rows, checkpoints=1).history
    ours = trainer(tmp_path, [rows[i] for i in order], models[1])
    ours.train()
    assert [e["loss"] for e in ours.state.log_history if "loss" in e] == pytest.approx(
        column(history, "loss"), rel=2e-6
    )
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=2e-5)


def test_dpo_is_that_of_trl(words, tmp_path):
    """On the same texts, TRL tokenising them by itself."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows, models = as_texts(made_up_rows(16)), (llama(), llama())
    llama_folder = tmp_path / "llama"
    models[0].save_pretrained(llama_folder)
    models[0].config._name_or_path = str(llama_folder)
    settings = AS_THE_SUITE | {"beta": 0.1}
    theirs = DPOTrainer(
        models[0],
        args=DPOConfig(str(tmp_path / "trl"), bf16=False, gradient_checkpointing=False, **settings),
        train_dataset=Dataset.from_list(
            [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
        ),
        processing_class=words,
    )
    theirs.train()
    ours = QRPOTrainer(models[1], config(tmp_path / "ours", loss_type="dpo"), rows, processing_class=words)
    ours.train()
    of_both = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (ours, theirs)]
    assert of_both[0] == pytest.approx(of_both[1], rel=1e-5)
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=1e-4)


TWO_PROCESSES = """
import importlib.util, json, os, pathlib, torch
spec = importlib.util.spec_from_file_location("ours", {module!r})
ours = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ours)
model, folder = ours.llama(), pathlib.Path({folder!r})
one = ours.trainer(folder, ours.made_up_rows(32), model, {{"per_device_train_batch_size": 4}})
one.train()
if os.environ["RANK"] == "0":
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "history.json").write_text(json.dumps(one.state.log_history))
del one  # which has threads of the group's
"""


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES.format(module=__file__, folder=str(tmp_path / "two")))
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    run = subprocess.run(command, env=environment, timeout=900, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    whole = llama()
    one = trainer(tmp_path / "one", made_up_rows(32), whole)
    one.train()
    history = json.loads((tmp_path / "two" / "history.json").read_text())
    losses_of = [[entry["loss"] for entry in log if "loss" in entry] for log in (history, one.state.log_history)]
    assert losses_of[0] == pytest.approx(losses_of[1], rel=2e-6)
    for name, values in torch.load(tmp_path / "two" / "weights.pt").items():
        torch.testing.assert_close(values, whole.state_dict()[name], rtol=0, atol=2e-5)


def test_length_normalisation_is_beta_over_the_length_of_each_completion(tmp_path):
    """At the start the log-ratio is 0: the loss is the square of each completion's target at beta / |y|."""
    rows = made_up_rows(8)
    ours = trainer(tmp_path, rows, changes={"length_normalization": True, "beta": 2.0})
    ours.train()
    expected = []
    for row in rows:
        for side in ("chosen", "rejected"):
            beta = 2.0 / len(row[f"{side}_ids"])
            quantile = np.mean(np.array(row["ref_rewards"]) <= row[f"{side}_reward"])
            expected.append((quantile - beta * transforms.log_partition(lambda t: t, beta)) ** 2)
    assert ours.state.log_history[0]["loss"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert "chosen_target" not in ours.state.log_history[0]


@pytest.mark.slow
def test_splitting_a_batch_does_not_change_its_gradient(tmp_path):
    rows, models = [row | {"weight": 1.0 + i % 3} for i, row in enumerate(made_up_rows(16))], (llama(), llama())
    trainer(tmp_path / "whole", rows, models[0]).train()
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    trainer(tmp_path / "split", rows, models[1], split).train()
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=2e-5)


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(tmp_path):
    rows, models = made_up_rows(8), (llama(attention_dropout=0.5), llama(attention_dropout=0.5))
    trainer(tmp_path / "plain", rows, models[0]).train()
    calls = []
    layer = models[1].model.layers[0]
    layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    checkpointed = trainer(tmp_path / "checkpointed", rows, models[1], {"gradient_checkpointing": True})
    calls.clear()
    checkpointed.train()
    assert len(calls) >= 2  # one step: forward, and again in backward
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_evaluation_is_the_mean_over_the_rows(tmp_path):
    rows, model = made_up_rows(13), llama()
    ours = trainer(
        tmp_path, rows, model, {"per_device_eval_batch_size": 4}, eval_dataset={"one": rows, "two": rows[:5]}
    )
    expected = {}
    for name, some in (("one", rows), ("two", rows[:5])):
        targets = [
            np.mean(np.array(row["ref_rewards"]) <= row[f"{side}_reward"])
            - 0.1 * losses.log_partition("identity", 0.1, 3)
            for row in some
            for side in ("chosen", "rejected")
        ]
        expected[name] = np.mean(np.square(targets))
    found = ours.evaluate()
    assert found["eval_one_loss"] == pytest.approx(expected["one"], rel=1e-5)
    assert found["eval_two_loss"] == pytest.approx(expected["two"], rel=1e-5)
    assert ours.evaluate(rows[:3])["eval_loss"] > 0
    ours.train()
    with pytest.raises(InputError, match="has been trained meanwhile"):
        ours.evaluate(rows[:3])


def test_reference_model_of_its_own(tmp_path):
    rows, model, reference = made_up_rows(8), llama(), llama(seed=1)
    ours = trainer(tmp_path, rows, model, ref_model=reference)
    row = ours.train_dataset[0]
    expected = plain_log_prob(reference, rows[0]["prompt_ids"], rows[0]["chosen_ids"])
    assert row["ref_chosen_logps"] == pytest.approx(expected.item(), abs=1e-4)


# --- runs -------------------------------------------------------------------------------------------------------------


class Interrupt(Exception):
    pass


def interrupting(step):
    from transformers import TrainerCallback

    class Interrupting(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Interrupt

    return Interrupting()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path):
    """In the second epoch, whose order is another one."""
    rows, settings = made_up_rows(32), {"save_strategy": "steps", "save_steps": 1}
    settings |= {"train_sampling_strategy": "random", "num_train_epochs": 2}
    whole = llama()
    trainer(tmp_path / "whole", rows, whole, settings).train()
    first = trainer(tmp_path / "run", rows, llama(), settings, callbacks=[interrupting(6)])
    with pytest.raises(Interrupt):
        first.train()
    again = llama()
    trainer(tmp_path / "run", rows, again, settings).train(resume_from_checkpoint=True)
    torch.testing.assert_close(weights(whole), weights(again), rtol=0, atol=1e-6)


def test_a_half_trained_model_object_is_no_reference(tmp_path):
    rows, model = made_up_rows(16), llama()
    with pytest.raises(Interrupt):
        trainer(tmp_path, rows, model, callbacks=[interrupting(1)]).train()
    assert "forward" not in vars(model)  # as it was before a trainer took it
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(InputError, match="half-trained"):
            trainer(folder, rows, model)


@pytest.mark.slow
def test_half_trained_weights_are_recognised_in_another_object_too(tmp_path):
    rows, model, settings = made_up_rows(16), llama(), {"save_strategy": "steps", "save_steps": 1}
    with pytest.raises(Interrupt):
        trainer(tmp_path, rows, model, settings, callbacks=[interrupting(2)]).train()
    copy = llama()
    copy.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="other weights"):
        trainer(tmp_path, rows, copy, settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"), [({"beta": 0.2}, "beta 0.1, not 0.2"), ({"learning_rate": 1e-3}, "learning_rate 0.003")]
)
def test_another_setting_in_the_same_folder_is_refused(changes, said, tmp_path):
    rows = made_up_rows(8)
    first = trainer(tmp_path, rows)
    first.train()
    first.save_model()
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, rows, changes=changes)
    with pytest.raises(InputError, match="other data"):
        trainer(tmp_path, rows[:7])
    trainer(tmp_path, rows)  # the same is the same


@pytest.mark.slow
def test_a_trained_model_may_be_the_next_reference(tmp_path):
    rows, model = made_up_rows(8), llama()
    trainer(tmp_path / "first", rows, model).train()
    second = trainer(tmp_path / "second", rows, model)
    expected = plain_log_prob(model, rows[0]["prompt_ids"], rows[0]["chosen_ids"])
    assert second.train_dataset[0]["ref_chosen_logps"] == pytest.approx(expected.item(), abs=1e-4)


# --- adapters, the hub, trackers --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_lora_trains_the_adapter_against_the_model_without_it(tmp_path):
    peft = pytest.importorskip("peft")
    rows, model = made_up_rows(16), llama()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    adapter = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.3)
    ours = trainer(tmp_path, rows, model, {"learning_rate": 1e-2}, peft_config=adapter)
    plain = trainer(tmp_path / "full", rows, llama())
    ours.train()
    plain.train()
    # the first step is at the reference, whatever is trained
    assert ours.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"], rel=2e-6)
    metrics = ours.evaluate(rows)  # whose reference is still the model without the adapter
    merged = ours.model.merge_and_unload()
    assert any(not torch.equal(before[name], values) for name, values in merged.state_dict().items())
    both = [
        [plain_log_prob(one, row["prompt_ids"], row["chosen_ids"]).item() for row in rows] for one in (merged, llama())
    ]
    assert metrics["eval_chosen_log_ratio"] == pytest.approx(np.subtract(*both).mean(), abs=1e-4)


def test_lora_on_the_head_is_refused(tmp_path):
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(r=4, target_modules=["lm_head", "q_proj"])
    with pytest.raises(ValueError, match="lm_head"):
        trainer(tmp_path, made_up_rows(8), llama(tie_word_embeddings=False), peft_config=adapter)


def test_without_peft_an_adapter_is_refused_in_a_sentence(tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else found(name, *rest))
    with pytest.raises(InputError, match=r"pip install 'qrpo-lib\[peft\]'"):
        trainer(tmp_path, made_up_rows(8), peft_config=object())


@pytest.mark.slow
def test_the_card_says_what_was_done_and_goes_to_the_hub(tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    uploaded = {}

    def upload(api, *, folder_path, **_):
        uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()})

    monkeypatch.setattr(HfApi, "create_repo", lambda api, name, **_: SimpleNamespace(repo_id=name, url=""))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    changes = {"hub_model_id": "me/mine", "transform": "log", "beta": 0.25}
    ours = trainer(tmp_path, made_up_rows(8), changes=changes)
    ours.train()
    ours.push_to_hub(dataset_name="me/rows")
    card = uploaded["README.md"].decode()
    assert "Quantile Reward Policy Optimization" in card
    assert "| beta | 0.25 |" in card
    assert "| transform | log |" in card
    assert "8 preference pairs of me/rows, each with 3 reference rewards" in card
    assert "step 1 of 1" in card
    assert "model.safetensors" in uploaded


def test_the_card_names_the_method_that_was_used(tmp_path):
    ours = trainer(tmp_path, made_up_rows(8), changes={"loss_type": "simpo", "beta": 2.0})
    ours.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "SimPO" in card
    assert "Quantile" not in card


@pytest.mark.slow
def test_callbacks_and_trackers(tmp_path):
    from transformers import TrainerCallback

    seen = []

    class Seeing(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(logs)

    changes = {"report_to": ["tensorboard"]}
    trainer(tmp_path, made_up_rows(8), changes=changes, callbacks=[Seeing()]).train()
    assert any("chosen_quantile" in logs for logs in seen)
    assert list(tmp_path.rglob("events.out.tfevents*"))


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_type": "ppo"}, "no loss_type 'ppo'"),
        ({"loss_type": "dpo", "transform": "log"}, "QRPO's alone"),
        ({"label_smoothing": 0.1}, "no label_smoothing"),
        ({"disable_dropout": False}, "without dropout"),
        ({"beta": -1.0}, "positive"),
        ({"transform": "sine"}, "unknown transformation"),
        ({"num_reference_rewards": 9}, "3 reference rewards, but 9"),
    ],
)
def test_settings_that_cannot_be_used(changes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        trainer(tmp_path, made_up_rows(8), changes=changes)


def test_low_precision_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="bfloat16"):
        trainer(tmp_path, made_up_rows(8), llama().bfloat16())


def test_single_completions_are_qrpos_alone(tmp_path):
    with pytest.raises(ValueError, match="needs pairs"):
        trainer(tmp_path, pointwise(made_up_rows(8)), changes={"loss_type": "dpo"})


def test_missing_reference_rewards_are_asked_for(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "ref_rewards"} for row in made_up_rows(8)]
    with pytest.raises(InputError, match="SampledReferences"):
        trainer(tmp_path, rows)


def test_settings_from_a_command_line(tmp_path):
    from transformers import HfArgumentParser

    given = [
        "--output_dir",
        str(tmp_path),
        "--beta",
        "0.3",
        "--transform",
        '{"name": "scaled-normal", "mu": 0, "sigma": 1}',
    ]
    (parsed,) = HfArgumentParser(QRPOConfig).parse_args_into_dataclasses(given)
    assert (parsed.beta, parsed.transform) == (0.3, {"name": "scaled-normal", "mu": 0, "sigma": 1})


def test_reference_rewards_from_a_file(words, tmp_path):
    rows = as_texts(made_up_rows(4))
    of_prompts = tmp_path / "references.jsonl"
    references = [{"prompt": row["prompt"], "reference_rewards": [float(i), 9.0]} for i, row in enumerate(rows)]
    of_prompts.write_text("\n".join(map(json.dumps, references)))
    without = [{name: value for name, value in row.items() if name != "reference_rewards"} for row in rows]
    ours = QRPOTrainer(llama(), config(tmp_path), without, processing_class=words, reference_rewards=of_prompts)
    assert ours.train_dataset["ref_rewards"][:] == [[float(i), 9.0] for i in range(4)]
    of_prompts.write_text(json.dumps(references[0]))
    with pytest.raises(InputError, match="no reference rewards for the prompt of train row 1"):
        QRPOTrainer(llama(), config(tmp_path), without, processing_class=words, reference_rewards=of_prompts)
