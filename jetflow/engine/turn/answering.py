"""Answers queries from what is committed: with the code in memory, or for a run that has ended, with a replay."""

from __future__ import annotations

from jetflow.engine.calls.questions import Questions
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.replaying import replay_end
from jetflow.errors import BrokerUnavailableError


async def answer_queries(actor: Actor, questions: Questions) -> None:
    """Answer the waiting queries.

    Raises:
        BrokerUnavailableError: the workflow must be rebuilt.
    """
    if actor.machine is not None or actor.run.closing is None:
        questions.answer(actor.machine)
        return
    replayed = None
    try:
        replayed = await replay_end(actor)
    except BrokerUnavailableError:
        raise
    except Exception as error:
        questions.refuse(f"the workflow has ended, and this worker cannot replay its timeline: {error}")
    questions.answer(replayed)
    if replayed is not None:
        replayed.release()
