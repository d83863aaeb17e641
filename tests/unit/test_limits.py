"""Every limit in the table of docs/design.md is that of the code, and what happens at it."""

import asyncio
import importlib
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from jetflow.broker.stores import membership
from jetflow.broker.stores.membership import Member, Members
from jetflow.core import events as ev
from jetflow.engine.calls import updates as updates_module
from jetflow.engine.calls.updates import Updates
from jetflow.engine.signals import router as router_module
from jetflow.engine.signals.router import Router
from jetflow.engine.turn.run import Run
from jetflow.engine.upkeep import compaction as compaction_module
from jetflow.engine.upkeep.compaction import Closed, Compaction
from jetflow.web import feed as feed_module
from jetflow.web.events import EventStream
from jetflow.web.feed import Feed, Interest
from tests.conftest import ROOT

ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| `([\w/]+)\.py` \| (.+) \|$", re.MULTILINE)
SECTION = (ROOT / "docs" / "design.md").read_text().split("\n## Limits\n")[1].split("\n## ")[0]
TABLE = ROW.findall(SECTION)


def test_every_row_of_the_table_is_read() -> None:
    assert len(TABLE) == sum(line.startswith("| `") for line in SECTION.splitlines()) > 40


@pytest.mark.parametrize(("name", "value", "where"), [row[:3] for row in TABLE])
def test_a_limit_is_that_of_the_code(name: str, value: str, where: str) -> None:
    assert getattr(importlib.import_module(f"jetflow.{where.replace('/', '.')}"), name) == int(value)


def test_every_limit_of_that_name_is_in_the_table() -> None:
    """A constant that begins with MAX is a limit."""
    told = {(where, name) for name, _, where, _ in TABLE}
    found = set()
    for path in sorted((ROOT / "jetflow").rglob("*.py")):
        where = str(path.relative_to(ROOT / "jetflow").with_suffix(""))
        if not where.startswith(("testing", "cli")):
            found |= {(where, name) for name in re.findall(r"^(MAX_\w+)(?:: \w+)? = ", path.read_text(), re.MULTILINE)}
    assert found - told <= NO_QUEUES


NO_QUEUES = {
    ("broker/stores/tasks", "MAX_NAME"),
    ("core/failures", "MAX_CAUSES"),
    ("core/failures", "MAX_MESSAGE"),
    ("core/failures", "MAX_STACK"),
    ("core/ids", "MAX_TOKEN"),
    ("core/calls", "MAX_AT_ONCE"),
    ("core/recorder", "MAX_AT_ONCE"),
    ("engine/turn/alarms", "MAX_SLEEP"),
}
"""Sizes of names and such, which nothing waits in."""


# ---- what happens at a limit


class _Background:
    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.spawned: list[Any] = []

    def spawn(self, work: Any) -> None:
        self.spawned.append(work)
        work.close()


async def test_runs_that_the_compaction_has_no_room_for_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction_module, "MAX_QUEUED", 3)
    background = _Background()
    compaction = Compaction(SimpleNamespace(background=background, queue_token="q"), None, lambda: False)  # type: ignore[arg-type]
    for number in range(5):
        compaction.add(Closed(f"w{number}", 3))
    assert len(compaction._queue) == 3
    assert background.failures == {"compaction left out": 2}


def test_an_update_is_told_to_so_many_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates_module, "MAX_ASKING", 2)
    sent: list[str] = []
    wire: Any = SimpleNamespace(is_connected=True, takes_writes=True, send=lambda reply, _: sent.append(reply))
    updates = Updates(wire, "w", lambda _: None, lambda _: None)
    for number in range(4):
        updates._ask("u", f"inbox-{number}")
    updates.committed([ev.UpdateCompleted(id="u", at=1, result=ev.msgspec.Raw(b"1"))])
    assert sorted(sent) == ["inbox-0", "inbox-1"]


def test_a_router_asks_for_no_more_than_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "MAX_KEPT", 1500)
    engine: Any = SimpleNamespace(
        context=SimpleNamespace(worker_id="w", background=None, broker=SimpleNamespace(names=SimpleNamespace(by_id_stream="s")))
    )
    router = Router(engine)
    assert router._room() == router_module.CREDIT
    router._lots = {"a": range(900), "b": range(500)}  # type: ignore[assignment]
    router._count()
    assert router._room() == 100
    router._lots["c"] = range(100)  # type: ignore[assignment]
    router._count()
    assert router._room() == 0


async def test_more_members_than_the_limit_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_MEMBERS", 2)
    members = Members(None, None, "q", "me", lambda: None)  # type: ignore[arg-type]
    for number in range(4):
        member = Member(f"w{number}", "q", "host", 1, 1, [], [])
        members._on_beat(f"workers.q.w{number}".encode(), b"", membership._encoder.encode(member), None)
    assert sorted(members.alive()) == ["w0", "w1"]


async def test_more_browsers_than_the_limit_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_BROWSERS", 1)
    feed = Feed(SimpleNamespace(broker=None))  # type: ignore[arg-type]
    feed._buffers.add(feed_module.Buffer(Interest()))
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    await EventStream(feed, Interest())({"type": "http"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert said[0]["status"] == 503
    assert b"Too many browsers listen" in said[1]["body"]


# ---- assertions


def test_a_run_refuses_what_cannot_follow_from_what_it_has() -> None:
    run = Run()
    run.wrote(1, 10)
    run.wrote(2, 11)
    with pytest.raises(AssertionError, match="key 4 is written after key 2"):
        run.wrote(4, 12)
    with pytest.raises(AssertionError, match="key 3 is stored at position 11, not after 11"):
        run.wrote(3, 11)
    run.committed(7, [], [10], is_whole=False)
    with pytest.raises(AssertionError, match="the cause of a commit goes back from 7 to 6"):
        run.committed(6, [], [10], is_whole=False)
