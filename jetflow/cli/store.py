"""The folder where ``jetflow dev`` keeps workflows."""

from __future__ import annotations

from pathlib import Path

from jetflow.errors import BrokerError


def prepare_store(store_dir: Path) -> None:
    """Makes the folder if need be, and then keeps it out of git.

    Raises:
        BrokerError: it cannot be used.
    """
    try:
        if not store_dir.exists():
            store_dir.mkdir(parents=True)
            (store_dir / ".gitignore").write_text("*\n")
        (store_dir / "nats-server.log").touch()
    except OSError as error:
        raise BrokerError(f"{store_dir} cannot be used as a store: {error.strerror}") from error
