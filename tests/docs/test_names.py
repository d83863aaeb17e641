"""What the pages name is there: files, links, anchors, commands, options, constants, and tests."""

import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import jetflow
from jetflow.cli.main import build
from tests.conftest import ROOT

from .pages import anchors, name, pages, without_code_blocks

FOLDERS = ("jetflow", "tests", "bench", "examples", "docs", "deploy", ".ci")
SUFFIXES = r"(?:py|md|mjs|js|json|svg|png|css|html|conf|yaml|toml|txt|service|jsonl|env)"
WITHIN = ("", "jetflow", "jetflow/engine", "tests/simulation", "jetflow/web/static", "deploy", "docs", "examples")
"""Where a path without its folder may begin."""

NOT_THERE = {
    "shop.py": "the reader's own app",
    "before.json": "an output of the reader's own",
    "after.json": "an output of the reader's own",
    "order-456.json": "an output of the reader's own",
    "bench/results/": "made by a race",
}
"""Names of files that are not in the project, with the reason."""

HISTORICAL = "docs/decisions/"
"""Records of decisions are dated: they may name what was there at the time."""


def spans(page: Path) -> list[str]:
    """Code spans of a page."""
    return re.findall(r"`([^`\n]+)`", without_code_blocks(page.read_text()))


def blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks of a page in one of some languages."""
    return [body for language, body in re.findall(r"```(\w*)\n(.*?)```", page.read_text(), re.DOTALL) if language in languages]


CURRENT = [page for page in pages() if not name(page).startswith(HISTORICAL)]


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    missing = []
    for span in [*spans(page), *tree(page)]:
        for word in span.split():
            word = word.rstrip(".,:;")
            looks_like_a_file = re.fullmatch(rf"(?:\.\./)?[\w.@-]+(?:/[\w.@-]+)*\.{SUFFIXES}", word)
            looks_like_a_folder = re.fullmatch(rf"(?:{'|'.join(map(re.escape, FOLDERS))})(?:/[\w.@-]+)*/?", word) and "/" in word
            named = (looks_like_a_file or looks_like_a_folder) and word not in NOT_THERE
            if named and not any((root / word).exists() for root in [page.parent, *(ROOT / within for within in WITHIN)]):
                missing.append(word)
    assert missing == []


def tree(page: Path) -> Iterator[str]:
    """Paths in a drawn tree of the package: a block that begins with ``jetflow/``."""
    for body in blocks(page, "", "text"):
        if not body.startswith("jetflow/\n"):
            continue
        folder: list[str] = ["jetflow"]
        for line in body.splitlines()[1:]:
            found = re.match(r"^( +)([\w.]+/?(?: [\w]+\.py)*)(?=  |$)", line)
            if not found:
                continue
            depth = len(found[1]) // 2
            folder = folder[:depth]
            for word in found[2].split():
                yield "/".join([*folder, word.rstrip("/")]) + ("/" if word.endswith("/") else "")
            if found[2].endswith("/"):
                folder.append(found[2].rstrip("/"))


def command_lines(page: Path) -> list[list[str]]:
    """Each ``jetflow …`` line of a page's code and code spans, as words."""
    lines = [line for body in blocks(page, "sh") for line in body.splitlines()] + spans(page)
    found = []
    for line in lines:
        for part in re.split(r" \| | && |;", line):
            if re.match(r"\s*jetflow [a-z]", part):
                try:
                    found.append(shlex.split(part, comments=True)[1:])
                except ValueError:
                    found.append(part.split()[1:])
    return found


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_commands_and_options_of_the_command_line_are_there(page: Path) -> None:
    top: Any = typer.main.get_command(build())
    for words in command_lines(page):
        command, rest = top, list(words)
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            if rest[0] == "|" or not re.fullmatch(r"[a-z-]+", rest[0]):
                break
            assert rest[0] in command.commands, f"jetflow {' '.join(words)}"
            command, rest = command.commands[rest[0]], rest[1:]
        for word in rest:
            if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word):
                assert word.partition("=")[0] in _options(command), f"{word} of jetflow {' '.join(words)}"


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_constants_that_a_page_names_are_there(page: Path) -> None:
    known = {constant for module in _modules() for constant in vars(module) if constant.isupper()}
    environment = re.compile(r"(JETFLOW|KV|NATS|CHROMIUM|TMPDIR|NO|PATH|SIGTERM|JETSTREAM)(_|$)")
    for span in spans(page):
        for word in re.findall(r"^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$", span):
            assert environment.match(word) or word in known, word


def _modules() -> list[Any]:
    names = [info.name for info in pkgutil.walk_packages(jetflow.__path__, "jetflow.") if not info.name.endswith("__main__")]
    return [importlib.import_module(module) for module in names]


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_environment_variables_that_a_page_names_are_read(page: Path) -> None:
    sources = "\n".join(
        path.read_text(errors="ignore")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml", ".service", ".env", ".mjs", "") and "docs" not in path.parts[-3:]
    )
    streams = re.compile(r"JETFLOW_(TASKS|DEAD|BY_ID|EVENTS)$")
    for word in re.findall(r"\bJETFLOW_[A-Z_]+\b", page.read_text()):
        assert streams.match(word) or word in sources, word


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_modules_of_python_commands_are_there(page: Path) -> None:
    for module in re.findall(r"python -m ((?:bench|tests)[\w.]*)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    recipes = re.findall(r"^([a-z][\w-]*)[^\n]*:", (ROOT / "justfile").read_text(), re.MULTILINE)
    for recipe in re.findall(r"\bjust ([a-z][\w-]+)\b", " ".join(f"`{span}`" for span in spans(page)) + "".join(blocks(page, "sh"))):
        assert recipe in recipes, recipe


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_public_names_that_a_page_imports_are_there(page: Path) -> None:
    for body in blocks(page, "python"):
        for module, names in re.findall(r"^from (jetflow[\w.]*) import ([\w, ]+)$", body, re.MULTILINE):
            for one in names.split(","):
                assert hasattr(importlib.import_module(module), one.strip()), f"{module}.{one.strip()}"
    for dotted in spans(page):
        found = re.fullmatch(r"(jetflow(?:\.[a-z_]+)*)(?:\.([A-Za-z_]+))?(?:\(.*\))?", dotted)
        if found and "." in dotted and not dotted.startswith("jetflow.default") and not re.search(r"\.(py|md)$", dotted):
            _resolve(dotted.partition("(")[0])


def _resolve(dotted: str) -> None:
    parts = dotted.split(".")
    there: Any = importlib.import_module(parts[0])
    for place, part in enumerate(parts[1:], 1):
        if not hasattr(there, part):
            importlib.import_module(".".join(parts[: place + 1]))
        there = getattr(there, part)


STALE = {
    "a process pool": "there is none: plain functions run in threads",
    "a linter": "there is none for workflow code",
    "jetflow.export": "the types are in jetflow itself",
    "codec.py": "gone",
    "contrib/": "not there",
    "subject mapping": "namespaces are chosen in code",
    "5,000 keys": "a pass of the janitor is a batch",
}
"""What pages used to say, with what is so."""


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_nothing_stale_is_said(page: Path) -> None:
    text = page.read_text()
    assert [said for said in STALE if re.search(rf"(?<![\w.]){re.escape(said)}", text)] == []
