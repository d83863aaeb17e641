"""A service that handles every workflow's end once, however often it or a worker crashes. It knows only NATS.

    jetflow events on
    python examples/events_consumer.py --queue orders          # Ctrl-C ends it; after a restart it continues where it was
    python examples/events_consumer.py --queue orders --count 3

It prints a line for each; put your own work into ``handle``.
"""

import argparse
import asyncio
import contextlib
import json
import os
from datetime import timedelta

import nats
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NothingCame
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, KeyValueConfig
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

STREAM, PREFIX = "JETFLOW_EVENTS", "jetflow_events"
ENDS = ("completed", "failed", "terminated")
REMEMBERED = timedelta(days=7)


async def handle(event: dict) -> None:
    """Do the service's own work. It comes before the event counts as seen, so make it repeatable, or do both in one transaction."""
    kind = event["type"].rpartition(".")[2]
    print(f"{event['time']}  {event['subject']}  {kind}  {json.dumps(event['data'].get('result'))}", flush=True)


async def main(queue: str, count: int | None) -> None:
    connection = await nats.connect(os.environ.get("JETFLOW_URL", "nats://127.0.0.1:4222"))
    try:
        jetstream = connection.jetstream()
        seen = await jetstream.create_key_value(KeyValueConfig(bucket="events_seen", ttl=REMEMBERED.total_seconds()))
        events = await subscribe(jetstream, queue)
        while count is None or count > 0:
            try:
                batch = await events.fetch(min(100, count or 100), timeout=5)
            except NothingCame:
                continue
            for message in batch:
                handled = await once(message, seen)
                count = count - handled if count is not None else None
    finally:
        await connection.close()


async def subscribe(jetstream: JetStreamContext, queue: str) -> JetStreamContext.PullSubscription:
    """Return the durable consumer of this service. Several processes share it, and each event goes to one of them."""
    config = ConsumerConfig(filter_subjects=[f"{PREFIX}.{queue}.*.{kind}" for kind in ENDS], ack_wait=30, max_deliver=-1)
    return await jetstream.pull_subscribe("", durable=f"ends-of-{queue}", stream=STREAM, config=config)


async def once(message: Msg, seen: KeyValue) -> bool:
    """Handle an event unless that was done before. The ack comes last, so that a crash brings the event again."""
    event = json.loads(message.data)
    try:
        await seen.get(event["id"])
        new = False
    except KeyNotFoundError:
        await handle(event)
        new = True
        with contextlib.suppress(KeyWrongLastSequenceError):  # another process was as quick
            await seen.create(event["id"], b"")
    await message.ack()
    return new


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prints the end of every workflow of a task queue.")
    parser.add_argument("--queue", default="default", help="the workflows' task queue (default: default)")
    parser.add_argument("--count", type=int, help="stop after so many")
    options = parser.parse_args()
    try:
        asyncio.run(main(options.queue, options.count))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
