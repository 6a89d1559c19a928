"""Targets before any training: what an estimated Z is off by on a policy's rewards, beside what theory says of it.

The law of a prompt's rewards is that of its reference rewards, each as likely: of it log Z is a sum, the error of an
estimate from n draws is the integral of `qrpo_lib.theory.estimated_partition`, and n draws are n of the references, put
back. So theory is put to the test on a language model's own reward laws, ties and tails included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from qrpo_lib.experiment import jobs, relatives
from qrpo_lib.objective import losses, partitions
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.results.beyond import Cells
from qrpo_lib.steps import reference_sampling
from qrpo_lib.theory import estimated_partition
from qrpo_lib.theory.estimated_partition import RewardLaw


def train_references(profile: Profile, name: str, prompts: int) -> np.ndarray:
    """Reference rewards of the first train prompts of a study, (prompts, n); the completions are made if need be."""
    settings = _of_study(profile, name)
    folder = jobs.make(settings, jobs.sampling(settings))
    references = reference_sampling.load(folder, ["prompt_id", "split", "reward"], role="reference")
    of_prompts = references[references["split"] == "train"].groupby("prompt_id")["reward"].apply(list)
    return np.array(list(of_prompts)[:prompts])


def error_table(
    references: np.ndarray, betas: Sequence[float], counts: Sequence[int], repeats: int, seed: int
) -> pd.DataFrame:
    """Errors of beta log Z-hat, plain and jackknifed, means over prompts: a row for each n, beta and estimate.

    Parameters
    ----------
    references: (prompts, many), each prompt's law.
    betas, counts: strengths, and numbers n of drawn references.
    repeats: draws of n references for each prompt.
    seed: of the draws.

    Returns
    -------
    Columns `n, beta, estimate`; `predicted_bias, measured_bias, predicted_std, measured_std` in units of the reward
    (standard deviations are roots of mean variances; the jackknife's is not predicted); `standard_errors`, how far
    measured is from predicted, the larger of the two.
    """
    laws = [RewardLaw("its references", *_counted(rewards)) for rewards in references]
    generator = np.random.default_rng(seed)
    rows = []
    for n in counts:
        drawn = np.stack([generator.choice(rewards, (repeats, n)) for rewards in references])
        for beta in betas:
            log_z = np.array([law.log_partition(beta) for law in laws])[:, None]
            errors = {
                name: beta * (estimate(torch.from_numpy(drawn), beta=beta).numpy() - log_z)
                for name, estimate in (("plain", partitions.log_mean_exp), ("jackknife", partitions.jackknife))
                if n > 1 or name == "plain"
            }
            predicted = [estimated_partition.error(law, n, beta) for law in laws]
            of_law = np.array([one.bias for one in predicted]), np.array([one.std**2 for one in predicted])
            rows.append({"n": n, "beta": beta, "estimate": "plain"} | _compared(errors["plain"], *of_law))
            if n > 1:
                bias = np.array([estimated_partition.jackknife_bias(law, n, beta) for law in laws])
                row = {"n": n, "beta": beta, "estimate": "jackknife"}
                rows.append(row | _compared(errors["jackknife"], bias, None))
    return pd.DataFrame(rows)


def partition_table(profile: Profile, study: Cells) -> pd.DataFrame:
    """How far targets are from those of a policy, by partition function: `partition, beta, prompt, log_sum`.

    log_sum: logarithm of the mean of exp(target/beta) over a prompt's candidates, 0 for a policy's targets on its
    reference's completions but for their number. One row for each partition, beta and train prompt.
    """
    settings = _of_study(profile, "partitions")
    folder = reference_sampling.step(settings).folder
    columns = ["prompt_id", "split", "reward"]
    candidates = reference_sampling.load(folder, columns, role="candidate")
    candidates = candidates[candidates["split"] == "train"].groupby("prompt_id")["reward"].apply(list)
    references = reference_sampling.reference_rewards(folder)
    rewards = torch.tensor([of_prompt for of_prompt in candidates], dtype=torch.float64)
    rows = []
    for partition, beta, n in study:
        given = torch.tensor([references[prompt][:n] for prompt in candidates.index], dtype=torch.float64)
        expanded = given[:, None].expand(*rewards.shape, n)
        log_sums = log_sum(rewards, expanded, beta, partition)
        sums = zip(candidates.index, log_sums.tolist(), strict=True)
        rows += [{"partition": partition, "beta": beta, "prompt": name, "log_sum": value} for name, value in sums]
    return pd.DataFrame(rows)


def log_sum(rewards: torch.Tensor, references: torch.Tensor, beta: float, partition: str) -> torch.Tensor:
    """log of the mean of exp(target/beta) over a prompt's k completions: (prompts,), in nats.

    Parameters
    ----------
    rewards: (prompts, k).
    references: (prompts, k, n), the rewards of a prompt's n reference completions beside each completion.
    beta: strength of the KL regularisation, in units of the quantile.
    partition: of `losses.calibrated_target`, or "discrete" for `partitions.discrete_target`.
    """
    if partition == "discrete":
        targets = partitions.discrete_target(rewards, references, beta=beta)
    else:
        targets = losses.calibrated_target(rewards, references, beta=beta, partition=partition).double()
    return torch.logsumexp(targets / beta, -1) - np.log(rewards.shape[-1])


def distances(rows: pd.DataFrame, beta: float) -> Mapping[str, np.ndarray]:
    """|log_sum| at a beta, by partition: (prompts,), prompts in the same order."""
    at_beta = rows[rows["beta"] == beta]
    return {name: part.sort_values("prompt")["log_sum"].abs().to_numpy() for name, part in at_beta.groupby("partition")}


def _compared(errors: np.ndarray, bias: np.ndarray, variance: np.ndarray | None) -> dict[str, float]:
    """Errors (prompts, repeats) beside what is predicted for each prompt."""
    repeats = errors.shape[1]
    row = {"predicted_bias": float(bias.mean()), "measured_bias": float(errors.mean())}
    spread = errors.var(1, ddof=1)
    far = [_far(errors.mean(1) - bias, spread / repeats)]
    row["measured_std"] = float(np.sqrt(spread.mean()))
    if variance is None:
        return row | {"predicted_std": float("nan"), "standard_errors": far[0]}
    centred = errors - errors.mean(1, keepdims=True)
    # of a sample variance: (fourth moment - variance squared) / repeats
    far.append(_far(spread - variance, ((centred**4).mean(1) - spread**2).clip(min=0) / repeats))
    return row | {"predicted_std": float(np.sqrt(variance.mean())), "standard_errors": max(far)}


def _far(gaps: np.ndarray, variances: np.ndarray) -> float:
    """The mean of gaps in standard errors of that mean; prompts without variance must have no gap."""
    error = float(np.sqrt(variances.sum())) / len(gaps)
    gap = abs(float(gaps.mean()))
    return gap / error if error > 0 else (0.0 if gap < 1e-9 else float("inf"))


def _counted(rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, counts = np.unique(rewards, return_counts=True)
    return values, counts / counts.sum()


def _of_study(profile: Profile, name: str) -> Profile:
    return profile.with_training(setting=relatives.study(profile, name).setting)
