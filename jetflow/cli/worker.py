"""``jetflow worker``: serve a module's workflows and activities."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

import typer

from jetflow.cli.loading import LoadedApp, load_app
from jetflow.cli.options import HERE, App, Connection, TaskQueue, Verbose, set_up_logging
from jetflow.cli.output import NEVER
from jetflow.cli.processes import CannotStartError, Processes, Tie
from jetflow.cli.report import reporting
from jetflow.cli.serving import run_until_stopped, serve
from jetflow.client import DEFAULT_QUEUE

TUNING = "Tuning"


def worker(
    app: App,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    activities_only: Annotated[bool, typer.Option("--activities-only", help="Serve no workflows, only activities sent to the task queue.")] = False,
    processes: Annotated[
        int, typer.Option(envvar="JETFLOW_PROCESSES", metavar="N", min=1, help="Number of worker processes. One that ends is restarted.")
    ] = 1,
    max_concurrent_activities: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most activity attempts at once.", rich_help_panel=TUNING)
    ] = 1000,
    max_concurrent_commands: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most commands received and not yet acked.", rich_help_panel=TUNING)
    ] = 10_000,
    max_cached_workflows: Annotated[int, typer.Option(metavar="N", min=1, help="Most resting workflows in memory.", rich_help_panel=TUNING)] = 5_000,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads for plain def activities.", rich_help_panel=TUNING)] = 32,
    graceful_timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long running activities may continue when it stops.", rich_help_panel=TUNING)
    ] = "10s",
    expire: Annotated[
        str,
        typer.Option(metavar="DURATION", help='How long records stay after the end, or "forever".', rich_help_panel=TUNING),
    ] = "7d",
    connection: Connection = HERE,
    verbose: Verbose = 0,
) -> None:
    """Serve every workflow and activity of a module.

    Run any number of workers on any number of machines. They share the task queue's workflows. After Ctrl-C or SIGTERM,
    running activities may finish, and other workers take over the rest. A second signal ends it at once. The line "worker
    ready" on stderr means that it can get work. One process uses one core; --processes starts several.

    Examples:
      jetflow worker shop.orders --task-queue orders
      jetflow worker shop.orders -q orders --processes 4
      jetflow worker examples/orders.py -q orders -s nats://nats.internal:4222 -v
      jetflow worker shop.mail --activities-only -q mail
    """
    set_up_logging(verbose)
    tie = Tie.of_this_process()
    if processes > 1 and tie is None:
        _keep_running(processes)
        return
    options: dict[str, Any] = {
        "max_concurrent_activities": max_concurrent_activities,
        "max_concurrent_commands": max_concurrent_commands,
        "max_cached_workflows": max_cached_workflows,
        "threads": threads,
        "graceful_timeout": graceful_timeout,
        "default_expire": None if expire in NEVER else expire,
    }
    with reporting():
        loaded = load_app(app, activities_only=activities_only)
        run_until_stopped(_work(connection, loaded, task_queue, options, tie))


async def _work(connection: Connection, app: LoadedApp, task_queue: str, options: dict[str, Any], tie: Tie | None) -> None:
    if tie is not None:
        tie.watch(on_end=lambda: signal.raise_signal(signal.SIGTERM))
        options["on_ready"] = tie.tell_ready
    async with connection.open(f"worker/{task_queue}") as client:
        await serve(client, app, task_queue=task_queue, **options)


def _keep_running(count: int) -> None:
    processes = Processes(count, sys.argv[1:])
    try:
        run_until_stopped(processes.run(), at_once=lambda: processes.signal(signal.SIGTERM))
    except CannotStartError as error:
        raise typer.Exit(error.code) from None
