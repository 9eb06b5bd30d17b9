"""The tokenizer knows the captions' words, and can still spell anything else."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from scenes.training.tokenizer import CONTEXT_LENGTH, build_tokenizer, learn_merges
from scenes.vocabulary import words


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_every_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in words():
        assert len(tokenizer(word)["input_ids"]) == 3


def test_other_words_are_spelled(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("zebra ünï")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "zebra ünï"


def test_padding_is_the_end_token(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("", padding="max_length")["input_ids"]
    assert len(ids) == CONTEXT_LENGTH == tokenizer.model_max_length
    assert ids == [tokenizer.bos_token_id] + [tokenizer.eos_token_id] * (CONTEXT_LENGTH - 1)


def test_files_are_written(tmp_path: Path) -> None:
    build_tokenizer(tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} >= {
        "vocab.json",
        "merges.txt",
    }


def test_merges_prefer_frequent_pairs() -> None:
    assert learn_merges(["ab", "xab"]) == [("a", "b</w>"), ("x", "ab</w>")]
