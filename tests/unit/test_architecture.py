"""The package's shape: who may import whom, and that importing does nothing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetflow.protocol.subjects import Names

PACKAGE = Path(__file__).resolve().parents[2] / "jetflow"
MODULES = sorted(PACKAGE.rglob("*.py"))

IO = {
    "concurrent", "fcntl", "http", "io", "multiprocessing", "pathlib", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "tempfile", "urllib",
}  # fmt: skip
"""What does input and output, or starts something that does: none of it has a place in ``core``."""

OS_WITHOUT_IO = {"path", "sep", "fspath", "PathLike"}


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


TREES = {_name(path): _tree(path) for path in MODULES}


def _imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that a module imports, also inside functions and for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _knowing(*libraries: str) -> list[str]:
    """Modules that import one of some libraries."""
    return [name for name, tree in TREES.items() if any(_under(imported, *libraries) for imported in _imports(tree))]


def _names(*prefixes: str) -> list[str]:
    return [name for name in TREES if _under(name, *prefixes)]


def _graph(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Which modules of the package each module imports."""
    graph: dict[str, set[str]] = {}
    for module, tree in trees.items():
        found = (name if name in trees else name.rpartition(".")[0] for name in _imports(tree))
        graph[module] = {name for name in found if name in trees} - {module}
    return graph


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Every module that one imports, itself or by others."""
    reached: set[str] = set()
    left = list(graph[start])
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += graph[name]
    return reached


def _made_up(**sources: str) -> dict[str, ast.Module]:
    """Modules of a package that exists in a test alone; ``__`` in a name stands for a dot."""
    return {f"jetflow.{name.replace('__', '.')}": ast.parse(source) for name, source in sources.items()}


# ---- who imports whom


def _in_circles(trees: dict[str, ast.Module]) -> list[str]:
    graph = _graph(trees)
    return [name for name in trees if name in _reached(graph, name)]


def test_no_module_imports_itself_by_others() -> None:
    assert _in_circles(TREES) == []


def test_a_circle_is_found() -> None:
    trees = _made_up(
        a="if TYPE_CHECKING:\n    from jetflow.b import thing",
        b="def f():\n    import jetflow.c",
        c="from jetflow import a",
        d="from jetflow.a import thing",
    )
    assert _in_circles(trees) == ["jetflow.a", "jetflow.b", "jetflow.c"]


LAYERS = (
    ("errors",),
    ("core",),
    ("workflow", "activity"),
    ("protocol",),
    ("history",),
    ("broker",),
    ("reading", "sending"),
    ("engine",),
    ("handle",),
    ("client",),
    ("worker",),
    ("testing", "web"),
    ("cli",),
)
"""Rooms from the lowest up. A module imports from its own room and from lower layers, never from its neighbours in its own layer."""

HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}
TOP = ("jetflow", "jetflow.__main__")
"""What stands above all rooms: the facade and ``python -m jetflow``."""


def _room(module: str) -> str:
    return module.split(".")[1]


def _upward(trees: dict[str, ast.Module]) -> list[str]:
    """Imports that do not lead to a lower layer."""
    return [
        f"{name} imports {imported}"
        for name, found in _graph(trees).items()
        if name not in TOP
        for imported in sorted(found)
        if imported not in TOP and _room(imported) != _room(name) and HEIGHT[_room(imported)] >= HEIGHT[_room(name)]
    ]


def test_every_room_has_its_place() -> None:
    assert {_room(name) for name in TREES if name not in TOP} == set(HEIGHT)


def test_rooms_know_lower_ones_alone() -> None:
    assert _upward(TREES) == []


def test_the_facade_is_known_to_those_alone_who_say_its_version() -> None:
    knowing = [name for name, found in _graph(TREES).items() if "jetflow" in found]
    assert knowing == ["jetflow.cli.main", "jetflow.web.app"]


def test_an_import_upwards_or_sideways_is_found() -> None:
    trees = _made_up(
        core__machine="",
        engine__turn="from jetflow.core.machine import Machine",
        reading__list="def f():\n    from jetflow.client import Client",
        sending__start="from jetflow.reading import list",
        client="import jetflow.engine.turn, jetflow.reading.list",
        workflow="from jetflow.core import machine",
        activity="from jetflow.workflow import sleep",
    )
    assert _upward(trees) == [
        "jetflow.reading.list imports jetflow.client",
        "jetflow.sending.start imports jetflow.reading.list",
        "jetflow.activity imports jetflow.workflow",
    ]


def test_a_client_does_without_the_engine() -> None:
    """Neither it nor anything that it imports knows the engine."""
    assert [name for name in _reached(_graph(TREES), "jetflow.client") if _under(name, "jetflow.engine", "jetflow.worker")] == []


def test_only_the_broker_knows_nats() -> None:
    assert [name for name in _knowing("nats", "nkeys") if not _under(name, "jetflow.broker")] == []


def test_nothing_but_the_command_line_needs_its_libraries() -> None:
    assert [name for name in _knowing("typer", "click", "rich", "jetflow.cli") if not _under(name, "jetflow.cli", "jetflow.__main__")] == []


def test_nothing_but_the_dashboard_needs_its_libraries() -> None:
    users = ("jetflow.web", "jetflow.cli.ui", "jetflow.cli.dev")
    assert [name for name in _knowing("starlette", "uvicorn", "jetflow.web") if not _under(name, *users)] == []


# ---- what goes over the wire

WIRE_ROOMS = ("jetflow.protocol", "jetflow.broker", "jetflow.testing")
"""Rooms that may spell subjects, headers and the names of the server's API: ``testing`` is a server."""

_RAW = re.compile(r"Nats[-_]|Jetflow[-_]|\$JS|\$KV|\bKV_|NATS/1|_INBOX|\b(STREAM|CONSUMER)\.[A-Z]|\.\*|\.>|\*\.")
_PREFIXES = {name for name in vars(Names()) if name.endswith("_prefix")}


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text in a module but its documentation, and the names of keywords, with the line of each."""
    documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in documentation and isinstance(node.value, (str, bytes)):
            yield node.lineno, node.value if isinstance(node.value, str) else node.value.decode("latin1")
        elif isinstance(node, ast.keyword) and node.arg is not None:
            yield node.value.lineno, node.arg


def _spelled(tree: ast.AST) -> list[str]:
    """Subjects, headers and API names that a module spells, and subjects that it puts together."""
    found = [f"{line}: {text}" for line, text in _texts(tree) if _RAW.search(text)]
    for node in ast.walk(tree):
        is_prefix = isinstance(node, ast.Attribute) and node.attr in _PREFIXES
        if is_prefix or (isinstance(node, ast.JoinedStr) and "namespace}." in ast.unparse(node)):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_only_protocol_and_broker_spell_what_goes_over_the_wire() -> None:
    found = {name: _spelled(tree) for name, tree in TREES.items() if not _under(name, *WIRE_ROOMS)}
    assert {name: what for name, what in found.items() if what} == {}


SPELLED = (
    'subject = f"{names.namespace}.{queue}.x.cancel"',
    'subject = f"{names.state_prefix}{queue}"',
    'subjects = queue + ".*"',
    'headers = {"Nats-TTL": "1s"}',
    "block = header_block(Jetflow_Reason=text)",
    'line = b"Nats-Msg-Size: 0"',
    'await lane.api(f"STREAM.INFO.{stream}")',
    'await lane.request("$JS.API.INFO")',
    'inbox = f"_INBOX.{token}"',
)


@pytest.mark.parametrize("line", SPELLED)
def test_a_subject_or_a_header_is_found(line: str) -> None:
    assert _spelled(ast.parse(line))


def test_documentation_may_spell_them() -> None:
    assert not _spelled(ast.parse('"""Listens on jetflow_changed.> and reads Nats-TTL."""'))


# ---- what belongs to whom

PUBLIC = {"os._exit", "sys._current_frames", "sys._getframe"}
"""Documented functions whose names begin with an underscore."""
PUBLIC_NAMES = {"_replace", "_value_"}
"""The same of named tuples and enums."""
INTERNALS = {
    "jetflow.core.guard": {"_start_new_thread"},  # of threading, which the guard replaces
    "jetflow.core": {  # an event loop of asyncio's, on which anyio runs
        "_AsCompletedIterator", "_deliver_cancellation", "_enter_task", "_get_running_loop", "_host_task",
        "_leave_task", "_log_destroy_pending", "_set_running_loop", "_task_states", "_timer_handle_cancelled",
    },
    "jetflow.testing": {"_get_running_loop", "_set_running_loop"},  # another one
    "jetflow.broker.transport": {  # nats-py's client, and asyncio's reader below it
        "_buffer", "_process_err", "_process_info", "_process_msg", "_process_ping", "_process_pong",
    },
}  # fmt: skip
"""Private names of other libraries that a part of the package rests on."""


def _private(module: str, tree: ast.AST) -> list[str]:
    """Private attributes of other objects than ``self`` and ``cls``."""
    allowed = PUBLIC_NAMES.union(*(names for place, names in INTERNALS.items() if _under(module, place)))
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr)
        if ast.unparse(node.value) not in ("self", "cls", "super()") and node.attr not in allowed and ast.unparse(node) not in PUBLIC
    ]


def test_private_attributes_are_used_by_their_owner_alone() -> None:
    found = {name: _private(name, tree) for name, tree in TREES.items()}
    assert {name: what for name, what in found.items() if what} == {}


def test_what_is_private_in_other_libraries_is_named_while_it_is_used() -> None:
    for place, names in INTERNALS.items():
        used = {node.attr for module in _names(place) for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
        assert names <= used, place


PRIVATE = ("client._starts.publish()", "machine.loop._ready", "actor._run = None", "del self._wire._handlers[1]", "type(self)._made")


@pytest.mark.parametrize("line", PRIVATE)
def test_a_private_attribute_is_found(line: str) -> None:
    assert _private("jetflow.client", ast.parse(line))


def test_what_is_private_of_oneself_or_public_is_not() -> None:
    source = "class A:\n    def f(self):\n        self._x = super()._x\n        os._exit(1)\n        return row._replace(a=self.__dict__)"
    assert not _private("jetflow.client", ast.parse(source))


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.AST) -> list[_Function]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _root(node: ast.expr) -> str | None:
    """The name that a chain of attributes begins with: ``actor`` of ``actor.run.seq``."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _pairs(function: _Function) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """Every target of an assignment in a function, with what it gets."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    yield from zip(target.elts, node.value.elts, strict=True)
                else:
                    yield from ((each, node.value) for each in (target.elts if isinstance(target, ast.Tuple) else [target]))
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
            yield node.target, node.value
        elif isinstance(node, ast.Delete):
            yield from ((target, None) for target in node.targets)


def _changes_from_outside(function: _Function, classes: set[str]) -> list[str]:
    """Attributes, at any depth, of parameters of some classes that a function assigns to, also by another name for a part of one."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    known = {one.arg for one in arguments if one.annotation is not None and classes & set(re.findall(r"\w+", ast.unparse(one.annotation)))}
    pairs = list(_pairs(function))
    for _ in pairs:  # until no further name is found
        known |= {target.id for target, value in pairs if isinstance(target, ast.Name) and value is not None and _root(value) in known}
    return [ast.unparse(target) for target, _ in pairs if isinstance(target, ast.Attribute) and _root(target) in known]


def _engine_trees() -> dict[str, ast.Module]:
    return {name: TREES[name] for name in _names("jetflow.engine")}


def test_nobody_changes_an_actor_or_its_parts_but_they_themselves() -> None:
    """No function assigns to attributes of what it is given, where that is an object of the engine."""
    trees = _engine_trees()
    classes = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert {"Actor", "Run", "Mailbox", "Tenure", "Engine"} <= classes
    found = {f"{name}.{function.name}": _changes_from_outside(function, classes) for name, tree in trees.items() for function in _functions(tree)}
    assert {name: what for name, what in found.items() if what} == {}


CHANGES = (
    "actor.parked = True",
    "actor.run.seq += 1",
    "run = actor.run; run.seq = 1",
    "a, run = 1, actor.run; run.info = None",
    "a, actor.run.info = 1, None",
    "del actor.run.info",
)


@pytest.mark.parametrize("body", CHANGES)
def test_a_change_of_an_actor_from_outside_is_found(body: str) -> None:
    (function,) = _functions(ast.parse(f"async def step(one: int, actor: Actor | None) -> None: {body}"))
    assert _changes_from_outside(function, {"Actor"})


def test_the_engine_stays_small() -> None:
    """Modules of at most 300 lines, functions of at most 50."""
    trees = _engine_trees()
    long = [f"{name}.{one.name}" for name, tree in trees.items() for one in _functions(tree) if (one.end_lineno or 0) - one.lineno >= 50]
    large = [_name(path) for path in MODULES if _name(path) in trees and len(path.read_text().splitlines()) > 300]
    assert (long, large) == ([], [])


def test_the_core_does_no_io() -> None:
    assert [name for name in _knowing(*IO) if _under(name, "jetflow.core")] == []
    for name in _names("jetflow.core"):
        nodes = list(ast.walk(TREES[name]))
        of_os = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"}
        assert of_os <= OS_WITHOUT_IO, name
        calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not calls & {"open", "print", "input"}, name


_IMPORT = """
import logging, os, signal, sys, threading

began, hooks = [], []
sys.addaudithook(lambda event, args: began.append(event) if event in WATCHED else None)
WATCHED = {
    "socket.__new__", "socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn", "_thread.start_new_thread",
    "_thread.start_joinable_thread", "sys.addaudithook", "signal.signal",
}
handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
environment, logging_before, paths = dict(os.environ), (logging.root.level, list(logging.root.handlers)), list(sys.path)

import jetflow, jetflow.broker.transport.server, jetflow.broker.transport.connection, jetflow.engine.engine, jetflow.core.guard

assert began == [], began
assert threading.active_count() == 1, threading.enumerate()
assert handlers == {number: signal.getsignal(number) for number in handlers}
assert environment == dict(os.environ)
assert logging_before == (logging.root.level, logging.root.handlers)
assert paths == sys.path
assert not jetflow.core.guard._installed
import asyncio
assert asyncio.events._get_running_loop() is None
"""


def test_importing_does_nothing() -> None:
    """No thread, process, audit hook, signal handler or logging is set up by it."""
    subprocess.run([sys.executable, "-W", "error", "-c", _IMPORT], check=True, timeout=60)


def test_every_module_can_be_imported() -> None:
    names = [_name(path) for path in MODULES if path.name != "__main__.py"]
    script = "import sys\nfor name in sys.argv[1:]:\n    __import__(name)\n"
    subprocess.run([sys.executable, "-W", "error", "-c", script, *names], check=True, timeout=60)
