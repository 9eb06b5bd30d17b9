"""Configs by name, run folders, checkpoints: what the command line looks up before any work."""

from pathlib import Path

import pytest
import torch

from dgq.errors import DGQError
from lit.cli import CONFIGS, check_run_folder, find_config, read_identity, resolve_configs


@pytest.mark.parametrize("name", ["w4a8.yaml", "w4a8", str(CONFIGS / "w4a8.yaml")])
def test_a_config_is_found_by_name_stem_or_path(name: str) -> None:
    assert find_config(name).samefile(CONFIGS / "w4a8.yaml")


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w4a8.yaml").write_text("model: {}")
    monkeypatch.chdir(tmp_path)
    assert find_config("w4a8.yaml").resolve() == tmp_path / "w4a8.yaml"


@pytest.mark.parametrize("name", ["w5a5.yaml", "", "configs", "w4a8.json"])
def test_an_unknown_config_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(DGQError, match=r"no config .*w4a8\.yaml"):
        find_config(name)


@pytest.mark.parametrize(
    ("args", "run"),
    [
        (["fit", "--config", "w4a8.yaml"], "w4a8"),
        (["fit", "-c", "w4a8"], "w4a8"),
        (["fit", "--config=w4a8.yaml"], "w4a8"),
        (["fit", "--config", "w4a8.yaml", "--config", "sd14.yaml"], "w4a8-sd14"),
        (["fit"], "run"),
    ],
)
def test_the_run_is_named_after_its_configs(args: list[str], run: str) -> None:
    resolved, name = resolve_configs(args)
    assert name == run
    assert len(resolved) == len(args)
    assert all(Path(a.rpartition("=")[2]).is_file() for a in resolved if a.endswith(".yaml"))


def test_other_arguments_pass_unchanged() -> None:
    args = ["fit", "--run", "w4a8.yaml", "--data.seed=3"]
    assert resolve_configs(args)[0] == args


@pytest.mark.parametrize("name", ["last.ckpt", "quantized"])
def test_a_folder_with_a_run_is_not_written_into_unless_resumed(tmp_path: Path, name: str) -> None:
    check_run_folder(tmp_path, None)
    (tmp_path / name).mkdir()
    with pytest.raises(DGQError, match="already holds a calibration"):
        check_run_folder(tmp_path, None)
    with pytest.raises(DGQError, match="already holds a calibration"):
        check_run_folder(tmp_path, tmp_path / "elsewhere" / "last.ckpt")
    check_run_folder(tmp_path, tmp_path / "last.ckpt")


def test_a_checkpoint_of_a_calibration_is_accepted(tmp_path: Path) -> None:
    content = {"calibration": {"identity": "{}"}, "state_dict": {"a": torch.ones(1)}}
    torch.save(content, tmp_path / "last.ckpt")
    assert read_identity(tmp_path / "last.ckpt") == "{}"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02K\x01.", b"text\n"])
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(DGQError, match=r"last\.ckpt"):
        read_identity(tmp_path / "last.ckpt")
