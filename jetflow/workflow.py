"""What workflow code may call. Read it top to bottom and you have the manual.

A workflow is an ``async def`` function that decides; everything that touches the world is an activity that it awaits.
Its code may run again at any time, to rebuild where it stands from what was recorded, so it must be deterministic: take
time from ``now()``, chance from ``random()`` and ``uuid4()``, anything else from an activity or ``side_effect()``.
``asyncio`` and ``anyio`` work as they are: ``gather``, ``TaskGroup``, ``timeout``, ``wait``, queues and events;
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
import logging
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import ModuleType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    TypeVarTuple,
    Union,
    cast,
    get_args,
    get_origin,
    overload,
)

from msgspec import UNSET

from jetflow.core import events as ev
from jetflow.core.data import Entity, Search, UserData
from jetflow.core.definitions import ActivityDefinition, ActivityOptions, RetryPolicy, WorkflowDefinition, activity_options, no_activity, workflow_of
from jetflow.core.durations import Duration, limit_ms, to_ms
from jetflow.core.events import FOREVER_MS
from jetflow.core.failures import is_cancellation
from jetflow.core.ids import to_token
from jetflow.core.location import user_location
from jetflow.core.loop import current_machine
from jetflow.core.machine import Machine
from jetflow.core.operation import TIMED_OUT, RunInfo
from jetflow.core.recorder import shielded
from jetflow.core.values import TypedDecoder, encode, encode_args
from jetflow.errors import InvalidInputError, JetflowError

log: logging.Logger = logging.getLogger("jetflow.workflow")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D")
A = TypeVar("A")  # one argument has an overload of its own: there a checker knows that [1] may be a list[float]
Ts = TypeVarTuple("Ts")

ParentClosePolicy = Literal["terminate", "cancel", "abandon"]
"""What becomes of a child when its parent ends first."""


def _machine() -> Machine:
    machine = current_machine()
    if machine is None:
        raise JetflowError("this can only be called inside a running @workflow function")
    return machine


# ---- waiting


async def sleep(duration: Duration) -> float:
    """Waits durably; worker restarts do not shorten or lengthen it.

    Args:
        duration: text such as ``"5m"``, ``timedelta``, or seconds. Zero passes straight through.

    Returns:
        The seconds asked for.

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
async def condition(
    what: Callable[[], Any], *, timeout: Duration | None = None, on_timeout: type[BaseException] | BaseException
) -> Literal[True]: ...
@overload
async def condition(what: Callable[[], Any], *, timeout: Duration | None = None, on_timeout: D) -> Literal[True] | D: ...
@overload
async def condition(what: str, *, timeout: None = None, model: type[T]) -> T: ...
@overload
async def condition(what: str, *, timeout: Duration | None, model: type[T]) -> T | Literal[False]: ...
@overload
async def condition(what: str, *, timeout: Duration | None = None, model: type[T], on_timeout: type[BaseException] | BaseException) -> T: ...
@overload
async def condition(what: str, *, timeout: Duration | None = None, model: type[T], on_timeout: D) -> T | D: ...
@overload
async def condition(what: str, *, timeout: Duration | None = None, model: Any = Any, on_timeout: Any = ...) -> Any: ...
async def condition(what: str | Callable[[], Any], *, timeout: Duration | None = None, model: Any = Any, on_timeout: Any = UNSET) -> Any:
    """Waits for a signal by name, or until a predicate over the workflow's own data is true.

    Args:
        what: a signal's name, or a function without side effects that is looked at after every input.
        timeout: how long to wait; ``"forever"`` or None for ever.
        model: type of the signal's payload; plain JSON types without it.
        on_timeout: the answer when the timeout came first, ``False`` when not given. An exception, or a class of exceptions, is raised
            instead. Give it where the payload itself may be false: ``on_timeout=None`` with ``model=bool``.

    Returns:
        The payload (True for a predicate), or ``on_timeout`` when the timeout came first.

    Raises:
        CancelledFailure: the workflow was asked to cancel.
        InvalidInputError: the payload does not fit ``model``.
    """
    machine, limit = _machine(), limit_ms(timeout, "timeout")
    if isinstance(what, str):
        if limit is not None and on_timeout is UNSET and _takes_false(model):
            _warn_of_two_meanings(machine, what)
        value = await machine.wait_signal(what, limit, model)
        return _timed_out(on_timeout, f"signal {what!r}", timeout) if value is TIMED_OUT else value
    if not callable(what):
        raise InvalidInputError(f"condition takes the name of a signal, or a function, not {what!r}")
    if asyncio.iscoroutinefunction(what):
        raise InvalidInputError("condition needs a plain function: an async one is true before it has run")
    if limit is None:
        await machine.wait_until(what)
        return True
    try:
        async with asyncio.timeout(limit / 1000):
            await machine.wait_until(what)
    except TimeoutError:
        return _timed_out(on_timeout, "the condition", timeout)
    return True


def _timed_out(answer: Any, what: str, timeout: Duration | None) -> Any:
    """What ``condition`` gives, or raises, when its timeout came first."""
    if answer is UNSET:
        return False
    if isinstance(answer, type) and issubclass(answer, BaseException):
        message = f"{what} did not come within {timeout}" if isinstance(timeout, (str, timedelta)) else f"{what} did not come within {timeout} s"
        try:
            error = answer(message)
        except TypeError:  # it takes something else
            error = answer()
        raise error from None
    if isinstance(answer, BaseException):
        raise answer from None
    return answer


def _takes_false(model: Any) -> bool:
    """Whether ``false`` is a payload of a type that is bool, or has it as a part."""
    return model is bool or (get_origin(model) in (Literal, Union, UnionType) and any(part is bool or part is False for part in get_args(model)))


_warned: set[tuple[str, str]] = set()
"""Types of workflows and lines that the log has named."""


def _warn_of_two_meanings(machine: Machine, signal: str) -> None:
    place = (machine.info.workflow_type, user_location())
    if place not in _warned:
        _warned.add(place)
        log.warning(
            "workflow %s: condition(%r) with model=bool and a timeout, at %s: False is the answer both to a signal with false and to the "
            "timeout. Tell them apart with on_timeout=None, or an exception class",
            place[0], signal, place[1],
        )  # fmt: skip


async def signal(workflow_id: str, name: str, data: Any = None, *, task_queue: str | None = None, expire: Duration | None = "10m") -> None:
    """Sends a signal to another workflow, exactly once, with the commit that records it; does not wait for anybody to take it.

    Args:
        workflow_id: whose.
        name: what it waits for with ``condition(name)``.
        data: anything that JSON can hold.
        task_queue: the other workflow's; this one's when not given.
        expire: how long the signal is kept if nobody waits for it yet; ``"forever"`` or None for ever.

    Raises:
        InvalidInputError: the data cannot be JSON, or a name cannot be used.
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
        """A decorated activity by what it takes and gives."""

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
    """Runs an activity as a durable step; ``await charge(order)`` is the short form of ``execute_activity(charge, order)``.

    Args:
        activity: a decorated function, or the name of one that lives elsewhere.
        args: its arguments.
        result_type: type of the result where the activity is given by name.
        options: ``retry``, ``start_to_close_timeout``, ``schedule_to_close_timeout``, ``heartbeat_timeout``, ``task_queue``.

    Raises:
        ActivityError: it failed for good.
        CancelledFailure: the workflow was asked to cancel.
    """
    machine = _machine()
    if isinstance(activity, ActivityDefinition):
        chosen = activity_options(activity.options, **options)
        return await machine.run_activity(activity, activity.signature.bind(args, {}), chosen)
    if not isinstance(activity, str):
        raise InvalidInputError(no_activity(activity))
    return await machine.run_named_activity(activity, args, activity_options(**options), result_type)


class _ActivityProxy:
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args: execute_activity(name, *args, **self._options)


def proxy_activities(**options: Any) -> Any:
    """An object whose every attribute is an activity of that name: ``await proxy_activities(task_queue="mail").send(x)``.

    Args:
        options: as for ``execute_activity``.
    """
    activity_options(**options)
    return _ActivityProxy(options)


# ---- children


class ChildHandle:
    """A started child workflow.

    Attributes:
        workflow_id: its id.
        task_queue: the task queue it runs on.
        run_id: which run of that id.
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
    name, definition = workflow_of(workflow)
    to_token(name, "workflow type")
    own = None
    if definition is not None and definition is workflow:
        own, decode = definition.task_queue, definition.signature.result
        args = definition.signature.bind(args, {})
    else:
        decode = TypedDecoder(Any, f"child workflow {name!r}, result")
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
    """Starts a child workflow and waits for its result.

    Args:
        workflow: the child's function or its name.
        args: its arguments.
        workflow_id: made from the parent's id when not given.
        task_queue: the child workflow's own when not given, as in ``@workflow(task_queue="orders")``, then the parent's.
        parent_close_policy: what becomes of the child if the parent ends first.
        expire: how long the child's record is kept after it ends, ``"forever"`` for ever; the parent's when not given.

    Raises:
        ChildWorkflowError: the child failed, with its failure as the cause, or its id belongs to somebody else.
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
    """Starts a child workflow and returns once its worker has accepted it; the arguments are those of ``execute_child``.

    Raises:
        ChildWorkflowError: the id belongs to somebody else.
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
    """Ends this generation and begins the next with fresh history, under the same id and handle. Never returns.

    Args:
        args: arguments of the next generation.
        workflow: another workflow to go on as; the same one when not given.
    """
    machine = _machine()
    name, definition = workflow_of(machine.definition if workflow is None else workflow)
    to_token(name, "workflow type")
    if definition is not None:
        args = definition.signature.bind(args, {})
    machine.continue_as_new(name, encode_args(args, name))


# ---- what is seen, asked and changed from outside


def _user_data(change: bool) -> UserData:
    return _machine().user_data(change)


def search() -> Search:
    """The workflow's named fields: ``set get mget delete incr mult``. Nothing is awaited, a replay computes them again.

    search().set(stage="paid", total=42)

    ``handle.query_state(["stage"])`` reads them from outside; the next generation of ``continue_as_new`` keeps them.
    """
    return Search(_user_data)


def entity() -> Entity:
    """The workflow's JSON document: ``set merge get delete append prepend remove increment toggle set_if_not_exists``, paths dotted.

    entity().append("order.lines", {"sku": "A"})
    """
    return Entity(_user_data)


def enrich(values: dict[str, Any]) -> None:
    """Sets several fields of ``search()`` at once.

    Raises:
        InvalidInputError: a value cannot be JSON.
        PayloadTooLargeError: all of the workflow's data is more than half of what the broker takes in one message.
    """
    search().set(values)


def set_query_handler(name: str, function: Callable[..., Any]) -> None:
    """Answers ``handle.query(name, *args)`` from now on with what a function gives, which reads the workflow's own variables.

    It may run at any time between two inputs and leaves no trace in the timeline, so it must change nothing: operations, timers,
    tasks and user data are refused, and changing a variable of the workflow in it is a bug that a replay does not repeat.

        lines: list[str] = []
        set_query_handler("lines", lambda: lines)

    Args:
        name: what is asked for; a later function of the same name takes the place of the earlier one.
        function: a plain function. Annotated arguments are decoded as those of a workflow.
    """
    _machine().given_out().set_query(name, function)


def set_update_handler(name: str, function: Callable[..., Any], validator: Callable[..., Any] | None = None) -> None:
    """Takes ``handle.update(name, *args)`` from now on: the function runs in the workflow, recorded, and its result is the answer.

    Args:
        name: what is called; a later function of the same name takes the place of the earlier one.
        function: plain or async; it may do whatever workflow code may, awaiting activities too. Several may run at once. One that has
            not returned when the workflow ends, or continues as new, is dropped and its caller told so.
        validator: a plain function of the same arguments that raises to refuse a call before anything is recorded. It may only read.
    """
    _machine().given_out().set_update(name, function, validator)


# ---- cancellation


class CancellationScope:
    """Scopes that decide whether the workflow's cancellation reaches the operations inside."""

    @staticmethod
    @asynccontextmanager
    async def non_cancellable() -> AsyncIterator[None]:
        """Inside, operations run as if nobody had asked to cancel: for cleanup.

        async with CancellationScope.non_cancellable():
            await refund(order)
        """
        token = shielded.set(True)
        try:
            yield
        finally:
            shielded.reset(token)


# ---- time, chance and code versions


def now() -> datetime:
    """The workflow's time, UTC: when the input that it reacts to was recorded."""
    return datetime.fromtimestamp(_machine().tell_time() / 1000, UTC)


def random() -> float:
    """A number in [0, 1) that is the same in every replay and differs between workflows."""
    return _machine().random.random()


def uuid4() -> uuid.UUID:
    """A random UUID that is the same in every replay and differs between workflows."""
    return uuid.UUID(int=_machine().random.getrandbits(128), version=4)


def side_effect(function: Callable[[], R]) -> R:
    """The value of a quick function, taken once, recorded, and repeated in every replay (as plain JSON types)."""
    return _machine().side_effect(function)  # type: ignore[no-any-return]


def patched(patch_id: str) -> bool:
    """True for runs that reach this line with the new code; False for those that passed it before the change.

    if patched("use-new-carrier"):
        await ship_with_new_carrier(order)
    else:
        await ship(order)
    """
    return _machine().patched(patch_id)


def deprecate_patch(patch_id: str) -> None:
    """Stands where ``patched`` stood once no run of the old branch is left, so that recorded patches still replay."""
    _machine().deprecate_patch(patch_id)


class WorkflowInfo:
    """Which run the code belongs to.

    Attributes:
        workflow_id, task_queue, workflow_type, namespace: as given at the start.
        run_id: this run, also ``handle.run_id``.
        generation: 1, and one more after each ``continue_as_new``.
        parent_workflow_id: None for a workflow that no other one started.
        origin_id: the topmost ancestor, None for itself.
        started_at: when the run began, UTC.
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
    """The run that this code belongs to."""
    machine = _machine()
    machine.tell_time()  # ``started_at``
    return WorkflowInfo(machine.info)


# ---- the decorator


info: Final = workflow_info
"""Another name of ``workflow_info``, for ``workflow.info()``."""

_Base = object if TYPE_CHECKING else ModuleType


class _Workflow(_Base):
    """This module, which is the decorator too: ``@workflow``, ``workflow.now()`` and ``import jetflow.workflow`` all mean the same object."""

    if TYPE_CHECKING:  # at run time they are found in the module

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
        """Makes an ``async def`` function a workflow.

        Args:
            function: the function, when used without parentheses.
            name: the workflow type on the wire; the function's name when not given.
            task_queue: whose workers run it, unless a start names another queue; the client's when not given, of a child the parent's.
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
