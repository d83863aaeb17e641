"""What a state record says of a workflow's result."""

from __future__ import annotations

from typing import Any

import msgspec

from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.failures import to_error
from jetflow.core.values import TypedDecoder, decode
from jetflow.errors import FailureError
from jetflow.protocol.record import RUNNING, StateRecord, summary
from jetflow.protocol.reference import WorkflowRef

ResultType = WorkflowDefinition[..., Any] | TypedDecoder | None
"""What says of which type a result is: the workflow, a type that the caller gave, or nothing."""


def outcome_of(record: StateRecord, definition: ResultType, *, throw_on_error: bool = True) -> Any:
    """Return the result that a closed record has.

    Args:
        record: of a run that has ended.
        definition: says of what type the result is, where known.
        throw_on_error: False returns the error of a failed run instead of raising it.

    Raises:
        FailureError: what the run failed with.
    """
    if record.failure is None:
        return value_of(record, definition)
    failure: FailureError = to_error(record.failure)
    if throw_on_error:
        raise failure
    return failure


def value_of(record: StateRecord, definition: ResultType) -> Any:
    """Return the result in a record, of the definition's type if that is of this workflow; None without one."""
    if record.result is msgspec.UNSET:
        return None
    if isinstance(definition, TypedDecoder):
        return definition(record.result)
    if definition is not None and definition.name == record.workflow_type:
        return definition.signature.result(record.result)
    return decode(record.result)


def data_of(record: StateRecord | None, definition: ResultType) -> Any:
    """Return the latest persisted output: the result, before that the user data, and None where there is neither."""
    if record is None:
        return None
    if record.result is msgspec.UNSET:
        return {name: decode(value) for name, value in record.data.items()} or record.entity
    return value_of(record, definition)


def state_of(ref: WorkflowRef, record: StateRecord | None, definition: ResultType) -> dict[str, Any]:
    """Return ``{"data": …, "metadata": …}``: the latest persisted output, and the rest of the record."""
    plain = _pending_summary(ref) if record is None else summary(record)
    for shown in ("result", "data"):
        plain.pop(shown, None)
    return {"data": data_of(record, definition), "metadata": plain}


def _pending_summary(ref: WorkflowRef) -> dict[str, Any]:
    """What is known of a workflow whose start no worker has taken up yet."""
    return {"workflow_id": ref.workflow_id, "task_queue": ref.task_queue, "run_id": ref.run_id, "status": RUNNING, "code": 1}
