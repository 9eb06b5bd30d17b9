"""What would be uploaded: our card, no place of this machine, and a model that loads again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError

import dgq
from dgq.storage.checkpoint import load_quantized_unet, read_manifest
from dgq.storage.manifest import QUANTIZATION
from dgq.storage.model_files import CONFIG_FILE
from tests.evaluated_runs import BASE, SECRET, evaluation, named, write_evaluation
from tests.quantized_models import Calibrated

REPO = "me/model"
WAYS: dict[str, Callable[[Any, Path], object]] = {
    "push_to_hub": lambda unet, folder: unet.push_to_hub(REPO),
    "save_pretrained": lambda unet, folder: unet.save_pretrained(
        folder, push_to_hub=True, repo_id=REPO
    ),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub in a folder; ``card.md`` in it is the card that the repository has."""
    folder = tmp_path / "hub"
    folder.mkdir()

    def create(repo_id: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=repo_id)

    def upload(*, repo_id: str, folder_path: str | Path, path_in_repo: str | None, **_: Any) -> str:
        shutil.copytree(folder_path, folder / repo_id / (path_in_repo or ""), dirs_exist_ok=True)
        return repo_id

    def download(*_: Any, **__: Any) -> str:
        if not (folder / "card.md").exists():
            raise EntryNotFoundError("no card")
        return str(folder / "card.md")

    for module in ("utils.hub_utils", "models.modeling_utils"):
        monkeypatch.setattr(f"diffusers.{module}.create_repo", create)
    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", upload)
    monkeypatch.setattr("huggingface_hub.repocard.hf_hub_download", download)
    return folder


@pytest.fixture
def run(calibrated_as: Callable[[str], Calibrated], tmp_path: Path) -> Path:
    """An evaluated run, made from a pipeline that only this machine has."""
    folder = named(calibrated_as("exponents a6"), tmp_path / "run" / "quantized", SECRET)
    write_evaluation(tmp_path / "run", "own", evaluation(read_manifest(folder).sha256))
    return tmp_path / "run"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("load", ["from_pretrained", "load_quantized_unet"])
def test_what_is_uploaded_is_ours_and_loads_again(
    way: str,
    load: str,
    run: Path,
    hub: Path,
    tmp_path: Path,
    calibrated_as: Callable[[str], Calibrated],
) -> None:
    place = run / "quantized"
    if load == "from_pretrained":
        unet = UNet2DConditionModel.from_pretrained(place, dtype=torch.float32)
    else:
        unet = load_quantized_unet(run, dtype=torch.float32)
    WAYS[way](unet, tmp_path / "saved")
    made = hub / REPO
    card = ModelCard.load(made / "README.md")
    assert card.data.library_name == "diffusers"
    assert "dgq" in (card.data.tags or ())
    assert "31.25 (30.50 to 32.00)" in card.text
    assert f'from_pretrained("{REPO}")' in card.text
    for file in (made / "README.md", made / CONFIG_FILE):
        for word in ("somebody", str(tmp_path), "/home"):
            assert word not in file.read_text(), file
    again = UNet2DConditionModel.from_pretrained(made, dtype=torch.float32)
    assert read_manifest(made).sha256 in card.text
    call = calibrated_as("exponents a6").call
    with torch.no_grad():
        assert torch.equal(again(**call)[0], unet(**call)[0])
    assert read_manifest(run).pipeline == SECRET  # what was loaded stays as it was


def test_pushed_again_it_has_the_same_card(run: Path, hub: Path) -> None:
    unet = load_quantized_unet(run, dtype=torch.float32)
    cards = []
    for _ in range(2):
        unet.push_to_hub(REPO)
        cards.append((hub / REPO / "README.md").read_text())
    assert cards[0] == cards[1]


def test_the_header_of_a_card_on_the_hub_is_kept(run: Path, hub: Path) -> None:
    header = f"---\nlicense: openrail\nbase_model: {BASE}\ntags: [mine]\n---\nAll mine."
    (hub / "card.md").write_text(header)
    load_quantized_unet(run, dtype=torch.float32).push_to_hub(REPO)
    card = ModelCard.load(hub / REPO / "README.md")
    assert card.data.license == "openrail"
    assert card.data.base_model == BASE
    assert card.data.to_dict()["base_model_relation"] == "quantized"
    assert "All mine." not in card.text
    assert "CLIP score" in card.text


def test_beside_others_in_a_repository_no_card_is_written(run: Path, hub: Path) -> None:
    load_quantized_unet(run, dtype=torch.float32).push_to_hub(REPO, subfolder="unet")
    assert (hub / REPO / "unet" / CONFIG_FILE).is_file()
    assert not list((hub / REPO).glob("**/README.md"))


def test_a_pipeline_that_is_uploaded_names_no_place_either(
    run: Path, micro_folder: Path, tmp_path: Path
) -> None:
    pipeline = dgq.load_pipeline(str(micro_folder), load_quantized_unet(run))
    pipeline.save_pretrained(tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "unet" / CONFIG_FILE).read_text())
    assert config[QUANTIZATION]["pipeline"] == ""
    assert "_name_or_path" not in config


def test_an_id_of_the_hub_stays(
    calibrated_as: Callable[[str], Calibrated], hub: Path, tmp_path: Path
) -> None:
    folder = named(calibrated_as("exponents a6"), tmp_path / "model", BASE)
    load_quantized_unet(folder, dtype=torch.float32).push_to_hub(REPO)
    assert read_manifest(hub / REPO).pipeline == BASE
    assert ModelCard.load(hub / REPO / "README.md").data.base_model == BASE
