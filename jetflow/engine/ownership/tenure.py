"""One worker's ownership of some partitions, from the claim until it is over for good.

A tenure is created with its consumer and named like it. It is the only way from a turn to the outside: append, record, publish, schedule, remove,
ack, dead letter. When it is over, nothing is sent under it, no later answer is used, and everything that was received, loaded or counted under it
is dropped. The worker then claims partitions under another tenure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from jetflow.broker.fencing.fence import FencedLane, TenureOverError
from jetflow.broker.stores.owned import OwnedStores
from jetflow.broker.transport.pull import Delivery
from jetflow.core.log_fields import of_subject
from jetflow.engine.commands import Command
from jetflow.engine.context import Context
from jetflow.engine.ownership.outbox import Outbox
from jetflow.engine.ports import DeadLetterStore, Inbox, Records, SignalStore, TaskStore, Timelines, TimerStore, WaitStore
from jetflow.engine.signals.lapses import Lapses
from jetflow.engine.upkeep.compaction import Compaction
from jetflow.errors import BrokerError

log: logging.Logger = logging.getLogger("jetflow.worker")

NO_HEARTBEAT = "no heartbeat of this worker got through in time"


class Tenure:
    """See the module.

    Args:
        context: the worker's context.
        consumer: claims the partitions, and delivers their commands.
        partitions: the partitions of the tenure.
        lasts: returns whether the lease has lasted since the claim began.

    Attributes:
        name: the consumer's name without the queue; never reused.
        over: whether the tenure is over, for good.
        on_over: called once each, in order and with the reason, when the tenure is over.
        leaving: partitions that are about to move to another worker; nothing new begins in them.
        position: the highest known position of the inbox; everything that a later owner stores lies behind it.
        lapses: when signals expire that no wait has taken.
        since: commits whose cause lies before this position were made with another inbox, and their effects may be gone.
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
        """Raise TenureOverError unless the tenure lasts at this moment, by this worker's clock too."""
        if self.over or not self._lasts():
            self.lose(NO_HEARTBEAT)
            raise TenureOverError(self._why)

    def lose(self, why: str) -> None:
        """End the tenure for good, and drop everything under it."""
        if self.over:
            return
        self.over, self._why = True, f"tenure {self.name} is over: {why}"
        self._consumer.close()
        for tell in self.on_over:
            tell(why)

    def lasts(self) -> bool:
        """Return whether the tenure lasts at this moment, by this worker's clock too."""
        if not self.over and not self._lasts():
            self.lose(NO_HEARTBEAT)
        return not self.over

    def owns(self, partition: int) -> bool:
        """Return whether this tenure owns a partition at this moment."""
        return partition in self.partitions and self.lasts()

    def leave(self, partitions: frozenset[int]) -> None:
        """Begin nothing new in exactly these partitions."""
        self.leaving: frozenset[int] = partitions

    def refill(self) -> None:
        """Ask for more commands, if there is room."""
        self._consumer.refill()

    # ---- commands

    async def prepare(self, position: int, doubt: int, since: int = 0) -> None:
        """Read what the tenure needs before the first command. Call it once the tenure is in the registry."""
        self.position, self._doubt, self.since = position, doubt, since
        self._early = await self.signals.known(self.context.queue_token, self.partitions, self.context.broker.topology.partitions)

    def has_early(self, id_token: str) -> bool:
        """Return whether a workflow has something in the signals bucket. Exact for the partitions of the tenure."""
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
        """Note a position of the inbox."""
        if position > self.position:
            self.position = position

    def is_first_hand(self, command: Command) -> bool:
        """Return whether no earlier tenure can have received this command."""
        return command.delivery.only_by is self._consumer

    def is_in_doubt(self, command: Command) -> bool:
        """Return whether a revoked tenure may have received this command, so that its writes for it may arrive late."""
        return command.seq <= self._doubt and not self.is_first_hand(command)

    @property
    def unacked(self) -> int:
        """Return the number of un-acked commands, without those of parked workflows."""
        return len(self._unacked)

    def take_credit(self, seq: int) -> None:
        """Count a command as un-acked."""
        self._unacked.add(seq)

    def free_credit(self, seqs: Iterable[int]) -> None:
        """Stop counting these commands."""
        self._unacked.difference_update(seqs)

    def ack(self, delivery: Delivery) -> None:
        """Ack a command and stop counting it."""
        self._unacked.discard(delivery.seq)
        self.send_ack(delivery)

    def send_ack(self, delivery: Delivery) -> None:
        """Send an ack. If it gets lost, the command comes again."""
        if self.over:
            return
        try:
            self.context.broker.wire.ack(delivery.reply)
        except BrokerError:
            log.debug("not connected: command %d will come again", delivery.seq)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Store a command that cannot be applied, with the reason, for people to look at."""
        tokens = delivery.subject.split(".")
        raw = ".".join([tokens[0], *tokens[2:]])
        log.warning("dead letter %s: %s", raw, reason, extra=of_subject(raw))
        await self.dead_letters.write(raw, delivery.data, delivery.headers, reason, origin=delivery.seq)
