"""What a reproduction shows while it works takes nothing for markup."""

from qrpo_lib.cluster import table, task
from qrpo_lib.runs import terminal
from qrpo_lib.suite import display


def test_tables_and_progress_take_nothing_for_markup(capsys):
    from rich.table import Table

    shown = Table("a [x] column")
    shown.add_row("chat [x] :smile:")
    terminal.make_console().print(shown)
    progress = task.Progress({"theory/[x]": task.ScheduledTask("theory/[x]", print)})
    progress.status["theory/[x]"], progress.failures["theory/[x]"] = "failed", "[/red]"
    with display.Notebooks(1) as shown:
        shown.update(progress)
    with table.live() as show:
        show(task.Progress({}, note="see /data/[x]/log"))
    output = capsys.readouterr().out
    for text in ("a [x] column", "chat [x] :smile:", "failed  theory/[x]", "/data/[x]/log"):
        assert text in output
