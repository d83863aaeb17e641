"""Sends answers."""

from __future__ import annotations

import logging

import msgspec

from jetflow.broker.transport.wire import Wire
from jetflow.errors import BrokerError, PayloadTooLargeError
from jetflow.protocol.answers import Answer, failed

log: logging.Logger = logging.getLogger("jetflow.worker")


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
