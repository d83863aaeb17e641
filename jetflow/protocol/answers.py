"""Answers to queries and updates, on the wire."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from jetflow.core.failures import to_failure
from jetflow.errors import Failure

NOT_FOUND = "not_found"
CLOSED = "closed"
REFUSED = "refused"


class Answer(Struct, omit_defaults=True):
    """A result or a failure. ``problem`` is set if the failure is not the handler's own. ``run`` is the run that answered."""

    result: Raw | msgspec.UnsetType = msgspec.UNSET
    failure: Failure | None = None
    problem: str | None = None
    run: str | None = None


def failed(error: BaseException, problem: str | None = None) -> Answer:
    """Return the answer for an exception."""
    return Answer(failure=to_failure(error), problem=problem)
