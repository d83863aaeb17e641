"""Local activities under way in this worker, and those whose outcome is not committed yet.

They outlive a tenure. When a worker takes its partitions anew, as after a reconnect, the attempt that runs goes on, and the workflow that
is rebuilt adopts it if it still waits for just that. Without an owner no further attempt begins.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from jetflow.activity import ActivityInfo
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityOptions
from jetflow.core.operation import Operation
from jetflow.engine.activities.steps import Outcome, StepRunner

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor

log: logging.Logger = logging.getLogger("jetflow.worker")

ADOPT_WITHIN = 10.0
"""Seconds that an activity goes on without an owner, once its partition is this worker's again."""

Key = tuple[str, int, int]
"""Workflow (as a token), run, and index of the operation."""


class Step:
    """One local activity.

    Attributes:
        owner: the workflow that waits for it; None between two owners.
        outcome: what came of it, once there is something.
    """

    __slots__ = ("_adopted", "key", "outcome", "owner", "partition", "scheduled", "task")

    def __init__(self, key: Key, scheduled: ev.ActivityScheduled, owner: Actor) -> None:
        self.key: Key = key
        self.scheduled: ev.ActivityScheduled = scheduled
        self.owner: Actor | None = owner
        self.partition: int = owner.partition
        self.outcome: Outcome | None = None
        self.task: asyncio.Task[None] | None = None
        self._adopted: asyncio.Future[None] | None = None

    def may_begin(self) -> bool:
        """Whether an attempt may begin: its workflow is owned, and its code has not come to an end."""
        owner = self.owner
        return owner is not None and not owner.is_closing and owner.tenure.lasts()

    async def permitted(self) -> None:
        """Returns once an attempt may begin."""
        while not self.may_begin():
            self._adopted = asyncio.get_running_loop().create_future()
            await self._adopted

    def adopt(self, owner: Actor) -> None:
        """Gives it an owner again."""
        self.owner = owner
        if self._adopted is not None and not self._adopted.done():
            self._adopted.set_result(None)
        self._adopted = None


class Inflight:
    """Every local activity of one worker.

    Attributes:
        to_adopt: workflows (as tokens) of which something went on without an owner since the present tenure began, or when it did.
    """

    def __init__(self, runner: StepRunner) -> None:
        self.to_adopt: set[str] = set()
        self._runner = runner
        self._steps: dict[Key, Step] = {}

    def begin(self, owner: Actor, scheduled: ev.ActivityScheduled, options: ActivityOptions, info: ActivityInfo, operation: Operation) -> Step:
        """Starts an activity."""
        key = (owner.id_token, owner.run.number, scheduled.index)
        step = self._steps[key] = owner.steps[scheduled.index] = Step(key, scheduled, owner)
        step.task = asyncio.get_running_loop().create_task(self._run(step, options, info, operation))
        return step

    async def _run(self, step: Step, options: ActivityOptions, info: ActivityInfo, operation: Operation) -> None:
        step.outcome = await self._runner.run(step.scheduled, options, info, operation.attempt, operation.details, step.may_begin, step.permitted)
        if step.owner is not None:
            step.owner.on_outcome(step)

    def adopt(self, owner: Actor, scheduled: ev.ActivityScheduled) -> Step | None:
        """The activity that an operation waits for, if it is under way or done already; what ran in its place is cancelled."""
        step = self._steps.get((owner.id_token, owner.run.number, scheduled.index))
        if step is None:
            return None
        if step.scheduled.name != scheduled.name or bytes(step.scheduled.input) != bytes(scheduled.input):
            self.cancel(step)
            return None
        step.adopt(owner)
        self.to_adopt.discard(owner.id_token)  # it is in memory: whatever else went on for it is adopted with it
        owner.steps[scheduled.index] = step
        return step

    def settled(self, owner: Actor, index: int) -> None:
        """An outcome is committed."""
        step = owner.steps.pop(index, None)
        if step is not None and self._steps.get(step.key) is step:
            del self._steps[step.key]

    def cancel(self, step: Step) -> None:
        """Nobody waits for it any more."""
        if self._steps.get(step.key) is step:
            del self._steps[step.key]
        if step.owner is not None and step.owner.steps.get(step.key[2]) is step:
            del step.owner.steps[step.key[2]]
        step.owner = None
        if step.task is not None:
            step.task.cancel()

    def orphan(self, owner: Actor) -> None:
        """A workflow is taken away, or rebuilt: what runs for it goes on without an owner."""
        for step in owner.steps.values():
            step.owner = None
            self.to_adopt.add(owner.id_token)
        owner.steps.clear()

    def has_orphans(self, partitions: frozenset[int]) -> bool:
        """Whether an activity of some partitions goes on without an owner."""
        return any(step.owner is None and step.partition in partitions for step in self._steps.values())

    def drop_strays(self, owner: Actor) -> None:
        """A workflow has been rebuilt, and has adopted what it waits for: the rest is cancelled."""
        self.to_adopt.discard(owner.id_token)
        for step in [step for step in self._steps.values() if step.owner is None and step.key[0] == owner.id_token]:
            self.cancel(step)

    def claimed(self, partitions: frozenset[int]) -> None:
        """A tenure has begun: what belongs to other partitions is cancelled, and what is not adopted soon."""
        orphans = [step for step in self._steps.values() if step.owner is None]
        for step in orphans:
            if step.partition not in partitions:
                self.cancel(step)
        self.to_adopt = {step.key[0] for step in orphans if step.partition in partitions}
        if self.to_adopt:
            asyncio.get_running_loop().call_later(ADOPT_WITHIN, self._drop, orphans)

    def _drop(self, orphans: list[Step]) -> None:
        for step in orphans:
            if step.owner is None and self._steps.get(step.key) is step:
                log.info("activity %s of %s is cancelled: its workflow does not wait for it any more", step.scheduled.name, step.key[0])
                self.cancel(step)

    async def stop(self) -> None:
        """Cancels all of them."""
        tasks = [step.task for step in self._steps.values() if step.task is not None]
        for task in tasks:
            task.cancel()
        self._steps.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
