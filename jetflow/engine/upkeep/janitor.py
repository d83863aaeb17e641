"""The janitor finds and removes expired runs. It runs on the worker that owns partition 0 of their task queue.

A state record's TTL is the clock. The broker leaves a marker in place of the record, and the janitor reads the records to find the markers.
"""

from __future__ import annotations

import asyncio
import logging

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.transport.scan import Scan
from jetflow.broker.transport.topology import MARKER_TTL
from jetflow.core.times import from_iso
from jetflow.engine.engine import Engine
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.upkeep.removal import retire
from jetflow.errors import BrokerError
from jetflow.protocol import clock
from jetflow.protocol.headers import is_marker, ttl_field, ttl_of

log: logging.Logger = logging.getLogger("jetflow.worker")

EVERY = 1.0
"""Seconds between two reads of the records."""
TROUBLE = 5.0
"""Seconds before the janitor begins again after an error of the broker."""
BATCH = 200
TOGETHER = 100
"""Runs that the janitor looks at together. The server returns at most 1,024 keys at once."""
MAX_LATER = 10_000
"""The most expired runs that wait. With so many, the janitor reads no further until some are gone."""
MAX_SET_ASIDE = 1000
"""The most workflows with an unreadable timeline that ``set_aside`` names. Only the log names further ones."""
REMEMBER_EVERY = 30.0
"""Seconds between two writes of the janitor's position. The next janitor looks again at what came after it."""


class Janitor:
    """Removes expired runs of one task queue, while this worker owns its partition 0.

    Attributes:
        set_aside: workflows (as tokens) whose timeline cannot be read, with the reason. The janitor removes nothing of them.
    """

    def __init__(self, engine: Engine) -> None:
        self.set_aside: dict[str, str] = {}
        self._engine = engine
        self._context = engine.context

    async def run(self) -> None:
        """Work until cancelled, under one tenure of partition 0 after the other."""
        while True:
            tenure = self._engine.tenure
            if tenure is None or not tenure.owns(0):
                await asyncio.sleep(EVERY)
                continue
            try:
                await self._work(tenure)
            except TenureOverError as over:
                log.debug("expired runs are left to the next owner: %s", over)
            except BrokerError as error:
                log.warning("expired runs are removed later: %s", error)
                await asyncio.sleep(TROUBLE)

    async def _work(self, tenure: Tenure) -> None:
        context, names = self._context, self._context.broker.names
        place = await self._place(tenure)
        later: dict[str, int] = {}
        if place is None:
            if await self._may_have_missed(tenure):
                later = await self._sweep(tenure)
            place = 0
        lane = context.broker.lane  # not the fenced lane: the scan removes its consumer after the tenure is over
        markers = Scan(lane, names.state_stream, names.states(context.queue_token), start=place + 1, wanted=is_marker)
        remembered, since = -1, float("-inf")
        try:
            await markers.open()
            while tenure.owns(0):
                full = len(later) >= MAX_LATER
                if not full:
                    later |= {seen.subject.rpartition(".")[2]: seen.position for seen in await markers.batch(BATCH)}
                later = await self._retire(tenure, later)
                done = min(later.values(), default=markers.place + 1) - 1
                if done != remembered and clock.monotonic() - since > REMEMBER_EVERY:
                    remembered, since = done, clock.monotonic()
                    await self._remember(tenure, remembered)
                if full or markers.read < BATCH:
                    await asyncio.sleep(EVERY)
        finally:
            await markers.close()

    # ---- the janitor's position

    def _subject(self) -> str:
        return self._context.broker.names.janitor(self._context.queue_token)

    async def _place(self, tenure: Tenure) -> int | None:
        """Return the position that an earlier janitor reached, or None if none was at work within the lifetime of a marker."""
        message = await tenure.lane.last_message(self._context.broker.names.state_stream, self._subject())
        return int(message.data) if message is not None and message.data.isdigit() else None

    async def _remember(self, tenure: Tenure, place: int) -> None:
        await tenure.lane.store("state", self._subject(), str(place).encode(), ttl_field(ttl_of(MARKER_TTL * 1000)))

    async def _may_have_missed(self, tenure: Tenure) -> bool:
        """Return whether markers may have gone unseen: the stream of records is older than a marker lives."""
        info = await tenure.lane.stream_info(self._context.broker.names.state_stream)
        return from_iso(info["ts"]) - from_iso(info["created"]) > MARKER_TTL * 1000

    async def _sweep(self, tenure: Tenure) -> dict[str, int]:
        """Look for timelines without a record, among the present ones. Return those to come back to."""
        context, names = self._context, self._context.broker.names
        keys = Scan(context.broker.lane, names.timeline_stream, names.timelines(context.queue_token))
        try:
            end = (await tenure.lane.stream_info(names.timeline_stream))["state"]["last_seq"]
            await keys.open()
            position, before = 0, ""
            later: dict[str, int] = {}
            while position < end and (found := await keys.batch(BATCH)):
                position = found[-1].position
                ids = dict.fromkeys(seen.subject.split(".")[-2] for seen in found)
                later |= await self._retire(tenure, {id_token: 0 for id_token in ids if id_token != before})
                before = next(reversed(ids))
            return later
        finally:
            await keys.close()

    async def _retire(self, tenure: Tenure, expired: dict[str, int]) -> dict[str, int]:
        """Remove what can go of workflows, given with the positions of their markers. Return those to come back to."""
        ids, later = list(expired), dict[str, int]()
        for start in range(0, len(ids), TOGETHER):
            left = await retire(tenure, ids[start : start + TOGETHER])
            for id_token, reason in left.unreadable.items():
                if id_token in self.set_aside or len(self.set_aside) < MAX_SET_ASIDE:
                    self.set_aside[id_token] = reason
            later |= {id_token: expired[id_token] for id_token in left.later}
        return later
