"""The deterministic event loop that workflow code runs on.

The loop has a queue of ready callbacks. Its time does not move between the workflow's inputs. Timers become durable operations of
the machine. The loop refuses all I/O. Tasks and futures hash by creation order and by their workflow. So sets of them iterate in the
same order in every process, and tasks of different workflows do not collide in asyncio's set of all tasks.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import logging
import sys
import threading
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from types import FrameType
from typing import Any, Protocol

from jetflow.core import anyio_internals, unawaited
from jetflow.core.asyncio_internals import SLEEP, LoopHandle, LoopTimerHandle, as_completed_around, may_be_left_pending
from jetflow.core.failures import type_name
from jetflow.core.interrupts import is_interrupt
from jetflow.core.location import user_location
from jetflow.errors import NotAllowedInWorkflowError

log: logging.Logger = logging.getLogger("jetflow.workflow")

MAX_STEPS = 100_000
"""Most callbacks between two inputs, plus ``STEPS_OF_A_TASK`` for each task. More of them fail the run."""
STEPS_OF_A_TASK = 10
"""Callbacks that each task of the run adds to ``MAX_STEPS``. A workflow may wake very many tasks at once."""

MOST_COMPLAINTS = 10
"""Most logged errors of one run's callbacks and of tasks that no code awaits."""

PATIENCE = 5_000
"""Most callbacks without a new operation. After that, anyio's cancel retries wait for the next input."""

running: dict[int, WorkflowLoop] = {}
"""Loops that run workflow code now, by thread id. In Python 3.11, asking asyncio for the running loop makes a system call."""


ORIGIN = 2
"""Frames that Python notes where a coroutine is made: a call of an activity has one of jetflow's own first."""

MAX_STOPS = 100
"""Most times that code may wait again while it is being closed."""


class Stop(BaseException):
    """Unwinds workflow code that must not continue. Do not catch it. ``except Exception`` does not catch it."""


class Driver(Protocol):
    """What a loop calls on the machine that drives it."""

    halted: bool
    next_index: int

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields of a log line that concerns the workflow."""
        ...

    def tell_time(self) -> int:
        """Return the workflow's time, ms since the epoch."""
        ...

    def standing_at(self) -> str:
        """Return where in its code the workflow waits."""
        ...

    def start_timer(self, handle: DurableTimerHandle) -> None:
        """Make a timer durable."""
        ...

    def cancel_operation(self, index: int) -> None:
        """End an operation that the code no longer waits for."""
        ...

    def give_up_spinning(self, steps: int) -> None:
        """Fail a run whose code does not wait."""
        ...

    def note_unawaited(self, what: str, where: str) -> None:
        """Fail the run at its end, since its code has made a call that it did not await."""
        ...


def current_machine() -> Any:
    """Return the machine of the workflow whose code runs now (see ``jetflow.core.machine``); None outside workflow code."""
    loop = running.get(threading.get_ident())
    return None if loop is None else loop.machine


def on_unawaited(coro: Any) -> bool:
    """Take note of a coroutine that workflow code has made and never started; False for one that is not its business."""
    loop = running.get(threading.get_ident())
    if loop is None:
        return False
    if id(coro) in loop.excused:
        loop.excused.discard(id(coro))
    elif not loop.machine.halted:
        if not unawaited.counts(coro):
            return False
        loop.machine.note_unawaited(unawaited.name_of(coro), unawaited.made_at(coro))
    return True


class _Ordered:
    """Hashes by creation order within its loop."""

    _order: int

    def __hash__(self) -> int:
        return self._order

    def __eq__(self, other: object) -> bool:
        return self is other


class WorkflowTask(_Ordered, asyncio.Task[Any]):
    def __init__(self, coro: Coroutine[Any, Any, Any], loop: WorkflowLoop, name: str | None, context: Context | None) -> None:
        self._order = loop.next_order()
        self.context: Context = context if context is not None else copy_context()
        super().__init__(coro, loop=loop, name=name or f"Task-{self._order - loop.first_order}", context=self.context)
        may_be_left_pending(self)  # a run may be unloaded while its tasks wait

    def cancel(self, msg: Any = None) -> bool:
        for coro in unawaited.handed_to(self.get_coro()):  # code that is cancelled before it begins cannot await what it was given
            self.get_loop().excused.add(id(coro))  # type: ignore[attr-defined]
        return super().cancel(msg)


class WorkflowFuture(_Ordered, asyncio.Future[Any]):
    def __init__(self, loop: WorkflowLoop) -> None:
        self._order = loop.next_order()
        super().__init__(loop=loop)


class DurableTimerHandle(LoopTimerHandle):
    """A timer handle with its operation's index. ``index`` is 0 for a timer that can never fire."""

    index = 0

    def sleeper(self) -> WorkflowFuture | None:
        """Return the future that ``asyncio.sleep`` waits for, if ``asyncio.sleep`` started this timer."""
        return self.args[0] if self.callback is SLEEP else None


class WorkflowLoop(asyncio.AbstractEventLoop):
    """One run's loop. Workflow code finds its machine through ``machine``.

    ``host`` is the event loop that always runs this one. Without it, this loop asks for the running loop each time.
    """

    host: asyncio.AbstractEventLoop | None = None

    def __init__(self, machine: Driver, workflow_id: str, run: int, host: asyncio.AbstractEventLoop | None = None) -> None:
        self.machine = machine
        self.workflow_id = workflow_id
        self.host = host
        self.tasks: list[WorkflowTask] = []
        self._ready: deque[LoopHandle | LoopTimerHandle] = deque()
        self._running = False
        self.first_order: int = zlib.crc32(f"{workflow_id}/{run}".encode())
        self._order = self.first_order
        self._set_aside: list[LoopHandle | LoopTimerHandle] = []
        self._time_floor = 0.0
        self._tidy_at = 64
        self._complaints = 0
        self._started_early: dict[int, WorkflowTask] = {}
        self.excused: set[int] = set()
        anyio_internals.prepare(WorkflowTask)

    @property
    def ready(self) -> int:
        """The number of callbacks that are ready to run."""
        return len(self._ready)

    def next_order(self) -> int:
        self._order += 1
        return self._order

    # ---- running

    def run_ready(self, also: Callable[[], bool]) -> None:
        """Run callbacks until none is ready and ``also`` returns False. ``also`` is called when none is ready; True: it made one ready."""
        self._inside(self._drain, also)

    def _inside(self, function: Callable[..., Any], *args: Any) -> None:
        outer = self.host or asyncio._get_running_loop()
        hooks, depth = sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()
        thread = threading.get_ident()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(None, self._finish_generator)
        sys.set_coroutine_origin_tracking_depth(ORIGIN)
        running[thread] = self
        self._running = True
        try:
            function(*args)
        finally:
            self._running = False
            running.pop(thread, None)
            sys.set_asyncgen_hooks(*hooks)
            sys.set_coroutine_origin_tracking_depth(depth)
            asyncio._set_running_loop(outer)

    def _drain(self, also: Callable[[], bool]) -> None:
        ready, machine, steps, patience = self._ready, self.machine, 0, PATIENCE
        if self._set_aside:
            ready.extend(self._set_aside)
            self._set_aside.clear()
        issued = -1
        while True:
            while ready:
                if machine.halted:
                    return
                handle = ready.popleft()
                if not handle.dropped:
                    try:
                        handle.run()
                    except (SystemExit, KeyboardInterrupt) as error:  # the task has it as its exception; it must not end the worker
                        if is_interrupt(error):
                            raise
                steps += 1
                if steps > patience:
                    if steps > MAX_STEPS + STEPS_OF_A_TASK * len(self.tasks):
                        machine.give_up_spinning(steps)
                        return
                    patience = steps + PATIENCE
                    if issued == machine.next_index:
                        self._set_retries_aside()
                    issued = machine.next_index
            if machine.halted or not also():
                return

    def outside(self, function: Callable[[], Any]) -> Any:
        """Call a function as if outside workflow code: nothing is refused, and the calls of ``jetflow.workflow`` do not work."""
        thread = threading.get_ident()
        asyncio._set_running_loop(None)
        running.pop(thread, None)
        try:
            return function()
        finally:
            running[thread] = self
            asyncio._set_running_loop(self)

    def _set_retries_aside(self) -> None:
        """Postpone anyio's cancel retries to the next input. anyio retries in a loop while code does not end, as in durable cleanup."""
        for handle in [handle for handle in self._ready if anyio_internals.is_retry(handle.callback)]:
            self._ready.remove(handle)
            self._set_aside.append(handle)

    def clear(self) -> None:
        """Drop the ready callbacks: the run's main function has returned, so no other task counts."""
        self._ready.clear()

    def dispose(self) -> None:
        """Close all tasks without letting their code decide anything. Code that runs right now is closed when it waits."""
        self._ready.clear()
        if self._running:
            return
        for task in self.tasks:
            if not task.done():
                self._inside(self._close_tasks)
                return

    def _close_tasks(self) -> None:
        while self.tasks:  # code that is being closed may start more tasks; they are closed before they run
            tasks, self.tasks = self.tasks, []
            for task in tasks:
                if not task.done():
                    self._stop(task)
                anyio_internals.forget(task)  # they never end
        self._ready.clear()

    def _stop(self, task: WorkflowTask) -> None:
        """Unwind a task's code by throwing ``Stop`` into it. Closing the coroutine would break one that waits in a ``finally``."""
        coro: Any = task.get_coro()
        _close_unstarted(coro)
        asyncio._enter_task(self, task)
        try:
            for _ in range(MAX_STOPS):
                task.context.run(coro.throw, Stop())
            log.warning(
                "workflow %s: code that catches BaseException cannot be closed and stays in memory: %r",
                self.workflow_id,
                coro,
                extra=self.machine.log_fields,
            )
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(coro))  # otherwise its code would run when Python closes it
        except (Stop, StopIteration):
            pass
        except BaseException as error:
            if is_interrupt(error):
                raise
            log.debug("workflow code raised while it was closed: %s", type_name(type(error)), extra=self.machine.log_fields)
        finally:
            asyncio._leave_task(self, task)

    def _finish_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Run the ``finally`` of an async generator that was not exhausted, as asyncio does, but not after the run is disposed."""
        if self._running and not self.machine.halted:
            self.create_task(generator.aclose())

    # ---- the interface of an asyncio loop

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> LoopHandle:
        handle = LoopHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        handle = DurableTimerHandle(when, callback, args, self, context)
        if when <= self.time():
            self._ready.append(handle)
        else:
            self.machine.start_timer(handle)
        return handle

    def fire(self, handle: LoopTimerHandle) -> None:
        self._time_floor = handle.when()  # the deadline has passed, even if rounding to ms says otherwise
        self._ready.append(handle)

    def _timer_handle_cancelled(self, handle: DurableTimerHandle) -> None:
        if handle.index:
            self.machine.cancel_operation(handle.index)

    def time(self) -> float:
        now: float = self.machine.tell_time() / 1000
        return now if now > self._time_floor else self._time_floor

    def create_future(self) -> WorkflowFuture:
        return WorkflowFuture(self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any) -> WorkflowTask:
        caller = sys._getframe(1)
        if self.machine.halted and str(caller.f_globals.get("__name__")).startswith("anyio."):
            raise Stop  # anyio closes the coroutine that this one wraps
        completed = as_completed_around(caller)
        if completed is not None:
            return self._in_given_order(coro, completed)
        task = WorkflowTask(coro, self, name, context)
        self.tasks.append(task)
        if len(self.tasks) > self._tidy_at:
            self.tasks = [task for task in self.tasks if not task.done()]
            self._tidy_at = 2 * len(self.tasks) + 64
        return task

    def _in_given_order(self, coro: Any, frame: FrameType) -> WorkflowTask:
        """Start all coroutines of an ``as_completed`` call in the given order. ``as_completed`` iterates over a set, by memory address."""
        task = self._started_early.pop(id(coro), None)
        if task is not None:
            return task
        given = frame.f_locals.get("fs", frame.f_locals.get("aws"))
        if not isinstance(given, Sequence) or not any(part is coro for part in given):
            coro.close()
            fix = "give it a list of coroutines or tasks"
            raise NotAllowedInWorkflowError("asyncio.as_completed over an iterable without a fixed order", user_location(), fix)
        for part in given:
            if asyncio.iscoroutine(part) and id(part) not in self._started_early:
                self._started_early[id(part)] = self.create_task(part)
        return self._started_early.pop(id(coro))

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.machine.halted or self._complaints >= MOST_COMPLAINTS:
            return
        self._complaints += 1
        last = "; no further ones are logged" if self._complaints == MOST_COMPLAINTS else ""
        text, error = "workflow %s: %s%s", context.get("exception")
        log.warning(text, self.workflow_id, context.get("message"), last, exc_info=error, extra=self.machine.log_fields)


def _close_unstarted(coro: Any) -> None:
    """Close the coroutines that code was given and has not awaited. Python would warn about each of them."""
    while coro is not None:
        frame = getattr(coro, "cr_frame", None)
        for held in frame.f_locals.values() if frame is not None else ():
            inner = getattr(held, "_coro", held)  # anyio wraps them
            if inspect.iscoroutine(inner) and inspect.getcoroutinestate(inner) == inspect.CORO_CREATED:
                inner.close()
        coro = getattr(coro, "cr_await", None)


_BLOCKED = {
    "run_in_executor": "a thread or executor",
    "run_forever": "another event loop",
    "run_until_complete": "another event loop",
    "call_soon_threadsafe": "a call from another thread",
    **dict.fromkeys(("getaddrinfo", "getnameinfo"), "a name lookup"),
    **dict.fromkeys(
        ("create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection", "create_unix_server",
         "connect_accepted_socket", "start_tls", "sendfile", "sock_recv", "sock_recv_into", "sock_recvfrom",
         "sock_recvfrom_into", "sock_sendall", "sock_sendto", "sock_connect", "sock_accept", "sock_sendfile",
         "add_reader", "remove_reader", "add_writer", "remove_writer"),
        "network I/O",
    ),
    **dict.fromkeys(("subprocess_exec", "subprocess_shell", "connect_read_pipe", "connect_write_pipe"), "a subprocess or pipe"),
    **dict.fromkeys(("add_signal_handler", "remove_signal_handler"), "a signal handler"),
    **dict.fromkeys(("stop", "close", "shutdown_asyncgens", "shutdown_default_executor", "set_default_executor",
                     "set_task_factory", "set_exception_handler"), "changing the event loop"),
}  # fmt: skip


def _refusal(method: str, what: str) -> Callable[..., Any]:
    def refuse(self: WorkflowLoop, *args: Any, **kwargs: Any) -> Any:
        raise NotAllowedInWorkflowError(f"{what} (loop.{method})", user_location() or self.machine.standing_at())

    return refuse


for _method, _what in _BLOCKED.items():
    setattr(WorkflowLoop, _method, _refusal(_method, _what))
WorkflowLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
