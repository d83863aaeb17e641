"""Worker processes that can be killed, and the checks that hold whatever was killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetflow import Client
from jetflow.broker.stores.timeline import Timeline
from jetflow.core import events as ev
from jetflow.core.ids import to_token

ROOT = Path(__file__).resolve().parent.parent.parent


class WorkerProcess:
    """One worker of ``tests.chaos.app``, or of another such module.

    Args:
        url: the server.
        queue: its task queue.
        log: the file of activity executions.
        fault: where it is to die, as for ``JETFLOW_FAULT``.
        module: which module.
        more: further arguments of it.
    """

    def __init__(
        self, url: str, queue: str, log: Path, fault: str | None = None, module: str = "tests.chaos.app", more: tuple[str, ...] = ()
    ) -> None:
        environment = {**os.environ, "CHAOS_LOG": str(log), "JETFLOW_FAULT": fault or "", "PYTHONPATH": str(ROOT)}
        self.errors = log.with_name(f"worker-{time.monotonic_ns()}.log")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, url, queue, *more], stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=ROOT
            )

    async def ready(self) -> "WorkerProcess":
        """Returns when it owns partitions, or has died of its fault."""
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line == b"ready\n" or self.process.poll() is not None or line == b"", self.errors.read_text()
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """A graceful stop; its exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    async def dead(self) -> int:
        """Waits until it is."""
        return await asyncio.to_thread(self.process.wait, 60)


class Workers:
    """Starts worker processes, and ends those that are left."""

    def __init__(self, url: str, queue: str, log: Path) -> None:
        self._url, self._queue, self._log = url, queue, log
        self.all: list[WorkerProcess] = []

    async def start(self, fault: str | None = None, module: str = "tests.chaos.app", *more: str) -> WorkerProcess:
        worker = WorkerProcess(self._url, self._queue, self._log, fault, module, more)
        self.all.append(worker)
        return await worker.ready()


@contextmanager
def workers(url: str, queue: str, log: Path) -> Iterator[Workers]:
    started = Workers(url, queue, log)
    try:
        yield started
    finally:
        for worker in started.all:
            if worker.process.poll() is None:
                worker.go_on()
                worker.kill()
            if worker.process.stdout is not None:
                worker.process.stdout.close()


def executions(log: Path) -> list[dict[str, object]]:
    """Every activity execution that began."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


async def timeline_events(client: Client, queue: str, workflow_id: str) -> list[object]:
    """Every event of a workflow's run."""
    timeline = Timeline(client.broker.lane, client.broker.names)
    last = await timeline.last(to_token(queue), to_token(workflow_id))
    assert last is not None, f"{workflow_id} has no timeline"
    entries = await timeline.run(to_token(queue), to_token(workflow_id), last)
    assert [entry.seq for entry in entries] == list(range(entries[0].seq, entries[-1].seq + 1))
    return [event for entry in entries for event in entry.commit.events]


async def check_histories(client: Client, queue: str, ids: list[str], log: Path) -> None:
    """No operation has two outcomes, and no activity began again after its outcome was recorded."""
    recorded: dict[tuple[str, int], int] = {}
    for workflow_id in ids:
        events = await timeline_events(client, queue, workflow_id)
        outcomes = Counter(
            event.index
            for event in events
            if isinstance(event, (ev.ActivityCompleted, ev.ActivityFailed, ev.TimerFired, ev.Signaled, ev.ChildCompleted))
        )
        assert max(outcomes.values(), default=1) == 1, f"{workflow_id}: an operation has two outcomes"
        assert sum(isinstance(event, ev.CLOSING) for event in events) == 1, f"{workflow_id} closed other than once"
        recorded |= {(workflow_id, event.index): event.at for event in events if isinstance(event, ev.ActivityCompleted)}
    for execution in executions(log):
        at = recorded.get((str(execution["workflow_id"]), int(str(execution["index"]))))
        if at is not None:
            assert int(str(execution["at"])) <= at, f"executed again after its outcome was recorded: {execution}"
