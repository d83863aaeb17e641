"""Publishes what a commit says: children, signals, lifecycle events, and the notice to a parent that the run has begun."""

from __future__ import annotations

import asyncio
from typing import Any

from jetflow.core import events as ev
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.children import children_in
from jetflow.protocol.commands import ChildNotice

_SENT = frozenset({ev.ChildStarted, ev.SignalSent})


async def publish(actor: Actor, decided: list[Any], *, again: bool = False) -> None:
    """Publish what a commit says. ``again`` says that some of it may have been published before."""
    run, lifecycle = actor.run, actor.services.lifecycle
    if run.accepted is not None:
        await tell_accepted(actor, run.take_accepted())
    info = run.info
    if info is None:
        return
    if lifecycle.on:
        run.tell(lifecycle.tell(info, decided))
    if not _SENT.isdisjoint(map(type, decided)):
        sent = [event for event in decided if type(event) in _SENT]
        children = children_in(sent)
        if run.closing is not None:  # do not begin a child only to terminate it
            children = [child for child in children if child.parent_close_policy != "terminate"]
        outbox = actor.tenure.outbox
        starts = [outbox.start_child(info, child, check_first=again) for child in children]
        await asyncio.gather(*starts, outbox.send_signals(info, [event for event in sent if type(event) is ev.SignalSent]))


async def tell_accepted(actor: Actor, parent: ev.Parent | None) -> None:
    """Notify a parent that does not wait for the result that the run has begun."""
    if parent is not None and not parent.awaited:
        await actor.tenure.outbox.notify(parent, ChildNotice(run=parent.run, child=actor.workflow_id, outcome="accepted", child_run=actor.run.number))
