"""The five sections of ``WorkflowHandle.export``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.values import shown
from jetflow.errors import InvalidInputError
from jetflow.history.raw import SECTIONS, RawTimeline, Section, WorkflowExport
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.lookups import Lookups
from jetflow.reading.results import state_of
from jetflow.reading.run_reader import RunReader


async def export_sections(
    lookups: Lookups,
    ref: WorkflowRef,
    definition: WorkflowDefinition[..., Any] | None,
    allow: Sequence[Section] | None,
    block: Sequence[Section],
    *,
    values: bool,
) -> WorkflowExport:
    """See ``WorkflowHandle.export``."""
    wanted = _sections("allow", SECTIONS if allow is None else allow) - _sections("block", block)
    record = await lookups.record(ref)
    export = WorkflowExport()
    if "data" in wanted:
        fields = record.data if record is not None else {}
        export.data = {name: shown(value) if values else {} for name, value in fields.items()}
    if "state" in wanted:
        state = state_of(ref, record, definition)
        export.state = state if values else _stripped(state)
    if "status" in wanted:
        export.status = 1 if record is None else record.code
    if wanted & {"timeline", "transitions"}:
        gathered = RawTimeline(values=values)
        reader = RunReader(lookups.timeline, ref.queue_token, ref.id_token, None if record is None else int(record.run_id))
        async for recorded in reader.unread():
            gathered.add(recorded)
        if "timeline" in wanted:
            export.timeline = gathered.entries
        if "transitions" in wanted:
            export.transitions = sorted(gathered.transitions, key=lambda step: step.created)
    return export


def _stripped(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state without the outcome and the user data."""
    metadata = {name: value for name, value in state["metadata"].items() if name != "entity"}
    if "failure" in metadata:
        metadata["failure"] = {}
    metadata["waiting"] = [{**operation, "failure": {}} if "failure" in operation else operation for operation in metadata.get("waiting", [])]
    return {"data": {}, "metadata": metadata}


def _sections(what: str, named: Sequence[str]) -> set[str]:
    if isinstance(named, str):
        raise InvalidInputError(f'{what} takes a list of sections: {what}=["{named}"]')
    unknown = sorted(set(named) - set(SECTIONS))
    if unknown:
        raise InvalidInputError(f"{what}: there is no section {unknown[0]!r}; the sections are {', '.join(SECTIONS)}")
    return set(named)
