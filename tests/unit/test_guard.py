"""Real I/O, threads and blocking calls in workflow code."""

import asyncio
import inspect
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from jetflow import activity, side_effect, workflow
from jetflow.core import guard
from tests.replay.driver import Run, check_replay


@activity
async def step() -> int:
    raise AssertionError("resolved by the driver")


@pytest.fixture(autouse=True)
def installed() -> None:
    guard.install()


HERE = Path(__file__)

BLOCKED: dict[str, Callable[[], Any]] = {
    "blocking time.sleep()": lambda: time.sleep(0.01),
    "opening a file": lambda: open(HERE),  # noqa: SIM115
    "opening a file by Path": lambda: HERE.read_text(),
    "starting a thread": lambda: threading.Thread(target=print).start(),
    "starting a process": lambda: subprocess.run([sys.executable, "-V"]),
    "starting a process by os.system": lambda: os.system("true"),
    "opening a socket": lambda: socket.socket(),
    "a name lookup": lambda: socket.getaddrinfo("localhost", 80),
}
AWAITED: dict[str, Callable[[], Any]] = {
    "a thread or executor": lambda: asyncio.to_thread(print),
    "starting a thread, by anyio": lambda: anyio.to_thread.run_sync(print),
    "network I/O": lambda: asyncio.open_connection("127.0.0.1", 1),
    "a subprocess or pipe": lambda: asyncio.create_subprocess_exec("true"),
}


def refused(run: Run, line: int) -> str:
    assert run.failure.type == "NotAllowedInWorkflowError"
    assert f"test_guard.py:{line} in " in run.failure.message
    return run.failure.message


@pytest.mark.parametrize("what", BLOCKED)
def test_blocking_calls_are_refused_with_their_place_and_what_to_do(what: str) -> None:
    @workflow
    async def flow() -> None:
        BLOCKED[what]()

    line = inspect.getsourcelines(BLOCKED[what])[1]
    message = refused(Run(flow), line)
    fix = "await jetflow.sleep() instead" if "sleep" in what else "move it into an @activity and await that"
    assert message.startswith(what.split(" by ")[0])
    assert message.endswith(fix)


@pytest.mark.parametrize("what", AWAITED)
def test_what_reaches_outside_through_the_loop_is_refused(what: str) -> None:
    @workflow
    async def flow() -> None:
        await AWAITED[what]()

    run = Run(flow)
    assert run.failure.type == "NotAllowedInWorkflowError"
    assert what.split(",")[0] in run.failure.message
    assert "test_guard.py" in run.failure.message


@pytest.mark.parametrize("how", ["asyncio.run", "run_until_complete"])
def test_another_event_loop_is_refused(how: str) -> None:
    @workflow
    async def flow() -> str:
        coro = asyncio.sleep(0)
        try:
            if how == "asyncio.run":
                asyncio.run(coro)
            else:
                asyncio.get_running_loop().run_until_complete(coro)
        except Exception as error:
            return type(error).__name__
        finally:
            coro.close()
        return "allowed"

    assert Run(flow).result in ("RuntimeError", "NotAllowedInWorkflowError")


def test_a_refusal_can_be_caught_and_leaves_the_workflow_as_it_was() -> None:
    @workflow
    async def flow() -> list[str]:
        log = []
        for blocked in BLOCKED.values():
            try:
                blocked()
            except Exception as error:
                log.append(type(error).__name__)
        await step()
        return log

    run = Run(flow)
    run.complete()
    check_replay(run)
    assert run.result == ["NotAllowedInWorkflowError"] * len(BLOCKED)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that reads a file while it is imported."""
    name = f"imported_late_{os.getpid()}_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(f"text = open({str(HERE)!r}).read()\ndef read():\n    return open({str(HERE)!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_imports_are_allowed_but_not_what_the_module_does_later(module: str) -> None:
    @workflow
    async def flow() -> str:
        imported = __import__(module)
        assert "A module that reads a file" in imported.text
        try:
            imported.read()
        except Exception as error:
            return str(error)
        return "allowed"

    assert f"{module}.py:3 in read" in Run(flow).result


def test_logging_to_a_file_is_allowed(tmp_path: Path) -> None:
    logger = logging.getLogger(f"test_guard.{tmp_path.name}")
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    logger.addHandler(handler)

    @workflow
    async def flow() -> None:
        logger.warning("from the workflow")

    Run(flow)
    handler.close()
    assert (tmp_path / "log").read_text() == "from the workflow\n"


def test_a_side_effect_may_read_a_file_but_is_no_workflow_code() -> None:
    @workflow
    async def flow() -> list[Any]:
        name = side_effect(lambda: HERE.read_text()[:3])
        try:
            side_effect(lambda: workflow.random())
        except Exception as error:
            return [name, str(error)]
        return []

    run = Run(flow)
    check_replay(run)
    assert run.result[0] == '"""'
    assert "only be called inside a running @workflow function" in run.result[1]


def test_nothing_is_refused_outside_workflow_code() -> None:
    @workflow
    async def flow() -> int:
        return await step()

    run = Run(flow)
    for blocked in BLOCKED.values():
        value = blocked()
        if hasattr(value, "close"):
            value.close()
    run.complete("activity", 5)
    assert run.result == 5


def test_other_threads_are_free_while_workflow_code_runs() -> None:
    inside, done = threading.Event(), threading.Event()
    read: list[str] = []

    def elsewhere() -> None:
        inside.wait(10)
        read.append(HERE.read_text()[:3])
        done.set()

    @workflow
    async def flow() -> str:
        inside.set()
        assert done.wait(10)  # workflow code of this thread is still running
        try:
            open(HERE)  # noqa: ASYNC230, SIM115
        except Exception as error:
            return type(error).__name__
        return "allowed"

    thread = threading.Thread(target=elsewhere)
    thread.start()
    run = Run(flow)
    thread.join()
    assert read == ['"""']
    assert run.result == "NotAllowedInWorkflowError"
