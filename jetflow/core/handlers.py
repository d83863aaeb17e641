"""Queries and updates that a workflow's code has given out: functions that are called from outside while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from jetflow.core import events as ev
from jetflow.core.ids import to_token
from jetflow.core.values import Signature, args_from_body
from jetflow.errors import Failure, InvalidInputError, Kind

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
        self.forgotten: int = forgotten
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
        """Keep what came of an update, for a caller that asks again; the oldest outcome goes when there are too many."""
        del self.running[update_id]
        self.outcomes[update_id] = outcome
        while len(self.outcomes) > MAX_OUTCOMES:
            oldest = self.outcomes.pop(next(iter(self.outcomes)))
            self.forgotten = max(self.forgotten, oldest.seq)


def _check_handler(kind: str, name: Any, function: Any) -> None:
    to_token(name, f"the name of a {kind}")
    if not callable(function):
        raise InvalidInputError(f"{kind} {name!r} must be a function, not {type(function).__name__}")
