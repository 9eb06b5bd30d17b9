"""Folders of images are continued or refused, never mixed, and measured as a protocol says."""

import platform
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgq.errors import DGQError
from evaluation.images.files import as_measured, encoded, list_images
from evaluation.images.store import MANIFEST, ImageStore

PROMPTS = ["a", "b", "ü"]
DAMAGED = [
    *("", "{", "[]", '{"prompts": []}', '{"settings": {}}'),
    *('{"settings": 1, "prompts": []}', '{"settings": "ab", "prompts": []}'),
]


def image(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (4, 4), (shade, 0, 0))


def photo(side: int = 64) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """A folder with two of three images."""
    store = ImageStore(tmp_path, "model", {"seed": 0, "steps": 2}, PROMPTS)
    store.open_()
    store.save(0, image(1))
    store.save(1, image(2))
    return store


def reopened(store: ImageStore, prompts: list[str] = PROMPTS, **changes: int) -> ImageStore:
    settings = {"seed": 0, "steps": 2} | changes
    return ImageStore(store.folder.parent, "model", settings, prompts)


def test_the_same_settings_continue(store: ImageStore) -> None:
    again = reopened(store)
    again.check()
    again.open_()
    assert again.missing() == [2]


@pytest.mark.parametrize("prompts", [PROMPTS[:1], [*PROMPTS, "d", "e"]])
def test_fewer_and_more_prompts_continue(store: ImageStore, prompts: list[str]) -> None:
    again = reopened(store, prompts)
    again.check()
    again.open_()
    assert again.missing() == list(range(2, len(prompts)))
    # Whoever comes next still knows the prompt of every image there is.
    known = max(PROMPTS, prompts, key=len)
    with pytest.raises(DGQError, match="holds other images"):
        reopened(store, [*known[:-1], "other"]).check()


def test_other_settings_have_another_folder(store: ImageStore) -> None:
    other = reopened(store, seed=1)
    other.check()
    other.open_()
    assert other.folder != store.folder
    assert other.missing() == [0, 1, 2]
    assert store.missing() == [2]
    jpeg = ImageStore(store.folder.parent, "model", {"seed": 0, "steps": 2}, PROMPTS, 75)
    assert jpeg.folder != store.folder


def test_other_images_are_refused_and_left_alone(store: ImageStore) -> None:
    before = sorted((p.name, p.read_bytes()) for p in store.folder.iterdir())
    with pytest.raises(DGQError, match="choose another --images"):
        reopened(store, ["a", "x", "ü"]).check()
    assert sorted((p.name, p.read_bytes()) for p in store.folder.iterdir()) == before


def test_a_manifest_of_other_settings_is_refused(store: ImageStore) -> None:
    """As where two settings had the same fingerprint."""
    file = store.folder / MANIFEST
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DGQError, match="choose another --images"):
        reopened(store).check()


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_manifest_is_refused(store: ImageStore, content: str) -> None:
    (store.folder / MANIFEST).write_text(content)
    with pytest.raises(DGQError, match="damaged"):
        reopened(store).check()


def test_something_else_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, "model", {}, PROMPTS)
    store.folder.write_text("mine")
    with pytest.raises(DGQError, match="something else"):
        store.check()
    store.folder.unlink()
    store.folder.mkdir()
    store.check()
    (store.folder / "00000.png").write_text("mine")
    with pytest.raises(DGQError, match="something else"):
        store.check()


def test_images_come_in_order_and_in_batches(store: ImageStore) -> None:
    store.save(2, image(3))
    batches = list(store.measured(2))
    assert [len(batch) for batch in batches] == [2, 1]
    shades = [i.getpixel((0, 0)) for batch in batches for i in batch]
    assert shades == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]


def test_images_of_the_published_protocol_lose_twice(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, "model", {}, ["a"], jpeg_quality=75, measured_size=32)
    store.open_()
    store.save(0, photo())
    assert store.path(0).suffix == ".jpg"
    # As BK-SDM's scripts do it with PIL alone: save, open, resize, save, open.
    saved, resized = BytesIO(), BytesIO()
    photo().save(saved, format="jpeg")
    Image.open(saved).resize((32, 32)).save(resized, format="jpeg")
    measured = next(store.measured(1))[0]
    assert np.array_equal(np.array(measured), np.array(Image.open(resized)))


@pytest.mark.parametrize("quality", [None, 75])
def test_other_programs_find_the_checksum_in_its_own_place(
    quality: int | None, tmp_path: Path
) -> None:
    store = ImageStore(tmp_path, "model", {}, ["a"], quality)
    store.open_()
    store.save(0, photo())
    with Image.open(store.path(0)) as found, Image.open(BytesIO(encoded(photo(), quality))) as bare:
        assert np.array_equal(np.array(found), np.array(bare))
        tag = found.info["comment"] if quality else b"dgq\0" + found.text["dgq"].encode()
        assert re.fullmatch(rb"dgq\0[0-9a-f]{64}", tag)


def test_png_images_are_only_resized() -> None:
    assert as_measured(photo(), None, 75).size == (64, 64)
    assert np.array_equal(as_measured(photo(), 32, None), photo().resize((32, 32)))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("part", [0, 0.2, 0.6, 0.98])
def test_a_truncated_image_is_made_again_or_an_error(
    tmp_path: Path, suffix: str, part: float
) -> None:
    quality = 75 if suffix == "jpg" else None
    store = ImageStore(tmp_path, "model", {}, PROMPTS[:2], quality)
    store.open_()
    for index in range(2):
        store.save(index, photo())
    whole = store.path(1).read_bytes()
    store.path(1).write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DGQError, match="cannot be read as an image"):
        list(store.measured(2))
    assert store.missing() == [1]


def test_a_flipped_bit_is_noticed(store: ImageStore) -> None:
    content = bytearray(store.path(1).read_bytes())
    content[-20] ^= 1  # among the compressed pixels
    store.path(1).write_bytes(content)
    assert store.missing() == [1, 2]


def test_reference_folders(store: ImageStore, tmp_path: Path) -> None:
    assert list_images(store.folder) == [store.path(0), store.path(1)]
    for name in ("missing", "x" * 300, f"{store.folder.name}/{MANIFEST}"):
        with pytest.raises(DGQError, match="is not a folder"):
            list_images(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DGQError, match="holds no image"):
        list_images(tmp_path / "empty")


def test_a_swapped_image_is_noticed(store: ImageStore) -> None:
    """Whole, readable, drawn by the same model: but not this image."""
    store.save(2, image(3))
    first, second = store.path(0).read_bytes(), store.path(1).read_bytes()
    store.path(0).write_bytes(second)
    store.path(1).write_bytes(first)
    assert store.missing() == [0, 1]
    with pytest.raises(DGQError, match=r"00000\.png .* is not as it was drawn"):
        list(store.measured(2))


def test_an_image_of_other_settings_or_prompts_is_noticed(store: ImageStore) -> None:
    for other in (reopened(store, seed=1), reopened(store, ["x", "b", "c"], seed=2)):
        other.open_()
        other.save(0, image(1))
        assert store.missing() == [2]
        content = store.path(0).read_bytes()
        store.path(0).write_bytes(other.path(0).read_bytes())
        assert store.missing() == [0, 2]
        store.path(0).write_bytes(content)


def test_an_image_saved_by_another_program_is_noticed(store: ImageStore) -> None:
    image(1).save(store.path(0))
    assert store.missing() == [0, 2]


def test_what_a_killed_process_was_writing_is_removed(store: ImageStore) -> None:
    for place in (store.path(2), store.trajectory_path(2)):
        left = place.with_name(f".{place.name}.{platform.node()}-{2**22 + 1}-abcd.partial")
        left.parent.mkdir(exist_ok=True)
        left.write_text("x")
        reopened(store).open_()
        assert not left.exists()


@pytest.mark.parametrize("content", ["[" * 10**6, '{"settings": {}, "prompts": 3}'])
def test_a_deep_or_odd_manifest_is_refused(store: ImageStore, content: str) -> None:
    (store.folder / MANIFEST).write_text(content)
    with pytest.raises(DGQError, match="damaged"):
        reopened(store).check()
