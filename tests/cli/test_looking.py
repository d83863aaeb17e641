"""why, tail, stats, show --tree: what workflows are doing."""

import json
import signal

from .conftest import APP, Cli, Running, Spawn, until

APP_FOLDER = APP.parent


def waits(cli: Cli, workflow_id: str) -> bool:
    shown = cli("show", workflow_id, "--json")
    return shown.code == 0 and bool(shown.json.get("waiting"))


def test_why_before_and_after_a_worker_has_it(cli: Cli, spawn: Spawn, queue: str) -> None:
    cli("start", "waiting", "--id", "w1")
    early = cli("why", "w1")
    assert (early.code, early.out.count("\n")) == (0, 1)
    assert early.out.startswith(f"w1 (waiting on {queue}) waits for a worker to start it, since 20")
    spawn("worker", "app.py", cwd=APP_FOLDER).wait_for("worker ready")
    until(lambda: waits(cli, "w1"), "w1 to wait")
    text = cli("why", "w1", "--utc").out
    assert text.startswith(f"w1 (waiting on {queue}) waits for signal 'go', since 20")
    assert " UTC (" in text
    assert text.endswith("owns it; signal 'go' would wake it.\n")
    data = cli("why", "w1", "--json").json
    assert (data["status"], data["waits"][0]["kind"], data["waits"][0]["wakes"]) == ("running", "signal", "signal 'go'")
    assert data["owner"]["pid"] > 0


def test_why_of_an_unknown_id_tells_what_is_kept_for_it(cli: Cli, worker: Running) -> None:
    cli("signal", "later", "go", "--expire", "1h")
    ran = until(lambda: (ran := cli("why", "later")) and "an early signal 'go' waits for it" in ran.err and ran, "the signal to be kept")
    assert ran.code == 3
    assert "no workflow 'later'" in ran.err
    assert cli("why", "later", "--json").error["exit_code"] == 3


def test_a_tree_of_children(cli: Cli, worker: Running) -> None:
    cli("start", "family", "--id", "top")
    until(lambda: '"second"' in cli("show", "top", "--json").out and waits(cli, "second") and waits(cli, "first"), "both children to wait")
    shown = cli("show", "top", "--tree")
    assert shown.out.splitlines() == [
        "top  running  family  waits for child second",
        "├── first  running  waiting  waits for signal go",
        "└── second  running  napping  waits for timer",
    ]
    tree = cli("show", "top", "--tree", "--json").json
    assert [(child["workflow_id"], child["status"]) for child in tree["children"]] == [("first", "running"), ("second", "running")]
    assert tree["record"]["workflow_type"] == "family"
    assert cli("show", "first", "--tree").out.startswith("first  running  waiting")
    assert cli("show", "nobody", "--tree").code == 3
    assert "which waits for a timer, since" in cli("why", "top").out


def test_tail_follows(cli: Cli, worker: Running, spawn: Spawn) -> None:
    cli("start", "waiting", "--id", "before")
    until(lambda: waits(cli, "before"), "it to wait")
    following = spawn("tail", "--utc")
    following.wait_for("following")
    following.wait_for("running     before")
    failed = spawn("tail", "--json", "--status", "failed")
    other = spawn("tail", "-q", "another-queue", "-n", "0")
    other.wait_for("following")
    cli("start", "order", '{"sku": "A", "count": 1}', "--id", "o1", "--wait")
    assert " UTC " in following.wait_for("completed   o1  order")
    cli("start", "failing", "pear", "--id", "f1", "--wait")
    assert "ActivityError" in following.wait_for("failed      f1  failing")
    cli("signal", "before", "go")
    following.wait_for("completed   before")
    assert json.loads(failed.wait_for('"f1"'))["status"] == "failed"
    for running in (following, failed, other):
        running.signal(signal.SIGINT)
        assert running.ended() == 130
    assert len(failed.out) == 1
    assert other.out == []
    assert "\x1b" not in "".join(following.out)


def test_stats(plain: Cli, spawn: Spawn, server: object, queue: str) -> None:
    where = {"JETFLOW_URL": server.url, "JETFLOW_NAMESPACE": "stats-test", "JETFLOW_TASK_QUEUE": queue}  # type: ignore[attr-defined]
    empty = plain("stats", "--interval", "0s", **where).out
    assert "no worker is up" in empty
    spawn("worker", "app.py", cwd=APP_FOLDER, JETFLOW_NAMESPACE="stats-test").wait_for("worker ready")
    plain("start", "order", '{"sku": "A", "count": 1}', "--wait", **where)
    plain("start", "napping", "3600", "--id", "sleeper", **where)
    until(lambda: plain("why", "sleeper", **where).out.count("timer"), "it to sleep")
    shown = plain("stats", "--interval", "200ms", **where).out
    rows = [line.split() for line in shown.splitlines()]
    for row in (["completed", "1"], ["running", "1"], ["timers", "1"], ["commands", "0"], ["dead", "letters", "0"]):
        assert row in rows
    assert "KV_stats-test_state" in shown
    assert "0-63  0 waiting, 0 under way" in shown
    assert "in the last 0." in shown
    assert "\x1b" not in shown
    data = plain("stats", "--quick", "--interval", "0s", "--json", **where).json
    assert (data["workflows"], data["timers"], data["throughput"]) == (None, 1, None)
    assert plain("stats", "--interval", "soon", **where).code == 2
