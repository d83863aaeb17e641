"""Handlers of queries and updates: functions of a workflow that are called from outside while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec
from msgspec import Raw

from jetflow.core import events as ev
from jetflow.core.values import Signature, args_from_body
from jetflow.errors import Failure, InvalidInputError, Kind

MAX_OUTCOMES = 200
"""Most outcomes of updates in memory, for callers that ask again."""
CARRIED_BYTES = 4 * 1024
"""Most bytes of outcomes that the next generation gets, the newest first."""

Outcome = ev.UpdateCompleted | ev.UpdateFailed


class Handler:
    """A function with a name. Its annotations are read at the first call."""

    def __init__(self, name: str, function: Callable[..., Any], validator: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.function = function
        self.validator = validator

    def arguments(self, body: bytes | Raw, told: int | None = None) -> Raw:
        """Return the JSON list of arguments of a command's body. ``told``: their number, if the command has it."""
        return args_from_body(bytes(body), single=self.signature.single, told=told)

    @cached_property
    def signature(self) -> Signature:
        return Signature(self.function, self.name)


class Handlers:
    """The handlers of one run, and its updates.

    Attributes:
        queries, updates: handlers by name.
        running: running updates by id.
        outcomes: outcomes of the last updates that ended, by id.
        forgotten: the highest inbox sequence of an update whose outcome was dropped.
    """

    def __init__(self, outcomes: list[Outcome] | None = None, forgotten: int = 0) -> None:
        self.forgotten: int = forgotten
        self.queries: dict[str, Handler] = {}
        self.updates: dict[str, Handler] = {}
        self.running: dict[str, ev.Updated] = {}
        self.outcomes: dict[str, Outcome] = {outcome.id: outcome for outcome in outcomes or []}

    def set_query(self, name: str, function: Callable[..., Any]) -> None:
        """Add a query handler, or replace the one of this name."""
        _check_handler("query", name, function)
        if asyncio.iscoroutinefunction(function):
            raise InvalidInputError(f"query {name!r} must be a plain function, not an async one: it may only read")
        self.queries[name] = Handler(name, function)

    def set_update(self, name: str, function: Callable[..., Any], validator: Callable[..., Any] | None) -> None:
        """Add an update handler, or replace the one of this name."""
        _check_handler("update", name, function)
        if validator is not None:
            _check_handler("validator of update", name, validator)
            if asyncio.iscoroutinefunction(validator):
                raise InvalidInputError(f"the validator of update {name!r} must be a plain function, not an async one: it may only read")
        self.updates[name] = Handler(name, function, validator)

    def knows_update(self, update_id: str) -> bool:
        """Return whether an update was accepted before."""
        return update_id in self.running or update_id in self.outcomes

    def carried(self, now: int) -> dict[str, Any]:
        """Return the newest outcomes, for the next generation. Running updates have failed: their code ends with this generation."""
        failure = Failure("UpdateError", "the workflow continued as new before the update was done", kind=Kind.REFUSED)
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

    def keep(self, update_id: str, outcome: Outcome) -> None:
        """Store an update's outcome, for a caller that asks again. Drop the oldest one when there are too many."""
        del self.running[update_id]
        self.outcomes[update_id] = outcome
        while len(self.outcomes) > MAX_OUTCOMES:
            oldest = self.outcomes.pop(next(iter(self.outcomes)))
            self.forgotten = max(self.forgotten, oldest.seq)


def _check_handler(kind: str, name: Any, function: Any) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"the name of a {kind} must be a non-empty string, not {name!r}")
    if not callable(function):
        raise InvalidInputError(f"{kind} {name!r} must be a function, not {type(function).__name__}")
