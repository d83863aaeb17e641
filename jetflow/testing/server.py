"""A double of nats-server with JetStream, in memory and in virtual time.

It knows the requests that jetflow makes, and answers as nats-server 2.15 does: ``tests/double`` compares both. See the docstring of each part:
``stream.py``, ``consumer.py``, ``direct.py``, ``api.py``, ``network.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from jetflow.testing import api, direct
from jetflow.testing.network import Connection, Publication
from jetflow.testing.replicas import propose
from jetflow.testing.stream import Stream, Streams
from jetflow.testing.virtual import Process, World
from jetflow.testing.wire import MemoryWire

API = "$JS.API."
DIRECT = "$JS.API.DIRECT.GET."
NEXT = "$JS.API.CONSUMER.MSG.NEXT."
ACK = "$JS.ACK."


class MemoryServer(Streams):
    """One nats-server. If its streams have ``replicas``, it acts as a cluster of three.

    Attributes:
        topologies: the topologies that clients found or created, by namespace.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.topologies: dict[str, Any] = {}

    # ---- connections

    def connect(self, process: Process, loop: Any = None) -> MemoryWire:
        """Return a connection of a process, for ``loop``, or for the event loop of the process's main thread."""
        wire = MemoryWire(self, process, process.loop if loop is None else loop)
        wire.attach(self.accept(wire))
        return wire

    # ---- what clients send

    def publish(self, operation: Publication, connection: Connection) -> None:
        """Handle a message from a client."""
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
                    self.in_turn(stream.name, sender, self._answer_api, (operation_name, reply, data), 0.001 + self.world.rng.random() * 0.004)
                else:
                    self.in_turn("", sender, self._answer_api, (operation_name, reply, data), self.world.rng.random() * 400e-6)
            return
        found = self.route(subject, reply, data, headers)
        stream = self.stream_for(subject)
        if stream is not None:
            if stream.replicas > 1:
                self._sender = sender
                propose(self, stream, operation, sender)
            else:
                self.in_turn(stream.name, sender, self._store, (stream, subject, reply, data, headers))
        elif not found and reply:
            self._nobody(subject, reply)

    def _nobody(self, subject: str, reply: str) -> None:
        self.route(reply, "", b"", f"NATS/1.0 503\r\nNats-Subject: {subject}\r\n\r\n".encode())

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
        self.in_turn("", sender, self._answer_direct, (stream, key, reply, body), self.world.rng.random() * 200e-6)

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
        self.in_turn(f"{name} {consumer_name}", connection.name, self._pull, (consumer, connection, reply, body))

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
            self.in_turn(f"{tokens[2]} {tokens[3]}", sender, self._take_ack, (consumer, tokens, body), delay)

    def _take_ack(self, item: tuple[Any, list[str], bytes]) -> None:
        consumer, tokens, body = item
        consumer.ack(tokens, body)

    # ---- stop and start

    def stop(self, *, lose: Iterable[str] = (), resurrect: bool = False) -> None:
        """Stop the server as ``kill -9`` does.

        Args:
            lose: with ``ids``, the server forgets all message ids, not only those of removed messages.
            resurrect: whether values come back that a marker with its own TTL had replaced, if the marker has expired.
        """
        if not self.up:
            return
        self.up = False
        self.note("server stops", "", "")
        self.cut_all()
        for stream in self.streams.values():
            stream.crashed(forget_ids="ids" in tuple(lose), resurrect=resurrect)

    def start(self) -> None:
        """Start the server with what it had on disk."""
        if self.up:
            return
        self.up: bool = True
        self.note("server starts", "", "")
        for stream in self.streams.values():
            stream.recovered()
            for consumer in stream.consumers.values():
                consumer.recovered()

    def restart(self, *, lose: Iterable[str] = (), resurrect: bool = False, down: float = 0.0) -> None:
        """Stop the server, and start it again after ``down`` seconds. See ``stop``."""
        self.stop(lose=lose, resurrect=resurrect)
        if down:
            self.world.after(down, lambda _: self.start())
        else:
            self.start()
