"""The worlds of a profile together: each claim's verdict over all of them, and where single worlds differ.

    of_worlds = worlds.recorded(figures, "tiny-full", arms)     # what each world's notebooks recorded
    ledger.judge(claim_id, **worlds.pooled(of_worlds[claim_id]))
    worlds.spread(of_worlds, ledger.judged)

A world gives one estimate for each interval of a claim; the pool's interval is Student's of these estimates
(`statistics.over_worlds`), so that it holds whatever varies between worlds and inside of them. Hyperparameters and
checkpoints are selected in each world anew. The smallest effect is the mean of the worlds'.

Fixed beforehand: where a claim is not testable in more than one world, it is not testable; one such world is left out
and named, if three remain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qrpo_lib.paper import claims
from qrpo_lib.paper.claims import Judgement
from qrpo_lib.results import statistics

# What a world alone knows stands behind the name of an interval: "..., chosen (R_q 0.89, threshold 0.63)".
_OF_ONE_WORLD = re.compile(r" \([^()]*\)$")
LEAST_WORLDS, MOST_LEFT_OUT = 3, 1
# One world's verdict on a claim, by world.
OfWorlds = dict[int, Judgement]


def recorded(figures: str | Path, profile: str, arms: Mapping[int, str]) -> dict[str, OfWorlds]:
    """Of each claim the verdicts in the worlds, by world; claims with an exact rule, which need none, left out.

    arms: of each world the arm's name in it.
    """
    labels = {f"{profile}, {arm}": world for world, arm in arms.items()}
    found: dict[str, OfWorlds] = {}
    for judgement in claims.recorded(figures):
        if judgement.profile in labels and judgement.kind != "exact":
            found.setdefault(judgement.id, {})[labels[judgement.profile]] = judgement
    return found


def pooled(of_worlds: OfWorlds) -> dict[str, Any]:
    """Arguments of `claims.Ledger.judge` for the worlds together."""
    testable = {world: one for world, one in sorted(of_worlds.items()) if one.verdict != "not testable"}
    out = sorted(set(of_worlds) - set(testable))
    left_out = f"world {', '.join(map(str, out))} left out: {of_worlds[out[0]].reason}" if out else ""
    effects = [one.effect for one in of_worlds.values() if one.effect is not None]
    effect = float(np.mean(effects)) if effects else None
    if len(out) > MOST_LEFT_OUT or len(testable) < LEAST_WORLDS:
        few = f"testable in {len(testable)} of {len(of_worlds)} worlds"
        return {"absent": f"{few}; {left_out}" if left_out else few, "effect": effect}
    values, predicted, unequal = _intervals(list(testable.values()))
    notes = [left_out] if left_out else []
    if unequal:
        notes.append(f"not in every world, or of another sign: {', '.join(unequal)}")
    if not values:
        return {"absent": "no interval that all worlds have", "measured": "; ".join(notes), "effect": effect}
    estimates = {name: [_by_name(one)[name]["estimate"] for one in testable.values()] for name in values}
    single = "; ".join(f"by world {', '.join(f'{value:.3g}' for value in of)}" for of in list(estimates.values())[:3])
    return {
        "values": values,
        "predicted": predicted or None,
        "measured": "; ".join([single, *notes]),
        "effect": effect,
    }


def spread(of_worlds: Mapping[str, OfWorlds], judged: Sequence[Judgement]) -> pd.DataFrame:
    """Beside the pool's verdicts those of the worlds: columns `claim, pool, supported, contradicted, undecided, not
    testable, differ`, the last with the worlds that decide the other way."""
    rows = []
    for pool in judged:
        verdicts = {world: one.verdict for world, one in sorted(of_worlds[pool.id].items())}
        counts = {verdict: list(verdicts.values()).count(verdict) for verdict in claims.rules.VERDICTS}
        decided = ("supported", "contradicted")
        differ = [w for w, verdict in verdicts.items() if verdict in decided and verdict != pool.verdict]
        rows.append({"claim": pool.id, "pool": pool.verdict} | counts | {"differ": ", ".join(map(str, differ))})
    return pd.DataFrame(rows)


def estimates(of_worlds: Mapping[str, OfWorlds]) -> pd.DataFrame:
    """Every interval of every world: columns `claim, interval, world, estimate, low, high, effect, verdict`."""
    rows = []
    for claim, worlds in of_worlds.items():
        for world, one in sorted(worlds.items()):
            for name, value in _by_name(one).items():
                row = {"claim": claim, "interval": name, "world": world}
                row |= {end: value[end] for end in ("estimate", "low", "high")}
                rows.append(row | {"effect": one.effect, "verdict": one.verdict})
    return pd.DataFrame(rows)


def _intervals(testable: Sequence[Judgement]) -> tuple[dict[str, statistics.Interval], dict[str, int], list[str]]:
    """The pool's intervals and predicted signs, and the names that not every world has with the same sign."""
    of_each = [_by_name(one) for one in testable]
    every = list(dict.fromkeys(name for values in of_each for name in values))
    values, predicted, unequal = {}, {}, []
    for name in every:
        if not all(name in world for world in of_each) or len({world[name].get("predicted") for world in of_each}) > 1:
            unequal.append(name)
            continue
        values[name] = statistics.over_worlds([world[name]["estimate"] for world in of_each])
        if "predicted" in of_each[0][name]:
            predicted[name] = of_each[0][name]["predicted"]
    return values, predicted, unequal


def _by_name(one: Judgement) -> dict[str, dict[str, Any]]:
    return {_OF_ONE_WORLD.sub("", name): value for name, value in one.values.items()}
