"""Figures that the pages state are those of the code."""

import importlib
import inspect
from typing import Any

import pytest

from jetflow import Worker
from jetflow.handle import WorkflowHandle
from tests.conftest import ROOT

CONSTANTS: list[tuple[str, str, str, Any]] = [
    ("design", "64 partitions unless", "protocol.subjects:DEFAULT_PARTITIONS", 64),
    ("design", "dedupe window of a minute", "broker.transport.topology:DUPLICATE_WINDOW", 60),
    ("design", "due within a second (`LINGER_MS`)", "engine.turn.resting:LINGER_MS", 1000),
    ("design", "more than 100 such signals (`MAX_UNSTORED`)", "engine.turn.resting:MAX_UNSTORED", 100),
    ("design", "A backoff of a second or more is durable", "engine.activities.steps:DURABLE_BACKOFF_MS", 1000),
    ("design", "busy for 0.1 s", "engine.ownership.actors:SHOW_AFTER", 0.1),
    ("design", "Sixteen or more writes", "broker.fencing.group_commit:CROWD", 16),
    ("design", "longer than 80 µs", "broker.fencing.group_commit:SLOW", 80e-6),
    ("design", "A trial of a quarter of a second", "broker.fencing.group_commit:PERIOD", 0.25),
    ("design", "must save a fifth", "broker.fencing.group_commit:GAIN", 0.8),
    ("design", "again every 20 s", "broker.fencing.group_commit:AGAIN", 20.0),
    ("design", "the last 200 outcomes", "core.handlers:MAX_OUTCOMES", 200),
    ("design", "fit into 4 KiB", "core.handlers:CARRIED_BYTES", 4096),
    ("design", "the last 1,000 senders", "core.machine:MAX_SENDERS", 1000),
    ("design", "A history over 256 KB", "broker.stores.timeline:MAX_COMPACTED", 256 * 1024),
    ("design", "Every 30 s the janitor writes", "engine.upkeep.janitor:REMEMBER_EVERY", 30.0),
    ("design", "The key lives as long as markers do: 30 days", "broker.transport.topology:MARKER_TTL", 30 * 86_400),
    ("design", "Revocations live for 30 days", "broker.fencing.fence:REVOKED_FOR", 30 * 86_400),
    ("design", "Guards live for a day", "broker.fencing.fence:GUARDED_FOR", 86_400),
    ("design", "until its lease is over (3 s)", "broker.stores.membership:DEAD_AFTER", 3.0),
    ("design", "an inactivity threshold of a minute", "broker.transport.pull:INACTIVE_THRESHOLD", 60 * 1_000_000_000),
    ("design", "ends in ten tokens", "broker.fencing.fence:SPELLINGS", 10),
    ("design", "(error 10100)", "broker.transport.codes:FILTERS_OVERLAP", 10100),
    ("design", "4 MiB of unwritten bytes", "broker.transport.wire:MAX_UNWRITTEN", 4 * 1024 * 1024),
    ("design", "8,192 requests under way", "broker.transport.lane:MAX_UNDER_WAY", 8192),
    ("design", "After eight within a minute", "engine.upkeep.supervision:MOST", 8),
    ("events", "Workers notice within 5 seconds", "engine.upkeep.lifecycle:LOOK_EVERY", 5),
    ("events", "a repeat within two minutes", "broker.stores.lifecycle:DUPLICATE_WINDOW", 120),
    ("history", "16 at a time", "reading.exporting:AT_ONCE", 16),
    ("history", "all keys 500 at a time", "broker.stores.timeline:PAGE", 500),
    ("history", "0.25, 1, 5 and then every 30 s", "reading.notices:ASK_AGAIN", (0.25, 1.0, 5.0, 30.0)),
    ("listing", "up to 4,000 records", "broker.transport.walk:MOST_ROWS", 4000),
    ("listing", "8 MB at most", "broker.transport.walk:MOST_BYTES", 8 * 1024 * 1024),
    ("listing", "in the ten seconds before", "broker.transport.walk:SETTLE", 10),
    ("dashboard", "at most 150 workflows", "web.feed:MOST_ROWS", 150),
    ("dashboard", "until it has 100 workflows, 50,000 records at most", "web.reading:MOST_EXAMINED", 50_000),
    ("dashboard", "every record, 200,000 at most", "web.tally:MOST_COUNTED", 200_000),
    ("history", "| `timed_out` | an activity took too long | 596 |", "core.failures:ACTIVITY_TIMEOUT", 596),
    ("remote-activities", "at most 8 KiB", "activity:MAX_DETAILS", 8 * 1024),
    ("remote-activities", "stores them for a day", "broker.transport.topology:DETAILS_TTL", 86_400),
    ("remote-activities", "A name above 200 characters", "broker.stores.tasks:MAX_NAME", 200),
    ("scaling", "dies after 0.2 s", "cli.processes:FIRST_PAUSE", 0.2),
    ("scaling", "up to 15 s", "cli.processes:LONGEST_PAUSE", 15.0),
    ("nats-cli", "within 30 seconds of its last heartbeat", "broker.transport.topology:HEARTBEAT_TTL", 30),
    ("commands", "buffered for 10 minutes", "protocol.commands:DEFAULT_EXPIRE_MS", 600_000),
    ("subjects", "(10m by default", "protocol.commands:DEFAULT_EXPIRE_MS", 600_000),
    ("signals-by-id", "(10m by default", "protocol.commands:DEFAULT_EXPIRE_MS", 600_000),
]
"""A page, what it says, the constant behind it (module of ``jetflow`` and name), and its value."""


@pytest.mark.parametrize(("page", "said", "where", "value"), CONSTANTS)
def test_a_figure_is_that_of_the_code(page: str, said: str, where: str, value: Any) -> None:
    text = " ".join((ROOT / "docs" / f"{page}.md").read_text().split())
    assert said in text
    module, _, name = where.partition(":")
    found: Any = importlib.import_module(f"jetflow.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value


def test_defaults_of_arguments_are_those_of_the_code() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "10 minutes unless the sender says otherwise" in readme
    assert inspect.signature(WorkflowHandle.signal).parameters["expire"].default == "10m"
    remote = " ".join((ROOT / "docs" / "remote-activities.md").read_text().split())
    assert "It is 30 s, or `Worker(activity_lease=…)`" in remote
    worker = inspect.signature(Worker).parameters
    assert worker["activity_lease"].default == "30s"
    assert "(10 seconds unless the worker says otherwise)" in " ".join((ROOT / "deploy" / "README.md").read_text().split())
    assert worker["graceful_timeout"].default == "10s"
