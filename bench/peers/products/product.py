"""What the race needs to know of a product."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peers.processes import MissingError, run

ROOT = Path(__file__).resolve().parent.parent.parent.parent
CACHE = Path(os.environ.get("JETFLOW_PEERS") or ROOT / ".cache" / "peers")
INSTALL_WITHIN = 1_800
RELAXED, STRICT = "relaxed", "strict"
SETTINGS = {
    RELAXED: "an acknowledged write survives the end of any process; a power cut may lose it",
    STRICT: "an acknowledged write is on the disk (fsync), and survives a power cut",
}


@dataclass(frozen=True)
class Serving:
    """A product's running servers, as its rider is told of them."""

    address: str
    pids: list[int]
    options: dict[str, Any] = field(default_factory=dict)


class Product(ABC):
    """One competitor.

    Attributes:
        name: on the command line and in files.
        title: in tables.
        rider: its module below ``bench.peers.riders``.
        settings: what it does at each durability setting that it takes part in, in words.
    """

    name: str
    title: str
    rider: str
    settings: Mapping[str, str]

    @abstractmethod
    def version(self) -> str:
        """What would run.

        Raises:
            MissingError: it is not installed.
        """

    @abstractmethod
    def install(self) -> None:
        """Installs what is missing, below ``.cache/peers`` where that can be.

        Raises:
            FailedError: an installer says no.
        """

    @abstractmethod
    def serving(self, setting: str, folder: Path) -> AbstractContextManager[Serving]:
        """Fresh servers with empty stores below ``folder``, for the block. What has to be made once for all (a database) is made by ``prepare``."""

    def prepare(self, setting: str, folder: Path) -> None:  # noqa: B027  most have nothing to do
        """What comes before the clock of the cold start: nothing for most."""

    @property
    def python(self) -> str:
        """The interpreter of its environment."""
        return str(CACHE / self.environment / "bin" / "python")

    environment: str = ""
    """Folder of its virtual environment in the cache; products may share one."""


def installed_versions(python: str, *packages: str) -> list[str]:
    """Versions of these packages in an environment.

    Raises:
        MissingError: one of them is not there.
    """
    if not Path(python).exists():
        raise MissingError("its Python environment is not made yet: add --install")
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    try:
        return run([python, "-c", code, *packages]).split()
    except Exception as error:
        raise MissingError(f"of {', '.join(packages)} not all are in its Python environment: add --install") from error


def install_packages(environment: str, *requirements: str) -> None:
    """Makes a virtual environment in the cache if it is not there, and installs into it."""
    folder = CACHE / environment
    python = folder / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", str(folder)], within=INSTALL_WITHIN)
    run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements], within=INSTALL_WITHIN)
