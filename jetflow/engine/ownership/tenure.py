"""One worker's ownership of some partitions, from the claim until it is over for good.

A tenure is made with its consumer and named like it. It is the only way from a turn to the outside: append, record, publish,
schedule, remove, ack, dead letter. When it is over nothing more is sent under it, no answer that comes later is used, and all that was
received, loaded or counted under it goes with it. What the worker owns afterwards it owns under another tenure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from jetflow.broker.fencing.fence import FencedLane, TenureOverError
from jetflow.broker.stores.owned import OwnedStores
from jetflow.broker.transport.pull import Delivery
from jetflow.engine.commands import Command
from jetflow.engine.context import Context
from jetflow.engine.ownership.outbox import Outbox
from jetflow.engine.ports import DeadLetterStore, Inbox, Records, SignalStore, TaskStore, Timelines, TimerStore, WaitStore
from jetflow.engine.signals.lapses import Lapses
from jetflow.engine.upkeep.compaction import Compaction
from jetflow.errors import BrokerError

log: logging.Logger = logging.getLogger("jetflow.worker")

NO_HEARTBEAT = "no heartbeat of ours got through in time"


class Tenure:
    """See the module.

    Args:
        context: the worker's.
        consumer: what claims the partitions, and gives their commands.
        partitions: which.
        lasts: whether the lease has never been over since the claim began.

    Attributes:
        name: never used before; the consumer's without the queue.
        over: True once it is over, for good.
        on_over: called once, in order and with the reason, when it is over.
        leaving: partitions that another worker is to have: nothing new begins in them.
        position: the highest place in the inbox that is known of; whatever a later owner stores lies behind it.
        lapses: when signals expire that no wait has taken.
        since: commits of causes before this position were made with another inbox, and what followed from them may be gone.
    """

    def __init__(self, context: Context, consumer: Inbox, partitions: frozenset[int], lasts: Callable[[], bool]) -> None:
        self.context = context
        self.consumer_name: str = consumer.name
        self.name: str = "-".join(consumer.name.split("-")[-2:])
        self.partitions = partitions
        self.over: bool = False
        self.on_over: list[Callable[[str], None]] = []
        self.leaving: frozenset[int] = frozenset()
        self.position: int = 0
        self.since: int = 0
        self._early: set[str] = set()
        self.lapses: Lapses = Lapses()
        self._consumer = consumer
        self._lasts = lasts
        self._why = ""
        self._doubt = 0
        self._unacked: set[int] = set()
        stores = OwnedStores(context.broker, context.queue_token, self.name, self, commits=context.commits_go, records=context.records_go)
        self.lane: FencedLane = stores.lane
        self.timeline: Timelines = stores.timeline
        self.states: Records = stores.states
        self.signals: SignalStore = stores.signals
        self.timers: TimerStore = stores.timers
        self.waits: WaitStore = stores.waits
        self.tasks: TaskStore = stores.tasks
        self.dead_letters: DeadLetterStore = stores.dead_letters
        self.outbox: Outbox = Outbox(context, self.lane)
        self.compaction: Compaction = Compaction(context, self.timeline, lambda: self.over)

    # ---- whether it lasts

    def check(self) -> None:
        """Raise TenureOverError unless it lasts at this moment, by the clock of this worker too."""
        if self.over or not self._lasts():
            self.lose(NO_HEARTBEAT)
            raise TenureOverError(self._why)

    def lose(self, why: str) -> None:
        """End it, for good. Everything that was made under it goes."""
        if self.over:
            return
        self.over, self._why = True, f"tenure {self.name} is over: {why}"
        self._consumer.close()
        for tell in self.on_over:
            tell(why)

    def lasts(self) -> bool:
        """Return whether it lasts at this moment, by the clock of this worker too."""
        if not self.over and not self._lasts():
            self.lose(NO_HEARTBEAT)
        return not self.over

    def owns(self, partition: int) -> bool:
        """Return whether a partition is this tenure's at this moment."""
        return partition in self.partitions and self.lasts()

    def leave(self, partitions: frozenset[int]) -> None:
        """Begin nothing new in these partitions, and in these alone."""
        self.leaving: frozenset[int] = partitions

    def refill(self) -> None:
        """Ask for more commands, if there is room."""
        self._consumer.refill()

    async def delete_consumer(self) -> None:
        """Free the partitions for other workers."""
        await self._consumer.delete()

    # ---- commands

    async def prepare(self, position: int, doubt: int, since: int = 0) -> None:
        """Look at what must be known before the first command; to be called once the tenure is in the registry."""
        self.position, self._doubt, self.since = position, doubt, since
        self._early = await self.signals.known(self.context.queue_token, self.partitions, self.context.broker.topology.partitions)

    def has_early(self, id_token: str) -> bool:
        """Return whether a workflow has something in the signals bucket; exact for the partitions owned."""
        return id_token in self._early

    def all_early(self) -> list[str]:
        """Return the workflows that have something in the signals bucket."""
        return sorted(self._early)

    def note_early(self, id_token: str, *, kept: bool) -> None:
        """Note whether a workflow may have something in the signals bucket."""
        if kept:
            self._early.add(id_token)
        else:
            self._early.discard(id_token)

    def saw(self, position: int) -> None:
        """Note that a place in the inbox is known of."""
        if position > self.position:
            self.position = position

    def is_first_hand(self, command: Command) -> bool:
        """Return whether no earlier tenure can have been given this command."""
        return command.delivery.only_by is self._consumer

    def is_in_doubt(self, command: Command) -> bool:
        """Return whether an earlier tenure that had to be revoked may have been given this command, so that what it made of it may still come."""
        return command.seq <= self._doubt and not self.is_first_hand(command)

    @property
    def unacked(self) -> int:
        """Commands that were received and not acked, apart from those of parked workflows."""
        return len(self._unacked)

    def take_credit(self, seq: int) -> None:
        """Count a command among those that leave less room for others."""
        self._unacked.add(seq)

    def free_credit(self, seqs: Iterable[int]) -> None:
        """Count these commands no more."""
        self._unacked.difference_update(seqs)

    def ack(self, delivery: Delivery) -> None:
        """Be done with a command."""
        self._unacked.discard(delivery.seq)
        self.send_ack(delivery)

    def send_ack(self, delivery: Delivery) -> None:
        """Tell the consumer. When that gets lost the command comes again."""
        if self.over:
            return
        try:
            self.context.broker.wire.ack(delivery.reply)
        except BrokerError:
            log.debug("not connected: command %d will come again", delivery.seq)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Keep a command that nothing can be done with, with the reason, for a person to look at."""
        tokens = delivery.subject.split(".")
        raw = ".".join([tokens[0], *tokens[2:]])
        log.warning("dead letter %s: %s", raw, reason)
        await self.dead_letters.write(raw, delivery.data, delivery.headers, reason, origin=delivery.seq)
