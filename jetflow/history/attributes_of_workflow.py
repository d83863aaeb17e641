"""Attributes of the events of a workflow itself: its start and end, cancel, terminate, patches and updates."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from jetflow.errors import Failure
from jetflow.history.attributes import Attributes


class WorkflowExecutionStarted(Attributes, tag="workflow_execution_started"):
    """The run began. ``input`` is the list of arguments."""

    workflow_type: str
    task_queue: str
    input: Any | UnsetType = UNSET


class WorkflowExecutionCompleted(Attributes, tag="workflow_execution_completed"):
    """The workflow's function returned."""

    result: Any | UnsetType = UNSET


class WorkflowExecutionFailed(Attributes, tag="workflow_execution_failed"):
    """The workflow's function raised, or the run was terminated."""

    failure: Failure


class WorkflowExecutionCancelRequested(Attributes, tag="workflow_execution_cancel_requested"):
    """The workflow was asked to cancel."""

    extended: ClassVar[bool] = True
    reason: str


class WorkflowExecutionTerminated(Attributes, tag="workflow_execution_terminated"):
    """The run was terminated. This event replaces ``workflow_execution_failed``."""

    extended: ClassVar[bool] = True
    reason: str
    code: int
    failure: Failure


class WorkflowExecutionContinuedAsNew(Attributes, tag="workflow_execution_continued_as_new"):
    """The workflow continued as new with other arguments. ``generation`` is the number of the new generation."""

    extended: ClassVar[bool] = True
    workflow_type: str
    generation: int
    input: Any | UnsetType = UNSET


class WorkflowExecutionPatched(Attributes, tag="workflow_execution_patched"):
    """From here on the run takes the new code of ``patched(id)``."""

    extended: ClassVar[bool] = True
    patch_id: str


class WorkflowExecutionUpdateAccepted(Attributes, tag="workflow_execution_update_accepted"):
    """An update was accepted. ``input`` is the list of arguments."""

    extended: ClassVar[bool] = True
    update_id: str
    update_name: str
    input: Any | UnsetType = UNSET


class WorkflowExecutionUpdateCompleted(Attributes, tag="workflow_execution_update_completed"):
    """An update's handler returned."""

    extended: ClassVar[bool] = True
    update_id: str
    accepted_event_id: int | None
    result: Any | UnsetType = UNSET


class WorkflowExecutionUpdateFailed(Attributes, tag="workflow_execution_update_failed"):
    """An update's handler raised."""

    extended: ClassVar[bool] = True
    update_id: str
    accepted_event_id: int | None
    failure: Failure
