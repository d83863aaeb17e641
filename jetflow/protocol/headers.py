"""Header blocks of NATS messages, and the names of jetflow's own headers."""

from __future__ import annotations

EXPIRE = "Jetflow-Expire"
ARGS = "Jetflow-Args"
REPLACE = "Jetflow-Replace"
NEW_ID = "Jetflow-New-Id"
PARENT = "Jetflow-Parent"
ORIGIN = "Jetflow-Origin"
SENDER = "Jetflow-Sender"
DATA = "Jetflow-Data"
ENTITY = "Jetflow-Entity"
REPLY = "Jetflow-Reply"
UPDATE = "Jetflow-Update"
RUN = "Jetflow-Run"
SUBJECT = "Jetflow-Subject"
REASON = "Jetflow-Reason"
SIZE = "Jetflow-Size"
"""Of a dead letter whose body did not fit beside the reason: how many bytes it had."""

OWN_PREFIX = "Jetflow-"
"""What the names of jetflow's headers begin with."""

_OF_PUBLISHERS = ("Nats-Msg-Id", "Nats-Schedule", "Nats-Schedule-Target", "Nats-TTL")
_EMPTY = b"Nats-Msg-Size: 0\r\n"

LONGEST_TTL = 100 * 365 * 86_400
"""Seconds; the server refuses what does not fit into 64 bits of nanoseconds."""


def ttl_of(ms: int) -> str:
    """A message's time to live as a header value: whole seconds, at least one."""
    return f"{min(max(1, -(-ms // 1000)), LONGEST_TTL)}s"


def ttl_field(ttl: str) -> bytes:
    """Return the header line that gives a message a time to live."""
    return f"Nats-TTL:{ttl}\r\n".encode()


def is_marker(headers: bytes) -> bool:
    """Return whether a key that was read without its value has none: it is a marker. Records are never empty."""
    return _EMPTY in headers


def given_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers that a publisher gave; those of the server say where the message lies."""
    return {name: value for name, value in headers.items() if (name and not name.startswith("Nats-")) or name in _OF_PUBLISHERS}


def own_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return jetflow's headers among those of a message."""
    return {name: value for name, value in headers.items() if name.startswith(OWN_PREFIX)}


def header_block(**fields: str) -> bytes:
    """A raw header block; ``_`` in a name stands for ``-``."""
    block = "NATS/1.0\r\n"
    for name, value in fields.items():
        block += f"{name.replace('_', '-')}:{value}\r\n"
    return f"{block}\r\n".encode()


def status_of(headers: bytes | None) -> int:
    """The status in a header block's first line (404, 503, …), 0 without one."""
    if headers is None or headers[8:9] != b" ":
        return 0
    try:
        return int(headers[9:12])
    except ValueError:
        return 0


def parse_headers(headers: bytes | None) -> dict[str, str]:
    """Header fields; the status line's text is under ``""``. The last of a repeated field wins."""
    if not headers:
        return {}
    lines = headers.decode(errors="replace").split("\r\n")
    fields = {"": lines[0][8:].strip()}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip()] = value.strip()
    return fields
