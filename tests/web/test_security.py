"""Who is let in, from where, and what the answers carry."""

from collections.abc import AsyncIterator
from http.cookies import SimpleCookie

import httpx
import pytest
import pytest_asyncio

from jetflow.web.security import Access, is_loopback

from .conftest import Api, Shop

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "a-token-for-tests-only"
ANY = {"queue": "default", "id": "nobody"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def locked(shop: Shop) -> AsyncIterator[str]:
    """Address of a dashboard that wants a token."""
    async with shop.dashboard(Access(TOKEN)) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield http


async def test_every_answer_has_the_headers(api: Api) -> None:
    for path in ("/", "/static/main.js", "/api/about", "/api/nothing", "/workflows/a/b"):
        answer = await api.http.get(api.url + path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example", "192.168.1.5", "[::", ""])
async def test_a_name_that_only_points_here_is_refused(api: Api, host: str) -> None:
    for path in ("/", "/api/about", "/static/main.js"):
        answer = await api.http.get(api.url + path, headers={"host": host})
        assert answer.status_code in (400, 403), path
        assert "version" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:8233", "127.0.0.1:8233"])
async def test_this_machine_is_let_in(api: Api, host: str) -> None:
    assert (await api.http.get(f"{api.url}/api/about", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1:1", "file://"])
@pytest.mark.parametrize("action", ["signal", "cancel", "terminate", "letters/drop", "letters/requeue", "login"])
async def test_another_site_cannot_command(api: Api, origin: str, action: str) -> None:
    answer = await api.post(action, ANY | {"name": "go", "number": 1}, origin=origin)
    assert answer.status_code == 403
    assert "Origin" in answer.json()["error"]


async def test_no_origin_cannot_command(api: Api) -> None:
    assert (await api.http.post(f"{api.url}/api/cancel", json=ANY)).status_code == 403


async def test_forms_cannot_command(api: Api) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = await api.post("cancel", ANY, **{"content-type": kind})
        assert answer.status_code == 415


async def test_another_site_cannot_even_ask(api: Api) -> None:
    for site in ("cross-site", "same-site"):
        assert (await api.http.get(f"{api.url}/api/workflows", headers={"sec-fetch-site": site})).status_code == 403
        assert (await api.post("cancel", ANY, **{"sec-fetch-site": site})).status_code == 403


async def test_methods_other_than_the_two_are_refused(api: Api) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/", "/api/workflows", "/api/cancel", "/static/main.js"):
            headers = {"origin": api.url, "content-type": "application/json"}
            assert (await api.http.request(method, api.url + path, headers=headers)).status_code in (403, 404, 405)


async def test_files_outside_are_not_served(api: Api) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"):
        answer = await api.http.get(httpx.URL(api.url).copy_with(raw_path=path.encode()))
        assert "create_app" not in answer.text
        assert "root:" not in answer.text


async def test_without_the_token_nothing_is_told(locked: str, http: httpx.AsyncClient) -> None:
    for path in ("about", "workflows", "workflow", "history", "workers", "letters", "events", "payload", "total", "nothing"):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {TOKEN}"},
            {"cookie": "jetflow_ui=wrong"},
            {"cookie": f"jetflow_ui={TOKEN}"},
        ):
            answer = await http.get(f"{locked}/api/{path}", headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert list(answer.json()) == ["error"]
    assert (await http.post(f"{locked}/api/cancel", json=ANY, headers={"origin": locked})).status_code == 401


async def test_the_token_in_the_address_becomes_a_cookie(locked: str, http: httpx.AsyncClient) -> None:
    assert "set-cookie" not in (await http.get(f"{locked}/?token=wrong")).headers
    answer = await http.get(f"{locked}/workflows/a/b?token={TOKEN}")
    cookie = SimpleCookie(answer.headers["set-cookie"])["jetflow_ui"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert TOKEN not in answer.headers["set-cookie"]
    assert (await http.get(f"{locked}/api/about")).json()["namespace"] == "jetflow"  # httpx keeps the cookie
    assert (await http.post(f"{locked}/api/cancel", json=ANY, headers={"origin": locked})).status_code == 404  # heard, and there is no such workflow
    assert (await http.post(f"{locked}/api/cancel", json=ANY, headers={"origin": "http://evil.example"})).status_code == 403


async def test_the_token_is_taken_from_a_form(locked: str, http: httpx.AsyncClient) -> None:
    login = f"{locked}/api/login"
    assert (await http.post(login, json={"token": "wrong"}, headers={"origin": locked})).status_code == 401
    assert (await http.post(login, json={"token": TOKEN}, headers={"origin": "http://evil.example"})).status_code == 403
    assert (await http.post(login, json={"token": TOKEN}, headers={"origin": locked})).status_code == 200
    assert (await http.get(f"{locked}/api/about")).status_code == 200


async def test_programs_show_the_token_itself(locked: str, http: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert (await http.get(f"{locked}/api/about", headers=headers)).status_code == 200
    assert (await http.post(f"{locked}/api/cancel", json=ANY, headers=headers)).status_code == 404


async def test_with_a_token_any_name_will_do(locked: str, http: httpx.AsyncClient) -> None:
    headers = {"host": "workflows.example", "authorization": f"Bearer {TOKEN}"}
    assert (await http.get(f"{locked}/api/about", headers=headers)).status_code == 200


async def test_read_only_refuses_every_command(shop: Shop, http: httpx.AsyncClient) -> None:
    handle = await shop.client.start("waiting", workflow_id="read-only-1")
    body = {"queue": "default", "id": "read-only-1", "name": "go", "number": 1}
    for token in (None, TOKEN):
        async with shop.dashboard(Access(token, read_only=True)) as address:
            headers = {"origin": address} | ({"authorization": f"Bearer {token}"} if token else {})
            for action in ("signal", "cancel", "terminate", "letters/drop", "letters/requeue", "anything"):
                answer = await http.post(f"{address}/api/{action}", json=body, headers=headers)
                assert answer.status_code == 403, action
                assert "read-only" in answer.json()["error"]
            assert (await http.get(f"{address}/api/about", headers=headers)).json()["read_only"] is True
    await handle.signal("go", "still there")
    assert await handle.result(timeout="30s") == "still there"


async def test_what_counts_as_this_machine() -> None:
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", ""):
        assert not is_loopback(host)


async def test_the_token_is_not_shown_by_accident() -> None:
    assert TOKEN not in repr(Access(TOKEN))
