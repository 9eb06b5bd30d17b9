"""Configs by name: what the command line looks up before any work."""

from pathlib import Path

import pytest

from dgq.errors import DGQError
from lit.configs import CONFIGS, find_config, resolve_configs


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
