"""What the command line says in a few lines: the results of a profile at a glance, and what to do next."""

from __future__ import annotations

import csv
import shlex
import shutil
import sys
from pathlib import Path

from qrpo_lib.paper import claims
from qrpo_lib.runs import paths
from qrpo_lib.suite import notebooks

_FIGURE_1 = "figure-1.csv"
_NAMES = {"initial": "initial policy", "sft": "SFT", "dpo": "DPO", "simpo": "SimPO", "rebel": "REBEL", "qrpo": "QRPO"}


def results(profile_name: str) -> list[str]:
    """Lines with each arm's best models (Figure 1) and the number of verdicts of each kind, as they are published."""
    figures, name = paths.project_root() / "figures", Path(profile_name).stem
    lines = [_best_models(path) for path in sorted((figures / name).glob(f"*/{_FIGURE_1}"))]
    of_paper = [claim for claim in claims.of_ledger(claims.recorded(figures)) if claim.origin == "paper"]
    counted = claims.counts(of_paper, "paper")
    if of_paper:
        lines.append(
            f"Verdicts on the paper's claims: {', '.join(f'{count} {verdict}' for verdict, count in counted.items())}."
        )
    return lines


def _best_models(path: Path) -> str:
    """One arm's Figure 1 in a line: method, value, standard error."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    values = ", ".join(
        f"{_NAMES.get(row['method'], row['method'])} {float(row['value']):.4g} ± {float(row['error']):.2g}"
        for row in rows
    )
    return f"{path.parent.name}: {values}"


def site(folder: Path) -> str:
    """Where the site with all of this is, or will be: a sentence with its address. folder: what `qrpo report` fills."""
    page = (folder / "index.html").resolve()
    if page.is_file():
        return f"`qrpo report` brings the site with every notebook up to date: {page.as_uri()}"
    return f"`qrpo report` makes a site of them, with every notebook, to open at {page.as_uri()}"


def next_steps(profile_name: str) -> list[tuple[str, str]]:
    """Commands that make sense now, each with what it does, the first one first; as they are typed here."""
    root, jobs = paths.project_root(), notebooks.jobs(profile_name)
    executed = sum((job.step.folder / notebooks.EXECUTED).is_file() for job in jobs)
    qrpo = "qrpo" if shutil.which("qrpo") else shlex.quote(sys.argv[0])
    make = (root / "Makefile").is_file()  # a folder of `qrpo init` has none
    report = (f"{qrpo} report", "results, notebooks and pages as a site to open in a browser")
    if not executed:
        first = ("make first", "a first look, in two minutes: one notebook of theory and a small training")
        return [
            first if make else (f"{qrpo} reproduce --only theory/noise", "a first look: one notebook of theory"),
            *([report] if (root / "figures").is_dir() else []),
            (f"{qrpo} plan", "what a reproduction would run, and how large it is"),
            (f"{qrpo} reproduce", f"all {len(jobs)} notebooks of the profile {profile_name}, every figure and table"),
        ]
    if executed < len(jobs):
        return [
            (f"{qrpo} reproduce", f"go on: {executed} of {len(jobs)} notebooks of {profile_name} are executed"),
            (f"{qrpo} status", "what is complete, and what would stop it"),
        ]
    return [
        report,
        ("make lab" if make else "jupyter lab notebooks", "JupyterLab on the notebooks: change one thing"),
        (f"{qrpo} runs training", "every trained policy: algorithm, setting, beta, seed"),
        (f"{qrpo} reproduce --profile FILE.toml", "the same with settings of your own (docs/profiles.md)"),
    ]
