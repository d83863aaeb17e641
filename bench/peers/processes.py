"""Processes of a race: started in a group of their own, waited for, ended by their id, also when the race fails."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

READY_WITHIN = 60
LOOK_EVERY = 0.01
STOP_WITHIN = 15
_PR_SET_PDEATHSIG = 1


class MissingError(Exception):
    """A product cannot run here; says what would help."""


class FailedError(Exception):
    """A product's server or rider did not do what it should; with the end of its log."""


class Service:
    """One server process, with its log in a file.

    Args:
        command: with its arguments.
        log: what it says goes there.
        output: what it prints goes there instead.
        folder: it runs in; that of the log if not given.
        user: it runs as, where that is not who we are.
        environment: added to ours.
        stop: the signal that ends it cleanly.
    """

    def __init__(
        self, command: list[str], log: Path, *, output: Path | None = None, folder: Path | None = None, user: str | None = None,
        environment: dict[str, str] | None = None, stop: int = signal.SIGTERM,
    ) -> None:  # fmt: skip
        self.name = Path(command[0]).name
        self._log = log
        self._stop = stop
        with log.open("ab") as said, (output or log).open("ab") as printed:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=printed, stderr=said, start_new_session=True, cwd=folder or log.parent,
                preexec_fn=_dies_with_us(stop), env={**os.environ, **(environment or {})}, **_as_user(user),
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns when it is ready.

        Raises:
            FailedError: it ended, or is not ready in time.
        """
        deadline = time.monotonic() + READY_WITHIN
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise FailedError(f"{self.name} did not come up: {tail(self._log)}")
            time.sleep(LOOK_EVERY)

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ends it, with patience for a clean end."""
        if self._process.poll() is None:
            self._process.send_signal(self._stop)
            try:
                self._process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@contextlib.contextmanager
def running(service: Service) -> Iterator[Service]:
    """Stops it after the block."""
    try:
        yield service
    finally:
        service.stop()


def run(
    command: list[str], *, user: str | None = None, environment: dict[str, str] | None = None, cwd: Path | None = None, within: float = 120
) -> str:
    """Output of a command that ends by itself.

    Raises:
        FailedError: it ended with an error; with the end of what it said.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=within, check=False, cwd=cwd, env={**os.environ, **(environment or {})}, **_as_user(user)
    )
    if done.returncode:
        raise FailedError(f"{' '.join(command[:4])} … ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def listening(port: int) -> bool:
    """Whether somebody accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def healthy(url: str) -> bool:
    """Whether an HTTP address answers that all is well."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def tail(log: Path, characters: int = 1_500) -> str:
    """The end of a log."""
    try:
        return log.read_text(errors="replace").strip()[-characters:] or "(it said nothing)"
    except OSError as error:
        return f"({error})"


def _as_user(user: str | None) -> dict[str, object]:
    """Arguments of subprocess for another user; nothing where we are that user, or nobody special."""
    return {"user": user, "group": user, "extra_groups": []} if user and os.geteuid() == 0 else {}


def _dies_with_us(number: int) -> Callable[[], None] | None:
    """On Linux the kernel ends the process when this one is gone, also after kill -9."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, number)
