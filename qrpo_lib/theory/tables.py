"""Tables of the theory notebooks: tidy data frames, one row a case. `figures` draws them."""

import itertools

import numpy as np
import pandas as pd
from scipy import special, stats

from qrpo_lib.objective import transforms
from qrpo_lib.theory import asymptotics, noise, optimal_policy, partition, reference_sets, tabular

# --- partition_function ---------------------------------------------------------------------------------------------


def table_4(betas, mu: float, sigma: float) -> pd.DataFrame:
    """Table 4 with numbers: for each transformation and beta, log Z from the closed form and from quadrature.

    The normals are integrated over their value z, where the integrand is a bump that float64 resolves at every beta.
    """
    rows = []
    for name, beta in itertools.product(transforms.NAMES, betas):
        f = transforms.get(name, **({"mu": mu, "sigma": sigma} if name == "scaled-normal" else {}))
        closed = f.log_partition(beta)
        quadrature = transforms.log_partition(f, beta) if f.limit is not None else partition.normal_quadrature(f, beta)
        rows.append((name, beta, closed, quadrature, abs(quadrature / closed - 1)))
    return pd.DataFrame(rows, columns=["transformation", "beta", "log_z", "log_z_by_quadrature", "relative_difference"])


def mgf_table(betas, completions: int, seed: int) -> pd.DataFrame:
    """log Z summed over completions (Eq. 2) against the moment generating function of the reward at 1/beta (Eq. 7).

    Enumerated completions with rewards rounded to halves (many ties), and known distributions, whose closed form is
    compared with quadrature over their quantile function. The exponential (rate 2) only where its Z is finite.
    """
    log_ref, raw = tabular.random_prompt(completions, seed)
    rewards = np.round(2 * raw) / 2
    values, probabilities = partition.group_by_reward(rewards, np.exp(log_ref))
    gaussian = transforms.get("scaled-normal", mu=0.3, sigma=0.5)
    rows = []
    for beta in betas:
        pairs = {
            "enumerated": (
                tabular.log_partition(log_ref, rewards, beta),
                partition.discrete_reward_log_partition(beta, values, probabilities),
            ),
            "Gaussian": (partition.normal_quadrature(gaussian, beta), partition.gaussian_log_partition(beta, 0.3, 0.5)),
            "uniform": (
                transforms.log_partition(lambda t: 4 * t - 1, beta),
                partition.uniform_log_partition(beta, -1.0, 3.0),
            ),
        }
        if beta > 0.5:
            exponential = transforms.log_partition(lambda t: -np.log1p(-t) / 2, beta)
            pairs["exponential"] = (exponential, partition.exponential_log_partition(beta, 2.0))
        rows += [(name, beta, direct, mgf, abs(mgf / direct - 1)) for name, (direct, mgf) in pairs.items()]
    return pd.DataFrame(rows, columns=["rewards", "beta", "log_z", "log_mgf", "relative_difference"])


def quantile_test_table(samples: int, counts, seed: int) -> pd.DataFrame:
    """p-values: exact quantiles of continuous rewards, exact quantiles of tied rewards, quantiles estimated from n."""
    continuous = {
        "normal": stats.norm(),
        "exponential": stats.expon(),
        "t(2)": stats.t(2),
        "beta(5, 1)": stats.beta(5, 1),
    }
    tied = stats.binom(4, 0.4)
    probabilities = tied.pmf(np.arange(5))
    rows = [
        (name, "uniform on (0, 1)", partition.exact_quantile_test(law, samples, seed + i))
        for i, (name, law) in enumerate(continuous.items())
    ]
    rows.append(("5 tied values", "uniform on (0, 1)", partition.exact_quantile_test(tied, samples, seed)))
    rows.append(
        ("5 tied values", "F_k with probability p_k", partition.discrete_quantile_test(probabilities, samples, seed))
    )
    target = stats.norm(0.5, 0.2)
    reshaped = partition.target_distribution_test(continuous["exponential"], target, samples, seed)
    rows.append(("exponential, then f = inverse CDF", "normal(0.5, 0.2)", reshaped))
    rows += [
        (f"{name}, n = {n}", "uniform on 0, 1/n, ..., 1", partition.estimated_quantile_test(law, n, samples, seed + n))
        for n in counts
        for name, law in continuous.items()
    ]
    return pd.DataFrame(rows, columns=["rewards", "law", "p_value"])


def divergence_table(betas) -> pd.DataFrame:
    """log Z or the name of the error, for functions that are bounded above and functions that are not (Appendix F)."""
    functions = {
        "-1/t": lambda t: -1 / t,
        "log t": np.log,
        "sin 9t": lambda t: np.sin(9 * t),
        "-log(1-t)/2": lambda t: -np.log1p(-t) / 2,
        "1/(1-t)": lambda t: 1 / (1 - t),
    }
    rows = [(name, beta, _outcome(f, beta)) for name, f in functions.items() for beta in betas]
    return pd.DataFrame(rows, columns=["f", "beta", "outcome"])


def _outcome(f, beta):
    try:
        return f"{transforms.log_partition(f, beta):.12g}"
    except ValueError as error:
        return type(error).__name__


def quantile_law_table(samples: int, n: int, seed: int) -> pd.DataFrame:
    """Empirical distribution functions of quantile rewards of reference completions, at multiples of 0.002.

    Exact quantiles of a continuous and of a tied reward, and quantiles estimated from n reference rewards.
    """
    rng = np.random.default_rng(seed)
    ties = stats.binom(4, 0.4)
    laws = {
        "continuous": stats.norm.cdf(rng.normal(size=samples)),
        "5 tied values": ties.cdf(ties.rvs(samples, random_state=rng)),
        f"estimated, n = {n}": rng.integers(0, n + 1, size=samples) / n,
    }
    grid = np.linspace(0, 1, 501)
    columns = {
        reward: np.searchsorted(np.sort(values), grid, side="right") / samples for reward, values in laws.items()
    }
    return pd.concat(
        [pd.DataFrame({"reward": key, "quantile": grid, "share": share}) for key, share in columns.items()]
    )


def partition_gap_table(counts, betas) -> pd.DataFrame:
    """log Z_f - log Z_f,n in nats for the identity: how far the paper's log-ratio target lies above what n allows."""
    f = transforms.get("identity")
    rows = [(n, beta, -noise.partition_gap(f, beta, n) / beta) for n, beta in itertools.product(counts, betas)]
    return pd.DataFrame(rows, columns=["n", "beta", "excess_nats"])


def finite_simulation_table(names, counts, beta: float, prompts: int, seed: int) -> pd.DataFrame:
    """log Z_f,n from its formula and from simulated prompts whose rewards are normal, exponential and t(2).

    The law of quantiles estimated from n references does not depend on that of the rewards, so one formula must fit all
    three.

    Parameters
    ----------
    names: transformations, as `transforms.get` knows them.
    counts: numbers n of reference rewards.
    beta: strength of the KL regularisation, in units of the transformed reward.
    prompts: simulated ones, for each row.
    seed: of the draws, the same for each row.

    Returns
    -------
    A row for each name, n and reward distribution: `f, n, rewards`; `log_z` by the formula and `simulated` with its
    standard `error`; `standard_errors`, by how many the two differ.
    """
    laws = {"normal": stats.norm(), "exponential": stats.expon(), "t(2)": stats.t(2)}
    rows = []
    for name, n, (law, distribution) in itertools.product(names, counts, laws.items()):
        f = transforms.get(name)
        estimate, error = noise.simulate_finite_partition(f, beta, n, distribution, prompts, seed)
        formula = transforms.finite_log_partition(f, beta, n)
        # at n = 1 with log both ranks are clamped to 1: no spread, and the difference is 0
        deviation = (estimate - formula) / error if error > 0 else 0.0
        rows.append((name, n, law, formula, estimate, error, deviation))
    return pd.DataFrame(rows, columns=["f", "n", "rewards", "log_z", "simulated", "error", "standard_errors"])


def discrete_table(value_counts, betas, n: int, repeats: int, seed: int) -> pd.DataFrame:
    """Discrete rewards with K equally likely values (Appendix E), in nats of the log-ratio target.

    Parameters
    ----------
    value_counts: the K.
    betas: strengths of the KL regularisation, in units of the quantile.
    n: reference rewards that the probabilities are counted on.
    repeats: simulated prompts.
    seed: of the draws, the same for each row.

    Returns
    -------
    A row for each K and beta. `continuous_excess`: log Z of the K values minus log Z_q of continuous rewards;
    `estimate_bias` and `estimate_std`: of log Z when the probabilities are counted on n reference rewards.
    """
    identity, rows = transforms.get("identity"), []
    for values, beta in itertools.product(value_counts, betas):
        excess = partition.continuous_approximation_error(identity, beta, values) / beta
        errors = (
            partition.estimated_discrete_error(identity, beta, np.full(values, 1 / values), n, repeats, seed) / beta
        )
        rows.append((values, beta, excess, errors.mean(), errors.std()))
    return pd.DataFrame(rows, columns=["values", "beta", "continuous_excess", "estimate_bias", "estimate_std"])


# --- noise ----------------------------------------------------------------------------------------------------------


def noise_table(betas, quantiles, counts, repeats: int, seed: int) -> pd.DataFrame:
    """The noise of an estimated Z and of an estimated quantile (Figure 7), by formula and simulated, for every n.

    Parameters
    ----------
    betas: strengths of the KL regularisation, in standard deviations of the Gaussian rewards of which Z is estimated.
    quantiles: true ones, between 0 and 1, that are estimated.
    counts: numbers n of reference rewards, ascending.
    repeats: simulated prompts, for each row.
    seed: of the draws of Z; those of the quantiles have the next one.

    Returns
    -------
    A row for each beta and n (`noise` "partition": beta log Z-hat, in units of the reward) and for each quantile and n
    ("quantile"): `setting` (beta or quantile), `n`, `log10_formula` of the standard deviation, `simulated` standard
    deviation with its standard `error`, and `bias`.
    """
    parts = []
    for kind, settings, errors, log_formula in (
        ("partition", betas, noise.simulate_log_partition(betas, counts, repeats, seed), noise.log_partition_noise),
        ("quantile", quantiles, noise.simulate_quantile(quantiles, counts, repeats, seed + 1), _log_quantile_noise),
    ):
        setting, n = (grid.ravel() for grid in np.meshgrid(settings, counts, indexing="ij"))
        std, error = noise.standard_deviation(errors)
        columns = {"noise": kind, "setting": setting, "n": n, "log10_formula": log_formula(setting, n) / np.log(10)}
        columns |= {"simulated": std.ravel(), "error": error.ravel(), "bias": errors.mean(-1).ravel()}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _log_quantile_noise(quantile, n):
    return np.log(noise.quantile_noise(quantile, n))


def estimator_errors(betas, n: int, repeats: int, seed: int) -> pd.DataFrame:
    """Simulated errors of beta log Z-hat at one n, for standard normal rewards.

    Parameters
    ----------
    betas: strengths of the KL regularisation, in units of the reward.
    n: reference rewards of a prompt.
    repeats: simulated prompts, for each beta.
    seed: of the draws.

    Returns
    -------
    Rows `beta, error`, `repeats` of them for each beta; the error is the estimate less beta log Z.
    """
    errors = noise.simulate_log_partition(betas, [n], repeats, seed)[:, 0]
    return pd.DataFrame({"beta": np.repeat(betas, repeats), "error": errors.ravel()})


def histograms(errors: pd.DataFrame, bins: int = 60) -> pd.DataFrame:
    """Densities of `estimator_errors` in equal bins between each beta's extremes: rows (beta, low, high, density)."""
    rows = []
    for beta, group in errors.groupby("beta"):
        density, edges = np.histogram(group["error"], bins=bins, density=True)
        rows.append(pd.DataFrame({"beta": beta, "low": edges[:-1], "high": edges[1:], "density": density}))
    return pd.concat(rows, ignore_index=True)


def target_table(names, betas, counts) -> pd.DataFrame:
    """Bias and noise of the whole calibrated target, root mean square over reference completions, in nats.

    A row for each transformation, beta, n and partition ("exact" is the paper's, "finite" the one for n references);
    left out where n is too small for the transformation.
    """
    rows = []
    for name, n in itertools.product(names, counts):
        if name == "normal" and n == 1:
            continue
        f = transforms.get(name)
        mean, bias, std = noise.mean_target_errors(f, n)
        for beta in betas:
            shifted = np.hypot(np.sqrt(max(bias**2 - mean**2, 0)), mean + noise.partition_gap(f, beta, n))
            rows += [
                (name, beta, n, "exact", bias / beta, std / beta),
                (name, beta, n, "finite", shifted / beta, std / beta),
            ]
    return pd.DataFrame(rows, columns=["transformation", "beta", "n", "partition", "bias_nats", "std_nats"])


def target_error_ratio_table(table: pd.DataFrame) -> pd.DataFrame:
    """Error of the estimated-Z target over that of the quantile target, each in standard deviations of its reward.

    From the partition rows of a `noise_table` (rewards of standard deviation 1) and the exact noise of the quantile,
    root mean square over reference completions, sqrt(1/(6 n)), whose reward has standard deviation 1/sqrt(12).
    """
    rows = table[table["noise"] == "partition"]
    quantile = np.sqrt(1 / (6 * rows["n"])) * np.sqrt(12)
    total = np.hypot(rows["simulated"], rows["bias"])
    columns = {"beta": rows["setting"], "n": rows["n"], "std_ratio": rows["simulated"] / quantile}
    return pd.DataFrame(columns | {"rms_ratio": total / quantile})


# --- reference_sets ---------------------------------------------------------------------------------------------------


def reference_sets_table(betas, counts, candidates: int) -> pd.DataFrame:
    """What a generalising model converges to, and the mean loss before training, for f = t and the exact Z.

    A row for each construction ("apart", "shared"), kind of pair ("random", "best": of `candidates`), beta and n.
    Columns `references, pair, beta, n, mean_quantile, kl, loss_at_start`.
    """
    rows = []
    for shared, pair, beta, n in itertools.product((False, True), ("random", "best"), betas, counts):
        reference_set = reference_sets.ReferenceSet(n, candidates, pair, shared)
        limit = reference_sets.generalised_limit(reference_set, "identity", beta)
        row = {"references": "shared" if shared else "apart", "pair": pair, "beta": beta, "n": n}
        row |= {"mean_quantile": limit.mean_quantile, "kl": limit.kl}
        rows.append(row | {"loss_at_start": reference_set.loss_at_start("identity", beta)["both"]})
    return pd.DataFrame(rows)


# --- asymptotics ----------------------------------------------------------------------------------------------------


def kl_table(profiles, betas) -> pd.DataFrame:
    """KL(pi*_f || pi*_g) in nats for every ordered pair of profiles of one class (a dict) and every beta."""
    rows = [
        (f, g, beta, asymptotics.kl_divergence(profiles[f], profiles[g], beta))
        for f, g in itertools.permutations(profiles, 2)
        if profiles[f].order == profiles[g].order
        for beta in betas
    ]
    return pd.DataFrame(rows, columns=["f", "g", "beta", "kl"])


def power_table(profiles, table: pd.DataFrame, largest_beta: float) -> pd.DataFrame:
    """Measured and derived order in beta and leading constant for every pair of a `kl_table`, from beta <= largest."""
    rows = []
    for (f, g), group in table[table["beta"] <= largest_beta].groupby(["f", "g"], sort=False):
        power, constant = asymptotics.derived_kl(profiles[f], profiles[g])
        measured = asymptotics.measured_power(group["beta"], group["kl"], power, profiles[f].order)
        rows.append((f, g, power, *measured[:2], constant, *measured[2:]))
    columns = ["f", "g", "derived_order", "order", "order_error", "derived_constant", "constant", "constant_error"]
    return pd.DataFrame(rows, columns=columns)


def laplace_table(betas) -> pd.DataFrame:
    """Relative error of Laplace's expansion of Z_f with 1 to 4 terms, for every first-class profile."""
    rows = []
    for name, profile in asymptotics.PROFILES.items():
        for terms, errors in enumerate(asymptotics.laplace_errors(profile, betas), start=1):
            rows += [(name, terms, beta, error) for beta, error in zip(betas, errors, strict=True)]
    return pd.DataFrame(rows, columns=["f", "terms", "beta", "relative_error"])


def scaling_table(betas, factors) -> pd.DataFrame:
    """KL(identity at beta || g at factor x beta) for the square and for the second-class -(1 - t)^2.

    The square is unnormalised here (f'(1) = 2): the rule of Appendix B says factor 2, by ratio of derivatives.
    """
    identity, square = asymptotics.PROFILES["identity"], asymptotics.PROFILES["square"]
    second = asymptotics.HIGHER_PROFILES["-(1-t)^2"]
    rows = []
    for factor, beta in itertools.product(factors, betas):
        rows.append(("t^2", factor, beta, asymptotics.kl_divergence(identity, square, beta, factor * beta / 2)))
        rows.append(("-(1-t)^2", factor, beta, asymptotics.kl_divergence(identity, second, beta, factor * beta)))
    return pd.DataFrame(rows, columns=["g", "factor", "beta", "kl"])


# --- optimal_policy -------------------------------------------------------------------------------------------------


def density_table(betas) -> pd.DataFrame:
    """Reward densities under pi_ref (standard normal) and under pi* of the identity at each beta (Figure 5)."""
    rewards = np.linspace(-3, 5, 801)
    columns = {"reward": rewards, "reference": stats.norm.pdf(rewards)}
    for beta in betas:
        columns[f"beta_{beta:g}"] = optimal_policy.reward_density("identity", beta, stats.norm(), rewards)
    return pd.DataFrame(columns)


def best_of_n_table(counts) -> pd.DataFrame:
    """KL of the best-of-N policy to the optimum of the identity at beta = 1/(N - 1), and its limit (5/2) beta^2."""
    betas = np.array([optimal_policy.best_of_n_log_beta(n) for n in counts])
    log, identity = asymptotics.PROFILES["log"], asymptotics.PROFILES["identity"]
    kl = [asymptotics.kl_divergence(log, identity, beta) for beta in betas]
    return pd.DataFrame({"n": counts, "beta": betas, "kl": kl, "leading_term": 2.5 * betas**2})


def fit_table(names, betas, completions: int, seed: int) -> pd.DataFrame:
    """Gradient descent on the exact loss for one enumerated prompt: how close it comes to the closed form (Eq. 2).

    Parameters
    ----------
    names: transformations, as `transforms.get` knows them; "scaled-normal" with mean 0 and scale 0.3.
    betas: strengths of the KL regularisation, in units of the transformed reward.
    completions: how many the prompt has.
    seed: of the prompt's reference policy and rewards.

    Returns
    -------
    A row for each transformation and beta: `steps` of gradient descent; `kl` in nats from pi* to what it reached;
    `beta_log_z`, which the regularised reward of pi* is, and by how much its mean under what was reached differs.
    """
    log_ref, raw = tabular.random_prompt(completions, seed)
    rows = []
    for name, beta in itertools.product(names, betas):
        f = transforms.get(name, **({"mu": 0.0, "sigma": 0.3} if name == "scaled-normal" else {}))
        rewards = tabular.quantile_rewards(f, log_ref, raw)
        fit, optimum = tabular.fit(log_ref, rewards, beta), tabular.optimal_policy(log_ref, rewards, beta)
        baseline = beta * tabular.log_partition(log_ref, rewards, beta)
        excess = tabular.regularised_reward(fit.log_policy, log_ref, rewards, beta) - baseline
        rows.append((name, beta, len(fit.losses), tabular.kl(optimum, fit.log_policy), baseline, excess))
    columns = ["transformation", "beta", "steps", "kl", "beta_log_z", "mean_regularised_reward_minus_beta_log_z"]
    return pd.DataFrame(rows, columns=columns)


def rounds_table(names, beta: float, counts, completions: int, seed: int) -> pd.DataFrame:
    """Rounds that each refer to the last policy: KL between k of them at k beta and one at beta (Appendix A).

    Parameters
    ----------
    names: transformations, as `transforms.get` knows them.
    beta: strength of the KL regularisation of the one round, in units of the transformed reward.
    counts: the numbers k of rounds.
    completions: how many the enumerated prompt has.
    seed: of the prompt's reference policy and rewards.

    Returns
    -------
    A row for each transformation and k, with the KL in nats where quantiles stay those under the first reference policy
    (`kl_fixed_rewards`, 0 in theory) and where each round takes them anew (`kl_renewed_quantiles`).
    """
    log_ref, raw = tabular.random_prompt(completions, seed)
    rows = []
    for name, count in itertools.product(names, counts):
        f = transforms.get(name)
        once = tabular.rounds(f, log_ref, raw, beta, 1, requantile=False)
        kls = [tabular.kl(tabular.rounds(f, log_ref, raw, beta, count, renew), once) for renew in (False, True)]
        rows.append((name, count, *kls))
    return pd.DataFrame(rows, columns=["transformation", "rounds", "kl_fixed_rewards", "kl_renewed_quantiles"])


def share_table(betas) -> pd.DataFrame:
    """Thresholds beta log Z_f and shares of reference completions above them, for every f of Table 4 and beta."""
    rows = [
        (name, beta, optimal_policy.threshold(name, beta), optimal_policy.share_above(name, beta))
        for name, beta in itertools.product(transforms.NAMES[:-1], betas)
    ]
    return pd.DataFrame(rows, columns=["transformation", "beta", "threshold", "share_above"])


def gradient_table(transform, beta: float, completions: int, seed: int) -> pd.DataFrame:
    """Eq. 14 in every logit for one random prompt at a random policy, with data from pi_ref and with online data.

    Parameters
    ----------
    transform: a Transformation.
    beta: strength of the KL regularisation, in units of the transformed reward.
    completions: how many the enumerated prompt has.
    seed: of the prompt; the policy has the next one.

    Returns
    -------
    A row for each completion's logit. `eq_14`: the gradient of the loss on pi_ref's data; `central_difference`: the
    same by differences of the loss; `eq_14_online`: Eq. 14 with data from the policy itself; `policy_gradient`: that of
    the objective of Eq. 1 times -2 beta by differences, which Appendix A says is the same as the one before.
    """
    log_ref, raw = tabular.random_prompt(completions, seed)
    rewards, data = tabular.quantile_rewards(transform, log_ref, raw), np.exp(log_ref)
    logits = log_ref + np.random.default_rng(seed + 1).normal(size=completions)
    policy = special.log_softmax(logits)

    def differences(function, step=1e-4):
        moves = step * np.eye(completions)
        return [(function(logits + move) - function(logits - move)) / (2 * step) for move in moves]

    def loss(logits):
        return tabular.loss(special.log_softmax(logits), log_ref, rewards, beta, data)

    def objective(logits):
        return -2 * beta * tabular.regularised_reward(special.log_softmax(logits), log_ref, rewards, beta)

    return pd.DataFrame(
        {
            "eq_14": tabular.gradient(policy, log_ref, rewards, beta, data),
            "central_difference": differences(loss),
            "eq_14_online": tabular.gradient(policy, log_ref, rewards, beta, np.exp(policy)),
            "policy_gradient": differences(objective),
        }
    )


def scale_table(factors, beta: float, completions: int, seed: int) -> pd.DataFrame:
    """KL between the optimum of R at beta and of c R + 1 at c beta, 0 in theory (Appendices B, J.1).

    Parameters
    ----------
    factors: the c, above 0.
    beta: strength of the KL regularisation, in units of the quantile.
    completions: how many the enumerated prompt has.
    seed: of the prompt's reference policy and rewards.

    Returns
    -------
    A row for each factor: `factor`, `kl` in nats.
    """
    log_ref, raw = tabular.random_prompt(completions, seed)
    rewards = tabular.quantile_rewards(transforms.get("identity"), log_ref, raw)
    policy = tabular.optimal_policy(log_ref, rewards, beta)
    kls = [tabular.kl(policy, tabular.optimal_policy(log_ref, c * rewards + 1, c * beta)) for c in factors]
    return pd.DataFrame({"factor": factors, "kl": kls})
