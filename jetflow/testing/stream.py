"""A stream of the double: what it stores, what it refuses, and what it removes."""

from __future__ import annotations

import json
import re
from typing import Any

from jetflow.core.ids import partition_of
from jetflow.testing.checks import EXPECTED, EXPECTED_SUBJECT, Refusal, check, expect, go_duration, ttl_seconds
from jetflow.testing.consumer import Consumer
from jetflow.testing.network import Network, Publication
from jetflow.testing.store import Follower, Message, Store, fields_of, from_text, matcher, to_text, to_world
from jetflow.testing.virtual import World

NOT_FIRED = frozenset(
    ("Nats-Schedule", "Nats-Schedule-Target", "Nats-Msg-Id", "Nats-TTL", "Nats-Rollup", EXPECTED, EXPECTED_SUBJECT, "Nats-Schedule-TTL")
)
"""Headers of a schedule that the fired message does not have."""
BATCH_TIMEOUT = 10.0
MOST_LAG = 0.4
"""The most seconds that a follower lags when it answers a direct get."""
DEFAULTS: dict[str, Any] = {
    "retention": "limits", "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
    "max_msg_size": -1, "discard": "old", "storage": "file", "num_replicas": 1, "duplicate_window": 120_000_000_000, "compression": "none",
    "allow_direct": False, "mirror_direct": False, "sealed": False, "deny_delete": False, "deny_purge": False, "allow_rollup_hdrs": False,
    "consumer_limits": {}, "metadata": {"_nats.ver": "2.15.1"},
}  # fmt: skip


class Stream:
    """One stream of a server.

    Attributes:
        config: the requested configuration, with the server's defaults.
        store: its messages.
        consumers: its consumers by name.
        ghosts: values that a marker with a TTL replaced. A crash of the server may bring them back.
    """

    def __init__(self, server: Network, config: dict[str, Any]) -> None:
        self.server: Network = server
        self.name: str = config["name"]
        self.store: Store = Store()
        self.consumers: dict[str, Consumer] = {}
        self.ids: dict[str, tuple[int, float]] = {}
        self.batches: dict[str, list[Publication]] = {}
        self.in_process: dict[str, int] = {}
        self.in_flight: dict[str, int] = {}
        self.ghosts: dict[int, Message] = {}
        self.oplog: list[tuple[float, Message | int]] = []
        self.created: int = server.now_ns()
        self._ages = False
        self._followers: list[Follower] = []
        self.configure(config)

    @property
    def messages(self) -> dict[int, Message]:
        """The stored messages by position."""
        return self.store.messages

    def view(self) -> Store:
        """Return the store of the server that answers a direct get: the leader, or a follower that lags."""
        rng = self.server.world.rng
        if not self._followers:
            self._followers = [Follower(), Follower()]
        place = int(rng.random() * 3)
        if place == 2:
            return self.store
        chance = rng.random()
        lag = chance * 0.005 if chance < 0.9 else (chance - 0.9) * 10 * MOST_LAG
        return self._followers[place].catch_up(self.oplog, self.server.world.now - lag)

    def configure(self, config: dict[str, Any]) -> None:
        """Apply a new or changed configuration."""
        self.config: dict[str, Any] = DEFAULTS | {name: value for name, value in config.items() if value not in (None, "")}
        if self.config.get("subject_delete_marker_ttl") or self.config.get("allow_msg_schedules"):
            self.config["allow_rollup_hdrs"] = True
        self.subjects: list[str] = self.config.get("subjects") or [self.name]
        self.workqueue: bool = self.config["retention"] == "workqueue"
        self.per_subject: int = self.config["max_msgs_per_subject"]
        self.window: float = self.config["duplicate_window"] / 1e9
        self.max_age: float = self.config["max_age"] / 1e9
        self.marker_ttl: int = self.config.get("subject_delete_marker_ttl", 0)
        self.replicas: int = self.config["num_replicas"]
        self.scheduling: bool = bool(self.config.get("allow_msg_schedules"))
        republish = self.config.get("republish")
        self._republish = (matcher(republish["src"]), len(republish["src"]) - 1, republish["dest"][:-1]) if republish else None
        transform = self.config.get("subject_transform")
        found = re.search(r"\.\{\{partition\((\d+),1,2\)\}\}\.", transform["dest"]) if transform else None
        self._transform = (matcher(transform["src"]), int(found[1])) if transform and found else None
        self._age()

    def takes(self, subject: str) -> bool:
        """Return whether it stores messages of a subject."""
        return any(matcher(pattern)(subject) for pattern in self.subjects)

    def stored_subject(self, subject: str) -> str:
        """Return the subject that a message is stored under."""
        if self._transform is None or not self._transform[0](subject):
            return subject
        prefix, queue, key, rest = subject.split(".", 3)
        return f"{prefix}.{partition_of(queue, key, self._transform[1])}.{queue}.{key}.{rest}"

    # ---- publishing

    def publish(self, subject: str, data: bytes, headers: bytes | None) -> bytes | None:
        """Store or refuse a message. Return the answer, or None if it comes later."""
        server = self.server
        fields = fields_of(headers)
        subject = self.stored_subject(subject)
        try:
            if "Nats-Batch-Id" in fields:
                return self._in_batch(subject, data, headers, fields)
            seq = check(self, subject, fields)
            if seq:
                server.note("duplicate", self.name, subject, seq)
                return b'{"stream":"%b","seq":%d,"duplicate": true}' % (self.name.encode(), seq)
        except Refusal as refusal:
            server.note("refused", self.name, subject, refusal.error["description"])
            return json.dumps({"error": refusal.error, "stream": self.name, "seq": 0}).encode()
        message = self.append(subject, data, headers, fields)
        return b'{"stream":"%b","seq":%d}' % (self.name.encode(), message.seq)

    def seen(self, message_id: str) -> int:
        """Return the position of the message with an id in the dedupe window, or 0."""
        found = self.ids.get(message_id)
        if found is None or found[1] <= self.server.world.now:
            return 0
        if found[0] < 0:
            raise Refusal(10158, "duplicate message id is in process", 409)
        return found[0]

    def append(self, subject: str, data: bytes, headers: bytes | None, fields: dict[str, str]) -> Message:
        """Store a message that has passed the checks."""
        server, store = self.server, self.store
        seq, ns = store.last_seq + 1, server.now_ns()
        before = store.by_subject.get(subject)
        previous = before[-1] if before else 0
        message = Message(seq, subject, data, headers, fields, ns)
        store.add(message)
        self._logged(message)
        server.note("stored", self.name, subject, seq)
        if server.keep is not None and self.name in server.keep:
            server.keep[self.name].append((server.world.now, message))
        if fields:
            self._consequences(message)
        if previous:
            self._displace(message)
        if self.max_age:
            self._age()
        if self._republish is not None and self._republish[0](subject):
            self._tell(message, previous)
        for consumer in tuple(self.consumers.values()):
            consumer.arrived(message)
        return message

    def _consequences(self, message: Message) -> None:
        """Carry out what a message's headers ask for."""
        fields, world = message.fields, self.server.world
        message_id = fields.get("Nats-Msg-Id")
        if message_id:
            self.ids[message_id] = (message.seq, world.now + self.window)
        ttl = fields.get("Nats-TTL")
        if ttl is not None and self.config.get("allow_msg_ttl"):
            seconds = ttl_seconds(ttl)
            if seconds:
                world.after(seconds + world.rng.random() * 0.3, self._expire, message)
        if "Nats-Schedule" in fields and self.scheduling:
            due = to_world(from_text(fields["Nats-Schedule"][4:]))
            world.at(max(due + 1e-6, world.now + 0.25 * world.rng.random()), self.fire, message)  # seconds in floats are not exact

    def _displace(self, message: Message) -> None:
        """Remove older messages of a subject, if the stream's limit or the new message says so."""
        fields = message.fields
        rollup = fields.get("Nats-Rollup") == "sub" or "Nats-Schedule" in fields
        keep = 1 if rollup else self.per_subject
        if keep < 1:
            return
        for seq in self.store.by_subject[message.subject][:-keep]:
            gone = self.remove(seq, "replaced")
            if gone is not None and "Nats-TTL" in fields and fields.get("KV-Operation") and not gone.fields.get("KV-Operation"):
                self.ghosts[message.seq] = gone

    def _tell(self, message: Message, previous: int) -> None:
        assert self._republish is not None
        _, cut, dest = self._republish
        added = f"Nats-Stream: {self.name}\r\nNats-Subject: {message.subject}\r\nNats-Sequence: {message.seq}\r\n"
        added += f"Nats-Time-Stamp: {to_text(message.ns)}\r\nNats-Last-Sequence: {previous}\r\n\r\n"
        headers = (message.headers or b"NATS/1.0\r\n\r\n")[:-2] + added.encode()
        self.server.route(dest + message.subject[cut:], "", message.data, headers)

    # ---- batches

    def _in_batch(self, subject: str, data: bytes, headers: bytes | None, fields: dict[str, str]) -> bytes:
        staged = self.stage(subject, data, headers, fields)
        return b"" if staged is None else self.store_batch(fields["Nats-Batch-Id"], staged)

    def stage(self, subject: str, data: bytes, headers: bytes | None, fields: dict[str, str]) -> list[Publication] | None:
        """Add a message to its batch. The committing one returns the checked batch: subject, check subject, payload and headers of each."""
        if not self.config.get("allow_atomic"):
            raise Refusal(10174, "atomic publish is disabled")
        batch, number = fields["Nats-Batch-Id"], int(fields.get("Nats-Batch-Sequence", "0"))
        staged = self.batches.get(batch)
        if number == 1 and staged is None:
            staged = self.batches[batch] = []
            self.server.world.after(BATCH_TIMEOUT, self._abandon, batch)
        if staged is None or number != len(staged) + 1 or number > 1000:
            self.batches.pop(batch, None)
            raise Refusal(10176, "atomic publish batch is incomplete")
        checked = fields.get(EXPECTED_SUBJECT, subject) if EXPECTED in fields else ""
        staged.append((subject, checked, data, headers))
        if fields.get("Nats-Batch-Commit") != "1":
            return None
        del self.batches[batch]
        written: dict[str, int] = {}
        for place, (each, _, _, block) in enumerate(staged):
            own = fields_of(block)
            expect(self, each, own, written)
            if own.get("Nats-Msg-Id") and self.seen(own["Nats-Msg-Id"]):
                raise Refusal(10201, "atomic publish batch contains duplicate message id")
            written[each] = place
        return staged

    def store_batch(self, batch: str, staged: list[Publication]) -> bytes:
        """Store a whole batch. Return the answer."""
        last = 0
        for subject, _, body, block in staged:
            last = self.append(subject, body, block, fields_of(block)).seq
        return json.dumps({"stream": self.name, "seq": last, "batch": batch, "count": len(staged)}).encode()

    def _abandon(self, batch: str) -> None:
        self.batches.pop(batch, None)

    # ---- removals

    def remove(self, seq: int, why: str) -> Message | None:
        """Remove a message from the stream."""
        gone = self.store.remove(seq)
        if gone is not None:
            self._logged(seq)
            self.server.note(why, self.name, gone.subject, seq)
            for consumer in self.consumers.values():
                consumer.gone(seq)
        return gone

    def _logged(self, change: Message | int) -> None:
        if self.replicas > 1:
            self.oplog.append((self.server.world.now, change))

    def _expire(self, message: Message) -> None:
        """Remove a message whose own time to live is over."""
        if self.server.up and self.store.messages.get(message.seq) is message:
            self._put_away(message)

    def _put_away(self, message: Message) -> None:
        self.remove(message.seq, "expired")
        self._mark(message)

    def _mark(self, message: Message) -> None:
        """Store a marker in place of a subject's last message that has expired, unless that was a marker."""
        fields = message.fields
        if self.marker_ttl and message.subject not in self.store.by_subject and "KV-Operation" not in fields and "Nats-Marker-Reason" not in fields:
            text = go_duration(self.marker_ttl // 1_000_000_000)
            block = f"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: {text}\r\nNats-Rollup: sub\r\n\r\n".encode()
            self.append(message.subject, b"", block, fields_of(block))

    def _age(self) -> None:
        if self.max_age and not self._ages and self.store.messages:
            self._ages = True
            first = next(iter(self.store.messages.values()))
            self.server.world.at(to_world(first.ns) + self.max_age + 0.001, self._look_at_age)

    def _look_at_age(self, _: object) -> None:
        self._ages = False
        limit = self.server.now_ns() - int(self.max_age * 1e9)
        while self.server.up and self.max_age and self.store.messages:
            first = next(iter(self.store.messages.values()))
            if first.ns > limit:
                break
            self._put_away(first)
        self._age()

    def fire(self, schedule: Message) -> None:
        """Publish the message of a schedule that is due."""
        if not self.server.up or self.store.messages.get(schedule.seq) is not schedule:
            return
        target = self.stored_subject(schedule.fields["Nats-Schedule-Target"])
        lines = schedule.headers.decode().split("\r\n")[1:-2] if schedule.headers else []
        kept = [line for line in lines if line.partition(":")[0] not in NOT_FIRED]
        block = "\r\n".join(["NATS/1.0", *kept, f"Nats-Scheduler: {schedule.subject}", "Nats-Schedule-Next: purge", "", ""]).encode()
        self.append(target, schedule.data, block, fields_of(block))
        self.remove(schedule.seq, "fired")

    def purge(self, pattern: str, before: int, keep: int) -> int:
        """Remove messages of a filter before a position, or all but the newest ``keep``. Return how many."""
        store = self.store
        found = sorted(seq for subject in store.subjects(pattern or ">") for seq in store.by_subject[subject] if not before or seq < before)
        if keep:
            found = found[:-keep]
        for seq in found:
            self.remove(seq, "purged")
        return len(found)

    # ---- a restart

    def crashed(self, *, forget_ids: bool, resurrect: bool) -> None:
        """Handle the end of the server: what it had only in memory is gone."""
        self.batches.clear()
        self.in_process.clear()
        self.in_flight.clear()
        if forget_ids:
            self.ids.clear()
        else:  # the server builds the table from the stored messages
            self.ids = {name: entry for name, entry in self.ids.items() if entry[0] in self.store.messages}
        for name in [name for name, consumer in self.consumers.items() if consumer.in_memory]:
            self.consumers.pop(name).end(None)
        for consumer in self.consumers.values():
            consumer.crashed()
        if resurrect:
            for marker, ghost in self.ghosts.items():
                if marker not in self.store.messages and ghost.subject not in self.store.by_subject:
                    self.store.insert(ghost)
                    self._logged(ghost)
                    self.server.note("back", self.name, ghost.subject, ghost.seq)
            self.ghosts.clear()

    def recovered(self) -> None:
        """Handle the restart of the server: what became due meanwhile happens now."""
        now = self.server.world.now
        for message in list(self.store.messages.values()):
            fields = message.fields
            ttl = ttl_seconds(fields["Nats-TTL"]) if "Nats-TTL" in fields and self.config.get("allow_msg_ttl") else None
            if ttl and to_world(message.ns) + ttl <= now:
                self.server.world.after(self.server.world.rng.random() * 0.3, self._expire, message)
            if "Nats-Schedule" in fields and self.scheduling and to_world(from_text(fields["Nats-Schedule"][4:])) <= now:
                self.server.world.after(0.25 * self.server.world.rng.random(), self.fire, message)
        if not self._ages:
            self._age()

    def state(self) -> dict[str, Any]:
        """Return the state in an answer of ``STREAM.INFO``."""
        store = self.store
        first = store.messages.get(store.first_seq)
        state = {
            "messages": len(store.messages), "bytes": sum(len(message.data) + 64 for message in store.messages.values()),
            "first_seq": store.first_seq, "first_ts": to_text(first.ns if first else 0), "last_seq": store.last_seq,
            "last_ts": to_text(store.last_ns), "consumer_count": len(self.consumers),
        }  # fmt: skip
        if store.by_subject:
            state["num_subjects"] = len(store.by_subject)
        return state


class Streams(Network):
    """The part of a server that has streams.

    Attributes:
        streams: the streams by name.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.streams: dict[str, Stream] = {}
        self._stream_of: dict[str, Stream | None] = {}

    def streams_changed(self) -> None:
        """Forget which stream stores which subject."""
        self._stream_of.clear()

    def stream_for(self, subject: str) -> Stream | None:
        """Return the stream that stores a subject, or None."""
        try:
            return self._stream_of[subject]
        except KeyError:
            found = self._stream_of[subject] = next((stream for stream in self.streams.values() if stream.takes(subject)), None)
            return found
