"""Builds state records from what an owner knows of a run."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.failures import FATAL, INTERRUPTED, termination
from jetflow.core.machine import Machine
from jetflow.core.operation import Operation, RunInfo
from jetflow.protocol.clock import now_ms
from jetflow.protocol.record import COMPLETED, RUNNING, TERMINATED, Parked, StateRecord, Waiting, status_of_failed

MAX_WAITING = 20
"""The most pending operations that a state record lists. ``code`` always has their number."""


def running_record(machine: Machine, seq: int, worker: str) -> StateRecord:
    """Return the record of a live run, with the number of pending operations and the first of them."""
    pending = machine.pending
    listed = [_waiting(operation) for operation in _first_of(pending)]
    if machine.delay is not None:
        listed[0].kind = "delay"
    record = _record(machine.info, seq, worker, RUNNING, max(1, len(pending)))
    record.waiting = listed
    record.cancel_requested = machine.cancel_requested is not None
    _show(record, machine.data)
    return record


def _first_of(pending: dict[int, Operation]) -> list[Operation]:
    """Return the operations that a record lists. Those with a failed attempt come first: they are what people look for."""
    if len(pending) <= MAX_WAITING:
        return list(pending.values())
    failing = (operation for operation in pending.values() if operation.failure is not None)
    others = (operation for operation in pending.values() if operation.failure is None)
    return list(islice(chain(failing, others), MAX_WAITING))


def _show(record: StateRecord, data: UserData | None) -> None:
    if data is not None:
        record.data, record.entity = data.fields, data.document


def closed_record(info: RunInfo, closing: Any, seq: int, worker: str, data: UserData | None = None) -> StateRecord:
    """Return the record of a run that has ended."""
    if isinstance(closing, ev.Completed):
        record = _record(info, seq, worker, COMPLETED, 0)
        record.result = closing.result
    elif isinstance(closing, ev.Terminated):
        record = _record(info, seq, worker, TERMINATED, -INTERRUPTED)
        record.expire = closing.kept_ms
        if closing.throw:
            record.failure = termination(info.workflow_id, closing.reason, closing.code, closing.stack, closing.kind)
    else:
        record = _record(info, seq, worker, status_of_failed(closing.failure), -FATAL)
        record.failure = closing.failure
    record.closed_at = record.updated_at = closing.at
    _show(record, data)
    return record


def parked_record(info: RunInfo | None, before: StateRecord | None, seq: int, worker: str, reason: str, message: str) -> StateRecord:
    """Return the record of a parked run. Without ``info`` it is the run of the record ``before``."""
    same = before is not None and (info is None or before.run_id == str(info.run))
    record = before if same or info is None else _record(info, seq, worker, RUNNING, 1)
    assert record is not None
    record.parked = Parked(reason=reason, message=message, since=now_ms())
    record.updated_at = now_ms()
    record.worker = worker
    return record


def _record(info: RunInfo, seq: int, worker: str, status: str, code: int) -> StateRecord:
    return StateRecord(
        workflow_id=info.workflow_id,
        task_queue=info.task_queue,
        workflow_type=info.workflow_type,
        run_id=str(info.run),
        status=status,
        code=code,
        started_at=info.started_at,
        updated_at=now_ms(),
        generation=info.generation,
        timeline_seq=seq,
        parent_workflow_id=info.parent.workflow_id if info.parent else None,
        origin_id=info.origin,
        expire=info.expire,
        worker=worker,
    )


def _waiting(operation: Operation) -> Waiting:
    event = operation.event
    match event:
        case ev.ActivityScheduled():
            kind, name = "activity", event.name
        case ev.WaitStarted():
            kind, name = "signal", event.signal
        case ev.ChildStarted():
            kind, name = "child", event.workflow_id
        case _:
            kind, name = "timer", ""
    attempt = operation.attempt + 1 if operation.attempt else None
    return Waiting(index=operation.index, kind=kind, name=name, since=event.at, due=operation.due, attempt=attempt, failure=operation.failure)
