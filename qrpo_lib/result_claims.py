"""The paper's empirical claims, each with the rule that decides it: results in, a claim for the ledger out.

Every rule was written before the results it judges existed. All intervals are 95 % bootstrap intervals over prompts and
training seeds (`qrpo_lib.statistics`) on the reporting split. What a claim can show is limited by its sample: half the
width of the interval that it quotes is the smallest difference that would have been found about half of the time.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from qrpo_lib import length_bias, plots, results, transforms
from qrpo_lib.claims import Claim, verdict
from qrpo_lib.profiles import Profile
from qrpo_lib.results import BestModels
from qrpo_lib.statistics import Interval, difference, mean_interval
from qrpo_lib.studies import ScalingCells, TransformationCells

FIRST_OR_TIES = "the interval of the paired difference to each baseline reaches 0 or above"
RAISES = "the interval of the paired gain over the initial policy lies above 0"
RANDOM_OVER_BEST = "random - best has an interval above 0 with SFT, or without (5 % chance if there is no difference)"
FALLS_SHORT = "the intervals of DPO - SimPO and of QRPO - SimPO both lie above 0"
SCALES = "reward at most references - at fewest, mean over the betas, off-policy: interval above 0"
FLAT = "that gain off-policy less that gain offline, mean over the betas: interval above 0"
LESS_BIAS = "mean rho of DPO and SimPO less mean rho of QRPO and REBEL: interval above 0"
DETECTED = "rho of every algorithm has an interval above 0, for a reward that is known to prefer length"
THRESHOLD = (
    "offline, in every seed: at a beta whose threshold is below the chosen completions' mean quantile reward their "
    "probability has risen at the last step, at one above it has fallen, and that of the rejected has fallen at both"
)
LOG_NOT_BETTER = "the interval of the paired difference identity - log reaches 0 or above"
FINITE = "reward with partition 'finite' less with 'exact', mean over n <= 3 and settings: interval above 0"


def first_or_ties(profile: Profile, best: BestModels, metric: str, evidence: str) -> Claim:
    """QRPO against each baseline, in reward or LC-reward."""
    baselines = [name for name in best.methods if name not in ("initial", "sft", "qrpo")]
    gaps = {name: results.compare(best, "qrpo", name, metric) for name in baselines}
    code = profile.task.completions == "solution"
    name = "test-case pass rate" if code else {"reward": "online reward", "lc_reward": "LC-reward"}[metric]
    return Claim(
        id="qrpo-first-or-ties" + ("-lc" if metric == "lc_reward" else ""),
        section="4.2",
        statement=f"QRPO ranks first or ties in {name} with {', '.join(map(_label, baselines))}",
        rule=FIRST_OR_TIES,
        measured="; ".join(f"QRPO - {_label(other)}: {gap}" for other, gap in gaps.items()) + _sample(gaps),
        profile=profile.label,
        verdict=verdict(all(gap.high >= 0 for gap in gaps.values())),
        evidence=evidence,
    )


def raises_reward(profile: Profile, best: BestModels, algorithm: str, evidence: str) -> Claim:
    """An algorithm's best model against the initial policy."""
    gain = results.compare(best, algorithm, "initial")
    return Claim(
        id=f"{algorithm}-raises-reward",
        section="4.2",
        statement=f"{_label(algorithm)} raises the mean online reward over the initial policy",
        rule=RAISES,
        measured=f"gain {gain}{_sample([gain])}",
        profile=profile.label,
        verdict=verdict(gain.low > 0),
        evidence=evidence,
    )


def random_over_best(profile: Profile, best: BestModels, evidence: str) -> Claim | None:
    """DPO on random pairs against DPO on the best and worst of 6, with and without SFT. None where neither was run."""
    rows = best.evaluations
    rows = rows[(rows["algorithm"] == "dpo") & (rows["split"] == "reporting")]
    of_setting = {setting: results.matrix(part, "reward") for setting, part in rows.groupby("setting")}
    gaps = {}
    for name, prefix in (("without SFT", ""), ("with SFT", "sft-")):
        random, ranked = (f"{prefix}off-policy-{which}" for which in ("random", "best"))
        if random in of_setting and ranked in of_setting:
            gaps[name] = difference(of_setting[random], of_setting[ranked])
    if not gaps:
        return None
    return Claim(
        id="dpo-random-over-best",
        section="App. L.7",
        statement="DPO obtains better results on off-policy-random than on off-policy-best in multiple cases",
        rule=RANDOM_OVER_BEST,
        measured="; ".join(f"{name}: {gap}" for name, gap in gaps.items()) + _sample(gaps),
        profile=profile.label,
        verdict=verdict(any(gap.low > 0 for gap in gaps.values())),
        evidence=evidence,
    )


def simpo_falls_short(profile: Profile, best: BestModels, evidence: str) -> Claim:
    """SimPO on code."""
    gaps = {name: results.compare(best, name, "simpo") for name in ("dpo", "qrpo")}
    return Claim(
        id="simpo-falls-short-on-code",
        section="4.2",
        statement="SimPO falls significantly short in optimizing the coding reward",
        rule=FALLS_SHORT,
        measured="; ".join(f"{_label(name)} - SimPO: {gap}" for name, gap in gaps.items()) + _sample(gaps),
        profile=profile.label,
        verdict=verdict(all(gap.low > 0 for gap in gaps.values())),
        evidence=evidence,
    )


def scaling_gains(cells: ScalingCells) -> dict[str, np.ndarray]:
    """Of each setting the gain from the fewest to the most references, (seeds, prompts), mean over betas and rates."""
    exact = {key: cell for key, cell in cells.items() if key[-1] == "exact"}
    fewest, most = min(key[3] for key in exact), max(key[3] for key in exact)
    gains: dict[str, list[np.ndarray]] = {}
    for (setting, beta, rate, n, partition), cell in exact.items():
        if n == most:
            start = exact[(setting, beta, rate, fewest, partition)]
            gains.setdefault(setting, []).append(cell.values - start.values)
    return {setting: np.mean(of_setting, axis=0) for setting, of_setting in gains.items()}


def scaling(profile: Profile, cells: ScalingCells, evidence: str) -> list[Claim]:
    """Off-policy the reward grows with the number of reference rewards; offline it hardly does."""
    gains = scaling_gains(cells)
    off_policy, offline = (mean_interval(gains[setting]) for setting in ("off-policy", "offline"))
    gap = mean_interval(gains["off-policy"] - gains["offline"])
    numbers = sorted({key[3] for key in cells})
    betas = ", ".join(f"{beta:g}" for beta in sorted({key[1] for key in cells if key[-1] == "exact"}))
    shared = {"section": "4.1", "profile": profile.label, "evidence": evidence}
    span = f"n = {numbers[0]} to {numbers[-1]}, beta {betas}"
    of_offline = [cell.step for key, cell in cells.items() if key[-1] == "exact" and key[0] == "offline"]
    unmoved = f"{of_offline.count(0)} of {len(of_offline)} offline cells no better than the initial policy"
    return [
        Claim(
            id="scales-off-policy",
            statement="off-policy, QRPO's performance scales with the number of reference rewards",
            rule=SCALES,
            measured=f"gain {off_policy} from {span}{_sample([off_policy])}",
            verdict=verdict(off_policy.low > 0),
            **shared,
        ),
        Claim(
            id="flat-offline",
            statement="offline, the number of reference rewards matters very little; one to three are enough",
            rule=FLAT,
            measured=f"gain offline {offline}, off-policy more by {gap} ({span}; {unmoved}){_sample([gap])}",
            verdict=verdict(gap.low > 0),
            **shared,
        ),
    ]


def finite_partition(profile: Profile, cells: ScalingCells, evidence: str) -> Claim:
    """The suite's own question: does the partition function for n references help where n is small?"""
    gaps = [
        cells[(*key[:-1], "finite")].values - cell.values
        for key, cell in cells.items()
        if key[-1] == "exact" and key[3] <= 3 and (*key[:-1], "finite") in cells
    ]
    gap = mean_interval(np.mean(gaps, axis=0))
    return Claim(
        id="finite-partition-helps",
        section="4.1",
        statement="(beyond the paper) with 1 or 3 references the partition function for finite n gives a higher reward",
        rule=FINITE,
        measured=f"difference {gap}, {len(gaps)} cells{_sample([gap])}",
        profile=profile.label,
        verdict=verdict(gap.low > 0),
        evidence=evidence,
    )


def log_not_better(profile: Profile, cells: TransformationCells, evidence: str) -> Claim | None:
    """The logarithm of the quantile against the quantile itself. None where one of them was not run."""
    values = {name: cell.values for (name, _), cell in cells.items()}
    if not {"identity", "log"} <= values.keys():
        return None
    gap = difference(values["identity"], values["log"])
    return Claim(
        id="log-not-better",
        section="3",
        statement="the transformation log slightly reduces QRPO's performance",
        rule=LOG_NOT_BETTER,
        measured=f"identity - log: {gap}{_sample([gap])}",
        profile=profile.label,
        verdict=verdict(gap.high >= 0),
        evidence=evidence,
    )


def less_length_bias(profile: Profile, points: dict[str, pd.DataFrame], table: pd.DataFrame, evidence: str) -> Claim:
    """QRPO and REBEL against DPO and SimPO, one bootstrap over all four. table: `results.length_table(points)`."""
    gap = length_bias.contrast(points, ("dpo", "simpo"), ("qrpo", "rebel"))
    return Claim(
        id="less-length-bias",
        section="4.3",
        statement="QRPO and REBEL, trained on the robust reward itself, show less length bias than DPO and SimPO",
        rule=LESS_BIAS,
        measured=f"difference of rho {gap}; {_rhos(table)}{_sample([gap])}",
        profile=profile.label,
        verdict=verdict(gap.low > 0),
        evidence=evidence,
    )


def length_bias_detected(profile: Profile, table: pd.DataFrame, evidence: str) -> Claim:
    """Whether Figure 4's method finds a length bias that is there. table: `results.length_table`."""
    return Claim(
        id="length-bias-detected",
        section="4.3",
        statement="(beyond the paper) the method of Figure 4 finds the length bias of a reward made to prefer length",
        rule=DETECTED,
        measured=f"{_rhos(table)} ({table['prompts'].iloc[0]} prompts x {table['seeds'].iloc[0]} seeds)",
        profile=profile.label,
        verdict=verdict(bool((table["low"] > 0).all())),
        evidence=evidence,
    )


def threshold_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Of each beta and seed the last step of Figure 6 beside the threshold beta log Z (App. A)."""
    last = curves.loc[curves.groupby(["beta", "seed"])["step"].idxmax()].copy()
    last["threshold"] = [beta * transforms.get("identity").log_partition(beta) for beta in last["beta"]]
    last["chosen_above"] = last["chosen_quantile"] > last["threshold"]
    return last.sort_values(["beta", "seed"]).reset_index(drop=True)


def threshold(profile: Profile, curves: pd.DataFrame, evidence: str) -> Claim:
    """Chosen completions become more likely only above the threshold."""
    last = threshold_table(curves)
    as_predicted = (last["chosen_log_ratio"] > 0) == last["chosen_above"]
    both_sides = last["chosen_above"].nunique() == 2
    parts = [
        f"beta {beta:g} (threshold {rows['threshold'].iloc[0]:.3f}): chosen R_q {rows['chosen_quantile'].mean():.3f}, "
        f"log-ratios {rows['chosen_log_ratio'].mean():+.2f} and {rows['rejected_log_ratio'].mean():+.2f}"
        for beta, rows in last.groupby("beta")
    ]
    holds = bool(as_predicted.all() and (last["rejected_log_ratio"] < 0).all())
    return Claim(
        id="chosen-rise-above-threshold",
        section="App. A",
        statement="offline, chosen completions become more likely at a large beta, less at a small one; rejected fall",
        rule=THRESHOLD,
        measured="; ".join(parts) + f" ({last['seed'].nunique()} seeds)",
        profile=profile.label,
        verdict=verdict(holds) if both_sides else "beyond this scale",
        evidence=evidence,
    )


def _rhos(table: pd.DataFrame) -> str:
    return ", ".join(f"{row.method} {row.rho:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples())


def _label(algorithm: str) -> str:
    return plots.ALGORITHMS[algorithm].label


def _sample(intervals) -> str:
    some: Interval = next(iter(intervals.values() if isinstance(intervals, dict) else intervals))
    return f" ({some.n} prompts x {some.seeds} seeds)"
