"""``jetflow ui``, and the dashboard of ``jetflow dev``."""

import re
import signal
import socket

import httpx
import pytest

from jetflow.broker.transport.server import LocalServer
from jetflow.errors import BrokerError, InvalidInputError
from jetflow.web import serving

from ..cli.conftest import APP, Cli, Running, Spawn, plain, spawn  # noqa: F401  (fixtures)

TOKEN = "a-token-for-tests-only"


def address(running: Running) -> str:
    found = re.search(r"http://\S+", running.wait_for("http://"))
    assert found
    return found[0]


def get(url: str, **headers: str) -> httpx.Response:
    with httpx.Client(trust_env=False) as http:
        return http.get(url, headers=headers)


def test_dev_serves_the_page(spawn: Spawn) -> None:  # noqa: F811
    running = spawn("dev", str(APP), "--port", "0", "--ui-port", "0")
    running.wait_for("Ctrl-C")
    url = address(running)
    assert url.startswith("http://127.0.0.1:")
    assert "<title>jetflow</title>" in get(url).text
    assert get(f"{url}/api/about").json()["read_only"] is False
    assert get(f"{url}/api/workers").json()["workers"]
    running.signal(signal.SIGTERM)
    assert running.ended() == 0
    assert "Traceback" not in "\n".join(running.err)


def test_dev_without_the_page(spawn: Spawn, server: LocalServer) -> None:  # noqa: F811
    running = spawn("dev", str(APP), "--server", server.url, "--no-ui")
    running.wait_for("Ctrl-C")
    assert "http://" not in "\n".join(running.out)


def test_ui_of_any_server(spawn: Spawn, server: LocalServer) -> None:  # noqa: F811
    running = spawn("ui", "--server", server.url, "--port", "0", "--read-only")
    url = address(running)
    running.wait_for("read-only")
    about = get(f"{url}/api/about").json()
    assert about["read_only"] is True
    assert about["server"] == server.url
    running.signal(signal.SIGINT)
    assert running.ended() == 0
    assert "Traceback" not in "\n".join(running.err)


def test_any_other_address_gets_a_token(spawn: Spawn) -> None:  # noqa: F811
    running = spawn("ui", "--host", "0.0.0.0", "--port", "0")
    found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/\?token=(\S{20,})", address(running))
    assert found
    url, token = found.groups()
    assert get(f"{url}/api/about").status_code == 401
    assert get(f"{url}/api/about", authorization=f"Bearer {token}").status_code == 200


def test_a_token_of_ones_own_is_not_printed(spawn: Spawn) -> None:  # noqa: F811
    running = spawn("ui", "--port", "0", JETFLOW_UI_TOKEN=TOKEN)
    url = address(running)
    running.wait_for("browsers must give your token")
    assert TOKEN not in "\n".join(running.out + running.err)
    assert get(f"{url}/api/about").status_code == 401
    assert get(f"{url}/api/about", authorization=f"Bearer {TOKEN}").status_code == 200


def test_what_cannot_be(plain: Cli, server: LocalServer) -> None:  # noqa: F811
    ran = plain("ui", "-s", server.url, "--token", "short")
    assert ran.code == 2
    assert "at least 12" in ran.err
    ran = plain("ui", "-s", server.url, "--host", "203.0.113.1", "--port", "0")
    assert ran.code == 2
    assert "cannot listen on 203.0.113.1" in ran.err


def test_the_default_port_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr(serving, "DEFAULT_PORT", taken)
        with serving.bind("127.0.0.1", None) as listening:
            assert listening.getsockname()[1] != taken
        with pytest.raises(BrokerError, match=str(taken)):
            serving.bind("127.0.0.1", taken)


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    serving.check_installed()
    monkeypatch.setattr(serving.importlib.util, "find_spec", lambda name: None if name == "starlette" else object())
    with pytest.raises(InvalidInputError, match=r"needs starlette: pip install starlette"):
        serving.check_installed()
