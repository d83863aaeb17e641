"""Keeps the partitions that this worker owns in step with the live workers, one tenure after the other.

Every worker computes the shares from the same heartbeats (rendezvous hashing). The broker refuses two consumers with a common partition, so one
worker at a time can claim it. The fence refuses what an earlier owner sends late. A worker that should own more waits until the others free their
partitions. A worker that should own less finishes its activities first and then frees partitions. All other work goes on meanwhile.
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
"""Seconds between two checks whether the partitions to free are at rest."""
RETRY_CLAIM = 0.1
RETRY_OPEN = 1.0
TROUBLE = 0.25
REFUSED = 5.0
"""Seconds between two tries to claim partitions while the inbox is refused."""
RECONNECT_GRACE = 1.0
"""Seconds after a reconnect in which other workers' silence is ignored."""
COMPACTION_GRACE = 5
"""Seconds that a stopping worker spends on compaction."""
LAST_WRITES = 1.0
"""Seconds that an ended tenure waits for the answers to its writes. With all of them, it needs no revocation."""


class Ownership:
    """The partitions of one worker.

    Args:
        engine: the worker's engine; its ``tenure`` is the current one.
        heart: the worker's heartbeat.
        member: what the worker's heartbeats say.
        room: returns how many more commands the worker may receive.
        grace: seconds that activities may go on in partitions that the worker frees.
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
        """The partitions that the worker owns now."""
        tenure = self._tenure
        return tenure.partitions if tenure is not None else frozenset()

    @property
    def _tenure(self) -> Tenure | None:
        """The current tenure, or None if it is over."""
        tenure = self._engine.tenure
        return None if tenure is None or tenure.over else tenure

    @property
    def members(self) -> list[Member]:
        """Return every live worker of the task queue, with this one."""
        return [self._member, *self._members.alive().values()]

    def refill(self) -> None:
        """Ask for more commands if there is room."""
        tenure = self._tenure
        if tenure is not None:
            tenure.refill()

    async def run(self) -> None:
        """Keep the partitions in step with the live workers, until cancelled."""
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
        """Log a reason as a warning once, until a step succeeds: repeated tries would fill the log."""
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
            # not wait_for, which may lose a cancellation in Python 3.11
            async with asyncio.timeout(LOOK_EVERY):
                await self._wake.wait()
        self._wake.clear()
        if clock.monotonic() > self._grace_until:
            self._members.look()
        else:
            self._members.forgive()

    async def stop(self) -> None:
        """Free all partitions once they are at rest or the grace is over, so that other workers can claim them at once."""
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

    # ---- one step towards the shares

    async def _step(self) -> None:
        """Claim the free partitions that this worker should own. Free those at rest that it should not."""
        if not self._heart.lease.valid or self._stopping:
            return  # the next step comes when the lease begins
        await self._claiming.free()
        tenure, wanted = self._tenure, self._wanted()
        owned = self.partitions
        returning = frozenset() if tenure is None else tenure.leaving & wanted  # work that was held back in them begins with a new tenure
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
        """Return the partitions to keep a while longer: all in ``leaving`` until they are at rest or the grace is over, then none."""
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
        """Return whether no work is under way in some partitions, and no activity there waits for its workflow to be loaded."""
        actors, inflight = self._engine.actors, self._engine.services.inflight
        return (actors is None or actors.are_quiet(partitions)) and not inflight.has_orphans(partitions)

    def _wanted(self) -> frozenset[int]:
        able = frozenset(member.worker_id for member in eligible(self.members))
        if self._assigned[0] != able:
            share = assign(self._broker.topology.partitions, able).get(self._member.worker_id, set())
            self._assigned = (able, frozenset(share))
        return self._assigned[1]

    async def _claim(self, target: frozenset[int]) -> None:
        """Begin a tenure over exactly these partitions."""
        if not await self._claiming.claim(target, lambda: target - self._wanted()):
            log.info("another worker was faster to claim a partition of %s; looking again", self._member.task_queue)
            asyncio.get_running_loop().call_later(RETRY_CLAIM, self._changed)
            return
        tenure = self._engine.tenure
        if tenure is not None and not tenure.leaving:
            self._leaving_until = None  # otherwise the grace goes on
        if not target and not self._member.partitions:
            return  # the other workers know that; each published change makes all of them look again
        self._tell()
        log.info(
            "worker %s owns %d of %d partitions of %s", self._member.worker_id, len(target), self._broker.topology.partitions, self._member.task_queue
        )

    def _tell(self) -> None:
        self._member.version += 1
        self._member.partitions = len(self.partitions)
        self._heart.tell(self._member)

    # ---- callbacks

    def _lose(self, why: str) -> None:
        tenure = self._tenure
        if tenure is not None:
            tenure.lose(why)

    def _on_over(self, why: str) -> None:
        log.log(logging.DEBUG if self._stopping else logging.INFO, "worker %s claims its partitions again: %s", self._member.worker_id, why)
        self._changed()

    def _on_lease(self) -> None:
        self._lose("its lease ended")
        self._changed()

    def _on_disconnect(self) -> None:
        self._lose("disconnected")

    def _on_reconnect(self) -> None:
        self._grace_until = clock.monotonic() + RECONNECT_GRACE
        self._lose("reconnected")
        self._changed()

    def _changed(self) -> None:
        self._wake.set()
