"""What the design rests on, one test for each invariant; and each again with the invariant broken on purpose, where it must fail.

``holds`` is the property. With ``broken`` the engine is changed so that it should not hold, which shows that the test can fail.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

import jetflow
from jetflow import Client, Worker, activity, condition, execute_child, sleep, workflow
from jetflow.broker.stores.signals import EarlySignal
from jetflow.broker.stores.state import StateStore
from jetflow.broker.stores.timeline import OwnedTimeline, Timeline, to_entry
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.pull import PullConsumer
from jetflow.broker.transport.server import LocalServer
from jetflow.engine.ownership.outbox import Outbox
from jetflow.engine.signals.buffer import SignalBuffer
from jetflow.engine.turn import applying, resting, starting
from jetflow.engine.turn.actor import Actor
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError
from jetflow.protocol.commands import ChildNotice
from jetflow.protocol.headers import header_block
from jetflow.reading.notices import Watches

broken_too = pytest.mark.parametrize("broken", [False, True], ids=["holds", "broken on purpose"])
RAN: list[str] = []
GATES: dict[str, asyncio.Event] = {}


@activity
async def gated(name: str) -> str:
    """Runs until its test opens its gate."""
    RAN.append(name)
    await GATES.setdefault(name, asyncio.Event()).wait()
    return name


@activity
async def ran(name: str) -> str:
    RAN.append(name)
    return name


@workflow
async def one_gate(name: str) -> str:
    return await gated(name)


@workflow
async def one_step(name: str) -> str:
    return await ran(name)


@workflow
async def two_signals() -> list[Any]:
    first = await condition("s")
    await ran("between")
    return [first, await condition("s", timeout="3s")]


@workflow
async def collect(count: int) -> list[int]:
    return [await condition("n") for _ in range(count)]


@workflow
async def parent(name: str) -> str:
    return await execute_child(one_step, name, workflow_id=f"child-{name}")


@workflow
async def clock() -> list[float]:
    first = jetflow.now().timestamp()
    chance = jetflow.random()
    await sleep("1100ms")
    await condition("go")
    return [first, chance]


@workflow
async def poisoned() -> None:
    await condition("poison")


SERVED = {"workflows": [one_gate, one_step, two_signals, collect, parent, clock, poisoned], "activities": [gated, ran]}


class Own:
    """A worker with a connection of its own, which can die."""

    def __init__(self, client: Client, worker: Worker) -> None:
        self.client = client
        self.worker = worker

    async def crash(self) -> None:
        """As ``kill -9`` would: nothing is finished, acked or handed over."""
        assert self.worker._supervisor is not None
        await self.worker._supervisor.stop()
        if self.worker._engine.tenure is not None:
            self.worker._engine.tenure._consumer.close()
        self.worker._heart._stop.set()
        self.worker._heart._nudge()
        await self.client.close()
        await self.worker._engine.stop()
        self.worker._stopped = asyncio.ensure_future(asyncio.sleep(0))


@asynccontextmanager
async def own_worker(server: LocalServer, queue: str, **options: Any) -> AsyncIterator[Own]:
    async with Client.connect(server.url) as client, Worker(client, task_queue=queue, **{**SERVED, **options}) as worker:
        yield Own(client, worker)


async def until(true: Callable[[], Any], seconds: float = 5) -> None:
    """Waits for something to become true."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def holds(property_: Awaitable[Any], broken: bool) -> None:
    """Awaits the property; with ``broken`` it must fail."""
    if broken:
        with pytest.raises((AssertionError, TimeoutError, jetflow.JetflowError)):
            await property_
    else:
        await property_


async def waiting_commands(client: Client, queue: str, workflow_id: str) -> int:
    found = await client.broker.lane.read_many(
        client.broker.names.inbox_stream, {"seq": 1, "next_by_subj": f"jetflow.*.{queue}.{workflow_id}.>", "batch": 100}, may_lag="a test looks"
    )
    return len(found)


def in_memory(own: Own, workflow_id: str) -> Actor | None:
    """The workflow as the worker has it."""
    actors = own.worker._engine.actors
    return None if actors is None else next((actor for actor in actors if actor.workflow_id == workflow_id), None)


def waits_again(own: Own, workflow_id: str) -> bool:
    """Whether ``two_signals`` stands at its second wait, the way there committed."""
    actor = in_memory(own, workflow_id)
    machine = actor.machine if actor is not None else None
    return machine is not None and 3 in machine.pending and not machine.decided and not actor.running  # type: ignore[union-attr]


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex[:8]


@broken_too
async def test_1_work_in_flight_has_an_unacked_command(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken:

        async def ack_all(actor: Actor, _machine: Any) -> None:
            actor.mailbox.release()

        monkeypatch.setattr(resting, "_rest_busy", ack_all)

    async def property_() -> None:
        async with own_worker(server, queue) as first:
            handle = await client.start(one_gate, name, workflow_id=name, task_queue=queue)
            await until(lambda: name in RAN)
            actor = in_memory(first, name)
            assert actor is not None
            await until(lambda: not actor.mailbox.waiting and not actor.running and actor.machine is not None)
            await first.worker.client.broker.lane.api("INFO")  # the server has read what was written before
            await first.crash()
        assert await waiting_commands(client, queue, name) >= 1
        GATES[name].set()
        async with own_worker(server, queue):
            assert await handle.result(timeout="10s") == name

    await holds(property_(), broken)


@broken_too
async def test_2_a_command_lost_on_the_way_comes_again(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = 0
    deliver = PullConsumer._on_message

    def lose_one(self: PullConsumer, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        nonlocal lost
        if reply and not lost and queue.encode() in subject:
            lost += 1
            if broken:
                self._expected += 1
            return
        deliver(self, subject, reply, data, headers)

    monkeypatch.setattr(PullConsumer, "_on_message", lose_one)

    async def property_() -> None:
        async with own_worker(server, queue):
            first = await client.start(one_step, name, workflow_id=name, task_queue=queue)
            await until(lambda: lost)
            await client.execute(one_step, "other", task_queue=queue)
            assert await first.result(timeout="3s") == name

    await holds(property_(), broken)


@broken_too
async def test_3_a_stale_read_is_not_believed(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch read comes from a server that lags: it lacks the newest keys."""
    stale = 0
    read_many = Lane.read_many

    async def lag(self: Lane, stream: str, request: dict[str, Any], *, may_lag: str) -> Any:
        nonlocal stale
        found = await read_many(self, stream, request, may_lag=may_lag)
        if "timeline" in stream and found and stale < 2:
            stale += 1
            return found[:-1] or found
        return found

    if broken:

        async def believe(self: Timeline, queue_token: str, id_token: str, last: Any) -> Any:
            keys = {"multi_last": [self.key(queue_token, id_token, "*")]}
            found = await self._lane.read_many(self._names.timeline_stream, keys, may_lag="a test looks")
            return sorted(map(to_entry, found), key=lambda entry: entry.seq)

        monkeypatch.setattr(Timeline, "run", believe)

    async def property_() -> None:
        handle = await client.start(two_signals, workflow_id=name, task_queue=queue)
        async with own_worker(server, queue) as first:
            await handle.signal("s", 1)
            await until(lambda: waits_again(first, name))
            await first.crash()
        before = RAN.count("between")
        monkeypatch.setattr(Lane, "read_many", lag)
        async with own_worker(server, queue):
            assert await handle.result(timeout="10s") == [1, False]
        assert stale, "nothing was read"
        assert RAN.count("between") == before, "a recorded step ran again"

    await holds(property_(), broken)


@broken_too
async def test_4_a_start_needs_no_read_and_a_repeated_one_changes_nothing(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    last = Timeline.last

    async def counted(self: Timeline, queue_token: str, id_token: str) -> Any:
        reads.append(id_token)
        return await last(self, queue_token, id_token)

    monkeypatch.setattr(Timeline, "last", counted)
    if broken:

        async def overwrite(self: OwnedTimeline, queue_token: str, id_token: str, body: bytes) -> int:
            return (await self._owned.publish(self.key(queue_token, id_token, 1), body)).seq

        monkeypatch.setattr(OwnedTimeline, "begin", overwrite)

    async def property_() -> None:
        async with own_worker(server, queue) as own:
            await until(lambda: own.worker.partitions)  # else an earlier owner may have had it
            assert await client.execute(one_step, name, workflow_id=name, task_queue=queue) == name
            assert name not in reads, "a start read before it wrote"
            subject = client.broker.names.command(queue, name, "start.one_step")
            await client.broker.lane.publish(subject, b'"again"')
            await until(lambda: name in reads or "again" in RAN)
            assert "again" not in RAN
            assert await client.get_handle(name, queue).result() == name

    RAN[:] = [item for item in RAN if item != "again"]
    await holds(property_(), broken)


@broken_too
async def test_5_a_repeated_notice_of_a_child_is_recognised(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that sends its child's start again gets no second child, and no refusal."""
    if broken:
        monkeypatch.setattr(starting, "_is_same_child", lambda _actor, _start: False)
    start_child = Outbox.start_child

    async def twice(self: Outbox, parent: Any, child: Any, *, check_first: bool) -> None:
        await start_child(self, parent, child, check_first=check_first)
        await start_child(self, parent, child, check_first=check_first)

    monkeypatch.setattr(Outbox, "start_child", twice)

    async def property_() -> None:
        notices: list[str] = []
        notify = Outbox.notify

        async def noted(self: Outbox, parent: Any, notice: ChildNotice) -> None:
            notices.append(notice.outcome)
            await notify(self, parent, notice)

        monkeypatch.setattr(Outbox, "notify", noted)
        async with own_worker(server, queue):
            assert await client.execute(parent, name, workflow_id=name, task_queue=queue, timeout="10s") == name
            async with asyncio.timeout(5):
                while await waiting_commands(client, queue, f"child-{name}"):
                    await asyncio.sleep(0.01)
        assert RAN.count(name) == 1
        assert "rejected" not in notices

    await holds(property_(), broken)


@broken_too
async def test_6_a_buffered_signal_that_was_consumed_is_dropped(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zombie of a version that was not fenced stores a signal that its successor has delivered already."""
    if broken:
        load = SignalBuffer.load

        async def trust(self: SignalBuffer, _consumed: dict[str, int]) -> Any:
            return await load(self, {})

        monkeypatch.setattr(SignalBuffer, "load", trust)

    async def property_() -> None:
        handle = await client.start(two_signals, workflow_id=name, task_queue=queue)
        async with own_worker(server, queue) as first:
            await handle.signal("s", "once")
            await until(lambda: waits_again(first, name))
            seq = in_memory(first, name).machine.consumed["s"]  # type: ignore[union-attr]
            await first.crash()
        signal = EarlySignal("s", seq, time.time_ns() // 1_000_000 + 60_000, jetflow.core.values.encode("once"))
        subject = f"{client.broker.names.signal_prefix}{queue}.{name}.s.{seq}"
        await client.broker.lane.publish(subject, msgspec.json.encode(signal), header_block(Nats_TTL="60s"))
        await handle.signal("other")  # wakes it
        async with own_worker(server, queue):
            assert await handle.result(timeout="10s") == ["once", False]

    await holds(property_(), broken)


@broken_too
async def test_7_commands_apply_in_inbox_order_and_a_poisoned_workflow_stops_nobody(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken:
        receive = Actor.receive

        def overtakes(self: Actor, command: Any) -> None:
            receive(self, command)
            waiting = self.mailbox.waiting
            if len(waiting) > 2:
                waiting.appendleft(waiting.pop())
                waiting.rotate(-1)
                waiting.appendleft(waiting.pop())

        monkeypatch.setattr(Actor, "receive", overtakes)
    apply = applying._apply_command

    async def poison(actor: Actor, command: Any) -> bool:
        if actor.workflow_id == "poisoned":
            raise RuntimeError("poison")
        return await apply(actor, command)

    monkeypatch.setattr(applying, "_apply_command", poison)

    async def property_() -> None:
        handle = await client.start(collect, 50, workflow_id=name, task_queue=queue)
        await client.start(poisoned, workflow_id="poisoned", task_queue=queue)
        for n in range(50):
            await handle.signal("n", n)
        async with own_worker(server, queue):
            assert await handle.result(timeout="10s") == list(range(50))
            parked = None
            async with asyncio.timeout(5):
                while parked is None:
                    record = await client.get_handle("poisoned", queue).describe()
                    parked = record.parked if record is not None else None
            assert "poison" in parked.message

    await holds(property_(), broken)


@broken_too
async def test_8_nothing_is_visible_of_a_commit_that_is_not_known_to_be_written(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit that starts a child fails, or is of unknown outcome, several times before it is there."""
    failures: list[BrokerError] = [ConflictError("not written"), BrokerUnavailableError("perhaps"), BrokerUnavailableError("perhaps")]
    early: list[str] = []
    written = False

    def unsure(write: Any) -> Any:
        async def perhaps(self: OwnedTimeline, queue_token: str, id_token: str, *what: Any) -> int:
            nonlocal written
            if id_token == name and failures:
                problem = failures.pop()
                if not failures:
                    await write(self, queue_token, id_token, *what)
                    written = True
                if broken:
                    return 1
                if isinstance(problem, BrokerUnavailableError):
                    self._owned.lose(str(problem))
                raise problem
            return await write(self, queue_token, id_token, *what)

        return perhaps

    start_child = Outbox.start_child

    async def watched(self: Outbox, parent: Any, child: Any, *, check_first: bool) -> None:
        if not written:
            early.append(child.workflow_id)
        await start_child(self, parent, child, check_first=check_first)

    monkeypatch.setattr(OwnedTimeline, "begin", unsure(OwnedTimeline.begin))
    monkeypatch.setattr(OwnedTimeline, "append", unsure(OwnedTimeline.append))
    monkeypatch.setattr(Outbox, "start_child", watched)

    async def property_() -> None:
        async with own_worker(server, queue):
            assert await client.execute(parent, name, workflow_id=name, task_queue=queue, timeout="10s") == name
        assert not early, "an effect before its commit"
        assert RAN.count(name) == 1

    await holds(property_(), broken)


@broken_too
async def test_9_a_client_hears_only_what_it_waits_for_and_asks_again_when_a_notice_is_lost(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def lost(_self: Watches, subject: str, _data: bytes) -> None:
        heard.append(subject)

    monkeypatch.setattr(Watches, "_on_change", lost)
    if broken:
        monkeypatch.setattr("jetflow.reading.notices.ASK_AGAIN", (3600.0,))

    async def property_() -> None:
        async with own_worker(server, queue):
            handle = await client.start(one_gate, name, workflow_id=name, task_queue=queue)
            await until(lambda: name in RAN)
            waiting = asyncio.ensure_future(handle.result(timeout="3s"))
            await client.execute(one_step, "noise", task_queue=queue, timeout="3s") if not broken else None
            GATES[name].set()
            assert await waiting == name
        assert any(subject.endswith(name) for subject in heard)
        assert all(name in subject or "noise" not in subject for subject in heard)
        assert not client.lookups.watches._watches, "a subscription was left behind"

    await holds(property_(), broken)


@broken_too
async def test_10_time_and_chance_come_from_the_timeline(
    broken: bool, server: LocalServer, client: Client, queue: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken:
        from datetime import UTC, datetime

        monkeypatch.setattr(jetflow, "now", lambda: datetime.now(UTC))

    async def property_() -> None:
        handle = await client.start(clock, workflow_id=name, task_queue=queue)
        async with own_worker(server, queue) as first:
            states = StateStore(client.broker.lane, client.broker.names)

            async def waits_for_go() -> bool:
                record = await states.get(queue, name)
                return record is not None and any(waiting.name == "go" for waiting in record.waiting)

            async with asyncio.timeout(10):
                while not await waits_for_go():
                    await asyncio.sleep(0.02)
            started = (await handle.describe()).started_at  # type: ignore[union-attr]
            await first.crash()
        await handle.signal("go")
        async with own_worker(server, queue):
            at, chance = await handle.result(timeout="10s")
        assert at == started / 1000
        assert 0 <= chance < 1

    await holds(property_(), broken)
