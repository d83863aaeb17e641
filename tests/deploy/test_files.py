"""The files of deploy/: as far as they can be checked without an engine to run them."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
UNITS = ("jetflow-nats.service", "jetflow-worker@.service")
SECRETS = {"JETFLOW_WORKER_PASSWORD", "JETFLOW_CLIENT_PASSWORD", "JETFLOW_OPERATOR_PASSWORD", "JETFLOW_SYSTEM_PASSWORD"}


# ---- compose.yaml

SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "read_only", "restart", "security_opt",
    "stop_grace_period", "volumes",
}  # fmt: skip
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())  # type: ignore[no-any-return]


def test_compose_has_only_known_keys(compose: dict[str, Any]) -> None:
    assert set(compose) == {"name", "services", "volumes"}
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name


def test_compose_has_a_server_and_two_workers_alike(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"nats", "worker-1", "worker-2"}
    assert services["worker-1"] == services["worker-2"]


def test_every_service_is_pinned_healthy_and_stops_in_peace(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":\d+\.\d+\.\d+(-\w+)?$", service["image"]), name
        check = service["healthcheck"]
        assert check["test"][0] == "CMD"
        for field in ("interval", "timeout", "start_period"):
            assert DURATION.fullmatch(check[field]), name
        assert isinstance(check["retries"], int)
        assert DURATION.fullmatch(service["stop_grace_period"])
        assert int(service["stop_grace_period"].removesuffix("s")) > 10, "longer than a worker's graceful timeout"
        assert service["restart"] == "unless-stopped"


def test_what_compose_mentions_exists(compose: dict[str, Any]) -> None:
    named = set(compose["volumes"])
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in named or (DEPLOY / source).exists(), volume
        build = service.get("build")
        if build:
            assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
        for needed, how in service.get("depends_on", {}).items():
            assert needed in compose["services"]
            assert how == {"condition": "service_healthy"}


def test_the_server_gets_its_configuration_store_and_secrets(compose: dict[str, Any]) -> None:
    nats = compose["services"]["nats"]
    mounts = dict(volume.split(":")[:2] for volume in nats["volumes"])
    config = nats["command"][nats["command"].index("--config") + 1]
    assert mounts["../nats.conf"] == config
    store = re.search(r'store_dir: "([^"]+)"', (ROOT / "nats.conf").read_text())
    assert store
    assert mounts["nats-data"] == store[1]
    assert set(nats["environment"]) == SECRETS
    assert "8222" in nats["healthcheck"]["test"][-1]


def test_compose_has_no_secret_of_its_own(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    given = {line.split("=")[0] for line in (DEPLOY / "example.env").read_text().splitlines() if line and not line.startswith("#")}
    assert given == SECRETS
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == SECRETS
    optional = set(re.findall(r"\$\{(\w+)", text)) - asked
    assert optional == {"JETFLOW_MODULE", "JETFLOW_TASK_QUEUE"}
    assert all(f"${{{name}:-" in text for name in optional)


def test_a_compose_client_takes_it_too() -> None:
    """Where docker has the compose plugin; without it the tests above are the check."""
    docker = shutil.which("docker")
    plugin = docker and subprocess.run([docker, "compose", "version"], capture_output=True, timeout=60).returncode == 0
    if docker and plugin:
        environment = {**os.environ, **dict.fromkeys(SECRETS, "secret")}
        command = [docker, "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
        subprocess.run(command, check=True, env=environment, timeout=60)
    else:
        assert yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


# ---- Containerfile

INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Instructions and their arguments, with continued lines joined and comments left out."""
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def _last(instructions: list[tuple[str, str]], name: str) -> str:
    return [arguments for instruction, arguments in instructions if instruction == name][-1]


def test_containerfile_has_known_instructions_and_begins_with_from(instructions: list[tuple[str, str]]) -> None:
    assert {name for name, _ in instructions} <= INSTRUCTIONS
    assert instructions[0][0] == "FROM"


def test_base_images_are_pinned_and_slim(instructions: list[tuple[str, str]]) -> None:
    for name, arguments in instructions:
        if name == "FROM":
            image = arguments.split()[0]
            assert re.search(r":\d+\.\d+-slim-\w+$", image), image


def test_every_copied_file_exists(instructions: list[tuple[str, str]]) -> None:
    copied = [arguments for name, arguments in instructions if name == "COPY"]
    assert copied
    for arguments in copied:
        *sources, _ = [part for part in arguments.split() if not part.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source


def test_stages_are_defined_before_they_are_used(instructions: list[tuple[str, str]]) -> None:
    known: set[str] = set()
    for name, arguments in instructions:
        for used in re.findall(r"from=(\w+)", arguments):
            assert used in known
        if name == "FROM" and " AS " in arguments:
            known.add(arguments.split(" AS ")[1])


def test_the_image_runs_as_nobody_special(instructions: list[tuple[str, str]]) -> None:
    user = _last(instructions, "USER")
    assert user.isdigit()
    assert int(user) > 999
    created = next(arguments for name, arguments in instructions if name == "RUN" and "useradd" in arguments)
    assert f"--uid {user}" in created
    after = instructions[[name for name, _ in instructions].index("USER") :]
    assert not {name for name, _ in after} & {"RUN", "COPY"}, "nothing is built as that user"


def test_the_image_runs_the_worker_and_its_check(instructions: list[tuple[str, str]]) -> None:
    assert _last(instructions, "ENTRYPOINT") == '["jetflow", "worker"]'
    module, option, queue = yaml.safe_load(_last(instructions, "CMD"))
    assert (DEPLOY / "app" / f"{module}.py").is_file()
    assert (option, queue) == ("--task-queue", "hello")
    assert _last(instructions, "STOPSIGNAL") == "SIGTERM"
    copied = {arguments.split()[-1] for name, arguments in instructions if name == "COPY"}
    assert yaml.safe_load(_last(instructions, "HEALTHCHECK").partition("CMD ")[2])[1] in copied


def test_no_cache_of_pip_stays_in_the_image(instructions: list[tuple[str, str]]) -> None:
    for name, arguments in instructions:
        if name == "RUN" and "pip " in arguments:
            assert "--no-cache-dir" in arguments


# ---- systemd units

KNOWN = {
    "Unit": {"Description", "Documentation", "After", "Wants", "StartLimitIntervalSec"},
    "Service": {
        "AmbientCapabilities", "CapabilityBoundingSet", "Environment", "EnvironmentFile", "ExecReload", "ExecStart", "ExecStartPre", "Group",
        "KillMode", "KillSignal", "LimitNOFILE", "LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateDevices", "PrivateTmp",
        "ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules",
        "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "RemoveIPC", "Restart", "RestartSec", "RestrictAddressFamilies",
        "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "StateDirectory", "StateDirectoryMode", "SystemCallArchitectures",
        "SystemCallErrorNumber", "SystemCallFilter", "TimeoutStopSec", "Type", "UMask", "User", "WorkingDirectory",
    },
    "Install": {"WantedBy"},
}  # fmt: skip


class _Repeated(dict[str, Any]):
    """Keeps every value of a directive that may be given several times."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self and isinstance(value, list):
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


def _unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, dict_type=_Repeated, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / name).read_text())
    return parser


@pytest.mark.parametrize("name", UNITS)
def test_units_have_only_known_directives(name: str) -> None:
    unit = _unit(name)
    assert unit.sections() == list(KNOWN)
    for section, directives in KNOWN.items():
        assert set(unit[section]) <= directives


@pytest.mark.parametrize("name", UNITS)
def test_services_come_back_stop_in_peace_and_are_not_root(name: str) -> None:
    service = _unit(name)["Service"]
    assert service["Restart"] == "always"
    assert _unit(name)["Unit"]["StartLimitIntervalSec"] == "0", "systemd never gives up"
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["TimeoutStopSec"]) > 10, "longer than a worker's graceful timeout"
    assert service["User"].startswith("jetflow")
    assert service["NoNewPrivileges"] == "true"
    assert service["ProtectSystem"] == "strict"


def test_the_server_may_write_where_its_configuration_says() -> None:
    assert f'store_dir: "/var/lib/{_unit(UNITS[0])["Service"]["StateDirectory"]}"' in (ROOT / "nats.conf").read_text()


def test_the_readme_makes_what_the_units_need() -> None:
    steps = (DEPLOY / "README.md").read_text()
    for name in UNITS:
        service = _unit(name)["Service"]
        assert name in steps
        assert re.search(rf"useradd .* {service['User']}\n", steps)
        folder = str(Path(service["EnvironmentFile"].replace("%i", "hello-1")))
        assert folder in steps
        binary = shlex.split(service["ExecStart"])[0]
        assert binary.removesuffix("/jetflow").removesuffix("/nats-server").removesuffix("/bin") in steps
    for file in re.findall(r"`(\.\./nats\.conf|[\w.@-]+\.(?:service|yaml|env|py)|app/\w+\.py)`", steps):
        assert (DEPLOY / file).exists(), file


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    """By systemd's own check where it is installed, with stand-ins for programs that are not; else the tests above are the check."""
    unit = tmp_path / name
    unit.write_text(re.sub(r"^(ExecStart|ExecStartPre)=\S+", r"\1=/bin/true", (DEPLOY / name).read_text(), flags=re.MULTILINE))
    analyze = shutil.which("systemd-analyze")
    if analyze:
        checked = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
        assert (checked.returncode, checked.stderr) == (0, "")
    else:
        assert _unit(name).sections() == list(KNOWN)
