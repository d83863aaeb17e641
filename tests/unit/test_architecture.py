"""The package's shape: who may import whom, and that importing does nothing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def _imports(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """Dotted names of all that a module imports, also inside functions."""
    tree = ast.parse(path.read_text(), str(path))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if not typing_too and isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _offences(
    package: str, *, forbidden: tuple[str, ...] = (), allowed: tuple[str, ...] | None = None, typing_too: bool = True
) -> dict[str, list[str]]:
    """Imports in the modules of a package that are forbidden, or jetflow's own that are not allowed; by module."""
    found: dict[str, list[str]] = {}
    for path in MODULES:
        if _under(_name(path), package):
            for name in _imports(path, typing_too=typing_too):
                own_and_not_allowed = allowed is not None and _under(name, "jetflow") and not _under(name, *allowed)
                if _under(name, *forbidden) or own_and_not_allowed:
                    found.setdefault(_name(path), []).append(name)
    return found


def _names(*prefixes: str) -> list[str]:
    return [_name(path) for path in MODULES if _under(_name(path), *prefixes)]


def test_the_packages_are_there() -> None:
    assert _names("jetflow.core")
    assert _names("jetflow.broker")
    assert _names("jetflow.engine")


def test_only_the_broker_knows_nats() -> None:
    assert {name: what for name, what in _offences("jetflow", forbidden=("nats", "nkeys")).items() if not _under(name, "jetflow.broker")} == {}


def test_the_core_knows_nothing_above_it() -> None:
    assert _offences("jetflow.core", allowed=("jetflow.core", "jetflow.errors")) == {}


def test_the_broker_knows_the_core_and_nothing_else() -> None:
    assert _offences("jetflow.broker", allowed=("jetflow.broker", "jetflow.protocol", "jetflow.core", "jetflow.errors")) == {}


def test_the_protocol_knows_no_client_library() -> None:
    assert _offences("jetflow.protocol", allowed=("jetflow.protocol", "jetflow.core", "jetflow.errors")) == {}


def test_the_engine_does_not_know_who_uses_it() -> None:
    above = ("jetflow.client", "jetflow.worker", "jetflow.handle", "jetflow.cli")
    assert _offences("jetflow.engine", forbidden=above, typing_too=False) == {}


def _graph() -> dict[str, set[str]]:
    """Which modules of the package each module imports, also inside functions and for types alone."""
    known = {_name(path) for path in MODULES}
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        found = (name if name in known else name.rpartition(".")[0] for name in _imports(path))
        graph[_name(path)] = {name for name in found if name in known} - {_name(path)}
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


def test_the_engine_has_no_import_circle() -> None:
    graph = _graph()
    assert [name for name in _names("jetflow.engine") if name in _reached(graph, name)] == []


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
    return {_name(path): ast.parse(path.read_text()) for path in MODULES if _under(_name(path), "jetflow.engine")}


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


def test_private_attributes_of_the_engine_are_used_by_their_owner_alone() -> None:
    """By methods of the class, on ``self`` or ``cls``: never on another object."""
    found = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in _engine_trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and ast.unparse(node.value) not in ("self", "cls")
    ]
    assert found == []


def test_the_engine_stays_small() -> None:
    """Modules of at most 300 lines, functions of at most 50."""
    trees = _engine_trees()
    long = [f"{name}.{one.name}" for name, tree in trees.items() for one in _functions(tree) if (one.end_lineno or 0) - one.lineno >= 50]
    large = [_name(path) for path in MODULES if _name(path) in trees and len(path.read_text().splitlines()) > 300]
    assert (long, large) == ([], [])


def test_nothing_but_the_command_line_needs_its_libraries() -> None:
    found = _offences("jetflow", forbidden=("typer", "click", "rich", "jetflow.cli"))
    assert {name: what for name, what in found.items() if not _under(name, "jetflow.cli", "jetflow.__main__")} == {}


def test_nothing_but_the_dashboard_needs_its_libraries() -> None:
    found = _offences("jetflow", forbidden=("starlette", "uvicorn", "jetflow.web"))
    assert {name: what for name, what in found.items() if not _under(name, "jetflow.web", "jetflow.cli.ui", "jetflow.cli.dev")} == {}


def test_the_core_does_no_io() -> None:
    assert _offences("jetflow.core", forbidden=tuple(IO)) == {}
    for path in MODULES:
        if _under(_name(path), "jetflow.core"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            of_os = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"}
            assert of_os <= OS_WITHOUT_IO, path
            calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
            assert not calls & {"open", "print", "input"}, path


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
