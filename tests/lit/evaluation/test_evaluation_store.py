"""Folders of images are continued or refused, never mixed."""

from pathlib import Path

import pytest
from PIL import Image

from dgq.errors import DGQError
from lit.evaluation.images import list_images, read_images
from lit.evaluation.store import MANIFEST, ImageStore, check_stores

PROMPTS = ["a", "b", "ü"]


def image(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (4, 4), (shade, 0, 0))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """A folder with two of three images."""
    store = ImageStore(tmp_path / "images", {"seed": 0, "steps": 2}, PROMPTS)
    store.open_()
    store.save(0, image(1))
    store.save(1, image(2))
    return store


def reopened(store: ImageStore, prompts: list[str] = PROMPTS, **changes: int) -> ImageStore:
    return ImageStore(store.folder, store.settings | changes, prompts)


def test_the_same_settings_continue(store: ImageStore) -> None:
    again = reopened(store)
    assert again.conflict() is None
    again.open_()
    assert again.missing() == [2]


@pytest.mark.parametrize("prompts", [PROMPTS[:1], [*PROMPTS, "d", "e"]])
def test_fewer_and_more_prompts_continue(store: ImageStore, prompts: list[str]) -> None:
    again = reopened(store, prompts)
    check_stores([again], overwrite=False)
    again.open_()
    assert again.missing() == list(range(2, len(prompts)))
    # Whoever comes next still knows the prompt of every image there is.
    assert reopened(store, ["a", "b", "other"]).conflict() is not None


@pytest.mark.parametrize(
    ("change", "prompts", "reason"),
    [({"seed": 1}, PROMPTS, "seed 0, not 1"), ({}, ["a", "x", "ü"], "other prompts")],
)
def test_other_images_are_refused_and_left_alone(
    store: ImageStore, change: dict[str, int], prompts: list[str], reason: str
) -> None:
    before = sorted((p.name, p.read_bytes()) for p in store.folder.iterdir())
    with pytest.raises(DGQError, match=f"{reason}.*choose another --output, or --overwrite"):
        check_stores([reopened(store, prompts, **change)], overwrite=False)
    assert sorted((p.name, p.read_bytes()) for p in store.folder.iterdir()) == before


def test_overwriting_deletes_other_images_and_nothing_else(store: ImageStore) -> None:
    (store.folder / "notes.txt").write_text("mine")
    again = reopened(store, seed=1)
    check_stores([again], overwrite=True)
    again.open_()
    assert again.missing() == [0, 1, 2]
    assert again.conflict() is None
    assert (store.folder / "notes.txt").read_text() == "mine"


def test_overwriting_keeps_images_of_the_same_settings(store: ImageStore) -> None:
    check_stores([reopened(store)], overwrite=True)
    reopened(store).open_()
    assert store.missing() == [2]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": 1, "prompts": []}'])
def test_a_damaged_manifest_is_refused(store: ImageStore, content: str) -> None:
    (store.folder / MANIFEST).write_text(content)
    with pytest.raises(DGQError, match="damaged"):
        check_stores([reopened(store)], overwrite=False)
    reopened(store).open_()
    assert store.missing() == [0, 1, 2]


def test_images_without_a_manifest_are_refused(store: ImageStore) -> None:
    (store.folder / MANIFEST).unlink()
    with pytest.raises(DGQError, match="without a manifest"):
        check_stores([reopened(store)], overwrite=False)


def test_a_file_in_the_place_of_the_folder_is_refused_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DGQError, match="is not a folder"):
        check_stores([ImageStore(tmp_path / "file", {}, PROMPTS)], overwrite=True)


def test_images_come_in_order_and_in_batches(store: ImageStore) -> None:
    store.save(2, image(3))
    batches = list(read_images(store.paths, 2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert [i.getpixel((0, 0)) for batch in batches for i in batch] == [
        (1, 0, 0),
        (2, 0, 0),
        (3, 0, 0),
    ]


@pytest.mark.parametrize("cut", [0, 10, 40, -20, -12])
def test_a_truncated_image_is_made_again_or_an_error(store: ImageStore, cut: int) -> None:
    whole = store.path(1).read_bytes()
    store.path(1).write_bytes(whole[:cut])
    with pytest.raises(DGQError, match="cannot be read as an image"):
        list(read_images(store.paths[:2], 2))
    assert store.missing() == [1, 2]


def test_a_flipped_bit_is_noticed(store: ImageStore) -> None:
    content = bytearray(store.path(1).read_bytes())
    content[-20] ^= 1  # among the compressed pixels
    store.path(1).write_bytes(content)
    assert store.missing() == [1, 2]


def test_reference_folders(store: ImageStore, tmp_path: Path) -> None:
    assert list_images(store.folder) == [store.path(0), store.path(1)]
    with pytest.raises(DGQError, match="is not a folder"):
        list_images(tmp_path / "missing")
    with pytest.raises(DGQError, match="holds no image"):
        list_images(tmp_path)
