"""Queries: core requests that the owner of a workflow answers from memory, between two turns. The broker does not store them.

Every worker of a queue receives them. Only the owner of the workflow's partition answers. It rebuilds a workflow that is not in memory, also a run
that has ended, as long as its timeline exists.
"""

from __future__ import annotations

import logging

from jetflow.core.ids import from_token, partition_of
from jetflow.engine.calls.answering import send
from jetflow.engine.calls.questions import Question
from jetflow.engine.engine import Engine
from jetflow.errors import BrokerError, InvalidInputError
from jetflow.protocol.answers import REFUSED, failed
from jetflow.protocol.commands import number_of_args
from jetflow.protocol.headers import parse_headers

log: logging.Logger = logging.getLogger("jetflow.worker")


class Queries:
    """Receives the queries of one task queue."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._broker = engine.context.broker
        self._queue_token = engine.context.queue_token
        self._sid = 0

    def open(self) -> None:
        """Begin to listen."""
        self._sid = self._broker.wire.listen(self._broker.names.query(self._queue_token), self._on_query)

    def close(self) -> None:
        """Stop listening."""
        try:
            self._broker.wire.unlisten(self._sid)
        except BrokerError as error:
            log.debug("not connected: %s", error)

    def _on_query(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        tenure, actors, answer_to = self._engine.tenure, self._engine.actors, reply.decode()
        _, _, id_token, name_token = subject.decode(errors="replace").split(".")
        if tenure is None or actors is None or not tenure.owns(partition_of(self._queue_token, id_token, self._broker.topology.partitions)):
            return  # another worker owns the partition, or none at the moment
        try:
            told = number_of_args(parse_headers(headers)) if headers else None
            question = Question(from_token(name_token), data, told, answer_to)
            actor = actors.get(id_token, from_token(id_token))
        except InvalidInputError as error:
            send(self._broker.wire, answer_to, failed(error, REFUSED))
            return
        if actor is not None:
            actor.ask(question)
