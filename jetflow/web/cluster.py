"""Workers, what they own, and how much is stored."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from jetflow.client import Client
from jetflow.reading.overview import overview


async def workers(request: Request) -> dict[str, Any]:
    """Everything at once; it is small."""
    client: Client = request.app.state.dashboard.client
    return msgspec.to_builtins(await overview(client.broker))  # type: ignore[no-any-return]
