"""The signals of one id that no workflow has yet, in the router's memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from msgspec import Raw

from jetflow.broker.stores.waits import EXPIRED, Registered, Wait
from jetflow.broker.transport.lane import StoredMessage
from jetflow.core.times import to_iso
from jetflow.core.values import as_json
from jetflow.engine import faults
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.signals.kept import Kept
from jetflow.errors import BrokerError, ConflictError
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import RoutedSignal
from jetflow.protocol.headers import header_block
from jetflow.protocol.subjects import Names

log: logging.Logger = logging.getLogger("jetflow.worker")

FIRST_LOOK = 1.0
LAST_LOOK = 600.0
"""Seconds until the router looks at an id again without a notice, at first and at most. Notices may get lost."""
LONGEST_TIMER = 86_400.0


class Lot:
    """The signals of one id, in order. One look at a time is under way.

    Args:
        tenure: the router's tenure, of partition 0.
        token: the id, escaped for subjects.
        name: the id.
        slots: limits the looks under way at once.
        on_empty: called when no signal of the id is left.
    """

    def __init__(self, tenure: Tenure, token: str, name: str, slots: asyncio.Semaphore, on_empty: Callable[[Lot], None]) -> None:
        self.token = token
        self.name = name
        self._waits = tenure.waits
        self._dead_letters = tenure.dead_letters
        self._background = tenure.context.background
        self._wire = tenure.context.broker.wire
        self._names: Names = tenure.context.broker.names
        self._slots = slots
        self._on_empty = on_empty
        self._kept: dict[int, Kept] = {}
        self._sid: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._delay = FIRST_LOOK
        self._looking = False
        self._again = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, kept: Kept) -> None:
        """Add a signal, and look for its wait."""
        self._kept[kept.number] = kept
        self._delay = FIRST_LOOK
        self._look()

    def close(self) -> None:
        """Stop listening and looking."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sid is not None:
            with contextlib.suppress(BrokerError):
                self._wire.unlisten(self._sid)
            self._sid = None

    def _on_notice(self, subject: bytes, _reply: bytes, data: bytes, _headers: bytes | None) -> None:
        """Look again: a wait for this id has begun or ended."""
        self._delay = FIRST_LOOK
        if not data:
            key = self._names.wait_of_notice(subject.decode(errors="replace"))
            for kept in self._kept.values():
                if kept.wait is not None and kept.wait.key == key:
                    kept.doubt(True)
        self._look()

    def _on_timer(self) -> None:
        self._timer = None
        self._delay = min(self._delay * 4, LAST_LOOK)
        for kept in self._kept.values():
            kept.doubt(kept.wait is not None)
        self._look()

    def _look(self) -> None:
        if self._looking:
            self._again = True
        elif not self._closed:
            self._looking = True
            self._background.spawn(self._looks())

    async def _looks(self) -> None:
        try:
            self._again = True
            while self._again and not self._closed:
                self._again = False
                async with self._slots:
                    await self._match()
        except BrokerError as error:
            log.debug("signal id %s is looked at again: %s", self.name, error)
        except Exception:
            log.exception("signal id %s is looked at again", self.name)
        finally:
            self._looking = False
        if not self._closed:
            if self._kept:
                self._arm()
            else:
                self._on_empty(self)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        waiting = [kept.expires for kept in self._kept.values() if kept.wait is None]
        until_expiry = (min(waiting) - now_ms()) / 1000 + 0.001 if waiting else LONGEST_TIMER
        delay = max(0.05, min(self._delay, until_expiry, LONGEST_TIMER))
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    # ---- one look

    async def _match(self) -> None:
        if self._sid is None:
            self._sid = self._wire.listen(self._names.waiting(self.token), self._on_notice)
        for kept in [kept for kept in self._kept.values() if kept.unsure]:
            await self._what_became_of(kept)
        if any(kept.wait is None for kept in self._kept.values()):
            waits = await self._waits.waiting_for(self.token)
            pairs = self._pair(waits)
            outcomes = await asyncio.gather(*(self._give(kept, wait) for kept, wait in pairs), return_exceptions=True)
            for kept in [kept for kept in self._kept.values() if kept.wait is None and (kept.lapsed or kept.is_expired)]:
                await self._lapse(kept)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        for kept in [kept for kept in self._kept.values() if kept.wait is not None and not kept.forwarded]:
            await self._forward(kept)

    def _pair(self, waits: list[Registered]) -> list[tuple[Kept, Wait]]:
        """Pair the oldest signals with the oldest waits. A workflow gets its next signal only when the one before is settled."""
        busy = {kept.wait[1:3] for kept in self._kept.values() if kept.wait is not None}
        free = [one for one in waits if one.wait[1:3] not in busy]
        pairs: list[tuple[Kept, Wait]] = []
        for kept in [kept for kept in self._kept.values() if kept.wait is None and not kept.lapsed]:
            if not free:
                break
            found = next((one for one in free if one.since < kept.expires and one.wait not in kept.refused), None)
            if found is not None:
                pairs.append((kept, found.wait))
                free = [one for one in free if one.wait[1:3] != found.wait[1:3]]
        return pairs

    async def _give(self, kept: Kept, wait: Wait) -> None:
        revision = 0
        while True:
            try:
                await self._waits.claim(kept.number, wait, revision)
                break
            except ConflictError:
                claim = await self._waits.claim_of(kept.number)
                if claim.wait == EXPIRED:
                    kept.lapse()
                    return
                if claim.wait is not None:
                    wait = Wait.of(claim.wait)  # another router claimed it first: follow its claim
                    break
                revision = claim.revision
        kept.claimed(wait)
        faults.reach("after_claim")
        await self._forward(kept)

    async def _forward(self, kept: Kept) -> None:
        """Forward a claimed signal if it is still stored. If not, a wait has taken it, and the claim came too late: withdraw the claim."""
        stored = await self._waits.signal(kept.number)
        wait = kept.wait
        if stored is None or wait is None:
            await self._waits.withdraw(kept.number)
            self._forget(kept)
            return
        data = Raw(as_json(stored.data, "the body of a signal"))
        await self._waits.forward(wait, RoutedSignal(wait.run, self.name, kept.number, data))
        kept.was_forwarded()
        faults.reach("after_forward")

    async def _what_became_of(self, kept: Kept) -> None:
        kept.doubt(False)
        if await self._waits.signal(kept.number) is None:
            self._forget(kept)
            return
        claim = await self._waits.claim_of(kept.number)
        if claim.wait == EXPIRED:
            kept.lapse()
        elif claim.wait is None:
            kept.returned()
        else:
            kept.claimed(Wait.of(claim.wait))

    async def _lapse(self, kept: Kept) -> None:
        """Make a dead letter of an expired signal: claim it for no wait, write the letter, and remove it, in this order."""
        stored = await self._waits.signal(kept.number)
        if stored is None:
            await self._waits.withdraw(kept.number)
            self._forget(kept)
            return
        if not kept.lapsed and not await self._claim_for_nobody(kept):
            return
        faults.reach("before_letter")
        await self._bury(kept, stored)
        faults.reach("after_letter")
        await self._waits.taken(kept.number)
        self._forget(kept)

    async def _claim_for_nobody(self, kept: Kept) -> bool:
        """Claim an expired signal for no wait. Return False if another router has claimed it for a wait."""
        revision = 0
        while True:
            try:
                await self._waits.claim_expired(kept.number, revision)
            except ConflictError:
                claim = await self._waits.claim_of(kept.number)
                if claim.wait is None:
                    revision = claim.revision
                    continue
                if claim.wait != EXPIRED:
                    kept.claimed(Wait.of(claim.wait))
                    return False
            kept.lapse()
            return True

    async def _bury(self, kept: Kept, stored: StoredMessage) -> None:
        reason = f"the signal expired at {to_iso(kept.expires)}, before any workflow waited for it"
        log.warning("dead letter %s: %s", stored.subject, reason)
        headers = header_block(**{name.replace("-", "_"): value for name, value in stored.headers.items() if name})
        await self._dead_letters.write(stored.subject, stored.data, headers, reason, origin=f"by-id-{kept.number}", expired=True)

    def _forget(self, kept: Kept) -> None:
        self._kept.pop(kept.number, None)
        with contextlib.suppress(BrokerError):
            self._wire.ack(kept.reply)
