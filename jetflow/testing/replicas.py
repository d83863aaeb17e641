"""What is different on three servers: a write is checked by the leader when it comes, and stored once the others have it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from jetflow.testing.network import Publication
from jetflow.testing.store import fields_of
from jetflow.testing.stream import EXPECTED, EXPECTED_SUBJECT, Refusal, Stream

if TYPE_CHECKING:
    from jetflow.testing.server import MemoryServer

FASTEST, SLOWEST = 0.0005, 0.004
"""Seconds until the others have a message."""


def propose(server: MemoryServer, stream: Stream, operation: Publication, sender: str) -> None:
    """The leader checks a message, and proposes it."""
    subject, reply, data, headers = operation
    fields = fields_of(headers)
    delay = FASTEST + (SLOWEST - FASTEST) * server.world.rng.random()
    if "Nats-Batch-Id" in fields:
        server.in_turn(stream.name, sender, _apply_batch, (server, stream, operation), delay)
        return
    stored = stream.stored_subject(subject)
    try:
        seq = stream.check(stored, fields)
    except Refusal as refusal:
        server.note("refused", stream.name, stored, refusal.error["description"])
        _say(server, reply, json.dumps({"error": refusal.error, "stream": stream.name, "seq": 0}).encode())
        return
    if seq:
        server.note("duplicate", stream.name, stored, seq)
        _say(server, reply, b'{"stream":"%b","seq":%d,"duplicate": true}' % (stream.name.encode(), seq))
        return
    checked = fields.get(EXPECTED_SUBJECT, stored) if EXPECTED in fields else None
    if checked is not None:
        stream.in_process[checked] = stream.in_process.get(checked, 0) + 1
    stream.in_flight[stored] = stream.in_flight.get(stored, 0) + 1
    if fields.get("Nats-Msg-Id"):
        stream.ids[fields["Nats-Msg-Id"]] = (-1, server.world.now + stream.window)
    server.in_turn(stream.name, sender, _apply, (server, stream, stored, reply, data, headers, checked), delay)


def _apply(item: tuple[MemoryServer, Stream, str, str, bytes, bytes | None, str | None]) -> None:
    server, stream, stored, reply, data, headers, checked = item
    message = stream.append(stored, data, headers, fields_of(headers))
    _less(stream.in_flight, stored)
    _say(server, reply, b'{"stream":"%b","seq":%d}' % (stream.name.encode(), message.seq))
    if checked is not None:  # the ack goes out a moment before the leader forgets
        server.in_turn("", "", _forget, (stream, checked), server.world.rng.random() * 0.0005)


def _forget(item: tuple[Stream, str]) -> None:
    stream, checked = item
    _less(stream.in_process, checked)


def _less(counts: dict[str, int], key: str) -> None:
    left = counts.get(key, 0) - 1
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)


def _apply_batch(item: tuple[MemoryServer, Stream, Publication]) -> None:
    server, stream, (subject, reply, data, headers) = item
    answer = stream.publish(subject, data, headers)
    if answer is not None:
        _say(server, reply, answer)


def _say(server: MemoryServer, reply: str, answer: bytes) -> None:
    if reply:
        server.route(reply, "", answer, None)
