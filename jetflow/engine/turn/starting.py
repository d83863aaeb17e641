"""Begins runs from their start commands, and generations after ``continue_as_new``."""

from __future__ import annotations

import msgspec

from jetflow.broker.stores.timers import LATEST
from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.core.values import args_from_body
from jetflow.engine import faults
from jetflow.engine.commands import Command
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.addressing import replaces
from jetflow.engine.turn.first_commit import guard
from jetflow.engine.turn.publishing import tell_accepted
from jetflow.errors import BrokerUnavailableError, Kind
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import StartCommand
from jetflow.protocol.headers import was_scheduled
from jetflow.protocol.record import REPLACED

WITHDRAWN = "cancelled before it began"
WITHDRAWN_STAYS = 1000
"""How long, in ms, the record of a run stays that a cancel or terminate ended before its delayed start began."""


async def on_start(actor: Actor, command: Command, start: StartCommand) -> bool:
    """Begin a run. Return True if the command must be acked with its consequences."""
    run = actor.run
    if run.number == command.seq or _is_same_child(actor, start):
        run.tell_end_again()
        await tell_accepted(actor, start.parent)
        return True  # a repeat: the run continues
    if not run.unheard and command.seq not in run.guarded and actor.tenure.is_in_doubt(command):  # also if the start is refused below
        await _keep_earlier_owners_out(actor, command)
    is_replacement = replaces(run, command)
    if not is_replacement and await is_taken(actor):
        await _refuse(actor, command, start)
        actor.mailbox.ack(command)  # never held: its client may withdraw it, and then it would wake no owner
        return False
    if run.closing is not None and not is_replacement and await _is_withdrawn(actor, command):
        return True
    first_index = await _forget_earlier_run(actor) if run.closing is not None else 1
    actor.begin_run(command.seq, started_by(actor, start, command.delivery.stored_ms, first_index))
    await actor.signals.load({})
    begin_cancelled(actor)
    return True


async def _refuse(actor: Actor, command: Command, start: StartCommand) -> None:
    """Refuse a start, since a run has the id. Its parent gets the answer. Nobody waits for that of a scheduled start: it is a dead letter."""
    await actor.tenure.outbox.refuse_start(actor.workflow_id, start)
    if command.seq > actor.run.number and was_scheduled(command.delivery.headers):
        faults.reach("before_letter")
        await actor.tenure.dead_letter(command.delivery, f"run {actor.run.number} has the id, so the scheduled start is refused")
        faults.reach("after_letter")


async def _keep_earlier_owners_out(actor: Actor, command: Command) -> None:
    """Refuse a first commit of a start that an earlier owner may have sent late."""
    await guard(actor, command)
    if actor.run.seq == 0 and await actor.tenure.timeline.last(actor.context.queue_token, actor.id_token) is not None:
        raise BrokerUnavailableError("an earlier owner's first commit arrived just before the guard")


async def _forget_earlier_run(actor: Actor) -> int:
    """Forget a run whose record has expired or that is replaced. Return the index of the next run's first operation."""
    first_index = 1
    if actor.machine is not None:
        first_index = actor.machine.next_index  # so that no timer of the old run passes for one of the new run
        await actor.tenure.timers.cancel_all(actor.context.queue_token, actor.id_token, actor.tenure.position + 1)
    actor.forget_run()
    return first_index


def begin_cancelled(actor: Actor) -> None:
    """Pass a cancel that came before the start to the run. If the first decision continued as new, the next generation gets it."""
    if actor.run.continued is None and (reason := actor.signals.take_cancel()) is not None:
        cancel(actor, reason)


def cancel(actor: Actor, reason: str) -> None:
    """Pass a cancel to the code. A run whose delayed start has not begun ends at once."""
    if has_begun(actor):
        actor.feed(ev.CancelRequested(at=now_ms(), reason=reason))
    else:
        actor.feed(ev.Terminated(at=now_ms(), reason=reason or WITHDRAWN, expire=WITHDRAWN_STAYS, kind=Kind.TERMINATED))


def has_begun(actor: Actor) -> bool:
    """Return False while the run waits for the time of its delayed start."""
    return actor.machine is None or actor.machine.delay is None


async def _is_withdrawn(actor: Actor, command: Command) -> bool:
    """Return whether the client has withdrawn the start. It does so if it sees the record of an earlier run, which may have expired since."""
    return await actor.tenure.lane.message(actor.context.broker.names.inbox_stream, command.seq) is None


def makes_way(actor: Actor, command: Command) -> bool:
    """Return whether a start must wait for the end of the run that it replaces. Terminate that run if it has not ended."""
    run = actor.run
    if type(command.payload) is not StartCommand or not replaces(run, command):
        return False
    if actor.machine is not None and actor.machine.closing is None:
        actor.feed(replaced(kept_after_end(actor)))
    return (actor.machine is not None or run.closing is not None) and not (run.closing is not None and run.told_closing)


def replaced(kept: int | None) -> ev.Terminated:
    """Return the event that ends a run which another start replaces."""
    return ev.Terminated(at=now_ms(), reason=REPLACED, expire=ev.FOREVER_MS if kept is None else kept, kind=Kind.TERMINATED)


def kept_after_end(actor: Actor) -> int | None:
    """Return how long the record stays after the run's end, in ms, whatever ends it. None for forever."""
    if not has_begun(actor):
        return WITHDRAWN_STAYS
    info = actor.run.info
    return actor.context.default_expire if info is None else info.expire


def started_by(actor: Actor, start: StartCommand, stored_ms: int, first_index: int = 1) -> ev.Started:
    """Return the first event of a start's run. A delay counts from when the broker stored the start (ms since the epoch)."""
    definition = actor.services.workflows.get(start.workflow_type)
    single = definition.signature.single if definition is not None else False
    return ev.Started(
        at=now_ms(),
        workflow_type=start.workflow_type,
        input=args_from_body(start.body, single=single, told=start.told),
        parent=start.parent,
        origin=start.origin,
        expire=actor.context.default_expire if start.expire is msgspec.UNSET else start.expire,
        data=start.data,
        entity=start.entity,
        first_index=first_index,
        begins=min(stored_ms + start.delay, LATEST) if start.delay else None,
    )


def _is_same_child(actor: Actor, start: StartCommand) -> bool:
    """Return whether a start is this run's own start, sent again by its parent."""
    return start.parent is not None and actor.run.info is not None and start.parent == actor.run.info.parent and actor.run.number > 0


async def is_taken(actor: Actor) -> bool:
    """Return whether a run has the id. It has the id until it has ended and its record has expired."""
    if actor.machine is not None or actor.run.closing is None:
        return actor.machine is not None
    return not actor.run.told_closing or await actor.tenure.states.get(actor.context.queue_token, actor.id_token, fresh=True) is not None


async def end_generation(actor: Actor) -> None:
    """Apply the parent-close policy to the children of a generation. A repeat after a crash changes nothing."""
    if actor.machine is not None and actor.machine.children:
        await actor.tenure.outbox.end_children(actor.machine.info, actor.machine.children, descend=False)
        faults.reach("after_notice")


def next_generation(actor: Actor, closing: ev.ContinuedAsNew) -> Machine:
    """Begin the generation that ``continue_as_new`` requested."""
    before = actor.machine
    assert before is not None
    started = ev.Started(
        at=max(now_ms(), before.now),
        workflow_type=closing.workflow_type,
        input=closing.input,
        parent=before.info.parent,
        origin=before.info.origin,
        expire=before.info.expire,
        generation=before.info.generation + 1,
        **before.carried_over(),
    )
    return actor.begin_generation(started)
