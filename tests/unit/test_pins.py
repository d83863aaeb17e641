"""What rests on the internals of another library: where that stands, which versions it was checked with, and that it works without.

When one of these fails after an upgrade: read what the module named in the message uses, compare it with the new version's source, run
the whole suite, and add the version to ``CHECKED_WITH``. Until then, or for good, ``JETFLOW_PLAIN=<library>`` goes without.
"""

import ast
import asyncio
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client as NatsClient

from jetflow.broker.transport import direct
from jetflow.core import anyio_internals, asyncio_internals
from jetflow.core.plain import asked_for

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = {direct: ("nats-py", version("nats-py")), anyio_internals: ("anyio", version("anyio"))}


@pytest.mark.parametrize("module", list(INSTALLED), ids=["nats", "anyio"])
def test_the_installed_version_is_one_that_was_checked(module: ModuleType) -> None:
    name, installed = INSTALLED[module]
    assert installed in module.CHECKED_WITH, (
        f"{name} {installed} is not one of those that {module.__name__} was checked with ({', '.join(module.CHECKED_WITH)}): see {__name__}"
    )


def test_this_python_is_one_that_was_checked() -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    checked = asyncio_internals.CHECKED_WITH
    assert running in checked, f"Python {running} is not one of those that {asyncio_internals.__name__} was checked with ({', '.join(checked)})"


@pytest.mark.parametrize("module", [direct, anyio_internals, asyncio_internals])
def test_what_is_used_is_there(module: ModuleType) -> None:
    assert module.missing() == [], f"{module.__name__} uses what the installed library does not have: see {__name__}"


def test_the_project_pins_what_it_rests_on() -> None:
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [each for each in pinned if each.startswith("nats-py")] == ["nats-py>=2.16,<2.17"]
    assert [each for each in pinned if each.startswith("anyio")] == ["anyio>=4.9,<5"]


PRIVATE = {"nats": {"jetflow.broker.transport.direct", "jetflow.broker.transport.parser"}, "anyio": {"jetflow.core.anyio_internals"}}


@pytest.mark.parametrize("library", list(PRIVATE))
def test_no_other_module_reaches_into_it(library: str) -> None:
    """By the names that the pinned modules use: nobody else has one of them."""
    names = {"nats": {*direct._ATTRIBUTES, *direct._METHODS} - {"_pending", "_sid", "_ps"}, "anyio": {"_host_task", "_task_states", "_backends"}}[
        library
    ]
    found = {}
    for path in sorted((ROOT / "jetflow").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute) and not _of_self(node)]
        used = {node.attr for node in nodes} & names
        if used and module not in PRIVATE[library]:
            found[module] = used
    assert found == {}


ASYNCIO_PRIVATE = {
    "_set_result_unless_cancelled",
    "_log_destroy_pending",
    "_ensure_future",
    "_AsCompletedIterator",
    "_all_tasks",
    "_run",
    "_cancelled",
}


def test_no_other_module_reaches_into_asyncio() -> None:
    """A handle's ``_run`` and ``_cancelled`` are used nowhere, and the rest only where it is pinned."""
    found = {}
    for path in sorted((ROOT / "jetflow" / "core").rglob("*.py")) + sorted((ROOT / "jetflow" / "testing").rglob("*.py")):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute) and not _of_self(node)]
        used = {node.attr for node in nodes} & ASYNCIO_PRIVATE
        if used and path.stem != "asyncio_internals":
            found[path.name] = used
    assert found == {}


def _of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


# ---- what is said when something is gone


def test_what_nats_py_has_no_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(NatsClient, "_read_loop")
    assert direct.missing() == ["nats.aio.client.Client._read_loop()"]


@pytest.mark.parametrize(
    ("installed", "gone", "expected"), [("2.16.0", [], True), ("2.16.3", [], True), ("2.16.3", ["x"], False), ("2.17.0", [], False)]
)
def test_another_nats_py_is_used_by_its_public_calls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, installed: str, gone: list[str], expected: bool
) -> None:
    monkeypatch.delenv("JETFLOW_PLAIN", raising=False)
    monkeypatch.setattr(direct, "version", lambda _: installed)
    monkeypatch.setattr(direct, "missing", lambda: gone)
    assert direct.usable() is expected
    assert (f"nats-py {installed} is not one of 2.16.0" in caplog.text) is not expected


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETFLOW_PLAIN", "anyio, nats")
    assert not direct.usable()
    assert asked_for("anyio")
    assert not asked_for("asyncio")


def test_an_anyio_that_lacks_something_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from anyio._backends import _asyncio as backend

    monkeypatch.delenv("JETFLOW_PLAIN", raising=False)
    monkeypatch.setattr(anyio_internals, "_ready", False)
    monkeypatch.setattr(anyio_internals, "_retry", None)
    monkeypatch.setattr(anyio_internals, "_states", None)
    scope = SimpleNamespace(__slots__=("_host_task",))
    monkeypatch.setattr(backend, "CancelScope", scope)
    anyio_internals.prepare(asyncio.Task)
    assert "anyio has no anyio._backends._asyncio.CancelScope._deliver_cancellation()" in caplog.text
    assert not hasattr(scope, "__hash__") or scope.__hash__ is None
    anyio_internals.forget(None)  # type: ignore[arg-type]


def test_the_callback_of_sleep_is_found_by_trying_it() -> None:
    found: Any = asyncio_internals.callback_of_sleep()
    assert found is asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]


COSTS = {"anyio": "nested_scopes_are_cancelled_in_the_order and not open_before_the_first_workflow", "asyncio": "as_completed"}
"""The tests of what does not work without the internals, and of how they are patched."""


@pytest.mark.parametrize("library", list(COSTS))
def test_workflows_run_without_the_internals(library: str) -> None:
    """The tests of the loop, in a process that goes without; the one thing that it costs apart."""
    tests = ["tests/unit/test_loop_anyio.py", "tests/unit/test_loop_asyncio.py", "tests/unit/test_loop_cancellation.py"]
    env = {**os.environ, "JETFLOW_PLAIN": library}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", *tests, "-k", f"not {COSTS[library]}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
