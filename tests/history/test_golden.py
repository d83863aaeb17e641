"""The histories of timelines written by hand, compared to the byte with files that are never edited.

``python -m tests.history.test_golden NAME`` prints what a file of a new timeline should have.
"""

import sys
from pathlib import Path

import msgspec
import pytest

from jetflow.history.build import History
from jetflow.history.event_maker import View
from jetflow.history.execution import summarize
from tests.history.checks import check_events, check_summary
from tests.history.timelines import TIMELINES

GOLDEN = Path(__file__).parent / "golden"
VIEWS = {
    "basic": View(),
    "extended": View(extended=True, enrich_inputs=True),
    "bare": View(omit_results=True, exclude_system=True),
    "bare-extended": View(omit_results=True, exclude_system=True, extended=True),
    "bare-enriched": View(omit_results=True, enrich_inputs=True),
}


def history_of(name: str) -> bytes:
    """The golden file's content: the events of each view and their counts, one event a line."""
    lines = []
    for view, options in VIEWS.items():
        events = History("wf 1", "q", options).add(TIMELINES[name])
        lines += [b'{"view":"%s","summary":%s}' % (view.encode(), msgspec.json.encode(summarize(events)))]
        lines += [msgspec.json.encode(event) for event in events]
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize("name", TIMELINES)
def test_a_history_is_what_it_was(name: str) -> None:
    assert history_of(name) == (GOLDEN / f"{name}.jsonl").read_bytes()


def test_every_file_has_its_timeline() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(TIMELINES)


@pytest.mark.parametrize("name", TIMELINES)
@pytest.mark.parametrize("view", VIEWS)
def test_histories_agree_with_themselves(name: str, view: str) -> None:
    events = History("wf 1", "q", VIEWS[view]).add(TIMELINES[name])
    check_events(events)
    check_summary(summarize(events), events)


if __name__ == "__main__":
    sys.stdout.buffer.write(history_of(sys.argv[1]))
