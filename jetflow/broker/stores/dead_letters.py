"""Dead letters: commands that nothing could be done with, and signals that expired, kept with the reason for a person to look at.

A letter is numbered by its place in the stream. ``requeue`` sends the command again, as it was or with another body or
subject, and then removes the letter; should it fail in between the letter is still there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct

from jetflow.broker.fencing.fence import FencedLane
from jetflow.broker.transport.codes import NO_MESSAGE
from jetflow.broker.transport.lane import Lane, StoredMessage
from jetflow.errors import BrokerError, InvalidInputError
from jetflow.protocol import clock
from jetflow.protocol.headers import REASON, SIZE, SUBJECT, own_headers, parse_headers
from jetflow.protocol.subjects import Names

OWN = (SUBJECT, REASON, SIZE)

PAGE = 100
HEADER_ROOM = 1024
"""Bytes of a message left for the fence and what the server adds."""


class DeadLetter(Struct, frozen=True):
    """One command that was refused.

    Attributes:
        number: what ``get``, ``requeue`` and ``drop`` know it by.
        subject: where it was published.
        reason: what was wrong with it.
        body: what was published.
        headers: jetflow's headers of it, such as ``Jetflow-Expire``.
        at: when it was refused, ISO 8601.
        size: bytes of the whole body where ``body`` is not all of it, otherwise None.
    """

    number: int
    subject: str
    reason: str
    body: bytes
    headers: dict[str, str]
    at: str
    size: int | None = None


class OwnedDeadLetters:
    """Dead letters as an owner has them, who alone writes."""

    def __init__(self, lane: FencedLane, names: Names, max_payload: int) -> None:
        self._lane = lane
        self._names = names
        self._max_payload = max_payload

    async def write(self, subject: str, body: bytes, headers: bytes | None, reason: str, *, origin: int | str, expired: bool = False) -> None:
        """Keeps a command; ``origin`` is its sequence in the inbox, or what else names it, so that a repeat within minutes is dropped. One
        that is ``expired`` is a signal, and counted as such.
        """
        text = reason.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ")
        kept = {name: value for name, value in own_headers(parse_headers(headers)).items() if name not in OWN}
        kept |= {SUBJECT: subject, REASON: text[:900], "Nats-Msg-Id": f"{self._names.namespace}-{origin}"}
        room = self._max_payload - HEADER_ROOM - sum(len(name) + len(value) + 4 for name, value in kept.items())
        if len(body) > room:
            kept[SIZE] = str(len(body))
            body = body[: max(room, 0)]
        fields = "".join(f"{name}:{value}\r\n" for name, value in kept.items()).encode()
        await self._lane.store("dead", self._names.dead_letter(subject, expired=expired), body, fields)


class DeadLetters:
    """The dead letters of one namespace, for people."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def list(self, *, limit: int | None = None, start: int = 1) -> AsyncIterator[DeadLetter]:
        """Oldest first, from the number ``start`` on."""
        seq, found = start, 0
        while limit is None or found < limit:
            asked = {"seq": seq, "next_by_subj": self._names.every_dead_letter, "batch": PAGE if limit is None else min(PAGE, limit - found)}
            page = await self._lane.read_many(self._names.dead_stream, asked, may_lag="people look again")
            for message in page:
                yield _letter(message)
                found += 1
            if not page:
                return
            seq = page[-1].seq + 1

    async def get(self, number: int) -> DeadLetter:
        """One letter.

        Raises:
            InvalidInputError: there is none of this number.
        """
        asked = {"seq": number, "next_by_subj": self._names.every_dead_letter, "batch": 1}
        found = await self._lane.read_many(self._names.dead_stream, asked, may_lag="people look again") if number > 0 else []
        if not found or found[0].seq != number:
            raise InvalidInputError(f"there is no dead letter {number}: it was requeued or dropped, or never was")
        return _letter(found[0])

    async def requeue(self, number: int, *, body: bytes | None = None, subject: str | None = None) -> DeadLetter:
        """Sends the command again and removes the letter; gives what was sent.

        Args:
            number: which letter.
            body: instead of its own.
            subject: instead of its own.

        Raises:
            InvalidInputError: there is no such letter, it does not have all of its body, or the subject is not a command's.
        """
        letter = await self.get(number)
        if body is None and letter.size is not None:
            raise InvalidInputError(f"dead letter {number} keeps only {len(letter.body):,} of {letter.size:,} bytes: give the body anew")
        chosen = letter.subject if subject is None else subject
        self._check_subject(chosen)
        sent = letter.body if body is None else body
        headers = {name.replace("-", "_"): value for name, value in letter.headers.items()}
        await self._lane.publish_once(chosen, sent, f"requeue-{number}-{clock.token(8)}", **headers)
        await self.drop(number)
        return DeadLetter(number, chosen, letter.reason, sent, letter.headers, letter.at)

    def _check_subject(self, subject: str) -> None:
        names, tokens = self._names, len(subject.split("."))
        is_command = names.is_command(subject) and tokens >= 4
        by_id = subject.startswith(names.by_id_prefix) and tokens == 2
        if not (is_command or by_id) or any(char in subject for char in "*> \r\n\t"):
            wanted = f"{names.namespace}.<task_queue>.<workflow_id>.<command>[.<name>], or {names.by_id_prefix}<signal id>"
            raise InvalidInputError(f"subject {subject!r} must be {wanted}")

    async def drop(self, number: int) -> None:
        """Removes a letter.

        Raises:
            InvalidInputError: there is none of this number.
        """
        await self.get(number)
        try:
            await self._lane.delete_message(self._names.dead_stream, number)
        except BrokerError as error:
            if error.err_code != NO_MESSAGE:
                raise


def _letter(message: StoredMessage) -> DeadLetter:
    fields = message.headers
    kept = {name: value for name, value in own_headers(fields).items() if name not in OWN}
    size = int(fields[SIZE]) if fields.get(SIZE, "").isdigit() else None
    return DeadLetter(message.seq, fields.get(SUBJECT, message.subject), fields.get(REASON, ""), message.data, kept, message.time, size)
