"""What three servers do otherwise than one, asserted with a real cluster and with the double."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from bench.cluster import LocalCluster
from jetflow.broker.transport.connection import Broker
from jetflow.protocol.headers import header_block
from tests.double.both import Asked, on_double

IN_PROCESS = (10164, "wrong last sequence")
EXPECT = "Nats_Expected_Last_Subject_Sequence"
OF = "Nats_Expected_Last_Subject_Sequence_Subject"


async def at_once(asked: Asked, *messages: tuple[str, dict[str, str]]) -> list[Any]:
    """Publishes to timeline keys without waiting in between: positions, or (number, words) of refusals."""
    answers = [
        asked.lane.submit(f"{asked.names.timeline_prefix}{key}", b"x", header_block(**headers) if headers else None) for key, headers in messages
    ]
    found: list[Any] = []
    for answer in answers:
        ack = json.loads((await answer)[0])
        found.append((ack["error"]["err_code"], ack["error"]["description"]) if "error" in ack else ack["seq"])
    await asyncio.sleep(0.1)
    return found


async def in_process(asked: Asked) -> None:
    prefix = asked.names.timeline_prefix

    def checks(subject: str) -> dict[str, str]:
        return {EXPECT: "0", OF: f"{prefix}{subject}"}

    assert await at_once(asked, ("q.a.1", checks("r.x")), ("q.a.2", checks("r.x"))) == [1, IN_PROCESS]
    assert await at_once(asked, ("q.b.1", checks("r.y")), ("q.b.2", checks("*.y"))) == [2, 3]  # by the spelling
    assert await at_once(asked, ("q.c.1", {}), ("q.c.1", {EXPECT: "0"})) == [4, IN_PROCESS]
    # what is in process is not seen by a check that is spelled otherwise
    assert await at_once(asked, ("r.t.n", {}), ("q.d.1", checks("r.t.*")), ("q.d.2", checks("r.*.n"))) == [5, 6, 7]
    refused = await at_once(asked, ("q.d.3", checks("r.t.*")))
    assert refused == [(10071, "wrong last sequence: 5")]
    ids = await at_once(asked, ("q.e.1", {"Nats_Msg_Id": "a"}), ("q.e.1", {"Nats_Msg_Id": "a"}))
    assert ids == [8, (10158, "duplicate message id is in process")]
    assert await at_once(asked, ("q.e.1", {"Nats_Msg_Id": "a", EXPECT: "0"})) == [8]  # the id comes before the compare-and-set


async def test_real(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    await cluster.start()
    try:
        broker = await Broker.connect(cluster.urls)

        async def never() -> Any:
            raise NotImplementedError

        try:
            await in_process(Asked(broker.lane, broker.names, never, never))
        finally:
            await broker.close()
    finally:
        await cluster.stop()


def test_double() -> None:
    for seed in range(5):
        on_double(in_process, seed, replicas=3)
