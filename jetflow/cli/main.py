"""The ``jetflow`` command: the list of commands and the help."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

import jetflow
from jetflow.cli.exits import exit_code_help
from jetflow.cli.groups import spread
from jetflow.cli.options import Verbose, set_up_logging
from jetflow.cli.output import say

RUN, USE = "Run workflows", "Start and command workflows"

COMMANDS = {
    "dev": (RUN, "dev:dev"),
    "worker": (RUN, "worker:worker"),
    "ui": (RUN, "ui:ui"),
    "start": (USE, "start:start"),
    "result": (USE, "start:result"),
    "show": (USE, "show:show"),
    "history": (USE, "history:history"),
    "export": (USE, "export:export"),
    "why": (USE, "why:explain"),
    "list": (USE, "listing:list_workflows"),
    "count": (USE, "listing:count_workflows"),
    "tail": (USE, "tail:tail"),
    "stats": (USE, "stats:show_stats"),
    "mend": (RUN, "mend:mend"),
    "signal": (USE, "commands:signal"),
    "query": (USE, "ask:query"),
    "update": (USE, "ask:update"),
    "cancel": (USE, "commands:cancel"),
    "terminate": (USE, "commands:terminate"),
}
"""For each command: its panel in the help, its module in ``jetflow.cli``, and its function."""

GROUPS = {
    "dead-letters": (
        USE,
        "Malformed commands and expired signals: show, requeue or drop them.",
        {
            "list": "dead_letters:list_letters",
            "show": "dead_letters:show_letter",
            "requeue": "dead_letters:requeue_letter",
            "drop": "dead_letters:drop_letter",
        },
    ),
    "events": (
        RUN,
        "Lifecycle events for other services, as CloudEvents in a stream: switch them on or off.",
        {"on": "events:events_on", "off": "events:events_off"},
    ),
}
"""Groups of commands: the panel, the help, and each command's module and function."""

KEEP_LINES = "\b\n"
"""Typer's mark for a paragraph whose lines it must not join."""


def _version(wanted: bool) -> None:
    if wanted:
        say(f"jetflow {jetflow.__version__}")
        raise typer.Exit


def _root(
    verbose: Verbose = 0,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    set_up_logging(verbose)


ROOT_HELP = f"""Durable workflows. NATS is the only server.

{KEEP_LINES}Begin with:
  jetflow dev examples/orders.py         a server, a worker and a dashboard
  jetflow start order '{{"sku": "A"}}'     in another terminal
  jetflow list

{KEEP_LINES}Environment variables, used without the option:
  JETFLOW_URL, JETFLOW_NAMESPACE, JETFLOW_TASK_QUEUE, JETFLOW_CREDS
  NO_COLOR=1 switches colours off

{KEEP_LINES}Exit codes:
{exit_code_help()}
"""


def _teaching(function: Callable[..., Any]) -> str:
    """Return a command's help from its docstring: prose that the terminal wraps, and examples line by line."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(KEEP_LINES + text if text.startswith("Examples:\n") else text.replace("\n", " ") for text in paragraphs)


def _add(app: typer.Typer, name: str, where: str, **options: Any) -> None:
    module, _, function_name = where.partition(":")
    function = getattr(importlib.import_module(f"jetflow.cli.{module}"), function_name)
    app.command(name, help=_teaching(function), **options)(spread(function))


def build(only: str | None = None) -> typer.Typer:
    """Return the command line with all commands, or with one command ``only``, to import less."""
    app = typer.Typer(
        help=ROOT_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, (panel, where) in COMMANDS.items():
        if only in (None, name):
            _add(app, name, where, rich_help_panel=panel)
    for name, (panel, meaning, functions) in GROUPS.items():
        if only in (None, name):
            group = typer.Typer(help=meaning, no_args_is_help=True)
            for inner, where in functions.items():
                _add(group, inner, where)
            app.add_typer(group, name=name, rich_help_panel=panel)
    return app


def main() -> None:
    """Entry point of ``jetflow`` and ``python -m jetflow``."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    build(first if first in COMMANDS or first in GROUPS else None)(prog_name="jetflow")
