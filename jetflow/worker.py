"""The worker: runs the workflows and activities of one task queue.

    async with Worker(client, task_queue="orders", workflows=[order], activities=[charge]):
        await asyncio.Event().wait()                # serve until the task is cancelled

Any number of workers, on any number of machines, share the workflows of a task queue. While no worker is up, commands wait
in the broker. Give each worker all workflow types of its queue. During a rolling upgrade, the workers with the most types
get the work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from jetflow.broker.stores.membership import Heart, Member
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.wire import Wire
from jetflow.core import guard
from jetflow.core.definitions import ActivityDefinition, WorkflowDefinition, as_activity, as_workflow
from jetflow.core.durations import Duration, limit_ms, to_ms
from jetflow.core.ids import to_token
from jetflow.engine.activities.remote import OUTCOME_MARGIN, TaskRunner
from jetflow.engine.activities.steps import StepRunner
from jetflow.engine.activities.threads import Threads
from jetflow.engine.calls.queries import Queries
from jetflow.engine.context import PAYLOAD_MARGIN
from jetflow.engine.engine import Engine
from jetflow.engine.ownership.ownership import Ownership
from jetflow.engine.signals.router import Router
from jetflow.engine.upkeep.inspection import Inspection
from jetflow.engine.upkeep.janitor import Janitor
from jetflow.engine.upkeep.supervision import Supervisor
from jetflow.engine.upkeep.waking import Waking
from jetflow.errors import BrokerError, InvalidInputError, RegistrationError
from jetflow.protocol import clock
from jetflow.protocol.clock import now_ms

if TYPE_CHECKING:
    from jetflow.client import Client

log: logging.Logger = logging.getLogger("jetflow.worker")

SWEEP_EVERY = 0.05
OWNERSHIP = "ownership"
MOST_SET_ASIDE = 20
"""Most workflows with an unreadable timeline that a worker names in its heartbeat."""
READY_TIMEOUT = 15
DEFAULT_EXPIRE: Duration = "7d"
MIN_LEASE = 0.5


class Worker:
    """Serves one task queue during its ``async with`` block, or during ``run()``.

    Without workflows it serves only the activities that workflows send to its task queue.

    Args:
        client: the connection. It must stay open while the worker runs.
        task_queue: the task queue to serve. Default: the client's.
        workflows: functions made by ``@workflow``, or plain async functions.
        activities: functions made by ``@activity``, or plain functions.
        max_concurrent_activities: most attempts at once, both of the worker's own workflows and of others.
        max_concurrent_commands: most commands received from the broker and not yet acked.
        max_cached_workflows: most resting workflows in memory. The worker rebuilds the others when a command comes for them.
        default_expire: how long the record of a workflow stays after it ends, whatever ends it; ``"forever"`` or None: no limit.
        graceful_timeout: how long running activities may continue when the worker stops or gives up partitions.
        threads: number of threads for activities that are plain functions. The time of an attempt begins when it has a thread. An attempt
            that takes too long keeps its thread until its function returns.
        activity_lease: how long a remote activity stays with a silent worker before another one gets it. At least 0.5 s. Workers extend
            the leases of running activities. The first worker to serve an activity sets this duration.

    Raises:
        RegistrationError: two definitions have one name, or a function cannot be served.
        InvalidInputError: an option's value is invalid.
    """

    def __init__(
        self,
        client: Client,
        *,
        task_queue: str | None = None,
        workflows: Iterable[Any] = (),
        activities: Iterable[Any] = (),
        max_concurrent_activities: int = 1000,
        max_concurrent_commands: int = 10_000,
        max_cached_workflows: int = 5_000,
        default_expire: Duration | None = DEFAULT_EXPIRE,
        graceful_timeout: Duration = "10s",
        threads: int = 32,
        activity_lease: Duration = "30s",
    ) -> None:
        task_queue = client.task_queue if task_queue is None else task_queue
        to_token(task_queue, "task queue")
        for name, number in (("max_concurrent_activities", max_concurrent_activities), ("max_concurrent_commands", max_concurrent_commands),
                             ("max_cached_workflows", max_cached_workflows), ("threads", threads)):  # fmt: skip
            if number < 1:
                raise InvalidInputError(f"{name} must be at least 1, not {number}")
        self.client = client
        self.task_queue = task_queue
        self.worker_id: str = clock.token(6)
        self._workflows: dict[str, WorkflowDefinition[Any, Any]] = _registry(workflows, as_workflow, "workflow")
        self._activities: dict[str, ActivityDefinition[Any, Any]] = _registry(activities, as_activity, "activity")
        for definition in self._workflows.values():
            if definition.task_queue not in (None, task_queue):
                log.warning("workflow %r names task queue %r, and this worker serves %r", definition.name, definition.task_queue, task_queue)
        if not self._workflows and not self._activities:
            raise RegistrationError(f"a worker needs at least one workflow or activity to serve on task queue {task_queue!r}")
        self._max_activities = max_concurrent_activities
        self._max_commands = max_concurrent_commands
        self._max_cached = max_cached_workflows
        self._default_expire = limit_ms(default_expire, "default_expire")
        self._grace = to_ms(graceful_timeout, "graceful_timeout") / 1000
        self._threads = threads
        self._lease = to_ms(activity_lease, "activity_lease") / 1000
        if self._lease < MIN_LEASE:
            raise InvalidInputError(f"activity_lease must be at least {MIN_LEASE:g} s, not {self._lease:g} s")
        self._supervisor: Supervisor | None = None
        self._stopped: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Worker:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def run(self, until: asyncio.Event | None = None) -> None:
        """Serve until the event is set, then stop gracefully. Without an event, serve until the task is cancelled.

        Raises:
            WorkerFailedError: one of the worker's own loops failed repeatedly. The message says which, and why.
        """
        async with self:
            ended = asyncio.ensure_future((until or asyncio.Event()).wait())
            try:
                await asyncio.wait([ended, self.failed], return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended.cancel()
            if self.failed.done():
                self.failed.result()

    @property
    def failed(self) -> asyncio.Future[None]:
        """A future that gets a ``WorkerFailedError`` when one of the worker's own loops fails repeatedly. Stop the worker then."""
        assert self._supervisor is not None, "the worker has not started"
        return self._supervisor.failed

    @property
    def partitions(self) -> int:
        """The number of partitions of the task queue that this worker owns now."""
        return len(self._ownership.partitions) if self._supervisor is not None else 0

    @property
    def ready(self) -> bool:
        """Whether the worker can get work: it owns partitions or, without workflows, it has a consumer for each of its activities."""
        return self._supervisor is not None and (self.partitions > 0 if self._workflows else self._remote.ready)

    # ---- life

    async def _start(self) -> None:
        guard.install()
        broker = self.client.broker
        runner = self._runner = StepRunner(self._activities, Threads(self._threads), self._max_activities, broker.max_payload - PAYLOAD_MARGIN)
        self._engine = Engine(
            broker,
            task_queue=self.task_queue,
            worker_id=self.worker_id,
            workflows=self._workflows,
            runner=runner,
            default_expire=self._default_expire,
            max_cached=self._max_cached,
        )
        member = self._member = Member(
            worker_id=self.worker_id,
            task_queue=self.task_queue,
            host=platform.node(),
            pid=os.getpid(),
            started_at=now_ms(),
            workflows=sorted(self._workflows),
            activities=sorted(self._activities),
        )
        self._heart = Heart(self._heart_connection, broker.names, member)
        self._ownership = Ownership(self._engine, self._heart, member, room=lambda: self._engine.room(self._max_commands), grace=self._grace)
        self._janitor = Janitor(self._engine)
        self._remote = TaskRunner(broker, self.task_queue, self._activities, runner, limit=self._max_activities, lease=self._lease)
        self._queries = Queries(self._engine)
        self._inspection = Inspection(broker)
        broker.wire.on_reconnect.append(self._heed_limits)
        if self._workflows:
            self._queries.open()
            await self._engine.services.lifecycle.look()
        self._heart.start()
        self._remote.start(at_once=not self._workflows)
        # without workflows the worker owns no partition and has no actors
        loops: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "the sweep": self._sweep,
            "the look at the streams": self._inspection.run,
        }
        if self._workflows:
            loops |= {
                OWNERSHIP: self._ownership.run,
                "the janitor": self._janitor.run,
                "the router of signals by id": Router(self._engine).run,
                "the waking of workflows": Waking(self._engine).run,
                "the look for lifecycle events": self._engine.services.lifecycle.run,
            }
        self._supervisor = Supervisor()
        for name, loop in loops.items():
            self._supervisor.start(name, loop)
        workflows, activities = ", ".join(sorted(self._workflows)) or "none", ", ".join(sorted(self._activities)) or "none"
        log.info("worker %s serves %s: workflows %s; activities %s", self.worker_id, self.task_queue, workflows, activities)

    async def stop(self) -> None:
        """Let running activities finish within the graceful timeout, release the partitions, and end."""
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopped)

    async def _stop(self) -> None:
        assert self._supervisor is not None
        await self._supervisor.stop(OWNERSHIP)
        await asyncio.gather(self._hand_over(), self._remote.stop(self._grace))
        await self._supervisor.stop()
        await self._engine.stop()
        await self._heart.stop()
        self.client.broker.wire.on_reconnect.remove(self._heed_limits)
        self._runner.threads.close()
        log.info("worker %s has stopped", self.worker_id)

    async def _hand_over(self) -> None:
        if not self._workflows:
            return
        try:
            await self._ownership.stop()
        except BrokerError as error:
            log.warning("the worker stops without handing over: %s", error)
        self._queries.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            self._heart.tick()
            self._engine.sweep()
            self._ownership.refill()
            self._remote.refill()
            self._show_troubles()

    def _show_troubles(self) -> None:
        """Put failures and complaints into the heartbeat, for ``jetflow stats``."""
        assert self._supervisor is not None
        failures = dict(self._supervisor.failures + self._engine.context.background.failures)
        set_aside = dict(islice(self._janitor.set_aside.items(), MOST_SET_ASIDE))
        refused = [self._ownership.refused] if self._ownership.refused else []
        shortages = [short] if (short := self._runner.threads.complaint()) else []
        if self._runner.threads.short:
            failures["activities that waited for a thread"] = self._runner.threads.short
        shown = (failures, set_aside, [*refused, *self._inspection.complaints], shortages)
        member = self._member
        if shown != (member.failures, member.set_aside, member.complaints, member.shortages):
            member.failures, member.set_aside, member.complaints, member.shortages = shown
            self._heart.tell(member)

    def _heed_limits(self) -> None:
        """Read the broker's message size limit again: a restarted server may have another one."""
        limit = self.client.broker.max_payload
        self._engine.context.heed_limits()
        self._runner.max_bytes = limit - PAYLOAD_MARGIN
        self._remote.max_outcome = limit - OUTCOME_MARGIN

    async def _heart_connection(self) -> tuple[Wire, Lane]:
        wire = await self.client.another_wire(f"heart/{self.task_queue}")
        return wire, Lane(wire, timeout=3)


def _registry(given: Iterable[Any], make: Callable[[Any], Any], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in given:
        try:
            definition = make(item)
            _ = definition.signature
        except InvalidInputError as error:
            raise RegistrationError(f"{what} {item!r} cannot be served: {error}") from error
        other = found.get(definition.name)
        if other is not None and other.function is not definition.function:
            raise RegistrationError(f"two functions are named {what} {definition.name!r}; give one another name with @{what}(name=…)")
        found[definition.name] = definition
    return found
