"""What looks like a secret is hidden; what only resembles one is not."""

import json
import os

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import folders, keys, records, secrets

TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "GITHUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "PGPASSWORD",
        "OPENAI_API_KEY",
        "MY_PASSWORD",
        "gitlab_token",
        "APP_CREDENTIALS",
        "SSH_KEY",
        "DEEPL_AUTH_KEY",
        "COMETAPIKEY",
    ],
)
def test_names_of_secrets(name):
    assert secrets.is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "TOKENIZERS_PARALLELISM",
        "PATH",
        "SLURM_JOB_ID",
        "HOME",
        "KEYBOARD",
        "MONKEY",
        "AUTHOR",
        "OMP_NUM_THREADS",
        "QRPO_RUNS",
        "LS_COLORS",
        "PWD",
        "CUDA_VISIBLE_DEVICES",
        "MASTER_PORT",
    ],
)
def test_names_of_no_secrets(name):
    assert not secrets.is_secret(name)


def test_values_and_forms_are_masked(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "quite-secret-value")
    text = f"login with quite-secret-value failed; tried {TOKEN} too"
    assert secrets.mask(text) == "login with <SOME_API_KEY> failed; tried <token> too"


def test_a_short_value_does_not_eat_the_text(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "1")
    assert secrets.mask("step 1 of 11") == "step 1 of 11"


def test_hidden_ends(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with secrets.hidden():
        assert "HF_TOKEN" not in os.environ
    assert os.environ["HF_TOKEN"] == TOKEN


def test_a_record_holds_no_secret(runs_folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    step = keys.Step("leaky", {"url": f"https://user:{TOKEN}@hub"})
    text = (folders.complete(step, lambda folder: None) / records.RECORD).read_text()
    assert TOKEN not in text
    assert json.loads(text)["parameters"]["url"] == "https://user:<HF_TOKEN>@hub"


@pytest.mark.parametrize("line", [f"export HF_TOKEN={TOKEN}", "WANDB_API_KEY='0123456789abcdef'", f"echo {TOKEN}"])
def test_a_profile_with_a_secret_is_refused_without_repeating_it(line, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "tiny"\n[dispatch]\nsetup = ["""{line}"""]\n')
    with pytest.raises(profiles.ProfileError, match="holds a secret") as caught:
        profiles.load(str(path))
    assert TOKEN not in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)


def test_a_profile_may_name_a_secret(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny"\n[dispatch]\nsetup = ["export HF_TOKEN=$MY_TOKEN", "module load cuda/12.8"]\n')
    assert profiles.load(str(path)).dispatch.setup


def test_of_values_that_hold_each_other_the_longest_is_masked_whole(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "zebras")
    monkeypatch.setenv("B_TOKEN", "aaa-zebras-aaa")
    assert secrets.mask("x zebras aaa-zebras-aaa") == "x <A_TOKEN> <B_TOKEN>"
