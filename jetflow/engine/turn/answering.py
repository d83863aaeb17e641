"""Queries are answered from what is committed: by the code in memory, or by that of a run that has ended, replayed."""

from __future__ import annotations

from jetflow.engine.calls.questions import Questions
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.replaying import replay_end
from jetflow.errors import BrokerUnavailableError


async def answer_queries(actor: Actor, questions: Questions) -> None:
    """Answer the queries that wait.

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
        questions.refuse(f"the workflow has ended, and its timeline cannot be replayed here: {error}")
    questions.answer(replayed)
    if replayed is not None:
        replayed.release()
