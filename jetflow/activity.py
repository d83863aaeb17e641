"""What activity code may call.

An activity is any function. An ``async def`` function runs on the worker's event loop, a plain one in a thread. It may do
anything. It runs at least once, and never again once its outcome is recorded.

    @activity(retry=RetryPolicy(maximum_attempts=5, non_retryable=["CardDeclined"]), start_to_close_timeout="30s")
    async def charge(order: Order) -> Receipt: ...

An activity runs in the workflow's own worker. With ``task_queue=`` it runs on the workers of that queue, which need no
workflows. See ``docs/remote-activities.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, cast, overload

from msgspec import Raw, Struct

from jetflow.core.definitions import ActivityDefinition, RetryPolicy, activity_options
from jetflow.core.durations import Duration
from jetflow.core.events import NULL
from jetflow.core.values import encode
from jetflow.errors import CancelledFailure, JetflowError, PayloadTooLargeError

P = ParamSpec("P")
R = TypeVar("R")


class ActivityInfo(Struct, frozen=True):
    """The attempt that is running.

    Attributes:
        activity_type: the activity's name.
        workflow_id, task_queue, run_id: the workflow that the activity belongs to.
        index: the activity's index among the run's operations.
        attempt: 1 for the first execution.
        workflow_type: the type of that workflow; "" if an older worker or one in another language scheduled the activity.
        heartbeat_details: the details of the previous attempt's last ``heartbeat(details)``, as plain JSON types; None if it gave none.
        idempotency_key: the same for every attempt of this step and for no other step. Pass it to the services that you call.
    """

    activity_type: str
    workflow_id: str
    task_queue: str
    run_id: str
    index: int
    attempt: int = 1
    heartbeat_details: Any = None
    workflow_type: str = ""

    @property
    def idempotency_key(self) -> str:
        return f"{self.task_queue}/{self.workflow_id}/{self.run_id}/{self.index}"


MAX_DETAILS = 8 * 1024
"""Largest size of a heartbeat's details in bytes. The next attempt's task carries them."""


class Attempt:
    """One running execution, shared by the activity and its runner.

    Attributes:
        info: which attempt it is.
        details: the details of the last heartbeat as JSON. At first those of the previous attempt.
        beat_at: time of the last heartbeat, by the runner's clock; 0 if the runner does not time the attempt.
        over: why nothing waits for the attempt any more; None while its outcome counts.
        on_beat: called after each heartbeat, possibly in the activity's thread.
    """

    __slots__ = ("_clock", "beat_at", "details", "info", "on_beat", "over")

    def __init__(self, info: ActivityInfo, details: Raw = NULL) -> None:
        self.info: ActivityInfo = info
        self.details: Raw = details
        self.beat_at: float = 0.0
        self.over: str | None = None
        self.on_beat: Callable[[], None] | None = None
        self._clock: Callable[[], float] | None = None

    def time_by(self, clock: Callable[[], float]) -> None:
        """Record the time of each heartbeat from now on, by this clock."""
        self._clock = clock
        self.beat_at = clock()

    def beat(self) -> None:
        """Record a heartbeat."""
        if self._clock is not None:
            self.beat_at = self._clock()
        if self.on_beat is not None:
            self.on_beat()


current: ContextVar[Attempt] = ContextVar("jetflow_activity")


def info() -> ActivityInfo:
    """Return the facts about the running attempt.

    Raises:
        JetflowError: it was called outside an activity.
    """
    try:
        return current.get().info
    except LookupError:
        raise JetflowError("activity.info() can only be called inside a running @activity function") from None


def heartbeat(details: Any = None) -> None:
    """Report that the activity is still running. ``heartbeat_timeout`` is the longest time between two heartbeats.

    Args:
        details: the activity's progress, at most 8 KiB as JSON. If this attempt fails, the next one reads it from
            ``activity.info().heartbeat_details``. Without it, the details of the previous heartbeat stay.

    Raises:
        CancelledFailure: the attempt's outcome no longer counts: it took too long, its workflow has ended, or its worker stops.
            The worker cancels an async activity itself. An activity in a thread learns of it only by this error.
        PayloadTooLargeError: the details are larger than 8 KiB.
        JetflowError: it was called outside an activity.
    """
    try:
        attempt = current.get()
    except LookupError:
        raise JetflowError("activity.heartbeat() can only be called inside a running @activity function") from None
    if attempt.over is not None:
        raise CancelledFailure(f"attempt {attempt.info.attempt} of activity {attempt.info.activity_type!r} is over: {attempt.over}")
    if details is not None:
        encoded = encode(details, "heartbeat details")
        if len(encoded) > MAX_DETAILS:
            raise PayloadTooLargeError("the details of a heartbeat", len(encoded), MAX_DETAILS)
        attempt.details = encoded
    attempt.beat()


if TYPE_CHECKING:

    class _Decorates(Protocol):
        """Make a function an activity with the same arguments and result."""

        @overload
        def __call__(self, function: Callable[P, Awaitable[R]], /) -> ActivityDefinition[P, R]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> ActivityDefinition[P, R]: ...


_Base = object if TYPE_CHECKING else ModuleType


class _Activity(_Base):
    """This module, which is also the decorator: ``@activity``, ``activity.info()`` and ``import jetflow.activity`` use one object."""

    if TYPE_CHECKING:  # at run time the module has them

        def __init__(self) -> None:
            self.info: Final = info
            self.heartbeat: Final = heartbeat

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> ActivityDefinition[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> ActivityDefinition[P, R]: ...
    @overload
    def __call__(
        self,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        start_to_close_timeout: Duration | None = None,
        schedule_to_close_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        task_queue: str | None = None,
    ) -> _Decorates: ...
    def __call__(self, function: Any = None, *, name: str | None = None, **options: Any) -> Any:
        """Make a function an activity.

        Args:
            function: the function, when used without parentheses.
            name: the activity type on the wire. Default: the function's name.
            options: ``retry``: a ``RetryPolicy``. ``start_to_close_timeout``: the deadline of one attempt.
                ``schedule_to_close_timeout``: the deadline of all attempts together. ``heartbeat_timeout``: the longest time
                between two calls of ``activity.heartbeat()``. ``task_queue``: the queue whose workers run the activity.
                Default: the workflow's own worker runs it.

        Raises:
            InvalidInputError: an option's value is invalid.
        """
        chosen = activity_options(**options)
        if function is None:
            return lambda given: ActivityDefinition(given, name, chosen)
        return ActivityDefinition(function, name, chosen)


sys.modules[__name__].__class__ = cast(type[ModuleType], _Activity)
activity: _Activity = cast(_Activity, sys.modules[__name__])
