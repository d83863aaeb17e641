"""Runs activities in the owner's process: one attempt after another until there is an outcome to commit."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from jetflow.activity import ActivityInfo, Attempt
from jetflow.activity import current as current_activity
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityDefinition, ActivityOptions
from jetflow.core.failures import ACTIVITY_TIMEOUT, CODES, is_retryable, to_failure
from jetflow.core.interrupts import is_interrupt
from jetflow.core.retries import after_failure
from jetflow.core.values import decode, encode
from jetflow.engine import faults
from jetflow.engine.activities.attempt_log import log_failed
from jetflow.engine.activities.threads import Threads
from jetflow.errors import UNKNOWN, Failure, InvalidInputError, Kind, NonRetryableError, PayloadTooLargeError
from jetflow.protocol import clock
from jetflow.protocol.clock import now_ms

DURABLE_BACKOFF_MS = 1000
"""A backoff of at least this many milliseconds is recorded and durable. A shorter one stays in memory."""
RECORD_AFTER = 5.0
"""Seconds of attempts with short backoffs after which a failed one is recorded by itself, so that people see what goes on."""

Outcome = ev.ActivityCompleted | ev.ActivityFailed | ev.ActivityRetrying


class Slots(asyncio.Semaphore):
    """A semaphore that shows how many slots are free."""

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self._value


class StepRunner:
    """Runs activities, with a limit on attempts at once.

    Args:
        activities: definitions by name.
        threads: runs sync functions.
        limit: the most attempts under way at once.
        max_bytes: the most bytes of a result.

    Attributes:
        slots: each attempt under way holds one.
        threads: where plain functions run.
    """

    def __init__(self, activities: dict[str, ActivityDefinition[Any, Any]], threads: Threads, limit: int, max_bytes: int) -> None:
        self._activities = activities
        self.threads: Threads = threads
        self.slots: Slots = Slots(limit)
        self.max_bytes: int = max_bytes

    def knows(self, name: str) -> bool:
        """Return whether this worker has the activity."""
        return name in self._activities

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self.slots.free

    async def run(
        self,
        scheduled: ev.ActivityScheduled,
        options: ActivityOptions,
        info: ActivityInfo,
        failed_attempts: int,
        details: Raw,
        may_begin: Callable[[], bool],
        permitted: Callable[[], Awaitable[None]],
        is_over: Callable[[], bool],
        on_failed: Callable[[ev.ActivityRetrying], None],
    ) -> Outcome:
        """Run attempts until one succeeds, the policy gives up, a durable backoff follows, or ``RECORD_AFTER`` is over.

        Await ``permitted`` before each attempt. Pass each failed attempt that a short backoff follows to ``on_failed``. A cancellation ends it only
        if ``is_over`` returns True. Otherwise the activity has cancelled its own task, and the attempt has failed.
        """
        attempt, began = failed_attempts, clock.monotonic()
        while True:
            attempt += 1
            current = Attempt(info if attempt == 1 else _with_attempt(info, attempt, details), details)
            try:
                async with self.slots:
                    if not may_begin():
                        await permitted()
                    result = await self.execute(scheduled, options, current)
            except BaseException as error:  # also SystemExit of user code, which must not end the worker
                if is_interrupt(error) or (is_cancelled() and is_over()):
                    raise
                stray = take_stray_cancel()
                details = current.details
                outcome = self._after_failure(error, scheduled, options, attempt, details)
                log_failed(info, outcome, options)
                if stray:  # perhaps the event loop is about to end: nothing more is waited for here
                    return outcome
            else:
                return ev.ActivityCompleted(index=scheduled.index, at=now_ms(), result=result, attempt=attempt)
            if not isinstance(outcome, ev.ActivityRetrying) or options.retry.delay_ms(attempt) >= DURABLE_BACKOFF_MS:  # without its jitter
                return outcome
            if clock.monotonic() - began >= RECORD_AFTER:
                return outcome
            on_failed(outcome)
            await asyncio.sleep((outcome.due - outcome.at) / 1000)

    async def execute(self, scheduled: ev.ActivityScheduled, options: ActivityOptions, attempt: Attempt) -> Raw:
        """Run one attempt and return its result as JSON, or raise its error. The caller holds a slot for it."""
        definition = self._activities[scheduled.name]
        args = definition.signature.decode_args(scheduled.input)
        faults.reach("before_activity")
        current_activity.set(attempt)  # each step has its own asyncio task and context
        if not definition.is_async:
            await self._take_thread(definition, options, scheduled.at)
        timeout = _attempt_timeout(options, scheduled.at)
        if timeout is None and options.heartbeat is None:
            value = await self._call(definition, args, attempt)
        else:
            value = await self._call_within(definition, args, attempt, timeout, options.heartbeat)
        faults.reach("after_activity")
        result = encode(value, definition.signature.result.what)
        definition.signature.result.check(value, result)
        if len(result) > self.max_bytes:
            raise PayloadTooLargeError(f"the result of activity {definition.name!r}", len(result), self.max_bytes)
        return result

    async def _call_within(
        self, definition: ActivityDefinition[Any, Any], args: Sequence[Any], attempt: Attempt, timeout: float | None, heartbeat: int | None
    ) -> Any:
        scope, silence = asyncio.timeout(timeout), asyncio.timeout(None)
        pulse = Pulse(attempt, silence, heartbeat / 1000) if heartbeat is not None else None
        try:
            async with scope, silence:
                return await self._call(definition, args, attempt)
        except TimeoutError as error:
            if silence.expired():
                attempt.over = "it was silent for too long"
                raise HeartbeatTimeout(f"activity {definition.name!r} was silent for longer than {(heartbeat or 0) / 1000:g} s") from error
            if scope.expired():
                attempt.over = "it took too long"
                raise AttemptTimeout(f"activity {definition.name!r} took longer than {timeout:g} s") from error
            raise
        finally:
            if pulse is not None:
                pulse.stop()

    async def _call(self, definition: ActivityDefinition[Any, Any], args: Sequence[Any], attempt: Attempt) -> Any:
        if definition.is_async:
            return await definition.function(*args)
        context = contextvars.copy_context()
        try:
            value, error = await self.threads.run(lambda: context.run(_in_thread, definition.function, args))
        except asyncio.CancelledError:
            attempt.over = attempt.over or "it was cancelled"  # a thread goes on until its next heartbeat
            raise
        if error is not None:
            raise error
        return value

    async def _take_thread(self, definition: ActivityDefinition[Any, Any], options: ActivityOptions, scheduled_at: int) -> None:
        """Wait for a thread: the time of an attempt begins once it has one. All attempts together have theirs since they were scheduled."""
        if options.schedule_to_close is None:
            await self.threads.take()
            return
        left = max(0, scheduled_at + options.schedule_to_close - now_ms()) / 1000
        scope = asyncio.timeout(left)
        try:
            async with scope:
                await self.threads.take()
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise AttemptTimeout(f"activity {definition.name!r} had no thread within {options.schedule_to_close / 1000:g} s") from error

    def _after_failure(
        self, error: BaseException, scheduled: ev.ActivityScheduled, options: ActivityOptions, attempt: int, details: Raw
    ) -> ev.ActivityFailed | ev.ActivityRetrying:
        now = now_ms()
        retryable = not is_final(error) and is_retryable(error, options.retry.final_types)
        timed_out = isinstance(error, AttemptTimeout)
        due, kind = after_failure(options, attempt, scheduled.at, now, retryable=retryable, timed_out=timed_out, jitter=clock.chance())
        if due is None:
            failure = failure_of(error, CODES[kind])
            return ev.ActivityFailed(index=scheduled.index, at=now, failure=failure, attempt=attempt, kind=kind)
        return ev.ActivityRetrying(index=scheduled.index, at=now, attempt=attempt, due=due, failure=failure_of(error), details=details)


class Pulse:
    """Checks that an attempt sends heartbeats often enough."""

    def __init__(self, attempt: Attempt, scope: asyncio.Timeout, limit: float) -> None:
        self._attempt = attempt
        self._scope = scope
        self._limit = limit
        attempt.time_by(clock.monotonic)
        self._timer = asyncio.get_running_loop().call_later(limit, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._attempt.beat_at + self._limit - clock.monotonic()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        else:
            self._scope.reschedule(loop.time())

    def stop(self) -> None:
        """Stop checking: the attempt has ended."""
        self._timer.cancel()


def is_final(error: BaseException) -> bool:
    """Return whether no further attempt follows an error, whatever the policy says."""
    return issubclass(type(error), (InvalidInputError, NonRetryableError))


def _in_thread(function: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, BaseException | None]:
    """Return a value, or what was raised: a future cannot hold every error, and asyncio gives some of them a meaning of their own."""
    try:
        return function(*args), None
    except StopIteration as error:
        problem = RuntimeError("the activity raised StopIteration")
        problem.__cause__ = error
        return None, problem
    except BaseException as error:
        return None, error


def is_cancelled() -> bool:
    """Return whether this step itself was cancelled, and not something that its activity awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def take_stray_cancel() -> bool:
    """Return whether this task was cancelled, and let it go on all the same: its activity has cancelled it."""
    task = asyncio.current_task()
    stray = task is not None and task.cancelling() > 0
    while task is not None and task.cancelling() > 0:
        task.uncancel()
    return stray


class AttemptTimeout(Exception):  # noqa: N818 - shown to people as the failure's type
    """Raised when an attempt takes longer than its timeout."""

    code = ACTIVITY_TIMEOUT


class HeartbeatTimeout(AttemptTimeout):
    """Raised when an attempt sends no heartbeat for longer than its heartbeat timeout."""


def failure_of(error: BaseException, without_code: int = UNKNOWN) -> Failure:
    """Return the failure of an attempt's error. ``without_code`` is the code for an error that carries none."""
    return to_failure(error, kind=Kind.TIMED_OUT if isinstance(error, AttemptTimeout) else None, without_code=without_code)


def _attempt_timeout(options: ActivityOptions, scheduled_at: int) -> float | None:
    limits = []
    if options.start_to_close is not None:
        limits.append(options.start_to_close)
    if options.schedule_to_close is not None:
        limits.append(max(0, scheduled_at + options.schedule_to_close - now_ms()))
    return min(limits) / 1000 if limits else None


def _with_attempt(info: ActivityInfo, attempt: int, details: Raw) -> ActivityInfo:
    return replace(info, attempt=attempt, heartbeat_details=decode(details, "heartbeat details"))
