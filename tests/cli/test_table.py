"""The table of ``jetflow list`` in terminals of any width, and without one."""

import io
import re

import pytest
from rich.console import Console

from jetflow.cli import listing, output
from jetflow.errors import Failure
from jetflow.protocol.record import StateRecord

LONG = "order-with-a-rather-long-id-456"


def records() -> list[StateRecord]:
    failed = StateRecord(LONG, "orders", "failing", "1", "failed", -598, 1_795_550_000_000, 1_795_550_000_000, closed_at=1)
    failed.failure = Failure("ActivityError", "activity 'decline' failed: LookupError: no pear in [bold]stock[/bold]", 598)
    return [StateRecord("short", "orders", "order", "2", "running", 1, 1_795_550_000_000, 1_795_550_000_000), failed]


def printed(monkeypatch: pytest.MonkeyPatch, width: int, *, terminal: bool = True, colour: bool = False) -> list[str]:
    file = io.StringIO()
    system = "standard" if colour else None
    console = Console(file=file, width=width, force_terminal=terminal, color_system=system, highlight=False)
    monkeypatch.setattr(listing, "out", console)
    monkeypatch.setattr(output, "out", console)
    monkeypatch.setattr("sys.stdout", file)  # plain text goes there as it is
    listing._print_table(records())
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [200, 120, 104])
def test_what_it_is_about_gets_the_room_that_is_left(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = printed(monkeypatch, width)
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert lines[2].startswith(f"{LONG}  failed")
    assert "ActivityEr"[:4] in lines[2]
    assert lines[2].endswith("…") == (width < 160)


@pytest.mark.parametrize("width", [90, 60, 40])
def test_ids_are_folded_never_cut(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = printed(monkeypatch, width)
    assert all(len(line) <= width for line in lines)
    assert "ABOUT" not in lines[0]
    assert "".join(re.split(r" {2,}", line)[0] for line in lines[2:]) == LONG


def test_colour_only_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31mfailed" in "\n".join(printed(monkeypatch, 160, colour=True))
    assert "\x1b" not in "\n".join(printed(monkeypatch, 160, terminal=False, colour=True))


def test_a_pipe_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, 40, terminal=False)
    assert lines[2].endswith("no pear in [bold]stock[/bold]")
