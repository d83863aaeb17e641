"""Bytes in whatever pieces: each message once, in order, whoever takes it in."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from jetflow.broker.transport.parser import MAX_CONTROL_LINE, Parser

OURS, THEIRS = 1, 2


class Heard:
    """What a wire would be told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.parser = Parser(self, {OURS: self.on_message}, lambda sid: sid not in (OURS, THEIRS))  # type: ignore[arg-type]

    def on_message(self, *message: Any) -> None:
        self.told.append((OURS, *message))

    async def _process_msg(self, sid: int, *message: Any) -> None:
        await asyncio.sleep(0)
        self.told.append((sid, *message))

    async def _process_ping(self) -> None:
        self.told.append(("PING",))

    async def _process_pong(self) -> None:
        self.told.append(("PONG",))

    async def _process_err(self, words: str) -> None:
        self.told.append(("-ERR", words))

    async def _process_info(self, info: Any) -> None:
        self.told.append(("INFO", info))


texts = st.binary(max_size=12)
messages = st.tuples(st.sampled_from([OURS, OURS, THEIRS]), st.sampled_from([b"a.b", b"$JS.x"]), st.sampled_from([b"", b"back.1"]), texts)
headers = st.one_of(st.none(), st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0 503\r\nA: b\r\n\r\n"]))
lines = st.sampled_from([(b"PING\r\n", ("PING",)), (b"+OK\r\n", None), (b"-ERR 'No'\r\n", ("-ERR", "no")), (b'INFO {"a":1}\r\n', ("INFO", {"a": 1}))])


def written(message: tuple[int, bytes, bytes, bytes], block: bytes | None) -> tuple[bytes, tuple[Any, ...]]:
    """A message on the wire, and as it is told."""
    sid, subject, reply, data = message
    middle = b" ".join([subject, b"%d" % sid, *([reply] if reply else [])])
    if block is None:
        return b"MSG %b %d\r\n%b\r\n" % (middle, len(data), data), (sid, subject, reply, data, None)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (middle, len(block), len(block) + len(data), block, data), (sid, subject, reply, data, block)


stream = st.lists(st.one_of(lines, st.builds(written, messages, headers)), max_size=12)


@given(stream, st.data())
def test_each_message_once_in_order_however_the_bytes_come(parts: list[tuple[bytes, Any]], drawn: st.DataObject) -> None:
    heard, whole = Heard(), b"".join(part for part, _ in parts)
    cuts = sorted(drawn.draw(st.sets(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def feed() -> None:
        for piece in pieces:
            rest = heard.parser.take(piece) if drawn.draw(st.booleans()) else piece
            if rest:
                await heard.parser.parse(rest)

    asyncio.run(feed())
    assert heard.told == [told for _, told in parts if told is not None]


def test_what_is_ours_needs_no_awaiting() -> None:
    heard = Heard()
    ours, told = written((OURS, b"a", b"", b"1"), None)
    theirs, _ = written((THEIRS, b"a", b"", b"2"), None)
    assert heard.parser.take(ours + ours[:5]) == b""
    assert heard.parser.take(ours[5:] + theirs + ours) == theirs + ours
    assert heard.told == [told, told]


@pytest.mark.parametrize("rubbish", [b"HTTP/1.1 400 Bad Request\r\n", b"x" * (MAX_CONTROL_LINE + 1)])
def test_what_is_not_nats_is_refused(rubbish: bytes) -> None:
    heard = Heard()
    rest = heard.parser.take(rubbish)
    assert rest == rubbish
    with pytest.raises(ProtocolError):
        asyncio.run(heard.parser.parse(rest))
    assert not heard.parser.busy
