"""Direct gets of the double, answered by the leader or by a follower that lags."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from jetflow.testing.store import Message, Store, from_text, matcher, to_text
from jetflow.testing.stream import Stream

MOST_SUBJECTS = 1024
Answer = Callable[[bytes, bytes | None], None]


def get(stream: Stream, store: Store, subject: str, body: bytes, answer: Answer) -> None:
    """Answer one request. ``subject`` is the requested subject if it stands behind the stream's name."""
    if subject:
        one(stream, store.last(subject), answer)
        return
    request = json.loads(body) if body else {}
    if "multi_last" in request:
        _last_of_many(stream, store, request, answer)
    elif request.get("batch"):
        _batch(stream, store, request, answer)
    elif "last_by_subj" in request:
        one(stream, store.last(request["last_by_subj"]), answer)
    elif "next_by_subj" in request:
        one(stream, next(store.after(request.get("seq", 1), [request["next_by_subj"]]), None), answer)
    elif request.get("seq"):
        one(stream, store.messages.get(request["seq"]), answer)
    else:
        answer(b"", b"NATS/1.0 408 Empty Request\r\n\r\n")


def one(stream: Stream, message: Message | None, answer: Answer) -> None:
    """Answer with a single message, or that there is none."""
    if message is None:
        answer(b"", b"NATS/1.0 404 Message Not Found\r\n\r\n")
    else:
        answer(message.data, _block(stream, message, ""))


def _block(stream: Stream, message: Message, more: str) -> bytes:
    added = f"Nats-Stream: {stream.name}\r\nNats-Subject: {message.subject}\r\nNats-Sequence: {message.seq}\r\n"
    added += f"Nats-Time-Stamp: {to_text(message.ns)}\r\n{more}\r\n"
    return (message.headers or b"NATS/1.0\r\n\r\n")[:-2] + added.encode()


def _last_of_many(stream: Stream, store: Store, request: dict[str, Any], answer: Answer) -> None:
    up_to = request.get("up_to_seq") or store.last_seq
    if "up_to_time" in request:
        limit = from_text(request["up_to_time"])
        up_to = max((seq for seq, message in store.messages.items() if message.ns < limit), default=0)
    found: dict[int, None] = {}
    for pattern in request["multi_last"]:
        for subject in store.subjects(pattern):
            seq = max((seq for seq in store.by_subject[subject] if seq <= up_to), default=0)
            if seq:
                found[seq] = None
    if len(found) > MOST_SUBJECTS:
        answer(b"", b"NATS/1.0 413 Too Many Results\r\n\r\n")
        return
    start = request.get("seq", 0)
    messages = [store.messages[seq] for seq in sorted(found) if seq >= start]
    if not messages:
        answer(b"", b"NATS/1.0 404 No Results\r\n\r\n")
        return
    _send(stream, messages, len(messages), request, answer, f"Nats-UpTo-Sequence: {up_to}\r\n")


def _batch(stream: Stream, store: Store, request: dict[str, Any], answer: Answer) -> None:
    start = request.get("seq", 0)
    if "start_time" in request:
        limit = from_text(request["start_time"])
        start = next((seq for seq, message in store.messages.items() if message.ns >= limit), store.last_seq + 1)
    elif not start:
        answer(b"", b"NATS/1.0 408 Empty Request\r\n\r\n")
        return
    matches = matcher(request.get("next_by_subj", ">"))
    messages = [message for message in store.between(start, store.last_seq) if matches(message.subject)]
    if not messages:
        answer(b"", b"NATS/1.0 404 Message Not Found\r\n\r\n")
        return
    _send(stream, messages, len(messages), request, answer, "")


def _send(stream: Stream, messages: Iterable[Message], pending: int, request: dict[str, Any], answer: Answer, more: str) -> None:
    batch, most = request.get("batch", 0), request.get("max_bytes", 0) or 64 * 1024 * 1024
    last = size = 0
    for sent, message in enumerate(messages):
        if (batch and sent == batch) or (sent and size >= most):
            break
        pending -= 1
        size += len(message.data) + len(message.subject) + len(message.headers or b"") + 22
        answer(message.data, _block(stream, message, f"Nats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\n"))
        last = message.seq
    answer(b"", f"NATS/1.0 204 EOB\r\nNats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\n{more}\r\n".encode())
