"""Temporal. A step is an activity, or a local activity with ``options["local"]``; starts and activities are dispatched eagerly where they can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from bench.peers.riders.rider import HOUR, STEPS_AT_ONCE, Payload, Rider, Waits, number_of, payload, step_of
from bench.peers.spec import Spec

QUEUE = "peers"
RETENTION = Duration(seconds=86_400)
LOOKED_AT = 16
"""Of the workflows started last, how many are asked whether they still have work."""
waits = Waits()
settings = {"local": False}


@activity.defn
async def step(given: Payload) -> Payload:
    return step_of(given)


async def _step(given: Payload) -> Payload:
    run = workflow.execute_local_activity if settings["local"] else workflow.execute_activity
    return await run(step, given, start_to_close_timeout=timedelta(seconds=60))


async def _gathered(width: int) -> list[Payload]:
    return await asyncio.gather(*(_step(payload(number)) for number in range(width)))


@workflow.defn(name="one_step")
class OneStep:
    @workflow.run
    async def run(self, given: Payload) -> Payload:
        return await _step(given)


@workflow.defn(name="chain")
class Chain:
    @workflow.run
    async def run(self, given: Payload) -> Payload:
        found = payload(0)
        for _ in range(number_of(given)):
            found = await _step(found)
        return found


@workflow.defn(name="fan_out")
class FanOut:
    @workflow.run
    async def run(self, given: Payload) -> Payload:
        return payload(sum(map(number_of, await _gathered(number_of(given)))))


class Signalled:
    def __init__(self) -> None:
        self.value: Payload | None = None

    async def wait(self) -> Payload:
        waits.begun += 1
        await workflow.wait_condition(lambda: self.value is not None)
        waits.ended += 1
        return self.value or {}


@workflow.defn(name="wait")
class Wait(Signalled):
    @workflow.run
    async def run(self, given: Payload) -> Payload:
        return await self.wait()

    @workflow.signal
    def go(self, given: Payload) -> None:
        self.value = given


@workflow.defn(name="park")
class Park:
    @workflow.run
    async def run(self, given: Payload) -> Payload:
        waits.begun += 1
        await workflow.sleep(HOUR)
        return given


@workflow.defn(name="history")
class History(Signalled):
    @workflow.run
    async def run(self, given: Payload) -> Payload:
        done = 0
        while done < number_of(given):
            done += len(await _gathered(STEPS_AT_ONCE))
        await self.wait()
        return payload(done)

    @workflow.signal
    def go(self, given: Payload) -> None:
        self.value = given


WORKFLOWS = [OneStep, Chain, FanOut, Wait, Park, History]


class TemporalRider(Rider):
    """Worker with its defaults, but for the sandbox, which no other product has."""

    def __init__(self) -> None:
        self._numbers = count()
        self._prefix = uuid4().hex
        self._latest: list[str] = []

    @asynccontextmanager
    async def riding(self, spec: Spec) -> AsyncIterator[None]:
        settings["local"] = spec.options["local"]
        self._client = await Client.connect(spec.address)
        await _namespace(self._client)
        with ThreadPoolExecutor(4) as threads:
            worker = Worker(
                self._client, task_queue=QUEUE, workflows=WORKFLOWS, activities=[step],
                workflow_runner=UnsandboxedWorkflowRunner(), workflow_task_executor=threads,
            )  # fmt: skip
            async with worker:
                yield

    async def execute(self, workflow: str, number: int) -> int:
        name = f"{self._prefix}-{next(self._numbers)}"
        handle = await self._client.start_workflow(workflow, payload(number), id=name, task_queue=QUEUE, request_eager_start=True)
        return number_of(await handle.result())

    async def start(self, workflow: str, number: int, workflow_id: str) -> None:
        await self._client.start_workflow(workflow, payload(number), id=workflow_id, task_queue=QUEUE, request_eager_start=True)
        self._latest = [*self._latest[1 - LOOKED_AT :], workflow_id]

    async def signal(self, workflow_id: str, number: int) -> None:
        await self._client.get_workflow_handle(workflow_id).signal("go", payload(number))

    async def result(self, workflow_id: str) -> int:
        return number_of(await self._client.get_workflow_handle(workflow_id).result())

    async def resting(self) -> int:
        """Those that came to their wait, unless one of the latest still has work that the server waits for."""
        for name in self._latest:
            found = await self._client.get_workflow_handle(name).describe()
            if found.raw_description.HasField("pending_workflow_task"):
                return -1
        return waits.begun - waits.ended


async def _namespace(client: Client) -> None:
    """A fresh server has none: made once, and waited for."""
    wanted = DescribeNamespaceRequest(namespace=client.namespace)
    try:
        await client.workflow_service.describe_namespace(wanted)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        await client.workflow_service.register_namespace(
            RegisterNamespaceRequest(namespace=client.namespace, workflow_execution_retention_period=RETENTION)
        )
    async with asyncio.timeout(60):
        while True:
            try:
                await client.count_workflows()
            except RPCError:
                await asyncio.sleep(0.02)
            else:
                return


def rider() -> Rider:
    return TemporalRider()
