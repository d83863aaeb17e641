"""``WorkflowHandle.export_execution``: reading timelines and building executions from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from jetflow.broker.transport.lane import StoredMessage
from jetflow.core import events as ev
from jetflow.core.ids import from_token, to_token
from jetflow.core.times import to_iso
from jetflow.core.values import shown
from jetflow.errors import InvalidInputError, WorkflowNotFoundError
from jetflow.history.build import History
from jetflow.history.event_maker import View
from jetflow.history.execution import HistoryEvent, StreamMessage, WorkflowExecution, summarize
from jetflow.protocol.headers import given_headers
from jetflow.protocol.record import StateRecord
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.lookups import Lookups
from jetflow.reading.run_reader import RunReader

AT_ONCE = 16
"""Most timelines read at once."""
INBOX_PAGE = 500

Progress = Callable[[int, int], None]


class ExecutionOptions(Struct, frozen=True, kw_only=True):
    """The options of ``WorkflowHandle.export_execution``."""

    mode: str = "sparse"
    max_depth: int = 5
    view: View = View()
    allow_direct_query: bool = False
    include_lineage: bool = False
    include_stream_history: bool = False
    first_event: int = 1
    limit: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("sparse", "verbose"):
            raise InvalidInputError(f'mode must be "sparse" or "verbose", not {self.mode!r}')
        if self.max_depth < 1:
            raise InvalidInputError(f"max_depth must be 1 or more, not {self.max_depth}")
        if self.first_event < 1 or (self.limit is not None and self.limit < 1):
            raise InvalidInputError(f"first_event and limit must be 1 or more, not {self.first_event} and {self.limit}")


class Run(Struct):
    """What was read of a run: its history up to the last event read, the requested events, and the last recorded event."""

    history: History
    run: int | None
    events: list[HistoryEvent]
    next_event: int | None = None
    last: Any = None

    @property
    def found(self) -> bool:
        """Return whether anything was found."""
        return self.history.first is not None


class Exporter:
    """One export, with its children's."""

    def __init__(self, lookups: Lookups, options: ExecutionOptions) -> None:
        self._lookups = lookups
        self._broker = lookups.broker
        self._options = options
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def export(self, ref: WorkflowRef, workflow_type: str | None) -> WorkflowExecution:
        """Return the execution of a workflow.

        Args:
            ref: the workflow.
            workflow_type: its type if known, for a workflow without recorded events.

        Raises:
            WorkflowNotFoundError: see ``WorkflowHandle.export_execution``.
        """
        options = self._options
        record = None if options.allow_direct_query else await self._lookups.record(ref)
        run = ref.run_number()
        found = await self._read(ref.workflow_id, ref.task_queue, run, options.first_event, options.limit, options.progress)
        if record is None and not (found.found and options.allow_direct_query):
            execution = await self._unrecorded(ref, workflow_type, found)
        elif not found.found:
            execution = _without_timeline(ref, workflow_type, record)
        else:
            execution = self._execution(found)
        if options.mode == "verbose":
            execution.children = await self._children(found, 1)
        if options.include_stream_history:
            execution.stream_history = await self._stream_history(ref)
        return execution

    async def _unrecorded(self, ref: WorkflowRef, workflow_type: str | None, found: Run) -> WorkflowExecution:
        """Return the execution of a workflow without a record: its start waits for a worker, or a worker has just applied it."""
        names = self._broker.names
        subject = names.pending_start(ref.queue_token, ref.id_token)
        start = await self._broker.lane.last_message(names.inbox_stream, subject)
        if start is not None and (found.run is None or found.run < start.seq):
            execution = _without_timeline(ref, workflow_type, None)
            execution.run_id, execution.workflow_type = str(start.seq), from_token(start.subject.rpartition(".")[2])
            return execution
        return self._execution(found) if found.found else _without_timeline(ref, workflow_type, await self._lookups.record(ref))

    async def _read(
        self, workflow_id: str, task_queue: str, run: int | None, first: int = 1, limit: int | None = None, progress: Progress | None = None
    ) -> Run:
        history = History(workflow_id, task_queue, self._options.view)
        events: list[HistoryEvent] = []
        end = None if limit is None else first + limit
        more = False
        async with self._turns:
            reader = RunReader(self._lookups.timeline, to_token(task_queue, "task queue"), to_token(workflow_id, "workflow id"), run)
            async for recorded in reader.unread():
                page = history.add(recorded)
                more = end is not None and history.count >= end
                if first > 1 or more:
                    page = [event for event in page if first <= event.event_id and (end is None or event.event_id < end)]
                events += page
                if progress is not None and reader.last is not None:
                    progress(reader.next_seq - max(reader.first_seq, 1), reader.last.seq - max(reader.first_seq, 1) + 1)
                if more:
                    break
        if reader.gone and history.first is not None:
            raise WorkflowNotFoundError(workflow_id, task_queue, str(reader.run))
        last = reader.last.commit.events[-1] if reader.last is not None and reader.last.commit.events else None
        return Run(history, reader.run, events, end if more else None, last)

    def _execution(self, found: Run) -> WorkflowExecution:
        history = found.history
        first, options = history.first, self._options
        assert first is not None
        if history.closing is None and isinstance(found.last, ev.CLOSING):
            history.closing = found.last  # the history was not read to the run's end
            history.now = max(history.now, found.last.at)
        result = None
        if isinstance(history.closing, ev.Completed) and not options.view.omit_results:
            result = shown(history.closing.result)
        closed = history.closing is not None
        execution = WorkflowExecution(
            workflow_id=history.workflow_id,
            workflow_type=history.workflow_type,
            task_queue=history.task_queue,
            run_id=str(found.run),
            status=history.status,
            start_time=to_iso(history.started_at),
            close_time=to_iso(history.now) if closed else None,
            duration_ms=history.now - history.started_at if closed else None,
            result=result,
            failure=history.failure,
            events=found.events,
            summary=summarize(found.events),
            closing_reason=history.closing_reason,
            next_event=msgspec.UNSET if found.next_event is None else found.next_event,
        )
        if options.include_lineage:
            execution.parent_workflow_id = first.parent.workflow_id if first.parent is not None else None
            execution.origin_id = first.origin
        return execution

    # ---- children

    async def _children(self, parent: Run, depth: int) -> list[WorkflowExecution]:
        if depth >= self._options.max_depth:
            return []
        begun = {event.attributes.execution_index for event in parent.events if event.event_type == "child_workflow_execution_started"}  # type: ignore[union-attr]
        wanted = [child for child in parent.history.children if child.index in begun]
        found = await asyncio.gather(*(self._child(parent, child, depth + 1) for child in wanted))
        return [execution for execution in found if execution is not None]

    async def _child(self, parent: Run, child: ev.ChildStarted, depth: int) -> WorkflowExecution | None:
        """Return a child's execution; None if its history is gone, or another workflow has its id."""
        try:
            found = await self._read(child.workflow_id, child.task_queue, None)
        except WorkflowNotFoundError:
            return None
        lineage = found.history.first.parent if found.history.first is not None else None
        if lineage is None or (lineage.workflow_id, lineage.task_queue, lineage.run, lineage.index) != (
            parent.history.workflow_id,
            parent.history.task_queue,
            parent.run,
            child.index,
        ):
            return None
        execution = self._execution(found)
        execution.children = await self._children(found, depth)
        return execution

    # ---- commands in the inbox

    async def _stream_history(self, ref: WorkflowRef) -> list[StreamMessage]:
        names, queue, workflow = self._broker.names, ref.queue_token, ref.id_token
        found: list[StoredMessage] = []
        for subject in (names.stored_commands(queue, workflow), names.timers(queue, workflow)):
            seq = 1
            while True:
                page = await self._broker.lane.read_many(
                    names.inbox_stream, {"seq": seq, "next_by_subj": subject, "batch": INBOX_PAGE}, may_lag="an export is of about now"
                )
                found += page
                if len(page) < INBOX_PAGE:
                    break
                seq = page[-1].seq + 1
        return [_stream_message(message) for message in sorted(found, key=lambda message: message.seq)]


def _stream_message(message: StoredMessage) -> StreamMessage:
    return StreamMessage(message.seq, message.subject, message.time, given_headers(message.headers), shown(message.data))


def _without_timeline(ref: WorkflowRef, workflow_type: str | None, record: StateRecord | None) -> WorkflowExecution:
    """Return the execution of a workflow without a timeline: no worker has applied its start, or it is parked."""
    return WorkflowExecution(
        workflow_id=ref.workflow_id,
        workflow_type=record.workflow_type if record is not None else workflow_type or "",
        task_queue=ref.task_queue,
        run_id=record.run_id if record is not None else ref.run_id,
        status="running",
        start_time=None,
        close_time=None,
        duration_ms=None,
        result=None,
        failure=None,
        events=[],
        summary=summarize([]),
    )
