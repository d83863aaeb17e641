"""``jetflow stats``: a namespace in numbers."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.text import Text

from jetflow.cli.options import HERE, Connection, Json
from jetflow.cli.output import clean, say, write_json
from jetflow.cli.report import reporting
from jetflow.cli.styles import STYLES
from jetflow.core.durations import to_ms
from jetflow.core.ids import from_token
from jetflow.errors import InvalidInputError
from jetflow.reading.overview import Overview
from jetflow.reading.stats import Stats, Throughput, stats


def show_stats(
    interval: Annotated[str, typer.Option(metavar="DURATION", help="How long to measure throughput; 0s: not at all.")] = "2s",
    quick: Annotated[bool, typer.Option("--quick", help="Do not count workflows by status, which reads every record.")] = False,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Show a namespace in numbers: workflows by status, stored messages, workers with their partitions, and throughput.

    Examples:
      jetflow stats
      jetflow stats --quick --interval 10s
      jetflow stats --json --interval 0s | jq .workflows
    """

    async def read() -> Stats:
        seconds = to_ms(interval, "--interval") / 1000
        async with connection.look("stats") as client:
            return await stats(client.broker, interval=seconds, counted=not quick)

    with reporting(as_json):
        found = asyncio.run(read())
        if as_json:
            write_json(found)
        else:
            _print(found)


def _print(found: Stats) -> None:
    if found.seen.complaints:
        _heading("wrong")
        for complaint in found.seen.complaints:
            say(Text(f"  {clean(complaint)}", "red"))
    if found.workflows is not None:
        _heading("workflows")
        for status, number in found.workflows.items():
            say(Text.assemble("  ", (f"{status:<12}", STYLES.get(status, "")), f"{number:>12,}"))
        if not found.workflows:
            say("  none")
    if found.seen.unserved:
        _heading("task queues without a worker")
        for queue in found.seen.unserved:
            say(Text(f"  {clean(queue.task_queue):<24}{queue.commands:>12,} commands wait, {queue.starts:,} of them starts", "yellow"))
    _heading("waiting")
    for what, number in (("commands", found.commands), ("timers", found.timers), ("dead letters", found.dead_letters)):
        say(f"  {what:<12}{number:>12,}")
    if found.expired_signals:
        say(Text(f"  {found.expired_signals:,} of the dead letters are signals that expired before a workflow waited for them", "yellow"))
    _heading("stored")
    for stream in found.seen.streams:
        say(f"  {clean(stream.name):<24}{stream.messages:>12,}{_size(stream.bytes):>12}  {stream.what}")
    _print_workers(found.seen)
    if found.throughput is not None:
        _print_throughput(found.throughput)


def _heading(text: str) -> None:
    say(Text(text, "bold"))


def _print_workers(seen: Overview) -> None:
    owned = {(each.task_queue, each.worker_id): each for each in seen.consumers}
    _heading(f"workers, and which of the {seen.partitions} partitions they own")
    for worker in seen.workers:
        own = owned.pop((worker.task_queue, worker.worker_id), None)
        what = f"{_ranges(own.partitions)}  {own.waiting} waiting, {own.under_way} under way" if own is not None else "none"
        say(f"  {clean(worker.task_queue)}  {worker.worker_id}  {clean(worker.host)} pid {worker.pid}  {what}")
        for name, times in worker.failures.items():
            say(Text(f"    {clean(name)} has failed {times} times; see the worker's log", "yellow"))
        for id_token, reason in worker.set_aside.items():
            say(Text(f"    the timeline of workflow {clean(_workflow_id(id_token))} cannot be read: {clean(reason)}", "yellow"))
    for each in owned.values():
        say(Text(f"  {clean(each.task_queue)}  {clean(each.worker_id)}  gone  {_ranges(each.partitions)}  {each.waiting} waiting", "yellow"))
    if not seen.workers and not seen.consumers:
        say("  no worker is up")


def _workflow_id(id_token: str) -> str:
    try:
        return from_token(id_token)
    except InvalidInputError:
        return id_token


def _print_throughput(done: Throughput) -> None:
    _heading(f"in the last {done.seconds:.1f} s")
    for what, number in (("started", done.started), ("ended", done.ended), ("commands", done.commands), ("commits", done.commits)):
        say(f"  {what:<12}{number:>12,}{number / done.seconds:>12,.1f}/s")


def _ranges(numbers: list[int]) -> str:
    """Return partitions as ranges: ``0-31,40``."""
    parts: list[str] = []
    first = last = -2
    for number in sorted(numbers):
        if number == last + 1:
            last = number
            parts[-1] = f"{first}-{last}"
        else:
            first = last = number
            parts.append(str(number))
    return ",".join(parts) or "none"


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return ""
