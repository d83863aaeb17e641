"""Dead letters: commands that could not be applied, and expired signals, stored with the reason for people to look at.

A letter's number is its position in the stream. ``requeue`` sends the command again, as it was or with another body or subject, and then removes
the letter. After a crash in between, the letter is still there.
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
"""Bytes of a message left for the fence and for the headers that the server adds."""


class DeadLetter(Struct, frozen=True):
    """One dead letter.

    Attributes:
        number: its number, for ``get``, ``requeue`` and ``drop``.
        subject: the subject of the message.
        reason: why the message became a dead letter.
        body: the body of the message.
        headers: jetflow's headers of the message, such as ``Jetflow-Expire``.
        at: when it became a dead letter, ISO 8601.
        size: bytes of the whole body if ``body`` was cut, otherwise None.
    """

    number: int
    subject: str
    reason: str
    body: bytes
    headers: dict[str, str]
    at: str
    size: int | None = None


class OwnedDeadLetters:
    """The dead letters of an owner. Only owners write them."""

    def __init__(self, lane: FencedLane, names: Names, max_payload: int) -> None:
        self._lane = lane
        self._names = names
        self._max_payload = max_payload

    async def write(self, subject: str, body: bytes, headers: bytes | None, reason: str, *, origin: int | str, expired: bool = False) -> None:
        """Store a dead letter. The broker drops a repeat of the same ``origin`` (the inbox sequence, or another name) within two minutes.

        ``expired`` marks an expired signal.
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
    """The dead letters of one namespace, for clients."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def list(self, *, limit: int | None = None, start: int = 1) -> AsyncIterator[DeadLetter]:
        """Yield the letters from number ``start`` on, oldest first."""
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
        """Return one letter.

        Raises:
            InvalidInputError: there is no letter of this number.
        """
        asked = {"seq": number, "next_by_subj": self._names.every_dead_letter, "batch": 1}
        found = await self._lane.read_many(self._names.dead_stream, asked, may_lag="people look again") if number > 0 else []
        if not found or found[0].seq != number:
            raise InvalidInputError(f"there is no dead letter {number}: it was requeued or dropped, or never existed")
        return _letter(found[0])

    async def requeue(self, number: int, *, body: bytes | None = None, subject: str | None = None) -> DeadLetter:
        """Send the command again and remove the letter. Return the letter as it was sent.

        Args:
            number: the letter's number.
            body: a body in place of the letter's.
            subject: a subject in place of the letter's.

        Raises:
            InvalidInputError: there is no such letter, its body was cut, or the subject is not that of a command.
        """
        letter = await self.get(number)
        if body is None and letter.size is not None:
            raise InvalidInputError(f"dead letter {number} has only {len(letter.body):,} of {letter.size:,} bytes: pass the whole body")
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
        """Remove a letter.

        Raises:
            InvalidInputError: there is no letter of this number.
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
