"""The broker alone, reached as the engine reaches it: the limit that the engine's figures are held against."""

from __future__ import annotations

import time

from bench.stage import Stage, in_flight, median_ms, percentile
from jetflow.protocol.headers import header_block

EXPECT_NEW = header_block(Nats_Expected_Last_Subject_Sequence="0")
BODY = b'[{"type":"bench","padding":"' + b"x" * 160 + b'"}]'
"""About the size of a commit with one activity."""


async def raw(stage: Stage) -> dict[str, float]:
    """Core requests and CAS puts on one connection."""
    with stage.measured():
        found = {"raw_request_p50": await _requests(stage)}
        found |= await _puts(stage)
    return found


async def _requests(stage: Stage) -> float:
    """A request answered by another connection of this process: four hops through two sockets."""
    lane = stage.client.broker.lane
    other = await stage.client.another_wire("bench-answers")
    try:
        other.listen("bench.echo", lambda _subject, reply, data, _headers: other.send(reply.decode(), data))
        await other.flush()
        samples = []
        for _ in range(stage.counts.requests):
            begin = time.perf_counter()
            await lane.request("bench.echo", BODY)
            samples.append(time.perf_counter() - begin)
    finally:
        await other.close()
    return median_ms(samples[len(samples) // 5 :])


async def _puts(stage: Stage) -> dict[str, float]:
    """Writes of new keys to the timeline bucket, each expecting that the key is new: what a commit is. Each is a message of its own."""
    lane, prefix = stage.client.broker.lane, f"{stage.client.broker.names.timeline_prefix}raw."
    samples = []
    for number in range(stage.counts.puts):
        begin = time.perf_counter()
        await lane.publish(f"{prefix}alone-{number}.1", BODY, EXPECT_NEW)
        samples.append(time.perf_counter() - begin)
    samples = samples[len(samples) // 10 :]
    found = {"raw_put_p50": median_ms(samples), "raw_put_p99": percentile(samples, 99) * 1000}
    for width in (20, 64, 256):
        begin, cpu = time.perf_counter(), time.process_time()
        await in_flight(width, stage.counts.puts_in_flight, lambda number, width=width: lane.publish(f"{prefix}{width}-{number}.1", BODY, EXPECT_NEW))
        found[f"raw_puts_{width}"] = stage.counts.puts_in_flight / (time.perf_counter() - begin)
        found["raw_put_cpu"] = (time.process_time() - cpu) * 1000 / stage.counts.puts_in_flight
    return found
