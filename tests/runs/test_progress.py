import json
from pathlib import Path

import tqdm.auto
import tqdm.notebook

from qrpo_lib.runs import progress


def test_the_state_goes_to_the_status_file(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    monkeypatch.setenv("QRPO_STATUS", str(path))
    with progress.bar("sampling") as report:
        assert json.loads(path.read_text()) == {"text": "sampling", "done": 0, "total": 1, "detail": ""}
        report(3, 3, "shards")  # the end is written at once, however soon it comes
        assert json.loads(path.read_text()) == {"text": "sampling", "done": 3, "total": 3, "detail": "shards"}
    assert list(tmp_path.iterdir()) == [path]


def test_frequent_news_is_not_all_written(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    monkeypatch.setenv("QRPO_STATUS", str(path))
    clock = iter([100.0, 100.1, 100.3, 100.4])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.bar("sampling") as report:
        seen = []
        for done in (1, 2, 3):
            report(done, 9, "")
            seen.append(json.loads(path.read_text())["done"])
    assert seen == [0, 2, 2]


def test_elsewhere_a_bar_shows_how_far_it_is(monkeypatch, capsys):
    monkeypatch.delenv("QRPO_STATUS", raising=False)
    with progress.bar("sampling") as report:
        report(1, 4, "shards")
        report(4, 4, "shards")
    assert "sampling" in capsys.readouterr().err


def test_a_part_of_what_is_under_way_moves_the_bar_and_news_alone_shows(monkeypatch, capsys):
    monkeypatch.delenv("QRPO_STATUS", raising=False)
    clock = iter([10.0, 10.05, 10.5, 11.0])
    with progress.bar("grid") as report:
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        for done, detail in ((0.25, "step 1"), (0.3, "too soon"), (0.5, "step 2"), (0.5, "step 3")):
            report(done, 2, detail)
        monkeypatch.undo()
    shown = capsys.readouterr().err
    assert "0.25/2" in shown
    assert "0.5/2" in shown
    assert "step 2" in shown
    assert "step 3" in shown  # though nothing more is done
    assert "too soon" not in shown


def test_in_a_notebook_the_bar_is_as_long_as_the_work(monkeypatch):
    monkeypatch.delenv("QRPO_STATUS", raising=False)
    made = []

    class Bar(tqdm.notebook.tqdm):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, display=False, **settings)
            made.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_WRITES", 0)
    with progress.bar("grid") as report:
        for done, total in ((1, 6), (5.4, 6), (6, 8)):
            report(done, total, "answering")
            _, drawn, said = made[0].container.children
            assert (drawn.value, drawn.max) == (done, total)
            assert f"{done}/{total}" in said.value
            assert "answering" in said.value


def test_a_full_disk_stops_no_work_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    monkeypatch.setenv("QRPO_STATUS", str(path))

    def full(self, text):
        self.touch()
        raise OSError(28, "No space left on device")

    with progress.bar("sampling") as report, monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        report(1, 1)
        patch.setattr(Path, "write_text", lambda self, text: (_ for _ in ()).throw(OSError(28, "full")))
        report(1, 1)
        assert list(tmp_path.iterdir()) == [path]


def test_parts_are_told_to_hundredths(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    monkeypatch.setenv("QRPO_STATUS", str(path))
    with progress.bar("grid") as report:
        report(3.14159, 3)
        assert json.loads(path.read_text())["done"] == 3.14


def test_a_bar_is_gone_when_its_work_is_done_and_says_all_at_its_end(monkeypatch, capsys):
    monkeypatch.delenv("QRPO_STATUS", raising=False)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 10.0)
    with progress.bar("grid") as report:
        report(1.23456, 5, "first")
        assert "1.23/5" in capsys.readouterr().err
        report(2, 5, "too soon")
        assert "too soon" not in capsys.readouterr().err
        report(5, 5)
        assert "5/5" in capsys.readouterr().err
    assert capsys.readouterr().err.rstrip(" ").endswith("\r")  # the line is cleared
