"""Whatever anybody publishes: it is ignored or becomes a dead letter, and everybody's workflows go on."""

import asyncio
import json
import random
from typing import Any

import pytest

from jetflow import Client, Worker, WorkflowNotFoundError, activity, condition, sleep, workflow
from jetflow.broker.transport.server import LocalServer
from jetflow.core.ids import from_token, partition_of

from .helpers import WAIT, another_worker, commands, dead_letters, plain_nats, until, waits_for

MESSAGES = 400
BODIES = [
    b"", b" ", b"{", b"null", b"[]", b"{}", b"0", b'"x"', b"[" * 3000, b"\xff\xfe\x00", b'"\xff"', b'"\\ud800"', b"1e999", b"NaN", b"9" * 400,
    b'{"a": "\xed\xa0\x80"}', b"\x00" * 100,
]  # fmt: skip
FORGED: list[Any] = [
    {"run": 1, "due": 0}, {"run": 2**70, "due": -(2**70)}, {"run": -1, "due": 10**18}, {"run": 0, "child": "x", "outcome": "completed"},
    {"run": 1, "child": "", "outcome": "failed"}, {"run": 1, "child": "x", "outcome": "failed", "failure": {"type": "X", "code": 2**70}},
    {"run": 1, "attempt": 1, "result": 1}, {"run": 1, "attempt": 2**70, "failure": {}}, {"reason": None}, {"reason": "r", "run": 0},
    {"reason": "x" * 5000, "code": 2**70, "run": 0}, {"expire": "soon"}, {"expire": -1}, {"expire": 1e300}, {"reason": [1], "run": "1"},
    {"parent": {"workflow_id": "", "task_queue": "", "run": 0, "index": 0}, "run": 0}, {"reason": "\ud800", "run": 0},
]  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {}, {"Jetflow-Expire": "soon"}, {"Jetflow-Expire": "-1s"}, {"Jetflow-Expire": "99999999999999d"}, {"Jetflow-Expire": "0ms"},
    {"Jetflow-Args": "²"}, {"Jetflow-Args": "9" * 5000}, {"Jetflow-Args": "-1"}, {"Jetflow-Args": "7"},
    {"Jetflow-Parent": "{"}, {"Jetflow-Parent": "{}"},
    {"Jetflow-Parent": '{"workflow_id": "", "task_queue": "", "run": 1, "index": 1}'},
    {"Jetflow-Parent": '{"workflow_id": "nobody", "task_queue": "nowhere", "run": -1, "index": -1, "awaited": false}'},
    {"Jetflow-Parent": json.dumps({"workflow_id": "x" * 999, "task_queue": "q", "run": 1, "index": 1})},
    {"Jetflow-Origin": "a b*"}, {"Jetflow-Origin": ""}, {"Jetflow-Nonsense": "x"}, {"Jetflow-Data": "[1]"}, {"Jetflow-Entity": "{"},
]  # fmt: skip
TOKENS = [
    "", "x", "=", "=zz", "=FF", "=2e", "=41", "=C2=B2", "%20", "ü", "*x", "x" * 257, "1", "0", "-1", "01", "9" * 30, "$KV", "=0A", "a,b", '"', "\x7f",
]  # fmt: skip
KINDS = ["start", "signal", "cancel", "terminate", "timer", "child", "activity", "update", "query", "nonsense", "Start", ""]


@activity
async def double(n: int) -> int:
    return 2 * n


@workflow
async def works(n: int) -> int:
    await sleep("1ms")
    return await double(n)


@workflow
async def stands(n: int) -> list[Any]:
    """Waits for a signal, a timer and a child's like beneath the rubbish."""
    first = await condition("go")
    return [await double(n), first]


@workflow
async def takes_anything(*given: Any) -> int:
    return len(given)


SERVED = {"workflows": [works, stands, takes_anything], "activities": [double]}


def rubbish(rng: random.Random, queue: str, ids: list[str]) -> tuple[str, bytes, dict[str, str]]:
    body = rng.choice([rng.choice(BODIES), json.dumps(rng.choice(FORGED)).encode(), rng.randbytes(rng.randrange(60))])
    target = rng.choice([*ids, *ids, "fresh", rng.choice(TOKENS)])
    kind = rng.choice(KINDS)
    rest = [rng.choice([*TOKENS, "works", "takes_anything", "1", "2", "3"]) for _ in range(rng.choice([0, 1, 1, 1, 2]))]
    if kind in ("cancel", "terminate") and target in ids and not rest:
        rest = ["x"]  # a proper one would end it
    if kind == "signal" and target in ids and rest == ["go"]:
        rest = ["x"]
    return ".".join(["jetflow", queue, target, kind, *rest]), body, rng.choice([{}, {}, rng.choice(HEADERS)])


def is_a_subject(subject: str) -> bool:
    """What the protocol lets through at all."""
    return all(token and token not in ("*", ">") and not set(token) & set(" \t\r\n") for token in subject.split("."))


@pytest.mark.parametrize("seed", range(4))
async def test_rubbish_stops_nobody(server: LocalServer, client: Client, queue: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    async with Client.connect(server.url) as own, Worker(own, task_queue=queue, **SERVED) as worker, plain_nats(server.url) as raw:
        standing = [await client.start(stands, n, workflow_id=f"standing-{n}", task_queue=queue) for n in range(8)]
        for handle in standing:
            await waits_for(handle, "go")
        sent = 0
        while sent < MESSAGES:
            subject, body, headers = rubbish(rng, queue, [handle.workflow_id for handle in standing])
            if is_a_subject(subject) and subject.count(".") >= 3:
                await raw.publish(subject, body, headers=headers or None)
                sent += 1
        await raw.flush()
        partitions = client.broker.topology.partitions
        by_partition: dict[int, str] = {}
        n = 0
        while len(by_partition) < partitions:
            by_partition.setdefault(partition_of(queue, f"after-{n}", partitions), f"after-{n}")
            n += 1
        done = await asyncio.gather(*(client.execute(works, 3, workflow_id=name, task_queue=queue, timeout=WAIT) for name in by_partition.values()))
        assert done == [6] * partitions
        for handle in standing:
            await handle.signal("go", "well")
        assert [await handle.result(timeout=WAIT) for handle in standing] == [[2 * n, "well"] for n in range(8)]
        letters = await dead_letters(client, queue)
        assert len(letters) > MESSAGES / 10
        assert all(letter.headers["Jetflow-Subject"].startswith(f"jetflow.{queue}.") and letter.headers["Jetflow-Reason"] for letter in letters)

        async def only_known_ids_left() -> bool:
            """What is not consumed belongs to workflows that wait for a worker that knows their type."""
            for subject in await commands(client, queue):
                try:
                    workflow_id = from_token(subject.split(".")[3])
                    record = await client.get_handle(workflow_id, queue).describe()
                except WorkflowNotFoundError:
                    return False
                if record is None or record.parked is None or record.parked.reason != "UnknownWorkflowType":
                    return False
            return True

        await until(only_known_ids_left)
        assert worker.partitions == partitions
    assert not [record for record in caplog.records if record.exc_info and "cannot go on" in record.message]


@pytest.mark.parametrize(
    ("command", "body", "headers", "reason"),
    [
        ("nonsense", b"", {}, "unknown command 'nonsense'"),
        ("start", b"", {}, "with one name"),
        ("start.works", b"{", {}, "not JSON"),
        ("start.works", b"\xff", {}, "not JSON"),
        ("start.works", b"1", {"Jetflow-Expire": "soon"}, "soon"),
        ("start.works", b"1", {"Jetflow-Args": "²"}, "Jetflow-Args"),
        ("start.works", b"1", {"Jetflow-Parent": "{}"}, "start"),
        ("start.works", b"1", {"Jetflow-Parent": '{"workflow_id": "", "task_queue": "q", "run": 1, "index": 1}'}, "non-empty"),
        ("signal", b"", {}, "with one name"),
        ("signal.a.b", b"", {}, "with one name"),
        ("signal.a", b"{", {}, "not JSON"),
        ("signal.=zz", b"", {}, "=zz"),
        ("cancel", b"{", {}, "not JSON"),
        ("cancel", b"[1]", {}, "cancel"),
        ("cancel.now", b"", {}, "nothing may follow"),
        ("terminate", b'{"expire": "soon"}', {}, "soon"),
        ("terminate", b'{"code": "x"}', {}, "code"),
        ("terminate", b"", {}, "no workflow"),
        ("timer.x", b"{}", {}, "index"),
        ("timer.=C2=B2", b"{}", {}, "index"),
        ("timer.1", b"{}", {}, "run"),
        ("child.1", b"null", {}, "child"),
        ("child.1", b"", {}, "child"),
    ],
)
async def test_a_dead_letter_says_what_is_wrong(client: Client, queue: str, command: str, body: bytes, headers: dict[str, str], reason: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        await raw.publish(f"jetflow.{queue}.somebody.{command}", body, headers=headers or None)
        letter = (await until(lambda: dead_letters(client, queue)))[0]
        assert letter.headers["Jetflow-Subject"] == f"jetflow.{queue}.somebody.{command}"
        assert reason in letter.headers["Jetflow-Reason"]
        assert letter.data == body
        assert letter.subject == f"jetflow_dead.{queue}.somebody"


async def test_rubbish_that_came_while_no_worker_was_up(server: LocalServer, client: Client, queue: str) -> None:
    rng = random.Random(99)
    async with plain_nats(client.url) as raw:
        for _ in range(MESSAGES):
            subject, body, headers = rubbish(rng, queue, ["one", "two"])
            if is_a_subject(subject) and subject.count(".") >= 3:
                await raw.publish(subject, body, headers=headers or None)
    async with another_worker(server.url, queue, **SERVED):
        assert await client.execute(works, 1, task_queue=queue, timeout=WAIT) == 2
        await until(lambda: dead_letters(client, queue))
