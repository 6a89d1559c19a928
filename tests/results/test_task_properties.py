import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from qrpo_lib.experiment import grid
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import task_properties
from qrpo_lib.runs import folders


def completions(rewards, lengths, finish="stop"):
    prompts, count = rewards.shape
    names = np.repeat([f"p{i}" for i in range(prompts)], count)
    columns = {"prompt_id": names, "reward": rewards.ravel(), "length": lengths.ravel(), "finish_reason": finish}
    return pd.DataFrame(columns)


def test_properties_of_completions_of_a_known_law():
    """Exponential rewards: skewness 2, a best of 50 at the 50th harmonic number; lengths uniform on 1..10."""
    generator = np.random.default_rng(0)
    rewards, lengths = generator.exponential(size=(400, 200)), generator.integers(1, 11, size=(400, 200))
    found = task_properties.of_completions(completions(rewards, lengths))
    assert found["skewness"] == pytest.approx(2, abs=0.1)
    assert found["best_of_50"] == pytest.approx(sum(1 / k for k in range(1, 51)) - 1, abs=0.1)
    assert found["reward_length_rho"] == pytest.approx(0, abs=0.02)
    assert found["length_variation"] == pytest.approx(np.sqrt(99 / 12) / 5.5, abs=0.01)
    assert found["largest_length_share"] == pytest.approx(0.1, abs=0.01)
    assert found["cut"] == 0
    longer = task_properties.of_completions(completions(lengths.astype(float), lengths, "length"))
    assert (longer["reward_length_rho"], longer["cut"]) == (pytest.approx(1), 1)


@pytest.mark.parametrize("beta", [0.01, 0.03, 0.3])
def test_the_optimums_kl_is_the_integral(beta):
    scale = integrate.quad(lambda t: np.exp((t - 1) / beta), 0, 1, points=[1 - beta])[0]

    def integrand(t):
        density = np.exp((t - 1) / beta) / scale
        return density * np.log(density) if density > 0 else 0.0

    assert task_properties.optimal_kl(beta) == pytest.approx(integrate.quad(integrand, 0, 1, points=[1 - beta])[0])


@pytest.fixture
def of_beta(monkeypatch, runs_folder):
    """QRPO's runs by beta, with log-ratios of a known KL: normal of mean k and variance 2 k under the policy itself."""
    profile = profiles.load("tiny-full", "chat-world-0")

    def make(kls):
        generator, parts = np.random.default_rng(0), []
        for beta, kl in kls.items():
            for step, of_step in ((60, kl),):
                ratio = generator.normal(of_step, np.sqrt(2 * of_step), size=(48, 200)).ravel()
                columns = {"prompt_id": np.repeat(np.arange(48), 200), "split": "selection", "step": step, "beta": beta}
                lengths = generator.integers(5, 30, size=ratio.size)
                part = pd.DataFrame(columns | {"logp": ratio - 20, "ref_logp": -20.0, "length": lengths})
                # The prompt's level, which has nothing to do with length, is far larger.
                parts.append(part.assign(reward=part["length"] + 100.0 * part["prompt_id"]))
        rows = pd.concat(parts, ignore_index=True)
        runs = grid.of_beta(profile)
        asked = {run: {60} for run in runs}
        for run in runs:
            folders.complete(run.training(profile), lambda folder: (folder / "history.csv").write_text("step\n60\n"))
            folders.complete(run.step(profile), lambda folder: None)

        def answers(of, wanted, split, log_ratios):
            assert (wanted, split, log_ratios) == (asked, "selection", True)
            return rows[rows["step"] == 60]

        monkeypatch.setattr(task_properties.train, "report", lambda of, wanted, split, log_ratios: None)
        monkeypatch.setattr(task_properties.read, "answers", answers)
        return profile, runs

    return make


def test_kl_by_beta_is_of_the_last_step(of_beta):
    table = task_properties.kl_by_beta(*of_beta({0.03: 2.0, 0.3: 0.36})).set_index("beta")
    assert table.loc[0.03, "kl"] == pytest.approx(2.0, rel=0.1)
    assert table.loc[0.3, "kl"] == pytest.approx(0.36, rel=0.05)
    assert table.loc[0.3, "closed_form"] == pytest.approx(0.364, abs=2e-3)
    assert (table["rho"] > 0.99).all()


def test_training_that_does_what_beta_says_holds_and_other_does_not(of_beta):
    def holds(kls):
        table = task_properties.of_training(*of_beta(kls))
        return dict(zip(table["property"], table["holds"], strict=True))

    assert holds({0.03: 2.3, 0.1: 1.3, 0.3: 0.36}) == {"kl_ratio": True, "kl_span": True}
    assert holds({0.03: 0.58, 0.1: 0.56, 0.3: 0.27}) == {"kl_ratio": False, "kl_span": False}


def test_the_runs_of_beta_differ_in_beta_alone():
    profile = profiles.load("tiny-full", "chat-world-0")
    runs = grid.of_beta(profile)
    assert [run.beta for run in runs] == [0.03, 0.1, 0.3]
    assert len({grid.with_seed(run, 0).learning_rate for run in runs}) == 1
    assert set(runs) <= set(grid.grid(profile))  # made for the sweep all the same


def test_pairs_are_measured_beside_their_prompts_completions(monkeypatch):
    """Chosen at the 90th of 100 references and rejected at the 40th, twice as long and less likely by 0.5 a token."""
    profile = profiles.load("tiny-full", "chat-world-0")
    names = [f"p{i}" for i in range(60)]
    rows = [
        {"prompt_id": name, "split": "selection" if i < 20 else "train", "side": side, "reward": float(reward)}
        for i, name in enumerate(names)
        for side, reward in (("chosen", 89), ("rejected", 39))
    ]
    pairs = pd.DataFrame(rows).assign(token_ids=[[1] * 20] * len(rows))
    own = completions(np.tile(np.arange(100.0), (60, 1)), np.full((60, 100), 10)).assign(logp=-10.0)
    for name, value in (("reference_policy", "run"), ("dataset_pairs", "run"), ("dataset_pairs", "load")):
        monkeypatch.setattr(getattr(task_properties, name), value, lambda *_: pairs)
    monkeypatch.setattr(task_properties.dataset_pairs, "with_token_ids", lambda frame, _: frame)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_: None)
    monkeypatch.setattr(task_properties, "_with_logp", lambda rows, *_: rows.assign(logp=-30.0))
    found = task_properties.of_pairs(profile, own)
    assert (found["chosen_quantile"], found["rejected_quantile"]) == pytest.approx((0.9, 0.4))
    assert found["chosen_less_likely"] == pytest.approx(-1 + 1.5)
    assert found["lengths_in_a_pair"] == 0
    assert found["lengths_to_reference"] == stats.ks_2samp([20], [10]).statistic == 1


def test_a_limit_says_its_side():
    assert str(task_properties.OF_DATA["skewness"]) == "at least 0.5"
    assert str(task_properties.OF_DATA["cut"]) == "at most 0.02"
    assert str(task_properties.OF_DATA["chosen_quantile"]) == "0.85 to 0.95"


def test_the_picture_of_the_kl_is_the_table(of_beta):
    table = task_properties.kl_by_beta(*of_beta({0.03: 2.0, 0.3: 0.36}))
    (axis,) = task_properties.draw_kl(table).axes
    drawn = [line.get_ydata().tolist() for line in axis.lines]
    assert drawn == [table[name].tolist() for name in ("kl", "median_kl", "closed_form")]
    plt.close("all")
