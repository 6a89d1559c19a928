"""Small-beta asymptotics (Appendices J, K, B): Laplace's expansion of Z_f and KL(pi*_f || pi*_g), computed stably.

Everything here is about *profiles*: f normalised as in J.1, f(1) = 0 and f'(1) = 1 (or f ~ -(1 - t)^k for the k-th
class), seen as a function of the distance s = 1 - t from the right end, in units where beta is beta/f'(1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special


@dataclass(frozen=True)
class NormalisedTransform:
    """A normalised transformation: f = -s^k + remainder(s), s = 1 - t in [0, 1], with `order` k its class.

    `remainder` is exact for small s (no cancellation). `derivatives` are f''(1), f'''(1), f''''(1) for k = 1;
    `expansion` the coefficients of s^(k+1), s^(k+2), s^(k+3) in the remainder.
    """

    name: str
    remainder: Callable
    expansion: tuple
    order: int = 1

    def __call__(self, distance):
        """f at t = 1 - distance; -inf where f is (log at t = 0)."""
        return self.remainder(distance) - distance**self.order

    @property
    def derivatives(self) -> tuple:
        """(f''(1), f'''(1), f''''(1)) of a first-class profile."""
        return (2 * self.expansion[0], -6 * self.expansion[1], 24 * self.expansion[2])


def _sqrt_remainder(s):
    return -((s / (1 + np.sqrt(1 - s))) ** 2)


def _log_remainder(s):
    return _by_series(s, lambda s: np.log1p(-s) + s, [-1 / k for k in range(2, 20)])


def _exponential_remainder(s):
    return _by_series(s, lambda s: np.expm1(-s) + s, [(-1) ** k / math.factorial(k) for k in range(2, 20)])


def _by_series(s, function, coefficients):
    """sum_k c_k s^k from k = 2 for s < 0.05, where `function` would cancel."""
    small = np.minimum(s, 0.05)
    with np.errstate(divide="ignore"):
        direct = function(s)
    return np.where(s < 0.05, small**2 * np.polynomial.polynomial.polyval(small, coefficients), direct)


PROFILES = {
    "identity": NormalisedTransform("identity", np.zeros_like, (0.0, 0.0, 0.0)),
    "square": NormalisedTransform("square", lambda s: s**2 / 2, (1 / 2, 0.0, 0.0)),
    "sqrt": NormalisedTransform("sqrt", _sqrt_remainder, (-1 / 4, -1 / 8, -5 / 64)),
    "log": NormalisedTransform("log", _log_remainder, (-1 / 2, -1 / 3, -1 / 4)),
    # exp(t - 1) - 1 shares its second derivative with the square: the next order decides between the two
    "exponential": NormalisedTransform("exponential", _exponential_remainder, (1 / 2, -1 / 6, 1 / 24)),
}
HIGHER_PROFILES = {
    "-(1-t)^2": NormalisedTransform("-(1-t)^2", np.zeros_like, (0.0, 0.0, 0.0), order=2),
    "-(1-t)^2-(1-t)^3": NormalisedTransform("-(1-t)^2-(1-t)^3", lambda s: -(s**3), (-1.0, 0.0, 0.0), order=2),
    "-(1-t)^2-(1-t)^4": NormalisedTransform("-(1-t)^2-(1-t)^4", lambda s: -(s**4), (0.0, -1.0, 0.0), order=2),
    "-(1-t)^3": NormalisedTransform("-(1-t)^3", np.zeros_like, (0.0, 0.0, 0.0), order=3),
    "-(1-t)^3-(1-t)^4": NormalisedTransform("-(1-t)^3-(1-t)^4", lambda s: -(s**4), (-1.0, 0.0, 0.0), order=3),
}

# --- Laplace's expansion of Z_f (Appendix K) ------------------------------------------------------------------------


def laplace_coefficients(derivatives) -> np.ndarray:
    """(1, c_1, c_2, c_3) of Z_f = beta (1 + c_1 beta + c_2 beta^2 + c_3 beta^3 + ...), from three derivatives at 1.

    `derivatives` a, b, c are the second, third and fourth of the profile: c_1 = a, c_2 = 3 a^2 - b,
    c_3 = 15 a^3 - 10 a b + c. They are the derivatives at 0 of the inverse function of -f: substituting y = -f(1 - s)
    turns Z_f into the Laplace transform of ds/dy. The paper gives the 1.
    """
    a, b, c = derivatives
    return np.array([1.0, a, 3 * a**2 - b, 15 * a**3 - 10 * a * b + c])


def laplace_errors(profile: NormalisedTransform, betas) -> np.ndarray:
    """Relative errors |partial sum / Z_f - 1| of Laplace's expansion with 1, 2, 3, 4 terms: (4, betas)."""
    betas = np.asarray(betas, dtype=float)
    partial = np.cumsum(laplace_coefficients(profile.derivatives)[:, None] * betas ** np.arange(4)[:, None], axis=0)
    exact = np.array([scaled_log_partition(profile, beta) for beta in betas])
    return np.abs(np.expm1(np.log(partial) - exact))


def scaled_log_partition(profile: NormalisedTransform, beta: float) -> float:
    """log(Z_f(beta) / beta^(1/k)) for a profile of class k, by quadrature; tends to log Gamma(1 + 1/k)."""
    distance, weights = _nodes(beta, profile.order)
    return float(special.logsumexp(profile(distance) / beta + np.log(weights)))


# --- KL between optimal policies (Appendix J) -----------------------------------------------------------------------


def kl_divergence(f: NormalisedTransform, g: NormalisedTransform, beta: float, beta_g: float | None = None) -> float:
    """KL(pi*_f || pi*_g) in nats.

    The policies' densities over the quantile reward are exp(f/beta)/Z. Computed as the integral of
    p_f (e^w - 1 - w), w = log(p_g/p_f), whose integrand is never negative: no cancellation down to KL = 1e-17.

    Parameters
    ----------
    f, g: the profiles.
    beta: of pi*_f.
    beta_g: of pi*_g, the same by default.
    """
    beta_g = beta if beta_g is None else beta_g
    wide = f if beta ** (1 / f.order) >= beta_g ** (1 / g.order) else g
    distance, weights = _nodes(beta if wide is f else beta_g, wide.order)
    if f.order == g.order and beta == beta_g:
        difference = (g.remainder(distance) - f.remainder(distance)) / beta  # the equal leading terms taken out
    else:
        difference = g(distance) / beta_g - f(distance) / beta
    log_p, log_q = f(distance) / beta + np.log(weights), g(distance) / beta_g + np.log(weights)
    log_z_f, log_z_g = special.logsumexp(log_p), special.logsumexp(log_q)
    p, q = np.exp(log_p - log_z_f), np.exp(log_q - log_z_g)
    w = np.where(p > 0, difference - (log_z_g - log_z_f), 0.0)
    near = p * _exponential_excess(np.clip(w, -0.5, 0.5))
    return float(np.where(np.abs(w) < 0.5, near, q - p * (1 + w)).sum())


def _exponential_excess(w):
    """e^w - 1 - w for |w| <= 1/2, to full relative precision."""
    return w**2 * np.polynomial.polynomial.polyval(w, [1 / math.factorial(k) for k in range(2, 18)])


def leading_kl(order: int, differing: int, difference: float) -> tuple[float, float]:
    """(power of beta, constant) of the leading term of KL(pi*_f || pi*_g) for two profiles of class k = `order`.

    f and g first differ at s^m, m = `differing` > k, by coefficients that differ by `difference`. With s = beta^(1/k) v
    the density tends to exp(-v^k) and (f - g)/beta to difference beta^((m-k)/k) v^m, so that, to leading order, KL is
    half the variance: difference^2 beta^(2(m-k)/k) Var(v^m)/2, with E v^m = Gamma((m+1)/k)/Gamma(1/k).
    For k = 1, m = 2 that is (5/2) (f''(1) - g''(1))^2 beta^2: quadratic, where the paper says linear.
    """
    moments = special.gamma((np.array([differing, 2 * differing]) + 1) / order) / special.gamma(1 / order)
    return 2 * (differing - order) / order, difference**2 * (moments[1] - moments[0] ** 2) / 2


def derived_kl(f: NormalisedTransform, g: NormalisedTransform) -> tuple[float, float]:
    """`leading_kl` for two profiles of one class, from their expansions."""
    for step, (a, b) in enumerate(zip(f.expansion, g.expansion, strict=True), start=1):
        if a != b:
            return leading_kl(f.order, f.order + step, a - b)
    raise ValueError(f"{f.name} and {g.name} agree to the last order known: their leading KL is not in the expansion.")


def measured_power(betas, kl, power: float, order: int = 1) -> tuple[float, float, float, float]:
    """(power, its error, constant, its error) of kl ~ constant beta^power as beta -> 0.

    The log-log slopes between neighbouring betas, and kl/beta^power for the derived `power`, are extrapolated to
    beta = 0 by quadratics in beta^(1/order), the variable of the expansion for profiles of that class. The errors are
    the change from linear to quadratic extrapolation plus twice the least-squares standard error.

    Parameters
    ----------
    betas, kl: (betas,) small betas and the KL in nats at each.
    power: the derived one, for the constant.
    order: the class k of the profiles.
    """
    betas, kl = np.asarray(betas, dtype=float), np.asarray(kl, dtype=float)
    slopes = np.diff(np.log(kl)) / np.diff(np.log(betas))
    middles = np.sqrt(betas[:-1] * betas[1:])
    return *_extrapolate(middles ** (1 / order), slopes), *_extrapolate(betas ** (1 / order), kl / betas**power)


def _extrapolate(x, values) -> tuple[float, float]:
    linear = np.polyfit(x, values, 1)
    quadratic, covariance = np.polyfit(x, values, 2, cov=True)
    return float(quadratic[-1]), float(abs(quadratic[-1] - linear[-1]) + 2 * math.sqrt(covariance[-1, -1]))


# --- the rule that scales beta (Appendix B) -------------------------------------------------------------------------


def best_scaled_kl(f: NormalisedTransform, g: NormalisedTransform, beta: float) -> tuple[float, float]:
    """(smallest KL(pi*_f at beta || pi*_g at c beta) over constants c, the c): what tuning g's beta can reach."""
    centre = g.order * math.log(beta) / f.order - math.log(beta)  # widths beta^(1/k) and (c beta)^(1/k) alike
    smallest = optimize.minimize_scalar(
        lambda u: kl_divergence(f, g, beta, math.exp(u) * beta), bounds=(centre - 5, centre + 5), method="bounded"
    )
    return float(smallest.fun), math.exp(smallest.x)


# --- quadrature in the boundary layer -------------------------------------------------------------------------------


def _nodes(beta: float, order: int):
    """Distances s in (0, 1) and weights (of ds / beta^(1/k)) that resolve the layer of width beta^(1/k) at s = 0.

    Gauss-Legendre panels: half-widths in the layer, doubling beyond it, halving towards s = 1 where log t is singular.
    """
    width = beta ** (1 / order)
    layer = width * np.concatenate([2.0 ** -np.arange(8, 1, -1), np.arange(0.5, 40, 0.5), 40 * 1.1 ** np.arange(60)])
    towards_one = 1 - 2.0 ** -np.arange(1, 50)
    inside = np.concatenate([layer[layer < 0.5], np.linspace(0.5, 0.98, 25), towards_one])
    edges = np.unique(np.concatenate([[0.0], inside, [1.0]]))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    distance = np.minimum(edges[:-1, None] + half * (nodes + 1), 1 - 2.0**-53)
    return distance.ravel(), (half * weights / width).ravel()
