import math
import sys
from subprocess import run

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from qrpo_lib.objective import transforms

pytestmark = pytest.mark.filterwarnings("error")

PARAMS = {"scaled-normal": {"mu": 0.7, "sigma": 0.3}}
ALL = [transforms.get(name, **PARAMS.get(name, {})) for name in transforms.NAMES]
BOUNDED = [f for f in ALL if f.limit is not None]
BETAS = [10.0, 3.0, 1.0, 0.999, 0.1, 0.01, 1e-3, 3e-4, 1e-4, 1e-5]
MP_FUNCTIONS = {"identity": lambda t: t, "log": mp.log, "square": lambda t: t**2, "sqrt": mp.sqrt}
betas = st.floats(1e-5, 10)
by_name = pytest.mark.parametrize("f", ALL, ids=lambda f: f.name)


def mp_log_partition(f, beta):
    """log Z by arbitrary-precision quadrature of the definition; for the normal, over z = f(t), where dt = phi dz."""
    beta = mp.mpf(beta)
    if f.name in MP_FUNCTIONS:
        g = MP_FUNCTIONS[f.name]
        edges = [1 - beta * k for k in (200, 60, 20, 5, 1) if beta * k < 1]
        return g(mp.mpf(1)) / beta + mp.log(
            mp.quad(lambda t: mp.exp((g(t) - g(mp.mpf(1))) / beta) if t > 0 else mp.mpf(0), [0, *edges, 1])
        )
    mu, sigma = mp.mpf(f.mean), mp.mpf(f.scale)
    centre = sigma / beta  # the integrand phi(z) exp((mu + sigma z)/beta) is a Gaussian bump there
    peak = (mu + sigma * centre) / beta - centre**2 / 2
    integral = mp.quad(
        lambda z: mp.npdf(0) * mp.exp((mu + sigma * z) / beta - z**2 / 2 - peak),
        [centre + k for k in range(-15, 16, 3)],
    )
    return peak + mp.log(integral)


@by_name
def test_closed_forms_against_arbitrary_precision_quadrature(f):
    with mp.workdps(30):
        for beta in BETAS:
            truth = mp_log_partition(f, beta)
            assert abs((f.log_partition(beta) - truth) / truth) <= 1e-12, beta


@pytest.mark.parametrize("f", BOUNDED, ids=lambda f: f.name)
def test_quadrature_against_closed_forms(f):
    for beta in np.logspace(1, -5, 25):
        assert transforms.log_partition(f, beta) == pytest.approx(f.log_partition(beta), rel=1e-10)


def test_quadrature_of_the_normal_where_double_precision_reaches_its_mass():
    assert transforms.log_partition(transforms.get("normal"), 1.0) == pytest.approx(0.5, rel=1e-10)
    with pytest.raises(transforms.UnresolvedPartitionError, match="closer to 1 than double precision"):
        transforms.log_partition(transforms.get("normal"), 0.5)


@pytest.mark.parametrize(
    ("f", "mp_f", "edges"),
    [
        (lambda t: np.sin(9 * t), lambda t: mp.sin(9 * t), [0, 0.15, 0.2, 0.8, 0.9, 1]),
        (lambda t: -np.abs(t - 0.31), lambda t: -abs(t - mp.mpf("0.31")), [0, 0.2, 0.3, 0.31, 0.32, 0.4, 1]),
        (lambda t: np.tanh(3 * t - 1), lambda t: mp.tanh(3 * t - 1), [0, 0.5, 0.9, 0.99, 1]),
    ],
    ids=["sine", "kink", "tanh"],
)
@pytest.mark.parametrize("beta", [3.0, 0.02])
def test_quadrature_against_arbitrary_precision_quadrature(f, mp_f, edges, beta):
    with mp.workdps(20):
        truth = float(mp.log(mp.quad(lambda t: mp.exp(mp_f(t) / beta), edges)))
    assert transforms.log_partition(f, beta) == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("beta", [3.0, 0.02, 1e-4])
def test_quadrature_of_functions_with_closed_forms(beta):
    def log_partition(f):
        return transforms.log_partition(f, beta)

    assert log_partition(lambda t: 0.25) == pytest.approx(0.25 / beta, rel=1e-10)
    assert log_partition(lambda t: -1 / t) == pytest.approx(float(mp.log(mp.expint(2, 1 / mp.mpf(beta)))), rel=1e-10)
    step = float(mp.log(mp.mpf("0.3") + mp.mpf("0.7") * mp.exp(1 / mp.mpf(beta))))
    assert log_partition(lambda t: (t > 0.3) * 1.0) == pytest.approx(step, rel=1e-10)
    assert log_partition(lambda t: -0.5 * beta * np.log(t)) == pytest.approx(np.log(2), rel=1e-10)  # infinite at 0


def test_divergence_is_an_error_and_not_a_number():
    def f(t):
        return -0.5 * np.log1p(-t)  # Z = 1/(1 - 0.5/beta), infinite for beta <= 0.5

    for beta in (50.0, 0.6, 0.501):
        assert transforms.log_partition(f, beta) == pytest.approx(-np.log1p(-0.5 / beta), rel=1e-10)
    for beta in (0.5, 0.3, 1e-3):
        with pytest.raises(transforms.DivergentPartitionError, match="Z is infinite at beta"):
            transforms.log_partition(f, beta)
    with pytest.raises(transforms.DivergentPartitionError):
        transforms.log_partition(lambda t: 1 / (1 - t), 10.0)
    with pytest.raises(transforms.DivergentPartitionError, match="inside"):
        transforms.log_partition(lambda t: np.where(t > 0.5, np.inf, t), 1.0)


def test_functions_that_are_no_functions_on_the_unit_interval_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        transforms.log_partition(lambda t: np.where(t > 0.5, np.nan, t), 1.0)
    with pytest.raises(ValueError, match="shape"):
        transforms.log_partition(lambda t: np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="NumPy array"):
        transforms.log_partition(math.sqrt, 1.0)


@by_name
def test_many_betas_at_once_agree_with_one_at_a_time(f):
    many = np.array([[10.0, 1.0], [1e-3, 1e-5]])
    assert f.log_partition(many).shape == (2, 2)
    assert f.log_partition(many)[1, 0] == f.log_partition(1e-3)
    assert isinstance(f.log_partition(1e-3), float)
    assert np.isfinite(f.log_partition(np.logspace(1, -5, 10**6))).all()


@by_name
@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan, np.inf, [0.1, 0.0]])
def test_bad_betas_are_refused(f, beta):
    for function in (f.log_partition, lambda b: transforms.finite_log_partition(f, b, 3)):
        with pytest.raises(ValueError, match="beta must be a positive number"):
            function(beta)


def test_a_log_partition_outside_double_precision_is_refused():
    with pytest.raises(ValueError, match="outside double precision"):
        transforms.get("normal").log_partition(1e-200)


@given(beta=betas)
@settings(deadline=None)
def test_log_z_lies_between_its_mean_and_its_largest_reward(beta):
    means = {"identity": 1 / 2, "log": -1, "square": 1 / 3, "sqrt": 2 / 3}
    for f in BOUNDED:  # Jensen below, f <= f(1) above
        assert means[f.name] / beta - 1e-9 <= f.log_partition(beta) <= f.limit / beta


@given(beta=betas, factor=st.floats(0.5, 2), shift=st.floats(-1, 1))
@settings(deadline=None, max_examples=30)
def test_scale_and_shift_of_the_reward(beta, factor, shift):
    """A reward c f + d at c beta has log Z of f at beta plus d/(c beta) (Appendix J.1)."""
    for f in BOUNDED:
        moved = transforms.log_partition(lambda t, f=f: factor * f(t) + shift, factor * beta)
        assert moved == pytest.approx(f.log_partition(beta) + shift / (factor * beta), rel=1e-10, abs=1e-10)


@given(beta=betas, mu=st.floats(-5, 5), sigma=st.floats(0.01, 5))
@settings(deadline=None)
def test_scaled_normal_is_a_scaled_and_shifted_normal(beta, mu, sigma):
    f, normal = transforms.get("scaled-normal", mu=mu, sigma=sigma), transforms.get("normal")
    t = np.array([1e-9, 0.2, 0.5, 0.999])
    np.testing.assert_allclose(f(t), mu + sigma * normal(t), rtol=1e-14)
    expected = mu / beta + normal.log_partition(beta / sigma)
    assert f.log_partition(beta) == pytest.approx(expected, rel=1e-12, abs=1e-12 * abs(mu / beta))


@by_name
@given(quantiles=st.lists(st.floats(0, 1), min_size=2, max_size=8))
@settings(deadline=None)
def test_transformations_are_monotone_and_agree_in_torch(f, quantiles):
    values = f(np.sort(quantiles))
    assert (values[1:] >= values[:-1]).all()
    if f.limit is not None:
        assert (values <= f.limit).all()
        assert f(1.0) == f.limit
    inside = np.clip(np.sort(quantiles), 1e-12, 1 - 1e-12)
    result = f(torch.tensor(inside))
    assert isinstance(result, torch.Tensor)
    # torch's ndtri has absolute errors of 1e-13 or so near t = 1/2
    np.testing.assert_allclose(result.numpy(), f(inside), rtol=1e-9, atol=1e-12)


@by_name
def test_values_outside_the_unit_interval_are_refused(f):
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            f(np.array([0.5, bad]))
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            f(torch.tensor([0.5, bad]))


def test_infinite_ends_are_infinite_without_a_warning():
    assert transforms.get("log")(0.0) == -np.inf
    assert list(transforms.get("normal")(np.array([0.0, 1.0]))) == [-np.inf, np.inf]


@pytest.mark.parametrize("f", BOUNDED, ids=lambda f: f.name)
def test_slope_and_asymptotic_form(f):
    step = 1e-6
    assert (f(1.0) - f(1 - step)) / step == pytest.approx(f.slope, rel=1e-5)
    gap = [f.asymptotic_log_partition(b) - f.log_partition(b) for b in (1e-2, 1e-3, 1e-4)]
    assert abs(gap[2]) <= abs(gap[1]) / 9 or abs(gap[2]) < 1e-10  # vanishes like beta, or faster
    assert transforms.get("identity").asymptotic_log_partition(0.01) * 0.01 == pytest.approx(1 + 0.01 * np.log(0.01))


def test_asymptotic_form_of_several_betas():
    betas = np.array([[0.1, 0.01]])
    many = transforms.get("square").asymptotic_log_partition(betas)
    np.testing.assert_allclose(many, 1 / betas + np.log(betas / 2))
    assert isinstance(transforms.get("square").asymptotic_log_partition(0.1), float)


@by_name
@pytest.mark.parametrize("number", [2, 5])
def test_a_rounds_partition_function_is_that_over_the_last_rounds_policy(f, number):
    """Round j's reference has density exp((j - 1) f / b) / Z in the quantile t, so log Z_j is a difference of two."""
    beta = 0.7
    with mp.workdps(30):
        truth = mp_log_partition(f, mp.mpf(beta) / number) - mp_log_partition(f, mp.mpf(beta) / (number - 1))
    of_round = transforms.of_round(f, number)
    assert of_round.log_partition(beta) == pytest.approx(float(truth), rel=1e-10)
    assert of_round(0.3) == f(0.3)
    with pytest.raises(ValueError, match="no small-beta expansion"):
        of_round.asymptotic_log_partition(beta)


def test_rounds_are_counted_from_one():
    assert transforms.of_round("log", 1) is transforms.get("log")
    with pytest.raises(ValueError, match="numbered from 1, got 0"):
        transforms.of_round("log", 0)


def test_unbounded_transformations_have_no_asymptotic_form():
    with pytest.raises(ValueError, match="unbounded above"):
        transforms.get("normal").asymptotic_log_partition(0.1)


@pytest.mark.parametrize("n", [1, 3, 20])
@pytest.mark.parametrize("library", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_clamp(n, library):
    quantiles = library([0.0, 1 / n, 1.0])
    assert transforms.get("identity").clamp(quantiles, n) is quantiles
    assert np.allclose(transforms.get("log").clamp(quantiles, n), [1 / n, 1 / n, 1.0])
    if n > 1:
        assert np.allclose(transforms.get("normal").clamp(quantiles, n), [1 / n, 1 / n, (n - 1) / n])


def test_clamp_refuses_one_reference_reward_for_the_normal():
    for f in ALL[-2:]:
        with pytest.raises(ValueError, match="at least 2 reference rewards"):
            f.clamp(np.array([0.0, 1.0]), 1)
        with pytest.raises(ValueError, match="at least 2 reference rewards"):
            transforms.finite_log_partition(f, 0.1, 1)
    for n in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="number of reference rewards"):
            transforms.get("log").clamp(np.array([0.5]), n)


@pytest.mark.parametrize("name", ["identity", "log", "square", "sqrt", "normal"])
@pytest.mark.parametrize("n", [2, 3, 20])
@pytest.mark.parametrize("beta", [1.0, 0.03, 3e-4])
def test_finite_partition_against_the_sum_in_arbitrary_precision(name, n, beta):
    clamped = {
        "log": lambda q: max(q, 1 / mp.mpf(n)),
        "normal": lambda q: min(max(q, 1 / mp.mpf(n)), 1 - 1 / mp.mpf(n)),
    }
    functions = {**MP_FUNCTIONS, "normal": lambda q: mp.sqrt(2) * mp.erfinv(2 * q - 1)}
    with mp.workdps(60):
        quantiles = [clamped.get(name, lambda q: q)(mp.mpf(k) / n) for k in range(n + 1)]
        terms = [mp.exp(functions[name](q) / mp.mpf(beta)) for q in quantiles]
        truth = float(mp.log(mp.fsum(terms) / (n + 1)))
    # ndtri carries a relative error of some ulps into f/beta
    assert transforms.finite_log_partition(name, beta, n) == pytest.approx(truth, rel=1e-12, abs=1e-13)


def test_finite_partition_tends_to_the_exact_one():
    for f in BOUNDED:
        gaps = [abs(transforms.finite_log_partition(f, 0.1, n) - f.log_partition(0.1)) for n in (100, 1000, 10_000)]
        assert gaps[2] < gaps[1] / 5 < gaps[0] / 25


def test_finite_partition_of_several_betas_and_of_a_callable():
    many = transforms.finite_log_partition("square", np.array([0.1, 1.0]), 3)
    assert many.shape == (2,)
    assert many[0] == pytest.approx(transforms.finite_log_partition(lambda t: t**2, 0.1, 3), rel=1e-15)
    with pytest.raises(ValueError, match="clamp"):
        transforms.finite_log_partition(lambda t: np.where(t == 1, np.inf, t), 0.1, 3)


def test_discrete_partition_by_hand():
    # pass or fail: P(fail) = 0.7 has F = 0.7, P(pass) = 0.3 has F = 1
    truth = np.log(0.7 * np.exp(0.7 / 0.1) + 0.3 * np.exp(1 / 0.1))
    assert transforms.discrete_log_partition(transforms.get("identity"), 0.1, [0.7, 0.3]) == pytest.approx(truth)
    padded = transforms.discrete_log_partition(transforms.get("log"), 0.1, [0.0, 0.7, 0.0, 0.3])
    assert padded == pytest.approx(np.log(0.7**11 + 0.3))


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), beta=st.floats(1e-4, 10))
@settings(deadline=None)
def test_discrete_partition_is_at_least_the_continuous_one(counts, beta):
    """With ties the quantile F_k is the largest of its stretch of [0, 1], so Z grows for increasing f."""
    probabilities = np.array(counts) / sum(counts)
    for f in BOUNDED:
        value = transforms.discrete_log_partition(f, beta, probabilities)
        exact = f.log_partition(beta)
        assert value >= exact - 1e-9 * abs(exact) - 1e-12
        assert value <= f.limit / beta + 1e-12


def test_discrete_partition_of_many_prompts():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 5))
    result = transforms.discrete_log_partition(transforms.get("sqrt"), 0.01, probabilities)
    assert result.shape == (3, 5)
    assert result[1, 2] == transforms.discrete_log_partition(transforms.get("sqrt"), 0.01, probabilities[1, 2])


def test_discrete_partition_of_a_beta_for_each_prompt():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 5))
    betas = np.array([0.01, 0.1, 1.0, 3.0, 10.0])
    result = transforms.discrete_log_partition(transforms.get("square"), betas, probabilities)
    for i, j in np.ndindex(3, 5):
        assert result[i, j] == transforms.discrete_log_partition(
            transforms.get("square"), betas[j], probabilities[i, j]
        )


@pytest.mark.parametrize("excess", [4e-7, -4e-7])
def test_the_highest_value_has_the_quantile_one_though_shares_are_rounded(excess):
    """With this beta, 4e-7 in the quantile would be 0.04 in log Z."""
    value = transforms.discrete_log_partition(transforms.get("identity"), 1e-5, [0.7, 0.3 + excess])
    assert value == pytest.approx(1e5 + np.log(0.3), abs=1e-4)


@pytest.mark.parametrize("bad", [[], [0.5, 0.6], [1.2, -0.2], [np.nan, 1.0], 0.3])
def test_bad_probabilities_are_refused(bad):
    with pytest.raises(ValueError, match="probabilities must"):
        transforms.discrete_log_partition(transforms.get("identity"), 0.1, bad)


def test_discrete_partition_refuses_an_infinite_reward():
    with pytest.raises(ValueError, match="infinite"):
        transforms.discrete_log_partition(transforms.get("normal"), 0.1, [0.5, 0.5])


def test_get_refuses_what_does_not_exist():
    with pytest.raises(ValueError, match="unknown transformation 'cube'"):
        transforms.get("cube")
    with pytest.raises(ValueError, match="takes no parameters"):
        transforms.get("log", mu=1.0)
    with pytest.raises(ValueError, match="mu"):
        transforms.get("scaled-normal", mu=1.0)
    for sigma in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="sigma > 0"):
            transforms.get("scaled-normal", mu=0.0, sigma=sigma)
    with pytest.raises(ValueError, match="needs a name"):
        transforms.get({"mu": 0.0, "sigma": 1.0})
    by_mapping = transforms.get({"name": "scaled-normal", "mu": 2.0, "sigma": 3.0})
    assert (by_mapping(0.5), by_mapping.mean, by_mapping.scale) == (2.0, 2.0, 3.0)
    f = transforms.get("log")
    assert transforms.get(f) is f
    with pytest.raises(ValueError, match="already built"):
        transforms.get(f, mu=1.0)


def test_importing_does_not_import_torch():
    code = "import sys, qrpo_lib.objective.transforms, qrpo_lib.objective.quantile; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("width", [2e-5, 5e-6])
@pytest.mark.parametrize("center", [0.3, 0.123456])
@pytest.mark.parametrize("beta", [1.0, 0.01, 1e-4])
def test_a_narrow_peak_of_any_function_is_found(width, center, beta):
    """Between the nodes of all first panels: the integral by itself, close to the peak, in steps of its width."""
    steps = np.linspace(-12, 12, 1_000_001)
    inside = np.log(np.trapezoid(np.exp((np.exp(-(steps**2)) - 1) / beta), steps) * width) + 1 / beta
    expected = np.logaddexp(inside, np.log1p(-24 * width))
    found = transforms.log_partition(lambda t: np.exp(-(((t - center) / width) ** 2)), beta)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_several_narrow_peaks_and_notches_count_alike():
    """Triangles: 1 - |t - c| / w integrates to 2 w beta (exp(1 / beta) - 1), and a notch takes its width away."""
    beta, width, places = 1e-3, 1e-5, np.array([0.2, 0.41, 0.7000001])

    def triangles(t):
        return np.maximum(0, 1 - np.abs(t[..., None] - places) / width).max(-1)

    expected = np.log(3 * 2 * width * beta) + 1 / beta
    assert transforms.log_partition(triangles, beta) == pytest.approx(expected, rel=1e-10)
    notched = transforms.log_partition(lambda t: np.where(np.abs(t - 0.3) < width, -np.inf, 0.0), beta)
    assert notched == pytest.approx(np.log1p(-2 * width), abs=1e-10)


def test_many_narrow_peaks_are_right_or_refused():
    try:
        found = transforms.log_partition(lambda t: (np.modf(t * 61)[0] < 0.02) * 1.0, 0.01)
    except transforms.UnresolvedPartitionError:
        return
    assert found == pytest.approx(100 + np.log(0.02), abs=2e-3)  # 61 whole periods and no part of one


def test_more_peaks_than_are_looked_at_are_refused_where_they_count(monkeypatch):
    """Five equal triangles, of which at most so many get panels of their own; a scan has seen all five."""
    places = np.array([0.1003, 0.3007, 0.5011, 0.7013, 0.9017])

    def triangles(t):
        return np.maximum(0, 1 - np.abs(t[..., None] - places) / 2e-5).max(-1)

    expected = np.logaddexp(np.log(5 * 2 * 2e-5 * 0.05 * np.expm1(20)), np.log1p(-10 * 2e-5))
    assert transforms.log_partition(triangles, 0.05) == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr(transforms, "_MOST_EXTREMA", 2)
    with pytest.raises(transforms.UnresolvedPartitionError, match="more than 2 peaks too narrow"):
        transforms.log_partition(triangles, 0.05)


@pytest.mark.parametrize("name", ["identity", "log", "square", "sqrt"])
def test_partition_functions_take_names_too(name):
    f = transforms.get(name)
    assert transforms.log_partition(name, 0.3) == transforms.log_partition(f, 0.3)
    assert transforms.finite_log_partition(name, 0.3, 5) == transforms.finite_log_partition(f, 0.3, 5)
    p = [0.2, 0.3, 0.5]
    assert transforms.discrete_log_partition(name, 0.3, p) == transforms.discrete_log_partition(f, 0.3, p)


def test_a_constant_is_its_own_partition_function():
    """Also where f answers with one number for all quantiles; of another shape it is refused."""
    for f in (lambda t: 0.5, lambda t: np.full_like(t, 0.5)):
        assert transforms.finite_log_partition(f, 0.1, 4) == pytest.approx(5.0)
        assert transforms.log_partition(f, 0.1) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="keep the shape"):
        transforms.finite_log_partition(lambda t: t[:2], 0.1, 4)


@pytest.mark.parametrize("name", ["identity", "log"])
def test_one_beta_gives_a_float_and_an_array_an_array(name):
    f = transforms.get(name)
    functions = [
        f.log_partition,
        f.asymptotic_log_partition,
        lambda beta: transforms.log_partition(name, beta),
        lambda beta: transforms.log_partition(lambda t: t, beta),
        lambda beta: transforms.finite_log_partition(name, beta, 5),
        lambda beta: transforms.discrete_log_partition(name, beta, [0.25, 0.75]),
    ]
    for function in functions:
        assert type(function(0.5)) is float
        assert type(function(2)) is float
        several = function(np.array([0.5, 2]))
        assert several.shape == (2,)
        assert several.tolist() == pytest.approx([function(0.5), function(2)])


def test_parameters_may_be_in_the_mapping_or_beside_it():
    whole = transforms.get({"name": "scaled-normal", "mu": 0.3, "sigma": 0.5})
    beside = transforms.get({"name": "scaled-normal", "mu": 0.3}, sigma=0.5)
    assert beside.log_partition(0.4) == whole.log_partition(0.4) == pytest.approx(0.3 / 0.4 + 0.5**2 / (2 * 0.4**2))
    assert (whole.name, beside.name) == ("scaled-normal", "scaled-normal")
    values = torch.tensor([0.2, 0.5], dtype=torch.float64)
    assert whole(values).tolist() == pytest.approx((0.3 + 0.5 * special.ndtri(values.numpy())).tolist())


@pytest.mark.parametrize("name", ["log", "normal"])
def test_quantiles_are_clamped_from_both_sides(name):
    """A quantile from elsewhere, above what n references allow or below it, is moved to the nearest allowed one."""
    highest = 1.0 if name == "log" else 0.8
    clamped = transforms.get(name).clamp(np.array([-0.5, 0.0, 0.5, 1.0, 1.5]), 5)
    assert clamped.tolist() == [0.2, 0.2, 0.5, highest, highest]


def test_a_round_has_no_expansion_of_its_own():
    later = transforms.of_round("identity", 2)
    assert (later.limit, later.slope) == (None, None)
    with pytest.raises(ValueError, match="no small-beta expansion"):
        later.asymptotic_log_partition(0.1)


def test_an_empty_function_has_an_empty_integral():
    """exp(-inf) = 0 everywhere: log Z is -inf."""
    assert transforms.log_partition(lambda t: np.full_like(t, -np.inf), 0.5) == -np.inf


def test_a_peak_at_either_end_is_found():
    """Half of a bell of width s at 0 or 1: sqrt(pi / 2) s."""
    for center in (0.0, 1.0):
        value = transforms.log_partition(lambda t, center=center: -((t - center) ** 2) / (2 * 1e-5**2), 1.0)
        assert value == pytest.approx(np.log(np.sqrt(np.pi / 2) * 1e-5), rel=1e-10)
