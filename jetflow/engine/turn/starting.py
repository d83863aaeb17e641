"""A run's beginning: its start command, and the generations that follow by ``continue_as_new``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from jetflow.core import events as ev
from jetflow.core.values import args_from_body
from jetflow.engine import faults
from jetflow.engine.commands import Command
from jetflow.engine.turn.effects import tell_accepted
from jetflow.engine.turn.first_commit import guard
from jetflow.engine.upkeep.compaction import History
from jetflow.errors import BrokerUnavailableError
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import StartCommand

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor


REPLACED = "replaced by a new start"


async def on_start(actor: Actor, command: Command, start: StartCommand) -> bool:
    """Begins a run; True if the command is to be acked with what it leads to."""
    if actor.run.number == command.seq or _is_same_child(actor, start):
        actor.run.told_closing = False
        await tell_accepted(actor, start.parent)
        return True  # a repeat: it goes on from where it is
    replaces = start.replace and command.seq > actor.run.number
    # also one that is refused: an earlier owner's first commit of it may still be on its way
    if not actor.run.unheard and actor.tenure.is_in_doubt(command) and command.seq not in actor.run.guarded:
        await guard(actor, command)
        if actor.run.seq == 0 and await actor.tenure.timeline.last(actor.engine.queue_token, actor.id_token) is not None:
            raise BrokerUnavailableError("an earlier owner's first commit has come just before it was kept out")
    if not replaces and await is_taken(actor):
        await actor.tenure.outbox.refuse_start(actor, start)
        actor.tenure.ack(command)  # never held: its client may take it back, and then it would wake nobody
        return False
    if actor.run.closing is not None and not replaces and await _is_withdrawn(actor, command):
        return True
    first_index, before = 1, actor.machine
    if actor.run.closing is not None:  # an earlier run, whose record has expired, or that is replaced
        if before is not None:
            first_index = before.next_index  # so that nothing of the old run's timers is taken for one of the new
            await actor.tenure.timers.cancel_all(actor.engine.queue_token, actor.id_token, actor.tenure.position + 1)
            actor.machine = None
            before.release()
        actor.run.closing, actor.run.told_closing, actor.run.closed_children = None, False, []
        actor.signals.reset()
        actor.run.history, actor.run.is_whole = History(), False
    actor.run.number = command.seq
    started = started_by(actor, start, first_index)
    actor.run.info = actor.info_of(started)
    actor.machine = actor.new_machine(actor.run.info)
    actor.feed(started)
    actor.run.accepted = start.parent
    await actor.signals.load({})
    begin_cancelled(actor)
    return True


def begin_cancelled(actor: Actor) -> None:
    """Gives a run the cancel that came before its start; one that went on as new in its first decision gets it with the next generation."""
    if actor.run.continued is None and (reason := actor.signals.take_cancel()) is not None:
        actor.feed(ev.CancelRequested(at=now_ms(), reason=reason))


async def _is_withdrawn(actor: Actor, command: Command) -> bool:
    """Whether its client has taken a start back, since it saw the record of the run before, which has expired only afterwards."""
    return await actor.tenure.lane.message(actor.engine.broker.names.inbox_stream, command.seq) is None


def makes_way(actor: Actor, command: Command) -> bool:
    """Whether a start must wait because it replaces a run that goes on, or whose end is not told yet; that run is terminated."""
    start, run = command.payload, actor.run
    if type(start) is not StartCommand or not start.replace or command.seq <= run.number:
        return False
    if actor.machine is not None and actor.machine.closing is None:
        actor.feed(ev.Terminated(at=now_ms(), reason=REPLACED))
    return (actor.machine is not None or run.closing is not None) and not (run.closing is not None and run.told_closing)


def started_by(actor: Actor, start: StartCommand, first_index: int = 1) -> ev.Started:
    """The first event of the run that a start makes."""
    definition = actor.engine.workflows.get(start.workflow_type)
    single = definition.signature.single if definition is not None else False
    return ev.Started(
        at=now_ms(),
        workflow_type=start.workflow_type,
        input=args_from_body(start.body, single=single, told=start.told),
        parent=start.parent,
        origin=start.origin,
        expire=actor.engine.default_expire if start.expire is msgspec.UNSET else start.expire,
        data=start.data,
        entity=start.entity,
        first_index=first_index,
    )


def _is_same_child(actor: Actor, start: StartCommand) -> bool:
    """Whether a start is the one that made this run, sent again by its parent."""
    return start.parent is not None and actor.run.info is not None and start.parent == actor.run.info.parent and actor.run.number > 0


async def is_taken(actor: Actor) -> bool:
    """Whether a run has the id: until it has ended and its record has expired."""
    if actor.machine is not None or actor.run.closing is None:
        return actor.machine is not None
    return not actor.run.told_closing or await actor.tenure.states.get(actor.engine.queue_token, actor.id_token, fresh=True) is not None


async def end_generation(actor: Actor) -> None:
    """The children of a generation end with it, as their policy says; telling them again after a crash changes nothing."""
    if actor.machine is not None and actor.machine.children:
        await actor.tenure.outbox.end_children(actor.machine.info, actor.machine.children, descend=False)
        faults.reach("after_notice")


def next_generation(actor: Actor, closing: ev.ContinuedAsNew) -> None:
    """Begins the generation that ``continue_as_new`` asked for."""
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
    actor.run.info = actor.info_of(started)
    actor.machine = actor.new_machine(actor.run.info)
    actor.run.continued = None
    actor.feed(started)
