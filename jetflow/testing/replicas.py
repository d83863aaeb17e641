"""Replicated streams: the leader checks a write when it comes, and stores it once the followers have it."""

from __future__ import annotations

import json

from jetflow.testing.checks import EXPECTED, EXPECTED_SUBJECT, Refusal, check
from jetflow.testing.network import Network, Publication
from jetflow.testing.store import fields_of
from jetflow.testing.stream import Stream

FASTEST, SLOWEST = 0.0005, 0.004
"""Seconds until the followers have a message."""


def propose(server: Network, stream: Stream, operation: Publication, sender: str) -> None:
    """Check a message or a complete batch as the leader does, and propose it."""
    subject, reply, data, headers = operation
    fields, stored = fields_of(headers), stream.stored_subject(subject)
    batch = fields.get("Nats-Batch-Id", "")
    try:
        if batch:
            staged = stream.stage(stored, data, headers, fields)
            if staged is None:
                _say(server, reply, b"")
                return
        else:
            seq = check(stream, stored, fields)
            if seq:
                server.note("duplicate", stream.name, stored, seq)
                _say(server, reply, b'{"stream":"%b","seq":%d,"duplicate": true}' % (stream.name.encode(), seq))
                return
            staged = [(stored, fields.get(EXPECTED_SUBJECT, stored) if EXPECTED in fields else "", data, headers)]
    except Refusal as refusal:
        server.note("refused", stream.name, stored, refusal.error["description"])
        _say(server, reply, json.dumps({"error": refusal.error, "stream": stream.name, "seq": 0}).encode())
        return
    for each, checked, _, block in staged:
        if checked:
            stream.in_process[checked] = stream.in_process.get(checked, 0) + 1
        stream.in_flight[each] = stream.in_flight.get(each, 0) + 1
        message_id = fields_of(block).get("Nats-Msg-Id")
        if message_id:
            stream.ids[message_id] = (-1, server.world.now + stream.window)
    delay = FASTEST + (SLOWEST - FASTEST) * server.world.rng.random()
    server.in_turn(stream.name, sender, _apply, (server, stream, batch, staged, reply), delay)


def _apply(item: tuple[Network, Stream, str, list[Publication], str]) -> None:
    """Store a proposed message or batch: most servers have it."""
    server, stream, batch, staged, reply = item
    answer = stream.store_batch(batch, staged)
    if not batch:
        answer = b'{"stream":"%b","seq":%d}' % (stream.name.encode(), stream.store.last_seq)
    _say(server, reply, answer)
    for each, checked, _, _ in staged:
        _less(stream.in_flight, each)
        if checked:  # the ack goes out a moment before the leader forgets the check subject
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


def _say(server: Network, reply: str, answer: bytes) -> None:
    if reply:
        server.route(reply, "", answer, None)
