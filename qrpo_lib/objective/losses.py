"""Losses of the four policy-fitting algorithms: pure functions on tensors, one loss for each sample, no reduction.

Log-probabilities are sums over the completion's tokens, its end-of-sequence token included, prompt excluded, in nats.
"Log-ratio" is log pi_theta(y|x) - log pi_ref(y|x).
"""

import torch.nn.functional as F
from torch import Tensor

from qrpo_lib.objective import transforms
from qrpo_lib.objective.quantile import quantile_reward
from qrpo_lib.objective.transforms import Named

PARTITIONS = ("exact", "asymptotic", "finite")
ERRORS = ("squared", "absolute")
COMPLETIONS = ("both", "chosen", "rejected")


def qrpo(
    logps: Tensor,
    ref_logps: Tensor,
    rewards: Tensor,
    ref_rewards: Tensor,
    *,
    beta: float,
    transform: Named = "identity",
    partition: str = "exact",
    error: str = "squared",
) -> Tensor:
    """(f(R_q) - beta log Z_f - beta log-ratio)^2, Eq. 11 (Eq. 13 for f other than the identity): (...,).

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    rewards: (...,) in any unit.
    ref_rewards: (..., n), the rewards of n reference completions of the same prompt.
    beta, transform, partition: as in `calibrated_target`, whose errors this raises too.
    error: "squared", or "absolute" for the absolute value in place of the square.
    """
    check_choice("error", error, ERRORS)
    check_tensors(logps=logps, ref_logps=ref_logps, rewards=rewards)
    target = calibrated_target(rewards, ref_rewards, beta=beta, transform=transform, partition=partition).to(logps)
    residual = target - beta * (logps - ref_logps)
    return residual.square() if error == "squared" else residual.abs()


def qrpo_pair(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    ref_rewards: Tensor,
    *,
    beta: float,
    transform: Named = "identity",
    partition: str = "exact",
    error: str = "squared",
    completions: str = "both",
) -> Tensor:
    """QRPO on a pair as one sample: the mean of `qrpo` on both completions, or the loss of only one of them: (...,).

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: (...,) log-probabilities of the two completions.
    chosen_rewards, rejected_rewards: (...,) in any unit.
    ref_rewards: (..., n), the rewards of n reference completions of the same prompt.
    beta, transform, partition, error: as in `qrpo`.
    completions: "both", "chosen" or "rejected".
    """
    check_choice("completions", completions, COMPLETIONS)
    settings = {"beta": beta, "transform": transform, "partition": partition, "error": error}
    if completions == "chosen":
        return qrpo(chosen_logps, ref_chosen_logps, chosen_rewards, ref_rewards, **settings)
    of_rejected = qrpo(rejected_logps, ref_rejected_logps, rejected_rewards, ref_rewards, **settings)
    if completions == "rejected":
        return of_rejected
    return (qrpo(chosen_logps, ref_chosen_logps, chosen_rewards, ref_rewards, **settings) + of_rejected) / 2


def calibrated_target(
    rewards: Tensor,
    ref_rewards: Tensor,
    *,
    beta: float,
    transform: Named = "identity",
    partition: str = "exact",
) -> Tensor:
    """f(R_q) - beta log Z_f, what beta times the log-ratio is fitted to (Eq. 5, 13): (...,).

    Positive where training starts by raising the completion's probability (App. A).

    Parameters
    ----------
    rewards: (...,), in any unit.
    ref_rewards: (..., n), the rewards of n reference completions of the same prompt.
    beta: strength of the KL regularisation, in units of the transformed reward.
    transform: what `transforms.get` takes; applied to quantiles clamped as it needs for n.
    partition: which log Z_f: "exact" for continuous rewards (Table 4), "asymptotic" its leading term for small beta
        (the paper's 1 + beta log beta, Eq. 12), "finite" for quantiles estimated from n rewards.

    Raises
    ------
    ValueError
        A beta that is not positive, an unknown name, rewards that are not finite, a transformation undefined for this
        n or without a signal there (`check_signal`), one without an asymptotic form.
    """
    n = ref_rewards.shape[-1]
    f = transforms.get(transform)
    check_signal(f, n)
    quantile = f.clamp(quantile_reward(rewards, ref_rewards), n)
    return f(quantile) - beta * log_partition(f, beta, n, partition)


def check_signal(f: transforms.Transformation, n: int) -> None:
    """Raises ValueError if f has only one value with n reference rewards, so that all completions have one target."""
    alike = {"log": 1, "normal": 2, "scaled-normal": 2}.get(f.name)
    if n == alike:
        raise ValueError(
            f"with {n} reference reward{'s' * (n > 1)} the {f.name!r} transformation gives every completion the same "
            "target, and so nothing to learn: use more reference rewards, or another transformation."
        )


def log_partition(transform: Named, beta: float, n: int, partition: str = "exact") -> float:
    """log Z_f(beta) by the partition function of that name, for quantiles estimated from n reference rewards.

    Parameters
    ----------
    transform, beta, partition: as in `calibrated_target`, whose errors this raises too.
    n: the number of reference rewards.
    """
    check_choice("partition", partition, PARTITIONS)
    f = transforms.get(transform)
    if partition == "finite":
        return transforms.finite_log_partition(f, beta, n)
    return f.log_partition(beta) if partition == "exact" else f.asymptotic_log_partition(beta)


def dpo(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, *, beta: float
) -> Tensor:
    """-log sigmoid(beta (log-ratio of chosen - log-ratio of rejected)), Rafailov et al. 2023, Eq. 7: (...,).

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: (...,) log-probabilities of the two completions.
    beta: strength of the KL regularisation.

    Raises
    ------
    ValueError
        A beta that is not positive, as the losses below.
    """
    check_beta(beta)
    return -F.logsigmoid(beta * log_ratio_margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps))


def rebel(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    beta: float,
) -> Tensor:
    """((R(chosen) - R(rejected)) / beta - (log-ratio of chosen - log-ratio of rejected))^2: (...,).

    The regression of Eq. 4 with rewards divided by beta (Gao et al. 2024).

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: (...,) log-probabilities of the two completions.
    chosen_rewards, rejected_rewards: (...,) in any unit.
    beta: strength of the KL regularisation, in the unit of the rewards.
    """
    check_beta(beta)
    check_tensors(chosen_logps=chosen_logps, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    margin = log_ratio_margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (((chosen_rewards - rejected_rewards) / beta).to(margin) - margin).square()


def simpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma_ratio: float = 0.5,
) -> Tensor:
    """-log sigmoid(beta (mean token log-probability of chosen - of rejected) - gamma_ratio * beta): (...,).

    No reference model (Meng et al. 2024, Eq. 6).

    Parameters
    ----------
    chosen_logps, rejected_logps: (...,) log-probabilities of the two completions.
    chosen_lengths, rejected_lengths: (...,) completion tokens, the end-of-sequence token included.
    beta: scale of the margin.
    gamma_ratio: the target margin over beta.
    """
    check_beta(beta)
    if not 0 <= gamma_ratio < float("inf"):
        raise ValueError(f"gamma_ratio must be a number of at least 0, got {gamma_ratio}.")
    check_tensors(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    if not bool((chosen_lengths >= 1).all() and (rejected_lengths >= 1).all()):
        raise ValueError("a completion has at least one token: its length must be at least 1.")
    margin = chosen_logps / chosen_lengths - rejected_logps / rejected_lengths
    return -F.logsigmoid(beta * (margin - gamma_ratio))


def log_ratio_margin(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor
) -> Tensor:
    """Log-ratio of chosen less that of rejected, in nats: (...,).

    Parameters
    ----------
    chosen_logps, rejected_logps: (...,) log-probabilities of the two completions under the policy.
    ref_chosen_logps, ref_rejected_logps: (...,) those under the reference policy.

    Raises
    ------
    ValueError
        As `check_tensors`: shapes that differ, values that are not finite.
    """
    check_tensors(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    return (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)


def check_tensors(**tensors: Tensor) -> None:
    """Raises ValueError for shapes that differ, which would be broadcast, and for values that are not finite."""
    (first, expected), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != expected.shape:
            raise ValueError(
                f"{name} {tuple(tensor.shape)} and {first} {tuple(expected.shape)} must have the same shape: one value "
                "for each completion."
            )
    for name, tensor in tensors.items():
        if tensor.numel() and not all(bool(end.isfinite()) for end in tensor.detach().aminmax()):
            raise ValueError(
                f"{name} hold NaN or infinite values: "
                + (
                    "a missing score is not a low one; drop those rows first."
                    if "reward" in name
                    else "has the policy diverged?"
                )
            )


def check_beta(beta: float) -> None:
    """Raises ValueError for a beta that is not a positive number."""
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be a positive number, got {beta}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError for a setting that is none of its choices."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}: use one of {', '.join(choices)}.")
