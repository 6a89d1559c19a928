"""What reaches a terminal or a pipe: the text as it is."""

import io
import sys

import pytest

from qrpo_lib.runs import terminal


def test_nothing_in_a_text_is_taken_for_markup(capsys):
    text = "[bold]x[/bold] :smile: 'a' 12 http://x/y"
    terminal.make_console().print(terminal.styled(text, (" and more", "bold")))
    terminal.make_console().print(text)
    assert capsys.readouterr().out == f"{text} and more\n{text}\n"


def test_on_a_colour_terminal_only_what_is_styled_has_a_style(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = terminal.make_console()
    with console.capture() as captured:
        console.print("12 'a' True")
        console.print(terminal.styled("plain ", ("strong", "bold")))
    assert captured.get() == "12 'a' True\nplain \x1b[1mstrong\x1b[0m\n"


def test_what_an_encoding_does_not_have_is_escaped(monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    terminal.escape_what_cannot_be_encoded()
    for stream in streams:
        stream.write("é")
        stream.flush()
        assert stream.buffer.getvalue() == b"\\xe9"
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # of a notebook: has no encoding
    terminal.escape_what_cannot_be_encoded()


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_000, "999.0 kB"),
        (1_234_567, "1.2 MB"),
        (5e9, "5.0 GB"),
        (1e12, "1.0 TB"),
        (2.5e15, "2500.0 TB"),
    ],
)
def test_sizes_are_told_in_decimal_units(count, shown):
    assert terminal.size(count) == shown
