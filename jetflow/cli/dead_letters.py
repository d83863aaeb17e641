"""``jetflow dead-letters``: show refused commands and expired signals, requeue them, or drop them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from jetflow.broker.stores.dead_letters import DeadLetter, DeadLetters
from jetflow.cli.options import HERE, Connection, Json, Number, Utc
from jetflow.cli.output import clean, local_time, say, tell, write_json
from jetflow.cli.report import reporting
from jetflow.core.times import from_iso
from jetflow.errors import InvalidInputError

STDIN = "-"


def list_letters(
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the N oldest. Default: all.", show_default=False)] = None,
    utc: Utc = False,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """List dead letters, the oldest first: malformed commands, and signals that expired before a workflow waited for them.

    Examples:
      jetflow dead-letters list
      jetflow dead-letters list --json | jq -r .number
    """

    async def read(letters: DeadLetters) -> None:
        found = 0
        async for letter in letters.list(limit=limit):
            found += 1
            if as_json:
                write_json(_as_data(letter))
            else:
                say(f"{letter.number:>6}  {local_time(from_iso(letter.at))}  {clean(letter.subject)}  {clean(letter.reason)}")
        if not found and not as_json:
            tell("no dead letters")

    _with_letters(read, connection, as_json=as_json)


def show_letter(number: Number, utc: Utc = False, as_json: Json = False, connection: Connection = HERE) -> None:
    """Show a dead letter: its subject, headers and body, and the reason.

    Examples:
      jetflow dead-letters show 7
    """

    async def read(letters: DeadLetters) -> None:
        letter = await letters.get(number)
        if as_json:
            write_json(_as_data(letter))
            return
        say(f"subject  {clean(letter.subject)}")
        say(f"reason   {clean(letter.reason)}")
        say(f"refused  {local_time(from_iso(letter.at))}")
        for name, value in letter.headers.items():
            say(f"header   {clean(name)}: {clean(value)}")
        if letter.size is not None:
            say(f"body     only the first {len(letter.body):,} of {letter.size:,} bytes are stored")
        say("")
        say(clean(letter.body.decode(errors="replace"), multiline=True))

    _with_letters(read, connection, as_json=as_json)


def requeue_letter(
    number: Number,
    body: Annotated[str | None, typer.Option(metavar="FILE", help='Replace the body by a file, or by stdin with "-".', show_default=False)] = None,
    subject: Annotated[str | None, typer.Option(metavar="SUBJECT", help="Replace the subject.", show_default=False)] = None,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Send the message of a dead letter again, changed or unchanged, and remove the dead letter.

    Examples:
      jetflow dead-letters requeue 7
      jetflow dead-letters requeue 7 --body mended.json
      jetflow dead-letters requeue 7 --subject jetflow.orders.order-456.cancel
    """

    async def send(letters: DeadLetters) -> None:
        sent = await letters.requeue(number, body=_body(body), subject=subject)
        if as_json:
            write_json(_as_data(sent))
        else:
            say(f"sent to {clean(sent.subject)}")

    _with_letters(send, connection, as_json=as_json)


def drop_letter(number: Number, as_json: Json = False, connection: Connection = HERE) -> None:
    """Remove a dead letter. This cannot be undone.

    Examples:
      jetflow dead-letters drop 7
    """

    async def remove(letters: DeadLetters) -> None:
        await letters.drop(number)
        if as_json:
            write_json({"number": number, "dropped": True})
        else:
            say(f"dropped {number}")

    _with_letters(remove, connection, as_json=as_json)


def _body(source: str | None) -> bytes | None:
    if source is None:
        return None
    if source == STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"the body cannot be read from {source!r}: {error.strerror}") from error


def _as_data(letter: DeadLetter) -> dict[str, Any]:
    data = msgspec.structs.asdict(letter) | {"body": letter.body.decode(errors="replace")}
    if letter.size is None:
        del data["size"]
    return data


def _with_letters(work: Callable[[DeadLetters], Awaitable[None]], connection: Connection, *, as_json: bool) -> None:
    async def run() -> None:
        async with connection.open("dead-letters") as client:
            await work(DeadLetters(client.broker.lane, client.broker.names))

    with reporting(as_json):
        asyncio.run(run())
