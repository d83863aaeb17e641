"""The top of the engine: one worker's parts, and what it owns at the moment."""

from __future__ import annotations

from typing import Any

from jetflow.broker.transport.connection import Broker
from jetflow.core.definitions import WorkflowDefinition
from jetflow.engine.activities.steps import StepRunner
from jetflow.engine.context import Context
from jetflow.engine.ownership.actors import Actors
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.services import Services


class Engine:
    """The engine of one worker, on one task queue.

    Attributes:
        tenure: the current tenure; None if the worker owns nothing.
        actors: the workflows in memory under that tenure.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        task_queue: str,
        worker_id: str,
        workflows: dict[str, WorkflowDefinition[Any, Any]],
        runner: StepRunner,
        default_expire: int | None,
        max_cached: int,
    ) -> None:
        self.context: Context = Context(broker, task_queue=task_queue, worker_id=worker_id, default_expire=default_expire, max_cached=max_cached)
        self.services: Services = Services(self.context, workflows, runner)
        self.tenure: Tenure | None = None
        self.actors: Actors | None = None

    def own(self, tenure: Tenure, actors: Actors) -> None:
        """Begin to work under a tenure."""
        self.tenure: Tenure | None = tenure
        self.actors: Actors | None = actors

    def disown(self) -> None:
        """Own nothing."""
        self.tenure = self.actors = None

    def room(self, limit: int) -> int:
        """Return how many more commands the worker may receive."""
        return limit if self.tenure is None else limit - self.tenure.unacked

    def sweep(self) -> None:
        """Write the records of workflows that have been busy for a while. Call it a few times a second."""
        if self.actors is not None:
            self.actors.sweep()

    async def stop(self) -> None:
        """Stop all work. Nothing more is committed or acked."""
        if self.tenure is not None:
            self.tenure.lose("the worker stops")
        await self.services.inflight.stop()
        await self.context.background.stop()
