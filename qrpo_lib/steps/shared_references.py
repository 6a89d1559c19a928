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

_LEFT_OUT = ("text", "token_ids")  # of a second row


def rewrite(path: Path) -> None:
    """Add to a file of completions the rows that candidates have as references, without reading all of it at once."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    schema = file.schema_arrow.remove_metadata()
    short = [name for name in schema.names if name not in _LEFT_OUT]
    second = pd.read_parquet(path, columns=short, filters=[("role", "in", ["candidate", "unusable"])])
    second = second.assign(role="reference", text="", token_ids=[[] for _ in range(len(second))])
    made = path.with_name(f"{path.name}.new")
    with parquet.ParquetWriter(made, schema) as writer:
        writer.write_table(pa.Table.from_pandas(second[schema.names], schema=schema, preserve_index=False))
        for batch in file.iter_batches():
            writer.write_batch(batch.replace_schema_metadata(None))
    file.close()
    made.replace(path)


def once(frame: pd.DataFrame) -> pd.DataFrame:
    """Every sampled completion of a frame once, with its text, in the order of the frame."""
    return frame.drop_duplicates(["prompt_id", "sample_index"], keep="last")
