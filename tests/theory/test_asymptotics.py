import itertools

import mpmath as mp
import numpy as np
import pytest
from scipy import special

from qrpo_lib.objective import transforms
from qrpo_lib.theory import asymptotics
from qrpo_lib.theory.asymptotics import HIGHER_PROFILES, PROFILES

pytestmark = pytest.mark.filterwarnings("error")

MP = {
    "identity": lambda t: t - 1,
    "square": lambda t: (t * t - 1) / 2,
    "sqrt": lambda t: 2 * (mp.sqrt(t) - 1),
    "log": lambda t: mp.log(t),
    "exponential": lambda t: mp.exp(t - 1) - 1,
    "-(1-t)^2": lambda t: -((1 - t) ** 2),
    "-(1-t)^2-(1-t)^3": lambda t: -((1 - t) ** 2) - (1 - t) ** 3,
}


def mp_kl(f, g, beta, beta_g, width):
    beta, beta_g, width = mp.mpf(beta), mp.mpf(beta_g), mp.mpf(width)
    layer = [1 - width * k for k in (1, 5, 20, 60, 150) if width * k < 1]
    edges = sorted({mp.mpf(0), mp.mpf("1e-6"), mp.mpf("0.01"), mp.mpf(1), *layer})
    z_f = mp.quad(lambda t: mp.exp(f(t) / beta), edges)
    z_g = mp.quad(lambda t: mp.exp(g(t) / beta_g), edges)
    log_ratio = mp.log(z_g / z_f)
    return mp.quad(lambda t: mp.exp(f(t) / beta) / z_f * (f(t) / beta - g(t) / beta_g + log_ratio), edges)


@pytest.mark.parametrize(
    ("f", "g", "beta"),
    [
        ("identity", "log", 0.3),
        ("log", "identity", 1e-2),
        ("sqrt", "square", 1e-4),
        ("square", "exponential", 1e-2),
        ("exponential", "square", 1e-4),
        ("log", "sqrt", 0.1),
    ],
)
def test_kl_against_arbitrary_precision(f, g, beta):
    with mp.workdps(40):
        truth = mp_kl(MP[f], MP[g], beta, beta, beta)
        assert abs(asymptotics.kl_divergence(PROFILES[f], PROFILES[g], beta) / truth - 1) < 1e-9


def test_kl_of_two_betas_and_of_two_classes_against_arbitrary_precision():
    square2 = HIGHER_PROFILES["-(1-t)^2"]
    with mp.workdps(30):
        truth = mp_kl(MP["identity"], MP["-(1-t)^2"], 1e-2, 3e-3, 1e-2)
        assert abs(asymptotics.kl_divergence(PROFILES["identity"], square2, 1e-2, 3e-3) / truth - 1) < 1e-9
        cubic = HIGHER_PROFILES["-(1-t)^2-(1-t)^3"]
        truth = mp_kl(MP["-(1-t)^2"], MP["-(1-t)^2-(1-t)^3"], 1e-4, 1e-4, 1e-2)
        assert abs(asymptotics.kl_divergence(square2, cubic, 1e-4) / truth - 1) < 1e-9


def test_kl_of_exponential_limits():
    """Identity at beta and at c beta are exponential laws in the limit: KL = log c + 1/c - 1."""
    for c in (0.5, 3.0):
        kl = asymptotics.kl_divergence(PROFILES["identity"], PROFILES["identity"], 1e-3, c * 1e-3)
        assert kl == pytest.approx(np.log(c) + 1 / c - 1, rel=1e-9)
    assert asymptotics.kl_divergence(PROFILES["log"], PROFILES["log"], 1e-3) == 0


@pytest.mark.parametrize("f", [*PROFILES.values(), *HIGHER_PROFILES.values()], ids=lambda f: f.name)
def test_profiles_are_normalised_and_their_expansions_are_theirs(f):
    with mp.workdps(40):
        for s in (mp.mpf("1e-3"),):
            truth = {
                **{name: lambda x, g=g: g(1 - x) for name, g in MP.items()},
                "-(1-t)^2-(1-t)^4": lambda x: -(x**2) - x**4,
                "-(1-t)^3": lambda x: -(x**3),
                "-(1-t)^3-(1-t)^4": lambda x: -(x**3) - x**4,
            }[f.name]
            remainder = truth(s) + s**f.order
            assert abs(f.remainder(np.float64(s)) - remainder) <= 1e-15 * max(abs(remainder), mp.mpf("1e-9"))
        taylor = mp.taylor(truth, 0, f.order + 3)
        expected = [-1, *f.expansion]
        np.testing.assert_allclose([float(c) for c in taylor[f.order :]], expected, atol=1e-9)
    assert (np.diff(f(np.linspace(0, 0.999, 50))) < 0).all()  # increasing in t = 1 - s


@pytest.mark.parametrize("f", PROFILES.values(), ids=lambda f: f.name)
def test_laplace_coefficients_are_the_derivatives_of_the_inverse(f):
    """Independent of the closed form: revert the series of -f numerically."""
    inverse = {
        "identity": lambda y: y,
        "square": lambda y: 1 - mp.sqrt(1 - 2 * y),
        "sqrt": lambda y: 1 - (1 - y / 2) ** 2,
        "log": lambda y: 1 - mp.exp(-y),
        "exponential": lambda y: -mp.log(1 - y),
    }[f.name]
    with mp.workdps(30):
        expected = [float(mp.diff(inverse, 0, k)) for k in range(1, 5)]
    np.testing.assert_allclose(asymptotics.laplace_coefficients(f.derivatives), expected, atol=1e-9)


@pytest.mark.parametrize("name", ["square", "exponential", "log"])
def test_laplace_errors_shrink_at_the_order_of_the_next_term(name):
    errors = asymptotics.laplace_errors(PROFILES[name], [4e-3, 2e-3])
    np.testing.assert_allclose(np.log2(errors[:, 0] / errors[:, 1]), [1, 2, 3, 4], atol=0.1)


@pytest.mark.parametrize("name", ["identity", "square", "sqrt", "log"])
def test_scaled_log_partition_is_the_normalised_table_4(name):
    f = transforms.get(name)
    for beta in (0.3, 1e-3):
        table = f.log_partition(beta * f.slope) - f.limit / (beta * f.slope)
        assert asymptotics.scaled_log_partition(PROFILES[name], beta) + np.log(beta) == pytest.approx(table, rel=1e-9)


def test_scaled_log_partition_of_higher_classes():
    for f in (HIGHER_PROFILES["-(1-t)^2"], HIGHER_PROFILES["-(1-t)^3"]):
        limit = special.gammaln(1 + 1 / f.order)
        assert asymptotics.scaled_log_partition(f, 1e-6) == pytest.approx(limit, abs=1e-12)


def test_leading_terms_by_hand():
    assert asymptotics.derived_kl(PROFILES["identity"], PROFILES["log"]) == (2, pytest.approx(5 / 2))
    assert asymptotics.derived_kl(PROFILES["log"], PROFILES["square"]) == (2, pytest.approx(10))
    assert asymptotics.derived_kl(PROFILES["square"], PROFILES["exponential"]) == (4, pytest.approx(19 / 2))
    with pytest.raises(ValueError, match="agree to the last order"):
        asymptotics.derived_kl(PROFILES["log"], PROFILES["log"])


@pytest.mark.parametrize(("f", "g"), list(itertools.combinations(PROFILES, 2)))
def test_measured_powers_and_constants_meet_the_derived_ones(f, g):
    betas = np.logspace(-4, -2, 9)
    kl = [asymptotics.kl_divergence(PROFILES[f], PROFILES[g], beta) for beta in betas]
    derived_power, derived_constant = asymptotics.derived_kl(PROFILES[f], PROFILES[g])
    power, power_error, constant, constant_error = asymptotics.measured_power(betas, kl, derived_power)
    assert abs(power - derived_power) < min(power_error + 1e-6, 0.02)
    assert abs(constant - derived_constant) < min(constant_error + 1e-6, 0.02 * constant)


@pytest.mark.parametrize(
    ("f", "g"),
    [
        ("-(1-t)^2", "-(1-t)^2-(1-t)^3"),
        ("-(1-t)^2-(1-t)^4", "-(1-t)^2"),
        ("-(1-t)^3", "-(1-t)^3-(1-t)^4"),
    ],
)
def test_powers_of_the_higher_classes(f, g):
    f, g = HIGHER_PROFILES[f], HIGHER_PROFILES[g]
    betas = np.logspace(-7, -4, 9)
    kl = [asymptotics.kl_divergence(f, g, beta) for beta in betas]
    derived_power, derived_constant = asymptotics.derived_kl(f, g)
    power, _, constant, _ = asymptotics.measured_power(betas, kl, derived_power, f.order)
    assert power == pytest.approx(derived_power, abs=0.01)
    assert constant == pytest.approx(derived_constant, rel=0.01)


def test_measured_power_of_a_known_power_law():
    betas = np.logspace(-4, -2, 9)
    power, power_error, constant, constant_error = asymptotics.measured_power(betas, 3 * betas**1.5 * (1 + betas), 1.5)
    assert abs(power - 1.5) <= power_error < 1e-3
    assert abs(constant - 3) <= constant_error < 1e-2


def test_no_constant_scales_one_class_to_another():
    """Even the best constant at each beta leaves KL(exponential law || half-normal law), (log(pi) - 1)/2."""
    kl, scale = asymptotics.best_scaled_kl(PROFILES["identity"], HIGHER_PROFILES["-(1-t)^2"], 1e-3)
    assert kl == pytest.approx((np.log(np.pi) - 1) / 2, abs=1e-6)
    assert scale == pytest.approx(4e-3, rel=1e-3)  # and that constant goes to 0 with beta: 4 beta
