"""Help, usage errors, completion: what needs no server."""

from pathlib import Path

import pytest

from .conftest import Cli

COMMANDS = (
    "dev",
    "worker",
    "ui",
    "start",
    "result",
    "show",
    "list",
    "count",
    "why",
    "tail",
    "stats",
    "signal",
    "query",
    "update",
    "cancel",
    "terminate",
)


def test_the_help_teaches(plain: Cli) -> None:
    ran = plain("--help")
    assert ran.code == 0
    for word in (*COMMANDS, "JETFLOW_URL", "NO_COLOR", "Exit codes", "jetflow dev", "--install-completion"):
        assert word in ran.out
    assert "3  no such workflow" in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_an_example(plain: Cli, command: str) -> None:
    ran = plain(command, "--help", COLUMNS="120")
    assert ran.code == 0
    assert "Examples:" in ran.out
    assert f"  jetflow {command} " in ran.out


def test_version(plain: Cli) -> None:
    import jetflow

    assert plain("--version").out == f"jetflow {jetflow.__version__}\n"


def test_wrong_usage(plain: Cli) -> None:
    assert plain("nonsense").code == 2
    assert plain("start").code == 2
    assert plain("list", "--limit", "many").code == 2


def test_completion_offers_commands_and_options(plain: Cli) -> None:
    offered = plain(_JETFLOW_COMPLETE="complete_bash", COMP_WORDS="jetflow st", COMP_CWORD="1").out.split()
    assert offered == ["start", "stats"]
    options = plain(_JETFLOW_COMPLETE="complete_bash", COMP_WORDS="jetflow result --ti", COMP_CWORD="2").out.split()
    assert options == ["--timeout"]


def test_completion_is_installed(plain: Cli, tmp_path: Path) -> None:
    ran = plain("--install-completion", "bash", HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert ran.code == 0, ran.err
    scripts = [path for path in tmp_path.rglob("*") if path.is_file() and "_JETFLOW_COMPLETE" in path.read_text()]
    assert scripts


def test_no_server(plain: Cli, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from jetflow import workflow\n@workflow\nasync def w() -> None: ...\n")
    for args in (("list",), ("show", "x"), ("start", "w"), ("worker", "app.py"), ("dev", "app.py")):
        ran = plain(*args, "-s", "nats://127.0.0.1:1")
        assert ran.code == 2, args
        assert "no nats-server at nats://127.0.0.1:1" in ran.err
        assert "Traceback" not in ran.err
    assert plain("list", "--json", "-s", "nats://127.0.0.1:1").error["exit_code"] == 2
