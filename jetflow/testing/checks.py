"""The checks before the double stores a message, with the server's words for each refusal."""

from __future__ import annotations

import re
from typing import Any, Protocol

from jetflow.testing.store import Store, from_text, overlap

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"


class Checked(Protocol):
    """What the checks need of a stream."""

    config: dict[str, Any]
    store: Store
    subjects: list[str]
    replicas: int
    scheduling: bool
    in_process: dict[str, int]
    in_flight: dict[str, int]

    def seen(self, message_id: str) -> int:
        """Return the position of the recent message with an id, or 0."""
        ...


class Refusal(Exception):  # noqa: N818
    """Raised with the server's answer when it does not store a message."""

    def __init__(self, err_code: int, description: str, code: int = 400) -> None:
        super().__init__(description)
        self.error: dict[str, Any] = {"code": code, "err_code": err_code, "description": description}


def wrong_last(seq: int | None) -> Refusal:
    """Return the refusal of a failed compare-and-set. ``seq`` is None while another write is in process."""
    return Refusal(10164, "wrong last sequence") if seq is None else Refusal(10071, f"wrong last sequence: {seq}")


def check(stream: Checked, subject: str, fields: dict[str, str]) -> int:
    """Raise ``Refusal``, or return the position of an earlier message with the same id, or 0."""
    if not fields:
        return 0
    ttl = fields.get("Nats-TTL")
    if ttl is not None:
        if not stream.config.get("allow_msg_ttl"):
            raise Refusal(10166, "per-message TTL is disabled")
        if ttl_seconds(ttl) is None:
            raise Refusal(10165, "invalid per-message TTL")
    message_id = fields.get("Nats-Msg-Id")
    if message_id and stream.replicas > 1:  # the leader checks it before it proposes the message
        seq = stream.seen(message_id)
        if seq:
            return seq
    expect(stream, subject, fields)
    if message_id and stream.replicas == 1:
        seq = stream.seen(message_id)
        if seq:
            return seq
    if "Nats-Rollup" in fields and not stream.config["allow_rollup_hdrs"]:
        raise Refusal(10111, "rollup not permitted")
    if "Nats-Schedule" in fields:
        _check_schedule(stream, subject, fields)
    return 0


def expect(stream: Checked, subject: str, fields: dict[str, str], written: dict[str, int] | None = None) -> None:
    """Check the compare-and-set. ``written`` has the subjects that the batch has written already."""
    expected = fields.get(EXPECTED)
    if expected is None:
        return
    checked = fields.get(EXPECTED_SUBJECT, subject)
    if (written is not None and checked in written) or checked in stream.in_process or checked in stream.in_flight:
        raise wrong_last(None)
    last = stream.store.last(checked)
    seq = 0 if last is None else last.seq
    if seq != int(expected):
        raise wrong_last(seq)


def _check_schedule(stream: Checked, subject: str, fields: dict[str, str]) -> None:
    if not stream.scheduling:
        raise Refusal(10188, "message schedules is disabled")
    try:
        if not fields["Nats-Schedule"].startswith("@at "):
            raise ValueError
        from_text(fields["Nats-Schedule"][4:])
    except ValueError:
        raise Refusal(10189, "message schedules pattern is invalid") from None
    target = fields.get("Nats-Schedule-Target", "")
    if not target or target == subject or not any(overlap(target, pattern) for pattern in stream.subjects):
        raise Refusal(10190, "message schedules target is invalid")


def ttl_seconds(text: str) -> float | None:
    """Return a header's time to live in seconds: 0 for never, None if it is invalid."""
    if text == "never":
        return 0.0
    if text.isdigit():
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    seconds = sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)
    return seconds if seconds >= 1 else None


def go_duration(seconds: int) -> str:
    """Return seconds in the server's format."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
