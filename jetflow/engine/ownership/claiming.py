"""How a worker claims and frees partitions: its consumer, its entry in the registry, and the tenure."""

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
        lease: the worker's lease.
        room: returns how many more commands the worker may receive.
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
        self._undeleted: list[str] = []

    async def claimed_by_others(self, alive: set[str]) -> frozenset[int]:
        """Return the partitions that other workers' consumers claim. Delete consumers of dead workers, and old ones of this worker."""
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
        """End the current tenure, and begin another one if ``target`` is not empty. Return False if another worker was faster.

        Args:
            target: the partitions to claim.
            leaving: called after the claim; returns those of them in which nothing new begins.
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
        """Begin a tenure. The consumer prevents other claims. Once the earlier tenures are revoked, what this worker reads cannot change."""
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
            tenure.lose("it could not be written to the registry")
            self._undeleted.append(consumer.name)
            with contextlib.suppress(BrokerError):
                await self.free()
                if not self._undeleted:
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
        self._undeleted.append(tenure.consumer_name)
        await self.free()

    async def free(self) -> None:
        """Delete the consumers of this worker's ended tenures. One that could not be deleted keeps its partitions from all workers, so each
        step tries it again.
        """
        while self._undeleted and self._broker.wire.is_connected:
            try:
                await delete_consumer(self._broker.lane, self._broker.names.inbox_stream, self._undeleted[0])
            except BrokerError as error:
                log.debug("a consumer could not be deleted: %s", error)
                return
            del self._undeleted[0]

    async def sign_off(self, tenure: Tenure) -> None:
        """Remove a tenure that has no write under way from the registry, so that its successor need not revoke it."""
        if not tenure.lane.under_way and not tenure.lane.is_in_doubt and self._broker.wire.is_connected:
            await self._registry.leave(tenure.name)
            await self._epoch.note()
