"""Code of a workflow that only reads: queries, and the validators of updates.

They are called between two inputs, through a stand-in of the machine that refuses whatever would be recorded.
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
    """Raised when code that was only to read has woken a part of the workflow: its machine no longer is what its timeline says."""


def query(machine: Machine, name: str, body: bytes, told: int | None = None) -> Raw:
    """Answers a query; whatever it raises is for the caller, and nothing of the run is changed.

    Raises:
        QueryError: there is no such query, or it tried to do more than read.
        DisturbedError: it went behind the machine's back; the machine must be thrown away.
        Exception: what the handler raised.
    """
    handlers = machine.handlers
    handler = handlers.queries.get(name) if handlers is not None else None
    if handler is None:
        raise QueryError(f"the workflow has no query {name!r}; {_known(handlers)}")
    args = handler.signature.decode_args(handler.arguments(body, told) if body.strip() else EMPTY_LIST)
    value = read(machine, f"query {name!r}", handler.function, args)
    return encode(value, f"query {name!r}, result")


def prepare_update(machine: Machine, name: str, body: bytes, told: int | None) -> Raw:
    """Return the arguments of an update that is not recorded yet, once its validator has looked at them.

    Raises:
        Exception: why it is refused; nothing is recorded of it.
    """
    assert machine.handlers is not None
    handler = machine.handlers.updates[name]
    args = handler.arguments(body, told)
    typed = handler.signature.decode_args(args)
    if handler.validator is not None:
        read(machine, f"the validator of update {name!r}", handler.validator, typed)
    return args


def read(machine: Machine, what: str, function: Callable[..., Any], args: Any) -> Any:
    """Calls a function of the workflow's that may look at everything and do nothing.

    Raises:
        QueryError: it tried to do something.
        DisturbedError: it has done something, and the machine must be thrown away.
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
        raise QueryError(f"{what} must be a plain function: it reads, and waits for nothing")
    return value


def _mark(machine: Machine) -> tuple[Any, ...]:
    """What would differ if something had been done."""
    return len(machine.decided), len(machine.pending), machine.next_index, machine.halted, machine.loop.ready, len(machine.loop.tasks)


class _ReadingMachine:
    """Stands for the machine while code may only read."""

    halted = False

    def __init__(self, machine: Machine, what: str) -> None:
        self._machine = machine
        self._what = what
        self.now = machine.now
        self.info = machine.info
        self.definition = machine.definition

    def user_data(self, change: bool) -> UserData:
        """The data to look at."""
        if change:
            self.refuse("changing user data")
        return self._machine.user_data(False)

    def tell_time(self) -> int:
        """The workflow's time."""
        return self.now

    def refuse(self, call: str) -> Any:
        """Says what is wrong."""
        raise QueryError(f"{self._what} may only read: {call} is not allowed in it")

    def __getattr__(self, name: str) -> Any:
        return self.refuse(name.strip("_").replace("_", " "))


class _ReadingLoop(WorkflowLoop):
    """A loop on which nothing can be done."""

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
        """Nothing runs here that could finish it."""


def _known(handlers: Handlers | None) -> str:
    return f"it has {', '.join(sorted(handlers.queries))}" if handlers is not None and handlers.queries else "it has none"
