"""Which partitions this worker owns: one tenure after the other, in step with who is alive.

Every worker computes from the same heartbeats who should own what (rendezvous hashing). The broker refuses two consumers
with a partition in common, so that one worker at a time can claim it; the fence keeps out whatever an earlier owner still sends. A worker
that should own more waits until the others have let go; one that should own less finishes what it is doing, and lets go. Meanwhile
everything else goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.membership import Heart, Member, Members
from jetflow.engine.engine import Engine
from jetflow.engine.ownership.claiming import Claiming
from jetflow.engine.ownership.sharing import assign, eligible
from jetflow.engine.ownership.tenure import Tenure
from jetflow.errors import BrokerError, TopologyError
from jetflow.protocol import clock

log: logging.Logger = logging.getLogger("jetflow.worker")

LOOK_EVERY = 0.25
LOOK_AT_LEAVING = 0.02
"""Seconds between two looks whether partitions that are to be let go have come to rest."""
RETRY_CLAIM = 0.1
RETRY_OPEN = 1.0
TROUBLE = 0.25
REFUSED = 5.0
"""Seconds between two tries to claim partitions of an inbox that must not be used."""
RECONNECT_GRACE = 1.0
"""Seconds after a reconnect in which the silence of others means nothing."""
COMPACTION_GRACE = 5
"""Seconds for what has ended to become one timeline key before the worker goes."""
LAST_WRITES = 1.0
"""Seconds in which what a tenure has sent is answered, for it to need no revocation."""


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
        self._broker = broker
        self._heart = heart
        self._member = member
        self._grace = grace
        self._members = Members(broker.lane, broker.names, member.task_queue, member.worker_id, self._changed)
        self._claiming = Claiming(engine, heart.lease, room=room, on_over=self._on_over)
        self.refused: str | None = None
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
                        self.refused = None
                except TenureOverError:
                    self._changed()
                except BrokerError as error:
                    self._tell_refusal(str(error))
                    await asyncio.sleep(REFUSED if isinstance(error, TopologyError) else TROUBLE)
                    self._changed()
        finally:
            self._detach()

    def _tell_refusal(self, why: str) -> None:
        """Log each reason once, until a step succeeds: it is tried again all the time."""
        log.log(logging.DEBUG if why == self.refused else logging.WARNING, "claiming partitions of %s: %s", self._member.task_queue, why)
        self.refused = why

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
        await self._claiming.end(tenure)
        deadline = clock.monotonic() + LAST_WRITES
        while tenure.lane.under_way and clock.monotonic() < deadline:
            await asyncio.sleep(LOOK_AT_LEAVING)
        await self._claiming.sign_off(tenure)

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
            target -= await self._claiming.claimed_by_others(set(self._members.alive()))
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

    async def _claim(self, target: frozenset[int]) -> None:
        """Own some partitions, and no others, under a tenure that begins now."""
        if not await self._claiming.claim(target, lambda: target - self._wanted()):
            log.info("somebody else was faster to claim a partition of %s; looking again", self._member.task_queue)
            asyncio.get_running_loop().call_later(RETRY_CLAIM, self._changed)
            return
        tenure = self._engine.tenure
        if tenure is not None and not tenure.leaving:
            self._leaving_until = None  # else the grace goes on
        if not target and not self._member.partitions:
            return  # as the others know: each change that is told has all of them look again
        self._tell()
        log.info(
            "worker %s owns %d of %d partitions of %s", self._member.worker_id, len(target), self._broker.topology.partitions, self._member.task_queue
        )

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
