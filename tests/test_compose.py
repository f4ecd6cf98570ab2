"""The containers' files, as far as they can be checked without Docker: schema, secrets, pins, ports, commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
OURS = ("search", "worker", "dashboard")
SECRETS = ("MLC_POSTGRES_PASSWORD", "MLC_DASHBOARD_TOKEN")

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<rest>[^}]*))?\}")
_PARTS = {"postgres": 2, "python": 3}  # numbers in an exact version: 18.6, 3.13.14


def compose() -> dict[str, Any]:
    """The file as docker compose merges it, variables left as they are."""
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return document


def service_commands() -> dict[str, list[str]]:
    """Service -> argv of each service that runs mlc-search, with the defaults of its variables."""
    commands: dict[str, list[str]] = {}
    for name, service in compose()["services"].items():
        argv = shlex.split(_VARIABLE.sub(_default, service.get("command", "")))
        if argv[:1] == ["mlc-search"]:
            commands[name] = argv
    return commands


def _default(variable: re.Match[str]) -> str:
    assert variable["operator"] == ":-", f"{variable[0]} has no default"
    return variable["rest"]


def schema_check(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True)


def literal_secrets(document: object, key: str = "") -> list[str]:
    """Values that ought to be secret and are written out or have a default, and URLs with a password written out."""
    match document:
        case dict():
            return [found for inner, value in document.items() for found in literal_secrets(value, str(inner))]
        case list():
            # An item may be KEY=VALUE, the other spelling of an environment.
            return [found for item in document for found in literal_secrets(item, str(item).partition("=")[0])]
    bare = re.sub(r"\$\{\w+:\?[^}]*\}", "", str(document).removeprefix(f"{key}="))
    named = re.search(r"PASSWORD|TOKEN|SECRET", key) and bare
    return [f"{key}: {document}"] if named or re.search(r"://[^/@]*:[^/@]+@", bare) else []


def is_exact(image: str) -> bool:
    """Whether the tag names one release of one variant of an image whose version scheme we know."""
    name, _, tag = image.partition(":")
    version, _, variant = tag.partition("-")
    parts = version.split(".")
    return len(parts) == _PARTS.get(name) and all(part.isdecimal() for part in parts) and variant != ""


def dockerfile(instruction: str) -> list[str]:
    """What follows each such instruction, in order."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(f"{instruction} ") for line in lines if line.startswith(f"{instruction} ")]


def test_the_compose_file_follows_the_compose_specification() -> None:
    checked = schema_check(COMPOSE)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_compose_file_with_a_misspelt_key_is_refused(tmp_path: Path) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(text.replace("healthcheck:", "healthchek:"), encoding="utf-8")
    checked = schema_check(broken)
    assert checked.returncode == 1
    assert "healthchek" in checked.stdout


def test_no_password_or_token_is_written_in_the_compose_file() -> None:
    assert literal_secrets(compose()) == []


@pytest.mark.parametrize(
    "leak",
    [
        {"POSTGRES_PASSWORD": "mlc"},
        {"POSTGRES_PASSWORD": "${MLC_POSTGRES_PASSWORD:-mlc}"},
        {"POSTGRES_PASSWORD": "${MLC_POSTGRES_PASSWORD}"},
        {"environment": ["MLC_DASHBOARD_TOKEN=letmein"]},
        {"MLC_STORAGE": "postgresql://mlc:mlc@postgres/mlc"},
        {"MLC_STORAGE": "postgresql://mlc:${MLC_POSTGRES_PASSWORD:-mlc}@postgres/mlc"},
    ],
)
def test_a_password_or_token_that_is_written_out_or_has_a_default_is_found(leak: dict[str, object]) -> None:
    assert len(literal_secrets({"services": {"any": leak}})) == 1


def test_secrets_are_required_and_everything_else_has_a_default() -> None:
    operators = {
        (variable["name"], variable["operator"]) for variable in _VARIABLE.finditer(COMPOSE.read_text("utf-8"))
    }
    assert {name for name, operator in operators if operator == ":?"} == set(SECRETS)
    assert {name for name, operator in operators if operator == ":-"} == {"MLC_TRIALS", "MLC_TORCH"}
    assert len(operators) == 4


def test_the_example_names_each_variable_and_gives_no_secret_a_value() -> None:
    example = dict(re.findall(r"^#?(MLC_\w+)=(.*)$", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE))
    used = {variable["name"]: variable["rest"] for variable in _VARIABLE.finditer(COMPOSE.read_text("utf-8"))}
    defaults = {name: "" if name in SECRETS else default for name, default in used.items()}
    assert example == defaults


def test_images_are_pinned_to_an_exact_version() -> None:
    images = [service["image"] for service in compose()["services"].values() if "image" in service]
    bases = dockerfile("FROM")
    assert len(images) == len(bases) == 1
    assert [image for image in images + bases if not is_exact(image)] == []


@pytest.mark.parametrize(
    "image",
    [
        "postgres",
        "postgres:latest",
        "postgres:18",
        "postgres:18-trixie",
        "postgres:18.6",
        "postgres:${TAG}",
        "python:3.13-slim-trixie",
        "python:3.13.14",
        "unknown:1.2.3-slim",
    ],
)
def test_an_image_that_may_change_is_not_taken_as_exact(image: str) -> None:
    assert not is_exact(image)


def test_postgres_is_checked_for_health_and_keeps_its_data_in_a_named_volume() -> None:
    postgres = compose()["services"]["postgres"]
    assert postgres["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    major = int(postgres["image"].partition(":")[2].partition(".")[0])
    [(volume, target)] = [mount.split(":") for mount in postgres["volumes"]]
    assert volume in compose()["volumes"]
    assert target == ("/var/lib/postgresql" if major >= 18 else "/var/lib/postgresql/data")


def test_the_dashboard_alone_is_published_and_on_loopback_only() -> None:
    services = compose()["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "dashboard": ["127.0.0.1:8080:8080"]
    }
    assert not any("network_mode" in service for service in services.values())


@pytest.mark.parametrize("name", OURS)
def test_each_of_our_services_waits_for_the_database_and_shares_its_folders(name: str) -> None:
    service = compose()["services"][name]
    assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    mounts = dict(mount.split(":")[::-1] for mount in service["volumes"])
    assert mounts[service["environment"]["MLC_ARTIFACTS"]] == "artifacts"
    assert mounts[service["environment"]["MLC_CACHE"]] == "cache"
    assert set(mounts.values()) <= set(compose()["volumes"])
    assert service["environment"]["MLC_STORAGE"].endswith("@postgres/mlc")


def test_only_the_dashboard_is_given_the_token() -> None:
    services = compose()["services"]
    assert [name for name in services if "MLC_DASHBOARD_TOKEN" in services[name]["environment"]] == ["dashboard"]


def test_a_worker_has_minutes_to_stop_and_comes_back_unless_it_was_stopped() -> None:
    worker = compose()["services"]["worker"]
    assert (worker["stop_signal"], worker["restart"]) == ("SIGTERM", "unless-stopped")
    assert re.fullmatch(r"\d+m", worker["stop_grace_period"])
    assert "container_name" not in worker  # it would forbid --scale


def test_the_image_runs_as_a_user_who_owns_the_shared_folders() -> None:
    assert dockerfile("USER") == ["1000"]
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "useradd --create-home --uid 1000 mlc" in text
    assert "install --directory --owner=mlc --group=mlc /artifacts /cache" in text


def test_the_image_is_given_what_the_wheel_is_built_from_and_nothing_else() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, wheel = metadata["project"], metadata["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *wheel["packages"]}
    copied = {source.rstrip("/") for copy in dockerfile("COPY") for source in copy.split()[:-1]}
    assert copied == needed

    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")} == needed


def test_the_services_of_ours_all_run_a_command_of_ours() -> None:
    assert {name: argv[1] for name, argv in service_commands().items()} == {
        "search": "run",
        "worker": "worker",
        "dashboard": "dashboard",
    }
    assert service_commands()["search"][2:4] == ["--trials", "50"]


@pytest.mark.parametrize("name", OURS)
def test_each_option_of_a_service_is_known_to_its_subcommand(name: str) -> None:
    subcommand, *arguments = service_commands()[name][1:]
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "search.cli", subcommand, "--help"],
        capture_output=True,
        text=True,
        # Wide and plain, so that no option is cut or torn by colours.
        env=os.environ | {"COLUMNS": "200", "_TYPER_FORCE_DISABLE_TERMINAL": "1"},
    )
    assert asked.returncode == 0, asked.stderr
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    assert options
    assert [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", asked.stdout)] == []
