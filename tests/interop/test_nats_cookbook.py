"""``docs/nats-cli.md``: each command run as it stands there by the real ``nats`` CLI, and its output compared with what the page shows."""

import asyncio
import contextlib
import os
import re
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from jetflow import Client, Worker
from jetflow.broker.transport.server import LocalServer
from tests.conftest import ROOT
from tests.interop.cookbook_stage import nap, order, staged

PAGE = (ROOT / "docs" / "nats-cli.md").read_text()
OTHER_SERVER = "nats://127.0.0.1:4223"
UNTIL_CTRL_C = "# until Ctrl-C"
WAITS_FOR_NEWS = "--count"
"""A command that ends once something happens: so something has to happen."""
DEADLINE = 40


class Task(NamedTuple):
    """One entry of the page: what to run, and the lines that must be in what it prints."""

    title: str
    script: str
    shown: list[str]


def tasks() -> list[Task]:
    entries = re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    found = []
    for title, text in entries:
        (script,), (shown,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL), re.findall(r"```text\n(.*?)```", text, re.DOTALL)
        found.append(Task(title, script, shown.splitlines()))
    return found


def test_there_are_enough_and_each_shows_its_output() -> None:
    assert len(tasks()) >= 20
    assert all(task.script.startswith("nats ") and task.shown for task in tasks())
    assert PAGE.count("```sh") == PAGE.count("```text") == len(tasks())


async def test_every_command_does_what_the_page_says(nats_cli: str, tmp_path: Path) -> None:
    """In the page's order, on servers of their own: what a command changes, the next ones find."""
    async with staged(tmp_path) as client, LocalServer(tmp_path / "other") as other:
        for task in tasks():
            shell = Shell(nats_cli, client.url, tmp_path)
            news = happening(client) if WAITS_FOR_NEWS in task.script and "nats pub" not in task.script else nothing()
            async with news:
                await shell.run(task._replace(script=task.script.replace(OTHER_SERVER, other.url)))
        await goes_on(other)


async def goes_on(restored: LocalServer) -> None:
    """A worker on the restored server carries on with the workflows."""
    async with Client.connect(restored.url) as client, Worker(client, task_queue="orders", workflows=[order, nap]):
        handle = client.get_handle("order-1", "orders")
        await handle.signal("approval")
        assert await handle.result(timeout="30s") == ["pear"]


@asynccontextmanager
async def happening(client: Client) -> AsyncIterator[None]:
    """Workflows are started all the while."""

    async def start() -> None:
        while True:
            await client.start(nap, workflow_id=f"poke-{secrets.token_hex(4)}", task_queue="orders")
            await asyncio.sleep(0.1)

    task = asyncio.create_task(start())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


class Shell:
    """Where the commands run: ``nats`` is on the path, ``NATS_URL`` is set, and the folder is empty."""

    def __init__(self, nats_cli: str, url: str, folder: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, "NATS_URL": url, "PATH": f"{Path(nats_cli).parent}:{os.environ['PATH']}", "HOME": str(folder)}

    async def run(self, task: Task) -> None:
        """Runs a task to its end, or one that has none until it has printed what it should."""
        process = await asyncio.create_subprocess_shell(
            task.script, cwd=self._folder, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        endless, printed = UNTIL_CTRL_C in task.script, ""
        try:
            async with asyncio.timeout(DEADLINE):
                while chunk := await process.stdout.read(65536):
                    printed += chunk.decode()
                    if endless and not missing(task, printed):
                        break
                if not endless:
                    assert await process.wait() == 0, f"{task.title}: {printed}"
        except TimeoutError as error:
            raise AssertionError(f"{task.title} did not end: {missing(task, printed)} is missing in {printed}") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()
        assert not missing(task, printed), f"{task.title}: {missing(task, printed)} is missing in {printed}"


def missing(task: Task, printed: str) -> list[str]:
    """Lines of the page that the output does not have; ``…`` is anything."""
    lines = [line.strip() for line in printed.splitlines()]
    return [shown for shown in task.shown if not any(_fits(shown, line) for line in lines)]


def _fits(shown: str, line: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.split("…"))
    return re.match(pattern + ("$" if not shown.endswith("…") else ""), line) is not None
