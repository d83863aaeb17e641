"""Queries: core requests that the owner of a workflow answers from its memory, between two turns, and that leave no trace.

Every worker of a queue hears them; only the one that owns the workflow's partition answers. What is not in memory is rebuilt,
a run that has ended too, for as long as its timeline is kept.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from jetflow.core.handlers import DisturbedError, query
from jetflow.core.ids import from_token, partition_of
from jetflow.core.machine import Machine, last_generation
from jetflow.engine.calls.answering import send
from jetflow.errors import BrokerError, BrokerUnavailableError, InvalidInputError, QueryError, WorkflowNotFoundError
from jetflow.protocol.answers import NOT_FOUND, REFUSED, Answer, failed
from jetflow.protocol.headers import ARGS, parse_headers

if TYPE_CHECKING:
    from jetflow.engine.engine import Engine
    from jetflow.engine.turn.actor import Actor

log: logging.Logger = logging.getLogger("jetflow.worker")

MAX_QUESTIONS = 1000
"""Queries of one workflow that wait at once; more are left unanswered, to be asked again."""


class Question(NamedTuple):
    """One query that waits for its answer."""

    name: str
    body: bytes
    told: int | None
    reply: str


class Queries:
    """Hears the queries of one task queue."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sid = 0

    def open(self) -> None:
        """Begins to listen."""
        self._sid = self._engine.broker.wire.listen(f"{self._engine.broker.names.query_prefix}{self._engine.queue_token}.*.*", self._on_query)

    def close(self) -> None:
        """Listens no more."""
        try:
            self._engine.broker.wire.unlisten(self._sid)
        except BrokerError as error:
            log.debug("not connected: %s", error)

    def _on_query(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        engine, answer_to = self._engine, reply.decode()
        _, _, id_token, name_token = subject.decode().split(".")
        tenure = engine.tenure
        if tenure is None or not tenure.owns(partition_of(engine.queue_token, id_token, engine.broker.topology.partitions)):
            return  # another worker's, or nobody's just now
        try:
            told = 1 if headers and parse_headers(headers).get(ARGS) == "1" else None
            question = Question(from_token(name_token), data, told, answer_to)
            actor = tenure.actors.get(id_token, from_token(id_token))
        except InvalidInputError as error:
            send(engine.broker.wire, answer_to, failed(error, REFUSED))
            return
        if actor is not None:
            actor.ask(question)


class Questions:
    """The queries that wait for one actor."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._waiting: deque[Question] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, question: Question) -> None:
        """One more; it is left out when there are very many."""
        if len(self._waiting) < MAX_QUESTIONS:
            self._waiting.append(question)

    def refuse(self, message: str) -> None:
        """Nobody here can answer."""
        while self._waiting:
            self._send(self._waiting.popleft(), failed(QueryError(message), REFUSED))

    async def answer(self, machine: Machine | None, *, closed: bool) -> None:
        """Answers all of them from what is committed.

        Raises:
            BrokerUnavailableError: the workflow must be rebuilt, since a query has changed it.
        """
        replayed = None
        if machine is None and closed:
            try:
                machine = replayed = await replay_end(self._actor)
            except BrokerUnavailableError:
                raise
            except Exception as error:
                self.refuse(f"the workflow has ended, and its timeline cannot be replayed here: {error}")
        while self._waiting:
            question = self._waiting.popleft()
            if machine is None:
                error = WorkflowNotFoundError(self._actor.workflow_id, self._actor.engine.task_queue)
                self._send(question, failed(error, NOT_FOUND))
                continue
            try:
                result = query(machine, question.name, question.body, question.told)
            except DisturbedError as error:
                self._send(question, failed(error))
                raise BrokerUnavailableError(str(error)) from error
            except Exception as error:
                self._send(question, failed(error))
            else:
                self._send(question, Answer(result=result, run=str(machine.info.run)))
        if replayed is not None:
            replayed.release()

    def _send(self, question: Question, answer: Answer) -> None:
        send(self._actor.engine.broker.wire, question.reply, answer)


async def replay_end(actor: Actor) -> Machine | None:
    """The machine of a run that has ended, at its end; None if its timeline is gone.

    Raises:
        NondeterminismError, CannotGoOnError: this worker's code is not that run's.
    """
    timeline, queue_token = actor.tenure.timeline, actor.engine.queue_token
    last = await timeline.last(queue_token, actor.id_token)
    if last is None:
        return None
    history = last_generation([entry.commit for entry in await timeline.run(queue_token, actor.id_token, last)])
    machine = actor.machine_for(history[0][0])
    machine.replay(history)
    return machine
