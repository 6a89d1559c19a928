"""The same rows trained by command line, profile, notebook and in Python: the same losses, the same weights."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow

# Own data, an own model and an own reward, in twelve lines at most.
PROFILE = """extends = "smol"
unset = ["arms.code"]
policy = {{ source = "hub", model = "./small", pad_token = "<pad>", temperature = 1.0, top_p = 1.0 }}
reference_sampling = {{ ref_rewards = 4, max_new_tokens = 4 }}
experiment = {{ algorithms = ["qrpo"] }}
training = {{ setting = "offline", batch_size = 8, micro_batch_size = 4, epochs = 2, qrpo = {qrpo} }}
[arms.chat.task]
name = "{task}"
dataset = "rows.jsonl"
test_dataset = "test.jsonl"
reward = {{ kind = "python", function = "my.py:reward" }}
"""
QRPO = "{ beta = 0.1, learning_rate = 3e-3, num_ref_rewards = 4 }"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def save_model(folder):
    """A small Llama with random weights, and a tokenizer of words with a chat template."""
    from small_llama import llama
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "<pad>", "user", "assistant", *[f"w{i}" for i in range(20)]]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE
    )
    llama(len(words), max_position_embeddings=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def row(number, task, generator):
    """A row with its rewards, in the form of the task; rewards that are no float32 and now and then equal."""

    def answer():
        return [{"role": "assistant", "content": " ".join(f"w{i}" for i in generator.integers(0, 20, 1 + number % 5))}]

    prompt = [{"role": "user", "content": f"w{number % 20} w{number // 20} w{generator.integers(0, 20)}"}]
    rewards = generator.integers(0, 9, 6) / 10
    if task == "dataset":
        found = {"chosen": answer(), "rejected": answer(), "chosen_reward": rewards[0], "rejected_reward": rewards[1]}
    else:
        found = {"completion": answer(), "reward": rewards[0]}
    return {"prompt": prompt} | found | {"reference_rewards": rewards[2:].tolist()}


@pytest.fixture(params=["dataset", "pointwise"])
def folder(request, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    rows = [row(i, request.param, generator) for i in range(32)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(one) for one in rows[:24]))
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(one) for one in rows[24:]))
    (tmp_path / "my.py").write_text(
        "def reward(prompts, completions):\n    return [len(str(c)) for c in completions]\n"
    )
    (tmp_path / "mine.toml").write_text(PROFILE.format(task=request.param, qrpo=QRPO))
    save_model(tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path / "runs"))
    return tmp_path


def by_command_line(folder):
    from qrpo_lib.suite import entry

    options = {"beta": 0.1, "learning_rate": 3e-3, "num_train_epochs": 2, "per_device_train_batch_size": 8, "seed": 0}
    options |= {"logging_steps": 1, "report_to": "none", "disable_tqdm": "true"}
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    files = ["--model", "./small", "--train_dataset", "rows.jsonl", "--output_dir", "by-command"]
    assert entry.main(["train", *files, *given]) == 0
    (state,) = folder.glob("by-command/checkpoint-*/trainer_state.json")
    return losses(json.loads(state.read_text())["log_history"]), weights(folder / "by-command")


def in_python(folder):
    from qrpo_lib import QRPOConfig, QRPOTrainer

    settings = {"beta": 0.1, "learning_rate": 3e-3, "num_train_epochs": 2, "per_device_train_batch_size": 8, "seed": 0}
    config = QRPOConfig("in-python", **settings, logging_steps=1, report_to="none", disable_tqdm=True)
    trainer = QRPOTrainer("./small", config, train_dataset="rows.jsonl")
    trainer.train()
    trainer.save_model()
    return losses(trainer.state.log_history), weights(folder / "in-python")


def by_profile(folder):
    from qrpo_lib.profiles import settings as profiles
    from qrpo_lib.steps import fitting

    assert len((folder / "mine.toml").read_text().splitlines()) <= 12
    made = fitting.run(profiles.load(folder / "mine.toml"), "qrpo", 0)
    history = fitting.load_history(made)
    return history.loc[history["split"] == "train", "loss"].tolist(), weights(made / "policy")


def by_notebook(folder):
    import papermill

    notebook = Path(__file__).parents[2] / "notebooks" / "experiments" / "your_own.ipynb"
    parameters = {"model": "./small", "rows": "rows.jsonl", "test_rows": "test.jsonl", "reward": "my.py:reward"}
    parameters |= {"beta": 0.1, "learning_rate": 3e-3, "epochs": 2.0, "batch_size": 8, "max_new_tokens": 4}
    parameters |= {"figures": str(folder / "figures")}
    papermill.execute_notebook(
        notebook, folder / "out.ipynb", parameters, cwd=folder, progress_bar=False, start_timeout=600
    )
    return pd.read_csv(folder / "figures" / "your-own" / "training.csv")["loss"].tolist()


def losses(history):
    return [entry["loss"] for entry in history if "loss" in entry]


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_same_rows_give_the_same_numbers(folder):
    import torch

    expected, trained = in_python(folder)
    assert len(expected) == 6
    assert len(set(expected)) == 6
    for way in (by_command_line, by_profile):
        found, its_weights = way(folder)
        assert found == pytest.approx(expected, rel=1e-5), way.__name__
        for name, values in trained.items():
            torch.testing.assert_close(its_weights[name], values, rtol=0, atol=2e-5)
    assert by_notebook(folder) == pytest.approx(expected, rel=1e-5)
