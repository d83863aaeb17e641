"""What ``handle.export()``, ``handle.export_execution()`` and ``handle.watch()`` give. ``docs/history.md`` explains it.

All of these are msgspec Structs: ``msgspec.json.encode(execution)`` writes them, ``msgspec.json.decode(body, type=WorkflowExecution)``
reads them back, and ``docs/execution.schema.json`` describes the JSON.
"""

import inspect
from typing import Any

import msgspec

from jetflow.errors import Failure
from jetflow.history.attributes import Attributes, Category
from jetflow.history.attributes_of_operations import (
    ActivityTaskCancelled,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskQueued,
    ActivityTaskRetrying,
    ActivityTaskScheduled,
    ChildWorkflowExecutionAbandoned,
    ChildWorkflowExecutionAccepted,
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionStarted,
    SideEffectRecorded,
    SignalSent,
    SignalWaitCancelled,
    SignalWaitStarted,
    SignalWaitTimedOut,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    WorkflowExecutionSignaled,
)
from jetflow.history.attributes_of_workflow import (
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
    WorkflowExecutionPatched,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
    WorkflowExecutionUpdateFailed,
)
from jetflow.history.execution import (
    ActivityCounts,
    ChildCounts,
    EventAttributes,
    ExecutionSummary,
    HistoryEvent,
    StreamMessage,
    WorkflowExecution,
)
from jetflow.history.raw import Section, TimelineEntry, Transition, WorkflowExport

__all__ = [
    "ActivityCounts",
    "ActivityTaskCancelled",
    "ActivityTaskCompleted",
    "ActivityTaskFailed",
    "ActivityTaskQueued",
    "ActivityTaskRetrying",
    "ActivityTaskScheduled",
    "Attributes",
    "Category",
    "ChildCounts",
    "ChildWorkflowExecutionAbandoned",
    "ChildWorkflowExecutionAccepted",
    "ChildWorkflowExecutionCompleted",
    "ChildWorkflowExecutionFailed",
    "ChildWorkflowExecutionStarted",
    "EventAttributes",
    "ExecutionSummary",
    "Failure",
    "HistoryEvent",
    "Section",
    "SideEffectRecorded",
    "SignalSent",
    "SignalWaitCancelled",
    "SignalWaitStarted",
    "SignalWaitTimedOut",
    "StreamMessage",
    "TimelineEntry",
    "TimerCancelled",
    "TimerFired",
    "TimerStarted",
    "Transition",
    "WorkflowExecution",
    "WorkflowExecutionCancelRequested",
    "WorkflowExecutionCompleted",
    "WorkflowExecutionContinuedAsNew",
    "WorkflowExecutionFailed",
    "WorkflowExecutionPatched",
    "WorkflowExecutionSignaled",
    "WorkflowExecutionStarted",
    "WorkflowExecutionTerminated",
    "WorkflowExecutionUpdateAccepted",
    "WorkflowExecutionUpdateCompleted",
    "WorkflowExecutionUpdateFailed",
    "WorkflowExport",
    "json_schema",
]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a ``WorkflowExecution``; ``#/$defs/HistoryEvent`` is that of a single event."""
    schema = msgspec.json.schema(WorkflowExecution)
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])  # the same with every Python
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
