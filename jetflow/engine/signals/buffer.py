"""Signals of one workflow that no wait has taken yet, in inbox order by name.

While the workflow is busy, they are in memory and their commands un-acked. When it rests, they move to the signals bucket. Expired signals become
dead letters after the commit of the turn that finds them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from jetflow.broker.stores.signals import CANCEL, EarlySignal
from jetflow.core.ids import to_token
from jetflow.engine import faults
from jetflow.engine.commands import Command
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.signals.burying import bury
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import DEFAULT_EXPIRE_MS, SignalCommand

NEVER = 1 << 62
"""A time after every expiry, ms since the epoch."""


class Buffered:
    """One signal. ``command`` is set while it is un-acked. ``position`` is the signal's position in the bucket, 0 if it is not there."""

    __slots__ = ("command", "position", "signal")

    def __init__(self, signal: EarlySignal, command: Command | None, position: int = 0) -> None:
        self.signal: EarlySignal = signal
        self.command: Command | None = command
        self.position: int = position

    def stored(self, position: int) -> Command | None:
        """Note the signal's position in the bucket. Return its command, for the caller to ack."""
        command, self.command, self.position = self.command, None, position
        return command


class SignalBuffer:
    """See the module.

    Args:
        ack: acks a command that has no further consequences.

    Attributes:
        lapsed: expired signals that will become dead letters.
        looking: whether the next turn looks for expired signals.
    """

    def __init__(self, tenure: Tenure, id_token: str, ack: Callable[[Command], None]) -> None:
        self._tenure = tenure
        self._queue_token = tenure.context.queue_token
        self._ack = ack
        self._id_token = id_token
        self._queues: dict[str, deque[Buffered]] = {}
        self._known: set[int] = set()
        self._fresh: dict[int, Buffered] = {}
        self._removals: list[tuple[str, int, int]] = []
        self._cancels: list[tuple[EarlySignal, int]] = []
        self._loaded = False
        self._soonest = NEVER
        self.lapsed: list[Buffered] = []
        self.looking: bool = False

    @property
    def unstored(self) -> int:
        """The number of signals that are not in the bucket."""
        return len(self._fresh)

    @property
    def has_any(self) -> bool:
        """Return whether there may be signals that no wait has taken."""
        return bool(self._queues) or (not self._loaded and self._tenure.has_early(self._id_token))

    def oldest_for(self, waits: Mapping[str, Any]) -> str | None:
        """Return the name of the oldest signal that has a wait, or None."""
        fewer, more = (waits, self._queues) if len(waits) < len(self._queues) else (self._queues, waits)
        names = [name for name in fewer if name in more]
        return min(names, key=self.oldest) if len(names) > 1 else names[0] if names else None

    def oldest(self, name: str) -> int:
        """Return the inbox sequence of the oldest signal of a name that has one."""
        return self._queues[name][0].signal.seq

    def reset(self) -> None:
        """Forget what is in memory. The un-acked commands and the bucket have all of it."""
        self._clear()
        self._removals.clear()
        self._cancels.clear()
        self._loaded = False

    def _clear(self) -> None:
        self._queues.clear()
        self._known.clear()
        self._fresh.clear()
        self.lapsed.clear()
        self._soonest = NEVER

    async def load(self, consumed: dict[str, int]) -> None:
        """Read the bucket, once. Drop signals that the timeline shows as consumed."""
        if self._loaded:
            return
        self._loaded = True
        if not self._tenure.has_early(self._id_token):
            return
        found = await self._tenure.signals.load(self._queue_token, self._id_token)
        if not found:
            self._tenure.note_early(self._id_token, kept=False)
        for name_token, signal, position in found:
            if name_token == CANCEL:
                self._cancels.append((signal, position))
            elif signal.seq <= consumed.get(signal.signal, 0):
                self._removals.append((name_token, signal.seq, position))
            else:
                self._append(Buffered(signal, None, position))
        self.watch()

    def take_cancel(self) -> str | None:
        """Return the reason of a cancel that came before the start, or None. The cancel is removed after the next commit."""
        if not self._cancels:
            return None
        reason = None
        for signal, position in self._cancels:
            if signal.expires > now_ms():
                reason = str(msgspec.json.decode(signal.data))
            self._removals.append((CANCEL, signal.seq, position))
        self._cancels.clear()
        return reason

    def _append(self, item: Buffered) -> None:
        self._known.add(item.signal.seq)
        self._queues.setdefault(item.signal.signal, deque()).append(item)
        if item.signal.expires < self._soonest:
            self._soonest = item.signal.expires

    def add(self, command: Command, signal: SignalCommand) -> bool:
        """Add a signal, whose command stays un-acked. Return False if it is here already."""
        if command.seq in self._known:
            return False
        item = self._fresh[command.seq] = Buffered(early_signal(command, signal), command)
        self._append(item)
        return True

    def take(self, name: str, since: int) -> Buffered | None:
        """Remove and return the oldest signal of a name that had not expired at ``since``, when its wait began (ms since the epoch).

        Expired signals lapse. Their dead letters follow the commit, since the wait of a start that proves to be a repeat began too late.
        """
        queue = self._queues.get(name)
        while queue:
            item = queue.popleft()
            if not queue:
                del self._queues[name]
            self._forget(item)
            if item.signal.expires > since:
                if item.position:
                    self._removals.append((to_token(name), item.signal.seq, item.position))
                return item
            self.lapsed.append(item)
        return None

    def _forget(self, item: Buffered) -> None:
        self._known.discard(item.signal.seq)
        self._fresh.pop(item.signal.seq, None)

    # ---- expired

    def look(self) -> None:
        """Make the next turn look for expired signals."""
        self.looking = True

    def looked(self) -> None:
        """Note that a turn has looked for expired signals."""
        self.looking = False

    def watch(self) -> None:
        """Give the workflow a turn when its next signal expires."""
        if self._soonest < NEVER:
            self._tenure.lapses.note(self._id_token, self._soonest)
            self._soonest = NEVER

    def lapse(self, until: int) -> None:
        """Remove the signals that expired up to a time (ms since the epoch), so that no wait gets them."""
        for name in list(self._queues):
            left: deque[Buffered] = deque()
            for item in self._queues[name]:
                if item.signal.expires <= until:
                    self._forget(item)
                    self.lapsed.append(item)
                else:
                    left.append(item)
                    self._soonest = min(self._soonest, item.signal.expires)
            if left:
                self._queues[name] = left
            else:
                del self._queues[name]
        self.watch()

    async def bury(self) -> None:
        """Make dead letters of the lapsed signals, then remove them or ack their commands. Call it after the turn's commit."""
        for item in list(self.lapsed):
            await bury(self._tenure, self._id_token, item.signal)
            if item.position:
                name_token = to_token(item.signal.signal)
                await self._tenure.signals.remove(self._queue_token, self._id_token, name_token, item.signal.seq, item.position)
            if item.command is not None:
                self._ack(item.command)
        self.lapsed.clear()

    # ---- in the bucket

    async def store(self) -> None:
        """Move signals from memory to the bucket, and ack their commands."""
        if not self._fresh:
            return
        fresh = list(self._fresh.values())
        now = now_ms()
        positions = await asyncio.gather(*(store_early(self._tenure, self._id_token, item.signal, now) for item in fresh))
        faults.reach("after_buffer")
        self._fresh.clear()
        for item, position in zip(fresh, positions, strict=True):
            command = item.stored(position)
            if command is not None:
                self._ack(command)
        self.watch()

    def flush_removals(self) -> None:
        """Remove the signals that a commit has consumed from the bucket. Call it after that commit."""
        if not self._removals:
            return
        for name_token, seq, position in self._removals:
            self._tenure.context.background.tidy(self._tenure.signals.remove(self._queue_token, self._id_token, name_token, seq, position))
        self._removals.clear()

    def discard(self) -> list[Command]:
        """Remove everything, since the run has ended. Return the commands to ack."""
        if not (self._queues or self._cancels or self._removals or self.lapsed):
            return []
        commands = []
        self.take_cancel()
        for name, queue in self._queues.items():
            for item in queue:
                if item.position:
                    self._removals.append((to_token(name), item.signal.seq, item.position))
                if item.command is not None:
                    commands.append(item.command)
        self._clear()
        self.flush_removals()
        return commands


def early_signal(command: Command, signal: SignalCommand) -> EarlySignal:
    """Return the form of a signal command that the bucket stores."""
    expire = DEFAULT_EXPIRE_MS if signal.expire is None else signal.expire
    expires = command.delivery.stored_ms + expire
    return EarlySignal(signal.name, command.seq, expires, signal.data, signal.sender, signal.number, signal.expire)


async def store_early(tenure: Tenure, id_token: str, signal: EarlySignal, now: int, name_token: str | None = None) -> int:
    """Store a signal or a cancel in the bucket. Return its position."""
    tenure.note_early(id_token, kept=True)
    return await tenure.signals.put(tenure.context.queue_token, id_token, signal, now, name_token)
