"""Server-sent events: the changes that an open page gets."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from jetflow.web.feed import EVERY, Feed, Interest

RETRY_MS = 1500


async def stream(request: Request) -> EventStream:
    """Send the changes that one page shows, in batches. ``view`` is ``list``, ``workflow``, or anything else for the figures alone."""
    asked = request.query_params
    view = asked.get("view", "")
    interest = Interest(
        queue=asked.get("queue") or None,
        workflow_id=asked.get("id") or None if view == "workflow" else None,
        workflow_type=asked.get("type") or None if view == "list" else None,
        text=asked.get("text") or None if view == "list" else None,
        nothing=view not in ("list", "workflow"),
    )
    return EventStream(request.app.state.dashboard.feed, interest)


class EventStream(Response):
    """An answer that lasts until the browser leaves or the feed ends. If the browser does not read, the answer waits and does not grow."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, interest: Interest) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})  # a proxy must not buffer it
        del self.headers["content-length"]
        self._feed = feed
        self._interest = interest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._feed.is_full:
            await PlainTextResponse("Too many browsers listen. Close one, or try again later.", 503, {"retry-after": "5"})(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        tasks = [asyncio.create_task(self._tell(send)), asyncio.create_task(_until_left(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})

    async def _tell(self, send: Send) -> None:
        async with self._feed.listen(self._interest) as buffer:
            await _write(
                send, f"retry: {RETRY_MS}\n\n".encode() + _message("hello", {"ticks": list(self._feed.ticks), "broker": self._feed.pulse.shown})
            )
            while not self._feed.closed:
                messages = await buffer.next()
                if messages:
                    await _write(send, b"".join(_message(name, value) for name, value in messages))
                await asyncio.sleep(EVERY)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _message(name: str, value: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(value))
