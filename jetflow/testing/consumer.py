"""A pull consumer of the double."""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Protocol

from jetflow.testing.network import Connection, Network
from jetflow.testing.store import Message, Store, matcher, to_text

SECOND = 1_000_000_000
MOST_COUNTED = 128


class Source(Protocol):
    """What a consumer needs of its stream."""

    name: str
    server: Network
    store: Store
    consumers: dict[str, Consumer]
    workqueue: bool
    replicas: int

    def remove(self, seq: int, why: str) -> Message | None:
        """Remove a message from the stream."""
        ...


class Pull:
    """One request for messages."""

    __slots__ = ("beat", "connection", "expires", "heard", "left", "live", "no_wait", "reply")

    def __init__(self, connection: Connection, reply: str, left: int, expires: float, beat: float, no_wait: bool) -> None:
        self.connection: Connection = connection
        self.reply: str = reply
        self.left: int = left
        self.expires: float = expires
        self.beat: float = beat
        self.heard: float = 0.0
        self.no_wait: bool = no_wait
        self.live: bool = True


class Pending:
    """One un-acked delivery."""

    __slots__ = ("count", "deadline")

    def __init__(self, count: int, deadline: float) -> None:
        self.count: int = count
        self.deadline: float = deadline


class Consumer:
    """One consumer of a stream.

    Attributes:
        in_memory: whether a restart of the server removes it.
        pending: un-acked deliveries, by position.
    """

    def __init__(self, stream: Source, name: str, config: dict[str, Any]) -> None:
        self.stream = stream
        self.server: Network = stream.server
        self.name = name
        self.asked = config
        durable = bool(config.get("durable_name"))
        ack = config.get("ack_policy", "none")
        given = {key: value for key, value in config.items() if value not in (None, "")}
        self.config: dict[str, Any] = {
            "name": name, "deliver_policy": "all", "ack_policy": "none", "max_deliver": -1, "replay_policy": "instant", "max_waiting": 512,
            "num_replicas": 0,
        } | given  # fmt: skip
        if ack != "none":
            self.config.setdefault("ack_wait", 30 * SECOND)
            self.config.setdefault("max_ack_pending", 1000)
        if not durable:
            self.config.setdefault("inactive_threshold", 5 * SECOND)
        self.filters: list[str] = config.get("filter_subjects") or ([config["filter_subject"]] if config.get("filter_subject") else [])
        self._tests = [matcher(pattern) for pattern in self.filters]
        self.in_memory: bool = bool(config.get("mem_storage")) or not durable
        self.created: int = self.server.now_ns()
        self.explicit: bool = ack == "explicit"
        self.headers_only: bool = bool(config.get("headers_only"))
        self.ack_wait: float = self.config.get("ack_wait", 0) / SECOND
        self.max_pending: int = self.config.get("max_ack_pending", -1)
        self.threshold: float = self.config.get("inactive_threshold", 0) / SECOND
        policy = self.config["deliver_policy"]
        start = {"by_start_sequence": config.get("opt_start_seq", 1), "new": stream.store.last_seq + 1}.get(policy, 1)
        self.cursor = max(start, stream.store.first_seq)
        self.pending: dict[int, Pending] = {}
        self.again: deque[int] = deque()
        self.counts: dict[int, int] = {}
        self.delivered: int = 0
        self.last_stream_seq = self.cursor - 1
        self.waiting: deque[Pull] = deque()
        self.ended = False
        self.last_active = self.server.world.now
        self._armed = 0.0
        self._key = f"$JS.ACK.{stream.name}.{name}."
        if self.threshold:
            self.server.world.after(self.threshold, self._look_whether_used)

    def takes(self, subject: str) -> bool:
        """Return whether it delivers messages of a stored subject."""
        return not self._tests or any(test(subject) for test in self._tests)

    # ---- requests

    def next(self, connection: Connection, reply: str, body: bytes) -> None:
        """Handle a request for messages."""
        request = json.loads(body) if body else {}
        if isinstance(request, int):
            request = {"batch": request}
        world = self.server.world
        batch, expires, beat = request.get("batch", 1), request.get("expires", 0) / SECOND, request.get("idle_heartbeat", 0) / SECOND
        self.last_active = world.now
        if beat and beat * 2 > expires:
            connection.status(reply, "400 Bad Request - heartbeat value too large")
            return
        self._drop_dead()
        if len(self.waiting) >= self.config["max_waiting"]:
            connection.status(reply, "409 Exceeded MaxWaiting")
            return
        pull = Pull(connection, reply, batch, world.now + expires if expires else 0.0, beat, bool(request.get("no_wait")))
        pull.heard = world.now
        self.waiting.append(pull)
        if expires:
            world.after(expires, self._expired, pull)
        if beat:
            world.after(beat, self._beat, pull)
        self.deliver()
        if pull.no_wait and pull.live and (not expires or pull.left < batch):
            self._finish(pull, "404 No Messages" if not expires or pull.left < batch else "")

    def _drop_dead(self) -> None:
        """Remove requests whose sender is gone."""
        while self.waiting and not self._wanted(self.waiting[0]):
            self.waiting.popleft().live = False

    def _wanted(self, pull: Pull) -> bool:
        return pull.live and pull.connection.open and self.server.interest(pull.reply)

    def _finish(self, pull: Pull, status: str) -> None:
        pull.live = False
        if pull in self.waiting:
            self.waiting.remove(pull)
        if status:
            if pull.left and not status.startswith(("404", "100")):
                pull.connection.status(pull.reply, status, f"Nats-Pending-Messages: {pull.left}\r\nNats-Pending-Bytes: 0\r\n")
            else:
                pull.connection.status(pull.reply, status)

    def _expired(self, pull: Pull) -> None:
        if pull.live and not self.ended:
            self.last_active = self.server.world.now
            self._finish(pull, "408 Request Timeout" if self._wanted(pull) else "")

    def _beat(self, pull: Pull) -> None:
        if not pull.live or self.ended:
            return
        now = self.server.world.now
        if not self._wanted(pull):
            self._finish(pull, "")
            return
        if now - pull.heard >= pull.beat - 1e-6:
            pull.heard = now
            added = f"Nats-Last-Consumer: {self.delivered}\r\nNats-Last-Stream: {self.last_stream_seq}\r\n"
            pull.connection.status(pull.reply, "100 Idle Heartbeat", added)
        self.server.world.at(pull.heard + pull.beat, self._beat, pull)

    # ---- delivery

    def arrived(self, message: Message) -> None:
        """Note that the stream has a new message."""
        if self.waiting and self.takes(message.subject):
            self.deliver()

    def gone(self, seq: int) -> None:
        """Note that the stream no longer has a message."""
        self.pending.pop(seq, None)
        self.counts.pop(seq, None)

    def deliver(self) -> None:
        """Send messages for requests while there are both."""
        while self.waiting:
            pull = self.waiting[0]
            if not self._wanted(pull):
                self.waiting.popleft().live = False
                continue
            message = self._next_message()
            if message is None:
                return
            self._send(message, pull)
            if not pull.left:
                pull.live = False
                self.waiting.popleft()

    def _next_message(self) -> Message | None:
        messages = self.stream.store.messages
        while self.again:
            seq = self.again.popleft()
            if seq in messages:
                return messages[seq]
        if self.explicit and 0 <= self.max_pending <= len(self.pending):
            return None
        last, seq = self.stream.store.last_seq, self.cursor
        while seq <= last:
            message = messages.get(seq)
            seq += 1
            if message is not None and self.takes(message.subject):
                self.cursor = seq
                return message
        self.cursor: int = seq
        return None

    def _send(self, message: Message, pull: Pull) -> None:
        world = self.server.world
        seq = message.seq
        self.delivered += 1
        self.last_stream_seq: int = max(self.last_stream_seq, seq)
        count = self.counts.get(seq, 0) + 1
        self.counts[seq] = count
        if self.explicit:
            self.pending.pop(seq, None)
            self.pending[seq] = Pending(count, world.now + self.ack_wait)
            self._arm(world.now + self.ack_wait)
        left = self.num_pending() if count == 1 else 0
        pull.left -= 1
        pull.heard = self.last_active = world.now
        data, headers = message.data, message.headers
        if self.headers_only:
            headers, data = (headers or b"NATS/1.0\r\n\r\n")[:-2] + b"Nats-Msg-Size: %d\r\n\r\n" % len(data), b""
        reply = f"{self._key}{count}.{seq}.{self.delivered}.{message.ns}.{left}"
        self.server.note("delivered", self.name, message.subject, seq, count)
        pull.connection.deliver(pull.reply, message.subject, reply, data, headers)

    def num_pending(self) -> int:
        """Return the number of messages that were never delivered. If they are very many, return an estimate."""
        store, cursor = self.stream.store, self.cursor
        if cursor > store.last_seq:
            return 0
        if store.last_seq - cursor > MOST_COUNTED:
            return min(store.last_seq - cursor + 1, len(store.messages))
        return sum(1 for message in store.between(cursor, store.last_seq) if self.takes(message.subject))

    # ---- acks

    def ack(self, tokens: list[str], body: bytes) -> None:
        """Handle an answer to a delivery. ``tokens`` are those of its reply subject."""
        seq = int(tokens[5])
        if not self.explicit or self.ended:
            return
        kind = body[:5].strip()
        if kind in (b"", b"+ACK", b"+NXT"):
            if self.pending.pop(seq, None) is not None:
                self._done(seq, "acked")
        elif kind.startswith(b"+WPI"):
            if seq in self.pending:
                self.pending[seq].deadline = self.server.world.now + self.ack_wait
        elif kind.startswith(b"-NAK"):
            self._nak(seq, body[4:].strip())
        elif kind.startswith(b"+TERM") and self.pending.pop(seq, None) is not None:
            self._done(seq, "terminated")

    def _done(self, seq: int, how: str) -> None:
        self.counts.pop(seq, None)
        if seq in self.again:
            self.again.remove(seq)
        message = self.stream.store.messages.get(seq)
        self.server.note(how, self.name, message.subject if message else "", seq)
        if self.stream.workqueue:
            self.stream.remove(seq, "done")
        if self.waiting:
            self.deliver()

    def _nak(self, seq: int, options: bytes) -> None:
        entry = self.pending.get(seq)
        if entry is None:
            return
        delay = json.loads(options).get("delay", 0) / SECOND if options.startswith(b"{") else 0.0
        if delay:
            entry.deadline = self.server.world.now + delay
            self._arm(entry.deadline)
        else:
            del self.pending[seq]
            self.again.append(seq)
            self.deliver()

    def _arm(self, when: float) -> None:
        now = self.server.world.now
        if self.ack_wait and (self._armed <= now or when < self._armed):
            self._armed = when
            self.server.world.at(when, self._look_at_acks)

    def _look_at_acks(self, _: object) -> None:
        if self.ended or not self.server.up:
            return
        now = self.server.world.now
        late = [seq for seq, entry in self.pending.items() if entry.deadline <= now]
        for seq in late:
            del self.pending[seq]
            self.again.append(seq)
        if late:
            self.deliver()
        if self.pending:
            self._arm(min(entry.deadline for entry in self.pending.values()))

    # ---- its life

    def _look_whether_used(self, _: object) -> None:
        if self.ended:
            return
        world = self.server.world
        if not self.server.up:
            world.after(self.threshold, self._look_whether_used)
            return
        if any(self._wanted(pull) for pull in self.waiting):
            self.last_active = world.now
        if world.now - self.last_active >= self.threshold - 1e-6:
            self.stream.consumers.pop(self.name, None)
            self.end("409 Consumer Deleted")
        else:
            world.at(self.last_active + self.threshold, self._look_whether_used)

    def end(self, status: str | None) -> None:
        """End the consumer: it was deleted, or its server is gone."""
        self.ended: bool = True
        for pull in tuple(self.waiting):
            if status is not None and self._wanted(pull):
                pull.connection.status(pull.reply, status)
            pull.live = False
        self.waiting.clear()

    def crashed(self) -> None:
        """Handle the end of the server. Un-acked deliveries come again after their ack wait."""
        for pull in self.waiting:
            pull.live = False
        self.waiting.clear()

    def recovered(self) -> None:
        """Handle the restart of the server."""
        self.last_active: float = self.server.world.now
        self._armed = 0.0
        if self.pending:
            self._arm(max(min(entry.deadline for entry in self.pending.values()), self.server.world.now))

    def info(self) -> dict[str, Any]:
        """Return the answer of ``CONSUMER.INFO``."""
        waiting = sum(1 for pull in self.waiting if self._wanted(pull))
        floor = min(self.pending, default=self.last_stream_seq + 1) - 1
        return {
            "stream_name": self.stream.name, "name": self.name, "created": to_text(self.created), "config": self.config,
            "delivered": {"consumer_seq": self.delivered, "stream_seq": self.last_stream_seq},
            "ack_floor": {"consumer_seq": max(0, self.delivered - len(self.pending)), "stream_seq": floor},
            "num_ack_pending": len(self.pending),
            "num_redelivered": sum(1 for seq in self.pending if self.counts.get(seq, 0) > 1),
            "num_waiting": waiting, "num_pending": self.num_pending(), "ts": to_text(self.server.now_ns()),
        }  # fmt: skip
