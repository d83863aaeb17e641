"""The race for people, on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.figures import Figure
from bench.peers.figures import RACE, RAW
from bench.peers.products.product import SETTINGS
from bench.peers.results import Race
from bench.report import number

NOT_MEASURED = "-"


def show(race: Race, console: Console) -> None:
    """One table for each durability setting, then what is missing and what failed."""
    for setting in race.settings():
        table = Table(title=f"{setting}: {SETTINGS[setting]}", title_justify="left")
        table.add_column("figure")
        for name in (names := race.entered(setting)):
            table.add_column(race.entrants[name].title, justify="right")
        for figure in RACE:
            table.add_row(figure.label, *(cell(race, name, setting, figure) for name in names))
        console.print(table)
        raw = [f"{figure.label} {cell(race, 'raw', setting, figure)}" for figure in RAW if race.measured("raw", setting, figure.name)]
        if raw:
            console.print(f"The raw broker beside it: {'; '.join(raw)}.")
    typical, worst = race.others()
    console.print(f"Other processes took {typical:.0%} of the CPUs in the median lap, {worst:.0%} in the worst.")
    for name, reason in race.missing.items():
        console.print(f"[bold red]{name} took no part:[/] {reason}")
    for lap in race.failures():
        console.print(f"[bold red]{lap.product}, {lap.setting}, round {lap.round + 1}, failed:[/] {lap.failure}")


def cell(race: Race, product: str, setting: str, figure: Figure) -> str:
    """Median, and half the spread if there is more than one round; all values of what is a choice rather than a measure."""
    measured = race.measured(product, setting, figure.name)
    if measured is None:
        return NOT_MEASURED
    if figure.better == "same":
        return ", ".join(number(value, figure) for value in sorted(set(measured.rounds)))
    text = number(measured.median, figure)
    return text if len(measured.rounds) < 2 else f"{text} ±{measured.spread / 2:.0%}"
