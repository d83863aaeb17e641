"""``jetflow events``: switch the stream of lifecycle events on and off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from jetflow.cli.options import HERE, Connection, Json
from jetflow.cli.output import expiry, say, write_json
from jetflow.cli.report import reporting
from jetflow.client import Client

DEFAULT_KEEP = "7d"


def events_on(
    keep: Annotated[str, typer.Option(metavar="DURATION", help='How long the stream stores an event, or "forever".')] = DEFAULT_KEEP,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Create the stream of lifecycle events. Workers publish to it within seconds. Another call changes how long it stores events.

    Examples:
      jetflow events on --keep 30d
      nats stream view JETFLOW_EVENTS
    """

    async def switch(client: Client) -> None:
        await client.enable_events(expiry(keep, default=DEFAULT_KEEP))
        _tell(client, "on", f"events are on: stream {client.broker.names.events_stream}, stored for {keep}", as_json=as_json)

    _with_client(switch, connection, as_json=as_json)


def events_off(as_json: Json = False, connection: Connection = HERE) -> None:
    """Remove the stream of lifecycle events, with its events. Workers publish no more of them.

    Examples:
      jetflow events off
    """

    async def switch(client: Client) -> None:
        await client.disable_events()
        _tell(client, "off", "events are off", as_json=as_json)

    _with_client(switch, connection, as_json=as_json)


def _tell(client: Client, state: str, text: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"events": state, "stream": client.broker.names.events_stream})
    else:
        say(text)


def _with_client(act: Callable[[Client], Awaitable[Any]], connection: Connection, *, as_json: bool) -> None:
    async def run() -> None:
        async with connection.open("cli events") as client:
            await act(client)

    with reporting(as_json):
        asyncio.run(run())
