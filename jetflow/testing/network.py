"""Connections of the double: bytes take their time, in order; connections stall and break."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jetflow.testing.server import MemoryServer
    from jetflow.testing.virtual import World
    from jetflow.testing.wire import MemoryWire

Publication = tuple[str, str, bytes, bytes | None]
"""Subject, reply, payload and header block, on the way to the server."""
Arrival = tuple[int, bytes, bytes, bytes, bytes | None]
"""Subscription, subject, reply, payload and header block, on the way to a client."""


class Connection:
    """One TCP connection: what is on the way both ways, and what the server knows of it.

    Attributes:
        open: whether the server still has it.
        lost: whether the client has given it up.
        subscriptions: by number.
    """

    def __init__(self, server: MemoryServer, wire: MemoryWire, number: int) -> None:
        self.server = server
        self.world: World = server.world
        self.wire = wire
        self.number = number
        self.open = True
        self.lost = False
        self.subscriptions: dict[int, str] = {}
        self._up: deque[list[Any]] = deque()
        self._up_at = 0.0
        self._held = 0
        self._stalled = False
        self._deaf = False
        self._down: list[Arrival] = []
        self._down_at = 0.0

    @property
    def name(self) -> str:
        """Of the process at the other end."""
        return self.wire.process.name

    # ---- to the server

    def send(self, operations: list[Any]) -> None:
        """The client writes: publications, and control operations as (kind, number, subject)."""
        if self.lost or not self.open:
            return
        at = self.world.now + self.server.latency()
        self._up_at = at = max(at, self._up_at)
        self._up.append(operations)
        self.world.at(at, self._arrive)

    def _arrive(self, _: object) -> None:
        if self._stalled:
            self._held += 1
        elif self._up:
            self._take(self._up.popleft())

    def _take(self, operations: list[Any]) -> None:
        if not self.server.up or not self.open:
            return
        for operation in operations:
            if len(operation) == 4:
                self.server.publish(operation, self)
            else:
                kind, number, subject = operation
                if kind == "SUB":
                    self.server.subscribe(self, number, subject)
                elif kind == "UNSUB":
                    self.server.unsubscribe(self, number)
                elif kind == "PING":
                    self._push((0, b"", b"", b"", None))
                else:
                    self.server.close(self)

    # ---- to the client

    def push(self, sid: int, subject: str, reply: str, data: bytes, headers: bytes | None) -> None:
        """The server sends a message."""
        hook = self.server.on_reply
        arrival = (sid, subject.encode(), reply.encode(), data, headers)
        verdict = None if hook is None else hook(self.name, subject, data, headers)
        if verdict is None:
            self._push(arrival)
        elif verdict == "twice":
            self._push(arrival)
            self._push(arrival)
        elif verdict != "drop":
            self.world.after(float(verdict), self._push, arrival)

    def _push(self, arrival: Arrival) -> None:
        if self._deaf or self.lost:
            return
        self._down.append(arrival)
        if len(self._down) == 1:
            self._down_at = max(self.world.now + self.server.latency(), self._down_at)
            self.world.at(self._down_at, self._flush)

    def _flush(self, _: object) -> None:
        arrivals, self._down = self._down, []
        if not self.lost and not self._deaf:
            self.wire.loop.call_soon(self.wire.feed, self, arrivals)

    def deliver(self, inbox: str, subject: str, reply: str, data: bytes, headers: bytes | None) -> None:
        """A consumer's message goes to whoever listens on the inbox, with its own subject."""
        for connection, sid in self.server.listeners(inbox):
            connection.push(sid, subject, reply, data, headers)

    def status(self, inbox: str, text: str, added: str = "") -> None:
        """A message without a payload that says how it stands."""
        self.server.route(inbox, "", b"", f"NATS/1.0 {text}\r\n{added}\r\n".encode())

    # ---- faults

    def stall(self) -> None:
        """What the client sends stays on the way."""
        self._stalled = True

    def unstall(self) -> None:
        """What stayed on the way arrives, in order."""
        self._stalled = False
        held, self._held = self._held, 0
        self._up_at = max(self._up_at, self.world.now + self.server.latency())
        for _ in range(held):
            self.world.at(self._up_at, self._arrive)

    def deaf(self) -> None:
        """What the server answers gets lost from now on; the client finds out by its pings."""
        self._deaf = True

    def cut(self, deliver_late: float | None = None, part: float | None = None) -> None:
        """The connection breaks, and the client notices.

        Args:
            deliver_late: seconds until those bytes on the way to the server that arrive at all do so; None for now.
            part: how much of what is on the way arrives, 0 to 1; left to chance when not given.
        """
        if self.lost:
            return
        on_way = [operation for operations in self._up for operation in operations]
        part = self.world.rng.random() if part is None else part
        self._up.clear()
        self._held, self._stalled = 0, False
        arriving = on_way[: round(len(on_way) * part)]
        self.lost = True
        self._down.clear()
        self.server.note("cut", "", f"{len(arriving)} of {len(on_way)} arrive", self.number)
        if deliver_late is None:
            self._end(arriving)
        else:
            self.world.after(deliver_late, self._end, arriving)
        self.world.after(self.server.latency(), self._tell_client)

    def _end(self, operations: list[Any]) -> None:
        self._take(operations)
        self.server.close(self)

    def _tell_client(self, _: object) -> None:
        self.wire.loop.call_soon(self.wire.broke, self)

    def give_up(self, *, late: bool = False) -> None:
        """The client closes its end: what it wrote before still arrives, after a stall at its end."""
        self.lost = True
        self._down.clear()
        if late or self._stalled:
            self._up.append([("CLOSE", 0, "")])
            self._up_at = max(self._up_at, self.world.now + self.server.latency())
            self.world.at(self._up_at, self._arrive)
        else:
            self.world.at(max(self._up_at, self.world.now + self.server.latency()), lambda _: self.server.close(self))

    def server_gone(self) -> None:
        """The server has ended."""
        self.open: bool = False
        self._up.clear()
        self._down.clear()
        self._held = 0
        if not self.lost:
            self.lost: bool = True
            self.world.after(self.server.latency(), self._tell_client)
