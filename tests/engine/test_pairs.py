"""Each pair of commands, sent one after the other: what their callers get, what the code sees, and how the workflow ends.

``python -m tests.engine.test_pairs > tests/interop/pairs.md`` writes the table of ``docs/commands.md`` anew.
"""

import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from jetflow import CancellationScope, CancelledFailure, Client, condition, set_query_handler, set_update_handler, sleep, workflow
from jetflow.broker.transport.server import LocalServer
from jetflow.errors import JetflowError, WorkflowTerminatedError
from tests.interop.commands_table import PAIRS

from .helpers import WAIT, another_worker, commands, until

COMMANDS = ["start", "delayed start", "replacing start", "signal", "signal by id", "update", "query", "cancel", "terminate"]
STARTS = ("start", "delayed start", "replacing start")


@workflow
async def listener(by_id: str) -> list[str]:
    """Returns what came, in the order in which its code saw it, once it is told to stop."""
    seen: list[str] = []

    async def hear(name: str, what: str | None) -> None:
        while True:
            await condition(name)
            if what:
                seen.append(what)

    async def watch() -> None:
        try:
            await sleep("30d")
        except CancelledFailure:
            seen.append("cancel")

    set_update_handler("put", lambda: seen.append("update"))
    set_query_handler("seen", lambda: seen)
    watching = [asyncio.create_task(watch())]
    async with CancellationScope.non_cancellable():
        watching += [asyncio.create_task(hear("s", "signal")), asyncio.create_task(hear(by_id, None))]
        await condition("stop")
    for task in watching:
        task.cancel()
    return seen


class Pair:
    """One workflow that gets two commands."""

    def __init__(self, client: Client, queue: str, first: str, second: str, *, served: bool) -> None:
        self.client, self.queue, self.first, self.second, self.served = client, queue, first, second, served
        self.id = f"{first}-{second}".replace(" ", "-")
        self.handle = client.get_handle(self.id, queue)
        self.outcomes: list[asyncio.Task[str]] = []

    async def send(self) -> None:
        """Start the workflow, unless the first command does, and send both."""
        if self.first not in STARTS:
            await self._start()
            if self.served:
                await until(lambda: self.client.states.get(self.queue, self.id))
        for command in (self.first, self.second):
            outcome = asyncio.create_task(self._outcome(command))
            self.outcomes.append(outcome)
            if command == "update":  # its caller waits for the code: the next command need not
                while not outcome.done() and not await self._is_stored():
                    await asyncio.sleep(0.01)
            else:
                await outcome

    async def end(self) -> tuple[str, str, str]:
        """Return both outcomes, and the end of the latest run."""
        ending = asyncio.create_task(self._end())
        with suppress(JetflowError):
            await self.handle.signal("stop")
        return await self.outcomes[0], await self.outcomes[1], await ending

    async def _start(self, **options: Any) -> None:
        await self.client.start(listener, f"{self.queue}-{self.id}", workflow_id=self.id, task_queue=self.queue, **options)

    async def _is_stored(self) -> bool:
        return any(".update." in command for command in await commands(self.client, self.queue, self.id))

    async def _outcome(self, command: str) -> str:
        try:
            return await self._send(command)
        except JetflowError as error:
            return f"`{type(error).__name__}`"

    async def _send(self, command: str) -> str:
        match command:
            case "start":
                await self._start()
            case "delayed start":
                await self._start(start_delay="3s")
            case "replacing start":
                await self._start(if_exists="replace")
            case "signal":
                await self.handle.signal("s")
            case "signal by id":
                await self.client.signal(f"{self.queue}-{self.id}")
            case "update":
                await self.handle.update("put", timeout=WAIT)
                return "applied"
            case "query":
                await self.handle.query("seen", timeout="5s" if self.served else "300ms")
                return "answered"
            case "cancel":
                await self.handle.cancel("enough")
            case _:
                await self.handle.terminate("enough", expire="1h")
        return "stored"

    async def _end(self) -> str:
        try:
            seen = await self.handle.result(timeout=WAIT)
        except WorkflowTerminatedError:
            return "terminated"
        except JetflowError as error:
            return f"`{type(error).__name__}`"
        return f"sees {', then '.join(seen)}" if seen else "sees nothing"


async def table(client: Client, queue: str, *, served: bool) -> str:
    """Send all pairs, and return their table in Markdown."""
    pairs = [Pair(client, queue, first, second, served=served) for first in COMMANDS for second in COMMANDS]
    async with AsyncExitStack() as stack:
        if served:
            await stack.enter_async_context(another_worker(client.url, queue, workflows=[listener]))
        await asyncio.gather(*(pair.send() for pair in pairs))
        ends = asyncio.gather(*(pair.end() for pair in pairs))
        if not served:
            await asyncio.sleep(0.1)
            await stack.enter_async_context(another_worker(client.url, queue, workflows=[listener]))
        rows = [f"| {pair.first} | {pair.second} | {' | '.join(row)} |" for pair, row in zip(pairs, await ends, strict=True)]
    title = "While a worker is up" if served else "While no worker is up"
    return "\n".join(
        [f"### {title}", "", "| first | second | the first's caller | the second's caller | the latest run |", "|---|---|---|---|---|", *rows]
    )


@pytest.mark.parametrize("served", [True, False], ids=["a worker is up", "no worker is up"])
async def test_pairs(client: Client, queue: str, served: bool) -> None:
    happened = await table(client, queue, served=served)
    written = PAIRS.read_text()
    assert [row for row in happened.splitlines() if row not in written] == []
    assert happened in written


async def _write() -> None:
    server = LocalServer()
    await server.start()
    async with Client.connect(server.url) as client:
        sys.stdout.write(await table(client, "up", served=True) + "\n\n" + await table(client, "away", served=False) + "\n")
    await server.stop()


if __name__ == "__main__":
    asyncio.run(_write())
