"""NVIDIA Triton with the Python backend, and a probe that asks its models, not the server."""

import os
from pathlib import Path

from services.embedded.install import Installation
from services.embedded.model_probe import (
    ModelProbe,
    ask_item_tower,
    ask_ranker,
    ask_text_encoder,
)
from services.embedded.part import Part
from services.embedded.ports import HOST

EXIT_TIMEOUT_S = 3
GIVE_UP_AFTER_S = 90.0  # longer than a load takes


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
    # The user's own come last: where there is a GPU, they may lead to its driver.
    theirs = os.environ.get("LD_LIBRARY_PATH", "")
    libraries = (str(stub.libraries), str(installation.triton_libraries), theirs)
    return {
        **ours,
        # The stub takes the first python3 on the PATH and ignores PYTHONPATH.
        "PATH": f"{stub.python.parent}:{os.environ.get('PATH', os.defpath)}",
        # Our libpython first: the system's may be an older 3.11.
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        "HF_HUB_OFFLINE": "1",
        # Keep what is freed: taken anew from the kernel page by page, the scores of 256 users cost
        # 9 ms of 72. But no more of it than a large batch needs. In bytes, as glibc reads them.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }


class _Probe:
    """Ready is: the server answers, and so does every version of every model in the repository."""

    def __init__(self, address: str, models: Path, model_name: str) -> None:
        self._address = address
        self._models = (
            ModelProbe(address, models / model_name, ask_ranker),
            ModelProbe(address, models / "item_tower", ask_item_tower),
            ModelProbe(address, models / "text_encoder", ask_text_encoder),
        )

    async def __call__(self) -> str | None:
        from services.models import control

        if not await control.is_alive(self._address):
            return "the server does not answer"
        problems = [await model.problem() for model in self._models]
        return next((problem for problem in problems if problem), None)
