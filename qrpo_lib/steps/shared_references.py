"""References as the authors take them: the first n of all sampled completions, those of the training pair among them.

In `completions.parquet` a candidate then has a second row, with the role "reference" and without its text, ahead of all
others, so that a prompt's references are in the order of sampling; so has one that cannot be trained on ("unusable").
Whoever wants every completion once leaves these rows out (`once`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def with_shared(frame: pd.DataFrame) -> pd.DataFrame:
    """Sampled completions, columns `prompt_id, sample_index, role, token_ids, text, reward`, with those second rows."""
    import pandas as pd

    second = frame[frame["role"].isin(("candidate", "unusable"))]
    second = second.assign(role="reference", text="", token_ids=[[] for _ in range(len(second))])
    return pd.concat([second, frame], ignore_index=True)


def rewrite(path: Path) -> None:
    """Give the completions of a file their second rows."""
    import pandas as pd

    with_shared(pd.read_parquet(path)).to_parquet(path)


def once(frame: pd.DataFrame) -> pd.DataFrame:
    """Every sampled completion of a frame once, with its text, in the order of the frame."""
    return frame.drop_duplicates(["prompt_id", "sample_index"], keep="last")
