"""Progress: silent at first and where nobody watches."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from crelle.cli import progress


@pytest.fixture
def terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=stream, force_terminal=True, width=80))
    return stream


def test_silent_where_stderr_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with progress.waiting("thinking"):
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_silent_when_short(terminal):
    with progress.waiting("thinking"):
        pass
    assert "thinking" not in terminal.getvalue()


def test_said_when_long_and_taken_back(terminal, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.01)
    with progress.waiting("thinking of f64[3,4]"):
        deadline = time.perf_counter() + 10
        while "thinking of f64[3,4]" not in terminal.getvalue() and time.perf_counter() < deadline:
            time.sleep(0.01)
    assert "thinking of f64[3,4]" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is erased


def test_an_error_ends_it(terminal, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with pytest.raises(ValueError, match="oh"), progress.waiting("thinking"):
        time.sleep(0.05)
        raise ValueError("oh")
    assert terminal.getvalue().endswith("\x1b[2K")
