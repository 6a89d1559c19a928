"""The worlds of a profile together: each claim's verdict over all of them, and where single worlds differ.

    of_worlds = worlds.recorded(figures, "tiny-full", arms)     # what each world's notebooks recorded
    ledger.judge(claim_id, **worlds.pooled(of_worlds[claim_id], arms))
    worlds.spread(of_worlds, ledger.judged)

A world gives one estimate for each interval of a claim; the pool's interval is Student's of these estimates
(`statistics.over_worlds`), so that it holds whatever varies between worlds and inside of them. Hyperparameters and
checkpoints are selected in each world anew. The smallest effect is the mean of the worlds' that are pooled.

Fixed beforehand: where a claim is not testable in more than one world, it is not testable; one such world is left out
and named, if three remain. Nor is it testable where one of its intervals was not measured in each of the others: what
is missing might be what contradicts. A world without a verdict, since nobody has made it yet, is named. Where worlds
predict different signs of an interval, estimates count times theirs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from qrpo_lib.paper import claims, style
from qrpo_lib.paper.claims import Judgement
from qrpo_lib.results import statistics

# What a world alone knows stands behind the name of an interval, "..., chosen (R_q 0.89, threshold 0.63)", or is the
# policy that its best model was trained from.
_OF_ONE_WORLD = re.compile(r" \([^()]*\)$")
_OVER_ITS_START = re.compile(r"^gain over .*")
LEAST_WORLDS, MOST_LEFT_OUT = 3, 1
# One world's verdict on a claim, by world.
OfWorlds = dict[int, Judgement]


def recorded(figures: str | Path, profile: str, arms: Mapping[int, str]) -> dict[str, OfWorlds]:
    """Of each claim the verdicts in the worlds, by world; claims with an exact rule, which need none, left out.

    arms: of each world the arm's name in it.
    """
    labels = {f"{profile}, {arm}": world for world, arm in arms.items()}
    by_claim: dict[str, OfWorlds] = {}
    for judgement in claims.recorded(figures):
        if judgement.profile in labels and judgement.kind != "exact":
            by_claim.setdefault(judgement.id, {})[labels[judgement.profile]] = judgement
    return by_claim


def pooled(of_worlds: OfWorlds, worlds: Collection[int] = ()) -> dict[str, Any]:
    """Arguments of `claims.Ledger.judge` for the worlds together. worlds: all that the profile has."""
    pools = testable(of_worlds)
    out, unmade = sorted(set(of_worlds) - set(pools)), sorted(set(worlds) - set(of_worlds))
    named = [f"world {', '.join(map(str, out))} left out: {of_worlds[out[0]].reason}"] if out else []
    named += [f"world {', '.join(map(str, unmade))} not made"] if unmade else []
    left_out = "; ".join(named)
    if len(out) > MOST_LEFT_OUT or len(pools) < LEAST_WORLDS:
        few = f"testable in {len(pools)} of {len(of_worlds) + len(unmade)} worlds"
        return {"absent": f"{few}; {left_out}" if left_out else few, "effect": _mean_effect(of_worlds)}
    effect = _mean_effect(pools)
    of_each, predicted, missing = _by_interval(list(pools.values()))
    if missing:
        absent = f"not measured in every world: {', '.join(missing)}"
        return {"absent": absent, "measured": left_out, "effect": effect}
    single = [f"by world {', '.join(f'{value:.3g}' for value in some)}" for some in list(of_each.values())[:3]]
    return {
        "values": {name: statistics.over_worlds(some) for name, some in of_each.items()},
        "predicted": predicted or None,
        "measured": "; ".join([*single, left_out] if left_out else single),
        "effect": effect,
    }


def testable(of_worlds: OfWorlds) -> OfWorlds:
    """The worlds in which a claim could be tested, in their order."""
    return {world: claim for world, claim in sorted(of_worlds.items()) if claim.verdict != "not testable"}


def spread(of_worlds: Mapping[str, OfWorlds], judged: Sequence[Judgement]) -> pd.DataFrame:
    """Beside the pool's verdicts those of the worlds: columns `claim, pool`, and one for each verdict with the numbers
    of the worlds that say so, which names every world that says another one than the pool."""
    rows = []
    for pool in judged:
        verdicts = {world: claim.verdict for world, claim in sorted(of_worlds[pool.id].items())}
        saying = {
            verdict: ", ".join(str(world) for world, said in verdicts.items() if said == verdict)
            for verdict in claims.rules.VERDICTS
        }
        rows.append({"claim": pool.id, "pool": pool.verdict} | saying)
    return pd.DataFrame(rows)


def estimates(of_worlds: Mapping[str, OfWorlds]) -> pd.DataFrame:
    """Every interval of every world: columns `claim, interval, world, estimate, low, high, effect, verdict`."""
    rows = []
    for claim, worlds in of_worlds.items():
        for world, judged in sorted(worlds.items()):
            for name, value in _by_name(judged).items():
                row = {"claim": claim, "interval": name, "world": world}
                row |= {end: value[end] for end in ("estimate", "low", "high")}
                rows.append(row | {"effect": judged.effect, "verdict": judged.verdict})
    return pd.DataFrame(rows)


def draw(of_estimates: pd.DataFrame, judged: Sequence[Judgement]) -> plt.Figure:
    """Each interval of a claim in units of its smallest effect that matters: worlds as points, the pool as a diamond.

    of_estimates: `estimates` of claims that have a smallest effect. judged: the pool's verdicts on them.
    """
    pools = {(pool.id, name): value for pool in judged for name, value in _by_name(pool).items()}
    effects = {pool.id: pool.effect for pool in judged}
    groups = [
        (key, rows) for key, rows in of_estimates.groupby(["claim", "interval"], sort=False) if effects.get(key[0])
    ]
    with style.style():
        figure, axis = plt.subplots(figsize=(9, 1 + 0.36 * max(len(groups), 1)))
        for height, ((claim, interval), rows) in enumerate(reversed(groups)):
            axis.plot(rows["estimate"] / effects[claim], [height] * len(rows), "o", color="darkgray", markersize=5)
            pool = pools.get((claim, interval), {})
            if None not in (pool.get("low"), pool.get("high")):
                low, mean, high = (pool[end] / effects[claim] for end in ("low", "estimate", "high"))
                axis.plot([low, high], [height, height], color="black", linewidth=1.5)
                axis.plot(mean, height, "D", color="black", markersize=6)
        for limit in (-1, 1):
            axis.axvline(limit, color="darkorange", linestyle="--", linewidth=1)
        axis.axvline(0, color="dimgray", linewidth=1)
        axis.set_yticks(range(len(groups)), [f"{claim}: {interval}" for (claim, interval), _ in reversed(groups)])
        axis.set(xlabel="in units of the smallest effect", xscale="symlog", ylim=(-0.7, len(groups) - 0.3))
        axis.set_title("grey: a world; black: all together", loc="right")
    return figure


def _mean_effect(of_worlds: OfWorlds) -> float | None:
    effects = [claim.effect for claim in of_worlds.values() if claim.effect is not None]
    return float(np.mean(effects)) if effects else None


def _by_interval(pools: Sequence[Judgement]) -> tuple[dict[str, list[float]], dict[str, int], list[str]]:
    """Of each interval the worlds' estimates and the predicted sign, and the names that not every world has."""
    of_each = [_by_name(claim) for claim in pools]
    every = list(dict.fromkeys(name for values in of_each for name in values))
    estimates, predicted, missing = {}, {}, []
    for name in every:
        if not all(name in world for world in of_each):
            missing.append(name)
            continue
        found, signs = ([world[name].get(key) for world in of_each] for key in ("estimate", "predicted"))
        if len(set(signs)) > 1:  # left out, a cell that contradicts in one world would not count
            name, found = f"{name}, times its predicted sign", [a * b for a, b in zip(found, signs, strict=True)]
            signs = [1]
        estimates[name] = found
        if signs[0] is not None:
            predicted[name] = signs[0]
    return estimates, predicted, missing


def _by_name(claim: Judgement) -> dict[str, dict[str, Any]]:
    names = (_OVER_ITS_START.sub("gain over its start", _OF_ONE_WORLD.sub("", name)) for name in claim.values)
    return dict(zip(names, claim.values.values(), strict=True))
