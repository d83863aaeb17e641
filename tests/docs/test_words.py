"""The pages use the words of the glossary, and their lines wrap."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

from .pages import name, pages, prose, without_code_blocks

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
WIDTH = 100

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Words to avoid that a text may use, by path and word, with the reason."""


def avoided() -> list[str]:
    """The left column of the glossary's last table."""
    table = GLOSSARY.partition("## Words to avoid")[2]
    rows = re.findall(r"^\| (.*?) \| .* \|$", table, re.MULTILINE)[1:]
    return [word.strip() for row in rows for word in row.split(",")]


def test_the_glossary_lists_words_to_avoid() -> None:
    assert {"told", "lot", "glance", "stranger", "kept", "hasten", "take back", "untie", "beat"} <= set(avoided())


TEXTS = [
    path
    for path in [ROOT / "nats.conf", *sorted((ROOT / "deploy").rglob("*")), *sorted((ROOT / "examples").rglob("*"))]
    if path.is_file() and path.suffix in (".conf", ".py", ".mjs", ".yaml", ".service", ".env", "") and "node_modules" not in path.parts
]
"""Files that people read and copy, besides the pages."""


@pytest.mark.parametrize("page", [*pages(), *TEXTS], ids=name)
def test_no_text_uses_a_word_to_avoid(page: Path) -> None:
    text = prose(page.read_text()) if page.suffix == ".md" else page.read_text()
    if name(page) == "docs/glossary.md":
        text = text.partition("## Words to avoid")[0]
    found = []
    for word in avoided():
        if (name(page), word) in EXCEPTIONS:
            continue
        pattern = r"\b" + r"\s+".join(map(re.escape, word.split())) + r"\b"
        found += [f"line {text.count(chr(10), 0, hit.start()) + 1}: {word}" for hit in re.finditer(pattern, text, re.IGNORECASE)]
    assert found == []


def test_no_exception_is_left_over() -> None:
    for page, word in EXCEPTIONS:
        assert re.search(rf"\b{re.escape(word)}\b", prose((ROOT / page).read_text()), re.IGNORECASE), f"{page} does not use {word!r}"


def test_each_word_is_explained_once() -> None:
    rows = re.findall(r"^\| (.*?) \| .* \|$", GLOSSARY.partition("## Words to avoid")[0], re.MULTILINE)
    words = [word.strip() for row in rows for word in row.split(",") if word.strip() not in ("word", "---")]
    assert len(words) == len(set(words))
    assert not set(words) & set(avoided())


@pytest.mark.parametrize("page", pages(), ids=name)
def test_lines_of_prose_wrap(page: Path) -> None:
    """Except in tables, in headings, in the race that a program writes, and where a line is one long word (a link or a code span)."""
    text = re.sub(r"<!-- peers: begin -->.*?<!-- peers: end -->", lambda found: "\n" * found.group().count("\n"), page.read_text(), flags=re.DOTALL)
    long = []
    for number, line in enumerate(without_code_blocks(text).splitlines(), 1):
        word = re.sub(r"`[^`]+`|\]\([^)]*\)", "x", line)
        if len(line) > WIDTH and not line.lstrip().startswith(("|", "#", "![")) and " " in word.strip().lstrip("-* "):
            long.append(f"line {number}: {len(line)}")
    assert long == []
