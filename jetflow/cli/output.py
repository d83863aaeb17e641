"""What is written where: results on stdout, everything told to a person about them on stderr."""

from __future__ import annotations

import sys
import time
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit, urlunsplit

import msgspec

from jetflow.core.times import civil

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    out: Console
    err: Console

NEVER = ("forever", "never")
"""What stands for no end; ``never`` is the word of before."""


def __getattr__(name: str) -> Any:
    """``out`` and ``err``, made when first asked for: rich takes long to import, and a worker does without it."""
    if name in ("out", "err"):
        from rich.console import Console

        # soft_wrap wherever these print: a line cut at 80 columns in a pipe would lose data
        globals()[name] = console = Console(stderr=name == "err", highlight=False)
        return console
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _console(name: str) -> Console:
    return getattr(sys.modules[__name__], name)  # type: ignore[no-any-return]


def clean(text: str, *, multiline: bool = False) -> str:
    """Text from elsewhere without control characters, which could command the terminal."""
    kept = "\n\t" if multiline else ""
    return "".join(char if char.isprintable() or char in kept else char.encode("unicode_escape").decode() for char in text)


def say(text: str | Text, *, end: str = "\n") -> None:
    """A line for a person, on stdout."""
    _write(text, end, sys.stdout, "out")


def tell(text: str | Text) -> None:
    """A line for a person, on stderr."""
    _write(text, "\n", sys.stderr, "err")


def _write(text: str | Text, end: str, stream: TextIO, console: str) -> None:
    if isinstance(text, str):
        stream.write(text + end)
    else:
        _console(console).print(text, soft_wrap=True, end=end)
    stream.flush()


def write_json(value: Any, *, to_stderr: bool = False) -> None:
    """One line of JSON, UTF-8 whatever the locale."""
    _write_line(msgspec.json.encode(value), sys.stderr if to_stderr else sys.stdout)


def write_result(value: Any, *, one_line: bool) -> None:
    """A workflow's result as JSON on stdout: one line, or indented for a person."""
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


MANY_YEARS, YEAR_MS = 10, 31_556_952_000
"""From so many years on a duration is said in years, of their average length."""

_zones: dict[str, tzinfo | None] = {"shown": None}


def use_utc(wanted: bool) -> bool:
    """Shows times in UTC from now on."""
    _zones["shown"] = UTC if wanted else None
    return wanted


def local_time(ms: int) -> str:
    """A time in ms since the epoch, in this machine's time zone, or in UTC if that is wanted."""
    year, time = civil(ms)
    try:
        if year == time.year:
            return time.astimezone(_zones["shown"]).strftime("%Y-%m-%d %H:%M:%S %Z")
    except (OverflowError, ValueError):  # so near the end of what Python can hold that the time zone goes beyond
        pass
    return f"{year}-{time:%m-%d %H:%M:%S} UTC"


def ago(ms: int) -> str:
    """A time, and how long ago that was or how soon it will be."""
    passed = int(time.time() * 1000) - ms
    return f"{local_time(ms)} ({short_duration(passed)} ago)" if passed >= 0 else f"{local_time(ms)} (in {short_duration(-passed)})"


def short_duration(ms: int) -> str:
    """A duration as a person says it: the two largest units."""
    if ms < 1000:
        return f"{max(ms, 0)}ms"
    if ms >= MANY_YEARS * YEAR_MS:
        return f"{ms // YEAR_MS:,} years"
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
    """A duration given on the command line, None for ``forever``, or the default when not given."""
    if text is None:
        return default
    return None if text in NEVER else text


def public_url(url: str) -> str:
    """A server's address without user and password, fit for a log."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
