"""What the choice of reference completions does to the quantile and to the target (beyond the paper).

Two constructions. *Apart*: the n reference completions of a prompt are others than the candidates that its pair is made
of. *Shared*, as in the authors' code: they are the first n of all that were sampled, of which the m candidates are the
first, so that a completion is compared with itself and with its competitors.

For a continuous reward everything follows from ranks. Let F be a completion's true quantile under the reference policy.
Apart, n times its estimated quantile is Binomial(n, F), whatever was done to choose it. Shared, with n >= m, it is

    random pairs     1 + [it is the chosen one] + Binomial(n - 2, F)
    best and worst   m + Binomial(n - m, F) for the best, 1 + Binomial(n - m, F) for the worst

and with n < m only some of the candidates count. So with references apart the estimate's mean is F at every n: more
references make it more precise and nothing else. Shared, it is F + (1 - F)/n over random pairs, and with best and worst
F + m(1 - F)/n and F + (1 - m F)/n: at n = m a constant, whatever the completion. There, part of what more references do
is to undo the comparison with itself.

`pair` is "random" (two random candidates) or "best" (best and worst of all), `side` "chosen" or "rejected".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, special, stats

from qrpo_lib.objective import transforms

SIDES = ("chosen", "rejected")
_NODES = 400  # of quadrature over F, for what is no polynomial


@dataclass(frozen=True)
class ReferenceSet:
    """How a prompt's references and its pair are chosen.

    n: reference completions. candidates: m, of which the pair is made. shared: whether candidates are references.
    """

    n: int
    candidates: int = 6
    pair: Literal["random", "best"] = "random"
    shared: bool = False

    def __post_init__(self):
        if self.n < 1 or self.candidates < 2 or self.pair not in ("random", "best"):
            raise ValueError(f'a set has n >= 1, at least 2 candidates, and pairs "random" or "best", not {self}.')

    def rank_given(self, quantile, side: str) -> np.ndarray:
        """Law of n R_q-hat on 0..n for a completion of that side with true quantile F: (...,) to (..., n + 1)."""
        if side not in SIDES:
            raise ValueError(f"a side is one of {', '.join(SIDES)}, not {side!r}.")
        law = np.zeros((*np.shape(quantile), self.n + 1))
        for probability, sure, others in self._parts(side):
            ranks = np.arange(others + 1)
            law[..., sure + ranks] += probability * stats.binom.pmf(ranks, others, np.asarray(quantile)[..., None])
        return law

    def rank(self, side: str) -> np.ndarray:
        """Law of n R_q-hat on 0..n over reference completions: (n + 1,). Exact, as the integrand is a polynomial."""
        nodes, weights = _legendre((self.n + self.candidates) // 2 + 1)
        return (weights * self.density(nodes, side)) @ self.rank_given(nodes, side)

    def density(self, quantile, side: str | None = None):
        """Density of F of the completions of that side, on [0, 1]; of both together if no side is named."""
        if side is None:
            return (self.density(quantile, "chosen") + self.density(quantile, "rejected")) / 2
        better_than = 1 if self.pair == "random" else self.candidates - 1
        quantile = np.asarray(quantile, dtype=float)
        return (better_than + 1) * (quantile if side == "chosen" else 1 - quantile) ** better_than

    def mean_transformed(self, transform, quantile):
        """E[f(R_q-hat) | F] of the completions of a pair, whichever they are: what squared error fits, shape of F.

        `transform` a name or a Transformation, whose clamp is applied.
        """
        f = transforms.get(transform) if isinstance(transform, str) else transform
        values = f(f.clamp(np.arange(self.n + 1) / self.n, self.n))
        parts = {side: self.density(quantile, side) * (self.rank_given(quantile, side) @ values) for side in SIDES}
        return (parts["chosen"] + parts["rejected"]) / (2 * self.density(quantile))

    def loss_at_start(self, transform, beta: float, log_z: float | None = None) -> dict[str, float]:
        """E[(f(R_q-hat) - beta log Z)^2] before training, when every log-ratio is 0, by side and as "both".

        log_z: the exact log Z_f of continuous rewards by default.
        """
        f = transforms.get(transform) if isinstance(transform, str) else transform
        log_z = f.log_partition(beta) if log_z is None else log_z
        losses = (f(f.clamp(np.arange(self.n + 1) / self.n, self.n)) - beta * log_z) ** 2
        of_sides = {side: float(self.rank(side) @ losses) for side in SIDES}
        return of_sides | {"both": sum(of_sides.values()) / 2}

    def _parts(self, side: str) -> list[tuple[float, int, int]]:
        """The law given F as a mixture: probability, how many references are surely at or below, how many are free."""
        n, m = self.n, self.candidates
        if not self.shared:
            return [(1.0, 0, n)]
        if self.pair == "best":
            if n >= m:
                return [(1.0, m if side == "chosen" else 1, n - m)]
            # All references are candidates: none is above the best, and only the worst itself is not above the worst.
            return [(1.0, n, 0)] if side == "chosen" else [(n / m, 1, 0), (1 - n / m, 0, 0)]
        inside = min(n, m)  # candidates that are references; the pair's places among the candidates are random
        ways = m * (m - 1)
        parts = []
        for own, partner, count in (
            (1, 1, inside * (inside - 1)),
            (1, 0, inside * (m - inside)),
            (0, 1, inside * (m - inside)),
            (0, 0, (m - inside) * (m - inside - 1)),
        ):
            if count:
                sure = own + (partner if side == "chosen" else 0)
                parts.append((count / ways, sure, n - own - partner))
        return parts


@dataclass(frozen=True)
class Limit:
    """What a generalising model converges to: mean true quantile of its answers, KL to the reference policy in nats."""

    mean_quantile: float
    kl: float


def generalised_limit(references: ReferenceSet, transform, beta: float, log_z: float | None = None) -> Limit:
    """The policy that squared error ends at, where a model can tell how good a completion is and nothing else.

    Among log-ratios h(F) that are a policy's, so that exp(h) integrates to 1 over F uniform, the one that minimises the
    mean of (h - g)^2 over the completions that are trained on: g(F) = (E[f(R_q-hat) | F] - beta log Z)/beta, density w.
    At the minimum w (h - g) = -c exp(h), so h = g - W(c exp(g)/w) with Lambert's W, and c is such that h is a policy's.
    Where g is a policy's already, as with references apart, f(t) = t and the exact Z, h is g: QRPO's optimum, at any n.

    Parameters
    ----------
    references: how a prompt's references and its pair are chosen.
    transform: a name or a Transformation, whose clamp is applied.
    beta: strength of the KL regularisation, in units of the transformed reward.
    log_z: of the targets; the exact log Z_f of continuous rewards by default.

    Raises
    ------
    ValueError
        There is no such policy: the targets are too low.
    """
    f = transforms.get(transform) if isinstance(transform, str) else transform
    log_z = f.log_partition(beta) if log_z is None else log_z
    nodes, weights = _legendre(_NODES)
    g = references.mean_transformed(f, nodes) / beta - log_z
    scaled = np.exp(g) / references.density(nodes)

    def log_ratio(c: float) -> np.ndarray:
        return g - special.lambertw(c * scaled).real

    def excess(c: float) -> float:
        return float(weights @ np.exp(log_ratio(c))) - 1

    # Below this there is no such h; at it, rounding decides.
    lowest, highest = -(1 - 1e-9) / (np.e * scaled.max()), 1.0
    if excess(lowest) < 0:
        raise ValueError(f"no policy is at such a minimum: its targets are too low at beta = {beta}.")
    while excess(highest) > 0:
        highest *= 4
    h = log_ratio(optimize.brentq(excess, lowest, highest, xtol=1e-14))
    share = weights * np.exp(h)
    return Limit(float(share @ nodes), float(share @ h))


def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of quadrature on [0, 1], exact for polynomials of a degree below twice the count."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2
