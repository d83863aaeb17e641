"""The client: starts, finds and commands workflows. It consumes nothing.

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
from jetflow.core.definitions import WorkflowDefinition, workflow_of
from jetflow.core.durations import Duration, limit_ms, to_ms
from jetflow.core.ids import to_token
from jetflow.core.values import TypedDecoder, body_of, encode, json_list
from jetflow.errors import (
    InvalidInputError,
    WorkflowAlreadyClosedError,
    WorkflowAlreadyStartedError,
    WorkflowNotFoundError,
)
from jetflow.handle import WorkflowHandle
from jetflow.protocol import clock
from jetflow.protocol.commands import check_body, data_headers, expire_header
from jetflow.protocol.headers import ARGS, EXPIRE, REPLACE, START_DELAY
from jetflow.protocol.record import StateRecord
from jetflow.protocol.reference import WorkflowRef
from jetflow.protocol.subjects import DEFAULT_NAMESPACE
from jetflow.reading.finding import Finding
from jetflow.reading.lookups import Lookups
from jetflow.reading.results import ResultType, outcome_of
from jetflow.sending.commands import send_signal_by_id
from jetflow.sending.starts import Starts

DEFAULT_QUEUE = "default"
NO_CREDENTIALS: Any = ""
"""In place of a credentials file: none, whatever the environment says."""
IDS_AT_ONCE = 64
"""Workflow ids generated together."""

R = TypeVar("R")
A = TypeVar("A")  # one argument has its own overload, so that a type checker accepts [1] as a list[float]
Ts = TypeVarTuple("Ts")

IfExists = Literal["fail", "attach", "replace"]


class Client(Finding):
    """A connection to a namespace of workflows. Create it with ``Client.connect`` or ``jetflow.local``.

    Attributes:
        task_queue: the default task queue, where neither the call nor the workflow names another one.

    It belongs to the event loop in which it was connected. In another one, in another thread, and in workflow code its calls raise.
    """

    def __init__(self, broker: Broker, connect_again: Callable[[str], Coroutine[Any, Any, Wire]], task_queue: str = DEFAULT_QUEUE) -> None:
        to_token(task_queue, "task queue")
        self._broker = broker
        self.task_queue = task_queue
        self._connect_again = connect_again
        self._ids: list[str] = []
        self._lookups = looks = Lookups(broker)
        self._sends = Starts(broker, looks.states, looks.timeline)
        self._events = LifecycleStream(broker.lane, broker.names)

    @staticmethod
    def connect(
        servers: str | Sequence[str] | None = None,
        *,
        namespace: str | None = None,
        task_queue: str | None = None,
        credentials: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        name: str = "client",
        partitions: int | None = None,
        replicas: int | None = None,
        timeout: float = 5,
    ) -> Connecting:
        """Connect to the broker. Use the result with ``async with``, or await it and call ``close()`` later.

        Args:
            servers: one address or several. Default: ``JETFLOW_URL``, then ``nats://127.0.0.1:4222``.
            namespace: name of the namespace. Default: ``JETFLOW_NAMESPACE``, then ``"jetflow"``.
            task_queue: the default of every call that takes a task queue, and of ``Worker(client)``. Default: ``JETFLOW_TASK_QUEUE``, then
                ``"default"``. Filters, as of ``client.list``, do not use it.
            credentials: path of a ``.creds`` file. Default: ``JETFLOW_CREDS``, then none.
            tls: an SSL context.
            name: the connection's name in the server's connection list.
            partitions: number of partitions of a new namespace. Default: 64. An existing namespace keeps its own number.
            replicas: replicas of each stream of a new namespace. An existing namespace keeps its own number.
            timeout: seconds to wait for the first connection.

        Raises:
            BrokerError: the server cannot be reached or used. The message says what is missing and what to do.

        The command line reads the same variables. An empty one counts as not set.
        """
        return connecting(
            servers, namespace=namespace, task_queue=task_queue, credentials=credentials, tls=tls, name=name,
            partitions=partitions, replicas=replicas, timeout=timeout,
        )  # fmt: skip

    @property
    def lookups(self) -> Lookups:
        """What is read about single workflows, for handles.

        Raises:
            WrongEventLoopError: the client belongs to another event loop or thread.
            NotAllowedInWorkflowError: workflow code uses it.
        """
        return self._lookups.here()

    @property
    def states(self) -> StateStore:
        """The state records; raises as ``lookups``."""
        return self._lookups.here().states

    @property
    def broker(self) -> Broker:
        """The connection, for workers; raises as ``lookups``."""
        return self._lookups.here().broker

    @property
    def url(self) -> str:
        """Address of the server."""
        return self._broker.url

    @property
    def namespace(self) -> str:
        """The namespace's name."""
        return self._broker.names.namespace

    async def close(self) -> None:
        """Write pending messages and close the connection."""
        self.lookups.watches.close()
        await self.broker.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def enable_events(self, keep: Duration | None = "7d") -> None:
        """Create the stream of lifecycle events. Workers publish to it within seconds. See docs/events.md.

        Args:
            keep: how long the stream stores an event; ``"forever"`` or None: no limit. Another call changes it.

        Raises:
            BrokerError: the stream cannot be created.
        """
        await self._events.create(limit_ms(keep, "keep"), self.broker.topology.replicas)

    async def disable_events(self) -> None:
        """Delete the stream of lifecycle events, with every event in it."""
        self._lookups.here()
        await self._events.delete()

    async def another_wire(self, purpose: str) -> Wire:
        """Open another connection to the same server, for the event loop of the caller."""
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
        """Start a workflow. Return once the broker has stored the start, whether or not a worker is up.

        Args:
            workflow: the function, or its name.
            args: its arguments.
            workflow_id: unique on the task queue. Default: a random id.
            task_queue: the queue whose workers run the workflow. Default: the workflow's own, as in ``@workflow(task_queue="orders")``, then
                the client's.
            expire: how long the record stays after the end; ``"forever"`` or None: no limit. Default: the worker's ``default_expire``.
            if_exists: what to do if the id is taken. ``"fail"`` raises. ``"attach"`` returns a handle of the existing workflow. ``"replace"``
                terminates the existing workflow if it still runs, and starts this one in its place.
            start_delay: how long until the workflow's code begins, by the broker's clock. The run exists at once and has the id. A cancel or
                terminate before its time ends it, and its record stays for a second.
            search: initial fields of ``search()``.
            entity: initial document of ``entity()``.

        Raises:
            WorkflowAlreadyStartedError: the id is taken by a running workflow, or by an ended one whose record has not expired.
            InvalidInputError: the arguments do not fit the function, or cannot be written as JSON.
            PayloadTooLargeError: the arguments are larger than one message.
            BrokerUnavailableError: the broker gave no answer in time. It is safe to start again with the same id.
        """
        lookups = self.lookups
        headers = {} if search is None and entity is None else data_headers(search, entity)
        if start_delay is not None:
            headers[START_DELAY] = f"{to_ms(start_delay, 'start_delay')}ms"
        chosen, id_is_new = (self._new_id(), True) if workflow_id is None else (workflow_id, False)
        ref = WorkflowRef.of(chosen, self._queue_for(workflow_of(workflow)[1], task_queue))
        started = await self._start(workflow, args, ref, expire, if_exists, headers, id_is_new=id_is_new)
        return WorkflowHandle(lookups, started.ref, workflow_type=started.workflow_type, definition=started.definition, started_here=started.here)

    def _new_id(self) -> str:
        """Return 96 random bits in hex. Bits for many ids are drawn together, since one system call takes a twentieth of a start's time."""
        if not self._ids:
            drawn = clock.token(12 * IDS_AT_ONCE)
            self._ids = [drawn[at : at + 24] for at in range(0, len(drawn), 24)]
        return self._ids.pop()

    async def _start(
        self,
        workflow: WorkflowDefinition[..., Any] | Callable[..., Any] | str,
        args: tuple[Any, ...],
        ref: WorkflowRef,
        expire: Duration | Literal["default"] | None,
        if_exists: IfExists,
        more_headers: dict[str, str] | None = None,
        *,
        id_is_new: bool,
    ) -> _Started:
        """Start a workflow. ``id_is_new``: the id was generated here, so no other workflow has it."""
        if if_exists not in ("fail", "attach", "replace"):
            raise InvalidInputError(f'if_exists must be "fail", "attach" or "replace", not {if_exists!r}')
        if if_exists == "replace":
            more_headers = (more_headers or {}) | {REPLACE: "1"}
        name, definition = workflow_of(workflow)
        body, tell = _input(definition, args)
        check_body(f"the input of workflow {name!r}", body, self._broker.max_payload - sum(map(len, (more_headers or {}).values())))
        type_token = to_token(name, "workflow type")
        headers = _start_headers(tell=tell, expire=expire, more_headers=more_headers)
        sent = await self._sends.send(ref, type_token, body, headers, id_is_new=id_is_new)
        if not sent.is_taken and if_exists == "fail":
            raise WorkflowAlreadyStartedError(ref.workflow_id, ref.task_queue)
        if sent.run is not None:
            ref = ref.pinned(str(sent.run))
        return _Started(ref, name, definition, sent.is_taken, sent.record)

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
        """Start a workflow and return its result. For the arguments and errors see ``start`` and ``WorkflowHandle.result``."""
        lookups = self.lookups
        chosen, id_is_new = (self._new_id(), True) if workflow_id is None else (workflow_id, False)
        task_queue = self._queue_for(workflow_of(workflow)[1], task_queue)
        ref = WorkflowRef.of(chosen, task_queue)
        async with lookups.watches.until_closed(ref.queue_token, ref.id_token) as until:
            started = await self._start(workflow, args, ref, expire, if_exists, id_is_new=id_is_new)
            record = await lookups.closed_record(started.ref, until, started.record, timeout)
            return outcome_of(record, started.definition)

    async def signal(self, signal_id: str, data: Any = None, expire: Duration | None = "10m") -> None:
        """Send a signal by id, to a workflow that waits for it with ``condition(signal_id)``. Return once the broker has stored it.

        Use it where the sender does not know the workflow, such as a webhook. Exactly one workflow of the namespace gets the signal,
        on any task queue: the one that has waited longest. While none waits, the broker stores the signal for the first that will.

        Args:
            signal_id: the id that the workflow waits for. Choose one that no other workflow uses by chance.
            data: any JSON value.
            expire: how long the signal waits for a workflow; ``"forever"`` or None: no limit.

        Raises:
            InvalidInputError: the data cannot be written as JSON.
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
        """Signal a workflow, and start it first if it does not run. Concurrent calls start one run, which gets every signal.

        Args:
            workflow: the function, or its name.
            args: its arguments, for a start.
            signal: the name that the workflow waits for with ``condition(signal)``.
            data: any JSON value.
            workflow_id: the workflow's id.
            task_queue: the queue whose workers run the workflow. Default: the workflow's own, then the client's.
            signal_expire: how long the signal waits for the workflow's ``condition``; ``"forever"`` or None: no limit.
            expire: how long the record stays after the end, for a start.

        Raises:
            WorkflowAlreadyClosedError: a run with this id has ended and its record has not expired. No signal was sent.
            InvalidInputError: the arguments or the data are invalid. Nothing was started.
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
                    continue  # the run that had the id has expired since
                if record is not None and record.closed:
                    raise WorkflowAlreadyClosedError(workflow_id, record.status)
            # not by a pinned handle: a start that was scheduled earlier may still take the id first
            await self.get_handle(handle.workflow_id, handle.task_queue).signal(signal, data, expire=signal_expire)
            return handle

    # ---- finding

    @overload
    def get_handle(
        self, workflow_id: str, task_queue: str | None = None, *, run_id: str | None = None, workflow: Callable[..., Coroutine[Any, Any, R]]
    ) -> WorkflowHandle[R]: ...
    @overload
    def get_handle(
        self, workflow_id: str, task_queue: str | None = None, *, run_id: str | None = None, result_type: type[R]
    ) -> WorkflowHandle[R]: ...
    @overload
    def get_handle(
        self, workflow_id: str, task_queue: str | None = None, *, run_id: str | None = None, workflow: str | None = None, result_type: Any = Any
    ) -> WorkflowHandle: ...
    def get_handle(
        self, workflow_id: str, task_queue: str | None = None, *, run_id: str | None = None, workflow: Any = None, result_type: Any = Any
    ) -> WorkflowHandle:
        """Return a handle of a workflow that may or may not exist.

        Args:
            workflow_id: its id.
            task_queue: whose workers run it; the queue of ``workflow`` when not given, then the client's.
            run_id: the run that the handle is pinned to; without one it follows the latest run.
            workflow: the function, or its name. Results are decoded to what the function returns.
            result_type: the type that results are decoded to, where the function is not at hand; plain JSON types without either.

        Raises:
            InvalidInputError: an argument cannot be used.
        """
        name, definition = (None, None) if workflow is None else workflow_of(workflow)
        typed: ResultType = definition
        if result_type is not Any:
            if definition is not None:
                raise InvalidInputError("get_handle takes workflow= with a function, or result_type=, not both")
            typed = TypedDecoder(result_type, f"workflow {workflow_id!r}, result")
        ref = WorkflowRef.of(workflow_id, self._queue_for(definition, task_queue), run_id)
        return WorkflowHandle(self._lookups, ref, workflow_type=name, definition=typed)

    def _queue_for(self, definition: WorkflowDefinition[..., Any] | None, given: str | None) -> str:
        """Return the task queue that the call names, or the workflow's own, or the client's."""
        if given is not None:
            return given
        return self.task_queue if definition is None or definition.task_queue is None else definition.task_queue


def _input(definition: WorkflowDefinition[..., Any] | None, args: tuple[Any, ...]) -> tuple[bytes, int | None]:
    """Return a start's body, and the number of arguments if the header ``ARGS`` must say it. Check the arguments if the signature is known."""
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


class _Started(NamedTuple):
    """A workflow after a start. ``here``: this call started it. ``record``: its state record, if the start has read one."""

    ref: WorkflowRef
    workflow_type: str
    definition: WorkflowDefinition[..., Any] | None
    here: bool = False
    record: StateRecord | None = None


class Connecting:
    """A client that connects when you ``await`` it or enter it with ``async with``."""

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
    namespace: str | None,
    task_queue: str | None = None,
    credentials: str | Path | None,
    tls: ssl.SSLContext | None = None,
    name: str,
    partitions: int | None = None,
    replicas: int | None = None,
    timeout: float = 5,
    refuse: bool = True,
) -> Connecting:
    """Return what ``Client.connect`` returns.

    Args:
        servers, namespace, task_queue, credentials, tls, name, partitions, replicas, timeout: see ``Client.connect``.
        refuse: whether a namespace that the engine cannot work with is an error. With False, for readers, the log reports it.
    """

    async def again(purpose: str) -> Wire:
        return await open_wire(servers, credentials=credentials, tls=tls, name=purpose, timeout=timeout, secondary=True)

    async def open_client() -> Client:
        broker = await Broker.connect(
            servers, namespace=space, credentials=credentials, tls=tls, name=name,
            partitions=partitions, replicas=replicas, timeout=timeout, refuse=refuse,
        )  # fmt: skip
        return Client(broker, again, chosen)

    chosen = (os.environ.get("JETFLOW_TASK_QUEUE") or DEFAULT_QUEUE) if task_queue is None else task_queue
    space = (os.environ.get("JETFLOW_NAMESPACE") or DEFAULT_NAMESPACE) if namespace is None else namespace
    credentials = (os.environ.get("JETFLOW_CREDS") if credentials is None else credentials) or None
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
    """Start an embedded nats-server on 127.0.0.1 and connect to it. Both end with the block.

    Args:
        store_dir: the folder that stores workflows across restarts; None: a temporary folder.
        port: the server's port; 0: any free port.
        namespace: name of the namespace.
        task_queue: the default task queue, as in ``Client.connect``.
        partitions: number of partitions of a new namespace.

    Raises:
        BrokerError: nats-server is missing or did not start. The message has its log.
    """
    async with (
        LocalServer(store_dir, port) as server,
        Client.connect(server.url, namespace=namespace, task_queue=task_queue, credentials=NO_CREDENTIALS, partitions=partitions) as client,
    ):
        yield client
