"""The workflows that one tenure has in memory, and the commands that it has been given and not acked."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jetflow.broker.transport.pull import Delivery
from jetflow.core.ids import partition_of
from jetflow.engine.commands import Command, understand
from jetflow.engine.turn.actor import Actor
from jetflow.errors import BrokerError, InvalidInputError
from jetflow.protocol import clock
from jetflow.protocol.commands import BODY_MARGIN, check_body

if TYPE_CHECKING:
    from jetflow.engine.ownership.tenure import Tenure

log: logging.Logger = logging.getLogger("jetflow.worker")

SHOW_AFTER = 0.1
"""Seconds after which a workflow that is still busy gets a state record."""
REFUSE_AGAIN = 1.0
"""Seconds before a dead letter that could not be written is tried again."""


class Actors:
    """See the module.

    Attributes:
        unacked: commands that take credit, by their sequence; None stands for one that cannot be read. Those of parked workflows take none.
    """

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        self._engine = tenure.engine
        self.unacked: dict[int, Command | None] = {}
        self._all: dict[str, Actor] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._dirty: dict[Actor, None] = {}

    def __iter__(self) -> Iterator[Actor]:
        return iter(list(self._all.values()))

    # ---- deliveries

    def deliver(self, delivery: Delivery) -> None:
        """Gives a command to its actor; what cannot be understood goes to the dead letters."""
        try:
            check_body("the command's body", delivery.data, self._engine.broker.max_payload - max(0, len(delivery.headers or b"") - BODY_MARGIN // 4))
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
            self.unacked[command.seq] = command
        self._idle.pop(command.id_token, None)
        actor.receive(command)

    def get(self, id_token: str, workflow_id: str) -> Actor | None:
        """The workflow, taken up if it is not in memory; None while its partition is being handed over."""
        partition = partition_of(self._engine.queue_token, id_token, self._engine.broker.topology.partitions)
        return self._all.get(id_token) or self._take_up(id_token, workflow_id, partition)

    def has(self, id_token: str) -> bool:
        """Whether a workflow is in memory."""
        return id_token in self._all

    def _take_up(self, id_token: str, workflow_id: str, partition: int) -> Actor | None:
        if partition in self._tenure.leaving and id_token not in self._engine.inflight.to_adopt:
            return None
        self._tenure.compaction.disturb(id_token)
        actor = self._all[id_token] = Actor(self._tenure, id_token, workflow_id, partition)
        return actor

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        self.unacked[delivery.seq] = None
        self._engine.background(self._keep_letter(delivery, reason))

    async def _keep_letter(self, delivery: Delivery, reason: str) -> None:
        while not self._tenure.over:
            try:
                await self._tenure.dead_letter(delivery, reason)
            except BrokerError as error:
                log.warning("a dead letter could not be written yet: %s", error)
                await asyncio.sleep(REFUSE_AGAIN)
            else:
                self.unacked.pop(delivery.seq, None)
                self._tenure.send_ack(delivery)
                return

    # ---- in memory

    def forget(self, actor: Actor) -> None:
        """A workflow is gone from memory."""
        if self._all.get(actor.id_token) is actor:
            del self._all[actor.id_token]
            self._idle.pop(actor.id_token, None)
        self._dirty.pop(actor, None)
        self.free_credit(actor)

    def free_credit(self, actor: Actor) -> None:
        """Its commands take no credit from the others."""
        for seq in actor.unacked:
            self.unacked.pop(seq, None)

    def take_credit(self, actor: Actor) -> None:
        """Its commands take credit again."""
        self.unacked.update(actor.unacked)

    def note_idle(self, actor: Actor) -> None:
        """A workflow rests; the ones that rest longest make room when there are too many."""
        self._idle[actor.id_token] = None
        self._idle.move_to_end(actor.id_token)
        while len(self._idle) > self._engine.max_cached:
            id_token, _ = self._idle.popitem(last=False)
            oldest = self._all.get(id_token)
            if oldest is not None and oldest.evictable:
                oldest.drop()

    def note_dirty(self, actor: Actor) -> None:
        """A workflow's state record is behind its timeline."""
        self._dirty[actor] = None

    def sweep(self) -> None:
        """Called a few times a second: shows what has been busy for a while."""
        now = clock.monotonic()
        for actor in list(self._dirty):
            if actor.dirty_since is None:
                del self._dirty[actor]
            elif now - actor.dirty_since >= SHOW_AFTER:
                del self._dirty[actor]
                actor.show_state()

    def are_quiet(self, partitions: frozenset[int]) -> bool:
        """Whether nothing of the workflows of some partitions is under way in this process."""
        return all(actor.idle for actor in self._all.values() if actor.partition in partitions)

    def leave(self) -> None:
        """The tenure is over: each of them is taken away."""
        for actor in self:
            actor.leave()
