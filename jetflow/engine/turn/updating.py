"""Applies updates: passes them to the code, or answers them from the timeline of a run that has ended."""

from __future__ import annotations

from typing import Any

from jetflow.core import events as ev
from jetflow.core.handlers import Outcome
from jetflow.engine.calls.answering import send
from jetflow.engine.calls.updates import answer_of, answer_of_ended, id_of
from jetflow.engine.commands import Command
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.addressing import is_for_another
from jetflow.engine.turn.starting import is_taken
from jetflow.errors import WorkflowNotFoundError
from jetflow.protocol.answers import NOT_FOUND, failed
from jetflow.protocol.commands import UpdateCommand


async def on_update(actor: Actor, command: Command, update: UpdateCommand) -> bool:
    """Pass an update to the code, or answer it. Return True if its command must be acked with its consequences."""
    machine = actor.machine
    if is_for_another(actor.run, command, update):
        await _not_found(actor, command, update)
        actor.mailbox.ack(command)
        return False
    if machine is None or command.seq < actor.run.number:
        await _on_late(actor, command, update, actor.run.closing if machine is None else ev.Terminated(at=0, reason=""))
        actor.mailbox.ack(command)
        return False
    return actor.take_updates().on_command(command, update, machine)


async def _on_late(actor: Actor, command: Command, update: UpdateCommand, closing: Any) -> None:
    """Answer an update for a run that has ended, from the timeline if the run took it, or for an unknown workflow."""
    if closing is None:
        await _not_found(actor, command, update)
        return
    timeline, queue_token, wanted = actor.tenure.timeline, actor.context.queue_token, id_of(command, update)
    last = await timeline.last(queue_token, actor.id_token)
    entries = await timeline.run(queue_token, actor.id_token, last) if last is not None else []
    outcomes = [event for entry in entries for event in entry.commit.events if isinstance(event, Outcome) and event.id == wanted]
    if not outcomes and actor.machine is None and not await is_taken(actor):
        await _not_found(actor, command, update)  # its record has expired
        return
    send(actor.context.broker.wire, update.reply, answer_of(outcomes[0]) if outcomes else answer_of_ended(actor.workflow_id, closing))


async def _not_found(actor: Actor, command: Command, update: UpdateCommand) -> None:
    error = WorkflowNotFoundError(actor.workflow_id, actor.context.task_queue, None if update.run is None else str(update.run))
    send(actor.context.broker.wire, update.reply, failed(error, NOT_FOUND))
    if not update.reply:
        await actor.tenure.dead_letter(command.delivery, str(error))
