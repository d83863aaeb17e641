"""APP: modules, files, and what is wrong with them."""

import os
from pathlib import Path

import pytest

from .conftest import Cli, Spawn

WORKFLOW = "from jetflow import workflow\n@workflow\nasync def {name}() -> str:\n    return '{name}'\n"


def test_a_module_of_the_current_folder(spawn: Spawn, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "steps.py").write_text("from jetflow import activity\n@activity\nasync def pack() -> str:\n    return 'packed'\n")
    (tmp_path / "shop" / "orders.py").write_text(
        "from jetflow import workflow\nfrom shop.steps import pack\n@workflow\nasync def ship() -> str:\n    return await pack()\n"
    )
    ready = spawn("worker", "shop.orders").wait_for("worker ready")
    assert "workflows ship" in ready
    assert "activities pack" in ready
    assert cli("start", "ship", "--wait").json == "packed"


def test_a_file_of_a_package_may_import_its_neighbours(spawn: Spawn, tmp_path: Path) -> None:
    package = tmp_path / "deep" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "base.py").write_text(WORKFLOW.format(name="ship"))
    (package / "orders.py").write_text("from .base import ship\n")
    assert "workflows ship" in spawn("worker", os.path.join("deep", "shop", "orders.py")).wait_for("worker ready")


@pytest.mark.parametrize("name", ["json.py", "my-orders 2.py", "jetflow.py"])
def test_a_file_may_have_any_name(spawn: Spawn, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "apps"
    folder.mkdir()
    (folder / name).write_text(WORKFLOW.format(name="ship"))
    assert "workflows ship" in spawn("worker", f"apps/{name}").wait_for("worker ready")


BAD = {
    "no_such.module": "no module named 'no_such.module'",
    "no_such.py": "no file no_such.py",
    "folder/": "is a folder",
    "what is this": "neither a module's name",
    "empty.py": "has no workflows",
    "empty": "has no workflows",
    "broken.py": "importing broken.py failed: ZeroDivisionError",
    "wants.py": "No module named 'not_installed_anywhere'",
    "wants": "No module named 'not_installed_anywhere'",
    "leaves": "importing leaves failed: SystemExit",
    "syntax.py": "SyntaxError",
    "twice.py": "two functions are named workflow 'same'",
    "untyped.py": "cannot be served",
}


@pytest.fixture
def bad_apps(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("def helper():\n    return 1 / 0\nhelper()\n")
    (tmp_path / "wants.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "syntax.py").write_text("def (:\n")
    (tmp_path / "twice.py").write_text(
        "from jetflow import workflow\n@workflow(name='same')\nasync def a() -> None: ...\n@workflow(name='same')\nasync def b() -> None: ...\n"
    )
    (tmp_path / "untyped.py").write_text("from jetflow import workflow\n@workflow\nasync def a(x: 'Missing') -> None: ...\n")


@pytest.mark.parametrize("app", BAD)
def test_an_app_that_cannot_be_served(cli: Cli, bad_apps: None, app: str) -> None:
    ran = cli("worker", app)
    assert ran.code == 2, ran.err
    assert BAD[app] in ran.err
    assert "jetflow/cli" not in ran.err
    assert ran.out == ""


def test_a_failing_import_shows_where(cli: Cli, bad_apps: None) -> None:
    ran = cli("worker", "broken.py")
    assert "line 2, in helper" in ran.err
    assert "importlib" not in ran.err
