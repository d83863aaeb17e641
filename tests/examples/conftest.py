"""What the tests of the examples share: running one as a newcomer does, loading one, and the commands of its docstring."""

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads an example as a module of its own."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would change an example's run."""
    given = {name: value for name, value in os.environ.items() if name not in ("JETFLOW_URL", "JETFLOW_EXAMPLES_OFFLINE", "NATS_URL")}
    return {**given, **extra}


@pytest.fixture
def nats(nats_cli: str) -> Callable[..., str]:
    """Runs a ``nats …`` command line as it stands in a docstring, against the given server; its standard output."""

    def run(line: str, url: str) -> str:
        words = shlex.split(line, comments=True)
        assert words[0] == "nats"
        done = subprocess.run([nats_cli, "--server", url, *words[1:]], capture_output=True, text=True, timeout=60, env=clean_environment())
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def documented(module: ModuleType, part: str) -> str:
    """The one command line of a module's docstring that has ``part`` in it."""
    [line] = [line.strip() for line in (module.__doc__ or "").splitlines() if part in line]
    return line


def webhooks_command(*options: str) -> list[str]:
    """The command line that runs ``webhooks.py``."""
    return [sys.executable, str(Path("examples") / "webhooks.py"), *options]
