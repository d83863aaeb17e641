"""Commands to one workflow. Each calls one method of the handle."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from jetflow.client import Client
from jetflow.errors import InvalidInputError, WorkflowAlreadyClosedError
from jetflow.handle import WorkflowHandle

SPARE = 64 * 1024
"""Bytes of a request's body beyond what one message of the broker may hold."""


async def body_of(request: Request) -> dict[str, Any]:
    """Return a request's JSON object.

    Raises:
        InvalidInputError: the body is not a JSON object, or larger than a message may be.
    """
    client: Client = request.app.state.dashboard.client
    most = client.broker.max_payload * 2 + SPARE  # text in JSON may need escapes
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > most:
            raise InvalidInputError(f"the request is larger than {most:,} bytes")
    try:
        return msgspec.json.decode(bytes(found), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the request must be a JSON object: {error}") from error


async def act(request: Request) -> dict[str, Any]:
    """Signal, cancel or terminate a workflow."""
    action = _ACTIONS.get(request.path_params["action"])
    if action is None:
        raise InvalidInputError(f"there is no command {request.path_params['action']!r}; there are {', '.join(_ACTIONS)}")
    body = await body_of(request)
    client: Client = request.app.state.dashboard.client
    handle = client.get_handle(_text(body, "id"), _text(body, "queue"), run_id=_optional(body, "run"))
    return {"outcome": await action(handle, body)}


async def _signal(handle: WorkflowHandle, body: dict[str, Any]) -> str:
    """Send a signal. ``data`` is JSON as text, so that numbers keep their digits. Without it the signal has no data."""
    name, text = _text(body, "name"), _optional(body, "data")
    data = None if text is None or not text.strip() else parsed(text)
    record = await handle.describe()  # before the signal, which may end the workflow
    if record is not None and record.closed:
        raise WorkflowAlreadyClosedError(handle.workflow_id, record.status)
    await handle.signal(name, data, expire=_optional(body, "expire") or "10m")
    return f"signal {name} is stored"


async def _cancel(handle: WorkflowHandle, body: dict[str, Any]) -> str:
    record = await handle.describe()
    if record is not None and record.closed:
        raise WorkflowAlreadyClosedError(handle.workflow_id, record.status)
    await handle.cancel(_optional(body, "reason"))
    return "it was asked to cancel"


async def _terminate(handle: WorkflowHandle, body: dict[str, Any]) -> str:
    await handle.terminate(_optional(body, "reason") or "terminated in the dashboard", descend=body.get("descend") is True, expire="default")
    return "it is being terminated"


_ACTIONS = {"signal": _signal, "cancel": _cancel, "terminate": _terminate}


def parsed(text: str) -> Any:
    """Parse JSON that a person typed.

    Raises:
        InvalidInputError: the text is not JSON.
    """
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidInputError(f"this is not JSON: {error}") from error


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name} must be a non-empty text")
    return value


def _optional(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInputError(f"{name} must be a text")
    return value or None
