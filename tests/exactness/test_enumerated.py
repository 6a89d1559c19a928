"""An enumerated prompt: every completion once, exact quantiles, weights of the data, closed forms that are minima."""

import numpy as np
import pytest
from scipy import special

from qrpo_lib.exactness import cases, enumerated
from qrpo_lib.theory import tabular

TOLERANCE = 1e-3  # nats


@pytest.fixture(scope="module")
def problem():
    return enumerated.problem(seed=0)


def test_every_completion_is_enumerated_once(problem):
    assert len(problem.completions) == len({tuple(one) for one in problem.completions}) == 1 + 3 + 9 + 27 + 81
    assert np.exp(problem.log_ref).sum() == pytest.approx(1, abs=1e-5)
    assert max(map(len, problem.completions)) == 4
    for completion in problem.completions:
        assert enumerated.EOS not in completion[:-1]
        assert len(completion) == 4 or completion[-1] == enumerated.EOS


def test_reference_rewards_tell_the_exact_quantiles(problem):
    estimated = (problem.ref_rewards <= problem.rewards[:, None]).mean(1)
    exact = tabular.quantiles(problem.log_ref, problem.rewards)
    assert np.abs(estimated - exact).max() <= 1 / len(problem.ref_rewards)


def test_the_random_reference_does_not_depend_on_the_random_state_of_torch(problem):
    assert np.array_equal(enumerated.problem(seed=0).log_ref, problem.log_ref)
    assert not np.array_equal(enumerated.problem(seed=1).log_ref, problem.log_ref)


@pytest.mark.parametrize("algorithm", ["qrpo", "dpo", "rebel"])
@pytest.mark.parametrize("name", cases.DATA)
def test_weights_are_the_distribution_of_the_data(algorithm, name, problem):
    """Every pair with the probability of its completions; preferences by Bradley-Terry in both orders."""
    log_data = cases.distribution(problem, name)
    rows = enumerated.rows(problem, algorithm, log_data)
    index = {tuple(one): i for i, one in enumerate(problem.completions)}
    if algorithm == "qrpo":
        assert [row["weight"] for row in rows] == pytest.approx(121 * np.exp(log_data))
        return
    of_pair = {}
    for row in rows:
        i, j = index[tuple(row["chosen_ids"])], index[tuple(row["rejected_ids"])]
        of_pair.setdefault((i, j), []).append(row["weight"])
    for (i, j), weights in of_pair.items():
        expected = 121**2 * np.exp(log_data[i] + log_data[j])
        if algorithm == "dpo":
            expected *= special.expit(problem.rewards[i] - problem.rewards[j])
            assert (j, i) in of_pair
        assert weights == pytest.approx([expected] * len(weights))


def test_closed_forms_are_minima(problem):
    """Each loss, as a sum over the rows, grows in every direction from its optimum."""
    generator = np.random.default_rng(0)
    index = {tuple(one): i for i, one in enumerate(problem.completions)}
    for algorithm, loss in (("dpo", {"beta": 2.0}), ("rebel", {"beta": 2.0}), ("simpo", cases.SIMPO)):
        rows = enumerated.rows(problem, algorithm, problem.log_ref)
        i, j = (np.array([index[tuple(row[f"{side}_ids"])] for row in rows]) for side in ("chosen", "rejected"))
        weights = np.array([row["weight"] for row in rows])

        def total(policy, algorithm=algorithm, loss=loss, i=i, j=j, weights=weights):
            log_ratio = policy - problem.log_ref
            if algorithm == "simpo":
                log_ratio = policy / problem.lengths
            margin = log_ratio[i] - log_ratio[j]
            if algorithm == "rebel":
                return weights @ ((problem.rewards[i] - problem.rewards[j]) / loss["beta"] - margin) ** 2
            return weights @ np.logaddexp(0, -loss["beta"] * margin)

        best = enumerated.optimum(problem, algorithm, loss)
        assert np.exp(best).sum() == pytest.approx(1)
        for _ in range(20):
            other = special.log_softmax(best + 1e-3 * generator.normal(size=len(best)))
            assert total(other) > total(best)


def test_a_chain_of_pairs_mixes_slowly(problem):
    uniform = np.full(121, -np.log(121))
    random, chain = (enumerated.rows(problem, "rebel", uniform, chain=chain) for chain in (False, True))
    assert enumerated.spectral_gap(problem, chain) == pytest.approx(1 - np.cos(2 * np.pi / 121), rel=1e-6)
    assert enumerated.spectral_gap(problem, random) > 50 * enumerated.spectral_gap(problem, chain)
