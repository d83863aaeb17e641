"""Sends answers."""

from __future__ import annotations

import logging

import msgspec

from jetflow.broker.transport.wire import Wire
from jetflow.errors import BrokerError, PayloadTooLargeError
from jetflow.protocol.answers import Answer, failed

log: logging.Logger = logging.getLogger("jetflow.worker")


def send(wire: Wire, reply: str | None, answer: Answer) -> None:
    """Sends an answer if somebody listens; one that is lost is asked for again. While the server does not take what was written it is
    dropped, and counted in ``wire.dropped``: callers may ask faster than it takes answers.
    """
    if not reply:
        return
    if wire.is_connected and not wire.takes_writes:
        wire.dropped += 1
        if wire.dropped & (wire.dropped - 1) == 0:  # the first, the second, the fourth …
            log.warning("nats-server does not take what this worker writes: %d answers dropped so far", wire.dropped)
        return
    try:
        try:
            wire.send(reply, msgspec.json.encode(answer))
        except PayloadTooLargeError as error:
            wire.send(reply, msgspec.json.encode(failed(error)))
    except BrokerError as error:
        log.debug("an answer is lost: %s", error)
