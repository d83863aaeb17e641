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
    typer.Option("--server", "-s", envvar="JETFLOW_URL", metavar="URL", help=f"Address of NATS. Default: {DEFAULT_URL}.", rich_help_panel=CONNECTION),
]
Namespace = Annotated[str, typer.Option("--namespace", envvar="JETFLOW_NAMESPACE", metavar="NAME", help="The namespace.", rich_help_panel=CONNECTION)]
Creds = Annotated[
    Path | None, typer.Option("--creds", envvar="JETFLOW_CREDS", metavar="FILE", help="Credentials file of NATS.", rich_help_panel=CONNECTION)
]
TaskQueue = Annotated[str, typer.Option("--task-queue", "-q", envvar="JETFLOW_TASK_QUEUE", metavar="NAME", help="The task queue.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs, one value per line. Errors are JSON on stderr.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more: -v for INFO, -vv for DEBUG.", show_default=False)]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="DURATION", help='How long to wait, or "forever". Default: forever.')]

WorkflowId = Annotated[str, typer.Argument(metavar="ID", help="The workflow's id.", show_default=False)]
App = Annotated[
    str, typer.Argument(metavar="APP", help="package.module or path/to/file.py with @workflow and @activity functions.", show_default=False)
]


Args = Annotated[
    list[str] | None, typer.Argument(metavar="ARGS", help='Each is JSON, else plain text; "-" reads JSON from stdin.', show_default=False)
]
AnswerTimeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait for the answer.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="A text for the failure's message.")]
Number = Annotated[int, typer.Argument(metavar="N", help="The dead letter's number, from the list.", show_default=False)]
Utc = Annotated[bool, typer.Option("--utc", callback=use_utc, help="Show times in UTC, not in this machine's time zone.")]


@dataclass(frozen=True)
class Connection:
    """The options for the connection to a namespace."""

    server: Server = None
    namespace: Namespace = DEFAULT_NAMESPACE
    creds: Creds = None

    def open(self, name: str) -> Any:
        """Return a client for ``async with``. ``name`` is its name in the server's connection list."""
        return Client.connect(self.server, namespace=self.namespace, credentials=self.creds, name=name)

    def look(self, name: str) -> Any:
        """Like ``open``, for a command that only reads. It also works on a namespace that the engine refuses."""
        return connecting(self.server, namespace=self.namespace, credentials=self.creds, name=name, refuse=False)


HERE = Connection()
"""The default of a command's parameter. Typer fills in the given options."""


def follow_up(command: str, workflow_id: str, task_queue: str, connection: Connection, *, elsewhere: bool = False) -> str:
    """Return another command about a workflow, ready to paste.

    Args:
        command: the command, such as ``result``.
        workflow_id: the workflow's id.
        task_queue: its task queue.
        connection: the connection's options.
        elsewhere: the command is for another terminal, which may lack this one's environment. Only options with default values are left out.
    """
    environment = {} if elsewhere else os.environ
    words = ["jetflow", command, workflow_id] if not workflow_id.startswith("-") else ["jetflow", command, "--", workflow_id]
    options = []
    if task_queue != (environment.get("JETFLOW_TASK_QUEUE") or DEFAULT_QUEUE):
        options += ["-q", task_queue]
    if connection.namespace != (environment.get("JETFLOW_NAMESPACE") or DEFAULT_NAMESPACE):
        options += ["--namespace", connection.namespace]
    # do not repeat an address with a password
    if connection.server and connection.server != (environment.get("JETFLOW_URL") or DEFAULT_URL) and "@" not in connection.server:
        options += ["-s", connection.server]
    return shlex.join([*words[:2], *options, *words[2:]])


def set_up_logging(verbose: int) -> None:
    """Log to stderr: warnings; INFO with ``-v``; DEBUG with ``-vv``."""
    if verbose or not logging.getLogger().handlers:
        level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True)
