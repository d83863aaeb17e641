"""What a run found, in memory and in its JSON file."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.figures import FIGURES, Counts
from jetflow.broker.transport.server import server_binary

VERSION = 1


class Measured(Struct):
    """One figure over the rounds.

    Attributes:
        rounds: its value in each round.
        median: of the rounds.
        spread: largest less smallest, as a part of the median.
    """

    rounds: list[float]
    median: float = 0
    spread: float = 0

    def __post_init__(self) -> None:
        self.median = statistics.median(self.rounds)
        self.spread = (max(self.rounds) - min(self.rounds)) / self.median if self.median else 0.0


class Machine(Struct):
    """Where it ran.

    Attributes:
        loop: name of the event loop.
        others: part of all CPUs that other processes took, by round: above a few percent the figures are too bad.
    """

    cpus: int
    system: str
    python: str
    nats_server: str
    loop: str
    others: list[float]


class Results(Struct):
    """A whole run: figures by sync setting and name."""

    version: int
    at: str
    machine: Machine
    counts: Counts
    figures: dict[str, dict[str, Measured]]

    def ratio_to_raw(self, sync: str, name: str) -> float | None:
        """How many times the raw broker's figure this one costs: the median of the rounds' own ratios."""
        figure = FIGURES[name]
        mine, raw = self.figures[sync].get(name), self.figures[sync].get(figure.raw or "")
        if mine is None or raw is None:
            return None
        pairs = zip(mine.rounds, raw.rounds, strict=True)
        return statistics.median(a / b if figure.better == "low" else b / a for a, b in pairs)


def machine(loop: str) -> Machine:
    """This machine, before the run."""
    answer = subprocess.run([server_binary(), "--version"], capture_output=True, text=True, check=True)
    return Machine(
        cpus=os.cpu_count() or 0,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        nats_server=answer.stdout.strip().rpartition(" ")[2],
        loop=loop,
        others=[],
    )


class Others:
    """How much of the machine other processes take, from now on. Zero where ``/proc`` is missing."""

    def __init__(self) -> None:
        self._busy, self._own, self._at = _busy_seconds(), _own_seconds(), time.monotonic()

    def share(self) -> float:
        """Their part of all CPUs. What ended children used is ours."""
        busy, own = _busy_seconds() - self._busy, _own_seconds() - self._own
        return round(max(0.0, busy - own) / ((time.monotonic() - self._at) * (os.cpu_count() or 1)), 3)


def _busy_seconds() -> float:
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0
    user, nice, system, _idle, _waiting, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])


def collect(rounds: dict[str, list[dict[str, float]]], counts: Counts, where: Machine) -> Results:
    """The rounds' figures put together, in the order they are shown."""
    figures = {
        sync: {name: Measured([found[name] for found in all_found]) for name in FIGURES if all_found and name in all_found[0]}
        for sync, all_found in rounds.items()
    }
    return Results(VERSION, datetime.now(UTC).isoformat(timespec="seconds"), where, counts, figures)


def save(results: Results, path: Path) -> None:
    """Writes the JSON file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))


def read(path: Path) -> Results:
    """Reads a JSON file that ``save`` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Results)
