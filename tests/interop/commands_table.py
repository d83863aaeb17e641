"""What each command does to a workflow in each state: the data that ``docs/commands.md`` is made of and that the tests check.

``python -m tests.interop.commands_table > docs/commands.md`` writes the page.
"""

STATES = {
    "unknown": "no workflow has the id",
    "early": "its start is stored, and no worker has taken it up",
    "running": "its code is busy with short activities, and waits for the signal beside them",
    "waiting": "it waits for the signal",
    "sleeping": "it sleeps, and waits for no signal",
    "in an activity": "it waits for an activity, and for the signal afterwards",
    "parked": "no worker that is up knows its type, or its code has changed under it",
    "closed": "it has ended, and its record is kept",
    "expired": "it has ended, and its record has expired",
}

OUTCOMES = {
    "starts": "a run starts",
    "replaces": "the run that has the id is terminated, or its record given up; then a run starts",
    "taken": "`WorkflowAlreadyStartedError`, and nothing is stored",
    "refused": "consumed; the run that has the id goes on untouched",
    "delivered": "delivered",
    "at the wait": "kept, and delivered as soon as the code waits for it",
    "with a worker": "kept in the inbox, and delivered once a worker takes the workflow up",
    "buffered": "kept for its `expire`, for the next wait for it, or the next start of the id",
    "dropped": "consumed: nobody will ever wait for it",
    "kept": "kept for its `expire`, for whoever waits for it first",
    "updated": "done, and answered after its commit",
    "updated later": "kept in the inbox, and done once a worker takes the workflow up",
    "cancelled": "`CancelledFailure` at the pending or next operation",
    "cancelled later": "kept in the inbox; `CancelledFailure` once a worker takes the workflow up",
    "cancelled at the start": "kept for 10 minutes; a start of the id within them begins cancelled",
    "terminated": "ended at once",
    "terminated later": "kept in the inbox, and ended once a worker takes the workflow up",
    "not found": "`WorkflowNotFoundError`, and nothing is stored",
    "already closed": "`WorkflowAlreadyClosedError`, and nothing is stored",
    "dead letter": "a dead letter with the reason; the workflow is untouched",
    "ignored": "consumed; the workflow is untouched",
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
        "note": "It names no workflow, and `client.signal` sends it; this is what a workflow has of it that waits for the id when it waits.",
        "body": "the data; empty for null",
        "handle": BY_ID,
        "raw": BY_ID,
    },
    "update": {
        "subject": "update.<name>",
        "body": "the argument, or the list of arguments; the header `Jetflow-Reply` says where to answer",
        "handle": UPDATE | {"unknown": "not found", "closed": "already closed", "expired": "not found"},
        "raw": UPDATE | {"unknown": "dead letter", "closed": "ignored", "expired": "dead letter"},
    },
    "cancel": {"subject": "cancel", "body": 'empty, a reason, or `{"reason": …}`', "handle": CANCEL, "raw": CANCEL},
    "terminate": {
        "subject": "terminate",
        "body": 'empty, a reason, or `{"reason": …, "code": 410, "descend": false, "expire": "1s"}`',
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


def render() -> str:
    """The page."""
    lines = [
        "# Commands",
        "",
        "What each command does to a workflow, depending on where the workflow stands. Every cell is a test.",
        "",
        "A command is a message to `<namespace>.<task_queue>.<workflow_id>.<command>`; the broker's ack means that it is stored.",
        "The handle sends the same messages, and asks first where an error can tell more. The engine's own replies (`timer`, `child`,",
        "`activity`, `routed`) are understood only where they answer an operation that is pending: a forged one changes nothing.",
        "",
        "| state | meaning |",
        "|---|---|",
        *(f"| {state} | {meaning} |" for state, meaning in STATES.items()),
        "",
    ]
    for command, entry in TABLE.items():
        lines += [f"## {command.capitalize()}", "", f"Subject: `{entry['subject']}`. Body: {entry['body']}.", ""]
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
    return "\n".join(lines)


if __name__ == "__main__":
    print(render(), end="")
