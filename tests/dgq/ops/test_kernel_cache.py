"""The cache of the compiled kernels: a damaged library is compiled again, never loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dgq.ops import compiling


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program that takes a compiler's arguments, and notes that it was called."""
    monkeypatch.setattr(compiling.Path, "home", lambda: tmp_path / "home")
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


def test_a_library_is_compiled_once(compiler: str) -> None:
    library = compiling.compiled(compiler)
    assert compiling.compiled(compiler) == library
    assert n_calls(compiler) == 1
    assert [path.name for path in library.parent.iterdir()] == [library.name]


@pytest.mark.parametrize("damage", [cut, empty, flip])
def test_a_damaged_library_is_compiled_again(damage: Callable[[Path], None], compiler: str) -> None:
    library = compiling.compiled(compiler)
    content = library.read_bytes()
    damage(library)
    assert compiling.compiled(compiler).read_bytes() == content
    assert n_calls(compiler) == 2
    assert len(list(library.parent.iterdir())) == 1


def test_a_user_without_a_home_gets_a_temporary_folder(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiling.Path, "home", fails)
    monkeypatch.setattr(compiling.tempfile, "tempdir", str(tmp_path))
    assert compiling.compiled(compiler).read_text() == "library\n"
