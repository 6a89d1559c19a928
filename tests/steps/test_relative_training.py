"""QRPO's relatives on the smallest profile: what each is trained on, by which step, and what its policy answers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import special
from transformers import AutoModelForCausalLM, AutoTokenizer

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.relatives import Method
from qrpo_lib.steps import (
    fitting,
    online_training,
    reference_log_probs,
    reference_policy,
    reference_sampling,
    regression_training,
    relative_evaluation,
    relative_targets,
    relative_training,
    training_pairs,
    value_regression,
)

BASE = Path(__file__).parents[1] / "data" / "smallest.toml"
pytestmark = pytest.mark.usefixtures("shared_runs")
RATE = 2e-4


def method(name, beta=0.3, **values):
    return Method(name=name, beta=beta, learning_rate=RATE, **values)


@pytest.fixture(scope="module")
def profile():
    return profiles.load(BASE).with_training(setting="off-policy-random")


@pytest.fixture(scope="module")
def pairs(profile):
    reference_sampling.run(profile)
    return training_pairs.of(profile).train.rows


# --- steps ------------------------------------------------------------------------------------------------------------


def test_qrpo_and_dpo_are_the_suites_own_trainings(profile):
    chosen = method("qrpo", 0.1, num_ref_rewards=3, partition="finite")
    values = {"qrpo.beta": 0.1, "qrpo.learning_rate": RATE, "qrpo.num_ref_rewards": 3, "qrpo.partition": "finite"}
    own = fitting.step(profile.with_training(**values), "qrpo", 2)
    assert relative_training.step(profile, chosen, 2).key == own.key
    values = {"dpo.beta": 0.3, "dpo.learning_rate": RATE}
    own = fitting.step(profile.with_training(**values), "dpo", 0)
    assert relative_training.step(profile, method("dpo"), 0).key == own.key


def test_each_value_has_a_key_of_its_own(profile):
    some = [
        method("raw-reward", num_ref_rewards=3),
        method("raw-reward", num_ref_rewards=4),
        method("raw-reward", num_ref_rewards=4, corrected=True),
        method("raw-reward", 0.1, num_ref_rewards=4),
        method("qrpo", num_ref_rewards=4, partition="discrete"),
        method("dro"),
        method("ipo"),
        method("kto", num_ref_rewards=4),
        method("rpo"),
        method("grpo", completions=3),
        method("rloo", completions=3),
    ]
    keys = [relative_training.step(profile, one, seed).key for one in some for seed in (0, 1)]
    assert len(set(keys)) == len(keys)
    offline = profile.with_training(setting="offline")
    assert relative_training.step(offline, some[0], 0).key not in keys


def test_a_trained_relative_answers_the_reporting_prompts(profile, pairs):
    """One training by regression, and its answers: rewards, log-probabilities of both policies, what was before."""
    chosen = method("raw-reward", num_ref_rewards=4)
    folder = relative_evaluation.run(profile, chosen, 0, "reporting")
    answers = relative_evaluation.load(folder)
    assert len(answers) == 12
    assert set(answers["step"]) == {1}
    trained = relative_training.policy(relative_training.step(profile, chosen, 0))
    before = reference_policy.step(profile).folder
    tokenizer = AutoTokenizer.from_pretrained(before)
    row = answers.iloc[3]
    prompts = reference_sampling.load(reference_sampling.step(profile).folder).drop_duplicates("prompt_id")
    start = list(prompts.set_index("prompt_id").loc[row["prompt_id"], "prompt_ids"])
    for policy, column in ((trained, "policy_logp"), (before, "ref_logp")):
        model = AutoModelForCausalLM.from_pretrained(policy)
        ids = start + list(row["token_ids"])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        expected = sum(float(logits[place - 1, ids[place]]) for place in range(len(start), len(ids)))
        assert row[column] == pytest.approx(expected, rel=1e-4)
    assert (answers["policy_logp"] - answers["logp"]).abs().max() < 1e-2  # the engine's
    assert tokenizer.decode(row["token_ids"], skip_special_tokens=True) == row["text"]
    assert json.loads((folder / "record.json").read_text())["parameters"]["method"] == chosen.parameters
    history = relative_training.load_history(relative_training.step(profile, chosen, 0))
    assert history["step"].tolist() == [1, 2, 3, 4]
    targets = np.array([row["targets"] for row in relative_targets.with_targets(pairs, chosen)])
    assert history["loss"][0] < (targets**2).max()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "chosen",
    [
        method("dro"),
        method("best-of-n", 1 / 3, num_ref_rewards=4, best_of=4),
        method("qrpo-by-length", 0.1, num_ref_rewards=4),
        method("rpo"),
        method("ipo", 1.0),
        method("kto", 0.1, num_ref_rewards=4),
        method("grpo", completions=3),
        method("rloo", completions=3),
        method("online-qrpo", completions=3, references="renewed"),
        method("online-qrpo", completions=3, data="thirds", num_ref_rewards=3),
    ],
    ids=lambda chosen: f"{chosen.name} {chosen.data or chosen.references or ''}",
)
def test_every_method_moves_the_policy(profile, pairs, chosen):
    relative_training.run(profile, chosen, 0)
    trained = relative_training.policy(relative_training.step(profile, chosen, 0))
    before, after = (
        AutoModelForCausalLM.from_pretrained(path) for path in (reference_policy.step(profile).folder, trained)
    )
    moved = [(a - b).abs().max().item() for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert 1e-5 < max(moved) < 1e-2
    history = relative_training.load_history(relative_training.step(profile, chosen, 0))
    assert np.isfinite(history["loss"]).all()
    assert len(history) == 4


# --- online -----------------------------------------------------------------------------------------------------------


def groups(profile, chosen):
    return online_training._Groups(regression_training.Setup(profile, chosen, 0))


def test_online_groups_are_the_current_policys_completions(profile, pairs):
    """Of each prompt as many as asked for, side by side, with the reference policy's rewards for references."""
    chosen = method("online-qrpo", completions=3, num_ref_rewards=4)
    made = groups(profile, chosen)
    prompts = made.prompts[:5]
    rows = made.completed(0, prompts)
    assert len(rows) == 15
    references = reference_sampling.reference_rewards(reference_sampling.step(profile).folder)
    ids = reference_sampling.load(reference_sampling.step(profile).folder).drop_duplicates("prompt_id")
    of_prompt = {tuple(row.prompt_ids): references[row.prompt_id] for row in ids.itertuples()}
    assert all(row["ref_rewards"] == of_prompt[tuple(row["prompt_ids"])] for row in rows)
    assert [row["prompt_ids"] for row in rows[::3]] == [prompt["of_prompt"] for prompt in prompts]
    again = made.completed(0, prompts)
    assert [row["completion_ids"] for row in again] == [row["completion_ids"] for row in rows]
    other = made.completed(1, prompts)
    assert [row["completion_ids"] for row in other] != [row["completion_ids"] for row in rows]


def test_mixed_data_hold_the_datasets_pair_candidates_and_online_ones(profile, pairs):
    from qrpo_lib.steps import dataset_pairs

    chosen = method("online-qrpo", completions=3, data="thirds", num_ref_rewards=3)
    dataset_pairs.run(profile)
    made = groups(profile, chosen)
    assert made.online == 1
    assert online_training.sampled(chosen) == 2 + 3
    frame = reference_sampling.load(reference_sampling.step(profile).folder)
    candidates = {tuple(ids) for ids in frame.loc[frame["role"] == "candidate", "token_ids"]}
    written = dataset_pairs.load(dataset_pairs.step(profile).folder)
    ids = dataset_pairs.with_token_ids(written, made.setup.tokenizer)
    of_dataset = {tuple(tokens) for tokens in ids["token_ids"]}
    rows = made.completed(0, made.prompts[:6])
    kinds = [
        "offline" if tuple(row["completion_ids"]) in of_dataset else
        "off-policy" if tuple(row["completion_ids"]) in candidates else "online"
        for row in rows
    ]  # fmt: skip
    assert kinds.count("offline") >= 6
    assert kinds.count("off-policy") >= 6
    off = groups(profile, method("online-qrpo", completions=3, data="off-policy", num_ref_rewards=3))
    assert off.online == 0
    assert {tuple(row["completion_ids"]) for row in off.completed(0, off.prompts)} <= candidates


# --- the loss that is stepped on --------------------------------------------------------------------------------------


@pytest.fixture
def first_step(profile, pairs, monkeypatch):
    """Takes a method's first step of training at weights that have moved: its model, its loss, rows drawn online."""
    reference_log_probs.run(profile)
    completed, found = online_training._Groups.completed, {}

    def train(setup, loss_of_step, steps, folder):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in setup.model.parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=generator)
        loss, _ = loss_of_step(0)
        found.update(model=setup.model, loss=loss.item(), settings=setup.settings)

    def remembered(groups, *arguments):
        found["rows"] = completed(groups, *arguments)
        return found["rows"]

    def take(chosen):
        monkeypatch.setattr(regression_training.Setup, "train", train)
        monkeypatch.setattr(online_training._Groups, "completed", remembered)
        relative_training.step(profile, chosen, 0).make(None)
        reference = AutoModelForCausalLM.from_pretrained(reference_policy.step(profile).folder)
        return SimpleNamespace(**found, reference=reference)

    return take


def of_tokens(model, row, column):
    """log pi of each completion token of one sequence alone, by the model's logits: (tokens,)."""
    ids, start = [*row["prompt_ids"], *row[column]], len(row["prompt_ids"]) - 1
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    return logps[range(start, len(ids) - 1), ids[start + 1 :]].numpy()


def log_ratios_of_tokens(taken, rows, column):
    """Of each row, (tokens,)."""
    return [of_tokens(taken.model, row, column) - of_tokens(taken.reference, row, column) for row in rows]


def least_squares(reference, pairs, residuals):
    """Ridge regression of residuals (prompts, 2) on the reference's last hidden state of the prompt: (prompts,)."""
    states = []
    for row in pairs:
        with torch.no_grad():
            output = reference(torch.tensor([row["prompt_ids"]]), output_hidden_states=True)
        states.append(output.hidden_states[-1][0, -1].double().numpy())
    scaled = (np.array(states) - np.mean(states, 0)) / np.std(states, 0, ddof=1)
    features = np.column_stack([scaled, np.ones(len(scaled))])
    shrunk = np.sqrt(value_regression.RIDGE) * np.eye(features.shape[1])[:-1]
    design = np.concatenate([features, features, shrunk])
    wanted = np.concatenate([residuals[:, 0], residuals[:, 1], np.zeros(len(shrunk))])
    return features @ np.linalg.lstsq(design, wanted, rcond=None)[0]


@pytest.mark.parametrize(
    "chosen",
    [
        method("raw-reward", num_ref_rewards=4),
        method("qrpo-by-length", 0.1, num_ref_rewards=4),
        method("dro"),
        method("rpo"),
    ],
    ids=lambda chosen: chosen.name,
)
def test_the_loss_on_pairs_is_the_formulas(pairs, first_step, chosen):
    """By log-probabilities of one sequence at a time, at a policy that is not the reference."""
    from qrpo_lib.training import plain_loop

    taken = first_step(chosen)
    numbered = [row | {"number": number} for number, row in enumerate(pairs)]
    batch = plain_loop.batches(numbered, taken.settings)[0]
    sides = [log_ratios_of_tokens(taken, batch, column) for column in ("chosen_ids", "rejected_ids")]
    log_ratios = np.array([[one.sum() for one in side] for side in sides]).T
    assert np.abs(log_ratios).max() > 0.1  # it has moved
    rewards = np.array([[row["chosen_reward"], row["rejected_reward"]] for row in batch])
    if chosen.name == "rpo":
        logits = [values[:, 0] - values[:, 1] for values in (rewards, 0.3 * log_ratios)]
        p, not_p, q, not_q = (special.expit(sign * logit) for logit in logits for sign in (1, -1))
        expected = (special.rel_entr(p, q) + special.rel_entr(not_p, not_q)).mean()
    elif chosen.name == "dro":
        residuals = np.array([[row["chosen_reward"], row["rejected_reward"]] for row in pairs])
        residuals[[row["number"] for row in batch]] -= 0.3 * log_ratios
        values = least_squares(taken.reference, pairs, residuals)[[row["number"] for row in batch]]
        expected = np.mean((rewards - values[:, None] - 0.3 * log_ratios) ** 2)
    else:
        rows = relative_targets.with_targets(pairs, chosen)
        of_batch = [rows[row["number"]] for row in batch]
        targets, betas = (np.array([row[name] for row in of_batch]) for name in ("targets", "betas"))
        expected = np.mean((targets - betas * log_ratios) ** 2)
    assert taken.loss == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "chosen",
    [
        method("online-qrpo", completions=3, references="renewed"),
        method("rloo", completions=3),
        method("grpo", completions=3),
    ],
    ids=lambda chosen: chosen.name,
)
def test_the_loss_on_online_completions_is_the_formulas(first_step, chosen):
    """The completions of a prompt are one group, and nothing of another prompt's is mixed in."""
    taken = first_step(chosen)
    rows = taken.rows
    of_rows = log_ratios_of_tokens(taken, rows, "completion_ids")
    assert max(abs(one.sum()) for one in of_rows) > 0.1
    assert len({row["reward"] for row in rows}) > len(rows) / 3
    losses = []
    for place, row in enumerate(rows):
        group = range(place // 3 * 3, place // 3 * 3 + 3)
        assert all(rows[i]["prompt_ids"] == row["prompt_ids"] for i in group)
        rewards, ratio = np.array([rows[i]["reward"] for i in group]), of_rows[place]
        others = [i for i in group if i != place]
        if chosen.name == "online-qrpo":
            quantile = np.mean([rows[i]["reward"] <= row["reward"] for i in others])
            target = quantile - 0.3 * np.log(0.3 * np.expm1(1 / 0.3))
            losses.append((target - 0.3 * ratio.sum()) ** 2)
        elif chosen.name == "rloo":
            penalised = {i: rows[i]["reward"] - 0.3 * of_rows[i].sum() for i in group}
            advantage = penalised[place] - np.mean([penalised[i] for i in others])
            losses.append(-advantage * of_tokens(taken.model, row, "completion_ids").sum())
        else:
            advantage = (row["reward"] - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
            losses.append(np.mean(0.3 * (np.exp(-ratio) - 1 + ratio) - advantage))
    assert taken.loss == pytest.approx(np.mean(losses), rel=1e-3, abs=1e-4)
