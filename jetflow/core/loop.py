"""The deterministic event loop that workflow code runs on.

A ready queue, and time that stands still between the workflow's inputs. Timers become durable operations of the
machine; everything that would reach outside is refused. Tasks and futures hash by creation order, so that sets of
them iterate the same way in every process.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

from jetflow.core.location import user_location
from jetflow.errors import NotAllowedInWorkflowError

if TYPE_CHECKING:
    from jetflow.core.machine import Machine

log = logging.getLogger("jetflow.workflow")

MAX_STEPS = 1_000_000
"""Callbacks between two inputs before the code counts as spinning."""

running_threads: set[int] = set()
"""Threads that are inside workflow code now; read by ``core.guard``."""


class _Ordered:
    """Hashes by creation order within its loop."""

    _order: int

    def __hash__(self) -> int:
        return self._order

    def __eq__(self, other: object) -> bool:
        return self is other


class WorkflowTask(_Ordered, asyncio.Task):  # type: ignore[type-arg]
    def __init__(self, coro: Coroutine[Any, Any, Any], loop: WorkflowLoop, name: str | None, context: Context | None) -> None:
        self._order = loop.next_order()
        super().__init__(coro, loop=loop, name=name or f"Task-{self._order}", context=context)


class WorkflowFuture(_Ordered, asyncio.Future):  # type: ignore[type-arg]
    def __init__(self, loop: WorkflowLoop) -> None:
        self._order = loop.next_order()
        super().__init__(loop=loop)


class DurableTimerHandle(asyncio.TimerHandle):
    """A timer handle that knows its operation; ``index`` is 0 for a timer that can never fire."""

    index = 0


class WorkflowLoop(asyncio.AbstractEventLoop):
    """One run's loop. ``machine`` makes it known to workflow code that asks for the running loop."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.tasks: list[WorkflowTask] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._order = 0
        self._tidy_at = 64

    def next_order(self) -> int:
        self._order += 1
        return self._order

    # ---- running

    def run_ready(self, also: Callable[[], bool]) -> None:
        """Runs callbacks until none is ready and ``also``, called then, reports that it readied none."""
        outer = events._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        thread = threading.get_ident()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(None, None)
        running_threads.add(thread)
        try:
            self._drain(also)
        finally:
            running_threads.discard(thread)
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(outer)

    def _drain(self, also: Callable[[], bool]) -> None:
        ready, machine, steps = self._ready, self.machine, 0
        while True:
            while ready:
                if machine.halted:
                    return
                handle = ready.popleft()
                if not handle._cancelled:
                    with suppress(SystemExit):  # a task keeps it as its exception; it must not end the worker
                        handle._run()
                steps += 1
                if steps > MAX_STEPS:
                    machine.give_up_spinning(steps)
                    return
            if machine.halted or not also():
                return

    def clear(self) -> None:
        """Drops what is ready: the run's main function has returned, nothing else of it counts."""
        self._ready.clear()

    def dispose(self) -> None:
        """Closes what still runs, without letting it do anything."""
        self._ready.clear()
        pending = [task for task in self.tasks if not task.done()]
        self.tasks.clear()
        for task in pending:
            task._log_destroy_pending = False  # type: ignore[attr-defined]

        def close_all() -> bool:
            for task in pending:
                try:
                    task.get_coro().close()  # type: ignore[union-attr]
                except BaseException as error:  # user code that awaits or raises while being closed
                    log.debug("workflow code raised while it was put away: %r", error)
            return False

        if pending:
            self.run_ready(close_all)

    # ---- what asyncio asks of a loop

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
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

    def fire(self, handle: asyncio.TimerHandle) -> None:
        self._ready.append(handle)

    def _timer_handle_cancelled(self, handle: DurableTimerHandle) -> None:
        if handle.index:
            self.machine.cancel_operation(handle.index)

    def time(self) -> float:
        return self.machine.now / 1000

    def create_future(self) -> WorkflowFuture:
        return WorkflowFuture(self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any) -> WorkflowTask:
        task = WorkflowTask(coro, self, name, context)
        self.tasks.append(task)
        if len(self.tasks) > self._tidy_at:
            self.tasks = [task for task in self.tasks if not task.done()]
            self._tidy_at = 2 * len(self.tasks) + 64
        return task

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
        if not self.machine.halted:
            log.warning("%s: %s", self.machine.info.workflow_id, context.get("message"), exc_info=context.get("exception"))


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
        raise NotAllowedInWorkflowError(f"{what} (loop.{method})", user_location())

    return refuse


for _method, _what in _BLOCKED.items():
    setattr(WorkflowLoop, _method, _refusal(_method, _what))
WorkflowLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
