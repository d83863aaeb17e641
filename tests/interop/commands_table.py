"""What each command does to a workflow in each state: the data that ``docs/commands.md`` is made of and that the tests check.

``python -m tests.interop.commands_table > docs/commands.md`` writes the page.
"""

from pathlib import Path

PAIRS = Path(__file__).with_name("pairs.md")
"""What comes of each pair of commands, as ``tests.engine.test_pairs`` writes it."""

STATES = {
    "unknown": "no workflow has the id",
    "early": "its start is stored, and no worker has begun it",
    "running": "its code runs short activities, and waits for the signal beside them",
    "waiting": "its code waits for the signal",
    "sleeping": "its code sleeps, and waits for no signal",
    "in an activity": "its code waits for an activity, and for the signal afterwards",
    "parked": "no available worker knows its type, or its code has changed",
    "closed": "it has ended, and its record exists",
    "expired": "it has ended, and its record has expired",
}

OUTCOMES = {
    "starts": "a run starts",
    "replaces": "the run that has the id is terminated, or its record removed; then a run starts",
    "taken": "`WorkflowAlreadyStartedError`, and nothing is stored",
    "refused": "consumed; the run that has the id continues unchanged",
    "delivered": "delivered",
    "at the wait": "buffered, and delivered as soon as the code waits for it",
    "with a worker": "stored in the inbox, and delivered once a worker continues the workflow",
    "buffered": "buffered for its `expire`, for the next wait for it, or the next start of the id; then a dead letter",
    "dropped": "consumed; the workflow will never wait for it",
    "kept": "buffered for its `expire`, for the first workflow that waits for it; then a dead letter",
    "updated": "applied, and answered after its commit",
    "updated later": "stored in the inbox, and applied once a worker continues the workflow",
    "cancelled": "`CancelledFailure` at the pending or next operation",
    "cancelled later": "stored in the inbox; `CancelledFailure` once a worker continues the workflow",
    "cancelled at the start": "buffered for 10 minutes; a run that starts within them begins cancelled",
    "terminated": "ended at once",
    "terminated later": "stored in the inbox, and ended once a worker comes",
    "not found": "`WorkflowNotFoundError`, and nothing is stored",
    "already closed": "`WorkflowAlreadyClosedError`, and nothing is stored",
    "dead letter": "a dead letter with the reason; the workflow does not change",
    "ignored": "consumed; the workflow does not change",
}

LIVE = ("early", "running", "waiting", "sleeping", "in an activity", "parked")


def _every(outcome: str) -> dict[str, str]:
    return dict.fromkeys(STATES, outcome)


START = dict.fromkeys(STATES, "refused") | {"unknown": "starts", "expired": "starts"}
REPLACE = dict.fromkeys(STATES, "replaces") | {"unknown": "starts", "expired": "starts"}
SIGNAL = {
    "unknown": "buffered",
    "early": "with a worker",
    "running": "delivered",
    "waiting": "delivered",
    "sleeping": "buffered",
    "in an activity": "at the wait",
    "parked": "with a worker",
    "closed": "dropped",
    "expired": "buffered",
}
CANCEL = {
    "unknown": "cancelled at the start",
    "early": "cancelled later",
    "running": "cancelled",
    "waiting": "cancelled",
    "sleeping": "cancelled",
    "in an activity": "cancelled",
    "parked": "cancelled later",
    "closed": "ignored",
    "expired": "cancelled at the start",
}
TERMINATE = dict.fromkeys(LIVE, "terminated") | {"early": "terminated later"}

BY_ID = dict.fromkeys(STATES, "kept") | {"running": "delivered", "waiting": "delivered"}
UPDATE = dict.fromkeys(LIVE, "updated") | {"early": "updated later", "parked": "updated later"}

TABLE = {
    "start": {
        "subject": "start.<type>",
        "body": "the argument, or the list of arguments",
        "handle": {state: {"refused": "taken"}.get(outcome, outcome) for state, outcome in START.items()},
        "raw": START,
    },
    "start in place of another": {
        "subject": "start.<type>",
        "body": "the argument, or the list of arguments; with the header `Jetflow-Replace: 1`",
        "handle": REPLACE,
        "raw": REPLACE,
    },
    "signal": {"subject": "signal.<name>", "body": "the data; empty for null", "handle": SIGNAL, "raw": SIGNAL},
    "signal by id": {
        "subject": "jetflow_signal.<signal id>",
        "note": "It names no workflow. `client.signal` sends it.\nThe table is for a workflow that waits for this id whenever it waits.",
        "body": "the data; empty for null",
        "handle": BY_ID,
        "raw": BY_ID,
    },
    "update": {
        "subject": "update.<name>",
        "body": "the argument, or the list of arguments; `Jetflow-Reply` says where to answer",
        "handle": UPDATE | {"unknown": "not found", "closed": "already closed", "expired": "not found"},
        "raw": UPDATE | {"unknown": "dead letter", "closed": "ignored", "expired": "dead letter"},
    },
    "cancel": {"subject": "cancel", "body": 'empty, a reason, or `{"reason": …}`', "handle": CANCEL, "raw": CANCEL},
    "terminate": {
        "subject": "terminate",
        "body": 'empty, a reason, or `{"reason": …, "code": 410, "descend": false, "expire": "1h"}`',
        "handle": TERMINATE | {"unknown": "not found", "closed": "already closed", "expired": "not found"},
        "raw": TERMINATE | {"unknown": "dead letter", "closed": "ignored", "expired": "dead letter"},
    },
    "unknown command": {"subject": "pause", "body": "anything", "raw": _every("dead letter")},
    "malformed body": {"subject": "signal.<name>", "body": "`{oops`", "raw": _every("dead letter")},
    "forged timer": {"subject": "timer.<index>", "body": "the run's id and a later due time", "raw": _every("ignored")},
    "forged child reply": {"subject": "child.<index>", "body": "the run's id and a result", "raw": _every("ignored")},
    "forged outcome of an activity": {"subject": "activity.<index>", "body": "the run's id, an attempt and a result", "raw": _every("ignored")},
    "forged signal by id": {"subject": "routed.<index>", "body": "the run's id, the signal's name and number, and data", "raw": _every("ignored")},
}
"""For each command, what comes of it by state: sent through a handle, and by ``nats pub``."""


ABOUT_PAIRS = [
    "## Pairs of commands",
    "",
    "Two commands for one workflow, sent one after the other by handles that are not pinned to a run. The",
    "code sees them in the order of the inbox, which is the order in which the broker has acked them.",
    "That holds for commands that came while no worker was up, and for those that came before a delayed",
    "start began. A query is not stored and has no place in that order. A signal by id has a stream of",
    "its own: its order with other commands is not defined, and the table leaves it out of what the run",
    "sees. If no command of the pair comes first that starts the workflow, it has been started before.",
    "A test sends all pairs and compares this table with what happens.",
    "",
]


def render() -> str:
    """The page."""
    lines = [
        "# Commands",
        "",
        "What each command does to a workflow, by the workflow's state. Every cell is a test.",
        "",
        "A command is a message to `<namespace>.<task_queue>.<workflow_id>.<command>`. The broker's ack means",
        "that the command is stored. The handle sends the same messages, and reads the record first where an",
        "error can say more. The engine's own replies (`timer`, `child`, `activity`, `routed`) count only",
        "where they answer a pending operation. A forged one changes nothing.",
        "",
        "| state | meaning |",
        "|---|---|",
        *(f"| {state} | {meaning} |" for state, meaning in STATES.items()),
        "",
    ]
    for command, entry in TABLE.items():
        lines += [f"## {command.capitalize()}", "", f"- Subject: `{entry['subject']}`", f"- Body: {entry['body']}", ""]
        if "note" in entry:
            lines += [str(entry["note"]), ""]
        raw, handle = entry["raw"], entry.get("handle")
        if handle is None or handle == raw:
            title = "outcome" if handle else "outcome (by `nats pub`; no handle sends it)"
            lines += [f"| state | {title} |", "|---|---|", *(f"| {state} | {OUTCOMES[raw[state]]} |" for state in STATES)]
        else:
            lines += ["| state | by the handle | by `nats pub` |", "|---|---|---|"]
            lines += [f"| {state} | {OUTCOMES[handle[state]]} | {OUTCOMES[raw[state]]} |" for state in STATES]
        lines.append("")
    return "\n".join([*lines, *ABOUT_PAIRS, "<!-- pairs: begin -->", "", PAIRS.read_text(), "<!-- pairs: end -->", ""])


if __name__ == "__main__":
    print(render(), end="")
