"""What `qrpo reproduce` shows while it works."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from qrpo_lib.cluster import task
from qrpo_lib.runs import terminal


class Notebooks:
    """A progress bar over notebooks on a terminal; a line for each event elsewhere."""

    def __init__(self, total: int):
        self._seen: set[str] = set()
        self._console = terminal.make_console()
        self._progress = Progress(
            TextColumn("{task.fields[now]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("notebooks"),
            TimeElapsedColumn(),
            console=self._console,
            expand=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total, now="")

    def __enter__(self) -> Notebooks:
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def update(self, progress: task.Progress) -> None:
        """Show where the reproduction stands now."""
        quiet = self._console.is_terminal  # the bar says it
        running = progress.names("running", "queued")
        for id in running:
            self._tell("running", "", id, shown=not quiet)
        for id in progress.names("complete"):
            skipped = id in progress.skipped
            self._tell(*(("skipped", "") if skipped else ("done   ", "green")), id, shown=not (skipped and quiet))
        for id in progress.names("failed"):
            self._tell("failed ", "red", id)
        now = "\n".join(": ".join(filter(None, (id, progress.tasks[id].doing()))) for id in running)
        ended = len(progress.names("complete", "failed", "blocked"))
        self._progress.update(self._task, completed=ended, now=now)

    def _tell(self, what: str, style: str, id: str, *, shown: bool = True) -> None:
        if shown and what + id not in self._seen:
            self._console.print(terminal.styled((what, style), f" {id}"), soft_wrap=True)
        self._seen.add(what + id)
