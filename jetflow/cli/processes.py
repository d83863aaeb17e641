"""``--processes``: a parent that keeps several processes of the same command running, and its end of the tie in each of them.

A socket pair ties each process to its parent. The process says on it that it is ready, and reads the end of it when the parent is
gone, however that happened: then it stops, as if it had been asked to.
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
"""In a process's environment: its parent's process id, and the descriptor of its own end."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
STEADY_AFTER = 30.0
"""Seconds that a process must have run for its end to count as the first one."""
READY = b"ready"


class CannotStartError(Exception):
    """The first process ended before it was ready; ``code`` is its exit code, and it has told why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the first process ended with {code}")
        self.code = code


class Processes:
    """The parent's part.

    Args:
        count: how many processes.
        arguments: of ``python -m jetflow`` in each of them.
    """

    def __init__(self, count: int, arguments: list[str]) -> None:
        self._count = count
        self._arguments = arguments
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._first_is_ready = asyncio.Event()
        self._ready: set[int] = set()

    async def run(self) -> None:
        """Keeps them running until cancelled, and then lets each of them finish. The others are started once the first is ready.

        Raises:
            CannotStartError: the first one cannot start, so that the others could not either.
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
        """Sends a signal to each of them."""
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
            # a session of its own: Ctrl-C reaches the parent alone, which passes it on once
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
    """A process's end of the tie to its parent."""

    def __init__(self, its: socket.socket) -> None:
        self._its = its

    @classmethod
    def of_this_process(cls) -> Tie | None:
        """The tie that the parent has given to this process, which has none unless it was started by ``Processes``."""
        parent, _, descriptor = os.environ.pop(TIE, "").partition(":")
        if parent != str(os.getppid()):
            return None
        its = socket.socket(fileno=int(descriptor))
        its.set_inheritable(False)
        return cls(its)

    def tell_ready(self) -> None:
        """Tells the parent that there is work to take."""
        with contextlib.suppress(OSError):  # it is gone, which is seen to elsewhere
            self._its.send(READY)

    def watch(self, on_end: Callable[[], None]) -> None:
        """Calls ``on_end`` on the running loop when the parent is gone."""
        self._its.setblocking(False)
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._its)
            on_end()

        loop.add_reader(self._its, ended)
