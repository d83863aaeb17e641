"""What each input does to a run, one function for each kind. The code runs afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.failures import FATAL, Failure, to_error, to_failure
from jetflow.core.handlers import Handlers
from jetflow.core.loop import Stop
from jetflow.errors import InvalidInputError

if TYPE_CHECKING:
    from jetflow.core.machine import Machine


def _on_started(machine: Machine, event: ev.Started) -> None:
    machine.next_index = event.first_index
    machine.consumed = dict(event.consumed)
    machine.consumed_from = {signal: dict(numbers) for signal, numbers in event.consumed_from.items()}
    if event.cancel_reason is not None:
        machine.cancel_requested = ev.CancelRequested(at=event.at, reason=event.cancel_reason)
    if event.data or event.entity is not None:
        machine.data = UserData(machine.max_payload // 2, event.data, event.entity)
    if event.updates or event.forgotten:
        machine.handlers = Handlers(event.updates, event.forgotten)
    try:
        args = machine.definition.signature.decode_args(event.input)
    except InvalidInputError as error:
        machine.end(ev.Failed(at=machine.now, failure=to_failure(error, FATAL)))
        return
    machine.start_code(args)


def _on_retrying(machine: Machine, event: ev.ActivityRetrying) -> None:
    operation = machine.awaited(event.index)
    operation.attempt, operation.due, operation.failure = event.attempt, event.due, event.failure
    operation.details = event.details


def _on_queued(machine: Machine, event: ev.ActivityQueued) -> None:
    machine.awaited(event.index).remote = True


def _on_result(machine: Machine, event: ev.ActivityCompleted | ev.ChildCompleted | ev.Signaled) -> None:
    operation = machine.resolve(event.index)
    if isinstance(event, ev.Signaled):
        if event.seq:  # a signal by id has no place of its own in the inbox
            machine.consumed[event.signal] = event.seq
        if event.sender is not None:
            numbers = machine.consumed_from.setdefault(event.signal, {})
            numbers.pop(event.sender, None)  # the latest is last
            numbers[event.sender] = event.number
        payload = event.data
        if operation.due is not None:
            machine.ended.append(operation)  # its timeout is not needed any more
    else:
        payload = event.result
    try:
        value = operation.decode(payload)
    except InvalidInputError as error:
        operation.fail(error)
    else:
        operation.succeed(value)


def _on_activity_failed(machine: Machine, event: ev.ActivityFailed) -> None:
    operation = machine.resolve(event.index)
    cause, name = event.failure, operation.event.name
    times = f" after {event.attempt} attempts" if event.attempt > 1 else ""
    error = to_error(Failure("ActivityError", f"activity {name!r} failed{times}: {cause.type}: {cause.message}", cause.code, cause.stack, cause))
    if operation.options is not None and not operation.options.retry.throw_on_error:
        operation.succeed(error)
    else:
        operation.fail(error)


def _on_timer_fired(machine: Machine, event: ev.TimerFired) -> None:
    operation = machine.resolve(event.index)
    if operation.handle is not None:
        machine.loop.fire(operation.handle)


def _on_wait_timed_out(machine: Machine, event: ev.WaitTimedOut) -> None:
    machine.resolve(event.index).succeed(False)


def _on_child_accepted(machine: Machine, event: ev.ChildAccepted) -> None:
    operation = machine.awaited(event.index)
    if not operation.event.awaited:
        machine.resolve(event.index)
        operation.succeed(event.run)


def _on_child_failed(machine: Machine, event: ev.ChildFailed) -> None:
    operation = machine.resolve(event.index)
    cause, child = event.failure, operation.event
    message = f"child workflow {child.workflow_id!r} ({child.workflow_type}) failed: {cause.type}: {cause.message}"
    operation.fail(to_error(Failure("ChildWorkflowError", message, cause.code, cause.stack, cause)))


def _on_updated(machine: Machine, event: ev.Updated) -> None:
    if machine.handlers is None or event.name not in machine.handlers.updates:
        machine.mismatch(f"update {event.name!r}", "the code has no handler of that name", machine.standing_at())
        raise Stop
    machine.handlers.begin(machine, event)


def _on_cancel_requested(machine: Machine, event: ev.CancelRequested) -> None:
    machine.cancel_requested = event
    for operation in [op for op in machine.pending.values() if op.cancellable]:
        machine.resolve(operation.index)
        machine.ended.append(operation)
        operation.fail(machine.cancelled_failure())
    for _, future, cancellable, _ in machine.predicates:
        if cancellable and not future.done():
            future.set_exception(machine.cancelled_failure())


def _on_terminated(machine: Machine, event: ev.Terminated) -> None:
    machine.closing = event
    machine.ended.extend(machine.pending.values())
    machine.dispose()


APPLY: dict[type, Callable[[Machine, Any], None]] = {
    ev.Started: _on_started,
    ev.ActivityRetrying: _on_retrying,
    ev.ActivityQueued: _on_queued,
    ev.ActivityCompleted: _on_result,
    ev.ActivityFailed: _on_activity_failed,
    ev.TimerFired: _on_timer_fired,
    ev.Signaled: _on_result,
    ev.WaitTimedOut: _on_wait_timed_out,
    ev.ChildAccepted: _on_child_accepted,
    ev.ChildCompleted: _on_result,
    ev.ChildFailed: _on_child_failed,
    ev.Updated: _on_updated,
    ev.CancelRequested: _on_cancel_requested,
    ev.Terminated: _on_terminated,
}
