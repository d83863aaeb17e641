"""``jetflow mend``: move the positions of a recreated or restored inbox past those in use."""

from __future__ import annotations

import asyncio

from jetflow.broker.transport.mending import mend as mend_inbox
from jetflow.cli.options import HERE, Connection, Json
from jetflow.cli.output import say, write_json
from jetflow.cli.report import reporting


def mend(as_json: Json = False, connection: Connection = HERE) -> None:
    """Repair an inbox that was recreated, or restored from an older copy. Its commands stay. Clients are refused during the repair.

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
            say("nothing to mend: the inbox is intact")
        else:
            say(f"mended: workers apply commands again, beginning with the {moved} stored ones")
