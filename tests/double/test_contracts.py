"""What jetflow relies on, asserted with the real nats-server and with the double."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from jetflow.broker.transport.codes import (
    CONSUMER_EXISTS,
    CONSUMER_NOT_FOUND,
    FILTERS_OVERLAP,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    SUBJECTS_OVERLAP,
)
from jetflow.broker.transport.scan import Scan
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.walk import Walk
from jetflow.core.ids import partition_of
from jetflow.protocol import clock
from tests.double.both import SECOND, Asked, Contract, on_double, on_real, refusal

EXPECT = "Nats_Expected_Last_Subject_Sequence"
OF = "Nats_Expected_Last_Subject_Sequence_Subject"


def wrong(seq: int) -> dict[str, Any]:
    return {"code": 400, "err_code": 10071, "description": f"wrong last sequence: {seq}"}


async def compare_and_set(asked: Asked) -> None:
    prefix = f"$KV.{asked.names.timeline_bucket}."
    assert await asked.put("q.a.1", b"1", **{EXPECT: "0"}) == 1
    assert await asked.put("q.a.1", b"1", **{EXPECT: "0"}) == wrong(1)
    assert await asked.put("q.a.1", b"2", **{EXPECT: "1"}) == 2
    assert await asked.put("q.a.2", b"3", **{EXPECT: "0", OF: f"{prefix}q.a.*"}) == wrong(2)
    assert await asked.put("q.a.2", b"3", **{EXPECT: "2", OF: f"{prefix}q.a.*"}) == 3
    assert await asked.put("q.a.3", b"4", **{EXPECT: "2", OF: f"{prefix}q.a.1"}) == 4
    assert await asked.put("q.a.3", b"4", **{EXPECT: "2", OF: f"{prefix}q.none"}) == wrong(0)
    assert await asked.put("q.a.4", b"5", **{EXPECT: "0", OF: f"{prefix}q.none.*"}) == 5
    assert await asked.put("q.a.4", b"5", **{EXPECT: "0", OF: "elsewhere.>"}) == 6
    assert await asked.subjects(asked.names.timeline_stream) == {f"$KV.ns_timeline.q.a.{seq}": 1 for seq in range(1, 5)}


async def message_ids(asked: Asked) -> None:
    first = await asked.publish(".q.w.start.t", b"1", Nats_Msg_Id="a")
    again = await asked.ask(f"{asked.names.namespace}.q.w.start.t", b"2", Nats_Msg_Id="a")
    assert again == {"stream": asked.names.inbox_stream, "seq": first, "duplicate": True}
    assert await asked.publish(".q.w.start.t", b"2", Nats_Msg_Id="b") == first + 1
    assert await asked.put("q.a", b"1", "state", Nats_Msg_Id="x", **{EXPECT: "0"}) == 1
    assert await asked.put("q.a", b"1", "state", Nats_Msg_Id="x", **{EXPECT: "0"}) == wrong(1)  # the compare-and-set comes first
    assert await asked.put("q.a", b"1", "state", Nats_Msg_Id="x", **{EXPECT: "1"}) == 1


async def expiry(asked: Asked) -> None:
    changed, waiting = asked.listen(f"{asked.names.changed_prefix}>"), asked.listen(f"{asked.names.waiting_prefix}>")
    lane = asked.lane
    await asked.put("q.a", b"1", "state", Nats_TTL="1s")
    await asked.put("q.b", b"1", "state")
    await asked.put("q.b", b"", "state", KV_Operation="PURGE", Nats_TTL="1s")
    await asked.put("q.c", b"1", "state")
    await lane.api(f"STREAM.PURGE.{asked.names.state_stream}", {"filter": f"{asked.names.state_prefix}q.c"})
    await asked.put("s.a", b"1", "waits", Nats_TTL="1s")
    await asked.put("s.b", b"1", "waits")
    await asked.put("s.b", b"", "waits", KV_Operation="PURGE", Nats_TTL="1s")
    assert await asked.put("q.a", b"1", "state", Nats_TTL="soon") == {"code": 400, "err_code": 10165, "description": "invalid per-message TTL"}
    assert await asked.put("q.a", b"1", "state", Nats_TTL="10ms") == {"code": 400, "err_code": 10165, "description": "invalid per-message TTL"}
    await asyncio.sleep(2)
    assert await asked.subjects(asked.names.state_stream) == {"$KV.ns_state.q.a": 1}
    assert await asked.subjects(asked.names.wait_stream) == {}
    marker = await lane.last_message(asked.names.state_stream, f"{asked.names.state_prefix}q.a")
    assert marker is not None
    assert marker.data == b""
    assert marker.headers == {"": "", "Nats-Marker-Reason": "MaxAge", "Nats-TTL": "720h0m0s", "Nats-Rollup": "sub"}
    assert [(subject[-3:], data) for subject, _, data, _ in changed] == [("q.a", b"1"), ("q.b", b"1"), ("q.b", b""), ("q.c", b"1"), ("q.a", b"")]
    assert changed[-1][3]["Nats-Marker-Reason"] == "MaxAge"
    assert changed[2][3]["Nats-Last-Sequence"] == "2"
    assert changed[2][3]["KV-Operation"] == "PURGE"
    assert [(subject[-3:], data) for subject, _, data, _ in waiting] == [("s.a", b"1"), ("s.b", b"1"), ("s.b", b"")]


async def purges(asked: Asked) -> None:
    api, stream, prefix = asked.lane.api, asked.names.timeline_stream, asked.names.timeline_prefix
    for key in ("q.a.1", "q.a.2", "q.b.1", "q.a.3", "q.a.4"):
        await asked.put(key, b"x")
    assert (await api(f"STREAM.PURGE.{stream}", {"filter": f"{prefix}q.a.*", "seq": 4}))["purged"] == 2
    assert (await api(f"STREAM.PURGE.{stream}", {"filter": f"{prefix}q.a.*", "seq": 4}))["purged"] == 0
    assert (await api(f"STREAM.PURGE.{stream}", {"filter": f"{prefix}q.none"}))["purged"] == 0
    assert await asked.subjects(stream) == {"$KV.ns_timeline.q.b.1": 1, "$KV.ns_timeline.q.a.3": 1, "$KV.ns_timeline.q.a.4": 1}
    assert (await api(f"STREAM.PURGE.{stream}", {"filter": f"{prefix}q.a.*", "keep": 1}))["purged"] == 1
    assert await asked.subjects(stream) == {"$KV.ns_timeline.q.b.1": 1, "$KV.ns_timeline.q.a.4": 1}
    state = (await api(f"STREAM.INFO.{stream}"))["state"]
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (2, 3, 5)
    assert (await api(f"STREAM.PURGE.{stream}", {"filter": f"{prefix}>"}))["purged"] == 2
    state = (await api(f"STREAM.INFO.{stream}"))["state"]
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (0, 6, 5)
    assert await asked.put("q.a.1", b"x", **{EXPECT: "0"}) == 6


async def rollup(asked: Asked) -> None:
    for seq in (1, 2):
        await asked.publish(".q.w.signal.a", b"%d" % seq)
    await asked.put("q.a", b"1", "signals")
    assert await asked.put("q.a", b"", "signals", KV_Operation="PURGE", Nats_Rollup="sub", Nats_TTL="60s") == 2
    assert await asked.subjects(asked.names.signal_stream) == {"$KV.ns_signals.q.a": 1}
    assert await asked.publish(".q.w.signal.a", b"3", Nats_Rollup="sub") == 3
    assert list((await asked.subjects(asked.names.inbox_stream)).values()) == [1]
    assert (await asked.ask(f"{asked.names.dead_prefix}a.b", b"", Nats_Rollup="sub"))["error"]["err_code"] == 10111


async def api_errors(asked: Asked) -> None:
    api, inbox = asked.lane.api, asked.names.inbox_stream
    assert await refusal(api("STREAM.INFO.NONE")) == STREAM_NOT_FOUND
    assert await refusal(api(f"CONSUMER.INFO.{inbox}.none")) == CONSUMER_NOT_FOUND
    assert await refusal(api(f"CONSUMER.DELETE.{inbox}.none")) == CONSUMER_NOT_FOUND
    assert await refusal(api("CONSUMER.LIST.NONE")) == STREAM_NOT_FOUND
    assert await refusal(api(f"STREAM.CREATE.{inbox}", {"name": inbox, "subjects": ["a.b"]})) == STREAM_NAME_IN_USE
    assert await refusal(api("STREAM.CREATE.XX", {"name": "XX", "subjects": [f"{asked.names.namespace}.a.*.c"]})) == SUBJECTS_OVERLAP
    assert await refusal(api(f"STREAM.MSG.DELETE.{inbox}", {"seq": 77, "no_erase": True})) == 10057
    assert await refusal(api(f"STREAM.MSG.DELETE.{asked.names.state_stream}", {"seq": 1})) == 10057
    assert await asked.lane.message(inbox, 1) is None
    assert await asked.lane.last_message(inbox, ">") is None
    for subject in ("nobody.there", f"$JS.API.CONSUMER.MSG.NEXT.{inbox}.none", "$JS.API.DIRECT.GET.NONE"):
        assert await asked.ask(subject) == (b"", {"": "503", "Nats-Subject": subject})
    number = await asked.publish("_signal.a", b"1")
    await api(f"STREAM.MSG.DELETE.{asked.names.by_id_stream}", {"seq": number, "no_erase": True})
    assert await asked.lane.message(asked.names.by_id_stream, number) is None


async def stream_updates(asked: Asked) -> None:
    name = asked.names.events_stream
    config = {"name": name, "subjects": [f"{asked.names.events_prefix}>"], "retention": "limits", "storage": "file", "max_age": 3600 * SECOND}
    await asked.lane.api(f"STREAM.CREATE.{name}", config)
    await asked.lane.api(f"STREAM.CREATE.{name}", config)  # the same once more
    await asked.publish("_events.q.a", b"1")
    changed = await asked.lane.api(
        f"STREAM.UPDATE.{name}", config | {"subjects": [f"{asked.names.events_prefix}>", f"{asked.names.namespace}_more.>"]}
    )
    assert changed["state"]["messages"] == 1
    assert await asked.publish("_more.q", b"1") == 2
    await asked.lane.api(f"STREAM.DELETE.{name}")
    assert (await asked.ask(f"{asked.names.events_prefix}q.a", b"1"))[1][""] == "503"


def _at(seconds: float) -> str:
    return "@at " + datetime.fromtimestamp(clock.now_ms() / 1000 + seconds, UTC).isoformat().replace("+00:00", "Z")


async def schedules(asked: Asked) -> None:
    names, stream = asked.names, asked.names.inbox_stream
    target = f"{names.namespace}.q.w.timer."

    async def schedule(index: int, body: bytes, seconds: float, **headers: str) -> Any:
        return await asked.publish(f"_timer.q.w.{index}", body, Nats_Schedule=_at(seconds), Nats_Schedule_Target=f"{target}{index}", **headers)

    assert await schedule(1, b"old", 0.5, Jetflow_X="1") == 1
    assert await schedule(1, b"new", 0.7, Jetflow_X="1") == 2
    assert await schedule(2, b"two", 0.7, Nats_Msg_Id="m", **{EXPECT: "0"}) == 3
    assert await schedule(2, b"two", 0.7, **{EXPECT: "0"}) == wrong(3)
    assert await schedule(3, b"gone", 0.7) == 4
    assert await schedule(4, b"past", -10) == 5
    assert await schedule(5, b"later", 30) == 6
    assert (await asked.publish("_timer.q.w.6", b"", Nats_Schedule="@at noon", Nats_Schedule_Target=f"{target}6"))["err_code"] == 10189
    assert (await asked.publish("_timer.q.w.6", b"", Nats_Schedule=_at(1)))["err_code"] == 10190
    assert (await asked.publish("_timer.q.w.6", b"", Nats_Schedule=_at(1), Nats_Schedule_Target="else.where"))["err_code"] == 10190
    assert (await asked.put("a.b", b"", "waits", Nats_Schedule=_at(1), Nats_Schedule_Target=f"{target}6"))["err_code"] == 10188
    assert (await asked.lane.api(f"STREAM.PURGE.{stream}", {"filter": f"{names.timer_prefix}q.w.3"}))["purged"] == 1
    assert set(await asked.subjects(stream, f"{names.timer_prefix}>")) >= {f"ns_timer.q.w.{index}" for index in (1, 2, 5)}
    await asyncio.sleep(1.5)
    stored = f"{names.namespace}.{partition_of('q', 'w', 8)}.q.w.timer."
    fired = await asked.lane.read_many(stream, {"seq": 1, "next_by_subj": f"{stored}*", "batch": 10}, may_lag="one server")
    assert sorted((message.subject, message.data) for message in fired) == [(f"{stored}1", b"new"), (f"{stored}2", b"two"), (f"{stored}4", b"past")]
    first = next(message for message in fired if message.data == b"new").headers
    assert {name: value for name, value in first.items() if name and not name.startswith(("Nats-S", "Nats-T", "Nats-N", "Nats-L"))} == {
        "Jetflow-X": "1"
    }
    assert (first["Nats-Scheduler"], first["Nats-Schedule-Next"]) == (f"{names.timer_prefix}q.w.1", "purge")
    assert "Nats-Schedule-Target" not in first
    second = next(message for message in fired if message.data == b"two").headers
    assert "Nats-Msg-Id" not in second
    assert "Nats-Expected-Last-Subject-Sequence" not in second
    assert list(await asked.subjects(stream, f"{names.timer_prefix}>")) == ["ns_timer.q.w.5"]


async def direct_gets(asked: Asked) -> None:
    stream, prefix = asked.names.state_stream, asked.names.state_prefix
    for key in "abcde":
        await asked.put(f"q.{key}", key.encode(), "state", Jetflow_X="1")
    await asked.put("q.a", b"A", "state")
    direct = f"$JS.API.DIRECT.GET.{stream}"

    def row(key: str, seq: int, pending: int, last: int, *more: str) -> tuple[bytes, dict[str, str]]:
        fields = {"": "", "Nats-Stream": stream, "Nats-Subject": f"{prefix}q.{key.lower()}", "Nats-Sequence": str(seq)}
        fields |= {"Nats-Num-Pending": str(pending), "Nats-Last-Sequence": str(last)} | ({} if key == "A" else {"Jetflow-X": "1"})
        return key.encode(), fields

    def end(pending: int, last: int, up_to: int = 0) -> tuple[bytes, dict[str, str]]:
        fields = {"": "204 EOB", "Nats-Num-Pending": str(pending), "Nats-Last-Sequence": str(last)}
        return b"", fields | ({"Nats-UpTo-Sequence": str(up_to)} if up_to else {})

    missing = [(b"", {"": "404 Message Not Found"})]
    assert await asked.ask(f"{direct}.{prefix}q.a") == (b"A", {"": "", "Nats-Stream": stream, "Nats-Subject": f"{prefix}q.a", "Nats-Sequence": "6"})
    assert await asked.ask(f"{direct}.{prefix}q.none") == missing[0]
    assert (await asked.ask(direct, {"last_by_subj": f"{prefix}q.*"}))[0] == b"A"
    assert (await asked.ask(direct, {"seq": 3}))[0] == b"c"
    assert await asked.ask(direct, {"seq": 1}) == missing[0]

    async def many(**request: Any) -> Any:
        return await asked.ask(direct, request, many=True)

    assert await many(multi_last=[f"{prefix}q.b", f"{prefix}q.a", f"{prefix}q.none"]) == [row("b", 2, 1, 0), row("A", 6, 0, 2), end(0, 6, 6)]
    assert await many(multi_last=[f"{prefix}q.*"], batch=2) == [row("b", 2, 4, 0), row("c", 3, 3, 2), end(3, 3, 6)]
    assert await many(multi_last=[f"{prefix}q.*"], seq=4, up_to_seq=5) == [row("d", 4, 1, 0), row("e", 5, 0, 4), end(0, 5, 5)]
    assert await many(multi_last=[f"{prefix}x.*"]) == [(b"", {"": "404 No Results"})]
    assert await many(seq=1, batch=2) == [row("b", 2, 4, 0), row("c", 3, 3, 2), end(3, 3)]
    assert await many(seq=5, batch=9, next_by_subj=f"{prefix}q.*") == [row("e", 5, 1, 0), row("A", 6, 0, 5), end(0, 6)]
    assert await many(seq=1, batch=9, max_bytes=1) == [row("b", 2, 4, 0), end(4, 2)]
    assert await many(seq=7, batch=9) == missing
    assert await many(seq=1, batch=9, next_by_subj=f"{prefix}x.*") == missing
    assert await many(start_time="2020-01-01T00:00:00Z", batch=1) == [row("b", 2, 4, 0), end(4, 2)]
    assert await many(start_time="2099-01-01T00:00:00Z", batch=1) == missing
    assert await many(batch=1) == [(b"", {"": "408 Empty Request"})]


async def walks_and_lists(asked: Asked) -> None:
    for number in range(150):
        await asked.put(f"q.w{number}", b"x", "state")
    await asked.put("q.w3", b"y", "state")
    walk = Walk(asked.lane, asked.names.state_stream, f"{asked.names.state_prefix}q.*")
    shape = await walk.shape()
    assert (shape.first, shape.last, shape.keys, shape.taken) == (1, 151, 150, 150)
    rows = [row async for _, window in walk.downwards(shape, shape.last + 1) for row in window]
    assert [row.position for row in rows] == [seq for seq in range(151, 0, -1) if seq != 4]
    assert [row.position async for page in walk.upwards(140) for row in page] == list(range(140, 152))
    info = await asked.lane.api(f"STREAM.INFO.{asked.names.state_stream}", {"subjects_filter": f"{asked.names.state_prefix}q.*", "offset": 148})
    assert (info["total"], len(info["state"]["subjects"])) == (150, 2)


async def scans(asked: Asked) -> None:
    names = asked.names
    for key in ("a", "b", "c", "b"):
        await asked.put(f"q.{key}", b"12345", "state", Jetflow_Key=key)
    scan = Scan(asked.lane, names.state_stream, f"{names.state_prefix}q.*")
    await scan.open()
    seen = await scan.batch(2)
    assert [(one.subject[-1], one.position) for one in seen] == [("a", 1), ("c", 3)]
    assert b"Jetflow-Key:a" in seen[0].headers
    assert b"Nats-Msg-Size: 5" in seen[0].headers
    assert [one.position for one in await scan.batch(5)] == [4]
    scan.close()
    info = await asked.lane.api(f"CONSUMER.LIST.{names.state_stream}", {"offset": 0})
    assert [consumer["config"]["headers_only"] for consumer in info["consumers"]] == [True]


async def workqueue(asked: Asked) -> None:
    names, stream = asked.names, asked.names.inbox_stream
    partition = partition_of("q", "w", 8)
    mine = f"{names.namespace}.{partition}.q.>"
    for number in range(3):
        await asked.publish(f".q.w.signal.s{number}", b"%d" % number, Jetflow_X="1")
    assert "error" not in await asked.consumer(stream, "one", mine)
    assert (await asked.consumer(stream, "one", mine))["name"] == "one"
    assert (await asked.consumer(stream, "one", mine, ack_wait=SECOND))["error"]["err_code"] == CONSUMER_EXISTS
    assert (await asked.consumer(stream, "two", mine))["error"]["err_code"] == FILTERS_OVERLAP
    assert (await asked.consumer(stream, "two", f"{names.namespace}.*.q.w.>"))["error"]["err_code"] == FILTERS_OVERLAP
    assert (await asked.consumer(stream, "two", f"{names.namespace}.{(partition + 1) % 8}.q.>"))["name"] == "two"
    got = asked.listen("_INBOX.one")
    asked.pull(stream, "one", "_INBOX.one", batch=10, expires=30 * SECOND, idle_heartbeat=5 * SECOND)
    await asked.soon(lambda: len(got) == 3)
    assert [(subject.rpartition(".")[2], data) for subject, _, data, _ in got] == [("s0", b"0"), ("s1", b"1"), ("s2", b"2")]
    tokens = [reply.split(".") for _, reply, _, _ in got]
    assert [each[:7] for each in tokens] == [["$JS", "ACK", stream, "one", "1", str(seq), str(seq)] for seq in (1, 2, 3)]
    assert tokens[-1][8] == "0"
    asked.lane.wire.ack(got[1][1])
    await asyncio.sleep(0.1)
    assert await asked.lane.message(stream, 2) is None
    await asked.publish(".q.w.signal.s3", b"3")
    await asked.soon(lambda: len(got) == 4)
    assert got[3][1].split(".")[4:7] == ["1", "4", "4"]
    await asked.lane.api(f"CONSUMER.DELETE.{stream}.one")
    await asked.soon(lambda: got[-1][3].get("status") == "409")
    assert got[-1][3][""] == "409 Consumer Deleted"
    assert got[-1][0] == "_INBOX.one"
    asked.lane.wire.ack(got[0][1])  # of a consumer that is no more
    again = asked.listen("_INBOX.again")
    await asked.consumer(stream, "again", mine)
    asked.pull(stream, "again", "_INBOX.again", batch=10, expires=30 * SECOND)
    await asked.soon(lambda: len(again) == 3)
    assert [(data, *reply.split(".")[4:7]) for _, reply, data, _ in again] == [(b"0", "1", "1", "1"), (b"2", "1", "3", "2"), (b"3", "1", "4", "3")]


async def pulls(asked: Asked) -> None:
    names, stream = asked.names, asked.names.task_stream
    subject = f"{names.task_prefix}q.a.>"
    config = {"filter_subjects": None, "filter_subject": subject, "mem_storage": None, "inactive_threshold": None, "durable_name": "d"}
    made = await asked.consumer(stream, "d", **config, ack_wait=SECOND)
    assert made["config"]["ack_wait"] == SECOND
    got = asked.listen("_INBOX.d.*")
    asked.pull(stream, "d", "_INBOX.d.1", batch=5, no_wait=True)
    await asked.soon(lambda: len(got) == 1)
    assert got.pop()[3][""] == "404 No Messages"
    asked.pull(stream, "d", "_INBOX.d.2", batch=5, expires=SECOND // 4, no_wait=True)
    await asked.soon(lambda: len(got) == 1)
    assert got.pop()[3] == {"": "408 Request Timeout", "status": "408", "Nats-Pending-Messages": "5", "Nats-Pending-Bytes": "0"}
    asked.pull(stream, "d", "_INBOX.d.3", batch=5, expires=SECOND, idle_heartbeat=9 * SECOND)
    await asked.soon(lambda: len(got) == 1)
    assert got.pop()[3]["status"] == "400"
    asked.pull(stream, "d", "_INBOX.d.4", batch=1, expires=30 * SECOND, idle_heartbeat=SECOND // 5)
    await asked.soon(lambda: len(got) == 1)
    assert got.pop()[3]["status"] == "100"
    await asked.publish("_task.q.a.w.1", b"1")
    await asked.soon(lambda: any(data for _, _, data, _ in got))
    reply = got[-1][1]
    assert reply.split(".")[4] == "1"
    asked.pull(stream, "d", "_INBOX.d.5", batch=1, expires=30 * SECOND)
    begun = asyncio.get_running_loop().time()
    await asyncio.sleep(0.7)
    asked.lane.wire.send(reply, b"+WPI")
    await asked.soon(lambda: got[-1][1] != reply)
    assert asyncio.get_running_loop().time() - begun > 1.4  # the lease was extended
    assert got[-1][1].split(".")[4] == "2"
    got.clear()
    asked.pull(stream, "d", "_INBOX.d.6", batch=1, expires=30 * SECOND)
    asked.lane.wire.send(f"$JS.ACK.{stream}.d.2.1.2.1.0", b"-NAK")
    await asked.soon(lambda: bool(got))
    assert got[-1][1].split(".")[4] == "3"
    asked.lane.wire.send(got[-1][1], b"+TERM")
    await asyncio.sleep(0.1)
    assert await asked.subjects(stream) == {}


async def inboxes_that_are_gone(asked: Asked) -> None:
    """A pull whose sender listens no more gets nothing."""
    names, stream = asked.names, asked.names.inbox_stream
    await asked.consumer(stream, "one", f"{names.namespace}.*.q.>")
    other = await asked.again()
    other.wire.listen("_INBOX.other", lambda *_: None)
    other.wire.send(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.one", b'{"batch":5,"expires":30000000000}', "_INBOX.other")
    await asyncio.sleep(0.05)
    await other.wire.close()
    await asyncio.sleep(0.05)
    got = asked.listen("_INBOX.mine")
    asked.pull(stream, "one", "_INBOX.mine", batch=5, expires=30 * SECOND)
    await asked.publish(".q.w.signal.a", b"1")
    await asked.soon(lambda: len(got) == 1)
    assert got[0][1].split(".")[4] == "1"


async def consumers_that_nobody_uses(asked: Asked) -> None:
    names, stream = asked.names, asked.names.inbox_stream
    await asked.consumer(stream, "used", f"{names.namespace}.1.q.>", inactive_threshold=SECOND)
    await asked.consumer(stream, "unused", f"{names.namespace}.2.q.>", inactive_threshold=SECOND)
    asked.listen("_INBOX.used")
    asked.pull(stream, "used", "_INBOX.used", batch=5, expires=30 * SECOND)
    await asyncio.sleep(2.2)
    found = (await asked.lane.api(f"CONSUMER.LIST.{stream}", {"offset": 0}))["consumers"]
    assert [consumer["name"] for consumer in found] == ["used"]


async def ages(asked: Asked) -> None:
    name, subject = f"{asked.names.inbox_stream}_OLD", f"{asked.names.namespace}_old"
    await asked.lane.api(
        f"STREAM.CREATE.{name}",
        {"name": name, "subjects": [f"{subject}.>"], "max_age": SECOND, "allow_msg_ttl": True, "duplicate_window": SECOND},
    )
    await asked.publish("_old.a", b"1")
    await asyncio.sleep(0.5)
    await asked.publish("_old.b", b"1")
    await asked.publish("_old.c", b"1", Nats_TTL="60s")
    await asyncio.sleep(0.8)
    assert await asked.subjects(name) == {"ns_old.b": 1, "ns_old.c": 1}
    await asyncio.sleep(0.6)
    assert await asked.subjects(name) == {}
    await asked.lane.api(f"STREAM.DELETE.{name}")
    await asked.lane.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{subject}.>"]})
    assert (await asked.publish("_old.a", b"1", Nats_TTL="60s"))["err_code"] == 10166
    await asked.lane.api(f"STREAM.DELETE.{name}")


async def batches(asked: Asked) -> None:
    prefix, count = asked.names.timeline_prefix, 0

    async def batch(*messages: tuple[str, dict[str, str]], skip: int = 0) -> Any:
        nonlocal count
        count += 1
        for number, (key, headers) in enumerate(messages, 1):
            block = {"Nats_Batch_Id": f"b{count}", "Nats_Batch_Sequence": str(number + (skip if number > 1 else 0)), **headers}
            if number == len(messages):
                return await asked.ask(f"{prefix}{key}", b"x", Nats_Batch_Commit="1", **block)
            await asked.ask(f"{prefix}{key}", b"x", **block)
        return None

    new = {EXPECT: "0"}
    assert await batch(("q.a.1", new), ("q.a.2", new)) == {"stream": asked.names.timeline_stream, "seq": 2, "batch": "b1", "count": 2}
    assert (await batch(("q.a.3", new), ("q.a.1", new)))["error"] == wrong(1)
    assert (await batch(("q.a.3", new), ("q.a.4", new), skip=1))["error"]["err_code"] == 10176
    shared = {EXPECT: "0", OF: f"{prefix}q.b.*"}
    assert (await batch(("q.b.1", shared), ("q.b.2", shared)))["seq"] == 4
    twice = await batch(("q.c.1", {}), ("q.c.1", new))
    assert twice["error"] == {"code": 400, "err_code": 10164, "description": "wrong last sequence"}
    assert set(await asked.subjects(asked.names.timeline_stream)) == {f"$KV.ns_timeline.q.{key}" for key in ("a.1", "a.2", "b.1", "b.2")}
    off = await asked.put("a.b", b"", "waits", Nats_Batch_Id="z", Nats_Batch_Sequence="1", Nats_Batch_Commit="1")
    assert off["err_code"] == 10174


async def restarts(asked: Asked) -> None:
    names, api = asked.names, asked.lane.api
    inbox, tasks = names.inbox_stream, names.task_stream
    await asked.publish(".q.w.start.t", b"1", Nats_Msg_Id="a")
    await asked.publish(".q.w.start.t", b"2", Nats_Msg_Id="b")
    await asked.publish("_task.q.a.w.1", b"1")
    durable = {"filter_subjects": None, "filter_subject": f"{names.task_prefix}q.a.>", "mem_storage": None, "inactive_threshold": None}
    await asked.consumer(inbox, "one", f"{names.namespace}.*.q.>")
    await asked.consumer(tasks, "d", **durable, durable_name="d", ack_wait=2 * SECOND)
    before = asked.listen("_INBOX.before")
    asked.pull(inbox, "one", "_INBOX.before", batch=1, expires=30 * SECOND)
    asked.pull(tasks, "d", "_INBOX.before", batch=1, expires=30 * SECOND)
    await asked.soon(lambda: len(before) == 2)
    asked.lane.wire.ack(next(reply for subject, reply, _, _ in before if "_task" not in subject))
    await asyncio.sleep(0.3)
    await asked.publish("_timer.q.w.1", b"late", Nats_Schedule=_at(0.1), Nats_Schedule_Target=f"{names.namespace}.q.w.timer.1")
    events: list[str] = []
    asked.lane.wire.on_disconnect.append(lambda: events.append("off"))
    asked.lane.wire.on_reconnect.append(lambda: events.append("on"))
    await asked.restart()
    await asked.soon(lambda: events == ["off", "on"])
    assert (await api(f"CONSUMER.LIST.{inbox}", {"offset": 0}))["total"] == 0
    assert [consumer["name"] for consumer in (await api(f"CONSUMER.LIST.{tasks}", {"offset": 0}))["consumers"]] == ["d"]
    assert await asked.lane.message(inbox, 1) is None
    stored = await asked.lane.message(inbox, 2)
    assert stored is not None
    assert stored.data == b"2"
    again = await asked.ask(f"{names.namespace}.q.w.start.t", b"2", Nats_Msg_Id="b")
    assert again.get("duplicate")
    assert await asked.publish(".q.w.start.t", b"1", Nats_Msg_Id="a") > 2  # what is gone is not known any more
    after = asked.listen("_INBOX.after")
    asked.pull(tasks, "d", "_INBOX.after", batch=1, expires=30 * SECOND)
    await asked.soon(lambda: len(after) == 1, 10)
    assert after[0][1].split(".")[4] == "2"
    pattern = f"{names.namespace}.*.q.w.timer.1"
    await asyncio.sleep(1)
    assert list(await asked.subjects(inbox, pattern)) == [f"ns.{partition_of('q', 'w', 8)}.q.w.timer.1"]


CONTRACTS: list[Contract] = [
    compare_and_set, message_ids, expiry, purges, rollup, api_errors, stream_updates, schedules, direct_gets, walks_and_lists, scans, workqueue,
    pulls, inboxes_that_are_gone, consumers_that_nobody_uses, ages, batches,
]  # fmt: skip


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
async def test_real(contract: Contract, server: LocalServer) -> None:
    await on_real(contract, server)


@pytest.mark.parametrize("contract", [*CONTRACTS, restarts], ids=lambda contract: contract.__name__)
def test_double(contract: Contract) -> None:
    begun = time.monotonic()
    for seed in range(3):
        on_double(contract, seed)
    assert time.monotonic() - begun < 20


async def test_real_restarts() -> None:
    async with LocalServer() as server:
        await on_real(restarts, server)
