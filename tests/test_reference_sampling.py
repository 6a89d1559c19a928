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

from qrpo_lib import profiles, reference_sampling, tasks, topics

PROFILE = Path(__file__).parent / "data" / "smallest.toml"


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
        "import sys; from qrpo_lib import reference_sampling; reference_sampling._PROMPTS_IN_A_SHARD = 8;"
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
    while not list(folder.glob(".shards/*/completions-*")):
        assert workers[0].poll() is None, "it ended before it could be killed"
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
