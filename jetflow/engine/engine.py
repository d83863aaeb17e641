"""The top of the engine: one worker's parts, and what it owns just now."""

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
    """One worker's, on one task queue.

    Attributes:
        tenure: what is owned now; None for nothing.
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
        """Take up what a tenure has."""
        self.tenure: Tenure | None = tenure
        self.actors: Actors | None = actors

    def disown(self) -> None:
        """Own nothing."""
        self.tenure = self.actors = None

    def room(self, limit: int) -> int:
        """Return how many more commands may come."""
        return limit if self.tenure is None else limit - self.tenure.unacked

    def sweep(self) -> None:
        """Show what has been busy for a while. Called a few times a second."""
        if self.actors is not None:
            self.actors.sweep()

    async def stop(self) -> None:
        """End all that goes on. Nothing more is committed or acked."""
        if self.tenure is not None:
            self.tenure.lose("the worker stops")
        await self.services.inflight.stop()
        await self.context.background.stop()
