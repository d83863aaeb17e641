"""What workflow code may call. Read this module top to bottom as the manual.

A workflow is an ``async def`` function that decides. All I/O is in the activities that it awaits. jetflow may run its code
again at any time, to rebuild its memory from the recorded events. So the code must be deterministic: take the time from
``now()``, random values from ``random()`` and ``uuid4()``, and anything else from an activity or ``side_effect()``.
``asyncio`` and ``anyio`` work as usual: ``gather``, ``TaskGroup``, ``timeout``, ``wait``, queues and events.
``asyncio.sleep`` is a durable timer.

    @workflow
    async def order(o: Order) -> str:
        receipt = await charge(o)                                 # never runs again once recorded
        approval = await condition("approval", timeout="24h", model=Approval)
        if approval is False:                                     # timed out
            await refund(receipt)
        await sleep("5m")                                         # survives restarts
        return receipt.id
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, ParamSpec, Protocol, TypeVar, TypeVarTuple, cast, overload

from jetflow.core import events as ev
from jetflow.core.data import Entity, Search, UserData
from jetflow.core.definitions import ActivityDefinition, ActivityOptions, RetryPolicy, WorkflowDefinition, activity_options
from jetflow.core.durations import Duration, limit_ms, to_ms
from jetflow.core.events import FOREVER_MS
from jetflow.core.failures import is_cancellation
from jetflow.core.ids import to_token
from jetflow.core.loop import current_machine
from jetflow.core.machine import Machine
from jetflow.core.operation import RunInfo
from jetflow.core.recorder import shielded
from jetflow.core.values import TypedDecoder, encode, encode_args
from jetflow.errors import InvalidInputError, JetflowError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A")  # one argument has its own overload, so that a type checker accepts [1] as a list[float]
Ts = TypeVarTuple("Ts")

ParentClosePolicy = Literal["terminate", "cancel", "abandon"]
"""What happens to a child when its parent ends first."""


def _machine() -> Machine:
    machine = current_machine()
    if machine is None:
        raise JetflowError("this can only be called inside a running @workflow function")
    return machine


# ---- waiting


async def sleep(duration: Duration) -> float:
    """Wait durably. Worker restarts do not change the time at which the sleep ends.

    Args:
        duration: text such as ``"5m"``, a ``timedelta``, or seconds. Zero returns at once.

    Returns:
        The duration in seconds.

    Raises:
        CancelledFailure: the workflow was asked to cancel.
    """
    seconds = to_ms(duration) / 1000
    _machine()
    await asyncio.sleep(seconds)
    return seconds


@overload
async def condition(what: Callable[[], Any], *, timeout: Duration | None = None) -> bool: ...
@overload
async def condition(what: str, *, timeout: None = None, model: type[T]) -> T: ...
@overload
async def condition(what: str, *, timeout: Duration | None, model: type[T]) -> T | Literal[False]: ...
@overload
async def condition(what: str, *, timeout: Duration | None = None, model: Any = Any) -> Any: ...
async def condition(what: str | Callable[[], Any], *, timeout: Duration | None = None, model: Any = Any) -> Any:
    """Wait for a signal by name, or until a predicate over the workflow's own data is true.

    Args:
        what: a signal's name, or a function without side effects. The function runs after every input.
        timeout: how long to wait; ``"forever"`` or None: no limit.
        model: type of the signal's payload. Default: plain JSON types.

    Returns:
        The payload (True for a predicate), or ``False`` after the timeout.

    Raises:
        CancelledFailure: the workflow was asked to cancel.
        InvalidInputError: the payload does not fit ``model``.
    """
    machine, limit = _machine(), limit_ms(timeout, "timeout")
    if isinstance(what, str):
        if not what:
            raise InvalidInputError("condition() got an empty signal name")
        return await machine.wait_signal(what, limit, model)
    if asyncio.iscoroutinefunction(what):
        raise InvalidInputError("condition() needs a plain function, not an async one: a coroutine is always true")
    if limit is None:
        await machine.wait_until(what)
        return True
    try:
        async with asyncio.timeout(limit / 1000):
            await machine.wait_until(what)
    except TimeoutError:
        return False
    return True


async def signal(workflow_id: str, name: str, data: Any = None, *, task_queue: str | None = None, expire: Duration | None = "10m") -> None:
    """Send a signal to another workflow, exactly once, after the commit that records it. Do not wait until that workflow takes it.

    Args:
        workflow_id: the other workflow's id.
        name: the name that the other workflow waits for with ``condition(name)``.
        data: any JSON value.
        task_queue: the other workflow's task queue. Default: this workflow's.
        expire: how long the signal waits for the other workflow's ``condition``; ``"forever"`` or None: no limit.

    Raises:
        InvalidInputError: the data cannot be written as JSON, or a name is invalid.
    """
    machine = _machine()
    queue = machine.info.task_queue if task_queue is None else task_queue
    for text, what in ((workflow_id, "workflow id"), (name, "signal name"), (queue, "task queue")):
        to_token(text, what)
    kept = limit_ms(expire, "expire")
    machine.send_signal(workflow_id, queue, name, encode(data, "signal data"), FOREVER_MS if kept is None else kept)


# ---- activities by name, or with other options

if TYPE_CHECKING:
    R_co = TypeVar("R_co", covariant=True)

    class _Step(Protocol[*Ts, R_co]):
        """A decorated activity, typed by its arguments and result."""

        options: ActivityOptions

        def __call__(self, *args: *Ts) -> Coroutine[Any, Any, R_co]: ...


@overload
async def execute_activity(
    activity: _Step[*Ts, R],
    *args: *Ts,
    retry: RetryPolicy | None = None,
    start_to_close_timeout: Duration | None = None,
    schedule_to_close_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    task_queue: str | None = None,
) -> R: ...
@overload
async def execute_activity(
    activity: str,
    *args: Any,
    result_type: type[R],
    retry: RetryPolicy | None = None,
    start_to_close_timeout: Duration | None = None,
    schedule_to_close_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    task_queue: str | None = None,
) -> R: ...
@overload
async def execute_activity(
    activity: str,
    *args: Any,
    result_type: Any = Any,
    retry: RetryPolicy | None = None,
    start_to_close_timeout: Duration | None = None,
    schedule_to_close_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    task_queue: str | None = None,
) -> Any: ...
async def execute_activity(activity: Any, *args: Any, result_type: Any = Any, **options: Any) -> Any:
    """Run an activity as a durable step. ``await charge(order)`` is the short form of ``execute_activity(charge, order)``.

    Args:
        activity: a decorated function, or an activity's name.
        args: its arguments.
        result_type: type of the result of an activity given by name. Default: plain JSON types.
        options: ``retry``, ``start_to_close_timeout``, ``schedule_to_close_timeout``, ``heartbeat_timeout``, ``task_queue``.

    Raises:
        ActivityError: the activity failed and will not be retried.
        CancelledFailure: the workflow was asked to cancel.
    """
    machine = _machine()
    if isinstance(activity, ActivityDefinition):
        chosen = activity_options(activity.options, **options)
        return await machine.run_activity(activity, activity.signature.bind(args, {}), chosen)
    return await machine.run_named_activity(activity, args, activity_options(**options), result_type)


class _ActivityProxy:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args: execute_activity(name, *args, **self._options)


def proxy_activities(**options: Any) -> Any:
    """Return an object on which each attribute is the activity of that name: ``await proxy_activities(task_queue="mail").send(x)``.

    Args:
        options: the options of ``execute_activity``.
    """
    activity_options(**options)
    return _ActivityProxy(options)


# ---- children


class ChildHandle:
    """A started child workflow.

    Attributes:
        workflow_id: its id.
        task_queue: the task queue it runs on.
        run_id: its run id.
    """

    def __init__(self, workflow_id: str, task_queue: str, run_id: str) -> None:
        self.workflow_id = workflow_id
        self.task_queue = task_queue
        self.run_id = run_id

    def __repr__(self) -> str:
        return f"<child workflow {self.workflow_id} on {self.task_queue}>"


def _child(
    machine: Machine,
    workflow: WorkflowDefinition[..., Any] | Callable[..., Any] | str,
    args: tuple[Any, ...],
    *,
    awaited: bool,
    workflow_id: str | None,
    task_queue: str | None,
    parent_close_policy: ParentClosePolicy,
    expire: Duration | None,
) -> tuple[ev.ChildStarted, TypedDecoder]:
    if parent_close_policy not in ("terminate", "cancel", "abandon"):
        raise InvalidInputError(f'parent_close_policy must be "terminate", "cancel" or "abandon", not {parent_close_policy!r}')
    own = None
    if isinstance(workflow, WorkflowDefinition):
        name, own, decode = workflow.name, workflow.task_queue, workflow.signature.result
        args = workflow.signature.bind(args, {})
    else:
        name = workflow if isinstance(workflow, str) else workflow.__name__
        decode = TypedDecoder(Any, f"child workflow {name!r}, result")
    to_token(name, "workflow type")
    if workflow_id is not None:
        to_token(workflow_id, "workflow id")
    if task_queue is not None:
        to_token(task_queue, "task queue")
    started = ev.ChildStarted(
        index=0,
        at=machine.now,
        workflow_type=name,
        workflow_id=workflow_id or "",
        task_queue=task_queue or own or machine.info.task_queue,
        input=encode_args(args, name),
        awaited=awaited,
        parent_close_policy=parent_close_policy,
        expire=machine.info.expire if expire is None else limit_ms(expire, "expire"),
    )
    return started, decode


@overload
async def execute_child(
    workflow: Callable[[A], Coroutine[Any, Any, R]],
    argument: A,
    /,
    *,
    workflow_id: str | None = None,
    task_queue: str | None = None,
    parent_close_policy: ParentClosePolicy = "terminate",
    expire: Duration | None = None,
) -> R: ...
@overload
async def execute_child(
    workflow: Callable[[*Ts], Coroutine[Any, Any, R]],
    *args: *Ts,
    workflow_id: str | None = None,
    task_queue: str | None = None,
    parent_close_policy: ParentClosePolicy = "terminate",
    expire: Duration | None = None,
) -> R: ...
@overload
async def execute_child(
    workflow: str,
    *args: Any,
    workflow_id: str | None = None,
    task_queue: str | None = None,
    parent_close_policy: ParentClosePolicy = "terminate",
    expire: Duration | None = None,
) -> Any: ...
async def execute_child(
    workflow: WorkflowDefinition[..., Any] | Callable[..., Any] | str,
    *args: Any,
    workflow_id: str | None = None,
    task_queue: str | None = None,
    parent_close_policy: ParentClosePolicy = "terminate",
    expire: Duration | None = None,
) -> Any:
    """Start a child workflow and return its result.

    Args:
        workflow: the child's function or its name.
        args: its arguments.
        workflow_id: the child's id. Default: derived from the parent's id.
        task_queue: the child's task queue. Default: the child workflow's own, as in ``@workflow(task_queue="orders")``, then the parent's.
        parent_close_policy: what happens to the child if the parent ends first.
        expire: how long the child's record stays after it ends; ``"forever"``: no limit. Default: the parent's.

    Raises:
        ChildWorkflowError: the child failed (its failure is the cause), or another workflow has its id.
        CancelledFailure: the workflow was asked to cancel.
    """
    machine = _machine()
    started, decode = _child(
        machine, workflow, args, awaited=True, workflow_id=workflow_id, task_queue=task_queue,
        parent_close_policy=parent_close_policy, expire=expire,
    )  # fmt: skip
    return await machine.start_child(started, decode)


@overload
async def start_child(
    workflow: Callable[[A], Coroutine[Any, Any, Any]],
    argument: A,
    /,
    *,
    workflow_id: str | None = None,
    task_queue: str | None = None,
    parent_close_policy: ParentClosePolicy = "terminate",
    expire: Duration | None = None,
) -> ChildHandle: ...
@overload
async def start_child(
    workflow: Callable[[*Ts], Coroutine[Any, Any, Any]],
    *args: *Ts,
    workflow_id: str | None = None,
    task_queue: str | None = None,
    parent_close_policy: ParentClosePolicy = "terminate",
    expire: Duration | None = None,
) -> ChildHandle: ...
@overload
async def start_child(
    workflow: str,
    *args: Any,
    workflow_id: str | None = None,
    task_queue: str | None = None,
    parent_close_policy: ParentClosePolicy = "terminate",
    expire: Duration | None = None,
) -> ChildHandle: ...
async def start_child(
    workflow: WorkflowDefinition[..., Any] | Callable[..., Any] | str,
    *args: Any,
    workflow_id: str | None = None,
    task_queue: str | None = None,
    parent_close_policy: ParentClosePolicy = "terminate",
    expire: Duration | None = None,
) -> ChildHandle:
    """Start a child workflow and return once its worker has accepted it. For the arguments see ``execute_child``.

    Raises:
        ChildWorkflowError: another workflow has the id.
        CancelledFailure: the workflow was asked to cancel.
    """
    machine = _machine()
    started, decode = _child(
        machine, workflow, args, awaited=False, workflow_id=workflow_id, task_queue=task_queue,
        parent_close_policy=parent_close_policy, expire=expire,
    )  # fmt: skip
    run = await machine.start_child(started, decode)
    return ChildHandle(started.workflow_id, started.task_queue, str(run))


def continue_as_new(*args: Any, workflow: WorkflowDefinition[..., Any] | str | None = None) -> NoReturn:
    """End this generation and begin the next one with an empty history, under the same id and run id. It never returns.

    Args:
        args: arguments of the next generation.
        workflow: the workflow of the next generation. Default: the same one.
    """
    machine = _machine()
    definition = workflow or machine.definition
    name = definition if isinstance(definition, str) else definition.name
    if isinstance(definition, WorkflowDefinition):
        args = definition.signature.bind(args, {})
    machine.continue_as_new(name, encode_args(args, name))


# ---- user data, queries and updates


def _user_data(change: bool) -> UserData:
    return _machine().user_data(change)


def search() -> Search:
    """Return the workflow's named fields, with ``set get mget delete incr mult``. None of them is awaited.

    search().set(stage="paid", total=42)

    ``handle.query_state(["stage"])`` reads the fields from outside. The next generation of ``continue_as_new`` gets them too. They are not
    recorded: a replay computes them again.
    """
    return Search(_user_data)


def entity() -> Entity:
    """Return the workflow's JSON document, with ``set merge get delete append prepend remove increment toggle set_if_not_exists``.

    Paths are dotted.

    entity().append("order.lines", {"sku": "A"})
    """
    return Entity(_user_data)


def enrich(values: dict[str, Any]) -> None:
    """Set several fields of ``search()`` at once.

    Raises:
        InvalidInputError: a value cannot be written as JSON.
        PayloadTooLargeError: the workflow's user data would be larger than half of the broker's largest message.
    """
    search().set(values)


def set_query_handler(name: str, function: Callable[..., Any]) -> None:
    """Answer ``handle.query(name, *args)`` with a function that reads the workflow's variables.

    The function may run at any time between two inputs, and the timeline does not record it. So it must change nothing. jetflow refuses
    operations, timers, tasks and changes of user data in it. Do not change variables of the workflow in it: a replay would not repeat that.

        lines: list[str] = []
        set_query_handler("lines", lambda: lines)

    Args:
        name: the query's name. A later handler of the same name replaces the earlier one.
        function: a plain function. Annotated arguments are decoded like those of a workflow.
    """
    _machine().given_out().set_query(name, function)


def set_update_handler(name: str, function: Callable[..., Any], validator: Callable[..., Any] | None = None) -> None:
    """Answer ``handle.update(name, *args)`` with a function that runs in the workflow. Its call and its result are recorded.

    Args:
        name: the update's name. A later handler of the same name replaces the earlier one.
        function: plain or async. It may do whatever workflow code may, including awaiting activities. Several calls may run at once. If a
            call has not returned when the workflow ends or continues as new, it is dropped and its caller gets an error.
        validator: a plain function with the same arguments. It raises to refuse a call before anything is recorded. It may only read.
    """
    _machine().given_out().set_update(name, function, validator)


# ---- cancellation


class CancellationScope:
    """Scopes that control whether a cancel reaches the operations inside them."""

    @staticmethod
    @asynccontextmanager
    async def non_cancellable() -> AsyncIterator[None]:
        """Run the operations inside as if the workflow had not been asked to cancel. Use it for cleanup.

        async with CancellationScope.non_cancellable():
            await refund(order)
        """
        token = shielded.set(True)
        try:
            yield
        finally:
            shielded.reset(token)


# ---- time, random values and code versions


def now() -> datetime:
    """Return the workflow's time in UTC: the time at which its current input was recorded."""
    return datetime.fromtimestamp(_machine().tell_time() / 1000, UTC)


def random() -> float:
    """Return a random number in [0, 1). It is the same in every replay and differs between workflows."""
    return _machine().random.random()


def uuid4() -> uuid.UUID:
    """Return a random UUID. It is the same in every replay and differs between workflows."""
    return uuid.UUID(int=_machine().random.getrandbits(128), version=4)


def side_effect(function: Callable[[], R]) -> R:
    """Call a quick function once and record its result. Every replay returns the recorded result, as plain JSON types."""
    return _machine().side_effect(function)  # type: ignore[no-any-return]


def patched(patch_id: str) -> bool:
    """Return True in runs that reach this line with the new code, False in runs that passed it with the old code.

    if patched("use-new-carrier"):
        await ship_with_new_carrier(order)
    else:
        await ship(order)
    """
    return _machine().patched(patch_id)


def deprecate_patch(patch_id: str) -> None:
    """Replace a call of ``patched`` when no run of the old branch is left. Runs that recorded the patch still replay."""
    _machine().deprecate_patch(patch_id)


class WorkflowInfo:
    """The facts about the run that the code belongs to.

    Attributes:
        workflow_id, task_queue, workflow_type, namespace: as given at the start.
        run_id: the run id, as in ``handle.run_id``.
        generation: 1 at first, and one more after each ``continue_as_new``.
        parent_workflow_id: the parent's id; None without a parent.
        origin_id: id of the topmost ancestor; None without a parent.
        started_at: when the run began, in UTC.
    """

    def __init__(self, info: RunInfo) -> None:
        self.workflow_id: str = info.workflow_id
        self.task_queue: str = info.task_queue
        self.workflow_type: str = info.workflow_type
        self.namespace: str = info.namespace
        self.run_id: str = str(info.run)
        self.generation: int = info.generation
        self.parent_workflow_id: str | None = info.parent.workflow_id if info.parent else None
        self.origin_id: str | None = info.origin
        self.started_at: datetime = datetime.fromtimestamp(info.started_at / 1000, UTC)


def workflow_info() -> WorkflowInfo:
    """Return the facts about the run that the code belongs to."""
    machine = _machine()
    machine.tell_time()  # ``started_at``
    return WorkflowInfo(machine.info)


# ---- the decorator


info: Final = workflow_info
"""Another name for ``workflow_info``, for ``workflow.info()``."""

_Base = object if TYPE_CHECKING else ModuleType


class _Workflow(_Base):
    """This module, which is also the decorator: ``@workflow``, ``workflow.now()`` and ``import jetflow.workflow`` use one object."""

    if TYPE_CHECKING:  # at run time the module has them

        def __init__(self) -> None:
            self.sleep: Final = sleep
            self.condition: Final = condition
            self.signal: Final = signal
            self.execute_activity: Final = execute_activity
            self.proxy_activities: Final = proxy_activities
            self.execute_child: Final = execute_child
            self.start_child: Final = start_child
            self.continue_as_new: Final = continue_as_new
            self.search: Final = search
            self.entity: Final = entity
            self.enrich: Final = enrich
            self.set_query_handler: Final = set_query_handler
            self.set_update_handler: Final = set_update_handler
            self.now: Final = now
            self.random: Final = random
            self.uuid4: Final = uuid4
            self.side_effect: Final = side_effect
            self.patched: Final = patched
            self.deprecate_patch: Final = deprecate_patch
            self.info: Final = workflow_info
            self.is_cancellation: Final = is_cancellation
            self.CancellationScope: Final = CancellationScope

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> WorkflowDefinition[P, R]: ...
    @overload
    def __call__(
        self, *, name: str | None = None, task_queue: str | None = None
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], WorkflowDefinition[P, R]]: ...
    def __call__(self, function: Any = None, *, name: str | None = None, task_queue: str | None = None) -> Any:
        """Make an ``async def`` function a workflow.

        Args:
            function: the function, when used without parentheses.
            name: the workflow type on the wire. Default: the function's name.
            task_queue: the task queue of starts that name none. Default: the client's, or the parent's for a child.

        Raises:
            InvalidInputError: the function is not ``async``, or the task queue has an invalid name.
        """
        if function is None:
            return lambda given: WorkflowDefinition(given, name, task_queue)
        return WorkflowDefinition(function, name, task_queue)


sys.modules[__name__].__class__ = cast(type[ModuleType], _Workflow)
workflow: _Workflow = cast(_Workflow, sys.modules[__name__])

__all__ = [
    "CancellationScope", "ChildHandle", "Entity", "Search", "WorkflowInfo", "condition", "continue_as_new", "deprecate_patch", "enrich", "entity",
    "execute_activity", "execute_child", "is_cancellation", "now", "patched", "proxy_activities", "random", "search", "set_query_handler",
    "set_update_handler", "side_effect", "signal", "sleep", "start_child", "uuid4", "workflow", "workflow_info",
]  # fmt: skip
