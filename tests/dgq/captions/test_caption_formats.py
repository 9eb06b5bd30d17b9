"""A format is known by its content or named by the user, and nothing is cut or lost uncounted."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgq.captions.reading import read_captions
from dgq.errors import DGQError

COCO = '{"annotations": [{"image_id": 1, "caption": "a dog"}]}'

READ = {
    "a.txt": "a dog\n",
    "a.TXT": "a dog",
    "a.json": COCO,
    "a.JSON": COCO,
    "b.json": '{"text": "a dog"}\n{"text": " "}\n',  # as datasets writes it
    "a.jsonl": '{"file_name": "1.png", "text": "a dog"}\n \n',
    "a.JsonL": '{"Caption": ["a dog", "a hound"]}',
    "a.ndjson": '{"prompt": "a dog"}',
    "a.csv": "file_name,text\n1.png,a dog\n",
    "A.CSV": "Text\na dog",
    "spaces.csv": "id, text\n1,a dog\n",
    "returns.csv": "text\ra dog\r",
    "a.tsv": "Prompt\tNote\na dog\tx\n",
    "P.TSV": "Prompt\r\na dog\r\n",
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_formats_in_any_spelling_and_encoding(name: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(READ[name].encode(encoding))
    assert read_captions(tmp_path / name) == ["a dog"]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_an_image_folder_has_its_captions_in_metadata(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # which `pip install .` does not bring
    (tmp_path / name).write_text(READ["a" + Path(name).suffix])
    assert read_captions(tmp_path) == ["a dog"]


REFUSED: dict[str, tuple[bytes, str]] = {
    "a.parquet": (b"PAR1\x15\x04\x15PAR1", "Parquet"),
    "b.parquet": (b"a dog\n", "does not say what is in it"),
    "a.html": (b"<p>a dog</p>", "does not say what is in it"),
    "a.yaml": (b"- a dog", "does not say what is in it"),
    "captions": (b"a dog\n", "without suffix"),
    "page.txt": (b"<!DOCTYPE html><p>a dog</p>", "a web page"),
    "coco.txt": (COCO.encode(), "name it .json"),
    "lines.txt": (b'{"text": "a dog"}\n{"text": "a cat"}\n', "name it .json or .jsonl"),
    "list.txt": (b'["a dog"]', "name it .json"),
    "table.txt": (b"file_name,text\n1.png,a dog\n", "name it .csv"),
    "tabs.txt": (b"Prompt\tNote\na dog\tx\n", "name it .csv or .tsv"),
    "column.txt": (b"Caption\na dog\na cat\n", "a table .*with a header"),
    "semicolons.txt": (b"id;caption\n1;a dog\n", "name it .csv"),
    "bars.txt": (b"\nimage | text\n1 | a dog\n", "name it .csv"),
    "flickr.txt": (b"1.jpg#0\ta dog\n \n1.jpg#1\ta hound\n", "a table .*with a header"),
    "quoted.txt": (b'"a dog"\n"a cat"\n', "JSON texts"),
    "word.txt": (b"{\\rtf1\\ansi a dog}", "RTF"),
    "gz.txt": (b"\x1f\x8b\x08\x00", "compressed"),
    "zip.csv": (b"PK\x03\x04", "zipped"),
    "latin.txt": ("a café\n".encode("latin-1"), "no utf-8"),
    "half.txt": (b"\xff\xfea\x00 ", "no utf-16"),
    "binary.txt": (b"a\0b", "binary"),
    "deep.json": (b"[" * 10**6, "nested too deeply"),
    "deep.jsonl": (b"[" * 10**6, "not a JSON object"),
    "surrogate.json": (COCO.replace("a dog", "\\ud800").encode(), "surrogate"),
    "surrogate.jsonl": (b'{"text": "a"}\n{"text": "\\udfff dog"}', "caption 2 of .*surrogate"),
    "string.jsonl": (b'"a dog"', "line 1 of .* is not a JSON object"),
    "no.jsonl": (b'{"text": "a"}\n{"txt": "b"}', "line 2 of .* has no caption: it has txt"),
    "number.jsonl": (b'{"text": 5}', "text is int, not a caption"),
    "list.jsonl": (b'{"text": []}', "text is list, not a caption"),
    "comma.csv": (b"file,text\n1,a dog, big\n", "more cells than the header"),
    "twice.csv": (b"text,text\na,b\n", "several columns text"),
    "tab.csv": (b"Prompt\tNote\na dog\tx\n", "no column of captions"),
    "unhashable.json": (b'{"annotations": [{"image_id": [], "caption": "a"}]}', "COCO's format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_of_another_format_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DGQError, match=message) as caught:
        read_captions(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a dog, a cat\ntext\n",
        "text\n",
        "a\tdog\na cat\n",
        '"Stop"\na dog\n',
        "caption; a dog\n",
        "text, a dog\na cat\n",
    ],
)
def test_lines_that_only_resemble_a_table_are_captions(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read_captions(tmp_path / "a.txt") == text.splitlines()


def test_what_is_here_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name such as owner/captions may be either."""
    monkeypatch.setattr("dgq.captions.reading.read_dataset", lambda *_: pytest.fail("looked for"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "captions").mkdir(parents=True)
    (tmp_path / "owner" / "captions" / "metadata.csv").write_text(READ["a.csv"])
    assert read_captions("owner/captions") == ["a dog"]
    (tmp_path / "owner" / "file").write_text("a dog\n")
    with pytest.raises(DGQError, match="without suffix"):
        read_captions("owner/file")


@pytest.mark.parametrize("name", ["a.CSV", "sub/captions.JSONL", "own/a.parquet", "x" * 3000])
def test_a_missing_file_is_no_dataset(name: str, tmp_path: Path) -> None:
    with pytest.raises(DGQError, match="does not exist"):
        read_captions(tmp_path / name)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DGQError, match="not a regular file"):
        read_captions(tmp_path / "a.txt")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\na dog\n \nb cat\n  \n")
    notes: list[str] = []
    assert read_captions(tmp_path / "a.csv", notes) == ["a dog", "b cat"]
    assert notes == [f"captions: 2 of {tmp_path / 'a.csv'} are blank and left out"]


@pytest.mark.parametrize("name", sorted(READ.keys() - {"b.json"}))
def test_where_nothing_is_left_out_nothing_is_noted(name: str, tmp_path: Path) -> None:
    """The end of the last line is not one more, blank caption."""
    (tmp_path / name).write_text(READ[name])
    notes: list[str] = []
    read_captions(tmp_path / name, notes)
    assert notes == []


one_line = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=12
).filter(lambda text: text.strip() and not text.lstrip().startswith(("{", "[", "<", "\ufeff")))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(captions=st.lists(one_line, min_size=1, max_size=4))
def test_captions_come_back_whole_whatever_is_in_them(captions: list[str], tmp_path: Path) -> None:
    """Form feeds, U+0085, U+2028 and all others: only an end of line ends a line."""
    expected = [caption.strip() for caption in captions]
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("\n".join(["a first line", *captions]), encoding="utf-8", newline="")
    assert read_captions(text)[1:] == expected
    content = "\n".join(json.dumps({"text": c}, ensure_ascii=False) for c in captions)
    lines.write_text(content, encoding="utf-8", newline="")
    assert read_captions(lines) == expected
    table = tmp_path / "a.csv"
    quoted = ["text"] + ['"' + caption.replace('"', '""') + '"' for caption in captions]
    table.write_text("\r\n".join(quoted), encoding="utf-8", newline="")
    assert read_captions(table) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), suffix=st.sampled_from(["txt", "json", "jsonl", "csv", "x"]))
def test_whatever_is_in_a_file_it_is_read_or_refused(
    content: bytes, suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(content)
    with suppress(DGQError):
        for caption in read_captions(file):
            caption.encode()
