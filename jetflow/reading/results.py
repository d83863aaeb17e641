"""A workflow's result, from its state record."""

from __future__ import annotations

from typing import Any

import msgspec

from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.failures import to_error
from jetflow.core.values import decode
from jetflow.errors import FailureError
from jetflow.protocol.record import RUNNING, StateRecord, summary
from jetflow.protocol.reference import WorkflowRef


def outcome_of(record: StateRecord, definition: WorkflowDefinition[..., Any] | None, *, throw_on_error: bool = True) -> Any:
    """Return the result of a closed record.

    Args:
        record: the record of a run that has ended.
        definition: the workflow's definition if known, which has the result's type.
        throw_on_error: False returns the error of a failed run instead of raising it.

    Raises:
        FailureError: the run failed.
    """
    if record.failure is None:
        return value_of(record, definition)
    failure: FailureError = to_error(record.failure)
    if throw_on_error:
        raise failure
    return failure


def value_of(record: StateRecord, definition: WorkflowDefinition[..., Any] | None) -> Any:
    """Return a record's result, decoded as the definition's result type if the types match; None without a result."""
    if record.result is msgspec.UNSET:
        return None
    if definition is not None and definition.name == record.workflow_type:
        return definition.signature.result(record.result)
    return decode(record.result)


def data_of(record: StateRecord | None, definition: WorkflowDefinition[..., Any] | None) -> Any:
    """Return the result; before the end return the user data, or None if there is none."""
    if record is None:
        return None
    if record.result is msgspec.UNSET:
        return {name: decode(value) for name, value in record.data.items()} or record.entity
    return value_of(record, definition)


def state_of(ref: WorkflowRef, record: StateRecord | None, definition: WorkflowDefinition[..., Any] | None) -> dict[str, Any]:
    """Return ``{"data": …, "metadata": …}``: the value of ``data_of``, and the rest of the record."""
    plain = _pending_summary(ref) if record is None else summary(record)
    for shown in ("result", "data"):
        plain.pop(shown, None)
    return {"data": data_of(record, definition), "metadata": plain}


def _pending_summary(ref: WorkflowRef) -> dict[str, Any]:
    """Return the metadata of a workflow whose start no worker has applied yet."""
    return {"workflow_id": ref.workflow_id, "task_queue": ref.task_queue, "run_id": ref.run_id, "status": RUNNING, "code": 1}
