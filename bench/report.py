"""Tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.figures import FIGURES, MARKS_SOURCE, Figure
from bench.results import Results

SYNC_TITLES = {
    "default": "default sync (the server flushes to disk every two minutes)",
    "always": "sync_interval: always (each ack waits for the disk)",
    "r3": "three servers on this machine, each stream on all of them (R3), default sync",
}


def show(results: Results, console: Console) -> None:
    """One table for each sync setting."""
    where = results.machine
    console.print(
        f"{where.cpus} CPUs, {where.system}, Python {where.python}, {where.loop}, nats-server {where.nats_server}, "
        f"{' / '.join(f'{share:.0%}' for share in where.others)} of the CPUs taken by other processes"
    )
    for sync in results.figures:
        console.print(_table(results, sync))
    console.print("x raw: how many times the raw broker's figure. x mark: above 1 beats the mark.")
    console.print(f"Marks: {MARKS_SOURCE}.")


def _table(results: Results, sync: str) -> Table:
    table = Table(title=SYNC_TITLES[sync], title_justify="left")
    table.add_column("figure")
    for heading in ("median", "best", "spread", "raw broker", "x raw", "mark", "x mark"):
        table.add_column(heading, justify="right")
    raw_done = False
    for name, measured in results.figures[sync].items():
        figure = FIGURES[name]
        if not raw_done and not name.startswith("raw_"):
            table.add_section()
            raw_done = True
        mark = figure.mark_at(sync)
        raw = results.figures[sync].get(figure.raw or "")
        ratio = results.ratio_to_raw(sync, name)
        table.add_row(
            figure.label,
            number(measured.median, figure),
            number(best(figure, measured.rounds), figure) if len(measured.rounds) > 1 else "",
            f"{measured.spread:.0%}" if len(measured.rounds) > 1 else "",
            number(raw.median, figure) if raw is not None else "",
            "" if ratio is None else f"{ratio:.1f}",
            "" if mark is None else number(mark, figure),
            "" if mark is None else _against(better(figure, measured.median, mark)),
        )
    return table


def compare(before: Results, after: Results, console: Console) -> None:
    """The second run against the first."""
    for sync in before.figures:
        if sync not in after.figures:
            continue
        table = Table(title=SYNC_TITLES[sync], title_justify="left")
        table.add_column("figure")
        for heading in ("before", "after", "better", "x raw before", "x raw after"):
            table.add_column(heading, justify="right")
        for name, measured in before.figures[sync].items():
            other = after.figures[sync].get(name)
            if other is None:
                continue
            figure = FIGURES[name]
            ratios = [results.ratio_to_raw(sync, name) for results in (before, after)]
            table.add_row(
                figure.label,
                number(measured.median, figure),
                number(other.median, figure),
                _against(better(figure, other.median, measured.median)),
                *("" if ratio is None else f"{ratio:.1f}" for ratio in ratios),
            )
        console.print(table)
    console.print("better: above 1 the second run is better. The ratio to the raw broker, of the same run, is what to trust on a busy machine.")


def best(figure: Figure, rounds: list[float]) -> float:
    """The best round: on a busy machine nearer to the truth than the median."""
    return max(rounds) if figure.better == "high" else min(rounds)


def better(figure: Figure, new: float, old: float) -> float | None:
    """How many times better the new value is."""
    if figure.better == "same" or not new or not old:
        return None
    return old / new if figure.better == "low" else new / old


def number(value: float, figure: Figure) -> str:
    """A value with its unit, to three digits."""
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text} {figure.unit}".replace(" /s", "/s").strip()


def _against(ratio: float | None) -> str:
    if ratio is None:
        return ""
    colour = "green" if ratio >= 0.95 else "yellow" if ratio >= 0.75 else "red"
    return f"[{colour}]{ratio:.2f}[/]"
