"""How each input changes a run: one function for each type of input. The code runs afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.failures import CODES, FATAL, to_error, to_failure
from jetflow.core.handlers import Handler, Handlers, Outcome
from jetflow.core.interrupts import is_interrupt
from jetflow.core.loop import Stop
from jetflow.core.operation import TIMED_OUT
from jetflow.core.recorder import Recorder, UnfitResultError
from jetflow.core.values import encode
from jetflow.errors import Failure, InvalidInputError, Kind


def _on_started(run: Recorder, event: ev.Started) -> None:
    run.next_index = event.first_index
    run.consumed = dict(event.consumed)
    run.consumed_from = {signal: dict(numbers) for signal, numbers in event.consumed_from.items()}
    if event.cancel_reason is not None:
        run.cancel_requested = ev.CancelRequested(at=event.at, reason=event.cancel_reason)
    if event.data or event.entity is not None:
        run.data = UserData(run.max_payload // 2, event.data, event.entity)
    if event.updates or event.forgotten:
        run.handlers = Handlers(event.updates, event.forgotten)
    try:
        args = run.definition.signature.decode_args(event.input)
    except InvalidInputError as error:
        run.end(ev.Failed(at=run.now, failure=to_failure(error, FATAL, kind=Kind.FATAL)))
        return
    if event.begins is None:
        run.start_code(args)
    else:
        run.delay_code(args, event.begins)


def _on_retrying(run: Recorder, event: ev.ActivityRetrying) -> None:
    operation = run.awaited(event.index)
    operation.attempt, operation.due, operation.failure = event.attempt, event.due, event.failure
    operation.details = event.details


def _on_queued(run: Recorder, event: ev.ActivityQueued) -> None:
    run.awaited(event.index).remote = True


def _on_result(run: Recorder, event: ev.ActivityCompleted | ev.ChildCompleted | ev.Signaled) -> None:
    operation = run.resolve(event.index)
    if isinstance(event, ev.Signaled):
        if event.seq:  # a signal by id has no sequence number in the inbox
            run.consumed[event.signal] = event.seq
        if event.sender is not None:
            numbers = run.consumed_from.setdefault(event.signal, {})
            numbers.pop(event.sender, None)  # the latest sender comes last
            numbers[event.sender] = event.number
        payload = event.data
        if operation.due is not None:
            run.ended.append(operation)  # the wait's timeout is no longer needed
    else:
        payload = event.result
    try:
        value = operation.decode(payload)
    except InvalidInputError as error:
        if isinstance(event, ev.Signaled):
            operation.fail(error)
            return
        run.halted = True
        raise UnfitResultError(str(error)) from error
    operation.succeed(value)


def _on_activity_failed(run: Recorder, event: ev.ActivityFailed) -> None:
    operation = run.resolve(event.index)
    cause, name = event.failure, operation.event.name
    times = f" after {event.attempt} attempts" if event.attempt > 1 else ""
    message = f"activity {name!r} failed{times}: {cause.type}: {cause.message}"
    code = cause.code if event.kind is None else CODES.get(event.kind, cause.code)
    error = to_error(Failure("ActivityError", message, code, cause=cause, kind=event.kind))
    if operation.options is not None and not operation.options.retry.throw_on_error:
        operation.succeed(error)
    else:
        operation.fail(error)


def _on_timer_fired(run: Recorder, event: ev.TimerFired) -> None:
    operation = run.resolve(event.index)
    if operation.handle is not None:
        run.loop.fire(operation.handle)
    elif operation is run.delay:
        run.start_delayed_code()


def _on_wait_timed_out(run: Recorder, event: ev.WaitTimedOut) -> None:
    run.resolve(event.index).succeed(TIMED_OUT)


def _on_child_accepted(run: Recorder, event: ev.ChildAccepted) -> None:
    operation = run.awaited(event.index)
    if not operation.event.awaited:
        run.resolve(event.index)
        operation.succeed(event.run)


def _on_child_failed(run: Recorder, event: ev.ChildFailed) -> None:
    operation = run.resolve(event.index)
    cause, child = event.failure, operation.event
    message = f"child workflow {child.workflow_id!r} ({child.workflow_type}) failed: {cause.type}: {cause.message}"
    operation.fail(to_error(Failure("ChildWorkflowError", message, cause.code, cause=cause, kind=Kind.CHILD)))


def _on_updated(run: Recorder, event: ev.Updated) -> None:
    if run.handlers is None or event.name not in run.handlers.updates:
        run.mismatch(f"update {event.name!r}", "the code has no handler of that name", run.standing_at())
        raise Stop
    run.handlers.running[event.id] = event
    run.loop.create_task(_update(run, run.handlers, run.handlers.updates[event.name], event), name=f"update {event.name}")


async def _update(run: Recorder, handlers: Handlers, handler: Handler, event: ev.Updated) -> None:
    """Run an update's handler and record its outcome."""
    outcome: Outcome
    try:
        value = handler.function(*handler.signature.decode_args(event.input))
        if inspect.isawaitable(value):
            value = await value
        outcome = ev.UpdateCompleted(id=event.id, at=run.now, seq=event.seq, result=encode(value, f"update {event.name!r}, result"))
        run.check_size(outcome)
    except BaseException as error:
        if run.halted or is_interrupt(error):  # it is put away, and records nothing
            raise
        outcome = ev.UpdateFailed(id=event.id, at=run.now, failure=to_failure(error), seq=event.seq)
    handlers.keep(event.id, run.decide(outcome))


def _on_cancel_requested(run: Recorder, event: ev.CancelRequested) -> None:
    run.cancel_requested = event
    for operation in [op for op in run.pending.values() if op.cancellable]:
        run.resolve(operation.index)
        run.ended.append(operation)
        operation.fail(run.cancelled_failure())
    for _, future, cancellable, _ in run.predicates:
        if cancellable and not future.done():
            future.set_exception(run.cancelled_failure())


def _on_terminated(run: Recorder, event: ev.Terminated) -> None:
    run.closing = event
    run.ended.extend(run.pending.values())
    run.dispose()


APPLY: dict[type, Callable[[Recorder, Any], None]] = {
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
