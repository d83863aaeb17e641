"""The workflows that one tenure has in memory, and the commands that it has been given and not acked."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Iterator
from typing import Any

from jetflow.broker.transport.pull import Delivery
from jetflow.core.ids import from_token, partition_of
from jetflow.engine.commands import Command, understand
from jetflow.engine.ownership.tenure import Tenure
from jetflow.engine.services import Services
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.turn import drive
from jetflow.errors import BrokerError, InvalidInputError
from jetflow.protocol import clock
from jetflow.protocol.commands import BODY_MARGIN, SignalCommand, UpdateCommand, check_body

log: logging.Logger = logging.getLogger("jetflow.worker")

SHOW_AFTER = 0.1
"""Seconds after which a workflow that is still busy gets a state record."""
MAX_PARKED = 10_000
"""Commands that a parked workflow keeps un-acked. Signals and updates beyond that become dead letters."""
REFUSE_AGAIN = 1.0
"""Seconds before a dead letter that could not be written is tried again."""


class Actors:
    """See the module. When the tenure is over, so are they."""

    def __init__(self, services: Services, tenure: Tenure) -> None:
        self._services = services
        self._context = services.context
        self._tenure = tenure
        self._all: dict[str, Actor] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._dirty: dict[Actor, None] = {}
        tenure.on_over.append(self._leave)
        tenure.compaction.spare(self.has)

    def __iter__(self) -> Iterator[Actor]:
        return iter(list(self._all.values()))

    # ---- deliveries

    def deliver(self, delivery: Delivery) -> None:
        """Give a command that has come from the consumer to its actor, or to the dead letters if it cannot be understood."""
        tenure = self._tenure
        if tenure.over:
            return
        tenure.saw(delivery.seq)
        try:
            headers_size = max(0, len(delivery.headers or b"") - BODY_MARGIN // 4)
            check_body("the command's body", delivery.data, self._context.broker.max_payload - headers_size)
            command = understand(delivery)
        except InvalidInputError as error:
            self._refuse(delivery, str(error))
            return
        except Exception as error:
            log.exception("command %s cannot be read", delivery.subject)
            self._refuse(delivery, f"{type(error).__name__}: {error}")
            return
        actor = self._all.get(command.id_token) or self._take_up(command.id_token, command.workflow_id, command.partition)
        if actor is None:
            return  # its next owner gets it again
        if not actor.parked:
            tenure.take_credit(command.seq)
        elif _is_too_much(actor, command):
            self._refuse(delivery, f"the workflow is parked, its state says why, and {MAX_PARKED:,} commands wait for it")
            return
        self._idle.pop(command.id_token, None)
        actor.receive(command)

    def get(self, id_token: str, workflow_id: str) -> Actor | None:
        """The workflow, taken up if it is not in memory; None while its partition is being handed over."""
        partition = partition_of(self._context.queue_token, id_token, self._context.broker.topology.partitions)
        return self._all.get(id_token) or self._take_up(id_token, workflow_id, partition)

    def has(self, id_token: str) -> bool:
        """Whether a workflow is in memory."""
        return id_token in self._all

    def _take_up(self, id_token: str, workflow_id: str, partition: int) -> Actor | None:
        if partition in self._tenure.leaving and id_token not in self._services.inflight.to_adopt:
            return None
        self._tenure.compaction.disturb(id_token)
        actor = self._all[id_token] = Actor(self._services, self._tenure, self, id_token=id_token, workflow_id=workflow_id, partition=partition)
        return actor

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        self._tenure.take_credit(delivery.seq)
        self._context.background.tidy(self._keep_letter(delivery, reason))

    async def _keep_letter(self, delivery: Delivery, reason: str) -> None:
        while not self._tenure.over:
            try:
                await self._tenure.dead_letter(delivery, reason)
            except BrokerError as error:
                log.warning("a dead letter could not be written yet: %s", error)
                await asyncio.sleep(REFUSE_AGAIN)
            else:
                self._tenure.ack(delivery)
                return

    # ---- in memory

    def drive(self, actor: Actor) -> Coroutine[Any, Any, None]:
        """Run a workflow's turns, until there is nothing to do."""
        return drive(actor)

    def forget(self, actor: Actor) -> None:
        """A workflow is gone from memory."""
        if self._all.get(actor.id_token) is actor:
            del self._all[actor.id_token]
            self._idle.pop(actor.id_token, None)
        self._dirty.pop(actor, None)
        self._tenure.free_credit(actor.mailbox.unacked)

    def note_idle(self, actor: Actor) -> None:
        """A workflow rests; the ones that rest longest make room when there are too many."""
        self._idle[actor.id_token] = None
        self._idle.move_to_end(actor.id_token)
        while len(self._idle) > self._context.max_cached:
            id_token, _ = self._idle.popitem(last=False)
            oldest = self._all.get(id_token)
            if oldest is not None and oldest.evictable:
                oldest.drop()

    def note_dirty(self, actor: Actor) -> None:
        """A workflow's state record is behind its timeline."""
        self._dirty[actor] = None

    def sweep(self) -> None:
        """Called a few times a second: shows what has been busy for a while, and looks at signals that have expired."""
        self._look_at_signals()
        now = clock.monotonic()
        for actor in list(self._dirty):
            if actor.dirty_since is None:
                del self._dirty[actor]
            elif now - actor.dirty_since >= SHOW_AFTER:
                del self._dirty[actor]
                actor.show_state()

    def _look_at_signals(self) -> None:
        now, lapses = clock.now_ms(), self._tenure.lapses
        for id_token in lapses.pop_due(now):
            try:
                actor = self.get(id_token, from_token(id_token))
            except InvalidInputError:
                continue  # a key of somebody else's
            if actor is None or actor.parked:
                lapses.again(id_token, now)
            else:
                actor.signals.look()
                actor.wake()

    def are_quiet(self, partitions: frozenset[int]) -> bool:
        """Whether nothing of the workflows of some partitions is under way in this process."""
        return all(actor.idle for actor in self._all.values() if actor.partition in partitions)

    def _leave(self, _why: str) -> None:
        """Take each of them away: the tenure is over."""
        for actor in self:
            actor.leave()


def _is_too_much(parked: Actor, command: Command) -> bool:
    """Return whether a parked workflow has as many commands as it may keep. What may end it, or tells what has happened, it keeps all the same."""
    unacked = parked.mailbox.unacked
    return len(unacked) >= MAX_PARKED and command.seq not in unacked and isinstance(command.payload, (SignalCommand, UpdateCommand))
