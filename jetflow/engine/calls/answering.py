"""Sends the answers of queries and updates."""

from __future__ import annotations

import logging

import msgspec

from jetflow.broker.transport.wire import Wire
from jetflow.errors import BrokerError, PayloadTooLargeError
from jetflow.protocol.answers import Answer, failed

log: logging.Logger = logging.getLogger("jetflow.worker")


def send(wire: Wire, reply: str | None, answer: Answer) -> None:
    """Send an answer if the caller gave a reply subject. A caller whose answer is lost asks again.
    While the server does not take what was written, drop the answer and count it in ``wire.dropped``. Callers may ask faster than the server
    takes answers.
    """
    if not reply:
        return
    if wire.is_connected and not wire.takes_writes:
        wire.dropped += 1
        if wire.dropped & (wire.dropped - 1) == 0:  # the first, the second, the fourth …
            log.warning("nats-server does not read what this worker writes: %d answers dropped so far", wire.dropped)
        return
    try:
        try:
            wire.send(reply, msgspec.json.encode(answer))
        except PayloadTooLargeError as error:
            wire.send(reply, msgspec.json.encode(failed(error)))
    except BrokerError as error:
        log.debug("an answer is lost: %s", error)
