"""Ranks are enumerated here: every order of the completions is equally likely, whatever the reward."""

from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from qrpo_lib.objective import losses, transforms
from qrpo_lib.theory.reference_sets import SIDES, ReferenceSet, generalised_limit

SETS = [
    ReferenceSet(n, candidates, pair, shared)
    for n, candidates in ((1, 3), (2, 3), (3, 3), (4, 3), (2, 2), (3, 4), (1, 2))
    for pair in ("random", "best")
    for shared in (False, True)
]


def pairs_of(rewards, kind):
    """(chosen, rejected) of each way to make a pair of these candidates."""
    if kind == "best":
        return [(max(rewards), min(rewards))]
    return [(max(two), min(two)) for two in combinations(rewards, 2)]


def enumerated(references, side):
    n, m = references.n, references.candidates
    counts = Counter()
    for order in permutations(range(max(n, m) if references.shared else n + m)):
        candidates, others = order[:m], order[m : m + n]
        compared = order[:n] if references.shared else others
        for pair in pairs_of(candidates, references.pair):
            counts[sum(other <= pair[SIDES.index(side)] for other in compared)] += 1
    return np.array([counts[rank] for rank in range(n + 1)]) / counts.total()


@pytest.mark.parametrize("references", SETS, ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_the_law_of_the_rank_is_the_enumerated_one(references, side):
    np.testing.assert_allclose(references.rank(side), enumerated(references, side), atol=1e-12)


@pytest.mark.parametrize("n", [1, 3, 10, 25, 50])
@pytest.mark.parametrize("candidates", [2, 6])
def test_apart_the_law_is_the_beta_binomial_one(n, candidates):
    """Of the j-th smallest of m: BetaBinomial(n, j, m - j + 1)."""
    best = ReferenceSet(n, candidates, "best")
    np.testing.assert_allclose(best.rank("chosen"), stats.betabinom.pmf(np.arange(n + 1), n, candidates, 1), atol=1e-12)
    np.testing.assert_allclose(
        best.rank("rejected"), stats.betabinom.pmf(np.arange(n + 1), n, 1, candidates), atol=1e-12
    )
    either = np.mean([ReferenceSet(n, candidates).rank(side) for side in SIDES], axis=0)
    np.testing.assert_allclose(either, 1 / (n + 1), atol=1e-12)


@pytest.mark.parametrize("n", [6, 10, 50])
def test_means_of_the_estimate_are_the_stated_ones(n):
    quantile, m = np.linspace(0.05, 0.95, 7), 6
    share = np.arange(n + 1) / n

    def mean(references, side):
        return references.rank_given(quantile, side) @ share

    for pair in ("random", "best"):
        for side in SIDES:
            np.testing.assert_allclose(mean(ReferenceSet(n, m, pair), side), quantile)
    best = ReferenceSet(n, m, "best", shared=True)
    np.testing.assert_allclose(mean(best, "chosen"), quantile + m * (1 - quantile) / n)
    np.testing.assert_allclose(mean(best, "rejected"), quantile + (1 - m * quantile) / n)
    random = ReferenceSet(n, m, "random", shared=True)
    np.testing.assert_allclose(random.mean_transformed("identity", quantile), quantile + (1 - quantile) / n)
    few = ReferenceSet(2, m, "random", shared=True)
    np.testing.assert_allclose(few.mean_transformed("identity", quantile), quantile + (1 - quantile) / m)


def test_with_as_many_references_as_candidates_best_and_worst_are_constants():
    law = ReferenceSet(6, 6, "best", shared=True)
    assert law.rank("chosen")[6] == pytest.approx(1)
    assert law.rank("rejected")[1] == pytest.approx(1)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("pair", ["random", "best"])
def test_the_loss_at_the_start_is_the_loss_functions(pair, shared):
    """And tells the constructions apart: simulated prompts, the trainer's own loss, log-ratios of 0."""
    prompts, m, n, beta = 20_000, 6, 3, 0.1
    generator = np.random.default_rng(0)
    sampled = np.exp(generator.normal(size=(prompts, m + n)))
    candidates = sampled[:, :m] if pair == "best" else sampled[:, 1:3]
    if pair == "random":  # a random pair of the candidates
        columns = np.argsort(generator.random((prompts, m)), axis=1)[:, :2]
        candidates = np.take_along_axis(sampled, columns, axis=1)
    chosen, rejected = (torch.as_tensor(take(candidates, axis=1)) for take in (np.max, np.min))
    compared = torch.as_tensor(sampled[:, :n] if shared else sampled[:, m:])
    zeros = torch.zeros(prompts, dtype=torch.float64)
    found = losses.qrpo_pair(zeros, zeros, zeros, zeros, chosen, rejected, compared, beta=beta).numpy()
    expected = {way: ReferenceSet(n, m, pair, way).loss_at_start("identity", beta)["both"] for way in (False, True)}
    error = found.std() / np.sqrt(prompts)
    assert found.mean() == pytest.approx(expected[shared], abs=4 * error)
    assert abs(found.mean() - expected[not shared]) > 8 * error


@pytest.mark.parametrize("beta", [0.03, 0.3])
def test_apart_the_limit_is_qrpos_optimum_at_every_number_of_references(beta):
    limits = [generalised_limit(ReferenceSet(n, 6, "best"), "identity", beta) for n in (1, 3, 10, 50)]
    density_mean = 1 / -np.expm1(-1 / beta) - beta
    log_z = transforms.get("identity").log_partition(beta)
    for limit in limits:
        assert limit.mean_quantile == pytest.approx(density_mean, abs=1e-9)
        assert limit.kl == pytest.approx(density_mean / beta - log_z, abs=1e-8)


def test_shared_the_limit_changes_with_the_number_of_references():
    counts = (1, 6, 10, 50, 1000)
    limits = [generalised_limit(ReferenceSet(n, 6, "random", shared=True), "identity", 0.1) for n in counts]
    quantiles = [limit.mean_quantile for limit in limits]
    # Up to as many as candidates the mean target is F + (1 - F)/6: a completion is as often among them as it weighs.
    assert quantiles[0] == pytest.approx(quantiles[1], abs=1e-9)
    assert quantiles[1:] == sorted(quantiles[1:])
    apart = generalised_limit(ReferenceSet(1000, 6), "identity", 0.1)
    assert quantiles[-1] == pytest.approx(apart.mean_quantile, abs=1e-3)
    assert quantiles[0] < apart.mean_quantile - 0.01


def test_the_limit_is_the_constrained_minimum():
    """Against a general optimiser, over 60 values of F, with the constraint that the policy is normalised."""
    references, beta, count = ReferenceSet(10, 6, "best", shared=True), 0.3, 60
    quantile = (np.arange(count) + 0.5) / count
    target = references.mean_transformed("identity", quantile) / beta - transforms.get("identity").log_partition(beta)
    weight = references.density(quantile) / count

    def loss(h):
        return weight @ (h - target) ** 2, 2 * weight * (h - target)

    normalised = {"type": "eq", "fun": lambda h: np.exp(h).mean() - 1, "jac": lambda h: np.exp(h) / count}
    found = optimize.minimize(loss, target, jac=True, method="SLSQP", constraints=[normalised], tol=1e-12)
    share = np.exp(found.x) / count
    limit = generalised_limit(references, "identity", beta)
    assert limit.mean_quantile == pytest.approx(share @ quantile, abs=1e-3)
    assert limit.kl == pytest.approx(share @ found.x, abs=3e-3)


def test_what_is_no_set_is_refused():
    for wrong in ({"n": 0}, {"n": 1, "candidates": 1}, {"n": 1, "pair": "worst"}):
        with pytest.raises(ValueError, match="at least 2 candidates"):
            ReferenceSet(**wrong)
    with pytest.raises(ValueError, match="a side is one of"):
        ReferenceSet(1).rank_given(0.5, "best")
