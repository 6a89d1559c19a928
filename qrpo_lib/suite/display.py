"""What `qrpo reproduce` shows while it works."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qrpo_lib.runs import terminal
from qrpo_lib.suite import reproduce

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)


class Notebooks:
    """A progress bar over notebooks on a terminal; a line for each event elsewhere."""

    def __init__(self, total: int):
        self._seen: set[str] = set()
        self._console = terminal.make_console()
        self._progress = Progress(
            TextColumn("{task.fields[now]}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("notebooks"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total, now="")

    def __enter__(self) -> Notebooks:
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def update(self, state: reproduce.State) -> None:
        """Show where the reproduction stands now."""
        quiet = self._console.is_terminal  # the bar says it
        for running in state.running:
            self._tell("running", "", running.job.id, shown=not quiet)
        for id in state.done:
            self._tell("done   ", "green", id)
        for id in state.skipped:
            self._tell("skipped", "", id, shown=not quiet)
        for id in state.failed:
            self._tell("failed ", "red", id)
        ended = len(state.done) + len(state.skipped) + len(state.failed) + len(state.blocked)
        now = " | ".join(running.doing() for running in state.running)
        self._progress.update(self._task, completed=ended, now=now)

    def _tell(self, what: str, style: str, id: str, *, shown: bool = True) -> None:
        if shown and what + id not in self._seen:
            self._console.print(terminal.styled((what, style), f" {id}"), soft_wrap=True)
        self._seen.add(what + id)
