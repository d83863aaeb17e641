"""Long-running commands: a worker that runs until a signal of the operating system."""

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
    """Run a worker until cancelled, then stop it gracefully.

    Args:
        client: the connection.
        app: the workflows and activities to serve.
        task_queue: the task queue to serve.
        on_ready: called once, when the worker can get work.
        options: other keywords of ``Worker``.
    """
    async with Worker(client, task_queue=task_queue, workflows=app.workflows, activities=app.activities, **options) as worker:
        while not worker.ready and not worker.failed.done():  # the worker has no event for readiness
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
    """Run ``main``. The first SIGINT, SIGTERM or SIGHUP cancels it, a second one ends the process.

    Args:
        main: the coroutine to run. It cleans up when cancelled.
        at_once: called just before a second signal ends the process.
    """
    spare_the_collector()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_cancelled_by_signals(main, at_once))
    _leave_threads_behind()


def spare_the_collector() -> None:
    """Make Python's garbage collector run less often, and ignore imported modules. A worker creates almost no reference cycles.

    With thousands of workflows in memory, the collector's full passes cost about a quarter of a worker's throughput.
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
        tell("stopping: waiting for running activities; a second signal ends at once")
        task.cancel()

    loop = asyncio.get_running_loop()
    for wanted in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, wanted, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # respect nohup
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
    """End the process if activities still run in threads after the graceful timeout. Python itself would wait for them."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("jetflow-activity")]
    for thread in threads:
        thread.join(JOIN_TIMEOUT)
    if any(thread.is_alive() for thread in threads):
        tell("stopped while activities were running in threads; another worker will run them again")
        _end_process(0)


def _end_process(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
