"""The owner's part in signals by id: it registers the waits of a resting workflow, and passes routed signals to them.

The owner registers a wait together with a state record, so never while the workflow is only briefly busy. It removes the registration after the
commit that ends the wait. A routed signal is for one wait of one run. That wait takes it in a commit, or the owner frees the signal's claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from jetflow.broker.stores.waits import Wait
from jetflow.core import events as ev
from jetflow.core.ids import to_token
from jetflow.core.machine import Machine
from jetflow.engine import faults
from jetflow.engine.commands import Command
from jetflow.engine.ownership.tenure import Tenure
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import RoutedSignal

LOOK_BACK = 100
"""Ended waits whose registrations are removed again after a crash."""


class SignalsById:
    """The waits and signals by id of one workflow, for its owner."""

    def __init__(self, tenure: Tenure, id_token: str) -> None:
        self._tenure = tenure
        self._queue_token = tenure.context.queue_token
        self._id_token = id_token
        self._registered: dict[int, Wait] = {}
        self._perhaps: dict[int, Wait] = {}
        self._taken: list[tuple[Wait, int]] = []
        self._returned: list[tuple[Wait, int]] = []

    def reset(self) -> None:
        """Forget what is in memory. Commands, timeline and bucket have all of it."""
        self._registered.clear()
        self._perhaps.clear()
        self._taken.clear()
        self._returned.clear()

    # ---- registering

    def unregistered(self, machine: Machine) -> list[tuple[Wait, int]]:
        """Return the waits that are not registered yet, each with the time at which it began."""
        return [
            (self._wait(operation.event.signal, machine.info.run, operation.index), operation.event.at)
            for operations in machine.waits.values()
            for operation in operations
            if operation.index not in self._registered
        ]

    def registered(self, waits: Iterable[tuple[Wait, int]]) -> None:
        """Note that the broker has stored these waits."""
        for wait, _ in waits:
            self._registered[wait.operation] = wait
            self._perhaps.pop(wait.operation, None)

    def restore(self, machine: Machine) -> None:
        """Note, after a rebuild without doubt, that all current waits are registered."""
        for operations in machine.waits.values():
            for operation in operations:
                self._registered[operation.index] = self._wait(operation.event.signal, machine.info.run, operation.index)

    def restore_doubtful(self, run: int, machine: Machine | None, events: Iterable[Any], unsure: Iterable[Any]) -> None:
        """Restore after a crash. The effects of the ``unsure`` events may be missing. Without ``machine`` the run has ended."""
        pending = machine.pending if machine is not None else {}
        over = [event for event in events if isinstance(event, ev.WaitStarted) and event.index not in pending]
        self._registered = {event.index: self._wait(event.signal, run, event.index) for event in over[-LOOK_BACK:]}
        if machine is not None:  # pending waits are registered again at rest, and removed if they end before that
            self._perhaps = {wait.operation: wait for wait, _ in self.unregistered(machine)}
        for event in unsure:
            if isinstance(event, ev.Signaled) and event.sender == sender_of(event.index):
                self._taken.append((self._wait(event.signal, run, event.index), event.number))

    def _wait(self, signal: str, run: int, index: int) -> Wait:
        return Wait(to_token(signal), self._queue_token, self._id_token, run, index)

    # ---- taking

    async def on_command(self, command: Command, routed: RoutedSignal, machine: Machine | None, run: int) -> ev.Signaled | None:
        """Return the event that a routed signal becomes, or None if its wait is over or never existed."""
        wait = self._wait(routed.signal, routed.run, command.index)
        if routed.run == run and machine is not None and machine.closing is None:
            operation = machine.pending.get(command.index)
            if operation is not None and (type(operation.event) is not ev.WaitStarted or operation.event.signal != routed.signal):
                return None
            if operation is None and command.index >= machine.next_index:
                return None
            if operation is not None:
                claim = await self._tenure.waits.claim_of(routed.number)
                if claim.wait != wait.key:  # forged, or the claim was freed already
                    return None
                self._taken.append((wait, routed.number))
                return ev.Signaled(
                    index=command.index, at=now_ms(), signal=routed.signal, seq=0,
                    data=routed.data, sender=sender_of(command.index), number=routed.number,
                )  # fmt: skip
        taken = await self._was_taken(wait, routed, machine)
        (self._taken if taken else self._returned).append((wait, routed.number))
        return None

    async def give_back(self, command: Command, routed: RoutedSignal) -> None:
        """Free the claim of a signal that was routed to an earlier run."""
        await self._tenure.waits.give_back(self._wait(routed.signal, routed.run, command.index), routed.number)

    async def _was_taken(self, wait: Wait, routed: RoutedSignal, machine: Machine | None) -> bool:
        """Return whether this wait took this signal in a commit, before a crash prevented the removal of the signal."""
        if machine is not None:
            return machine.info.run == wait.run and _has_taken(machine.consumed_from, wait.operation, routed)
        timeline = self._tenure.timeline
        last = await timeline.last(self._queue_token, self._id_token)
        if last is None or last.commit.run != wait.run:
            return False
        events = [event for entry in await timeline.run(self._queue_token, self._id_token, last) for event in entry.commit.events]
        signals = [event for event in events if isinstance(event, ev.Signaled)]
        return any((one.index, one.number, one.sender) == (wait.operation, routed.number, sender_of(wait.operation)) for one in signals)

    # ---- what follows a commit

    def is_due(self, machine: Machine | None) -> bool:
        """Return whether ``settle`` has something to do."""
        if self._taken or self._returned:
            return True
        if not self._registered and not self._perhaps:
            return False
        if machine is None or machine.closing is not None:
            return True
        return any(index not in machine.pending for known in (self._registered, self._perhaps) for index in known)

    async def settle(self, machine: Machine | None) -> None:
        """Remove taken signals, free the claims of the others, and remove the registrations of ended waits. Call it after a commit.

        The order matters: when a registration is gone, the router looks up what happened to the wait's signal.
        """
        waits = self._tenure.waits
        if self._taken:
            await asyncio.gather(*(waits.taken(number) for _, number in self._taken))
            faults.reach("after_taken")
        if self._returned:
            await asyncio.gather(*(waits.give_back(wait, number) for wait, number in self._returned))
        ended = machine is None or machine.closing is not None
        over = {wait for wait, _ in self._taken}
        for known in (self._registered, self._perhaps):
            for index in [index for index in known if ended or index not in machine.pending]:  # type: ignore[union-attr]
                over.add(known.pop(index))
        for wait in over:
            waits.remove(wait)
        self._taken.clear()
        self._returned.clear()


def sender_of(index: int) -> str:
    """Return the sender that the timeline has for a signal by id that a wait took. The number beside it is the signal's position."""
    return f"=by-id.{index}"


def _has_taken(consumed_from: dict[str, dict[str, int]], index: int, routed: RoutedSignal) -> bool:
    return consumed_from.get(routed.signal, {}).get(sender_of(index)) == routed.number
