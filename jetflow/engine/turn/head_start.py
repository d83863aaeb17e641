"""Begins the first activities of a new run before its first commit, when that is safe.

A first commit takes the id, so that a second start of it runs nothing, and records the inputs of the activities. A run with a generated id whose
code has decided from its input alone needs neither: any owner decides the same again from the start, which is un-acked until then. So the first
commit goes out with the first outcome, one write instead of two. It goes out earlier when a command or a query comes, or when the run has been
busy for 0.1 s and people should see it.
"""

from __future__ import annotations

from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.following import follow
from jetflow.protocol.commands import StartCommand


def may_run_ahead(actor: Actor, machine: Machine) -> bool:
    """Return whether the decided activities may begin, or continue, before the commit."""
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
    """Begin the decided activities. Do not begin one again that is under way."""
    for operation in machine.take_begun():
        follow(actor, operation)
