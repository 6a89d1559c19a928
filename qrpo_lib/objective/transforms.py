"""Transformations f of the quantile reward and their log partition functions: `get("log").log_partition(0.01)`.

Z_f(beta) = E[exp(f(R_q) / beta)] over reference completions (Eq. 13) overflows for the betas in use, so every function
here returns log Z_f, computed without ever forming Z_f.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, special

NAMES = ("identity", "log", "square", "sqrt", "normal", "scaled-normal")

_SERIES_TERMS = np.arange(1, 21)  # the series below are used for 1/beta <= 1, where 20 terms reach 1e-18
_QUADRATURE_NODES, _QUADRATURE_WEIGHTS = np.polynomial.legendre.leggauss(16)
_NEGLIGIBLE = 40.0  # a share of exp(-40) = 4e-18 of the integral


class DivergentPartitionError(ValueError):
    """The integral of exp(f(t) / beta) over [0, 1] is infinite (Appendix F)."""


class UnresolvedPartitionError(ValueError):
    """The integral of exp(f(t) / beta) cannot be computed to 1e-10 from values of f at double-precision t."""


@dataclass(frozen=True)
class Transformation:
    """A transformation f of the quantile reward: call it on quantiles in [0, 1] (NumPy or torch, any shape).

    `limit` and `slope` are f(1) and the left derivative f'(1), None where f is unbounded above (Appendix J).
    """

    name: str
    numpy_function: Callable[..., Any]
    torch_name: str
    closed_form: Callable[..., Any]
    limit: float | None = None
    slope: float | None = None
    mean: float = 0.0
    scale: float = 1.0

    def __call__(self, quantile: Any) -> Any:
        """f(quantile), same shape; torch in, torch out. -inf or inf where f is infinite (log 0, normal 0 and 1).

        Raises ValueError for values outside [0, 1] or NaN.
        """
        if _is_torch(quantile):
            _check_quantiles(bool(((quantile >= 0) & (quantile <= 1)).all()))
            return self.mean + self.scale * _torch_function(self.torch_name)(quantile) if self.torch_name else quantile
        quantile = np.asarray(quantile, dtype=float)
        _check_quantiles(bool(((quantile >= 0) & (quantile <= 1)).all()))
        with np.errstate(divide="ignore"):
            return self.mean + self.scale * self.numpy_function(quantile)

    def log_partition(self, beta: Any) -> Any:
        """log Z_f(beta) from its closed form (Table 4), to 1e-12 relative: a float for one beta, an array for an array.

        Raises ValueError unless every beta is a positive number whose log Z_f is finite in double precision.
        """
        betas = _check_betas(beta)
        with np.errstate(over="ignore", invalid="ignore"):
            result = self.closed_form(1 / betas)
        if not np.isfinite(result).all():
            raise ValueError(f"log Z of {self.name!r} is outside double precision for beta={beta}: use a larger beta.")
        return result if np.ndim(beta) else float(result[()])

    def asymptotic_log_partition(self, beta: Any) -> Any:
        """The leading term for small beta, f(1)/beta + log(beta/f'(1)): for the identity, the paper's Eq. 12.

        Shapes as `log_partition`. Raises ValueError for a transformation that is unbounded above.
        """
        if self.limit is None:
            raise ValueError(f"{self.name!r} is unbounded above: it has no small-beta expansion at t = 1.")
        betas = _check_betas(beta)
        result = self.limit / betas + np.log(betas / self.slope)
        return result if np.ndim(beta) else float(result[()])

    def clamp(self, quantile: Any, n: int) -> Any:
        """Estimated quantiles moved to where f is finite, as in the paper's experiments with n reference rewards.

        [1/n, 1] for log, [1/n, (n-1)/n] for normal and scaled-normal (at n = 2 that is the one point 1/2), unchanged
        for the rest. Raises ValueError for n < 1, and for n = 1 where the normal's interval is empty.
        """
        _check_count(n)
        if self.name not in ("log", "normal", "scaled-normal"):
            return quantile
        if self.name == "log":
            return quantile.clip(1 / n, 1.0)
        if n == 1:
            raise ValueError(
                f"the {self.name!r} transformation needs at least 2 reference rewards: with 1, the estimated quantile "
                "is 0 or 1, where the normal quantile function is infinite; raise the number of reference rewards."
            )
        return quantile.clip(1 / n, (n - 1) / n)


Named = str | Mapping[str, Any] | Transformation  # what `get` takes


def get(name: Named, **params: Any) -> Transformation:
    """The transformation of that name, one of NAMES; a Transformation passes through.

    A mapping holds the name and the parameters, as settings files do: `{"name": "scaled-normal", "mu": 0, "sigma": 1}`.
    `scaled-normal` takes `mu` and `sigma` > 0 in units of the transformed reward; the others take no parameter.
    Raises ValueError for an unknown name and for wrong parameters.
    """
    if isinstance(name, Transformation):
        if params:
            raise ValueError(
                f"the transformation {name.name!r} is already built: drop the parameters {sorted(params)}."
            )
        return name
    if isinstance(name, Mapping):
        if "name" not in name:
            raise ValueError(f"a transformation needs a name, got {dict(name)}.")
        return get(**name, **params)
    if name not in NAMES:
        raise ValueError(f"unknown transformation {name!r}: use one of {', '.join(NAMES)}.")
    wanted = {"mu", "sigma"} if name == "scaled-normal" else set()
    if set(params) != wanted:
        raise ValueError(f"transformation {name!r} takes {sorted(wanted) or 'no parameters'}, got {sorted(params)}.")
    if name != "scaled-normal":
        return _PLAIN[name]
    mu, sigma = float(params["mu"]), float(params["sigma"])
    if not (math.isfinite(mu) and math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"scaled-normal needs a finite mu and a finite sigma > 0, got mu={mu}, sigma={sigma}.")
    closed_form = functools.partial(_normal_log_partition, mu=mu, sigma=sigma)
    return Transformation(name, special.ndtri, "special.ndtri", closed_form, mean=mu, scale=sigma)


def of_round(name: Named, number: int) -> Transformation:
    """f with the log partition function of round `number` (from 1) of several at one strength b, rewards kept.

    Each round takes the policy of the last one as its reference, and the quantile under the first reference as its
    reward. If every round reaches its optimum, round j starts from pi_ref exp((j - 1) f / b) / Z_f(b / (j - 1)), so
    that its own partition function is Z_f(b / j) / Z_f(b / (j - 1)). Round 1 is f itself.
    """
    f = get(name)
    if number < 1:
        raise ValueError(f"rounds are numbered from 1, got {number}.")
    if number == 1:
        return f
    closed_form = functools.partial(_round_log_partition, f.closed_form, number)
    # no small-beta expansion of its own: the leading terms of the two partition functions cancel
    return dataclasses.replace(f, closed_form=closed_form, limit=None, slope=None)


def log_partition(f: str | Callable[..., Any], beta: Any) -> Any:
    """log Z_f(beta) of any callable f on [0, 1] by adaptive quadrature in the log domain (Eq. 13), to 1e-10.

    `f` is a name, or maps a NumPy array of t in (0, 1) to an array of the same shape; it may be infinite at 0 and 1
    only. One beta gives a float, an array of betas an array. The error bound is on log Z, relative or absolute,
    whichever is larger. A peak of f inside of (0, 1), or a notch, is found if it is wider than 2e-6.
    Raises DivergentPartitionError where the integral is infinite (f unbounded above and beta too small),
    UnresolvedPartitionError where too much of it lies closer to 0 or 1 than double precision separates (then use a
    closed form), ValueError for a bad beta or for an f that does not return numbers.
    """
    f = get(f) if isinstance(f, str) else f
    betas, known, f = _check_betas(beta), isinstance(f, Transformation), _on_array(f)
    scanned = None if known else f(_SCAN)  # the named ones have no peaks
    values = [_quadrature(f, b) if known else _scanned_quadrature(f, scanned, b) for b in betas.ravel()]
    result = np.array(values).reshape(betas.shape)
    return result if np.ndim(beta) else float(result[()])


def discrete_log_partition(f: str | Callable[..., Any], beta: Any, probabilities: Any) -> Any:
    """log of sum_k p_k exp(f(F_k)/beta), F_k = p_1 + ... + p_k: rewards with K ordered values (Appendix E).

    `f` is a name, a Transformation or any callable on arrays in [0, 1]. `probabilities` (..., K) of the values in
    increasing order, exact or estimated by counting; result (...): a float
    for one list. `beta` a number, or an array that broadcasts with (...). Values of probability 0 do not contribute.
    Raises ValueError unless probabilities are >= 0 and sum to 1 (to 1e-6), and where f is +inf at an F_k.
    """
    betas, p = _check_betas(beta), np.asarray(probabilities, dtype=float)
    if p.ndim == 0 or p.shape[-1] == 0 or not np.isfinite(p).all() or (p < 0).any():
        raise ValueError("probabilities must be a non-empty list of numbers >= 0, one for each reward value.")
    if (np.abs(p.sum(-1) - 1) > 1e-6).any():
        raise ValueError("probabilities must sum to 1 over the last axis: divide the counts by their sum.")
    cumulative = np.cumsum(p, axis=-1)
    cumulative /= cumulative[..., -1:]  # the highest value has F = 1 exactly
    values = _finite_above((get(f) if isinstance(f, str) else f)(cumulative))
    with np.errstate(divide="ignore"):
        terms = np.where(p > 0, values / betas[..., None] + np.log(p), -np.inf)
    return _log_sum_exp(terms)


def finite_log_partition(f: str | Callable[..., Any], beta: Any, n: int) -> Any:
    """log of (1/(n+1)) sum_{k=0..n} exp(f(k/n)/beta): the exact partition function with n reference rewards.

    For continuous rewards the rank of a fresh reference completion among n reference rewards is uniform on 0..n,
    whatever their distribution, so its estimated quantile is k/n with probability 1/(n+1). `f` is a name, a
    Transformation (its `clamp` is applied, as the loss does) or any callable on arrays in [0, 1]. One beta gives a
    float, an array of betas an array. Raises ValueError for n < 1, and where f(k/n) is +inf.
    """
    _check_count(n)
    betas = _check_betas(beta)
    f = get(f) if isinstance(f, str) else f
    quantiles = np.arange(n + 1) / n
    if isinstance(f, Transformation):
        quantiles = f.clamp(quantiles, n)
    values = _finite_above(f(quantiles))
    if values.shape not in ((), quantiles.shape):
        raise ValueError(f"f must keep the shape of its argument: {quantiles.shape} became {values.shape}.")
    return _log_sum_exp(np.broadcast_to(values, quantiles.shape) / betas[..., None]) - math.log(n + 1)


# --- closed forms, as functions of x = 1/beta -----------------------------------------------------------------------


def _series(x, coefficients):
    """log(1 + sum_k c_k x^k), k = 1..20: keeps full relative precision where Z is close to 1."""
    return np.log1p(x * np.polynomial.polynomial.polyval(x, coefficients))


_IDENTITY_SERIES = 1 / special.factorial(_SERIES_TERMS + 1)
_SQUARE_SERIES = 1 / (special.factorial(_SERIES_TERMS) * (2 * _SERIES_TERMS + 1))
_SQRT_SERIES = 2 / (special.factorial(_SERIES_TERMS) * (_SERIES_TERMS + 2))


def _split(x, coefficients, large):
    """The series for x <= 1, the function `large` of x beyond."""
    return np.where(x <= 1, _series(np.minimum(x, 1), coefficients), large(np.maximum(x, 1)))


def _identity_log_partition(x):
    return _split(x, _IDENTITY_SERIES, lambda x: x - np.log(x) + np.log1p(-np.exp(-x)))


def _square_log_partition(x):
    # erfi(sqrt x) = 2/sqrt(pi) exp(x) D(sqrt x) with Dawson's D, which neither overflows nor underflows
    return _split(x, _SQUARE_SERIES, lambda x: x - np.log(x) / 2 + np.log(special.dawsn(np.sqrt(x))))


def _sqrt_log_partition(x):
    return _split(x, _SQRT_SERIES, lambda x: x + np.log(2 / x) + np.log1p((np.exp(-x) - 1) / x))


def _log_log_partition(x):
    return -np.log1p(x)


def _round_log_partition(closed_form, number, x):
    return closed_form(number * x) - closed_form((number - 1) * x)


def _normal_log_partition(x, mu=0.0, sigma=1.0):
    return x * (mu + sigma * (sigma * x) / 2)


_PLAIN = {
    "identity": Transformation("identity", np.positive, "", _identity_log_partition, limit=1.0, slope=1.0),
    "log": Transformation("log", np.log, "log", _log_log_partition, limit=0.0, slope=1.0),
    "square": Transformation("square", np.square, "square", _square_log_partition, limit=1.0, slope=2.0),
    "sqrt": Transformation("sqrt", np.sqrt, "sqrt", _sqrt_log_partition, limit=1.0, slope=0.5),
    "normal": Transformation("normal", special.ndtri, "special.ndtri", _normal_log_partition),
}


# --- quadrature -----------------------------------------------------------------------------------------------------


def _on_array(f):
    """f with its result checked: an array of numbers, not NaN, shaped as its argument."""

    def checked(t):
        try:
            with np.errstate(all="ignore"):
                values = np.asarray(f(t), dtype=float)
        except TypeError as error:
            raise ValueError(f"f must map a NumPy array in [0, 1] to numbers; it failed with: {error}") from error
        if values.shape not in ((), t.shape):
            raise ValueError(f"f must keep the shape of its argument: {t.shape} became {values.shape}.")
        if np.isnan(values).any():
            raise ValueError("f must not be NaN on [0, 1].")
        if np.isposinf(values[(t > 0) & (t < 1)] if values.ndim else values).any():
            raise DivergentPartitionError("f is +inf inside (0, 1): exp(f/beta) has no finite integral.")
        return np.broadcast_to(values, t.shape)

    return checked


# Where f is looked at for peaks and notches that lie between the nodes of the first panels.
_SCAN = (np.arange(2**19) + 0.5) / 2**19
_NEAR = 256  # how far the panels around a peak or notch reach, in cells of the scan
_MOST_EXTREMA = 4096


def _scanned_quadrature(f, scanned, beta: float) -> float:
    """`_quadrature` with panels around the extrema of f that its values `scanned` at `_SCAN` show.

    Those of f, not of exp(f / beta): for a small beta that one is so much narrower that the scan passes it by.
    """
    rising = scanned[1:] > scanned[:-1]
    falling = scanned[1:] < scanned[:-1]
    inner = scanned[1:-1]
    extrema = 1 + np.flatnonzero(((inner > scanned[:-2]) & ~rising[1:]) | ((inner < scanned[:-2]) & ~falling[1:]))
    if not len(extrema):
        return _quadrature(f, beta)
    highest_near = ndimage.maximum_filter1d(scanned, 2 * _NEAR + 1)[extrema] / beta
    extrema = extrema[np.argsort(-highest_near, kind="stable")]
    highest_near = -np.sort(-highest_near)
    total = _quadrature(f, beta)
    steps = 2.0 ** np.arange(_NEAR.bit_length()) / len(_SCAN)
    # from the highest on, until what is left cannot count
    counts = int(np.count_nonzero(highest_near + math.log(2 * _NEAR * len(extrema) / len(_SCAN)) > total - _NEGLIGIBLE))
    for_panels = _SCAN[extrema[: min(counts, _MOST_EXTREMA)], None]
    total = _quadrature(f, beta, np.concatenate([for_panels - steps, for_panels + steps], axis=1).ravel())
    if counts > _MOST_EXTREMA:
        _check_against_scan(scanned / beta, total, beta)
    return total


def _check_against_scan(log_values, total: float, beta: float) -> None:
    """Raises UnresolvedPartitionError if the midpoint rule, less all that it can overestimate, finds more."""
    highest = log_values.max()
    values = np.exp(log_values - highest)
    least = (values.sum() - np.abs(np.diff(values)).sum() / 2) / len(_SCAN)
    if least > 0 and math.log(least) + highest > total + 1e-9 * max(1, abs(total)):
        raise UnresolvedPartitionError(
            f"Z at beta={beta} is spread over more than {_MOST_EXTREMA} peaks too narrow for the quadrature: smooth f."
        )


def _quadrature(f, beta: float, further=()) -> float:
    """log of the integral of exp(f/beta) over [0, 1]; `further` edges of panels."""
    singular = np.isposinf(f(np.array([0.0, 1.0])))
    if not singular.any():
        return _log_integral(lambda t: f(t) / beta, _with_edges(_panels(0, 0), further))
    previous = math.nan
    for octaves in range(8, 49, 8):  # cut the infinite end off at 2^-octaves and add its power-law remainder
        cut = 2.0**-octaves
        remainders = [_power_law(f, beta, cut, at_one=end == 1)[1] for end in np.flatnonzero(singular)]
        if math.inf in remainders:
            continue
        middle = _log_integral(lambda t: f(t) / beta, _with_edges(_panels(*(cut * singular)), further))
        total = _log_sum_exp(np.array([middle, *remainders]))
        if abs(total - previous) <= 1e-11 * max(1, abs(total)):
            return total
        previous = total
    _refuse(f, beta, singular)


def _power_law(f, beta, cut, at_one):
    """Exponent a and log remainder of the integral over (0, cut) if exp(f/beta) goes on as distance^-a from there."""
    distance = np.array([cut, 2 * cut])
    log_values = f(1 - distance if at_one else distance) / beta
    exponent = (log_values[0] - log_values[1]) / math.log(2)
    remainder = math.log(cut) + log_values[0] - math.log(1 - exponent) if exponent < 1 - 1e-9 else math.inf
    return exponent, remainder


def _refuse(f, beta, singular):
    """Say which it is: an exponent that stays at 1 or above diverges, one still falling cannot be resolved."""
    for end in np.flatnonzero(singular):
        far, _ = _power_law(f, beta, 2.0**-24, at_one=end == 1)
        near, _ = _power_law(f, beta, 2.0**-48, at_one=end == 1)
        if near >= 1 - 1e-9 and near >= far - 1e-4:
            raise DivergentPartitionError(
                f"Z is infinite at beta={beta}: f is unbounded above and near t={end} exp(f/beta) grows like the "
                f"distance to the power -{near:.4g}, with an integral only above -1; use a larger beta or a bounded f."
            )
    raise UnresolvedPartitionError(
        f"Z at beta={beta} depends on values of t closer to {' and '.join(map(str, np.flatnonzero(singular)))} than "
        "double precision separates, so it cannot be told from infinite; use a larger beta or a closed form."
    )


def _panels(cut_at_zero, cut_at_one):
    """Edges of panels that halve towards 0 and towards 1, 64 equal ones between; starting and ending at the cuts."""
    lower = 2.0 ** -np.arange(60, 6, -1)
    upper = 1 - 2.0 ** -np.arange(7, 51)
    edges = np.concatenate([[0.0], lower, np.arange(1, 64) / 64, upper, [1.0]])
    inside = edges[(edges > cut_at_zero) & (edges < 1 - cut_at_one)]
    return np.concatenate([[cut_at_zero], inside, [1 - cut_at_one]])


def _with_edges(edges, further):
    further = np.asarray(further, dtype=float)
    return np.unique(np.concatenate([edges, further[(further > edges[0]) & (further < edges[-1])]]))


def _log_integral(log_g, edges) -> float:
    """log of the integral of exp(log_g), by halving every panel whose Gauss-Legendre estimate its halves contradict."""
    start, end = edges[:-1], edges[1:]
    estimate, _, largest = _gauss(log_g, start, end)
    finished = np.array([-np.inf])
    for _ in range(120):
        middle = (start + end) / 2
        left, left_bound, left_size = _gauss(log_g, start, middle)
        right, right_bound, right_size = _gauss(log_g, middle, end)
        halves, bound = np.logaddexp(left, right), np.logaddexp(left_bound, right_bound)
        total = _log_sum_exp(np.concatenate([finished, halves]))
        largest = np.fmax(largest, np.fmax(left_size, right_size))
        tolerance = np.maximum(1e-12, 1e-15 * largest)  # rounding of log_g itself
        with np.errstate(invalid="ignore"):
            agree = np.abs(estimate - halves) <= tolerance
        narrow = end - start <= 2.0**-46 * end  # a step of f is placed to 1e-14; below, the nodes run out of digits
        resolved = agree | (bound <= total - _NEGLIGIBLE) | narrow
        finished = np.concatenate([finished, halves[resolved]])
        rest = ~resolved
        if not rest.any():
            return float(_log_sum_exp(finished))
        start, end = np.concatenate([start[rest], middle[rest]]), np.concatenate([middle[rest], end[rest]])
        estimate = np.concatenate([left[rest], right[rest]])
        largest = np.concatenate([left_size[rest], right_size[rest]])
    raise UnresolvedPartitionError("the quadrature did not settle: f varies on every scale; use a smoother f.")


def _gauss(log_g, start, end):
    """For each panel: log integral, log of an upper bound of it, and the largest finite |log_g| seen.

    The bound adds to the highest value twice its step to the neighbouring nodes: a panel counts as negligible only by
    that, so that a peak between the nodes is not lost.
    """
    half = (end - start) / 2
    values = log_g((start + end)[:, None] / 2 + half[:, None] * _QUADRATURE_NODES)
    with np.errstate(divide="ignore"):
        log_half = np.log(half)
    finite = np.maximum(values, -1e300)  # -inf stands for an empty part
    steps = np.pad(np.abs(np.diff(finite, axis=-1)), ((0, 0), (1, 1)))
    peak = finite.argmax(-1)[:, None]
    step = np.maximum(np.take_along_axis(steps, peak, -1), np.take_along_axis(steps, peak + 1, -1))[:, 0]
    highest = finite.max(-1)
    bound = np.where(highest > -1e300, highest + 2 * step + math.log(2) + log_half, -np.inf)
    largest = np.where(np.isfinite(values), np.abs(values), 0.0).max(-1)
    return _log_sum_exp(values + np.log(_QUADRATURE_WEIGHTS)) + log_half, bound, largest


# --- small helpers --------------------------------------------------------------------------------------------------


def _log_sum_exp(terms):
    """log of the sum of exp over the last axis; a float for one row. -inf terms are empty, all -inf gives -inf."""
    highest = terms.max(-1, keepdims=True)
    highest = np.where(np.isneginf(highest), 0.0, highest)
    scaled = terms - highest
    with np.errstate(divide="ignore"):
        result = np.log(np.exp(scaled, out=scaled).sum(-1)) + highest[..., 0]
    return result if result.ndim else float(result)


def _is_torch(value) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "requires_grad")


def _torch_function(dotted: str):
    import torch  # here, not above: the command line must start without torch

    return functools.reduce(getattr, dotted.split("."), torch)


def _check_quantiles(valid: bool) -> None:
    if not valid:
        raise ValueError("a transformation is defined on quantiles in [0, 1]: some value is outside, or NaN.")


def _check_betas(beta) -> np.ndarray:
    betas = np.asarray(beta, dtype=float)
    if not (np.isfinite(betas) & (betas > 0)).all():
        raise ValueError(f"beta must be a positive number, got {beta}.")
    return betas


def _check_count(n) -> None:
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"the number of reference rewards must be an integer of at least 1, got {n}.")


def _finite_above(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if not (values < np.inf).all():
        raise ValueError("f is infinite or NaN at one of the estimated quantiles: clamp them, or use a bounded f.")
    return values
