"""Finds out whether a workflow still waits for a task that may have run before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from jetflow.broker.stores.state import StateStore
from jetflow.broker.stores.tasks import Task, TaskDelivery, Tasks
from jetflow.broker.stores.timeline import Timeline
from jetflow.broker.transport.connection import Broker
from jetflow.core import events as ev
from jetflow.core.ids import to_token
from jetflow.engine.activities.outcomes import is_outcome_of, settles
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol.clock import now_ms

log: logging.Logger = logging.getLogger("jetflow.worker")

T = TypeVar("T")

STALE_MS = 10_000
"""A task that has waited longer (ms) runs only if its workflow has not ended meanwhile."""
TRY_AGAIN = 0.5
"""Seconds before a request is sent again that the broker did not answer, or refused."""


async def until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Send a request until there is an answer, and return it."""
    while True:
        try:
            return await ask()
        except BrokerError as error:
            log.log(logging.DEBUG if isinstance(error, BrokerUnavailableError) else logging.WARNING, "a task's worker asks again: %s", error)
            await asyncio.sleep(TRY_AGAIN)


class Wanted:
    """Looks up tasks in the inbox, the timeline and the record of their workflow."""

    def __init__(self, broker: Broker, tasks: Tasks) -> None:
        self._broker = broker
        self._tasks = tasks
        self._timeline = Timeline(broker.lane, broker.names)
        self._states = StateStore(broker.lane, broker.names)

    async def is_open(self, task: Task) -> bool:
        """Return whether the workflow waits for exactly this attempt."""
        return await until_answered(lambda: self._is_open(task))

    async def _is_open(self, task: Task) -> bool:
        """Look in the inbox first, then in the timeline: an outcome leaves the inbox only once it is in the timeline."""
        queue, workflow_id = to_token(task.task_queue), to_token(task.workflow_id)
        names = self._broker.names
        waiting = await self._broker.lane.last_message(names.inbox_stream, names.stored_commands(queue, workflow_id, f"activity.{task.index}"))
        if waiting is not None and is_outcome_of(waiting.data, task.run, task.attempt):
            return False
        last = await self._timeline.last(queue, workflow_id)
        if last is None or last.commit.run != task.run or isinstance(last.commit.events[-1], ev.CLOSING):
            return False
        return not any(settles(event, task) for entry in await self._timeline.run(queue, workflow_id, last) for event in entry.commit.events)

    async def is_overtaken(self, task: Task, delivery: TaskDelivery) -> bool:
        """Return whether the task has waited longer than ``STALE_MS`` and its workflow has ended meanwhile."""
        if now_ms() - delivery.stored_ms <= STALE_MS:
            return False
        record = await until_answered(lambda: self._states.get(to_token(task.task_queue), to_token(task.workflow_id)))
        return record is not None and (record.closed if record.run_id == str(task.run) else int(record.run_id) > task.run)

    async def kept_details(self, task: Task) -> bytes:
        """Return the stored heartbeat details of an earlier attempt, empty for none."""
        return await until_answered(lambda: self._tasks.kept_details(task)) or b""
