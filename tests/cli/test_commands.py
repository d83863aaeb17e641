"""start, result, show, list, signal, cancel, terminate: against a real worker."""

import json
import subprocess
import sys

from .conftest import Cli, Running, until


def waits(cli: Cli, workflow_id: str) -> bool:
    shown = cli("show", workflow_id, "--json")
    return shown.code == 0 and bool(shown.json.get("waiting"))


def test_start_prints_the_ids_and_result_prints_json(cli: Cli, worker: Running, queue: str) -> None:
    started = cli("start", "order", '{"sku": "A", "count": 3}', "--id", "o 1")
    assert started.code == 0
    assert f"started o 1 on task queue {queue}, run " in started.out
    assert "jetflow result 'o 1'" in started.out
    result = cli("result", "o 1")
    assert result.code == 0
    assert result.json == {"sku": "A", "total": 30}
    assert "\n  " in result.out
    assert cli("result", "o 1", "--json").out == '{"sku":"A","total":30}\n'


def test_start_json_and_a_random_id(cli: Cli, worker: Running, queue: str) -> None:
    facts = cli("start", "waiting", "--json").json
    assert facts["task_queue"] == queue
    assert facts["workflow_type"] == "waiting"
    assert facts["run_id"].isdigit()
    assert facts["started"] is True
    assert len(facts["workflow_id"]) == 24


def test_arguments_are_json_or_plain_text(cli: Cli, worker: Running) -> None:
    given = ["12", '"12"', "Ann Lee", "null", '{"b": 1, "a": [2]}', "[1,", "true", "é", ""]
    done = cli("start", "echo", *given, "--wait", "--json")
    assert done.code == 0, done.err
    assert done.json == [12, "12", "Ann Lee", None, {"b": 1, "a": [2]}, "[1,", True, "é", ""]
    assert json.loads(done.err)["started"] is True


def test_one_list_is_one_argument(cli: Cli, worker: Running) -> None:
    assert cli("start", "echo", "[1, 2]", "--wait").json == [[1, 2]]


def test_arguments_that_begin_with_a_dash(cli: Cli, worker: Running) -> None:
    assert cli("start", "echo", "--wait", "--", "-5", "--flag").json == [-5, "--flag"]


def test_stdin_as_an_argument(cli: Cli, worker: Running) -> None:
    done = cli("start", "order", "-", "--wait", stdin='{"sku": "B",\n "count": 2}\n')
    assert done.json == {"sku": "B", "total": 20}
    bad = cli("start", "order", "-", stdin="{oops")
    assert bad.code == 2
    assert "stdin is not JSON" in bad.err
    assert cli("start", "echo", "-", "-", stdin="1").code == 2


def test_wait_keeps_stdout_for_the_result(cli: Cli, worker: Running) -> None:
    done = cli("start", "order", '{"sku": "C", "count": 1}', "--wait", "--id", "w1")
    assert done.json == {"sku": "C", "total": 10}
    assert "started w1" in done.err


def test_a_failure_shows_its_causes_and_the_remote_stack(cli: Cli, worker: Running) -> None:
    cli("start", "failing", "A", "--id", "f1")
    result = cli("result", "f1")
    assert result.code == 1
    assert result.out == ""
    assert "ActivityError" in result.err
    assert "caused by: LookupError: no A in [bold]stock[/bold]" in result.err
    assert 'raise LookupError(f"no {sku}' in result.err
    assert "jetflow/cli" not in result.err
    assert cli("start", "failing", "A", "--wait").code == 1
    shown = cli("show", "f1")
    assert shown.code == 0
    assert "LookupError" in shown.out
    data = cli("result", "f1", "--json").error
    assert data["exit_code"] == 1
    assert data["failure"]["cause"]["type"] == "LookupError"


def test_a_result_that_takes_too_long(cli: Cli, worker: Running) -> None:
    cli("start", "waiting", "--id", "slow")
    late = cli("result", "slow", "--timeout", "50ms")
    assert late.code == 4
    assert "has not ended within 50ms" in late.err
    assert cli("result", "slow", "--timeout", "soon").code == 2


def test_unknown_workflows(cli: Cli, server: object) -> None:
    for command in ("result", "show", "cancel", "terminate"):
        ran = cli(command, "nobody")
        assert ran.code == 3, command
        assert "no workflow 'nobody'" in ran.err
        assert "Traceback" not in ran.err
    data = cli("show", "nobody", "--json").error
    assert data["error"] == "WorkflowNotFoundError"
    assert data["exit_code"] == 3


def test_an_id_that_is_taken(cli: Cli, worker: Running) -> None:
    first = cli("start", "waiting", "--id", "one", "--json").json
    again = cli("start", "waiting", "--id", "one")
    assert again.code == 5
    assert "already taken" in again.err
    attached = cli("start", "waiting", "--id", "one", "--if-exists", "attach", "--json")
    assert attached.code == 0
    assert attached.json["started"] is False
    assert first["started"] is True


def test_a_wrong_timeout_starts_nothing(cli: Cli, worker: Running) -> None:
    assert cli("start", "waiting", "--id", "n1", "--wait", "--timeout", "soon").code == 2
    assert cli("show", "n1").code == 3


def test_show_of_a_start_that_no_worker_has_taken_up(cli: Cli) -> None:
    cli("start", "order", "--id", "early")
    shown = cli("show", "early")
    assert shown.code == 0
    assert "waits for a worker" in shown.out
    assert cli("show", "early", "--json").json["status"] == "running"


def test_show_of_a_running_and_a_completed_workflow(cli: Cli, worker: Running, queue: str) -> None:
    cli("start", "waiting", "--id", "s1")
    until(lambda: waits(cli, "s1"), "s1 to wait")
    shown = cli("show", "s1").out
    assert "s1  running" in shown
    assert "signal go, since" in shown
    assert queue in shown
    assert "\x1b" not in shown
    cli("signal", "s1", "go", '{"n": 1}')
    assert cli("result", "s1").json == {"n": 1}
    done = cli("show", "s1").out
    assert "s1  completed" in done
    assert "took" in done
    assert '"n": 1' in done
    record = cli("show", "s1", "--json").json
    assert record["result"] == {"n": 1}
    assert record["code"] == 0


def test_signals(cli: Cli, worker: Running) -> None:
    before = cli("signal", "s2", "go", "plain text", "--expire", "1h")
    assert before.code == 0
    assert "no such workflow yet, the signal waits for it for 1h" in before.out
    assert cli("start", "waiting", "--id", "s2", "--wait").json == "plain text"
    assert "had already ended (completed)" in cli("signal", "s2", "go").out
    sent = cli("signal", "s3", "go", "-", "--json", stdin="[1]").json
    assert sent["workflow_id"] == "s3"
    assert cli("start", "waiting", "--id", "s3", "--wait").json == [1]
    assert cli("signal", "s3", "go", "--expire", "soon").code == 2


def test_cancel(cli: Cli, worker: Running) -> None:
    cli("start", "waiting", "--id", "c1")
    asked = cli("cancel", "c1", "--reason", "changed my mind")
    assert asked.code == 0
    assert "jetflow result c1" in asked.out
    result = cli("result", "c1")
    assert result.code == 1
    assert "CancelledFailure" in result.err
    assert "changed my mind" in result.err
    assert cli("cancel", "c1").code == 5


def test_terminate(cli: Cli, worker: Running) -> None:
    cli("start", "waiting", "--id", "t1")
    until(lambda: waits(cli, "t1"), "t1 to wait")
    assert cli("terminate", "t1", "--reason", "stop it").code == 0
    result = cli("result", "t1")
    assert result.code == 1
    assert "stop it" in result.err
    assert cli("show", "t1", "--json").json["status"] == "terminated"
    assert cli("terminate", "t1").code == 5


def test_list(cli: Cli, worker: Running, queue: str) -> None:
    long_id = "an-id-that-is-longer-than-any-terminal-" * 3
    assert cli("start", "order", '{"sku": "A", "count": 1}', "--id", long_id, "--wait").code == 0
    assert cli("start", "failing", "A", "--id", "bad", "--wait").code == 1
    cli("start", "waiting", "--id", "open")
    until(lambda: waits(cli, "open"), "open to wait")
    table = cli("list").out.splitlines()
    assert table[0].split() == ["ID", "STATUS", "TYPE", "TASK", "QUEUE", "STARTED", "ABOUT"]
    assert [line.split()[:3] for line in table[1:]] == [["open", "running", "waiting"], ["bad", "failed", "failing"], [long_id, "completed", "order"]]
    assert "waits for signal go" in table[1]
    assert "\x1b" not in "".join(table)
    assert [record["workflow_id"] for record in cli("list", "--json").lines] == ["open", "bad", long_id]
    assert [record["workflow_id"] for record in cli("list", "--json", "--status", "failed").lines] == ["bad"]
    both = cli("list", "--json", "--status", "failed", "--status", "completed", "--started-after", "1h")
    assert [record["workflow_id"] for record in both.lines] == ["bad", long_id]
    assert cli("list", "--json", "--started-before", "2026-01-01").out == ""
    assert [record["workflow_id"] for record in cli("list", "--json", "--type", "order").lines] == [long_id]
    assert cli("list", "--task-queue", f"{queue}-none", "--json").out == ""
    assert "no workflows" in cli("list", "--task-queue", f"{queue}-none").err
    assert cli("list", "--status", "odd").code == 2
    assert "must be a time such as" in cli("list", "--started-after", "soon").err
    assert "must be FIELD=VALUE" in cli("list", "--search", "customer").err
    assert all(row.split()[6] == "UTC" for row in cli("list", "--utc", TZ="Asia/Tokyo").out.splitlines()[1:])
    assert "JST" in cli("list", TZ="Asia/Tokyo").out


def test_pages(cli: Cli, worker: Running) -> None:
    for number in range(3):
        cli("start", "echo", "--id", f"p{number}", "--wait")
    first = cli("list", "--limit", "2")
    assert [line.split()[0] for line in first.out.splitlines()[1:]] == ["p2", "p1"]
    cursor = first.err.partition("--cursor ")[2].strip()
    second = cli("list", "--limit", "2", "--cursor", cursor, "--json")
    assert ([record["workflow_id"] for record in second.lines], second.err) == (["p0"], "")
    page = cli("list", "--limit", "1", "--json")
    assert [record["workflow_id"] for record in page.lines] == ["p2"]
    assert [record["workflow_id"] for record in cli("list", "--limit", "0", "--json", "--cursor", page.error["cursor"]).lines] == ["p1", "p0"]
    assert cli("list", "--cursor", "nonsense").code == 2


def test_user_data_is_searched_and_counted(cli: Cli, worker: Running) -> None:
    for number, customer in enumerate(("c1", "c2", "c1")):
        cli("start", "labelled", customer, str(number), "--id", f"l{number}", "--wait")
    assert [record["workflow_id"] for record in cli("list", "--search", "customer=c1", "--json").lines] == ["l2", "l0"]
    assert [record["workflow_id"] for record in cli("list", "--search", "customer=c1", "--search", "number=2", "--json").lines] == ["l2"]
    assert cli("count").out == "3\n"
    assert cli("count", "--search", "customer=c2", "--json").json == {"count": 1}
    assert cli("count", "--by", "status").out.split() == ["3", "completed"]
    assert cli("count", "--by", "type", "--json").json == {"labelled": 3}


def test_a_reader_that_leaves_early_is_no_error(cli: Cli, worker: Running, server: object, queue: str) -> None:
    cli("start", "waiting", "--id", "p1")
    until(lambda: waits(cli, "p1"), "p1 to wait")
    script = f"{sys.executable} -m jetflow list --json -s {server.url} -q {queue} | true"  # type: ignore[attr-defined]
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=40, check=False)
    assert done.stderr == ""


def test_control_characters_do_not_reach_the_terminal(cli: Cli, worker: Running) -> None:
    nasty = "id\x1b[31mred\x07"
    assert cli("start", "waiting", "--id", nasty).code == 0
    until(lambda: waits(cli, nasty), "it to wait")
    for command in (("show", nasty), ("list",), ("signal", nasty, "x")):
        assert "\x1b" not in cli(*command).out, command


def test_a_namespace_is_a_world_of_its_own(cli: Cli) -> None:
    assert cli("start", "order", "--id", "same", JETFLOW_NAMESPACE="cli-tests").code == 0
    assert cli("show", "same", "--namespace", "cli-tests").code == 0
    assert cli("show", "same").code == 3
    assert cli("show", "same", "--namespace", "Not Valid").code == 2


def test_query_and_update(cli: Cli, worker: Running) -> None:
    cli("start", "basket", "--id", "b")
    assert cli("update", "b", "add", "pear", "2", "--update-id", "one").json == 2
    assert cli("update", "b", "add", "pear", "2", "--update-id", "one").json == 2
    assert cli("query", "b", "items", "--json").out == '{"pear":2}\n'
    unknown = cli("query", "b", "prices", "--json")
    assert unknown.code == 1
    assert "it has items" in unknown.error["message"]
    assert cli("query", "nobody", "items").code == 3
    cli("signal", "b", "go")
    assert cli("result", "b").json == {"pear": 2}
    assert cli("update", "b", "add", "plum").code == 5
