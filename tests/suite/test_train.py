"""`qrpo train`: the same numbers as in Python, and one sentence for what cannot be used."""

import json

import pytest

from qrpo_lib.suite import entry, train


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small model, rows without rewards, and a reward."""
    from small_llama import llama, made_up_tokenizer

    monkeypatch.chdir(tmp_path)
    llama(max_position_embeddings=64).save_pretrained("small")
    made_up_tokenizer().save_pretrained("small")
    rows = [{"prompt": f"t{4 + i} t5", "completion": " t6" * (1 + i % 3)} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "my.py").write_text("def reward(prompts, completions):\n    return [len(c) for c in completions]\n")
    return tmp_path


def command(*more):
    settings = ["--beta", "0.2", "--learning_rate", "1e-3", "--per_device_train_batch_size", "4"]
    settings += ["--logging_steps", "1", "--report_to", "none", "--disable_tqdm", "true"]
    return ["--model", "small", "--train_dataset", "rows.jsonl", "--output_dir", "out", *settings, *more]


@pytest.mark.slow
def test_the_command_trains_as_python_does(folder):
    from safetensors.torch import load_file

    from qrpo_lib import QRPOConfig, QRPOTrainer, SampledReferences

    sampled = ["--reward", "my.py:reward", "--references", "3", "--max_new_tokens", "5"]
    assert entry.main(["train", *command(*sampled)]) == 0
    settings = {"beta": 0.2, "learning_rate": 1e-3, "per_device_train_batch_size": 4, "report_to": "none"}
    references = SampledReferences("my.py:reward", 3, max_new_tokens=5, seed=42)
    trainer = QRPOTrainer(
        "small", QRPOConfig("python", **settings), train_dataset="rows.jsonl", reference_rewards=references
    )
    trainer.train()
    trainer.save_model()
    by_command, by_python = (load_file(folder / name / "model.safetensors") for name in ("out", "python"))
    assert all((by_command[name] == by_python[name]).all() for name in by_python)
    assert "Quantile Reward Policy Optimization" in (folder / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "SampledReferences"),
        (("--reward", "my.py:nothing"), "no function 'nothing'"),
        (("--reward", "my.py:reward", "--reference_rewards", "x.jsonl"), "not both"),
        (("--loss_type", "ppo"), "no loss_type 'ppo'"),
        (("--model", "./nowhere"), "there is no such folder"),
        (("--betta", "0.1"), "There is no option --betta 0.1"),
        (("--reward", "my.py:reward", "--engine", "sglang"), "no sampling backend 'sglang'"),
    ],
)
def test_what_cannot_be_used_ends_in_a_sentence(more, said, folder, capsys):
    assert train.main(command(*more)) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("qrpo train: ")
    assert said in error
