"""The paper's published numbers, to stand beside ours: data frames, and where in the paper each stands."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from qrpo_lib.code_version import package_file

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("table_2", "table_3", "appendix_m", "length_bias_spearman")


def table(name: str) -> pd.DataFrame:
    """A table of the paper as a data frame. Raises ValueError for a name that is not in `TABLES`."""
    import pandas as pd

    if name not in TABLES:
        raise ValueError(f"There is no published table {name!r}: use one of {', '.join(TABLES)}.")
    return pd.DataFrame(_content()[name]["rows"])


def value(name: str) -> Any:
    """A number or a group of numbers that stands alone, such as "trained_models_per_algorithm"."""
    entry = dict(_content()[name])
    entry.pop("where", None)
    return entry.get("value", entry)


def where(name: str) -> str:
    """Where in the paper a table or a number stands."""
    return _content()[name]["where"]


def bold(means: pd.Series, stds: pd.Series) -> pd.Series:
    """Which values the paper prints in bold: those whose +- reaches that of the best. The paper does not say its rule;
    this one gives every bold value of its Tables 2 and 3."""
    best = means.idxmax()
    return means.max() - means <= stds + stds[best] + 1e-12


@cache
def _content() -> dict[str, Any]:
    return json.loads(package_file("published.json").read_text(encoding="utf-8"))
