"""The Markdown pages of the project, and their prose without code."""

import re
import subprocess
from pathlib import Path

from tests.conftest import ROOT

SAMPLES = "docs/decisions/sample"
"""Pages that quote earlier text begin with this."""


def pages() -> list[Path]:
    """Every Markdown page, except those that quote earlier text."""
    try:
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True)
        names = listed.stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # an archive without git
        names = [
            str(path.relative_to(ROOT))
            for path in (*ROOT.glob("*.md"), *(p for d in ("docs", "deploy", "examples") for p in (ROOT / d).rglob("*.md")))
        ]
    mine = [name for name in sorted(names) if not name.startswith(SAMPLES) and "node_modules" not in name]
    return [ROOT / name for name in mine if (ROOT / name).exists()]


def name(page: Path) -> str:
    """A page's path in the project."""
    return str(page.relative_to(ROOT))


def without_code_blocks(text: str) -> str:
    """The same lines, those of code blocks empty."""
    fenced, lines = False, []
    for line in text.splitlines():
        fence = line.lstrip().startswith(("```", "~~~"))
        lines.append("" if fenced or fence else line)
        fenced ^= fence
    return "\n".join(lines)


def prose(text: str) -> str:
    """The same lines without code blocks, code spans and link targets."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)", lambda found: "\n" * found.group().count("\n"), without_code_blocks(text))


def anchors(text: str) -> list[str]:
    """A page's anchors: of its headings, as GitHub makes them, and those that it sets itself."""
    found = re.findall(r"^#+ +(.*)$", without_code_blocks(text), re.MULTILINE)
    made = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-") for heading in found]
    return [*made, *re.findall(r'<a id="([^"]+)">', text)]
