"""Restate. A step is ``ctx.run_typed``; the endpoint is served by hypercorn in this process, the client is HTTP to the ingress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from uuid import uuid4

import aiohttp
import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config
from restate import Workflow, WorkflowContext, WorkflowSharedContext

from bench.peers.riders.rider import HOUR, STEPS_AT_ONCE, Payload, Rider, number_of, payload, step_of
from bench.peers.spec import Spec

RESTING = "SELECT count(*) AS n FROM sys_invocation_status s WHERE s.status = 'suspended'"
one_step, chain, fan_out, wait, park, history = (Workflow(name) for name in ("one_step", "chain", "fan_out", "wait", "park", "history"))
WORKFLOWS = [one_step, chain, fan_out, wait, park, history]


async def step(given: Payload) -> Payload:
    return step_of(given)


async def _gathered(ctx: WorkflowContext, width: int) -> list[Payload]:
    runs = [ctx.run_typed("step", step, given=payload(number)) for number in range(width)]
    await restate.gather(*runs)
    return [await run for run in runs]


@one_step.main("run")
async def run_one_step(ctx: WorkflowContext, given: Payload) -> Payload:
    return await ctx.run_typed("step", step, given=given)


@chain.main("run")
async def run_chain(ctx: WorkflowContext, given: Payload) -> Payload:
    found = payload(0)
    for _ in range(number_of(given)):
        found = await ctx.run_typed("step", step, given=found)
    return found


@fan_out.main("run")
async def run_fan_out(ctx: WorkflowContext, given: Payload) -> Payload:
    return payload(sum(map(number_of, await _gathered(ctx, number_of(given)))))


@wait.main("run")
async def run_wait(ctx: WorkflowContext, given: Payload) -> Payload:
    return await ctx.promise("go", type_hint=dict).value()


@park.main("run")
async def run_park(ctx: WorkflowContext, given: Payload) -> Payload:
    await ctx.sleep(timedelta(seconds=HOUR))
    return given


@history.main("run")
async def run_history(ctx: WorkflowContext, given: Payload) -> Payload:
    done = 0
    while done < number_of(given):
        done += len(await _gathered(ctx, STEPS_AT_ONCE))
    await ctx.promise("go", type_hint=dict).value()
    return payload(done)


@wait.handler("go")
async def go_on(ctx: WorkflowSharedContext, given: Payload) -> None:
    await ctx.promise("go", type_hint=dict).resolve(given)


@history.handler("go")
async def go_on_with_history(ctx: WorkflowSharedContext, given: Payload) -> None:
    await ctx.promise("go", type_hint=dict).resolve(given)


class RestateRider(Rider):
    """The endpoint's port is given, so that the next process is found where this one was."""

    def __init__(self) -> None:
        self._numbers = count()
        self._prefix = uuid4().hex

    @asynccontextmanager
    async def riding(self, spec: Spec) -> AsyncIterator[None]:
        self._ingress, self._admin = spec.address, spec.options["admin"]
        config = Config()
        config.bind = [f"127.0.0.1:{spec.options['endpoint_port']}"]
        config.h2_max_concurrent_streams = 2_147_483_647
        config.keep_alive_max_requests = 2_147_483_647
        config.loglevel = "WARNING"
        ending = asyncio.Event()
        endpoint = asyncio.create_task(serve(restate.app(services=WORKFLOWS), config, shutdown_trigger=ending.wait, mode="asgi"))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(300)) as self._http:
            await _listening(spec.options["endpoint_port"])
            await self._post(f"{self._admin}/deployments", {"uri": f"http://127.0.0.1:{spec.options['endpoint_port']}", "force": True})
            try:
                yield
            finally:
                ending.set()
                endpoint.cancel()
                await asyncio.gather(endpoint, return_exceptions=True)

    async def execute(self, workflow: str, number: int) -> int:
        key = f"{self._prefix}-{next(self._numbers)}"
        return number_of(await self._post(f"{self._ingress}/{workflow}/{key}/run", payload(number)))

    async def start(self, workflow: str, number: int, workflow_id: str) -> None:
        await self._post(f"{self._ingress}/{workflow}/{workflow_id}/run/send", payload(number))

    async def signal(self, workflow_id: str, number: int) -> None:
        await self._post(f"{self._ingress}/{_workflow(workflow_id)}/{workflow_id}/go/send", payload(number))

    async def result(self, workflow_id: str) -> int:
        async with self._http.get(f"{self._ingress}/restate/workflow/{_workflow(workflow_id)}/{workflow_id}/attach") as answer:
            return number_of(await _decoded(answer))

    async def resting(self) -> int:
        """Suspended: stored, and no longer held by the endpoint."""
        async with self._http.post(f"{self._admin}/query", json={"query": RESTING}, headers={"accept": "application/json"}) as answer:
            return (await _decoded(answer))["rows"][0]["n"]

    async def _post(self, url: str, given: Payload):  # type: ignore[no-untyped-def]
        async with self._http.post(url, json=given) as answer:
            return await _decoded(answer)


def _workflow(workflow_id: str) -> str:
    return "history" if workflow_id == "history" else "wait"


async def _decoded(answer: aiohttp.ClientResponse):  # type: ignore[no-untyped-def]
    text = await answer.text()
    if answer.status >= 400:
        raise RuntimeError(f"{answer.method} {answer.url} gave {answer.status}: {text}")
    return await answer.json(content_type=None) if text else None


async def _listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


def rider() -> Rider:
    return RestateRider()
