"""``jetflow ui``: the dashboard of any server."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated, Any

import typer

from jetflow.cli.options import HERE, Connection, Verbose, set_up_logging
from jetflow.cli.output import public_url, say, tell
from jetflow.cli.report import reporting
from jetflow.cli.serving import run_until_stopped
from jetflow.errors import InvalidInputError
from jetflow.web.serving import DEFAULT_PORT, address_of, bind, check_installed, served

LOCAL = "127.0.0.1"


def ui(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on. Any but a local one needs a token.")] = LOCAL,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=65535, help=f"Port of the page; {DEFAULT_PORT} if free, else any (0: any).")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="JETFLOW_UI_TOKEN", metavar="TEXT", help="The token for browsers. Default: generated and printed if needed.", show_default=False
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show everything, but refuse every command.")] = False,
    connection: Connection = HERE,
    verbose: Verbose = 0,
) -> None:
    """Serve the dashboard: lists, histories, timelines, workers and dead letters in a browser.

    Examples:
      jetflow ui
      jetflow ui --server nats://nats.example:4222 --read-only
      jetflow ui --host 0.0.0.0 --port 8080
    """
    set_up_logging(verbose)
    with reporting():
        check_installed()
        run_until_stopped(_serve(connection, host, port, token or None, read_only=read_only))


async def _serve(connection: Connection, host: str, port: int | None, token: str | None, *, read_only: bool) -> None:
    from jetflow.web.app import create_app

    async with connection.look("ui") as client:
        listening = bind(host, port)
        access = _access(host, listening, token, read_only=read_only)
        async with served(create_app(client, access), listening) as task:
            address = address_of(listening, host)
            made = token is None and access.token is not None
            say(f"{address}/?token={access.token}" if made else address)
            tell(f"the dashboard of {public_url(client.url)}{', read-only' if read_only else ''}; Ctrl-C stops it")
            if access.token is not None and not made:
                tell("browsers must give your token")
            await asyncio.wait([task])


def _access(host: str, listening: socket.socket, token: str | None, *, read_only: bool) -> Any:
    from jetflow.web.security import SHORTEST_TOKEN, Access, is_loopback, new_token

    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise InvalidInputError(f"the token must be at least {SHORTEST_TOKEN} plain characters")
    if token is None and not is_loopback(host):
        token = new_token()
    return Access(token, read_only, f"jetflow_ui_{listening.getsockname()[1]}")
