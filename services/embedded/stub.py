"""
The Python that Triton's models run in: the main environment, but with numpy 1.26.

Triton 2.51's stub answers with silently empty tensors under numpy 2, which Feast needs. So it
gets a virtual environment that holds numpy 1.26 alone and sees everything else through a .pth
line. The stub and its backend library lie beside it, in the layout that Triton looks for.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.embedded.jars import SCRATCH
from services.errors import CommandFailed

REQUIREMENTS = Path(__file__).with_name("stub-requirements.txt")
LIBRARY = "libpython3.11.so.1.0"
PROGRAM = "triton_python_backend_stub"


@dataclass(frozen=True)
class StubEnvironment:
    """Where the model environment of *this* installation lies, whether or not it is there yet."""

    directory: Path

    @property
    def python(self) -> Path:
        """The interpreter, first on the PATH of Triton: the stub takes its paths from it."""
        return self.directory / "venv" / "bin" / "python3"

    @property
    def backends(self) -> Path:
        """Triton's ``--backend-directory``."""
        return self.directory / "backends"

    @property
    def libraries(self) -> Path:
        """The directory of the libpython that the stub loads."""
        return self.directory / "lib"


def located(cache_dir: Path) -> StubEnvironment:
    """
    The model environment that belongs to the running Python environment.

    Two checkouts may share a cache, and each needs a .pth line of its own; a new numpy or Triton
    makes a new environment as well.
    """
    identity = "\n".join([_pth(), sys.version, REQUIREMENTS.read_text(), _wheel_version()])
    return StubEnvironment(
        cache_dir / f"triton-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    )


def server_directory() -> Path:
    """Triton's files inside the nvidia-pytriton wheel. The package itself is never imported."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise CommandFailed("nvidia-pytriton is not installed. Run `uv sync` (or `make setup`).")
    return Path(spec.origin).parent / "tritonserver"


def build(environment: StubEnvironment, said: Callable[[str], None]) -> None:
    """
    Make *environment*: under another name, renamed when it is whole and has been tried.

    Raises:
        CommandFailed: If numpy cannot be had or a stub would not see it.
    """
    environment.directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=environment.directory.parent, prefix=SCRATCH) as scratch:
        new = StubEnvironment(Path(scratch) / "new")
        new.libraries.mkdir(parents=True)
        python, library = _python_with_library(environment.directory.parent, said)
        (new.libraries / LIBRARY).symlink_to(library)
        said("numpy 1.26 for Triton's models")
        venv = new.directory / "venv"
        _uv("venv", "--quiet", "--relocatable", "--python", str(python), str(venv))
        _uv("pip", "install", "--quiet", "--require-hashes", "--no-deps", "--only-binary=:all:",
            "--python", str(new.python), "-r", str(REQUIREMENTS))  # fmt: skip
        pth = venv / "lib" / "python3.11" / "site-packages" / "headrace_main.pth"
        pth.write_text(_pth())
        _assemble_backend(new.backends)
        if complaint := numpy_complaint(new):
            raise CommandFailed(complaint)
        # One whose Python has been removed since: its link leads nowhere.
        shutil.rmtree(environment.directory, ignore_errors=True)
        new.directory.rename(environment.directory)


def numpy_complaint(environment: StubEnvironment) -> str | None:
    """What is wrong with the numpy that a stub would see, or None. Runs its Python (0.2 s)."""
    seen = subprocess.run(
        [environment.python, "-c", "import numpy; print(numpy.__version__)"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ.get("PATH", "")},
        check=False,
    )
    if seen.returncode:
        return f"Triton's model environment has no working numpy: {seen.stderr.strip()[-200:]}"
    version = seen.stdout.strip()
    if not version.startswith("1."):
        return f"Triton's model environment sees numpy {version}: models would answer with nothing"
    return None


def _assemble_backend(backends: Path) -> None:
    server = server_directory()
    python = backends / "python"
    shutil.copytree(server / "backends" / "python", python)
    stub = server / "python_backend_stubs" / "3.11" / PROGRAM
    shutil.copy2(stub, python)
    (python / PROGRAM).chmod(0o755)


def _python_with_library(cache_dir: Path, said: Callable[[str], None]) -> tuple[Path, Path]:
    """An interpreter of ours and its libpython; fetched if this one was built without."""
    base = Path(sys.base_prefix)
    libdir = Path(sysconfig.get_config_var("LIBDIR") or base / "lib")
    for directory in (libdir, libdir / "x86_64-linux-gnu", base / "lib"):
        if (directory / LIBRARY).is_file():
            return base / "bin" / "python3.11", directory / LIBRARY
    # Distributions often ship the interpreter without its library.
    said(f"a Python that has {LIBRARY}")
    pythons = cache_dir / "python"
    _uv("python", "install", "--quiet", "--install-dir", str(pythons), "3.11")
    found = sorted(pythons.glob(f"*/lib/{LIBRARY}"))
    if not found:
        raise CommandFailed(
            f"{LIBRARY} is not on this machine, and uv's Python has none either. Install your "
            "distribution's libpython3.11 package, then run `headrace setup` again."
        )
    return found[-1].parents[1] / "bin" / "python3.11", found[-1]


def _uv(*arguments: str) -> None:
    from uv import find_uv_bin

    done = subprocess.run([find_uv_bin(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(
            f"`uv {' '.join(arguments[:2])}` failed: {done.stderr.strip()[-400:]}. "
            "Check the network, then run `headrace setup` again."
        )


def _pth() -> str:
    # A __pycache__ would be a change of the version, which Triton's next load starts anew. The
    # stub does not heed PYTHONDONTWRITEBYTECODE.
    quiet = "import sys; sys.dont_write_bytecode = True"
    return f"{sysconfig.get_path('purelib')}\n{quiet}\n"


def _wheel_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nvidia-pytriton")
    except PackageNotFoundError:
        return "none"
