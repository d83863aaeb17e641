"""What activity code may call.

An activity is any function, ``async def`` or plain (then it runs in a thread). It may do anything; it runs at least once,
and never again once its outcome is recorded.

    @activity(retry=RetryPolicy(maximum_attempts=5, non_retryable=["CardDeclined"]), start_to_close_timeout="30s")
    async def charge(order: Order) -> Receipt: ...

It runs in the workflow's own worker. With ``task_queue=`` it runs on the workers of that queue, which need no workflows;
``docs/remote-activities.md`` has the rest.
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
    """Which attempt of which step is running.

    Attributes:
        activity_type: the activity's name.
        workflow_id, task_queue, run_id: the workflow it belongs to.
        index: its place among the run's operations.
        attempt: 1 for the first execution.
        heartbeat_details: what the attempt before said last with ``heartbeat(details)``, as plain JSON types; None for nothing.
        idempotency_key: the same for every attempt of this step and for no other step; give it to the services you call.
    """

    activity_type: str
    workflow_id: str
    task_queue: str
    run_id: str
    index: int
    attempt: int = 1
    heartbeat_details: Any = None

    @property
    def idempotency_key(self) -> str:
        return f"{self.task_queue}/{self.workflow_id}/{self.run_id}/{self.index}"


MAX_DETAILS = 8 * 1024
"""Bytes of a heartbeat's details; they travel with the next attempt's task."""


class Attempt:
    """One execution under way, as it and its runner both see it.

    Attributes:
        info: which one.
        details: the JSON of what a heartbeat said last, also of the attempt before.
        beat_at: when it last said that it is there, by the runner's clock; 0 unless the runner times it.
        over: why nobody waits for it any more; None while somebody does.
        on_beat: called after each heartbeat, perhaps in the activity's thread.
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
        """Note from now on when the attempt says that it is there."""
        self._clock = clock
        self.beat_at = clock()

    def beat(self) -> None:
        """The attempt says that it is there."""
        if self._clock is not None:
            self.beat_at = self._clock()
        if self.on_beat is not None:
            self.on_beat()


current: ContextVar[Attempt] = ContextVar("jetflow_activity")


def info() -> ActivityInfo:
    """The running activity's own facts.

    Raises:
        JetflowError: when called outside an activity.
    """
    try:
        return current.get().info
    except LookupError:
        raise JetflowError("activity.info() can only be called inside a running @activity function") from None


def heartbeat(details: Any = None) -> None:
    """Says that the activity is still at work; ``heartbeat_timeout`` is how long it may be silent.

    Args:
        details: where it stands, for the next attempt should this one fail: there they are ``activity.info().heartbeat_details``.
            At most 8 KiB as JSON. Not given: those of the heartbeat before stay.

    Raises:
        CancelledFailure: nobody waits for this attempt any more: it took too long, its workflow has ended, or its worker stops.
            An async activity is cancelled anyway; for one in a thread this is how it comes to know.
        JetflowError: when called outside an activity.
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
        """Makes a function an activity of the same arguments and result."""

        @overload
        def __call__(self, function: Callable[P, Awaitable[R]], /) -> ActivityDefinition[P, R]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> ActivityDefinition[P, R]: ...


_Base = object if TYPE_CHECKING else ModuleType


class _Activity(_Base):
    """This module, which is the decorator too: ``@activity``, ``activity.info()`` and ``import jetflow.activity`` all mean the same object."""

    if TYPE_CHECKING:  # at run time they are found in the module

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
        """Makes a function an activity.

        Args:
            function: the function, when used without parentheses.
            name: the activity type on the wire; the function's name when not given.
            options: ``retry``: a ``RetryPolicy``; ``start_to_close_timeout``: the longest one attempt may take;
                ``schedule_to_close_timeout``: the longest all attempts together may take; ``heartbeat_timeout``: the longest
                an attempt may go without ``activity.heartbeat()``; ``task_queue``: whose workers run it, the workflow's own
                worker when not given.
        """
        chosen = activity_options(**options)
        if function is None:
            return lambda given: ActivityDefinition(given, name, chosen)
        return ActivityDefinition(function, name, chosen)


sys.modules[__name__].__class__ = cast(type[ModuleType], _Activity)
activity: _Activity = cast(_Activity, sys.modules[__name__])
