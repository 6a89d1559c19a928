"""Reference sampling by one process, by several and by some that are killed: the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import reference_sampling
from qrpo_lib.tasks import registry as tasks
from qrpo_lib.tasks import topics

PROFILE = Path(__file__).parents[1] / "data" / "smallest.toml"


@pytest.fixture
def folder(smallest_policy, runs_folder):
    """Run folders in which only the initial policy is made."""
    return linked(smallest_policy, runs_folder)


def linked(policy, folder):
    folder.mkdir()
    (folder / policy.name).symlink_to(policy)
    return folder


def worker(folder):
    code = (
        "import sys; from qrpo_lib.steps import reference_sampling; reference_sampling._PROMPTS_IN_A_SHARD = 8;"
        f"reference_sampling.main(['--profile', {str(PROFILE)!r}])"
    )
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"QRPO_RUNS": str(folder)})


def test_columns_roles_and_seeds(folder):
    profile = profiles.load(PROFILE)
    made = reference_sampling.run(profile)
    frame = reference_sampling.load(made)
    prompts = tasks.of(profile.task).prompts(profile.seed)
    sampled = profile.reference_sampling.completions + profile.reference_sampling.ref_rewards
    assert list(frame["prompt_id"]) == [prompt.id for prompt in prompts for _ in range(sampled)]
    assert list(frame["sample_index"]) == list(range(sampled)) * len(prompts)
    assert set(frame["role"][frame["sample_index"] < 3]) == {"candidate"}
    assert set(frame["role"][frame["sample_index"] >= 3]) == {"reference"}
    expected = topics.TopicReward().score(frame["prompt"], frame["text"])
    np.testing.assert_array_equal(frame["reward"], expected)
    seeds = json.loads((made / reference_sampling.SEEDS).read_text())
    assert seeds == {"backend": "transformers", "prompts_in_a_shard": 64, "seeds": [0]}
    assert {path.name for path in made.iterdir()} == {"completions.parquet", "seeds.json", "record.json"}


@pytest.mark.slow
def test_several_processes_of_which_one_is_killed_give_the_bytes_of_one(smallest_policy, folder, tmp_path, monkeypatch):
    workers = [worker(folder) for _ in range(3)]
    while not list(folder.glob(".shards/*/completions-*")) and workers[0].poll() is None:
        time.sleep(0.01)
    workers[0].send_signal(signal.SIGKILL)
    assert [process.wait() for process in workers[1:]] == [0, 0]

    monkeypatch.setenv("QRPO_RUNS", str(linked(smallest_policy, tmp_path / "alone")))
    monkeypatch.setattr(reference_sampling, "_PROMPTS_IN_A_SHARD", 8)
    first, (second,) = reference_sampling.run(profiles.load(PROFILE)), folder.glob("reference_sampling-*")
    assert first.name == second.name
    for name in (reference_sampling.COMPLETIONS, reference_sampling.SEEDS):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert len(json.loads((first / reference_sampling.SEEDS).read_text())["seeds"]) == 7
    assert not list(folder.glob(".shards/*"))


def test_the_setting_decides_whose_completions_they_are():
    profile = profiles.load(PROFILE)
    steps = {
        setting: reference_sampling.step(profile.with_training(setting=setting))
        for setting in ("offline", "off-policy-best", "sft-offline", "sft-off-policy-random")
    }
    assert steps["offline"].key == steps["off-policy-best"].key
    assert steps["sft-offline"].key == steps["sft-off-policy-random"].key
    assert steps["offline"].key != steps["sft-offline"].key
    assert [step.name for step in steps["sft-offline"].inputs] == ["sft"]
    assert [step.name for step in steps["offline"].inputs] == ["initial_policy"]


def test_neither_writer_nor_reader_needs_the_whole_file(folder, monkeypatch):
    """At the paper's scale it is tens of gigabytes, most of it texts and token ids of pure references."""
    import pyarrow.parquet as pq

    monkeypatch.setattr(reference_sampling, "_PROMPTS_IN_A_SHARD", 8)
    profile = profiles.load(PROFILE)
    made = reference_sampling.run(profile)
    groups = pq.ParquetFile(made / reference_sampling.COMPLETIONS).metadata
    each = profile.reference_sampling.completions + profile.reference_sampling.ref_rewards
    prompts = len(tasks.of(profile.task).prompts(profile.seed))
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sizes == [each * min(8, prompts - start) for start in range(0, prompts, 8)]

    whole = reference_sampling.load(made)
    some = reference_sampling.load(made, ["prompt_id", "token_ids"], role="candidate")
    expected = whole.loc[whole["role"] == "candidate", ["prompt_id", "token_ids"]].reset_index(drop=True)
    assert list(some.columns) == ["prompt_id", "token_ids"]
    assert some["prompt_id"].equals(expected["prompt_id"])
    assert some["token_ids"].map(list).equals(expected["token_ids"].map(list))
    references = whole[whole["role"] == "reference"].groupby("prompt_id")["reward"].apply(list)
    assert reference_sampling.reference_rewards(made) == references.to_dict()
