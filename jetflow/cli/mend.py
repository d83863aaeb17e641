"""``jetflow mend``: have an inbox that was made anew or restored go on behind the positions that are in use."""

from __future__ import annotations

import asyncio

from jetflow.broker.transport.mending import mend as mend_inbox
from jetflow.cli.options import HERE, Connection, Json
from jetflow.cli.output import say, write_json
from jetflow.cli.report import reporting


def mend(as_json: Json = False, connection: Connection = HERE) -> None:
    """Mend an inbox that was removed and made anew, or restored from an older copy. What waits in it is kept; clients are refused meanwhile.

    Examples:
      jetflow mend
    """

    async def run() -> int | None:
        async with connection.look("mend") as client:
            return await mend_inbox(client.broker.lane, client.broker.names)

    with reporting(as_json):
        moved = asyncio.run(run())
        if as_json:
            write_json({"mended": moved is not None, "kept": moved or 0})
        elif moved is None:
            say("nothing to mend: the inbox goes on where it was")
        else:
            say(f"mended: workers take commands again, {moved} that waited first")
