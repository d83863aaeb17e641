"""One worker's ownership of some partitions, from the claim until it is over for good.

A tenure is made with its consumer and named like it. It is the only way from a turn to the outside: append, record, publish,
schedule, remove, ack, dead letter. When it is over nothing more is sent under it, no answer that comes later is used, and all that was
received, loaded or counted under it goes with it. What the worker owns afterwards it owns under another tenure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from jetflow.broker.fencing.fence import FencedLane, TenureOverError
from jetflow.broker.stores.owned import OwnedStores
from jetflow.broker.transport.pull import Delivery
from jetflow.engine.commands import Command
from jetflow.engine.ownership.actors import Actors
from jetflow.engine.ownership.outbox import Outbox
from jetflow.engine.ports import DeadLetterStore, Inbox, Records, SignalStore, TaskStore, Timelines, TimerStore, WaitStore
from jetflow.engine.upkeep.compaction import Compaction
from jetflow.errors import BrokerError

if TYPE_CHECKING:
    from jetflow.engine.engine import Engine

log: logging.Logger = logging.getLogger("jetflow.worker")


class Tenure:
    """See the module.

    Args:
        engine: the worker's.
        consumer: what claims the partitions, and gives their commands.
        partitions: which.
        lasts: whether the lease has never been over since the claim began.
        on_over: called once, with the reason, when it is over.

    Attributes:
        name: never used before; the consumer's without the queue.
        over: True once it is over, for good.
        leaving: partitions that another worker is to have: nothing new begins in them.
        position: the highest place in the inbox that is known of; whatever a later owner stores lies behind it.
        early: id tokens that have something in the signals bucket; exact for the partitions owned.
    """

    def __init__(
        self, engine: Engine, consumer: Inbox, partitions: frozenset[int], lasts: Callable[[], bool], on_over: Callable[[str], None]
    ) -> None:
        self.engine = engine
        self.consumer_name: str = consumer.name
        self.name: str = "-".join(consumer.name.split("-")[-2:])
        self.partitions = partitions
        self.over: bool = False
        self.leaving: frozenset[int] = frozenset()
        self.position: int = 0
        self.early: set[str] = set()
        self._consumer = consumer
        self._lasts = lasts
        self._on_over = on_over
        self._why = ""
        self._doubt = 0
        stores = OwnedStores(engine.broker, engine.queue_token, self.name, self, commits=engine.commits_go, records=engine.records_go)
        self.lane: FencedLane = stores.lane
        self.timeline: Timelines = stores.timeline
        self.states: Records = stores.states
        self.signals: SignalStore = stores.signals
        self.timers: TimerStore = stores.timers
        self.waits: WaitStore = stores.waits
        self.tasks: TaskStore = stores.tasks
        self.dead_letters: DeadLetterStore = stores.dead_letters
        self.outbox: Outbox = Outbox(self)
        self.compaction: Compaction = Compaction(self)
        self.actors: Actors = Actors(self)

    # ---- whether it lasts

    def check(self) -> None:
        """Raises TenureOverError unless it lasts at this moment, by the clock of this worker too."""
        if not self.lasts():
            raise TenureOverError(self._why)

    def lose(self, why: str) -> None:
        """It is over, for good; everything that was made under it goes."""
        if self.over:
            return
        self.over, self._why = True, f"tenure {self.name} is over: {why}"
        self._consumer.close()
        self.actors.leave()
        self._on_over(why)

    def lasts(self) -> bool:
        """Whether it lasts at this moment, by the clock of this worker too."""
        if not self.over and not self._lasts():
            self.lose("no heartbeat of ours got through in time")
        return not self.over

    def owns(self, partition: int) -> bool:
        """Whether a partition is this tenure's at this moment."""
        return partition in self.partitions and self.lasts()

    def refill(self) -> None:
        """There may be room for more commands."""
        self._consumer.refill()

    async def delete_consumer(self) -> None:
        """Frees the partitions for other workers."""
        await self._consumer.delete()

    # ---- commands

    async def prepare(self, position: int, doubt: int) -> None:
        """Looks at what must be known before the first command; to be called once it is entered in the registry."""
        self.position, self._doubt = position, doubt
        self.early = await self.signals.known(self.engine.queue_token, self.partitions, self.engine.broker.topology.partitions)

    def deliver(self, delivery: Delivery) -> None:
        """A command has come from the consumer."""
        if not self.over:
            self.saw(delivery.seq)
            self.actors.deliver(delivery)

    def saw(self, position: int) -> None:
        """A place in the inbox is known of."""
        if position > self.position:
            self.position = position

    def is_first_hand(self, command: Command) -> bool:
        """Whether no earlier tenure can have been given this command."""
        return command.delivery.only_by is self._consumer

    def is_in_doubt(self, command: Command) -> bool:
        """Whether an earlier tenure that had to be revoked may have been given this command, so that what it made of it may still come."""
        return command.seq <= self._doubt and not self.is_first_hand(command)

    def ack(self, command: Command) -> None:
        """A command is done with."""
        command.actor.unacked.pop(command.seq, None)
        self.actors.unacked.pop(command.seq, None)
        self.send_ack(command.delivery)

    def send_ack(self, delivery: Delivery) -> None:
        """Tells the consumer; when that gets lost the command comes again."""
        if self.over:
            return
        try:
            self.engine.broker.wire.ack(delivery.reply)
        except BrokerError:
            log.debug("not connected: command %d will come again", delivery.seq)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Keeps a command that nothing can be done with, with the reason, for a person to look at."""
        tokens = delivery.subject.split(".")
        raw = ".".join([tokens[0], *tokens[2:]])
        log.warning("dead letter %s: %s", raw, reason)
        await self.dead_letters.write(raw, delivery.data, delivery.headers, reason, origin=delivery.seq)
