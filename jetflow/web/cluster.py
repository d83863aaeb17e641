"""The workers, their partitions, and the storage in use."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from jetflow.client import Client
from jetflow.reading.overview import overview


async def workers(request: Request) -> dict[str, Any]:
    """Return the whole overview; it is small."""
    client: Client = request.app.state.dashboard.client
    return msgspec.to_builtins(await overview(client.broker))  # type: ignore[no-any-return]
