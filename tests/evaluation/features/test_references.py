"""Real images: folders with damaged files, statistics of another network, renders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scenes
from data.embedded import SCENES
from dgq.errors import DGQError
from evaluation.features.extractors import Extractors
from evaluation.features.references import (
    MIN_RENDERS,
    RENDER_BATCH,
    check_references,
    load_references,
    render_references,
)
from evaluation.images.files import to_images
from evaluation.prompts import load_prompts, reference_captions
from evaluation.protocol import Protocol


@pytest.fixture(scope="module")
def extractors(clip_folder: Path) -> Extractors:
    """Twelve features of a random CLIP."""
    return Extractors(Protocol(clip=str(clip_folder)), benchmark=SCENES, device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five JPEG images of different sizes."""
    for index, side in enumerate((20, 32, 32, 48, 64)):
        noise = np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.jpg")
    return tmp_path


def test_images_of_a_folder(folder: Path, extractors: Extractors) -> None:
    notes: list[str] = []
    check_references(folder, 12)
    references = load_references(folder, extractors, 2, notes)
    images = [Image.open(folder / f"{i}.jpg") for i in range(5)]
    expected = extractors.extract([images], 0).pooled
    assert references.features is not None
    torch.testing.assert_close(references.features, expected)
    assert references.n == 5
    assert not notes


def test_images_are_resized_like_drawn_ones(folder: Path, extractors: Extractors) -> None:
    notes: list[str] = []
    references = load_references(folder, extractors, 2, notes, 32)
    images = [Image.open(folder / f"{i}.jpg").resize((32, 32)) for i in range(5)]
    expected = extractors.extract([images], 0).pooled
    assert references.features is not None
    torch.testing.assert_close(references.features, expected)
    as_they_are = load_references(folder, extractors, 2, []).features
    assert as_they_are is not None
    changed = (references.features - as_they_are).abs().amax(1) > 1e-3
    assert changed.tolist() == [True, False, False, True, True]
    (note,) = notes
    assert note.startswith("references: 3 images")
    assert "resized to 32 x 32" in note


def test_a_truncated_image_is_left_out_counted_and_named(
    folder: Path, extractors: Extractors
) -> None:
    whole = (folder / "3.jpg").read_bytes()
    (folder / "3.jpg").write_bytes(whole[: len(whole) // 2])
    notes: list[str] = []
    references = load_references(folder, extractors, 2, notes)
    assert references.n == 4
    assert notes == [f"references: 1 images of {folder} cannot be read and were left out: 3.jpg"]


def test_too_few_readable_images_are_an_error(folder: Path, extractors: Extractors) -> None:
    for index in range(4):
        (folder / f"{index}.jpg").write_bytes(b"no image")
    with pytest.raises(DGQError, match=r"1 readable images \(4 cannot be read\)"):
        load_references(folder, extractors, 2, [])


def test_a_lone_reference_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(DGQError, match="holds 1 image: references for FID need at least 2"):
        check_references(tmp_path, 12)


def test_two_references_are_enough_whatever_their_folder_is_called(
    tmp_path: Path, extractors: Extractors
) -> None:
    folder = tmp_path / "real.npz"
    folder.mkdir()
    for index, image in enumerate(to_images(torch.rand(2, 3, 8, 8))):
        image.save(folder / f"{index}.png")
    check_references(folder, 12)
    assert load_references(folder, extractors, 2, []).n == 2


def test_what_no_metric_needs_is_not_looked_at(tmp_path: Path) -> None:
    check_references(tmp_path / "missing", None)
    check_references(None, 12)


def test_a_file_of_something_else_is_called_no_npz(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a dog")
    with pytest.raises(
        DGQError, match=r"captions\.txt holds no FID statistics \(it is not an npz\)"
    ):
        check_references(tmp_path / "captions.txt", 12)


def test_statistics_have_no_features(tmp_path: Path, extractors: Extractors) -> None:
    np.savez(tmp_path / "real.npz", mu=np.zeros(12), sigma=np.eye(12))
    check_references(tmp_path / "real.npz", 12)
    references = load_references(tmp_path / "real.npz", extractors, 2, [])
    assert references.features is None
    assert references.gaussian.dimensions == 12


def test_statistics_of_another_network_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(DGQError, match="statistics of 2048 features, but the extractor gives 12"):
        check_references(tmp_path / "real.npz", 12)


def test_renders_are_those_of_other_scenes(extractors: Extractors) -> None:
    prompts = load_prompts(None, 3, 0)
    references = render_references(prompts, 0, 32, extractors)
    assert references is not None
    assert references.n == MIN_RENDERS
    captions = reference_captions(MIN_RENDERS, 0)
    assert tuple(captions[:3]) != prompts.captions
    second = captions[RENDER_BATCH : 2 * RENDER_BATCH]
    expected = extractors.extract([to_images(scenes.render(second, 32, 1))]).pooled
    assert references.features is not None
    torch.testing.assert_close(references.features[RENDER_BATCH : 2 * RENDER_BATCH], expected)


def test_images_that_are_not_square_have_no_renders(extractors: Extractors) -> None:
    assert render_references(load_prompts(None, 3, 0), 0, None, extractors) is None


def test_other_prompts_have_no_renders(tmp_path: Path, extractors: Extractors) -> None:
    (tmp_path / "p.txt").write_text("a dog")
    prompts = load_prompts(str(tmp_path / "p.txt"), None, 0)
    assert render_references(prompts, 0, 32, extractors) is None
