"""A turn: the seven steps that a command goes through.

    1  it is stored in the inbox (the publisher's ack)
    2  it reaches the actor's mailbox; the actor is rebuilt from its timeline if it is not in memory   ``opening``
    3  the workflow's code runs until it waits                                                         ``applying``
    4  what was decided is committed: one new timeline key                                             ``committing``
    5  the effects follow: children, signals, activities, timers                                       ``effects``
    6  the state record is written where a person would see a difference                               ``resting``
    7  the command is acked once only durable things are waited for                                    ``resting``

A command is acked late on purpose: while work is under way in this process, an un-acked command wakes the next owner. ``recovering`` decides what
happens to a workflow that cannot take a step.
"""

from __future__ import annotations

import asyncio
import logging

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.answering import answer_queries
from jetflow.engine.turn.applying import apply
from jetflow.engine.turn.committing import commit
from jetflow.engine.turn.effects import carry_out, publish_tasks
from jetflow.engine.turn.expiring import look_at_expired
from jetflow.engine.turn.logs import fields_of
from jetflow.engine.turn.opening import open_actor
from jetflow.engine.turn.recovering import recover
from jetflow.engine.turn.resting import rest
from jetflow.protocol.clock import now_ms

log: logging.Logger = logging.getLogger("jetflow.worker")


async def drive(actor: Actor) -> None:
    """Run turns until there is nothing to do and nothing under way."""
    try:
        while not actor.gone and not actor.parked:
            await _turn(actor)
            if _has_input(actor):
                continue
            if not actor.steps.under_way:
                break
            await actor.pause()
    except TenureOverError as over:
        log.debug("workflow %s is left to its next owner: %s", actor.workflow_id, over, extra=fields_of(actor))
        actor.leave()
    except asyncio.CancelledError:
        actor.leave()
        raise
    finally:
        actor.stopped()


async def _turn(actor: Actor) -> None:
    """Take steps 2 to 7 with everything that has arrived since the last turn."""
    signals = actor.signals
    try:
        if not actor.run.loaded:
            await open_actor(actor)
        await apply(actor)
        if signals.looking:
            await look_at_expired(actor)
        decision = await commit(actor)
        if decision is not None:
            await carry_out(actor, decision)
        if signals.lapsed:
            await signals.bury()
        if actor.by_id.is_due(actor.machine):
            await actor.by_id.settle(actor.machine)
        if actor.run.tasks_due:
            await publish_tasks(actor)
        if actor.questions and actor.run.continued is None:
            await answer_queries(actor, actor.questions)
        await rest(actor)
    except TenureOverError:
        raise
    except Exception as error:
        await recover(actor, error)


def _has_input(actor: Actor) -> bool:
    """Return whether the next turn has something to do at once."""
    due = actor.alarms.next_due()
    return bool(
        actor.mailbox.waiting
        or actor.steps.outcomes
        or actor.state_wanted
        or actor.questions
        or actor.signals.looking
        or actor.run.continued is not None
        or (due is not None and due <= now_ms())
        or not actor.run.loaded
    )
