"""What the paper's empirical claims are judged by: results in, arguments of `Ledger.judge` out.

    ledger.judge("scales-off-policy", **verdicts.slope(cells, "off-policy", best_models.dpo_gain(settings)))

The rules are in claims.toml. Every interval of a mean is `statistics.mean_interval`'s, at 95 % over prompts and
training seeds, on the reporting split but for courses over training; that function is the place to change how intervals
are made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from qrpo_lib.objective import transforms
from qrpo_lib.paper import style
from qrpo_lib.results import best_models, length_bias, statistics, studies
from qrpo_lib.results.best_models import BestModels
from qrpo_lib.results.statistics import Interval, difference, mean_interval
from qrpo_lib.results.studies import ScalingCells, TransformationCells

# Arguments of `claims.Ledger.judge`.
Measured = dict[str, Any]
PREFERENCES, SCALARS = ("dpo", "simpo"), ("qrpo", "rebel")
BOTH = ("off-policy", "offline")
_NOT_BOTH = "the study has no beta that is trained both offline and off-policy"


def against(
    best: BestModels, first: Iterable[str], second: Iterable[str], metric: str = "reward", gain: float | None = None
) -> Measured:
    """Reported models against each other, every one of `first` less every one of `second`, in a column of the results.

    Parameters
    ----------
    best: the reported models with their answers.
    first, second: names of methods; those that were not trained are left out.
    metric: the column, such as "reward" or "lc_reward".
    gain: DPO's over its start, for the smallest effect.
    """
    second = [name for name in second if name in best.methods]
    pairs = [(one, other) for one in first if one in best.methods for other in second]
    if not pairs:
        return {"absent": "no trained model to compare with", "scale": gain}
    values = {f"{_label(one)} - {_label(other)}": best_models.compare(best, one, other, metric) for one, other in pairs}
    names = dict.fromkeys(name for pair in pairs for name in pair)
    return {"values": values, "untrained": best.untrained(names), "scale": gain}


def baselines(best: BestModels) -> list[str]:
    """The algorithms that QRPO is compared with."""
    return [name for name in best.methods if name not in ("initial", "sft", "qrpo")]


def raises_reward(best: BestModels, algorithm: str, gain: float | None) -> Measured:
    """An algorithm's reported model against the policy that it was trained from; its last checkpoint in words."""
    row = best_models.gain_rows(best).set_index("method").loc[algorithm]
    start = best.start(algorithm)
    last = f"last checkpoint {row['last_gain']:.4f} [{row['last_low']:.4f}, {row['last_high']:.4f}]"
    return {
        "values": {f"gain over {_label(start)}": best_models.compare(best, algorithm, start)},
        "measured": f"step {row['step']} of {row['last_step']}, {row['setting']}; {last}",
        "untrained": best.untrained([algorithm]),
        "scale": gain,
    }


def random_over_best(best: BestModels, gain: float | None) -> Measured | None:
    """DPO on random pairs against DPO on the best and worst of 6, with and without SFT. None where neither was run."""
    rows = best.evaluations
    rows = rows[(rows["algorithm"] == "dpo") & (rows["split"] == "reporting")]
    of_setting = {setting: best_models.matrix(part, "reward") for setting, part in rows.groupby("setting")}
    steps = rows.groupby("setting")["step"].first()
    gaps, untrained = {}, []
    for name, prefix in (("without SFT", ""), ("with SFT", "sft-")):
        random, ranked = (f"{prefix}off-policy-{which}" for which in ("random", "best"))
        if random in of_setting and ranked in of_setting:
            gaps[name] = difference(of_setting[random], of_setting[ranked])
            untrained += [setting for setting in (random, ranked) if steps[setting] == 0]
    return {"values": gaps, "untrained": untrained, "scale": gain} if gaps else None


def slope(cells: ScalingCells, setting: str, gain: float | None) -> Measured:
    """The gain with more reference rewards of a setting, "off-policy" or "offline", by a line through all n."""
    numbers = _numbers(cells)
    if setting not in _settings(cells) or len(numbers) < 2:
        return {"absent": f"the study has no {setting} cells with several numbers of references", "scale": gain}
    betas = ", ".join(f"{beta:g}" for beta in sorted({key[1] for key in cells if key[-1] == "exact"}))
    return {
        "values": {"gain by the slope": mean_interval(studies.scaling_slopes(cells)[setting])},
        "measured": f"n = {', '.join(map(str, numbers))}; beta {betas}",
        "untrained": studies.untrained_cells(cells, [setting]),
        "scale": gain,
    }


def off_policy_at_large_beta(cells: ScalingCells, gain: float | None) -> Measured:
    """Off-policy less offline at the largest beta that both have, from three references on."""
    if not _betas(cells):
        return {"absent": _NOT_BOTH, "scale": gain}
    beta, numbers = max(_betas(cells)), _numbers(cells)
    from_three = [n for n in numbers if n >= 3] or numbers
    first, second = (studies.mean_over(cells, setting, beta, from_three) for setting in ("off-policy", "offline"))
    return {
        "values": {"off-policy - offline": mean_interval(first - second)},
        "measured": f"beta {beta:g}; n = {', '.join(map(str, from_three))}",
        "untrained": studies.untrained_cells(cells, BOTH, [beta]),
        "scale": gain,
    }


def offline_at_small_beta(cells: ScalingCells, gain: float | None) -> Measured:
    """Offline at the smallest beta less every other setting and beta, means over n, and less off-policy at fewest n."""
    if not _betas(cells):
        return {"absent": _NOT_BOTH, "scale": gain}
    smallest, numbers = min(_betas(cells)), _numbers(cells)
    best = studies.mean_over(cells, "offline", smallest, numbers)
    values = {}
    for setting, beta in sorted({key[:2] for key in cells if key[-1] == "exact"}):
        if (setting, beta) != ("offline", smallest):
            gap = best - studies.mean_over(cells, setting, beta, numbers)
            values[f"less {setting}, beta {beta:g}"] = mean_interval(gap)
    first, second = (studies.mean_over(cells, name, smallest, numbers[:1]) for name in ("offline", "off-policy"))
    values[f"less off-policy, beta {smallest:g}, n = {numbers[0]}"] = mean_interval(first - second)
    untrained = studies.untrained_cells(cells, BOTH)
    measured = f"offline at beta {smallest:g}; n = {', '.join(map(str, numbers))}"
    return {"values": values, "measured": measured, "untrained": untrained, "scale": gain}


def finite_partition(cells: ScalingCells, gain: float | None) -> Measured:
    """Does the partition function for n references help where n is small? Finite less exact, mean over the cells."""
    pairs: dict[str, list] = {}
    for key, cell in cells.items():
        other = cells.get((*key[:-1], "finite"))
        if key[-1] == "exact" and key[3] <= 3 and other is not None:
            pairs.setdefault(key[0], []).append((other, cell))
    trained = {setting: some for setting, some in pairs.items() if all(cell.step for pair in some for cell in pair)}
    if not pairs:
        return {"absent": "no cell with at most 3 references has both partition functions", "scale": gain}
    if not trained:
        return {"untrained": [f"cells of {setting}" for setting in pairs], "scale": gain}
    gaps = [finite.values - exact.values for some in trained.values() for finite, exact in some]
    left_out = "".join(f"; {setting} left out: untrained cells" for setting in pairs if setting not in trained)
    return {
        "values": {"finite - exact": mean_interval(np.mean(gaps, axis=0))},
        "measured": f"{len(gaps)} cells of {', '.join(trained)}{left_out}",
        "scale": gain,
    }


def gain_then_degradation(courses: pd.DataFrame, betas: Collection[float], gain: float | None) -> Measured:
    """The mean of the checkpoints on the way against the start and against the last.

    Of all of them, since the best of several lies above the last without any fall, by chance and by what all seeds of a
    world share.

    Parameters
    ----------
    courses: `studies.smallest_beta_courses`.
    betas: all that are trained: one alone is not a small one.
    gain: DPO's over its start, for the smallest effect.
    """
    if len(set(betas)) < 2:
        return {"absent": "a single beta is trained, which is not a small one among others", "scale": gain}
    gains, falls, way = [], [], ""
    for _, course in courses.groupby(["setting", "learning_rate"]):
        steps = sorted(course["step"].unique())
        start, *between, last = (best_models.matrix(course[course["step"] == step], "reward") for step in steps)
        if not between:
            return {"absent": "there is no checkpoint between the first and the last", "scale": gain}
        gains.append(np.mean(between, axis=0) - start)
        falls.append(np.mean(between, axis=0) - last)
        way = f"steps {', '.join(map(str, steps[1:-1]))} of {steps[-1]}"
    return {
        "values": {
            "gain": mean_interval(np.mean(gains, axis=0)),
            "degradation": mean_interval(np.mean(falls, axis=0)),
        },
        "measured": f"beta {courses['beta'].iloc[0]:g}, {', '.join(courses['setting'].unique())}; {way}",
        "scale": gain,
    }


def log_slightly_worse(cells: TransformationCells, gain: float | None, missed: float | None = None) -> Measured | None:
    """The quantile itself less its logarithm, each at its best beta. None where one of them was not run.

    Parameters
    ----------
    cells: `studies.transformation_cells`.
    gain: DPO's over its start, for the smallest effect.
    missed: `studies.missed_beta`.
    """
    of_name = {name: cell for (name, _), cell in cells.items()}
    if not {"identity", "log"} <= of_name.keys():
        return None
    untrained = [name for name in ("identity", "log") if of_name[name].step == 0]
    values = {"identity - log": difference(of_name["identity"].values, of_name["log"].values)}
    at = ", ".join(f"{name} at beta {beta:g}" for name, beta in cells if name in ("identity", "log"))
    absent = "" if missed is None else f"the identity's best beta is {missed:g}, at which log was not trained"
    return {"values": values, "measured": at, "untrained": untrained, "absent": absent, "scale": gain}


def less_length_bias(best: BestModels, points: Mapping[str, pd.DataFrame], table: pd.DataFrame) -> Measured:
    """QRPO and REBEL against DPO and SimPO, one interval over all four. table: `best_models.length_table(points)`."""
    biased = table["low"] > 0
    listed = (f"{row.method} {row.rho:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples())
    return {
        "values": {"difference of rho": length_bias.contrast(points, PREFERENCES, SCALARS)},
        "measured": ", ".join(listed),
        "untrained": best.untrained([*PREFERENCES, *SCALARS]),
        "absent": "" if biased.any() else "no algorithm has a positive length bias",
    }


def blind_preferences(best: BestModels, points: Mapping[str, pd.DataFrame], table: pd.DataFrame) -> Measured:
    """The same contrast where the annotator does not see length: it needs no length bias to be there."""
    return less_length_bias(best, points, table) | {"absent": ""}


def detected_length_bias(best: BestModels, points: Mapping[str, pd.DataFrame]) -> Measured:
    """Whether Figure 4's method finds a length bias that is there: rho of every algorithm."""
    values = {_label(name): length_bias.correlation(of_policy) for name, of_policy in points.items()}
    return {"values": values, "untrained": best.untrained(points)}


def threshold_table(last: pd.DataFrame) -> pd.DataFrame:
    """Log-ratios at the last step (`studies.last_log_ratios`) beside the threshold beta log Z of App. A, by seed.

    Columns added: `threshold`, and for chosen and rejected completions `*_above`, whether their mean quantile reward is
    above it.
    """
    threshold = [beta * transforms.get("identity").log_partition(beta) for beta in last["beta"]]
    above = {f"{kind}_above": last[f"{kind}_quantile"] > threshold for kind in ("chosen", "rejected")}
    return last.assign(threshold=threshold, **above)


def threshold(last: pd.DataFrame) -> Measured:
    """Completions become more likely above the threshold and less below, at every beta and setting.

    last: `studies.last_log_ratios`. The quantile that is compared is the mean over pairs and seeds. The interval of a
    cell with a single seed has no ends: it decides nothing here, and counts among other worlds.
    """
    values, predicted, chosen_above = {}, {}, set()
    for where, rows in _cells_of_seeds(threshold_table(last)):
        limit = rows["threshold"].iloc[0]
        for kind in ("chosen", "rejected"):
            quantile = rows[f"{kind}_quantile"].mean()
            above = bool(quantile > limit)
            name = f"{where}, {kind} (R_q {quantile:.2f}, threshold {limit:.2f})"
            values[name] = statistics.seed_interval(rows[f"{kind}_log_ratio"].to_numpy())
            predicted[name] = 1 if above else -1
            chosen_above |= {above} if kind == "chosen" and len(rows) > 1 else set()
    absent = "" if len(chosen_above) == 2 else "chosen completions are on one side of the threshold at every beta"
    return _signs(values, predicted, absent)


def off_policy_falls(last: pd.DataFrame) -> Measured:
    """Off-policy, the mean log-ratio of both completions of the pairs is negative at every beta and setting."""
    off_policy = last[last["setting"].str.endswith(("off-policy-random", "off-policy-best"))]
    values = {}
    for where, rows in _cells_of_seeds(off_policy):
        both = (rows["chosen_log_ratio"] + rows["rejected_log_ratio"]) / 2
        values[where] = statistics.seed_interval(both.to_numpy())
    return _signs(values, dict.fromkeys(values, -1), "")


def uniformity(quantiles: pd.DataFrame, prompts: int) -> Measured:
    """How far the estimated quantile rewards of `reference_completions.uniformity` are from n + 1 equally likely
    values."""
    distance = float((quantiles["share"].cumsum() - quantiles["expected"].cumsum()).abs().max())
    return {"values": {"distance": statistics.distance_interval(distance, prompts)}}


def _cells_of_seeds(last: pd.DataFrame):
    keys = ["setting", "beta", "learning_rate", "num_ref_rewards"]
    for (setting, beta, rate, n), rows in last.groupby(keys, dropna=False):
        yield f"{setting}, beta {beta:g}, lr {rate:g}, n = {n:g}", rows


def _signs(values: dict[str, Interval], predicted: dict[str, int], absent: str) -> Measured:
    single = sum(interval.seeds < 2 for interval in values.values())
    measured = f"{single} values of one seed decide nothing" if single else ""
    if single == len(values):
        return {"absent": "no cell has more than one seed", "measured": measured}
    return {"values": values, "predicted": predicted, "measured": measured, "absent": absent}


def _betas(cells: ScalingCells) -> list[float]:
    """The betas that both settings have, ascending."""
    by_setting = [{key[1] for key in cells if key[0] == setting and key[-1] == "exact"} for setting in BOTH]
    return sorted(set.intersection(*by_setting))


def _numbers(cells: ScalingCells) -> list[int]:
    return sorted({key[3] for key in cells if key[-1] == "exact"})


def _settings(cells: ScalingCells) -> set[str]:
    return {key[0] for key in cells}


def _label(algorithm: str) -> str:
    return style.ALGORITHMS[algorithm].label
