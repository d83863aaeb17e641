"""``docs/signals-by-id.md``: its workflow, its receiver and its ``nats`` commands, run as they stand there."""

import json
import re
import shlex
from typing import Any

from jetflow import Client, Worker
from jetflow.broker.transport.server import LocalServer
from tests.conftest import ROOT
from tests.engine.helpers import cli, until

PAGE = (ROOT / "docs" / "signals-by-id.md").read_text()


def code() -> dict[str, Any]:
    """What the page's Python defines."""
    defined: dict[str, Any] = {"Client": Client, "Any": Any}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, defined)
    return defined


async def test_the_page_works_as_it_stands(nats_cli: str) -> None:
    defined = code()
    commands = [shlex.split(line)[1:] for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    reading = [command for command in commands if command[0] == "kv"]
    async with LocalServer() as server, Client.connect(server.url) as client, Worker(client, task_queue="docs", workflows=[defined["order"]]):
        for command in commands[: -len(reading)]:
            await cli(nats_cli, server.url, *command)

        async def over() -> bool:
            records = [await client.states.get("docs", workflow_id) for workflow_id in ("order-1", "order-2")]
            return all(record is not None and record.closed for record in records)

        await until(over)
        shown = [json.loads(await cli(nats_cli, server.url, *command)) for command in reading]
        assert [record["result"] for record in shown] == ["A-1: paid 12", "A-2: paid 7"]
        handle = await client.start(defined["order"], "A-3", "p3", task_queue="docs")
        await defined["on_payment"](client, {"id": "p3", "amount": 3})
        assert await handle.result(timeout=30) == "A-3: paid 3"
        await client.signal("payment-p1", "nobody waits")
        info = await client.broker.lane.api(f"STREAM.INFO.{client.broker.names.by_id_stream}")
        assert info["state"]["messages"] == 1, "the repeat was dropped"
