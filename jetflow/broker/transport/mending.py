"""Mends an inbox that would give used positions again: it continues behind all positions in use, with its waiting messages.

Only a purge moves a stream's positions forward, so another stream holds the waiting messages meanwhile. Each step can be repeated: after a crash,
call ``mend`` again.

    1  the inbox refuses messages for the moment; their publishers get an error
    2  the waiting messages are copied, each under a subject that names its position
    3  the inbox is purged up to a position that no counter of messages reaches
    4  the inbox accepts messages again, the copies first
    5  the copies are removed
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from jetflow.broker.transport.codes import STREAM_NOT_FOUND
from jetflow.broker.transport.epoch import Epoch
from jetflow.broker.transport.lane import Lane, StoredMessage
from jetflow.errors import BrokerError, ConflictError, TopologyError
from jetflow.protocol import clock
from jetflow.protocol.headers import header_block
from jetflow.protocol.subjects import Names

PAGE = 500
SUBJECT = "Jetflow-Subject"
OF_THE_SERVER = ("", "Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence", "Nats-Msg-Id")
"""Headers that the server adds, or that must not be copied: the broker would drop a copy with the same message id."""
_CLOSED = 1
"""The most bytes of a message that a closed inbox accepts; 0 would mean any number."""


async def mend(lane: Lane, names: Names) -> int | None:
    """Mend the inbox. Return how many messages waited in it, or None if there is nothing to mend.

    Raises:
        BrokerError: the work is not finished. Call it again.
    """
    inbox = await lane.api(f"STREAM.INFO.{names.inbox_stream}")
    aside = f"{names.inbox_stream}_MENDING"
    half_done = await _exists(lane, aside)
    try:
        await Epoch(lane, names).check(inbox)
        behind = False
    except TopologyError:
        behind = True
    if not behind and not half_done:
        return None
    config = inbox["config"]
    if behind:
        subjects = [f"{names.namespace}_mending.*"]
        await lane.api(f"STREAM.CREATE.{aside}", {"name": aside, "subjects": subjects, "storage": "file", "allow_direct": True})
        await lane.api(f"STREAM.UPDATE.{names.inbox_stream}", config | {"max_msg_size": _CLOSED})
        await _copy(lane, names)
        await lane.api(f"STREAM.PURGE.{names.inbox_stream}", {"seq": clock.now_ms() * 1000})
    await lane.api(f"STREAM.UPDATE.{names.inbox_stream}", config | {"max_msg_size": -1})
    moved = await _give_back(lane, aside)
    await lane.api(f"STREAM.DELETE.{aside}")
    return moved


async def _exists(lane: Lane, stream: str) -> bool:
    try:
        await lane.api(f"STREAM.INFO.{stream}")
    except BrokerError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return False
        raise
    return True


async def _copy(lane: Lane, names: Names) -> None:
    async for message in _all(lane, names.inbox_stream):
        subject = message.subject
        if subject.startswith(names.tenure_prefix):
            continue  # revocations of earlier owners
        if subject.startswith(f"{names.namespace}."):  # without the partition, which the stream adds again
            first, _, *rest = subject.split(".")
            subject = ".".join([first, *rest])
        headers = _own(message) | {SUBJECT: subject, "Nats-Expected-Last-Subject-Sequence": "0"}
        try:
            await lane.publish(f"{names.namespace}_mending.{message.seq}", message.data, _block(headers))
        except ConflictError:
            continue  # already copied


async def _give_back(lane: Lane, aside: str) -> int:
    moved = 0
    async for message in _all(lane, aside):
        headers = _own(message)
        subject = headers.pop(SUBJECT)
        headers.pop("Nats-Expected-Last-Subject-Sequence", None)
        await lane.publish(subject, message.data, _block(headers) if headers else None)
        await lane.api(f"STREAM.MSG.DELETE.{aside}", {"seq": message.seq, "no_erase": True})
        moved += 1
    return moved


async def _all(lane: Lane, stream: str) -> AsyncIterator[StoredMessage]:
    """Yield every message of a stream, oldest first."""
    seq = 1
    while True:
        page = await lane.read_many(stream, {"seq": seq, "next_by_subj": ">", "batch": PAGE}, may_lag="no owner takes anything from it")
        for message in page:
            yield message
        if not page:
            return
        seq = page[-1].seq + 1


def _own(message: StoredMessage) -> dict[str, str]:
    return {name: value for name, value in message.headers.items() if name not in OF_THE_SERVER and not name.startswith("Nats-Expected-")}


def _block(headers: dict[str, str]) -> bytes:
    return header_block(**{name.replace("-", "_"): value for name, value in headers.items()})
