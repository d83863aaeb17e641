"""Names on the wire: subject tokens, streams, buckets and keys, all in one place.

A workflow id, task queue or signal name may be any non-empty text. On the wire it is one subject token
that is also a valid KV key part: letters, digits, ``-`` and ``_`` stand for themselves, every other
UTF-8 byte becomes ``=XX`` (two upper-case hex digits). ``order-456`` stays ``order-456``; ``order 4.5``
becomes ``order=204=2E5``.
"""

import hashlib
import re
from functools import lru_cache

from jetflow.errors import InvalidInputError

DEFAULT_NAMESPACE = "jetflow"
DEFAULT_PARTITIONS = 64
MAX_TOKEN = 256

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
_SAFE_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def to_token(text: str, what: str = "name") -> str:
    """The subject token for any text.

    Raises:
        InvalidInputError: if the text is empty, or longer than 256 bytes as a token.
    """
    if not isinstance(text, str) or not text:
        raise InvalidInputError(f"{what} must be a non-empty string, not {text!r}")
    token = text if _PLAIN.fullmatch(text) else _escaped(text, what)
    if len(token) > MAX_TOKEN:
        raise InvalidInputError(f"{what} is too long: {len(token)} bytes on the wire, at most {MAX_TOKEN}: {text[:40]!r}…")
    return token


@lru_cache(maxsize=4096)
def _escaped(text: str, what: str) -> str:
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} {text!r} is not valid unicode text: {error}") from error
    return "".join(chr(byte) if byte in _SAFE_BYTES else f"={byte:02X}" for byte in raw)


def from_token(token: str) -> str:
    """The text a token stands for.

    Raises:
        InvalidInputError: if the token is not what ``to_token`` gives for its text, since then it could
            name the same workflow in two partitions; the message shows the spelling to use.
    """
    if _PLAIN.fullmatch(token) and len(token) <= MAX_TOKEN:
        return token
    return _unescaped(token)


@lru_cache(maxsize=4096)
def _unescaped(token: str) -> str:
    if _TOKEN.fullmatch(token):
        try:
            raw = re.sub(rb"=([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), token.encode())
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"subject token {token!r} does not decode to unicode text: {error}") from error
        if to_token(text) == token:
            return text
        raise InvalidInputError(f"subject token {token!r} must be written {to_token(text)!r}")
    raise InvalidInputError(f"subject token {token!r} has characters to escape; write {to_token(token)!r}")


def child_id(parent_id: str, run: int, index: int) -> str:
    """The id made for a child that was given none; a digest stands for a parent's id that leaves no room."""
    made = f"{parent_id}-{run}-{index}"
    try:
        to_token(made)
    except InvalidInputError:
        return f"{hashlib.blake2b(parent_id.encode(), digest_size=16).hexdigest()}-{run}-{index}"
    return made


def partition_of(queue_token: str, id_token: str, partitions: int) -> int:
    """The partition nats-server gives ``{{partition(P,1,2)}}``: 32-bit FNV-1a over the two tokens."""
    value = _hash_of_queue(queue_token)
    for byte in id_token.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % partitions


@lru_cache(maxsize=256)
def _hash_of_queue(queue_token: str) -> int:
    value = 2166136261
    for byte in queue_token.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


class Names:
    """Every stream, bucket and subject of one namespace.

    Args:
        namespace: lower-case word, letters, digits, ``_`` and ``-``; several live side by side on a server.
    """

    def __init__(self, namespace: str = DEFAULT_NAMESPACE) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", namespace):
            raise InvalidInputError(f"namespace {namespace!r} must be 1 to 32 of a-z, 0-9, '_' and '-', and begin with a letter")
        self.namespace = namespace
        upper = namespace.upper()
        self.inbox_stream = upper
        self.task_stream: str = f"{upper}_TASKS"
        self.dead_stream: str = f"{upper}_DEAD"
        self.events_stream: str = f"{upper}_EVENTS"
        self.by_id_stream: str = f"{upper}_BY_ID"
        self.state_bucket: str = f"{namespace}_state"
        self.timeline_bucket: str = f"{namespace}_timeline"
        self.signal_bucket: str = f"{namespace}_signals"
        self.wait_bucket: str = f"{namespace}_waits"
        self.worker_bucket: str = f"{namespace}_workers"
        self.heartbeat_bucket: str = f"{namespace}_heartbeats"
        self.state_stream: str = f"KV_{self.state_bucket}"
        self.timeline_stream: str = f"KV_{self.timeline_bucket}"
        self.signal_stream: str = f"KV_{self.signal_bucket}"
        self.wait_stream: str = f"KV_{self.wait_bucket}"
        self.worker_stream: str = f"KV_{self.worker_bucket}"
        self.heartbeat_stream: str = f"KV_{self.heartbeat_bucket}"
        self.state_prefix: str = f"$KV.{self.state_bucket}."
        self.timeline_prefix: str = f"$KV.{self.timeline_bucket}."
        self.signal_prefix: str = f"$KV.{self.signal_bucket}."
        self.wait_prefix: str = f"$KV.{self.wait_bucket}."
        self.worker_prefix: str = f"$KV.{self.worker_bucket}."
        self.heartbeat_prefix: str = f"$KV.{self.heartbeat_bucket}."
        self.changed_prefix: str = f"{namespace}_changed."
        self.query_prefix: str = f"{namespace}_query."
        self.timer_prefix: str = f"{namespace}_timer."
        self.task_prefix: str = f"{namespace}_task."
        self.ended_prefix: str = f"{namespace}_ended."
        self.dead_prefix: str = f"{namespace}_dead."
        self.events_prefix: str = f"{namespace}_events."
        self.by_id_prefix: str = f"{namespace}_signal."
        self.waiting_prefix: str = f"{namespace}_waiting."
        self.tenure_prefix: str = f"{namespace}_tenure."
        self.guard_prefix: str = f"{namespace}_guard.{self.timeline_bucket}."
        self.owned_streams: dict[str, str] = {
            "inbox": self.inbox_stream,
            "timeline": self.timeline_stream,
            "state": self.state_stream,
            "signals": self.signal_stream,
            "waits": self.wait_stream,
            "tasks": self.task_stream,
            "dead": self.dead_stream,
        }
        """Streams that an owner writes, by the word that their revocations are known by."""

    def command(self, queue_token: str, id_token: str, command: str) -> str:
        """Subject of a command; ``command`` is ``start.<type>``, ``signal.<name>``, ``cancel``, …"""
        return f"{self.namespace}.{queue_token}.{id_token}.{command}"

    def partition_filter(self, partition: int, queue_token: str) -> str:
        """The stored commands of one partition of one task queue."""
        return f"{self.namespace}.{partition}.{queue_token}.>"

    def revocation(self, kind: str, queue_token: str, tenure: str) -> str:
        """Subject of the message that ends a tenure in one of the ``owned_streams``; see ``jetflow.broker.fence``."""
        return f"{self.tenure_prefix}{kind}.{queue_token}.{tenure}"

    def registry(self, queue_token: str) -> str:
        """Subject, in the timeline's stream, of what is known of a task queue's tenures."""
        return f"{self.tenure_prefix}timeline.registry.{queue_token}.0"

    def guard(self, queue_token: str, id_token: str) -> str:
        """Subject of the message that keeps an earlier owner from writing a workflow's first timeline key."""
        return f"{self.guard_prefix}{queue_token}.{id_token}.0"

    def pending_start(self, queue_token: str, id_token: str) -> str:
        """The stored, unconsumed start commands of one workflow, whatever its partition and type."""
        return f"{self.namespace}.*.{queue_token}.{id_token}.start.>"
