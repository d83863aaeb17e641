"""Messages of a stream by position and by subject, and how subjects match filters."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache

from jetflow.testing.virtual import EPOCH


class Message:
    """One stored message. ``ns`` is when it was stored (ns since the epoch), ``fields`` are its parsed headers."""

    __slots__ = ("data", "fields", "headers", "ns", "seq", "subject")

    def __init__(self, seq: int, subject: str, data: bytes, headers: bytes | None, fields: dict[str, str], ns: int) -> None:
        self.seq: int = seq
        self.subject: str = subject
        self.data: bytes = data
        self.headers: bytes | None = headers
        self.fields: dict[str, str] = fields
        self.ns: int = ns

    def __repr__(self) -> str:
        return f"<{self.subject} at {self.seq}: {self.data[:60]!r}>"


NO_FIELDS: dict[str, str] = {}


@lru_cache(maxsize=4096)
def fields_of(headers: bytes | None) -> dict[str, str]:
    """Return the header fields by name, the first of each. The caller must not change them."""
    if headers is None:
        return NO_FIELDS
    fields: dict[str, str] = {}
    for line in headers.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name, value.strip())
    return fields


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], object]:
    """Return a function that tells whether a subject matches a filter."""
    if "*" not in pattern:
        if pattern == ">":
            return bool
        if pattern.endswith(".>"):
            prefix = pattern[:-1]
            return lambda subject: subject.startswith(prefix) and len(subject) > len(prefix)
        return pattern.__eq__
    parts = [{"*": r"[^.]+", ">": r".+"}.get(token, re.escape(token)) for token in pattern.split(".")]
    return re.compile(r"\.".join(parts)).fullmatch


@lru_cache(maxsize=4096)
def beginning(pattern: str) -> str:
    """Return the prefix that all subjects of a filter share."""
    return re.split(r"[*>]", pattern, maxsplit=1)[0]


def is_literal(pattern: str) -> bool:
    """Return whether a filter names exactly one subject."""
    return "*" not in pattern and not pattern.endswith(">")


@lru_cache(maxsize=8192)
def overlap(one: str, other: str) -> bool:
    """Return whether any subject matches both filters."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if a == ">" or b == ">":
            return True
        if a != b and a != "*" and b != "*":
            return False
    return len(left) == len(right)


def to_text(ns: int) -> str:
    """Return a time in the server's format."""
    if ns <= 0:
        return "0001-01-01T00:00:00Z"
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def from_text(text: str) -> int:
    """Return an RFC 3339 time as ns since the epoch.

    Raises:
        ValueError: the text is not such a time.
    """
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if match is None:
        raise ValueError(text)
    whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    return int(whole.timestamp()) * 1_000_000_000 + int((match[2] or "0")[:9].ljust(9, "0"))


def to_world(ns: int) -> float:
    """Return a time (ns since the epoch) as seconds since the world began."""
    return ns / 1e9 - EPOCH


class Store:
    """The messages of a stream on one server.

    Attributes:
        messages: the messages by position, in order.
        by_subject: the positions of each subject, in order.
    """

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.by_subject: dict[str, list[int]] = {}
        self.last_seq: int = 0
        self.last_ns: int = 0
        self.size = 0

    def add(self, message: Message) -> None:
        """Append a message."""
        self.messages[message.seq] = message
        found = self.by_subject.get(message.subject)
        if found is None:
            self.by_subject[message.subject] = [message.seq]
        else:
            found.append(message.seq)
        self.last_seq, self.last_ns = message.seq, message.ns

    def insert(self, message: Message) -> None:
        """Insert a message at its old position."""
        self.messages = dict(sorted([*self.messages.items(), (message.seq, message)]))
        self.by_subject[message.subject] = sorted([*self.by_subject.get(message.subject, ()), message.seq])

    def remove(self, seq: int) -> Message | None:
        """Remove and return a message."""
        message = self.messages.pop(seq, None)
        if message is not None:
            found = self.by_subject[message.subject]
            if len(found) == 1:
                del self.by_subject[message.subject]
            else:
                found.remove(seq)
        return message

    @property
    def first_seq(self) -> int:
        """The position of the first message, or of the next one to come."""
        for seq in self.messages:
            return seq
        return self.last_seq + 1

    def subjects(self, pattern: str) -> list[str]:
        """Return the subjects that match a filter."""
        if is_literal(pattern):
            return [pattern] if pattern in self.by_subject else []
        matches, start = matcher(pattern), beginning(pattern)
        return [subject for subject in self.by_subject if subject.startswith(start) and matches(subject)]

    def last(self, pattern: str) -> Message | None:
        """Return the newest message that matches a filter, or None."""
        found = self.by_subject.get(pattern)
        if found is not None:
            return self.messages[found[-1]]
        if is_literal(pattern):
            return None
        matches, start = matcher(pattern), beginning(pattern)
        seq = max([found[-1] for subject, found in self.by_subject.items() if subject.startswith(start) and matches(subject)], default=0)
        return self.messages[seq] if seq else None

    def after(self, start: int, patterns: list[str]) -> Iterator[Message]:
        """Yield the messages from a position on that match one of the filters."""
        tests = [matcher(pattern) for pattern in patterns]
        for message in self.between(start, self.last_seq):
            if not tests or any(test(message.subject) for test in tests):
                yield message

    def between(self, start: int, last: int) -> Iterator[Message]:
        """Yield the messages from one position to another."""
        messages = self.messages
        if last - start < 2 * len(messages):
            for seq in range(max(start, 1), last + 1):
                message = messages.get(seq)
                if message is not None:
                    yield message
        else:
            seqs = list(messages)
            for seq in seqs[bisect_left(seqs, start) :]:
                if seq > last:
                    return
                yield messages[seq]


class Follower:
    """A stream on a follower: everything up to a moment in the past, which never goes back."""

    def __init__(self) -> None:
        self.store: Store = Store()
        self._applied = 0

    def catch_up(self, log: list[tuple[float, Message | int]], until: float) -> Store:
        """Apply all changes up to a moment."""
        store = self.store
        while self._applied < len(log) and log[self._applied][0] <= until:
            change = log[self._applied][1]
            self._applied += 1
            if isinstance(change, int):
                store.remove(change)
            elif change.seq > store.last_seq:
                store.add(change)
            else:
                store.insert(change)
        return store
