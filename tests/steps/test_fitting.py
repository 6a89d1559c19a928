"""The six settings of the pairs, each to the end of training at the smallest size, with the suite's own task."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qrpo_lib.models import chat_template
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import files, records
from qrpo_lib.steps import (
    dataset_pairs,
    fitting,
    initial_policy,
    reference_log_probs,
    reference_policy,
    reference_sampling,
    shifts,
    training_pairs,
)
from qrpo_lib.steps import pairs as preferences
from qrpo_lib.tasks import registry as tasks
from qrpo_lib.tasks import topics
from qrpo_lib.training import reference_logps, suite_trainer

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml")
SETTINGS = [prefix + source for prefix in ("", "sft-") for source in shifts.SOURCES]
pytestmark = pytest.mark.usefixtures("shared_runs")


def in_setting(setting, **changes):
    return PROFILE.with_training(setting=setting, **changes)


def built(setting, **changes):
    profile = in_setting(setting, **changes)
    policy, completions = reference_policy.run(profile), reference_sampling.run(profile)
    reference_log_probs.run(profile)
    return training_pairs.build(profile, policy, completions), reference_sampling.load(completions)


@pytest.mark.parametrize("setting", SETTINGS)
def test_pairs_of_every_setting(setting):
    (train, validation), frame = built(setting)
    assert (train.report["prompts"], validation.report["prompts"]) == (32, 8)
    profile, tokenizer = in_setting(setting), AutoTokenizer.from_pretrained(initial_policy.run(PROFILE))
    texts = {prompt.id: prompt.text for prompt in tasks.of(PROFILE.task).prompts(PROFILE.seed)}
    assert len(train.rows) + train.report["ties"] == 32
    written = {one.prompt_id: one for one in tasks.of(PROFILE.task).demonstrations(PROFILE.seed)}
    for row in train.rows:
        of_prompt = frame[frame["prompt_id"] == row["prompt_id"]]
        assert row["prompt_ids"] == chat_template.prompt_ids(tokenizer, texts[row["prompt_id"]])
        np.testing.assert_array_equal(row["ref_rewards"], of_prompt["reward"][of_prompt["role"] == "reference"])
        candidates = of_prompt[of_prompt["role"] == "candidate"]
        for side in ("chosen", "rejected"):
            text = tokenizer.decode(row[f"{side}_ids"], skip_special_tokens=True)
            reward = topics.TopicReward().score([texts[row["prompt_id"]]], [text])[0]
            assert row[f"{side}_reward"] == reward
            if setting.endswith("offline"):
                assert text == getattr(written[row["prompt_id"]], side)
                assert row[f"{side}_ids"][-1] == tokenizer.eos_token_id
                assert row[f"{side}_ids"].count(tokenizer.eos_token_id) == 1
            else:
                assert row[f"{side}_ids"] in candidates["token_ids"].map(list).tolist()
        if setting.endswith("best"):
            assert row["chosen_reward"] == candidates["reward"].max()
            assert row["rejected_reward"] == candidates["reward"].min()
    assert profile.training.setting == setting


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_training_starts_at_the_reference_and_reports_its_pairs(setting):
    profile = in_setting(setting)
    made = fitting.run(profile, "qrpo", 0)
    report = json.loads((made / fitting.PAIRS).read_text())
    assert report["setting"] == setting
    assert report["train"]["pairs"] + report["train"]["ties"] == 32
    history = fitting.load_history(made)
    start = history[(history["step"] == 0) & (history["split"] == "validation")].iloc[0]
    # the policy at step 0 is the reference policy: the log-ratio is zero
    assert start["chosen_log_ratio"] == pytest.approx(0, abs=1e-4)
    assert start["rejected_log_ratio"] == pytest.approx(0, abs=1e-4)
    assert list(fitting.checkpoints(made)) == [2, 4]


def test_what_a_training_depends_on():
    steps = {setting: fitting.step(in_setting(setting), "qrpo", 0) for setting in SETTINGS}
    assert len({step.key for step in steps.values()}) == 6
    for setting, step in steps.items():
        policy = "sft" if setting.startswith("sft-") else "initial_policy"
        expected = [policy, "reference_sampling"] + ["dataset_pairs"] * setting.endswith("offline")
        assert [source.name for source in step.inputs] == [*expected, "reference_log_probs"]


def test_fine_tuning_moves_the_policy_to_the_chosen_completions():
    profile = in_setting("sft-offline")
    tuned, initial = reference_policy.run(profile), initial_policy.run(profile)
    tokenizer = AutoTokenizer.from_pretrained(initial)
    pairs = dataset_pairs.load(dataset_pairs.run(profile))
    usable = dataset_pairs.with_token_ids(pairs[pairs["split"] == "train"], tokenizer)
    rows = preferences.build_pairs(
        usable, {name: [0.0] for name in usable["prompt_id"]}, setting="offline", seed=0
    ).rows
    logps = [
        reference_logps.log_probs(policy, tokenizer, rows, micro_batch_size=32)["ref_chosen_logps"].mean()
        for policy in (initial, tuned)
    ]
    assert logps[1] > logps[0] + 0.2  # 0.65 nats in four steps


class Killed(Exception):
    pass


def contents(folder):
    return {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != records.RECORD
    }


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint(smallest_policy, tmp_path, monkeypatch):
    """Ends with the same bytes, saves no policy twice that is whole, and keeps nothing of the trainer."""
    profile, saved = PROFILE, []
    plain = files.seal_folder

    def spy(path):
        if path.parent.name == fitting.CHECKPOINTS:
            saved.append(int(path.name))
        plain(path)

    monkeypatch.setattr(files, "seal_folder", spy)
    folders = []
    for name in ("whole", "killed"):
        monkeypatch.setenv("QRPO_RUNS", str(tmp_path / name))
        link = initial_policy.step(profile).folder
        link.parent.mkdir(parents=True)
        link.symlink_to(smallest_policy)
        saved.clear()
        if name == "killed":
            step = fitting.step(profile, "qrpo", 0)
            with monkeypatch.context() as patch:  # while the second policy is saved
                patch.setattr(files, "seal_folder", lambda path: _raise() if path.name == "4" else spy(path))
                with pytest.raises(Killed):
                    fitting.run(profile, "qrpo", 0)
            assert [path.name for path in (step.partial / ".trainer").glob("checkpoint-*")] == ["checkpoint-2"]
            with monkeypatch.context() as patch:  # then when training is over
                patch.setattr(suite_trainer, "Fitted", lambda *trained: _raise())
                with pytest.raises(Killed):
                    fitting.run(profile, "qrpo", 0)
        folders.append(fitting.run(profile, "qrpo", 0))
        assert saved == [2, 4]
    assert contents(folders[0]) == contents(folders[1])
    names = {str(path) for path in contents(folders[1])}
    assert {name for name in names if name.startswith("checkpoints/")} == {
        f"checkpoints/2/{file}" for file in ("config.json", "generation_config.json", "model.safetensors")
    }
    assert not any("checkpoint-" in name or ".trainer" in name or "sealed" in name for name in names)


@pytest.mark.slow
def test_a_damaged_policy_of_a_checkpoint_takes_training_back(smallest_policy, tmp_path, monkeypatch):
    profile = PROFILE
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path))
    (tmp_path / smallest_policy.name).symlink_to(smallest_policy)
    step = fitting.step(profile, "dpo", 0)
    with monkeypatch.context() as patch:
        patch.setattr(suite_trainer, "Fitted", lambda *trained: _raise())
        with pytest.raises(Killed):
            fitting.run(profile, "dpo", 0)
    weights = step.partial / fitting.CHECKPOINTS / "2" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert (fitting.checkpoints(fitting.run(profile, "dpo", 0))[2] / "model.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_checkpoints_are_saved_in_the_type_of_the_policy(tmp_path):
    """bfloat16 where it trains in that precision; the trained weights stay float32 and are not touched."""
    path, base = tmp_path / "half.toml", Path(__file__).parents[1] / "data" / "smallest.toml"
    path.write_text(f'extends = "{base}"\n[training]\nprecision = "bfloat16"\n')
    for profile, weights in ((PROFILE, torch.float32), (profiles.load(path), torch.bfloat16)):
        for policy in fitting.checkpoints(fitting.run(profile, "qrpo", 0)).values():
            assert {one.dtype for one in safetensors.torch.load_file(policy / "model.safetensors").values()} == {
                weights
            }
            assert json.loads((policy / "config.json").read_text())["dtype"] == str(weights).removeprefix("torch.")


def _raise():
    raise Killed


def test_runs_of_one_process_share_their_pairs(monkeypatch):
    profile = in_setting("off-policy-best")
    policy = reference_policy.run(profile)
    reference_sampling.run(profile)
    built = training_pairs.of(profile)
    assert training_pairs.of(in_setting("off-policy-best", **{"qrpo.beta": 0.7})) is built
    fresh = training_pairs.build(profile, policy, reference_sampling.step(profile).folder)
    assert [split.rows for split in built] == [split.rows for split in fresh]
    other = training_pairs.of(in_setting("off-policy-random"))
    assert other[0].rows != built[0].rows


def test_a_dropped_batch_and_checkpoints_by_steps_reach_the_record():
    """32 train prompts in batches of 6: five whole ones; checkpoints after 2, 4 and the last."""
    profile = in_setting("off-policy-best", ties="keep", batch_size=6, micro_batch_size=6, last_batch="drop")
    folder = fitting.run(profile.with_training(checkpoint_every=2), "qrpo", 0)
    assert (
        list(fitting.checkpoints(folder)) == fitting.reached(profile.with_training(checkpoint_every=2), 5) == [2, 4, 5]
    )
    assert fitting.load_history(folder)["step"].max() == 5
    kept = fitting.step(profile.with_training(last_batch="keep"), "qrpo", 0)
    assert kept.key != fitting.step(profile, "qrpo", 0).key


def test_reference_log_probabilities_are_a_step_that_trainings_share(monkeypatch):
    """Once for all algorithms, betas and seeds on the same pairs; trainings compute none themselves."""
    profile = in_setting("off-policy-best")
    trainings = [fitting.step(in_setting("off-policy-best", **{f"{name}.beta": 0.7}), name, seed)
                 for name, seed in (("qrpo", 0), ("dpo", 1))]  # fmt: skip
    assert {step.inputs[-1].key for step in trainings} == {reference_log_probs.step(profile).key}
    others = [in_setting("off-policy-random"), in_setting("off-policy-best", max_tokens=20)]
    assert len({reference_log_probs.step(one).key for one in (profile, *others)}) == 3
    reference_log_probs.run(profile)
    with monkeypatch.context() as patch:
        patch.setattr(reference_logps, "log_probs", lambda *a, **k: _raise())
        train, validation = reference_log_probs.added(profile, training_pairs.of(profile))
        fitting.run(in_setting("off-policy-best", **{"qrpo.beta": 0.7}), "qrpo", 0)
    policy = AutoModelForCausalLM.from_pretrained(reference_policy.run(profile)).eval()
    for row in (train[0], train[-1], validation[-1]):
        for side in ("chosen", "rejected"):
            ids, start = row["prompt_ids"] + row[f"{side}_ids"], len(row["prompt_ids"])
            with torch.no_grad():
                logits = policy(torch.tensor([ids])).logits[0].log_softmax(-1)
            plain = sum(float(logits[start + i - 1, token]) for i, token in enumerate(ids[start:]))
            assert row[f"ref_{side}_logps"] == pytest.approx(plain, rel=1e-4)
