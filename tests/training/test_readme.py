"""The README's example of training on data of one's own, as it is printed but for the model's name and the rows."""

import re
from pathlib import Path

import torch
from small_llama import llama, made_up_tokenizer

from qrpo_lib.runs import files

README = Path(files.__file__).parents[2] / "README.md"


def test_the_example_for_own_data_trains(tmp_path, monkeypatch):
    section = README.read_text(encoding="utf-8").split("## On your own data")[1].split("\n## ")[0]
    code = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    assert len(code.splitlines()) <= 10
    model = llama()
    model.save_pretrained(tmp_path / "my-model")
    made_up_tokenizer().save_pretrained(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    mine = [(f"w{i} w{i + 1} ", f"w{i + 2} w{i + 3} ", float(i % 2)) for i in range(2, 42)]
    assert re.search(r'"my-model"', code)
    names = {"mine": mine}
    exec(code.replace('"my-model"', '"./my-model"'), names)
    trained = dict(names["trainer"].model.named_parameters())
    assert all(torch.isfinite(weight).all() for weight in trained.values())
    before = dict(model.named_parameters())
    assert any(not torch.equal(weight.cpu(), before[name]) for name, weight in trained.items())
