"""Which partitions this worker owns: one tenure after the other, in step with who is alive.

Every worker computes from the same heartbeats who should own what (rendezvous hashing). The broker refuses two consumers
with a partition in common, so that one worker at a time can claim it; the fence keeps out whatever an earlier owner still sends. A worker
that should own more waits until the others have let go; one that should own less finishes what it is doing, and lets go. Meanwhile
everything else goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.fencing.registry import Registry
from jetflow.broker.stores.membership import Heart, Member, Members
from jetflow.broker.transport.pull import PullConsumer, claimed_partitions, delete_consumer
from jetflow.engine.engine import Engine
from jetflow.engine.ownership.actors import Actors
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.ports import Inbox, Ledger
from jetflow.errors import BrokerError
from jetflow.protocol import clock

log: logging.Logger = logging.getLogger("jetflow.worker")

LOOK_EVERY = 0.25
LOOK_AT_LEAVING = 0.02
"""Seconds between two looks whether partitions that are to be let go have come to rest."""
RETRY_CLAIM = 0.1
RETRY_OPEN = 1.0
TROUBLE = 0.25
RECONNECT_GRACE = 1.0
"""Seconds after a reconnect in which the silence of others means nothing."""
COMPACTION_GRACE = 5
"""Seconds for what has ended to become one timeline key before the worker goes."""
LAST_WRITES = 1.0
"""Seconds in which what a tenure has sent is answered, for it to need no revocation."""


def assign(partitions: int, members: Iterable[str]) -> dict[str, set[int]]:
    """Rendezvous hashing: each partition goes to the member with the highest hash of both."""
    ids = sorted(members)
    shares: dict[str, set[int]] = {member: set() for member in ids}
    for partition in range(partitions):
        winner = max(ids, key=lambda member: hashlib.blake2b(f"{member}/{partition}".encode(), digest_size=8).digest())
        shares[winner].add(partition)
    return shares


def eligible(members: Iterable[Member]) -> list[Member]:
    """Members that may own partitions: those whose workflow types are not a mere part of another's, as in a rolling upgrade."""
    everyone = list(members)
    return [member for member in everyone if not any(set(member.workflows) < set(other.workflows) for other in everyone)]


class Ownership:
    """The partitions of one worker.

    Args:
        engine: the worker's; its ``tenure`` is what is owned.
        heart: its heartbeat.
        member: what it tells of itself.
        room: how many more commands may come.
        grace: seconds that activities may go on in partitions that are let go.
    """

    def __init__(self, engine: Engine, heart: Heart, member: Member, *, room: Callable[[], int], grace: float) -> None:
        broker = engine.context.broker
        self._engine = engine
        self._queue_token = engine.context.queue_token
        self._broker = broker
        self._heart = heart
        self._member = member
        self._room = room
        self._grace = grace
        self._members = Members(broker.lane, broker.names, member.task_queue, member.worker_id, self._changed)
        self._registry: Ledger = Registry(broker.lane, broker.names, self._queue_token, replicated=broker.topology.replicas > 1)
        self._wake = asyncio.Event()
        self._grace_until = 0.0
        self._leaving_until: float | None = None
        self._stopping = False
        self._assigned: tuple[frozenset[str], frozenset[int]] = (frozenset(), frozenset())

    @property
    def partitions(self) -> frozenset[int]:
        """What is owned now."""
        tenure = self._tenure
        return tenure.partitions if tenure is not None else frozenset()

    @property
    def _tenure(self) -> Tenure | None:
        """The one that lasts."""
        tenure = self._engine.tenure
        return None if tenure is None or tenure.over else tenure

    @property
    def members(self) -> list[Member]:
        """Every live worker of the task queue, this one included."""
        return [self._member, *self._members.alive().values()]

    def refill(self) -> None:
        """There may be room for more commands."""
        tenure = self._tenure
        if tenure is not None:
            tenure.refill()

    async def run(self) -> None:
        """Keeps what is owned in step with who is alive, until cancelled."""
        self._attach()
        try:
            while not await self._open_members():
                await asyncio.sleep(RETRY_OPEN)
            self._changed()
            while True:
                await self._next_look()
                try:
                    if self._broker.wire.is_connected:
                        await self._step()
                except TenureOverError:
                    self._changed()
                except BrokerError as error:
                    log.warning("claiming partitions of %s: %s", self._member.task_queue, error)
                    await asyncio.sleep(TROUBLE)
                    self._changed()
        finally:
            self._detach()

    def _attach(self) -> None:
        self._broker.wire.on_disconnect.append(self._on_disconnect)
        self._broker.wire.on_reconnect.append(self._on_reconnect)
        self._heart.on_lease = self._on_lease

    def _detach(self) -> None:
        for callbacks, callback in ((self._broker.wire.on_disconnect, self._on_disconnect), (self._broker.wire.on_reconnect, self._on_reconnect)):
            if callback in callbacks:
                callbacks.remove(callback)
        self._members.close()

    async def _open_members(self) -> bool:
        try:
            await self._members.open()
        except BrokerError as error:
            log.warning("the workers of %s cannot be listed yet: %s", self._member.task_queue, error)
            self._members.close()
            return False
        return True

    async def _next_look(self) -> None:
        with contextlib.suppress(TimeoutError):
            # not wait_for, which in Python 3.11 may lose the cancellation that is the worker's stop
            async with asyncio.timeout(LOOK_EVERY):
                await self._wake.wait()
        self._wake.clear()
        if clock.monotonic() > self._grace_until:
            self._members.look()
        else:
            self._members.forgive()

    async def stop(self) -> None:
        """Lets everything go, once it has come to rest or the grace is over, so that others can take over at once."""
        self._stopping = True
        tenure = self._tenure
        if tenure is None:
            return
        tenure.leave(tenure.partitions)
        deadline = clock.monotonic() + self._grace
        while not tenure.over and not self._are_quiet(tenure.partitions) and clock.monotonic() < deadline:
            await asyncio.sleep(LOOK_AT_LEAVING)
        if not tenure.over:
            await tenure.compaction.emptied(COMPACTION_GRACE)
        await self._end(tenure)
        deadline = clock.monotonic() + LAST_WRITES
        while tenure.lane.under_way and clock.monotonic() < deadline:
            await asyncio.sleep(LOOK_AT_LEAVING)
        if not tenure.lane.under_way and not tenure.lane.is_in_doubt and self._broker.wire.is_connected:
            await self._registry.leave(tenure.name)

    # ---- one step towards what should be

    async def _step(self) -> None:
        """Claims what is to be owned and free, and lets go what is not and has come to rest."""
        if not self._heart.lease.valid or self._stopping:
            return  # tried again when it begins
        tenure, wanted = self._tenure, self._wanted()
        owned = self.partitions
        returning = frozenset() if tenure is None else tenure.leaving & wanted  # what was put off in them begins with another tenure
        keep = owned if tenure is None else owned & wanted | self._still_leaving(tenure, owned - wanted)
        if tenure is not None and keep == owned and wanted <= owned and not returning:
            return
        target = keep | wanted
        if target - owned or (tenure is None and target):
            target -= await self._taken_by_others()
        if tenure is None or tenure.over or target != owned or returning:
            await self._claim(target)
        if wanted - self.partitions:
            asyncio.get_running_loop().call_later(RETRY_CLAIM, self._changed)

    def _still_leaving(self, tenure: Tenure, leaving: frozenset[int]) -> frozenset[int]:
        """Those partitions that are to be let go and have not come to rest: all of them, or none any more."""
        tenure.leave(leaving)
        if not leaving:
            self._leaving_until = None
            return leaving
        now = clock.monotonic()
        if self._leaving_until is None:
            self._leaving_until = now + self._grace
        if self._are_quiet(leaving) or now >= self._leaving_until:
            return frozenset()
        asyncio.get_running_loop().call_later(LOOK_AT_LEAVING, self._changed)
        return leaving

    def _are_quiet(self, partitions: frozenset[int]) -> bool:
        """Whether nothing is under way in some partitions, nor goes on there until a tenure that has just begun has loaded its workflow."""
        actors, inflight = self._engine.actors, self._engine.services.inflight
        return (actors is None or actors.are_quiet(partitions)) and not inflight.has_orphans(partitions)

    def _wanted(self) -> frozenset[int]:
        able = frozenset(member.worker_id for member in eligible(self.members))
        if self._assigned[0] != able:
            share = assign(self._broker.topology.partitions, able).get(self._member.worker_id, set())
            self._assigned = (able, frozenset(share))
        return self._assigned[1]

    async def _taken_by_others(self) -> frozenset[int]:
        """Partitions with another's consumer. Consumers of workers that are gone are deleted, and those that this one has left behind."""
        tenure = self._tenure
        mine = tenure.consumer_name if tenure is not None else None
        alive = set(self._members.alive())
        taken: set[int] = set()
        for name, partitions in (await claimed_partitions(self._broker.lane, self._broker.names, self._queue_token)).items():
            if name == mine:
                continue
            owner = name.split("-")[1] if name.count("-") >= 2 else ""
            if owner in alive:
                taken |= partitions
            else:
                log.info("taking over %d partitions of worker %s, which is gone", len(partitions), owner)
                await delete_consumer(self._broker.lane, self._broker.names.inbox_stream, name)
        return frozenset(taken)

    async def _claim(self, target: frozenset[int]) -> None:
        """Ends the tenure that there is, and begins another over what is to be owned."""
        engine, term = self._engine, self._heart.lease.term
        if engine.tenure is not None:
            await self._end(engine.tenure)
        if target:
            consumer = self._new_consumer()
            if not await consumer.create(target, self._queue_token):
                log.info("somebody else was faster to claim a partition of %s; looking again", self._member.task_queue)
                asyncio.get_running_loop().call_later(RETRY_CLAIM, self._changed)
                return
            await self._begin(consumer, target, term)
        if not target and not self._member.partitions:
            return  # as the others know: each change that is told has all of them look again
        self._tell()
        log.info(
            "worker %s owns %d of %d partitions of %s", self._member.worker_id, len(target), self._broker.topology.partitions, self._member.task_queue
        )

    async def _begin(self, consumer: Inbox, target: frozenset[int], term: int) -> None:
        """The consumer keeps others from claiming; once earlier tenures are revoked, what is read stays as it is."""
        engine, lease = self._engine, self._heart.lease
        tenure = Tenure(engine.context, consumer, target, lambda: lease.lasts(term))
        actors = Actors(engine.services, tenure)
        tenure.on_over.append(self._on_over)
        consumer.give_to(actors.deliver, tenure.lose)
        try:
            taken = await self._registry.take(tenure.name, target, consumer.born_at)
            await tenure.prepare(max(taken.position, consumer.born_at), taken.doubt)
        except BaseException:
            tenure.lose("it could not be entered in the registry")
            if self._broker.wire.is_connected:
                with contextlib.suppress(BrokerError):
                    await consumer.delete()
                    await self._registry.leave(tenure.name)  # nothing was written under it
            raise
        engine.own(tenure, actors)
        tenure.leave(target - self._wanted())
        if not tenure.leaving:
            self._leaving_until = None  # else the grace goes on
        engine.services.inflight.claimed(target)
        consumer.begin()

    def _new_consumer(self) -> Inbox:
        owner = f"{self._queue_token.replace('-', '=2D')}-{self._member.worker_id}"
        return PullConsumer(self._broker.lane, self._broker.names, owner, room=self._room)

    async def _end(self, tenure: Tenure) -> None:
        """Frees its partitions for others."""
        tenure.lose("its partitions change")
        self._engine.disown()
        if self._broker.wire.is_connected:
            try:
                await tenure.delete_consumer()
            except BrokerError as error:
                log.debug("consumer left behind: %s", error)

    def _tell(self) -> None:
        self._member.version += 1
        self._member.partitions = len(self.partitions)
        self._heart.tell(self._member)

    # ---- what happens

    def _lose(self, why: str) -> None:
        tenure = self._tenure
        if tenure is not None:
            tenure.lose(why)

    def _on_over(self, why: str) -> None:
        log.log(logging.DEBUG if self._stopping else logging.INFO, "worker %s claims its partitions again: %s", self._member.worker_id, why)
        self._changed()

    def _on_lease(self) -> None:
        self._lose("its lease was over")
        self._changed()

    def _on_disconnect(self) -> None:
        self._lose("disconnected")

    def _on_reconnect(self) -> None:
        self._grace_until = clock.monotonic() + RECONNECT_GRACE
        self._lose("reconnected")
        self._changed()

    def _changed(self) -> None:
        self._wake.set()
