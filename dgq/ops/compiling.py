"""C++ kernels, compiled at their first use with the machine's compiler, and cached."""

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
SOURCES = tuple(sorted(HERE.glob("*.cpp")))
HEADERS = tuple(sorted(HERE.glob("*.hpp")))
COMPILERS = ("g++", "clang++", "c++")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fvisibility=hidden"),
    # Neither changes a value: rounding instructions are used instead of calls.
    *("-fno-math-errno", "-fno-trapping-math"),
)
COMPILE_SECONDS = 120


def compiler() -> str | None:
    """The first of ``COMPILERS`` that is installed."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def loaded(compiler: str) -> ctypes.CDLL:
    """The shared library: from the cache, or compiled anew where the cache cannot be used.

    In containers and on clusters a home may be missing, read-only, full, or execute nothing.

    Raises:
        OSError: if it cannot be written or loaded.
        SubprocessError: if the compiler fails.
    """
    try:
        return ctypes.CDLL(str(compiled(compiler, _cache_folder())))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: without a home
        with tempfile.TemporaryDirectory(prefix="dgq-", ignore_cleanup_errors=True) as folder:
            # Once it is loaded, its file is not needed.
            return ctypes.CDLL(str(compiled(compiler, Path(folder))))


def compiled(compiler: str, folder: Path) -> Path:
    """The shared library, taken from a folder or compiled into it.

    Its name ends in the start of its own hash: a damaged library could compute anything, or end the
    process when it is loaded.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    sources = (source.read_bytes() for source in (*SOURCES, *HEADERS))
    settings = (*FLAGS, torch.__version__, _processor())
    parts = (*sources, version, " ".join(settings).encode())
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    name = f"kernels-{digest}-"
    for library in folder.glob(f"{name}*.so"):
        if library.name == f"{name}{_sha256(library)}.so":
            return library
        library.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "kernels.so"
        command = [compiler, *FLAGS, *map(str, SOURCES), *_torch(), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
        return made.replace(folder / f"{name}{_sha256(made)}.so")


def _torch() -> list[str]:
    """Where the compiler finds torch's headers and library, whose ABI is stable."""
    folder = Path(torch.__file__).parent
    return [f"-I{folder / 'include'}", f"-L{folder / 'lib'}", "-ltorch_cpu"]


def _sha256(file: Path) -> str:
    """The first digits of the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _cache_folder() -> Path:
    """A folder that only this user writes into."""
    folder = Path.home() / ".cache" / "dgq"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _processor() -> str:
    """What ``-march=native`` depends on."""
    return f"{platform.machine()} {sorted(torch.cpu.get_capabilities().items())}"
