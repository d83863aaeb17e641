"""The client: starts workflows, finds them, commands them. Never consumes anything.

async with Client.connect() as client:                      # JETFLOW_URL, or nats://127.0.0.1:4222
    handle = await client.start(order, Order("A", 3), workflow_id="order-456", task_queue="orders")
    print(await handle.result())
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, TypeVarTuple, overload

from msgspec import Raw

from jetflow.broker.stores.lifecycle import LifecycleStream
from jetflow.broker.stores.state import StateStore
from jetflow.broker.transport.connection import Broker, open_wire
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.wire import Wire
from jetflow.core.definitions import WorkflowDefinition, as_workflow
from jetflow.core.durations import Duration, limit_ms, to_ms
from jetflow.core.ids import to_token
from jetflow.core.values import body_of, encode, json_list
from jetflow.errors import (
    InvalidInputError,
    WorkflowAlreadyClosedError,
    WorkflowAlreadyStartedError,
    WorkflowNotFoundError,
)
from jetflow.handle import WorkflowHandle
from jetflow.protocol import clock
from jetflow.protocol.commands import check_body, data_headers, expire_header
from jetflow.protocol.headers import ARGS, EXPIRE, REPLACE
from jetflow.protocol.record import StateRecord
from jetflow.protocol.reference import WorkflowRef
from jetflow.protocol.subjects import DEFAULT_NAMESPACE
from jetflow.reading.finding import Finding
from jetflow.reading.lookups import Lookups
from jetflow.reading.results import outcome_of
from jetflow.sending.commands import send_signal_by_id
from jetflow.sending.starts import Starts

DEFAULT_QUEUE = "default"
IDS_AT_ONCE = 64
"""Workflow ids made at once."""

R = TypeVar("R")
A = TypeVar("A")  # one argument has an overload of its own: there a checker knows that [1] may be a list[float]
Ts = TypeVarTuple("Ts")

IfExists = Literal["fail", "attach", "replace"]


class Client(Finding):
    """A connection to a namespace of workflows. Make it with ``Client.connect`` or ``jetflow.local``.

    Attributes:
        task_queue: whose workers run what is started, unless the workflow or the call names another one.
        broker: the connection, for workers.
        lookups: what is read about single workflows, for handles.
        states: the state records.
    """

    def __init__(self, broker: Broker, connect_again: Callable[[str], Coroutine[Any, Any, Wire]], task_queue: str = DEFAULT_QUEUE) -> None:
        to_token(task_queue, "task queue")
        self.broker = broker
        self.task_queue = task_queue
        self._connect_again = connect_again
        self._ids: list[str] = []
        self.lookups: Lookups = Lookups(broker)
        self.states: StateStore = self.lookups.states
        self._starts = Starts(broker, self.lookups.states, self.lookups.starts, self.lookups.timeline)
        self._events = LifecycleStream(broker.lane, broker.names)

    @staticmethod
    def connect(
        servers: str | Sequence[str] | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        task_queue: str | None = None,
        credentials: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        name: str = "client",
        partitions: int | None = None,
        replicas: int | None = None,
        timeout: float = 5,
    ) -> Connecting:
        """Connects; use it with ``async with``, or await it and ``close()`` later.

        Args:
            servers: one address or several; ``JETFLOW_URL``, then ``nats://127.0.0.1:4222`` when not given.
            namespace: which set of workflows on the server.
            task_queue: the default of every call that takes one, and of ``Worker(client)``; ``JETFLOW_TASK_QUEUE``, then ``"default"`` when not
                given. Filters, as of ``client.list``, have no default.
            credentials: path of a ``.creds`` file.
            tls: an SSL context.
            name: shown in the server's connection list.
            partitions: of a namespace that does not exist yet, 64 when not given.
            replicas: of each stream of a namespace that does not exist yet.
            timeout: seconds to wait for the first connection.

        Raises:
            BrokerError: what is missing on the server's side, and what to do about it.
        """

        return connecting(
            servers, namespace=namespace, task_queue=task_queue, credentials=credentials, tls=tls, name=name,
            partitions=partitions, replicas=replicas, timeout=timeout,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Address of the server."""
        return self.broker.url

    @property
    def namespace(self) -> str:
        """The namespace's name."""
        return self.broker.names.namespace

    async def close(self) -> None:
        """Writes what is pending and closes the connection."""
        self.lookups.watches.close()
        await self.broker.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def enable_events(self, keep: Duration | None = "7d") -> None:
        """Has workers tell what happens to workflows on the stream of lifecycle events; they notice within seconds. See docs/events.md.

        Args:
            keep: how long the stream keeps an event; ``"forever"`` or None for ever. Calling it again changes that.

        Raises:
            BrokerError: the stream cannot be made.
        """
        await self._events.create(limit_ms(keep, "keep"), self.broker.topology.replicas)

    async def disable_events(self) -> None:
        """Ends the stream of lifecycle events, with every event in it."""
        await self._events.delete()

    async def another_wire(self, purpose: str) -> Wire:
        """A further connection to the same server, for the event loop it is called in."""
        return await self._connect_again(purpose)

    # ---- starting

    @overload
    async def start(
        self,
        workflow: Callable[[A], Coroutine[Any, Any, R]],
        argument: A,
        /,
        *,
        workflow_id: str | None = None,
        task_queue: str | None = None,
        expire: Duration | Literal["default"] | None = "default",
        if_exists: IfExists = "fail",
        start_delay: Duration | None = None,
        search: dict[str, Any] | None = None,
        entity: dict[str, Any] | None = None,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: Callable[[*Ts], Coroutine[Any, Any, R]],
        *args: *Ts,
        workflow_id: str | None = None,
        task_queue: str | None = None,
        expire: Duration | Literal["default"] | None = "default",
        if_exists: IfExists = "fail",
        start_delay: Duration | None = None,
        search: dict[str, Any] | None = None,
        entity: dict[str, Any] | None = None,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: str,
        *args: Any,
        workflow_id: str | None = None,
        task_queue: str | None = None,
        expire: Duration | Literal["default"] | None = "default",
        if_exists: IfExists = "fail",
        start_delay: Duration | None = None,
        search: dict[str, Any] | None = None,
        entity: dict[str, Any] | None = None,
    ) -> WorkflowHandle: ...
    async def start(
        self,
        workflow: WorkflowDefinition[..., Any] | Callable[..., Any] | str,
        *args: Any,
        workflow_id: str | None = None,
        task_queue: str | None = None,
        expire: Duration | Literal["default"] | None = "default",
        if_exists: IfExists = "fail",
        start_delay: Duration | None = None,
        search: dict[str, Any] | None = None,
        entity: dict[str, Any] | None = None,
    ) -> WorkflowHandle:
        """Starts a workflow; returns once the start is stored, whether or not a worker is up.

        Args:
            workflow: the function, or its name.
            args: its arguments.
            workflow_id: anything unique on the task queue; a random one when not given.
            task_queue: whose workers run it; the workflow's own when not given, as in ``@workflow(task_queue="orders")``, then the client's.
            expire: how long the record is kept after the end; ``"forever"`` or None for ever; the worker's default when not given.
            if_exists: ``"fail"`` raises, ``"attach"`` gives a handle of the workflow that is there, ``"replace"`` terminates it if it still
                runs, and starts this one in its place.
            start_delay: how long until it begins. The broker holds the start; a cancel or terminate takes it back. Whether the id is free is looked
                at now and again when the time has come. The handle has no run id yet.
            search: fields of user data to begin with, as ``search()`` has them in workflow code.
            entity: the JSON document to begin with.

        Raises:
            WorkflowAlreadyStartedError: the id is taken, by a running or a kept workflow.
            InvalidInputError: arguments do not fit the function, or cannot be JSON.
            BrokerUnavailableError: no answer for long; starting again with the same id is safe.
        """
        headers = {} if search is None and entity is None else data_headers(search, entity)
        chosen, id_is_new = (self._new_id(), True) if workflow_id is None else (workflow_id, False)
        delay = None if start_delay is None else to_ms(start_delay, "start_delay")
        started = await self._start(workflow, args, chosen, task_queue, expire, if_exists, headers, id_is_new=id_is_new, delay=delay)
        return WorkflowHandle(
            self.lookups, started.ref, workflow_type=started.workflow_type, definition=started.definition, started_here=started.here
        )

    def _new_id(self) -> str:
        """96 bits of chance in hex, drawn from the system for many ids at once: each call of it is a twentieth of a start."""
        if not self._ids:
            drawn = clock.token(12 * IDS_AT_ONCE)
            self._ids = [drawn[at : at + 24] for at in range(0, len(drawn), 24)]
        return self._ids.pop()

    async def _start(
        self,
        workflow: WorkflowDefinition[..., Any] | Callable[..., Any] | str,
        args: tuple[Any, ...],
        workflow_id: str,
        task_queue: str | None,
        expire: Duration | Literal["default"] | None,
        if_exists: IfExists,
        more_headers: dict[str, str] | None = None,
        *,
        id_is_new: bool,
        delay: int | None = None,
    ) -> _Started:
        """``id_is_new``: the id was made here, so nobody can have it."""
        if if_exists not in ("fail", "attach", "replace"):
            raise InvalidInputError(f'if_exists must be "fail", "attach" or "replace", not {if_exists!r}')
        if if_exists == "replace":
            more_headers = (more_headers or {}) | {REPLACE: "1"}
        name, definition = _workflow_name(workflow)
        task_queue = self._queue_for(definition, task_queue)
        body, tell = _input(definition, args)
        check_body(f"the input of workflow {name!r}", body, self.broker.max_payload - sum(map(len, (more_headers or {}).values())))
        ref, type_token = WorkflowRef.of(workflow_id, task_queue), to_token(name, "workflow type")
        headers = _start_headers(tell=tell, expire=expire, more_headers=more_headers)
        if delay is not None:
            if not await self._schedule_start(ref, type_token, delay, body, headers) and if_exists == "fail":
                raise WorkflowAlreadyStartedError(workflow_id, task_queue)
            return _Started(ref, name, definition)
        sent = await self._starts.send(ref, type_token, body, headers, id_is_new=id_is_new)
        if not sent.is_taken and if_exists == "fail":
            raise WorkflowAlreadyStartedError(workflow_id, task_queue)
        if sent.run is not None:
            ref = ref.pinned(str(sent.run))
        return _Started(ref, name, definition, sent.is_taken, sent.record)

    async def _schedule_start(self, ref: WorkflowRef, type_token: str, delay: int, body: bytes, headers: dict[str, str]) -> bool:
        """False, and nothing scheduled, if the id is taken."""
        if REPLACE not in headers and await self.lookups.exists(ref):
            return False
        return await self._starts.schedule(ref, type_token, delay, body, headers)

    @overload
    async def execute(
        self,
        workflow: Callable[[A], Coroutine[Any, Any, R]],
        argument: A,
        /,
        *,
        workflow_id: str | None = None,
        task_queue: str | None = None,
        expire: Duration | Literal["default"] | None = "default",
        if_exists: IfExists = "fail",
        timeout: Duration | None = None,
    ) -> R: ...
    @overload
    async def execute(
        self,
        workflow: Callable[[*Ts], Coroutine[Any, Any, R]],
        *args: *Ts,
        workflow_id: str | None = None,
        task_queue: str | None = None,
        expire: Duration | Literal["default"] | None = "default",
        if_exists: IfExists = "fail",
        timeout: Duration | None = None,
    ) -> R: ...
    @overload
    async def execute(
        self,
        workflow: str,
        *args: Any,
        workflow_id: str | None = None,
        task_queue: str | None = None,
        expire: Duration | Literal["default"] | None = "default",
        if_exists: IfExists = "fail",
        timeout: Duration | None = None,
    ) -> Any: ...
    async def execute(
        self,
        workflow: WorkflowDefinition[..., Any] | Callable[..., Any] | str,
        *args: Any,
        workflow_id: str | None = None,
        task_queue: str | None = None,
        expire: Duration | Literal["default"] | None = "default",
        if_exists: IfExists = "fail",
        timeout: Duration | None = None,
    ) -> Any:
        """Starts a workflow and waits for its result; the arguments are those of ``start``, ``timeout`` that of ``result``."""
        chosen, id_is_new = (self._new_id(), True) if workflow_id is None else (workflow_id, False)
        task_queue = self._queue_for(_workflow_name(workflow)[1], task_queue)
        async with self.lookups.watches.until_closed(to_token(task_queue, "task queue"), to_token(chosen, "workflow id")) as until:
            started = await self._start(workflow, args, chosen, task_queue, expire, if_exists, id_is_new=id_is_new)
            record = await self.lookups.closed_record(started.ref, until, started.record, timeout)
            return outcome_of(record, started.definition)

    async def signal(self, signal_id: str, data: Any = None, expire: Duration | None = "10m") -> None:
        """Delivers a signal by its id alone, to a workflow that waits for it with ``condition(signal_id)``; returns once it is stored.

        For webhooks and others that know no workflow. Exactly one workflow of the namespace gets it, whatever its task queue: the one
        that waits longest. While nobody waits it is kept, and goes to whoever waits first.

        Args:
            signal_id: what the workflow waits for; something that no other workflow waits for by chance.
            data: anything that JSON can hold.
            expire: how long it is kept; ``"forever"`` or None for ever.

        Raises:
            InvalidInputError: the data cannot be JSON.
        """
        body = b"" if data is None else bytes(encode(data, "signal data"))
        headers = {EXPIRE: expire_header(expire)} if expire != "10m" else {}
        await send_signal_by_id(self.broker, to_token(signal_id, "signal id"), body, headers)

    @overload
    async def signal_with_start(
        self,
        workflow: Callable[[A], Coroutine[Any, Any, R]],
        argument: A,
        /,
        *,
        signal: str,
        data: Any = None,
        workflow_id: str,
        task_queue: str | None = None,
        signal_expire: Duration | None = "10m",
        expire: Duration | Literal["default"] | None = "default",
    ) -> WorkflowHandle[R]: ...
    @overload
    async def signal_with_start(
        self,
        workflow: Callable[[*Ts], Coroutine[Any, Any, R]],
        *args: *Ts,
        signal: str,
        data: Any = None,
        workflow_id: str,
        task_queue: str | None = None,
        signal_expire: Duration | None = "10m",
        expire: Duration | Literal["default"] | None = "default",
    ) -> WorkflowHandle[R]: ...
    @overload
    async def signal_with_start(
        self,
        workflow: str,
        *args: Any,
        signal: str,
        data: Any = None,
        workflow_id: str,
        task_queue: str | None = None,
        signal_expire: Duration | None = "10m",
        expire: Duration | Literal["default"] | None = "default",
    ) -> WorkflowHandle: ...
    async def signal_with_start(
        self,
        workflow: WorkflowDefinition[..., Any] | Callable[..., Any] | str,
        *args: Any,
        signal: str,
        data: Any = None,
        workflow_id: str,
        task_queue: str | None = None,
        signal_expire: Duration | None = "10m",
        expire: Duration | Literal["default"] | None = "default",
    ) -> WorkflowHandle:
        """Signals a workflow, which is started first if it does not run; many at once start one run, which gets every signal.

        Args:
            workflow: the function, or its name.
            args: its arguments, should it be started.
            signal: what it waits for with ``condition(signal)``.
            data: anything that JSON can hold.
            workflow_id: whose signal it is.
            task_queue: whose workers run it; the workflow's own when not given, then the client's.
            signal_expire: how long the signal is kept until the workflow waits for it; ``"forever"`` or None for ever.
            expire: how long the record is kept after the end, should it be started.

        Raises:
            WorkflowAlreadyClosedError: a run with this id has ended and its record is kept; nothing was signaled.
            InvalidInputError: arguments or data cannot be used; nothing was started.
        """
        encode(data, "signal data")
        to_token(signal, "signal name")
        limit_ms(signal_expire, "signal_expire")
        while True:
            handle = await self.start(workflow, *args, workflow_id=workflow_id, task_queue=task_queue, expire=expire, if_exists="attach")
            if handle.run_id is None:
                try:
                    record = await handle.describe()
                except WorkflowNotFoundError:
                    continue  # the run that had the id has gone since
                if record is not None and record.closed:
                    raise WorkflowAlreadyClosedError(workflow_id, record.status)
            await handle.signal(signal, data, expire=signal_expire)
            return handle

    # ---- finding

    def get_handle(self, workflow_id: str, task_queue: str | None = None, *, run_id: str | None = None) -> WorkflowHandle:
        """A handle of a workflow that may or may not exist, on the client's task queue when none is given; without a run id it follows the latest
        run.
        """
        return WorkflowHandle(self.lookups, WorkflowRef.of(workflow_id, self._queue_for(None, task_queue), run_id))

    def _queue_for(self, definition: WorkflowDefinition[..., Any] | None, given: str | None) -> str:
        """Return whose workers run a workflow: the queue that the call names, then the workflow's own, then the client's."""
        if given is not None:
            return given
        return self.task_queue if definition is None or definition.task_queue is None else definition.task_queue


def _input(definition: WorkflowDefinition[..., Any] | None, args: tuple[Any, ...]) -> tuple[bytes, int | None]:
    """A start's body, checked against the workflow's signature where that is known, and the number of arguments where a header has to say it."""
    if definition is None:
        return body_of(args)
    args = definition.signature.bind(args, {})
    body, tell = body_of(args)
    if args:
        definition.signature.decode_args(json_list([Raw(body)]) if len(args) == 1 else Raw(body))
    return body, tell


def _start_headers(*, tell: int | None, expire: Duration | Literal["default"] | None, more_headers: dict[str, str] | None) -> dict[str, str]:
    headers = dict(more_headers or {})
    if tell is not None:
        headers[ARGS] = str(tell)
    if expire != "default":
        headers[EXPIRE] = expire_header(expire)
    return headers


def _workflow_name(workflow: Any) -> tuple[str, WorkflowDefinition[..., Any] | None]:
    if isinstance(workflow, WorkflowDefinition):
        return workflow.name, workflow
    if isinstance(workflow, str):
        return workflow, None
    if callable(workflow):
        definition = as_workflow(workflow)
        return definition.name, definition
    raise InvalidInputError(f"workflow must be a @workflow function or its name, not {type(workflow).__name__}")


class _Started(NamedTuple):
    """What is known of a workflow after a start: whether it was started ``here``, and its record if it was read and there already."""

    ref: WorkflowRef
    workflow_type: str
    definition: WorkflowDefinition[..., Any] | None
    here: bool = False
    record: StateRecord | None = None


class Connecting:
    """A connection to be: ``await`` it, or enter it with ``async with``."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, Client]]) -> None:
        self._connect = connect
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()


def connecting(
    servers: str | Sequence[str] | None,
    *,
    namespace: str,
    task_queue: str | None = None,
    credentials: str | Path | None,
    tls: ssl.SSLContext | None = None,
    name: str,
    partitions: int | None = None,
    replicas: int | None = None,
    timeout: float = 5,
    refuse: bool = True,
) -> Connecting:
    """A client to be, as ``Client.connect`` gives it.

    Args:
        servers, namespace, task_queue, credentials, tls, name, partitions, replicas, timeout: see ``Client.connect``.
        refuse: whether a namespace that the engine cannot work with is an error. Who only looks at it says False, and is told by the log.
    """

    async def again(purpose: str) -> Wire:
        return await open_wire(servers, credentials=credentials, tls=tls, name=purpose, timeout=timeout, secondary=True)

    async def open_client() -> Client:
        broker = await Broker.connect(
            servers, namespace=namespace, credentials=credentials, tls=tls, name=name,
            partitions=partitions, replicas=replicas, timeout=timeout, refuse=refuse,
        )  # fmt: skip
        return Client(broker, again, chosen)

    chosen = (os.environ.get("JETFLOW_TASK_QUEUE") or DEFAULT_QUEUE) if task_queue is None else task_queue
    to_token(chosen, "task queue")
    return Connecting(open_client)


@asynccontextmanager
async def local(
    store_dir: str | Path | None = None,
    *,
    port: int = 0,
    namespace: str = DEFAULT_NAMESPACE,
    task_queue: str | None = None,
    partitions: int | None = None,
) -> AsyncIterator[Client]:
    """Starts an embedded nats-server on 127.0.0.1 and connects to it; both end with the block.

    Args:
        store_dir: where workflows are kept over restarts; None for a folder that is thrown away.
        port: 0 for a free one.
        namespace: which set of workflows.
        task_queue: the default of every call that takes one, see ``Client.connect``.
        partitions: of a new namespace.

    Raises:
        BrokerError: nats-server is missing or did not start; with its log.
    """
    async with (
        LocalServer(store_dir, port) as server,
        Client.connect(server.url, namespace=namespace, task_queue=task_queue, partitions=partitions) as client,
    ):
        yield client
