"""A namespace of a test's own, and state records in it as an owner writes them, without an owner."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw, json

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.topology import stream_configs
from jetflow.protocol.record import Parked, StateRecord
from tests.records import put_record


class Shelf:
    """Writes records; each ``put`` is the newest of its id."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._runs: dict[str, int] = {}

    async def put(self, *ids: str, queue: str = "q", status: str = "running", **fields: Any) -> None:
        for workflow_id in ids:
            run = self._runs.get(workflow_id) or await self._start(workflow_id)
            data = {name: Raw(json.encode(value)) for name, value in fields.get("data", {}).items()}
            parked = Parked("code", "changed", 1) if status == "parked" else None
            record = StateRecord(
                workflow_id=workflow_id, task_queue=queue, workflow_type=fields.get("workflow_type", "order"), run_id=str(run),
                status="running" if parked else status, code=1, started_at=fields.get("started_at", 1000), updated_at=2000,
                parked=parked, data=data, entity=fields.get("entity"), expire=fields.get("expire"),
                waiting=fields.get("waiting", []),
            )  # fmt: skip
            await put_record(self.client, record)

    async def _start(self, workflow_id: str) -> int:
        """A place in the inbox, which is what numbers runs."""
        lane, names = self.client.broker.lane, self.client.broker.names
        self._runs[workflow_id] = (await lane.publish(names.command("none", workflow_id, "signal.place"), b"")).seq
        return self._runs[workflow_id]

    async def remove(self, workflow_id: str, queue: str = "q") -> None:
        names = self.client.broker.names
        await self.client.broker.lane.api(f"STREAM.PURGE.{names.state_stream}", {"filter": f"{names.state_prefix}{queue}.{workflow_id}"})


@pytest.fixture
async def shelf(server: LocalServer) -> AsyncIterator[Shelf]:
    async with Client.connect(server.url, namespace=f"t{secrets.token_hex(6)}") as client:
        yield Shelf(client)
        for stream in stream_configs(client.broker.names, 1, 1):
            await client.broker.lane.api(f"STREAM.DELETE.{stream}")


async def ids(records: AsyncIterator[StateRecord]) -> list[str]:
    return [record.workflow_id async for record in records]
