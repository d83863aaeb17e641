"""The commands in ``docs/subjects.md``, run as they stand there by the real ``nats`` CLI."""

import json
import re
import shlex
from typing import Any

from jetflow import Client, Worker, condition, workflow
from jetflow.broker.fencing.fence import revocation
from jetflow.broker.transport.server import LocalServer
from jetflow.protocol import headers
from jetflow.protocol.subjects import Names
from tests.conftest import ROOT
from tests.engine.helpers import cli, until

PAGE = (ROOT / "docs" / "subjects.md").read_text()


@workflow
async def approval(given: Any = None) -> Any:
    return [given, await condition("ok")]


def examples() -> list[list[list[str]]]:
    """The arguments of each command, by block."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    split = [[shlex.split(line) for line in block.splitlines()] for block in blocks]
    assert all(command[0] == "nats" for block in split for command in block)
    return [[command[1:] for command in block] for block in split]


async def test_the_examples_work_as_they_stand(nats_cli: str) -> None:
    """On a server of its own: the page names its task queue."""
    publishing, reading = examples()
    async with LocalServer() as server, Client.connect(server.url) as client, Worker(client, task_queue="docs", workflows=[approval]):
        for command in publishing:
            await cli(nats_cli, server.url, *command)

        async def all_closed() -> bool:
            records = [await client.states.get("docs", token) for token in ("order-1", "order-2", "order=203", "order-4")]
            return all(record is not None and record.closed for record in records)

        async def refused() -> Any:
            return await client.broker.lane.last_message("JETFLOW_DEAD", "jetflow_dead.docs.order-5")

        await until(all_closed)
        await until(refused)
        shown = [await cli(nats_cli, server.url, *command) for command in reading]
        one, two, three, four = (json.loads(text) for text in shown[:4])
        assert (one["status"], one["result"]) == ("completed", [{"sku": "A"}, "early"])
        assert (two["status"], two["result"]) == ("completed", [["one", "argument"], {"by": "me"}])
        assert (three["workflow_id"], three["status"], three["failure"]["type"]) == ("order 3", "cancelled", "CancelledFailure")
        assert "out of stock" in three["failure"]["message"]
        assert (four["status"], four["code"]) == ("terminated", -410)
        assert "wrong price" in four["failure"]["message"]
        assert "docs.order-1" in shown[4]
        assert "unknown command" in shown[5]


def test_the_page_names_what_the_code_names() -> None:
    names = Names()
    for name in (names.state_bucket, names.timeline_bucket, names.signal_bucket, names.inbox_stream, names.dead_stream, names.changed_prefix,
                 names.by_id_prefix, names.by_id_stream, names.wait_bucket, names.tenure_prefix, names.guard_prefix,
                 names.waiting_prefix):  # fmt: skip
        assert name in PAGE
    assert revocation(names, "<stream>", "<queue>", "<tenure>") in PAGE
    assert names.registry("<queue>") in PAGE
    assert names.guard("<queue>", "<id>") in PAGE
    for kind in names.owned_streams:
        assert f"`{kind}`" in PAGE
    for header in (headers.EXPIRE, headers.ARGS, headers.REPLACE, headers.PARENT, headers.ORIGIN, headers.SENDER):
        assert f"`{header}`" in PAGE
