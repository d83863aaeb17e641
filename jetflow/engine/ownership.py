"""Which partitions this worker owns, and whether that is sure at this moment.

Every worker computes from the same heartbeats who should own what (rendezvous hashing). The broker refuses two consumers
with a partition in common, which is what makes an owner the only one. A worker that should own more waits until the others
have let go; one that should own less finishes what it is doing, and lets go.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable

from jetflow.broker.connection import Broker
from jetflow.broker.membership import Heart, Member, Members
from jetflow.broker.pull import Delivery, PullConsumer, claimed_partitions, delete_consumer
from jetflow.core import clock
from jetflow.core.ids import to_token
from jetflow.errors import BrokerError, BrokerUnavailableError

log = logging.getLogger("jetflow.worker")

LOOK_EVERY = 0.25
RETRY_CLAIM = 0.1
RETRY_OPEN = 1.0
RECONNECT_GRACE = 1.0
"""Seconds after a reconnect in which the silence of others means nothing."""


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
        broker: the worker's connection.
        heart: its heartbeat.
        member: what it tells of itself.
        room: how many more commands may come.
        on_delivery: gets every command.
        before_begin: called with newly claimed partitions before their commands come.
        release: called with partitions to let go; returns when their actors have come to rest.
    """

    def __init__(
        self,
        broker: Broker,
        heart: Heart,
        member: Member,
        *,
        room: Callable[[], int],
        on_delivery: Callable[[Delivery], None],
        before_begin: Callable[[frozenset[int]], Awaitable[None]],
        release: Callable[[frozenset[int], bool], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._heart = heart
        self._member = member
        self._room = room
        self._on_delivery = on_delivery
        self._before_begin = before_begin
        self._release = release
        self._queue_token = to_token(member.task_queue)
        self._members = Members(broker.lane, broker.names, member.task_queue, member.worker_id, self._changed)
        self._consumer: PullConsumer | None = None
        self._owned: frozenset[int] = frozenset()
        self._sure = False
        self._term = 0
        self._wake = asyncio.Event()
        self._settled = asyncio.Condition()
        self._grace_until = 0.0
        self._stopping = False

    @property
    def partitions(self) -> frozenset[int]:
        """What is owned now."""
        return self._owned

    @property
    def members(self) -> list[Member]:
        """Every live worker of the task queue, this one included."""
        return [self._member, *self._members.alive().values()]

    def check(self, partition: int) -> None:
        """Raises BrokerUnavailableError unless this worker surely owns the partition at this moment."""
        if not self._sure or partition not in self._owned:
            raise BrokerUnavailableError(f"partition {partition} is being claimed again")
        if not self._holds_lease():
            self._doubt("no heartbeat of ours got through in time")
            raise BrokerUnavailableError("this worker's lease is over")

    def _holds_lease(self) -> bool:
        """Whether the lease under which the partitions were claimed has never been over since."""
        return self._heart.lease.valid and self._heart.lease.term == self._term

    def is_first_to_get(self, delivery: Delivery) -> bool:
        """Whether no worker ever got a command before, nor can get it until this one's lease is over."""
        return delivery.only_by is not None and delivery.only_by is self._consumer and self._sure and self._holds_lease()

    async def settled(self, partition: int) -> bool:
        """Waits while ownership is in doubt; then whether the partition is ours."""
        async with self._settled:
            await self._settled.wait_for(lambda: self._sure or self._stopping)
        return partition in self._owned and not self._stopping

    def refill(self) -> None:
        """There may be room for more commands."""
        if self._consumer is not None:
            self._consumer.refill()

    async def run(self) -> None:
        """Keeps what is owned in step with who is alive, until cancelled."""
        self._broker.wire.on_disconnect.append(self._on_disconnect)
        self._broker.wire.on_reconnect.append(self._on_reconnect)
        self._heart.on_lease = self._on_lease
        while not await self._open_members():
            await asyncio.sleep(RETRY_OPEN)
        self._changed()
        while True:
            with contextlib.suppress(TimeoutError):
                # not wait_for, which in Python 3.11 may lose the cancellation that is the worker's stop
                async with asyncio.timeout(LOOK_EVERY):
                    await self._wake.wait()
            if clock.monotonic() > self._grace_until:
                self._members.look()
            else:
                self._members.forgive()
            self._wake.clear()
            try:
                if self._broker.wire.is_connected:
                    await self._step()
            except BrokerError as error:
                log.warning("claiming partitions of %s: %s", self._member.task_queue, error)
                await asyncio.sleep(0.25)
                self._changed()

    async def _open_members(self) -> bool:
        try:
            await self._members.open()
        except BrokerError as error:
            log.warning("the workers of %s cannot be listed yet: %s", self._member.task_queue, error)
            self._members.close()
            return False
        return True

    async def stop(self) -> None:
        """Lets everything go, so that others can take over at once."""
        self._stopping = True
        for callbacks, callback in ((self._broker.wire.on_disconnect, self._on_disconnect), (self._broker.wire.on_reconnect, self._on_reconnect)):
            if callback in callbacks:
                callbacks.remove(callback)
        self._members.close()
        await self._let_go(self._owned)
        async with self._settled:
            self._settled.notify_all()

    # ---- one step towards what should be

    async def _step(self) -> None:
        wanted = self._wanted()
        if self._sure and wanted == self._owned:
            return
        if not self._sure:
            await self._claim_again(wanted)
            return
        losing = self._owned - wanted
        if losing:
            await self._release(frozenset(losing), False)
        taken = await self._taken_by_others()
        target = wanted - taken
        if target != self._owned:
            await self._replace_consumer(target)
        if wanted - self._owned:
            asyncio.get_running_loop().call_later(RETRY_CLAIM, self._changed)

    async def _claim_again(self, wanted: frozenset[int]) -> None:
        """After doubt: claims what is wanted and free, in place of a consumer that can no longer be trusted."""
        if not self._heart.lease.valid:
            return  # tried again when it begins
        taken = await self._taken_by_others()
        await self._replace_consumer(wanted - taken)
        if wanted - self._owned:
            asyncio.get_running_loop().call_later(RETRY_CLAIM, self._changed)

    def _wanted(self) -> frozenset[int]:
        if self._stopping:
            return frozenset()
        able = {member.worker_id for member in eligible(self.members)}
        return frozenset(assign(self._broker.topology.partitions, able).get(self._member.worker_id, set()))

    async def _taken_by_others(self) -> frozenset[int]:
        """Partitions with another's consumer. Consumers of workers that are gone are deleted."""
        mine = self._consumer.name if self._consumer is not None else None
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

    async def _replace_consumer(self, target: frozenset[int]) -> None:
        self._sure, self._term = False, self._heart.lease.term
        old, self._consumer = self._consumer, None
        if old is not None:
            await old.delete()
        gone = self._owned - target
        self._owned = frozenset()
        if gone:
            await self._release(frozenset(gone), True)
        if target:
            consumer = self._new_consumer()
            if not await consumer.create(target, self._queue_token):
                log.info("somebody else was faster to claim a partition of %s; looking again", self._member.task_queue)
                asyncio.get_running_loop().call_later(RETRY_CLAIM, self._changed)
                return
            self._consumer = consumer
            await self._before_begin(target)
        self._owned, self._sure = target, True
        async with self._settled:
            self._settled.notify_all()
        if self._consumer is not None:
            self._consumer.begin()
        self._tell()
        log.info(
            "worker %s owns %d of %d partitions of %s", self._member.worker_id, len(target), self._broker.topology.partitions, self._member.task_queue
        )

    def _new_consumer(self) -> PullConsumer:
        owner = f"{self._queue_token.replace('-', '=2D')}-{self._member.worker_id}"
        return PullConsumer(self._broker.lane, self._broker.names, owner, room=self._room, on_delivery=self._on_delivery, on_lost=self._doubt)

    async def _let_go(self, partitions: frozenset[int]) -> None:
        if partitions:
            await self._release(partitions, False)
        self._sure = False
        consumer, self._consumer = self._consumer, None
        if consumer is not None and self._broker.wire.is_connected:
            try:
                await consumer.delete()
            except BrokerError as error:
                log.debug("consumer left behind: %s", error)
        elif consumer is not None:
            consumer.close()
        self._owned = frozenset()

    def _tell(self) -> None:
        self._member.version += 1
        self._member.partitions = len(self._owned)
        self._heart.tell(self._member)

    # ---- doubt

    def _doubt(self, why: str) -> None:
        if self._sure:
            log.info("worker %s claims its partitions again: %s", self._member.worker_id, why)
            self._sure = False
            self._changed()

    def _on_lease(self) -> None:
        self._doubt("its lease was over")
        self._changed()

    def _on_disconnect(self) -> None:
        self._doubt("disconnected")

    def _on_reconnect(self) -> None:
        self._grace_until = clock.monotonic() + RECONNECT_GRACE
        self._doubt("reconnected")
        self._changed()

    def _changed(self) -> None:
        self._wake.set()
