"""Each command in each state of a workflow, by the handle and by the real ``nats`` CLI: the outcome is the documented one."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from jetflow import (
    CancelledFailure,
    Client,
    WorkflowAlreadyClosedError,
    WorkflowAlreadyStartedError,
    WorkflowHandle,
    WorkflowNotFoundError,
    activity,
    condition,
    search,
    set_update_handler,
    sleep,
    workflow,
)
from jetflow.errors import WorkflowTerminatedError
from tests.conftest import ROOT
from tests.engine.helpers import WAIT, another_worker, cli, commands, dead_letters, parked, until, waits_for
from tests.engine.test_signals_by_id import stored as by_id

from .commands_table import OUTCOMES, STATES, TABLE, render

GATES: dict[str, asyncio.Event] = {}
DATA = {"from": "outside"}


@activity
async def tick() -> None:
    await asyncio.sleep(0.01)


@activity
async def gated(name: str) -> None:
    await GATES.setdefault(name, asyncio.Event()).wait()


@workflow
async def subject(state: str, gate: str, name: str = "go") -> Any:
    """A workflow that stands where the test wants it; it returns the signal."""
    set_update_handler("put", put)
    if state == "running":
        seen: list[Any] = []

        async def read() -> None:
            seen.append(await condition(name))

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            while not seen:
                await tick()
        return seen[0]
    if state == "sleeping":
        await sleep("1h")
    elif state == "in an activity":
        await gated(gate)
    return await condition(name)


def put(value: Any) -> Any:
    search().set({"put": value})
    return value


@workflow
async def at_once(*_: Any) -> str:
    return "over"


@workflow
async def other() -> None: ...


KNOWING = {"workflows": [subject, at_once, other], "activities": [tick, gated]}


class Scene:
    """A workflow in a state, a way to send a command to it, and what came of it.

    Args:
        client, queue: whose.
        state: where it is to stand.
        name: of the signal that it waits for.
    """

    def __init__(self, client: Client, queue: str, state: str, nats_cli: str, stack: AsyncExitStack, name: str) -> None:
        self.client, self.queue, self.state = client, queue, state
        self.nats_cli, self.stack = nats_cli, stack
        self.handle: WorkflowHandle = client.get_handle("x", queue)
        self.run_id = "0"
        self.name = name
        self.asked: asyncio.Task[Any] | None = None
        self.old = "0"

    async def set_up(self) -> None:
        if self.state == "parked":
            await self.stack.enter_async_context(another_worker(self.client.url, self.queue, workflows=[other]))
        elif self.state != "early":
            await self.worker_comes()
        if self.state == "unknown":
            return
        over = self.state in ("closed", "expired")
        started = await self.client.start(
            at_once if over else subject, *([] if over else [self.state, self.queue, self.name]),
            workflow_id="x", task_queue=self.queue, expire="1s" if self.state == "expired" else "1h",
        )  # fmt: skip
        self.run_id = str(started.run_id)
        if over:
            assert await started.result(timeout=WAIT) == "over"
        if self.state == "expired":
            await until(self._is_gone)
        elif self.state == "parked":
            await parked(started)
        elif self.state not in ("early", "closed"):
            await waits_for(started, {"sleeping": "", "in an activity": "gated"}.get(self.state, self.name))

    async def worker_comes(self) -> None:
        """One that knows the workflow."""
        await self.stack.enter_async_context(another_worker(self.client.url, self.queue, **KNOWING))

    async def _is_gone(self) -> bool:
        return await self.client.states.get(self.queue, "x") is None

    async def send(self, command: str) -> None:
        """Through the handle."""
        if command == "start":
            self.run_id = str((await self.client.start(subject, "waiting", "", workflow_id="x", task_queue=self.queue)).run_id)
        elif command == "start in place of another":
            new = await self.client.start(subject, "waiting", "", workflow_id="x", task_queue=self.queue, if_exists="replace")
            self.old, self.run_id = self.run_id, str(new.run_id)
        elif command == "signal":
            await self.handle.signal("go", DATA)
        elif command == "signal by id":
            await self.client.signal(self.name, DATA)
        elif command == "update":
            self.asked = asyncio.create_task(self.handle.update("put", DATA))
            if self.state not in ("early", "parked"):
                await self.asked
        elif command == "cancel":
            await self.handle.cancel("enough")
        else:
            await self.handle.terminate("enough")

    async def publish(self, command: str) -> None:
        """By ``nats pub``."""
        forged = {"run": int(self.run_id), "due": 1 << 45, "child": "x", "outcome": "completed", "result": 1, "attempt": 1}
        routed = {"run": int(self.run_id), "signal": "go", "number": 1 << 40, "data": 1}
        tail, body = {
            "start": ("start.subject", json.dumps(["waiting", ""])),
            "start in place of another": ("start.subject", json.dumps(["waiting", ""])),
            "signal": ("signal.go", json.dumps(DATA)),
            "signal by id": ("", json.dumps(DATA)),
            "update": ("update.put", json.dumps(DATA)),
            "cancel": ("cancel", '{"reason": "enough"}'),
            "terminate": ("terminate", '"enough"'),
            "unknown command": ("pause", "{}"),
            "malformed body": ("signal.go", "{oops"),
            "forged timer": ("timer.1", json.dumps(forged)),
            "forged child reply": ("child.1", json.dumps(forged)),
            "forged outcome of an activity": ("activity.1", json.dumps(forged)),
            "forged signal by id": ("routed.1", json.dumps(routed)),
        }[command]
        whole = f"jetflow.{self.queue}.x.{tail}" if tail else f"jetflow_signal.{self.name}"
        headers = ["-H", "Jetflow-Replace:1"] if command == "start in place of another" else []
        await cli(self.nats_cli, self.client.url, "pub", "--jetstream", whole, body, *headers)
        self.old = self.run_id

    # ---- what came of it

    async def check(self, outcome: str) -> None:
        """Whether it is the outcome."""
        if self.state == "early" or (self.state == "parked" and outcome != "terminated"):
            if "later" in outcome or outcome == "with a worker":
                assert await commands(self.client, self.queue), "kept in the inbox"
            await self.worker_comes()
        await getattr(self, f"_{outcome.split(' ')[0]}")()

    async def _starts(self) -> None:
        await waits_for(self.handle, "go")
        await self._goes_on()

    async def _replaces(self) -> None:
        async def shown() -> Any:
            record = await self.client.states.get(self.queue, "x")
            return record if record is not None and record.run_id != self.old and record.waiting else None

        self.run_id = (await until(shown)).run_id
        self.state = "waiting"
        await self._goes_on()

    async def _refused(self) -> None:
        await self._untouched()

    async def _taken(self) -> None:
        await self._untouched()

    async def _delivered(self) -> None:
        assert await self.handle.result(timeout=WAIT) == DATA

    async def _with(self) -> None:
        await self._release()
        await self._delivered()

    async def _at(self) -> None:
        await self._release()
        await self._delivered()

    async def _kept(self) -> None:
        if self.state in ("early", "parked", "in an activity"):
            await self._release()
            await self._delivered()
            return

        async def stored() -> bool:
            return await by_id(self.client, self.name) == 1

        await until(stored)
        other = await self.client.start(subject, "waiting", "", self.name, workflow_id="y", task_queue=self.queue)
        assert await other.result(timeout=WAIT) == DATA
        await self._untouched()

    async def _updated(self) -> None:
        async def shown() -> bool:
            return await self.handle.query_state(["put"]) == {"put": DATA}

        if self.asked is not None:
            assert await self.asked == DATA
        await until(shown)
        await self._goes_on()

    async def _buffered(self) -> None:
        await until(self._in_bucket)
        if self.state != "sleeping":
            self.handle = await self.client.start(subject, "waiting", "", workflow_id="x", task_queue=self.queue)
            await self._delivered()

    async def _in_bucket(self) -> bool:
        names = self.client.broker.names
        asked = {"seq": 1, "next_by_subj": f"{names.signal_prefix}{self.queue}.x.go.*", "batch": 10}
        return (
            len([message for message in await self.client.broker.lane.read_many(names.signal_stream, asked, may_lag="a test looks") if message.data])
            == 1
        )

    async def _dropped(self) -> None:
        await self._untouched()
        assert not await self._in_bucket()

    async def _cancelled(self) -> None:
        if self.state in ("unknown", "expired"):
            await until(self._consumed)
            self.handle = await self.client.start(subject, "waiting", "", workflow_id="x", task_queue=self.queue)
        with pytest.raises(CancelledFailure, match="enough"):
            await self.handle.result(timeout=WAIT)

    async def _terminated(self) -> None:
        with pytest.raises(WorkflowTerminatedError, match="enough"):
            await self.handle.result(timeout=WAIT)

    async def _not(self) -> None:
        assert await commands(self.client, self.queue) == []

    async def _already(self) -> None:
        await self._untouched()

    async def _dead(self) -> None:
        letters = await until(lambda: dead_letters(self.client, self.queue))
        assert len(letters) == 1
        assert letters[0].headers["Jetflow-Subject"].startswith(f"jetflow.{self.queue}.x.")
        assert letters[0].headers["Jetflow-Reason"]
        await self._untouched(letters=1)

    async def _ignored(self) -> None:
        await self._untouched()

    async def _consumed(self) -> bool:
        """Only the start of a workflow that is busy may be left."""
        return all(".start." in stored for stored in await commands(self.client, self.queue))

    async def _untouched(self, letters: int = 0) -> None:
        """The run goes on, or stays as it was."""
        await until(self._consumed)
        assert len(await dead_letters(self.client, self.queue)) == letters
        if self.state in ("unknown", "expired"):
            with pytest.raises(WorkflowNotFoundError):
                await self.handle.status()
        elif self.state == "closed":
            record = await self.handle.describe()
            assert record is not None
            assert (record.status, record.run_id) == ("completed", self.run_id)
            assert await self.handle.result() == "over"
        else:
            await self._goes_on()

    async def _goes_on(self) -> None:
        async def shown() -> Any:
            return await self.client.states.get(self.queue, "x")

        record = await until(shown)
        assert (record.run_id, record.status, record.cancel_requested) == (self.run_id, "running", False)
        if self.state == "sleeping":
            assert [waiting.kind for waiting in record.waiting] == ["timer"]
            return
        await self._release()
        await self.handle.signal(self.name, "on")
        assert await self.handle.result(timeout=WAIT) == "on"

    async def _release(self) -> None:
        GATES.setdefault(self.queue, asyncio.Event()).set()


RAISES = {"taken": WorkflowAlreadyStartedError, "not found": WorkflowNotFoundError, "already closed": WorkflowAlreadyClosedError}
CELLS = [(command, state, way) for command, entry in TABLE.items() for state in STATES for way in ("handle", "raw") if way in entry]


@pytest.mark.parametrize(("command", "state", "way"), CELLS, ids=lambda value: str(value).replace(" ", "-"))
async def test_cell(client: Client, queue: str, nats_cli: str, command: str, state: str, way: str) -> None:
    outcome = TABLE[command][way][state]  # type: ignore[index]
    async with AsyncExitStack() as stack:
        scene = Scene(client, queue, state, nats_cli, stack, queue if command == "signal by id" else "go")
        await scene.set_up()
        if way == "raw":
            await scene.publish(command)
            if outcome == "starts":
                record = await until(lambda: client.states.get(queue, "x"))
                scene.run_id = record.run_id
        elif outcome in RAISES:
            with pytest.raises(RAISES[outcome]):
                await scene.send(command)
        else:
            await scene.send(command)
        await scene.check(outcome)


def test_the_page_is_the_table() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == render()


def test_every_outcome_happens() -> None:
    used = {outcome for entry in TABLE.values() for way in ("handle", "raw") for outcome in entry.get(way, {}).values()}  # type: ignore[union-attr]
    assert used == set(OUTCOMES)
    assert all(set(entry[way]) == set(STATES) for entry in TABLE.values() for way in ("handle", "raw") if way in entry)
