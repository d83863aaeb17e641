"""The owner's side of remote activities: it publishes and withdraws tasks, and turns outcomes into events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from msgspec import Raw

from jetflow.activity import MAX_DETAILS
from jetflow.broker.stores.tasks import Task, operation_tokens
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityOptions
from jetflow.core.failures import CODES
from jetflow.core.ids import to_token
from jetflow.core.operation import Operation, RunInfo
from jetflow.core.retries import after_failure
from jetflow.engine.activities.outcomes import is_outcome_of
from jetflow.engine.context import Context
from jetflow.engine.ownership.tenure import Tenure
from jetflow.errors import UNKNOWN, BrokerError, Failure, Kind
from jetflow.protocol import clock
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import TaskOutcome

log: logging.Logger = logging.getLogger("jetflow.worker")

Event = ev.ActivityCompleted | ev.ActivityFailed | ev.ActivityRetrying

AT_ONCE = 500
"""The most tasks that one workflow publishes at once."""
ALL_AT_ONCE = 20
"""If more operations than this end together with the run, one request withdraws all their tasks."""

_NO_OPTIONS = ActivityOptions()


class Dispatch:
    """Publishes and withdraws the tasks of one worker's workflows."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._missing: set[str] = set()

    async def publish(self, tenure: Tenure, info: RunInfo, wanted: list[tuple[Operation, bool]]) -> None:
        """Publish the next attempt of each operation. True beside an operation means that it may have been published before."""
        for place in range(0, len(wanted), AT_ONCE):
            await asyncio.gather(*(self._publish(tenure, info, operation, again) for operation, again in wanted[place : place + AT_ONCE]))

    async def _publish(self, tenure: Tenure, info: RunInfo, operation: Operation, again: bool) -> None:
        context, scheduled, attempt = self._context, operation.event, operation.attempt + 1
        id_token = to_token(info.workflow_id)
        if scheduled.task_queue is None and scheduled.name not in self._missing:
            self._missing.add(scheduled.name)
            log.warning(
                "this worker has no activity %r: its tasks wait for a worker of task queue %r that has it",
                scheduled.name, info.task_queue, extra=info.log_fields,
            )  # fmt: skip
        if again and await self._outcome_waits(tenure, id_token, info.run, operation.index, attempt):
            return
        options = _options(operation)
        limits = [options.start_to_close] if options.start_to_close is not None else []
        if options.schedule_to_close is not None:
            limits.append(max(1, scheduled.at + options.schedule_to_close - now_ms()))
        task = Task(
            workflow_id=info.workflow_id,
            task_queue=info.task_queue,
            run=info.run,
            index=operation.index,
            attempt=attempt,
            activity=scheduled.name,
            args=scheduled.input,
            reply=context.broker.names.command(context.queue_token, id_token, f"activity.{operation.index}"),
            start_to_close=min(limits, default=None),
            heartbeat=options.heartbeat,
            details=operation.details,
            again=again,
            workflow_type=info.workflow_type,
        )
        await tenure.tasks.publish(queue_of(operation, context.task_queue), task)

    async def _outcome_waits(self, tenure: Tenure, id_token: str, run: int, index: int, attempt: int) -> bool:
        names = self._context.broker.names
        subject = names.stored_commands(self._context.queue_token, id_token, f"activity.{index}")
        message = await tenure.lane.last_message(names.inbox_stream, subject)
        return message is not None and is_outcome_of(message.data, run, attempt)

    def end(self, tenure: Tenure, info: RunInfo, ended: list[Operation], *, closed: bool) -> None:
        """Withdraw the tasks of ended operations, and notify the workers that run them. Both may get lost."""
        context, id_token = self._context, to_token(info.workflow_id)
        for operation in ended:
            with contextlib.suppress(BrokerError):
                tokens = operation_tokens(context.queue_token, id_token, info.run, operation.index)
                tenure.tasks.tell_ended(queue_of(operation, context.task_queue), tokens)
        indexes: list[int | str] = ["*"] if closed and len(ended) > ALL_AT_ONCE else [operation.index for operation in ended]
        for index in indexes:
            context.background.tidy(tenure.tasks.withdraw(operation_tokens(context.queue_token, id_token, info.run, index)))


def queue_of(operation: Operation, own: str) -> str:
    """Return the task queue whose workers run a remote activity."""
    return operation.event.task_queue or own


def closes_at(operation: Operation) -> int | None:
    """Return the deadline of a remote activity's ``schedule_to_close_timeout`` (ms since the epoch), or None without one."""
    limit = _options(operation).schedule_to_close
    return None if limit is None else operation.event.at + limit


def out_of_time(operation: Operation, now: int) -> ev.ActivityFailed:
    """Return the failure of an activity whose ``schedule_to_close_timeout`` is over."""
    limit = (_options(operation).schedule_to_close or 0) / 1000
    message = f"activity {operation.event.name!r} has no outcome after {limit:g} s (schedule_to_close_timeout)"
    failure = Failure("AttemptTimeout", message, CODES[Kind.TIMED_OUT], cause=operation.failure, kind=Kind.TIMED_OUT)
    return ev.ActivityFailed(index=operation.index, at=now, failure=failure, attempt=operation.attempt + 1, kind=Kind.TIMED_OUT)


def event_of(outcome: TaskOutcome, operation: Operation) -> Event:
    """Return the event of an outcome: completed, failed, or retrying, by the operation's retry policy."""
    index, now, attempt, told = operation.index, now_ms(), outcome.attempt, outcome.failure
    if told is None:
        return ev.ActivityCompleted(index=index, at=now, result=outcome.result, attempt=attempt)
    options = _options(operation)
    final = told.non_retryable or not {told.type, *told.bases}.isdisjoint(options.retry.final_types)
    due, kind = after_failure(options, attempt, operation.event.at, now, retryable=not final, timed_out=told.timed_out, jitter=clock.chance())
    if due is None:
        return ev.ActivityFailed(index=index, at=now, failure=told.as_failure(CODES[kind]), attempt=attempt, kind=kind)
    failure = told.as_failure(UNKNOWN)
    told_details = bytes(outcome.details)
    details = Raw(told_details) if told_details != b"null" and len(told_details) <= MAX_DETAILS else operation.details
    return ev.ActivityRetrying(index=index, at=now, attempt=attempt, due=due, failure=failure, details=details)


def _options(operation: Operation) -> Any:
    return operation.options if operation.options is not None else _NO_OPTIONS
