"""NVIDIA Triton with the Python backend, and a probe that asks the model, not the server."""

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog

from services.embedded.install import Installation
from services.embedded.part import Part
from services.embedded.ports import HOST
from stream.ranking import RankerUnavailable

if TYPE_CHECKING:
    from services.models.versions import Manifest

EXIT_TIMEOUT_S = 3
PROBE_TIMEOUT_S = 5.0  # a busy machine is slow, not ill
LOAD_TIMEOUT_S = 80.0
GIVE_UP_AFTER_S = 90.0  # longer than a load takes
LOAD_AGAIN_AFTER_S = 10.0  # where a load has not helped
LATE_ANSWERS = 3  # so many in a row count as a hung stub

log = structlog.get_logger()


def triton(
    installation: Installation,
    models: Path,
    *,
    port: int,
    http_port: int,
    metrics_port: int,
    model_name: str,
) -> Part:
    """
    The part; *models* is the model repository.

    The probe loads what lies in the repository after each start, and again when it fails.
    """
    stub = installation.stub
    # Names of shared memory are the machine's: two stacks must not meet, and what a killed
    # server left behind must be recognisable.
    region = f"headrace-{port}-"

    def prepare() -> None:
        models.mkdir(parents=True, exist_ok=True)
        for left in Path("/dev/shm").glob(f"{region}*"):  # noqa: S108
            left.unlink(missing_ok=True)

    return Part(
        name="triton",
        address=f"{HOST}:{port}",
        command=(
            str(installation.triton),
            f"--model-repository={models}",
            f"--backend-directory={stub.backends}",
            f"--backend-config=python,shm-region-prefix-name={region}",
            "--model-control-mode=explicit",
            "--exit-on-error=false",
            "--strict-readiness=false",
            f"--http-address={HOST}",
            f"--http-port={http_port}",
            f"--grpc-address={HOST}",
            f"--grpc-port={port}",
            f"--metrics-address={HOST}",
            f"--metrics-port={metrics_port}",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            "--allow-gpu-metrics=false",
        ),
        environment=_environment(installation),
        probe=_Probe(f"{HOST}:{port}", models, model_name),
        prepare=prepare,
        give_up_after_s=GIVE_UP_AFTER_S,
        stop_within_s=EXIT_TIMEOUT_S + 3.0,
    )


def _environment(installation: Installation) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ours.pop("VIRTUAL_ENV", None)
    stub = installation.stub
    return {
        **ours,
        # The stub takes the first python3 on the PATH and ignores PYTHONPATH.
        "PATH": f"{stub.python.parent}:{os.environ.get('PATH', os.defpath)}",
        # Our libpython first: the system's may be an older 3.11.
        "LD_LIBRARY_PATH": f"{stub.libraries}:{installation.triton_libraries}",
        "HF_HUB_OFFLINE": "1",
    }


class _Probe:
    """
    Ready is: the server answers and, where the repository has a model, so does every version.

    Triton goes on calling a model ready whose stub is dead or hung, while every call fails, until
    it is loaded again. So this asks for an inference, and loads the model again if that fails.
    """

    def __init__(self, address: str, models: Path, model_name: str) -> None:
        self._address = address
        self._configuration = models / model_name / "config.pbtxt"
        self._model = model_name
        self._late = 0
        self._loading: asyncio.Task[None] | None = None
        self._why = ""
        self._loaded_s = float("-inf")  # when it was last told to
        self._refused = False  # and Triton could not

    async def __call__(self) -> str | None:
        from services.models import control

        if not await control.is_alive(self._address):
            return "the server does not answer"
        # No answer while it loads: Triton itself may hang if the stub dies then, and only a
        # restart of the server helps, for which the supervisor's patience has to run out.
        if self._loading is not None and not self._loading.done():
            return f"loading the model again: {self._why}"
        if not self._configuration.exists():
            return None  # no model yet: slates come from the live sources
        try:
            problem = await self._ask()
        except RankerUnavailable as error:
            problem = str(error)
        if problem is None:
            self._late = 0
            self._loaded_s = float("-inf")  # it has helped
            return None
        return self._heal(problem)

    async def _ask(self) -> str | None:
        """One inference of every version. Raises `RankerUnavailable`."""
        from services.models import control
        from services.models.triton import DTYPES
        from services.models.versions import disagreement

        versions = await control.ready_versions(self._address, self._model)
        for version in versions:
            manifest = self._manifest(version)
            empty = {name: np.zeros((1, 1), kind) for name, (_, kind) in DTYPES.items()}
            inputs = manifest.golden_inputs if manifest else empty
            answer = await control.answers(
                self._address, self._model, version, inputs, timeout_s=PROBE_TIMEOUT_S
            )
            if manifest and (problem := disagreement(manifest, answer)):
                return f"version {version} answers wrongly: {problem}"
        return None if versions else "no version is loaded"

    def _manifest(self, version: str) -> "Manifest | None":
        """What *version* was released with; None where there is none that can be read."""
        from services.models.versions import BadVersion, read_manifest

        # Read each time: the number of a version that was refused is given to the next one.
        try:
            return read_manifest(self._configuration.parent / version)
        except BadVersion:
            return None

    def _heal(self, problem: str) -> str | None:
        self._late = self._late + 1 if problem.startswith("late") else 0
        if problem.startswith("down") or 0 < self._late < LATE_ANSWERS:
            return problem
        if time.monotonic() - self._loaded_s < LOAD_AGAIN_AFTER_S:
            # A model that Triton refuses is no fault of the server, and has been logged.
            return None if self._refused else problem
        self._late = 0
        self._loaded_s = time.monotonic()
        self._why = problem
        self._loading = asyncio.create_task(self._load())
        return f"loading the model again: {problem}"

    async def _load(self) -> None:
        from services.models import control

        self._refused = False
        try:
            await control.load(self._address, self._model, timeout_s=LOAD_TIMEOUT_S)
        except RankerUnavailable as error:
            self._refused = str(error).startswith("refused")
            log.error("model_not_loaded", model=self._model, reason=str(error))
