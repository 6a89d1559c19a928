import os

import pytest

from qrpo_lib.objective import transforms
from qrpo_lib.profiles import files as profile_files
from qrpo_lib.profiles import settings as profiles


@pytest.mark.parametrize("name", profiles.names())
def test_the_suites_own_profiles_are_valid_and_named_as_their_files(name):
    assert profiles.load(name).name == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrpo.beta": -0.1}, r"training\.qrpo\.beta: .*greater than 0, not -0\.1"),
        ({"qrpo.beta": 0.0}, r"training\.qrpo\.beta"),
        ({"qrpo.beta": float("nan")}, r"training\.qrpo\.beta"),
        ({"batch_size": "32"}, r"training\.batch_size: .*integer, not '32'"),
        ({"qrpo.num_ref_rewards": 51}, "only 50 are sampled"),
        ({"batch_size": 33}, "not a multiple of micro_batch_size"),
        ({"speed": 1}, r"training\.speed: there is no such setting"),
        ({"setting": "online"}, r"training\.setting"),
        ({"pairs_per_prompt": 2}, "off-policy-best makes one pair a prompt"),
        ({"setting": "off-policy-random", "pairs_per_prompt": 4}, "4, but only 6 completions are sampled"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_in_one_sentence(changes, message):
    with pytest.raises(profiles.ProfileError, match=message) as caught:
        profiles.load("tiny").with_training(**changes)
    assert "\n" not in str(caught.value)


def test_unknown_profile_names_the_nearest():
    with pytest.raises(profiles.ProfileError, match="did you mean 'tiny'"):
        profiles.load("tinny")


def test_none_keeps_the_profiles_value():
    tiny = profiles.load("tiny")
    assert tiny.with_training(**{"qrpo.beta": None, "setting": None}) == tiny
    assert tiny.with_training(**{"qrpo.beta": 0.5}).training.qrpo.beta == 0.5


def test_a_file_extends_another_profile(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny"\n[training.dpo]\nbeta = 0.7\n[arms.chat.task]\ntrain_prompts = 5\n')
    mine, tiny = profiles.load(path), profiles.load("tiny")
    assert mine.name == "mine"
    assert mine.training.dpo.beta == 0.7
    assert mine.training.dpo.learning_rate == tiny.training.dpo.learning_rate
    assert (mine.task.name, mine.task.train_prompts) == ("topics", 5)
    assert mine.policy == tiny.policy


def test_a_file_that_was_edited_is_another_profile_whatever_its_size_and_date(tmp_path, monkeypatch):
    """Of the profile itself, of one that it extends, and of the home folder that its paths begin at."""
    base, path = tmp_path / "base.toml", tmp_path / "mine.toml"
    base.write_text('extends = "tiny"\n[training.dpo]\nbeta = 0.7\n')
    path.write_text('extends = "base.toml"\n[training.qrpo]\nbeta = 0.5\n')

    def betas():
        loaded = profiles.load(path).training
        return loaded.dpo.beta, loaded.qrpo.beta

    def edit(file, old, new):
        then = file.stat()
        file.write_text(file.read_text().replace(old, new))
        os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
        assert file.stat().st_size == then.st_size

    assert betas() == (0.7, 0.5)
    assert profiles.load(path) is profiles.load(path)
    edit(path, "0.5", "0.6")
    assert betas() == (0.7, 0.6)
    edit(base, "0.7", "0.8")
    assert betas() == (0.8, 0.6)
    edit(path, "[training.qrpo]", "[training.qrpx]")
    for _ in range(2):
        with pytest.raises(profiles.ProfileError, match="qrpx"):
            profiles.load(path)
    path.write_text('extends = "base.toml"\n[policy]\nsource = "hub"\nmodel = "~/model"\n')
    for home in (tmp_path / "a", tmp_path / "b"):
        monkeypatch.setenv("HOME", str(home))
        assert profile_files.settings(profile_files.layers(path), "chat")["policy"]["model"] == str(home / "model")


def test_text_that_is_not_toml(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("a = = 1")
    with pytest.raises(profiles.ProfileError, match="not valid TOML"):
        profiles.load(path)


def test_an_arm_sets_what_differs_and_the_first_one_is_the_default(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text('extends = "tiny"\n[arms.other.task]\nname = "written"\n[arms.other.training]\nbatch_size = 64\n')
    chat, other = profiles.load(path), profiles.load(path, "other")
    assert chat.arm == profiles.arms(path)[0] == "chat"
    assert (chat.task.name, other.task.name) == ("topics", "written")
    assert other.training == chat.training.model_copy(update={"batch_size": 64})
    assert (other.label, other.figures) == ("two, other", "two/other")
    with pytest.raises(profiles.ProfileError, match=r"no arm 'cod'; it has chat, .*other"):
        profiles.load(path, "cod")


def test_an_experiment_names_the_arms_it_runs(tmp_path):
    path = tmp_path / "one.toml"
    extra = '[arms.other.task]\nname = "written"\n[experiment]\narms = ["other"]\n'
    path.write_text(f'extends = "tiny"\n{extra}')
    assert profiles.arms(path) == ["other"]
    assert profiles.load(path).task.name == "written"
    path.write_text(path.read_text().replace('["other"]', '["cod"]'))
    with pytest.raises(profiles.ProfileError, match="no arm 'cod'"):
        profiles.arms(path)


def test_a_profile_needs_an_arm(tmp_path):
    path = tmp_path / "none.toml"
    path.write_text("seed = 0\n")
    with pytest.raises(profiles.ProfileError, match=r"has no arms: it needs a table \[arms\.NAME\]"):
        profiles.load(path)


def test_settings_that_the_task_cannot_have_are_refused():
    smol = profiles.load("smol")
    for setting, message in [
        ("offline", "the task written has no pairs of its own"),
        ("sft-off-policy-best", r"there is no table \[sft\]"),
    ]:
        with pytest.raises(profiles.ProfileError, match=message):
            smol.with_training(setting=setting)


def test_evaluation_values_come_from_policy_or_profile_and_not_from_both(tmp_path):
    path = tmp_path / "hub.toml"
    policy = 'source = "hub"\nmodel = "a/b"\npad_token = "<pad>"\ntemperature = 0.6\ntop_p = 0.9\n'
    base = profiles.FOLDER.joinpath("tiny.toml").read_text()
    start, end = base.index("[policy]"), base.index("[arms.chat.task]")
    base = f"{base[:start]}[policy]\n{policy}\n{base[end:]}"
    path.write_text(base)
    with pytest.raises(profiles.ProfileError, match=r"evaluation\.temperature is set, but the policy has its own"):
        profiles.load(path)
    path.write_text(base.replace("temperature = 1.0\ntop_p = 1.0\n", ""))
    assert profiles.load(path).evaluation_sampling == {"temperature": 0.6, "top_p": 0.9}
    assert profiles.load("tiny").evaluation_sampling == {"temperature": 1.0, "top_p": 1.0}


def test_the_scaled_normal_takes_its_parameters_from_the_file(tmp_path):
    path = tmp_path / "scaled.toml"
    transform = '{ name = "scaled-normal", mu = 0.3, sigma = 0.5 }'
    path.write_text(f'extends = "tiny"\n[training.qrpo]\ntransform = {transform}\nerror = "absolute"\n')
    settings = profiles.load(path).training.qrpo.model_dump()
    transform = transforms.get(settings["transform"])
    assert (transform.name, transform.mean, transform.scale) == ("scaled-normal", 0.3, 0.5)
    path.write_text('extends = "tiny"\n[training.qrpo]\ntransform = { name = "scaled-normal", mu = 0.3 }\n')
    with pytest.raises(profiles.ProfileError, match=r"training\.qrpo\.transform\.sigma: field required"):
        profiles.load(path)


def test_worlds_make_every_arm_anew(tmp_path):
    """A world is a value of the seed: its arms are named after it, and a world's steps are its own."""
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny"\nworlds = [3, 7]\nunset = ["arms.chat-long"]\n')
    assert profiles.arms(path) == ["chat-world-3", "code-world-3", "chat-world-7", "code-world-7"]
    assert profiles.worlds(path) == (3, 7)
    assert profiles.load(path).arm == "chat-world-3"
    seventh = profiles.load(path, "code-world-7")
    assert (seventh.seed, seventh.task.name, seventh.figures) == (7, "expressions", "mine/code-world-7")
    with pytest.raises(profiles.ProfileError, match="no arm 'chat'; it has chat-world-3"):
        profiles.load(path, "chat")
    assert profiles.worlds("tiny") == ()


@pytest.mark.parametrize("worlds", ["[0, 0]", "[-1]", "3", '["a"]', "[true]"])
def test_worlds_are_different_seeds(tmp_path, worlds):
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "tiny"\nworlds = {worlds}\n')
    with pytest.raises(profiles.ProfileError, match="worlds: must be a list of different seeds"):
        profiles.arms(path)


def test_a_file_can_do_without_the_worlds_of_another(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny-full"\nworlds = []\n')
    assert profiles.arms(path)[0] == "chat"
