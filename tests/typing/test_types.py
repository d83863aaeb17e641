"""What type checkers make of the front door: nothing public is left to infer, and wrong calls are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARK = "  # refused"


def pyright(*args: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *args]
    here = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}"}  # where --verifytypes looks for Python
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)


def test_calls_are_accepted_and_refused() -> None:
    """Exactly the marked lines are reported, in every file of this folder."""
    files = sorted(path for path in HERE.glob("*.py") if not path.name.startswith(("test_", "__")))
    expected = {(path.name, number) for path in files for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith(MARK)}
    found = pyright(*map(str, files))["generalDiagnostics"]
    reported = {(Path(one["file"]).name, one["range"]["start"]["line"] + 1): f"{one.get('rule')}: {one['message']}" for one in found}
    assert {place: text for place, text in reported.items() if place not in expected} == {}
    assert sorted(expected - reported.keys()) == []
    assert expected


def test_every_public_type_is_known() -> None:
    completeness = pyright("--verifytypes", "jetflow", "--ignoreexternal")["typeCompleteness"]
    unknown = [
        f"{symbol['name']}: {one['message']}" for symbol in completeness["symbols"] for one in symbol["diagnostics"] if not symbol["isTypeKnown"]
    ]
    assert unknown == []
    assert completeness["completenessScore"] == 1
    assert Path(completeness["pyTypedPath"]) == ROOT / "jetflow" / "py.typed"
