"""Activities run in the owner's process: one attempt after another until there is an outcome to commit."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from jetflow.activity import ActivityInfo
from jetflow.activity import current as current_activity
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityDefinition, ActivityOptions
from jetflow.core.failures import ACTIVITY_TIMEOUT, FATAL, RETRIES_EXHAUSTED, is_retryable, to_failure
from jetflow.core.values import encode
from jetflow.engine import faults
from jetflow.errors import FailureError, InvalidInputError, NonRetryableError, PayloadTooLargeError

DURABLE_BACKOFF_MS = 1000
"""A backoff at least this long is recorded and waited for durably; a shorter one within the process."""

Outcome = ev.ActivityCompleted | ev.ActivityFailed | ev.ActivityRetrying


class StepRunner:
    """Runs activities with a limit on how many at once.

    Args:
        activities: definitions by name.
        threads: where sync functions run.
        limit: attempts under way at once.
        max_bytes: the largest result.
    """

    def __init__(self, activities: dict[str, ActivityDefinition[Any, Any]], threads: Executor, limit: int, max_bytes: int) -> None:
        self._activities = activities
        self._threads = threads
        self._slots = asyncio.Semaphore(limit)
        self._max_bytes = max_bytes

    def knows(self, name: str) -> bool:
        """Whether this worker has the activity."""
        return name in self._activities

    async def run(self, scheduled: ev.ActivityScheduled, options: ActivityOptions, info: ActivityInfo, failed_attempts: int) -> Outcome:
        """Executes attempts until one succeeds, the policy gives up, or a long backoff is due."""
        definition = self._activities[scheduled.name]
        attempt = failed_attempts
        while True:
            attempt += 1
            try:
                result = await self._attempt(definition, scheduled, options, info, attempt)
            except BaseException as error:  # SystemExit of user code too: it must not end the worker
                if isinstance(error, KeyboardInterrupt) or _is_cancelled():
                    raise
                outcome = self._after_failure(error, scheduled, options, attempt)
            else:
                return ev.ActivityCompleted(index=scheduled.index, at=_now(), result=result, attempt=attempt)
            if not isinstance(outcome, ev.ActivityRetrying) or options.retry.delay_ms(attempt) >= DURABLE_BACKOFF_MS:  # without its jitter
                return outcome
            await asyncio.sleep((outcome.due - outcome.at) / 1000)

    async def _attempt(
        self, definition: ActivityDefinition[Any, Any], scheduled: ev.ActivityScheduled, options: ActivityOptions, info: ActivityInfo, attempt: int
    ) -> Raw:
        args = definition.signature.decode_args(scheduled.input)
        timeout = _attempt_timeout(options, scheduled.at)
        async with self._slots:
            faults.reach("before_activity")
            current_activity.set(info if attempt == 1 else _with_attempt(info, attempt))  # each step has a task, and a context, of its own
            if timeout is None:
                value = await self._call(definition, args)
            else:
                value = await self._call_within(definition, args, timeout)
            faults.reach("after_activity")
        result = encode(value, f"activity {definition.name!r}, result")
        if len(bytes(result)) > self._max_bytes:
            raise PayloadTooLargeError(f"the result of activity {definition.name!r}", len(bytes(result)), self._max_bytes)
        return result

    async def _call_within(self, definition: ActivityDefinition[Any, Any], args: Sequence[Any], timeout: float) -> Any:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self._call(definition, args)
        except TimeoutError as error:
            if scope.expired():
                raise AttemptTimeout(f"activity {definition.name!r} took longer than {timeout:g} s") from error
            raise

    async def _call(self, definition: ActivityDefinition[Any, Any], args: Sequence[Any]) -> Any:
        if definition.is_async:
            return await definition.function(*args)
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: context.run(_in_thread, definition.function, args))

    def _after_failure(
        self, error: BaseException, scheduled: ev.ActivityScheduled, options: ActivityOptions, attempt: int
    ) -> ev.ActivityFailed | ev.ActivityRetrying:
        now, policy = _now(), options.retry
        timed_out = isinstance(error, AttemptTimeout)
        retryable = not isinstance(error, InvalidInputError) and is_retryable(error, policy.non_retryable)
        if not retryable:
            return _failed(scheduled, now, error, FATAL, attempt)
        if not policy.allows(attempt):
            return _failed(scheduled, now, error, ACTIVITY_TIMEOUT if timed_out else RETRIES_EXHAUSTED, attempt)
        due = now + policy.delay_ms(attempt, random.random())
        if options.schedule_to_close is not None and due >= scheduled.at + options.schedule_to_close:
            return _failed(scheduled, now, error, ACTIVITY_TIMEOUT, attempt)
        return ev.ActivityRetrying(index=scheduled.index, at=now, attempt=attempt, due=due, failure=to_failure(error))


def _in_thread(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    try:
        return function(*args)
    except StopIteration as error:  # no future can hold it
        raise RuntimeError("the activity raised StopIteration") from error


def _is_cancelled() -> bool:
    """Whether this step itself is to stop, rather than something that its activity awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class AttemptTimeout(Exception):  # noqa: N818 - shown to people as the failure's type
    """One attempt of an activity took longer than it may."""


def _failed(scheduled: ev.ActivityScheduled, now: int, error: BaseException, code: int, attempt: int) -> ev.ActivityFailed:
    failure = to_failure(error, None if isinstance(error, NonRetryableError) else code)
    if isinstance(error, FailureError) and failure.code != code:  # what failed elsewhere has a code of its own
        failure = replace(failure, code=code)
    return ev.ActivityFailed(index=scheduled.index, at=now, failure=failure, attempt=attempt)


def _attempt_timeout(options: ActivityOptions, scheduled_at: int) -> float | None:
    limits = []
    if options.start_to_close is not None:
        limits.append(options.start_to_close)
    if options.schedule_to_close is not None:
        limits.append(max(0, scheduled_at + options.schedule_to_close - _now()))
    return min(limits) / 1000 if limits else None


def _with_attempt(info: ActivityInfo, attempt: int) -> ActivityInfo:
    return ActivityInfo(info.activity_type, info.workflow_id, info.task_queue, info.run_id, info.index, attempt)


def _now() -> int:
    return time.time_ns() // 1_000_000
