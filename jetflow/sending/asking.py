"""Queries and updates: queries use request and reply of core NATS, updates are commands with a reply subject."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from jetflow.broker.transport.connection import Broker
from jetflow.core.ids import to_token
from jetflow.core.values import TypedDecoder, body_of
from jetflow.errors import (
    BrokerUnavailableError,
    FailureError,
    Kind,
    QueryError,
    ResultTimeoutError,
    UpdateError,
    WorkflowAlreadyClosedError,
)
from jetflow.protocol import clock
from jetflow.protocol.answers import CLOSED, NOT_FOUND, Answer
from jetflow.protocol.commands import check_body
from jetflow.protocol.headers import ARGS, REPLY, UPDATE, header_block, status_of
from jetflow.protocol.record import StateRecord
from jetflow.protocol.reference import WorkflowRef
from jetflow.protocol.subjects import inbox

FIRST_WAIT = 0.5
"""Seconds until a query is sent again, since the owner may have changed. The interval doubles each time."""
FIRST_UPDATE_WAIT = 2.0
LONGEST_WAIT = 30.0
NOBODY = 0.05
"""Seconds between attempts while no worker is up, or the workflow has not started yet."""

_decode = msgspec.json.Decoder(Answer).decode


async def query(
    broker: Broker,
    ref: WorkflowRef,
    describe: Callable[[], Awaitable[StateRecord | None]],
    name: str,
    args: tuple[Any, ...],
    seconds: float,
    result_type: Any,
) -> Any:
    """See ``WorkflowHandle.query``. ``describe`` reads the workflow's record, and raises if there is no such workflow."""
    token, decode = to_token(name, "query name"), TypedDecoder(result_type, f"query {name!r}, result")
    body, tell = body_of(args)
    check_body(f"the arguments of query {name!r}", body, broker.max_payload)
    subject = broker.names.query(ref.queue_token, ref.id_token, token)
    headers = header_block(**{ARGS: str(tell)}) if tell else None
    deadline, wait, why = clock.monotonic() + seconds, FIRST_WAIT, "no worker of the task queue answered"
    while (left := deadline - clock.monotonic()) > 0:
        try:
            async with asyncio.timeout(min(wait, left)):
                data, status = await broker.lane.ask(subject, body, headers, retry=False)
        except TimeoutError:
            wait *= 2
            continue
        except BrokerUnavailableError as error:
            why = str(error)
            await asyncio.sleep(min(NOBODY, left))
            continue
        if status_of(status):
            why = "no worker of the task queue is up"
            await asyncio.sleep(min(NOBODY, left))
            continue
        answer = _decode(data)
        if answer.problem == NOT_FOUND:
            record = await describe()  # raises unless its start is stored
            if record is not None and record.closed:
                raise WorkflowAlreadyClosedError(ref.workflow_id, f"{record.status}, and its timeline is gone")
            why = "the workflow has not started"
            await asyncio.sleep(min(NOBODY, left))
            continue
        if answer.run is not None and ref.run_id is not None and answer.run != ref.run_id:
            raise ref.not_found()
        return decode(_result_of(answer, ref, QueryError, f"query {name!r}"))
    raise ResultTimeoutError(f"query {name!r} of workflow {ref.workflow_id!r} was not answered within {seconds:g} s: {why}")


async def update(broker: Broker, ref: WorkflowRef, name: str, args: tuple[Any, ...], seconds: float | None, update_id: str, result_type: Any) -> Any:
    """See ``WorkflowHandle.update``."""
    decode = TypedDecoder(result_type, f"update {name!r}, result")
    body, tell = body_of(args)
    check_body(f"the arguments of update {name!r}", body, broker.max_payload)
    answers = inbox(clock.token(8))
    headers = {REPLY: answers, UPDATE: update_id} | ref.run_header() | ({ARGS: str(tell)} if tell else {})
    subject = broker.names.command(ref.queue_token, ref.id_token, f"update.{to_token(name, 'update name')}")
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def on_answer(_subject: bytes, _reply: bytes, data: bytes, _headers: bytes | None) -> None:
        if not answered.done():
            answered.set_result(_decode(data))

    sid = broker.wire.listen(answers, on_answer)
    try:
        async with asyncio.timeout(seconds):
            wait = FIRST_UPDATE_WAIT
            while not answered.done():  # the owner answers a repeat from the recorded outcome
                await broker.lane.publish_once(subject, body, broker.lane.message_id(), **headers)
                await asyncio.wait([answered], timeout=wait)
                wait = min(2 * wait, LONGEST_WAIT)
    except TimeoutError as error:
        again = f"the workflow may still apply it; call it again with update_id={update_id!r}"
        raise ResultTimeoutError(f"update {name!r} of workflow {ref.workflow_id!r} was not answered within {seconds:g} s: {again}") from error
    finally:
        with contextlib.suppress(BrokerUnavailableError):
            broker.wire.unlisten(sid)
    return decode(_result_of(answered.result(), ref, UpdateError, f"update {name!r}"))


def _result_of(answer: Answer, ref: WorkflowRef, kind: type[FailureError], what: str) -> msgspec.Raw:
    if answer.failure is None:
        return msgspec.Raw(b"null") if isinstance(answer.result, msgspec.UnsetType) else answer.result
    failure = answer.failure
    if answer.problem == NOT_FOUND:
        raise ref.not_found()
    if answer.problem == CLOSED:
        raise WorkflowAlreadyClosedError(ref.workflow_id, failure.message.rpartition("(")[2].rstrip(")"))
    if failure.mark == Kind.REFUSED and failure.type == kind.__name__:
        raise kind(failure.message, failure=failure)
    raise kind(f"{what} failed: {failure.type}: {failure.message}", failure=failure)
