"""Definitions of workflows and activities, and their policies."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from jetflow.core.durations import Duration, limit_ms, to_ms
from jetflow.core.failures import type_name
from jetflow.core.ids import to_token
from jetflow.core.loop import current_machine
from jetflow.core.values import Signature
from jetflow.errors import InvalidInputError

P = ParamSpec("P")
R = TypeVar("R")


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How often a failed activity is retried, and when.

    The delay before retry k (from 1) is ``initial_interval * backoff_coefficient ** (k - 1)``, at most
    ``maximum_interval``, with a tenth of jitter either way.

    Attributes:
        maximum_attempts: most attempts, counting the first; 0: no limit.
        initial_interval: backoff before the first retry.
        backoff_coefficient: factor from one backoff to the next, at least 1.
        maximum_interval: the longest backoff.
        throw_on_error: False returns the error object as the result instead of raising it.
        non_retryable: exception types that are not retried, as classes or by name. Their subclasses are not retried either. They are
            compared by name.
    """

    maximum_attempts: int = 50
    initial_interval: Duration = "1s"
    backoff_coefficient: float = 5
    maximum_interval: Duration = "120s"
    throw_on_error: bool = True
    non_retryable: tuple[str | type[BaseException], ...] | list[str | type[BaseException]] | list[str] | list[type[BaseException]] = ()

    def __post_init__(self) -> None:
        if self.maximum_attempts < 0:
            raise InvalidInputError(f"maximum_attempts must be 0 (no limit) or more, not {self.maximum_attempts}")
        if not 1 <= self.backoff_coefficient < math.inf:
            raise InvalidInputError(f"backoff_coefficient must be at least 1 and finite, not {self.backoff_coefficient}")
        if isinstance(self.non_retryable, (str, type)) or not all(_is_exception(given) for given in self.non_retryable):
            raise InvalidInputError('non_retryable must be a list of exception types or their names, such as [ValueError, "CardDeclined"]')
        to_ms(self.initial_interval, "initial_interval")
        to_ms(self.maximum_interval, "maximum_interval")

    def delay_ms(self, retry: int, jitter: float = 0.5) -> int:
        """Return the backoff before retry number ``retry`` (from 1) in ms. ``jitter``, from 0 to 1, spreads it over 90 to 110 %."""
        longest = to_ms(self.maximum_interval)
        try:
            delay = to_ms(self.initial_interval) * float(self.backoff_coefficient) ** (retry - 1)
        except OverflowError:
            delay = longest
        return round(min(delay, longest) * (0.9 + 0.2 * jitter))

    @property
    def final_types(self) -> set[str]:
        """The names of the types that are not retried."""
        return {given if isinstance(given, str) else type_name(given) for given in self.non_retryable}

    def allows(self, attempt: int) -> bool:
        """Return whether another attempt may follow number ``attempt``."""
        return self.maximum_attempts == 0 or attempt < self.maximum_attempts


def _is_exception(given: Any) -> bool:
    return isinstance(given, str) or (isinstance(given, type) and issubclass(given, BaseException))


class ActivityOptions(Struct, frozen=True, kw_only=True):
    """How an activity runs. Durations are in ms; None: no limit."""

    retry: RetryPolicy = RetryPolicy()
    start_to_close: int | None = None
    schedule_to_close: int | None = None
    heartbeat: int | None = None
    task_queue: str | None = None


def activity_options(base: ActivityOptions | None = None, **given: Any) -> ActivityOptions:
    """Return options from the public keywords, on top of ``base``.

    Args:
        base: the options for keywords that are not given.
        given: ``retry``, ``start_to_close_timeout``, ``schedule_to_close_timeout``, ``heartbeat_timeout``, ``task_queue``.

    Raises:
        InvalidInputError: a keyword is unknown or a value is invalid.
    """
    changes: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key == "retry":
            if not isinstance(value, RetryPolicy):
                raise InvalidInputError(f"retry must be a RetryPolicy, not {type(value).__name__}")
            changes["retry"] = value
        elif key in ("start_to_close_timeout", "schedule_to_close_timeout", "heartbeat_timeout"):
            changes[key.removesuffix("_timeout")] = limit_ms(value, key)
        elif key == "task_queue":
            to_token(value, "task queue")
            changes["task_queue"] = value
        else:
            raise InvalidInputError(f"unknown activity option {key!r}")
    return replace(base or ActivityOptions(), **changes) if changes else base or ActivityOptions()


class WorkflowDefinition(Generic[P, R]):
    """A workflow function with its name, signature and task queue. Calling it calls the function."""

    def __init__(self, function: Callable[P, Awaitable[R]], name: str | None = None, task_queue: str | None = None) -> None:
        if not inspect.iscoroutinefunction(function):
            raise InvalidInputError(_no_workflow(function))
        self.function: Callable[..., Coroutine[Any, Any, Any]] = cast(Callable[..., Coroutine[Any, Any, Any]], function)
        if task_queue is not None:
            to_token(task_queue, "task queue")
        self.name: str = _name_of(function) if name is None else name
        to_token(self.name, "workflow type")
        self.task_queue: str | None = task_queue
        self.__name__: str = self.name
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function

    @cached_property
    def signature(self) -> Signature:
        """Decoders of the arguments and the result, created at first use."""
        return Signature(self.function, f"workflow {self.name!r}")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


class ActivityDefinition(Generic[P, R]):
    """An activity function with its name, signature and options.

    Inside a workflow, awaiting a call runs the function as a durable step. Anywhere else, the call runs the function itself.
    """

    def __init__(self, function: Callable[P, Awaitable[R] | R], name: str | None = None, options: ActivityOptions | None = None) -> None:
        if not callable(function):
            raise InvalidInputError(f"an activity must be a function, not {function!r}")
        self.function: Callable[..., Any] = function
        self.name: str = _name_of(function) if name is None else name
        to_token(self.name, "activity name")
        self.options: ActivityOptions = options or ActivityOptions()
        self.is_async: bool = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
        self.__name__: str = self.name
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function

    @cached_property
    def signature(self) -> Signature:
        """Decoders of the arguments and the result, created at first use."""
        return Signature(self.function, f"activity {self.name!r}")

    def with_options(self, **options: Any) -> ActivityDefinition[P, R]:
        """Return the same activity with other options. See ``activity`` for the keywords."""
        return ActivityDefinition(self.function, self.name, activity_options(self.options, **options))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        machine = current_machine()
        if machine is not None:
            return machine.run_activity(self, self.signature.bind(args, kwargs))
        return _plain_call(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<activity {self.name}>"


async def _plain_call(definition: ActivityDefinition[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the function itself, for calls outside a workflow such as unit tests. A plain function runs in a thread."""
    if definition.is_async:
        return await definition.function(*args, **kwargs)
    return await asyncio.to_thread(definition.function, *args, **kwargs)


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    if name == "<lambda>":
        raise InvalidInputError("a lambda has no name; use a def function")
    if isinstance(function, functools.partial):
        raise InvalidInputError(f"{function!r} has no name; use a def function")
    return str(name)


def _no_workflow(given: Any) -> str:
    """Why something is no workflow, and what to write instead."""
    if isinstance(given, ActivityDefinition):
        return f"{given.name!r} is an activity, not a workflow: call it from a workflow, or pass a @workflow function or a workflow's name"
    if isinstance(given, type):
        return f"a workflow must be a @workflow function or its name, not the class {given.__qualname__!r}"
    if not callable(given) or not hasattr(given, "__name__"):
        return f"a workflow must be a @workflow function or its name, not {given!r}"
    return f"workflow {_name_of(given)!r} must be an async def function"


def workflow_of(given: Any) -> tuple[str, WorkflowDefinition[Any, Any] | None]:
    """Return the name of a workflow, and its definition where more than the name is given.

    Args:
        given: a ``@workflow`` function, a plain ``async def`` function, or a name.

    Raises:
        InvalidInputError: it is none of these.
    """
    if isinstance(given, WorkflowDefinition):
        return given.name, given
    if isinstance(given, str):
        return given, None
    definition = as_workflow(given)
    return definition.name, definition


def no_activity(given: Any) -> str:
    """Why something cannot be given to ``execute_activity``, and what to write instead."""
    wanted = "execute_activity takes an @activity function, or the name of an activity"
    if isinstance(given, WorkflowDefinition):
        return f"{given.name!r} is a workflow, not an activity: use execute_child"
    name = getattr(given, "__name__", None)
    if isinstance(given, type):
        return f"{wanted}, not the class {given.__qualname__!r}"
    if name == "<lambda>":
        return f"{wanted}, not a lambda: write a def function with @activity above it"
    if callable(given) and isinstance(name, str):
        return f"{wanted}: put @activity above {name!r}, or pass the name {name!r} if other workers have it"
    return f"{wanted}, not {given!r}"


def as_workflow(given: Any) -> WorkflowDefinition[Any, Any]:
    """Return the definition of a decorated or a plain async function."""
    return given if isinstance(given, WorkflowDefinition) else WorkflowDefinition(given)


def as_activity(given: Any) -> ActivityDefinition[Any, Any]:
    """Return the definition of a decorated or a plain function."""
    return given if isinstance(given, ActivityDefinition) else ActivityDefinition(given)
