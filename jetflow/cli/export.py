"""``jetflow export``: a workflow's history as one JSON document."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from jetflow.cli.options import HERE, Connection, Json, TaskQueue, WorkflowId
from jetflow.cli.output import clean, err, tell, write_result
from jetflow.cli.report import reporting
from jetflow.client import DEFAULT_QUEUE
from jetflow.errors import InvalidInputError
from jetflow.history.execution import WorkflowExecution

SHOW_PROGRESS = 2000
"""Number of timeline keys from which an export shows its progress."""


class Mode(StrEnum):
    """What an export reads: ``sparse``: the workflow; ``verbose``: its children too."""

    SPARSE = "sparse"
    VERBOSE = "verbose"


def export(
    workflow_id: WorkflowId,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file. Default: stdout.")] = None,
    mode: Annotated[Mode, typer.Option(help="verbose: nest the executions of its children.")] = Mode.SPARSE,
    max_depth: Annotated[int, typer.Option(metavar="N", min=1, help="Levels of a verbose export.")] = 5,
    exclude_system: Annotated[bool, typer.Option("--exclude-system", help="Leave out activities whose name begins with lt.")] = False,
    omit_results: Annotated[bool, typer.Option("--omit-results", help="Leave out results, and inputs of the workflow and of signals.")] = False,
    enrich_inputs: Annotated[bool, typer.Option("--enrich-inputs", help="Add inputs of activities and children.")] = False,
    allow_direct_query: Annotated[
        bool, typer.Option("--allow-direct-query", help="Export it even if its record has expired, while its timeline is stored.")
    ] = False,
    include_lineage: Annotated[bool, typer.Option("--include-lineage", help="Add the ids of its parent and its topmost ancestor.")] = False,
    include_stream_history: Annotated[bool, typer.Option("--include-stream-history", help="Add its commands that are still in the inbox.")] = False,
    extended: Annotated[
        bool, typer.Option("--extended", help="Add cancel requests, termination, generations, retries, timeouts, updates, …")
    ] = False,
    first_event: Annotated[int, typer.Option(metavar="N", min=1, help="Begin with event N.")] = 1,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Write at most N events; next_event is the number to continue from.")] = None,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Write a workflow's history as JSON: typed events with references between them, and counts.

    With --json it is one line. docs/execution.schema.json describes the format.

    Examples:
      jetflow export order-456 -q orders -o order-456.json
      jetflow export order-456 --mode verbose --extended | jq '.children[].status'
    """

    async def read(progress: Callable[[int, int], None]) -> WorkflowExecution:
        async with connection.look("export") as client:
            return await client.get_handle(workflow_id, task_queue).export_execution(
                mode=mode.value, max_depth=max_depth, exclude_system=exclude_system, omit_results=omit_results, enrich_inputs=enrich_inputs,
                allow_direct_query=allow_direct_query, include_lineage=include_lineage, include_stream_history=include_stream_history,
                extended=extended, first_event=first_event, limit=limit, progress=progress,
            )  # fmt: skip

    with reporting(as_json):
        with _progress(workflow_id) as progress:
            execution = asyncio.run(read(progress))
        if output is None:
            write_result(execution, one_line=as_json)
            return
        body = msgspec.json.encode(execution)
        _write(output, body if as_json else msgspec.json.format(body, indent=2))
        tell(f"{execution.summary.total_events} events written to {clean(str(output))}")


@contextlib.contextmanager
def _progress(workflow_id: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar for a long export, on stderr if it is a terminal."""
    bar = Progress(
        TextColumn("reading {task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=err, transient=True,
        disable=not err.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(clean(workflow_id), visible=False)

        def update(read: int, whole: int) -> None:
            bar.update(task, completed=read, total=whole, visible=whole >= SHOW_PROGRESS)

        yield update


def _write(path: Path, body: bytes) -> None:
    """Write the whole file, or leave the existing one unchanged.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(body + b"\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InvalidInputError(f"{path} cannot be written: {error.strerror}") from error
