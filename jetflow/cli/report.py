"""Errors as a person, or with ``--json`` a program, reads them; never a traceback of jetflow's own."""

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
    """Turns the errors of its block into a message on stderr and an exit code."""
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
        # whoever read our output has left, as `| head` does; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None


def report(error: JetflowError, *, as_json: bool = False) -> None:
    """Writes an error to stderr."""
    if as_json:
        write_json(_as_data(error), to_stderr=True)
        return
    from rich.text import Text  # takes long to import, and most commands have nothing to report

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
    """A recorded failure: what happened, what caused it, and the remote stack of each."""
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
