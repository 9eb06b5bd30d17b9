"""A CLIP tokenizer with a vocabulary for the captions: one token for each word."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from scenes.vocabulary import words

CONTEXT_LENGTH = 77
_END_OF_WORD = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json and merges.txt into `folder` and load them.

    A byte-level BPE like CLIP's: it encodes any text, and each word of the captions as one token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(words())
    letters = _byte_letters()
    symbols = letters + [letter + _END_OF_WORD for letter in letters]
    symbols += [first + second for first, second in merges]
    vocabulary = {symbol: index for index, symbol in enumerate([*symbols, *_SPECIAL])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        bos_token=_SPECIAL[0],
        eos_token=_SPECIAL[1],
        unk_token=_SPECIAL[1],
        pad_token=_SPECIAL[1],
        model_max_length=CONTEXT_LENGTH,
    )


def learn_merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until each word is one symbol."""
    spelled = [[*word[:-1], word[-1] + _END_OF_WORD] for word in vocabulary]
    merges: list[tuple[str, str]] = []
    while any(len(symbols) > 1 for symbols in spelled):
        pairs = Counter(pair for s in spelled for pair in pairwise(s))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_merge(symbols, best) for symbols in spelled]
    return merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def _byte_letters() -> list[str]:
    """A printable letter for each of the 256 bytes, as in GPT-2 and CLIP."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]
