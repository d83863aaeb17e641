"""GitHub's side of ``webhooks.py``: signed deliveries with real payloads.

The payloads are those of the npm package ``@octokit/webhooks-examples``, fetched once with npm into ``.cache/webhooks-examples``.
Without npm, or with ``JETFLOW_EXAMPLES_OFFLINE=1``, they are the few in ``payloads/``.
"""

import hashlib
import hmac
import os
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

PACKAGE = "@octokit/webhooks-examples"
VERSION = "7.6.1"
INDEX = "package/api.github.com/index.json"
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "webhooks-examples"
SHIPPED = Path(__file__).resolve().parent / "payloads"
FETCH_TIMEOUT = 120
SECRET = os.environ.get("WEBHOOK_SECRET", "shared with GitHub").encode()


class Delivery(Struct):
    """A webhook request: what its headers say, and its body byte for byte as it was signed."""

    id: str
    event: str
    signature: str
    body: Raw


def sign(body: bytes) -> str:
    """As in the ``X-Hub-Signature-256`` header."""
    return "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()


def make_deliveries(count: int) -> tuple[list[Delivery], str]:
    """Return that many deliveries, the same in every run, one in fifty with a forged signature; and where the payloads come from."""
    payloads, source = load_payloads()
    deliveries = []
    for number in range(count):
        event, body = payloads[number % len(payloads)]
        delivery_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{event}/{number}"))
        signature = "sha256=forged" if number % 50 == 49 else sign(body)
        deliveries.append(Delivery(delivery_id, event, signature, Raw(body)))
    return deliveries, source


# ---- payloads


class EventExamples(Struct):
    """One entry of the package's index."""

    name: str
    examples: list[Raw]


class FetchError(Exception):
    """Raised when the package cannot be fetched; the message says why."""


def load_payloads() -> tuple[list[tuple[str, bytes]], str]:
    """Pairs of an event's name and a body, and where they come from in words."""
    if os.environ.get("JETFLOW_EXAMPLES_OFFLINE"):
        return _shipped(), "the few shipped with the examples (JETFLOW_EXAMPLES_OFFLINE is set)"
    index = CACHE / f"{VERSION}.json"
    try:
        if not index.exists():
            _fetch(index)
    except FetchError as error:
        return _shipped(), f"the few shipped with the examples ({error})"
    events = msgspec.json.decode(index.read_bytes(), type=list[EventExamples])
    return [(event.name, _compact(bytes(body))) for event in events for body in event.examples], f"{PACKAGE}@{VERSION}"


def _shipped() -> list[tuple[str, bytes]]:
    return [(path.name.split(".")[0], _compact(path.read_bytes())) for path in sorted(SHIPPED.glob("*.json"))]


def _compact(body: bytes) -> bytes:
    return msgspec.json.format(body, indent=-1)


def _fetch(index: Path) -> None:
    """Download the package and store its index. Two calls at once do no harm.

    Raises:
        FetchError: npm is missing, or did not get it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm is not installed")
    index.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=index.parent) as folder:
        command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_TIMEOUT)
            [archive] = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as package, package.extractfile(INDEX) as source:
                unpacked = Path(folder) / "index.json"
                unpacked.write_bytes(source.read())
        except (OSError, ValueError, KeyError, subprocess.SubprocessError, tarfile.TarError) as error:
            raise FetchError(f"npm could not fetch {PACKAGE}: {error}") from error
        os.replace(unpacked, index)
