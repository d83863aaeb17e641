"""What the workflows of one worker use under each tenure: definitions, activities, lifecycle events."""

from __future__ import annotations

from typing import Any

from jetflow.core.definitions import WorkflowDefinition
from jetflow.engine.activities.dispatch import Dispatch
from jetflow.engine.activities.inflight import Inflight
from jetflow.engine.activities.steps import StepRunner
from jetflow.engine.context import Context
from jetflow.engine.upkeep.lifecycle import Lifecycle


class Services:
    """See the module.

    Attributes:
        workflows: definitions by workflow type.
        runner: runs attempts of local activities.
        inflight: local activities under way.
        dispatch: publishes the tasks of remote activities.
        lifecycle: publishes the lifecycle events of workflows.
    """

    def __init__(self, context: Context, workflows: dict[str, WorkflowDefinition[Any, Any]], runner: StepRunner) -> None:
        self.context = context
        self.workflows = workflows
        self.runner = runner
        self.inflight: Inflight = Inflight(runner)
        self.dispatch: Dispatch = Dispatch(context)
        self.lifecycle: Lifecycle = Lifecycle(context)
