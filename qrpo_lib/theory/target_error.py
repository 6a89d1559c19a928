"""Tables and figures of the notebook `target_error`: what targets are off by, and what that does to the best policy."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib import ticker
from scipy import special, stats

from qrpo_lib.objective import losses, partitions, relatives, transforms
from qrpo_lib.paper import style
from qrpo_lib.theory import constant_error, estimated_partition, noise, tabular, tied_targets

# --- an estimated Z of the raw reward -----------------------------------------------------------------------------


def estimated_z_table(betas, counts, repeats: int, seed: int) -> pd.DataFrame:
    """beta log Z-hat less beta log Z, predicted and simulated: a row for each reward law, beta and n.

    The laws: the standard normal, the uniform on [0, 1], and pass rates of 20 tests, each passed with probability 0.3.

    Parameters
    ----------
    betas: strengths of the KL regularisation, in units of the reward.
    counts: numbers n of reference rewards.
    repeats: simulated prompts, for each row.
    seed: of the draws; each row has draws of its own.

    Returns
    -------
    Columns `rewards, beta, n`; `bias, std` predicted; `simulated_bias, simulated_std`; `standard_errors`, by how many
    the worse of the two is off; `p_value` of the simulated law (Kolmogorov-Smirnov); `jackknife_bias` predicted, NaN
    for n = 1. Biases and standard deviations in units of the reward.
    """
    laws = (estimated_partition.normal(), estimated_partition.uniform(), estimated_partition.pass_rate(20, 0.3))
    rows = []
    for number, (law, beta, n) in enumerate(itertools.product(laws, betas, counts)):
        error = estimated_partition.error(law, n, beta)
        drawn = estimated_partition.simulate(law, n, beta, repeats, seed + number)
        row = {"rewards": law.name, "beta": beta, "n": n, "bias": error.bias, "std": error.std}
        row |= {"simulated_bias": drawn.mean(), "simulated_std": drawn.std()}
        row["standard_errors"] = _standard_errors(drawn, error.bias, error.std)
        gumbels = np.random.default_rng([seed, number]).gumbel(size=repeats)
        noisy = drawn / beta + law.log_partition(beta) + gumbels
        predicted = np.sort(estimated_partition.noisy_cdf(law, n, beta, noisy))
        row["p_value"] = stats.kstest(predicted, "uniform").pvalue
        row["jackknife_bias"] = estimated_partition.jackknife_bias(law, n, beta) if n > 1 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _standard_errors(drawn: np.ndarray, mean: float, std: float) -> float:
    """How many standard errors the draws' mean and standard deviation are off, the larger one of the two."""
    drawn_std, error = noise.standard_deviation(drawn)
    off = [abs(drawn.mean() - mean) / (std / np.sqrt(len(drawn))) if std > 1e-9 else 0.0]
    if error > 1e-9:
        off.append(abs(drawn_std - std) / error)
    return float(max(off))


def target_error_figure(table: pd.DataFrame) -> plt.Figure:
    """Normal rewards: predicted bias (lines) beside the simulated one (dots), without and with jackknife; noise."""
    rows = table[table["rewards"] == "normal"]
    with style.style():
        figure, axes = plt.subplots(1, 3, figsize=(13, 4))
        ends: list[tuple[float, str, str]] = []
        colors = style.ordered_colors(rows["beta"].nunique())
        for color, (beta, of_beta) in zip(colors, rows.groupby("beta"), strict=True):
            ends.append((of_beta.sort_values("n")["std"].iloc[-1], rf"$\beta$ = {beta:g}", color))
            axes[0].plot(of_beta["n"], -of_beta["bias"], color=color)
            axes[0].plot(of_beta["n"], -of_beta["simulated_bias"], ".", color=color, markersize=9)
            axes[1].plot(of_beta["n"], of_beta["jackknife_bias"] / of_beta["bias"], color=color)
            axes[2].plot(of_beta["n"], of_beta["std"], color=color)
            axes[2].plot(of_beta["n"], of_beta["simulated_std"], ".", color=color, markersize=9)
        titles = (
            r"target too high by, in $\sigma$ (dots: simulated)",
            "bias left by the jackknife, a share",
            r"noise of the target, in $\sigma$",
        )
        for axis, title in zip(axes, titles, strict=True):
            axis.set(xscale="log", xlabel="reference rewards n", title=title)
        axes[0].set_yscale("log")
        style.label_ends(axes[2], ends)
    return figure


# --- ties ---------------------------------------------------------------------------------------------------------


def tied_table(betas, counts, repeats: int, seed: int) -> pd.DataFrame:
    """Errors of targets of quantile rewards under ties, predicted and simulated with the losses' own targets.

    Parameters
    ----------
    betas: strengths of the KL regularisation, in units of the quantile.
    counts: numbers n of reference rewards.
    repeats: simulated prompts, for each reward law and n.
    seed: of the draws.

    Returns
    -------
    A row for each reward law, n, beta and partition. Columns `rewards, n, beta, partition`; predicted `constant_bias,
    constant_rms` (of -beta log Z alone) and `rms` (of the whole target), in nats; `standard_errors`, by how many the
    worst of the values' biases and standard deviations is off.
    """
    laws = {f"pass {rate:.0%}": [1 - rate, rate] for rate in (0.1, 0.3, 0.7)}
    laws["4 tests, 30 %"] = stats.binom.pmf(np.arange(5), 4, 0.3).tolist()
    rng, rows = np.random.default_rng(seed), []
    for (name, p), n, beta in itertools.product(laws.items(), counts, betas):
        refs = torch.tensor(rng.choice(len(p), p=p, size=(repeats, n)))
        for partition in tied_targets.PARTITIONS:
            errors = tied_targets.errors(p, n, beta, partition)
            off = [
                _standard_errors(drawn, errors.bias[k], errors.std[k])
                for k, drawn in enumerate(_drawn_errors(p, refs, beta, partition))
            ]
            row = {"rewards": name, "n": n, "beta": beta, "partition": partition}
            row |= {"constant_bias": errors.constant_bias / beta, "constant_rms": errors.constant_rms / beta}
            rows.append(row | {"rms": errors.rms / beta, "standard_errors": max(off)})
    return pd.DataFrame(rows)


def _drawn_errors(p, refs: torch.Tensor, beta: float, partition: str) -> list[np.ndarray]:
    """For each value, the error of its target by the losses' functions, given each prompt's references: (prompts,)."""
    true = np.cumsum(p).clip(max=1)
    log_z = special.logsumexp(true / beta, b=p)
    drawn = []
    for k, quantile in enumerate(true):
        rewards = torch.full((len(refs),), k)
        if partition == "discrete":
            target = partitions.discrete_target(rewards, refs, beta=beta)
        else:
            target = losses.calibrated_target(rewards.double(), refs.double(), beta=beta, partition=partition)
        drawn.append(target.double().numpy() - (quantile - beta * log_z))
    return drawn


def pass_or_fail_table(rates, betas, counts) -> pd.DataFrame:
    """Root mean square error of log Z in nats for a reward that is pass or fail, by pass rate and partition.

    Columns `rate, beta, n, partition, constant_bias, constant_rms`; the bias with the target's sign.
    """
    rows = []
    for rate, beta, n, partition in itertools.product(rates, betas, counts, tied_targets.PARTITIONS):
        errors = tied_targets.errors([1 - rate, rate], n, beta, partition)
        rows.append((rate, beta, n, partition, errors.constant_bias / beta, errors.constant_rms / beta))
    return pd.DataFrame(rows, columns=["rate", "beta", "n", "partition", "constant_bias", "constant_rms"])


def pass_or_fail_figure(table: pd.DataFrame, n: int) -> plt.Figure:
    """The error of log Z against the pass rate at one n, a panel for each beta."""
    of_n = table[table["n"] == n]
    with style.style():
        betas = sorted(of_n["beta"].unique())
        figure, axes = plt.subplots(1, len(betas), figsize=(3.4 * len(betas), 3.8), sharey=True, squeeze=False)
        looks = style.looks(tied_targets.PARTITIONS)
        for axis, beta in zip(axes[0], betas, strict=True):
            ends = []
            for partition, look in looks.items():
                rows = of_n[(of_n["beta"] == beta) & (of_n["partition"] == partition)].sort_values("rate")
                axis.plot(rows["rate"], rows["constant_rms"], color=look.color, marker=look.marker, markersize=4)
                ends.append((rows["constant_rms"].iloc[-1], f"{partition} Z", look.color))
            axis.set(xlabel="pass rate", title=rf"$\beta$ = {beta:g}, n = {n}")
        axes[0][0].set_ylabel(r"error of $\log Z$ (rms), nats")
        style.label_ends(axes[0][-1], ends)
    return figure


# --- a constant error and the best policy -------------------------------------------------------------------------


def prompt(beta: float, completions: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """log pi* of f = t (m,), and what may be trained on: "off-policy", the reference's completions, and "offline"."""
    log_ref, raw = tabular.random_prompt(completions, seed, 5.0)
    rewards = tabular.quantile_rewards(transforms.get("identity"), log_ref, raw)
    other = tabular.random_prompt(completions, seed + 1, 5.0)[0]
    return tabular.optimal_policy(log_ref, rewards, beta), {"off-policy": log_ref, "offline": other}


def constant_error_table(betas, doses, completions: int, seed: int) -> pd.DataFrame:
    """The best normalised policy where all targets are off by c: a row for each beta, data and dose c/beta.

    Parameters
    ----------
    betas: strengths of the KL regularisation, in units of the quantile.
    doses: the c/beta, in nats; above 0 where Z is taken too small.
    completions: how many the enumerated prompt has.
    seed: of the prompt (`prompt`).

    Returns
    -------
    Columns `beta, data, dose`; `kl_to_optimum, kl_to_data`: KL in nats from the policy; `second_order`: the first of
    them for small c by `constant_error.second_order_kl`; `alone`: whether one completion takes what all others must not
    have.
    """
    rows = []
    for beta in betas:
        optimum, every = prompt(beta, completions, seed)
        for (name, log_data), dose in itertools.product(every.items(), sorted(doses)):
            best = constant_error.best_policy(optimum, log_data, dose)
            kls = tabular.kl(best.log_policy, optimum), tabular.kl(best.log_policy, log_data)
            second = constant_error.second_order_kl(optimum, log_data, dose)
            rows.append((beta, name, dose, *kls, second, best.alone is not None))
    columns = ["beta", "data", "dose", "kl_to_optimum", "kl_to_data", "second_order", "alone"]
    return pd.DataFrame(rows, columns=columns)


def minimiser_differences(betas, doses, completions: int, seed: int) -> pd.DataFrame:
    """KL in nats from the best policy that a numerical minimiser finds to the closed form's: `beta, data, dose, kl`.

    It starts from pi*, and where c < 0 makes several minima also from near each completion alone.

    Parameters
    ----------
    betas: strengths of the KL regularisation, in units of the quantile.
    doses: the c/beta, in nats.
    completions: how many the enumerated prompt has.
    seed: of the prompt (`prompt`).
    """
    rows = []
    for beta in betas:
        optimum, every = prompt(beta, completions, seed)
        for (name, log_data), dose in itertools.product(every.items(), doses):
            starts = [optimum] + [optimum + 5 * row for row in np.eye(completions) if dose < 0]
            policies = [constant_error.numerical_policy(optimum, log_data, dose, start) for start in starts]
            least = min(policies, key=lambda p: constant_error.squared_error(p, optimum, np.exp(log_data), dose))
            best = constant_error.best_policy(optimum, log_data, dose)
            rows.append((beta, name, dose, tabular.kl(least, best.log_policy)))
    return pd.DataFrame(rows, columns=["beta", "data", "dose", "kl"])


def wrong_order(table: pd.DataFrame) -> int:
    """Cases (beta, data) of a `constant_error_table` in which KL to the data does not fall with every larger dose."""
    groups = table.sort_values("dose").groupby(["beta", "data"])["kl_to_data"]
    return sum(bool((np.diff(values) >= 0).any()) for _, values in groups)


def online_gradient_change(betas, dose: float, completions: int, seed: int) -> float:
    """How much c = dose x beta changes the mean gradient (Eq. 14) on the policy's own completions, relative.

    At a random policy; `relatives.regression` differentiated by torch, probabilities of the data held fixed. In theory
    it changes nothing.

    Parameters
    ----------
    betas: strengths of the KL regularisation, in units of the quantile.
    dose: c/beta, in nats.
    completions: how many the enumerated prompt has.
    seed: of the prompt and of the policy.

    Returns
    -------
    The largest change over betas and logits, over the largest entry of the gradient.
    """
    changes = []
    for beta in betas:
        optimum, data = prompt(beta, completions, seed)
        log_ref, target = (torch.tensor(x) for x in (data["off-policy"], beta * (optimum - data["off-policy"])))
        start = torch.tensor(np.random.default_rng(seed).normal(size=completions)) + log_ref
        gradients = []
        for shift in (0.0, dose * beta):
            logits = start.clone().requires_grad_()
            logps = torch.log_softmax(logits, 0)
            loss = logps.detach().exp() @ relatives.regression(logps, log_ref, target + shift, beta=beta)
            gradients.append(torch.autograd.grad(loss, logits)[0])
        changes.append(float((gradients[1] - gradients[0]).abs().max() / gradients[0].abs().max()))
    return max(changes)


def constant_error_figure(table: pd.DataFrame) -> plt.Figure:
    """KL of the best policy to pi* (left) and to the data (right) against c/beta; the second order dotted."""
    with style.style():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4))
        ends: list[tuple[float, str, str]] = []
        colors = style.ordered_colors(table["beta"].nunique())
        for color, (beta, of_beta) in zip(colors, table.groupby("beta"), strict=True):
            for data, of_data in of_beta.groupby("data"):
                line = "-" if data == "off-policy" else "--"
                if data == "off-policy":
                    ends.append((of_data.sort_values("dose")["kl_to_data"].iloc[-1], rf"$\beta$ = {beta:g}", color))
                # the KL to pi* is 0 at c = 0, which the scale does not have: the line is broken there
                broken = np.searchsorted(of_data["dose"], 0.0)
                shown = [np.insert(of_data[column].to_numpy(), broken, np.nan) for column in ("dose", "kl_to_optimum")]
                axes[0].plot(*shown, line, color=color)
                axes[1].plot(of_data["dose"], of_data["kl_to_data"], line, color=color)
                near = of_data[of_data["dose"].between(0, 1)]
                axes[0].plot(near["dose"], near["second_order"], ":", color=color, linewidth=1)
        for axis, title in zip(axes, ("to $\\pi^*$ (second order dotted)", "to the data"), strict=True):
            axis.set(xlabel=r"error of all targets, $c/\beta$ in nats", title=f"KL {title}")
            axis.set_xscale("symlog", linthresh=0.01)
            axis.set_xticks([-10, -1, -0.1, 0, 0.1, 1, 10], ["-10", "-1", "-0.1", "0", "0.1", "1", "10"])
            axis.set_yscale("log")
        axes[0].set_ylabel("nats (offline data dashed)")
        style.label_ends(axes[1], ends)
    return figure


# --- what an estimated Z does to the best policy ------------------------------------------------------------------


def estimated_z_policy_table(betas, counts) -> pd.DataFrame:
    """Normal rewards, the reference's data: the best policy where every target is off by the mean error of Z-hat.

    Columns `beta, n, dose` (c/beta), gains `reward, kl` of the policy over the reference (standard deviations, nats),
    `share_of_objective`: gain in reward - beta KL over the optimum's, 1/(2 beta); `share_of_frontier`: reward over the
    largest at its KL, sqrt(2 KL).
    """
    law, rows = estimated_partition.normal(), []
    for beta in betas:
        rewards = np.linspace(-10, 10 + 1 / beta, int(50 * (20 + 1 / beta)))
        log_ref = special.log_softmax(stats.norm.logpdf(rewards))
        optimum = tabular.optimal_policy(log_ref, rewards, beta)
        for n in counts:
            dose = -estimated_partition.error(law, n, beta).bias / beta
            policy = constant_error.best_policy(optimum, log_ref, dose).log_policy
            gain = constant_error.outcome(policy, log_ref, rewards, beta)
            shares = gain.objective * 2 * beta, gain.reward / np.sqrt(2 * gain.kl)
            rows.append((beta, n, dose, gain.reward, gain.kl, *shares))
    columns = ["beta", "n", "dose", "reward", "kl", "share_of_objective", "share_of_frontier"]
    return pd.DataFrame(rows, columns=columns)


def estimated_z_policy_figure(table: pd.DataFrame) -> plt.Figure:
    """Left: the share of the optimum's objective that is kept, against n. Right: reward and KL, with the frontier."""
    with style.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
        ends = []
        colors = style.ordered_colors(table["beta"].nunique())
        for color, (beta, of_beta) in zip(colors, table.groupby("beta"), strict=True):
            left.plot(of_beta["n"], of_beta["share_of_objective"], color=color, marker=".")
            ends.append((of_beta.sort_values("n")["share_of_objective"].iloc[-1], rf"$\beta$ = {beta:g}", color))
            right.plot(of_beta["kl"], of_beta["reward"], ".", color=color, markersize=9)
        kl = np.geomspace(table["kl"].min() / 2, table["kl"].max() * 2, 100)
        right.plot(kl, np.sqrt(2 * kl), color="black", linewidth=0.8)
        left.set(xscale="log", xlabel="reference rewards n", title="objective gained, share of the optimum's")
        right.set(
            xscale="log", yscale="log", xlabel="KL to the reference, nats", title=r"mean reward gained, in $\sigma$"
        )
        for axis in (right.xaxis, right.yaxis):
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        style.label_ends(left, ends)
        style.label_ends(right, [(np.sqrt(2 * kl[-1]), "largest reward\nat this KL", "black")], at=[kl[-1]])
    return figure
