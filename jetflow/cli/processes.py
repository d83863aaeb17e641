"""``--processes``: a parent that runs several processes of the same command and restarts them, and the part in each process.

A socket pair connects each process to its parent. The process writes to it when it is ready. When the parent is gone, for any reason,
the process reads the end of the stream and stops gracefully.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from jetflow.cli.exits import ExitCode
from jetflow.cli.output import tell

log: logging.Logger = logging.getLogger("jetflow.processes")

TIE = "JETFLOW_PROCESSES_TIE"
"""Environment variable of a process, with its parent's process id and the descriptor of its socket."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
STEADY_AFTER = 30.0
"""Seconds after which the end of a process does not count as a repeated failure."""
READY = b"ready"


class CannotStartError(Exception):
    """The first process ended before it was ready, and printed the reason. ``code`` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the first process ended with {code}")
        self.code = code


class Processes:
    """The processes, as the parent runs them.

    Args:
        count: number of processes.
        arguments: the arguments of ``python -m jetflow`` in each process.
    """

    def __init__(self, count: int, arguments: list[str]) -> None:
        self._count = count
        self._arguments = arguments
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._first_is_ready = asyncio.Event()
        self._ready: set[int] = set()

    async def run(self) -> None:
        """Run the processes until cancelled, then stop them gracefully. The others start when the first is ready.

        Raises:
            CannotStartError: the first one cannot start, so the others cannot either.
        """
        keepers = [asyncio.create_task(self._keep(number)) for number in range(1, self._count + 1)]
        try:
            await asyncio.gather(*keepers)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            self.signal(signal.SIGTERM)
            await asyncio.gather(*(process.wait() for process in self._running.values()))

    def signal(self, number: int) -> None:
        """Send a signal to each process."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, number: int) -> None:
        if number > 1:
            await self._first_is_ready.wait()
        pause = FIRST_PAUSE
        while True:
            begin = time.monotonic()
            process = await self._start(number)
            code = await process.wait()
            self._ready.discard(number)
            if not self._first_is_ready.is_set():
                raise CannotStartError(code if code > 0 else ExitCode.CANNOT_RUN)
            if time.monotonic() - begin > STEADY_AFTER:
                pause = FIRST_PAUSE
            log.warning("process %d of %d (pid %d) %s; the next one starts in %.1f s", number, self._count, process.pid, _how(code), pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        mine, its = socket.socketpair()
        environment = {**os.environ, TIE: f"{os.getpid()}:{its.fileno()}"}
        with its:
            # in its own session: Ctrl-C reaches only the parent, which passes it on once
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "jetflow", *self._arguments,
                stdin=asyncio.subprocess.DEVNULL, env=environment, pass_fds=(its.fileno(),), start_new_session=True,
            )  # fmt: skip
        self._running[number] = process
        log.info("process %d of %d has pid %d", number, self._count, process.pid)
        mine.setblocking(False)
        asyncio.get_running_loop().add_reader(mine, self._heard, number, mine)
        return process

    def _heard(self, number: int, mine: socket.socket) -> None:
        try:
            told = mine.recv(len(READY))
        except OSError:
            told = b""
        if not told:
            asyncio.get_running_loop().remove_reader(mine)
            mine.close()
            return
        self._first_is_ready.set()
        self._ready.add(number)
        if len(self._ready) == self._count:
            tell(f"{self._count} worker processes ready, parent pid {os.getpid()}")


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


class Tie:
    """The connection of a process to its parent."""

    def __init__(self, its: socket.socket) -> None:
        self._its = its

    @classmethod
    def of_this_process(cls) -> Tie | None:
        """Return this process's connection to its parent, or None if ``Processes`` did not start this process."""
        parent, _, descriptor = os.environ.pop(TIE, "").partition(":")
        if parent != str(os.getppid()):
            return None
        its = socket.socket(fileno=int(descriptor))
        its.set_inheritable(False)
        return cls(its)

    def tell_ready(self) -> None:
        """Report to the parent that this process can get work."""
        with contextlib.suppress(OSError):  # the parent is gone, which ``watch`` handles
            self._its.send(READY)

    def watch(self, on_end: Callable[[], None]) -> None:
        """Call ``on_end`` on the running loop when the parent is gone."""
        self._its.setblocking(False)
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._its)
            on_end()

        loop.add_reader(self._its, ended)
