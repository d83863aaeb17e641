"""A double of nats-server with JetStream, in memory and in virtual time.

It knows what jetflow asks for, and answers as nats-server 2.15 does: ``tests/double`` asks both the same. See ``docs`` of each
part: ``stream.py``, ``consumer.py``, ``direct.py``, ``api.py``, ``network.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from jetflow.testing import api, direct
from jetflow.testing.network import Connection, Publication
from jetflow.testing.replicas import propose
from jetflow.testing.store import Message, is_literal, matcher
from jetflow.testing.stream import Stream
from jetflow.testing.virtual import EPOCH, Process, World
from jetflow.testing.wire import MemoryWire

MAX_PAYLOAD = 1024 * 1024
API = "$JS.API."
DIRECT = "$JS.API.DIRECT.GET."
NEXT = "$JS.API.CONSUMER.MSG.NEXT."
ACK = "$JS.ACK."

OnReply = Callable[[str, str, bytes, bytes | None], "str | float | None"]
"""Called with the process, subject, payload and headers of what the server sends: None as usual, "drop", "twice", or seconds of delay."""


class MemoryServer:
    """One nats-server, or with ``replicas`` in its streams a cluster of three that is seen as one.

    Args:
        world: whose time and chance.

    Attributes:
        streams: by name.
        connections: that the server has.
        up: whether it runs.
        on_reply: may drop, repeat or delay what is sent to clients.
        trace: a list gets what happens, as tuples (time, process, what, stream, subject, …); None for no trace.
        keep: by stream, a list that gets every message ever stored there, with its time; None for none.
        fastest, slowest: seconds that bytes take in one direction; one time in fifty up to forty times as long.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.streams: dict[str, Stream] = {}
        self.connections: list[Connection] = []
        self.up = True
        self.max_payload = MAX_PAYLOAD
        self.on_reply: OnReply | None = None
        self.trace: list[tuple[Any, ...]] | None = None
        self.keep: dict[str, list[tuple[float, Message]]] | None = None
        self.fastest: float = 30e-6
        self.slowest: float = 400e-6
        self.topologies: dict[str, Any] = {}
        self._numbers = 0
        self._life = 0
        self._exact: dict[str, list[tuple[Connection, int]]] = {}
        self._below: dict[str, list[tuple[Connection, int]]] = {}
        self._others: dict[str, list[tuple[Callable[[str], object], Connection, int]]] = {}
        self._heard: dict[str, list[tuple[Connection, int]]] = {}
        self._stream_of: dict[str, Stream | None] = {}
        self._free_at: dict[str, float] = {}
        self._sender = ""

    def now_ns(self) -> int:
        """The server's clock, ns since the epoch."""
        return EPOCH * 1_000_000_000 + int(self.world.now * 1e9)

    def latency(self) -> float:
        """Seconds that bytes take now, in one direction."""
        chance = self.world.rng.random()
        if chance > 0.98:
            return self.slowest * (1 + (chance - 0.98) * 50 * 40)
        return self.fastest + (self.slowest - self.fastest) * chance * chance

    def note(self, what: str, stream: str, subject: str, *facts: Any) -> None:
        """Writes to the trace, if there is one."""
        if self.trace is not None:
            self.trace.append((round(self.world.now, 6), self._sender, what, stream, subject, *facts))

    # ---- connections

    def connect(self, process: Process, loop: Any = None) -> MemoryWire:
        """A connection of a process, for the event loop of its main thread unless another one is given."""
        wire = MemoryWire(self, process, process.loop if loop is None else loop)
        wire.attach(self.accept(wire))
        return wire

    def accept(self, wire: MemoryWire) -> Connection:
        """The server's end of a new connection."""
        self._numbers += 1
        connection = Connection(self, wire, self._numbers)
        self.connections.append(connection)
        return connection

    def close(self, connection: Connection) -> None:
        """The server notices that a connection has ended."""
        if connection.open:
            connection.open = False
            self.connections.remove(connection)
            for sid in tuple(connection.subscriptions):
                self.unsubscribe(connection, sid)

    # ---- subjects

    def subscribe(self, connection: Connection, sid: int, subject: str) -> None:
        """A client listens."""
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
        """A client listens no more."""
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
        """Who listens to a subject."""
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
        """Whether anybody listens to a subject."""
        return bool(self.listeners(subject))

    def route(self, subject: str, reply: str, data: bytes, headers: bytes | None) -> bool:
        """Sends a message to whoever listens; whether anybody does."""
        found = self.listeners(subject)
        for connection, sid in found:
            connection.push(sid, subject, reply, data, headers)
        return bool(found)

    def streams_changed(self) -> None:
        """Forgets which stream takes which subject."""
        self._stream_of.clear()

    def stream_for(self, subject: str) -> Stream | None:
        """The stream that takes a subject."""
        try:
            return self._stream_of[subject]
        except KeyError:
            found = self._stream_of[subject] = next((stream for stream in self.streams.values() if stream.takes(subject)), None)
            return found

    # ---- what clients send

    def publish(self, operation: Publication, connection: Connection) -> None:
        """A message has arrived."""
        subject, reply, data, headers = operation
        sender = connection.name
        if subject.startswith("$JS."):
            if subject.startswith(ACK):
                self._ack(subject, data, sender)
            elif subject.startswith(DIRECT):
                self._direct(subject, reply, data, sender)
            elif subject.startswith(NEXT):
                self._next(subject, reply, data, connection)
            elif api.knows(subject[len(API) :]):
                operation_name = subject[len(API) :]
                stream = self.streams.get(operation_name.rpartition(".")[2]) if operation_name.startswith(api.REPLICATED) else None
                if stream is not None and stream.replicas > 1:
                    self._turn(stream.name, sender, self._answer_api, (operation_name, reply, data), 0.001 + self.world.rng.random() * 0.004)
                else:
                    self._turn("", sender, self._answer_api, (operation_name, reply, data), self.world.rng.random() * 400e-6)
            return
        found = self.route(subject, reply, data, headers)
        stream = self.stream_for(subject)
        if stream is not None:
            if stream.replicas > 1:
                self._sender = sender
                propose(self, stream, operation, sender)
            else:
                self._turn(stream.name, sender, self._store, (stream, subject, reply, data, headers))
        elif not found and reply:
            self._nobody(subject, reply)

    def _nobody(self, subject: str, reply: str) -> None:
        self.route(reply, "", b"", f"NATS/1.0 503\r\nNats-Subject: {subject}\r\n\r\n".encode())

    def _turn(self, queue: str, sender: str, function: Callable[[Any], None], argument: Any, delay: float = -1.0) -> None:
        """Has the server do something soon: in turn within a queue, at any time without one, and mostly at once when no delay is given."""
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

    def in_turn(self, queue: str, sender: str, function: Callable[[Any], None], argument: Any, delay: float) -> None:
        """As ``_turn``, for other parts of the server."""
        self._turn(queue, sender, function, argument, delay)

    def _store(self, item: tuple[Stream, str, str, bytes, bytes | None]) -> None:
        stream, subject, reply, data, headers = item
        answer = stream.publish(subject, data, headers)
        if reply and answer is not None:
            self.route(reply, "", answer, None)

    def _answer_api(self, item: tuple[str, str, bytes]) -> None:
        operation, reply, body = item
        content = api.answer(self, operation, body)
        if reply:
            self.route(reply, "", msgspec.json.encode(content), None)

    def _direct(self, subject: str, reply: str, body: bytes, sender: str) -> None:
        name, _, key = subject[len(DIRECT) :].partition(".")
        stream = self.streams.get(name)
        if stream is None or not stream.config["allow_direct"]:
            self._nobody(subject, reply)
            return
        self._turn("", sender, self._answer_direct, (stream, key, reply, body), self.world.rng.random() * 200e-6)

    def _answer_direct(self, item: tuple[Stream, str, str, bytes]) -> None:
        stream, key, reply, body = item
        store = stream.store if stream.replicas == 1 else stream.view()

        def say(data: bytes, headers: bytes | None) -> None:
            self.route(reply, "", data, headers)

        direct.get(stream, store, key, body, say)

    def _next(self, subject: str, reply: str, body: bytes, connection: Connection) -> None:
        name, _, consumer_name = subject[len(NEXT) :].partition(".")
        stream = self.streams.get(name)
        consumer = stream.consumers.get(consumer_name) if stream is not None else None
        if consumer is None:
            self._nobody(subject, reply)
            return
        self._turn(f"{name} {consumer_name}", connection.name, self._pull, (consumer, connection, reply, body))

    def _pull(self, item: tuple[Any, Connection, str, bytes]) -> None:
        consumer, connection, reply, body = item
        if not consumer.ended:
            consumer.next(connection, reply, body)

    def _ack(self, subject: str, body: bytes, sender: str) -> None:
        tokens = subject.split(".")
        stream = self.streams.get(tokens[2])
        consumer = stream.consumers.get(tokens[3]) if stream is not None else None
        if consumer is not None:
            delay = -1.0 if consumer.stream.replicas == 1 else self.world.rng.random() * 0.003
            self._turn(f"{tokens[2]} {tokens[3]}", sender, self._take_ack, (consumer, tokens, body), delay)

    def _take_ack(self, item: tuple[Any, list[str], bytes]) -> None:
        consumer, tokens, body = item
        consumer.ack(tokens, body)

    # ---- its life

    def stop(self, *, lose: Iterable[str] = (), resurrect: bool = False) -> None:
        """``kill -9`` of the server.

        Args:
            lose: ``ids`` forgets all message ids, not only those of messages that are gone.
            resurrect: values come back that a marker with a TTL of its own had replaced, once that has expired.
        """
        if not self.up:
            return
        self.up = False
        self._life += 1
        self._free_at.clear()
        self.note("server stops", "", "")
        for connection in tuple(self.connections):
            connection.server_gone()
        self.connections.clear()
        self._exact.clear()
        self._below.clear()
        self._others.clear()
        for stream in self.streams.values():
            stream.crashed(forget_ids="ids" in tuple(lose), resurrect=resurrect)

    def start(self) -> None:
        """The server is there again, with what it had on disk."""
        if self.up:
            return
        self.up: bool = True
        self.note("server starts", "", "")
        for stream in self.streams.values():
            stream.recovered()
            for consumer in stream.consumers.values():
                consumer.recovered()

    def restart(self, *, lose: Iterable[str] = (), resurrect: bool = False, down: float = 0.0) -> None:
        """Stops, and starts again after ``down`` seconds; see ``stop``."""
        self.stop(lose=lose, resurrect=resurrect)
        if down:
            self.world.after(down, lambda _: self.start())
        else:
            self.start()
