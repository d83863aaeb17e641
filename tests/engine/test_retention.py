"""What is kept of a workflow that has ended, for how long, and that nothing is left after that."""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import Client, Worker, WorkflowAlreadyStartedError, WorkflowNotFoundError, activity, condition, execute_child, sleep, workflow
from jetflow.broker.stores.timeline import MAX_COMPACTED, Entry, OwnedTimeline, Timeline
from jetflow.broker.transport.server import LocalServer
from jetflow.core import events as ev
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.upkeep import janitor, removal
from jetflow.engine.upkeep.compaction import Closed, Compaction
from jetflow.errors import BrokerError
from jetflow.protocol.headers import header_block
from tests.engine.helpers import WAIT, commands, until, waits_for

MANY = int(os.environ.get("JETFLOW_TEST_EXPIRING", "2000"))
"""Closed workflows that are to leave nothing: 10,000 by hand."""


@activity
async def echo(value: Any) -> Any:
    return value


@workflow
async def one_step(value: Any) -> Any:
    return await echo(value)


@workflow
async def fails(value: Any) -> None:
    raise ValueError(value)


@workflow
async def rests(value: Any) -> Any:
    """Comes to rest before it ends, so that its history has to be read back."""
    await echo(value)
    return [value, await condition("go", timeout="1h")]


@workflow
async def long(steps: int, size: int) -> int:
    for _ in range(steps):
        await echo("x" * size)
    return steps


@workflow
async def parent(value: Any) -> Any:
    return await execute_child(one_step, value)


@workflow
async def sleeper(duration: str) -> str:
    await sleep(duration)
    return "slept"


SERVED: dict[str, Any] = {"workflows": [one_step, fails, rests, long, parent, sleeper], "activities": [echo]}


@pytest.fixture
async def own(server: LocalServer) -> AsyncIterator[Client]:
    """A client of a namespace of the test's own, whose streams nobody else uses."""
    async with Client.connect(server.url, namespace=f"t{uuid.uuid4().hex[:12]}") as client:
        yield client


async def entries(client: Client, queue: str, workflow_id: str) -> list[Entry]:
    """The timeline keys that there are, whatever run they are of."""
    names, lane = client.broker.names, client.broker.lane
    timeline = Timeline(lane, names)
    found = await lane.read_many(names.timeline_stream, {"multi_last": [timeline.key(queue, workflow_id, "*")]}, may_lag="a test looks")
    keys = [Entry(int(m.subject.rpartition(".")[2]), ev.decode_commit(m.data), m.seq) for m in found if m.data]
    return sorted(keys, key=lambda entry: entry.seq)


async def one_entry(client: Client, queue: str, workflow_id: str) -> Entry:
    """The one key of a run, once it is one."""

    async def is_one() -> list[Entry] | None:
        found = await entries(client, queue, workflow_id)
        return found if len(found) == 1 else None

    return (await until(is_one))[0]


async def gone(client: Client, queue: str, workflow_id: str) -> None:
    """Returns once neither timeline nor state, nor a marker of it, is left."""

    async def nothing() -> bool:
        return not await entries(client, queue, workflow_id) and await client.states.newest(queue, workflow_id) is None

    await until(nothing)


async def counts(client: Client) -> dict[str, int]:
    """Messages in each stream of the namespace that come from workflows: all but for heartbeats, and what there is of tenures."""
    names, found = client.broker.names, dict[str, int]()
    for stream in (names.inbox_stream, names.timeline_stream, names.state_stream, names.signal_stream, names.dead_stream):
        state = (await client.broker.lane.api(f"STREAM.INFO.{stream}"))["state"]
        found[stream] = state["messages"] - len(await _subjects(client, f"{names.tenure_prefix}>", stream))
    found[names.timeline_stream] -= await guards(client)
    return found


async def guards(client: Client) -> int:
    """Workflows whose start an earlier owner may have had: what keeps that one from beginning them goes by itself."""
    names = client.broker.names
    found = await _subjects(client, f"{names.guard_prefix}>")
    for subject in found:
        guard = await client.broker.lane.last_message(names.timeline_stream, subject)
        assert guard is not None
        assert guard.headers["Nats-TTL"] == "86400s"
    return len(found)


def tenure_of(worker: Worker) -> Tenure:
    """What a worker owns just now."""
    assert worker._engine.tenure is not None
    return worker._engine.tenure


def kinds(entry: Entry) -> list[str]:
    return [type(event).__name__ for event in entry.commit.events]


# ---- how long


async def test_a_record_is_kept_as_long_as_the_start_says(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        short = await client.start(one_step, 1, workflow_id="short", task_queue=queue, expire="1s")
        usual = await client.start(one_step, 2, workflow_id="usual", task_queue=queue)
        ever = await client.start(one_step, 3, workflow_id="ever", task_queue=queue, expire=None)
        assert [await handle.result(timeout=WAIT) for handle in (short, usual, ever)] == [1, 2, 3]
        await gone(client, queue, "short")
        with pytest.raises(WorkflowNotFoundError):
            await short.status()
        kept = [await client.states.newest(queue, name) for name in ("usual", "ever")]
        assert [record.headers.get("Nats-TTL") if record else "gone" for record in kept] == [f"{7 * 86400}s", None]
        assert [len(await entries(client, queue, name)) for name in ("usual", "ever")] == [1, 1]


async def test_the_workers_default_is_used_when_the_start_says_nothing(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, default_expire="1s", **SERVED):
        handle = await client.start(one_step, 1, workflow_id="usual", task_queue=queue)
        ever = await client.start(one_step, 2, workflow_id="ever", task_queue=queue, expire=None)
        assert [await handle.result(timeout=WAIT), await ever.result(timeout=WAIT)] == [1, 2]
        await gone(client, queue, "usual")
        assert await ever.status() == 0


async def test_a_default_of_for_ever(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, default_expire=None, **SERVED):
        assert await client.execute(one_step, 1, workflow_id="ever", task_queue=queue) == 1
        record = await client.states.newest(queue, "ever")
        assert record is not None
        assert "Nats-TTL" not in record.headers


async def test_failed_terminated_and_child_workflows_go_too(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        failed = await client.start(fails, "no", workflow_id="failed", task_queue=queue, expire="1s")
        stopped = await client.start(rests, 1, workflow_id="stopped", task_queue=queue, expire=None)
        family = await client.start(parent, 1, workflow_id="family", task_queue=queue, expire="1s")
        await waits_for(stopped, "go")
        await stopped.terminate(expire="1s")
        await stopped.result(throw_on_error=False, timeout=WAIT)
        await failed.result(throw_on_error=False, timeout=WAIT)
        assert await family.result(timeout=WAIT) == 1
        for name in ("failed", "stopped", "family"):
            await gone(client, queue, name)
        names = client.broker.names

        async def no_child() -> bool:
            return not await _subjects(client, f"{names.timeline_prefix}{queue}.>")

        await until(no_child)


async def _subjects(client: Client, subject_filter: str, stream: str | None = None) -> list[str]:
    """Subjects of a stream, of the timelines' if none is given."""
    stream = stream or client.broker.names.timeline_stream
    info = await client.broker.lane.api(f"STREAM.INFO.{stream}", {"subjects_filter": subject_filter})
    return list(info["state"].get("subjects") or {})


async def test_ever_so_many_leave_nothing_behind(own: Client, queue: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Started, signalled, ended and expired: every stream is as empty as before."""
    before = await counts(own)
    places = asyncio.Semaphore(200)

    async def one(n: int) -> None:
        async with places:
            if n % 10:
                assert await own.execute(one_step, n, workflow_id=f"w{n}", task_queue=queue, expire="1s") == n
            else:
                handle = await own.start(rests, n, workflow_id=f"w{n}", task_queue=queue, expire="1s")
                await handle.signal("unused", n, expire="1h")
                await handle.signal("go", n)
                assert await handle.result(timeout="120s") == [n, n]

    async with Worker(own, task_queue=queue, **SERVED) as worker:
        await until(lambda: worker.partitions)
        kept = await own.start(rests, "kept", workflow_id="kept", task_queue=queue, expire=None)
        await asyncio.gather(*(one(n) for n in range(MANY)))
        closed = await counts(own)
        await kept.signal("go", 1)
        await kept.result(timeout=WAIT)
        await one_entry(own, queue, "kept")

        async def only_one_left() -> dict[str, int] | None:
            now = await counts(own)
            return now if sum(now.values()) == 2 else None

        after = await until(only_one_left, 300)
    with capsys.disabled():
        print(f"\n{MANY} workflows: before {before}\n  when the last had ended {closed}\n  after they expired {after} (one is kept for ever)")
    names = own.broker.names
    assert after == {**before, names.timeline_stream: 1, names.state_stream: 1}
    assert await guards(own) == 0, "no earlier owner can have had any of the starts"
    of_tenures = {stream: len(await _subjects(own, f"{names.tenure_prefix}>", stream)) for stream in names.owned_streams.values()}
    left = {names.state_stream: 1, names.timeline_stream: 1}
    assert of_tenures == {stream: left.get(stream, 0) for stream in of_tenures}, (
        "only the janitor's place, and which inbox it is, since the worker has left"
    )


# ---- compaction


async def test_a_run_that_has_ended_is_one_key_with_its_whole_history(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(one_step, "v", workflow_id="id", task_queue=queue) == "v"
        entry = await one_entry(client, queue, "id")
    assert kinds(entry) == ["Started", "ActivityScheduled", "ActivityCompleted", "Completed"]
    assert (entry.seq, entry.commit.compacted) == (1, 2)
    assert [type(event).__name__ for event in entry.commit.decision] == ["ActivityCompleted", "Completed"]


async def test_a_run_that_rested_is_read_back_and_made_one_key(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(rests, "v", workflow_id="id", task_queue=queue)
        await waits_for(handle, "go")
        await until(lambda: _no_commands(client, queue))
        await handle.signal("go", "now")
        assert await handle.result(timeout=WAIT) == ["v", "now"]
        entry = await one_entry(client, queue, "id")
    assert kinds(entry) == ["Started", "ActivityScheduled", "ActivityCompleted", "WaitStarted", "Signaled", "Completed"]
    assert entry.seq == 3


async def _no_commands(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


async def test_a_history_too_long_for_one_key_is_left_as_it_is_until_it_expires(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tidied = asyncio.Event()
    emptied = Compaction.emptied

    async def noticed(self: Compaction, seconds: float) -> None:
        await emptied(self, seconds)
        tidied.set()

    monkeypatch.setattr(Compaction, "emptied", noticed)
    async with Worker(client, task_queue=queue, **SERVED):
        kept = await client.start(long, 40, MAX_COMPACTED // 40, workflow_id="kept", task_queue=queue)
        handle = await client.start(long, 40, MAX_COMPACTED // 40, workflow_id="id", task_queue=queue, expire="1s")
        assert [await kept.result(timeout=WAIT), await handle.result(timeout=WAIT)] == [40, 40]
        await gone(client, queue, "id")
    assert tidied.is_set()
    found = await entries(client, queue, "kept")
    assert [entry.seq for entry in found] == list(range(1, 42))
    assert not any(entry.commit.compacted for entry in found)
    timeline = Timeline(client.broker.lane, client.broker.names)
    last = await timeline.last(queue, "kept")
    assert last is not None
    assert len(await timeline.run(queue, "kept", last)) == 41


async def test_compacting_again_changes_nothing_and_an_open_run_is_never_compacted(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED) as worker:
        handle = await client.start(rests, "v", workflow_id="open", task_queue=queue)
        await client.execute(one_step, "v", workflow_id="id", task_queue=queue)
        await waits_for(handle, "go")
        entry, open_ = await one_entry(client, queue, "id"), await entries(client, queue, "open")
        work = tenure_of(worker).compaction
        for name, found in (("id", [entry]), ("open", open_)):
            for seq in (1, found[-1].seq, 9):
                work.add(Closed(name, seq))
        await work.emptied(30)
        assert await entries(client, queue, "id") == [entry]
        assert await entries(client, queue, "open") == open_


async def test_a_reader_whom_compaction_overtakes_gets_the_whole_history(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had seen the last key before it was written anew, and finds that the others are gone."""
    timeline = Timeline(client.broker.lane, client.broker.names)
    seen: list[Entry] = []
    append = OwnedTimeline.append

    async def looked_at_first(self: OwnedTimeline, queue_token: str, id_token: str, seq: int, body: bytes) -> int:
        if ev.decode_commit(body).compacted:
            last = await self.last(queue_token, id_token)
            assert last is not None
            seen.append(last)
        return await append(self, queue_token, id_token, seq, body)

    monkeypatch.setattr(OwnedTimeline, "append", looked_at_first)
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(rests, "v", workflow_id="id", task_queue=queue)
        await until(lambda: _at_rest(client, queue))
        await handle.signal("go")
        await handle.result(timeout=WAIT)
        entry = await one_entry(client, queue, "id")
    assert seen
    assert not seen[0].commit.compacted
    assert [found.commit for found in await timeline.run(queue, "id", seen[0])] == [entry.commit]


async def _at_rest(client: Client, queue: str) -> bool:
    record = await client.states.get(queue, "id")
    return record is not None and not await commands(client, queue)


async def test_a_repeated_command_for_a_compacted_run_changes_nothing(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(one_step, "v", workflow_id="id", task_queue=queue)
        assert await handle.result(timeout=WAIT) == "v"
        entry = await one_entry(client, queue, "id")
        raw, names = client.broker.lane, client.broker.names
        await handle.signal("late", 1)
        await raw.publish(names.command(queue, "id", "cancel"), b"")
        await raw.publish(names.command(queue, "id", "timer.1"), b'{"run": %d, "due": 1}' % entry.commit.run)
        await raw.publish(names.command(queue, "id", "start.one_step"), b'"another"')
        await until(lambda: _no_commands(client, queue))
        assert await entries(client, queue, "id") == [entry]
        assert await handle.result(timeout=WAIT) == "v"


async def test_a_second_start_of_a_compacted_run_is_refused(client: Client, queue: str) -> None:
    """Key 1 is gone; what is left of the run still keeps its id."""
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(one_step, "v", workflow_id="id", task_queue=queue) == "v"
        entry = await one_entry(client, queue, "id")
        with pytest.raises(WorkflowAlreadyStartedError):
            await client.start(one_step, "again", workflow_id="id", task_queue=queue)
    async with Worker(client, task_queue=queue, **SERVED):
        await client.broker.lane.publish(client.broker.names.command(queue, "id", "start.one_step"), b'"by nats pub"')
        await until(lambda: _no_commands(client, queue))
        assert await entries(client, queue, "id") == [entry]
        assert await client.get_handle("id", queue).result(timeout=WAIT) == "v"


async def test_a_child_that_was_compacted_tells_its_parent_again(client: Client, queue: str) -> None:
    """Its start comes again, as after a crash of the parent's owner."""
    async with Worker(client, task_queue=queue, **SERVED) as worker:
        told: list[str] = []
        await until(lambda: worker.partitions)
        outbox = tenure_of(worker).outbox
        notify = outbox.notify

        async def noted(to: ev.Parent, notice: Any) -> None:
            told.append(notice.outcome)
            await notify(to, notice)

        outbox.notify = noted  # type: ignore[method-assign]
        lineage = json.dumps({"workflow_id": "none", "task_queue": queue, "run": 1, "index": 1})
        subject = client.broker.names.command(queue, "child", "start.one_step")
        for times in (1, 2):
            await client.broker.lane.publish(subject, b'"v"', header_block(Jetflow_Parent=lineage))
            await until(lambda times=times: len(told) == times)
            await one_entry(client, queue, "child")
        assert told == ["completed", "completed"]
        assert tenure_of(worker).outbox is outbox


async def _expired(client: Client, queue: str) -> bool:
    newest = await client.states.newest(queue, "id")
    return newest is None or not newest.data


# ---- the id after that


async def test_the_id_is_free_after_the_expiry_and_every_key_of_the_next_run_is_fenced(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        for value in (1, 2, 3):
            assert await client.execute(one_step, value, workflow_id="id", task_queue=queue, expire="1s") == value
            await gone(client, queue, "id")


async def test_an_id_started_between_expiry_and_removal_goes_on_with_its_numbers(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The janitor comes too late for the first run: it takes nothing of the second one with it."""
    let_in = asyncio.Event()
    retire = janitor.retire

    async def late(tenure: Any, ids: Any) -> removal.Left:
        await let_in.wait()
        return await retire(tenure, ids)

    monkeypatch.setattr(janitor, "retire", late)
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(one_step, 1, workflow_id="id", task_queue=queue, expire="1s") == 1
        await until(lambda: _expired(client, queue))
        handle = await client.start(rests, 2, workflow_id="id", task_queue=queue, expire=None)
        await waits_for(handle, "go")
        before = await entries(client, queue, "id")
        assert [entry.seq for entry in before] == [1, 2, 3]
        let_in.set()
        await handle.signal("go", "on")
        assert await handle.result(timeout=WAIT) == [2, "on"]
        entry = await one_entry(client, queue, "id")
        assert (entry.seq, entry.commit.run, kinds(entry)[0]) == (4, int(handle.run_id or 0), "Started")


async def test_a_janitor_that_stood_still_takes_nothing_of_a_newer_run(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had made up its mind, and comes round to the removal only when another run has the id, timers and all."""
    let_in, waiting = asyncio.Event(), asyncio.Event()
    remove = removal._remove

    async def late(*decided: Any) -> None:
        waiting.set()
        await let_in.wait()
        await remove(*decided)

    monkeypatch.setattr(removal, "_remove", late)
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(one_step, 1, workflow_id="id", task_queue=queue, expire="1s") == 1
        await waiting.wait()
        handle = await client.start(rests, 2, workflow_id="id", task_queue=queue, expire=None)
        await waits_for(handle, "go")
        await until(lambda: _no_commands(client, queue))
        let_in.set()
        await until(lambda: _begins_at(client, queue, 2))
        timer = await client.broker.lane.last_message(client.broker.names.inbox_stream, f"{client.broker.names.timer_prefix}{queue}.id.*")
        assert timer is not None, "the newer run's timer is gone"
        assert [entry.seq for entry in await entries(client, queue, "id")] == [2, 3]
    async with Worker(client, task_queue=queue, **SERVED):
        await handle.signal("go", "on")
        assert await handle.result(timeout=WAIT) == [2, "on"]


async def _begins_at(client: Client, queue: str, seq: int) -> bool:
    return (await entries(client, queue, "id"))[0].seq == seq


async def test_signals_and_timers_of_the_run_go_with_it(own: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that its owner had no time to remove."""

    async def no_time(*_: Any) -> None:
        return

    async with Worker(own, task_queue=queue, **SERVED) as worker:
        await until(lambda: worker.partitions)
        monkeypatch.setattr(tenure_of(worker).signals, "remove", no_time)
        monkeypatch.setattr(tenure_of(worker).timers, "cancel", no_time)
        monkeypatch.setattr(tenure_of(worker).timers, "cancel_all", no_time)
        handle = await own.start(rests, 1, workflow_id="id", task_queue=queue, expire="1s")
        await handle.signal("unused", 1, expire="1h")
        await waits_for(handle, "go")
        await until(lambda: _no_commands(own, queue))
        await handle.signal("go")
        await handle.result(timeout=WAIT)
        await until(lambda: _no_commands(own, queue))
        names = own.broker.names
        left = await counts(own)
        assert (left[names.inbox_stream], left[names.signal_stream]) == (1, 1), "a timer and a signal are left"
        monkeypatch.undo()
        await until(lambda: _empty(own))


async def _empty(client: Client) -> bool:
    return not any((await counts(client)).values())


# ---- what the janitor leaves alone, and what it finds later


async def test_a_sleeping_workflow_is_never_removed(own: Client, queue: str) -> None:
    """Not even when its record is deleted by hand, which for one that has ended means that it may go."""
    async with Worker(own, task_queue=queue, default_expire="1s", **SERVED) as worker:
        handle = await own.start(sleeper, "1h", workflow_id="asleep", task_queue=queue)
        ended = await own.start(one_step, 1, workflow_id="ended", task_queue=queue, expire=None)
        await ended.result(timeout=WAIT)
        await until(lambda: _record(own, queue, "asleep"))
        for name in ("asleep", "ended"):
            subject = own.states.subject(queue, name)
            await own.broker.lane.publish(subject, b"", b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n")
        await gone(own, queue, "ended")
        await own.execute(one_step, 1, workflow_id="later", task_queue=queue)
        await gone(own, queue, "later")
        assert await janitor.retire(tenure_of(worker), ["asleep"]) == removal.Left({}, [])
        assert len(await entries(own, queue, "asleep")) == 1
        await handle.cancel()
        await handle.result(throw_on_error=False, timeout=WAIT)


async def _record(client: Client, queue: str, workflow_id: str) -> Any:
    return await client.states.get(queue, workflow_id)


async def test_a_run_whose_command_waits_is_left_to_its_owner(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its timeline the repeated start would be taken for a new one."""
    async with Worker(client, task_queue=queue, **SERVED) as worker:
        acks = []
        await until(lambda: worker.partitions)
        monkeypatch.setattr(tenure_of(worker), "send_ack", acks.append)
        assert await client.execute(one_step, 1, workflow_id="id", task_queue=queue, expire="1s") == 1

        await until(lambda: _expired(client, queue))
        assert acks
        assert await janitor.retire(tenure_of(worker), ["id"]) == removal.Left({}, ["id"])
        assert len(await entries(client, queue, "id")) == 1
        assert len(await commands(client, queue)) == 1
    async with Worker(client, task_queue=queue, **SERVED):
        await until(lambda: _no_commands(client, queue))
        await gone(client, queue, "id")


async def test_what_expired_while_no_worker_was_there_is_found(own: Client, queue: str) -> None:
    async with Worker(own, task_queue=queue, **SERVED):
        for n in range(20):
            await own.execute(one_step, n, workflow_id=f"w{n}", task_queue=queue, expire="1s")

    assert (await counts(own))[own.broker.names.timeline_stream], "the first worker has removed everything itself"

    async def all_expired() -> bool:
        newest = [await own.states.newest(queue, f"w{n}") for n in range(20)]
        return not any(message is not None and message.data for message in newest)

    await until(all_expired)
    async with Worker(own, task_queue=queue, **SERVED):
        await until(lambda: _empty(own))


async def test_what_not_even_a_marker_tells_of_is_found_by_the_sweep(own: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a month without a worker: markers, and what the janitor wrote down of its place, are gone."""
    names, lane = own.broker.names, own.broker.lane
    async with Worker(own, task_queue=queue, **SERVED):
        for n in range(20):
            await own.execute(one_step, n, workflow_id=f"w{n}", task_queue=queue, expire="1h")
        kept = await own.start(rests, 1, workflow_id="open", task_queue=queue)
        await until(lambda: _record(own, queue, "open"))
        await until(lambda: _place(own, queue))
    await lane.api(f"STREAM.PURGE.{names.state_stream}", {"filter": f"{names.state_prefix}{queue}.*"})
    await lane.api(f"STREAM.PURGE.{names.state_stream}", {"filter": f"{names.tenure_prefix}state.janitor.{queue}"})
    assert await _place(own, queue) is None
    await asyncio.sleep(1)
    monkeypatch.setattr(janitor, "MARKER_TTL", 1)
    async with Worker(own, task_queue=queue, **SERVED):
        await kept.signal("go")
        assert await kept.result(timeout=WAIT) == [1, None]

        async def only_the_open_one() -> bool:
            return (await counts(own))[names.timeline_stream] == 1

        await until(only_the_open_one)
    assert len(await entries(own, queue, "open")) == 1


async def _place(client: Client, queue: str) -> Any:
    """Where the janitor has written down that it is."""
    names = client.broker.names
    return await client.broker.lane.last_message(names.state_stream, f"{names.tenure_prefix}state.janitor.{queue}")


async def test_a_janitor_goes_on_where_the_one_before_it_was(own: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at nothing that was looked at before, and misses nothing that came since."""
    monkeypatch.setattr(janitor, "REMEMBER_EVERY", 0)
    retire, looked_at = janitor.retire, list[str]()

    async def noted(tenure: Any, ids: Any) -> removal.Left:
        looked_at.extend(ids)
        return await retire(tenure, ids)

    monkeypatch.setattr(janitor, "retire", noted)
    names = own.broker.names
    async with Worker(own, task_queue=queue, **SERVED):
        await own.execute(one_step, 1, workflow_id="first", task_queue=queue, expire="1s")
        await gone(own, queue, "first")
        expired = looked_at.count("first")
        assert expired >= 1

        async def behind_all() -> bool:
            place, info = await _place(own, queue), await own.broker.lane.api(f"STREAM.INFO.{names.state_stream}")
            return place is not None and int(place.data) >= info["state"]["last_seq"] - 1 and place.headers["Nats-TTL"] == f"{30 * 86400}s"

        await own.execute(one_step, 2, workflow_id="second", task_queue=queue, expire="4s")
    looked_at.clear()

    async def all_expired() -> bool:
        newest = await own.states.newest(queue, "second")
        return newest is not None and not newest.data

    await until(all_expired)
    monkeypatch.setattr(janitor.Janitor, "_sweep", None)  # it has no need to look at all that there is
    async with Worker(own, task_queue=queue, **SERVED):
        await gone(own, queue, "second")
        await until(behind_all)
    assert set(looked_at) == {"second"}


async def test_the_janitor_goes_on_after_the_broker_refused_something(own: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "TROUBLE", 0)
    refused = []
    remove = removal._remove

    async def once(*decided: Any) -> None:
        if not refused:
            refused.append(decided)
            raise BrokerError("not now")
        await remove(*decided)

    monkeypatch.setattr(removal, "_remove", once)
    async with Worker(own, task_queue=queue, **SERVED):
        await own.execute(one_step, 1, workflow_id="id", task_queue=queue, expire="1s")
        await until(lambda: refused)
        await until(lambda: _empty(own))
