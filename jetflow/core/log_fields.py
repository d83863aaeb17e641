"""Fields of a ``LogRecord`` that say which workflow the line concerns."""

from __future__ import annotations

from typing import Any

from jetflow.core.ids import from_token
from jetflow.errors import InvalidInputError

LONGEST = 300
"""Most characters of an error's message in a log line."""


def about(workflow_id: str, task_queue: str = "", workflow_type: str = "", run_id: str | int = "", **more: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log line that concerns a workflow. A field that is not known there is ``""``."""
    return {"workflow_id": workflow_id, "task_queue": task_queue, "workflow_type": workflow_type, "run_id": str(run_id), **more}


def of_tokens(queue_token: str, id_token: str, **more: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log line for tokens of a subject. Text that is not a token is given as it is."""
    return about(_plain(id_token), _plain(queue_token), **more)


def of_subject(subject: str, at: int = 1) -> dict[str, Any]:
    """Return the ``extra`` of a log line for a subject with the tokens of a task queue and a workflow from place ``at`` on."""
    return of_tokens(*[*subject.split("."), "", ""][at : at + 2])


def _plain(token: str) -> str:
    try:
        return from_token(token)
    except InvalidInputError:
        return token


def in_one_line(text: str) -> str:
    """Return an error's message as one line that is not too long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
