"""What the distribution is named, and that its licence goes with it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {".md", ".py", ".html", ".js", ".service", ".yaml", ".env", ".sh", ".toml"}


def test_the_licence_goes_with_what_is_built() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert "Copyright 2026 The jetflow authors" in (ROOT / "NOTICE").read_text()


def test_no_text_installs_another_project() -> None:
    """``jetflow`` on the public index is a stranger's package: texts install from the checkout, a wheel or a VCS address."""
    stranger = re.compile(r"pip install[^\n]*[\s'\"`]jetflow(\[[^\]]*\])?(?![\w.-]|/|\s*@)")
    folders = ("jetflow", "docs", "deploy", "examples", "bench")
    texts = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    lines = ((path.relative_to(ROOT), line) for path in [*texts, *ROOT.glob("*.md")] for line in path.read_text().splitlines())
    found = [f"{path}: {line.strip()}" for path, line in lines if stranger.search(line)]
    assert found == []
    assert stranger.search("pip install 'jetflow[ui]'")
    assert stranger.search("pip install -q jetflow")
    assert not stranger.search("/opt/jetflow/venv/bin/pip install '.[uvloop]'")
