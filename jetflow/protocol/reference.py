"""References to workflows: task queue, workflow id and, for one run, its run id."""

from __future__ import annotations

from msgspec import Struct

from jetflow.core.ids import to_token
from jetflow.errors import InvalidInputError, WorkflowNotFoundError
from jetflow.protocol.headers import RUN
from jetflow.protocol.record import StateRecord


class WorkflowRef(Struct, frozen=True):
    """One workflow, or one run of it.

    Attributes:
        workflow_id, task_queue: as people write them.
        queue_token, id_token: as written in subjects.
        run_id: the run; None for the latest run of the id.
    """

    workflow_id: str
    task_queue: str
    queue_token: str
    id_token: str
    run_id: str | None = None

    @classmethod
    def of(cls, workflow_id: str, task_queue: str, run_id: str | None = None) -> WorkflowRef:
        """Return a reference for a workflow id and a task queue.

        Raises:
            InvalidInputError: one of the two cannot be a subject token.
        """
        return cls(workflow_id, task_queue, to_token(task_queue, "task queue"), to_token(workflow_id, "workflow id"), run_id)

    def pinned(self, run_id: str) -> WorkflowRef:
        """Return the reference to one run of this workflow."""
        return WorkflowRef(self.workflow_id, self.task_queue, self.queue_token, self.id_token, run_id)

    def run_number(self) -> int | None:
        """Return the run id as a number; None for the latest run.

        Raises:
            InvalidInputError: the run id is not a number.
        """
        if self.run_id is None:
            return None
        if not self.run_id.isdigit():
            raise InvalidInputError(f"run id {self.run_id!r} is not a number")
        return int(self.run_id)

    def run_header(self) -> dict[str, str]:
        """Return the header that lets a signal or an update reach this run alone; none for the latest run."""
        return {} if self.run_id is None else {RUN: str(self.run_number())}

    def covers(self, record: StateRecord) -> bool:
        """Return whether a record of this workflow belongs to the referenced run."""
        return self.run_id is None or record.run_id == self.run_id

    def not_found(self) -> WorkflowNotFoundError:
        """Return the error for a workflow that does not exist."""
        return WorkflowNotFoundError(self.workflow_id, self.task_queue, self.run_id)
