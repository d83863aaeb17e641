"""README's first screen, run as it stands there: the app, its commands, a kill in the middle, and the same without jetflow."""

import json
import re
import shlex
import signal
import textwrap
from pathlib import Path
from typing import Any

from jetflow import Client
from tests.conftest import ROOT
from tests.engine.helpers import cli
from tests.engine.helpers import until as once

from .conftest import Cli, Running, Spawn, until

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)

FRESH_MACHINE = [
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[server,uvloop]' && .venv/bin/python examples/webhooks.py",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest",
]
"""Others run these word for word."""


def commands(containing: str) -> list[list[str]]:
    """The command lines of the one block with this text."""
    [block] = [block for block in SHELL if containing in block]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def served(spawn: Spawn, shop: Path) -> tuple[Running, str]:
    """``jetflow dev`` as README has it, on free ports, and its server's address."""
    words = commands("jetflow dev")[0]
    assert words == ["jetflow", "dev", "shop.py"]
    running = spawn(*words[1:], "--port", "0", "--ui-port", "0", cwd=shop, JETFLOW_TASK_QUEUE="default")
    running.wait_for("Ctrl-C")
    found = re.search(r"nats://127\.0\.0\.1:\d+", running.wait_for("NATS"))
    assert found
    return running, found[0]


def test_the_first_screen_works_and_outlives_a_kill(spawn: Spawn, plain: Cli, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(PYTHON[0])
    _, start, give, result = commands("jetflow dev")
    first, url = served(spawn, tmp_path)
    assert plain(*start[1:], JETFLOW_URL=url).code == 0
    until(lambda: "'approval'" in plain("why", "order-456", JETFLOW_URL=url).out, "it to wait for the approval")
    first.signal(signal.SIGKILL)
    assert first.ended() == -signal.SIGKILL
    _, url = served(spawn, tmp_path)
    assert plain(*give[1:], JETFLOW_URL=url).code == 0
    assert plain(*result[1:], JETFLOW_URL=url).json == "receipt-for-A-1"
    events = plain("history", "order-456", "--json", JETFLOW_URL=url).lines
    [charged] = [event for event in events if event["category"] == "activity" and event["event_type"] != "activity_task_scheduled"]
    assert (charged["event_type"], charged["attributes"]["attempt"]) == ("activity_task_completed", 1)


async def test_the_same_works_without_jetflow_and_from_python(spawn: Spawn, tmp_path: Path, nats_cli: str, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "shop.py").write_text(PYTHON[0])
    _, url = served(spawn, tmp_path)
    *published, read = commands("nats pub")
    for words in published:
        await cli(nats_cli, url, *words[1:])
    monkeypatch.setenv("JETFLOW_URL", url)
    defined: dict[str, Any] = {"Client": Client}
    exec(PYTHON[0], defined)
    exec("async def main():\n" + textwrap.indent(PYTHON[1], "    "), defined)
    await defined["main"]()
    assert capsys.readouterr().out == "receipt-for-A-3\n"

    async def result() -> Any:
        return json.loads(await cli(nats_cli, url, *read[1:])).get("result")

    assert await once(result) == "receipt-for-A-2"


def test_the_commands_for_a_fresh_machine_are_exact_and_near_the_top() -> None:
    for command in FRESH_MACHINE:
        assert sum(command in block.splitlines() for block in SHELL) == 1
        assert command in README.splitlines()[:70]


def test_the_first_screen_is_short() -> None:
    """One sentence, one install line, fifteen lines of code."""
    assert README.startswith("# jetflow\n")
    assert [line for line in SHELL[0].splitlines() if not line.startswith("#")] == [SHELL[0].strip()]
    lines = [line for line in PYTHON[0].splitlines() if line.strip()]
    assert len(lines) <= 15
    assert all(len(line) <= 100 for block in PYTHON + SHELL[:2] for line in block.splitlines())
