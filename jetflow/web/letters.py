"""Dead letters: a page of them, and the actions on one."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from jetflow.broker.stores.dead_letters import DeadLetter, DeadLetters
from jetflow.errors import InvalidInputError
from jetflow.web.actions import body_of

PAGE = 50
SHOWN_BODY = 32 * 1024


async def listed(request: Request) -> dict[str, Any]:
    """Return letters from number ``start`` on, oldest first. ``next`` is the next number if there may be more."""
    start = request.query_params.get("start", "1")
    if not start.isdigit():
        raise InvalidInputError(f"start must be a number, not {start!r}")
    found = [_as_data(letter) async for letter in _letters(request).list(limit=PAGE, start=int(start))]
    return {"letters": found, "next": found[-1]["number"] + 1 if len(found) == PAGE else None}


async def act(request: Request) -> dict[str, Any]:
    """Requeue a letter, changed or as it was, or drop it."""
    body = await body_of(request)
    number, action = body.get("number"), request.path_params["action"]
    if not isinstance(number, int):
        raise InvalidInputError("number must be a letter's number")
    if action == "drop":
        await _letters(request).drop(number)
        return {"outcome": f"letter {number} is dropped"}
    if action != "requeue":
        raise InvalidInputError(f"a letter can be requeued or dropped, not {action!r}")
    text, subject = body.get("body"), body.get("subject")
    if not (text is None or isinstance(text, str)) or not (subject is None or isinstance(subject, str)):
        raise InvalidInputError("body and subject must be texts")
    sent = await _letters(request).requeue(number, body=None if text is None else text.encode(), subject=subject)
    return {"outcome": f"letter {number} was sent to {sent.subject}"}


def _letters(request: Request) -> DeadLetters:
    broker = request.app.state.dashboard.client.broker
    return DeadLetters(broker.lane, broker.names)


def _as_data(letter: DeadLetter) -> dict[str, Any]:
    try:
        text, readable = letter.body.decode(), True
    except UnicodeDecodeError:
        text, readable = letter.body.decode(errors="backslashreplace"), False
    return {
        **msgspec.structs.asdict(letter),
        "body": text[:SHOWN_BODY],
        "shown_whole": readable and letter.size is None and len(text) <= SHOWN_BODY,
        "size": letter.size if letter.size is not None else len(letter.body),
    }
