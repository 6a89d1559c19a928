"""The paper's Tables 1, 2, 3 and those of Appendix M, in Markdown and LaTeX, from data frames.

A value is shown with its error after a plus-minus and in bold where the frame says so: metric `reward` has the columns
`reward`, `reward_error` and `reward_bold`. A missing value is a dash.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from qrpo_lib.paper import published, style

METHODS = ("initial", "sft", "dpo", "simpo", "rebel", "qrpo")
CODE_METHODS = ("initial", "sft", "rebel", "dpo", "simpo", "qrpo")
SETTINGS = (
    "offline",
    "off-policy-best",
    "off-policy-random",
    "sft-offline",
    "sft-off-policy-best",
    "sft-off-policy-random",
)
_NAMES = {"initial": "Initial", "sft": "SFT-chosen"}
_DASH = "–"
_UNTRAINED = " (untrained)"
_REWARDS = {"lc_reward": "LC", "reward": "Orig."}
_ALPACA = {"alpaca_lc": "LC (%)", "alpaca_wr": "WR (%)"}


@dataclass(frozen=True)
class Table:
    """A table as people read it and as a paper includes it."""

    markdown: str
    latex: str


def table_1_rows() -> pd.DataFrame:
    """Which methods learn offline, and which from pointwise rewards. It holds no measurement."""
    rows = [
        ("Policy Improvement: PPO, GRPO, RLOO, etc.", False, True),
        ("Policy Fitting: DPO, REBEL, SimPO, etc.", True, False),
        ("Policy Fitting: QRPO", True, True),
    ]
    return pd.DataFrame(rows, columns=["methods", "offline", "pointwise"])


def table_1() -> Table:
    """Table 1, from `table_1_rows`."""
    rows = table_1_rows().to_numpy().tolist()
    header = ["", "Offline (& Online)", "Pointwise Rewards"]
    marks = [[name, *("✓" if yes else "✗" for yes in values)] for name, *values in rows]
    latex = [[_escaped(name), *("\\cmark" if yes else "\\xmark" for yes in values)] for name, *values in rows]
    note = "% needs \\usepackage{pifont,booktabs} \\newcommand{\\cmark}{\\ding{51}} \\newcommand{\\xmark}{\\ding{55}}\n"
    return Table(_markdown(header, marks), note + _latex("lcc", [[_escaped(name) for name in header]], [latex]))


def table_2(rows: pd.DataFrame) -> Table:
    """Table 2: average pass rate in per cent of each method on the code task.

    rows: columns `model, method, pass_rate` (0 to 100), `pass_rate_error`, `pass_rate_bold`; one model.
    """
    rows = rows.set_index("method")
    model = rows["model"].iloc[0]
    header = ["Method", "Avg. Pass (%) ↑"]
    names = {"initial": model, "sft": "+ SFT on Correct"} | {
        m: f"+ {style.ALGORITHMS[m].label}" for m in CODE_METHODS[2:]
    }
    methods = [name for name in CODE_METHODS if name in rows.index]
    names = {m: name + (_mark(rows.loc[m]) if m in rows.index else "") for m, name in names.items()}
    shown = {m: _shown(rows.loc[m], "pass_rate", 1) for m in methods}
    latex = {m: [_colored(names[m], m), _tex(text)] for m, text in shown.items()}
    blocks = [[latex[m] for m in group if m in latex] for group in (("initial",), ("sft",), CODE_METHODS[2:])]
    tex_header = ["\\textbf{Method}", "\\textbf{Avg. Pass (\\%)} $\\uparrow$"]
    return Table(_markdown(header, [[names[m], text] for m, text in shown.items()]), _latex("lc", [tex_header], blocks))


def table_3(rows: pd.DataFrame, reward_name: str) -> Table:
    """Table 3: rewards of each method's best model, models downwards and datasets across.

    rows: columns `model, dataset, method` and the metrics `lc_reward`, `reward` and, where they were measured,
    `alpaca_lc`, `alpaca_wr`.
    """
    datasets, models = list(dict.fromkeys(rows["dataset"])), list(dict.fromkeys(rows["model"]))
    columns = _REWARDS | (_ALPACA if any(name in rows for name in _ALPACA) else {})
    groups = [(reward_name, _REWARDS)] + ([("AlpacaEval 2", _ALPACA)] if len(columns) > len(_REWARDS) else [])
    names = [f"{dataset}: {group} {label}" for dataset in datasets for group, part in groups for label in part.values()]
    cells = rows.set_index(["model", "dataset", "method"])
    markdown, blocks = [], []
    for model in models:
        block = []
        for method in METHODS:
            if not any((model, dataset, method) in cells.index for dataset in datasets):
                continue
            of_datasets = [cells.loc[key] if (key := (model, d, method)) in cells.index else None for d in datasets]
            mark = next((_mark(cell) for cell in of_datasets if cell is not None and _mark(cell)), "")
            label = _NAMES.get(method, style.ALGORITHMS[method].label) + mark
            shown = [_shown(cell, name, 4 if name in _REWARDS else 1) for cell in of_datasets for name in columns]
            tex_label = f"{_escaped(model) if not block else ''} & {label}"
            if method == "qrpo":
                label, tex_label = f"**{label}**", f"\\rowcolor{{orange!60}} & \\textbf{{{label}}}"
            markdown.append([model, label, *shown])
            block.append([tex_label, *map(_tex, shown)])
        blocks.append(block)
    spans = [_spanning(len(columns), dataset) for dataset in datasets]
    parts = [_spanning(len(part), group) for group, part in groups] * len(datasets)
    labels = [f"\\textbf{{{_escaped(label)}}}" for label in columns.values()] * len(datasets)
    headers = [[" & ", *spans], ["\\textbf{Model} & \\textbf{Method}", *parts], [" & ", *labels]]
    note = "% needs \\usepackage{booktabs} \\usepackage[table]{xcolor}\n"
    latex = note + _latex("ll" + "c" * len(labels), headers, blocks)
    return Table(_markdown(["Model", "Method", *names], markdown), latex)


def appendix_m(rows: pd.DataFrame, lc: bool = True) -> Table:
    """A table of App. M: the best checkpoint of each method and setting, the reported one with a star.

    rows: columns `method, setting, beta, learning_rate, step, selected` and, as `selection/reporting` pairs,
    `reward_valid, reward_valid_error, reward_test, reward_test_error`, and unless not `lc` the same of `lc_reward`.
    Methods "initial" and "sft" have no setting.
    """
    metrics = {"reward": "Reward (valid/test)"} | ({"lc_reward": "LC-Reward (valid/test)"} if lc else {})
    markdown, blocks = [], []
    for method in METHODS:
        of_method = rows[rows["method"] == method]
        order = {name: position for position, name in enumerate(SETTINGS)}
        block = []
        for position, (_, row) in enumerate(of_method.sort_values("setting", key=lambda s: s.map(order)).iterrows()):
            label = {"initial": "Base", "sft": "SFT"}.get(method, style.ALGORITHMS[method].label)
            setting = row["setting"] if isinstance(row["setting"], str) else ""
            star = "*" if row["selected"] else ""
            pairs = [f"{_shown(row, f'{name}_valid', 4)} / {_shown(row, f'{name}_test', 4)}" for name in metrics]
            tex = [" / ".join(map(_tex, pair.split(" / "))) for pair in pairs]
            mark = _UNTRAINED if isinstance(row["setting"], str) and row["step"] == 0 else ""
            settings = [_number(row["beta"]), _number(row["learning_rate"]), _number(row["step"]) + mark]
            label = "" if position else label
            markdown.append([label, setting + star.replace("*", "\\*"), *pairs, *settings])
            block.append([label, setting + star, *tex, *(text.replace(_DASH, "--") for text in settings)])
        blocks.append(block)
    header = ["Method", "Setting", *metrics.values(), "β", "LR", "Step"]
    tex_header = ["\\textbf{Method}", "\\textbf{Setting}", *(f"\\textbf{{{m}}}" for m in metrics.values())]
    tex_header += ["$\\beta$", "\\textbf{LR}", "\\textbf{Step}"]
    return Table(_markdown(header, markdown), _latex("ll" + "c" * (len(header) - 2), [tex_header], blocks))


def of_the_paper(name: str) -> Table:
    """The paper's own "table-2" or "table-3"."""
    return table_2(published_table_2()) if name == "table-2" else table_3(published_table_3(), "ArmoRM Reward")


def beside(ours: Table, theirs: Table, where: str, label: str, note: str = "") -> str:
    """Our table with the paper's below it, as Markdown.

    Parameters
    ----------
    ours, theirs: the tables.
    where: which of the paper's it is.
    label, note: what ours is of, and a sentence above it.
    """
    note = f"{note}\n\n" if note else ""
    return f"{note}Here ({label}):\n\n{ours.markdown}\n\nAs published ({where}):\n\n{theirs.markdown}"


def alone(ours: Table, label: str, note: str = "") -> str:
    """Our table, as Markdown: of data that are not the paper's, none of its numbers stand beside it."""
    note = f"{note}\n\n" if note else ""
    return f"{note}Here ({label}):\n\n{ours.markdown}"


def published_table_2() -> pd.DataFrame:
    """The paper's Table 2 as rows for `table_2`."""
    rows = published.table("table_2").rename(columns={"avg_pass_percent": "pass_rate", "std": "pass_rate_error"})
    bold = published.bold(rows["pass_rate"], rows["pass_rate_error"])
    return rows.assign(model=published.value("models")["llama"], pass_rate_bold=bold)


def published_table_3() -> pd.DataFrame:
    """The paper's Table 3 as rows for `table_3`."""
    rows = published.table("table_3")
    metrics = [*_REWARDS, *_ALPACA]
    for name in metrics:
        rows = rows.rename(columns={f"{name}_std": f"{name}_error"})
        rows[f"{name}_bold"] = False
    for _, index in rows.groupby(["model", "dataset"]).groups.items():
        part = rows.loc[index]
        for name in metrics:
            rows.loc[index, f"{name}_bold"] = published.bold(part[name], part[f"{name}_error"])
    names = {"magpieair": "Magpie-Air", "ultrafeedback": "UltraFeedback"}
    return rows.assign(model=rows["model"].map(published.value("models")), dataset=rows["dataset"].map(names))


def _mark(row: pd.Series) -> str:
    """What stands behind the name of a method whose selected checkpoint is the policy before training."""
    return "" if row.get("trained", True) else _UNTRAINED


def _shown(row: pd.Series | None, name: str, digits: int) -> str:
    value = None if row is None else row.get(name)
    if value is None or pd.isna(value):
        return _DASH
    text = f"{value:.{digits}f}"
    error, bold = row.get(f"{name}_error"), row.get(f"{name}_bold")
    text = f"**{text}**" if bold is not None and pd.notna(bold) and bool(bold) else text
    return text if error is None or pd.isna(error) else f"{text} ± {error:.{digits}f}"


def _tex(text: str) -> str:
    """What `_shown` gives, as LaTeX."""
    if text == _DASH:
        return "--"
    value, _, error = text.partition(" ± ")
    value = f"\\mathbf{{{value.strip('*')}}}" if value.startswith("**") else value
    return f"${value}$" + (f" {{\\scriptsize $\\pm$ {error}}}" if error else "")


def _number(value: float) -> str:
    return _DASH if pd.isna(value) else f"{value:g}"


def _spanning(columns: int, text: str) -> str:
    return f"\\multicolumn{{{columns}}}{{c}}{{\\textbf{{{_escaped(text)}}}}}"


def _colored(text: str, method: str) -> str:
    colors = {"rebel": "green!30", "dpo": "blue!25", "simpo": "cyan!25", "qrpo": "orange!60"}
    return f"\\cellcolor{{{colors[method]}}} {_escaped(text)}" if method in colors else _escaped(text)


def _escaped(text: str) -> str:
    return text.replace("&", "\\&").replace("%", "\\%").replace("_", "\\_")


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    return style.markdown_table([dict(zip(header, row, strict=True)) for row in rows])


def _latex(alignment: str, headers: list[list[str]], blocks: list[list[list[str]]]) -> str:
    lines = [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule"]
    lines += [" & ".join(header) + " \\\\" for header in headers]
    for block in filter(None, blocks):
        lines += ["\\midrule", *(" & ".join(row) + " \\\\" for row in block)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])
