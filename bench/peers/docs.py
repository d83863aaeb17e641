"""The race in the documentation: ``docs/peers.json``, a plot for each setting, and the text between two markers of ``docs/performance.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bench.figures import FIGURES as ALONE
from bench.figures import Figure
from bench.peers.figures import RACE, RAW
from bench.peers.plots import svg
from bench.peers.products.product import ROOT, SETTINGS
from bench.peers.results import Race, save
from bench.peers.tables import NOT_MEASURED, cell

PAGE = ROOT / "docs" / "performance.md"
BUSY = 0.05
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


def write(race: Race, page: Path = PAGE) -> None:
    """Replaces what an earlier race left there.

    Raises:
        ValueError: the page has no markers.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {BEGIN} … {END}")
    save(race, page.with_name("peers.json"))
    for setting in race.settings():
        page.with_name(_plot(setting)).write_text(svg(race, setting))
    page.write_text(f"{before}{BEGIN}\n{text(race)}{END}{after}")


def text(race: Race) -> str:
    """All of it in Markdown."""
    parts = [_conditions(race), *(_setting(race, setting) for setting in race.settings()), _absent(race)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(race: Race) -> str:
    where, counts = race.machine, race.counts
    rounds = len({lap.round for lap in race.laps})
    typical, worst = race.others()
    versions = "\n".join(f"- {entrant.title}: {entrant.version}" for entrant in race.entrants.values())
    return (
        f"Measured {race.at[:10]} on {where.cpus} CPUs ({where.system}, Python {where.python}, {where.loop}), "
        f"{'one round' if rounds == 1 else f'{rounds} rounds'}, each product in turn, while other processes took {typical:.0%} of the CPUs "
        f"in the median lap and {worst:.0%} in the worst{_busy(typical, race.nice)}.\n"
        f"Up to {counts.starts} starts, {counts.least_workflows:,} to {counts.most_workflows:,} workflows at the best width, "
        f"{counts.parked:,} sleepers, a history of {counts.history:,} steps.\n"
        f"Medians, ± half the spread between the largest and the smallest; {NOT_MEASURED} was not measured.\n\n{versions}"
    )


def _busy(others: float, nice: int) -> str:
    stood_back = f", and the race stood back behind them (nice {nice})" if nice else ""
    return stood_back + (": too busy a machine for absolute figures, look at the order of magnitude" if others > BUSY else "")


def _setting(race: Race, setting: str) -> str:
    names, raw = race.entered(setting), any(lap.setting == setting for lap in race.raw)
    meaning = "\n".join(f"- {race.entrants[name].title}: {race.entrants[name].settings[setting]}" for name in names)
    parts = [
        f"#### {setting.capitalize()}: {SETTINGS[setting]}",
        meaning,
        _table(_titles(race, names, raw), RACE, lambda name, figure: cell(race, name, setting, _beside(figure) if name == "raw" else figure)),
        _limit(race, setting) if raw else "",
        f"![Medians at the {setting} setting]({_plot(setting)})",
    ]
    if "jetflow" in names:
        compared = [figure for figure in RACE if figure.better != "same"]
        times = _table(_titles(race, names, False), compared, lambda name, figure: _times(race.ratio(name, setting, figure, "jetflow")))
        parts.append(f"How many times jetflow's figure it is, above 1 worse than jetflow, below 1 better:\n\n{times}")
    return "\n\n".join(part for part in parts if part)


def _titles(race: Race, names: list[str], raw: bool) -> dict[str, str]:
    return {name: race.entrants[name].title for name in names} | ({"raw": "raw broker"} if raw else {})


def _beside(figure: Figure) -> Figure:
    """The raw broker's figure that jetflow's cannot be better than; where there is none, the figure itself, which it has not."""
    return ALONE.get(figure.raw or "", figure)


def _table(titles: dict[str, str], figures: Iterable[Figure], shown: Callable[[str, Figure], str]) -> str:
    lines = [f"| figure | {' | '.join(titles.values())} |", f"|---|{'---:|' * len(titles)}"]
    lines += [f"| {figure.label} | {' | '.join(shown(name, figure) for name in titles)} |" for figure in figures]
    return "\n".join(lines)


def _limit(race: Race, setting: str) -> str:
    raw = [f"{figure.label} {cell(race, 'raw', setting, figure)}" for figure in RAW if race.measured("raw", setting, figure.name)]
    return (
        "The raw broker is jetflow's physical limit: for a time one write and its ack, where jetflow makes several; "
        f"for a rate as many writes in flight. All of it, in the same rounds: {'; '.join(raw)}."
    )


def _times(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.0f}" if value >= 20 else f"{value:.2g}"


def _absent(race: Race) -> str:
    lines = [f"- {name} took no part: {reason}" for name, reason in race.missing.items()]
    lines += [
        f"- {race.entrants[lap.product].title}, {lap.setting}, round {lap.round + 1}: {_first_line(lap.failure or '')}" for lap in race.failures()
    ]
    return "What is missing:\n\n" + "\n".join(lines) if lines else ""


def _first_line(failure: str) -> str:
    return failure.partition("\n")[0][:300]


def _plot(setting: str) -> str:
    return f"peers-{setting}.svg"
