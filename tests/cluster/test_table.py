"""The table of jobs: counts, rows, and why jobs wait."""

from in_memory import InMemory, following
from rich.console import Console

from qrpo_lib.cluster import table


def test_progress_is_told_in_counts_and_rows(diamond):
    executor = InMemory()
    progress = following(executor, diamond[2]).advance()
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table.render(progress))
    assert "5 queued" in captured.get()
    assert diamond[0].name in captured.get()


def test_why_a_job_waits_is_shown_and_a_held_one_with_what_to_do(diamond):
    executor = InMemory()
    dispatcher = following(executor, diamond[2])
    dispatcher.advance()
    executor.alive["1"] = ("pending", "launch failed requeued held")
    executor.alive |= dict.fromkeys(["2_0", "2_1", "2_2", "3"], ("pending", "Dependency"))
    progress = dispatcher.advance()
    assert table.summary(progress) == "5 queued (launch failed requeued held: 1, Dependency: 4)"
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table.render(progress))
    assert "`scontrol release 1`" in captured.get()
    executor.alive["1"] = ("running", "None")
    assert "held" not in table.summary(dispatcher.advance())
