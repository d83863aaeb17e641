"""``python -m bench.peers``: races the products that are here, and says which are not."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import results as alone
from bench.loops import available
from bench.peers import docs, results, tables
from bench.peers.processes import FailedError, MissingError
from bench.peers.products import PRODUCTS
from bench.peers.products.product import ROOT, SETTINGS, Product
from bench.peers.race import WORKLOADS, Laps, raw_lap
from bench.peers.spec import FULL, QUICK, SMOKE, Counts

SLOWEST_STARTS = 50
"""Sleepers a second that are waited for."""
SAVED = ROOT / "bench" / "results"


def main(arguments: list[str]) -> int:
    """The command line. 1 when a lap failed."""
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended
    options = _options(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=150)
    if options.docs_from:
        docs.write(results.read(options.docs_from))
        return 0
    race, here = _entered(options, Console(stderr=True))
    if options.install_only:
        return 1 if race.missing else 0
    path = options.json or SAVED / f"peers-{race.at.replace(':', '')}.json"
    _run(race, here, options, path, Console(stderr=True))
    tables.show(race, console)
    console.print(f"saved: {path}", soft_wrap=True)
    if options.write_docs:
        docs.write(race)
    return 1 if race.failures() else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--products", metavar="NAME,…", type=_names(PRODUCTS), default=list(PRODUCTS), help=f"of {', '.join(PRODUCTS)}")
    parser.add_argument("--settings", metavar="NAME,…", type=_names(SETTINGS), default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}: durability")
    parser.add_argument("--workloads", metavar="NAME,…", type=_names(WORKLOADS), default=list(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (3)")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--smoke", action="store_true", help="almost nothing: whether it works, not how fast")
    parser.add_argument("--parked", type=int, metavar="N", help="how many sleepers (2,000; each lap starts twice as many)")
    parser.add_argument("--install", action="store_true", help="install first what is missing: the peers below .cache/peers, PostgreSQL with apt-get")
    parser.add_argument("--install-only", action="store_true", help="install, and run nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save there rather than in bench/results")
    parser.add_argument("--write-docs", action="store_true", help="put table, plots and JSON into docs/")
    parser.add_argument("--docs-from", type=Path, metavar="FILE", help="run nothing, and put a saved race into docs/")
    return parser.parse_args(arguments)


def _names(known):  # type: ignore[no-untyped-def]
    def names(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(known)}")
        return [name for name in known if name in given]

    return names


def _entered(options: argparse.Namespace, console: Console) -> tuple[results.Race, list[Product]]:
    """Who takes part, and who is missing and why."""
    counts = _counts(options)
    race = results.Race(results.now(), alone.machine(available("uvloop")), counts, options.rounds, {}, {}, nice=os.nice(0))
    here = []
    for name in options.products:
        product = PRODUCTS[name]
        try:
            if options.install or options.install_only:
                console.print(f"{name}: installing what is missing …")
                product.install()
            race.entrants[name] = results.Entrant(product.title, product.version(), product.settings)
            here.append(product)
            console.print(f"{name}: {race.entrants[name].version}", highlight=False)
        except (MissingError, FailedError) as reason:
            race.missing[name] = str(reason)
            console.print(f"[bold red]{name} takes no part:[/] {reason}", highlight=False)
    return race, here


def _run(race: results.Race, here: list[Product], options: argparse.Namespace, path: Path, console: Console) -> None:
    """Every product once a round and setting, the next round beginning with the next product. Saved after each lap."""
    with console.status("") as status:
        for number in range(race.rounds):
            turn = number % len(here) if here else 0
            for setting in options.settings:
                where = f"round {number + 1} of {race.rounds}, {setting}"
                if any(product.name == "jetflow" for product in here):
                    status.update(f"{where}: the raw broker")
                    race.raw.append(raw_lap(setting, number, race.counts, race.machine.loop))
                for product in here[turn:] + here[:turn]:
                    if setting not in product.settings:
                        continue
                    status.update(f"{where}: {product.name}")
                    laps = Laps(race.counts, options.workloads, lambda text, title=f"{where}: {product.name}": status.update(f"{title}: {text}"))
                    lap = laps.lap(product, setting, number)
                    race.laps.append(lap)
                    results.save(race, path)
                    told = f"[bold red]failed:[/] {lap.failure}" if lap.failure else "done"
                    console.print(f"{where}: {product.name} {told} ({lap.seconds} s, others took {lap.others:.0%} of the CPUs)", highlight=False)


def _counts(options: argparse.Namespace) -> Counts:
    counts = SMOKE if options.smoke else QUICK if options.quick else FULL
    if options.parked:
        counts = replace(counts, parked=options.parked, rider_for=counts.rider_for + 2 * options.parked / SLOWEST_STARTS)
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
