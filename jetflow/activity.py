"""What activity code may call.

An activity is any function, ``async def`` or plain (then it runs in a thread). It may do anything; it runs at least once,
and never again once its outcome is recorded.

    @activity(retry=RetryPolicy(maximum_attempts=5, non_retryable=["CardDeclined"]), start_to_close_timeout="30s")
    async def charge(order: Order) -> Receipt: ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, overload

from msgspec import Struct

from jetflow.core.definitions import ActivityDefinition, RetryPolicy, activity_options
from jetflow.core.durations import Duration
from jetflow.errors import JetflowError

P = ParamSpec("P")
R = TypeVar("R")


class ActivityInfo(Struct, frozen=True):
    """Which attempt of which step is running.

    Attributes:
        activity_type: the activity's name.
        workflow_id, task_queue, run_id: the workflow it belongs to.
        index: its place among the run's operations.
        attempt: 1 for the first execution.
        idempotency_key: the same for every attempt of this step and for no other step; give it to the services you call.
    """

    activity_type: str
    workflow_id: str
    task_queue: str
    run_id: str
    index: int
    attempt: int = 1

    @property
    def idempotency_key(self) -> str:
        return f"{self.task_queue}/{self.workflow_id}/{self.run_id}/{self.index}"


current: ContextVar[ActivityInfo] = ContextVar("jetflow_activity")


def info() -> ActivityInfo:
    """The running activity's own facts.

    Raises:
        JetflowError: when called outside an activity.
    """
    try:
        return current.get()
    except LookupError:
        raise JetflowError("activity.info() can only be called inside a running @activity function") from None


class _ActivityDecorator:
    """``@activity``, and ``activity.info()``."""

    info = staticmethod(info)

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
        task_queue: str | None = None,
    ) -> Callable[[Callable[P, Any]], ActivityDefinition[P, Any]]: ...
    def __call__(self, function: Any = None, *, name: str | None = None, **options: Any) -> Any:
        """Makes a function an activity.

        Args:
            function: the function, when used without parentheses.
            name: the activity type on the wire; the function's name when not given.
            options: ``retry``: a ``RetryPolicy``; ``start_to_close_timeout``: the longest one attempt may take;
                ``schedule_to_close_timeout``: the longest all attempts together may take; ``task_queue``: where it runs, the
                workflow's own worker when not given.
        """
        chosen = activity_options(**options)
        if function is None:
            return lambda given: ActivityDefinition(given, name, chosen)
        return ActivityDefinition(function, name, chosen)


activity = _ActivityDecorator()
