"""``jetflow dev``: a nats-server, a worker and the dashboard in one command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from jetflow.broker.transport.server import LocalServer
from jetflow.cli.loading import LoadedApp, load_app
from jetflow.cli.options import App, Connection, Namespace, TaskQueue, Verbose, follow_up, set_up_logging
from jetflow.cli.output import clean, public_url, say, tell
from jetflow.cli.report import reporting
from jetflow.cli.samples import sample_args
from jetflow.cli.serving import run_until_stopped, serve
from jetflow.cli.store import prepare_store
from jetflow.client import DEFAULT_QUEUE, NO_CREDENTIALS, Client
from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.ids import to_token
from jetflow.core.values import body_of
from jetflow.errors import BrokerError, InvalidInputError
from jetflow.protocol.subjects import DEFAULT_NAMESPACE, Names
from jetflow.web.serving import DEFAULT_PORT as UI_PORT
from jetflow.web.serving import DashboardThread, address_of, bind, check_installed

DEFAULT_PORT = 4222
DEFAULT_STORE = Path(".jetflow")
LOOK_EVERY = 0.5


def dev(
    app: App,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    store_dir: Annotated[Path, typer.Option(metavar="DIR", help="The folder that stores workflows across restarts.")] = DEFAULT_STORE,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=65535, help=f"Port of the server; {DEFAULT_PORT} if free, else any (0: any).")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", "-s", metavar="URL", help="Use this NATS instead of starting one. JETFLOW_URL is ignored.")
    ] = None,
    ui_port: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=65535, help=f"Port of the dashboard; {UI_PORT} if free, else any (0: any).")
    ] = None,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Do not start the dashboard.")] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    verbose: Verbose = 0,
) -> None:
    """Start a nats-server, a worker for a module and the dashboard: everything for development.

    Everything listens on 127.0.0.1 only. The server stores its files in .jetflow, so that workflows survive a restart. Ctrl-C
    stops everything.

    Examples:
      jetflow dev examples/orders.py
      jetflow dev shop.orders --task-queue orders --store-dir /tmp/shop --port 4333
    """
    set_up_logging(verbose)
    running: list[LocalServer] = []

    def end_server() -> None:
        for each in running:
            if each.pid is not None:
                os.kill(each.pid, signal.SIGTERM)

    with reporting():
        loaded = load_app(app)
        page = _page_socket(ui_port, no_ui=no_ui)
        if server is not None:
            run_until_stopped(_work(Connection(server, namespace, NO_CREDENTIALS), loaded, task_queue, "of your own", page))
            return
        prepare_store(store_dir)
        run_until_stopped(_serve_all(loaded, task_queue, store_dir, port, namespace, running, page), at_once=end_server)


async def _serve_all(
    app: LoadedApp, task_queue: str, store_dir: Path, port: int | None, namespace: str, running: list[LocalServer], page: socket.socket | None
) -> None:
    async with _server(store_dir, port, running) as server:
        tasks = [
            asyncio.create_task(_work(Connection(server.url, namespace, NO_CREDENTIALS), app, task_queue, f"stored in {store_dir}", page)),
            asyncio.create_task(_until_ended(server)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _work(connection: Connection, app: LoadedApp, task_queue: str, store: str, page: socket.socket | None) -> None:
    address = None if page is None else address_of(page, "127.0.0.1")
    async with connection.open("dev") as client, _dashboard(connection, page):
        await serve(client, app, task_queue=task_queue, on_ready=_greeter(client, app, task_queue, connection, store, address))


# ---- the dashboard


def _page_socket(port: int | None, *, no_ui: bool) -> socket.socket | None:
    """Return the dashboard's socket, or None without a dashboard. If the dashboard cannot run, print the reason and return None."""
    if no_ui:
        return None
    try:
        check_installed()
    except InvalidInputError as error:
        tell(str(error))
        return None
    return bind("127.0.0.1", port)


@contextlib.asynccontextmanager
async def _dashboard(connection: Connection, page: socket.socket | None) -> AsyncIterator[None]:
    if page is None:
        yield
        return
    thread = DashboardThread(connection.look("ui"), page)
    thread.start()
    try:
        yield
    finally:
        await thread.stop()


# ---- the server


@contextlib.asynccontextmanager
async def _server(store_dir: Path, port: int | None, running: list[LocalServer]) -> AsyncIterator[LocalServer]:
    server = LocalServer(store_dir, choose_port(port))
    running.append(server)
    try:  # not `async with`: a signal during the start must not leave the server behind
        await server.start()
        yield server
    finally:
        await server.stop()


def choose_port(wanted: int | None, default: int = DEFAULT_PORT) -> int:
    """Return the port to listen on: the wanted one, else the default if it is free, else 0 for any.

    Raises:
        BrokerError: the wanted port is taken.
    """
    if wanted == 0:
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore closing connections of the last server
        try:
            probe.bind(("127.0.0.1", wanted or default))
        except OSError as error:
            if wanted is None:
                return 0
            raise BrokerError(f"port {wanted} cannot be used: {error.strerror}; give another one with --port, or 0 for any") from error
    return wanted or default


async def _until_ended(server: LocalServer) -> None:
    """Raise BrokerError when the server's process ends by itself. A worker alone would try to reconnect forever."""
    while hasattr(os, "waitid") and server.pid is not None:
        await asyncio.sleep(LOOK_EVERY)
        if _has_ended(server.pid):
            raise BrokerError(f"nats-server has ended by itself; its log ends:\n{server.log()}")
    await asyncio.Event().wait()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


# ---- what is printed


def _greeter(client: Client, app: LoadedApp, task_queue: str, connection: Connection, store: str, address: str | None) -> Callable[[], None]:
    def greet() -> None:
        lines = [
            ("", ""),
            *([] if address is None else [("dashboard", address)]),
            ("NATS", f"{public_url(client.url)}, {store}"),
            ("task queue", clean(task_queue)),
            ("workflows", ", ".join(clean(definition.name) for definition in app.workflows)),
            ("", ""),
        ]
        for label, value in lines:
            say(Text.assemble((f"  {label:<12}", "bold"), value) if label else "")
        say("Try in another terminal:")
        for command in sample_commands(app.workflows[0], task_queue, connection):
            say(Text(f"  {command}", "cyan"))
        say("\nCtrl-C stops it.")

    return greet


def sample_commands(definition: WorkflowDefinition[Any, Any], task_queue: str, connection: Connection) -> list[str]:
    """Return commands to paste: a start by jetflow, a start by plain NATS, and a read of the second one's record."""
    args = sample_args(definition)
    words = [arg if isinstance(arg, str) and not arg.startswith("-") and arg.isidentifier() else msgspec.json.encode(arg).decode() for arg in args]
    words = [msgspec.json.encode(arg).decode() if word in ("true", "false", "null") else word for arg, word in zip(args, words, strict=True)]
    body, _ = body_of(tuple(args))
    names = Names(connection.namespace)
    server = connection.server or ""
    queue, first, second = to_token(task_queue), f"{to_token(definition.name)}-1", f"{to_token(definition.name)}-2"
    subject = names.command(queue, second, f"start.{to_token(definition.name)}")
    start = follow_up("start", definition.name, task_queue, connection, elsewhere=True)
    return [
        f"{start} {shlex.join([*words, '--id', first])}",
        shlex.join(["nats", "-s", server, "pub", subject, body.decode()]),
        shlex.join(["nats", "-s", server, "kv", "get", names.state_bucket, f"{queue}.{second}", "--raw"]),
    ]
