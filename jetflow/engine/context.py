"""What all parts of one worker's engine share: the connection, the task queue, the limits, the background work."""

from __future__ import annotations

import asyncio

from jetflow.broker.fencing.group_commit import Choice
from jetflow.broker.transport.connection import Broker
from jetflow.core.ids import to_token
from jetflow.engine.background import Background

PAYLOAD_MARGIN = 16 * 1024
"""Bytes of a message that a commit or a record may need besides a payload."""


class Context:
    """One worker on one task queue.

    Attributes:
        queue_token: the task queue, escaped for subjects.
        default_expire: how long the record of an ended run stays, in ms; None for forever.
        max_cached: the most resting workflows in memory.
        max_payload, max_commit: the most bytes of one value, and of one timeline key.
        commits_go, records_go: whether commits and records go in batches, as measured so far.
        background: runs work that no workflow waits for.
    """

    def __init__(self, broker: Broker, *, task_queue: str, worker_id: str, default_expire: int | None, max_cached: int) -> None:
        self.broker = broker
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.namespace: str = broker.names.namespace
        self.task_queue = task_queue
        self.queue_token: str = to_token(task_queue, "task queue")
        self.worker_id = worker_id
        self.default_expire = default_expire
        self.max_cached = max_cached
        self.heed_limits()
        self.commits_go: Choice = Choice()
        self.records_go: Choice = Choice()
        self.background: Background = Background(self.loop)

    def heed_limits(self) -> None:
        """Read the server's limits again. A restarted server may have others."""
        self.max_payload: int = self.broker.max_payload - PAYLOAD_MARGIN
        self.max_commit: int = self.broker.max_payload - PAYLOAD_MARGIN // 2
