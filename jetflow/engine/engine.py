"""What all tenures of one worker share: the connection, user code, activities under way, background work."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from jetflow.broker.fencing.group_commit import Choice
from jetflow.broker.transport.connection import Broker
from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.ids import to_token
from jetflow.engine.activities.dispatch import Dispatch
from jetflow.engine.activities.inflight import Inflight
from jetflow.engine.activities.steps import StepRunner
from jetflow.engine.upkeep.lifecycle import Lifecycle
from jetflow.errors import BrokerError

if TYPE_CHECKING:
    from jetflow.engine.ownership.tenure import Tenure

log: logging.Logger = logging.getLogger("jetflow.worker")

PAYLOAD_MARGIN = 16 * 1024
"""Bytes left beside a payload for what a commit or a record says around it."""
MAX_BACKGROUND = 64


class Engine:
    """One worker's, on one task queue.

    Attributes:
        tenure: what is owned now; None for nothing.
        commits_go, records_go: whether commits and records go alone or together, as measured so far.
        failures: unexpected ends of background work, by the name of its coroutine.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        task_queue: str,
        worker_id: str,
        workflows: dict[str, WorkflowDefinition[Any, Any]],
        runner: StepRunner,
        default_expire: int | None,
        max_cached: int,
    ) -> None:
        self.broker = broker
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.namespace: str = broker.names.namespace
        self.task_queue = task_queue
        self.queue_token: str = to_token(task_queue, "task queue")
        self.worker_id = worker_id
        self.workflows = workflows
        self.runner = runner
        self.default_expire = default_expire
        self.max_cached = max_cached
        self.max_payload: int = broker.max_payload - PAYLOAD_MARGIN
        self.max_commit: int = broker.max_payload - PAYLOAD_MARGIN // 2
        self.commits_go: Choice = Choice()
        self.records_go: Choice = Choice()
        self.tenure: Tenure | None = None
        self.failures: Counter[str] = Counter()
        self.inflight: Inflight = Inflight(runner)
        self.dispatch: Dispatch = Dispatch(self)
        self.lifecycle: Lifecycle = Lifecycle(self)
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._background_slots = asyncio.Semaphore(MAX_BACKGROUND)

    def room(self, limit: int) -> int:
        """How many more commands may come."""
        return limit if self.tenure is None else limit - len(self.tenure.actors.unacked)

    def sweep(self) -> None:
        """Called a few times a second: shows what has been busy for a while."""
        if self.tenure is not None:
            self.tenure.actors.sweep()

    # ---- tasks

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs something on the worker's loop until it ends or the worker stops; an unexpected end is logged and counted."""
        task = self.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            name = getattr(task.get_coro(), "__qualname__", "work")
            self.failures[name] += 1
            log.error("%s has ended unexpectedly", name, exc_info=error)

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Tidying that may be late or lost."""
        task = self.spawn(self._quietly(work))
        task.add_done_callback(lambda _: work.close())  # the worker's stop may come before it has begun

    async def _quietly(self, work: Coroutine[Any, Any, Any]) -> None:
        async with self._background_slots:
            try:
                await work
            except BrokerError as error:
                log.debug("tidying left undone: %s", error)

    async def stop(self) -> None:
        """Ends all that goes on; nothing more is committed or acked."""
        if self.tenure is not None:
            self.tenure.lose("the worker stops")
        await self.inflight.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
