"""The folder where ``jetflow dev`` keeps workflows: one server at a time uses it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetflow.errors import BrokerError


@contextmanager
def exclusive(store_dir: Path) -> Iterator[None]:
    """Holds the folder; it is made if need be, and kept out of git.

    Two nats-servers in one folder would destroy each other's files, and nats-server itself does not see to it. The kernel
    lets go of the lock however the process ends.

    Raises:
        BrokerError: another process holds it, or the folder cannot be used.
    """
    try:
        if not store_dir.exists():
            store_dir.mkdir(parents=True)
            (store_dir / ".gitignore").write_text("*\n")
        lock = (store_dir / "dev.lock").open("a+")
    except OSError as error:
        raise BrokerError(f"{store_dir} cannot be used as a store: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise BrokerError(
                f"another `jetflow dev` (pid {holder}) keeps its workflows in {store_dir}: stop it, or name another folder with --store-dir"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
