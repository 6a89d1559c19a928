"""Data and rewards of one's own in a profile: prompts as they are, splits, mixtures, rewards with their columns."""

import json
from pathlib import Path

import numpy as np
import pytest

from qrpo_lib.profiles import reward_traits
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.settings import ProfileError
from qrpo_lib.runs.errors import InputError
from qrpo_lib.tasks import registry
from qrpo_lib.training import conversations

# Own data and an own reward, in twelve lines.
PROFILE = """extends = "smol"
unset = ["arms.code"]
policy = {{ source = "hub", model = "./my-model", pad_token = "<pad>", temperature = 0.7, top_p = 0.9 }}
[arms.chat.task]
name = "{name}"
dataset = "rows.jsonl"
reward = {{ kind = "python", function = "my_reward.py:reward" }}
[training]
setting = "offline"
[experiment]
algorithms = ["qrpo"]
"""
REWARD = (
    "def reward(prompts, completions, level):\n    return [len(str(c)) + 100 * l for c, l in zip(completions, level)]\n"
)


def pair(number, prompt=None):
    prompt = prompt or [{"role": "user", "content": f"question {number}"}]
    chosen, rejected = ([{"role": "assistant", "content": word}] for word in ("good answer", "bad"))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "level": number}


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "rows.jsonl", [pair(i) for i in range(20)])
    (tmp_path / "my_reward.py").write_text(REWARD)
    (tmp_path / "mine.toml").write_text(PROFILE.format(name="dataset"))
    return tmp_path


def task_of(folder, **replaced):
    text = (folder / "mine.toml").read_text()
    for old, new in replaced.items():
        text = text.replace(old, new)
    (folder / "changed.toml").write_text(text)
    settings = profiles.load(folder / "changed.toml").task
    return registry.of.__wrapped__(settings)  # a new object, which remembers nothing


def test_an_own_profile_has_at_most_twelve_lines(folder):
    assert len((folder / "mine.toml").read_text().splitlines()) <= 12
    profile = profiles.load(folder / "mine.toml")
    assert Path(profile.task.dataset) == folder / "rows.jsonl"
    assert profile.task.reward.function == f"{folder}/my_reward.py:reward"
    assert reward_traits.is_own_data(profile)
    assert reward_traits.shown_data(profile) == "rows.jsonl"
    assert not reward_traits.is_own_data(profiles.load("tiny"))


def test_splits_share_no_prompt_and_do_not_depend_on_the_order(folder):
    task = task_of(folder)
    by_split = {}
    for prompt in task.prompts(0):
        by_split.setdefault(prompt.split, set()).add(prompt.text)
    assert {split: len(texts) for split, texts in by_split.items()} == {"train": 16, "selection": 2, "reporting": 2}
    assert len(set().union(*by_split.values())) == 20
    write(folder / "rows.jsonl", [pair(i) for i in reversed(range(20))] + [pair(3)])
    again = {}
    for prompt in task_of(folder).prompts(0):
        again.setdefault(prompt.split, set()).add(prompt.text)
    assert again == by_split


def test_conversations_and_plain_texts_are_kept(folder):
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    rows = [pair(i) for i in range(10)] + [pair(10, turns)]
    rows += [{"prompt": "Once", "chosen": " upon", "rejected": " more", "level": 0}]
    write(folder / "rows.jsonl", rows)
    texts = [prompt.text for prompt in sorted(task_of(folder).prompts(0), key=lambda one: one.id)]
    assert texts[0] == "question 0"  # a request of one turn, as the suite's own
    assert conversations.decoded(texts[10]) == turns
    assert conversations.decoded(texts[11]) == "Once"
    assert "be brief" in conversations.readable(texts[10])


@pytest.mark.parametrize("text", ["", "plain", "\ue000", "\ue001x", '{"role": 1}', "\ue000[]"])
def test_every_prompt_comes_back_from_its_text(text):
    for prompt in (text, [{"role": "user", "content": text}], [{"role": "system", "content": text}] * 2):
        assert conversations.decoded(conversations.encoded(prompt)) == prompt


def test_a_mixture_has_the_proportions_of_its_weights(folder):
    write(folder / "more.jsonl", [pair(i, [{"role": "user", "content": f"other {i}"}]) for i in range(50)])
    sources = '[[arms.chat.task.sources]]\ndataset = "rows.jsonl"\n[[arms.chat.task.sources]]\ndataset = "more.jsonl"\n'
    text = (folder / "mine.toml").read_text().replace('dataset = "rows.jsonl"\n', "")
    (folder / "mine.toml").write_text(text + sources + "weight = 0.5\n")
    rows = [row for row in task_of(folder).rows if row.split == "train"]
    assert [sum(row.id.startswith(f"{i}-") for row in rows) for i in (0, 1)] == [16, 8]
    assert len({row.id for row in rows}) == 24


def test_the_reward_gets_prompts_completions_and_columns(folder):
    task = task_of(folder)
    prompts = [row.prompt for row in task.rows[:3]]
    levels = [row.columns["level"] for row in task.rows[:3]]
    scores = task.reward().score(prompts, ["a"] * 3)
    one = len(str([{"role": "assistant", "content": "a"}]))
    assert scores.tolist() == [one + 100 * level for level in levels]


def test_the_key_counts_rows_and_source_not_paths(folder, tmp_path_factory):
    before = task_of(folder).parameters()
    other = tmp_path_factory.mktemp("other")
    for name in ("rows.jsonl", "my_reward.py", "mine.toml"):
        (other / name).write_text((folder / name).read_text())
    assert task_of(other).parameters() == before
    (folder / "my_reward.py").write_text(REWARD.replace("100", "10"))
    changed = task_of(folder).parameters()
    assert changed["reward"] != before["reward"]
    assert changed["sources"] == before["sources"]
    write(folder / "rows.jsonl", [pair(i) for i in range(21)])
    assert task_of(folder).parameters()["sources"] != before["sources"]


def test_pointwise_is_qrpos_alone(folder):
    rows = [
        {"prompt": f"q {i}", "completion": "a", "reward": float(i), "level": 0}
        if i % 2
        else {"prompt": f"q {i}", "completion": "a", "level": 0}
        for i in range(10)
    ]
    write(folder / "rows.jsonl", rows)
    (folder / "mine.toml").write_text(PROFILE.format(name="pointwise"))
    task = task_of(folder)
    assert len(task.given_rewards()) == 5
    assert all(one.rejected is None for one in task.demonstrations(0))
    with pytest.raises(ProfileError, match="of which dpo cannot learn"):
        task_of(folder, **{'["qrpo"]': '["qrpo", "dpo"]'})
    with pytest.raises(ProfileError, match=r'set training\.setting = "offline"'):
        task_of(folder, **{'"offline"': '"off-policy-best"'})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a", "completion": "b"}] * 9, "there is a task pointwise"),
        ([{"prompt": "a"}] * 9, "have the columns prompt"),
        ([pair(0)] * 9, "no rows for the split"),
        ([pair(i) | {"weight": 1.0} for i in range(8)] + [pair(8) | {"weight": 2.0}], "weight of a row is for"),
        ([pair(i) | {"tools": [{"name": "x"}]} for i in range(9)], "tools of a row is for QRPOTrainer"),
        ([pair(i) | {"prompt_ids": [1]} for i in range(9)], "token ids, but no|prompt_ids of a row is for QRPOTrainer"),
        ([pair(i) | {"ref_chosen_logps": -1.0} for i in range(9)], "ref_chosen_logps of a row is for QRPOTrainer"),
        ([], "is empty"),
        ([pair(i) | {"chosen_reward": [1.0]} for i in range(9)], "row 0: chosen_reward must be one number"),
        ([pair(i) | {"reference_rewards": 0.5} for i in range(9)], "row 0: reference_rewards must be a list"),
        ([pair(i) | {"prompt": "a"} for i in range(9)], "row 0: its prompt is a text"),
        ([{"prompt": "", "chosen": "a", "rejected": "b"}] * 9, "row 0: the prompt is empty"),
        ([pair(i) | {"chosen_reward": float("nan")} for i in range(9)], "row 0: chosen_reward is not finite"),
        ([pair(i) | {"reference_rewards": [0.5, None]} for i in range(9)], "row 0: one of reference_rewards is not"),
        ([{"prompt": f"{i} \ud800", "chosen": "a", "rejected": "b"} for i in range(9)], "half of a character"),
    ],
)
def test_data_that_cannot_be_used(rows, said, folder):
    write(folder / "rows.jsonl", rows)
    with pytest.raises(InputError, match=said):
        task_of(folder).prompts(0)


def test_what_is_not_there_is_said_before_work(folder):
    task_of(folder).check_available()
    (folder / "my_reward.py").unlink()
    with pytest.raises(InputError, match="no file"):
        task_of(folder).check_available()
    (folder / "rows.jsonl").unlink()
    with pytest.raises(InputError, match="names as its data"):
        task_of(folder).check_available()


def with_references(number, **more):
    return pair(number) | {"chosen_reward": 0.7, "rejected_reward": 0.1, "reference_rewards": [0.1, 0.7]} | more


def test_rewards_and_references_that_rows_come_with_are_taken(folder):
    write(folder / "rows.jsonl", [with_references(i) for i in range(20)])
    task = task_of(folder)
    assert task.has_references
    first = task.rows[0].id
    assert task.given_references(beside_scores=False)[first] == [0.1, 0.7]
    assert task.given_pair_rewards()[first, "chosen"] == 0.7
    assert len(task.given_pair_rewards()) == 40
    # a computed reward is a float32: the equal reference reward must stay equal
    assert np.float32(0.7) in task.given_references(beside_scores=True)[first]
    write(folder / "rows.jsonl", [with_references(i, chosen_reward=None) for i in range(20)])
    task = task_of(folder)
    assert (task.rows[0].id, "chosen") not in task.given_pair_rewards()
    assert np.float32(0.7) in task.given_references(beside_scores=False)[task.rows[0].id]
    assert not task_of(folder, **{"[training]": 'references = "sampled"\n[training]'}).has_references


def test_one_prompt_with_two_values_for_the_reward(folder):
    """Its completions would all be scored with the first."""
    rows = [pair(i) for i in range(20)]
    write(folder / "rows.jsonl", [*rows, rows[3] | {"id": 1}])
    task_of(folder).reward()  # which the reward is not told
    write(folder / "rows.jsonl", [*rows, rows[3] | {"level": 99}])
    with pytest.raises(InputError, match="have the same prompt and another level"):
        task_of(folder).reward()


def test_a_mark_of_byte_order_hides_no_references(folder):
    """As other programs write it before the first row."""
    rows = [pair(i) | {"reference_rewards": [0.1, 0.2]} for i in range(20)]
    (folder / "rows.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = task_of(folder)
    assert task.has_references
    for values in task.given_references(beside_scores=False).values():
        assert values == pytest.approx([0.1, 0.2])


def test_references_that_only_some_rows_have_are_refused(folder):
    write(folder / "rows.jsonl", [with_references(i) for i in range(19)] + [pair(19)])
    with pytest.raises(InputError, match="row 19: it has no reference_rewards"):
        task_of(folder).prompts(0)
    write(folder / "rows.jsonl", [pair(0)] + [with_references(i) for i in range(1, 20)])
    assert not task_of(folder).has_references
    with pytest.raises(InputError, match="row 1: it has reference_rewards, which count unasked only"):
        task_of(folder).prompts(0)
    task = task_of(folder, **{"[training]": 'references = "sampled"\n[training]'})
    assert not task.given_references(beside_scores=False)[task.rows[0].id]
    with pytest.raises(InputError, match="row 0: it has no reference_rewards, which task"):
        task_of(folder, **{"[training]": 'references = "given"\n[training]'}).prompts(0)


def test_references_have_the_name_that_the_trainer_takes_too(folder):
    """`ref_rewards`, as in rows of token ids: the trainer would train with them, and a profile sample others."""
    write(folder / "rows.jsonl", [pair(i) | {"ref_rewards": [0.25, 0.5]} for i in range(20)])
    task = task_of(folder)
    assert task.has_references
    assert task.given_references(beside_scores=False)[task.rows[0].id] == [0.25, 0.5]


def test_a_source_of_which_no_row_is_taken(folder):
    write(folder / "more.jsonl", [pair(i, [{"role": "user", "content": f"other {i}"}]) for i in range(20)])
    sources = '[[arms.chat.task.sources]]\ndataset = "rows.jsonl"\n[[arms.chat.task.sources]]\ndataset = "more.jsonl"\n'
    text = (folder / "mine.toml").read_text().replace('dataset = "rows.jsonl"\n', "")
    (folder / "mine.toml").write_text(text + sources + "weight = 0.01\n")
    with pytest.raises(
        InputError, match=r"source 1 of the mixture, which has 16 train rows, weight = 0\.01 takes none"
    ):
        task_of(folder).prompts(0)


@pytest.mark.parametrize(
    ("more", "said"),
    [('train_split = "other"', "has no train_split 'other'"), (f'revision = "{"a" * 40}"', "has no revision")],
)
def test_a_file_has_no_splits_and_no_revision(more, said, folder):
    with pytest.raises(InputError, match=said):
        task_of(folder, **{'dataset = "rows.jsonl"': f'dataset = "rows.jsonl"\n{more}'}).check_available()


def test_a_file_is_known_by_its_ending(folder):
    (folder / "rows.jsonl").rename(folder / "ROWS.JSONL")
    assert len(task_of(folder, **{'"rows.jsonl"': '"ROWS.JSONL"'}).rows) == 20
    for name in ("rows.jsonl.gz", "rows.txt", " "):
        with pytest.raises(InputError, match="is no file of rows by its ending"):
            task_of(folder, **{'"rows.jsonl"': f'"{name}"'}).check_available()


def test_rows_that_are_left_out_are_counted(folder):
    unusable = pair(3) | {"chosen": [{"role": "user", "content": "no answer"}]}
    write(folder / "rows.jsonl", [pair(i) for i in range(20)] + [unusable] * 2)
    with pytest.warns(UserWarning, match=r"2 rows of .* are left out \(.*row 20: A completion must be"):
        assert len(task_of(folder).rows) == 20


def test_a_source_is_named_once(folder):
    twice = 'sources = [{ dataset = "rows.jsonl" }, { dataset = "rows.jsonl", weight = 2.0 }]'
    with pytest.raises(ProfileError, match="sources names the same rows twice"):
        task_of(folder, **{'dataset = "rows.jsonl"': twice})


def test_a_folder_that_datasets_saved(folder):
    """One split, or several."""
    from datasets import Dataset, DatasetDict

    data = Dataset.from_list([pair(i) for i in range(20)])
    expected = [(row.prompt, row.split) for row in task_of(folder).rows]
    named = {'"rows.jsonl"': '"./data"'}
    data.save_to_disk(folder / "data")
    assert [(row.prompt, row.split) for row in task_of(folder, **named).rows] == expected
    with pytest.raises(InputError, match="without splits: it has no split 'test'"):
        task_of(folder, **{'"rows.jsonl"': '"./data"\ntest_split = "test"'}).prompts(0)
    DatasetDict({"train": data.select(range(15)), "test": data.select(range(15, 20))}).save_to_disk(folder / "both")
    rows = task_of(folder, **{'"rows.jsonl"': '"./both"\ntest_split = "test"'}).rows
    assert sum(row.split == "train" for row in rows) == 15


def test_prompts_with_turns_that_call_tools(folder):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "find"}}]}
    turns = [{"role": "user", "content": "one"}, call, {"role": "tool", "content": "two"}]
    write(folder / "rows.jsonl", [pair(i, [*turns, {"role": "user", "content": str(i)}]) for i in range(20)])
    prompt = task_of(folder).rows[0].prompt
    assert conversations.decoded(prompt)[1] == call | {"content": ""}
    assert conversations.readable(prompt).splitlines()[:3] == ["user: one", "assistant: ", "tool: two"]


def test_a_function_is_looked_for_before_work(folder):
    for text, said in (("def other(): pass", "no function 'reward'"), ("def reward(:", "is not Python")):
        (folder / "my_reward.py").write_text(text)
        with pytest.raises(InputError, match=said):
            task_of(folder).check_available()
    (folder / "my_reward.py").write_text("def reward(completions, height): return []")
    with pytest.raises(InputError, match="asks for height, which the rows do not have"):
        task_of(folder).reward()


def test_a_column_may_hold_what_equals_nothing(folder):
    """NaN is not itself: a row would differ from itself."""
    write(folder / "rows.jsonl", [pair(i) | {"level": float("nan")} for i in range(20)])
    task_of(folder).reward()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "dataset"', 'name = "dataset"\nheld_out = 2.0', r"task\.held_out: input should be less than 1"),
        ('name = "dataset"', 'name = "dataset"\nheldout = 0.2', r"task\.heldout: there is no such setting"),
        ('dataset = "rows.jsonl"', "dataset = 5", r"task\.dataset: input should be a valid string"),
        ('"my_reward.py:reward"', '"my_reward.py"', r"task\.reward\.function: must be FILE\.py:FUNCTION or MODULE"),
    ],
)
def test_a_key_is_named_as_it_stands_in_the_file(old, new, said, folder):
    """Where a kind is called as one of its keys is."""
    with pytest.raises(ProfileError, match=said):
        task_of(folder, **{old: new})


def test_reference_rewards_are_as_many_as_the_profile_says(folder):
    from qrpo_lib.steps import reference_sampling

    write(folder / "rows.jsonl", [with_references(i) for i in range(20)])
    profile = profiles.load(folder / "mine.toml")  # smol takes 3
    assert reference_sampling.has_given_references(profile)
    with pytest.raises(InputError, match=r"2 reference_rewards.*ref_rewards = 3"):
        reference_sampling._share_candidates(profile, profile.reference_sampling.ref_rewards)


def test_held_out_rows_in_a_file_of_their_own(folder):
    write(folder / "test.jsonl", [pair(i) for i in range(15, 25)])
    more = {"[training]": "[training]", 'dataset = "rows.jsonl"': 'dataset = "rows.jsonl"\ntest_dataset = "test.jsonl"'}
    task = task_of(folder, **more)
    by_split = {
        split: {r.prompt for r in task.rows if r.split == split} for split in ("train", "selection", "reporting")
    }
    assert {split: len(texts) for split, texts in by_split.items()} == {"train": 15, "selection": 5, "reporting": 5}
    assert by_split["train"] == {f"question {i}" for i in range(15)}  # without those that are held out
    before = task.parameters()
    write(folder / "test.jsonl", [pair(i) for i in range(15, 26)])
    assert task_of(folder, **more).parameters() != before
    (folder / "test.jsonl").unlink()
    with pytest.raises(InputError, match="names as its test_dataset"):
        task_of(folder, **more).check_available()


def test_own_numbers_stand_alone():
    from qrpo_lib.results import tables

    text = tables.alone(tables.Table("| ours |", ""), "mine, chat")
    assert "| ours |" in text
    assert "published" not in text


def test_relevance_reads_the_turns(folder):
    from qrpo_lib.tasks import own_data

    class Lengths:
        def score(self, prompts, completions):
            return np.array([len(prompt) for prompt in prompts])

    prompt = conversations.encoded([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])
    assert own_data._OfReadable(Lengths()).score([prompt], ["x"]).tolist() == [len("system: s\nuser: u")]
