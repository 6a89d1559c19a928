"""The committed record: the data behind every statistic of a profile, without policies; written and restored.

    record.write(known, folder, "tiny-full", world=0)       # from run folders to a few Parquet files
    record.restore(known, folder)                           # and back, where the key is still the same

`steps.parquet` has a row for each run folder: its name, what identifies the run, the run's own `record.json`, its
`settings_key`, by which a result is known whose code has changed since, and the text of a small file. The other tables
have a row for each answer, completion or step of a training, with the run folder's name: `answers` (rewards, lengths),
`log_ratios`, `completions` (the reference policy's), `rounds` and `histories`. `about.json` has their SHA-256.

Rewards, log-probabilities and histories are rounded to about `BITS` significant bits, or as many as are asked for, but
never what a choice is made by (the selection prompts' rewards). A restored folder lacks what was not kept: policies,
tokens (of completions their number stays), and texts but for those that a notebook shows.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.experiment.grid import COLUMNS, Run, transform_label
from qrpo_lib.experiment.record_steps import Known
from qrpo_lib.runs import files, folders, paths, records
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import evaluation, fitting, log_ratios, reference_sampling

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

ABOUT, STEPS = "about.json", "steps.parquet"
LIMIT_BYTES = 30 * 2**20  # of all records that are committed
# Significant bits of an answer's reward. What that costs is in docs/runs.md; 53 keep everything.
BITS, FULL_BITS = 8, 53
_HISTORIES = "histories"  # the table of what trainings logged: numbers, which take less room than their text
# Of a run's own record: what says where it ran, and what is said anew of a restored folder.
_NOT_KEPT = ("host", "slurm_job", "outputs", records.RESTORED)
_FOLDER_THEN = "folder_then"  # of what other code made, in the record of its restored folder: its name then
_LEVEL = 15  # of zstd
_PAGE = 2**27  # compressed as one: the same answer of many policies is stored once


@dataclass(frozen=True)
class _Table:
    """Rows of the files of one name in run folders.

    steps: the kinds of steps that have such a file. columns: those that are kept. order: by which rows stand in it;
    where they do not, the column `place` says where each stood. near: by which rows are stored, like beside like.
    """

    steps: tuple[str, ...]
    source: str
    columns: tuple[str, ...]
    order: tuple[str, ...] = ()
    near: tuple[str, ...] = ("prompt_id",)


_TABLES = {
    "answers": _Table(
        ("reference_evaluation", "evaluation", "report"),
        evaluation.EVALUATION,
        evaluation.RECORDED,
        ("step", "prompt_id", "repeat"),
        ("split", "prompt_id", "seed", "repeat", "folder", "step"),
    ),
    "log_ratios": _Table(
        ("log_ratios",),
        log_ratios.LOG_RATIOS,
        ("prompt_id", "repeat", "logp", "ref_logp"),
        ("prompt_id", "repeat"),
        ("prompt_id", "seed", "repeat", "folder"),
    ),
    "completions": _Table(
        ("reference_sampling",),
        reference_sampling.COMPLETIONS,
        ("prompt_id", "split", "sample_index", "role", "finish_reason", "reward", "length", "prompt", "text"),
        ("prompt_id", "sample_index"),
        ("prompt_id", "sample_index", "folder"),
    ),
    "rounds": _Table(
        ("iterative",),
        evaluation.EVALUATION,
        ("prompt_id", "reward", "length", "log_ratio"),
    ),
}
# Columns that are rounded, with how many more bits than an answer's reward: of log-probabilities small differences
# count, and of reference rewards whether two are equal. Rewards of the selection prompts are in a column of their own.
_ROUNDED = {
    "answers": {"reward": 0, "logp": 6},
    "log_ratios": {"logp": 6, "ref_logp": 6},
    "completions": {"reward": 2},
    "rounds": {"reward": 0, "log_ratio": 0},
}
_MORE_OF_HISTORIES = 6  # of every number
_EXACT = "reward_of_selection"


@dataclass
class Restored:
    """What happened to a record's steps when it was restored, by the names of their run folders.

    stale: those that today's code or settings would make otherwise, which are not used.
    by_other_code: of those that were put back, the ones whose code was another, by their names then.
    """

    put_back: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    by_other_code: list[str] = field(default_factory=list)


def write(known: Known, folder: Path, profile_name: str, world: int | None = None, bits: int = BITS) -> int:
    """Write the record of these steps, as far as they are there, into a folder; returns its size in bytes.

    Parameters
    ----------
    known: the steps, and what is known of the runs that made them.
    folder: which gets the tables; those of an earlier record there are replaced.
    profile_name: told in the record.
    world: its number, told in the record; None for a profile without worlds.
    bits: significant bits that are kept of rewards of reporting answers, 2 more of reference rewards, and 6 more of
        log-probabilities and of what trainings logged; 53 keep all.

    Raises
    ------
    InputError
        None of the results is there.
    CorruptedRunError
        A run folder is not what was written.
    """
    import pandas as pd

    there = _to_record(known, profile_name)
    reported = {
        f"report-{record['inputs'].get('report')}" for record in there.values() if record["name"] == "log_ratios"
    }
    rows, parts = [], {name: [] for name in (*_TABLES, _HISTORIES)}
    for name, record in there.items():
        row, of_step = _recorded(known, name, record, name in reported)
        rows.append({"folder": name, "kind": record["name"], "world": world} | row)
        for table, frame in of_step.items():
            parts[table].append(frame)
    contents = {STEPS: _parquet(pd.DataFrame(rows), ("folder", "kind"))}
    for name, frames in parts.items():
        if frames:
            contents[f"{name}.parquet"] = _table_content(pd.concat(frames, ignore_index=True), name, bits)
    kept_bits = {name: {column: bits + more for column, more in columns.items()} for name, columns in _ROUNDED.items()}
    kept_bits[_HISTORIES] = bits + _MORE_OF_HISTORIES
    about = {"profile": profile_name, "world": world, "significant_bits": kept_bits, "steps": len(rows)}
    about["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    for path in folder.glob("*.parquet"):
        path.unlink()
    for name, content in contents.items():
        files.write_atomically(folder / name, content)
    files.write_atomically(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    return sum(map(len, contents.values()))


def _recorded(
    known: Known, name: str, record: dict[str, Any], is_reported: bool
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """A run folder's row of `steps`, and its rows of other tables by their names. Raises CorruptedRunError."""
    import pandas as pd

    source, tables = paths.runs_folder() / name, {}
    records.check(source)
    row = _columns(known.run_of(record), record)
    row |= {fitting.PAIRS: _text(source / fitting.PAIRS), fitting.HISTORY: None}
    row |= {"left_out": None, "table": None, "dtypes": None}
    if (source / fitting.HISTORY).is_file():
        history = pd.read_csv(source / fitting.HISTORY)
        row[fitting.HISTORY] = ",".join(history.columns)
        tables[_HISTORIES] = history.assign(folder=name)
    for table, layout in _TABLES.items():
        if record["name"] in layout.steps:
            frame = pd.read_parquet(source / layout.source).reset_index(drop=True)
            row |= {"table": table, "dtypes": json.dumps({name: str(kind) for name, kind in frame.dtypes.items()})}
            texts = is_reported or record["name"] == "reference_evaluation" or known.has_texts(name)
            kept = _kept(frame, layout, record["name"], texts)
            tables[table] = kept.assign(folder=name, seed=row["seed"])
    held = {fitting.PAIRS, fitting.HISTORY} | ({_TABLES[row["table"]].source} if row["table"] else set())
    original = {key: value for key, value in record.items() if key not in _NOT_KEPT}
    row |= {"left_out": json.dumps(sorted(set(record["outputs"]) - held)), "record": json.dumps(original)}
    return row | {"settings_key": known.step_of(record).settings_key}, tables


def _to_record(known: Known, profile_name: str) -> dict[str, dict[str, Any]]:
    """The records of the folders that are there, by name. Raises InputError for none, or any of other code's making."""
    there = known.folders()
    if not there:
        raise InputError(f"None of the results of {profile_name} is there: run `qrpo reproduce` first.")
    other = [name for name, record in there.items() if _FOLDER_THEN in record.get(records.RESTORED, {})]
    if other:
        raise InputError(
            f"{len(other)} results of {profile_name} were made by other code than today's, such as {other[0]}: a "
            "record would say that they are today's. Keep the record that they are from, or make them anew."
        )
    return there


def restore(known: Known, folder: Path, origin: str, *, any_code: bool = False) -> Restored:
    """Put the record's results back into run folders, those with today's keys whose folders are not there.

    Parameters
    ----------
    known: today's steps.
    folder: of the record.
    origin: how the record is called in `qrpo runs`.
    any_code: results of today's settings count whatever code made them; their folders get today's keys, and say so.

    Raises
    ------
    UnreadableFileError
        A file is not what was written.
    """
    tables = read(folder)
    about = files.read_json(folder / ABOUT, "")
    settings_keys = dict(zip(tables["steps"]["folder"], tables["steps"]["settings_key"], strict=True))
    by_folder = {name: dict(iter(frame.groupby("folder", observed=True))) for name, frame in tables.items()}
    restored = Restored()
    for row in by_folder.pop("steps").values():
        row = row.iloc[0]
        original = json.loads(row["record"])
        step = known.step_of(original) or (known.step_of(original, settings_keys) if any_code else None)
        if step is None:
            restored.stale.append(row["folder"])
            continue
        said = {"from": origin, "left_out": json.loads(row["left_out"]), "significant_bits": about["significant_bits"]}
        if step.folder_name != row["folder"]:
            said |= {"from": f"{origin} (by other code than today's)", _FOLDER_THEN: row["folder"]}
            original |= {"key": step.key, "inputs": {source.name: source.key for source in step.inputs}}
        of_row = {name: frames[row["folder"]] for name, frames in by_folder.items() if row["folder"] in frames}
        put_back = folders.restore(step, lambda into, row=row, of=of_row: _fill(into, row, of), original, said)
        (restored.put_back if put_back else restored.there).append(step.folder_name)
        if put_back and step.folder_name != row["folder"]:
            restored.by_other_code.append(row["folder"])
    return restored


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a record, by name, for analyses of one's own too; `steps` says of each `folder` what it is.

    Raises UnreadableFileError if a file is not what was written.
    """
    import pandas as pd

    remedy = "Restore it (`git checkout`), or have it written again (`qrpo record`)."
    sums = files.read_json(folder / ABOUT, remedy).get("sha256")
    if not isinstance(sums, dict) or STEPS not in sums:
        raise files.unreadable(folder / ABOUT, "it does not say what the record holds", remedy)
    tables = {}
    for name, sha256 in sums.items():
        path = folder / name
        content = path.read_bytes() if path.is_file() else None
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            raise files.unreadable(path, "it is missing" if content is None else "it is not what was written", remedy)
        frame = pd.read_parquet(io.BytesIO(content))
        if _EXACT in frame:
            frame["reward"] = frame["reward"].astype("float64").fillna(frame.pop(_EXACT).astype("float64"))
        tables[path.stem] = frame
    return tables


def committed(figures: Path, profile_name: str) -> dict[str, Path]:
    """The folders of a profile's records below `figures`, by their names: `world-0`, or `all` without worlds."""
    return {path.parent.name: path.parent for path in sorted((figures / profile_name / "record").glob(f"*/{ABOUT}"))}


def total_bytes(figures: Path) -> int:
    """The size of all profiles' records below `figures`, in bytes."""
    return sum(path.stat().st_size for path in figures.glob("*/record/*/*") if path.is_file())


def _columns(run: Run | None, record: dict[str, Any]) -> dict[str, Any]:
    """What identifies a run, as `qrpo_lib.experiment.grid.COLUMNS` has it, and of one checkpoint its step."""
    values = {name: getattr(run, name) if run else None for name in COLUMNS}
    values["transform"] = transform_label(run.transform) if run and run.transform is not None else None
    seed = record["parameters"].get("seed", record.get("seed"))
    told = {name: record["parameters"].get(name) for name in ("checkpoint", "split")}
    return values | {"seed": seed} | told


def _kept(frame: pd.DataFrame, layout: _Table, kind: str, texts: bool) -> pd.DataFrame:
    """The columns of a file that are recorded, in them what is needed, and `place` where the order does not say it."""
    import numpy as np
    import pandas as pd

    known = [name for name in layout.order if name in frame]
    if "token_ids" in frame and "length" not in frame:
        frame = frame.assign(length=frame["token_ids"].map(len, na_action="ignore"))
    kept = frame[[name for name in layout.columns if name in frame]].copy()
    if "repeat" in kept and "text" in kept:  # what AlpacaEval's notebook shows
        kept["text"] = kept["text"].where(texts & (kept["repeat"] == 0) & (kept["split"] == "reporting"))
        # The engine's log-probabilities are no part of a statistic, but for step 0, where they are the reference's too.
        kept["logp"] = kept["logp"] if kind == "reference_evaluation" else np.nan
    elif not texts:
        kept = kept.drop(columns=[name for name in ("prompt", "text") if name in kept])
    place = np.arange(len(kept))
    in_order = known and (frame.sort_values(known, kind="stable").index.to_numpy() == place).all()
    return kept.assign(place=pd.array([pd.NA] * len(kept) if in_order else place, dtype="Int32"))


def _fill(folder: Path, row: pd.Series, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the files of a step's folder that the record holds, from its rows of each table."""
    import pandas as pd

    if isinstance(row[fitting.PAIRS], str):
        files.write_atomically(folder / fitting.PAIRS, row[fitting.PAIRS].encode())
    if isinstance(row[fitting.HISTORY], str):
        columns = row[fitting.HISTORY].split(",")
        tables[_HISTORIES][columns].to_csv(folder / fitting.HISTORY, index=False, float_format="%.9g")
    if not isinstance(row["table"], str):
        return
    rows, layout, dtypes = tables[row["table"]], _TABLES[row["table"]], json.loads(row["dtypes"])
    by = ["place"] if rows["place"].notna().all() else [name for name in layout.order if name in dtypes]
    rows = rows.sort_values(by, kind="stable", ignore_index=True)
    if "token_ids" in dtypes:
        lengths = rows["length"] if row["kind"] == "reference_sampling" else [0] * len(rows)
        rows["token_ids"] = [None if pd.isna(length) else [-1] * int(length) for length in lengths]
    blank = {name: None for name in dtypes if name not in rows}
    rows = rows.assign(**blank)[list(dtypes)].astype({n: kind for n, kind in dtypes.items() if kind != "object"})
    rows.to_parquet(folder / layout.source)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _table_content(frame: pd.DataFrame, name: str, bits: int) -> bytes:
    """A table's Parquet file: like rows beside each other, small types, floats as they take least."""
    import numpy as np

    if name == _HISTORIES:
        more = dict.fromkeys(frame.select_dtypes("float"), _MORE_OF_HISTORIES)
    else:
        more, near = _ROUNDED[name], [column for column in _TABLES[name].near if column in frame]
        frame = frame.sort_values(near, kind="stable", ignore_index=True).drop(columns="seed")
    exact = frame["split"] == "selection" if "split" in frame and "reward" in frame else None
    for column in more.keys() & set(frame):
        rounded = significant(frame[column].to_numpy(np.float64), bits + more[column])
        frame[column] = rounded if exact is None else frame[column].where(exact, rounded)
    if exact is not None and bits < FULL_BITS:
        frame[_EXACT], frame["reward"] = frame["reward"].where(exact), frame["reward"].mask(exact)
    for column in frame.select_dtypes("float64"):
        values = frame[column].to_numpy()
        if np.array_equal(values.astype(np.float32).astype(np.float64), values, equal_nan=True):
            frame[column] = values.astype(np.float32)  # without loss
    for column in frame.select_dtypes("int64"):
        frame[column] = frame[column].astype(np.int32)
    return _parquet(frame, ("folder", "split", "finish_reason", "role", "prompt_id", "text", "prompt"))


def significant(values: np.ndarray, bits: int) -> np.ndarray:
    """Values (n,) rounded to so many significant bits: a relative error of at most 2^-bits."""
    import numpy as np

    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


def _parquet(frame: pd.DataFrame, dictionary: tuple[str, ...]) -> bytes:
    """A Parquet file whose numbers are stored as they are or byte by byte, each column as it takes less."""
    import pandas as pd

    numbers = [name for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]
    split = [name for name in numbers if len(_encoded(frame[[name]], (), [name])) < len(_encoded(frame[[name]], ()))]
    return _encoded(frame, dictionary, split)


def _encoded(frame: pd.DataFrame, dictionary: tuple[str, ...], split: Sequence[str] = ()) -> bytes:
    """A Parquet file: the columns of `dictionary` by their different values, those of `split` byte by byte."""
    import pyarrow as pa
    from pyarrow import parquet

    table, stream = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None), io.BytesIO()
    options = {"compression": "zstd", "compression_level": _LEVEL, "data_page_size": _PAGE, "row_group_size": _PAGE}
    by_value = [name for name in dictionary if name in frame]
    parquet.write_table(table, stream, use_dictionary=by_value, use_byte_stream_split=list(split) or False, **options)
    return stream.getvalue()
