"""Tables and figure of `benchmarks/training.py`: from its measurements to text."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from qrpo_lib.paper import style

TRAINERS = ("TRL", "TRL, completions alone", "plain loop", "this suite")
OURS = TRAINERS[-1]


def speed(data: pd.DataFrame) -> str:
    table = style.markdown_table(
        [
            {
                "model": row.model,
                "precision": row.precision,
                "prompt + completion": f"{row.prompt} + {row.completion}",
                "trainer": row.trainer,
                "pairs/s": f"{row.pairs_per_second:.3f}",
                "processor s a step": f"{row.processor_seconds:.3f}",
                "time, times ours": f"{row.suite_times_as_fast:.2f}",
                "processor time, times ours": f"{row.suite_times_as_fast_in_processor_time:.2f}",
                "MB beyond the model": f"{row.bytes / 1e6:.0f}",
                "utilisation": f"{row.utilisation:.0%}",
                "loss, difference from ours": f"{row.largest_loss_difference:.0e}",
                "steps": row.steps,
            }
            for row in data.itertuples()
        ]
    )
    keys = ["model", "precision", "prompt", "completion"]
    sentences = [_dominates(rows) for _, rows in data.groupby(keys, sort=False)]
    return "\n".join([table, "", "What dominates:", "", *(f"- {sentence}" for sentence in sentences)])


def growth(data: pd.DataFrame) -> str:
    return style.markdown_table(
        [
            {
                "tokens a sequence": tokens,
                "vocabulary": f"{vocabulary:,}",
                **{f"{row.trainer}, MB": f"{row.bytes / 1e6:.0f}" for row in rows.itertuples()},
                **{f"{row.trainer}, s a step": f"{row.seconds:.2f}" for row in rows.itertuples()},
            }
            for (tokens, vocabulary), rows in data.drop_duplicates(["tokens", "vocabulary", "trainer"]).groupby(
                ["tokens", "vocabulary"]
            )
        ]
    )


def growth_figure(data: pd.DataFrame) -> plt.Figure:
    colours = zip(("dimgray", "darkgray", "mediumseagreen", "darkorange"), "sD^o", strict=True)
    looks = {
        name: {"color": colour, "marker": marker} for name, (colour, marker) in zip(TRAINERS, colours, strict=True)
    }
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), sharex="col", sharey="row")
    for column, (what, label) in enumerate([("tokens", "Tokens a sequence"), ("vocabulary", "Vocabulary")]):
        for row, (value, unit, name) in enumerate([("seconds", 1, "CPU seconds a step"), ("bytes", 1e9, "Peak, GB")]):
            axis = axes[row, column]
            for trainer in TRAINERS:
                part = data[(data.grows == what) & (data.trainer == trainer)]
                axis.plot(part[what], part[value] / unit, label=trainer, **looks[trainer])
            axis.set(xscale="log", yscale="log", xlabel=label if row else "", ylabel="" if column else name)
            ticks = [scale * step for scale in (0.01, 0.1, 1, 10, 100) for step in (1, 2, 5)]
            bottom, top = axis.get_ylim()
            axis.set_yticks([tick for tick in ticks if bottom < tick < top])
            axis.yaxis.set_major_formatter("{x:g}")
            sizes = sorted(data[data.grows == what][what].unique())
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize="small")
            axis.minorticks_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    axes[0, 0].set_title(f"Vocabulary {data[data.grows == 'tokens'].vocabulary.iloc[0]:,}")
    axes[0, 1].set_title(f"{data[data.grows == 'vocabulary'].tokens.iloc[0]:,} tokens a sequence")
    return figure


def _dominates(case_rows: pd.DataFrame) -> str:
    """What the time of a case goes into, in a sentence."""
    first, ours = case_rows.iloc[0], case_rows[case_rows.trainer == OURS].iloc[0]
    head = first.share_of_head
    part = "the output head" if head > 0.5 else "the layers"
    best = case_rows[case_rows.trainer != OURS].sort_values("processor_seconds").iloc[0]
    return (
        f"{first.model}, {first.precision}, {first.prompt} + {first.completion}: {part} is "
        f"{max(head, 1 - head):.0%} of the useful operations; the best of the others is {best.trainer!r}, "
        f"{best.suite_times_as_fast_in_processor_time:.2f} times this suite's processor time with "
        f"{best.bytes / ours.bytes:.1f} times its memory; utilisation {ours.utilisation:.0%} of "
        f"{ours.best_rate:.0f} GFLOP/s."
    )
