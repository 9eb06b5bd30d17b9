"""Configs by name: what the command line looks up before any work; what it says, and not."""

import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch.profilers import profiler

from data.calibration import CalibrationData
from dgq.errors import DGQError
from lit.cli import main
from lit.configs import BITS, MODELS, RECIPES, find_configs, resolve_configs
from lit.quiet import quieten_lightning


@pytest.mark.parametrize("name", ["w4a8.yaml", "w4a8", "bits/w4a8.yaml", str(BITS / "w4a8.yaml")])
def test_a_config_is_found_by_name_stem_or_path(name: str) -> None:
    assert find_configs(name) == [BITS / "w4a8.yaml"]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("dgq_w4a6", [RECIPES / "dgq.yaml", BITS / "w4a6.yaml"]),
        ("rtn_w4a16.yaml", [RECIPES / "rtn.yaml", BITS / "w4a16.yaml"]),
        ("w4a8_live.yaml", [BITS / "w4a8.yaml", RECIPES / "live.yaml"]),
        ("scenes_xl", [MODELS / "scenes_xl.yaml"]),
    ],
)
def test_a_short_name_is_a_recipe_and_bits(name: str, files: list[Path]) -> None:
    assert find_configs(name) == files


def test_recipes_with_underscores_join_bits_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fewer_inside.yaml").write_text("model: {}")
    monkeypatch.setattr("lit.configs.RECIPES", tmp_path)
    assert find_configs("fewer_inside_w4a6") == [tmp_path / "fewer_inside.yaml", BITS / "w4a6.yaml"]


def test_paths_and_names_of_the_same_configs_name_the_same_run() -> None:
    by_path = ["--config", str(RECIPES / "dgq.yaml"), "--config", f"{BITS.parent}/bits/w4a6.yaml"]
    assert resolve_configs(by_path)[1] == resolve_configs(["--config", "dgq_w4a6"])[1] == "dgq_w4a6"


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w4a8.yaml").write_text("model: {}")
    monkeypatch.chdir(tmp_path)
    (found,) = find_configs("w4a8.yaml")
    assert found.resolve() == tmp_path / "w4a8.yaml"


@pytest.mark.parametrize(
    "name",
    ["w5a5.yaml", "", "configs", "w4a8.json", "dgq_", "dgq_rtn", "w4a8_w4a6", "dgq_w4a6_live"],
)
def test_an_unknown_config_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(DGQError, match=r"no config .*\bdgq\b.*\bw4a8\b.*\bsd14\b.*\bpublished\b"):
        find_configs(name)


@pytest.mark.parametrize(
    ("args", "run"),
    [
        (["fit", "--config", "w4a8.yaml"], "w4a8"),
        (["fit", "-c", "w4a8"], "w4a8"),
        (["fit", "--config=w4a8.yaml"], "w4a8"),
        (["fit", "--config", "w4a8.yaml", "--config", "sd14.yaml"], "w4a8-sd14"),
        (["fit", "--config", "dgq_w4a6", "-c", "scenes_xl"], "dgq_w4a6-scenes_xl"),
        (["fit", "--config", "dgq", "--config", "w4a6"], "dgq_w4a6"),
        (["fit", "--config", "w4a6", "--config=live"], "w4a6_live"),
        (["fit", "-c=w4a6_live.yaml", "--config", "published"], "w4a6_live-published"),
        (["fit"], "run"),
        (["fit", "--config"], "run"),
    ],
)
def test_the_run_is_named_after_its_configs(args: list[str], run: str) -> None:
    resolved, name = resolve_configs(args)
    assert name == run
    assert all(Path(a.partition("=")[2]).is_file() for a in resolved if a.endswith(".yaml"))


def test_other_arguments_pass_unchanged() -> None:
    args = ["fit", "--run", "w4a8.yaml", "--data.seed=3"]
    assert resolve_configs(args)[0] == args


def test_keys_of_different_sections_and_merged_ones_are_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("data: &d {seed: 1}\nmodel: {seed: 1, <<: *d}\ntrainer: {<<: *d, <<: *d}\n")
    with pytest.raises(DGQError, match="<< stands a second time"):
        resolve_configs(["fit", "--config", str(file)])
    file.write_text("data: &d {seed: 1}\nmodel: {seed: 1, <<: *d}\n")
    assert resolve_configs(["fit", "--config", str(file)])[1] == "own"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: caf\xe9", "is not YAML in UTF-8"),
        (b"\xff\xfem\0", "is not YAML in UTF-8"),
        (b"model: [1, 2", "is not YAML in UTF-8"),
        (b"model: !!python/name:os.system", "is not YAML in UTF-8"),
        (b"[" * 10_000, "is not YAML in UTF-8"),
        (b"", "holds no options"),
        (b"- model", "holds no options"),
        (b"# nothing but a remark\n", "holds no options"),
        (b"data: 3", "data is 3, which is not an option"),
        (b"data:\n  seed: 1\ndata:\n  seed: 2\n", "data stands a second time in line 3"),
        (b"model: {recipe: {a: [{b: 1, b: 2}]}}", "b stands a second time in line 1"),
        (b"model: &a\n  x: *a\n", "is not YAML in UTF-8"),
        (b"model:\n", "model is None, which is not an option"),
    ],
)
def test_a_file_that_holds_no_options_is_named(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    file.write_bytes(content)
    with pytest.raises(DGQError, match=rf"own\.yaml.*{message}"):
        resolve_configs(["fit", "--config", str(file)])


def test_memory_that_runs_out_is_one_line_that_says_how_to_resume_with_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr("lit.cli.resolve_configs", fail)
    assert main(["fit"], CalibrationData) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory (CUDA out of memory): --model.waiting.place host")
    assert said.count("\n") == 1


def test_of_what_lightning_says_only_the_report_of_a_profiler_is_shown() -> None:
    """``--trainer.profiler simple`` prints it by a logger, like hints that concern nobody here."""
    quieten_lightning()
    assert profiler.log.isEnabledFor(logging.INFO)
    for name in ("lightning.pytorch.trainer.setup", "lightning.pytorch.utilities.rank_zero"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
