"""Header blocks of NATS messages, and the names of jetflow's own headers."""

from __future__ import annotations

EXPIRE = "Jetflow-Expire"
ARGS = "Jetflow-Args"
REPLACE = "Jetflow-Replace"
START_DELAY = "Jetflow-Start-Delay"
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
"""Size in bytes of the original body, in a dead letter whose body did not fit beside the reason."""

OWN_PREFIX = "Jetflow-"
"""Prefix of the names of jetflow's headers."""

_SCHEDULER = b"Nats-Scheduler:"
_OF_PUBLISHERS = ("Nats-Msg-Id", "Nats-Schedule", "Nats-Schedule-Target", "Nats-TTL")
_EMPTY = b"Nats-Msg-Size: 0\r\n"

LONGEST_TTL = 100 * 365 * 86_400
"""The longest time to live in seconds. The server refuses one that does not fit into 64 bits of nanoseconds."""


def ttl_of(ms: int) -> str:
    """Return a message's time to live as a header value: whole seconds, rounded up, at least one."""
    return f"{min(max(1, -(-ms // 1000)), LONGEST_TTL)}s"


def ttl_field(ttl: str) -> bytes:
    """Return the header line that gives a message a time to live."""
    return f"Nats-TTL:{ttl}\r\n".encode()


def is_marker(headers: bytes) -> bool:
    """Return whether a key that was read without its value is a marker. A marker has no value; a record always has one."""
    return _EMPTY in headers


def was_scheduled(headers: bytes | None) -> bool:
    """Return whether the broker published a message when a schedule was due."""
    return headers is not None and _SCHEDULER in headers


def given_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers that the publisher set, without those that the server added."""
    return {name: value for name, value in headers.items() if (name and not name.startswith("Nats-")) or name in _OF_PUBLISHERS}


def own_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return jetflow's headers among those of a message."""
    return {name: value for name, value in headers.items() if name.startswith(OWN_PREFIX)}


def header_block(**fields: str) -> bytes:
    """Return a raw header block. A ``_`` in a name becomes ``-``."""
    block = "NATS/1.0\r\n"
    for name, value in fields.items():
        block += f"{name.replace('_', '-')}:{value}\r\n"
    return f"{block}\r\n".encode()


def status_of(headers: bytes | None) -> int:
    """Return the status in a header block's first line (404, 503, …); 0 without one."""
    if headers is None or headers[8:9] != b" ":
        return 0
    try:
        return int(headers[9:12])
    except ValueError:
        return 0


def parse_headers(headers: bytes | None) -> dict[str, str]:
    """Return header fields by name. ``""`` has the text of the status line. The last of several equal names wins."""
    if not headers:
        return {}
    lines = headers.decode(errors="replace").split("\r\n")
    fields = {"": lines[0][8:].strip()}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip()] = value.strip()
    return fields
