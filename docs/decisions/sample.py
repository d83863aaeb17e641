"""Print pages and docstrings, chosen at random, as they stand at two revisions.

    python docs/decisions/sample.py BEFORE AFTER > sample.md

The seed and the earlier revision decide what is chosen, so the same call always chooses the same. The earlier revision gives the candidates: every
page of ``docs/`` and the README, and every docstring of ``jetflow/``. A docstring whose module has moved or whose function has been renamed is
found by its name, else by the code below it.
"""

from __future__ import annotations

import argparse
import ast
import io
import random
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALIKE = 0.5
"""The share of lines that two functions must have in common to be taken for the same one under another name."""


@dataclass(frozen=True)
class Docstring:
    """A docstring and the code that it belongs to. ``name`` is empty for a module's own."""

    path: str
    name: str
    text: str
    code: str

    @property
    def title(self) -> str:
        return f"{self.path}: {self.name or 'the module'}"

    @cached_property
    def lines(self) -> frozenset[str]:
        return frozenset(line.strip() for line in self.code.splitlines() if line.strip())

    def likeness(self, other: Docstring) -> float:
        """Return the share of lines that both have, from 0 to 1."""
        either = self.lines | other.lines
        return len(self.lines & other.lines) / len(either) if either else 0.0


def files(revision: str) -> dict[str, str]:
    """Return the pages and the package's modules at a revision, by path."""
    archive = subprocess.run(["git", "archive", revision, "README.md", "docs", "jetflow"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = [member for member in tar if member.isfile() and member.name.endswith((".md", ".py"))]
        return {member.name: tar.extractfile(member).read().decode() for member in members}  # type: ignore[union-attr]


def pages(of: dict[str, str]) -> list[str]:
    """Return the paths of the pages, sorted."""
    return sorted(path for path in of if path.endswith(".md") and not path.startswith("docs/decisions/"))


def docstrings(of: dict[str, str]) -> list[Docstring]:
    """Return every docstring of the package, by path and place."""
    return [found for path, text in sorted(of.items()) if path.startswith("jetflow/") for found in _in_module(path, text)]


def _in_module(path: str, text: str) -> Iterator[Docstring]:
    def look(node: ast.AST, name: str) -> Iterator[Docstring]:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            written = ast.get_docstring(node)
            if written:
                without = ast.unparse(ast.Module(body=node.body[1:], type_ignores=[]))
                yield Docstring(path, name, written, without)
        for child in ast.iter_child_nodes(node):
            inner = getattr(child, "name", None) if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) else None
            yield from look(child, f"{name}.{inner}".lstrip(".") if inner else name)

    return look(ast.parse(text, path), "")


def counterpart(of: Docstring, among: list[Docstring]) -> Docstring | None:
    """Return the docstring of the same code at the other revision, or None if that code is gone."""
    for same in among:
        if (same.path, same.name) == (of.path, of.name):
            return same
    named = [other for other in among if other.name == of.name and (of.name or Path(other.path).name == Path(of.path).name)]
    best = max(named or among, key=of.likeness)
    return best if of.likeness(best) >= ALIKE or (named and of.name.count(".")) else None


def fenced(text: str | None, language: str) -> str:
    """Return a block that shows a text as it is."""
    return "*Gone.*" if text is None else f"~~~~~{language}\n{text.rstrip()}\n~~~~~"


def sample(before: str, after: str, *, seed: int, number_of_pages: int, number_of_docstrings: int) -> str:
    """Return the sample as Markdown."""
    old, new = files(before), files(after)
    chance = random.Random(seed)
    chosen_pages = chance.sample(pages(old), number_of_pages)
    chosen = chance.sample(docstrings(old), number_of_docstrings)
    now = docstrings(new)
    parts = [
        "# Before and after: a sample",
        f"`python docs/decisions/sample.py {before} {after} --seed {seed}` printed this page.",
        "## Pages",
        *(f"- `{path}`" for path in chosen_pages),
    ]
    for path in chosen_pages:
        parts += [f"### {path}", "Before:", fenced(old[path], "markdown"), "After:", fenced(new.get(path), "markdown")]
    parts.append("## Docstrings")
    for one in chosen:
        other = counterpart(one, now)
        where = "" if other is None or other.title == one.title else f" (now `{other.title}`)"
        parts += [f"### `{one.title}`{where}", "Before:", fenced(one.text, "text"), "After:", fenced(other.text if other else None, "text")]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", help="the earlier git revision, which decides what is chosen")
    parser.add_argument("after", help="the later git revision")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--pages", type=int, default=6)
    parser.add_argument("--docstrings", type=int, default=30)
    given = parser.parse_args()
    print(sample(given.before, given.after, seed=given.seed, number_of_pages=given.pages, number_of_docstrings=given.docstrings), end="")


if __name__ == "__main__":
    main()
