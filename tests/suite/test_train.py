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
        (("--references", "4"), "--references is of references that are sampled, for which --reward is missing"),
        (("--engine", "vllm", "--max_new_tokens", "8"), "--max_new_tokens, --engine is of references"),
        (("--eval_strategy", "steps"), "eval_strategy asks for evaluations, and there are no rows for them"),
        (("--lora_rank", "0"), "--lora_rank must be at least 1"),
        (("--beta", "x"), "argument --beta: invalid float value: 'x'"),
        (("--learning_rate", "-1"), "learning_rate must be a number of at least 0"),
        (("--report_to", "neptune_ai"), "There is no tracker 'neptune_ai'"),
    ],
)
def test_what_cannot_be_used_ends_in_a_sentence(more, said, folder, capsys):
    assert train.main(command(*more)) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("qrpo train: ")
    assert said in error


def test_a_library_that_there_is_not_is_refused_before_work(folder, capsys, monkeypatch):
    monkeypatch.setenv("QRPO_PRODUCTS", "mkl")
    assert train.main(command("--reward", "my.py:reward")) == 2
    said = "qrpo train: QRPO_PRODUCTS is 'mkl': set it to torch or onednn, or unset it to have it measured."
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert not (folder / "out").exists()


@pytest.fixture
def whole_rows(folder):
    rows = [
        {"prompt": f"t{4 + i}", "completion": "t6", "reward": 1.0, "reference_rewards": [0.5, 2.0]} for i in range(8)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_package_that_is_missing_is_named(whole_rows, capsys, monkeypatch):
    from transformers import trainer_optimizer

    monkeypatch.setattr(trainer_optimizer, "is_bitsandbytes_available", lambda: False)
    assert train.main(command("--optim", "adamw_bnb_8bit")) == 2
    assert "need to install `bitsandbytes`" in capsys.readouterr().err


def test_training_goes_on_from_the_checkpoint_that_is_named(whole_rows, capsys):
    assert train.main(command("--save_strategy", "steps", "--save_steps", "1")) == 0
    assert train.main(command("--resume_from_checkpoint", "out/checkpoint-9")) == 2
    assert "There is no checkpoint out/checkpoint-9" in capsys.readouterr().err
    seen = []
    from qrpo_lib import QRPOTrainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QRPOTrainer, "train", lambda self, resume_from_checkpoint: seen.append(resume_from_checkpoint))
        for more in ((), ("--resume_from_checkpoint", "out/checkpoint-1")):
            assert train.main(command(*more)) == 0
    assert [str(one) for one in seen] == ["out/checkpoint-2", "out/checkpoint-1"]
