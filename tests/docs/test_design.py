"""The design page draws every room, and each decision has its record."""

import re

from tests.conftest import ROOT

from .test_names import tree

DESIGN = ROOT / "docs" / "design.md"
DECISIONS = ROOT / "docs" / "decisions"
PARTS = ["Context", "Decision", "Consequences", "Alternatives"]


def test_every_room_is_drawn() -> None:
    rooms = {f"{path.parent.relative_to(ROOT)}/" for path in (ROOT / "jetflow").rglob("__init__.py")} - {"jetflow/"}
    drawn = set(tree(DESIGN))
    assert rooms == {path for path in drawn if path.endswith("/")}
    public = {str(path.relative_to(ROOT)) for path in (ROOT / "jetflow").glob("*.py") if not path.name.startswith("__")}
    assert public == {path for path in drawn if path.endswith(".py")}


def test_a_signal_is_followed_from_the_handle_to_the_ack() -> None:
    """The page on its life begins at the client and names a file of each room that it passes."""
    text = DESIGN.read_text().partition("## The life of a signal")[2].partition("\n## ")[0]
    files = re.findall(r"`([\w/]+\.py)`", text)
    assert files[0] == "handle.py"
    assert all((ROOT / "jetflow" / file).exists() for file in files)
    assert {"protocol", "broker", "engine", "core"} <= {file.split("/")[0] for file in files}


def test_decisions_are_numbered_dated_and_listed() -> None:
    records = sorted(DECISIONS.glob("[0-9]*.md"))
    rows = re.findall(r"^\| (\d+) \| (\d{4}-\d\d-\d\d) \| \[(.*)\]\((.*)\) \|$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert [row[3] for row in rows] == [record.name for record in records]
    dates = []
    for number, (record, (listed, date, title, _)) in enumerate(zip(records, rows, strict=True), 1):
        text = record.read_text()
        assert record.name.startswith(f"{number:04}-")
        assert int(listed) == number
        assert text.startswith(f"# {number}. {title}\n\nDate: {date}\n")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == PARTS
        dates.append(date)
    assert dates == sorted(dates)
