"""The application: routes, and errors as answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import jetflow
from jetflow.client import Client
from jetflow.errors import BrokerError, InvalidInputError, JetflowError, WorkflowAlreadyClosedError, WorkflowNotFoundError
from jetflow.reading.filters import STATUSES
from jetflow.web import actions, cluster, events, letters, reading
from jetflow.web.feed import Feed
from jetflow.web.security import Access, Guard
from jetflow.web.tally import Tallies

log: logging.Logger = logging.getLogger("jetflow.web")

GONE = 499
"""The status of an answer whose browser has left."""
STATIC = Path(__file__).parent / "static"

_STATUS: tuple[tuple[type[JetflowError], int], ...] = (
    (WorkflowNotFoundError, 404),
    (WorkflowAlreadyClosedError, 409),
    (InvalidInputError, 400),
    (BrokerError, 503),
)


@dataclass
class Dashboard:
    """What the handlers share, as ``request.app.state.dashboard``."""

    client: Client
    feed: Feed
    access: Access
    tallies: Tallies


def create_app(client: Client, access: Access | None = None) -> Starlette:
    """Return an ASGI application over a client's connection. The caller closes the connection.

    Args:
        client: reads and commands the workflows.
        access: the rules of access. The default admits requests that name the host 127.0.0.1 or localhost.
    """
    access = access or Access()
    dashboard = Dashboard(client, Feed(client), access, Tallies(client))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        dashboard.feed.close()

    app = Starlette(
        routes=[
            Route("/api/about", _json(about)),
            Route("/api/login", _json(login), methods=["POST"]),
            Route("/api/workflows", _json(_while_asked(reading.workflows))),
            Route("/api/counts", _json(_while_asked(reading.counts))),
            Route("/api/total", _json(reading.total)),
            Route("/api/workflow", _json(reading.workflow)),
            Route("/api/history", _json(reading.history)),
            Route("/api/payload", _json(reading.one_payload)),
            Route("/api/workers", _json(cluster.workers)),
            Route("/api/letters", _json(letters.listed)),
            Route("/api/letters/{action:str}", _json(letters.act), methods=["POST"]),
            Route("/api/events", events.stream),
            Route("/api/{action:str}", _json(actions.act), methods=["POST"]),
            Route("/api/{rest:path}", _json(unknown)),
            Mount("/static", _Static(directory=STATIC)),
            Route("/{rest:path}", page),
        ],
        middleware=[Middleware(Guard, access=access)],
        lifespan=lifespan,
    )
    app.state.dashboard = dashboard
    return app


Handler = Callable[[Request], Awaitable[Any]]


def _json(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Wrap a handler: its return value becomes the answer's JSON, and its errors become answers."""

    async def answer(request: Request) -> Response:
        try:
            value = await handler(request)
        except JetflowError as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
            return _answer({"error": str(error)}, status)
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            return _answer({"error": "the dashboard failed; its log says why"}, 500)
        return value if isinstance(value, Response) else _answer(value)

    return answer


def _while_asked(handler: Handler) -> Handler:
    """Wrap a handler that may read a lot, so that it stops when its browser leaves."""

    async def handle(request: Request) -> Any:
        handling = asyncio.ensure_future(handler(request))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((handling, leaving), return_when=asyncio.FIRST_COMPLETED)
            return await handling if handling.done() else Response(status_code=GONE)
        finally:
            for task in (handling, leaving):
                task.cancel()
            await asyncio.gather(handling, leaving, return_exceptions=True)

    return handle


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def about(request: Request) -> dict[str, Any]:
    """Return what the page needs to know of its server."""
    dashboard: Dashboard = request.app.state.dashboard
    return {
        "version": jetflow.__version__,
        "namespace": dashboard.client.namespace,
        "server": dashboard.client.url,
        "read_only": dashboard.access.read_only,
        "statuses": list(STATUSES),
    }


async def login(request: Request) -> Response:
    """Accept a token from the page's own form, and set a cookie for it."""
    access: Access = request.app.state.dashboard.access
    body = await actions.body_of(request)
    if access.token is not None and not access.accepts(str(body.get("token", ""))):
        return _answer({"error": "this is not the token"}, 401)
    response = _answer({"ok": True})
    access.set_cookie(response.headers, request.url.scheme)
    return response


async def unknown(request: Request) -> Response:
    """Answer that there is no such call."""
    return _answer({"error": f"there is no {request.url.path}"}, 404)


async def page(request: Request) -> Response:
    """Return the page, for each address of it. Set a cookie for a correct ``?token=``."""
    access: Access = request.app.state.dashboard.access
    response = FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})
    if access.accepts(request.query_params.get("token", "")):
        access.set_cookie(response.headers, request.url.scheme)
    return response


class _Static(StaticFiles):
    """Files that a browser checks again each time, so that a new version of jetflow does not meet an old page."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        if isinstance(response, FileResponse) and str(response.path).endswith(".js"):
            response.headers["content-type"] = "text/javascript; charset=utf-8"  # some systems do not know the type
        return response
