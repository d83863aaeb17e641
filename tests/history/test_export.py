"""The five sections of ``handle.export``."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from jetflow import (
    Client,
    InvalidInputError,
    Worker,
    WorkflowFailedError,
    WorkflowNotFoundError,
    activity,
    condition,
    enrich,
    execute_child,
    sleep,
    workflow,
)
from jetflow.history.raw import RawTimeline, WorkflowExport
from tests.engine.helpers import WAIT, waits_for
from tests.history.timelines import TIMELINES


@activity
async def secretive(word: str) -> str:
    return f"secret {word}"


@workflow
async def kid(word: str) -> str:
    return await secretive(word)


@workflow
async def family() -> str:
    enrich({"colour": "secret red"})
    await secretive("one")
    await execute_child(kid, "secret two", workflow_id="kid")
    await condition("never", timeout="20ms")
    await sleep("10ms")
    await condition("go")
    raise ValueError("secret failure")


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, workflows=[family, kid], activities=[secretive]) as worker:
        yield worker


def plain(export: WorkflowExport) -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(export))  # type: ignore[no-any-return]


async def test_all_sections(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(family, workflow_id="f", task_queue=queue)
    await waits_for(handle, "go")
    running = await handle.export()
    assert running.data == {"colour": "secret red"}
    assert running.status == 1
    assert running.timeline[-1].value["type"] == "wait"  # type: ignore[index]
    assert "updated" not in running.timeline[-1].value  # type: ignore[index]
    await handle.signal("go", {"a": 1})
    with pytest.raises(WorkflowFailedError):
        await handle.result(timeout=WAIT)
    export = await handle.export()
    assert export.status == await handle.status() < 0
    assert export.state == await handle.state(metadata=True)
    assert [(entry.key, entry.index) for entry in export.timeline] == [  # type: ignore[union-attr]
        ("activity-1", 1),
        ("child-2", 2),
        ("wait-3", 3),
        ("timer-4", 4),
        ("wait-5", 5),
    ]
    values = [{name: value for name, value in entry.value.items() if name not in ("created", "updated")} for entry in export.timeline or []]
    assert values == [
        {"type": "activity", "name": "secretive", "input": ["one"], "data": "secret one"},
        {"type": "child", "name": "kid", "workflow_type": "kid", "awaited": True, "input": ["secret two"], "data": "secret secret two"},
        {"type": "wait", "name": "never", "timed_out": True},
        {"type": "timer", "duration_ms": 10},
        {"type": "wait", "name": "go", "data": {"a": 1}},
    ]
    steps = export.transitions or []
    assert [(step.activity, step.dimensions) for step in steps] == [
        ("workflow family", "1"),
        ("activity secretive", "1,1"),
        ("child kid", "1,2"),
        ("wait never", "1,3"),
        ("timer", "1,4"),
        ("wait go", "1,5"),
    ]
    assert all(step.updated is not None and step.created <= step.updated for step in steps)
    assert msgspec.json.decode(msgspec.json.encode(export), type=WorkflowExport) == export


async def test_sections_and_payloads_may_be_left_out(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(family, workflow_id="f", task_queue=queue)
    await handle.signal("go", "secret data")
    with pytest.raises(WorkflowFailedError):
        await handle.result(timeout=WAIT)
    everything = plain(await handle.export())
    assert list(everything) == ["data", "state", "status", "timeline", "transitions"]
    for allow, block, left in (
        (["status"], [], ["status"]),
        (["status", "timeline"], ["timeline"], ["status"]),
        (None, ["state", "data"], ["status", "timeline", "transitions"]),
        ([], [], []),
    ):
        assert plain(await handle.export(allow=allow, block=block)) == {section: everything[section] for section in left}  # type: ignore[arg-type]
    bare = plain(await handle.export(values=False))
    assert "secret" not in str(bare).replace("secretive", "")
    assert bare["data"] == {"colour": {}}
    assert [entry["value"].get("data") for entry in bare["timeline"]] == [{}, {}, None, None, {}]
    assert [entry["key"] for entry in bare["timeline"]] == [entry["key"] for entry in everything["timeline"]]
    for wrong in ({"allow": ["states"]}, {"block": ["x"]}, {"allow": "data"}):
        with pytest.raises(InvalidInputError):
            await handle.export(**wrong)  # type: ignore[arg-type]
    with pytest.raises(WorkflowNotFoundError):
        await client.get_handle("nobody", queue).export()


@pytest.mark.parametrize("name", TIMELINES)
def test_hand_written_timelines(name: str) -> None:
    whole, pieces, bare = RawTimeline(), RawTimeline(), RawTimeline(values=False)
    whole.add(TIMELINES[name])
    bare.add(TIMELINES[name])
    for event in TIMELINES[name]:
        pieces.add([event])
    assert (pieces.entries, pieces.transitions) == (whole.entries, whole.transitions)
    assert [entry.key for entry in bare.entries] == [entry.key for entry in whole.entries]
    assert bare.transitions == whole.transitions
    names = {"input", "data", "error"}
    assert all(entry.value[name] == {} for entry in bare.entries for name in names & set(entry.value))
    assert len({entry.key for entry in whole.entries}) == len(whole.entries)
