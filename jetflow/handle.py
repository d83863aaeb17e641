"""The handle of one workflow: read it, wait for it, command it. Read it top to bottom and you have the manual."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from jetflow.broker.transport.connection import Broker
from jetflow.core.data import look_up
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
from jetflow.reading.results import ResultType, data_of, outcome_of, state_of
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
        task_queue: whose workers run it.
        workflow_type: name of its function, where known.
        run_id: the run that this handle is pinned to; None to follow the latest run of the id.
    """

    def __init__(
        self,
        lookups: Lookups,
        ref: WorkflowRef,
        *,
        workflow_type: str | None = None,
        definition: ResultType = None,
        started_here: bool = False,
    ) -> None:
        self.workflow_id: str = ref.workflow_id
        self.task_queue: str = ref.task_queue
        self.workflow_type = workflow_type
        self.run_id: str | None = ref.run_id
        self._ref = ref
        self._client = lookups
        self._definition = definition
        self._started_here = started_here

    @property
    def _lookups(self) -> Lookups:
        return self._client.here()

    @property
    def _broker(self) -> Broker:
        return self._client.here().broker

    def __repr__(self) -> str:
        return f"<workflow {self.workflow_id!r} on {self.task_queue!r}, run {self.run_id or 'latest'}>"

    # ---- waiting

    @overload
    async def result(self, *, throw_on_error: Literal[True] = True, state: bool = False, timeout: Duration | None = None) -> R_co: ...
    @overload
    async def result(self, *, throw_on_error: bool, state: bool = False, timeout: Duration | None = None) -> R_co | FailureError: ...
    async def result(self, *, throw_on_error: bool = True, state: bool = False, timeout: Duration | None = None) -> Any:
        """Waits until the workflow has ended and gives its result.

        Args:
            throw_on_error: False gives the error object instead of raising it.
            state: kept for the documented call; the stored state is always looked at first.
            timeout: how long to wait; None for as long as it takes.

        Raises:
            WorkflowFailedError: its code failed: original type name, message, code and remote stack. An ``ActivityError``,
                ``ChildWorkflowError`` or ``CancelledFailure`` that it did not catch is raised as such.
            WorkflowTerminatedError: it was terminated.
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
            ResultTimeoutError: the timeout came first.
        """
        started_here, self._started_here = self._started_here, False
        async with self._lookups.watches.until_closed(self._ref.queue_token, self._ref.id_token) as until:
            record = await self._lookups.first_look(self._ref, started_here=started_here)
            record = await self._lookups.closed_record(self._ref, until, record, timeout)
        return outcome_of(record, self._definition, throw_on_error=throw_on_error)

    # ---- reading

    async def state(self, *, metadata: bool = False) -> Any:
        """The latest persisted output: the result of a workflow that has completed; before that its user data if it has any, else None.

        Args:
            metadata: True gives ``{"data": …, "metadata": …}`` with the whole state record.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        record = await self._lookups.record(self._ref)
        return state_of(self._ref, record, self._definition) if metadata else data_of(record, self._definition)

    async def query_state(self, fields: Sequence[str]) -> dict[str, Any]:
        """User data by name, as the workflow's code set it with ``enrich``, ``search()`` or ``entity()``; about 0.1 s old at most.

        Args:
            fields: names of ``search()`` fields, or dotted paths into the entity. What there is not is None.

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
        """Asks the running workflow, which answers from its own variables; nothing is stored and nothing changes.

        A workflow that has ended can be asked for as long as its timeline is kept. Repeating a query is harmless.

        Args:
            name: what the workflow's code gave out with ``set_query_handler``.
            args: for the handler.
            timeout: how long to wait for an answer, while no worker is up, or the handler computes.
            result_type: type of the answer; plain JSON types without it.

        Raises:
            QueryError: there is no such query, with the names there are; or what the handler raised.
            WorkflowNotFoundError: there is no such workflow.
            WorkflowAlreadyClosedError: it has ended, and its timeline is gone.
            ResultTimeoutError: no answer came in time.
        """
        return await asking.query(self._broker, self._ref, self.describe, name, args, to_ms(timeout, "timeout") / 1000, result_type)

    async def status(self) -> int:
        """0 once completed, above 0 the number of pending operations, below 0 failed or terminated.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        record = await self._lookups.record(self._ref)
        return 1 if record is None else record.code

    async def describe(self) -> StateRecord | None:
        """The whole state record; None while the start is stored but no worker has taken it up.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
        """
        return await self._lookups.record(self._ref)

    # ---- history

    async def export(self, allow: Sequence[Section] | None = None, block: Sequence[Section] = (), *, values: bool = True) -> WorkflowExport:
        """The workflow as it is stored, in five sections: ``data``, ``state``, ``status``, ``timeline`` and ``transitions``.

        Args:
            allow: only these sections; all when not given.
            block: sections to leave out, also of those allowed.
            values: False puts ``{}`` in the place of payloads: user data, inputs, results and errors.

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
        """The run as a history of typed events, with references between those that belong together, and counts.

        Args:
            mode: ``"sparse"`` reads this workflow's timeline; ``"verbose"`` its children's too, and nests their executions.
            max_depth: how many levels a verbose export has, this workflow's included.
            exclude_system: leaves out activities whose name begins with ``lt``.
            omit_results: leaves out results, and inputs of the workflow and of signals.
            enrich_inputs: adds inputs of activities and children; that of the workflow is then there despite ``omit_results``.
            allow_direct_query: also when the workflow's record has expired, as long as its timeline is kept.
            include_lineage: adds ``parent_workflow_id`` and ``origin_id``.
            include_stream_history: adds the workflow's commands that are still in the inbox.
            extended: adds events beyond the basic set: cancel requests, termination, generations, retries, timeouts, updates, …
            first_event: the first event wanted, by number; what comes before is read, and not kept.
            limit: how many at most; ``next_event`` of the execution says where to go on. The summary counts the events given.
            progress: called with the timeline keys that were read so far, and all there are.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its record has expired.
            InvalidInputError: an option's value cannot be used.
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
        """The events of ``export_execution``, from the first one on and then live; ends with the run.

        An event comes within about 0.2 s of its commit, none is left out or comes twice, whatever becomes of connections and workers, and
        its number is what it is in an export with the same options. Any number may watch: the broker has one plain subscription for
        each workflow that a client watches, and no consumer.

            async for event in handle.watch(after=seen):
                print(event.event_id, event.event_type)

        Args:
            after: the last event that is known already, by number. Events before it are read, and not given.
            exclude_system: leaves out activities whose name begins with ``lt``.
            omit_results: leaves out results, and inputs of the workflow and of signals.
            enrich_inputs: adds inputs of activities and children.
            extended: adds events beyond the basic set.

        Raises:
            WorkflowNotFoundError: there is no such workflow, or its history went before it was read to the end.
        """
        view = View(exclude_system=exclude_system, omit_results=omit_results, enrich_inputs=enrich_inputs, extended=extended)
        async with self._lookups.watches.notices(self._ref.queue_token, self._ref.id_token) as notices:
            async for event in follow(self._lookups, self._ref, notices, after, view):
                yield event

    async def exists(self) -> bool:
        """Whether there is such a workflow: one that runs, has its record kept, or is yet to start."""
        return await self._lookups.exists(self._ref)

    # ---- commanding

    async def signal(self, name: str, data: Any = None, expire: Duration | None = "10m") -> None:
        """Delivers a signal; returns once it is stored.

        Args:
            name: what the workflow waits for with ``condition(name)``.
            data: anything that JSON can hold.
            expire: how long the signal is kept if nobody waits for it yet, also before the workflow starts; ``"forever"`` or None for ever.

        Raises:
            InvalidInputError: the data cannot be JSON.
        """
        headers = {EXPIRE: expire_header(expire)} if expire != "10m" else {}
        body = b"" if data is None else bytes(encode(data, "signal data"))
        await send_command(self._broker, self._ref, f"signal.{to_token(name, 'signal name')}", body, headers)

    @overload
    async def update(self, name: str, *args: Any, timeout: Duration | None = "1m", update_id: str | None = None, result_type: type[T]) -> T: ...
    @overload
    async def update(self, name: str, *args: Any, timeout: Duration | None = "1m", update_id: str | None = None, result_type: Any = Any) -> Any: ...
    async def update(self, name: str, *args: Any, timeout: Duration | None = "1m", update_id: str | None = None, result_type: Any = Any) -> Any:
        """Calls a function of the running workflow, once, and gives its result when that is stored.

        Args:
            name: what the workflow's code gave out with ``set_update_handler``.
            args: for the handler.
            timeout: how long to wait; None for as long as it takes. The update goes on without its caller.
            update_id: makes the call repeatable: another call with the same id gives the outcome of the first.
            result_type: type of the result; plain JSON types without it.

        Raises:
            UpdateError: there is no such update, with the names there are; it was refused; or what the handler raised.
            WorkflowNotFoundError: there is no such workflow.
            WorkflowAlreadyClosedError: it has ended, or ended before the update was done.
            ResultTimeoutError: no answer came in time; ask again with the same ``update_id``.
        """
        to_token(name, "update name")
        record = await self._lookups.record(self._ref)
        if record is not None and record.closed and update_id is None:
            raise WorkflowAlreadyClosedError(self.workflow_id, record.status)
        limit = limit_ms(timeout, "timeout")
        seconds = None if limit is None else limit / 1000
        return await asking.update(self._broker, self._ref, name, args, seconds, update_id or clock.token(8), result_type)

    async def cancel(self, reason: str | None = None) -> None:
        """Asks the workflow to stop: its pending or next durable operation raises ``CancelledFailure``, which it may catch.

        Args:
            reason: shown in the failure.
        """
        await send_command(self._broker, self._ref, "cancel", encode({"reason": reason or "", "run": self._ref.run_number()}, "reason"))

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
        """Ends the workflow at once; none of its code runs any more.

        Args:
            reason: shown to whoever waits for the result.
            code: the failure's code.
            throw: False makes ``result()`` give None instead of raising.
            descend: True ends its descendants too, whatever their parent-close policy.
            suppress: True says nothing if it has ended already.
            expire: how long its record is kept: a second, so that the id is free again at once. ``"default"`` keeps it as long as if
                the run had ended by itself, ``"forever"`` or None for ever.
            stack: a traceback to show in the failure.

        Raises:
            WorkflowAlreadyClosedError: it has ended already, unless suppressed.
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
        await send_command(self._broker, self._ref, "terminate", encode(command, "the terminate command"))
