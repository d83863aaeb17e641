"""Arguments of workflows and signals, as people type them."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from jetflow.errors import InvalidInputError

STDIN = "-"


def parse(text: str) -> Any:
    """Return an argument: JSON as it is, the JSON on stdin for ``-``, and anything else as a plain string.

    JSON is passed on without decoding, so that large numbers and the order of keys do not change.

    Raises:
        InvalidInputError: stdin is not JSON.
    """
    if text == STDIN:
        body = sys.stdin.buffer.read()
        if not _is_json(body):
            raise InvalidInputError("stdin is not JSON" if body.strip() else "stdin is empty; JSON is expected")
        return msgspec.Raw(body.strip())
    try:
        body = text.strip().encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"argument {text!r} is not valid unicode text: {error}") from error
    return msgspec.Raw(body) if _is_json(body) else text


def parse_all(texts: list[str]) -> list[Any]:
    """Return all arguments. At most one of them reads stdin.

    Raises:
        InvalidInputError: ``-`` is given twice, or stdin is not JSON.
    """
    if texts.count(STDIN) > 1:
        raise InvalidInputError("only one argument can be '-': stdin can be read once")
    return [parse(text) for text in texts]


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
