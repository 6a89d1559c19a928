"""Profiles as one writes them: names, what they extend, what they replace, unset and get wrong."""

import os
import re
import subprocess
import sys

import pytest
from hub_copies import chat_model

from qrpo_lib.models import hub
from qrpo_lib.profiles import files as profile_files
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.paths import PACKAGE
from qrpo_lib.suite import cli
from qrpo_lib.suite import notebooks as suite
from qrpo_lib.tasks import registry as tasks

HUB_POLICY = """
[policy]
source = "hub"
model = "/models/mine"
pad_token = "<pad>"
temperature = 0.7
top_p = 0.9
"""


def refused(path, arm=None):
    """The sentence with which a profile is refused."""
    with pytest.raises(profiles.ProfileError) as caught:
        profiles.load(path, arm)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my_profile.toml", "my-profile"),
        ("My Profile (2).toml", "my-profile-2"),
        ("Größe.toml", "grosse"),
        ("a.b.TOML", "a-b"),
        ("tiny.toml", "my-tiny"),
        ("Theory.toml", "my-theory"),
        ("enumerated.toml", "my-enumerated"),
    ],
)
def test_the_name_is_made_from_the_files(write, file, name):
    profile = profiles.load(write('extends = "tiny"\n', file))
    assert (profile.name, profile.figures) == (name, f"{name}/chat")


def test_a_files_name_without_any_letter_or_digit_still_gives_names_that_differ(write):
    made = [profiles.load(write('extends = "tiny"\n', file)).name for file in ("日本.toml", "中国.toml", "___.toml")]
    assert len(set(made)) == 3


def test_own_names_are_no_folder_of_the_suites_figures(write):
    notebooks = (PACKAGE.parent / "notebooks").rglob("*.ipynb")
    written = {name for path in notebooks for name in re.findall(r'\(figures\) / \\"([^"\\]+)', path.read_text())}
    folders = written | {path.name for path in (PACKAGE.parent / "figures").iterdir() if path.is_dir()}
    assert {"theory", "enumerated"} <= written
    assert {"tiny", "smol", "benchmarks"} <= folders
    for name in folders | set(profiles.names()):
        path = write(f'extends = "tiny"\nname = "{name}"\n')
        assert re.search(rf"mine\.toml, name: '{name}' is a folder of the suite's own", refused(path))


@pytest.mark.parametrize("name", ["My_Profile", "../tiny", "a b", "-a", "", "tiny/x"])
def test_a_name_that_can_be_no_folder_is_refused_with_one_that_can(write, name):
    assert re.search(r"mine\.toml, name: must be lower-case letters, digits", refused(write(f'name = "{name}"\n')))


def test_the_suites_own_file_given_by_its_path_is_that_profile():
    assert profiles.load(profiles.FOLDER / "tiny.toml", "code") == profiles.load("tiny", "code")


def test_extends_is_relative_to_the_file_that_says_it(write, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write('extends = "tiny"\n[training.dpo]\nbeta = 0.7\n', "base/first.toml")
    write('extends = "first.toml"\n[training.rebel]\nbeta = 0.8\n', "base/second.toml")
    leaf = write('extends = "../base/second.toml"\n[training.simpo]\nbeta = 9.0\n', "own/leaf.toml")
    for named in (leaf, str(leaf), os.path.relpath(leaf)):
        training = profiles.load(named).training
        assert (training.dpo.beta, training.rebel.beta, training.simpo.beta) == (0.7, 0.8, 9.0)
    assert profiles.load(leaf).name == "leaf"
    absolute = write(f'extends = "{tmp_path}/base/first.toml"\n')
    assert profiles.load(absolute).training.dpo.beta == 0.7
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profiles.load(write('extends = "~/base/first.toml"\n')).training.dpo.beta == 0.7
    assert profiles.load("~/base/first.toml").training.dpo.beta == 0.7
    assert profile_files.absolute("~/base/first.toml") == str(tmp_path / "base" / "first.toml")


def test_a_notebook_in_a_folder_of_its_own_finds_a_profile_of_the_project(write, tmp_path, monkeypatch):
    write('extends = "tiny"\nseed = 5\n')
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    assert profiles.load("mine.toml").seed == 5


def test_a_link_is_the_file_that_it_leads_to(write, tmp_path):
    write('extends = "tiny"\nseed = 4\n', "real/base.toml")
    real = write('extends = "base.toml"\n', "real/mine.toml")
    (tmp_path / "link.toml").symlink_to(real)
    assert profiles.load(tmp_path / "link.toml") == profiles.load(real)
    named = (tmp_path / "link.toml", real, tmp_path / "real" / ".." / "real" / "mine.toml")
    assert {profile_files.absolute(path) for path in named} == {str(real)}


@pytest.mark.parametrize(
    ("files", "way"),
    [
        ({"mine.toml": "mine.toml"}, "mine.toml -> mine.toml"),
        ({"mine.toml": "b.toml", "b.toml": "./c.toml", "c.toml": "mine.toml"}, "mine.toml -> b.toml -> c.toml -> mine"),
        ({"mine.toml": "b.toml", "b.toml": "b.toml"}, "mine.toml -> b.toml -> b.toml"),
    ],
)
def test_a_circle_is_named(write, files, way):
    paths = [write(f'extends = "{base}"\n', name) for name, base in files.items()]
    assert f"extends itself: {way}" in refused(paths[0])


def test_a_value_of_an_extended_file_is_said_with_that_file(write):
    write('extends = "tiny"\n[training]\nspeed = 3\n', "base.toml")
    message = refused(write('extends = "base.toml"\n'))
    assert re.search(r"mine\.toml', arm 'chat' \(from /.*/base\.toml\), training\.speed: there is no such", message)


def test_a_profile_name_is_no_path():
    for name in ("../profiles/tiny", "", ".", "my/profile"):
        assert re.search("There is no profile", refused(name))


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda text: text.encode("utf-8-sig"), None),
        (lambda text: text.replace("\n", "\r\n").encode(), None),
        (lambda text: text.encode("utf-16"), "mine.toml is UTF-16 or binary; save it as UTF-8"),
        (lambda text: text.encode("utf-16-le"), "mine.toml is UTF-16 or binary"),
        (lambda text: text.encode("utf-32"), "mine.toml is UTF-16 or binary"),
        (lambda text: text.encode("latin-1"), "mine.toml is not UTF-8 (line 2); save it as UTF-8"),
    ],
)
def test_encodings(write, encode, message):
    path = write(encode('extends = "tiny"\n# Größe\nseed = 7\n'))
    if message is None:
        assert profiles.load(path).seed == 7
    else:
        assert message in refused(path)


def test_a_profile_of_ten_lines_is_enough_for_an_own_policy(write, tmp_path):
    """A policy of one's own on each of the suite's tasks: every arm loads, and the steps of all of it can be named."""
    text = f'extends = "tiny"\n{HUB_POLICY}'
    assert len(text.splitlines()) <= 10
    path = write(text, "my_profile.toml")
    assert profiles.arms(path) == profiles.arms("tiny")
    for arm in profiles.arms(path):
        mine, tiny = profiles.load(path, arm), profiles.load("tiny", arm)
        assert (mine.policy.model, mine.task) == ("/models/mine", tiny.task)
        assert mine.evaluation_sampling == {"temperature": 0.7, "top_p": 0.9}
        assert mine.training == tiny.training
    jobs = suite.jobs(str(path))
    assert {job.id for job in jobs} == {job.id for job in suite.jobs("tiny")}
    assert len({job.step.key for job in jobs}) == len(jobs)


@pytest.mark.parametrize("base", ["tiny", "smol", "tiny-full"])
def test_an_own_policy_replaces_the_suites(write, base):
    path = write(f'extends = "{base}"\n{HUB_POLICY}')
    for arm in profiles.arms(path):
        assert profiles.load(path, arm).policy.model_dump()["source"] == "hub"


def test_an_own_policy_takes_the_place_of_those_that_arms_have_and_of_their_commits(write):
    path = write(f'extends = "gh200"\n{HUB_POLICY}\n[dispatch]\naccount = "mine"\n')
    for arm in profiles.arms("gh200"):
        mine = profiles.load(path, arm)
        assert (mine.policy.model, mine.policy.revision, mine.dispatch.account) == ("/models/mine", None, "mine")
    other = write('extends = "gh200"\n[policy]\nmodel = "a/b"\n[task]\ndataset = "c/d"\ntokenizer = "a/b"\n')
    mistral, was = profiles.load(other, "mistral-ultrafeedback"), profiles.load("gh200", "mistral-ultrafeedback")
    assert was.policy.revision
    assert was.task.revision
    assert was.task.tokenizer_revision
    assert (mistral.policy.model, mistral.policy.revision, mistral.policy.pad_token) == ("a/b", None, "<unk>")
    assert (mistral.task.dataset, mistral.task.revision, mistral.task.tokenizer_revision) == ("c/d", None, None)
    assert mistral.task.reward == was.task.reward


def test_a_table_of_another_kind_replaces_the_old_one_whole(write):
    reward = {"kind": "classifier", "model": "a/b", "max_tokens": 9, "batch_size": 1, "dtype": "float32"}
    lines = "\n".join(f"{key} = {value!r}" for key, value in reward.items())
    path = write(
        'extends = "gh200"\n[policy]\nsource = "smollm2"\n[evaluation]\ntemperature = 0.2\ntop_p = 0.9\n'
        f'[arms.llama-magpieair.task]\nname = "written"\n[arms.mistral-magpieair.task.reward]\n{lines}\n'
        '[arms.llama-ultrafeedback.task.reward]\nkind = "relevance"\n'
    )
    assert profiles.load(path, "mistral-magpieair").task.reward.model_dump() == reward | {"revision": None}
    assert profiles.load(path, "llama-ultrafeedback").task.reward.model_dump() == {"kind": "relevance"}
    assert profiles.load(path, "llama-magpieair").task.model_dump() == {"name": "written"}
    assert {profiles.load(path, arm).policy.source for arm in profiles.arms(path)} == {"smollm2"}


def test_the_scaled_normal_can_be_set_over_a_name_and_back(write):
    scaled = '[training.qrpo]\ntransform = { name = "scaled-normal", mu = 0.3, sigma = 0.5 }\n'
    write(f'extends = "tiny"\n{scaled}', "base.toml")
    changed = profiles.load(write('extends = "base.toml"\n[training.qrpo]\ntransform.sigma = 0.6\n'))
    assert changed.training.qrpo.transform.model_dump() == {"name": "scaled-normal", "mu": 0.3, "sigma": 0.6}
    back = profiles.load(write('extends = "base.toml"\n[training.qrpo]\ntransform = "log"\n'))
    assert back.training.qrpo.transform == "log"


def test_what_a_file_says_wins_over_all_that_it_extends(write):
    path = write(
        'extends = "gh200"\n[experiment]\nsettings = ["off-policy-best"]\n[training]\npairs_per_prompt = 1\n'
        "batch_size = 32\n[arms.llama-leetcode.training]\nbatch_size = 16\n[training.qrpo]\nbeta = 0.5\n"
    )
    for arm in profiles.arms("gh200"):
        profile = profiles.load(path, arm)
        assert profile.experiment.settings == ["off-policy-best"]
        assert profile.training.qrpo.beta == 0.5
        assert profile.training.batch_size == (16 if arm == "llama-leetcode" else 32)


def test_keys_can_be_unset(write):
    path = write(
        'extends = "tiny"\nunset = ["sft", "experiment.betas", "arms.chat-long", "arms.code.experiment.settings"]\n'
        "[experiment.betas]\nDPO = [0.7]\n[arms.chat.experiment]\nunset = ['scaling', 'transformations']\n"
        '[arms.code.training]\nsetting = "off-policy-random"\n'
    )
    assert profiles.arms(path) == ["chat", "code"]
    chat, code = profiles.load(path, "chat"), profiles.load(path, "code")
    assert (chat.sft, code.sft) == (None, None)
    assert chat.experiment.betas == code.experiment.betas == {"dpo": [0.7]}
    assert (chat.experiment.scaling, chat.experiment.transformations) == ([], None)
    assert chat.experiment.settings == profiles.load("tiny", "chat").experiment.settings
    assert code.experiment.settings is None
    again = write(f'extends = "{path}"\nunset = ["arms.code"]\n[arms.code.task]\nname = "problems"\n', "leaf.toml")
    fresh = profiles.load(again, "code")
    assert fresh.task.name == "problems"
    assert fresh.training.setting == "off-policy-best"  # nothing is left of the old arm


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('unset = ["sftt"]', r"mine\.toml, unset: nothing that it extends sets 'sftt'; did you mean 'sft'\?"),
        ('unset = ["training.max_tokens"]', r"mine\.toml, unset: nothing that it extends sets 'training\.max_tokens'"),
        ('unset = ["arms.cod"]', r"sets 'arms\.cod'; did you mean 'arms\.code'\?"),
        ('unset = ["arms.code.sfft"]', r"unset: nothing that it extends sets 'sfft'; did you mean 'sft'"),
        ('unset = "sft"', r"mine\.toml, unset: must be a list of dotted keys"),
        ("[training]\nunset = [3]", r"mine\.toml, training\.unset: must be a list"),
        ('unset = ["policy"]', r"mine\.toml', arm 'chat', policy: field required"),
    ],
)
def test_what_cannot_be_unset_is_said(write, text, message):
    assert re.search(message, refused(write(f'extends = "tiny"\n{text}\n')))


def test_what_a_file_adds_to_a_chosen_list_of_arms_is_run(write):
    write('extends = "tiny"\n[experiment]\narms = ["chat", "code"]\n', "base.toml")
    path = write('extends = "base.toml"\nunset = ["arms.code"]\n[arms.new.task]\nname = "written"\n')
    assert profiles.arms(path) == ["chat", "new"]
    path = write('extends = "base.toml"\nunset = ["experiment.arms"]\n')
    assert profiles.arms(path) == profiles.arms("tiny")


def test_algorithms_may_be_spelled_as_in_the_paper(write):
    path = write(
        'extends = "tiny"\n[experiment]\nalgorithms = ["DPO", "QRPO", "SimPO"]\n[experiment.betas]\nSimPO = [3.0]\n'
        "[training.REBEL]\nbeta = 0.9\n"
    )
    profile = profiles.load(path)
    assert profile.experiment.algorithms == ["dpo", "qrpo", "simpo"]
    assert profile.experiment.betas["simpo"] == [3.0]
    assert profile.training.rebel.beta == 0.9
    assert profile.with_training(**{"DPO.beta": 0.9}).training.dpo.beta == 0.9
    with pytest.raises(profiles.ProfileError, match=r"no algorithm 'ppo'; there are qrpo, dpo, rebel, simpo"):
        profile.with_training(**{"ppo.beta": 0.9})


def test_two_files_of_one_name_do_not_publish_into_one_folder(write, runs_folder):
    first, second = (write('extends = "tiny"\n', f"{folder}/mine.toml") for folder in ("one", "two"))
    profile_files.take_name(first)
    profile_files.take_name(first)
    with pytest.raises(profiles.ProfileError, match=r"one/mine\.toml, since both profiles have the name 'mine'"):
        profile_files.take_name(second)
    write('extends = "tiny"\nname = "other"\n', "two/mine.toml")
    profile_files.take_name(second)
    third = first.rename(first.parent / "Mine.toml")  # the same profile, moved
    profile_files.take_name(third)
    profile_files.take_name("tiny")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    assert re.search(r"no profile '.*folder\.toml'; there is no file", refused(tmp_path / "folder.toml"))
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    assert re.search(r"there is no file", refused(tmp_path / "loop.toml"))


def test_the_example_in_the_docs_works_as_it_stands(write, tmp_path):
    text = (PACKAGE.parent / "docs" / "profiles.md").read_text()
    example, *_ = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = write(example, "my_profile.toml")
    assert profiles.arms(path) == ["chat", "code"]
    for arm in profiles.arms(path):
        profile = profiles.load(path, arm)
        assert profile.policy.model == str(tmp_path / "my-model")
        assert profile.label == f"my-profile, {arm}"


def test_local_copies_may_be_named_beside_the_file(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(f'extends = "gh200"\n{HUB_POLICY}'.replace("/models/mine", "../models/mine"), "base/base.toml")
    path = write('extends = "base/base.toml"\n[task]\ndataset = "./data"\nreward.model = "~/reward"\n')
    profile = profiles.load(path)
    assert profile.policy.model == str(tmp_path / "models" / "mine")
    assert profile.task.dataset == str(tmp_path / "data")
    assert profile.task.reward.model == str(tmp_path / "home" / "reward")
    assert profile.task.tokenizer == profiles.load("gh200").task.tokenizer
    with pytest.raises(hub.HubError, match=rf"no folder {tmp_path}/data, which the profile names as its dataset"):
        tasks.check_available(profile)


def test_the_command_takes_a_profile_from_any_folder(write, tmp_path, monkeypatch, capsys, runs_folder):
    write('extends = "base.toml"\n', "own/my_profile.toml")
    write('extends = "tiny"\n[experiment]\narms = ["chat"]\n', "own/base.toml")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", "--profile", "own/my_profile.toml"]) == 0
    told = capsys.readouterr().out
    assert "experiments/sweep[chat]" in told
    assert "[code]" not in told


def test_the_command_refuses_a_name_that_is_taken_before_work(write, capsys, runs_folder):
    first, second = (write('extends = "tiny"\n', f"{folder}/mine.toml") for folder in ("one", "two"))
    profile_files.take_name(first)
    assert cli.main(["reproduce", "--profile", str(second), "--only", "theory/noise"]) == 2
    assert "both profiles have the name 'mine'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_profile_in_a_folder_of_its_own_is_found_by_its_notebooks_and_their_processes(write, tmp_path):
    """From the command to the executed notebook: `extends` and the model are relative to the profile's file."""
    chat_model(tmp_path / "own" / "my-model")
    write('extends = "tiny"\n[experiment]\narms = ["chat"]\n', "own/base.toml")
    write(f'extends = "base.toml"\n{HUB_POLICY}'.replace("/models/mine", "./my-model"), "own/my_profile.toml")
    root = tmp_path / "project"
    root.mkdir()
    (root / "notebooks").symlink_to(PACKAGE.parent / "notebooks")
    environment = {name: value for name, value in os.environ.items() if name != "QRPO_RUNS"} | {"QRPO_ROOT": str(root)}
    arguments = ["reproduce", "--profile", "own/my_profile.toml", "--only", "experiments/initial_policy"]
    command = [sys.executable, "-m", "qrpo_lib.suite.cli", *arguments]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "1 executed" in answer.stdout
    (folder,) = (root / "runs").glob("initial_policy-*")
    assert (folder / "model.safetensors").is_file()
