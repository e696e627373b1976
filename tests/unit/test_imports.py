"""One way: services -> features -> stream; and each outside library has one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "stream": {"stream"},
    "features": {"features", "stream"},
    "services": {"services", "features", "stream", "model_repo"},
    "model_repo": set(),
}
BARE_LOOP = "services/bench/bare_loop.py"  # goes without our own ways, to compare them with
HOMES = {
    "faust": (
        "stream/agents.py",
        "stream/consume.py",
        "stream/transport.py",
        "services/worker/credentials.py",
    ),
    "feast": ("features/",),
    "redis": ("features/", BARE_LOOP),
    "tritonclient": (
        "services/models/triton.py",
        "services/models/control.py",
        "services/models/config.py",
        BARE_LOOP,
    ),
    "torch": ("model_repo/", "services/bench/", "services/evaluation/", "services/training/"),
    "transformers": ("model_repo/", "services/training/"),
    "pandas": ("features/",),
    "triton_python_backend_utils": ("model_repo/",),
}


def imports() -> Iterator[tuple[str, str]]:
    """Each file and the first name of each module that it imports, relative ones left out."""
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                else:
                    continue
                yield from ((str(path.relative_to(ROOT)), name.split(".")[0]) for name in names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_beneath_it(package: str) -> None:
    """The pure core stays testable without a server, and a version directory self-contained."""
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package]
    inside = [(path, name) for path, name in imports() if path.startswith(f"{package}/")]

    assert inside
    assert [(path, name) for path, name in inside if name in forbidden] == []


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_at_its_home_only(library: str) -> None:
    """Replacing a library is a change of one place."""
    importers = {path for path, name in imports() if name == library}

    assert {path for path in importers if not path.startswith(HOMES[library])} == set()
