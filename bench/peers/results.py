"""What a race found: kept in one JSON file."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct, field

from bench.figures import Figure
from bench.peers.spec import Counts
from bench.results import Machine, Measured

VERSION = 1


class Lap(Struct):
    """One product at one setting in one round.

    Attributes:
        figures: by name; what was found before a failure stays.
        failure: why it is not all of them.
        others: part of all CPUs that processes outside the race took meanwhile.
        seconds: what the lap took.
        extra: what explains a figure, such as how many workflows it was taken over.
    """

    product: str
    setting: str
    round: int
    figures: dict[str, float]
    others: float = 0
    seconds: float = 0
    failure: str | None = None
    extra: dict[str, float] = field(default_factory=dict)


class Entrant(Struct):
    """A product as it ran.

    Attributes:
        settings: what each durability setting means for it.
    """

    title: str
    version: str
    settings: dict[str, str]


class Race(Struct):
    """All of it.

    Attributes:
        missing: products that were asked for and cannot run here, with the reason.
        raw: laps of the raw broker.
        nice: how far all of it stood back behind other processes, 0 for not at all.
    """

    at: str
    machine: Machine
    counts: Counts
    rounds: int
    entrants: dict[str, Entrant]
    missing: dict[str, str]
    laps: list[Lap] = field(default_factory=list)
    raw: list[Lap] = field(default_factory=list)
    nice: int = 0
    version: int = VERSION

    def measured(self, product: str, setting: str, name: str) -> Measured | None:
        """A figure over the rounds that have it."""
        values = [lap.figures[name] for lap in self.laps + self.raw if (lap.product, lap.setting) == (product, setting) and name in lap.figures]
        return Measured(values) if values else None

    def ratio(self, product: str, setting: str, figure: Figure, base: str) -> float | None:
        """How many times worse this product is than ``base``, by the medians. Below 1 it is better."""
        mine, other = self.measured(product, setting, figure.name), self.measured(base, setting, figure.name)
        if mine is None or other is None or not mine.median or not other.median or figure.better == "same":
            return None
        return mine.median / other.median if figure.better == "low" else other.median / mine.median

    def settings(self) -> list[str]:
        """Those that were run, in the order they were."""
        return list(dict.fromkeys(lap.setting for lap in self.laps))

    def entered(self, setting: str) -> list[str]:
        """Products with a lap at this setting."""
        return [name for name in self.entrants if any((lap.product, lap.setting) == (name, setting) for lap in self.laps)]

    def failures(self) -> list[Lap]:
        """Laps that did not come to their end."""
        return [lap for lap in self.laps + self.raw if lap.failure]

    def others(self) -> tuple[float, float]:
        """Median and largest part of the CPUs that others took, over all laps."""
        shares = [lap.others for lap in self.laps] or [0.0]
        return statistics.median(shares), max(shares)


def now() -> str:
    """For ``Race.at``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def save(race: Race, path: Path) -> None:
    """Writes the JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(race), indent=1) + b"\n")
    partial.replace(path)


def read(path: Path) -> Race:
    """Reads what ``save`` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Race)
