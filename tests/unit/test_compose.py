"""compose.yaml and the Dockerfile, as far as they can be checked without a Docker engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from services.cli import main
from services.docs.settings_page import kinds

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose.yaml"
ONE_SHOT = {"setup", "headrace"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return parsed


def known_variables() -> set[str]:
    return {f"HEADRACE_{field.upper()}" for kind in kinds() for field in kind.model_fields}


def test_compose_follows_the_compose_schema() -> None:
    """A key in the wrong place is ignored by some versions of Compose and refused by others."""
    command = [Path(sys.executable).with_name("check-jsonschema")]
    finished = subprocess.run(
        [*command, "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize("file", ["compose.yaml", "Dockerfile"])
def test_every_variable_is_a_setting(file: str) -> None:
    """pydantic ignores a variable that it does not know: a typing mistake would be silent."""
    used = set(re.findall(r"\bHEADRACE_[A-Z_]+", (ROOT / file).read_text()))

    assert used
    assert used - known_variables() == set()


def test_every_command_of_ours_exists(compose: dict[str, Any]) -> None:
    """The container would end at once, at night, after a rename."""
    ours = [
        service["command"]
        for service in compose["services"].values()
        if service["image"].startswith("headrace:")
    ]

    assert len(ours) == 5
    for command in ours:
        shown = CliRunner().invoke(main, [*command, "--help"])
        assert shown.exit_code == 0, shown.output


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    """`latest` is another program tomorrow."""
    images = {service["image"] for service in compose["services"].values()}
    bases = set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))

    for image in images | bases:
        assert re.search(r":v?\d+\.\d+", image), image


def test_nothing_runs_as_root_and_everything_is_watched(compose: dict[str, Any]) -> None:
    """What has no health check is never restarted when it hangs."""
    for name, service in compose["services"].items():
        assert service["user"] not in ("root", "0"), name
        assert name in ONE_SHOT or "healthcheck" in service, name


def test_ports_are_bound_to_this_host(compose: dict[str, Any]) -> None:
    """Kafka has no password here."""
    published = [p for service in compose["services"].values() for p in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_state_lies_in_named_volumes(compose: dict[str, Any]) -> None:
    """`docker compose down` must not take a shop's memory with it."""
    used = {
        volume.partition(":")[0]: volume
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
    }
    from_here = {name for name in used if name.startswith("./")}

    assert used.keys() - from_here == set(compose["volumes"])
    for name in from_here:  # configuration, which no container changes
        assert (ROOT / name).exists(), name
        assert used[name].endswith(":ro"), name


@pytest.mark.parametrize("server", ["redis", "triton-gpu", "triton-cpu", "worker"])
def test_what_asks_for_no_password_has_no_port_outside(
    compose: dict[str, Any], server: str
) -> None:
    """Whoever reaches Triton may load a model of their own into it."""
    assert "ports" not in compose["services"][server]


def test_triton_imports_the_versions_that_we_train_with() -> None:
    """Weights written by one version of torch and safetensors are read by the same one."""
    dockerfile, lock = (ROOT / "Dockerfile").read_text(), (ROOT / "uv.lock").read_text()
    for package in ("torch", "safetensors", "tokenizers", "uv"):
        (pinned,) = re.findall(rf"\b{package}==([\d.]+\d)", dockerfile)
        assert f'name = "{package}"\nversion = "{pinned}"' in lock, package
