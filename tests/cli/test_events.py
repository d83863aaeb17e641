"""``jetflow events``: the stream of lifecycle events, on, changed and off."""

import uuid

from .conftest import Cli


def test_on_changed_and_off(cli: Cli) -> None:
    namespace = f"ev{uuid.uuid4().hex[:8]}"
    stream = f"{namespace.upper()}_EVENTS"
    on = cli("events", "on", "--namespace", namespace)
    assert (on.code, on.out) == (0, f"events are on: stream {stream}, stored for 7d\n")
    again = cli("events", "on", "--keep", "forever", "--json", "--namespace", namespace)
    assert (again.code, again.json) == (0, {"events": "on", "stream": stream})
    off = cli("events", "off", "--namespace", namespace)
    assert (off.code, off.out) == (0, "events are off\n")
    assert cli("events", "off", "--namespace", namespace).code == 0


def test_a_duration_that_is_none_is_refused(cli: Cli) -> None:
    refused = cli("events", "on", "--keep", "soon")
    assert refused.code == 2
    assert "soon" in refused.err
