"""Options that several commands share, each declared once."""

from __future__ import annotations

import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from jetflow.broker.transport.connection import DEFAULT_URL
from jetflow.cli.output import use_utc
from jetflow.client import DEFAULT_QUEUE, Client, connecting
from jetflow.protocol.subjects import DEFAULT_NAMESPACE

CONNECTION = "Connection"

Server = Annotated[
    str | None,
    typer.Option(
        "--server", "-s", envvar="JETFLOW_URL", metavar="URL", help=f"Address of NATS; {DEFAULT_URL} when not given.", rich_help_panel=CONNECTION
    ),
]
Namespace = Annotated[
    str, typer.Option("--namespace", envvar="JETFLOW_NAMESPACE", metavar="NAME", help="Which set of workflows.", rich_help_panel=CONNECTION)
]
Creds = Annotated[
    Path | None, typer.Option("--creds", envvar="JETFLOW_CREDS", metavar="FILE", help="Credentials file of NATS.", rich_help_panel=CONNECTION)
]
TaskQueue = Annotated[str, typer.Option("--task-queue", "-q", envvar="JETFLOW_TASK_QUEUE", metavar="NAME", help="Whose workers run it.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs, one line each; errors too, on stderr.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more: -v for INFO, -vv for DEBUG.", show_default=False)]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="DURATION", help='How long to wait, or "forever", as when not given.')]

WorkflowId = Annotated[str, typer.Argument(metavar="ID", help="The workflow's id.", show_default=False)]
App = Annotated[
    str, typer.Argument(metavar="APP", help="package.module or path/to/file.py with @workflow and @activity functions.", show_default=False)
]


Args = Annotated[
    list[str] | None, typer.Argument(metavar="ARGS", help='Each is JSON, else plain text; "-" reads JSON from stdin.', show_default=False)
]
AnswerTimeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait for the answer.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Shown to whoever waits for the result.")]
Number = Annotated[int, typer.Argument(metavar="N", help="The letter's number, from the list.", show_default=False)]
Utc = Annotated[bool, typer.Option("--utc", callback=use_utc, help="Times in UTC, not in this machine's time zone.")]


@dataclass(frozen=True)
class Connection:
    """How to reach a namespace of workflows; as a command's parameter it is these options."""

    server: Server = None
    namespace: Namespace = DEFAULT_NAMESPACE
    creds: Creds = None

    def open(self, name: str) -> Any:
        """A client to be, for ``async with``; ``name`` shows in the server's connection list."""
        return Client.connect(self.server, namespace=self.namespace, credentials=self.creds, name=name)

    def look(self, name: str) -> Any:
        """As ``open``, for a command that changes nothing: a namespace that the engine cannot work with is shown all the same."""
        return connecting(self.server, namespace=self.namespace, credentials=self.creds, name=name, refuse=False)


HERE = Connection()
"""The default of a command's parameter; Typer fills in what is given."""


def follow_up(command: str, workflow_id: str, task_queue: str, connection: Connection, *, elsewhere: bool = False) -> str:
    """A further command about a workflow, ready to paste.

    Args:
        command: such as ``result``.
        workflow_id: what it is about.
        task_queue: its task queue.
        connection: how it is reached.
        elsewhere: for another terminal, which may not have this one's environment: options are left out only for defaults.
    """
    environment = {} if elsewhere else os.environ
    words = ["jetflow", command, workflow_id] if not workflow_id.startswith("-") else ["jetflow", command, "--", workflow_id]
    options = []
    if task_queue != (environment.get("JETFLOW_TASK_QUEUE") or DEFAULT_QUEUE):
        options += ["-q", task_queue]
    if connection.namespace != (environment.get("JETFLOW_NAMESPACE") or DEFAULT_NAMESPACE):
        options += ["--namespace", connection.namespace]
    # an address with a password in it is not repeated
    if connection.server and connection.server != (environment.get("JETFLOW_URL") or DEFAULT_URL) and "@" not in connection.server:
        options += ["-s", connection.server]
    return shlex.join([*words[:2], *options, *words[2:]])


def set_up_logging(verbose: int) -> None:
    """Log lines on stderr: warnings, with ``-v`` INFO, with ``-vv`` DEBUG."""
    if verbose or not logging.getLogger().handlers:
        level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True)
