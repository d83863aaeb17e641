"""The ``jetflow`` command: every command in its place, and the help that ties them together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

import jetflow
from jetflow.cli.ask import query, update
from jetflow.cli.commands import cancel, signal, terminate
from jetflow.cli.dead_letters import drop_letter, list_letters, requeue_letter, show_letter
from jetflow.cli.dev import dev
from jetflow.cli.events import events_off, events_on
from jetflow.cli.exits import exit_code_help
from jetflow.cli.export import export
from jetflow.cli.groups import spread
from jetflow.cli.history import history
from jetflow.cli.listing import count_workflows, list_workflows
from jetflow.cli.options import Verbose, set_up_logging
from jetflow.cli.output import say
from jetflow.cli.show import show
from jetflow.cli.start import result, start
from jetflow.cli.stats import show_stats
from jetflow.cli.tail import tail
from jetflow.cli.ui import ui
from jetflow.cli.why import explain
from jetflow.cli.worker import worker

RUN, USE = "Run workflows", "Start and command workflows"

KEEP_LINES = "\b\n"
"""Typer's mark for a paragraph whose lines are not to be joined."""


def _version(wanted: bool) -> None:
    if wanted:
        say(f"jetflow {jetflow.__version__}")
        raise typer.Exit


def _root(
    verbose: Verbose = 0,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    set_up_logging(verbose)


ROOT_HELP = f"""Durable workflows whose only server is NATS.

{KEEP_LINES}Begin with:
  jetflow dev examples/orders.py         a server, a worker and a dashboard
  jetflow start order '{{"sku": "A"}}'     in another terminal
  jetflow list

{KEEP_LINES}Environment, for what is not given as an option:
  JETFLOW_URL, JETFLOW_NAMESPACE, JETFLOW_TASK_QUEUE, JETFLOW_CREDS
  NO_COLOR=1 switches colours off

{KEEP_LINES}Exit codes:
{exit_code_help()}
"""


def _teaching(function: Callable[..., Any]) -> str:
    """A command's help from its docstring: prose to be wrapped by the terminal, examples a line each."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(KEEP_LINES + text if text.startswith("Examples:\n") else text.replace("\n", " ") for text in paragraphs)


def _add(app: typer.Typer, name: str, function: Callable[..., Any], panel: str | None = None) -> None:
    app.command(name, help=_teaching(function), rich_help_panel=panel)(spread(function))


def build() -> typer.Typer:
    """The whole command."""
    app = typer.Typer(
        help=ROOT_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for panel, name, function in (
        (RUN, "dev", dev),
        (RUN, "worker", worker),
        (RUN, "ui", ui),
        (USE, "start", start),
        (USE, "result", result),
        (USE, "show", show),
        (USE, "history", history),
        (USE, "export", export),
        (USE, "why", explain),
        (USE, "list", list_workflows),
        (USE, "count", count_workflows),
        (USE, "tail", tail),
        (USE, "stats", show_stats),
        (USE, "signal", signal),
        (USE, "query", query),
        (USE, "update", update),
        (USE, "cancel", cancel),
        (USE, "terminate", terminate),
    ):
        _add(app, name, function, panel)
    letters = typer.Typer(help="Commands that could not be understood: look, mend, send again, drop.", no_args_is_help=True)
    for name, function in (("list", list_letters), ("show", show_letter), ("requeue", requeue_letter), ("drop", drop_letter)):
        _add(letters, name, function)
    app.add_typer(letters, name="dead-letters", rich_help_panel=USE)
    events = typer.Typer(help="Lifecycle events for other services, as CloudEvents on a stream: switch them on or off.", no_args_is_help=True)
    for name, function in (("on", events_on), ("off", events_off)):
        _add(events, name, function)
    app.add_typer(events, name="events", rich_help_panel=RUN)
    return app


def main() -> None:
    """Entry point of ``jetflow`` and ``python -m jetflow``."""
    build()(prog_name="jetflow")
