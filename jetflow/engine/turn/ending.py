"""Terminates runs, also on a worker that cannot run their code."""

from __future__ import annotations

from typing import Any

from jetflow.core import events as ev
from jetflow.core.durations import limit_ms
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.addressing import ending_command
from jetflow.engine.turn.first_commit import guard
from jetflow.engine.turn.starting import WITHDRAWN_STAYS, kept_after_end, replaced, started_by
from jetflow.errors import Kind
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import StartCommand, TerminateCommand


def terminated(command: TerminateCommand, kept: int | None) -> ev.Terminated:
    """Return the event of a terminate command. ``kept`` (ms) is how long the record stays if the command does not say."""
    expire = kept if command.expire is None else limit_ms(command.expire)
    return ev.Terminated(
        at=now_ms(),
        reason=command.reason,
        code=command.code,
        throw=command.throw,
        stack=command.stack,
        expire=ev.FOREVER_MS if expire is None else expire,
        descend=command.descend,
        kind=Kind.TERMINATED,
    )


async def end_unseen(actor: Actor) -> bool:
    """Commit a terminate command that waits for an actor whose code cannot continue. Return False if there is none.

    The next rebuild from the timeline finds a run that has ended, and the actor carries out the effects of that end.
    """
    command = ending_command(actor.mailbox, actor.run)
    if command is None:
        return False
    queue_token, timeline = actor.context.queue_token, actor.tenure.timeline
    last = await timeline.last(queue_token, actor.id_token)
    if last is None:
        await guard(actor, command)
        last = await timeline.last(queue_token, actor.id_token)
    ends = command.payload
    events: list[Any] = []
    if last is not None and not isinstance(last.commit.events[-1], ev.CLOSING):
        run, cause = last.commit.run, last.commit.cause
        if isinstance(ends, StartCommand) and command.seq <= run:
            return False
    else:
        start = next((known for known in actor.mailbox.in_order() if isinstance(known.payload, StartCommand)), None)
        if start is None or start.seq > command.seq or start is command:
            return False
        run = cause = start.seq
        events.append(started_by(actor, start.payload, start.delivery.stored_ms))  # type: ignore[arg-type]
    kept = _kept(events[0]) if events else kept_after_end(actor)
    if isinstance(ends, TerminateCommand):
        cause = command.seq
        events.append(terminated(ends, kept))
    else:
        events.append(replaced(kept))
    commit = ev.Commit(run=run, cause=cause, events=events)
    await timeline.append(queue_token, actor.id_token, 1 if last is None else last.seq + 1, ev.encode_commit(commit))
    return True


def _kept(started: ev.Started) -> int | None:
    """Return how long the record of a run stays whose code has not begun, in ms. None for forever."""
    return started.expire if started.begins is None else WITHDRAWN_STAYS
