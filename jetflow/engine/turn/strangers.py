"""Handles commands for a workflow that was never started, whose record has expired, or another run of which has the id."""

from __future__ import annotations

import msgspec

from jetflow.broker.stores.signals import CANCEL, EarlySignal
from jetflow.engine import faults
from jetflow.engine.commands import Command
from jetflow.engine.signals.buffer import store_early
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.addressing import Pinned
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import DEFAULT_EXPIRE_MS, CancelCommand, TerminateCommand


async def on_stranger(actor: Actor, command: Command) -> None:
    """Withdraw a scheduled start. Otherwise store a cancel for the start to come, or make a dead letter of a terminate."""
    payload, tenure, id_token = command.payload, actor.tenure, actor.id_token
    if not isinstance(payload, (CancelCommand, TerminateCommand)):
        return
    if payload.parent is not None:  # from a parent: its child never began, or is gone
        return
    if payload.run is not None:
        await _bury(actor, command, payload)
        return
    if await tenure.timers.take_start_back(actor.context.queue_token, id_token, command.seq):
        return
    if isinstance(payload, CancelCommand):
        reason = msgspec.Raw(msgspec.json.encode(payload.reason))
        expires = command.delivery.stored_ms + DEFAULT_EXPIRE_MS
        if expires > (now := now_ms()):
            await store_early(tenure, id_token, EarlySignal("cancel", command.seq, expires, reason), now, CANCEL)
            faults.reach("after_buffer")
    else:
        await tenure.dead_letter(command.delivery, f"there is no workflow {actor.workflow_id!r} to terminate")


async def refuse(actor: Actor, command: Command, payload: Pinned) -> None:
    """Make a dead letter of a command whose run is over, or never was, and ack it."""
    await _bury(actor, command, payload)
    actor.mailbox.ack(command)


async def _bury(actor: Actor, command: Command, payload: Pinned) -> None:
    now = f"run {actor.run.number} has the id" if actor.machine is not None else "that run is over"
    await actor.tenure.dead_letter(command.delivery, f"the command is for run {payload.run} alone, and {now}")
