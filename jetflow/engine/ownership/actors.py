"""The workflows that one tenure has in memory, and its un-acked commands."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Iterator
from typing import Any

from jetflow.broker.transport.pull import Delivery
from jetflow.core.ids import from_token, partition_of
from jetflow.core.log_fields import of_subject
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
"""Seconds after which a busy workflow gets a state record."""
MAX_PARKED = 10_000
"""The most un-acked commands of a parked workflow. Further signals and updates become dead letters."""
REFUSE_AGAIN = 1.0
"""Seconds before a failed write of a dead letter is tried again."""


class Actors:
    """See the module. All actors leave memory when the tenure is over."""

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
        """Pass a command from the consumer to its actor. Make a dead letter of one that is malformed."""
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
            log.exception("command %s cannot be read", delivery.subject, extra=of_subject(delivery.subject, 2))
            self._refuse(delivery, f"{type(error).__name__}: {error}")
            return
        actor = self._all.get(command.id_token) or self._take_up(command.id_token, command.workflow_id, command.partition)
        if actor is None:
            return  # the next owner gets it again
        if not actor.parked:
            tenure.take_credit(command.seq)
        elif _is_too_much(actor, command):
            self._refuse(delivery, f"the workflow is parked (its state record says why), and {MAX_PARKED:,} commands wait for it")
            return
        self._idle.pop(command.id_token, None)
        actor.receive(command)

    def get(self, id_token: str, workflow_id: str) -> Actor | None:
        """Return the workflow's actor, and create it if it is not in memory. Return None while its partition moves to another worker."""
        partition = partition_of(self._context.queue_token, id_token, self._context.broker.topology.partitions)
        return self._all.get(id_token) or self._take_up(id_token, workflow_id, partition)

    def has(self, id_token: str) -> bool:
        """Return whether a workflow is in memory."""
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
                log.warning("a dead letter could not be written yet: %s", error, extra=of_subject(delivery.subject, 2))
                await asyncio.sleep(REFUSE_AGAIN)
            else:
                self._tenure.ack(delivery)
                return

    # ---- in memory

    def drive(self, actor: Actor) -> Coroutine[Any, Any, None]:
        """Run a workflow's turns until there is nothing to do."""
        return drive(actor)

    def forget(self, actor: Actor) -> None:
        """Remove a workflow from memory."""
        if self._all.get(actor.id_token) is actor:
            del self._all[actor.id_token]
            self._idle.pop(actor.id_token, None)
        self._dirty.pop(actor, None)
        self._tenure.free_credit(actor.mailbox.unacked)

    def note_idle(self, actor: Actor) -> None:
        """Note that a workflow rests. If too many rest, those that have rested longest leave memory."""
        self._idle[actor.id_token] = None
        self._idle.move_to_end(actor.id_token)
        while len(self._idle) > self._context.max_cached:
            id_token, _ = self._idle.popitem(last=False)
            oldest = self._all.get(id_token)
            if oldest is not None and oldest.evictable:
                oldest.drop()

    def note_dirty(self, actor: Actor) -> None:
        """Note that a workflow's state record is behind its timeline."""
        self._dirty[actor] = None

    def sweep(self) -> None:
        """Write the records of workflows that have been busy for a while, and look for expired signals. Called a few times a second."""
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
                continue  # a key that jetflow did not write
            if actor is None or actor.parked:
                lapses.again(id_token, now)
            else:
                actor.signals.look()
                actor.wake()

    def are_quiet(self, partitions: frozenset[int]) -> bool:
        """Return whether no work of these partitions' workflows is under way in this process."""
        return all(actor.idle for actor in self._all.values() if actor.partition in partitions)

    def _leave(self, _why: str) -> None:
        """Remove every actor: the tenure is over."""
        for actor in self:
            actor.leave()


def _is_too_much(parked: Actor, command: Command) -> bool:
    """Return whether a parked workflow has too many commands to accept this one. It accepts all but signals and updates in any case."""
    unacked = parked.mailbox.unacked
    return len(unacked) >= MAX_PARKED and command.seq not in unacked and isinstance(command.payload, (SignalCommand, UpdateCommand))
