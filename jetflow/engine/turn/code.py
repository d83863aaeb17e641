"""Finds the code of a workflow on this worker."""

from __future__ import annotations

from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.core.operation import RunInfo
from jetflow.engine.context import Context
from jetflow.engine.services import Services
from jetflow.engine.turn.run import CannotGoOnError


def info_of(context: Context, workflow_id: str, run: int, started: ev.Started) -> RunInfo:
    """Return the ``RunInfo`` of the run and generation that an event begins."""
    return RunInfo(
        workflow_id=workflow_id,
        task_queue=context.task_queue,
        workflow_type=started.workflow_type,
        run=run,
        namespace=context.namespace,
        generation=started.generation,
        parent=started.parent,
        origin=started.origin,
        started_at=started.at,
        expire=started.expire,
    )


def load(services: Services, info: RunInfo) -> Machine:
    """Return a machine with the code of a run. It has not begun yet.

    Raises:
        CannotGoOnError: this worker does not have the workflow type.
    """
    definition = services.workflows.get(info.workflow_type)
    if definition is None:
        known = ", ".join(sorted(services.workflows)) or "none"
        message = f"workflow type {info.workflow_type!r} waits for a worker of task queue {info.task_queue!r} that has it; this one has: {known}"
        raise CannotGoOnError("UnknownWorkflowType", message, info)
    return Machine(definition, info, services.context.max_payload, services.context.loop)
