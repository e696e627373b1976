"""What must never be committed."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each with a text that it must catch, put together here so that this file does not hold it.
FORBIDDEN = {
    r"-----BEGIN [A-Z ]*PRIVATE KEY": "-----BEGIN RSA" + " PRIVATE KEY",
    r"\bAKIA[0-9A-Z]{16}\b": "AKIA" + "A" * 16,
    r"\bgh[pousr]_[A-Za-z0-9]{36}": "ghp_" + "a" * 36,
    r"\bhf_[A-Za-z]{34}\b": "hf_" + "a" * 34,
    r"\bsk-[A-Za-z0-9_-]{32,}": "sk-" + "a" * 40,
    r"\bxox[abprs]-[0-9A-Za-z-]{10,}": "xoxb-" + "1" * 12,
    r"(?i)\b(password|secret|token)\s*[:=]\s*['\"][^'\"\s$<{…]{6,}['\"]": "password = "
    + "'hunter22'",
    r"://[^/\s:@]+:[^/\s:@]+@": "https://me" + ":mine@host",
}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_secret_is_committed(pattern: str) -> None:
    """History cannot be unpublished."""
    secret = re.compile(pattern)
    found = [str(path) for path in tracked() if secret.search(path.read_text(errors="replace"))]

    assert secret.search(FORBIDDEN[pattern]), "the pattern itself is broken"
    assert found == []


def test_no_large_file_is_committed() -> None:
    """Weights and data are built or fetched, not cloned by everybody."""
    large = [path.name for path in tracked() if path.stat().st_size > 1_000_000]

    assert [name for name in large if name != "uv.lock"] == []
