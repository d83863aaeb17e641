"""Workflow code that may only read: queries, and validators of updates.

It runs between two inputs, with a replacement of the machine that refuses everything that would be recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from msgspec import Raw

from jetflow.core.data import UserData
from jetflow.core.handlers import Handlers
from jetflow.core.loop import WorkflowLoop
from jetflow.core.machine import Machine
from jetflow.core.values import EMPTY_LIST, encode
from jetflow.errors import QueryError


class DisturbedError(QueryError):
    """Raised when code that may only read has changed the workflow. The machine then differs from its timeline."""


def query(machine: Machine, name: str, body: bytes, told: int | None = None) -> Raw:
    """Answer a query. Errors are for the query's caller, and the run does not change.

    Raises:
        QueryError: there is no such query, or its handler tried to do more than read.
        DisturbedError: the handler changed the workflow. The machine must be discarded.
        Exception: the handler's own error.
    """
    handlers = machine.handlers
    handler = handlers.queries.get(name) if handlers is not None else None
    if handler is None:
        raise QueryError(f"the workflow has no query {name!r}; {_known(handlers)}")
    args = handler.signature.decode_args(handler.arguments(body, told) if body.strip() else EMPTY_LIST)
    value = read(machine, f"query {name!r}", handler.function, args)
    return encode(value, f"query {name!r}, result")


def prepare_update(machine: Machine, name: str, body: bytes, told: int | None) -> Raw:
    """Validate an update that is not recorded yet, and return its arguments.

    Raises:
        Exception: the update is refused, and nothing of it is recorded.
    """
    assert machine.handlers is not None
    handler = machine.handlers.updates[name]
    args = handler.arguments(body, told)
    typed = handler.signature.decode_args(args)
    if handler.validator is not None:
        read(machine, f"the validator of update {name!r}", handler.validator, typed)
    return args


def read(machine: Machine, what: str, function: Callable[..., Any], args: Any) -> Any:
    """Call a function of the workflow that may only read.

    Raises:
        QueryError: the function tried to change something.
        DisturbedError: the function has changed something. The machine must be discarded.
    """
    before = _mark(machine)
    loop = _ReadingLoop(_ReadingMachine(machine, what))
    try:
        value = loop.call(function, args)
    finally:
        if _mark(machine) != before:
            raise DisturbedError(f"{what} changed the workflow: it may only read")
    if inspect.isawaitable(value):
        close = getattr(value, "close", None)
        if close is not None:
            close()
        raise QueryError(f"{what} must be a plain function, not an async one: it may only read")
    return value


def _mark(machine: Machine) -> tuple[Any, ...]:
    """Return values that differ after any change of the machine."""
    return len(machine.decided), len(machine.pending), machine.next_index, machine.halted, machine.loop.ready, len(machine.loop.tasks)


class _ReadingMachine:
    """Replaces the machine while code may only read."""

    halted = False

    def __init__(self, machine: Machine, what: str) -> None:
        self._machine = machine
        self._what = what
        self.now = machine.now
        self.info = machine.info
        self.definition = machine.definition

    def user_data(self, change: bool) -> UserData:
        """Return the user data, for reading."""
        if change:
            self.refuse("changing user data")
        return self._machine.user_data(False)

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields of a log line that concerns the workflow."""
        return self.info.log_fields

    def tell_time(self) -> int:
        """Return the workflow's time, ms since the epoch."""
        return self.now

    def refuse(self, call: str) -> Any:
        """Raise the error for a call that is not allowed."""
        raise QueryError(f"{self._what} may only read: {call} is not allowed in it")

    def __getattr__(self, name: str) -> Any:
        return self.refuse(name.strip("_").replace("_", " "))


class _ReadingLoop(WorkflowLoop):
    """A loop that refuses every call."""

    def __init__(self, machine: _ReadingMachine) -> None:
        self.machine = machine  # type: ignore[assignment]
        self.workflow_id = machine.info.workflow_id
        self._running = False
        self._time_floor = 0.0

    def call(self, function: Callable[..., Any], args: Any) -> Any:
        value: list[Any] = []
        self._inside(lambda: value.append(function(*args)))
        return value[0]

    def call_soon(self, *_: Any, **__: Any) -> Any:
        return self.machine.refuse("waking a task")  # type: ignore[attr-defined]

    def call_at(self, *_: Any, **__: Any) -> Any:
        return self.machine.refuse("a timer")  # type: ignore[attr-defined]

    def create_future(self) -> Any:
        return self.machine.refuse("waiting")  # type: ignore[attr-defined]

    def create_task(self, coro: Any, **_: Any) -> Any:
        coro.close()
        return self.machine.refuse("a task")  # type: ignore[attr-defined]

    def _finish_generator(self, generator: Any) -> None:
        """Do nothing: no code runs on this loop."""


def _known(handlers: Handlers | None) -> str:
    return f"it has {', '.join(sorted(handlers.queries))}" if handlers is not None and handlers.queries else "it has no queries"
