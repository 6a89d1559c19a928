"""The profile gh200 from end to end at a small size: every stage in jobs of SLURM that ask for (made-up) GPUs.

A policy of the hub in bfloat16, the dataset's own schema, a classifier as reward, vLLM on the CPU, two processes that
train together with DeepSpeed.
"""

import json
import os
import sys
from pathlib import Path

import cluster as slurm_cluster
import miniature_gh200
import numpy as np
import pandas
import pytest
import torch
from small_llama import plain_log_prob
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.records import RECORD
from qrpo_lib.sampling import vllm_engine

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "tests" / "data" / "miniature_gh200.toml"
DEEPSPEED = ROOT / ".venv-deepspeed" / "bin" / "python"
NOTEBOOKS = ("initial_policy", "reference_sampling", "training", "tables", "alpaca_eval")
GPUS = 2


def profile_of(folder, vllm):
    """The profile's file, with what is of this machine; only the jobs that sample know where vLLM is."""
    path = folder / "miniature.toml"
    lines = [f'extends = "{PROFILE}"', "[dispatch]", f'python = "{DEEPSPEED}"']
    if vllm:
        for kind in ("sampling", "evaluation"):
            lines += [f"[dispatch.resources.{kind}.environment]", f'QRPO_VLLM_PYTHON = "{vllm}"']
    else:
        lines += ["[reference_sampling]", 'backend = "transformers"']
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """The folder of a project in which `qrpo reproduce` has run, and the data that it used."""
    if not DEEPSPEED.exists():
        pytest.skip("deepspeed is not installed: `make test` makes .venv-deepspeed, which has it")
    root, data = tmp_path_factory.mktemp("miniature"), tmp_path_factory.mktemp("hub")
    miniature_gh200.hub(data)
    (root / "notebooks").symlink_to(ROOT / "notebooks")
    unset = ("QRPO_RUNS", "QRPO_VLLM_PYTHON", "CUDA_VISIBLE_DEVICES")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {"QRPO_ROOT": str(root), "QRPO_DATA": str(data), "QRPO_TEST_DEVICES": str(root / "devices")}
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'cpu_deepspeed'}", "DS_ACCELERATOR": "cpu"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB, in place of a share of the machine's memory
    profile = profile_of(root, vllm_engine.vllm_python())
    command = [sys.executable, "-m", "qrpo_lib.suite.cli", "reproduce", "--profile", str(profile)]
    try:
        with slurm_cluster.running(gpus=GPUS) as started:
            started.run([*command, "--only", *NOTEBOOKS], environment)
    except slurm_cluster.Unavailable as reason:
        pytest.skip(f"no SLURM here: {reason}")
    return root, data


@pytest.fixture(scope="module")
def steps(reproduced):
    """Folders and records of the steps, by their names."""
    found = {}
    for path in sorted((reproduced[0] / "runs").glob(f"*-*/{RECORD}")):
        record = json.loads(path.read_text())
        found.setdefault(record["name"], []).append((path.parent, record))
    return found


def read(steps, name):
    """The one folder of that step."""
    ((folder, _),) = steps[name]
    return folder


def test_every_stage_is_a_job(steps):
    stages = {"initial_policy", "sft", "reference_sampling", "reference_evaluation", "reference_log_probs", "training"}
    # log-ratios beside: where the best checkpoint is the reference itself there are none
    stages |= {"evaluation", "report", "sample_answers", "alpaca_answers"}
    missing = [name for name in stages if name not in steps]
    assert not missing
    for name in stages:
        for folder, record in steps[name]:
            assert record["slurm_job"], folder


def test_processes_that_train_share_the_gpus_and_others_have_one_each(reproduced):
    """The job says no device of its (made-up) GPUs: a group finds its own, a task that works alone is left one."""
    of_kind = {}
    for line in (reproduced[0] / "devices").read_text().splitlines():
        job, process, devices = line.split()
        of_kind.setdefault(job.split("-")[1], set()).add((process, devices))
    for kind in ("sft", "reference_log_probs", "training"):
        assert of_kind[kind] == {("0", "none"), ("1", "none")}
    assert of_kind["sampling"] == {("0", "0"), ("1", "1")}


def test_policies_are_saved_in_bfloat16_and_the_last_and_the_best_are_kept(steps):
    training = read(steps, "training")
    history = pandas.read_csv(training / "history.csv")
    last = miniature_gh200.TRAIN // profiles.load(PROFILE).training.batch_size
    assert history["step"].max() == last
    kept = [training / "policy", *(training / "checkpoints").glob("*")]
    assert len(kept) <= 2
    for folder in (read(steps, "initial_policy"), read(steps, "sft"), *kept):
        weights = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").parameters()
        assert {one.dtype for one in weights} == {torch.bfloat16}
    answered = pandas.read_parquet(read(steps, "evaluation") / "evaluation.parquet")
    assert set(answered["step"]) == set(range(1, last + 1))


def test_training_starts_at_its_reference_and_leaves_it(steps):
    """DeepSpeed rounds products in another order than the pass over one model (`tests/training/test_groups.py`)."""
    history = pandas.read_csv(read(steps, "training") / "history.csv")
    validation = history[history["split"] == "validation"].set_index("step")
    for side in ("chosen", "rejected"):
        ratios = validation[f"{side}_log_ratio"]
        assert ratios.loc[0] == pytest.approx(0, abs=0.02)
        assert abs(ratios.iloc[-1]) > 0.02
    assert np.isfinite(history["loss"]).all()


def test_answers_are_the_policies_own_and_their_rewards_the_classifiers(reproduced, steps):
    """Log-probabilities by a plain forward pass, rewards by the classifier as it is."""
    (training, _), (reward, tokenizer) = steps["training"][0], classifier(reproduced[1])
    answers = pandas.read_parquet(read(steps, "evaluation") / "evaluation.parquet")
    answers = answers[answers["step"] == answers["step"].max()]
    prompts = pandas.read_parquet(read(steps, "chat_data") / "prompts.parquet").set_index("prompt_id")["prompt"]
    model = AutoModelForCausalLM.from_pretrained(training / "policy", dtype=torch.float32).eval()
    asking = AutoTokenizer.from_pretrained(training / "policy")
    for row in answers.itertuples():
        chat = [{"role": "user", "content": prompts[row.prompt_id]}]
        ids = asking.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            expected = plain_log_prob(model, list(ids), list(row.token_ids))
            whole = tokenizer.apply_chat_template(
                [*chat, {"role": "assistant", "content": row.text}], return_dict=False
            )
            score = reward(torch.tensor([whole])).logits.item()
        assert row.logp == pytest.approx(float(expected), abs=0.03 * len(row.token_ids))  # vLLM's is in bfloat16
        assert row.reward == pytest.approx(score, abs=0.02 * abs(score) + 0.02)


def classifier(data):
    folder = data / miniature_gh200.REWARD
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def test_tables_are_published(reproduced):
    figures = reproduced[0] / "figures"
    assert any(path.suffix == ".csv" for path in figures.rglob("*"))
