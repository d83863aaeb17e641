"""How a worker takes partitions, and frees them: its consumer, its entry in the registry, and the tenure over both."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial

from jetflow.broker.fencing.registry import Registry
from jetflow.broker.stores.membership import Lease
from jetflow.broker.transport.epoch import Epoch
from jetflow.broker.transport.pull import PullConsumer, claimed_partitions, delete_consumer
from jetflow.engine.engine import Engine
from jetflow.engine.ownership.actors import Actors
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.ports import Inbox, Ledger
from jetflow.engine.signals.burying import learn_expiries
from jetflow.errors import BrokerError

log: logging.Logger = logging.getLogger("jetflow.worker")


class Claiming:
    """Claims partitions of one task queue for one worker.

    Args:
        lease: the worker's.
        room: how many more commands may come.
        on_over: called with the reason when a tenure is over.
    """

    def __init__(self, engine: Engine, lease: Lease, *, room: Callable[[], int], on_over: Callable[[str], None]) -> None:
        broker = engine.context.broker
        self._engine = engine
        self._broker = broker
        self._queue_token = engine.context.queue_token
        self._lease = lease
        self._room = room
        self._on_over = on_over
        self._registry: Ledger = Registry(broker.lane, broker.names, self._queue_token, replicated=broker.topology.replicas > 1)
        self._epoch = Epoch(broker.lane, broker.names)

    async def claimed_by_others(self, alive: set[str]) -> frozenset[int]:
        """Return the partitions with another's consumer. Delete consumers of workers that are gone, and those that this one has left behind."""
        tenure = self._engine.tenure
        mine = tenure.consumer_name if tenure is not None and not tenure.over else None
        claimed: set[int] = set()
        for name, partitions in (await claimed_partitions(self._broker.lane, self._broker.names, self._queue_token)).items():
            if name == mine:
                continue
            owner = name.split("-")[1] if name.count("-") >= 2 else ""
            if owner in alive:
                claimed |= partitions
            else:
                log.info("taking over %d partitions of worker %s, which is gone", len(partitions), owner)
                await delete_consumer(self._broker.lane, self._broker.names.inbox_stream, name)
        return frozenset(claimed)

    async def claim(self, target: frozenset[int], leaving: Callable[[], frozenset[int]]) -> bool:
        """End the tenure that there is, and begin another over some partitions, if any. Return False if another worker was faster.

        Args:
            target: the partitions.
            leaving: those of them, once they are claimed, in which nothing new is to begin.
        """
        term = self._lease.term
        if self._engine.tenure is not None:
            await self.end(self._engine.tenure)
        if not target:
            return True
        owner = f"{self._queue_token.replace('-', '=2D')}-{self._engine.context.worker_id}"
        consumer: Inbox = PullConsumer(self._broker.lane, self._broker.names, owner, room=self._room)
        if not await consumer.create(target, self._queue_token):
            return False
        await self._begin(consumer, target, term, leaving)
        return True

    async def _begin(self, consumer: Inbox, target: frozenset[int], term: int, leaving: Callable[[], frozenset[int]]) -> None:
        """The consumer keeps others from claiming; once earlier tenures are revoked, what is read stays as it is."""
        engine = self._engine
        tenure = Tenure(engine.context, consumer, target, partial(self._lease.lasts, term))
        actors = Actors(engine.services, tenure)
        tenure.on_over.append(self._on_over)
        consumer.give_to(actors.deliver, tenure.lose)
        try:
            since = await self._epoch.check(consumer.origin)
            taken = await self._registry.take(tenure.name, target, consumer.born_at)
            await tenure.prepare(max(taken.position, consumer.born_at), taken.doubt, since)
        except BaseException:
            tenure.lose("it could not be entered in the registry")
            if self._broker.wire.is_connected:
                with contextlib.suppress(BrokerError):
                    await consumer.delete()
                    await self._registry.leave(tenure.name)  # nothing was written under it
            raise
        tenure.leave(leaving())
        engine.own(tenure, actors)
        if tenure.all_early():
            engine.context.background.spawn(learn_expiries(tenure))
        engine.services.inflight.claimed(target)
        consumer.begin()

    async def end(self, tenure: Tenure) -> None:
        """Free the partitions of a tenure for others."""
        tenure.lose("its partitions change")
        self._engine.disown()
        if self._broker.wire.is_connected:
            try:
                await tenure.delete_consumer()
            except BrokerError as error:
                log.debug("consumer left behind: %s", error)

    async def sign_off(self, tenure: Tenure) -> None:
        """Take a tenure that has nothing under way out of the registry, so that its successor need not revoke it."""
        if not tenure.lane.under_way and not tenure.lane.is_in_doubt and self._broker.wire.is_connected:
            await self._registry.leave(tenure.name)
            await self._epoch.note()
