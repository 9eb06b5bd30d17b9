"""Captions from tables, image folders and datasets."""

import json
from pathlib import Path
from typing import Any

import pytest

from dgq.captions.hub import is_hub_id, read_dataset
from dgq.captions.reading import read_captions
from dgq.errors import DGQError

PARTI = Path(__file__).parents[4] / "shared" / "data" / "PartiPrompts.tsv"


def test_an_image_folder_with_metadata_as_bk_sdm_has_it(tmp_path: Path) -> None:
    lines = ["file_name,text", 'a.jpg,"A dog, a ""good"" one."', "b.jpg,Two crows", "c.jpg, "]
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    expected = ['A dog, a "good" one.', "Two crows"]
    assert read_captions(tmp_path / "metadata.csv") == expected
    assert read_captions(tmp_path) == expected


def test_parti_prompts_have_quotes_that_mean_nothing(tmp_path: Path) -> None:
    lines = ["Prompt\tCategory\tNote", '"Hi\tArts\t', 'a sign: "Hi\tArts\t', "NA\tAbstract\tx"]
    (tmp_path / "parti.tsv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert read_captions(tmp_path / "parti.tsv") == ['"Hi', 'a sign: "Hi', "NA"]


@pytest.mark.skipif(not PARTI.is_file(), reason="PartiPrompts are not on this machine")
def test_real_parti_prompts_are_read() -> None:
    captions = read_captions(PARTI)
    assert len(captions) == 1632
    assert captions[0] == "bond"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other.csv", "image,label\na.jpg,3\n", "it has image, label; expected one of text"),
        ("empty.csv", "", "it has no header"),
        ("headless.tsv", "a dog\nb cat\n", "no column of captions"),
        ("cut.csv", "file_name,text\na.jpg\n", "row 2 of .* has no text"),
        ("quote.csv", 'text\n"never closed\n', "is not a table"),
        ("blank.csv", "text\n \n", "holds no captions"),
        ("coco.csv", json.dumps({"annotations": []}), "no column of captions"),
    ],
)
def test_tables_without_captions_are_refused_by_name(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DGQError, match=message) as error:
        read_captions(tmp_path / name)
    assert name in str(error.value)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset of two splits, as the hub would have it; one caption is a list."""
    folder = tmp_path / "owner" / "captions"
    folder.mkdir(parents=True)
    for split, captions in {"train": ["a"], "test": ["b", "c"]}.items():
        lines = [json.dumps({"id": i, "Caption": [c, "x"]}) for i, c in enumerate(captions)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def hub(dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that has it: ``datasets`` itself loads it, from its folder."""
    import datasets

    load = datasets.load_dataset

    def from_folder(name: str) -> Any:
        if name != "owner/captions":
            raise FileNotFoundError(name)
        return load(str(dataset), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path / "owner")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("source", "captions"),
    [
        ("owner/captions", ["b", "c"]),
        ("owner/captions:train", ["a"]),
        ("owner/captions:test:caption", ["b", "c"]),
    ],
)
def test_a_dataset_of_the_hub(source: str, captions: list[str]) -> None:
    assert read_captions(source) == captions


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("owner/captions:dev", "has no split dev, but train, test: name them as"),
        ("owner/captions:test:text", "has no column text, but id, Caption"),
        ("owner/captions:test:id", "column id of owner/captions holds int, not captions"),
        ("owner/missing", r"nor can it be had as a dataset \(FileNotFoundError\)"),
    ],
)
def test_what_a_dataset_does_not_have(source: str, message: str) -> None:
    with pytest.raises(DGQError, match=message) as error:
        read_captions(source)
    assert "\n" not in str(error.value)


def test_a_folder_is_read_without_asking_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name; that of a dataset would have its split after a colon."""
    import datasets

    folder = tmp_path / "captions:train"
    folder.mkdir()
    table = datasets.Dataset.from_dict({"text": ["a dog"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {name: table})
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: pytest.fail("asked"))
    assert read_dataset(str(folder), ["text"]) == ["a dog"]


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(DGQError, match=r"ConnectionError.*hf download --repo-type dataset"):
        read_dataset("owner/name", ["text"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("owner/name", True),
        ("owner/name:test:text", True),
        ("owner/na.me-1", True),
        ("name", False),
        ("folder/captions.txt", False),
        ("folder/captions.JSON", False),
        ("/absolute/path", False),
        ("a/b/c", False),
    ],
)
def test_what_can_be_a_hub_id(source: str, expected: bool) -> None:
    assert is_hub_id(source) == expected


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DGQError, match="the folder is empty"):
        read_captions(tmp_path)
