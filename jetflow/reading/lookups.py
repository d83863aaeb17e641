"""Reads of single workflows, for a client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

from jetflow.broker.stores.state import StateStore
from jetflow.broker.stores.timeline import Entry, Timeline, UnreadableTimelineError, begins_run
from jetflow.broker.stores.timers import ScheduledStarts
from jetflow.broker.transport.connection import Broker
from jetflow.core import events as ev
from jetflow.core.durations import Duration, limit_ms
from jetflow.core.location import user_location
from jetflow.core.log_fields import about
from jetflow.core.loop import WorkflowLoop
from jetflow.errors import (
    BrokerUnavailableError,
    Kind,
    NotAllowedInWorkflowError,
    ResultTimeoutError,
    WorkflowNotFoundError,
    WrongEventLoopError,
)
from jetflow.protocol import clock
from jetflow.protocol.record import REPLACED, StateRecord
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.notices import Until, Watches
from jetflow.reading.shared_reads import SharedReads

CLOCKS_APART = 1000
"""Milliseconds by which the clocks of clients and workers may differ."""
log: logging.Logger = logging.getLogger("jetflow.client")

WARN_AT = 3
"""The read of a record without a notice, counted from the beginning of a wait, after which a reason to wait is logged: after about six seconds."""
LOOKS = 3
"""Most rounds of reading the record and the start in turn. A start leaves the inbox only after its record was written."""


class Lookups:
    """Reads single workflows. A client has one of these, which its handles share.

    Attributes:
        broker: the connection.
        states: the store of state records.
        starts: the store of starts that are scheduled for later.
        timeline: the store of timelines.
        watches: the client's waits for workflows.
        shared_reads: running reads of timelines, shared by watchers.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.states: StateStore = StateStore(broker.lane, broker.names)
        self.starts: ScheduledStarts = ScheduledStarts(broker.lane, broker.names)
        self.timeline: Timeline = Timeline(broker.lane, broker.names)
        self.watches: Watches = Watches(broker)
        self.shared_reads: SharedReads = SharedReads()
        self._thread = threading.current_thread()

    def here(self) -> Lookups:
        """Return itself, where the client may be used.

        Raises:
            WrongEventLoopError: another event loop, or another thread, has the connection.
            NotAllowedInWorkflowError: workflow code uses the client.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # plain code may make a handle, or read an address
            return self
        if loop is not self.watches.loop:
            if isinstance(loop, WorkflowLoop):
                fix = "use it in an @activity; workflow code has start_child() and signal()"
                raise NotAllowedInWorkflowError("using a client", user_location() or "the workflow", fix)
            raise WrongEventLoopError(self._thread.name if self._thread is not threading.current_thread() else None)
        return self

    async def record(self, ref: WorkflowRef, *, awaited: bool = False) -> StateRecord | None:
        """Return the record of a run; None while its start is stored but no worker has applied it.

        The owner acks a start only after it has written the record. So one of the two always exists. A caller that has ``awaited`` the run
        since before its end gets the record whenever the next owner writes it, even after the time for which the record is kept.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        replicated = self.broker.topology.replicas > 1
        for look in range(LOOKS):
            record = await self.states.get(ref.queue_token, ref.id_token, fresh=replicated or look > 0)
            if record is not None and ref.covers(record):
                return record
            if record is not None and ref.run_id is not None and int(record.run_id) > int(ref.run_id):
                break  # a later run has taken the id
            if await self._start_waits(ref, awaited=awaited):
                return None
        raise ref.not_found()

    async def exists(self, ref: WorkflowRef) -> bool:
        """Return whether there is such a workflow: it runs, its record has not expired, or its start is stored."""
        try:
            await self.record(ref)
        except WorkflowNotFoundError:
            return False
        return True

    async def first_look(self, ref: WorkflowRef, *, started_here: bool) -> StateRecord | None:
        """Return the record for a caller that already listens for changes; None if there is none yet, or the broker does not answer.

        Args:
            ref: the workflow.
            started_here: this client has just started it, so that it exists.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        if started_here:
            record = await self.states.get(ref.queue_token, ref.id_token)
            return record if record is not None and ref.covers(record) else None
        with contextlib.suppress(BrokerUnavailableError):
            return await self.record(ref)
        return None

    async def closed_record(self, ref: WorkflowRef, until: Until, record: StateRecord | None, timeout: Duration | None) -> StateRecord:
        """Wait for the end of a run and return its record.

        Args:
            ref: the run.
            until: a wait for its end that began before ``record`` was read.
            record: the record as last read.
            timeout: how long to wait; ``"forever"`` or None: no limit.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
            ResultTimeoutError: the run did not end within the timeout.
        """
        limit = limit_ms(timeout, "timeout")
        if limit is None:
            return await self._closed_record(ref, until, record)
        try:
            async with asyncio.timeout(limit / 1000):
                return await self._closed_record(ref, until, record)
        except TimeoutError as error:
            raise ResultTimeoutError(f"workflow {ref.workflow_id!r} has not ended within {timeout}; it is still running") from error

    async def _closed_record(self, ref: WorkflowRef, until: Until, record: StateRecord | None) -> StateRecord:
        looks = 0
        while record is None or not record.closed or not ref.covers(record) or await self._is_followed(ref, record):
            record = await until.next()
            if record is None:
                with contextlib.suppress(BrokerUnavailableError):  # read again later
                    record = await self.record(ref, awaited=True)
                    looks += 1
                    if looks == WARN_AT:
                        await self._warn(ref, record)
        return record

    async def _warn(self, ref: WorkflowRef, record: StateRecord | None) -> None:
        """Log why a run does not begin, or does not go on, that a caller has waited for since some seconds."""
        fields = about(ref.workflow_id, ref.task_queue, run_id=ref.run_id or "")
        if record is not None:
            if record.parked is not None and not record.closed:
                fields |= {"workflow_type": record.workflow_type}
                log.warning("workflow %s is parked: %s: %s", ref.workflow_id, record.parked.reason, record.parked.message, extra=fields)
            return
        names = self.broker.names
        asked = {"multi_last": [names.workers(ref.queue_token)]}
        found = await self.broker.lane.read_many(names.worker_stream, asked, may_lag="a warning for people")
        if not any(message.data and b'"leaving":true' not in message.data for message in found):
            text = "no worker serves task queue %r; the start of workflow %s is stored and waits for one"
            log.warning(text, ref.task_queue, ref.workflow_id, extra=fields)

    async def _start_waits(self, ref: WorkflowRef, *, awaited: bool) -> bool:
        names = self.broker.names
        message = await self.broker.lane.last_message(names.inbox_stream, names.pending_start(ref.queue_token, ref.id_token))
        if message is not None:
            is_meant = ref.run_id is None or message.seq >= int(ref.run_id)
            return is_meant and (awaited or not await self._has_expired(ref, message.seq))
        return ref.run_id is None and await self.starts.start_is_scheduled(ref.queue_token, ref.id_token)

    async def _has_expired(self, ref: WorkflowRef, run: int) -> bool:
        """Whether a run has ended, and the time of its record is over, though no worker has acked its start yet."""
        try:
            last = await self.timeline.last(ref.queue_token, ref.id_token)
        except UnreadableTimelineError:  # its owner parks it, with a record that says so
            return False
        if last is None or last.commit.run != run:
            return False
        closing = next((event for event in last.commit.events if isinstance(event, (ev.Completed, ev.Failed, ev.Terminated))), None)
        if closing is None:
            return False
        kept = closing.kept_ms if isinstance(closing, ev.Terminated) else await self._kept(ref, last)
        return kept is not None and closing.at + kept + CLOCKS_APART <= clock.now_ms()

    async def _kept(self, ref: WorkflowRef, last: Entry) -> int | None:
        entries = [last] if begins_run(last) else await self.timeline.run(ref.queue_token, ref.id_token, last)
        started = [event for entry in entries for event in entry.commit.events if isinstance(event, ev.Started)]
        return started[-1].expire if started else None

    async def _is_followed(self, ref: WorkflowRef, record: StateRecord) -> bool:
        """Whether another run takes the place of one that has ended, for a caller who follows the latest."""
        if ref.run_id is not None or record.failure is None or record.failure.mark != Kind.TERMINATED:
            return False
        replaced = REPLACED in record.failure.message
        with contextlib.suppress(BrokerUnavailableError, WorkflowNotFoundError):
            names = self.broker.names
            message = await self.broker.lane.last_message(names.inbox_stream, names.pending_start(ref.queue_token, ref.id_token))
            if message is not None and message.seq > int(record.run_id):
                return True
            latest = await self.states.get(ref.queue_token, ref.id_token, fresh=True)  # its start is acked only once its record is written
            return replaced if latest is None else latest.run_id != record.run_id
        return replaced
