"""Commands on the wire: subject, headers and body. A malformed command is refused with a reason."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from jetflow.core.durations import FOREVER, limit_ms, to_ms
from jetflow.core.events import FOREVER_MS, NULL, Parent
from jetflow.core.failures import MAX_CAUSES
from jetflow.core.ids import from_token, to_token
from jetflow.core.values import as_json, decode, encode
from jetflow.errors import Failure, InvalidInputError, Kind, PayloadTooLargeError
from jetflow.protocol.headers import (
    ARGS,
    DATA,
    ENTITY,
    EXPIRE,
    NEW_ID,
    ORIGIN,
    OWN_PREFIX,
    PARENT,
    REPLACE,
    REPLY,
    RUN,
    SENDER,
    START_DELAY,
    UPDATE,
    parse_headers,
)

DEFAULT_EXPIRE_MS = 600_000
"""How long a signal without an expire header waits for a workflow, in ms."""
MAX_UPDATE_ID = 128
_OWN_PREFIX = OWN_PREFIX.encode()
_SUBJECT = re.compile(r"[^$\s*>.][^\s*>.]*(\.[^\s*>.]+)*")
MAX_HEADER = 56 * 1024
"""Most bytes of user data in a start's headers. The server accepts 64 KiB of headers."""

MAX_SENDER = 1024
"""Most characters of a sender's name in the sender header."""
BODY_MARGIN = 8 * 1024
"""Bytes that a command's body must leave free in a message, for the rest of the commit that records it."""


class StartCommand(Struct):
    """A start command.

    ``replace``: a run that has the id is terminated, or its record removed, instead of refusing this start.
    ``new_id``: the publisher generated the id for this message, and has sent the message once.
    ``delay``: how long after the broker has stored the start the code begins, in ms.
    """

    workflow_type: str
    body: bytes
    told: int | None = None
    parent: Parent | None = None
    origin: str | None = None
    expire: int | msgspec.UnsetType | None = msgspec.UNSET
    data: dict[str, Raw] = {}
    entity: dict[str, Any] | None = None
    replace: bool = False
    new_id: bool = False
    delay: int = 0


class UpdateCommand(Struct):
    """An update command. ``update_id`` is the caller's id for it, with which a caller that missed the reply can ask again. Only ``run`` may
    take it, where that is set.
    """

    name: str
    body: bytes
    told: int | None = None
    update_id: str | None = None
    reply: str | None = None
    run: int | None = None


class SignalCommand(Struct):
    """A signal command. ``sender`` numbers its signals, so that the receiver recognises repeats. Only ``run`` may take it, where that is set."""

    name: str
    data: Raw
    expire: int | None = None
    sender: str | None = None
    number: int = 0
    run: int | None = None


class CancelCommand(Struct):
    """Body of a cancel command. Every field is optional. ``parent`` is set if the end of the parent causes it."""

    reason: str = ""
    run: int | None = None
    parent: Parent | None = None


class TerminateCommand(Struct, omit_defaults=True):
    """Body of a terminate command. Every field is optional.

    ``expire`` is a duration, or ``"forever"``. Without it the record stays as long as if the run had ended by itself. ``parent`` is set if
    the end of the parent causes it. Then it applies only to the child that this parent started, not to another run of its id.
    """

    reason: str = "job interrupted"
    code: int = 410
    throw: bool = True
    descend: bool = False
    suppress: bool = False
    expire: str | int | float | None = None
    stack: str | None = None
    run: int | None = None
    parent: Parent | None = None


class TimerCommand(Struct):
    index: int
    run: int
    due: int


class ChildNotice(Struct, omit_defaults=True):
    """Body of a ``child.<index>`` command: the outcome of a child, for its parent."""

    run: int
    child: str
    outcome: str
    child_run: int = 0
    result: Raw = NULL
    failure: Failure | None = None


class TaskFailure(Struct):
    """A failed attempt, as the task's worker reports it.

    ``bases``: names of the error's base classes, for the retry policy. ``timed_out``: the attempt took too long, or its heartbeat was late.
    ``code`` is the error's own and does not affect the retry.
    """

    type: str = "Error"
    message: str = ""
    code: int | None = None
    stack: str = ""
    cause: Failure | None = None
    bases: list[str] = []
    non_retryable: bool = False
    timed_out: bool = False
    kind: str = Kind.ERROR.value

    def as_failure(self, without_code: int) -> Failure:
        """Return it as a ``Failure``. One without a kind comes from user code."""
        code = without_code if self.code is None else self.code
        return Failure(self.type, self.message, code, self.stack, _marked(self.cause), self.kind)


def _marked(cause: Failure | None) -> Failure | None:
    chain: list[Failure] = []
    while cause is not None and len(chain) <= MAX_CAUSES:
        chain.append(cause)
        cause = cause.cause
    marked: Failure | None = None
    for link in reversed(chain):
        marked = replace(link, kind=Kind.ERROR.value if link.kind is None else link.kind, cause=marked)
    return marked


class TaskOutcome(Struct):
    """Body of an ``activity.<index>`` command: the outcome of an attempt that ran as a task. Without ``failure`` it completed."""

    run: int
    attempt: int
    result: Raw = NULL
    failure: TaskFailure | None = None
    details: Raw = NULL


class RoutedSignal(Struct):
    """Body of a ``routed.<index>`` command: the signal with number ``number`` in the stream of signals by id, for one wait of one run."""

    run: int
    signal: str
    number: int
    data: Raw


Payload = StartCommand | SignalCommand | RoutedSignal | UpdateCommand | CancelCommand | TerminateCommand | TimerCommand | ChildNotice | TaskOutcome


def check_body(what: str, body: bytes, max_payload: int) -> None:
    """Refuse a command's body that fits into a message, but not into a commit.

    Raises:
        PayloadTooLargeError: the body is too large. The message has both sizes.
    """
    if len(body) > max_payload - BODY_MARGIN:
        raise PayloadTooLargeError(what, len(body), max_payload - BODY_MARGIN)


def expire_header(duration: Any) -> str:
    """Return the value of the expire header for a duration, or for ``"forever"`` or None."""
    ms = limit_ms(duration, "expire")
    return FOREVER if ms is None else f"{ms}ms"


def _expire(headers: dict[str, str]) -> int | msgspec.UnsetType | None:
    value = headers.get(EXPIRE)
    if value is None:
        return msgspec.UNSET
    return limit_ms(value.strip(), EXPIRE)


def _start(name: str, body: bytes, headers: dict[str, str]) -> StartCommand:
    if body.strip():
        decode(body, "the body of a start command")
    parent = msgspec.json.decode(headers[PARENT], type=Parent) if PARENT in headers else None
    if parent is not None:
        to_token(parent.workflow_id, "the parent's workflow id")
        to_token(parent.task_queue, "the parent's task queue")
    return StartCommand(
        workflow_type=name,
        body=body,
        told=number_of_args(headers),
        parent=parent,
        origin=from_token(headers[ORIGIN]) if ORIGIN in headers else None,
        expire=_expire(headers),
        data=msgspec.json.decode(headers[DATA], type=dict[str, Raw]) if DATA in headers else {},
        entity=msgspec.json.decode(headers[ENTITY], type=dict[str, Any] | None) if ENTITY in headers else None,
        replace=headers.get(REPLACE) == "1",
        new_id=headers.get(NEW_ID) == "1",
        delay=to_ms(headers[START_DELAY], START_DELAY) if START_DELAY in headers else 0,
    )


def number_of_args(headers: dict[str, str]) -> int | None:
    """Return how many arguments a body says, if its sender tells.

    Raises:
        InvalidInputError: it is no number.
    """
    return _number(headers, ARGS, "a number")


def data_headers(search: dict[str, Any] | None, entity: dict[str, Any] | None) -> dict[str, str]:
    """Return a start's headers for the initial user data.

    Raises:
        InvalidInputError: the data cannot be written as JSON.
        PayloadTooLargeError: the data is too large for the headers.
    """
    headers = {}
    for header, what, given in ((DATA, "search", search), (ENTITY, "entity", entity)):
        if given is not None:
            plain = decode(_encoded(given, what))
            if not isinstance(plain, dict):
                raise InvalidInputError(f"{what} must be a dict, not {type(given).__name__}")
            headers[header] = json.dumps(plain, separators=(",", ":"), allow_nan=False)  # always ASCII
    size = sum(map(len, headers.values()))
    if size > MAX_HEADER:
        raise PayloadTooLargeError("search and entity of a start", size, MAX_HEADER)
    return headers


def _encoded(given: Any, what: str) -> Raw:
    """The JSON of user data; an error names the key whose value cannot be JSON."""
    try:
        return encode(given, what)
    except InvalidInputError:
        for key, value in given.items() if isinstance(given, dict) else ():
            encode(value, f"{what}[{key!r}]")
        raise


def _update(name: str, body: bytes, headers: dict[str, str]) -> UpdateCommand:
    if body.strip():
        decode(body, "the body of an update")
    update_id, reply = headers.get(UPDATE), headers.get(REPLY)
    if reply is not None and not _SUBJECT.fullmatch(reply):
        raise InvalidInputError(f"{REPLY} must be a subject, not {reply[:80]!r}")
    if update_id is not None and not 0 < len(update_id) <= MAX_UPDATE_ID:
        raise InvalidInputError(f"{UPDATE} must be at most {MAX_UPDATE_ID} characters")
    return UpdateCommand(name=name, body=body, told=number_of_args(headers), update_id=update_id, reply=reply, run=_run(headers))


def _signal(name: str, body: bytes, headers: dict[str, str]) -> SignalCommand:
    expire = _expire(headers)
    sender, slash, number = headers[SENDER].rpartition("/") if SENDER in headers else ("", "/", "0")
    if not slash or not (number.isdigit() and number.isascii() and len(number) <= 18) or len(sender) > MAX_SENDER:
        raise InvalidInputError(f"{SENDER} must be <who>/<number>, at most {MAX_SENDER} characters, not {headers[SENDER][:80]!r}")
    data = as_json(body, "the body of a signal")
    kept = None if expire is msgspec.UNSET else FOREVER_MS if expire is None else expire
    return SignalCommand(name, data, kept, sender or None, int(number), _run(headers))


def _routed(_name: str, body: bytes, _headers: dict[str, str]) -> RoutedSignal:
    decode(body, "the body of a routed signal")
    routed = msgspec.json.decode(body, type=RoutedSignal)
    to_token(routed.signal, "signal id")
    return routed


def _cancel(_name: str, body: bytes, _headers: dict[str, str]) -> CancelCommand:
    value = decode(body.strip(), "the body of cancel")
    if isinstance(value, str):
        return CancelCommand(reason=value)
    return msgspec.convert(value or {}, CancelCommand)


def _terminate(_name: str, body: bytes, _headers: dict[str, str]) -> TerminateCommand:
    value = decode(body.strip(), "the body of terminate")
    command = TerminateCommand(reason=value) if isinstance(value, str) else msgspec.convert(value or {}, TerminateCommand)
    limit_ms(command.expire, "expire")
    return command


def _timer(name: str, body: bytes, _headers: dict[str, str]) -> TimerCommand:
    value = decode(body, "the body of a timer")
    return msgspec.convert({**(value if isinstance(value, dict) else {}), "index": _index(name)}, TimerCommand)


def _child(_name: str, body: bytes, _headers: dict[str, str]) -> ChildNotice:
    return msgspec.json.decode(body, type=ChildNotice)


def _activity(_name: str, body: bytes, _headers: dict[str, str]) -> TaskOutcome:
    decode(body, "the outcome of an activity")
    return msgspec.json.decode(body, type=TaskOutcome)


def _run(headers: dict[str, str]) -> int | None:
    return _number(headers, RUN, "a run id, which is a number")


def _number(headers: dict[str, str], name: str, what: str) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    if not _is_number(value):
        raise InvalidInputError(f"{name} must be {what}, not {value[:20]!r}")
    return int(value)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


def _index(name: str) -> int:
    if not _is_number(name):
        raise InvalidInputError(f"operation index {name[:20]!r} is not a number")
    return int(name)


_READERS: dict[str, tuple[int, Any]] = {
    "start": (1, _start),
    "signal": (1, _signal),
    "update": (1, _update),
    "cancel": (0, _cancel),
    "terminate": (0, _terminate),
    "timer": (1, _timer),
    "child": (1, _child),
    "activity": (1, _activity),
    "routed": (1, _routed),
}


def read_command(subject: str, headers: bytes | None, body: bytes) -> tuple[str, str, int, Payload]:
    """Return a command's id token, its workflow id, the operation index of an engine's reply (0 for other commands), and its payload.

    Args:
        subject: the subject in the inbox, with the partition after the namespace.
        headers: the raw header block.
        body: the body as published.

    Raises:
        InvalidInputError: the command is malformed. The message is the reason for the dead letter.
    """
    tokens = subject.split(".")
    if len(tokens) < 5:
        raise InvalidInputError("the subject is too short: <namespace>.<task_queue>.<workflow_id>.<command>[.<name>]")
    id_token, kind, rest = tokens[3], tokens[4], tokens[5:]
    from_token(tokens[2])
    workflow_id = from_token(id_token)
    reader = _READERS.get(kind)
    if reader is None:
        raise InvalidInputError(f"unknown command {kind!r}; the commands are start.<type>, signal.<name>, update.<name>, cancel and terminate")
    wants_name, understand = reader
    if len(rest) != wants_name:
        raise InvalidInputError(f"write {kind}.<name> with one name" if wants_name else f"nothing may follow {kind!r} in the subject")
    name = from_token(rest[0]) if wants_name else ""
    fields = parse_headers(headers) if headers and _OWN_PREFIX in headers else {}
    try:
        payload = understand(name, body, fields)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInputError(f"body of {kind}: {error}") from error
    return id_token, workflow_id, _index(name) if kind in _FOR_OPERATIONS else 0, payload


_FOR_OPERATIONS = ("timer", "child", "activity", "routed")


def signal_expires(headers: bytes | None, stored_ms: int) -> int:
    """Return when a signal that was stored at ``stored_ms`` expires. Both are ms since the epoch.

    Raises:
        InvalidInputError: its expire header is malformed.
    """
    expire = _expire(parse_headers(headers)) if headers else msgspec.UNSET
    return stored_ms + (DEFAULT_EXPIRE_MS if expire is msgspec.UNSET else FOREVER_MS if expire is None else expire)
