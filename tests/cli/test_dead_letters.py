"""``jetflow dead-letters``: list, show, requeue as it was or mended, drop."""

import asyncio
from pathlib import Path
from typing import Any

import nats
import pytest

from jetflow.broker.transport.server import LocalServer

from .conftest import Cli, Running, until


def publish(server: LocalServer, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    async def send() -> None:
        connection = await nats.connect(server.url)
        await connection.jetstream().publish(subject, body, headers=headers)
        await connection.close()

    asyncio.run(send())


def letters(cli: Cli, queue: str) -> list[dict[str, Any]]:
    """This test's own."""
    return [letter for letter in cli("dead-letters", "list", "--json").lines if f".{queue}." in letter["subject"]]


def test_a_letter_is_shown_mended_and_sent_again(cli: Cli, worker: Running, server: LocalServer, queue: str, tmp_path: Path) -> None:
    cli("start", "waiting", "--id", "m1")
    publish(server, f"jetflow.{queue}.m1.signal.go", b'{"ok": tru', {"Jetflow-Expire": "1h", "Jetflow-Subject": "forged", "Other": "x"})
    (letter,) = until(lambda: letters(cli, queue), "a dead letter")
    assert letter["subject"] == f"jetflow.{queue}.m1.signal.go"
    assert letter["headers"] == {"Jetflow-Expire": "1h"}
    number = str(letter["number"])
    assert letter["subject"] in cli("dead-letters", "list").out
    shown = cli("dead-letters", "show", number)
    assert '{"ok": tru' in shown.out
    assert "Jetflow-Expire: 1h" in shown.out
    assert letter["reason"] in shown.out
    (tmp_path / "mended.json").write_text('{"ok": true}')
    sent = cli("dead-letters", "requeue", number, "--body", "mended.json")
    assert (sent.code, sent.out) == (0, f"sent to {letter['subject']}\n")
    assert cli("result", "m1").json == {"ok": True}
    gone = cli("dead-letters", "show", number)
    assert gone.code == 2
    assert f"no dead letter {number}" in gone.err


def test_a_body_from_stdin_and_another_subject(cli: Cli, worker: Running, server: LocalServer, queue: str) -> None:
    cli("start", "waiting", "--id", "m2")
    publish(server, f"jetflow.{queue}.m2.sginal.go", b"oops")
    (letter,) = until(lambda: letters(cli, queue), "a dead letter")
    right = f"jetflow.{queue}.m2.signal.go"
    done = cli("dead-letters", "requeue", str(letter["number"]), "--subject", right, "--body", "-", "--json", stdin="[1, 2]")
    assert (done.json["subject"], done.json["body"]) == (right, "[1, 2]")
    assert cli("result", "m2").json == [1, 2]


def test_what_is_still_wrong_comes_back(cli: Cli, worker: Running, server: LocalServer, queue: str) -> None:
    publish(server, f"jetflow.{queue}.m3.signal.go", b"{")
    (letter,) = until(lambda: letters(cli, queue), "a dead letter")
    assert cli("dead-letters", "requeue", str(letter["number"])).code == 0
    (again,) = until(lambda: letters(cli, queue), "it to come back")
    assert again["number"] > letter["number"]
    assert again["body"] == "{"
    assert cli("dead-letters", "drop", str(again["number"])).out == f"dropped {again['number']}\n"
    assert letters(cli, queue) == []
    assert cli("dead-letters", "drop", str(again["number"])).code == 2


@pytest.mark.parametrize("subject", ["other.q.x.cancel", "jetflow.q.x", "jetflow.q.x.*", "jetflow.q. x.cancel"])
def test_a_subject_that_is_none(cli: Cli, worker: Running, server: LocalServer, queue: str, subject: str) -> None:
    publish(server, f"jetflow.{queue}.m4.pause", b"")
    (letter,) = until(lambda: letters(cli, queue), "a dead letter")
    refused = cli("dead-letters", "requeue", str(letter["number"]), "--subject", subject)
    assert refused.code == 2
    assert "must be jetflow.<task_queue>" in refused.err
    assert len(letters(cli, queue)) == 1
    assert cli("dead-letters", "requeue", str(letter["number"]), "--body", "nowhere.json").code == 2


def test_a_letter_that_does_not_have_all_of_its_body(cli: Cli, worker: Running, server: LocalServer, queue: str, tmp_path: Path) -> None:
    publish(server, f"jetflow.{queue}.m5.pause", b"x" * (1 << 20))
    (letter,) = until(lambda: letters(cli, queue), "a dead letter")
    assert letter["size"] == 1 << 20
    assert "only" in cli("dead-letters", "show", str(letter["number"])).out
    assert "pass the whole body" in cli("dead-letters", "requeue", str(letter["number"])).err


def test_no_letters_and_the_help(cli: Cli, plain: Cli) -> None:
    assert "no dead letters" in cli("dead-letters", "list", JETFLOW_NAMESPACE="no-letters").err
    for command in ("list", "show", "requeue", "drop"):
        assert f"  jetflow dead-letters {command}" in plain("dead-letters", command, "--help", COLUMNS="120").out
