"""``docs/execution.schema.json`` is what the code gives.

``python -m tests.history.test_schema`` writes it anew.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from jetflow.history.attributes import Attributes
from jetflow.history.build import History
from jetflow.history.event_maker import View
from jetflow.history.schema import json_schema
from tests.history.timelines import TIMELINES

FILE = Path(__file__).parents[2] / "docs" / "execution.schema.json"


def written() -> bytes:
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2) + b"\n"


def test_the_schema_in_the_docs_is_current() -> None:
    assert FILE.read_bytes() == written(), f"write it anew: python -m {__name__}"


def _all_kinds(base: type) -> set[str]:
    own = {base.__struct_config__.tag} if base.__struct_config__.tag else set()  # type: ignore[attr-defined]
    return own.union(*(_all_kinds(kind) for kind in base.__subclasses__()))


def test_the_schema_knows_every_type_of_event() -> None:
    attributes = json_schema()["$defs"]["HistoryEvent"]["properties"]["attributes"]
    named = set(attributes["discriminator"]["mapping"])
    bases = {"Attributes", "OfOperation", "OfActivity", "OfChild", "OfTimer", "OfSignal"}
    assert named == _all_kinds(Attributes) - bases
    shown = {event.event_type for events in TIMELINES.values() for event in History("w", "q", View(extended=True)).add(events)}
    basic = {event.event_type for events in TIMELINES.values() for event in History("w", "q", View()).add(events)}
    assert shown | basic == named, "a type of event that no hand-written timeline has"


@pytest.mark.parametrize("name", TIMELINES)
def test_every_field_is_in_the_schema(name: str) -> None:
    schema = json_schema()

    def check(value: Any, spec: dict[str, Any]) -> None:
        if "$ref" in spec:
            spec = schema["$defs"][spec["$ref"].rpartition("/")[2]]
        if "discriminator" in spec:
            spec = schema["$defs"][spec["discriminator"]["mapping"][value["kind"]].rpartition("/")[2]]
        if "properties" in spec:
            assert set(value) <= set(spec["properties"])
            assert set(value) >= set(spec["required"])
            for field, inner in value.items():
                check(inner, spec["properties"][field])

    for event in History("w", "q", View(extended=True, enrich_inputs=True)).add(TIMELINES[name]):
        check(msgspec.to_builtins(event), {"$ref": "HistoryEvent"})


def test_the_page_names_every_event_and_attribute() -> None:
    page = (FILE.parent / "history.md").read_text()
    definitions = json_schema()["$defs"]
    mapping = definitions["HistoryEvent"]["properties"]["attributes"]["discriminator"]["mapping"]
    for kind, reference in mapping.items():
        assert f"`{kind}`" in page
        for field in definitions[reference.rpartition("/")[2]]["properties"]:
            assert f"`{field}`" in page, (kind, field)
    for field in definitions["WorkflowExecution"]["properties"]:
        assert f"`{field}`" in page, field


if __name__ == "__main__":
    FILE.write_bytes(written())
