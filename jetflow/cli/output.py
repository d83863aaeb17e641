"""Output: results go to stdout, remarks for people to stderr."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit, urlunsplit

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    out: Console
    err: Console

NEVER = ("forever", "never")
"""The words for no limit. ``never`` is the old one."""


def __getattr__(name: str) -> Any:
    """Create ``out`` and ``err`` at first use. The import of rich is slow, and a worker does not need it."""
    if name in ("out", "err"):
        from rich.console import Console

        # print with soft_wrap: a line cut at 80 columns in a pipe would lose data
        globals()[name] = console = Console(stderr=name == "err", highlight=False)
        return console
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _console(name: str) -> Console:
    return getattr(sys.modules[__name__], name)  # type: ignore[no-any-return]


def clean(text: str, *, multiline: bool = False) -> str:
    """Return text without control characters, which could control the terminal."""
    kept = "\n\t" if multiline else ""
    return "".join(char if char.isprintable() or char in kept else char.encode("unicode_escape").decode() for char in text)


def say(text: str | Text, *, end: str = "\n") -> None:
    """Print a line for people to stdout."""
    _write(text, end, sys.stdout, "out")


def tell(text: str | Text) -> None:
    """Print a line for people to stderr."""
    _write(text, "\n", sys.stderr, "err")


def _write(text: str | Text, end: str, stream: TextIO, console: str) -> None:
    if isinstance(text, str):
        stream.write(text + end)
    else:
        _console(console).print(text, soft_wrap=True, end=end)
    stream.flush()


def write_json(value: Any, *, to_stderr: bool = False) -> None:
    """Write one line of JSON in UTF-8, whatever the locale."""
    _write_line(msgspec.json.encode(value), sys.stderr if to_stderr else sys.stdout)


def write_result(value: Any, *, one_line: bool) -> None:
    """Write a workflow's result as JSON to stdout, on one line or indented."""
    body = msgspec.json.encode(value)
    if one_line:
        _write_line(body)
    elif _console("out").is_terminal and not _console("out").no_color:
        from rich.json import JSON

        _console("out").print(JSON(body.decode()), soft_wrap=True)
    else:
        _write_line(msgspec.json.format(body, indent=2))


def _write_line(line: bytes, stream: TextIO = sys.stdout) -> None:
    stream.flush()
    stream.buffer.write(line + b"\n")
    stream.buffer.flush()


_zones: dict[str, tzinfo | None] = {"shown": None}


def use_utc(wanted: bool) -> bool:
    """Show times in UTC from now on."""
    _zones["shown"] = UTC if wanted else None
    return wanted


def local_time(ms: int) -> str:
    """Return a time in ms since the epoch as text, in this machine's time zone or in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(_zones["shown"]).strftime("%Y-%m-%d %H:%M:%S %Z")


def ago(ms: int) -> str:
    """Return a time in ms since the epoch as text, with the distance from now."""
    passed = int(time.time() * 1000) - ms
    return f"{local_time(ms)} ({short_duration(passed)} ago)" if passed >= 0 else f"{local_time(ms)} (in {short_duration(-passed)})"


def short_duration(ms: int) -> str:
    """Return a duration in ms as text, in its two largest units."""
    if ms < 1000:
        return f"{max(ms, 0)}ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f}s"
    parts, rest = [], int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def expiry(text: str | None, *, default: Any) -> Any:
    """Return a duration from the command line, None for ``forever``, or the default if it was not given."""
    if text is None:
        return default
    return None if text in NEVER else text


def public_url(url: str) -> str:
    """Return a server's address without user and password, for logs."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
