"""Queries and updates: functions that a workflow's code gives out, to be called from outside while it runs.

A query reads, between two inputs, through a machine that refuses whatever would be recorded. An update is an input: its
handler runs as a task of the workflow's loop, and what it comes to is an output like any other.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.failures import Failure, to_failure
from jetflow.core.loop import WorkflowLoop
from jetflow.core.values import EMPTY_LIST, Signature, args_from_body, encode
from jetflow.errors import InvalidInputError, QueryError

if TYPE_CHECKING:
    from jetflow.core.machine import Machine

MAX_OUTCOMES = 200
"""Updates whose outcome is kept for a caller that asks again."""
CARRIED_BYTES = 4 * 1024
"""Bytes of outcomes that the next generation takes along, the newest first."""

Outcome = ev.UpdateCompleted | ev.UpdateFailed


class Handler:
    """A function given out under a name. Its annotations are read when it is first called."""

    def __init__(self, name: str, function: Callable[..., Any], validator: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.function = function
        self.validator = validator
        self._signature: Signature | None = None

    def arguments(self, body: bytes | Raw, told: int | None = None) -> Raw:
        """The JSON list of arguments of a command's body."""
        return args_from_body(bytes(body), single=self.signature.single, told=told)

    @property
    def signature(self) -> Signature:
        if self._signature is None:
            self._signature = Signature(self.function, self.name)
        return self._signature


class Handlers:
    """What one machine's code has given out, and the updates it has taken.

    Attributes:
        queries, updates: handlers by name.
        running: updates under way by id.
        outcomes: of the last updates that ended, by id.
        forgotten: the highest inbox sequence of updates whose outcome is not kept any more.
    """

    def __init__(self, outcomes: list[Outcome] | None = None, forgotten: int = 0) -> None:
        self.forgotten = forgotten
        self.queries: dict[str, Handler] = {}
        self.updates: dict[str, Handler] = {}
        self.running: dict[str, ev.Updated] = {}
        self.outcomes: dict[str, Outcome] = {outcome.id: outcome for outcome in outcomes or []}

    def set_query(self, name: str, function: Callable[..., Any]) -> None:
        """Gives out a query, in place of an earlier one of the name."""
        _check_handler("query", name, function)
        if asyncio.iscoroutinefunction(function):
            raise InvalidInputError(f"query {name!r} must be a plain function: it reads, and waits for nothing")
        self.queries[name] = Handler(name, function)

    def set_update(self, name: str, function: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        """Gives out an update."""
        _check_handler("update", name, function)
        if validator is not None:
            _check_handler("validator of update", name, validator)
            if asyncio.iscoroutinefunction(validator):
                raise InvalidInputError(f"the validator of update {name!r} must be a plain function: it reads, and waits for nothing")
        self.updates[name] = Handler(name, function, validator)

    def knows_update(self, update_id: str) -> bool:
        """Whether an update was taken before."""
        return update_id in self.running or update_id in self.outcomes

    def carried(self, now: int) -> dict[str, Any]:
        """The newest outcomes, as many as the next generation takes along; updates under way have failed, their code is gone."""
        failure = Failure("UpdateError", "the workflow continued as new before the update was done")
        outcomes = [
            *self.outcomes.values(),
            *(ev.UpdateFailed(id=event.id, at=now, failure=failure, seq=event.seq) for event in self.running.values()),
        ]
        room, forgotten, taken = CARRIED_BYTES, self.forgotten, []
        for outcome in reversed(outcomes):
            room -= len(msgspec.json.encode(outcome))
            if room >= 0:
                taken.append(outcome)
            else:
                forgotten = max(forgotten, outcome.seq)
        return {"updates": taken[::-1], "forgotten": forgotten}

    # ---- updates, as the machine sees them

    def begin(self, machine: Machine, event: ev.Updated) -> None:
        """Runs an update's handler as a task of the workflow."""
        handler = self.updates[event.name]
        self.running[event.id] = event
        machine.loop.create_task(self._run(machine, handler, event), name=f"update {event.name}")

    async def _run(self, machine: Machine, handler: Handler, event: ev.Updated) -> None:
        outcome: Outcome
        try:
            value = handler.function(*handler.signature.decode_args(event.input))
            if inspect.isawaitable(value):
                value = await value
            outcome = ev.UpdateCompleted(id=event.id, at=machine.now, seq=event.seq, result=encode(value, f"update {event.name!r}, result"))
            machine._check_size(outcome)
        except (Exception, asyncio.CancelledError) as error:
            outcome = ev.UpdateFailed(id=event.id, at=machine.now, failure=to_failure(error), seq=event.seq)
        outcome = machine._decide(outcome)
        del self.running[event.id]
        self.outcomes[event.id] = outcome
        while len(self.outcomes) > MAX_OUTCOMES:
            oldest = self.outcomes.pop(next(iter(self.outcomes)))
            self.forgotten: int = max(self.forgotten, oldest.seq)

    def prepare(self, machine: Machine, name: str, body: bytes, told: int | None) -> Raw:
        """The arguments of an update that is not recorded yet, looked at by its validator.

        Raises:
            Exception: why it is refused; nothing is recorded of it.
        """
        handler = self.updates[name]
        args = handler.arguments(body, told)
        typed = handler.signature.decode_args(args)
        if handler.validator is not None:
            read(machine, f"the validator of update {name!r}", handler.validator, typed)
        return args


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
        raise QueryError(f"the workflow has no query {name!r}; {_known(handlers.queries if handlers is not None else {})}")
    args = handler.signature.decode_args(handler.arguments(body, told) if body.strip() else EMPTY_LIST)
    value = read(machine, f"query {name!r}", handler.function, args)
    return encode(value, f"query {name!r}, result")


class DisturbedError(QueryError):
    """Raised when code that was only to read has woken a part of the workflow: its machine no longer is what its timeline says."""


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
    return len(machine.decided), len(machine.pending), machine.next_index, machine.halted, len(machine.loop._ready), len(machine.loop.tasks)


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


def _check_handler(kind: str, name: Any, function: Any) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"the name of a {kind} must be a non-empty string, not {name!r}")
    if not callable(function):
        raise InvalidInputError(f"{kind} {name!r} must be a function, not {type(function).__name__}")


def _known(handlers: dict[str, Handler]) -> str:
    return f"it has {', '.join(sorted(handlers))}" if handlers else "it has none"
