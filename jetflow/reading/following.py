"""Following a run live: ``WorkflowHandle.watch``.

A watcher reads the timeline. A notice that the state record was written only tells it when to read. All watchers of a workflow in one
client share a subscription, and share the reads that began since the last notice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from jetflow.errors import BrokerUnavailableError, WorkflowNotFoundError
from jetflow.history.build import History
from jetflow.history.event_maker import View
from jetflow.history.execution import HistoryEvent
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.lookups import Lookups
from jetflow.reading.notices import Notices
from jetflow.reading.run_reader import RunReader
from jetflow.reading.shared_reads import FollowedTimeline


async def follow(lookups: Lookups, ref: WorkflowRef, notices: Notices, after: int, view: View) -> AsyncIterator[HistoryEvent]:
    """See ``WorkflowHandle.watch``."""
    timeline = FollowedTimeline(lookups.timeline, lookups.shared_reads, notices)
    reader = RunReader(timeline, ref.queue_token, ref.id_token, ref.run_number())
    history = History(ref.workflow_id, ref.task_queue, view)
    while True:
        try:
            async for recorded in reader.unread():
                for event in history.add(recorded):
                    if event.event_id > after:
                        yield event
            if history.closing is not None:
                return
            if history.first is None:
                await lookups.record(ref)  # raises if there is no such workflow and no stored start
            elif reader.gone:
                raise WorkflowNotFoundError(ref.workflow_id, ref.task_queue, str(reader.run))
        except BrokerUnavailableError:
            pass  # read again, at the latest after the reconnect
        await notices.next()
