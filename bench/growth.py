"""``python -m bench growth``: what one unit of work costs when there is 1, 10, 100 and 1,000 times as much of it.

Each workload at each size gets a fresh server, client and worker. The unit's cost is CPU time, of this process and of the
server apart, and wall time beside it: of all figures CPU is the one that other processes disturb least. What is linear costs the
same in each column.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench import parked, workflows
from bench.figures import QUICK
from bench.loops import LOOPS, available, run
from bench.replaying import replay_seconds
from bench.stage import QUEUE, Stage, in_flight, staged
from bench.workloads import expect
from jetflow import Client, Worker, WorkflowHandle

TIMES = (1, 10, 100, 1000)
IN_FLIGHT = 256
STEEP = 2.0
"""Times that a unit may cost more at the largest size than at a tenth of it before it is marked."""


class Cost(Struct):
    """Microseconds a unit."""

    wall: float
    own: float
    server: float


class Clock:
    """Wall and CPU time from when it is made."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._begin = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), cpu_of(self._server)

    def cost(self, units: int) -> Cost:
        """Of each of so many units since then."""
        return Cost(*((now - begin) * 1e6 / units for now, begin in zip(self._now(), self._begin, strict=True)))


def cpu_of(pid: int) -> float:
    """CPU seconds of another process; 0 where ``/proc`` is missing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- the workloads: each does so many units between begin() and its return


Begin = Callable[[], None]


async def history(client: Client, steps: int, begin: Begin) -> None:
    begin()
    expect(await client.execute(workflows.chain, steps, task_queue=QUEUE), steps)


async def fan_out(client: Client, width: int, begin: Begin) -> None:
    begin()
    expect(await client.execute(workflows.fan_out, width, task_queue=QUEUE), width * (width + 1) // 2)


async def branches(client: Client, width: int, begin: Begin) -> None:
    begin()
    expect(await client.execute(workflows.branches, width, task_queue=QUEUE), width * 10)


async def signals(client: Client, count: int, begin: Begin) -> None:
    await _signalled(client, workflows.counter, count, begin, lambda number: "n")


async def signals_of_many_names(client: Client, count: int, begin: Begin) -> None:
    await _signalled(client, workflows.names, count, begin, lambda number: f"n{number}", result=count * (count - 1) // 2)


async def predicates(client: Client, count: int, begin: Begin) -> None:
    await _signalled(client, workflows.predicates, count, begin, lambda number: "n")


async def _signalled(client: Client, workflow: Any, count: int, begin: Begin, name: Callable[[int], str], result: int | None = None) -> None:
    handle = await client.start(workflow, count, workflow_id="w", task_queue=QUEUE)
    await parked.until_quiet(client, QUEUE)
    begin()
    await in_flight(IN_FLIGHT, count, lambda number: handle.signal(name(number), number))
    expect(await handle.result(), count if result is None else result)


async def signals_that_wait(client: Client, count: int, begin: Begin) -> None:
    workflows.told = asyncio.Event()  # of this loop
    handle = await client.start(workflows.slow_counter, count, workflow_id="w", task_queue=QUEUE)
    begin()
    await in_flight(IN_FLIGHT, count, lambda number: handle.signal("n", number))
    workflows.told.set()
    expect(await handle.result(), count)


async def updates(client: Client, count: int, begin: Begin) -> None:
    handle = await client.start(workflows.updated, count, workflow_id="w", task_queue=QUEUE)
    await parked.until_quiet(client, QUEUE)
    begin()
    await in_flight(IN_FLIGHT, count, lambda number: handle.update("add", number))
    expect(await handle.result(), count)


async def children(client: Client, count: int, begin: Begin) -> None:
    begin()
    expect(await client.execute(workflows.parent, count, task_queue=QUEUE), count * (count + 1) // 2)


async def timers_at_once(client: Client, count: int, begin: Begin) -> None:
    begin()
    handle = await client.start(workflows.timers, count, workflow_id="w", task_queue=QUEUE)
    await parked.until_quiet(client, QUEUE)
    expect(await parked.timers(client, QUEUE), count)
    await handle.signal("go")
    expect(await handle.result(), count)


async def timers_in_turn(client: Client, count: int, begin: Begin) -> None:
    begin()
    expect(await client.execute(workflows.naps, count, task_queue=QUEUE), count)


async def short_workflows(client: Client, count: int, begin: Begin) -> None:
    async def one(number: int) -> None:
        expect(await client.execute(workflows.one_step, number, task_queue=QUEUE), number + 1)

    begin()
    await in_flight(IN_FLIGHT, count, one)


async def parked_workflows(client: Client, count: int, begin: Begin) -> None:
    begin()
    await in_flight(IN_FLIGHT, count, lambda number: client.start(workflows.sleeper, workflow_id=f"s{number}", task_queue=QUEUE))
    await parked.until_quiet(client, QUEUE)
    expect(await parked.timers(client, QUEUE), count)


async def signal_among_parked(client: Client, count: int, begin: Begin) -> None:
    """A hundred signals one at a time, each to another of so many that wait."""
    handles: list[WorkflowHandle] = []

    async def one(number: int) -> None:
        handles.append(await client.start(workflows.wait_for_signal, workflow_id=f"s{number}", task_queue=QUEUE))

    await in_flight(IN_FLIGHT, count, one)
    await parked.until_quiet(client, QUEUE)
    await _until_tidy()
    begin()
    for number in range(min(ROUND_TRIPS, count)):
        await handles[number].signal("go", number)
        expect(await handles[number].result(), number)


async def rebuilding(client: Client, steps: int, begin: Begin) -> None:
    """A workflow with so many steps behind it that is not in memory any more: a signal has it read back and replayed."""
    handle = await client.start(workflows.long_past, steps, workflow_id="w", task_queue=QUEUE)
    await parked.until_quiet(client, QUEUE)
    await client.execute(workflows.nap, task_queue=QUEUE)  # rests, and takes the other's place
    await _until_tidy()
    begin()
    await handle.signal("go", 1)
    expect(await handle.result(), steps + 1)


async def _until_tidy() -> None:
    """Until what this process does in the background is done, such as the janitor's first look at all timelines."""
    while True:
        cpu = time.process_time()
        await asyncio.sleep(TIDY_LOOK)
        if time.process_time() - cpu < TIDY_LOOK / 10:
            return


ROUND_TRIPS = 100
TIDY_LOOK = 0.5


class Growing(Struct, frozen=True):
    """A workload: the smallest size, its unit, and how many workflows the worker keeps in memory."""

    run: Callable[[Client, int, Begin], Awaitable[None]]
    base: int
    unit: str
    units: Callable[[int], int] = lambda size: size
    cached: int = 100_000


GROWING = {
    "history": Growing(history, 20, "step of one chain"),
    "rebuild": Growing(rebuilding, 20, "step of a chain read back and replayed", cached=1),
    "fan-out": Growing(fan_out, 10, "activity of one gather"),
    "branches": Growing(branches, 1, "step of chains of 10 side by side", lambda size: size * 10),
    "signals": Growing(signals, 10, "signal to one workflow that waits"),
    "names": Growing(signals_of_many_names, 2, "signal, each of a name of its own"),
    "buffered": Growing(signals_that_wait, 10, "signal to one workflow that is busy"),
    "updates": Growing(updates, 5, "update of one workflow"),
    "predicates": Growing(predicates, 2, "signal, as many predicates waiting"),
    "children": Growing(children, 2, "child of one parent"),
    "timers": Growing(timers_at_once, 5, "timer pending in one workflow, given up"),
    "naps": Growing(timers_in_turn, 2, "timer of one workflow, one after the other"),
    "workflows": Growing(short_workflows, 20, "workflow of one step"),
    "parked": Growing(parked_workflows, 20, "workflow started and at rest"),
    "one-of": Growing(signal_among_parked, 10, "signal round trip among so many at rest", lambda size: min(ROUND_TRIPS, size)),
}


async def measure(name: str, size: int, loop: str) -> Cost:
    """One workload at one size on a stage of its own."""
    growing = GROWING[name]
    clocks: list[Clock] = []
    async with staged("default", QUICK, loop, worker=False) as stage:
        known: dict[str, Any] = {"workflows": workflows.GROWING, "activities": workflows.GROWING_ACTIVITIES}
        async with Worker(stage.client, task_queue=QUEUE, max_cached_workflows=growing.cached, **known):
            await _warm_up(stage)
            gc.collect()
            await growing.run(stage.client, size, lambda: clocks.append(Clock(stage.server_pid)))
            return clocks[0].cost(growing.units(size))


async def _warm_up(stage: Stage) -> None:
    await in_flight(16, 200, lambda number: stage.client.execute(workflows.one_step, number, task_queue=QUEUE))


# ---- the command


def main(arguments: list[str], console: Console) -> None:
    """``python -m bench growth``."""
    parser = argparse.ArgumentParser(prog="python -m bench growth", description="What one unit costs at 1, 10, 100 and 1,000 times the work.")
    parser.add_argument("--only", metavar="NAME,…", help=f"of {', '.join([*GROWING, 'replay'])}")
    parser.add_argument("--times", metavar="N,…", default=",".join(map(str, TIMES)), help="multiples of the smallest size")
    parser.add_argument("--loop", choices=LOOPS, default="uvloop", help="event loop")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else [*GROWING, "replay"]
    for name in names:
        if name not in GROWING and name != "replay":
            parser.error(f"no workload {name!r}; there are {', '.join([*GROWING, 'replay'])}")
    times = [int(each) for each in options.times.split(",")]
    loop = available(options.loop)
    table = Table(title="microseconds a unit: CPU of client and worker + CPU of the server (wall time)", title_justify="left")
    table.add_column("")
    for each in times:
        table.add_column(f"x {each:,}", justify="right")
    table.add_column("last / one before", justify="right")
    progress = Console(stderr=True)
    with progress.status("") as status:
        for name in names:
            costs = []
            for each in times:
                status.update(f"{name} x {each:,}")
                costs.append(_replay_cost(each * 10) if name == "replay" else run(measure(name, GROWING[name].base * each, loop), loop))
            base, unit = (10, "recorded event replayed") if name == "replay" else (GROWING[name].base, GROWING[name].unit)
            table.add_row(f"[bold]{name}[/]: {unit} (x 1: {base})", *map(_shown, costs), _steepness(costs))
    console.print(table)
    console.print(f"What is linear costs the same in each column; above {STEEP:g} in the last one something grows with how much there is.")


def _replay_cost(events: int) -> Cost:
    seconds = replay_seconds(events)
    return Cost(seconds * 1e6 / events, seconds * 1e6 / events, 0)


def _shown(cost: Cost) -> str:
    return f"{cost.own:,.0f} + {cost.server:,.0f} ({cost.wall:,.0f})" if cost.server else f"{cost.own:,.2f}"


def _steepness(costs: list[Cost]) -> str:
    if len(costs) < 2:
        return ""
    before, last = (cost.own + cost.server for cost in costs[-2:])
    ratio = last / before if before else 1.0
    return f"[{'red' if ratio > STEEP else 'green'}]{ratio:.2f}[/]"
