"""The children of a run, from its timeline."""

from __future__ import annotations

from typing import Any

from jetflow.broker.stores.timeline import Entry
from jetflow.core import events as ev
from jetflow.engine.turn.actor import Actor


def children_in(events: list[Any]) -> list[ev.ChildStarted]:
    return [event for event in events if isinstance(event, ev.ChildStarted)]


def children_of(entries: list[Entry]) -> list[ev.ChildStarted]:
    return [child for entry in entries for child in children_in(entry.commit.events)]


async def all_children(actor: Actor) -> list[ev.ChildStarted]:
    """Return every child of the run, with those of earlier generations."""
    last = await actor.tenure.timeline.last(actor.context.queue_token, actor.id_token)
    if last is None:
        return []
    return children_of(await actor.tenure.timeline.run(actor.context.queue_token, actor.id_token, last))
