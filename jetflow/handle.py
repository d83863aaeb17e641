"""The handle of one workflow: read it, wait for it, command it. Read this module top to bottom as the manual."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

import msgspec

from jetflow.broker.transport.connection import Broker
from jetflow.core.data import look_up
from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.durations import Duration, limit_ms, to_ms
from jetflow.core.ids import to_token
from jetflow.core.values import decode, encode
from jetflow.errors import FailureError, InvalidInputError, WorkflowAlreadyClosedError
from jetflow.history.event_maker import View
from jetflow.history.execution import HistoryEvent, WorkflowExecution
from jetflow.history.raw import Section, WorkflowExport
from jetflow.protocol import clock
from jetflow.protocol.commands import TerminateCommand, expire_header
from jetflow.protocol.headers import EXPIRE
from jetflow.protocol.record import StateRecord
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.exporting import ExecutionOptions, Exporter
from jetflow.reading.following import follow
from jetflow.reading.lookups import Lookups
from jetflow.reading.results import data_of, outcome_of, state_of
from jetflow.reading.sections import export_sections
from jetflow.sending import asking
from jetflow.sending.commands import send_command

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
    T = TypeVar("T")
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)


class WorkflowHandle(Generic[R_co]):
    """One workflow, from ``client.start()`` or ``client.get_handle()``.

    Attributes:
        workflow_id: its id.
        task_queue: its task queue.
        workflow_type: name of its function; None if unknown.
        run_id: the run that this handle is pinned to; None: the handle follows the latest run of the id.
    """

    def __init__(
        self,
        lookups: Lookups,
        ref: WorkflowRef,
        *,
        workflow_type: str | None = None,
        definition: WorkflowDefinition[..., Any] | None = None,
        started_here: bool = False,
    ) -> None:
        self.workflow_id: str = ref.workflow_id
        self.task_queue: str = ref.task_queue
        self.workflow_type = workflow_type
        self.run_id: str | None = ref.run_id
        self._ref = ref
        self._lookups = lookups
        self._broker: Broker = lookups.broker
        self._definition = definition
        self._started_here = started_here

    def __repr__(self) -> str:
        return f"<workflow {self.workflow_id!r} on {self.task_queue!r}, run {self.run_id or 'latest'}>"

    # ---- waiting

    @overload
    async def result(self, *, throw_on_error: Literal[True] = True, state: bool = False, timeout: Duration | None = None) -> R_co: ...
    @overload
    async def result(self, *, throw_on_error: bool, state: bool = False, timeout: Duration | None = None) -> R_co | FailureError: ...
    async def result(self, *, throw_on_error: bool = True, state: bool = False, timeout: Duration | None = None) -> Any:
        """Wait until the workflow has ended and return its result.

        Args:
            throw_on_error: False returns the error object instead of raising it.
            state: has no effect. The stored state is always read first.
            timeout: how long to wait; None: no limit.

        Raises:
            WorkflowFailedError: its code failed. The error has the original type name, message, code and stack. An ``ActivityError``,
                ``ChildWorkflowError`` or ``CancelledFailure`` that the code did not catch is raised as that type.
            WorkflowTerminatedError: it was terminated.
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
            ResultTimeoutError: the workflow did not end within the timeout.
        """
        started_here, self._started_here = self._started_here, False
        async with self._lookups.watches.until_closed(self._ref.queue_token, self._ref.id_token) as until:
            record = await self._lookups.first_look(self._ref, started_here=started_here)
            record = await self._lookups.closed_record(self._ref, until, record, timeout)
        return outcome_of(record, self._definition, throw_on_error=throw_on_error)

    # ---- reading

    async def state(self, *, metadata: bool = False) -> Any:
        """Return the result of a workflow that has completed. Before that, return its user data, or None if it has none.

        Args:
            metadata: True returns ``{"data": …, "metadata": …}`` with the whole state record.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        record = await self._lookups.record(self._ref)
        return state_of(self._ref, record, self._definition) if metadata else data_of(record, self._definition)

    async def query_state(self, fields: Sequence[str]) -> dict[str, Any]:
        """Return user data by name, as the workflow's code set it with ``enrich``, ``search()`` or ``entity()``.

        The values are about 0.1 s old at most.

        Args:
            fields: names of ``search()`` fields, or dotted paths into the entity. The value of a missing one is None.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        if isinstance(fields, str):
            raise InvalidInputError(f'query_state takes a list of names: query_state(["{fields}"])')
        record = await self._lookups.record(self._ref)
        if record is None:
            return dict.fromkeys(fields)
        return {name: decode(record.data[name]) if name in record.data else look_up(record.entity, name) for name in fields}

    @overload
    async def query(self, name: str, *args: Any, timeout: Duration = "5s", result_type: type[T]) -> T: ...
    @overload
    async def query(self, name: str, *args: Any, timeout: Duration = "5s", result_type: Any = Any) -> Any: ...
    async def query(self, name: str, *args: Any, timeout: Duration = "5s", result_type: Any = Any) -> Any:
        """Query the workflow, which answers from its own variables. A query stores nothing and changes nothing.

        A workflow that has ended still answers while its timeline is stored.

        Args:
            name: the name that the workflow's code passed to ``set_query_handler``.
            args: the handler's arguments.
            timeout: how long to wait for the answer.
            result_type: type of the answer. Default: plain JSON types.

        Raises:
            QueryError: the workflow has no such query (the message lists those it has), or the handler raised.
            WorkflowNotFoundError: there is no such workflow.
            WorkflowAlreadyClosedError: the workflow has ended and its timeline is gone.
            ResultTimeoutError: no answer came in time: no worker is up, or the handler is slow.
        """
        return await asking.query(self._broker, self._ref, self.describe, name, args, to_ms(timeout, "timeout") / 1000, result_type)

    async def status(self) -> int:
        """Return 0 if the workflow has completed, the number of pending operations if it runs, and below 0 if it failed or was terminated.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        record = await self._lookups.record(self._ref)
        return 1 if record is None else record.code

    async def describe(self) -> StateRecord | None:
        """Return the state record; None while the start is stored but no worker has applied it.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        return await self._lookups.record(self._ref)

    # ---- history

    async def export(self, allow: Sequence[Section] | None = None, block: Sequence[Section] = (), *, values: bool = True) -> WorkflowExport:
        """Return what is stored of the workflow, in five sections: ``data``, ``state``, ``status``, ``timeline`` and ``transitions``.

        Args:
            allow: only these sections. Default: all.
            block: sections to leave out, even if allowed.
            values: False replaces payloads (user data, inputs, results and errors) with ``{}``.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
            InvalidInputError: there is no such section.
        """
        return await export_sections(self._lookups, self._ref, self._definition, allow, block, values=values)

    async def export_execution(
        self,
        *,
        mode: Literal["sparse", "verbose"] = "sparse",
        max_depth: int = 5,
        exclude_system: bool = False,
        omit_results: bool = False,
        enrich_inputs: bool = False,
        allow_direct_query: bool = False,
        include_lineage: bool = False,
        include_stream_history: bool = False,
        extended: bool = False,
        first_event: int = 1,
        limit: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> WorkflowExecution:
        """Return the run's history: typed events, with references between those that belong together, and counts.

        Args:
            mode: ``"sparse"`` reads this workflow's timeline. ``"verbose"`` reads its children's too and nests their executions.
            max_depth: levels of a verbose export, counting this workflow's.
            exclude_system: leave out activities whose name begins with ``lt``.
            omit_results: leave out results, and inputs of the workflow and of signals.
            enrich_inputs: add inputs of activities and children, and the workflow's input even with ``omit_results``.
            allow_direct_query: export a workflow whose record has expired but whose timeline is still stored.
            include_lineage: add ``parent_workflow_id`` and ``origin_id``.
            include_stream_history: add the workflow's commands that are still in the inbox.
            extended: add events beyond the basic set: cancel requests, termination, generations, retries, timeouts, updates, …
            first_event: number of the first event to return.
            limit: the most events to return. ``next_event`` of the execution is the number to continue from. The summary counts the
                returned events.
            progress: called with the number of timeline keys read so far and their total.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
            InvalidInputError: an option's value is invalid.
        """
        view = View(exclude_system=exclude_system, omit_results=omit_results, enrich_inputs=enrich_inputs, extended=extended)
        options = ExecutionOptions(
            mode=mode, max_depth=max_depth, view=view, allow_direct_query=allow_direct_query, include_lineage=include_lineage,
            include_stream_history=include_stream_history, first_event=first_event, limit=limit, progress=progress,
        )  # fmt: skip
        return await Exporter(self._lookups, options).export(self._ref, self.workflow_type)

    async def watch(
        self, after: int = 0, *, exclude_system: bool = False, omit_results: bool = False, enrich_inputs: bool = False, extended: bool = False
    ) -> AsyncIterator[HistoryEvent]:
        """Yield the events of ``export_execution``: first those recorded already, then live ones until the run ends.

        An event comes within about 0.2 s of its commit. Each event comes once, even if connections break or workers die. Its number is
        the one in an export with the same options. Watching is cheap: the broker has one plain subscription for each workflow that a
        client watches, and no consumer.

            async for event in handle.watch(after=seen):
                print(event.event_id, event.event_type)

        Args:
            after: number of the last event that the caller has; 0: none.
            exclude_system: leave out activities whose name begins with ``lt``.
            omit_results: leave out results, and inputs of the workflow and of signals.
            enrich_inputs: add inputs of activities and children.
            extended: add events beyond the basic set.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its history expired before all of it was read.
        """
        view = View(exclude_system=exclude_system, omit_results=omit_results, enrich_inputs=enrich_inputs, extended=extended)
        async with self._lookups.watches.notices(self._ref.queue_token, self._ref.id_token) as notices:
            async for event in follow(self._lookups, self._ref, notices, after, view):
                yield event

    async def exists(self) -> bool:
        """Return whether there is such a workflow: it runs, its record has not expired, or its start is stored."""
        return await self._lookups.exists(self._ref)

    # ---- commanding

    async def signal(self, name: str, data: Any = None, expire: Duration | None = "10m") -> None:
        """Send a signal. Return once the broker has stored it.

        Args:
            name: the name that the workflow waits for with ``condition(name)``.
            data: any JSON value.
            expire: how long the signal waits for the workflow's ``condition``, even before the workflow starts; ``"forever"`` or None: no limit.

        Raises:
            InvalidInputError: the data cannot be written as JSON.
        """
        headers = self._ref.run_header()
        if expire != "10m":
            headers[EXPIRE] = expire_header(expire)
        body = b"" if data is None else bytes(encode(data, "signal data"))
        await send_command(self._broker, self._ref, f"signal.{to_token(name, 'signal name')}", body, headers)

    @overload
    async def update(self, name: str, *args: Any, timeout: Duration | None = "1m", update_id: str | None = None, result_type: type[T]) -> T: ...
    @overload
    async def update(self, name: str, *args: Any, timeout: Duration | None = "1m", update_id: str | None = None, result_type: Any = Any) -> Any: ...
    async def update(self, name: str, *args: Any, timeout: Duration | None = "1m", update_id: str | None = None, result_type: Any = Any) -> Any:
        """Call a function of the running workflow once, and return its result when the result is stored.

        Args:
            name: the name that the workflow's code passed to ``set_update_handler``.
            args: the handler's arguments.
            timeout: how long to wait; None: no limit. The update continues without its caller.
            update_id: makes the call repeatable: another call with the same id returns the outcome of the first.
            result_type: type of the result. Default: plain JSON types.

        Raises:
            UpdateError: the workflow has no such update (the message lists those it has), refused it, or the handler raised.
            WorkflowNotFoundError: there is no such workflow.
            WorkflowAlreadyClosedError: the workflow has ended, or ended before the update was done.
            ResultTimeoutError: no answer came in time. Call it again with the same ``update_id``.
        """
        record = await self._lookups.record(self._ref)
        if record is not None and record.closed and update_id is None:
            raise WorkflowAlreadyClosedError(self.workflow_id, record.status)
        limit = limit_ms(timeout, "timeout")
        seconds = None if limit is None else limit / 1000
        return await asking.update(self._broker, self._ref, name, args, seconds, update_id or clock.token(8), result_type)

    async def cancel(self, reason: str | None = None) -> None:
        """Ask the workflow to stop. Its pending or next durable operation raises ``CancelledFailure``, which its code may catch.

        Args:
            reason: a text for the failure's message.
        """
        await send_command(self._broker, self._ref, "cancel", msgspec.json.encode({"reason": reason or "", "run": self._ref.run_number()}))

    async def terminate(
        self,
        reason: str = "job interrupted",
        code: int = 410,
        *,
        throw: bool = True,
        descend: bool = False,
        suppress: bool = False,
        expire: Duration | Literal["default"] | None = "1s",
        stack: str | None = None,
    ) -> None:
        """End the workflow at once. None of its code runs any more.

        Args:
            reason: the failure's message, for callers of ``result()``.
            code: the failure's code.
            throw: False makes ``result()`` return None instead of raising.
            descend: True terminates its descendants too, whatever their parent-close policy.
            suppress: True does not raise if the workflow has already ended.
            expire: how long the record stays. One second by default, so that the id is soon free again. ``"default"``: as long as if the
                run had ended by itself. ``"forever"`` or None: no limit.
            stack: a traceback for the failure.

        Raises:
            WorkflowAlreadyClosedError: the workflow has already ended, and ``suppress`` is False.
            WorkflowNotFoundError: there is no such workflow.
        """
        record = await self._lookups.record(self._ref)
        if record is not None and record.closed:
            if suppress:
                return
            raise WorkflowAlreadyClosedError(self.workflow_id, record.status)
        command = TerminateCommand(
            reason=reason, code=code, throw=throw, descend=descend, suppress=suppress,
            expire=None if expire == "default" else expire_header(expire), stack=stack, run=self._ref.run_number(),
        )  # fmt: skip
        await send_command(self._broker, self._ref, "terminate", msgspec.json.encode(command))
