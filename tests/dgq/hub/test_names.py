"""Ids of the hub are told from paths, and paths never leave this machine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgq.errors import DGQError
from dgq.hub.names import checked_id, hub_id, publishable, published_config, without_paths

PARTS = st.lists(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True), min_size=2)


@pytest.mark.parametrize("source", ["CompVis/stable-diffusion-v1-4", "me/my_model.v2"])
def test_ids_are_kept(source: str) -> None:
    assert hub_id(source) == publishable(source) == checked_id(source, "--base_model") == source


@pytest.mark.parametrize(
    "source",
    [
        "/home/me/sd14",
        "~/sd14",
        "./sd14",
        "../me/sd14",
        "models/a/sd14",
        "C:\\me\\sd14",
        "",
        "sd14",
    ],
)
def test_paths_are_not(source: str) -> None:
    assert hub_id(source) is None
    assert publishable(source) == ""
    with pytest.raises(DGQError, match="owner/name"):
        checked_id(source, "--base_model")


def test_a_folder_here_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id("models/sd14") == "models/sd14"
    Path("models/sd14").mkdir(parents=True)
    assert hub_id("models/sd14") is None


def test_embedded_models_are_known_to_all() -> None:
    assert publishable("scenes-xl") == "scenes-xl"
    assert hub_id("scenes-xl") is None


@given(PARTS, st.sampled_from(["/", "~/", "./", "../", "file:///"]))
def test_of_a_path_the_last_part_is_left(parts: list[str], root: str) -> None:
    path = root + "/".join(parts)
    text = without_paths(f"features of {path}, resized (from {path})")
    assert text == f"features of {parts[-1]}, resized (from {parts[-1]})"


def test_other_words_stay() -> None:
    text = "me/prompts:test:caption, ViT-g-14 (sha256 362e257e), FID w/o 1/255"
    assert without_paths(text) == text


def test_a_published_description_names_no_place() -> None:
    config = {
        "_name_or_path": "/home/me/sd14",
        "sample_size": 8,
        "quantization_config": {"pipeline": "/home/me/sd14", "format": "dgq-3"},
    }
    expected = {"sample_size": 8, "quantization_config": {"pipeline": "", "format": "dgq-3"}}
    assert published_config(config) == expected
    config["quantization_config"] = {"pipeline": "me/sd14", "format": "dgq-3"}
    assert published_config(config)["quantization_config"]["pipeline"] == "me/sd14"
