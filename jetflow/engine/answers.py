"""What is answered to queries and updates, on the wire."""

from __future__ import annotations

import logging

import msgspec
from msgspec import Raw, Struct

from jetflow.broker.wire import Wire
from jetflow.core.failures import Failure, to_failure
from jetflow.errors import BrokerError, PayloadTooLargeError

log: logging.Logger = logging.getLogger("jetflow.worker")

NOT_FOUND = "not_found"
CLOSED = "closed"
REFUSED = "refused"


class Answer(Struct, omit_defaults=True):
    """Either a result or a failure. ``problem`` says of a failure that it is not the handler's own; ``run`` which run answered."""

    result: Raw | msgspec.UnsetType = msgspec.UNSET
    failure: Failure | None = None
    problem: str | None = None
    run: str | None = None


def failed(error: BaseException, problem: str | None = None) -> Answer:
    """The answer that an exception is."""
    return Answer(failure=to_failure(error), problem=problem)


def send(wire: Wire, reply: str | None, answer: Answer) -> None:
    """Sends an answer if somebody listens; one that is lost is asked for again."""
    if not reply:
        return
    try:
        try:
            wire.send(reply, msgspec.json.encode(answer))
        except PayloadTooLargeError as error:
            wire.send(reply, msgspec.json.encode(failed(error)))
    except BrokerError as error:
        log.debug("an answer is lost: %s", error)
