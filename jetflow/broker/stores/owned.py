"""All stores of one tenure on NATS. Each writes through the tenure's fence."""

from __future__ import annotations

from jetflow.broker.fencing.fence import FencedLane, Hold
from jetflow.broker.fencing.group_commit import Choice
from jetflow.broker.stores.dead_letters import OwnedDeadLetters
from jetflow.broker.stores.signals import OwnedSignals
from jetflow.broker.stores.state import OwnedStates
from jetflow.broker.stores.tasks import OwnedTasks
from jetflow.broker.stores.timeline import OwnedTimeline
from jetflow.broker.stores.timers import Timers
from jetflow.broker.stores.waits import Waits
from jetflow.broker.transport.connection import Broker


class OwnedStores:
    """See the module.

    Args:
        broker: the worker's connection.
        queue_token: the task queue of the partitions.
        tenure: the tenure's name.
        hold: the tenure, for the fence.
        commits, records: whether commits and records go in batches, as measured so far.

    Attributes:
        lane: the tenure's fenced lane, which the stores share.
    """

    def __init__(self, broker: Broker, queue_token: str, tenure: str, hold: Hold, *, commits: Choice, records: Choice) -> None:
        names = broker.names
        lane = FencedLane(broker.lane, names, queue_token, tenure, replicated=broker.topology.replicas > 1, hold=hold)
        self.lane: FencedLane = lane
        self.timeline: OwnedTimeline = OwnedTimeline(lane, names, commits)
        self.states: OwnedStates = OwnedStates(lane, names, records)
        self.signals: OwnedSignals = OwnedSignals(lane, names)
        self.timers: Timers = Timers(lane, names)
        self.waits: Waits = Waits(lane, names, broker.topology.partitions)
        self.tasks: OwnedTasks = OwnedTasks(lane, names)
        self.dead_letters: OwnedDeadLetters = OwnedDeadLetters(lane, names, broker.max_payload)
