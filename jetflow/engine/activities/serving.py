"""Decides which remote activities a worker serves: all of them, or each from its first task on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from jetflow.broker.stores.tasks import TaskConsumer, Tasks
from jetflow.broker.transport.connection import Broker
from jetflow.core.ids import to_token
from jetflow.engine.activities.leases import Spawn
from jetflow.engine.activities.wanted import until_answered
from jetflow.errors import BrokerError
from jetflow.protocol.subjects import Names


class Served:
    """The consumers of one task queue's tasks.

    Args:
        consumers: the consumers by activity.
        spawn: runs work in the background.
    """

    def __init__(self, broker: Broker, queue_token: str, tasks: Tasks, consumers: dict[str, TaskConsumer], spawn: Spawn) -> None:
        self._wire = broker.wire
        self._names: Names = broker.names
        self._queue_token = queue_token
        self._tasks = tasks
        self._consumers = consumers
        self._spawn = spawn
        self._listening: dict[str, int] = {}
        self._stopping = False

    def __contains__(self, activity: str) -> bool:
        return activity in self._consumers

    @property
    def open(self) -> list[TaskConsumer]:
        """The consumers that are open."""
        return [consumer for consumer in self._consumers.values() if consumer.is_open]

    @property
    def all_open(self) -> bool:
        """Whether every consumer is open."""
        return len(self.open) == len(self._consumers)

    def start_all(self) -> None:
        """Serve every activity."""
        for name in self._consumers:
            self._start(name)

    def start_when_needed(self) -> None:
        """Serve each activity from its first task on, or all of them if tasks wait already."""
        for name in self._consumers:
            subject = self._names.tasks(self._queue_token, to_token(name))
            self._listening[name] = self._wire.listen(subject, self._starter(name))
        self._wire.on_reconnect.append(self._look)
        self._look()

    def _starter(self, name: str) -> Callable[..., None]:
        return lambda *_: self._start(name)

    def _start(self, name: str) -> None:
        sid = self._listening.pop(name, None)
        if sid is not None:
            with contextlib.suppress(BrokerError):
                self._wire.unlisten(sid)
        if not self._stopping:
            self._consumers[name].start()

    def _look(self) -> None:
        self._spawn(self._start_if_waiting())

    async def _start_if_waiting(self) -> None:
        if self._listening and await until_answered(lambda: self._tasks.waiting(self._queue_token)):
            self.start_all()

    def refill(self) -> None:
        """Ask for more tasks if there is room."""
        for consumer in self._consumers.values():
            consumer.refill()

    async def stop(self) -> None:
        """Take no more tasks."""
        self._stopping = True
        with contextlib.suppress(ValueError):
            self._wire.on_reconnect.remove(self._look)
        for sid in self._listening.values():
            with contextlib.suppress(BrokerError):
                self._wire.unlisten(sid)
        await asyncio.gather(*(consumer.stop() for consumer in self._consumers.values()))
