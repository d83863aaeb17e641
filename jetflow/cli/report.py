"""Errors as text for people, or with ``--json`` for programs. A traceback of jetflow's own is never shown."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from jetflow.cli.exits import ExitCode, exit_code_of
from jetflow.cli.output import clean, tell, write_json
from jetflow.errors import Failure, FailureError, JetflowError

if TYPE_CHECKING:
    from rich.text import Text

BROKEN_PIPE = 141


@contextmanager
def reporting(as_json: bool = False) -> Iterator[None]:
    """Turn an error of the block into a message on stderr and an exit code."""
    try:
        yield
    except JetflowError as error:
        report(error, as_json=as_json)
        raise typer.Exit(exit_code_of(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        # the reader of the output is gone, as with `| head`; discard the buffered rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None


def report(error: JetflowError, *, as_json: bool = False) -> None:
    """Write an error to stderr."""
    if as_json:
        write_json(_as_data(error), to_stderr=True)
        return
    from rich.text import Text  # a slow import, which most commands do not need

    failure = error.failure if isinstance(error, FailureError) else None
    if failure is None:
        tell(Text.assemble(("error: ", "bold red"), clean(str(error), multiline=True)))
    else:
        tell(Text.assemble(("failed: ", "bold red"), failure_text(failure)))


def _as_data(error: JetflowError) -> dict[str, Any]:
    data: dict[str, Any] = {"error": type(error).__name__, "message": str(error), "exit_code": int(exit_code_of(error))}
    if isinstance(error, FailureError) and error.failure is not None:
        data["failure"] = error.failure
    return data


def failure_text(failure: Failure) -> Text:
    """Return a recorded failure as text, with its causes and their stacks."""
    from rich.text import Text

    text = Text()
    link: Failure | None = failure
    while link is not None:
        if link is not failure:
            text.append("\ncaused by: ", "bold")
        text.append(clean(link.type), "red")
        if link.message:
            text.append(f": {clean(link.message, multiline=True)}")
        text.append(f"  (code {link.code})", "dim")
        for line in clean(link.stack, multiline=True).rstrip().splitlines():
            text.append(f"\n  {line}", "dim")
        link = link.cause
    return text
