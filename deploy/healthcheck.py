"""Exits with 0 while a worker of this host has its heartbeat in the broker; else with 1 and the reason.

    JETFLOW_URL=nats://worker:…@nats:4222 python healthcheck.py

For containers, where one host has one worker. ``JETFLOW_NAMESPACE`` names another namespace than ``jetflow``.
"""

import asyncio
import os
import platform
import sys
from collections.abc import Iterable

import msgspec

from jetflow.broker.stores.membership import Member
from jetflow.broker.transport.connection import Broker
from jetflow.errors import JetflowError
from jetflow.protocol.subjects import DEFAULT_NAMESPACE


async def heartbeats() -> list[Member]:
    """Return the last heartbeats of workers. The broker drops those that are older than half a minute."""
    broker = await Broker.connect(namespace=os.environ.get("JETFLOW_NAMESPACE", DEFAULT_NAMESPACE), name="healthcheck", timeout=4)
    try:
        names = broker.names
        found = await broker.lane.read_many(names.worker_stream, {"multi_last": [f"{names.worker_prefix}>"]}, may_lag="the next check looks again")
        return [msgspec.json.decode(message.data, type=Member) for message in found if message.data]
    finally:
        await broker.close()


def verdict(members: Iterable[Member], host: str) -> str | None:
    """What is wrong, or None."""
    mine = [member for member in members if member.host == host]
    if not mine:
        return f"no worker on {host} has sent a heartbeat lately"
    if all(member.leaving for member in mine):
        return f"the worker on {host} is leaving"
    return None


def main() -> int:
    try:
        problem = verdict(asyncio.run(heartbeats()), platform.node())
    except JetflowError as error:
        problem = str(error)
    print(problem or "healthy")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
