"""How far a long work has come, as said where there is no terminal, and on one."""

import io

import pytest
from rich.console import Console

from services.display.progress import steps


def test_elsewhere_than_on_a_terminal_each_step_is_a_line_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with steps(Console(file=io.StringIO()), "Starting") as say:
        for step in ("Warming up", "Soak: 0 of 2 min", "Soak: 0 of 2 min", "Soak: 1 of 2 min"):
            say(step)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["Warming up", "Soak: 0 of 2 min", "Soak: 1 of 2 min"]
    assert captured.out == ""


def test_on_a_terminal_a_step_is_shown_and_is_no_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    with steps(Console(file=screen, force_terminal=True), "Starting") as say:
        say("Warming up")
    assert "Warming up" in screen.getvalue()
    assert capsys.readouterr().err == ""
