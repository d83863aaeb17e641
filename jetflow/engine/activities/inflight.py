"""Local activities that are under way in this worker, or whose outcome is not committed yet.

They outlive a tenure. When a worker claims its partitions again, as after a reconnect, a running attempt goes on. The rebuilt workflow adopts it if
it waits for exactly that activity. Without an owner no further attempt begins.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from jetflow.activity import ActivityInfo
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityOptions
from jetflow.core.machine import Machine
from jetflow.core.operation import Operation
from jetflow.engine.activities.attempt_log import log_dropped
from jetflow.engine.activities.failed_attempts import FailedAttempts
from jetflow.engine.activities.steps import Outcome, StepRunner

ADOPT_WITHIN = 10.0
"""Seconds that an activity without an owner goes on after this worker owns its partition again."""
Key = tuple[str, int, int]
"""Workflow (as a token), run, and index of the operation."""


class Step:
    """One local activity.

    Attributes:
        owner: the activities of the workflow that waits for it; None without an owner.
        outcome: its outcome; None until there is one.
        info: what its attempts are told of it; None until it starts.
        failed: its failed attempts with a short backoff; None without any.
    """

    __slots__ = ("_adopted", "_over", "_task", "failed", "info", "key", "outcome", "owner", "partition", "scheduled")

    def __init__(self, key: Key, scheduled: ev.ActivityScheduled, owner: Steps) -> None:
        self.key: Key = key
        self.scheduled: ev.ActivityScheduled = scheduled
        self.owner: Steps | None = owner
        self.partition: int = owner.partition
        self.outcome: Outcome | None = None
        self.info: ActivityInfo | None = None
        self.failed: FailedAttempts | None = None
        self._task: asyncio.Task[None] | None = None
        self._adopted: asyncio.Future[None] | None = None
        self._over = False

    def start(self, runner: StepRunner, options: ActivityOptions, info: ActivityInfo, operation: Operation) -> None:
        """Begin its attempts as soon as a slot is free."""
        self.info = info
        self._task = asyncio.get_running_loop().create_task(self._run(runner, options, info, operation))

    async def _run(self, runner: StepRunner, options: ActivityOptions, info: ActivityInfo, operation: Operation) -> None:
        attempts, details = operation.attempt, operation.details
        self.outcome = await runner.run(
            self.scheduled, options, info, attempts, details, self.may_begin, self.permitted, self.is_over, self.note_failed
        )
        if self.owner is not None:
            self.owner.on_outcome(self.outcome)

    def note_failed(self, attempt: ev.ActivityRetrying) -> None:
        """Remember a failed attempt whose successor is due in less than a second. It causes no commit of its own."""
        if self.failed is None:
            self.failed = FailedAttempts(attempt.attempt - 1)
        self.failed.add(attempt)
        if self.owner is not None:
            self.owner.unrecorded = True

    def may_begin(self) -> bool:
        """Return whether an attempt may begin: the activity has an owner, and the workflow's code has not ended."""
        return self.owner is not None and self.owner.may_begin()

    def is_over(self) -> bool:
        """Return whether it was cancelled because nobody waits for it."""
        return self._over

    async def permitted(self) -> None:
        """Return once an attempt may begin."""
        while not self.may_begin():
            self._adopted = asyncio.get_running_loop().create_future()
            await self._adopted

    def adopt(self, owner: Steps) -> None:
        """Give it an owner again."""
        self.owner = owner
        if self._adopted is not None and not self._adopted.done():
            self._adopted.set_result(None)
        self._adopted = None

    def orphan(self) -> None:
        """Continue without an owner."""
        self.owner: Steps | None = None

    def cancel(self) -> asyncio.Task[None] | None:
        """Cancel the activity. Return its asyncio task, which is about to end."""
        self.owner, self._over = None, True
        if self._task is not None:
            self._task.cancel()
        return self._task

    def is_the_one(self, scheduled: ev.ActivityScheduled) -> bool:
        """Return whether it is the activity that an operation asks for, by name and input."""
        return self.scheduled.name == scheduled.name and bytes(self.scheduled.input) == bytes(scheduled.input)


class Steps:
    """The local activities of one workflow in memory.

    Args:
        inflight: all local activities of the worker.
        may_begin: whether further attempts may begin.
        wake: called when there is an outcome.

    Attributes:
        under_way: activities by operation index, until their outcome is committed.
        outcomes: outcomes that the code does not have yet, in the order in which they came.
        uncommitted: outcomes that the code has and no commit holds yet.
        unrecorded: whether there are failed attempts that the code has not got.
    """

    __slots__ = ("_id_token", "_inflight", "_wake", "may_begin", "outcomes", "partition", "uncommitted", "under_way", "unrecorded")

    def __init__(self, inflight: Inflight, id_token: str, partition: int, may_begin: Callable[[], bool], wake: Callable[[], None]) -> None:
        self.partition: int = partition
        self.may_begin: Callable[[], bool] = may_begin
        self.under_way: dict[int, Step] = {}
        self.outcomes: deque[Outcome] = deque()
        self.uncommitted: list[Outcome] = []
        self.unrecorded: bool = False
        self._inflight = inflight
        self._id_token = id_token
        self._wake = wake

    def begin(self, scheduled: ev.ActivityScheduled, options: ActivityOptions, info: ActivityInfo, operation: Operation, run: int) -> None:
        """Start an activity of a run."""
        step = self.under_way[scheduled.index] = Step((self._id_token, run, scheduled.index), scheduled, self)
        self._inflight.begin(step, options, info, operation)

    def adopt(self, operation: Operation, run: int) -> bool:
        """Adopt the activity that an operation waits for. Return False if this worker does not have it."""
        scheduled = operation.event
        step = self._inflight.find((self._id_token, run, scheduled.index), scheduled)
        if step is None:
            return False
        if isinstance(step.outcome, ev.ActivityRetrying) and step.outcome.attempt <= operation.attempt:  # the timeline has it
            self._inflight.forget(step)
            return False
        step.adopt(self)
        if step.failed is not None:
            step.failed.starts_over(operation.attempt)
            self.unrecorded = True
        self.under_way[scheduled.index] = step
        if step.outcome is not None:
            self.on_outcome(step.outcome)
        return True

    def on_outcome(self, outcome: Outcome) -> None:
        """Add the outcome of an activity."""
        self.outcomes.append(outcome)
        self._wake()

    def feed(self, machine: Machine, event: Any) -> bool:
        """Pass an event to the code, as ``Machine.feed`` does, and failed attempts before it: a commit follows anyway."""
        if self.unrecorded and machine.matters(event):
            self.unrecorded = False
            found = [attempt for step in self.under_way.values() if step.failed is not None for attempt in step.failed.take()]
            for attempt in sorted(found, key=lambda attempt: attempt.at):
                machine.feed(attempt)
        return machine.feed(event)

    def take_outcome(self) -> Outcome:
        """Return the next outcome for the code, and count it as uncommitted."""
        outcome = self.outcomes.popleft()
        self.uncommitted.append(outcome)
        return outcome

    def committed(self) -> None:
        """Forget the outcomes that the code has: a commit holds them, or they came too late to matter."""
        for outcome in self.uncommitted:
            step = self.under_way.pop(outcome.index, None)
            if step is not None:
                self._inflight.forget(step)
        self.uncommitted.clear()

    def cancel(self, index: int) -> None:
        """Cancel the activity of an operation that the code no longer waits for, if there is one."""
        step = self.under_way.pop(index, None)
        if step is not None:
            self._inflight.cancel(step)

    def cancel_all(self) -> None:
        """Cancel all activities of the workflow."""
        for index in list(self.under_way):
            self.cancel(index)

    def cancel_strays(self) -> None:
        """Cancel the activities that the rebuilt workflow has not adopted."""
        self._inflight.cancel_strays(self._id_token)

    def start_over(self) -> None:
        """Let the activities go on without an owner. The rebuilt workflow may adopt them."""
        for step in self.under_way.values():
            step.orphan()
            self._inflight.to_adopt.add(self._id_token)
        self.under_way.clear()
        self.outcomes.clear()
        self.uncommitted.clear()
        self.unrecorded = False

    def close(self) -> None:
        """Let the activities go on without an owner, and no longer wake the actor."""
        if self.under_way or self.outcomes or self.uncommitted:
            self.start_over()
        self.may_begin, self._wake = _never, _nobody


def _never() -> bool:
    """Return False: no attempt begins any more."""
    return False


def _nobody() -> None:
    """Wake nothing: the actor is closed."""


class Inflight:
    """Every local activity of one worker.

    Attributes:
        to_adopt: workflows (as tokens) that had an activity without an owner when the current tenure began, or since then.
    """

    def __init__(self, runner: StepRunner) -> None:
        self.to_adopt: set[str] = set()
        self._runner = runner
        self._steps: dict[Key, Step] = {}

    def begin(self, step: Step, options: ActivityOptions, info: ActivityInfo, operation: Operation) -> None:
        """Start an activity."""
        self._steps[step.key] = step
        step.start(self._runner, options, info, operation)

    def find(self, key: Key, scheduled: ev.ActivityScheduled) -> Step | None:
        """Return the activity that an operation waits for, if this worker has it. Cancel another activity under the same key."""
        step = self._steps.get(key)
        if step is None:
            return None
        if not step.is_the_one(scheduled):
            self.cancel(step)
            return None
        self.to_adopt.discard(key[0])  # the workflow is in memory, and adopts its other activities at the same time
        return step

    def forget(self, step: Step) -> None:
        """Forget an activity whose outcome is committed."""
        if self._steps.get(step.key) is step:
            del self._steps[step.key]

    def cancel(self, step: Step) -> None:
        """Cancel an activity that no workflow waits for."""
        self.forget(step)
        step.cancel()

    def has_orphans(self, partitions: frozenset[int]) -> bool:
        """Return whether an activity of some partitions goes on without an owner."""
        return any(step.owner is None and step.partition in partitions for step in self._steps.values())

    def cancel_strays(self, id_token: str) -> None:
        """Cancel the activities that a rebuilt workflow has not adopted."""
        self.to_adopt.discard(id_token)
        for step in [step for step in self._steps.values() if step.owner is None and step.key[0] == id_token]:
            self.cancel(step)

    def claimed(self, partitions: frozenset[int]) -> None:
        """Note that a tenure has begun. Cancel the activities of other partitions now, and those not adopted after ``ADOPT_WITHIN``."""
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
                log_dropped(step.info)
                self.cancel(step)

    async def stop(self) -> None:
        """Cancel all activities, and wait until they have ended."""
        tasks = [task for step in self._steps.values() if (task := step.cancel()) is not None]
        self._steps.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
