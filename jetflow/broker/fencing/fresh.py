"""Fresh reads, for decisions that no compare-and-set settles afterwards.

On one server every read is fresh. On replicated streams a follower that lags may answer a direct get, so each direct get says at its call why a
stale answer does no harm (``may_lag=`` of ``Lane.read_many``, ``read_last`` and ``read_data``). All other reads use this module, or ask the leader
for one message (``Lane.last_message``, ``Lane.message``). A follower applies messages in order: if it has the newest message that the leader named,
it has all earlier ones.
"""

from __future__ import annotations

import asyncio

from jetflow.broker.fencing.fence import FencedLane
from jetflow.broker.transport.lane import Lane, StoredMessage
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol import clock

PAGE = 1000
"""Messages read at once. The server returns at most 1,024."""
PAUSE = 0.02
PATIENCE = 5.0
"""Seconds that a follower has to catch up."""
COMPARED = "it is compared with the newest message that the leader named"


async def newest_of_each(lane: Lane | FencedLane, stream: str, subject_filter: str, *, replicated: bool) -> list[StoredMessage]:
    """Return the last message of each subject that a filter matches, in the order of storing. The result is as fresh as the leader's.

    Raises:
        BrokerUnavailableError: no server answered, or a follower did not catch up.
    """
    deadline = clock.monotonic() + PATIENCE
    while True:
        at_least = 0
        if replicated:
            newest = await lane.last_message(stream, subject_filter)
            if newest is None:
                return []
            at_least = newest.seq
        found = await _all(lane, stream, subject_filter)
        if not at_least or (found and found[-1].seq >= at_least):
            return found
        if clock.monotonic() > deadline:
            raise BrokerUnavailableError(f"reading {stream}: the server that answers lags behind the leader")
        await asyncio.sleep(PAUSE)


async def _all(lane: Lane | FencedLane, stream: str, subject_filter: str) -> list[StoredMessage]:
    try:
        found = await lane.read_many(stream, {"multi_last": [subject_filter]}, may_lag=COMPARED)
    except BrokerUnavailableError:
        raise
    except BrokerError:  # too many for one answer
        found = []
        while True:
            start = found[-1].seq + 1 if found else 1
            page = await lane.read_many(stream, {"seq": start, "next_by_subj": subject_filter, "batch": PAGE}, may_lag=COMPARED)
            found += page
            if len(page) < PAGE:
                break
    return sorted(found, key=lambda message: message.seq)
