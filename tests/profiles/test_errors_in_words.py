"""What pydantic refuses is told as the file's key and a sentence."""

import pytest

from qrpo_lib.profiles import settings as profiles


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "nowhere.toml"', r"mine\.toml, extends: there is no profile 'nowhere\.toml'; there is no file /.*"),
        ('extends = "tinny"', r"mine\.toml, extends: there is no profile 'tinny'; did you mean 'tiny'\?"),
        ('extends = "base"', r"extends: there is no profile 'base'; did you mean the file 'base\.toml'\?"),
        ('extends = ["tiny"]', r"mine\.toml, extends: must be one profile"),
        ("extends = 3", r"mine\.toml, extends: must be one profile"),
        ('extends = "~nobody-has-this-name/x.toml"', "nobody has that home"),
        (f'extends = "{"x" * 300}.toml"', "there is no file"),
        ("name = 3", r"mine\.toml, name: must be one name, not 3"),
        ("arms = 3", r"mine\.toml, arms: must be tables"),
        ('arm = "chat"', r"mine\.toml, arm: there is no such setting"),
        ("[arms]\nchat = 3", r"mine\.toml, arms\.chat: must be a table"),
        ("[arms.My_Arm]", r"mine\.toml, arms\.My_Arm: must be lower-case .*'my-arm', not 'My_Arm'"),
        ('[arms.chat]\nname = "x"', r"mine\.toml, arms\.chat\.name: an arm has no such setting"),
        ('[arms.chat.experiment]\narms = ["chat"]', r"arms\.chat\.experiment\.arms: an arm has no such setting"),
        ("experiment = 3", r"mine\.toml', arm 'chat', experiment: .*not 3"),
        ('experiment.arms = ["cod"]', r"mine\.toml' has no arm 'cod'; it has chat, chat-long, code"),
        ("experiment.arms = []", r"mine\.toml, experiment\.arms: must be a list of different arms"),
        ('experiment.arms = "chat"', r"mine\.toml, experiment\.arms: must be a list"),
        ('experiment.arms = ["chat", "chat"]', r"mine\.toml, experiment\.arms: must be a list of different arms"),
        ("policy.source = ['hub']", r"arm 'chat', policy\.source: must be one of"),
        ("policy = 'hub'", r"arm 'chat', policy: input should be a valid dictionary.*not 'hub'"),
        ("training.qrpo.transform = 3", r"training\.qrpo\.transform: .*not 3"),
        ("training.qrpo.transform = 'cube'", r"training\.qrpo\.transform: .*'identity', .*not 'cube'"),
        ("policy.source = 'hubb'", r"policy\.source: must be one of 'tiny', .*'hub', not 'hubb'"),
        ("task = {}\narms.new.sft = {}\nexperiment.arms = ['new']", r"arm 'new', task: name is missing"),
        ('experiment.algorithms = ["ppo"]', r"experiment\.algorithms\.0: .*'qrpo', 'dpo', .*not 'ppo'"),
        ("training.DPO.beta = 1.0\ntraining.dpo.beta = 2.0", r"training: DPO and dpo are the same algorithm"),
        ("experiment.betas.ppo = [1.0]", r"experiment\.betas\.ppo: .*'dpo'"),
        ("seed = -1", r"seed: .*greater than or equal to 0, not -1"),
        ("experiment.seeds = [4294967296]", r"experiment\.seeds\.0: .*less than 4294967296"),
        ("training.qrpo.beta = nan", r"training\.qrpo\.beta: "),
    ],
)
def test_what_cannot_be_used_is_said_with_the_file_and_the_key(write, text, message):
    write("", "base.toml")
    base = "" if text.startswith("extends") else 'extends = "tiny"\n'
    with pytest.raises(profiles.ProfileError, match=message) as caught:
        profiles.load(write(base + text))
    assert "\n" not in str(caught.value)
