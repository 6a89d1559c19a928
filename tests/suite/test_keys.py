"""The keys of the suite's own steps: which changes make a result anew and which do not, each made and checked."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from qrpo_lib.models import chat_template, hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.code_version import Package, entry_names, own_package
from qrpo_lib.sampling import engines, vllm_engine
from qrpo_lib.steps import (
    checkpoint_evaluation,
    dataset_pairs,
    fitting,
    initial_policy,
    log_ratios,
    reference_evaluation,
    reference_log_probs,
    reference_policy,
    reference_sampling,
    rounds,
)
from qrpo_lib.suite import notebooks as suite
from qrpo_lib.tasks import registry as tasks

PROJECT = Path(__file__).parents[2]
LEETCODE = profiles.LeetCodeTask.model_validate(
    {
        "name": "leetcode",
        "dataset": "newfacade/LeetCodeDataset",
        "revision": "0" * 40,
        "train_split": "train",
        "test_split": "test",
        "tokenizer": "an/tokenizer",
        "tokenizer_revision": "1" * 40,
        "max_tokens": 100,
        "min_tests": 20,
        "max_tests": 100,
        "sandbox": {"seconds_per_test": 1.0, "memory_mb": 1024},
    }
)
CHAT = profiles.ChatDataTask.model_validate(
    {
        "name": "magpieair",
        "dataset": "a/dataset",
        "revision": "0" * 40,
        "train_split": "train",
        "test_split": "test",
        "tokenizer": "an/tokenizer",
        "tokenizer_revision": "1" * 40,
        "max_tokens": 100,
        "reward": {"kind": "relevance"},
    }
)
STEPS = ("initial", "sft", "sampling", "pairs", "start", "log_probs", "qrpo", "dpo", "evaluation", "log_ratios")
STEPS += ("rounds", "chat_data", "leetcode_data")
OTHERS = ("smollm2", "hub", "smol_sampling", "smol_code_sampling", "code_sampling", "vllm_sampling")


@cache
def entries(kind: str) -> list[str]:
    """The entry points of a kind of step, in tiny's chat arm unless its name says otherwise."""
    chat, code, smol = profiles.load("tiny", "chat"), profiles.load("tiny", "code"), profiles.load("smol", "chat")
    offline = chat.with_training(setting="sft-offline")
    step = {
        "initial": lambda: initial_policy.step(chat),
        "sft": lambda: reference_policy.step(offline),
        "sampling": lambda: reference_sampling.step(chat),
        "pairs": lambda: dataset_pairs.step(offline),
        "start": lambda: reference_evaluation.step(chat, 0, "selection"),
        "log_probs": lambda: reference_log_probs.step(chat),
        "qrpo": lambda: fitting.step(chat, "qrpo", 0),
        "dpo": lambda: fitting.step(chat, "dpo", 0),
        "evaluation": lambda: checkpoint_evaluation.step(chat, "qrpo", 0),
        "log_ratios": lambda: log_ratios.step(chat, "qrpo", 0, 14, "reporting"),
        "rounds": lambda: rounds.step(chat, rounds.Plan(), 0, 1),
        "chat_data": lambda: tasks.of(CHAT).data(),
        "leetcode_data": lambda: tasks.of(LEETCODE).data(),
        "smollm2": lambda: initial_policy.step(smol),
        "hub": lambda: initial_policy.step(profiles.load("gh200")),
        "smol_sampling": lambda: reference_sampling.step(smol),
        "smol_code_sampling": lambda: reference_sampling.step(profiles.load("smol", "code")),
        "code_sampling": lambda: reference_sampling.step(code),
    }
    if kind == "vllm_sampling":
        others = set(entries("sampling")) - set(entry_names(engines.code("transformers")))
        return sorted({*others, *entry_names(engines.code("vllm"))})
    return entry_names(step[kind]().code)


@cache
def version_now(kind: str) -> str:
    return own_package().version(entries(kind))


def changed(name: str, old: str, new: str, tmp_path: Path) -> set[str]:
    """The kinds of step whose code's version changes when `old` becomes `new` in the file of that name."""
    root = tmp_path / own_package().name
    shutil.copytree(own_package().root, root, ignore=shutil.ignore_patterns("__pycache__"))
    path = Package(root).file(name)
    source = path.read_text(encoding="utf-8")
    assert source.count(old) >= 1, f"{name} has no {old!r}"
    path.write_text(source.replace(old, new, 1), encoding="utf-8")
    after = Package(root)
    return {kind for kind in (*STEPS, *OTHERS) if version_now(kind) != after.version(entries(kind))}


ONLINE = {"start", "evaluation"}
SAMPLED = {"sampling", "smol_sampling", "smol_code_sampling", "code_sampling"}
WITH_PROMPTS = (
    SAMPLED
    | ONLINE
    | {"log_probs", "qrpo", "dpo", "log_ratios", "rounds", "sft", "chat_data", "leetcode_data", "initial"}
    | {"vllm_sampling"}
)
REWARDED = {"sampling", "vllm_sampling", "pairs", "sft", "rounds"} | ONLINE  # by the topics, which rank their pairs
# File, what is there, what becomes of it, and which kinds of step are made anew.
TABLE = [
    # a loss: its algorithm's steps alone
    ("losses.py", "return of_rejected\n", "return 0 * of_rejected\n", {"qrpo", "rounds"}),
    ("losses.py", "def dpo(", "def unused():\n    return 1\n\n\ndef dpo(", set()),
    ("transforms.py", "must be", "has to be", set()),
    ("policy_trainer.py", ", DPOTrainer):\n", ", DPOTrainer):\n    x = 1\n", {"qrpo", "dpo", "rounds"}),
    ("fine_tuning.py", ", SFTTrainer):\n", ", SFTTrainer):\n    x = 1\n", {"initial", "sft"}),
    # a task: its own steps alone
    ("topics.py", "_bonus: float = 0.0) -> float:\n", "_bonus: float = 0.0) -> float:\n    print()\n", REWARDED),
    ("expressions.py", "str]:\n", "str]:\n    count += 0\n", {"code_sampling"}),
    ("problems.py", "_EXAMPLE = 5", "_EXAMPLE = 6", {"smol_code_sampling"}),
    ("leetcode.py", "INITIALISATION = '''", "INITIALISATION = '''import this\n", {"leetcode_data"}),
    ("hub_task.py", "HALVES_SEED = 43", "HALVES_SEED = 44", {"chat_data", "leetcode_data"}),
    ("dataset_pairs.py", 'split != "reporting"', 'split == "reporting"', {"pairs"}),
    # a reward, and what judges answers in processes of its own
    ("worker.py", "_MAX_DEPTH = ", "_MAX_DEPTH = 1 + ", {"code_sampling", "smol_code_sampling", "leetcode_data"}),
    ("rewards/models.py", "_BATCH_SIZE = 64", "_BATCH_SIZE = 65", {"smol_sampling"}),
    # data files
    ("smol_prompts.jsonl", '"prompt"', ' "prompt"', {"smol_sampling"}),
    ("smol_problems.jsonl", '"statement"', ' "statement"', {"smol_code_sampling"}),
    ("published.json", "{", "{ ", set()),
    ("site.css", "{", "{ ", set()),
    # engines
    ("vllm_worker.py", "import json", "import json\nprint(1)", {"vllm_sampling"}),
    ("transformers_engine.py", "_COMPACT_AT = 0.1", "_COMPACT_AT = 0.2", SAMPLED | ONLINE | {"rounds"}),
    # policies
    ("wheels.py", "GenerationConfig(eos_token_id=end", "GenerationConfig(bos_token_id=end", {"smollm2"}),
    ("initial_policy.py", "tokenizer.pad_token = settings", "tokenizer.eos_token = settings", {"hub"}),
    ("tiny.py", "3 * settings.hidden_size", "4 * settings.hidden_size", {"initial"}),
    ("reference_policy.py", "len(ids) > limit", "len(ids) >= limit", {"sft"}),
    # the rest
    ("conversations.py", "2024, 7, 26", "2024, 7, 27", WITH_PROMPTS | {"hub"}),  # a hub policy's template is checked
    ("scoring.py", "_IN_A_SHARD = 4096", "_IN_A_SHARD = 4095", SAMPLED | ONLINE | {"pairs", "vllm_sampling"}),
    ("evaluation.py", "seed * 100_003", "seed * 100_004", ONLINE),
    ("log_ratios.py", "dict.fromkeys(answered)", "dict.fromkeys(answered[:])", {"log_ratios"}),
    ("settings.py", "def names()", "def other_names():\n    return 1\n\n\ndef names()", set()),
    ("folders.py", "def lock(", "def other_lock():\n    return 1\n\n\ndef lock(", set()),
]


@pytest.mark.parametrize(("name", "old", "new", "expected"), TABLE)
def test_a_change_of_code_or_data_makes_anew_what_it_determines(name, old, new, expected, tmp_path):
    assert changed(name, old, new, tmp_path) == expected


def test_published_numbers_count_for_the_notebooks_that_show_them(tmp_path):
    notebooks = {job.path: job.step.source for job in suite.jobs("tiny")}
    root = tmp_path / own_package().name
    shutil.copytree(own_package().root, root, ignore=shutil.ignore_patterns("__pycache__"))
    path = Package(root).file("published.json")
    path.write_text(path.read_text().replace("{", "{ ", 1))
    before, after = own_package(), Package(root)
    anew = {name for name, source in notebooks.items() if before.version([], source) != after.version([], source)}
    assert "results/tables" in anew
    assert not any(name.startswith("theory/") for name in anew)


def keys(profile: profiles.Profile) -> dict[str, str]:
    step = checkpoint_evaluation.step(profile, "qrpo", 0)
    made, waiting = {}, [step]
    while waiting:
        one = waiting.pop()
        made[one.name] = one.key
        waiting += one.inputs
    return made


PAIRS = "reference_log_probs"
BASE = """extends = "tiny"
"""
SETTINGS = [
    ("evaluation.max_mean_length", "[evaluation]\nmax_mean_length = 9.0", set()),
    ("another algorithm's loss", "[training.dpo]\nbeta = 0.7", set()),
    ("where steps are computed", '[dispatch]\nwhere = "processes"', set()),
    ("which models are trained", "[experiment]\nseeds = [7]", set()),
    ("what is reported", "[evaluation]\nreporting_repeats = 5", set()),
    ("which checkpoints are kept", '[evaluation]\nkept = "all"', set()),
    ("which pairs are made", '[training]\nties = "keep"', {"training", "evaluation", PAIRS}),
    ("the algorithm's own loss", "[training.qrpo]\nbeta = 0.7", {"training", "evaluation"}),
    ("evaluation.repeats", "[evaluation]\nrepeats = 4", {"evaluation", "reference_evaluation"}),
    (
        "further reference rewards",
        "[reference_sampling]\nref_rewards = 51",
        {"training", "evaluation", "reference_sampling", PAIRS},
    ),
    (
        "the reward alone",
        "[arms.chat.task]\nlength_bonus = 0.5",
        {"training", "evaluation", "reference_sampling", "reference_evaluation", PAIRS},
    ),
    (
        "the policy",
        "[policy]\nlayers = 3",
        {"training", "evaluation", "reference_sampling", "reference_evaluation", "initial_policy", PAIRS},
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in SETTINGS], ids=[row[0] for row in SETTINGS])
def test_a_setting_makes_anew_what_it_determines(text, expected, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(BASE)
    before = keys(profiles.load(path, "chat"))
    path.write_text(BASE + text)
    after = keys(profiles.load(path, "chat"))
    assert {name for name in before if before[name] != after[name]} == expected


def test_a_setting_that_only_the_results_read_makes_their_notebooks_anew(tmp_path):
    def notebooks(extra: str) -> dict[str, str]:
        path = tmp_path / "mine.toml"
        path.write_text(BASE + extra)
        return {job.id: job.step.key for job in suite.jobs(str(path))}

    before, after = notebooks(""), notebooks("[evaluation]\nmax_mean_length = 9.0")
    anew = {name for name in before if before[name] != after[name]}
    assert "results/tables[chat]" in anew
    assert not any(name.startswith("theory/") for name in anew)


def test_local_copies_count_by_content_and_not_by_path(tmp_path, monkeypatch):
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path / "runs"))

    def copy(name: str, weights: bytes) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights * 2**20)
        return folder

    def policy(folder: Path) -> str:
        settings = {"source": "hub", "model": str(folder), "pad_token": "x", "temperature": 1.0, "top_p": 1.0}
        profile = profiles.load("tiny").model_copy(update={"policy": profiles.HubPolicy.model_validate(settings)})
        return initial_policy.step(profile).key

    first = policy(copy("a", b"11"))
    assert policy(copy("b", b"11")) == first
    assert policy(copy("a", b"12")) != first
    assert policy(copy("a", b"11")) == first  # the hash of a large file is remembered, but not past its change
    assert policy(tmp_path / "a") == first
    named = hub.identity("an/organisation", "0" * 40)
    assert named == {"name": "an/organisation", "revision": "0" * 40}


def test_a_backend_is_named_where_results_are_committed():
    for name in ("tiny", "smol"):
        for arm in profiles.arms(name):
            assert profiles.load(name, arm).reference_sampling.backend != "auto"


def test_a_templates_clock_stands_still(monkeypatch):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_words())
    tokenizer.chat_template = "{{ strftime_now('%H:%M:%S %f') }} {{ messages[0]['content'] }}"
    texts = {chat_template.applied(tokenizer, [{"role": "user", "content": "a"}], tokenize=False) for _ in range(50)}
    assert texts == {"00:00:00 000000 a"}
    tokenizer.chat_template = "{% set f = '%H' %}{{ strftime_now(f) }}"
    with pytest.raises(ValueError, match="write a date into it"):
        chat_template.applied(tokenizer, [{"role": "user", "content": "a"}], tokenize=False)


def _words():
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))


@pytest.mark.parametrize("command", ["status --keys"])
def test_status_prints_every_key_and_makes_no_folder(command, tmp_path):
    environment = os.environ | {"QRPO_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(PROJECT)}
    script = [sys.executable, "-c", "import sys; from qrpo_lib.suite import cli; sys.exit(cli.main(sys.argv[1:]))"]
    done = subprocess.run([*script, *command.split()], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert all(re.fullmatch(r"[a-z_-]+ [0-9a-f]{12}", line) for line in lines)
    assert {line.split()[0] for line in lines} >= {"initial_policy", "reference_sampling", "training", "evaluation"}
    assert lines == [f"{step.name} {step.key}" for step in suite.steps("tiny")]
    assert not (tmp_path / "runs").exists()


MOVES = [("losses", "some"), ("fitting", "training"), ("topics", "some/tasks"), ("log_probs", "deep/er")]


@pytest.mark.slow
def test_moving_modules_into_folders_changes_no_key(tmp_path):
    for name in ("qrpo_lib", "notebooks"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    before = _printed_keys(tmp_path)
    for module, folder in MOVES:
        [path] = (tmp_path / "qrpo_lib").rglob(f"{module}.py")
        old = ".".join(path.relative_to(tmp_path).with_suffix("").parts)
        target = tmp_path / "qrpo_lib" / folder
        target.mkdir(parents=True, exist_ok=True)
        for package in [target, *target.relative_to(tmp_path / "qrpo_lib").parents]:
            (tmp_path / "qrpo_lib" / package / "__init__.py").touch()
        path.rename(target / path.name)
        _mend_imports(tmp_path, old, f"qrpo_lib.{folder.replace('/', '.')}.{module}")
    assert _printed_keys(tmp_path) == before


def _mend_imports(project: Path, old: str, new: str) -> None:
    """Every import of the module `old` names `new` instead, in modules and notebooks."""
    for path in (project / "qrpo_lib").rglob("*.py"):
        path.write_text(_mended(path.read_text(encoding="utf-8"), old, new), encoding="utf-8")
    for path in project.rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["source"] = _mended("".join(cell["source"]), old, new).splitlines(keepends=True)
        path.write_text(json.dumps(notebook), encoding="utf-8")


def _mended(source: str, old: str, new: str) -> str:
    package, _, module = old.rpartition(".")
    if module not in source or source.startswith("%"):
        return source
    source = source.replace(f'"{old}:', f'"{new}:')  # of what a table names, to be imported when it is asked for
    lines = source.splitlines()
    for node in [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]:
        indent, names = " " * node.col_offset, [alias.name for alias in node.names]
        if node.module == old:
            statement = f"{indent}from {new} import {', '.join(names)}"
        elif node.module == package and module in names:
            kept = [alias.name for alias in node.names if alias.name != module]
            statement = f"{indent}from {new.rpartition('.')[0]} import {module}"
            statement += f"\n{indent}from {package} import {', '.join(kept)}" if kept else ""
        else:
            continue
        lines[node.lineno - 1 : node.end_lineno] = [statement, *[""] * (node.end_lineno - node.lineno)]
    return "\n".join(lines)


def _printed_keys(project: Path) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(project), "QRPO_ROOT": str(project), "QRPO_RUNS": str(project / "no")}
    script = "from qrpo_lib.suite import notebooks\nfor step in notebooks.steps('tiny'): print(step.name, step.key)"
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_keys_of_a_profile_that_names_vllm_need_no_vllm(monkeypatch):
    monkeypatch.setattr(vllm_engine, "vllm_python", lambda: None)
    profile = profiles.load("gh200")
    assert profile.reference_sampling.backend == "vllm"
    assert reference_sampling.step(profile).parameters["sampling"]["backend"] == "vllm"
    with pytest.raises(ValueError, match="which is not installed"):
        engines.resolve("vllm")
