"""What several worlds say of a claim that was put to one: `tiny-full`'s committed verdicts beside `tiny`'s own.

A verdict of one world says what holds for its policy. Where the verdicts of the same claim over several worlds are
published (`results/worlds`), they are shown with it; where there are none, nothing is.
"""

from __future__ import annotations

from qrpo_lib.paper import claims
from qrpo_lib.paper.claims import Judgement
from qrpo_lib.runs import paths
from qrpo_lib.runs.errors import InputError

# Profiles of one world, and the profile that has several of the same kind.
SEVERAL = {"tiny": "tiny-full"}
TITLE = "several worlds"
_ONE_WORLD = "-world-"  # in the names of a world's own arms


def of_worlds(judgement: Judgement) -> list[Judgement]:
    """The published verdicts over all worlds on the same claim: of the same arm, or where it has none of all arms."""
    name, _, arm = judgement.profile.partition(", ")
    if name not in SEVERAL:
        return []
    try:
        found = claims.recorded(paths.project_root() / "figures" / SEVERAL[name], judgement.id)
    except InputError:  # the ledger's notebook says so; here another verdict is shown
        return []
    pools = [one for one in found if _ONE_WORLD not in one.profile]
    return [one for one in pools if one.profile == f"{SEVERAL[name]}, {arm}"] or pools


def words(judgement: Judgement) -> str:
    """Those verdicts with what was measured; empty if there are none."""
    return "; ".join(f"{one.profile}: {one.verdict}, {one.measured or one.reason}" for one in of_worlds(judgement))
