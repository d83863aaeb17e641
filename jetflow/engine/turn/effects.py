"""Step 5: the effects of a commit, in this process and outside it."""

from __future__ import annotations

from jetflow.engine import faults
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.committing import Decision
from jetflow.engine.turn.following import follow, forget_alarm
from jetflow.engine.turn.publishing import publish


async def carry_out(actor: Actor, decision: Decision) -> None:
    """Publish what the commit says, end the operations that the code no longer waits for, and begin the new ones."""
    machine = decision.machine
    await publish(actor, decision.decided)
    faults.reach("after_effects")
    actor.signals.flush_removals()
    for operation in decision.ended:
        actor.steps.cancel(operation.index)
        forget_alarm(actor, operation.index)
    if remote := [operation for operation in decision.ended if operation.remote]:
        actor.services.dispatch.end(actor.tenure, machine.info, remote, closed=actor.run.closing is not None)
    if machine.closing is None:  # nothing begins once the run has ended
        for operation in decision.begun:
            if operation.index in machine.pending:
                follow(actor, operation)


async def publish_tasks(actor: Actor) -> None:
    """Publish attempts for other workers, once everything that led to them is committed."""
    due, machine = actor.run.take_tasks(), actor.machine
    if machine is not None and machine.closing is None:
        wanted = [(machine.pending[index], again) for index, again in due.items() if index in machine.pending]
        await actor.services.dispatch.publish(actor.tenure, machine.info, wanted)
