"""The waiting queries of one workflow. The owner answers them between two turns, from what is committed."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from jetflow.broker.transport.wire import Wire
from jetflow.core.interrupts import is_interrupt
from jetflow.core.machine import Machine
from jetflow.core.queries import DisturbedError, query
from jetflow.engine.calls.answering import send
from jetflow.errors import BrokerUnavailableError, QueryError, WorkflowNotFoundError
from jetflow.protocol.answers import NOT_FOUND, REFUSED, Answer, failed

MAX_QUESTIONS = 1000
"""The most queries of one workflow that wait at once. Further ones get no answer, and their callers ask again."""


class Question(NamedTuple):
    """One waiting query."""

    name: str
    body: bytes
    told: int | None
    reply: str


class Questions:
    """See the module."""

    def __init__(self, wire: Wire, workflow_id: str, task_queue: str) -> None:
        self._wire = wire
        self._workflow_id = workflow_id
        self._task_queue = task_queue
        self._waiting: deque[Question] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, question: Question) -> None:
        """Add a query. Ignore it if ``MAX_QUESTIONS`` wait already."""
        if len(self._waiting) < MAX_QUESTIONS:
            self._waiting.append(question)

    def refuse(self, message: str) -> None:
        """Answer all waiting queries with an error."""
        while self._waiting:
            self._send(self._waiting.popleft(), failed(QueryError(message), REFUSED))

    def answer(self, machine: Machine | None) -> None:
        """Answer all waiting queries. Without a machine there is no such workflow.

        Raises:
            BrokerUnavailableError: the workflow must be rebuilt, since a query has changed it.
        """
        while self._waiting:
            question = self._waiting.popleft()
            if machine is None:
                self._send(question, failed(WorkflowNotFoundError(self._workflow_id, self._task_queue), NOT_FOUND))
                continue
            try:
                result = query(machine, question.name, question.body, question.told)
            except DisturbedError as error:
                self._send(question, failed(error))
                raise BrokerUnavailableError(str(error)) from error
            except BaseException as error:
                if is_interrupt(error):
                    raise
                self._send(question, failed(error))
            else:
                self._send(question, Answer(result=result, run=str(machine.info.run)))

    def _send(self, question: Question, answer: Answer) -> None:
        send(self._wire, question.reply, answer)
