"""Long-running commands: a worker until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from jetflow.cli.loading import LoadedApp
from jetflow.cli.output import clean, public_url, tell
from jetflow.client import Client
from jetflow.worker import Worker

LOOK_EVERY = 0.005
JOIN_TIMEOUT = 0.2


async def serve(client: Client, app: LoadedApp, *, task_queue: str, on_ready: Callable[[], None] = lambda: None, **options: Any) -> None:
    """Runs a worker until cancelled, and then hands over.

    Args:
        client: the connection.
        app: what to serve.
        task_queue: which queue.
        on_ready: called once, when the worker owns partitions, or without workflows can be given tasks.
        options: the worker's further keywords.
    """
    async with Worker(client, task_queue=task_queue, workflows=app.workflows, activities=app.activities, **options) as worker:
        while not worker.ready and not worker.failed.done():  # the worker has no event for it
            await asyncio.sleep(LOOK_EVERY)
        workflows = ", ".join(clean(definition.name) for definition in app.workflows) or "none"
        activities = ", ".join(clean(definition.name) for definition in app.activities) or "none"
        tell(
            f"worker ready: task queue {clean(task_queue)}, workflows {workflows}; activities {activities}; "
            f"{worker.partitions} partitions, {public_url(client.url)}, pid {os.getpid()}"
        )
        on_ready()
        await asyncio.shield(worker.failed)


def run_until_stopped(main: Coroutine[Any, Any, None], *, at_once: Callable[[], None] = lambda: None) -> None:
    """Runs ``main``; the first SIGINT, SIGTERM or SIGHUP cancels it, a second one ends the process.

    Args:
        main: what to run; it tidies up when cancelled.
        at_once: called right before the process ends by a second signal.
    """
    spare_the_collector()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_cancelled_by_signals(main, at_once))
    _leave_threads_behind()


def spare_the_collector() -> None:
    """Makes Python's garbage collector look less often, and not at what was imported: a worker leaves next to no cycles.

    With thousands of workflows in memory its full passes cost about a quarter of a worker's throughput.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _cancelled_by_signals(main: Coroutine[Any, Any, None], at_once: Callable[[], None]) -> None:
    task = asyncio.ensure_future(main)
    stopping = False

    def on_signal(number: int) -> None:
        nonlocal stopping
        if stopping:
            at_once()
            _end_process(128 + number)
        stopping = True
        tell("stopping: running activities may finish; once more ends at once")
        task.cancel()

    loop = asyncio.get_running_loop()
    for wanted in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, wanted, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            loop.add_signal_handler(number, on_signal, number)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping:
            raise
    if stopping:
        tell("stopped")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


def _leave_threads_behind() -> None:
    """Ends the process if activities still run in threads after their time was up: Python itself would wait for them."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("jetflow-activity")]
    for thread in threads:
        thread.join(JOIN_TIMEOUT)
    if any(thread.is_alive() for thread in threads):
        tell("activities that still run in threads are left behind; another worker runs them again")
        _end_process(0)


def _end_process(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
