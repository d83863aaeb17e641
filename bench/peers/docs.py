"""The race in the documentation: ``docs/peers.json``, a plot for each setting, and the text between two markers of ``docs/performance.md``."""

from __future__ import annotations

from pathlib import Path

from bench.peers.figures import RACE, RAW
from bench.peers.plots import svg
from bench.peers.products.product import ROOT, SETTINGS
from bench.peers.results import Race, save
from bench.peers.tables import cell

PAGE = ROOT / "docs" / "performance.md"
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
    where = race.machine
    typical, worst = race.others()
    counts = race.counts
    versions = "; ".join(f"{entrant.title}: {entrant.version}" for entrant in race.entrants.values())
    return (
        f"Measured {race.at[:10]} on {where.cpus} CPUs ({where.system}, Python {where.python}, {where.loop}), {_rounds(race.rounds)}, each product in turn, "
        f"while other processes took {typical:.0%} of the CPUs in the median lap and {worst:.0%} in the worst: "
        f"{'too busy a machine for absolute figures, look at the order of magnitude' if typical > 0.05 else 'quiet enough'}.\n"
        f"Up to {counts.starts} starts, {counts.least_workflows:,} to {counts.most_workflows:,} workflows at the best width, {counts.parked:,} sleepers, "
        f"a history of {counts.history:,} steps. Medians, ± half the spread between largest and smallest; – was not measured.\n\n{versions}."
    )


def _rounds(rounds: int) -> str:
    return "one round" if rounds == 1 else f"{rounds} rounds"


def _setting(race: Race, setting: str) -> str:
    names = race.entered(setting)
    titles = [race.entrants[name].title for name in names]
    meaning = "\n".join(f"- {title}: {race.entrants[name].settings[setting]}" for name, title in zip(names, titles, strict=True))
    rows = [f"| figure | {' | '.join(titles)} |", f"|---|{'---:|' * len(names)}"]
    rows += [f"| {figure.label} | {' | '.join(cell(race, name, setting, figure) for name in names)} |" for figure in RACE]
    ratios = [f"| {figure.label} | {' | '.join(_ratio(race.ratio(name, setting, figure, 'jetflow')) for name in names)} |" for figure in RACE if _has(figure)]
    raw = [f"{figure.label} {cell(race, 'raw', setting, figure)}" for figure in RAW if race.measured("raw", setting, figure.name)]
    limit = f"The physical limit, the raw broker in the same rounds: {'; '.join(raw)}.\n\n" if raw else ""
    head = f"#### {setting.capitalize()}: {SETTINGS[setting]}\n\n{meaning}\n\n"
    against = "How many times worse than jetflow (below 1: better):\n\n" + "\n".join([rows[0], rows[1], *ratios])
    plot = f"![Medians at the {setting} setting]({_plot(setting)})"
    table = "\n".join(rows)
    return f"{head}{table}\n\n{limit}{against if 'jetflow' in names else ''}\n\n{plot}"


def _has(figure) -> bool:  # type: ignore[no-untyped-def]
    return figure.better != "same"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 20 else f"{value:.2g}"


def _absent(race: Race) -> str:
    lines = [f"- {name} took no part: {reason}" for name, reason in race.missing.items()]
    lines += [f"- {race.entrants[lap.product].title}, {lap.setting}, round {lap.round + 1}: {_first_line(lap.failure or '')}" for lap in race.failures()]
    return "What is missing:\n\n" + "\n".join(lines) if lines else ""


def _first_line(failure: str) -> str:
    return failure.partition("\n")[0][:300]


def _plot(setting: str) -> str:
    return f"peers-{setting}.svg"
