"""Connections and subscriptions of the double. Bytes take time and arrive in order. Connections can stall and break."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from jetflow.testing.store import Message, is_literal, matcher
from jetflow.testing.virtual import EPOCH, Process, World

MAX_PAYLOAD = 1024 * 1024

Publication = tuple[str, str, bytes, bytes | None]
"""Subject, reply, payload and header block, on the way to the server."""
Arrival = tuple[int, bytes, bytes, bytes, bytes | None]
"""Subscription, subject, reply, payload and header block, on the way to a client."""
OnReply = Callable[[str, str, bytes, bytes | None], "str | float | None"]
"""Called with process, subject, payload and headers of each message to a client. It returns None (deliver), "drop", "twice", or seconds of delay."""


class ClientEnd(Protocol):
    """What a connection needs of the client at its other end."""

    process: Process
    loop: Any

    def feed(self, connection: Connection, arrivals: list[Arrival]) -> None:
        """Handle bytes that have come."""
        ...

    def broke(self, connection: Connection) -> None:
        """Handle the end of the connection."""
        ...


class Connection:
    """One TCP connection: the bytes on the way in both directions, and the server's state of it.

    Attributes:
        open: whether it is open at the server.
        lost: whether the client has given it up.
        subscriptions: subjects by subscription number.
    """

    def __init__(self, server: Network, wire: ClientEnd, number: int) -> None:
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
        """The name of the process at the other end."""
        return self.wire.process.name

    # ---- to the server

    def send(self, operations: list[Any]) -> None:
        """Send publications, and control operations as (kind, number, subject), to the server."""
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
        """Send a message to the client."""
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
        """Send a consumer's message, with its own subject, to the subscribers of a reply inbox."""
        for connection, sid in self.server.listeners(inbox):
            connection.push(sid, subject, reply, data, headers)

    def status(self, inbox: str, text: str, added: str = "") -> None:
        """Send a status: a message with headers and no payload."""
        self.server.route(inbox, "", b"", f"NATS/1.0 {text}\r\n{added}\r\n".encode())

    # ---- faults

    def stall(self) -> None:
        """Hold back what the client sends."""
        self._stalled = True

    def unstall(self) -> None:
        """Deliver what was held back, in order."""
        self._stalled = False
        held, self._held = self._held, 0
        self._up_at = max(self._up_at, self.world.now + self.server.latency())
        for _ in range(held):
            self.world.at(self._up_at, self._arrive)

    def deaf(self) -> None:
        """Lose everything that the server sends from now on. The client notices by its pings."""
        self._deaf = True

    def cut(self, deliver_late: float | None = None, part: float | None = None) -> None:
        """Break the connection. The client notices.

        Args:
            deliver_late: seconds until the bytes that still arrive reach the server; None for now.
            part: the part of the bytes on the way that still arrives, 0 to 1; random if not given.
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
        """Close the client's end. What it wrote before still arrives, after the stall if there is one."""
        self.lost = True
        self._down.clear()
        if late or self._stalled:
            self._up.append([("CLOSE", 0, "")])
            self._up_at = max(self._up_at, self.world.now + self.server.latency())
            self.world.at(self._up_at, self._arrive)
        else:
            self.world.at(max(self._up_at, self.world.now + self.server.latency()), lambda _: self.server.close(self))

    def server_gone(self) -> None:
        """Handle the end of the server."""
        self.open: bool = False
        self._up.clear()
        self._down.clear()
        self._held = 0
        if not self.lost:
            self.lost: bool = True
            self.world.after(self.server.latency(), self._tell_client)


class Network(ABC):
    """The part of a server that has connections: its time, its subscriptions, and the order of its work.

    Args:
        world: the source of time and chance.

    Attributes:
        connections: the open connections.
        up: whether the server runs.
        on_reply: may drop, repeat or delay messages to clients.
        trace: a list of what happens, as tuples (time, process, what, stream, subject, …); None for no trace.
        keep: by stream, a list of every message that it ever stored, with its time; None for none.
        fastest, slowest: seconds that bytes take in one direction; one time in fifty up to forty times ``slowest``.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.connections: list[Connection] = []
        self.up = True
        self.max_payload = MAX_PAYLOAD
        self.on_reply: OnReply | None = None
        self.trace: list[tuple[Any, ...]] | None = None
        self.keep: dict[str, list[tuple[float, Message]]] | None = None
        self.fastest: float = 30e-6
        self.slowest: float = 400e-6
        self._numbers = 0
        self._life = 0
        self._exact: dict[str, list[tuple[Connection, int]]] = {}
        self._below: dict[str, list[tuple[Connection, int]]] = {}
        self._others: dict[str, list[tuple[Callable[[str], object], Connection, int]]] = {}
        self._heard: dict[str, list[tuple[Connection, int]]] = {}
        self._free_at: dict[str, float] = {}
        self._sender = ""

    @abstractmethod
    def publish(self, operation: Publication, connection: Connection) -> None:
        """Handle a message from a client."""

    def now_ns(self) -> int:
        """Return the time by the server's clock, ns since the epoch."""
        return EPOCH * 1_000_000_000 + int(self.world.now * 1e9)

    def latency(self) -> float:
        """Return a random number of seconds that bytes take in one direction."""
        chance = self.world.rng.random()
        if chance > 0.98:
            return self.slowest * (1 + (chance - 0.98) * 50 * 40)
        return self.fastest + (self.slowest - self.fastest) * chance * chance

    def note(self, what: str, stream: str, subject: str, *facts: Any) -> None:
        """Write to the trace, if there is one."""
        if self.trace is not None:
            self.trace.append((round(self.world.now, 6), self._sender, what, stream, subject, *facts))

    # ---- connections

    def accept(self, wire: ClientEnd) -> Connection:
        """Return the server's end of a new connection."""
        self._numbers += 1
        connection = Connection(self, wire, self._numbers)
        self.connections.append(connection)
        return connection

    def close(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        if connection.open:
            connection.open = False
            self.connections.remove(connection)
            for sid in tuple(connection.subscriptions):
                self.unsubscribe(connection, sid)

    # ---- subjects

    def subscribe(self, connection: Connection, sid: int, subject: str) -> None:
        """Add a client's subscription."""
        self._heard.clear()
        connection.subscriptions[sid] = subject
        entry = (connection, sid)
        if is_literal(subject):
            self._exact.setdefault(subject, []).append(entry)
        elif subject.endswith(".*") and is_literal(subject[:-2]):
            self._below.setdefault(subject[:-1], []).append(entry)
        else:
            self._others.setdefault(subject.partition(".")[0], []).append((matcher(subject), *entry))

    def unsubscribe(self, connection: Connection, sid: int) -> None:
        """Remove a client's subscription."""
        self._heard.clear()
        subject = connection.subscriptions.pop(sid, None)
        if subject is None:
            return
        for table, key in ((self._exact, subject), (self._below, subject[:-1])):
            entries = table.get(key)
            if entries and (connection, sid) in entries:
                entries.remove((connection, sid))
                if not entries:
                    del table[key]
        first = subject.partition(".")[0]
        left = [entry for entry in self._others.get(first, ()) if entry[1] is not connection or entry[2] != sid]
        if left:
            self._others[first] = left
        else:
            self._others.pop(first, None)

    def listeners(self, subject: str) -> list[tuple[Connection, int]]:
        """Return the subscriptions that match a subject."""
        found = self._heard.get(subject)
        if found is not None:
            return found
        found = self._heard[subject] = list(self._exact.get(subject, ()))
        below = self._below.get(subject[: subject.rfind(".") + 1])
        if below:
            found += below
        for first in (subject.partition(".")[0], "*", ">"):
            for matches, connection, sid in self._others.get(first, ()):
                if matches(subject):
                    found.append((connection, sid))
        return found

    def interest(self, subject: str) -> bool:
        """Return whether any subscription matches a subject."""
        return bool(self.listeners(subject))

    def route(self, subject: str, reply: str, data: bytes, headers: bytes | None) -> bool:
        """Send a message to all matching subscriptions. Return whether there is one."""
        found = self.listeners(subject)
        for connection, sid in found:
            connection.push(sid, subject, reply, data, headers)
        return bool(found)

    # ---- the order of the server's work

    def in_turn(self, queue: str, sender: str, function: Callable[[Any], None], argument: Any, delay: float = -1.0) -> None:
        """Schedule work of the server: in turn within a queue, at any time without one. Without a delay it mostly happens at once."""
        now = self.world.now
        if delay < 0:
            chance = self.world.rng.random()
            if chance < 0.7 and self._free_at.get(queue, -1.0) < now:
                self._sender = sender
                function(argument)
                self._sender = ""
                return
            delay = chance * chance * 300e-6
        at = now + delay
        if queue:
            at = self._free_at[queue] = max(at, self._free_at.get(queue, 0.0))
        self.world.at(at, self._do, (self._life, sender, function, argument))

    def _do(self, item: tuple[int, str, Callable[[Any], None], Any]) -> None:
        life, sender, function, argument = item
        if life == self._life and self.up:
            self._sender = sender
            function(argument)
            self._sender = ""

    def cut_all(self) -> None:
        """End every connection and drop scheduled work: the server has ended."""
        self._life += 1
        self._free_at.clear()
        for connection in tuple(self.connections):
            connection.server_gone()
        self.connections.clear()
        self._exact.clear()
        self._below.clear()
        self._others.clear()
        self._heard.clear()
