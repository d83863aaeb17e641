"""Finding workflows: each filter, the order, and what is no record."""

from datetime import UTC, datetime
from typing import Any

import pytest

from jetflow.core.failures import Failure
from jetflow.errors import InvalidInputError
from jetflow.protocol.record import Waiting

from .conftest import Shelf, ids


async def test_the_one_changed_last_comes_first(shelf: Shelf) -> None:
    await shelf.put("a", "b", "c", "a")
    assert await ids(shelf.client.list()) == ["a", "c", "b"]
    assert await ids(shelf.client.list(limit=2)) == ["a", "c"]
    assert await ids(shelf.client.list(limit=0)) == []


async def test_nothing_there(shelf: Shelf) -> None:
    assert await ids(shelf.client.list()) == []
    assert await shelf.client.list_page() == ([], None, 0)
    assert await shelf.client.count() == 0
    assert await shelf.client.count(task_queue="q") == 0
    assert await shelf.client.count_by("status") == {}


async def _mixed(shelf: Shelf) -> None:
    await shelf.put("run", data={"customer": "c1", "total": 3, "paid": True})
    await shelf.put("stuck", status="parked", workflow_type="refund")
    await shelf.put("done", status="completed", queue="other", started_at=5000, data={"customer": "c2", "total": 3.0})
    await shelf.put("broke", status="failed", started_at=9000, entity={"address": {"city": "Bern"}, "tags": ["x", "y"]})
    await shelf.put("ended", status="terminated", queue="dotted q.1", entity={"paid": 1})


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["ended", "broke", "done", "stuck", "run"]),
        ({"status": "running"}, ["stuck", "run"]),
        ({"status": "parked"}, ["stuck"]),
        ({"status": ["failed", "terminated"]}, ["ended", "broke"]),
        ({"workflow_type": "refund"}, ["stuck"]),
        ({"task_queue": "other"}, ["done"]),
        ({"task_queue": "dotted q.1"}, ["ended"]),
        ({"task_queue": "nobody"}, []),
        ({"started_after": 5000}, ["broke", "done"]),
        ({"started_before": datetime.fromtimestamp(5, UTC)}, ["ended", "stuck", "run"]),
        ({"started_after": 5000, "started_before": 9000}, ["done"]),
        ({"search": {"customer": "c1"}}, ["run"]),
        ({"search": {"total": 3}}, ["done", "run"]),
        ({"search": {"total": 3, "customer": "c2"}}, ["done"]),
        ({"search": {"paid": True}}, ["run"]),
        ({"search": {"paid": 1}}, ["ended"]),
        ({"search": {"address.city": "Bern"}}, ["broke"]),
        ({"search": {"tags": ["x", "y"]}}, ["broke"]),
        ({"search": {"tags.1": "y"}, "status": "running"}, []),
    ],
)
async def test_filters(shelf: Shelf, wanted: dict[str, Any], found: list[str]) -> None:
    await _mixed(shelf)
    assert await ids(shelf.client.list(**wanted)) == found
    assert await shelf.client.count(**wanted) == len(found)
    assert sum((await shelf.client.count_by("status", **wanted)).values()) == len(found)
    page = await shelf.client.list_page(**wanted)
    assert ([record.workflow_id for record in page.workflows], page.cursor) == (found, None)


async def test_those_that_retry(shelf: Shelf) -> None:
    """A failed attempt among what a workflow waits for, wherever it stands; a word in a name is none."""
    failure = Failure("ConnectionError", "no", 597)
    await shelf.put("quiet", waiting=[Waiting(1, "signal", '"failure": 1', 1000), Waiting(2, "activity", "charge", 1000)])
    await shelf.put("trying", waiting=[Waiting(1, "signal", "go", 1000), Waiting(2, "activity", "charge", 1000, 2000, 3, failure)])
    await shelf.put("stuck", status="parked", waiting=[Waiting(1, "activity", "charge", 1000, 2000, 3, failure)])
    await shelf.put("over", status="failed", waiting=[Waiting(1, "activity", "charge", 1000, 2000, 3, failure)])
    assert await ids(shelf.client.list(status="retrying")) == ["stuck", "trying"]
    assert await ids(shelf.client.list(status="running")) == ["stuck", "trying", "quiet"]
    assert await ids(shelf.client.list(status=["retrying", "failed"])) == ["over", "stuck", "trying"]
    assert await shelf.client.count(status="retrying") == 2
    assert await shelf.client.count_by("status") == {"running": 2, "parked": 1, "failed": 1}


async def test_counts_by_a_field(shelf: Shelf) -> None:
    await _mixed(shelf)
    await shelf.put("more")
    assert await shelf.client.count_by("status") == {"running": 2, "parked": 1, "completed": 1, "failed": 1, "terminated": 1}
    assert await shelf.client.count_by("workflow_type", task_queue="q") == {"order": 3, "refund": 1}
    assert await shelf.client.count_by("task_queue", status="running") == {"q": 3}
    with pytest.raises(InvalidInputError, match="not 'colour'"):
        await shelf.client.count_by("colour")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"status": "runing"}, "status must be one of pending, running, retrying, parked, completed, failed, cancelled, terminated, not 'runing'"),
        ({"started_after": datetime(2026, 1, 1)}, "started_after must be a datetime with a time zone"),
        ({"started_before": "today"}, "started_before must be"),
        ({"search": {"x": object()}}, "search value of 'x' cannot be written as JSON"),
        ({"task_queue": ""}, "task queue must be a non-empty string"),
    ],
)
async def test_filters_that_cannot_be(shelf: Shelf, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        shelf.client.list(**wanted)
    with pytest.raises(InvalidInputError, match=message):
        await shelf.client.count(**wanted)


async def test_what_is_no_record_is_passed_over(shelf: Shelf) -> None:
    await shelf.put("a")
    lane, names = shelf.client.broker.lane, shelf.client.broker.names
    for key, body in (("q.gone", b""), ("q.rubbish", b"{oops"), ("q.other", b'{"workflow_id": "x"}'), ("q.deep.key", b"[]")):
        await lane.publish(f"{names.state_prefix}{key}", body)
    assert await ids(shelf.client.list()) == ["a"]
    assert await ids(shelf.client.list(task_queue="q")) == ["a"]


async def test_a_small_queue_among_many_others(shelf: Shelf) -> None:
    """Asked for alone: the server finds its few records in a sparse stream."""
    await shelf.put("rare-1", queue="rare")
    await shelf.put(*(f"w{number}" for number in range(100)))
    await shelf.put("rare-2", queue="rare")
    await shelf.put(*(f"x{number}" for number in range(100)), "w1")
    assert await ids(shelf.client.list(task_queue="rare")) == ["rare-2", "rare-1"]
    assert await shelf.client.count(task_queue="rare") == 2
    assert await shelf.client.count(task_queue="rare", status="running") == 2
    first = await shelf.client.list_page(task_queue="rare", limit=1)
    second = await shelf.client.list_page(task_queue="rare", limit=1, cursor=first.cursor)
    assert [record.workflow_id for record in (*first.workflows, *second.workflows)] == ["rare-2", "rare-1"]
