"""The folder in which ``jetflow dev`` stores workflows."""

from __future__ import annotations

from pathlib import Path

from jetflow.errors import BrokerError


def prepare_store(store_dir: Path) -> None:
    """Create the folder if it is missing, with a ``.gitignore``.

    Raises:
        BrokerError: the folder cannot be used.
    """
    try:
        if not store_dir.exists():
            store_dir.mkdir(parents=True)
            (store_dir / ".gitignore").write_text("*\n")
        (store_dir / "nats-server.log").touch()
    except OSError as error:
        raise BrokerError(f"{store_dir} cannot be used as a store: {error.strerror}") from error
