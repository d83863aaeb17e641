"""Wakes each open workflow once after the inbox was created again or restored.

The timers, outcomes of tasks and notices of children in the earlier inbox are gone, and nothing would wake the workflows that wait for them. So the
owner of partition 0 sends each open workflow of its task queue a command without meaning. The workflow's owner rebuilds it from its timeline, and
publishes again what its pending operations rest on. See docs/design.md.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from jetflow.broker.transport.walk import Walk
from jetflow.core.ids import to_token
from jetflow.errors import BrokerError
from jetflow.protocol.record import decode_state

if TYPE_CHECKING:
    from jetflow.engine.engine import Engine
    from jetflow.engine.ownership.tenure import Tenure

log: logging.Logger = logging.getLogger("jetflow.worker")

LOOK = 0.5
TROUBLE = 5.0
TOGETHER = 64
"""The most commands under way at once."""
MEANS_NOTHING = b'{"run":0,"due":0}'


class Waking:
    """Wakes the workflows of one task queue while this worker owns partition 0."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._context = engine.context
        self._woken = 0

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            tenure = self._engine.tenure
            if tenure is None or tenure.since <= self._woken or not tenure.owns(0):
                await asyncio.sleep(LOOK)
                continue
            try:
                if await self._read(tenure) < tenure.since:
                    await self._wake(tenure)
                    await self._remember(tenure)
                self._woken = tenure.since
            except BrokerError as error:
                log.warning("workflows of %s are woken later: %s", self._context.task_queue, error)
                await asyncio.sleep(TROUBLE)

    @property
    def _subject(self) -> str:
        return self._context.broker.names.woken(self._context.queue_token)

    async def _read(self, tenure: Tenure) -> int:
        """Return the ``since`` of the inbox for which all workflows were last woken, 0 for none."""
        message = await tenure.lane.last_message(self._context.broker.names.state_stream, self._subject)
        return int(message.data) if message is not None and message.data.isdigit() else 0

    async def _remember(self, tenure: Tenure) -> None:
        await tenure.lane.store("state", self._subject, str(tenure.since).encode())

    async def _wake(self, tenure: Tenure) -> None:
        names, queue_token = self._context.broker.names, self._context.queue_token
        records, woken = Walk(self._context.broker.lane, names.state_stream, names.states(queue_token)), 0
        async for rows in records.upwards(1):
            found = [record for row in rows if row.data and (record := decode_state(row.data)) is not None and record.closed_at is None]
            subjects = [names.command(queue_token, to_token(record.workflow_id), "timer.0") for record in found]
            for start in range(0, len(subjects), TOGETHER):
                await asyncio.gather(*(tenure.lane.store("inbox", subject, MEANS_NOTHING) for subject in subjects[start : start + TOGETHER]))
            woken += len(found)
        log.warning("woke %d workflows of %s, since the inbox has changed", woken, self._context.task_queue)
