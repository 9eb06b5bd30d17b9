"""The cache of the compiled kernels: a damaged library is compiled again, never loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dgq.ops import compiling


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program that takes a compiler's arguments, and notes that it was called."""
    monkeypatch.setattr(compiling.Path, "home", lambda: tmp_path / "home")
    (tmp_path / "cache").mkdir()
    program = tmp_path / "compiler"
    program.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo 1; exit; fi\n'
        f'while [ "$1" != -o ]; do shift; done\necho library > "$2"; echo >> {tmp_path}/calls\n'
    )
    program.chmod(0o755)
    return str(program)


def n_calls(compiler: str) -> int:
    return len(Path(compiler).with_name("calls").read_text())


def cut(library: Path) -> None:
    library.write_bytes(library.read_bytes()[:3])


def empty(library: Path) -> None:
    library.write_bytes(b"")


def flip(library: Path) -> None:
    content = library.read_bytes()
    library.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_a_library_is_compiled_once(compiler: str, tmp_path: Path) -> None:
    library = compiling.compiled(compiler, tmp_path / "cache")
    assert compiling.compiled(compiler, tmp_path / "cache") == library
    assert n_calls(compiler) == 1
    assert [path.name for path in library.parent.iterdir()] == [library.name]


@pytest.mark.parametrize("damage", [cut, empty, flip])
def test_a_damaged_library_is_compiled_again(
    damage: Callable[[Path], None], compiler: str, tmp_path: Path
) -> None:
    library = compiling.compiled(compiler, tmp_path / "cache")
    content = library.read_bytes()
    damage(library)
    assert compiling.compiled(compiler, tmp_path / "cache").read_bytes() == content
    assert n_calls(compiler) == 2
    assert len(list(library.parent.iterdir())) == 1


def no_home(_cache: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")


def not_a_folder(cache: Path) -> Path:
    cache.parent.mkdir(parents=True)
    cache.write_text("")
    return cache


@pytest.mark.parametrize("cache", [no_home, not_a_folder])
def test_without_a_cache_a_library_is_loaded_from_a_temporary_folder(
    cache: Callable[[Path], Path], compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "home" / ".cache" / "dgq"
    if cache is no_home:
        monkeypatch.setattr(compiling.Path, "home", lambda: no_home(place))
    else:
        cache(place)
    found = loaded_from(compiler, tmp_path, monkeypatch)
    assert [path.parent.parent for path in found] == [tmp_path / "temporary"]


def test_a_cache_that_executes_nothing_is_not_used(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = loaded_from(compiler, tmp_path, monkeypatch, executes_nothing="home")
    assert [path.parent.parent.name for path in found] == [".cache", "temporary"]


def loaded_from(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executes_nothing: str = "none"
) -> list[Path]:
    """Where libraries were tried to be loaded from; no temporary folder may be left."""
    tried: list[Path] = []

    def load(path: str) -> str:
        tried.append(Path(path))
        if tmp_path / executes_nothing in tried[-1].parents:
            raise OSError(f"{path}: failed to map segment from shared object")
        return tried[-1].read_text()

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(compiling.tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(compiling.ctypes, "CDLL", load)
    assert compiling.loaded(compiler) == "library\n"
    assert list(temporary.iterdir()) == []
    return tried
