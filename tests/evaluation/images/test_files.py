"""Images of any bit depth as they are, folders counted to the last entry, tags to the last bit."""

import os
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dgq.errors import DGQError
from evaluation.images.files import encoded, list_images, read_image, to_images, to_tensor
from evaluation.images.tag import is_intact, tagged

GREY16 = np.linspace(0, 65535, 4096).reshape(64, 64).round().astype(np.uint16)
EXPECTED = (GREY16 / 257).round().astype(np.uint8)


def grey(dtype: str) -> Image.Image:
    return Image.fromarray(GREY16.astype(dtype))


def photo(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_pixels_come_back_from_images_and_others_are_clipped_and_rounded() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    images = [Image.fromarray(levels), photo()]
    pixels = to_tensor(images)
    assert pixels.shape == (2, 3, 16, 16)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert [np.array(i).tolist() for i in to_images(pixels)] == [
        np.array(i).tolist() for i in images
    ]
    odd = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.5]).view(5, 1, 1, 1)
    found = [image.getpixel((0, 0)) for image in to_images(odd.expand(5, 3, 1, 1))]
    assert [shade for shade, _, _ in found] == [0, 0, 1, 254, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled_to_8(name: str, tmp_path: Path) -> None:
    grey("uint16").save(tmp_path / name)
    found = np.array(read_image(tmp_path / name))
    assert found.shape == (64, 64, 3)
    assert np.array_equal(found[..., 0], EXPECTED)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_8_bits_stay_as_they_are(mode: str, tmp_path: Path) -> None:
    image = photo().convert(mode)
    image.save(tmp_path / "a.png")
    assert np.array_equal(np.array(read_image(tmp_path / "a.png")), np.array(image.convert("RGB")))


def animation(path: Path) -> None:
    photo(0).save(path, save_all=True, append_images=[photo(1)], format="gif")


def flipped(path: Path) -> None:
    """A PNG with a wrong checksum of its pixels, which decoding alone does not look at."""
    content = bytearray(encoded(photo()))
    content[-13] ^= 1  # the last byte before the chunk that ends the file
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


UNREADABLE: dict[str, Callable[[Path], None]] = {
    "32 bits without a white": lambda p: grey("float32").save(p, format="tiff"),
    "32 bit integers": lambda p: grey("int32").save(p, format="tiff"),
    "an animation": animation,
    "a flipped bit": flipped,
    "text": lambda p: p.write_text("a dog") and None,
    "a pipe": pipe,
    "nothing": lambda p: None,
    "a folder": lambda p: p.mkdir(),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_picture_of_known_scale_is_refused_by_name(name: str, tmp_path: Path) -> None:
    UNREADABLE[name](tmp_path / "a.png")
    with pytest.raises(DGQError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_all_of_a_folder_is_used_or_counted_and_named(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "gif", "tiff", "bmp", "webp"):
        photo().save(tmp_path / f"a.{suffix.upper()}")
    photo().save(tmp_path / "unnamed", format="png")
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "captions.csv").write_text("x")
    (tmp_path / "cats").mkdir()
    photo().save(tmp_path / "cats" / "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    notes: list[str] = []
    assert len(list_images(tmp_path, notes)) == 7
    assert notes == [
        f"references: 4 entries of {tmp_path} are not images and were left out, folders included: "
        ".DS_Store, captions.csv, cats, ..."
    ]


def test_a_folder_of_folders_says_so(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    with pytest.raises(DGQError, match=r"holds no image .*, but cats, which are not looked into"):
        list_images(tmp_path)


def test_names_that_are_no_text_are_named_all_the_same(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    (tmp_path / os.fsdecode(b"\xff.csv")).write_text("x")
    notes: list[str] = []
    list_images(tmp_path, notes)
    assert notes[0].encode().endswith(b"\\udcff.csv")


@pytest.mark.parametrize("quality", [None, 75])
@given(data=st.data())
def test_a_tag_is_broken_by_any_change_and_by_another_image(
    quality: int | None, data: st.DataObject
) -> None:
    bare = encoded(photo(), quality)
    content = tagged(bare, "model 3 a dög")
    assert is_intact(content, "model 3 a dög")
    assert not is_intact(content, "model 4 a dög")
    assert not is_intact(bare, "model 3 a dög")
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    assert not is_intact(bytes(changed), "model 3 a dög")
    assert not is_intact(content[:place], "model 3 a dög")


@pytest.mark.parametrize("quality", [None, 75])
def test_a_tag_changes_no_pixel(quality: int | None) -> None:
    bare = encoded(photo(), quality)
    with Image.open(BytesIO(bare)) as a, Image.open(BytesIO(tagged(bare, "x"))) as b:
        assert np.array_equal(np.array(a), np.array(b))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_in_a_file_it_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(encoded(photo(), data.draw(st.sampled_from([None, 75]))))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(DGQError):
        read_image(tmp_path / "a")
