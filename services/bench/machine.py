"""What the figures were measured on."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.errors import CommandFailed

FLAGS = ("avx512_bf16", "amx_bf16", "avx512f", "avx2")  # that decide how fast the ranker is


@dataclass(frozen=True)
class Machine:
    """
    A machine as its users see it.

    Attributes:
        cores: That this process may use.
        flags: Those of `FLAGS` that the processor has.
        python: Its version and its compiler's. They do not say whether it was built with
            --enable-optimizations, which takes a tenth from a worker's CPU time.
        load: Processes that wanted a core in the minute before: above 0, others took part.
        gpu: That the model runs on, or None.
    """

    processor: str
    cores: int
    flags: tuple[str, ...]
    python: str
    load: float
    gpu: str | None = None

    @classmethod
    def this(cls, device: str) -> Self:
        """The one that this runs on; the model's *device* is ``cpu`` or ``gpu``."""
        about = Path("/proc/cpuinfo").read_text()
        name = re.search(r"^model name\s*:\s*(.*)$", about, re.MULTILINE)
        found = set(about.split())
        return cls(
            processor=name[1] if name else "unknown",
            cores=len(os.sched_getaffinity(0)),
            flags=tuple(flag for flag in FLAGS if flag in found),
            python=f"{platform.python_version()} ({platform.python_compiler()})",
            load=os.getloadavg()[0],
            gpu=_gpu() if device == "gpu" else None,
        )

    def __str__(self) -> str:
        flags = ", ".join(self.flags)
        bf16 = "" if "avx512_bf16" in self.flags else " (no avx512_bf16: the goals assume it)"
        gpu = f", model on {self.gpu}" if self.gpu else ""
        return (
            f"{self.processor}, {self.cores} cores, {flags}{bf16}{gpu}, Python {self.python}, "
            f"load {self.load:.1f} before"
        )


def require_gpu() -> None:
    """Raises `CommandFailed` if there is none."""
    import torch

    if not torch.cuda.is_available():
        raise CommandFailed(
            "PyTorch finds no GPU. Look whether `nvidia-smi` does, or measure with --device cpu."
        )


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name()
