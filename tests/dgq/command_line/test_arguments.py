"""What a parser would silently read as something else is refused before it is parsed."""

import os

import pytest

from dgq.command_line.console import check_arguments
from dgq.errors import DGQError


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["#1 in the world"],  # a prompt, which is read as it is
        ["", "--run", "out"],
        ["--run=out#1", "--run", "out #1", "--overwrite"],
        ["--negative", "", "--negative="],
        ["-x", "", "-y", "#"],
        ["--run", "ü"],
    ],
)
def test_what_is_read_as_it_is_written_passes(args: list[str]) -> None:
    check_arguments(args, may_be_empty=("--negative",))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--run", ""], "--run is empty"),
        (["--run="], "--run is empty"),
        (["a dog", "--run", "", "--negative", ""], "--run is empty"),
        (["--run", "#1"], "--run #1 would be read as a comment"),
        (["--run= #1"], "--run  #1 would be read as a comment"),
        (["--negative", "# a cat"], "--negative # a cat would be read as a comment"),
        ([os.fsdecode(b"run\xff")], "is not encoded in UTF-8"),
        (["--run", os.fsdecode(b"\xff")], "is not encoded in UTF-8"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(DGQError, match=message):
        check_arguments(args, may_be_empty=("--negative",))
