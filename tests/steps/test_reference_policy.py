"""Fine-tuning the policy first: on which sequences, and by several processes."""

from pathlib import Path

import pandas
import pytest
import safetensors.torch
import torch
import two_processes
from transformers import AutoTokenizer

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import records
from qrpo_lib.steps import (
    initial_policy,
    reference_policy,
)
from qrpo_lib.tasks import registry as tasks

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml")
pytestmark = pytest.mark.usefixtures("shared_runs")


def in_setting(setting, **changes):
    return PROFILE.with_training(setting=setting, **changes)


def test_fine_tuning_is_on_prompt_and_chosen_completion():
    profile = in_setting("sft-offline")
    tokenizer = AutoTokenizer.from_pretrained(initial_policy.run(PROFILE))
    data, counts = reference_policy.sequences(profile, tokenizer)
    assert counts == {"too_long": 0, "end_of_sequence_written_out": 0, "sequences": 32}
    train = [prompt for prompt in tasks.of(PROFILE.task).prompts(0) if prompt.split == "train"]
    written = {one.prompt_id: one.chosen for one in tasks.of(PROFILE.task).demonstrations(0)}
    for prompt, ids in zip(train, data, strict=True):
        turns = [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": written[prompt.id]}]
        assert ids == tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    shortest = min(map(len, data))
    _, counts = reference_policy.sequences(in_setting("sft-offline", max_tokens=shortest), tokenizer)
    assert counts["sequences"] == sum(len(ids) <= shortest for ids in data)
    assert counts["too_long"] == 32 - counts["sequences"]


@pytest.mark.slow
def test_fine_tuning_by_two_processes_is_that_of_one_and_written_once(tmp_path):
    """As a cluster's group of tasks runs the step: a batch as 2 processes x half."""
    path = tmp_path / "smallest.toml"
    base, half = Path(__file__).parents[1] / "data" / "smallest.toml", PROFILE.sft.batch_size // 2
    path.write_text(f'extends = "{base}"\n[sft]\nmicro_batch_size = {half}\n[training]\nsetting = "sft-offline"\n')
    profile = profiles.load(path)
    one = reference_policy.run(profile).rename(tmp_path / "one")
    code = "from qrpo_lib.profiles import settings; from qrpo_lib.steps import reference_policy\n"
    code += f"reference_policy.run(settings.load({str(path)!r}))"
    (tmp_path / "tune.py").write_text(code)
    two_processes.run(tmp_path / "tune.py")
    two = reference_policy.step(profile).folder
    records.check(two)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    weights = [safetensors.torch.load_file(folder / "model.safetensors") for folder in (one, two)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=2e-5)
    histories = [pandas.read_csv(folder / "history.csv") for folder in (one, two)]
    pandas.testing.assert_frame_equal(*histories, rtol=1e-4, atol=1e-5)
