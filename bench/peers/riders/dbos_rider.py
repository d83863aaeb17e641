"""DBOS Transact. A step is its ``@DBOS.step``; workflows are coroutines that it starts in this process, with no queue between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from dbos import DBOS, SetWorkflowID
from sqlalchemy import event

from bench.peers.riders.rider import HOUR, STEPS_AT_ONCE, Payload, Rider, number_of, payload, step_of
from bench.peers.spec import Spec

POLL_EVERY = 0.005
"""Seconds: how often a result is looked for that another process left. Results of this process come without."""
RESTING = "SELECT count(*) FROM {schema}operation_outputs o JOIN {schema}workflow_status w USING (workflow_uuid) "
RESTING += "WHERE w.status = 'PENDING' AND o.function_name = 'DBOS.sleep'"
"""A sleep, and a wait for a message too, records first until when."""


@DBOS.step()
async def step(given: Payload) -> Payload:
    return step_of(given)


@DBOS.workflow()
async def one_step(given: Payload) -> Payload:
    return await step(given)


@DBOS.workflow()
async def chain(given: Payload) -> Payload:
    found = payload(0)
    for _ in range(number_of(given)):
        found = await step(found)
    return found


@DBOS.workflow()
async def fan_out(given: Payload) -> Payload:
    found = await asyncio.gather(*(step(payload(number)) for number in range(number_of(given))))
    return payload(sum(map(number_of, found)))


@DBOS.workflow()
async def wait(given: Payload) -> Payload:
    return await DBOS.recv_async("go", HOUR)


@DBOS.workflow()
async def park(given: Payload) -> Payload:
    await DBOS.sleep_async(HOUR)
    return given


@DBOS.workflow()
async def history(given: Payload) -> Payload:
    done = 0
    while done < number_of(given):
        done += len(await asyncio.gather(*(step(payload(number)) for number in range(STEPS_AT_ONCE))))
    await DBOS.recv_async("go", HOUR)
    return payload(done)


WORKFLOWS = {"one_step": one_step, "chain": chain, "fan_out": fan_out, "wait": wait, "park": park, "history": history}


class DbosRider(Rider):
    """The executor is always the same one, so that the next process takes up what this one left."""

    def __init__(self) -> None:
        self._handles = {}

    @asynccontextmanager
    async def riding(self, spec: Spec) -> AsyncIterator[None]:
        self._sqlite = spec.address.startswith("sqlite")
        if self._sqlite:
            event.listen(sa.Engine, "connect", _pragmas(spec.options["pragmas"]))
        config = {"name": "peers", "system_database_url": spec.address, "log_level": "WARNING", "application_version": "1", "executor_id": "peers"}
        DBOS(config={**config, **spec.options["config"]})
        await asyncio.to_thread(DBOS.launch)
        self._engine = sa.create_engine(spec.address)
        try:
            yield
        finally:
            self._engine.dispose()
            await asyncio.to_thread(DBOS.destroy)

    async def execute(self, workflow: str, number: int) -> int:
        handle = await DBOS.start_workflow_async(WORKFLOWS[workflow], payload(number))
        return number_of(await handle.get_result())

    async def start(self, workflow: str, number: int, workflow_id: str) -> None:
        with SetWorkflowID(workflow_id):
            self._handles[workflow_id] = await DBOS.start_workflow_async(WORKFLOWS[workflow], payload(number))

    async def signal(self, workflow_id: str, number: int) -> None:
        await DBOS.send_async(workflow_id, payload(number), "go")

    async def result(self, workflow_id: str) -> int:
        handle = self._handles.get(workflow_id) or await DBOS.retrieve_workflow_async(workflow_id)
        return number_of(await handle.get_result(polling_interval_sec=POLL_EVERY))

    async def resting(self) -> int:
        return await asyncio.to_thread(self._resting)

    def _resting(self) -> int:
        with self._engine.connect() as connection:
            return connection.execute(sa.text(RESTING.format(schema="" if self._sqlite else "dbos."))).scalar_one()


def _pragmas(pragmas: list[str]):  # type: ignore[no-untyped-def]
    def connected(connection, _record):  # type: ignore[no-untyped-def]
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    return connected


def rider() -> Rider:
    return DbosRider()
