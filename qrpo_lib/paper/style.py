"""One style for every figure, one visual identity for each algorithm, and saving that is the same byte for byte."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from qrpo_lib.paper import frontend

_LABELS = 9  # points, of names beside lines


@dataclass(frozen=True)
class Identity:
    """How one algorithm looks in every figure, as in the paper's figures."""

    label: str
    color: str
    marker: str


ALGORITHMS = {
    "initial": Identity("Initial", "dimgray", "X"),
    "sft": Identity("SFT", "darkgray", "P"),
    "dpo": Identity("DPO", "cornflowerblue", "s"),
    "simpo": Identity("SimPO", "lightskyblue", "D"),
    "rebel": Identity("REBEL", "mediumseagreen", "^"),
    "qrpo": Identity("QRPO", "darkorange", "o"),
}

# QRPO's versions and relatives in the figures of `tiny-beyond`, by the labels of its studies. Within a study colours
# are told apart by colour-blind readers, and marks by all.
_BROWN, _INDIGO, _WINE, _GREEN, _TEAL = "#8c3b00", "#332288", "#b0306a", "#117733", "#2a9d8f"
METHODS = {identity.label: identity for identity in ALGORITHMS.values()} | {
    identity.label: identity
    for identity in (
        Identity("QRPO, exact Z", "darkorange", "o"),
        Identity("raw reward, estimated Z", _INDIGO, "s"),
        Identity("raw reward, jackknifed Z", _TEAL, "D"),
        Identity("DRO", _WINE, "^"),
        Identity("A*-PO, offline", _GREEN, "v"),
        Identity("QRPO, beta/|y|", _BROWN, "P"),
        Identity("RPO", _GREEN, "D"),
        Identity("IPO", _WINE, "^"),
        Identity("KTO", _INDIGO, "v"),
        Identity("QRPO, fixed references", "darkorange", "o"),
        Identity("QRPO, renewed references", _BROWN, "P"),
        Identity("GRPO", _INDIGO, "D"),
        Identity("RLOO", _TEAL, "^"),
        Identity("online", "darkorange", "o"),
        Identity("half online", _BROWN, "P"),
        Identity("a third each", _TEAL, "D"),
        Identity("off-policy", _INDIGO, "s"),
        Identity("exact", "darkorange", "o"),
        Identity("finite", _BROWN, "s"),
        Identity("discrete", _INDIGO, "D"),
    )
}
_OTHERS = [
    Identity("", color, marker)
    for color, marker in zip((_INDIGO, _TEAL, _WINE, _BROWN, _GREEN, "black"), "<>hp*d", strict=True)
]

# DejaVu Sans comes with matplotlib: a figure does not change with the fonts of the machine.
_STYLE = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,
    "svg.hashsalt": "qrpo",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "axes.titlesize": "medium",
    "legend.framealpha": 0.9,
}
_CSV_FLOATS = "%.12g"
_CONTRAST = 4.5


@contextmanager
def style():
    """Context in which figures are drawn: `with style.style(): figure, axes = plt.subplots(...)`.

    It starts from matplotlib's defaults: a `matplotlibrc` of the user's changes no figure.
    """
    # In a notebook this sets the inline backend up; inside the context, leaving it would switch that off again.
    mpl.get_backend()
    with _defaults(), sns.plotting_context("notebook"), sns.axes_style("whitegrid"):
        mpl.rcParams.update(_STYLE)
        yield


@contextmanager
def _defaults():
    """Context with matplotlib's own settings, its backend aside."""
    with mpl.rc_context():
        mpl.rcdefaults()
        yield


def looks(labels: Sequence[str]) -> dict[str, Identity]:
    """How each of the methods looks in one figure: those of the suite's studies as everywhere, others as is free."""
    taken = {METHODS[label].marker for label in labels if label in METHODS}
    free = itertools.cycle([look for look in _OTHERS if look.marker not in taken])
    return {label: METHODS.get(label) or replace(next(free), label=label) for label in dict.fromkeys(labels)}


def ordered_colors(count: int) -> list[str]:
    """Colours for values that have an order, such as betas: dark to light, so in grey too."""
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](place)) for place in np.linspace(0, 0.8, count)]


def legible(color: str) -> str:
    """A colour's hue, dark enough for letters on white: a contrast of 4.5 (WCAG 2, level AA)."""
    rgb = np.array(mpl.colors.to_rgb(color))
    while _luminance(np.array(mpl.colors.to_rgb(mpl.colors.to_hex(rgb)))) > 1.05 / _CONTRAST - 0.05:
        rgb *= 0.97
    return mpl.colors.to_hex(rgb)


def _luminance(rgb: np.ndarray) -> float:
    """Relative luminance of a colour in sRGB (IEC 61966-2-1), as WCAG 2 has it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def label_ends(
    axis: plt.Axes,
    ends: Sequence[tuple[float, str, str]],
    at: Sequence[float] | None = None,
) -> None:
    """Names right of a panel, each beside the last value of its line and in its colour, moved apart where too close.

    Call it when the panel's limits are final.

    Parameters
    ----------
    axis
        The panel.
    ends
        For each line its last value (in the units of the y axis), name and colour. Values outside the panel are named
        at its edge; infinite ones have no line to it.
    at
        Where each line ends, in the units of the x axis; without it, at the panel's right edge.
    """
    inches = axis.figure.get_figheight() * axis.get_position().height
    gap = 1.35 * _LABELS / 72 / inches
    scaled = axis.transScale + axis.transLimits
    x = axis.get_xlim()[1]
    heights = [float(np.clip(scaled.transform((x, y))[1], 0, 1)) for y, _, _ in ends]
    starts = (
        [1.0] * len(ends)
        if at is None
        else [float(scaled.transform((x, y))[0]) for x, (y, _, _) in zip(at, ends, strict=True)]
    )
    order = sorted(range(len(ends)), key=lambda i: heights[i])  # of equal heights the later one is higher
    placed = _apart([heights[i] for i in order], [gap * (1 + ends[i][1].count("\n")) for i in order])
    for i, place in zip(order, placed, strict=True):
        value, name, color = ends[i]
        leader = {"arrowstyle": "-", "color": color, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0}
        if at is not None:  # through the panel, so not to be taken for the line itself
            leader |= {"linestyle": ":", "shrinkB": 5}
        axis.annotate(
            name,
            (starts[i], heights[i]),
            (1.04, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=legible(color),
            fontsize=_LABELS,
            annotation_clip=False,
            arrowprops=leader if np.isfinite(value) else None,
        )


def _apart(heights: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """The middles of names of these sizes, at rising heights between 0 and 1, moved as little as needed to stay clear.

    Least squares under "each at least as high as the one below and half of both sizes": isotonic regression, whose
    blocks of names that touch each other lie around their lines' mean height.
    """
    offsets = np.concatenate([[0.0], np.cumsum([(low + high) / 2 for low, high in itertools.pairwise(sizes)])])
    blocks: list[list[float]] = []
    for wanted in np.asarray(heights) - offsets[: len(heights)]:
        blocks.append([wanted])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    fitted = [float(np.mean(block)) for block in blocks for _ in block]
    highest = 1.0 - (offsets[len(fitted) - 1] if fitted else 0.0)
    return [max(min(place, highest), min(0.0, highest)) + offset for place, offset in zip(fitted, offsets, strict=True)]


def save(figure: plt.Figure, name: str, data: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Save a figure as `name.pdf` and `name.png`, and the numbers that it plots as `name.csv`, into `folder`.

    Identical figures give identical files: dates and version strings are left out of the metadata. In a notebook the
    figure is shown, and below it, folded, the numbers.

    Parameters
    ----------
    figure: what to save.
    name: of the files, without suffix.
    data: the numbers that it plots, a row for each mark.
    folder: made if it is not there.

    Returns
    -------
    The three paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("pdf", "png", "csv")]
    with _defaults():  # some settings count when a figure is drawn, not when it is made
        mpl.rcParams.update(_STYLE)
        figure.savefig(paths[0], metadata={"Creator": None, "Producer": None, "CreationDate": None})
        figure.savefig(paths[1], metadata={"Software": None})
    _write_csv(data, paths[2])
    frontend.show_with_data(figure, data, paths[2])
    return paths


def save_table(
    name: str, data: pd.DataFrame, markdown: str, folder: str | Path, latex: str | None = None
) -> list[Path]:
    """Save a table: its numbers as `name.csv`, as people read it as `name.md`, for a paper as `name.tex` if given.

    Parameters
    ----------
    name: of the files, without suffix.
    data: its numbers.
    markdown, latex: the table as text.
    folder: made if it is not there.

    Returns
    -------
    The paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(data, folder / f"{name}.csv")
    texts = {"md": markdown} | ({"tex": latex} if latex is not None else {})
    for suffix, text in texts.items():
        (folder / f"{name}.{suffix}").write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return [folder / f"{name}.{suffix}" for suffix in ("csv", *texts)]


def markdown_table(rows: list[dict[str, object]]) -> str:
    """Rows (all with the same keys, in the order of the columns) as a Markdown table."""
    if not rows:
        raise ValueError("A table needs at least one row.")
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(str(row[column]).replace("|", "\\|") for column in columns) + " |")
    return "\n".join(lines)


def frame_markdown(frame: pd.DataFrame, digits: int = 4) -> str:
    """A data frame as a Markdown table, numbers rounded; a dash for what is missing, a sentence for an empty one."""
    if frame.empty:
        return "There is nothing to list."

    def shown(value: object) -> str:
        if value is None or (isinstance(value, float) and pd.isna(value)):
            return "–"
        return f"{value:.12g}" if isinstance(value, float) else str(value)

    return markdown_table(
        [{str(key): shown(value) for key, value in row.items()} for row in rounded(frame, digits).to_dict("records")]
    )


def rounded(frame: pd.DataFrame, digits: int) -> pd.DataFrame:
    """A data frame to be read: so many decimals, but two digits of what would keep less, such as a learning rate."""

    def short(value: object) -> object:
        if not isinstance(value, float) or not np.isfinite(value):
            return value
        return float(f"{value:.2g}") if abs(value) < 10.0 ** (1 - digits) else round(value, digits)

    return frame.map(short)


def _write_csv(data: pd.DataFrame, path: Path) -> None:
    data.to_csv(path, index=False, float_format=_CSV_FLOATS, lineterminator="\n")
