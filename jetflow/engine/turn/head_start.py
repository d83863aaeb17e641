"""The first activities of a new run begin before anything of it is committed, where nothing can go wrong by that.

A first commit says that an id is taken, which keeps a second start of it from running anything, and what the activities are
called with. Neither is news of a run whose id was made up for it, and whose code has decided from its input alone: any owner
decides the same again from the start, which is un-acked until then. So the first commit goes out with the first outcome, one write for two; or
when something else comes, when somebody asks, or when the run has been busy for a while and is to be seen.
"""

from __future__ import annotations

from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.following import follow
from jetflow.protocol.commands import StartCommand


def may_run_ahead(actor: Actor, machine: Machine) -> bool:
    """Whether what a run has decided may begin, or go on, uncommitted."""
    if (
        actor.run.seq
        or actor.steps.uncommitted
        or actor.doubtful
        or actor.draining
        or actor.state_wanted
        or actor.questions
        or actor.signals.lapsed  # their dead letters follow the commit
        or len(actor.mailbox.held) != 1
    ):
        return False
    command = actor.mailbox.held[0]
    if type(command.payload) is not StartCommand or not command.payload.new_id or machine.told_time:
        return False
    knows, scheduled = actor.services.runner.knows, machine.decided[1:]
    if not scheduled or not all(type(event) is ev.ActivityScheduled and event.task_queue is None and knows(event.name) for event in scheduled):
        return False
    return actor.tenure.is_first_hand(command)


def run_ahead(actor: Actor, machine: Machine) -> None:
    """Begins the activities that were decided; none again while the first of them are under way."""
    for operation in machine.take_begun():
        follow(actor, operation)
