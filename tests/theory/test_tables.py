import math

import numpy as np
import pytest

from qrpo_lib.objective import transforms
from qrpo_lib.theory import asymptotics, noise, tables

pytestmark = pytest.mark.filterwarnings("error")


def test_table_4_has_every_transformation_at_every_beta():
    table = tables.table_4([1.0, 1e-3], mu=0.5, sigma=0.2)
    assert len(table) == 2 * len(transforms.NAMES)
    assert table["relative_difference"].max() < 1e-10
    gaussian = table[(table["transformation"] == "scaled-normal") & (table["beta"] == 1e-3)]["log_z"].item()
    assert gaussian == pytest.approx(500 + 0.02e6)


def test_mgf_table_leaves_out_the_divergent_exponential():
    table = tables.mgf_table([1.0, 0.1], completions=200, seed=0)
    assert list(table[table["rewards"] == "exponential"]["beta"]) == [1.0]
    assert table["relative_difference"].max() < 1e-10


def test_quantile_test_table_rejects_only_the_uniform_law_of_tied_rewards():
    table = tables.quantile_test_table(5000, [3], seed=1)
    rejected = table[table["p_value"] < 1e-4]
    assert list(zip(rejected["rewards"], rejected["law"], strict=True)) == [("5 tied values", "uniform on (0, 1)")]


def test_divergence_table():
    outcomes = tables.divergence_table([10.0, 0.1]).set_index(["f", "beta"])["outcome"]
    assert outcomes["1/(1-t)", 10.0] == "DivergentPartitionError"
    assert outcomes["-log(1-t)/2", 0.1] == "DivergentPartitionError"
    assert float(outcomes["-log(1-t)/2", 10.0]) == pytest.approx(-np.log1p(-1 / 20))
    assert float(outcomes["log t", 0.1]) == pytest.approx(np.log(0.1 / 1.1))


def test_partition_gap_table_at_small_beta():
    table = tables.partition_gap_table([1, 20], [1e-4])
    np.testing.assert_allclose(table["excess_nats"], -np.log(1e-4 * np.array([2, 21])), atol=1e-9)


def test_finite_simulation_table():
    table = tables.finite_simulation_table(["identity", "log"], [1, 3], beta=0.5, prompts=20_000, seed=0)
    assert len(table) == 12
    assert table["standard_errors"].abs().max() < 4.5


def test_discrete_table_of_two_values_by_hand():
    row = tables.discrete_table([2], [0.003], n=20, repeats=500, seed=0).iloc[0]
    # quantiles 1/2 and 1: log Z is 1/beta + log(1/2) at small beta, against 1/beta + log(beta)
    assert row["continuous_excess"] == pytest.approx(np.log(0.5 / 0.003), rel=1e-9)


def test_noise_table_and_the_ratio_of_errors():
    table = tables.noise_table([1.0, 0.1], [0.5], [1, 100], repeats=2000, seed=0)
    assert len(table) == 6
    at_one = table[(table["setting"] == 1.0) & (table["n"] == 100)].iloc[0]
    assert at_one["log10_formula"] == pytest.approx(np.log10(np.sqrt((np.e - 1) / 100)))
    assert at_one["simulated"] == pytest.approx(np.sqrt((np.e - 1) / 100), rel=0.1)
    ratios = tables.target_error_ratio_table(table)
    single = ratios[(ratios["beta"] == 0.1) & (ratios["n"] == 1)].iloc[0]
    assert single["std_ratio"] == pytest.approx(1 / np.sqrt(2), rel=0.05)  # std 1 against sqrt(1/6) of sqrt(1/12)
    assert single["rms_ratio"] == pytest.approx(np.hypot(1, 5) / np.sqrt(2), rel=0.05)


def test_target_table_shifts_the_bias_by_the_gap():
    table = tables.target_table(["identity", "normal"], [0.1], [1, 3]).set_index(["transformation", "n", "partition"])
    gap = noise.partition_gap(transforms.get("identity"), 0.1, 3) / 0.1
    assert table.loc[("identity", 3, "finite"), "bias_nats"] == pytest.approx(abs(gap))
    assert ("normal", 1, "exact") not in table.index
    f, beta, n = transforms.get("normal"), 0.1, 3
    quantiles = (np.arange(200_000) + 0.5) / 200_000
    bias, _ = noise.target_moments(f, n, quantiles)
    expected = np.sqrt(((bias + noise.partition_gap(f, beta, n)) ** 2).mean()) / beta
    assert table.loc[("normal", 3, "finite"), "bias_nats"] == pytest.approx(expected, rel=1e-4)


def test_power_table_compares_pairs_of_one_class():
    profiles = asymptotics.HIGHER_PROFILES
    table = tables.kl_table(profiles, list(np.logspace(-7, -4, 9)))
    powers = tables.power_table(profiles, table, 1e-4)
    assert len(powers) == 8  # 6 ordered pairs of the second class, 2 of the third
    np.testing.assert_allclose(powers["order"], powers["derived_order"], atol=0.01)


def test_scaling_table_vanishes_at_the_ratio_of_slopes_only():
    table = tables.scaling_table([1e-3], [1.0, 2.0])
    square = table[table["g"] == "t^2"].set_index("factor")["kl"]
    assert square[2.0] < 1e-5
    assert square[1.0] == pytest.approx(np.log(0.5) + 2 - 1, abs=0.01)  # exponential laws of ratio 2


def test_fit_table_and_rounds_table():
    fits = tables.fit_table(["identity", "scaled-normal"], [0.1], completions=50, seed=0)
    assert fits["kl"].max() < 1e-8
    rounds = tables.rounds_table(["log"], 0.1, [1, 2], completions=50, seed=0).set_index("rounds")
    assert rounds["kl_fixed_rewards"].max() < 1e-10
    assert rounds.loc[1, "kl_renewed_quantiles"] == 0
    assert rounds.loc[2, "kl_renewed_quantiles"] > 0.1


def test_gradient_and_scale_tables():
    table = tables.gradient_table(transforms.get("square"), 0.1, completions=20, seed=0)
    scale = table["eq_14"].abs().max()
    np.testing.assert_allclose(table["eq_14"], table["central_difference"], atol=1e-6 * scale)
    scale = table["eq_14_online"].abs().max()
    np.testing.assert_allclose(table["eq_14_online"], table["policy_gradient"], atol=1e-6 * scale)
    assert tables.scale_table([0.1, 7.0], 0.01, completions=20, seed=0)["kl"].max() < 1e-12


def test_best_of_n_and_share_tables():
    best = tables.best_of_n_table([101, 1001])
    np.testing.assert_allclose(best["kl"], best["leading_term"], rtol=0.05)
    shares = tables.share_table([0.1]).set_index("transformation")
    assert shares.loc["identity", "share_above"] == pytest.approx(0.23026, abs=1e-5)


def test_the_other_tables_feed_their_figures():
    laws = tables.quantile_law_table(5000, n=3, seed=0).set_index("reward")
    continuous, estimated = laws.loc["continuous"], laws.loc["estimated, n = 3"]
    assert (continuous["share"] - continuous["quantile"]).abs().max() < 0.03  # Kolmogorov-Smirnov: 0.028 at 0.001
    exact = (np.floor(3 * estimated["quantile"]) + 1) / 4
    assert (estimated["share"] - exact).abs().max() < 0.03
    errors = tables.estimator_errors([0.1, 1.0], n=5, repeats=300, seed=0)
    assert errors.groupby("beta")["error"].mean().is_monotonic_increasing
    bins = tables.histograms(errors, bins=10).groupby("beta")
    for beta, rows in bins:
        values = errors.loc[errors["beta"] == beta, "error"]
        middle = rows.iloc[4]
        inside = values.between(middle["low"], middle["high"], inclusive="left").mean()
        assert middle["density"] * (middle["high"] - middle["low"]) == pytest.approx(inside)
    densities = tables.density_table([0.1])
    assert np.trapezoid(densities["beta_0.1"], densities["reward"]) == pytest.approx(1, abs=1e-3)
    laplace = tables.laplace_table([1e-2])
    assert (laplace[laplace["f"] == "log"].set_index("terms")["relative_error"]).tolist() == pytest.approx(
        [1e-2, 1e-4, 1e-6, 1e-8], rel=0.05
    )


def test_with_references_apart_every_number_of_them_leads_to_the_optimum():
    """Density exp(t/beta)/Z on [0, 1]; shared references lead elsewhere, and there too at a large n."""
    beta = 0.3
    table = tables.reference_sets_table([beta], [1, 6, 2000], candidates=6)
    optimum = 1 / -math.expm1(-1 / beta) - beta
    kl = optimum / beta - math.log(beta * math.expm1(1 / beta))
    apart, shared = (table[table["references"] == name] for name in ("apart", "shared"))
    np.testing.assert_allclose(apart["mean_quantile"], optimum, rtol=1e-6)
    np.testing.assert_allclose(apart["kl"], kl, rtol=1e-6)
    few, many = (shared.loc[shared["n"].isin(counts), "mean_quantile"] for counts in ([1, 6], [2000]))
    assert (abs(few - optimum) > 1e-3).all()
    np.testing.assert_allclose(many, optimum, rtol=5e-3)
    # before training: both completions of a random pair together are any completion, of each rank as likely
    target = beta * math.log(beta * math.expm1(1 / beta))
    for n in (1, 6):
        expected = np.mean([(k / n - target) ** 2 for k in range(n + 1)])
        of_random = apart[(apart["pair"] == "random") & (apart["n"] == n)]
        assert of_random["loss_at_start"].item() == pytest.approx(expected, rel=1e-9)
